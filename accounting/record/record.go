// Package record is the shape of the book: one event, one JSON object, the
// same columns in SQL. It answers: what does the audit trail say happened.
//
// No body, prompt, key or credential is ever in a record; user and session
// are keyed hashes.
//
// A record has exactly one encoding, AppendJSON's: the journal chains it by
// SHA-256 and every sink can make it again from its columns. What that encoding
// cannot hold does not survive it: a time keeps its millisecond and becomes
// UTC, a duration is rounded up to whole milliseconds (so that what was
// measured is never absent), text that is not UTF-8 gets U+FFFD, and an empty
// slice or map, or a Type or Source out of its set, is absent.
package record

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"airgate/accounting/money"
	"airgate/accounting/usage"
)

// Type tells records apart.
type Type uint8

// The types.
const (
	Intent Type = iota + 1 // written before the provider can see the request
	Settle                 // written as the answer ends
	Deny                   // a refusal
	Adjust                 // a later correction of a settlement
	Admin                  // a change made by an operator, or what one has to know
	Start                  // a writer began; names the earlier writers and their heads
	Extend                 // a call in flight holds more than its intent says: Reserved, in all
)

// String is the type's name in the book.
func (t Type) String() string {
	switch t {
	case Intent:
		return "intent"
	case Settle:
		return "settle"
	case Deny:
		return "deny"
	case Adjust:
		return "adjust"
	case Admin:
		return "admin"
	case Start:
		return "start"
	case Extend:
		return "extend"
	}
	return fmt.Sprintf("Type(%d)", uint8(t))
}

// ParseType is the opposite of String.
func ParseType(s string) (Type, error) {
	for t := Intent; t <= Extend; t++ {
		if t.String() == s {
			return t, nil
		}
	}
	return 0, fmt.Errorf("unknown record type %q", s)
}

// Hash is a SHA-256 sum.
type Hash [32]byte

// Sum is the hash of a record's canonical JSON: what the next record of the
// same writer has as Prev.
func Sum(canonical []byte) Hash { return sha256.Sum256(canonical) }

// String is the hash in lower-case hexadecimal.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Limit is one budget or limit that was checked for a call, with its values
// at the moment of the decision. Money in USD, the rest in its own unit.
type Limit struct {
	Name     string    // of the config entry
	Account  string    // resource + match + each + window + zone: what the use is booked on
	Resource string    // usd | tokens | requests | concurrent
	Limit    int64     // nano-USD for usd, else plain
	Used     int64     // settled before this call
	Reserved int64     // held by other calls in flight
	Needed   int64     // held for this call
	Worst    int64     // what it can need, where a budget holds what is expected; 0 = Needed
	Reset    time.Time // end of the window; zero for rates and concurrency
	Mode     string    // enforce | shadow
}

// Attempt is one try at a provider, as Envoy's access log saw it.
type Attempt struct {
	Provider string
	Status   int
	Flags    string
}

// Head names the last record of a writer. The zero Head means none.
type Head struct {
	Writer string
	Seq    uint64
	Hash   Hash // Sum of that record
}

// Record is one event. A zero field is absent (null). Seq, Writer and Prev are
// set by the journal as it appends.
type Record struct {
	Type   Type
	Seq    uint64 // gap-free per writer, from 1
	Writer string // replica.incarnation
	Prev   Hash   // Sum of the writer's record before this one; zero for the first
	Time   time.Time

	RequestID     string // UUIDv7
	KeyID         string
	KeyName       string
	Team          string
	TeamPath      string // root/…/team
	CostCenter    string
	Tags          map[string]string
	Purpose       string
	PurposeSource string // key | header | team | default
	User          string
	UserSource    string // header | …
	Session       string

	Endpoint       string // "POST /v1/chat/completions"
	Dialect        string
	Stream         bool
	ModelRequested string
	Model          string // canonical name of the target
	Provider       string
	ModelServed    string
	PriceID        string

	Decision   string // allow | deny | none
	Code       string
	Rule       string   // that decided; of a budget's warning, its threshold
	WouldDeny  []string // "limit:sonnet", "rule:eu-only": what shadow mode would have refused
	Limits     []Limit
	ConfigHash string
	Store      string // "down": the quota store had not answered as it was last asked; "" = it had

	Cap         money.Tokens // of output, per choice, that airgate set or lowered; 0 = it did neither
	Reserved    money.NanoUSD
	Cost        money.NanoUSD // of an Adjust: the difference, with its sign; so are Tokens
	HasCost     bool          // false = not priced or not yet known, true with Cost 0 = free
	Tokens      usage.Tokens
	HasTokens   bool
	UsageSource usage.Source

	Class          string
	Family         string
	Status         int
	UpstreamStatus int
	Attempts       []Attempt
	TTFT           time.Duration
	Duration       time.Duration
	Cut            string // why airgate ended the answer before its end: budget, journal, provider

	Count  int64  // of an aggregated refusal of strangers
	Source string // network of aggregated refusals
	Cause  string // why a stream ended uncleanly, from Envoy's access log
	Detail string // Admin, Adjust: what was done and why; Deny: what Rule says; never secret
	Heads  []Head // Start: every known earlier writer; Seq 0 = still running, so nothing is claimed about it
}
