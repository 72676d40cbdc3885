// Package policy answers: who may call what, on what terms. It is pure: no
// clock, no I/O, no money. A Policy is compiled once from config and shared
// by all requests that began under it.
//
// Start reading at Evaluate: model, purpose, then the rules on each target.
// Explain is the same walk with its reasons.
//
// # Rules
//
// A rule's When is a CEL expression of type bool (https://cel.dev) over
//
//	team      name, path, owner, costCenter, tags
//	key       id, name
//	model     name (canonical, of the target), requested (as the caller wrote it)
//	provider  name, tags
//	purpose, endpoint, dialect, user, session       strings
//	stream, tools                                   bools
//	maxOutputTokens (the caller's cap; 0 = none), bodyBytes   ints
//
// A tag is team.tags.region or team.tags["region"]; a missing one is "".
// Objects and tags are not values: they can be selected from, and "region" in
// team.tags asks whether a tag is set, and no more. Macros (has, all, exists,
// map, filter) do not exist, so that no rule loops; matches takes a literal
// pattern. Expressions of ==, !=, in, &&, ||, !, startsWith and comparisons of
// ints over fields and literals are evaluated without CEL's runtime and without
// allocation.
package policy

// Code says why policy refused. OK is the zero value. The texts are those of
// design section 7.
type Code uint8

// The codes.
const (
	OK Code = iota
	KeyMissing
	KeyUnknown
	KeyRevoked
	KeyExpired
	ModelUnknown
	ModelDenied
	PurposeRequired
	PurposeUnknown
	PurposeDenied
	RuleDenied
)

// String is the code as callers, records and metrics see it: "model_denied".
// OK is "ok".
func (c Code) String() string {
	switch c {
	case OK:
		return "ok"
	case KeyMissing:
		return "key_missing"
	case KeyUnknown:
		return "key_unknown"
	case KeyRevoked:
		return "key_revoked"
	case KeyExpired:
		return "key_expired"
	case ModelUnknown:
		return "model_unknown"
	case ModelDenied:
		return "model_denied"
	case PurposeRequired:
		return "purpose_required"
	case PurposeUnknown:
		return "purpose_unknown"
	case PurposeDenied:
		return "purpose_denied"
	case RuleDenied:
		return "rule_denied"
	default:
		panic("policy: String of a Code that does not exist")
	}
}

// Team is a compiled team with what it inherits resolved. It is shared and
// read-only.
type Team struct {
	Name       string
	Path       string   // root/…/name
	Lineage    []string // own name first, then parents up to the root
	Owner      string
	CostCenter string
	Tags       map[string]string

	parent         *Team
	allowed        []uint64 // :: entry index → targets that this team's own list allows, whatever its parents say
	plan           []uint64 // :: entry index → targets that the team and all its parents allow
	purposes       []string // what the team and all its parents allow
	anyPurpose     bool     // no level states a list
	defaultPurpose string
}

// KeyEntry is one virtual key without its secrets. It is shared and read-only,
// and belongs to the Policy that made it.
type KeyEntry struct {
	ID      string
	Name    string
	Team    *Team
	Purpose string   // fixed purpose, or ""
	Models  []string // further narrowing of the team's models; nil = the team's

	policy  *Policy
	allowed []uint64 // :: entry index → targets that Models allows, whatever the team says
	plan    []uint64 // :: entry index → targets left when the key and every level of its team have narrowed
}

// Target is one place a model's calls can go.
type Target struct {
	Model         string // canonical name: the model entry with a provider
	Provider      string
	ProviderTags  map[string]string
	Dialect       string
	UpstreamModel string // what the provider calls it
	Weight        int    // share of a split; 0 = 1
}

// ModelEntry is a name callers use. One whose only target's Model is its own
// Name is canonical; others split their calls over canonical ones of one
// dialect.
type ModelEntry struct {
	Name    string
	Aliases []string
	Dialect string
	Targets []Target // 1 to 64

	index int
	all   uint64 // one bit per target
}

// Request is what a decision is made on. Evaluate keeps none of it but the
// strings that Decision repeats.
type Request struct {
	Key       *KeyEntry
	Model     string // as requested
	Dialect   string // of the endpoint called
	Endpoint  string // "chat_completions", …: the dialect's endpoint id
	Purpose   string // x-airgate-purpose, "" if absent
	User      string
	Session   string
	Stream    bool
	MaxOutput int64 // the caller's cap; 0 = none
	BodyBytes int64
	Tools     bool
	// Pick in [0,1) chooses among the targets of a split.
	Pick float64
}

// PurposeSource says where a purpose came from (record field purpose_source).
// "" = there is no purpose.
type PurposeSource string

// The sources.
const (
	FromKey     PurposeSource = "key"
	FromHeader  PurposeSource = "header"
	FromTeam    PurposeSource = "team"
	FromDefault PurposeSource = "default"
)

// Decision is the answer. A denial is a Decision, not an error. Key, model and
// purpose are told as far as they are known, of denials too; Target and
// MaxOutput only when Code is OK.
type Decision struct {
	Code          Code
	Rule          string // the rule that refused
	Reason        string // for people: the rule's text, or what would have been allowed; no prompt text, no secret
	Owner         string // whom to ask: the team's
	Model         *ModelEntry
	Target        Target
	Purpose       string // from a header it is the caller's word: of the configuration only if Policy.Registered says so
	PurposeSource PurposeSource
	MaxOutput     int64 // the lowest set.maxOutputTokens of matching rules; 0 = none
	// WouldDeny is what shadow mode would have refused: "rule:eu-only",
	// "model_denied", … Evaluate reuses its array.
	WouldDeny []string
}
