package journal

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"airgate/accounting/journal/disk/disktest"
	"airgate/accounting/record"
	"airgate/accounting/sink"
	"airgate/accounting/sink/sqlite"
)

// memory is a sink that can be told to fail.
type memory struct {
	mu    sync.Mutex
	books map[string][]record.Record // :: writer → records
	fail  int                        // so many writes; half of them after storing
	calls int
	off   bool          // it cannot be reached
	takes time.Duration // each write

	refuse uint64 // the number of a record that is parked; 0 = none
	parked int64
}

func (m *memory) Write(_ context.Context, batch []record.Record) error {
	time.Sleep(m.takes)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls++
	if m.off {
		return disktest.ErrFault
	}
	failing := m.fail > 0
	if failing {
		m.fail--
	}
	if failing && m.fail%2 == 0 {
		return disktest.ErrFault
	}
	for _, r := range batch {
		switch book := m.books[r.Writer]; {
		case len(book) > 0 && r.Seq <= book[len(book)-1].Seq:
		case len(book) == 0 || r.Seq == book[len(book)-1].Seq+1:
			m.books[r.Writer] = append(book, r)
			if r.Seq == m.refuse {
				m.parked++
			}
		default:
			return sink.ErrGap
		}
	}
	if failing {
		return disktest.ErrFault // it was stored, and the answer was lost
	}
	return nil
}

func (m *memory) Head(_ context.Context, writer string) (record.Head, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	book := m.books[writer]
	if len(book) == 0 {
		return record.Head{}, nil
	}
	return headOf(book[len(book)-1]), nil
}

func (m *memory) Parked() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.parked
}

// Gaps implements sink.Sink.
func (m *memory) Gaps(_ context.Context, heads []record.Head) (all []sink.Gap, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.off {
		return nil, disktest.ErrFault
	}
	named := map[string]uint64{}
	for _, h := range heads {
		named[h.Writer] = max(named[h.Writer], h.Seq)
	}
	for writer, book := range m.books {
		if book[0].Seq > 1 {
			all = append(all, sink.Gap{Writer: writer, First: 1, Last: book[0].Seq - 1})
		}
		for _, r := range book {
			for _, h := range r.Heads {
				named[h.Writer] = max(named[h.Writer], h.Seq)
			}
		}
	}
	for writer, seq := range named {
		last := uint64(0)
		if book := m.books[writer]; len(book) > 0 {
			last = book[len(book)-1].Seq
		}
		if seq > last {
			all = append(all, sink.Gap{Writer: writer, First: last + 1, Last: seq})
		}
	}
	return all, nil
}

// Known implements sink.Sink.
func (m *memory) Known(context.Context) (map[string]uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.off {
		return nil, disktest.ErrFault
	}
	known := map[string]uint64{}
	for writer, book := range m.books {
		known[writer] = max(known[writer], book[len(book)-1].Seq)
		for _, r := range book {
			for _, h := range r.Heads {
				known[h.Writer] = max(known[h.Writer], h.Seq)
			}
		}
	}
	return known, nil
}

func (m *memory) Close() error { return nil }

// Heads, Starts and Records implement Book.
func (m *memory) Heads(context.Context) (all []record.Head, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, book := range m.books {
		all = append(all, headOf(book[len(book)-1]))
	}
	return all, nil
}

func (m *memory) Starts(context.Context) (all []record.Record, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, book := range m.books {
		if book[0].Type == record.Start {
			all = append(all, book[0])
		}
	}
	return all, nil
}

func (m *memory) Records(_ context.Context, writer string, from uint64) iter.Seq2[record.Record, error] {
	m.mu.Lock()
	book := slices.Clone(m.books[writer])
	m.mu.Unlock()
	return func(yield func(record.Record, error) bool) {
		for _, r := range book {
			if r.Seq >= from && !yield(r, nil) {
				return
			}
		}
	}
}

func (m *memory) len(writer string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.books[writer])
}

// shipping runs Ship and returns what ends it.
func shipping(t *testing.T, j *Journal, s sink.Sink) (wait func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- j.Ship(ctx, "local", s) }()
	t.Cleanup(cancel)
	for { // Shipped knows the sink from now on
		j.metrics.mu.Lock()
		n := len(j.metrics.sinks)
		j.metrics.mu.Unlock()
		if n > 0 {
			return func() error { return <-done }
		}
		time.Sleep(time.Millisecond)
	}
}

func shipped(t *testing.T, j *Journal) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := j.Shipped(ctx); err != nil {
		t.Fatalf("Shipped: %v", err)
	}
}

