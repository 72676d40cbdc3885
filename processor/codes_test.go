package processor_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"airgate/accounting/money"
	"airgate/accounting/record"
	"airgate/processor"
)

const codesBase = `
providers: {openai: {dialect: openai, url: https://api.openai.com, credential: {file: /secret}}}
models: {gpt-5.4-mini: {provider: openai}, gpt-5.4-nano: {provider: openai}, local: {provider: openai, maxOutputTokens: 100}}
teams: {search: {models: [gpt-5.4-mini, local]}, other: {}}
prices: {usdPerMillionTokens: {gpt-5.4-mini: {input: 1, cacheRead: 0.1, output: 10}}}
`

// usual is held at 0.010181 USD: 181 tokens in, 1,000 out.
const usual = `{"model":"gpt-5.4-mini","max_completion_tokens":1000}`

// denial is what a caller reads of a refusal.
func denial(t *testing.T, a processor.Action) string {
	t.Helper()
	d, ok := a.(*processor.Deny)
	if !ok {
		return "allowed"
	}
	var body struct {
		Error struct {
			Airgate struct {
				Code, Limit, Owner string
				Used               *string `json:"used_usd"`
				Reserved           *string `json:"reserved_usd"`
				LimitUSD           *string `json:"limit_usd"`
				Needed             *string `json:"needed_usd"`
				Reset              *string `json:"reset"`
			} `json:"airgate"`
		} `json:"error"`
	}
	if err := json.Unmarshal(d.Body, &body); err != nil {
		t.Fatalf("%s: %v", d.Body, err)
	}
	said := body.Error.Airgate
	out := fmt.Sprintf("%d %s", d.Status, said.Code)
	if said.Limit != "" {
		out += " by " + said.Limit
	}
	if said.Needed != nil {
		out += fmt.Sprintf(": used %s, reserved %s of %s, needs %s", *said.Used, *said.Reserved, *said.LimitUSD, *said.Needed)
	}
	if i := slices.IndexFunc(d.Headers, func(h processor.Header) bool { return h.Name == "retry-after" }); i >= 0 {
		out += ", again in " + d.Headers[i].Value + "s"
	}
	if said.Reset != nil {
		out += ", renewed " + *said.Reset
	}
	return out
}

