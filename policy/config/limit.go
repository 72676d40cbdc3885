package config

import (
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"airgate/accounting"
	"airgate/accounting/money"
	"airgate/policy"
)

// compileLimits makes the table of budgets and limits.
func (c *compiler) compileLimits() {
	all := c.limits()
	budgeted := slices.ContainsFunc(all, func(l accounting.Limit) bool {
		return l.Resource == accounting.USD && l.Mode == accounting.Enforce
	})
	unbudgeted := c.snapshot.AllowUnbudgeted || c.snapshot.Shadow
	if !budgeted && !unbudgeted && len(c.Models.entries) > 0 {
		c.warn(c.Models.at, "no budget is enforced, so every call is refused (budget_missing): add budgets, or say unbudgeted: allow")
	}
	if len(*c.problems) > 0 {
		return // the table is made of what is right
	}
	if q := c.snapshot.Quota; q.Shared() {
		for i := range all {
			c.snapshot.outages = append(c.snapshot.outages, q.outage(&all[i]))
		}
	}
	var err error
	c.snapshot.Limits, err = accounting.Rules{Limits: all, AllowUnbudgeted: unbudgeted, Known: completing(c.snapshot.Policy)}.Compile()
	if err == nil {
		return
	}
	for i := range all {
		if _, err := accounting.Compile(all[i : i+1]); err != nil {
			c.report(c.placeOf(i), "%v", innermost(err))
		}
	}
	if len(*c.problems) == 0 {
		c.report(c.placeOf(0), "%v", err)
	}
}

// completing is accounting.Rules.Known of the keys and teams of p.
func completing(p *policy.Policy) func(*accounting.Subject) {
	return func(s *accounting.Subject) {
		var team *policy.Team
		if k := p.Key(s.KeyID); k != nil && k.ID == s.KeyID {
			s.KeyName, team = k.Name, k.Team
		}
		if len(s.Teams) > 0 { // of an account that is a team's, too
			team = p.Team(s.Teams[0])
		}
		if team != nil {
			s.Teams, s.Tags = team.Lineage, team.Tags
		}
	}
}

// placeOf is the place of an entry of limits().
func (c *compiler) placeOf(i int) at {
	if n := len(c.Limits.items); i >= n {
		return c.Budgets.items[i-n].at
	}
	return c.Limits.items[i].at
}

// limits are the entries of limits and then those of budgets.
func (c *compiler) limits() []accounting.Limit {
	var all []accounting.Limit
	for i := range c.Limits.items {
		all = append(all, c.limit(&c.Limits.items[i]))
	}
	for i := range c.Budgets.items {
		all = append(all, c.budget(&c.Budgets.items[i]))
	}
	return all
}

func (c *compiler) limit(l *limit) accounting.Limit {
	out := accounting.Limit{
		Name: l.Name.v, Match: c.match(&l.Match), Each: c.each(l.Each), Mode: c.mode(l.Mode),
		Burst: l.Burst.v, Owner: l.Owner.v, MaxAccounts: c.maxAccounts(l.MaxAccounts, l.Each), Where: l.where(),
		OnStoreDown: accounting.OnStoreDown{Allow: l.OnStoreDown.v == "allow"},
	}
	n := 0
	if r := l.Requests; r.given() {
		out.Resource, out.Amount, out.Per = accounting.Requests, r.n, r.per
		n++
	}
	if r := l.Tokens; r.given() {
		out.Resource, out.Amount, out.Per = accounting.Tokens, r.n, r.per
		n++
	}
	if l.Concurrent.given() {
		out.Resource, out.Amount = accounting.Concurrent, l.Concurrent.v
		n++
		if l.Burst.given() {
			c.report(l.Burst.at, "burst belongs to requests or tokens: concurrent has none")
		}
	}
	if n != 1 {
		c.report(l.at, "must hold exactly one of requests, tokens and concurrent: write one limit for each")
	}
	return out
}

func (c *compiler) mode(m choice) accounting.Mode {
	if m.v == "shadow" || c.snapshot.Shadow {
		return accounting.Shadow
	}
	return accounting.Enforce
}

