package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path/filepath"

	"airgate/accounting/journal/disk"
	"airgate/accounting/record"
)

// Writers lists the writers that have a directory below dir, oldest first.
func Writers(dir string) ([]string, error) {
	names, err := writers(disk.OS{}, dir)
	if err != nil {
		return nil, fmt.Errorf("list writers: %w", err)
	}
	return names, nil
}

// Read yields the records of all writers below dir, one writer after the other
// from the oldest, each in order. It takes no lock and changes nothing: beside
// a running process it yields what is written so far, and a torn end is where
// a writer ends. An error ends its writer: *CorruptError, or what the disk
// says.
func Read(dir string) iter.Seq2[record.Record, error] { return read(disk.OS{}, dir) }

func read(d disk.Disk, dir string) iter.Seq2[record.Record, error] {
	return func(yield func(record.Record, error) bool) {
		names, err := writers(d, dir)
		if err != nil {
			yield(record.Record{}, fmt.Errorf("read journal: %w", err))
			return
		}
		for _, writer := range names {
			r := newReader(d, filepath.Join(dir, writer), writer, 0)
			for err == nil {
				var rec record.Record
				if rec, err = r.record(); err == nil && !yield(rec, nil) {
					_ = r.close() // it was only read
					return
				}
			}
			if errors.Is(err, io.EOF) {
				err = nil
			}
			if err = errors.Join(err, r.close()); err != nil && !yield(record.Record{}, fmt.Errorf("read journal: %w", err)) {
				return
			}
			err = nil
		}
	}
}

// chain is how far a writer's records were followed.
type chain struct {
	writer string
	next   uint64      // the seq that comes; 0 = whichever is the oldest
	sum    record.Hash // of the record before it, once begun
	begun  bool
}

// follow takes the record that comes, whose canonical encoding has that sum.
func (c *chain) follow(r *record.Record, sum record.Hash) error {
	switch {
	case r.Writer != c.writer:
		return fmt.Errorf("record %d belongs to %s", r.Seq, r.Writer)
	case c.next != 0 && r.Seq != c.next:
		return fmt.Errorf("record %d where %d belongs", r.Seq, c.next)
	case c.begun && r.Prev != c.sum, r.Seq == 1 && r.Prev != record.Hash{}:
		return fmt.Errorf("record %d does not follow from the one before it", r.Seq)
	}
	c.next, c.sum, c.begun = r.Seq+1, sum, true
	return nil
}

// reader reads one writer's records in order, also while they are written.
type reader struct {
	chain

	disk  disk.Disk
	dir   string
	walk  *walk  // through the present segment; nil = none
	limit uint64 // where a newer segment takes over; 0 = none was there

	checkpoint func(covered uint64, payload []byte) error // is told of each that is passed; may be nil
}

func newReader(d disk.Disk, dir, writer string, next uint64) *reader {
	return &reader{chain: chain{writer: writer, next: next}, disk: d, dir: dir}
}

// record reads the next record and checks that it is what the frame and the
// chain say. io.EOF means that it is not there yet.
func (r *reader) record() (record.Record, error) {
	f, err := r.frame()
	if err != nil {
		return record.Record{}, err
	}
	rec, err := record.ParseJSON(f.payload)
	if err == nil && rec.Seq != f.seq {
		err = fmt.Errorf("its frame says record %d, the record says %d", f.seq, rec.Seq)
	}
	if err == nil {
		err = r.follow(&rec, r.walk.prev)
	}
	if err != nil {
		return record.Record{}, r.walk.corruptAt(f, err)
	}
	return rec, nil
}

// frame finds the next record's frame.
func (r *reader) frame() (frame, error) {
	for {
		if r.walk != nil && r.limit != 0 && r.next >= r.limit {
			if err := r.close(); err != nil {
				return frame{}, err
			}
		}
		if r.walk == nil {
			if err := r.open(); err != nil {
				return frame{}, err
			}
		}
		before := r.walk.prev
		f, err := r.walk.step()
		switch {
		case err != nil:
			if err := r.goOn(err); err != nil {
				return frame{}, err
			}
		case f.typ == typeCheckpoint && r.checkpoint != nil:
			if err := r.checkpoint(f.seq, f.payload); err != nil {
				return frame{}, r.walk.corruptAt(f, err)
			}
		case f.typ == typeRecord && f.seq == r.next:
			if !r.begun {
				r.sum, r.begun = before, true
			}
			return f, nil
		}
	}
}

// open opens the segment that has the next record: of those that could, the
// newest, since an older one may have been given up after a failed sync.
func (r *reader) open() error {
	s, err := r.find()
	for range 3 { // the one that was listed may have been deleted since
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
		s, err = r.find()
	}
	if err != nil {
		return err
	}
	w := newWalk(s)
	if w.scanner, err = s.scan(); err != nil {
		return errors.Join(err, s.Close())
	}
	r.walk = w
	switch {
	case s.writer != r.writer:
		err = fmt.Errorf("it belongs to %s", s.writer)
	case s.first == r.next && !r.begun:
		r.sum, r.begun = s.prev, true
	case s.first == r.next && r.sum != s.prev:
		err = fmt.Errorf("it does not follow from record %d", r.next-1)
	}
	if err != nil {
		return errors.Join(&CorruptError{Segment: s.name, Seq: r.next - 1, Err: err}, r.close())
	}
	return r.look()
}

func (r *reader) find() (*segment, error) {
	names, err := segments(r.disk, r.dir)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, io.EOF
	}
	next := r.next
	if next == 0 {
		next = firstOf(names[0])
	}
	name := ""
	for _, candidate := range names {
		if firstOf(candidate) <= next {
			name = candidate
		}
	}
	if name == "" {
		return nil, fmt.Errorf("the records of %s before %d are no longer here: %d was asked for", r.writer, firstOf(names[0]), next)
	}
	s, err := openSegment(r.disk, filepath.Join(r.dir, name))
	if err == nil {
		r.next = next
	}
	return s, err
}

// look sees where a newer segment takes over. What the present one still has
// from there on was never acknowledged: a write failed, and its rollback, too.
// Who reads what is being written looks again before reading what has become
// durable since: then a newer segment, if that has it, has its name.
func (r *reader) look() error {
	if r.walk == nil {
		return nil
	}
	names, err := segments(r.disk, r.dir)
	if err != nil {
		return err
	}
	size, err := r.walk.Size()
	if err != nil {
		return err
	}
	r.walk.limit, r.walk.window = size, r.walk.window[:0]
	r.limit = 0
	for _, name := range names {
		if name > filepath.Base(r.walk.name) {
			r.limit = firstOf(name)
			break
		}
	}
	return nil
}

// goOn decides what the end of the present segment means: nil = read on.
func (r *reader) goOn(end error) error {
	was := r.walk.limit
	if err := r.look(); err != nil {
		return err
	}
	if r.limit != 0 && r.limit <= r.next {
		return r.close()
	}
	// Size comes after List: a segment is complete before it has a successor.
	size, err := r.walk.Size()
	if err != nil {
		return fmt.Errorf("size of segment: %w", err)
	}
	grown := size > was
	r.walk.limit, r.walk.window = size, r.walk.window[:0]
	switch torn := errors.Is(end, io.EOF) || errors.Is(end, errFrame); {
	case grown:
		return nil
	case torn && r.limit == 0:
		return io.EOF
	case torn:
		return r.walk.corrupt(fmt.Errorf("it ends before record %d, and the next segment begins at %d", r.next, r.limit))
	}
	return end
}

func (r *reader) close() error {
	if r.walk == nil {
		return nil
	}
	err := r.walk.Close()
	r.walk = nil
	return err
}
