package journal

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"

	"airgate/accounting/record"
)

// Book is what a sink holds of the journal. Implemented by sqlite.Reader.
type Book interface {
	// Heads are the last records of all writers.
	Heads(ctx context.Context) ([]record.Head, error)
	// Starts are the start records of all writers, in any order.
	Starts(ctx context.Context) ([]record.Record, error)
	// Records yields a writer's records from that number on, in order. Encoded
	// again, each is the bytes that the journal chained.
	Records(ctx context.Context, writer string, from uint64) iter.Seq2[record.Record, error]
}

// BookError says that the book is not what the journal shipped.
type BookError struct {
	Writer string
	Err    error
}

func (e *BookError) Error() string { return fmt.Sprintf("the sink's book of %s: %v", e.Writer, e.Err) }

// Unwrap returns Err.
func (e *BookError) Unwrap() error { return e.Err }

// held yields what the book holds of a writer behind the record have, up to its
// head, and checks that it is one chain to that head. Where the book begins
// later, the chain does.
func held(ctx context.Context, book Book, have, head record.Head) iter.Seq2[record.Record, error] {
	return func(yield func(record.Record, error) bool) {
		if head.Seq <= have.Seq {
			return
		}
		c := chain{writer: head.Writer}
		for rec, err := range book.Records(ctx, head.Writer, have.Seq+1) {
			if !c.begun && rec.Seq == have.Seq+1 {
				c.sum, c.begun = have.Hash, true
			}
			if err == nil {
				err = c.follow(&rec, record.Sum(record.AppendJSON(nil, &rec)))
			}
			switch {
			case err != nil:
			case rec.Seq == head.Seq && c.sum != head.Hash:
				err = fmt.Errorf("record %d is not the one that its own head names", rec.Seq)
			}
			if !yield(rec, err) || err != nil || rec.Seq == head.Seq {
				return
			}
		}
		if c.next <= head.Seq {
			yield(record.Record{}, fmt.Errorf("%s are gone: its own head names the last of them", span(max(have.Seq+1, c.next), head.Seq)))
		}
	}
}

// second is the book that a start looks at beside the journal: what was spent by
// records that were shipped is not forgotten where the journal, or a part of it,
// is lost. Its heads are those at one moment.
type second struct {
	Book

	heads []record.Head
}

// openSecond opens cfg's Book. Without one there is nothing in it.
func openSecond(ctx context.Context, cfg *Config) (b second, err error) {
	if cfg.Book == nil || cfg.State == nil {
		return b, nil
	}
	if b.Book, err = cfg.Book(ctx); err != nil {
		return b, &elsewhereError{err}
	}
	if b.heads, err = b.Heads(ctx); err != nil {
		return b, &elsewhereError{fmt.Errorf("ask the sink what it has: %w", err)}
	}
	return b, nil
}

// elsewhereError is a fault of the sink's: it says itself where that is.
type elsewhereError struct{ error }

func (e *elsewhereError) Unwrap() error { return e.error }

// prefixed says in what err came up, if that points at the right files.
func prefixed(in string, err error) error {
	if _, ok := errors.AsType[*elsewhereError](err); ok {
		return err
	}
	return fmt.Errorf("%s: %w", in, err)
}

// gap is records of a writer that the book has and the journal does not count.
type gap struct {
	have record.Head // the last that it counts; Seq 0 = none
	head record.Head // the last that the book has
}

// restore applies the records of all gaps to cfg's State, which counts what the
// journal does, and returns the gaps.
func (b *second) restore(ctx context.Context, cfg *Config, all []history) ([]gap, error) {
	gaps, err := b.gaps(ctx, cfg, all)
	if err != nil || len(gaps) == 0 {
		return nil, err
	}
	var records uint64
	for _, g := range gaps {
		records += g.head.Seq - g.have.Seq
	}
	cfg.Log.Warn("the journal lacks records that the sink has: what was spent by them is counted from there",
		slog.Int("writers", len(gaps)), slog.Uint64("records", records))
	for _, g := range gaps {
		for rec, err := range held(ctx, b, g.have, g.head) {
			if err != nil {
				return nil, fmt.Errorf("the journal lacks %s of %s, which the sink has, and what was spent by them cannot be counted: %w. "+
					"Restore one of the two from a backup; or, to go on as if that had not been spent, move the sink's book away",
					span(g.have.Seq+1, g.head.Seq), g.head.Writer, &BookError{Writer: g.head.Writer, Err: err})
			}
			cfg.State.Apply(&rec)
		}
	}
	return gaps, nil
}

// gaps finds what the book has of this journal's replica and the journal does
// not count, the oldest writer's first. The journal counts those writers whose
// directories are there, those that their checkpoints name, and those that the
// start records of all these do: each writer began with what it had found.
func (b *second) gaps(ctx context.Context, cfg *Config, all []history) ([]gap, error) {
	counted := map[string]record.Head{} // :: writer → the last of its records that is
	var next []string                   // of these, whose start is to be looked at
	count := func(h record.Head) {
		before := counted[h.Writer].Seq
		if h.Seq > before {
			counted[h.Writer] = h
			if before == 0 {
				next = append(next, h.Writer)
			}
		}
	}
	ours := map[string]bool{cfg.Replica: true} // :: names that this replica has had
	for i := range all {
		count(all[i].head)
		ours[replicaOf(all[i].head.Writer)] = true
		for _, c := range all[i].covers {
			count(c)
			ours[replicaOf(c.Writer)] = true
		}
	}
	lacks := func(h record.Head) bool {
		return writerName.MatchString(h.Writer) && ours[replicaOf(h.Writer)] && h.Seq > counted[h.Writer].Seq
	}
	if !slices.ContainsFunc(b.heads, lacks) {
		return nil, nil
	}
	starts, err := b.Starts(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the sink whom its writers have counted: %w", err)
	}
	named := make(map[string][]record.Head, len(starts)) // :: writer → those that it has counted as it began
	for i := range starts {
		named[starts[i].Writer] = starts[i].Heads
	}
	// The newest of those whose start is nowhere. It was with a sink that knew all
	// that were before it.
	horizon := ""
	for len(next) > 0 {
		writer := next[len(next)-1]
		next = next[:len(next)-1]
		heads, ok := named[writer]
		if !ok {
			heads, ok = begunWith(cfg, all, writer)
		}
		if !ok && (horizon == "" || byAge(writer, horizon) > 0) {
			horizon = writer
		}
		for _, h := range heads {
			count(h)
		}
	}
	var gaps []gap
	for _, h := range b.heads {
		if lacks(h) && (horizon == "" || byAge(h.Writer, horizon) >= 0) {
			gaps = append(gaps, gap{have: counted[h.Writer], head: h})
		}
	}
	slices.SortFunc(gaps, func(a, b gap) int { return byAge(a.head.Writer, b.head.Writer) })
	return gaps, nil
}

// begunWith are those that a writer of all has counted as it began; ok is false
// if its start is no longer there.
func begunWith(cfg *Config, all []history, writer string) (heads []record.Head, ok bool) {
	i := slices.IndexFunc(all, func(h history) bool { return h.head.Writer == writer })
	if i < 0 {
		return nil, false
	}
	if h := &all[i]; !h.counted {
		return h.covers, true
	}
	r := newReader(cfg.Disk, all[i].dir, writer, 1)
	start, err := r.record()
	_ = r.close() // it was only read
	return start.Heads, err == nil && start.Type == record.Start
}

// replicaOf is the replica in a writer's name.
func replicaOf(writer string) string { return writer[:max(0, len(writer)-incarnationDigits-1)] }
