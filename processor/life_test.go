package processor_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"airgate/accounting/record"
	"airgate/processor"
)

const lifeConfig = `
providers: {openai: {dialect: openai, url: https://api.openai.com, credential: {file: /secret}}}
models: {gpt-5.4-mini: {provider: openai}}
teams: {search: {}}
limits: [{name: parallel, each: key, concurrent: 3}, {name: tpm, each: team, tokens: 100000/min}]
budgets: [{name: search, match: {team: search}, usd: 1.00, per: month}, {name: keys, each: key, usd: 0.50, per: day}]
prices: {usdPerMillionTokens: {gpt-5.4-mini: {input: 1, cacheRead: 0.1, output: 10}}}
`

// slicedConfig is lifeConfig for a model whose output is all visible, held in
// slices.
var slicedConfig = strings.NewReplacer("gpt-5.4-mini", "gpt-4o", "per: month", "per: month, streamHold: sliced", "per: day", "per: day, streamHold: sliced").Replace(lifeConfig)

// Whatever Envoy tells, in whatever order, and wherever it stops: every event
// gets one action, nothing is forwarded without an intent in the journal, the
// request leaves exactly one settlement or denial, and no hold is left.
func TestEveryLifeEnds(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		e := &env{t: t}
		e.begin(rapid.SampledFrom([]string{lifeConfig, slicedConfig}).Draw(r, "config"))
		lives := rapid.IntRange(1, 6).Draw(r, "lives")
		var open []*processor.Stream
		for range lives {
			open = append(open, e.proc.Begin(e.now))
		}
		forwarded := map[string]bool{}
		for range rapid.IntRange(0, 40).Draw(r, "events") {
			s := open[rapid.IntRange(0, lives-1).Draw(r, "stream")]
			e.book.fail = rapid.IntRange(0, 9).Draw(r, "disk") == 0
			before := len(e.book.records)
			a := s.Step(e.draw(r))
			s.After()
			if a == nil {
				r.Fatal("an event got no action")
			}
			if f, ok := a.(*processor.Forward); ok {
				forwarded[s.RequestID()] = true
				last := e.book.records[len(e.book.records)-1]
				if len(e.book.records) == before || last.Type != record.Intent || f.Metadata.Decision != "allow" {
					r.Fatalf("forwarded without an intent: %+v", last)
				}
			}
			e.now = e.now.Add(time.Duration(rapid.IntRange(0, 2000).Draw(r, "pause")) * time.Millisecond)
		}
		e.book.fail = false
		for _, s := range open {
			s.Close(e.now, true)
			s.Finish(e.now, processor.Cause{})
			s.Finish(e.now, processor.Cause{}) // idempotent
		}
		intents, ends := map[string]int{}, map[string]int{}
		for _, rec := range e.book.records {
			if forwarded[rec.RequestID] && rec.Type != record.Intent && rec.Type != record.Settle {
				r.Errorf("request %s was forwarded and ends as %v", rec.RequestID, rec.Type)
			}
		}
		for _, rec := range e.book.records {
			switch rec.Type {
			case record.Intent:
				intents[rec.RequestID]++
			case record.Extend:
				if intents[rec.RequestID] == 0 || ends[rec.RequestID] > 0 {
					r.Errorf("request %s is extended while it is not open", rec.RequestID)
				}
			default:
				ends[rec.RequestID]++
			}
		}
		for id, n := range ends {
			if n != 1 {
				r.Errorf("request %s has %d last records", id, n)
			}
		}
		for id := range forwarded {
			if intents[id] != 1 {
				r.Errorf("request %s was forwarded with %d intents", id, intents[id])
			}
		}
		for _, b := range e.ledger.Budgets(e.now) {
			if b.Reserved != 0 {
				r.Errorf("budget %s still holds %s", b.Name, b.Reserved)
			}
			if b.Spent > b.Limit {
				r.Errorf("budget %s spent %s of %s", b.Name, b.Spent, b.Limit)
			}
		}
	})
}

