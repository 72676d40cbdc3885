package extproc

import (
	"bytes"
	"errors"
	"math"
	"strconv"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"pgregory.net/rapid"

	"airgate/envoy/extproc/extproctest"
	"airgate/envoy/xds"
	"airgate/processor"
)

// reading is what decode must find, in comparable form.
type reading struct {
	Kind            kind
	Headers         []processor.Header
	Body            string
	End             bool
	Source, Details string
	Attempts        int
	Observe, Told   bool
	Request         int32
	Response        int32
	Early           bool
}

func (m *message) reading() reading {
	r := reading{
		Kind: m.kind, Body: string(m.body), End: m.end,
		Source: strings.Clone(m.source), Details: strings.Clone(m.details), Attempts: m.attempts,
		Observe: m.observe, Told: m.told,
		Request: int32(m.modes.request), Response: int32(m.modes.response), Early: m.modes.early,
	}
	for _, h := range m.headers {
		r.Headers = append(r.Headers, processor.Header{Name: strings.Clone(h.Name), Value: strings.Clone(h.Value)})
	}
	return r
}

// readingOf is the same found by the generated code.
func readingOf(m *extprocv3.ProcessingRequest) reading {
	r := reading{Observe: m.GetObservabilityMode()}
	if c := m.GetProtocolConfig(); c != nil {
		r.Told = true
		r.Request, r.Response = int32(c.GetRequestBodyMode()), int32(c.GetResponseBodyMode())
		r.Early = c.GetSendBodyWithoutWaitingForHeaderResponse()
	}
	head := func(k kind, h *extprocv3.HttpHeaders) {
		r.Kind, r.End = k, h.GetEndOfStream()
		for _, v := range h.GetHeaders().GetHeaders() {
			r.Headers = append(r.Headers, processor.Header{Name: v.GetKey(), Value: string(v.GetRawValue())})
		}
	}
	body := func(k kind, b *extprocv3.HttpBody) {
		r.Kind, r.End, r.Body = k, b.GetEndOfStream(), string(b.GetBody())
	}
	switch v := m.GetRequest().(type) {
	case *extprocv3.ProcessingRequest_RequestHeaders:
		head(requestHeaders, v.RequestHeaders)
	case *extprocv3.ProcessingRequest_ResponseHeaders:
		head(responseHeaders, v.ResponseHeaders)
	case *extprocv3.ProcessingRequest_RequestBody:
		body(requestBody, v.RequestBody)
	case *extprocv3.ProcessingRequest_ResponseBody:
		body(responseBody, v.ResponseBody)
	case *extprocv3.ProcessingRequest_RequestTrailers:
		r.Kind = requestTrailers
	case *extprocv3.ProcessingRequest_ResponseTrailers:
		r.Kind = responseTrailers
	}
	attributes := m.GetAttributes()[xds.AttributesNamespace].GetFields()
	r.Source = attributes[xds.AttributeSource].GetStringValue()
	r.Details = attributes[xds.AttributeDetails].GetStringValue()
	a := attributes[xds.AttributeAttempts]
	if n := a.GetNumberValue(); n >= 0 && n <= 65535 {
		r.Attempts = int(n)
	}
	if s := a.GetStringValue(); s != "" {
		n, err := strconv.ParseUint(s, 10, 16)
		r.Attempts = int(n)
		if err != nil {
			r.Attempts = 0
		}
	}
	return r
}

// typical is what an SDK's call looks like: 15 headers with the pseudo headers.
func typical() *extprocv3.ProcessingRequest {
	return extproctest.RequestHeaders(false,
		":method", "POST", ":path", "/v1/chat/completions", ":scheme", "https", ":authority", "llm.example.com",
		"authorization", "Bearer ag-k7Qm2xT9aB4c-"+strings.Repeat("s", 49), "content-type", "application/json",
		"content-length", "2048", "accept", "application/json", "accept-encoding", "gzip, deflate", "user-agent", "OpenAI/Python 2.54.0",
		"x-stainless-lang", "python", "x-stainless-os", "Linux", "x-stainless-runtime", "CPython",
		"x-request-id", "5c2c1b1e-0d52-4d2f-9a33-0f0c7f2a3b11", "x-airgate-purpose", "support-chat")
}

