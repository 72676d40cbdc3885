package processor_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"airgate/accounting/journal"
	"airgate/accounting/money"
	"airgate/accounting/record"
	"airgate/processor"
)

// model is the ledger as it must be, from the records that were asked for.
type model struct {
	mu         sync.Mutex
	accounts   map[string]*balance         // :: account-window as in records → balance
	open       map[string]record.Record    // :: request id → intent
	settled    map[string]journal.Position // :: request id → place of its settlement
	unrecorded bool                        // a settlement is not in the journal

	// beyond is what the calls in flight at an account's last admission can cost more
	// than they hold.
	beyond map[string]money.NanoUSD // :: account-window as in records → sum
}

type balance struct {
	spent, held money.NanoUSD
	end         time.Time // of the window; zero = none
	called      bool      // in this life
}

func newModel() *model {
	return &model{accounts: map[string]*balance{}, open: map[string]record.Record{}, settled: map[string]journal.Position{}, beyond: map[string]money.NanoUSD{}}
}

// balances are the accounts on which an intent counts, and what it holds there.
func (m *model) balances(intent *record.Record) map[*balance]money.NanoUSD {
	all := map[*balance]money.NanoUSD{}
	for _, l := range intent.Limits {
		if l.Resource != "usd" {
			continue
		}
		b := m.accounts[l.Account]
		if b == nil {
			b = &balance{end: l.Reset}
			m.accounts[l.Account] = b
		}
		all[b] = money.NanoUSD(l.Needed)
	}
	return all
}

// begin is before the journal has the record, end after it has, or has not. What
// an extension took is held whether or not the journal has it, up to the call's end.
func (m *model) begin(r *record.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch r.Type {
	case record.Intent:
		m.open[r.RequestID] = *r
		for b, held := range m.balances(r) {
			b.held += held
			b.called = true
		}
	case record.Extend:
		intent := m.open[r.RequestID]
		more := r.Reserved - intent.Reserved
		for b := range m.balances(&intent) {
			b.held += more
		}
		intent.Reserved = r.Reserved
		intent.Limits = slices.Clone(intent.Limits)
		for i := range intent.Limits {
			if l := &intent.Limits[i]; l.Resource == "usd" {
				l.Needed += int64(more)
			}
		}
		m.open[r.RequestID] = intent
	case record.Settle, record.Deny, record.Adjust, record.Admin, record.Start:
	}
}

// end comes before the ledger ends the hold: nobody may have what a settlement
// gives back before the book has it.
func (m *model) end(r *record.Record, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.Type == record.Settle {
		intent := m.open[r.RequestID]
		delete(m.open, r.RequestID)
		for b, held := range m.balances(&intent) {
			b.held -= held
			b.spent += r.Cost
		}
	}
	switch {
	case r.Type == record.Settle && err == nil:
		m.settled[r.RequestID] = journal.Position(r.Seq)
	case r.Type == record.Settle:
		m.unrecorded = true
	case r.Type == record.Intent && err != nil:
		for b, held := range m.balances(r) {
			b.held -= held
		}
		delete(m.open, r.RequestID)
	}
}

// intent is the open intent of a call, with what its extensions say it holds.
func (m *model) intent(id string) record.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.open[id]
}

func (m *model) settledAt(id string) journal.Position {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.settled[id]
}

// admitted notes what may be spent beyond the limits on the accounts of a call that is
// admitted now.
func (m *model) admitted(intent *record.Record) (expected bool) {
	for _, l := range intent.Limits {
		m.beyond[l.Account] = 0
	}
	add := func(r *record.Record) {
		counted := map[string]bool{}
		for _, l := range r.Limits {
			if _, of := m.beyond[l.Account]; of && l.Worst > 0 && !counted[l.Account] {
				m.beyond[l.Account] += money.NanoUSD(l.Worst - l.Needed)
				counted[l.Account] = true
			}
		}
		expected = len(counted) > 0
	}
	for _, r := range m.open {
		add(&r)
	}
	add(intent)
	return expected
}

// beyondOf is that of a call's accounts.
func (m *model) beyondOf(id string) map[string]money.NanoUSD {
	m.mu.Lock()
	defer m.mu.Unlock()
	of := map[string]money.NanoUSD{} // :: name of a budget → what may be spent beyond its limit
	for _, l := range m.open[id].Limits {
		of[l.Name] = m.beyond[l.Account]
	}
	return of
}

// figures checks what an intent, or a denial of the ledger's, says of budgets:
// invariants 5, 6.
func (l *life) figures(r *record.Record) {
	if l.w.racing || r.Count > 0 || r.Code == "journal_unavailable" { // its hold is given back already
		return
	}
	if r.Type == record.Settle {
		l.cut(r)
		return
	}
	l.model.mu.Lock()
	defer l.model.mu.Unlock()
	if r.Type == record.Intent && l.model.admitted(r) {
		l.w.count("held as expected")
	}
	var codes []string
	for _, x := range r.Limits {
		if x.Resource != "usd" {
			continue
		}
		var b balance
		if known := l.model.accounts[x.Account]; known != nil {
			b = *known
		}
		if money.NanoUSD(x.Used) != b.spent || money.NanoUSD(x.Reserved) != b.held {
			l.w.problem(5, "%v of %s: %s has %s spent and %s held, want %s and %s",
				r.Type, r.RequestID, x.Account, money.NanoUSD(x.Used), money.NanoUSD(x.Reserved), b.spent, b.held)
		}
		if x.Mode != "enforce" || x.Used+x.Reserved+x.Needed <= x.Limit {
			continue
		}
		switch left := x.Limit - x.Used; {
		case x.Needed <= left:
			codes = append(codes, "budget_busy")
		case left > 0:
			codes = append(codes, "budget_insufficient")
		default:
			codes = append(codes, "budget_exhausted")
		}
	}
	if (len(codes) > 0 || strings.HasPrefix(r.Code, "budget_")) && !slices.Contains(codes, r.Code) {
		l.w.problem(6, "%v of %s: code %q, want one of %q: %+v", r.Type, r.RequestID, r.Code, codes, r.Limits)
	}
}

