package processor_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"airgate/accounting"
	"airgate/accounting/journal"
	"airgate/accounting/money"
	"airgate/accounting/quota/memory"
	"airgate/policy/config"
	"airgate/processor"
)

// plan is what will happen to a process.
type plan struct {
	callers int           // for each key
	length  time.Duration // then it is stopped, or dies
	dies    bool
	power   bool // dies because the machine does
	at      int  // dies at this change of the disk, if it comes to it; 0 = does not
	spells  []spell
	crowded bool          // others fill up the disk
	outage  time.Duration // of the sink, from the start
	well    bool          // nothing goes wrong
}

// plan decides what becomes of the next process.
func (w *world) plan() plan {
	p := plan{
		callers: 2 + w.rng.IntN(4),
		length:  pick(w.rng, time.Minute, time.Minute, 10*time.Minute, time.Hour),
		dies:    w.rng.IntN(5) > 0,
	}
	if p.dies {
		p.power = w.durability == journal.Disk && w.rng.IntN(2) == 0
		p.at = pick(w.rng, 0, 1+w.rng.IntN(30), 1+w.rng.IntN(2000), 1+w.rng.IntN(2000))
	}
	if w.rng.IntN(20) == 0 {
		p.length = 30 * time.Hour
	}
	for range w.rng.IntN(3) {
		from := w.rng.IntN(1000)
		s := spell{from: from, to: from + 1 + w.rng.IntN(3)}
		if w.rng.IntN(3) == 0 {
			s.op = pick(w.rng, "write", "sync", "truncate", "create", "rename", "sync directory", "remove", "mkdir", "reserve")
			s.to = from + 1 + w.rng.IntN(100)
		}
		p.spells = append(p.spells, s)
	}
	p.crowded = w.rng.IntN(4) == 0
	if w.rng.IntN(4) == 0 {
		p.outage = upTo(w.rng, 8*time.Hour)
	}
	return p
}

// life is one process.
type life struct {
	w    *world
	plan plan

	began    time.Time
	over     chan struct{} // closed as it is stopped, or dies
	end      sync.Once
	dead     atomic.Bool
	failed   atomic.Bool // the disk, once at least
	ops      int         // changes of the disk, whose lock guards it
	journal  *journal.Journal
	balances *accounting.Balances
	ledger   *accounting.Ledger
	proc     *processor.Processor
	terms    atomic.Pointer[terms] // in force
	model    *model
	callers  sync.WaitGroup
	turns    source // of turn
	syncs    source // of slowFile
}

// live is a process, from its start to its end.
func (w *world) live(p plan) {
	w.lives++
	synctest.Test(w.t, func(*testing.T) {
		l := &life{
			w: w, plan: p, over: make(chan struct{}), turns: source{rng: w.source(0)}, syncs: source{rng: w.source(1 << 25)},
			balances: accounting.NewBalances(), model: newModel(),
		}
		time.Sleep(time.Until(w.now.Add(w.skew)))
		l.began = time.Now()
		l.failed.Store(w.crowded)
		w.log.Info("a life begins", slog.Int("life", w.lives), slog.Any("plan", p))
		w.disk.Fail(l.fault)
		if w.log.Enabled(context.Background(), slog.LevelDebug) {
			w.disk.Trace(func(format string, args ...any) {
				w.log.Debug("disk", slog.String("change", fmt.Sprintf(format, args...)))
			})
		}
		l.run()
		w.now = w.now.Add(time.Since(l.began))
	})
	if p.power {
		w.disk, w.powerCut = w.disk.Crash(), true
		w.count("power losses")
		return
	}
	w.disk = w.disk.Kill()
	if p.dies {
		w.count("kills")
	} else {
		w.count("stops")
	}
}

// die ends the process without a word.
func (l *life) die() {
	l.dead.Store(true)
	l.leave()
}

func (l *life) leave() { l.end.Do(func() { close(l.over) }) }

// run is what cmd/airgate does, in its order.
func (l *life) run() {
	ctx, stopShipping := context.WithCancel(context.Background())
	var shipping sync.WaitGroup
	defer shipping.Wait()
	defer stopShipping()

	if l.open(ctx, &shipping) && l.start() {
		l.serve()
	}
	l.leave()
	l.callers.Wait()
	if l.journal == nil {
		return
	}
	if l.proc != nil && !l.dead.Load() {
		l.balanced("with no call in flight")
		if l.plan.well {
			l.permits()
		}
		l.journal.Retire()
		_ = l.proc.Flush(time.Now().Add(time.Hour))
	}
	if err := l.journal.Close(); err != nil && !l.failed.Load() && !l.dead.Load() {
		l.w.problem(2, "the journal failed on a sound disk: %v", err)
	}
	switch {
	case l.plan.well:
		shipping.Wait()
	case !l.dead.Load():
		time.Sleep(2 * time.Second)
	}
}

