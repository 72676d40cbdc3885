package journal

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"airgate/accounting/failpoint"
	"airgate/accounting/journal/disk"
	"airgate/accounting/record"
)

// rotateAgain is the time until a segment that could not be ended is tried to be
// ended again.
const rotateAgain = 10 * time.Second

// pastSegment is a segment of this writer that was given up for a newer one.
type pastSegment struct {
	name  string
	first uint64
	size  int64
}

// keep syncs what was written, and rotates segments, until Close.
func (j *Journal) keep() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for j.err == nil {
		switch {
		case j.broken:
			j.rotateLocked(false)
		case j.dueLocked():
			j.rotateLocked(true)
		case j.durable < j.written:
			j.paceLocked()
			if j.broken || j.err != nil {
				continue // a write failed meanwhile: what is written is not all in the file
			}
			if err := j.syncLocked(); err != nil {
				j.rotateLocked(false)
			}
		case j.closed && !j.writing && j.filling == nil:
			wake(&j.nextSync)
			return
		default:
			j.work.Wait()
		}
	}
}

// dueLocked reports whether the segment is to be ended. That can wait: while the
// disk is full, and for a while after it failed.
func (j *Journal) dueLocked() bool {
	return (j.aged || j.end-j.begun >= j.cfg.SegmentBytes) && j.room.full == nil && !time.Now().Before(j.again)
}

// paceLocked lets SyncEvery pass between the beginnings of two syncs, so that
// under load one serves many records. Who closes the journal does not wait.
func (j *Journal) paceLocked() {
	if pause := j.cfg.SyncEvery - time.Since(j.synced); pause > 0 && !j.closed {
		j.mu.Unlock()
		time.Sleep(pause)
		j.mu.Lock()
	}
	j.synced = time.Now()
}

// syncLocked makes durable what was written when it began. After an error
// nothing is known of the file: the kernel has marked its pages clean, and a
// second try would succeed without writing them.
func (j *Journal) syncLocked() error {
	j.target, j.syncing = j.written, true
	j.thisSync, j.nextSync = j.nextSync, nil
	f, sum, size := j.file, j.sum, len(j.unsynced)
	j.mu.Unlock()
	failpoint.Hit("journal.sync")
	err := f.Sync()
	failpoint.Hit("journal.synced")
	j.mu.Lock()
	j.syncing = false
	if err != nil {
		j.log.Error("the disk refused to sync the journal: opening a new segment", slog.String("segment", f.name), slog.Any("error", err))
	} else {
		j.safeLocked(j.target, sum, size)
	}
	wake(&j.thisSync) // after an error they look again, and wait for the rotation
	return err
}

// safeLocked notes that all up to seq, the first size bytes of unsynced, is
// durable.
func (j *Journal) safeLocked(seq uint64, sum record.Hash, size int) {
	j.durable, j.safeSum = seq, sum
	j.since, j.next = j.next, time.Time{}
	j.unsynced = j.unsynced[:copy(j.unsynced, j.unsynced[size:])]
	if len(j.unsynced) == 0 && cap(j.unsynced) > keepBuffer {
		j.unsynced = nil
	}
}

func wake(waiters *chan struct{}) {
	if *waiters != nil {
		close(*waiters)
		*waiters = nil
	}
}