func (c *compiler) budget(b *budget) accounting.Limit {
	out := accounting.Limit{
		Name: b.Name.v, Resource: accounting.USD, Match: c.match(&b.Match), Each: c.each(b.Each),
		Amount: int64(b.USD.v), Window: windowOf(b.Per.v), Zone: b.TimeZone.v, Mode: c.mode(b.Mode),
		Owner: b.Owner.v, MaxAccounts: c.maxAccounts(b.MaxAccounts, b.Each), Where: b.where(),
		ClampFloor: money.Tokens(b.ClampOutput.FloorTokens.v), WarnAt: c.warnAt(b),
		Sliced: b.StreamHold.v == "sliced", Expected: b.Admission.v == "expected", OnStoreDown: accounting.OnStoreDown{Within: c.within(&b.OnStoreDown)},
	}
	if b.BudgetStatus.given() {
		out.BudgetStatus, _ = strconv.Atoi(b.BudgetStatus.v) // one of its oneof tag
	}
	first := make(map[string]at)
	for i := range b.Overrides.items {
		o := &b.Overrides.items[i]
		out.Overrides = append(out.Overrides, accounting.Override{
			For: c.match(&o.For), Amount: int64(o.USD.v), Until: o.Until.in(b.TimeZone.v), By: o.By.v, Reason: o.Reason.v,
		})
		a := &out.Overrides[i]
		if a.Until.Year() > 2261 {
			c.report(o.Until.at, "is beyond 2261: leave until out of an override that holds for good")
		}
		c.overridable(o, b.Each)
		same := a.For.String() + a.Until.String()
		if before, dup := first[same]; dup && !o.For.refused && !o.Until.refused {
			c.report(o.For.or(o.at), "there is an override for the same already: %s; one of them needs another until", before.where())
		}
		first[same] = o.at
		if !a.Until.IsZero() && !a.Until.After(c.now) {
			c.warn(o.Until.at, "this override is over since %s: remove it", a.Until.Format(time.RFC3339))
		}
	}
	if raise := c.raises[b.Name.v]; raise != nil {
		// Of two for everyone the one that ends sooner would hold, and it is lower.
		out.Overrides = slices.DeleteFunc(out.Overrides, func(o accounting.Override) bool {
			return o.For.String() == raise.For.String() && !o.Until.After(raise.Until)
		})
		out.Overrides = append(out.Overrides, *raise)
	}
	return out
}

// within is what all airgates together may hold while the store is down.
func (c *compiler) within(o *outage) money.NanoUSD {
	a, q := o.AllowWithinUSD, &c.snapshot.Quota
	switch {
	case !a.good() || c.Quota.refused || c.Quota.Replicas.refused: // absent, or told
	case a.v == 0:
		c.report(a.at, "0 allows nothing: write onStoreDown: deny")
	case q.Shared() && q.Replicas == 0:
		c.report(a.at, "allowWithinUSD is divided among all airgates: add replicas, the most there can be at once, to quota")
	case int64(a.v) < int64(q.Replicas):
		c.report(a.at, "%s USD is too little to be divided among %d airgates", a.v, q.Replicas)
	}
	return a.v
}

// warnAt are the thresholds of a budget, in the order of the config.
func (c *compiler) warnAt(b *budget) []accounting.Threshold {
	var out []accounting.Threshold
	for i := range b.WarnAt.items {
		t := &b.WarnAt.items[i]
		switch {
		case slices.Contains(out, t.v):
			c.report(t.at, "%s stands twice", t)
		case t.v.Forecast && b.Per.v == "total":
			c.report(t.at, "a window without an end (per: total) has no forecast: name a share of the budget")
		}
		out = append(out, t.v)
	}
	return out
}

// decode reads either form.
func (o *outage) decode(d *decoder, n *yaml.Node, _ reflect.StructTag) {
	const forms = "deny or {allowWithinUSD: 5}"
	switch {
	case n.Kind == yaml.MappingNode:
		d.object(n, reflect.ValueOf(o).Elem(), "")
	case n.Kind == yaml.ScalarNode && n.Value == "deny":
		o.at = d.at(n)
	case n.Kind == yaml.ScalarNode && n.Value == "allow":
		d.report(n, "allow is for limits, and a budget is a bound: write %s", forms)
	default:
		d.report(n, "must be %s", forms)
	}
}

// overridable checks that an override names accounts: only what tells a
// budget's accounts apart, or follows from it, can give one another amount.
func (c *compiler) overridable(o *override, each many[choice]) {
	if o.For.refused {
		return // told
	}
	by := make(map[string]bool)
	for _, e := range each.items {
		by[e.v] = true
	}
	f := &o.For
	for _, d := range []struct {
		name string
		at   at
		ok   bool
	}{
		{"team", f.Team.at, by["team"] || by["key"]},
		{"key", f.Key.at, by["key"]},
		{"purpose", f.Purpose.at, by["purpose"]},
		{"provider", f.Provider.at, by["provider"] || by["model"]},
		{"model", f.Model.at, by["model"]},
		{"tags", f.Tags.at, by["team"] || by["key"]},
	} {
		if d.at.given() && !d.ok {
			c.report(d.at, "this budget has no account of its own for each %s: add %s to its each, or make another budget", d.name, strings.TrimSuffix(d.name, "s"))
		}
	}
	switch {
	case f.given() && f.empty():
		c.report(f.at, "for is empty: name those whose amount it is, or leave it out and say until when it is everyone's")
	case !f.given() && !o.Until.given():
		c.report(o.at, "for is missing: name those whose amount it is, or say until when it is everyone's; for good, change usd")
	}
}

