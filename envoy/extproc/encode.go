package extproc

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"airgate/envoy/xds"
	"airgate/processor"
)

// What makes an action impossible to say. All are faults of airgate.
var (
	errNoAction     = errors.New("an event got no action")
	errWrongAction  = errors.New("an event got an action of another event")
	errBadStatus    = errors.New("a denial has no HTTP status of an error or an answer")
	errNoHeaderName = errors.New("a header to be set or removed has no name")
)

// Field numbers of ProcessingResponse; a reply of the same kind as its message
// has the message's number less one.
const (
	fieldImmediate    = 7
	fieldMetadata     = 8
	fieldModeOverride = 9
)

// encoder writes replies in wire form. Envoy reads raw_value of a header and
// nothing else, ignores append_action and overwrites; so neither value nor
// append is ever set. It is immutable and safe for concurrent use.
type encoder struct {
	buffers          *buffers
	duplex, buffered []byte                            // mode_override, complete with its tag
	unchanged        [responseTrailers]mem.BufferSlice // :: kind − 1 → the reply that changes nothing
	cleared          mem.BufferSlice                   // the reply that empties one chunk
}

func newEncoder(pool *buffers) (*encoder, error) {
	e := &encoder{buffers: pool}
	override := func(m proto.Message) ([]byte, error) {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			return nil, fmt.Errorf("encode mode override: %w", err)
		}
		return protowire.AppendBytes(protowire.AppendTag(nil, fieldModeOverride, protowire.BytesType), b), nil
	}
	var err error
	if e.duplex, err = override(xds.DuplexMode()); err != nil {
		return nil, err
	}
	if e.buffered, err = override(xds.BufferedMode()); err != nil {
		return nil, err
	}
	for k := requestHeaders; k <= responseTrailers; k++ {
		w := e.begin(0)
		w.reply(k, w.mark())
		e.unchanged[k-1] = w.end()
	}
	w := e.begin(0)
	w.varint(2, 1) // BodyMutation.clear_body
	w.message(3, 0)
	w.reply(responseBody, 0)
	e.cleared = w.end()
	return e, nil
}

// pass says that a message goes on as it is.
func (e *encoder) pass(k kind, md processor.Metadata) mem.BufferSlice {
	if md == (processor.Metadata{}) {
		return e.unchanged[k-1]
	}
	w := e.begin(len(md.RequestID))
	w.metadata(md.RequestID, md.Decision, "")
	w.reply(k, w.mark())
	return w.end()
}

// forward is the reply that lets a request go. The route cache is cleared: the
// route of an allowed request is chosen by the headers set here.
func (e *encoder) forward(k kind, a *processor.Forward) (mem.BufferSlice, error) {
	if k != requestHeaders && k != requestBody {
		return nil, errWrongAction
	}
	w := e.begin(len(a.Body) + sizeOf(a.Set) + len(a.Remove)*32)
	w.metadata(a.Metadata.RequestID, a.Metadata.Decision, "")
	common := w.mark()
	// clear_route_cache without a header mutation in the same reply keeps the
	// old route; so it is said only with one.
	if len(a.Set)+len(a.Remove) > 0 {
		w.varint(5, 1)
	}
	if a.Body != nil {
		w.bodyMutation(a.Body)
	}
	if err := w.headerMutation(a.Set, a.Remove); err != nil {
		return nil, err
	}
	w.reply(k, common)
	return w.end(), nil
}

// deny is ImmediateResponse: airgate's own answer.
func (e *encoder) deny(a *processor.Deny) (mem.BufferSlice, error) {
	// An unset status means 200 to Envoy.
	if a.Status < 200 || a.Status > 599 {
		return nil, errBadStatus
	}
	w := e.begin(len(a.Body) + sizeOf(a.Headers) + len(a.Details))
	w.metadata(a.Metadata.RequestID, a.Metadata.Decision, "")
	immediate := w.mark()
	w.text(5, a.Details)
	if len(a.Body) > 0 {
		w.bytes(3, a.Body)
	}
	if err := w.headerMutation(a.Headers, nil); err != nil {
		return nil, err
	}
	status := w.mark()
	w.varint(1, uint64(a.Status))
	w.message(1, status)
	w.message(fieldImmediate, immediate)
	return w.end(), nil
}

