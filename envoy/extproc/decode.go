package extproc

import (
	"errors"
	"math"
	"strconv"
	"unicode/utf8"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"

	"airgate/envoy/xds"
	"airgate/processor"
)

// kind is which message a ProcessingRequest holds: the field numbers of its
// oneof (envoy/service/ext_proc/v3/external_processor.proto).
type kind protowire.Number

const (
	requestHeaders   kind = 2
	responseHeaders  kind = 3
	requestBody      kind = 4
	responseBody     kind = 5
	requestTrailers  kind = 6
	responseTrailers kind = 7
)

// What makes a message unreadable. The texts reach Envoy's access log: they
// never quote the message.
var (
	errWire      = errors.New("a message is not valid protobuf")
	errWireType  = errors.New("a message has a field of an unexpected type")
	errNoKind    = errors.New("a message of an unknown kind")
	errTwoKinds  = errors.New("a message of two kinds")
	errTwice     = errors.New("a message has a field twice")
	errUTF8      = errors.New("a message has a string that is not UTF-8")
	errTextValue = errors.New("a header has its value as text; Envoy 1.39 and later send raw_value")
)

// bodyModes are the effective modes that Envoy tells in its first message.
type bodyModes struct {
	request, response uint64 // ProcessingMode.BodySendMode
	early             bool   // send_body_without_waiting_for_header_response
}

// message is what airgate reads of one ProcessingRequest. It is reused from
// message to message, and its strings and body are views: they are valid as
// long as the wire bytes it was decoded from.
type message struct {
	kind     kind
	headers  []processor.Header
	body     []byte
	end      bool      // end_of_stream
	source   string    // attribute source.address
	details  string    // attribute response.code_details
	attempts int       // attribute upstream.request_attempt_count
	observe  bool      // observability_mode: replies are ignored
	told     bool      // protocol_config is there
	modes    bodyModes // what it says

	space [24]processor.Header // first backing of headers: SDKs send about 15
}

// reset empties m and keeps its memory.
func (m *message) reset() {
	headers := m.headers[:0]
	if headers == nil {
		headers = m.space[:0]
	}
	m.kind, m.headers, m.body, m.end = 0, headers, nil, false
	m.source, m.details, m.attempts = "", "", 0
	m.observe, m.told, m.modes = false, false, bodyModes{}
}

// decode reads one ProcessingRequest from its wire form. What it accepts, it
// reads as proto.Unmarshal does; it accepts less: one message of a known kind,
// no known field of another type, header values only as raw_value. Fields that
// airgate does not read are skipped without a look inside.
func (m *message) decode(b []byte) error {
	m.reset()
	for len(b) > 0 {
		var f field
		var err error
		if f, b, err = next(b); err != nil {
			return err
		}
		switch f.num {
		case 2, 3, 4, 5, 6, 7:
			if m.kind != 0 {
				return errTwoKinds
			}
			m.kind = kind(f.num)
			err = m.payload(f)
		case 9:
			err = m.attributes(f)
		case 10:
			err = f.bool(&m.observe)
		case 11:
			if m.told {
				return errTwice
			}
			m.told = true
			err = m.protocolConfig(f)
		}
		if err != nil {
			return err
		}
	}
	if m.kind == 0 {
		return errNoKind
	}
	return nil
}

func (m *message) payload(f field) error {
	if f.typ != protowire.BytesType {
		return errWireType
	}
	switch m.kind {
	case requestHeaders, responseHeaders:
		return m.httpHeaders(f.v)
	case requestBody, responseBody:
		return m.httpBody(f.v)
	case requestTrailers, responseTrailers:
		return skip(f.v) // trailers pass as they are
	}
	return errNoKind
}

