package policy_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"airgate/policy"
)

// call is a request at the OpenAI endpoint, for purpose eval.
func call(model string) policy.Request {
	return policy.Request{Model: model, Dialect: "openai", Endpoint: "chat_completions", Purpose: "eval"}
}

func rule(name, when, deny string) policy.RuleConfig {
	return policy.RuleConfig{Name: name, When: when, Deny: deny}
}

func shadowed(r policy.RuleConfig) policy.RuleConfig {
	r.Mode = policy.Shadow
	return r
}

func sets(name, when string, n int64) policy.RuleConfig {
	return policy.RuleConfig{Name: name, When: when, Set: policy.Set{MaxOutputTokens: n}}
}

func TestModelResolution(t *testing.T) {
	messages := func(model string) policy.Request {
		r := call(model)
		r.Dialect = "anthropic"
		return r
	}
	tests := map[string]struct {
		key    string
		change func(c *policy.Config)
		r      policy.Request
		want   policy.Code
		target string
		reason string
	}{
		"a name is found":   {"search-prod", nil, call("gpt-5.4-mini"), policy.OK, "gpt-5.4-mini", ""},
		"an alias is found": {"search-prod", nil, messages("sonnet"), policy.OK, "claude-sonnet", ""},
		"what is not configured is unknown": {
			"search-prod", nil, call("gpt-6"), policy.ModelUnknown, "",
			`no model "gpt-6"; this key may use gpt-5.4-mini, smart`,
		},
		"no model is unknown": {
			"search-prod", nil, call(""), policy.ModelUnknown, "",
			`no model ""; this key may use gpt-5.4-mini, smart`,
		},
		"names are compared exactly": {
			"search-prod", nil, call("GPT-5.4-mini"), policy.ModelUnknown, "",
			`no model "GPT-5.4-mini"; this key may use gpt-5.4-mini, smart`,
		},
		"a model of another dialect is unknown, with its path": {
			"search-prod", nil, call("sonnet"), policy.ModelUnknown, "",
			`model "sonnet" speaks anthropic: call it at /v1/messages`,
		},
		"and the other way round": {
			"search-prod", nil, messages("gpt-5.4-mini"), policy.ModelUnknown, "",
			`model "gpt-5.4-mini" speaks openai: call it at /v1/chat/completions or /v1/responses`,
		},
		"absent models are all at a root": {"free", nil, call("gpt-5.5"), policy.OK, "gpt-5.5", ""},
		"absent models are the parent's": {
			"ml", nil, call("gpt-5.5"), policy.ModelDenied, "",
			`team search may not use model "gpt-5.5"; this key may use gpt-5.4-mini, smart`,
		},
		"a listed name is allowed below the parent": {"ml", nil, call("gpt-5.4-mini"), policy.OK, "gpt-5.4-mini", ""},
		"empty models are none": {
			"free", func(c *policy.Config) { c.Teams[2].Models = []string{} }, call("gpt-5.5"), policy.ModelDenied, "",
			`team free may not use model "gpt-5.5"; this key may use no model at this path`,
		},
		"a child narrows": {
			"ml", func(c *policy.Config) { c.Teams[1].Models = []string{"claude-*"} }, call("gpt-5.4-mini"), policy.ModelDenied, "",
			`team search-ml may not use model "gpt-5.4-mini"; this key may use no model at this path`,
		},
		"a child cannot widen": {
			"ml", func(c *policy.Config) { c.Teams[1].Models = []string{"gpt-5.5"} }, call("gpt-5.5"), policy.ModelDenied, "",
			`team search may not use model "gpt-5.5"; this key may use no model at this path`,
		},
		"a key narrows": {
			"free", func(c *policy.Config) { c.Keys[2].Models = []string{"gpt-5.4-mini"} }, call("gpt-5.5"), policy.ModelDenied, "",
			`key KEY may not use model "gpt-5.5"; this key may use gpt-5.4-mini, smart`,
		},
		"a key cannot widen": {
			"search-prod", func(c *policy.Config) { c.Keys[0].Models = []string{"gpt-5.5"} }, call("gpt-5.5"), policy.ModelDenied, "",
			`team search may not use model "gpt-5.5"; this key may use no model at this path`,
		},
		"a glob matches canonical names": {"search-prod", nil, messages("claude-sonnet"), policy.OK, "claude-sonnet", ""},
		"a glob allows what it matches under its alias too": {
			"free", func(c *policy.Config) { c.Teams[2].Models = []string{"claude-*"} }, messages("sonnet"), policy.OK, "claude-sonnet", "",
		},
		"a glob does not match aliases": {
			"free", func(c *policy.Config) { c.Teams[2].Models = []string{"son*"} }, messages("sonnet"), policy.ModelDenied, "",
			`team free may not use model "sonnet"; this key may use no model at this path`,
		},
		"a glob that matches nothing allows nothing": {
			"free", func(c *policy.Config) { c.Teams[2].Models = []string{"llama-*"} }, call("gpt-5.5"), policy.ModelDenied, "",
			`team free may not use model "gpt-5.5"; this key may use no model at this path`,
		},
		"a listed alias is its model": {
			"free", func(c *policy.Config) { c.Teams[2].Models = []string{"sonnet"} }, messages("claude-sonnet"), policy.OK, "claude-sonnet", "",
		},
		"stars stand for any text": {"free", func(c *policy.Config) { c.Teams[2].Models = []string{"*-5*i*"} }, call("gpt-5.4-mini"), policy.OK, "gpt-5.4-mini", ""},
		"a long unknown name is clipped": {
			"search-prod", nil, call(strings.Repeat("é", 200)), policy.ModelUnknown, "",
			`no model "` + strings.Repeat("é", 32) + `…"; this key may use gpt-5.4-mini, smart`,
		},
		"at most ten names are listed": {
			"free", func(c *policy.Config) {
				c.Models = nil
				for i := range 12 {
					c.Models = append(c.Models, model(fmt.Sprintf("m%02d", i), "openai", "", "openai"))
				}
				c.Teams[0].Models = nil
			}, call("gpt-6"), policy.ModelUnknown, "",
			`no model "gpt-6"; this key may use m00, m01, m02, m03, m04, m05, m06, m07, m08, m09 and 2 more`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := world(t)
			if tt.change != nil {
				tt.change(&c)
			}
			p := compile(t, c)
			d := decide(p, tt.key, tt.r)
			if d.Code != tt.want || d.Target.Model != tt.target {
				t.Errorf("Evaluate() = %v to %q, want %v to %q", d.Code, d.Target.Model, tt.want, tt.target)
			}
			if got := strings.ReplaceAll(d.Reason, p.Key(tt.key).ID, "KEY"); got != tt.reason {
				t.Errorf("Evaluate() reason = %q, want %q", got, tt.reason)
			}
		})
	}
}

