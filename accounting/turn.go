package accounting

import (
	"errors"
	"sync/atomic"
	"time"

	"airgate/accounting/quota"
)

const (
	// inVain is how long a store call lasts at least that was waited for in vain: one
	// that is known to be down says so within moments.
	inVain = time.Millisecond
	// patient is after how long a call that goes on asks again: the store may be well.
	patient = time.Second
)

// waiter is who waits for the store: a call, or Run. A call that has waited in vain
// asks no more, whatever else it lacks: so it waits for one deadline in all.
type waiter struct {
	vain error // what came of it; nil = it has not
	at   int64 // when that was, by Ledger.steady
}

// ended takes how a store call went that began and ended then, by Ledger.steady.
func (who *waiter) ended(err error, began, now int64) {
	if now-began >= int64(inVain) && errors.Is(err, quota.ErrUnavailable) && !errors.Is(err, errLost) { // what is lost is an answer
		who.vain, who.at = err, now
	}
}

// goesOn is for a call that may have waited before for something else, its body.
func (who *waiter) goesOn(l *Ledger) {
	if who.vain != nil && l.steady()-who.at >= int64(patient) {
		who.vain = nil
	}
}

// turn is held while a store is asked: who waits for it waits as for the network, in
// virtual time too. If its holder waits in vain, so have all who wait for the turn.
type turn struct {
	held chan struct{}

	vain atomic.Uint64 // holders who waited in vain
	last waiter        // the last of them; who holds the turn may look
}

func newTurn() *turn { return &turn{held: make(chan struct{}, 1)} }

// lock takes the turn. After an error it is not held.
func (t *turn) lock(who *waiter) error {
	if who.vain != nil {
		return who.vain
	}
	before := t.vain.Load()
	t.held <- struct{}{}
	if t.vain.Load() != before {
		*who = t.last
		<-t.held
	}
	return who.vain
}

func (t *turn) unlock(who *waiter) {
	if who.vain != nil {
		t.last = *who
		t.vain.Add(1)
	}
	<-t.held
}
