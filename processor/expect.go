package processor

import (
	"airgate/accounting/money"
	"airgate/processor/dialect"
)

// A budget with admission: expected holds, in place of the worst case, what the call
// is expected to cost: its input as a quarter of its bytes, and the output that 95 of
// 100 calls of its key to its model do not pass. That is learned from the answers of
// this process, for calls that such a budget covers, and until enough were seen the
// worst case is held. A budget passes its limit by no more than the sum of worst case
// less hold of the calls in flight. A sliced hold is as small, and bounded: it wins.

// expect finds out what is usual, if a budget asks for it.
func (s *Stream) expect() {
	if s.learns = s.p.cfg.Ledger.Expected(s.snap.Limits, &s.subject); !s.learns || s.sliced() {
		return
	}
	s.usualOut, s.usual = s.p.usual.P95(s.key.ID, s.decision.Target.Model)
}

// expected is what the call is expected to cost with the output cap that it has now;
// 0 = nobody knows.
func (s *Stream) expected() money.NanoUSD {
	if !s.usual {
		return 0
	}
	cost, err := s.terms.Price.Worst(s.expectedInput(), min(s.usualOut, s.outputBound()), s.reach())
	if err != nil {
		return 0
	}
	return min(cost, s.reserved)
}

// expectedInput is the bound where the bytes of the body do not tell: a call that
// refers to what it does not hold, or whose provider takes steps of its own.
func (s *Stream) expectedInput() money.Tokens {
	r := &s.request
	if r.References || r.Files || r.HiddenPrompt || r.ServerCalls > 0 || r.ServerTools {
		return s.boundIn
	}
	return min(dialect.InputEstimate(r), s.boundIn)
}

// learn notes the output of an answer that came to its end, as its provider told it.
func (s *Stream) learn(r *dialect.Reading) {
	if s.learns && s.cut == "" && r.Ending == dialect.Finished {
		s.p.usual.Observe(s.key.ID, s.decision.Target.Model, s.tokens.Output)
	}
}
