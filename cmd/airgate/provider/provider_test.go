package provider

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	chat      = "/v1/chat/completions"
	legacy    = "/v1/completions"
	responses = "/v1/responses"
	embed     = "/v1/embeddings"
	messages  = "/v1/messages"
	count     = "/v1/messages/count_tokens"
)

// start serves a Provider and returns a function that calls it.
func start(t *testing.T, script string) (p *Provider, call func(path, script, body string) (*http.Response, error)) {
	t.Helper()
	s, err := Default().Parse(script)
	if err != nil {
		t.Fatal(err)
	}
	p = New(s)
	srv := httptest.NewServer(p)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	return p, func(path, script, body string) (*http.Response, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(ScriptHeader, script)
		req.Header.Set("Authorization", "Bearer sk-provider-4711")
		return client.Do(req)
	}
}

// read returns the whole body; a broken connection is an error.
func read(t *testing.T, res *http.Response, err error) (string, error) {
	t.Helper()
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	return string(b), err
}

// at follows keys and indexes into a JSON document.
func at(t *testing.T, doc string, path ...any) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(doc), &v); err != nil {
		t.Fatalf("%v in %s", err, doc)
	}
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, ok := v.(map[string]any)
			if !ok {
				return nil
			}
			v = m[step]
		case int:
			l, ok := v.([]any)
			if !ok || step >= len(l) {
				return nil
			}
			v = l[step]
		}
	}
	return v
}

func TestWholeAnswers(t *testing.T) {
	_, call := start(t, "in 100; out 50; cached 30; reasoning 10; size 20")
	for name, c := range map[string]struct {
		path, script, body string
		status             int
		want               map[string]any // :: path, joined by dots → value
	}{
		"chat": {chat, "", `{"model":"m"}`, 200, map[string]any{
			"object": "chat.completion", "model": "m", "choices.0.message.content": "The scripted provide", "choices.0.finish_reason": "stop",
			"usage.prompt_tokens": 100., "usage.completion_tokens": 50., "usage.prompt_tokens_details.cached_tokens": 30.,
			"usage.completion_tokens_details.reasoning_tokens": 10., "service_tier": "default",
		}},
		"the caller's cap":    {chat, "", `{"model":"m","max_completion_tokens":7}`, 200, map[string]any{"usage.completion_tokens": 7.}},
		"choices":             {chat, "", `{"model":"m","n":3,"max_tokens":7}`, 200, map[string]any{"usage.completion_tokens": 21.}},
		"no input":            {chat, "in 0", `{"model":"m"}`, 200, map[string]any{"usage.prompt_tokens": 0.}},
		"no usage":            {chat, "usage none", `{"model":"m"}`, 200, map[string]any{"usage": nil}},
		"wrong usage":         {chat, "usage wrong; in 5000; out 2000", `{"model":"m"}`, 200, map[string]any{"usage.prompt_tokens": 5., "usage.completion_tokens": 2.}},
		"another model, tier": {chat, "model n; tier priority", `{"model":"m"}`, 200, map[string]any{"model": "n", "service_tier": "priority"}},
		"completion":          {legacy, "", `{"model":"m"}`, 200, map[string]any{"object": "text_completion", "choices.0.text": "The scripted provide"}},
		"response": {responses, "", `{"model":"m"}`, 200, map[string]any{
			"status": "completed", "output.0.content.0.text": "The scripted provide", "usage.input_tokens": 100., "usage.output_tokens": 50.,
			"usage.input_tokens_details.cached_tokens": 30.,
		}},
		"embeddings": {embed, "", `{"model":"m"}`, 200, map[string]any{"object": "list", "data.0.object": "embedding", "usage.prompt_tokens": 100.}},
		"message": {messages, "", `{"model":"m"}`, 200, map[string]any{
			"type": "message", "content.0.text": "The scripted provide", "usage.input_tokens": 70., "usage.cache_read_input_tokens": 30., "usage.output_tokens": 50.,
			"usage.service_tier": "standard",
		}},
		"message without usage": {messages, "usage none", `{"model":"m"}`, 200, map[string]any{"usage": nil}},
		"count":                 {count, "", `{"model":"m"}`, 200, map[string]any{"input_tokens": 100.}},
		"openai error": {chat, "status 429; error rate_limit_error", `{"model":"m"}`, 429, map[string]any{
			"error.type": "rate_limit_error", "error.code": "rate_limit_error",
		}},
		"anthropic error":    {messages, "status 529; error overloaded_error", `{"model":"m","stream":true}`, 529, map[string]any{"type": "error", "error.type": "overloaded_error"}},
		"an unnamed error":   {chat, "status 500", `{"model":"m"}`, 500, map[string]any{"error.type": "api_error"}},
		"no such path":       {"/v1/audio", "", `{}`, 404, map[string]any{"error.type": "not_found_error"}},
		"no JSON":            {chat, "", `{"model":`, 400, map[string]any{"error.type": "invalid_request_error", "error.message": "the body is not the JSON expected"}},
		"a script to mend":   {chat, "delay", `{"model":"m"}`, 400, map[string]any{"error.message": `script step "delay": lacks its value`}},
		"no body, no script": {chat, "", ``, 200, map[string]any{"model": ""}},
	} {
		t.Run(name, func(t *testing.T) {
			res, err := call(c.path, c.script, c.body)
			body, err := read(t, res, err)
			if err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != c.status {
				t.Errorf("status = %d, want %d", res.StatusCode, c.status)
			}
			for path, want := range c.want {
				var steps []any
				for step := range strings.SplitSeq(path, ".") {
					if step == "0" {
						steps = append(steps, 0)
					} else {
						steps = append(steps, step)
					}
				}
				if got := at(t, body, steps...); got != want {
					t.Errorf("%s = %v, want %v in %s", path, got, want, body)
				}
			}
		})
	}
}

