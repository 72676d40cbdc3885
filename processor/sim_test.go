package processor_test

import (
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"airgate/accounting/journal"
	"airgate/accounting/journal/disk/disktest"
	"airgate/accounting/money"
)

// The simulation is all that keeps the book, in virtual time: a world in which
// callers spend money, limits are edited, disks fail and machines die.
//
// Real are processor.Stream, accounting.Ledger over quota/memory, Balances, the
// journal with its recovery and shipping, policy/config, and package time in
// testing/synctest. Simulated are the disk (disktest), the sinks, the provider,
// Envoy and its callers. A life is one process: what cmd/airgate does from start
// to stop, in its order. Each is a bubble of its own, so that the clock can have
// gone back between two of them.
//
// A seed is a world. One is replayed, with a trace of all that happens, by
//
//	go test ./processor -run TestSimulation -sim.seed=N -v
//
// Every caller draws from a source of its own and no two of them act at the
// same instant, so that a seed repeats its course but for the times at which a
// sink is asked again and the random parts of identifiers. In every eighth
// world callers do act at the same instants: those race, and repeat by luck.
//
// What must hold, and where it is checked:
//
//  1. Nothing is overspent: at every admission the true cost of all calls that
//     were let go to the provider is, in each enforced account-window of the
//     call, within the limit it was admitted under (forwarded). Hence, once a
//     limit was lowered to L′, it is within max(L′, what was spent and held at
//     the edit). No settlement is below the truth or above its worst case (reconcile).
//     Where a budget holds what is expected, that is beyond the limit by no more
//     than what the calls in flight at the last admission can cost beyond their holds.
//  2. Nothing is lost: what Append returned is in the book after a kill, what
//     Wait returned after a power loss, and nothing that was not appended
//     (examine). A call whose caller saw a byte is there (reconcile).
//  3. Every call settles exactly once (read). Nothing is in a sink twice,
//     damaged or out of order (simSink); in the end it has what the journal has
//     had, and the audit is sound, down to the sums in the checkpoints (audit).
//  4. Nothing is held for ever: without calls in flight nothing is reserved,
//     before and after a restart (balanced), and no permit is missing (permits).
//     What a crash left open is charged at its bound, marked, and of what airgate
//     was told the cost nothing else is charged (reconcile).
//  5. Ledger.Budgets, Balances and the records add up alike (balanced), as do
//     the figures in every intent and denial (figures); also after the journal
//     was lost, if a sink had all of it (loseJournal).
//  6. No call is denied for money that is neither spent nor held, and the code
//     says which it is (figures).
//
// Of a call that is held in slices the provider makes no more than chunkTokens that
// nobody sees, and the end of a process ends the call: that is what such a hold
// rests on. Its true cost grows as its output comes (shows); a call that was cut has
// met a budget without room for it (cut).
//
// One thing is lost by design: a request is let go while its intent is on its
// way to the disk. If the power fails before it is there, nobody has heard of
// the call: no byte of its answer has left. Those are counted.
var (
	simSeed  = flag.Uint64("sim.seed", 0, "simulate this world alone; -v traces it")
	simFirst = flag.Uint64("sim.first", 1, "the first world")
	simCalls = flag.Int("sim.calls", 200_000, "simulate so many calls")
)

// found are the worlds that have shown a fault, and which.
var found = []struct {
	seed uint64
	what string
}{
	{4, "what only the sink had was counted again, since the writer that had counted it first was killed before its first record"},
}

// racingWorlds is of how many worlds one is a racing one.
const racingWorlds = 8

const (
	worldCalls = 4000 // that a world makes, and a few more
	maxLives   = 500  // that it takes at most, ten times the usual
)

