package processor

import (
	"cmp"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"airgate/accounting"
	"airgate/accounting/money"
	"airgate/accounting/usage"
	"airgate/policy"
	"airgate/policy/config"
	"airgate/processor/dialect"
)

const (
	// sharingParts is into how many callers without an output cap of their own
	// a budget's room is shared: one of them never locks out the rest.
	sharingParts = 16
	// minCap is the least output cap airgate sets on its own.
	minCap money.Tokens = 1024
	// clampTries is how often the output cap of a call is lowered to a room that
	// others then take, before it is refused.
	clampTries = 3
	// expectedOutput is what a token limit holds for output that the caller
	// capped higher or not at all; settlement books the real figure.
	expectedOutput money.Tokens = 1024
	// maxTokens and maxCredible are beyond any real call, and small enough that
	// no sum of them overflows.
	maxTokens   money.Tokens  = 1 << 50
	maxCredible money.NanoUSD = 1 << 50
)

// admit checks model, purpose, price, boundedness, rules, limits and budgets,
// in this order, and holds the worst case. nil means admitted.
func (s *Stream) admit(now time.Time) Action {
	d := &s.decision
	ask := s.question(s.request.Model)
	s.snap.Policy.Evaluate(&ask, d)
	if d.Code != policy.OK && d.Code != policy.RuleDenied {
		return s.refusePolicy(now)
	}
	if d.Code == policy.RuleDenied && d.Target.Model == "" && d.Model != nil {
		d.Target = d.Model.Targets[0] // price and bound come before rules
	}
	s.rec.Purpose, s.rec.PurposeSource = d.Purpose, string(d.PurposeSource)
	s.rec.Model, s.rec.Provider = d.Target.Model, d.Target.Provider
	s.subject.Purpose, s.subject.Model, s.subject.Provider = d.Purpose, d.Target.Model, d.Target.Provider
	s.terms, s.admitted = s.snap.Model(d.Target.Model, now), now
	if a := s.exclusive(now); a != nil {
		return a
	}
	if a := s.bound(now); a != nil {
		return a
	}
	if d.Code == policy.RuleDenied {
		return s.refusePolicy(now)
	}
	if a := s.toolModel(now); a != nil {
		return a
	}
	if a := s.foreignObjects(now); a != nil {
		return a
	}
	if r := s.reserve(now); r != nil {
		return s.refuseLimit(r, now)
	}
	if s.snap.Shadow {
		s.wouldLackBudget()
	}
	return nil
}

// soften refuses, or says in would_deny that it would have: with enforcement:
// shadow.
func (s *Stream) soften(code Code, now time.Time, why string) Action {
	if !s.snap.Shadow {
		return s.refuse(code, now, why)
	}
	if !slices.Contains(s.decision.WouldDeny, string(code)) {
		s.decision.WouldDeny = append(s.decision.WouldDeny, string(code))
	}
	return nil
}

// wouldLackBudget says what the budgets, which are all in shadow mode, would have
// refused for.
func (s *Stream) wouldLackBudget() {
	covered := s.hold.Budgeted()
	switch {
	case covered && s.boundless:
		_ = s.soften(CostUnbounded, time.Time{}, "")
	case !covered && !s.snap.AllowUnbudgeted:
		_ = s.soften(BudgetMissing, time.Time{}, "")
	}
}

// reserve holds what the call needs. Where that does not fit what is left, and every
// budget that lacks allows it, the output cap is lowered to what fits. Others
// may take the room between the look at it and the reservation: after a few
// tries the call stands as it came.
func (s *Stream) reserve(now time.Time) *accounting.Refusal {
	ledger := s.p.cfg.Ledger
	asked, set, out, worst := s.maxOut, s.cap, s.heldOut, s.reserved
	for range clampTries {
		if !s.clamp(now) {
			break
		}
		r := ledger.TryReserve(&s.hold, s.snap.Limits, &s.subject, s.need(), now)
		if r == nil || !s.hold.Open() {
			return r
		}
		s.maxOut, s.cap, s.heldOut, s.reserved = asked, set, out, worst
	}
	return ledger.Reserve(&s.hold, s.snap.Limits, &s.subject, s.need(), now)
}