// httpHeaders reads HttpHeaders{headers = 1, end_of_stream = 3}.
func (m *message) httpHeaders(b []byte) error {
	for len(b) > 0 {
		var f field
		var err error
		if f, b, err = next(b); err != nil {
			return err
		}
		switch f.num {
		case 1:
			err = m.headerMap(f)
		case 3:
			err = f.bool(&m.end)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// headerMap reads HeaderMap{headers = 1}.
func (m *message) headerMap(f field) error {
	if f.typ != protowire.BytesType {
		return errWireType
	}
	b := f.v
	for len(b) > 0 {
		var h field
		var err error
		if h, b, err = next(b); err != nil {
			return err
		}
		if h.num != 1 {
			continue
		}
		if h.typ != protowire.BytesType {
			return errWireType
		}
		if err = m.headerValue(h.v); err != nil {
			return err
		}
	}
	return nil
}

// headerValue reads HeaderValue{key = 1, value = 2, raw_value = 3}.
func (m *message) headerValue(b []byte) error {
	var key, value []byte
	for len(b) > 0 {
		var f field
		var err error
		if f, b, err = next(b); err != nil {
			return err
		}
		if f.num > 3 {
			continue
		}
		if f.typ != protowire.BytesType {
			return errWireType
		}
		switch f.num {
		case 1:
			key = f.v
		case 2:
			if len(f.v) > 0 {
				return errTextValue
			}
		case 3:
			value = f.v
		}
	}
	if !utf8.Valid(key) {
		return errUTF8
	}
	m.headers = append(m.headers, processor.Header{Name: view(key), Value: view(value)})
	return nil
}

// httpBody reads HttpBody{body = 1, end_of_stream = 2}.
func (m *message) httpBody(b []byte) error {
	for len(b) > 0 {
		var f field
		var err error
		if f, b, err = next(b); err != nil {
			return err
		}
		switch f.num {
		case 1:
			if f.typ != protowire.BytesType {
				return errWireType
			}
			m.body = f.v
		case 2:
			err = f.bool(&m.end)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// protocolConfig reads ProtocolConfiguration{request_body_mode = 1,
// response_body_mode = 2, send_body_without_waiting_for_header_response = 3}.
func (m *message) protocolConfig(f field) error {
	if f.typ != protowire.BytesType {
		return errWireType
	}
	b := f.v
	for len(b) > 0 {
		var err error
		if f, b, err = next(b); err != nil {
			return err
		}
		switch f.num {
		case 1:
			err = f.uint(&m.modes.request)
		case 2:
			err = f.uint(&m.modes.response)
		case 3:
			err = f.bool(&m.modes.early)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// attributes reads one entry of map<string, Struct>: the one of the ext_proc
// filter has what the bootstrap asks for.
func (m *message) attributes(f field) error {
	key, value, err := entry(f)
	if err != nil || string(key) != xds.AttributesNamespace {
		return err
	}
	m.source, m.details, m.attempts = "", "", 0 // a second entry replaces the first
	for len(value) > 0 {
		if f, value, err = next(value); err != nil {
			return err
		}
		if f.num != 1 { // Struct{fields = 1}
			continue
		}
		if err = m.attribute(f); err != nil {
			return err
		}
	}
	return nil
}

// attribute reads one entry of Struct.fields: map<string, Value>.
func (m *message) attribute(f field) error {
	key, b, err := entry(f)
	if err != nil {
		return err
	}
	switch string(key) {
	case xds.AttributeSource, xds.AttributeDetails, xds.AttributeAttempts:
	default:
		return nil
	}
	var text string
	var number float64
	for len(b) > 0 {
		if f, b, err = next(b); err != nil {
			return err
		}
		if f.num > 6 {
			continue
		}
		text, number = "", 0 // Value is a oneof: the last one counts
		switch f.num {
		case 2: // number_value
			if f.typ != protowire.Fixed64Type {
				return errWireType
			}
			number = math.Float64frombits(f.u)
		case 3: // string_value
			if f.typ != protowire.BytesType {
				return errWireType
			}
			if !utf8.Valid(f.v) {
				return errUTF8
			}
			text = view(f.v)
		}
	}
	switch string(key) {
	case xds.AttributeSource:
		m.source = text
	case xds.AttributeDetails:
		m.details = text
	case xds.AttributeAttempts:
		m.attempts = count(number, text)
	}
	return nil
}

// count reads a small number that came as a number or as digits; 0 = none.
func count(number float64, text string) int {
	if text != "" {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return 0
		}
		return int(n)
	}
	if number >= 0 && number <= math.MaxUint16 {
		return int(number)
	}
	return 0
}

// entry splits a map entry {key = 1, value = 2} whose key is a string and
// whose value is a message.
func entry(f field) (key, value []byte, err error) {
	if f.typ != protowire.BytesType {
		return nil, nil, errWireType
	}
	b := f.v
	seen := false
	for len(b) > 0 {
		if f, b, err = next(b); err != nil {
			return nil, nil, err
		}
		switch f.num {
		case 1, 2:
			if f.typ != protowire.BytesType {
				return nil, nil, errWireType
			}
			if f.num == 1 {
				key = f.v
				continue
			}
			if seen {
				return nil, nil, errTwice
			}
			seen = true
			value = f.v
		}
	}
	if !utf8.Valid(key) {
		return nil, nil, errUTF8
	}
	return key, value, nil
}

// field is one field of a message: v of a length-delimited one, u of a number.
type field struct {
	num int32
	typ protowire.Type
	u   uint64
	v   []byte
}

// next takes the first field off b.
func next(b []byte) (f field, rest []byte, err error) {
	num, typ, n := protowire.ConsumeTag(b)
	if n < 0 {
		return f, nil, errWire
	}
	f.num, f.typ = int32(num), typ
	b = b[n:]
	switch typ {
	case protowire.BytesType:
		f.v, n = protowire.ConsumeBytes(b)
	case protowire.VarintType:
		f.u, n = protowire.ConsumeVarint(b)
	case protowire.Fixed64Type:
		f.u, n = protowire.ConsumeFixed64(b)
	default:
		n = protowire.ConsumeFieldValue(num, typ, b)
	}
	if n < 0 {
		return f, nil, errWire
	}
	return f, b[n:], nil
}

// skip checks that b is a sequence of fields.
func skip(b []byte) (err error) {
	for len(b) > 0 && err == nil {
		_, b, err = next(b)
	}
	return err
}

func (f *field) bool(to *bool) error {
	if f.typ != protowire.VarintType {
		return errWireType
	}
	*to = f.u != 0
	return nil
}

func (f *field) uint(to *uint64) error {
	if f.typ != protowire.VarintType {
		return errWireType
	}
	*to = f.u
	return nil
}

// view is b as a string without a copy: it changes if b does, so it must not
// outlive the message it came from.
func view(b []byte) string {
	return unsafe.String(unsafe.SliceData(b), len(b)) //nolint:gosec // the wire bytes are not written while a message is in use
}
