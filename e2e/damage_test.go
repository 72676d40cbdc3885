package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"airgate/accounting"
	"airgate/accounting/journal"
	"airgate/accounting/journal/disk"
	"airgate/accounting/record"
	"airgate/accounting/sink/sqlite"
	"airgate/envoy/extproc/extproctest"
)

// wreck is what a killed airgate has left: a journal of one writer with one
// segment, and a records database that has all of it.
type wreck struct {
	*world

	writer  string
	segment string // its name
	bytes   []byte
	records []record.Record
	heads   []record.Head   // that the database holds
	shipped []record.Record // and what it has, read once
}

// Heads, Starts and Records make the wreck a journal.Book.
func (w *wreck) Heads(context.Context) ([]record.Head, error) { return w.heads, nil }

func (w *wreck) Starts(context.Context) ([]record.Record, error) { return w.shipped[:1], nil }

func (w *wreck) Records(_ context.Context, writer string, from uint64) iter.Seq2[record.Record, error] {
	return func(yield func(record.Record, error) bool) {
		for i := range w.shipped {
			if r := w.shipped[i]; r.Writer == writer && r.Seq >= from && !yield(r, nil) {
				return
			}
		}
	}
}

func newWreck(t *testing.T) *wreck {
	w := &wreck{world: newWorld(t, worldOptions{noEnvoy: true, policy: usualPolicy + playedPrices})}
	envoy, err := extproctest.Dial(w.socket())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = envoy.Close() }()
	for i, p := range []play{{stream: true}, {leave: 3}} { // the settlement of the second comes some time after
		p.model, p.status, p.tokens = "gpt-5.4-mini", http.StatusOK, 7
		if out, err := p.run(envoy, w.keys["search"]); err != nil || !out.forwarded {
			t.Fatalf("call %d: %+v, %v", i, out, err)
		}
	}
	db, err := sqlite.OpenReadOnly(t.Context(), filepath.Join(w.dir, "data", "usage.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	const want = 1 + 2*2 // the start, and each call's two
	w.waitFor("the records to be shipped", w.airgate, func() bool {
		w.records = nil
		for r, err := range journal.Read(w.journal()) {
			if err != nil {
				t.Fatal(err)
			}
			w.records = append(w.records, r)
		}
		if w.heads, err = db.Heads(t.Context()); err != nil {
			t.Fatal(err)
		}
		return len(w.records) == want && len(w.heads) == 1 && w.heads[0].Seq == want
	})
	w.airgate.kill()
	w.writer = w.records[0].Writer
	for r, err := range db.Records(t.Context(), w.writer, 0) {
		if err != nil {
			t.Fatal(err)
		}
		w.shipped = append(w.shipped, r)
	}
	names, err := filepath.Glob(filepath.Join(w.journal(), w.writer, "*.wal"))
	if err != nil || len(names) != 1 {
		t.Fatalf("segments %q, %v, want one", names, err)
	}
	w.segment = filepath.Base(names[0])
	if w.bytes, err = os.ReadFile(names[0]); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) journal() string { return filepath.Join(w.dir, "data", "journal") }

// frames are the parts of the segment: what is before the first record, and
// the records, each padded to a multiple of eight bytes.
func (w *wreck) frames() (head []byte, records [][]byte) {
	w.t.Helper()
	var begin, end []int // of each record's JSON, padded
	for i := range w.records {
		text := record.AppendJSON(nil, &w.records[i])
		at := bytes.Index(w.bytes, text)
		if at < 0 {
			w.t.Fatalf("record %d is not in the segment as it is", i+1)
		}
		begin, end = append(begin, at), append(end, (at+len(text)+7)&^7)
	}
	first := begin[0] - (begin[1] - end[0]) // each has a header as long as the second's
	for i, start := range append([]int{first}, end[:len(end)-1]...) {
		records = append(records, w.bytes[start:end[i]])
	}
	return w.bytes[:first], records
}

// hasty is the machine's disk in a hurry: no power will be lost.
type hasty struct{ disk.OS }

type hastyFile struct{ disk.File }

func (hastyFile) Sync() error { return nil }

func (h hasty) SyncDir(string) error { return nil }

func (h hasty) Open(name string) (disk.File, error) {
	f, err := h.OS.Open(name)
	return hastyFile{f}, err
}

func (h hasty) Create(name string) (disk.File, error) {
	f, err := h.OS.Create(name)
	return hastyFile{f}, err
}

// Every byte of a killed process's segment, the file cut there or one bit of it
// flipped: what is recovered is a beginning of what was written, with the
// balances of exactly that, and the database's heads tell what is missing; or
// recovery refuses, and leaves the file as it is.
func TestEveryByteOfARealSegment(t *testing.T) {
	t.Parallel()
	w := newWreck(t)
	var next, recovered, refused atomic.Int64
	var all sync.WaitGroup
	for range 4 { // the disk is slower than we are
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(w.bytes)) && !t.Failed(); i = next.Add(1) - 1 {
				flipped := bytes.Clone(w.bytes)
				flipped[i] ^= 1 << (i * 5 % 8)
				for what, damaged := range map[string][]byte{"cut": w.bytes[:i], "flipped": flipped} {
					switch ok, err := w.reopen(t.TempDir(), damaged); {
					case err != nil:
						t.Errorf("%s at byte %d of %d: %v", what, i, len(w.bytes), err)
					case ok:
						recovered.Add(1)
					default:
						refused.Add(1)
					}
				}
			}
		})
	}
	all.Wait()
	t.Logf("%d bytes: %d times recovered, %d times refused", len(w.bytes), recovered.Load(), refused.Load())
	if recovered.Load() == 0 || refused.Load() == 0 {
		t.Error("want some of both")
	}
}