func TestHeaders(t *testing.T) {
	_, call := start(t, "status 429; header retry-after=5")
	res, err := call(chat, "header x-ratelimit-reset=in 3 s", `{}`)
	if _, err := read(t, res, err); err != nil {
		t.Fatal(err)
	}
	if a, b := res.Header.Get("Retry-After"), res.Header.Get("X-Ratelimit-Reset"); a != "5" || b != "in 3 s" {
		t.Errorf("headers = %q, %q, want 5, in 3 s", a, b)
	}
}

// event is one SSE event as it was received.
type received struct{ Name, Data string }

func events(body string) (all []received) {
	for block := range strings.SplitSeq(strings.TrimSuffix(body, "\n\n"), "\n\n") {
		var e received
		for line := range strings.Lines(block) {
			line = strings.TrimSuffix(line, "\n")
			if name, ok := strings.CutPrefix(line, "event: "); ok {
				e.Name = name
			} else if data, ok := strings.CutPrefix(line, "data: "); ok {
				e.Data = data
			}
		}
		all = append(all, e)
	}
	return all
}

func TestStreams(t *testing.T) {
	_, call := start(t, "in 100; out 50; chunks 2; size 10")
	t.Run("chat", func(t *testing.T) {
		res, err := call(chat, "", `{"model":"m","stream":true,"stream_options":{"include_usage":true}}`)
		body, err := read(t, res, err)
		if err != nil || res.Header.Get("Content-Type") != "text/event-stream" {
			t.Fatalf("%v, type %q", err, res.Header.Get("Content-Type"))
		}
		all := events(body)
		if len(all) != 5 {
			t.Fatalf("%d events: %s", len(all), body)
		}
		if got := at(t, all[0].Data, "choices", 0, "delta", "content"); got != "The s" {
			t.Errorf("first text = %v", got)
		}
		if got := at(t, all[2].Data, "choices", 0, "finish_reason"); got != "stop" {
			t.Errorf("finish_reason = %v, want stop", got)
		}
		if got := at(t, all[3].Data, "usage", "completion_tokens"); got != 50. {
			t.Errorf("usage = %v, want 50", got)
		}
		if all[4].Data != "[DONE]" {
			t.Errorf("last event = %q, want [DONE]", all[4].Data)
		}
	})
	t.Run("usage only if asked for", func(t *testing.T) {
		res, err := call(chat, "", `{"model":"m","stream":true}`)
		body, err := read(t, res, err)
		if err != nil || strings.Contains(body, "usage") || !strings.HasSuffix(body, "data: [DONE]\n\n") {
			t.Errorf("%v: %s", err, body)
		}
	})
	t.Run("completion", func(t *testing.T) {
		res, err := call(legacy, "", `{"model":"m","stream":true}`)
		body, err := read(t, res, err)
		if err != nil || at(t, events(body)[0].Data, "choices", 0, "text") != "The s" {
			t.Errorf("%v: %s", err, body)
		}
	})
	t.Run("responses", func(t *testing.T) {
		res, err := call(responses, "", `{"model":"m","stream":true}`)
		body, err := read(t, res, err)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for i, e := range events(body) {
			names = append(names, e.Name)
			if got := at(t, e.Data, "sequence_number"); got != float64(i) {
				t.Errorf("sequence_number of event %d = %v", i, got)
			}
		}
		want := []string{
			"response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
			"response.output_text.delta", "response.output_text.delta", "response.completed",
		}
		if d := cmp.Diff(want, names); d != "" {
			t.Errorf("events, want - got +:\n%s", d)
		}
		if got := at(t, events(body)[6].Data, "response", "usage", "output_tokens"); got != 50. {
			t.Errorf("usage = %v, want 50", got)
		}
	})
	t.Run("messages", func(t *testing.T) {
		res, err := call(messages, "", `{"model":"m","stream":true}`)
		body, err := read(t, res, err)
		if err != nil {
			t.Fatal(err)
		}
		all := events(body)
		var names []string
		for _, e := range all {
			names = append(names, e.Name)
		}
		want := []string{
			"message_start", "content_block_start", "ping", "content_block_delta", "content_block_delta", "content_block_stop", "message_delta", "message_stop",
		}
		if d := cmp.Diff(want, names); d != "" {
			t.Fatalf("events, want - got +:\n%s", d)
		}
		if in, out := at(t, all[0].Data, "message", "usage", "input_tokens"), at(t, all[6].Data, "usage", "output_tokens"); in != 100. || out != 50. {
			t.Errorf("usage = %v, %v, want 100, 50", in, out)
		}
	})
	t.Run("messages without usage", func(t *testing.T) {
		res, err := call(messages, "usage none", `{"model":"m","stream":true}`)
		if body, err := read(t, res, err); err != nil || strings.Contains(body, "usage") {
			t.Errorf("%v: %s", err, body)
		}
	})
	t.Run("an error within", func(t *testing.T) {
		for path, name := range map[string]string{chat: "", messages: "error", responses: "error"} {
			res, err := call(path, "fail overloaded_error after 1", `{"model":"m","stream":true}`)
			body, err := read(t, res, err)
			if err != nil || res.StatusCode != http.StatusOK {
				t.Fatalf("%s: %v, status %d", path, err, res.StatusCode)
			}
			last := events(body)[len(events(body))-1]
			kind := []any{"error", "type"}
			if path == responses {
				kind = []any{"code"}
			}
			if last.Name != name || at(t, last.Data, kind...) != "overloaded_error" {
				t.Errorf("%s ends with %+v", path, last)
			}
		}
	})
}

