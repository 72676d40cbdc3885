package accounting

import (
	"time"

	"airgate/accounting/money"
)

// Sliced reports whether a streamed call of s may be held in slices: an enforced
// budget matches, and each that does allows it.
func (l *Ledger) Sliced(t *Table, s *Subject) bool {
	sliced := false
	var buf [16]int32
	for _, i := range t.budgets.index.appendMatching(buf[:0], s) {
		for _, m := range t.budgets.groups[i].members {
			if m.Mode != Enforce {
				continue
			}
			if !m.Sliced {
				return false
			}
			sliced = true
		}
	}
	return sliced
}

// Extend holds more for a call of s that goes on, on every account on which h has
// money, all or none: in the window of its admission, and within the amounts of
// the table that was applied last, since one may have been lowered meanwhile. A
// budget that this table no longer has refuses nothing. What is in hand is taken
// at once, else the store is asked. On a refusal, which is not counted, h is as it
// was. h must have been reserved.
func (l *Ledger) Extend(h *Hold, s *Subject, more money.NanoUSD, now time.Time) *Refusal {
	if !h.open || !h.reserved {
		panic("accounting: Extend on a Hold that is not reserved")
	}
	if more < 0 || more > maxAmount-h.need.USD {
		panic("accounting: Extend is out of range")
	}
	l.mu.Lock()
	t := l.table
	l.mu.Unlock()
	var who waiter
	for i := range h.n {
		e := h.at(i)
		if e.member.Resource != USD || !e.booked {
			continue
		}
		if r := l.extend(&who, e, t, s, int64(more), now.UnixNano()); r != nil {
			for k := range i {
				if e := h.at(k); e.member.Resource == USD && e.booked {
					e.shrink(int64(more))
				}
			}
			return r
		}
	}
	for i := range h.n {
		if e := h.at(i); e.member.Resource == USD {
			e.need += int64(more)
			e.worst += int64(more)
		}
	}
	h.need.USD += more
	return nil
}

// extend holds more on the account of e.
func (l *Ledger) extend(who *waiter, e *holdEntry, t *Table, s *Subject, more, now int64) *Refusal {
	a, w := e.account, e.window
	g := t.groupOf(a.set)
	a.mu.Lock()
	defer a.mu.Unlock()
	var lowest holdEntry // of those that are enforced
	ask := newRefill(more)
	if g != nil {
		for _, m := range g.members {
			if m.Mode != Enforce {
				continue
			}
			of := m.termsOf(a, s, now)
			ask.of(m, of)
			if lowest.member == nil || of.amount < lowest.terms.amount {
				lowest = holdEntry{member: m, terms: of, account: a, window: w, need: more}
			}
		}
	}
	if lowest.member != nil {
		if fits, err := l.secureLocked(who, a, w, g, s, t, ask, nil, now); !fits {
			lowest.used, lowest.reserved = w.used(), w.reserved()
			return lowest.refuseWindow(err, now)
		}
	}
	l.holdLocked(a, w, more)
	return nil
}

// shrink takes back what extend has held.
func (e *holdEntry) shrink(more int64) {
	e.account.mu.Lock()
	defer e.account.mu.Unlock()
	e.window.held -= more
}
