package journal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"

	"airgate/accounting/failpoint"
)

const (
	tendEvery  = time.Second
	ballast    = "ballast"
	maxBallast = 64 << 20
	// firstBallast is what Open makes of it before the first call is admitted: some
	// five hundred settlements. The rest takes time.
	firstBallast = 1 << 20
	// quotaPause is how long after a write that found no room the figures of the
	// disk are not believed: it may be our share that is used up.
	quotaPause = 10 * time.Second
	// fullPause is the time between two batches to a sink while the disk is full.
	fullPause = 10 * time.Second
)

// room is what is left on the disk. A file of ballast keeps room for the
// settlements of the calls that are in flight as the disk fills up.
type room struct {
	full    error // why intents are refused; nil = there is room
	alarmed bool  // there is little, and it was said
	free    int64 // as last asked
	ballast int64 // bytes of the file; 0 = there is none
	retry   time.Time
	unmake  context.CancelFunc // stops the ballast that is being made; nil = none is
	made    chan struct{}      // closed when that has ended
	blind   bool               // the disk did not say what is left, and it was said
}

// levelLocked is 0 while there is room, 1 with little, 2 with none.
func (r *room) levelLocked() float64 {
	switch {
	case r.full != nil:
		return 2
	case r.alarmed:
		return 1
	}
	return 0
}

// watermarks are, of a disk of that size, the bytes of the ballast, and what
// must be free beside it: less than alarm is told, with less than low nothing
// more is promised.
func watermarks(size int64) (ballast, low, alarm int64) {
	return min(maxBallast, size/16), min(size/100*3, 1<<30), min(size/10, 4<<30)
}

// tend does once in a while what nobody waits for.
func (j *Journal) tend(ctx context.Context) {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-j.failed:
			return
		case <-tick.C:
		}
		j.measure(ctx)
		j.age()
		j.trim()
	}
}

// age lets the keeper end a segment that has records and is old, or that it
// could not end.
func (j *Journal) age() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.aged = j.aged || j.written > j.base && time.Since(j.born) >= j.cfg.SegmentAge
	if j.dueLocked() {
		j.work.Signal()
	}
}

// measure asks what is left on the disk, and makes the ballast or gives it up.
// The ballast counts as room: whether there is enough does not depend on
// whether it is there.
func (j *Journal) measure(ctx context.Context) {
	free, size, err := j.disk.Space(j.cfg.Dir)
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil {
		if !j.room.blind {
			j.log.Error("the disk does not say what room is left", slog.Any("error", err))
		}
		j.room.blind = true
		return
	}
	j.room.free, j.room.blind = free, false
	want, low, alarm := watermarks(size)
	if little := free < alarm; little != j.room.alarmed {
		j.room.alarmed = little
		if little {
			j.log.Error("the journal's disk is filling up", slog.String("dir", j.cfg.Dir), slog.Int64("free_bytes", free), slog.Int64("refusing_below_bytes", low))
		} else {
			j.log.Info("the journal's disk has room again", slog.String("dir", j.cfg.Dir), slog.Int64("free_bytes", free))
		}
	}
	need := low + want
	if j.room.full != nil {
		need += want / 2 // not to and fro
	}
	switch {
	case free+j.room.ballast < need:
		if j.room.full == nil {
			j.fullLocked(fmt.Errorf("%d bytes are left", free))
		}
		if j.room.ballast > 0 {
			j.releaseLocked()
		}
	case time.Now().Before(j.room.retry):
	case j.room.ballast >= want && want > 0:
		j.admitLocked()
	case want > 0:
		j.ballastLocked(ctx, want)
	}
}

// admitLocked ends refusing.
func (j *Journal) admitLocked() {
	if j.room.full != nil {
		j.room.full = nil
		j.log.Info("the disk has room again: calls are admitted", slog.String("dir", j.cfg.Dir))
		j.work.Signal() // a new segment may have waited
	}
}

