package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"airgate/cmd/airgate/provider"
)

// Calls of each API that stream; the third of them as its caller asks for usage,
// so that nothing is taken out of its answer and its body mode stays STREAMED.
func streams(model, message string) map[string]call {
	return map[string]call{
		"chat":            {body: `{"model":"` + model + `","stream":true,"max_completion_tokens":32000,"messages":[{"role":"user","content":"hi"}]}`},
		"chat with usage": {body: `{"model":"` + model + `","stream":true,"stream_options":{"include_usage":true},"max_completion_tokens":32000,"messages":[{"role":"user","content":"hi"}]}`},
		"responses":       {path: "/v1/responses", body: `{"model":"` + model + `","stream":true,"max_output_tokens":32000,"input":"hi"}`},
		"messages":        {path: "/v1/messages", body: `{"model":"` + message + `","stream":true,"max_tokens":32000,"messages":[{"role":"user","content":"hi"}]}`},
	}
}

// An error inside a stream about airgate's own credential or account does not
// reach the caller: its dialect's error event stands in its place, and the stream
// ends cleanly. Any other error does.
func TestProviderErrorEvents(t *testing.T) {
	w := newWorld(t, worldOptions{policy: "teams: {search: {}}\nbudgets: [{name: search, match: {team: search}, usd: 100, per: month}]\n"})
	for name, c := range streams("gpt-5.4-mini", "claude-sonnet") {
		for fault, class := range map[string]string{"invalid_api_key": "provider_auth", "insufficient_quota": "provider_quota", "server_error": "transient"} {
			t.Run(name+" "+class, func(t *testing.T) {
				if c.path == "/v1/messages" {
					fault = map[string]string{"invalid_api_key": "authentication_error", "insufficient_quota": "billing_error", "server_error": "api_error"}[fault]
				}
				c.script = "out 60; chunks 6; every 5ms; fail " + fault + " after 3"
				a := w.do(c)
				if a.err != nil || a.status != http.StatusOK {
					t.Fatalf("answer %d (%v) %s, want a 200 that ends cleanly", a.status, a.err, a.body)
				}
				ours := class != "transient"
				if strings.Contains(a.body, "was told to fail") == ours || strings.Contains(a.body, `"airgate":{"code":"`+class+`"`) != ours {
					t.Errorf("body %s; airgate's error in place of the provider's: want %v", a.body, ours)
				}
				e := w.settledRequest(a.id())
				if *e.Class != class || ours != (e.Cut == "provider") || e.Status != http.StatusOK || usd(t, e.Cost) <= 0 {
					t.Errorf("record %+v, want class %s, its cut, status 200 and a cost", e, class)
				}
			})
		}
	}
	w.quiet()
}

// Events that come in parts, and the last one without its blank line, reach the
// caller as they are, whatever the body mode.
func TestEventsInParts(t *testing.T) {
	w := newWorld(t, worldOptions{})
	parts := map[string][]string{
		"chat":     {"data: {\"choices\":[{\"del", "ta\":{\"content\":\"a\"}}]}\n", "\ndata: {\"choices\":[]", ",\"error\":null}\n\n: comment", "\n\ndata: [DO", "NE]\n"},
		"messages": {"event: message_start\nda", "ta: {\"type\":\"message_start\"}", "\r\n\r", "\nevent: error\ndata: {\"type\":\"error\"", ",\"error\":{\"type\":\"overloaded_error\"}}\n\n", "event: pi", "ng\ndata: {"},
	}
	w.upstream.Config.Handler = http.HandlerFunc(func(res http.ResponseWriter, req *http.Request) {
		res.Header().Set("content-type", "text/event-stream")
		name := "chat"
		if req.URL.Path == "/v1/messages" {
			name = "messages"
		}
		for _, p := range parts[name] {
			_, _ = res.Write([]byte(p))
			_ = http.NewResponseController(res).Flush()
			time.Sleep(20 * time.Millisecond)
		}
	})
	for name, c := range streams("gpt-5.4-mini", "claude-sonnet") {
		want, ok := parts[name]
		if name == "chat with usage" {
			want, ok = parts["chat"], true
		}
		if !ok {
			continue
		}
		a := w.do(c)
		if a.err != nil || a.body != strings.Join(want, "") {
			t.Errorf("%s: %d (%v) %q, want %q", name, a.status, a.err, a.body, strings.Join(want, ""))
		}
	}
	w.quiet()
}

