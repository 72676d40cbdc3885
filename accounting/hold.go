package accounting

import "airgate/accounting/record"

// Hold is what one call holds, and what was checked for it. The zero value is
// ready. A Hold is embedded in the call's own state, is used by one goroutine
// at a time, and may be used again after its end. It must not be copied.
//
// Invariant: while it is open, everything that its entries say is booked is on
// the accounts; it ends exactly once, by Settle, Release or a refusal.
type Hold struct {
	open     bool
	reserved bool // Reserve is done
	need     Need
	waiter   waiter // for the store, until the call is admitted
	n        int
	inline   [16]holdEntry
	spill    []holdEntry // entries beyond inline
}

// holdEntry is one limit that was checked for the call.
type holdEntry struct {
	member   *member
	terms    *terms
	account  *account
	window   *window // nil for rates and permits
	need     int64
	worst    int64 // what the call can need, if need is what is expected; else need
	used     int64 // before this call
	reserved int64 // before this call
	booked   bool  // need is on the account; false for a second limit of the same account
	over     bool  // a shadow limit would have refused
}

// Open reports whether there is something to end: Enter or Reserve has
// succeeded, Settle or Release has not been called.
func (h *Hold) Open() bool { return h.open }

// Budgeted reports whether a budget, enforced or shadow, covers the call.
func (h *Hold) Budgeted() bool {
	for i := range h.n {
		if h.at(i).member.Resource == USD {
			return true
		}
	}
	return false
}

// AppendLimits appends every limit that was checked for the call, enforced or
// shadow, with its figures before this call. After a refusal they end with the
// limits of the account that refused. They stay until the Hold is used again.
func (h *Hold) AppendLimits(dst []record.Limit) []record.Limit {
	for i := range h.n {
		e := h.at(i)
		r := record.Limit{
			Name:     e.member.Name,
			Account:  e.text(),
			Resource: e.member.Resource.String(),
			Limit:    e.terms.amount,
			Used:     e.used,
			Reserved: e.reserved,
			Needed:   e.need,
			Worst:    e.beyond(),
			Mode:     e.member.Mode.String(),
		}
		if e.window != nil {
			r.Reset = e.window.reset
		}
		dst = append(dst, r)
	}
	return dst
}

// AppendWouldDeny appends the shadow limits that would have refused the call:
// "budget:company", "limit:sonnet".
func (h *Hold) AppendWouldDeny(dst []string) []string {
	for i := range h.n {
		if e := h.at(i); e.over {
			dst = append(dst, e.member.label)
		}
	}
	return dst
}

// beyond is what the call can need, if that is more than what is held.
func (e *holdEntry) beyond() int64 {
	if e.worst > e.need {
		return e.worst
	}
	return 0
}

func (e *holdEntry) text() string {
	if e.window != nil {
		return e.window.text
	}
	return e.account.text
}

func (h *Hold) at(i int) *holdEntry {
	if i < len(h.inline) {
		return &h.inline[i]
	}
	return &h.spill[i-len(h.inline)]
}

// add returns one entry more, which is empty.
func (h *Hold) add() *holdEntry {
	if h.n >= len(h.inline) {
		h.spill = append(h.spill, holdEntry{})
	}
	h.n++
	return h.at(h.n - 1)
}

// begin empties the hold and opens it.
func (h *Hold) begin() {
	h.truncate(0)
	h.open, h.reserved, h.need, h.waiter = true, false, Need{}, waiter{}
}

// truncate drops the entries from n on, and what they point to.
func (h *Hold) truncate(n int) {
	clear(h.inline[min(n, len(h.inline)):min(h.n, len(h.inline))])
	if keep := max(0, n-len(h.inline)); keep < len(h.spill) {
		clear(h.spill[keep:])
		h.spill = h.spill[:keep]
	}
	h.n = n
}
