package processor_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"airgate/accounting/money"
	"airgate/accounting/record"
	"airgate/processor"
)

// streamed is a streamed call to gpt-4o of which a test is the provider: it makes
// dense text, a byte a token.
type streamed struct {
	*processor.Stream

	e    *env
	in   int // tokens, as many as are held
	made int
	over bool // the provider has ended, or was stopped
	cut  string
}

// open lets a call go, with so much room for output, and its answer begin; nil if it
// is refused.
func (e *env) open(limit int) *streamed {
	e.t.Helper()
	s := &streamed{Stream: e.proc.Begin(e.now), e: e}
	s.Step(&processor.RequestHeaders{Headers: e.headers(":method: POST\n:path: /v1/chat/completions\nauthorization: Bearer KEY"), Now: e.now})
	body := fmt.Sprintf(`{"model":"gpt-4o","stream":true,"stream_options":{"include_usage":true},"max_completion_tokens":%d}`, limit)
	s.in = len(body) + 128
	if _, ok := s.Step(&processor.RequestBody{Body: []byte(body), Now: e.now}).(*processor.Forward); !ok {
		return nil
	}
	s.After()
	s.Step(&processor.ResponseHeaders{Headers: e.headers(":status: 200\ncontent-type: text/event-stream"), Details: "via_upstream", Attempts: 1, Now: e.now})
	s.After()
	return s
}

// chunk sends what the provider says, and returns what its caller gets of it.
func (s *streamed) chunk(text string, eos bool) (passed string) {
	c, ok := s.Step(&processor.ResponseBody{Chunk: []byte(text), EndOfStream: eos, Now: s.e.now}).(*processor.Chunk)
	if !ok {
		s.e.t.Fatal("a chunk is not answered with one")
	}
	if passed = text; c.Replace {
		passed = string(c.Body)
	}
	if c.Cut != "" {
		s.cut, s.over = c.Cut, true
	}
	s.After()
	return passed
}

// textEvent is an event with so many bytes of text.
func textEvent(n int) string {
	return fmt.Sprintf("data: {\"model\":\"gpt-4o\",\"choices\":[{\"index\":0,\"delta\":{\"content\":%q}}]}\n\n", strings.Repeat("x", n))
}

// makes lets the provider make n tokens more.
func (s *streamed) makes(n int) {
	s.made += n
	s.chunk(textEvent(n), false)
}

// ends lets the provider come to its end.
func (s *streamed) ends() {
	s.over = true
	s.chunk(fmt.Sprintf("data: {\"model\":\"gpt-4o\",\"choices\":[],\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d}}\n\ndata: [DONE]\n\n", s.in, s.made), true)
}

// bill is what the provider bills.
func (s *streamed) bill(unseen int) money.NanoUSD {
	return money.NanoUSD(1000*s.in + 10_000*(s.made+unseen))
}

func (s *streamed) close() {
	s.Close(s.e.now, true)
	s.Finish(s.e.now, processor.Cause{})
}

