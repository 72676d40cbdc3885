package accounting_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"airgate/accounting"
	"airgate/accounting/money"
	"airgate/accounting/quota"
	"airgate/accounting/quota/memory"
	"airgate/accounting/record"
)

// template is a limit whose match and accounts the model can tell without the
// code under test. Templates of the same id are the same accounts.
type template struct {
	id     string
	limit  accounting.Limit
	match  func(*accounting.Subject) bool
	values func(*accounting.Subject) string
}

func templates() []template {
	all := func(*accounting.Subject) bool { return true }
	search := func(s *accounting.Subject) bool { return slices.Contains(s.Teams, "search") }
	one := func(*accounting.Subject) string { return "" }
	key := func(s *accounting.Subject) string { return s.KeyID }
	team := func(s *accounting.Subject) string { return s.Teams[0] }
	user := func(s *accounting.Subject) string { return s.User }
	return []template{
		{"company", accounting.Limit{Name: "company", Resource: accounting.USD, Window: accounting.Month}, all, one},
		{"company", accounting.Limit{Name: "trial", Resource: accounting.USD, Window: accounting.Month, Mode: accounting.Shadow}, all, one},
		{"company", accounting.Limit{Name: "strict", Resource: accounting.USD, Window: accounting.Month}, all, one},
		{"each-key", accounting.Limit{Name: "each-key", Resource: accounting.USD, Window: accounting.Day, Each: []accounting.Dimension{accounting.Key}}, all, key},
		{"search", accounting.Limit{Name: "search", Resource: accounting.USD, Window: accounting.Week, Match: accounting.Match{Team: []string{"search"}}}, search, one},
		{"each-team", accounting.Limit{Name: "each-team", Resource: accounting.USD, Window: accounting.Total, Each: []accounting.Dimension{accounting.Team}}, all, team},
		{"users", accounting.Limit{Name: "users", Resource: accounting.USD, Window: accounting.Day, Each: []accounting.Dimension{accounting.User}, Match: accounting.Match{Team: []string{"sea*"}}}, search, user},
		{"tokens", accounting.Limit{Name: "tokens", Resource: accounting.Tokens, Window: accounting.Day}, all, one},
		{"requests", accounting.Limit{Name: "requests", Resource: accounting.Requests, Window: accounting.Day, Each: []accounting.Dimension{accounting.Key}}, all, key},
		{"parallel", accounting.Limit{Name: "parallel", Resource: accounting.Concurrent, Each: []accounting.Dimension{accounting.Key}}, all, key},
	}
}

// tally is what the model knows of one account-window.
type tally struct{ spent, held int64 }

// naive is the ledger written as plainly as possible: one map, no escrow.
type naive struct {
	limits   []template
	tally    map[string]*tally // :: template id, values, window → its tally
	unlisted map[string]bool   // :: key of tally → was restored while its limit was not configured
}

func (m *naive) key(t *template, s *accounting.Subject, now time.Time) string {
	window := ""
	if t.limit.Window != accounting.NoWindow {
		window = t.limit.Window.At(now, nil).ID
	}
	return strings.Join([]string{t.id, t.values(s), window}, "|")
}

func (m *naive) at(key string) *tally {
	if m.tally[key] == nil {
		m.tally[key] = new(tally)
	}
	return m.tally[key]
}

// needOf is what is held of n: what is expected where all limits of the accounts
// hold that.
func (m *naive) needOf(t *template, n accounting.Need) int64 {
	switch t.limit.Resource {
	case accounting.USD:
		strict := func(l template) bool { return l.id == t.id && !l.limit.Expected }
		if n.Expected > 0 && !slices.ContainsFunc(m.limits, strict) {
			return int64(n.Expected)
		}
		return int64(n.USD)
	case accounting.Tokens:
		return int64(n.Tokens)
	default:
		return 1
	}
}

