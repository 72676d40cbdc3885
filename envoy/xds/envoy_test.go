package xds

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"airgate/envoy/envoytest"
	"airgate/policy/config"
)

// grounded puts a configuration on this machine: credentials and authorities
// become files that exist, because Envoy reads them even to validate.
func grounded(t *testing.T, s *config.Snapshot) Options {
	t.Helper()
	dir := t.TempDir()
	write := func(name, content string) string {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	g := *s
	g.Providers = slices.Clone(s.Providers)
	authorities := write("ca.pem", testAuthority(t))
	for i := range g.Providers {
		p := &g.Providers[i]
		if p.CredentialFile != "" {
			p.CredentialFile = write(filepath.Join("secrets", p.Name), "credential-of-"+p.Name)
		}
		if p.CAFile != "" {
			p.CAFile = authorities
		}
	}
	o := options(&g)
	o.CAFile = authorities
	return o
}

// testAuthority is the certificate of a throw-away TLS server.
func testAuthority(t *testing.T) string {
	t.Helper()
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	return string(pemOf(server.Certificate().Raw))
}

// TestEnvoyAcceptsEveryConfig asks a real Envoy about the bootstrap of every
// example. A deprecated field is an error: the next Envoy will not know it.
func TestEnvoyAcceptsEveryConfig(t *testing.T) {
	binary := envoytest.Binary(t)
	cases := snapshots(t)
	var examples []string
	for _, pattern := range []string{"good/*.yaml", "design/short.yaml"} {
		found, err := filepath.Glob("../../policy/config/testdata/" + pattern)
		if err != nil || len(found) == 0 {
			t.Errorf("Glob(%s) = %v, %v, want examples", pattern, found, err)
		}
		examples = append(examples, found...)
	}
	for _, example := range examples {
		s, err := config.Load(example, time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC))
		if err != nil {
			t.Errorf("Load(%s) = %v, want no error", example, err)
			continue
		}
		cases[filepath.Base(example)] = s
	}
	for name, s := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := grounded(t, s)
			file := filepath.Join(t.TempDir(), "bootstrap.json")
			if err := os.WriteFile(file, mustJSON(t, mustBuild(t, o)), 0o600); err != nil {
				t.Fatal(err)
			}
			command := exec.CommandContext(t.Context(), binary, "--mode", "validate", "--config-path", file)
			command.Env = os.Environ()
			for _, p := range s.Providers {
				if p.CredentialEnv != "" {
					command.Env = append(command.Env, p.CredentialEnv+"=x")
				}
			}
			out, err := command.CombinedOutput()
			if err != nil || bytes.Contains(out, []byte("eprecated")) {
				t.Errorf("envoy --mode validate: %v, want a clean OK:\n%s", err, out)
			}
		})
	}
}

