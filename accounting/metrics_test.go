package accounting

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"airgate/accounting/money"
	"airgate/accounting/quota/memory"
)

// gather returns every sample as "name{label=value,…} value".
func gather(t *testing.T, g prometheus.Gatherer) []string {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var samples []string
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			samples = append(samples, fmt.Sprintf("%s{%s} %v", f.GetName(), strings.Join(labels, ","), m.GetCounter().GetValue()+m.GetGauge().GetValue()))
		}
	}
	slices.Sort(samples)
	return samples
}

func names(samples []string) []string {
	names := make([]string, len(samples))
	for i, s := range samples {
		names[i], _, _ = strings.Cut(s, "{")
	}
	return slices.Compact(names)
}

// fixed scrapes a budgetCollector at one time.
type fixed struct {
	*budgetCollector
	now time.Time
}

func (f fixed) Collect(ch chan<- prometheus.Metric) { f.collect(ch, f.now) }

func TestMetrics(t *testing.T) {
	now := mustTime(t, "2026-11-03T12:00:00Z")
	counters := prometheus.NewRegistry()
	l, err := New(Config{Store: memory.New(), Replica: "r.1", Registerer: counters})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Store: memory.New(), Replica: "r.1", Registerer: counters}); err == nil {
		t.Error("New with a Registerer that has these metrics = nil, want an error")
	}
	table, err := Compile([]Limit{
		{Name: "parallel", Resource: Concurrent, Amount: 1, Each: []Dimension{Key}},
		{Name: "trial", Resource: Tokens, Amount: 10, Per: time.Minute, Mode: Shadow},
		{Name: "search", Resource: USD, Amount: 2 * int64(money.USD), Window: Month, Match: Match{Team: []string{"search"}}},
		{Name: "each-key", Resource: USD, Amount: 4 * int64(money.USD), Window: Total, Each: []Dimension{Key}, Match: Match{Team: []string{"search"}}},
		{Name: "users", Resource: USD, Amount: 9 * int64(money.USD), Window: Day, Each: []Dimension{User}, Match: Match{Team: []string{"search"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Apply(table, now); err != nil {
		t.Fatal(err)
	}
	s := &Subject{Teams: []string{"ml", "search"}, KeyID: "k", User: "3f2a"}
	call := func(s *Subject, h *Hold, need money.NanoUSD) {
		if l.Enter(h, table, s, now) == nil {
			l.Reserve(h, table, s, Need{USD: need, Tokens: 10}, now)
		}
	}
	var a, b Hold
	call(s, &a, money.USD)
	call(s, &b, money.USD) // refused by parallel
	l.Settle(&a, money.USD+money.USD/2, 10, now)
	call(s, &a, money.USD)                        // refused by search, trial would too
	call(&Subject{Teams: []string{"ads"}}, &a, 1) // not covered
	call(s, &a, money.USD/4)                      // stays in flight; trial would refuse

	scrape := prometheus.NewRegistry()
	scrape.MustRegister(l.metrics.denials, l.metrics.overdraft, fixed{newBudgetCollector(l), now})
	want := []string{
		"airgate_budget_limit_usd{account=usd|team=search|each=key:k|total,budget=each-key} 4",
		"airgate_budget_limit_usd{account=usd|team=search|month@UTC,budget=search} 2",
		"airgate_budget_reserved_usd{account=usd|team=search|each=key:k|total,budget=each-key} 0.25",
		"airgate_budget_reserved_usd{account=usd|team=search|month@UTC,budget=search} 0.25",
		"airgate_budget_reset_timestamp_seconds{budget=search} 1.7960832e+09",
		"airgate_budget_reset_timestamp_seconds{budget=users} 1.7937504e+09",
		"airgate_budget_spent_usd{account=usd|team=search|each=key:k|total,budget=each-key} 1.5",
		"airgate_budget_spent_usd{account=usd|team=search|month@UTC,budget=search} 1.5",
		"airgate_denials_total{limit=parallel,mode=enforce,team=ml} 1",
		"airgate_denials_total{limit=search,mode=enforce,team=ml} 1",
		"airgate_denials_total{limit=trial,mode=shadow,team=ads} 1",
		"airgate_denials_total{limit=trial,mode=shadow,team=ml} 2",
		"airgate_denials_total{limit=unbudgeted,mode=enforce,team=ads} 1",
		"airgate_held_cost_usd_total{budget=each-key} 1.5",
		"airgate_held_cost_usd_total{budget=search} 1.5",
		"airgate_held_cost_usd_total{budget=users} 1.5",
		"airgate_held_usd_total{budget=each-key} 1",
		"airgate_held_usd_total{budget=search} 1",
		"airgate_held_usd_total{budget=users} 1",
		"airgate_overdraft_usd_total{budget=each-key} 0.5",
		"airgate_overdraft_usd_total{budget=search} 0.5",
		"airgate_overdraft_usd_total{budget=users} 0.5",
	}
	if d := cmp.Diff(want, gather(t, scrape)); d != "" {
		t.Errorf("metrics (-want +got):\n%s", d)
	}
	if d := cmp.Diff(names(want), names(gather(t, counters))); d != "" {
		t.Errorf("metrics that New registers (-want +got):\n%s", d)
	}
}

// TestShadowCountsOnce: a call that asks several times is one that a shadow limit
// would have refused.
func TestShadowCountsOnce(t *testing.T) {
	now := mustTime(t, "2026-11-03T12:00:00Z")
	for name, c := range map[string]struct {
		tries []money.NanoUSD // by TryReserve
		last  money.NanoUSD   // by Reserve; 0 = a try has succeeded
		want  []string
	}{
		"the second try fits": {[]money.NanoUSD{9, 8, 2}, 0, nil},
		"it is refused":       {[]money.NanoUSD{9, 8, 7}, 9, []string{"airgate_denials_total{limit=hard,mode=enforce,team=} 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := New(Config{Store: memory.New(), Replica: "r.1"})
			if err != nil {
				t.Fatal(err)
			}
			table, err := Compile([]Limit{
				{Name: "calls", Resource: Requests, Amount: 1, Per: time.Hour, Mode: Shadow},
				{Name: "tokens", Resource: Tokens, Amount: 1, Per: time.Hour, Mode: Shadow},
				{Name: "soft", Resource: USD, Amount: 1, Window: Day, Mode: Shadow},
				{Name: "hard", Resource: USD, Amount: 5, Window: Month},
			})
			if err == nil {
				err = l.Apply(table, now)
			}
			if err != nil {
				t.Fatal(err)
			}
			s := &Subject{KeyID: "k"}
			var h Hold
			if l.Enter(&h, table, s, now) != nil || l.Reserve(&h, table, s, Need{USD: 1, Tokens: 1}, now) != nil {
				t.Fatal("the first call is refused")
			}
			l.Settle(&h, 1, 1, now)
			if r := l.Enter(&h, table, s, now); r != nil {
				t.Fatal(*r)
			}
			for i, n := range c.tries {
				if r := l.TryReserve(&h, table, s, Need{USD: n, Tokens: 1}, now); (r == nil) != (c.last == 0 && i == len(c.tries)-1) {
					t.Errorf("try %d of %v = %v", i, n, r)
				}
			}
			if c.last > 0 && l.Reserve(&h, table, s, Need{USD: c.last, Tokens: 1}, now) == nil {
				t.Error("the last try is not refused")
			}
			want := append([]string{
				"airgate_denials_total{limit=calls,mode=shadow,team=} 1",
				"airgate_denials_total{limit=soft,mode=shadow,team=} 1",
				"airgate_denials_total{limit=tokens,mode=shadow,team=} 1",
			}, c.want...)
			slices.Sort(want)
			scrape := prometheus.NewRegistry()
			scrape.MustRegister(l.metrics.denials)
			if d := cmp.Diff(want, gather(t, scrape)); d != "" {
				t.Errorf("metrics (-want +got):\n%s", d)
			}
		})
	}
}

// oneKey is a ledger with a budget of each key, and room for the account of one.
func oneKey(t *testing.T, now time.Time) (*Ledger, *Table) {
	t.Helper()
	l, err := New(Config{Store: memory.New(), Replica: "r.1"})
	if err != nil {
		t.Fatal(err)
	}
	table, err := Compile([]Limit{{Name: "each-key", Resource: USD, Amount: 1000, Window: Day, Each: []Dimension{Key}, MaxAccounts: 1}})
	if err == nil {
		err = l.Apply(table, now)
	}
	if err != nil {
		t.Fatal(err)
	}
	return l, table
}

// TestHeldForCost: what settled calls held at most, extensions included, counts with
// what they cost, also once their account is gone; what was released does not.
func TestHeldForCost(t *testing.T) {
	now := mustTime(t, "2026-11-03T12:00:00Z")
	l, table := oneKey(t, now)
	call := func(key string, end func(h *Hold)) {
		t.Helper()
		s := &Subject{KeyID: key}
		var h Hold
		if r := l.Reserve(&h, table, s, Need{USD: 10}, now); r != nil {
			t.Fatal(*r)
		}
		if r := l.Extend(&h, s, 30, now); r != nil {
			t.Fatal(*r)
		}
		end(&h)
	}
	call("a", func(h *Hold) { l.Settle(h, 8, 0, now) })
	call("a", func(h *Hold) { l.Release(h, now) })
	if b := l.Budgets(now)[0]; b.Held != 40 || b.HeldCost != 8 {
		t.Errorf("Budgets: %d held for %d, want 40 for 8", b.Held, b.HeldCost)
	}
	now = now.Add(48 * time.Hour)
	call("b", func(h *Hold) { l.Settle(h, 2, 0, now) }) // a has been idle, and is dropped
	if all := l.Budgets(now); len(all) != 1 || all[0].Held != 40 || all[0].HeldCost != 2 {
		t.Errorf("Budgets: %+v, want one account that held 40 for 2", all)
	}
	if got, want := l.tallies()["each-key"], (tally{held: 80, cost: 10}); got != want {
		t.Errorf("in all %+v, want %+v", got, want)
	}
}

// TestTallyNeverFalls: a counter that is read while accounts are dropped never counts
// one of them not at all, or twice.
func TestTallyNeverFalls(t *testing.T) {
	now := mustTime(t, "2026-11-03T12:00:00Z")
	l, table := oneKey(t, now)
	const calls = 3000
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range calls {
			at := now.Add(time.Duration(i) * 48 * time.Hour) // the account before is dropped
			var h Hold
			if r := l.Reserve(&h, table, &Subject{KeyID: strconv.Itoa(i)}, Need{USD: 10}, at); r != nil {
				t.Errorf("call %d is refused: %+v", i, *r)
				return
			}
			l.Settle(&h, 4, 0, at)
		}
	}()
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			var last tally
			for going := true; going; {
				select {
				case <-done:
					going = false
				default:
				}
				got := l.tallies()["each-key"]
				if got.held < last.held || got.held > 10*calls || got.cost*10 != got.held*4 {
					t.Errorf("%+v after %+v", got, last)
					return
				}
				last = got
			}
			if want := (tally{held: 10 * calls, cost: 4 * calls}); last != want {
				t.Errorf("in all %+v, want %+v", last, want)
			}
		})
	}
	readers.Wait()
}

