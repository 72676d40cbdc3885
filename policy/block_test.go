package policy_test

import (
	"slices"
	"testing"

	"airgate/policy"
)

// Shadow softens allow-lists and rules, and no block: what it lets pass goes
// where nothing is blocked, and its notes are about what the lists leave.
func TestBlocksInShadow(t *testing.T) {
	tests := map[string]struct {
		models []string // that the team may use
		rule   string   // of a denial
		block  []string // models
		want   policy.Code
		target string
		notes  []string
	}{
		"a block refuses":                       {nil, "", []string{"gpt-5.4-mini", "gpt-5.4-nano"}, policy.RuleDenied, "", nil},
		"the rest of a split serves":            {nil, "", []string{"gpt-5.4-mini"}, policy.OK, "gpt-5.4-nano", nil},
		"also if the list would have denied it": {[]string{"gpt-5.4-mini"}, "", []string{"gpt-5.4-mini"}, policy.OK, "gpt-5.4-nano", nil},
		"a rule is asked about what the list leaves": {
			[]string{"gpt-5.4-mini"}, `model.name == "gpt-5.4-mini"`, []string{"gpt-5.5"}, policy.OK, "gpt-5.4-mini", []string{"rule:no"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := world(t)
			c.Shadow = true
			c.Teams[2].Models = tt.models
			if tt.rule != "" {
				c.Rules = []policy.RuleConfig{rule("no", tt.rule, "no")}
			}
			for _, m := range tt.block {
				c.Blocks = append(c.Blocks, policy.Block{Name: "block/model/" + m, Model: m, Reason: "INC-12"})
			}
			p := compile(t, c)
			r := call("smart")
			r.Key = p.Key("free")
			var d policy.Decision
			p.Evaluate(&r, &d)
			if d.Code != tt.want || d.Target.Model != tt.target || !slices.Equal(d.WouldDeny, tt.notes) {
				t.Errorf("Evaluate() = %v to %q, notes %q; want %v to %q, %q", d.Code, d.Target.Model, d.WouldDeny, tt.want, tt.target, tt.notes)
			}
			if d.Code != policy.OK && (d.Rule != "block/model/gpt-5.4-nano" || d.Reason != "INC-12" || d.Owner != "") {
				t.Errorf("Evaluate() = %+v, want the block's name and reason", d)
			}
		})
	}
}
