package processor_test

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"airgate/accounting"
	"airgate/accounting/journal"
	"airgate/accounting/record"
	"airgate/accounting/usage"
)

// simBook is the journal as the processor has it. It writes down what it promises.
type simBook life

// Append implements journal.Writer.
func (b *simBook) Append(r *record.Record) (journal.Position, error) {
	l := (*life)(b)
	l.figures(r)
	l.model.begin(r)
	before, after := l.turn(), l.turn()
	before()
	p, err := l.journal.Append(r)
	after()
	l.model.end(r, err)
	if err != nil && r.Type == record.Settle && !l.dead.Load() && l.goesOn() {
		l.w.problem(2, "the settlement of %s was refused: %v", r.RequestID, err)
	}
	if err == nil {
		l.w.mu.Lock()
		defer l.w.mu.Unlock()
		l.w.counts["records"]++
		if r.Type == record.Extend {
			l.w.counts["extended"]++
		}
		l.w.promises[r.Writer].append(r)
		for _, x := range r.Limits {
			if until := l.trueTime().Add(x.Reset.Sub(r.Time) + remembered); until.After(l.w.until[x.Account]) {
				l.w.until[x.Account] = until
			}
		}
	}
	return p, err
}

// goesOn reports whether the journal has not failed for good.
func (l *life) goesOn() bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Nanosecond)
	defer cancel()
	return l.journal.Watch(ctx) == nil
}

// Wait implements journal.Writer.
func (b *simBook) Wait(ctx context.Context, p journal.Position) error {
	l := (*life)(b)
	after := l.turn()
	err := l.journal.Wait(ctx, p)
	after()
	if err == nil && l.w.durability == journal.Disk {
		l.w.mu.Lock()
		defer l.w.mu.Unlock()
		safe := &l.w.promises[l.journal.Writer()].safe
		*safe = max(*safe, uint64(p))
	}
	return err
}

// wait waits for p as the ext_proc server does; 0 = not at all.
func (l *life) wait(p journal.Position, atMost time.Duration) error {
	if p == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), atMost)
	defer cancel()
	return (*simBook)(l).Wait(ctx, p)
}

// promise is what a writer has promised: its records, and up to which one they
// are safe from a power loss. closed: what there is of them is known.
type promise struct {
	sums   map[uint64]record.Hash // :: seq → sum of the record
	last   uint64
	safe   uint64
	closed bool
}

func newPromise() *promise { return &promise{sums: map[uint64]record.Hash{}} }

func (p *promise) append(r *record.Record) {
	p.sums[r.Seq] = record.Sum(record.AppendJSON(nil, r))
	p.last = max(p.last, r.Seq)
}

// must is how many records there must be.
func (p *promise) must(powerCut bool) uint64 {
	if powerCut {
		return p.safe
	}
	return p.last
}

// remembered is for how long a window is, after its end; a clock that is set
// makes that no shorter.
const remembered = 7*24*time.Hour - time.Hour

// examine compares what the book has of earlier lives with what was promised,
// and makes the model what it says: invariant 2.
func (l *life) examine() {
	w := l.w
	for _, writer := range w.mirror.writers() {
		if writer != l.journal.Writer() {
			w.close(writer)
		}
	}
	for writer, p := range w.promises {
		if !p.closed && p.must(w.powerCut) > 0 {
			w.problem(2, "nothing is left of %s", writer)
		}
	}
	w.powerCut = false
	t := w.read()
	for _, id := range slices.Sorted(maps.Keys(t.intents)) {
		l.model.begin(t.intents[id])
		if settle := t.settles[id]; settle != nil {
			l.model.end(settle, nil)
		}
	}
	for _, b := range l.model.accounts {
		b.called = false
	}
	w.reconcile(t)
}

// close compares what there is of a writer that is gone with its promises.
func (w *world) close(writer string) {
	p := w.promises[writer]
	if p == nil {
		p = newPromise() // it did not come far enough to promise anything
		w.promises[writer] = p
	}
	if p.closed {
		return
	}
	p.closed = true
	records := w.mirror.records(writer)
	if n, must := uint64(len(records)), p.must(w.powerCut); n < must {
		w.problem(2, "%s has %d records, %d were promised", writer, n, must)
	}
	for i := range records {
		r := &records[i]
		if sum, ok := p.sums[r.Seq]; r.Type != record.Start && (!ok || sum != r.sum) {
			w.problem(2, "record %d of %s is not what was appended: %+v", r.Seq, writer, r)
		}
	}
}

