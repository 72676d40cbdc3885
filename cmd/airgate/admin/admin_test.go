package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"airgate/accounting"
	"airgate/accounting/money"
	"airgate/accounting/record"
	"airgate/accounting/record/recordtest"
	"airgate/accounting/report"
	"airgate/accounting/sink/sqlite"
	"airgate/policy/config"
)

const (
	settled = "019a49b1-2f3a-7c11-8a4e-0123456789ab" // of recordtest
	tail    = "f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
	file    = `apiVersion: airgate/v1
providers: {openai: {dialect: openai, url: https://api.openai.com, credential: {file: /run/secrets/openai}}}
models:    {gpt-5.4-mini: {provider: openai}}
teams:     {search: {}}
budgets:   [{name: search, match: {team: search}, usd: 500, per: month}]
keys:
  - {id: k7Qm2xT9aB4c, team: search, name: prod, secrets: [{hash: "sha256:9` + tail + `", created: 2026-11-01}]}
  - {id: k7Qm2xT9aB4d, team: search, name: old, secrets: [{hash: "sha256:a` + tail + `", created: 2025-11-01, expires: 2025-12-01}]}
  - {id: k7Qm2xT9aB4e, team: search, name: lost, revoked: 2026-01-01, secrets: [{hash: "sha256:b` + tail + `", created: 2025-11-01}]}
`
)

// whole is the Config of a running airgate with recordtest's book.
func whole(t *testing.T) Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), "airgate.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	snapshot, err := config.Load(path, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	sink, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "usage.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sink.Close() })
	var book []record.Record
	for i, name := range []string{"start", "intent", "settle", "deny", "strangers", "admin"} {
		r := recordtest.Examples()[name]
		r.Writer, r.Seq = "a.019a49b12f3c01234567", uint64(i+1)
		if i > 0 {
			r.Prev = record.Sum(record.AppendJSON(nil, &book[i-1]))
		}
		book = append(book, r)
	}
	if err := sink.Write(t.Context(), book); err != nil {
		t.Fatal(err)
	}
	until := time.Date(2026, time.December, 1, 0, 0, 0, 0, time.UTC)
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "airgate_test"}, func() float64 { return 1 }))
	return Config{
		Source: sink,
		Budgets: func(now time.Time) []accounting.Budget {
			return []accounting.Budget{
				{
					Name: "search", Account: "usd|team=search", Scope: "team=search", Owner: "kim", Expected: true, Limit: 500 * money.USD, Spent: money.USD / 2, Held: 3 * money.USD, HeldCost: money.USD / 2, Autonomy: 90500 * time.Millisecond,
					WindowStart: now.Add(-time.Hour), Reset: now.Add(time.Hour),
				},
				{Name: "company", Mode: accounting.Shadow, Limit: money.USD, Reserved: 1, Overrides: []accounting.Override{{
					For: accounting.Match{Team: []string{"search"}}, Amount: int64(money.USD), Until: until, By: "kim", Reason: "INC-12",
				}}},
			}
		},
		Snapshot: func() *config.Snapshot { return snapshot },
		Status: func() config.Status {
			return config.Status{Hash: snapshot.Hash, LastError: errors.New("airgate.yaml:3:1: no such field"), Problems: config.Problems{{File: "airgate.yaml", Line: 3, Column: 1, Text: "no such field"}}}
		},
		Keys:     func() ([]config.ListedKey, error) { return config.ListKeys(path) },
		Gatherer: registry,
		Ready:    func(context.Context) error { return nil },
	}
}

// ask sends a request to h as a local command would.
func ask(h http.Handler, method, target string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, http.NoBody)
	r.Host = "127.0.0.1:9901"
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func object(t *testing.T, w *httptest.ResponseRecorder) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatalf("%v in %q", err, w.Body)
	}
	if got := w.Header().Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type = %q, want application/json", got)
	}
	return v
}

