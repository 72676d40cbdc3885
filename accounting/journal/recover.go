package journal

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"airgate/accounting/journal/disk"
	"airgate/accounting/record"
)

// A writer's name is its replica's, a dot, and the incarnation: milliseconds
// since 1970 and a random number, twelve and eight hexadecimal digits, later
// than every incarnation that was there before it.
const (
	incarnationDigits = 20
	maxName           = 200
)

var (
	replicaName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
	writerName  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*\.[0-9a-f]{20}$`)
)

func incarnation(writer string) string { return writer[len(writer)-incarnationDigits:] }

// CorruptError says that a segment is damaged where a crash cannot have torn
// it. Nothing was changed; Copy, if any, has the damaged file as it was found.
type CorruptError struct {
	Segment string
	Offset  int64  // of the damaged bytes
	Seq     uint64 // of the last record before them; 0 = none in this segment
	Copy    string
	Err     error
}

func (e *CorruptError) Error() string {
	text := fmt.Sprintf("%s is damaged at byte %d, behind record %d: %v", e.Segment, e.Offset, e.Seq, e.Err)
	if e.Copy != "" {
		text += fmt.Sprintf("; nothing was cut, a copy is in %s. Restore the file from a backup; or, to go on without what only it has, "+
			"move the directory %s away for good: what no sink has of it is then lost, and audit verify says which records those are", e.Copy, filepath.Dir(e.Segment))
	}
	return text
}

// Unwrap returns Err.
func (e *CorruptError) Unwrap() error { return e.Err }

// history is one earlier writer as Open found it.
type history struct {
	head    record.Head // Seq 0 = no record
	oldest  uint64      // the first record that is still there
	dir     string
	last    string // path of the newest segment
	covered uint64 // by its checkpoint
	covers  []record.Head
	state   []byte // the State in its checkpoint
	cut     string // what was cut from its end, in words
}

// Open adopts the directories of earlier writers, restores the State from
// them, and begins a new writer with a start record. With Exclusive it waits,
// until ctx ends, for the process that has Dir.
//
// Its errors: *CorruptError; ctx's; what the disk says.
func Open(ctx context.Context, cfg Config) (_ *Journal, err error) {
	if cfg.Disk == nil {
		cfg.Disk = disk.OS{}
	}
	if cfg.SegmentBytes == 0 {
		cfg.SegmentBytes = defaultSegment
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if !replicaName.MatchString(cfg.Replica) || len(cfg.Replica) > maxName-incarnationDigits-1 {
		return nil, fmt.Errorf("open journal: replica %q: want letters, digits, dots, dashes and underscores, at most %d", cfg.Replica, maxName-incarnationDigits-1)
	}
	j := &Journal{cfg: cfg, disk: cfg.Disk, log: cfg.Log, opened: time.Now()}
	j.idle.L, j.work.L = &j.mu, &j.mu
	defer func() {
		if err != nil {
			err = fmt.Errorf("open journal: %w", err)
			for _, lock := range j.locks {
				err = errors.Join(err, lock.Close())
			}
		}
	}()

	if err := j.disk.Mkdir(cfg.Dir); err != nil {
		return nil, err
	}
	owner, err := j.lock(ctx)
	if err != nil {
		return nil, err
	}
	if cfg.Exclusive {
		j.locks = append(j.locks, owner)
	} else {
		defer func() { err = errors.Join(err, owner.Close()) }() // held while directories come and go
	}

	running, err := j.adopt(ctx)
	if err != nil {
		return nil, err
	}
	if err := j.restore(); err != nil {
		return nil, err
	}
	if err := j.begin(running); err != nil {
		return nil, err
	}
	if j.metrics, err = newMetrics(j, cfg.Registerer); err != nil {
		return nil, errors.Join(err, j.file.Close())
	}
	j.keeper.Go(j.keep)
	if err := j.start(ctx, running); err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return j, nil
}

// lock takes Dir itself.
func (j *Journal) lock(ctx context.Context) (io.Closer, error) {
	for waiting := false; ; waiting = true {
		lock, err := j.disk.Lock(j.cfg.Dir)
		if err == nil || !errors.Is(err, disk.ErrLocked) {
			return lock, err
		}
		if !waiting {
			j.log.Info("another process owns the journal: waiting until it ends", slog.String("dir", j.cfg.Dir))
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return nil, fmt.Errorf("wait for the process that owns %s: %w", j.cfg.Dir, err)
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// writers lists the writers below dir, oldest first.
func writers(d disk.Disk, dir string) ([]string, error) {
	all, err := d.List(dir)
	if err != nil {
		return nil, err
	}
	names := slices.DeleteFunc(all, func(name string) bool { return !writerName.MatchString(name) })
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(incarnation(a), incarnation(b)), cmp.Compare(a, b))
	})
	return names, nil
}

// adopt locks every earlier writer's directory that nobody has, repairs it,
// and returns those that still run. With Exclusive none can: a directory that is
// locked still is one whose owner is on its way out, and is waited for; to go on
// without it would forget what it has spent.
func (j *Journal) adopt(ctx context.Context) (running []string, err error) {
	names, err := writers(j.disk, j.cfg.Dir)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		dir := filepath.Join(j.cfg.Dir, name)
		lock, err := j.disk.Lock(dir)
		for errors.Is(err, disk.ErrLocked) && j.cfg.Exclusive {
			if err := pause(ctx, 50*time.Millisecond); err != nil {
				return nil, err
			}
			lock, err = j.disk.Lock(dir)
		}
		if errors.Is(err, disk.ErrLocked) {
			running = append(running, name)
			continue
		}
		if err != nil {
			return nil, err
		}
		j.locks = append(j.locks, lock)
		h, err := j.mend(dir, name)
		if err != nil {
			return nil, err
		}
		if h.last != "" { // else it ended before it began
			j.adopted = append(j.adopted, h)
		}
	}
	return running, nil
}

// mend finds the end of a writer's records: it reads the newest segment, cuts
// off what a crash has torn, and makes the rest durable.
func (j *Journal) mend(dir, writer string) (h history, err error) {
	h = history{dir: dir, head: record.Head{Writer: writer}}
	if err := j.removeTemporary(dir); err != nil {
		return h, err
	}
	names, err := segments(j.disk, dir)
	if err != nil || len(names) == 0 {
		return h, err
	}
	h.oldest = firstOf(names[0])
	h.last = filepath.Join(dir, names[len(names)-1])
	s, err := openSegment(j.disk, h.last)
	if err != nil {
		return h, j.quarantine(err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if s.writer != writer {
		return h, j.quarantine(&CorruptError{Segment: s.name, Err: fmt.Errorf("it belongs to %s", s.writer)})
	}
	w := walk{segment: s, next: s.first, prev: s.prev}
	if w.scanner, err = s.scan(); err != nil {
		return h, err
	}
	for err == nil {
		_, err = w.step()
	}
	switch {
	case errors.Is(err, io.EOF):
		err = nil
	case errors.Is(err, errFrame):
		h.cut, err = j.cut(&w)
	default:
		err = j.quarantine(err)
	}
	// A writer that was killed has left what it had not synced to the kernel:
	// what is counted now, and named in the start record, must outlast it.
	if err == nil {
		err = s.Sync()
	}
	if err == nil {
		err = j.disk.SyncDir(dir)
	}
	if err != nil {
		return h, err
	}
	h.covered = w.covered
	h.head.Seq, h.head.Hash = w.next-1, w.prev
	if h.covers, h.state, err = parseCovers(w.checkpoint); err != nil {
		return h, j.quarantine(&CorruptError{Segment: s.name, Offset: s.size, Err: err})
	}
	return h, nil
}

func (j *Journal) removeTemporary(dir string) error {
	all, err := j.disk.List(dir)
	if err != nil {
		return err
	}
	for _, name := range all {
		if strings.HasSuffix(name, suffix+".new") {
			if err := j.disk.Remove(filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// walk follows the frames of one segment and checks that they follow from one
// another.
type walk struct {
	*segment
	*scanner

	next       uint64      // the seq that must come
	prev       record.Hash // Sum of the record before it
	covered    uint64      // by the checkpoint
	checkpoint []byte      // nil = not yet seen
}

// step reads the next frame. After errFrame the walk is at the end of what is
// whole, and what follows is torn; *CorruptError says that it is not torn but
// damaged.
func (w *walk) step() (frame, error) {
	f, err := w.scanner.next()
	whole := err == nil
	switch {
	case errors.Is(err, errPad):
		return f, w.corrupt(err)
	case errors.Is(err, io.EOF) || errors.Is(err, errFrame):
		if w.checkpoint == nil || w.next <= w.covered {
			// This much was on disk before the segment got its name.
			return f, w.corrupt(errors.New("the segment's beginning is not whole"))
		}
		if errors.Is(err, io.EOF) {
			return f, err
		}
		more, later := w.later()
		if later != nil {
			return f, later
		}
		if more {
			return f, w.corrupt(errors.New("no whole record, and whole ones behind it"))
		}
		return f, err
	case !whole:
		return f, err
	case f.typ == typeCheckpoint && w.checkpoint == nil:
		w.checkpoint, w.covered = bytes.Clone(f.payload), f.seq
		if f.seq+1 < w.first {
			return f, w.corruptAt(f, errors.New("its checkpoint does not reach its first record"))
		}
	case w.checkpoint == nil || f.typ != typeRecord:
		return f, w.corruptAt(f, errors.New("a checkpoint in a place where none belongs"))
	case f.seq != w.next:
		return f, w.corruptAt(f, fmt.Errorf("record %d where %d belongs", f.seq, w.next))
	default:
		w.next++
		w.prev = record.Sum(f.payload)
	}
	return f, nil
}

func (w *walk) corrupt(err error) error {
	return &CorruptError{Segment: w.name, Offset: w.at, Seq: w.next - 1, Err: err}
}

// corruptAt is for a frame that was read.
func (w *walk) corruptAt(f frame, err error) error {
	return &CorruptError{Segment: w.name, Offset: f.end - align(frameHeader+int64(len(f.payload))), Seq: w.next - 1, Err: err}
}

// cut ends the segment behind its last whole record. The torn bytes are kept
// beside it: they are what was in flight, or a last record that has rotted.
func (j *Journal) cut(w *walk) (string, error) {
	kept := fmt.Sprintf("%s.torn-%d", w.name, w.at)
	if err := j.copy(w.segment, w.at, kept); err != nil {
		return "", err
	}
	if err := w.Truncate(w.at); err != nil {
		return "", err
	}
	text := fmt.Sprintf("%d bytes that are no whole record were cut off behind record %d of %s", w.limit-w.at, w.next-1, w.writer)
	j.log.Warn("the journal ended in a torn write, as after a power loss: the whole records before it are kept, its bytes are set aside",
		slog.String("segment", w.name), slog.Uint64("seq", w.next-1), slog.Int64("bytes", w.limit-w.at), slog.String("kept", kept))
	return text, nil
}

// quarantine copies the damaged file that err tells of.
func (j *Journal) quarantine(err error) error {
	damaged, ok := errors.AsType[*CorruptError](err)
	if !ok {
		return err
	}
	f, opening := j.disk.Open(damaged.Segment)
	if opening != nil {
		return errors.Join(err, opening)
	}
	name := damaged.Segment + ".damaged"
	if err := j.copy(f, 0, name); err != nil {
		return errors.Join(damaged, err, f.Close())
	}
	damaged.Copy = name
	j.log.Error("the journal is damaged", slog.Any("error", damaged))
	return errors.Join(err, f.Close())
}

// copy writes what from has at and behind off to a new file, unless an
// earlier start has done so.
func (j *Journal) copy(from disk.File, off int64, name string) (err error) {
	size, err := from.Size()
	if err != nil {
		return err
	}
	b := make([]byte, size-off)
	if _, err := from.ReadAt(b, off); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	all, err := j.disk.List(filepath.Dir(name))
	if err != nil || slices.Contains(all, filepath.Base(name)) {
		return err
	}
	f, err := j.disk.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.WriteAt(b, 0); err != nil {
		return err
	}
	return f.Sync()
}

// restore makes the State what all adopted records add up to, each counted
// once: the newest writer's checkpoint, which covers its own records and those
// of the writers that it had adopted, and every record beyond it.
func (j *Journal) restore() error {
	if len(j.adopted) == 0 {
		return nil
	}
	newest := &j.adopted[len(j.adopted)-1]
	if j.cfg.State != nil {
		if err := j.cfg.State.RestoreCheckpoint(newest.state); err != nil {
			return fmt.Errorf("restore the checkpoint of %s: %w", newest.last, err)
		}
	}
	for i := range j.adopted {
		h := &j.adopted[i]
		from := uint64(0)
		if h == newest {
			from = h.covered
		} else if k := slices.IndexFunc(newest.covers, func(c record.Head) bool { return c.Writer == h.head.Writer }); k >= 0 {
			from = newest.covers[k].Seq
		}
		if err := j.replay(h, from); err != nil {
			return j.quarantine(err)
		}
		if h.head.Seq > 0 {
			j.covers = append(j.covers, h.head)
		}
	}
	for i := range j.adopted {
		j.adopted[i].state = nil // it can be large
	}
	return nil
}

// replay applies the writer's records behind from.
func (j *Journal) replay(h *history, from uint64) error {
	if j.cfg.State == nil || from >= h.head.Seq {
		return nil
	}
	r := newReader(j.disk, h.dir, h.head.Writer, from+1)
	for r.next <= h.head.Seq {
		rec, err := r.record()
		if err != nil {
			return errors.Join(fmt.Errorf("replay: %w", unexpected(err)), r.close())
		}
		j.cfg.State.Apply(&rec)
	}
	return r.close()
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// begin makes the own directory and its first segment.
func (j *Journal) begin(running []string) error {
	now := time.Now().UnixMilli()
	later := func(writer string) {
		if ms, err := strconv.ParseInt(incarnation(writer)[:12], 16, 64); err == nil && ms >= now {
			now = ms + 1 // the clock went back
		}
	}
	for i := range j.adopted {
		later(j.adopted[i].head.Writer)
	}
	for _, writer := range running {
		later(writer)
	}
	j.writer = fmt.Sprintf("%s.%012x%08x", j.cfg.Replica, now, rand.Uint32()) //nolint:gosec // not a secret
	j.dir = filepath.Join(j.cfg.Dir, j.writer)
	if err := j.disk.Mkdir(j.dir); err != nil {
		return err
	}
	lock, err := j.disk.Lock(j.dir)
	if err != nil {
		return err
	}
	j.locks = append(j.locks, lock)
	if err := j.disk.SyncDir(j.cfg.Dir); err != nil {
		return err
	}
	j.file, j.end, err = j.create(1, record.Hash{}, 0, j.checkpointLocked(), nil)
	j.begun = j.end
	return err
}

// start writes the first record: who was here before, and what became of it.
func (j *Journal) start(ctx context.Context, running []string) error {
	r := record.Record{Type: record.Start, Time: j.opened, Heads: slices.Clone(j.covers)}
	for _, writer := range running {
		r.Heads = append(r.Heads, record.Head{Writer: writer})
	}
	var cuts []string
	for i := range j.adopted {
		if j.adopted[i].cut != "" {
			cuts = append(cuts, j.adopted[i].cut)
		}
	}
	r.Detail = strings.Join(cuts, "; ")
	p, err := j.Append(&r)
	if err != nil {
		return err
	}
	return j.wait(ctx, uint64(p))
}

// covers are the adopted writers whose records a checkpoint counts in.
func appendCovers(b []byte, covers []record.Head) []byte {
	b = binary.AppendUvarint(b, uint64(len(covers)))
	for _, h := range covers {
		b = binary.AppendUvarint(b, uint64(len(h.Writer)))
		b = append(b, h.Writer...)
		b = binary.AppendUvarint(b, h.Seq)
		b = append(b, h.Hash[:]...)
	}
	return b
}

var errCheckpoint = errors.New("the checkpoint cannot be read")

// parseCovers returns the covers and the State behind them.
func parseCovers(b []byte) (covers []record.Head, state []byte, err error) {
	number := func() uint64 {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			err = errCheckpoint
			return 0
		}
		b = b[size:]
		return n
	}
	for n := number(); n > 0 && err == nil; n-- {
		var h record.Head
		length := number()
		if length > maxName || length > uint64(len(b)) {
			return nil, nil, errCheckpoint
		}
		h.Writer, b = string(b[:length]), b[length:]
		h.Seq = number()
		if len(b) < len(h.Hash) {
			return nil, nil, errCheckpoint
		}
		b = b[copy(h.Hash[:], b):]
		covers = append(covers, h)
	}
	return covers, b, err
}
