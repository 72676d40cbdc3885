package accounting_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"airgate/accounting"
	"airgate/accounting/money"
	"airgate/accounting/quota"
	"airgate/accounting/quota/memory"
	"airgate/accounting/record"
)

func percent(n int) accounting.Threshold { return accounting.Threshold{Percent: n} }
func forecast(n int) accounting.Threshold {
	return accounting.Threshold{Percent: n, Forecast: true}
}

// raised gathers the warnings that a ledger raises.
type raised struct {
	mu      sync.Mutex
	records []record.Record
}

func (r *raised) raise(rec *record.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records = append(r.records, *rec)
	return nil
}

// take returns "threshold account" of those since the last time, in order.
func (r *raised) take() (all []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rec := range r.records {
		all = append(all, rec.Rule+" "+rec.Limits[0].Account)
	}
	r.records = nil
	slices.Sort(all)
	return all
}

func warn(t *testing.T, l *accounting.Ledger, now time.Time, r *raised) []string {
	t.Helper()
	if err := l.Warn(t.Context(), now, r.raise); err != nil {
		t.Fatal(err)
	}
	return r.take()
}

func spend(t *testing.T, l *accounting.Ledger, table *accounting.Table, s *accounting.Subject, n money.NanoUSD, now time.Time) {
	t.Helper()
	var h accounting.Hold
	mustAdmit(t, l, &h, table, s, accounting.Need{USD: n}, now)
	l.Settle(&h, n, 0, now)
}

// TestWarn follows the warnings of budgets on one machine: each is raised as it is
// reached, by account and window, and then never again, whatever becomes of the
// limit.
func TestWarn(t *testing.T) {
	l, err := accounting.New(accounting.Config{Store: memory.New(), Replica: "r.1"})
	if err != nil {
		t.Fatal(err)
	}
	month := accounting.Limit{
		Name: "month", Resource: accounting.USD, Amount: 100, Window: accounting.Month, WarnAt: []accounting.Threshold{percent(50), percent(80), percent(150), forecast(300)},
	}
	keys := accounting.Limit{
		Name: "keys", Resource: accounting.USD, Amount: 10, Window: accounting.Day, Each: []accounting.Dimension{accounting.Key}, MaxAccounts: 2, WarnAt: []accounting.Threshold{percent(100)},
		Overrides: []accounting.Override{{For: accounting.Match{Key: []string{"b-name"}}, Amount: 1000}},
	}
	shadow := accounting.Limit{Name: "shadow", Resource: accounting.USD, Amount: 1000, Window: accounting.Month, Mode: accounting.Shadow, WarnAt: []accounting.Threshold{percent(4)}}
	none := accounting.Limit{Name: "none", Resource: accounting.USD, Amount: 0, Window: accounting.Total, Mode: accounting.Shadow, WarnAt: []accounting.Threshold{percent(80)}}
	table := apply(t, l, month, keys, shadow, none)
	const m, d = "usd|month@UTC|2026-11", "|day@UTC|2026-11-03"
	a, b, c := subject("a", "t"), subject("b", "t"), subject("c", "t")
	var r raised
	expect := func(what string, now time.Time, want ...string) {
		t.Helper()
		for _, want := range [][]string{want, nil} { // and nothing more
			if diff := cmp.Diff(want, warn(t, l, now, &r)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", what, diff)
			}
		}
	}
	expect("nothing is spent", noon)
	var h accounting.Hold
	mustAdmit(t, l, &h, table, b, accounting.Need{USD: 90}, noon)
	expect("what is held is not spent", noon)
	l.Settle(&h, 49, 0, noon) // 2.5 of 30 days are over: a pace of 588
	expect("49", noon, "4% "+m, "80% usd|total|total", "forecast 300% "+m)
	spend(t, l, table, b, 1, noon)
	expect("50, all of one whose limit is greater", noon, "50% "+m)

	month.Amount = 200
	table = apply(t, l, month, keys, shadow, none)
	expect("of a greater limit it was reached once, and is not again", noon)
	spend(t, l, table, b, 50, noon)
	expect("nor as it is reached again", noon)
	month.Amount = 120
	table = apply(t, l, month, keys, shadow, none)
	expect("a lower limit is reached without a call", noon, "80% "+m)

	spend(t, l, table, a, 10, noon)
	mustAdmit(t, l, &h, table, c, accounting.Need{USD: 5}, noon)
	l.Settle(&h, 70, 0, noon)
	expect("each key, and all others; an overdraft", noon, "100% usd|each=key:*other"+d, "100% usd|each=key:a"+d, "150% "+m)

	next := noon.AddDate(0, 0, 1)
	table = apply(t, l, keys)
	mustAdmit(t, l, &h, table, a, accounting.Need{USD: 10}, next)
	late := time.Date(2026, 11, 5, 0, 0, 1, 0, time.UTC)
	spend(t, l, table, a, 10, late)
	l.Settle(&h, 10, 0, late)
	expect("a new window, and one that has just ended", late, "100% usd|each=key:a|day@UTC|2026-11-04", "100% usd|each=key:a|day@UTC|2026-11-05")
	expect("much later", late.AddDate(0, 2, 0))
}

