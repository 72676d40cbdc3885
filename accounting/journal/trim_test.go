package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"

	"airgate/accounting/journal/disk/disktest"
	"airgate/accounting/record"
	"airgate/accounting/record/recordtest"
	"airgate/accounting/sink"
)

func newMemory() *memory { return &memory{books: map[string][]record.Record{}} }

func (m *memory) down(down bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.off = down
}

// ships starts to ship to each of the sinks, and returns a wait for the end.
func ships(t *testing.T, j *Journal, sinks map[string]sink.Sink) (wait func()) {
	t.Helper()
	var wg sync.WaitGroup
	for name, s := range sinks {
		wg.Go(func() {
			if err := j.Ship(t.Context(), name, s); err != nil {
				t.Errorf("Ship to %s: %v", name, err)
			}
		})
	}
	return wg.Wait
}

func gauge(t *testing.T, r *prometheus.Registry, name string) float64 {
	t.Helper()
	all, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func bytesOf(d *disktest.Disk) (n float64) {
	for name, data := range d.Files() {
		if strings.HasSuffix(name, suffix) {
			n += float64(len(data))
		}
	}
	return n
}

func TestASegmentGoesOnceEverySinkHasIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, registry := disktest.New(1), prometheus.NewRegistry()
		j := owned(t, Config{
			Dir: simDir, SegmentBytes: 5000, Sinks: []string{"one", "two"}, State: newTally(), Disk: d, Registerer: registry,
		})
		one, two := newMemory(), newMemory()
		two.down(true)
		wait := ships(t, j, map[string]sink.Sink{"one": one, "two": two})
		for range 10 {
			appendN(t, j, 5)
			time.Sleep(time.Second)
		}
		full := len(segmentsOf(d, j.Writer()))
		if one.len(j.Writer()) != 51 || full < 5 {
			t.Errorf("%d segments while a sink lacks their records, want all; the other has %d records, want 51", full, one.len(j.Writer()))
		}
		if got := gauge(t, registry, "airgate_journal_bytes"); got != bytesOf(d) {
			t.Errorf("airgate_journal_bytes = %v, want %v", got, bytesOf(d))
		}
		two.down(false)
		time.Sleep(time.Minute)
		if got := len(segmentsOf(d, j.Writer())); got != 1 {
			t.Errorf("%d segments once all sinks have all, want the one that grows", got)
		}
		if got := gauge(t, registry, "airgate_journal_bytes"); got != bytesOf(d) {
			t.Errorf("airgate_journal_bytes = %v, want %v", got, bytesOf(d))
		}
		appendN(t, j, 5)
		closed(t, j)
		wait()
		report, err := verify(t.Context(), d, simDir, two, func() State { return newTally() })
		if err != nil || !report.Sound() || report.Writers[0].Records != (Span{1, 56}) || report.Writers[0].Anchored != 56 || report.Writers[0].Sums == 0 {
			t.Errorf("Verify = %+v, %v; want 56 records, proven", report, err)
		}
	})
}

func TestASegmentStaysUntilItsLastRecordIsShipped(t *testing.T) {
	d := disktest.New(1)
	// One record does not fill a segment, two do: the keeper ends none between them.
	j := owned(t, Config{Dir: simDir, SegmentBytes: 1500, Sinks: []string{"one"}, Disk: d})
	for range 5 {
		if err := j.Wait(t.Context(), appendN(t, j, 2)); err != nil {
			t.Fatal(err)
		}
	}
	closed(t, j) // nothing else trims
	if len(j.past) < 3 || j.past[2].first < j.past[1].first+2 {
		t.Fatalf("segments %+v, want three that were ended, of two records", j.past)
	}
	next := j.past[2].first
	before := len(segmentsOf(d, j.Writer()))
	j.metrics.sink("one", &memory{}).acknowledge(j.Writer(), next-2)
	j.trim()
	if got := before - len(segmentsOf(d, j.Writer())); got != 1 {
		t.Errorf("%d segments deleted with the sink at record %d, want 1", got, next-2)
	}
	j.metrics.sink("one", &memory{}).acknowledge(j.Writer(), next-1)
	j.trim()
	if got := before - len(segmentsOf(d, j.Writer())); got != 2 {
		t.Errorf("%d segments deleted with the sink at record %d, want 2", got, next-1)
	}
}

