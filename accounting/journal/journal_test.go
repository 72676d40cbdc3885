package journal

import (
	stdcmp "cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"airgate/accounting/journal/disk"
	"airgate/accounting/journal/disk/disktest"
	"airgate/accounting/record"
	"airgate/accounting/record/recordtest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		child(dir)
	}
	goleak.VerifyTestMain(m)
}

func open(t testing.TB, cfg Config) *Journal {
	t.Helper()
	if cfg.Replica == "" {
		cfg.Replica = "a"
	}
	j, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return j
}

// openOwned opens the journal of a process that has the directory for itself.
func openOwned(ctx context.Context, cfg Config) (*Journal, error) {
	whole := cfg.withDefaults()
	owner, err := Own(ctx, whole.Disk, cfg.Dir, whole.Log)
	if err != nil {
		return nil, err
	}
	cfg.Owner = owner
	return Open(ctx, cfg)
}

func owned(t testing.TB, cfg Config) *Journal {
	t.Helper()
	cfg.Replica = stdcmp.Or(cfg.Replica, "a")
	j, err := openOwned(t.Context(), cfg)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return j
}

func appendN(t testing.TB, j *Journal, n int) Position {
	t.Helper()
	var p Position
	for i := range n {
		r := recordtest.Examples()["settle"]
		r.RequestID = fmt.Sprintf("request-%d", i)
		var err error
		if p, err = j.Append(&r); err != nil {
			t.Fatalf("Append: %v", err)
		}
	}
	return p
}

func closed(t testing.TB, j *Journal) {
	t.Helper()
	if err := j.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
}

// heads reads every writer and returns where it ends.
func heads(t testing.TB, d disk.Disk, dir string) map[string]uint64 {
	t.Helper()
	got := map[string]uint64{}
	for r, err := range read(d, dir) {
		if err != nil {
			t.Fatalf("Read: %v", err)
		}
		if r.Seq != got[r.Writer]+1 {
			t.Fatalf("Read yields record %d of %s, want %d", r.Seq, r.Writer, got[r.Writer]+1)
		}
		got[r.Writer] = r.Seq
	}
	return got
}

func TestWhatWasAppendedIsReadBack(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Config{Dir: dir})
	var want []record.Record
	for _, r := range recordtest.Examples() {
		p, err := j.Append(&r)
		if err != nil {
			t.Fatalf("Append: %v", err)
		}
		if err := j.Wait(t.Context(), p); err != nil {
			t.Fatalf("Wait(%d): %v", p, err)
		}
		if uint64(p) != r.Seq || r.Writer != j.Writer() {
			t.Errorf("Append = %d and set seq %d, writer %q; want them equal and %q", p, r.Seq, r.Writer, j.Writer())
		}
		want = append(want, r)
	}
	var got []record.Record
	for r, err := range Read(dir) { // the journal is still open
		if err != nil {
			t.Fatalf("Read: %v", err)
		}
		got = append(got, r)
	}
	if got[0].Type != record.Start || got[0].Seq != 1 {
		t.Errorf("the first record is %v %d, want start 1", got[0].Type, got[0].Seq)
	}
	if diff := cmp.Diff(want, got[1:]); diff != "" {
		t.Errorf("Read differs from what was appended (-want +got):\n%s", diff)
	}
	closed(t, j)
}

func TestAppendersShareWritesAndLoseNothing(t *testing.T) {
	dir := t.TempDir()
	state := newTally()
	j := open(t, Config{Dir: dir, SegmentBytes: 64 << 10, State: state})
	const writers, each = 256, 20
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				r := record.Record{Type: record.Admin, Detail: fmt.Sprint(w, i)}
				p, err := j.Append(&r)
				if err != nil {
					t.Errorf("Append: %v", err)
					return
				}
				if err := j.Wait(t.Context(), p); err != nil {
					t.Errorf("Wait: %v", err)
				}
			}
		})
	}
	wg.Wait()
	closed(t, j)
	seen := map[string]bool{}
	for r, err := range Read(dir) {
		if err != nil {
			t.Fatalf("Read: %v", err)
		}
		if seen[r.Detail] {
			t.Errorf("record %q is there twice", r.Detail)
		}
		seen[r.Detail] = true
	}
	if len(seen) != writers*each+1 {
		t.Errorf("%d records, want %d", len(seen), writers*each+1)
	}
	if err := state.check(heads(t, disk.OS{}, dir)); err != nil {
		t.Error(err)
	}
	names, err := segments(disk.OS{}, filepath.Join(dir, j.Writer()))
	if err != nil || len(names) < 5 {
		t.Errorf("%d segments, %v; want at least 5", len(names), err)
	}
	report, err := Verify(t.Context(), dir, nil, nil)
	if err != nil || !report.Sound() {
		t.Errorf("Verify = %+v, %v; want sound", report, err)
	}
}

