package policy_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"airgate/policy"
)

func TestTeamsInherit(t *testing.T) {
	p := compile(t, world(t))
	tests := map[string]struct {
		got, want any
	}{
		"path goes from the root":        {p.Team("search-ml").Path, "search/search-ml"},
		"a root's path is its name":      {p.Team("search").Path, "search"},
		"lineage goes to the root":       {p.Team("search-ml").Lineage, []string{"search-ml", "search"}},
		"owner inherits":                 {p.Team("search-ml").Owner, "search@example.com"},
		"cost centre inherits":           {p.Team("search-ml").CostCenter, "CC-1042"},
		"tags inherit":                   {p.Team("search-ml").Tags, map[string]string{"region": "eu", "tier": "gold"}},
		"a root without any has nothing": {p.Team("free").Tags, map[string]string(nil)},
		"no such team is nil":            {p.Team("nobody"), (*policy.Team)(nil)},
	}
	for name, tt := range tests {
		if d := cmp.Diff(tt.want, tt.got, cmp.Comparer(func(a, b *policy.Team) bool { return a == b })); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestAChildOverridesTagByTag(t *testing.T) {
	c := world(t)
	c.Teams[1].Tags = map[string]string{"tier": "silver", "ml": "yes"}
	c.Teams[1].Owner, c.Teams[1].CostCenter = "ml@example.com", "CC-7"
	p := compile(t, c)
	child := p.Team("search-ml")
	if d := cmp.Diff(map[string]string{"region": "eu", "tier": "silver", "ml": "yes"}, child.Tags); d != "" {
		t.Errorf("child's tags (-want +got):\n%s", d)
	}
	if child.Owner != "ml@example.com" || child.CostCenter != "CC-7" {
		t.Errorf("child's owner, cost centre = %q, %q, want its own", child.Owner, child.CostCenter)
	}
	if d := cmp.Diff(map[string]string{"region": "eu", "tier": "gold"}, p.Team("search").Tags); d != "" {
		t.Errorf("parent's tags (-want +got):\n%s", d)
	}
}

func TestTeamsMayComeInAnyOrder(t *testing.T) {
	c := world(t)
	slices.Reverse(c.Teams)
	if got := compile(t, c).Team("search-ml").Path; got != "search/search-ml" {
		t.Errorf("Path = %q, want search/search-ml", got)
	}
}

func TestKeyIsFoundByIDOrName(t *testing.T) {
	p := compile(t, world(t))
	k := p.Key("search-prod")
	if k == nil || p.Key(k.ID) != k {
		t.Errorf("Key by name = %+v, want the same as by id", k)
	}
	if got := p.Key(""); got != nil {
		t.Errorf(`Key("") = %+v, want nil`, got)
	}
	if got := p.Key("nobody"); got != nil {
		t.Errorf(`Key("nobody") = %+v, want nil`, got)
	}
}

func TestRegistered(t *testing.T) {
	p := compile(t, world(t))
	for purpose, want := range map[string]bool{"eval": true, "evil": false, "": false} {
		if got := p.Registered(purpose); got != want {
			t.Errorf("Registered(%q) = %t, want %t", purpose, got, want)
		}
	}
}

// One broken configuration per row, each the good one with one change.
func TestCompileRefuses(t *testing.T) {
	tests := map[string]struct {
		breaks func(c *policy.Config)
		want   []string
	}{
		"a team without a name": {
			func(c *policy.Config) { c.Teams[2].Name, c.Keys[2].Team = "", "search" },
			[]string{"teams[]: has no name"},
		},
		"a team twice": {
			func(c *policy.Config) { c.Teams = append(c.Teams, c.Teams[2]) },
			[]string{"teams[free]: exists twice"},
		},
		"a parent that does not exist": {
			func(c *policy.Config) { c.Teams[1].Parent = "serch" },
			[]string{`teams[search-ml].parent: no team "serch"`},
		},
		"a team that is its own parent": {
			func(c *policy.Config) { c.Teams[2].Parent = "free" },
			[]string{"teams[free].parent: free → free is a circle"},
		},
		"teams that are each other's parents": {
			func(c *policy.Config) { c.Teams[0].Parent = "search-ml" },
			[]string{"teams[search-ml].parent: search → search-ml → search is a circle"},
		},
		"a team's model that does not exist": {
			func(c *policy.Config) { c.Teams[2].Models = []string{"gpt-6"} },
			[]string{`teams[free].models: no model "gpt-6"`},
		},
		"a team's purpose that does not exist": {
			func(c *policy.Config) { c.Teams[2].Purposes = []string{"evil"} },
			[]string{`teams[free].purposes: no purpose "evil"`},
		},
		"a team's purposes without a registry": {
			func(c *policy.Config) {
				c.Purposes = nil
				c.Teams[0].Purposes, c.Teams[0].DefaultPurpose, c.Teams[1].DefaultPurpose = nil, "", ""
			},
			[]string{"teams[search-ml].purposes: no purposes are registered: add purposes: {eval: {}}"},
		},
		"a default purpose that does not exist": {
			func(c *policy.Config) { c.Teams[2].DefaultPurpose = "evil" },
			[]string{`teams[free].defaultPurpose: no purpose "evil"`},
		},
		"a default purpose that the team may not use": {
			func(c *policy.Config) { c.Teams[1].DefaultPurpose = "support-chat" },
			[]string{`teams[search-ml].defaultPurpose: the team may not use "support-chat": add it to the purposes of the team and its parents`},
		},
		"a purpose without a name": {
			func(c *policy.Config) { c.Purposes = append(c.Purposes, policy.PurposeConfig{}) },
			[]string{"purposes[]: has no name"},
		},
		"a purpose twice": {
			func(c *policy.Config) { c.Purposes = append(c.Purposes, policy.PurposeConfig{Name: "batch"}) },
			[]string{"purposes[batch]: exists twice"},
		},
		"two default purposes": {
			func(c *policy.Config) { c.Purposes[0].Default, c.Purposes[2].Default = true, true },
			[]string{`purposes[batch].default: "support-chat" is the default already: there is one`},
		},
		"a model without a name": {
			func(c *policy.Config) { c.Models = append(c.Models, model("", "openai", "", "openai")) },
			[]string{"models[]: has no name", `models[].targets: no model ""`},
		},
		"a model twice": {
			func(c *policy.Config) { c.Models = append(c.Models, model("gpt-5.5", "openai", "", "openai")) },
			[]string{`models[gpt-5.5]: "gpt-5.5" is already a name of model "gpt-5.5"`},
		},
		"an alias that is a model": {
			func(c *policy.Config) { c.Models[0].Aliases = []string{"smart"} },
			[]string{`models[smart]: "smart" is already a name of model "gpt-5.4-mini"`},
		},
		"an alias twice": {
			func(c *policy.Config) { c.Models[0].Aliases = []string{"m", "m"} },
			[]string{`models[gpt-5.4-mini].aliases: "m" stands twice`},
		},
		"a name with a star": {
			func(c *policy.Config) { c.Models[0].Aliases = []string{"gpt-*"} },
			[]string{`models[gpt-5.4-mini].aliases: "gpt-*": * is for lists of models, not for their names`},
		},
		"a model without targets": {
			func(c *policy.Config) { c.Models[4].Targets = nil },
			[]string{"models[smart]: has nowhere to go: give it a provider or targets"},
		},
		"a target that does not exist": {
			func(c *policy.Config) { c.Models[4].Targets[1].Model = "gpt-6" },
			[]string{`models[smart].targets: no model "gpt-6"`},
		},
		"a target by its alias": {
			func(c *policy.Config) {
				c.Models[1].Aliases = []string{"nano"}
				c.Models[4].Targets[1].Model = "nano"
			},
			[]string{`models[smart].targets: no model "nano"`},
		},
		"a target that is a split": {
			func(c *policy.Config) {
				e := split("two", []int{1, 1}, c.Models[0], c.Models[1])
				e.Targets[0].Model = "smart"
				c.Models = append(c.Models, e)
			},
			[]string{`models[two].targets: "smart" has targets itself: name a model with a provider`},
		},
		"a target of another dialect": {
			func(c *policy.Config) { c.Models[4].Targets[1] = c.Models[2].Targets[0] },
			[]string{`models[smart].targets: "claude-sonnet" speaks anthropic and "smart" openai: a split stays in one dialect`},
		},
		"a target twice": {
			func(c *policy.Config) { c.Models[4].Targets[1] = c.Models[4].Targets[0] },
			[]string{`models[smart].targets: "gpt-5.4-mini" stands twice: give it a weight`},
		},
		"a target of negative weight": {
			func(c *policy.Config) { c.Models[4].Targets[1].Weight = -1 },
			[]string{`models[smart].targets: "gpt-5.4-nano" has weight -1, want 1 to 1000000`},
		},
		"a target of too much weight": {
			func(c *policy.Config) { c.Models[4].Targets[1].Weight = 1_000_001 },
			[]string{`models[smart].targets: "gpt-5.4-nano" has weight 1000001, want 1 to 1000000`},
		},
		"a target without a provider": {
			func(c *policy.Config) { c.Models[3].Targets[0].Provider = "" },
			[]string{`models[gpt-5.5].provider: "gpt-5.5" has no provider`},
		},
		"65 targets": {
			func(c *policy.Config) {
				e := policy.ModelEntry{Name: "many", Dialect: "openai"}
				for i := range 65 {
					m := model("m"+strings.Repeat("x", i), "openai", "", "openai")
					c.Models = append(c.Models, m)
					e.Targets = append(e.Targets, m.Targets[0])
				}
				c.Models = append(c.Models, e)
			},
			[]string{"models[many].targets: has 65 targets, the limit is 64"},
		},
		"a key's id of another form": {
			func(c *policy.Config) { c.Keys[0].ID = "k7Qm2xT9aB4" },
			[]string{"keys[k7Qm2xT9aB4].id: want 12 letters and digits: let airgate keys create make it"},
		},
		"a key's id twice": {
			func(c *policy.Config) { c.Keys[0].ID = c.Keys[1].ID },
			[]string{"keys[ID1].id: exists twice: further secrets of a key go into its secrets"},
		},
		"a key's name twice": {
			func(c *policy.Config) { c.Keys[1].Name = "search-prod" },
			[]string{`keys[ID1].name: "search-prod" is the name of key ID0 already`},
		},
		"a key without secrets": {
			func(c *policy.Config) { c.Keys[1].Secrets = nil },
			[]string{"keys[ID1].secrets: has none: let airgate keys create make one"},
		},
		"a key of a team that does not exist": {
			func(c *policy.Config) { c.Keys[1].Team = "serch" },
			[]string{`keys[ID1].team: no team "serch"`},
		},
		"a key's model that does not exist": {
			func(c *policy.Config) { c.Keys[1].Models = []string{"gpt-6"} },
			[]string{`keys[ID1].models: no model "gpt-6"`},
		},
		"a key's purpose that does not exist": {
			func(c *policy.Config) { c.Keys[1].Purpose = "evil" },
			[]string{`keys[ID1].purpose: no purpose "evil"`},
		},
		"a rule without a name": {
			func(c *policy.Config) { c.Rules = []policy.RuleConfig{{When: "true", Deny: "no"}} },
			[]string{"rules[].name: is missing"},
		},
		"a rule twice": {
			func(c *policy.Config) {
				c.Rules = []policy.RuleConfig{{Name: "a", When: "true", Deny: "no"}, {Name: "a", When: "true", Deny: "no"}}
			},
			[]string{"rules[a].name: exists twice"},
		},
		"a rule without a condition": {
			func(c *policy.Config) { c.Rules = []policy.RuleConfig{{Name: "a", When: " ", Deny: "no"}} },
			[]string{"rules[a].when: is missing: say when the rule applies, or true"},
		},
		"a rule that does nothing": {
			func(c *policy.Config) { c.Rules = []policy.RuleConfig{{Name: "a", When: "true"}} },
			[]string{"rules[a]: does nothing: give it deny or set"},
		},
		"a rule that does both": {
			func(c *policy.Config) {
				c.Rules = []policy.RuleConfig{{Name: "a", When: "true", Deny: "no", Set: policy.Set{MaxOutputTokens: 1}}}
			},
			[]string{"rules[a]: denies and sets: make two rules of it"},
		},
		"a rule that sets less than nothing": {
			func(c *policy.Config) {
				c.Rules = []policy.RuleConfig{{Name: "a", When: "true", Set: policy.Set{MaxOutputTokens: -1}}}
			},
			[]string{"rules[a].set.maxOutputTokens: is -1, want 1 or more"},
		},
		"a rule of no mode": {
			func(c *policy.Config) { c.Rules = []policy.RuleConfig{{Name: "a", When: "true", Deny: "no", Mode: 2}} },
			[]string{"rules[a].mode: want enforce or shadow"},
		},
		"a condition that does not compile, with its place": {
			func(c *policy.Config) {
				c.Rules = []policy.RuleConfig{{Name: "a", When: "stream &&\n  team.nam == ''", Deny: "no", Where: "rules.yaml:7:5"}}
			},
			[]string{"rules.yaml:7:5: rules[a].when:2:7: undefined field 'nam': there are team.name, team.path, team.owner, team.costCenter, team.tags"},
		},
		"a block of nothing, and one of two": {
			func(c *policy.Config) {
				c.Blocks = []policy.Block{{Name: "a", Reason: "no"}, {Name: "b", Team: "search", Model: "gpt-5.5", Reason: "no"}, {Name: "c", Team: "search"}}
			},
			[]string{
				"blocks[a]: needs a name, a reason, and one of team, key, model and provider",
				"blocks[b]: needs a name, a reason, and one of team, key, model and provider",
				"blocks[c]: needs a name, a reason, and one of team, key, model and provider",
			},
		},
		"everything that is wrong, at once": {
			func(c *policy.Config) {
				c.Teams[2].Models = []string{"gpt-6"}
				c.Keys[0].Team = "nobody"
				c.Rules = []policy.RuleConfig{{Name: "a", When: "purpose", Deny: "no"}}
			},
			[]string{`teams[free].models: no model "gpt-6"`, `keys[ID0].team: no team "nobody"`, "rules[a].when:1:1: is string, want bool"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := world(t)
			ids := strings.NewReplacer(c.Keys[0].ID, "ID0", c.Keys[1].ID, "ID1")
			tt.breaks(&c)
			p, err := policy.Compile(c)
			var problems policy.Problems
			if p != nil || !errors.As(err, &problems) {
				t.Fatalf("Compile() = %v, %v, want Problems", p, err)
			}
			got := strings.Split(ids.Replace(err.Error()), "\n")
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("Compile() problems (-want +got):\n%s", d)
			}
		})
	}
}

func TestModels(t *testing.T) {
	tests := map[string]struct {
		key     string
		dialect string
		change  func(c *policy.Config)
		want    []string
	}{
		"what the team lists":                       {"search-prod", "openai", nil, []string{"gpt-5.4-mini", "smart"}},
		"in the other dialect, with its alias":      {"search-prod", "anthropic", nil, []string{"claude-sonnet", "=sonnet"}},
		"a team without a list has all":             {"free", "openai", nil, []string{"gpt-5.4-mini", "gpt-5.4-nano", "gpt-5.5", "smart"}},
		"sorted":                                    {"free", "openai", func(c *policy.Config) { slices.Reverse(c.Models) }, []string{"gpt-5.4-mini", "gpt-5.4-nano", "gpt-5.5", "smart"}},
		"the key narrows":                           {"free", "openai", func(c *policy.Config) { c.Keys[2].Models = []string{"gpt-5.5"} }, []string{"gpt-5.5"}},
		"an empty list is none":                     {"free", "openai", func(c *policy.Config) { c.Keys[2].Models = []string{} }, nil},
		"a split stays while one of its targets is": {"free", "openai", func(c *policy.Config) { c.Keys[2].Models = []string{"*-nano"} }, []string{"gpt-5.4-nano", "smart"}},
		"in shadow it is all":                       {"search-prod", "openai", func(c *policy.Config) { c.Shadow = true }, []string{"gpt-5.4-mini", "gpt-5.4-nano", "gpt-5.5", "smart"}},
		"a dialect without models has none":         {"free", "gemini", nil, nil},
		"no key has none":                           {"nobody", "openai", nil, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := world(t)
			if tt.change != nil {
				tt.change(&c)
			}
			p := compile(t, c)
			var got []string
			for _, e := range p.Models(p.Key(tt.key), tt.dialect) {
				got = append(got, e.Name)
				for _, a := range e.Aliases {
					got = append(got, "="+a)
				}
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("Models(%s, %s) (-want +got):\n%s", tt.key, tt.dialect, d)
			}
		})
	}
	p := compile(t, world(t))
	if got := p.Models(compile(t, world(t)).Key("free"), "openai"); got != nil {
		t.Errorf("Models(another policy's key) = %v, want none", got)
	}
}
