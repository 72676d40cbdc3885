package accounting

import (
	"context"
	"math"
	"time"

	"airgate/accounting/quota"
)

const (
	// A permit comes back to the others permitFor after its replica was last heard
	// of: a gauge has no window at whose end it would come back by itself. The
	// replica itself gives out none for as long as that less a margin for a pause
	// that it does not notice, and says every permitBeat that it is there.
	permitFor  = 30 * time.Second
	permitSafe = 20 * time.Second
	permitBeat = 5 * time.Second
	// As many permits as were in use at once in the last peakFor, or in that before,
	// stay in hand.
	peakFor = 2 * time.Second
	// Beside them as many more, and at least sparePermits, if an eighth of what nobody
	// has is enough: while the store is down there are no others. For lullFor they stay
	// where none was in use meanwhile.
	sparePermits = 32
)

// pool is this ledger's part of a concurrency limit that is shared. The account's
// lock guards the fields below the line.
type pool struct {
	account *account
	id      quota.Key

	asking *turn // one store call at a time; taken before the account's lock

	// ---
	kept   bool // Run looks after it
	seq    uint64
	mine   int64 // permits, in use or idle, as the store last said
	others int64 // those of others
	told   int64 // when that was, by Ledger.steady: as it was asked …
	toldAt int64 // … and by the wall clock, which goes on while the machine is suspended
	limit  int64 // as it was asked
	peak   int64 // most in use at once since …
	peakAt int64 // … then
	last   int64 // and in peakFor before that
	usedAt int64 // when one was in use last
	dry    int64 // until then there are no more
}

// takePermit takes a permit for all entries from first on. A shadow limit
// counts permits beyond its amount.
func (l *Ledger) takePermit(h *Hold, first int, t *Table, g *group, a *account, s *Subject, now int64) (r *Refusal, alive bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.dead {
		return nil, false
	}
	var err error
	var others int64
	fits := true
	if l.shared {
		ask := h.refill(first)
		if a.pool == nil || !a.pool.kept || !l.permits(a.pool, ask.lowest) {
			err = l.permitLocked(&h.waiter, a, ask.lowest, g.syncTerms(a, s, t, now).limit)
		}
		others = a.pool.others
		fits = l.permits(a.pool, ask.lowest) || err != nil && ask.allow
	}
	refused := h.judge(first, func(e *holdEntry) bool {
		e.reserved = a.permits + others
		if l.shared && e.member.Mode == Enforce {
			return fits
		}
		return e.reserved < e.terms.amount
	})
	switch {
	case refused != nil && err != nil:
		return refused.refuse(QuotaUnavailable, busyRetry), true
	case refused != nil:
		return refused.refuse(ConcurrencyLimited, busyRetry), true
	}
	a.permits++
	if l.shared {
		a.pool.use(l.steady())
	}
	h.at(first).booked = true
	return nil, true
}

// permitLocked asks the store for a permit if there is none in hand, until there
// is, or there are no more. Those of others may be idle: they are asked for them,
// and have a moment to give them back. a.mu is held, but not while the store is
// asked.
func (l *Ledger) permitLocked(who *waiter, a *account, lowest, limit int64) error {
	p := a.pool
	if p == nil {
		p = &pool{account: a, id: quota.Key{Account: a.text}, asking: newTurn()}
		a.pool = p
	}
	if !p.kept {
		p.kept = true
		l.escrow.put(p)
	}
	if l.permits(p, lowest) {
		return nil
	}
	a.mu.Unlock()
	err := p.asking.lock(who)
	a.mu.Lock()
	if err != nil {
		return err
	}
	defer p.asking.unlock(who)
	want, _ := p.aim(limit, l.steady())
	for wait := recallFor / 31; !l.permits(p, lowest); wait *= 2 {
		if l.steady() < p.dry {
			return nil
		}
		if err := l.askPermitsLocked(who, p, max(a.permits+1, want), limit, true); err != nil {
			return err
		}
		switch {
		case l.permits(p, lowest):
			return nil
		case p.others == 0 || wait > recallFor:
			p.dry = l.steady() + int64(dryFor)
			return nil
		}
		a.mu.Unlock()
		time.Sleep(wait) //nolint:forbidigo // others give back what is idle meanwhile
		a.mu.Lock()
	}
	return nil
}

