package sqlite_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"airgate/accounting/money"
	"airgate/accounting/record"
	"airgate/accounting/record/recordtest"
	"airgate/accounting/report"
	"airgate/accounting/sink"
	"airgate/accounting/sink/sinktest"
	"airgate/accounting/sink/sqlite"
	"airgate/accounting/usage"
)

// kit is what the contract needs of this sink.
func kit() sinktest.Kit {
	exec := func(t *testing.T, s sinktest.Sink, query string) {
		t.Helper()
		if err := s.(*sqlite.Sink).Exec(t.Context(), query); err != nil {
			t.Fatal(err)
		}
	}
	return sinktest.Kit{
		Open: func(ctx context.Context, place string) (sinktest.Sink, error) {
			return sqlite.Open(ctx, filepath.Join(place, "us?age %41.db"))
		},
		Refuse: func(t *testing.T, s sinktest.Sink) {
			exec(t, s, "CREATE TRIGGER refuse BEFORE INSERT ON book WHEN NEW.record ->> '$.detail' = '"+sinktest.Poison+"' BEGIN SELECT RAISE(ABORT, 'poison'); END")
		},
		Faults: map[string]func(*testing.T, sinktest.Sink) func(){
			"full": func(t *testing.T, s sinktest.Sink) func() {
				exec(t, s, "PRAGMA max_page_count = 40")
				return func() { exec(t, s, "PRAGMA max_page_count = 4294967294") }
			},
			"busy": func(t *testing.T, s sinktest.Sink) func() {
				exec(t, s, "PRAGMA busy_timeout = 10")
				path, err := s.(*sqlite.Sink).Path(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				other, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = other.Close() })
				other.SetMaxOpenConns(1)
				if _, err := other.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
					t.Fatal(err)
				}
				return func() {
					if _, err := other.ExecContext(t.Context(), "ROLLBACK"); err != nil {
						t.Fatal(err)
					}
				}
			},
		},
	}
}

func TestMain(m *testing.M) {
	sinktest.Child(kit())
	goleak.VerifyTestMain(m)
}

func open(t testing.TB, path string) *sqlite.Sink {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func write(t testing.TB, s *sqlite.Sink, batch []record.Record) {
	t.Helper()
	if err := s.Write(t.Context(), batch); err != nil {
		t.Fatalf("Write: %v", err)
	}
}

func TestContract(t *testing.T) { sinktest.Run(t, kit()) }

// TestOpenCopy: a backup is read as it is, also where nothing can be written beside it,
// and a file that is none says what it is.
func TestOpenCopy(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "usage.db")
	s := open(t, path)
	write(t, s, newTraffic(10).batch(make([]record.Record, 10)))
	cut, err := os.ReadFile(path) // without what is in -wal
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	backups := filepath.Join(dir, "backups")
	if err := os.Mkdir(backups, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"whole.db": whole, "cut.db": cut, "text.db": bytes.Repeat([]byte("no database "), 100)} {
		if err := os.WriteFile(filepath.Join(backups, name), b, 0o400); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(backups, 0o500); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(backups, 0o700) })
	r, err := sqlite.OpenCopy(t.Context(), filepath.Join(backups, "whole.db"))
	if err != nil {
		t.Fatal(err)
	}
	if head, err := r.Head(t.Context(), trafficWriter); err != nil || head.Seq != 10 {
		t.Errorf("the last record is %d, %v; want 10", head.Seq, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	for name, words := range map[string]string{
		"cut.db": `.backup copy.db`, "text.db": "it is no copy of usage.db", "absent.db": "no such file", ".": "is a directory: name the file in it",
	} {
		if _, err := sqlite.OpenCopy(t.Context(), filepath.Join(backups, name)); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("OpenCopy(%s) = %v, want %q in it", name, err, words)
		}
	}
	beside, err := os.ReadDir(backups)
	if err != nil || len(beside) != 3 {
		t.Errorf("beside the copies there is %v, %v", beside, err)
	}
}

