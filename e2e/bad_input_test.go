package e2e

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// Bad input of every kind gets a clear refusal, reaches no provider and holds
// nothing.
func TestBadInput(t *testing.T) {
	w := newWorld(t, worldOptions{})
	field := func(extra string) string {
		return `{"model":"gpt-5.4-mini",` + extra + `,"messages":[{"role":"user","content":"hi"}]}`
	}
	malformed := map[string]string{
		"cut off":             `{"model":"gpt-5.4-mini"`,
		"trailing bytes":      usualBody + "x",
		"two documents":       usualBody + usualBody,
		"an array":            `[` + usualBody + `]`,
		"duplicate model":     field(`"model":"gpt-5.4-nano"`),
		"escaped duplicate":   field("\"mod\\u0065l\":\"gpt-5.4-nano\""),
		"case-fold model":     field(`"Model":"gpt-5.4-nano"`),
		"duplicate cap":       field(`"max_tokens":1,"max_tokens":100000`),
		"deep":                field(`"x":` + strings.Repeat("[", 200) + strings.Repeat("]", 200)),
		"not UTF-8":           field("\"x\":\"\xff\""),
		"empty":               " ",
		"cap as a string":     field(`"max_completion_tokens":"5"`),
		"cap with a fraction": field(`"max_completion_tokens":1.5`),
		"negative cap":        field(`"max_completion_tokens":-1`),
		"exponent cap":        field(`"max_completion_tokens":1e3`),
		"huge cap":            field(`"max_completion_tokens":99999999999`),
		"negative n":          field(`"n":-1`),
		"stream as a word":    field(`"stream":"true"`),
		"no model":            `{"messages":[]}`,
		"model as a number":   `{"model":5,"messages":[]}`,
		"leading zero":        field(`"n":01`),
		"control character":   field("\"x\":\"a\nb\""),
	}
	for name, body := range malformed {
		t.Run(name, func(t *testing.T) {
			checkDenial(t, w.do(call{body: body}), http.StatusBadRequest, "request_malformed", "malformed", false)
		})
	}
	for _, path := range []string{
		"/", "/v1", "/v1/", "/v1/chat/completions/", "//v1/chat/completions", "/v1//chat/completions", "/v1/./files", "/v1/chat/../files",
		"/v1/chat%2fcompletions", "/v1/chat/%2e%2e/files", "/v1/chat/completions;x", "/V1/chat/completions", "/v1/files", "/v1/chat/completions%00",
		"/openai/v1/chat/completions", "/v1/realtime", "/v1/batches",
	} {
		t.Run(path, func(t *testing.T) {
			a := w.do(call{path: path})
			// Envoy merges slashes and resolves dots before airgate sees a path:
			// what then is an endpoint is served as that endpoint.
			if strings.Contains(path, "//") && a.status == http.StatusOK {
				return
			}
			if a.err != nil || a.status < 400 || a.status >= 500 {
				t.Errorf("answer %d (%v) %s, want a 4xx", a.status, a.err, a.body)
			}
		})
	}
	t.Run("oversized headers", func(t *testing.T) {
		a := w.do(call{header: map[string]string{"x-airgate-purpose": strings.Repeat("a", 300)}})
		checkDenial(t, a, http.StatusBadRequest, "request_malformed", "malformed", false)
		a = w.do(call{header: map[string]string{"x-large": strings.Repeat("a", 100<<10)}})
		checkDenial(t, a, http.StatusRequestHeaderFieldsTooLarge, "request_malformed", "malformed", false)
		many := map[string]string{}
		for i := range 120 {
			many["x-many-"+strconv.Itoa(i)] = "1"
		}
		checkDenial(t, w.do(call{header: many}), http.StatusRequestHeaderFieldsTooLarge, "request_malformed", "malformed", false)
	})
	t.Run("methods", func(t *testing.T) {
		for _, m := range []string{http.MethodGet, http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodOptions} {
			if a := w.do(call{method: m}); a.status < 400 || a.status >= 500 {
				t.Errorf("%s: %d %s, want a 4xx", m, a.status, a.body)
			}
		}
	})
	_, calls := w.provider.Calls()
	for _, c := range calls {
		if c.Path != "/v1/chat/completions" {
			t.Errorf("the provider saw %+v", c)
		}
	}
	if b := w.quiet(); b.Reserved != "0" {
		t.Errorf("budget %+v holds something", b)
	}
}
