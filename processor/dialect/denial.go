package dialect

import (
	"strconv"
	"time"
)

// IDHeader is the response header that carries the dialect's request id.
func IDHeader(n Name) string {
	if n == Anthropic {
		return "request-id"
	}
	return "x-request-id"
}

// DenialType is the dialect's own error type for a code of design section 7:
// what the official SDKs and their users expect for it. Codes it does not know
// are faults on our side.
func DenialType(n Name, code string) string {
	if n == Anthropic {
		switch code {
		case "budget_exhausted", "budget_insufficient", "budget_missing":
			return "billing_error"
		case "budget_busy", "rate_limited", "concurrency_limited":
			return "rate_limit_error"
		case "model_denied", "rule_denied", "purpose_denied", "model_unpriced", "cost_unbounded":
			return "permission_error"
		case "key_missing", "key_unknown", "key_revoked", "key_expired":
			return "authentication_error"
		case "request_malformed", "purpose_required", "purpose_unknown":
			return "invalid_request_error"
		case "request_too_large":
			return "request_too_large"
		case "model_unknown", "endpoint_unknown":
			return "not_found_error"
		}
		return "api_error"
	}
	switch code {
	case "budget_exhausted", "budget_insufficient", "budget_missing":
		return "insufficient_quota"
	case "budget_busy", "rate_limited", "concurrency_limited":
		return "requests"
	case "model_denied", "rule_denied", "purpose_denied", "model_unpriced", "cost_unbounded",
		"key_missing", "key_unknown", "key_revoked", "key_expired",
		"request_malformed", "purpose_required", "purpose_unknown", "request_too_large",
		"model_unknown", "endpoint_unknown":
		return "invalid_request_error"
	}
	return "api_error"
}

// openAICode is what error.code says: OpenAI's own word where programs look
// for it, else ours.
func openAICode(code string) string {
	switch code {
	case "rate_limited", "concurrency_limited":
		return "rate_limit_exceeded"
	case "key_missing", "key_unknown", "key_revoked", "key_expired":
		return "invalid_api_key"
	case "model_unknown", "endpoint_unknown":
		return "model_not_found"
	}
	return code
}

// AppendDenial appends the JSON body of a refusal in the dialect's shape. The
// error object has an airgate object with our own code and figures; what is
// absent is null there.
func AppendDenial(dst []byte, n Name, d *Denial) []byte {
	if n == Anthropic {
		dst = append(dst, `{"type":"error","error":`...)
		dst = appendError(dst, n, d)
		dst = append(dst, `,"request_id":`...)
		dst = appendNullable(dst, d.RequestID)
		return append(dst, '}')
	}
	dst = append(dst, `{"error":`...)
	dst = appendError(dst, n, d)
	return append(dst, '}')
}

// AppendCut appends the event that ends a stream airgate cuts: the official
// SDKs raise on it. No terminal event follows. It must begin at an event's
// border.
func AppendCut(dst []byte, e Endpoint, d *Denial) []byte {
	switch {
	case e.Dialect == Anthropic:
		dst = append(dst, "event: error\ndata: "...)
		dst = AppendDenial(dst, Anthropic, d)
	case e.Operation == Responses:
		dst = append(dst, "event: error\ndata: {\"type\":\"error\",\"error\":"...)
		dst = appendError(dst, OpenAI, d)
		dst = append(dst, '}')
	default:
		dst = append(dst, "data: "...)
		dst = AppendDenial(dst, OpenAI, d)
	}
	return append(dst, "\n\n"...)
}

func appendError(dst []byte, n Name, d *Denial) []byte {
	typ := DenialType(n, d.Code)
	if n == Anthropic {
		dst = append(dst, `{"type":`...)
		dst = appendString(dst, typ)
		dst = append(dst, `,"message":`...)
		dst = appendString(dst, d.Message)
	} else {
		dst = append(dst, `{"message":`...)
		dst = appendString(dst, d.Message)
		dst = append(dst, `,"type":`...)
		dst = appendString(dst, typ)
		dst = append(dst, `,"param":null,"code":`...)
		dst = appendString(dst, openAICode(d.Code))
	}
	dst = append(dst, `,"airgate":{"code":`...)
	dst = appendString(dst, d.Code)
	for _, f := range [...]struct{ key, value string }{
		{`,"limit":`, d.Limit},
		{`,"used_usd":`, d.UsedUSD},
		{`,"reserved_usd":`, d.ReservedUSD},
		{`,"limit_usd":`, d.LimitUSD},
		{`,"needed_usd":`, d.NeededUSD},
		{`,"reset":`, d.Reset},
		{`,"owner":`, d.Owner},
	} {
		dst = append(dst, f.key...)
		dst = appendNullable(dst, f.value)
	}
	return append(dst, "}}"...)
}

// appendNullable appends s, or null for "".
func appendNullable(dst []byte, s string) []byte {
	if s == "" {
		return append(dst, "null"...)
	}
	return appendString(dst, s)
}

// AppendModels appends the body of GET /v1/models in the dialect's shape, all
// models on one page.
func AppendModels(dst []byte, n Name, ms []ModelInfo) []byte {
	if n == Anthropic {
		dst = append(dst, `{"data":[`...)
	} else {
		dst = append(dst, `{"object":"list","data":[`...)
	}
	for i := range ms {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = AppendModel(dst, n, &ms[i])
	}
	if n != Anthropic {
		return append(dst, "]}"...)
	}
	first, last := "", ""
	if len(ms) > 0 {
		first, last = ms[0].Name, ms[len(ms)-1].Name
	}
	dst = append(dst, `],"has_more":false,"first_id":`...)
	dst = appendNullable(dst, first)
	dst = append(dst, `,"last_id":`...)
	dst = appendNullable(dst, last)
	return append(dst, '}')
}

// AppendModel appends the body of GET /v1/models/{name} in the dialect's shape.
func AppendModel(dst []byte, n Name, m *ModelInfo) []byte {
	if n == Anthropic {
		dst = append(dst, `{"type":"model","id":`...)
		dst = appendString(dst, m.Name)
		dst = append(dst, `,"display_name":`...)
		dst = appendString(dst, m.Name)
		dst = append(dst, `,"created_at":"`...)
		dst = time.Unix(m.Created, 0).UTC().AppendFormat(dst, time.RFC3339)
		return append(dst, `"}`...)
	}
	dst = append(dst, `{"id":`...)
	dst = appendString(dst, m.Name)
	dst = append(dst, `,"object":"model","created":`...)
	dst = strconv.AppendInt(dst, m.Created, 10)
	dst = append(dst, `,"owned_by":`...)
	dst = appendString(dst, m.Owner)
	return append(dst, '}')
}
