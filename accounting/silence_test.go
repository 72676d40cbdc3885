package accounting_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"airgate/accounting"
)

// silences are how a store can be that does not answer.
var silences = map[string]int{ // :: name → breakers
	"one server": 1,
	"a Cluster":  16,
	"one that answers probes and nothing else": 0,
}

// call makes a call as the processor does, and says how long that was waited for.
func (s *sharing) call(key string) (waited time.Duration, r *accounting.Refusal) {
	l, table, by, need := s.ledgers[0], s.tables[0], subject(key, "t"), accounting.Need{USD: 5, Tokens: 1000}
	var h accounting.Hold
	began := time.Now()
	r = l.Enter(&h, table, by, began)
	if r == nil {
		l.Room(&h, table, by, began)
		l.Clamp(&h, table, by, need, began)
		r = l.Reserve(&h, table, by, need, began)
	}
	waited = time.Since(began)
	l.Settle(&h, 5, 700, time.Now())
	return waited, r
}

// sevenLimits are of every kind, on each key and on all.
func sevenLimits(mode accounting.Mode, budgets, others accounting.OnStoreDown) []accounting.Limit {
	each := []accounting.Dimension{accounting.Key}
	return []accounting.Limit{
		{Name: "requests a second", Resource: accounting.Requests, Each: each, Amount: 1000, Per: time.Second, Mode: mode, OnStoreDown: others},
		{Name: "tokens a minute", Resource: accounting.Tokens, Each: each, Amount: 1e9, Per: time.Minute, Mode: mode, OnStoreDown: others},
		{Name: "parallel", Resource: accounting.Concurrent, Each: each, Amount: 100, Mode: mode, OnStoreDown: others},
		{Name: "tokens a day", Resource: accounting.Tokens, Each: each, Amount: 1e9, Window: accounting.Day, Mode: mode, OnStoreDown: others},
		{Name: "a day", Resource: accounting.USD, Each: each, Amount: 1e6, Window: accounting.Day, Mode: mode, OnStoreDown: budgets},
		{Name: "a month", Resource: accounting.USD, Each: each, Amount: 1e6, Window: accounting.Month, Mode: mode, OnStoreDown: budgets},
		{Name: "company", Resource: accounting.USD, Amount: 1e7, Window: accounting.Month, Mode: mode, OnStoreDown: budgets},
	}
}

