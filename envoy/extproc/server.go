package extproc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"airgate/accounting/journal"
	"airgate/envoy/accesslog"
	"airgate/envoy/xds"
	"airgate/processor"
)

// Stream is one request's life: *processor.Stream. All methods are called from
// one goroutine; none is called after Finish.
type Stream interface {
	RequestID() string
	// Step returns the one action that answers e; the action is valid until the
	// next Step.
	Step(e processor.Event) processor.Action
	// After is called once the reply to a Step is on its way; the bytes of that
	// Step's event are still there.
	After()
	// Close settles the request and reports whether Envoy's word on why it ended
	// is wanted; byEnvoy is false if this server broke the stream off. It is called once.
	Close(now time.Time, byEnvoy bool) (wantCause bool)
	// Finish is called once, after Close, on every path.
	Finish(now time.Time, c processor.Cause)
}

// Config configures a Server. Begin, Wait, MaxBodyBytes and Log are required.
type Config struct {
	// Begin starts the life of one request. Safe for concurrent use.
	Begin func(now time.Time) Stream
	// Wait returns once the journal has p as safely as it promises
	// (journal.Writer). Safe for concurrent use.
	Wait func(ctx context.Context, p journal.Position) error
	// Causes is Envoy's access log, served on the same listener; nil = requests
	// that end unclean are settled without a cause.
	Causes *accesslog.Sink
	// MaxBodyBytes is the largest request body that callers may send. Messages
	// up to twice that size are read, so that airgate and not gRPC refuses the
	// larger ones.
	MaxBodyBytes int64
	Log          *slog.Logger
	Registerer   prometheus.Registerer // nil = no metrics

	// DurableTimeout bounds the wait for the journal; 0 = 2 s. It must stay well
	// below Envoy's message timeout (xds.MessageTimeout).
	DurableTimeout time.Duration
	// CauseTimeout bounds the wait for Envoy's access-log entry; 0 = 250 ms.
	CauseTimeout time.Duration
	// IdleTimeout ends a stream that Envoy has forgotten: one on which nothing
	// has come for so long. It must exceed the longest request that Envoy allows,
	// 2 h in airgate's bootstrap. 0 = 130 min.
	IdleTimeout time.Duration
	// DrainTimeout bounds how long a stream may stay open after airgate has said
	// its last word on it; 0 = 30 s.
	DrainTimeout time.Duration
	// QueueBytes bounds what waits on one stream to be read; 0 = twice
	// MaxBodyBytes.
	QueueBytes int
}

// Server is the ext_proc service, with the access log and gRPC health checking
// beside it. Safe for concurrent use.
type Server struct {
	cfg     Config
	modes   bodyModes // what Envoy must say in its first message
	grpc    *grpc.Server
	health  *health.Server
	encoder *encoder
	metrics *metrics
	readers sync.WaitGroup // the goroutines that drain Recv

	last   atomic.Int64         // Unix nanoseconds of the last request
	logged [faults]atomic.Int64 // Unix seconds of each fault's last log line

	mu       sync.Mutex
	open     int // ext_proc streams
	draining bool
	drained  chan struct{} // closed when draining and open is 0
}

const (
	mebibyte      = 1 << 20
	minMessage    = 4 * mebibyte // headers, small bodies and HTTP/2's overshoot of Envoy's limit
	logInterval   = time.Minute  // between two log lines of one kind of fault
	keepaliveTime = 5 * time.Second
)

// New checks cfg and returns a Server that is not yet listening.
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.Begin == nil, cfg.Wait == nil, cfg.Log == nil:
		return nil, errors.New("extproc: config lacks Begin, Wait or Log")
	case cfg.MaxBodyBytes <= 0, cfg.MaxBodyBytes > 1<<30:
		return nil, fmt.Errorf("extproc: MaxBodyBytes is %d; it must be between 1 and 1 GiB", cfg.MaxBodyBytes)
	case cfg.DurableTimeout >= xds.MessageTimeout:
		return nil, fmt.Errorf("extproc: DurableTimeout %s must be shorter than Envoy's message timeout %s", cfg.DurableTimeout, xds.MessageTimeout)
	}
	maxMessage := int(max(2*cfg.MaxBodyBytes, minMessage))
	defaultTo(&cfg.DurableTimeout, 2*time.Second)
	defaultTo(&cfg.CauseTimeout, 250*time.Millisecond)
	defaultTo(&cfg.IdleTimeout, 130*time.Minute)
	defaultTo(&cfg.DrainTimeout, 30*time.Second)
	defaultTo(&cfg.QueueBytes, maxMessage+frameCost)

	pool := &buffers{}
	codec, err := newCodec(pool)
	if err != nil {
		return nil, err
	}
	encoder, err := newEncoder(pool)
	if err != nil {
		return nil, err
	}
	mode := xds.ProcessingMode()
	s := &Server{
		cfg:     cfg,
		modes:   bodyModes{request: uint64(mode.GetRequestBodyMode()), response: uint64(mode.GetResponseBodyMode())},
		health:  health.NewServer(),
		encoder: encoder,
		drained: make(chan struct{}),
		grpc: grpc.NewServer(
			grpc.ForceServerCodecV2(codec),
			grpc.MaxRecvMsgSize(maxMessage),
			// grpc-go answers pings that come more often than every five minutes
			// with GOAWAY; Envoy's keepalive is shorter.
			grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveTime, PermitWithoutStream: true}),
			grpc.WaitForHandlers(true),
		),
	}
	s.metrics, err = newMetrics(cfg.Registerer, func() time.Time { return time.Unix(0, s.last.Load()) })
	if err != nil {
		return nil, err
	}
	s.grpc.RegisterService(&service, s)
	if cfg.Causes != nil {
		accesslogv3.RegisterAccessLogServiceServer(s.grpc, cfg.Causes)
	}
	healthv1.RegisterHealthServer(s.grpc, s.health)
	return s, nil
}

