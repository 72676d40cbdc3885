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

// Denials that the journal cannot take are counted until it can: those of past
// minutes in one record.
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
	if d := cmp.Diff(map[string]string{"endpoint_unknown": "2 of 64"}, tally(e.book.records)); d != "" {
		t.Errorf("records (-want +got):\n%s", d)
	}
}

// However Flush and refusals meet where one minute ends and the next begins, each
// minute has ten records and one count.
func TestAMinuteIsCountedOnce(t *testing.T) {
	minute := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	type step struct {
		at     time.Duration // in the first minute, of the refusals, and of Flush
		refuse int
		flush  bool
	}
	for name, c := range map[string]struct {
		steps []step
		want  map[int]int64 // :: minute → refusals in the record that counts
	}{
		"flushed each second": {[]step{
			{59 * time.Second, 30, true}, {60 * time.Second, 0, true}, {61 * time.Second, 25, true}, {90 * time.Second, 25, true},
		}, map[int]int64{0: 20, 1: 40}},
		"a refusal before the flush": {[]step{
			{59 * time.Second, 30, true}, {60 * time.Second, 25, true}, {90 * time.Second, 25, true},
		}, map[int]int64{0: 20, 1: 40}},
		"a flush that is late": {[]step{
			{60 * time.Second, 30, false}, {59999 * time.Millisecond, 0, true}, {61 * time.Second, 25, true},
		}, map[int]int64{1: 45}},
		"a refusal that is late": {[]step{
			{60 * time.Second, 30, false}, {59999 * time.Millisecond, 5, false}, {61 * time.Second, 25, true},
		}, map[int]int64{1: 50}},
		"refusals that are late with records of their own": {[]step{
			{60 * time.Second, 1, false}, {59999 * time.Millisecond, 30, true}, {61 * time.Second, 25, true},
		}, map[int]int64{1: 46}},
		"a minute without": {[]step{
			{5 * time.Second, 30, false}, {125 * time.Second, 30, false},
		}, map[int]int64{0: 20, 2: 20}},
		"a clock that is set back": {[]step{
			{300 * time.Second, 30, true}, {65 * time.Second, 30, true}, {66 * time.Second, 5, true},
		}, map[int]int64{5: 20, 1: 25}},
	} {
		t.Run(name, func(t *testing.T) {
			e := &env{t: t}
			e.begin(lifeConfig)
			for _, s := range append(c.steps, step{at: time.Hour, flush: true}) {
				e.now = minute.Add(s.at)
				e.refused("/v1/nothing", s.refuse)
				if s.flush {
					if err := e.proc.Flush(e.now); err != nil {
						t.Fatal(err)
					}
				}
			}
			got, own := map[int]int64{}, 0
			for _, r := range e.book.records {
				if r.Count == 0 {
					own++
					continue
				}
				n := int(r.Time.Sub(minute) / time.Minute)
				if _, twice := got[n]; twice {
					t.Errorf("minute %d is counted twice: %+v", n, r)
				}
				got[n] += r.Count
			}
			if !maps.Equal(got, c.want) || own != 10*len(c.want) {
				t.Errorf("%d records of their own, and counts by minute %v; want %d and %v", own, got, 10*len(c.want), c.want)
			}
		})
	}
}

// The same of a second of strangers.
func TestASecondIsCountedOnce(t *testing.T) {
	e := &env{t: t}
	e.begin(lifeConfig)
	stranger := func() {
		s := e.proc.Begin(e.now)
		s.Step(&processor.RequestHeaders{Headers: e.headers(":method: POST\n:path: /v1/chat/completions"), Source: "192.0.2.1:1", Now: e.now})
		s.Close(e.now, true)
		s.Finish(e.now, processor.Cause{})
	}
	stranger()
	late := e.now.Add(-time.Millisecond)
	if err := e.proc.Flush(late); err != nil {
		t.Fatal(err)
	}
	stranger()
	if err := e.proc.Flush(e.now.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if n := len(e.book.records); n != 1 || e.book.records[0].Count != 2 {
		t.Errorf("%d records: %+v; want one that counts 2", n, e.book.records)
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
