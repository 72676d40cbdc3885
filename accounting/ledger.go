package accounting

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"airgate/accounting/money"
	"airgate/accounting/quota"
)

// Config configures a Ledger.
type Config struct {
	Store   quota.Store
	Replica string // replica.incarnation: never the same again after a restart

	// Shared says that other processes use Store too. Then Run keeps as much in
	// hand as calls are about to take, and a call that finds too little asks the
	// store for what it lacks. Alone, the ledger takes whole limits into its hand,
	// and usual calls never reach the store.
	Shared bool
	// Replicas is how many ledgers can share Store at most: what a limit allows
	// while it is down (OnStoreDown.Within) is divided by it. 0 = 1.
	Replicas int

	Now        func() time.Time      // the wall clock, of what Run does; nil = time.Now
	Registerer prometheus.Registerer // nil = metrics are not registered
	Log        *slog.Logger          // nil = no log
}

// Ledger books calls on accounts: it holds a call's worst case on every limit
// that matches, all or none, and settles it exactly once. It is safe for
// concurrent use. It takes one account's lock at a time and never calls the
// store under it, so that no order of accounts can end in a deadlock.
//
// The sum that never passes a limit is what the store has settled and
// escrowed; what a Ledger has in hand is a part of the latter, and it spends
// nothing else. Safety does not depend on a clock: a window that ended keeps
// its own account, and a call settles in the window it was admitted in.
type Ledger struct {
	store    quota.Store
	replica  string
	shared   bool
	replicas int64
	log      *slog.Logger
	metrics  *metrics
	now      func() time.Time
	began    time.Time     // see steady
	down     atomic.Bool   // the last store call failed
	left     atomic.Bool   // quota.ErrLeft: it asks the store for no window any more, and admits no call on one
	version  atomic.Uint64 // of the last table that was applied
	escrow   escrow        // what Run looks after

	reporting *turn // of dropped; taken before any account's lock
	dropped   dropped

	mu    sync.Mutex
	sets  map[string]*accountSet // :: group.key → accounts
	table *Table                 // the last one applied

	// What of earlier incarnations a store is told again that has lost it.
	inherited inheritance
	departed  map[string][]quota.Share // :: account-window → of those that had closed before
	ended     []string                 // writers of both
}

