package processor

import (
	"time"

	"airgate/accounting"
	"airgate/accounting/failpoint"
	"airgate/accounting/money"
	"airgate/accounting/record"
	"airgate/processor/dialect"
)

// A sliced hold is for a streamed answer whose billed output is all visible, if
// every enforced budget of the call allows it: of the worst case it holds the input
// and a first slice of the output, and more as output comes. What was seen is at
// most what is held less a margin; where no more can be held, the answer is cut.
//
// So the bound of a budget rests on three things: that a byte of text is at most a
// token (dialect.OutputSeen), that nothing is generated unseen for longer than it
// takes to stop the provider, and that this takes no longer than stopping.
const (
	// firstSlice is the output that a hold begins with.
	firstSlice money.Tokens = 1024
	// leastSlice is the least that is held more, so that few records say so. A
	// usual extension holds as much again.
	leastSlice money.Tokens = 256
	// stopping is how long a provider may go on generating after a cut.
	stopping = 250 * time.Millisecond
	// unreadable is how many bytes may pass of which nothing is understood, before
	// output counts as hidden.
	unreadable = 4 << 10
)

// slice lowers what is held to a first slice, where that is allowed and less.
func (s *Stream) slice() {
	if !s.request.Stream || !dialect.Visible(&s.request, s.decision.Target.UpstreamModel) || !s.p.cfg.Ledger.Sliced(s.snap.Limits, &s.subject) {
		return
	}
	out := firstSlice + s.margin()
	if out >= s.outputBound() {
		return
	}
	if part, err := s.worst(out); err == nil {
		s.heldOut, s.sureOut, s.reserved = out, out, part
	}
}

// margin is the output that the provider may have generated and nobody has seen.
func (s *Stream) margin() money.Tokens {
	return max(slack, money.Tokens(float64(s.snap.MaxTokensPerSecond)*stopping.Seconds()))
}

// sliced reports whether the answer may need more than what is held.
func (s *Stream) sliced() bool { return s.heldOut < s.outputBound() }

// needed is the output that must be held once bytes more of the answer have passed.
// Where output turns out to be hidden, that is all there can be.
func (s *Stream) needed(bytes int) money.Tokens {
	r := s.meter.Reading()
	if r.Hidden && (r.OutputBytes > 0 || r.Blocks > 0 || s.passed > unreadable) {
		return s.outputBound()
	}
	seen := dialect.OutputSeen(r) + s.meter.OpenOutput() + money.Tokens(bytes)
	return min(seen+s.margin(), s.outputBound())
}

// near reports whether a chunk of so many bytes comes near to what is held: then it
// is scanned before it passes.
func (s *Stream) near(bytes int) bool {
	return s.sliced() && s.needed(bytes)+s.margin() > s.heldOut
}

// shortfall is why an answer cannot go on; the zero shortfall is none.
type shortfall struct {
	cut     string
	refusal *accounting.Refusal // of cutBudget
}

// cover holds more if what was seen comes near to what is held. c waits until the
// book says on disk what it rests on.
func (s *Stream) cover(c *Chunk, now time.Time) shortfall {
	need := s.needed(0)
	var short shortfall
	if s.near(0) {
		short = s.grow(need, now)
	}
	if short.cut == cutBudget && need <= s.heldOut {
		short = shortfall{} // it may go on a little, and others may settle
	}
	if short == (shortfall{}) && need > s.sureOut {
		c.Durable = s.extended
	}
	return short
}

// grow holds as much again, or what can be had of it, at least what need lacks.
func (s *Stream) grow(need money.Tokens, now time.Time) shortfall {
	left := s.outputBound() - s.heldOut
	least := min(left, max(need-s.heldOut, leastSlice))
	for more := min(left, max(least, s.heldOut)); ; more = max(least, more/2) {
		r, err := s.extend(more, now)
		switch {
		case err != nil:
			return shortfall{cut: cutJournal}
		case r == nil:
			return shortfall{}
		case more == least || r.Code == accounting.QuotaUnavailable:
			return shortfall{cutBudget, r}
		}
	}
}

// extend holds more output. The budgets hold it before the book says so, and the
// book says so before the output passes: what a crash leaves open is charged what
// the book says, and that is never more than what was held, nor less than what the
// provider may bill, since the end of airgate ends the call.
func (s *Stream) extend(more money.Tokens, now time.Time) (*accounting.Refusal, error) {
	worst, err := s.worst(s.heldOut + more)
	if err != nil {
		panic("processor: a part of a call that has a bound has none: " + err.Error())
	}
	if r := s.p.cfg.Ledger.Extend(&s.hold, &s.subject, worst-s.reserved, now); r != nil {
		return r, nil
	}
	failpoint.Hit("processor.extend")
	pos, err := s.p.cfg.Journal.Append(&record.Record{Type: record.Extend, Time: now, RequestID: s.id, Reserved: worst})
	if err != nil {
		return nil, err // what the budgets hold ends with the call, which cannot go on
	}
	failpoint.Hit("processor.extended")
	s.heldOut, s.reserved, s.extended = s.heldOut+more, worst, pos
	return nil, nil
}

// cutShort ends the answer behind what of the chunk may pass.
func (s *Stream) cutShort(c *Chunk, passed []byte, short shortfall, now time.Time) {
	code, why := short.words()
	s.cutOff(c, passed, short.cut, code, why, short.refusal, now)
}

// words are what the caller is told.
func (f shortfall) words() (code Code, why string) {
	switch {
	case f.cut == cutJournal:
		return JournalUnavailable, "the audit journal cannot be written"
	case f.refusal.Code == accounting.QuotaUnavailable:
		return QuotaUnavailable, limitSentence(f.refusal)
	}
	return BudgetExhausted, cutSentence(f.refusal)
}
