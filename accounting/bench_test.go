package accounting_test

import (
	"fmt"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"airgate/accounting"
)

// fourScopes is a call on a rate, a permit and two budgets, of a team that has
// hundreds of neighbours.
func fourScopes(tb testing.TB) (*accounting.Ledger, *accounting.Table, *accounting.Subject) {
	tb.Helper()
	limits := []accounting.Limit{
		{Name: "key-rps", Resource: accounting.Requests, Each: []accounting.Dimension{accounting.Key}, Amount: 1 << 30, Per: time.Second},
		{Name: "parallel", Resource: accounting.Concurrent, Each: []accounting.Dimension{accounting.Key}, Amount: 16},
		{Name: "search", Resource: accounting.USD, Match: accounting.Match{Team: []string{"search"}}, Amount: 1 << 61, Window: accounting.Month},
		{Name: "each-key", Resource: accounting.USD, Each: []accounting.Dimension{accounting.Key}, Amount: 1 << 60, Window: accounting.Day, Overrides: []accounting.Override{
			{For: accounting.Match{Key: []string{"k7Qm2xT9aB4c"}}, Amount: 1 << 61, Until: noon.Add(time.Hour)},
			{For: accounting.Match{Team: []string{"search*"}}, Amount: 1},
		}},
	}
	for i := range 300 {
		limits = append(limits, accounting.Limit{
			Name: fmt.Sprint("team", i), Resource: accounting.USD, Match: accounting.Match{Team: []string{fmt.Sprint("team", i)}}, Amount: 1, Window: accounting.Month,
		})
	}
	l := newLedger(tb)
	return l, apply(tb, l, limits...), subject("k7Qm2xT9aB4c", "search-ml", "search")
}

// TestAllocs: a call that is admitted allocates nothing, shadow limits
// included, once its accounts are open.
func TestAllocs(t *testing.T) {
	l, table, s := fourScopes(t)
	var h accounting.Hold
	need := accounting.Need{USD: usd(5), Tokens: 1000}
	call := func() {
		mustAdmit(t, l, &h, table, s, need, noon)
		l.Room(&h, table, s, noon)
		l.Clamp(&h, table, s, need, noon)
		l.Settle(&h, usd(3), 700, noon)
	}
	if n := testing.AllocsPerRun(1000, call); n != 0 {
		t.Errorf("Enter, Reserve, Room, Clamp, Settle allocate %v times, want 0", n)
	}
}

// BenchmarkCall is Enter, Reserve and Settle on four scopes.
func BenchmarkCall(b *testing.B) {
	l, table, s := fourScopes(b)
	var h accounting.Hold
	need := accounting.Need{USD: usd(5), Tokens: 1000}
	measure(b, func() {
		if r := admit(l, &h, table, s, need, noon); r != nil {
			b.Fatalf("refused: %+v", *r)
		}
		l.Settle(&h, usd(3), 700, noon)
	})
}

// BenchmarkCallParallel is the same with all callers on the same accounts.
func BenchmarkCallParallel(b *testing.B) {
	l := newLedger(b)
	table := apply(b, l,
		accounting.Limit{Name: "rps", Resource: accounting.Requests, Amount: 1 << 30, Per: time.Second},
		accounting.Limit{Name: "parallel", Resource: accounting.Concurrent, Amount: 1 << 30},
		accounting.Limit{Name: "month", Resource: accounting.USD, Amount: 1 << 61, Window: accounting.Month},
		accounting.Limit{Name: "day", Resource: accounting.USD, Amount: 1 << 61, Window: accounting.Day},
	)
	s := subject("k", "t")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		var h accounting.Hold
		now := noon
		for pb.Next() {
			now = now.Add(time.Microsecond)
			if r := admit(l, &h, table, s, accounting.Need{USD: usd(5)}, now); r != nil {
				b.Errorf("refused: %+v", *r)
				return
			}
			l.Settle(&h, usd(3), 0, now)
		}
	})
}

// BenchmarkRefusal is a call that the last of its budgets refuses.
func BenchmarkRefusal(b *testing.B) {
	l, _, s := fourScopes(b)
	table := apply(b, l, accounting.Limit{Name: "a", Resource: accounting.USD, Amount: 10, Window: accounting.Month}, accounting.Limit{Name: "b", Resource: accounting.USD, Amount: 1, Window: accounting.Day})
	var h accounting.Hold
	b.ReportAllocs()
	for b.Loop() {
		if admit(l, &h, table, s, accounting.Need{USD: 2}, noon) == nil {
			b.Fatal("admitted")
		}
	}
}

// inHand is a ledger that shares its store, whose Run keeps in hand what calls of
// several keys take.
type inHand struct {
	*sharing
	subjects []*accounting.Subject
	need     accounting.Need
	now      time.Time
	n        int
	h        accounting.Hold
}