func TestKeyOfARequest(t *testing.T) {
	p, other := compile(t, world(t)), compile(t, world(t))
	r := call("gpt-5.5")
	var d policy.Decision
	if p.Evaluate(&r, &d); d.Code != policy.KeyMissing {
		t.Errorf("Evaluate(no key) = %v, want %v", d.Code, policy.KeyMissing)
	}
	r.Key = other.Key("free")
	if p.Evaluate(&r, &d); d.Code != policy.KeyUnknown {
		t.Errorf("Evaluate(another policy's key) = %v, want %v", d.Code, policy.KeyUnknown)
	}
	r.Key = &policy.KeyEntry{ID: r.Key.ID}
	if p.Evaluate(&r, &d); d.Code != policy.KeyUnknown {
		t.Errorf("Evaluate(a made-up key) = %v, want %v", d.Code, policy.KeyUnknown)
	}
}

func TestPurpose(t *testing.T) {
	fixed := func(c *policy.Config) { c.Keys[0].Purpose = "eval" }
	tests := map[string]struct {
		key    string
		change func(c *policy.Config)
		header string
		want   policy.Code
		words  string // purpose, and its source
		reason string
		owner  string
	}{
		"the key's goes first":             {"search-prod", fixed, "", policy.OK, "eval from key", "", "search@example.com"},
		"the key's may be said again":      {"search-prod", fixed, "eval", policy.OK, "eval from key", "", "search@example.com"},
		"another than the key's is denied": {"search-prod", fixed, "support-chat", policy.PurposeDenied, "eval from key", `this key is for purpose "eval" only`, "search@example.com"},
		"the header's goes next":           {"search-prod", nil, "eval", policy.OK, "eval from header", "", "search@example.com"},
		"the team's default goes next":     {"search-prod", nil, "", policy.OK, "support-chat from team", "", "search@example.com"},
		"a child's default is its own":     {"ml", nil, "", policy.OK, "eval from team", "", "search@example.com"},
		"a child without one has its parent's": {
			"ml", func(c *policy.Config) { c.Teams[1].DefaultPurpose, c.Teams[1].Purposes = "", nil }, "", policy.OK, "support-chat from team", "", "search@example.com",
		},
		"but not one that it may not use": {
			"ml", func(c *policy.Config) { c.Teams[1].DefaultPurpose = "" }, "", policy.PurposeRequired, " from ",
			"say what the call is for in the header x-airgate-purpose; this key may use eval", "search@example.com",
		},
		"the registry's default goes last": {"free", func(c *policy.Config) { c.Purposes[2].Default = true }, "", policy.OK, "batch from default", "", ""},
		"the registry's default must be allowed too": {
			"ml", func(c *policy.Config) {
				c.Teams[1].DefaultPurpose, c.Purposes[2].Default, c.Purposes[2].Owner = "", true, ""
			}, "", policy.PurposeDenied, "batch from default",
			`team search-ml may not use purpose "batch"; this key may use eval`, "search@example.com",
		},
		"none is required where a registry exists": {
			"free", nil, "", policy.PurposeRequired, " from ",
			"say what the call is for in the header x-airgate-purpose; this key may use batch, eval, support-chat", "",
		},
		"none is fine where no registry exists":    {"free", noRegistry, "", policy.OK, " from ", "", ""},
		"any word is one where no registry exists": {"free", noRegistry, "whatever", policy.OK, "whatever from header", "", ""},
		"a key's word is fixed without a registry": {
			"free", func(c *policy.Config) { noRegistry(c); c.Keys[2].Purpose = "mine" }, "yours", policy.PurposeDenied, "mine from key", `this key is for purpose "mine" only`, "",
		},
		"what is not registered is unknown": {
			"search-prod", nil, "evil", policy.PurposeUnknown, "evil from header", `no purpose "evil"; this key may use support-chat, eval`, "search@example.com",
		},
		"what the team does not list is denied": {
			"search-prod", nil, "batch", policy.PurposeDenied, "batch from header", `team search may not use purpose "batch"; this key may use support-chat, eval`, "search@example.com",
		},
		"who may be asked is the purpose's owner": {
			"ml", nil, "support-chat", policy.PurposeDenied, "support-chat from header", `team search-ml may not use purpose "support-chat"; this key may use eval`, "care@example.com",
		},
		"a child cannot widen": {
			"ml", func(c *policy.Config) { c.Teams[1].Purposes = []string{"eval", "batch"} }, "batch", policy.PurposeDenied, "batch from header",
			`team search-ml may not use purpose "batch"; this key may use eval`, "search@example.com",
		},
		"absent purposes are all at a root": {"free", nil, "batch", policy.OK, "batch from header", "", ""},
		"absent purposes are the parent's": {
			"ml", func(c *policy.Config) { c.Teams[1].Purposes = nil }, "batch", policy.PurposeDenied, "batch from header",
			`team search-ml may not use purpose "batch"; this key may use support-chat, eval`, "search@example.com",
		},
		"empty purposes are none": {
			"free", func(c *policy.Config) { c.Teams[2].Purposes = []string{} }, "batch", policy.PurposeDenied, "batch from header",
			`team free may not use purpose "batch"; this key may use none`, "",
		},
		"a key's purpose must be the team's too": {
			"search-prod", func(c *policy.Config) { c.Keys[0].Purpose = "batch" }, "", policy.PurposeDenied, "batch from key",
			`team search may not use purpose "batch"; this key may use support-chat, eval`, "search@example.com",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := world(t)
			if tt.change != nil {
				tt.change(&c)
			}
			r := call("gpt-5.4-mini")
			r.Purpose = tt.header
			d := decide(compile(t, c), tt.key, r)
			if got := fmt.Sprintf("%s from %s", d.Purpose, d.PurposeSource); d.Code != tt.want || got != tt.words {
				t.Errorf("Evaluate() = %v, purpose %q, want %v, purpose %q", d.Code, got, tt.want, tt.words)
			}
			if d.Reason != tt.reason {
				t.Errorf("Evaluate() reason = %q, want %q", d.Reason, tt.reason)
			}
			if d.Owner != tt.owner {
				t.Errorf("Evaluate() owner = %q, want %q", d.Owner, tt.owner)
			}
		})
	}
}

