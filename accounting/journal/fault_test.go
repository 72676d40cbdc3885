package journal

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"airgate/accounting/journal/disk"
	"airgate/accounting/journal/disk/disktest"
	"airgate/accounting/record"
)

const simDir = "/journal"

// segmentsOf is the contents of a writer's segments. :: path → bytes
func segmentsOf(d *disktest.Disk, writer string) map[string][]byte {
	all := d.Files()
	maps.DeleteFunc(all, func(path string, _ []byte) bool {
		return !strings.HasSuffix(path, suffix) || filepath.Base(filepath.Dir(path)) != writer
	})
	return all
}

// onlySegment is the one segment of a writer that has one.
func onlySegment(d *disktest.Disk, writer string) (path string, data []byte) {
	all := segmentsOf(d, writer)
	for path := range all {
		return path, all[path]
	}
	panic("no segment")
}

// details reads everything; each record of these tests has its own detail.
func details(t testing.TB, d disk.Disk, dir string) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for r, err := range read(d, dir) {
		if err != nil {
			t.Fatalf("Read: %v", err)
		}
		if r.Type != record.Start && r.Detail != "" {
			if all[r.Detail] {
				t.Fatalf("%q is there twice", r.Detail)
			}
			all[r.Detail] = true
		}
	}
	return all
}

// A process that dies, or a machine that loses power, at any write, sync or
// rename: all that was acknowledged is there, every State counts what is there,
// and nothing that a crash can leave stops the next start.
func TestPowerLossAtEveryPoint(t *testing.T) {
	for seed := range uint64(400) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) { powerLoss(t, seed) })
	}
}

