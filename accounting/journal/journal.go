// Package journal is the write-ahead book on the machine's own disk. It
// answers: what was promised, and in what order.
//
// What Append returned survives a kill -9; what Wait returned survives a power
// loss. A record whose Append failed is not in the book. A disk that lies, or
// fails twice, ends the journal: every later call returns ErrUnavailable, and
// a damaged segment is never cut to fit (CorruptError).
//
// Each process is a writer of its own, named replica.incarnation, with a
// directory of its own, locked as long as it lives; its records are numbered
// without gaps from 1 and chained by SHA-256. A starting journal adopts the
// directories that are no longer locked: it replays them into its State and
// ships what they have not shipped.
//
// Start reading at Append; then lead (one write for all that wait), keep (one
// sync for all that wait) and rotate.
package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"airgate/accounting/journal/disk"
	"airgate/accounting/record"
)

// Durability says when a record counts as safe.
type Durability uint8

// The levels.
const (
	Disk    Durability = iota // fsync has returned (default)
	Process                   // write(2) has returned: survives kill -9, not power loss
)

// State is what the records add up to (balances, open holds). The journal
// applies every record to it in order, as it appends and as it replays, and
// writes it as a checkpoint at the head of each segment, so that a restart
// reads one segment and not the whole history. Apply runs under the journal's
// lock: no I/O, no blocking. Implemented by accounting.Balances.
type State interface {
	Apply(r *record.Record)
	AppendCheckpoint(b []byte) []byte
	RestoreCheckpoint(b []byte) error
}

// Config configures a Journal.
type Config struct {
	Dir          string // all incarnations' directories live below it
	Replica      string // stable name of this airgate; the journal appends the incarnation
	Durability   Durability
	SegmentBytes int64 // 0 = 64 MiB; a segment ends soon after it
	// SyncEvery is the least time between the beginnings of two syncs; 0 = each
	// begins as the one before ends. A provider takes hundreds of milliseconds to
	// begin its answer, and each sync costs CPU time.
	SyncEvery  time.Duration
	Exclusive  bool  // one process owns Dir (quota: memory): Open waits for the lock
	State      State // nil = none
	Log        *slog.Logger
	Registerer prometheus.Registerer // nil = no metrics

	Disk disk.Disk // nil = the operating system's
}

// Position is a place in this writer's sequence: the Seq of a record.
type Position uint64

// Writer is what processor needs of a Journal.
type Writer interface {
	// Append assigns Seq, Writer and Prev, and returns after write(2) has
	// returned: the record survives a kill -9. It keeps nothing of r.
	Append(r *record.Record) (Position, error)
	// Wait returns nil once the record at p is as safe as Durability asks, or
	// the error that makes it impossible, or ctx's.
	Wait(ctx context.Context, p Position) error
}

// ErrUnavailable is in every error of Append and of a Wait that cannot succeed.
// After a failed write the next Append may succeed (the disk was full); after
// the journal has failed for good or was closed none does.
var ErrUnavailable = errors.New("journal unavailable")

var (
	errClosed   = errors.New("closed")
	errTooLarge = errors.New("the record is too large")
	errType     = errors.New("the record has no type")
)

const (
	defaultSegment = 64 << 20
	maxRecord      = 16 << 20
	keepBuffer     = 4 << 20 // larger buffers are not kept
)

// Journal is one writer's open journal. Its methods are safe for concurrent
// use.
type Journal struct {
	cfg     Config
	disk    disk.Disk
	log     *slog.Logger
	dir     string // own directory
	writer  string
	opened  time.Time
	metrics *metrics
	locks   []io.Closer // of Dir, of the own directory, of the adopted ones
	adopted []history   // oldest first
	covers  []record.Head
	keeper  sync.WaitGroup

	mu      sync.Mutex
	file    *segment
	begun   int64       // bytes that file had as it got its name
	end     int64       // of its good bytes
	last    uint64      // seq of the newest record, written or not
	lastSum record.Hash // its Sum

	// Writing. One goroutine at a time has the file: an appender that leads,
	// or the keeper, which says so by wants before.
	filling *batch // takes records; nil = empty
	writing bool
	wants   bool
	idle    sync.Cond // the keeper waits for writing to become false
	written uint64    // seq of the last record that write(2) took
	sum     record.Hash

	// Syncing, by the keeper alone.
	work     sync.Cond // something for the keeper to do
	unsynced []byte    // frames written behind durable: the disk may yet refuse them
	durable  uint64
	safeSum  record.Hash // of the record durable
	broken   bool        // a failed write could not be rolled back: the file must not grow
	syncing  bool
	synced   time.Time     // when the last sync began
	target   uint64        // what the sync that runs will make durable
	thisSync chan struct{} // closed when it has ended; nil = nobody waits
	nextSync chan struct{}

	free   []*batch
	scrap  []byte // checkpoints are built here
	closed bool
	err    error // for good
}

