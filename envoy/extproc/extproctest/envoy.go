package extproctest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strconv"
	"strings"
	"sync"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const process = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"

// Envoy is the client end of one connection, written in HTTP/2 frames so that
// it can do what Envoy does and a gRPC client cannot: reset a stream in the
// same write as its last message. Safe for concurrent use.
type Envoy struct {
	conn   net.Conn
	done   chan struct{} // closed when the reading goroutine has ended
	method string

	mu      sync.Mutex
	space   sync.Cond // the windows have grown, a ping came back, or err is set
	framer  *http2.Framer
	out     *bytes.Buffer // frames not yet written; framer writes here
	hpack   *hpack.Encoder
	block   *bytes.Buffer
	nextID  uint32
	calls   map[uint32]*Call
	window  int64 // of the connection
	initial int64 // of a new stream
	pings   int   // not yet answered
	err     error
}

// Call is one stream: one HTTP request. Send and Recv may run concurrently.
type Call struct {
	envoy  *Envoy
	id     uint32
	window int64 // under envoy.mu

	mu     sync.Mutex
	more   sync.Cond
	in     []byte // received, not yet taken
	status error  // io.EOF = OK
}

// Dial connects to the ext_proc server at addr, "unix:///path" or "ip:port".
func Dial(addr string) (*Envoy, error) { return dial(addr, process) }

func dial(addr, method string) (*Envoy, error) {
	network := "tcp"
	if path, ok := strings.CutPrefix(addr, "unix://"); ok {
		network, addr = "unix", path
	}
	conn, err := net.Dial(network, addr)
	if err != nil {
		return nil, fmt.Errorf("dial ext_proc: %w", err)
	}
	e := &Envoy{
		conn: conn, done: make(chan struct{}), method: method,
		out: &bytes.Buffer{}, block: &bytes.Buffer{},
		nextID: 1, calls: map[uint32]*Call{}, window: 65535, initial: 65535,
	}
	e.space.L = &e.mu
	e.hpack = hpack.NewEncoder(e.block)
	e.framer = http2.NewFramer(e.out, conn)
	e.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)

	e.mu.Lock()
	defer e.mu.Unlock()
	e.out.WriteString(http2.ClientPreface)
	err = errors.Join(
		e.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: math.MaxInt32}),
		e.framer.WriteWindowUpdate(0, math.MaxInt32-65535),
		e.flush(),
	)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	go e.read()
	return e, nil
}

// Close ends the connection; calls that are open see it as a lost connection.
func (e *Envoy) Close() error {
	err := e.conn.Close()
	<-e.done
	return err
}

// flush writes the frames made so far. Called with e.mu held.
func (e *Envoy) flush() error {
	if e.err != nil {
		return e.err
	}
	_, err := e.conn.Write(e.out.Bytes())
	e.out.Reset()
	return err
}

// Ping returns when the server has taken all frames written so far.
func (e *Envoy) Ping() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.pings++
	if err := errors.Join(e.framer.WritePing(false, [8]byte{1}), e.flush()); err != nil {
		return err
	}
	for e.pings > 0 && e.err == nil {
		e.space.Wait()
	}
	return e.err
}

// Open begins a stream. Nothing is written before the first Send.
func (e *Envoy) Open() (*Call, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err != nil {
		return nil, e.err
	}
	c := &Call{envoy: e, id: e.nextID, window: e.initial}
	c.more.L = &c.mu
	e.nextID += 2
	e.calls[c.id] = c
	e.block.Reset()
	for _, f := range []hpack.HeaderField{
		{Name: ":method", Value: "POST"},
		{Name: ":scheme", Value: "http"},
		{Name: ":path", Value: e.method},
		{Name: ":authority", Value: "airgate"},
		{Name: "te", Value: "trailers"},
		{Name: "content-type", Value: "application/grpc"},
	} {
		if err := e.hpack.WriteField(f); err != nil {
			return nil, fmt.Errorf("encode headers: %w", err)
		}
	}
	err := e.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: c.id, BlockFragment: e.block.Bytes(), EndHeaders: true})
	return c, err
}

// Send writes one message.
func (c *Call) Send(m *extprocv3.ProcessingRequest) error {
	b, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	return c.SendWire(b)
}

// SendWire writes one message that is encoded already, or that is none.
func (c *Call) SendWire(b []byte) error {
	c.envoy.mu.Lock()
	defer c.envoy.mu.Unlock()
	if err := c.frame(b); err != nil {
		return err
	}
	return c.envoy.flush()
}

// SendAndReset writes messages and the stream's reset in one piece, as Envoy
// does when a client leaves. They must fit the window.
func (c *Call) SendAndReset(ms ...*extprocv3.ProcessingRequest) error {
	c.envoy.mu.Lock()
	defer c.envoy.mu.Unlock()
	for _, m := range ms {
		b, err := proto.Marshal(m)
		if err != nil {
			return fmt.Errorf("encode message: %w", err)
		}
		if err := c.frame(b); err != nil {
			return err
		}
	}
	if err := c.envoy.framer.WriteRSTStream(c.id, http2.ErrCodeCancel); err != nil {
		return err
	}
	delete(c.envoy.calls, c.id)
	return c.envoy.flush()
}