func powerLoss(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 2))
	d := disktest.New(seed)
	d.Trace(func(format string, args ...any) {
		if testing.Verbose() {
			t.Logf(format, args...)
		}
	})
	acked := map[string]bool{}
	killed := map[string]bool{} // appended by a process that was killed since the power last failed
	for round := range 4 {
		d.Off(1 + rng.IntN(60))
		appended := map[string]bool{}
		state := newTally()
		j, err := Open(t.Context(), Config{Dir: simDir, Replica: "a", SegmentBytes: 1500, State: state, Disk: d, Durability: Durability(seed % 2)})
		if err == nil {
			maps.Copy(acked, killed) // adopting makes them durable
			var mu sync.Mutex
			var wg sync.WaitGroup
			for w := range 3 {
				wg.Go(func() {
					for i := 0; ; i++ {
						r := record.Record{Type: record.Admin, Detail: fmt.Sprintf("%d/%d/%d", round, w, i)}
						p, err := j.Append(&r)
						if err != nil {
							return
						}
						mu.Lock()
						appended[r.Detail] = true
						mu.Unlock()
						if err := j.wait(t.Context(), uint64(p)); err != nil {
							return
						}
						mu.Lock()
						acked[r.Detail] = true
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			_ = j.Close() // the machine is off
		} else if !errors.Is(err, disktest.ErrCrashed) {
			t.Fatalf("Open in round %d: %v", round, err)
		}
		if rng.IntN(3) > 0 {
			d = d.Crash()
			clear(killed)
		} else { // only the process has died: what Append returned is there
			d = d.Kill()
			maps.Copy(killed, appended)
		}
	}
	state := newTally()
	j := open(t, Config{Dir: simDir, State: state, Disk: d})
	closed(t, j)
	maps.Copy(acked, killed)
	there := details(t, d, simDir)
	for detail := range acked {
		if !there[detail] {
			t.Errorf("%s was acknowledged and is lost", detail)
		}
	}
	if err := state.check(heads(t, d, simDir)); err != nil {
		t.Error(err)
	}
	if report, err := verify(t.Context(), d, simDir, nil, nil); err != nil || !report.Sound() {
		t.Errorf("Verify = %+v, %v; want sound", report, err)
	}
}

// A disk on which anything fails at any time, and then works again: a record
// is in the book if and only if its Append succeeded, unless the journal has
// given up, and then what was acknowledged is.
func TestADiskThatFailsNowAndThen(t *testing.T) {
	for seed := range uint64(300) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 3))
			d := disktest.New(seed)
			state := newTally()
			j := open(t, Config{Dir: simDir, SegmentBytes: 2000, State: state, Disk: d})
			d.Fail(func(string, string) error {
				if rng.IntN(12) == 0 {
					return disktest.ErrFault
				}
				return nil
			})
			var mu sync.Mutex
			var wg sync.WaitGroup
			appended, acked := map[string]bool{}, map[string]bool{}
			for w := range 3 {
				wg.Go(func() {
					for i := range 40 {
						r := record.Record{Type: record.Type(1 + (w+i)%int(record.Admin)), Detail: fmt.Sprintf("%d/%d", w, i)}
						p, err := j.Append(&r)
						if err != nil {
							if !errors.Is(err, ErrUnavailable) {
								t.Errorf("Append: %v, want %v", err, ErrUnavailable)
							}
							continue
						}
						err = j.Wait(t.Context(), p)
						mu.Lock()
						appended[r.Detail] = true
						if err == nil {
							acked[r.Detail] = true
						}
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			gaveUp := j.Close() != nil
			if !gaveUp {
				if there := details(t, d, simDir); !maps.Equal(there, appended) {
					t.Errorf("%d records are there, %d were appended", len(there), len(appended))
				}
				if err := state.check(heads(t, d, simDir)); err != nil {
					t.Error(err)
				}
			}
			after := d.Crash() // what was acknowledged does not depend on a clean end
			again := newTally()
			next, err := Open(t.Context(), Config{Dir: simDir, Replica: "a", State: again, Disk: after})
			if err != nil {
				t.Fatalf("Open: %v", err)
			}
			closed(t, next)
			there := details(t, after, simDir)
			for detail := range acked {
				if !there[detail] {
					t.Errorf("%s was acknowledged and is lost", detail)
				}
			}
			if err := again.check(heads(t, after, simDir)); err != nil {
				t.Error(err)
			}
		})
	}
}

// The kernel takes the pages of a failed sync for synced. A process that fails
// there leaves records that the next one sees, counts and ships: they must not
// go with the power.
func TestWhatAFailedSyncLeftIsMadeToLast(t *testing.T) {
	d := disktest.New(1)
	j := open(t, Config{Dir: simDir, Disk: d})
	appendN(t, j, 2)
	d.Fail(func(op, _ string) error {
		if op == "sync" || op == "create" {
			return disktest.ErrFault
		}
		return nil
	})
	r := record.Record{Type: record.Admin, Detail: "seen by the next process"}
	p, err := j.Append(&r)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Wait(t.Context(), p); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("Wait = %v, want %v", err, ErrUnavailable)
	}
	_ = j.Close() // its disk has failed
	d = d.Kill()
	closed(t, open(t, Config{Dir: simDir, Disk: d}))
	if !details(t, d, simDir)[r.Detail] {
		t.Fatal("the next process does not see the record")
	}
	d = d.Crash()
	closed(t, open(t, Config{Dir: simDir, Disk: d}))
	if !details(t, d, simDir)[r.Detail] {
		t.Error("a record that was adopted is lost")
	}
}

// The keeper waits between two syncs. A settlement whose write fails meanwhile is
// in no file yet: what the keeper syncs then must not count it as durable.
func TestASettlementThatMovesWhileTheKeeperWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := disktest.New(1)
		j := open(t, Config{Dir: simDir, SyncEvery: 2 * time.Millisecond, Disk: d})
		if err := try(j, record.Settle); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the keeper waits
		d.FailNext(1, "write")
		for range 2 {
			if err := try(j, record.Settle); err != nil {
				t.Fatalf("Append = %v, want nil: a settlement is not refused", err)
			}
		}
		closed(t, j)
		if got := heads(t, d, simDir)[j.Writer()]; got != 4 {
			t.Errorf("%d records are there, want 4", got)
		}
	})
}

func TestAFailedWriteIsRolledBack(t *testing.T) {
	d := disktest.New(1)
	state := newTally()
	j := open(t, Config{Dir: simDir, State: state, Disk: d})
	appendN(t, j, 2)
	d.FailNext(1, "write")
	r := record.Record{Type: record.Intent, Detail: "not in the book"}
	if _, err := j.Append(&r); !errors.Is(err, ErrUnavailable) || !errors.Is(err, disktest.ErrFault) {
		t.Errorf("Append = %v, want %v and %v", err, ErrUnavailable, disktest.ErrFault)
	}
	appendN(t, j, 2)
	closed(t, j)
	if got := heads(t, d, simDir)[j.Writer()]; got != 5 {
		t.Errorf("%d records, want 5", got)
	}
	if details(t, d, simDir)["not in the book"] {
		t.Error("a record whose Append failed is in the book")
	}
	if err := state.check(heads(t, d, simDir)); err != nil {
		t.Error(err)
	}
}

