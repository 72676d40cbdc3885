package accounting

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"airgate/accounting/money"
	"airgate/accounting/usage"
)

func TestLookup(t *testing.T) {
	c := Builtin()
	for model, want := range map[string]string{
		"openai gpt-5.4-mini":                          "openai/gpt-5.4-mini@launch",
		"openai gpt-5.4-nano":                          "openai/gpt-5.4-nano@launch",
		"anthropic claude-sonnet-4-6":                  "anthropic/claude-sonnet-4-6@2026-03-13",
		"openai gpt-5.4-mini-2026-03-17":               "openai/gpt-5.4-mini@launch",
		"openai gpt-5.4-mini-2026-05-01":               "openai/gpt-5.4-mini@launch",
		"anthropic claude-sonnet-4-6-20260501":         "anthropic/claude-sonnet-4-6@2026-03-13",
		"anthropic claude-sonnet-4@20250514":           "anthropic/claude-sonnet-4@launch",
		"anthropic claude-sonnet-4-20250514":           "anthropic/claude-sonnet-4@launch",
		"anthropic claude-3-5-haiku-latest":            "anthropic/claude-3-5-haiku@launch",
		"openai gpt-5-chat-latest":                     "openai/gpt-5-chat@launch",
		"openai chatgpt-4o-latest":                     "openai/chatgpt-4o-latest@launch",
		"openai gpt-4o-2024-08-06":                     "openai/gpt-4o@launch",
		"openai gpt-4o-2024-05-13":                     "openai/gpt-4o-2024-05-13@launch", // dearer than its family
		"openai gpt-5-4":                               "openai/gpt-5.4@launch",
		"openai ft:gpt-4o-2024-08-06:acme::Ab12":       "openai/ft:gpt-4o@launch",
		"openai ft:gpt-4o-mini-2024-07-18:acme:x:Ab12": "openai/ft:gpt-4o-mini@launch",
		"openai davinci:2023-07-21-v2":                 "openai/davinci-002@launch",
		"openai gpt-4o-mini-search-preview-2025-03-11": "openai/gpt-4o-mini-search-preview@launch",
		"openai gpt-4o-mini-audio-preview-2024-12-17":  "openai/gpt-4o-mini-audio-preview@launch",
		"openai text-embedding-3-large":                "openai/text-embedding-3-large@launch",
		"openai o3":                                    "openai/o3@2025-06-10",
		"anthropic gpt-5.4-mini":                       "",
		"openai claude-sonnet-4-6":                     "",
		"openai gpt-5.4-mini-2026-13-01":               "",
		"openai gpt-5.4-mini-2026-3-17":                "",
		"openai gpt-5.4-mini-9999-03-17":               "",
		"openai gpt-5.4-maxi":                          "",
		"openai gpt-5.4-mini-turbo":                    "",
		"anthropic claude-opus-4-10":                   "",
		"anthropic claude-sonnet-4-6-fast":             "",
		"openai ft:unheard-of:acme::Ab12":              "",
		"openai ft:":                                   "",
		"openai -latest":                               "",
		"openai -2026-03-17":                           "",
		"openai ":                                      "",
		" ":                                            "",
	} {
		provider, name, _ := strings.Cut(model, " ")
		p, ok := c.Price(provider, name, today)
		if ok != (want != "") || ok && p.ID != want {
			t.Errorf("Price(%q, %q) = %v, %t, want %q", provider, name, p, ok, want)
		}
	}
}

