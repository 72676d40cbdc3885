package accounting

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"airgate/accounting/money"
)

// Resource is what a limit counts.
type Resource uint8

// The resources. A budget counts USD in nano-USD.
const (
	USD Resource = iota + 1
	Tokens
	Requests
	Concurrent
)

// String returns the word of record field limits[].resource.
func (r Resource) String() string {
	return word([]string{"", "usd", "tokens", "requests", "concurrent"}, r)
}

// Dimension is one property of a Subject that a limit can match or split by.
type Dimension uint8

// The dimensions.
const (
	Team Dimension = iota + 1
	Key
	Purpose
	Provider
	Model
	User
	Session
)

func dimensionWords() []string {
	return []string{"", "team", "key", "purpose", "provider", "model", "user", "session"}
}

// String returns the word of the configuration.
func (d Dimension) String() string { return word(dimensionWords(), d) }

func parseDimension(text string) (Dimension, bool) {
	i := slices.Index(dimensionWords(), text)
	return Dimension(max(i, 0)), i > 0 // i is at most Session
}

// Subject is who a call is charged to. The slices and maps are shared and
// read-only. Provider and Model are those of the target, Model its canonical
// name; both are empty before the model is known.
type Subject struct {
	Teams    []string // own team first, then its parents up to the root
	KeyID    string
	KeyName  string
	Purpose  string
	Provider string
	Model    string
	User     string // keyed hash
	Session  string // keyed hash
	Tags     map[string]string
}

// Match says which subjects a limit applies to. All given fields must match;
// a field matches if any of its patterns does. A pattern is a literal or a
// glob with *. Team matches descendants too.
type Match struct {
	Team, Key, Purpose, Provider, Model, User, Session []string
	Tags                                               map[string][]string
}

// Mode says whether a limit refuses or only records would_deny.
type Mode uint8

// The modes.
const (
	Enforce Mode = iota
	Shadow
)

// String returns the word of the configuration.
func (m Mode) String() string { return word([]string{"enforce", "shadow"}, m) }

// WindowKind is a calendar window.
type WindowKind uint8

// The calendar windows. Weeks begin on Monday.
const (
	NoWindow WindowKind = iota // rates and concurrency
	Day
	Week
	Month
	Quarter
	Year
	Total
)

func windowWords() []string {
	return []string{"", "day", "week", "month", "quarter", "year", "total"}
}

// String returns the word of the configuration.
func (k WindowKind) String() string { return word(windowWords(), k) }

func parseWindowKind(text string) (WindowKind, bool) {
	i := slices.Index(windowWords(), text)
	return WindowKind(max(i, 0)), i > 0 // i is at most Total
}

// Override gives some subjects another amount; with an empty For, all of them.
// The most specific For of those that are not over wins; of two for the same,
// the one that ends sooner.
type Override struct {
	For    Match
	Amount int64
	Until  time.Time // the first instant it no longer holds; zero = for good
	By     string    // who agreed to it
	Reason string
	// Overlay is the id of the overlay's entry that it is, whose record is its
	// own; "" = it stands in the configuration.
	Overlay string
}

// OnStoreDown says what becomes of a call that needs the shared store while it
// does not answer: it is refused, unless.
type OnStoreDown struct {
	Allow  bool          // not of a budget: it passes
	Within money.NanoUSD // of a budget: all replicas together may hold so much beyond what they have in hand
}

// Threshold is a share of a budget at which somebody is to be told, once per
// account and window.
type Threshold struct {
	Percent  int  // of the limit, 1 to 1000
	Forecast bool // of what the window will have cost at its end, as far as can be told, not of what is spent
}

const forecastOf = "forecast "

// String is the threshold as in the configuration: "80%", "forecast 100%".
func (t Threshold) String() string {
	share := strconv.Itoa(t.Percent) + "%"
	if t.Forecast {
		return forecastOf + share
	}
	return share
}

// Limit is one entry of budgets or limits, as configured.
type Limit struct {
	Name     string
	Resource Resource
	Match    Match
	Each     []Dimension // split into one account per combination of values; empty = one account

	Amount int64          // nano-USD for USD, else plain units per Per
	Window WindowKind     // of a budget, or of a token or request limit in calendar windows
	Zone   *time.Location // of the window; nil = UTC
	Per    time.Duration  // period of a rate
	Burst  int64          // capacity of a rate; 0 = one period's worth for tokens, one second's for requests (at least 1)

	// ClampFloor lets the output cap of a call that does not fit a budget be
	// lowered, but not below so many tokens; 0 = it is refused.
	ClampFloor money.Tokens

	OnStoreDown OnStoreDown
	WarnAt      []Threshold // of a budget

	// Sliced lets a budget hold a streamed call in parts, more of them as its
	// output comes (Ledger.Extend), where every enforced budget of the call does.
	Sliced bool

	// Expected lets a budget hold what a call is expected to cost in place of its
	// worst case (Need.Expected), where every budget of the same accounts does. Its
	// spending may pass the amount, by what calls in flight can cost beyond it.
	Expected bool

	Mode         Mode
	BudgetStatus int // HTTP status of budget_exhausted and budget_insufficient; 0 = 402
	Owner        string
	MaxAccounts  int // 0 = 10,000 for user and session
	Overrides    []Override
	Where        string // file:line
}

// Need is what Reserve holds for one call: its worst case, and what it is expected
// to cost for budgets that hold that.
type Need struct {
	USD      money.NanoUSD // ĉ
	Expected money.NanoUSD // at most USD; 0 = nobody knows: USD
	Tokens   money.Tokens  // for token limits: input estimate + expected output
}

// expected is what budgets hold that hold what is expected.
func (n Need) expected() money.NanoUSD { return cmp.Or(n.Expected, n.USD) }

// Code says why a reservation was refused.
type Code uint8

// The codes, in words of design section 7.
const (
	OK Code = iota
	RateLimited
	ConcurrencyLimited
	BudgetExhausted    // the window's money is spent
	BudgetInsufficient // the worst case does not fit what is left
	BudgetBusy         // it fits once calls in flight settle
	BudgetMissing      // no enforced budget covers the call and unbudgeted is deny
	QuotaUnavailable
)

// String returns the code's word of design section 7.
func (c Code) String() string {
	return word([]string{
		"ok", "rate_limited", "concurrency_limited", "budget_exhausted", "budget_insufficient",
		"budget_busy", "budget_missing", "quota_unavailable",
	}, c)
}

func word[T ~uint8](words []string, v T) string {
	if int(v) < len(words) {
		return words[v]
	}
	return fmt.Sprintf("%T(%d)", v, v)
}

// Refusal says which limit refused a call and with what figures. Money in
// nano-USD for USD limits, else plain units.
type Refusal struct {
	Code       Code
	Limit      *Limit
	Account    string
	Used       int64
	Reserved   int64
	Amount     int64 // of the limit for this account
	Needed     int64
	Worst      int64         // what the call can need, if Needed is what was expected; else 0
	Reset      time.Time     // end of the window; zero for rates
	RetryAfter time.Duration // when it is worth another try; 0 = do not retry
}