func TestAFailedWriteLeavesNothingBehind(t *testing.T) {
	d := disktest.New(1)
	j := open(t, Config{Dir: simDir, Disk: d})
	size := func() (n int) {
		for _, b := range segmentsOf(d, j.Writer()) {
			n += len(b)
		}
		return n
	}
	before := size()
	for range 5 {
		d.FailNext(1, "write")
		if _, err := j.Append(&record.Record{Type: record.Deny}); err == nil {
			t.Fatal("Append = nil, want an error")
		}
		if got := size(); got != before {
			t.Fatalf("the segment has %d bytes after a failed write, want %d", got, before)
		}
	}
	closed(t, j)
}

// A settlement whose write fails goes to a new segment. If that cannot be made the
// journal ends; of those who were told that they are refused, none is found by the
// next start.
func TestWhatIsRefusedAsTheJournalEndsIsNotInTheBook(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			d := disktest.New(seed)
			j := open(t, Config{Dir: simDir, Disk: d})
			appendN(t, j, 2)
			release := d.Hold("write")
			writes := 0
			d.Fail(func(op, path string) error {
				if op == "write" && !strings.HasSuffix(path, ".new") {
					writes++
				}
				if op == "create" || op == "write" && writes == 2 {
					return disktest.ErrFault
				}
				return nil
			})
			var mu sync.Mutex
			refused := map[string]bool{}
			var appending sync.WaitGroup
			for i := range 16 { // one is written alone, the rest in one batch
				appending.Go(func() {
					r := record.Record{Type: record.Settle, Detail: fmt.Sprintf("call %d", i)}
					if i%2 == 0 {
						r.Type = record.Intent
					}
					if _, err := j.Append(&r); err != nil {
						mu.Lock()
						refused[r.Detail] = true
						mu.Unlock()
					}
				})
			}
			synctest.Wait()
			release()
			appending.Wait()
			if len(refused) != 15 || j.Close() == nil {
				t.Fatalf("seed %d: %d are refused, want 15; or Close = nil of a journal that has failed", seed, len(refused))
			}
			d.Fail(nil)
			for how, d := range map[string]*disktest.Disk{"killed": d.Kill(), "power loss": d.Crash()} {
				closed(t, open(t, Config{Dir: simDir, Disk: d}))
				for detail := range details(t, d, simDir) {
					if refused[detail] {
						t.Errorf("seed %d, %s: %q was refused, and is in the book", seed, how, detail)
					}
				}
			}
		})
	}
}

func TestAWriteThatCannotBeRolledBackOpensANewSegment(t *testing.T) {
	d := disktest.New(1)
	state := newTally()
	j := open(t, Config{Dir: simDir, State: state, Disk: d})
	appendN(t, j, 2)
	renamed := false
	d.Fail(func(op, path string) error {
		renamed = renamed || op == "rename"
		if op == "truncate" || op == "write" && !strings.HasSuffix(path, ".new") && !renamed {
			return disktest.ErrFault
		}
		return nil
	})
	if _, err := j.Append(&record.Record{Type: record.Intent, Detail: "not in the book"}); !errors.Is(err, disktest.ErrFault) {
		t.Errorf("Append = %v, want %v", err, disktest.ErrFault)
	}
	if _, err := j.Append(&record.Record{Type: record.Admin, Detail: "in the book"}); err != nil {
		t.Errorf("Append to the new segment: %v", err)
	}
	closed(t, j)
	if n := len(segmentsOf(d, j.Writer())); n != 2 {
		t.Errorf("%d segments, want 2", n)
	}
	if got := details(t, d, simDir); len(got) != 1 || !got["in the book"] {
		t.Errorf("the book has %v, want only what was appended", got)
	}
	if err := state.check(heads(t, d, simDir)); err != nil {
		t.Error(err)
	}
}

func TestAFailedSyncOpensANewSegmentAndLosesNothing(t *testing.T) {
	d := disktest.New(1)
	j := open(t, Config{Dir: simDir, Disk: d})
	if err := j.Wait(t.Context(), appendN(t, j, 2)); err != nil {
		t.Fatal(err)
	}
	d.FailNext(1, "sync")
	if err := j.Wait(t.Context(), appendN(t, j, 3)); err != nil {
		t.Errorf("Wait after one failed sync = %v, want nil", err)
	}
	after := d.Crash() // the pages of the failed sync are nowhere
	if got := heads(t, after, simDir)[j.Writer()]; got != 6 {
		t.Errorf("%d records after a crash, want 6", got)
	}
	if n := len(segmentsOf(d, j.Writer())); n != 2 {
		t.Errorf("%d segments, want 2", n)
	}
	closed(t, j)
}

