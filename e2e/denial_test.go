package e2e

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// denialPolicy can refuse in every way that needs no broken part.
const denialPolicy = `teams:
  search:   {}
  spent:    {}
  small:    {}
  narrow:   {models: [claude-sonnet]}
  purposed: {purposes: [eval]}
  ruled:    {}
  uncovered: {}
  slow:     {}
  single:   {}
purposes:
  eval: {}
  chat: {}
rules:
  - {name: no-tools, when: 'team.name == "ruled"', deny: "this team calls nothing"}
limits:
  - {name: slow-rate, match: {team: slow}, requests: 1/min, burst: 1}
  - {name: one-at-a-time, match: {team: single}, concurrent: 1}
budgets:
  - {name: search,   match: {team: search},   usd: 10, per: month, owner: finops@example.com}
  - {name: spent,    match: {team: spent},    usd: 0.00000001, per: month}
  - {name: small,    match: {team: small},    usd: 0.001, per: month}
  - {name: narrow,   match: {team: narrow},   usd: 10, per: month}
  - {name: purposed, match: {team: purposed}, usd: 10, per: month}
  - {name: ruled,    match: {team: ruled},    usd: 10, per: month}
  - {name: slow,     match: {team: slow},     usd: 10, per: month}
  - {name: single,   match: {team: single},   usd: 10, per: month}
`