// TestWalls runs a real Envoy between a caller, a scripted airgate and a
// provider, and tries to reach the provider without airgate's decision.
func TestWalls(t *testing.T) {
	var provider providerServer
	upstream := httptest.NewServer(&provider)
	t.Cleanup(upstream.Close)
	secure := httptest.NewUnstartedServer(&provider)
	secure.EnableHTTP2 = true
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // a refused certificate is expected
	secure.StartTLS()
	t.Cleanup(secure.Close)
	at := func(name, url string) config.Provider {
		return config.Provider{Name: name, Dialect: "openai", URL: parsed(t, url), CredentialFile: "set by grounded", Header: "authorization", Prefix: "Bearer "}
	}
	o := grounded(t, &config.Snapshot{MaxBodyBytes: 1 << 20, Providers: []config.Provider{
		at("up", upstream.URL),
		at("secure", secure.URL),
		at("misnamed", strings.Replace(secure.URL, "127.0.0.1", "localhost", 1)), // not in its certificate
	}})
	dir, err := os.MkdirTemp("", "airgate") //nolint:usetesting // short: a socket's path is bounded
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	o.Listen, o.ExtProc = "127.0.0.1:0", "unix://"+filepath.Join(dir, "extproc.sock")
	credential := o.Snapshot.Providers[0].CredentialFile

	airgate, stop := serveScript(t, strings.TrimPrefix(o.ExtProc, unixScheme))
	base := startEnvoy(t, o)

	type answer struct {
		status      int
		code, class string // x-airgate-code, x-airgate-class
		retry       string // x-should-retry, retry-after
		jsonCode    any    // error.code of the body
		id          string // x-airgate-request-id
		reached     int    // requests the provider saw
	}
	refused := answer{status: 403, code: "gateway_fault", class: "gateway", retry: "false", jsonCode: "gateway_fault", id: "id-1"}
	tests := []struct {
		name    string
		method  string
		path    string
		headers map[string]string
		body    []byte
		want    answer
	}{
		{"airgate's decision opens the way", "POST", "/v1/x", map[string]string{"x-script": "allow"}, []byte("{}"), answer{status: 200, reached: 1}},
		{"also without a body", "GET", "/v1/x", map[string]string{"x-script": "allow"}, nil, answer{status: 200, reached: 1}},
		{"a body above one connection's buffer", "POST", "/v1/x", map[string]string{"x-script": "allow"}, make([]byte, 3<<19), answer{status: 200, reached: 1}},
		{"over TLS", "POST", "/v1/x", map[string]string{"x-script": "secure"}, []byte("{}"), answer{status: 200, reached: 1}},
		{"not to somebody else's certificate", "POST", "/v1/x", map[string]string{"x-script": "misnamed"}, []byte("{}"), answer{status: 503, class: "transient", id: "id-1"}},
		{"no decision", "POST", "/v1/x", nil, []byte("{}"), refused},
		{"a caller's own routing header", "POST", "/v1/x", map[string]string{UpstreamHeader: "up"}, []byte("{}"), refused},
		{"a caller's own routing header beside a denial", "POST", "/v1/x", map[string]string{UpstreamHeader: "up", "x-script": "decision-deny"}, []byte("{}"), refused},
		{"the header without the metadata", "POST", "/v1/x", map[string]string{"x-script": "header-only"}, []byte("{}"), refused},
		{"the metadata without the header", "POST", "/v1/x", map[string]string{"x-script": "metadata-only"}, []byte("{}"), refused},
		{"the metadata with a caller's own header", "POST", "/v1/x", map[string]string{UpstreamHeader: "up", "x-script": "metadata-only"}, []byte("{}"), refused},
		{"the metadata of another namespace", "POST", "/v1/x", map[string]string{"x-script": "namespace"}, []byte("{}"), refused},
		{"a provider that does not exist", "POST", "/v1/x", map[string]string{"x-script": "elsewhere"}, []byte("{}"), refused},
		{"a stream that airgate leaves", "POST", "/v1/x", map[string]string{"x-script": "leave"}, []byte("{}"), refused},
		{"an error of airgate", "POST", "/v1/x", map[string]string{"x-script": "fail"}, []byte("{}"), answer{status: 503, code: "gateway_fault", class: "gateway", retry: "1", jsonCode: "gateway_fault", id: "id-1"}},
		{"nonsense from airgate", "POST", "/v1/x", map[string]string{"x-script": "nonsense"}, []byte("{}"), answer{status: 503, code: "gateway_fault", class: "gateway", retry: "1", jsonCode: "gateway_fault", id: "id-1"}},
		{"a forbidden mutation", "POST", "/v1/x", map[string]string{"x-script": "host"}, []byte("{}"), answer{status: 503, code: "gateway_fault", class: "gateway", retry: "1", jsonCode: "gateway_fault", id: "id-1"}},
		{"airgate's own refusal keeps its body", "POST", "/v1/x", map[string]string{"x-script": "refuse"}, []byte("{}"), answer{status: 503, code: "overloaded", jsonCode: "overloaded"}},
		{"a body above every limit", "POST", "/v1/x", map[string]string{"x-script": "allow"}, make([]byte, 3<<20), answer{status: 413, code: "request_too_large", class: "malformed", retry: "false", jsonCode: "request_too_large"}},
		{"an upgrade", "GET", "/v1/x", map[string]string{"x-script": "allow", "connection": "upgrade", "upgrade": "websocket"}, nil, answer{status: 403, code: "request_malformed", class: "malformed", retry: "false", jsonCode: "request_malformed"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := provider.count()
			r := call(t, test.method, base+test.path, test.headers, test.body)
			var body struct {
				Error struct{ Code any }
			}
			if len(r.body) > 0 && r.status != 200 {
				if err := json.Unmarshal(r.body, &body); err != nil {
					t.Errorf("body %q: %v, want JSON", r.body, err)
				}
			}
			got := answer{
				status: r.status, code: r.header.Get("x-airgate-code"), class: r.header.Get("x-airgate-class"),
				retry: r.header.Get("x-should-retry") + r.header.Get("retry-after"), jsonCode: body.Error.Code, id: r.header.Get("x-airgate-request-id"), reached: provider.count() - before,
			}
			if r.status == http.StatusRequestEntityTooLarge {
				got.id = "" // the body may be too large before airgate has answered to the headers
			}
			if got != test.want {
				t.Errorf("%s %s %v = %+v, want %+v; body %s", test.method, test.path, test.headers, got, test.want, r.body)
			}
			if s := r.header.Get("content-type"); r.status != 200 && s != "application/json" {
				t.Errorf("content-type = %q, want application/json", s)
			}
		})
	}

	t.Run("the provider sees its credential and nothing of ours", func(t *testing.T) {
		r := call(t, "POST", base+"/v1/x", map[string]string{"x-script": "allow", "authorization": "Bearer callers", "x-envoy-other": "1", "x-kept": "1", "x_airgate_upstream": "up"}, []byte("{}"))
		seen := provider.last()
		if got, want := seen.Header.Get("authorization"), "Bearer credential-of-up"; got != want {
			t.Errorf("authorization = %q, want %q", got, want)
		}
		if got, want := seen.Host, strings.TrimPrefix(upstream.URL, "http://"); got != want {
			t.Errorf("host = %q, want %q", got, want)
		}
		for name := range seen.Header {
			n := strings.ToLower(name)
			if strings.HasPrefix(n, "x-airgate-") || strings.HasPrefix(n, "x-envoy-") || strings.HasPrefix(n, "x-forwarded-") || strings.Contains(n, "_") {
				t.Errorf("the provider sees %s", name)
			}
		}
		if seen.Header.Get("x-kept") != "1" {
			t.Error("the provider does not see x-kept, want callers' own headers to pass")
		}
		if got := r.header.Get("server"); got != "provider" {
			t.Errorf("the caller sees server %q, want the provider's", got)
		}
		for name := range r.header {
			if strings.HasPrefix(strings.ToLower(name), "x-envoy-") {
				t.Errorf("the caller sees %s", name)
			}
		}
	})
	t.Run("a provider that speaks HTTP/2 is spoken to in it", func(t *testing.T) {
		call(t, "POST", base+"/v1/x", map[string]string{"x-script": "secure"}, []byte("{}"))
		seen := provider.last()
		if seen.Proto != "HTTP/2.0" || seen.Host != strings.TrimPrefix(secure.URL, "https://") || seen.Header.Get("authorization") != "Bearer credential-of-secure" {
			t.Errorf("the provider sees %s, host %s, authorization %q", seen.Proto, seen.Host, seen.Header.Get("authorization"))
		}
	})
	rotate := func(t *testing.T, to string, took func(response) bool) {
		t.Helper()
		next := credential + ".next"
		if err := os.WriteFile(next, []byte(to), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, credential); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(10 * time.Second); ; {
			r := call(t, "POST", base+"/v1/x", map[string]string{"x-script": "allow"}, []byte("{}"))
			if took(r) {
				return
			} else if time.Now().After(deadline) {
				t.Fatalf("after a rotation to %q: status %d, authorization %q", to, r.status, provider.last().Header.Get("authorization"))
			}
		}
	}
	t.Run("a rotated credential is read", func(t *testing.T) {
		rotate(t, "second", func(response) bool { return provider.last().Header.Get("authorization") == "Bearer second" })
	})
	t.Run("a credential that cannot be a header stops at Envoy", func(t *testing.T) {
		rotate(t, "third\n", func(r response) bool {
			return r.status == 503 && r.header.Get("x-airgate-class") == "gateway" && provider.last().Header.Get("authorization") == "Bearer second"
		})
		rotate(t, "third", func(response) bool { return provider.last().Header.Get("authorization") == "Bearer third" })
	})
	t.Run("what is not billed is retried, what may be is not", func(t *testing.T) {
		for code, want := range map[int]int{429: 3, 503: 3, 529: 3, 500: 1, 502: 1, 504: 1, 401: 1} {
			before := provider.count()
			r := call(t, "POST", base+"/v1/x", map[string]string{"x-script": "allow", "x-answer": strconv.Itoa(code), "x-envoy-retry-on": "5xx"}, []byte("{}"))
			if got := provider.count() - before; got != want || r.status != code {
				t.Errorf("a provider that answers %d: %d attempts, status %d, want %d attempts, %d", code, got, r.status, want, code)
			}
		}
	})
	t.Run("airgate is asked once, whatever it answers", func(t *testing.T) {
		before := airgate.asked.Load()
		call(t, "GET", base+"/v1/x", map[string]string{"x-script": "fail"}, nil)
		if got := airgate.asked.Load() - before; got != 1 {
			t.Errorf("airgate was asked %d times, want once: it would decide and record again", got)
		}
	})
	t.Run("a provider that is gone", func(t *testing.T) {
		upstream.CloseClientConnections()
		upstream.Close()
		r := call(t, "POST", base+"/v1/x", map[string]string{"x-script": "allow"}, []byte("{}"))
		if got := r.header.Get("x-airgate-class"); r.status != 503 || got != "transient" || !json.Valid(r.body) {
			t.Errorf("status %d, class %q, body %s, want 503, transient and JSON", r.status, got, r.body)
		}
	})
	t.Run("an airgate that is gone", func(t *testing.T) {
		stop()
		before := provider.count()
		r := call(t, "POST", base+"/v1/x", map[string]string{"x-script": "allow"}, []byte("{}"))
		if got := r.header.Get("x-airgate-class"); r.status != 503 || got != "gateway" || !json.Valid(r.body) {
			t.Errorf("status %d, class %q, body %s, want 503, gateway and JSON", r.status, got, r.body)
		}
		if n := provider.count() - before; n != 0 {
			t.Errorf("the provider saw %d requests, want none", n)
		}
	})
}