// TestMetricsTop: of many accounts those used most are exported.
func TestMetricsTop(t *testing.T) {
	now := mustTime(t, "2026-11-03T12:00:00Z")
	l, err := New(Config{Store: memory.New(), Replica: "r.1"})
	if err != nil {
		t.Fatal(err)
	}
	table, err := Compile([]Limit{
		{Name: "each-key", Resource: USD, Amount: 1000, Window: Day, Each: []Dimension{Key}},
		{Name: "zero", Resource: USD, Amount: 0, Window: Day, Mode: Shadow},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Apply(table, now); err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{"budget=zero": true}
	for i := range 150 {
		s := &Subject{KeyID: fmt.Sprint("k", i)}
		var h Hold
		if r := l.Reserve(&h, table, s, Need{USD: money.NanoUSD(i)}, now); r != nil {
			t.Fatal(*r)
		}
		l.Settle(&h, money.NanoUSD(i), 0, now)
		if i > 150-exported {
			want[fmt.Sprintf("usd|each=key:k%d|day@UTC", i)] = true
		}
	}
	scrape := prometheus.NewRegistry()
	scrape.MustRegister(fixed{newBudgetCollector(l), now})
	got := make(map[string]bool)
	for _, s := range gather(t, scrape) {
		if account, ok := strings.CutPrefix(s, "airgate_budget_spent_usd{account="); ok {
			if strings.Contains(account, "budget=zero") {
				account = "budget=zero,"
			}
			account, _, _ = strings.Cut(account, ",")
			got[account] = true
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("exported accounts (-want +got):\n%s", cmp.Diff(want, got))
	}
}
