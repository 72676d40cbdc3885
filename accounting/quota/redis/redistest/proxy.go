package redistest

import (
	"bufio"
	"crypto/tls"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Proxy is a network between clients and a server. Each chunk that arrives is
// mostly one command or one answer.
type Proxy struct {
	Addr string

	target   atomic.Pointer[string]
	lost     atomic.Int64 // of 1000 answers, how many are destroyed with their connection
	unsent   atomic.Int64 // of 1000 commands
	delay    atomic.Int64 // of each answer, nanoseconds
	halfOpen atomic.Bool  // answers vanish and nobody is told

	listener net.Listener
	mu       sync.Mutex
	conns    map[net.Conn]struct{}
	copying  sync.WaitGroup
}

// NewProxy listens on a free port and forwards to addr, until the test ends.
func NewProxy(t testing.TB, addr string) *Proxy {
	t.Helper()
	return newProxy(t, addr, listen(t))
}

// NewTLSProxy ends TLS before a server that has none.
func NewTLSProxy(t testing.TB, addr string, c *tls.Config) *Proxy {
	t.Helper()
	return newProxy(t, addr, tls.NewListener(listen(t), c))
}

// NewMixedProxy ends TLS for those who begin with it, and forwards what others
// say as it is: clients with TLS and a Sentinel without it have one address for a
// server.
func NewMixedProxy(t testing.TB, addr string, c *tls.Config) *Proxy {
	t.Helper()
	return newProxy(t, addr, mixed{listen(t), c})
}

type mixed struct {
	net.Listener
	config *tls.Config
}

func (m mixed) Accept() (net.Conn, error) {
	c, err := m.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &heard{Conn: c, spoken: sync.OnceValue(func() net.Conn {
		const handshake = 22 // a TLS record's type; no command begins so
		r := bufio.NewReader(c)
		first, _ := r.Peek(1)
		whole := peeked{c, r}
		if len(first) == 1 && first[0] == handshake {
			return tls.Server(whole, m.config)
		}
		return whole
	})}, nil
}

// heard speaks as the client does, whose first byte it waits for.
type heard struct {
	net.Conn
	spoken func() net.Conn
}

func (h *heard) Read(p []byte) (int, error) { return h.spoken().Read(p) }

func (h *heard) Write(p []byte) (int, error) { return h.spoken().Write(p) }

// peeked is a connection of which something was read.
type peeked struct {
	net.Conn
	r *bufio.Reader
}

func (p peeked) Read(b []byte) (int, error) { return p.r.Read(b) }

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func newProxy(t testing.TB, addr string, l net.Listener) *Proxy {
	t.Helper()
	p := &Proxy{Addr: l.Addr().String(), listener: l, conns: make(map[net.Conn]struct{})}
	p.target.Store(&addr)
	p.copying.Go(p.serve)
	t.Cleanup(func() {
		_ = l.Close()
		p.Cut()
		p.copying.Wait()
	})
	return p
}

// To forwards to another server from now on.
func (p *Proxy) To(addr string) {
	p.target.Store(&addr)
	p.Cut()
}

// Lose destroys so many of 1000 answers, and of 1000 commands, with their
// connections.
func (p *Proxy) Lose(answers, commands int64) {
	p.lost.Store(answers)
	p.unsent.Store(commands)
}

// Delay holds up each answer for d.
func (p *Proxy) Delay(d time.Duration) { p.delay.Store(int64(d)) }

// HalfOpen swallows all answers and closes nothing.
func (p *Proxy) HalfOpen(on bool) { p.halfOpen.Store(on) }

// Cut closes all connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

func (p *Proxy) serve() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.DialTimeout("tcp", *p.target.Load(), time.Second)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.conns[client], p.conns[server] = struct{}{}, struct{}{}
		p.mu.Unlock()
		p.copying.Go(func() { p.copy(server, client, &p.unsent, false) })
		p.copying.Go(func() { p.copy(client, server, &p.lost, true) })
	}
}

func (p *Proxy) copy(to, from net.Conn, lose *atomic.Int64, answers bool) {
	defer func() {
		_ = to.Close()
		_ = from.Close()
		p.mu.Lock()
		delete(p.conns, from)
		p.mu.Unlock()
	}()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil || rand.Int64N(1000) < lose.Load() {
			return
		}
		if answers {
			time.Sleep(time.Duration(p.delay.Load()))
			if p.halfOpen.Load() {
				continue
			}
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}