func TestNothingIsDeletedWithout(t *testing.T) {
	for name, test := range map[string]struct {
		open  func(testing.TB, Config) *Journal
		cfg   Config
		ships []string
	}{
		"sinks":                 {owned, Config{}, []string{"one"}},
		"shipping to all sinks": {owned, Config{Sinks: []string{"one", "two"}}, []string{"one"}},
		"owning the directory":  {open, Config{Sinks: []string{"one"}}, []string{"one"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := disktest.New(1)
				test.cfg.Dir, test.cfg.Disk, test.cfg.SegmentBytes = simDir, d, 5000
				before := test.open(t, test.cfg)
				appendN(t, before, 2)
				closed(t, before)
				j := test.open(t, test.cfg)
				m := newMemory()
				sinks := map[string]sink.Sink{}
				for _, name := range test.ships {
					sinks[name] = m
				}
				wait := ships(t, j, sinks)
				for range 5 {
					appendN(t, j, 10)
					time.Sleep(time.Minute)
				}
				closed(t, j)
				wait()
				if m.len(j.Writer()) != 51 || heads(t, d, simDir)[j.Writer()] != 51 || heads(t, d, simDir)[before.Writer()] != 3 {
					t.Errorf("the journal has %v, the sink %d; want 51 and 3, and 51", heads(t, d, simDir), m.len(j.Writer()))
				}
			})
		})
	}
}

func TestASegmentEndsAtItsAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := disktest.New(1)
		j := open(t, Config{Dir: simDir, Disk: d})
		for i, step := range []struct {
			records, segments int
		}{{0, 2}, {0, 2}, {1, 3}, {0, 3}, {5, 4}} { // the start record is one
			appendN(t, j, step.records)
			time.Sleep(6*time.Minute + 300*time.Millisecond) // not as the journal looks at the clock
			if n := len(segmentsOf(d, j.Writer())); n != step.segments {
				t.Errorf("step %d: %d segments, want %d", i, n, step.segments)
			}
		}
		closed(t, j)
	})
}

// A thousand starts leave what one leaves.
func TestRestartsLeaveNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := disktest.New(1), newMemory()
		var bytes, files, locks int
		for i := range 1000 {
			state := newTally()
			j := owned(t, Config{Dir: simDir, Sinks: []string{"one"}, State: state, Disk: d})
			appendN(t, j, 2)
			wait := ships(t, j, map[string]sink.Sink{"one": m})
			locks = max(locks, len(j.locks))
			time.Sleep(1100 * time.Millisecond)
			if i%10 == 3 { // killed as it begins
				d.Off(1)
			}
			_ = j.Close()
			wait()
			d.Kill()
			n, size := 0, 0
			for _, data := range d.Files() {
				n, size = n+1, size+len(data)
			}
			if i == 20 {
				bytes, files = size, n
			}
			const tallied = 60 // bytes of a writer in the tallies of two checkpoints
			if i > 20 && (size > bytes+tallied*(i-20) || n > files+1) {
				t.Fatalf("after %d starts: %d files of %d bytes, after 20 it was %d of %d", i, n, size, files, bytes)
			}
			if len(state.seen) != i+1 {
				t.Fatalf("start %d counts %d writers", i, len(state.seen))
			}
		}
		if locks > 3 {
			t.Errorf("%d locks at once, want 3: of all, of the one before, and of itself", locks)
		}
	})
}