// judge returns the limits that refuse the call, and those that would.
func (m *naive) judge(s *accounting.Subject, n accounting.Need, now time.Time) (refuse map[string]accounting.Code, would []string) {
	refuse = make(map[string]accounting.Code)
	for i := range m.limits {
		t := &m.limits[i]
		if !t.match(s) {
			continue
		}
		a, need := m.at(m.key(t, s, now)), m.needOf(t, n)
		left := t.limit.Amount - a.spent
		if need == 0 || need <= left-a.held {
			continue
		}
		if t.limit.Mode == accounting.Shadow {
			label := "limit:"
			if t.limit.Resource == accounting.USD {
				label = "budget:"
			}
			would = append(would, label+t.limit.Name)
			continue
		}
		code := accounting.RateLimited
		switch {
		case t.limit.Resource == accounting.Concurrent:
			code = accounting.ConcurrencyLimited
		case t.limit.Resource != accounting.USD:
		case left <= 0:
			code = accounting.BudgetExhausted
		case need > left:
			code = accounting.BudgetInsufficient
		default:
			code = accounting.BudgetBusy
		}
		refuse[t.limit.Name] = code
	}
	return refuse, would
}

// flight is a call that holds something.
type flight struct {
	id      string
	subject *accounting.Subject
	hold    accounting.Hold
	need    accounting.Need
	takes   map[string]*taken // :: account-window → what is held there
}

type taken struct {
	*template // one of the account's

	held int64
}

func (m *naive) take(s *accounting.Subject, n accounting.Need, now time.Time) map[string]*taken {
	takes := make(map[string]*taken)
	for i := range m.limits {
		if t := &m.limits[i]; t.match(s) {
			takes[m.key(t, s, now)] = &taken{t, m.needOf(t, n)}
		}
	}
	for key, t := range takes {
		delete(m.unlisted, key)
		m.at(key).held += t.held
	}
	return takes
}

// extend returns the limits that refuse a flight more, or takes it. What counts is
// what is configured now, for the account-windows in which it was admitted.
func (m *naive) extend(f *flight, more money.NanoUSD) (refuse map[string]bool) {
	refuse = make(map[string]bool)
	for key, t := range f.takes {
		for i := range m.limits {
			l, a := &m.limits[i], m.at(key)
			if t.limit.Resource == accounting.USD && l.id == t.id && l.limit.Mode == accounting.Enforce && int64(more) > l.limit.Amount-a.spent-a.held {
				refuse[l.limit.Name] = more > 0
			}
		}
	}
	maps.DeleteFunc(refuse, func(_ string, really bool) bool { return !really })
	if len(refuse) > 0 {
		return refuse
	}
	for key, t := range f.takes {
		if t.limit.Resource == accounting.USD {
			m.at(key).held += int64(more)
			t.held += int64(more)
		}
	}
	f.need.USD += more
	return nil
}

func (m *naive) end(f *flight, used accounting.Need, requests int64) {
	for key, t := range f.takes {
		a := m.at(key)
		a.held -= t.held
		switch t.limit.Resource {
		case accounting.USD:
			a.spent += int64(used.USD)
		case accounting.Tokens:
			a.spent += int64(used.Tokens)
		case accounting.Requests:
			a.spent += requests
		case accounting.Concurrent:
		}
	}
}

// check compares everything that Budgets shows.
func (m *naive) check(t *rapid.T, l *accounting.Ledger, now time.Time) {
	t.Helper()
	seen := make(map[string]bool)
	for _, b := range l.Budgets(now) {
		i := slices.IndexFunc(m.limits, func(t template) bool { return t.limit.Name == b.Name })
		values := ""
		for part := range strings.SplitSeq(b.Account, "|") {
			if each, ok := strings.CutPrefix(part, "each="); ok {
				_, values, _ = strings.Cut(each, ":")
			}
		}
		key := strings.Join([]string{m.limits[i].id, values, m.limits[i].limit.Window.At(now, nil).ID}, "|")
		seen[key] = true
		want := tally{}
		if a := m.tally[key]; a != nil {
			want = *a
		}
		if got := (tally{int64(b.Spent), int64(b.Reserved)}); got != want || int64(b.Limit) != m.limits[i].limit.Amount {
			t.Fatalf("Budgets: %s %s = %+v of %d, want %+v of %d", b.Name, b.Account, got, b.Limit, want, m.limits[i].limit.Amount)
		}
	}
	for key, a := range m.tally {
		for i := range m.limits {
			t2 := &m.limits[i]
			current := strings.HasPrefix(key, t2.id+"|") && t2.limit.Resource == accounting.USD && strings.HasSuffix(key, "|"+t2.limit.Window.At(now, nil).ID)
			if current && !seen[key] && !m.unlisted[key] && *a != (tally{}) {
				t.Fatalf("Budgets do not show %s, want %+v", key, *a)
			}
		}
	}
}

