package processor_test

import (
	"fmt"
	"strings"
	"testing"

	"airgate/accounting/money"
	"airgate/accounting/record"
	"airgate/processor"
)

const (
	expectedConfig = `
providers: {openai: {dialect: openai, url: https://api.openai.com, credential: {file: /secret}}}
models: {gpt-5.4-mini: {provider: openai, aliases: [mini]}, gpt-4o: {provider: openai}}
teams: {search: {}}
prices: {usdPerMillionTokens: {gpt-5.4-mini: {input: 1, output: 10}, gpt-4o: {input: 1, output: 10}}}
budgets: [{name: search, match: {team: search}, usd: 100, per: month, admission: expected}]
`
	askedFor = `{"model":"gpt-5.4-mini","max_completion_tokens":1000}`
)

// answers lets n calls be answered as a provider does that has made so much output.
func (e *env) answers(n, out int) {
	for range n {
		e.play("", askedFor, "application/json", fmt.Sprintf(`{"choices":[],"usage":{"prompt_tokens":20,"completion_tokens":%d}}EOS`, out))
	}
}

// reload puts another config in force.
func (e *env) reload(yaml string) {
	e.t.Helper()
	e.snap = e.load(yaml)
	if err := e.ledger.Apply(e.snap.Limits, e.now); err != nil {
		e.t.Fatal(err)
	}
}

// TestExpectedHold: what is held is the estimate of the input and the output that
// such calls seldom pass, once twenty of them have ended as they should.
func TestExpectedHold(t *testing.T) {
	const (
		in, worstIn  = 53/4 + 50, 53 + 128 // of the body
		worst        = money.NanoUSD(1000*worstIn + 10_000*1000)
		usual        = money.NanoUSD(1000*in + 10_000*207) // 200 is in the part that ends there
		finished     = `data: {"choices":[],"usage":{"prompt_tokens":20,"completion_tokens":200}}` + "\n\ndata: [DONE]\n\nEOS"
		runningCount = `data: {"choices":[{"index":0,"delta":{"content":"abc"}}],"usage":{"prompt_tokens":20,"completion_tokens":200}}` + "\n\n"
		failed       = runningCount + `data: {"error":{"message":"no","type":"server_error"}}` + "\n\nEOS"
	)
	stream := strings.Replace(askedFor, "{", `{"stream":true,`, 1)
	for name, c := range map[string]struct {
		config [2]string // what replaces what
		before func(*env)
		body   string
		held   money.NanoUSD
		worst  money.NanoUSD
	}{
		"nothing is known": {before: func(*env) {}, held: worst, worst: worst},
		"19 answers":       {before: func(e *env) { e.answers(19, 200) }, held: worst, worst: worst},
		"20 answers":       {before: func(e *env) { e.answers(20, 200) }, held: usual, worst: worst},
		"20 streams": {before: func(e *env) {
			for range 20 {
				e.play("", stream, "text/event-stream", finished)
			}
		}, held: usual, worst: worst},
		"20 answers of another model": {before: func(e *env) {
			for range 20 {
				e.play("", strings.Replace(askedFor, "gpt-5.4-mini", "gpt-4o", 1), "application/json", `{"choices":[],"usage":{"prompt_tokens":20,"completion_tokens":200}}EOS`)
			}
		}, held: worst, worst: worst},
		"20 answers, by an alias": {before: func(e *env) {
			for range 20 {
				e.play("", strings.Replace(askedFor, "gpt-5.4-mini", "mini", 1), "application/json", `{"choices":[],"usage":{"prompt_tokens":20,"completion_tokens":200}}EOS`)
			}
		}, held: usual, worst: worst},
		"20 that broke off, with a running count": {before: func(e *env) {
			for range 20 {
				e.play("", stream, "text/event-stream", runningCount)
			}
		}, held: worst, worst: worst},
		"20 that ended with an error": {before: func(e *env) {
			for range 20 {
				e.play("", stream, "text/event-stream", failed)
			}
		}, held: worst, worst: worst},
		"20 without usage": {before: func(e *env) {
			for range 20 {
				e.play("", stream, "text/event-stream", `data: {"choices":[{"index":0,"delta":{"content":"abc"}}]}`+"\n\ndata: [DONE]\n\nEOS")
			}
		}, held: worst, worst: worst},
		"20 of which none can be": {before: func(e *env) { e.answers(20, 1<<52) }, held: worst, worst: worst},
		"20 longer ones": {
			before: func(e *env) { e.answers(20, 2000) }, held: 1000*in + 10_000*1000, worst: worst, // as much output as may be
		},
		"a smaller cap": {
			before: func(e *env) { e.answers(20, 200) }, body: strings.Replace(askedFor, "1000", "100", 1), held: 1000*in + 10_000*100, worst: 1000*(worstIn-1) + 10_000*100,
		},
		"input that is not in the body": {
			before: func(e *env) { e.answers(20, 200) }, body: `{"model":"gpt-5.4-mini","max_completion_tokens":1000,"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://example.com/a.png"}}]}]}`,
			held: 1000*400_000 + 10_000*207, worst: 1000*400_000 + 10_000*1000,
		},
		"a context window smaller than the estimate": {
			config: [2]string{"aliases: [mini]", "aliases: [mini], upstreamModel: tiny, contextWindow: 60, maxOutputTokens: 4000"},
			before: func(e *env) { e.answers(20, 200) }, held: 1000*60 + 10_000*207, worst: 1000*60 + 10_000*1000,
		},
		"a budget that was strict": {config: [2]string{"expected", "strict"}, before: func(e *env) {
			e.answers(20, 200)
			e.reload(expectedConfig)
		}, held: worst, worst: worst},
		"strict": {config: [2]string{"expected", "strict"}, before: func(e *env) { e.answers(20, 200) }, held: worst, worst: worst},
		"another airgate": {before: func(e *env) {
			e.answers(20, 200)
			e.crash(expectedConfig, e.now)
		}, held: worst, worst: worst},
	} {
		t.Run(name, func(t *testing.T) {
			e := &env{t: t}
			e.begin(strings.Replace(expectedConfig, c.config[0], c.config[1], 1))
			c.before(e)
			body := askedFor
			if c.body != "" {
				body = c.body
			}
			s := e.proc.Begin(e.now)
			s.Step(&processor.RequestHeaders{Headers: e.headers(":method: POST\n:path: /v1/chat/completions\nauthorization: Bearer KEY"), Now: e.now})
			if _, ok := s.Step(&processor.RequestBody{Body: []byte(body), Now: e.now}).(*processor.Forward); !ok {
				t.Fatal("the call is refused")
			}
			r := e.last()
			beyond := int64(c.worst)
			if c.held == c.worst {
				beyond = 0
			}
			if l := r.Limits[0]; r.Type != record.Intent || r.Reserved != c.worst || l.Needed != int64(c.held) || l.Worst != beyond {
				t.Errorf("%v: at most %s, search holds %s, at most %s; want %s, %s and %s", r.Type, r.Reserved, money.NanoUSD(l.Needed), money.NanoUSD(l.Worst),
					c.worst, c.held, money.NanoUSD(beyond))
			}
			if b := e.ledger.Budgets(e.now)[0]; b.Reserved != c.held {
				t.Errorf("search holds %s, want %s", b.Reserved, c.held)
			}
			s.After()
			s.Close(e.now, true)
			s.Finish(e.now, processor.Cause{})
			e.holdsNothing(t)
		})
	}
}

