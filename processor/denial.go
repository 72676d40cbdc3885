package processor

import (
	"strconv"
	"strings"
	"time"

	"airgate/accounting"
	"airgate/accounting/money"
	"airgate/processor/dialect"
)

// maxRetryAfter is the longest wait a caller is asked for; what takes longer is
// not worth a retry (some SDKs sleep any value they are given).
const maxRetryAfter = 60 * time.Second

// refuse ends a request with a refusal of a known caller: it gives back every
// hold, writes the record and says why.
func (s *Stream) refuse(code Code, now time.Time, why string) Action {
	return s.refuseAs(outcomeOf(code).status, code, now, why)
}

// refuseAs is refuse with a status that says more than the code's own.
func (s *Stream) refuseAs(status int, code Code, now time.Time, why string) Action {
	s.giveUp(code, now)
	s.sayDenial(code, why, nil)
	s.deny.Status = status
	if s.key != nil {
		s.appendDenial(now)
	}
	return &s.deny
}

func (s *Stream) giveUp(code Code, now time.Time) {
	s.p.cfg.Ledger.Release(&s.hold, now)
	s.releaseBody()
	s.code, s.class = code, outcomeOf(code).class
	s.state = refused
}

func (s *Stream) refuseTooLarge(now time.Time, n int64) Action {
	return s.refuse(RequestTooLarge, now, "the request body has "+strconv.FormatInt(n, 10)+" bytes, the limit is "+
		strconv.FormatInt(s.snap.MaxBodyBytes, 10))
}

// refuseStranger refuses a caller without a valid key: counted, not recorded
// one by one, so that a flood of bad calls cannot fill the disk.
func (s *Stream) refuseStranger(code Code, e *RequestHeaders, why string) Action {
	s.giveUp(code, e.Now)
	s.p.strangers.add(code, e.Source, e.Now)
	s.p.metrics.stranger(code)
	s.sayDenial(code, why, nil)
	return &s.deny
}

// keyWords says what is wrong with a key.
func keyWords(code Code) string {
	switch code {
	case KeyMissing:
		return "no airgate key was sent; send it as the SDK's API key"
	case KeyRevoked:
		return "the airgate key is revoked; ask your platform team for a new one"
	case KeyExpired:
		return "the airgate key has expired; ask your platform team for a new one"
	default:
		return "the airgate key is not known; send exactly one valid key, in a header"
	}
}

// refusePolicy says what policy said.
func (s *Stream) refusePolicy(now time.Time) Action {
	d := &s.decision
	why := d.Reason
	if d.Rule != "" {
		why = "rule " + strconv.Quote(d.Rule) + ": " + why
	}
	if d.Owner != "" {
		why += "; ask " + d.Owner
	}
	s.rec.Purpose, s.rec.PurposeSource = d.Purpose, string(d.PurposeSource)
	return s.refuse(codeOfPolicy(d.Code), now, why)
}

// refuseLimit says whose limit it is, how much is used, until when, and whom
// to ask. The ledger has given everything back already.
func (s *Stream) refuseLimit(r *accounting.Refusal, now time.Time) Action {
	code := codeOfAccounting(r.Code)
	s.giveUp(code, now)
	s.sayDenial(code, limitSentence(r), r)
	s.appendDenial(now)
	return &s.deny
}

func limitSentence(r *accounting.Refusal) string {
	if r.Limit == nil {
		switch r.Code {
		case accounting.BudgetMissing:
			return "no enforced budget covers this call, and calls without one are refused; the finance config must name one"
		case accounting.QuotaUnavailable:
			return "the shared quota store cannot be reached"
		case accounting.OK, accounting.RateLimited, accounting.ConcurrencyLimited, accounting.BudgetExhausted,
			accounting.BudgetInsufficient, accounting.BudgetBusy:
		}
		return "a limit refused the call"
	}
	var b strings.Builder
	usd := func(n int64) string { return money.NanoUSD(n).String() + " USD" }
	switch r.Code {
	case accounting.BudgetExhausted:
		b.WriteString("budget " + strconv.Quote(r.Limit.Name) + " is spent: " + usd(r.Used) + " of " + usd(r.Amount))
	case accounting.BudgetInsufficient:
		b.WriteString("budget " + strconv.Quote(r.Limit.Name) + " has " + usd(r.Amount-r.Used) + " left of " + usd(r.Amount) +
			", and this call " + costs(r) + "; lower its output cap or its input")
	case accounting.BudgetBusy:
		b.WriteString("budget " + strconv.Quote(r.Limit.Name) + " has " + usd(r.Reserved) + " held by calls in flight beside " +
			usd(r.Used) + " spent of " + usd(r.Amount) + ", and this call " + costs(r) + "; try again once they have ended")
	case accounting.RateLimited:
		b.WriteString("limit " + strconv.Quote(r.Limit.Name) + " allows " + strconv.FormatInt(r.Amount, 10) + " " + unit(r.Limit) +
			" per " + r.Limit.Per.String())
	case accounting.ConcurrencyLimited:
		b.WriteString("limit " + strconv.Quote(r.Limit.Name) + " allows " + strconv.FormatInt(r.Amount, 10) + " calls at once")
	case accounting.QuotaUnavailable:
		b.WriteString("the shared quota store cannot be reached")
	case accounting.OK, accounting.BudgetMissing:
	}
	return b.String() + outlook(r)
}

