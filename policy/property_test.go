package policy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"airgate/policy"
)

// genConfig is a small world in which everything can happen.
func genConfig(t *rapid.T, keys []madeKey) policy.Config {
	names := []string{"gpt-5.4-mini", "gpt-5.4-nano", "gpt-5.5", "claude-sonnet"}
	list := func(of []string, name string) []string {
		if rapid.Bool().Draw(t, name+" absent") {
			return nil
		}
		return append([]string{}, rapid.SliceOfNDistinct(rapid.SampledFrom(of), 0, 3, rapid.ID[string]).Draw(t, name)...)
	}
	patterns := append(slices.Clone(names), "smart", "sonnet", "gpt-*", "*")
	mini, nano, five := model(names[0], "openai", "us", "openai"), model(names[1], "openai-eu", "eu", "openai"), model(names[2], "openai", "us", "openai")
	c := policy.Config{
		Models: []policy.ModelEntry{
			mini, nano, five, model(names[3], "anthropic", "eu", "anthropic", "sonnet"),
			split("smart", []int{90, 0, 10}, mini, nano, five),
		},
		Shadow: rapid.Bool().Draw(t, "shadow"),
	}
	purposes := []string{"a", "b", "c"}
	registry := rapid.Bool().Draw(t, "registry")
	if registry {
		for _, p := range purposes {
			c.Purposes = append(c.Purposes, policy.PurposeConfig{Name: p})
		}
		c.Purposes[1].Default = rapid.Bool().Draw(t, "default")
	}
	for i, name := range []string{"root", "mid", "leaf"} {
		team := policy.TeamConfig{
			Name: name, Models: list(patterns, "models of "+name),
			Tags: map[string]string{"region": rapid.SampledFrom([]string{"eu", "us", ""}).Draw(t, "region")},
		}
		if i > 0 {
			team.Parent = c.Teams[i-1].Name
		}
		if registry {
			team.Purposes = list(purposes, "purposes of "+name)
		}
		c.Teams = append(c.Teams, team)
	}
	for i, k := range keys {
		k.cfg.Team = c.Teams[i].Name
		k.cfg.Name = c.Teams[i].Name
		k.cfg.Models = list(patterns, "models of the key")
		if rapid.Bool().Draw(t, "fixed") {
			k.cfg.Purpose = rapid.SampledFrom(purposes).Draw(t, "purpose")
		}
		c.Keys = append(c.Keys, k.cfg)
	}
	for i := range rapid.IntRange(0, 4).Draw(t, "rules") {
		r := policy.RuleConfig{
			Name: string(rune('A' + i)),
			When: rapid.SampledFrom([]string{
				"true", "stream", `provider.tags.region == "us"`, `model.name == "gpt-5.4-nano"`, `model.name.startsWith("gpt-5.4")`,
				`purpose in ["a", ""]`, `team.tags.region != provider.tags.region`, `1 / bodyBytes == 1`, `user.contains("u")`, `tools && 1 / bodyBytes == 1`,
			}).Draw(t, "when"),
			Mode: rapid.SampledFrom([]policy.Mode{policy.Enforce, policy.Shadow}).Draw(t, "mode"),
		}
		if rapid.Bool().Draw(t, "denies") {
			r.Deny = "because of " + r.Name
		} else {
			r.Set.MaxOutputTokens = rapid.Int64Range(1, 100).Draw(t, "set")
		}
		c.Rules = append(c.Rules, r)
	}
	return c
}

func genRequest(t *rapid.T, p *policy.Policy) policy.Request {
	return policy.Request{
		Key:       p.Key(rapid.SampledFrom([]string{"root", "mid", "leaf", "leaf"}).Draw(t, "key")),
		Model:     rapid.SampledFrom([]string{"gpt-5.4-mini", "gpt-5.4-nano", "gpt-5.5", "smart", "smart", "smart", "sonnet", "gpt-6"}).Draw(t, "model"),
		Dialect:   rapid.SampledFrom([]string{"openai", "openai", "openai", "anthropic"}).Draw(t, "dialect"),
		Purpose:   rapid.SampledFrom([]string{"", "a", "b", "c", "d"}).Draw(t, "purpose"),
		User:      rapid.SampledFrom([]string{"", "u"}).Draw(t, "user"),
		Stream:    rapid.Bool().Draw(t, "stream"),
		Tools:     rapid.Bool().Draw(t, "tools"),
		BodyBytes: rapid.Int64Range(0, 2).Draw(t, "bytes"),
		Pick:      rapid.Float64Range(0, 0.999).Draw(t, "pick"),
	}
}