// wantFault checks an answer with the API's error object.
func wantFault(t *testing.T, w *httptest.ResponseRecorder, status int, code, part string) {
	t.Helper()
	fault, _ := object(t, w)["error"].(map[string]any)
	message, _ := fault["message"].(string)
	if w.Code != status || fault["code"] != code || !strings.Contains(message, part) {
		t.Errorf("answer = %d %s, want %d %s with %q", w.Code, w.Body, status, code, part)
	}
}

func TestProbes(t *testing.T) {
	cfg := whole(t)
	for name, h := range map[string]http.Handler{"admin": New(cfg).Admin(), "ops": New(cfg).Ops()} {
		for path, want := range map[string]string{"/livez": "ok\n", "/readyz": "ok\n", "/metrics": "airgate_test 1\n"} {
			if w := ask(h, http.MethodGet, path); w.Code != http.StatusOK || !strings.HasSuffix(w.Body.String(), want) {
				t.Errorf("%s: GET %s = %d %q, want 200 %q", name, path, w.Code, w.Body, want)
			}
		}
		if w := ask(h, http.MethodHead, "/readyz"); w.Code != http.StatusOK {
			t.Errorf("%s: HEAD /readyz = %d, want 200", name, w.Code)
		}
	}
	cfg.Ready = func(context.Context) error { return errors.New("waiting for the disk") }
	for name, h := range map[string]http.Handler{"admin": New(cfg).Admin(), "ops": New(cfg).Ops()} {
		wantFault(t, ask(h, http.MethodGet, "/readyz"), http.StatusServiceUnavailable, "not_ready", "waiting for the disk")
		if w := ask(h, http.MethodGet, "/livez"); w.Code != http.StatusOK {
			t.Errorf("%s: GET /livez = %d, want 200", name, w.Code)
		}
	}
}

// The ops door is open to others: it tells nothing about callers.
func TestOpsTellsNoMore(t *testing.T) {
	h := New(whole(t)).Ops()
	for _, path := range []string{"/", "/-/config", "/-/config/status", "/api/v1/usage", "/api/v1/budgets", "/api/v1/keys", "/api/v1/requests", "/api/v1/denials", "/api/v1/audit", "/api/v1/overlay"} {
		wantFault(t, ask(h, http.MethodGet, path), http.StatusNotFound, "not_found", "no such path")
	}
}

func TestHost(t *testing.T) {
	h := New(whole(t)).Admin()
	for host, want := range map[string]int{
		"localhost": 200, "localhost:9901": 200, "127.0.0.1": 200, "127.0.0.1:9901": 200, "127.8.9.1:1": 200, "[::1]:9901": 200, "[::1]": 200,
		"": 421, "airgate.example.com": 421, "airgate.example.com:9901": 421, "192.0.2.1:9901": 421, "0.0.0.0:9901": 421, "localhost.example.com": 421, "127.0.0.1.example.com": 421, "[::]:1": 421,
	} {
		r := httptest.NewRequest(http.MethodGet, "/api/v1/budgets", http.NoBody)
		r.Host = host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("Host %q: status = %d, want %d", host, w.Code, want)
		}
		if want == 421 {
			wantFault(t, w, want, "misdirected", "loopback")
		}
	}
}

func TestNotThere(t *testing.T) {
	h := New(whole(t)).Admin()
	wantFault(t, ask(h, http.MethodGet, "/api/v2/usage"), http.StatusNotFound, "not_found", `"/api/v2/usage"`)
	for _, path := range []string{"/api/v1/usage", "/readyz", "/-/config", "/api/v1/requests/x"} {
		w := ask(h, http.MethodPost, path)
		wantFault(t, w, http.StatusMethodNotAllowed, "method_not_allowed", "use GET or HEAD")
		if got := w.Header().Get("Allow"); got != "GET, HEAD" {
			t.Errorf("POST %s: Allow = %q", path, got)
		}
	}
	w := ask(h, http.MethodDelete, "/api/v1/overlay")
	if wantFault(t, w, http.StatusMethodNotAllowed, "method_not_allowed", "use GET or HEAD or POST"); w.Header().Get("Allow") != "GET, HEAD, POST" {
		t.Errorf("DELETE /api/v1/overlay: Allow = %q", w.Header().Get("Allow"))
	}
	wantFault(t, ask(New(whole(t)).Ops(), http.MethodPost, "/drain"), http.StatusMethodNotAllowed, "method_not_allowed", "use GET")
}

