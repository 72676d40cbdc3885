package accounting

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"airgate/accounting/money"
	"airgate/accounting/usage"
)

// today is a day on which every row of the built-in list that has a date is
// in force.
var today = time.Date(2026, time.November, 21, 12, 0, 0, 0, time.UTC)

func mustPrice(t testing.TB, provider, model string) *Price {
	t.Helper()
	p, ok := Builtin().Price(provider, model, today)
	if !ok {
		t.Fatalf("Price(%q, %q) is unknown", provider, model)
	}
	return p
}

func usd(t testing.TB, text string) money.NanoUSD {
	t.Helper()
	amount, err := money.ParseUSD(text)
	if err != nil {
		t.Fatal(err)
	}
	return amount
}

// message is a usage of one item.
func message(tokens usage.Tokens) usage.Usage {
	return usage.Usage{Items: []usage.Item{{Kind: "message", Tokens: tokens}}}
}

// The figures are worked out by hand from the published rates.
func TestCost(t *testing.T) {
	const million = 1_000_000
	for name, test := range map[string]struct {
		provider, model string
		usage           usage.Usage
		want            string
	}{
		"input, cached input, output": {
			"openai", "gpt-5.4-mini",
			message(usage.Tokens{Input: million, CacheRead: million, Output: million, Reasoning: 400_000}), "5.325",
		},
		"the answer's service tier sets the price": {
			"openai", "gpt-5.4-mini",
			usage.Usage{ServiceTier: "priority", Items: []usage.Item{{Tokens: usage.Tokens{Input: 1000, Output: 100}}}},
			"0.0024",
		},
		"fast is OpenAI's newer word for priority": {
			"openai", "gpt-5.4-mini",
			usage.Usage{ServiceTier: "fast", Items: []usage.Item{{Tokens: usage.Tokens{Input: 1000, Output: 100}}}},
			"0.0024",
		},
		"flex": {
			"openai", "gpt-5.4-mini",
			usage.Usage{ServiceTier: "flex", Items: []usage.Item{{Tokens: usage.Tokens{Input: 1000, Output: 100}}}},
			"0.0006",
		},
		"flex of a model without a flex price costs the standard": {
			"openai", "gpt-4o",
			usage.Usage{ServiceTier: "flex", Items: []usage.Item{{Tokens: usage.Tokens{Input: 1000}}}},
			"0.0025",
		},
		"an unknown tier costs the dearest": {
			"openai", "gpt-5.4-mini",
			usage.Usage{ServiceTier: "scale", Items: []usage.Item{{Tokens: usage.Tokens{Input: 1000, Output: 100}}}},
			"0.0024",
		},
		"Anthropic's priority tier has no price of its own": {
			"anthropic", "claude-sonnet-4-6",
			usage.Usage{ServiceTier: "priority", Items: []usage.Item{{Tokens: usage.Tokens{Input: 1000}}}},
			"0.003",
		},
		"speed": {
			"anthropic", "claude-opus-4-8",
			usage.Usage{Speed: "fast", ServiceTier: "standard", Items: []usage.Item{{Tokens: usage.Tokens{Input: 1000, Output: 10}}}},
			"0.0105",
		},
		"at the threshold the base rate holds": {
			"openai", "gpt-5.4",
			message(usage.Tokens{Input: 272_000}), "0.68",
		},
		"above it the whole item is dearer, output too": {
			"openai", "gpt-5.4",
			message(usage.Tokens{Input: 272_001, Output: 1000}), "1.382505",
		},
		"cached tokens count towards the threshold": {
			"openai", "gpt-5.4",
			message(usage.Tokens{Input: 2000, CacheRead: 271_000, Output: 1000}), "0.168",
		},
		"the threshold is each item's own": {
			"openai", "gpt-5.4",
			usage.Usage{Items: []usage.Item{
				{Tokens: usage.Tokens{Input: 200_000}},
				{Tokens: usage.Tokens{Input: 200_000}},
			}},
			"1",
		},
		"cache writes": {
			"anthropic", "claude-sonnet-4-6",
			message(usage.Tokens{Input: 100, CacheWrite5m: 1000, CacheWrite1h: 1000, CacheRead: 10_000, Output: 10}), "0.0132",
		},
		"a region": {
			"anthropic", "claude-sonnet-4-6",
			usage.Usage{Geo: "us", Items: []usage.Item{{Tokens: usage.Tokens{Input: 1000, Output: 100}}}},
			"0.00495",
		},
		"no region": {
			"anthropic", "claude-sonnet-4-5",
			usage.Usage{Geo: "not_available", Items: []usage.Item{{Tokens: usage.Tokens{Input: 1000}}}},
			"0.003",
		},
		"searches are not uplifted": {
			"anthropic", "claude-sonnet-4-6",
			usage.Usage{Geo: "us", Items: []usage.Item{{Tokens: usage.Tokens{Input: 1000}}}, Calls: []usage.Call{{Kind: "web_search", Count: 2}, {Kind: "web_fetch", Count: 9}}},
			"0.0233",
		},
		"audio": {
			"openai", "gpt-4o-audio-preview",
			message(usage.Tokens{Input: 1000, InputAudio: 1000, Output: 100, OutputAudio: 100}), "0.0515",
		},
		"images without a rate of their own are text": {
			"openai", "gpt-5.4-mini",
			message(usage.Tokens{InputImage: 1000}), "0.00075",
		},
		"embeddings": {
			"openai", "text-embedding-3-small",
			message(usage.Tokens{Input: 8}), "0.00000016",
		},
		"one token is rounded up": {
			"openai", "gpt-5-nano",
			message(usage.Tokens{CacheRead: 1}), "0.000000005",
		},
		"nothing": {"openai", "gpt-5.4-mini", usage.Usage{}, "0"},
	} {
		t.Run(name, func(t *testing.T) {
			p := mustPrice(t, test.provider, test.model)
			if got, err := p.Cost(&test.usage, nil); err != nil || got != usd(t, test.want) {
				t.Errorf("Cost(%+v) at %s = %s, %v, want %s", test.usage, p.ID, got, err, test.want)
			}
		})
	}
}

