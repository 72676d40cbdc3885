// Package admin is the JSON API over a running airgate, or over its data
// directory offline. It answers: what does this airgate know. It has two doors:
// Admin, for the loopback interface, tells everything, and takes from who has the
// token entries of the overlay, and claims to what a lost writer had; Ops tells
// metrics and probes to others, and drains.
package admin

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"airgate/accounting"
	"airgate/accounting/report"
	"airgate/policy"
	"airgate/policy/config"
	"airgate/policy/overlay"
)

// Config configures an API. What a nil field would tell is answered with 503: a
// starting airgate does not know it yet, one without a sink never will.
type Config struct {
	Source   report.Source
	Fresh    func(context.Context) error // waits until Source has what was written so far; nil = it has
	Budgets  func(now time.Time) []accounting.Budget
	Snapshot func() *config.Snapshot
	Status   func() config.Status
	Keys     func() ([]config.ListedKey, error)
	Gatherer prometheus.Gatherer
	Ready    func(context.Context) error // its error is why not

	// Put makes an entry of the overlay, which Snapshot has admitted, and waits
	// until it holds here. The entry that it returns has its Made, unless nothing
	// was made.
	Put func(ctx context.Context, e overlay.Entry) (overlay.Entry, error)
	// Holders are the writers that the shared quota store knows of.
	Holders func(context.Context) ([]accounting.Holder, error)
	// Reclaim makes a claim that is right true, and puts it in the book. Set with Holders.
	Reclaim func(context.Context, *Claim, []accounting.Return) error

	// WriteToken is what a caller of a write must show. Nil refuses writes.
	WriteToken func() (string, error)

	// Drain asks Envoy to send callers elsewhere and waits until no request is
	// open, or ctx ends; it returns how many are. Nil refuses to drain.
	Drain func(context.Context) (active int, err error)
	// DrainToken is what a caller of /drain must show; set with Drain.
	DrainToken func() (string, error)
}

// API answers HTTP. Safe for concurrent use.
type API struct{ cfg Config }

// New returns an API.
func New(cfg Config) *API { return &API{cfg: cfg} }

// Ops is the door for others: /metrics /livez /readyz /drain.
func (a *API) Ops() http.Handler {
	mux := http.NewServeMux()
	a.probes(mux)
	mux.HandleFunc("GET /drain", a.drain)
	return others(mux)
}

// Admin is the loopback door. A browser page of another site must not be able
// to read it through a name that resolves here, so the Host must be loopback.
func (a *API) Admin() http.Handler {
	mux := http.NewServeMux()
	a.probes(mux)
	route := func(path string, known bool, h http.HandlerFunc) {
		if !known {
			h = unknown
		}
		mux.HandleFunc("GET "+path, h)
	}
	route("/-/config", a.cfg.Snapshot != nil, a.config)
	route("/-/config/status", a.cfg.Status != nil, a.status)
	route("/api/v1/budgets", a.cfg.Budgets != nil, a.budgets)
	route("/api/v1/keys", a.cfg.Keys != nil, a.keys)
	route("/api/v1/usage", a.cfg.Source != nil, a.usage)
	route("/api/v1/requests", a.cfg.Source != nil, a.requests)
	route("/api/v1/requests/{id}", a.cfg.Source != nil, a.request)
	route("/api/v1/denials", a.cfg.Source != nil, a.denials)
	route("/api/v1/audit", a.cfg.Source != nil, a.audit)
	route("/api/v1/overlay", a.cfg.Snapshot != nil, a.overlayList)
	route("/api/v1/escrow", a.cfg.Holders != nil, a.escrow)
	write := func(path string, known bool, h http.HandlerFunc) {
		if !known {
			h = unknown
		}
		mux.HandleFunc("POST "+path, a.write(h))
	}
	write("/api/v1/overlay", a.cfg.Put != nil, a.overlayPut)
	write("/api/v1/escrow/reclaim", a.cfg.Holders != nil, a.reclaim)
	h := others(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !loopbackHost(r.Host) {
			fail(w, http.StatusMisdirectedRequest, "misdirected", "this API answers only to a loopback host name, such as localhost")
			return
		}
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		h.ServeHTTP(w, r)
	})
}

// others adds errors of the API's own shape for what mux does not have.
func others(mux *http.ServeMux) http.Handler {
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		var allowed []string
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
			other := *r
			other.Method = method
			if _, pattern := mux.Handler(&other); pattern != "/" {
				allowed = append(allowed, method)
			}
		}
		if len(allowed) > 0 {
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			fail(w, http.StatusMethodNotAllowed, "method_not_allowed", "use "+strings.Join(allowed, " or "))
			return
		}
		fail(w, http.StatusNotFound, "not_found", "no such path: "+strconv.Quote(r.URL.Path))
	})
	return mux
}

func unknown(w http.ResponseWriter, _ *http.Request) {
	fail(w, http.StatusServiceUnavailable, "not_known", "this airgate does not know that: it is starting, as /readyz says, or its config ships records nowhere (sinks: [])")
}

func loopbackHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && ip.IsLoopback()
}

func (a *API) probes(mux *http.ServeMux) {
	mux.HandleFunc("GET /livez", fine)
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if a.cfg.Ready != nil {
			if err := a.cfg.Ready(r.Context()); err != nil {
				fail(w, http.StatusServiceUnavailable, "not_ready", err.Error())
				return
			}
		}
		fine(w, r)
	})
	if a.cfg.Gatherer != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(a.cfg.Gatherer, promhttp.HandlerOpts{}))
	}
}

func fine(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) }

// fail writes the API's error object. A key that somebody gave in place of a name
// is not said again.
func fail(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]string{"code": code, "message": policy.Redact(message)}})
}

// tell writes v. What cannot be written has no reader any more.
func tell(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}