func (m *match) empty() bool {
	return !m.Team.given() && !m.Key.given() && !m.Purpose.given() && !m.Provider.given() && !m.Model.given() && !m.Tags.given()
}

// windowOf is the window of a budget's per, which is one of its oneof tag.
func windowOf(per string) accounting.WindowKind {
	switch per {
	case "day":
		return accounting.Day
	case "week":
		return accounting.Week
	case "month":
		return accounting.Month
	case "quarter":
		return accounting.Quarter
	case "year":
		return accounting.Year
	case "total":
		return accounting.Total
	}
	return accounting.NoWindow
}

// dimensionOf is the dimension of a word of each, which is one of its oneof tag.
func dimensionOf(word string) accounting.Dimension {
	switch word {
	case "team":
		return accounting.Team
	case "key":
		return accounting.Key
	case "purpose":
		return accounting.Purpose
	case "provider":
		return accounting.Provider
	case "model":
		return accounting.Model
	case "user":
		return accounting.User
	case "session":
		return accounting.Session
	}
	return 0
}

func (c *compiler) each(words many[choice]) []accounting.Dimension {
	for _, w := range words.items {
		if w.v == "purpose" && len(c.Purposes.entries) == 0 {
			c.report(w.at, "each: purpose needs a registry of purposes: without one callers would name accounts of their own")
		}
	}
	var out []accounting.Dimension
	for _, w := range words.items {
		d := dimensionOf(w.v)
		if slices.Contains(out, d) {
			c.report(w.at, "%s stands twice", w.v)
			continue
		}
		out = append(out, d)
	}
	return out
}

func (c *compiler) maxAccounts(n count, each many[choice]) int {
	if n.given() && !slices.ContainsFunc(each.items, func(w choice) bool { return w.v == "user" || w.v == "session" }) {
		c.report(n.at, "maxAccounts bounds each: user or session, and this has neither: remove it")
	}
	return int(n.v)
}

// match compiles who a limit applies to. Each literal must exist somewhere: a
// limit that silently applies to nobody is worse than none. A key is the
// exception, and only a warning: taking a key away, perhaps in haste, must not
// keep the configuration without it from taking effect.
func (c *compiler) match(m *match) accounting.Match {
	out := accounting.Match{
		Team:     patterns(c, m.Team, "team", c.teams),
		Purpose:  words(m.Purpose), // without a registry any word is one
		Provider: patterns(c, m.Provider, "provider", c.providers),
		Model:    words(m.Model),
		Key:      words(m.Key),
	}
	if c.Purposes.given() {
		patterns(c, m.Purpose, "purpose", c.purposes)
	}
	for _, t := range m.Model.items {
		if strings.Contains(t.v, "*") {
			c.matchesAny(t, "model", c.canonicals())
		} else {
			c.canonical(t)
		}
	}
	for _, t := range m.Key.items {
		if _, ok := c.keys[t.v]; !ok && !strings.Contains(t.v, "*") {
			c.warn(t.at, "no key %s, by name or id%s", quote(t.v), meant(t.v, sorted(c.keys)))
		}
	}
	for _, e := range m.Tags.entries {
		if out.Tags == nil {
			out.Tags = make(map[string][]string)
		}
		if _, dup := out.Tags[e.name.v]; !dup {
			out.Tags[e.name.v] = words(e.v)
		}
	}
	return out
}

func sorted[T any](names map[string]T) []string { return slices.Sorted(maps.Keys(names)) }

func words(m many[text]) []string { return values(m.list, textOf) }

// patterns checks the values of one field of a match against the names there
// are.
func patterns[T any](c *compiler, m many[text], what string, names map[string]T) []string {
	for _, t := range m.items {
		if strings.Contains(t.v, "*") {
			c.matchesAny(t, what, sorted(names))
		} else {
			known(c, t, what, names)
		}
	}
	return words(m)
}

func (c *compiler) matchesAny(t text, what string, names []string) {
	if !slices.ContainsFunc(names, func(n string) bool { return glob(t.v, n) }) {
		c.warn(t.at, "%s matches no %s yet", quote(t.v), what)
	}
}

// canonicals are the names of the models with a provider.
func (c *compiler) canonicals() []string {
	var out []string
	for i := range c.Models.entries {
		if e := &c.Models.entries[i]; e.v.Provider.given() {
			out = append(out, e.name.v)
		}
	}
	return out
}
