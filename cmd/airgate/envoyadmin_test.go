package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// adminSocket serves h where Envoy's admin interface would be.
func adminSocket(t *testing.T, h http.HandlerFunc) *envoyAdmin {
	t.Helper()
	dir, err := os.MkdirTemp("", "ag") //nolint:usetesting // short: a Unix socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "envoy.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	srv.Start()
	t.Cleanup(srv.Close)
	return newEnvoyAdmin(path)
}

func TestDrainAsksEnvoy(t *testing.T) {
	var asked []string
	open := 3
	a := adminSocket(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stats" {
			asked = append(asked, "stats "+r.URL.Query().Get("filter"))
			open--
			_, _ = io.WriteString(w, "http.callers.downstream_rq_active: "+string(rune('0'+open))+"\n")
			return
		}
		asked = append(asked, r.Method+" "+r.URL.RequestURI())
	})
	active, err := a.drain(t.Context())
	if active != 0 || err != nil {
		t.Errorf("drain = %d, %v, want 0", active, err)
	}
	const stats = `stats ^http\.callers\.downstream_rq_active$`
	want := []string{"POST /healthcheck/fail", "POST /drain_listeners?graceful&skip_exit", stats, stats, stats}
	if !slices.Equal(asked, want) {
		t.Errorf("asked %q, want %q", asked, want)
	}
}

func TestDrainEnds(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		stats  string
		active int
		want   string
	}{
		"busy":           {200, "http.callers.downstream_rq_active: 2\n", 2, ""},
		"quiet":          {200, "http.callers.downstream_rq_active: 0\n", 0, ""},
		"other config":   {200, "", 0, "another bootstrap"},
		"nonsense":       {200, "http.callers.downstream_rq_active: many\n", 0, "another bootstrap"},
		"refuses":        {503, "", 0, "envoy answered /healthcheck/fail with status 503"},
		"not of callers": {200, "http.other.downstream_rq_active: 0\n", 0, "another bootstrap"},
	} {
		t.Run(name, func(t *testing.T) {
			a := adminSocket(t, func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(c.status)
				if r.URL.Path == "/stats" {
					_, _ = io.WriteString(w, c.stats)
				}
			})
			ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
			defer cancel()
			active, err := a.drain(ctx)
			if active != c.active || (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("drain = %d, %v, want %d, %q", active, err, c.active, c.want)
			}
		})
	}
}

func TestReady(t *testing.T) {
	for body, want := range map[string]bool{"LIVE\n": true, "DRAINING\n": false, "PRE_INITIALIZING\n": false, "": false} {
		a := adminSocket(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })
		if got := a.ready(t.Context()); got != want {
			t.Errorf("ready with %q = %v, want %v", body, got, want)
		}
	}
	if newEnvoyAdmin("/nowhere/envoy.sock").ready(t.Context()) {
		t.Error("ready without an Envoy")
	}
}
