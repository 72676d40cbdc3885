package journal

import (
	"bytes"
	"cmp"
	"context"
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

	"airgate/accounting/failpoint"
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

func incarnation(writer string) string { return writer[max(0, len(writer)-incarnationDigits):] }

// CorruptError says that a segment is damaged where a crash cannot have torn
// it. Nothing was changed; Copy, if any, has the damaged file as it was found.
type CorruptError struct {
	Segment string
	Offset  int64  // of the damaged bytes
	Seq     uint64 // of the last record before them; 0 = none in this segment
	Copy    string
	Err     error

	ends bool // there is no start before somebody has done something
}

func (e *CorruptError) Error() string {
	text := fmt.Sprintf("%s is damaged at byte %d, behind record %d: %v", e.Segment, e.Offset, e.Seq, e.Err)
	if !e.ends {
		return text
	}
	text += "; nothing was cut"
	if e.Copy != "" {
		text += ", a copy is in " + e.Copy
	}
	return text + fmt.Sprintf(". Restore the file from a backup; or, to go on without what only it has, "+
		"move the directory %s away for good: what no sink has of it is then lost (audit verify says which records), and not counted as spent", filepath.Dir(e.Segment))
}

// Unwrap returns Err.
func (e *CorruptError) Unwrap() error { return e.Err }

// history is one earlier writer as it is found.
type history struct {
	head    record.Head // Seq 0 = no record
	oldest  uint64      // the first record that is still there; 0 = no segment is
	dir     string
	size    int64 // bytes of its segments
	removed bool
	cut     string // what was cut from its end, in words
	counted bool   // by a newer one's checkpoint: what is below was not looked at

	last    string // path of the newest segment
	covered uint64 // by its checkpoint
	adoption
	state []byte // the State in it
}

// Open adopts the directories of earlier writers, restores the State from them,
// and from what only the Book has, and begins a new writer with a start record.
// The Owner is the Journal's from then on: Close gives it back, as does an error.
//
// Its errors: *CorruptError; *BookError; ctx's; what the disk or the Book says.
func Open(ctx context.Context, cfg Config) (_ *Journal, err error) {
	cfg = cfg.withDefaults()
	j := &Journal{cfg: cfg, disk: cfg.Disk, log: cfg.Log, opened: time.Now(), failed: make(chan struct{})}
	j.idle.L, j.work.L = &j.mu, &j.mu
	if cfg.Owner != nil {
		j.locks = append(j.locks, cfg.Owner)
	}
	defer func() {
		if err != nil {
			err = prefixed("open journal", err)
			for _, lock := range j.locks {
				err = errors.Join(err, lock.Close())
			}
		}
	}()
	switch {
	case !replicaName.MatchString(cfg.Replica) || len(cfg.Replica) > maxName-incarnationDigits-1:
		return nil, fmt.Errorf("replica %q: want letters, digits, dots, dashes and underscores, at most %d", cfg.Replica, maxName-incarnationDigits-1)
	case cfg.Owner != nil && cfg.Owner.dir != cfg.Dir:
		return nil, fmt.Errorf("the owner has %s, not %s", cfg.Owner.dir, cfg.Dir)
	case cfg.Owner == nil && cfg.Book != nil:
		return nil, errors.New("Book needs an Owner: it has the records of writers that still run, too")
	case cfg.Owner == nil:
		held, err := own(ctx, j.disk, cfg.Dir, j.log)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, held.Close()) }() // while directories come and go
	}

	j.findBallast(ctx)
	running, err := j.adopt(ctx)
	if err != nil {
		return nil, err
	}
	failpoint.Hit("journal.adopted")
	if err := j.restore(ctx); err != nil {
		return nil, err
	}
	if err := j.begin(running); err != nil {
		return nil, err
	}
	if j.metrics, err = newMetrics(j, cfg.Registerer); err != nil {
		return nil, errors.Join(err, j.file.Close())
	}
	tending, stop := context.WithCancel(context.WithoutCancel(ctx))
	j.stop = stop
	j.tasks.Go(j.keep)
	j.tasks.Go(func() { j.tend(tending) })
	if err := j.start(ctx, running); err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return j, nil
}

// writers lists the writers below dir, oldest first.
func writers(d disk.Disk, dir string) ([]string, error) {
	all, err := d.List(dir)
	if err != nil {
		return nil, err
	}
	names := slices.DeleteFunc(all, func(name string) bool { return !writerName.MatchString(name) })
	slices.SortFunc(names, byAge)
	return names, nil
}

// byAge orders writers by their incarnations.
func byAge(a, b string) int {
	return cmp.Or(cmp.Compare(incarnation(a), incarnation(b)), cmp.Compare(a, b))
}

