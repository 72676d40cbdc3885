package extproc_test

import (
	"testing"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/protobuf/proto"

	"airgate/envoy/extproc"
	"airgate/envoy/extproc/extproctest"
	"airgate/processor"
)

// idler is a request that lets everything pass and keeps nothing: what remains
// is the server and its codec.
type idler struct {
	fwd   processor.Forward
	cont  processor.Continue
	reply processor.Answer
	chunk processor.Chunk
}

func (*idler) RequestID() string                 { return "" }
func (*idler) After()                            {}
func (*idler) Close(time.Time, bool) bool        { return false }
func (*idler) Finish(time.Time, processor.Cause) {}

func (i *idler) Step(e processor.Event) processor.Action {
	switch e := e.(type) {
	case *processor.RequestBody:
		return &i.fwd
	case *processor.ResponseHeaders:
		return &i.reply
	case *processor.ResponseBody:
		i.chunk.EndOfStream = e.EndOfStream
		return &i.chunk
	default:
		return &i.cont
	}
}

func marshal(b *testing.B, ms ...proto.Message) [][]byte {
	b.Helper()
	var out [][]byte
	for _, m := range ms {
		w, err := proto.Marshal(m)
		if err != nil {
			b.Fatal(err)
		}
		out = append(out, w)
	}
	return out
}

// exchange sends one request with n chunks and takes all replies.
func exchange(b *testing.B, e *extproctest.Envoy, head [][]byte, chunk []byte, n int) {
	c, err := e.Open()
	if err != nil {
		b.Fatal(err)
	}
	for i := range len(head) + n {
		m := chunk
		if i < len(head) {
			m = head[i]
		}
		if err := c.SendWire(m); err != nil {
			b.Fatal(err)
		}
		if _, err := c.RecvWire(); err != nil {
			b.Fatal(err)
		}
	}
	if err := c.Reset(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkServer compares airgate's server with the no-op one in plain
// grpc-go: client, sockets and HTTP/2 are in both figures.
func BenchmarkServer(b *testing.B) {
	body := make([]byte, 2048)
	head := marshal(b, longHead(), extproctest.RequestBody(body), answerHead())
	chunk := marshal(b, extproctest.ResponseBody(make([]byte, 200), false))[0]
	large := marshal(b, longHead(), extproctest.RequestBody(make([]byte, 300<<10)), answerHead())
	for name, tt := range map[string]struct {
		head   [][]byte
		chunks int
	}{"request2KiB": {head, 1}, "request300KiB": {large, 1}, "sse200": {head, 200}} {
		b.Run(name+"/airgate", func(b *testing.B) {
			s := start(b, extproc.Config{Begin: func(time.Time) extproc.Stream { return &idler{} }})
			b.ReportAllocs()
			for b.Loop() {
				exchange(b, s.envoy, tt.head, chunk, tt.chunks)
			}
			b.StopTimer()
			s.stop()
		})
		b.Run(name+"/noop", func(b *testing.B) {
			addr := "unix://" + shortDir(b) + "/s"
			l, err := extproc.Listen(addr)
			if err != nil {
				b.Fatal(err)
			}
			server := extproctest.Noop()
			served := make(chan error, 1)
			go func() { served <- server.Serve(l) }()
			e, err := extproctest.Dial(addr)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				exchange(b, e, tt.head, chunk, tt.chunks)
			}
			b.StopTimer()
			_ = e.Close()
			server.Stop()
			<-served
		})
	}
}

func longHead() *extprocv3.ProcessingRequest {
	return extproctest.RequestHeaders(false,
		":method", "POST", ":path", "/v1/chat/completions", ":scheme", "https", ":authority", "llm.example.com",
		"authorization", "Bearer ag-k7Qm2xT9aB4c-0123456789012345678901234567890123456789012345678", "content-type", "application/json",
		"content-length", "2048", "accept", "application/json", "accept-encoding", "gzip, deflate", "user-agent", "OpenAI/Python 2.54.0",
		"x-stainless-lang", "python", "x-stainless-os", "Linux", "x-stainless-runtime", "CPython",
		"x-request-id", "5c2c1b1e-0d52-4d2f-9a33-0f0c7f2a3b11", "x-airgate-purpose", "support-chat")
}
