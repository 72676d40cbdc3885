package processor_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"airgate/accounting/record"
	"airgate/accounting/sink"
)

// simSink is a sink on another machine. One that fails is down now and then,
// also as it replies to what it has committed.
type simSink struct {
	name       string
	rng        *rand.Rand
	sound      bool // never fails
	lost       func(format string, args ...any)
	down, back time.Time // it is down until the one, and answers at the other

	mu    sync.Mutex
	order []string
	books map[string][]summed // :: writer → records
}

type summed struct {
	record.Record

	sum record.Hash
}

func newSink(name string, rng *rand.Rand, sound bool) *simSink {
	return &simSink{name: name, rng: rng, sound: sound, books: map[string][]summed{}}
}

var errSink = errors.New("the sink is down")

// outage lets the sink be down. Whoever asks again after it, at a moment that
// nobody can repeat, is answered at one that the world's seed decides.
func (s *simSink) outage(from time.Time, length time.Duration) {
	s.down = from.Add(length)
	s.back = s.down.Add(31 * time.Second) // nobody waits for longer until he asks again
}

// fails decides once before and once after what a call does.
func (s *simSink) fails(ctx context.Context) error {
	if time.Now().Before(s.down) {
		return errSink
	}
	// It is never at the instant at which the journal trims.
	answer := time.NewTimer(max(0, time.Until(s.back)) + 1 + upTo(s.rng, time.Millisecond))
	defer answer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-answer.C:
	}
	if s.sound || s.rng.IntN(20) > 0 {
		return nil
	}
	s.outage(time.Now(), pick(s.rng, time.Second, time.Second, time.Minute, 3*time.Hour))
	return errSink
}

// Write implements sink.Sink. What it is sent must follow from what it has, or
// be the same again.
func (s *simSink) Write(ctx context.Context, batch []record.Record) error {
	if err := s.fails(ctx); err != nil {
		return err
	}
	if err := s.store(batch); err != nil {
		return err
	}
	return s.fails(ctx)
}

func (s *simSink) store(batch []record.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range batch {
		book := s.books[r.Writer]
		sum := record.Sum(record.AppendJSON(nil, &r))
		switch n := uint64(len(book)); {
		case r.Seq <= n:
			if book[r.Seq-1].sum != sum {
				return fmt.Errorf("record %d of %s was another when it was sent before", r.Seq, r.Writer)
			}
			continue
		case r.Seq != n+1 || n > 0 && r.Prev != book[n-1].sum:
			return fmt.Errorf("record %d of %s: %w", r.Seq, r.Writer, sink.ErrGap)
		case n == 0:
			s.order = append(s.order, r.Writer)
		}
		s.books[r.Writer] = append(book, summed{r, sum})
	}
	return nil
}

// Head implements sink.Sink.
func (s *simSink) Head(ctx context.Context, writer string) (record.Head, error) {
	return s.head(writer), s.fails(ctx)
}

func (s *simSink) head(writer string) record.Head {
	book := s.records(writer)
	if len(book) == 0 {
		return record.Head{}
	}
	return record.Head{Writer: writer, Seq: uint64(len(book)), Hash: book[len(book)-1].sum}
}

// Parked implements sink.Sink.
func (s *simSink) Parked() int64 { return 0 }

// Gaps implements sink.Sink. It has never lost anything: what the journal has
// deleted is here.
func (s *simSink) Gaps(_ context.Context, heads []record.Head) ([]sink.Gap, error) {
	for _, h := range heads {
		if n := uint64(len(s.records(h.Writer))); h.Seq > n {
			s.lost("the journal has deleted record %d of %s, and %s ends at %d", h.Seq, h.Writer, s.name, n)
		}
	}
	return nil, nil
}

// Known implements sink.Sink.
func (s *simSink) Known(context.Context) (map[string]uint64, error) {
	known := map[string]uint64{}
	for _, writer := range s.writers() {
		known[writer] = uint64(len(s.records(writer)))
	}
	return known, nil
}

// Close implements sink.Sink.
func (s *simSink) Close() error { return nil }

// Heads implements journal.Book.
func (s *simSink) Heads(context.Context) ([]record.Head, error) {
	var heads []record.Head
	for _, writer := range s.writers() {
		heads = append(heads, s.head(writer))
	}
	return heads, nil
}

// Starts implements journal.Book.
func (s *simSink) Starts(context.Context) ([]record.Record, error) {
	var starts []record.Record
	for _, writer := range s.writers() {
		starts = append(starts, s.records(writer)[0].Record)
	}
	return starts, nil
}

// Records implements journal.Book.
func (s *simSink) Records(_ context.Context, writer string, from uint64) iter.Seq2[record.Record, error] {
	return func(yield func(record.Record, error) bool) {
		for _, r := range s.records(writer) {
			if r.Seq >= from && !yield(r.Record, nil) {
				return
			}
		}
	}
}

func (s *simSink) writers() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.order)
}

func (s *simSink) records(writer string) []summed {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.books[writer]
}

func (s *simSink) count(writer string) int { return len(s.records(writer)) }

// await waits for the writer's first record.
func (s *simSink) await(writer string) {
	for s.count(writer) == 0 {
		time.Sleep(time.Millisecond + 1) // never at the instant at which the shipper goes on
	}
}
