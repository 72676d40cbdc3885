package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"airgate/accounting/record"
	"airgate/accounting/usage"
)

// schemaVersion is PRAGMA user_version.
const schemaVersion = 2

// stored are the fields that have a column of their own, in the order of the
// book: what is looked up. The others are read out of the record's JSON.
var stored = [...]string{"type", "seq", "writer", "time", "request_id"} //nolint:gochecknoglobals // an immutable table

// splitColumns are what usage is summed by beside the user, in the order of type
// split's values.
var splitColumns = [...]string{"team", "key", "purpose", "model", "provider", "class", "cost_center"} //nolint:gochecknoglobals // an immutable table

// addends are the columns that are summed: those of a total, then the tokens.
func addends() []string {
	all := []string{"requests", "unpriced", "estimated", "cost_nano", "estimated_nano"}
	for name := range record.Buckets(new(usage.Tokens)) {
		all = append(all, name)
	}
	return all
}

// fields are the columns of view records.
func fields() string {
	var all []string
	for f := range record.Fields() {
		arrow := "->>"
		if f.Kind == record.Structured {
			arrow = "->"
		}
		if slices.Contains(stored[:], f.Name) {
			all = append(all, f.Name)
		} else {
			all = append(all, fmt.Sprintf("record %s '$.%s' AS %q", arrow, f.Name, f.Name))
		}
	}
	return strings.Join(append(all, "record"), ", ")
}

func schema() string {
	var b strings.Builder
	for _, table := range []struct{ name, must, more string }{
		{"book", " NOT NULL", ""},
		{"parked", "", "\treason TEXT NOT NULL,\n"}, // it takes what book refuses
	} {
		fmt.Fprintf(&b, `CREATE TABLE %[1]s (
	type TEXT%[2]s,
	seq INTEGER NOT NULL,
	writer TEXT NOT NULL,
	time TEXT,
	request_id TEXT,
	record TEXT NOT NULL,
%[3]s	PRIMARY KEY (writer, seq)
) STRICT;
CREATE INDEX %[1]s_request ON %[1]s (request_id) WHERE request_id IS NOT NULL;
CREATE INDEX %[1]s_denied ON %[1]s (time) WHERE type = 'deny';
CREATE INDEX %[1]s_audit ON %[1]s (time) WHERE type IN ('admin', 'start', 'adjust');
`, table.name, table.must, table.more)
	}
	b.WriteString(view() + ";\n")
	b.WriteString(`CREATE TABLE heads (writer TEXT NOT NULL PRIMARY KEY, seq INTEGER NOT NULL, hash TEXT NOT NULL) STRICT, WITHOUT ROWID;
`)
	names := strings.Join(splitColumns[:], ", ")
	fmt.Fprintf(&b, "CREATE TABLE splits (id INTEGER PRIMARY KEY, %s TEXT NOT NULL, UNIQUE (%s)) STRICT;\n", strings.ReplaceAll(names, ",", " TEXT NOT NULL,"), names)
	b.WriteString("CREATE TABLE users (id INTEGER PRIMARY KEY, user TEXT NOT NULL UNIQUE) STRICT;\n")
	b.WriteString("CREATE TABLE usage (level INTEGER NOT NULL, quarter INTEGER NOT NULL, split INTEGER NOT NULL, user INTEGER NOT NULL")
	for _, name := range addends() {
		fmt.Fprintf(&b, ", %s INTEGER", name)
		if name != "cost_nano" { // NULL = none is known
			b.WriteString(" NOT NULL")
		}
	}
	b.WriteString(", PRIMARY KEY (level, quarter, split, user)) STRICT, WITHOUT ROWID;\n")
	b.WriteString("CREATE TABLE folded (id INTEGER PRIMARY KEY CHECK (id = 0), quarter INTEGER NOT NULL) STRICT;\n")
	fmt.Fprintf(&b, "PRAGMA user_version = %d;\n", schemaVersion)
	return b.String()
}

// view makes the view records.
func view() string {
	return fmt.Sprintf("CREATE VIEW records AS SELECT %[1]s FROM book UNION ALL SELECT %[1]s FROM parked", fields())
}

// prepare makes the schema, or checks that it is the one we know. The view is
// made anew if an airgate made it that knew fewer fields: the records have what
// they have.
func prepare(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it does nothing
	have, err := versionOf(ctx, tx)
	if err != nil {
		return err
	}
	if have == 0 {
		if _, err := tx.ExecContext(ctx, schema()); err != nil {
			return fmt.Errorf("create the schema: %w", err)
		}
	}
	var made string
	if err := tx.QueryRowContext(ctx, "SELECT coalesce(max(sql), '') FROM sqlite_schema WHERE type = 'view' AND name = 'records'").Scan(&made); err != nil {
		return fmt.Errorf("read the schema: %w", err)
	}
	if made != view() {
		if _, err := tx.ExecContext(ctx, "DROP VIEW IF EXISTS records; "+view()); err != nil {
			return fmt.Errorf("create view records: %w", err)
		}
	}
	return tx.Commit()
}

// versionOf is the schema's version; 0 = there is none.
func versionOf(ctx context.Context, q querier) (int, error) {
	var have, tables int
	err := q.QueryRowContext(ctx, "SELECT (SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_schema)").Scan(&have, &tables)
	switch {
	case err != nil:
		return 0, fmt.Errorf("read the schema's version: %w", err)
	case have > schemaVersion:
		return 0, fmt.Errorf("the schema has version %d, this airgate knows %d: run the newer airgate that wrote it, or choose another file", have, schemaVersion)
	case have == 0 && tables > 0:
		return 0, errors.New("the file is another program's database: choose another one")
	case have > 0 && have < schemaVersion:
		return 0, fmt.Errorf("the schema has version %d, this airgate makes %d: move the file aside; a new one is filled with what the journal still has", have, schemaVersion)
	}
	return have, nil
}