// newInHand has limits of many keys, so that a rate of each is not used up: a
// bucket counts in microseconds, and calls on one key would take more of them than
// pass.
func newInHand(tb testing.TB, limits ...accounting.Limit) *inHand {
	i := &inHand{sharing: share(tb, 1, limits...), need: accounting.Need{USD: usd(5), Tokens: 1000}, now: time.Now()}
	for k := range 32 {
		s := subject(fmt.Sprintf("k7Qm2xT9aB%02d", k), "search-ml", "search")
		s.Model = "claude-sonnet"
		i.subjects = append(i.subjects, s)
	}
	return i
}

// call is one call, of the next key.
func (i *inHand) call() {
	s := i.subjects[i.n%len(i.subjects)]
	i.n++
	if r := admit(i.ledgers[0], &i.h, i.tables[0], s, i.need, i.now); r != nil {
		i.t.Fatalf("refused: %+v", *r)
	}
	i.ledgers[0].Settle(&i.h, usd(3), 700, i.now)
}

// reserve is a call whose limits are budgets: there is nothing to Enter.
func (i *inHand) reserve() {
	s := i.subjects[i.n%len(i.subjects)]
	i.n++
	if r := i.ledgers[0].Reserve(&i.h, i.tables[0], s, i.need, i.now); r != nil {
		i.t.Fatalf("refused: %+v", *r)
	}
	i.ledgers[0].Settle(&i.h, usd(3), 700, i.now)
}

// fourBudgets are what a call of newInHand matches.
func fourBudgets() []accounting.Limit {
	return []accounting.Limit{
		{Name: "company", Resource: accounting.USD, Amount: 1 << 61, Window: accounting.Month},
		{Name: "search", Resource: accounting.USD, Match: accounting.Match{Team: []string{"search"}}, Amount: 1 << 61, Window: accounting.Month},
		{Name: "each-key", Resource: accounting.USD, Each: []accounting.Dimension{accounting.Key}, Amount: 1 << 61, Window: accounting.Day},
		{Name: "sonnet", Resource: accounting.USD, Match: accounting.Match{Model: []string{"claude-*"}}, Amount: 1 << 61, Window: accounting.Week},
	}
}

// ratePermitBudgets are a rate, a permit and two budgets.
func ratePermitBudgets() []accounting.Limit {
	return append(fourBudgets()[1:3],
		accounting.Limit{Name: "key-rps", Resource: accounting.Requests, Each: []accounting.Dimension{accounting.Key}, Amount: 1_000_000, Per: time.Second},
		accounting.Limit{Name: "parallel", Resource: accounting.Concurrent, Each: []accounting.Dimension{accounting.Key}, Amount: 16},
	)
}

// TestSharedAllocs: a call for which everything is in hand asks nobody and allocates
// nothing.
func TestSharedAllocs(t *testing.T) {
	for name, limits := range map[string][]accounting.Limit{
		"four budgets":                  fourBudgets(),
		"a rate, a permit, two budgets": ratePermitBudgets(),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := newInHand(t, limits...)
				for range 20 { // Run learns how much calls take
					for range 10_000 {
						i.call()
					}
					time.Sleep(100 * time.Millisecond)
				}
				synctest.Wait()
				before := i.store.calls.Load()
				if n := testing.AllocsPerRun(1000, i.call); n != 0 {
					t.Errorf("Enter, Reserve, Settle allocate %v times, want 0", n)
				}
				if n := i.store.calls.Load() - before; n != 0 {
					t.Errorf("the store was asked %d times, want 0", n)
				}
				i.end()
			})
		})
	}
}

func benchmarkInHand(b *testing.B, call func(*inHand), limits []accounting.Limit) {
	i := newInHand(b, limits...)
	defer i.end()
	for began := time.Now(); time.Since(began) < time.Second; {
		call(i) // Run learns how much calls take
	}
	i.store.calls.Store(0)
	measure(b, func() { call(i) })
	b.ReportMetric(float64(i.store.calls.Load())/float64(b.N), "asks/op")
}

// measure says what a call costs, in time of a processor too.
func measure(b *testing.B, call func()) {
	b.Helper()
	before := cpuTime(b)
	b.ReportAllocs()
	for b.Loop() {
		call()
	}
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
}

// cpuTime is what this process has used of the processors: on a machine that others
// use, what a call costs is not how long it takes.
func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkShared is Reserve and Settle on four budgets that replicas share, with what
// Run keeps in hand.
func BenchmarkShared(b *testing.B) { benchmarkInHand(b, (*inHand).reserve, fourBudgets()) }

// BenchmarkSharedLimits is Enter, Reserve and Settle on a rate, a permit and two budgets.
func BenchmarkSharedLimits(b *testing.B) { benchmarkInHand(b, (*inHand).call, ratePermitBudgets()) }
