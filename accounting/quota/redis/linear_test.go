package redis

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"airgate/accounting/quota"
	"airgate/accounting/quota/redis/redistest"
)

const callers = 4

// ledger is an account-window as quota.Store.Sync describes it, with a limit that
// stays.
type ledger [callers]struct {
	seq                      uint64
	granted, returned, spent int64
}

func (l ledger) state(c *quota.Sync, replica int) quota.State {
	r := &l[replica]
	st := quota.State{Seq: r.seq, Granted: r.granted, Spent: r.spent, Limit: c.Limit, Version: c.Version}
	for _, o := range l {
		st.Settled += o.spent
		st.Escrowed += o.granted - o.returned - o.spent
		st.Active += digit(o.granted > o.returned+o.spent)
	}
	return st
}

func (l ledger) sync(c *quota.Sync, replica int) ledger {
	r := &l[replica]
	if c.Seq >= r.seq {
		r.returned, r.spent = max(r.returned, c.Returned), max(r.spent, c.Spent)
		r.granted = max(r.granted, c.Seen, r.returned+r.spent)
	}
	if c.Seq > r.seq {
		r.seq = c.Seq
		st := l.state(c, replica)
		if grant := min(c.Want, c.Limit-st.Settled-st.Escrowed); grant > 0 && grant >= c.Need {
			r.granted += grant
		}
	}
	return l
}

// TestLinearizable: what callers see, each over a network that destroys 15 % of
// the answers, is what one of them would see alone in some order in which no call
// takes place before it began or after it was answered. A call without an answer
// took place at any time or never.
func TestLinearizable(t *testing.T) {
	type unknown struct{}
	type input struct {
		call    quota.Sync
		replica int
		sees    bool
	}
	model := porcupine.Model{
		Init: func() any { return ledger{} },
		Step: func(state, in, out any) (bool, any) {
			i, l := in.(input), state.(ledger)
			if !i.sees {
				l = l.sync(&i.call, i.replica)
			}
			if _, lost := out.(unknown); lost {
				return true, l
			}
			got, want := out.(quota.State), l.state(&i.call, i.replica)
			if !i.sees {
				return got.Seq == want.Seq && got.Granted == want.Granted && got.Spent == want.Spent, l
			}
			return fmt.Sprint(got) == fmt.Sprint(want), l
		},
		Equal: func(a, b any) bool { return a.(ledger) == b.(ledger) },
	}
	rounds := 10
	if *long {
		rounds = 200
	}
	for _, b := range servers(t, redistest.Redis(t), redistest.Valkey(t)) {
		t.Run(b.String(), func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t, b)
			whole(t, Config{URL: s.URL()})
			p := redistest.NewProxy(t, s.Addr)
			st := open(t, Config{URL: "redis://" + p.Addr, Deadline: 2 * time.Second})
			p.Lose(150, 50)
			answers, lost := 0, 0
			for round := range rounds {
				if !within30s(st.up) {
					t.Fatal("the store does not answer")
				}
				k := quota.Key{Account: "a", Window: strconv.Itoa(round)}
				var mu sync.Mutex
				var history []porcupine.Operation
				var calling sync.WaitGroup
				for i := range callers {
					calling.Go(func() {
						c := quota.Sync{Key: k, Replica: strconv.Itoa(i), Limit: 100, Version: 1}
						for range 25 {
							c.Seq++
							c.Want, c.Need = rand.Int64N(40), rand.Int64N(10)
							began := time.Now().UnixNano()
							got, err := st.Sync(context.Background(), c)
							did := porcupine.Operation{ClientId: i, Input: input{c, i, false}, Call: began, Output: got, Return: time.Now().UnixNano()}
							saw := did
							saw.ClientId, saw.Input = callers+i, input{c, i, true}
							if err != nil {
								did.Output, did.Return = unknown{}, math.MaxInt64
							}
							mu.Lock()
							if history = append(history, did); err == nil {
								history = append(history, saw)
							}
							answers, lost = answers+digit(err == nil), lost+digit(err != nil)
							mu.Unlock()
							if err != nil { // it is over for this one: a client has one call at a time
								return
							}
							c.Seen = max(c.Seen, got.Granted)
							c.Spent += rand.Int64N(c.Seen - c.Returned - c.Spent + 1)
							c.Returned += rand.Int64N(c.Seen - c.Returned - c.Spent + 1)
						}
					})
				}
				calling.Wait()
				if got := porcupine.CheckOperationsTimeout(model, history, time.Minute); got != porcupine.Ok {
					t.Errorf("a history of %d operations is %s, want %s", len(history), got, porcupine.Ok)
				}
			}
			t.Logf("%d calls answered, %d not", answers, lost)
			if answers < 5*rounds*callers {
				t.Errorf("%d calls answered, want at least %d", answers, 5*rounds*callers)
			}
		})
	}
}