// batch is the records that go to disk with one write.
type batch struct {
	done    sync.Cond // of Journal.mu
	frames  []byte
	records []*record.Record // their appenders wait, so they stay as they are
	last    uint64           // seq
	sum     record.Hash      // of the last
	before  record.Hash      // of the record before the first
	waiting int
	ended   bool // written, or err
	err     error
}

// Append implements Writer.
func (j *Journal) Append(r *record.Record) (Position, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	b, err := j.addLocked(r)
	if err != nil {
		return 0, fmt.Errorf("append: %w: %w", ErrUnavailable, err)
	}
	p := Position(r.Seq)
	b.waiting++
	for !b.ended {
		if j.writing || j.wants {
			b.done.Wait()
		} else {
			j.leadLocked()
		}
	}
	b.waiting--
	err = b.err
	j.recycleLocked(b)
	if err != nil {
		return 0, fmt.Errorf("append: %w: %w", ErrUnavailable, err)
	}
	return p, nil
}

// addLocked encodes the record into the batch that is filling.
func (j *Journal) addLocked(r *record.Record) (*batch, error) {
	switch {
	case j.err != nil:
		return nil, j.err
	case j.closed:
		return nil, errClosed
	case r.Type < record.Intent || r.Type > record.Start:
		return nil, errType
	}
	b := j.filling
	if b == nil {
		b = j.freshLocked()
		j.filling = b
	}
	r.Seq, r.Writer, r.Prev = j.last+1, j.writer, j.lastSum
	start := len(b.frames)
	b.frames = append(b.frames, make([]byte, frameHeader)...)
	b.frames = record.AppendJSON(b.frames, r)
	payload := b.frames[start+frameHeader:]
	if len(payload) > maxRecord {
		b.frames = b.frames[:start]
		if start == 0 {
			j.filling = nil
			b.ended, b.err = true, errTooLarge
			j.recycleLocked(b)
		}
		return nil, errTooLarge
	}
	sum := record.Sum(payload)
	b.frames = endFrame(b.frames, start, typeRecord, r.Seq)
	b.records = append(b.records, r)
	b.last, b.sum = r.Seq, sum
	j.last, j.lastSum = r.Seq, sum
	return b, nil
}

func (j *Journal) freshLocked() *batch {
	var b *batch
	if n := len(j.free); n > 0 {
		b, j.free = j.free[n-1], j.free[:n-1]
	} else {
		b = &batch{}
	}
	*b = batch{frames: b.frames[:0], records: b.records[:0], before: j.lastSum}
	b.done.L = &j.mu
	return b
}

// recycleLocked takes the batch back from the last who waited for it.
func (j *Journal) recycleLocked(b *batch) {
	if b.waiting > 0 {
		return
	}
	if cap(b.frames) > keepBuffer {
		b.frames = nil
	}
	if len(j.free) < 8 {
		j.free = append(j.free, b)
	}
}

// leadLocked writes the filling batch for everybody in it. The lock is not
// held during the write: meanwhile the next batch fills.
func (j *Journal) leadLocked() {
	b := j.filling
	j.filling, j.writing = nil, true
	f, at := j.file, j.end
	j.mu.Unlock()
	seal(b.frames, f.seed())
	_, err := f.WriteAt(b.frames, at)
	if err != nil {
		err = fmt.Errorf("write %s: %w", f.name, err)
	}
	var stuck error
	if err != nil {
		stuck = f.Truncate(at)
	}
	j.mu.Lock()
	j.writing = false
	if err == nil {
		j.end += int64(len(b.frames))
		j.metrics.grow(int64(len(b.frames)))
		j.written, j.sum = b.last, b.sum
		j.unsynced = append(j.unsynced, b.frames...)
		if j.cfg.State != nil {
			for _, r := range b.records {
				j.cfg.State.Apply(r)
			}
		}
		b.end(nil)
	} else {
		// Numbers and sums of these records, and of those that were to follow
		// them, are free again.
		b.end(err)
		if next := j.filling; next != nil {
			j.filling = nil
			next.end(err)
		}
		j.last, j.lastSum = j.written, j.sum
		if stuck != nil {
			j.broken = true
			j.wants = true
		}
	}
	j.work.Signal()
	j.passOnLocked()
}

// passOnLocked wakes whoever may have the file next.
func (j *Journal) passOnLocked() {
	switch {
	case j.writing:
	case j.wants:
		j.idle.Signal()
	case j.filling != nil:
		j.filling.done.Signal()
	}
}

func (b *batch) end(err error) {
	clear(b.records) // it keeps nothing of them
	b.records = b.records[:0]
	b.ended, b.err = true, err
	b.done.Broadcast()
}