// While airgate starts there are only the probes.
func TestStarting(t *testing.T) {
	h := New(Config{Ready: func(context.Context) error { return errors.New("starting") }}).Admin()
	for _, path := range []string{
		"/-/config", "/-/config/status", "/api/v1/usage?by=team", "/api/v1/budgets", "/api/v1/keys",
		"/api/v1/requests", "/api/v1/requests/x", "/api/v1/denials", "/api/v1/audit", "/api/v1/overlay",
	} {
		wantFault(t, ask(h, http.MethodGet, path), http.StatusServiceUnavailable, "not_known", "starting")
	}
	wantFault(t, ask(h, http.MethodGet, "/readyz"), http.StatusServiceUnavailable, "not_ready", "starting")
}

func TestRequests(t *testing.T) {
	h := New(whole(t)).Admin()
	all := object(t, ask(h, http.MethodGet, "/api/v1/requests"))
	rows, _ := all["requests"].([]any)
	if len(rows) != 2 || all["next"] != nil {
		t.Fatalf("%d requests, next %v, want the denied and the settled one", len(rows), all["next"])
	}
	page := object(t, ask(h, http.MethodGet, "/api/v1/requests?limit=1"))
	next, _ := page["next"].(string)
	if rows, _ := page["requests"].([]any); len(rows) != 1 || next == "" {
		t.Fatalf("a page of one = %v", page)
	}
	page = object(t, ask(h, http.MethodGet, "/api/v1/requests?limit=1&before="+next))
	if rows, _ := page["requests"].([]any); len(rows) != 1 || rows[0].(map[string]any)["request_id"] != settled {
		t.Errorf("the page after it = %v, want %s", page, settled)
	}
	one := object(t, ask(h, http.MethodGet, "/api/v1/requests/"+settled))
	if one["class"] != "ok" || one["cost_usd"] != "0.0012045" || one["cut"] != nil {
		t.Errorf("request = %v, want intent and settlement merged", one)
	}
	wantFault(t, ask(h, http.MethodGet, "/api/v1/requests/nonsense"), http.StatusNotFound, "not_found", "no such request")
	wantFault(t, ask(h, http.MethodGet, "/api/v1/requests?before=%00"), http.StatusBadRequest, "bad_request", "before: ")
}

func TestLimits(t *testing.T) {
	h := New(whole(t)).Admin()
	for _, path := range []string{"/api/v1/requests", "/api/v1/denials", "/api/v1/audit"} {
		for limit, want := range map[string]int{"1": 200, "1000": 200, "": 200, "0": 400, "1001": 400, "-1": 400, "many": 400, "1e2": 400} {
			w := ask(h, http.MethodGet, path+"?limit="+limit)
			if w.Code != want {
				t.Errorf("%s?limit=%s: status = %d, want %d", path, limit, w.Code, want)
			}
			if want == 400 {
				wantFault(t, w, want, "bad_request", "from 1 to 1000")
			}
		}
	}
}