// A row holds from the first instant of its day, UTC, to that of the next.
func TestRowsAreHalfOpen(t *testing.T) {
	c := Builtin()
	cut := time.Date(2026, time.July, 30, 0, 0, 0, 0, time.UTC) // Luna −80 %
	tokyo := time.FixedZone("Tokyo", 9*60*60)
	for _, test := range []struct {
		at   time.Time
		want string
	}{
		{time.Time{}, "1"},
		{cut.Add(-1), "1"},
		{cut, "0.2"},
		{cut.In(tokyo), "0.2"},
		{cut.Add(-1).In(tokyo), "1"}, // already the 30th there
		{today, "0.2"},
	} {
		p, ok := c.Price("openai", "gpt-5.6-luna", test.at)
		if !ok || p.Input.String() != test.want {
			t.Errorf("Price(gpt-5.6-luna) at %s: input %s, %t, want %s", test.at, p.Input, ok, test.want)
		}
	}
}

// The whole list is sane: a price that is off by a factor of a million, a tier
// that is cheaper than the one below, a row that cannot be told from another.
func TestBuiltin(t *testing.T) {
	c := Builtin()
	if !regexp.MustCompile(`^\d{4}-\d\d-\d\d\.[0-9a-f]{12}$`).MatchString(c.Version()) {
		t.Errorf("Version() = %q, want a day and a hash", c.Version())
	}
	if again := Builtin().Version(); again != c.Version() {
		t.Errorf("Version() = %q, then %q", c.Version(), again)
	}
	prices := allPrices()
	if len(prices) < 100 {
		t.Fatalf("%d rows, want more than a hundred", len(prices))
	}
	ids := make(map[string]bool)
	for _, p := range prices {
		if ids[p.ID] {
			t.Errorf("two rows are %s", p.ID)
		}
		ids[p.ID] = true
		if p.Source == "" || p.Provider == "" || p.Model == "" {
			t.Errorf("%s: %+v lacks a source, provider or model", p.ID, p)
		}
		if p.MaxOutput > 400_000 || p.ContextWindow > 2_100_000 || p.MaxOutput < 0 || p.ContextWindow < 0 {
			t.Errorf("%s: output %d, context %d", p.ID, p.MaxOutput, p.ContextWindow)
		}
		schedules := map[string]*Schedule{"standard": &p.Schedule}
		for i := range p.Services {
			schedules[p.Services[i].Name] = &p.Services[i].Schedule
		}
		for name, s := range schedules {
			before := &s.Rates
			below := money.Tokens(0)
			checkRates(t, p.ID+" "+name, before)
			for i := range s.Tiers {
				tier := &s.Tiers[i]
				checkRates(t, p.ID+" "+name, &tier.Rates)
				if tier.Above <= below || tier.Above < 10_000 {
					t.Errorf("%s %s: tier above %d after %d", p.ID, name, tier.Above, below)
				}
				for j, rate := range tier.Rates.fields() {
					if *rate < *before.fields()[j] {
						t.Errorf("%s %s: %s is cheaper above %d", p.ID, name, bucketNames()[j], tier.Above)
					}
				}
				before, below = &tier.Rates, tier.Above
			}
		}
	}
	for _, want := range []struct{ provider, model string }{
		{"openai", "gpt-5.4-mini"}, {"openai", "gpt-5.4-nano"}, {"anthropic", "claude-sonnet-4-6"},
	} {
		p := mustPrice(t, want.provider, want.model)
		if p.MaxOutput == 0 || p.ContextWindow == 0 {
			t.Errorf("%s: output %d, context %d, want both known", p.ID, p.MaxOutput, p.ContextWindow)
		}
	}
}

func checkRates(t *testing.T, where string, r *Rates) {
	t.Helper()
	const dollar = money.Rate(money.USD)
	for i, rate := range r.fields() {
		if *rate < dollar/1000 || *rate > 1000*dollar {
			t.Errorf("%s: %s = %s USD per million, want 0.001 to 1000", where, bucketNames()[i], *rate)
		}
	}
	if r.CacheRead > r.Input || r.CacheWrite5m < r.Input || r.CacheWrite1h < r.CacheWrite5m || r.Output < r.Input || r.InputAudio < r.Input || r.OutputAudio < r.Output {
		t.Errorf("%s: %+v is out of order", where, *r)
	}
}