// draw makes any event.
func (e *env) draw(r *rapid.T) processor.Event {
	switch rapid.IntRange(0, 9).Draw(r, "event") {
	case 0, 1:
		key := rapid.SampledFrom([]string{"Bearer KEY", "Bearer KEY", "Bearer KEY", "Bearer sk-x", ""}).Draw(r, "key")
		path := rapid.SampledFrom([]string{"/v1/chat/completions", "/v1/chat/completions", "/v1/models", "/v1/nothing"}).Draw(r, "path")
		return &processor.RequestHeaders{
			Headers: e.headers(":method: POST\n:path: " + path + "\nauthorization: " + key), EndOfStream: rapid.IntRange(0, 9).Draw(r, "eos") == 0,
			Source: "192.0.2.7:1", Now: e.now,
		}
	case 2, 3:
		body := rapid.SampledFrom([]string{
			`{"model":"gpt-5.4-mini","max_completion_tokens":100}`, `{"model":"gpt-5.4-mini","stream":true}`,
			`{"model":"gpt-5.4-mini","max_completion_tokens":9000000}`, `{"model":"x"}`, `{`, ``,
			`{"model":"gpt-4o","stream":true,"max_completion_tokens":16000}`, `{"model":"gpt-4o","stream":true,"stream_options":{"include_usage":true},"max_completion_tokens":30000}`,
		}).Draw(r, "body")
		return &processor.RequestBody{Body: []byte(body), Now: e.now}
	case 4:
		status := rapid.SampledFrom([]string{"200", "200", "200", "401", "429", "500"}).Draw(r, "status")
		kind := rapid.SampledFrom([]string{"application/json", "text/event-stream"}).Draw(r, "type")
		details := rapid.SampledFrom([]string{"via_upstream", "via_upstream", "via_upstream", "response_timeout", "direct_response"}).Draw(r, "details")
		return &processor.ResponseHeaders{
			Headers: e.headers(":status: " + status + "\ncontent-type: " + kind), Details: details, Attempts: 1,
			EndOfStream: rapid.IntRange(0, 9).Draw(r, "eos") == 0, Now: e.now,
		}
	case 5, 6, 7:
		chunk := rapid.SampledFrom([]string{
			`{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":20}}`, "data: {\"choices\":[{\"delta\":{\"content\":\"hello\"}}]}\n\n",
			"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":20}}\n\n", "data: [DONE]\n\n", "", "rubbish",
			"data: {\"model\":\"gpt-4o\",\"choices\":[{\"delta\":{\"content\":\"" + strings.Repeat("x", rapid.IntRange(0, 3000).Draw(r, "text")) + "\"}}]}\n\n",
			"data: {\"error\":{\"code\":\"insufficient_quota\"}}\n\n",
		}).Draw(r, "chunk")
		return &processor.ResponseBody{Chunk: []byte(chunk), EndOfStream: rapid.IntRange(0, 4).Draw(r, "eos") == 0, Now: e.now}
	case 8:
		return &processor.ResponseTrailers{Now: e.now}
	default:
		return &processor.NotDurable{Now: e.now}
	}
}

// How an answer is divided into chunks changes neither what the caller gets nor
// what it costs.
func TestChunksChangeNothing(t *testing.T) {
	for model, config := range map[string]string{"gpt-5.4-mini": lifeConfig, "gpt-4o": slicedConfig} {
		text := "hello"
		if config == slicedConfig {
			text = strings.Repeat("hello", 60) // so that more is held on the way
		}
		answer := strings.Repeat("data: {\"model\":\""+model+"\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\""+text+"\"}}]}\n\n", 5) +
			"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":20}}\n\ndata: [DONE]\n\n"
		run := func(cuts ...int) (passed string, last record.Record) {
			e := &env{t: t}
			e.begin(config)
			s := e.proc.Begin(e.now)
			step := func(ev processor.Event) {
				a := s.Step(ev)
				if c, ok := a.(*processor.Chunk); ok {
					if c.Replace {
						passed += string(c.Body)
					} else {
						passed += string(ev.(*processor.ResponseBody).Chunk)
					}
				}
				s.After()
			}
			step(&processor.RequestHeaders{Headers: e.headers(":method: POST\n:path: /v1/chat/completions\nauthorization: Bearer KEY"), Now: e.now})
			step(&processor.RequestBody{Body: []byte(`{"model":"` + model + `","stream":true}`), Now: e.now})
			step(&processor.ResponseHeaders{Headers: e.headers(":status: 200\ncontent-type: text/event-stream"), Details: "via_upstream", Attempts: 1, Now: e.now})
			from := 0
			for _, to := range append(cuts, len(answer)) {
				step(&processor.ResponseBody{Chunk: []byte(answer[from:to]), EndOfStream: to == len(answer), Now: e.now})
				from = to
			}
			s.Close(e.now, true)
			s.Finish(e.now, processor.Cause{})
			return passed, e.book.records[len(e.book.records)-1]
		}
		want, wantLast := run()
		if !strings.HasSuffix(want, "data: [DONE]\n\n") || strings.Contains(want, "usage") || wantLast.Cost == 0 {
			t.Fatalf("whole: passed %q, cost %s", want, wantLast.Cost)
		}
		for cut := 1; cut < len(answer); cut += 1 + len(answer)/500 {
			got, last := run(cut)
			if got != want || last.Cost != wantLast.Cost || last.Tokens != wantLast.Tokens || last.UsageSource != wantLast.UsageSource {
				t.Fatalf("cut at %d: passed %q, cost %s; want %q, %s", cut, got, last.Cost, want, wantLast.Cost)
			}
		}
	}
}

// Refused strangers are counted by code, network and second.
func TestStrangersAreCounted(t *testing.T) {
	e := &env{t: t}
	e.begin(lifeConfig)
	for i := range 300 {
		s := e.proc.Begin(e.now)
		s.Step(&processor.RequestHeaders{
			Headers: e.headers(":method: POST\n:path: /v1/chat/completions"), Source: fmt.Sprintf("192.0.2.%d:1", i%200), Now: e.now,
		})
		s.Close(e.now, true)
		s.Finish(e.now, processor.Cause{})
	}
	if err := e.proc.Flush(e.now); err != nil || len(e.book.records) != 0 {
		t.Fatalf("Flush within the second = %v, %d records; want none yet", err, len(e.book.records))
	}
	e.book.fail = true
	if err := e.proc.Flush(e.now.Add(time.Second)); err == nil {
		t.Error("Flush = nil while the journal fails")
	}
	e.book.fail = false
	if err := e.proc.Flush(e.now.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if len(e.book.records) != 1 {
		t.Fatalf("%d records, want one for the network", len(e.book.records))
	}
	if r := e.book.records[0]; r.Count != 300 || r.Source != "192.0.2.0/24" || r.Code != "key_missing" || r.RequestID != "" {
		t.Errorf("record %+v, want 300 times key_missing from 192.0.2.0/24", r)
	}
}