func TestOpenRefusesWhatIsNotItsOwn(t *testing.T) {
	dir := t.TempDir()
	exec := func(path, query string) {
		db, err := sql.Open("sqlite", path)
		if err == nil {
			_, err = db.ExecContext(t.Context(), query)
		}
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
	}
	other, newer, text := filepath.Join(dir, "other.db"), filepath.Join(dir, "newer.db"), filepath.Join(dir, "text")
	exec(other, "CREATE TABLE mine (id)")
	exec(newer, "PRAGMA user_version = 99")
	if err := os.WriteFile(text, []byte(strings.Repeat("this is no database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		other: "another program's database", newer: "version 99", text: "move " + text + ", " + text + "-wal and " + text + "-shm away together", filepath.Join(dir, "no", "folder.db"): "no such file",
	} {
		if s, err := sqlite.Open(t.Context(), path); err == nil {
			t.Errorf("Open(%s) = nil, want an error", path)
			_ = s.Close()
		} else if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("Open(%s) = %q, want it to say %q and the path", path, err, want)
		}
	}
	if _, err := sqlite.OpenReadOnly(t.Context(), text); err == nil || !strings.Contains(err.Error(), "restore the newest backup") {
		t.Errorf("OpenReadOnly of a text = %v, want it to say what to do", err)
	}
	if _, err := sqlite.OpenReadOnly(t.Context(), filepath.Join(dir, "absent.db")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("OpenReadOnly of no file = %v, want %v", err, os.ErrNotExist)
	}
}

func TestTheFileIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "usage.db")
	write(t, open(t, path), sinktest.Book("a.1", 3))
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != 0o600 {
			t.Errorf("mode of usage.db%s = %v, want 0600", suffix, got)
		}
	}
}

func TestMoneyIsShownInDollars(t *testing.T) {
	path := filepath.Join(t.TempDir(), "usage.db")
	s := open(t, path)
	var book []record.Record
	amounts := []money.NanoUSD{0, 1, -1, 999_999_999, -999_999_999, money.USD, -money.USD, 12_500_000_000, 100 * money.USD, 1<<63 - 1, -(1<<63 - 1)}
	for _, a := range amounts {
		book = append(book, record.Record{Type: record.Admin, Cost: a, HasCost: true, Reserved: a})
	}
	write(t, s, recordtest.Chain("a.1", book...))
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for i, a := range amounts {
		var cost string
		var reserved *string
		if err := db.QueryRowContext(t.Context(), "SELECT cost_usd, reserved_usd FROM records WHERE seq = ?", i+1).Scan(&cost, &reserved); err != nil {
			t.Fatal(err)
		}
		if cost != a.String() {
			t.Errorf("cost_usd of %d = %q, want %q", int64(a), cost, a)
		}
		if (reserved == nil) != (a == 0) || reserved != nil && *reserved != a.String() {
			t.Errorf("reserved_usd of %d = %v, want %q or null for 0", int64(a), reserved, a)
		}
	}
}

// id is a request id made at minute of 3 November 2026, 12:00.
func id(minute, n int) string {
	ms := recordtest.Noon().Truncate(time.Hour).Add(time.Duration(minute) * time.Minute).UnixMilli()
	return fmt.Sprintf("%08x-%04x-7000-8000-%012x", ms>>16, ms&0xffff, n)
}

func call(typ record.Type, id string) record.Record {
	name := map[record.Type]string{record.Intent: "intent", record.Extend: "extend", record.Settle: "settle", record.Deny: "deny"}[typ]
	r := recordtest.Examples()[name]
	r.RequestID = id
	return r
}