// TestCodes tells every refusal for money, price, bound, rule or limit apart,
// with its exact figures, and checks that its record says the same. The checks
// come in the order of design section 4: what stands further up hides what
// stands below.
func TestCodes(t *testing.T) {
	settled := func(e *env) { e.answered(e.callInFlight()) }
	flight := func(e *env) { e.callInFlight() }
	overdraft := func(e *env) {
		e.play("", usual, "application/json", `{"usage":{"prompt_tokens":100,"completion_tokens":2000}}EOS`)
	}
	for name, c := range map[string]struct {
		config string
		past   func(*env)
		path   string
		body   string
		want   string
	}{
		"fits to the last nano": {"budgets: [{name: b, usd: 0.010181, per: month}]", nil, "", usual, "allowed"},
		"one nano too much": {
			"budgets: [{name: b, usd: 0.01018099, per: month}]", nil, "", usual,
			"402 budget_insufficient by b: used 0, reserved 0 of 0.01018099, needs 0.010181, renewed 2026-12-01T00:00:00Z",
		},
		"exhausted": {
			"budgets: [{name: b, usd: 0.011, per: day, timeZone: Asia/Tokyo}]", overdraft, "", usual,
			"402 budget_exhausted by b: used 0.0201, reserved 0 of 0.011, needs 0.010181, renewed 2026-11-21T15:00:00Z",
		},
		"insufficient": {
			"budgets: [{name: b, usd: 0.011, per: total}]", settled, "", usual,
			"402 budget_insufficient by b: used 0.0021, reserved 0 of 0.011, needs 0.010181",
		},
		"insufficient, another status": {
			"budgets: [{name: b, usd: 0.011, per: total, budgetStatus: 429}]", settled, "", usual,
			"429 budget_insufficient by b: used 0.0021, reserved 0 of 0.011, needs 0.010181",
		},
		"busy": {
			"budgets: [{name: b, usd: 0.011, per: total}]", flight, "", usual,
			"429 budget_busy by b: used 0, reserved 0.010181 of 0.011, needs 0.010181, again in 1s",
		},
		"busy, another status is not its": {
			"budgets: [{name: b, usd: 0.011, per: total, budgetStatus: 403}]", flight, "", usual,
			"429 budget_busy by b: used 0, reserved 0.010181 of 0.011, needs 0.010181, again in 1s",
		},
		"the tightest of several": {
			"budgets: [{name: a, usd: 1, per: total}, {name: b, each: key, usd: 0.01, per: total}]", nil, "", usual,
			"402 budget_insufficient by b: used 0, reserved 0 of 0.01, needs 0.010181",
		},
		"a shadow budget":           {"budgets: [{name: a, usd: 1, per: total}, {name: s, usd: 0.01, per: day, mode: shadow}]", nil, "", usual, "allowed, would deny [budget:s]"},
		"a shadow budget alone":     {"budgets: [{name: s, usd: 1, per: day, mode: shadow}]", nil, "", usual, "403 budget_missing"},
		"no budget":                 {"budgets: [{name: b, match: {team: other}, usd: 1, per: day}]", nil, "", usual, "403 budget_missing"},
		"no budget, allowed":        {"unbudgeted: allow", nil, "", usual, "allowed"},
		"no price":                  {"budgets: [{name: b, usd: 1, per: day}]", nil, "", `{"model":"local"}`, "403 model_unpriced"},
		"no price, allowed":         {"unpriced: allow\nbudgets: [{name: b, usd: 1, per: day}]", nil, "", `{"model":"local"}`, "allowed, unpriced"},
		"no bound: background":      {"budgets: [{name: b, usd: 1, per: day}]", nil, "/v1/responses", `{"model":"gpt-5.4-mini","background":true,"input":"x"}`, "403 cost_unbounded"},
		"no bound: a server's tool": {"budgets: [{name: b, usd: 1, per: day}]", nil, "/v1/responses", `{"model":"gpt-5.4-mini","tools":[{"type":"web_search"}],"input":"x"}`, "403 cost_unbounded"},
		"no bound, but no budget":   {"unbudgeted: allow", nil, "/v1/responses", `{"model":"gpt-5.4-mini","background":true,"input":"x"}`, "allowed"},
		"no bound, a shadow budget": {"unbudgeted: allow\nbudgets: [{name: s, usd: 1000, per: day, mode: shadow}]", nil, "/v1/responses", `{"model":"gpt-5.4-mini","background":true,"input":"x"}`, "allowed"},
		"a rule":                    {"budgets: [{name: b, usd: 1, per: day}]\nrules: [{name: r, when: 'true', deny: \"no\"}]", nil, "", usual, "403 rule_denied"},
		"a shadow rule":             {"budgets: [{name: b, usd: 1, per: day}]\nrules: [{name: r, when: 'true', deny: \"no\", mode: shadow}]", nil, "", usual, "allowed, would deny [rule:r]"},
		"calls in a second":         {"budgets: [{name: b, usd: 1, per: day}]\nlimits: [{name: l, requests: 1/min}]", settled, "", usual, "429 rate_limited by l, again in 60s"},
		"calls at once":             {"budgets: [{name: b, usd: 1, per: day}]\nlimits: [{name: l, concurrent: 1}]", flight, "", usual, "429 concurrency_limited by l, again in 1s"},
		"tokens in a minute":        {"budgets: [{name: b, usd: 1, per: day}]\nlimits: [{name: l, tokens: 1100/min}]", flight, "", usual, "429 rate_limited by l, again in 56s"},
		"tokens of a call in debt":  {"budgets: [{name: b, usd: 1, per: day}]\nlimits: [{name: l, tokens: 1100/min}]", overdraft, "", usual, "429 rate_limited by l"},
		"a shadow limit":            {"budgets: [{name: b, usd: 1, per: day}]\nlimits: [{name: l, requests: 1/min, mode: shadow}]", settled, "", usual, "allowed, would deny [limit:l]"},
		"model before price":        {"limits: []", nil, "", `{"model":"gpt-5.4-nano","max_completion_tokens":1}`, "403 model_denied"},
		"price before bound":        {"rules: [{name: r, when: 'true', deny: \"no\"}]", nil, "/v1/responses", `{"model":"local","background":true,"input":"x"}`, "403 model_unpriced"},
		"bound before rule":         {"budgets: [{name: b, usd: 1, per: day}]\nrules: [{name: r, when: 'true', deny: \"no\"}]", nil, "/v1/responses", `{"model":"gpt-5.4-mini","background":true,"input":"x"}`, "403 cost_unbounded"},
		"rule before limit":         {"budgets: [{name: b, usd: 0.1, per: day}]\nlimits: [{name: l, tokens: 1/day}]\nrules: [{name: r, when: 'maxOutputTokens == 999', deny: \"no\"}]", flight, "", `{"model":"gpt-5.4-mini","max_completion_tokens":999}`, "403 rule_denied"},
		"limit before budget":       {"budgets: [{name: b, usd: 0.011, per: day}]\nlimits: [{name: l, match: {model: gpt-5.4-mini}, requests: 1/min}]", flight, "", usual, "429 rate_limited by l, again in 60s"},
		"the rate before the body":  {"budgets: [{name: b, usd: 1, per: day}]\nlimits: [{name: l, requests: 1/min}]", settled, "", "{", "429 rate_limited by l, again in 60s"},
		"all of it, in shadow": {
			"enforcement: shadow\nbudgets: [{name: b, usd: 0.001, per: day}]\nlimits: [{name: l, requests: 1/min}]\nrules: [{name: r, when: 'true', deny: \"no\"}]",
			settled, "/v1/responses", `{"model":"gpt-5.4-nano","max_output_tokens":10,"background":true,"input":"x"}`,
			"allowed, would deny [model_denied rule:r cost_unbounded limit:l budget:b]",
		},
		"no price, no budget, in shadow": {"enforcement: shadow", nil, "", `{"model":"local"}`, "allowed, would deny [model_unpriced budget_missing], unpriced"},
		"nothing wrong, in shadow":       {"enforcement: shadow\nunbudgeted: allow\nunpriced: allow", nil, "", `{"model":"local"}`, "allowed, unpriced"},
	} {
		t.Run(name, func(t *testing.T) {
			e := &env{t: t}
			e.begin(codesBase + c.config + "\n")
			if c.past != nil {
				c.past(e)
			}
			path := c.path
			if path == "" {
				path = "/v1/chat/completions"
			}
			s := e.proc.Begin(e.now)
			a := s.Step(&processor.RequestHeaders{Headers: e.headers(":method: POST\n:path: " + path + "\nauthorization: Bearer KEY"), Now: e.now})
			if _, ok := a.(*processor.Continue); ok {
				a = s.Step(&processor.RequestBody{Body: []byte(c.body), Now: e.now})
			}
			got, r := denial(t, a), e.last()
			if got == "allowed" {
				if len(r.WouldDeny) > 0 {
					got += fmt.Sprintf(", would deny %v", r.WouldDeny)
				}
				if r.PriceID == "" {
					got += ", unpriced"
				}
			}
			if got != c.want {
				t.Errorf("answer %s\nwant   %s", got, c.want)
			}
			if (r.Type == record.Deny) == strings.HasPrefix(got, "allowed") || r.Code != "" && !strings.Contains(got, r.Code) {
				t.Errorf("the record is %v with code %q", r.Type, r.Code)
			}
			if i := len(r.Limits) - 1; i >= 0 && strings.Contains(got, "needs") {
				l := r.Limits[i]
				usd := func(n int64) string { return money.NanoUSD(n).String() }
				if said := fmt.Sprintf("used %s, reserved %s of %s, needs %s", usd(l.Used), usd(l.Reserved), usd(l.Limit), usd(l.Needed)); !strings.Contains(got, said) {
					t.Errorf("the record says %s", said)
				}
			}
		})
	}
}

