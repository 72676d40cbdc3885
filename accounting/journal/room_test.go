package journal

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"airgate/accounting/journal/disk/disktest"
	"airgate/accounting/record"
)

// smallDisk has a ballast of 64 KiB, an alarm below 104857 bytes, and refuses
// when 31457 are left beside the ballast.
const smallDisk = 1 << 20

// filled is a journal on a small disk that has its ballast, and a file of
// somebody else's that leaves so many bytes.
func filled(t *testing.T, cfg Config, left int64) (*disktest.Disk, *Journal) {
	t.Helper()
	d := disktest.New(1)
	d.Resize(smallDisk)
	cfg.Dir, cfg.Disk = simDir, d
	j := open(t, cfg)
	time.Sleep(2*tendEvery + tendEvery/2) // between two looks at the disk
	takeAllBut(t, d, left)
	return d, j
}

func takeAllBut(t *testing.T, d *disktest.Disk, left int64) {
	t.Helper()
	free, _, err := d.Space(simDir)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Reserve(t.Context(), "/other", free-left); err != nil {
		t.Fatal(err)
	}
}

func try(j *Journal, typ record.Type) error {
	_, err := j.Append(&record.Record{Type: typ, Detail: strings.Repeat("x", 1000)})
	return err
}

// has reports whether the ballast is there.
func hasBallast(d *disktest.Disk) bool {
	_, ok := d.Files()[filepath.Join(simDir, ballast)]
	return ok
}

func TestOnAFullDiskSettlementsFitAndCallsAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, j := filled(t, Config{}, 2000)
		if err := j.Wait(t.Context(), appendN(t, j, 1)); err != nil {
			t.Fatal(err)
		}
		// The keeper has not looked since: a write finds out.
		if err := try(j, record.Intent); err == nil {
			err = try(j, record.Intent)
			if !errors.Is(err, ErrUnavailable) || !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("Append(intent) on a full disk = %v, want %v and %v", err, ErrUnavailable, syscall.ENOSPC)
			}
		}
		before := len(segmentsOf(d, j.Writer()))
		for range 40 {
			if err := try(j, record.Settle); err != nil {
				t.Fatalf("Append(settle) with the ballast's room: %v", err)
			}
			for _, typ := range []record.Type{record.Deny, record.Admin, record.Adjust} { // no call waits for them
				if err := try(j, typ); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "make room on it") {
					t.Fatalf("Append(%v) on a full disk = %v, want %v in words", typ, err, ErrUnavailable)
				}
			}
		}
		if hasBallast(d) || len(segmentsOf(d, j.Writer())) != before {
			t.Error("the ballast is still there, or a segment was begun")
		}
		time.Sleep(time.Minute)
		if err := try(j, record.Intent); !errors.Is(err, ErrUnavailable) {
			t.Errorf("Append(intent) while the disk stays full = %v, want %v", err, ErrUnavailable)
		}
		if err := d.Remove("/other"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * tendEvery)
		if err := errors.Join(try(j, record.Admin), try(j, record.Intent)); err != nil || !hasBallast(d) {
			t.Errorf("Append(intent) once there is room = %v, ballast %t; want nil and the ballast", err, hasBallast(d))
		}
		closed(t, j)
		if got := heads(t, d, simDir)[j.Writer()]; got != j.written {
			t.Errorf("%d records, want %d", got, j.written)
		}
	})
}

// As the process ends there are no settlements to come: what is left to be said
// has their room, until that is used up too, which is nobody's fault.
func TestARetiredJournalGivesItsRoom(t *testing.T) {
	for _, known := range []bool{true, false} { // that the disk is full
		synctest.Test(t, func(t *testing.T) {
			d, j := filled(t, Config{}, 0)
			if known {
				for range 2 {
					if err := try(j, record.Deny); !errors.Is(err, ErrUnavailable) {
						t.Errorf("Append(deny) on a full disk = %v, want %v", err, ErrUnavailable)
					}
				}
			}
			j.Retire()
			said := 0
			err := try(j, record.Deny)
			for ; err == nil && said < 1000; said++ {
				err = try(j, record.Deny)
			}
			if want := smallDisk / 16 / 1200; said < want/2 || !errors.Is(err, ErrUnavailable) || !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%d records were said, then %v; want about %d, then %v", said, err, want, syscall.ENOSPC)
			}
			closed(t, j)
			if got := heads(t, d, simDir)[j.Writer()]; got != uint64(1+said) {
				t.Errorf("%d records, want %d", got, 1+said)
			}
		})
	}
}