// visibleModels adds a model whose output is all visible, and prices: 1 USD a million
// tokens of input, 10 of output.
const visibleModels = `---
apiVersion: airgate/v1
models: {gpt-4o: {provider: openai}}
prices: {usdPerMillionTokens: {gpt-4o: {input: 1, output: 10}, claude-sonnet: {input: 1, output: 10}}}
`

// stops are how long it took from the event that was one too many until the provider
// saw the end of its call.
type stops []time.Duration

func (s stops) median() time.Duration { return slices.Sorted(slices.Values(s))[len(s)/2] }

func (s stops) String() string {
	all := slices.Sorted(slices.Values(s))
	return fmt.Sprintf("median %v, greatest %v of %d", s.median().Round(10*time.Microsecond), all[len(all)-1].Round(10*time.Microsecond), len(all))
}

// stopped waits until the provider has seen the end of its newest call.
func (w *world) stopped() provider.Call {
	w.t.Helper()
	var c provider.Call
	if !eventually(func() bool {
		_, calls := w.provider.Calls()
		c = calls[len(calls)-1]
		return !c.Ended.IsZero()
	}) {
		w.t.Fatalf("the provider goes on: %+v", c)
	}
	return c
}

// A stream whose budget has no more is cut: its caller gets what was paid for, the
// dialect's error event and a clean end, and the provider is stopped at once.
func TestCut(t *testing.T) {
	w := newWorld(t, worldOptions{policy: "teams: {search: {}}\nbudgets: [{name: search, each: user, usd: 0.015, per: month, streamHold: sliced}]\n" + visibleModels})
	var took stops
	for name, c := range streams("gpt-4o", "claude-sonnet") {
		t.Run(name, func(t *testing.T) {
			// Of 1,274 tokens 250 are the margin, 64 for the whole, and 64 for the item or
			// block that other APIs than chat begin: the tenth event has 100 bytes too many,
			// or the ninth.
			last := 10
			if c.path != "" {
				last = 9
			}
			c.script = fmt.Sprintf("size 4000; chunks 40; every 2ms; stall 20s after %d", last)
			for n := range 13 {
				c.header = map[string]string{"x-airgate-user": fmt.Sprint(name, n)}
				a := w.do(c)
				if a.err != nil || a.status != http.StatusOK || strings.Contains(a.body, "[DONE]") || !strings.Contains(a.body, `"code":"budget_exhausted"`) {
					t.Fatalf("answer %d (%v) %s, want a 200 that ends cleanly with budget_exhausted", a.status, a.err, a.body)
				}
				seen := w.stopped()
				if seen.Outcome != "canceled" || seen.Sent != last {
					t.Errorf("the provider saw %+v, want it stopped after %d events", seen, last)
				}
				took = append(took, seen.Ended.Sub(seen.LastSent))
				if n > 0 {
					continue
				}
				e := w.settledRequest(a.id())
				held, cost := usd(t, e.Reserved), usd(t, e.Cost)
				if e.Cut != "budget" || *e.Class != "budget" || e.Code != "budget_exhausted" || e.Status != http.StatusOK || cost > held || cost < float64(last)*100/4*10e-6 {
					t.Errorf("record %+v, want cut by the budget, no dearer than its hold", e)
				}
			}
		})
	}
	t.Logf("from the last event until the provider was stopped: %v", took)
	if m := took.median(); m > 200*time.Millisecond {
		t.Errorf("median %v, want at most 200 ms", m)
	}
}

