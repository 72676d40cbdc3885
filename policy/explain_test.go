package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"airgate/policy"
)

func transcript(steps []policy.Step) string {
	var b strings.Builder
	for _, s := range steps {
		fmt.Fprintf(&b, "%s", s.Check)
		for _, word := range []string{s.Name, s.Target} {
			if word != "" {
				b.WriteString(" " + word)
			}
		}
		fmt.Fprintf(&b, ": %s", s.Outcome)
		if s.Code != policy.OK {
			fmt.Fprintf(&b, " %v", s.Code)
		}
		fmt.Fprintf(&b, ": %s\n", s.Reason)
	}
	return b.String()
}

func TestExplain(t *testing.T) {
	rules := []policy.RuleConfig{
		rule("no-us", `provider.tags.region == "us"`, "nothing in the US"),
		rule("no-batch", `purpose == "batch"`, "no batches"),
		shadowed(rule("no-stream", "stream", "no streams")),
		shadowed(rule("fast", `100 / maxOutputTokens > 3`, "short answers only")),
		sets("cap", "true", 4096),
		sets("small", "bodyBytes > 10", 10),
		shadowed(sets("tiny", "true", 1)),
	}
	tests := map[string]struct {
		key    string
		change func(c *policy.Config)
		r      policy.Request
		want   string
	}{
		"an allowed call": {
			"free", nil, call("smart"), `
key: pass: key ID "free" of team free
model: pass: "smart" is model smart
purpose: pass: "eval", from the header
rule no-us gpt-5.4-mini: drop: nothing in the US
rule no-batch: pass: does not apply
rule no-stream: pass: does not apply
rule fast: would_refuse rule_denied: rule fast could not be evaluated, so it refuses: division by zero
route gpt-5.4-nano: pass: gpt-5.4-nano at provider openai-eu, one of 1
rule cap: set: sets maxOutputTokens to 4096 at most
rule small: pass: does not apply
rule tiny: pass: in shadow: would set maxOutputTokens to 1 at most
`,
		},
		"beyond a refusal it goes on": {
			"search-prod", nil, func() policy.Request { r := call("gpt-5.5"); r.Purpose, r.MaxOutput = "batch", 20; return r }(), `
key: pass: key ID "search-prod" of team search
model: refuse model_denied: team search may not use model "gpt-5.5"; this key may use gpt-5.4-mini, smart
purpose: refuse purpose_denied: team search may not use purpose "batch"; this key may use support-chat, eval
rule no-us: refuse rule_denied: nothing in the US
rule no-batch: refuse rule_denied: no batches
rule no-stream: pass: does not apply
rule fast: would_refuse rule_denied: short answers only
route gpt-5.5: pass: gpt-5.5 at provider openai, one of 1
rule cap: set: sets maxOutputTokens to 4096 at most
rule small: pass: does not apply
rule tiny: pass: in shadow: would set maxOutputTokens to 1 at most
`,
		},
		"without a model no rule can be asked": {
			"free", nil, call("gpt-6"), `
key: pass: key ID "free" of team free
model: refuse model_unknown: no model "gpt-6"; this key may use gpt-5.4-mini, gpt-5.4-nano, gpt-5.5, smart
purpose: pass: "eval", from the header
`,
		},
		"without a key nothing can": {
			"nobody", nil, call("gpt-6"), `
key: refuse key_missing: no key
`,
		},
		"in shadow": {
			"search-prod", func(c *policy.Config) { c.Shadow = true },
			func() policy.Request { r := call("smart"); r.Purpose, r.Stream, r.MaxOutput = "", true, 100; return r }(), `
key: pass: key ID "search-prod" of team search
model: pass: "smart" is model smart
purpose: pass: "support-chat", from the team
rule no-us gpt-5.4-mini: drop: nothing in the US
rule no-batch: pass: does not apply
rule no-stream: would_refuse rule_denied: no streams
rule fast: pass: does not apply
route gpt-5.4-mini: pass: gpt-5.4-mini at provider openai, one of 2
rule cap: pass: in shadow: would set maxOutputTokens to 4096 at most
rule small: pass: does not apply
rule tiny: pass: in shadow: would set maxOutputTokens to 1 at most
`,
		},
		"blocks come first, and hold in shadow": {
			"ml", func(c *policy.Config) {
				c.Shadow, c.Rules = true, nil
				c.Blocks = []policy.Block{
					{Name: "block/team/free", Team: "free", Reason: "F"},
					{Name: "block/team/search", Team: "search", Reason: "S"},
					{Name: "block/model/gpt-5.4-mini", Model: "gpt-5.4-mini", Reason: "M"},
				}
			},
			call("smart"), `
key: pass: key ID "ml" of team search/search-ml
rule block/team/free: pass: does not apply
rule block/team/search: refuse rule_denied: S
model: pass: "smart" is model smart
rule block/model/gpt-5.4-mini gpt-5.4-mini: drop: M
purpose: pass: "eval", from the header
route gpt-5.4-nano: pass: gpt-5.4-nano at provider openai-eu, one of 1
`,
		},
		"which level took a target out, and where no purpose is needed": {
			"ml", func(c *policy.Config) {
				noRegistry(c)
				c.Rules = []policy.RuleConfig{shadowed(rule("mini", `model.name == "gpt-5.4-mini"`, "M"))}
				c.Teams[0].Models, c.Teams[1].Models = []string{"gpt-5.4-*"}, nil
				c.Models[4] = split("smart", []int{1, 1, 1}, c.Models[0], c.Models[1], c.Models[3])
			},
			func() policy.Request { r := call("smart"); r.Purpose = ""; return r }(), `
key: pass: key ID "ml" of team search/search-ml
model: pass: "smart" is model smart
model gpt-5.5: drop: team search may not use it
purpose: pass: none is needed: no purposes are registered
rule mini: pass: in shadow: would take 1 targets out of the plan and leave others
route gpt-5.4-mini: pass: gpt-5.4-mini at provider openai, one of 2
`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := world(t)
			c.Rules = rules
			if tt.change != nil {
				tt.change(&c)
			}
			p := compile(t, c)
			r := tt.r
			r.Key = p.Key(tt.key)
			got := "\n" + transcript(p.Explain(&r))
			if r.Key != nil {
				got = strings.ReplaceAll(got, r.Key.ID, "ID")
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("Explain() (-want +got):\n%s", d)
			}
		})
	}
}