func TestCostPricesEachItemByItsModel(t *testing.T) {
	c := Builtin()
	u := usage.Usage{
		Model: "claude-sonnet-5", ServiceTier: "standard", Geo: "global",
		Items: []usage.Item{
			{Model: "claude-sonnet-5", Kind: "message", Tokens: usage.Tokens{Input: 1128, Output: 135}},
			{Model: "claude-opus-4-8", Kind: "advisor_message", Tokens: usage.Tokens{Input: 2543, Output: 18}},
			{Kind: "message", Tokens: usage.Tokens{Input: 1283, Output: 10}},
		},
	}
	p := mustPrice(t, "anthropic", u.Model)
	got, err := p.Cost(&u, func(model string) *Price {
		q, _ := c.Price("anthropic", model, today)
		return q
	})
	want := usd(t, "0.019437") // (1128+1283)·2 + (135+10)·10 + 2543·5 + 18·25 µ$
	if err != nil || got != want {
		t.Errorf("Cost = %s, %v, want %s", got, err, want)
	}
}

func TestCostNamesWhatHasNoPrice(t *testing.T) {
	p := mustPrice(t, "anthropic", "claude-sonnet-4-6")
	u := usage.Usage{
		Items: []usage.Item{
			{Model: "claude-unheard-of", Tokens: usage.Tokens{Input: 1000}},
			{Model: "claude-unheard-of", Tokens: usage.Tokens{Input: 1000}},
		},
		Calls: []usage.Call{{Kind: "divination", Count: 3}, {Kind: "nothing", Count: 0}},
	}
	for name, lookup := range map[string]func(string) *Price{
		"no lookup":       nil,
		"lookup finds no": func(string) *Price { return nil },
	} {
		got, err := p.Cost(&u, lookup)
		unpriced, ok := errors.AsType[*UnpricedError](err)
		if !ok || !slices.Equal(unpriced.Models, []string{"claude-unheard-of"}) || !slices.Equal(unpriced.Calls, []string{"divination"}) {
			t.Errorf("%s: Cost error = %v, want the model and the kind once", name, err)
		}
		if want := "no price for model claude-unheard-of and for calls of divination"; err.Error() != want {
			t.Errorf("%s: Cost error = %q, want %q", name, err, want)
		}
		if want := usd(t, "0.006"); got != want {
			t.Errorf("%s: Cost = %s, want %s: at the rates of the price it was asked of", name, got, want)
		}
	}
}

