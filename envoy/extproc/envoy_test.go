package extproc_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"airgate/envoy/envoytest"
	"airgate/envoy/extproc"
	"airgate/envoy/xds"
	"airgate/policy/config"
	"airgate/processor"
)

// events is an answer of n server-sent events, one flush each; the provider
// notes how many it got rid of.
func (p *provider) events(w http.ResponseWriter, r *http.Request, n int) {
	w.Header().Set("content-type", "text/event-stream")
	for i := range n {
		if _, err := fmt.Fprintf(w, "data: %d\n\n", i); err != nil {
			return
		}
		w.(http.Flusher).Flush() //nolint:forcetypeassert // net/http's own
		select {
		case <-r.Context().Done():
			p.cancelled <- i
			return
		case <-time.After(time.Millisecond):
		}
	}
}

type provider struct {
	seen      chan *http.Request
	bodies    chan string
	cancelled chan int
}

func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	p.seen <- r
	p.bodies <- string(body)
	switch r.URL.Path {
	case "/events":
		p.events(w, r, 20)
	case "/endless":
		p.events(w, r, 100_000)
	case "/quota":
		w.Header().Set("content-type", "application/json")
		w.WriteHeader(http.StatusBadRequest) // not retried by Envoy
		_, _ = io.WriteString(w, `{"error":"our account"}`)
	case "/trailers":
		w.Header().Set("trailer", "x-sum")
		_, _ = io.WriteString(w, "body")
		w.Header().Set("x-sum", "1")
	default:
		w.Header().Set("set-cookie", "provider=1")
		_, _ = io.WriteString(w, "answer")
	}
}