// TestExpectedBesideSlices: where a call is held in slices, that is what is held, and
// it learns all the same.
func TestExpectedBesideSlices(t *testing.T) {
	e := &env{t: t}
	e.begin(strings.Replace(expectedConfig, "admission: expected", "admission: expected, streamHold: sliced", 1))
	for range 21 {
		s := e.open(32_000)
		r := e.last()
		if l := r.Limits[0]; l.Needed != int64(r.Reserved) || l.Needed > 10_000*1500 || l.Worst != 0 {
			t.Fatalf("%s is held of %s, at most %s, want the first slice", money.NanoUSD(l.Needed), r.Reserved, money.NanoUSD(l.Worst))
		}
		s.makes(20)
		s.ends()
		s.close()
	}
	e.play("", `{"model":"gpt-4o","max_completion_tokens":1000}`, "")
	if l := e.book.records[len(e.book.records)-2].Limits[0]; l.Needed > 10_000*40 || l.Worst < 10_000*1000 {
		t.Errorf("a call that is no stream holds %s, at most %s; want what is usual", money.NanoUSD(l.Needed), money.NanoUSD(l.Worst))
	}
}

// TestExpectedOverdraft: calls that are let go together may pass the limit by what
// they cost beyond what was expected, and no more than by what was told. The next is
// refused, and is told what it was expected to cost.
func TestExpectedOverdraft(t *testing.T) {
	e := &env{t: t}
	e.begin(expectedConfig)
	e.answers(20, 200)
	spent := e.ledger.Budgets(e.now)[0].Spent
	limit := spent + 5_000_000 // two usual calls, and not a whole one
	e.reload(strings.Replace(expectedConfig, "usd: 100", "usd: "+limit.String(), 1))
	var beyond money.NanoUSD
	var flights []*processor.Stream
	for range 2 {
		flights = append(flights, e.callInFlight())
		l := e.last().Limits[0]
		beyond += money.NanoUSD(l.Worst - l.Needed)
	}
	d, ok := e.play("", askedFor, "").(*processor.Deny)
	if !ok || d.Details != "airgate_budget_busy" || !strings.Contains(string(d.Body), "this call is expected to cost 0.002133 USD") {
		t.Errorf("a third call: %s, want budget_busy and what it is expected to cost", describe(d))
	}
	for _, s := range flights {
		s.Step(&processor.ResponseHeaders{Headers: e.headers(":status: 200\ncontent-type: application/json"), Details: "via_upstream", Attempts: 1, Now: e.now})
		s.Step(&processor.ResponseBody{Chunk: []byte(`{"choices":[],"usage":{"prompt_tokens":181,"completion_tokens":1000}}`), EndOfStream: true, Now: e.now})
		s.Close(e.now, true)
		s.Finish(e.now, processor.Cause{})
	}
	b := e.ledger.Budgets(e.now)[0]
	if b.Spent != spent+2*10_181_000 || b.Spent <= b.Limit || b.Spent > b.Limit+beyond {
		t.Errorf("%s spent of %s, want %s, and no more than %s beyond", b.Spent, b.Limit, spent+2*10_181_000, beyond)
	}
}