// TestWarning is what is said of one: in the book, the log and the metrics, each once.
func TestWarning(t *testing.T) {
	var log bytes.Buffer
	metrics := prometheus.NewRegistry()
	l, err := accounting.New(accounting.Config{Store: memory.New(), Replica: "r.1", Registerer: metrics, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	table := apply(t, l, accounting.Limit{
		Name: "search", Resource: accounting.USD, Amount: int64(5000 * money.USD), Window: accounting.Month, Match: accounting.Match{Team: []string{"search"}},
		Owner: "finops@example.com", WarnAt: []accounting.Threshold{percent(80)},
	})
	spend(t, l, table, subject("k", "search"), 4100*money.USD, noon)
	var h accounting.Hold
	mustAdmit(t, l, &h, table, subject("k", "search"), accounting.Need{USD: money.USD}, noon)
	failing := errors.New("no room")
	if err := l.Warn(t.Context(), noon, func(*record.Record) error { return failing }); !errors.Is(err, failing) {
		t.Errorf("Warn, and the record cannot be written = %v, want that error", err)
	}
	if log.Len() > 0 {
		t.Errorf("a warning that was not recorded is logged: %s", log.String())
	}
	var r raised
	for range 3 {
		if err := l.Warn(t.Context(), noon, r.raise); err != nil {
			t.Fatal(err)
		}
	}
	want := []record.Record{{
		Type: record.Admin, Time: noon, Code: "budget_warning", Rule: "80%",
		Detail: `budget "search" has reached 80% of 5000 USD for team=search in 2026-11: spent 4100 USD, forecast 49200 USD, owner finops@example.com, account usd|team=search|month@UTC|2026-11`,
		Limits: []record.Limit{{
			Name: "search", Account: "usd|team=search|month@UTC|2026-11", Resource: "usd", Limit: int64(5000 * money.USD), Used: int64(4100 * money.USD), Reserved: int64(money.USD),
			Reset: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC), Mode: "enforce",
		}},
	}}
	if diff := cmp.Diff(want, r.records); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	if n := strings.Count(log.String(), "level=WARN"); n != 1 || !strings.Contains(log.String(), `budget=search threshold=80% spent_usd=4100 limit_usd=5000`) {
		t.Errorf("the log is %q, want one warning", log.String())
	}
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var counted []string
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "airgate_budget_warnings_total" {
				counted = append(counted, fmt.Sprint(m.GetLabel()[0].GetValue(), " ", m.GetLabel()[1].GetValue(), " ", m.GetCounter().GetValue()))
			}
		}
	}
	if diff := cmp.Diff([]string{"search 80% 1"}, counted); diff != "" {
		t.Errorf("airgate_budget_warnings_total (-want +got):\n%s", diff)
	}
}

// lossyNet is a way to a store that takes a moment and loses calls and answers.
type lossyNet struct {
	*memory.Store

	mu  sync.Mutex
	rng *rand.Rand
	end *atomic.Bool
}