// New returns a Ledger that has no accounts yet.
func New(c Config) (*Ledger, error) {
	if c.Store == nil || c.Replica == "" {
		return nil, errors.New("new ledger: Config needs Store and Replica")
	}
	l := &Ledger{
		store:    c.Store,
		replica:  c.Replica,
		shared:   c.Shared,
		replicas: int64(max(1, c.Replicas)),
		log:      c.Log,
		metrics:  newMetrics(),
		now:      c.Now,
		began:    time.Now(), //nolint:forbidigo // see steady
		sets:     make(map[string]*accountSet),

		reporting: newTurn(),
	}
	l.dropped.shared = c.Shared
	if l.now == nil {
		l.now = time.Now //nolint:forbidigo // as Config says
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if c.Registerer != nil {
		if err := l.metrics.register(c.Registerer, l); err != nil {
			return nil, fmt.Errorf("new ledger: %w", err)
		}
	}
	return l, nil
}

// Apply makes t usable: it gives each limit the accounts of its identity,
// which keep what was used under earlier tables. It is called before t is
// published, on load and on each reload; calls that began under an earlier
// table may go on under that. A Table belongs to the Ledger that applied it.
func (l *Ledger) Apply(t *Table, now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.ledger != nil && t.ledger != l {
		return errors.New("apply limits: the table belongs to another ledger")
	}
	if t.ledger == l {
		l.table = t
		l.version.Store(t.version)
		return nil
	}
	t.ledger = l
	// Replicas that load the same change count its versions alike, as far as
	// their clocks agree. Milliseconds stay below 2^53.
	t.version = uint64(max(now.UnixMilli(), 1))
	if l.table != nil {
		t.version = max(t.version, l.table.version+1)
	}
	for _, layer := range t.layers() {
		for _, g := range layer.groups {
			l.furnishLocked(g, now)
			for _, m := range g.members {
				for _, w := range m.warnings {
					l.furnishLocked(w.group, now)
				}
			}
		}
	}
	l.table = t
	l.version.Store(t.version)
	return nil
}

// furnishLocked gives g the accounts of its identity. l.mu is held.
func (l *Ledger) furnishLocked(g *group, now time.Time) {
	set := l.sets[g.key]
	if set == nil {
		set = newAccountSet(g, &l.dropped)
		l.sets[g.key] = set
	}
	g.set = set
	set.mu.Lock()
	defer set.mu.Unlock()
	set.max = g.max
	set.sweepLocked(now.UnixNano())
}

// Restore tells the store what earlier incarnations of this process spent,
// from their records: what was settled, and the whole worst case of each call
// that was not. It is for a store that forgets when the process ends, and is
// called once, after Apply and before the first call.
func (l *Ledger) Restore(b *Balances, now time.Time) error {
	l.mu.Lock()
	applied := l.table != nil
	l.mu.Unlock()
	if !applied {
		return errors.New("restore balances: apply a table first")
	}
	charged := b.charged()
	for _, text := range slices.Sorted(maps.Keys(charged)) {
		amount := charged[text]
		if amount <= 0 {
			continue
		}
		aw, err := parseAccountWindow(text)
		if err != nil {
			return fmt.Errorf("restore balances: %w", err)
		}
		w := newWindow(aw.account, aw.window)
		if _, err := l.store.Sync(context.Background(), quota.Sync{
			Key:     w.key,
			Replica: l.replica + "/journal",
			Seq:     1,
			Seen:    int64(amount),
			Spent:   int64(amount),
			Now:     now,
			Expire:  w.expire,
		}); err != nil {
			return fmt.Errorf("restore balances: account %q: %w", text, err)
		}
		if err := l.reopen(&aw, now.UnixNano()); err != nil {
			return fmt.Errorf("restore balances: account %q: %w", text, err)
		}
	}
	return nil
}

// reopen opens the account of aw, if its window runs and a limit counts on it, so
// that it is listed, and its warnings are raised, before its next call.
func (l *Ledger) reopen(aw *accountWindow, now int64) error {
	l.mu.Lock()
	set := l.sets[aw.identity]
	l.mu.Unlock()
	if end := aw.window.End; set == nil || !end.IsZero() && (now < aw.window.Start.UnixNano() || now >= end.UnixNano()) {
		return nil
	}
	var a *account
	if aw.other {
		set.mu.Lock()
		a = set.otherLocked()
		set.mu.Unlock()
	} else {
		a = set.account(&aw.subject, now)
	}
	w, _ := a.openWindow(&aw.subject, now)
	if w == nil {
		return nil // dropped meanwhile: its next call opens it
	}
	a.mu.Lock()
	a.partial = true
	a.mu.Unlock()
	if err := l.syncInTurn(new(waiter), a, w, syncTerms{}, wish{}, now); err != nil && !errors.Is(err, errLost) { // a store that learns grants later
		return err
	}
	return nil
}

// syncTerms is what a sync tells the store of the limit.
type syncTerms struct {
	limit   int64
	version uint64
}

// wish is what a sync asks of the store beside telling it.
type wish struct {
	need   int64 // in hand, or nothing more
	want   int64 // in hand, if that is possible
	recall bool
	mode   quota.Mode
	detail bool
	others []quota.Share
}

// errLost is the store's word that it may not know all it has granted.
var errLost = fmt.Errorf("%w: it may have lost what it granted, and grants nothing until all replicas have told it", quota.ErrUnavailable)

// syncInTurn is sync, once nobody else asks for the window.
func (l *Ledger) syncInTurn(who *waiter, a *account, w *window, t syncTerms, ask wish, now int64) error {
	if err := w.syncing.lock(who); err != nil {
		return err
	}
	defer w.syncing.unlock(who)
	_, err := l.sync(who, a, w, t, ask, now)
	return err
}

// sync reports a window to the store and asks for what the wish lacks. It returns
// how much more was granted. w.syncing is held.
func (l *Ledger) sync(who *waiter, a *account, w *window, t syncTerms, ask wish, now int64) (granted int64, err error) {
	if l.left.Load() {
		return 0, quota.ErrLeft
	}
	a.mu.Lock()
	w.seq++
	s := quota.Sync{
		Key:      w.key,
		Replica:  l.replica,
		Seq:      w.seq,
		Known:    w.known,
		Seen:     w.granted,
		Returned: w.returned,
		Spent:    w.spent,
		Limit:    t.limit,
		Version:  t.version,
		Now:      time.Unix(0, now),
		Expire:   w.expire,
		Mode:     ask.mode,
		Recall:   ask.recall,
		Detail:   ask.detail,
		Others:   ask.others,
		Unit:     w.unit,
	}
	inHand, borrowed := w.inHand(), w.supply.borrowed
	s.Need, s.Want = max(0, ask.need-inHand), max(0, ask.want-inHand, ask.need-inHand)
	if !l.shared && s.Need > 0 {
		s.Want = maxAmount
	}
	a.mu.Unlock()

	began := l.steady()
	st, err := l.store.Sync(context.Background(), s)
	switch {
	case err != nil:
	case st.Seq == quota.LastSeq: // nobody but who has left for this ledger says that
		l.left.Store(true)
		return 0, quota.ErrLeft
	case st.Lost:
		err = errLost
	}
	l.answered(err)
	who.ended(err, began, l.steady())
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		if l.shared {
			w.supply.unsure = true
			l.tendLocked(a, w)
		}
		return 0, err
	}
	granted = max(0, st.Granted-s.Seen)
	w.granted += granted
	w.known, w.reported = true, s.Spent
	if st.Seq > s.Seq {
		// The window was dropped and is open again, since the clock was set back:
		// the store took nothing of this call, and tells what was known. What was in
		// hand then was given back if others could use it.
		w.seq, w.reported = st.Seq, st.Spent
		w.spent += st.Spent
		if l.shared {
			w.returned += st.Granted - st.Spent
			s.Returned = w.returned
		}
	}
	w.settled = st.Settled
	w.others = max(0, st.Escrowed-(st.Granted-st.Spent-s.Returned))
	if l.shared {
		w.supply.heard(&s, &st, borrowed, l.steady())
		if ask.mode == quota.Close {
			w.returned = w.granted - w.spent // nothing is held: see Close
		}
		l.tendLocked(a, w)
	}
	return granted, nil
}

