package overlay

import (
	"maps"
	"slices"
	"time"
)

// Set is the last word on each subject :: id → entry.
type Set map[string]Entry

// Add makes e the last word on its subject, if it is, and says so.
func (s Set) Add(e Entry) bool {
	if have, ok := s[e.ID()]; ok && e.compare(have) <= 0 {
		return false
	}
	s[e.ID()] = e
	return true
}

// Sorted is all entries by their id.
func (s Set) Sorted() []Entry {
	all := make([]Entry, 0, len(s))
	for _, id := range slices.Sorted(maps.Keys(s)) {
		all = append(all, s[id])
	}
	return all
}

// Holding is the entries that hold at an instant, by their id.
func (s Set) Holding(now time.Time) []Entry {
	return slices.DeleteFunc(s.Sorted(), func(e Entry) bool { return !e.Holds(now) })
}

// NextEnd is the first instant at which one of the entries no longer holds;
// zero if none ends.
func NextEnd(holding []Entry) (next time.Time) {
	for i := range holding {
		if end := holding[i].Until; !end.IsZero() && (next.IsZero() || end.Before(next)) {
			next = end
		}
	}
	return next
}