// Every refusal that a caller can bring about: status, code and class, one
// record, and nothing of it at the provider.
func TestDenials(t *testing.T) {
	w := newWorld(t, worldOptions{
		policy: denialPolicy,
		teams:  []string{"search", "spent", "small", "narrow", "purposed", "ruled", "uncovered", "slow", "single"},
	})
	w.writeConfig(denialPolicy)
	body := func(extra string) string {
		return `{"model":"gpt-5.4-mini",` + extra + `"messages":[{"role":"user","content":"hi"}]}`
	}
	purpose := map[string]string{"x-airgate-purpose": "chat"}
	type want struct {
		status int
		code   string
		class  string
		retry  bool
	}
	// The teams without a purpose of their own must name one: a registry exists.
	for name, c := range map[string]struct {
		call call
		want want
	}{
		"unknown path":     {call{path: "/v1/fine_tuning/jobs"}, want{404, "endpoint_unknown", "malformed", false}},
		"no key":           {call{key: "-"}, want{401, "key_missing", "policy", false}},
		"unknown key":      {call{key: "ag-abcdefghijkl-0123456789012345678901234567890123456789012000000"}, want{401, "key_unknown", "policy", false}},
		"provider's key":   {call{key: "sk-abcdef"}, want{401, "key_unknown", "policy", false}},
		"two keys":         {call{header: map[string]string{"x-api-key": "ag-other", "x-airgate-purpose": "chat"}}, want{401, "key_unknown", "policy", false}},
		"key in the query": {call{path: "/v1/chat/completions?api_key=ag-x", key: "-"}, want{401, "key_unknown", "policy", false}},
		"not JSON":         {call{body: "hello", header: purpose}, want{400, "request_malformed", "malformed", false}},
		"compressed":       {call{header: map[string]string{"content-encoding": "gzip", "x-airgate-purpose": "chat"}}, want{415, "request_malformed", "malformed", false}},
		"unknown model":    {call{body: strings.Replace(usualBody, "gpt-5.4-mini", "gpt-9", 1), header: purpose}, want{404, "model_unknown", "malformed", false}},
		"other dialect":    {call{body: strings.Replace(usualBody, "gpt-5.4-mini", "claude-sonnet", 1), header: purpose}, want{404, "model_unknown", "malformed", false}},
		"team's models":    {call{key: w.keys["narrow"], header: purpose}, want{403, "model_denied", "policy", false}},
		"no purpose":       {call{}, want{400, "purpose_required", "policy", false}},
		"unknown purpose":  {call{header: map[string]string{"x-airgate-purpose": "fun"}}, want{400, "purpose_unknown", "policy", false}},
		"team's purposes":  {call{key: w.keys["purposed"], header: purpose}, want{403, "purpose_denied", "policy", false}},
		"a rule":           {call{key: w.keys["ruled"], header: purpose}, want{403, "rule_denied", "policy", false}},
		"background":       {call{path: "/v1/responses", body: `{"model":"gpt-5.4-mini","background":true,"input":"hi"}`, header: purpose}, want{403, "cost_unbounded", "policy", false}},
		"stored response":  {call{path: "/v1/responses", body: `{"model":"gpt-5.4-mini","previous_response_id":"resp_1","input":"hi"}`, header: purpose}, want{403, "rule_denied", "policy", false}},
		"no budget":        {call{key: w.keys["uncovered"], header: purpose}, want{403, "budget_missing", "budget", false}},
		"too dear":         {call{key: w.keys["small"], body: body(`"max_completion_tokens":100000,`), header: purpose}, want{402, "budget_insufficient", "budget", false}},
	} {
		t.Run(name, func(t *testing.T) {
			before, _ := w.provider.Calls()
			a := w.do(c.call)
			if a.err != nil {
				t.Fatal(a.err)
			}
			checkDenial(t, a, c.want.status, c.want.code, c.want.class, c.want.retry)
			if after, _ := w.provider.Calls(); after != before {
				t.Errorf("the provider saw %d calls", after-before)
			}
			if c.want.status == 401 {
				return // strangers are counted, not recorded one by one
			}
			e := w.settledRequest(a.id())
			if e.Type != "deny" || e.Decision != "deny" || e.Code != c.want.code || *e.Class != c.want.class {
				t.Errorf("record = %+v, want a denial %s of class %s", e, c.want.code, c.want.class)
			}
		})
	}
	t.Run("rate", func(t *testing.T) {
		if a := w.do(call{key: w.keys["slow"], header: purpose}); a.status != 200 {
			t.Fatalf("first call: %d %s", a.status, a.body)
		}
		checkDenial(t, w.do(call{key: w.keys["slow"], header: purpose}), 429, "rate_limited", "limited", true)
	})
	t.Run("concurrency", func(t *testing.T) {
		held := make(chan answer)
		go func() {
			held <- do(http.DefaultClient, w.request(call{key: w.keys["single"], header: purpose, script: "delay 1s"}))
		}()
		n, _ := w.provider.Calls()
		if !eventually(func() bool { now, _ := w.provider.Calls(); return now > n || len(held) > 0 }) {
			t.Fatal("the first call did not reach the provider")
		}
		checkDenial(t, w.do(call{key: w.keys["single"], header: purpose}), 429, "concurrency_limited", "limited", true)
		if a := <-held; a.status != 200 {
			t.Errorf("the call that held the permit: %d %s", a.status, a.body)
		}
		if a := w.do(call{key: w.keys["single"], header: purpose}); a.status != 200 {
			t.Errorf("after it: %d %s", a.status, a.body)
		}
	})
	t.Run("strangers are counted", func(t *testing.T) {
		for range 20 {
			w.do(call{key: "-"})
		}
		if !eventually(func() bool {
			var out struct{ Denials []entry }
			w.object("/api/v1/denials?limit=1000", &out)
			var n int64
			for _, d := range out.Denials {
				if d.Code == "key_missing" {
					n += d.Count
				}
			}
			return n >= 20
		}) {
			t.Error("20 calls without a key are not in the denials")
		}
	})
}

