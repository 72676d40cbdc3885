package xds

import (
	"encoding/pem"
	"net/http"
	"strconv"
	"sync"
)

// providerServer answers 200, or what the header x-answer says, and remembers
// what it was asked.
type providerServer struct {
	mu   sync.Mutex
	seen []*http.Request
}

func (p *providerServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.seen = append(p.seen, r)
	p.mu.Unlock()
	w.Header().Set("server", "provider")
	if code, err := strconv.Atoi(r.Header.Get("x-answer")); err == nil {
		w.WriteHeader(code)
	}
}

func (p *providerServer) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.seen)
}

func (p *providerServer) last() *http.Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen[len(p.seen)-1]
}

func pemOf(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
