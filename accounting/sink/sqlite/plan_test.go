package sqlite

import (
	"path/filepath"
	"strings"
	"testing"
)

// The questions of the API are answered from an index, in its order: their cost
// does not grow with the book.
func TestQueriesFollowAnIndex(t *testing.T) {
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "usage.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for query, index := range map[string]string{
		"SELECT DISTINCT request_id FROM records WHERE request_id IS NOT NULL AND type IN ('intent', 'settle', 'deny') AND request_id < 'x' ORDER BY request_id DESC LIMIT 9": "records_request",
		"SELECT DISTINCT request_id FROM records WHERE request_id IS NOT NULL AND type IN ('intent', 'settle', 'deny') ORDER BY request_id DESC LIMIT 9":                      "records_request",
		"SELECT * FROM records WHERE request_id BETWEEN 'a' AND 'b' ORDER BY request_id DESC, rowid":                                                                          "records_request",
		"SELECT * FROM records WHERE request_id = 'a' ORDER BY rowid":                                                                                                         "records_request",
		"SELECT * FROM records WHERE type = 'deny' ORDER BY time DESC, rowid DESC LIMIT 9":                                                                                    "records_denied",
		"SELECT * FROM records WHERE type IN ('admin', 'start', 'adjust') ORDER BY time DESC, rowid DESC LIMIT 9":                                                             "records_audit",
		"SELECT * FROM records WHERE writer = 'a' AND seq > 1 ORDER BY seq LIMIT 9":                                                                                           "sqlite_autoindex_records_1",
		"SELECT min(quarter) FROM usage": "PRIMARY KEY",
		"SELECT team, sum(requests) FROM usage WHERE quarter >= 1 AND quarter < 2 GROUP BY team ORDER BY team":         "PRIMARY KEY",
		"SELECT user, sum(requests) FROM usage_by_user WHERE quarter >= 1 AND quarter < 2 GROUP BY user ORDER BY user": "PRIMARY KEY",
	} {
		rows, err := s.Reader.db.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query)
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
		sorts := strings.Contains(got, "TEMP B-TREE") && !strings.Contains(query, "GROUP BY") && !strings.Contains(got, "LAST TERM") && !strings.Contains(got, "RIGHT PART")
		if !strings.Contains(got, index) || sorts {
			t.Errorf("plan of %s = %s, want one along %s", query, got, index)
		}
	}
}