type response struct {
	status int
	header http.Header
	body   []byte
}

func call(t *testing.T, method, url string, headers map[string]string, body []byte) response {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range headers {
		request.Header[name] = []string{value} // not canonical: x_airgate_upstream stays as it is
	}
	r, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	all, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response{r.StatusCode, r.Header, all}
}

// startEnvoy runs Envoy until the test ends and returns where callers connect.
func startEnvoy(t *testing.T, o Options) string {
	t.Helper()
	binary := envoytest.Binary(t)
	file := filepath.Join(t.TempDir(), "bootstrap.json")
	if err := os.WriteFile(file, mustJSON(t, mustBuild(t, o)), 0o600); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	command := exec.Command(binary, "--config-path", file, "--disable-hot-restart", "--concurrency", "1", "--log-level", "warn")
	command.Stdout, command.Stderr = &said, &said
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- command.Wait() }()
	t.Cleanup(func() {
		_ = command.Process.Kill() // it may be gone already
		<-exited
		if t.Failed() {
			t.Logf("Envoy said:\n%s", said.Bytes())
		}
	})
	socket := AdminSocket(o.ExtProc)
	admin := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		select {
		case err := <-exited:
			exited <- err
			t.Fatalf("Envoy ended: %v", err)
		default:
		}
		if port, err := listenerPort(admin); err == nil {
			return fmt.Sprintf("http://127.0.0.1:%d", port)
		}
	}
	t.Fatal("Envoy did not get ready")
	return ""
}

