package config

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"airgate/accounting"
	"airgate/accounting/journal"
)

// compiler turns the sections of all files into a Snapshot. It goes on after a
// problem, so that all of them are told at once: what could not be read is
// absent here, and what refers to it still finds its name.
type compiler struct {
	*sections
	now      time.Time
	problems *Problems
	warnings Problems

	providers map[string]*Provider // :: name → provider
	models    map[string]*model    // :: name → model
	aliases   map[string]string    // :: alias → name of its model
	teams     map[string]bool      // :: name
	purposes  map[string]bool      // :: name
	keys      map[string]bool      // :: id or name
	terms     map[string]terms     // :: canonical model name → its terms
	places    map[spot]at          // where package policy's problems belong
	told      map[spot]bool        // what need not be told again by package policy
	rules     map[string]*rule     // :: name → rule
	unread    map[string]bool      // :: what → its section was refused, so any name may be right
	snapshot  *Snapshot

	laid        []Laid
	raises      map[string]*accounting.Override // :: budget → what the overlay gives everyone
	revocations map[string]time.Time            // :: key id → when the overlay ended it
}

// spot names a field as package policy does. field "" is the entry itself.
type spot struct{ section, name, field string }

// compile makes a Snapshot of s and what is laid over it. Only if problems stays
// empty is it whole.
func compile(s *sections, now time.Time, over layer, problems *Problems) *Snapshot {
	c := newCompiler(s, now, problems)
	c.names()
	c.lay(over)
	c.settings()
	c.compileProviders()
	c.compilePrices()
	c.compilePolicy()
	c.compileLimits()
	c.snapshot.Laid = c.laid
	c.snapshot.terms = c.terms
	c.snapshot.Warnings = c.warnings.sorted()
	return c.snapshot
}

func newCompiler(s *sections, now time.Time, problems *Problems) *compiler {
	shadow := s.Enforcement.v == "shadow"
	return &compiler{
		sections: s, now: now, problems: problems,
		providers: make(map[string]*Provider), models: make(map[string]*model), aliases: make(map[string]string),
		teams: make(map[string]bool), purposes: make(map[string]bool), keys: make(map[string]bool),
		terms: make(map[string]terms), places: make(map[spot]at), told: make(map[spot]bool), rules: make(map[string]*rule),
		unread: map[string]bool{
			"provider": s.Providers.refused, "model": s.Models.refused, "team": s.Teams.refused, "purpose": s.Purposes.refused,
		},
		raises: make(map[string]*accounting.Override), revocations: make(map[string]time.Time),
		snapshot: &Snapshot{
			Loaded:             now,
			MaxBodyBytes:       cmp.Or(s.MaxBodyBytes.v, DefaultMaxBodyBytes),
			MaxTokensPerSecond: cmp.Or(s.MaxTokensPerSecond.v, DefaultMaxTokensPerSecond),
			Shadow:             shadow,
			AllowUnbudgeted:    s.Unbudgeted.v == "allow",
			AllowUnpriced:      s.Unpriced.v == "allow",
			HasKeys:            len(s.Keys.items) > 0,
			index:              make(map[string]int),
			sections:           s,
		},
	}
}

func (c *compiler) report(a at, format string, args ...any) { tell(c.problems, a, format, args...) }
func (c *compiler) warn(a at, format string, args ...any)   { tell(&c.warnings, a, format, args...) }

// where is a place as people write it.
func (a *at) where() string { return fmt.Sprintf("%s:%d", a.file, a.line) }

// unique reports what has a name that was there before, and drops it.
func unique[T any](c *compiler, section string, of []T, name func(*T) text) []T {
	first := make(map[string]at, len(of))
	return slices.DeleteFunc(of, func(v T) bool {
		n := name(&v)
		if n.v == "" {
			return false // absent, or told already
		}
		before, dup := first[n.v]
		if dup {
			c.report(n.at, "%s %s exists already: %s", section, quote(n.v), before.where())
			return true
		}
		first[n.v] = n.at
		return false
	})
}

func entryName[T any](e *entry[T]) text { return e.name.text }

// names finds every name there is, before anything refers to one.
func (c *compiler) names() {
	c.Providers.entries = unique(c, "provider", c.Providers.entries, entryName)
	c.Models.entries = unique(c, "model", c.Models.entries, entryName)
	c.Teams.entries = unique(c, "team", c.Teams.entries, entryName)
	c.Purposes.entries = unique(c, "purpose", c.Purposes.entries, entryName)
	c.Rules.items = unique(c, "rule", c.Rules.items, func(r *rule) text { return r.Name.text })
	c.Limits.items = unique(c, "limit", c.Limits.items, func(l *limit) text { return l.Name.text })
	c.Budgets.items = unique(c, "budget", c.Budgets.items, func(b *budget) text { return b.Name.text })
	c.Sinks.items = unique(c, "sink", c.Sinks.items, func(s *sink) text { return s.Name.text })
	c.Keys.items = unique(c, "key", c.Keys.items, func(k *key) text { return k.ID })

	for i := range c.Models.entries {
		e := &c.Models.entries[i]
		c.models[e.name.v] = &e.v
	}
	taken := make(map[string]at)
	for i := range c.Models.entries {
		e := &c.Models.entries[i]
		for _, alias := range e.v.Aliases.items {
			before, dup := taken[alias.v]
			switch {
			case c.models[alias.v] != nil:
				c.report(alias.at, "alias %s is the name of a model: take another", quote(alias.v))
			case dup:
				c.report(alias.at, "alias %s exists already: %s", quote(alias.v), before.where())
			default:
				taken[alias.v], c.aliases[alias.v] = alias.at, e.name.v
			}
		}
	}
	for _, e := range c.Teams.entries {
		c.teams[e.name.v] = true
	}
	for _, e := range c.Purposes.entries {
		c.purposes[e.name.v] = true
	}
	for i := range c.Keys.items {
		c.keys[c.Keys.items[i].ID.v] = true
	}
	c.Keys.items = unique(c, "key", c.Keys.items, func(k *key) text { return k.Name.text })
	for i := range c.Keys.items {
		name := c.Keys.items[i].Name
		if name.v != "" && c.keys[name.v] {
			c.report(name.at, "name %s is the id of a key: take another", quote(name.v))
		}
	}
	for i := range c.Keys.items {
		c.keys[c.Keys.items[i].Name.v] = true
	}
}

