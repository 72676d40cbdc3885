package accounting_test

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
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

// reach is a way to a store that takes a moment and can be down. Its calls are
// counted.
type reach struct {
	*memory.Store

	down  atomic.Bool
	mute  atomic.Bool // calls arrive, and are not answered
	calls atomic.Int64

	bad      atomic.Bool // of rates, it says that it cannot
	silent   atomic.Bool // calls do not arrive, and fail after storeDeadline …
	breakers int         // … and then at once, all that are for one of so many servers; 0 = each waits
	broken   [16]atomic.Bool
}

// storeTrip is how long a store call takes, there and back.
const storeTrip = 500 * time.Microsecond

var errDown = fmt.Errorf("%w: no answer", quota.ErrUnavailable)

func (r *reach) ask(k quota.Key) error {
	r.calls.Add(1)
	var server int
	if r.breakers > 0 {
		server = int(crc32.ChecksumIEEE([]byte(k.Account))) % r.breakers
	}
	if r.broken[server].Load() {
		return errDown
	}
	time.Sleep(storeTrip)
	if r.silent.Load() {
		time.Sleep(storeDeadline - storeTrip)
		r.broken[server].Store(r.breakers > 0 && r.silent.Load())
		return errDown
	}
	if r.down.Load() {
		return errDown
	}
	return nil
}

// speak ends a silence.
func (r *reach) speak() {
	r.silent.Store(false)
	for i := range r.broken {
		r.broken[i].Store(false)
	}
}

func (r *reach) Sync(ctx context.Context, s quota.Sync) (quota.State, error) {
	if err := r.ask(s.Key); err != nil {
		return quota.State{}, err
	}
	return r.Store.Sync(ctx, s)
}

func (r *reach) Take(ctx context.Context, t quota.Take) (quota.Taken, error) {
	if err := r.ask(t.Key); err != nil {
		return quota.Taken{}, err
	}
	if r.bad.Load() {
		time.Sleep(2 * storeTrip)
		return quota.Taken{}, errors.New("the amounts of a rate pass 2^53")
	}
	taken, err := r.Store.Take(ctx, t)
	if r.mute.Load() {
		return quota.Taken{}, errDown
	}
	return taken, err
}

func (r *reach) Permit(ctx context.Context, p quota.Permits) (quota.Permitted, error) {
	if err := r.ask(p.Key); err != nil {
		return quota.Permitted{}, err
	}
	return r.Store.Permit(ctx, p)
}

// sharing is ledgers over one store, each of which runs until stop.
type sharing struct {
	t       testing.TB
	store   *reach
	ledgers []*accounting.Ledger
	tables  []*accounting.Table
	stops   []context.CancelFunc
	running sync.WaitGroup
	skew    atomic.Int64 // of all ledgers' wall clocks, in nanoseconds
}

// now is the ledgers' wall clock.
func (s *sharing) now() time.Time { return time.Now().Add(time.Duration(s.skew.Load())) }

func share(t testing.TB, n int, limits ...accounting.Limit) *sharing {
	t.Helper()
	s := &sharing{t: t, store: &reach{Store: memory.New()}}
	for range n {
		s.join(limits...)
	}
	return s
}

func (s *sharing) join(limits ...accounting.Limit) {
	s.t.Helper()
	l, err := accounting.New(accounting.Config{Store: s.store, Replica: fmt.Sprintf("r%d.1", len(s.ledgers)), Shared: true, Now: s.now})
	if err != nil {
		s.t.Fatal(err)
	}
	s.ledgers = append(s.ledgers, l)
	s.tables = append(s.tables, apply(s.t, l, limits...))
	ctx, stop := context.WithCancel(context.Background())
	s.stops = append(s.stops, stop)
	s.running.Go(func() {
		if err := l.Run(ctx); err != nil {
			s.t.Errorf("Run: %v", err)
		}
	})
}

// end stops and closes all.
func (s *sharing) end() {
	for _, stop := range s.stops {
		stop()
	}
	s.running.Wait()
	for _, l := range s.ledgers {
		if err := l.Close(context.Background()); err != nil {
			s.t.Errorf("Close: %v", err)
		}
	}
}