func TestCostOverflows(t *testing.T) {
	p := mustPrice(t, "openai", "gpt-5.4-mini")
	u := message(usage.Tokens{Input: math.MaxInt64, Output: math.MaxInt64})
	if got, err := p.Cost(&u, nil); !errors.Is(err, money.ErrOverflow) || got != math.MaxInt64 {
		t.Errorf("Cost = %s, %v, want the largest amount and %v", got, err, money.ErrOverflow)
	}
	if got, err := p.Worst(math.MaxInt64, math.MaxInt64, Reach{}); !errors.Is(err, money.ErrOverflow) || got != math.MaxInt64 {
		t.Errorf("Worst = %s, %v, want the largest amount and %v", got, err, money.ErrOverflow)
	}
}

func TestWorst(t *testing.T) {
	const in, out = 1000, 100
	for name, test := range map[string]struct {
		provider, model string
		in              money.Tokens
		reach           Reach
		want            string
	}{
		"no tier asked: the account may be set to priority": {"openai", "gpt-5.4-mini", in, Reach{}, "0.0024"},
		"auto is the same":          {"openai", "gpt-5.4-mini", in, Reach{ServiceTier: "auto"}, "0.0024"},
		"an unknown tier too":       {"openai", "gpt-5.4-mini", in, Reach{ServiceTier: "scale"}, "0.0024"},
		"default is not priority":   {"openai", "gpt-5.4-mini", in, Reach{ServiceTier: "default"}, "0.0012"},
		"flex may not be cheaper":   {"openai", "gpt-5.4-mini", in, Reach{ServiceTier: "flex"}, "0.0012"},
		"the long tier begins at":   {"openai", "gpt-5.4", 272_000, Reach{ServiceTier: "default"}, "0.6815"},
		"and holds above":           {"openai", "gpt-5.4", 272_001, Reach{ServiceTier: "default"}, "1.362255"},
		"what is sold to askers":    {"openai", "gpt-6.1-sol", in, Reach{}, "0.007"},
		"unasked caching is billed": {"openai", "gpt-5.6-luna", in, Reach{ServiceTier: "default"}, "0.00037"},
		"Anthropic: any region":     {"anthropic", "claude-sonnet-4-6", in, Reach{}, "0.00495"},
		"global asked":              {"anthropic", "claude-sonnet-4-6", in, Reach{Geo: "global"}, "0.0045"},
		"cache_control":             {"anthropic", "claude-sonnet-4-6", in, Reach{Geo: "global", CacheWrite: true}, "0.00525"},
		"with the long lifetime":    {"anthropic", "claude-sonnet-4-6", in, Reach{Geo: "global", CacheWrite: true, CacheWrite1h: true}, "0.0075"},
		"speed only where asked":    {"anthropic", "claude-opus-4-8", in, Reach{Geo: "global"}, "0.0075"},
		"speed asked":               {"anthropic", "claude-opus-4-8", in, Reach{Geo: "global", Speed: "fast"}, "0.015"},
		"audio may be in it":        {"openai", "gpt-4o-audio-preview", in, Reach{}, "0.048"},
		"searches":                  {"anthropic", "claude-sonnet-4-6", in, Reach{Geo: "global", Calls: []usage.Call{{Kind: "web_search", Count: 3}}}, "0.0345"},
	} {
		t.Run(name, func(t *testing.T) {
			p := mustPrice(t, test.provider, test.model)
			if got, err := p.Worst(test.in, out, test.reach); err != nil || got != usd(t, test.want) {
				t.Errorf("Worst(%d, %d, %+v) at %s = %s, %v, want %s", test.in, out, test.reach, p.ID, got, err, test.want)
			}
		})
	}
	p := mustPrice(t, "anthropic", "claude-sonnet-4-6")
	_, err := p.Worst(in, out, Reach{Calls: []usage.Call{{Kind: "divination", Count: 1}}})
	if _, ok := errors.AsType[*UnpricedError](err); !ok {
		t.Errorf("Worst with an unpriced tool: error = %v, want *UnpricedError", err)
	}
}