func TestEachIncarnationCountsEveryRecordOnce(t *testing.T) {
	dir := t.TempDir()
	for range 4 {
		state := newTally()
		j := open(t, Config{Dir: dir, SegmentBytes: 4 << 10, State: state})
		appendN(t, j, 17)
		closed(t, j)
		if err := state.check(heads(t, disk.OS{}, dir)); err != nil {
			t.Fatal(err)
		}
	}
}

// An airgate that drains while the next one runs: neither has the other's
// records in its checkpoints.
func TestOverlappingWritersAreCountedOnce(t *testing.T) {
	dir := t.TempDir()
	z := open(t, Config{Dir: dir, Replica: "z", State: newTally()})
	appendN(t, z, 3)
	closed(t, z)
	a := open(t, Config{Dir: dir, State: newTally()})
	appendN(t, a, 5)
	b := open(t, Config{Dir: dir, State: newTally()})
	appendN(t, a, 7)
	appendN(t, b, 11)
	closed(t, a)
	closed(t, b)
	state := newTally()
	c := open(t, Config{Dir: dir, State: state})
	closed(t, c)
	if err := state.check(heads(t, disk.OS{}, dir)); err != nil {
		t.Error(err)
	}
}

func TestAStartNamesWhoWasThereBefore(t *testing.T) {
	dir := t.TempDir()
	a := open(t, Config{Dir: dir})
	appendN(t, a, 3)
	closed(t, a)
	b := open(t, Config{Dir: dir})
	c := open(t, Config{Dir: dir})
	closed(t, c)
	closed(t, b)
	starts := map[string][]record.Head{}
	for r, err := range Read(dir) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Type == record.Start {
			for i := range r.Heads {
				r.Heads[i].Hash = record.Hash{}
			}
			starts[r.Writer] = r.Heads
		}
	}
	want := map[string][]record.Head{
		a.Writer(): nil,
		b.Writer(): {{Writer: a.Writer(), Seq: 4}},
		c.Writer(): {{Writer: b.Writer()}}, // a is locked by b, which has adopted it
	}
	want[c.Writer()] = []record.Head{{Writer: a.Writer()}, {Writer: b.Writer()}}
	if diff := cmp.Diff(want, starts); diff != "" {
		t.Errorf("start records name (-want +got):\n%s", diff)
	}
}

// An owner on its way out may have given back the whole before its own part:
// who goes on without that part would forget what was spent.
func TestAnOwnerWaitsForEveryDirectory(t *testing.T) {
	dir := t.TempDir()
	a := owned(t, Config{Dir: dir})
	if err := a.locks[0].Close(); err != nil { // of the whole
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 120*time.Millisecond)
	defer cancel()
	b, err := openOwned(ctx, Config{Dir: dir, Replica: "b", Log: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Open while a writer's directory is locked = %v, %v; want %v", b, err, context.DeadlineExceeded)
	}
	a.locks = a.locks[1:]
	closed(t, a)
}

func TestAnOwnerWaitsForTheOneBefore(t *testing.T) {
	dir := t.TempDir()
	var log strings.Builder
	a := owned(t, Config{Dir: dir})
	ctx, cancel := context.WithTimeout(t.Context(), 120*time.Millisecond)
	defer cancel()
	if _, err := openOwned(ctx, Config{Dir: dir, Replica: "b", Log: slog.New(slog.NewTextHandler(&log, nil))}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Open beside the owner = %v, want %v", err, context.DeadlineExceeded)
	}
	if got := strings.Count(log.String(), "waiting until it ends"); got != 1 {
		t.Errorf("the log says %d times that it waits, want once:\n%s", got, log.String())
	}
	done := make(chan error)
	go func() {
		b, err := openOwned(t.Context(), Config{Dir: dir, Replica: "b"})
		if err == nil {
			err = b.Close()
		}
		done <- err
	}()
	closed(t, a)
	if err := <-done; err != nil {
		t.Errorf("Open after the owner has ended: %v", err)
	}
}

func TestAClosedJournalRefuses(t *testing.T) {
	j := open(t, Config{Dir: t.TempDir()})
	p := appendN(t, j, 1)
	closed(t, j)
	closed(t, j)
	if _, err := j.Append(&record.Record{Type: record.Admin}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Append = %v, want %v", err, ErrUnavailable)
	}
	if err := j.Wait(t.Context(), p); err != nil {
		t.Errorf("Wait for what was appended before = %v, want nil", err)
	}
	if err := j.Wait(t.Context(), p+1); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Wait for what will never be = %v, want %v", err, ErrUnavailable)
	}
}