// need is what the call holds: its worst case, or a first slice of it; and what it is
// expected to cost, for budgets that hold that.
func (s *Stream) need() accounting.Need {
	return accounting.Need{
		USD:      s.reserved,
		Expected: s.expected(),
		Tokens:   dialect.InputEstimate(&s.request) + min(s.outputBound(), expectedOutput),
	}
}

// clamp lowers the output cap to what fits the room that is left, if that is
// allowed and needed.
func (s *Stream) clamp(now time.Time) bool {
	if s.terms.Price == nil || s.maxOut == 0 {
		return false
	}
	room, floor, ok := s.p.cfg.Ledger.Clamp(&s.hold, s.snap.Limits, &s.subject, s.need(), now)
	if !ok {
		return false
	}
	fit, ok := s.fit(room)
	if think := s.request.Thinking; think < s.maxOut {
		floor = max(floor, think+1) // the provider refuses a cap that is not above it
	}
	if !ok || fit < floor || fit >= s.maxOut {
		return false
	}
	s.maxOut, s.cap = fit, fit
	worst, err := s.worst(s.outputBound())
	if err != nil || worst > room {
		return false
	}
	s.heldOut, s.reserved = s.outputBound(), worst
	return true
}

// worst is the most that the call can cost with so much output.
func (s *Stream) worst(out money.Tokens) (money.NanoUSD, error) {
	return s.terms.Price.Worst(s.boundIn, out, s.reach())
}

// fit is the largest output cap whose worst case is within room, at most the
// model's own. ok is false if not even no output is.
func (s *Stream) fit(room money.NanoUSD) (limit money.Tokens, ok bool) {
	n := s.multiplier()
	all, ok := s.terms.Price.Fit(room, s.boundIn, times(s.terms.MaxOutput+s.predicted(), n), s.reach())
	return all/money.Tokens(n) - s.predicted(), ok
}

// question is what policy is asked about model.
func (s *Stream) question(model string) policy.Request {
	return policy.Request{
		Key: s.key, Model: model, Dialect: string(s.endpoint.Dialect), Endpoint: operationName(s.endpoint.Operation),
		Purpose: s.purpose, User: s.user, Session: s.session, Stream: s.request.Stream,
		MaxOutput: int64(s.request.MaxOutput), BodyBytes: int64(s.request.BodyBytes), Tools: s.request.Tools,
		Pick: pick(s.id),
	}
}

// operationName is an endpoint as rules name it.
func operationName(o dialect.Operation) string {
	switch o {
	case dialect.ChatCompletions:
		return "chat_completions"
	case dialect.Responses:
		return "responses"
	case dialect.Completions:
		return "completions"
	case dialect.Embeddings:
		return "embeddings"
	case dialect.Messages:
		return "messages"
	case dialect.CountTokens:
		return "count_tokens"
	case dialect.ListModels, dialect.GetModel:
		return "models"
	}
	return ""
}

// exclusive refuses a provider account that is other teams' alone.
func (s *Stream) exclusive(now time.Time) Action {
	if p := s.provider(); len(p.Exclusive) == 0 || s.among(p.Exclusive) {
		return nil
	}
	return s.soften(ModelDenied, now, "model "+s.decision.Target.Model+" is served by a provider account that is another team's alone")
}

// among says whether the key's team or one above it is in teams.
func (s *Stream) among(teams []string) bool {
	return slices.ContainsFunc(s.key.Team.Lineage, func(t string) bool { return slices.Contains(teams, t) })
}

