package journal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"airgate/accounting/record"
	"airgate/accounting/sink"
)

const (
	shipBatch  = 1024
	shipPause  = 50 * time.Millisecond // between batches that were not full: a sink's commit costs it a sync
	firstRetry = 100 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// DivergedError says that a sink holds another book than the journal for a
// writer: another record, or more of them than are here. Nothing more of that
// writer is shipped to it.
type DivergedError struct {
	Sink   string
	Head   record.Head // in the sink
	Oldest uint64      // the oldest record here; 0 = it reaches back far enough
	Last   uint64      // the newest
}

func (e *DivergedError) Error() string {
	if e.Oldest > e.Head.Seq {
		return fmt.Sprintf("sink %s ends at record %d of %s, and what follows up to %d is no longer in the journal: the sink has lost what it had acknowledged; restore it from a backup",
			e.Sink, e.Head.Seq, e.Head.Writer, e.Oldest-1)
	}
	if e.Last < e.Head.Seq {
		return fmt.Sprintf("sink %s has record %d of %s, the journal ends at %d: records were lost here and are kept there", e.Sink, e.Head.Seq, e.Head.Writer, e.Last)
	}
	return fmt.Sprintf("sink %s has another record %d of %s than the journal: one of them was changed; airgate audit verify says more", e.Sink, e.Head.Seq, e.Head.Writer)
}

// Ship sends every durable record, of the adopted writers first, then its own,
// to the sink s, named name in metrics and logs, beginning behind what the sink
// has. It tries again, ever more slowly, while the sink fails. It returns nil
// once the journal is closed and all is shipped, ctx's error, or
// *DivergedError or *CorruptError where its own records cannot be shipped; an
// adopted writer that cannot is logged and passed over. Run it in a goroutine
// of its own, one for each sink.
func (j *Journal) Ship(ctx context.Context, name string, s sink.Sink) error {
	sh := &shipper{j: j, sink: s, name: name, progress: j.metrics.sink(name, s), log: j.log.With(slog.String("sink", name))}
	sh.progress.behind(j.opened)
	if err := sh.tellGaps(ctx); err != nil {
		return fmt.Errorf("ship: %w", err)
	}
	for i := range j.adopted {
		h := &j.adopted[i]
		err := sh.writer(ctx, h.dir, h.head.Writer, h.oldest, func(_ context.Context, next uint64) (record.Head, error) {
			if next > h.head.Seq {
				return h.head, io.EOF
			}
			return h.head, nil
		})
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("ship: %w", ctx.Err())
		case err != nil:
			sh.log.Error("an earlier writer's records cannot be shipped", slog.String("writer", h.head.Writer), slog.Any("error", err))
		}
	}
	if len(j.adopted) > 0 { // their start records may name writers that nothing else did
		if err := sh.tellGaps(ctx); err != nil {
			return fmt.Errorf("ship: %w", err)
		}
	}
	if err := sh.writer(ctx, j.dir, j.writer, j.oldest(), j.shippable); err != nil {
		return fmt.Errorf("ship: %w", err)
	}
	return nil
}

// oldest is the first own record that was not deleted.
func (j *Journal) oldest() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.past) > 0 {
		return j.past[0].first
	}
	return j.file.first
}

// Shipped returns once every sink that Ship was called for has all records
// that are appended now, or with ctx's error.
func (j *Journal) Shipped(ctx context.Context) error {
	j.mu.Lock()
	all := record.Head{Writer: j.writer, Seq: j.written}
	j.mu.Unlock()
	for !j.metrics.shipped(all) {
		if err := pause(ctx, shipPause/10); err != nil {
			return fmt.Errorf("ship: %w", err)
		}
	}
	return nil
}

// shippable waits until the own record next is durable, and returns the last
// one that is; io.EOF means that there will be no more.
func (j *Journal) shippable(ctx context.Context, next uint64) (record.Head, error) {
	err := j.wait(ctx, next)
	j.mu.Lock()
	defer j.mu.Unlock()
	if errors.Is(err, ErrUnavailable) {
		err = io.EOF
	}
	return record.Head{Writer: j.writer, Seq: j.durable, Hash: j.safeSum}, err
}

// shipper is one call of Ship.
type shipper struct {
	j        *Journal
	sink     sink.Sink
	name     string
	progress *progress
	log      *slog.Logger
}

// tellGaps says which records the sink lacks that are not here either: it has
// lost what it had acknowledged, or is another one than had. They stay in its
// metric, also after a restart, since the sink itself shows that it lacks them.
func (s *shipper) tellGaps(ctx context.Context) error {
	var gaps []sink.Gap
	var nameless uint64
	if err := s.try(ctx, func() (err error) {
		gaps, nameless, err = s.gaps(ctx)
		return err
	}); err != nil {
		return err
	}
	records := float64(nameless) // a damaged sink may name any number
	var words []string
	for _, g := range gaps {
		records += float64(g.Last-g.First) + 1
		words = append(words, fmt.Sprintf("%s of %s", span(g.First, g.Last), g.Writer))
	}
	if !s.progress.miss(records) || records == 0 {
		return nil
	}
	if more := len(words) - toldGaps; more > 0 {
		words = append(words[:toldGaps], fmt.Sprintf("those of %d more writers", more))
	}
	if nameless > 0 {
		words = append(words, fmt.Sprintf("and %d records of writers whose names are gone too", nameless))
	}
	s.log.Error("the sink lacks records that are no longer in the journal: its database was lost, or is another one. Reports and audits go without them. "+
		"Stop airgate soon and restore the database from its newest backup; airgate audit verify says what is missing then. Keep the one that is there, too: what was shipped to it, "+
		"and deleted here since, is in no other. Budgets are not touched: they come from the journal",
		slog.Float64("records", records), slog.String("missing", strings.Join(words, "; ")))
	return nil
}