// TestSharedRate: ledgers that share a rate admit together what one alone would, but
// for what flows in during a second: that much may be in hand. They seldom ask.
func TestSharedRate(t *testing.T) {
	const length = 60 * time.Second
	for name, c := range map[string]struct {
		limit   accounting.Limit
		ledgers int
		pace    time.Duration // of each of four callers of each ledger
		burst   int64         // units
		rate    float64       // units a second
		asks    float64       // store calls per call, at most
	}{
		"many a second":       {accounting.Limit{Resource: accounting.Requests, Amount: 500, Per: time.Second}, 3, 10 * time.Millisecond, 500, 500, 0.15},
		"few a second":        {accounting.Limit{Resource: accounting.Requests, Amount: 10, Per: time.Second}, 3, 50 * time.Millisecond, 10, 10, 0.6},
		"few a minute":        {accounting.Limit{Resource: accounting.Requests, Amount: 30, Per: time.Minute}, 3, time.Second, 1, 0.5, 1},
		"far from the limit":  {accounting.Limit{Resource: accounting.Requests, Amount: 2000, Per: time.Second}, 2, 10 * time.Millisecond, 2000, 2000, 0.15},
		"tokens a minute":     {accounting.Limit{Resource: accounting.Tokens, Amount: 600_000, Per: time.Minute}, 3, 20 * time.Millisecond, 600_000, 10_000, 0.4},
		"one ledger, a burst": {accounting.Limit{Resource: accounting.Requests, Amount: 10, Per: time.Second, Burst: 100}, 1, 10 * time.Millisecond, 100, 10, 0.3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c.limit.Name = "rate"
				s := share(t, c.ledgers, c.limit)
				var mu sync.Mutex
				var admitted []taking
				var asked int
				var calling sync.WaitGroup
				end := time.Now().Add(length)
				for i := range c.ledgers {
					for n := range 4 {
						calling.Go(func() {
							rng := rand.New(rand.NewPCG(uint64(i), uint64(n)))
							var h accounting.Hold
							for {
								time.Sleep(c.pace/2 + time.Duration(rng.Int64N(int64(c.pace))))
								now := time.Now()
								if now.After(end) {
									return
								}
								need, used := money.Tokens(1), money.Tokens(1)
								if c.limit.Resource == accounting.Tokens {
									need = money.Tokens(100 + rng.IntN(2000))
									used = money.Tokens(rng.IntN(int(need) * 11 / 10)) // now and then more than was thought
								}
								r := admit(s.ledgers[i], &h, s.tables[i], subject("k", "t"), accounting.Need{Tokens: need}, now)
								mu.Lock()
								asked++
								mu.Unlock()
								if r != nil {
									if r.Code != accounting.RateLimited || r.RetryAfter <= 0 {
										t.Errorf("a refused call = %+v", r)
									}
									continue
								}
								at := time.Now()
								time.Sleep(time.Duration(rng.Int64N(int64(20 * time.Millisecond))))
								s.ledgers[i].Settle(&h, 0, used, time.Now())
								mu.Lock()
								admitted = append(admitted, taking{at, int64(used)})
								mu.Unlock()
							}
						})
					}
				}
				calling.Wait()
				s.end()
				got, worst := most(admitted, c.rate)
				// What is not yet settled may turn out more than it took: a call of each caller.
				slack := float64(c.burst) + c.rate
				if c.limit.Resource == accounting.Tokens {
					slack += float64(4*c.ledgers) * 200
				}
				if worst > slack {
					t.Errorf("in some interval %.1f units more than flowed in were admitted, want at most %.1f", worst, slack)
				}
				if want := min(c.rate*length.Seconds(), float64(asked)) * 0.9; c.limit.Resource == accounting.Requests && float64(got) < want {
					t.Errorf("%d were admitted, want %.0f", got, want)
				}
				if c.limit.Resource == accounting.Tokens && float64(got) < c.rate*length.Seconds()*0.9 {
					t.Errorf("%d tokens were used, want nearly %.0f", got, c.rate*length.Seconds())
				}
				if asks := float64(s.store.calls.Load()) / float64(asked); asks > c.asks {
					t.Errorf("%.2f store calls for each call, want at most %.2f", asks, c.asks)
				}
				t.Logf("%d calls, %d units admitted, at most %.1f beyond what flowed in, %d store calls", asked, got, worst, s.store.calls.Load())
			})
		})
	}
}