// A reset and a close are told apart: RST, and an end too early.
func TestBrokenAnswers(t *testing.T) {
	p, call := start(t, "chunks 5; size 100")
	for _, c := range []struct {
		script, body string
		outcome      string
		sent         int
	}{
		{"reset after 0", `{"stream":true}`, "reset", 0},
		{"reset after 2", `{"stream":true}`, "reset", 2},
		{"reset after 1", `{}`, "reset", 0},
		{"close after 0", `{}`, "closed", 0},
		{"close after 2", `{"stream":true}`, "closed", 2},
		{"close after 1", `{}`, "closed", 0},
		{"status 500; close after 1", `{}`, "closed", 0},
	} {
		t.Run(c.script+" "+c.body, func(t *testing.T) {
			res, err := call(chat, c.script, c.body)
			if head := res != nil; head == strings.Contains(c.script, "after 0") {
				t.Errorf("the answer has a head: %v", head)
			}
			_, err = read(t, res, err)
			if err == nil {
				t.Fatal("the answer is whole")
			}
			if c.outcome == "reset" && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("error = %v, want a reset", err)
			}
			if c.outcome == "closed" && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("error = %v, want an early end", err)
			}
			if last := lastCall(t, p); last.Outcome != c.outcome || last.Sent != c.sent {
				t.Errorf("call = %+v, want %s after %d", last, c.outcome, c.sent)
			}
		})
	}
}

