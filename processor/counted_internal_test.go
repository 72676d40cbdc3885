package processor

import (
	"fmt"
	"testing"
	"time"
)

// TestOnlyTheWrittenCount: a refusal is merely counted once ten of its kind are in
// the journal, not once ten are on their way there: a crash would lose them and
// the count.
func TestOnlyTheWrittenCount(t *testing.T) {
	r := repeated{seen: make(map[repeatedKey]*repeats)}
	now := time.Date(2026, 11, 3, 12, 0, 0, 0, time.UTC)
	own := func(now time.Time) bool {
		_, ok := r.own("k", BudgetExhausted, now)
		return ok
	}
	minute := now.Unix() / 60
	for i := range ownDenials + 3 { // all at once
		if !own(now) {
			t.Fatalf("refusal %d has no record of its own, and none is written yet", i+1)
		}
	}
	for i := range ownDenials {
		if !own(now) {
			t.Errorf("a refusal has no record of its own with %d written", i)
		}
		r.recorded("k", BudgetExhausted, minute)
	}
	if own(now) {
		t.Errorf("a refusal has a record of its own with %d written", ownDenials)
	}
	later := now.Add(time.Minute)
	if !own(later) {
		t.Error("the next minute's first refusal has no record of its own")
	}
	r.recorded("k", BudgetExhausted, minute) // of the minute before: it ended late
	for range ownDenials - 1 {
		r.recorded("k", BudgetExhausted, minute+1)
	}
	if !own(later) {
		t.Errorf("a refusal has no record of its own with %d of its minute written", ownDenials-1)
	}
}

// TestStrangersPutBackAreBounded: a Flush that fails slowly, while others come,
// puts back no more than there is room for, and loses no count.
func TestStrangersPutBackAreBounded(t *testing.T) {
	s := strangers{seen: map[strangerKey]int64{}, rest: map[Code]int64{}}
	now := time.Date(2026, 11, 3, 12, 0, 0, 0, time.UTC)
	began, all := now, int64(0)
	for range 3 { // a Flush that fails, each
		for i := range maxStrangers + 5 {
			s.add(KeyMissing, fmt.Sprintf("10.%d.%d.1:1", i/256, i%256), now)
			all++
		}
		now = now.Add(2 * time.Second)
		due := s.take(now)
		for i := range maxStrangers + 5 {
			s.add(KeyMissing, fmt.Sprintf("11.%d.%d.1:1", i/256, i%256), now)
			all++
		}
		for _, c := range due {
			c.back()
		}
		if len(s.seen) != maxStrangers+1 {
			t.Fatalf("%d counts are kept, want %d networks and a rest", len(s.seen), maxStrangers)
		}
	}
	sum := int64(0)
	for _, c := range s.take(now.Add(time.Hour)) {
		sum += c.record.Count
		if c.record.Source == restNetwork && !c.record.Time.Equal(began) {
			t.Errorf("the rest is counted from %s on, want from %s on", c.record.Time, began)
		}
	}
	if sum != all {
		t.Errorf("%d refusals are counted, want %d", sum, all)
	}
	if len(s.seen) != 0 || len(s.rest) != 0 {
		t.Errorf("%d counts and %d rests are left, want none", len(s.seen), len(s.rest))
	}
}
