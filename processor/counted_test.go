package processor_test

import (
	"fmt"
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
