package journal

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"airgate/accounting/journal/disk/disktest"
	"airgate/accounting/record"
)

// book is a disk with one writer's n records in one segment.
func book(t *testing.T, n int) (d *disktest.Disk, writer, path string, all []record.Record) {
	t.Helper()
	d = disktest.New(1)
	j := open(t, Config{Dir: simDir, Disk: d})
	for i := 1; i < n; i++ {
		if _, err := j.Append(&record.Record{Type: record.Admin, Detail: fmt.Sprint("change ", i)}); err != nil {
			t.Fatal(err)
		}
	}
	closed(t, j)
	for r, err := range read(d, simDir) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	path, _ = onlySegment(d, j.Writer())
	return d, j.Writer(), path, all
}

func headOf(r record.Record) record.Head {
	return record.Head{Writer: r.Writer, Seq: r.Seq, Hash: record.Sum(record.AppendJSON(nil, &r))}
}

// forge writes the segment anew, with right sums, as somebody would who knows
// the format. It may begin later than all, which it had.
func forge(t *testing.T, d *disktest.Disk, path string, records, all []record.Record) {
	t.Helper()
	s, err := openSegment(d, path)
	if err != nil {
		t.Fatal(err)
	}
	scan, err := s.scan()
	if err != nil {
		t.Fatal(err)
	}
	checkpoint, err := scan.next()
	if err != nil {
		t.Fatal(err)
	}
	covered := checkpoint.seq
	switch {
	case len(records) == 0:
		last := headOf(all[len(all)-1])
		s.first, s.prev, covered = last.Seq+1, last.Hash, last.Seq
	case records[0].Seq != s.first:
		s.first, s.prev, covered = records[0].Seq, records[0].Prev, records[0].Seq-1
	}
	d.Delete(path)
	b := s.append(nil)
	head := len(b)
	b = appendFrame(b, typeCheckpoint, covered, func(b []byte) []byte { return append(b, checkpoint.payload...) })
	for _, r := range records {
		b = appendFrame(b, typeRecord, r.Seq, func(b []byte) []byte { return record.AppendJSON(b, &r) })
	}
	seal(b[head:], s.seed(), 0)
	d.Set(filepath.Join(filepath.Dir(path), s.file()), b)
}

// rechain makes numbers and hashes follow again.
func rechain(all []record.Record) []record.Record {
	all = slices.Clone(all)
	var prev record.Hash
	for i := range all {
		all[i].Seq, all[i].Prev = uint64(i)+1, prev
		prev = record.Sum(record.AppendJSON(nil, &all[i]))
	}
	return all
}