func TestRequestsMergesEachRequestsRecords(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "usage.db"))
	open, closed, denied, corrected := id(0, 1), id(1, 2), id(2, 3), id(3, 4)
	adjust := recordtest.Examples()["adjust"]
	adjust.RequestID = corrected
	write(t, s, recordtest.Chain("a.1",
		recordtest.Examples()["start"], call(record.Intent, open), call(record.Extend, open), call(record.Intent, closed), call(record.Settle, closed), call(record.Deny, denied),
		call(record.Intent, corrected), recordtest.Examples()["strangers"]))
	write(t, s, recordtest.Chain("b.1", call(record.Settle, corrected), adjust)) // by the next incarnation

	page, err := s.Requests(t.Context(), 10, "")
	if err != nil {
		t.Fatalf("Requests: %v", err)
	}
	type row struct {
		ID, Class string
		Open      bool
		Cost      string
		Limits    int
		Time      time.Time
	}
	var got []row
	for _, r := range page.Requests {
		cost := ""
		if r.HasCost {
			cost = r.Cost.String()
		}
		got = append(got, row{r.RequestID, r.Class, r.Open(), cost, len(r.Limits), r.Time})
	}
	noon := recordtest.Noon()
	want := []row{
		{corrected, "ok", false, "0.0012", 2, noon}, // 0.0012045 and the adjustment of -0.0000045
		{denied, "policy", false, "", 0, noon},
		{closed, "ok", false, "0.0012045", 2, noon},
		{open, "", true, "", 2, noon},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Requests differ (-want +got):\n%s", diff)
	}
	if got := page.Requests[3].Reserved.String(); got != "0.032769" {
		t.Errorf("the open request holds %s, want what its extension says", got)
	}
	if audit, err := s.Audit(t.Context(), report.AuditQuery{Types: []record.Type{record.Extend}, Limit: 9}); err != nil || len(audit.Audit) != 1 || audit.Audit[0].RequestID != open {
		t.Errorf("Audit of extensions = %+v, %v, want that of the open request", audit, err)
	}
	b, err := json.Marshal(page)
	if err != nil {
		t.Fatal(err)
	}
	var api struct {
		Requests []map[string]any
		Next     *string
	}
	if err := json.Unmarshal(b, &api); err != nil {
		t.Fatal(err)
	}
	if class, there := api.Requests[3]["class"]; class != nil || !there {
		t.Errorf("class of an open request = %v (there %t), want null", class, there)
	}
	one, err := s.Request(t.Context(), strings.ToUpper(closed))
	if err != nil {
		t.Fatalf("Request: %v", err)
	}
	if diff := cmp.Diff(page.Requests[2], one); diff != "" {
		t.Errorf("Request differs from its row of Requests (-row +one):\n%s", diff)
	}
	if _, err := s.Request(t.Context(), id(9, 9)); !errors.Is(err, report.ErrNotFound) {
		t.Errorf("Request of another id = %v, want %v", err, report.ErrNotFound)
	}
}

func TestRequestsPages(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "usage.db"))
	var book []record.Record
	const n = 23
	for i := range n {
		book = append(book, call(record.Intent, id(i, i)), call(record.Settle, id(i, i)))
	}
	write(t, s, recordtest.Chain("a.1", book...))
	var got []string
	for cursor, more := "", true; more; {
		page, err := s.Requests(t.Context(), 5, cursor)
		if err != nil {
			t.Fatalf("Requests(5, %q): %v", cursor, err)
		}
		for _, r := range page.Requests {
			got = append(got, r.RequestID)
		}
		cursor, more = page.Next, page.Next != ""
	}
	var want []string
	for i := n - 1; i >= 0; i-- {
		want = append(want, id(i, i))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the pages together differ (-want +got):\n%s", diff)
	}
	if _, err := s.Requests(t.Context(), 5, "no cursor"); !errors.Is(err, report.ErrBadCursor) {
		t.Errorf("Requests with a bad cursor = %v, want %v", err, report.ErrBadCursor)
	}
}

func TestDenialsAndAuditAreNewestFirst(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "usage.db"))
	book := sinktest.Book("a.1", 21)
	for i := range book {
		book[i].Time = book[i].Time.Add(time.Duration(i) * time.Minute)
	}
	book = recordtest.Chain("a.1", book...)
	write(t, s, book)
	denials, err := s.Denials(t.Context(), 4)
	if err != nil {
		t.Fatalf("Denials: %v", err)
	}
	audit, err := s.Audit(t.Context(), report.AuditQuery{Limit: 100})
	if err != nil {
		t.Fatalf("Audit: %v", err)
	}
	seqs := func(all []record.Record) (s []uint64) {
		for _, r := range all {
			s = append(s, r.Seq)
		}
		return s
	}
	if diff := cmp.Diff([]uint64{21, 20, 13, 12}, seqs(denials.Denials)); diff != "" {
		t.Errorf("Denials (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]uint64{17, 15, 14, 9, 7, 6, 1}, seqs(audit.Audit)); diff != "" {
		t.Errorf("Audit (-want +got):\n%s", diff)
	}
}

