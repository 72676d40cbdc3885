package e2e

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A streamed call passes event by event, its usage is metered, and the usage
// chunk the caller did not ask for is taken out.
func TestStream(t *testing.T) {
	w := newWorld(t, worldOptions{script: "in 1000; out 40; chunks 8"})
	plain := w.do(call{body: streamBody})
	if plain.err != nil || plain.status != http.StatusOK || !strings.HasSuffix(plain.body, "data: [DONE]\n\n") {
		t.Fatalf("answer %d (%v): %s", plain.status, plain.err, plain.body)
	}
	if strings.Contains(plain.body, `"usage"`) {
		t.Errorf("the caller got usage it did not ask for: %s", plain.body)
	}
	asked := w.do(call{body: strings.Replace(streamBody, `"stream":true`, `"stream":true,"stream_options":{"include_usage":true}`, 1)})
	if !strings.Contains(asked.body, `"usage"`) {
		t.Errorf("the caller did not get the usage it asked for: %s", asked.body)
	}
	for _, a := range []answer{plain, asked} {
		e := w.settledRequest(a.id())
		if *e.Class != "ok" || e.UsageSource != "provider" || e.Tokens["input"] != 1000 || e.Tokens["output"] != 40 {
			t.Errorf("record %+v, want 1000 in, 40 out, told by the provider", e)
		}
	}
	w.quiet()
}

// Streams that callers leave are settled as partial or none within a
// second, never 0; the provider stops and no hold is left.
func TestCallerLeavesMidStream(t *testing.T) {
	w := newWorld(t, worldOptions{policy: `teams:
  search: {}
budgets: [{name: search, match: {team: search}, usd: 100, per: month}]
`})
	for name, c := range map[string]struct {
		call   call
		source string
	}{
		"openai":    {call{body: streamBody, script: "chunks 100; every 50ms; out 400"}, "none"}, // its reasoning is hidden
		"anthropic": {call{path: "/v1/messages", body: strings.Replace(streamBody, "gpt-5.4-mini\",\"stream", "claude-sonnet\",\"max_tokens\":50,\"stream", 1), script: "in 700; chunks 100; every 50ms; out 400"}, "partial"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			res, err := http.DefaultClient.Do(w.request(c.call).WithContext(ctx))
			if err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != http.StatusOK {
				b, _ := io.ReadAll(res.Body)
				t.Fatalf("answer %d %s", res.StatusCode, b)
			}
			lines := bufio.NewReader(res.Body)
			for range 12 {
				if _, err := lines.ReadString('\n'); err != nil {
					t.Fatal(err)
				}
			}
			cancel()
			_ = res.Body.Close()
			left := time.Now()
			e := w.settledRequest(res.Header.Get("X-Airgate-Request-Id"))
			if d := time.Since(left); d > time.Second {
				t.Errorf("settled %v after the caller left", d)
			}
			if e.UsageSource != c.source || e.Cost == "" || e.Cost == "0" || *e.Class != "client_closed" {
				t.Errorf("record %+v, want %s, a cost, class client_closed", e, c.source)
			}
			if c.source == "partial" && e.Tokens["input"] != 700 {
				t.Errorf("input %d, want the provider's own 700", e.Tokens["input"])
			}
			if !eventually(func() bool {
				_, calls := w.provider.Calls()
				return calls[len(calls)-1].Outcome == "canceled"
			}) {
				t.Error("the provider did not stop")
			}
			w.quiet()
		})
	}
}

// A caller who leaves before the first byte pays for what the provider may
// have done, and leaves no hold.
func TestCallerLeavesBeforeTheFirstByte(t *testing.T) {
	w := newWorld(t, worldOptions{})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := http.DefaultClient.Do(w.request(call{body: streamBody, script: "delay 20s"}).WithContext(ctx))
	if err == nil {
		t.Fatal("the call was answered")
	}
	b := w.quiet()
	if usd(t, b.Spent) <= 0 {
		t.Errorf("spent %s USD, want more than 0", b.Spent)
	}
	var e entry
	if !eventually(func() bool {
		r := w.requests()
		if len(r) == 1 && r[0].Class != nil {
			e = r[0]
			return true
		}
		return false
	}) {
		t.Fatal("no settled record")
	}
	if *e.Class != "client_closed" || e.UsageSource != "none" {
		t.Errorf("record %+v, want client_closed, usage none", e)
	}
}

// A provider that resets the connection is a transient failure of the call.
func TestProviderResets(t *testing.T) {
	w := newWorld(t, worldOptions{})
	a := w.do(call{body: streamBody, script: "chunks 10; every 50ms; reset after 3"})
	if a.status != http.StatusOK || a.err == nil {
		t.Fatalf("mid stream: answer %d, err %v; want a cut 200", a.status, a.err)
	}
	e := w.settledRequest(a.id())
	if *e.Class != "transient" || e.Cost == "0" || e.Cost == "" {
		t.Errorf("mid stream: record %+v, want transient with a cost", e)
	}
	b := w.do(call{script: "reset after 0"})
	if b.status < 500 || b.id() == "" {
		t.Fatalf("before the head: answer %d %s, want a 5xx with a request id", b.status, b.body)
	}
	if e := w.settledRequest(b.id()); *e.Class != "transient" {
		t.Errorf("before the head: record %+v, want transient", e)
	}
	w.quiet()
}