func genKeys(t testing.TB) []madeKey {
	return []madeKey{makeKey(t, 1, "", ""), makeKey(t, 2, "", ""), makeKey(t, 3, "", "")}
}

func mustCompile(t *rapid.T, c policy.Config) *policy.Policy {
	p, err := policy.Compile(c)
	if err != nil {
		t.Fatalf("Compile() = %v, want no error", err)
	}
	return p
}

// The first refusal that Explain tells is Evaluate's answer, and where it tells
// none the call is allowed, to the target and with the notes that it tells.
func TestEvaluateAgreesWithExplain(t *testing.T) {
	keys := genKeys(t)
	codes := map[policy.Code]int{}
	rapid.Check(t, func(t *rapid.T) {
		c := genConfig(t, keys)
		c.Blocks = genBlocks(t)
		p := mustCompile(t, c)
		r := genRequest(t, p)
		var got policy.Decision
		p.Evaluate(&r, &got)
		codes[got.Code]++

		want := policy.Decision{}
		for _, s := range p.Explain(&r) {
			switch s.Outcome {
			case policy.Refuse:
				want.Code, want.Rule, want.Reason = s.Code, s.Name, s.Reason
			case policy.WouldRefuse:
				note := s.Code.String()
				if s.Check == policy.CheckRule {
					note = "rule:" + s.Name
				}
				want.WouldDeny = append(want.WouldDeny, note)
			case policy.Pass, policy.Drop, policy.Sets:
			}
			if want.Code != policy.OK {
				break
			}
			if s.Check == policy.CheckRoute {
				want.Target.Model = s.Target
			}
		}
		// Only Explain says why a rule failed.
		want.Reason, _, _ = strings.Cut(want.Reason, ": division by zero")
		got = policy.Decision{
			Code: got.Code, Rule: got.Rule, Reason: got.Reason, WouldDeny: slices.Clip(got.WouldDeny),
			Target: policy.Target{Model: got.Target.Model},
		}
		if len(got.WouldDeny) == 0 {
			got.WouldDeny = nil
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("Evaluate against Explain (-explain +evaluate):\n%s", d)
		}
	})
	if codes[policy.OK] == 0 || len(codes) < 4 {
		t.Errorf("calls came out %v, want more kinds", codes)
	}
}

// genBlocks are some of what an operator can block.
func genBlocks(t *rapid.T) []policy.Block {
	return rapid.SliceOfN(rapid.SampledFrom([]policy.Block{
		{Name: "block/team/mid", Team: "mid", Reason: "team"},
		{Name: "block/model/gpt-5.4-mini", Model: "gpt-5.4-mini", Reason: "mini"},
		{Name: "block/model/gpt-5.5", Model: "gpt-5.5", Reason: "five"},
		{Name: "block/provider/openai", Provider: "openai", Reason: "provider"},
		{Name: "block/provider/openai-eu", Provider: "openai-eu", Reason: "provider"},
	}), 0, 3).Draw(t, "blocks")
}