func TestUnstatedRates(t *testing.T) {
	const dollar = money.Rate(money.USD)
	for name, test := range map[string]struct {
		provider string
		stated   Rates
		want     Rates
	}{
		"Anthropic writes cost 1.25 and 2 times": {
			vendorAnthropic,
			Rates{Input: 3 * dollar, Output: 15 * dollar},
			Rates{3 * dollar, 3 * dollar, 3_750_000_000, 6 * dollar, 3 * dollar, 3 * dollar, 15 * dollar, 15 * dollar, 15 * dollar},
		},
		"others charge for writes only where they say so": {
			"openai",
			Rates{Input: 2 * dollar, Output: 8 * dollar},
			Rates{2 * dollar, 2 * dollar, 2 * dollar, 2 * dollar, 2 * dollar, 2 * dollar, 8 * dollar, 8 * dollar, 8 * dollar},
		},
		"a long write costs twice where a short one has a premium": {
			"openai",
			Rates{Input: 4 * dollar, CacheWrite5m: 5 * dollar, Output: 20 * dollar},
			Rates{4 * dollar, 4 * dollar, 5 * dollar, 8 * dollar, 4 * dollar, 4 * dollar, 20 * dollar, 20 * dollar, 20 * dollar},
		},
		"embeddings": {
			"openai",
			Rates{Input: dollar},
			Rates{dollar, dollar, dollar, dollar, dollar, dollar, dollar, dollar, dollar},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := test.stated
			for _, rate := range got.fields() {
				if *rate == 0 {
					*rate = unstated
				}
			}
			if got.fill(test.provider); got != test.want {
				t.Errorf("fill(%q) of %+v = %+v, want %+v", test.provider, test.stated, got, test.want)
			}
		})
	}
}

func TestOverrides(t *testing.T) {
	rate := func(text string) *money.Rate {
		r, err := money.ParseRate(text)
		if err != nil {
			t.Fatal(err)
		}
		return &r
	}
	october := time.Date(2026, time.October, 1, 0, 0, 0, 0, time.UTC)
	base := Builtin()
	c, err := base.With([]PriceOverride{
		{Provider: "anthropic", Model: "claude-sonnet-4-6", From: october, Input: rate("2.70"), CacheRead: rate("0.27"), CacheWrite5m: rate("3.375"), Output: rate("13.50")},
		{Provider: "openai", Model: "gpt-5.4", Input: rate("2"), From: october},
		{Provider: "openai", Model: "in-house-1", Input: rate("0.5"), Output: rate("1")},
	})
	if err != nil {
		t.Fatal(err)
	}

	p, _ := c.Price("anthropic", "claude-sonnet-4-6-20260501", october)
	if want := (Rates{
		Input: *rate("2.7"), CacheRead: *rate("0.27"), CacheWrite5m: *rate("3.375"),
		CacheWrite1h: *rate("6"), // absent: the list's
		InputAudio:   *rate("2.7"), InputImage: *rate("2.7"),
		Output: *rate("13.5"), OutputAudio: *rate("13.5"), OutputImage: *rate("13.5"),
	}); p.Rates != want {
		t.Errorf("overridden rates = %+v, want %+v", p.Rates, want)
	}
	if !strings.HasPrefix(p.ID, "anthropic/claude-sonnet-4-6@2026-03-13+override.2026-10-01.") || p.Source != "override" {
		t.Errorf("ID, Source = %s, %s, want them to tell the override", p.ID, p.Source)
	}
	if got := p.find("batch"); got == nil || got.Input != *rate("1.35") || got.CacheWrite1h != *rate("3") {
		t.Errorf("batch = %+v, want its ratio to the overridden rates kept", got)
	}
	if p.MaxOutput != 128_000 || len(p.Calls) == 0 || len(p.Uplifts) == 0 {
		t.Errorf("%+v lost limits, calls or uplifts", p)
	}
	if p, _ := c.Price("anthropic", "claude-sonnet-4-6", october.Add(-1)); p.ID != "anthropic/claude-sonnet-4-6@2026-03-13" || p.Source == "override" {
		t.Errorf("before its day: %s, want the list's row", p.ID)
	}

	p, _ = c.Price("openai", "gpt-5-4", today) // an alias
	if p.Input != *rate("2") || p.Output != *rate("15") || len(p.Tiers) != 1 || p.Tiers[0].Rates.Input != *rate("4") || p.Tiers[0].Rates.Output != *rate("22.5") {
		t.Errorf("gpt-5.4 = %+v, want the long-context tier at twice the new input", p.Schedule)
	}

	p, ok := c.Price("openai", "in-house-1", today)
	if !ok || p.Input != *rate("0.5") || p.MaxOutput != 0 || !strings.HasPrefix(p.ID, "openai/in-house-1@launch+override.launch.") {
		t.Errorf("a model of one's own = %+v, %t", p, ok)
	}

	if c.Version() == base.Version() || !strings.HasPrefix(c.Version(), base.Version()+"+override.") {
		t.Errorf("Version() = %q over %q", c.Version(), base.Version())
	}
	if p, _ := base.Price("openai", "gpt-5.4", today); p.Input != *rate("2.5") {
		t.Error("With changed the catalogue it was called on")
	}
	other, err := base.With([]PriceOverride{{Provider: "openai", Model: "gpt-5.4", Input: rate("2.1"), From: october}})
	if err != nil {
		t.Fatal(err)
	}
	q, _ := other.Price("openai", "gpt-5.4", today)
	p, _ = c.Price("openai", "gpt-5.4", today)
	if q.ID == p.ID || other.Version() == c.Version() {
		t.Errorf("other rates have the same ID %s or version %s", q.ID, other.Version())
	}
	if same, err := base.With(nil); err != nil || same != base {
		t.Errorf("With(nil) = %v, %v, want the same catalogue", same, err)
	}
}

