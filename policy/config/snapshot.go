package config

import (
	"net/url"
	"slices"
	"time"

	"airgate/accounting"
	"airgate/accounting/journal"
	"airgate/accounting/money"
	"airgate/policy"
	"airgate/processor/dialect"
)

// Kind is an owner's part of the configuration.
type Kind string

// The kinds, in the order of their owners in the guide.
const (
	Platform   Kind = "Platform" // providers, models and how airgate itself runs
	PolicyKind Kind = "Policy"   // teams, purposes, rules
	Limits     Kind = "Limits"   // rates and concurrency
	Finance    Kind = "Finance"  // budgets and prices
	Keys       Kind = "Keys"     // virtual keys, as hashes
)

// Defaults of settings that no file gives.
const (
	DefaultMaxBodyBytes       = 33_554_432 // inclusive; design section 7
	DefaultMaxTokensPerSecond = 1_000      // design section 4, ends without usage
	DefaultStoreDeadline      = 50 * time.Millisecond
)

// Snapshot is one compiled configuration. It is immutable: readers share it
// without a lock, and a request keeps the one it began with.
type Snapshot struct {
	// Hash is the SHA-256 over the sorted names and the contents of all files,
	// 64 hexadecimal digits. Replicas with the same files have the same Hash,
	// wherever they are mounted.
	Hash     string
	Sources  []string  // the files, sorted, as problems name them
	Loaded   time.Time // the now of Load
	Kinds    []Kind    // the kinds with at least one section, in the order of the constants
	Warnings []Problem // what is allowed and probably not meant, sorted; never an error

	Providers []Provider // sorted by name
	Policy    *policy.Policy
	Limits    *accounting.Table     // budgets and limits
	Prices    *accounting.Catalogue // the built-in one with the overrides of Finance over it

	MaxBodyBytes       int64 // largest request body, inclusive
	MaxTokensPerSecond int64 // what a provider can generate at most, for answers that end without usage

	// Shadow is enforcement: shadow. Policy and Limits are compiled with it
	// already; who answers for a check of his own (unpriced, unbounded cost)
	// asks here.
	Shadow          bool
	AllowUnbudgeted bool // a call that no enforced budget covers passes
	AllowUnpriced   bool // a call of a model without a price passes, recorded as unpriced

	// OverlayFile is where the overlay of this machine is; relative to the data
	// directory unless absolute, "" = where it usually is.
	OverlayFile string
	// Laid is the overlay that this is compiled with, sorted by id; nil in what
	// Load returns.
	Laid []Laid

	Quota    Quota
	Journal  Journal
	Sinks    []Sink // sorted by name; none = the journal alone keeps the records
	Requires []Kind
	HasKeys  bool // false: every caller is refused, and someone should be told how to make a key

	terms    map[string]terms // :: canonical model name → what a call of it costs at most
	index    map[string]int   // :: provider name → place in Providers
	sections *sections        // what it was compiled from, for View and With
	outages  []Outage         // for View
}

// Provider is how a provider is reached. Package envoy/xds turns it into
// clusters and routes; no secret is in it.
type Provider struct {
	Name    string
	Dialect dialect.Name
	// URL is scheme, host, optional port and a path without trailing slash that
	// every upstream path begins with; never userinfo, query or fragment.
	URL            *url.URL
	CredentialFile string // absolute path of the raw credential, read by Envoy; or
	CredentialEnv  string // the variable of Envoy's process that holds it: exactly one is set
	Header         string // that carries the credential, lower case; by dialect unless overridden
	Prefix         string // before the credential in Header, with its space: "Bearer "
	Insecure       bool   // plain http beyond loopback is meant
	CAFile         string // authorities that may vouch for the provider; "" = the system's
	Tags           map[string]string
	Exclusive      []string // teams that alone use this provider account; nil = shared
	Region         string   // where calls are inferred, if that is billed apart; "" = not
	ServiceTier    string   // of calls that name none; "" = the standard one

	ConnectTimeout time.Duration // 0 = envoy/xds decides
	IdleTimeout    time.Duration // longest silence within an answer; 0 = envoy/xds decides
}

// Quota is where the shared quota state lives. Only Store and Replicas are set
// of a store in memory.
type Quota struct {
	Store string // "memory", "redis" or "valkey"
	// URL names one server, the sentinels of one, or some nodes of a cluster; it
	// holds neither user nor password:
	//
	//	redis://host[:port][/db]
	//	redis+sentinel://host[:port],host[:port]/master[?db=N]
	//	redis+cluster://host[:port],host[:port]
	//
	// and the same with rediss for TLS.
	URL                  string
	Username             string        // of an ACL user; "" = the default one
	PasswordFile         string        // absolute path of the raw password, a line end behind it does not count; "" = none
	SentinelPasswordFile string        // the same of the sentinels, which are in URL
	CAFile               string        // absolute path of the authorities that may vouch for the hosts, in PEM, of a URL with TLS; "" = the system's
	Deadline             time.Duration // of one call of the store, > 0
	Replicas             int           // the most airgates there can be at once; 0 = the config does not say
}

// Shared says whether several airgates count on the same store.
func (q Quota) Shared() bool { return q.Store != "memory" }

// Journal is how the write-ahead book is kept.
type Journal struct {
	Durability journal.Durability
}

// Sink is a place the book is shipped to.
type Sink struct {
	Name string
	Type string // "sqlite"
	Path string // of the database; relative to the data directory unless absolute
}

// ModelTerms is what a call of one canonical model costs at most. The zero
// value is that of a model that is not in the configuration.
type ModelTerms struct {
	// Price is the row in force, nil if there is none: then the call is
	// model_unpriced unless AllowUnpriced.
	Price *accounting.Price
	// Overridden says that Price is this configuration's own: it holds whatever
	// dated name the provider says has served.
	Overridden bool
	MaxOutput  money.Tokens // the most the provider generates in one answer; never 0
	Context    money.Tokens // the most it reads; 0 = not known
	// Overhead is what the provider may count as input beyond the bytes of the
	// body, where that is more than its dialect's own allowance.
	Overhead money.Tokens
}

type terms struct {
	vendor, upstream             string
	maxOutput, context, overhead money.Tokens
}

// Model returns the terms of a canonical model name for a call admitted at at:
// prices are dated.
func (s *Snapshot) Model(canonical string, at time.Time) ModelTerms {
	t, ok := s.terms[canonical]
	if !ok {
		return ModelTerms{}
	}
	out := ModelTerms{MaxOutput: t.maxOutput, Context: t.context, Overhead: t.overhead}
	if p, ok := s.Prices.Price(t.vendor, t.upstream, at); ok {
		out.Price, out.Overridden = p, p.Source == overrideSource
	}
	return out
}

// Provider returns the provider of that name, or nil.
func (s *Snapshot) Provider(name string) *Provider {
	i, ok := s.index[name]
	if !ok {
		return nil
	}
	return &s.Providers[i]
}

// Has says whether the configuration holds anything of kind k.
func (s *Snapshot) Has(k Kind) bool { return slices.Contains(s.Kinds, k) }

// ShortHash is the first 12 digits of Hash, for people.
func (s *Snapshot) ShortHash() string { return s.Hash[:min(12, len(s.Hash))] }