func TestUsage(t *testing.T) {
	h := New(whole(t)).Admin()
	w := ask(h, http.MethodGet, "/api/v1/usage?by=team,model&from=2025-11-03&to=2026-11-04T15:00:00%2B02:00")
	got := object(t, w)
	want := map[string]any{
		"from": "2025-11-03T00:00:00.000Z", "to": "2026-11-04T13:00:00.000Z", "by": []any{"team", "model"},
		"rows": []any{map[string]any{
			"team": "search-ml", "model": "gpt-5.4-mini", "requests": 1., "cost_usd": "0.0012045",
			"unpriced_requests": 0., "estimated_requests": 0., "estimated_usd": "0",
			"tokens": map[string]any{"input": 1200., "cache_read": 300., "output": 210., "reasoning": 64.},
		}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("usage, want - got +:\n%s", d)
	}
	for query, part := range map[string]string{
		"by=colour":                        "unknown dimension",
		"by=team,team":                     "given twice",
		"by=team&from=yesterday":           "from: want a date",
		"by=team&to=2026-13-01":            "to: want a date",
		"by=team&output=xml":               "output: unknown format",
		"by=team&from=1&to=2":              "from: ",
		"by=team&output=table,csv":         "output: ",
		"from=2026-11-02&to=2026-11-02":    "to: want a time after from",
		"zone=Mars":                        "zone: want an IANA time zone",
		"period=fortnight":                 "period: \"fortnight\": want day, week, month",
		"period=month&from=2026-11-01":     "period: it has its own bounds",
		"last=true":                        "last: want a period too",
		"last=yes&period=day":              "last: want true or false",
		"compare=true":                     "compare: want a period too, such as --period month, or --from",
		"compare=true&to=2026-11-01":       "compare: want a period too, such as --period month, or --from",
		"by=day&period=month&compare=true": "compare: a report by day cannot be compared",
	} {
		wantFault(t, ask(h, http.MethodGet, "/api/v1/usage?"+query), http.StatusBadRequest, "bad_request", part)
	}
}

// A period is one of the zone's calendar; what it is compared with is the one
// before, and of a running one as much of it as has passed.
func TestPeriods(t *testing.T) {
	now := time.Date(2026, 11, 3, 5, 30, 0, 0, time.UTC)
	for query, want := range map[string]string{
		"":                                    "- – -",
		"from=2026-11-01":                     "2026-11-01T00:00:00Z – -",
		"from=2026-11-01&zone=Asia/Tokyo":     "2026-10-31T15:00:00Z – -",
		"period=month":                        "2026-11-01T00:00:00Z – 2026-11-03T05:30:00Z",
		"period=month&compare=true":           "2026-11-01T00:00:00Z – 2026-11-03T05:30:00Z, before 2026-10-01T00:00:00Z – 2026-10-03T05:30:00Z",
		"period=month&last=true&compare=true": "2026-10-01T00:00:00Z – 2026-11-01T00:00:00Z, before 2026-09-01T00:00:00Z – 2026-10-01T00:00:00Z",
		"period=month&last=true&compare=true&zone=Asia/Kathmandu":        "2026-09-30T18:15:00Z – 2026-10-31T18:15:00Z, before 2026-08-31T18:15:00Z – 2026-09-30T18:15:00Z",
		"period=week&compare=true":                                       "2026-11-02T00:00:00Z – 2026-11-03T05:30:00Z, before 2026-10-26T00:00:00Z – 2026-10-27T05:30:00Z",
		"period=day&last=true&compare=true&zone=Europe/Berlin":           "2026-11-01T23:00:00Z – 2026-11-02T23:00:00Z, before 2026-10-31T23:00:00Z – 2026-11-01T23:00:00Z",
		"period=year&last=true":                                          "2025-01-01T00:00:00Z – 2026-01-01T00:00:00Z",
		"period=quarter&last=true&compare=true":                          "2026-07-01T00:00:00Z – 2026-10-01T00:00:00Z, before 2026-04-01T00:00:00Z – 2026-07-01T00:00:00Z",
		"from=2026-03-01&to=2026-04-01&compare=true":                     "2026-03-01T00:00:00Z – 2026-04-01T00:00:00Z, before 2026-02-01T00:00:00Z – 2026-03-01T00:00:00Z",
		"from=2026-01-01&to=2026-04-01&compare=true":                     "2026-01-01T00:00:00Z – 2026-04-01T00:00:00Z, before 2025-10-01T00:00:00Z – 2026-01-01T00:00:00Z",
		"from=2026-10-24&to=2026-10-27&compare=true&zone=Europe/Berlin":  "2026-10-23T22:00:00Z – 2026-10-26T23:00:00Z, before 2026-10-20T22:00:00Z – 2026-10-23T22:00:00Z", // 73 hours, 72 before
		"from=2026-11-01T12:00:00Z&to=2026-11-01T18:00:00Z&compare=true": "2026-11-01T12:00:00Z – 2026-11-01T18:00:00Z, before 2026-11-01T06:00:00Z – 2026-11-01T12:00:00Z",
		"from=2026-11-02&compare=true":                                   "2026-11-02T00:00:00Z – 2026-11-03T05:30:00Z, before 2026-10-31T18:30:00Z – 2026-11-02T00:00:00Z",
	} {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		u, err := ParseUsage(q, now)
		if err != nil {
			t.Errorf("ParseUsage(%s): %v", query, err)
			continue
		}
		text := func(at time.Time) string {
			if at.IsZero() {
				return "-"
			}
			return at.UTC().Format(time.RFC3339)
		}
		got := text(u.Span.From) + " – " + text(u.Span.To)
		if u.Before != (Span{}) {
			got += ", before " + text(u.Before.From) + " – " + text(u.Before.To)
		}
		if got != want {
			t.Errorf("ParseUsage(%s) = %s, want %s", query, got, want)
		}
	}
	// The last of March of a month that is shorter: no more than the whole.
	q := url.Values{"period": {"month"}, "compare": {"true"}}
	u, err := ParseUsage(q, time.Date(2026, 3, 31, 0, 0, 0, 0, time.UTC))
	if want := (Span{time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)}); err != nil || !u.Before.From.Equal(want.From) || !u.Before.To.Equal(want.To) {
		t.Errorf("before = %v, %v, want %v", u.Before, err, want)
	}
}

