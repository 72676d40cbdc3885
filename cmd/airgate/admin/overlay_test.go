package admin

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"airgate/policy/config"
	"airgate/policy/overlay"
)

const (
	writeToken = "s3cret"
	blockBody  = `{"kind": "block/team", "name": "search", "until": "UNTIL", "by": "kim", "reason": "INC-12"}`
)

// writable is whole with a Put that lays entries over its snapshot; err is what
// Put returns beside the entry.
func writable(t *testing.T, err *error) Config {
	t.Helper()
	cfg := whole(t)
	current, known := cfg.Snapshot(), overlay.Set{}
	cfg.Snapshot = func() *config.Snapshot { return current }
	cfg.WriteToken = func() (string, error) { return writeToken, nil }
	cfg.Put = func(_ context.Context, e overlay.Entry) (overlay.Entry, error) {
		if *err != nil && errors.Is(*err, overlay.ErrNothing) {
			return overlay.Entry{}, *err
		}
		e.Made = time.Now().UTC().Truncate(time.Millisecond)
		known.Add(e)
		next, werr := current.With(known.Holding(time.Now()), time.Now())
		if werr != nil {
			t.Error(werr)
			return e, werr
		}
		current = next
		return e, *err
	}
	return cfg
}

// post sends body as a local command would, but for the headers given.
func post(h http.Handler, body string, header ...string) *httptest.ResponseRecorder {
	body = strings.Replace(body, "UNTIL", time.Now().Add(time.Hour).UTC().Format(time.RFC3339), 1)
	r := httptest.NewRequest(http.MethodPost, "/api/v1/overlay", strings.NewReader(body))
	r.Host = "127.0.0.1:9901"
	r.Header.Set(WriteHeader, writeToken)
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		}
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// TestWriteDoor: who may write.
func TestWriteDoor(t *testing.T) {
	var none error
	for name, test := range map[string]struct {
		header []string
		status int
		code   string
		part   string
	}{
		"a command":              {nil, 200, "", ""},
		"the page of this door":  {[]string{"Origin", "http://127.0.0.1:9901", "Sec-Fetch-Site", "same-origin"}, 200, "", ""},
		"with a charset":         {[]string{"Content-Type", "application/json; charset=utf-8"}, 200, "", ""},
		"no token":               {[]string{WriteHeader, ""}, 401, "unauthorized", "--admin-write-token"},
		"another token":          {[]string{WriteHeader, "s3cre"}, 401, "unauthorized", "--admin-write-token"},
		"a page of another site": {[]string{"Origin", "https://evil.example.com"}, 403, "cross_origin", "another origin"},
		"a page of another port": {[]string{"Origin", "http://127.0.0.1:8080"}, 403, "cross_origin", "another origin"},
		"a page that says so":    {[]string{"Sec-Fetch-Site", "cross-site"}, 403, "cross_origin", "another origin"},
		"a form":                 {[]string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "bad_request", "want Content-Type: application/json"},
		"a form as text":         {[]string{"Content-Type", "text/plain"}, 415, "bad_request", "want Content-Type: application/json"},
		"a name that leads here": {[]string{"Host", "evil.example.com"}, 421, "misdirected", "loopback"},
		"and has the token":      {[]string{"Host", "evil.example.com", "Origin", "http://evil.example.com"}, 421, "misdirected", "loopback"},
	} {
		cfg := writable(t, &none)
		w := post(New(cfg).Admin(), blockBody, test.header...)
		switch {
		case test.status == 200 && (w.Code != 200 || len(cfg.Snapshot().InForce()) != 1):
			t.Errorf("%s: %d %s, want the entry in force", name, w.Code, w.Body)
		case test.status != 200:
			wantFault(t, w, test.status, test.code, test.part)
			if n := len(cfg.Snapshot().InForce()); n != 0 {
				t.Errorf("%s: %d entries are in force, want none", name, n)
			}
		}
	}
	cfg := writable(t, &none)
	cfg.WriteToken = func() (string, error) { return readFile(filepath.Join(t.TempDir(), "absent")) }
	wantFault(t, post(New(cfg).Admin(), blockBody), http.StatusInternalServerError, "internal", "no such file")
	cfg.WriteToken = nil
	wantFault(t, post(New(cfg).Admin(), blockBody), http.StatusForbidden, "writes_disabled", "start it with --admin-write-token FILE")
	wantFault(t, post(New(cfg).Ops(), blockBody), http.StatusNotFound, "not_found", "no such path")
	cfg.WriteToken, cfg.Put = func() (string, error) { return writeToken, nil }, nil
	wantFault(t, post(New(cfg).Admin(), blockBody), http.StatusServiceUnavailable, "not_known", "starting")
}

