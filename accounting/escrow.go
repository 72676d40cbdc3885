package accounting

import (
	"context"
	"errors"
	"math/rand/v2"
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
	// Of room that nobody is about to need, what lasts so long is in hand beside that:
	// for so long calls go on while the store is down.
	provision = 5 * time.Minute
	// recallFor is how long a call waits for what others have idle, in steps that
	// double. Then the account-window is dry: for dryFor nobody asks again.
	recallFor = 155 * time.Millisecond
	dryFor    = 100 * time.Millisecond
	// detailEvery is how old what a ledger knows of others' shares may be: what was
	// granted since to one that then dies with its disk, as the store loses it too,
	// is what a loss can cost.
	detailEvery = 2 * time.Second
	// tending is how many account-windows are reported at the same time.
	tending = 16
	// idleEvery is how old what is known of an account-window may be that nothing is
	// in hand of: for people and metrics, and so that what others have is known when
	// the store loses it. At most idleTick of them are looked at in each tick.
	idleEvery = 30 * time.Second
	idleTick  = 32
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
	shares   []quota.Share
	detailed int64 // when they were told
	heardAt  int64 // when the store has last answered
}

// pace is what calls take a second, on average.
type pace struct {
	at    int64 // when it was measured last, in Unix nanoseconds
	level int64 // spent and held then
	flow  int64
	busy  int64 // when calls last took something
}

// heard takes what the store has answered.
func (p *supply) heard(s *quota.Sync, st *quota.State) {
	p.given, p.borrowed, p.unsure = s.Returned, 0, false
	p.limit, p.replicas = st.Limit, st.Active
	p.over = st.Settled+st.Escrowed > st.Limit
	p.heardAt = s.Now.UnixNano()
	if s.Detail {
		p.shares, p.detailed = st.Shares, s.Now.UnixNano()
	}
}

// escrow is what Run looks after: the account-windows, buckets and sets of permits
// with something in hand, held, or not yet reported.
type escrow struct {
	mu  sync.Mutex
	all map[quota.Key]kept

	idle []tended // that Run has still to look at
}

// kept is one of them.
type kept interface {
	key() quota.Key
	// due decides what is needed, gives back what is not, and returns the call that
	// tells the store; nil = there is nothing to tell.
	due(l *Ledger, now int64) (call func())
	// recall gives back what is idle.
	recall(l *Ledger)
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
func (l *Ledger) tendLocked(a *account, w *window, now int64) {
	if w.supply.tended || a.set == nil {
		return
	}
	w.supply.tended, w.supply.at, w.supply.level = true, now, w.spent+w.held
	l.escrow.put(tended{a, w})
}

// Run looks after what this ledger has in hand of a shared store until ctx ends:
// it asks for what calls are about to take before they need it, reports what was
// spent, and gives back what lies idle or what others ask for. It is called once.
// No call waits for it.
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
		watched = l.store.Watch(ctx, l.replica, owner{l})
	})
	// Of the time, so that a simulation repeats its course.
	jitters := rand.New(rand.NewPCG(uint64(wallClock()), 0)) //nolint:gosec // not a secret
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
		}
	}
}

// wallClock is for what nobody calls: it waits by itself.
func wallClock() int64 { return time.Now().UnixNano() } //nolint:forbidigo // as it says

func (l *Ledger) tendAll(ctx context.Context) {
	var g errgroup.Group
	g.SetLimit(tending)
	for _, k := range l.escrow.list() {
		if ctx.Err() != nil {
			break
		}
		if call := k.due(l, wallClock()); call != nil {
			g.Go(func() error { call(); return nil })
		}
	}
	_ = g.Wait() // who asks tells what goes wrong
	if len(l.escrow.idle) == 0 {
		l.escrow.idle = l.windows(wallClock(), idleEvery)
	}
	n := min(idleTick, len(l.escrow.idle))
	l.hear(ctx, l.escrow.idle[:n])
	l.escrow.idle = l.escrow.idle[n:]
}

// Refresh asks a shared store for what it knows of every account-window that this
// ledger has, if that is older than a second, until ctx ends. Budgets tells it then.
func (l *Ledger) Refresh(ctx context.Context) {
	if l.shared {
		l.hear(ctx, l.windows(wallClock(), time.Second))
	}
}

