package accounting_test

import (
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"airgate/accounting"
	"airgate/accounting/money"
	"airgate/accounting/quota/memory"
)

// TestTryReserve: what a budget refuses leaves the request, the permit and
// nothing else, uncounted; a limit's refusal is one as ever.
func TestTryReserve(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	l, err := accounting.New(accounting.Config{Store: memory.New(), Replica: "test.1", Registerer: registry})
	if err != nil {
		t.Fatal(err)
	}
	table := apply(t, l,
		accounting.Limit{Name: "rps", Resource: accounting.Requests, Amount: 2, Per: time.Hour, Burst: 2},
		accounting.Limit{Name: "parallel", Resource: accounting.Concurrent, Amount: 1},
		accounting.Limit{Name: "tpm", Resource: accounting.Tokens, Amount: 1000, Per: time.Minute},
		accounting.Limit{Name: "wide", Resource: accounting.USD, Amount: cents(500), Window: accounting.Day},
		accounting.Limit{Name: "small", Resource: accounting.USD, Amount: cents(100), Window: accounting.Month, ClampFloor: 1},
	)
	s := subject("k", "t")
	var h accounting.Hold
	if r := l.Enter(&h, table, s, noon); r != nil {
		t.Fatal(*r)
	}
	before := budgets(l, noon)
	for range 3 {
		r := l.TryReserve(&h, table, s, accounting.Need{USD: usd(101), Tokens: 900}, noon)
		if code(r) != accounting.BudgetInsufficient || !h.Open() {
			t.Fatalf("TryReserve(101 of 100 cents) = %v, open %v; want %v and an open hold", code(r), h.Open(), accounting.BudgetInsufficient)
		}
		if d := cmp.Diff(before, budgets(l, noon)); d != "" {
			t.Fatalf("budgets (-before +after):\n%s", d)
		}
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "airgate_denials_total" {
			t.Errorf("metrics have %v, want no denial counted", f)
		}
	}
	if got := code(l.Enter(new(accounting.Hold), table, s, noon)); got != accounting.ConcurrencyLimited {
		t.Errorf("another call = %v, want %v: the permit is still held", got, accounting.ConcurrencyLimited)
	}
	if r := l.TryReserve(&h, table, s, accounting.Need{USD: usd(100), Tokens: 900}, noon); r != nil {
		t.Fatalf("TryReserve(100 cents) = %+v, want nil", *r)
	}
	l.Settle(&h, usd(1), 900, noon)
	if r := l.Enter(&h, table, s, noon); r != nil {
		t.Fatal(*r)
	}
	if got := code(l.TryReserve(&h, table, s, accounting.Need{USD: 1, Tokens: 900}, noon)); got != accounting.RateLimited || h.Open() {
		t.Errorf("TryReserve beyond the tokens = %v, open %v; want %v and an ended hold", got, h.Open(), accounting.RateLimited)
	}
}

// TestClamp says the tightest room and the highest floor of those that lack, if
// all of them clamp.
func TestClamp(t *testing.T) {
	budget := func(name string, n int64, floor money.Tokens, mode accounting.Mode, each ...accounting.Dimension) accounting.Limit {
		return accounting.Limit{Name: name, Resource: accounting.USD, Amount: cents(n), Window: accounting.Day, ClampFloor: floor, Mode: mode, Each: each}
	}
	for name, c := range map[string]struct {
		limits []accounting.Limit
		room   int64
		floor  money.Tokens
		ok     bool
	}{
		"fits":                 {[]accounting.Limit{budget("a", 100, 10, accounting.Enforce)}, 0, 0, false},
		"lacks":                {[]accounting.Limit{budget("a", 40, 10, accounting.Enforce)}, 40, 10, true},
		"lacks, no clamp":      {[]accounting.Limit{budget("a", 40, 0, accounting.Enforce)}, 0, 0, false},
		"both lack":            {[]accounting.Limit{budget("a", 40, 10, accounting.Enforce), budget("b", 30, 20, accounting.Enforce, accounting.Key)}, 30, 20, true},
		"both lack, one alone": {[]accounting.Limit{budget("a", 40, 10, accounting.Enforce), budget("b", 30, 0, accounting.Enforce, accounting.Key)}, 0, 0, false},
		"the other has enough": {[]accounting.Limit{budget("a", 40, 10, accounting.Enforce), budget("b", 90, 0, accounting.Enforce, accounting.Key)}, 40, 10, true},
		"of one account":       {[]accounting.Limit{budget("a", 40, 10, accounting.Enforce), budget("b", 30, 20, accounting.Enforce)}, 30, 20, true},
		"a shadow":             {[]accounting.Limit{budget("a", 100, 10, accounting.Enforce), budget("b", 30, 20, accounting.Shadow)}, 0, 0, false},
		"none":                 {nil, 0, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			table := apply(t, l, c.limits...)
			room, floor, ok := l.Clamp(new(accounting.Hold), table, subject("k", "t"), accounting.Need{USD: usd(50)}, noon)
			if ok != c.ok || ok && (room != usd(c.room) || floor != c.floor) {
				t.Errorf("Clamp(50 cents) = %v, %v, %v; want %v, %v, %v", room, floor, ok, usd(c.room), c.floor, c.ok)
			}
		})
	}
}

// TestClampersShareTheRoom: callers that take what they were told is left never
// pass the limit, and give all back that they do not get.
func TestClampersShareTheRoom(t *testing.T) {
	l := newLedger(t)
	table := apply(t, l, accounting.Limit{Name: "b", Resource: accounting.USD, Amount: cents(100), Window: accounting.Day, ClampFloor: 1})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			var h accounting.Hold
			s := subject("k", "t")
			for range 200 {
				if r := l.Enter(&h, table, s, noon); r != nil {
					t.Errorf("Enter = %+v", *r)
					return
				}
				n := accounting.Need{USD: usd(70)}
				if room, _, ok := l.Clamp(new(accounting.Hold), table, s, n, noon); ok {
					n.USD = max(0, room)
				}
				if l.TryReserve(&h, table, s, n, noon) == nil {
					if b := l.Budgets(noon)[0]; b.Spent+b.Reserved > b.Limit {
						t.Errorf("spent %v and reserved %v of %v", b.Spent, b.Reserved, b.Limit)
					}
				}
				l.Release(&h, noon)
			}
		})
	}
	wg.Wait()
	want := []figures{{"usd|day@UTC|2026-11-03", "1.00", "0.00", "0.00"}}
	if d := cmp.Diff(want, budgets(l, noon)); d != "" {
		t.Errorf("budgets at the end (-want +got):\n%s", d)
	}
}