func TestVerify(t *testing.T) {
	const n, shipped = 10, 7
	same := func(all []record.Record) []record.Record { return all }
	tests := map[string]struct {
		journal  func(all []record.Record) []record.Record // what became of the journal's records; nil = nothing
		book     func(all []record.Record) []record.Record // and of the book's, which are the first seven
		want     string                                    // "" = sound
		last     uint64
		anchored uint64
	}{
		"nothing":        {last: 10, anchored: 7},
		"a sink behind":  {book: func(all []record.Record) []record.Record { return all[:3] }, last: 10, anchored: 3},
		"a sink with no": {book: func([]record.Record) []record.Record { return nil }, last: 10},
		"a removed record": {
			journal: func(all []record.Record) []record.Record { return slices.Delete(all, 8, 9) },
			want:    "record 10 where 9 belongs", last: 8, anchored: 7,
		},
		"a swapped pair": {
			journal: func(all []record.Record) []record.Record { all[8], all[9] = all[9], all[8]; return all },
			want:    "record 10 where 9 belongs", last: 8, anchored: 7,
		},
		"a swapped pair with each other's numbers": {
			journal: func(all []record.Record) []record.Record {
				all[4], all[5] = all[5], all[4]
				all[4].Seq, all[5].Seq = all[5].Seq, all[4].Seq
				return all
			},
			want: "record 5 does not follow from the one before it", last: 7, // in the sink
		},
		"a changed record that is not anchored": {
			journal: func(all []record.Record) []record.Record { all[8].Detail = "harmless"; return all },
			want:    "record 10 does not follow from the one before it", last: 9, anchored: 7,
		},
		"a changed record and a new chain behind it": {
			journal: func(all []record.Record) []record.Record { all[4].Detail = "harmless"; return rechain(all) },
			want:    "the sink's book of W: record 5 is another than the journal's", last: 4,
		},
		"a removed record and a new chain behind it": {
			journal: func(all []record.Record) []record.Record { return rechain(slices.Delete(all, 4, 5)) },
			want:    "the sink's book of W: record 5 is another than the journal's", last: 4,
		},
		"a record of another writer": {
			journal: func(all []record.Record) []record.Record {
				all[8].Writer = "b.00000000000000000000"
				return rechain(all)
			},
			want: "record 9 belongs to b.00000000000000000000", last: 8, anchored: 7,
		},
		"a removed tail into the anchored part": {
			journal: func(all []record.Record) []record.Record { return all[:5] },
			want:    "records 6 to 7 of W are gone from the journal: the sink has them", last: 7,
		},
		"a removed tail behind the anchor: nothing can tell": {
			journal: func(all []record.Record) []record.Record { return all[:8] },
			last:    8, anchored: 7,
		},
		"a changed tail behind the anchor: nothing can tell": {
			journal: func(all []record.Record) []record.Record { all[8].Detail = "harmless"; return rechain(all) },
			last:    10, anchored: 7,
		},
		"records that were deleted after shipping": {
			journal: func(all []record.Record) []record.Record { return all[4:] },
			last:    10, anchored: 7,
		},
		"all records deleted after shipping": {
			journal: func(all []record.Record) []record.Record { return all[10:] },
			book:    same, last: 10, anchored: 10,
		},
		"more deleted than shipped": {
			journal: func(all []record.Record) []record.Record { return all[8:] },
			want:    "records 8 to 8 of W are gone", last: 7,
		},
		"all deleted, and not all shipped": {
			journal: func(all []record.Record) []record.Record { return all[10:] },
			want:    "records 8 to 10 of W are gone", last: 7,
		},
		"a changed record in the book": {
			book: func(all []record.Record) []record.Record { all[4].Detail = "harmless"; return all[:7] },
			want: "the sink's book of W: record 5 is another than the journal's", last: 4,
		},
		"a changed record that only the book has, and a new chain": {
			journal: func(all []record.Record) []record.Record { return all[6:] },
			book:    func(all []record.Record) []record.Record { all[4].Detail = "harmless"; return rechain(all)[:7] },
			want:    "the sink's book of W: record 7 is another than the journal's", last: 6,
		},
		"a changed book where it meets the journal": {
			journal: func(all []record.Record) []record.Record { return all[7:] },
			book:    func(all []record.Record) []record.Record { all[4].Detail = "harmless"; return rechain(all)[:7] },
			want:    "where the sink's book and the journal meet: record 8 does not follow from the one before it", last: 7,
		},
		"a changed book that the journal has deleted to the end": {
			journal: func(all []record.Record) []record.Record { return all[10:] },
			book:    func(all []record.Record) []record.Record { all[4].Detail = "harmless"; return rechain(all) },
			want:    "record 10 is not the one that the journal goes on from", last: 10,
		},
		"a book that begins in the middle": {
			book: func(all []record.Record) []record.Record { return all[3:7] },
			last: 10, anchored: 7,
		},
		"neither has the beginning": {
			journal: func(all []record.Record) []record.Record { return all[4:] },
			book:    func(all []record.Record) []record.Record { return all[3:7] },
			want:    "records 1 to 3 of W are gone", last: 10, anchored: 7,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			d, writer, path, all := book(t, n)
			shelf := slices.Clone(all[:shipped])
			if test.book != nil {
				shelf = test.book(slices.Clone(all))
			}
			m := &memory{books: map[string][]record.Record{}}
			if len(shelf) > 0 {
				m.books[writer] = shelf
			}
			if test.journal != nil {
				forge(t, d, path, test.journal(slices.Clone(all)), all)
			}
			report, err := verify(t.Context(), d, simDir, m, nil)
			if err != nil || len(report.Writers) != 1 {
				t.Fatalf("Verify = %+v, %v", report, err)
			}
			w := report.Writers[0]
			problems := strings.ReplaceAll(fmt.Sprint(errors.Join(w.Problems...)), writer, "W")
			if test.want == "" && !report.Sound() || test.want != "" && (report.Sound() || !strings.Contains(problems, test.want)) {
				t.Errorf("Verify finds %q, want %q", problems, test.want)
			}
			if w.Last.Seq != test.last || w.Anchored != test.anchored && test.want == "" {
				t.Errorf("Verify follows to %d, anchored to %d; want %d, anchored to %d", w.Last.Seq, w.Anchored, test.last, test.anchored)
			}
			if got := w.NotAnchored(); test.want == "" && test.last > test.anchored && got != (Span{First: test.anchored + 1, Last: test.last}) {
				t.Errorf("NotAnchored = %+v, want %d to %d", got, test.anchored+1, test.last)
			}
		})
	}
}

