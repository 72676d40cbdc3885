package dialect

import (
	"net/url"
	"path"
	"strings"
	"unicode/utf8"
)

// Unknown is the error of Match.
type Unknown struct {
	Reason string // says what to call instead; quotes nothing of the path
}

func (u *Unknown) Error() string { return u.Reason }

const modelsPath = "/v1/models"

// maxModel is the longest model name read, in bytes.
const maxModel = 256

// endpoints :: path → what it does
var endpoints = map[string]Endpoint{ //nolint:gochecknoglobals // an immutable table
	"/v1/chat/completions":      {OpenAI, ChatCompletions, "POST", "/v1/chat/completions", "POST /v1/chat/completions", ""},
	"/v1/responses":             {OpenAI, Responses, "POST", "/v1/responses", "POST /v1/responses", ""},
	"/v1/completions":           {OpenAI, Completions, "POST", "/v1/completions", "POST /v1/completions", ""},
	"/v1/embeddings":            {OpenAI, Embeddings, "POST", "/v1/embeddings", "POST /v1/embeddings", ""},
	"/v1/messages":              {Anthropic, Messages, "POST", "/v1/messages", "POST /v1/messages", ""},
	"/v1/messages/count_tokens": {Anthropic, CountTokens, "POST", "/v1/messages/count_tokens", "POST /v1/messages/count_tokens", ""},
	modelsPath:                  {OpenAI, ListModels, "GET", modelsPath, "GET /v1/models", ""},
}

// Match finds the endpoint of a request line; path is without its query. Only
// exact spellings match: callers' path bytes are never forwarded, so there is
// nothing to be gained from reading "..", "//" or an escape. The one exception
// is the name in GET /v1/models/{name}, which may be percent-encoded. The
// models endpoints come back as OpenAI's; see [Endpoint.As]. The error is an
// *Unknown.
func Match(method, path string) (Endpoint, error) {
	if e, ok := endpoints[path]; ok {
		if method != e.Method {
			return Endpoint{}, &Unknown{Reason: "wrong method; did you mean " + e.Label + "?"}
		}
		return e, nil
	}
	if escaped, ok := strings.CutPrefix(path, modelsPath+"/"); ok {
		if name, ok := modelName(escaped); ok {
			e := Endpoint{OpenAI, GetModel, "GET", modelsPath + "/" + url.PathEscape(name), "GET /v1/models/{name}", name}
			if method != e.Method {
				return Endpoint{}, &Unknown{Reason: "wrong method; did you mean " + e.Label + "?"}
			}
			return e, nil
		}
	}
	return Endpoint{}, &Unknown{Reason: suggest(path)}
}

// modelName reads the path segment that names a model. A slash in the name
// must be escaped, and no part between slashes may be empty, "." or "..".
func modelName(escaped string) (string, bool) {
	if len(escaped) > 3*maxModel || strings.ContainsAny(escaped, "/;\\") {
		return "", false
	}
	name, err := url.PathUnescape(escaped)
	if err != nil || name == "" || len(name) > maxModel || !utf8.ValidString(name) {
		return "", false
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			return "", false
		}
	}
	for _, c := range []byte(name) {
		if c < 0x20 || c == 0x7f || c == '\\' {
			return "", false
		}
	}
	return name, true
}

// suggest says what a path was probably meant to be.
func suggest(raw string) string {
	near := strings.ToLower(raw)
	if s, err := url.PathUnescape(near); err == nil {
		near = s
	}
	near, _, _ = strings.Cut(near, ";")
	near = path.Clean("/" + strings.Trim(strings.TrimSpace(near), "/"))
	for _, prefix := range []string{"", "/v1", "/v1/chat"} {
		if e, ok := endpoints[prefix+near]; ok {
			return "unknown endpoint; did you mean " + e.Label + "?"
		}
	}
	for p, e := range endpoints {
		if p != modelsPath && strings.HasSuffix(near, p) {
			return "unknown endpoint; did you mean " + e.Label + "?"
		}
	}
	return "unknown endpoint; this gateway serves POST /v1/chat/completions, /v1/responses, /v1/completions, /v1/embeddings, " +
		"/v1/messages, /v1/messages/count_tokens and GET /v1/models"
}

// As gives a models endpoint the shape of another dialect. Other endpoints
// have one dialect and come back unchanged.
func (e Endpoint) As(n Name) Endpoint {
	if e.Operation == ListModels || e.Operation == GetModel {
		e.Dialect = n
	}
	return e
}

// Query is the part of a raw query that is forwarded to the provider: of
// Anthropic's message endpoints beta=true, which their SDKs send, else nothing.
func Query(e Endpoint, raw string) string {
	if e.Operation != Messages && e.Operation != CountTokens {
		return ""
	}
	for p := range strings.SplitSeq(raw, "&") {
		if p == "beta=true" {
			return p
		}
	}
	return ""
}

// QueryHasKey reports whether a raw query has a parameter that usually holds a
// credential. Queries reach logs: a key there has leaked and is refused.
func QueryHasKey(raw string) bool {
	for raw != "" {
		var p string
		if i := strings.IndexAny(raw, "&;"); i >= 0 {
			p, raw = raw[:i], raw[i+1:]
		} else {
			p, raw = raw, ""
		}
		name, _, _ := strings.Cut(p, "=")
		if s, err := url.QueryUnescape(name); err == nil {
			name = s
		}
		switch strings.ReplaceAll(strings.ToLower(strings.TrimSpace(name)), "-", "_") {
		case "key", "api_key", "apikey", "x_api_key", "x_goog_api_key", "access_token", "token", "auth", "authorization", "bearer":
			return true
		}
	}
	return false
}