// A hundred streams at once spend a budget, as dense as text can be, and all that
// go on are cut: what each held was no less than what the provider made, unseen
// tokens and all, and no more than the budget at any time. None is refused at first.
func TestHundredStreamsAreCut(t *testing.T) {
	for _, chunk := range []int{8, 40, 120} {
		t.Run(fmt.Sprintf("in chunks of %d tokens", chunk), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(7, uint64(chunk)))
			e := &env{t: t}
			e.begin(strings.NewReplacer("usd: 1.00", "usd: 3", "usd: 0.50", "usd: 30", "concurrent: 3", "concurrent: 100", "100000/min", "1000000000/min").Replace(slicedConfig))
			var calls []*streamed
			for range 100 {
				s := e.open(32_000)
				if s == nil {
					t.Fatal("a call is refused")
				}
				calls = append(calls, s)
			}
			ends := 0
			for going := len(calls); going > 0; {
				s := calls[rng.IntN(len(calls))]
				switch {
				case s.over:
					continue
				case rng.IntN(200_000/chunk) < 20 && s.made > 0:
					s.ends()
					ends++
				default:
					s.makes(1 + rng.IntN(chunk))
				}
				for _, b := range e.ledger.Budgets(e.now) {
					if b.Spent+b.Reserved > b.Limit {
						t.Fatalf("%s has %s spent and %s reserved of %s", b.Name, b.Spent, b.Reserved, b.Limit)
					}
				}
				if s.over {
					going--
					const unseen = 100 // what the provider makes until it hears of it
					if r := e.last(); r.Type != record.Settle || s.bill(0) > r.Reserved || s.cut != "" && (r.Cut != "budget" || s.bill(unseen) > r.Reserved || r.Cost > r.Reserved) {
						t.Fatalf("%d tokens were made: %v, held %s, cost %s, cut %q", s.made, r.Type, r.Reserved, r.Cost, r.Cut)
					}
				}
			}
			for _, s := range calls {
				s.close()
			}
			e.holdsNothing(t)
			if ends < 5 || ends > 95 {
				t.Errorf("%d calls ended, want some, and some that were cut", ends)
			}
		})
	}
}

// Fifty agents ask for 32,000 tokens each and use 500: a budget of 25 USD, which the
// worst case of nineteen of them fills, refuses none of them in slices.
func TestFiftyAgents(t *testing.T) {
	for hold, want := range map[string]int{"whole": 31, "sliced": 0} {
		t.Run(hold, func(t *testing.T) {
			e := &env{t: t}
			e.begin(strings.NewReplacer("sliced", hold, "usd: 1.00", "usd: 25", "usd: 0.50", "usd: 25", "concurrent: 3", "concurrent: 50", "100000/min", "1000000/min", "output: 10", "output: 40").
				Replace(slicedConfig))
			var calls []*streamed
			for range 50 {
				if s := e.open(32_000); s != nil {
					calls = append(calls, s)
				}
			}
			for range 10 {
				for _, s := range calls {
					s.makes(50)
				}
			}
			held := e.ledger.Budgets(e.now)[0].Reserved
			for _, s := range calls {
				if s.ends(); s.cut != "" {
					t.Errorf("a call is cut after %d tokens", s.made)
				}
				s.close()
			}
			e.holdsNothing(t)
			refused := 50 - len(calls)
			t.Logf("%d of 50 refused, %s USD held and %s spent", refused, held, e.ledger.Budgets(e.now)[0].Spent)
			if refused != want {
				t.Errorf("%d of 50 calls are refused, want %d", refused, want)
			}
		})
	}
}

// An event that comes in parts is held for as it comes: none of it passes before the
// book says that it is paid for, and where it cannot be, none at all.
func TestEventInPartsIsHeldFor(t *testing.T) {
	for usd, cut := range map[string]bool{"1": false, "0.02": true} {
		for _, part := range []int{1, 7, 100, 900} {
			t.Run(fmt.Sprintf("of %s USD, %d bytes each", usd, part), func(t *testing.T) {
				e := &env{t: t}
				e.begin(strings.NewReplacer("usd: 1.00", "usd: "+usd, "100000/min", "1000000/min").Replace(slicedConfig))
				s := e.open(30_000)
				const made = 3000
				text, passed := textEvent(made), ""
				for at := 0; at < len(text) && !s.over; at += part {
					passed += s.chunk(text[at:min(len(text), at+part)], false)
					if held := e.ledger.Budgets(e.now)[0].Reserved; strings.Contains(passed, "xxxx") && (held < money.NanoUSD(1000*s.in+10_000*made) || e.last().Reserved != held) {
						t.Fatalf("output passes with %s held and %s in the book", held, e.last().Reserved)
					}
				}
				if cut {
					if s.cut != "budget" || strings.Contains(passed, "xxxx") || !strings.HasPrefix(passed, "data: {\"error\"") {
						t.Errorf("cut %q, passed %.100q; want none of the event, and the error", s.cut, passed)
					}
				} else if passed != text {
					t.Errorf("passed %.100q, want all of it", passed)
				}
				s.close()
				e.holdsNothing(t)
			})
		}
	}
}

