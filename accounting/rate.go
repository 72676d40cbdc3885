package accounting

import (
	"context"
	"math"
	"time"

	"airgate/accounting/quota"
)

const (
	// A replica has at most what flows into a bucket in stock of it in hand, and
	// forgets what it has not used after vendedFor: it has flowed back meanwhile.
	// So any interval T admits, over all replicas, what the bucket holds and what
	// flows in during T and vendedFor.
	vendedFor = time.Second
)

// vended is this ledger's part of the bucket of a rate that is shared: the state
// is the store's, which vends to each replica what its calls take. The amounts are
// microseconds, as in quota.Take. The account's lock guards the fields below the
// line.
type vended struct {
	account *account
	id      quota.Key

	asking *turn // one store call at a time; taken before the account's lock

	// ---
	pace

	kept     bool // Run looks after it
	seq      uint64
	taken    int64    // from the store, cumulative, debt included
	returned int64    // to it, cumulative
	heard    [2]int64 // taken and returned, as it last heard
	calls    int64    // what calls have taken, cumulative
	unsure   bool     // the last call was not answered: it may have taken something, and later
	stock    int64    // in hand
	until    int64    // when that is forgotten, in Unix nanoseconds
	lacking  int64    // what calls wait for that want to ask
	cost     int64    // of the last call
	capacity int64    // of the bucket, as of the last call
	full     int64    // when the bucket is full, as the store last said
	dry      int64    // until then nobody asks …
	dryNeed  int64    // … for so much …
	there    int64    // … which will be there then
}

// micros is a time of a bucket in the store's unit, rounded up.
func micros(nanos int64) int64 { return nanos/1000 + min(1, nanos%1000) }

// takeRate takes from a bucket. A shadow rate books only what it would have
// let through: what enforcing it would have refused puts nobody into debt.
func (l *Ledger) takeRate(who *waiter, e *holdEntry, a *account, now int64) (r *Refusal, alive bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.dead {
		return nil, false
	}
	b := &e.terms.bucket
	var wait int64
	var err error
	if l.shared {
		wait, err = l.vendLocked(who, e, a)
	} else {
		e.used = b.used(a.tat, now)
		wait = b.take(&a.tat, e.need, now)
	}
	switch {
	case err == nil && wait == 0:
		e.booked = true
	case e.member.Mode == Shadow:
		e.over = err == nil
	case err != nil && e.member.OnStoreDown.Allow:
		// It passes, and is not booked: an outage leaves no debt behind.
	case err != nil:
		return e.refuse(QuotaUnavailable, busyRetry), true
	default:
		return e.refuse(RateLimited, time.Duration(wait)), true
	}
	return nil, true
}

// vendLocked takes what a call needs from what is in hand, or else asks the store
// for it. a.mu is held, but not while the store is asked.
func (l *Ledger) vendLocked(who *waiter, e *holdEntry, a *account) (wait int64, err error) {
	b, v := &e.terms.bucket, a.vended
	if v == nil {
		v = &vended{account: a, id: quota.Key{Account: a.text + a.set.again}, asking: newTurn()}
		a.vended = v
	}
	need, now := micros(b.cost(e.need)), l.steady()
	v.cost, v.capacity = need, micros(b.capacity)
	e.used = b.used(v.full, now+v.stock*1000)
	if !v.kept {
		v.kept, v.at, v.level = true, now, v.calls
		l.escrow.put(v)
	}
	if wait, known := v.tryLocked(need, now); known {
		return wait, nil
	}
	v.lacking += need
	a.mu.Unlock()
	err = v.asking.lock(who)
	a.mu.Lock()
	defer func() { v.lacking -= need }()
	if err == nil {
		defer v.asking.unlock(who)
	}
	// Who asked meanwhile has asked for all that wait.
	if wait, known := v.tryLocked(need, l.steady()); known {
		return wait, nil
	}
	if err != nil {
		return 0, err
	}
	wait, err = l.askRateLocked(who, v, max(need, v.lacking)+v.ahead(), need)
	switch {
	case err != nil:
		return 0, err
	case v.takeLocked(need, l.steady()):
		return 0, nil
	}
	now = l.steady()
	// What flows in meanwhile is there to be taken at once, if the bucket holds it.
	v.dry = now + min(max(wait, v.capacity*1000/8), int64(dryFor))
	v.dryNeed, v.there = need, now+wait
	return max(1, wait), nil
}