func TestADiskThatFillsUpIsToldBeforeItIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		d, j := filled(t, Config{Log: slog.New(slog.NewTextHandler(&log, nil))}, 100_000)
		step := func(left int64, level float64, admitted, ballast bool) {
			t.Helper()
			_ = d.Remove("/other")
			takeAllBut(t, d, left)
			time.Sleep(12 * time.Second)
			j.mu.Lock()
			got := j.room.levelLocked()
			j.mu.Unlock()
			if err := try(j, record.Intent); got != level || (err == nil) != admitted || hasBallast(d) != ballast {
				t.Errorf("with %d bytes left: level %v, Append(intent) = %v, ballast %t; want %v, admitted %t, %t", left, got, err, hasBallast(d), level, admitted, ballast)
			}
		}
		step(200_000, 0, true, true)
		step(100_000, 1, true, true)
		step(35_000, 1, true, true)
		step(30_000, 2, false, false)
		step(120_000, 2, false, false) // with the ballast, too little would be left
		step(140_000, 1, true, true)   // the ballast is made of it
		step(200_000, 0, true, true)
		closed(t, j)
		for text, want := range map[string]int{"is filling up": 2, "has room again\"": 2, "is full: calls are refused": 1, "has room again: calls are admitted": 1} {
			if got := strings.Count(log.String(), text); got != want {
				t.Errorf("the log says %d times %q, want %d:\n%s", got, text, want, log.String())
			}
		}
	})
}

func TestAStartOnAFullDiskUsesTheBallast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, j := filled(t, Config{}, 20)
		closed(t, j)
		next := open(t, Config{Dir: simDir, Disk: d})
		if err := try(next, record.Settle); err != nil {
			t.Errorf("Append(settle): %v", err)
		}
		if err := try(next, record.Intent); !errors.Is(err, ErrUnavailable) {
			t.Errorf("Append(intent) = %v, want %v", err, ErrUnavailable)
		}
		closed(t, next)
	})
}

func TestANewSegmentWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, j := filled(t, Config{SegmentBytes: 20_000}, 2000)
		for range 30 {
			if err := try(j, record.Settle); err != nil {
				t.Fatalf("Append(settle): %v", err)
			}
		}
		time.Sleep(time.Minute)
		if n := len(segmentsOf(d, j.Writer())); n != 1 {
			t.Errorf("%d segments on a full disk, want the one", n)
		}
		if err := d.Remove("/other"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if n := len(segmentsOf(d, j.Writer())); n != 2 {
			t.Errorf("%d segments once there is room, want 2", n)
		}
		closed(t, j)
	})
}

// A segment that cannot be made for want of room, found out by making it.
func TestARotationThatFindsNoRoomGoesOnInTheOldSegment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, op := range []string{"create", "write", "sync"} {
			d := disktest.New(1)
			j := open(t, Config{Dir: simDir, SegmentBytes: 3000, Disk: d})
			var failed atomic.Int32
			d.Fail(func(o, path string) error {
				if o == op && strings.HasSuffix(path, suffix+temporary) {
					failed.Add(1)
					return syscall.ENOSPC
				}
				return nil
			})
			for range 5 {
				if err := try(j, record.Settle); err != nil {
					t.Fatalf("Append(settle): %v", err)
				}
			}
			time.Sleep(tendEvery)
			if failed.Load() != 1 || len(segmentsOf(d, j.Writer())) != 1 {
				t.Errorf("%s: %d failures and %d segments, want one and one", op, failed.Load(), len(segmentsOf(d, j.Writer())))
			}
			if err := try(j, record.Settle); err != nil {
				t.Errorf("%s: Append(settle): %v", op, err)
			}
			closed(t, j)
			if got := heads(t, d, simDir)[j.Writer()]; got != 7 {
				t.Errorf("%s: %d records, want 7", op, got)
			}
			for name := range d.Files() {
				if strings.HasSuffix(name, temporary) {
					t.Errorf("%s: %s is left", op, name)
				}
			}
		}
	})
}

// Once it has its name, a reader would begin there: there is no way back.
func TestANamedSegmentIsNotGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := disktest.New(1)
		j := open(t, Config{Dir: simDir, SegmentBytes: 3000, Disk: d})
		d.Fail(func(op, _ string) error {
			if op == "sync directory" {
				return syscall.ENOSPC
			}
			return nil
		})
		for range 3 {
			_ = try(j, record.Settle)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := j.Watch(ctx); !errors.Is(err, ErrUnavailable) || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("Watch = %v, want %v", err, syscall.ENOSPC)
		}
		_ = j.Close()
	})
}

