package accounting

import (
	"context"
	"errors"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"airgate/accounting/quota"
)

const (
	// tendEvery is how often Run looks after what is in hand: a little more or
	// less, so that replicas do not ask in step.
	tendEvery = 100 * time.Millisecond
	// Calls are about to take what they took in the last times: so long does what
	// Run asks for last, it asks when half of it is left, and returns what lasts
	// longer than idleStock.
	stock     = 400 * time.Millisecond
	idleStock = 2 * time.Second
	// Where a limit leaves so much room that nobody misses it, what is in hand of an
	// account-window shall last for ample, at the pace of the last steadyFor: Run asks
	// when a quarter of it is left. Where no call begins or ends for quietFor, no more
	// than stays for lullFor.
	ample = 20 * time.Second
	// Of room that nobody is about to need, what lasts so long is in hand: for so long
	// calls go on while the store is down.
	provision = 5 * time.Minute
	steadyFor = 5 * time.Second
	quietFor  = 2500 * time.Millisecond
	// fewCalls more like it is what a call that lacks something asks for then.
	fewCalls = 4
	// What calls were about to take stays in hand for lullFor, though they take less
	// meanwhile, as far as it is a small part of the room that nobody has.
	lullFor = time.Minute
	// reportEvery is how old what the store knows of spent money may be; idleEvery, where
	// no call has begun or ended for quietFor. It is set aside before it is spent: who is
	// told later sees it as reserved.
	reportEvery = 10 * time.Second
	// recallFor is how long a call waits for what others have idle, in steps that
	// grow. Then the account-window is dry: for dryFor nobody asks again, and who asks
	// within stillDryFor after that waits one step only: what was idle has come back,
	// and what calls hold takes longer.
	recallFor   = 155 * time.Millisecond
	dryFor      = 100 * time.Millisecond
	stillDryFor = time.Second
	// A call that is made anyway asks for others' shares, if what is known of them is
	// older than detailEvery; one is made for it if it is older than detailAtMost. What
	// was granted since to one that then dies with its disk, as the store loses it too,
	// is what a loss can cost.
	detailEvery  = 2 * time.Second
	detailAtMost = 10 * time.Second
	// tending is how many account-windows are reported at the same time.
	tending = 16
	// idleEvery is how old what is known of an account-window may be that nothing is
	// in hand of: for people and metrics, and so that what others have is known when
	// the store loses it. At most idleTick of them are looked at in each tick.
	idleEvery = 30 * time.Second
	idleTick  = 32
	// leaveAfter is how long after a store was told again what it has lost all others
	// have told theirs, too, or were taken for gone.
	leaveAfter = 70 * time.Second
	leaveRetry = 5 * time.Second
)

// supply is how an account-window of a shared store is kept in hand. The account's
// lock guards it.
type supply struct {
	pace

	tended   bool  // Run looks after it
	given    int64 // returned, as the store last heard
	limit    int64 // in force, as the store last said
	replicas int   // replicas that have escrow, as the store last said
	over     bool  // more is out than the limit, as it last said
	unsure   bool  // the last call was not answered: it may have granted something
	dry      int64 // until then …
	dryNeed  int64 // … so much is not there, whoever is asked
	borrowed int64 // taken by the owner's word while the store was down, and not yet told
	peak     int64 // most that was to be in hand …
	peakAt   int64 // … at that time
	shares   []quota.Share
	detailed int64  // when they were told
	heardAt  int64  // when the store has last answered
	version  uint64 // of the table whose limit it was told
}

// pace is what calls take a second, on average.
type pace struct {
	at     int64 // when it was measured last, in Unix nanoseconds
	level  int64 // spent and held then
	flow   int64
	steady int64 // the same, over steadyFor, in parts of fine
	moved  int64 // when the level was last seen to change
}

// fine is the parts of a unit in which a slow pace is measured.
const fine = 1 << 10

// heard takes what the store has answered by now, and was told of what was borrowed.
func (p *supply) heard(s *quota.Sync, st *quota.State, borrowed, now int64) {
	p.given, p.borrowed, p.unsure = s.Returned, p.borrowed-borrowed, false
	p.limit, p.replicas = st.Limit, st.Active
	p.over = st.Version > 0 && st.Settled+st.Escrowed > st.Limit // else nobody has told it a limit
	p.heardAt = now
	if s.Detail {
		p.shares, p.detailed = st.Shares, now
	}
}

