package policy_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"airgate/policy"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// A made key: its text for callers, its entry for Config.
type madeKey struct {
	text string
	cfg  policy.KeyConfig
}

// makeKey makes the same key for the same seed.
func makeKey(t testing.TB, seed byte, name, team string) madeKey {
	t.Helper()
	id, text, hash, err := policy.NewKey(rand.NewChaCha8([32]byte{seed}))
	if err != nil {
		t.Fatalf("NewKey() = %v, want no error", err)
	}
	return madeKey{text, policy.KeyConfig{
		ID: id, Name: name, Team: team,
		Secrets: []policy.Secret{{Hash: hash, Created: now}},
	}}
}

func model(name, provider, region, dialect string, aliases ...string) policy.ModelEntry {
	return policy.ModelEntry{
		Name: name, Dialect: dialect, Aliases: aliases,
		Targets: []policy.Target{{
			Model: name, Provider: provider, ProviderTags: map[string]string{"region": region},
			Dialect: dialect, UpstreamModel: name,
		}},
	}
}

// split is an entry over other entries' targets, each weight times.
func split(name string, weights []int, over ...policy.ModelEntry) policy.ModelEntry {
	e := policy.ModelEntry{Name: name, Dialect: over[0].Dialect}
	for i, o := range over {
		t := o.Targets[0]
		t.Weight = weights[i]
		e.Targets = append(e.Targets, t)
	}
	return e
}

// models are those of the design's example, and one that nobody lists.
func models() []policy.ModelEntry {
	mini := model("gpt-5.4-mini", "openai", "us", "openai")
	nano := model("gpt-5.4-nano", "openai-eu", "eu", "openai")
	return []policy.ModelEntry{
		mini, nano,
		model("claude-sonnet", "anthropic", "eu", "anthropic", "sonnet"),
		model("gpt-5.5", "openai", "us", "openai"),
		split("smart", []int{90, 10}, mini, nano),
	}
}

// world is the design's example with a key per team.
func world(t testing.TB) policy.Config {
	t.Helper()
	return policy.Config{
		Models: models(),
		Teams: []policy.TeamConfig{
			{
				Name: "search", Models: []string{"gpt-5.4-mini", "smart", "claude-*"}, Purposes: []string{"support-chat", "eval"},
				DefaultPurpose: "support-chat", Owner: "search@example.com", CostCenter: "CC-1042", Tags: map[string]string{"region": "eu", "tier": "gold"},
			},
			{Name: "search-ml", Parent: "search", Purposes: []string{"eval"}, DefaultPurpose: "eval"},
			{Name: "free"},
		},
		Purposes: []policy.PurposeConfig{{Name: "support-chat", Owner: "care@example.com"}, {Name: "eval", Owner: "ml@example.com"}, {Name: "batch"}},
		Keys: []policy.KeyConfig{
			makeKey(t, 1, "search-prod", "search").cfg,
			makeKey(t, 2, "ml", "search-ml").cfg,
			makeKey(t, 3, "free", "free").cfg,
		},
	}
}

func compile(t testing.TB, c policy.Config) *policy.Policy {
	t.Helper()
	p, err := policy.Compile(c)
	if err != nil {
		t.Fatalf("Compile() = %v, want no error", err)
	}
	return p
}

// decide is Evaluate's answer to r of the key named by key.
func decide(p *policy.Policy, key string, r policy.Request) policy.Decision {
	r.Key = p.Key(key)
	var d policy.Decision
	p.Evaluate(&r, &d)
	return d
}