func (n *lossyNet) Sync(ctx context.Context, s quota.Sync) (quota.State, error) {
	n.mu.Lock()
	wait, dice := time.Duration(n.rng.Int64N(int64(2*time.Millisecond))), n.rng.IntN(100)
	n.mu.Unlock()
	if n.end.Load() {
		dice = 50
	}
	time.Sleep(wait)
	if dice < 15 {
		return quota.State{}, errNet
	}
	st, err := n.Store.Sync(ctx, s)
	time.Sleep(wait)
	if dice >= 80 {
		return quota.State{}, errNet
	}
	return st, err
}

// TestFleetWarns: three ledgers that share a store raise each threshold once in each
// account and window, over a network that loses calls and answers, whatever they do at
// once, and although some of the records cannot be written at first.
func TestFleetWarns(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(2 * time.Hour) // before, there is no forecast
				limit := accounting.Limit{
					Name: "teams", Resource: accounting.USD, Amount: 1000, Window: accounting.Day, Each: []accounting.Dimension{accounting.Team},
					WarnAt: []accounting.Threshold{percent(50), percent(80), percent(95), forecast(100)},
				}
				all := limit
				all.Name, all.Each, all.Mode, all.Amount = "all", nil, accounting.Shadow, 2000
				store := memory.New()
				var calm atomic.Bool
				var r raised
				ctx, stop := context.WithCancel(context.Background())
				var running, calling sync.WaitGroup
				var ledgers []*accounting.Ledger
				for i := range uint64(3) {
					l, err := accounting.New(accounting.Config{
						Store:   &lossyNet{Store: store, rng: rand.New(rand.NewPCG(seed, i)), end: &calm},
						Replica: fmt.Sprintf("r%d.1", i), Shared: true,
					})
					if err != nil {
						t.Fatal(err)
					}
					ledgers = append(ledgers, l)
					table := apply(t, l, limit, all)
					running.Go(func() {
						if err := l.Run(ctx); err != nil {
							t.Error(err)
						}
					})
					running.Go(func() {
						var mu sync.Mutex
						rng := rand.New(rand.NewPCG(seed, 100+i))
						for ctx.Err() == nil {
							time.Sleep(500*time.Millisecond + time.Duration(rng.Int64N(int64(time.Second))))
							_ = l.Warn(ctx, time.Now(), func(rec *record.Record) error {
								mu.Lock()
								wait, bad := time.Duration(rng.Int64N(int64(300*time.Millisecond))), rng.IntN(4) == 0
								mu.Unlock()
								time.Sleep(wait) // the disk
								if bad && !calm.Load() {
									return errNet
								}
								return r.raise(rec)
							})
						}
					})
					for c := range uint64(3) {
						calling.Go(func() {
							rng := rand.New(rand.NewPCG(seed, 1000+10*i+c))
							var h accounting.Hold
							for range 400 {
								time.Sleep(time.Duration(rng.Int64N(int64(200 * time.Millisecond))))
								n := money.NanoUSD(1 + rng.Int64N(20))
								if admit(l, &h, table, subject("k", fmt.Sprint("t", rng.IntN(3))), accounting.Need{USD: n}, time.Now()) == nil {
									time.Sleep(time.Duration(rng.Int64N(int64(200 * time.Millisecond))))
									l.Settle(&h, n, 0, time.Now())
								}
							}
						})
					}
				}
				calling.Wait()
				calm.Store(true)
				time.Sleep(10 * time.Second)
				stop()
				running.Wait()
				var want []string
				for _, account := range []string{"usd|each=team:t0|day@UTC", "usd|each=team:t1|day@UTC", "usd|each=team:t2|day@UTC", "usd|day@UTC"} {
					for _, threshold := range []string{"50%", "80%", "95%", "forecast 100%"} {
						want = append(want, threshold+" "+account+"|2000-01-01")
					}
				}
				slices.Sort(want)
				if diff := cmp.Diff(want, r.take()); diff != "" {
					t.Errorf("warnings (-want +got):\n%s", diff)
				}
				for _, l := range ledgers {
					if err := l.Close(context.Background()); err != nil {
						t.Error(err)
					}
				}
				st, err := store.Sync(context.Background(), quota.Sync{
					Key: quota.Key{Account: "warn=all,80%25|usd|day@UTC", Window: "2000-01-01"}, Replica: "reader", Seq: 1, Mode: quota.NoGrants,
				})
				if err != nil || st.Settled != 1 || st.Escrowed != 0 || st.Limit != 1 {
					t.Errorf("the store has %+v, %v, want 1 settled of 1", st, err)
				}
			})
		})
	}
}