// TestLedgerEqualsNaive runs calls, extensions, reloads, restarts and the passing of time
// on the ledger and on the model: the same calls are refused for the same
// reasons (P6), a hold ends once (P5), a refusal leaves nothing behind (P7), and
// spent and reserved are equal after every step (P2, P4).
func TestLedgerEqualsNaive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := noon
		m := naive{tally: make(map[string]*tally), unlisted: make(map[string]bool)}
		l, err := accounting.New(accounting.Config{Store: memory.New(), Replica: "r.0"})
		if err != nil {
			t.Fatal(err)
		}
		book := accounting.NewBalances()
		var table *accounting.Table
		reload := func() {
			m.limits = nil
			var limits []accounting.Limit
			for _, tpl := range templates() {
				if rapid.IntRange(0, 3).Draw(t, "present") == 0 {
					continue
				}
				tpl.limit.Amount = rapid.Int64Range(0, 60).Draw(t, tpl.limit.Name)
				if rapid.IntRange(0, 3).Draw(t, "shadow") == 0 {
					tpl.limit.Mode = accounting.Shadow
				}
				tpl.limit.Expected = tpl.limit.Resource == accounting.USD && rapid.IntRange(0, 2).Draw(t, "expected") > 0
				m.limits = append(m.limits, tpl)
				limits = append(limits, tpl.limit)
			}
			if table, err = (accounting.Rules{Limits: limits, AllowUnbudgeted: true}).Compile(); err != nil {
				t.Fatal(err)
			}
			if err := l.Apply(table, now); err != nil {
				t.Fatal(err)
			}
		}
		reload()
		subjects := []*accounting.Subject{
			{KeyID: "a", Teams: []string{"search"}, User: "u"},
			{KeyID: "b", Teams: []string{"ml", "search"}, User: "v"},
			{KeyID: "c", Teams: []string{"ml", "search"}, User: "u"},
			{KeyID: "d", Teams: []string{"ads"}, User: "v"},
		}
		var flights []*flight
		amount := rapid.Int64Range(0, 30)
		var calls, restarts int
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			switch rapid.IntRange(0, 13).Draw(t, "step") {
			default: // a call
				s := rapid.SampledFrom(subjects).Draw(t, "subject")
				n := accounting.Need{USD: money.NanoUSD(amount.Draw(t, "usd")), Tokens: money.Tokens(amount.Draw(t, "tokens"))}
				n.Expected = money.NanoUSD(rapid.Int64Range(0, int64(n.USD)).Draw(t, "expected"))
				calls++
				f := &flight{id: strconv.Itoa(calls), subject: s, need: n}
				refuse, would := m.judge(s, n, now)
				r := admit(l, &f.hold, table, s, n, now)
				switch {
				case r == nil && len(refuse) > 0:
					t.Fatalf("call of %s for %+v admitted, want refused by one of %v", s.KeyID, n, refuse)
				case r != nil && refuse[r.Limit.Name] != r.Code:
					t.Fatalf("call of %s for %+v = %v by %s, want one of %v", s.KeyID, n, r.Code, r.Limit.Name, refuse)
				case r != nil:
					if f.hold.Open() {
						t.Fatalf("the hold is open after a refusal")
					}
				default:
					got := f.hold.AppendWouldDeny(nil)
					slices.Sort(got)
					slices.Sort(would)
					if !slices.Equal(got, would) {
						t.Fatalf("call of %s for %+v would be denied by %v, want %v", s.KeyID, n, got, would)
					}
					f.takes = m.take(s, n, now)
					book.Apply(&record.Record{Type: record.Intent, RequestID: f.id, Time: now, Reserved: n.USD, Limits: f.hold.AppendLimits(nil)})
					flights = append(flights, f)
				}
			case 11, 12: // a call in flight needs more
				if len(flights) == 0 {
					continue
				}
				f := rapid.SampledFrom(flights).Draw(t, "flight")
				more := money.NanoUSD(amount.Draw(t, "more"))
				refuse := m.extend(f, more)
				switch r := l.Extend(&f.hold, f.subject, more, now); {
				case (r != nil) != (len(refuse) > 0):
					t.Fatalf("Extend(%d) = %+v, want refused by one of %v", more, r, refuse)
				case r != nil && !refuse[r.Limit.Name]:
					t.Fatalf("Extend(%d) refused by %s, want one of %v", more, r.Limit.Name, refuse)
				case r == nil:
					book.Apply(&record.Record{Type: record.Extend, RequestID: f.id, Time: now, Reserved: f.need.USD})
				}
			case 5, 6, 7: // an end
				if len(flights) == 0 {
					continue
				}
				i := rapid.IntRange(0, len(flights)-1).Draw(t, "flight")
				f := flights[i]
				flights = slices.Delete(flights, i, i+1)
				if rapid.IntRange(0, 4).Draw(t, "release") == 0 {
					l.Release(&f.hold, now)
					m.end(f, accounting.Need{}, 0)
					book.Apply(&record.Record{Type: record.Settle, RequestID: f.id, Time: now})
					break
				}
				used := accounting.Need{USD: money.NanoUSD(amount.Draw(t, "cost")), Tokens: money.Tokens(amount.Draw(t, "used"))}
				if got, want := l.Settle(&f.hold, used.USD, used.Tokens, now), max(0, used.USD-f.need.USD); got != want {
					t.Fatalf("Settle(%d) of %d = overdraft %d, want %d", used.USD, f.need.USD, got, want)
				}
				l.Settle(&f.hold, 7, 7, now)
				l.Release(&f.hold, now)
				m.end(f, used, 1)
				book.Apply(&record.Record{Type: record.Settle, RequestID: f.id, Time: now, Cost: used.USD, HasCost: true})
			case 8:
				reload()
			case 9:
				now = now.Add(time.Duration(rapid.IntRange(1, 20*24).Draw(t, "hours")) * time.Hour)
			case 10: // kill -9: what was open is charged at its worst
				restarts++
				checkpoint := book.AppendCheckpoint(nil)
				book = accounting.NewBalances()
				if err := book.RestoreCheckpoint(checkpoint); err != nil {
					t.Fatal(err)
				}
				if l, err = accounting.New(accounting.Config{Store: memory.New(), Replica: fmt.Sprint("r.", restarts)}); err != nil {
					t.Fatal(err)
				}
				if table, err = (accounting.Rules{Limits: limitsOf(m.limits), AllowUnbudgeted: true}).Compile(); err != nil {
					t.Fatal(err)
				}
				if err := l.Apply(table, now); err != nil {
					t.Fatal(err)
				}
				if err := l.Restore(book, now); err != nil {
					t.Fatal(err)
				}
				for _, in := range book.Open() {
					book.Apply(&record.Record{Type: record.Settle, RequestID: in.RequestID, Time: now, Cost: in.Reserved, HasCost: true})
				}
				for _, f := range flights {
					m.end(f, f.need, 0)
				}
				flights = nil
				for key := range m.tally {
					id, _, _ := strings.Cut(key, "|")
					if id == "tokens" || id == "requests" || id == "parallel" {
						delete(m.tally, key) // only money is in the book
						continue
					}
					m.unlisted[key] = !slices.ContainsFunc(m.limits, func(t template) bool { return t.id == id })
				}
			}
			m.check(t, l, now)
		}
		for _, f := range flights {
			l.Release(&f.hold, now)
			m.end(f, accounting.Need{}, 0)
		}
		m.check(t, l, now)
		for _, b := range l.Budgets(now) {
			if b.Reserved != 0 {
				t.Fatalf("nothing is in flight, but %s has %d reserved", b.Account, b.Reserved)
			}
		}
	})
}

