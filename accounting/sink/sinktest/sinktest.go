// Package sinktest is the contract of a sink as a test.
package sinktest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
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
	// Records yields the writer's records from number from on.
	Records(ctx context.Context, writer string, from uint64) iter.Seq2[record.Record, error]
}

// Kit is what the contract needs of an implementation.
type Kit struct {
	// Open opens the sink at a place, a folder of its own. Opening the same
	// place again, after Close or a kill, finds what was stored there.
	Open func(ctx context.Context, place string) (Sink, error)
	// Refuse makes an open sink refuse for good each record whose detail is
	// Poison.
	Refuse func(t *testing.T, s Sink)
	// Faults make an open sink fail for as long as they are not healed, in ways
	// that end. :: name → fault
	Faults map[string]func(t *testing.T, s Sink) (heal func())
}

// Poison is the detail of a record that Kit.Refuse refuses.
const Poison = "poison"

// placeOfChild says to a test process that it is a child, and where it writes.
const placeOfChild = "AIRGATE_TEST_SINK"

// Child is called first in TestMain. In a process that Run started, to kill it,
// it writes and does not return.
func Child(k Kit) {
	place := os.Getenv(placeOfChild)
	if place == "" {
		return
	}
	ctx := context.Background()
	s, err := k.Open(ctx, place)
	if err != nil {
		panic(err)
	}
	head, err := s.Head(ctx, "a.1")
	if err != nil {
		panic(err)
	}
	book := Book("a.1", int(head.Seq)+3000)
	for i := int(head.Seq); i+3 <= len(book); i += 3 {
		if err := s.Write(ctx, book[i:i+3]); err != nil {
			panic(err)
		}
		fmt.Println(i + 3) // to the parent
	}
	select {}
}