// costs says what a call needs of a budget.
func costs(r *accounting.Refusal) string {
	needed := money.NanoUSD(r.Needed).String() + " USD"
	if r.Worst > 0 {
		return "is expected to cost " + needed
	}
	return "can cost " + needed
}

// cutSentence says why an answer ends before its end.
func cutSentence(r *accounting.Refusal) string {
	usd := func(n int64) string { return money.NanoUSD(n).String() + " USD" }
	return "budget " + strconv.Quote(r.Limit.Name) + " has no more for this answer: " + usd(r.Used) + " spent and " + usd(r.Reserved) +
		" held by calls in flight, this one among them, of " + usd(r.Amount) + outlook(r)
}

// outlook says until when a limit refuses, and whom to ask.
func outlook(r *accounting.Refusal) (text string) {
	if !r.Reset.IsZero() {
		text = "; it is renewed at " + r.Reset.UTC().Format(time.RFC3339)
	}
	if r.Limit.Owner != "" {
		text += "; ask " + r.Limit.Owner
	}
	return text
}

func unit(l *accounting.Limit) string {
	if l.Resource == accounting.Tokens {
		return "tokens"
	}
	return "requests"
}

// denial is a refusal without the figures of a limit.
func (s *Stream) denial(code Code, why string) dialect.Denial {
	return dialect.Denial{
		Code: string(code), Status: outcomeOf(code).status, RequestID: s.id,
		Message: "airgate: " + why + " (request " + s.id + ")",
	}
}

// sayDenial fills s.deny in the caller's dialect.
func (s *Stream) sayDenial(code Code, why string, r *accounting.Refusal) {
	o := outcomeOf(code)
	d := s.denial(code, why)
	retry := time.Second
	if r != nil {
		retry = s.describe(&d, r)
	}
	if o.retry && retry > 0 && retry <= maxRetryAfter {
		d.Retryable = true
	}
	a := &s.deny
	a.Status = d.Status
	a.Details = "airgate_" + string(code)
	a.Metadata = Metadata{RequestID: s.id, Decision: "deny"}
	a.Durable = 0
	a.Headers = append(a.Headers[:0],
		Header{"content-type", "application/json"},
		Header{"cache-control", "no-store"},
		Header{dialect.IDHeader(s.endpoint.Dialect), s.id},
		Header{"x-airgate-request-id", s.id},
		Header{"x-airgate-code", string(code)},
		Header{"x-airgate-class", string(o.class)})
	if d.Retryable {
		seconds := int64((retry + time.Second - 1) / time.Second)
		a.Headers = append(a.Headers, Header{"retry-after", strconv.FormatInt(seconds, 10)})
	} else {
		a.Headers = append(a.Headers, Header{"x-should-retry", "false"})
	}
	a.Body = dialect.AppendDenial(a.Body[:0], s.endpoint.Dialect, &d)
}

// describe puts the limit's figures into d and returns after what time another
// try makes sense.
func (s *Stream) describe(d *dialect.Denial, r *accounting.Refusal) time.Duration {
	if r.Limit == nil {
		return time.Second
	}
	d.Limit, d.Owner = r.Limit.Name, r.Limit.Owner
	if r.Limit.Resource == accounting.USD {
		d.UsedUSD = money.NanoUSD(r.Used).String()
		d.ReservedUSD = money.NanoUSD(r.Reserved).String()
		d.LimitUSD = money.NanoUSD(r.Amount).String()
		d.NeededUSD = money.NanoUSD(r.Needed).String()
	}
	if !r.Reset.IsZero() {
		d.Reset = r.Reset.UTC().Format(time.RFC3339)
	}
	if (r.Code == accounting.BudgetExhausted || r.Code == accounting.BudgetInsufficient) && r.Limit.BudgetStatus != 0 {
		d.Status = r.Limit.BudgetStatus
	}
	return r.RetryAfter
}

// answerModels is airgate's own answer to GET /v1/models: what this key may
// use in this dialect.
func (s *Stream) answerModels(now time.Time) Action {
	entries := s.snap.Policy.Models(s.key, string(s.endpoint.Dialect))
	var list []dialect.ModelInfo
	for _, m := range entries {
		owner := ""
		if len(m.Targets) > 0 {
			owner = m.Targets[0].Provider
		}
		for _, name := range append([]string{m.Name}, m.Aliases...) {
			list = append(list, dialect.ModelInfo{Name: name, Owner: owner, Created: s.snap.Loaded.Unix()})
		}
	}
	a := &s.deny
	body := a.Body[:0]
	if s.endpoint.Operation == dialect.GetModel {
		found := false
		for i := range list {
			if list[i].Name == s.endpoint.Model {
				body, found = dialect.AppendModel(body, s.endpoint.Dialect, &list[i]), true
			}
		}
		if !found {
			return s.refuse(ModelUnknown, now, "the model is not one that this key may use")
		}
	} else {
		body = dialect.AppendModels(body, s.endpoint.Dialect, list)
	}
	*a = Deny{
		Status: 200, Details: "airgate_models", Body: body,
		Headers: append(a.Headers[:0],
			Header{"content-type", "application/json"},
			Header{"cache-control", "no-store"},
			Header{dialect.IDHeader(s.endpoint.Dialect), s.id},
			Header{"x-airgate-request-id", s.id}),
		Metadata: Metadata{RequestID: s.id, Decision: "allow"},
	}
	s.p.cfg.Ledger.Settle(&s.hold, 0, 0, now)
	s.state, s.class, s.status = answered, ClassOK, 200
	s.appendSettlement(now)
	return a
}