// checkDenial holds what every refusal owes its caller.
func checkDenial(t *testing.T, a answer, status int, code, class string, retry bool) {
	t.Helper()
	if a.status != status || a.code() != code {
		t.Fatalf("answer = %d %s, want %d %s: %s", a.status, a.code(), status, code, a.body)
	}
	if got := a.header.Get("X-Airgate-Class"); got != class {
		t.Errorf("x-airgate-class = %q, want %q", got, class)
	}
	if a.id() == "" || !strings.Contains(a.body, a.id()) {
		t.Errorf("the body does not name the request id %q: %s", a.id(), a.body)
	}
	var body struct {
		Error struct {
			Message string
			Code    string
			Airgate struct{ Code string }
		}
	}
	if err := json.Unmarshal([]byte(a.body), &body); err != nil || body.Error.Message == "" || body.Error.Airgate.Code != code {
		t.Errorf("body = %s (%v), want the dialect's error with an airgate object", a.body, err)
	}
	after, should := a.header.Get("Retry-After"), a.header.Get("X-Should-Retry")
	if retry && (after == "" || should == "false") || !retry && (after != "" || should != "false") {
		t.Errorf("retry-after %q, x-should-retry %q; want a retry: %v", after, should, retry)
	}
}

// Refusals that need something to have happened before: a key revoked or
// expired, money spent to the last nano-dollar, a model without a price.
func TestDenialsInTime(t *testing.T) {
	const policy = `teams:
  search: {}
  exact:  {}
budgets:
  - {name: search, match: {team: search}, usd: 10, per: month}
  - {name: exact,  match: {team: exact},  usd: 0.05, per: month, budgetStatus: 429}
prices:
  usdPerMillionTokens:
    gpt-5.4-mini: {input: 0, cacheRead: 0, output: 1000}
`
	w := newWorld(t, worldOptions{policy: policy, teams: []string{"search", "exact"}, script: "in 10; out 50"})
	t.Run("key_revoked", func(t *testing.T) {
		var k struct{ Key string }
		if err := json.Unmarshal([]byte(w.command("keys", "create", "--team", "search", "--name", "lost", "-o", "json")), &k); err != nil {
			t.Fatal(err)
		}
		key := k.Key
		if !eventually(func() bool { return w.do(call{key: key}).status == http.StatusOK }) {
			t.Fatal("a new key is not taken over within 5 s")
		}
		w.command("keys", "revoke", strings.Split(key, "-")[1], "--server", w.api)
		checkDenial(t, w.do(call{key: key}), http.StatusUnauthorized, "key_revoked", "policy", false)
	})
	t.Run("key_expired", func(t *testing.T) {
		var k struct{ Key string }
		out := w.command("keys", "create", "--team", "search", "--name", "brief", "--expires", "1s", "-o", "json")
		if err := json.Unmarshal([]byte(out), &k); err != nil {
			t.Fatal(err)
		}
		if !eventually(func() bool { return w.do(call{key: k.Key}).code() == "key_expired" }) {
			t.Fatal("the key has not expired within 5 s")
		}
		a := w.do(call{key: k.Key})
		checkDenial(t, a, http.StatusUnauthorized, "key_expired", "policy", false)
		if e := w.settledRequest(a.id()); e.Team != "search" || e.Code != "key_expired" {
			t.Errorf("record %+v, want the refusal under the key's team", e)
		}
	})
	t.Run("budget_exhausted", func(t *testing.T) {
		if a := w.do(call{key: w.keys["exact"]}); a.status != http.StatusOK {
			t.Fatalf("first call: %d %s", a.status, a.body)
		}
		a := w.do(call{key: w.keys["exact"]})
		checkDenial(t, a, http.StatusTooManyRequests, "budget_exhausted", "budget", false)
		if b := w.budget("exact"); b.Spent != "0.05" || b.Reserved != "0" {
			t.Errorf("budget %+v, want all of 0.05 spent", b)
		}
	})
	t.Run("model_unpriced", func(t *testing.T) {
		w.write("airgate.d/more.yaml", "apiVersion: airgate/v1\nmodels: {no-price: {provider: openai, maxOutputTokens: 100}}\n")
		body := strings.Replace(usualBody, "gpt-5.4-mini", "no-price", 1)
		var a answer
		if !eventually(func() bool { a = w.do(call{body: body}); return a.code() != "model_unknown" }) {
			t.Fatalf("the new model is not taken over within 5 s: %s", a.body)
		}
		checkDenial(t, a, http.StatusForbidden, "model_unpriced", "policy", false)
	})
}