// settings compiles what has no names in it.
func (c *compiler) settings() {
	snap := c.snapshot
	snap.OverlayFile = c.Overlay.File.v
	snap.Quota = c.quota(&c.Quota)
	if c.Journal.Durability.v == "process" {
		snap.Journal.Durability = journal.Process
	}
	for i := range c.Sinks.items {
		s := &c.Sinks.items[i]
		if i > 0 {
			c.report(s.at, "more than one sink is not supported by this version")
		}
		snap.Sinks = append(snap.Sinks, Sink{Name: s.Name.v, Type: s.Type.v, Path: s.Path.v})
	}
	if !c.Sinks.given() {
		snap.Sinks = []Sink{{Name: "local", Type: "sqlite", Path: "usage.db"}}
	}
	for _, k := range c.Requires.items {
		snap.Requires = append(snap.Requires, Kind(k.v))
	}
}

// requires checks that the kinds Platform asks for are there.
func (s *sections) requires(kinds []Kind, problems *Problems) {
	for _, k := range s.Requires.items {
		if !s.partial && !slices.Contains(kinds, Kind(k.v)) {
			tell(problems, k.at, "requires kind %s, and no file has a section of it", k.v)
		}
	}
}

// known reports a reference to nothing. what is the singular of a section.
func known[T any](c *compiler, t text, what string, names map[string]T) bool {
	if !t.good() {
		return false
	}
	if _, ok := names[t.v]; ok {
		return true
	}
	guess := meant(t.v, sorted(names))
	if guess != "" || !c.partial && !c.unread[what] {
		c.report(t.at, "no %s %s%s", what, quote(t.v), cmp.Or(guess, some(sorted(names))))
	}
	return false
}

// some is ": there are …", with the first of the words.
func some(words []string) string {
	const most = 8
	switch n := len(words); {
	case n == 0:
		return ""
	case n == 1:
		return ": there is " + words[0]
	case n > most:
		words = append(words[:most:most], "…")
	}
	return ": there are " + strings.Join(words, ", ")
}

// values are the words of a list, nil if it is absent.
func values[T any](l list[T], v func(*T) string) []string {
	if !l.given() {
		return nil
	}
	out := make([]string, len(l.items))
	for i := range l.items {
		out[i] = v(&l.items[i])
	}
	return out
}

func textOf(t *text) string { return t.v }

func tagsOf(d dict[text]) map[string]string {
	if len(d.entries) == 0 {
		return nil
	}
	out := make(map[string]string, len(d.entries))
	for _, e := range d.entries {
		out[e.name.v] = e.v.v
	}
	return out
}

// modelList checks an allow-list: names, aliases, and globs over canonical
// names.
func (c *compiler) modelList(l list[text], s spot) {
	for _, t := range l.items {
		if strings.Contains(t.v, "*") {
			if !slices.ContainsFunc(c.Models.entries, func(e entry[model]) bool { return e.v.Provider.given() && glob(t.v, e.name.v) }) {
				c.warn(t.at, "%s matches no model yet", quote(t.v))
			}
			continue
		}
		if _, alias := c.aliases[t.v]; !alias && !known(c, t, "model", c.models) {
			c.told[s] = true
		}
	}
}

// glob matches a name; each * stands for any text, also none.
func glob(pattern, name string) bool {
	head, rest, ok := strings.Cut(pattern, "*")
	if !ok {
		return pattern == name
	}
	if !strings.HasPrefix(name, head) {
		return false
	}
	for i := len(head); i <= len(name); i++ {
		if glob(rest, name[i:]) {
			return true
		}
	}
	return false
}

// given says whether a section or setting is there.
func given(v reflect.Value) bool { return v.Addr().Interface().(placed).given() }

// join adds the sections of one document to those of the others, and returns
// the kinds it has sections of.
func (s *sections) join(doc *sections, fields []field, problems *Problems) map[Kind]bool {
	kinds := make(map[Kind]bool)
	to, from := reflect.ValueOf(s).Elem(), reflect.ValueOf(doc).Elem()
	for _, f := range fields {
		dst, src := to.FieldByIndex(f.index), from.FieldByIndex(f.index)
		if !given(src) {
			continue
		}
		kinds[f.kind] = true
		if g, ok := reflect.TypeAssert[interface{ add(more any) }](dst.Addr()); ok {
			g.add(src.Addr().Interface())
			continue
		}
		if given(dst) {
			before := dst.Addr().Interface().(placed).place()
			tell(problems, src.Addr().Interface().(placed).place(), "%s is given already: %s", f.name, before.where())
			continue
		}
		dst.Set(src)
	}
	return kinds
}