// No call of a blocked team, and none to a blocked model or provider, is ever
// allowed, in shadow neither; and blocks only narrow: without them the same call
// is refused for the same reason, or allowed.
func TestBlocks(t *testing.T) {
	keys := genKeys(t)
	blocked, moved := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		c := genConfig(t, keys)
		free := mustCompile(t, c)
		c.Blocks = genBlocks(t)
		p := mustCompile(t, c)
		for range 10 { // few calls go elsewhere for a block
			r := genRequest(t, p)
			var got, want policy.Decision
			p.Evaluate(&r, &got)
			early := p.Blocked(r.Key, &want)
			if team := slices.ContainsFunc(c.Blocks, func(b policy.Block) bool { return slices.Contains(r.Key.Team.Lineage, b.Team) }); early != team {
				t.Fatalf("Blocked() = %t, want %t", early, team)
			}
			if early && (got.Code != want.Code || got.Rule != want.Rule || got.Reason != want.Reason || got.Owner != want.Owner) {
				t.Fatalf("Evaluate() = %+v, want what Blocked said: %+v", got, want)
			}
			r.Key = free.Key(r.Key.ID)
			free.Evaluate(&r, &want)
			switch {
			case got.Code == policy.OK:
				for _, b := range c.Blocks {
					if got.Target.Model == b.Model || got.Target.Provider == b.Provider {
						t.Fatalf("Evaluate() allows a call to %s at %s in spite of %+v", got.Target.Model, got.Target.Provider, b)
					}
				}
				if want.Code != policy.OK {
					t.Fatalf("Evaluate() allows with blocks what it refuses without them: %v", want.Code)
				}
				if got.Target.Model != want.Target.Model {
					moved++
				}
			case strings.HasPrefix(got.Rule, "block/"):
				blocked++
				if got.Code != policy.RuleDenied || got.Reason == "" {
					t.Fatalf("Evaluate() = %+v, want rule_denied and the block's reason", got)
				}
				if early {
					break
				}
				if free := slices.ContainsFunc(got.Model.Targets, func(t policy.Target) bool {
					return !slices.ContainsFunc(c.Blocks, func(b policy.Block) bool { return b.Model == t.Model || b.Provider == t.Provider })
				}); c.Shadow && free {
					t.Fatalf("Evaluate() refuses by %s in shadow, which narrows nothing, and not all of %s is blocked", got.Rule, got.Model.Name)
				}
			case got.Code != want.Code && got.Code != policy.RuleDenied:
				t.Fatalf("Evaluate() = %v %s with blocks, %v without", got.Code, got.Reason, want.Code)
			}
		}
	})
	if blocked == 0 || moved == 0 {
		t.Errorf("%d calls were blocked and %d went elsewhere, want some of both", blocked, moved)
	}
}

// Shadow foretells: it notes something of a call if and only if the same
// configuration enforced would refuse it, and first what that would say.
func TestShadowForetellsEnforcement(t *testing.T) {
	keys := genKeys(t)
	rapid.Check(t, func(t *rapid.T) {
		c := genConfig(t, keys)
		c.Rules = slices.DeleteFunc(c.Rules, func(r policy.RuleConfig) bool { return r.Mode == policy.Shadow })
		c.Shadow = false
		enforced := mustCompile(t, c)
		c.Shadow = true
		shadow := mustCompile(t, c)

		r := genRequest(t, enforced)
		var want, got policy.Decision
		enforced.Evaluate(&r, &want)
		r.Key = shadow.Key(r.Key.ID)
		shadow.Evaluate(&r, &got)

		if want.Code == policy.ModelUnknown {
			if got.Code != want.Code {
				t.Fatalf("shadow = %v, want %v as enforced", got.Code, want.Code)
			}
			return
		}
		var first string
		if len(got.WouldDeny) > 0 {
			first = got.WouldDeny[0]
		}
		foretold := ""
		switch {
		case want.Rule != "":
			foretold = "rule:" + want.Rule
		case want.Code != policy.OK:
			foretold = want.Code.String()
		}
		if got.Code != policy.OK || first != foretold {
			t.Fatalf("shadow = %v, notes %v; enforced = %v %s: want %q noted first", got.Code, got.WouldDeny, want.Code, want.Rule, foretold)
		}
	})
}

