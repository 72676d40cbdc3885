package accounting_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"airgate/accounting"
	"airgate/accounting/money"
	"airgate/accounting/quota/memory"
	"airgate/accounting/record"
)

// held is a budget of 100 cents that holds what is expected, or not.
func held(name, team string, mode accounting.Mode, expected bool) accounting.Limit {
	l := budget(name, cents(100), team, mode, false)
	l.Expected = expected
	return l
}

// TestExpected: a budget holds what is expected if all of its accounts do, and says
// in the record how far the call can pass that.
func TestExpected(t *testing.T) {
	const enforce, shadow = accounting.Enforce, accounting.Shadow
	need := accounting.Need{USD: usd(40), Expected: usd(5)}
	for name, c := range map[string]struct {
		limits []accounting.Limit
		need   accounting.Need
		want   []string // held for each, in USD
		as     []bool   // … as what is expected
	}{
		"strict":                            {[]accounting.Limit{held("a", "", enforce, false)}, need, []string{"0.40"}, []bool{false}},
		"expected":                          {[]accounting.Limit{held("a", "", enforce, true)}, need, []string{"0.05"}, []bool{true}},
		"expected, in shadow mode":          {[]accounting.Limit{held("a", "", shadow, true)}, need, []string{"0.05"}, []bool{true}},
		"nothing is known":                  {[]accounting.Limit{held("a", "", enforce, true)}, accounting.Need{USD: usd(40)}, []string{"0.40"}, []bool{true}},
		"as much is expected":               {[]accounting.Limit{held("a", "", enforce, true)}, accounting.Need{USD: usd(40), Expected: usd(40)}, []string{"0.40"}, []bool{true}},
		"beside a strict one":               {[]accounting.Limit{held("a", "", enforce, true), held("b", "search", enforce, false)}, need, []string{"0.05", "0.40"}, []bool{true, false}},
		"with a strict one on its accounts": {[]accounting.Limit{held("a", "", enforce, true), held("b", "", enforce, false)}, need, []string{"0.40", "0.40"}, []bool{false, false}},
		"… that stands before it":           {[]accounting.Limit{held("a", "", enforce, false), held("b", "", enforce, true)}, need, []string{"0.40", "0.40"}, []bool{false, false}},
		"… in shadow mode":                  {[]accounting.Limit{held("a", "", enforce, true), held("b", "", shadow, false)}, need, []string{"0.40", "0.40"}, []bool{false, false}},
		"two on the same accounts":          {[]accounting.Limit{held("a", "", enforce, true), held("b", "", enforce, true)}, need, []string{"0.05", "0.05"}, []bool{true, true}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			table := apply(t, l, c.limits...)
			s := subject("k", "search")
			if got := l.Expected(table, s); got != slices.Contains(c.as, true) {
				t.Errorf("Expected = %v, want %v", got, !got)
			}
			var h accounting.Hold
			mustAdmit(t, l, &h, table, s, c.need, noon)
			limits := h.AppendLimits(nil)
			for i, b := range l.Budgets(noon) {
				if dollars(b.Reserved) != c.want[i] || b.Expected != c.as[i] {
					t.Errorf("%s holds %s, expected %v; want %s, %v", b.Name, dollars(b.Reserved), b.Expected, c.want[i], c.as[i])
				}
				worst := int64(0)
				if c.want[i] == "0.05" {
					worst = cents(40)
				}
				if r := limits[i]; r.Needed != int64(b.Reserved) || r.Worst != worst {
					t.Errorf("the record of %s has needed %d and worst %d, want %d and %d", b.Name, r.Needed, r.Worst, b.Reserved, worst)
				}
			}
			if r := l.Extend(&h, s, usd(1), noon); r != nil {
				t.Fatalf("Extend = %+v", r)
			}
			for i, r := range h.AppendLimits(nil) {
				if before := limits[i]; r.Needed != before.Needed+cents(1) || before.Worst > 0 && r.Worst != before.Worst+cents(1) {
					t.Errorf("the record of %s has needed %d and worst %d after 1 cent more, had %d and %d", r.Name, r.Needed, r.Worst, before.Needed, before.Worst)
				}
			}
			l.Release(&h, noon)
			for _, b := range l.Budgets(noon) {
				if b.Reserved != 0 {
					t.Errorf("%s holds %s after Release", b.Name, dollars(b.Reserved))
				}
			}
		})
	}
	l := newLedger(t)
	if l.Expected(apply(t, l, held("a", "other", enforce, true)), subject("k", "search")) {
		t.Error("Expected with a budget that does not match = true")
	}
	if _, err := accounting.Compile([]accounting.Limit{{Name: "tpm", Resource: accounting.Tokens, Amount: 1, Per: time.Minute, Expected: true}}); err == nil {
		t.Error("Compile of a token limit that holds what is expected = nil, want an error")
	}
}

// TestExpectedIsAtMostTheWorst: more than the worst case is a mistake of the caller's.
func TestExpectedIsAtMostTheWorst(t *testing.T) {
	l := newLedger(t)
	table := apply(t, l, held("a", "", accounting.Enforce, true))
	for _, n := range []accounting.Need{{USD: 5, Expected: 6}, {USD: 5, Expected: -1}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Reserve of %+v does not panic", n)
				}
			}()
			l.Reserve(new(accounting.Hold), table, subject("k", "search"), n, noon)
		}()
	}
}

