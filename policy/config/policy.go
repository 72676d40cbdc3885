package config

import (
	"cmp"
	"errors"
	"strings"

	"airgate/policy"
)

// compilePolicy hands teams, purposes, models, keys and rules to package policy.
func (c *compiler) compilePolicy() {
	p := policy.Config{Shadow: c.snapshot.Shadow, Blocks: c.blocks()}
	for i := range c.Purposes.entries {
		e := &c.Purposes.entries[i]
		c.places[spot{"purposes", e.name.v, ""}] = e.name.at
		c.places[spot{"purposes", e.name.v, "default"}] = e.v.Default.at
		p.Purposes = append(p.Purposes, policy.PurposeConfig{Name: e.name.v, Owner: e.v.Owner.v, Default: e.v.Default.v})
	}
	for i := range c.Models.entries {
		p.Models = append(p.Models, c.modelEntry(&c.Models.entries[i]))
	}
	for i := range c.Teams.entries {
		p.Teams = append(p.Teams, c.team(&c.Teams.entries[i]))
	}
	for i := range c.Keys.items {
		p.Keys = append(p.Keys, c.key(&c.Keys.items[i]))
	}
	c.uniqueHashes()
	for i := range c.Rules.items {
		p.Rules = append(p.Rules, c.rule(&c.Rules.items[i]))
	}
	var err error
	if c.snapshot.Policy, err = policy.Compile(p); err == nil {
		return
	}
	var found policy.Problems
	if !errors.As(err, &found) {
		c.report(at{}, "%v", err)
		return
	}
	for _, f := range found {
		c.translate(f)
	}
}

// translate gives a problem of package policy its place.
func (c *compiler) translate(f *policy.Problem) {
	s := spot{f.Section, f.Name, f.Field}
	if c.told[s] || f.Name == "" {
		return // an entry without a name has been told
	}
	where, ok := c.places[s]
	if !ok || !where.given() {
		where = c.places[spot{f.Section, f.Name, ""}]
	}
	if r := c.rules[f.Name]; r != nil && f.Section == "rules" && f.Field == "when" && f.Line > 0 {
		where = r.When.inside(f.Line, f.Column)
	}
	subject := f.Field + ":"
	if f.Field == "" {
		subject = strings.TrimSuffix(f.Section, "s") + " " + quote(f.Name)
	}
	c.report(where, "%s %s", subject, f.Text)
}

func (c *compiler) modelEntry(e *entry[model]) policy.ModelEntry {
	m, name := &e.v, e.name.v
	c.places[spot{"models", name, ""}] = e.name.at
	c.places[spot{"models", name, "targets"}] = m.Targets.at
	c.places[spot{"models", name, "provider"}] = m.Provider.at
	c.told[spot{"models", name, "aliases"}] = true // by names
	c.told[spot{"models", name, ""}] = true        // by shapeOf
	out := policy.ModelEntry{Name: name}
	for _, alias := range m.Aliases.items {
		if c.aliases[alias.v] == name { // else another's, which has been told
			out.Aliases = append(out.Aliases, alias.v)
		}
	}
	if c.shapeOf(e) {
		if t := c.target(name, 0); t.Provider != "" {
			out.Targets = []policy.Target{t}
		}
	} else {
		for _, t := range m.Targets.items {
			if !c.canonical(t.Model) {
				c.told[spot{"models", name, "targets"}] = true
				continue
			}
			resolved := c.target(t.Model.v, int(t.Weight.v))
			if resolved.Provider == "" { // told at that model
				c.told[spot{"models", name, "targets"}] = true
			}
			out.Targets = append(out.Targets, resolved)
		}
	}
	for _, t := range out.Targets {
		out.Dialect = cmp.Or(out.Dialect, t.Dialect)
	}
	return out
}

// canonical reports a reference to what is not a model with a provider.
func (c *compiler) canonical(t text) bool {
	m := c.models[t.v]
	switch {
	case !t.good(): // told
	case m == nil && c.aliases[t.v] != "":
		c.report(t.at, "%s is an alias: write %s", quote(t.v), c.aliases[t.v])
	case m == nil:
		known(c, t, "model", c.models)
	case m.Targets.given() && !m.Provider.given():
		c.report(t.at, "model %s is split over targets: name those", quote(t.v))
	default:
		return true
	}
	return false
}

// shapeOf checks that a model has either a provider or targets, and says
// whether it is the former.
func (c *compiler) shapeOf(e *entry[model]) bool {
	m := &e.v
	switch {
	case m.refused:
		return true // told
	case m.Provider.given() && m.Targets.given():
		c.report(m.Targets.at, "provider and targets exclude each other: a split names models, and they name their providers")
	case !m.Provider.given() && !m.Targets.given():
		c.report(e.name.at, "model %s has nowhere to go: give it a provider, or targets to split its calls over", quote(e.name.v))
	case m.Targets.given() && len(m.Targets.items) == 0:
		c.report(m.Targets.at, "targets is empty: name the models to split the calls over")
	}
	if m.Provider.given() {
		if !known(c, m.Provider, "provider", c.providers) {
			c.told[spot{"models", e.name.v, "provider"}] = true
		}
		return true
	}
	for name, where := range map[string]at{
		"upstreamModel": m.UpstreamModel.at, "maxOutputTokens": m.MaxOutputTokens.at, "contextWindow": m.ContextWindow.at,
		"inputOverhead": m.InputOverhead.at,
	} {
		if where.given() {
			c.report(where, "%s belongs to the models among targets, which have a provider", name)
		}
	}
	return false
}