// adopt locks every earlier writer's directory that nobody has, repairs it,
// and returns those that still run. With an Owner none can: a directory that is
// locked still is one whose process is on its way out, and is waited for; to go
// on without it would forget what it has spent.
//
// It begins with the newest. Who was adopted before, and is counted by the
// checkpoint of one that is newer, has been repaired; so a start costs what has
// come since the last one.
func (j *Journal) adopt(ctx context.Context) (running []string, err error) {
	names, err := writers(j.disk, j.cfg.Dir)
	if err != nil {
		return nil, err
	}
	heads := map[string]record.Head{} // :: writer → its end, as a newer checkpoint counts it
	for _, name := range slices.Backward(names) {
		dir := filepath.Join(j.cfg.Dir, name)
		head, counted := heads[name]
		if !counted || j.cfg.Owner == nil {
			held, err := j.take(ctx, dir)
			if errors.Is(err, disk.ErrLocked) {
				running = append(running, name)
				continue
			}
			if err != nil {
				return nil, err
			}
			j.locks = append(j.locks, held)
		}
		var h history
		if counted {
			h, err = shelved(j.disk, dir, head)
		} else {
			h, err = j.mend(dir, name)
		}
		if err == nil && h.oldest == 0 { // it ended before it began, or as it was deleted
			err = j.clear(&h)
		}
		if err != nil {
			return nil, err
		}
		if h.oldest == 0 {
			continue
		}
		for _, c := range h.covers {
			heads[c.Writer] = c
		}
		j.adopted = append(j.adopted, h)
	}
	slices.Reverse(j.adopted)
	slices.Reverse(running)
	return running, nil
}

// take locks an earlier writer's directory.
func (j *Journal) take(ctx context.Context, dir string) (io.Closer, error) {
	if j.cfg.Owner == nil {
		return j.disk.Lock(dir)
	}
	return lock(ctx, j.disk, dir, j.log)
}

// clear removes a directory without a segment. What was set aside in one that
// nothing counts is a person's to remove.
func (j *Journal) clear(h *history) error {
	switch {
	case h.counted && j.cfg.Owner != nil:
		return j.removeWriter(h)
	case !h.counted:
		if err := j.disk.Remove(h.dir); err != nil {
			j.log.Warn("an earlier writer's directory without a segment is kept", slog.String("dir", h.dir), slog.Any("error", err))
		}
	}
	return nil
}

// shelved is the history of a writer whose end is known.
func shelved(d disk.Disk, dir string, head record.Head) (history, error) {
	h := history{head: head, dir: dir, counted: true}
	names, err := segments(d, dir)
	if len(names) > 0 {
		h.oldest = firstOf(names[0])
	}
	return h, err
}