// TestExpectedOverdraft: calls that cost more than was expected pass the limit by no
// more than what they could cost beyond their holds; all of it is booked and counted,
// and what a call costs within its worst case is no alarm.
func TestExpectedOverdraft(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	l, err := accounting.New(accounting.Config{Store: memory.New(), Replica: "test.1", Registerer: registry})
	if err != nil {
		t.Fatal(err)
	}
	table := apply(t, l, held("usual", "", accounting.Enforce, true), held("wide", "search", accounting.Shadow, false))
	s := subject("k", "search")
	need := accounting.Need{USD: usd(40), Expected: usd(30)}
	flights := make([]accounting.Hold, 3)
	for i := range flights {
		mustAdmit(t, l, &flights[i], table, s, need, noon)
	}
	refusal := admit(l, new(accounting.Hold), table, s, need, noon)
	if code(refusal) != accounting.BudgetBusy || refusal.Limit.Name != "usual" || refusal.Needed != cents(30) || refusal.Worst != cents(40) {
		t.Fatalf("a fourth call of 30 cents with 10 left = %+v, want %v by usual", refusal, accounting.BudgetBusy)
	}
	for i, cost := range []int64{40, 40, 45} { // the last is beyond its bound
		want := money.NanoUSD(0)
		if cost > 40 {
			want = usd(cost - 40)
		}
		if over := l.Settle(&flights[i], usd(cost), 0, noon); over != want {
			t.Errorf("Settle(%d cents) of at most 40 = %v, want %v", cost, over, want)
		}
	}
	want := []figures{
		{"usd|month@UTC|2026-11", "1.00", "1.25", "0.00"},
		{"usd|team=search|month@UTC|2026-11", "1.00", "1.25", "0.00"},
	}
	if d := cmp.Diff(want, budgets(l, noon)); d != "" {
		t.Errorf("budgets (-want +got):\n%s", d)
	}
	if r := admit(l, new(accounting.Hold), table, s, need, noon); code(r) != accounting.BudgetExhausted {
		t.Errorf("the next call = %v, want %v", code(r), accounting.BudgetExhausted)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counted := map[string]float64{}
	for _, f := range families {
		if f.GetName() == "airgate_overdraft_usd_total" {
			for _, m := range f.GetMetric() {
				counted[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	if d := cmp.Diff(map[string]float64{"usual": 0.10 + 0.10 + 0.15, "wide": 0.05}, counted, approximately()); d != "" {
		t.Errorf("airgate_overdraft_usd_total (-want +got):\n%s", d)
	}
}

func approximately() cmp.Option {
	return cmp.Comparer(func(a, b float64) bool { return a-b < 1e-9 && b-a < 1e-9 })
}

// TestExpectedOpenCallIsChargedWhole: what a crash leaves open is charged its worst
// case, on an account too that held less.
func TestExpectedOpenCallIsChargedWhole(t *testing.T) {
	limit := held("a", "", accounting.Enforce, true)
	l := newLedger(t)
	var h accounting.Hold
	mustAdmit(t, l, &h, apply(t, l, limit), subject("k", "search"), accounting.Need{USD: usd(40), Expected: usd(5)}, noon)
	book := accounting.NewBalances()
	book.Apply(&record.Record{Type: record.Intent, RequestID: "1", Time: noon, Reserved: usd(40), Limits: h.AppendLimits(nil)})
	l = newLedger(t)
	apply(t, l, limit)
	if err := l.Restore(book, noon); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]figures{{"usd|month@UTC|2026-11", "1.00", "0.40", "0.00"}}, budgets(l, noon)); d != "" {
		t.Errorf("budgets (-want +got):\n%s", d)
	}
}

// TestExpectedClamp: the room is that of the budgets that lack, as each of them holds.
func TestExpectedClamp(t *testing.T) {
	clamps := func(l accounting.Limit, left int64) accounting.Limit {
		l.Amount, l.ClampFloor = cents(left), 16
		return l
	}
	const enforce = accounting.Enforce
	for name, c := range map[string]struct {
		limits []accounting.Limit
		room   int64
		ok     bool
	}{
		"what is expected fits":       {[]accounting.Limit{clamps(held("a", "", enforce, true), 10)}, 0, false},
		"… and not beside":            {[]accounting.Limit{clamps(held("a", "", enforce, true), 10), clamps(held("b", "search", enforce, false), 30)}, 30, true},
		"what is expected lacks":      {[]accounting.Limit{clamps(held("a", "", enforce, true), 4)}, 4, true},
		"a strict one of the account": {[]accounting.Limit{clamps(held("a", "", enforce, true), 10), clamps(held("b", "", enforce, false), 30)}, 10, true},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			table := apply(t, l, c.limits...)
			room, floor, ok := l.Clamp(new(accounting.Hold), table, subject("k", "search"), accounting.Need{USD: usd(40), Expected: usd(5)}, noon)
			if ok != c.ok || ok && (room != usd(c.room) || floor != 16) {
				t.Errorf("Clamp = %v, %v, %v; want %v, 16, %v", room, floor, ok, usd(c.room), c.ok)
			}
		})
	}
}

// TestExpectedAllocs: it allocates no more than a strict one.
func TestExpectedAllocs(t *testing.T) {
	l := newLedger(t)
	table := apply(t, l, held("a", "", accounting.Enforce, true), held("b", "search", accounting.Enforce, false))
	s := subject("k", "search")
	var h accounting.Hold
	if n := testing.AllocsPerRun(1000, func() {
		l.Expected(table, s)
		n := accounting.Need{USD: 40, Expected: 5}
		l.Clamp(&h, table, s, n, noon)
		mustAdmit(t, l, &h, table, s, n, noon)
		l.Settle(&h, 30, 0, noon)
	}); n != 0 {
		t.Errorf("a call allocates %v times, want 0", n)
	}
}
