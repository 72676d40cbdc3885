//go:build bench

package e2e

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"airgate/accounting"
	"airgate/accounting/journal"
	"airgate/accounting/journal/disk"
	"airgate/accounting/record"
	"airgate/accounting/record/recordtest"
	"airgate/accounting/sink/sqlite"
)

const (
	sustained     = 20_000           // records a second that the book must take, with fsync
	sustainedFor  = 60 * time.Second // of each phase
	sustainedCall = 512              // calls in flight

	// firstByte is what a provider takes for it at the least: so long a call's
	// intent may take to the disk, and nobody waits for it.
	firstByte = 100 * time.Millisecond
)

// TestSustained holds the journal, its balances and the SQLite sink, in one
// process and on a real disk, at 20,000 records a second: with the sink, without
// it, and while it catches up on what it has missed. A call appends its intent,
// which its decision waits for, waits until that is on disk, which the provider's
// first byte waits for, and appends its settlement. A sink that catches up does not
// hurt traffic if that takes no longer than beside one that keeps up.
//
// An outage is as long as the backlog it leaves: what 60 seconds of 20,000 a
// second leave is what an hour leaves of 167 calls a second.
func TestSustained(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "usage.db")
	owner, err := journal.Own(t.Context(), disk.OS{}, filepath.Join(dir, "journal"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	j, err := journal.Open(t.Context(), journal.Config{
		Dir: filepath.Join(dir, "journal"), Owner: owner, Replica: "sustained", SyncEvery: 2 * time.Millisecond, Sinks: []string{"local"}, State: accounting.NewBalances(),
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ship := func() (stop func()) {
		ctx, cancel := context.WithCancel(context.Background())
		var done sync.WaitGroup
		done.Go(func() {
			if err := j.Ship(ctx, "local", s); err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("Ship: %v", err)
			}
		})
		return func() { cancel(); done.Wait() }
	}
	drained := func() time.Duration {
		began := time.Now()
		if err := j.Shipped(t.Context()); err != nil {
			t.Errorf("Shipped: %v", err)
		}
		return time.Since(began).Round(10 * time.Millisecond)
	}

	fmt.Printf("%-34s %9s %11s %9s %11s %9s %9s %9s %12s\n", "phase", "records/s", "written p50", "p99", "on disk p50", "p99", "max", "> 100ms", "journal MiB")
	phase := func(name string, rate int, length time.Duration) {
		l := load(t, j, rate, length)
		soon, _ := slices.BinarySearch(l.onDisk, firstByte+1)
		fmt.Printf("%-34s %9.0f %11s %9s %11s %9s %9s %9d %12.0f\n", name, l.rate, at(l.written, 0.5), at(l.written, 0.99),
			at(l.onDisk, 0.5), at(l.onDisk, 0.99), at(l.onDisk, 1), len(l.onDisk)-soon, mebibytes(t, filepath.Join(dir, "journal")))
		if want := float64(rate) * 0.99; l.rate < want {
			t.Errorf("%s: %.0f records a second, want %.0f", name, l.rate, want)
		}
	}
	rest := func() { fmt.Printf("the sink has the rest %s later\n", drained()) }
	stop := ship()
	for _, share := range []int{1, 2, 10} {
		phase(fmt.Sprintf("with the sink, 1/%d of the load", share), sustained/share, sustainedFor/4)
	}
	rest()
	for _, share := range []int{2, 10} {
		stop()
		phase("the sink is down", sustained, sustainedFor)
		stop = ship()
		phase(fmt.Sprintf("it catches up under 1/%d", share), sustained/share, sustainedFor/4)
		rest()
	}
	stop()
	for _, share := range []int{2, 10} {
		phase(fmt.Sprintf("the sink is down, 1/%d", share), sustained/share, sustainedFor/4)
	}
	stop = ship()
	_ = drained()
	stop()
	if err := errors.Join(j.Close(), owner.Close(), s.Close()); err != nil {
		t.Error(err)
	}
}

type loaded struct {
	rate            float64         // records a second
	written, onDisk []time.Duration // from the beginning of an append until its record was
}

// at is the time that such a share of all took at most.
func at(all []time.Duration, share float64) time.Duration {
	return all[int(share*float64(len(all)-1))].Round(10 * time.Microsecond)
}

// load makes calls of two records each, at a pace, as long as that.
func load(t *testing.T, j *journal.Journal, records int, length time.Duration) loaded {
	t.Helper()
	var mu sync.Mutex
	var l loaded
	var wg sync.WaitGroup
	began := time.Now()
	pace := time.Duration(float64(time.Second) * 2 * sustainedCall / float64(records)) // of one caller
	calls := int(length / pace)
	for n := range sustainedCall {
		wg.Go(func() {
			examples := recordtest.Examples()
			var mine loaded
			for i := range calls {
				time.Sleep(time.Until(began.Add(time.Duration(i)*pace + time.Duration(n)*pace/sustainedCall)))
				written, onDisk, err := oneCall(j, examples["intent"], examples["settle"])
				if err != nil {
					t.Errorf("call: %v", err)
					return
				}
				mine.written, mine.onDisk = append(mine.written, written), append(mine.onDisk, onDisk)
			}
			mu.Lock()
			defer mu.Unlock()
			l.written, l.onDisk = append(l.written, mine.written...), append(l.onDisk, mine.onDisk...)
		})
	}
	wg.Wait()
	slices.Sort(l.written)
	slices.Sort(l.onDisk)
	l.rate = float64(2*len(l.onDisk)) / time.Since(began).Seconds()
	return l
}

func oneCall(j *journal.Journal, intent, settle record.Record) (written, onDisk time.Duration, err error) {
	began := time.Now()
	id, err := uuid.NewV7()
	if err != nil {
		return 0, 0, err
	}
	intent.RequestID, intent.Time = id.String(), began
	p, err := j.Append(&intent)
	written = time.Since(began)
	if err == nil {
		err = j.Wait(context.Background(), p)
	}
	if err != nil {
		return 0, 0, err
	}
	onDisk = time.Since(began)
	settle.RequestID, settle.Time = id.String(), time.Now()
	_, err = j.Append(&settle)
	return written, onDisk, err
}

func mebibytes(t *testing.T, dir string) float64 {
	t.Helper()
	var sum int64
	if err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".wal" {
			return nil //nolint:nilerr // it may have been deleted meanwhile
		}
		if info, err := d.Info(); err == nil {
			sum += info.Size()
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return float64(sum) / (1 << 20)
}