func TestASettlementGoesToANewSegmentIfItsWriteFails(t *testing.T) {
	for _, typ := range []record.Type{record.Settle, record.Start} {
		d := disktest.New(1)
		state := newTally()
		j := open(t, Config{Dir: simDir, State: state, Disk: d})
		appendN(t, j, 2)
		d.FailNext(1, "write")
		p, err := j.Append(&record.Record{Type: typ, Detail: "it happened"})
		if err != nil || p != 4 {
			t.Errorf("Append(%v) = %d, %v; want 4, nil", typ, p, err)
		}
		if err := j.Wait(t.Context(), p); err != nil {
			t.Errorf("Wait: %v", err)
		}
		if n := len(segmentsOf(d, j.Writer())); n != 2 {
			t.Errorf("%d segments, want 2", n)
		}
		appendN(t, j, 1)
		closed(t, j)
		if err := state.check(heads(t, d, simDir)); err != nil {
			t.Error(err)
		}
	}
}

func TestASecondFailedWriteOfASettlementEndsTheJournal(t *testing.T) {
	for name, fault := range map[string]error{"a full disk": syscall.ENOSPC, "a broken disk": disktest.ErrFault} {
		d := disktest.New(1)
		j := open(t, Config{Dir: simDir, Disk: d})
		d.Fail(func(op, _ string) error {
			if op == "write" {
				return fault
			}
			return nil
		})
		if err := try(j, record.Settle); !errors.Is(err, ErrUnavailable) || !errors.Is(err, fault) {
			t.Errorf("%s: Append(settle) = %v, want %v", name, err, fault)
		}
		if err := j.Watch(t.Context()); !errors.Is(err, ErrUnavailable) || !errors.Is(err, fault) {
			t.Errorf("%s: Watch = %v, want %v", name, err, fault)
		}
		d.Fail(nil)
		if err := try(j, record.Settle); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: Append after the end = %v, want %v", name, err, ErrUnavailable)
		}
		if err := j.Close(); !errors.Is(err, fault) {
			t.Errorf("%s: Close = %v, want %v", name, err, fault)
		}
	}
}

// What fills while a write runs is not refused with it: it gets the numbers of
// the records that were.
func TestARefusedWriteDoesNotTakeWhatFollowsWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := disktest.New(1)
		state := newTally()
		j := open(t, Config{Dir: simDir, State: state, Disk: d})
		release := d.Hold("write")
		var wg sync.WaitGroup
		refused := make(chan error, 1)
		wg.Go(func() { refused <- try(j, record.Intent) })
		synctest.Wait()
		d.FailNext(1, "write")
		for range 3 {
			wg.Go(func() {
				if err := try(j, record.Settle); err != nil {
					t.Errorf("Append(settle): %v", err)
				}
			})
		}
		synctest.Wait()
		release()
		wg.Wait()
		if err := <-refused; !errors.Is(err, ErrUnavailable) {
			t.Errorf("Append(intent) = %v, want %v", err, ErrUnavailable)
		}
		closed(t, j)
		if got := heads(t, d, simDir); got[j.Writer()] != 4 {
			t.Errorf("records %v, want 4", got)
		}
		if err := state.check(heads(t, d, simDir)); err != nil {
			t.Error(err)
		}
	})
}