// TestWarnAfterACrash: a process is killed while it raises a warning. Nobody else
// raises it before the next one on its records knows whether it was. Then it is
// raised if it was not, without another call, and told by nobody if it was.
func TestWarnAfterACrash(t *testing.T) {
	for name, c := range map[string]struct{ recorded, told bool }{
		"before the record": {false, false}, "after it": {true, false}, "after the store was told": {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				limit := accounting.Limit{
					Name: "teams", Resource: accounting.USD, Amount: 100, Window: accounting.Month, Each: []accounting.Dimension{accounting.Team}, WarnAt: []accounting.Threshold{percent(50)},
				}
				store, book := memory.New(), accounting.NewBalances()
				first := begin(t, store, book, "r.1", limit)
				other := begin(t, store, accounting.NewBalances(), "o.1", limit)
				ctx, stop := context.WithCancel(t.Context())
				running := make(chan error)
				go func() { running <- first.ledger.Run(ctx) }()
				var h accounting.Hold
				first.admit("a", &h, 60)
				first.settle("a", &h, 60)
				time.Sleep(time.Second)
				spend(t, other.ledger, other.table, subject("k", "t"), 1, time.Now())

				killed, warned := make(chan struct{}), make(chan error)
				go func() {
					warned <- first.ledger.Warn(ctx, time.Now(), func(r *record.Record) error {
						if c.recorded {
							first.say(*r)
						}
						if !c.told {
							<-killed
						}
						return nil
					})
				}()
				time.Sleep(time.Second)
				stop()
				if err := <-running; err != nil {
					t.Error(err)
				}
				var r raised
				for range 3 {
					time.Sleep(time.Minute)
					if got := warn(t, other.ledger, time.Now(), &r); got != nil {
						t.Errorf("another raises %v while it is not known whether it was", got)
					}
				}

				// Its records are read again from a checkpoint.
				again := accounting.NewBalances()
				if err := again.RestoreCheckpoint(book.AppendCheckpoint(nil)); err != nil {
					t.Fatal(err)
				}
				second := begin(t, store, again, "r.2", limit)
				got := warn(t, second.ledger, time.Now(), &r)
				if want := []string{"50% usd|each=team:t|month@UTC|2000-01"}; !c.recorded && !slices.Equal(got, want) || c.recorded && got != nil {
					t.Errorf("the next one raises %v, want %v unless it was recorded", got, want)
				}
				if err := second.ledger.Close(t.Context()); err != nil {
					t.Error(err)
				}
				if got := warn(t, other.ledger, time.Now(), &r); got != nil {
					t.Errorf("another raises %v again", got)
				}
				if settled, escrowed := has(t, store, "warn=teams,50%25|usd|each=team:t|month@UTC", thisMonth()); settled != 1 || escrowed != 0 {
					t.Errorf("the store has %d settled and %d escrowed, want 1 and 0", settled, escrowed)
				}
				close(killed)
				<-warned
			})
		})
	}
}