// TestSharedClockSetBack: what the store is asked, and what it is told, does not wait until
// a wall clock that was set back has come again to where it was.
func TestSharedClockSetBack(t *testing.T) {
	for name, limit := range map[string]accounting.Limit{
		"budget":      {Resource: accounting.USD, Amount: 10, Window: accounting.Total},
		"rate":        {Resource: accounting.Requests, Amount: 10, Per: time.Minute, Burst: 10},
		"concurrency": {Resource: accounting.Concurrent, Amount: 10},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				limit.Name = "l"
				s := share(t, 2, limit)
				defer s.end()
				calls := func(ledger int) (all []*accounting.Hold) {
					for {
						h := new(accounting.Hold)
						if admit(s.ledgers[ledger], h, s.tables[ledger], subject("k", "t"), accounting.Need{USD: 1}, s.now()) != nil {
							return all
						}
						all = append(all, h)
					}
				}
				settle := func(ledger int, all []*accounting.Hold) {
					for _, h := range all {
						s.ledgers[ledger].Settle(h, 0, 0, s.now())
					}
				}
				first := calls(0)
				if n := len(calls(1)); len(first) != 10 || n > 0 {
					t.Fatalf("%d and %d calls at once, want 10 and 0", len(first), n)
				}
				s.skew.Store(-int64(time.Hour))
				if limit.Resource == accounting.Concurrent {
					time.Sleep(time.Minute) // a permit lasts half as long unless its ledger tells of it
					if n := len(calls(1)); n > 0 {
						t.Fatalf("%d calls beside the 10 that go on", n)
					}
				}
				settle(0, first)
				if limit.Resource == accounting.Requests {
					time.Sleep(time.Minute)
				}
				time.Sleep(time.Second)
				second := calls(1)
				if len(second) != 10 {
					t.Errorf("%d calls once the others have ended, want 10", len(second))
				}
				settle(1, second)
			})
		})
	}
}

type taking struct {
	at    time.Time
	units int64
}

// most is the sum of all, and by how much, at most, what was taken in an interval
// passes what flows in during it.
func most(all []taking, rate float64) (sum int64, worst float64) {
	slices.SortFunc(all, func(a, b taking) int { return a.at.Compare(b.at) })
	level, last := 0.0, time.Time{}
	for _, t := range all {
		if !last.IsZero() {
			level = max(0, level-rate*t.at.Sub(last).Seconds())
		}
		last = t.at
		level += float64(t.units)
		sum += t.units
		worst = max(worst, level)
	}
	return sum, worst
}

// TestVendedUnheard: what the store vended with answers that got lost has flowed back
// when the next answer tells of it, and is not used on top.
func TestVendedUnheard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := share(t, 1, accounting.Limit{Name: "r", Resource: accounting.Requests, Amount: 60, Per: time.Minute, Burst: 4})
		defer s.end()
		enter := func() (admitted int) {
			for range 20 {
				var h accounting.Hold
				if s.ledgers[0].Enter(&h, s.tables[0], subject("k", "t"), time.Now()) == nil {
					admitted++
					s.ledgers[0].Settle(&h, 0, 0, time.Now())
				}
			}
			return admitted
		}
		s.store.mute.Store(true)
		for range 4 {
			if n := enter(); n > 0 {
				t.Errorf("%d calls were admitted without an answer of the store", n)
			}
			time.Sleep(time.Second)
		}
		time.Sleep(time.Minute)
		s.store.mute.Store(false)
		if n := enter(); n != 4 {
			t.Errorf("%d calls were admitted at once, want the burst of 4", n)
		}
	})
}

