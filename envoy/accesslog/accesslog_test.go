package accesslog

import (
	"context"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	dataaccesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"airgate/processor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newSink(tb testing.TB, cfg Config) *Sink {
	tb.Helper()
	cfg.Log = slog.New(slog.DiscardHandler)
	s, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// past is a context that has ended: Wait only looks.
func past(tb testing.TB) context.Context {
	tb.Helper()
	ctx, cancel := context.WithCancel(tb.Context())
	cancel()
	return ctx
}

func of(id string, f *dataaccesslogv3.ResponseFlags, details string) *dataaccesslogv3.HTTPAccessLogEntry {
	return &dataaccesslogv3.HTTPAccessLogEntry{
		CommonProperties: &dataaccesslogv3.AccessLogCommon{
			ResponseFlags: f, UpstreamRequestAttemptCount: 2,
			Metadata: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
				"airgate": {Fields: map[string]*structpb.Value{"request_id": structpb.NewStringValue(id)}},
			}},
		},
		Response: &dataaccesslogv3.HTTPResponseProperties{ResponseCode: wrapperspb.UInt32(200), ResponseCodeDetails: details},
	}
}

func TestEntryBeforeAndAfterTheWaiter(t *testing.T) {
	want := processor.Cause{Details: "downstream_remote_disconnect", Flags: "DC", Status: 200, Attempts: 2}
	entry := of("a", &dataaccesslogv3.ResponseFlags{DownstreamConnectionTermination: true}, want.Details)
	s := newSink(t, Config{})

	s.add(entry, time.Now())
	if got, ok := s.Wait(past(t), "a"); !ok || got != want {
		t.Errorf("Wait after the entry = %+v, %t, want %+v", got, ok, want)
	}
	if got, ok := s.Wait(past(t), "a"); ok {
		t.Errorf("Wait for a cause that was given out = %+v, want none", got)
	}

	type answer struct {
		cause processor.Cause
		ok    bool
	}
	answers := make(chan answer)
	go func() {
		cause, ok := s.Wait(t.Context(), "a")
		answers <- answer{cause, ok}
	}()
	for waiting := false; !waiting; {
		s.mu.Lock()
		_, waiting = s.waiters["a"]
		s.mu.Unlock()
	}
	s.add(of("b", nil, "via_upstream"), time.Now())
	s.add(entry, time.Now())
	if got := <-answers; !got.ok || got.cause != want {
		t.Errorf("Wait before the entry = %+v, want %+v", got, want)
	}
	if _, ok := s.Wait(past(t), "b"); !ok {
		t.Error("another request's entry is gone")
	}
	if len(s.waiters) != 0 || len(s.known) != 0 {
		t.Errorf("%d waiters and %d entries are left, want none", len(s.waiters), len(s.known))
	}
}

func TestEntriesThatAreNoEnd(t *testing.T) {
	s := newSink(t, Config{})
	for _, typ := range []dataaccesslogv3.AccessLogType{
		dataaccesslogv3.AccessLogType_DownstreamStart, dataaccesslogv3.AccessLogType_DownstreamPeriodic,
		dataaccesslogv3.AccessLogType_UpstreamEnd, dataaccesslogv3.AccessLogType_UpstreamPoolReady,
	} {
		e := of("a", nil, "")
		e.CommonProperties.AccessLogType = typ
		s.add(e, time.Now())
		if _, ok := s.Wait(past(t), "a"); ok {
			t.Errorf("an entry of type %v was taken as an end", typ)
		}
	}
	foreign := of("a", nil, "")
	foreign.CommonProperties.Metadata = nil
	s.add(foreign, time.Now())
	s.add(&dataaccesslogv3.HTTPAccessLogEntry{}, time.Now())
	if len(s.ring) != 0 {
		t.Errorf("%d entries are kept, want none", len(s.ring))
	}
}

// What nobody asks for is forgotten: by number, and by age.
func TestUnclaimedEntriesAreBounded(t *testing.T) {
	s := newSink(t, Config{Keep: 3})
	for i := range 10 {
		s.add(of(strconv.Itoa(i), nil, "via_upstream"), time.Now())
		s.add(of(strconv.Itoa(i), nil, "via_upstream"), time.Now()) // twice: one place
	}
	if len(s.known) != 3 || len(s.ring) != 3 {
		t.Errorf("%d ids and %d entries are kept, want 3", len(s.known), len(s.ring))
	}
	for i, want := range map[int]bool{0: false, 6: false, 7: true, 8: true, 9: true} {
		if _, ok := s.Wait(past(t), strconv.Itoa(i)); ok != want {
			t.Errorf("Wait(%d) = %t, want %t", i, ok, want)
		}
	}
	s.add(of("new", nil, ""), time.Now()) // into the place of one that was taken
	s.add(of("old", nil, ""), time.Now().Add(-6*time.Second))
	if _, ok := s.Wait(past(t), "old"); ok {
		t.Error("an entry of 6 s ago was given out, want none older than 5 s")
	}
	if _, ok := s.Wait(past(t), "new"); !ok {
		t.Error("the newest entry is gone")
	}
}