// lastCall waits until the newest call has ended.
func lastCall(t *testing.T, p *Provider) Call {
	t.Helper()
	for range 500 {
		if _, calls := p.Calls(); len(calls) > 0 && calls[len(calls)-1].Outcome != "" {
			return calls[len(calls)-1]
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the call has not ended within 5 s")
	return Call{}
}

// Whatever the provider waits for, it notices that the caller has gone.
func TestCanceled(t *testing.T) {
	p, _ := start(t, "")
	srv := httptest.NewServer(p)
	defer srv.Close()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for script, reads := range map[string]int{
		"delay 1h":                   0,
		"chunks 5; every 1h":         1,
		"chunks 5; stall 1h after 2": 2,
	} {
		t.Run(script, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL+chat, strings.NewReader(`{"stream":true}`))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set(ScriptHeader, script)
			if reads == 0 {
				time.AfterFunc(50*time.Millisecond, cancel)
			}
			res, err := client.Do(req)
			if reads == 0 {
				if !errors.Is(err, context.Canceled) {
					t.Fatalf("error = %v, want canceled", err)
				}
			} else {
				if err != nil {
					t.Fatal(err)
				}
				lines := bufio.NewScanner(res.Body)
				for n := 0; n < reads && lines.Scan(); {
					if strings.HasPrefix(lines.Text(), "data: ") {
						n++
					}
				}
				cancel()
				_ = res.Body.Close()
			}
			if c := lastCall(t, p); c.Outcome != "canceled" || c.Sent != reads {
				t.Errorf("call = %+v, want canceled after %d", c, reads)
			}
		})
	}
}

func TestPause(t *testing.T) {
	_, call := start(t, "chunks 3; every 20ms; stall 30ms after 1; delay 10ms")
	began := time.Now()
	res, err := call(chat, "", `{"stream":true}`)
	if _, err := read(t, res, err); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 80*time.Millisecond {
		t.Errorf("answered after %s, want at least the 80 ms of the script", took)
	}
}

func TestCalls(t *testing.T) {
	p, call := start(t, "in 9; out 8; chunks 2")
	res, err := call(chat+"?beta=true", "", `{"model":"m","stream":true,"max_tokens":5}`)
	if _, err := read(t, res, err); err != nil {
		t.Fatal(err)
	}
	c := lastCall(t, p)
	if c.Ended.Before(c.LastSent) || c.LastSent.Before(c.Began) {
		t.Errorf("began %s, last sent %s, ended %s: want that order", c.Began, c.LastSent, c.Ended)
	}
	if !slices.Contains(c.Headers, "authorization=…4711") || !slices.Contains(c.Headers, "content-length=42") || !slices.Contains(c.Headers, ScriptHeader) {
		t.Errorf("headers = %q", c.Headers)
	}
	c.Began, c.LastSent, c.Ended, c.Headers = time.Time{}, time.Time{}, time.Time{}, nil
	want := Call{
		Path: chat, Query: "beta=true", Model: "m", Stream: true, Bytes: 42, Cap: 5, Outcome: "answered", Sent: 2, InTokens: 9, Out: 5,
	}
	if d := cmp.Diff(want, c); d != "" {
		t.Errorf("call, want - got +:\n%s", d)
	}
}

func TestTellCalls(t *testing.T) {
	p, call := start(t, "")
	for range 2 {
		res, err := call(chat, "", `{"model":"m"}`)
		if _, err := read(t, res, err); err != nil {
			t.Fatal(err)
		}
		lastCall(t, p)
	}
	ask := func(method string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest(method, "/_calls", http.NoBody))
		return w
	}
	if body := ask(http.MethodGet).Body.String(); at(t, body, "total") != 2. || at(t, body, "calls", 1, "model") != "m" || strings.Contains(body, "sk-provider") {
		t.Errorf("GET /_calls = %s", body)
	}
	if got := ask(http.MethodDelete).Code; got != http.StatusNoContent {
		t.Errorf("DELETE /_calls = %d, want 204", got)
	}
	if body := ask(http.MethodGet).Body.String(); at(t, body, "total") != 0. {
		t.Errorf("GET /_calls after DELETE = %s", body)
	}
	if got := ask(http.MethodPut).Code; got != http.StatusMethodNotAllowed {
		t.Errorf("PUT /_calls = %d, want 405", got)
	}
}

// A script cannot make the provider hold more than maxText.
func TestTextIsBounded(t *testing.T) {
	s, err := Default().Parse("out 2147483647")
	if err != nil {
		t.Fatal(err)
	}
	a := answer{script: s, out: s.Out}
	if got := len(a.text()); got != maxText {
		t.Errorf("%d bytes of text, want %d", got, maxText)
	}
}