// escrow is what Run looks after: the account-windows, buckets and sets of permits
// with something in hand, held, or not yet reported.
type escrow struct {
	mu  sync.Mutex
	all map[quota.Key]kept

	idle   []tended // that Run has still to look at …
	listed int64    // … since then

	leaveAt int64 // when those are to leave who have ended; 0 = they have
}

// kept is one of them.
type kept interface {
	key() quota.Key
	// due decides what is needed, gives back what is not, and returns the call that
	// tells the store; nil = there is nothing to tell.
	due(l *Ledger) (call func())
	// recall gives back what is idle.
	recall(l *Ledger)
	// of is the account that is counted on.
	of() *account
	// autonomyLocked is for how long calls find what they need in hand, if the store
	// does not answer from now on; ok is false where they take nothing. The account's
	// lock is held.
	autonomyLocked(now int64) (d time.Duration, ok bool)
	// close gives back everything. No call is open any more.
	close(l *Ledger) error
}

// put makes Run look after k.
func (e *escrow) put(k kept) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.all == nil {
		e.all = make(map[quota.Key]kept)
	}
	e.all[k.key()] = k
}

func (e *escrow) remove(k kept) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.all[k.key()] == k {
		delete(e.all, k.key())
	}
}

func (e *escrow) list() []kept {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make([]kept, 0, len(e.all))
	for _, k := range e.all {
		all = append(all, k)
	}
	return all
}

func (e *escrow) find(k quota.Key) (kept, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t, ok := e.all[k]
	return t, ok
}

// tended is an account-window that is kept.
type tended struct {
	account *account
	window  *window
}

func (t tended) key() quota.Key { return t.window.key }

// tendLocked makes Run look after w. a.mu is held. What was dropped has no set any
// more, and is looked after by reportDropped.
func (l *Ledger) tendLocked(a *account, w *window) {
	if w.supply.tended || a.set == nil {
		return
	}
	now := l.steady()
	w.supply.tended, w.supply.at, w.supply.level = true, now, w.spent+w.held
	w.supply.moved, w.supply.version = now, l.version.Load()
	l.escrow.put(tended{a, w})
}

// Run looks after what this ledger has in hand of a shared store until ctx ends:
// it asks for what calls are about to take before they need it, reports what was
// spent, and gives back what lies idle or what others ask for. It is called once.
// No call waits for it. It ends with quota.ErrLeft once it is heard that somebody else
// has given back what this ledger had in hand: then no call on a window is admitted any
// more, whatever OnStoreDown says.
func (l *Ledger) Run(ctx context.Context) error {
	if !l.shared {
		return errors.New("run ledger: its store is not shared")
	}
	var watching sync.WaitGroup
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var watched error
	watching.Go(func() {
		defer stop()
		if watched = l.store.Watch(ctx, l.replica, owner{l}); errors.Is(watched, quota.ErrLeft) {
			l.left.Store(true)
		}
	})
	// Of the time, so that a simulation repeats its course.
	jitters := rand.New(rand.NewPCG(uint64(l.steady()), 0)) //nolint:gosec // not a secret
	for {
		jitter := time.Duration(jitters.Int64N(int64(tendEvery / 2)))
		timer := time.NewTimer(tendEvery*3/4 + jitter) //nolint:forbidigo // nobody else can say when it is time
		select {
		case <-ctx.Done():
			timer.Stop()
			watching.Wait()
			return watched
		case <-timer.C:
			l.tendAll(ctx)
			if l.left.Load() {
				stop()
				watching.Wait()
				return quota.ErrLeft
			}
			if l.escrow.leaves(l.steady()) {
				watching.Go(func() { l.leaveAgain(ctx) })
			}
		}
	}
}

// wallClock says in which windows it is to who has no caller that does.
func (l *Ledger) wallClock() int64 { return l.now().UnixNano() }

// steady is a clock that nobody sets, in nanoseconds: how old something is, and for
// how long it holds, does not change when the wall clock does. It is not read in any
// window.
func (l *Ledger) steady() int64 { return l.began.UnixNano() + int64(time.Since(l.began)) } //nolint:forbidigo // callers' clocks can be set

