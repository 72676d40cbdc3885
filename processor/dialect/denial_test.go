package dialect

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestAppendDenial(t *testing.T) {
	full := Denial{
		Code: "budget_exhausted", Status: 402, Message: `budget "search" is spent`, RequestID: "018f", Limit: "search",
		UsedUSD: "5000", ReservedUSD: "0.25", LimitUSD: "5000", NeededUSD: "0.0125", Reset: "2026-12-01T00:00:00+09:00", Owner: "finops@example.com",
	}
	bare := Denial{Code: "key_missing", Status: 401, Message: "no key", RequestID: "018f"}
	const fullObject = `"airgate":{"code":"budget_exhausted","limit":"search","used_usd":"5000","reserved_usd":"0.25","limit_usd":"5000",` +
		`"needed_usd":"0.0125","reset":"2026-12-01T00:00:00+09:00","owner":"finops@example.com"}`
	const bareObject = `"airgate":{"code":"key_missing","limit":null,"used_usd":null,"reserved_usd":null,"limit_usd":null,"needed_usd":null,"reset":null,"owner":null}`
	tests := map[string]struct {
		n    Name
		d    Denial
		want string
	}{
		"openai":         {OpenAI, full, `{"error":{"message":"budget \"search\" is spent","type":"insufficient_quota","param":null,"code":"budget_exhausted",` + fullObject + `}}`},
		"anthropic":      {Anthropic, full, `{"type":"error","error":{"type":"billing_error","message":"budget \"search\" is spent",` + fullObject + `},"request_id":"018f"}`},
		"openai bare":    {OpenAI, bare, `{"error":{"message":"no key","type":"invalid_request_error","param":null,"code":"invalid_api_key",` + bareObject + `}}`},
		"anthropic bare": {Anthropic, bare, `{"type":"error","error":{"type":"authentication_error","message":"no key",` + bareObject + `},"request_id":"018f"}`},
	}
	for name, tt := range tests {
		if got := string(AppendDenial(nil, tt.n, &tt.d)); got != tt.want {
			t.Errorf("%s: AppendDenial =\n%s, want\n%s", name, got, tt.want)
		}
	}
}

// Any words make a valid body.
func TestAppendDenialEscapes(t *testing.T) {
	d := Denial{Code: "rule_denied", Message: "a\"b\\c\n\x00\x7f\xff\u2028é", Limit: "</script>", Owner: "\t", RequestID: `"`}
	for _, n := range []Name{OpenAI, Anthropic} {
		var got struct {
			Error struct {
				Message string
				Airgate struct{ Limit, Owner string }
			}
		}
		body := AppendDenial(nil, n, &d)
		if err := json.Unmarshal(body, &got); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		if want := "a\"b\\c\n\x00\x7f\uFFFD\u2028é"; got.Error.Message != want || got.Error.Airgate.Limit != d.Limit || got.Error.Airgate.Owner != d.Owner {
			t.Errorf("%s: AppendDenial says %+v, want message %q", n, got, want)
		}
	}
}

