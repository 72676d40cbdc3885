package accounting

import (
	"time"

	"airgate/accounting/money"
)

// busyRetry is when it is worth asking again for what calls in flight hold:
// most of them end within seconds.
const busyRetry = time.Second

// Enter takes what needs only the key and its team, before the body is known:
// requests and permits. It opens h, which must not be open. nil means taken;
// on a refusal nothing is kept and h is ended. t is the call's own table for
// its whole life, applied before.
func (l *Ledger) Enter(h *Hold, t *Table, s *Subject, now time.Time) *Refusal {
	if h.open {
		panic("accounting: Enter on an open Hold")
	}
	h.begin()
	r := l.takeAll(h, t, &t.enter, s, Need{}, now.UnixNano())
	l.countShadow(h, 0, s)
	if r != nil {
		l.refused(h, s, r, now.UnixNano())
	}
	return r
}

// Reserve holds n on all remaining limits and on all budgets that match s, all
// or none. It follows Enter, or opens h itself. On a refusal everything that h
// has, Enter's too, is given back and h is ended.
func (l *Ledger) Reserve(h *Hold, t *Table, s *Subject, n Need, now time.Time) *Refusal {
	if !h.open {
		h.begin()
	}
	first := h.n
	r, counted := l.reserve(h, t, s, n, now)
	l.countShadow(h, first, s)
	if r != nil && !counted {
		l.refused(h, s, r, now.UnixNano())
	}
	return r
}

// TryReserve is Reserve, but what a budget refuses leaves h open as it was, and
// counts nothing: the caller asks again, for less, or with Reserve.
func (l *Ledger) TryReserve(h *Hold, t *Table, s *Subject, n Need, now time.Time) *Refusal {
	if !h.open {
		h.begin()
	}
	first := h.n
	r, counted := l.reserve(h, t, s, n, now)
	if r != nil && !counted {
		l.giveBack(h, first, now.UnixNano())
		h.reserved = false
		return r
	}
	l.countShadow(h, first, s)
	return r
}

// reserve is Reserve on an open hold. A refusal by a budget is not yet counted,
// and h has what it got until then; nor is what a shadow limit would refuse.
func (l *Ledger) reserve(h *Hold, t *Table, s *Subject, n Need, now time.Time) (r *Refusal, counted bool) {
	if h.reserved {
		panic("accounting: Reserve twice on a Hold")
	}
	h.waiter.goesOn(l)
	if n.USD < 0 || n.USD > maxAmount || n.Expected < 0 || n.Expected > n.USD || n.Tokens < 0 || n.Tokens > maxAmount {
		panic("accounting: Need is out of range")
	}
	h.reserved, h.need = true, n
	at := now.UnixNano()
	if r := l.takeAll(h, t, &t.limits, s, n, at); r != nil {
		l.refused(h, s, r, at)
		return r, true
	}
	first := h.n
	if r := l.takeAll(h, t, &t.budgets, s, n, at); r != nil {
		return r, false
	}
	if t.rules.AllowUnbudgeted {
		return nil, false
	}
	for i := first; i < h.n; i++ {
		if h.at(i).member.Mode == Enforce {
			return nil, false
		}
	}
	l.metrics.denied(s, "unbudgeted", Enforce)
	l.Release(h, now)
	return &Refusal{Code: BudgetMissing, Needed: int64(n.USD)}, true
}

// refused counts a refusal and ends h.
func (l *Ledger) refused(h *Hold, s *Subject, r *Refusal, now int64) {
	l.metrics.denied(s, r.Limit.Name, Enforce)
	l.end(h, Need{}, 0, now)
}

// countShadow counts what the shadow limits among the entries from first on would
// have refused.
func (l *Ledger) countShadow(h *Hold, first int, s *Subject) {
	for i := first; i < h.n; i++ {
		if e := h.at(i); e.over {
			l.metrics.denied(s, e.member.Name, Shadow)
		}
	}
}

// takeAll takes n on every group of a layer that matches.
func (l *Ledger) takeAll(h *Hold, t *Table, layer *layer, s *Subject, n Need, now int64) *Refusal {
	if t.ledger != l {
		panic("accounting: the Table has not been applied to this Ledger")
	}
	if len(layer.groups) == 0 {
		return nil
	}
	var buf [16]int32
	for _, i := range layer.index.appendMatching(buf[:0], s) {
		g := layer.groups[i]
		if r := l.take(h, t, g, s, n, now); r != nil {
			return r
		}
	}
	return nil
}

// need is what is held of n, and what it could come to.
func (g *group) need(n Need) (held, worst int64) {
	switch {
	case g.resource == USD && g.expected:
		return int64(n.expected()), int64(n.USD)
	case g.resource == USD:
		return int64(n.USD), int64(n.USD)
	case g.resource == Tokens:
		return int64(n.Tokens), int64(n.Tokens)
	default:
		return 1, 1
	}
}

