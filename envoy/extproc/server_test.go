package extproc_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	gocmp "github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"

	"airgate/accounting/journal"
	"airgate/envoy/extproc"
	"airgate/envoy/extproc/extproctest"
	"airgate/processor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script is a request whose answers the test writes.
type script struct {
	step  func(e processor.Event) processor.Action // nil = pass everything
	after func()
	clean bool // Close wants no cause
	panic string
	id    string // "" = 0197-id

	mu     sync.Mutex
	events []string
	closed int
	cause  processor.Cause
	ended  chan struct{} // closed by Finish
	finish int
}

func newScript(step func(e processor.Event) processor.Action) *script {
	return &script{step: step, ended: make(chan struct{})}
}

func (s *script) RequestID() string { return cmp.Or(s.id, "0197-id") }

func (s *script) Step(e processor.Event) processor.Action {
	s.mu.Lock()
	s.events = append(s.events, describe(e))
	s.mu.Unlock()
	if s.panic == "step" {
		panic("the secret prompt")
	}
	if s.step == nil {
		return pass(e)
	}
	return s.step(e)
}

// pass lets every message go on.
func pass(e processor.Event) processor.Action {
	switch e := e.(type) {
	case *processor.ResponseBody:
		return &processor.Chunk{EndOfStream: e.EndOfStream}
	case *processor.ResponseTrailers:
		return &processor.Chunk{Trailers: true}
	case *processor.ResponseHeaders:
		return &processor.Answer{}
	case *processor.RequestBody:
		return &processor.Forward{}
	case *processor.RequestHeaders, *processor.NotDurable:
	}
	return &processor.Continue{}
}

func (s *script) After() {
	if s.panic == "after" {
		panic("the secret prompt")
	}
	if s.after != nil {
		s.after()
	}
}

func (s *script) Close(time.Time, bool) bool {
	s.mu.Lock()
	s.closed++
	s.mu.Unlock()
	if s.panic == "close" {
		panic("the secret prompt")
	}
	return !s.clean
}

func (s *script) Finish(_ time.Time, c processor.Cause) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finish++
	s.cause = c
	if s.finish == 1 {
		close(s.ended)
	}
	if s.panic == "finish" {
		panic("the secret prompt")
	}
}

// settled waits for the end and checks that it came once.
func (s *script) settled(tb testing.TB) []string {
	tb.Helper()
	<-s.ended
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed != 1 || s.finish != 1 {
		tb.Errorf("Close was called %d times and Finish %d times, want once each", s.closed, s.finish)
	}
	return s.events
}

// describe is an event in a word or two.
func describe(e processor.Event) string {
	mark := func(name string, end bool) string {
		if end {
			return name + "!"
		}
		return name
	}
	switch e := e.(type) {
	case *processor.RequestHeaders:
		return mark(fmt.Sprintf("reqh[%d]", len(e.Headers)), e.EndOfStream)
	case *processor.RequestBody:
		return fmt.Sprintf("reqb[%d]", len(e.Body))
	case *processor.ResponseHeaders:
		return mark(fmt.Sprintf("resh[%s %d]", e.Details, e.Attempts), e.EndOfStream)
	case *processor.ResponseBody:
		return mark(fmt.Sprintf("resb[%s]", e.Chunk), e.EndOfStream)
	case *processor.ResponseTrailers:
		return "trailers"
	case *processor.NotDurable:
		return "not durable"
	}
	return "?"
}

// bench is a running server and an Envoy connected to it.
type bench struct {
	server  *extproc.Server
	envoy   *extproctest.Envoy
	addr    string
	metrics *prometheus.Registry
	log     *strings.Builder // of the server; read after stop
	stop    func()
}