// target resolves a model that names a provider.
func (c *compiler) target(name string, weight int) policy.Target {
	m := c.models[name]
	t := policy.Target{Model: name, UpstreamModel: upstreamOf(name, m), Weight: weight}
	if p := c.providers[m.Provider.v]; p != nil {
		t.Provider, t.ProviderTags, t.Dialect = p.Name, p.Tags, string(p.Dialect)
	}
	return t
}

func upstreamOf(name string, m *model) string { return cmp.Or(m.UpstreamModel.v, name) }

func (c *compiler) team(e *entry[team]) policy.TeamConfig {
	t, name := &e.v, e.name.v
	in := func(field string) spot { return spot{"teams", name, field} }
	c.places[in("")] = e.name.at
	c.places[in("parent")] = t.Parent.at
	c.places[in("models")] = t.Models.at
	c.places[in("purposes")] = t.Purposes.at
	c.places[in("defaultPurpose")] = t.DefaultPurpose.at
	if t.Parent.given() && !known(c, t.Parent, "team", c.teams) {
		c.told[in("parent")] = true
	}
	c.modelList(t.Models, in("models"))
	if c.Purposes.given() {
		for _, p := range t.Purposes.items {
			if !known(c, p, "purpose", c.purposes) {
				c.told[in("purposes")] = true
			}
		}
		if t.DefaultPurpose.given() && !known(c, t.DefaultPurpose, "purpose", c.purposes) {
			c.told[in("defaultPurpose")] = true
		}
	}
	return policy.TeamConfig{
		Name: name, Parent: t.Parent.v, Models: values(t.Models, textOf), Purposes: values(t.Purposes, textOf),
		DefaultPurpose: t.DefaultPurpose.v, Owner: t.Owner.v, CostCenter: t.CostCenter.v, Tags: tagsOf(t.Tags),
	}
}

func (c *compiler) key(k *key) policy.KeyConfig {
	in := func(field string) spot { return spot{"keys", k.ID.v, field} }
	c.places[in("")] = k.at
	c.places[in("id")] = k.ID.at
	c.places[in("team")] = k.Team.at
	c.places[in("purpose")] = k.Purpose.at
	c.places[in("models")] = k.Models.at
	c.places[in("secrets")] = k.Secrets.at
	if !known(c, k.Team, "team", c.teams) {
		c.told[in("team")] = true
	}
	if k.Purpose.given() && c.Purposes.given() && !known(c, k.Purpose, "purpose", c.purposes) {
		c.told[in("purpose")] = true
	}
	c.modelList(k.Models, in("models"))
	for i := range k.Secrets.items {
		s := &k.Secrets.items[i]
		if s.Created.good() && s.Expires.good() && !s.Expires.v.After(s.Created.v) {
			c.report(s.Expires.at, "expires before it is created")
		}
		if !s.Hash.good() {
			c.told[in("secrets")] = true
		}
	}
	out := keyConfig(k)
	if revoked := c.revocations[k.ID.v]; !revoked.IsZero() && (out.Revoked.IsZero() || revoked.Before(out.Revoked)) {
		out.Revoked = revoked
	}
	return out
}

func keyConfig(k *key) policy.KeyConfig {
	out := policy.KeyConfig{
		ID: k.ID.v, Name: k.Name.v, Team: k.Team.v, Purpose: k.Purpose.v,
		Models: values(k.Models, textOf), Revoked: k.Revoked.v,
	}
	for i := range k.Secrets.items {
		s := &k.Secrets.items[i]
		out.Secrets = append(out.Secrets, policy.Secret{Hash: s.Hash.v, Created: s.Created.v, Expires: s.Expires.v})
	}
	return out
}

// uniqueHashes refuses one secret under two keys or twice under one: whoever
// copied the line meant another.
func (c *compiler) uniqueHashes() {
	first := make(map[[32]byte]at)
	for i := range c.Keys.items {
		for j := range c.Keys.items[i].Secrets.items {
			h := c.Keys.items[i].Secrets.items[j].Hash
			if !h.good() {
				continue
			}
			if before, dup := first[h.v]; dup {
				c.report(h.at, "this hash exists already: %s; let airgate keys create make another secret", before.where())
				continue
			}
			first[h.v] = h.at
		}
	}
}

func (c *compiler) rule(r *rule) policy.RuleConfig {
	name := r.Name.v
	c.rules[name] = r
	c.places[spot{"rules", name, ""}] = r.at
	c.places[spot{"rules", name, "name"}] = r.Name.at
	c.places[spot{"rules", name, "when"}] = r.When.at
	c.places[spot{"rules", name, "mode"}] = r.Mode.at
	if r.When.v == "" {
		c.told[spot{"rules", name, "when"}] = true
	}
	if r.Deny.refused || r.Set.given() && r.Set.MaxOutputTokens.v == 0 {
		c.told[spot{"rules", name, ""}] = true
	}
	out := policy.RuleConfig{
		Name: name, When: r.When.v, Deny: r.Deny.v,
		Set: policy.Set{MaxOutputTokens: r.Set.MaxOutputTokens.v}, Where: r.where(),
	}
	if r.Mode.v == "shadow" {
		out.Mode = policy.Shadow
	}
	return out
}
