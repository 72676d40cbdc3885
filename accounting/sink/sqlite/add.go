package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"airgate/accounting/money"
	"airgate/accounting/record"
	"airgate/accounting/report"
)

// adding answers questions that are split by the same dimensions. It adds the
// rows of the sums up itself: SQLite would sort all of them, names and figures,
// to put those together that belong together, which takes longer, and it cannot
// take some away.
type adding struct {
	tx     *sql.Tx
	by     []report.Dimension
	have   extent
	levels []level

	bySplit, byUser bool

	groups [][]string      // values of the dimensions that a split has, in their order
	group  map[int64]int64 // :: id of a split → its place in groups
}

func newAdding(ctx context.Context, tx *sql.Tx, by []report.Dimension, have extent) (*adding, error) {
	a := &adding{tx: tx, by: by, have: have}
	var byDay bool
	var columns []string
	for _, d := range by {
		switch d {
		case report.Day:
			byDay = true
		case report.User:
			a.byUser = true
		case report.Team, report.Key, report.Purpose, report.Model, report.Provider, report.Class, report.CostCenter:
			a.bySplit = true
			columns = append(columns, string(d))
		default:
			return nil, fmt.Errorf("read usage: unknown dimension %q", d)
		}
	}
	a.levels = levels(byDay, a.byUser, a.bySplit)
	if !a.bySplit {
		return a, nil
	}
	if err := a.readGroups(ctx, columns); err != nil {
		return nil, fmt.Errorf("read usage: %w", err)
	}
	return a, nil
}

// readGroups finds which splits have the same values in these columns.
func (a *adding) readGroups(ctx context.Context, columns []string) error {
	rows, err := a.tx.QueryContext(ctx, "SELECT id, "+strings.Join(columns, ", ")+" FROM splits") //nolint:gosec // our own names only
	if err != nil {
		return err
	}
	defer rows.Close() //nolint:errcheck // Err tells
	a.group = map[int64]int64{}
	known := map[split]int64{} // the columns that are not asked for are empty
	for rows.Next() {
		var id int64
		var values split
		into := []any{&id}
		for i := range columns {
			into = append(into, &values[i])
		}
		if err := rows.Scan(into...); err != nil {
			return err
		}
		g, ok := known[values]
		if !ok {
			g = int64(len(a.groups))
			known[values] = g
			a.groups = append(a.groups, slices.Clone(values[:len(columns)]))
		}
		a.group[id] = g
	}
	return rows.Err()
}

// place is what a row of the answer is about; 0 where it is not split so.
type place struct{ group, user int64 }

// span is the usage of [from, to), which is in one day if it is split by day.
func (a *adding) span(ctx context.Context, from, to int64) ([]report.UsageRow, error) {
	sums := map[place][]int64{}
	for _, s := range a.have.spans(from, to, a.levels) {
		if err := a.add(ctx, sums, s); err != nil {
			return nil, fmt.Errorf("read usage: %w", err)
		}
	}
	users, err := a.users(ctx, sums)
	if err != nil {
		return nil, fmt.Errorf("read usage: %w", err)
	}
	rows := make([]report.UsageRow, 0, len(sums))
	for at, sum := range sums {
		if !slices.ContainsFunc(sum, func(n int64) bool { return n != 0 }) {
			continue // it was added, and taken away again
		}
		row := report.UsageRow{Sums: sumsOf(sum), Values: make([]string, len(a.by))}
		next := 0
		for i, d := range a.by {
			switch d {
			case report.Day:
				row.Values[i] = startOf(from).Format(time.DateOnly)
			case report.User:
				row.Values[i] = users[at.user]
			default:
				row.Values[i] = a.groups[at.group][next]
				next++
			}
		}
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b report.UsageRow) int { return slices.Compare(a.Values, b.Values) })
	return rows, nil
}

// ofSpan asks for the rows of a span.
func ofSpan() string {
	return "SELECT split, user, " + strings.Join(addends(), ", ") + " FROM usage WHERE level = ? AND quarter >= ? AND quarter < ?"
}

// mostOfAll is where the sum of rows stops.
const mostOfAll = 1 << 62

// add adds the rows of a span to the sums, or takes them away.
func (a *adding) add(ctx context.Context, sums map[place][]int64, s span) error {
	rows, err := a.tx.QueryContext(ctx, ofSpan(), int64(s.level), s.first, s.end)
	if err != nil {
		return err
	}
	defer rows.Close() //nolint:errcheck // Err tells
	row := make([]any, 2+len(addends()))
	into := make([]any, len(row))
	for i := range row {
		into[i] = &row[i] // a pointer to a number would cost reflection
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return err
		}
		split, _ := row[0].(int64)
		user, _ := row[1].(int64)
		var at place
		if a.bySplit {
			g, ok := a.group[split]
			if !ok {
				return fmt.Errorf("a row is of split %d, which is not there", split)
			}
			at.group = g
		}
		if a.byUser {
			at.user = user
		}
		sum := sums[at]
		if sum == nil {
			sum = make([]int64, len(row)-2)
			sums[at] = sum
		}
		for i, v := range row[2:] {
			n, _ := v.(int64) // the table is strict; NULL is a cost that is not known
			if s.minus {
				n = -n
			}
			sum[i] = bounded(sum[i]+n, mostOfAll)
		}
	}
	return rows.Err()
}

// sumsOf takes a sum of rows apart. Whether a cost is known cannot be added and
// taken away; that there is one can.
func sumsOf(sum []int64) report.Sums {
	s := report.Sums{Requests: sum[0], Unpriced: sum[1], Estimated: sum[2], Cost: money.NanoUSD(sum[3]), EstimatedCost: money.NanoUSD(sum[4])}
	s.HasCost = s.Requests > s.Unpriced || s.Cost != 0
	sum = sum[5:]
	for _, n := range record.Buckets(&s.Tokens) {
		*n, sum = money.Tokens(sum[0]), sum[1:]
	}
	return s
}

// users are the names of those that the sums are about.
func (a *adding) users(ctx context.Context, sums map[place][]int64) (names map[int64]string, err error) {
	if !a.byUser {
		return nil, nil
	}
	names = make(map[int64]string, len(sums))
	for at := range sums {
		names[at.user] = ""
	}
	ids, err := json.Marshal(slices.Collect(maps.Keys(names)))
	if err != nil {
		return nil, err
	}
	rows, err := a.tx.QueryContext(ctx, "SELECT id, user FROM users WHERE id IN (SELECT value FROM json_each(?))", string(ids))
	if err != nil {
		return nil, err
	}
	defer rows.Close() //nolint:errcheck // Err tells
	for rows.Next() {
		var id int64
		var name string
		if err := rows.Scan(&id, &name); err != nil {
			return nil, err
		}
		names[id] = name
	}
	return names, rows.Err()
}