func wireOf(tb testing.TB, m proto.Message) []byte {
	tb.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// everyKind has one message of each kind that Envoy sends.
func everyKind() map[string]*extprocv3.ProcessingRequest {
	return map[string]*extprocv3.ProcessingRequest{
		"request headers":    typical(),
		"bodyless":           extproctest.RequestHeaders(true, ":method", "GET", ":path", "/v1/models"),
		"no headers at all":  extproctest.RequestHeaders(false),
		"repeated header":    extproctest.RequestHeaders(false, "cookie", "a", "cookie", "b", "empty", "", "bytes", "\xff\x00"),
		"request body":       extproctest.RequestBody([]byte(`{"model":"m"}`)),
		"empty body":         extproctest.RequestBody(nil),
		"response headers":   extproctest.ResponseHeaders(false, "via_upstream", 3, ":status", "200"),
		"response first":     extproctest.First(extproctest.ResponseHeaders(true, "upgrade_failed", 0, ":status", "403")),
		"response body":      extproctest.ResponseBody([]byte("data: {}\n\n"), false),
		"last response body": extproctest.ResponseBody(nil, true),
		"response trailers":  extproctest.ResponseTrailers("x-checksum", "1"),
		"request trailers": {Request: &extprocv3.ProcessingRequest_RequestTrailers{
			RequestTrailers: &extprocv3.HttpTrailers{},
		}},
		"attempts in digits": {
			Request: &extprocv3.ProcessingRequest_ResponseHeaders{},
			Attributes: map[string]*structpb.Struct{xds.AttributesNamespace: {Fields: map[string]*structpb.Value{
				xds.AttributeAttempts: structpb.NewStringValue("2"), "other": structpb.NewBoolValue(true),
				xds.AttributeDetails: structpb.NewNullValue(),
			}}},
		},
		"attributes of another filter": {
			Request: &extprocv3.ProcessingRequest_RequestHeaders{},
			Attributes: map[string]*structpb.Struct{"other": {Fields: map[string]*structpb.Value{
				xds.AttributeSource: structpb.NewStringValue("forged"),
			}}},
		},
		"metadata": {
			Request:           &extprocv3.ProcessingRequest_RequestHeaders{},
			MetadataContext:   &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"x": {}}},
			ObservabilityMode: true, ProtocolConfig: &extprocv3.ProtocolConfiguration{SendBodyWithoutWaitingForHeaderResponse: true},
		},
	}
}

func TestDecodeReadsAsTheGeneratedCode(t *testing.T) {
	var m message // one for all: nothing may be left over from the message before
	for name, req := range everyKind() {
		if err := m.decode(wireOf(t, req)); err != nil {
			t.Errorf("%s: decode = %v", name, err)
			continue
		}
		if diff := cmp.Diff(readingOf(req), m.reading()); diff != "" {
			t.Errorf("%s: decode (-want +got):\n%s", name, diff)
		}
	}
}