// What was changed in the file is found where it is.
func TestRecordsEndsAtADamagedRow(t *testing.T) {
	for name, damage := range map[string]string{
		"no JSON":        "substr(record, 2)",
		"other spelling": "replace(record, ':', ': ')",
		"another number": "replace(record, '\"seq\":300', '\"seq\":301')",
		"another writer": "replace(record, '\"writer\":\"a.1\"', '\"writer\":\"b.1\"')",
	} {
		s := open(t, filepath.Join(t.TempDir(), "usage.db"))
		write(t, s, sinktest.Book("a.1", 400))
		if err := s.Exec(t.Context(), "UPDATE book SET record = "+damage+" WHERE seq = 300"); err != nil {
			t.Fatal(err)
		}
		var last uint64
		var fault error
		for r, err := range s.Records(t.Context(), "a.1", 1) {
			if fault = err; err == nil {
				last = r.Seq
			}
		}
		want := uint64(299)
		if name == "another number" {
			want = 301 // twice: the chain tells
		}
		if last != want || fault == nil || !strings.Contains(fault.Error(), fmt.Sprintf("record %d of a.1", want+1)) {
			t.Errorf("%s: Records ends behind %d with %v, want behind %d with an error that says where", name, last, fault, want)
		}
	}
}

// A file that is not in its place any more is not written: what it took would be
// gone with it.
func TestWriteRefusesAFileThatIsGone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "usage.db")
	away := path + ".away"
	s := open(t, path)
	book := recordtest.Chain("a.1", record.Record{Type: record.Admin}, record.Record{Type: record.Admin}, record.Record{Type: record.Admin})
	write(t, s, book[:1])
	for name, change := range map[string]func() error{
		"moved":    func() error { return os.Rename(path, away) },
		"replaced": func() error { return errors.Join(os.Rename(path, away), os.WriteFile(path, nil, 0o600)) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if err := s.Write(t.Context(), book[:2]); err == nil || !strings.Contains(err.Error(), path+" is not the file that is open any more") {
			t.Errorf("%s: Write = %v, want what has happened", name, err)
		}
		if head, err := s.Head(t.Context(), "a.1"); err != nil || head.Seq != 1 {
			t.Errorf("%s: Head = %v, %v; want record 1", name, head, err)
		}
		if err := os.Rename(away, path); err != nil {
			t.Fatal(err)
		}
	}
	write(t, s, book) // it is back
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(t.Context(), recordtest.Chain("b.1", record.Record{Type: record.Admin})); err == nil {
		t.Error("deleted: Write = nil, want an error")
	}
}

// A damaged record does not keep what is missing from being told: the shipping
// of all the others waits for it.
func TestGapsPassOverADamagedRow(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "usage.db"))
	start := func(writer string) record.Record {
		return record.Record{Type: record.Start, Heads: []record.Head{{Writer: writer, Seq: 7, Hash: record.Sum([]byte(writer))}}}
	}
	write(t, s, recordtest.Chain("x.1", start("a.1"), start("b.1"), start("c.1"), start("d.1")))
	for seq, damaged := range map[int]string{1: "substr(record, 2)", 2: "'{\"heads\":[\"text\",3,{}]}'", 3: "replace(record, '\"seq\":7', '\"seq\":98765432109876543210')"} {
		if err := s.Exec(t.Context(), fmt.Sprintf("UPDATE book SET record = %s WHERE seq = %d", damaged, seq)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Gaps(t.Context(), nil)
	want := []sink.Gap{{Writer: "c.1", First: 1, Last: math.MaxInt64}, {Writer: "d.1", First: 1, Last: 7}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("Gaps = %v, %v; want %v", got, err, want)
	}
}

// Nor does a writer of whom no record is left, as where somebody has deleted old
// ones: all that its head names are missing.
func TestGapsOfAWriterWithoutRecords(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "usage.db"))
	write(t, s, sinktest.Book("a.1", 5))
	write(t, s, recordtest.Chain("b.1", record.Record{Type: record.Admin}))
	if err := s.Exec(t.Context(), "DELETE FROM book WHERE writer = 'a.1'"); err != nil {
		t.Fatal(err)
	}
	got, err := s.Gaps(t.Context(), []record.Head{{Writer: "a.1", Seq: 7}})
	want := []sink.Gap{{Writer: "a.1", First: 1, Last: 5}, {Writer: "a.1", First: 6, Last: 7}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("Gaps = %v, %v; want %v", got, err, want)
	}
}