func TestAStuckDiskRefusesCalls(t *testing.T) {
	for _, op := range []string{"sync", "write"} {
		synctest.Test(t, func(t *testing.T) {
			d := disktest.New(1)
			j := open(t, Config{Dir: simDir, Disk: d})
			var wg sync.WaitGroup
			release := d.Hold(op)
			settle := func() {
				wg.Go(func() {
					if err := try(j, record.Settle); err != nil {
						t.Errorf("Append(settle): %v", err)
					}
				})
				synctest.Wait()
			}
			settle()
			time.Sleep(5 * time.Second)
			wg.Go(func() {
				if err := try(j, record.Intent); err != nil {
					t.Errorf("Append(intent) after 5 s: %v", err)
				}
			})
			time.Sleep(time.Second)
			if err := try(j, record.Intent); !errors.Is(err, ErrUnavailable) || !errors.Is(err, errStuck) {
				t.Errorf("Append(intent) after 6 s without a %s = %v, want %v", op, err, errStuck)
			}
			settle()
			release()
			wg.Wait()
			if err := j.Wait(t.Context(), appendN(t, j, 1)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
			if err := try(j, record.Intent); err != nil {
				t.Errorf("Append(intent) after a %s that came late = %v, want nil", op, err)
			}
			closed(t, j)
		})
	}
}

func TestASlowDiskRefusesCallsBeforeMemoryRunsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := disktest.New(1)
		j := open(t, Config{Dir: simDir, UnsyncedBytes: 10_000, Disk: d})
		release := d.Hold("sync")
		var err error
		n := 0
		for ; err == nil && n < 100; n++ {
			err = try(j, record.Intent)
		}
		if !errors.Is(err, ErrUnavailable) || !errors.Is(err, errBehind) || n < 8 || n > 12 {
			t.Errorf("Append(intent) number %d = %v, want %v at 10,000 bytes", n, err, errBehind)
		}
		if err := try(j, record.Settle); err != nil {
			t.Errorf("Append(settle): %v", err)
		}
		release()
		synctest.Wait()
		if err := try(j, record.Intent); err != nil {
			t.Errorf("Append(intent) after the sync = %v, want nil", err)
		}
		closed(t, j)
	})
}

// Between a failed write and the next sync the sum of what waits stays known.
func TestAWriteThatOutlastsASyncCountsAsWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := disktest.New(1)
		j := open(t, Config{Dir: simDir, SyncEvery: time.Second, Disk: d})
		var wg sync.WaitGroup
		appendN(t, j, 1) // synced in a second
		written := d.Hold("write")
		wg.Go(func() { appendN(t, j, 1) })
		time.Sleep(2 * time.Second)
		synced := d.Hold("sync")
		written()
		wg.Wait()
		time.Sleep(6 * time.Second)
		if err := try(j, record.Intent); !errors.Is(err, errStuck) {
			t.Errorf("Append(intent) = %v, want %v", err, errStuck)
		}
		synced()
		closed(t, j)
	})
}

// The segment is old enough to end as a settlement's write fails: what was not
// written must not be taken for synced.
func TestAFailedWriteBeforeARotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := disktest.New(1)
		j := open(t, Config{Dir: simDir, Disk: d})
		release := d.Hold("write")
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := j.Wait(t.Context(), appendN(t, j, 1)); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		d.FailNext(1, "write")
		j.mu.Lock()
		j.aged = true
		j.work.Signal()
		j.mu.Unlock()
		synctest.Wait()
		release()
		wg.Wait()
		after := d.Crash()
		if got := heads(t, after, simDir)[j.Writer()]; got != 2 {
			t.Errorf("%d records, want 2", got)
		}
		closed(t, j)
	})
}

// Space says nothing of our share of the disk.
func TestAShareThatIsUsedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := disktest.New(1)
		j := open(t, Config{Dir: simDir, Disk: d})
		time.Sleep(2 * tendEvery)
		d.Fail(func(op, _ string) error {
			if op == "write" {
				return syscall.EDQUOT
			}
			return nil
		})
		if err := try(j, record.Intent); !errors.Is(err, ErrUnavailable) || hasBallast(d) {
			t.Errorf("Append(intent) = %v, ballast %t; want %v and none", err, hasBallast(d), ErrUnavailable)
		}
		d.Fail(nil)
		time.Sleep(quotaPause - 2*tendEvery)
		if err := try(j, record.Intent); !errors.Is(err, ErrUnavailable) || hasBallast(d) {
			t.Errorf("soon after: Append(intent) = %v, ballast %t; want %v and none", err, hasBallast(d), ErrUnavailable)
		}
		time.Sleep(3 * tendEvery)
		if err := try(j, record.Intent); err != nil || !hasBallast(d) {
			t.Errorf("later: Append(intent) = %v, ballast %t; want nil and the ballast", err, hasBallast(d))
		}
		closed(t, j)
	})
}

// TestASettlementMayFindTheDiskFull: nothing that could be refused has found out
// before it, and given it the ballast's room.
func TestASettlementMayFindTheDiskFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, j := filled(t, Config{}, 2000)
		for i := range 40 {
			if err := try(j, record.Settle); err != nil {
				t.Fatalf("Append of settlement %d = %v, want nil", i, err)
			}
		}
		if hasBallast(d) {
			t.Error("the ballast is still there: no settlement has needed its room")
		}
		closed(t, j)
		if got := heads(t, d, simDir)[j.Writer()]; got != j.written {
			t.Errorf("%d records, want %d", got, j.written)
		}
	})
}
