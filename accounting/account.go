package accounting

import (
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"airgate/accounting/money"
	"airgate/accounting/quota"
)

const (
	// grace is how long an account-window is remembered after its end: calls
	// admitted in it still settle, and clocks differ.
	grace = 7 * 24 * time.Hour
	// idleAfter is how long after its window's end an account may be dropped.
	idleAfter = time.Hour
)

// accountSet is the accounts of one identity. It outlives the tables that use
// it, so that a reload keeps what was used.
type accountSet struct {
	id      identity
	again   string // tells rates of one identity apart
	window  WindowKind
	zone    *time.Location
	only    *account // where the limit is not split
	dropped *dropped

	mu       sync.RWMutex
	max      int                 // accounts; 0 = as many as there are
	accounts map[string]*account // :: values of each → account
	other    *account            // shared by all beyond max
	swept    int64               // when accounts were last looked through
	gone     tally               // of accounts that were dropped
}

// tally is what settled calls held at most, and what they cost, in nano-USD.
type tally struct{ held, cost int64 }

func (t *tally) add(u tally) { t.held, t.cost = t.held+u.held, t.cost+u.cost }

// tally is that of all calls on the set's accounts since the process began.
func (set *accountSet) tally() tally {
	set.mu.RLock()
	sum, accounts := set.gone, set.allRLocked() // of one moment: none is counted twice, or not at all
	set.mu.RUnlock()
	for _, a := range accounts {
		a.mu.Lock()
		sum.add(a.tally)
		a.mu.Unlock()
	}
	return sum
}

func newAccountSet(g *group, d *dropped) *accountSet {
	set := &accountSet{id: g.id, again: strings.TrimPrefix(g.key, g.id.String()), window: g.window, zone: g.zone, max: g.max, dropped: d}
	if len(g.id.each) == 0 {
		set.only = &account{set: set, text: g.id.account(nil, false)}
	} else {
		set.accounts = make(map[string]*account)
	}
	return set
}

// account returns the account of s, made if need be. It can die before the
// caller has its lock; who finds it dead asks again.
func (set *accountSet) account(s *Subject, now int64) *account {
	if set.only != nil {
		return set.only
	}
	var buf [128]byte
	key := set.appendKey(buf[:0], s)
	set.mu.RLock()
	a := set.accounts[string(key)]
	set.mu.RUnlock()
	if a == nil {
		a = set.open(string(key), s, now)
	}
	return a
}

// appendKey appends what tells the accounts of the set apart.
func (set *accountSet) appendKey(b []byte, s *Subject) []byte {
	if len(set.id.each) == 1 {
		return append(b, s.value(set.id.each[0])...)
	}
	for i, d := range set.id.each {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendEncoded(b, s.value(d), false)
	}
	return b
}

func (set *accountSet) open(key string, s *Subject, now int64) *account {
	set.mu.Lock()
	defer set.mu.Unlock()
	if a := set.accounts[key]; a != nil {
		return a
	}
	if set.max > 0 && len(set.accounts) >= set.max && now-set.swept >= int64(time.Second) {
		set.sweepLocked(now)
	}
	if set.max > 0 && len(set.accounts) >= set.max {
		return set.otherLocked()
	}
	a := &account{set: set, text: set.id.account(s, false), subject: *s}
	set.accounts[key] = a
	return a
}

func (set *accountSet) otherLocked() *account {
	if set.other == nil {
		set.other = &account{set: set, text: set.id.account(nil, true), other: true}
	}
	return set.other
}

// sweepLocked drops the accounts that hold nothing worth remembering.
func (set *accountSet) sweepLocked(now int64) {
	set.swept = now
	for key, a := range set.accounts {
		a.mu.Lock()
		if a.idleLocked(now) {
			a.dead = true
			delete(set.accounts, key)
			set.gone.add(a.tally)
			set.dropped.add(a.windows...)
		}
		a.mu.Unlock()
	}
}

// all returns the accounts that exist now.
func (set *accountSet) all() []*account {
	set.mu.RLock()
	defer set.mu.RUnlock()
	return set.allRLocked()
}

func (set *accountSet) allRLocked() []*account {
	if set.only != nil {
		return []*account{set.only}
	}
	as := make([]*account, 0, len(set.accounts)+1)
	for _, a := range set.accounts {
		as = append(as, a)
	}
	if set.other != nil {
		as = append(as, set.other)
	}
	return as
}

// account is what one identity's usage is counted on for one combination of
// the values of each.
type account struct {
	set   *accountSet
	text  string // without a window
	other bool   // shared by all beyond the greatest number

	mu      sync.Mutex
	dead    bool // dropped from its set
	subject Subject
	partial bool      // subject is not from a call but from the text
	tat     int64     // of a rate, where it is not shared
	vended  *vended   // of one that is
	permits int64     // of a concurrency limit, held
	pool    *pool     // of one that is shared
	tally   tally     // of a budget
	windows []*window // in the order they were opened
}

// idleLocked reports whether nobody asks for the account any more.
func (a *account) idleLocked(now int64) bool {
	for _, w := range a.windows {
		if w.held > 0 || w.end > now-int64(idleAfter) || !w.passed(idleAfter) {
			return false
		}
	}
	return a.permits == 0 && a.tat <= now && (a.vended == nil || !a.vended.kept) && (a.pool == nil || !a.pool.kept)
}

