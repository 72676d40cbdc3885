package accounting_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"airgate/accounting"
	"airgate/accounting/money"
	"airgate/accounting/quota"
	"airgate/accounting/quota/memory"
)

var (
	fleetSeed  = flag.Uint64("fleet.seed", 0, "simulate this fleet alone")
	fleetFirst = flag.Uint64("fleet.first", 1, "the first fleet")
	fleetCalls = flag.Int("fleet.calls", 60_000, "simulate so many admissions")
)

// TestFleet is several ledgers that share one store, in virtual time: real are
// accounting.Ledger and its Run, the store in memory and package time. Simulated
// is the network between them, which delays, reorders, repeats and loses calls
// and answers, and stalls altogether for a while; the callers; and whoever edits
// the limits. A seed is a fleet, and
//
//	go test ./accounting -run TestFleet -fleet.seed=N
//
// repeats its course, as far as its callers do not act at the same instant.
//
// What must hold:
//
//  1. What calls hold and have cost, over all ledgers, is within the greatest
//     limit that was in force since the window began, but for what calls have cost
//     beyond their holds (P3).
//  2. The store never has more settled and escrowed than that (P1).
//  3. When nobody calls any more, and again when all ledgers have closed, the
//     store has what calls have cost, and nothing is set aside (P4).
//
// How many calls were refused although there was room for them is counted: what
// others have idle is on its way then, or the network has lost it.
func TestFleet(t *testing.T) {
	if *fleetSeed != 0 {
		t.Log(newFleet(t, *fleetSeed).run())
		return
	}
	total := tallies{}
	for seed := *fleetFirst; total["admitted"]+total["refused"] < *fleetCalls && !t.Failed(); seed++ {
		for what, n := range newFleet(t, seed).run() {
			total[what] += n
		}
		total["fleets"]++
	}
	t.Log(total)
	if total["admitted"]+total["refused"] < *fleetCalls && !t.Failed() {
		t.Errorf("%d admissions were asked for, want %d", total["admitted"]+total["refused"], *fleetCalls)
	}
}

type tallies map[string]int

func (c tallies) String() string {
	var all []string
	for _, what := range slices.Sorted(maps.Keys(c)) {
		all = append(all, fmt.Sprintf("%s %d", what, c[what]))
	}
	return strings.Join(all, ", ")
}

const fleetCallers = 4 // of each ledger

type fleet struct {
	t     *testing.T
	seed  uint64
	rng   *rand.Rand
	store *memory.Store

	mu       sync.Mutex
	counts   tallies
	limit    int64 // in force
	greatest int64 // that was in force, and what calls have cost beyond their holds
	most     int64 // that was in force
	held     int64 // by calls in flight, all ledgers
	spent    int64 // by calls that have ended
	problems int

	lossy atomic.Bool
	until atomic.Int64 // the network stalls, in Unix nanoseconds
	calls atomic.Int64 // of the store
}

func newFleet(t *testing.T, seed uint64) *fleet {
	rng := rand.New(rand.NewPCG(seed, 0))
	return &fleet{t: t, seed: seed, rng: rng, counts: tallies{}}
}

func (f *fleet) problem(format string, args ...any) {
	if f.problems++; f.problems <= 3 {
		f.t.Errorf("%s; replay with -run TestFleet -fleet.seed=%d", fmt.Sprintf(format, args...), f.seed)
	}
}

