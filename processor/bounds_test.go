package processor_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"airgate/accounting/money"
	"airgate/accounting/record"
	"airgate/accounting/usage"
	"airgate/processor"
)

// play runs one request of team search: its headers (after the usual ones), its
// body, an answer of the given type in one chunk per argument. It returns the
// last action and closes the request.
func (e *env) play(headers, body, kind string, chunks ...string) processor.Action {
	s := e.proc.Begin(e.now)
	head := ":method: POST\n:path: /v1/chat/completions\nauthorization: Bearer KEY\n"
	if strings.HasPrefix(headers, ":path") {
		head = strings.Replace(head, ":path: /v1/chat/completions\n", "", 1)
	}
	defer func() {
		s.Close(e.now, true)
		s.Finish(e.now, processor.Cause{})
	}()
	a := s.Step(&processor.RequestHeaders{Headers: e.headers(head + headers), Now: e.now})
	if _, ok := a.(*processor.Continue); !ok {
		return a
	}
	a = s.Step(&processor.RequestBody{Body: []byte(body), Now: e.now})
	f, ok := a.(*processor.Forward)
	if ok {
		e.sent = string(f.Body)
	}
	if !ok || kind == "" {
		return a
	}
	s.After()
	e.now = e.now.Add(100 * time.Millisecond)
	s.Step(&processor.ResponseHeaders{Headers: e.headers(":status: 200\ncontent-type: " + kind), Details: "via_upstream", Attempts: 1, Now: e.now})
	for _, c := range chunks {
		text, eos := strings.CutSuffix(c, "EOS")
		a = s.Step(&processor.ResponseBody{Chunk: []byte(text), EndOfStream: eos, Now: e.now})
		s.After()
	}
	return a
}

func (e *env) last() record.Record { return e.book.records[len(e.book.records)-1] }

func (e *env) holdsNothing(t *testing.T) {
	t.Helper()
	for _, b := range e.ledger.Budgets(e.now) {
		if b.Reserved != 0 {
			t.Errorf("budget %s still holds %s", b.Name, b.Reserved)
		}
	}
}

// Figures that no call can have are charged at the call's bound, and leave no
// hold and no permit behind.
func TestUsageBeyondBelief(t *testing.T) {
	for name, out := range map[string]string{"overflows": "4503599627370496000", "is absurd": "4503599627370496", "is negative": "-5"} {
		t.Run(name, func(t *testing.T) {
			e := &env{t: t}
			e.begin(lifeConfig)
			for range 4 { // one more than there are permits
				e.play("", `{"model":"gpt-5.4-mini","max_completion_tokens":100}`, "application/json",
					`{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":`+out+`}}EOS`)
				r := e.last()
				if r.Type != record.Settle || r.Cost > r.Reserved {
					t.Fatalf("record %+v, want a settlement of at most %s", r, r.Reserved)
				}
			}
			e.holdsNothing(t)
		})
	}
}

// A worst case that cannot be counted is refused, however it is multiplied.
func TestWorstCaseBeyondCounting(t *testing.T) {
	prompts := `"prompt":[` + strings.TrimSuffix(strings.Repeat(`"a",`, 16), ",") + `]`
	for name, c := range map[string][2]string{
		"product of 2^64": {":path: /v1/completions\n", `{"model":"gpt-5.4-mini","n":1073741824,"max_tokens":1073741824,` + prompts + `}`},
		"largest n":       {":path: /v1/completions\n", `{"model":"gpt-5.4-mini","n":2147483647,"max_tokens":2147483647,` + prompts + `}`},
		"largest chat":    {"", `{"model":"gpt-5.4-mini","n":2147483647,"max_completion_tokens":700000}`},
	} {
		t.Run(name, func(t *testing.T) {
			e := &env{t: t}
			e.begin(lifeConfig)
			d, ok := e.play(c[0], c[1], "").(*processor.Deny)
			if !ok || d.Status != http.StatusForbidden && d.Status != http.StatusPaymentRequired {
				t.Errorf("answer %+v, want a refusal", d)
			}
			e.holdsNothing(t)
		})
	}
}

// Words of callers are no metric labels, and must be text.
func TestCallersWords(t *testing.T) {
	e := &env{t: t}
	e.begin(lifeConfig)
	d, ok := e.play("x-airgate-purpose: caf\xe9", `{"model":"gpt-5.4-mini"}`, "").(*processor.Deny)
	if !ok || d.Status != http.StatusBadRequest {
		t.Errorf("a purpose that is not UTF-8: %+v, want 400", d)
	}
	e.play("x-airgate-purpose: alice", `{"model":"gpt-5.4-mini","max_completion_tokens":100}`, "application/json",
		`{"usage":{"prompt_tokens":10,"completion_tokens":10}}EOS`)
	if r := e.last(); r.Purpose != "alice" || r.Type != record.Settle {
		t.Errorf("record %+v, want purpose alice", r)
	}
}

