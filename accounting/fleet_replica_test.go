package accounting_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"airgate/accounting"
	"airgate/accounting/journal"
	"airgate/accounting/journal/disk"
	"airgate/accounting/journal/disk/disktest"
	"airgate/accounting/money"
	"airgate/accounting/quota"
	"airgate/accounting/record"
)

// replica is one airgate of the fleet: a directory on a disk of its own, and one
// process after the other.
type replica struct {
	f     *fleet
	i     uint64
	name  string
	rng   *rand.Rand // of what happens between lives
	disk  *disktest.Disk
	skew  atomic.Int64 // by which its clock is wrong
	net   *fleetNet
	lives int
	fates *rand.Rand // of its disks
	disks uint64

	balances *accounting.Balances // of the last life

	// The fleet's lock guards what follows.
	life    *life
	held    time.Time             // all that it sends is held back until then
	calls   map[string]*fleetCall // :: request id → call that may be let go, and may not be in the book
	charged map[string]int64      // :: account-window → what its records say, or will say
}

// fleetCall is what the fleet knows of a call.
type fleetCall struct {
	accounts           []string // account-windows of money
	need, cost         int64
	tokens, usedTokens int64
	daily              string    // account-window of tokens; "" = they are not counted
	rate               *rateCall // what it took of the rate of tokens
	ended              bool      // it is, or may be, settled in the book: its intent is there
	counted            bool      // its cost is in the sums
}

func newReplica(f *fleet, i int) *replica {
	r := &replica{
		f: f, i: uint64(i), name: fmt.Sprintf("r%d", i), rng: f.source(uint64(i+1) << 40), disk: disktest.New(f.seed<<8 | uint64(i)),
		calls: map[string]*fleetCall{}, charged: map[string]int64{}, balances: accounting.NewBalances(), fates: f.source(1<<33 | uint64(i)),
	}
	r.net = newFleetNet(r)
	return r
}

func (r *replica) now() time.Time { return time.Now().Add(time.Duration(r.skew.Load())) }

// run is one process after the other, until the fleet is over and one has closed.
func (r *replica) run() {
	for !r.live() {
		if !r.f.sleep(1 + upTo(r.rng, pick(r.rng, time.Millisecond, time.Second, 3*time.Second, 20*time.Second))) {
			time.Sleep(1 + upTo(r.rng, time.Second)) // it is started again all the same
		}
	}
}

// lifePlan is what will happen to a process.
type lifePlan struct {
	length time.Duration // then it is stopped, or dies
	dies   bool
	power  bool // dies because the machine does
	disk   bool // and its disk with it
	at     int  // dies at this change of the disk, if it comes to it; 0 = does not
}

func (r *replica) plan() lifePlan {
	p := lifePlan{length: time.Hour}
	select {
	case <-r.f.over:
		return p
	default:
	}
	if r.f.plain || r.rng.IntN(5) == 0 {
		return p
	}
	p.length = 1 + upTo(r.rng, pick(r.rng, 3*time.Second, 20*time.Second, 60*time.Second))
	if p.dies = r.rng.IntN(4) > 0; p.dies {
		p.power = r.rng.IntN(2) == 0
		p.disk = r.f.disks && r.fates.IntN(4) == 0
		p.at = pick(r.rng, 0, 1+r.rng.IntN(30), 1+r.rng.IntN(500), 1+r.rng.IntN(500))
	}
	return p
}

// life is one process.
type life struct {
	r    *replica
	f    *fleet
	plan lifePlan

	over     chan struct{} // closed as it is stopped, or dies
	end      sync.Once
	dead     atomic.Bool
	ended    atomic.Bool // dead, or closed
	safe     atomic.Bool // nothing ends it any more
	ops      int         // changes of the disk, whose lock guards it
	journal  *journal.Journal
	balances *accounting.Balances
	ledger   *accounting.Ledger
	table    atomic.Pointer[accounting.Table]
	removed  atomic.Bool // as in its config
	callers  sync.WaitGroup

	// The fleet's lock guards what follows.
	parallel    int // calls in flight
	requests    corrections
	tokens      corrections
	tokensSpent map[string]int64 // :: account-window of tokens

	unanswered atomic.Int64 // Takes
}

