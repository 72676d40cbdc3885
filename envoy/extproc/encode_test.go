package extproc

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/structpb"
	"pgregory.net/rapid"

	"airgate/envoy/extproc/extproctest"
	"airgate/processor"
)

func mustEncoder() *encoder {
	e, err := newEncoder(&buffers{})
	if err != nil {
		panic(err)
	}
	return e
}

// decoded is what Envoy makes of a reply.
func decoded(data mem.BufferSlice) (*extprocv3.ProcessingResponse, error) {
	r := &extprocv3.ProcessingResponse{}
	err := proto.Unmarshal(data.Materialize(), r)
	data.Free()
	return r, err
}

func set(kv ...string) []*corev3.HeaderValueOption {
	var out []*corev3.HeaderValueOption
	for i := 0; i < len(kv); i += 2 {
		out = append(out, &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: kv[i], RawValue: []byte(kv[i+1])}})
	}
	return out
}

func metadata(kv ...string) *structpb.Struct {
	fields := map[string]*structpb.Value{}
	for i := 0; i < len(kv); i += 2 {
		fields[kv[i]] = structpb.NewStringValue(kv[i+1])
	}
	return &structpb.Struct{Fields: map[string]*structpb.Value{"airgate": structpb.NewStructValue(&structpb.Struct{Fields: fields})}}
}

func headReply(c *extprocv3.CommonResponse) *extprocv3.HeadersResponse {
	return &extprocv3.HeadersResponse{Response: c}
}

func bodyReply(c *extprocv3.CommonResponse) *extprocv3.BodyResponse {
	return &extprocv3.BodyResponse{Response: c}
}

func responseBodyReply(c *extprocv3.CommonResponse) *extprocv3.ProcessingResponse {
	return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseBody{ResponseBody: bodyReply(c)}}
}

func streamedReply(body string, end bool) *extprocv3.CommonResponse {
	s := &extprocv3.StreamedBodyResponse{EndOfStream: end}
	if body != "" {
		s.Body = []byte(body)
	}
	return &extprocv3.CommonResponse{BodyMutation: &extprocv3.BodyMutation{Mutation: &extprocv3.BodyMutation_StreamedResponse{StreamedResponse: s}}}
}

func whole(body string) *extprocv3.BodyMutation {
	return &extprocv3.BodyMutation{Mutation: &extprocv3.BodyMutation_Body{Body: []byte(body)}}
}

func cleared() *extprocv3.BodyMutation {
	return &extprocv3.BodyMutation{Mutation: &extprocv3.BodyMutation_ClearBody{ClearBody: true}}
}

