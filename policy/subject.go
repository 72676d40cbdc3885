package policy

// subject is what a rule is asked about: one request on one target.
type subject struct {
	r       *Request
	target  *Target
	purpose string // as decided
}

// kind is the type of a field.
type kind uint8

const (
	text   kind = iota + 1 // CEL string
	number                 // CEL int
	flag                   // CEL bool
	tags                   // CEL map(string, string) in which every key is found
)

// field is one fact of a subject. The zero field is none.
type field uint8

const (
	teamName field = iota + 1
	teamPath
	teamOwner
	teamCostCenter
	teamTags
	keyID
	keyName
	modelName
	modelRequested
	providerName
	providerTags
	purpose
	endpoint
	dialect
	user
	session
	stream
	tools
	maxOutputTokens
	bodyBytes
)

// facts is the vocabulary of rules, in the order in which messages list it: it
// declares the variables to CEL, resolves them at run time and lowers them.
//
//nolint:gochecknoglobals // an immutable table
var facts = [...]struct {
	object string // "" = a variable of its own
	name   string
	field  field
	kind   kind
}{
	{"team", "name", teamName, text},
	{"team", "path", teamPath, text},
	{"team", "owner", teamOwner, text},
	{"team", "costCenter", teamCostCenter, text},
	{"team", "tags", teamTags, tags},
	{"key", "id", keyID, text},
	{"key", "name", keyName, text},
	{"model", "name", modelName, text},
	{"model", "requested", modelRequested, text},
	{"provider", "name", providerName, text},
	{"provider", "tags", providerTags, tags},
	{"", "purpose", purpose, text},
	{"", "endpoint", endpoint, text},
	{"", "dialect", dialect, text},
	{"", "user", user, text},
	{"", "session", session, text},
	{"", "stream", stream, flag},
	{"", "tools", tools, flag},
	{"", "maxOutputTokens", maxOutputTokens, number},
	{"", "bodyBytes", bodyBytes, number},
}

// fact looks up a name of the vocabulary.
func fact(object, name string) (field, kind, bool) {
	for i := range facts {
		if f := &facts[i]; f.object == object && f.name == name {
			return f.field, f.kind, true
		}
	}
	return 0, 0, false
}

// isObject says whether any fact belongs to name.
func isObject(name string) bool {
	for i := range facts {
		if facts[i].object == name && name != "" {
			return true
		}
	}
	return false
}

func (s *subject) text(f field) string {
	switch f {
	case teamName:
		return s.r.Key.Team.Name
	case teamPath:
		return s.r.Key.Team.Path
	case teamOwner:
		return s.r.Key.Team.Owner
	case teamCostCenter:
		return s.r.Key.Team.CostCenter
	case keyID:
		return s.r.Key.ID
	case keyName:
		return s.r.Key.Name
	case modelName:
		return s.target.Model
	case modelRequested:
		return s.r.Model
	case providerName:
		return s.target.Provider
	case purpose:
		return s.purpose
	case endpoint:
		return s.r.Endpoint
	case dialect:
		return s.r.Dialect
	case user:
		return s.r.User
	case session:
		return s.r.Session
	default:
		panic("policy: not a text field")
	}
}

func (s *subject) number(f field) int64 {
	switch f {
	case maxOutputTokens:
		return s.r.MaxOutput
	case bodyBytes:
		return s.r.BodyBytes
	default:
		panic("policy: not a number field")
	}
}

func (s *subject) flag(f field) bool {
	switch f {
	case stream:
		return s.r.Stream
	case tools:
		return s.r.Tools
	default:
		panic("policy: not a flag field")
	}
}

func (s *subject) tags(f field) map[string]string {
	switch f {
	case teamTags:
		return s.r.Key.Team.Tags
	case providerTags:
		return s.target.ProviderTags
	default:
		panic("policy: not a tags field")
	}
}
