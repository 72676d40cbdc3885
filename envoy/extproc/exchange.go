package extproc

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"airgate/accounting/journal"
	"airgate/processor"
)

// errDrift says that somebody edited Envoy's configuration.
var errDrift = errors.New("the ext_proc filter has other modes than airgate's bootstrap; make the bootstrap anew")

// exchange is one gRPC stream. All but queue belongs to the handler's
// goroutine.
type exchange struct {
	server *Server
	rpc    grpc.ServerStream
	queue  *queue
	timer  *time.Timer

	request Stream // nil until the first message
	message message
	duplex  bool          // the answer's body is in FULL_DUPLEX_STREAMED
	over    time.Time     // when the last word was said; zero = not yet
	lost    bool          // nothing can be sent any more; what came is still read
	spent   time.Duration // on the decision
	decided bool
	reply   reply

	// The events are reused.
	requestHeaders   processor.RequestHeaders
	requestBody      processor.RequestBody
	responseHeaders  processor.ResponseHeaders
	responseBody     processor.ResponseBody
	responseTrailers processor.ResponseTrailers
}

func newExchange(s *Server, rpc grpc.ServerStream) *exchange {
	timer := time.NewTimer(s.cfg.IdleTimeout)
	return &exchange{server: s, rpc: rpc, queue: newQueue(s.cfg.QueueBytes), timer: timer}
}

// read drains Recv into the queue until the stream ends.
func (x *exchange) read() {
	defer func() {
		if v := recover(); v != nil {
			x.queue.end(x.server.panicked(v))
		}
	}()
	var w wire
	for {
		if err := x.rpc.RecvMsg(&w); err != nil {
			x.queue.end(err)
			return
		}
		if !x.queue.push(frame{data: w.data, received: time.Now()}) {
			return
		}
	}
}

// serve answers messages until the stream ends. It returns nil only if Envoy
// ended it.
func (x *exchange) serve() (err error) {
	defer x.timer.Stop()
	defer x.queue.close()
	defer func() {
		if v := recover(); v != nil {
			err = x.server.panicked(v)
		}
		if fault := x.settle(err == nil); fault != nil {
			err = fault
		}
	}()
	for {
		f, err := x.queue.pop(x.timer, x.patience())
		if err != nil {
			return x.ended(err)
		}
		if x.over.IsZero() {
			if err := x.take(&f); err != nil {
				return err
			}
		} else if x.patience() == 0 {
			return x.ended(errIdle)
		}
		f.data.Free()
	}
}

// patience is how long to wait for the next message.
func (x *exchange) patience() time.Duration {
	if x.over.IsZero() {
		return x.server.cfg.IdleTimeout
	}
	return max(0, time.Until(x.over.Add(x.server.cfg.DrainTimeout)))
}

// ended turns the end of Recv into the status of the stream.
func (x *exchange) ended(err error) error {
	code := status.Code(err)
	switch {
	case errors.Is(err, io.EOF), code == codes.Canceled:
		return nil // Envoy ended the stream: only here is OK no bypass
	case errors.Is(err, errOverflow):
		return x.server.fail(faultQueue, codes.ResourceExhausted, err)
	case errors.Is(err, errIdle):
		return x.server.fail(faultIdle, codes.Unavailable, err)
	case code == codes.ResourceExhausted:
		return x.server.fail(faultMessage, code, errors.New("a message is larger than twice the body limit"))
	case code == codes.OK, code == codes.Unknown:
		return status.Error(codes.Unavailable, "airgate: the stream broke")
	}
	return err
}

// take answers one message.
func (x *exchange) take(f *frame) error {
	m := &x.message
	if err := m.decode(f.data.ReadOnlyData()); err != nil {
		return x.server.fail(faultMessage, codes.Internal, err)
	}
	if x.request == nil {
		if !m.told || m.observe || m.modes != x.server.modes {
			return x.server.fail(faultDrift, codes.FailedPrecondition, errDrift)
		}
		x.server.last.Store(f.received.UnixNano())
		x.request = x.server.cfg.Begin(f.received)
	}
	event := x.event(f.received)
	if event == nil {
		return x.server.fail(faultMessage, codes.Internal, errNoKind)
	}
	action := x.step(event)
	x.clock(f.received, action)
	if err := x.answer(action); err != nil {
		return x.server.fail(faultAction, codes.Internal, err)
	}
	x.request.After()
	x.requestBody.Body, m.body = nil, nil // an answer must not keep its request in memory
	return nil
}

// event is the message in the processor's words; nil = there is no word for it.
func (x *exchange) event(now time.Time) processor.Event {
	m := &x.message
	switch m.kind {
	case requestHeaders:
		x.requestHeaders = processor.RequestHeaders{Headers: m.headers, EndOfStream: m.end, Source: m.source, Now: now}
		return &x.requestHeaders
	case requestBody:
		x.requestBody = processor.RequestBody{Body: m.body, Now: now}
		return &x.requestBody
	case responseHeaders:
		x.responseHeaders = processor.ResponseHeaders{Headers: m.headers, EndOfStream: m.end, Details: m.details, Attempts: m.attempts, Now: now}
		return &x.responseHeaders
	case responseBody:
		x.responseBody = processor.ResponseBody{Chunk: m.body, EndOfStream: m.end, Now: now}
		return &x.responseBody
	case responseTrailers:
		x.responseTrailers = processor.ResponseTrailers{Now: now}
		return &x.responseTrailers
	case requestTrailers: // mode SKIP
	}
	return nil
}