// An override outlives the list's later changes, which lend what it leaves nil.
func TestOverrideOutlivesTheList(t *testing.T) {
	input := money.Rate(money.USD) / 2
	c, err := Builtin().With([]PriceOverride{{Provider: "openai", Model: "gpt-5.6-luna", Input: &input}})
	if err != nil {
		t.Fatal(err)
	}
	cut := time.Date(2026, time.July, 30, 0, 0, 0, 0, time.UTC)
	for at, want := range map[time.Time]string{cut.Add(-1): "6", cut: "1.2"} {
		p, ok := c.Price("openai", "gpt-5.6-luna", at)
		if !ok || p.Input != input || p.Output.String() != want {
			t.Errorf("at %s: input %s, output %s, %t, want 0.5 and %s", at, p.Input, p.Output, ok, want)
		}
	}
}

// Two models under one price list's heading are two: an override of one leaves
// the other.
func TestOverrideOfOneName(t *testing.T) {
	free := money.Rate(0)
	c, err := Builtin().With([]PriceOverride{{Provider: "openai", Model: "gpt-4o-2024-08-06", Input: &free}})
	if err != nil {
		t.Fatal(err)
	}
	p, _ := c.Price("openai", "gpt-4o-2024-08-06", today)
	q, _ := c.Price("openai", "gpt-4o", today)
	if p.Input != 0 || q.Input == 0 {
		t.Errorf("input of the dated name %s, of its family %s, want only the first free", p.Input, q.Input)
	}
}

