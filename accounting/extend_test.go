package accounting_test

import (
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"airgate/accounting"
	"airgate/accounting/money"
	"airgate/accounting/quota/memory"
)

func budget(name string, amount int64, team string, mode accounting.Mode, sliced bool) accounting.Limit {
	l := accounting.Limit{Name: name, Resource: accounting.USD, Amount: amount, Window: accounting.Month, Mode: mode, Sliced: sliced}
	if team != "" {
		l.Match.Team = []string{team}
	}
	return l
}

// TestSliced: every enforced budget of the call must allow it, and one must be.
func TestSliced(t *testing.T) {
	const enforce, shadow = accounting.Enforce, accounting.Shadow
	for name, c := range map[string]struct {
		limits []accounting.Limit
		want   bool
	}{
		"none":                    {nil, false},
		"one that does not match": {[]accounting.Limit{budget("a", 1, "other", enforce, true)}, false},
		"one":                     {[]accounting.Limit{budget("a", 1, "", enforce, true)}, true},
		"whole":                   {[]accounting.Limit{budget("a", 1, "", enforce, false)}, false},
		"two":                     {[]accounting.Limit{budget("a", 1, "", enforce, true), budget("b", 1, "search", enforce, true)}, true},
		"one of two":              {[]accounting.Limit{budget("a", 1, "", enforce, true), budget("b", 1, "search", enforce, false)}, false},
		"of one account":          {[]accounting.Limit{budget("a", 1, "", enforce, true), budget("b", 2, "", enforce, false)}, false},
		"beside a shadow one":     {[]accounting.Limit{budget("a", 1, "", enforce, true), budget("b", 1, "", shadow, false)}, true},
		"a shadow one alone":      {[]accounting.Limit{budget("a", 1, "", shadow, true)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			if got := l.Sliced(apply(t, l, c.limits...), subject("k", "search")); got != c.want {
				t.Errorf("Sliced = %v, want %v", got, c.want)
			}
		})
	}
	if _, err := accounting.Compile([]accounting.Limit{{Name: "tpm", Resource: accounting.Tokens, Amount: 1, Per: time.Minute, Sliced: true}}); err == nil {
		t.Error("Compile of a sliced token limit = nil, want an error")
	}
}

// TestExtendAllOrNone: what one budget refuses is held on none, and the refusal
// has the figures of the budget that refused.
func TestExtendAllOrNone(t *testing.T) {
	l := newLedger(t)
	table := apply(t, l, budget("wide", 1000, "", accounting.Enforce, true), budget("small", 100, "search", accounting.Enforce, true))
	s := subject("k", "search")
	var h, other accounting.Hold
	mustAdmit(t, l, &h, table, s, accounting.Need{USD: 40}, noon)
	mustAdmit(t, l, &other, table, s, accounting.Need{USD: 30}, noon)
	if r := l.Extend(&h, s, 20, noon); r != nil {
		t.Fatalf("Extend by 20 of 30 left = %+v, want nil", *r)
	}
	before := budgets(l, noon)
	r := l.Extend(&h, s, 20, noon)
	if code(r) != accounting.BudgetBusy || r.Limit.Name != "small" || r.Used != 0 || r.Reserved != 90 || r.Amount != 100 || r.Needed != 20 {
		t.Errorf("Extend by 20 of 10 left = %+v, want %v by small", r, accounting.BudgetBusy)
	}
	if d := cmp.Diff(before, budgets(l, noon)); d != "" {
		t.Errorf("budgets after a refusal (-before +after):\n%s", d)
	}
	l.Settle(&other, 30, 0, noon)
	if r := l.Extend(&h, s, 71, noon); code(r) != accounting.BudgetInsufficient {
		t.Errorf("Extend by 71 of 70 that are not spent = %+v, want %v", r, accounting.BudgetInsufficient)
	}
	if over := l.Settle(&h, 60, 0, noon); over != 0 {
		t.Errorf("Settle of the 60 that are held = overdraft %d", over)
	}
	for _, b := range l.Budgets(noon) {
		if b.Spent != 90 || b.Reserved != 0 {
			t.Errorf("%s has %d spent and %d reserved, want 90 and 0", b.Name, b.Spent, b.Reserved)
		}
	}
}

// TestExtendAfterAnEdit: a call that began under an earlier table is held within
// the amounts that are in force.
func TestExtendAfterAnEdit(t *testing.T) {
	for name, c := range map[string]struct {
		edited []accounting.Limit
		more   money.NanoUSD
		want   accounting.Code
	}{
		"lowered":           {[]accounting.Limit{budget("a", 50, "", accounting.Enforce, true)}, 20, accounting.BudgetBusy},
		"lowered, and fits": {[]accounting.Limit{budget("a", 50, "", accounting.Enforce, true)}, 10, accounting.OK},
		"raised":            {[]accounting.Limit{budget("a", 500, "", accounting.Enforce, true)}, 400, accounting.OK},
		"in shadow mode":    {[]accounting.Limit{budget("a", 50, "", accounting.Shadow, true)}, 400, accounting.OK},
		"gone":              {nil, 400, accounting.OK},
		"with a lower one":  {[]accounting.Limit{budget("a", 100, "", accounting.Enforce, true), budget("b", 50, "", accounting.Enforce, true)}, 20, accounting.BudgetBusy},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			table := apply(t, l, budget("a", 100, "", accounting.Enforce, true))
			s := subject("k", "search")
			var h accounting.Hold
			mustAdmit(t, l, &h, table, s, accounting.Need{USD: 40}, noon)
			apply(t, l, c.edited...)
			r := l.Extend(&h, s, c.more, noon)
			if code(r) != c.want {
				t.Errorf("Extend(%d) = %+v, want %v", c.more, r, c.want)
			}
			want := money.NanoUSD(40)
			if r == nil {
				want += c.more
			}
			if got := h.AppendLimits(nil)[0].Needed; got != int64(want) {
				t.Errorf("the hold has %d, want %d", got, want)
			}
			l.Settle(&h, 40, 0, noon)
			for _, b := range l.Budgets(noon) {
				if b.Spent != 40 || b.Reserved != 0 {
					t.Errorf("%s has %d spent and %d reserved, want 40 and 0", b.Name, b.Spent, b.Reserved)
				}
			}
		})
	}
}

