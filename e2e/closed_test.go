package e2e

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"airgate/accounting/journal"
	"airgate/envoy/extproc"
	"airgate/processor"
)

// Whatever is wrong with airgate, the caller gets a clear 5xx and the provider
// sees nothing.
func TestFailsClosed(t *testing.T) {
	for name, breakIt := range map[string]func(w *world){
		"killed":         func(w *world) { w.airgate.kill() },
		"socket missing": func(w *world) { w.airgate.kill(); _ = os.Remove(filepath.Join(w.dir, "x.sock")) },
		"stopped":        func(w *world) { _ = w.airgate.cmd.Process.Signal(syscall.SIGSTOP) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, worldOptions{edit: shortTimeout})
			if a := w.do(call{}); a.status != http.StatusOK {
				t.Fatalf("before: %d %s", a.status, a.body)
			}
			before, _ := w.provider.Calls()
			breakIt(w)
			a := w.do(call{})
			if a.err != nil || a.status < 500 {
				t.Fatalf("answer %d (%v): %s, want a 5xx", a.status, a.err, a.body)
			}
			if !strings.Contains(a.body, `"error"`) || !strings.HasPrefix(a.header.Get("Content-Type"), "application/json") {
				t.Errorf("answer %q of type %q, want a JSON error", a.body, a.header.Get("Content-Type"))
			}
			if after, _ := w.provider.Calls(); after != before {
				t.Errorf("the provider saw %d calls", after-before)
			}
		})
	}
}

// A server that panics or answers too late lets nothing through either. The
// server is the real one; what it does with requests is broken on purpose.
func TestBrokenServerFailsClosed(t *testing.T) {
	for name, broken := range map[string]brokenStream{
		"panicking": {step: func() { panic("on purpose") }},
		"too slow":  {step: func() { time.Sleep(3 * time.Second) }},
		"no action": {step: func() {}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, worldOptions{noServe: true, edit: func(b []byte) []byte { return openRoutes(t, shortTimeout(b), true) }})
			server, err := extproc.New(extproc.Config{
				Begin:        func(time.Time) extproc.Stream { return broken },
				Wait:         func(context.Context, journal.Position) error { return nil },
				MaxBodyBytes: 1 << 20, Log: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				t.Fatal(err)
			}
			l, err := extproc.Listen(w.socket())
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- server.Serve(l) }()
			t.Cleanup(func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				_ = server.Stop(ctx)
				<-done
			})
			if a := w.do(call{}); a.err != nil || a.status < 500 || !strings.Contains(a.body, `"error"`) {
				t.Errorf("answer %d (%v) %s, want a 5xx with a JSON error", a.status, a.err, a.body)
			}
			if n, _ := w.provider.Calls(); n != 0 {
				t.Errorf("the provider saw %d calls", n)
			}
		})
	}
}

// brokenStream does as step does, and then has no action.
type brokenStream struct{ step func() }

func (b brokenStream) RequestID() string { return "01900000-0000-7000-8000-000000000000" }

func (b brokenStream) Step(processor.Event) processor.Action {
	b.step()
	return nil
}

func (brokenStream) After()                            {}
func (brokenStream) Close(time.Time, bool) bool        { return false }
func (brokenStream) Finish(time.Time, processor.Cause) {}

// shortTimeout makes Envoy wait a second for airgate instead of five.
func shortTimeout(b []byte) []byte {
	for _, field := range []string{`"message_timeout": "`, `"message_timeout":"`} {
		b = bytes.ReplaceAll(b, []byte(field+`5s"`), []byte(field+`1s"`))
	}
	return b
}

// A caller who forges airgate's own header reaches nothing, even where Envoy's
// config has lost the early removal of it.
func TestForgedRoutingHeader(t *testing.T) {
	removed := false
	w := newWorld(t, worldOptions{edit: func(b []byte) []byte {
		return editJSON(t, b, func(o map[string]any) {
			if _, ok := o["early_header_mutation_extensions"]; !ok {
				return
			}
			delete(o, "early_header_mutation_extensions")
			removed = true
		})
	}})
	if !removed {
		t.Fatal("the bootstrap has no early header mutation to take out")
	}
	for _, c := range []call{
		{key: "-", header: map[string]string{"x-airgate-upstream": "openai"}},
		{path: "/v1/anything", header: map[string]string{"x-airgate-upstream": "openai"}},
		{key: "-", method: http.MethodGet, path: "/v1/models", header: map[string]string{"x-airgate-upstream": "openai"}},
	} {
		a := w.do(c)
		if a.status < 400 {
			t.Errorf("%+v: answer %d %s", c, a.status, a.body)
		}
	}
	if n, _ := w.provider.Calls(); n != 0 {
		t.Errorf("the provider saw %d calls", n)
	}
	if a := w.do(call{header: map[string]string{"x-airgate-upstream": "anthropic"}}); a.status != http.StatusOK {
		t.Errorf("a good call with a forged header: %d %s", a.status, a.body)
	}
	if _, calls := w.provider.Calls(); len(calls) != 1 || calls[0].Path != "/v1/chat/completions" {
		t.Errorf("the provider saw %+v, want one chat completion", calls)
	}
}