func readFile(path string) (string, error) {
	text, err := os.ReadFile(path)
	return string(text), err
}

// TestOverlayPut: what is no entry, or does not fit the files, is refused with
// the reason; what could not be stored is told as that.
func TestOverlayPut(t *testing.T) {
	var fault error
	cfg := writable(t, &fault)
	h := New(cfg).Admin()
	for body, want := range map[string]string{
		``:                       "EOF",
		`[]`:                     "not an object",
		`{"kind": "block/team"}`: "name is missing",
		strings.Replace(blockBody, "search", "serch", 1):                   `block/team/serch: no team "serch": did you mean search?`,
		strings.Replace(blockBody, `"by"`, `"who"`, 1):                     "unknown field",
		strings.Replace(blockBody, `"UNTIL"`, `"2020-01-01T00:00:00Z"`, 1): "is in the past",
		strings.Replace(blockBody, `"until": "UNTIL", `, ``, 1):            "until is missing",
	} {
		wantFault(t, post(h, body), http.StatusBadRequest, "bad_request", want)
	}
	wantFault(t, post(h, `{"kind": "`+strings.Repeat("x", 64<<10)+`"}`), http.StatusRequestEntityTooLarge, "bad_request", "64 KiB")

	told := object(t, post(h, strings.Replace(blockBody, `"by"`, `"made": "2001-01-01T00:00:00Z", "by"`, 1)))
	entry, _ := told["entry"].(map[string]any)
	yaml, _ := told["yaml"].(string)
	if made, _ := entry["made"].(string); entry["id"] != "block/team/search" || made < "2026" || !strings.Contains(yaml, "name: block-team-search") {
		t.Errorf("put = %v, want the entry, made now, and its YAML", told)
	}
	list, _ := object(t, ask(h, http.MethodGet, "/api/v1/overlay"))["overlay"].([]any)
	if len(list) != 1 || list[0].(map[string]any)["state"] != "in_force" || list[0].(map[string]any)["id"] != "block/team/search" {
		t.Errorf("overlay = %v, want the block in force", list)
	}

	fault = errors.New("connection refused")
	wantFault(t, post(h, blockBody), http.StatusServiceUnavailable, "store_unavailable", "holds in this airgate, and NOT yet in others")
	fault = ErrNotInForce
	wantFault(t, post(h, blockBody), http.StatusServiceUnavailable, "not_in_force", "does not hold here yet")
	fault = overlay.ErrNothing
	wantFault(t, post(h, `{"kind": "block/team", "name": "search", "by": "kim", "reason": "x", "removed": true}`), http.StatusNotFound, "not_found", "nothing to take back")
}

// TestOverlaidKeys: a key that the overlay ends is not told as active.
func TestOverlaidKeys(t *testing.T) {
	var none error
	cfg := writable(t, &none)
	h := New(cfg).Admin()
	state := func() string {
		t.Helper()
		keys, _ := object(t, ask(h, http.MethodGet, "/api/v1/keys"))["keys"].([]any)
		k, _ := keys[0].(map[string]any)
		s, _ := k["state"].(string)
		if (k["revoked"] != nil) != (s == "revoked") {
			t.Errorf("key = %v, want revoked only with that state", k)
		}
		return s
	}
	for _, step := range []struct{ body, want string }{
		{"", "active"},
		{strings.NewReplacer("block/team", "block/key", "search", "prod").Replace(blockBody), "blocked"},
		{`{"kind": "revoke", "name": "k7Qm2xT9aB4c", "by": "kim", "reason": "leaked"}`, "revoked"},
	} {
		if step.body != "" {
			if w := post(h, step.body); w.Code != http.StatusOK {
				t.Fatalf("post %s = %d %s", step.body, w.Code, w.Body)
			}
		}
		if got := state(); got != step.want {
			t.Errorf("after %s the key is %s, want %s", step.body, got, step.want)
		}
	}
}
