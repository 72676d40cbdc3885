package admin

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
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
			last, err := c.Last()
			if err != nil || last.Writer != c.Writer {
				t.Errorf("the last record is %+v, %v", last, err)
			}
			text = append(text, strconv.FormatUint(last.Seq, 10), last.Hash.String()[:2])
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

	proof := `,"proof":"p","last_seq":7,"last_hash":"` + strings.Repeat("0f", 32) + `"`
	claim := func(writer, rest string) string {
		return `{"writer":"` + writer + `","by":"kim","reason":"INC-12"` + rest + `}`
	}
	for name, c := range map[string]struct {
		body   string
		status int
		code   string
		part   string
	}{
		"no JSON":           {"x", 400, "bad_request", "invalid character"},
		"no reason":         {`{"writer":"c.1","by":"kim"}`, 400, "bad_request", "reason: want one line of text of 1 to 256 bytes"},
		"a reason of two":   {`{"writer":"c.1","by":"kim","reason":"a\nb"}`, 400, "bad_request", "reason: want one line"},
		"a long proof":      {claim("c.1", `,"proof":"`+strings.Repeat("x", 257)+`"`), 400, "bad_request", "proof: want"},
		"no account":        {claim("c.1", proof+`,"recorded_usd":{"nonsense":"1"}`), 400, "bad_request", "nonsense"},
		"no account at all": {claim("c.1", proof+`,"recorded_usd":{"usd|nonsense":"1"}`), 400, "bad_request", "nonsense"},
		"tokens":            {claim("c.1", proof+`,"recorded_usd":{"tokens|day@UTC|2099-11-03":"0.000000005"}`), 400, "bad_request", "tokens|day@UTC|2099-11-03 is no account of money"},
		"less than 0":       {claim("c.1", proof+`,"recorded_usd":{"usd|month@UTC|2026-11":"-0.000000001"}`), 400, "bad_request", "-0.000000001 of usd|month@UTC|2026-11: want 0 to 9007199254.740991 USD"},
		"more than counts":  {claim("c.1", proof+`,"recorded_usd":{"usd|month@UTC|2026-11":"9007199254.740991001"}`), 400, "bad_request", "want 0 to 9007199254.740991 USD"},
		"all there is":      {claim("c.1", proof+`,"recorded_usd":{"usd|month@UTC|2026-11":"9223372036.854775807"}`), 400, "bad_request", "want 0 to 9007199254.740991 USD"},
		"a journal":         {claim("c.1/journal", proof), 400, "bad_request", "writer: want replica.incarnation"},
		"a proof of none":   {claim("c.1", `,"proof":"p"`), 400, "bad_request", "proof: want last_seq and last_hash"},
		"no hash":           {claim("c.1", `,"proof":"p","last_seq":7`), 400, "bad_request", "last_hash: want 32 bytes in hexadecimal"},
		"a long hash":       {claim("c.1", `,"accept_usd":"6","last_seq":7,"last_hash":"`+strings.Repeat("0f", 33)+`"`), 400, "bad_request", "last_hash: want 32 bytes"},
		"another hash":      {claim("c.1", `,"accept_usd":"6","last_seq":7,"last_hash":"`+strings.Repeat("0g", 32)+`"`), 400, "bad_request", "last_hash: want 32 bytes"},
		"much too long":     {claim("c.1", `,"proof":"`+strings.Repeat("x", 8<<20)+`"`), 413, "bad_request", "8 MiB"},
		"alive":             {claim("a.1", proof), 409, "alive", "a.1 is alive: the store has heard of it at 2026-11-03T12:00:00Z"},
		"nothing":           {claim("b.1", proof), 404, "not_found", "nothing is set aside for b.1"},
		"unknown":           {claim("x", proof), 404, "not_found", "nothing is set aside for x"},
		"no proof":          {claim("c.1", ``), 409, "not_proven", "6 USD would go back"},
		"too little":        {claim("c.1", `,"accept_usd":"5.999999"`), 409, "not_proven", "6 USD would go back"},
		"nothing accepted":  {claim("c.1", `,"recorded_usd":{"usd|month@UTC|2026-11":"8"}`), 409, "not_proven", "0 USD would go back"},
	} {
		w := postClaim(h, c.body)
		wantFault(t, w, c.status, c.code, c.part)
		if len(claimed) > 0 {
			t.Errorf("%s: it was done: %q", name, claimed)
			claimed = nil
		}
	}
	for rest, want := range map[string]string{
		`,"accept_usd":"6"`: "c.1 2 6 0 00",
		proof + `,"recorded_usd":{"usd|month@UTC|2026-11":"3"}`:            "c.1 3 5 7 0f",
		`,"accept_usd":"0","recorded_usd":{"usd|month@UTC|2026-11":"8.5"}`: "c.1 8.5 0 0 00",
	} {
		claimed = nil
		if w := postClaim(h, claim("c.1", rest)); w.Code != http.StatusOK || len(claimed) != 1 || claimed[0] != want || !strings.Contains(w.Body.String(), `"other_accounts":2`) {
			t.Errorf("claim %s = %d %s, done %q, want %q", rest, w.Code, w.Body, claimed, want)
		}
	}
	if w := postClaim(h, claim("d.1", proof)); w.Code != http.StatusOK {
		t.Errorf("a claim to tokens alone = %d %s", w.Code, w.Body)
	}
	failed = errors.New("no answer")
	wantFault(t, postClaim(h, claim("c.1", proof)), http.StatusServiceUnavailable, "store_unavailable", "no answer")
	unknown = errors.New("no answer")
	wantFault(t, postClaim(h, claim("c.1", proof)), http.StatusServiceUnavailable, "store_unavailable", "no answer")
	wantFault(t, ask(h, http.MethodGet, "/api/v1/escrow"), http.StatusServiceUnavailable, "store_unavailable", "no answer")
	unknown = ErrNotShared
	wantFault(t, postClaim(h, claim("c.1", proof)), http.StatusConflict, "not_shared", "in memory")
	wantFault(t, ask(h, http.MethodGet, "/api/v1/escrow"), http.StatusConflict, "not_shared", "in memory")

	cfg.WriteToken = func() (string, error) { return "another", nil }
	wantFault(t, postClaim(New(cfg).Admin(), claim("c.1", proof)), http.StatusUnauthorized, "unauthorized", "--admin-write-token")
	cfg.WriteToken = func() (string, error) { return writeToken, nil }
	cfg.Holders = nil
	wantFault(t, postClaim(New(cfg).Admin(), claim("c.1", proof)), http.StatusServiceUnavailable, "not_known", "starting")
	wantFault(t, ask(New(cfg).Admin(), http.MethodGet, "/api/v1/escrow"), http.StatusServiceUnavailable, "not_known", "starting")
}
