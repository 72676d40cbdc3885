// Package provider is the scripted provider: an HTTP server that answers like
// OpenAI and Anthropic, or like either of them on a bad day. It answers: what
// would airgate do if the provider did that. The demo, the end-to-end tests and
// the benchmarks run against it; it holds no model.
package provider

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ScriptHeader is the request header that carries a Script for one call.
const ScriptHeader = "x-provider-script"

// maxBody is more than any gateway in front lets through.
const maxBody = 64 << 20

// Call is what the provider saw of one call. It holds no body.
type Call struct {
	Path     string    `json:"path"`
	Query    string    `json:"query,omitempty"`
	Model    string    `json:"model"`
	Stream   bool      `json:"stream"`
	Bytes    int       `json:"bytes"`
	Cap      int64     `json:"cap,omitempty"`
	Began    time.Time `json:"began"`
	Ended    time.Time `json:"ended"`
	LastSent time.Time `json:"last_sent"` // when the last event of a stream's text was written
	Outcome  string    `json:"outcome"`   // "", answered, canceled, reset, closed
	Sent     int       `json:"sent"`      // events of a stream
	Headers  []string  `json:"headers"`   // names, sorted; with "=" and the value where it may be told
	InTokens int64     `json:"in"`
	Out      int64     `json:"out"`
}

// Provider is an http.Handler. Its zero value is not ready: use New. Safe for
// concurrent use.
type Provider struct {
	script Script

	mu    sync.Mutex
	calls []*Call
	total int64
}

// maxCalls bounds what GET /_calls can tell; older calls are only counted.
const maxCalls = 100_000

// New returns a Provider that answers by script unless a call brings its own.
func New(script Script) *Provider { return &Provider{script: script} }

// ServeHTTP answers one call. GET /_calls tells what was seen, DELETE /_calls
// forgets it.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/_calls" {
		p.tell(w, r)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		p.note(&Call{Path: r.URL.Path, Began: time.Now(), Ended: time.Now(), Outcome: "canceled"})
		return
	}
	a := answer{began: time.Now(), anthropic: strings.HasPrefix(r.URL.Path, "/v1/messages"), path: r.URL.Path}
	a.script, err = p.script.Parse(r.Header.Get(ScriptHeader))
	if err == nil {
		err = a.read(body)
	}
	call := &Call{
		Path: r.URL.Path, Query: r.URL.RawQuery, Model: a.model, Stream: a.stream, Bytes: len(body), Cap: a.limit,
		Began: a.began, Headers: names(r.Header),
	}
	p.note(call)
	if err != nil {
		a.script = Default()
		a.script.Status, a.script.Error = http.StatusBadRequest, "invalid_request_error"
		a.fault = err.Error()
	}
	a.run(w, r)
	p.mu.Lock()
	defer p.mu.Unlock()
	call.Ended, call.LastSent, call.Outcome, call.Sent, call.InTokens, call.Out = time.Now(), a.last, a.outcome, a.sent, a.in, a.out
}

func (p *Provider) note(c *Call) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total++
	if len(p.calls) < maxCalls {
		p.calls = append(p.calls, c)
	}
}

// Calls returns how many calls were seen, and copies of those still known.
func (p *Provider) Calls() (total int64, calls []Call) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.calls {
		calls = append(calls, *c)
	}
	return p.total, calls
}

