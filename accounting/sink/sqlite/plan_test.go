package sqlite

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"airgate/accounting/report"
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
	for _, by := range [][]report.Dimension{{report.Team}, {report.User}, {report.Day}, report.Dimensions()} {
		query, _, err := usageQuery(by, 100, 20_000, extent{oldest: 50, newest: 30_000, folded: 29_990})
		if err != nil {
			t.Fatal(err)
		}
		queries[query] = "SEARCH u USING PRIMARY KEY (level=? AND quarter>? AND quarter<?)"
	}
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
		sorts := strings.Contains(got, "TEMP B-TREE") && !strings.Contains(query, "GROUP BY")
		reads := strings.Contains(strings.ReplaceAll(got, "SCAN book USING INDEX", ""), "SCAN book")
		if !strings.Contains(got, index) || sorts || reads {
			t.Errorf("plan of %s = %s, want one along %s", query, got, index)
		}
	}
}