// The type and code of every code of design section 7.
func TestDenialTypes(t *testing.T) {
	tests := []struct{ codes, openAI, openAICode, anthropic string }{
		{"budget_exhausted budget_insufficient budget_missing", "insufficient_quota", "", "billing_error"},
		{"budget_busy", "requests", "", "rate_limit_error"},
		{"rate_limited concurrency_limited", "requests", "rate_limit_exceeded", "rate_limit_error"},
		{"model_denied rule_denied purpose_denied model_unpriced cost_unbounded", "invalid_request_error", "", "permission_error"},
		{"key_missing key_unknown key_revoked key_expired", "invalid_request_error", "invalid_api_key", "authentication_error"},
		{"request_malformed purpose_required purpose_unknown", "invalid_request_error", "", "invalid_request_error"},
		{"request_too_large", "invalid_request_error", "", "request_too_large"},
		{"model_unknown endpoint_unknown", "invalid_request_error", "model_not_found", "not_found_error"},
		{"overloaded quota_unavailable journal_unavailable gateway_fault provider_auth provider_quota", "api_error", "", "api_error"},
	}
	for _, tt := range tests {
		for code := range strings.FieldsSeq(tt.codes) {
			want := tt.openAICode
			if want == "" {
				want = code
			}
			if got := DenialType(OpenAI, code); got != tt.openAI {
				t.Errorf("DenialType(openai, %s) = %s, want %s", code, got, tt.openAI)
			}
			if got := openAICode(code); got != want {
				t.Errorf("openAICode(%s) = %s, want %s", code, got, want)
			}
			if got := DenialType(Anthropic, code); got != tt.anthropic {
				t.Errorf("DenialType(anthropic, %s) = %s, want %s", code, got, tt.anthropic)
			}
		}
	}
	if a, b := IDHeader(OpenAI), IDHeader(Anthropic); a != "x-request-id" || b != "request-id" {
		t.Errorf("IDHeader = %s, %s", a, b)
	}
}

// What ends a cut stream is read back as a failed answer, and the SDKs' own
// test (a truthy error in the data, an error event) holds.
func TestAppendCut(t *testing.T) {
	d := Denial{Code: "budget_exhausted", Message: "spent", RequestID: "018f"}
	tests := map[string]struct{ path, prefix, suffix string }{
		"chat":        {chat, `data: {"error":{"message":"spent","type":"insufficient_quota","param":null,"code":"budget_exhausted",`, "}}}\n\n"},
		"completions": {completions, `data: {"error":{"message":"spent",`, "}}}\n\n"},
		"responses":   {responses, "event: error\ndata: {\"type\":\"error\",\"error\":{\"message\":\"spent\",\"type\":\"insufficient_quota\",\"param\":null,\"code\":\"budget_exhausted\",", "}}}\n\n"},
		"messages":    {messages, "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"billing_error\",\"message\":\"spent\",", "},\"request_id\":\"018f\"}\n\n"},
	}
	for name, tt := range tests {
		e := endpoint(t, tt.path)
		got := string(AppendCut(nil, e, &d))
		if !strings.HasPrefix(got, tt.prefix) || !strings.HasSuffix(got, tt.suffix) {
			t.Errorf("%s: AppendCut = %q, want %q … %q", name, got, tt.prefix, tt.suffix)
		}
		var m Meter
		m.Reset(e, 200, "text/event-stream", false)
		m.Write([]byte(got))
		if r := m.Reading(); r.Ending != Failed || r.Error.Class != ProviderQuota {
			t.Errorf("%s: a cut reads as %+v", name, r)
		}
	}
}

func TestAppendModels(t *testing.T) {
	ms := []ModelInfo{{"gpt-5.4-mini", "openai", 1760000000}, {"smart", "openai", 0}}
	tests := map[string]struct {
		n    Name
		ms   []ModelInfo
		want string
	}{
		"openai":         {OpenAI, ms, `{"object":"list","data":[{"id":"gpt-5.4-mini","object":"model","created":1760000000,"owned_by":"openai"},{"id":"smart","object":"model","created":0,"owned_by":"openai"}]}`},
		"openai none":    {OpenAI, nil, `{"object":"list","data":[]}`},
		"anthropic":      {Anthropic, ms, `{"data":[{"type":"model","id":"gpt-5.4-mini","display_name":"gpt-5.4-mini","created_at":"2025-10-09T08:53:20Z"},{"type":"model","id":"smart","display_name":"smart","created_at":"1970-01-01T00:00:00Z"}],"has_more":false,"first_id":"gpt-5.4-mini","last_id":"smart"}`},
		"anthropic none": {Anthropic, nil, `{"data":[],"has_more":false,"first_id":null,"last_id":null}`},
	}
	for name, tt := range tests {
		if got := string(AppendModels(nil, tt.n, tt.ms)); got != tt.want {
			t.Errorf("%s: AppendModels =\n%s, want\n%s", name, got, tt.want)
		}
	}
}
