package journal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path/filepath"
	"slices"

	"airgate/accounting/journal/disk"
	"airgate/accounting/record"
)

// Report is what Verify found.
type Report struct {
	Writers []WriterReport // oldest first
	// Nameless is how many records are gone beside those that the Problems tell:
	// of earlier writers that the journal has counted and that nothing names any more.
	Nameless uint64
}

// Sound reports whether nothing is damaged or missing. A tail that is not
// anchored is sound: nothing says that it is not.
func (r Report) Sound() bool {
	return r.Nameless == 0 && !slices.ContainsFunc(r.Writers, func(w WriterReport) bool { return len(w.Problems) > 0 })
}

// Span is the records from First to Last. The zero Span has none.
type Span struct {
	First, Last uint64
}

// add lets the span reach to the record seq, which follows it.
func (s *Span) add(seq uint64) { *s = Span{First: cmp.Or(s.First, seq), Last: seq} }

// WriterReport is what Verify found of one writer.
type WriterReport struct {
	Writer  string
	Records Span        // that follow, without gap, from one another, wherever they are
	Journal Span        // of these, what the journal has
	Book    Span        // and the book
	Last    record.Head // the last of Records
	// Anchored is the newest record whose hash is held in another place than the
	// record: it and all before it are what was written. Whether the records
	// behind it, to Last, are all that there were, or the ones that there were,
	// nothing can prove.
	Anchored uint64
	Torn     int64   // bytes at the journal's end that are no whole record: torn by a crash, being written, or damaged
	Sums     int     // checkpoints that hold what the records before them add up to
	Problems []error // *CorruptError, *AnchorError, *BookError, *SumError, or what the disk says
}

// NotAnchored is the records that nothing outside of the journal vouches for.
func (w *WriterReport) NotAnchored() Span {
	if w.Anchored >= w.Records.Last {
		return Span{}
	}
	return Span{First: max(w.Records.First, w.Anchored+1), Last: w.Records.Last}
}

// AnchorError says that the records are not what a head held elsewhere says.
type AnchorError struct {
	Head record.Head
	Last uint64 // the newest record here
	Book bool   // what is gone from the journal is in the book
}

func (e *AnchorError) Error() string {
	switch {
	case e.Last < e.Head.Seq && e.Book:
		return fmt.Sprintf("%s of %s are gone from the journal: the sink has them", span(e.Last+1, e.Head.Seq), e.Head.Writer)
	case e.Last < e.Head.Seq:
		return fmt.Sprintf("%s of %s are gone: a head held elsewhere names the last of them", span(e.Last+1, e.Head.Seq), e.Head.Writer)
	}
	return fmt.Sprintf("record %d of %s is not the one that was written: a head held elsewhere has another hash", e.Head.Seq, e.Head.Writer)
}

// SumError says that a checkpoint does not hold what the records before it add
// up to.
type SumError struct {
	Writer string
	Seq    uint64 // of the last record that the checkpoint counts
}

func (e *SumError) Error() string {
	return fmt.Sprintf("the balances of %s at record %d are not what the records up to it add up to", e.Writer, e.Seq)
}

func gone(writer string, first, last uint64) error {
	return fmt.Errorf("%s of %s are gone", span(first, last), writer)
}

func span(first, last uint64) string { return fmt.Sprintf("records %d to %d", first, last) }

// anchor is a head that the records must contain.
type anchor struct {
	record.Head

	by   string // the writer whose start record, or checkpoint, names it; "" = the book's own head
	met  bool
	same bool
}

// Verify reads all records of the journal below dir and of the book, and
// checks their sums, their numbers, that they are one chain, that they contain
// the heads which the book and the start records of later writers name, that
// they are as many as the journal has counted, and that each checkpoint holds what the records before it add up to. Records that
// only the book has, since the journal may delete what it has shipped, are
// joined to the journal's by the hash that the first of those has of the last
// of them. Damage ends what can be said of a writer.
//
// book may be nil, and so may state, which makes an empty State: then sums are
// not checked. Verify takes no lock and changes nothing; of a running writer it
// sees what is written so far. Its error is the book's, or that of listing dir.
func Verify(ctx context.Context, dir string, book Book, state func() State) (Report, error) {
	report, err := verify(ctx, disk.OS{}, dir, book, state)
	if err != nil {
		return Report{}, fmt.Errorf("verify journal: %w", err)
	}
	return report, nil
}

