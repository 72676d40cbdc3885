package dialect

import (
	"errors"
	"strings"
	"testing"
)

func TestMatch(t *testing.T) {
	tests := map[string]struct {
		method, path string
		want         Endpoint
	}{
		"chat":         {"POST", "/v1/chat/completions", Endpoint{OpenAI, ChatCompletions, "POST", "/v1/chat/completions", "POST /v1/chat/completions", ""}},
		"responses":    {"POST", "/v1/responses", Endpoint{OpenAI, Responses, "POST", "/v1/responses", "POST /v1/responses", ""}},
		"completions":  {"POST", "/v1/completions", Endpoint{OpenAI, Completions, "POST", "/v1/completions", "POST /v1/completions", ""}},
		"embeddings":   {"POST", "/v1/embeddings", Endpoint{OpenAI, Embeddings, "POST", "/v1/embeddings", "POST /v1/embeddings", ""}},
		"messages":     {"POST", "/v1/messages", Endpoint{Anthropic, Messages, "POST", "/v1/messages", "POST /v1/messages", ""}},
		"count":        {"POST", "/v1/messages/count_tokens", Endpoint{Anthropic, CountTokens, "POST", "/v1/messages/count_tokens", "POST /v1/messages/count_tokens", ""}},
		"models":       {"GET", "/v1/models", Endpoint{OpenAI, ListModels, "GET", "/v1/models", "GET /v1/models", ""}},
		"model":        {"GET", "/v1/models/gpt-5.4-mini", Endpoint{OpenAI, GetModel, "GET", "/v1/models/gpt-5.4-mini", "GET /v1/models/{name}", "gpt-5.4-mini"}},
		"model slash":  {"GET", "/v1/models/meta%2Fllama", Endpoint{OpenAI, GetModel, "GET", "/v1/models/meta%2Fllama", "GET /v1/models/{name}", "meta/llama"}},
		"model colons": {"GET", "/v1/models/ft:gpt-4o:acme::x", Endpoint{OpenAI, GetModel, "GET", "/v1/models/ft:gpt-4o:acme::x", "GET /v1/models/{name}", "ft:gpt-4o:acme::x"}},
	}
	for name, tt := range tests {
		if got, err := Match(tt.method, tt.path); err != nil || got != tt.want {
			t.Errorf("%s: Match(%s, %s) = %+v, %v, want %+v", name, tt.method, tt.path, got, err, tt.want)
		}
	}
}