func TestOverridesRefused(t *testing.T) {
	one, minus := money.Rate(money.USD), money.Rate(-1)
	for name, test := range map[string]struct {
		overrides []PriceOverride
		want      string
	}{
		"an unknown model without output": {[]PriceOverride{{Provider: "openai", Model: "mine", Input: &one}}, "price openai/mine: not in the catalogue: give input and output"},
		"two on one day":                  {[]PriceOverride{{Provider: "openai", Model: "gpt-5.4", Input: &one}, {Provider: "openai", Model: "gpt-5-4", Output: &one}}, "two overrides from launch"},
		"a negative price":                {[]PriceOverride{{Provider: "openai", Model: "gpt-5.4", Output: &minus}}, "price openai/gpt-5.4: output: a price cannot be negative"},
	} {
		t.Run(name, func(t *testing.T) {
			if c, err := Builtin().With(test.overrides); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("With = %v, %v, want an error with %q", c, err, test.want)
			}
		})
	}
}

func TestScaleRateRoundsUpAndSaturates(t *testing.T) {
	for _, test := range []struct{ rate, num, den, want money.Rate }{
		{10, 1, 3, 4},
		{9, 1, 3, 3},
		{0, 5, 3, 0},
		{1 << 62, 3, 2, 1<<62 + 1<<61},
		{1 << 62, 2, 1, 1<<63 - 1},
		{1 << 62, 1 << 62, 1, 1<<63 - 1},
	} {
		if got := scaleRate(test.rate, test.num, test.den); got != test.want {
			t.Errorf("scaleRate(%d, %d, %d) = %d, want %d", test.rate, test.num, test.den, got, test.want)
		}
	}
}

func TestOverrideFromAnInstant(t *testing.T) {
	one := money.Rate(money.USD)
	noon := time.Date(2026, time.October, 1, 12, 0, 0, 0, time.UTC)
	c, err := Builtin().With([]PriceOverride{{Provider: "openai", Model: "mine", From: noon, Input: &one, Output: &one}})
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := c.Price("openai", "mine", noon.Add(-1)); ok {
		t.Errorf("before its first price: %s, want unknown", p.ID)
	}
	p, ok := c.Price("openai", "mine", noon)
	if !ok || !strings.Contains(p.ID, "+override.2026-10-01T12:00:00Z.") {
		t.Errorf("at noon: %+v, %t, want the override with its instant in the ID", p, ok)
	}
}

func TestReadCatalogueRefuses(t *testing.T) {
	const about = `"about":{"checked":"2026-01-01","sources":[{"name":"a","version":"1"}]}`
	for name, test := range map[string]struct{ data, want string }{
		"no JSON":              {`{`, "read catalogue"},
		"unknown field":        {`{"abuot":{}}`, "unknown field"},
		"no source":            {`{}`, "no source"},
		"unknown source":       {`{` + about + `,"models":[{"model":"x/y"}],"prices":[{"model":"x/y","source":"b","input":"1"}]}`, "unknown model or source"},
		"unknown model":        {`{` + about + `,"models":[{"model":"x/y"}],"prices":[{"model":"x/z","input":"1"}]}`, "unknown model or source"},
		"no provider":          {`{` + about + `,"models":[{"model":"y"}]}`, "provider/name"},
		"a name twice":         {`{` + about + `,"models":[{"model":"x/y"},{"model":"x/z","names":["y"]}]}`, "is taken"},
		"no price":             {`{` + about + `,"models":[{"model":"x/y"}]}`, "no price"},
		"a number":             {`{` + about + `,"models":[{"model":"x/y"}],"prices":[{"model":"x/y","input":1}]}`, "read catalogue"},
		"negative":             {`{` + about + `,"models":[{"model":"x/y"}],"prices":[{"model":"x/y","input":"-1"}]}`, "negative"},
		"no input":             {`{` + about + `,"models":[{"model":"x/y"}],"prices":[{"model":"x/y","output":"1"}]}`, "no input rate"},
		"service first":        {`{` + about + `,"models":[{"model":"x/y"}],"prices":[{"model":"x/y","service":"flex","input":"1"}]}`, "standard rates"},
		"tier first":           {`{` + about + `,"models":[{"model":"x/y"}],"prices":[{"model":"x/y","above":5,"input":"1"}]}`, "standard rates"},
		"a row twice":          {`{` + about + `,"models":[{"model":"x/y"}],"prices":[{"model":"x/y","input":"1"},{"model":"x/y","input":"1"}]}`, "not in order"},
		"a service twice":      {`{` + about + `,"models":[{"model":"x/y"}],"prices":[{"model":"x/y","input":"1"},{"model":"x/y","service":"a","input":"1"},{"model":"x/y","service":"b","input":"1"},{"model":"x/y","service":"a","input":"1"}]}`, "twice"},
		"rows not in order":    {`{` + about + `,"models":[{"model":"x/y"}],"prices":[{"model":"x/y","from":"2026-01-02","input":"1"},{"model":"x/y","from":"2026-01-01","input":"1"}]}`, "order of time"},
		"a day that is none":   {`{` + about + `,"models":[{"model":"x/y"}],"prices":[{"model":"x/y","from":"2026-02-30","input":"1"}]}`, "day out of range"},
		"an uplift of nothing": {`{` + about + `,"models":[{"model":"x/y","uplift":{"us":"x"}}]}`, "uplift us"},
	} {
		t.Run(name, func(t *testing.T) {
			if c, err := readCatalogue([]byte(test.data)); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("readCatalogue = %v, %v, want an error with %q", c, err, test.want)
			}
		})
	}
}

