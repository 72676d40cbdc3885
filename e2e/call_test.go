package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"airgate/cmd/airgate/provider"
)

// syncBuffer keeps what a process says.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func (s *syncBuffer) tail(n int) string {
	t := s.String()
	if len(t) > n {
		t = t[len(t)-n:]
	}
	return t
}

// call is one request of a caller; zero fields take the usual.
type call struct {
	method string // POST
	path   string // /v1/chat/completions
	key    string // of team search; "-" sends none
	body   string // a chat completion of gpt-5.4-mini capped at 50 tokens
	script string
	header map[string]string
}

// answer is what the caller got.
type answer struct {
	status int
	header http.Header
	body   string
	err    error
}

const usualBody = `{"model":"gpt-5.4-mini","max_completion_tokens":50,"messages":[{"role":"user","content":"hi"}]}`

const streamBody = `{"model":"gpt-5.4-mini","stream":true,"max_completion_tokens":50,"messages":[{"role":"user","content":"hi"}]}`

// request builds c for w.
func (w *world) request(c call) *http.Request {
	w.t.Helper()
	if c.method == "" {
		c.method = http.MethodPost
	}
	if c.path == "" {
		c.path = "/v1/chat/completions"
	}
	if c.body == "" && c.method == http.MethodPost {
		c.body = usualBody
	}
	req, err := http.NewRequest(c.method, w.url+c.path, strings.NewReader(c.body))
	if err != nil {
		w.t.Fatal(err)
	}
	switch c.key {
	case "":
		req.Header.Set("Authorization", "Bearer "+w.keys["search"])
	case "-":
	default:
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	req.Header.Set("Content-Type", "application/json")
	if c.script != "" {
		req.Header.Set(provider.ScriptHeader, c.script)
	}
	for k, v := range c.header {
		req.Header.Set(k, v)
	}
	return req
}

// do makes one HTTP call, and no more than one.
func (w *world) do(c call) answer {
	w.t.Helper()
	return do(http.DefaultClient, w.request(c))
}

func do(client *http.Client, req *http.Request) answer {
	res, err := client.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	return answer{status: res.StatusCode, header: res.Header, body: string(body), err: err}
}

// code is the denial code, "" for an answer of the provider.
func (a answer) code() string {
	if a.header == nil {
		return ""
	}
	return a.header.Get("X-Airgate-Code")
}

func (a answer) id() string { return a.header.Get("X-Airgate-Request-Id") }

// object reads an API object.
func (w *world) object(path string, out any) {
	w.t.Helper()
	res, err := http.Get(w.api + path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(res.Body)
		w.t.Fatalf("GET %s: status %d: %s", path, res.StatusCode, b)
	}
	if err := json.NewDecoder(res.Body).Decode(out); err != nil {
		w.t.Fatalf("GET %s: %v", path, err)
	}
}

// entry is one request as /api/v1/requests tells it.
type entry struct {
	RequestID   string         `json:"request_id"`
	Type        string         `json:"type"`
	Team        string         `json:"team"`
	Decision    string         `json:"decision"`
	Code        string         `json:"code"`
	Class       *string        `json:"class"`
	Family      string         `json:"family"`
	Model       string         `json:"model"`
	Cost        string         `json:"cost_usd"`
	Reserved    string         `json:"reserved_usd"`
	UsageSource string         `json:"usage_source"`
	Status      int            `json:"status"`
	Count       int64          `json:"count"`
	Tokens      map[string]int `json:"tokens"`
	Cause       string         `json:"cause"`
	Cut         string         `json:"cut"`
	Store       string         `json:"store"`
}

// settledRequest waits for the request's settlement to reach the records.
func (w *world) settledRequest(id string) entry {
	w.t.Helper()
	var e entry
	w.waitFor("the record of "+id, nil, func() bool {
		if get(w.api+"/api/v1/requests/"+id) != http.StatusOK {
			return false
		}
		e = entry{}
		w.object("/api/v1/requests/"+id, &e)
		return e.Class != nil
	})
	return e
}

// requests are all requests in the records, newest first.
func (w *world) requests() []entry {
	w.t.Helper()
	var out struct{ Requests []entry }
	w.object("/api/v1/requests?limit=1000", &out)
	return out.Requests
}

// budget is one row of /api/v1/budgets.
type budget struct {
	Name     string `json:"name"`
	Account  string `json:"account"`
	Limit    string `json:"limit_usd"`
	Spent    string `json:"spent_usd"`
	Reserved string `json:"reserved_usd"`
}

func (w *world) budget(name string) budget {
	w.t.Helper()
	var out struct{ Budgets []budget }
	w.object("/api/v1/budgets", &out)
	for _, b := range out.Budgets {
		if b.Name == name {
			return b
		}
	}
	w.t.Fatalf("no budget %s in %+v", name, out.Budgets)
	return budget{}
}

// quiet waits until nothing is reserved.
func (w *world) quiet() budget {
	w.t.Helper()
	var b budget
	w.waitFor("budget search to hold nothing", nil, func() bool {
		b = w.budget("search")
		return b.Reserved == "0"
	})
	return b
}

// eventually polls ok for up to 5 s.
func eventually(ok func() bool) bool {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return true
		}
	}
	return ok()
}