func TestEncode(t *testing.T) {
	type reply = extprocv3.ProcessingResponse
	e := mustEncoder()
	must := func(data mem.BufferSlice, err error) mem.BufferSlice {
		if err != nil {
			t.Error(err)
		}
		return data
	}
	large := strings.Repeat("x", 3<<20)
	tests := map[string]struct {
		got  mem.BufferSlice
		want *reply
	}{
		"continue, request headers": {
			e.pass(requestHeaders, processor.Metadata{}),
			&reply{Response: &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: headReply(&extprocv3.CommonResponse{})}},
		},
		"continue with an id": {
			e.pass(requestHeaders, processor.Metadata{RequestID: "0197"}),
			&reply{
				Response:        &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: headReply(&extprocv3.CommonResponse{})},
				DynamicMetadata: metadata("request_id", "0197"),
			},
		},
		"continue, request body": {
			e.pass(requestBody, processor.Metadata{}),
			&reply{Response: &extprocv3.ProcessingResponse_RequestBody{RequestBody: bodyReply(&extprocv3.CommonResponse{})}},
		},
		"continue, response headers": {
			e.pass(responseHeaders, processor.Metadata{}),
			&reply{Response: &extprocv3.ProcessingResponse_ResponseHeaders{ResponseHeaders: headReply(&extprocv3.CommonResponse{})}},
		},
		"continue, response body": {
			e.pass(responseBody, processor.Metadata{}), responseBodyReply(&extprocv3.CommonResponse{}),
		},
		"continue, response trailers": {
			e.pass(responseTrailers, processor.Metadata{}),
			&reply{Response: &extprocv3.ProcessingResponse_ResponseTrailers{ResponseTrailers: &extprocv3.TrailersResponse{}}},
		},
		"forward": {
			must(e.forward(requestBody, &processor.Forward{
				Set:    []processor.Header{{Name: ":path", Value: "/v1/x"}, {Name: "content-length", Value: "7"}},
				Remove: []string{"authorization", "cookie"}, Body: []byte(`{"a":1}`),
				Metadata: processor.Metadata{RequestID: "0197", Decision: "allow"},
			})),
			&reply{
				Response: &extprocv3.ProcessingResponse_RequestBody{RequestBody: bodyReply(&extprocv3.CommonResponse{
					HeaderMutation:  &extprocv3.HeaderMutation{SetHeaders: set(":path", "/v1/x", "content-length", "7"), RemoveHeaders: []string{"authorization", "cookie"}},
					BodyMutation:    whole(`{"a":1}`),
					ClearRouteCache: true,
				})},
				DynamicMetadata: metadata("request_id", "0197", "decision", "allow"),
			},
		},
		"forward without a body": {
			must(e.forward(requestHeaders, &processor.Forward{Set: []processor.Header{{Name: "x-airgate-upstream", Value: "openai"}}})),
			&reply{Response: &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: headReply(&extprocv3.CommonResponse{
				HeaderMutation: &extprocv3.HeaderMutation{SetHeaders: set("x-airgate-upstream", "openai")}, ClearRouteCache: true,
			})}},
		},
		"forward unchanged keeps the route": {
			must(e.forward(requestBody, &processor.Forward{})),
			&reply{Response: &extprocv3.ProcessingResponse_RequestBody{RequestBody: bodyReply(&extprocv3.CommonResponse{})}},
		},
		"forward with an emptied body": {
			must(e.forward(requestBody, &processor.Forward{Body: []byte{}})),
			&reply{Response: &extprocv3.ProcessingResponse_RequestBody{RequestBody: bodyReply(&extprocv3.CommonResponse{BodyMutation: cleared()})}},
		},
		"forward a large body": {
			must(e.forward(requestBody, &processor.Forward{Body: []byte(large)})),
			&reply{Response: &extprocv3.ProcessingResponse_RequestBody{RequestBody: bodyReply(&extprocv3.CommonResponse{BodyMutation: whole(large)})}},
		},
		"deny": {
			must(e.deny(&processor.Deny{
				Status: 402, Headers: []processor.Header{{Name: "content-type", Value: "application/json"}},
				Body: []byte(`{"error":{}}`), Details: "airgate_budget_exhausted",
				Metadata: processor.Metadata{RequestID: "0197", Decision: "deny"},
			})),
			&reply{
				Response: &extprocv3.ProcessingResponse_ImmediateResponse{ImmediateResponse: &extprocv3.ImmediateResponse{
					Status:  &typev3.HttpStatus{Code: typev3.StatusCode_PaymentRequired},
					Headers: &extprocv3.HeaderMutation{SetHeaders: set("content-type", "application/json")},
					Body:    []byte(`{"error":{}}`), Details: "airgate_budget_exhausted",
				}},
				DynamicMetadata: metadata("request_id", "0197", "decision", "deny"),
			},
		},
		"deny, bare": {
			must(e.deny(&processor.Deny{Status: 503})),
			&reply{Response: &extprocv3.ProcessingResponse_ImmediateResponse{ImmediateResponse: &extprocv3.ImmediateResponse{
				Status: &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable},
			}}},
		},
		"answer": {
			must(e.answer(&processor.Answer{Set: []processor.Header{{Name: "x-airgate-request-id", Value: "0197"}, {Name: "x-empty"}}, Remove: []string{"set-cookie"}})),
			&reply{Response: &extprocv3.ProcessingResponse_ResponseHeaders{ResponseHeaders: headReply(&extprocv3.CommonResponse{
				HeaderMutation: &extprocv3.HeaderMutation{SetHeaders: set("x-airgate-request-id", "0197", "x-empty", ""), RemoveHeaders: []string{"set-cookie"}},
			})}},
		},
		"answer, duplex": {
			must(e.answer(&processor.Answer{Duplex: true})),
			&reply{
				Response: &extprocv3.ProcessingResponse_ResponseHeaders{ResponseHeaders: headReply(&extprocv3.CommonResponse{})},
				ModeOverride: &filterv3.ProcessingMode{
					RequestBodyMode: filterv3.ProcessingMode_BUFFERED, RequestTrailerMode: filterv3.ProcessingMode_SKIP,
					ResponseHeaderMode: filterv3.ProcessingMode_SEND, ResponseBodyMode: filterv3.ProcessingMode_FULL_DUPLEX_STREAMED,
					ResponseTrailerMode: filterv3.ProcessingMode_SEND,
				},
			},
		},
		"answer, buffered": {
			must(e.answer(&processor.Answer{Buffer: true})),
			&reply{
				Response: &extprocv3.ProcessingResponse_ResponseHeaders{ResponseHeaders: headReply(&extprocv3.CommonResponse{})},
				ModeOverride: &filterv3.ProcessingMode{
					RequestBodyMode: filterv3.ProcessingMode_BUFFERED, RequestTrailerMode: filterv3.ProcessingMode_SKIP,
					ResponseHeaderMode: filterv3.ProcessingMode_SEND, ResponseBodyMode: filterv3.ProcessingMode_BUFFERED,
					ResponseTrailerMode: filterv3.ProcessingMode_SKIP,
				},
			},
		},
		"chunk":          {must(e.chunk(&processor.Chunk{})), responseBodyReply(&extprocv3.CommonResponse{})},
		"chunk replaced": {must(e.chunk(&processor.Chunk{Replace: true, Body: []byte("b")})), responseBodyReply(&extprocv3.CommonResponse{BodyMutation: whole("b")})},
		"chunk emptied":  {must(e.chunk(&processor.Chunk{Replace: true})), responseBodyReply(&extprocv3.CommonResponse{BodyMutation: cleared()})},
		"chunk with headers": {
			must(e.chunk(&processor.Chunk{Set: []processor.Header{{Name: "a", Value: "b"}}})),
			responseBodyReply(&extprocv3.CommonResponse{HeaderMutation: &extprocv3.HeaderMutation{SetHeaders: set("a", "b")}}),
		},
		"chunk cut": {must(e.chunk(&processor.Chunk{Replace: true, Body: []byte("error"), EndOfStream: true, Cut: "provider"})), func() *reply {
			r := responseBodyReply(&extprocv3.CommonResponse{BodyMutation: whole("error")})
			r.DynamicMetadata = metadata("cut", "provider")
			return r
		}()},
		"streamed":     {e.streamed([]byte("data"), false, ""), responseBodyReply(streamedReply("data", false))},
		"streamed end": {e.streamed(nil, true, ""), responseBodyReply(streamedReply("", true))},
		"cut": {e.streamed([]byte("error"), true, "budget"), func() *reply {
			r := responseBodyReply(streamedReply("error", true))
			r.DynamicMetadata = metadata("cut", "budget")
			return r
		}()},
	}
	for name, tt := range tests {
		got, err := decoded(tt.got)
		if err != nil {
			t.Errorf("%s: not a ProcessingResponse: %v", name, err)
			continue
		}
		if !proto.Equal(tt.want, got) { // a diff of megabytes takes long
			t.Errorf("%s (-want +got):\n%s", name, cmp.Diff(tt.want, got, protocmp.Transform()))
		}
	}
}

