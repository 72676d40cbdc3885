package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Bounds of a split.
const (
	maxTargets = 64        // a plan is a uint64
	maxWeight  = 1_000_000 // their sum is far from overflow
)

// Policy is a compiled Config. It never changes and is safe for concurrent use.
type Policy struct {
	keys           map[string]*key // :: id → key
	nobody         *key            // stands in for keys that do not exist
	teams          map[string]*Team
	models         map[string]*ModelEntry    // :: name or alias → entry
	entries        []*ModelEntry             // by name; ModelEntry.index is the place
	purposes       map[string]*PurposeConfig // the registry; empty = none
	defaultPurpose string                    // of the registry
	blocks         []*rule
	enforced       []*rule
	shadowed       []*rule
	shadow         bool
}

// Compile checks c as a whole and makes a Policy of it. Its error is Problems,
// with everything that is wrong.
func Compile(c Config) (*Policy, error) {
	b := builder{config: c, orphans: map[*Team]bool{}, policy: &Policy{
		keys:     make(map[string]*key, len(c.Keys)),
		nobody:   &key{secrets: make([]Secret, 1)},
		teams:    make(map[string]*Team, len(c.Teams)),
		models:   make(map[string]*ModelEntry, len(c.Models)),
		purposes: make(map[string]*PurposeConfig, len(c.Purposes)),
		shadow:   c.Shadow,
	}}
	b.compilePurposes()
	b.compileModels()
	b.compileTeams()
	b.compileKeys()
	b.compileBlocks()
	if err := b.compileRules(); err != nil {
		return nil, fmt.Errorf("compile rules: %w", err)
	}
	if len(b.problems) > 0 {
		return nil, b.problems
	}
	return b.policy, nil
}

// Key is the key of an id or, if no key has that id, of a name; else nil.
func (p *Policy) Key(idOrName string) *KeyEntry {
	if k := p.keys[idOrName]; k != nil {
		return &k.entry
	}
	if idOrName == "" {
		return nil
	}
	for _, k := range p.keys {
		if k.entry.Name == idOrName {
			return &k.entry
		}
	}
	return nil
}

// Team is the team of a name, or nil.
func (p *Policy) Team(name string) *Team { return p.teams[name] }

// Registered says whether the registry has a purpose. Other purposes can be
// callers' words, which are never metric labels.
func (p *Policy) Registered(purpose string) bool { return p.purposes[purpose] != nil }

// Models lists what k may call in a dialect, sorted by name: the entries that
// have a target which the key and all levels of its team allow. Under
// Config.Shadow that is every entry of the dialect. Rules are not asked: they
// depend on the call.
func (p *Policy) Models(k *KeyEntry, dialect string) []*ModelEntry {
	if k == nil || k.policy != p {
		return nil
	}
	var list []*ModelEntry
	for _, e := range p.entries {
		if e.Dialect == dialect && (p.shadow || k.plan[e.index] != 0) {
			list = append(list, e)
		}
	}
	return list
}

// builder fills a Policy and collects what is wrong.
type builder struct {
	config   Config
	policy   *Policy
	orphans  map[*Team]bool // a parent is missing or in a circle: what depends on it cannot be judged
	problems Problems
}

func (b *builder) fault(section, name, field, format string, args ...any) {
	b.problems = append(b.problems, &Problem{Section: section, Name: name, Field: field, Text: fmt.Sprintf(format, args...)})
}

func (b *builder) compilePurposes() {
	for i := range b.config.Purposes {
		c := &b.config.Purposes[i]
		switch {
		case c.Name == "":
			b.fault("purposes", c.Name, "", "has no name")
		case b.policy.purposes[c.Name] != nil:
			b.fault("purposes", c.Name, "", "exists twice")
		}
		b.policy.purposes[c.Name] = c
		if !c.Default {
			continue
		}
		if b.policy.defaultPurpose != "" {
			b.fault("purposes", c.Name, "default", "%q is the default already: there is one", b.policy.defaultPurpose)
		}
		b.policy.defaultPurpose = c.Name
	}
}