func (w *wreck) verify(dir string) (journal.Report, error) {
	return journal.Verify(context.Background(), dir, w, func() journal.State { return accounting.NewBalances() })
}

// reopen puts the damaged segment below dir, opens the journal and says whether
// it could, and what is wrong with that.
func (w *wreck) reopen(dir string, damaged []byte) (ok bool, err error) {
	path := filepath.Join(dir, w.writer, w.segment)
	if err := errors.Join(os.Mkdir(filepath.Dir(path), 0o700), os.WriteFile(path, damaged, 0o600)); err != nil {
		return false, err
	}
	if report, err := w.verify(dir); err != nil || report.Sound() {
		return false, fmt.Errorf("before recovery verify says sound (%w)", err)
	}
	balances := accounting.NewBalances()
	j, err := journal.Open(context.Background(), journal.Config{Dir: dir, Replica: "next", State: balances, Disk: hasty{}})
	if corrupt, is := errors.AsType[*journal.CorruptError](err); is {
		now, err := os.ReadFile(path)
		kept, failed := os.ReadFile(corrupt.Copy)
		if err != nil || failed != nil || !bytes.Equal(now, damaged) || !bytes.Equal(kept, damaged) {
			return false, fmt.Errorf("refused: %w, but the file or its copy is not what was found", corrupt)
		}
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open: %w, want a *CorruptError", err)
	}
	if err := j.Close(); err != nil {
		return false, err
	}
	want := accounting.NewBalances()
	n := 0
	for r, err := range journal.Read(dir) {
		if err != nil {
			return false, err
		}
		if r.Writer != w.writer {
			break
		}
		if n == len(w.records) || !bytes.Equal(record.AppendJSON(nil, &r), record.AppendJSON(nil, &w.records[n])) {
			return false, fmt.Errorf("record %d is recovered and was not written", r.Seq)
		}
		want.Apply(&r)
		n++
	}
	if !slices.EqualFunc(balances.Open(), want.Open(), func(a, b accounting.OpenIntent) bool { return a.RequestID == b.RequestID && a.Reserved == b.Reserved }) {
		return false, fmt.Errorf("%d records are recovered, but not the calls they leave open", n)
	}
	for _, l := range w.records[1].Limits {
		cut := strings.LastIndexByte(l.Account, '|')
		if got, want := balances.Spent(l.Account[:cut], l.Account[cut+1:]), want.Spent(l.Account[:cut], l.Account[cut+1:]); got != want {
			return false, fmt.Errorf("%d records are recovered, and %s spent, want %s", n, got, want)
		}
	}
	report, err := w.verify(dir)
	if err != nil {
		return false, err
	}
	gone := fmt.Sprintf("records %d to %d of %s are gone", n+1, len(w.records), w.writer)
	if !strings.Contains(fmt.Sprint(report.Writers[0].Problems), gone) {
		return false, fmt.Errorf("%d records are recovered, verify says %v", n, report.Writers[0].Problems)
	}
	return true, nil
}

// What was done to a real journal, audit verify says.
func TestVerifyTellsWhatWasDone(t *testing.T) {
	w := newWreck(t)
	head, records := w.frames()
	path := filepath.Join(w.journal(), w.writer, w.segment)
	put := func(records ...[]byte) {
		t.Helper()
		if err := os.WriteFile(path, slices.Concat(append([][]byte{head}, records...)...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		do   func()
		want string
	}{
		{"nothing", func() { put(records...) }, ""},
		{"a bit flipped", func() {
			b := bytes.Clone(records[3])
			b[100] ^= 4
			put(slices.Concat(records[:3], [][]byte{b}, records[4:])...)
		}, fmt.Sprintf("is damaged at byte %d, behind record 3: ", len(head)+len(slices.Concat(records[:3]...)))},
		{"a record removed", func() { put(slices.Concat(records[:3], records[4:])...) }, "behind record 3: record 5 where 4 belongs"},
		{"two records swapped", func() {
			put(slices.Concat(records[:3], [][]byte{records[4], records[3]}, records[5:])...)
		}, "behind record 3: record 5 where 4 belongs"},
		{"the tail removed", func() { put(records[:3]...) }, fmt.Sprintf("records 4 to 5 of %s are gone", w.writer)},
	} {
		c.do()
		out, code, errs := w.try("audit", "verify")
		if wantCode := min(1, len(c.want)); code != wantCode || !strings.Contains(out, c.want) || (c.want != "") != strings.Contains(out, "fault: ") {
			t.Errorf("%s: audit verify: exit %d, %s%s, want exit %d and %q", c.name, code, out, errs, wantCode, c.want)
		}
	}
}