// The writer's buffer grows under every mixture of sizes and nothing moves out
// of place.
func TestEncodeRandomForwards(t *testing.T) {
	e := mustEncoder()
	rapid.Check(t, func(t *rapid.T) {
		text := func(least, most int) string {
			return strings.Repeat(string(rune('a'+rapid.IntRange(0, 25).Draw(t, "letter"))), rapid.IntRange(least, most).Draw(t, "length"))
		}
		a := &processor.Forward{Body: []byte(text(1, 5000))}
		want := &extprocv3.CommonResponse{BodyMutation: whole(string(a.Body)), ClearRouteCache: true, HeaderMutation: &extprocv3.HeaderMutation{}}
		for range rapid.IntRange(1, 20).Draw(t, "set") {
			h := processor.Header{Name: text(1, 200), Value: text(0, 300)}
			a.Set = append(a.Set, h)
			want.HeaderMutation.SetHeaders = append(want.HeaderMutation.SetHeaders, set(h.Name, h.Value)...)
		}
		for range rapid.IntRange(0, 20).Draw(t, "remove") {
			a.Remove = append(a.Remove, text(1, 300)) // more than begin expects of a name
		}
		want.HeaderMutation.RemoveHeaders = a.Remove
		data, err := e.forward(requestBody, a)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decoded(data)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got.GetRequestBody().GetResponse(), protocmp.Transform()); diff != "" {
			t.Fatalf("forward (-want +got):\n%s", diff)
		}
	})
}

func TestEncodeRefuses(t *testing.T) {
	e := mustEncoder()
	nameless := []processor.Header{{Value: "v"}}
	_, onAnswer := e.forward(responseHeaders, &processor.Forward{})
	_, setsNameless := e.forward(requestBody, &processor.Forward{Set: nameless})
	_, removesNameless := e.forward(requestBody, &processor.Forward{Remove: []string{""}})
	_, noStatus := e.deny(&processor.Deny{})
	_, badStatus := e.deny(&processor.Deny{Status: 600})
	_, denyNameless := e.deny(&processor.Deny{Status: 400, Headers: nameless})
	_, answerNameless := e.answer(&processor.Answer{Set: nameless})
	_, chunkNameless := e.chunk(&processor.Chunk{Set: nameless})
	for name, tt := range map[string]struct{ got, want error }{
		"forward of an answer":        {onAnswer, errWrongAction},
		"forward, set without a name": {setsNameless, errNoHeaderName},
		"forward, remove without one": {removesNameless, errNoHeaderName},
		"deny without a status":       {noStatus, errBadStatus},
		"deny with status 600":        {badStatus, errBadStatus},
		"deny, header without a name": {denyNameless, errNoHeaderName},
		"answer, without a name":      {answerNameless, errNoHeaderName},
		"chunk, without a name":       {chunkNameless, errNoHeaderName},
	} {
		if !errors.Is(tt.got, tt.want) {
			t.Errorf("%s: error = %v, want %v", name, tt.got, tt.want)
		}
	}
}