func TestComparison(t *testing.T) {
	h := New(whole(t)).Admin()
	got := object(t, ask(h, http.MethodGet, "/api/v1/usage?by=team&from=2025-11-03&to=2025-11-04&compare=true"))
	if d := cmp.Diff(map[string]any{"from": "2025-11-02T00:00:00.000Z", "to": "2025-11-03T00:00:00.000Z"}, got["before"]); d != "" {
		t.Errorf("before, want - got +:\n%s", d)
	}
	row, _ := got["rows"].([]any)[0].(map[string]any)
	if d := cmp.Diff(map[string]any{"requests": 0., "cost_usd": nil}, row["before"]); d != "" || row["change_usd"] != "0.0012045" || row["change_percent"] != nil {
		t.Errorf("row = %v, want nothing before, and all of the cost as change", row)
	}
}

func TestAuditFilters(t *testing.T) {
	h := New(whole(t)).Admin()
	for query, want := range map[string]string{
		"":                                    "admin start",
		"type=deny":                           "deny deny",
		"type=intent,%20settle":               "settle intent",
		"key=search-prod":                     "deny settle intent",
		"key=k7Qm2xT9aB4c&type=intent":        "intent",
		"key=other":                           "",
		"team=search":                         "deny settle intent",
		"team=search-ml":                      "settle intent",
		"team=search-m":                       "",
		"request=" + settled:                  "settle intent",
		"request=" + settled + "&type=intent": "intent",
		"type=intent,deny&limit=1":            "deny",
		"type=start&from=2027-01-01":          "",
		"type=admin&from=2026-11-03&to=2026-11-04":  "admin",
		"type=settle&from=2025-11-03&to=2025-11-04": "settle", // at its admission
		"type=settle&to=2025-11-03":                 "",
	} {
		var types []string
		rows, _ := object(t, ask(h, http.MethodGet, "/api/v1/audit?"+query))["audit"].([]any)
		for _, row := range rows {
			types = append(types, row.(map[string]any)["type"].(string))
		}
		if got := strings.Join(types, " "); got != want {
			t.Errorf("audit?%s = %q, want %q", query, got, want)
		}
	}
	one := object(t, ask(h, http.MethodGet, "/api/v1/audit?request="+settled))
	if merged, _ := one["request"].(map[string]any); merged["type"] != "settle" || merged["limits"] == nil || merged["cost_usd"] != "0.0012045" {
		t.Errorf("request = %v, want the intent and the settlement merged", one["request"])
	}
	wantFault(t, ask(h, http.MethodGet, "/api/v1/audit?request=nonsense"), http.StatusNotFound, "not_found", "no such request")
	for query, part := range map[string]string{"type=refund": "unknown record type", "from=soon": "from: want a date", "limit=0": "from 1 to 1000"} {
		wantFault(t, ask(h, http.MethodGet, "/api/v1/audit?"+query), http.StatusBadRequest, "bad_request", part)
	}
}

