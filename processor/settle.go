package processor

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"airgate/accounting"
	"airgate/accounting/failpoint"
	"airgate/accounting/money"
	"airgate/accounting/record"
	"airgate/accounting/usage"
	"airgate/processor/dialect"
)

const (
	// bytesPerToken converts counted output bytes of a cut answer to tokens. It
	// is below what providers were seen to produce in running text (4.6 bytes
	// a token in English), so the estimate errs upwards.
	bytesPerToken = 3
	// slack covers the one or two chunks airgate has not seen when a stream is
	// cut, and what the provider generates until it notices.
	slack money.Tokens = 64
)

// settle finds what the answer cost and books it, unless the cause of an unclean
// end may still be learned: then Finish books it. It does nothing the second
// time.
func (s *Stream) settle(now time.Time) {
	if s.state != open && s.state != answering {
		return
	}
	s.state = settled
	s.measure(now)
	if !s.unclean {
		s.book(now)
	}
}

// book appends the settlement record and then ends the hold with what the
// answer cost. In this order: who took what the hold gives back, before a crash
// that charges it whole since it finds no settlement, would be beyond the limit.
func (s *Stream) book(now time.Time) {
	s.appendSettlement(now)
	over := s.p.cfg.Ledger.Settle(&s.hold, s.cost, s.billedTokens(), now)
	failpoint.Hit("processor.settled")
	if over > 0 {
		s.p.cfg.Log.Warn("a call cost more than was held", slog.String("request_id", s.id),
			slog.String("model", s.rec.Model), slog.String("overdraft_usd", over.String()))
	}
}

// billedTokens is what token limits count: all input and output.
func (s *Stream) billedTokens() money.Tokens { return min(s.tokens.Total(), maxTokens) }

// measure finds tokens, cost and where the figures came from.
func (s *Stream) measure(now time.Time) {
	r := s.meter.Reading()
	s.served = r.Model
	if s.class == "" {
		s.class = ClassTransient
	}
	switch {
	case s.free():
		s.source, s.hasUsage = usage.Provider, true
	case s.notReached:
		// No provider was tried: nothing can have been billed.
	case s.refusal:
		// The provider refused before it generated anything.
	case r.HasUsage && (!s.unclean && s.cut == "" || r.Ending != dialect.Unfinished):
		s.source, s.hasUsage = usage.Provider, true
		s.tokens = r.Usage.Tokens()
		s.cost = s.price(&r.Usage)
		if s.tokens.Total() > maxTokens || s.cost > maxCredible {
			// No call has such figures: they are no better than none.
			s.p.cfg.Log.Error("a usage is beyond belief and is charged at the call's bound", slog.String("request_id", s.id))
			s.source, s.cost = usage.None, s.reserved
			s.tokens = usage.Tokens{Input: s.boundIn, Output: s.outputBound()}
			return
		}
		s.learn(r)
	default:
		u := s.estimate(now, r)
		s.hasUsage = true
		s.tokens = u.Tokens()
		if s.cost = s.price(u); !s.sliced() {
			s.cost = min(s.cost, s.reserved)
		} // else more may have been seen than a slice holds: that is an overdraft
		if !r.HasUsage {
			return
		}
		// A running count that some providers send with each chunk: the last one
		// seen is no more than a floor.
		if seen := s.price(&r.Usage); seen > s.cost {
			s.cost, s.tokens, s.source = seen, r.Usage.Tokens(), usage.Partial
		}
	}
}