// windows are those that now is in and that the store was not heard of for so long.
func (l *Ledger) windows(now int64, since time.Duration) (all []tended) {
	l.mu.Lock()
	t := l.table
	l.mu.Unlock()
	if t == nil {
		return nil
	}
	for _, layer := range t.layers() {
		for _, g := range layer.groups {
			if g.window == NoWindow {
				continue
			}
			for _, a := range g.set.all() {
				a.mu.Lock()
				if w := a.windowLocked(now); w != nil && now-w.supply.heardAt > int64(since) {
					all = append(all, tended{a, w})
				}
				a.mu.Unlock()
			}
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

func (t tended) due(l *Ledger, now int64) (call func()) {
	a, w := t.account, t.window
	var ask wish
	a.mu.Lock()
	defer a.mu.Unlock()
	p := &w.supply
	p.measure(w.spent+w.held, now)
	inHand := w.inHand()
	switch {
	case p.over:
		w.returned += max(0, inHand)
	case inHand > p.lasts(idleStock)+2*w.provision():
		w.returned += inHand - p.lasts(stock) - w.provision()
	case now < w.end && inHand < p.lasts(stock/2)+w.provision()/2:
		ask.want = min(p.lasts(stock)+w.provision(), inHand+w.share())
	}
	ask.detail = time.Duration(now-p.detailed) > detailEvery
	due := p.unsure || w.spent != w.reported || w.returned != p.given || p.borrowed > 0 || ask.want > inHand || ask.detail && w.known
	if due {
		return func() { l.tend(a, w, ask) }
	}
	if w.inHand() == 0 && w.held == 0 {
		p.tended = false
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
	p.flow = (3*p.flow + min(mulDiv(took, int64(time.Second), passed, down), maxAmount/4)) / 4
	switch {
	case took > 0:
		p.busy = now
	case now-p.busy > int64(idleStock):
		p.flow = 0
	}
	p.at, p.level = now, level
}

// lasts is what calls take in d.
func (p *pace) lasts(d time.Duration) int64 {
	return mulDiv(p.flow, int64(d), int64(time.Second), up)
}

// tend reports a window and asks for what it needs. What fails is told by sync,
// and tried again the next time.
func (l *Ledger) tend(a *account, w *window, ask wish) {
	w.syncing.Lock()
	defer w.syncing.Unlock()
	_, _ = l.sync(a, w, l.termsNow(a, wallClock()), ask, wallClock())
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

// provision is what shall be in hand beside the stock: a small part of the room, so
// that nobody lacks it before its owner is asked for it.
func (w *window) provision() int64 { return min(w.supply.lasts(provision), w.share()/4) }

// autonomy is for how long what is in hand lasts, at the pace of the last seconds; ok
// is false where calls take nothing.
func (w *window) autonomy() (d time.Duration, ok bool) {
	if w.supply.flow == 0 {
		return 0, false
	}
	return time.Duration(mulDiv(max(0, w.inHand()), int64(time.Second), w.supply.flow, down)), true
}

// Autonomy is for how long calls go on while a shared store does not answer, at the
// pace of the last seconds: until the first account-window has nothing more in hand.
// ok is false where no call takes anything.
func (l *Ledger) Autonomy() (least time.Duration, ok bool) {
	for _, k := range l.escrow.list() {
		t, isWindow := k.(tended)
		if !isWindow {
			continue
		}
		t.account.mu.Lock()
		d, inUse := t.window.autonomy()
		t.account.mu.Unlock()
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
func (l *Ledger) refillLocked(a *account, w *window, t syncTerms, r refill, now int64) error {
	began := wallClock()
	a.mu.Unlock()
	w.syncing.Lock()
	defer w.syncing.Unlock()
	a.mu.Lock()
	p := &w.supply
	wait := recallFor / 31 // 1, 2, 4, 8, 16 of them
	for !w.fits(r.need, r.lowest) {
		if l.shared && began < p.dry && r.need >= p.dryNeed {
			return nil // another call has just asked for no more than this
		}
		ask := wish{need: r.need}
		if l.shared {
			ask.want = w.inHand() + min(p.lasts(stock), w.share())
			ask.recall = true
		}
		a.mu.Unlock()
		granted, err := l.sync(a, w, t, ask, now)
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
		case w.others == 0 || r.need > r.lowest-w.used()-w.held || wait > recallFor:
			p.dry, p.dryNeed = wallClock()+int64(dryFor), r.need
			return nil
		default:
			a.mu.Unlock()
			time.Sleep(wait) //nolint:forbidigo // others give back what is idle meanwhile
			a.mu.Lock()
			wait *= 2
		}
	}
	return nil
}

// borrowLocked takes what a call lacks by this ledger's own word while the store
// is down, if every limit that would refuse allows it. Others hear of it as the
// store answers again. a.mu is held.
func (l *Ledger) borrowLocked(w *window, r refill) bool {
	lacking := r.need - w.inHand()
	within := lacking <= r.within/l.replicas-w.supply.borrowed && r.need <= r.lowest-w.used()-w.held
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
	l.mu.Lock()
	inherited := l.inherited
	l.mu.Unlock()
	for replica, spent := range inherited {
		for text, n := range spent {
			if aw, err := parseAccountWindow(text); err == nil && lost(newWindow(aw.account, aw.window).key) {
				g.Go(func() error { return l.inherit(going, replica, text, n, time.Unix(0, wallClock())) })
			}
		}
	}
	return errors.Join(g.Wait(), ctx.Err())
}

func (l *Ledger) reassert(a *account, w *window) error {
	w.syncing.Lock()
	defer w.syncing.Unlock()
	a.mu.Lock()
	w.known = false // the store's memory of it may be older than this process
	ask := wish{mode: quota.NoGrants, others: w.supply.shares}
	a.mu.Unlock()
	if _, err := l.sync(a, w, l.termsNow(a, wallClock()), ask, wallClock()); err != nil && !errors.Is(err, errLost) {
		return err
	}
	return nil
}

// Close gives back everything that this ledger has in hand, and reports what it
// has spent. No call may be open. What it cannot tell the store by the end of ctx
// stays set aside.
func (l *Ledger) Close(ctx context.Context) error {
	if !l.shared {
		return nil
	}
	l.reportDropped(wallClock()) //nolint:contextcheck // a store has a deadline of its own, and what was granted must be heard
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
	t.window.syncing.Lock()
	defer t.window.syncing.Unlock()
	_, err := l.sync(t.account, t.window, syncTerms{}, wish{mode: quota.Close}, wallClock())
	return err
}