func noRegistry(c *policy.Config) {
	c.Purposes = nil
	for i := range c.Teams {
		c.Teams[i].Purposes, c.Teams[i].DefaultPurpose = nil, ""
	}
}

func TestRules(t *testing.T) {
	euOnly := rule("eu-only", `team.tags.region == "eu" && provider.tags.region != "eu"`, "EU data stays in the EU")
	fails := rule("fails", `100 / maxOutputTokens > 3`, "never said") // without a cap: division by zero
	tests := map[string]struct {
		rules []policy.RuleConfig
		r     policy.Request
		want  policy.Decision
	}{
		"no rule refuses nothing": {nil, call("gpt-5.4-mini"), policy.Decision{}},
		"a rule that matches refuses, in its words": {
			[]policy.RuleConfig{euOnly},
			call("gpt-5.4-mini"),
			policy.Decision{Code: policy.RuleDenied, Rule: "eu-only", Reason: "EU data stays in the EU"},
		},
		"the first that matches is the answer": {
			[]policy.RuleConfig{rule("a", "false", "A"), rule("b", "true", "B"), rule("c", "true", "C")},
			call("gpt-5.4-mini"),
			policy.Decision{Code: policy.RuleDenied, Rule: "b", Reason: "B"},
		},
		"in shadow it is only noted": {
			[]policy.RuleConfig{shadowed(euOnly)},
			call("gpt-5.4-mini"),
			policy.Decision{WouldDeny: []string{"rule:eu-only"}},
		},
		"in shadow all that match are noted": {
			[]policy.RuleConfig{shadowed(rule("a", "true", "A")), shadowed(rule("b", "false", "B")), shadowed(rule("c", "true", "C"))},
			call("gpt-5.4-mini"),
			policy.Decision{WouldDeny: []string{"rule:a", "rule:c"}},
		},
		"of a refused call nothing is noted": {
			[]policy.RuleConfig{shadowed(rule("a", "true", "A")), rule("b", "true", "B")},
			call("gpt-5.4-mini"),
			policy.Decision{Code: policy.RuleDenied, Rule: "b", Reason: "B"},
		},
		"a set is laid down": {
			[]policy.RuleConfig{sets("cap", `purpose == "eval"`, 4096)},
			call("gpt-5.4-mini"),
			policy.Decision{MaxOutput: 4096},
		},
		"the lowest set wins": {
			[]policy.RuleConfig{sets("a", "true", 4096), sets("b", "true", 1024), sets("c", "true", 2048), sets("d", "false", 1)},
			call("gpt-5.4-mini"),
			policy.Decision{MaxOutput: 1024},
		},
		"a set in shadow is neither laid down nor noted": {
			[]policy.RuleConfig{shadowed(sets("cap", "true", 10))},
			call("gpt-5.4-mini"),
			policy.Decision{},
		},
		"a refused call has no set": {
			[]policy.RuleConfig{sets("cap", "true", 10), rule("b", "true", "B")},
			call("gpt-5.4-mini"),
			policy.Decision{Code: policy.RuleDenied, Rule: "b", Reason: "B"},
		},
		"a rule that fails refuses": {
			[]policy.RuleConfig{fails},
			call("gpt-5.4-mini"),
			policy.Decision{Code: policy.RuleDenied, Rule: "fails", Reason: "rule fails could not be evaluated, so it refuses"},
		},
		"a set that fails refuses": {
			[]policy.RuleConfig{sets("fails", fails.When, 10)},
			call("gpt-5.4-mini"),
			policy.Decision{Code: policy.RuleDenied, Rule: "fails", Reason: "rule fails could not be evaluated, so it refuses"},
		},
		"a set that fails in one call works in another": {
			[]policy.RuleConfig{sets("fails", fails.When, 10)},
			func() policy.Request { r := call("gpt-5.4-mini"); r.MaxOutput = 20; return r }(),
			policy.Decision{MaxOutput: 10},
		},
		"in shadow a rule that fails is noted": {
			[]policy.RuleConfig{shadowed(fails)},
			call("gpt-5.4-mini"),
			policy.Decision{WouldDeny: []string{"rule:fails"}},
		},
		"in shadow a set that fails is noted": {
			[]policy.RuleConfig{shadowed(sets("fails", fails.When, 10))},
			call("gpt-5.4-mini"),
			policy.Decision{WouldDeny: []string{"rule:fails"}},
		},
		"a rule that costs too much while it runs refuses": {
			[]policy.RuleConfig{rule("slow", `user.matches("(a|b)*c") && false`, "never said")},
			func() policy.Request { r := call("gpt-5.4-mini"); r.User = strings.Repeat("a", 1<<20); return r }(),
			policy.Decision{Code: policy.RuleDenied, Rule: "slow", Reason: "rule slow could not be evaluated, so it refuses"},
		},
		"the model goes before the rules": {
			[]policy.RuleConfig{rule("b", "true", "B")},
			call("gpt-5.5"),
			policy.Decision{Code: policy.ModelDenied, Reason: `team search may not use model "gpt-5.5"; this key may use gpt-5.4-mini, smart`},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := world(t)
			c.Rules = tt.rules
			p := compile(t, c)
			got := decide(p, "search-prod", tt.r)
			tt.want.Owner, tt.want.Purpose, tt.want.PurposeSource = "search@example.com", "eval", policy.FromHeader
			tt.want.Model, tt.want.Target = got.Model, got.Target
			if (got.Code == policy.OK) != (got.Target.Model != "") {
				t.Errorf("Evaluate() = %v to %q, want a target iff allowed", got.Code, got.Target.Model)
			}
			if d := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b *policy.ModelEntry) bool { return a == b })); d != "" {
				t.Errorf("Evaluate() (-want +got):\n%s", d)
			}
		})
	}
}