// A segment that is to end, and whose successor the disk refuses, goes on: nothing
// is wrong with it. It is tried to be ended again, not at once.
func TestARotationThatFailsIsTriedAgain(t *testing.T) {
	for _, op := range []string{"create", "write", "sync", "rename"} {
		for _, why := range []string{"its size", "its age"} {
			t.Run(op+" "+why, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var log strings.Builder
					d, state := disktest.New(1), newTally()
					cfg := Config{Dir: simDir, SegmentBytes: 5000, State: state, Disk: d, Log: slog.New(slog.NewTextHandler(&log, nil))}
					if why == "its age" {
						cfg.SegmentBytes = 0
					}
					j := open(t, cfg)
					failures := 0
					d.Fail(func(o, path string) error {
						if own := filepath.Dir(path) == j.dir; own && o == op && (o == "rename" || strings.HasSuffix(path, temporary)) {
							failures++
							return disktest.ErrFault
						}
						return nil
					})
					for range 6 {
						if err := j.Wait(t.Context(), appendN(t, j, 1)); err != nil {
							t.Fatal(err)
						}
					}
					time.Sleep(5*time.Minute + 35*time.Second)
					d.Fail(nil)
					if failures < 4 || failures > 34 { // in half a minute, or in all of the time
						t.Errorf("%d tries", failures)
					}
					if told := strings.Count(log.String(), "the disk refused a new segment: the journal goes on in the old one, and tries again"); told != failures {
						t.Errorf("the log says %d times that it goes on, want %d:\n%s", told, failures, log.String())
					}
					if n := len(segmentsOf(d, j.Writer())); n != 1 {
						t.Errorf("%d segments, want the one", n)
					}
					if err := j.Wait(t.Context(), appendN(t, j, 1)); err != nil {
						t.Fatal(err)
					}
					time.Sleep(rotateAgain + tendEvery)
					if n := len(segmentsOf(d, j.Writer())); n != 2 {
						t.Errorf("%d segments once the disk works, want 2", n)
					}
					after := d.Crash()
					if got := heads(t, after, simDir)[j.Writer()]; got != 8 {
						t.Errorf("%d records, want 8", got)
					}
					closed(t, j)
					if err := state.check(heads(t, d, simDir)); err != nil {
						t.Error(err)
					}
					for name := range d.Files() {
						if strings.HasSuffix(name, temporary) {
							t.Errorf("%s is left", name)
						}
					}
				})
			})
		}
	}
}

// After a failed sync nothing is known of the old segment, and where a new one
// may have its name a reader may begin there: there is no going on.
func TestARotationThatFailsAtAnUnsoundSegmentEndsTheJournal(t *testing.T) {
	for name, fault := range map[string]func(op, path string) bool{
		"the old segment's sync":        func(op, path string) bool { return op == "sync" && strings.HasSuffix(path, suffix) || op == "create" },
		"the renaming, and its undoing": func(op, _ string) bool { return op == "rename" || op == "remove" },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := disktest.New(1)
				j := open(t, Config{Dir: simDir, SegmentBytes: 3000, Disk: d})
				if err := j.Wait(t.Context(), appendN(t, j, 1)); err != nil {
					t.Fatal(err)
				}
				d.Fail(func(op, path string) error {
					if fault(op, path) {
						return disktest.ErrFault
					}
					return nil
				})
				for range 5 {
					_ = try(j, record.Settle)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := j.Watch(ctx); !errors.Is(err, ErrUnavailable) || !errors.Is(err, disktest.ErrFault) {
					t.Errorf("Watch = %v, want %v", err, disktest.ErrFault)
				}
				_ = j.Close()
			})
		})
	}
}