// take takes what one group's account has to hold of n.
func (l *Ledger) take(h *Hold, t *Table, g *group, s *Subject, n Need, now int64) *Refusal {
	first := h.n
	need, worst := g.need(n)
	for {
		a := g.set.account(s, now)
		for _, m := range g.members {
			e := h.add()
			e.member, e.terms, e.account, e.need, e.worst = m, m.termsOf(a, s, now), a, need, worst
		}
		var r *Refusal
		var alive bool
		switch {
		case g.window != NoWindow:
			r, alive = l.takeWindow(h, first, t, g, a, s, now)
		case g.resource == Concurrent:
			r, alive = l.takePermit(h, first, t, g, a, s, now)
		default:
			r, alive = l.takeRate(&h.waiter, h.at(first), a, now)
		}
		if alive {
			return r
		}
		h.truncate(first)
	}
}

// judge asks within of each entry from first on. It marks the shadow limits
// that would refuse, and returns the enforced one of the lowest amount that
// does, or nil.
func (h *Hold) judge(first int, within func(*holdEntry) bool) (refused *holdEntry) {
	for i := first; i < h.n; i++ {
		e := h.at(i)
		e.over = false
		if within(e) {
			continue
		}
		if e.member.Mode == Shadow {
			e.over = true
		} else if refused == nil || e.terms.amount < refused.terms.amount {
			refused = e
		}
	}
	return refused
}

// refill is what the call lacks by the limits of the entries from first on.
func (h *Hold) refill(first int) refill {
	r := newRefill(h.at(first).need)
	for i := first; i < h.n; i++ {
		if e := h.at(i); e.member.Mode == Enforce {
			r.of(e.member, e.terms)
		}
	}
	return r
}

// takeWindow holds need in the current window of a, for all entries from first
// on. What is in hand is taken at once; else the store is asked, and a refusal
// rests on its answer.
func (l *Ledger) takeWindow(h *Hold, first int, t *Table, g *group, a *account, s *Subject, now int64) (r *Refusal, alive bool) {
	need := h.at(first).need
	ask := h.refill(first)
	a.mu.Lock()
	defer a.mu.Unlock()
	w, err := l.windowLocked(&h.waiter, a, s, now)
	if w == nil {
		return nil, false
	}
	if a.partial {
		a.subject, a.partial = *s, false
	}
	fits, err := l.secureLocked(&h.waiter, a, w, g, s, t, ask, err, now)
	refused := h.judge(first, func(e *holdEntry) bool {
		e.window, e.used, e.reserved = w, w.used(), w.reserved()
		if e.member.Mode == Enforce {
			return fits
		}
		return need == 0 || need <= e.terms.amount-e.used-e.reserved
	})
	if refused != nil {
		return refused.refuseWindow(err, now), true
	}
	l.holdLocked(a, w, need)
	h.at(first).booked = true
	return nil, true
}

// windowLocked returns the window of a that now is in, opened if need be; nil
// if the account is dead. a.mu is held, but not while a store is asked.
func (l *Ledger) windowLocked(who *waiter, a *account, s *Subject, now int64) (*window, error) {
	if a.dead {
		return nil, nil
	}
	if w := a.windowLocked(now); w != nil {
		return w, nil
	}
	a.mu.Unlock()
	defer a.mu.Lock()
	w, fresh := a.openWindow(s, now)
	if !fresh {
		return w, nil
	}
	l.reportDropped(who, now)
	return w, l.syncInTurn(who, a, w, syncTerms{}, wish{}, now)
}

// Room is limit − spent − reserved of the tightest enforced budget that
// matches s, less than zero after an overdraft; ok is false if none matches. It may
// wait for the store as a part of the call of h.
func (l *Ledger) Room(h *Hold, t *Table, s *Subject, now time.Time) (room money.NanoUSD, ok bool) {
	h.waiter.goesOn(l)
	l.eachLeft(&h.waiter, t, s, now, func(_ *group, _ *member, left money.NanoUSD) {
		if !ok || left < room {
			room, ok = left, true
		}
	})
	return room, ok
}

// Clamp says to what the output cap of a call of s that needs n can be lowered
// in place of a refusal: its worst case to room, the cap not below floor. ok is
// false if n fits, or if a budget that it does not fit does not allow it. It waits as
// Room does.
func (l *Ledger) Clamp(h *Hold, t *Table, s *Subject, n Need, now time.Time) (room money.NanoUSD, floor money.Tokens, ok bool) {
	h.waiter.goesOn(l)
	clamps := true
	room = maxAmount
	l.eachLeft(&h.waiter, t, s, now, func(g *group, m *member, left money.NanoUSD) {
		if need, _ := g.need(n); int64(left) < need {
			room, floor = min(room, left), max(floor, m.ClampFloor)
			clamps = clamps && m.ClampFloor > 0
		}
	})
	return room, floor, clamps && floor > 0
}

// Expected reports whether a budget of s, enforced or shadow, holds what a call is
// expected to cost: Reserve has a use for Need.Expected.
func (l *Ledger) Expected(t *Table, s *Subject) bool {
	var buf [16]int32
	for _, i := range t.budgets.index.appendMatching(buf[:0], s) {
		if t.budgets.groups[i].expected {
			return true
		}
	}
	return false
}

