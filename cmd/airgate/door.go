package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"
)

// door is an HTTP listener's handler. It can be exchanged while it serves.
type door struct {
	addr    net.Addr // nil = not open
	handler atomic.Pointer[http.Handler]
}

func (d *door) set(h http.Handler) { d.handler.Store(&h) }

// ServeHTTP passes the request to the handler of the moment.
func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) { (*d.handler.Load()).ServeHTTP(w, r) }

// loopback refuses an address that others could reach.
func loopback(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return errors.New("want host:port")
	}
	if host == "localhost" {
		return nil
	}
	if ip, err := netip.ParseAddr(host); err != nil || !ip.IsLoopback() {
		return errors.New("want a loopback address, such as " + defaultAdmin + ": the JSON API has no authentication in this version")
	}
	return nil
}

// inUseError says that another process has the address that a flag gave.
type inUseError struct{ flag, addr string }

func (e *inUseError) Error() string {
	return fmt.Sprintf("%s %s is in use by another process: end it, or name another address with %s", e.flag, e.addr, e.flag)
}

// listen opens the TCP address that a flag gave.
func listen(ctx context.Context, flag, addr string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, unreachable(&inUseError{flag, addr})
	}
	return nil, unreachable(fmt.Errorf("%s %s: %w", flag, addr, err))
}

// serveHTTP serves h on l until ctx ends; then open calls may go on for grace,
// and are cut.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler, grace time.Duration) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if err := srv.Shutdown(bounded); err != nil {
		_ = srv.Close()
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	return nil
}
