package processor

import (
	"strconv"
	"strings"
	"time"

	"airgate/accounting"
	"airgate/processor/dialect"
)

// responseHeaders reads the head of the answer.
func (s *Stream) responseHeaders(e *ResponseHeaders) Action {
	s.status, s.attempts = 0, e.Attempts
	contentType := ""
	a := &s.reply
	*a = Answer{Set: append(a.Set[:0], Header{"x-airgate-request-id", s.id}), Remove: a.Remove[:0]}
	for _, h := range e.Headers {
		switch h.Name {
		case ":status":
			s.status, _ = strconv.Atoi(h.Value)
		case "content-type":
			contentType = h.Value
		// Cookies and account names of the provider are not the caller's.
		case "set-cookie":
			a.Remove = append(a.Remove, "set-cookie")
		case "openai-organization":
			a.Remove = append(a.Remove, "openai-organization")
		case "openai-project":
			a.Remove = append(a.Remove, "openai-project")
		case "anthropic-organization-id":
			a.Remove = append(a.Remove, "anthropic-organization-id")
		}
	}
	switch s.state {
	case idle, uploading, refused:
		// Envoy's own answer: a refused upgrade, a body over its limit.
		s.localReply(e)
		return a
	case open:
	case answering, settled, answered, local, broken:
		return a
	}
	if e.Details != "via_upstream" && (e.Details != "" || s.status >= 400) {
		s.localReply(e)
		a.Durable = s.intent
		a.Set = append(a.Set, Header{"x-airgate-class", string(s.class)})
		return a
	}
	if s.cap > 0 {
		a.Set = append(a.Set, Header{"x-airgate-cap", strconv.FormatInt(int64(s.cap), 10)})
	}
	a.Durable = s.intent
	s.state = answering
	if s.status >= 400 || s.status == 0 {
		return s.errorAnswer(e, a)
	}
	s.meter.Reset(s.endpoint, s.status, contentType, s.strip)
	s.meter.CacheWrite1h = s.request.CacheWrite1h
	if e.EndOfStream {
		s.meter.Close()
		s.class = ClassOK
		s.settle(e.Now)
		return a
	}
	s.events = strings.HasPrefix(contentType, "text/event-stream")
	if s.sliced() && !s.events {
		// What is no stream cannot be cut: all of it is held, or none of it passes.
		if short := s.grow(s.outputBound(), e.Now); short != (shortfall{}) {
			return s.refuseAnswer(short, e.Now)
		}
		a.Durable = s.extended
	}
	// A stream of which something is taken out may be held back up to its end,
	// and that may be trailers.
	a.Duplex = s.events && (s.strip || s.sliced())
	return a
}

// errorAnswer takes an error of the provider's. One about our credential or
// account is answered in the provider's place; where only the body can tell,
// the answer is read whole before any of it leaves.
func (s *Stream) errorAnswer(e *ResponseHeaders, a *Answer) Action {
	s.refusal = true
	name := func(n string) string { return header(e.Headers, n) }
	perr := dialect.Classify(s.endpoint.Dialect, s.status, name, nil)
	s.class = classOfProvider(perr.Class)
	if s.class == ClassProviderAuth || s.class == ClassProviderQuota {
		return s.replaceAnswer(e.Now)
	}
	if e.EndOfStream {
		s.settle(e.Now)
		a.Set = append(a.Set, Header{"x-airgate-class", string(s.class)})
		return a
	}
	s.buffered = true
	s.retryAfter = strings.Clone(name("retry-after"))
	a.Buffer = true
	return a
}

// replaceAnswer says 502 in the caller's dialect: what the provider says about
// our credential or account is ours to read, not the caller's.
func (s *Stream) replaceAnswer(now time.Time) Action {
	code, text := aboutAccount(s.class)
	s.code = code
	s.settle(now)
	s.state = refused
	s.sayDenial(code, text, nil)
	s.deny.Durable = s.intent
	return &s.deny
}

