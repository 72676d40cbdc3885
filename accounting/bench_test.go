package accounting_test

import (
	"fmt"
	"testing"
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
		l.Room(table, s, noon)
		l.Clamp(table, s, need, noon)
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
	b.ReportAllocs()
	for b.Loop() {
		if r := admit(l, &h, table, s, need, noon); r != nil {
			b.Fatalf("refused: %+v", *r)
		}
		l.Settle(&h, usd(3), 700, noon)
	}
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