// A sink is down for an hour of traffic: it costs disk only, and drains.
func TestASinkThatIsDownForAnHourCostsDiskOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := disktest.New(1), newMemory()
		j := owned(t, Config{Dir: simDir, Sinks: []string{"one"}, SegmentBytes: 256 << 10, SyncEvery: 2 * time.Millisecond, Disk: d})
		wait := ships(t, j, map[string]sink.Sink{"one": m})
		time.Sleep(time.Minute)
		m.down(true)
		r := record.Record{Type: record.Settle, RequestID: "r", Detail: strings.Repeat("x", 300)}
		const perSecond, hour = 4, 3600
		memory := func() int {
			j.mu.Lock()
			defer j.mu.Unlock()
			n := cap(j.unsynced) + cap(j.scrap)
			for _, b := range j.free {
				n += cap(b.frames) + 8*cap(b.records)
			}
			return n
		}
		early := 0
		for i := range perSecond * hour {
			if _, err := j.Append(&r); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second / perSecond)
			if i == 100 {
				early = memory()
			}
		}
		if late := memory(); late != early {
			t.Errorf("buffers of %d bytes after an hour, %d at its beginning", late, early)
		}
		most := len(segmentsOf(d, j.Writer()))
		if most < 12 || m.len(j.Writer()) != 1 {
			t.Errorf("%d segments and %d records in the sink, want at least 12 and 1", most, m.len(j.Writer()))
		}
		m.down(false)
		began := time.Now()
		for m.len(j.Writer()) < perSecond*hour+1 {
			time.Sleep(time.Second)
		}
		if took := time.Since(began); took > 2*lastRetry {
			t.Errorf("the sink has all after %v, want it a retry later", took)
		}
		time.Sleep(2 * tendEvery)
		if got := len(segmentsOf(d, j.Writer())); got != 1 {
			t.Errorf("%d segments after the sink has all, want 1", got)
		}
		closed(t, j)
		wait()
	})
}

// The machine loses power at any change while segments and directories are
// deleted: every record is in the journal or in the sink, every State counts
// all, and verify can join the two.
func TestPowerLossWhileTrimming(t *testing.T) {
	for seed := range uint64(80) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { trimmingPowerLoss(t, seed) })
		})
	}
}

func trimmingPowerLoss(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 4))
	d, m := disktest.New(seed), newMemory()
	d.Trace(func(format string, args ...any) {
		if testing.Verbose() {
			t.Logf(format, args...)
		}
	})
	acked := map[string]bool{}
	for round := range 6 {
		d.Off(20 + rng.IntN(150))
		state := newTally()
		j, err := openOwned(t.Context(), Config{Dir: simDir, Replica: "a", SegmentBytes: 2000, State: state, Disk: d, Sinks: []string{"one"}})
		if err == nil {
			wait := ships(t, j, map[string]sink.Sink{"one": m})
			for i := range 60 {
				r := record.Record{Type: record.Admin, Detail: fmt.Sprintf("%d/%d", round, i)}
				p, err := j.Append(&r)
				if err != nil || j.Wait(t.Context(), p) != nil {
					break
				}
				acked[r.Detail] = true
				time.Sleep(time.Duration(rng.Int64N(int64(400 * time.Millisecond))))
			}
			_ = j.Close() // the machine may be off
			wait()
		} else if !errors.Is(err, disktest.ErrCrashed) {
			t.Fatalf("Open in round %d: %v", round, err)
		}
		if rng.IntN(3) > 0 {
			d = d.Crash()
		} else {
			d = d.Kill()
		}
	}
	state := newTally()
	j := owned(t, Config{Dir: simDir, State: state, Disk: d, Sinks: []string{"one"}})
	closed(t, j)
	ends := map[string]uint64{}
	there := map[string]bool{}
	note := func(r record.Record) {
		ends[r.Writer] = max(ends[r.Writer], r.Seq)
		there[r.Detail] = true
	}
	for r, err := range read(d, simDir) {
		if err != nil {
			t.Fatal(err)
		}
		note(r)
	}
	for _, book := range m.books {
		for _, r := range book {
			note(r)
		}
	}
	for detail := range acked {
		if !there[detail] {
			t.Errorf("%s was acknowledged and is lost", detail)
		}
	}
	if err := state.check(ends); err != nil {
		t.Error(err)
	}
	again := newTally()
	if err := Replay(t.Context(), Config{Dir: simDir, State: again, Disk: d}); err != nil || !maps.Equal(again.seen, state.seen) {
		t.Errorf("replay: %v; it counts %v, want %v", err, again.seen, state.seen)
	}
	if report, err := verify(t.Context(), d, simDir, m, func() State { return newTally() }); err != nil || !report.Sound() {
		t.Errorf("Verify = %+v, %v; want sound", report, err)
	}
}