// price costs u on the row of the model and tier that served it, in the
// catalogue the request began with. A usage that cannot be priced costs the
// bound.
func (s *Stream) price(u *usage.Usage) money.NanoUSD {
	row := s.terms.Price
	if row == nil {
		return 0
	}
	lookup := func(model string) *accounting.Price {
		if p, ok := s.snap.Prices.Price(string(s.endpoint.Dialect), model, s.admitted); ok {
			return p
		}
		return nil
	}
	if s.served != "" && !s.terms.Overridden {
		if p := lookup(s.served); p != nil {
			row = p
		}
	}
	billed := *u
	billed.Geo = cmp.Or(u.Geo, s.provider().Region)
	if tier := s.tier(); u.ServiceTier == "" && tier != "flex" && tier != "batch" {
		billed.ServiceTier = tier // an answer that does not say: never a discount
	}
	cost, err := row.Cost(&billed, lookup)
	s.rec.PriceID = row.ID
	if err != nil {
		// cost is a floor: a part of the usage has no price.
		s.p.cfg.Log.Error("a usage cannot be priced whole and is charged at its bound", slog.String("request_id", s.id), slog.Any("error", err))
		return max(cost, s.reserved)
	}
	return cost
}

// estimate is for answers that ended without a final usage: never zero, never
// below the input. Where all billed output was visible it is input, counted
// output and slack, or what is held for a cut; else the most the provider can have made in the time, so
// that a budget stays a bound. None marks what nobody saw a byte of.
func (s *Stream) estimate(now time.Time, r *dialect.Reading) *usage.Usage {
	u := &usage.Usage{Model: r.Model, ServiceTier: r.Usage.ServiceTier, Geo: r.Usage.Geo}
	item := usage.Item{Tokens: usage.Tokens{Input: s.boundIn}}
	if r.HasInput && len(r.Usage.Items) > 0 {
		item = r.Usage.Items[0]
		item.Tokens.Output = 0
	}
	if s.request.ServerCalls > 0 {
		// Each step of a server tool bills the context again; what the answer's
		// head said is the first step's.
		item.Tokens = usage.Tokens{Input: s.boundIn}
		u.Calls = s.serverCalls()
	}
	unseen := slack
	if s.cut == cutBudget || s.cut == cutJournal {
		now, unseen = now.Add(stopping), s.margin() // the provider was in the middle of it
	}
	counted := money.Tokens((r.OutputBytes+bytesPerToken-1)/bytesPerToken) + unseen
	made := times(money.Tokens(float64(s.snap.MaxTokensPerSecond)*now.Sub(s.forward).Seconds()), s.multiplier())
	made = min(made, s.heldOut) // a slice rests on it that no more is made unseen
	switch {
	case s.endpoint.Operation == dialect.Embeddings:
		s.source = usage.Estimated
	case s.firstByte.IsZero():
		item.Tokens.Output = max(made, 1)
		s.source = usage.None
	case s.rec.Stream && !r.Hidden:
		item.Tokens.Output = counted
		s.source = usage.Estimated
	default:
		// Hidden reasoning, or an answer that came in one piece: what was seen
		// is not all that was made.
		item.Tokens.Output = max(made, counted)
		s.source = usage.None
	}
	if r.HasInput && s.source == usage.Estimated {
		s.source = usage.Partial
	}
	item.Tokens.Output = min(item.Tokens.Output, s.outputBound())
	u.Items = append(u.Items, item)
	return u
}

// noteStore notes whether the decision was made without the quota store.
func (s *Stream) noteStore() {
	if s.p.cfg.Ledger.StoreDown() {
		s.rec.Store = "down"
	}
}

// appendIntent writes what is about to be done, with every limit's figures.
func (s *Stream) appendIntent(now time.Time) error {
	s.noteStore()
	rec := s.rec
	rec.Type = record.Intent
	rec.Time = now
	rec.Decision = "allow"
	rec.Cap, rec.Reserved = s.cap, s.reserved
	rec.Limits = s.hold.AppendLimits(nil)
	rec.WouldDeny = s.wouldDeny()
	failpoint.Hit("processor.intent")
	pos, err := s.p.cfg.Journal.Append(&rec)
	if err != nil {
		s.p.cfg.Log.Error("the journal refused an intent", slog.String("request_id", s.id), slog.Any("error", err))
		return err
	}
	failpoint.Hit("processor.admitted")
	s.intent = pos
	s.rec.WouldDeny = rec.WouldDeny
	return nil
}

func (s *Stream) wouldDeny() []string {
	return s.hold.AppendWouldDeny(append([]string(nil), s.decision.WouldDeny...))
}