func TestSplit(t *testing.T) {
	at := func(pick float64) policy.Request {
		r := call("smart")
		r.Pick = pick
		return r
	}
	usOut := rule("us-out", `provider.tags.region == "us"`, "not in the US")
	euOut := rule("eu-out", `model.name == "gpt-5.4-nano"`, "no nano")
	tests := map[string]struct {
		rules  []policy.RuleConfig
		models []string // of the team
		r      policy.Request
		want   string // code or target; what would be denied
	}{
		"the first share begins at 0":                       {nil, nil, at(0), "gpt-5.4-mini []"},
		"and ends at its weight":                            {nil, nil, at(0.8999), "gpt-5.4-mini []"},
		"where the second begins":                           {nil, nil, at(0.9), "gpt-5.4-nano []"},
		"and goes to the end":                               {nil, nil, at(math.Nextafter(1, 0)), "gpt-5.4-nano []"},
		"beyond the end is the last":                        {nil, nil, at(1), "gpt-5.4-nano []"},
		"below 0 is the first":                              {nil, nil, at(-1), "gpt-5.4-mini []"},
		"what is no number is the last":                     {nil, nil, at(math.NaN()), "gpt-5.4-nano []"},
		"a rule takes a target out":                         {[]policy.RuleConfig{usOut}, nil, at(0), "gpt-5.4-nano []"},
		"and the other one":                                 {[]policy.RuleConfig{euOut}, nil, at(0.99), "gpt-5.4-mini []"},
		"none left is refused, by the one that did it":      {[]policy.RuleConfig{usOut, euOut}, nil, at(0), "rule_denied eu-out: no nano []"},
		"in the order of the rules":                         {[]policy.RuleConfig{euOut, usOut}, nil, at(0), "rule_denied us-out: not in the US []"},
		"a rule for the name asked is for both":             {[]policy.RuleConfig{rule("smart", `model.requested == "smart"`, "no")}, nil, at(0), "rule_denied smart: no []"},
		"a list takes a target out":                         {nil, []string{"gpt-5.4-nano"}, at(0), "gpt-5.4-nano []"},
		"a list that names the split allows it whole":       {nil, []string{"smart"}, at(0.9), "gpt-5.4-nano []"},
		"a glob matches the targets, not the split":         {nil, []string{"sm*"}, at(0), "model_denied : team free may not use model \"smart\"; this key may use no model at this path []"},
		"a listed alias of a target allows that target":     {nil, []string{"nano"}, at(0), "gpt-5.4-nano []"},
		"list and rule together":                            {[]policy.RuleConfig{euOut}, []string{"gpt-5.4-nano"}, at(0), "rule_denied eu-out: no nano []"},
		"in shadow what leaves another target is no denial": {[]policy.RuleConfig{shadowed(usOut)}, nil, at(0), "gpt-5.4-mini []"},
		"in shadow what leaves none is":                     {[]policy.RuleConfig{shadowed(usOut)}, []string{"gpt-5.4-mini"}, at(0), "gpt-5.4-mini [rule:us-out]"},
		"in shadow beside one that is enforced":             {[]policy.RuleConfig{shadowed(usOut), euOut}, nil, at(0), "gpt-5.4-mini [rule:us-out]"},
		"a set counts for the target that is chosen":        {[]policy.RuleConfig{sets("us", `provider.tags.region == "us"`, 7), sets("eu", `provider.tags.region == "eu"`, 5)}, nil, at(0.95), "gpt-5.4-nano [] 5"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := world(t)
			c.Rules = tt.rules
			c.Models[1].Aliases = []string{"nano"}
			c.Teams[2].Models = tt.models
			d := decide(compile(t, c), "free", tt.r)
			got := fmt.Sprintf("%s %v", d.Target.Model, d.WouldDeny)
			if d.Code != policy.OK {
				got = fmt.Sprintf("%v %s: %s %v", d.Code, d.Rule, d.Reason, d.WouldDeny)
			}
			if d.MaxOutput > 0 {
				got += fmt.Sprint(" ", d.MaxOutput)
			}
			if got != tt.want {
				t.Errorf("Evaluate() = %s, want %s", got, tt.want)
			}
		})
	}
}