// answered notes whether the store has answered.
func (l *Ledger) answered(err error) {
	if l.down.Swap(err != nil) == (err != nil) {
		return
	}
	if err != nil {
		l.log.Error("quota store does not answer", "error", err)
	} else {
		l.log.Info("quota store answers again")
	}
}

// reportDropped tells the store what was spent in windows that are no longer
// here. One that it cannot be told of waits for the next time.
func (l *Ledger) reportDropped(who *waiter, now int64) {
	if l.reporting.lock(who) != nil {
		return
	}
	defer l.reporting.unlock(who)
	for _, w := range l.dropped.take() {
		// Nobody holds a part of it or finds it any more.
		ask := wish{}
		if l.shared {
			ask.mode = quota.Close
		}
		err := who.vain
		if err == nil {
			_, err = l.sync(who, new(account), w, syncTerms{}, ask, now)
		}
		if err != nil {
			l.dropped.add(w)
		}
	}
}

// Budget is one account of one budget, in its window.
type Budget struct {
	Name        string
	Account     string // as in records, the window included
	Scope       string // for people: "team=search, key=k7Qm2xT9aB4c", "all"
	Owner       string
	Mode        Mode
	Expected    bool // it holds what calls are expected to cost: so do all budgets of the account
	Limit       money.NanoUSD
	Spent       money.NanoUSD
	Reserved    money.NanoUSD // held by calls in flight
	Held        money.NanoUSD // at most, by calls that were settled since the process began, in any window …
	HeldCost    money.NanoUSD // … and what they cost
	WindowStart time.Time     // zero for total, as is Reset
	Reset       time.Time
	Autonomy    time.Duration // for how long calls go on while a shared store does not answer; 0 = it is not shared, or nothing is taken
	Overrides   []Override    // that are not over and are for this account, the one that holds first

	labels string // Account without its window, for metrics; "" if it has callers' words in it
}

// tallies returns what the settled calls of each budget held at most, and what they
// cost, since the process began.
func (l *Ledger) tallies() map[string]tally {
	l.mu.Lock()
	t := l.table
	l.mu.Unlock()
	all := make(map[string]tally)
	if t == nil {
		return all
	}
	for _, g := range t.budgets.groups {
		sum := g.set.tally()
		for _, m := range g.members {
			all[m.Name] = sum
		}
	}
	return all
}

// Budgets returns every account of every budget of the last applied table, in
// the order of the configuration, then by account. Accounts that are split by
// values appear with their first call.
func (l *Ledger) Budgets(now time.Time) []Budget {
	l.mu.Lock()
	t := l.table
	l.mu.Unlock()
	if t == nil {
		return nil
	}
	var list []Budget
	var who waiter
	for _, g := range t.budgets.groups {
		accounts := g.set.all()
		slices.SortFunc(accounts, func(a, b *account) int { return strings.Compare(a.text, b.text) })
		public := !slices.Contains(g.id.each, User) && !slices.Contains(g.id.each, Session)
		for _, m := range g.members {
			for _, a := range accounts {
				b := Budget{Name: m.Name, Scope: g.id.scope(a.text), Owner: m.Owner, Mode: m.Mode, Expected: g.expected}
				if public {
					b.labels = a.text
				}
				a.mu.Lock()
				w := a.windowLocked(now.UnixNano())
				if w == nil && a == g.set.only {
					w, _ = l.windowLocked(&who, a, &a.subject, now.UnixNano()) // what is known will do
				}
				if w == nil { // no call in it yet
					w = newWindow(a.text, g.window.At(now, g.zone))
				}
				s := t.known(a)
				terms := m.termsOf(a, &s, now.UnixNano())
				b.Overrides = m.overridesOf(a, &s, now.UnixNano())
				b.Spent, b.Reserved = money.NanoUSD(w.used()), money.NanoUSD(w.reserved())
				if l.shared {
					b.Autonomy, _ = w.autonomy()
				}
				b.Held, b.HeldCost = money.NanoUSD(a.tally.held), money.NanoUSD(a.tally.cost)
				a.mu.Unlock()
				b.Account, b.WindowStart, b.Reset = w.text, w.opens, w.reset
				b.Limit = money.NanoUSD(terms.amount)
				list = append(list, b)
			}
		}
	}
	return list
}