// rotateLocked goes on in a new segment. If the old one is sound it is synced
// first; else, what is not durable in it is written again, from memory, and
// the new segment has its name only once that is on disk. Failing here is
// failing twice: for good. What is sound goes on, and is tried to be ended later.
func (j *Journal) rotateLocked(sound bool) {
	j.wants = true
	for j.writing {
		j.idle.Wait()
	}
	if j.err != nil {
		return
	}
	j.writing = true
	old, size, dirty := j.file, j.end, j.broken
	if sound = sound && !j.broken; sound && j.durable < j.written {
		sound = j.syncLocked() == nil // if not, unsynced has all that is to be written again
	}
	checkpoint := j.checkpointLocked()
	written := j.written
	j.mu.Unlock()
	next, end, err := j.create(j.durable+1, j.safeSum, written, checkpoint, j.unsynced) // nobody else changes these now
	if disk.Full(err) {
		j.noRoom(err)
		if !sound {
			next, end, err = j.create(j.durable+1, j.safeSum, written, checkpoint, j.unsynced)
		}
	}
	if err == nil {
		failpoint.Hit("journal.rotated")
		if closing := old.Close(); closing != nil {
			j.log.Warn("the journal's old segment did not close", slog.String("segment", old.name), slog.Any("error", closing))
		}
	}
	if err != nil && !sound && dirty { // the journal ends: of what was refused nothing may be left
		if cutting := old.cut(size); cutting != nil {
			j.log.Error("records that were refused may be found in the journal by the next start", slog.String("segment", old.name), slog.Any("error", cutting))
		}
	}
	j.mu.Lock()
	j.writing, j.wants = false, false
	switch {
	case err == nil:
		j.past = append(j.past, pastSegment{name: old.name, first: old.first, size: size})
		j.beginLocked(next, end)
		j.metrics.grow(end)
		j.next = time.Time{}
		j.safeLocked(written, j.sum, len(j.unsynced))
		if j.moving != nil {
			j.moving.end(nil)
			j.moving = nil
		}
		wake(&j.nextSync)
	case sound && !errors.Is(err, errNamed):
		j.again = time.Now().Add(rotateAgain)
		j.log.Error("the disk refused a new segment: the journal goes on in the old one, and tries again", slog.String("segment", old.name),
			slog.Any("error", err), slog.Duration("after", rotateAgain))
	default:
		j.failLocked(err)
		return
	}
	j.passOnLocked()
}

// beginLocked makes s, which is as long as end, the file that grows.
func (j *Journal) beginLocked(s *segment, end int64) {
	j.file, j.begun, j.end = s, end, end
	j.base, j.born = j.written, time.Now()
	j.broken, j.aged = false, false
}

// failLocked ends the journal.
func (j *Journal) failLocked(err error) {
	j.log.Error("the journal has failed: nothing more is admitted until a restart", slog.Any("error", err))
	j.err = err
	close(j.failed)
	for _, b := range []*batch{j.moving, j.filling} {
		if b != nil {
			b.end(err)
		}
	}
	j.moving, j.filling = nil, nil
	wake(&j.thisSync)
	wake(&j.nextSync)
}

// checkpointLocked is the payload of a checkpoint of all that was written.
func (j *Journal) checkpointLocked() []byte {
	b := j.appendTo(j.scrap[:0])
	if j.cfg.State != nil {
		b = j.cfg.State.AppendCheckpoint(b)
	}
	j.scrap = b
	return b
}

// errNamed means that a segment which could not be completed has its name, or may
// have it: who reads the directory will begin there, so the older one must not
// grow.
var errNamed = errors.New("the new segment has its name")

// create makes a segment that begins with a checkpoint of all records up to
// covered, and the frames of those from first on. It returns the segment, on
// disk under its name, and its end.
func (j *Journal) create(first uint64, prev record.Hash, covered uint64, checkpoint, frames []byte) (s *segment, end int64, err error) {
	if len(checkpoint) > maxPayload {
		return nil, 0, fmt.Errorf("create segment: a checkpoint of %d bytes is too large", len(checkpoint))
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, 0, fmt.Errorf("create segment: %w", err)
	}
	h := header{id: id, first: first, prev: prev, writer: j.writer}
	b := h.append(nil)
	head := len(b)
	b = appendFrame(b, typeCheckpoint, covered, func(b []byte) []byte { return append(b, checkpoint...) })
	b = append(b, frames...)
	seal(b[head:], h.seed(), first-1)

	name := filepath.Join(j.dir, h.file())
	f, err := j.disk.Create(name + temporary)
	if err != nil {
		return nil, 0, fmt.Errorf("create segment: %w", err)
	}
	renaming, named := false, false
	defer func() {
		if err == nil {
			return
		}
		err = errors.Join(fmt.Errorf("create segment: %w", err), f.Close())
		if !named { // it takes room; the next start would remove it, too
			removing := j.disk.Remove(name + temporary)
			err = errors.Join(err, removing)
			named = renaming && removing != nil // nobody knows
		}
		if named {
			err = errors.Join(errNamed, err)
		}
	}()
	failpoint.Hit("journal.create")
	if _, err = f.WriteAt(b, 0); err != nil {
		return nil, 0, err
	}
	if err = f.Sync(); err != nil {
		return nil, 0, err
	}
	renaming = true
	if err = j.disk.Rename(name+temporary, name); err != nil {
		return nil, 0, err
	}
	named = true
	failpoint.Hit("journal.renamed")
	if err = j.disk.SyncDir(j.dir); err != nil {
		return nil, 0, err
	}
	failpoint.Hit("journal.created")
	return newSegment(h, f, name), int64(len(b)), nil
}