func TestVerifyFindsEveryFlippedBit(t *testing.T) {
	d, writer, path, all := book(t, 4)
	m := &memory{books: map[string][]record.Record{writer: all}}
	if report, err := verify(t.Context(), d, simDir, m, nil); err != nil || !report.Sound() {
		t.Fatalf("Verify = %+v, %v; want sound", report, err)
	}
	whole := segmentsOf(d, writer)[path]
	for i := range whole {
		for bit := range 8 {
			flipped := slices.Clone(whole)
			flipped[i] ^= 1 << bit
			d.Set(path, flipped)
			report, err := verify(t.Context(), d, simDir, m, nil)
			if err != nil {
				t.Fatal(err)
			}
			// The end frame says nothing that is not said elsewhere.
			if report.Sound() && (report.Writers[0].Torn == 0 || report.Writers[0].Last.Seq != 4) {
				t.Fatalf("Verify with bit %d of byte %d flipped = %+v, %v; want it found", bit, i, report, err)
			}
		}
	}
}

func TestALaterStartVouchesForEarlierWriters(t *testing.T) {
	d, first, path, all := book(t, 5)
	second := open(t, Config{Dir: simDir, Disk: d})
	appendN(t, second, 2)
	closed(t, second)
	books := map[string][]record.Record{}
	for r, err := range read(d, simDir) {
		if err != nil {
			t.Fatal(err)
		}
		books[r.Writer] = append(books[r.Writer], r)
	}
	withoutFirst := d.Clone()
	withoutFirst.Delete(path)
	withoutFirst.Delete(filepath.Join(simDir, first))
	tests := map[string]struct {
		disk     func() *disktest.Disk
		book     map[string][]record.Record
		want     string
		anchored uint64 // of the first
	}{
		"no sink":         {},
		"a second's sink": {book: map[string][]record.Record{second.Writer(): books[second.Writer()]}, anchored: 5},
		"without the last record that a start names": {
			disk: func() *disktest.Disk { c := d.Clone(); forge(t, c, path, all[:4], all); return c },
			want: "records 5 to 5 of W are gone: a head held elsewhere names the last of them",
		},
		"without a writer that a start names": {
			disk: withoutFirst.Clone,
			want: "records 1 to 5 of W are gone: a head held elsewhere names the last of them",
		},
		"a writer that only the sink has":       {disk: withoutFirst.Clone, book: books, anchored: 5},
		"a writer that the sink has not wholly": {disk: withoutFirst.Clone, book: map[string][]record.Record{first: all[:4]}, want: "records 5 to 5 of W are gone: a head held elsewhere names the last of them"},
		"a writer that nobody names, and no journal": {
			disk: func() *disktest.Disk { return disktest.New(1) }, book: map[string][]record.Record{first: all},
			want: "the journal of W is gone, and no later start says that record 5 was its last",
		},
		"bytes behind a closed end": {
			disk: func() *disktest.Disk {
				c := d.Clone()
				c.Set(path, append(segmentsOf(c, first)[path], 1, 2, 3))
				return c
			},
			want: "bytes behind the segment's end",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := d.Clone()
			if test.disk != nil {
				c = test.disk()
			}
			var b Book
			if test.book != nil {
				b = &memory{books: test.book}
			}
			report, err := verify(t.Context(), c, simDir, b, nil)
			if err != nil || len(report.Writers) == 0 {
				t.Fatalf("Verify = %+v, %v", report, err)
			}
			w := report.Writers[0]
			problems := strings.ReplaceAll(fmt.Sprint(errors.Join(w.Problems...)), first, "W")
			if w.Writer != first || (test.want == "") != report.Sound() || !strings.Contains(problems, test.want) {
				t.Errorf("Verify finds %q, want %q", problems, test.want)
			}
			if test.want == "" && w.Anchored != test.anchored {
				t.Errorf("anchored to %d, want %d", w.Anchored, test.anchored)
			}
		})
	}
}

