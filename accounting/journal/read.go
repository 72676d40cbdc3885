package journal

import (
	"errors"
	"fmt"
	"io"
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

// reader reads one writer's records in order, also while they are written.
type reader struct {
	disk   disk.Disk
	dir    string
	writer string
	next   uint64      // the seq that comes; 0 = the oldest that is there
	sum    record.Hash // of the record before it, once one was read
	begun  bool
	walk   *walk  // through the present segment; nil = none
	limit  uint64 // where a newer segment takes over; 0 = none was there
}

func newReader(d disk.Disk, dir, writer string, next uint64) *reader {
	return &reader{disk: d, dir: dir, writer: writer, next: next}
}

// record reads the next record and checks that it is what the frame and the
// chain say. io.EOF means that it is not there yet.
func (r *reader) record() (record.Record, error) {
	f, err := r.frame()
	if err != nil {
		return record.Record{}, err
	}
	rec, err := record.ParseJSON(f.payload)
	switch {
	case err != nil:
	case rec.Seq != f.seq:
		err = fmt.Errorf("its frame says record %d, the record says %d", f.seq, rec.Seq)
	case rec.Writer != r.writer:
		err = fmt.Errorf("record %d belongs to %s", rec.Seq, rec.Writer)
	case r.begun && rec.Prev != r.sum:
		err = fmt.Errorf("record %d does not follow from the one before it", rec.Seq)
	}
	if err != nil {
		return record.Record{}, r.walk.corruptAt(f, err)
	}
	r.next, r.sum, r.begun = f.seq+1, r.walk.prev, true
	return rec, nil
}

// frame finds the next record's frame.
func (r *reader) frame() (frame, error) {
	for {
		if r.walk != nil && r.limit != 0 && r.next >= r.limit {
			// What an older segment still has from here on was never
			// acknowledged: a write failed, and its rollback, too.
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
			if err := r.follow(err); err != nil {
				return frame{}, err
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
	names, err := segments(r.disk, r.dir)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return io.EOF
	}
	if r.next == 0 {
		r.next = firstOf(names[0])
	}
	name := ""
	r.limit = 0
	for _, candidate := range names {
		if firstOf(candidate) <= r.next {
			name = candidate
		} else if r.limit == 0 {
			r.limit = firstOf(candidate)
		}
	}
	if name == "" {
		return fmt.Errorf("the records of %s before %d are no longer here: %d was asked for", r.writer, firstOf(names[0]), r.next)
	}
	s, err := openSegment(r.disk, filepath.Join(r.dir, name))
	if err != nil {
		return err
	}
	w := &walk{segment: s, next: s.first, prev: s.prev}
	if w.scanner, err = s.scan(); err != nil {
		return errors.Join(err, s.Close())
	}
	r.walk = w
	if s.writer != r.writer {
		return errors.Join(&CorruptError{Segment: s.name, Err: fmt.Errorf("it belongs to %s", s.writer)}, r.close())
	}
	return nil
}

// follow decides what the end of the present segment means: nil = read on.
func (r *reader) follow(end error) error {
	names, err := segments(r.disk, r.dir)
	if err != nil {
		return err
	}
	var newer []string
	for _, name := range names {
		if name > filepath.Base(r.walk.name) {
			newer = append(newer, name)
		}
	}
	if len(newer) > 0 && firstOf(newer[0]) <= r.next {
		return r.close()
	}
	// Size comes after List: a segment is complete before it has a successor.
	size, err := r.walk.Size()
	if err != nil {
		return fmt.Errorf("size of segment: %w", err)
	}
	grown := size > r.walk.limit
	r.walk.limit, r.walk.window = size, r.walk.window[:0]
	switch torn := errors.Is(end, io.EOF) || errors.Is(end, errFrame); {
	case grown:
		return nil
	case torn && len(newer) == 0:
		return io.EOF
	case torn:
		return r.walk.corrupt(fmt.Errorf("it ends before record %d, and the next segment begins at %d", r.next, firstOf(newer[0])))
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