func TestOutput(t *testing.T) {
	h := New(whole(t)).Admin()
	for _, c := range []struct{ path, kind, body string }{
		{"/api/v1/usage?by=team&output=csv", "text/csv; charset=utf-8", "team,requests,cost_usd,"},
		{"/api/v1/usage?by=team&output=table", "text/plain; charset=utf-8", "TEAM       REQUESTS"},
		{"/api/v1/usage?by=team&output=json", "application/json", `{"from":`},
		{"/api/v1/requests?output=table", "text/plain; charset=utf-8", "TIME"},
		{"/api/v1/denials?output=csv", "text/csv; charset=utf-8", "type,"},
		{"/api/v1/audit?output=table", "text/plain; charset=utf-8", "TYPE"},
	} {
		w := ask(h, http.MethodGet, c.path)
		if w.Code != http.StatusOK || w.Header().Get("Content-Type") != c.kind || !strings.HasPrefix(w.Body.String(), c.body) {
			t.Errorf("GET %s = %d, %s: %.60q, want %s: %q", c.path, w.Code, w.Header().Get("Content-Type"), w.Body, c.kind, c.body)
		}
	}
}

func TestDenialsAndAudit(t *testing.T) {
	h := New(whole(t)).Admin()
	denials, _ := object(t, ask(h, http.MethodGet, "/api/v1/denials"))["denials"].([]any)
	if len(denials) != 2 {
		t.Errorf("%d denials, want 2", len(denials))
	}
	audit, _ := object(t, ask(h, http.MethodGet, "/api/v1/audit"))["audit"].([]any)
	if len(audit) != 2 || audit[0].(map[string]any)["type"] != "admin" {
		t.Errorf("audit = %v, want the admin record, then the start", audit)
	}
}

// broken is a source that cannot be read.
type broken struct{ report.Source }

func (broken) Requests(context.Context, int, string) (report.Requests, error) {
	return report.Requests{}, errors.New("disk on fire")
}

func TestUnreadableRecords(t *testing.T) {
	h := New(Config{Source: broken{}}).Admin()
	wantFault(t, ask(h, http.MethodGet, "/api/v1/requests"), http.StatusInternalServerError, "internal", "read records: disk on fire")
}

// An answer waits for what is on its way to the source, though not for ever.
func TestFresh(t *testing.T) {
	cfg := whole(t)
	waited := 0
	cfg.Fresh = func(ctx context.Context) error {
		if _, bounded := ctx.Deadline(); !bounded {
			t.Error("the wait has no bound")
		}
		waited++
		return errors.New("the sink lags")
	}
	h := New(cfg).Admin()
	for _, path := range []string{"/api/v1/requests", "/api/v1/requests/" + settled, "/api/v1/denials", "/api/v1/audit", "/api/v1/usage"} {
		if w := ask(h, http.MethodGet, path); w.Code != http.StatusOK {
			t.Errorf("GET %s = %d, want what there is", path, w.Code)
		}
	}
	if waited != 5 {
		t.Errorf("waited %d times, want 5", waited)
	}
}

