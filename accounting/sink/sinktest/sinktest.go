// Package sinktest is the contract of a sink as a test.
package sinktest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"airgate/accounting/record"
	"airgate/accounting/record/recordtest"
	"airgate/accounting/sink"
)

// Sink is a sink that can be read back.
type Sink interface {
	sink.Sink
	// Records yields the writer's records behind the one with number after.
	Records(ctx context.Context, writer string, after uint64) iter.Seq2[record.Record, error]
}

// Run runs the contract against sinks that open makes. Opening the same place
// again, after Close, must find what was stored there.
func Run(t *testing.T, open func(t *testing.T, place string) Sink) {
	t.Helper()
	fresh := func(t *testing.T) (Sink, string) {
		t.Helper()
		place := t.TempDir()
		s := open(t, place)
		t.Cleanup(func() { _ = s.Close() })
		return s, place
	}

	t.Run("an empty sink has no head", func(t *testing.T) {
		s, _ := fresh(t)
		checkHead(t, s, "a.1", nil)
	})

	t.Run("what is written is read back, and resumed behind it", func(t *testing.T) {
		s, place := fresh(t)
		book := Book("a.1", 5)
		write(t, s, book)
		check(t, s, "a.1", book)
		if err := s.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
		again := open(t, place)
		defer again.Close()
		check(t, again, "a.1", book)
	})

	t.Run("writers are apart", func(t *testing.T) {
		s, _ := fresh(t)
		a, b := Book("a.1", 3), Book("b.1", 4)
		write(t, s, a[:2])
		write(t, s, b)
		write(t, s, a[2:])
		check(t, s, "a.1", a)
		check(t, s, "b.1", b)
	})

	t.Run("redelivery changes nothing", func(t *testing.T) {
		s, _ := fresh(t)
		book := Book("a.1", 8)
		for _, batch := range [][]record.Record{book[:4], book[:4], book[1:3], book[2:6], book, book[7:], {}} {
			write(t, s, batch)
		}
		check(t, s, "a.1", book)
	})

	t.Run("a batch that does not follow is refused whole", func(t *testing.T) {
		s, _ := fresh(t)
		book := Book("a.1", 6)
		write(t, s, book[:3])
		forged := append([]record.Record(nil), book[2:5]...)
		forged[2].Prev = record.Sum([]byte("another"))
		swapped := []record.Record{book[4], book[3]}
		for name, batch := range map[string][]record.Record{"a gap": book[4:], "a broken chain": forged, "swapped": swapped} {
			if err := s.Write(t.Context(), batch); !errors.Is(err, sink.ErrGap) {
				t.Errorf("Write(%s) = %v, want %v", name, err, sink.ErrGap)
			}
		}
		check(t, s, "a.1", book[:3])
		write(t, s, book[3:])
		check(t, s, "a.1", book)
	})

	t.Run("a first batch may begin anywhere", func(t *testing.T) {
		s, _ := fresh(t)
		book := Book("a.1", 6)
		write(t, s, book[4:])
		check(t, s, "a.1", book[4:])
	})

	t.Run("a batch of two writers is refused", func(t *testing.T) {
		s, _ := fresh(t)
		if err := s.Write(t.Context(), append(Book("a.1", 1), Book("b.1", 1)...)); err == nil {
			t.Error("Write = nil, want an error")
		}
		checkHead(t, s, "a.1", nil)
	})

	t.Run("a write that is given up stores nothing or all", func(t *testing.T) {
		s, _ := fresh(t)
		book := Book("a.1", 400)
		for after := time.Microsecond; after < 100*time.Millisecond; after *= 4 {
			ctx, cancel := context.WithTimeout(t.Context(), after)
			_ = s.Write(ctx, book)
			cancel()
			if head := headOf(t, s, "a.1"); head.Seq != 0 && head.Seq != 400 {
				t.Fatalf("after a write of 400 records the head is %d", head.Seq)
			}
		}
		write(t, s, book)
		check(t, s, "a.1", book)
	})

	t.Run("any record comes back as the same bytes", func(t *testing.T) {
		s, _ := fresh(t)
		n := 0
		rapid.Check(t, func(rt *rapid.T) {
			n++
			writer := fmt.Sprintf("w.%d", n)
			book := recordtest.Chain(writer, rapid.SliceOfN(recordtest.Any(), 1, 4).Draw(rt, "records")...)
			if err := s.Write(t.Context(), book); err != nil {
				rt.Fatalf("Write: %v", err)
			}
			check(rt, s, writer, book)
		})
	})
}

// Book is the first n records of a writer, of all types.
func Book(writer string, n int) []record.Record {
	examples := recordtest.Examples()
	names := []string{"start", "intent", "settle", "deny", "strangers", "adjust", "admin"}
	var all []record.Record
	for i := range n {
		all = append(all, examples[names[i%len(names)]])
	}
	return recordtest.Chain(writer, all...)
}

// T is what check needs of a test.
type T interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Context() context.Context
}

func write(t T, s Sink, batch []record.Record) {
	t.Helper()
	if err := s.Write(t.Context(), batch); err != nil {
		t.Fatalf("Write: %v", err)
	}
}

func headOf(t T, s Sink, writer string) record.Head {
	t.Helper()
	h, err := s.Head(t.Context(), writer)
	if err != nil {
		t.Fatalf("Head: %v", err)
	}
	return h
}

func checkHead(t T, s Sink, writer string, want []record.Record) {
	t.Helper()
	var head record.Head
	if len(want) > 0 {
		last := want[len(want)-1]
		head = record.Head{Writer: writer, Seq: last.Seq, Hash: record.Sum(record.AppendJSON(nil, &last))}
	}
	if got := headOf(t, s, writer); got != head {
		t.Errorf("Head(%s) = %v, want %v", writer, got, head)
	}
}

// check compares bytes: they are what is chained.
func check(t T, s Sink, writer string, want []record.Record) {
	t.Helper()
	checkHead(t, s, writer, want)
	after := uint64(0)
	for r, err := range s.Records(t.Context(), writer, 0) {
		if err != nil {
			t.Fatalf("Records: %v", err)
		}
		if len(want) == 0 {
			t.Fatalf("Records yields %d more records", r.Seq)
		}
		if diff := cmp.Diff(string(record.AppendJSON(nil, &want[0])), string(record.AppendJSON(nil, &r))); diff != "" {
			t.Fatalf("record %d behind %d differs (-want +got):\n%s", r.Seq, after, diff)
		}
		after, want = r.Seq, want[1:]
	}
	if len(want) > 0 {
		t.Errorf("Records ends at %d, want %d more", after, len(want))
	}
}