// An owner that had deleted what it had shipped, then two that run side by
// side: the checkpoint to begin with is the one that has what nobody else has.
func TestWhatOnlyACheckpointCountsIsNotForgotten(t *testing.T) {
	for name, rounds := range map[string]int{"segments were deleted": 5, "a directory was deleted": 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, m := disktest.New(1), newMemory()
				for range 2 {
					j := owned(t, Config{Dir: simDir, SegmentBytes: 2000, Sinks: []string{"one"}, State: newTally(), Disk: d})
					wait := ships(t, j, map[string]sink.Sink{"one": m})
					for range rounds {
						appendN(t, j, 1)
						time.Sleep(2 * time.Second)
					}
					closed(t, j)
					wait()
				}
				if there, err := writers(d, simDir); err != nil || len(there) > 1 {
					t.Fatalf("nothing was deleted: %v, %v", there, err)
				}
				between := open(t, Config{Dir: simDir, State: newTally(), Disk: d})
				closed(t, between)
				first := open(t, Config{Dir: simDir, State: newTally(), Disk: d})
				appendN(t, first, 3)
				second := open(t, Config{Dir: simDir, State: newTally(), Disk: d})
				appendN(t, second, 4)
				closed(t, first)
				closed(t, second)
				want := map[string]uint64{between.Writer(): 1, first.Writer(): 4, second.Writer(): 5}
				for writer, book := range m.books {
					want[writer] = uint64(len(book))
				}
				for range 2 {
					state := newTally()
					j := open(t, Config{Dir: simDir, State: state, Disk: d})
					want[j.Writer()] = 1
					if err := state.check(want); err != nil {
						t.Error(err)
					}
					closed(t, j)
				}
			})
		})
	}
}

func TestShippingSaysWhatASinkHasLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := disktest.New(1), newMemory()
		cfg := Config{Dir: simDir, SegmentBytes: 2000, Sinks: []string{"one"}, Disk: d}
		j := owned(t, cfg)
		wait := ships(t, j, map[string]sink.Sink{"one": m})
		for range 5 {
			appendN(t, j, 4)
			time.Sleep(2 * time.Second)
		}
		m.mu.Lock()
		book := m.books[j.Writer()]
		m.books[j.Writer()] = book[:3] // an old backup
		m.mu.Unlock()
		var diverged *DivergedError
		if err := j.Ship(t.Context(), "restored", m); !errors.As(err, &diverged) || diverged.Oldest <= 4 ||
			!strings.Contains(err.Error(), "is no longer in the journal: the sink has lost what it had acknowledged") {
			t.Errorf("Ship to a sink that has lost records = %v, want *DivergedError", err)
		}
		m.mu.Lock()
		m.books[j.Writer()] = book
		m.mu.Unlock()
		closed(t, j)
		wait()
	})
}