// start serves cfg, whose Begin, Wait, MaxBodyBytes, Log and Registerer may be
// left out; s are the scripts of the requests to come, in order.
func start(tb testing.TB, cfg extproc.Config, s ...*script) *bench {
	tb.Helper()
	b := &bench{metrics: prometheus.NewRegistry(), log: &strings.Builder{}}
	var next int
	var mu sync.Mutex
	if cfg.Begin == nil {
		cfg.Begin = func(time.Time) extproc.Stream {
			mu.Lock()
			defer mu.Unlock()
			next++
			return s[next-1]
		}
	}
	if cfg.Wait == nil {
		cfg.Wait = func(context.Context, journal.Position) error { return nil }
	}
	if cfg.MaxBodyBytes == 0 {
		cfg.MaxBodyBytes = 32 << 20
	}
	cfg.Log = slog.New(slog.NewTextHandler(b.log, nil))
	cfg.Registerer = b.metrics
	if cfg.CauseTimeout == 0 {
		cfg.CauseTimeout = time.Second
	}
	server, err := extproc.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	b.server, b.addr = server, "unix://"+filepath.Join(shortDir(tb), "extproc.sock")
	l, err := extproc.Listen(b.addr)
	if err != nil {
		tb.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	b.envoy, err = extproctest.Dial(b.addr)
	if err != nil {
		tb.Fatal(err)
	}
	// A test that waits for what never comes fails instead of hanging.
	patience := time.AfterFunc(20*time.Second, func() { _ = b.envoy.Close() })
	b.stop = sync.OnceFunc(func() {
		patience.Stop()
		_ = b.envoy.Close()
		_ = server.Stop(tb.Context())
		if err := <-served; err != nil {
			tb.Errorf("Serve = %v, want nil after Stop", err)
		}
	})
	tb.Cleanup(b.stop)
	return b
}

// shortDir is a temporary directory whose name leaves room for a socket's.
func shortDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "ag") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (b *bench) open(tb testing.TB) *extproctest.Call {
	tb.Helper()
	c, err := b.envoy.Open()
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func send(tb testing.TB, c *extproctest.Call, ms ...*extprocv3.ProcessingRequest) {
	tb.Helper()
	for _, m := range ms {
		if err := c.Send(m); err != nil {
			tb.Fatal(err)
		}
	}
}

// recv returns the next reply in a word or two.
func recv(tb testing.TB, c *extproctest.Call) string {
	tb.Helper()
	r, err := c.Recv()
	if err != nil {
		tb.Fatalf("Recv = %v, want a reply", err)
	}
	return name(r)
}

func name(r *extprocv3.ProcessingResponse) string {
	stream := func(b *extprocv3.BodyResponse) string {
		s := b.GetResponse().GetBodyMutation().GetStreamedResponse()
		if s == nil {
			return ""
		}
		out := "=" + string(s.GetBody())
		if s.GetEndOfStream() {
			out += "!"
		}
		return out
	}
	switch v := r.GetResponse().(type) {
	case *extprocv3.ProcessingResponse_RequestHeaders:
		return "reqh"
	case *extprocv3.ProcessingResponse_RequestBody:
		return "reqb"
	case *extprocv3.ProcessingResponse_ResponseHeaders:
		if m := r.GetModeOverride(); m != nil {
			return "resh " + m.GetResponseBodyMode().String()
		}
		return "resh"
	case *extprocv3.ProcessingResponse_ResponseBody:
		return "resb" + stream(v.ResponseBody)
	case *extprocv3.ProcessingResponse_ResponseTrailers:
		return "trailers"
	case *extprocv3.ProcessingResponse_ImmediateResponse:
		return fmt.Sprintf("immediate %d", v.ImmediateResponse.GetStatus().GetCode())
	}
	return "?"
}

// end reads to the end of the stream and returns its status; nil = OK.
func end(c *extproctest.Call) error {
	for {
		if _, err := c.Recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (b *bench) metric(tb testing.TB, name, label string) float64 {
	tb.Helper()
	families, err := b.metrics.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if label != "" && m.GetLabel()[0].GetValue() != label {
				continue
			}
			return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	tb.Fatalf("no metric %s %s", name, label)
	return 0
}

// requestHead, answerHead and chunk are the usual messages.
func requestHead() *extprocv3.ProcessingRequest {
	return extproctest.RequestHeaders(false, ":method", "POST", ":path", "/v1/chat/completions")
}

func answerHead() *extprocv3.ProcessingRequest {
	return extproctest.ResponseHeaders(false, "via_upstream", 1, ":status", "200")
}

func chunk(s string) *extprocv3.ProcessingRequest { return extproctest.ResponseBody([]byte(s), false) }

func lastChunk(s string) *extprocv3.ProcessingRequest {
	return extproctest.ResponseBody([]byte(s), true)
}

// The orders of Envoy's messages, as observed: each gets its reply, in order,
// and each is one event.
func TestMessageOrders(t *testing.T) {
	type messages = []*extprocv3.ProcessingRequest
	body := extproctest.RequestBody([]byte("{}"))
	untold := &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestBody{
		RequestBody: &extprocv3.HttpBody{Body: []byte("{}")}, // whole, but trailers follow
	}}
	tests := map[string]struct {
		messages messages
		events   []string
		replies  []string
	}{
		"an answer in chunks": {
			messages{requestHead(), body, answerHead(), chunk("a"), chunk("b"), lastChunk("")},
			[]string{"reqh[2]", "reqb[2]", "resh[via_upstream 1]", "resb[a]", "resb[b]", "resb[]!"},
			[]string{"reqh", "reqb", "resh", "resb", "resb", "resb"},
		},
		"HEAD": {
			messages{extproctest.RequestHeaders(true, ":method", "HEAD"), extproctest.ResponseHeaders(true, "via_upstream", 1)},
			[]string{"reqh[1]!", "resh[via_upstream 1]!"},
			[]string{"reqh", "resh"},
		},
		"a request with trailers": {
			messages{requestHead(), untold, answerHead(), lastChunk("a")},
			[]string{"reqh[2]", "reqb[2]", "resh[via_upstream 1]", "resb[a]!"},
			[]string{"reqh", "reqb", "resh", "resb"},
		},
		"an upload that Envoy refuses": {
			messages{requestHead(), extproctest.ResponseHeaders(false, "request_payload_too_large", 0), lastChunk("too large")},
			[]string{"reqh[2]", "resh[request_payload_too_large 0]", "resb[too large]!"},
			[]string{"reqh", "resh", "resb"},
		},
		"an upgrade that Envoy refuses": {
			messages{extproctest.First(extproctest.ResponseHeaders(true, "upgrade_failed", 0))},
			[]string{"resh[upgrade_failed 0]!"},
			[]string{"resh"},
		},
		"an answer before the body": {
			messages{requestHead(), answerHead(), body, lastChunk("a")},
			[]string{"reqh[2]", "resh[via_upstream 1]", "reqb[2]", "resb[a]!"},
			[]string{"reqh", "resh", "reqb", "resb"},
		},
		"an answer with trailers": {
			messages{requestHead(), body, answerHead(), chunk("a"), extproctest.ResponseTrailers("x", "y")},
			[]string{"reqh[2]", "reqb[2]", "resh[via_upstream 1]", "resb[a]", "trailers"},
			[]string{"reqh", "reqb", "resh", "resb", "trailers"},
		},
	}
	for title, tt := range tests {
		t.Run(title, func(t *testing.T) {
			s := newScript(nil)
			s.clean = true
			b := start(t, extproc.Config{}, s)
			c := b.open(t)
			send(t, c, tt.messages...)
			var replies []string
			for range tt.messages {
				replies = append(replies, recv(t, c))
			}
			if err := c.Reset(); err != nil { // what Envoy does when all is done
				t.Fatal(err)
			}
			if diff := gocmp.Diff(tt.events, s.settled(t)); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			if diff := gocmp.Diff(tt.replies, replies); diff != "" {
				t.Errorf("replies (-want +got):\n%s", diff)
			}
		})
	}
}

// duplex answers the head of an answer with the switch to FULL_DUPLEX_STREAMED.
func duplex(rest func(e processor.Event) processor.Action) func(e processor.Event) processor.Action {
	return func(e processor.Event) processor.Action {
		if _, ok := e.(*processor.ResponseHeaders); ok {
			return &processor.Answer{Duplex: true}
		}
		return rest(e)
	}
}

func TestFullDuplex(t *testing.T) {
	head := []*extprocv3.ProcessingRequest{requestHead(), extproctest.RequestBody([]byte("{}")), answerHead()}
	opening := []string{"reqh", "reqb", "resh FULL_DUPLEX_STREAMED"}
	tests := map[string]struct {
		step     func(e processor.Event) processor.Action
		messages []*extprocv3.ProcessingRequest
		replies  []string
		events   int // beyond the head
	}{
		"chunks are sent back": {
			pass,
			[]*extprocv3.ProcessingRequest{chunk("a"), chunk("b"), lastChunk("")},
			[]string{"resb=a", "resb=b", "resb=!"},
			3,
		},
		"a chunk is held back and joined": {
			func(e processor.Event) processor.Action {
				if b, ok := e.(*processor.ResponseBody); ok {
					if string(b.Chunk) == "a" {
						return &processor.Chunk{Replace: true}
					}
					return &processor.Chunk{Replace: true, Body: append([]byte("a"), b.Chunk...), EndOfStream: b.EndOfStream}
				}
				return pass(e)
			},
			[]*extprocv3.ProcessingRequest{chunk("a"), lastChunk("b")},
			[]string{"resb=ab!"},
			2,
		},
		"what is held back goes before the trailers": {
			func(e processor.Event) processor.Action {
				switch e.(type) {
				case *processor.ResponseBody:
					return &processor.Chunk{Replace: true}
				case *processor.ResponseTrailers:
					return &processor.Chunk{Trailers: true, Replace: true, Body: []byte("a")}
				default:
					return pass(e)
				}
			},
			[]*extprocv3.ProcessingRequest{chunk("a"), extproctest.ResponseTrailers()},
			[]string{"resb=a", "trailers"},
			2,
		},
		"trailers alone": {
			pass,
			[]*extprocv3.ProcessingRequest{chunk("a"), extproctest.ResponseTrailers()},
			[]string{"resb=a", "trailers"},
			2,
		},
		"a cut ends the answer and needs no more replies": {
			func(e processor.Event) processor.Action {
				if b, ok := e.(*processor.ResponseBody); ok && string(b.Chunk) == "b" {
					return &processor.Chunk{Replace: true, Body: []byte("error"), EndOfStream: true, Cut: "budget"}
				}
				return pass(e)
			},
			[]*extprocv3.ProcessingRequest{chunk("a"), chunk("b"), chunk("c"), chunk("d")},
			[]string{"resb=a", "resb=error!"},
			2,
		},
	}
	for title, tt := range tests {
		t.Run(title, func(t *testing.T) {
			s := newScript(duplex(tt.step))
			b := start(t, extproc.Config{CauseTimeout: time.Millisecond}, s)
			c := b.open(t)
			send(t, c, head...)
			send(t, c, tt.messages...)
			if err := c.CloseSend(); err != nil {
				t.Fatal(err)
			}
			var replies []string
			for {
				r, err := c.Recv()
				if err != nil {
					if !errors.Is(err, io.EOF) {
						t.Errorf("the stream ended with %v, want OK after Envoy's end", err)
					}
					break
				}
				replies = append(replies, name(r))
			}
			if diff := gocmp.Diff(append(slices.Clone(opening), tt.replies...), replies); diff != "" {
				t.Errorf("replies (-want +got):\n%s", diff)
			}
			if got := len(s.settled(t)); got != 3+tt.events {
				t.Errorf("%d events, want %d", got, 3+tt.events)
			}
		})
	}
}

func TestBufferedAnswerCanBeReplaced(t *testing.T) {
	s := newScript(func(e processor.Event) processor.Action {
		switch e.(type) {
		case *processor.ResponseHeaders:
			return &processor.Answer{Buffer: true}
		case *processor.ResponseBody:
			return &processor.Deny{Status: 502, Details: "airgate_provider_quota"}
		default:
			return pass(e)
		}
	})
	b := start(t, extproc.Config{}, s)
	c := b.open(t)
	send(t, c, requestHead(), extproctest.RequestBody([]byte("{}")), answerHead(), lastChunk("insufficient_quota"))
	var got []string
	for range 4 {
		got = append(got, recv(t, c))
	}
	if want := []string{"reqh", "reqb", "resh BUFFERED", "immediate 502"}; !slices.Equal(got, want) {
		t.Errorf("replies = %v, want %v", got, want)
	}
	_ = c.Reset()
	b.stop()
	s.settled(t)
}

// What Envoy must never say on a stream configured by airgate ends it with an
// error: Envoy then refuses the request.
func TestWrongMessagesFailClosed(t *testing.T) {
	other := func(request, response filterv3.ProcessingMode_BodySendMode) *extprocv3.ProcessingRequest {
		m := requestHead()
		m.ProtocolConfig.RequestBodyMode, m.ProtocolConfig.ResponseBodyMode = request, response
		return m
	}
	untold := requestHead()
	untold.ProtocolConfig = nil
	observed := requestHead()
	observed.ObservabilityMode = true
	early := requestHead()
	early.ProtocolConfig.SendBodyWithoutWaitingForHeaderResponse = true
	const buffered, streamed, none = filterv3.ProcessingMode_BUFFERED, filterv3.ProcessingMode_STREAMED, filterv3.ProcessingMode_NONE
	tests := map[string]struct {
		first, second *extprocv3.ProcessingRequest
		wire          []byte
		want          codes.Code
		fault         string
	}{
		"no modes":             {first: untold, want: codes.FailedPrecondition, fault: "drift"},
		"request not buffered": {first: other(streamed, streamed), want: codes.FailedPrecondition, fault: "drift"},
		"request not sent":     {first: other(none, streamed), want: codes.FailedPrecondition, fault: "drift"},
		"answer not streamed":  {first: other(buffered, buffered), want: codes.FailedPrecondition, fault: "drift"},
		"answer not sent":      {first: other(buffered, none), want: codes.FailedPrecondition, fault: "drift"},
		"body before replies":  {first: early, want: codes.FailedPrecondition, fault: "drift"},
		"observability":        {first: observed, want: codes.FailedPrecondition, fault: "drift"},
		"not protobuf":         {wire: []byte{0xff, 0xff}, want: codes.Internal, fault: "message"},
		"empty":                {wire: []byte{}, want: codes.Internal, fault: "message"},
		"a kind of the future": {wire: []byte{0xfa, 0x01, 0x00}, want: codes.Internal, fault: "message"},
		"request trailers": {first: requestHead(), second: &extprocv3.ProcessingRequest{
			Request: &extprocv3.ProcessingRequest_RequestTrailers{RequestTrailers: &extprocv3.HttpTrailers{}},
		}, want: codes.Internal, fault: "message"},
		"larger than is read": {first: requestHead(), second: extproctest.RequestBody(make([]byte, 5<<20)), want: codes.ResourceExhausted, fault: "message"},
	}
	for title, tt := range tests {
		t.Run(title, func(t *testing.T) {
			s := newScript(nil)
			b := start(t, extproc.Config{MaxBodyBytes: 1 << 20}, s)
			c := b.open(t)
			if tt.first != nil {
				send(t, c, tt.first)
			}
			switch {
			case tt.wire != nil:
				if err := c.SendWire(tt.wire); err != nil {
					t.Fatal(err)
				}
			case tt.second != nil:
				_ = c.Send(tt.second) // the server may refuse it before all of it is written
			}
			if got := status.Code(end(c)); got != tt.want {
				t.Errorf("status = %v, want %v", got, tt.want)
			}
			if got := b.metric(t, "airgate_extproc_faults_total", tt.fault); got != 1 {
				t.Errorf("faults{%s} = %v, want 1", tt.fault, got)
			}
			b.stop()
			if tt.second != nil {
				s.settled(t)
			}
			if !strings.Contains(b.log.String(), "fault="+tt.fault) {
				t.Errorf("log = %q, want fault=%s", b.log, tt.fault)
			}
		})
	}
}

// An action that cannot be said is an error of airgate: never silence, never
// OK.
func TestWrongActionsFailClosed(t *testing.T) {
	for title, action := range map[string]processor.Action{
		"none":                    nil,
		"an answer":               &processor.Answer{},
		"a chunk":                 &processor.Chunk{},
		"a denial without status": &processor.Deny{},
		"a header without a name": &processor.Forward{Set: []processor.Header{{}}},
	} {
		t.Run(title, func(t *testing.T) {
			s := newScript(func(processor.Event) processor.Action { return action })
			b := start(t, extproc.Config{}, s)
			c := b.open(t)
			send(t, c, requestHead())
			if got := status.Code(end(c)); got != codes.Internal {
				t.Errorf("status = %v, want Internal", got)
			}
			s.settled(t)
		})
	}
}

func TestPanicIsInternalAndSettled(t *testing.T) {
	for _, where := range []string{"step", "after", "close", "finish", "begin", "wait"} {
		t.Run(where, func(t *testing.T) {
			s := newScript(nil)
			s.panic = where
			cfg := extproc.Config{}
			switch where {
			case "begin":
				cfg.Begin = func(time.Time) extproc.Stream { panic("the secret prompt") }
			case "wait":
				s.step = func(processor.Event) processor.Action { return &processor.Answer{Durable: 1} }
				cfg.Wait = func(context.Context, journal.Position) error { panic(errors.New("the secret prompt")) }
			}
			b := start(t, cfg, s)
			c := b.open(t)
			first := requestHead()
			if where == "wait" {
				first = extproctest.First(answerHead())
			}
			send(t, c, first)
			if where == "close" || where == "finish" {
				if err := c.CloseSend(); err != nil {
					t.Fatal(err)
				}
			}
			if err := end(c); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "secret") {
				t.Errorf("status = %v, want Internal without the panic's text", err)
			}
			if got := b.metric(t, "airgate_extproc_faults_total", "panic"); got != 1 {
				t.Errorf("faults{panic} = %v, want 1", got)
			}
			b.stop()
			if where != "begin" {
				s.settled(t)
			}
			if log := b.log.String(); !strings.Contains(log, "stack=") || strings.Contains(log, "secret") {
				t.Errorf("log = %q, want a stack without the panic's text", log)
			}
		})
	}
}

// Once Envoy has reset a stream, grpc-go may drop what was not yet read. What
// came before is metered all the same, even if the handler was busy all along.
func TestNothingIsLostAtReset(t *testing.T) {
	const runs, chunks = 300, 20
	busy := make(chan struct{})
	scripts := make([]*script, runs)
	for i := range scripts {
		scripts[i] = newScript(func(e processor.Event) processor.Action {
			if _, ok := e.(*processor.ResponseHeaders); ok {
				<-busy
			}
			return pass(e)
		})
		scripts[i].clean = true
	}
	b := start(t, extproc.Config{}, scripts...)
	calls := make([]*extproctest.Call, runs)
	for i := range calls {
		calls[i] = b.open(t)
		send(t, calls[i], requestHead(), extproctest.RequestBody([]byte("{}")), answerHead())
		for n := range chunks {
			send(t, calls[i], chunk(strconv.Itoa(n)))
		}
	}
	time.Sleep(100 * time.Millisecond) // Envoy's last chunk and its reset are not one packet
	for _, c := range calls {
		if err := c.Reset(); err != nil {
			t.Fatal(err)
		}
	}
	b.ping(t)
	close(busy)
	for i, s := range scripts {
		if got := s.settled(t); len(got) != 3+chunks {
			t.Fatalf("run %d: %d events, want %d; the last is %s", i, len(got), 3+chunks, got[len(got)-1])
		}
	}
}

// ping returns when the server has read all frames sent so far.
func (b *bench) ping(tb testing.TB) {
	tb.Helper()
	if err := b.envoy.Ping(); err != nil {
		tb.Fatal(err)
	}
}

// Envoy may end a stream in both ways at any time; only then is OK said.
func TestEnvoyEndsTheStream(t *testing.T) {
	ends := map[string]func(c *extproctest.Call) error{
		"reset": (*extproctest.Call).Reset, "close": (*extproctest.Call).CloseSend,
	}
	messages := []*extprocv3.ProcessingRequest{requestHead(), extproctest.RequestBody([]byte("{}")), answerHead(), chunk("a")}
	for title, how := range ends {
		for n := range len(messages) + 1 {
			t.Run(fmt.Sprintf("%s after %d", title, n), func(t *testing.T) {
				s := newScript(nil)
				s.clean = true
				b := start(t, extproc.Config{}, s)
				c := b.open(t)
				send(t, c, messages[:n]...)
				for range n {
					recv(t, c)
				}
				if err := how(c); err != nil {
					t.Fatal(err)
				}
				if title == "close" {
					if err := end(c); err != nil {
						t.Errorf("status = %v, want OK", err)
					}
				}
				if n > 0 {
					s.settled(t)
				}
			})
		}
	}
}

func TestEnvoyDies(t *testing.T) {
	s := newScript(nil)
	b := start(t, extproc.Config{CauseTimeout: time.Millisecond}, s)
	c := b.open(t)
	send(t, c, requestHead())
	recv(t, c)
	_ = b.envoy.Close()
	s.settled(t)
	_ = c
}

func TestLargeBody(t *testing.T) {
	var got []byte
	s := newScript(func(e processor.Event) processor.Action {
		if b, ok := e.(*processor.RequestBody); ok {
			got = slices.Clone(b.Body)
			return &processor.Forward{Body: b.Body}
		}
		return pass(e)
	})
	b := start(t, extproc.Config{}, s)
	c := b.open(t)
	body := make([]byte, 32<<20)
	for i := range body {
		body[i] = byte(i * 31 >> 7)
	}
	send(t, c, requestHead(), extproctest.RequestBody(body))
	recv(t, c)
	r, err := c.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if string(r.GetRequestBody().GetResponse().GetBodyMutation().GetBody()) != string(body) {
		t.Error("the body that came back is not the one that was sent")
	}
	_ = c.Reset()
	s.settled(t)
	if string(got) != string(body) {
		t.Error("the body that the processor saw is not the one that was sent")
	}
}

func TestQueueIsBounded(t *testing.T) {
	s := newScript(nil)
	s.after = func() { time.Sleep(5 * time.Millisecond) } // slower than Envoy
	b := start(t, extproc.Config{QueueBytes: 64 << 10}, s)
	c := b.open(t)
	send(t, c, requestHead(), extproctest.RequestBody([]byte("{}")), answerHead())
	flood := chunk(strings.Repeat("x", 8<<10))
	for err := error(nil); err == nil; {
		err = c.Send(flood)
	}
	if got := status.Code(end(c)); got != codes.ResourceExhausted {
		t.Errorf("status = %v, want ResourceExhausted", got)
	}
	if got := b.metric(t, "airgate_extproc_faults_total", "queue"); got != 1 {
		t.Errorf("faults{queue} = %v, want 1", got)
	}
	s.settled(t)
}

func TestDenyIsTheLastWord(t *testing.T) {
	deny := func(processor.Event) processor.Action {
		return &processor.Deny{Status: 429, Details: "airgate_rate_limited"}
	}
	s, idle := newScript(deny), newScript(deny)
	s.clean, idle.clean = true, true
	b := start(t, extproc.Config{DrainTimeout: 20 * time.Millisecond}, s, idle)

	c := b.open(t)
	send(t, c, requestHead())
	if got := recv(t, c); got != "immediate 429" {
		t.Errorf("reply = %s, want immediate 429", got)
	}
	// What is in flight is read and not answered.
	if err := c.SendAndReset(extproctest.RequestBody([]byte("{}")), answerHead()); err != nil {
		t.Fatal(err)
	}
	if got := s.settled(t); len(got) != 1 {
		t.Errorf("events = %v, want only the first", got)
	}

	// Envoy forgets to end the stream.
	c = b.open(t)
	send(t, c, requestHead())
	if err := end(c); status.Code(err) != codes.Unavailable {
		t.Errorf("status of a stream that Envoy forgot = %v, want Unavailable", err)
	}
	idle.settled(t)
}

func TestIdleStreamEnds(t *testing.T) {
	s := newScript(nil)
	b := start(t, extproc.Config{IdleTimeout: 10 * time.Millisecond}, s)
	c := b.open(t)
	send(t, c, requestHead())
	if err := end(c); status.Code(err) != codes.Unavailable {
		t.Errorf("status = %v, want Unavailable", err)
	}
	s.settled(t)
}

// durableAnswer wants position 7 on disk before the answer's head leaves.
func durableAnswer(e processor.Event) processor.Action {
	switch e.(type) {
	case *processor.ResponseHeaders:
		return &processor.Answer{Durable: 7}
	case *processor.NotDurable:
		return &processor.Deny{Status: 503, Details: "airgate_journal_unavailable"}
	default:
		return pass(e)
	}
}

func TestDurableWait(t *testing.T) {
	t.Run("the reply waits", func(t *testing.T) {
		s := newScript(durableAnswer)
		asked, onDisk := make(chan journal.Position), make(chan struct{})
		b := start(t, extproc.Config{Wait: func(_ context.Context, p journal.Position) error {
			asked <- p
			<-onDisk
			return nil
		}}, s)
		c := b.open(t)
		send(t, c, extproctest.First(answerHead()))
		if got := <-asked; got != 7 {
			t.Errorf("waited for position %d, want 7", got)
		}
		got := make(chan string)
		go func() { got <- recv(t, c) }()
		select {
		case r := <-got:
			t.Errorf("reply %s before the journal was durable", r)
		case <-time.After(5 * time.Millisecond):
		}
		close(onDisk)
		if r := <-got; r != "resh" {
			t.Errorf("reply = %s, want resh", r)
		}
		_ = c.Reset()
		b.stop()
		s.settled(t)
	})
	t.Run("the journal fails", func(t *testing.T) {
		s := newScript(durableAnswer)
		b := start(t, extproc.Config{Wait: func(context.Context, journal.Position) error { return errors.New("disk full") }}, s)
		c := b.open(t)
		send(t, c, extproctest.First(answerHead()))
		if got := recv(t, c); got != "immediate 503" {
			t.Errorf("reply = %s, want immediate 503", got)
		}
		if got := b.metric(t, "airgate_extproc_faults_total", "durable"); got != 1 {
			t.Errorf("faults{durable} = %v, want 1", got)
		}
		_ = c.Reset()
		b.stop()
		s.settled(t)
	})
	t.Run("the watchdog's time is up", func(t *testing.T) {
		s := newScript(durableAnswer)
		b := start(t, extproc.Config{DurableTimeout: 5 * time.Millisecond, Wait: func(ctx context.Context, _ journal.Position) error {
			<-ctx.Done()
			return ctx.Err()
		}}, s)
		c := b.open(t)
		send(t, c, extproctest.First(answerHead()))
		if got := recv(t, c); got != "immediate 503" {
			t.Errorf("reply = %s, want immediate 503", got)
		}
		_ = c.Reset()
		b.stop()
		s.settled(t)
	})
	t.Run("a chunk waits, and is cut where the disk is too slow", func(t *testing.T) {
		s := newScript(duplex(func(e processor.Event) processor.Action {
			switch e := e.(type) {
			case *processor.ResponseBody:
				return &processor.Chunk{Durable: journal.Position(len(e.Chunk))}
			case *processor.NotDurable:
				return &processor.Chunk{Replace: true, Body: []byte("error"), EndOfStream: true, Cut: "journal"}
			default:
				return pass(e)
			}
		}))
		var asked []journal.Position
		b := start(t, extproc.Config{DurableTimeout: 5 * time.Millisecond, Wait: func(ctx context.Context, p journal.Position) error {
			asked = append(asked, p)
			if p < 3 {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}}, s)
		c := b.open(t)
		send(t, c, requestHead(), extproctest.RequestBody([]byte("{}")), answerHead(), chunk("a"), chunk("bb"), chunk("ccc"))
		var replies []string
		for range 6 {
			replies = append(replies, recv(t, c))
		}
		if diff := gocmp.Diff([]string{"reqh", "reqb", "resh FULL_DUPLEX_STREAMED", "resb=a", "resb=bb", "resb=error!"}, replies); diff != "" {
			t.Errorf("replies (-want +got):\n%s", diff)
		}
		_ = c.Reset()
		b.stop()
		s.settled(t)
		if diff := gocmp.Diff([]journal.Position{1, 2, 3}, asked); diff != "" {
			t.Errorf("waited for (-want +got):\n%s", diff)
		}
	})
	t.Run("the caller leaves meanwhile", func(t *testing.T) {
		s := newScript(durableAnswer)
		asked := make(chan struct{})
		b := start(t, extproc.Config{DurableTimeout: time.Second, Wait: func(ctx context.Context, _ journal.Position) error {
			close(asked)
			<-ctx.Done()
			return ctx.Err()
		}, CauseTimeout: time.Millisecond}, s)
		c := b.open(t)
		send(t, c, extproctest.First(answerHead()))
		<-asked
		if err := c.SendAndReset(chunk("a")); err != nil {
			t.Fatal(err)
		}
		want := []string{"resh[via_upstream 1]", "resb[a]"} // and no "not durable"
		if diff := gocmp.Diff(want, s.settled(t)); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	})
}

// As long as Envoy has not ended a stream, the server never ends it with OK,
// whatever is said on it: OK would let the request pass unseen.
func TestNeverOKBeforeEnvoyEnds(t *testing.T) {
	var current atomic.Pointer[script]
	var begun atomic.Bool
	b := start(t, extproc.Config{
		Begin: func(time.Time) extproc.Stream {
			begun.Store(true)
			return current.Load()
		},
		IdleTimeout: 5 * time.Millisecond, DrainTimeout: 5 * time.Millisecond, DurableTimeout: time.Millisecond,
		QueueBytes: 32 << 10, MaxBodyBytes: 1 << 20,
		Wait: func(ctx context.Context, p journal.Position) error {
			switch p {
			case 1:
				return errors.New("no disk")
			case 2:
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		},
	})
	actions := []func(processor.Event) processor.Action{
		pass, pass, pass,
		durableAnswer,
		duplex(pass),
		func(processor.Event) processor.Action { return &processor.Continue{} },
		func(processor.Event) processor.Action { return &processor.Forward{Body: []byte("b")} },
		func(processor.Event) processor.Action { return &processor.Deny{Status: 402} },
		func(processor.Event) processor.Action { return &processor.Deny{} },
		func(processor.Event) processor.Action { return &processor.Answer{Durable: 1} },
		func(processor.Event) processor.Action { return &processor.Answer{Durable: 2} },
		func(processor.Event) processor.Action { return &processor.Answer{Buffer: true} },
		func(processor.Event) processor.Action { return &processor.Chunk{Replace: true, EndOfStream: true} },
		func(processor.Event) processor.Action { return nil },
		func(processor.Event) processor.Action { panic("on purpose") },
	}
	messages := []*extprocv3.ProcessingRequest{
		requestHead(), extproctest.RequestBody([]byte("{}")), answerHead(), chunk("a"), lastChunk("b"), lastChunk(""),
		extproctest.ResponseTrailers(),
		{},
		extproctest.RequestBody(make([]byte, 40<<10)),
	}
	rapid.Check(t, func(t *rapid.T) {
		plan := rapid.SliceOfN(rapid.IntRange(0, len(actions)-1), 1, 12).Draw(t, "actions")
		step := 0
		s := newScript(func(e processor.Event) processor.Action {
			step++
			return actions[plan[step%len(plan)]](e)
		})
		current.Store(s)
		begun.Store(false)
		c, err := b.envoy.Open()
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Send(requestHead())
		for _, m := range rapid.SliceOfN(rapid.SampledFrom(messages), 0, 8).Draw(t, "messages") {
			if c.Send(m) != nil {
				break
			}
		}
		if err := end(c); err == nil {
			t.Fatal("the stream ended with OK although Envoy had not ended it")
		}
		if !begun.Load() {
			return // more came at once than may wait
		}
		<-s.ended
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.closed != 1 || s.finish != 1 {
			t.Fatalf("Close was called %d times and Finish %d times, want once each", s.closed, s.finish)
		}
	})
}

func TestMetrics(t *testing.T) {
	held := make(chan struct{})
	s := newScript(func(e processor.Event) processor.Action {
		if _, ok := e.(*processor.ResponseHeaders); ok {
			<-held
		}
		return pass(e)
	})
	s.clean = true
	b := start(t, extproc.Config{}, s)
	for name, want := range map[string]float64{"airgate_in_path": 0, "airgate_streams": 0, "airgate_decision_seconds": 0} {
		if got := b.metric(t, name, ""); got != want {
			t.Errorf("%s = %v before any request, want %v", name, got, want)
		}
	}
	c := b.open(t)
	send(t, c, requestHead(), extproctest.RequestBody([]byte("{}")), answerHead())
	recv(t, c)
	recv(t, c)
	for name, want := range map[string]float64{"airgate_in_path": 1, "airgate_streams": 1, "airgate_decision_seconds": 1} {
		if got := b.metric(t, name, ""); got != want {
			t.Errorf("%s = %v in a request, want %v", name, got, want)
		}
	}
	close(held)
	recv(t, c)
	_ = c.Reset()
	s.settled(t)
	b.stop()
	if got := b.metric(t, "airgate_streams", ""); got != 0 {
		t.Errorf("airgate_streams = %v at the end, want 0", got)
	}
}

func TestNewRefuses(t *testing.T) {
	whole := extproc.Config{
		Begin: func(time.Time) extproc.Stream { return nil },
		Wait:  func(context.Context, journal.Position) error { return nil },
		Log:   slog.New(slog.DiscardHandler), MaxBodyBytes: 1,
	}
	if _, err := extproc.New(whole); err != nil {
		t.Fatalf("New = %v, want nil", err)
	}
	for title, broken := range map[string]func(c *extproc.Config){
		"no Begin":                     func(c *extproc.Config) { c.Begin = nil },
		"no Wait":                      func(c *extproc.Config) { c.Wait = nil },
		"no Log":                       func(c *extproc.Config) { c.Log = nil },
		"no body limit":                func(c *extproc.Config) { c.MaxBodyBytes = 0 },
		"huge bodies":                  func(c *extproc.Config) { c.MaxBodyBytes = 2 << 30 },
		"a watchdog slower than Envoy": func(c *extproc.Config) { c.DurableTimeout = 5 * time.Second },
	} {
		cfg := whole
		broken(&cfg)
		if _, err := extproc.New(cfg); err == nil {
			t.Errorf("%s: New = nil error, want one", title)
		}
	}
}
