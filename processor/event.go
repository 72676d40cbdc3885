package processor

import "time"

// Header is one header as received or to be set. Names are lower case. The
// strings may be views into a message: they are valid until Step returns.
type Header struct{ Name, Value string }

// Event is what Envoy told us about one request. Events are passed by pointer
// and may be reused by the caller after Step returns; so may all bytes in them.
//
//sumtype:decl
type Event interface{ event() }

// RequestHeaders is the first event of nearly every request.
type RequestHeaders struct {
	Headers     []Header // pseudo headers included
	EndOfStream bool     // no body will come
	Source      string   // source.address, ip:port
	Now         time.Time
}

// RequestBody is the whole body: Envoy buffers it.
type RequestBody struct {
	Body []byte
	Now  time.Time
}

// ResponseHeaders is the answer's head, the provider's or one that Envoy made.
// It can be the first event of all (a refused upgrade).
type ResponseHeaders struct {
	Headers     []Header
	EndOfStream bool
	Details     string // response.code_details; "via_upstream" = the provider's own
	Attempts    int    // upstream.request_attempt_count
	Now         time.Time
}

// ResponseBody is one chunk; its borders mean nothing.
type ResponseBody struct {
	Chunk       []byte
	EndOfStream bool
	Now         time.Time
}

// ResponseTrailers ends an answer that has trailers.
type ResponseTrailers struct{ Now time.Time }

// NotDurable says that what Answer.Durable, Deny.Durable or Chunk.Durable asked to
// wait for cannot be had (the journal failed, or the watchdog's time is up). It comes
// instead of sending that action; Step returns what to send in its place.
type NotDurable struct{ Now time.Time }

func (*RequestHeaders) event()   {}
func (*RequestBody) event()      {}
func (*ResponseHeaders) event()  {}
func (*ResponseBody) event()     {}
func (*ResponseTrailers) event() {}
func (*NotDurable) event()       {}

// Cause is why a request ended, from Envoy's access log. The zero Cause means
// no entry came in time.
type Cause struct {
	Details  string // response_code_details
	Flags    string // Envoy's short flags: "DC", "UPE", …
	Status   int
	Attempts int
}