// TestRealEnvoy plays the scripts against the Envoy that this server is for:
// what encode says is what Envoy understands.
func TestRealEnvoy(t *testing.T) {
	binary := envoytest.Binary(t)
	p := &provider{seen: make(chan *http.Request, 1), bodies: make(chan string, 1), cancelled: make(chan int, 1)}
	upstream := httptest.NewServer(p)
	t.Cleanup(upstream.Close)
	scripts := make(chan *script, 1)
	b := start(t, extproc.Config{
		Begin:  func(time.Time) extproc.Stream { return <-scripts },
		Causes: newSink(t), CauseTimeout: 5 * time.Second,
	})
	base := startEnvoy(t, binary, b.addr, upstream.URL)

	call := func(t *testing.T, s *script, method, path, body string) (*http.Response, string) {
		t.Helper()
		scripts <- s
		var in io.Reader
		if body != "" {
			in = strings.NewReader(body)
		}
		req, err := http.NewRequestWithContext(t.Context(), method, base+path, in)
		if err != nil {
			t.Fatal(err)
		}
		r, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		got, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r, string(got)
	}
	forward := func(id, path, body string) *processor.Forward {
		f := &processor.Forward{
			Set:      []processor.Header{{Name: ":path", Value: path}, {Name: "x-airgate-upstream", Value: "up"}},
			Remove:   []string{"x-secret"},
			Metadata: processor.Metadata{RequestID: id, Decision: "allow"},
		}
		if body != "" {
			f.Body = []byte(body)
			f.Set = append(f.Set, processor.Header{Name: "content-length", Value: strconv.Itoa(len(body))})
		}
		return f
	}
	requests := 0
	// with answers the body by forwarding to path and the rest by answer.
	with := func(path, body string, answer func(processor.Event) processor.Action) *script {
		requests++
		id := fmt.Sprintf("0197-%d", requests) // each has its own access-log entry
		s := newScript(func(e processor.Event) processor.Action {
			switch e := e.(type) {
			case *processor.RequestHeaders:
				if e.EndOfStream {
					return forward(id, path, "")
				}
				return &processor.Continue{Metadata: processor.Metadata{RequestID: id}}
			case *processor.RequestBody:
				return forward(id, path, body)
			default:
				return answer(e)
			}
		})
		s.id = id
		s.clean = true
		return s
	}

	t.Run("an edited request and a plain answer", func(t *testing.T) {
		s := with("/plain?a=b", "edited", func(e processor.Event) processor.Action {
			if _, ok := e.(*processor.ResponseHeaders); ok {
				return &processor.Answer{Set: []processor.Header{{Name: "x-airgate-request-id", Value: "0197-id"}}, Remove: []string{"set-cookie"}, Durable: 1}
			}
			return pass(e)
		})
		r, got := call(t, s, "POST", "/v1/x", "original")
		seen, body := <-p.seen, <-p.bodies
		if r.StatusCode != http.StatusOK || got != "answer" || r.Header.Get("x-airgate-request-id") != "0197-id" || r.Header.Get("set-cookie") != "" {
			t.Errorf("answer = %d %q %v", r.StatusCode, got, r.Header)
		}
		if seen.RequestURI != "/plain?a=b" || body != "edited" || seen.ContentLength != 6 {
			t.Errorf("the provider saw %s with %q of %d bytes", seen.RequestURI, body, seen.ContentLength)
		}
		events := strings.Join(s.settled(t), " ")
		if !strings.Contains(events, "reqb[8] resh[via_upstream 1] resb[answer") {
			t.Errorf("events = %s", events)
		}
	})
	t.Run("without a body", func(t *testing.T) {
		s := with("/plain", "", pass)
		r, got := call(t, s, "GET", "/v1/x", "")
		<-p.seen
		<-p.bodies
		if r.StatusCode != http.StatusOK || got != "answer" {
			t.Errorf("answer = %d %q, want 200 answer", r.StatusCode, got)
		}
		s.settled(t)
	})
	t.Run("a denial", func(t *testing.T) {
		s := newScript(func(processor.Event) processor.Action {
			return &processor.Deny{Status: 402, Headers: []processor.Header{{Name: "content-type", Value: "application/json"}}, Body: []byte(`{"error":{}}`), Details: "airgate_budget_exhausted"}
		})
		s.clean = true
		r, got := call(t, s, "POST", "/v1/x", "{}")
		if r.StatusCode != http.StatusPaymentRequired || got != `{"error":{}}` || r.Header.Get("content-type") != "application/json" {
			t.Errorf("answer = %d %q %v", r.StatusCode, got, r.Header)
		}
		s.settled(t)
	})
	t.Run("events in full duplex, some held back", func(t *testing.T) {
		var held []byte
		s := with("/events", "", duplex(func(e processor.Event) processor.Action {
			c, ok := e.(*processor.ResponseBody)
			if !ok {
				return pass(e)
			}
			held = append(held, c.Chunk...)
			if len(held) < 40 && !c.EndOfStream {
				return &processor.Chunk{Replace: true}
			}
			out := held
			held = nil
			return &processor.Chunk{Replace: true, Body: out, EndOfStream: c.EndOfStream}
		}))
		_, got := call(t, s, "POST", "/v1/x", "{}")
		<-p.seen
		<-p.bodies
		var want strings.Builder
		for i := range 20 {
			fmt.Fprintf(&want, "data: %d\n\n", i)
		}
		if got != want.String() {
			t.Errorf("answer = %q, want %q", got, want.String())
		}
		s.settled(t)
	})
	t.Run("a clean cut", func(t *testing.T) {
		s := with("/endless", "", duplex(func(e processor.Event) processor.Action {
			if c, ok := e.(*processor.ResponseBody); ok && bytes.Contains(c.Chunk, []byte(": 5\n")) {
				return &processor.Chunk{Replace: true, Body: []byte("event: error\n\n"), EndOfStream: true, Cut: "budget"}
			}
			return pass(e)
		}))
		_, got := call(t, s, "POST", "/v1/x", "{}") // a clean end, or ReadAll fails
		<-p.seen
		<-p.bodies
		if !strings.HasSuffix(got, "event: error\n\n") {
			t.Errorf("answer = %q, want the error event last", got)
		}
		if n := <-p.cancelled; n > 1000 {
			t.Errorf("the provider sent %d events after the cut", n)
		}
		s.settled(t)
	})
	t.Run("an error answer replaced once it is read", func(t *testing.T) {
		s := with("/quota", "", func(e processor.Event) processor.Action {
			switch e := e.(type) {
			case *processor.ResponseHeaders:
				return &processor.Answer{Buffer: true}
			case *processor.ResponseBody:
				if string(e.Chunk) != `{"error":"our account"}` {
					t.Errorf("body = %q, want it whole", e.Chunk)
				}
				return &processor.Deny{Status: 502, Body: []byte("ours"), Details: "airgate_provider_quota"}
			default:
				return pass(e)
			}
		})
		r, got := call(t, s, "POST", "/v1/x", "{}")
		<-p.seen
		<-p.bodies
		if r.StatusCode != http.StatusBadGateway || got != "ours" {
			t.Errorf("answer = %d %q, want 502 ours", r.StatusCode, got)
		}
		s.settled(t)
	})
	t.Run("an error answer with a header set after it is read", func(t *testing.T) {
		s := with("/quota", "", func(e processor.Event) processor.Action {
			switch e.(type) {
			case *processor.ResponseHeaders:
				return &processor.Answer{Buffer: true}
			case *processor.ResponseBody:
				return &processor.Chunk{Set: []processor.Header{{Name: "x-airgate-class", Value: "malformed"}}}
			default:
				return pass(e)
			}
		})
		r, got := call(t, s, "POST", "/v1/x", "{}")
		<-p.seen
		<-p.bodies
		if r.StatusCode != http.StatusBadRequest || got != `{"error":"our account"}` || r.Header.Get("x-airgate-class") != "malformed" {
			t.Errorf("answer = %d %q %v", r.StatusCode, got, r.Header)
		}
		s.settled(t)
	})
	t.Run("trailers in full duplex", func(t *testing.T) {
		s := with("/trailers", "", duplex(pass))
		r, got := call(t, s, "POST", "/v1/x", "{}")
		<-p.seen
		<-p.bodies
		if r.StatusCode != http.StatusOK || got != "body" {
			t.Errorf("answer = %d %q, want 200 body", r.StatusCode, got)
		}
		s.settled(t)
	})
	t.Run("a caller who leaves", func(t *testing.T) {
		s := with("/endless", "", pass)
		s.clean = false
		scripts <- s
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v1/x", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		r, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(r.Body).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		cancel()
		_ = r.Body.Close()
		<-p.seen
		<-p.bodies
		<-p.cancelled
		s.settled(t)
		if s.cause.Flags != "DC" || s.cause.Details != "downstream_remote_disconnect" || s.cause.Attempts != 1 {
			t.Errorf("cause = %+v, want DC downstream_remote_disconnect", s.cause)
		}
	})
	http.DefaultClient.CloseIdleConnections()
	for _, fault := range []string{"panic", "drift", "queue", "message", "action", "idle", "durable"} {
		if got := b.metric(t, "airgate_extproc_faults_total", fault); got != 0 {
			t.Errorf("faults{%s} = %v, want none", fault, got)
		}
	}
}