// cut checks that a call was cut for want of money: invariant 6.
func (l *life) cut(r *record.Record) {
	l.w.mu.Lock()
	c := l.w.calls[r.RequestID]
	l.w.mu.Unlock()
	if r.Cut != "budget" || c == nil || c.terms != l.terms.Load() {
		return // limits may be lower now
	}
	l.model.mu.Lock()
	defer l.model.mu.Unlock()
	for _, x := range l.model.open[r.RequestID].Limits {
		if b := l.model.accounts[x.Account]; x.Mode == "enforce" && b != nil {
			if left := money.NanoUSD(x.Limit) - b.spent - b.held; left < c.model.out*leastSlice {
				return
			}
		}
	}
	l.w.problem(6, "request %s was cut, and there was money for it: %+v", r.RequestID, r)
}

// leastSlice is more output than any extension needs at least.
const leastSlice = 256 + 250 + 3*chunkTokens

// forwarded books the call's true cost, and checks invariant 1.
func (l *life) forwarded(c *simCall, now time.Time) {
	intent, beyond := l.model.intent(c.id), l.model.beyondOf(c.id)
	w := l.w
	w.mu.Lock()
	limits := map[string]money.NanoUSD{} // :: account-window → lowest enforced limit, and what may be beyond it
	var want []string
	for _, b := range c.terms.budgets {
		if !b.covers(c.key, c.model) {
			continue
		}
		account, end := b.account(c.key, now)
		limit := b.limit(c.key, now)
		want = append(want, fmt.Sprintf("%s: %s until %s, shadow %v", b.name, limit, end.UTC(), b.shadow))
		if !slices.Contains(c.accounts, account) {
			c.accounts = append(c.accounts, account)
			w.truth[account] += c.cost
		}
		if least, ok := limits[account]; !b.shadow && (!ok || limit+beyond[b.name] < least) {
			limits[account] = limit + beyond[b.name]
		}
		if !b.shadow && w.truth[account] > limit {
			w.counts["beyond a limit, as was expected"]++
		}
	}
	w.calls[c.id] = c
	w.counts["let go"]++
	var over []string
	for account, limit := range limits {
		if w.truth[account] > limit {
			w.counts["overspends"]++
			over = append(over, fmt.Sprintf("%s: true cost %s of %s", account, w.truth[account], limit))
		}
	}
	w.mu.Unlock()
	for _, o := range over {
		w.problem(1, "%s, after request %s", o, c.id)
	}
	var have []string
	for _, x := range intent.Limits {
		if x.Resource == "usd" {
			have = append(have, fmt.Sprintf("%s: %s until %s, shadow %v", x.Name, money.NanoUSD(x.Limit), x.Reset.UTC(), x.Mode == "shadow"))
		}
	}
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		w.problem(5, "request %s was checked against %q, want %q", c.id, have, want)
	}
}

// balanced compares the ledger and the balances with the model while no call
// is in flight: invariants 4 and 5.
func (l *life) balanced(when string) {
	m := l.model
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range l.ledger.Budgets(time.Now()) {
		var want balance
		if known := m.accounts[b.Account]; known != nil {
			want = *known
		}
		if b.Reserved != 0 {
			l.w.problem(4, "%s: %s still holds %s", when, b.Account, b.Reserved)
		}
		// A window that has begun since shows what an earlier life has spent in it,
		// whose clock was ahead, with the first call only.
		if shown := want.called || !b.WindowStart.After(l.began); shown && b.Spent != want.spent {
			l.w.problem(5, "%s: the ledger has %s spent in %s, the records %s", when, b.Spent, b.Account, want.spent)
		}
	}
	for text, b := range m.accounts {
		i := strings.LastIndex(text, "|")
		remembered := b.end.IsZero() || l.trueTime().Before(l.w.until[text])
		if have := l.balances.Spent(text[:i], text[i+1:]); remembered && !m.unrecorded && have != b.spent {
			l.w.problem(5, "%s: the balances have %s spent in %s, the records %s", when, have, text, b.spent)
		}
		if b.held != 0 {
			l.w.problem(4, "%s: the records leave %s held in %s", when, b.held, text)
		}
	}
}

// permits sees that every key has all its permits: invariant 4.
func (l *life) permits() {
	time.Sleep(time.Minute) // request tokens are back
	for i := range l.w.keys {
		c := &caller{life: l, key: &l.w.keys[i]}
		var open []*processor.Stream
		for n := range permits + 1 {
			s := l.proc.Begin(time.Now())
			open = append(open, s)
			switch a := s.Step(c.headers()).(type) {
			case *processor.Deny:
				if n < permits || a.Details != "airgate_concurrency_limited" {
					l.w.problem(4, "call %d in flight of key %s: %s", n+1, c.key.id, a.Details)
				}
			default:
				if n == permits {
					l.w.problem(4, "key %s has more than %d permits", c.key.id, permits)
				}
			}
		}
		for _, s := range open {
			s.Close(time.Now(), true)
			s.Finish(time.Now(), processor.Cause{})
		}
	}
}
