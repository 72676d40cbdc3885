package processor_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"airgate/accounting/money"
	"airgate/accounting/record"
	"airgate/processor"
)

const endsConfig = `
providers:
  openai: {dialect: openai, url: https://api.openai.com, credential: {file: /secret}}
  anthropic: {dialect: anthropic, url: https://api.anthropic.com, credential: {file: /secret}}
models: {gpt-4o: {provider: openai}, gpt-5.4-mini: {provider: openai}, text-embedding-3-small: {provider: openai, maxOutputTokens: 1}, claude-sonnet: {provider: anthropic, upstreamModel: claude-sonnet-4-6}}
teams: {search: {}}
budgets: [{name: search, match: {team: search}, usd: 100, per: month}]
prices: {usdPerMillionTokens: {gpt-4o: {input: 1, output: 10}, gpt-5.4-mini: {input: 1, output: 10}, claude-sonnet: {input: 1, cacheWrite5m: 1, output: 10}, text-embedding-3-small: {input: 1, output: 1}}}
`

// TestEnds is every way in which a call that was let go can end, by what was
// seen of its usage. Each step takes 100 ms; the provider can make 1,000 tokens
// a second. Input is held at 1 USD per million tokens, output at 10, so that a
// cost of 0.000300 + 0.002000 is 300 tokens in and 200 out.
func TestEnds(t *testing.T) {
	const (
		sse    = "200 text/event-stream"
		json   = "200 application/json"
		hello  = `data: {"model":"M","choices":[{"index":0,"delta":{"content":"hello there, hello there"}}]}` + "\n\n" // 24 bytes: 8 tokens, and 64 of slack
		usage  = `data: {"model":"M","choices":[],"usage":{"prompt_tokens":300,"completion_tokens":200}}` + "\n\n"     //
		done   = "data: [DONE]\n\n"                                                                                    //
		failed = `data: {"error":{"message":"x","type":"server_error","code":"server_error"}}` + "\n\n"                //
		start  = `event: message_start` + "\n" + `data: {"type":"message_start","message":{"model":"M","usage":{"input_tokens":300,"output_tokens":1}}}` + "\n\n"
		text   = `event: content_block_delta` + "\n" + `data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"hello there, hello there"}}` + "\n\n"
		think  = `event: content_block_start` + "\n" + `data: {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":""}}` + "\n\n"
		over   = `event: error` + "\n" + `data: {"type":"error","error":{"type":"overloaded_error","message":"x"}}` + "\n\n"
	)
	for name, c := range map[string]struct {
		model  string
		stream bool
		steps  []string // the head of the answer, chunks (…EOS), "trailers", "close FLAGS", "close ours", "not durable", "local DETAILS"
		in     int64    // tokens charged; 0 = the bound: bytes + 128
		out    int64    // -1 = no cost at all
		source string
		class  string
	}{
		"usage, whole stream":               {"gpt-4o", true, []string{sse, hello, usage, done + "EOS"}, 300, 200, "provider", "ok"},
		"usage, whole body":                 {"gpt-5.4-mini", false, []string{json, `{"choices":[],"usage":{"prompt_tokens":300,"completion_tokens":200}}EOS`}, 300, 200, "provider", "ok"},
		"usage, no end":                     {"gpt-4o", true, []string{sse, hello, usage, "EOS"}, 300, 200, "provider", "ok"},
		"usage, trailers":                   {"gpt-4o", true, []string{sse, hello, usage, "trailers"}, 300, 200, "provider", "ok"},
		"usage, then an error event":        {"gpt-4o", true, []string{sse, usage, failed + "EOS"}, 300, 200, "provider", "transient"},
		"usage, then the caller leaves":     {"gpt-4o", true, []string{sse, hello, usage, "close DC"}, 300, 200, "partial", "client_closed"},
		"visible, the caller leaves":        {"gpt-4o", true, []string{sse, hello, "close DC"}, 0, 72, "estimated", "client_closed"},
		"visible, the provider resets":      {"gpt-4o", true, []string{sse, hello, "close UR"}, 0, 72, "estimated", "transient"},
		"visible, a duration is over":       {"gpt-4o", true, []string{sse, hello, "close DT"}, 0, 72, "estimated", "transient"},
		"visible, airgate breaks off":       {"gpt-4o", true, []string{sse, hello, "close ours"}, 0, 72, "estimated", "gateway"},
		"visible, the end is clean":         {"gpt-4o", true, []string{sse, hello, done + "EOS"}, 0, 72, "estimated", "ok"},
		"visible, an error event":           {"gpt-4o", true, []string{sse, hello, failed + "EOS"}, 0, 72, "estimated", "transient"},
		"visible, input known":              {"claude-sonnet", true, []string{sse, start, text, "close DC"}, 300, 72, "partial", "client_closed"},
		"visible, input known, error event": {"claude-sonnet", true, []string{sse, start, text, over + "EOS"}, 300, 72, "partial", "transient"},
		"hidden reasoning":                  {"gpt-5.4-mini", true, []string{sse, hello, "close DC"}, 0, 300, "none", "client_closed"},
		"hidden thinking, input known":      {"claude-sonnet", true, []string{sse, start, think, "close DC"}, 300, 400, "none", "client_closed"},
		"hidden, above the cap":             {"gpt-5.4-mini", true, slices.Concat([]string{sse}, slices.Repeat([]string{hello}, 12), []string{"close DC"}), 0, 1000, "none", "client_closed"},
		"a body in parts":                   {"gpt-4o", false, []string{json, `{"choices":[{"message":{"content":"hello`, "close DC"}, 0, 300, "none", "client_closed"},
		"a body that is not JSON":           {"gpt-4o", false, []string{"200 text/html", "<html>oops</html>EOS"}, 0, 200, "none", "ok"},
		"no body at all":                    {"gpt-4o", false, []string{json + " EOS"}, 0, 100, "none", "ok"},
		"before the first byte":             {"gpt-4o", true, []string{sse, "close DC"}, 0, 200, "none", "client_closed"},
		"before the answer":                 {"gpt-4o", true, []string{"close DC"}, 0, 100, "none", "client_closed"},
		"before the answer, ours":           {"gpt-4o", true, []string{"close ours"}, 0, 100, "none", "gateway"},
		"the intent is not on disk":         {"gpt-4o", true, []string{sse, "not durable"}, 0, 200, "none", "gateway"},
		"embeddings without usage":          {"text-embedding-3-small", false, []string{json, `{"data":[]}EOS`}, 0, 0, "estimated", "ok"},
		"the provider refuses":              {"gpt-4o", true, []string{"400 application/json", `{"error":{"message":"x","type":"invalid_request_error","code":null}}EOS`}, 0, -1, "", "malformed"},
		"the provider is limited":           {"gpt-4o", true, []string{"429 application/json", `{"error":{"message":"x","type":"requests","code":"rate_limit_exceeded"}}EOS`}, 0, -1, "", "provider_limited"},
		"the provider fails":                {"gpt-4o", true, []string{"500 application/json EOS"}, 0, -1, "", "transient"},
		"its refusal is not read whole":     {"gpt-4o", true, []string{"500 application/json", "close DC"}, 0, -1, "", "client_closed"},
		"our credential is refused":         {"gpt-4o", true, []string{"401 application/json", `{"error":{"message":"x","code":"invalid_api_key"}}EOS`}, 0, -1, "", "provider_auth"},
		"Envoy: no connection":              {"gpt-4o", true, []string{"local upstream_reset_before_response_started{remote_connection_failure}"}, 0, -1, "", "transient"},
		"Envoy: no healthy host":            {"gpt-4o", true, []string{"local no_healthy_upstream"}, 0, -1, "", "transient"},
		"Envoy: overflow":                   {"gpt-4o", true, []string{"local upstream_reset_before_response_started{overflow}"}, 0, -1, "", "transient"},
		"Envoy: no answer in time":          {"gpt-4o", true, []string{"local response_timeout"}, 0, 100, "none", "transient"},
		"Envoy: the provider closes":        {"gpt-4o", true, []string{"local upstream_reset_before_response_started{connection_termination}"}, 0, 100, "none", "transient"},
	} {
		t.Run(name, func(t *testing.T) {
			e := &env{t: t}
			e.begin(endsConfig)
			s := e.proc.Begin(e.now)
			path, capField := "/v1/chat/completions", "max_completion_tokens"
			switch {
			case c.model == "claude-sonnet":
				path, capField = "/v1/messages", "max_tokens"
			case strings.HasPrefix(c.model, "text-"):
				path, capField = "/v1/embeddings", "dimensions"
			}
			s.Step(&processor.RequestHeaders{Headers: e.headers(":method: POST\n:path: " + path + "\nauthorization: Bearer KEY"), Now: e.now})
			body := fmt.Sprintf(`{"model":%q,%q:1000,"stream":%v}`, c.model, capField, c.stream)
			if a, ok := s.Step(&processor.RequestBody{Body: []byte(body), Now: e.now}).(*processor.Forward); !ok {
				t.Fatalf("the call is not let go: %+v", a)
			}
			s.After()
			cause := processor.Cause{}
			byEnvoy := true
			for _, step := range c.steps {
				e.now = e.now.Add(100 * time.Millisecond)
				word, rest, _ := strings.Cut(step, " ")
				text, eos := strings.CutSuffix(step, "EOS")
				var ev processor.Event
				switch {
				case word == "close":
					byEnvoy = rest != "ours"
					cause = processor.Cause{Flags: rest, Details: "x"}
				case word == "trailers":
					ev = &processor.ResponseTrailers{Now: e.now}
				case step == "not durable":
					ev = &processor.NotDurable{Now: e.now}
				case word == "local":
					ev = &processor.ResponseHeaders{Headers: e.headers(":status: 503"), Details: rest, Now: e.now}
				case len(word) == 3 && word[0] >= '2' && word[0] <= '5':
					kind, _ := strings.CutSuffix(rest, " EOS")
					ev = &processor.ResponseHeaders{Headers: e.headers(":status: " + word + "\ncontent-type: " + kind), Details: "via_upstream", Attempts: 1, EndOfStream: eos, Now: e.now}
				default:
					ev = &processor.ResponseBody{Chunk: []byte(strings.ReplaceAll(text, `"M"`, `"`+c.model+`"`)), EndOfStream: eos, Now: e.now}
				}
				if ev != nil {
					s.Step(ev)
					s.After()
				}
			}
			if !byEnvoy {
				cause = processor.Cause{}
			}
			s.Close(e.now, byEnvoy)
			s.Finish(e.now, cause)

			in := c.in
			if in == 0 {
				in = int64(len(body)) + 128
				if c.model == "claude-sonnet" {
					in += 128
				}
			}
			r := e.last()
			got := fmt.Sprintf("%d in, %d out, cost %s, source %q, class %s", r.Tokens.TotalInput(), r.Tokens.Output, r.Cost, r.UsageSource, r.Class)
			wanted := fmt.Sprintf("%d in, %d out, cost %s, source %q, class %s", in, c.out, money.NanoUSD(1000*in+10_000*max(c.out, 0)), c.source, c.class)
			if c.out < 0 {
				wanted = fmt.Sprintf("0 in, 0 out, cost 0, source %q, class %s", c.source, c.class)
			}
			if r.Type != record.Settle || !r.HasCost || got != wanted {
				t.Errorf("%v with %s\nwant %s", r.Type, got, wanted)
			}
			e.holdsNothing(t)
		})
	}
}