// The sums are what adding up the records gives, however they were batched and
// repeated, to the nano-dollar.
func TestUsageIsTheSumOfTheRecords(t *testing.T) {
	path := filepath.Join(t.TempDir(), "usage.db")
	s := open(t, path)
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		// Every check has weeks of its own; some of them are behind those before.
		shift := n * 389 % 1009 * 100_000
		var book []record.Record
		for i := range rapid.IntRange(0, 30).Draw(t, "calls") {
			rid := id(shift+rapid.OneOf(rapid.IntRange(0, 90), rapid.IntRange(0, 90_000)).Draw(t, "minute"), i)
			settle := call(record.Settle, rid)
			intent := call(record.Intent, rid)
			team := rapid.SampledFrom([]string{"search", "ads", ""}).Draw(t, "team")
			user := rapid.SampledFrom([]string{"u1", "u2", ""}).Draw(t, "user")
			intent.Team, intent.User = team, user
			settle.Team, settle.User = team, user
			settle.HasCost = rapid.Bool().Draw(t, "priced")
			settle.Cost = 0
			if settle.HasCost {
				settle.Cost = money.NanoUSD(rapid.Int64Range(0, 1<<50).Draw(t, "cost"))
			}
			settle.Tokens.Output = money.Tokens(rapid.Int64Range(0, 1<<40).Draw(t, "output"))
			if rapid.Bool().Draw(t, "orphan") {
				settle = record.Record{Type: record.Settle, RequestID: rid, Cost: settle.Cost, HasCost: settle.HasCost, Tokens: settle.Tokens, HasTokens: true, Class: "ok"}
			}
			book = append(book, intent, settle)
			if rapid.Bool().Draw(t, "adjusted") {
				book = append(book, record.Record{Type: record.Adjust, RequestID: rid, Cost: -7, HasCost: true})
			}
		}
		if len(book) == 0 {
			return
		}
		book = recordtest.Chain(fmt.Sprintf("a.%d", n), book...)
		for i := 0; i < len(book); {
			size := rapid.IntRange(1, 9).Draw(t, "batch")
			end := min(len(book), i+size)
			again := rapid.IntRange(0, i).Draw(t, "again")
			if err := s.Write(context.Background(), book[again:end]); err != nil {
				t.Fatalf("Write: %v", err)
			}
			i = end
		}

		by := rapid.SampledFrom([][]report.Dimension{{}, {report.Team}, {report.Day, report.Team}, {report.User}, {report.User, report.Day}, {report.Team, report.User}, {report.Day}, {report.User, report.Day, report.Model}, report.Dimensions()}).Draw(t, "by")
		base := recordtest.Noon().Truncate(time.Hour).Add(time.Duration(shift) * time.Minute)
		at := rapid.OneOf(rapid.IntRange(0, 91), rapid.IntRange(0, 95_000))
		from, to := at.Draw(t, "from"), at.Draw(t, "to")
		q := report.UsageQuery{By: by, From: base.Add(time.Duration(min(from, to)) * time.Minute), To: base.Add(time.Duration(max(from, to)) * time.Minute)}
		got, err := s.Usage(context.Background(), q)
		if err != nil {
			t.Fatalf("Usage(%v): %v", q, err)
		}
		if got.From.After(q.From) || got.From.Before(q.From.Add(-15*time.Minute)) || got.To.Before(q.To) || got.To.After(q.To.Add(15*time.Minute)) {
			t.Fatalf("Usage(%v … %v) covers %v … %v", q.From, q.To, got.From, got.To)
		}
		want := sum(book, by, got.From, got.To)
		if diff := cmp.Diff(want, rowsOf(got)); diff != "" {
			t.Fatalf("Usage(%v) differs (-want +got):\n%s", q, diff)
		}
	})
}