// Reset ends the stream as Envoy does when a request is over.
func (c *Call) Reset() error { return c.SendAndReset() }

// CloseSend ends the stream as Envoy does after most aborts: the server sees
// io.EOF and must say OK.
func (c *Call) CloseSend() error {
	c.envoy.mu.Lock()
	defer c.envoy.mu.Unlock()
	if err := c.envoy.framer.WriteData(c.id, true, nil); err != nil {
		return err
	}
	return c.envoy.flush()
}

// maxFrame is HTTP/2's smallest allowed limit.
const maxFrame = 16384

// frame makes the frames of one message, waiting for the windows. Called with
// envoy.mu held.
func (c *Call) frame(b []byte) error {
	e := c.envoy
	if err := c.ended(); err != nil {
		return err
	}
	message := make([]byte, 5, 5+len(b))
	binary.BigEndian.PutUint32(message[1:], uint32(len(b)))
	message = append(message, b...)
	for len(message) > 0 {
		n := min(int64(len(message)), maxFrame, e.window, c.window)
		if n <= 0 {
			if err := e.flush(); err != nil {
				return err
			}
			if err := c.ended(); err != nil {
				return err
			}
			e.space.Wait()
			continue
		}
		if err := e.framer.WriteData(c.id, false, message[:n]); err != nil {
			return err
		}
		message = message[n:]
		e.window -= n
		c.window -= n
	}
	return nil
}

// ended is the status of a stream that the server has ended.
func (c *Call) ended() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// Recv returns the next reply. When the server has ended the stream it returns
// its status: io.EOF for OK.
func (c *Call) Recv() (*extprocv3.ProcessingResponse, error) {
	b, err := c.RecvWire()
	if err != nil {
		return nil, err
	}
	m := &extprocv3.ProcessingResponse{}
	if err := proto.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("decode reply: %w", err)
	}
	return m, nil
}

// RecvWire is Recv without decoding.
func (c *Call) RecvWire() ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if len(c.in) >= 5 {
			n := 5 + int(binary.BigEndian.Uint32(c.in[1:]))
			if len(c.in) >= n {
				b := c.in[5:n:n]
				c.in = c.in[n:]
				return b, nil
			}
		}
		if c.status != nil {
			return nil, c.status
		}
		c.more.Wait()
	}
}

func (c *Call) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status == nil {
		c.status = err
	}
	c.more.Broadcast()
}

// read takes frames until the connection ends.
func (e *Envoy) read() {
	defer close(e.done)
	for {
		f, err := e.framer.ReadFrame()
		if err == nil {
			err = e.take(f)
		}
		if err != nil {
			e.fail(err)
			return
		}
	}
}

func (e *Envoy) fail(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.err = status.Error(codes.Unavailable, err.Error())
	for _, c := range e.calls {
		c.end(e.err)
	}
	e.space.Broadcast()
}

func (e *Envoy) take(f http2.Frame) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.calls[f.Header().StreamID]
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if f.IsAck() {
			return nil
		}
		if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
			for _, c := range e.calls {
				c.window += int64(v) - e.initial
			}
			e.initial = int64(v)
			e.space.Broadcast()
		}
		return errors.Join(e.framer.WriteSettingsAck(), e.flush())
	case *http2.PingFrame:
		if f.IsAck() {
			e.pings--
			e.space.Broadcast()
			return nil
		}
		return errors.Join(e.framer.WritePing(true, f.Data), e.flush())
	case *http2.WindowUpdateFrame:
		if f.StreamID == 0 {
			e.window += int64(f.Increment)
		} else if c != nil {
			c.window += int64(f.Increment)
		}
		e.space.Broadcast()
	case *http2.DataFrame:
		if c != nil {
			c.mu.Lock()
			c.in = append(c.in, f.Data()...)
			c.more.Broadcast()
			c.mu.Unlock()
		}
		if n := f.Header().Length; n > 0 { // the stream's own window outlives any test
			return errors.Join(e.framer.WriteWindowUpdate(0, n), e.flush())
		}
	case *http2.MetaHeadersFrame:
		if c != nil && f.StreamEnded() {
			delete(e.calls, c.id)
			c.end(trailers(f))
			e.space.Broadcast()
		}
	case *http2.RSTStreamFrame:
		if c != nil {
			delete(e.calls, c.id)
			c.end(status.Error(codes.Unavailable, "stream reset: "+f.ErrCode.String()))
			e.space.Broadcast()
		}
	}
	return nil
}

// trailers is the status in f; io.EOF for OK.
func trailers(f *http2.MetaHeadersFrame) error {
	code, text := codes.Unknown, ""
	for _, h := range f.Fields {
		switch h.Name {
		case "grpc-status":
			if n, err := strconv.ParseUint(h.Value, 10, 32); err == nil {
				code = codes.Code(n)
			}
		case "grpc-message":
			text = h.Value
		}
	}
	if code == codes.OK {
		return io.EOF
	}
	return status.Error(code, text)
}
