package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"airgate/accounting"
	"airgate/accounting/money"
	"airgate/policy"
	"airgate/policy/overlay"
)

// Laid is an entry of the overlay and what it means to a configuration.
type Laid struct {
	Entry overlay.Entry
	State State
	Why   string // of a State other than InForce
	YAML  string // of an InForce one: what to commit in its place, with a comment that says where
}

// State is what became of an entry of the overlay.
type State string

// The states.
const (
	InForce   State = "in_force"
	Redundant State = "redundant" // the files say as much
	Refused   State = "refused"   // the files do not allow it, or do not know its subject
	Unchecked State = "unchecked" // the files cannot be read as a whole, and the part that can does not say
)

// layer is what is laid over the files at an instant.
type layer struct {
	entries []overlay.Entry // that hold
	now     time.Time
}

// With returns a Snapshot of the same files with these entries, which hold at
// now, laid over them in place of those that s has. An entry that does not fit
// the files is Refused and a warning, never an error.
func (s *Snapshot) With(entries []overlay.Entry, now time.Time) (*Snapshot, error) {
	all := *s.sections
	var problems Problems
	next := compile(&all, s.Loaded, layer{entries, now}, &problems)
	if len(problems) > 0 && !all.wrong {
		return nil, problems.sorted() // not of the entries: the files have been compiled before
	}
	next.Hash, next.Sources, next.Kinds = s.Hash, s.Sources, s.Kinds
	return next, nil
}

// Admit completes an entry that somebody wants to make, and says why it may not
// be. A key may be named instead of its id, or given: its id is taken. Nothing
// else of a key gets into an entry, which logs and records tell.
func (s *Snapshot) Admit(e overlay.Entry, now time.Time) (overlay.Entry, error) {
	if id, ok := policy.KeyID(e.Name); ok && ofKey(e.Kind) {
		e.Name = id
	}
	e.Name, e.By, e.Reason = policy.Redact(e.Name), policy.Redact(e.By), policy.Redact(e.Reason)
	all := *s.sections
	c := newCompiler(&all, s.Loaded, new(Problems))
	c.names()
	if i := slices.IndexFunc(c.Keys.items, func(k key) bool { return e.Name != "" && k.Name.v == e.Name }); i >= 0 && ofKey(e.Kind) {
		e.Name = c.Keys.items[i].ID.v
	}
	if e.Removed {
		return e, nil // of a team, perhaps, that is gone
	}
	if e.Made.IsZero() {
		e.Made = now.UTC().Truncate(time.Millisecond)
	}
	if err := e.Check(); err != nil {
		return e, err
	}
	switch state, why := c.admit(e, now); {
	case state == InForce:
	case state != Unchecked:
		return e, fmt.Errorf("%s: %s", e.ID(), why)
	case e.Kind == overlay.Raise:
		return e, fmt.Errorf("%s: %s", e.ID(), why)
	}
	return e, nil
}

func ofKey(k overlay.Kind) bool { return k == overlay.BlockKey || k == overlay.Revoke }

// Ended says whether the files themselves have ended a key: they do not have
// it, or have revoked it. Files that
// are not right are not in force.
func (s *Snapshot) Ended(id string, now time.Time) bool {
	if s.sections.wrong {
		return false
	}
	for i := range s.sections.Keys.items {
		if k := &s.sections.Keys.items[i]; k.ID.v == id {
			return k.Revoked.given() && !k.Revoked.v.After(now)
		}
	}
	return true
}

// lies says whether exactly these entries, which hold at now, are laid over s,
// each with what becomes of it then.
func (s *Snapshot) lies(entries []overlay.Entry, now time.Time) bool {
	if !slices.EqualFunc(s.Laid, entries, func(l Laid, e overlay.Entry) bool { return l.Entry == e }) {
		return false
	}
	if !slices.ContainsFunc(s.Laid, func(l Laid) bool { return l.State != InForce }) {
		return true
	}
	all := *s.sections
	c := newCompiler(&all, s.Loaded, new(Problems))
	c.names()
	return !slices.ContainsFunc(s.Laid, func(l Laid) bool { // what stood in its way may be over
		state, _ := c.admit(l.Entry, now)
		return state != l.State
	})
}

// lay decides what becomes of each entry.
func (c *compiler) lay(over layer) {
	for _, e := range over.entries {
		l := Laid{Entry: e}
		switch l.State, l.Why = c.admit(e, over.now); l.State {
		case InForce:
			l.YAML = c.patch(e)
		case Refused:
			c.warn(at{}, "overlay %s does not hold: %s", e.ID(), l.Why)
		case Redundant, Unchecked:
		}
		c.laid = append(c.laid, l)
		if l.State != InForce {
			continue
		}
		switch e.Kind {
		case overlay.Raise:
			c.raises[e.Name] = &accounting.Override{Amount: int64(e.To), Until: e.Until, By: e.By, Reason: e.Reason, Overlay: e.ID()}
		case overlay.Revoke:
			c.revocations[e.Name] = e.Made
			if over.now.Before(e.Made) { // by a clock that is ahead of ours
				c.revocations[e.Name] = over.now
			}
		case overlay.BlockTeam, overlay.BlockKey, overlay.BlockModel, overlay.BlockProvider:
		}
	}
}

