package dialect

import (
	"strings"
	"testing"
)

func TestClassify(t *testing.T) {
	openAI := func(typ, code, message string) string {
		q := func(s string) string {
			if s == "" {
				return "null"
			}
			return `"` + s + `"`
		}
		return `{"error":{"message":"` + message + `","type":` + q(typ) + `,"param":null,"code":` + q(code) + `}}`
	}
	anthropic := func(typ, message string) string {
		return `{"type":"error","error":{"type":"` + typ + `","message":"` + message + `"},"request_id":"req_1"}`
	}
	tests := map[string]struct {
		n      Name
		status int
		header string // "name: value"
		body   string
		class  ErrorClass
		code   string
	}{
		"openai context":           {OpenAI, 400, "", openAI("invalid_request_error", "context_length_exceeded", "…"), ContextLength, "context_length_exceeded"},
		"openai context by words":  {OpenAI, 400, "", openAI("invalid_request_error", "", "This model's maximum context length is 8192 tokens"), ContextLength, "invalid_request_error"},
		"openai content":           {OpenAI, 400, "", openAI("invalid_request_error", "content_policy_violation", "…"), ContentPolicy, "content_policy_violation"},
		"openai prompt":            {OpenAI, 400, "", openAI("invalid_request_error", "invalid_prompt", "…"), ContentPolicy, "invalid_prompt"},
		"azure filter":             {OpenAI, 400, "", `{"error":{"message":"…","type":null,"param":"prompt","code":"content_filter","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation"}}}`, ContentPolicy, "content_filter"},
		"azure inner":              {OpenAI, 400, "", `{"error":{"message":"…","innererror":{"code":"ResponsibleAIPolicyViolation"}}}`, ContentPolicy, "responsibleaipolicyviolation"},
		"openai malformed":         {OpenAI, 400, "", openAI("invalid_request_error", "", "n must be 1"), MalformedRequest, "invalid_request_error"},
		"openai model":             {OpenAI, 404, "", openAI("invalid_request_error", "model_not_found", "…"), MalformedRequest, "model_not_found"},
		"azure deployment":         {OpenAI, 404, "", openAI("", "DeploymentNotFound", "…"), MalformedRequest, "deploymentnotfound"},
		"openai key":               {OpenAI, 401, "", openAI("invalid_request_error", "invalid_api_key", "Incorrect API key provided: sk-…"), ProviderAuth, "invalid_api_key"},
		"azure key":                {OpenAI, 401, "", `{"error":{"code":"401","message":"Access denied"}}`, ProviderAuth, "401"},
		"openai country":           {OpenAI, 403, "", openAI("request_forbidden", "unsupported_country_region_territory", "…"), ProviderAuth, "unsupported_country_region_territory"},
		"openai quota":             {OpenAI, 429, "", openAI("insufficient_quota", "insufficient_quota", "…"), ProviderQuota, "insufficient_quota"},
		"openai quota by type":     {OpenAI, 429, "retry-after: 1", openAI("insufficient_quota", "", "…"), ProviderQuota, "insufficient_quota"},
		"openai hard limit":        {OpenAI, 429, "", openAI("", "billing_hard_limit_reached", "…"), ProviderQuota, "billing_hard_limit_reached"},
		"openai project limit":     {OpenAI, 429, "", openAI("", "project_spend_limit_exceeded", "…"), ProviderQuota, "project_spend_limit_exceeded"},
		"openai quota by words":    {OpenAI, 429, "", openAI("", "", "You exceeded your current quota, please check your plan"), ProviderQuota, ""},
		"a rate says when":         {OpenAI, 429, "retry-after-ms: 100", openAI("", "", "You exceeded your current quota, please check your plan"), ProviderLimited, ""},
		"openai rate":              {OpenAI, 429, "retry-after: 1", openAI("tokens", "rate_limit_exceeded", "…"), ProviderLimited, "rate_limit_exceeded"},
		"openai slow down":         {OpenAI, 503, "", openAI("", "slow_down", "…"), Transient, "slow_down"},
		"openai overloaded":        {OpenAI, 503, "", openAI("server_error", "server_is_overloaded", "…"), Transient, "server_is_overloaded"},
		"openai fault":             {OpenAI, 500, "", openAI("server_error", "", "…"), Transient, "server_error"},
		"timeout":                  {OpenAI, 504, "", "", Transient, ""},
		"conflict":                 {OpenAI, 409, "", "", Transient, ""},
		"payment":                  {OpenAI, 402, "", "", ProviderQuota, ""},
		"too large, HTML":          {Anthropic, 413, "", "<html>413</html>", MalformedRequest, ""},
		"anthropic context":        {Anthropic, 400, "", anthropic("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"), ContextLength, "invalid_request_error"},
		"anthropic context sum":    {Anthropic, 400, "", anthropic("invalid_request_error", "input length and `max_tokens` exceed context limit: 1 + 2 > 3"), ContextLength, "invalid_request_error"},
		"anthropic credit":         {Anthropic, 400, "", anthropic("invalid_request_error", "Your credit balance is too low to access the Anthropic API."), ProviderQuota, "invalid_request_error"},
		"anthropic usage limits":   {Anthropic, 400, "", anthropic("invalid_request_error", "You have reached your specified API usage limits."), ProviderQuota, "invalid_request_error"},
		"anthropic malformed":      {Anthropic, 400, "", anthropic("invalid_request_error", "max_tokens: Field required"), MalformedRequest, "invalid_request_error"},
		"anthropic key":            {Anthropic, 401, "", anthropic("authentication_error", "invalid x-api-key"), ProviderAuth, "authentication_error"},
		"anthropic permission":     {Anthropic, 403, "", anthropic("permission_error", "…"), ProviderAuth, "permission_error"},
		"anthropic billing":        {Anthropic, 402, "", anthropic("billing_error", "…"), ProviderQuota, "billing_error"},
		"anthropic model":          {Anthropic, 404, "", anthropic("not_found_error", "model: claude-x"), MalformedRequest, "not_found_error"},
		"anthropic rate":           {Anthropic, 429, "retry-after: 12", anthropic("rate_limit_error", "…"), ProviderLimited, "rate_limit_error"},
		"anthropic spend":          {Anthropic, 429, "", `{"type":"error","error":{"details":{"error_code":"enforced_spend_limit_reached"},"type":"rate_limit_error","message":"…"}}`, ProviderQuota, "enforced_spend_limit_reached"},
		"anthropic overloaded":     {Anthropic, 529, "", anthropic("overloaded_error", "Overloaded"), Transient, "overloaded_error"},
		"anthropic fault":          {Anthropic, 500, "", anthropic("api_error", "…"), Transient, "api_error"},
		"cut off in its message":   {Anthropic, 400, "", `{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 2100`, ContextLength, "invalid_request_error"},
		"a long message":           {OpenAI, 400, "", openAI("invalid_request_error", "", "This model's maximum context length is 8192 tokens. "+strings.Repeat("x", 70000)), ContextLength, "invalid_request_error"},
		"flat":                     {OpenAI, 400, "", `{"object":"error","message":"maximum context length of 8 tokens","type":"BadRequestError","code":400}`, ContextLength, "400"},
		"error as text":            {OpenAI, 400, "", `{"error":"credit balance too low"}`, ProviderQuota, ""},
		"a code with words in it":  {OpenAI, 400, "", openAI("", "see my prompt: hello", "…"), MalformedRequest, ""},
		"a long code":              {OpenAI, 400, "", openAI("", strings.Repeat("c", 65), "…"), MalformedRequest, ""},
		"no JSON as octet-stream":  {OpenAI, 400, "", "\x00\x01", MalformedRequest, ""},
		"words elsewhere in there": {OpenAI, 400, "", `{"error":{"type":"invalid_request_error","message":"bad","metadata":{"message":"maximum context length"}}}`, MalformedRequest, "invalid_request_error"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			header := func(n string) string {
				if v, ok := strings.CutPrefix(tt.header, n+": "); ok {
					return v
				}
				return ""
			}
			got := Classify(tt.n, tt.status, header, []byte(tt.body))
			if want := (ProviderError{tt.class, tt.code}); got != want {
				t.Errorf("Classify(%d, %.80s) = %+v, want %+v", tt.status, tt.body, got, want)
			}
		})
	}
}