func (b *builder) compileModels() {
	p := b.policy
	p.entries = make([]*ModelEntry, len(b.config.Models))
	for i := range b.config.Models {
		e := b.config.Models[i]
		p.entries[i] = &e
	}
	slices.SortFunc(p.entries, func(a, b *ModelEntry) int { return cmp.Compare(a.Name, b.Name) })
	for i, e := range p.entries {
		e.index = i
		e.all = ^uint64(0) >> (maxTargets - min(len(e.Targets), maxTargets))
		b.name(e, e.Name, "")
		for _, alias := range e.Aliases {
			b.name(e, alias, "aliases")
		}
	}
	for _, e := range p.entries {
		b.targets(e)
	}
}

// name makes an entry callable by a name.
func (b *builder) name(e *ModelEntry, name, field string) {
	switch other := b.policy.models[name]; {
	case name == "":
		b.fault("models", e.Name, field, "has no name")
	case strings.Contains(name, "*"):
		b.fault("models", e.Name, field, "%q: * is for lists of models, not for their names", name)
	case other == e:
		b.fault("models", e.Name, field, "%q stands twice", name)
	case other != nil:
		b.fault("models", e.Name, field, "%q is already a name of model %q", name, other.Name)
	default:
		b.policy.models[name] = e
	}
}

func (b *builder) targets(e *ModelEntry) {
	if len(e.Targets) == 0 {
		b.fault("models", e.Name, "", "has nowhere to go: give it a provider or targets")
	}
	if len(e.Targets) > maxTargets {
		b.fault("models", e.Name, "targets", "has %d targets, the limit is %d", len(e.Targets), maxTargets)
	}
	seen := make(map[string]bool, len(e.Targets))
	for i := range e.Targets {
		t := &e.Targets[i]
		switch to := b.policy.models[t.Model]; {
		case to == nil || to.Name != t.Model:
			b.fault("models", e.Name, "targets", "no model %q", t.Model)
		case !to.canonical():
			b.fault("models", e.Name, "targets", "%q has targets itself: name a model with a provider", t.Model)
		case t.Dialect != e.Dialect:
			b.fault("models", e.Name, "targets", "%q speaks %s and %q %s: a split stays in one dialect", t.Model, t.Dialect, e.Name, e.Dialect)
		case t.Provider == "":
			b.fault("models", e.Name, "provider", "%q has no provider", t.Model)
		case seen[t.Model]:
			b.fault("models", e.Name, "targets", "%q stands twice: give it a weight", t.Model)
		case t.Weight < 0 || t.Weight > maxWeight:
			b.fault("models", e.Name, "targets", "%q has weight %d, want 1 to %d", t.Model, t.Weight, maxWeight)
		}
		seen[t.Model] = true
	}
}

// canonical says whether the entry is a model with a provider of its own.
func (e *ModelEntry) canonical() bool {
	return len(e.Targets) == 1 && e.Targets[0].Model == e.Name
}

// allow turns a list of models into what it allows :: entry index → targets. A
// list allows a target by its canonical name, or by the name of the entry
// through which it is called.
func (b *builder) allow(section, name string, list []string) []uint64 {
	allowed := make([]uint64, len(b.policy.entries))
	if list == nil {
		for i, e := range b.policy.entries {
			allowed[i] = e.all
		}
		return allowed
	}
	for _, pattern := range list {
		through := b.policy.models[pattern]
		if through != nil {
			allowed[through.index] = through.all
			if through.canonical() {
				pattern = through.Name
			}
		} else if !strings.Contains(pattern, "*") {
			b.fault(section, name, "models", "no model %q", pattern)
			continue
		}
		for i, e := range b.policy.entries {
			for j := range min(len(e.Targets), maxTargets) {
				if glob(pattern, e.Targets[j].Model) {
					allowed[i] |= 1 << j
				}
			}
		}
	}
	return allowed
}