// Sums are a function of the records, however those came: late, parked, or of a
// writer that was killed.
func TestSumsAreMadeAgainFromTheRecords(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "usage.db"))
	kit().Refuse(t, s)
	var book []record.Record
	for i := range 300 {
		minute := (i * 7919) % 5000 // of some days, and late ones
		intent, settle := call(record.Intent, id(minute, i)), call(record.Settle, id(minute, i))
		intent.User, settle.User = fmt.Sprint("u", i%7), fmt.Sprint("u", i%7)
		if i%10 == 0 {
			settle = record.Record{Type: record.Settle, RequestID: intent.RequestID, Cost: 5, HasCost: true, UsageSource: usage.None}
		}
		if i%20 == 1 {
			settle.Detail = sinktest.Poison
		}
		book = append(book, intent, settle)
		if i%3 == 0 {
			book = append(book, record.Record{Type: record.Adjust, RequestID: intent.RequestID, Cost: -3, HasCost: true})
		}
	}
	book = recordtest.Chain("a.1", book...)
	for i := 0; i < len(book); i += 10 {
		write(t, s, book[i:min(i+10, len(book))])
	}
	if err := s.CheckSums(t.Context()); err != nil {
		t.Fatalf("CheckSums = %v, want nil", err)
	}
	for harm, months := range map[string][]string{
		"UPDATE usage SET requests = requests + 1 WHERE level = 0 AND quarter = (SELECT min(quarter) FROM usage WHERE level = 0)": {"2026-11"},
		"UPDATE usage SET cost_nano = NULL WHERE level = 2":                                                                       {"2026-11"},
		"DELETE FROM usage WHERE level = 4":                                                                                       {"2026-11"},
		"UPDATE usage SET quarter = quarter + 96000 WHERE level = 5":                                                              {"2026-11", "2029-07"},
		"INSERT INTO usage SELECT 0, 0, split, user, requests, unpriced, estimated, cost_nano, estimated_nano, input, cache_read, cache_write_5m, cache_write_1h, input_audio, input_image, output, reasoning, output_audio, output_image FROM usage LIMIT 1": {"1970-01"},
	} {
		if err := s.Exec(t.Context(), harm); err != nil {
			t.Fatal(err)
		}
		if wrong, ok := errors.AsType[*sqlite.SumsError](s.CheckSums(t.Context())); !ok || !slices.Equal(wrong.Months, months) {
			t.Errorf("CheckSums after %s finds %v, want %v", harm, wrong, months)
		}
		if err := s.Rebuild(t.Context()); err != nil {
			t.Fatalf("Rebuild: %v", err)
		}
		if err := s.CheckSums(t.Context()); err != nil {
			t.Errorf("CheckSums after Rebuild = %v, want nil", err)
		}
	}
}

// What a failed batch looked up is not what the next one finds.
func TestAFailedBatchLeavesNothingInTheSums(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "usage.db"))
	var book []record.Record
	for i := range 1000 {
		settle := call(record.Settle, id(i, i))
		settle.User, settle.Model = fmt.Sprint("u", i), fmt.Sprint("m", i%100)
		book = append(book, settle)
	}
	book = recordtest.Chain("a.1", book...)
	write(t, s, book[:10])
	if err := s.Exec(t.Context(), "CREATE TRIGGER late BEFORE INSERT ON heads BEGIN SELECT RAISE(ABORT, 'the last statement fails'); END"); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(t.Context(), book[10:]); err == nil {
		t.Fatal("Write = nil, want the fault")
	}
	if err := s.Exec(t.Context(), "DROP TRIGGER late"); err != nil {
		t.Fatal(err)
	}
	write(t, s, book[10:20])
	write(t, s, book[20:])
	if err := s.CheckSums(t.Context()); err != nil {
		t.Errorf("CheckSums = %v, want nil", err)
	}
}

// Two processes may ship to one file. What one of them has folded the other has
// not, and must not fold again.
func TestTwoSinksOfOneFileFoldOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "usage.db")
	sinks := map[string]*sqlite.Sink{"a.1": open(t, path), "b.1": open(t, path)}
	books := map[string][]record.Record{}
	for writer := range sinks {
		var book []record.Record
		for i := range 120 { // of five hours
			settle := call(record.Settle, id(i*5/2, i))
			settle.User = fmt.Sprint("u", i%7)
			book = append(book, settle)
		}
		books[writer] = recordtest.Chain(writer, book...)
	}
	for i := 0; i < 120; i += 30 {
		for _, writer := range []string{"a.1", "b.1"} {
			write(t, sinks[writer], books[writer][i:i+30])
			if err := sinks[writer].CheckSums(t.Context()); err != nil {
				t.Fatalf("CheckSums with %d calls of %s = %v, want nil", i+30, writer, err)
			}
		}
	}
	// Nor is what one makes again what it remembers.
	if err := sinks["a.1"].Rebuild(t.Context()); err != nil {
		t.Fatalf("Rebuild: %v", err)
	}
	if err := sinks["b.1"].CheckSums(t.Context()); err != nil {
		t.Errorf("CheckSums after Rebuild = %v, want nil", err)
	}
}