// refuseAnswer answers in the provider's place where the answer cannot be held.
func (s *Stream) refuseAnswer(short shortfall, now time.Time) Action {
	code, why := short.words()
	s.code, s.class = code, outcomeOf(code).class
	s.settle(now)
	s.state = refused
	s.sayDenial(code, why, short.refusal)
	s.deny.Durable = s.intent
	return &s.deny
}

// aboutAccount is what is said in place of an error of the provider's that is about
// our credential or account.
func aboutAccount(c Class) (code Code, text string) {
	if c == ClassProviderQuota {
		return ProviderQuota, "the provider's account has no quota left; the platform team must look at it"
	}
	return ProviderAuth, "the provider did not accept airgate's credential; the platform team must look at it"
}

// responseBody passes one chunk and reads it: after the reply where nothing
// depends on it, before where the chunk ends the answer or must change.
func (s *Stream) responseBody(e *ResponseBody) Action {
	c := &s.chunk
	*c = Chunk{Set: c.Set[:0], EndOfStream: e.EndOfStream}
	switch {
	case s.cut != "":
		c.Replace = true // nothing more of the answer passes
		return c
	case s.state != answering:
		c.pass(e.Chunk, s.meter.Pass(e.Chunk, e.EndOfStream))
		return c
	case s.buffered:
		return s.errorBody(e)
	}
	if len(e.Chunk) > 0 {
		if s.firstByte.IsZero() {
			s.firstByte = e.Now
			s.p.metrics.firstToken(s)
		}
	}
	s.passed += len(e.Chunk)
	if !e.EndOfStream && !s.meter.Decisive(e.Chunk) && !s.near(len(e.Chunk)) {
		s.unread = e.Chunk
		c.pass(e.Chunk, s.meter.Pass(e.Chunk, false))
		return c
	}
	s.read(c, e)
	return c
}

// read scans a chunk before any of it passes.
func (s *Stream) read(c *Chunk, e *ResponseBody) {
	last := 0 // where the last event of the chunk begins
	for at := 0; at < len(e.Chunk); {
		last = at
		at += s.meter.Scan(e.Chunk[at:])
		if s.account() {
			break
		}
	}
	if e.EndOfStream {
		s.meter.Close()
	}
	if s.account() {
		code, why := aboutAccount(classOfProvider(s.meter.Reading().Error.Class))
		s.cutOff(c, s.meter.Pass(e.Chunk[:last], false), cutProvider, code, why, nil, e.Now)
		return
	}
	var short shortfall
	if s.sliced() {
		short = s.cover(c, e.Now)
	}
	switch ended := e.EndOfStream || s.meter.Reading().Ending != dialect.Unfinished; {
	case ended: // what it cost is known, and whatever it was it is made
		c.Durable = 0
		c.pass(e.Chunk, s.meter.Pass(e.Chunk, e.EndOfStream))
		s.finish(e.Now)
	case short != (shortfall{}):
		s.cutShort(c, s.meter.Pass(e.Chunk, false), short, e.Now)
	default:
		c.pass(e.Chunk, s.meter.Pass(e.Chunk, false))
	}
}

// account reports whether the stream has ended with an error about our credential
// or account: the event is ours to read, not the caller's.
func (s *Stream) account() bool {
	r := s.meter.Reading()
	if !s.events || r.Ending != dialect.Failed {
		return false
	}
	class := classOfProvider(r.Error.Class)
	return class == ClassProviderAuth || class == ClassProviderQuota
}

// Why airgate ends an answer before its end: record field cut.
const (
	cutBudget   = "budget"   // no more could be held for it
	cutJournal  = "journal"  // … or the book cannot say so
	cutProvider = "provider" // the provider's error about our credential or account stood there
)

// cutOff ends the answer with the dialect's own error event, behind what of the
// chunk may pass, and settles what was counted. passed is what the meter's Pass has
// just given out.
func (s *Stream) cutOff(c *Chunk, passed []byte, reason string, code Code, why string, r *accounting.Refusal, now time.Time) {
	s.cut, s.code, s.class = reason, code, outcomeOf(code).class
	s.settle(now)
	d := s.denial(code, why)
	if r != nil {
		s.describe(&d, r)
	}
	c.Replace, c.EndOfStream, c.Durable, c.Cut = true, true, 0, reason
	body := append(make([]byte, 0, len(passed)+1024), passed...)
	if !s.meter.Between() {
		body = append(body, "\n\n"...)
	}
	c.Body = dialect.AppendCut(body, s.endpoint, &d)
}