// admit says what an entry is to the files.
func (c *compiler) admit(e overlay.Entry, now time.Time) (state State, why string) {
	if e.Until.After(now.Add(overlay.Longest + overlay.Slack)) {
		return Refused, "it ends in more than 72 hours: the clock of whoever made it was ahead"
	}
	switch e.Kind {
	case overlay.Raise:
		return c.admitRaise(e, now)
	case overlay.BlockTeam:
		return subject(c, e, "team", c.teams)
	case overlay.BlockProvider:
		return subject(c, e, "provider", c.providerNames())
	case overlay.BlockModel:
		return c.admitModel(e)
	case overlay.BlockKey, overlay.Revoke:
		return c.admitKey(e, now)
	}
	return Refused, "this version does not know its kind"
}

// unread is why an entry is Unchecked.
const unread = "the files cannot be read as a whole"

// subject refuses an entry about nothing.
func subject[T any](c *compiler, e overlay.Entry, what string, names map[string]T) (state State, why string) {
	switch _, ok := names[e.Name]; {
	case !ok && c.wrong:
		return Unchecked, fmt.Sprintf("%s: what can has no %s %s", unread, what, quote(e.Name))
	case !ok:
		return Refused, fmt.Sprintf("no %s %s%s", what, quote(e.Name), cmp.Or(meant(e.Name, sorted(names)), some(sorted(names))))
	}
	return InForce, ""
}

func (c *compiler) providerNames() map[string]bool {
	names := make(map[string]bool, len(c.Providers.entries))
	for i := range c.Providers.entries {
		names[c.Providers.entries[i].name.v] = true
	}
	return names
}

func (c *compiler) admitModel(e overlay.Entry) (state State, why string) {
	switch m := c.models[e.Name]; {
	case m == nil && c.aliases[e.Name] != "":
		return Refused, fmt.Sprintf("%s is an alias: block %s", quote(e.Name), c.aliases[e.Name])
	case m == nil:
		return subject(c, e, "model", c.models)
	case !m.Provider.given():
		return Refused, fmt.Sprintf("model %s is split over targets: block those", quote(e.Name))
	}
	return InForce, ""
}

func (c *compiler) admitKey(e overlay.Entry, now time.Time) (state State, why string) {
	i := slices.IndexFunc(c.Keys.items, func(k key) bool { return k.ID.v == e.Name })
	switch {
	case i < 0 && c.wrong && policy.IsKeyID(e.Name):
		return Unchecked, unread + ": what can has no key " + quote(e.Name)
	case i < 0 && c.wrong:
		return Refused, unread + ", and what can has no key " + quote(e.Name) + ": give its id, the 12 letters and digits behind ag-"
	case i < 0:
		return Redundant, "no key " + quote(e.Name)
	}
	if k := &c.Keys.items[i]; k.Revoked.given() && !k.Revoked.v.After(now) {
		if c.wrong {
			return Unchecked, k.Revoked.where() + " revokes it, and the files are not in force: they are wrong"
		}
		return Redundant, k.Revoked.where() + " revokes it"
	}
	return InForce, ""
}

// admitRaise wants more than there is for everyone already, and not more than
// the files allow.
func (c *compiler) admitRaise(e overlay.Entry, now time.Time) (state State, why string) {
	if c.wrong {
		return Unchecked, unread + ", and they say how far a raise may go"
	}
	names := make(map[string]int, len(c.Budgets.items))
	for i := range c.Budgets.items {
		names[c.Budgets.items[i].Name.v] = i
	}
	if state, why := subject(c, e, "budget", names); state != InForce {
		return state, why
	}
	b := &c.Budgets.items[names[e.Name]]
	has, where := b.USD.v, b.USD.where()
	for i := range b.Overrides.items {
		o := &b.Overrides.items[i]
		until := o.Until.in(b.TimeZone.v)
		switch {
		case o.For.given() || !until.After(now):
		case until.Equal(e.Until):
			return Redundant, o.where() + " gives everyone " + o.USD.v.String() + " USD until then"
		case o.USD.v > has:
			has, where = o.USD.v, o.where()
		}
	}
	most := b.USD.v
	if c.Overlay.MaxRaise.given() {
		most = c.Overlay.MaxRaise.over(most)
	}
	switch {
	case e.To <= has:
		return Redundant, fmt.Sprintf("%s gives %s USD already", where, has)
	case !c.Overlay.MaxRaise.given():
		return Refused, "the config allows no raise: it must say how far, such as overlay: {maxRaise: 50%}"
	case e.To > most:
		return Refused, fmt.Sprintf("%s USD is beyond %s USD, the most that overlay.maxRaise allows", e.To, most)
	}
	return InForce, ""
}