func TestLongDetailsAreClipped(t *testing.T) {
	s := newSink(t, Config{})
	s.add(of("a", nil, strings.Repeat("x", 10_000)), time.Now())
	if got, _ := s.Wait(past(t), "a"); len(got.Details) != maxDetails {
		t.Errorf("details have %d bytes, want %d", len(got.Details), maxDetails)
	}
}

// Every flag that Envoy knows has its short name; one that a new version adds
// fails here.
func TestFlags(t *testing.T) {
	fields := (&dataaccesslogv3.ResponseFlags{}).ProtoReflect().Descriptor().Fields()
	seen := map[string]protoreflect.Name{}
	for i := range fields.Len() {
		field := fields.Get(i)
		f := &dataaccesslogv3.ResponseFlags{}
		if field.Kind() == protoreflect.BoolKind {
			f.ProtoReflect().Set(field, protoreflect.ValueOfBool(true))
		} else {
			f.UnauthorizedDetails = &dataaccesslogv3.ResponseFlags_Unauthorized{}
		}
		short := flags(f)
		if short == "" || seen[short] != "" {
			t.Errorf("flags(%s) = %q, want a name of its own", field.Name(), short)
		}
		seen[short] = field.Name()
	}
	// As observed (ends of streams) and as documented for %RESPONSE_FLAGS%.
	for short, want := range map[string]protoreflect.Name{
		"DC": "downstream_connection_termination", "DR": "downstream_remote_reset", "UPE": "upstream_protocol_error",
		"SI": "stream_idle_timeout", "UT": "upstream_request_timeout", "UF": "upstream_connection_failure",
		"UC": "upstream_connection_termination", "UO": "upstream_overflow", "UH": "no_healthy_upstream",
		"URX": "upstream_retry_limit_exceeded", "NR": "no_route_found",
	} {
		if seen[short] != want {
			t.Errorf("%s is %s, want %s", short, seen[short], want)
		}
	}
	if got := flags(&dataaccesslogv3.ResponseFlags{UpstreamRetryLimitExceeded: true, UpstreamConnectionFailure: true}); got != "UF,URX" {
		t.Errorf("flags(UF and URX) = %q, want UF,URX", got)
	}
	if got := flags(nil); got != "" {
		t.Errorf("flags(nil) = %q, want none", got)
	}
}

func TestWaitersAndEntriesInAnyOrder(t *testing.T) {
	s := newSink(t, Config{})
	var all sync.WaitGroup
	for i := range 200 {
		id := strconv.Itoa(i)
		all.Go(func() { s.add(of(id, nil, id), time.Now()) })
		all.Go(func() {
			if got, ok := s.Wait(t.Context(), id); !ok || got.Details != id {
				t.Errorf("Wait(%s) = %+v, %t", id, got, ok)
			}
		})
	}
	all.Wait()
}

func TestStream(t *testing.T) {
	r := prometheus.NewRegistry()
	s := newSink(t, Config{Registerer: r})
	l := bufconn.Listen(1 << 16)
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	accesslogv3.RegisterAccessLogServiceServer(server, s)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:bufconn", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := accesslogv3.NewAccessLogServiceClient(conn).StreamAccessLogs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(&accesslogv3.StreamAccessLogsMessage{LogEntries: &accesslogv3.StreamAccessLogsMessage_HttpLogs{
		HttpLogs: &accesslogv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: []*dataaccesslogv3.HTTPAccessLogEntry{
			{}, of("a", nil, "max_duration_timeout"),
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := s.Wait(t.Context(), "a"); !ok || got.Details != "max_duration_timeout" {
		t.Errorf("Wait = %+v, %t, want max_duration_timeout", got, ok)
	}

	// Close ends the stream, which Envoy would keep, and every wait.
	waited := make(chan bool)
	go func() {
		_, ok := s.Wait(t.Context(), "never")
		waited <- ok
	}()
	s.Close()
	s.Close()
	if <-waited {
		t.Error("Wait = true after Close, want false")
	}
	if _, err := stream.CloseAndRecv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended with %v, want Unavailable", err)
	}
	second, err := accesslogv3.NewAccessLogServiceClient(conn).StreamAccessLogs(t.Context())
	if err == nil {
		_, err = second.CloseAndRecv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("a stream after Close ended with %v, want Unavailable", err)
	}
	_ = conn.Close()
	server.Stop()
	<-served

	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if got := f.GetMetric()[0].GetCounter().GetValue(); got != 1 {
			t.Errorf("%s = %v, want 1", f.GetName(), got)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for name, cfg := range map[string]Config{"no log": {}, "negative number": {Log: log, Keep: -1}, "negative age": {Log: log, KeepFor: -1}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: New = nil error, want one", name)
		}
	}
}