func TestBudgets(t *testing.T) {
	rows, _ := object(t, ask(New(whole(t)).Admin(), http.MethodGet, "/api/v1/budgets"))["budgets"].([]any)
	if len(rows) != 2 {
		t.Fatalf("%d budgets, want 2", len(rows))
	}
	first, second := rows[0].(map[string]any), rows[1].(map[string]any)
	delete(first, "window_start")
	delete(first, "reset")
	if got := first["forecast_usd"].(string); !strings.HasPrefix(got, "0.99999") && !strings.HasPrefix(got, "1") {
		t.Errorf("forecast_usd = %s in the middle of the window, want about 1", got)
	}
	delete(first, "forecast_usd")
	want := map[string]any{
		"name": "search", "account": "usd|team=search", "scope": "team=search", "owner": "kim", "mode": "enforce", "admission": "expected",
		"limit_usd": "500", "spent_usd": "0.5", "reserved_usd": "0", "held_usd": "3", "held_cost_usd": "0.5", "autonomy_seconds": 90.0, "exhausts_at": nil, "overrides": []any{},
	}
	if d := cmp.Diff(want, first); d != "" {
		t.Errorf("budget, want - got +:\n%s", d)
	}
	want = map[string]any{
		"name": "company", "account": "", "scope": "", "owner": "", "mode": "shadow", "admission": "strict", "limit_usd": "1", "spent_usd": "0", "reserved_usd": "0.000000001", "held_usd": "0", "held_cost_usd": "0", "autonomy_seconds": nil,
		"window_start": nil, "reset": nil, "forecast_usd": nil, "exhausts_at": nil, "overrides": []any{map[string]any{
			"for": "team=search", "limit_usd": "1", "until": "2026-12-01T00:00:00Z", "by": "kim", "reason": "INC-12",
		}},
	}
	if d := cmp.Diff(want, second); d != "" {
		t.Errorf("budget, want - got +:\n%s", d)
	}
}

func TestOneBudget(t *testing.T) {
	h := New(whole(t)).Admin()
	rows, _ := object(t, ask(h, http.MethodGet, "/api/v1/budgets?name=company"))["budgets"].([]any)
	if len(rows) != 1 || rows[0].(map[string]any)["name"] != "company" {
		t.Errorf("budgets?name=company = %v, want that one", rows)
	}
	wantFault(t, ask(h, http.MethodGet, "/api/v1/budgets?name=other"), http.StatusNotFound, "not_found", `no budget is named "other"`)
}

func TestKeysAndConfigTellNoSecret(t *testing.T) {
	cfg := whole(t)
	h := New(cfg).Admin()
	w := ask(h, http.MethodGet, "/api/v1/keys")
	rows, _ := object(t, w)["keys"].([]any)
	var states []any
	for _, r := range rows {
		states = append(states, r.(map[string]any)["state"])
	}
	if d := cmp.Diff([]any{"active", "expired", "revoked"}, states); d != "" {
		t.Errorf("states, want - got +:\n%s", d)
	}
	if strings.Contains(w.Body.String(), tail) {
		t.Errorf("keys tell a hash: %s", w.Body)
	}
	w = ask(h, http.MethodGet, "/-/config")
	if got := object(t, w)["hash"]; got != cfg.Snapshot().Hash {
		t.Errorf("config hash = %v, want %s", got, cfg.Snapshot().Hash)
	}
	if strings.Contains(w.Body.String(), "ag-") {
		t.Errorf("config tells a key: %s", w.Body)
	}
	cfg.Keys = func() ([]config.ListedKey, error) { return nil, errors.New("airgate.yaml:1:1: no YAML") }
	wantFault(t, ask(New(cfg).Admin(), http.MethodGet, "/api/v1/keys"), http.StatusInternalServerError, "internal", "airgate.yaml:1:1")
}