func limitsOf(ts []template) []accounting.Limit {
	limits := make([]accounting.Limit, len(ts))
	for i := range ts {
		limits[i] = ts[i].limit
	}
	return limits
}

// TestHundredCallers lets 100 callers at once spend one budget of 1 USD, with
// a second budget that refuses some of them: what was served never passes the
// limit and nothing stays reserved.
func TestHundredCallers(t *testing.T) {
	l := newLedger(t)
	table := apply(t, l,
		accounting.Limit{Name: "one", Resource: accounting.USD, Amount: cents(100), Window: accounting.Month},
		accounting.Limit{Name: "parallel", Resource: accounting.Concurrent, Amount: 60},
		accounting.Limit{Name: "each-key", Resource: accounting.USD, Each: []accounting.Dimension{accounting.Key}, Amount: cents(20), Window: accounting.Day},
		accounting.Limit{Name: "shadow", Resource: accounting.USD, Match: accounting.Match{Team: []string{"t"}}, Amount: cents(10), Window: accounting.Month, Mode: accounting.Shadow},
	)
	var served atomic.Int64
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 0))
			s := subject(fmt.Sprint("k", i%10), "t")
			var h accounting.Hold
			for refused := 0; refused < 20; {
				need := cents(1 + random.Int64N(5))
				if admit(l, &h, table, s, accounting.Need{USD: money.NanoUSD(need)}, noon) != nil {
					refused++
					continue
				}
				if random.IntN(4) == 0 {
					l.Release(&h, noon)
					continue
				}
				cost := random.Int64N(need + 1)
				l.Settle(&h, money.NanoUSD(cost), 0, noon)
				served.Add(cost)
			}
		})
	}
	wg.Wait()
	if got := served.Load(); got > cents(100) || got < cents(90) {
		t.Errorf("served %d nano-USD of a budget of 1 USD, want 0.90 to 1.00 USD", got)
	}
	for _, b := range l.Budgets(noon) {
		if b.Reserved != 0 || b.Mode == accounting.Enforce && b.Spent > b.Limit {
			t.Errorf("at the end %s has %d spent of %d, %d reserved", b.Account, b.Spent, b.Limit, b.Reserved)
		}
		if (b.Name == "one" || b.Name == "shadow") && int64(b.Spent) != served.Load() {
			t.Errorf("at the end %s has %d spent, want %d", b.Account, b.Spent, served.Load())
		}
	}
}