// finish settles an answer whose end was seen.
func (s *Stream) finish(now time.Time) {
	s.class = ClassOK
	if r := s.meter.Reading(); r.Ending == dialect.Failed {
		s.class = classOfProvider(r.Error.Class)
	}
	s.settle(now)
}

// errorBody has an error answer whole: Envoy held it back.
func (s *Stream) errorBody(e *ResponseBody) Action {
	s.buffered = false
	name := func(n string) string {
		if n == "retry-after" {
			return s.retryAfter
		}
		return ""
	}
	perr := dialect.Classify(s.endpoint.Dialect, s.status, name, e.Chunk)
	s.class = classOfProvider(perr.Class)
	if s.class == ClassProviderAuth || s.class == ClassProviderQuota {
		return s.replaceAnswer(e.Now)
	}
	s.settle(e.Now)
	s.chunk.Set = append(s.chunk.Set, Header{"x-airgate-class", string(s.class)})
	return &s.chunk
}

// responseTrailers ends an answer that has trailers.
func (s *Stream) responseTrailers(e *ResponseTrailers) Action {
	c := &s.chunk
	*c = Chunk{Set: c.Set[:0], Trailers: true}
	if s.cut != "" {
		return c
	}
	if rest := s.meter.Pass(nil, true); len(rest) > 0 {
		c.Replace, c.Body = true, rest
	}
	if s.state != answering {
		return c
	}
	if s.buffered { // an error without a body: its status is all there is
		s.buffered = false
		s.settle(e.Now)
		return c
	}
	s.meter.Close()
	s.finish(e.Now)
	return c
}

// notDurable answers in place of an answer that may not leave, or ends one that may
// not go on: its intent or its extension is not on disk and will not be.
func (s *Stream) notDurable(e *NotDurable) Action {
	if s.state == answering && s.chunk.Durable != 0 {
		c := &s.chunk
		*c = Chunk{Set: c.Set[:0]}
		// What was to pass is lost, and may have ended a comment begun before.
		s.cutShort(c, []byte("\n\n"), shortfall{cut: cutJournal}, e.Now)
		return c
	}
	s.class = ClassGateway
	s.code = JournalUnavailable
	s.settle(e.Now)
	s.state = refused
	s.sayDenial(JournalUnavailable, "the audit journal cannot be written", nil)
	return &s.deny
}

// localReply takes an answer that Envoy made. What releases and what settles
// is told by whether the provider can have been reached.
func (s *Stream) localReply(e *ResponseHeaders) {
	reached := false
	switch {
	case strings.HasPrefix(e.Details, "request_payload_too_large"):
		s.code, s.class = RequestTooLarge, ClassMalformed
	case strings.HasPrefix(e.Details, "upgrade_failed"):
		s.code, s.class = EndpointUnknown, ClassMalformed
	case strings.Contains(e.Details, "remote_connection_failure"), strings.Contains(e.Details, "overflow"),
		strings.HasPrefix(e.Details, "no_healthy_upstream"), strings.HasPrefix(e.Details, "direct_response"),
		strings.HasPrefix(e.Details, "cluster_not_found"), strings.HasPrefix(e.Details, "route_not_found"):
		s.class = ClassTransient
	default:
		s.class = ClassTransient
		reached = true
	}
	if s.state == open {
		s.envoys = true
		s.notReached = !reached
		s.settle(e.Now)
		return
	}
	s.p.cfg.Ledger.Release(&s.hold, e.Now)
	s.releaseBody()
	if s.state != refused {
		s.state = local
	}
	if s.key != nil {
		s.appendDenial(e.Now)
	}
}

func header(hs []Header, name string) string {
	for _, h := range hs {
		if h.Name == name {
			return h.Value
		}
	}
	return ""
}