// A sink that was lost, and with it the records that only it had, is told as it
// is met, and after every restart, until it is restored.
func TestALostSinkIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := disktest.New(1)
		first := newMemory()
		var said strings.Builder
		segment, tail := int64(2000), 1
		// life runs one writer with its sink, until what it can delete is deleted.
		life := func(m *memory) (writer string, missing float64) {
			said.Reset()
			registry := prometheus.NewRegistry()
			j := owned(t, Config{
				Dir: simDir, SegmentBytes: segment, Sinks: []string{"one"}, Disk: d, Registerer: registry,
				Log: slog.New(slog.NewTextHandler(&said, nil)),
			})
			wait := ships(t, j, map[string]sink.Sink{"one": m})
			for range 5 {
				appendN(t, j, 4)
				time.Sleep(2300 * time.Millisecond) // not as the journal looks at the clock
			}
			missing = gauge(t, registry, "airgate_sink_missing_records")
			appendN(t, j, tail) // which stays in the journal
			if tail == 0 {
				time.Sleep(6 * time.Minute) // its last segment ends, whenever the keeper had begun it
			}
			closed(t, j)
			wait()
			if got := m.len(j.Writer()); got != 21+tail {
				t.Errorf("the sink has %d records of %s, want %d", got, j.Writer(), 21+tail)
			}
			return j.Writer(), missing
		}
		told := func(step string, missing, want float64, words ...string) {
			t.Helper()
			if missing != want {
				t.Errorf("%s: airgate_sink_missing_records = %v, want %v", step, missing, want)
			}
			if got := strings.Count(said.String(), "level=ERROR"); (got > 0) != (want > 0) {
				t.Errorf("%s: %d errors are told, want some where records are missing:\n%s", step, got, said.String())
			}
			for _, w := range append(words, "restore the database", "sink=one")[:len(words)+2*min(1, len(words))] {
				if !strings.Contains(said.String(), w) {
					t.Errorf("%s: %q is not told:\n%s", step, w, said.String())
				}
			}
		}

		a, missing := life(first)
		told("at first", missing, 0)
		b, missing := life(first)
		told("after a restart", missing, 0)
		var left uint64 // the oldest record of b that the journal still has
		for name := range d.Files() {
			if n := firstOf(filepath.Base(name)); strings.Contains(name, b) && strings.HasSuffix(name, suffix) && (left == 0 || n < left) {
				left = n
			}
		}
		if left <= 1 || left > 22 {
			t.Fatalf("the oldest record of %s is %d, want one in the middle", b, left)
		}

		second := newMemory()
		lost := fmt.Sprintf("records 1 to 22 of %s; records 1 to %d of %s", a, left-1, b)
		_, missing = life(second)
		told("with another sink", missing, float64(22+left-1), lost)
		for range 3 { // the first of them has the journal's word, the others the sink's
			_, missing = life(second)
			told("and again", missing, float64(22+left-1), fmt.Sprintf("records 1 to %d of %s", left-1, b), "and 22 records of writers whose names are gone too")
		}

		third := newMemory() // a backup of the first, and what was written since but for what the second has
		maps.Copy(third.books, first.books)
		maps.Copy(third.books, second.books)
		third.books[b] = first.books[b]
		_, missing = life(third)
		told("restored", missing, 0)

		third.books[b] = third.books[b][:3] // an older one
		_, missing = life(third)
		told("restored from an old backup", missing, 22-3, "records 4 to 22 of "+b)

		// A writer that is there, and counted by a later one, is not looked into.
		life(third)
		segment = 1 << 20
		life(third)
		closed(t, open(t, Config{Dir: simDir, Sinks: []string{"one"}, Disk: d}))
		_, missing = life(newMemory())
		told("of one that only a start record names", missing, 9*22, "and 198 records of writers whose names are gone too")

		d, segment, tail = disktest.New(1), 2000, 0
		before, _ := life(newMemory())
		_, missing = life(newMemory())
		told("of one of which nothing is left", missing, 21, "records 1 to 21 of "+before)
	})
}

// Writers that nothing names any more are counted: in a sink that was lost, in
// one that comes back from a backup, and by Verify.
func TestNamelessWritersAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, all := disktest.New(1), newMemory()
		var said strings.Builder
		replica := "airgate"
		// life has three records, and ends once the writer before it is deleted.
		life := func(m *memory) (writer string, missing float64) {
			t.Helper()
			said.Reset()
			registry := prometheus.NewRegistry()
			j := owned(t, Config{
				Dir: simDir, Replica: replica, Sinks: []string{"one"}, Disk: d, Registerer: registry, State: newTally(),
				Log: slog.New(slog.NewTextHandler(&said, nil)),
			})
			wait := ships(t, j, map[string]sink.Sink{"one": m})
			appendN(t, j, 2)
			time.Sleep(3 * time.Second)
			missing = gauge(t, registry, "airgate_sink_missing_records")
			closed(t, j)
			wait()
			if there, err := writers(d, simDir); err != nil || len(there) != 1 {
				t.Fatalf("writers %v, %v; want the last alone", there, err)
			}
			return j.Writer(), missing
		}
		told := func(step string, m *memory, missing, want float64, nameless uint64) {
			t.Helper()
			if missing != want {
				t.Errorf("%s: airgate_sink_missing_records = %v, want %v", step, missing, want)
			}
			words := fmt.Sprintf("and %d records of writers whose names are gone too", nameless)
			if got := strings.Contains(said.String(), words); got != (nameless > 0) {
				t.Errorf("%s: %q is told: %t\n%s", step, words, got, said.String())
			}
			report, err := verify(t.Context(), d, simDir, m, nil)
			if err != nil || report.Nameless != nameless || report.Sound() != (want == 0) {
				t.Errorf("%s: Verify = %+v, %v; want %d nameless records, sound %t", step, report, err, nameless, want == 0)
			}
		}

		var names []string
		for i := range 6 {
			writer, missing := life(all)
			told(fmt.Sprintf("start %d", i), all, missing, 0, 0)
			names = append(names, writer)
		}
		before := d.Clone()

		lost := newMemory() // of six writers the newest is in the journal, and names one
		_, missing := life(lost)
		told("lost", lost, missing, 15, 12)
		_, missing = life(lost) // the sink names that one from now on
		told("lost, and started again", lost, missing, 15, 12)

		backup := func(writers ...string) *memory {
			m := newMemory()
			for _, w := range writers {
				m.books[w] = all.books[w]
			}
			return m
		}
		d = before.Clone()
		old := backup(names[:3]...)
		_, missing = life(old)
		told("a backup of three starts ago", old, missing, 6, 3)
		replica = "another" // the host has a new name
		_, missing = life(old)
		told("under another name", old, missing, 6, 3)
		maps.Copy(old.books, all.books)
		_, missing = life(old)
		told("the writers are back", old, missing, 0, 0)

		d, replica = before.Clone(), "airgate"
		part := backup(names...)
		part.books[names[1]] = part.books[names[1]][:1]
		delete(part.books, names[3])
		part.books["other."+incarnation(names[2])] = all.books[names[2]] // of a replica that shares the sink
		_, missing = life(part)
		told("a part", part, missing, 5, 0) // their followers' start records name them

		d = before.Clone()
		report, err := verify(t.Context(), d, simDir, nil, nil)
		if err != nil || report.Nameless != 12 {
			t.Errorf("Verify without a sink = %+v, %v; want 12 nameless records", report, err)
		}
	})
}

