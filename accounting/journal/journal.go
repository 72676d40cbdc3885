// Package journal is the write-ahead book on the machine's own disk. It
// answers: what was promised, and in what order.
//
// What Append returned survives a kill -9; what Wait returned survives a power
// loss. A record whose Append failed is not in the book. Records are refused,
// with ErrUnavailable, while the disk is full or stuck; a settlement is not: it
// is tried again with the room that was kept for it, or in a new segment. A disk
// that lies, or fails twice, ends the journal: every later call returns
// ErrUnavailable, and a damaged segment is never cut to fit (CorruptError).
//
// Each process is a writer of its own, named replica.incarnation, with a
// directory of its own, locked as long as it lives; its records are numbered
// without gaps from 1 and chained by SHA-256. A starting journal adopts the
// directories that are no longer locked: it restores its State from them and
// ships what they have not shipped. What every sink has, and a later checkpoint
// counts, is deleted. What a sink has and the journal has lost is counted, too.
//
// Start reading at Append; then lead (one write for all that wait), and, in
// keep.go, keep (one sync for all that wait) and rotate. room.go says when the
// disk is full, trim.go what may go, recover.go and restore.go what a start
// makes of what it finds, forgotten.go how many records there were of writers that
// nothing names any more, book.go what it makes of a sink, verify.go what can be
// proven.
//
// These are the places at which a test can kill the process (package
// failpoint), all with the name journal in front:
//
//	.write    .written  before and after a write of records
//	.sync     .synced   before and after their sync
//	.create   .renamed  .created  .rotated  a new segment: begun, named, durable, in use
//	.trim     .trimmed  before and after a file is deleted
//	.cut      .adopted  a torn tail is off; all earlier writers are taken over
//	.ballast  .released the ballast is made; it is gone
package journal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"airgate/accounting/failpoint"
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
	SegmentBytes int64         // 0 = 64 MiB; a segment ends soon after it
	SegmentAge   time.Duration // 0 = 5 min; one that has records ends soon after it
	// SyncEvery is the least time between the beginnings of two syncs; 0 = each
	// begins as the one before ends. A provider takes hundreds of milliseconds to
	// begin its answer, and each sync costs CPU time.
	SyncEvery time.Duration
	// SyncWithin and UnsyncedBytes bound what waits for the disk: all but
	// settlements is refused while a record has waited for longer, or more bytes
	// wait. 0 = 5 s, 64 MiB.
	SyncWithin    time.Duration
	UnsyncedBytes int
	// Sinks are the names that Ship is called with. A record is deleted once each
	// of them has it. None = nothing is ever deleted: the journal is the only book,
	// and each start adds a directory, and its name to every later checkpoint.
	Sinks []string
	// Owner has Dir; nil = writers of other processes run beside this one. With an
	// Owner alone is anything deleted: checkpoints of writers that run side by side
	// do not count each other's records.
	Owner *Owner
	// Book opens what one of the Sinks has. What was spent by
	// records that are there, and neither in the journal nor counted by it, since
	// it was lost or cut or comes from an old backup, is counted from there. It
	// needs an Owner, and a State. Airgates that share a sink need names of their
	// own: of other replicas nothing is counted. nil = none.
	Book       func(ctx context.Context) (Book, error)
	State      State  // nil = none
	StartCode  string // of the start record
	Log        *slog.Logger
	Registerer prometheus.Registerer // nil = no metrics

	Disk disk.Disk // nil = the operating system's
}

