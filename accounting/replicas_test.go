package accounting_test

import (
	"container/heap"
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"airgate/accounting"
	"airgate/accounting/money"
	"airgate/accounting/quota"
)

var replicasLong = flag.Bool("replicas.long", false, "simulate 100 replicas, at several paces")

// TestStoreCalls is ledgers that share a store, in virtual time: what they ask it
// for each call that they admit, with four budgets on each (company, team, key,
// model). Real are accounting.Ledger and its Run, and the store in memory, which takes
// half a millisecond. Replicas, teams, keys and models are called as Zipf says. A
// budget is what its window would cost at this pace and a fifth more, but for the
// keys that use theirs up meanwhile.
//
// What calls hold and have cost on an account never passes its limit, and when all
// have ended the store has what they cost.
func TestStoreCalls(t *testing.T) {
	worlds := []*crowd{{replicas: 20, rate: 200, warmUp: 8 * time.Second, length: 6 * time.Second, asks: 0.15}}
	if *replicasLong {
		worlds = []*crowd{{rate: 25}, {rate: 50}, {rate: 100, asks: 0.15}, {rate: 200, asks: 0.15}}
		for _, w := range worlds {
			w.replicas, w.warmUp, w.length = 100, 30*time.Second, 12*time.Second
		}
	}
	for _, w := range worlds {
		t.Run(fmt.Sprint(w.rate), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { w.run(t) })
		})
	}
}

// crowd is a fleet with its callers.
type crowd struct {
	replicas int
	rate     float64       // calls a second of a replica, on average
	warmUp   time.Duration // each key is called for the first time on each replica
	length   time.Duration // after that
	asks     float64       // store calls for each call, at most; 0 = as many as there are

	budgets map[string]*tab // :: name → what calls on it hold and have cost

	admitted, refused atomic.Int64
}

// tab is what one budget's calls hold and have cost, as the world counts it.
type tab struct {
	limit int64
	used  atomic.Int64
	most  atomic.Int64
}

func (b *tab) add(n int64) {
	for used := b.used.Add(n); ; {
		if most := b.most.Load(); used <= most || b.most.CompareAndSwap(most, used) {
			return
		}
	}
}

const (
	crowdTeams   = 10
	crowdKeys    = 100
	crowdModels  = 4
	crowdCallers = 4 // of each replica: each has many calls open

	// A call costs between nothing and this, a third of it on average.
	crowdWorst = int64(money.USD / 50)
)

// zipf is how often the first, second, … of n is called.
func zipf(n int, offset float64) []float64 {
	sum := 0.0
	share := make([]float64, n)
	for i := range share {
		share[i] = 1 / (float64(i) + offset)
		sum += share[i]
	}
	for i := range share {
		share[i] /= sum
	}
	return share
}

func draw(rng *rand.Rand, share []float64) int {
	u := rng.Float64()
	for i, s := range share {
		if u -= s; u < 0 {
			return i
		}
	}
	return len(share) - 1
}

func (c *crowd) run(t *testing.T) {
	keys, models, replicas := zipf(crowdKeys, 1), zipf(crowdModels, 1), zipf(c.replicas, 10)
	pace := c.rate * float64(c.replicas) * float64(crowdWorst) / 3 // a second
	c.budgets = make(map[string]*tab)
	var limits []accounting.Limit
	budget := func(name string, share float64, per accounting.WindowKind, seconds float64, m accounting.Match) {
		n := int64(share * pace * seconds)
		c.budgets[name] = &tab{limit: n}
		limits = append(limits, accounting.Limit{Name: name, Resource: accounting.USD, Amount: n, Window: per, Match: m})
	}
	const day, month = 1.2 * 86400, 1.2 * 30 * 86400
	budget("company", 1, accounting.Month, month, accounting.Match{})
	teams := make([]float64, crowdTeams)
	for k, share := range keys {
		teams[k%crowdTeams] += share
		seconds := day
		if k == 30 || k == 60 {
			seconds = c.warmUp.Seconds() + c.length.Seconds()/2
		}
		budget(fmt.Sprint("key", k), share, accounting.Day, seconds, accounting.Match{Key: []string{fmt.Sprint("key", k)}})
	}
	for i, share := range teams {
		budget(fmt.Sprint("team", i), share, accounting.Month, month, accounting.Match{Team: []string{fmt.Sprint("team", i)}})
	}
	for i, share := range models {
		budget(fmt.Sprint("model", i), share, accounting.Month, month, accounting.Match{Model: []string{fmt.Sprint("model", i)}})
	}

	subjects := make([][]*accounting.Subject, crowdKeys)
	for k := range subjects {
		for m := range crowdModels {
			s := subject(fmt.Sprint("key", k), fmt.Sprint("team", k%crowdTeams))
			s.Model = fmt.Sprint("model", m)
			subjects[k] = append(subjects[k], s)
		}
	}

	s := share(t, c.replicas, limits...)
	begin := time.Now()
	var calling sync.WaitGroup
	for i := range c.replicas {
		for n := range crowdCallers {
			calling.Go(func() {
				caller{
					crowd: c, ledger: s.ledgers[i], table: s.tables[i], rng: rand.New(rand.NewPCG(uint64(i), uint64(n))),
					every: time.Duration(float64(time.Second) * crowdCallers / (c.rate * float64(c.replicas) * replicas[i])),
					keys:  keys, models: models, subjects: subjects, end: begin.Add(c.warmUp + c.length),
				}.run()
			})
		}
	}
	time.Sleep(c.warmUp)
	calls, admitted, refused := s.store.calls.Load(), c.admitted.Load(), c.refused.Load()
	time.Sleep(c.length)
	calls, admitted, refused = s.store.calls.Load()-calls, c.admitted.Load()-admitted, c.refused.Load()-refused
	calling.Wait()
	s.end()

	asks := float64(calls) / float64(admitted+refused)
	t.Logf("%.0f calls a second of each of %d replicas: %d admitted, %d refused, %.3f store calls for each", c.rate, c.replicas, admitted, refused, asks)
	if c.asks > 0 && asks > c.asks {
		t.Errorf("%.3f store calls for each call, want at most %.2f", asks, c.asks)
	}
	if c.refused.Load() == 0 {
		t.Error("no budget was used up")
	}
	c.check(t, s, begin)
}