func TestSimulation(t *testing.T) {
	if *simSeed != 0 {
		log := slog.New(slog.DiscardHandler)
		if testing.Verbose() {
			log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
		}
		t.Log(newWorld(t, *simSeed, log).run())
		return
	}
	seeds := &schedule{next: *simFirst, step: 1, calls: *simCalls, total: counts{}}
	if raceDetector() { // it is slow, and of use only where callers race
		seeds.next, seeds.step, seeds.calls = racingWorlds, racingWorlds, *simCalls/50
	}
	for _, f := range found {
		seeds.found = append(seeds.found, f.seed)
	}
	// A world is made of short-lived records: collecting them takes half of its time.
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	began := time.Now()
	t.Run("worlds", func(t *testing.T) {
		for i := range runtime.GOMAXPROCS(0) {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				t.Parallel()
				for seed, ok := seeds.take(); ok && !t.Failed(); seed, ok = seeds.take() {
					worlds := seeds.done(newWorld(t, seed, slog.New(slog.DiscardHandler)).run())
					if worlds%100 == 0 {
						t.Logf("%d worlds", worlds)
					}
				}
			})
		}
	})
	t.Logf("%s in %s", seeds.total, time.Since(began).Round(time.Second))
	if seeds.total["calls"] < seeds.calls && !t.Failed() {
		t.Errorf("%d calls were made, want %d", seeds.total["calls"], seeds.calls)
	}
}

func raceDetector() bool {
	info, _ := debug.ReadBuildInfo()
	return slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// schedule hands out the worlds.
type schedule struct {
	mu         sync.Mutex
	found      []uint64
	next, step uint64
	calls      int // to be made
	total      counts
}

func (s *schedule) take() (seed uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.found); n > 0 {
		seed, s.found = s.found[n-1], s.found[:n-1]
		return seed, true
	}
	seed = s.next
	s.next += s.step
	return seed, s.total["calls"] < s.calls
}

func (s *schedule) done(c counts) (worlds int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total["worlds"]++
	for what, n := range c {
		s.total[what] += n
	}
	return s.total["worlds"]
}

// counts is how often what happened.
type counts map[string]int

func (c counts) String() string {
	var all []string
	for _, what := range slices.Sorted(maps.Keys(c)) {
		all = append(all, fmt.Sprintf("%s %d", what, c[what]))
	}
	return strings.Join(all, ", ")
}

// world is everything that outlives a process.
type world struct {
	t      *testing.T
	seed   uint64
	log    *slog.Logger
	rng    *rand.Rand // of what happens between lives
	racing bool       // callers act at the same instants, and nobody edits limits meanwhile

	disk       *disktest.Disk
	crowded    bool // others fill up the disk
	segment    int64
	durability journal.Durability
	now        time.Time     // the true time, between lives
	skew       time.Duration // by which the machine's clock is wrong
	far        time.Duration // the greatest that was
	keys       []simKey
	config     simConfig
	mirror     *simSink // never fails: it has what the book says
	sink       *simSink

	quota atomic.Int64 // calls still to be made

	mu       sync.Mutex // guards what follows while a process lives
	lives    int
	problems int
	counts   counts
	calls    map[string]*simCall      // :: request id → call that was let go and is not yet known to be in the book
	truth    map[string]money.NanoUSD // :: account-window, in the world's words → true cost of its calls
	promises map[string]*promise      // :: writer → what it promised
	until    map[string]time.Time     // :: account-window as in records → true time until which it is remembered
	powerCut bool                     // since the book was last examined
}