func TestStatus(t *testing.T) {
	cfg := whole(t)
	got := object(t, ask(New(cfg).Admin(), http.MethodGet, "/-/config/status"))
	if got["hash"] != cfg.Snapshot().Hash || got["last_error"] != "airgate.yaml:3:1: no such field" || got["successful"] != false {
		t.Errorf("status = %v", got)
	}
	cfg.Status = func() config.Status { return config.Status{Successful: true} }
	if got := object(t, ask(New(cfg).Admin(), http.MethodGet, "/-/config/status")); got["last_error"] != nil {
		t.Errorf("last_error = %v, want null", got["last_error"])
	}
}

func TestDrain(t *testing.T) {
	var within time.Duration
	active, fault := 0, error(nil)
	cfg := Config{
		Drain: func(ctx context.Context) (int, error) {
			end, _ := ctx.Deadline()
			within = time.Until(end).Round(time.Second)
			return active, fault
		},
		DrainToken: func() (string, error) { return "open sesame", nil },
	}
	h := New(cfg).Ops()
	right := []string{"X-Airgate-Drain-Token", "open sesame"}
	if w := ask(h, http.MethodGet, "/drain?timeout=300s", right...); w.Code != http.StatusOK || within != 300*time.Second || object(t, w)["active"] != 0. {
		t.Errorf("drain = %d %s within %s, want 200, none active, within 300 s", w.Code, w.Body, within)
	}
	active = 3
	if w := ask(h, http.MethodGet, "/drain", right...); w.Code != http.StatusOK || within != time.Minute || object(t, w)["active"] != 3. {
		t.Errorf("drain = %d %s within %s, want 200, 3 active, within a minute", w.Code, w.Body, within)
	}
	for _, bad := range []string{"0s", "-1s", "soon", "61m", "300"} {
		wantFault(t, ask(h, http.MethodGet, "/drain?timeout="+bad, right...), http.StatusBadRequest, "bad_request", "timeout: want a duration")
	}
	fault = errors.New("no such socket")
	wantFault(t, ask(h, http.MethodGet, "/drain", right...), http.StatusBadGateway, "envoy_unreachable", "no such socket")

	within = 0
	for _, wrong := range []string{"", "open", "open sesame ", "open sesamf"} {
		wantFault(t, ask(h, http.MethodGet, "/drain", "X-Airgate-Drain-Token", wrong), http.StatusUnauthorized, "unauthorized", "x-airgate-drain-token")
	}
	wantFault(t, ask(New(Config{}).Ops(), http.MethodGet, "/drain", right...), http.StatusForbidden, "drain_disabled", "--drain-token")
	cfg.DrainToken = func() (string, error) { return "", errors.New("read token: gone") }
	wantFault(t, ask(New(cfg).Ops(), http.MethodGet, "/drain"), http.StatusInternalServerError, "internal", "gone")
	if within != 0 {
		t.Error("a refused call drained")
	}
	wantFault(t, ask(New(whole(t)).Admin(), http.MethodGet, "/drain", right...), http.StatusNotFound, "not_found", "no such path")
}

// A caller that leaves gets nothing, and nothing is written for him.
func TestCallerLeaves(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := httptest.NewRequest(http.MethodGet, "/api/v1/requests", http.NoBody).WithContext(ctx)
	r.Host = "localhost"
	w := httptest.NewRecorder()
	New(whole(t)).Admin().ServeHTTP(w, r)
	if b, _ := io.ReadAll(w.Body); !bytes.Equal(b, nil) {
		t.Errorf("body = %s, want none", b)
	}
}
