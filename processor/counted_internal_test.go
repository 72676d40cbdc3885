package processor

import (
	"testing"
	"time"
)

// TestOnlyTheWrittenCount: a refusal is merely counted once ten of its kind are in
// the journal, not once ten are on their way there: a crash would lose them and
// the count.
func TestOnlyTheWrittenCount(t *testing.T) {
	r := repeated{seen: make(map[repeatedKey]*repeats)}
	now := time.Date(2026, 11, 3, 12, 0, 0, 0, time.UTC)
	for i := range ownDenials + 3 { // all at once
		if !r.own("k", BudgetExhausted, now) {
			t.Fatalf("refusal %d has no record of its own, and none is written yet", i+1)
		}
	}
	for i := range ownDenials {
		if !r.own("k", BudgetExhausted, now) {
			t.Errorf("a refusal has no record of its own with %d written", i)
		}
		r.recorded("k", BudgetExhausted, now)
	}
	if r.own("k", BudgetExhausted, now) {
		t.Errorf("a refusal has a record of its own with %d written", ownDenials)
	}
	if later := now.Add(time.Minute); !r.own("k", BudgetExhausted, later) {
		t.Error("the next minute's first refusal has no record of its own")
	}
	r.recorded("k", BudgetExhausted, now) // of the minute before: it ended late
	for range ownDenials - 1 {
		r.recorded("k", BudgetExhausted, now.Add(time.Minute))
	}
	if !r.own("k", BudgetExhausted, now.Add(time.Minute)) {
		t.Errorf("a refusal has no record of its own with %d of its minute written", ownDenials-1)
	}
}
