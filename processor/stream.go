package processor

import (
	"time"

	"airgate/accounting"
	"airgate/accounting/journal"
	"airgate/accounting/money"
	"airgate/accounting/record"
	"airgate/accounting/usage"
	"airgate/policy"
	"airgate/policy/config"
	"airgate/processor/dialect"
)

// state names the step a request is in; doc.go has the table.
type state uint8

const (
	idle state = iota
	uploading
	open
	answering
	settled
	refused  // Deny was said; nothing of the request goes on
	answered // airgate answered itself with success
	local    // Envoy answered in the provider's place
	broken   // no identity could be made: everything is refused
)

// Stream is one request. It belongs to one goroutine and has no lock. The
// bytes and strings of an event are read only during its Step (and the After
// that follows); what is kept is copied.
type Stream struct {
	p     *Processor
	snap  *config.Snapshot
	id    string
	began time.Time
	state state

	// From the request headers.
	endpoint dialect.Endpoint
	query    string
	key      *policy.KeyEntry
	inbound  []string // names of headers that must not reach the provider
	purpose  string
	user     string
	session  string
	waiting  int64 // bytes taken from Processor.bodies

	// From the request body.
	request  dialect.Request
	decision policy.Decision
	subject  accounting.Subject
	terms    config.ModelTerms
	maxOut   money.Tokens // the output cap the provider will honour, per choice; 0 = none
	cap      money.Tokens // the cap airgate set or lowered, to be announced; 0 = none
	boundIn  money.Tokens // input tokens held
	reserved money.NanoUSD
	heldOut  money.Tokens // the output that reserved covers: all there can be, or less (slice.go)
	learns   bool         // a budget holds what is expected (expect.go)
	usual    bool         // … and usualOut is known: the output such calls seldom pass
	usualOut money.Tokens
	// boundless says that the worst case is none: no enforced budget covers it.
	boundless bool
	hold      accounting.Hold
	intent    journal.Position
	admitted  time.Time // whose prices hold
	forward   time.Time // when the request was let go

	// From the answer.
	meter      dialect.Meter
	status     int
	attempts   int
	strip      bool             // the usage chunk is taken out of the stream
	events     bool             // the answer is labelled a stream of events
	cut        string           // why airgate has ended the answer; "" = it has not
	passed     int              // bytes of the body
	sureOut    money.Tokens     // of heldOut, what the book is known to say on disk
	extended   journal.Position // of the last extension
	buffered   bool             // an error answer, read whole before any of it leaves
	retryAfter string           // of that answer
	unread     []byte           // a chunk that After still has to scan
	firstByte  time.Time
	class      Class
	code       Code
	cause      Cause
	unclean    bool // the answer did not end well: the access log may say why
	envoys     bool // Envoy answered in the provider's place
	notReached bool // … and says that no provider was reached
	refusal    bool // the provider answered with an error: nothing was generated

	// What Settle found.
	cost     money.NanoUSD
	tokens   usage.Tokens
	source   usage.Source
	hasUsage bool
	served   string

	rec      record.Record // identity of the request, shared by its records
	recorded bool          // the settlement or denial is in the journal
	scratch  []byte

	// Actions are reused: one is valid until the next Step.
	cont  Continue
	fwd   Forward
	deny  Deny
	reply Answer
	chunk Chunk
}

// RequestID is the record's id (UUIDv7).
func (s *Stream) RequestID() string { return s.id }

// Step takes one event and returns what to say to Envoy.
func (s *Stream) Step(e Event) Action {
	if s.state == broken {
		return s.refuse(GatewayFault, s.began, "no request id could be made")
	}
	switch e := e.(type) {
	case *RequestHeaders:
		if s.state == idle {
			return s.requestHeaders(e)
		}
	case *RequestBody:
		if s.state == uploading {
			return s.requestBody(e)
		}
	case *ResponseHeaders:
		return s.responseHeaders(e)
	case *ResponseBody:
		return s.responseBody(e)
	case *ResponseTrailers:
		return s.responseTrailers(e)
	case *NotDurable:
		return s.notDurable(e)
	}
	// A message that cannot come in this state: the filter is not configured
	// as this server assumes. Nothing is let through, and what was let go is
	// charged.
	if s.state == open || s.state == answering {
		s.code, s.class = GatewayFault, ClassGateway
		s.settle(moment(e))
	}
	return s.refuse(GatewayFault, moment(e), "the message order is not the expected one")
}

// moment is when an event came.
func moment(e Event) time.Time {
	switch e := e.(type) {
	case *RequestHeaders:
		return e.Now
	case *RequestBody:
		return e.Now
	case *ResponseHeaders:
		return e.Now
	case *ResponseBody:
		return e.Now
	case *ResponseTrailers:
		return e.Now
	case *NotDurable:
		return e.Now
	}
	return time.Time{}
}

// After does the work that Step left until its reply is on the wire.
func (s *Stream) After() {
	if s.fwd.Body != nil {
		// A long answer must not keep its request's body in memory.
		s.fwd.Body, s.scratch = nil, nil
	}
	if s.chunk.Durable != 0 { // it was waited for
		s.sureOut, s.chunk.Durable = s.heldOut, 0
	}
	if s.unread == nil {
		return
	}
	chunk := s.unread
	s.unread = nil
	s.meter.Write(chunk)
}

// Close ends the request, however it ended, and settles its money now. byEnvoy
// is false if airgate itself broke the stream off. It
// reports whether the cause of an unclean end is still wanted: then the caller
// waits a short while for Envoy's access-log entry. Finish must follow.
func (s *Stream) Close(now time.Time, byEnvoy bool) (wantCause bool) {
	s.After()
	s.releaseBody()
	switch s.state {
	case uploading:
		s.p.cfg.Ledger.Release(&s.hold, now)
		s.unclean = true
		s.class = ClassClientClosed
		s.ownFault(byEnvoy)
	case open, answering:
		s.unclean = true
		s.ownFault(byEnvoy)
		s.settle(now)
	case idle, settled, refused, answered, local, broken:
	}
	return s.unclean && byEnvoy && !s.recorded
}

// ownFault marks a stream that airgate broke off: Envoy tells the caller so.
func (s *Stream) ownFault(byEnvoy bool) {
	if !byEnvoy {
		s.code, s.class = GatewayFault, ClassGateway
	}
}

// Finish appends the request's settlement record if Step has not, with the
// cause of its end if one is known. It is idempotent.
func (s *Stream) Finish(now time.Time, c Cause) {
	if s.recorded || s.key == nil {
		return
	}
	s.cause = c
	if s.unclean {
		if class := classOfCause(c); c != (Cause{}) && s.state != uploading && s.code == "" {
			s.class = class
		}
	}
	s.book(now)
}