// TestCallersUntilRefused is 100 callers that call again and again, each until
// it is refused three times, at 0.05 USD a call, on a budget of 1 USD. Whatever a
// call holds beyond its cost, good traffic is served up to the last call that
// cannot fit, and nothing stays reserved.
func TestCallersUntilRefused(t *testing.T) {
	for _, hold := range []int64{5, 10, 20} {
		t.Run(fmt.Sprintf("holding %d cents", hold), func(t *testing.T) {
			l := newLedger(t)
			table := apply(t, l, accounting.Limit{Name: "one", Resource: accounting.USD, Amount: cents(100), Window: accounting.Month})
			s := subject("k", "t")
			type caller struct {
				at      time.Time // of its next event
				hold    accounting.Hold
				refused int
			}
			callers := make([]*caller, 100)
			random := rand.New(rand.NewPCG(7, 7))
			for i := range callers {
				callers[i] = &caller{at: noon.Add(time.Duration(random.IntN(100)) * time.Millisecond)}
			}
			codes := make(map[accounting.Code]int)
			for len(callers) > 0 {
				c := slices.MinFunc(callers, func(a, b *caller) int { return cmp.Compare(a.at.UnixNano(), b.at.UnixNano()) })
				if c.hold.Open() {
					l.Settle(&c.hold, usd(5), 0, c.at)
				}
				r := admit(l, &c.hold, table, s, accounting.Need{USD: usd(hold)}, c.at)
				if r == nil {
					c.at = c.at.Add(time.Duration(100+random.IntN(3000)) * time.Millisecond)
					continue
				}
				codes[r.Code]++
				if c.refused++; c.refused == 3 {
					callers = slices.DeleteFunc(callers, func(o *caller) bool { return o == c })
				}
				c.at = c.at.Add(max(r.RetryAfter, time.Millisecond))
			}
			b := l.Budgets(noon)[0]
			if b.Spent < usd(85) || b.Spent > usd(100) || b.Reserved != 0 {
				t.Errorf("served %s USD with %s reserved, want 0.85 to 1.00 with 0; refusals %v", dollars(b.Spent), dollars(b.Reserved), codes)
			}
			if codes[accounting.BudgetBusy] == 0 {
				t.Errorf("refusals %v, want some %v while others held money", codes, accounting.BudgetBusy)
			}
		})
	}
}

// lossy is a store behind a bad network: calls and answers get lost, and old
// calls arrive again.
type lossy struct {
	quota.Store
	mu     sync.Mutex
	random *rand.Rand
	sent   []quota.Sync
}

