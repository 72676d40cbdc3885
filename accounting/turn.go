package accounting

import (
	"errors"
	"sync/atomic"
	"time"
)

// inVain is how long a store call lasts at least that was waited for in vain: one that
// is known to be down says so within moments.
const inVain = time.Millisecond

// waiter is who waits for the store: a call, or Run. A call that has waited in vain
// asks no more, whatever else it lacks: so it waits for one deadline in all.
type waiter struct {
	vain error // what came of it; nil = it has not
}

// ended takes how a store call went that took so many nanoseconds.
func (who *waiter) ended(err error, took int64) {
	if err != nil && took >= int64(inVain) && !errors.Is(err, errLost) { // that is an answer
		who.vain = err
	}
}

// turn is held while a store is asked: who waits for it waits as for the network, in
// virtual time too. If its holder waits in vain, so have all who wait for the turn.
type turn struct {
	held chan struct{}

	vain atomic.Uint64 // holders who waited in vain
	err  error         // what came of that the last time; who holds the turn may look
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
		who.vain = t.err
		<-t.held
	}
	return who.vain
}

func (t *turn) unlock(who *waiter) {
	if who.vain != nil {
		t.err = who.vain
		t.vain.Add(1)
	}
	<-t.held
}