func TestBuffers(t *testing.T) {
	p := &buffers{}
	for _, n := range []int{0, 1, 1 << 10, 1<<10 + 1, 1 << 11, 1<<11 + 1, 1 << 20, 1<<20 + 1, 40 << 20} {
		b := p.Get(n)
		if len(*b) != n {
			t.Errorf("Get(%d) has %d bytes", n, len(*b))
		}
		p.Put(b)
	}
	foreign := make([]byte, 3000)
	p.Put(&foreign) // of no class: dropped
	if b := p.Get(4096); len(*b) != 4096 {
		t.Errorf("Get(4096) = %d bytes after a foreign Put", len(*b))
	}
}

func TestReplyAllocations(t *testing.T) {
	e := mustEncoder()
	body := bytes.Repeat([]byte("x"), 4096)
	fwd := &processor.Forward{
		Set:    []processor.Header{{Name: ":path", Value: "/v1/chat/completions"}, {Name: "content-length", Value: "4096"}},
		Remove: []string{"authorization"}, Body: body, Metadata: processor.Metadata{RequestID: "0197", Decision: "allow"},
	}
	replaced := &processor.Chunk{Replace: true, Body: body[:200]}
	for name, tt := range map[string]struct {
		f    func() mem.BufferSlice
		want float64
	}{
		"a chunk unchanged":  {func() mem.BufferSlice { b, _ := e.chunk(&processor.Chunk{}); return b }, 0},
		"a chunk replaced":   {func() mem.BufferSlice { b, _ := e.chunk(replaced); return b }, 3},
		"a request with 4 K": {func() mem.BufferSlice { b, _ := e.forward(requestBody, fwd); return b }, 2},
	} {
		got := testing.AllocsPerRun(200, func() { b := tt.f(); b.Free() })
		if got > tt.want {
			t.Errorf("%s: %v allocations, want at most %v", name, got, tt.want)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	e := mustEncoder()
	body := bytes.Repeat([]byte("x"), 4096)
	fwd := &processor.Forward{
		Set:    []processor.Header{{Name: ":path", Value: "/v1/chat/completions"}, {Name: "content-length", Value: "4096"}, {Name: "x-airgate-upstream", Value: "openai"}},
		Remove: []string{"authorization"}, Body: body, Metadata: processor.Metadata{RequestID: "0197", Decision: "allow"},
	}
	data, err := e.forward(requestBody, fwd)
	if err != nil {
		b.Fatal(err)
	}
	typed, err := decoded(data)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("forward4KiB/wire", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			data, err := e.forward(requestBody, fwd)
			if err != nil {
				b.Fatal(err)
			}
			data.Free()
		}
	})
	b.Run("forward4KiB/proto", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := proto.Marshal(typed); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("continue/wire", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = e.chunk(&processor.Chunk{})
		}
	})
	pass := responseBodyReply(&extprocv3.CommonResponse{})
	b.Run("continue/proto", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := proto.Marshal(pass); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// nowhere is a stream whose replies nobody reads.
type nowhere struct{ grpc.ServerStream }

func (nowhere) Context() context.Context { return context.Background() }
func (nowhere) SendMsg(any) error        { return nil }

// passing is a request that lets every chunk pass.
type passing struct{ chunk processor.Chunk }

func (*passing) RequestID() string                 { return "" }
func (*passing) After()                            {}
func (*passing) Close(time.Time, bool) bool        { return false }
func (*passing) Finish(time.Time, processor.Cause) {}

func (p *passing) Step(processor.Event) processor.Action { return &p.chunk }

// A chunk that passes untouched costs no allocation from the wire to the wire.
func TestChunkRoundTripAllocatesNothing(t *testing.T) {
	s := &Server{encoder: mustEncoder()}
	x := &exchange{server: s, rpc: nowhere{}, request: &passing{}, decided: true}
	f := frame{data: mem.SliceBuffer(wireOf(t, extproctest.ResponseBody(make([]byte, 200), false))), received: time.Now()}
	if got := testing.AllocsPerRun(100, func() {
		if err := x.take(&f); err != nil {
			t.Error(err)
		}
	}); got != 0 {
		t.Errorf("a chunk allocates %v times, want 0", got)
	}
}