// P12: c ≤ ĉ. Whatever an answer within the bounds is, and whatever row of
// those its request could reach it is billed by.
func TestCostNeverExceedsWorst(t *testing.T) {
	prices := allPrices()
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.SampledFrom(prices).Draw(t, "price")
		reach := drawReach(t, p)
		u := drawUsage(t, p, &reach)
		tokens := u.Tokens()
		in := tokens.TotalInput() + money.Tokens(rapid.Int64Range(0, 1000).Draw(t, "slack in"))
		out := tokens.TotalOutput() + money.Tokens(rapid.Int64Range(0, 1000).Draw(t, "slack out"))
		worst, err := p.Worst(in, out, reach)
		if err != nil {
			t.Fatalf("Worst(%d, %d, %+v) at %s: %v", in, out, reach, p.ID, err)
		}
		cost, err := p.Cost(&u, nil)
		if err != nil || cost > worst {
			t.Fatalf("Cost(%+v) at %s = %s, %v, above Worst(%d, %d, %+v) = %s", u, p.ID, cost, err, in, out, reach, worst)
		}
	})
}

// P12: more tokens never cost less.
func TestCostIsMonotone(t *testing.T) {
	prices := allPrices()
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.SampledFrom(prices).Draw(t, "price")
		reach := drawReach(t, p)
		u := drawUsage(t, p, &reach)
		before, err := p.Cost(&u, nil)
		if err != nil || len(u.Items) == 0 {
			return
		}
		item := &u.Items[rapid.IntRange(0, len(u.Items)-1).Draw(t, "item")].Tokens
		more := drawTokens(t, &Reach{CacheWrite: true, CacheWrite1h: true})
		item.Add(&more)
		if after, err := p.Cost(&u, nil); err != nil || after < before {
			t.Fatalf("Cost at %s = %s, %v after adding %+v, was %s", p.ID, after, err, more, before)
		}
	})
}

// Fit is the inverse of Worst.
func TestFitIsTheMostThatFits(t *testing.T) {
	prices := allPrices()
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.SampledFrom(prices).Draw(t, "price")
		reach := drawReach(t, p)
		in := money.Tokens(rapid.Int64Range(0, 1_200_000).Draw(t, "in"))
		room := money.NanoUSD(rapid.Int64Range(0, 20*int64(money.USD)).Draw(t, "room"))
		most := money.Tokens(rapid.Int64Range(0, 300_000).Draw(t, "most"))
		out, ok := p.Fit(room, in, most, reach)
		fits := func(out money.Tokens) bool {
			cost, err := p.Worst(in, out, reach)
			return err == nil && cost <= room
		}
		switch {
		case ok != fits(0):
			t.Fatalf("Fit(%s, %d, %d) at %s: ok = %v, want %v", room, in, most, p.ID, ok, !ok)
		case ok && (!fits(out) || out > most):
			t.Fatalf("Fit(%s, %d, %d) at %s = %d, which does not fit", room, in, most, p.ID, out)
		case ok && out < most && fits(out+1):
			t.Fatalf("Fit(%s, %d, %d) at %s = %d, but one more fits", room, in, most, p.ID, out)
		}
	})
}

func allPrices() []*Price {
	var all []*Price
	for _, m := range Builtin().models {
		all = append(all, m.prices...)
	}
	slices.SortFunc(all, func(a, b *Price) int { return strings.Compare(a.ID, b.ID) })
	return slices.Compact(all)
}

func drawReach(t *rapid.T, p *Price) Reach {
	tiers := []string{"", "auto", "default", "standard_only", "scale"}
	for i := range p.Services {
		tiers = append(tiers, p.Services[i].Name)
	}
	regions := []string{"", "global", "elsewhere"}
	for i := range p.Uplifts {
		regions = append(regions, p.Uplifts[i].Region)
	}
	r := Reach{
		CacheWrite:   rapid.Bool().Draw(t, "cache write"),
		CacheWrite1h: rapid.Bool().Draw(t, "cache write 1h"),
		ServiceTier:  rapid.SampledFrom(tiers).Draw(t, "tier asked"),
		Speed:        rapid.SampledFrom([]string{"", "standard", "fast"}).Draw(t, "speed asked"),
		Geo:          rapid.SampledFrom(regions).Draw(t, "region asked"),
	}
	for i := range p.Calls {
		r.Calls = append(r.Calls, usage.Call{Kind: p.Calls[i].Kind, Count: rapid.Int64Range(0, 50).Draw(t, "calls allowed")})
	}
	return r
}