func TestMatchUnknown(t *testing.T) {
	const all = "this gateway serves"
	tests := map[string]struct{ method, path, hint string }{
		"wrong method":           {"GET", "/v1/chat/completions", "did you mean POST /v1/chat/completions?"},
		"HEAD":                   {"HEAD", "/v1/models", "did you mean GET /v1/models?"},
		"OPTIONS":                {"OPTIONS", "/v1/messages", "did you mean POST /v1/messages?"},
		"lower-case method":      {"post", "/v1/messages", "did you mean POST /v1/messages?"},
		"DELETE of a model":      {"DELETE", "/v1/models/ft:x", "did you mean GET /v1/models/{name}?"},
		"trailing slash":         {"POST", "/v1/chat/completions/", "did you mean POST /v1/chat/completions?"},
		"doubled slash":          {"POST", "/v1//chat/completions", "did you mean POST /v1/chat/completions?"},
		"dots":                   {"POST", "/v1/files/../chat/completions", "did you mean POST /v1/chat/completions?"},
		"one dot":                {"POST", "/v1/./chat/completions", "did you mean POST /v1/chat/completions?"},
		"escaped dot":            {"POST", "/v1/%2e%2e/v1/responses", "did you mean POST /v1/responses?"},
		"escaped slash":          {"POST", "/v1%2Fresponses", "did you mean POST /v1/responses?"},
		"escaped letter":         {"POST", "/v1/respon%73es", "did you mean POST /v1/responses?"},
		"parameter":              {"POST", "/v1/messages;x=1", "did you mean POST /v1/messages?"},
		"another case":           {"POST", "/V1/Messages", "did you mean POST /v1/messages?"},
		"without version":        {"POST", "/chat/completions", "did you mean POST /v1/chat/completions?"},
		"without version, chat":  {"POST", "/completions", "did you mean POST /v1/completions?"},
		"Groq's path":            {"POST", "/openai/v1/chat/completions", "did you mean POST /v1/chat/completions?"},
		"backslash":              {"POST", `/v1\messages`, all},
		"files":                  {"POST", "/v1/files", all},
		"a stored response":      {"GET", "/v1/responses/resp_1", all},
		"batches":                {"POST", "/v1/messages/batches", all},
		"root":                   {"GET", "/", all},
		"empty":                  {"POST", "", all},
		"NUL":                    {"POST", "/v1/messages\x00", all},
		"space":                  {"POST", "/v1/messages ", "did you mean"},
		"models with slash":      {"GET", "/v1/models/", "did you mean GET /v1/models?"},
		"a model's part":         {"GET", "/v1/models/a/b", all},
		"a model of dots":        {"GET", "/v1/models/..", all},
		"a model of escape dots": {"GET", "/v1/models/%2e%2e", all},
		"dots inside a model":    {"GET", "/v1/models/a%2F..%2Fb", all},
		"an empty part":          {"GET", "/v1/models/a%2F%2Fb", all},
		"a broken escape":        {"GET", "/v1/models/a%2", all},
		"a control character":    {"GET", "/v1/models/a%0Ab", all},
		"not UTF-8":              {"GET", "/v1/models/%ff", all},
		"a long model":           {"GET", "/v1/models/" + strings.Repeat("m", 257), all},
	}
	for name, tt := range tests {
		e, err := Match(tt.method, tt.path)
		var u *Unknown
		if !errors.As(err, &u) || e != (Endpoint{}) {
			t.Errorf("%s: Match(%s, %q) = %v, %v, want an *Unknown", name, tt.method, tt.path, e, err)
			continue
		}
		if !strings.Contains(u.Reason, tt.hint) {
			t.Errorf("%s: Match(%s, %q) says %q, want %q", name, tt.method, tt.path, u.Reason, tt.hint)
		}
	}
	if _, err := Match("POST", "/v1/s3cret"); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("Match quotes the path: %v", err)
	}
}

func TestEndpointAs(t *testing.T) {
	m, _ := Match("GET", "/v1/models")
	if got := m.As(Anthropic); got.Dialect != Anthropic || got.Operation != ListModels {
		t.Errorf("As = %+v, want Anthropic's ListModels", got)
	}
	c, _ := Match("POST", "/v1/chat/completions")
	if got := c.As(Anthropic); got != c {
		t.Errorf("As = %+v, want %+v", got, c)
	}
}

func TestQuery(t *testing.T) {
	tests := []struct{ path, raw, want string }{
		{messages, "beta=true", "beta=true"},
		{countTokens, "x=1&beta=true&key=k", "beta=true"},
		{messages, "beta=false", ""},
		{messages, "beta=true%00", ""},
		{messages, "xbeta=true", ""},
		{messages, "", ""},
		{chat, "beta=true", ""},
		{responses, "api-version=1", ""},
	}
	for _, tt := range tests {
		if got := Query(endpoint(t, tt.path), tt.raw); got != tt.want {
			t.Errorf("Query(%s, %q) = %q, want %q", tt.path, tt.raw, got, tt.want)
		}
	}
}

func TestQueryHasKey(t *testing.T) {
	tests := map[string]bool{
		"": false, "beta=true": false, "keys=1": false, "monkey=1": false, "x=key": false, "&&": false,
		"key=ag-x": true, "key": true, "a=1&api_key=x": true, "api-key=x": true, "API-KEY=x": true, "a;access_token=x": true,
		"token=x": true, "k%65y=x": true, "x-api-key=1": true, "%6bey=": true, "+key=x": true,
	}
	for raw, want := range tests {
		if got := QueryHasKey(raw); got != want {
			t.Errorf("QueryHasKey(%q) = %v, want %v", raw, got, want)
		}
	}
}