// What reaches the provider carries its own credential and nothing of the
// caller's.
func TestProviderSeesOnlyItsCredential(t *testing.T) {
	w := newWorld(t, worldOptions{})
	a := w.do(call{header: map[string]string{
		"cookie": "session=1", "openai-organization": "org-x", "x-airgate-user": "kim", "x-airgate-upstream": "x", "x-custom": "kept",
	}})
	if a.status != http.StatusOK {
		t.Fatalf("answer %d %s", a.status, a.body)
	}
	_, calls := w.provider.Calls()
	got := strings.Join(calls[0].Headers, "\n")
	for _, bad := range []string{"cookie", "openai-organization", "x-airgate", "x-forwarded-for", "x-api-key"} {
		if strings.Contains(got, bad) {
			t.Errorf("the provider saw %s:\n%s", bad, got)
		}
	}
	for _, good := range []string{"authorization=…4711", "x-custom", "accept-encoding=identity"} {
		if !strings.Contains(got, good) {
			t.Errorf("the provider did not see %s:\n%s", good, got)
		}
	}
}

// airgate killed ten times under load: every call the provider saw has a
// record, the book verifies, and nothing stays reserved.
func TestKilledUnderLoad(t *testing.T) {
	w := newWorld(t, worldOptions{policy: `teams:
  search: {}
budgets: [{name: search, match: {team: search}, usd: 1000, per: month}]
`, script: "delay 20ms; out 30"})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	c := client(16)
	for i := range 16 {
		body := usualBody
		if i%2 == 0 {
			body = streamBody
		}
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					do(c, w.request(call{body: body})) // whatever comes: airgate is being killed
				}
			}
		})
	}
	for range 10 {
		before, _ := w.provider.Calls()
		if !eventually(func() bool { now, _ := w.provider.Calls(); return now > before+20 }) {
			t.Fatal("the provider sees no calls any more")
		}
		w.airgate.kill()
		w.serve()
	}
	close(stop)
	wg.Wait()
	b := w.quiet()
	seen, _ := w.provider.Calls()
	var usage struct {
		Rows []struct {
			Requests int64
			Cost     string `json:"cost_usd"`
		}
	}
	if !eventually(func() bool {
		w.object("/api/v1/usage?by=team", &usage)
		return len(usage.Rows) == 1 && usage.Rows[0].Requests >= seen && usage.Rows[0].Cost == b.Spent
	}) {
		t.Errorf("usage %+v, want at least the %d calls the provider saw, at the %s USD that the budget says", usage.Rows, seen, b.Spent)
	}
	if out, code, errs := w.try("audit", "verify"); code != 0 {
		t.Errorf("audit verify: exit %d: %s%s", code, out, errs)
	}
	for _, e := range w.requests() {
		if e.Class == nil {
			t.Errorf("request %s never ended", e.RequestID)
		}
	}
	t.Logf("%d calls seen by the provider, %d in the book, %s USD", seen, usage.Rows[0].Requests, b.Spent)
}

// airgate stopped in the middle of a stream cuts it; nothing stays reserved.
func TestKilledMidStream(t *testing.T) {
	w := newWorld(t, worldOptions{})
	done := make(chan answer, 1)
	go func() {
		done <- do(http.DefaultClient, w.request(call{body: streamBody, script: "chunks 50; every 100ms"}))
	}()
	if !eventually(func() bool { n, _ := w.provider.Calls(); return n == 1 }) {
		t.Fatal("the call did not reach the provider")
	}
	time.Sleep(300 * time.Millisecond)
	w.airgate.kill()
	a := <-done
	if a.err == nil {
		t.Errorf("the stream ended well: %d, %d bytes", a.status, len(a.body))
	}
	w.serve()
	b := w.quiet()
	if usd(t, b.Spent) == 0 {
		t.Errorf("budget %+v, want the open call charged at its bound", b)
	}
	var requests []entry
	if !eventually(func() bool {
		requests = w.requests()
		return len(requests) == 1 && requests[0].Class != nil && requests[0].UsageSource == "none"
	}) {
		t.Errorf("records %+v, want one settled without usage", requests)
	}
}