func TestASplitWithoutWeightsIsEven(t *testing.T) {
	c := world(t)
	c.Models[4] = split("smart", []int{0, 0}, c.Models[0], c.Models[1])
	p := compile(t, c)
	n := 0
	for i := range 1000 {
		r := call("smart")
		r.Pick = float64(i) / 1000
		if decide(p, "free", r).Target.Model == "gpt-5.4-mini" {
			n++
		}
	}
	if n != 500 {
		t.Errorf("the first of two targets has %d of 1000 calls, want 500", n)
	}
}

func TestShadowLetsGoOn(t *testing.T) {
	tests := map[string]struct {
		key   string
		rules []policy.RuleConfig
		r     policy.Request
		want  string
	}{
		"nothing to note":                             {"free", nil, call("gpt-5.5"), "ok gpt-5.5 []"},
		"a model that is not allowed":                 {"search-prod", nil, call("gpt-5.5"), "ok gpt-5.5 [model_denied]"},
		"a purpose that is missing":                   {"free", nil, func() policy.Request { r := call("gpt-5.5"); r.Purpose = ""; return r }(), "ok gpt-5.5 [purpose_required]"},
		"a purpose that is unknown":                   {"free", nil, func() policy.Request { r := call("gpt-5.5"); r.Purpose = "evil"; return r }(), "ok gpt-5.5 [purpose_unknown]"},
		"a purpose that is denied":                    {"ml", nil, func() policy.Request { r := call("gpt-5.4-mini"); r.Purpose = "batch"; return r }(), "ok gpt-5.4-mini [purpose_denied]"},
		"a rule":                                      {"free", []policy.RuleConfig{rule("a", "true", "A")}, call("gpt-5.5"), "ok gpt-5.5 [rule:a]"},
		"two rules that between them leave no target": {"free", []policy.RuleConfig{rule("a", `model.name == "gpt-5.4-mini"`, "A"), rule("b", `model.name == "gpt-5.4-nano"`, "B")}, call("smart"), "ok gpt-5.4-mini [rule:b]"},
		"a rule that leaves a target":                 {"free", []policy.RuleConfig{rule("a", `model.name == "gpt-5.4-mini"`, "A")}, call("smart"), "ok gpt-5.4-mini []"},
		"a set is not laid down":                      {"free", []policy.RuleConfig{sets("a", "true", 10)}, call("gpt-5.5"), "ok gpt-5.5 []"},
		"all at once":                                 {"search-prod", []policy.RuleConfig{rule("a", "true", "A")}, func() policy.Request { r := call("gpt-5.5"); r.Purpose = "batch"; return r }(), "ok gpt-5.5 [model_denied purpose_denied rule:a]"},
		"an unknown model cannot go on":               {"search-prod", nil, call("gpt-6"), "model_unknown  []"},
		"nor can one of another dialect":              {"search-prod", nil, call("sonnet"), "model_unknown  []"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := world(t)
			c.Rules, c.Shadow = tt.rules, true
			d := decide(compile(t, c), tt.key, tt.r)
			if got := fmt.Sprintf("%v %s %v", d.Code, d.Target.Model, d.WouldDeny); got != tt.want || d.MaxOutput != 0 {
				t.Errorf("Evaluate() = %s, cap %d, want %s, no cap", got, d.MaxOutput, tt.want)
			}
		})
	}
}