// TestSharedPermits: ledgers that share a concurrency limit never admit more than it
// together, and nearly as much if they are asked to; what one has that is gone comes
// back after a while.
func TestSharedPermits(t *testing.T) {
	const limit, ledgers = 12, 3
	synctest.Test(t, func(t *testing.T) {
		s := share(t, ledgers, accounting.Limit{Name: "c", Resource: accounting.Concurrent, Amount: limit})
		var inUse, most, admitted atomic.Int64
		call := func(i int, rng *rand.Rand) bool {
			var h accounting.Hold
			if r := admit(s.ledgers[i], &h, s.tables[i], subject("k", "t"), accounting.Need{}, time.Now()); r != nil {
				if r.Code != accounting.ConcurrencyLimited {
					t.Errorf("a refused call = %+v", r)
				}
				return false
			}
			admitted.Add(1)
			if n := inUse.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(time.Duration(rng.Int64N(int64(2 * time.Second))))
			inUse.Add(-1)
			s.ledgers[i].Settle(&h, 0, 0, time.Now())
			return true
		}
		var calling sync.WaitGroup
		began := time.Now()
		for i := range ledgers {
			for n := range 8 {
				calling.Go(func() {
					rng := rand.New(rand.NewPCG(uint64(i), uint64(n)))
					for time.Since(began) < time.Minute {
						time.Sleep(time.Duration(rng.Int64N(int64(100 * time.Millisecond))))
						call(i, rng)
					}
				})
			}
		}
		calling.Wait()
		if most.Load() != limit {
			t.Errorf("%d at once at most, want %d", most.Load(), limit)
		}
		if n := admitted.Load(); n < 60*limit*8/10 { // one lasts a second
			t.Errorf("%d calls in a minute, want nearly %d", n, 60*limit)
		}

		// Ledger 0 is gone, with all permits.
		var held [limit]accounting.Hold
		for i := range held {
			mustAdmit(t, s.ledgers[0], &held[i], s.tables[0], subject("k", "t"), accounting.Need{}, time.Now())
		}
		time.Sleep(10 * time.Second) // they are still held
		rng := rand.New(rand.NewPCG(1, 1))
		if call(1, rng) {
			t.Error("one more than there are was admitted")
		}
		s.stops[0]()
		time.Sleep(20 * time.Second)
		if call(1, rng) {
			t.Error("a permit came back while its ledger could still use it")
		}
		time.Sleep(11 * time.Second)
		if !call(1, rng) {
			t.Error("a permit of a ledger that is gone does not come back")
		}
		for i := range held {
			s.ledgers[0].Release(&held[i], time.Now())
		}
		s.end()
	})
}

// TestRecalledPermits: those that others have idle come while the call waits.
func TestRecalledPermits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := share(t, 2, accounting.Limit{Name: "c", Resource: accounting.Concurrent, Amount: 3})
		var h [3]accounting.Hold
		for i := range h {
			mustAdmit(t, s.ledgers[0], &h[i], s.tables[0], subject("k", "t"), accounting.Need{}, time.Now())
		}
		for i := range h {
			s.ledgers[0].Settle(&h[i], 0, 0, time.Now())
		}
		for i := range h {
			mustAdmit(t, s.ledgers[1], &h[i], s.tables[1], subject("k", "t"), accounting.Need{}, time.Now())
		}
		for i := range h {
			s.ledgers[1].Settle(&h[i], 0, 0, time.Now())
		}
		s.end()
	})
}