// TestSilentStore: while the store does not answer, a call for which everything is in
// hand waits for nothing, and any other one for one deadline of the store at most,
// however much it lacks and however many lack it. When it answers again, the same
// ledger has it grant what is lacked, and has told what was spent.
func TestSilentStore(t *testing.T) {
	allow, within := accounting.OnStoreDown{Allow: true}, accounting.OnStoreDown{Within: 1e6}
	for name, c := range map[string]struct {
		limits []accounting.Limit
		code   accounting.Code // for who lacks something
	}{
		"all refuse":            {sevenLimits(accounting.Enforce, accounting.OnStoreDown{}, accounting.OnStoreDown{}), accounting.QuotaUnavailable},
		"budgets refuse":        {sevenLimits(accounting.Enforce, accounting.OnStoreDown{}, allow), accounting.QuotaUnavailable},
		"budgets allow a sum":   {sevenLimits(accounting.Enforce, within, allow), accounting.OK},
		"all allow":             {sevenLimits(accounting.Enforce, allow, allow), accounting.OK},
		"all are shadow limits": {append(sevenLimits(accounting.Shadow, accounting.OnStoreDown{}, accounting.OnStoreDown{}), accounting.Limit{Name: "enforced", Resource: accounting.USD, Amount: 1e6, Window: accounting.Day, OnStoreDown: allow}), accounting.OK},
	} {
		for silence, breakers := range silences {
			t.Run(name+"/"+silence, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := share(t, 1, c.limits...)
					s.store.breakers = breakers
					spent := int64(0)
					var mu sync.Mutex
					call := func(key string) (time.Duration, accounting.Code) {
						waited, r := s.call(key)
						mu.Lock()
						defer mu.Unlock()
						if r == nil {
							spent += 5
						}
						return waited, code(r)
					}
					for range 300 {
						if _, got := call("rich"); got != accounting.OK {
							t.Fatalf("a call is refused with %v while the store answers", got)
						}
						time.Sleep(10 * time.Millisecond)
					}

					s.store.silent.Store(true)
					var calling sync.WaitGroup
					calling.Go(func() {
						for range 10 {
							if waited, got := call("rich"); waited > 0 || got != accounting.OK {
								t.Errorf("a call for which everything is in hand waits %v, and is answered %v", waited, got)
							}
							time.Sleep(10 * time.Millisecond)
						}
					})
					worst := time.Duration(0)
					for n := range 200 { // for four deadlines
						calling.Go(func() {
							time.Sleep(time.Duration(n) * time.Millisecond)
							waited, got := call(fmt.Sprint("poor", n%5))
							if got != c.code {
								t.Errorf("a call that lacks something is answered %v, want %v", got, c.code)
							}
							mu.Lock()
							defer mu.Unlock()
							worst = max(worst, waited)
						})
					}
					calling.Wait()
					if worst != storeDeadline {
						t.Errorf("a call waits %v, want the %v of one deadline", worst, storeDeadline)
					}

					s.store.speak()
					time.Sleep(storeDeadline) // no call of the silence is under way any more
					for n := range 5 {
						if waited, got := call(fmt.Sprint("poor", n)); got != accounting.OK || waited == 0 || waited >= storeDeadline {
							t.Errorf("the store answers again: a call waits %v for it, and is answered %v", waited, got)
						}
					}
					s.end()
					if settled, escrowed := has(t, s.store.Store, "usd|month@UTC", thisMonth()); settled != spent || escrowed != 0 {
						t.Errorf("the store has %d settled and %d escrowed, want %d and 0", settled, escrowed, spent)
					}
				})
			})
		}
	}
}

// TestSilentStoreInHand: as long as what is in hand lasts, no call waits, whatever Run
// asks a store that does not answer.
func TestSilentStoreInHand(t *testing.T) {
	for silence, breakers := range silences {
		t.Run(silence, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := share(t, 1, sevenLimits(accounting.Enforce, accounting.OnStoreDown{}, accounting.OnStoreDown{})[2:]...)
				s.store.breakers = breakers
				for n := range 20 * 50 {
					s.store.silent.Store(n >= 5*50) // for 15 s: permits do not last longer
					if waited, r := s.call("rich"); r != nil || waited > 0 && s.store.silent.Load() {
						t.Fatalf("call %d waits %v, and is answered %v", n, waited, code(r))
					}
					time.Sleep(20 * time.Millisecond)
				}
				s.store.speak()
				time.Sleep(storeDeadline)
				s.end()
			})
		})
	}
}

// TestSilentStorePermits: an eighth of what nobody has is to spare, so that more calls
// than before can be open at once while the store does not answer, also after a pause.
func TestSilentStorePermits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := share(t, 1, accounting.Limit{Name: "parallel", Resource: accounting.Concurrent, Amount: 36})
		s.store.breakers = 1
		atOnce := func(n int) (admitted int) {
			var calling sync.WaitGroup
			var mu sync.Mutex
			for range n {
				calling.Go(func() {
					var h accounting.Hold
					if s.ledgers[0].Enter(&h, s.tables[0], subject("k", "t"), time.Now()) == nil {
						mu.Lock()
						admitted++
						mu.Unlock()
						time.Sleep(500 * time.Millisecond)
						s.ledgers[0].Settle(&h, 0, 0, time.Now())
					}
				})
			}
			calling.Wait()
			return admitted
		}
		for range 6 {
			if n := atOnce(4); n != 4 {
				t.Fatalf("%d of 4 calls are admitted while the store answers", n)
			}
		}
		s.store.silent.Store(true)
		for _, n := range []int{4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 8} {
			if got := atOnce(n); got != n {
				t.Errorf("%d of %d calls at once are admitted without the store", got, n)
			}
			time.Sleep(500 * time.Millisecond)
		}
		if n := atOnce(9); n != 8 {
			t.Errorf("%d calls at once are admitted without the store, which has granted 8 permits", n)
		}
		s.store.speak()
		time.Sleep(storeDeadline)
		s.end()
	})
}