func defaultTo[T int | time.Duration](v *T, otherwise T) {
	if *v == 0 {
		*v = otherwise
	}
}

// service is envoy.service.ext_proc.v3.ExternalProcessor. The generated one
// would decode every message into Go structs.
var service = grpc.ServiceDesc{ //nolint:gochecknoglobals // an immutable table
	ServiceName: "envoy.service.ext_proc.v3.ExternalProcessor",
	HandlerType: (*any)(nil),
	Streams: []grpc.StreamDesc{{
		StreamName:    "Process",
		Handler:       func(s any, rpc grpc.ServerStream) error { return s.(*Server).process(rpc) },
		ServerStreams: true,
		ClientStreams: true,
	}},
	Metadata: "envoy/service/ext_proc/v3/external_processor.proto",
}

// Serve accepts Envoy's connections on l until Stop; then it returns nil. It
// closes l.
func (s *Server) Serve(l net.Listener) error {
	if err := s.grpc.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve ext_proc: %w", err)
	}
	return nil
}

// Stop stops listening, lets the requests in flight end, and returns when all
// are settled. When ctx ends first they are cut and settled, and the error says
// so. It is called once.
func (s *Server) Stop(ctx context.Context) error {
	s.health.Shutdown()
	graceful := make(chan struct{})
	go func() {
		defer close(graceful)
		s.grpc.GracefulStop()
	}()

	s.mu.Lock()
	s.draining = true
	s.drainedLocked()
	s.mu.Unlock()
	var err error
	select {
	case <-s.drained:
	case <-ctx.Done():
	}
	// Envoy never ends its access-log stream by itself; the last causes are in.
	if s.cfg.Causes != nil {
		s.cfg.Causes.Close()
	}
	select {
	case <-graceful:
	case <-ctx.Done():
		err = fmt.Errorf("drain requests: %w", ctx.Err())
		s.grpc.Stop()
		<-graceful
	}
	s.readers.Wait()
	return err
}

// drainedLocked tells Stop that the last stream is gone.
func (s *Server) drainedLocked() {
	if !s.draining || s.open > 0 {
		return
	}
	select {
	case <-s.drained:
	default:
		close(s.drained)
	}
}

// process is one gRPC stream: one HTTP request.
func (s *Server) process(rpc grpc.ServerStream) error {
	s.mu.Lock()
	s.open++
	s.mu.Unlock()
	s.metrics.streams.Inc()
	defer func() {
		s.metrics.streams.Dec()
		s.mu.Lock()
		s.open--
		s.drainedLocked()
		s.mu.Unlock()
	}()

	x := newExchange(s, rpc)
	// The reader ends when this handler returns, at the latest; Stop waits.
	s.readers.Go(x.read)
	return x.serve()
}

// fail counts a fault, tells the operator once a minute, and returns what Envoy
// gets to see: never OK.
func (s *Server) fail(f fault, code codes.Code, err error) error {
	s.metrics.faults[f].Inc()
	if s.mayLog(f) {
		s.cfg.Log.Error("ext_proc fault", slog.String("fault", f.String()), slog.Any("error", err))
	}
	return status.Error(code, "airgate: "+err.Error())
}

func (s *Server) mayLog(f fault) bool {
	now := time.Now().Unix()
	last := s.logged[f].Load()
	return now-last >= int64(logInterval/time.Second) && s.logged[f].CompareAndSwap(last, now)
}

// panicked counts a recovered panic. Its value may quote a request, so only
// what the runtime says is logged, and the stack.
func (s *Server) panicked(v any) error {
	s.metrics.faults[faultPanic].Inc()
	what := fmt.Sprintf("%T", v)
	var err runtime.Error
	if e, ok := v.(error); ok && errors.As(e, &err) {
		what = err.Error()
	}
	if s.mayLog(faultPanic) {
		s.cfg.Log.Error("panic in a request", slog.String("panic", what), slog.String("stack", string(debug.Stack())))
	}
	return status.Error(codes.Internal, "airgate: internal error")
}
