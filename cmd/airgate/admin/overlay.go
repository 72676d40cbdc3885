package admin

import (
	"crypto/subtle"
	"errors"
	"io"
	"mime"
	"net/http"
	"time"

	"airgate/policy/config"
	"airgate/policy/overlay"
)

// WriteHeader carries the token of a write.
const WriteHeader = "X-Airgate-Write-Token"

// maxEntry is more than an entry of the overlay can have.
const maxEntry = 64 << 10

// ErrNotInForce is in an error of Config.Put whose entry is known and stored,
// but does not hold here yet.
var ErrNotInForce = errors.New("not in force yet")

// write guards what changes something: with the token, from no page of another
// site, and as JSON. The token comes first, so that others learn nothing more.
func (a *API) write(h http.HandlerFunc) http.HandlerFunc {
	var origins http.CrossOriginProtection
	return func(w http.ResponseWriter, r *http.Request) {
		if a.cfg.WriteToken == nil {
			fail(w, http.StatusForbidden, "writes_disabled", "this airgate takes no writes: start it with --admin-write-token FILE, a file with a secret line of your own (openssl rand -hex 32 >FILE)")
			return
		}
		token, err := a.cfg.WriteToken()
		if err != nil {
			fail(w, http.StatusInternalServerError, "internal", err.Error())
			return
		}
		if subtle.ConstantTimeCompare([]byte(r.Header.Get(WriteHeader)), []byte(token)) != 1 {
			fail(w, http.StatusUnauthorized, "unauthorized", "header "+WriteHeader+" must be the content of the file that --admin-write-token names")
			return
		}
		if err := origins.Check(r); err != nil {
			fail(w, http.StatusForbidden, "cross_origin", "a page of another origin may not write here")
			return
		}
		if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
			fail(w, http.StatusUnsupportedMediaType, "bad_request", "want Content-Type: application/json")
			return
		}
		h(w, r)
	}
}

// overlayList tells what is laid over the files.
func (a *API) overlayList(w http.ResponseWriter, _ *http.Request) {
	tell(w, map[string]any{"overlay": a.cfg.Snapshot().LaidViews()})
}

// overlayPut takes an entry, or with removed one back.
func (a *API) overlayPut(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxEntry))
	if err != nil {
		fail(w, http.StatusRequestEntityTooLarge, "bad_request", "an entry is at most 64 KiB of JSON")
		return
	}
	e, err := overlay.ParseDraft(body)
	if err == nil {
		e.Made = time.Time{} // it is made here and now
		e, err = a.cfg.Snapshot().Admit(e, time.Now())
	}
	if err != nil {
		fail(w, http.StatusBadRequest, "bad_request", err.Error())
		return
	}
	e, err = a.cfg.Put(r.Context(), e)
	switch {
	case e.Made.IsZero() && errors.Is(err, overlay.ErrNothing):
		fail(w, http.StatusNotFound, "not_found", err.Error())
	case e.Made.IsZero():
		fail(w, http.StatusBadRequest, "bad_request", err.Error())
	case errors.Is(err, ErrNotInForce):
		fail(w, http.StatusServiceUnavailable, "not_in_force", e.ID()+" is known and does not hold here yet: "+err.Error())
	case err != nil:
		fail(w, http.StatusServiceUnavailable, "store_unavailable",
			e.ID()+" holds in this airgate, and NOT yet in others: its store is told as soon as it can be: "+err.Error())
	default:
		tell(w, a.told(e))
	}
}

// Told is what the API says of an entry that was put.
type Told struct {
	Entry overlay.Entry `json:"entry"`
	YAML  string        `json:"yaml"` // to commit in its place; "" of a removal
}

func (a *API) told(e overlay.Entry) Told {
	for _, l := range a.cfg.Snapshot().Laid {
		if l.Entry == e {
			return Told{Entry: e, YAML: l.YAML}
		}
	}
	return Told{Entry: e}
}

// Overlaid is the listed keys as the overlay leaves them: of those it ends or
// blocks, the state says so.
func Overlaid(keys []Key, laid []config.Laid) []Key {
	for i := range laid {
		l := &laid[i]
		for j := range keys {
			k := &keys[j]
			if l.State != config.InForce || l.Entry.Name != k.ID {
				continue
			}
			switch l.Entry.Kind {
			case overlay.Revoke:
				k.State, k.Revoked = "revoked", at(l.Entry.Made)
			case overlay.BlockKey:
				if k.State == "active" {
					k.State = "blocked"
				}
			case overlay.Raise, overlay.BlockTeam, overlay.BlockModel, overlay.BlockProvider:
			}
		}
	}
	return keys
}