func TestShadowKeepsKeysEnforced(t *testing.T) {
	c := world(t)
	c.Shadow = true
	c.Keys[0].Revoked = now
	p := compile(t, c)
	if _, code := p.Authenticate([]byte(makeKey(t, 1, "", "").text), now); code != policy.KeyRevoked {
		t.Errorf("Authenticate() = %v, want %v", code, policy.KeyRevoked)
	}
	r := call("gpt-5.5")
	var d policy.Decision
	if p.Evaluate(&r, &d); d.Code != policy.KeyMissing {
		t.Errorf("Evaluate(no key) = %v, want %v", d.Code, policy.KeyMissing)
	}
}

func TestADecisionIsReset(t *testing.T) {
	c := world(t)
	c.Rules = []policy.RuleConfig{shadowed(rule("a", "stream", "A")), sets("b", "stream", 9)}
	p := compile(t, c)
	var d policy.Decision
	first, second := call("gpt-5.4-mini"), call("gpt-5.5")
	first.Key, first.Stream, second.Key = p.Key("free"), true, p.Key("free")
	p.Evaluate(&first, &d)
	if len(d.WouldDeny) != 1 || d.MaxOutput != 9 {
		t.Fatalf("Evaluate(first) = %+v, want one note and a cap", d)
	}
	p.Evaluate(&second, &d)
	if d.MaxOutput != 0 || len(d.WouldDeny) != 0 || d.Target.Model != "gpt-5.5" {
		t.Errorf("Evaluate(second) = %+v, want nothing of the first", d)
	}
}