// blocks are the entries that refuse calls, as package policy wants them.
func (c *compiler) blocks() []policy.Block {
	var out []policy.Block
	for i := range c.laid {
		e := &c.laid[i].Entry
		if c.laid[i].State != InForce {
			continue
		}
		b := policy.Block{Name: e.ID()}
		switch e.Kind {
		case overlay.BlockTeam:
			b.Team = e.Name
		case overlay.BlockKey:
			b.Key = e.Name
		case overlay.BlockModel:
			b.Model = e.Name
		case overlay.BlockProvider:
			b.Provider = e.Name
		case overlay.Raise, overlay.Revoke:
			continue
		}
		what := strings.TrimPrefix(string(e.Kind), "block/")
		b.Reason = fmt.Sprintf("%s %s is blocked by %s until %s: %s", what, e.Name, e.By, e.Until.UTC().Format(time.RFC3339), e.Reason)
		out = append(out, b)
	}
	return out
}

// patch is what says in the files what an entry in force says, and where it
// belongs.
func (c *compiler) patch(e overlay.Entry) string {
	rule := func(name, when string) string {
		return fmt.Sprintf("# a rule holds until it is taken out\napiVersion: %s\nkind: %s\nrules:\n  - {name: %s, when: '%s', deny: %s}\n",
			APIVersion, PolicyKind, word(name), when, word(fmt.Sprintf("blocked by %s: %s", e.By, e.Reason)))
	}
	switch e.Kind {
	case overlay.Raise:
		b := &c.Budgets.items[slices.IndexFunc(c.Budgets.items, func(b budget) bool { return b.Name.v == e.Name })]
		item := fmt.Sprintf("{usd: %s, until: %s, by: %s, reason: %s}\n", e.To, moment(e.Until), word(e.By), word(e.Reason))
		if b.Overrides.given() {
			where := []string{b.where()}
			for i := range b.Overrides.items {
				if o := &b.Overrides.items[i]; !o.For.given() && !o.Until.in(b.TimeZone.v).After(e.Until) {
					where = append(where, "in place of "+o.where()) // which ends sooner, and would hold
				}
			}
			return fmt.Sprintf("# to the overrides of budget %s, %s\n- %s", e.Name, strings.Join(where, ", "), item)
		}
		return fmt.Sprintf("# to budget %s, %s\noverrides:\n- %s", e.Name, b.where(), item)
	case overlay.Revoke:
		k := &c.Keys.items[slices.IndexFunc(c.Keys.items, func(k key) bool { return k.ID.v == e.Name })]
		return fmt.Sprintf("# to key %s, %s\nrevoked: %s\n", e.Name, k.where(), moment(e.Made))
	case overlay.BlockTeam:
		return rule("block-team-"+e.Name, fmt.Sprintf(`team.path == %[1]s || team.path.startsWith(%[2]s)`, celText(c.path(e.Name)), celText(c.path(e.Name)+"/")))
	case overlay.BlockKey:
		return rule("block-key-"+e.Name, "key.id == "+celText(e.Name))
	case overlay.BlockModel:
		return rule("block-model-"+strings.NewReplacer("/", "-", ":", "-").Replace(e.Name), "model.name == "+celText(e.Name))
	case overlay.BlockProvider:
		return rule("block-provider-"+e.Name, "provider.name == "+celText(e.Name))
	}
	return ""
}

// celText is a name, which has neither quotes nor backslashes, as a text of CEL.
func celText(s string) string { return `"` + s + `"` }

// path is a team's path from the root.
func (c *compiler) path(name string) string {
	path := name
	for range c.Teams.entries { // a circle is told elsewhere
		i := slices.IndexFunc(c.Teams.entries, func(t entry[team]) bool { return t.name.v == name })
		if i < 0 || !c.Teams.entries[i].v.Parent.given() {
			break
		}
		name = c.Teams.entries[i].v.Parent.v
		path = name + "/" + path
	}
	return path
}

// InForce are the entries that hold here.
func (s *Snapshot) InForce() []overlay.Entry {
	var out []overlay.Entry
	for i := range s.Laid {
		if s.Laid[i].State == InForce {
			out = append(out, s.Laid[i].Entry)
		}
	}
	return out
}

// LaidViews are all that is laid over s as the API tells them.
func (s *Snapshot) LaidViews() []LaidView {
	all := make([]LaidView, len(s.Laid))
	for i := range s.Laid {
		all[i] = s.Laid[i].View()
	}
	return all
}

// LaidView is an entry of the overlay as the API tells it.
type LaidView struct {
	ID     string         `json:"id"`
	Kind   overlay.Kind   `json:"kind"`
	Name   string         `json:"name"`
	To     *money.NanoUSD `json:"to_usd,omitempty"`
	Until  *time.Time     `json:"until"`
	By     string         `json:"by"`
	Reason string         `json:"reason"`
	Made   time.Time      `json:"made"`
	State  State          `json:"state"`
	Why    string         `json:"why,omitempty"`
	YAML   string         `json:"yaml"`
}

// View is l as the API tells it.
func (l *Laid) View() LaidView {
	e := &l.Entry
	v := LaidView{ID: e.ID(), Kind: e.Kind, Name: e.Name, By: e.By, Reason: e.Reason, Made: e.Made, State: l.State, Why: l.Why, YAML: l.YAML}
	if e.To != 0 {
		v.To = &e.To
	}
	if !e.Until.IsZero() {
		v.Until = &e.Until
	}
	return v
}