func TestASecondFailureEndsTheJournal(t *testing.T) {
	for _, second := range []string{"sync", "write", "rename", "create", "sync directory"} {
		t.Run(second, func(t *testing.T) {
			d := disktest.New(1)
			j := open(t, Config{Dir: simDir, Disk: d})
			failed := false
			d.Fail(func(op, _ string) error {
				if op == "sync" && !failed || failed && op == second {
					failed = true
					return disktest.ErrFault
				}
				return nil
			})
			r := record.Record{Type: record.Admin}
			p, err := j.Append(&r)
			if err != nil {
				t.Fatalf("Append: %v", err)
			}
			if err := j.Wait(t.Context(), p); !errors.Is(err, ErrUnavailable) {
				t.Errorf("Wait = %v, want %v", err, ErrUnavailable)
			}
			for range 3 {
				if _, err := j.Append(&r); !errors.Is(err, ErrUnavailable) || !errors.Is(err, disktest.ErrFault) {
					t.Errorf("Append after two failures = %v, want %v and the cause", err, ErrUnavailable)
				}
			}
			if err := j.Close(); !errors.Is(err, disktest.ErrFault) {
				t.Errorf("Close = %v, want %v", err, disktest.ErrFault)
			}
		})
	}
}

// unended is a segment as a process leaves it that is killed.
func unended(whole []byte) []byte {
	return whole[:len(whole)-int(align(frameHeader+int64(len(record.Hash{}))))]
}

// Every byte of a small last segment, cut there or flipped: what was on disk as
// a later frame was written is kept, or the damage is found and nothing
// changed; what was not is cut, set aside and told.
func TestEveryByteOfTheLastSegment(t *testing.T) {
	for name, test := range map[string]struct {
		synced, unsynced int // records beside the start record
		ended            bool
	}{
		"closed":             {synced: 5, ended: true},
		"killed":             {synced: 5},
		"killed, not synced": {synced: 2, unsynced: 4},
	} {
		t.Run(name, func(t *testing.T) {
			d := disktest.New(1)
			j := open(t, Config{Dir: simDir, State: newTally(), Disk: d})
			add := func(n int) (p Position) {
				for i := range n {
					var err error
					if p, err = j.Append(&record.Record{Type: record.Admin, Detail: strings.Repeat("x", 9+i)}); err != nil {
						t.Fatal(err)
					}
				}
				return p
			}
			if err := j.Wait(t.Context(), add(test.synced)); err != nil {
				t.Fatal(err)
			}
			release := d.Hold("sync")
			add(test.unsynced)
			path, whole := onlySegment(d, j.Writer())
			release()
			closed(t, j)
			if test.ended {
				path, whole = onlySegment(d, j.Writer())
			}
			everyByte(t, d, path, whole)
		})
	}
}

func everyByte(t *testing.T, d *disktest.Disk, path string, whole []byte) {
	origin := d.Clone()
	origin.Set(path, whole)
	s, err := openSegment(origin, path)
	if err != nil {
		t.Fatal(err)
	}
	var frames []frame
	scan, err := s.scan()
	for err == nil {
		var f frame
		if f, err = scan.next(); err == nil {
			frames = append(frames, f)
		}
	}
	if !errors.Is(err, io.EOF) || len(frames) < 6 || scan.at != int64(len(whole)) {
		t.Fatalf("%d frames, %v", len(frames), err)
	}
	// damaged says what must be found if the frame that has this place is not
	// whole and, if it was cut there, none behind it is left.
	damaged := func(at int64, cut bool) (corrupt bool, records, rest uint64) {
		var hit frame
		var durable uint64
		for _, f := range frames {
			switch {
			case f.start <= at && at < f.end:
				hit = f
				rest = uint64(int64(len(whole)) - f.start)
				if cut {
					rest = uint64(at - f.start)
				}
				continue
			case f.end <= at && f.typ == typeRecord:
				records = f.seq
			}
			if f.end <= at || !cut {
				durable = max(durable, f.durable)
			}
		}
		pad := !cut && at >= hit.start+frameHeader+int64(len(hit.payload)) // its sum is right: no crash does that
		return at < frames[0].end || pad || hit.typ == typeRecord && hit.seq <= durable, records, rest
	}
	try := func(at int, cut bool, data []byte, what string) {
		t.Helper()
		corrupt, records, rest := damaged(int64(at), cut)
		c := d.Clone()
		c.Set(path, data)
		state := newTally()
		next, err := Open(t.Context(), Config{Dir: simDir, Replica: "a", State: state, Disk: c})
		damage, found := errors.AsType[*CorruptError](err)
		switch {
		case found != corrupt || err != nil && !found:
			t.Fatalf("%s: Open = %v, want damage found: %t", what, err, corrupt)
		case found:
			if kept, ok := c.Files()[damage.Copy]; !ok || string(kept) != string(data) {
				t.Fatalf("%s: the quarantine %q has not what was found", what, damage.Copy)
			}
			if now := c.Files()[path]; string(now) != string(data) {
				t.Fatalf("%s: the damaged segment was changed", what)
			}
			return
		}
		closed(t, next)
		at2 := heads(t, c, simDir)
		if err := state.check(at2); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if got := at2[s.writer]; got != records {
			t.Fatalf("%s: %d records left, want %d", what, got, records)
		}
		told := ""
		for r, err := range read(c, simDir) {
			if err != nil {
				t.Fatal(err)
			}
			if r.Writer == next.Writer() && r.Type == record.Start {
				told = r.Detail
			}
		}
		want := ""
		if rest > 0 {
			want = fmt.Sprintf("%d bytes that are no whole record were cut off behind record %d of %s", rest, records, s.writer)
			if aside := c.Files()[fmt.Sprintf("%s.torn-%d", path, len(data)-int(rest))]; string(aside) != string(data[len(data)-int(rest):]) {
				t.Fatalf("%s: %d bytes were set aside, want %d", what, len(aside), rest)
			}
		}
		if told != want {
			t.Fatalf("%s: the start record says %q, want %q", what, told, want)
		}
	}
	for i := range whole {
		try(i, true, whole[:i], fmt.Sprintf("cut to %d bytes", i))
		for _, bit := range []byte{0x01, 0x80, 0xff} {
			flipped := append([]byte(nil), whole...)
			flipped[i] ^= bit
			try(i, false, flipped, fmt.Sprintf("byte %d flipped by %#x", i, bit))
		}
	}
}