// TestWarnAfterARestart: with a store that forgets, the records know which warnings
// were raised, a checkpoint of them too, until the window is forgotten.
func TestWarnAfterARestart(t *testing.T) {
	limit := accounting.Limit{Name: "a, b", Resource: accounting.USD, Amount: 100, Window: accounting.Month, WarnAt: []accounting.Threshold{percent(50), forecast(200)}}
	keys := accounting.Limit{Name: "keys", Resource: accounting.USD, Amount: 10, Window: accounting.Month, Each: []accounting.Dimension{accounting.Key}, WarnAt: []accounting.Threshold{percent(50)}}
	const other = "usd|each=key:*other|month@UTC|2026-11"
	book := balances(intent("a", noon, 60, "usd|month@UTC|2026-11", other), settle("a", noon, 60))
	var r raised
	restarted := func(b *accounting.Balances, at time.Time) []string {
		t.Helper()
		l, err := accounting.New(accounting.Config{Store: memory.New(), Replica: "r.2"})
		if err != nil {
			t.Fatal(err)
		}
		apply(t, l, limit, keys)
		if err := l.Restore(b, at); err != nil {
			t.Fatal(err)
		}
		if err := l.Warn(t.Context(), at, func(rec *record.Record) error {
			b.Apply(rec)
			return r.raise(rec)
		}); err != nil {
			t.Fatal(err)
		}
		return r.take()
	}
	want := []string{"50% " + other, "50% usd|month@UTC|2026-11", "forecast 200% usd|month@UTC|2026-11"}
	if diff := cmp.Diff(want, restarted(book, noon)); diff != "" {
		t.Errorf("warnings that the records do not have (-want +got):\n%s", diff)
	}
	again := accounting.NewBalances()
	if err := again.RestoreCheckpoint(book.AppendCheckpoint(nil)); err != nil {
		t.Fatal(err)
	}
	for what, b := range map[string]*accounting.Balances{"the records": book, "a checkpoint": again} {
		if got := restarted(b, noon); got != nil {
			t.Errorf("after a restart with %s: %v, want none again", what, got)
		}
		limit.Amount = 110
		if got := restarted(b, noon); got != nil {
			t.Errorf("with another limit, with %s: %v, want none again", what, got)
		}
		limit.Amount = 100
	}
	alone := balances(&record.Record{ // of what others spent
		Type: record.Admin, Time: noon, Code: "budget_warning", Rule: "50%", Limits: []record.Limit{{Name: "a, b", Account: "usd|month@UTC|2026-11"}},
	})
	if !bytes.Contains(alone.AppendCheckpoint(nil), []byte("warn=a%2C%20b,50%25|usd|month@UTC|2026-11")) {
		t.Fatal("a checkpoint does not have what was raised")
	}
	for hour := range 50 * 24 { // so much time has passed for sure
		alone.Apply(&record.Record{Type: record.Deny, Time: noon.Add(time.Duration(hour) * time.Hour)})
	}
	if bytes.Contains(alone.AppendCheckpoint(nil), []byte("warn=")) {
		t.Error("a checkpoint has what was raised in a window that is forgotten")
	}
}

// forgetful is a store that can lose all it knows, and then asks who is there.
type forgetful struct {
	mu     sync.Mutex
	store  *memory.Store
	owners map[string]quota.Owner
}

func newForgetful() *forgetful {
	return &forgetful{store: memory.New(), owners: make(map[string]quota.Owner)}
}

func (f *forgetful) now() *memory.Store {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.store
}

func (f *forgetful) Sync(ctx context.Context, s quota.Sync) (quota.State, error) {
	return f.now().Sync(ctx, s)
}

func (f *forgetful) Take(ctx context.Context, s quota.Take) (quota.Taken, error) {
	return f.now().Take(ctx, s)
}

func (f *forgetful) Permit(ctx context.Context, s quota.Permits) (quota.Permitted, error) {
	return f.now().Permit(ctx, s)
}

func (f *forgetful) Leave(ctx context.Context, replica string) error {
	return f.now().Leave(ctx, replica)
}

func (f *forgetful) Watch(ctx context.Context, replica string, o quota.Owner) error {
	f.mu.Lock()
	f.owners[replica] = o
	f.mu.Unlock()
	<-ctx.Done()
	f.mu.Lock()
	delete(f.owners, replica)
	f.mu.Unlock()
	return nil
}

func (f *forgetful) lose(t *testing.T) {
	t.Helper()
	f.mu.Lock()
	f.store = memory.New()
	owners := maps.Clone(f.owners)
	f.mu.Unlock()
	for _, o := range owners {
		if err := o.Reassert(t.Context(), func(quota.Key) bool { return true }); err != nil {
			t.Error(err)
		}
	}
}