// permits reports whether a permit is in hand, and within the lowest limit. The store
// forgets them by its own clock: the wall clock counts, too.
func (l *Ledger) permits(p *pool, lowest int64) bool {
	inUse := p.account.permits
	return lowest == math.MaxInt64 || inUse < p.mine && inUse < lowest-p.others &&
		l.steady()-p.told < int64(permitSafe) && l.wallClock()-p.toldAt < int64(permitSafe)
}

// use notes how many are in use.
func (p *pool) use(now int64) {
	inUse := p.account.permits
	if passed := now - p.peakAt; passed > int64(peakFor) {
		p.last = p.peak
		if passed > 2*int64(peakFor) {
			p.last = 0
		}
		p.peak, p.peakAt = inUse, now
	}
	p.peak = max(p.peak, inUse)
	if inUse > 0 {
		p.usedAt = now
	}
}

// aim is how many shall be in hand, and how many of them to spare.
func (p *pool) aim(limit, now int64) (want, spare int64) {
	n := max(p.account.permits, p.peak, p.last)
	if n == 0 && now-p.usedAt >= int64(lullFor) {
		return 0, 0
	}
	spare = max(0, min(max(n, sparePermits), (limit-p.others-n)/8))
	return n + spare, spare
}

// askPermitsLocked tells the store what is in use, and asks for want in all.
// p.asking is held, and a.mu, but not while the store is asked.
func (l *Ledger) askPermitsLocked(who *waiter, p *pool, want, limit int64, recall bool) error {
	a := p.account
	for {
		p.seq++
		ask := quota.Permits{
			Key: p.id, Replica: l.replica, Seq: p.seq, InUse: a.permits, Want: want, Limit: limit, TTL: permitFor, Recall: recall,
		}
		// What is not asked for is given back as the store hears of it: no call may
		// take it meanwhile.
		p.mine = min(p.mine, want)
		p.limit = limit
		a.mu.Unlock()
		began, toldAt := l.steady(), l.wallClock()
		got, err := l.store.Permit(context.Background(), ask)
		l.answered(err)
		who.ended(err, began, l.steady())
		a.mu.Lock()
		if err != nil {
			return err
		}
		if got.Seq > ask.Seq { // the account was dropped, and is open again
			p.seq = got.Seq
			continue
		}
		p.mine, p.others, p.told, p.toldAt = got.Mine, got.Others, began, toldAt
		return nil
	}
}

func (p *pool) key() quota.Key { return p.id }

// due implements kept.
func (p *pool) due(l *Ledger) (call func()) {
	a, now := p.account, l.steady()
	a.mu.Lock()
	defer a.mu.Unlock()
	p.use(now)
	want, spare := p.aim(p.limit, now)
	few := p.mine < want-spare/2 && spare > 0
	if l.down.Load() {
		want = max(want, p.mine) // nobody else gets what is given back now
	}
	if p.mine == 0 && want == 0 {
		p.kept = false
		l.escrow.remove(p)
		return nil
	}
	if a.permits <= p.mine && !few && p.mine <= want && now-p.told < int64(permitBeat) {
		return nil
	}
	return func() { _ = p.tell(l, want) } // askPermitsLocked tells what goes wrong
}

// tell reports what is in use, and has want in hand, if there are so many.
func (p *pool) tell(l *Ledger, want int64) error {
	limit := l.termsNow(p.account, l.wallClock()).limit
	var who waiter
	if err := p.asking.lock(&who); err != nil {
		return err
	}
	defer p.asking.unlock(&who)
	a := p.account
	a.mu.Lock()
	defer a.mu.Unlock()
	return l.askPermitsLocked(&who, p, max(a.permits, want), limit, false)
}

// recall implements kept.
func (p *pool) recall(l *Ledger) {
	a := p.account
	a.mu.Lock()
	idle := p.mine > a.permits
	p.peak, p.last = a.permits, 0
	a.mu.Unlock()
	if idle {
		_ = p.tell(l, 0) // as above
	}
}

// close implements kept.
func (p *pool) close(l *Ledger) error { return p.tell(l, 0) }

func (p *pool) of() *account { return p.account }

// autonomyLocked implements kept.
func (p *pool) autonomyLocked(now int64) (d time.Duration, ok bool) {
	return max(0, permitSafe-time.Duration(now-p.told)), max(p.account.permits, p.peak, p.last) > 0
}