var errLost = errors.New("timeout")

func (s *lossy) Sync(ctx context.Context, c quota.Sync) (quota.State, error) {
	s.mu.Lock()
	s.sent = append(s.sent, c)
	dice, old := s.random.IntN(10), s.sent[s.random.IntN(len(s.sent))]
	s.mu.Unlock()
	if dice == 0 {
		return quota.State{}, errLost
	}
	st, err := s.Store.Sync(ctx, c)
	switch dice {
	case 1:
		return quota.State{}, errLost
	case 2:
		_, _ = s.Store.Sync(ctx, old)
	}
	return st, err
}

// TestReplicas lets four ledgers share one store over a bad network: together
// they never pass the limit (P1, P3), and what each reports is what it spent.
func TestReplicas(t *testing.T) {
	const limit = 2000
	state := memory.New()
	net := &lossy{Store: state, random: rand.New(rand.NewPCG(1, 2))}
	var served atomic.Int64
	var unavailable atomic.Int64
	var wg sync.WaitGroup
	for replica := range 4 {
		l, err := accounting.New(accounting.Config{Store: net, Replica: fmt.Sprint("r", replica, ".1"), Shared: true})
		if err != nil {
			t.Fatal(err)
		}
		table := apply(t, l, accounting.Limit{Name: "b", Resource: accounting.USD, Amount: limit, Window: accounting.Month})
		for caller := range 8 {
			wg.Go(func() {
				random := rand.New(rand.NewPCG(uint64(replica), uint64(caller)))
				var h accounting.Hold
				for range 200 {
					need := 1 + random.Int64N(20)
					if r := admit(l, &h, table, subject("k", "t"), accounting.Need{USD: money.NanoUSD(need)}, noon); r != nil {
						if r.Code == accounting.QuotaUnavailable {
							unavailable.Add(1)
						}
						continue
					}
					cost := random.Int64N(need + 1)
					l.Settle(&h, money.NanoUSD(cost), 0, noon)
					served.Add(cost)
				}
			})
		}
	}
	wg.Wait()
	got, err := state.Sync(t.Context(), quota.Sync{Key: quota.Key{Account: "usd|month@UTC", Window: "2026-11"}, Replica: "reader", Seq: 1, Mode: quota.NoGrants})
	if err != nil {
		t.Fatal(err)
	}
	sum := served.Load()
	if sum > limit || sum < limit/2 {
		t.Errorf("four replicas served %d of %d", sum, limit)
	}
	if got.Settled > sum || got.Settled+got.Escrowed < sum || got.Settled+got.Escrowed > limit {
		t.Errorf("the store has %+v, want settled ≤ %d ≤ settled + escrowed ≤ %d", got, sum, limit)
	}
	if unavailable.Load() == 0 {
		t.Error("no call met the bad network")
	}
}

// replicas opens ledgers that share one store, each with the same limit.
func replicas(t *testing.T, limit accounting.Limit, n int) (ledgers []*accounting.Ledger, tables []*accounting.Table) {
	store := memory.New()
	for i := range n {
		l, err := accounting.New(accounting.Config{Store: store, Replica: fmt.Sprintf("r%d.1", i), Shared: true})
		if err != nil {
			t.Fatal(err)
		}
		ledgers = append(ledgers, l)
		tables = append(tables, apply(t, l, limit))
	}
	return ledgers, tables
}

// TestOverdraftReachesOthers: what one ledger overdrew is not granted to
// others.
func TestOverdraftReachesOthers(t *testing.T) {
	l, tables := replicas(t, accounting.Limit{Name: "b", Resource: accounting.USD, Amount: 100, Window: accounting.Month}, 3)
	s := subject("k", "t")
	var h accounting.Hold
	mustAdmit(t, l[0], &h, tables[0], s, accounting.Need{USD: 40}, noon)
	l[0].Settle(&h, 90, 0, noon)
	if r := admit(l[0], &h, tables[0], s, accounting.Need{USD: 30}, noon); code(r) != accounting.BudgetInsufficient { // tells the store
		t.Errorf("30 of 10 left = %+v, want %v", r, accounting.BudgetInsufficient)
	}
	mustAdmit(t, l[1], &h, tables[1], s, accounting.Need{USD: 10}, noon)
	if r := admit(l[2], new(accounting.Hold), tables[2], s, accounting.Need{USD: 10}, noon); code(r) != accounting.BudgetBusy || r.Used != 90 || r.Reserved != 10 {
		t.Errorf("the last 10, which another holds = %+v, want %v with 90 used and 10 reserved", r, accounting.BudgetBusy)
	}
}