// survey finds the end of a writer's records, and reads the checkpoint of its
// newest segment. It returns the walk to that end, nil if there is no segment.
func survey(d disk.Disk, dir, writer string) (h history, w *walk, err error) {
	h = history{dir: dir, head: record.Head{Writer: writer}}
	names, err := segments(d, dir)
	if err != nil || len(names) == 0 {
		return h, nil, err
	}
	h.oldest = firstOf(names[0])
	h.last = filepath.Join(dir, names[len(names)-1])
	s, err := openSegment(d, h.last)
	if err != nil {
		return h, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.writer != writer {
		return h, nil, &CorruptError{Segment: s.name, Err: fmt.Errorf("it belongs to %s", s.writer)}
	}
	w = newWalk(s)
	if w.scanner, err = s.scan(); err != nil {
		return h, nil, err
	}
	for err == nil {
		_, err = w.step()
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, errFrame) {
		return h, nil, err
	}
	h.covered = w.covered
	h.head.Seq, h.head.Hash = w.next-1, w.prev
	if h.adoption, h.state, err = parseAdoption(w.checkpoint); err != nil {
		return h, nil, &CorruptError{Segment: s.name, Offset: s.size, Err: err}
	}
	return h, w, nil
}

// mend cuts off what a crash has torn from a writer's end, and makes the rest
// durable: a writer that was killed has left what it had not synced to the
// kernel, and one whose sync failed what the kernel takes for synced, which it
// syncs only if it is written again. What is counted now, and named in the start
// record, must outlast both.
func (j *Journal) mend(dir, writer string) (h history, err error) {
	if err := j.removeTemporary(dir); err != nil {
		return h, err
	}
	h, w, err := survey(j.disk, dir, writer)
	if err != nil {
		return h, j.quarantine(err)
	}
	if w == nil {
		return h, nil
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if w.at < w.limit {
		if h.cut, err = j.cut(w); err != nil {
			return h, err
		}
	}
	if err := w.rewrite(); err != nil {
		return h, err
	}
	if err := w.Sync(); err != nil { // before the end, which says so, and must not outlive what was cut
		return h, fmt.Errorf("sync segment: %w", err)
	}
	failpoint.Hit("journal.cut")
	if !w.ended {
		if err := finish(w.segment, w.at, h.head.Seq, h.head.Hash); err != nil {
			return h, err
		}
	}
	return h, j.disk.SyncDir(dir)
}

// rewrite writes the records that no frame says were on disk to where they are.
func (w *walk) rewrite() error {
	if len(w.unsure) == 0 {
		return nil
	}
	b := make([]byte, min(1<<20, w.at-w.unsure[0]))
	for at := w.unsure[0]; at < w.at; at += int64(len(b)) {
		b = b[:min(int64(len(b)), w.at-at)]
		if _, err := w.ReadAt(b, at); err != nil {
			return fmt.Errorf("read segment: %w", err)
		}
		if _, err := w.WriteAt(b, at); err != nil {
			return fmt.Errorf("write segment: %w", err)
		}
	}
	return nil
}

func (j *Journal) removeTemporary(dir string) error {
	all, err := j.disk.List(dir)
	if err != nil {
		return err
	}
	for _, name := range all {
		if strings.HasSuffix(name, temporary) {
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
	durable    uint64      // the newest record that a frame says was on disk
	unsure     []int64     // where the records behind that one begin
	ended      bool        // the end frame was seen
}

func newWalk(s *segment) *walk { return &walk{segment: s, next: s.first, prev: s.prev} }

// step reads the next frame. After errFrame the walk is at the end of what is
// whole, and what follows is torn; *CorruptError says that it is not torn but
// damaged.
func (w *walk) step() (frame, error) {
	f, err := w.scanner.next()
	whole := err == nil
	switch {
	case w.ended && !errors.Is(err, io.EOF):
		return f, w.corrupt(errors.New("bytes behind the segment's end"))
	case errors.Is(err, errPad):
		return f, w.corrupt(err)
	case errors.Is(err, io.EOF) || errors.Is(err, errFrame):
		return f, w.torn(err)
	case !whole:
		return f, err
	case f.typ == typeCheckpoint && w.checkpoint == nil:
		w.checkpoint, w.covered = bytes.Clone(f.payload), f.seq
		if f.seq+1 < w.first {
			return f, w.corruptAt(f, errors.New("its checkpoint does not reach its first record"))
		}
	case w.checkpoint == nil || f.typ == typeCheckpoint:
		return f, w.corruptAt(f, errors.New("a checkpoint in a place where none belongs"))
	case f.typ == typeEnd:
		if f.seq != w.next-1 || !bytes.Equal(f.payload, w.prev[:]) {
			return f, w.corruptAt(f, fmt.Errorf("the segment was ended behind record %d, and here it ends behind %d", f.seq, w.next-1))
		}
		w.ended = true
	case f.seq != w.next:
		return f, w.corruptAt(f, fmt.Errorf("record %d where %d belongs", f.seq, w.next))
	default:
		w.next++
		w.prev = record.Sum(f.payload)
		w.unsure = append(w.unsure, f.start)
	}
	w.durable = max(w.durable, f.durable)
	w.unsure = w.unsure[len(w.unsure)-min(len(w.unsure), int(w.next-1-min(w.durable, w.next-1))):]
	return f, nil
}

// torn returns end, or, if what is missing here was on disk once, that this is
// no crash's work.
func (w *walk) torn(end error) error {
	if w.checkpoint == nil || w.next <= w.covered {
		// This much was on disk before the segment got its name.
		return w.corrupt(errors.New("the segment's beginning is not whole"))
	}
	durable := w.durable
	if errors.Is(end, errFrame) {
		behind, err := w.durableBehind()
		if err != nil {
			return err
		}
		durable = max(durable, behind)
	}
	if w.next <= durable {
		return w.corrupt(fmt.Errorf("no whole record %d, and records up to %d were on disk", w.next, durable))
	}
	return end
}

func (w *walk) corrupt(err error) error {
	return &CorruptError{Segment: w.name, Offset: w.at, Seq: w.next - 1, Err: err}
}

// corruptAt is for a frame that was read.
func (w *walk) corruptAt(f frame, err error) error {
	return &CorruptError{Segment: w.name, Offset: f.start, Seq: w.next - 1, Err: err}
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
	damaged.ends = true
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
func (j *Journal) copy(from disk.File, off int64, name string) error {
	b, err := disk.ReadFrom(from, off)
	if err != nil {
		return err
	}
	dir := filepath.Dir(name)
	all, err := j.disk.List(dir)
	if err != nil {
		return err
	}
	if slices.Contains(all, filepath.Base(name)) {
		return j.disk.SyncDir(dir) // that start may have come no further
	}
	return disk.Save(j.disk, name, b)
}

// begin makes the own directory and its first segment.
func (j *Journal) begin(running []string) error {
	now := time.Now().UnixMilli()
	later := func(writer string) {
		if ms, err := strconv.ParseInt(incarnation(writer)[:12], 16, 64); err == nil && ms >= now {
			now = ms + 1 // the clock went back
		}
	}
	for _, h := range j.covers {
		later(h.Writer)
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
	file, end, err := j.create(1, record.Hash{}, 0, j.checkpointLocked(), nil)
	if err != nil {
		return err
	}
	j.beginLocked(file, end)
	return nil
}

// start writes the first record: who was here before, and what became of it.
func (j *Journal) start(ctx context.Context, running []string) error {
	r := record.Record{Type: record.Start, Time: j.opened, Code: j.cfg.StartCode}
	for _, h := range j.covers {
		if h.Seq > 0 { // else it would say that it runs
			r.Heads = append(r.Heads, h)
		}
	}
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
