package sqlite

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
)

// Only what a row is makes it refused for good: parking a record for a fault
// that ends would take it out of its place for nothing.
func TestOnlyConstraintsArePermanent(t *testing.T) {
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "usage.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	row := "INSERT INTO book (type, seq, writer, record) VALUES ('deny', 1, 'a.1', '{}')"
	for name, c := range map[string]struct {
		setup, query           string
		givenUp, want, noError bool
	}{
		"fine":                {query: "SELECT 1", noError: true},
		"no type":             {query: "INSERT INTO book (seq, writer, record) VALUES (1, 'a.1', '{}')", want: true},
		"a number as text":    {query: "INSERT INTO book (type, seq, writer, record) VALUES ('deny', 'x', 'a.1', '{}')", want: true},
		"the same once more":  {setup: row, query: row, want: true},
		"refused by a rule":   {setup: "CREATE TRIGGER rule BEFORE INSERT ON book BEGIN SELECT RAISE(ABORT, 'no'); END", query: row, want: true},
		"a full disk":         {setup: "PRAGMA max_page_count = 1", query: "CREATE TABLE more (x)"},
		"no right to write":   {setup: "PRAGMA query_only = 1", query: row},
		"too big":             {query: "SELECT zeroblob(2000000000)"},
		"a missing table":     {query: "INSERT INTO nothing VALUES (1)"},
		"given up":            {givenUp: true, query: row},
		"a generic complaint": {query: "SELECT abs(-9223372036854775808)"},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := s.db.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			exec := func(ctx context.Context, query string) error {
				_, err := conn.ExecContext(ctx, query)
				return err
			}
			err = exec(t.Context(), "SAVEPOINT undo")
			if c.setup != "" {
				err = errors.Join(err, exec(t.Context(), c.setup))
			}
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if c.givenUp {
				cancel()
			}
			err = exec(ctx, c.query)
			if got := permanent(err); got != c.want || (err == nil) != c.noError {
				t.Errorf("permanent(%v) = %t, want %t", err, got, c.want)
			}
			undo := errors.Join(exec(t.Context(), "ROLLBACK TO undo"), exec(t.Context(), "RELEASE undo"), exec(t.Context(), "PRAGMA query_only = 0"),
				exec(t.Context(), "PRAGMA max_page_count = 4294967294"), conn.Close())
			if undo != nil {
				t.Fatal(undo)
			}
		})
	}
}