// Checkpoints hold what the records before them add up to, also over the
// border from one writer to the next, and whoever has the records.
func TestVerifyAddsUp(t *testing.T) {
	fresh := func() State { return newTally() }
	d := disktest.New(1)
	var writers []string
	for range 3 {
		j := owned(t, Config{Dir: simDir, SegmentBytes: 2000, State: newTally(), Disk: d})
		for range 4 {
			if err := j.Wait(t.Context(), appendN(t, j, 3)); err != nil {
				t.Fatal(err)
			}
		}
		closed(t, j)
		writers = append(writers, j.Writer())
	}
	books := map[string][]record.Record{}
	for r, err := range read(d, simDir) {
		if err != nil {
			t.Fatal(err)
		}
		books[r.Writer] = append(books[r.Writer], r)
	}
	report, err := verify(t.Context(), d, simDir, nil, fresh)
	if err != nil || !report.Sound() {
		t.Fatalf("Verify = %+v, %v; want sound", report, err)
	}
	for i, w := range report.Writers {
		if want := len(segmentsOf(d, writers[i])); w.Sums != want || want < 3 {
			t.Errorf("%d checkpoints of %s add up, want %d", w.Sums, w.Writer, want)
		}
	}

	t.Run("what only the sink has counts", func(t *testing.T) {
		c := d.Clone()
		for path := range segmentsOf(c, writers[0]) {
			c.Delete(path)
		}
		c.Delete(filepath.Join(simDir, writers[0]))
		report, err := verify(t.Context(), c, simDir, &memory{books: books}, fresh)
		if err != nil || !report.Sound() || report.Writers[1].Sums != len(segmentsOf(d, writers[1])) {
			t.Errorf("Verify = %+v, %v; want all checkpoints of the second writer to add up", report, err)
		}
	})
	t.Run("another checkpoint is found, and only that", func(t *testing.T) {
		c := d.Clone()
		names, err := segments(c, filepath.Join(simDir, writers[1]))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(simDir, writers[1], names[1])
		s, err := openSegment(c, path)
		if err != nil {
			t.Fatal(err)
		}
		scan, err := s.scan()
		if err != nil {
			t.Fatal(err)
		}
		f, err := scan.next()
		if err != nil {
			t.Fatal(err)
		}
		covers, state, err := parseAdoption(f.payload)
		if err != nil {
			t.Fatal(err)
		}
		other := newTally()
		if err := other.RestoreCheckpoint(state); err != nil {
			t.Fatal(err)
		}
		other.n--
		changed := appendFrame(nil, typeCheckpoint, f.seq, func(b []byte) []byte {
			return other.AppendCheckpoint(covers.appendTo(b))
		})
		seal(changed, s.seed(), f.durable)
		whole := segmentsOf(c, writers[1])[path]
		c.Set(path, slices.Concat(whole[:s.size], changed, whole[f.end:]))
		report, err := verify(t.Context(), c, simDir, nil, fresh)
		if err != nil || report.Sound() {
			t.Fatalf("Verify = %+v, %v; want the checkpoint found", report, err)
		}
		var sum *SumError
		if w := report.Writers[1]; !errors.As(errors.Join(w.Problems...), &sum) || sum.Seq != f.seq || len(report.Writers[2].Problems) > 0 {
			t.Errorf("Verify finds %v and %v, want the checkpoint behind %d", w.Problems, report.Writers[2].Problems, f.seq)
		}
	})
}