func verify(ctx context.Context, d disk.Disk, dir string, book Book, state func() State) (Report, error) {
	v := verifier{disk: d, dir: dir, book: book, heads: map[string]record.Head{}, adoptions: map[string]adoption{}, sums: newSums(state)}
	if book != nil {
		// Before the journal is read: it may grow meanwhile, the heads must not.
		heads, err := book.Heads(ctx)
		if err != nil {
			return Report{}, err
		}
		for _, h := range heads {
			v.heads[h.Writer] = h
			v.anchors = append(v.anchors, &anchor{Head: h})
		}
	}
	names, err := writers(d, dir)
	if err != nil && (book == nil || !errors.Is(err, fs.ErrNotExist)) {
		return Report{}, err
	}
	for _, h := range v.heads {
		names = append(names, h.Writer)
	}
	slices.SortFunc(names, byAge)
	names = slices.Compact(names)
	for _, name := range names {
		if err := v.start(ctx, name); err != nil {
			return Report{}, err
		}
	}
	for _, a := range v.anchors {
		names = append(names, a.Writer)
	}
	slices.SortFunc(names, byAge)
	var report Report
	for _, name := range slices.Compact(names) {
		report.Writers = append(report.Writers, v.writer(ctx, name))
	}
	v.trust(report.Writers)
	report.Nameless = v.nameless()
	return report, nil
}

// verifier is one call of Verify.
type verifier struct {
	disk      disk.Disk
	dir       string
	book      Book
	heads     map[string]record.Head // :: writer → the book's
	adoptions map[string]adoption    // :: writer whose directory is there → what its checkpoints say of others
	anchors   []*anchor
	sums      *sums
}

// start takes the anchors from a writer's first record or, where that is gone,
// from its checkpoint. What is wrong with them is found as they are read again.
func (v *verifier) start(ctx context.Context, writer string) error {
	r := newReader(v.disk, filepath.Join(v.dir, writer), writer, 1)
	first, err := r.record()
	if err = errors.Join(err, r.close()); err != nil && v.heads[writer].Seq > 0 {
		for rec, err := range v.book.Records(ctx, writer, 0) {
			if err != nil {
				return err
			}
			first = rec
			break
		}
	}
	adopted, err := adoptionOf(v.disk, filepath.Join(v.dir, writer))
	if err == nil {
		v.adoptions[writer] = adopted
	}
	heads := adopted.covers
	if first.Type == record.Start {
		heads = first.Heads
	}
	for _, h := range heads {
		if h.Seq > 0 && h.Writer != writer && writerName.MatchString(h.Writer) {
			v.anchors = append(v.anchors, &anchor{Head: h, by: writer})
		}
	}
	return nil
}

