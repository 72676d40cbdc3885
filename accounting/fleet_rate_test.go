package accounting_test

import (
	"slices"
	"time"

	"airgate/accounting"
	"airgate/accounting/quota"
	"airgate/accounting/quota/memory"
)

// fleetRate is what all calls took of a rate. The fleet's lock guards it. Amounts are the
// microseconds in which so much flows in.
type fleetRate struct {
	limit accounting.Limit
	calls []*rateCall
	wait  time.Duration // that a call was let go after it may have taken what it held, at most
}

// rateCall is a call that has taken something.
type rateCall struct {
	at     time.Time // when it was let go; if it was not, when it may have begun to hold
	used   int64     // none by one that another limit has refused
	change int64     // from what it held to that
	told   time.Time // when the store has heard of the change; zero = never
}

// cost is the microseconds in which n units flow in.
func (r *fleetRate) cost(n int64) int64 {
	return n * r.limit.Per.Microseconds() / r.limit.Amount // of which none is broken
}

// correct notes what a call has used in place of what it held, in the order in which
// the calls of a process end.
func (r *fleetRate) correct(by *corrections, c *rateCall, used int64) {
	c.change, c.used = used-c.used, used
	switch {
	case c.change < 0:
		by.returned -= c.change
		by.refunds = append(by.refunds, correction{by.returned, c})
	case c.change > 0:
		by.debt += c.change
		by.debts = append(by.debts, correction{by.debt, c})
	}
}

// corrections are what the store is to hear of a process and a rate: what calls have
// not used, and what they have used beyond their holds.
type corrections struct {
	returned, debt int64
	refunds, debts []correction // that it has not heard

	store *memory.Store // that has heard …
	taken int64         // … of so much

	answered int64 // taken, as the process has heard
}

// telling is what goes with a call: all debt so far, and what was answered before.
type telling struct{ debt, answered int64 }

type correction struct {
	sum  int64 // of all up to this one
	call *rateCall
}

// hear notes what a store has heard by a call, and its answer.
func (c *corrections) hear(store *memory.Store, t *quota.Take, got *quota.Taken, with telling) {
	if got.Seq > t.Seq {
		return // it is an old one
	}
	told := time.Now()
	// What a lost answer said was taken is not told apart from debt.
	lost := c.taken - with.answered
	if c.store != store { // it has lost the bucket, and takes for booked what was before
		c.store, lost, told = store, with.debt, time.Time{}
	}
	for len(c.refunds) > 0 && c.refunds[0].sum+c.refunds[0].call.change < t.Returned {
		c.refunds[0].call.told = told
		c.refunds = c.refunds[1:]
	}
	for len(c.debts) > 0 && c.debts[0].sum <= with.debt {
		if lost <= 0 {
			c.debts[0].call.told = told
		}
		lost -= c.debts[0].call.change
		c.debts = c.debts[1:]
	}
	c.taken = got.Taken
}

// check looks at all intervals. What calls that were let go in one have used is at most
//
//   - what the bucket holds, once more for each time that the store loses it;
//   - what flows in during it, a second before it, since a replica may have that in
//     hand, and the time that a call which has taken it waits for other limits;
//   - what calls from before it have given back in it, or in that time: others can have
//     it, though it may have flowed back already;
//   - what its calls have used beyond their holds, and the store had not heard of as it
//     vended what the last of them took.
//
// What it never hears of, since the process dies or the store loses the bucket before,
// does not count; nor what it was told of after an answer that was lost, as far as that
// had said that something was taken.
func (r *fleetRate) check(losses []time.Time, problem func(format string, args ...any)) {
	if len(r.calls) == 0 {
		return
	}
	calls := slices.Clone(r.calls)
	slices.SortStableFunc(calls, func(a, b *rateCall) int { return a.at.Compare(b.at) })
	told := slices.DeleteFunc(slices.Clone(calls), func(c *rateCall) bool { return c.told.IsZero() || c.change == 0 })
	slices.SortStableFunc(told, func(a, b *rateCall) int { return a.told.Compare(b.told) })
	capacity := r.cost(r.limit.Burst)
	inHand := time.Second + r.wait
	first := calls[0].at
	// Sums up to an instant, and up to one that is inHand before it.
	var used, refunds, refundsBefore, debts, toldDebts int64
	var lost, lostBefore, heardBefore int
	least := int64(1) << 62
	for i, c := range calls {
		now := c.at.Sub(first).Microseconds()
		for lostBefore < len(losses) && losses[lostBefore].Before(c.at.Add(-inHand)) {
			lostBefore++
		}
		for ; heardBefore < len(told) && told[heardBefore].told.Before(c.at.Add(-inHand)); heardBefore++ {
			refundsBefore += max(0, -told[heardBefore].change)
			toldDebts += max(0, told[heardBefore].change)
		}
		least = min(least, used-now-capacity*int64(lostBefore)+refunds-refundsBefore)
		used += c.used
		if !c.told.IsZero() {
			refunds += max(0, -c.change)
			debts += max(0, c.change)
		} else {
			used -= max(0, c.change)
		}
		if i+1 < len(calls) && calls[i+1].at.Equal(c.at) {
			continue
		}
		for lost < len(losses) && !losses[lost].After(c.at) {
			lost++
		}
		beyond := used - now - capacity*int64(lost) - (debts - toldDebts) - least
		if most := capacity + inHand.Microseconds(); beyond > most {
			problem("%s: %d and %d at once were passed at %v: %d µs of %d", r.limit.Resource, r.limit.Amount, r.limit.Burst, c.at, beyond, most)
			return
		}
	}
}