// The bytes of a write that was refused do not come back behind those that came
// in their place.
func TestARolledBackWriteStaysAway(t *testing.T) {
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) {
			d := disktest.New(seed)
			j := open(t, Config{Dir: simDir, SyncEvery: time.Hour, Disk: d})
			var wg sync.WaitGroup
			release := d.Hold("write")
			wg.Go(func() { _ = try(j, record.Settle) })
			synctest.Wait()
			for range 3 {
				wg.Go(func() { _ = try(j, record.Intent) })
			}
			synctest.Wait()
			writes := 0
			d.Fail(func(op, _ string) error {
				if op == "write" {
					if writes++; writes == 2 {
						return disktest.ErrFault
					}
				}
				return nil
			})
			release()
			wg.Wait()
			if err := try(j, record.Intent); err != nil {
				t.Fatal(err)
			}
			after := d.Crash()
			next := open(t, Config{Dir: simDir, Disk: after})
			closed(t, next)
			if got := heads(t, after, simDir)[j.Writer()]; got > 3 {
				t.Errorf("%d records, want at most 3", got)
			}
			closed(t, j)
		})
	}
}

// Power fails at each change that a start makes of a torn tail, or of a damaged
// segment: what is set aside is whole, and there before anything is cut.
func TestPowerLossWhileBytesAreSetAside(t *testing.T) {
	d := disktest.New(1)
	j := open(t, Config{Dir: simDir, Disk: d})
	appendN(t, j, 3)
	closed(t, j)
	path, whole := onlySegment(d, j.Writer())
	torn := strings.Repeat("half a frame", 200)
	flipped := bytes.Clone(whole)
	flipped[len(flipped)/2] ^= 1
	for name, c := range map[string]struct {
		found    []byte
		kept     string // name of the copy
		aside    string
		refusing bool
	}{
		"torn":    {append(unended(whole), torn...), fmt.Sprintf("%s.torn-%d", path, len(unended(whole))), torn, false},
		"damaged": {flipped, path + ".damaged", string(flipped), true},
	} {
		t.Run(name, func(t *testing.T) {
			d.Set(path, c.found)
			for n := 1; n <= 24; n++ {
				for seed := range uint64(20) {
					at := fmt.Sprintf("off at change %d, seed %d", n, seed)
					after := crashedOpen(t, d, path, n, seed)
					next, err := Open(t.Context(), Config{Dir: simDir, Replica: "a", Disk: after})
					if _, refused := errors.AsType[*CorruptError](err); refused != c.refusing || err != nil && !refused {
						t.Fatalf("%s: Open = %v, want it refused: %t", at, err, c.refusing)
					}
					if err == nil {
						closed(t, next)
						if got := heads(t, after, simDir)[j.Writer()]; got != 4 {
							t.Fatalf("%s: %d records, want 4", at, got)
						}
					}
					if aside := string(after.Files()[c.kept]); aside != c.aside {
						t.Fatalf("%s: %d bytes were set aside, want %d, or others", at, len(aside), len(c.aside))
					}
					for left := range after.Files() {
						if strings.HasSuffix(left, temporary) {
							t.Fatalf("%s: %s is left", at, left)
						}
					}
				}
			}
		})
	}
}