// startEnvoy runs Envoy with airgate's bootstrap and one provider, "up", and
// returns where callers connect.
func startEnvoy(t *testing.T, binary, extProc, providerURL string) string {
	t.Helper()
	at, err := url.Parse(providerURL)
	if err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	credential := filepath.Join(dir, "credential")
	authorities := filepath.Join(dir, "ca.pem")
	for file, content := range map[string]string{credential: "provider-key", authorities: ""} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	admin := filepath.Join(dir, "envoy.sock")
	bootstrap, err := xds.Build(xds.Options{
		Snapshot: &config.Snapshot{MaxBodyBytes: 1 << 20, Providers: []config.Provider{{
			Name: "up", Dialect: "openai", URL: at, CredentialFile: credential, Header: "authorization", Prefix: "Bearer ",
		}}},
		Listen: "127.0.0.1:0", ExtProc: extProc, Admin: "unix://" + admin, CAFile: authorities,
	})
	if err != nil {
		t.Fatal(err)
	}
	config, err := xds.JSON(bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "envoy.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	command := exec.Command(binary, "--config-path", file, "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "error")
	command.Stdout, command.Stderr = &log, &log
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
		if t.Failed() {
			t.Logf("Envoy said:\n%s", log.Bytes())
		}
	})
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", admin)
		},
	}}
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if addr := listener(t, &client); addr != "" {
			return "http://" + addr
		}
	}
	t.Fatalf("Envoy did not start:\n%s", log.Bytes())
	return ""
}

// listener asks Envoy where it listens; "" = it does not yet.
func listener(t *testing.T, client *http.Client) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://envoy/listeners?format=json", nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := client.Do(req)
	if err != nil {
		return ""
	}
	defer r.Body.Close()
	var status struct {
		Listeners []struct {
			Address struct {
				Socket struct {
					Address string `json:"address"`
					Port    int    `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if json.NewDecoder(r.Body).Decode(&status) != nil || len(status.Listeners) == 0 || status.Listeners[0].Address.Socket.Port == 0 {
		return ""
	}
	s := status.Listeners[0].Address.Socket
	return net.JoinHostPort(s.Address, strconv.Itoa(s.Port))
}