// A cost beyond the hold is booked and in the record.
func TestOverdraftIsInTheRecord(t *testing.T) {
	e := &env{t: t}
	e.begin(codesBase + "budgets: [{name: b, usd: 0.011, per: month}]\n")
	e.play("", usual, "application/json", `{"usage":{"prompt_tokens":100,"completion_tokens":2000}}EOS`)
	r := e.last()
	if r.Reserved.String() != "0.010181" || r.Cost.String() != "0.0201" {
		t.Errorf("record: reserved %s, cost %s; want 0.010181 and 0.0201", r.Reserved, r.Cost)
	}
	if d := cmp.Diff("b: spent 0.0201, reserved 0 of 0.011\n", e.budgets()); d != "" {
		t.Errorf("budgets (-want +got):\n%s", d)
	}
}

// TestClampOutput: a cap that does not fit is lowered to what does, if every
// budget that lacks allows it.
func TestClampOutput(t *testing.T) {
	const clamp = ", clampOutput: {floorTokens: 300}"
	budget := func(name, usd, more string) string {
		return "{name: " + name + ", usd: " + usd + ", per: total" + more + "}"
	}
	for name, c := range map[string]struct {
		budgets []string
		past    func(*env)
		body    string
		want    string
		cap     money.Tokens // sent and announced; 0 = unchanged
	}{
		"fits":                        {[]string{budget("b", "1", clamp)}, nil, usual, "allowed", 0},
		"does not fit":                {[]string{budget("b", "0.005181", clamp)}, nil, usual, "allowed", 500},
		"down to the floor":           {[]string{budget("b", "0.003181", clamp)}, nil, usual, "allowed", 300},
		"below the floor":             {[]string{budget("b", "0.003180", clamp)}, nil, usual, "402 budget_insufficient by b: used 0, reserved 0 of 0.00318, needs 0.010181", 0},
		"not allowed":                 {[]string{budget("b", "0.005181", "")}, nil, usual, "402 budget_insufficient by b: used 0, reserved 0 of 0.005181, needs 0.010181", 0},
		"what is spent counts":        {[]string{budget("b", "0.011", clamp)}, func(e *env) { e.answered(e.callInFlight()) }, usual, "allowed", 871},
		"what is held counts":         {[]string{budget("b", "0.015362", clamp)}, func(e *env) { e.callInFlight() }, usual, "allowed", 500},
		"all is held":                 {[]string{budget("b", "0.010181", clamp)}, func(e *env) { e.callInFlight() }, usual, "429 budget_busy by b: used 0, reserved 0.010181 of 0.010181, needs 0.010181, again in 1s", 0},
		"the tighter of two":          {[]string{budget("a", "0.004181", clamp), budget("b", "0.005181", ", each: key"+clamp)}, nil, usual, "allowed", 400},
		"the higher floor":            {[]string{budget("a", "0.004181", ", clampOutput: {floorTokens: 1}"), budget("b", "0.005181", ", each: key, clampOutput: {floorTokens: 401}")}, nil, usual, "402 budget_insufficient by a: used 0, reserved 0 of 0.004181, needs 0.010181", 0},
		"a floor of one that fits":    {[]string{budget("a", "0.004181", clamp), budget("b", "1", ", each: key, clampOutput: {floorTokens: 999}")}, nil, usual, "allowed", 400},
		"one of two does not allow":   {[]string{budget("a", "0.004181", clamp), budget("b", "0.005181", ", each: key")}, nil, usual, "402 budget_insufficient by a: used 0, reserved 0 of 0.004181, needs 0.010181", 0},
		"the other fits as it is":     {[]string{budget("a", "0.004181", clamp), budget("b", "1", ", each: key")}, nil, usual, "allowed", 400},
		"a shadow does not clamp":     {[]string{budget("a", "1", ""), budget("b", "0.005181", ", each: key, mode: shadow"+clamp)}, nil, usual, "allowed, would deny [budget:b]", 0},
		"of several choices":          {[]string{budget("b", "0.005185", clamp)}, nil, strings.Replace(usual, "000}", `000,"n":1}`, 1), "allowed", 499},
		"the input alone is too dear": {[]string{budget("b", "0.0001", clamp)}, nil, usual, "402 budget_insufficient by b: used 0, reserved 0 of 0.0001, needs 0.010181", 0},
		"no cap of the caller's":      {[]string{budget("b", "0.005181", clamp)}, nil, `{"model":"gpt-5.4-mini"}`, "allowed", 502},
	} {
		t.Run(name, func(t *testing.T) {
			e := &env{t: t}
			e.begin(codesBase + "budgets: [" + strings.Join(c.budgets, ", ") + "]\n")
			if c.past != nil {
				c.past(e)
			}
			s := e.proc.Begin(e.now)
			s.Step(&processor.RequestHeaders{Headers: e.headers(":method: POST\n:path: /v1/chat/completions\nauthorization: Bearer KEY"), Now: e.now})
			a := s.Step(&processor.RequestBody{Body: []byte(c.body), Now: e.now})
			got, r := denial(t, a), e.last()
			if len(r.WouldDeny) > 0 {
				got += fmt.Sprintf(", would deny %v", r.WouldDeny)
			}
			if got != c.want {
				t.Fatalf("answer %s\nwant   %s", got, c.want)
			}
			f, ok := a.(*processor.Forward)
			if !ok {
				return
			}
			var sent struct {
				Cap money.Tokens `json:"max_completion_tokens"`
			}
			if body := f.Body; body != nil {
				if err := json.Unmarshal(body, &sent); err != nil {
					t.Fatal(err)
				}
			}
			s.After()
			announced := ""
			answer := s.Step(&processor.ResponseHeaders{Headers: e.headers(":status: 200\ncontent-type: application/json"), Details: "via_upstream", Attempts: 1, Now: e.now})
			for _, h := range answer.(*processor.Answer).Set {
				if h.Name == "x-airgate-cap" {
					announced = h.Value
				}
			}
			want := ""
			if c.cap > 0 {
				want = fmt.Sprint(c.cap)
			}
			if sent.Cap != c.cap || announced != want || r.Cap != c.cap {
				t.Errorf("cap %d sent, %q announced, %d in the intent; want %d", sent.Cap, announced, r.Cap, c.cap)
			}
			if c.cap > 0 && r.Limits[len(r.Limits)-1].Needed != int64(r.Reserved) {
				t.Errorf("reserved %s, limits %+v", r.Reserved, r.Limits)
			}
			s.Close(e.now, true)
			s.Finish(e.now, processor.Cause{})
			if r := e.last(); r.Type != record.Settle || r.Cap != c.cap {
				t.Errorf("%v with cap %d, want a settlement with %d", r.Type, r.Cap, c.cap)
			}
			if c.past == nil {
				e.holdsNothing(t)
			}
		})
	}
}

