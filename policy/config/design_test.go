package config

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"airgate/accounting"
)

// designText is an example of the design as an input. The one placeholder in
// it, a hash, is filled in.
func designText(t *testing.T, name string) string {
	t.Helper()
	text := readText(t, "testdata/design/"+name)
	return strings.ReplaceAll(text, "…64 hex…", strings.Repeat("0123456789abcdef", 4))
}

func TestDesignShort(t *testing.T) {
	s, err := LoadBytes("short.yaml", []byte(designText(t, "short.yaml")), now())
	if err != nil {
		t.Fatalf("LoadBytes(short example) = %v, want no error", err)
	}
	if s.HasKeys || len(s.Warnings) > 0 {
		t.Errorf("HasKeys = %v, Warnings = %v, want none", s.HasKeys, s.Warnings)
	}
	if diff := cmp.Diff([]Kind{Platform, PolicyKind, Finance}, s.Kinds); diff != "" {
		t.Errorf("Kinds (-want +got):\n%s", diff)
	}
	m := s.Model("gpt-5.4-mini", now())
	if m.Price == nil || m.MaxOutput != 128_000 || m.Context != 400_000 || m.Overridden {
		t.Errorf("Model(gpt-5.4-mini) = %+v, want the catalogue's price, 128000 output and 400000 context", m)
	}
	p := s.Provider("openai")
	if p == nil || p.URL.String() != "https://api.openai.com" || p.CredentialEnv != "OPENAI_API_KEY" ||
		p.Header != "authorization" || p.Prefix != "Bearer " {
		t.Errorf("Provider(openai) = %+v", p)
	}
}

// TestDesignLong: the long example asks for all there will be. What this
// version has not built is told, all of it and nothing else, and without that
// the example loads.
func TestDesignLong(t *testing.T) {
	text := designText(t, "long.yaml")
	_, err := LoadBytes("long.yaml", []byte(text), now())
	const golden = "testdata/design/long.golden"
	compareGolden(t, golden, problemsOf(t, err).Error()+"\n")

	for _, fragment := range []string{
		"  steady:        {targets: [{model: gpt-5.4-mini}, {model: gpt-5.4-nano, after: failure}]}           # failover\n",
	} {
		before := text
		if text = strings.Replace(text, fragment, "", 1); text == before {
			t.Fatalf("the long example does not hold %q", fragment)
		}
	}
	s, err := LoadBytes("long.yaml", []byte(text), now())
	if err != nil {
		t.Fatalf("LoadBytes(long example without what is not supported) = %v, want no error", err)
	}
	if len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0].Error(), `no key "dev"`) {
		t.Errorf("Warnings = %v, want one: the example has no key dev", s.Warnings)
	}
	if len(s.Kinds) != 5 || !s.HasKeys {
		t.Errorf("Kinds = %v, HasKeys = %v, want all", s.Kinds, s.HasKeys)
	}
	before, after := s.Model("claude-sonnet", now().AddDate(0, -3, 0)), s.Model("claude-sonnet", now())
	if before.Overridden || !after.Overridden || after.Price.Output != 13_500_000_000 {
		t.Errorf("Model(claude-sonnet) is overridden %v in August and %v in November at %v, want only then, at 13.5",
			before.Overridden, after.Overridden, after.Price)
	}
	budgets := limitsOf(t, text)[4:]
	if !budgets[1].Expected || budgets[0].Expected {
		t.Errorf("admission of search is expected: %v, of each-key: %v; want false and true", budgets[0].Expected, budgets[1].Expected)
	}
	if w := budgets[0].WarnAt; len(w) != 3 || budgets[2].OnStoreDown.Within != 5_000_000_000 {
		t.Errorf("warnAt of search = %v, onStoreDown of eval = %v, want three thresholds and 5 USD", w, budgets[2].OnStoreDown)
	}
	if s.Policy.Team("search-ml") == nil || s.Policy.Key("search-prod") == nil {
		t.Errorf("Policy lacks team search-ml or key search-prod")
	}
}

// TestLimitsCompiled shows what becomes of the entries of limits and budgets.
func TestLimitsCompiled(t *testing.T) {
	text := base + `
limits:
  - {name: key-rps, each: key, requests: 20/s, burst: 40}
  - {name: tpm, each: [team, model], match: {team: search, tags.region: [eu, "us-*"]}, tokens: 200000/min, mode: shadow}
  - {name: parallel, each: user, concurrent: 16, maxAccounts: 500, onStoreDown: allow}
  - {name: strict, requests: 5/s, onStoreDown: deny}
budgets:
  - name: keys
    each: key
    usd: 0.5
    per: week
    timeZone: Asia/Tokyo
    owner: finops@example.com
    budgetStatus: 429
    clampOutput: {floorTokens: 256}
    warnAt: [80%, forecast 100%, "50%"]
    onStoreDown: {allowWithinUSD: 0.3}
    streamHold: sliced
    admission: expected
    overrides:
      - {for: {team: search}, usd: 500, by: kim, reason: INC-12}
      - {for: {team: search}, usd: 600, until: 2026-12-01}
      - {for: {team: search}, usd: 700, until: 2026-12-01T00:00:00Z}
`
	got := limitsOf(t, text)
	for i := range got {
		got[i].Where = strings.TrimPrefix(got[i].Where, "test.yaml:")
		if z := got[i].Zone; z != nil {
			if z.String() != "Asia/Tokyo" {
				t.Errorf("Zone = %v, want Asia/Tokyo", z)
			}
			got[i].Zone = nil
		}
	}
	search := accounting.Match{Team: []string{"search"}}
	want := []accounting.Limit{
		{
			Name: "key-rps", Resource: accounting.Requests, Each: []accounting.Dimension{accounting.Key},
			Amount: 20, Per: 1e9, Burst: 40, Where: "8",
		},
		{
			Name: "tpm", Resource: accounting.Tokens, Each: []accounting.Dimension{accounting.Team, accounting.Model},
			Match:  accounting.Match{Team: []string{"search"}, Tags: map[string][]string{"region": {"eu", "us-*"}}},
			Amount: 200_000, Per: 60e9, Mode: accounting.Shadow, Where: "9",
		},
		{
			Name: "parallel", Resource: accounting.Concurrent, Each: []accounting.Dimension{accounting.User},
			Amount: 16, MaxAccounts: 500, OnStoreDown: accounting.OnStoreDown{Allow: true}, Where: "10",
		},
		{Name: "strict", Resource: accounting.Requests, Amount: 5, Per: 1e9, Where: "11"},
		{
			Name: "keys", Resource: accounting.USD, Each: []accounting.Dimension{accounting.Key},
			Amount: 500_000_000, Window: accounting.Week, Owner: "finops@example.com", BudgetStatus: 429, Where: "13",
			ClampFloor: 256, Sliced: true, Expected: true, WarnAt: []accounting.Threshold{{Percent: 80}, {Percent: 100, Forecast: true}, {Percent: 50}},
			OnStoreDown: accounting.OnStoreDown{Within: 300_000_000},
			Overrides: []accounting.Override{
				{For: search, Amount: 500_000_000_000, By: "kim", Reason: "INC-12"},
				{For: search, Amount: 600_000_000_000, Until: time.Date(2026, 11, 30, 15, 0, 0, 0, time.UTC)}, // 00:00 in Tokyo
				{For: search, Amount: 700_000_000_000, Until: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)},
			},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("limits of the config (-want +got):\n%s", diff)
	}
}