// Errors of the provider reach the caller as they are, with their class; those
// about airgate's own credential or account do not.
func TestProviderErrors(t *testing.T) {
	w := newWorld(t, worldOptions{})
	for name, c := range map[string]struct {
		script string
		status int
		class  string
		ours   bool
	}{
		"rate":           {"status 429; error rate_limit_exceeded; header retry-after=7", 429, "provider_limited", false},
		"quota":          {"status 429; error insufficient_quota", 502, "provider_quota", true},
		"credential":     {"status 401; error invalid_api_key", 502, "provider_auth", true},
		"context length": {"status 400; error context_length_exceeded", 400, "context_length", false},
		"content":        {"status 400; error content_policy_violation", 400, "content_policy", false},
		"server":         {"status 500; error server_error", 500, "transient", false},
		"overloaded":     {"status 503; error server_is_overloaded", 503, "transient", false},
	} {
		t.Run(name, func(t *testing.T) {
			a := w.do(call{script: c.script})
			if a.err != nil || a.status != c.status {
				t.Fatalf("answer %d (%v) %s, want %d", a.status, a.err, a.body, c.status)
			}
			if got := a.header.Get("X-Airgate-Class"); got != c.class {
				t.Errorf("x-airgate-class = %q, want %q", got, c.class)
			}
			if c.ours == strings.Contains(a.body, "scripted provider") {
				t.Errorf("body %s; the provider's own text must be hidden: %v", a.body, c.ours)
			}
			e := w.settledRequest(a.id())
			if *e.Class != c.class || e.Cost != "0" {
				t.Errorf("record %+v, want class %s at no cost", e, c.class)
			}
		})
	}
	w.quiet()
}

// 32 MiB pass, one byte more does not.
func TestBodyLimit(t *testing.T) {
	w := newWorld(t, worldOptions{policy: `teams:
  search: {}
budgets: [{name: search, match: {team: search}, usd: 1000, per: month}]
`})
	const limit = 33_554_432
	frame := `{"model":"gpt-5.4-mini","max_completion_tokens":5,"messages":[{"role":"user","content":""}]}`
	body := func(n int) string {
		return strings.Replace(frame, `""`, `"`+strings.Repeat("a", n-len(frame))+`"`, 1)
	}
	if a := w.do(call{body: body(limit)}); a.status != http.StatusOK {
		t.Errorf("32 MiB: %d (%v) %.300s", a.status, a.err, a.body)
	}
	_, calls := w.provider.Calls()
	if len(calls) != 1 || calls[0].Bytes != limit {
		t.Errorf("the provider saw %d calls of %+v bytes, want one of %d", len(calls), calls, limit)
	}
	if a := w.do(call{body: body(limit + 1)}); a.code() != "request_too_large" || a.status != http.StatusRequestEntityTooLarge {
		t.Errorf("32 MiB and one byte: %d %s (%v) %.300s", a.status, a.code(), a.err, a.body)
	}
}

// 1,500 streams at once pass Envoy's defaults of 1,024.
func TestManyStreams(t *testing.T) {
	w := newWorld(t, worldOptions{policy: `teams:
  search: {}
budgets: [{name: search, match: {team: search}, usd: 1000, per: month}]
`, script: "chunks 3; every 2s"})
	const n = 1500
	c := client(n)
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := map[string]int{}
	for range n {
		wg.Go(func() {
			a := do(c, w.request(call{body: streamBody}))
			what := strconv.Itoa(a.status)
			if a.err != nil || !strings.HasSuffix(a.body, "data: [DONE]\n\n") {
				what += " cut"
			}
			mu.Lock()
			got[what]++
			mu.Unlock()
		})
	}
	wg.Wait()
	if got["200"] != n {
		t.Errorf("answers %v, want %d whole streams", got, n)
	}
	w.quiet()
}

// A reload under load loses no call; a broken config does not replace a good
// one, and says why.
func TestReloadUnderLoad(t *testing.T) {
	good := `teams:
  search: {}
budgets: [{name: search, match: {team: search}, usd: 1000, per: month}]
`
	w := newWorld(t, worldOptions{policy: good})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	c := client(8)
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if a := do(c, w.request(call{})); a.err != nil || a.status != http.StatusOK {
					t.Errorf("answer %d (%v) %s", a.status, a.err, a.body)
					return
				}
			}
		})
	}
	type status struct {
		Hash     string `json:"hash"`
		Problems []struct {
			File string
			Line int
			Text string
		} `json:"problems"`
	}
	var before, after status
	w.object("/-/config/status", &before)
	w.writeConfig(strings.Replace(good, "1000", "2000", 1))
	if !eventually(func() bool { w.object("/-/config/status", &after); return after.Hash != before.Hash }) {
		t.Error("the new config was not taken within 5 s")
	}
	if b := w.budget("search"); b.Limit != "2000" {
		t.Errorf("limit %s, want 2000", b.Limit)
	}
	w.writeConfig("teams: {search: {nonsense: 1}}\n")
	var broken status
	if !eventually(func() bool { w.object("/-/config/status", &broken); return len(broken.Problems) > 0 }) {
		t.Error("the broken config was not noticed within 5 s")
	}
	if broken.Hash != after.Hash || len(broken.Problems) == 0 || broken.Problems[0].Line == 0 || !strings.Contains(broken.Problems[0].Text, "nonsense") {
		t.Errorf("status %+v, want the last good hash and the place of the fault", broken)
	}
	close(stop)
	wg.Wait()
}