func listenerPort(admin *http.Client) (int, error) {
	ready, err := admin.Get("http://admin/ready")
	if err != nil {
		return 0, err
	}
	ready.Body.Close()
	if ready.StatusCode != http.StatusOK {
		return 0, errors.New("not ready")
	}
	r, err := admin.Get("http://admin/listeners?format=json")
	if err != nil {
		return 0, err
	}
	defer r.Body.Close()
	var listeners struct {
		Statuses []struct {
			Address struct {
				Socket struct {
					Port int `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if err := json.NewDecoder(r.Body).Decode(&listeners); err != nil {
		return 0, err
	}
	if len(listeners.Statuses) != 1 {
		return 0, fmt.Errorf("%d listeners, want 1", len(listeners.Statuses))
	}
	return listeners.Statuses[0].Address.Socket.Port, nil
}

// script is an airgate that does what the caller's header x-script says.
type script struct {
	extprocv3.UnimplementedExternalProcessorServer
	asked atomic.Int32 // streams begun
}

func serveScript(t *testing.T, socket string) (s *script, stop func()) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s = &script{}
	server := grpc.NewServer()
	extprocv3.RegisterExternalProcessorServer(server, s)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	return s, server.Stop
}

func (s *script) Process(stream extprocv3.ExternalProcessor_ProcessServer) error {
	s.asked.Add(1)
	var scene string
	for {
		m, err := stream.Recv()
		if status.Code(err) == codes.Canceled || errors.Is(err, io.EOF) {
			return nil // Envoy ended the stream
		} else if err != nil {
			return err
		}
		reply := &extprocv3.ProcessingResponse{}
		switch v := m.GetRequest().(type) {
		case *extprocv3.ProcessingRequest_RequestHeaders:
			for _, h := range v.RequestHeaders.GetHeaders().GetHeaders() {
				if h.GetKey() == "x-script" {
					scene = string(h.GetRawValue())
				}
			}
			headers := &extprocv3.HeadersResponse{}
			if reply.DynamicMetadata, err = metadata(MetadataNamespace, RequestIDKey, "id-1"); err != nil {
				return err
			}
			if v.RequestHeaders.GetEndOfStream() {
				if headers.Response, err = perform(scene, reply); err != nil {
					return err
				}
			}
			reply.Response = &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: headers}
		case *extprocv3.ProcessingRequest_RequestBody:
			switch scene {
			case "leave":
				return nil
			case "nonsense":
				reply.Response = &extprocv3.ProcessingResponse_ResponseTrailers{}
			case "refuse":
				reply.Response = &extprocv3.ProcessingResponse_ImmediateResponse{ImmediateResponse: &extprocv3.ImmediateResponse{
					Status:  &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable},
					Headers: &extprocv3.HeaderMutation{SetHeaders: []*corev3.HeaderValueOption{raw("x-airgate-code", "overloaded"), raw("content-type", "application/json")}},
					Body:    []byte(`{"error":{"code":"overloaded"}}`),
					Details: DetailsPrefix + "overloaded",
				}}
			default:
				common, err := perform(scene, reply)
				if err != nil {
					return err
				}
				reply.Response = &extprocv3.ProcessingResponse_RequestBody{RequestBody: &extprocv3.BodyResponse{Response: common}}
			}
		case *extprocv3.ProcessingRequest_ResponseHeaders:
			reply.Response = &extprocv3.ProcessingResponse_ResponseHeaders{ResponseHeaders: &extprocv3.HeadersResponse{}}
		case *extprocv3.ProcessingRequest_ResponseBody:
			reply.Response = &extprocv3.ProcessingResponse_ResponseBody{ResponseBody: &extprocv3.BodyResponse{}}
		default:
			return status.Errorf(codes.Internal, "unexpected %T", v)
		}
		if err := stream.Send(reply); err != nil {
			return err
		}
	}
}

// perform decides as the scene says.
func perform(scene string, reply *extprocv3.ProcessingResponse) (*extprocv3.CommonResponse, error) {
	namespace, decision, name, value := MetadataNamespace, DecisionAllow, UpstreamHeader, "up"
	switch scene {
	case "allow":
	case "secure", "misnamed":
		value = scene
	case "decision-deny":
		decision = "deny"
	case "header-only":
		decision = ""
	case "metadata-only":
		name, value = "x-other", "1"
	case "namespace":
		namespace = "elsewhere"
	case "elsewhere":
		value = "nowhere"
	case "host":
		name = "host"
	case "fail":
		return nil, status.Error(codes.Unavailable, "scripted")
	default:
		return &extprocv3.CommonResponse{}, nil
	}
	if decision != "" {
		var err error
		if reply.DynamicMetadata, err = metadata(namespace, DecisionKey, decision); err != nil {
			return nil, err
		}
	}
	return &extprocv3.CommonResponse{
		HeaderMutation:  &extprocv3.HeaderMutation{SetHeaders: []*corev3.HeaderValueOption{raw(name, value)}},
		ClearRouteCache: true,
	}, nil
}

func metadata(namespace, key, value string) (*structpb.Struct, error) {
	return structpb.NewStruct(map[string]any{namespace: map[string]any{key: value}})
}

func raw(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, RawValue: []byte(value)}}
}