// A running usage count is a floor, not the bill, when the answer breaks off.
func TestRunningUsageIsAFloor(t *testing.T) {
	e := &env{t: t}
	e.begin(lifeConfig)
	e.play("", `{"model":"gpt-5.4-mini","stream":true,"stream_options":{"include_usage":true},"max_completion_tokens":100}`, "text/event-stream",
		"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hello hello hello\"}}],\"usage\":{\"prompt_tokens\":0,\"completion_tokens\":0}}\n\n")
	if r := e.last(); r.Cost == 0 || r.UsageSource == usage.Provider {
		t.Errorf("record: cost %s, source %v; want an estimate above 0", r.Cost, r.UsageSource)
	}
}

// A cap that only the config knows is sent: the hold rests on it.
func TestConfiguredCapIsSent(t *testing.T) {
	e := &env{t: t}
	e.begin(strings.Replace(lifeConfig, "{gpt-5.4-mini: {provider: openai}}", "{gpt-5.4-mini: {provider: openai, maxOutputTokens: 1000}}", 1))
	e.play("", `{"model":"gpt-5.4-mini"}`, "")
	if !strings.Contains(e.sent, `"max_completion_tokens":1000`) {
		t.Errorf("sent %s, want the cap in it", e.sent)
	}
}

// An exclusive provider account serves no other team; rules see the endpoint by
// its name.
func TestExclusiveAndEndpointRules(t *testing.T) {
	for name, config := range map[string]string{
		"exclusive": strings.NewReplacer("{file: /secret}}", "{file: /secret}, exclusive: [other]}", "{search: {}}", "{search: {}, other: {}}").Replace(lifeConfig),
		"rule":      lifeConfig + `rules: [{name: no-chat, when: 'endpoint == "chat_completions"', deny: "no"}]`,
	} {
		t.Run(name, func(t *testing.T) {
			e := &env{t: t}
			e.begin(config)
			d, ok := e.play("", `{"model":"gpt-5.4-mini","max_completion_tokens":10}`, "").(*processor.Deny)
			if !ok || d.Status != http.StatusForbidden {
				t.Errorf("action %+v, want 403", d)
			}
			e.holdsNothing(t)
		})
	}
}

// Server tools bill per call: the hold has their fees, and who hangs up pays
// for the steps that may have been taken.
func TestServerToolFeesAreHeld(t *testing.T) {
	e := &env{t: t}
	e.begin(strings.NewReplacer("usd: 1.00", "usd: 100", "usd: 0.50", "usd: 100").Replace(lifeConfig))
	body := `{"model":"gpt-5.4-mini","stream":true,"max_tool_calls":2,"tools":[{"type":"web_search"}],"input":"hi","max_output_tokens":10}`
	e.play(":path: /v1/responses\n", body, "text/event-stream", "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"usage\":null}}\n\n")
	if len(e.book.records) < 2 {
		t.Fatalf("records %+v, want an intent and its settlement", e.book.records)
	}
	r := e.last()
	if fees := money.USD / 50; r.Reserved < fees || r.Cost < fees { // two searches at 10 USD a thousand
		t.Errorf("held %s, charged %s; want at least the fees of %s", r.Reserved, r.Cost, fees)
	}
}

// What was withheld of a stream leaves even after its settlement.
func TestNothingIsWithheldForever(t *testing.T) {
	e := &env{t: t}
	e.begin(lifeConfig)
	a := e.play("", `{"model":"gpt-5.4-mini","stream":true,"max_completion_tokens":100}`, "text/event-stream",
		"data: {\"error\":{\"message\":\"x\",\"code\":\"server_error\"}}\n\nda", "ta: [DONE]\n\nEOS")
	c, ok := a.(*processor.Chunk)
	if !ok || !c.Replace || string(c.Body) != "data: [DONE]\n\n" {
		t.Errorf("last chunk %+v, want the whole [DONE] event", a)
	}
}

// Bodies beyond the memory set aside are refused before they are uploaded, and
// the memory is free again when a request has been decided or has gone.
func TestOverloaded(t *testing.T) {
	e := &env{t: t}
	e.begin(lifeConfig) // 1 MiB of bodies at once
	head := func(length string) (*processor.Stream, processor.Action) {
		s := e.proc.Begin(e.now)
		return s, s.Step(&processor.RequestHeaders{
			Headers: e.headers(":method: POST\n:path: /v1/chat/completions\nauthorization: Bearer KEY\ncontent-length: " + length), Now: e.now,
		})
	}
	first, a := head("1000000")
	if _, ok := a.(*processor.Continue); !ok {
		t.Fatalf("first upload: %+v, want it to go on", a)
	}
	_, a = head("100000")
	if d, ok := a.(*processor.Deny); !ok || d.Status != http.StatusServiceUnavailable || d.Details != "airgate_overloaded" {
		t.Errorf("second upload: %+v, want 503 overloaded", a)
	}
	first.Close(e.now, true)
	first.Finish(e.now, processor.Cause{})
	if _, a = head("100000"); a == nil {
		t.Fatal("no action")
	} else if _, ok := a.(*processor.Continue); !ok {
		t.Errorf("after the first has gone: %+v, want it to go on", a)
	}
}