// The generated code cannot write these, but it can read them: the last one
// counts.
func TestDecodeRepeatedFields(t *testing.T) {
	field := func(num protowire.Number, b []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), b)
	}
	entry := func(key string, value ...[]byte) []byte {
		return field(1, append(field(1, []byte(key)), field(2, bytes.Join(value, nil))...))
	}
	number := protowire.AppendFixed64(protowire.AppendTag(nil, 2, protowire.Fixed64Type), math.Float64bits(3))
	null := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 0)
	attributes := func(fields ...[]byte) []byte {
		return field(9, append(field(1, []byte(xds.AttributesNamespace)), field(2, bytes.Join(fields, nil))...))
	}
	head := field(3, nil)
	for name, b := range map[string][]byte{
		"a text, then null":         append(attributes(entry(xds.AttributeDetails, field(3, []byte("text")), null)), head...),
		"a number, then a text":     append(attributes(entry(xds.AttributeAttempts, number, field(3, []byte("2")))), head...),
		"a text, then a number":     append(attributes(entry(xds.AttributeAttempts, field(3, []byte("2")), number)), head...),
		"one attribute twice":       append(attributes(entry(xds.AttributeDetails, field(3, []byte("a"))), entry(xds.AttributeDetails, null)), head...),
		"the namespace twice":       append(append(attributes(entry(xds.AttributeDetails, field(3, []byte("a")))), attributes(entry(xds.AttributeAttempts, number))...), head...),
		"the value before its name": append(field(9, append(field(2, entry(xds.AttributeDetails, field(3, []byte("a")))), field(1, []byte(xds.AttributesNamespace))...)), head...),
		"a body twice":              field(4, append(field(1, []byte("first")), field(1, []byte("second"))...)),
		"a header name twice":       field(2, field(1, field(1, append(field(1, []byte("first")), field(1, []byte("second"))...)))),
	} {
		var m message
		req := &extprocv3.ProcessingRequest{}
		if err := errors.Join(m.decode(b), proto.Unmarshal(b, req)); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(readingOf(req), m.reading()); diff != "" {
			t.Errorf("%s: decode (-want +got):\n%s", name, diff)
		}
	}
}

func TestDecodeRandomMessages(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		req := drawRequest(t)
		var m message
		if err := m.decode(mustMarshal(req)); err != nil {
			t.Fatalf("decode(%v) = %v", req, err)
		}
		if diff := cmp.Diff(readingOf(req), m.reading()); diff != "" {
			t.Fatalf("decode (-want +got):\n%s", diff)
		}
	})
}