func TestCodesHaveTheTextsOfTheDesign(t *testing.T) {
	want := []string{
		"ok", "key_missing", "key_unknown", "key_revoked", "key_expired", "model_unknown", "model_denied",
		"purpose_required", "purpose_unknown", "purpose_denied", "rule_denied",
	}
	var got []string
	for c := policy.OK; c <= policy.RuleDenied; c++ {
		got = append(got, c.String())
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("Code.String (-want +got):\n%s", d)
	}
}

// typical has rules as one finds them, all of the lowered subset.
func typical(t testing.TB) (*policy.Policy, policy.Request) {
	c := world(t)
	c.Blocks = []policy.Block{{Name: "block/team/ads", Team: "ads", Reason: "no"}, {Name: "block/model/gpt-5.4-nano", Model: "gpt-5.4-nano", Reason: "no"}}
	c.Rules = []policy.RuleConfig{
		rule("eu-only", `team.tags.region == "us" && provider.tags.region != "us"`, "no"),
		rule("big", `bodyBytes > 1000000 && !(purpose in ["batch", "support-chat"])`, "no"),
		rule("tools", `tools && key.name.startsWith("ext-")`, "no"),
		shadowed(rule("next", `team.path.startsWith("search") && stream`, "no")),
		sets("cap", `purpose == "eval"`, 4096),
	}
	p := compile(t, c)
	r := call("smart")
	r.Key, r.Stream, r.BodyBytes = p.Key("search-prod"), true, 5000
	return p, r
}