// check compares the limits with the most that was held and spent at once, and the
// store with what was spent.
func (c *crowd) check(t *testing.T, s *sharing, now time.Time) {
	for _, b := range s.ledgers[0].Budgets(now) {
		own := c.budgets[b.Name]
		if most := own.most.Load(); most > own.limit {
			t.Errorf("%s: %d was held and spent of %d", b.Name, most, own.limit)
		}
		at := strings.LastIndexByte(b.Account, '|')
		st, err := s.store.Store.Sync(context.Background(), quota.Sync{
			Key: quota.Key{Account: b.Account[:at], Window: b.Account[at+1:]}, Replica: "reader", Seq: 1, Mode: quota.NoGrants,
		})
		if err != nil || st.Settled != own.used.Load() || st.Escrowed != 0 {
			t.Errorf("%s: the store has %d settled and %d escrowed, want %d and 0; %v", b.Name, st.Settled, st.Escrowed, own.used.Load(), err)
		}
	}
}

// caller is a part of the callers of one replica, as one goroutine.
type caller struct {
	crowd        *crowd
	ledger       *accounting.Ledger
	table        *accounting.Table
	rng          *rand.Rand
	every        time.Duration // on average
	keys, models []float64
	subjects     [][]*accounting.Subject // :: key, model → subject
	end          time.Time
}

// open is a call that was admitted.
type open struct {
	at      time.Time // of its end
	hold    *accounting.Hold
	worst   int64
	cost    int64
	budgets [4]*tab
}

type opens []open

func (o *opens) Len() int           { return len(*o) }
func (o *opens) Less(i, j int) bool { return (*o)[i].at.Before((*o)[j].at) }
func (o *opens) Swap(i, j int)      { (*o)[i], (*o)[j] = (*o)[j], (*o)[i] }
func (o *opens) Push(x any)         { *o = append(*o, x.(open)) }
func (o *opens) Pop() any {
	last := (*o)[len(*o)-1]
	*o = (*o)[:len(*o)-1]
	return last
}

func (c caller) run() {
	var calls opens
	var free []*accounting.Hold
	next := time.Now()
	wait := func() { next = next.Add(time.Duration(c.rng.ExpFloat64() * float64(c.every))) }
	wait()
	for next.Before(c.end) || len(calls) > 0 {
		if len(calls) > 0 && (calls[0].at.Before(next) || !next.Before(c.end)) {
			time.Sleep(time.Until(calls[0].at))
			call := heap.Pop(&calls).(open)
			for _, b := range call.budgets {
				b.add(call.cost - call.worst) // before others can take it
			}
			c.ledger.Settle(call.hold, money.NanoUSD(call.cost), 0, time.Now())
			free = append(free, call.hold)
			continue
		}
		time.Sleep(time.Until(next))
		wait()
		var hold *accounting.Hold
		if n := len(free); n > 0 {
			hold, free = free[n-1], free[:n-1]
		} else {
			hold = new(accounting.Hold)
		}
		if call, ok := c.call(hold); ok {
			heap.Push(&calls, call)
		} else {
			free = append(free, hold)
		}
	}
}

// call makes one call, which takes 0.5 to 8 seconds if it is admitted.
func (c caller) call(hold *accounting.Hold) (call open, ok bool) {
	s := c.subjects[draw(c.rng, c.keys)][draw(c.rng, c.models)]
	worst := 1 + crowdWorst/2 + c.rng.Int64N(crowdWorst/2)
	cost := int64(math.Pow(c.rng.Float64(), 1.25) * float64(worst))
	if admit(c.ledger, hold, c.table, s, accounting.Need{USD: money.NanoUSD(worst)}, time.Now()) != nil {
		c.crowd.refused.Add(1)
		return open{}, false
	}
	c.crowd.admitted.Add(1)
	call = open{
		at: time.Now().Add(time.Second/2 + time.Duration(c.rng.Int64N(int64(15*time.Second/2)))), hold: hold, worst: worst, cost: cost,
		budgets: [4]*tab{c.crowd.budgets["company"], c.crowd.budgets[s.Teams[0]], c.crowd.budgets[s.KeyID], c.crowd.budgets[s.Model]},
	}
	for _, b := range call.budgets {
		b.add(worst)
	}
	return call, true
}