// eachLeft tells what every enforced budget that matches s has left: limit − spent
// − reserved.
func (l *Ledger) eachLeft(who *waiter, t *Table, s *Subject, now time.Time, tell func(g *group, m *member, left money.NanoUSD)) {
	at := now.UnixNano()
	var buf [16]int32
	for _, i := range t.budgets.index.appendMatching(buf[:0], s) {
		g := t.budgets.groups[i]
		if !g.enforced {
			continue
		}
		used, a := l.inUse(who, g, s, at)
		for _, m := range g.members {
			if m.Mode == Enforce {
				tell(g, m, money.NanoUSD(m.termsOf(a, s, at).amount-used))
			}
		}
	}
}

// inUse is what is spent and reserved on the account of s, and that account.
func (l *Ledger) inUse(who *waiter, g *group, s *Subject, now int64) (int64, *account) {
	for {
		a := g.set.account(s, now)
		a.mu.Lock()
		// A store that does not answer leaves what is known; Reserve will say so.
		w, _ := l.windowLocked(who, a, s, now)
		if w == nil {
			a.mu.Unlock()
			continue
		}
		used := w.used() + w.reserved()
		a.mu.Unlock()
		return used, a
	}
}

// Settle ends the hold exactly once with what the call cost and the tokens it
// used. What cost exceeds the hold of a budget is an overdraft of it: booked,
// counted, never dropped. What it exceeds the worst case by, which it never should,
// is returned. On a hold that is not open it does nothing.
func (l *Ledger) Settle(h *Hold, cost money.NanoUSD, tokens money.Tokens, now time.Time) (overdraft money.NanoUSD) {
	if cost < 0 || cost > maxAmount || tokens < 0 || tokens > maxAmount {
		panic("accounting: cost is out of range")
	}
	if !h.open {
		return 0
	}
	l.end(h, Need{USD: cost, Tokens: tokens}, 1, now.UnixNano())
	return max(0, cost-h.need.USD)
}

// Release ends the hold with nothing spent: the call was refused later, or the
// provider was never reached. Requests are refunded too, never past now. On a
// hold that is not open it does nothing.
func (l *Ledger) Release(h *Hold, now time.Time) {
	if h.open {
		l.end(h, Need{}, 0, now.UnixNano())
	}
}

// giveBack gives back what the entries of h from n on hold, and drops them.
func (l *Ledger) giveBack(h *Hold, n int, now int64) {
	for i := n; i < h.n; i++ {
		if e := h.at(i); e.booked {
			l.endEntry(e, 0, false, now)
		}
	}
	h.truncate(n)
}

// end turns what h holds into what was used, and closes it.
func (l *Ledger) end(h *Hold, used Need, requests, now int64) {
	h.open = false
	for i := range h.n {
		e := h.at(i)
		units := requests
		switch e.member.Resource {
		case USD:
			units = int64(used.USD)
			if over := units - e.need; over > 0 {
				l.metrics.overdrawn(e.member.Name, money.NanoUSD(over))
			}
		case Tokens:
			units = int64(used.Tokens)
		case Requests, Concurrent:
		}
		if e.booked {
			l.endEntry(e, units, requests > 0, now)
		}
	}
}

// endEntry turns what is booked into units. settled: the call was made.
func (l *Ledger) endEntry(e *holdEntry, units int64, settled bool, now int64) {
	a := e.account
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case e.window != nil:
		e.window.settle(e.need, units)
		if settled && e.member.Resource == USD {
			a.tally.add(tally{held: e.need, cost: units})
		}
	case e.member.Resource == Concurrent:
		a.permits--
	case l.shared:
		l.correctLocked(a.vended, &e.terms.bucket, e.need, units)
	default:
		e.terms.bucket.correct(&a.tat, e.need, units, now)
	}
}

func (e *holdEntry) refuse(c Code, retryAfter time.Duration) *Refusal {
	r := &Refusal{
		Code:       c,
		Limit:      e.member.Limit,
		Account:    e.text(),
		Used:       e.used,
		Reserved:   e.reserved,
		Amount:     e.terms.amount,
		Needed:     e.need,
		Worst:      e.beyond(),
		RetryAfter: retryAfter,
	}
	if e.window != nil {
		r.Reset = e.window.reset
	}
	return r
}

// refuseWindow tells apart why need does not fit: nothing is left, too little
// is left, or calls in flight hold it.
func (e *holdEntry) refuseWindow(err error, now int64) *Refusal {
	left := e.terms.amount - e.used
	switch {
	case err != nil:
		return e.refuse(QuotaUnavailable, busyRetry)
	case e.need <= left && e.member.Resource == USD:
		return e.refuse(BudgetBusy, busyRetry)
	case e.need <= left:
		return e.refuse(RateLimited, busyRetry)
	case e.member.Resource != USD && e.window.reset.IsZero():
		return e.refuse(RateLimited, 0)
	case e.member.Resource != USD:
		return e.refuse(RateLimited, time.Duration(e.window.end-now))
	case left <= 0:
		return e.refuse(BudgetExhausted, 0)
	default:
		return e.refuse(BudgetInsufficient, 0)
	}
}