// TestSilentStoreAndDroppedWindows: a call that opens a window does not wait until the
// store has heard of each one that was dropped.
func TestSilentStoreAndDroppedWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := accounting.Limit{Name: "a day", Resource: accounting.USD, Each: []accounting.Dimension{accounting.Key}, Amount: 1000, Window: accounting.Day, OnStoreDown: accounting.OnStoreDown{Allow: true}}
		s := share(t, 1, limit)
		s.stops[0]() // Run would have told of them
		s.running.Wait()
		s.store.silent.Store(true)
		for n := range 5 {
			if _, r := s.call(fmt.Sprint("k", n)); r != nil {
				t.Fatalf("refused: %+v", r)
			}
		}
		time.Sleep(26 * time.Hour)
		s.tables[0] = compile(t, limit)
		if err := s.ledgers[0].Apply(s.tables[0], time.Now()); err != nil {
			t.Fatal(err)
		}
		if waited, r := s.call("k9"); waited != storeDeadline || r != nil {
			t.Errorf("a call waits %v, want the %v of one deadline; %v", waited, storeDeadline, code(r))
		}
		s.store.speak()
		s.end()
	})
}

// TestPatience: a call that waited in vain for one thing, and was let through, asks again
// for another one that it needs later, as the store is well.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := share(t, 1,
			accounting.Limit{Name: "r", Resource: accounting.Requests, Amount: 10, Per: time.Second, OnStoreDown: accounting.OnStoreDown{Allow: true}},
			accounting.Limit{Name: "b", Resource: accounting.USD, Amount: 100, Window: accounting.Month})
		defer s.end()
		s.store.silent.Store(true)
		var h accounting.Hold
		if r := s.ledgers[0].Enter(&h, s.tables[0], subject("k", "t"), time.Now()); r != nil {
			t.Fatalf("a rate that allows it = %+v", r)
		}
		s.store.speak()
		time.Sleep(2 * time.Second) // for its body
		if r := s.ledgers[0].Reserve(&h, s.tables[0], subject("k", "t"), accounting.Need{USD: 5}, time.Now()); r != nil {
			t.Errorf("a budget, as the store answers again = %+v", r)
		}
		s.ledgers[0].Settle(&h, 5, 0, time.Now())
	})
}

// TestBadAnswerIsAnAnswer: what the store says about one limit costs no patience for
// others, whose question is another one.
func TestBadAnswerIsAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := share(t, 1,
			accounting.Limit{Name: "r", Resource: accounting.Requests, Amount: 10, Per: time.Second, OnStoreDown: accounting.OnStoreDown{Allow: true}},
			accounting.Limit{Name: "b", Resource: accounting.USD, Amount: 100, Window: accounting.Month})
		defer s.end()
		s.store.bad.Store(true)
		var h accounting.Hold
		if r := s.ledgers[0].Enter(&h, s.tables[0], subject("k", "t"), time.Now()); r != nil {
			t.Fatalf("a rate that allows it = %+v", r)
		}
		if r := s.ledgers[0].Reserve(&h, s.tables[0], subject("k", "t"), accounting.Need{USD: 5}, time.Now()); r != nil {
			t.Errorf("a budget that the store answers for = %+v", r)
		}
		s.ledgers[0].Settle(&h, 5, 0, time.Now())
		s.store.bad.Store(false)
	})
}