// TestSharedStoreDown: what each kind of limit does while the store does not answer, once
// nothing is in hand, and that it is as before when it answers again.
func TestSharedStoreDown(t *testing.T) {
	allow := accounting.OnStoreDown{Allow: true}
	for name, c := range map[string]struct {
		limit accounting.Limit
		need  accounting.Need
		down  int             // of ten calls, admitted while the store is down
		after int             // of ten, when it is back
		code  accounting.Code // of a refusal while it is down
	}{
		"a rate":                     {accounting.Limit{Resource: accounting.Requests, Amount: 5, Per: time.Second}, accounting.Need{}, 0, 5, accounting.QuotaUnavailable},
		"a rate that allows":         {accounting.Limit{Resource: accounting.Requests, Amount: 5, Per: time.Second, OnStoreDown: allow}, accounting.Need{}, 10, 5, 0},
		"permits":                    {accounting.Limit{Resource: accounting.Concurrent, Amount: 5}, accounting.Need{}, 0, 5, accounting.QuotaUnavailable},
		"permits that allow":         {accounting.Limit{Resource: accounting.Concurrent, Amount: 5, OnStoreDown: allow}, accounting.Need{}, 10, 5, 0},
		"requests a day":             {accounting.Limit{Resource: accounting.Requests, Amount: 5, Window: accounting.Day}, accounting.Need{}, 0, 5, accounting.QuotaUnavailable},
		"requests a day that allow":  {accounting.Limit{Resource: accounting.Requests, Amount: 15, Window: accounting.Day, OnStoreDown: allow}, accounting.Need{}, 10, 5, 0},
		"a budget":                   {accounting.Limit{Resource: accounting.USD, Amount: 50, Window: accounting.Day}, accounting.Need{USD: 10}, 0, 5, accounting.QuotaUnavailable},
		"a budget that allows a sum": {accounting.Limit{Resource: accounting.USD, Amount: 80, Window: accounting.Day, OnStoreDown: accounting.OnStoreDown{Within: 35}}, accounting.Need{USD: 10}, 3, 5, accounting.QuotaUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c.limit.Name = "l"
				s := share(t, 1, c.limit)
				ten := func(while string, want int, refusal accounting.Code) {
					t.Helper()
					var open []*accounting.Hold
					for range 10 {
						h := new(accounting.Hold)
						r := admit(s.ledgers[0], h, s.tables[0], subject("k", "t"), c.need, time.Now())
						switch {
						case r == nil:
							open = append(open, h)
						case refusal != 0 && r.Code != refusal:
							t.Errorf("%s: refused with %v, want %v", while, r.Code, refusal)
						}
					}
					if len(open) != want {
						t.Errorf("%s: %d of ten calls were admitted, want %d", while, len(open), want)
					}
					for _, h := range open {
						s.ledgers[0].Settle(h, c.need.USD, 1, time.Now())
					}
				}
				s.store.down.Store(true)
				ten("while it is down", c.down, c.code)
				s.store.down.Store(false)
				time.Sleep(3 * time.Second) // Run tells what was allowed
				ten("when it is back", c.after, 0)
				s.end()
			})
		})
	}
}

// TestCloseTells: what the end cannot tell the store is an error.
func TestCloseTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := share(t, 1, accounting.Limit{Name: "r", Resource: accounting.Requests, Amount: 5, Per: time.Second}, accounting.Limit{Name: "c", Resource: accounting.Concurrent, Amount: 5})
		var h accounting.Hold
		mustAdmit(t, s.ledgers[0], &h, s.tables[0], subject("k", "t"), accounting.Need{}, time.Now())
		s.ledgers[0].Settle(&h, 0, 0, time.Now())
		s.stops[0]()
		s.running.Wait()
		s.store.down.Store(true)
		if err := s.ledgers[0].Close(context.Background()); !errors.Is(err, quota.ErrUnavailable) {
			t.Errorf("Close, with a store that is down = %v, want %v", err, quota.ErrUnavailable)
		}
	})
}