// live is a process, from its start to its end. It reports whether it lived when the
// fleet was over, and has closed.
func (r *replica) live() (closed bool) {
	r.lives++
	l := &life{r: r, f: r.f, plan: r.plan(), over: make(chan struct{}), balances: accounting.NewBalances(), tokensSpent: map[string]int64{}}
	r.disk.Fail(l.fault)
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	serves := l.open(ctx) && l.join(ctx, &running)
	if serves {
		closed = l.serve()
	}
	l.leave()
	l.callers.Wait()
	stop()
	running.Wait()
	if l.journal != nil {
		if serves && !l.dead.Load() {
			l.journal.Retire()
			if err := l.ledger.Close(context.Background()); err == nil {
				l.ended.Store(true)
				_, err = l.journal.Append(accounting.QuotaClosed(r.now(), l.journal.Writer()))
				if err != nil && !l.dead.Load() {
					r.f.problem("%s cannot record that it has closed: %v", r.name, err)
				}
			} else if l.forget(); closed && !l.dead.Load() {
				r.f.problem("%s cannot close: %v", r.name, err)
			}
		}
		if err := l.journal.Close(); err != nil && !l.dead.Load() {
			r.f.problem("the journal of %s: %v", r.name, err)
		}
		r.balances = l.balances
	}
	if l.plan.disk && l.dead.Load() {
		r.loseDisk()
		return false
	}
	if l.plan.power && l.dead.Load() {
		r.disk = r.disk.Crash()
		r.f.count("power losses")
		return false
	}
	r.disk = r.disk.Kill()
	if l.dead.Load() {
		r.f.count("kills")
		return false
	}
	if serves {
		r.f.count("stops")
	}
	return closed
}

// loseDisk begins anew with an empty disk: what its records said, nobody knows.
func (r *replica) loseDisk() {
	f := r.f
	r.disks++
	r.disk, r.balances = disktest.New(f.seed<<8|r.i|r.disks<<56), accounting.NewBalances()
	f.store.loseRecords(r.name)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(r.calls)) {
		c := r.calls[id]
		cost := c.need // it may have been billed
		if c.ended {
			cost = c.cost
		}
		for _, a := range c.accounts {
			if !c.counted {
				s := f.sumLocked(a)
				s.held -= c.need
				s.over += max(0, cost-c.need)
				r.chargeLocked(a, cost)
			}
		}
	}
	clear(r.calls)
	for a, n := range r.charged {
		f.sumLocked(a).unbooked += n
	}
	clear(r.charged)
	f.counts["lost disks"]++
}

// chargeLocked counts what was spent.
func (r *replica) chargeLocked(accountWindow string, n int64) {
	r.f.sumLocked(accountWindow).spent += n
	r.charged[accountWindow] += n
}

func (r *replica) source(n uint64) *rand.Rand {
	return r.f.source((r.i+1)<<40 | uint64(r.lives)<<20 | n)
}

// fault decides what becomes of a change of the disk.
func (l *life) fault(string, string) error {
	l.ops++
	if l.ops == l.plan.at && !l.safe.Load() {
		l.die()
	}
	if l.dead.Load() {
		return disktest.ErrCrashed
	}
	return nil
}

// die ends the process without a word.
func (l *life) die() {
	if l.dead.Swap(true) {
		return
	}
	l.forget()
	l.f.mu.Lock()
	l.f.parallel -= l.parallel
	l.parallel = 0
	l.f.mu.Unlock()
	l.leave()
}

// forget ends a process without that it could tell all: tokens that are held, or were
// used and not told, others can have from then on. What has left may still be heard.
func (l *life) forget() {
	l.ended.Store(true)
	unheard := l.f.store.unheard(l)
	l.f.mu.Lock()
	defer l.f.mu.Unlock()
	for _, c := range l.r.calls {
		if c.daily != "" {
			l.f.sumLocked(c.daily).held -= c.tokens
			c.daily = ""
		}
	}
	for text, n := range unheard {
		s := l.f.sumLocked(text)
		s.spent -= n
		s.heard += n
	}
}

func (l *life) leave() { l.end.Do(func() { close(l.over) }) }