// corpus returns the folder of recorded exchanges beside the repository.
func corpus(t *testing.T) string {
	t.Helper()
	root, err := os.Getwd()
	for err == nil {
		if _, missing := os.Stat(filepath.Join(root, "go.mod")); missing == nil {
			break
		}
		if root == filepath.Dir(root) {
			t.Fatal("no go.mod above the test")
		}
		root = filepath.Dir(root)
	}
	dir := filepath.Join(root, "..", "shared", "corpus")
	if _, err := os.Stat(dir); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("the corpus is missing: %v", err)
		}
		t.Skipf("the corpus is missing: %v", err)
	}
	return dir
}

type recording struct {
	dir          string
	Provider     string           `json:"provider"`
	Model        string           `json:"model"`
	UsagePresent bool             `json:"usage_present"`
	ServiceTier  string           `json:"service_tier"`
	Geo          string           `json:"inference_geo"`
	Searches     int64            `json:"web_search_requests"`
	Tools        map[string]int64 `json:"builtin_tool_calls"`
	ProviderCost json.Number      `json:"provider_cost_usd"`
	Items        []struct {
		Model    string       `json:"model"`
		Kind     string       `json:"kind"`
		Uncached money.Tokens `json:"uncached_input_tokens"`
		Cached   money.Tokens `json:"cached_input_tokens"`
		Written  money.Tokens `json:"cache_write_tokens"`
		Long     money.Tokens `json:"cache_write_1h_tokens"`
		Output   money.Tokens `json:"output_tokens"`
	} `json:"billing_items"`
}

func (r *recording) usage() usage.Usage {
	u := usage.Usage{Model: r.Model, ServiceTier: r.ServiceTier, Geo: r.Geo}
	for _, i := range r.Items {
		u.AddItem(usage.Item{Model: i.Model, Kind: i.Kind, Tokens: usage.Tokens{
			Input: i.Uncached, CacheRead: i.Cached, CacheWrite5m: i.Written - i.Long, CacheWrite1h: i.Long, Output: i.Output,
		}})
	}
	u.AddCalls("web_search", r.Searches)
	for kind, n := range r.Tools {
		u.AddCalls(strings.TrimSuffix(kind, "_call"), n)
	}
	return u
}