// glob matches a name; each * stands for any text, also none.
func glob(pattern, name string) bool {
	head, tail, ok := strings.Cut(pattern, "*")
	if !ok {
		return pattern == name
	}
	if !strings.HasPrefix(name, head) {
		return false
	}
	name = name[len(head):]
	for {
		middle, rest, more := strings.Cut(tail, "*")
		if !more {
			return strings.HasSuffix(name, tail)
		}
		i := strings.Index(name, middle)
		if i < 0 {
			return false
		}
		name, tail = name[i+len(middle):], rest
	}
}

func (b *builder) compileTeams() {
	byName := make(map[string]*TeamConfig, len(b.config.Teams))
	for i := range b.config.Teams {
		c := &b.config.Teams[i]
		switch {
		case c.Name == "":
			b.fault("teams", c.Name, "", "has no name")
		case byName[c.Name] != nil:
			b.fault("teams", c.Name, "", "exists twice")
		}
		byName[c.Name] = c
	}
	for i := range b.config.Teams {
		b.team(byName, b.config.Teams[i].Name, nil)
	}
}

// team compiles a team after its parents; below are the teams that led here.
func (b *builder) team(byName map[string]*TeamConfig, name string, below []string) *Team {
	if t := b.policy.teams[name]; t != nil {
		return t
	}
	c := byName[name]
	below = append(below, name)
	t := &Team{Name: name, Path: name, Lineage: []string{name}, Owner: c.Owner, CostCenter: c.CostCenter, Tags: c.Tags}
	switch {
	case c.Parent == "":
	case byName[c.Parent] == nil:
		b.fault("teams", name, "parent", "no team %q", c.Parent)
		b.orphans[t] = true
	case slices.Contains(below, c.Parent):
		cycle := append(below[slices.Index(below, c.Parent):], c.Parent)
		b.fault("teams", name, "parent", "%s is a circle", strings.Join(cycle, " → "))
		b.orphans[t] = true
	default:
		t.parent = b.team(byName, c.Parent, below)
		b.orphans[t] = b.orphans[t.parent]
	}

	t.allowed = b.allow("teams", name, c.Models)
	t.plan = slices.Clone(t.allowed)
	t.purposes, t.anyPurpose = c.Purposes, c.Purposes == nil
	if p := t.parent; p != nil {
		t.Path = p.Path + "/" + name
		t.Lineage = append(t.Lineage, p.Lineage...)
		t.Owner = cmp.Or(t.Owner, p.Owner)
		t.CostCenter = cmp.Or(t.CostCenter, p.CostCenter)
		if len(p.Tags) > 0 {
			t.Tags = maps.Clone(p.Tags)
			maps.Copy(t.Tags, c.Tags)
		}
		narrow(t.plan, p.plan)
		if c.Purposes == nil {
			t.purposes, t.anyPurpose = p.purposes, p.anyPurpose
		} else {
			t.purposes = slices.DeleteFunc(slices.Clone(c.Purposes), func(s string) bool { return !p.allowsPurpose(s) })
		}
		if t.allowsPurpose(p.defaultPurpose) {
			t.defaultPurpose = p.defaultPurpose
		}
	}

	for _, purpose := range c.Purposes {
		switch {
		case len(b.policy.purposes) == 0:
			b.fault("teams", name, "purposes", "no purposes are registered: add purposes: {%s: {}}", purpose)
		case b.policy.purposes[purpose] == nil:
			b.fault("teams", name, "purposes", "no purpose %q", purpose)
		}
	}
	if c.DefaultPurpose != "" {
		t.defaultPurpose = c.DefaultPurpose
		switch {
		case !b.registered(c.DefaultPurpose):
			b.fault("teams", name, "defaultPurpose", "no purpose %q", c.DefaultPurpose)
		case !t.allowsPurpose(c.DefaultPurpose) && !b.orphans[t]:
			b.fault("teams", name, "defaultPurpose", "the team may not use %q: add it to the purposes of the team and its parents", c.DefaultPurpose)
		}
	}
	b.policy.teams[name] = t
	return t
}

// narrow keeps of each plan what the other allows too.
func narrow(plan, by []uint64) {
	for i := range plan {
		plan[i] &= by[i]
	}
}

// allowsPurpose says whether the team and all its parents allow a purpose. "" is
// no purpose.
func (t *Team) allowsPurpose(name string) bool {
	return name != "" && (t.anyPurpose || slices.Contains(t.purposes, name))
}