// A start that is killed at any of its changes to the disk has forgotten no writer,
// and none twice.
func TestAKilledStartForgetsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := disktest.New(1), newMemory()
		life := func(d *disktest.Disk, m *memory) (missing float64) {
			registry := prometheus.NewRegistry()
			j := owned(t, Config{Dir: simDir, Sinks: []string{"one"}, Disk: d, Registerer: registry})
			wait := ships(t, j, map[string]sink.Sink{"one": m})
			appendN(t, j, 2)
			time.Sleep(3 * time.Second)
			missing = gauge(t, registry, "airgate_sink_missing_records")
			closed(t, j)
			wait()
			return missing
		}
		for range 3 {
			life(d, m)
		}
		killed := 0
		for n := 1; ; n++ {
			c, has := d.Clone(), &memory{books: maps.Clone(m.books)}
			c.Off(n)
			j, err := openOwned(t.Context(), Config{Dir: simDir, Replica: "a", Sinks: []string{"one"}, Disk: c})
			if err == nil {
				closed(t, j)
				break
			}
			killed++
			c = c.Kill()
			for range 3 {
				if missing := life(c, has); missing != 0 {
					t.Errorf("killed at change %d: %v records are missing, want none", n, missing)
				}
			}
			want := 0.0
			for _, book := range has.books {
				want += float64(len(book))
			}
			newest := 3.0 // is in the journal
			if missing := life(c, newMemory()); missing != want-newest {
				t.Errorf("killed at change %d: without the sink %v records are missing, want %v", n, missing, want-newest)
			}
		}
		if killed < 5 {
			t.Errorf("a start is killed at %d changes, want more", killed)
		}
	})
}

func TestOnlyWhoIsGoneIsForgotten(t *testing.T) {
	head := func(n int, seq uint64) record.Head {
		return record.Head{Writer: fmt.Sprintf("a.%020x", n), Seq: seq}
	}
	newest := history{head: head(3, 7), adoption: adoption{covers: []record.Head{head(2, 3), head(2, 2)}}}
	newest.forgotten.add(head(1, 5))
	for name, test := range map[string]struct {
		all  []history
		kept []record.Head
		want uint64
	}{
		"gone":                {all: []history{newest}, want: 5 + 3},
		"here":                {all: []history{{head: head(2, 3)}, newest}, want: 5},
		"named by this start": {all: []history{newest}, kept: []record.Head{head(2, 3)}, want: 5},
		"of two side by side": {all: []history{newest, {head: head(4, 1), adoption: adoption{forgotten: newest.forgotten}}}, want: 5 + 5 + 3},
	} {
		if got := forget(test.all, test.kept); got.records != test.want {
			t.Errorf("%s: %+v, want %d records", name, got, test.want)
		}
	}
}

