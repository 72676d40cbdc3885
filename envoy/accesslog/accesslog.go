// Package accesslog receives Envoy's access log over gRPC. It answers: why did
// this request end? A client that leaves, a provider that resets and a timeout
// all look the same to ext_proc; only Envoy's log entry tells them apart.
//
// An entry is joined with its request by the dynamic metadata that airgate set
// on it. It comes within about a millisecond of the end of the ext_proc stream,
// before or after it, and may not come at all: Envoy loses entries while airgate
// is down. So nothing may depend on one.
package accesslog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	dataaccesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"airgate/envoy/xds"
	"airgate/processor"
)

// Config configures a Sink.
type Config struct {
	Log        *slog.Logger          // required
	Registerer prometheus.Registerer // nil = no metrics
	// Keep is how many entries that nobody has asked for yet are held; the oldest
	// goes first. 0 = 4096.
	Keep int
	// KeepFor is how long one is held; 0 = 5 s.
	KeepFor time.Duration
}

// Sink is Envoy's access-log service and what came of it. Safe for concurrent
// use.
type Sink struct {
	accesslogv3.UnimplementedAccessLogServiceServer
	log     *slog.Logger
	keepFor time.Duration
	entries prometheus.Counter
	strange prometheus.Counter
	closing chan struct{} // closed by Close
	readers sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	waiters map[string]chan<- processor.Cause // :: request id → who wants it
	known   map[string]int                    // :: request id → index in ring
	ring    []entry                           // by arrival; full when len == cap
	next    int                               // where the next entry goes once the ring is full
}

type entry struct {
	id      string // "" = taken
	cause   processor.Cause
	arrived time.Time
}

// New checks cfg and returns a Sink, to be registered on the ext_proc server.
func New(cfg Config) (*Sink, error) {
	if cfg.Log == nil {
		return nil, errors.New("accesslog: config lacks Log")
	}
	if cfg.Keep < 0 || cfg.KeepFor < 0 {
		return nil, errors.New("accesslog: Keep and KeepFor must not be negative")
	}
	if cfg.Keep == 0 {
		cfg.Keep = 4096
	}
	if cfg.KeepFor == 0 {
		cfg.KeepFor = 5 * time.Second
	}
	s := &Sink{
		log: cfg.Log, keepFor: cfg.KeepFor, closing: make(chan struct{}),
		waiters: map[string]chan<- processor.Cause{}, known: map[string]int{}, ring: make([]entry, 0, cfg.Keep),
		entries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "airgate_accesslog_entries_total", Help: "Access-log entries of requests that airgate took part in.",
		}),
		strange: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "airgate_accesslog_foreign_entries_total", Help: "Access-log entries without airgate's request id.",
		}),
	}
	if cfg.Registerer == nil {
		return s, nil
	}
	for _, c := range []prometheus.Collector{s.entries, s.strange} {
		if err := cfg.Registerer.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return s, nil
}

// StreamAccessLogs implements accesslogv3.AccessLogServiceServer. Envoy keeps
// the stream open for as long as it lives; Close ends it.
func (s *Sink) StreamAccessLogs(stream accesslogv3.AccessLogService_StreamAccessLogsServer) error {
	ended := make(chan error, 1)
	s.mu.Lock()
	if !s.closed {
		// Recv returns when the handler does, at the latest; Close waits.
		s.readers.Go(func() { ended <- s.receive(stream) })
	}
	s.mu.Unlock()
	select {
	case err := <-ended:
		return err
	case <-s.closing:
		return status.Error(codes.Unavailable, "airgate: shutting down")
	}
}

func (s *Sink) receive(stream accesslogv3.AccessLogService_StreamAccessLogsServer) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err //nolint:wrapcheck // the end of the stream, already a status
		}
		for _, e := range m.GetHttpLogs().GetLogEntry() {
			s.add(e, time.Now())
		}
	}
}

// add takes one entry of a finished request.
func (s *Sink) add(e *dataaccesslogv3.HTTPAccessLogEntry, now time.Time) {
	p := e.GetCommonProperties()
	switch p.GetAccessLogType() {
	case dataaccesslogv3.AccessLogType_NotSet, dataaccesslogv3.AccessLogType_DownstreamEnd:
	default:
		return // one attempt, or a request that goes on
	}
	id := p.GetMetadata().GetFilterMetadata()[xds.MetadataNamespace].GetFields()[xds.RequestIDKey].GetStringValue()
	if id == "" {
		s.strange.Inc()
		return
	}
	s.entries.Inc()
	s.deliver(id, processor.Cause{
		Details:  clip(e.GetResponse().GetResponseCodeDetails()),
		Flags:    flags(p.GetResponseFlags()),
		Status:   int(e.GetResponse().GetResponseCode().GetValue()),
		Attempts: int(p.GetUpstreamRequestAttemptCount()),
	}, now)
}

// maxDetails bounds a text that may quote a peer.
const maxDetails = 256

func clip(s string) string { return s[:min(len(s), maxDetails)] }

// deliver gives c to who waits for it, or keeps it.
func (s *Sink) deliver(id string, c processor.Cause, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w, ok := s.waiters[id]; ok {
		delete(s.waiters, id)
		w <- c // has room for it
		return
	}
	if i, ok := s.known[id]; ok {
		s.ring[i] = entry{id: id, cause: c, arrived: now}
		return
	}
	e := entry{id: id, cause: c, arrived: now}
	if len(s.ring) < cap(s.ring) {
		s.known[id] = len(s.ring)
		s.ring = append(s.ring, e)
		return
	}
	if old := s.ring[s.next].id; old != "" {
		delete(s.known, old)
	}
	s.known[id] = s.next
	s.ring[s.next] = e
	s.next = (s.next + 1) % len(s.ring)
}

// Wait returns why the request of this id ended, as soon as Envoy has said it;
// false when ctx ends first or the Sink is closed. A cause is given out once.
func (s *Sink) Wait(ctx context.Context, id string) (processor.Cause, bool) {
	c := make(chan processor.Cause, 1)
	s.mu.Lock()
	if i, ok := s.known[id]; ok {
		e := s.ring[i]
		delete(s.known, id)
		s.ring[i] = entry{}
		s.mu.Unlock()
		return e.cause, time.Since(e.arrived) < s.keepFor
	}
	s.waiters[id] = c
	s.mu.Unlock()

	select {
	case cause := <-c:
		return cause, true
	case <-ctx.Done():
	case <-s.closing:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case cause := <-c: // it came at the last moment
		return cause, true
	default:
		delete(s.waiters, id)
		return processor.Cause{}, false
	}
}

// Close ends Envoy's streams and all waits. It is idempotent and returns when
// no goroutine of the Sink is left; the gRPC server must still be running or
// stopping, so that the handlers can return.
func (s *Sink) Close() {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.closing)
	}
	s.mu.Unlock()
	s.readers.Wait()
}