func (f *fleet) run() tallies {
	synctest.Test(f.t, func(t *testing.T) {
		f.store = memory.New()
		f.limit = 1_000 << f.rng.IntN(8)
		f.greatest, f.most = f.limit, f.limit
		f.lossy.Store(f.rng.IntN(3) > 0)
		n := 1 + f.rng.IntN(5)
		ctx, stop := context.WithCancel(context.Background())
		var running, calling sync.WaitGroup
		var members []*member
		for i := range n {
			m := f.join(t, i)
			members = append(members, m)
			running.Go(func() {
				if err := m.ledger.Run(ctx); err != nil {
					t.Errorf("Run: %v", err)
				}
			})
			for c := range fleetCallers {
				calling.Go(func() { m.call(rand.New(rand.NewPCG(f.seed, uint64(1+i<<8+c)))) })
			}
		}
		edits := rand.New(rand.NewPCG(f.seed, 1<<32))
		calling.Go(func() { f.edit(edits, members) })
		calling.Wait()
		f.lossy.Store(false)
		f.until.Store(0)
		time.Sleep(3 * time.Second) // what is idle comes back
		f.settled("when nobody calls any more")
		stop()
		running.Wait()
		for _, m := range members {
			if err := m.ledger.Close(context.Background()); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
		f.settled("after all have closed")
		f.counts["store calls"] += int(f.calls.Load())
	})
	return f.counts
}

// settled compares the store with what calls have cost.
func (f *fleet) settled(when string) {
	st, err := f.store.Sync(context.Background(), quota.Sync{
		Key: quota.Key{Account: "usd|month@UTC", Window: time.Now().UTC().Format("2006-01")}, Replica: "reader", Seq: 1, Mode: quota.NoGrants,
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil || f.held != 0 || st.Settled != f.spent || st.Escrowed != 0 {
		f.problem("%s: the store has %d settled and %d escrowed, want %d and 0; held %d; %v", when, st.Settled, st.Escrowed, f.spent, f.held, err)
	}
}

// member is one ledger of the fleet.
type member struct {
	f      *fleet
	ledger *accounting.Ledger
	table  atomic.Pointer[accounting.Table]
}

func (f *fleet) join(t *testing.T, i int) *member {
	m := &member{f: f}
	var err error
	m.ledger, err = accounting.New(accounting.Config{
		Store: &faultyNet{Store: f.store, f: f, rng: rand.New(rand.NewPCG(f.seed, uint64(2<<32+i)))}, Replica: fmt.Sprintf("r%d.1", i), Shared: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	m.apply(f.limit)
	return m
}

func (m *member) apply(limit int64) {
	table, err := accounting.Compile([]accounting.Limit{{Name: "b", Resource: accounting.USD, Amount: limit, Window: accounting.Month}})
	if err == nil {
		err = m.ledger.Apply(table, time.Now())
	}
	if err != nil {
		m.f.t.Fatal(err)
	}
	m.table.Store(table)
}

// edit changes the limit now and then: every ledger hears of it at another time.
func (f *fleet) edit(rng *rand.Rand, members []*member) {
	for range rng.IntN(3) {
		time.Sleep(time.Duration(rng.Int64N(int64(20 * time.Second))))
		f.mu.Lock()
		f.limit = max(1, f.limit*int64(50+rng.IntN(150))/100)
		f.greatest += max(0, f.limit-f.most)
		f.most = max(f.most, f.limit)
		limit := f.limit
		f.counts["edits"]++
		f.mu.Unlock()
		for _, m := range members {
			time.Sleep(time.Duration(rng.Int64N(int64(time.Second))))
			m.apply(limit)
		}
	}
	if rng.IntN(3) == 0 {
		f.until.Store(time.Now().Add(time.Duration(rng.Int64N(int64(5 * time.Second)))).UnixNano())
		f.count("outages")
	}
}

func (f *fleet) count(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts[what]++
}

// call calls until it has been refused for good a few times.
func (m *member) call(rng *rand.Rand) {
	f := m.f
	var h accounting.Hold
	pace := time.Duration(1+rng.IntN(200)) * time.Millisecond
	for refused := 0; refused < 5; {
		time.Sleep(1 + time.Duration(rng.Int64N(int64(pace))))
		need := 1 + rng.Int64N(40)
		cost := rng.Int64N(need + 1)
		if rng.IntN(50) == 0 {
			cost = need + 1 + rng.Int64N(40)
		}
		r := admit(m.ledger, &h, m.table.Load(), subject("k", "t"), accounting.Need{USD: money.NanoUSD(need)}, time.Now())
		f.mu.Lock()
		switch {
		case r == nil:
			f.counts["admitted"]++
			f.held += need
			if f.held+f.spent > f.greatest {
				f.counts["overspends"]++
				f.problem("%d is held and %d spent of at most %d", f.held, f.spent, f.greatest)
			}
		case r.Code == accounting.QuotaUnavailable:
			f.counts["unavailable"]++
			refused++ // each caller ends
		default:
			f.counts["refused"]++
			refused++
			if f.held+f.spent+need <= f.limit {
				f.counts["refused with room"]++
			}
		}
		f.mu.Unlock()
		if r != nil {
			continue
		}
		time.Sleep(1 + time.Duration(rng.Int64N(int64(2*time.Second))))
		// The world counts first: who takes what comes back must find it there.
		f.mu.Lock()
		f.held -= need
		f.spent += cost
		f.greatest += max(0, cost-need)
		f.mu.Unlock()
		m.ledger.Settle(&h, money.NanoUSD(cost), 0, time.Now())
	}
}

// faultyNet is one ledger's way to the store.
type faultyNet struct {
	*memory.Store

	f   *fleet
	mu  sync.Mutex
	rng *rand.Rand
	old []quota.Sync // may arrive again
}

var errNet = errors.New("no answer")

func (n *faultyNet) Sync(ctx context.Context, s quota.Sync) (quota.State, error) {
	n.f.calls.Add(1)
	n.mu.Lock()
	there, back := time.Duration(n.rng.Int64N(int64(time.Millisecond))), time.Duration(n.rng.Int64N(int64(time.Millisecond)))
	dice := n.rng.IntN(100)
	n.old = append(n.old, s)
	again := n.old[n.rng.IntN(len(n.old))]
	n.mu.Unlock()
	lossy := n.f.lossy.Load()
	if n.f.until.Load() > time.Now().UnixNano() || lossy && dice < 10 {
		time.Sleep(50 * time.Millisecond)
		return quota.State{}, errNet
	}
	time.Sleep(there)
	if lossy && dice < 20 {
		_, _ = n.Store.Sync(ctx, again)
	}
	st, err := n.Store.Sync(ctx, s)
	if st.Settled+st.Escrowed > n.f.atMost() {
		n.f.mu.Lock()
		n.f.problem("the store has %d settled and %d escrowed of at most %d", st.Settled, st.Escrowed, n.f.greatest)
		n.f.mu.Unlock()
	}
	if lossy && dice >= 85 {
		time.Sleep(50 * time.Millisecond)
		return quota.State{}, errNet
	}
	time.Sleep(back)
	return st, err
}

func (f *fleet) atMost() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.greatest
}

// TestRecall: what one ledger has idle another gets while its call waits, before
// it would have come back by itself.
func TestRecall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledgers, tables := replicas(t, accounting.Limit{Name: "b", Resource: accounting.USD, Amount: 100, Window: accounting.Month}, 2)
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		for _, l := range ledgers {
			running.Go(func() {
				if err := l.Run(ctx); err != nil {
					t.Errorf("Run: %v", err)
				}
			})
		}
		s := subject("k", "t")
		var h [2]accounting.Hold
		mustAdmit(t, ledgers[0], &h[0], tables[0], s, accounting.Need{USD: 90}, time.Now())
		if r := admit(ledgers[1], &h[1], tables[1], s, accounting.Need{USD: 80}, time.Now()); code(r) != accounting.BudgetBusy {
			t.Errorf("80 of 100, 90 of which a call holds = %+v, want %v", r, accounting.BudgetBusy)
		}
		ledgers[0].Settle(&h[0], 5, 0, time.Now())
		time.Sleep(150 * time.Millisecond) // that nobody has it is no longer remembered
		mustAdmit(t, ledgers[1], &h[1], tables[1], s, accounting.Need{USD: 80}, time.Now())
		ledgers[1].Settle(&h[1], 80, 0, time.Now())
		stop()
		running.Wait()
		for _, l := range ledgers {
			if err := l.Close(context.Background()); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
	})
}