// A checkpoint that an earlier build has written says nothing of the forgotten;
// and names of a replica are remembered up to a number.
func TestAdoptionsAreReadBack(t *testing.T) {
	h := record.Head{Writer: "airgate.00000000000000000001", Seq: 3, Hash: record.Sum(nil)}
	before := binary.AppendUvarint([]byte{1, 1}, uint64(len(h.Writer)))
	before = append(append(append(before, h.Writer...), 3), h.Hash[:]...)
	many, one := adoption{covers: []record.Head{h}}, adoption{covers: []record.Head{h}, partial: true}
	for i := range uint64(300) {
		many.forgotten.add(record.Head{Writer: fmt.Sprintf("airgate-%d.%020x", i, i), Seq: i})
	}
	one.forgotten.add(record.Head{Writer: "airgate.0000000000000000000a", Seq: 1 << 40})
	for name, test := range map[string]struct {
		encoded []byte
		want    adoption
	}{
		"before":     {before, adoption{covers: []record.Head{h}, partial: true}},
		"nothing":    {new(adoption).appendTo(nil), adoption{}},
		"one":        {one.appendTo(nil), one},
		"many names": {many.appendTo(nil), many},
	} {
		got, state, err := parseAdoption(append(test.encoded, "state"...))
		if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(adoption{}, forgotten{}), cmpopts.EquateEmpty()); diff != "" || string(state) != "state" || err != nil {
			t.Errorf("%s: state %q, %v; (-want +got)\n%s", name, state, err, diff)
		}
		for n := range test.encoded {
			if _, _, err := parseAdoption(test.encoded[:n]); err == nil {
				t.Errorf("%s: %d bytes of %d are read", name, n, len(test.encoded))
			}
		}
	}
	if f := many.forgotten; f.records != 299*300/2 || len(f.replicas) > 0 || !f.has("airgate-7.00000000000000000007") || f.has("airgate-0.00000000000000000000") {
		t.Errorf("forgotten = %+v, want all of them, under any name", f)
	}
}

// What a sink does not take is not missing while the journal has it.
func TestWhatIsHereIsNotMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, m := disktest.New(1), newMemory()
		cfg := Config{Dir: simDir, Sinks: []string{"one"}, Disk: d}
		j := owned(t, cfg)
		appendN(t, j, 4)
		closed(t, j)
		m.books[j.Writer()] = recordtest.Chain(j.Writer(), record.Record{Type: record.Admin, Detail: "another"})
		for range 3 { // the second knows by the sink that the first was longer
			registry := prometheus.NewRegistry()
			cfg.Registerer = registry
			j := owned(t, cfg)
			wait := ships(t, j, map[string]sink.Sink{"one": m})
			time.Sleep(2 * time.Second)
			if got := gauge(t, registry, "airgate_sink_missing_records"); got != 0 {
				t.Errorf("airgate_sink_missing_records = %v, want 0", got)
			}
			closed(t, j)
			wait()
		}
	})
}

// A reader is told where a newer segment takes over, also if that comes while
// it reads: what the old one has from there on was never acknowledged.
func TestANewerSegmentTakesOverWhileTheOlderIsRead(t *testing.T) {
	d := disktest.New(1)
	j := open(t, Config{Dir: simDir, Disk: d, SyncEvery: time.Millisecond})
	if err := j.Wait(t.Context(), appendN(t, j, 2)); err != nil {
		t.Fatal(err)
	}
	r := newReader(d, j.dir, j.Writer(), 0)
	for range 2 {
		if _, err := r.record(); err != nil {
			t.Fatal(err)
		}
	}
	// The refused record's bytes are whole in the old segment, and cannot be
	// taken back.
	path, whole := onlySegment(d, j.Writer())
	d.Fail(func(op, name string) error {
		if op == "truncate" || op == "write" && name == path {
			return disktest.ErrFault
		}
		return nil
	})
	if _, err := j.Append(&record.Record{Type: record.Intent, Detail: "refused"}); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("Append = %v, want %v", err, ErrUnavailable)
	}
	d.Fail(nil)
	plant(t, d, path, int64(len(whole)), 4, j)
	p, err := j.Append(&record.Record{Type: record.Intent, Detail: "in the book"})
	if err != nil || p != 4 {
		t.Fatalf("Append = %d, %v; want 4", p, err)
	}
	if err := j.Wait(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if err := r.look(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"", "in the book"} {
		if rec, err := r.record(); err != nil || rec.Detail != want {
			t.Errorf("the reader yields %q, %v; want %q", rec.Detail, err, want)
		}
	}
	if _, err := r.record(); !errors.Is(err, io.EOF) {
		t.Errorf("then %v, want %v", err, io.EOF)
	}
	if err := r.close(); err != nil {
		t.Error(err)
	}
	m := newMemory()
	wait := shipping(t, j, m)
	shipped(t, j)
	closed(t, j)
	if err := wait(); err != nil || m.books[j.Writer()][3].Detail != "in the book" {
		t.Errorf("Ship = %v with %+v", err, m.books[j.Writer()])
	}
}