// oracle decides models and purposes by reading the configuration afresh, level
// by level, with no table made beforehand.
func oracle(c *policy.Config, k *policy.KeyConfig, r *policy.Request) (policy.Code, []string) {
	teams := []policy.TeamConfig{}
	for name := k.Team; name != ""; {
		i := slices.IndexFunc(c.Teams, func(t policy.TeamConfig) bool { return t.Name == name })
		teams = append(teams, c.Teams[i])
		name = c.Teams[i].Parent
	}
	find := func(name string) *policy.ModelEntry {
		for i := range c.Models {
			if c.Models[i].Name == name || slices.Contains(c.Models[i].Aliases, name) {
				return &c.Models[i]
			}
		}
		return nil
	}
	e := find(r.Model)
	if e == nil || e.Dialect != r.Dialect {
		return policy.ModelUnknown, nil
	}
	lists := [][]string{k.Models}
	for _, t := range teams {
		lists = append(lists, t.Models)
	}
	var left []string
	for _, target := range e.Targets {
		if !slices.ContainsFunc(lists, func(list []string) bool {
			return list != nil && !slices.ContainsFunc(list, func(pattern string) bool {
				if named := find(pattern); named != nil {
					return named.Name == target.Model || named.Name == e.Name
				}
				return strings.HasPrefix(target.Model, strings.TrimSuffix(pattern, "*"))
			})
		}) {
			left = append(left, target.Model)
		}
	}
	if len(left) == 0 {
		return policy.ModelDenied, nil
	}

	purpose := r.Purpose
	if k.Purpose != "" {
		if purpose != "" && purpose != k.Purpose {
			return policy.PurposeDenied, nil
		}
		purpose = k.Purpose
	}
	if purpose == "" {
		for _, p := range c.Purposes {
			if p.Default {
				purpose = p.Name
			}
		}
	}
	switch {
	case purpose == "" && len(c.Purposes) > 0:
		return policy.PurposeRequired, nil
	case purpose == "":
		return policy.OK, left
	case len(c.Purposes) > 0 && !slices.ContainsFunc(c.Purposes, func(p policy.PurposeConfig) bool { return p.Name == purpose }):
		return policy.PurposeUnknown, nil
	case slices.ContainsFunc(teams, func(t policy.TeamConfig) bool { return t.Purposes != nil && !slices.Contains(t.Purposes, purpose) }):
		return policy.PurposeDenied, nil
	default:
		return policy.OK, left
	}
}

// Models and purposes of any team tree come out as a plain reading of the lists.
func TestEvaluateAgreesWithAPlainReading(t *testing.T) {
	keys := genKeys(t)
	rapid.Check(t, func(t *rapid.T) {
		c := genConfig(t, keys)
		c.Shadow, c.Rules = false, nil
		p := mustCompile(t, c)
		r := genRequest(t, p)
		i := slices.IndexFunc(c.Keys, func(k policy.KeyConfig) bool { return k.ID == r.Key.ID })
		want, targets := oracle(&c, &c.Keys[i], &r)
		var got policy.Decision
		p.Evaluate(&r, &got)
		if got.Code != want || got.Code == policy.OK && !slices.Contains(targets, got.Target.Model) {
			t.Fatalf("Evaluate() = %v to %q, want %v to one of %q", got.Code, got.Target.Model, want, targets)
		}
		listed := slices.ContainsFunc(p.Models(r.Key, r.Dialect), func(e *policy.ModelEntry) bool { return e == got.Model })
		if may := want != policy.ModelUnknown && want != policy.ModelDenied; listed != may {
			t.Fatalf("Models() lists %q: %t, want %t", r.Model, listed, may)
		}
	})
}

// Taking anything off any list never allows a call that was refused.
func TestAChildOnlyNarrows(t *testing.T) {
	keys := genKeys(t)
	rapid.Check(t, func(t *rapid.T) {
		c := genConfig(t, keys)
		c.Shadow, c.Rules = false, nil
		wide := mustCompile(t, c)
		r := genRequest(t, wide)
		var before, after policy.Decision
		wide.Evaluate(&r, &before)

		i := rapid.IntRange(0, 2).Draw(t, "team")
		c.Teams = slices.Clone(c.Teams)
		if l := c.Teams[i].Models; len(l) > 0 {
			c.Teams[i].Models = l[1:]
		} else {
			c.Teams[i].Models = []string{}
		}
		narrow := mustCompile(t, c)
		r.Key = narrow.Key(r.Key.ID)
		narrow.Evaluate(&r, &after)
		if before.Code != policy.OK && after.Code == policy.OK {
			t.Fatalf("Evaluate() = %v, and after a team's models were narrowed %v", before.Code, after.Code)
		}
	})
}