// open opens the book.
func (l *life) open(ctx context.Context, shipping *sync.WaitGroup) bool {
	w := l.w
	disk := slowDisk{w.disk, l}
	owner, err := journal.Own(ctx, disk, simDir, w.log)
	if err == nil {
		l.journal, err = journal.Open(ctx, journal.Config{
			Dir: simDir, Owner: owner, Replica: "sim", Durability: w.durability, SegmentBytes: w.segment, SyncEvery: 2 * time.Millisecond,
			Sinks: []string{w.mirror.name, w.sink.name}, State: l.balances, Log: w.log, Disk: disk,
			Book: func(context.Context) (journal.Book, error) { return w.mirror, nil },
		})
	}
	if err != nil {
		w.count("failed starts")
		if _, damaged := errors.AsType[*journal.CorruptError](err); damaged || !l.failed.Load() && !l.dead.Load() {
			w.problem(2, "the journal does not open: %v", err)
		}
		return false
	}
	w.sink.down, w.sink.back = time.Time{}, time.Time{}
	if l.plan.outage > 0 {
		w.sink.outage(l.began, l.plan.outage)
	}
	// Shipping begins before the start is done, so that the mirror tells what the
	// journal has found.
	for _, s := range []*simSink{w.mirror, w.sink} {
		shipping.Go(func() {
			if err := l.journal.Ship(ctx, s.name, s); err != nil && !errors.Is(err, context.Canceled) {
				w.problem(3, "shipping to %s: %v", s.name, err)
			}
		})
	}
	w.mirror.await(l.journal.Writer()) // whose records follow all earlier ones
	return true
}

// start ends what an earlier life has left open, and makes the ledger know what
// is in the book.
func (l *life) start() bool {
	w := l.w
	l.examine()
	w.promises[l.journal.Writer()] = newPromise()
	terms := w.config.compile(w.t, time.Now())
	l.terms.Store(terms)
	orphans, err := processor.SettleOrphans((*simBook)(l), l.balances, time.Now())
	w.countN("charged at their bound", orphans)
	if err == nil {
		err = processor.AuditOverrides((*simBook)(l), l.balances, terms.snap, time.Now())
	}
	if err != nil {
		w.count("failed starts")
		if !l.failed.Load() && !l.dead.Load() {
			w.problem(2, "start: %v", err)
		}
		return false
	}
	l.ledger, err = accounting.New(accounting.Config{Store: memory.New(), Replica: l.journal.Writer(), Log: w.log})
	if err == nil {
		err = l.ledger.Apply(terms.snap.Limits, time.Now())
	}
	if err == nil {
		err = l.ledger.Restore(l.balances, time.Now())
	}
	if err == nil {
		l.proc, err = processor.New(processor.Config{
			Snapshot: func() *config.Snapshot { return l.terms.Load().snap }, Ledger: l.ledger, Journal: (*simBook)(l),
			HashKey: []byte("0123456789abcdef"), BodyBytes: 512 << 20, Log: w.log,
		})
	}
	if err != nil {
		w.problem(5, "start: %v", err)
		return false
	}
	l.teach()
	l.balanced("after a restart")
	return true
}

// teach lets the process have learned something, true or not: few live for so long
// that they learn it.
func (l *life) teach() {
	rng := l.w.source(1 << 26)
	for i := range l.w.keys {
		for _, m := range simModels {
			if usual := rng.Int64N(pick[int64](rng, 20, 20, 200, 2000)); rng.IntN(8) > 0 && l.w.config.expects > 0 {
				for range 20 {
					l.proc.Usual().Observe(l.w.keys[i].id, m.name, money.Tokens(usual))
				}
			}
		}
	}
}

// serve lets callers call until the process is to end.
func (l *life) serve() {
	for i := range l.w.keys {
		for n := range l.plan.callers {
			c := &caller{life: l, key: &l.w.keys[i], rng: l.w.source(1 + i<<8 + n)}
			l.callers.Go(c.run)
		}
	}
	if !l.w.racing && !l.plan.well {
		l.callers.Go(l.editLimits)
	}
	if l.plan.crowded {
		l.callers.Go(l.crowd)
	}
	l.callers.Go(l.watch)
	select {
	case <-l.over:
	case <-time.After(l.plan.length):
	}
	if l.plan.dies {
		l.die()
	}
}

// watch ends a process whose journal has failed for good.
func (l *life) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		defer cancel()
		<-l.over
	}()
	if l.journal.Watch(ctx) != nil && !l.dead.Load() {
		l.w.count("journals that failed")
		l.leave()
	}
}

// editLimits is the reload of the config.
func (l *life) editLimits() {
	rng := l.w.source(1 << 24)
	for l.sleep(rng, upTo(rng, 2*l.plan.length)) {
		edited := l.w.config.edit(rng, time.Now())
		terms := edited.compile(l.w.t, time.Now())
		if processor.AuditOverrides((*simBook)(l), l.balances, terms.snap, time.Now()) != nil {
			continue // the last good config stays in force
		}
		if err := l.ledger.Apply(terms.snap.Limits, time.Now()); err != nil {
			l.w.problem(5, "reload: %v", err)
			return
		}
		l.w.config = edited
		l.terms.Store(terms)
		l.w.log.Info("limits", slog.Any("budgets", l.w.config.budgets))
		l.w.count("edits")
	}
}

// sleep reports whether the process still goes on. Who wakes has the instant
// for himself, unless the world is a racing one.
func (l *life) sleep(rng *rand.Rand, d time.Duration) bool {
	if l.w.racing {
		d = d.Truncate(100*time.Millisecond) + 100*time.Millisecond
	} else {
		d += time.Duration(1 + rng.IntN(1_000_000))
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.over:
		if !l.w.racing {
			time.Sleep(1 + upTo(rng, 100*time.Microsecond))
		}
		return false
	}
}

// source is where goroutines draw from that are not alone.
type source struct {
	mu  sync.Mutex
	rng *rand.Rand
}

func (s *source) draw(below time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return upTo(s.rng, below)
}

// turn draws a moment after which who calls what it returns has the instant for
// himself, whoever else was woken with him.
func (l *life) turn() func() {
	if l.w.racing {
		return func() {}
	}
	d := 1 + l.turns.draw(100*time.Microsecond)
	return func() { time.Sleep(d) }
}

func (l *life) trueTime() time.Time { return l.w.now.Add(time.Since(l.began)) }