// drawUsage draws what a provider may answer to such a request.
func drawUsage(t *rapid.T, p *Price, r *Reach) usage.Usage {
	tiers := []string{"default", "standard"}
	switch {
	case p.find(r.ServiceTier) != nil:
		tiers = append(tiers, r.ServiceTier)
	case !standardTier(r.ServiceTier):
		tiers = append(tiers, "", "auto", "priority", "flex", "batch", "anything")
	}
	speeds := []string{"", "standard"}
	if r.Speed == "fast" {
		speeds = append(speeds, "fast")
	}
	regions := []string{"", "global", "not_available", r.Geo}
	if r.Geo == "" && p.Provider == vendorAnthropic {
		regions = append(regions, "us", "elsewhere")
	}
	u := usage.Usage{
		ServiceTier: rapid.SampledFrom(tiers).Draw(t, "tier"),
		Speed:       rapid.SampledFrom(speeds).Draw(t, "speed"),
		Geo:         rapid.SampledFrom(regions).Draw(t, "region"),
	}
	written := *r
	written.CacheWrite = r.CacheWrite || p.Provider != vendorAnthropic
	for range rapid.IntRange(0, 3).Draw(t, "items") {
		u.AddItem(usage.Item{Tokens: drawTokens(t, &written)})
	}
	for _, c := range r.Calls {
		u.AddCalls(c.Kind, rapid.Int64Range(0, c.Count).Draw(t, "calls"))
	}
	return u
}

func drawTokens(t *rapid.T, r *Reach) usage.Tokens {
	count := rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(0, 5000), rapid.Int64Range(0, 600_000))
	n := func(name string) money.Tokens { return money.Tokens(count.Draw(t, name)) }
	tokens := usage.Tokens{
		Input: n("input"), CacheRead: n("cache read"), InputAudio: n("input audio"), InputImage: n("input image"),
		Output: n("output"), OutputAudio: n("output audio"), OutputImage: n("output image"),
	}
	if r.CacheWrite {
		tokens.CacheWrite5m = n("cache write 5m")
	}
	if r.CacheWrite1h {
		tokens.CacheWrite1h = n("cache write 1h")
	}
	return tokens
}

func TestCostAllocatesNothing(t *testing.T) {
	c, p := Builtin(), mustPrice(t, "openai", "gpt-5.4-mini")
	u := message(usage.Tokens{Input: 1200, CacheRead: 4096, Output: 300, Reasoning: 100})
	u.Model, u.ServiceTier = "gpt-5.4-mini-2026-03-17", "default"
	u.Items[0].Model = u.Model
	if n := testing.AllocsPerRun(100, func() {
		q, ok := c.Price("openai", u.Model, today)
		if !ok || q.ID != p.ID {
			t.Error("lookup failed")
		}
		_, _ = q.Cost(&u, nil)
		_, _ = q.Worst(5000, 1000, Reach{CacheWrite: true})
		_, _ = q.Fit(money.USD, 5000, 128_000, Reach{})
		_, _ = c.Price("openai", "unheard-of-2026-01-01", today)
	}); n != 0 {
		t.Errorf("lookup, Cost, Worst and Fit allocate %v times, want 0", n)
	}
}

func BenchmarkCost(b *testing.B) {
	p := mustPrice(b, "openai", "gpt-5.4-mini")
	u := message(usage.Tokens{Input: 1200, CacheRead: 4096, Output: 300})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Cost(&u, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWorst(b *testing.B) {
	p := mustPrice(b, "anthropic", "claude-sonnet-4-6")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Worst(5000, 4096, Reach{CacheWrite: true}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	c := Builtin()
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := c.Price("openai", "gpt-5.4-mini-2026-03-17", today); !ok {
			b.Fatal("unknown")
		}
	}
}