// crashedOpen is what is left of d, which has the segment at path, by a machine
// whose power failed at the nth change that Open made.
func crashedOpen(t *testing.T, d *disktest.Disk, path string, n int, seed uint64) *disktest.Disk {
	t.Helper()
	c := disktest.New(seed)
	for name, data := range d.Files() {
		c.Set(name, data)
	}
	for _, dir := range []string{simDir, filepath.Dir(path)} {
		if err := errors.Join(c.Mkdir(dir), c.SyncDir(filepath.Dir(dir))); err != nil {
			t.Fatal(err)
		}
	}
	c.Off(n)
	if next, err := Open(t.Context(), Config{Dir: simDir, Replica: "a", Disk: c}); err == nil {
		_ = next.Close()
	}
	return c.Crash()
}

func TestATornTailIsSetAside(t *testing.T) {
	d := disktest.New(1)
	j := open(t, Config{Dir: simDir, Disk: d})
	appendN(t, j, 3)
	closed(t, j)
	for path, whole := range segmentsOf(d, j.Writer()) {
		d.Set(path, append(unended(whole), "half a frame"...))
	}
	next := open(t, Config{Dir: simDir, Disk: d})
	closed(t, next)
	for path := range segmentsOf(d, j.Writer()) {
		var kept string
		for name, data := range d.Files() {
			if strings.HasPrefix(name, path+".torn-") {
				kept = string(data)
			}
		}
		if kept != "half a frame" {
			t.Errorf("set aside %q, want %q", kept, "half a frame")
		}
	}
	if report, err := verify(t.Context(), d, simDir, nil, nil); err != nil || !report.Sound() {
		t.Errorf("Verify = %+v, %v; want sound", report, err)
	}
}

// Who reads a damaged journal as a start would is told what a start tells, but for
// the copy, which only a start makes. A proof goes on, and says where the damage is.
func TestDamageIsToldWithWhatToDo(t *testing.T) {
	d := disktest.New(1)
	j := open(t, Config{Dir: simDir, State: newTally(), Disk: d})
	appendN(t, j, 3)
	closed(t, j)
	path, whole := onlySegment(d, j.Writer())
	whole[len(whole)/2] ^= 1
	d.Set(path, whole)

	const next = ". Restore the file from a backup; or, to go on without what only it has, move the directory "
	cfg := Config{Dir: simDir, Replica: "a", State: newTally(), Disk: d}
	if err := Replay(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "; nothing was cut"+next+filepath.Dir(path)) {
		t.Errorf("Replay = %v, want it to say what to do", err)
	}
	if _, err := openOwned(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "; nothing was cut, a copy is in "+path+".damaged"+next) {
		t.Errorf("Open = %v, want it to say what to do", err)
	}
	if report, err := verify(t.Context(), d, simDir, nil, nil); err != nil || report.Sound() || strings.Contains(fmt.Sprint(report.Writers[0].Problems), "nothing was cut") {
		t.Errorf("Verify = %+v, %v; want the damage alone", report, err)
	}
}

func TestDamageInAnOlderSegmentIsFound(t *testing.T) {
	d := disktest.New(1)
	j := open(t, Config{Dir: simDir, SegmentBytes: 1, State: newTally(), Disk: d})
	for range 4 {
		if err := j.Wait(t.Context(), appendN(t, j, 1)); err != nil {
			t.Fatal(err)
		}
	}
	closed(t, j)
	names, err := segments(d, filepath.Join(simDir, j.Writer()))
	if err != nil || len(names) < 3 {
		t.Fatalf("%d segments, %v", len(names), err)
	}
	path := filepath.Join(simDir, j.Writer(), names[1])
	for what, damage := range map[string]func(*disktest.Disk, []byte){
		"flipped": func(c *disktest.Disk, b []byte) { b[len(b)-20] ^= 1; c.Set(path, b) },
		"cut":     func(c *disktest.Disk, b []byte) { c.Set(path, b[:len(b)-8]) },
		"gone":    func(c *disktest.Disk, _ []byte) { c.Delete(path) },
	} {
		c := d.Clone()
		damage(c, segmentsOf(d, j.Writer())[path])
		var problem error
		for _, err := range read(c, simDir) {
			problem = errors.Join(problem, err)
		}
		if _, ok := errors.AsType[*CorruptError](problem); !ok {
			t.Errorf("Read with a segment %s = %v, want a *CorruptError", what, problem)
		}
		if report, err := verify(t.Context(), c, simDir, nil, nil); err != nil || report.Sound() {
			t.Errorf("Verify with a segment %s = %+v, %v; want it found", what, report, err)
		}
	}
}