// adoptionOf reads whom a writer has adopted; each of its checkpoints says it.
func adoptionOf(d disk.Disk, dir string) (a adoption, err error) {
	names, err := segments(d, dir)
	if err != nil {
		return a, err
	}
	if len(names) == 0 {
		return a, fs.ErrNotExist
	}
	s, err := openSegment(d, filepath.Join(dir, names[len(names)-1]))
	if err != nil {
		return a, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	scan, err := s.scan()
	if err != nil {
		return a, err
	}
	f, err := scan.next()
	if err != nil {
		return a, err
	}
	a, _, err = parseAdoption(f.payload)
	return a, err
}

// nameless counts what is gone of those writers that nothing names.
func (v *verifier) nameless() uint64 {
	adopted := map[string]bool{}
	for _, a := range v.adoptions {
		for _, h := range a.covers {
			adopted[h.Writer] = true
		}
	}
	var gone forgotten
	named := map[string]bool{} // :: writer that is not forgotten
	for writer, a := range v.adoptions {
		named[writer] = true
		if adopted[writer] {
			continue // who has adopted it has forgotten whom it has, and those that it names and that are gone
		}
		gone.join(&a.forgotten)
		for _, h := range a.covers {
			named[h.Writer] = true
		}
	}
	known := map[string]uint64{}
	for _, a := range v.anchors { // the book's heads are some
		known[a.Writer] = max(known[a.Writer], a.Seq)
	}
	return gone.missing(known, func(writer string) bool { return named[writer] })
}

// trust finds how far each writer is anchored, beside what the journal and the
// book have of each other's: to what the start record of a later writer names
// that is anchored itself.
func (v *verifier) trust(all []WriterReport) {
	anchored := map[string]bool{}
	for i := range slices.Backward(all) {
		w := &all[i]
		for _, a := range v.anchors {
			if a.Writer == w.Writer && a.same && anchored[a.by] {
				w.Anchored = max(w.Anchored, a.Seq)
			}
		}
		anchored[w.Writer] = w.Anchored > 0
	}
}

// writer verifies one writer. If segments come or go meanwhile, what looks like
// a fault may be none: then it reads again.
func (v *verifier) writer(ctx context.Context, name string) WriterReport {
	dir := filepath.Join(v.dir, name)
	for tries := 0; ; tries++ {
		before, _ := segments(v.disk, dir) // an error comes again
		w := v.attempt(ctx, name, dir)
		after, _ := segments(v.disk, dir)
		if len(w.Problems) == 0 || tries == 2 || slices.Equal(before, after) {
			return w
		}
		v.sums.lose()
	}
}

func (v *verifier) attempt(ctx context.Context, name, dir string) WriterReport {
	w := WriterReport{Writer: name, Last: record.Head{Writer: name}}
	v.sums.begin(name)
	journal := newReader(v.disk, dir, name, 0)
	journal.checkpoint = v.sums.checkpoint
	next, stop := iter.Pull2(held(ctx, v.book, record.Head{Writer: name}, v.heads[name]))
	defer stop()

	whole := &chain{writer: name}
	b, bad, more := next()
	j, missing := journal.record()
	for (more && bad == nil || missing == nil) && len(w.Problems) == 0 {
		inBook := more && bad == nil && (missing != nil || b.Seq <= j.Seq)
		inJournal := missing == nil && (!inBook || b.Seq == j.Seq)
		rec, sum := &j, journal.sum
		if inBook {
			if own := record.Sum(record.AppendJSON(nil, &b)); !inJournal {
				rec, sum = &b, own
			} else if own != sum {
				w.problem(&BookError{Writer: name, Err: fmt.Errorf("record %d is another than the journal's", b.Seq)})
				break
			}
		}
		if rec.Seq > whole.next && whole.next > 0 {
			w.problem(gone(name, whole.next, rec.Seq-1))
			break
		}
		if err := whole.follow(rec, sum); err != nil {
			w.problem(fmt.Errorf("where the sink's book and the journal meet: %w", err))
			break
		}
		if inJournal && w.Journal.Last == 0 {
			w.join()
		}
		v.sums.apply(&w, rec)
		w.Records.add(rec.Seq)
		w.Last.Seq, w.Last.Hash = rec.Seq, sum
		v.meet(&w)
		if inBook && inJournal {
			w.Anchored = rec.Seq
		}
		if inBook {
			w.Book.add(rec.Seq)
			b, bad, more = next()
		}
		if inJournal {
			w.Journal.add(rec.Seq)
			j, missing = journal.record()
		}
	}
	if len(w.Problems) == 0 {
		v.sums.end(&w)
	}
	if bad != nil {
		w.problem(&BookError{Writer: name, Err: bad})
	}
	if missing != nil && !errors.Is(missing, io.EOF) {
		w.problem(missing)
	}
	v.complete(&w, journal)
	if err := journal.close(); err != nil {
		w.problem(err)
	}
	if len(w.Problems) > 0 {
		v.sums.lose()
	}
	return w
}

func (w *WriterReport) problem(err error) { w.Problems = append(w.Problems, err) }

// meet compares the record that was just read with the heads that name it.
func (v *verifier) meet(w *WriterReport) {
	for _, a := range v.anchors {
		if a.Writer != w.Writer || a.Seq != w.Last.Seq {
			continue
		}
		a.met, a.same = true, a.Hash == w.Last.Hash
		if !a.same {
			w.problem(&AnchorError{Head: a.Head, Last: w.Last.Seq})
		}
	}
}

// join notes that the journal goes on behind the last record so far, which only
// the book has, and has its hash.
func (w *WriterReport) join() { w.Anchored = w.Last.Seq }

// complete finds what is missing at both ends.
func (v *verifier) complete(w *WriterReport, journal *reader) {
	sound := len(w.Problems) == 0
	if w.Records.First > 1 {
		w.problem(gone(w.Writer, 1, w.Records.First-1))
	}
	named := false // as ended, by a later start
	for _, a := range v.anchors {
		if a.Writer != w.Writer {
			continue
		}
		if !a.met && sound { // else damage hides it
			w.problem(&AnchorError{Head: a.Head, Last: w.Last.Seq})
		}
		named = named || a.by != ""
	}
	if sound && journal.walk != nil {
		w.Torn = journal.walk.limit - journal.walk.at
	}
	head := v.heads[w.Writer]
	switch {
	case !sound:
	case journal.begun && journal.next <= head.Seq: // it has a part, and not the last
		w.problem(&AnchorError{Head: head, Last: journal.next - 1, Book: true})
	case journal.begun && journal.next > w.Last.Seq+1: // it has none, and says what came before
		w.problem(gone(w.Writer, w.Last.Seq+1, journal.next-1))
	case journal.begun && journal.sum == w.Last.Hash && w.Journal.Last == 0:
		w.join()
	case journal.begun && journal.sum != w.Last.Hash:
		w.problem(fmt.Errorf("record %d is not the one that the journal goes on from", w.Last.Seq))
	case !journal.begun && w.Last.Seq > 0 && !named:
		w.problem(fmt.Errorf("the journal of %s is gone, and no later start says that record %d was its last", w.Writer, w.Last.Seq))
	case named && w.Torn > 0:
		w.problem(fmt.Errorf("%d bytes behind record %d of %s are no whole record, and came there after a later start had closed it", w.Torn, w.Last.Seq, w.Writer))
	}
}