// TestAutonomy: where there is room, calls go on for minutes while the store is down,
// and nobody else lacks what is in hand for that.
func TestAutonomy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 200_000
		s := share(t, 3, accounting.Limit{Name: "b", Resource: accounting.USD, Amount: limit, Window: accounting.Month})
		var h accounting.Hold
		spent := int64(0)
		call := func(i int, cost int64) *accounting.Refusal {
			r := admit(s.ledgers[i], &h, s.tables[i], subject("k", "t"), accounting.Need{USD: money.NanoUSD(cost)}, time.Now())
			if r == nil {
				s.ledgers[i].Settle(&h, money.NanoUSD(cost), 0, time.Now())
				spent += cost
			}
			return r
		}
		if _, ok := s.ledgers[0].Autonomy(); ok {
			t.Error("there is an autonomy before any call")
		}
		for range 200 { // 10 s, 20 a second of each
			for i := range s.ledgers {
				if r := call(i, 1); r != nil {
					t.Fatalf("refused: %+v", r)
				}
			}
			time.Sleep(50 * time.Millisecond)
		}
		for i, l := range s.ledgers {
			if d, ok := l.Autonomy(); !ok || d < 2*time.Minute {
				t.Errorf("ledger %d can go on for %v, want at least two minutes", i, d)
			}
		}
		s.store.down.Store(true)
		for range 60 * 20 { // a minute
			for i := range s.ledgers {
				if r := call(i, 1); r != nil {
					t.Fatalf("refused while the store is down: %+v", r)
				}
			}
			time.Sleep(50 * time.Millisecond)
		}
		if !s.ledgers[0].StoreDown() {
			t.Error("nobody has noticed")
		}
		s.store.down.Store(false)
		time.Sleep(time.Second)
		// One call needs nearly all that is left: the others give back what they have.
		if r := call(0, limit-spent-100); r != nil {
			t.Errorf("a call of nearly all that is left: %+v", r)
		}
		s.end()
		if settled, escrowed := has(t, s.store.Store, "usd|month@UTC", thisMonth()); settled != spent || escrowed != 0 {
			t.Errorf("the store has %d settled and %d escrowed, want %d and 0", settled, escrowed, spent)
		}
	})
}

// TestAutonomyOfLimits: without the store calls go on until the first of their limits
// that refuses then has nothing in hand: a rate, after some tenths of a second;
// permits, after some 20 seconds.
func TestAutonomyOfLimits(t *testing.T) {
	budget := accounting.Limit{Name: "b", Resource: accounting.USD, Amount: 200_000, Window: accounting.Month}
	rate := accounting.Limit{Name: "r", Resource: accounting.Requests, Amount: 1000, Per: time.Second}
	permits := accounting.Limit{Name: "c", Resource: accounting.Concurrent, Amount: 1000}
	for name, c := range map[string]struct {
		rate, permits   accounting.OnStoreDown
		shadow          bool
		atLeast, atMost time.Duration
	}{
		"both refuse":         {atMost: time.Second},
		"a shadow rate":       {shadow: true, atLeast: permitSafe - 6*time.Second, atMost: permitSafe},
		"the rate allows":     {rate: accounting.OnStoreDown{Allow: true}, atLeast: permitSafe - 6*time.Second, atMost: permitSafe},
		"both let calls pass": {rate: accounting.OnStoreDown{Allow: true}, permits: accounting.OnStoreDown{Allow: true}, atLeast: 2 * time.Minute, atMost: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, p := rate, permits
				r.OnStoreDown, p.OnStoreDown = c.rate, c.permits
				if c.shadow {
					r.Mode = accounting.Shadow
				}
				s := share(t, 1, budget, r, p)
				defer s.end()
				for range 200 { // 10 s, 20 a second
					var h accounting.Hold
					mustAdmit(t, s.ledgers[0], &h, s.tables[0], subject("k", "t"), accounting.Need{USD: 1}, time.Now())
					s.ledgers[0].Settle(&h, 1, 0, time.Now())
					time.Sleep(50 * time.Millisecond)
				}
				if d, ok := s.ledgers[0].Autonomy(); !ok || d < c.atLeast || d > c.atMost {
					t.Errorf("calls can go on for %v, %v; want %v to %v", d, ok, c.atLeast, c.atMost)
				}
			})
		})
	}
}

// permitSafe is how long a permit is given out for without a word of the store.
const permitSafe = 20 * time.Second