// registered says whether a purpose exists; without a registry any word does.
func (b *builder) registered(name string) bool {
	return len(b.policy.purposes) == 0 || b.policy.purposes[name] != nil
}

func (b *builder) compileKeys() {
	p := b.policy
	named := make(map[string]string, len(b.config.Keys)) // :: name → id
	for i := range b.config.Keys {
		c := &b.config.Keys[i]
		if len(c.ID) != idLen || !isBase62(c.ID) {
			b.fault("keys", c.ID, "id", "want %d letters and digits: let airgate keys create make it", idLen)
		}
		if p.keys[c.ID] != nil {
			b.fault("keys", c.ID, "id", "exists twice: further secrets of a key go into its secrets")
		}
		if other, ok := named[c.Name]; ok && c.Name != "" {
			b.fault("keys", c.ID, "name", "%q is the name of key %s already", c.Name, other)
		}
		named[c.Name] = c.ID
		if len(c.Secrets) == 0 {
			b.fault("keys", c.ID, "secrets", "has none: let airgate keys create make one")
		}
		if c.Purpose != "" && !b.registered(c.Purpose) {
			b.fault("keys", c.ID, "purpose", "no purpose %q", c.Purpose)
		}
		k := &key{
			entry: KeyEntry{
				ID: c.ID, Name: c.Name, Team: p.teams[c.Team], Purpose: c.Purpose, Models: c.Models,
				policy: p, allowed: b.allow("keys", c.ID, c.Models),
			},
			secrets: c.Secrets,
			revoked: c.Revoked,
		}
		p.keys[c.ID] = k
		if k.entry.Team == nil {
			b.fault("keys", c.ID, "team", "no team %q", c.Team)
			continue
		}
		k.entry.plan = slices.Clone(k.entry.allowed)
		narrow(k.entry.plan, k.entry.Team.plan)
	}
}

// compileRules reports faults of rules as problems; its error is CEL's own.
func (b *builder) compileRules() error {
	if len(b.config.Rules) == 0 {
		return nil
	}
	c, err := newCompiler()
	if err != nil {
		return err
	}
	seen := make(map[string]bool, len(b.config.Rules))
	for i := range b.config.Rules {
		r := &b.config.Rules[i]
		first := len(b.problems)
		b.ruleShape(r)
		if seen[r.Name] {
			b.fault("rules", r.Name, "name", "exists twice")
		}
		seen[r.Name] = true

		u := &rule{name: r.Name, would: "rule:" + r.Name, deny: r.Deny, set: r.Set}
		if strings.TrimSpace(r.When) == "" {
			b.fault("rules", r.Name, "when", "is missing: say when the rule applies, or true")
		} else {
			for _, f := range c.compile(u, r.When) {
				b.problems = append(b.problems, &Problem{
					Section: "rules", Name: r.Name, Field: "when", Line: f.line, Column: f.column, Text: f.text,
				})
			}
		}
		for _, p := range b.problems[first:] {
			p.Where = r.Where
		}
		if r.Mode == Shadow {
			b.policy.shadowed = append(b.policy.shadowed, u)
		} else {
			b.policy.enforced = append(b.policy.enforced, u)
		}
	}
	return nil
}

// ruleShape checks a rule beside its condition.
func (b *builder) ruleShape(r *RuleConfig) {
	if r.Name == "" {
		b.fault("rules", r.Name, "name", "is missing")
	}
	switch sets := r.Set != (Set{}); {
	case r.Set.MaxOutputTokens < 0:
		b.fault("rules", r.Name, "set.maxOutputTokens", "is %d, want 1 or more", r.Set.MaxOutputTokens)
	case sets && r.Deny != "":
		b.fault("rules", r.Name, "", "denies and sets: make two rules of it")
	case !sets && r.Deny == "":
		b.fault("rules", r.Name, "", "does nothing: give it deny or set")
	}
	if r.Mode > Shadow {
		b.fault("rules", r.Name, "mode", "want enforce or shadow")
	}
}