func mustMarshal(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

func drawRequest(t *rapid.T) *extprocv3.ProcessingRequest {
	var kv []string
	for range rapid.IntRange(0, 40).Draw(t, "headers") {
		kv = append(kv, rapid.StringMatching(`[a-z:-]{1,20}`).Draw(t, "name"), string(rapid.SliceOf(rapid.Byte()).Draw(t, "value")))
	}
	body, end := rapid.SliceOf(rapid.Byte()).Draw(t, "body"), rapid.Bool().Draw(t, "end")
	var req *extprocv3.ProcessingRequest
	switch rapid.IntRange(0, 4).Draw(t, "kind") {
	case 0:
		req = extproctest.RequestHeaders(end, kv...)
	case 1:
		req = extproctest.RequestBody(body)
	case 2:
		req = extproctest.ResponseHeaders(end, rapid.StringN(0, 40, -1).Draw(t, "details"), rapid.IntRange(0, 9).Draw(t, "attempts"), kv...)
	case 3:
		req = extproctest.ResponseBody(body, end)
	default:
		req = extproctest.ResponseTrailers(kv...)
	}
	if rapid.Bool().Draw(t, "first") {
		extproctest.First(req)
	}
	return req
}

func TestDecodeRefuses(t *testing.T) {
	field := func(num protowire.Number, typ protowire.Type, rest ...byte) []byte {
		return append(protowire.AppendTag(nil, num, typ), rest...)
	}
	sub := func(num protowire.Number, b []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), b)
	}
	header := func(b []byte) []byte { return sub(2, sub(1, sub(1, b))) }
	tests := map[string]struct {
		in   []byte
		want error
	}{
		"nothing":                      {nil, errNoKind},
		"a kind of the future":         {sub(99, nil), errNoKind},
		"two kinds":                    {append(sub(2, nil), sub(4, nil)...), errTwoKinds},
		"one kind twice":               {append(sub(4, nil), sub(4, nil)...), errTwoKinds},
		"a kind that is a number":      {field(2, protowire.VarintType, 1), errWireType},
		"headers that are a number":    {sub(2, field(1, protowire.VarintType, 1)), errWireType},
		"a header that is a number":    {sub(2, sub(1, field(1, protowire.VarintType, 1))), errWireType},
		"a name that is a number":      {header(field(1, protowire.VarintType, 1)), errWireType},
		"a name that is not text":      {header(sub(1, []byte{0xff})), errUTF8},
		"a value as text":              {header(append(sub(1, []byte("a")), sub(2, []byte("b"))...)), errTextValue},
		"a body that is a number":      {sub(4, field(1, protowire.VarintType, 1)), errWireType},
		"an end that is bytes":         {sub(4, sub(2, nil)), errWireType},
		"an end of headers in bytes":   {sub(2, sub(3, nil)), errWireType},
		"modes twice":                  {append(sub(11, nil), sub(11, nil)...), errTwice},
		"modes that are a number":      {field(11, protowire.VarintType, 1), errWireType},
		"a mode that is bytes":         {sub(11, sub(1, nil)), errWireType},
		"observability that is bytes":  {sub(10, nil), errWireType},
		"attributes that are a number": {field(9, protowire.VarintType, 1), errWireType},
		"attributes with two values":   {sub(9, append(sub(2, nil), sub(2, nil)...)), errTwice},
		"attributes, name not text":    {sub(9, sub(1, []byte{0xff})), errUTF8},
		"cut in a tag":                 {[]byte{0x80}, errWire},
		"cut in a length":              {[]byte{0x12, 0x80}, errWire},
		"longer than the message":      {[]byte{0x12, 0x7f, 0}, errWire},
		"field number zero":            {[]byte{0x02, 0}, errWire},
		"a group without an end":       {field(20, protowire.StartGroupType), errWire},
		"an end without a group":       {field(20, protowire.EndGroupType), errWire},
		"trailers that are no message": {sub(7, []byte{0x80}), errWire},
	}
	for name, tt := range tests {
		var m message
		if err := m.decode(tt.in); !errors.Is(err, tt.want) {
			t.Errorf("%s: decode(%x) = %v, want %v", name, tt.in, err, tt.want)
		}
	}
}

// What decode accepts it must read as the generated code does, whatever the
// bytes. It may accept less; and it does not look into what it skips, so it may
// accept what is broken in there.
func FuzzDecode(f *testing.F) {
	for _, req := range everyKind() {
		f.Add(mustMarshal(req))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m message
		if m.decode(b) != nil {
			return
		}
		req := &extprocv3.ProcessingRequest{}
		if (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, req) != nil {
			return
		}
		if diff := cmp.Diff(readingOf(req), m.reading()); diff != "" {
			t.Errorf("decode(%x) (-want +got):\n%s", b, diff)
		}
	})
}

func TestDecodeAllocatesNothing(t *testing.T) {
	head, chunk := wireOf(t, typical()), wireOf(t, extproctest.ResponseBody(make([]byte, 200), false))
	var m message
	for name, b := range map[string][]byte{"15 headers": head, "chunk": chunk} {
		if got := testing.AllocsPerRun(100, func() { _ = m.decode(b) }); got != 0 {
			t.Errorf("decode(%s) allocates %v times, want 0", name, got)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	for name, req := range map[string]*extprocv3.ProcessingRequest{
		"headers": typical(), "chunk": extproctest.ResponseBody(make([]byte, 200), false),
		"body4KiB": extproctest.RequestBody(make([]byte, 4096)),
	} {
		in := mustMarshal(req)
		b.Run(name+"/view", func(b *testing.B) {
			b.ReportAllocs()
			var m message
			for b.Loop() {
				if err := m.decode(in); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/proto", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := proto.Unmarshal(in, &extprocv3.ProcessingRequest{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