// A hundred streams at once are cut where their budget ends, and the few that go on
// with what is left end as usual: what all of them cost, and what the provider has
// made of them, is within it.
func TestHundredStreamsAreCut(t *testing.T) {
	w := newWorld(t, worldOptions{
		policy: "teams: {search: {}}\nbudgets: [{name: search, match: {team: search}, usd: 1.4, per: month, streamHold: sliced}]\n" + visibleModels,
		script: "out 4000; chunks 160; every 50ms; in 20",
	})
	c := client(100)
	var wg sync.WaitGroup
	var cut atomic.Int64
	for range 100 {
		wg.Go(func() {
			a := do(c, w.request(call{body: `{"model":"gpt-4o","stream":true,"max_completion_tokens":32000,"messages":[{"role":"user","content":"hi"}]}`}))
			switch {
			case a.err != nil || a.status != http.StatusOK:
				t.Errorf("answer %d (%v) %.300s", a.status, a.err, a.body)
			case strings.Contains(a.body, `"code":"budget_exhausted"`):
				cut.Add(1)
			case !strings.HasSuffix(a.body, "data: [DONE]\n\n"):
				t.Errorf("answer …%s, want its end or an error event", a.body[max(0, len(a.body)-300):])
			}
		})
	}
	wg.Wait()
	b := w.quiet()
	made := 0.0
	_, calls := w.provider.Calls()
	for _, c := range calls {
		made += 20*1e-6 + float64(c.Sent)*25*10e-6
	}
	t.Logf("%d are cut; %s USD of %s charged; the provider has made %.4f", cut.Load(), b.Spent, b.Limit, made)
	if spent := usd(t, b.Spent); spent > usd(t, b.Limit) || spent < made || cut.Load() < 80 {
		t.Errorf("spent %v USD of %s, the provider has made %v; %d are cut, want at least 80", spent, b.Limit, made, cut.Load())
	}
}

// Fifty agents ask for 32,000 tokens each and use 500. Held whole, nineteen of them
// would fill the budget.
func TestFiftyAgents(t *testing.T) {
	w := newWorld(t, worldOptions{
		policy: "teams: {search: {}}\nbudgets: [{name: search, match: {team: search}, usd: 25, per: month, streamHold: sliced}]\n" + strings.Replace(visibleModels, "output: 10}, claude", "output: 40}, claude", 1),
		script: "out 500; chunks 20; every 50ms",
	})
	c := client(50)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			a := do(c, w.request(call{body: `{"model":"gpt-4o","stream":true,"max_completion_tokens":32000,"messages":[{"role":"user","content":"hi"}]}`}))
			if a.err != nil || a.status != http.StatusOK || !strings.HasSuffix(a.body, "data: [DONE]\n\n") {
				t.Errorf("answer %d (%v) %.300s, want a whole stream", a.status, a.err, a.body)
			}
		})
	}
	wg.Wait()
	b := w.quiet()
	if spent := usd(t, b.Spent); spent < 50*500*40e-6 || spent > 1.1*50*500*40e-6 {
		t.Errorf("spent %v USD, want that of 50 calls of 500 tokens", spent)
	}
}

// When airgate is killed, Envoy ends its calls: the provider of a sliced call is
// stopped, and the call costs what it held, which is no less than what was made.
func TestKilledWithASlicedCall(t *testing.T) {
	w := newWorld(t, worldOptions{policy: "teams: {search: {}}\nbudgets: [{name: search, match: {team: search}, usd: 1, per: month, streamHold: sliced}]\n" + visibleModels})
	var took stops
	spent := 0.0
	for n := range 5 {
		res, err := http.DefaultClient.Do(w.request(call{
			body:   `{"model":"gpt-4o","stream":true,"max_completion_tokens":32000,"messages":[{"role":"user","content":"hi"}]}`,
			script: "size 128000; chunks 1280; every 20ms",
		}))
		if err != nil {
			t.Fatal(err)
		}
		for buf, total := make([]byte, 512), 0; total < 3000*(n+1); {
			k, err := res.Body.Read(buf)
			if total += k; err != nil {
				t.Fatal(err)
			}
		}
		killed := time.Now()
		w.airgate.kill()
		seen := w.stopped()
		_ = res.Body.Close()
		took = append(took, seen.Ended.Sub(killed))
		w.serve()
		before := spent
		spent = usd(t, w.quiet().Spent)
		held, made := spent-before, float64(seen.Sent)*100/4*10e-6
		t.Logf("%d bytes of text: %.5f USD made at four bytes a token, %.5f charged", seen.Sent*100, made, held)
		if held < float64(seen.Sent)*100*10e-6 || held > 0.33 {
			t.Errorf("%d bytes of text are charged %.5f USD, want at least a token a byte, and at most the worst case", seen.Sent*100, held)
		}
	}
	t.Logf("from the kill until the provider was stopped: %v", took)
	if m := took.median(); m > 200*time.Millisecond {
		t.Errorf("median %v, want at most 200 ms", m)
	}
}