// TestExtendInTheWindowOfAdmission: what a call holds more at midnight is money of
// the day it began in.
func TestExtendInTheWindowOfAdmission(t *testing.T) {
	l := newLedger(t)
	table := apply(t, l, accounting.Limit{Name: "day", Resource: accounting.USD, Amount: 100, Window: accounting.Day, Sliced: true})
	s := subject("k", "search")
	var h accounting.Hold
	mustAdmit(t, l, &h, table, s, accounting.Need{USD: 40}, noon)
	if r := l.Extend(&h, s, 61, noon.Add(24*time.Hour)); code(r) != accounting.BudgetBusy {
		t.Errorf("Extend by 61 of 60 left = %+v, want %v", r, accounting.BudgetBusy)
	}
	if r := l.Extend(&h, s, 60, noon.Add(24*time.Hour)); r != nil {
		t.Errorf("Extend by the 60 that are left = %+v, want nil", *r)
	}
	if b := l.Budgets(noon.Add(24 * time.Hour))[0]; b.Reserved != 0 {
		t.Errorf("the next day has %d reserved, want 0", b.Reserved)
	}
}

// TestExtendAsksTheStore: what is not in hand comes from the store, whose word
// bounds all that share it.
func TestExtendAsksTheStore(t *testing.T) {
	ls, tables := replicas(t, budget("b", 100, "", accounting.Enforce, true), 2)
	s := subject("k", "search")
	var h [2]accounting.Hold
	for i := range ls {
		mustAdmit(t, ls[i], &h[i], tables[i], s, accounting.Need{USD: 30}, noon)
	}
	if r := ls[0].Extend(&h[0], s, 40, noon); r != nil {
		t.Errorf("Extend by the 40 that the store has = %+v, want nil", *r)
	}
	if r := ls[1].Extend(&h[1], s, 1, noon); code(r) != accounting.BudgetBusy {
		t.Errorf("Extend by one more = %+v, want %v", r, accounting.BudgetBusy)
	}
	store := &switchable{Store: memory.New()}
	l, err := accounting.New(accounting.Config{Store: store, Replica: "r.1", Shared: true})
	if err != nil {
		t.Fatal(err)
	}
	table := apply(t, l, budget("b", 100, "", accounting.Enforce, true))
	var alone accounting.Hold
	mustAdmit(t, l, &alone, table, s, accounting.Need{USD: 30}, noon)
	store.down.Store(true)
	if r := l.Extend(&alone, s, 1, noon); code(r) != accounting.QuotaUnavailable {
		t.Errorf("Extend while the store is down = %+v, want %v", r, accounting.QuotaUnavailable)
	}
}

// TestHundredStreams is 100 calls at once that hold a little, then more and more
// until they are refused, and cost all of it: what they held together never
// passed the limit, and was all there was.
func TestHundredStreams(t *testing.T) {
	const limit = 100_000
	l := newLedger(t)
	table := apply(t, l, budget("b", limit, "", accounting.Enforce, true), budget("team", limit/2, "t", accounting.Enforce, true))
	var h [100]accounting.Hold
	subjects := [2]*accounting.Subject{subject("k", "t"), subject("l", "u")}
	for i := range h {
		mustAdmit(t, l, &h[i], table, subjects[i%2], accounting.Need{USD: 10}, noon)
	}
	var held [100]money.NanoUSD
	var refused, wg sync.WaitGroup
	refused.Add(len(h))
	for i := range h {
		wg.Go(func() {
			held[i] = 10
			for l.Extend(&h[i], subjects[i%2], 7, noon) == nil {
				held[i] += 7
			}
			refused.Done()
			refused.Wait()
			l.Settle(&h[i], held[i], 0, noon)
		})
	}
	wg.Wait()
	for _, b := range l.Budgets(noon) {
		if b.Spent > b.Limit || b.Spent <= b.Limit-7 && b.Name == "b" || b.Spent == 0 || b.Reserved != 0 {
			t.Errorf("%s has %d spent of %d and %d reserved", b.Name, b.Spent, b.Limit, b.Reserved)
		}
	}
}

func TestExtendAllocs(t *testing.T) {
	l := newLedger(t)
	table := apply(t, l, budget("b", 1<<40, "", accounting.Enforce, true), budget("c", 1<<40, "search", accounting.Enforce, true))
	s := subject("k", "search")
	var h accounting.Hold
	mustAdmit(t, l, &h, table, s, accounting.Need{USD: 10}, noon)
	if n := testing.AllocsPerRun(1000, func() { l.Extend(&h, s, 1, noon) }); n != 0 {
		t.Errorf("Extend allocates %v times, want 0", n)
	}
	if n := testing.AllocsPerRun(1000, func() { l.Sliced(table, s) }); n != 0 {
		t.Errorf("Sliced allocates %v times, want 0", n)
	}
}
