package e2e

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// Calls of each API that stream; the third of them as its caller asks for usage,
// so that nothing is taken out of its answer and its body mode stays STREAMED.
func streams(model, message string) map[string]call {
	return map[string]call{
		"chat":            {body: `{"model":"` + model + `","stream":true,"messages":[{"role":"user","content":"hi"}]}`},
		"chat with usage": {body: `{"model":"` + model + `","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hi"}]}`},
		"responses":       {path: "/v1/responses", body: `{"model":"` + model + `","stream":true,"input":"hi"}`},
		"messages":        {path: "/v1/messages", body: `{"model":"` + message + `","stream":true,"max_tokens":32000,"messages":[{"role":"user","content":"hi"}]}`},
	}
}

// An error inside a stream about airgate's own credential or account does not
// reach the caller: its dialect's error event stands in its place, and the stream
// ends cleanly. Any other error does.
func TestProviderErrorEvents(t *testing.T) {
	w := newWorld(t, worldOptions{policy: "teams: {search: {}}\nbudgets: [{name: search, match: {team: search}, usd: 100, per: month}]\n"})
	for name, c := range streams("gpt-5.4-mini", "claude-sonnet") {
		for fault, class := range map[string]string{"invalid_api_key": "provider_auth", "insufficient_quota": "provider_quota", "server_error": "transient"} {
			t.Run(name+" "+class, func(t *testing.T) {
				if c.path == "/v1/messages" {
					fault = map[string]string{"invalid_api_key": "authentication_error", "insufficient_quota": "billing_error", "server_error": "api_error"}[fault]
				}
				c.script = "out 60; chunks 6; every 5ms; fail " + fault + " after 3"
				a := w.do(c)
				if a.err != nil || a.status != http.StatusOK {
					t.Fatalf("answer %d (%v) %s, want a 200 that ends cleanly", a.status, a.err, a.body)
				}
				ours := class != "transient"
				if strings.Contains(a.body, "was told to fail") == ours || strings.Contains(a.body, `"airgate":{"code":"`+class+`"`) != ours {
					t.Errorf("body %s; airgate's error in place of the provider's: want %v", a.body, ours)
				}
				e := w.settledRequest(a.id())
				if *e.Class != class || ours != (e.Cut == "provider") || e.Status != http.StatusOK || usd(t, e.Cost) <= 0 {
					t.Errorf("record %+v, want class %s, its cut, status 200 and a cost", e, class)
				}
			})
		}
	}
	w.quiet()
}

// Events that come in parts, and the last one without its blank line, reach the
// caller as they are, whatever the body mode.
func TestEventsInParts(t *testing.T) {
	w := newWorld(t, worldOptions{})
	parts := map[string][]string{
		"chat":     {"data: {\"choices\":[{\"del", "ta\":{\"content\":\"a\"}}]}\n", "\ndata: {\"choices\":[]", ",\"error\":null}\n\n: comment", "\n\ndata: [DO", "NE]\n"},
		"messages": {"event: message_start\nda", "ta: {\"type\":\"message_start\"}", "\r\n\r", "\nevent: error\ndata: {\"type\":\"error\"", ",\"error\":{\"type\":\"overloaded_error\"}}\n\n", "event: pi", "ng\ndata: {"},
	}
	w.upstream.Config.Handler = http.HandlerFunc(func(res http.ResponseWriter, req *http.Request) {
		res.Header().Set("content-type", "text/event-stream")
		name := "chat"
		if req.URL.Path == "/v1/messages" {
			name = "messages"
		}
		for _, p := range parts[name] {
			_, _ = res.Write([]byte(p))
			_ = http.NewResponseController(res).Flush()
			time.Sleep(20 * time.Millisecond)
		}
	})
	for name, c := range streams("gpt-5.4-mini", "claude-sonnet") {
		want, ok := parts[name]
		if name == "chat with usage" {
			want, ok = parts["chat"], true
		}
		if !ok {
			continue
		}
		a := w.do(c)
		if a.err != nil || a.body != strings.Join(want, "") {
			t.Errorf("%s: %d (%v) %q, want %q", name, a.status, a.err, a.body, strings.Join(want, ""))
		}
	}
	w.quiet()
}