// bound finds the worst case in tokens and money.
func (s *Stream) bound(now time.Time) Action {
	if s.free() {
		return nil
	}
	price := s.terms.Price
	if price == nil && !s.snap.AllowUnpriced {
		if a := s.soften(ModelUnpriced, now, "model "+s.decision.Target.Model+" has no price; the finance config's prices: can name one"); a != nil {
			return a
		}
	}
	room, budgeted := s.p.cfg.Ledger.Room(&s.hold, s.snap.Limits, &s.subject, now)
	what := s.unbounded()
	if s.boundless = what != ""; s.boundless && budgeted {
		return s.refuse(CostUnbounded, now, what+", so its cost has no bound, and an enforced budget covers it")
	}
	s.boundIn = s.inputBound()
	s.capOutput(room, budgeted)
	s.heldOut = s.outputBound()
	if price == nil {
		return nil
	}
	worst, err := s.worst(s.outputBound())
	switch {
	case errors.Is(err, money.ErrOverflow), worst > maxCredible:
		return s.refuse(CostUnbounded, now, "the call can cost more than can be counted; lower its output cap or its choices")
	case err != nil && budgeted:
		return s.refuse(CostUnbounded, now, "a part of the call has no price ("+err.Error()+")")
	}
	s.reserved = worst
	s.rec.PriceID = price.ID
	s.slice()
	s.expect()
	return nil
}

// free says that the provider does not bill the call.
func (s *Stream) free() bool { return s.endpoint.Operation == dialect.CountTokens }

// reach is what can make the call dearer than the base row.
func (s *Stream) reach() accounting.Reach {
	return accounting.Reach{
		CacheWrite: s.request.CacheWrite, CacheWrite1h: s.request.CacheWrite1h, ServiceTier: s.tier(), Geo: s.provider().Region,
		Calls: s.serverCalls(),
	}
}

// tier is the service tier that is asked for. A caller who names none gets the
// provider account's own, which is the standard one unless the config says
// otherwise; to hold the priority price for every such call would leave half of
// each budget unused. A dearer answer is an overdraft.
func (s *Stream) tier() string {
	if asked := s.request.ServiceTier; asked != "" && asked != "auto" {
		return asked
	}
	return cmp.Or(s.provider().ServiceTier, s.request.ServiceTier, "default")
}

// provider is the target's.
func (s *Stream) provider() *config.Provider { return s.snap.Provider(s.decision.Target.Provider) }

// serverCalls is what the provider can bill per call of a tool of its own: as
// many as are allowed, each of the dearest kind. A search model searches once
// per choice without being asked.
func (s *Stream) serverCalls() []usage.Call {
	n := s.request.ServerCalls
	if n == 0 && strings.Contains(s.decision.Target.UpstreamModel, "-search") {
		n = s.multiplier()
	}
	if n == 0 {
		return nil
	}
	dearest := usage.Call{Kind: "web_search", Count: n}
	var most money.Rate
	for _, c := range s.terms.Price.Calls {
		if c.Rate > most {
			most, dearest.Kind = c.Rate, c.Kind
		}
	}
	return []usage.Call{dearest}
}

// unbounded names what makes the cost unbounded, or "".
func (s *Stream) unbounded() string {
	switch {
	case s.request.Background:
		return "the call runs in the background, where nobody sees its usage"
	case s.request.ServerTools:
		return "the call offers a tool that the provider runs without a limit on its uses"
	case s.request.ServerCalls > 0 && s.terms.Context == 0:
		return "the call offers tools that the provider runs and the model's context window is not known"
	case s.request.References && s.terms.Context == 0:
		return "the call refers to input of unknown size (" + s.request.Reference + ") and the model's context window is not known"
	}
	return ""
}

// inputBound is what the provider can count as input at most: the bytes and
// the model's overhead, never more than the context window; each use of a
// server tool can bill the context again.
func (s *Stream) inputBound() money.Tokens {
	in := dialect.InputBound(&s.request, s.terms.Overhead, s.terms.Context)
	if s.request.ServerCalls > 0 {
		in = times(max(s.terms.Context, in), s.request.ServerCalls+1)
	}
	return in
}

// multiplier is how often the output cap counts.
func (s *Stream) multiplier() int64 {
	return int64(times(money.Tokens(max(1, s.request.Choices)), max(1, s.request.Prompts)))
}