func (p *Provider) tell(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet:
		total, calls := p.Calls()
		w.Header().Set("content-type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"total": total, "calls": calls})
	case http.MethodDelete:
		p.mu.Lock()
		defer p.mu.Unlock()
		p.calls, p.total = nil, 0
		w.WriteHeader(http.StatusNoContent)
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}

// names lists header names, sorted; of a credential also its last four bytes.
func names(h http.Header) []string {
	var out []string
	for k, v := range h {
		k = strings.ToLower(k)
		switch k {
		case "authorization", "x-api-key":
			tail := v[0]
			if len(tail) > 4 {
				tail = tail[len(tail)-4:]
			}
			out = append(out, k+"=…"+tail)
		case "content-length", "accept-encoding", "content-type":
			out = append(out, k+"="+v[0])
		default:
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return out
}

// answer is one call being answered.
type answer struct {
	script    Script
	began     time.Time
	path      string
	anthropic bool

	model   string
	stream  bool
	usage   bool // stream_options.include_usage
	limit   int64
	choices int64
	fault   string

	in, out int64
	outcome string
	sent    int
	last    time.Time // of sent
}

// read takes from the body what an answer needs. Its tolerance is that of the
// real providers: unknown fields pass.
func (a *answer) read(body []byte) error {
	if len(body) == 0 {
		return nil
	}
	var in struct {
		Model         string `json:"model"`
		Stream        bool   `json:"stream"`
		StreamOptions struct {
			IncludeUsage bool `json:"include_usage"`
		} `json:"stream_options"`
		MaxTokens           int64 `json:"max_tokens"`
		MaxCompletionTokens int64 `json:"max_completion_tokens"`
		MaxOutputTokens     int64 `json:"max_output_tokens"`
		N                   int64 `json:"n"`
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return errors.New("the body is not the JSON expected") // err may quote it
	}
	a.model, a.stream, a.usage = in.Model, in.Stream, in.StreamOptions.IncludeUsage
	a.limit = max(in.MaxTokens, in.MaxCompletionTokens, in.MaxOutputTokens)
	a.choices = max(1, in.N)
	if a.script.Model != "" {
		a.model = a.script.Model
	}
	a.in = a.script.In
	if a.in < 0 {
		a.in = int64(len(body)+3) / 4
	}
	a.out = a.script.Out
	if a.limit > 0 {
		a.out = min(a.out, a.limit)
	}
	a.out *= a.choices
	return nil
}

// maxText bounds what a script can make the provider hold in memory.
const maxText = 16 << 20

// text is what the model is said to have answered, in plain words.
func (a *answer) text() string {
	size := int64(a.script.Size)
	if size < 0 {
		size = max(0, a.out-a.script.Reasoning) * 4
	}
	size = min(size, maxText)
	const words = "The scripted provider answers with plain words and says nothing of interest. "
	return strings.Repeat(words, int(size)/len(words)+1)[:size]
}

// figures are the usage numbers as reported.
func (a *answer) figures() (in, out int64) {
	if a.script.Usage == "wrong" {
		return a.in / 1000, a.out / 1000
	}
	return a.in, a.out
}

// run answers. Every wait ends when the caller is gone.
func (a *answer) run(w http.ResponseWriter, r *http.Request) {
	a.outcome = "canceled"
	if !wait(r, a.script.Delay) {
		return
	}
	if a.script.ResetAt == 0 {
		a.breakOff(w, true)
		return
	}
	if a.script.CloseAt == 0 {
		a.breakOff(w, false)
		return
	}
	for _, h := range a.script.Headers {
		w.Header().Set(h[0], h[1])
	}
	w.Header().Set("request-id", "req_scripted")
	switch {
	case a.script.Status >= http.StatusBadRequest:
		a.whole(w, a.script.Status, a.errorBody())
	case strings.HasSuffix(a.path, "/count_tokens"):
		a.whole(w, a.script.Status, map[string]any{"input_tokens": a.in})
	case strings.HasSuffix(a.path, "/embeddings"):
		a.whole(w, a.script.Status, a.embeddings())
	case a.stream:
		a.events(w, r)
	case strings.HasSuffix(a.path, "/responses"):
		a.whole(w, a.script.Status, a.response("completed", true))
	case a.anthropic:
		a.whole(w, a.script.Status, a.message())
	case strings.HasSuffix(a.path, "/completions"):
		a.whole(w, a.script.Status, a.completion())
	default:
		a.script.Error, a.fault = "not_found_error", "no such path: "+strconv.Quote(a.path)
		a.whole(w, http.StatusNotFound, a.errorBody())
	}
}

// wait sleeps; false means that the caller has gone.
func wait(r *http.Request, d time.Duration) bool {
	if d <= 0 {
		return r.Context().Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.Context().Done():
		return false
	}
}

// whole sends a JSON answer, or the part of it that the script allows.
func (a *answer) whole(w http.ResponseWriter, status int, body any) {
	b, err := json.Marshal(body)
	if err != nil {
		a.breakOff(w, true)
		return
	}
	w.Header().Set("content-type", "application/json")
	w.Header().Set("content-length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	if a.script.ResetAt > 0 || a.script.CloseAt > 0 {
		_, _ = w.Write(b[:len(b)/2])
		_ = http.NewResponseController(w).Flush()
		a.breakOff(w, a.script.ResetAt > 0)
		return
	}
	if _, err := w.Write(b); err == nil {
		a.outcome = "answered"
	}
}

// breakOff ends the connection, with a reset (RST) or a plain close, after what
// was flushed: before the head nothing was.
func (a *answer) breakOff(w http.ResponseWriter, reset bool) {
	a.outcome = "closed"
	if reset {
		a.outcome = "reset"
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok && reset {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