// withDefaults is the Config with what was left out.
func (c Config) withDefaults() Config {
	if c.Disk == nil {
		c.Disk = disk.OS{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.SegmentBytes = cmp.Or(c.SegmentBytes, 64<<20)
	c.SegmentAge = cmp.Or(c.SegmentAge, 5*time.Minute)
	c.SyncWithin = cmp.Or(c.SyncWithin, 5*time.Second)
	c.UnsyncedBytes = cmp.Or(c.UnsyncedBytes, 64<<20)
	return c
}

// Position is a place in this writer's sequence: the Seq of a record.
type Position uint64

// Writer is what processor needs of a Journal.
type Writer interface {
	// Append assigns Seq, Writer and Prev, cuts Time to the millisecond in UTC
	// that the book keeps, and returns after write(2) has returned: the record
	// survives a kill -9. It keeps nothing of r.
	Append(r *record.Record) (Position, error)
	// Wait returns nil once the record at p is as safe as Durability asks, or
	// the error that makes it impossible, or ctx's.
	Wait(ctx context.Context, p Position) error
}

// ErrUnavailable is in every error of Append and of a Wait that cannot succeed.
// While the disk is full or stuck a later Append may succeed; after the journal
// has failed for good (Watch) or was closed none does.
var ErrUnavailable = errors.New("journal unavailable")

var (
	errClosed   = errors.New("closed")
	errTooLarge = errors.New("the record is too large")
	errType     = errors.New("the record has no type")
	errStuck    = errors.New("the disk is stuck: what was written is not synced in time")
	errBehind   = errors.New("the disk is too slow: too many bytes wait for their sync")
)

const (
	maxRecord  = 16 << 20
	keepBuffer = 4 << 20 // larger buffers are not kept
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
	adopted []history   // oldest first; tend marks what it removes
	adoption
	kept   bool // tend could not delete something, and said so
	tasks  sync.WaitGroup
	stop   context.CancelFunc // ends tend
	failed chan struct{}      // closed once err is for good

	mu      sync.Mutex
	file    *segment
	begun   int64     // bytes that file had as it got its name
	base    uint64    // and the newest record then
	born    time.Time // and when that was
	end     int64     // of its good bytes
	last    uint64    // seq of the newest record, written or not
	lastSum record.Hash
	past    []pastSegment // own ones that were given up, oldest first

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
	since    time.Time   // when the oldest frame that is not synced went to the disk; zero = none
	next     time.Time   // the same of those behind the sync that runs
	broken   bool        // a failed write could not be rolled back: the file must not grow
	moving   *batch      // could not be written: the new segment has it
	aged     bool        // the segment is old enough to be ended
	again    time.Time   // it could not be: not before
	syncing  bool
	synced   time.Time     // when the last sync began
	target   uint64        // what the sync that runs will make durable
	thisSync chan struct{} // closed when it has ended; nil = nobody waits
	nextSync chan struct{}

	room    room
	free    []*batch
	scrap   []byte // checkpoints are built here
	retired bool
	closed  bool
	err     error // for good
}

// batch is the records that go to disk with one write.
type batch struct {
	done    sync.Cond // of Journal.mu
	frames  []byte
	records []*record.Record // their appenders wait, so they stay as they are
	must    bool             // one of them may not be refused
	room    bool             // one of them may have the ballast's room
	last    uint64           // seq
	sum     record.Hash      // of the last
	waiting int
	ended   bool // written, or err
	err     error
}

// refusable reports whether the record can wait, or what it is about be refused:
// a call for want of its intent or of an extension, a change of the config for
// want of its audit. The others are about what has happened already, and nobody
// will try again.
func refusable(t record.Type) bool { return t != record.Settle && t != record.Start }

// Append implements Writer.
func (j *Journal) Append(r *record.Record) (Position, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	b, err := j.addLocked(r)
	if err != nil {
		return 0, fmt.Errorf("append: %w: %w", ErrUnavailable, err)
	}
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
	return Position(r.Seq), nil
}

// addLocked puts the record into the batch that is filling.
func (j *Journal) addLocked(r *record.Record) (*batch, error) {
	switch {
	case j.err != nil:
		return nil, j.err
	case j.closed:
		return nil, errClosed
	case r.Type < record.Intent || r.Type > record.Extend:
		return nil, errType
	}
	if refusable(r.Type) {
		if err := j.overloadedLocked(); err != nil {
			return nil, err
		}
	}
	b := j.filling
	if b == nil {
		b = j.freshLocked()
	}
	if !j.encodeLocked(b, r) {
		if j.filling == nil {
			j.recycleLocked(b)
		}
		return nil, errTooLarge
	}
	b.records = append(b.records, r)
	b.must = b.must || !refusable(r.Type)
	b.room = b.must || j.retired
	j.filling = b
	return b, nil
}

// overloadedLocked says why nothing more should be promised now.
func (j *Journal) overloadedLocked() error {
	waiting := len(j.unsynced)
	if j.filling != nil {
		waiting += len(j.filling.frames)
	}
	switch {
	case j.room.full != nil && !j.retired:
		return j.room.full
	case !j.since.IsZero() && time.Since(j.since) > j.cfg.SyncWithin:
		return errStuck
	case waiting > j.cfg.UnsyncedBytes:
		return errBehind
	}
	return nil
}

// encodeLocked numbers the record and appends its frame to the batch's; false
// means that it is too large.
func (j *Journal) encodeLocked(b *batch, r *record.Record) bool {
	r.Seq, r.Writer, r.Prev = j.last+1, j.writer, j.lastSum
	r.Time = r.Time.Truncate(time.Millisecond).UTC() // the State counts what a replay will read
	start := len(b.frames)
	b.frames = append(b.frames, make([]byte, frameHeader)...)
	b.frames = record.AppendJSON(b.frames, r)
	payload := b.frames[start+frameHeader:]
	if len(payload) > maxRecord {
		b.frames = b.frames[:start]
		return false
	}
	b.last, b.sum = r.Seq, record.Sum(payload)
	b.frames = endFrame(b.frames, start, typeRecord, r.Seq)
	j.last, j.lastSum = b.last, b.sum
	return true
}

func (j *Journal) freshLocked() *batch {
	var b *batch
	if n := len(j.free); n > 0 {
		b, j.free = j.free[n-1], j.free[:n-1]
	} else {
		b = &batch{}
	}
	*b = batch{frames: b.frames[:0], records: b.records[:0]}
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
	f, at, durable := j.file, j.end, j.durable
	j.waitingLocked()
	j.mu.Unlock()
	seal(b.frames, f.seed(), durable)
	err := j.write(b, f, at)
	var stuck error
	if err != nil && (!b.must || disk.Full(err)) {
		stuck = f.cut(at)
	}
	j.mu.Lock()
	j.writing = false
	switch {
	case err == nil:
		j.end += int64(len(b.frames))
		j.metrics.grow(int64(len(b.frames)))
		j.acceptLocked(b)
		b.end(nil)
	case b.must && disk.Full(err):
		b.end(err)
		j.failLocked(err)
	case b.must:
		j.log.Error("the disk refused a write to the journal: opening a new segment", slog.String("segment", f.name), slog.Any("error", err))
		j.acceptLocked(b)
		j.moving, j.broken, j.wants = b, true, true
	default:
		b.end(err)
		j.renumberLocked()
		j.broken = j.broken || stuck != nil
		j.wants = j.wants || stuck != nil
	}
	j.work.Signal()
	j.passOnLocked()
}

// cut takes back what was written from at on: those who waited for it are told that
// it is not in the book. It is synced, so that no power loss brings the bytes back.
func (s *segment) cut(at int64) error { return errors.Join(s.Truncate(at), s.Sync()) }

// write writes the batch. If the disk is full the ballast goes, and what may have
// its room is written with that.
func (j *Journal) write(b *batch, f *segment, at int64) error {
	failpoint.Hit("journal.write")
	_, err := f.WriteAt(b.frames, at)
	if disk.Full(err) {
		j.noRoom(err)
		if b.room {
			_, err = f.WriteAt(b.frames, at) // the same bytes, in the same place
		}
	}
	failpoint.Hit("journal.written")
	if err != nil {
		return fmt.Errorf("write %s: %w", f.name, err)
	}
	return nil
}

// waitingLocked notes that frames go to the disk and are not yet synced.
func (j *Journal) waitingLocked() {
	since := &j.since
	if j.syncing {
		since = &j.next
	}
	if since.IsZero() {
		*since = time.Now()
	}
}

// acceptLocked makes the batch a part of the book.
func (j *Journal) acceptLocked(b *batch) {
	j.waitingLocked() // a sync may have begun and ended while it was written
	j.written, j.sum = b.last, b.sum
	j.unsynced = append(j.unsynced, b.frames...)
	if j.cfg.State != nil {
		for _, r := range b.records {
			j.cfg.State.Apply(r)
		}
	}
}

// renumberLocked gives the records that follow a batch which was refused the
// numbers, and the chain, of those that were in it.
func (j *Journal) renumberLocked() {
	j.last, j.lastSum = j.written, j.sum
	if j.durable == j.written {
		j.since = time.Time{}
	}
	if j.syncing && j.target == j.written {
		j.next = time.Time{}
	}
	b := j.filling
	if b == nil {
		return
	}
	b.frames = b.frames[:0]
	for _, r := range b.records {
		j.encodeLocked(b, r) // no longer than it was
	}
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

// Writer is this writer's name: replica.incarnation.
func (j *Journal) Writer() string { return j.writer }

// Watch returns what has ended the journal for good as soon as something has,
// and nil once ctx has ended. Who uses the journal should then end too: a start
// recovers, and a journal that has failed never does.
func (j *Journal) Watch(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-j.failed:
		j.mu.Lock()
		defer j.mu.Unlock()
		return fmt.Errorf("%w: %w", ErrUnavailable, j.err)
	}
}

// Retire says that the process ends, and no call is in flight any more: the room
// that was kept for their settlements is for whatever else is to be said before
// Close.
func (j *Journal) Retire() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.retired = true
}

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
	j.stop()
	j.tasks.Wait()

	errs := []error{j.err}
	if j.err == nil {
		if err := finish(j.file, j.end, j.written, j.sum); err != nil {
			j.log.Warn("the journal's last segment has no end: damage to its last records will look like a crash", slog.String("segment", j.file.name), slog.Any("error", err))
		}
	}
	errs = append(errs, j.file.Close())
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

// finish closes a segment, all of whose records are durable, with an end frame.
func finish(s *segment, at int64, last uint64, sum record.Hash) error {
	b := appendFrame(nil, typeEnd, last, func(b []byte) []byte { return append(b, sum[:]...) })
	seal(b, s.seed(), last)
	if _, err := s.WriteAt(b, at); err != nil {
		return fmt.Errorf("end segment: %w", err)
	}
	if err := s.Sync(); err != nil {
		return fmt.Errorf("end segment: %w", err)
	}
	return nil
}