// What was seen is charged, though it came at once and is more than could be held.
func TestCutChargesWhatWasSeen(t *testing.T) {
	e := &env{t: t}
	e.begin(strings.NewReplacer("usd: 1.00", "usd: 0.05", "100000/min", "1000000/min").Replace(slicedConfig))
	s := e.open(30_000)
	s.makes(30_000)
	const margin = 250
	want := money.NanoUSD(1000*s.in + 10_000*(10_000+margin))
	if r := e.last(); s.cut != "budget" || r.Cost != want || r.Cost <= r.Reserved {
		t.Errorf("cut %q, cost %s of %s held, want %s", s.cut, r.Cost, r.Reserved, want)
	}
	if b := e.ledger.Budgets(e.now)[0]; b.Spent != want || b.Reserved != 0 {
		t.Errorf("%s spent and %s reserved, want %s and 0", b.Spent, b.Reserved, want)
	}
	s.close()
}

// The error event of a cut stands alone, whatever of a comment or of a large event
// has passed before it.
func TestCutStandsAlone(t *testing.T) {
	for name, tt := range map[string]struct{ before, chunk, passed string }{
		"behind an event":                    {"", textEvent(40_000), textEvent(40_000)},
		"behind a part of an event":          {"", textEvent(40_000) + "data: {", textEvent(40_000)},
		"behind a part of a comment":         {"", textEvent(40_000) + ": wai", textEvent(40_000) + ": wai\n\n"},
		"behind the end of a comment":        {": wai", "t\n" + textEvent(40_000), "t\n" + textEvent(40_000)},
		"inside an event that is too large":  {"", textEvent(70_000)[:68_000], textEvent(70_000)[:68_000] + "\n\n"},
		"behind an event that was too large": {"", textEvent(70_000), textEvent(70_000)},
	} {
		t.Run(name, func(t *testing.T) {
			e := &env{t: t}
			e.begin(strings.NewReplacer("usd: 1.00", "usd: 0.05", "100000/min", "1000000/min").Replace(slicedConfig))
			s := e.open(30_000)
			s.chunk(tt.before, false)
			got := s.chunk(tt.chunk, false)
			if rest, ok := strings.CutPrefix(got, tt.passed); !ok || s.cut == "" || !strings.HasPrefix(rest, "data: {\"error\"") {
				t.Errorf("cut %q behind …%.100q, want …%.100q and the error", s.cut, got[max(0, len(got)-700):], tt.passed[max(0, len(tt.passed)-40):])
			}
			s.close()
			e.holdsNothing(t)
		})
	}
}

// A chunk on which nothing depends costs no allocation, held whole or in slices.
func TestChunkAllocations(t *testing.T) {
	for name, config := range map[string]string{"whole": strings.ReplaceAll(slicedConfig, "sliced", "whole"), "sliced": slicedConfig} {
		t.Run(name, func(t *testing.T) {
			e := &env{t: t}
			e.begin(strings.NewReplacer("usd: 1.00", "usd: 100", "usd: 0.50", "usd: 100", "100000/min", "1000000/min").Replace(config))
			s := e.open(16_000)
			s.makes(2000)
			s.makes(1) // and more is held than the next chunks need
			held := e.last().Reserved
			chunk := &processor.ResponseBody{Chunk: []byte(textEvent(1)), Now: e.now}
			if n := testing.AllocsPerRun(100, func() {
				s.Step(chunk)
				s.After()
			}); n != 0 {
				t.Errorf("a chunk allocates %v times, want 0", n)
			}
			if name == "sliced" && (e.last().Type != record.Extend || e.last().Reserved != held) {
				t.Errorf("the last record is %v of %s, want the extension to %s before", e.last().Type, e.last().Reserved, held)
			}
			s.close()
		})
	}
}