// callBook is what the book says of calls.
type callBook struct {
	intents, settles map[string]*record.Record // :: request id → its record; an intent holds what its extensions say
}

// read reads the book: invariant 3.
func (w *world) read() callBook {
	t := callBook{map[string]*record.Record{}, map[string]*record.Record{}}
	for _, writer := range w.mirror.writers() {
		records := w.mirror.records(writer)
		for i := range records {
			r := &records[i].Record
			of := t.intents
			switch {
			case r.Type == record.Extend:
				intent := t.intents[r.RequestID]
				if intent == nil || t.settles[r.RequestID] != nil || r.Reserved <= intent.Reserved {
					w.problem(3, "an extension of no open call, or by nothing: %+v", r)
					continue
				}
				extended := *intent
				extended.Reserved = r.Reserved
				t.intents[r.RequestID] = &extended
				continue
			case r.Type == record.Settle && r.Decision == "allow":
				of = t.settles
			case r.Type != record.Intent:
				continue
			}
			if of[r.RequestID] != nil {
				w.problem(3, "a second %v: %+v", r.Type, r)
			}
			of[r.RequestID] = r
		}
	}
	for id, r := range t.settles {
		if t.intents[id] == nil {
			w.problem(3, "a settlement without an intent: %+v", r)
		}
	}
	return t
}

// restarted is the cause of a settlement by the next process.
const restarted = "airgate_restarted"

// reconcile compares the book with what the world knows of the calls that
// earlier lives let go: invariants 1, 2 and 4.
func (w *world) reconcile(t callBook) {
	for id, c := range w.calls {
		intent, settle := t.intents[id], t.settles[id]
		switch {
		case intent == nil && c.heard:
			w.problem(2, "request %s was answered and is not in the book", id)
		case intent == nil:
			w.count("lost in a power loss, unanswered")
			w.bill(c, 0)
		case settle == nil:
			continue // it is about to be settled
		case settle.Cost < c.cost || settle.Cost > intent.Reserved:
			w.problem(1, "request %s is settled at %s, its true cost is %s, its hold was %s", id, settle.Cost, c.cost, intent.Reserved)
		case c.known && settle.Cost != c.cost && settle.Cause != restarted:
			w.problem(4, "request %s is settled at %s, and cost %s as airgate was told", id, settle.Cost, c.cost)
		}
		delete(w.calls, id)
	}
	for id, settle := range t.settles {
		atBound := settle.Cost == t.intents[id].Reserved && settle.UsageSource == usage.None
		if settle.Cause == restarted && !atBound {
			w.problem(4, "request %s was left open and is settled otherwise than at its bound: %+v", id, settle)
		}
	}
}

// audit reads the journal as an auditor does, and compares it with the sinks:
// invariants 2 and 3.
func (w *world) audit() {
	root, err := os.MkdirTemp("", "airgate-sim")
	if err != nil {
		w.t.Fatal(err)
	}
	defer os.RemoveAll(root)
	for path, data := range w.disk.Files() {
		to := filepath.Join(root, path)
		err := os.MkdirAll(filepath.Dir(to), 0o700)
		if err == nil {
			err = os.WriteFile(to, data, 0o600)
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
	for _, writer := range w.mirror.writers() {
		w.close(writer)
		if n, want := w.sink.count(writer), w.mirror.count(writer); n != want {
			w.problem(3, "the sink has %d records of %s, want %d", n, writer, want)
		}
	}
	report, err := journal.Verify(w.t.Context(), filepath.Join(root, simDir), w.sink, func() journal.State { return accounting.NewBalances() })
	if err != nil {
		w.problem(3, "audit: %v", err)
	}
	for _, r := range report.Writers {
		if len(r.Problems) > 0 || r.NotAnchored() != (journal.Span{}) {
			w.problem(3, "audit: %+v", r)
		}
	}
	t := w.read()
	w.reconcile(t)
	for id := range t.intents {
		if t.settles[id] == nil {
			w.problem(3, "request %s is not settled", id)
		}
	}
}
