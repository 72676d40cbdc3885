package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"airgate/accounting/money"
	"airgate/accounting/record"
	"airgate/accounting/usage"
)

// schemaVersion is PRAGMA user_version.
const schemaVersion = 1

// column is the name of a field's column. Money is kept as an integer of
// nano-USD; beside it a generated column, which takes no room, shows USD.
func column(f *record.Field) string {
	if f.Kind == record.Money {
		return strings.TrimSuffix(f.Name, "_usd") + "_nano"
	}
	return f.Name
}

// columns of table records that hold fields, in the order of the book, quoted.
func columns() []string {
	var all []string
	for f := range record.Fields() {
		all = append(all, `"`+column(f)+`"`)
	}
	return all
}

// split is what usage is summed by. The account of users is a table of its
// own: with every user a row, the other questions would read far more rows.
var split = [...]string{"team", "key", "purpose", "model", "provider", "class", "cost_center"} //nolint:gochecknoglobals // an immutable table

// tables with sums. :: name → columns that it splits by, beside the quarter
func sums() map[string][]string {
	return map[string][]string{
		"usage":         split[:],
		"usage_by_user": append(split[:len(split):len(split)], "user"),
	}
}

// buckets are the columns of the token sums.
func buckets() []string {
	var all []string
	for name := range record.Buckets(new(usage.Tokens)) {
		all = append(all, name)
	}
	return all
}

func schema() string {
	var b strings.Builder
	b.WriteString("CREATE TABLE records (\n")
	for f := range record.Fields() {
		kind := "TEXT"
		switch f.Kind {
		case record.Integer, record.Flag, record.Money:
			kind = "INTEGER"
		case record.Text, record.Structured:
		}
		if f.Name == "type" || f.Name == "seq" || f.Name == "writer" {
			kind += " NOT NULL"
		}
		fmt.Fprintf(&b, "\t%q %s,\n", column(f), kind)
		if f.Kind == record.Money {
			fmt.Fprintf(&b, "\t%q TEXT GENERATED ALWAYS AS (%s) VIRTUAL,\n", f.Name, dollars(column(f)))
		}
	}
	b.WriteString(`	PRIMARY KEY (writer, seq)
) STRICT;
CREATE INDEX records_request ON records (request_id) WHERE request_id IS NOT NULL;
CREATE INDEX records_denied ON records (time) WHERE type = 'deny';
CREATE INDEX records_audit ON records (time) WHERE type IN ('admin', 'start', 'adjust');
CREATE TABLE heads (writer TEXT NOT NULL PRIMARY KEY, seq INTEGER NOT NULL, hash TEXT NOT NULL) STRICT, WITHOUT ROWID;
`)
	for name, by := range sums() {
		fmt.Fprintf(&b, "CREATE TABLE %s (quarter INTEGER NOT NULL", name)
		for _, d := range by {
			fmt.Fprintf(&b, ", %s TEXT NOT NULL", d)
		}
		b.WriteString(", requests INTEGER NOT NULL, cost_nano INTEGER")
		for _, bucket := range buckets() {
			fmt.Fprintf(&b, ", %s INTEGER NOT NULL", bucket)
		}
		fmt.Fprintf(&b, ", PRIMARY KEY (quarter, %s)) STRICT, WITHOUT ROWID;\n", strings.Join(by, ", "))
	}
	fmt.Fprintf(&b, "PRAGMA user_version = %d;\n", schemaVersion)
	return b.String()
}

// dollars is SQL for nano-USD as the shortest decimal, exact over the whole
// range.
func dollars(nano string) string {
	unit := int64(money.USD)
	return fmt.Sprintf("CASE WHEN %[1]s IS NOT NULL THEN iif(%[1]s < 0, '-', '') || rtrim(rtrim(printf('%%d.%%09d', abs(%[1]s / %[2]d), abs(%[1]s %% %[2]d)), '0'), '.') END", nano, unit)
}

// prepare makes the schema, or checks that it is the one we know.
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
	return tx.Commit()
}

// versionOf is the schema's version; 0 = there is none.
func versionOf(ctx context.Context, q interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
},
) (int, error) {
	var have, tables int
	err := q.QueryRowContext(ctx, "SELECT (SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_schema)").Scan(&have, &tables)
	switch {
	case err != nil:
		return 0, fmt.Errorf("read the schema's version: %w", err)
	case have > schemaVersion:
		return 0, fmt.Errorf("the schema has version %d, this airgate knows %d: run the newer airgate that wrote it, or choose another file", have, schemaVersion)
	case have == 0 && tables > 0:
		return 0, errors.New("the file is another program's database: choose another one")
	}
	return have, nil
}