// The view has section 8's fields, as the API shows them.
func TestRecordsHasTheFieldsAsColumns(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "usage.db"))
	kit().Refuse(t, s)
	book := sinktest.Book("a.1", 7)
	book[3].Detail = sinktest.Poison
	book = recordtest.Chain("a.1", book...)
	write(t, s, book)
	path, err := s.Path(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for i := range book {
		var object map[string]any
		d := json.NewDecoder(bytes.NewReader(record.AppendObject(nil, &book[i])))
		d.UseNumber()
		if err := d.Decode(&object); err != nil {
			t.Fatal(err)
		}
		for f := range record.Fields() {
			var got *string
			if err := db.QueryRowContext(t.Context(), fmt.Sprintf("SELECT %q FROM records WHERE writer = 'a.1' AND seq = ?", f.Name), i+1).Scan(&got); err != nil {
				t.Fatalf("%s: %v", f.Name, err)
			}
			var want string
			switch v := object[f.Name].(type) {
			case nil:
				want = "null"
			case bool:
				want = map[bool]string{true: "1", false: "null"}[v] // absent
			case string:
				want = v
			case json.Number:
				want = v.String()
			default:
				b, err := json.Marshal(v)
				if err != nil {
					t.Fatal(err)
				}
				want = string(b)
			}
			text := "null"
			if got != nil {
				text = *got
			}
			if f.Kind == record.Structured && got != nil {
				var v any
				if err := json.Unmarshal([]byte(text), &v); err != nil {
					t.Errorf("%s of record %d = %s: %v", f.Name, i+1, text, err)
				}
				b, _ := json.Marshal(v)
				text = string(b)
			}
			if text != want {
				t.Errorf("%s of record %d = %s, want %s", f.Name, i+1, text, want)
			}
		}
	}
}

type sums struct {
	Requests int64
	Cost     money.NanoUSD
	HasCost  bool
	Tokens   usage.Tokens
}

func rowsOf(u report.Usage) map[string]sums {
	all := map[string]sums{}
	for _, r := range u.Rows {
		all[strings.Join(r.Values, "|")] = sums{r.Requests, r.Cost, r.HasCost, r.Tokens}
	}
	return all
}

// sum is the plain way: merge, look, add.
func sum(book []record.Record, by []report.Dimension, from, to time.Time) map[string]sums {
	intents := map[string]record.Record{}
	all := map[string]sums{}
	for _, r := range book {
		if r.Type == record.Intent {
			intents[r.RequestID] = r
			continue
		}
		of := intents[r.RequestID]
		ms, _ := strconv.ParseInt(strings.ReplaceAll(r.RequestID, "-", "")[:12], 16, 64)
		at := time.UnixMilli(ms).UTC()
		if at.Before(from) || !at.Before(to) {
			continue
		}
		var values []string
		for _, d := range by {
			values = append(values, map[report.Dimension]string{
				report.Team: of.Team, report.Key: of.KeyName, report.Purpose: of.Purpose, report.Model: of.Model, report.Provider: of.Provider,
				report.User: of.User, report.Class: "ok", report.CostCenter: of.CostCenter, report.Day: at.Format(time.DateOnly),
			}[d])
		}
		s := all[strings.Join(values, "|")]
		if r.Type == record.Settle {
			s.Requests++
		}
		if r.HasCost {
			s.Cost, s.HasCost = s.Cost+r.Cost, true
		}
		s.Tokens.Add(&r.Tokens)
		all[strings.Join(values, "|")] = s
	}
	return all
}

func TestUsageOfNothing(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "usage.db"))
	u, err := s.Usage(t.Context(), report.UsageQuery{By: []report.Dimension{report.Team}})
	if err != nil {
		t.Fatalf("Usage: %v", err)
	}
	b, err := json.Marshal(u)
	if got, want := string(b), `{"from":null,"to":null,"by":["team"],"rows":[]}`; got != want || err != nil {
		t.Errorf("Usage of nothing = %s, %v, want %s", got, err, want)
	}
	if _, err := s.Usage(t.Context(), report.UsageQuery{By: []report.Dimension{"colour; DROP TABLE records"}}); err == nil {
		write(t, s, sinktest.Book("a.1", 3))
		if _, err := s.Usage(t.Context(), report.UsageQuery{By: []report.Dimension{"colour; DROP TABLE records"}}); err == nil {
			t.Error("Usage by an unknown dimension = nil, want an error")
		}
	}
}

func TestReadersDoNotDisturbTheWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "usage.db")
	s := open(t, path)
	write(t, s, sinktest.Book("a.1", 1))
	reader, err := sqlite.OpenReadOnly(t.Context(), path)
	if err != nil {
		t.Fatalf("OpenReadOnly: %v", err)
	}
	book := sinktest.Book("a.1", 200)
	for r, err := range reader.Records(t.Context(), "a.1", 0) { // a reader in the middle
		if err != nil || r.Seq != 1 {
			t.Fatalf("Records yields %d, %v", r.Seq, err)
		}
		for i := 1; i < len(book); i += 20 {
			write(t, s, book[i:min(i+20, len(book))])
		}
	}
	heads, err := reader.Heads(t.Context())
	if err != nil || len(heads) != 1 || heads[0].Seq != 200 {
		t.Errorf("Heads = %v, %v; want record 200 of a.1", heads, err)
	}
	if err := errors.Join(reader.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	offline, err := sqlite.OpenReadOnly(t.Context(), path) // nobody else has it open
	if err != nil {
		t.Fatalf("OpenReadOnly without a writer: %v", err)
	}
	defer offline.Close()
	if heads, err := offline.Heads(t.Context()); err != nil || len(heads) != 1 {
		t.Errorf("Heads without a writer = %v, %v; want one", heads, err)
	}
}

// A database of an airgate that knew fewer fields has the others in its view once
// it is opened, and what it has stays.
func TestTheViewHasEveryField(t *testing.T) {
	path := filepath.Join(t.TempDir(), "usage.db")
	s := open(t, path)
	write(t, s, sinktest.Book("a.1", 3))
	err := s.Exec(t.Context(), "DROP VIEW records")
	if err == nil {
		err = s.Exec(t.Context(), "CREATE VIEW records AS SELECT type, seq, writer, record FROM book UNION ALL SELECT type, seq, writer, record FROM parked")
	}
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	defer s.Close()
	db, err := sql.Open("sqlite", "file:"+path+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var names []string
	for f := range record.Fields() {
		names = append(names, f.Name)
	}
	var caps int
	query := "SELECT count(cap), count(" + strings.Join(names, "), count(") + ") FROM records"
	into := []any{&caps}
	for range names {
		into = append(into, new(int))
	}
	if err := db.QueryRowContext(t.Context(), query).Scan(into...); err != nil || caps != 2 {
		t.Errorf("%s = %d caps, %v; want those of an intent and a settlement", query, caps, err)
	}
}

// The start records of all writers, and no other record that operators look for.
func TestStarts(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "usage.db"))
	defer s.Close()
	want := map[string]uint64{}
	for writer, n := range map[string]int{"a.1": 20, "b.1": 1} {
		book := sinktest.Book(writer, n)
		write(t, s, book)
		for _, r := range book {
			if r.Type == record.Start {
				want[fmt.Sprint(writer, " ", r.Heads)] = r.Seq
			}
		}
	}
	got := map[string]uint64{}
	starts, err := s.Starts(t.Context())
	for _, r := range starts {
		if r.Type != record.Start {
			t.Errorf("Starts has %v %d of %s", r.Type, r.Seq, r.Writer)
		}
		got[fmt.Sprint(r.Writer, " ", r.Heads)] = r.Seq
	}
	if err != nil || len(starts) != 4 || !maps.Equal(got, want) {
		t.Errorf("Starts = %v, %v; want %v", got, err, want)
	}
}

// Batches as the shipper sends them: full ones where it has to catch up, and
// those of 50 ms of a thousand calls a second.
func BenchmarkWrite(b *testing.B) {
	for _, size := range []int{1024, 100} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			s := open(b, filepath.Join(b.TempDir(), "usage.db"))
			traffic := newTraffic(20_000_000)
			into := make([]record.Record, size)
			var spent, cpu time.Duration
			for b.Loop() {
				batch := traffic.batch(into)
				began, used := time.Now(), cpuTime()
				if err := s.Write(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
				spent, cpu = spent+time.Since(began), cpu+cpuTime()-used
			}
			n := float64(b.N * size)
			b.ReportMetric(n/spent.Seconds(), "rec/s")
			b.ReportMetric(float64(spent.Nanoseconds())/n, "ns/rec")
			b.ReportMetric(float64(cpu.Nanoseconds())/n, "cpu-ns/rec")
		})
	}
}

// cpuTime is what this process used, the collector's threads included.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