// open opens the book, and settles what a crash has left open.
func (l *life) open(ctx context.Context) bool {
	r := l.r
	d := fleetDisk{r.disk, l}
	owner, err := journal.Own(ctx, d, "/journal", nil)
	if err == nil {
		l.journal, err = journal.Open(ctx, journal.Config{
			Dir: "/journal", Owner: owner, Replica: r.name, SegmentBytes: 32 << 10, SyncEvery: 5 * time.Millisecond,
			State: l.balances, StartCode: accounting.StartCode(true), Disk: d,
		})
	}
	if err != nil {
		return l.failed("the journal does not open", err)
	}
	l.examine()
	for _, o := range l.balances.Open() {
		if _, err := l.journal.Append(&record.Record{
			Type: record.Settle, Time: r.now(), RequestID: o.RequestID, Reserved: o.Reserved, Cost: o.Reserved, HasCost: true,
		}); err != nil {
			return l.failed("orphans", err)
		}
		l.f.count("orphans")
	}
	return true
}

func (l *life) failed(what string, err error) bool {
	l.f.count("failed starts")
	if !l.dead.Load() {
		l.f.problem("%s of %s: %v", what, l.r.name, err)
	}
	return false
}

// examine compares what the book has of the calls of earlier lives.
func (l *life) examine() {
	open := map[string]int64{} // :: request id → what its call held, at least 1
	for _, o := range l.balances.Open() {
		open[o.RequestID] = int64(o.Reserved)
	}
	f := l.f
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(l.r.calls)) {
		c := l.r.calls[id]
		delete(l.r.calls, id)
		for _, a := range c.accounts {
			s := f.sumLocked(a)
			switch {
			case c.counted && open[id] > 0: // its settlement is lost
				s.again += open[id] - c.cost
				l.r.charged[a] += open[id] - c.cost
				s.twice += max(0, open[id]-c.cost)
				s.heard += max(0, c.cost-open[id])
			case c.counted:
			case open[id] > 0:
				s.held -= c.need
				l.r.chargeLocked(a, open[id])
			case c.ended: // its settlement was written as it died
				s.held -= c.need
				l.r.chargeLocked(a, c.cost)
				s.over += max(0, c.cost-c.need)
			default: // nobody has heard of it
				s.held -= c.need
				f.counts["unheard"]++
			}
		}
	}
}

// join begins to count on the store.
func (l *life) join(ctx context.Context, running *sync.WaitGroup) bool {
	f, r := l.f, l.r
	var err error
	l.ledger, err = accounting.New(accounting.Config{
		Store: r.net.of(l), Replica: l.journal.Writer(), Shared: true, Replicas: f.n, Now: r.now,
	})
	if err != nil {
		return l.failed("ledger", err)
	}
	f.store.add(l)
	f.mu.Lock()
	config := f.config
	r.life = l
	f.mu.Unlock()
	if !l.apply(config) {
		return false
	}
	closed, err := l.ledger.Succeed(ctx, l.balances, r.now())
	if err != nil {
		f.count("failed starts") // it will be started again
		return false
	}
	if closed != nil {
		if _, err := l.journal.Append(closed); err != nil {
			return l.failed("the record that all is closed", err)
		}
	}
	running.Go(func() {
		if err := l.ledger.Run(ctx); err != nil {
			f.problem("Run: %v", err)
		}
	})
	for range 150 {
		if f.store.whole() || l.dead.Load() {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	return !l.dead.Load()
}

// apply makes the config's limits hold, and records its overrides.
func (l *life) apply(config fleetConfig) bool {
	table, err := accounting.Compile(config.limits())
	if err != nil {
		return l.failed("limits", err)
	}
	for _, change := range l.balances.OverrideChanges(table, l.r.now()) {
		if _, err := l.journal.Append(&change); err != nil {
			return l.failed("the record of an override", err)
		}
	}
	if config.removed {
		l.removed.Store(true)
	}
	if err := l.ledger.Apply(table, l.r.now()); err != nil {
		return l.failed("limits", err)
	}
	l.removed.Store(config.removed)
	l.table.Store(table)
	return true
}

// reload tells a replica that lives of changed limits.
func (r *replica) reload(config fleetConfig) {
	r.f.mu.Lock()
	l := r.life
	r.f.mu.Unlock()
	if l != nil && !l.dead.Load() && l.table.Load() != nil {
		select {
		case <-l.over:
		default:
			l.apply(config)
		}
	}
}

// serve lets callers call until the process is to end, or, if that is sooner, the
// fleet is over and all live.
func (l *life) serve() (closed bool) {
	for c := range uint64(fleetCallers) {
		l.callers.Go(func() { l.call(l.r.source(2+c), c) })
	}
	l.callers.Go(l.setClock)
	end := time.NewTimer(l.plan.length)
	defer end.Stop()
	select {
	case <-l.f.over:
		l.safe.Store(true)
		l.callers.Wait()
		if l.dead.Load() {
			return false
		}
		l.r.balances = l.balances
		l.f.ready.Done()
		<-l.f.closing
		return true
	case <-l.over:
	case <-end.C:
		if l.plan.dies {
			l.die()
		}
	}
	return false
}

// setClock sets the clock now and then.
func (l *life) setClock() {
	if l.f.plain {
		return
	}
	rng := l.r.source(0)
	for l.sleep(1 + upTo(rng, time.Minute)) {
		skew := upTo(rng, 144*time.Hour) - 72*time.Hour
		if rng.IntN(3) == 0 {
			skew = 0
		}
		l.r.skew.Store(int64(skew))
		l.f.count("clock jumps")
	}
}

// sleep reports whether the process goes on to let callers call.
func (l *life) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.over:
	case <-l.f.over:
	}
	return false
}