// answer is the reply to the head of an answer.
func (e *encoder) answer(a *processor.Answer) (mem.BufferSlice, error) {
	w := e.begin(sizeOf(a.Set) + len(a.Remove)*32)
	switch {
	case a.Duplex:
		w.raw(e.duplex)
	case a.Buffer:
		w.raw(e.buffered)
	}
	common := w.mark()
	if err := w.headerMutation(a.Set, a.Remove); err != nil {
		return nil, err
	}
	w.reply(responseHeaders, common)
	return w.end(), nil
}

// chunk is the reply to one body chunk outside FULL_DUPLEX.
func (e *encoder) chunk(a *processor.Chunk) (mem.BufferSlice, error) {
	if len(a.Set) == 0 && a.Cut == "" {
		if !a.Replace {
			return e.unchanged[responseBody-1], nil
		}
		if len(a.Body) == 0 {
			return e.cleared, nil
		}
	}
	w := e.begin(len(a.Body) + sizeOf(a.Set) + len(a.Cut))
	w.metadata("", "", a.Cut)
	common := w.mark()
	if a.Replace {
		w.bodyMutation(a.Body)
	}
	if err := w.headerMutation(a.Set, nil); err != nil {
		return nil, err
	}
	w.reply(responseBody, common)
	return w.end(), nil
}

// streamed is a piece of an answer in FULL_DUPLEX, where nothing goes on by
// itself.
func (e *encoder) streamed(body []byte, end bool, cut string) mem.BufferSlice {
	w := e.begin(len(body) + len(cut))
	w.metadata("", "", cut)
	common := w.mark()
	if end {
		w.varint(2, 1)
	}
	if len(body) > 0 {
		w.bytes(1, body)
	}
	w.message(3, common) // BodyMutation.streamed_response
	w.message(3, common) // CommonResponse.body_mutation
	w.reply(responseBody, common)
	return w.end()
}

// writer writes a message from its end to its start, so that the length of an
// inner message is known when its tag is written and nothing is moved.
type writer struct {
	pool   *buffers
	pooled *[]byte // where buf came from; nil = not from the pool
	buf    []byte
	at     int // the message is buf[at:]
}

// overhead is what tags, lengths and metadata add to the texts of a reply.
const overhead = 192

// begin makes room for a reply with n bytes of texts and bodies; more is found
// when it is needed.
func (e *encoder) begin(n int) writer {
	w := writer{pool: e.buffers}
	w.take(n + overhead)
	return w
}

// take replaces the buffer by one of n bytes.
func (w *writer) take(n int) {
	if mem.IsBelowBufferPoolingThreshold(n) {
		w.pooled, w.buf = nil, make([]byte, n)
	} else {
		w.pooled = w.pool.Get(n)
		w.buf = *w.pooled
	}
	w.at = n
}

// sizeOf is about what headers take on the wire.
func sizeOf(headers []processor.Header) int {
	n := 0
	for i := range headers {
		n += len(headers[i].Name) + len(headers[i].Value) + 16
	}
	return n
}

// end hands the written bytes over; gRPC frees them when they are sent.
func (w *writer) end() mem.BufferSlice {
	if w.pooled == nil {
		return mem.BufferSlice{mem.SliceBuffer(w.buf[w.at:])}
	}
	whole := mem.NewBuffer(w.pooled, w.pool)
	part := whole.Slice(w.at, len(w.buf))
	whole.Free() // part holds it
	return mem.BufferSlice{part}
}

// room returns the n bytes before what is written.
func (w *writer) room(n int) []byte {
	if w.at < n {
		w.grow(n)
	}
	w.at -= n
	return w.buf[w.at : w.at+n]
}

