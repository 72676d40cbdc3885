package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"airgate/envoy/xds"
)

// envoyAdmin talks to Envoy's admin interface on its Unix socket.
type envoyAdmin struct {
	path   string
	client *http.Client
}

func newEnvoyAdmin(path string) *envoyAdmin {
	return &envoyAdmin{path: path, client: &http.Client{
		Timeout: 2 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", path)
			},
		},
	}}
}

func (a *envoyAdmin) do(ctx context.Context, method, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://envoy"+path, http.NoBody)
	if err != nil {
		return "", err
	}
	res, err := a.client.Do(req)
	if err != nil {
		return "", fmt.Errorf("ask Envoy at %s: %w", a.path, err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return "", fmt.Errorf("ask Envoy at %s: %w", a.path, err)
	}
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("envoy answered %s with status %d", path, res.StatusCode)
	}
	return string(body), nil
}

// ready reports whether Envoy accepts callers.
func (a *envoyAdmin) ready(ctx context.Context) bool {
	body, err := a.do(ctx, http.MethodGet, "/ready")
	return err == nil && strings.HasPrefix(body, "LIVE")
}

// drain asks Envoy to send callers elsewhere and returns how many of their
// requests are open: 0 as soon as there is none, more when ctx ends. New ones
// are still answered. SIGTERM alone would cut every open stream.
func (a *envoyAdmin) drain(ctx context.Context) (active int, err error) {
	for _, path := range []string{"/healthcheck/fail", "/drain_listeners?graceful&skip_exit"} {
		if _, err := a.do(ctx, http.MethodPost, path); err != nil {
			return 0, err
		}
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		active, err = a.active(context.WithoutCancel(ctx)) // so that the last answer is a count
		if err != nil || active == 0 {
			return 0, err
		}
		select {
		case <-ctx.Done():
			return active, nil
		case <-tick.C:
		}
	}
}

const activeStat = "http." + xds.StatPrefix + ".downstream_rq_active"

// active is the number of callers' requests that are open.
func (a *envoyAdmin) active(ctx context.Context) (int, error) {
	body, err := a.do(ctx, http.MethodGet, "/stats?"+url.Values{"filter": {"^" + regexp.QuoteMeta(activeStat) + "$"}}.Encode())
	if err != nil {
		return 0, err
	}
	_, text, ok := strings.Cut(strings.TrimSpace(body), activeStat+": ")
	n, err := strconv.Atoi(text)
	if !ok || err != nil {
		return 0, errors.New("envoy does not tell how many requests are open: it runs with another bootstrap than airgate's")
	}
	return n, nil
}