// Callers that clamp at once share the room: none passes the limit, each is let
// go with a cap that was held, or refused with the figures it came with.
func TestClampersAtOnce(t *testing.T) {
	e := &env{t: t}
	e.begin(codesBase + "budgets: [{name: b, usd: 0.02, per: total, clampOutput: {floorTokens: 10}}]\n")
	head := e.headers(":method: POST\n:path: /v1/chat/completions\nauthorization: Bearer KEY\ncontent-length: 60")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				s := e.proc.Begin(e.now)
				s.Step(&processor.RequestHeaders{Headers: head, Now: e.now})
				switch a := s.Step(&processor.RequestBody{Body: []byte(usual), Now: e.now}).(type) {
				case *processor.Forward:
					if b := e.ledger.Budgets(e.now)[0]; b.Spent+b.Reserved > b.Limit {
						t.Errorf("spent %s and reserved %s of %s", b.Spent, b.Reserved, b.Limit)
					}
					s.Step(&processor.ResponseHeaders{Headers: []processor.Header{{Name: ":status", Value: "500"}}, EndOfStream: true, Details: "via_upstream", Now: e.now})
				case *processor.Deny:
					if !strings.Contains(string(a.Body), `"needed_usd":"0.010181"`) {
						t.Errorf("refused with %s, want the figures of the whole call", a.Body)
					}
				default:
					t.Errorf("action %+v", a)
				}
				s.Close(e.now, true)
				s.Finish(e.now, processor.Cause{})
			}
		})
	}
	wg.Wait()
	if got := e.budgets(); got != "b: spent 0, reserved 0 of 0.02\n" {
		t.Errorf("at the end %s", got)
	}
}