// fullLocked begins to refuse.
func (j *Journal) fullLocked(cause error) {
	j.room.full = fmt.Errorf("the disk of %s is full (%w): make room on it, admission then goes on by itself", j.cfg.Dir, cause)
	j.log.Error("the disk is full: calls are refused until it has room", slog.String("dir", j.cfg.Dir), slog.Any("error", cause))
}

// roomy waits while the disk is full, for as long as fullPause. A sink may be on
// the same disk: what it grows by is taken from what is kept for the settlements
// of calls in flight. It may be elsewhere too, and then what it takes can be
// deleted here.
func (j *Journal) roomy(ctx context.Context) error {
	for end := time.Now().Add(fullPause); time.Now().Before(end); {
		j.mu.Lock()
		full := j.room.full != nil && !j.closed && j.err == nil
		j.mu.Unlock()
		if !full {
			return nil
		}
		if err := pause(ctx, shipPause); err != nil {
			return err
		}
	}
	return nil
}

// noRoom is what a write comes to that found the disk full.
func (j *Journal) noRoom(cause error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.room.full == nil {
		j.fullLocked(cause)
	}
	j.room.retry = time.Now().Add(quotaPause)
	j.releaseLocked()
}

// releaseLocked gives the ballast's room to those who write.
func (j *Journal) releaseLocked() {
	if j.room.unmake != nil {
		j.room.unmake()
		made := j.room.made
		j.mu.Unlock()
		<-made
		j.mu.Lock()
	}
	j.mu.Unlock()
	err := j.disk.Remove(filepath.Join(j.cfg.Dir, ballast))
	failpoint.Hit("journal.released")
	j.mu.Lock()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		j.log.Error("the journal's ballast could not be removed", slog.Any("error", err))
		return
	}
	j.room.ballast = 0
}

// ballastLocked makes the ballast; once it is there, there is room.
func (j *Journal) ballastLocked(ctx context.Context, size int64) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	made := make(chan struct{})
	defer close(made)
	j.room.unmake, j.room.made = cancel, made
	j.mu.Unlock()
	err := j.makeBallast(ctx, size)
	failpoint.Hit("journal.ballast")
	j.mu.Lock()
	j.room.unmake = nil
	if err == nil {
		j.room.ballast = size
	}
	switch {
	case ctx.Err() != nil: // a write has found the disk full meanwhile, or this is the end
	case err != nil:
		j.room.retry = time.Now().Add(quotaPause)
		j.log.Error("the journal's ballast could not be made", slog.Any("error", err))
	default:
		j.admitLocked()
	}
}

func (j *Journal) makeBallast(ctx context.Context, size int64) error {
	name := filepath.Join(j.cfg.Dir, ballast)
	err := j.disk.Reserve(ctx, name+temporary, size)
	if errors.Is(err, fs.ErrExist) { // a process was killed while it made it
		if err = j.disk.Remove(name + temporary); err == nil {
			err = j.disk.Reserve(ctx, name+temporary, size)
		}
	}
	if err == nil {
		err = j.disk.Rename(name+temporary, name)
	}
	return err
}

// findBallast looks for that of an earlier process, or makes the first part of
// one, and gives it up at once if the room is needed: Open itself writes.
func (j *Journal) findBallast(ctx context.Context) {
	f, err := j.disk.Open(filepath.Join(j.cfg.Dir, ballast))
	if err == nil {
		if size, err := f.Size(); err == nil {
			j.room.ballast = size
		}
		_ = f.Close() // it was only looked at
	}
	free, size, err := j.disk.Space(j.cfg.Dir)
	want, low, _ := watermarks(size)
	if j.room.ballast == 0 && err == nil && want > 0 && free >= low+want {
		first := min(want, firstBallast)
		if err := j.makeBallast(ctx, first); err != nil {
			j.log.Warn("the journal's ballast could not be made", slog.Any("error", err))
		} else {
			j.room.ballast = first
		}
	}
	if j.room.ballast < want {
		j.room.retry = j.opened.Add(tendEvery) // Open does not wait for all of it
	}
	j.measure(ctx)
}
