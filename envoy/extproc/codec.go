package extproc

import (
	"errors"
	"math/bits"
	"sync"

	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// wire is what RecvMsg fills: one message as it came, in one piece. Whoever
// takes it frees it.
type wire struct{ data mem.Buffer }

// reply is what SendMsg takes: one message ready to be sent. gRPC frees it.
type reply struct{ data mem.BufferSlice }

// codec carries ext_proc messages undecoded, so that the goroutine that drains
// Recv does nothing else and no message is decoded twice. All other services of
// the server use proto.
type codec struct {
	encoding.CodecV2 // proto
	buffers          *buffers
}

func newCodec(pool *buffers) (*codec, error) {
	proto := encoding.GetCodecV2(protocodec.Name)
	if proto == nil {
		return nil, errors.New("extproc: grpc has no proto codec")
	}
	return &codec{CodecV2: proto, buffers: pool}, nil
}

// Marshal implements encoding.CodecV2.
func (c *codec) Marshal(v any) (mem.BufferSlice, error) {
	if r, ok := v.(*reply); ok {
		return r.data, nil
	}
	return c.CodecV2.Marshal(v)
}

// Unmarshal implements encoding.CodecV2. A message in one buffer is taken as it
// is; one that spans several is copied once.
func (c *codec) Unmarshal(data mem.BufferSlice, v any) error {
	if w, ok := v.(*wire); ok {
		w.data = data.MaterializeToBuffer(c.buffers)
		return nil
	}
	return c.CodecV2.Unmarshal(data, v)
}

// buffers is a mem.BufferPool that does not clear what it hands out. grpc's
// default pool clears a buffer's whole capacity: 1 MiB for a message of 40 KiB.
type buffers struct {
	classes [maxClass - minClass + 1]sync.Pool
}

// Buffers of 2^minClass to 2^maxClass bytes are kept; smaller ones are cheaper
// to allocate, larger ones would bind memory for a rare body.
const (
	minClass = 11
	maxClass = 20
)

// Get implements mem.BufferPool. The content is arbitrary.
func (p *buffers) Get(n int) *[]byte {
	if n <= 1<<(minClass-1) || n > 1<<maxClass {
		b := make([]byte, n)
		return &b
	}
	class := max(bits.Len(uint(n-1)), minClass)
	if b, ok := p.classes[class-minClass].Get().(*[]byte); ok {
		*b = (*b)[:n]
		return b
	}
	b := make([]byte, n, 1<<class)
	return &b
}

// Put implements mem.BufferPool.
func (p *buffers) Put(b *[]byte) {
	n := cap(*b)
	if n < 1<<minClass || n > 1<<maxClass || n&(n-1) != 0 {
		return
	}
	p.classes[bits.Len(uint(n))-1-minClass].Put(b)
}