// Run runs the contract.
func Run(t *testing.T, k Kit) {
	t.Helper()
	open := func(t *testing.T, place string) Sink {
		t.Helper()
		s, err := k.Open(t.Context(), place)
		if err != nil {
			t.Fatalf("Open: %v", err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	fresh := func(t *testing.T) (Sink, string) {
		t.Helper()
		place := t.TempDir()
		return open(t, place), place
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
		check(t, open(t, place), "a.1", book)
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

	t.Run("what is missing is told", func(t *testing.T) {
		s, place := fresh(t)
		checkGaps(t, s, nil)
		checkKnown(t, s, map[string]uint64{})
		checkGaps(t, s, []record.Head{{Writer: "e.1", Seq: 3}, {Writer: "e.1", Seq: 2}, {Writer: "f.1"}}, sink.Gap{Writer: "e.1", First: 1, Last: 3})
		old, late := Book("b.1", 9), Book("c.1", 6)
		start := record.Record{Type: record.Start, Heads: []record.Head{headAt(old[8]), headAt(late[5]), {Writer: "d.1"}}}
		again := record.Record{Type: record.Start, Heads: []record.Head{headAt(old[2])}}
		book := recordtest.Chain("a.1", start, again, record.Record{Type: record.Admin})
		write(t, s, book)
		checkGaps(t, s, nil, sink.Gap{Writer: "b.1", First: 1, Last: 9}, sink.Gap{Writer: "c.1", First: 1, Last: 6})
		write(t, s, old[:4])
		write(t, s, late[2:])
		named := Book("x.1", 1)[0].Heads // by the start records of Book
		var more []sink.Gap
		for _, h := range named {
			if h.Seq > 0 {
				more = append(more, sink.Gap{Writer: h.Writer, First: 1, Last: h.Seq})
			}
		}
		checkGaps(t, s, nil, append(more, sink.Gap{Writer: "b.1", First: 5, Last: 9}, sink.Gap{Writer: "c.1", First: 1, Last: 2})...)
		write(t, s, old)
		known := map[string]uint64{"a.1": 3, "b.1": 9, "c.1": 6, "d.1": 0}
		for _, h := range named {
			known[h.Writer] = h.Seq
		}
		checkKnown(t, s, known)
		if err := s.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
		checkGaps(t, open(t, place), []record.Head{{Writer: "b.1", Seq: 12}}, append(more, sink.Gap{Writer: "b.1", First: 10, Last: 12}, sink.Gap{Writer: "c.1", First: 1, Last: 2})...)
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

	t.Run("records are as many as were sent, whatever is sent again", func(t *testing.T) {
		s, _ := fresh(t)
		n := 0
		rapid.Check(t, func(rt *rapid.T) {
			n++
			writer := fmt.Sprintf("w.%d", n)
			book := Book(writer, rapid.IntRange(1, 40).Draw(rt, "records"))
			share := rapid.SampledFrom([]int{10, 50, 100}).Draw(rt, "per cent sent again")
			var sent [][2]int
			for from := 0; from < len(book); {
				to := min(len(book), from+rapid.IntRange(1, 8).Draw(rt, "batch"))
				sent = append(sent, [2]int{from, to})
				write(rt, s, book[from:to])
				for _, late := range rapid.Permutation(sent).Draw(rt, "late") {
					if rapid.IntRange(1, 100).Draw(rt, "again") <= share {
						write(rt, s, book[late[0]:late[1]])
					}
				}
				from = to
			}
			check(rt, s, writer, book)
		})
	})

	t.Run("a record that is refused for good is parked, the others are stored", func(t *testing.T) {
		s, place := fresh(t)
		k.Refuse(t, s)
		book := Book("a.1", 60)
		for _, i := range []int{0, 7, 8, 30, 59} {
			book[i].Detail = Poison
		}
		book = recordtest.Chain("a.1", book...)
		write(t, s, book[:40])
		write(t, s, book[20:59]) // some again
		write(t, s, book[59:])   // nothing else in it
		write(t, s, book)
		check(t, s, "a.1", book)
		if got := s.Parked(); got != 5 {
			t.Errorf("Parked = %d, want 5", got)
		}
		if err := s.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
		again := open(t, place)
		check(t, again, "a.1", book)
		if got := again.Parked(); got != 5 {
			t.Errorf("Parked of the sink opened again = %d, want 5", got)
		}
	})

	for name, fault := range k.Faults {
		t.Run("a sink that is "+name+" refuses, and stores the same batch later", func(t *testing.T) {
			s, _ := fresh(t)
			k.Refuse(t, s)
			book := Book("a.1", 1000)
			book[500].Detail = Poison
			book = recordtest.Chain("a.1", book...)
			write(t, s, book[:10])
			heal := fault(t, s)
			for range 2 {
				if err := s.Write(t.Context(), book[10:]); err == nil || errors.Is(err, sink.ErrGap) {
					t.Errorf("Write = %v, want the fault", err)
				}
				check(t, s, "a.1", book[:10])
				if got := s.Parked(); got != 0 {
					t.Errorf("Parked = %d, want 0: nothing of a failed batch stays", got)
				}
			}
			heal()
			write(t, s, book[10:])
			check(t, s, "a.1", book)
			if got := s.Parked(); got != 1 {
				t.Errorf("Parked = %d, want 1", got)
			}
		})
	}

	t.Run("a killed writer leaves whole batches and all that it was told are stored", func(t *testing.T) {
		place := t.TempDir()
		for round := range 5 {
			acked := kill(t, place, 3+7*round)
			s := open(t, place)
			head := headOf(t, s, "a.1")
			if head.Seq < acked || head.Seq%3 != 0 {
				t.Fatalf("after kill -9 the head is %d; want at least %d and whole batches", head.Seq, acked)
			}
			check(t, s, "a.1", Book("a.1", int(head.Seq)))
			if err := s.Close(); err != nil {
				t.Fatalf("Close: %v", err)
			}
		}
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

// kill starts a child, kills it after some batches, and returns the number of
// the last record that it was told is stored.
func kill(t *testing.T, place string, batches int) (acked uint64) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), placeOfChild+"="+place)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for n := 0; lines.Scan(); n++ {
		if acked, err = strconv.ParseUint(lines.Text(), 10, 64); err != nil {
			t.Errorf("the child says %q", lines.Text())
		}
		if n == batches {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait() // killed
	if acked == 0 {
		t.Fatal("the child stored nothing")
	}
	return acked
}

// Book is the first n records of a writer, of all types.
func Book(writer string, n int) []record.Record {
	examples := recordtest.Examples()
	names := []string{"start", "intent", "settle", "deny", "strangers", "adjust", "admin", "extend"}
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

func headAt(r record.Record) record.Head {
	return record.Head{Writer: r.Writer, Seq: r.Seq, Hash: record.Sum(record.AppendJSON(nil, &r))}
}

// checkGaps compares what the sink misses, in any order.
func checkGaps(t T, s Sink, heads []record.Head, want ...sink.Gap) {
	t.Helper()
	got, err := s.Gaps(t.Context(), heads)
	if err != nil {
		t.Fatalf("Gaps: %v", err)
	}
	slices.SortFunc(want, func(a, b sink.Gap) int { return strings.Compare(a.Writer, b.Writer) })
	if !slices.Equal(got, want) {
		t.Errorf("Gaps = %v, want %v", got, want)
	}
}

// checkKnown compares which writers the sink knows.
func checkKnown(t T, s Sink, want map[string]uint64) {
	t.Helper()
	got, err := s.Known(t.Context())
	if err != nil {
		t.Fatalf("Known: %v", err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Known differs (-want +got):\n%s", diff)
	}
}

func checkHead(t T, s Sink, writer string, want []record.Record) {
	t.Helper()
	var head record.Head
	if len(want) > 0 {
		head = headAt(want[len(want)-1])
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