// tryLocked takes what a call needs, or tells how long it is to wait, as far as that is
// known without the store.
func (v *vended) tryLocked(need, now int64) (wait int64, known bool) {
	switch {
	case v.takeLocked(need, now):
		return 0, true
	case now < v.dry && need >= v.dryNeed:
		return max(1, v.there-now), true
	}
	return 0, false
}

// takeLocked takes from what is in hand.
func (v *vended) takeLocked(need, now int64) bool {
	if now >= v.until {
		v.stock = 0
	}
	if need > v.stock {
		return false
	}
	v.stock -= need
	v.calls += need
	return true
}

// ahead is what shall be in hand beside what a call needs: nothing where calls come
// too seldom to use it.
func (v *vended) ahead() int64 {
	n := min(v.lasts(stock), stock.Microseconds())
	if n < v.cost {
		return 0
	}
	return n
}

// askRateLocked reports to the store, and asks for want, or else for need. v.asking
// is held, and a.mu, but not while the store is asked.
func (l *Ledger) askRateLocked(who *waiter, v *vended, want, need int64) (wait int64, err error) {
	a := v.account
	for {
		v.seq++
		t := quota.Take{
			Key: v.id, Replica: l.replica, Seq: v.seq, Seen: v.taken, Returned: v.returned,
			Want: want, Need: need, Capacity: v.capacity,
		}
		a.mu.Unlock()
		began := l.steady()
		got, err := l.store.Take(context.Background(), t)
		l.answered(err)
		who.ended(err, began, l.steady())
		a.mu.Lock()
		if err != nil {
			v.unsure = true
			return 0, err
		}
		if got.Seq > t.Seq {
			// The account was dropped and is open again: the store took nothing of
			// this call, and tells what was known.
			v.seq = got.Seq
			v.taken += got.Taken
			continue
		}
		if more := got.Taken - t.Seen; more > 0 {
			v.taken += more
			if v.unsure {
				// Most of it may have been taken so long ago that it has flowed back.
				more = 0
				if got.Wait == 0 {
					more = need
				}
			}
			v.stock += more
			v.until = began + int64(vendedFor)
		}
		v.unsure = false
		v.heard = [2]int64{t.Seen + max(0, got.Taken-t.Seen), t.Returned}
		v.full = began + min(got.Level, math.MaxInt64/2000)*1000
		return int64(got.Wait), nil
	}
}

// correctLocked turns what a call took into what it used. a.mu is held.
func (l *Ledger) correctLocked(v *vended, b *bucket, held, used int64) {
	d := micros(b.cost(used)) - micros(b.cost(held))
	if d == 0 {
		return
	}
	if d > 0 {
		v.taken += d // by its owner's word, even into debt
	} else {
		v.returned -= d
	}
	if !v.kept {
		v.kept = true
		l.escrow.put(v)
	}
}

func (v *vended) key() quota.Key { return v.id }

// due implements kept.
func (v *vended) due(l *Ledger) (call func()) {
	a, now := v.account, l.steady()
	a.mu.Lock()
	defer a.mu.Unlock()
	v.measure(v.calls, now)
	if now >= v.until {
		v.stock = 0
	}
	var want int64
	if ahead := v.ahead(); v.stock < ahead/2 && now >= v.dry {
		want = ahead - v.stock
	}
	if want > 0 || v.heard != [2]int64{v.taken, v.returned} {
		return func() { _ = v.tell(l, want) } // askRateLocked tells what goes wrong
	}
	if v.stock == 0 && v.flow == 0 {
		v.kept = false
		l.escrow.remove(v)
	}
	return nil
}

func (v *vended) tell(l *Ledger, want int64) error {
	var who waiter
	if err := v.asking.lock(&who); err != nil {
		return err
	}
	defer v.asking.unlock(&who)
	v.account.mu.Lock()
	defer v.account.mu.Unlock()
	_, err := l.askRateLocked(&who, v, want, 0)
	return err
}

// recall implements kept: what is in hand will soon have flowed back by itself.
func (v *vended) recall(*Ledger) {}

// close implements kept.
func (v *vended) close(l *Ledger) error { return v.tell(l, 0) }

func (v *vended) of() *account { return v.account }

// autonomyLocked implements kept.
func (v *vended) autonomyLocked(now int64) (d time.Duration, ok bool) {
	if v.flow <= 0 {
		return 0, false
	}
	return time.Duration(max(0, min(v.until-now, mulDiv(v.stock, int64(time.Second), v.flow, down)))), true
}