// TestShadowReachesOthers: what one ledger holds beyond a shadow budget, others
// see reserved.
func TestShadowReachesOthers(t *testing.T) {
	l, tables := replicas(t, accounting.Limit{Name: "b", Resource: accounting.USD, Amount: 100, Window: accounting.Month, Mode: accounting.Shadow}, 2)
	s := subject("k", "t")
	var h accounting.Hold
	mustAdmit(t, l[0], new(accounting.Hold), tables[0], s, accounting.Need{USD: 150}, noon)
	mustAdmit(t, l[0], new(accounting.Hold), tables[0], s, accounting.Need{USD: 10}, noon) // tells the store
	mustAdmit(t, l[1], &h, tables[1], s, accounting.Need{USD: 10}, noon)
	if got := h.AppendLimits(nil)[0].Reserved; got != 150 {
		t.Errorf("reserved, as another ledger sees it = %d, want 150", got)
	}
	if got, want := h.AppendWouldDeny(nil), []string{"budget:b"}; !slices.Equal(got, want) {
		t.Errorf("the call would be denied by %v, want %v", got, want)
	}
}

// TestStoreDown: without an answer a call is refused where a limit is
// enforced, unless what it needs is in hand, and leaves nothing behind.
func TestStoreDown(t *testing.T) {
	store := &switchable{Store: memory.New()}
	l, err := accounting.New(accounting.Config{Store: store, Replica: "r.1"})
	if err != nil {
		t.Fatal(err)
	}
	table := apply(t, l,
		accounting.Limit{Name: "first", Resource: accounting.USD, Amount: 100, Window: accounting.Month},
		accounting.Limit{Name: "ads", Resource: accounting.USD, Match: accounting.Match{Team: []string{"ads"}}, Amount: 100, Window: accounting.Month},
		accounting.Limit{Name: "trial", Resource: accounting.USD, Match: accounting.Match{Team: []string{"trial"}}, Amount: 100, Window: accounting.Month, Mode: accounting.Shadow},
	)
	var h accounting.Hold
	mustAdmit(t, l, &h, table, subject("k", "search"), accounting.Need{USD: 10}, noon)
	l.Settle(&h, 10, 0, noon)
	store.down.Store(true)
	asked := store.calls.Load()
	for range 3 {
		if r := admit(l, &h, table, subject("k", "ads"), accounting.Need{USD: 10}, noon); code(r) != accounting.QuotaUnavailable || r.Limit.Name != "ads" || r.RetryAfter == 0 {
			t.Errorf("an account that was never granted anything = %+v, want %v", r, accounting.QuotaUnavailable)
		}
	}
	if got := store.calls.Load() - asked; got != 3 {
		t.Errorf("three calls asked the store %d times, want once each", got)
	}
	mustAdmit(t, l, &h, table, subject("k", "search"), accounting.Need{USD: 80}, noon)
	l.Settle(&h, 80, 0, noon)
	mustAdmit(t, l, &h, table, subject("k", "trial"), accounting.Need{USD: 10}, noon)
	l.Settle(&h, 10, 0, noon)
	store.down.Store(false)
	mustAdmit(t, l, &h, table, subject("k", "trial"), accounting.Need{}, noon)
	l.Settle(&h, 0, 0, noon)
	spent := make(map[string]money.NanoUSD)
	for _, b := range l.Budgets(noon) {
		spent[b.Name] = b.Spent + b.Reserved
	}
	if want := map[string]money.NanoUSD{"first": 100, "ads": 0, "trial": 10}; !maps.Equal(spent, want) {
		t.Errorf("spent and reserved = %v, want %v", spent, want)
	}
}

type switchable struct {
	quota.Store
	down  atomic.Bool
	calls atomic.Int64
}

func (s *switchable) Sync(ctx context.Context, c quota.Sync) (quota.State, error) {
	s.calls.Add(1)
	if s.down.Load() {
		return quota.State{}, errLost
	}
	return s.Store.Sync(ctx, c)
}