// TestDearerRows: what the provider's account or the request makes dearer is
// held before it is billed.
func TestDearerRows(t *testing.T) {
	const answer = `{"model":"M","service_tier":"T","usage":{"prompt_tokens":100,"completion_tokens":1000,"prompt_tokens_details":{"cached_tokens":0,"cache_write_tokens":100}}}EOS`
	for name, c := range map[string]struct {
		provider string // fields of it
		model    string
		body     string // fields of it
		tier     string // of the answer
		cost     string
	}{
		"the standard row":            {"", "gpt-5.4-mini", "", "default", "0.004575"},
		"priority, asked":             {"", "gpt-5.4-mini", `,"service_tier":"priority"`, "priority", "0.00915"},
		"priority, the account's own": {", serviceTier: priority", "gpt-5.4-mini", "", "priority", "0.00915"},
		"priority, not confirmed":     {", serviceTier: priority", "gpt-5.4-mini", "", "", "0.00915"},
		"priority, not granted":       {", serviceTier: priority", "gpt-5.4-mini", "", "default", "0.004575"},
		"flex, asked":                 {"", "gpt-5.4-mini", `,"service_tier":"flex"`, "flex", "0.0022875"},
		"flex, not confirmed":         {"", "gpt-5.4-mini", `,"service_tier":"flex"`, "", "0.004575"},
		"a region":                    {", region: eu", "gpt-5.4-mini", "", "default", "0.0050325"},
		"an unknown region":           {", region: other", "gpt-5.4-mini", "", "default", "0.0050325"},
		"a cache":                     {"", "gpt-5.6", "", "default", "0.0205"},
		"a cache of half an hour":     {"", "gpt-5.6", `,"prompt_cache_options":{"ttl":"30m"}`, "default", "0.0205"},
		"a cache of a day":            {"", "gpt-5.6", `,"prompt_cache_options":{"ttl":"24h"}`, "default", "0.021"},
	} {
		t.Run(name, func(t *testing.T) {
			e := &env{t: t}
			e.begin("providers: {openai: {dialect: openai, url: https://api.openai.com, credential: {file: /secret}" + c.provider + "}}\n" +
				"models: {gpt-5.4-mini: {provider: openai}, gpt-5.6: {provider: openai}}\nteams: {search: {}}\nbudgets: [{name: b, usd: 1, per: day}]\n")
			e.play("", `{"model":"`+c.model+`","max_completion_tokens":1000`+c.body+`}`, "application/json",
				strings.NewReplacer(`"M"`, `"`+c.model+`"`, `"T"`, `"`+c.tier+`"`).Replace(answer))
			r := e.last()
			if r.Cost.String() != c.cost {
				t.Errorf("cost %s, want %s", r.Cost, c.cost)
			}
			if r.Cost > r.Reserved {
				t.Errorf("cost %s is above the hold of %s", r.Cost, r.Reserved)
			}
		})
	}
}

// A mode with a hidden prompt is held at the context window; a model's own
// overhead is held.
func TestHiddenPrompts(t *testing.T) {
	e := &env{t: t}
	e.begin(strings.Replace(codesBase, "gpt-5.4-mini: {provider: openai}", "gpt-5.4-mini: {provider: openai, inputOverhead: 5000}", 1) + "budgets: [{name: b, usd: 1, per: day}]\n")
	for body, want := range map[string]string{
		`{"model":"gpt-5.4-mini","max_output_tokens":1000,"input":"hi"}`:                            "0.015062",
		`{"model":"gpt-5.4-mini","max_output_tokens":1000,"input":"hi","reasoning":{"mode":"pro"}}`: "0.41",
	} {
		e.play(":path: /v1/responses\n", body, "")
		if r := e.book.records[len(e.book.records)-2]; r.Type != record.Intent || r.Reserved.String() != want {
			t.Errorf("%s: %v holds %s, want %s", body, r.Type, r.Reserved, want)
		}
	}
}