func newWorld(t *testing.T, seed uint64, log *slog.Logger) *world {
	w := &world{
		t: t, seed: seed, log: log, rng: rand.New(rand.NewPCG(seed, 0)), racing: seed%racingWorlds == 0,
		disk:   disktest.New(seed),
		mirror: newSink("mirror", rand.New(rand.NewPCG(seed, 1)), true), sink: newSink("sqlite", rand.New(rand.NewPCG(seed, 2)), false),
		counts: counts{}, calls: map[string]*simCall{}, truth: map[string]money.NanoUSD{}, promises: map[string]*promise{},
		until: map[string]time.Time{},
	}
	w.mirror.lost = func(format string, args ...any) { w.problem(3, format, args...) }
	w.sink.lost = w.mirror.lost
	w.makeRoom()
	w.segment = 8192 << w.rng.IntN(5)
	if w.rng.IntN(4) == 0 {
		w.durability = journal.Process
	}
	w.now = time.Date(2026, 10, 29, w.rng.IntN(24), w.rng.IntN(60), 0, 0, time.UTC) // clocks change on 1 November
	w.quota.Store(worldCalls)
	w.keys = newKeys(t)
	w.config = newConfig(w.keys, w.rng, rand.New(rand.NewPCG(seed, 3)), w.now)
	if w.racing { // what is in flight at an admission is not known there
		for i := range w.config.budgets {
			w.config.budgets[i].expected = false
		}
		w.config.expects = 0
	}
	return w
}

// run lives through the world, from an empty disk to the last audit.
func (w *world) run() counts {
	for w.quota.Load() > 0 && w.problems == 0 {
		w.live(w.plan())
		w.between()
		if w.lives > maxLives {
			w.problem(2, "after %d lives there are still calls to be made", w.lives)
		}
	}
	w.skew = 0
	w.makeRoom()
	for range 2 { // all is well, and what that leaves
		if w.problems == 0 {
			w.live(plan{callers: 3, length: time.Minute, well: true})
			w.now = w.now.Add(time.Second)
		}
	}
	if w.problems == 0 {
		w.audit()
	}
	return w.counts
}

// between is what happens while no process lives.
func (w *world) between() {
	if w.rng.IntN(4) == 0 {
		w.loseJournal()
	}
	if w.rng.IntN(3) == 0 {
		return // it is started again at once
	}
	w.disk.Resize(simRoom)
	w.now = w.now.Add(upTo(w.rng, pick(w.rng, time.Minute, 5*time.Hour, 60*time.Hour)))
	// Windows are remembered for a week after their end, and so long must a clock
	// not come back to one. Ahead it may be by any time, for any time.
	switch w.rng.IntN(6) {
	case 0:
		w.skew = 0
	case 1:
		w.skew = upTo(w.rng, 144*time.Hour) - 72*time.Hour
		w.count("clock jumps")
	case 2:
		w.far += 30*24*time.Hour + upTo(w.rng, 300*24*time.Hour)
		w.skew = w.far
		w.count("clock jumps")
	}
	for range w.rng.IntN(3) {
		w.config = w.config.edit(w.rng, w.now.Add(w.skew))
		w.count("edits while down")
	}
}

// loseJournal moves the journal away, if the sinks have all of it: then it makes no
// difference.
func (w *world) loseJournal() {
	for writer, p := range w.promises {
		if !p.closed && uint64(w.mirror.count(writer)) < p.last {
			return
		}
	}
	for _, writer := range w.mirror.writers() {
		if w.sink.count(writer) < w.mirror.count(writer) {
			return
		}
	}
	w.disk = disktest.New(w.rng.Uint64())
	w.makeRoom()
	w.count("lost journals")
}

// problem says that an invariant does not hold.
func (w *world) problem(invariant int, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.problems++; w.problems <= 5 { // the rest follows from the first
		w.t.Errorf("invariant %d: %s; replay with -run TestSimulation -sim.seed=%d -v", invariant, fmt.Sprintf(format, args...), w.seed)
	}
}

func (w *world) count(what string) { w.countN(what, 1) }

func (w *world) countN(what string, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[what] += n
}

// source is what the nth of those who act in this life draws from.
func (w *world) source(n int) *rand.Rand {
	return rand.New(rand.NewPCG(w.seed, uint64(w.lives)<<32|uint64(n)))
}

func pick[T any](rng *rand.Rand, from ...T) T { return from[rng.IntN(len(from))] }

func upTo(rng *rand.Rand, d time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(d))) }