// TestSharedDebt: what a call used beyond its hold is missed by the others, and what it
// did not use is there for them.
func TestSharedDebt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := share(t, 2, accounting.Limit{Name: "r", Resource: accounting.Tokens, Amount: 60, Per: time.Minute})
		var h accounting.Hold
		try := func(i int, need, used money.Tokens) bool {
			r := admit(s.ledgers[i], &h, s.tables[i], subject("k", "t"), accounting.Need{Tokens: need}, time.Now())
			if r == nil {
				s.ledgers[i].Settle(&h, 0, used, time.Now())
			}
			time.Sleep(time.Second) // it is told
			return r == nil
		}
		if !try(0, 50, 10) || !try(1, 48, 100) {
			t.Error("what was not used is not there for the other")
		}
		if try(0, 1, 1) {
			t.Error("a debt is the debt of one ledger only")
		}
		time.Sleep(55 * time.Second) // some 110 less 60 have flowed back, and a few seconds' worth
		if !try(0, 1, 1) {
			t.Error("the debt does not flow back")
		}
		s.end()
	})
}

// TestPermitsOfWhoIsCutOff: a ledger that has not reached the store for a while gives
// out no permit any more: they may be others'.
func TestPermitsOfWhoIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := share(t, 1, accounting.Limit{Name: "c", Resource: accounting.Concurrent, Amount: 2})
		var h [2]accounting.Hold
		busy := func(n int) (admitted int) { // keeps n in use for a moment
			for i := range n {
				if admit(s.ledgers[0], &h[i], s.tables[0], subject("k", "t"), accounting.Need{}, time.Now()) == nil {
					admitted++
				}
			}
			for i := range n {
				s.ledgers[0].Release(&h[i], time.Now())
			}
			return admitted
		}
		if busy(2) != 2 {
			t.Fatal("there are two permits")
		}
		s.store.down.Store(true)
		for began := time.Now(); time.Since(began) < 25*time.Second; time.Sleep(time.Second) {
			n, passed := busy(2), time.Since(began)
			if passed < 15*time.Second && n != 2 || passed > 21*time.Second && n != 0 {
				t.Errorf("after %s without the store %d permits were given out", passed, n)
			}
		}
		s.store.down.Store(false)
		s.end()
	})
}

// TestIdlePermits: of a limit that nobody calls for any more nothing is in hand, nobody
// tells the store of it, and its account can go.
func TestIdlePermits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := share(t, 1, accounting.Limit{Name: "c", Resource: accounting.Concurrent, Each: []accounting.Dimension{accounting.Key}, Amount: 100})
		defer s.end()
		for k := range 20 {
			var h accounting.Hold
			mustAdmit(t, s.ledgers[0], &h, s.tables[0], subject(fmt.Sprint("k", k), "t"), accounting.Need{}, time.Now())
			s.ledgers[0].Settle(&h, 0, 0, time.Now())
		}
		time.Sleep(2 * time.Minute)
		before := s.store.calls.Load()
		time.Sleep(time.Minute)
		if n := s.store.calls.Load() - before; n != 0 {
			t.Errorf("the store was asked %d times in a minute without a call", n)
		}
	})
}

// TestSuspendedPermits: a machine that was suspended for longer than permits last gives
// none out before the store has said so, though the clock that nobody sets stood still.
func TestSuspendedPermits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := share(t, 2, accounting.Limit{Name: "c", Resource: accounting.Concurrent, Amount: 2})
		defer s.end()
		enter := func(i int, h *accounting.Hold) bool {
			return s.ledgers[i].Enter(h, s.tables[i], subject("k", "t"), s.now()) == nil
		}
		var h [4]accounting.Hold
		if !enter(0, &h[0]) || !enter(0, &h[1]) {
			t.Fatal("there are two permits")
		}
		s.ledgers[0].Release(&h[0], s.now())
		s.ledgers[0].Release(&h[1], s.now())
		s.skew.Store(int64(time.Minute)) // meanwhile others may have them
		s.store.down.Store(true)
		if enter(0, &h[2]) {
			t.Error("a permit from before it was suspended was given out")
			s.ledgers[0].Release(&h[2], s.now())
		}
		s.store.down.Store(false)
		if !enter(0, &h[3]) {
			t.Error("the store answers, and there is no permit")
		}
		s.ledgers[0].Release(&h[3], s.now())
	})
}

