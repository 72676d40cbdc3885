package sqlite

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The questions of the API are answered from an index, in its order: their cost
// does not grow with the book.
func TestQueriesFollowAnIndex(t *testing.T) {
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "usage.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	queries := map[string]string{ // :: query → index
		namedHeads: "book_audit",
		fmt.Sprintf(requestsPage, "AND request_id < 'x'"): "book_request",
		fmt.Sprintf(requestsPage, ""):                     "book_request",
	}
	for rest, index := range map[string]string{
		ofRequests: "book_request", ofRequest: "book_request", fromWriter: "sqlite_autoindex_book_1",
		fmt.Sprintf(denials, ""): "book_denied", fmt.Sprintf(operations, ""): "book_audit", fmt.Sprintf(calls, ""): "book_request", starts: "book_audit",
		fmt.Sprintf(denials, "AND time >= 'x' AND type IN ('deny') AND team = 'y'"):             "book_denied (time>?)",
		fmt.Sprintf(operations, "AND time < 'x' AND type IN ('start') AND key_id = 'y'"):        "book_audit (time<?)",
		fmt.Sprintf(calls, "AND request_id >= 'x' AND request_id < 'y' AND type IN ('settle')"): "book_request (request_id>? AND request_id<?)",
	} {
		queries["SELECT record, "+rest] = index
	}
	queries[ofSpan()] = "SEARCH usage USING PRIMARY KEY (level=? AND quarter>? AND quarter<?)"
	for query, index := range queries {
		rows, err := s.Reader.db.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, make([]any, strings.Count(query, "?"))...)
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		var plan []string
		for rows.Next() {
			var id, parent, unused int
			var detail string
			if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
				t.Fatal(err)
			}
			plan = append(plan, detail)
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		got := strings.Join(plan, "; ")
		sorts := strings.Contains(got, "TEMP B-TREE")
		reads := strings.Contains(strings.ReplaceAll(got, "SCAN book USING INDEX", ""), "SCAN book")
		if !strings.Contains(got, index) || sorts || reads {
			t.Errorf("plan of %s = %s, want one along %s", query, got, index)
		}
	}
}

// A period of which the most is asked for is read whole, and the rest taken away.
func TestSpansAreFew(t *testing.T) {
	at := func(month time.Month, day, hour int) int64 {
		return quarterOf(time.Date(2026, month, day, hour, 0, 0, 0, time.UTC))
	}
	august, september := at(8, 1, 0), at(9, 1, 0)
	byUser := levels(false, true, false)
	for name, c := range map[string]struct {
		from, to int64
		levels   []level
		want     []span
	}{
		"nothing":   {august, august, byUser, nil},
		"a month":   {august, september, byUser, []span{{userMonths, august, september, false}}},
		"two hours": {at(8, 5, 23), at(8, 6, 1), byUser, []span{{quarters, at(8, 5, 23), at(8, 6, 1), false}}},
		"Tokyo's month": {august - 36, september - 36, byUser, []span{
			{userMonths, august, september, false}, {quarters, august - 36, august, false}, {quarters, september - 36, september, true},
		}},
		"New York's day": {at(8, 5, 4), at(8, 6, 4), byUser, []span{
			{userDays, at(8, 5, 0), at(8, 6, 0), false}, {quarters, at(8, 5, 0), at(8, 5, 4), true}, {quarters, at(8, 6, 0), at(8, 6, 4), false},
		}},
		"from the 11th on": {at(8, 11, 0), september, byUser, []span{
			{userMonths, august, september, false}, {userDays, august, at(8, 11, 0), true},
		}},
		"to the 20th, and from the 17th at eleven": {at(7, 17, 11), at(8, 20, 0), byUser, []span{
			{userMonths, august, september, false},
			{userDays, at(7, 17, 0), august, false},
			{quarters, at(7, 17, 0), at(7, 17, 11), true},
			{userDays, at(8, 20, 0), september, true},
		}},
		"the middle of a month": {at(8, 10, 0), at(8, 21, 0), byUser, []span{{userDays, at(8, 10, 0), at(8, 21, 0), false}}},
		"by day":                {at(8, 5, 0), at(8, 6, 0), levels(true, false, true), []span{{days, at(8, 5, 0), at(8, 6, 0), false}}},
	} {
		all := extent{oldest: at(1, 1, 0), newest: at(12, 1, 0), folded: at(11, 1, 0)}
		if got := all.spans(c.from, c.to, c.levels); !slices.Equal(got, c.want) {
			t.Errorf("%s: spans = %v, want %v", name, got, c.want)
		}
	}
}

// Spans add up to what was asked for, each quarter once, whatever was folded.
func TestSpansAddUp(t *testing.T) {
	first := quarterOf(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	const year = 365 * dayQuarters
	rapid.Check(t, func(t *rapid.T) {
		at := rapid.Int64Range(first, first+year)
		of := levels(rapid.Bool().Draw(t, "by day"), rapid.Bool().Draw(t, "by user"), rapid.Bool().Draw(t, "by split"))
		from, to := at.Draw(t, "from"), at.Draw(t, "to")
		e := extent{oldest: at.Draw(t, "oldest"), newest: at.Draw(t, "newest"), folded: at.Draw(t, "folded")}
		e.oldest, e.newest, from, to = min(e.oldest, e.newest), max(e.oldest, e.newest), min(from, to), max(from, to)
		e.folded = min(max(e.folded, e.oldest), e.newest)
		times := make([]int, year+2*31*dayQuarters) // each quarter counts, from a month before first on
		zero := first - 31*dayQuarters
		for _, s := range e.spans(from, to, of) {
			n := 1
			if s.minus {
				n = -1
			}
			end := s.end
			if s.level != quarters {
				if s.level.first(s.first) != s.first || s.level.first(s.end) != s.end {
					t.Fatalf("spans(%d, %d) of %v has %v, which is no whole periods", from, to, of, s)
				}
				end = min(end, e.folded) // it has no more
			}
			for q := s.first; q < end; q++ {
				times[q-zero] += n
			}
		}
		for q := e.oldest; q <= e.newest; q++ {
			want := 0
			if from <= q && q < to {
				want = 1
			}
			if got := times[q-zero]; got != want {
				t.Fatalf("spans(%d, %d) of levels %v, with %v, has quarter %d %d times, want %d", from, to, of, e, q, got, want)
			}
		}
	})
}