// window is one account-window: the escrow of this process. A call's worst
// case is held, its cost is spent, and what is neither is in hand. The account's lock
// guards the fields below the line.
//
//	granted = spent + returned + held + in hand, none of them negative
type window struct {
	key    quota.Key
	unit   int64  // that a store may round to
	text   string // of records: account and window
	start  int64
	end    int64
	opens  time.Time // zero for Total, as are the next two
	reset  time.Time
	expire time.Time

	opened time.Time     // by a clock that nobody can set, if the store is shared …
	left   time.Duration // … and how long it was to last then

	syncing *turn // one store call at a time; taken before the account's lock

	// ---
	seq      uint64
	known    bool  // the store has answered
	granted  int64 // to this process, cumulative
	returned int64 // by it, cumulative
	spent    int64 // by it, cumulative
	held     int64 // by its calls in flight
	reported int64 // of spent, as the store last heard
	settled  int64 // by all, as the store last said
	others   int64 // escrowed to others, as the store last said
	supply   supply
}

// passed reports whether the window is over, and for so long, also by a clock that
// nobody can set: until then a store that has lost it is told of it again.
func (w *window) passed(since time.Duration) bool {
	return w.opened.IsZero() || time.Since(w.opened) >= w.left+since //nolint:forbidigo // nobody else's clock will do: theirs can be set
}

// inHand is what can be held without asking the store.
func (w *window) inHand() int64 { return w.granted - w.returned - w.spent - w.held }

// used is what was spent by all.
func (w *window) used() int64 { return w.settled + w.spent - w.reported }

// reserved is what calls in flight hold, and others' escrow, which may be.
func (w *window) reserved() int64 { return w.held + w.others }

// fits reports whether need can be held within amount.
func (w *window) fits(need, amount int64) bool {
	return need == 0 || w.inHand() >= need && need <= amount-w.used()-w.reserved()
}

// settle ends a hold with what it cost. What a cost is greater than its hold is
// taken from what is in hand, and granted by the owner's word beyond that.
func (w *window) settle(held, cost int64) {
	w.held -= held
	w.spent += cost
	w.granted = max(w.granted, w.returned+w.spent+w.held)
}

// dropped is the windows that have been dropped with spending in them that the
// store has not heard of, or with escrow that others could use. They are reported
// before any window is opened: the clock may be set back, and one of them be
// opened again.
type dropped struct {
	shared bool

	mu      sync.Mutex
	windows []*window
}

func (d *dropped) add(ws ...*window) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, w := range ws {
		if w.spent > w.reported || d.shared && w.granted > w.spent+w.returned {
			d.windows = append(d.windows, w)
		}
	}
}

func (d *dropped) take() []*window {
	d.mu.Lock()
	defer d.mu.Unlock()
	ws := d.windows
	d.windows = nil
	return ws
}

// windowLocked returns the window that now is in, or nil.
func (a *account) windowLocked(now int64) *window {
	for _, w := range slices.Backward(a.windows) {
		if w.start <= now && now < w.end {
			return w
		}
	}
	return nil
}

// openWindow returns the window that now is in, made if need be and then
// fresh; nil if the account is dead.
func (a *account) openWindow(s *Subject, now int64) (w *window, fresh bool) {
	cal := a.set.window.At(time.Unix(0, now), a.set.zone)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.dead {
		return nil, false
	}
	if w := a.windowLocked(now); w != nil {
		return w, false
	}
	kept := a.windows[:0]
	for _, w := range a.windows {
		if w.held > 0 || w.expire.IsZero() || now < w.expire.UnixNano() || !w.passed(grace) {
			kept = append(kept, w)
		} else {
			a.set.dropped.add(w)
		}
	}
	clear(a.windows[len(kept):])
	w = newWindow(a.text, cal)
	if a.set.dropped.shared {
		w.opened, w.left = time.Now(), time.Duration(min(max(0, w.end-now), math.MaxInt64-int64(grace))) //nolint:forbidigo // see passed
	}
	a.windows = append(kept, w)
	a.subject, a.partial = *s, false
	return w, true
}

// unitOf is what a store may round amounts of an account to: it counts in doubles,
// which end at 9 million USD of nano-USD.
func unitOf(account string) int64 {
	if isMoney(account) {
		return int64(money.USD / 1_000_000)
	}
	return 1
}

// isMoney reports whether an account is in USD: the others are not in the book.
func isMoney(account string) bool { return strings.HasPrefix(account, USD.String()+"|") }

func newWindow(account string, cal Window) *window {
	w := &window{
		key:  quota.Key{Account: account, Window: cal.ID},
		unit: unitOf(account),

		syncing: newTurn(),

		text:  account + "|" + cal.ID,
		start: math.MinInt64, end: math.MaxInt64,
	}
	if !cal.End.IsZero() {
		w.opens, w.reset, w.expire = cal.Start, cal.End, cal.End.Add(grace)
		w.start, w.end = cal.Start.UnixNano(), cal.End.UnixNano()
	}
	return w
}
