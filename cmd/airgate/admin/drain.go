package admin

import (
	"context"
	"crypto/subtle"
	"net/http"
	"time"
)

const (
	drainHeader  = "x-airgate-drain-token"
	drainTimeout = time.Minute // of /drain without ?timeout
	maxDrain     = time.Hour
)

// drain is for a preStop hook, which can only send GET: it answers when Envoy
// has no request open, or after ?timeout, and says how many are.
func (a *API) drain(w http.ResponseWriter, r *http.Request) {
	if a.cfg.Drain == nil {
		fail(w, http.StatusForbidden, "drain_disabled", "this airgate does not drain: start it with --drain-token FILE")
		return
	}
	token, err := a.cfg.DrainToken()
	if err != nil {
		fail(w, http.StatusInternalServerError, "internal", err.Error())
		return
	}
	if subtle.ConstantTimeCompare([]byte(r.Header.Get(drainHeader)), []byte(token)) != 1 {
		fail(w, http.StatusUnauthorized, "unauthorized", "header "+drainHeader+" must be the content of the file that --drain-token names")
		return
	}
	timeout := drainTimeout
	if text := r.URL.Query().Get("timeout"); text != "" {
		if timeout, err = time.ParseDuration(text); err != nil || timeout <= 0 || timeout > maxDrain {
			fail(w, http.StatusBadRequest, "bad_request", "timeout: want a duration such as 300s, at most "+maxDrain.String())
			return
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	active, err := a.cfg.Drain(ctx)
	if err != nil {
		fail(w, http.StatusBadGateway, "envoy_unreachable", err.Error())
		return
	}
	tell(w, map[string]int{"active": active})
}
