package dialect

import (
	"bytes"
	"strconv"
)

// Classify says what kind of error an answer (status ≥ 400) is, by its status,
// its body, which may be cut off or no JSON at all, and its headers: h gives
// the value of a lower-case header name, "" if absent.
func Classify(n Name, status int, h func(name string) string, body []byte) ProviderError {
	var w walker
	w.reset(errorBody)
	if body = bytes.TrimLeft(body, " \t\r\n\xEF\xBB\xBF"); len(body) > 0 && body[0] == '{' {
		w.feed(body)
		w.flush()
	}
	pause := h("retry-after") != ""
	if n == OpenAI {
		pause = pause || h("retry-after-ms") != ""
	}
	return w.doc.trouble.classify(status, pause)
}

// read looks for what only the message's words say.
func (t *trouble) read(message []byte) {
	var buf [256]byte
	n := copy(buf[:], message)
	low := buf[:n]
	for i, c := range low {
		if c >= 'A' && c <= 'Z' {
			low[i] = c + 'a' - 'A'
		}
	}
	t.context = containsAny(low, "maximum context length", "prompt is too long", "exceed context limit", "exceeds the context window")
	t.quota = containsAny(low, "credit balance", "usage limits", "exceeded your current quota", "insufficient quota", "billing")
}

func containsAny(b []byte, words ...string) bool {
	for _, w := range words {
		if bytes.Contains(b, []byte(w)) {
			return true
		}
	}
	return false
}

// classify follows the codes first, then the status, then the type: an error
// event inside a 200 stream has no status of its own. pause: the answer says
// when to come back, so the limit is a rate and no quota.
func (t *trouble) classify(status int, pause bool) ProviderError {
	e := ProviderError{Class: t.byCode(status, pause)}
	switch {
	case t.code.n > 0:
		e.Code = string(t.code.bytes())
	case t.detail.n > 0:
		e.Code = string(t.detail.bytes())
	default:
		e.Code = string(t.typ.bytes())
	}
	if e.Class == NoError {
		e.Class = byStatus(status)
	}
	if code, err := strconv.Atoi(e.Code); err == nil && e.Class == NoError {
		e.Class = byStatus(code) // compatible servers put the status there
	}
	if e.Class == NoError {
		e.Class = byType(t.typ.bytes(), t.code.bytes())
	}
	return e
}

func (t *trouble) byCode(status int, pause bool) ErrorClass {
	for _, w := range [...]*word{&t.code, &t.detail, &t.typ} {
		switch code := w.bytes(); string(code) {
		case "context_length_exceeded":
			return ContextLength
		case "content_policy_violation", "invalid_prompt", "image_content_policy_violation", "bio_policy", "cyber_policy",
			"content_filter", "responsibleaipolicyviolation":
			return ContentPolicy
		case "insufficient_quota", "credit_balance_exhausted", "organization_spend_limit_exceeded", "project_spend_limit_exceeded",
			"organization_usage_limit_exceeded", "billing_hard_limit_reached", "billing_not_active", "enforced_spend_limit_reached", "billing_error":
			return ProviderQuota
		case "invalid_api_key", "authentication_error", "permission_error":
			return ProviderAuth
		}
	}
	switch {
	case t.context && (status == 200 || status == 400 || status == 413 || status == 422):
		return ContextLength
	case t.quota && !pause && (status == 200 || status == 400 || status == 403 || status == 429):
		return ProviderQuota
	}
	return NoError
}

func byStatus(status int) ErrorClass {
	switch {
	case status == 401 || status == 403:
		return ProviderAuth
	case status == 402:
		return ProviderQuota
	case status == 429:
		return ProviderLimited
	case status == 408 || status == 409 || status == 424 || status == 425 || status >= 500:
		return Transient
	case status >= 400:
		return MalformedRequest
	}
	return NoError
}

func byType(typ, code []byte) ErrorClass {
	for _, w := range [...][]byte{code, typ} {
		switch {
		case containsAny(w, "rate_limit", "slow_down", "too_many_requests"):
			return ProviderLimited
		case containsAny(w, "overloaded", "timeout", "server_error", "api_error", "unavailable"):
			return Transient
		case bytes.HasPrefix(w, []byte("invalid_")), bytes.HasPrefix(w, []byte("unsupported_")), bytes.HasPrefix(w, []byte("image_")),
			containsAny(w, "not_found", "too_large", "too_small", "failed_to_download"):
			return MalformedRequest
		}
	}
	return Transient
}