func (w *writer) grow(n int) {
	old, written := w.pooled, w.buf[w.at:]
	w.take(2*len(w.buf) + n)
	w.at -= len(written)
	copy(w.buf[w.at:], written)
	if old != nil {
		w.pool.Put(old)
	}
}

// mark is the place that a later message call wraps everything from: bytes
// written so far, which stays true when the buffer grows.
func (w *writer) mark() int { return len(w.buf) - w.at }

// message makes what was written since mark field num.
func (w *writer) message(num protowire.Number, mark int) {
	w.tag(num, protowire.BytesType, uint64(w.mark()-mark))
}

// tag writes a field's number and the length or the number that follows it.
func (w *writer) tag(num protowire.Number, typ protowire.Type, v uint64) {
	tag := protowire.EncodeTag(num, typ)
	n := protowire.SizeVarint(tag)
	b := w.room(n + protowire.SizeVarint(v))
	protowire.AppendVarint(protowire.AppendVarint(b[:0], tag), v)
}

func (w *writer) varint(num protowire.Number, v uint64) { w.tag(num, protowire.VarintType, v) }

func (w *writer) raw(b []byte) { copy(w.room(len(b)), b) }

func (w *writer) bytes(num protowire.Number, b []byte) {
	copy(w.room(len(b)), b)
	w.tag(num, protowire.BytesType, uint64(len(b)))
}

// text writes a string; an empty one is the default and takes no bytes.
func (w *writer) text(num protowire.Number, s string) {
	if s == "" {
		return
	}
	copy(w.room(len(s)), s)
	w.tag(num, protowire.BytesType, uint64(len(s)))
}

// reply makes what was written since mark the body of the reply to kind k: a
// CommonResponse, or for trailers nothing.
func (w *writer) reply(k kind, mark int) {
	if k != requestTrailers && k != responseTrailers {
		w.message(1, mark)
	}
	w.message(protowire.Number(k-1), mark)
}

// headerMutation writes HeaderMutation{set_headers = 1, remove_headers = 2}; it
// is field 2 of CommonResponse and of ImmediateResponse.
func (w *writer) headerMutation(set []processor.Header, remove []string) error {
	if len(set)+len(remove) == 0 {
		return nil
	}
	mutation := w.mark()
	for _, name := range slices.Backward(remove) {
		if name == "" {
			return errNoHeaderName
		}
		w.text(2, name)
	}
	for _, h := range slices.Backward(set) {
		if h.Name == "" {
			return errNoHeaderName
		}
		option := w.mark()
		w.text(3, h.Value)   // HeaderValue.raw_value
		w.text(1, h.Name)    // HeaderValue.key
		w.message(1, option) // HeaderValueOption.header
		w.message(1, option) // HeaderMutation.set_headers
	}
	w.message(2, mutation)
	return nil
}

// bodyMutation writes CommonResponse.body_mutation.
func (w *writer) bodyMutation(body []byte) {
	mutation := w.mark()
	if len(body) == 0 {
		w.varint(2, 1) // clear_body
	} else {
		w.bytes(1, body)
	}
	w.message(3, mutation)
}

// metadata writes dynamic_metadata: a Struct with one entry, the namespace.
func (w *writer) metadata(requestID, decision, cut string) {
	if requestID == "" && decision == "" && cut == "" {
		return
	}
	all := w.mark()
	w.word(cutKey, cut)
	w.word(xds.DecisionKey, decision)
	w.word(xds.RequestIDKey, requestID)
	w.message(5, all) // Value.struct_value
	w.message(2, all) // the entry's value
	w.text(1, xds.MetadataNamespace)
	w.message(1, all) // Struct.fields
	w.message(fieldMetadata, all)
}

// cutKey is the metadata that says why airgate cut an answer: Envoy itself logs
// a plain 200.
const cutKey = "cut"

// word writes one string entry of Struct.fields.
func (w *writer) word(key, value string) {
	if value == "" {
		return
	}
	entry := w.mark()
	w.text(3, value) // Value.string_value
	w.message(2, entry)
	w.text(1, key)
	w.message(1, entry)
}