// The same on the way to a sink that has read so far as the rotation comes.
func TestShippingFollowsARotationAfterARefusedWrite(t *testing.T) {
	d := disktest.New(1)
	j := open(t, Config{Dir: simDir, Disk: d})
	m := newMemory()
	wait := shipping(t, j, m)
	shipped(t, j)
	m.down(true)
	appendN(t, j, 1) // the sink is asked for this one, again and again
	calls := func() int { m.mu.Lock(); defer m.mu.Unlock(); return m.calls }
	for before := calls(); calls() == before; {
		time.Sleep(time.Millisecond)
	}
	if err := j.Wait(t.Context(), appendN(t, j, 1)); err != nil {
		t.Fatal(err)
	}
	path, whole := onlySegment(d, j.Writer())
	release := d.Hold("rename") // the new segment is on its way
	d.Fail(func(op, name string) error {
		if op == "truncate" || op == "write" && name == path {
			return disktest.ErrFault
		}
		return nil
	})
	if err := try(j, record.Intent); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("Append = %v, want %v", err, ErrUnavailable)
	}
	d.Fail(nil)
	plant(t, d, path, int64(len(whole)), 4, j)
	m.down(false)
	for m.len(j.Writer()) < 3 {
		time.Sleep(time.Millisecond)
	}
	release()
	if _, err := j.Append(&record.Record{Type: record.Intent, Detail: "in the book"}); err != nil {
		t.Fatal(err)
	}
	closed(t, j)
	if err := wait(); err != nil || m.len(j.Writer()) != 4 || m.books[j.Writer()][3].Detail != "in the book" {
		t.Fatalf("Ship = %v with %+v", err, m.books[j.Writer()])
	}
}

// plant writes a whole record where a write has failed.
func plant(t *testing.T, d *disktest.Disk, path string, at int64, seq uint64, j *Journal) {
	t.Helper()
	j.mu.Lock()
	prev := j.safeSum
	j.mu.Unlock()
	s, err := openSegment(d, path)
	if err != nil {
		t.Fatal(err)
	}
	refused := record.Record{Type: record.Intent, Detail: "refused", Seq: seq, Writer: s.writer, Prev: prev}
	b := appendFrame(nil, typeRecord, seq, func(b []byte) []byte { return record.AppendJSON(b, &refused) })
	seal(b, s.seed(), seq-1)
	if _, err := s.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// The places that tests of whole processes name are those of the doc.
func TestFailpointsAreThoseOfTheDoc(t *testing.T) {
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	hits := map[string]bool{}
	documented := map[string]bool{}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		for _, hit := range regexp.MustCompile(`failpoint\.Hit\("journal(\.\w+)"\)`).FindAllSubmatch(text, -1) {
			hits[string(hit[1])] = true
		}
		for _, line := range regexp.MustCompile(`(?m)^//\t(\..*)$`).FindAllSubmatch(text, -1) {
			for _, word := range regexp.MustCompile(`\.[a-z]+`).FindAll(line[1], -1) {
				documented[string(word)] = true
			}
		}
	}
	if want := slices.Sorted(maps.Keys(documented)); len(want) < 13 || !slices.Equal(slices.Sorted(maps.Keys(hits)), want) {
		t.Errorf("the code hits %v, the doc names %v", slices.Sorted(maps.Keys(hits)), want)
	}
}
