package admin

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"airgate/accounting"
	"airgate/accounting/money"
)

// postClaim sends body as a local command would.
func postClaim(h http.Handler, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/api/v1/escrow/reclaim", strings.NewReader(body))
	r.Host = "127.0.0.1:9901"
	r.Header.Set(WriteHeader, writeToken)
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// TestEscrow: who has what set aside is told; what goes back is what the store of now
// says, and only with a proof, or a sum that is no less.
func TestEscrow(t *testing.T) {
	const account = "usd|month@UTC|2026-11"
	beat := time.Date(2026, 11, 3, 12, 0, 0, 0, time.UTC)
	holders := []accounting.Holder{
		{Writer: "a.1", Heard: beat, Alive: true, Stakes: []accounting.Stake{{Account: account, Granted: 9 * money.USD}}},
		{Writer: "b.1", Stakes: []accounting.Stake{{Account: account, Granted: 9 * money.USD, Returned: money.USD, Told: 8 * money.USD}}},
		{Writer: "c.1", Heard: beat, Stakes: []accounting.Stake{{Account: account, Granted: 9 * money.USD, Returned: money.USD, Told: 2 * money.USD}}, Others: 2},
		{Writer: "d.1", Heard: beat, Others: 1},
	}
	var unknown, failed error
	var claimed []string
	cfg := Config{
		Holders: func(context.Context) ([]accounting.Holder, error) { return holders, unknown },
		Reclaim: func(_ context.Context, c *Claim, returns []accounting.Return) error {
			text := []string{c.Writer}
			for i := range returns {
				text = append(text, returns[i].Spent.String(), returns[i].Back.String())
			}
			claimed = append(claimed, strings.Join(text, " "))
			return failed
		},
		WriteToken: func() (string, error) { return writeToken, nil },
	}
	h := New(cfg).Admin()
	for path, want := range map[string]string{
		"/api/v1/escrow": `{"writers":[` +
			`{"writer":"a.1","alive":true,"last_beat":"2026-11-03T12:00:00Z","set_aside_usd":"9","accounts":[{"account":"usd|month@UTC|2026-11","set_aside_usd":"9","granted_usd":"9","returned_usd":"0","told_usd":"0"}],"other_accounts":0},` +
			`{"writer":"c.1","alive":false,"last_beat":"2026-11-03T12:00:00Z","set_aside_usd":"6","accounts":[{"account":"usd|month@UTC|2026-11","set_aside_usd":"6","granted_usd":"9","returned_usd":"1","told_usd":"2"}],"other_accounts":2},` +
			`{"writer":"d.1","alive":false,"last_beat":"2026-11-03T12:00:00Z","set_aside_usd":"0","accounts":[],"other_accounts":1}]}`,
		"/api/v1/escrow?writer=b.1": `{"writers":[{"writer":"b.1","alive":false,"last_beat":null,"set_aside_usd":"0","accounts":[{"account":"usd|month@UTC|2026-11","set_aside_usd":"0","granted_usd":"9","returned_usd":"1","told_usd":"8"}],"other_accounts":0}]}`,
		"/api/v1/escrow?writer=x":   `{"writers":[]}`,
	} {
		if w := ask(h, http.MethodGet, path); w.Code != http.StatusOK || strings.TrimSpace(w.Body.String()) != want {
			t.Errorf("%s = %d %s, want %s", path, w.Code, w.Body, want)
		}
	}

	claim := func(writer, rest string) string {
		return `{"writer":"` + writer + `","by":"kim","reason":"INC-12"` + rest + `}`
	}
	for name, c := range map[string]struct {
		body   string
		status int
		code   string
		part   string
	}{
		"no JSON":          {"x", 400, "bad_request", "invalid character"},
		"no reason":        {`{"writer":"c.1","by":"kim"}`, 400, "bad_request", "reason: want one line of text of 1 to 256 bytes"},
		"a reason of two":  {`{"writer":"c.1","by":"kim","reason":"a\nb"}`, 400, "bad_request", "reason: want one line"},
		"a long proof":     {claim("c.1", `,"proof":"`+strings.Repeat("x", 257)+`"`), 400, "bad_request", "proof: want"},
		"no account":       {claim("c.1", `,"proof":"p","recorded_usd":{"nonsense":"1"}`), 400, "bad_request", "nonsense"},
		"much too long":    {claim("c.1", `,"proof":"`+strings.Repeat("x", 8<<20)+`"`), 413, "bad_request", "8 MiB"},
		"alive":            {claim("a.1", `,"proof":"p"`), 409, "alive", "a.1 is alive: the store has heard of it at 2026-11-03T12:00:00Z"},
		"nothing":          {claim("b.1", `,"proof":"p"`), 404, "not_found", "nothing is set aside for b.1"},
		"unknown":          {claim("x", `,"proof":"p"`), 404, "not_found", "nothing is set aside for x"},
		"no proof":         {claim("c.1", ``), 409, "not_proven", "6 USD would go back"},
		"too little":       {claim("c.1", `,"accept_usd":"5.999999"`), 409, "not_proven", "6 USD would go back"},
		"nothing accepted": {claim("c.1", `,"recorded_usd":{"usd|month@UTC|2026-11":"8"}`), 409, "not_proven", "0 USD would go back"},
	} {
		w := postClaim(h, c.body)
		wantFault(t, w, c.status, c.code, c.part)
		if len(claimed) > 0 {
			t.Errorf("%s: it was done: %q", name, claimed)
			claimed = nil
		}
	}
	for rest, want := range map[string]string{
		`,"accept_usd":"6"`: "c.1 2 6",
		`,"proof":"p","recorded_usd":{"usd|month@UTC|2026-11":"3"}`:        "c.1 3 5",
		`,"accept_usd":"0","recorded_usd":{"usd|month@UTC|2026-11":"8.5"}`: "c.1 8.5 0",
	} {
		claimed = nil
		if w := postClaim(h, claim("c.1", rest)); w.Code != http.StatusOK || len(claimed) != 1 || claimed[0] != want || !strings.Contains(w.Body.String(), `"other_accounts":2`) {
			t.Errorf("claim %s = %d %s, done %q, want %q", rest, w.Code, w.Body, claimed, want)
		}
	}
	if w := postClaim(h, claim("d.1", `,"proof":"p"`)); w.Code != http.StatusOK {
		t.Errorf("a claim to tokens alone = %d %s", w.Code, w.Body)
	}
	failed = errors.New("no answer")
	wantFault(t, postClaim(h, claim("c.1", `,"proof":"p"`)), http.StatusServiceUnavailable, "store_unavailable", "no answer")
	unknown = errors.New("no answer")
	wantFault(t, postClaim(h, claim("c.1", `,"proof":"p"`)), http.StatusServiceUnavailable, "store_unavailable", "no answer")
	wantFault(t, ask(h, http.MethodGet, "/api/v1/escrow"), http.StatusServiceUnavailable, "store_unavailable", "no answer")
	unknown = ErrNotShared
	wantFault(t, postClaim(h, claim("c.1", `,"proof":"p"`)), http.StatusConflict, "not_shared", "in memory")
	wantFault(t, ask(h, http.MethodGet, "/api/v1/escrow"), http.StatusConflict, "not_shared", "in memory")

	cfg.WriteToken = func() (string, error) { return "another", nil }
	wantFault(t, postClaim(New(cfg).Admin(), claim("c.1", `,"proof":"p"`)), http.StatusUnauthorized, "unauthorized", "--admin-write-token")
	cfg.WriteToken = func() (string, error) { return writeToken, nil }
	cfg.Holders = nil
	wantFault(t, postClaim(New(cfg).Admin(), claim("c.1", `,"proof":"p"`)), http.StatusServiceUnavailable, "not_known", "starting")
	wantFault(t, ask(New(cfg).Admin(), http.MethodGet, "/api/v1/escrow"), http.StatusServiceUnavailable, "not_known", "starting")
}