// times is n·k, at most maxTokens: what is beyond cannot be paid for anyway.
func times(n money.Tokens, k int64) money.Tokens {
	if n > 0 && k > int64(maxTokens/n) {
		return maxTokens
	}
	return min(n*money.Tokens(k), maxTokens)
}

// outputBound is the output the provider can bill at most. A rejected
// prediction is billed as output beside what the cap counts; its tokens are no
// more than its bytes.
func (s *Stream) outputBound() money.Tokens {
	return times(s.maxOut+s.predicted(), s.multiplier())
}

func (s *Stream) predicted() money.Tokens {
	if s.request.Predicted {
		return money.Tokens(s.request.BodyBytes)
	}
	return 0
}

// capOutput finds the output cap the provider will honour, per choice: the
// caller's, lowered by policy; without one, policy's; without that, a share of
// the room that is left.
func (s *Stream) capOutput(room money.NanoUSD, budgeted bool) {
	s.maxOut, s.cap = 0, 0
	if s.endpoint.Operation == dialect.Embeddings {
		return
	}
	ruled := money.Tokens(s.decision.MaxOutput)
	switch {
	case s.request.HasMaxOutput:
		s.maxOut = s.request.MaxOutput
		if ruled > 0 && ruled < s.maxOut {
			s.maxOut, s.cap = ruled, ruled
		}
		return
	case ruled > 0:
		s.maxOut, s.cap = ruled, ruled
		return
	case s.request.DefaultOutput > 0:
		// What the provider documents for a request without a cap is sent, so
		// that a compatible server that documents another keeps to it.
		s.maxOut, s.cap = s.request.DefaultOutput, s.request.DefaultOutput
		return
	}
	s.maxOut = s.terms.MaxOutput
	if p := s.terms.Price; p != nil && s.maxOut != p.MaxOutput {
		s.cap = s.maxOut // the config's own figure binds only if the provider hears it
	}
	if !budgeted || s.terms.Price == nil {
		return
	}
	if share := s.share(room); share < s.maxOut {
		s.maxOut, s.cap = share, share
	}
}

// share is the largest cap whose worst case stays within a sixteenth of the
// room, at least minCap: one caller without a cap never locks out the rest.
func (s *Stream) share(room money.NanoUSD) money.Tokens {
	fit, _ := s.fit(room / sharingParts)
	return max(minCap, fit)
}

// foreignObjects refuses references to objects kept at a provider account that
// several teams share: another team may own them.
func (s *Stream) foreignObjects(now time.Time) Action {
	if s.request.Stored == "" {
		return nil
	}
	// Of several exclusive teams one could read the other's.
	if p := s.provider(); len(p.Exclusive) == 1 && s.among(p.Exclusive) {
		return nil
	}
	return s.soften(RuleDenied, now, "the call refers to an object stored at the provider ("+s.request.Stored+
		"), which airgate cannot show to be your team's; send the content itself, or ask for a provider account of your own (exclusive)")
}

// toolModel refuses a tool that names a model of its own which the caller may
// not use: it would run on the same provider account.
func (s *Stream) toolModel(now time.Time) Action {
	name := s.request.ToolModel
	if name == "" {
		return nil
	}
	for _, m := range s.snap.Policy.Models(s.key, string(s.endpoint.Dialect)) {
		ask := s.question(m.Name)
		var d policy.Decision
		s.snap.Policy.Evaluate(&ask, &d)
		if d.Code == policy.OK && d.Target.UpstreamModel == name {
			return nil
		}
	}
	return s.soften(ModelDenied, now, "a tool of the call names model "+strconv.Quote(name)+", which this key may not use")
}

// pick turns the random tail of a UUIDv7 into [0,1).
func pick(id string) float64 {
	if len(id) < 36 {
		return 0
	}
	n, err := strconv.ParseUint(id[24:36], 16, 64)
	if err != nil {
		return 0
	}
	return float64(n) / (1 << 48)
}