const childEnv = "AIRGATE_TEST_JOURNAL_CHILD"

// child appends until it is killed and says what was acknowledged.
func child(dir string) {
	ctx := context.Background()
	durability := Disk
	if strings.HasSuffix(dir, "process") {
		durability = Process
	}
	j, err := openOwned(ctx, Config{Dir: dir, Replica: "a", SegmentBytes: 20_000, State: newTally(), Durability: durability})
	if err != nil {
		panic(err)
	}
	out := make(chan string)
	for w := range 4 {
		go func() {
			for i := 0; ; i++ {
				r := record.Record{Type: record.Admin, Detail: fmt.Sprintf("%s/%d/%d", j.Writer(), w, i)}
				p, err := j.Append(&r)
				if err == nil {
					err = j.Wait(ctx, p)
				}
				if err != nil {
					panic(err)
				}
				out <- r.Detail
			}
		}()
	}
	for s := range out {
		_, _ = os.Stdout.WriteString(s + "\n")
	}
}

func TestKillNineLosesNothingAcknowledged(t *testing.T) {
	for _, level := range []string{"disk", "process"} {
		dir := filepath.Join(t.TempDir(), level)
		acked := map[string]bool{}
		for round := range 10 {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), childEnv+"="+dir)
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			time.AfterFunc(time.Duration(40+10*round)*time.Millisecond, func() { _ = cmd.Process.Kill() })
			for lines.Scan() {
				acked[lines.Text()] = true
			}
			_ = cmd.Wait() // killed
		}
		state := newTally()
		j := owned(t, Config{Dir: dir, State: state})
		closed(t, j)
		there := details(t, disk.OS{}, dir)
		for detail := range acked {
			if !there[detail] {
				t.Errorf("%s: %s was acknowledged and is lost", level, detail)
			}
		}
		if err := state.check(heads(t, disk.OS{}, dir)); err != nil {
			t.Error(err)
		}
		if report, err := Verify(t.Context(), dir, nil, nil); err != nil || !report.Sound() {
			t.Errorf("Verify = %+v, %v; want sound", report, err)
		}
		if len(acked) < 100 {
			t.Errorf("%s: only %d records were acknowledged", level, len(acked))
		}
	}
}

// Any bytes behind a segment's beginning: Open recovers or refuses with a
// *CorruptError, and what it has recovered can be read.
func FuzzRecover(f *testing.F) {
	d := disktest.New(1)
	j, err := Open(context.Background(), Config{Dir: simDir, Replica: "a", Disk: d})
	if err != nil {
		f.Fatal(err)
	}
	for range 3 {
		if _, err := j.Append(&record.Record{Type: record.Admin, Detail: "seed"}); err != nil {
			f.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		f.Fatal(err)
	}
	path, whole := onlySegment(d, j.Writer())
	f.Add(uint16(0), []byte{})
	f.Add(uint16(len(whole)), []byte("behind the end"))
	f.Add(uint16(len(whole)-16), []byte{})
	f.Add(uint16(200), whole[200:])
	f.Add(uint16(100), whole[100:300])
	f.Fuzz(func(t *testing.T, at uint16, tail []byte) {
		c := d.Clone()
		c.Set(path, append(append([]byte(nil), whole[:min(int(at), len(whole))]...), tail...))
		state := newTally()
		next, err := Open(t.Context(), Config{Dir: simDir, Replica: "a", State: nil, Disk: c})
		if err != nil {
			if _, ok := errors.AsType[*CorruptError](err); !ok {
				t.Fatalf("Open = %v, want a *CorruptError", err)
			}
			return
		}
		closed(t, next)
		for r, err := range read(c, simDir) {
			if err != nil {
				if _, ok := errors.AsType[*CorruptError](err); !ok {
					t.Fatalf("Read = %v, want a *CorruptError", err)
				}
				return
			}
			state.Apply(&r)
		}
		if state.err != nil {
			t.Fatal(state.err)
		}
	})
}