func TestEvaluateAllocatesNothing(t *testing.T) {
	p, r := typical(t)
	shadow := world(t)
	shadow.Shadow = true
	sp := compile(t, shadow)
	denied := call("gpt-5.5")
	denied.Key, denied.Purpose = sp.Key("search-prod"), "batch"

	var d, early policy.Decision
	var blocked bool
	for name, f := range map[string]func(){
		"allowed, with a shadowed denial": func() { p.Evaluate(&r, &d) },
		"in shadow, with denials":         func() { sp.Evaluate(&denied, &d) },
		"asked early for blocks":          func() { p.Evaluate(&r, &d); blocked = p.Blocked(r.Key, &early) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: Evaluate allocates %v times, want 0", name, n)
		}
		if d.Code != policy.OK || len(d.WouldDeny) == 0 {
			t.Errorf("%s: Evaluate() = %+v, want an allowed call with notes", name, d)
		}
	}
	if blocked {
		t.Errorf("Blocked() = %+v, want not", early)
	}
}

func BenchmarkEvaluate(b *testing.B) {
	p, r := typical(b)
	c := world(b)
	c.Rules = []policy.RuleConfig{rule("slow", `team.name.contains("x") && provider.tags.region != "eu"`, "no")}
	cel := compile(b, c)
	celCall := call("gpt-5.4-mini")
	celCall.Key = cel.Key("search-prod")
	for name, f := range map[string]func(d *policy.Decision){
		"five lowered rules on two targets": func(d *policy.Decision) { p.Evaluate(&r, d) },
		"one CEL rule":                      func(d *policy.Decision) { cel.Evaluate(&celCall, d) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var d policy.Decision
			for b.Loop() {
				f(&d)
			}
			if d.Code != policy.OK {
				b.Fatal(d.Code, d.Reason)
			}
		})
	}
}