// TestWithinIsDivided: what a budget allows while the store is down is for all replicas
// together.
func TestWithinIsDivided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &reach{Store: memory.New()}
		l, err := accounting.New(accounting.Config{Store: store, Replica: "r.1", Shared: true, Replicas: 2})
		if err != nil {
			t.Fatal(err)
		}
		table := apply(t, l, accounting.Limit{Name: "b", Resource: accounting.USD, Amount: 1000, Window: accounting.Day, OnStoreDown: accounting.OnStoreDown{Within: 50}})
		store.down.Store(true)
		admitted := 0
		for range 10 {
			var h accounting.Hold
			if admit(l, &h, table, subject("k", "t"), accounting.Need{USD: 10}, time.Now()) == nil {
				admitted++
				l.Settle(&h, 10, 0, time.Now())
			}
		}
		if admitted != 2 {
			t.Errorf("%d calls of 10 were admitted without the store, want 2: half of 50", admitted)
		}
	})
}

// TestWithinOutages: what a budget allows while the store is down is allowed once, not in
// each of several outages, as long as more is out than the limit.
func TestWithinOutages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := share(t, 2, accounting.Limit{Name: "b", Resource: accounting.USD, Amount: 100, Window: accounting.Day, OnStoreDown: accounting.OnStoreDown{Within: 20}})
		var all accounting.Hold
		mustAdmit(t, s.ledgers[0], &all, s.tables[0], subject("k", "t"), accounting.Need{USD: 100}, time.Now())
		outage := func() (admitted int) {
			s.store.down.Store(true)
			for range 10 {
				var h accounting.Hold
				if admit(s.ledgers[1], &h, s.tables[1], subject("k", "t"), accounting.Need{USD: 10}, time.Now()) == nil {
					admitted++
					s.ledgers[1].Settle(&h, 10, 0, time.Now())
				}
			}
			s.store.down.Store(false)
			time.Sleep(3 * time.Second) // Run tells what was allowed
			return admitted
		}
		if n := outage(); n != 2 {
			t.Errorf("%d calls of 10 were admitted without the store, want 2: 20", n)
		}
		if n := outage(); n != 0 {
			t.Errorf("%d calls of 10 were admitted without the store a second time, want none", n)
		}
		s.ledgers[0].Settle(&all, 0, 0, time.Now())
		time.Sleep(3 * time.Second)
		var h accounting.Hold
		mustAdmit(t, s.ledgers[1], &h, s.tables[1], subject("k", "t"), accounting.Need{USD: 10}, time.Now())
		s.ledgers[1].Settle(&h, 10, 0, time.Now())
		time.Sleep(3 * time.Second)
		if n := outage(); n != 2 {
			t.Errorf("%d calls of 10 were admitted without the store once there was room again, want 2", n)
		}
		s.end()
	})
}

// TestOverdraftIsNotAskedFor: what a ledger overdrew is the store's to book, and no part
// of what its next call needs: that is one question.
func TestOverdraftIsNotAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := share(t, 1, accounting.Limit{Name: "b", Resource: accounting.USD, Amount: 100, Window: accounting.Month})
		var h accounting.Hold
		mustAdmit(t, s.ledgers[0], &h, s.tables[0], subject("k", "t"), accounting.Need{USD: 40}, time.Now())
		s.ledgers[0].Settle(&h, 90, 0, time.Now())
		before := s.store.calls.Load()
		mustAdmit(t, s.ledgers[0], &h, s.tables[0], subject("k", "t"), accounting.Need{USD: 10}, time.Now())
		if n := s.store.calls.Load() - before; n != 1 {
			t.Errorf("%d store calls for what is left, want 1", n)
		}
		s.ledgers[0].Settle(&h, 10, 0, time.Now())
		s.end()
	})
}