// Wait implements Writer.
func (j *Journal) Wait(ctx context.Context, p Position) error {
	if j.cfg.Durability == Process {
		return nil // Append has returned
	}
	if err := j.wait(ctx, uint64(p)); err != nil {
		return fmt.Errorf("wait: %w", err)
	}
	return nil
}

// wait returns once seq is durable; it may be one of the future.
func (j *Journal) wait(ctx context.Context, seq uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for {
		switch {
		case seq <= j.durable:
			return nil
		case j.err != nil:
			return fmt.Errorf("%w: %w", ErrUnavailable, j.err)
		case j.closed && j.durable == j.last:
			return fmt.Errorf("%w: %w", ErrUnavailable, errClosed)
		}
		ended := &j.nextSync
		if j.syncing && seq <= j.target {
			ended = &j.thisSync
		}
		if *ended == nil {
			*ended = make(chan struct{})
		}
		ch := *ended
		j.mu.Unlock()
		var err error
		select {
		case <-ch:
		case <-ctx.Done():
			err = ctx.Err()
		}
		j.mu.Lock()
		if err != nil {
			return err
		}
	}
}

// keep syncs what was written, and rotates segments, until Close.
func (j *Journal) keep() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for j.err == nil {
		switch {
		case j.broken:
			j.rotateLocked(false)
		case j.end-j.begun >= j.cfg.SegmentBytes:
			j.rotateLocked(true)
		case j.durable < j.written:
			j.paceLocked()
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
	err := f.Sync()
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
// failing twice: for good.
func (j *Journal) rotateLocked(sound bool) {
	j.wants = true
	for j.writing {
		j.idle.Wait()
	}
	j.writing = true
	old := j.file
	if sound && j.durable < j.written {
		_ = j.syncLocked() // if it fails, unsynced has all that is to be written again
	}
	checkpoint := j.checkpointLocked()
	written := j.written
	j.mu.Unlock()
	next, end, err := j.create(j.durable+1, j.safeSum, written, checkpoint, j.unsynced) // nobody else changes these now
	if err == nil {
		if closing := old.Close(); closing != nil {
			j.log.Warn("the journal's old segment did not close", slog.String("segment", old.name), slog.Any("error", closing))
		}
	}
	j.mu.Lock()
	j.writing, j.wants, j.broken = false, false, false
	if err != nil {
		j.failLocked(err)
		return
	}
	j.file, j.begun, j.end = next, end, end
	j.metrics.grow(end)
	j.safeLocked(written, j.sum, len(j.unsynced))
	wake(&j.nextSync)
	j.passOnLocked()
}

// failLocked ends the journal.
func (j *Journal) failLocked(err error) {
	j.log.Error("the journal has failed: nothing more is admitted until a restart", slog.Any("error", err))
	j.err = err
	if j.filling != nil {
		j.filling.end(err)
		j.filling = nil
	}
	wake(&j.thisSync)
	wake(&j.nextSync)
}

// checkpointLocked is the payload of a checkpoint of all that was written.
func (j *Journal) checkpointLocked() []byte {
	b := appendCovers(j.scrap[:0], j.covers)
	if j.cfg.State != nil {
		b = j.cfg.State.AppendCheckpoint(b)
	}
	j.scrap = b
	return b
}

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
	seal(b[head:], h.seed())

	name := filepath.Join(j.dir, h.file())
	temporary := name + ".new"
	f, err := j.disk.Create(temporary)
	if err != nil {
		return nil, 0, fmt.Errorf("create segment: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("create segment: %w", err), f.Close())
		}
	}()
	if _, err = f.WriteAt(b, 0); err != nil {
		return nil, 0, err
	}
	if err = f.Sync(); err != nil {
		return nil, 0, err
	}
	if err = j.disk.Rename(temporary, name); err != nil {
		return nil, 0, err
	}
	if err = j.disk.SyncDir(j.dir); err != nil {
		return nil, 0, err
	}
	return &segment{header: h, File: f, name: name}, int64(len(b)), nil
}

// Writer is this writer's name: replica.incarnation.
func (j *Journal) Writer() string { return j.writer }

// Close waits for the appends that run, syncs, and gives the directories back.
// Ship returns once it has shipped what is left, and reads on after Close.
// Close returns what made the journal fail, if it has.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil
	}
	j.closed = true
	j.work.Signal()
	j.mu.Unlock()
	j.keeper.Wait()

	errs := []error{j.err, j.file.Close()}
	for _, lock := range slices.Backward(j.locks) { // Dir last: who waits for it finds the others free
		errs = append(errs, lock.Close())
	}
	j.locks = nil
	j.metrics.unregister()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close journal: %w", err)
	}
	return nil
}