// step returns the action for event, waiting where it must be durable first.
func (x *exchange) step(event processor.Event) processor.Action {
	ctx := x.rpc.Context()
	action := x.request.Step(event)
	var position journal.Position
	switch a := action.(type) {
	case *processor.Answer:
		position = a.Durable
	case *processor.Deny:
		position = a.Durable
	case *processor.Chunk:
		position = a.Durable
	case *processor.Continue, *processor.Forward:
	}
	if position == 0 {
		return action
	}
	err := x.durable(ctx, position)
	if err == nil {
		return action
	}
	if ctx.Err() != nil {
		// Envoy has gone: nobody hears the answer, and the journal is not at
		// fault. What else arrived is still read.
		x.lost = true
		return action
	}
	_ = x.server.fail(faultDurable, codes.Unavailable, err)
	return x.request.Step(&processor.NotDurable{Now: time.Now()})
}

func (x *exchange) durable(ctx context.Context, p journal.Position) error {
	ctx, cancel := context.WithTimeout(ctx, x.server.cfg.DurableTimeout)
	defer cancel()
	return x.server.cfg.Wait(ctx, p)
}

// clock measures what the decision on the request took. The upload is between
// two messages and does not count.
func (x *exchange) clock(received time.Time, action processor.Action) {
	if x.decided {
		return
	}
	x.spent += time.Since(received)
	switch action.(type) {
	case *processor.Forward, *processor.Deny:
		x.server.metrics.decision.Observe(x.spent.Seconds())
		x.decided = true
	case *processor.Answer:
		x.decided = true // Envoy has answered the request itself
	case *processor.Continue, *processor.Chunk:
	}
}

// answer says action in Envoy's words.
func (x *exchange) answer(action processor.Action) error {
	m, e := &x.message, x.server.encoder
	var data mem.BufferSlice
	var err error
	switch a := action.(type) {
	case *processor.Continue:
		if x.duplex && m.kind == responseBody {
			return errWrongAction // would leave the chunk behind
		}
		data = e.pass(m.kind, a.Metadata)
	case *processor.Forward:
		data, err = e.forward(m.kind, a)
	case *processor.Deny:
		data, err = e.deny(a)
		x.over = time.Now()
	case *processor.Answer:
		if m.kind != responseHeaders {
			return errWrongAction
		}
		data, err = e.answer(a)
		x.duplex = a.Duplex
	case *processor.Chunk:
		return x.answerChunk(a)
	case nil:
		return errNoAction
	}
	if err != nil {
		return err
	}
	x.send(data)
	return nil
}

func (x *exchange) answerChunk(a *processor.Chunk) error {
	m, e := &x.message, x.server.encoder
	switch {
	case m.kind == responseTrailers:
		// What was held back of the body goes before the trailers.
		if x.duplex && a.Replace && len(a.Body) > 0 {
			x.send(e.streamed(a.Body, false, a.Cut))
		}
		x.send(e.pass(responseTrailers, processor.Metadata{}))
	case m.kind != responseBody:
		return errWrongAction
	case x.duplex:
		body := m.body
		if a.Replace {
			body = a.Body
		}
		if a.EndOfStream && !m.end {
			x.over = time.Now() // a cut: what is in flight needs no answer
		}
		if len(body) == 0 && !a.EndOfStream {
			return nil // all of the chunk is held back
		}
		x.send(e.streamed(body, a.EndOfStream, a.Cut))
	default:
		data, err := e.chunk(a)
		if err != nil {
			return err
		}
		x.send(data)
	}
	return nil
}

// send puts one reply on its way. It fails only when the stream is gone; then
// Recv says how it went.
func (x *exchange) send(data mem.BufferSlice) {
	if x.lost {
		data.Free()
		return
	}
	x.reply.data = data
	x.lost = x.rpc.SendMsg(&x.reply) != nil
	x.reply.data = nil
}

// settle ends the request's life. Only if Envoy ended the stream is there an
// access-log entry to wait for; otherwise Envoy must hear of the end first.
func (x *exchange) settle(byEnvoy bool) (err error) {
	if x.request == nil {
		return nil
	}
	defer func() {
		if v := recover(); v != nil {
			err = x.server.panicked(v)
		}
	}()
	var cause processor.Cause
	defer func() { x.request.Finish(time.Now(), cause) }() // even if Close panics
	wanted := x.request.Close(time.Now(), byEnvoy)
	if causes := x.server.cfg.Causes; wanted && byEnvoy && causes != nil {
		// The RPC's context is done, the entry may be on its way.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(x.rpc.Context()), x.server.cfg.CauseTimeout)
		defer cancel()
		cause, _ = causes.Wait(ctx, x.request.RequestID())
	}
	return nil
}
