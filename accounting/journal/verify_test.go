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
// the format.
func forge(t *testing.T, d *disktest.Disk, path string, records []record.Record) {
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
	b := s.append(nil)
	head := len(b)
	b = appendFrame(b, typeCheckpoint, checkpoint.seq, func(b []byte) []byte { return append(b, checkpoint.payload...) })
	for _, r := range records {
		b = appendFrame(b, typeRecord, r.Seq, func(b []byte) []byte { return record.AppendJSON(b, &r) })
	}
	seal(b[head:], s.seed())
	d.Set(path, b)
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
	const n, anchored = 10, 7
	tests := map[string]struct {
		change   func(all []record.Record) []record.Record
		problem  string // "" = sound
		anchored uint64
		last     uint64
	}{
		"nothing": {
			change:   func(all []record.Record) []record.Record { return all },
			anchored: 7, last: 10,
		},
		"a removed record": {
			change:  func(all []record.Record) []record.Record { return slices.Delete(all, 4, 5) },
			problem: "record 6 where 5 belongs", last: 4,
		},
		"a swapped pair": {
			change:  func(all []record.Record) []record.Record { all[4], all[5] = all[5], all[4]; return all },
			problem: "record 6 where 5 belongs", last: 4,
		},
		"a swapped pair with each other's numbers": {
			change: func(all []record.Record) []record.Record {
				all[4], all[5] = all[5], all[4]
				all[4].Seq, all[5].Seq = all[5].Seq, all[4].Seq
				return all
			},
			problem: "record 5 does not follow from the one before it", last: 4,
		},
		"a changed record": {
			change:  func(all []record.Record) []record.Record { all[4].Detail = "harmless"; return all },
			problem: "record 6 does not follow from the one before it", last: 5,
		},
		"a changed record and a new chain behind it": {
			change:  func(all []record.Record) []record.Record { all[4].Detail = "harmless"; return rechain(all) },
			problem: "record 7 of W is not the one that was written: a head held elsewhere has another hash", last: 10,
		},
		"a removed record and a new chain behind it": {
			change:  func(all []record.Record) []record.Record { return rechain(slices.Delete(all, 4, 5)) },
			problem: "record 7 of W is not the one that was written: a head held elsewhere has another hash", last: 9,
		},
		"a record of another writer": {
			change: func(all []record.Record) []record.Record {
				all[4].Writer = "b.00000000000000000000"
				return rechain(all)
			},
			problem: "record 5 belongs to b.00000000000000000000", last: 4,
		},
		"a removed tail into the anchored part": {
			change:  func(all []record.Record) []record.Record { return all[:5] },
			problem: "records 6 to 7 of W are gone: a head held elsewhere names the last of them", last: 5,
		},
		"a removed tail behind the anchor: nothing can tell": {
			change:   func(all []record.Record) []record.Record { return all[:8] },
			anchored: 7, last: 8,
		},
		"a changed tail behind the anchor: nothing can tell": {
			change:   func(all []record.Record) []record.Record { all[8].Detail = "harmless"; return rechain(all) },
			anchored: 7, last: 10,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			d, writer, path, all := book(t, n)
			head := headOf(all[anchored-1])
			forge(t, d, path, test.change(all))
			report, err := verify(d, simDir, []record.Head{head})
			if err != nil || len(report.Writers) != 1 {
				t.Fatalf("Verify = %+v, %v", report, err)
			}
			w := report.Writers[0]
			problems := strings.ReplaceAll(fmt.Sprint(errors.Join(w.Problems...)), writer, "W")
			if test.problem == "" && !report.Sound() || test.problem != "" && (report.Sound() || !strings.Contains(problems, test.problem)) {
				t.Errorf("Verify finds %q, want %q", problems, test.problem)
			}
			if w.First != 1 || w.Last.Seq != test.last || w.Anchored != test.anchored && test.problem == "" {
				t.Errorf("Verify has records %d to %d, anchored to %d; want 1 to %d, anchored to %d", w.First, w.Last.Seq, w.Anchored, test.last, test.anchored)
			}
			if got, want := w.NotAnchored(), test.last-test.anchored; test.problem == "" && got != want {
				t.Errorf("NotAnchored = %d, want %d", got, want)
			}
		})
	}
}

func TestVerifyFindsEveryFlippedBit(t *testing.T) {
	d, _, path, all := book(t, 4)
	heads := []record.Head{headOf(all[len(all)-1])}
	if report, err := verify(d, simDir, heads); err != nil || !report.Sound() {
		t.Fatalf("Verify = %+v, %v; want sound", report, err)
	}
	whole := segmentsOf(d, all[0].Writer)[path]
	for i := range whole {
		for bit := range 8 {
			flipped := slices.Clone(whole)
			flipped[i] ^= 1 << bit
			d.Set(path, flipped)
			if report, err := verify(d, simDir, heads); err != nil || report.Sound() {
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
	var last record.Record
	for r, err := range read(d, simDir) {
		if err != nil {
			t.Fatal(err)
		}
		last = r
	}

	tail := d.Clone()
	forge(t, tail, path, all[:4])
	report, err := verify(tail, simDir, nil)
	if err != nil || report.Sound() {
		t.Errorf("Verify without the last record that a start names = %+v, %v; want it found", report, err)
	}

	gone := d.Clone()
	gone.Delete(path)
	gone.Delete(filepath.Join(simDir, first))
	report, err = verify(gone, simDir, nil)
	if err != nil || report.Sound() {
		t.Errorf("Verify without a writer that a start names = %+v, %v; want it found", report, err)
	}

	for anchors, want := range map[string]uint64{"none": 0, "the second's": 5} {
		var heads []record.Head
		if want > 0 {
			heads = append(heads, headOf(last))
		}
		report, err = verify(d, simDir, heads)
		if err != nil || !report.Sound() || len(report.Writers) != 2 || report.Writers[0].Anchored != want {
			t.Errorf("Verify with anchors: %s = %+v, %v; want the first writer anchored to %d", anchors, report, err, want)
		}
	}
}