func (l *Ledger) tendAll(ctx context.Context) {
	var g errgroup.Group
	g.SetLimit(tending)
	for _, k := range l.escrow.list() {
		if ctx.Err() != nil {
			break
		}
		if call := k.due(l); call != nil {
			g.Go(func() error { call(); return nil })
		}
	}
	_ = g.Wait() // who asks tells what goes wrong
	if now := l.steady(); len(l.escrow.idle) == 0 && now-l.escrow.listed > int64(time.Second) {
		l.escrow.idle, l.escrow.listed = l.windows(idleEvery), now
	}
	n := min(idleTick, len(l.escrow.idle))
	l.hear(ctx, l.escrow.idle[:n])
	l.escrow.idle = l.escrow.idle[n:]
}

// Refresh asks a shared store for what it knows of every account-window that this
// ledger has, if that is older than a second, until ctx ends. Budgets tells it then.
func (l *Ledger) Refresh(ctx context.Context) {
	if l.shared {
		l.hear(ctx, l.windows(time.Second))
	}
}

// windows are those that now is in and that the store was not heard of for so long, of
// limits that are no longer configured too: others may have told it of them what they
// knew, while this ledger was cut off.
func (l *Ledger) windows(since time.Duration) (all []tended) {
	today, now := l.wallClock(), l.steady()
	l.mu.Lock()
	t := l.table
	sets := make(map[string]*accountSet, len(l.sets))
	maps.Copy(sets, l.sets)
	l.mu.Unlock()
	if t == nil {
		return nil
	}
	for _, g := range t.budgets.groups {
		for _, m := range g.members {
			for _, w := range m.warnings {
				delete(sets, w.group.key) // nobody asks for them
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(sets)) {
		if sets[key].window == NoWindow {
			continue
		}
		for _, a := range sets[key].all() {
			a.mu.Lock()
			if w := a.windowLocked(today); w != nil && now-w.supply.heardAt > int64(since) {
				all = append(all, tended{a, w})
			}
			a.mu.Unlock()
		}
	}
	return all
}

// hear asks the store for what it knows of each.
func (l *Ledger) hear(ctx context.Context, all []tended) {
	var g errgroup.Group
	g.SetLimit(tending)
	for _, t := range all {
		if ctx.Err() != nil || l.down.Load() {
			break
		}
		g.Go(func() error { //nolint:contextcheck // a store has a deadline of its own
			l.tend(t.account, t.window, wish{detail: true})
			return nil
		})
	}
	_ = g.Wait() // tend has told what went wrong
}

func (t tended) due(l *Ledger) (call func()) {
	a, w, now := t.account, t.window, l.steady()
	var ask wish
	a.mu.Lock()
	defer a.mu.Unlock()
	p := &w.supply
	p.measure(w.spent+w.held, now)
	inHand, share := w.inHand(), w.share()
	quiet := now-p.moved >= int64(quietFor)
	var target int64
	if !quiet {
		target = max(p.lasts(stock), min(p.aim(share), share))
	}
	p.aimed(target, now)
	keep := max(target, min(p.peak, share/4))
	switch {
	case p.over:
		w.returned += max(0, inHand)
	case inHand > max(p.lasts(idleStock), 2*keep):
		w.returned += inHand - keep
	case l.wallClock() < w.end && inHand < max(p.lasts(stock/2), target/4):
		// Crumbs of what is left are for calls that need them.
		if ahead := max(0, p.aim(share)-inHand); share >= ahead/2 {
			ask.want = inHand + min(ahead, share)
		}
	}
	known := time.Duration(now - p.detailed)
	ask.detail = known > detailEvery
	// Only money is in the book: what else was spent, a crash forgets unless the store
	// has heard of it.
	report := reportEvery
	if quiet {
		report = idleEvery // as for those of which nothing is in hand
	}
	told := w.spent == w.reported || isMoney(a.text) && now-p.heardAt < int64(report)
	// A limit that was lowered bites when all have heard that more is out.
	version := l.version.Load()
	edited := version != p.version
	p.version = version
	if p.unsure || edited || !told || w.returned != p.given || p.borrowed > 0 || ask.want > inHand || !quiet && known > detailAtMost && w.known {
		return func() { l.tend(a, w, ask) }
	}
	if w.inHand() == 0 && w.held == 0 && w.spent == w.reported {
		p.tended, p.pace = false, pace{} // who is looked at again has no pace until calls come
		l.escrow.remove(t)
	}
	return nil
}

// measure takes the level of what is spent and held at an instant.
func (p *pace) measure(level, now int64) {
	passed := now - p.at
	if passed <= 0 {
		return
	}
	took := max(0, level-p.level)
	// Rounded down: what no call takes any more ends at nothing.
	flow, part := min(mulDiv(took, int64(time.Second), passed, down), maxAmount/4), min(passed, int64(steadyFor))
	p.flow = (3*p.flow + flow) / 4
	p.steady += mulDiv(min(flow, maxAmount/4/fine)*fine, part, int64(steadyFor), down) - mulDiv(p.steady, part, int64(steadyFor), up)
	if level != p.level {
		p.moved = now
	}
	p.at, p.level = now, level
}

// steadily is what calls take in d, at the pace of the last steadyFor.
func (p *pace) steadily(d time.Duration) int64 {
	return mulDiv(p.steady, int64(d), fine*int64(time.Second), up)
}

// aim is what calls are about to take, or a small part of this ledger's share of the
// room, if that is more.
func (p *supply) aim(share int64) int64 {
	return max(p.lasts(stock), p.steadily(ample), min(p.steadily(provision), share/4))
}

// aimed notes what is to be in hand.
func (p *supply) aimed(n, now int64) {
	if n >= p.peak || now-p.peakAt > int64(lullFor) {
		p.peak, p.peakAt = n, now
	}
}

// lasts is what calls take in d.
func (p *pace) lasts(d time.Duration) int64 {
	return mulDiv(p.flow, int64(d), int64(time.Second), up)
}

// tend reports a window and asks for what it needs. What fails is told by sync,
// and tried again the next time.
func (l *Ledger) tend(a *account, w *window, ask wish) {
	now := l.wallClock()
	_ = l.syncInTurn(new(waiter), a, w, l.termsNow(a, now), ask, now)
}

// termsNow is the limit of an account under the table that was applied last.
func (l *Ledger) termsNow(a *account, now int64) syncTerms {
	l.mu.Lock()
	t := l.table
	l.mu.Unlock()
	if t == nil {
		return syncTerms{}
	}
	g := t.groupOf(a.set)
	if g == nil {
		return syncTerms{} // it is no longer configured: what was granted is still booked
	}
	a.mu.Lock()
	s := a.subject
	a.mu.Unlock()
	return g.syncTerms(a, &s, t, now)
}

// share is this ledger's part of the room there is: of that, all replicas' next
// requests together take half.
func (w *window) share() int64 {
	return max(0, w.supply.limit-w.used()-w.reserved()-w.inHand()) / int64(2*max(1, w.supply.replicas))
}

// autonomy is for how long what is in hand lasts, at the pace of the last seconds; ok
// is false where calls take nothing. The account's lock is held.
func (w *window) autonomy() (d time.Duration, ok bool) {
	if w.supply.steady < fine {
		return 0, false
	}
	return time.Duration(mulDiv(max(0, w.inHand()), fine*int64(time.Second), w.supply.steady, down)), true
}

func (t tended) of() *account { return t.account }

func (t tended) autonomyLocked(int64) (time.Duration, bool) { return t.window.autonomy() }

// Autonomy is for how long calls go on while a shared store does not answer, at the
// pace of the last seconds: until the first account whose limits refuse calls then has
// nothing more in hand. ok is false where no call takes anything of such a one.
func (l *Ledger) Autonomy() (least time.Duration, ok bool) {
	l.mu.Lock()
	t := l.table
	l.mu.Unlock()
	if t == nil {
		return 0, false
	}
	for _, k := range l.escrow.list() {
		a := k.of()
		g := t.groupOf(a.set)
		if g == nil || !slices.ContainsFunc(g.members, func(m *member) bool { return m.Mode == Enforce && !m.OnStoreDown.Allow }) {
			continue
		}
		a.mu.Lock()
		d, inUse := k.autonomyLocked(l.steady())
		a.mu.Unlock()
		if inUse && (!ok || d < least) {
			least, ok = d, true
		}
	}
	return least, ok
}

// StoreDown reports whether the quota store has not answered the last call.
func (l *Ledger) StoreDown() bool { return l.down.Load() }

// refill is what a call lacks.
type refill struct {
	need   int64
	lowest int64 // amount of the limits that would refuse
	within int64 // what all replicas may hold beyond the store's word while it is down
	allow  bool  // whatever it is
}

func newRefill(need int64) refill {
	return refill{need: need, lowest: math.MaxInt64, within: math.MaxInt64, allow: true}
}

// of takes a limit that would refuse.
func (r *refill) of(m *member, t *terms) {
	r.lowest = min(r.lowest, t.amount)
	r.within = min(r.within, int64(m.OnStoreDown.Within))
	r.allow = r.allow && m.OnStoreDown.Allow
}

// refillLocked asks the store for what a call lacks in w, until it is there or
// nothing more is granted. a.mu is held, but not while the store is asked. What
// others have in hand may be idle: they are asked for it, and have a moment to
// give it back.
func (l *Ledger) refillLocked(who *waiter, a *account, w *window, t syncTerms, r refill, now int64) error {
	began := l.steady()
	a.mu.Unlock()
	err := w.syncing.lock(who)
	a.mu.Lock()
	if err != nil {
		return err
	}
	defer w.syncing.unlock(who)
	p := &w.supply
	wait, patience := recallFor/21, recallFor // 1, 4, 16 of them
	if p.dry > 0 && began-p.dry < int64(stillDryFor) && r.need >= p.dryNeed/2 {
		patience = wait
	}
	for !w.fits(r.need, r.lowest) {
		if l.shared && began < p.dry && r.need >= p.dryNeed {
			return nil // another call has just asked for no more than this
		}
		ask := wish{need: r.need}
		if l.shared {
			share := w.share()
			ahead := p.aim(share)
			if few := mulDiv(r.need, fewCalls, 1, down); few <= share/fewCalls {
				ahead = max(ahead, few)
			}
			p.aimed(min(ahead, share), began)
			ask.want = w.inHand() + min(ahead, share)
			ask.recall = true
		}
		a.mu.Unlock()
		granted, err := l.sync(who, a, w, t, ask, now)
		a.mu.Lock()
		switch {
		case err != nil:
			return err
		case w.inHand() >= r.need:
			// It is there; if it does not fit, it is the limit's amount that refuses.
			return nil
		case granted > 0:
		case !l.shared:
			return nil
		case w.others == 0 || r.need > r.lowest-w.used()-w.held || wait > patience:
			p.dry, p.dryNeed = l.steady()+int64(dryFor), r.need
			return nil
		default:
			a.mu.Unlock()
			time.Sleep(wait) //nolint:forbidigo // others give back what is idle meanwhile
			a.mu.Lock()
			wait *= 4
		}
	}
	return nil
}

// secureLocked makes r fit in w, if it can: from what is in hand, by the store, unless
// that has just failed with err, or by this ledger's own word. Who was left for has
// neither. a.mu is held, but not while the store is asked.
func (l *Ledger) secureLocked(who *waiter, a *account, w *window, g *group, s *Subject, t *Table, r refill, err error, now int64) (fits bool, _ error) {
	if err == nil && !w.fits(r.need, r.lowest) {
		err = l.refillLocked(who, a, w, g.syncTerms(a, s, t, now), r, now)
	}
	switch {
	case l.left.Load():
		return false, quota.ErrLeft
	case w.fits(r.need, r.lowest):
		return true, err
	}
	return err != nil && l.borrowLocked(w, r), err
}

// holdLocked holds need in w. What nobody enforces and is not in hand is granted by the
// owner's word, as for an overdraft: its spending counts beyond its limit. a.mu is
// held.
func (l *Ledger) holdLocked(a *account, w *window, need int64) {
	w.granted += max(0, need-w.inHand())
	w.held += need
	if l.shared {
		l.tendLocked(a, w)
	}
}

// borrowLocked takes what a call lacks by this ledger's own word while the store
// is down, if every limit that would refuse allows it. Others hear of it as the
// store answers again. As long as more is out than the limit, maybe since it was
// taken like this, it is not allowed once more. a.mu is held.
func (l *Ledger) borrowLocked(w *window, r refill) bool {
	lacking := r.need - w.inHand()
	within := !w.supply.over && lacking <= r.within/l.replicas-w.supply.borrowed && r.need <= r.lowest-w.used()-w.held
	if !r.allow && !within {
		return false
	}
	w.supply.borrowed += max(0, lacking)
	w.granted += max(0, lacking)
	return true
}

// owner is what a store asks of a Ledger.
type owner struct{ ledger *Ledger }

// Recall implements quota.Owner.
func (o owner) Recall(k quota.Key) {
	if kept, ok := o.ledger.escrow.find(k); ok {
		kept.recall(o.ledger)
	}
}

func (t tended) recall(l *Ledger) {
	a, w := t.account, t.window
	a.mu.Lock()
	inHand := w.inHand()
	w.returned += max(0, inHand)
	a.mu.Unlock()
	if inHand > 0 {
		l.tend(a, w, wish{})
	}
}

// Reassert implements quota.Owner: all that this ledger knows is told again.
func (o owner) Reassert(ctx context.Context, lost func(quota.Key) bool) error {
	l := o.ledger
	l.mu.Lock()
	var sets []*accountSet
	for _, set := range l.sets {
		sets = append(sets, set)
	}
	l.mu.Unlock()
	g, going := errgroup.WithContext(ctx)
	g.SetLimit(tending)
	for _, set := range sets {
		for _, a := range set.all() {
			a.mu.Lock()
			windows := append([]*window(nil), a.windows...)
			a.mu.Unlock()
			for _, w := range windows {
				if lost(w.key) && going.Err() == nil {
					g.Go(func() error { return l.reassert(a, w) }) //nolint:contextcheck // a store has a deadline of its own, and what was granted must be heard
				}
			}
		}
	}
	l.bequeath(going, g, func(k quota.Key, _ string) bool { return lost(k) })
	l.leaveIn(leaveAfter)
	return errors.Join(g.Wait(), ctx.Err())
}

// leaves reports whether it is time for leaveAgain.
func (e *escrow) leaves(now int64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	due := e.leaveAt != 0 && now >= e.leaveAt
	if due {
		e.leaveAt = 0
	}
	return due
}

// leaveAgain gives back what earlier incarnations had in hand, as the store remembers
// from before it lost that, or as it was told by others who had not heard. First it
// tells what of that was spent.
func (l *Ledger) leaveAgain(ctx context.Context) {
	l.mu.Lock()
	ended := l.ended
	l.mu.Unlock()
	g, going := errgroup.WithContext(ctx)
	g.SetLimit(tending)
	l.bequeath(going, g, func(_ quota.Key, replica string) bool { return slices.Contains(ended, replica) })
	err := g.Wait()
	for _, replica := range ended {
		if err == nil {
			err = l.store.Leave(ctx, replica)
		}
	}
	if err != nil {
		l.log.Warn("what earlier incarnations had in hand of the quota store cannot be given back yet", "error", err)
		l.leaveIn(leaveRetry)
	}
}

func (l *Ledger) leaveIn(d time.Duration) {
	l.escrow.mu.Lock()
	defer l.escrow.mu.Unlock()
	l.escrow.leaveAt = l.steady() + int64(d)
}

func (l *Ledger) reassert(a *account, w *window) error {
	var who waiter
	if err := w.syncing.lock(&who); err != nil {
		return err
	}
	defer w.syncing.unlock(&who)
	a.mu.Lock()
	w.known = false // the store's memory of it may be older than this process
	ask := wish{mode: quota.NoGrants, others: w.supply.shares}
	a.mu.Unlock()
	if _, err := l.sync(&who, a, w, l.termsNow(a, l.wallClock()), ask, l.wallClock()); err != nil && !errors.Is(err, errLost) {
		return err
	}
	return nil
}

// Close gives back everything that this ledger has in hand, and reports what it
// has spent. No call may be open. What it cannot tell the store by the end of ctx
// stays set aside. Who was left for has nothing to give back, and is quota.ErrLeft: what
// it has spent since, Succeed tells.
func (l *Ledger) Close(ctx context.Context) error {
	if !l.shared {
		return nil
	}
	l.reportDropped(new(waiter), l.wallClock()) //nolint:contextcheck // a store has a deadline of its own, and what was granted must be heard
	g, going := errgroup.WithContext(ctx)
	g.SetLimit(tending)
	for _, k := range l.escrow.list() {
		if going.Err() != nil {
			break
		}
		g.Go(func() error { return k.close(l) })
	}
	return errors.Join(g.Wait(), ctx.Err())
}

func (t tended) close(l *Ledger) error {
	return l.syncInTurn(new(waiter), t.account, t.window, syncTerms{}, wish{mode: quota.Close}, l.wallClock())
}
