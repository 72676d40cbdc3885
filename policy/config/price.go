package config

import (
	"time"

	"airgate/accounting"
	"airgate/accounting/money"
)

// compilePrices lays the overrides over the built-in catalogue and finds every
// model's terms.
func (c *compiler) compilePrices() {
	builtin := accounting.Builtin()
	var all []accounting.PriceOverride
	entries := unique(c, "price", c.Prices.USDPerMillionTokens.entries, entryName)
	overridden := make(map[string]bool)
	for i := range entries {
		e := &entries[i]
		if !c.canonical(e.name.text) {
			continue
		}
		m := c.models[e.name.v]
		p := c.providers[m.Provider.v]
		if p == nil {
			continue // told
		}
		own, ok := c.overrides(e, string(p.Dialect), upstreamOf(e.name.v, m))
		if !ok {
			continue // told
		}
		if _, err := builtin.With(own); err != nil {
			c.report(e.name.at, "%v", err)
			continue
		}
		c.plausible(builtin, e, own)
		overridden[e.name.v] = true
		all = append(all, own...)
	}
	prices, err := builtin.With(all)
	if err != nil {
		c.report(c.Prices.at, "%v", err)
		prices = builtin
	}
	c.snapshot.Prices = prices
	for i := range c.Models.entries {
		if e := &c.Models.entries[i]; e.v.Provider.given() {
			c.term(prices, e, overridden[e.name.v])
		}
	}
}

// overrides are the rows of one model; not ok if one of them is wrong.
func (c *compiler) overrides(e *entry[many[priceRow]], vendor, upstream string) (out []accounting.PriceOverride, ok bool) {
	first := make(map[time.Time]at)
	ok = e.v.good()
	for i := range e.v.items {
		r := &e.v.items[i]
		o := accounting.PriceOverride{Provider: vendor, Model: upstream, From: r.From.v}
		stated := false
		for _, p := range []struct {
			from *price
			to   **money.Rate
		}{
			{&r.Input, &o.Input},
			{&r.CacheRead, &o.CacheRead},
			{&r.CacheWrite5m, &o.CacheWrite5m},
			{&r.CacheWrite1h, &o.CacheWrite1h},
			{&r.Output, &o.Output},
		} {
			ok = ok && !p.from.refused
			if p.from.given() {
				stated, *p.to = true, &p.from.v
			}
		}
		if !stated {
			c.report(r.at, "names no price: give input and output")
			ok = false
		}
		if before, dup := first[r.From.v]; dup && !r.From.refused {
			c.report(r.at, "two prices hold from the same instant: see %s, and give this one another from", before.where())
			ok = false
		}
		first[r.From.v] = r.at
		out = append(out, o)
	}
	return out, ok
}

// plausible warns of prices far from the catalogue's: per token instead of per
// million is a recurrent mistake.
func (c *compiler) plausible(builtin *accounting.Catalogue, e *entry[many[priceRow]], own []accounting.PriceOverride) {
	const far = 20
	for i := range own {
		listed, ok := builtin.Price(own[i].Provider, own[i].Model, c.now)
		if !ok {
			continue
		}
		for _, p := range []struct {
			given  *money.Rate
			listed money.Rate
		}{{own[i].Input, listed.Input}, {own[i].Output, listed.Output}} {
			if p.given != nil && p.listed > 0 && (*p.given/far > p.listed || *p.given < p.listed/far) {
				c.warn(e.name.at, "the price %s is far from the catalogue's %s USD per million tokens: is it meant?", p.given, p.listed)
			}
		}
	}
}

// term finds what a call of a model costs at most.
func (c *compiler) term(prices *accounting.Catalogue, e *entry[model], overridden bool) {
	m, name := &e.v, e.name.v
	p := c.providers[m.Provider.v]
	if p == nil {
		return // told
	}
	t := terms{vendor: string(p.Dialect), upstream: upstreamOf(name, m)}
	row, priced := prices.Price(t.vendor, t.upstream, c.now)
	if priced {
		t.maxOutput, t.context = row.MaxOutput, row.ContextWindow
	}
	if v := m.ContextWindow; v.good() {
		if t.context > 0 && money.Tokens(v.v) < t.context {
			c.report(v.at, "the catalogue says %d: a smaller window would make the bound of a budget wrong", t.context)
		}
		t.context = money.Tokens(v.v)
	}
	t.overhead = money.Tokens(m.InputOverhead.v)
	if m.MaxOutputTokens.given() {
		t.maxOutput = max(money.Tokens(m.MaxOutputTokens.v), 1)
	}
	switch {
	case t.maxOutput == 0 && (m.UpstreamModel.given() || !priced):
		c.report(e.name.at, "the catalogue does not know what %s of dialect %s generates at most: add maxOutputTokens (and contextWindow), or correct upstreamModel", quote(t.upstream), t.vendor)
	case t.maxOutput == 0:
		c.report(e.name.at, "the catalogue does not know what %s generates at most: add maxOutputTokens (1 if it only embeds)", quote(t.upstream))
	case !priced && (c.snapshot.AllowUnpriced || c.snapshot.Shadow):
		c.warn(e.name.at, "model %s has no price, so its calls are recorded as unpriced: add prices.usdPerMillionTokens.%s", quote(name), name)
	case !priced:
		c.warn(e.name.at, "model %s has no price, so its calls are refused (model_unpriced): add prices.usdPerMillionTokens.%s", quote(name), name)
	case row.Source == overrideSource && !overridden:
		c.warn(e.name.at, "model %s has the price that is configured for another model: both are %s upstream", quote(name), quote(t.upstream))
	}
	c.terms[name] = t
}

// overrideSource is the Source of a price that is not the catalogue's.
const overrideSource = "override"