// appendSettlement writes the one record that ends a request.
func (s *Stream) appendSettlement(now time.Time) {
	if s.recorded {
		return
	}
	s.recorded = true
	rec := s.rec
	rec.Type = record.Settle
	rec.Time = now
	rec.Decision = "allow"
	if s.intent == 0 && s.state != answered {
		rec.Decision = "none"
	}
	rec.Code = string(s.code)
	rec.Reserved = s.reserved
	rec.Class, rec.Family = string(s.class), s.class.Family()
	rec.ModelServed = s.served
	rec.Cut = s.cut
	rec.Status = s.status
	if s.code != "" && s.cut == "" {
		rec.Status = outcomeOf(s.code).status
	}
	if s.intent != 0 && !s.envoys {
		rec.UpstreamStatus = s.status
	}
	rec.Duration = now.Sub(s.began)
	if !s.firstByte.IsZero() {
		rec.TTFT = s.firstByte.Sub(s.began)
	}
	if s.intent != 0 {
		rec.Cap = s.cap
		rec.HasCost, rec.Cost = s.terms.Price != nil || s.free(), s.cost
		rec.HasTokens, rec.Tokens = s.hasUsage, s.tokens
		rec.UsageSource = s.source
	}
	rec.Cause = s.cause.Details
	if s.cause.Status != 0 && s.code == "" {
		rec.Status = s.cause.Status // what the caller got, which airgate did not see
	}
	if _, err := s.p.cfg.Journal.Append(&rec); err != nil {
		// The money is settled in memory; a restart finds the intent without
		// its settlement and charges the bound, marked.
		s.p.cfg.Log.Error("the journal refused a settlement", slog.String("request_id", s.id), slog.Any("error", err))
	}
	failpoint.Hit("processor.recorded")
	s.p.metrics.finished(&rec, s.snap.Policy.Registered(rec.Purpose))
	s.log(&rec)
}

// appendDenial writes the one record of a refused request of a known caller, or
// counts it: of many refusals for one reason, and where the journal fails.
func (s *Stream) appendDenial(now time.Time) {
	if s.recorded {
		return
	}
	s.recorded = true
	s.noteStore()
	rec := s.rec
	rec.Type = record.Deny
	rec.Time = now
	rec.Decision = "deny"
	rec.Code = string(s.code)
	rec.Rule = s.decision.Rule
	if rec.Rule != "" {
		rec.Detail = s.decision.Reason // the rule may be gone when somebody asks
	}
	rec.Class, rec.Family = string(s.class), s.class.Family()
	rec.Status = s.deny.Status
	if s.state == local {
		rec.Status = s.status
	}
	rec.WouldDeny = s.wouldDeny()
	rec.Limits = s.hold.AppendLimits(nil)
	rec.Duration = now.Sub(s.began)
	s.p.metrics.finished(&rec, s.snap.Policy.Registered(rec.Purpose))
	minute, own := s.p.repeated.own(rec.KeyID, s.code, now)
	if !own {
		s.p.repeated.add(&rec)
		return
	}
	s.log(&rec)
	if _, err := s.p.cfg.Journal.Append(&rec); err != nil {
		s.p.cfg.Log.Error("the journal refused a denial: it is counted", slog.String("request_id", s.id), slog.Any("error", err))
		s.p.repeated.add(&rec)
		return
	}
	s.p.repeated.recorded(rec.KeyID, s.code, minute)
}

// log is the request's one line.
func (s *Stream) log(rec *record.Record) {
	s.p.cfg.Log.LogAttrs(context.Background(), slog.LevelInfo, "request",
		slog.String("request_id", rec.RequestID), slog.String("team", rec.Team), slog.String("key_id", rec.KeyID),
		slog.String("model", rec.Model), slog.String("decision", rec.Decision), slog.String("code", rec.Code),
		slog.String("class", rec.Class), slog.String("cost_usd", rec.Cost.String()), slog.Duration("duration", rec.Duration))
}