// call calls, one call after the other.
func (l *life) call(rng *rand.Rand, caller uint64) {
	f := l.f
	pace := time.Duration(1+rng.IntN(60)) * time.Millisecond
	var h accounting.Hold
	for n := 0; l.sleep(1 + upTo(rng, pace)); n++ {
		s := subject(pick(rng, fleetKeys...), pick(rng, "search", "chat"))
		c := &fleetCall{need: 1 + rng.Int64N(40)}
		c.cost = rng.Int64N(c.need + 1)
		if rng.IntN(50) == 0 {
			c.cost = c.need + 1 + rng.Int64N(40)
		}
		if f.tokens.limit.Amount > 0 {
			c.tokens = 1 + rng.Int64N(200)
			if c.usedTokens = rng.Int64N(c.tokens + 1); rng.IntN(5) == 0 {
				c.usedTokens = c.tokens + rng.Int64N(400)
			}
		}
		took := upTo(rng, pick(rng, 20*time.Millisecond, 20*time.Millisecond, 20*time.Millisecond, 100*time.Millisecond, time.Second))
		table := l.table.Load()
		began, unanswered := time.Now(), l.unanswered.Load()
		r := l.ledger.Enter(&h, table, s, l.r.now())
		entered := time.Now()
		if r == nil {
			r = l.ledger.Reserve(&h, table, s, accounting.Need{USD: money.NanoUSD(c.need), Tokens: money.Tokens(c.tokens)}, l.r.now())
			if f.tokens.limit.Amount > 0 {
				l.tookTokens(c, entered, r)
			}
		}
		// A rate that allows it lets a call pass that asked in vain, and takes nothing.
		if !f.requests.limit.OnStoreDown.Allow || l.unanswered.Load() == unanswered {
			l.took(began, entered, r)
		} else {
			f.count("maybe passed by an outage")
		}
		if l.dead.Load() {
			return
		}
		if r != nil {
			if r.Limit != nil && r.Limit.Mode == accounting.Shadow {
				f.problem("%s, which is shadow, refuses a call", r.Limit.Name)
			}
			f.count("refused: " + r.Code.String())
			if f.requests.limit.OnStoreDown.Allow && r.Code == accounting.QuotaUnavailable && r.Limit.Resource == accounting.Requests {
				f.problem("a rate that allows it has refused a call since the store is down")
			}
			l.sleep(upTo(rng, time.Second))
			continue
		}
		id := fmt.Sprintf("%s-%d-%d-%d", l.r.name, l.r.lives, caller, n)
		if !l.let(id, c, &h) {
			return
		}
		// The call goes on until it ends, though the process is being stopped.
		if time.Sleep(1 + took); l.dead.Load() {
			return
		}
		if f.slices && rng.IntN(2) == 0 && !l.extend(id, c, &h, s, rng) {
			return
		}
		l.settle(id, c, &h)
		// Who is woken with others has the instant for himself.
		time.Sleep(1 + upTo(rng, time.Millisecond))
	}
}