func TestParkedRecordsAreCountedAndToldOnce(t *testing.T) {
	var said strings.Builder
	registry := prometheus.NewRegistry()
	j := open(t, Config{Dir: simDir, Disk: disktest.New(1), Registerer: registry, Log: slog.New(slog.NewTextHandler(&said, nil))})
	m := &memory{books: map[string][]record.Record{}, refuse: 7, fail: 3}
	appendN(t, j, 20)
	wait := shipping(t, j, m)
	shipped(t, j)
	want := "# HELP airgate_sink_parked_records Records that the sink refuses for good and keeps aside, with the reason.\n" +
		"# TYPE airgate_sink_parked_records gauge\nairgate_sink_parked_records{sink=\"local\"} 1\n"
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "airgate_sink_parked_records"); err != nil {
		t.Error(err)
	}
	closed(t, j)
	if err := wait(); err != nil {
		t.Errorf("Ship = %v, want nil", err)
	}
	if got := strings.Count(said.String(), "refuses records for good"); got != 1 {
		t.Errorf("told %d times, want once:\n%s", got, said.String())
	}
}

func TestShipSendsAllOfEveryWriterOnce(t *testing.T) {
	d := disktest.New(1)
	m := &memory{books: map[string][]record.Record{}}
	var writers []string
	for range 3 { // only the last one ships
		j := open(t, Config{Dir: simDir, SegmentBytes: 3000, Disk: d})
		appendN(t, j, 20)
		writers = append(writers, j.Writer())
		closed(t, j)
	}
	j := open(t, Config{Dir: simDir, SegmentBytes: 3000, Disk: d})
	writers = append(writers, j.Writer())
	appendN(t, j, 10)
	m.fail = 3
	wait := shipping(t, j, m)
	appendN(t, j, 10)
	closed(t, j)
	if err := wait(); err != nil {
		t.Errorf("Ship after Close = %v, want nil", err)
	}
	for _, w := range writers {
		if got := m.len(w); got != 21 {
			t.Errorf("the sink has %d records of %s, want 21", got, w)
		}
	}
	want := map[string]uint64{}
	for r, err := range read(d, simDir) {
		if err != nil {
			t.Fatal(err)
		}
		if got := m.books[r.Writer][r.Seq-1]; headOf(got) != headOf(r) {
			t.Errorf("record %d of %s differs in the sink", r.Seq, r.Writer)
		}
		want[r.Writer]++
	}
}

func TestShipResumesBehindTheSinksHead(t *testing.T) {
	d := disktest.New(1)
	m := &memory{books: map[string][]record.Record{}}
	a := open(t, Config{Dir: simDir, Disk: d})
	wait := shipping(t, a, m)
	appendN(t, a, 5)
	shipped(t, a)
	if got := m.len(a.Writer()); got < 1 {
		t.Fatalf("the sink has %d records", got)
	}
	m.mu.Lock()
	m.books[a.Writer()] = m.books[a.Writer()][:1] // as if it had come no further
	m.mu.Unlock()
	closed(t, a)
	_ = wait()
	b := open(t, Config{Dir: simDir, Disk: d})
	wait = shipping(t, b, m)
	shipped(t, b)
	if got := m.len(a.Writer()); got != 6 {
		t.Errorf("the sink has %d records of the writer before, want 6", got)
	}
	closed(t, b)
	if err := wait(); err != nil {
		t.Errorf("Ship = %v, want nil", err)
	}
}

func TestOnlyDurableRecordsAreShipped(t *testing.T) {
	d := disktest.New(1)
	j := open(t, Config{Dir: simDir, Disk: d, Durability: Process})
	m := &memory{books: map[string][]record.Record{}}
	wait := shipping(t, j, m)
	shipped(t, j)
	release := d.Hold("sync")
	appendN(t, j, 3)
	time.Sleep(2 * shipPause)
	if got := m.len(j.Writer()); got != 1 {
		t.Errorf("the sink has %d records, want the 1 that is durable", got)
	}
	release()
	closed(t, j)
	if err := wait(); err != nil || m.len(j.Writer()) != 4 {
		t.Errorf("Ship = %v with %d records, want nil and 4", err, m.len(j.Writer()))
	}
}

func TestASinkWithAnotherHistoryIsNotWritten(t *testing.T) {
	for name, change := range map[string]func([]record.Record) []record.Record{
		"another record": func(b []record.Record) []record.Record { b[2].Detail = "harmless"; return b[:3] },
		"more records":   func(b []record.Record) []record.Record { return append(b, b[len(b)-1]) },
	} {
		t.Run(name, func(t *testing.T) {
			d, first, _, all := book(t, 5)
			if name == "more records" {
				all = append(all, record.Record{Type: record.Admin, Seq: 6, Writer: first})
			}
			m := &memory{books: map[string][]record.Record{first: change(slices.Clone(all))}}
			var log strings.Builder
			j := open(t, Config{Dir: simDir, Disk: d, Log: slog.New(slog.NewTextHandler(&log, nil))})
			wait := shipping(t, j, m)
			shipped(t, j) // its own records are not held up
			closed(t, j)
			if err := wait(); err != nil {
				t.Errorf("Ship = %v, want nil", err)
			}
			if m.len(j.Writer()) != 1 || !strings.Contains(log.String(), "an earlier writer's records cannot be shipped") {
				t.Errorf("the sink has %d own records, the log says\n%s", m.len(j.Writer()), log.String())
			}
		})
	}
}