// TestWarnedBeforeALoss: what was raised is told a store that has lost it, by who
// raised it, or who has asked since.
func TestWarnedBeforeALoss(t *testing.T) {
	for name, gone := range map[string]bool{"who raised it is there": false, "who raised it has left": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				limit := accounting.Limit{Name: "month", Resource: accounting.USD, Amount: 100, Window: accounting.Month, WarnAt: []accounting.Threshold{percent(50)}}
				store := newForgetful()
				s := &sharing{t: t}
				join := func() (*accounting.Ledger, *accounting.Table) {
					l, err := accounting.New(accounting.Config{Store: store, Replica: fmt.Sprintf("r%d.1", len(s.ledgers)), Shared: true})
					if err != nil {
						t.Fatal(err)
					}
					s.ledgers = append(s.ledgers, l)
					ctx, stop := context.WithCancel(context.Background())
					s.stops = append(s.stops, stop)
					s.running.Go(func() { _ = l.Run(ctx) })
					return l, apply(t, l, limit)
				}
				first, table := join()
				second, its := join()
				spend(t, first, table, subject("k", "t"), 60, time.Now())
				time.Sleep(time.Second)
				var r raised
				if got := warn(t, first, time.Now(), &r); len(got) != 1 {
					t.Fatalf("%d warnings, want 1", len(got))
				}
				time.Sleep(time.Second)
				spend(t, second, its, subject("k", "t"), 1, time.Now())
				if got := warn(t, second, time.Now(), &r); got != nil {
					t.Errorf("raised again: %v", got)
				}
				if gone {
					s.stops[0]()
					time.Sleep(time.Second)
					if err := first.Close(t.Context()); err != nil {
						t.Error(err)
					}
				}
				store.lose(t)
				third, table := join()
				spend(t, third, table, subject("k", "t"), 1, time.Now())
				time.Sleep(time.Second)
				if got := warn(t, third, time.Now(), &r); got != nil {
					t.Errorf("after a loss raised again: %v", got)
				}
				s.end()
			})
		})
	}
}

// TestWarnedIsNotAsked: the store is asked for a warning once, not each second.
func TestWarnedIsNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := share(t, 2, accounting.Limit{Name: "month", Resource: accounting.USD, Amount: 100, Window: accounting.Month, WarnAt: []accounting.Threshold{percent(50)}})
		var r raised
		for i, n := range []int{1, 0} {
			spend(t, s.ledgers[i], s.tables[i], subject("k", "t"), 50, time.Now())
			time.Sleep(time.Second)
			if got := warn(t, s.ledgers[i], time.Now(), &r); len(got) != n {
				t.Errorf("ledger %d raises %v, want %d", i, got, n)
			}
			asked := s.store.calls.Load()
			for range 10 {
				warn(t, s.ledgers[i], time.Now(), &r)
			}
			if n := s.store.calls.Load(); n != asked {
				t.Errorf("ledger %d has asked the store %d times more", i, n-asked)
			}
			time.Sleep(time.Second)
		}
		s.end()
	})
}

// TestWarnAllocs: what is looked at each second costs nothing to speak of.
func TestWarnAllocs(t *testing.T) {
	l, err := accounting.New(accounting.Config{Store: memory.New(), Replica: "r.1"})
	if err != nil {
		t.Fatal(err)
	}
	table := apply(t, l, accounting.Limit{
		Name: "keys", Resource: accounting.USD, Amount: 100, Window: accounting.Month, Each: []accounting.Dimension{accounting.Key}, WarnAt: []accounting.Threshold{percent(50), forecast(1000)},
	})
	for i := range 1000 {
		spend(t, l, table, subject(fmt.Sprint("k", i), "t"), 40, noon)
	}
	if n := testing.AllocsPerRun(10, func() {
		if err := l.Warn(t.Context(), noon, func(*record.Record) error { panic("nothing is due") }); err != nil {
			t.Fatal(err)
		}
	}); n > 20 {
		t.Errorf("a look at 1000 accounts allocates %v times, want at most 20", n)
	}
}