// toldGaps is how many gaps one line tells.
const toldGaps = 8

// gaps are the records that neither the sink nor the journal has, the oldest
// writer first, and how many there are beside of writers that neither names.
func (s *shipper) gaps(ctx context.Context) (gaps []sink.Gap, nameless uint64, err error) {
	deleted, gone := s.j.deleted()
	if gaps, err = s.sink.Gaps(ctx, deleted); err != nil {
		return nil, 0, err
	}
	known, err := s.sink.Known(ctx)
	if err != nil {
		return nil, 0, err
	}
	nameless = gone.missing(known, func(writer string) bool {
		return slices.ContainsFunc(deleted, func(h record.Head) bool { return h.Writer == writer })
	})
	for i := range s.j.adopted { // what is here will be there
		h := &s.j.adopted[i]
		for n := range gaps {
			if gaps[n].Writer == h.head.Writer {
				gaps[n].Last = min(gaps[n].Last, h.oldest-1)
			}
		}
	}
	gaps = slices.DeleteFunc(gaps, func(g sink.Gap) bool { return g.First > g.Last })
	slices.SortFunc(gaps, func(a, b sink.Gap) int { return cmp.Or(byAge(a.Writer, b.Writer), cmp.Compare(a.First, b.First)) })
	return gaps, nameless, nil
}

// deleted are the last records of earlier writers that are no longer here, as far
// as what is here names them, and how many the others had.
func (j *Journal) deleted() (all []record.Head, others forgotten) {
	for i := range j.adopted {
		h := &j.adopted[i]
		others.join(&h.forgotten)
		all = append(all, record.Head{Writer: h.head.Writer, Seq: h.oldest - 1})
		for _, c := range h.covers {
			if !among(j.adopted, c.Writer) {
				all = append(all, c)
			}
		}
	}
	return all, others
}

// writer ships one writer's records, of which the oldest that is there is
// given. until tells how far it may go.
func (s *shipper) writer(ctx context.Context, dir, writer string, oldest uint64, until func(context.Context, uint64) (record.Head, error)) (err error) {
	var head record.Head
	if err := s.try(ctx, func() (err error) {
		head, err = s.sink.Head(ctx, writer)
		return err
	}); err != nil {
		return err
	}
	if head.Seq > 0 && head.Seq+1 < oldest {
		return &DivergedError{Sink: s.name, Head: head, Oldest: oldest}
	}
	// Reading begins at the sink's last record, to see that it is the same.
	r := newReader(s.j.disk, dir, writer, max(head.Seq, oldest))
	defer func() { err = errors.Join(err, r.close()) }()
	batch := make([]record.Record, 0, shipBatch)
	var last record.Head
	rested := uint64(0) // records that it lacked as it last rested, or began to catch up
	for {
		if r.next > last.Seq {
			s.progress.none()
		}
		last, err = until(ctx, max(r.next, head.Seq+1))
		switch {
		case last.Seq < head.Seq:
			return &DivergedError{Sink: s.name, Head: head, Last: last.Seq}
		case last == head:
			s.progress.acknowledge(writer, head.Seq) // it was not read: it may be deleted
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := r.look(); err != nil {
			return err
		}
		for batch = batch[:0]; len(batch) < shipBatch && r.next <= last.Seq; {
			rec, err := r.record()
			if err != nil {
				return unexpected(err)
			}
			follows := rec.Seq > head.Seq+1 || head.Seq == 0 || rec.Prev == head.Hash
			if rec.Seq == head.Seq {
				follows = r.sum == head.Hash
			}
			if !follows {
				return &DivergedError{Sink: s.name, Head: head, Last: last.Seq}
			}
			if rec.Seq > head.Seq {
				batch = append(batch, rec)
			}
		}
		if len(batch) == 0 {
			continue
		}
		s.progress.behind(batch[0].Time)
		if err := s.j.roomy(ctx); err != nil {
			return err
		}
		parked, began := s.sink.Parked(), time.Now()
		if err := s.try(ctx, func() error { return s.sink.Write(ctx, batch) }); err != nil {
			return err
		}
		s.progress.acknowledge(writer, batch[len(batch)-1].Seq)
		if n := s.sink.Parked() - parked; n > 0 {
			s.log.Error("the sink refuses records for good: it keeps them aside, with the reason", slog.Int64("records", n),
				slog.String("writer", writer), slog.Uint64("from", batch[0].Seq), slog.Uint64("to", batch[len(batch)-1].Seq))
		}
		rest, left := shipPause, last.Seq+1-r.next
		switch {
		case len(batch) < shipBatch:
			s.progress.none()
			rested = 0
		case rested == 0:
			rest, rested = 0, left
		case left+shipBatch/2 > rested:
			rest = 0
		default:
			rest, rested = s.j.rest(time.Since(began)), left
		}
		if err := pause(ctx, rest); err != nil {
			return err
		}
	}
}

// rest is for how long a sink that catches up leaves the processor and the disk to
// calls after a batch that took it so long: half of the time. It rests once in each
// half batch by which its backlog has shrunk, so that it shrinks whatever comes; and
// not where the disk fills up, or where calls have ended.
func (j *Journal) rest(took time.Duration) time.Duration {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed || j.room.levelLocked() > 0 {
		return 0
	}
	return min(took, time.Second)
}

// try calls do until it succeeds or ctx ends.
func (s *shipper) try(ctx context.Context, do func() error) error {
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		err := do()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		wait := wait/2 + rand.N(wait/2) //nolint:gosec // not a secret
		s.log.Warn("the sink failed: the records stay in the journal and are sent again", slog.Any("error", err), slog.Duration("after", wait))
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}