func TestShipEndsWithItsContext(t *testing.T) {
	j := open(t, Config{Dir: simDir, Disk: disktest.New(1)})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := j.Ship(ctx, "local", &memory{books: map[string][]record.Record{}, fail: 1000}); !errors.Is(err, context.Canceled) {
		t.Errorf("Ship = %v, want %v", err, context.Canceled)
	}
	closed(t, j)
}

func TestLagIsSeenWhileASinkIsDown(t *testing.T) {
	registry := prometheus.NewRegistry()
	j := open(t, Config{Dir: simDir, Disk: disktest.New(1), Registerer: registry})
	m := &memory{books: map[string][]record.Record{}, fail: 1 << 30}
	lag := func() float64 {
		all, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range all {
			if f.GetName() == "airgate_sink_lag_seconds" {
				return f.GetMetric()[0].GetGauge().GetValue()
			}
		}
		return -1
	}
	wait := shipping(t, j, m)
	for lag() <= 0 {
		time.Sleep(time.Millisecond)
	}
	if n := testutil.CollectAndCount(j.metrics, "airgate_journal_unshipped_age_seconds", "airgate_sink_lag_seconds"); n != 2 {
		t.Errorf("%d lag figures, want 2", n)
	}
	m.mu.Lock()
	m.fail = 0
	m.mu.Unlock()
	shipped(t, j)
	for lag() != 0 {
		time.Sleep(time.Millisecond)
	}
	closed(t, j)
	if err := wait(); err != nil {
		t.Errorf("Ship = %v, want nil", err)
	}
}

// The whole way: journal, sink, and the sink's heads as anchors.
func TestTheSinkAnchorsTheJournal(t *testing.T) {
	dir := t.TempDir()
	s, err := sqlite.Open(t.Context(), filepath.Join(dir, "usage.db"))
	if err != nil {
		t.Fatal(err)
	}
	j := open(t, Config{Dir: filepath.Join(dir, "journal")})
	wait := shipping(t, j, s)
	appendN(t, j, 50)
	closed(t, j)
	if err := wait(); err != nil {
		t.Fatalf("Ship: %v", err)
	}
	report, err := Verify(t.Context(), filepath.Join(dir, "journal"), s, nil)
	if err != nil || !report.Sound() || len(report.Writers) != 1 || report.Writers[0].Anchored != 51 {
		t.Errorf("Verify = %+v, %v; want one writer, anchored to 51", report, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// A sink that catches up leaves half of the time to calls, if its backlog shrinks
// nevertheless; at the end, and on a disk that fills up, it takes all of it.
func TestWhoCatchesUpRests(t *testing.T) {
	const batches, takes = 8, 30 * time.Millisecond
	for name, c := range map[string]struct {
		every  time.Duration // an eighth of a batch comes so often; 0 = none comes
		closed bool
		full   bool
		want   time.Duration // until it has what was there
		within time.Duration
	}{
		"without calls":             {want: 2 * batches * takes, within: 2 * takes},
		"with calls":                {every: takes / 2, want: 3 * batches * takes, within: 4 * takes},
		"with almost all it can do": {every: takes / 6, want: 10 * batches * takes, within: 8 * takes},
		"at the end":                {closed: true, want: batches * takes, within: takes},
		"on a disk that is filling": {full: true, want: batches * takes, within: takes},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := disktest.New(1)
				j := open(t, Config{Dir: simDir, Sinks: []string{"one"}, Disk: d, SyncEvery: time.Millisecond})
				m := newMemory()
				m.takes = takes
				appendN(t, j, batches*shipBatch)
				if c.full {
					var used int64
					for _, data := range d.Files() {
						used += int64(len(data))
					}
					d.Resize(used * 15 / 14) // 1/15 is left
				}
				time.Sleep(2 * tendEvery)
				if c.closed {
					closed(t, j)
				}
				began := time.Now()
				wait := ships(t, j, map[string]sink.Sink{"one": m})
				sent := batches * shipBatch
				for next := began; m.len(j.Writer()) < sent; time.Sleep(time.Millisecond) {
					if c.every > 0 && time.Since(next) >= c.every && m.len(j.Writer())+shipBatch < sent {
						appendN(t, j, shipBatch/8)
						next, sent = next.Add(c.every), sent+shipBatch/8
					}
				}
				if took := time.Since(began); took < c.want-c.within || took > c.want+c.within {
					t.Errorf("it caught up in %s, want %s", took, c.want)
				}
				if !c.closed {
					closed(t, j)
				}
				wait()
			})
		})
	}
}