func TestAppendRefusesWhatIsNoRecord(t *testing.T) {
	dir := t.TempDir()
	j := open(t, Config{Dir: dir})
	for name, r := range map[string]record.Record{
		"no type":   {},
		"too large": {Type: record.Admin, Detail: strings.Repeat("x", maxRecord)},
	} {
		if _, err := j.Append(&r); !errors.Is(err, ErrUnavailable) {
			t.Errorf("Append(%s) = %v, want %v", name, err, ErrUnavailable)
		}
	}
	appendN(t, j, 2)
	closed(t, j)
	if got := heads(t, disk.OS{}, dir)[j.Writer()]; got != 3 {
		t.Errorf("%d records, want 3", got)
	}
}

func TestOpenRefusesAStrangeReplica(t *testing.T) {
	for _, name := range []string{"", "../up", "a/b", ".", "a b", strings.Repeat("a", 180)} {
		if j, err := Open(t.Context(), Config{Dir: t.TempDir(), Replica: name}); err == nil {
			t.Errorf("Open with replica %q = nil, want an error", name)
			closed(t, j)
		}
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	j := open(t, Config{Dir: t.TempDir()})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := j.Wait(ctx, 1000); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait = %v, want %v", err, context.Canceled)
	}
	closed(t, j)
}

func TestMetricsOfTheJournal(t *testing.T) {
	registry := prometheus.NewRegistry()
	d := disktest.New(1)
	a := open(t, Config{Dir: simDir, Disk: d})
	appendN(t, a, 3)
	closed(t, a)
	j := open(t, Config{Dir: simDir, Registerer: registry, Disk: d})
	if err := j.Wait(t.Context(), appendN(t, j, 3)); err != nil {
		t.Fatal(err)
	}
	size := 0.0
	for _, name := range []string{a.Writer(), j.Writer()} {
		n, err := sizeOf(d, filepath.Join(simDir, name))
		if err != nil {
			t.Fatal(err)
		}
		size += float64(n)
	}
	j.mu.Lock()
	free := j.room.free // as last asked
	j.mu.Unlock()
	if total, _, err := d.Space(simDir); err != nil || free < total {
		t.Errorf("%d bytes are free, %v; the journal says %d", total, err, free)
	}
	want := fmt.Sprintf(`
# HELP airgate_journal_bytes Bytes of the journal's segments, those of adopted writers included.
# TYPE airgate_journal_bytes gauge
airgate_journal_bytes %g
# HELP airgate_journal_disk_level 0 = the disk has room, 1 = it is filling up, 2 = it is full: calls are refused.
# TYPE airgate_journal_disk_level gauge
airgate_journal_disk_level 0
# HELP airgate_journal_free_bytes Bytes that are left on the journal's disk.
# TYPE airgate_journal_free_bytes gauge
airgate_journal_free_bytes %g
# HELP airgate_journal_unshipped_age_seconds Age of the oldest record that some sink does not have; 0 = all have all.
# TYPE airgate_journal_unshipped_age_seconds gauge
airgate_journal_unshipped_age_seconds 0
# HELP airgate_journal_unsynced_records Records written and not yet synced to disk.
# TYPE airgate_journal_unsynced_records gauge
airgate_journal_unsynced_records 0
`, size, float64(free))
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
	closed(t, j)
	if left, err := registry.Gather(); err != nil || len(left) > 0 {
		t.Errorf("after Close the registry has %v, %v; want nothing", left, err)
	}
}

func TestAppendDoesNotAllocate(t *testing.T) {
	j := open(t, Config{Dir: t.TempDir(), State: newTally()})
	r := recordtest.Examples()["settle"]
	appendN(t, j, 100)
	if got := testing.AllocsPerRun(500, func() {
		if _, err := j.Append(&r); err != nil {
			t.Fatal(err)
		}
	}); got > 0 {
		t.Errorf("Append allocates %v times, want 0", got)
	}
	closed(t, j)
}

func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 16, 256, 1024} {
		for _, durability := range []Durability{Disk, Process} {
			b.Run(fmt.Sprintf("writers=%d/durability=%d", writers, durability), func(b *testing.B) {
				j := open(b, Config{Dir: b.TempDir(), Durability: durability, State: newTally()})
				b.ReportAllocs()
				b.ResetTimer()
				var wg sync.WaitGroup
				per := b.N/writers + 1
				for range writers {
					wg.Go(func() {
						r := recordtest.Examples()["settle"]
						for range per {
							p, err := j.Append(&r)
							if err == nil {
								err = j.Wait(context.Background(), p)
							}
							if err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(per*writers)/b.Elapsed().Seconds(), "rec/s")
				b.StopTimer()
				closed(b, j)
			})
		}
	}
}