func recordings(t *testing.T, providers ...string) []recording {
	t.Helper()
	root := corpus(t)
	var all []recording
	for _, provider := range providers {
		err := filepath.WalkDir(filepath.Join(root, provider), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.Name() != "expected.json" {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			r := recording{dir: filepath.Dir(path)}
			if err := json.Unmarshal(data, &r); err != nil {
				return err
			}
			all = append(all, r)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// Every recorded answer with a usage has a price, costs something, and never
// more than the worst case of its own figures (P12).
func TestRecordingsArePriced(t *testing.T) {
	c := Builtin()
	lookup := func(provider string) func(string) *Price {
		return func(model string) *Price {
			p, _ := c.Price(provider, model, today)
			return p
		}
	}
	priced := 0
	for _, r := range recordings(t, "openai", "anthropic") {
		if !r.UsagePresent || r.Model == "" { // a transcription names no model
			continue
		}
		p, ok := c.Price(r.Provider, r.Model, today)
		if !ok {
			t.Errorf("%s: no price for %s", r.dir, r.Model)
			continue
		}
		u := r.usage()
		u.Calls = slices.DeleteFunc(u.Calls, func(c usage.Call) bool { return c.Kind == "tool_search" }) // no list prices it
		cost, err := p.Cost(&u, lookup(r.Provider))
		if err != nil || cost <= 0 {
			t.Errorf("%s: Cost = %s, %v, want more than nothing", r.dir, cost, err)
		}
		var worst money.NanoUSD
		for _, item := range u.Items {
			q := p
			if item.Model != r.Model {
				q = lookup(r.Provider)(item.Model)
			}
			bound, err := q.Worst(item.Tokens.TotalInput(), item.Tokens.TotalOutput(), Reach{CacheWrite: true, CacheWrite1h: item.Tokens.CacheWrite1h > 0})
			if err != nil {
				t.Errorf("%s: Worst: %v", r.dir, err)
			}
			worst += bound
		}
		calls, err := p.Worst(0, 0, Reach{Calls: u.Calls})
		if worst += calls; err != nil || cost > worst {
			t.Errorf("%s: Cost = %s, above Worst = %s, %v", r.dir, cost, worst, err)
		}
		priced++
	}
	if priced < 20 {
		t.Errorf("%d recordings priced, want more than 20", priced)
	}
}

// Where a provider reports its own cost, its published rates give that cost.
func TestRecordedCosts(t *testing.T) {
	for model, rates := range map[string][3]string{ // :: recorded model → USD per million uncached, cached, out
		"grok-4-fast-reasoning":     {"0.2", "0.05", "0.5"},
		"anthropic/claude-sonnet-4": {"3", "0.3", "15"},
	} {
		checked := 0
		for _, r := range recordings(t, "xai", "vercel_gateway") {
			if r.Model != model || r.ProviderCost == "" {
				continue
			}
			row := row{sheets: []sheet{{rates: unstatedRates()}}}
			for i, field := range []*money.Rate{&row.sheets[0].rates.Input, &row.sheets[0].rates.CacheRead, &row.sheets[0].rates.Output} {
				var err error
				if *field, err = money.ParseRate(rates[i]); err != nil {
					t.Fatal(err)
				}
			}
			p := (&priced{provider: r.Provider, model: r.Model}).price(&row)
			u := r.usage()
			got, err := p.Cost(&u, nil)
			want := ceilUSD(t, r.ProviderCost)
			if err != nil || got != want {
				t.Errorf("%s: Cost = %s, %v, the provider says %s", r.dir, got, err, want)
			}
			checked++
		}
		if checked == 0 {
			t.Errorf("no recording of %s with a cost", model)
		}
	}
}

// ceilUSD reads a JSON number such as 7.39e-05.
func ceilUSD(t *testing.T, n json.Number) money.NanoUSD {
	t.Helper()
	digits, exponent, _ := strings.Cut(n.String(), "e-")
	if exponent != "" {
		places := int(exponent[0]-'0')*10 + int(exponent[1]-'0')
		digits = "0." + strings.Repeat("0", places-1) + strings.Replace(digits, ".", "", 1)
	}
	return usd(t, digits)
}
