package processor_test

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"airgate/accounting/record"
	"airgate/processor"
)

// refused sends n calls of the key that are refused as endpoint_unknown or
// request_malformed.
func (e *env) refused(path string, n int) {
	headers := e.headers(":method: POST\n:path: " + path + "\nauthorization: Bearer KEY")
	for range n {
		s := e.proc.Begin(e.now)
		s.Step(&processor.RequestHeaders{Headers: headers, EndOfStream: true, Source: "192.0.2.7:1", Now: e.now})
		s.Close(e.now, true)
		s.Finish(e.now, processor.Cause{})
	}
}

// tally is what records say: how many there are for each code, and how many
// refusals they stand for.
func tally(records []record.Record) map[string]string {
	n, sum := map[string]int{}, map[string]int64{}
	for _, r := range records {
		n[r.Code]++
		sum[r.Code] += max(r.Count, 1)
	}
	out := map[string]string{}
	for code := range n {
		out[code] = fmt.Sprintf("%d of %d", n[code], sum[code])
	}
	return out
}

// A flood of bad calls of one valid key writes few records, and they count all.
func TestDenialsOfAKeyAreCapped(t *testing.T) {
	e := &env{t: t}
	e.begin(lifeConfig)
	const flood = 20_000
	e.refused("/v1/nothing", flood)
	e.refused("/v1/chat/completions", 3)
	if err := e.proc.Flush(e.now); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"endpoint_unknown": "10 of 10", "request_malformed": "3 of 3"}
	if d := cmp.Diff(want, tally(e.book.records)); d != "" {
		t.Errorf("records of the running minute (-want +got):\n%s", d)
	}
	begun := e.now
	e.now = e.now.Add(time.Minute)
	if err := e.proc.Flush(e.now); err != nil {
		t.Fatal(err)
	}
	e.refused("/v1/nothing", 11)
	if err := e.proc.Flush(e.now.Add(time.Hour)); err != nil { // the end
		t.Fatal(err)
	}
	want = map[string]string{"endpoint_unknown": fmt.Sprintf("22 of %d", flood+11), "request_malformed": "3 of 3"}
	if d := cmp.Diff(want, tally(e.book.records)); d != "" {
		t.Errorf("records at the end (-want +got):\n%s", d)
	}
	r := e.book.records[13]
	if r.Type != record.Deny || r.Count != flood-10 || r.KeyName != "k" || r.Team != "search" || r.RequestID != "" || r.Status != 404 ||
		r.Class != "malformed" || !r.Time.Equal(begun.Truncate(time.Minute)) {
		t.Errorf("the counted record is %+v", r)
	}
}

// Denials that the journal cannot take are counted until it can.
func TestDenialsWaitForTheJournal(t *testing.T) {
	e := &env{t: t}
	e.begin(lifeConfig)
	e.book.fail = true
	e.refused("/v1/nothing", 4)
	for range 3 {
		e.now = e.now.Add(time.Minute)
		if err := e.proc.Flush(e.now); err == nil {
			t.Error("Flush = nil while the journal fails")
		}
		e.refused("/v1/nothing", 20)
	}
	e.book.fail = false
	if err := e.proc.Flush(e.now.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]string{"endpoint_unknown": "1 of 64"}, tally(e.book.records)); d != "" {
		t.Errorf("records (-want +got):\n%s", d)
	}
}

// A flood of strangers while the journal fails, for hours and from everywhere,
// takes bounded memory, and as few records: they count all.
func TestStrangersWaitForTheJournal(t *testing.T) {
	e := &env{t: t}
	e.begin(lifeConfig)
	e.book.fail = true
	const seconds = 1500
	for i := range seconds {
		for _, key := range []string{"", "\nauthorization: Bearer ag-unknown"} {
			s := e.proc.Begin(e.now)
			s.Step(&processor.RequestHeaders{
				Headers: e.headers(":method: POST\n:path: /v1/chat/completions" + key), Source: fmt.Sprintf("10.%d.%d.1:1", i/256, i%256), Now: e.now,
			})
			s.Close(e.now, true)
			s.Finish(e.now, processor.Cause{})
		}
		e.now = e.now.Add(time.Second)
		if i%100 != 99 {
			continue
		}
		err := e.proc.Flush(e.now)
		want := fmt.Sprintf("refusals that are counted, and in no record: %d key_missing, %d key_unknown: ", i+1, i+1)
		if !errors.Is(err, errBook) || !strings.HasPrefix(err.Error(), want) {
			t.Fatalf("Flush while the journal fails = %v, want %q", err, want)
		}
	}
	e.book.fail = false
	if err := e.proc.Flush(e.now); err != nil {
		t.Fatal(err)
	}
	sum := map[string]int64{}
	for _, r := range e.book.records {
		sum[r.Code] += r.Count
	}
	if want := map[string]int64{"key_missing": seconds, "key_unknown": seconds}; !maps.Equal(sum, want) || len(e.book.records) != 1024+2 {
		t.Errorf("%d records of %v, want %d of %v", len(e.book.records), sum, 1024+2, want)
	}
}
