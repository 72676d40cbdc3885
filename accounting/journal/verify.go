package journal

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"airgate/accounting/journal/disk"
	"airgate/accounting/record"
)

// Report is what Verify found.
type Report struct {
	Writers []WriterReport // oldest first
}

// Sound reports whether nothing is damaged or missing. A tail that is not
// anchored is sound: nothing says that it is not.
func (r Report) Sound() bool {
	return !slices.ContainsFunc(r.Writers, func(w WriterReport) bool { return len(w.Problems) > 0 })
}

// WriterReport is what Verify found of one writer.
type WriterReport struct {
	Writer string
	First  uint64      // the oldest record that is here; 0 = there is none
	Last   record.Head // the newest that follows, without gap, from First
	// Anchored is the newest record whose hash is held elsewhere: it and all
	// before it are what was written. Whether the records behind it, to Last,
	// are all that there were, or the ones that there were, nothing can prove.
	Anchored uint64
	Problems []error // *CorruptError, *AnchorError, or what the disk says
}

// NotAnchored is how many records nothing outside of the journal vouches for.
func (w *WriterReport) NotAnchored() uint64 { return w.Last.Seq - min(w.Anchored, w.Last.Seq) }

// AnchorError says that the journal is not what a head held elsewhere says.
type AnchorError struct {
	Head record.Head
	Last uint64 // the newest record here
}

func (e *AnchorError) Error() string {
	if e.Last < e.Head.Seq {
		return fmt.Sprintf("records %d to %d of %s are gone: a head held elsewhere names the last of them", e.Last+1, e.Head.Seq, e.Head.Writer)
	}
	return fmt.Sprintf("record %d of %s is not the one that was written: a head held elsewhere has another hash", e.Head.Seq, e.Head.Writer)
}

// anchor is a head that the journal must contain.
type anchor struct {
	record.Head

	trusted bool // held elsewhere, and not only in a record that could be forged with it
	met     bool
}

// Verify reads all records below dir and checks their sums, their numbers,
// their chain, and that they contain heads, which are held elsewhere, as the
// sinks do, and the heads in the start records of later writers. Damage ends
// what can be said of a writer. It takes no lock and changes nothing; of a
// running writer it sees what is written so far, so heads must have been asked
// for before.
func Verify(dir string, heads []record.Head) (Report, error) { return verify(disk.OS{}, dir, heads) }

func verify(d disk.Disk, dir string, heads []record.Head) (Report, error) {
	names, err := writers(d, dir)
	if err != nil {
		return Report{}, fmt.Errorf("verify journal: %w", err)
	}
	var anchors []*anchor
	for _, h := range heads {
		anchors = append(anchors, &anchor{Head: h, trusted: true})
	}
	var report Report
	for _, writer := range slices.Backward(names) { // later writers vouch for earlier ones
		w, named := verifyWriter(d, filepath.Join(dir, writer), writer, anchors)
		report.Writers = append(report.Writers, w)
		for _, h := range named {
			if h.Seq > 0 {
				anchors = append(anchors, &anchor{Head: h, trusted: w.Anchored > 0})
			}
		}
	}
	slices.Reverse(report.Writers)
	for _, a := range anchors {
		if !slices.Contains(names, a.Writer) && !slices.ContainsFunc(report.Writers, func(w WriterReport) bool { return w.Writer == a.Writer }) {
			report.Writers = append(report.Writers, WriterReport{Writer: a.Writer, Problems: []error{&AnchorError{Head: a.Head}}})
		}
	}
	return report, nil
}

// verifyWriter returns besides the heads that the writer's start record names.
func verifyWriter(d disk.Disk, dir, writer string, anchors []*anchor) (w WriterReport, named []record.Head) {
	w = WriterReport{Writer: writer, Last: record.Head{Writer: writer}}
	var mine []*anchor
	for _, a := range anchors {
		if a.Writer == writer {
			mine = append(mine, a)
		}
	}
	r := newReader(d, dir, writer, 0)
	for {
		rec, err := r.record()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				w.Problems = append(w.Problems, err)
			}
			break
		}
		if w.First == 0 {
			w.First = rec.Seq
			if rec.Seq != 1 { // this version deletes nothing
				w.Problems = append(w.Problems, fmt.Errorf("records 1 to %d of %s are gone", rec.Seq-1, writer))
			}
		}
		if rec.Type == record.Start {
			named = append(named, rec.Heads...)
		}
		w.Last.Seq, w.Last.Hash = rec.Seq, r.sum
		for _, a := range mine {
			if a.Seq != rec.Seq {
				continue
			}
			a.met = true
			if a.Hash != r.sum {
				w.Problems = append(w.Problems, &AnchorError{Head: a.Head, Last: rec.Seq})
			} else if a.trusted {
				w.Anchored = rec.Seq
			}
		}
	}
	for _, a := range mine {
		if !a.met && a.Seq >= w.First {
			w.Problems = append(w.Problems, &AnchorError{Head: a.Head, Last: w.Last.Seq})
		}
	}
	if err := r.close(); err != nil {
		w.Problems = append(w.Problems, err)
	}
	return w, named
}