// took notes what a call took of the rate, and has given back if another limit has
// refused it.
func (l *life) took(began, entered time.Time, r *accounting.Refusal) {
	if r != nil && r.Limit != nil && r.Limit.Resource == accounting.Requests {
		return
	}
	f := l.f
	f.mu.Lock()
	defer f.mu.Unlock()
	c := &rateCall{at: entered, used: f.requests.cost(1)}
	f.requests.calls = append(f.requests.calls, c)
	f.requests.wait = max(f.requests.wait, entered.Sub(began))
	if r != nil {
		c.at = began
		f.requests.correct(&l.requests, c, 0)
	}
}

// of is what the store is to hear of a rate.
func (l *life) of(k quota.Key) *corrections {
	if isTokens(k) {
		return &l.tokens
	}
	return &l.requests
}

// tookTokens notes what a call took of the rate of tokens, and has given back if a
// budget has refused it.
func (l *life) tookTokens(c *fleetCall, entered time.Time, r *accounting.Refusal) {
	if r != nil && r.Limit != nil && r.Limit.Resource == accounting.Tokens {
		return
	}
	f := l.f
	f.mu.Lock()
	defer f.mu.Unlock()
	c.rate = &rateCall{at: time.Now(), used: f.tokens.cost(c.tokens)}
	f.tokens.calls = append(f.tokens.calls, c.rate)
	f.tokens.wait = max(f.tokens.wait, time.Since(entered))
	if r != nil {
		c.rate.at = entered
		f.tokens.correct(&l.tokens, c.rate, 0)
	}
}

// let lets a call go to the provider, and returns once it is safe in the book.
func (l *life) let(id string, c *fleetCall, h *accounting.Hold) bool {
	f := l.f
	limits := h.AppendLimits(nil)
	f.mu.Lock()
	f.counts["admitted"]++
	f.parallel++
	l.parallel++
	for i := range limits {
		switch r := &limits[i]; r.Resource {
		case "concurrent":
			if int64(f.parallel) > r.Limit && time.Since(f.lost) > 30*time.Second {
				f.problemLocked("%d calls at once, with %d permits", f.parallel, r.Limit)
			}
		case "tokens":
			if r.Name == "daily" {
				s := f.sumLocked(r.Account)
				c.daily, s.most, s.held = r.Account, max(s.most, r.Limit), s.held+c.tokens
				if s.held+s.spent > s.most+s.over {
					f.problemLocked("%s: %d of %s is held and %d spent of at most %d and %d", id, s.held, c.daily, s.spent, s.most, s.over)
				}
			}
		case "usd":
			s := f.sumLocked(r.Account)
			if r.Mode == "enforce" {
				s.most = max(s.most, r.Limit)
			}
			if slices.Contains(c.accounts, r.Account) {
				continue
			}
			c.accounts = append(c.accounts, r.Account)
			s.held += c.need
		}
	}
	f.withinLocked(id, c)
	l.r.calls[id] = c
	f.mu.Unlock()
	at, err := l.journal.Append(&record.Record{
		Type: record.Intent, Time: l.r.now(), RequestID: id, Reserved: money.NanoUSD(c.need), Limits: limits,
	})
	if err == nil {
		err = l.journal.Wait(context.Background(), at)
	}
	if err != nil && !l.dead.Load() {
		f.problem("the intent of %s: %v", id, err)
	}
	return err == nil && !l.dead.Load()
}

