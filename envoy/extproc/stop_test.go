package extproc_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	dataaccesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/structpb"

	"airgate/envoy/accesslog"
	"airgate/envoy/extproc"
	"airgate/envoy/extproc/extproctest"
	"airgate/processor"
)

func newSink(tb testing.TB) *accesslog.Sink {
	tb.Helper()
	sink, err := accesslog.New(accesslog.Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	return sink
}

// dial is a plain gRPC client of the same socket.
func (b *bench) dial(tb testing.TB) *grpc.ClientConn {
	tb.Helper()
	conn, err := grpc.NewClient(b.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	return conn
}

// logEntry is Envoy's entry of a request whose HTTP/1 client went away.
func logEntry(id string) *accesslogv3.StreamAccessLogsMessage {
	return &accesslogv3.StreamAccessLogsMessage{LogEntries: &accesslogv3.StreamAccessLogsMessage_HttpLogs{
		HttpLogs: &accesslogv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: []*dataaccesslogv3.HTTPAccessLogEntry{{
			CommonProperties: &dataaccesslogv3.AccessLogCommon{
				ResponseFlags: &dataaccesslogv3.ResponseFlags{DownstreamConnectionTermination: true},
				Metadata: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
					"airgate": {Fields: map[string]*structpb.Value{"request_id": structpb.NewStringValue(id)}},
				}},
			},
			Response: &dataaccesslogv3.HTTPResponseProperties{ResponseCodeDetails: "downstream_remote_disconnect"},
		}}},
	}}
}

// The access log and health checks come over the same socket as ext_proc,
// whose messages have a codec of their own.
func TestUncleanEndGetsItsCause(t *testing.T) {
	s := newScript(nil)
	b := start(t, extproc.Config{Causes: newSink(t)}, s)
	conn := b.dial(t)
	log, err := accesslogv3.NewAccessLogServiceClient(conn).StreamAccessLogs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	reply, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil || reply.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("health = %v, %v, want SERVING", reply.GetStatus(), err)
	}

	c := b.open(t)
	send(t, c, requestHead())
	recv(t, c)
	if err := c.Reset(); err != nil {
		t.Fatal(err)
	}
	if err := log.Send(logEntry(s.RequestID())); err != nil {
		t.Fatal(err)
	}
	s.settled(t)
	want := processor.Cause{Details: "downstream_remote_disconnect", Flags: "DC"}
	if s.cause != want {
		t.Errorf("cause = %+v, want %+v", s.cause, want)
	}
}

// When airgate itself ends a stream with an error, Envoy must hear of it at
// once: there is no entry to wait for.
func TestOwnFaultDoesNotWaitForACause(t *testing.T) {
	s := newScript(func(processor.Event) processor.Action { return nil })
	b := start(t, extproc.Config{Causes: newSink(t), CauseTimeout: time.Hour}, s)
	c := b.open(t)
	send(t, c, requestHead())
	if end(c) == nil {
		t.Error("status = OK, want an error")
	}
	s.settled(t)
}

func TestStopWaitsForRequests(t *testing.T) {
	s := newScript(nil)
	b := start(t, extproc.Config{Causes: newSink(t)}, s)
	s.clean = true
	// Envoy keeps this stream open for as long as it lives.
	log, err := accesslogv3.NewAccessLogServiceClient(b.dial(t)).StreamAccessLogs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Send(&accesslogv3.StreamAccessLogsMessage{}); err != nil {
		t.Fatal(err)
	}
	c := b.open(t)
	send(t, c, requestHead())
	recv(t, c)

	stopped := make(chan error, 1)
	go func() { stopped <- b.server.Stop(t.Context()) }()
	// The request goes on as if nothing had happened.
	send(t, c, extproctest.RequestBody([]byte("{}")), answerHead(), lastChunk("a"))
	for _, want := range []string{"reqb", "resh", "resb"} {
		if got := recv(t, c); got != want {
			t.Errorf("reply while stopping = %s, want %s", got, want)
		}
	}
	select {
	case err := <-stopped:
		t.Errorf("Stop = %v before the request had ended", err)
	default:
	}
	if err := c.Reset(); err != nil {
		t.Fatal(err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Stop = %v, want nil", err)
	}
	s.settled(t)
}

func TestStopIsBounded(t *testing.T) {
	s := newScript(nil)
	b := start(t, extproc.Config{Causes: newSink(t), CauseTimeout: time.Hour}, s)
	c := b.open(t)
	send(t, c, requestHead())
	recv(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := b.server.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Stop = %v, want %v", err, context.DeadlineExceeded)
	}
	// Cut, and settled before Stop returned.
	if s.finish != 1 {
		t.Errorf("Finish was called %d times when Stop returned, want once", s.finish)
	}
	if end(c) == nil {
		t.Error("the cut stream ended with OK")
	}
}