// withinLocked looks whether what is held and spent on the accounts of a call is within
// their limits.
func (f *fleet) withinLocked(id string, c *fleetCall) {
	for _, a := range c.accounts {
		s := f.sumLocked(a)
		if s.free || s.held+s.spent <= s.most+s.over {
			continue
		}
		if f.counts["beyond by an outage"]++; s.held+s.spent > s.most+s.over+f.within {
			f.problemLocked("%s: %d of %s is held and %d spent of at most %d, %d and %d", id, s.held, a, s.spent, s.most, s.over, f.within)
		}
	}
}

// extend holds more for a call that goes on, and returns once that is safe in the book.
func (l *life) extend(id string, c *fleetCall, h *accounting.Hold, s *accounting.Subject, rng *rand.Rand) bool {
	f := l.f
	more := 1 + rng.Int64N(20)
	removed := l.removed.Load()
	r := l.ledger.Extend(h, s, money.NanoUSD(more), l.r.now())
	removed = removed || l.removed.Load()
	if l.dead.Load() {
		return false
	}
	if r != nil {
		f.count("refused extensions")
		if r.Limit.Mode == accounting.Shadow {
			f.problem("%s, which is shadow, refuses to hold more", r.Limit.Name)
		}
		return true
	}
	f.mu.Lock()
	f.counts["extensions"]++
	c.need += more
	for _, a := range c.accounts {
		s := f.sumLocked(a)
		s.held += more
		if removed && strings.HasPrefix(a, "usd|each=key:") {
			s.over += more // no limit is there any more
		}
	}
	f.withinLocked(id, c)
	f.mu.Unlock()
	at, err := l.journal.Append(&record.Record{Type: record.Extend, Time: l.r.now(), RequestID: id, Reserved: money.NanoUSD(c.need)})
	if err == nil {
		err = l.journal.Wait(context.Background(), at)
	}
	if err != nil && !l.dead.Load() {
		f.problem("the extension of %s: %v", id, err)
	}
	if err != nil || l.dead.Load() {
		return false
	}
	if c.cost = rng.Int64N(c.need + 1); rng.IntN(50) == 0 {
		c.cost = c.need + 1 + rng.Int64N(40)
	}
	return true
}

// settle ends a call.
func (l *life) settle(id string, c *fleetCall, h *accounting.Hold) {
	f := l.f
	c.ended = true
	_, err := l.journal.Append(&record.Record{
		Type: record.Settle, Time: l.r.now(), RequestID: id, Cost: money.NanoUSD(c.cost), HasCost: true,
	})
	if err != nil {
		if !l.dead.Load() {
			f.problem("the settlement of %s: %v", id, err)
		}
		return
	}
	// The fleet counts first: who takes what comes back must find it there.
	f.mu.Lock()
	if l.parallel > 0 {
		l.parallel--
		f.parallel--
	}
	c.counted = true
	for _, a := range c.accounts {
		s := f.sumLocked(a)
		s.held -= c.need
		l.r.chargeLocked(a, c.cost)
		s.over += max(0, c.cost-c.need)
	}
	if c.daily != "" && !l.dead.Load() {
		s := f.sumLocked(c.daily)
		s.held -= c.tokens
		s.spent += c.usedTokens
		s.over += max(0, c.usedTokens-c.tokens)
		l.tokensSpent[c.daily] += c.usedTokens
		c.daily = ""
		f.tokens.correct(&l.tokens, c.rate, f.tokens.cost(c.usedTokens))
	}
	f.mu.Unlock()
	l.ledger.Settle(h, money.NanoUSD(c.cost), money.Tokens(c.usedTokens), l.r.now())
}

// fleetDisk is a replica's disk, which takes its time to sync.
type fleetDisk struct {
	*disktest.Disk

	life *life
}

type fleetFile struct {
	disk.File

	life *life
}

func (d fleetDisk) Open(name string) (disk.File, error) {
	f, err := d.Disk.Open(name)
	return fleetFile{f, d.life}, err
}

func (d fleetDisk) Create(name string) (disk.File, error) {
	f, err := d.Disk.Create(name)
	return fleetFile{f, d.life}, err
}

func (f fleetFile) Sync() error {
	// Drawn from the instant: two files may be synced at the same time.
	time.Sleep(1 + upTo(f.life.f.source(uint64(time.Now().UnixNano())), 3*time.Millisecond))
	return f.File.Sync()
}

var errNet = errors.New("no answer")
