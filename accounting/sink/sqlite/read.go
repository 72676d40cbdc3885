package sqlite

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"airgate/accounting/money"
	"airgate/accounting/record"
	"airgate/accounting/report"
)

// Head implements sink.Sink.
func (r *Reader) Head(ctx context.Context, writer string) (record.Head, error) {
	h, err := headOf(ctx, r.db, writer)
	if err != nil || h.Seq == 0 {
		return record.Head{}, err
	}
	return h, nil
}

// Heads are the heads of all writers: what journal.Verify anchors to.
func (r *Reader) Heads(ctx context.Context) ([]record.Head, error) { return headsOf(ctx, r.db, "") }

// Records yields a writer's records in order, behind the one with number
// after. Encoded again, each is the bytes that the journal chained.
func (r *Reader) Records(ctx context.Context, writer string, after uint64) iter.Seq2[record.Record, error] {
	return func(yield func(record.Record, error) bool) {
		const page = 256
		for {
			all, err := recordsOf(ctx, r.db, "WHERE writer = ? AND seq > ? ORDER BY seq LIMIT ?", writer, int64(after), page)
			if err != nil {
				yield(record.Record{}, err)
				return
			}
			for _, rec := range all {
				if !yield(rec, nil) {
					return
				}
				after = rec.Seq
			}
			if len(all) < page {
				return
			}
		}
	}
}

// recordsOf rebuilds records from their columns.
func recordsOf(ctx context.Context, q querier, where string, args ...any) ([]record.Record, error) {
	names := columns()
	rows, err := q.QueryContext(ctx, "SELECT "+strings.Join(names, ", ")+" FROM records "+where, args...)
	if err != nil {
		return nil, fmt.Errorf("read records: %w", err)
	}
	defer rows.Close() //nolint:errcheck // Err tells
	values := make([]any, len(names))
	into := make([]any, len(names))
	for i := range values {
		into[i] = &values[i]
	}
	var all []record.Record
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return nil, fmt.Errorf("read records: %w", err)
		}
		var rec record.Record
		n := 0
		for f := range record.Fields() {
			if err := f.SetValue(&rec, values[n]); err != nil {
				return nil, fmt.Errorf("read record %d of %s: %w", rec.Seq, rec.Writer, err)
			}
			n++
		}
		all = append(all, rec)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read records: %w", err)
	}
	return all, nil
}

// Requests implements report.Source. Ids of requests are UUIDv7, so their
// order is the order of admission; the cursor is the last id of a page.
func (r *Reader) Requests(ctx context.Context, limit int, before string) (report.Requests, error) {
	var page report.Requests
	where, args := "", []any{}
	if before != "" {
		if uuid.Validate(before) != nil {
			return page, fmt.Errorf("read requests: %w", report.ErrBadCursor)
		}
		where, args = "AND request_id < ?", append(args, strings.ToLower(before))
	}
	ids, err := r.strings(ctx, "SELECT DISTINCT request_id FROM records WHERE request_id IS NOT NULL AND type IN ('intent', 'settle', 'deny') "+
		where+" ORDER BY request_id DESC LIMIT ?", append(args, limit+1)...)
	if err != nil {
		return page, fmt.Errorf("read requests: %w", err)
	}
	if len(ids) > limit {
		ids = ids[:limit]
		page.Next = ids[limit-1]
	}
	page.Requests = make([]report.Request, 0, len(ids))
	if len(ids) == 0 {
		return page, nil
	}
	// Between the oldest and the newest id are exactly the page's requests,
	// and those that began meanwhile on another replica.
	all, err := recordsOf(ctx, r.db, "WHERE request_id BETWEEN ? AND ? ORDER BY request_id DESC, rowid", ids[len(ids)-1], ids[0])
	if err != nil {
		return page, err
	}
	for len(all) > 0 {
		id := all[0].RequestID
		n := slices.IndexFunc(all, func(rec record.Record) bool { return rec.RequestID != id })
		if n < 0 {
			n = len(all)
		}
		if slices.Contains(ids, id) {
			page.Requests = append(page.Requests, report.Merge(all[:n]))
		}
		all = all[n:]
	}
	return page, nil
}

func (r *Reader) strings(ctx context.Context, query string, args ...any) (all []string, err error) {
	rows, err := r.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, rows.Err()
}

// Request implements report.Source.
func (r *Reader) Request(ctx context.Context, id string) (report.Request, error) {
	all, err := recordsOf(ctx, r.db, "WHERE request_id = ? ORDER BY rowid", strings.ToLower(id))
	if err != nil {
		return report.Request{}, err
	}
	if len(all) == 0 {
		return report.Request{}, fmt.Errorf("read request: %w", report.ErrNotFound)
	}
	return report.Merge(all), nil
}

// Denials implements report.Source.
func (r *Reader) Denials(ctx context.Context, limit int) (report.Denials, error) {
	all, err := recordsOf(ctx, r.db, "WHERE type = 'deny' ORDER BY time DESC, rowid DESC LIMIT ?", limit)
	return report.Denials{Denials: all}, err
}

// Audit implements report.Source.
func (r *Reader) Audit(ctx context.Context, limit int) (report.Audit, error) {
	all, err := recordsOf(ctx, r.db, "WHERE type IN ('admin', 'start', 'adjust') ORDER BY time DESC, rowid DESC LIMIT ?", limit)
	return report.Audit{Audit: all}, err
}

// Usage implements report.Source. Without a bound it covers all there is.
func (r *Reader) Usage(ctx context.Context, q report.UsageQuery) (report.Usage, error) {
	u := report.Usage{By: q.By, Rows: []report.UsageRow{}}
	from, to, err := r.quarters(ctx, q)
	if err != nil {
		return u, err
	}
	if from == to {
		u.From, u.To = q.From, q.To
		return u, nil
	}
	u.From, u.To = startOf(from), startOf(to)

	table := "usage"
	var by []string
	for _, d := range q.By {
		switch d {
		case report.Day:
			by = append(by, "coalesce(date(quarter * 900, 'unixepoch'), '')")
			continue
		case report.User:
			table = "usage_by_user"
		case report.Team, report.Key, report.Purpose, report.Model, report.Provider, report.Class, report.CostCenter:
		default:
			return u, fmt.Errorf("read usage: unknown dimension %q", d)
		}
		by = append(by, string(d))
	}
	what := append(slices.Clone(by), "sum(requests)", "sum(cost_nano)")
	for _, bucket := range buckets() {
		what = append(what, "sum("+bucket+")")
	}
	rest := "HAVING count(*) > 0"
	if len(by) > 0 {
		group := strings.Join(by, ", ")
		rest = "GROUP BY " + group + " ORDER BY " + group
	}
	query := fmt.Sprintf("SELECT %s FROM %s WHERE quarter >= ? AND quarter < ? %s", strings.Join(what, ", "), table, rest) //nolint:gosec // our own names only
	rows, err := r.db.QueryContext(ctx, query, from, to)
	if err != nil {
		return u, fmt.Errorf("read usage: %w", err)
	}
	defer rows.Close() //nolint:errcheck // Err tells
	for rows.Next() {
		row := report.UsageRow{Values: make([]string, len(by))}
		var cost *int64
		var into []any
		for i := range row.Values {
			into = append(into, &row.Values[i])
		}
		into = append(into, &row.Requests, &cost)
		for _, n := range record.Buckets(&row.Tokens) {
			into = append(into, n)
		}
		if err := rows.Scan(into...); err != nil {
			return u, fmt.Errorf("read usage: %w", err)
		}
		if cost != nil {
			row.Cost, row.HasCost = money.NanoUSD(*cost), true
		}
		u.Rows = append(u.Rows, row)
	}
	if err := rows.Err(); err != nil {
		return u, fmt.Errorf("read usage: %w", err)
	}
	return u, nil
}

// quarters are the query's bounds, widened, the missing ones taken from what
// is there; equal = nothing is there.
func (r *Reader) quarters(ctx context.Context, q report.UsageQuery) (from, to int64, err error) {
	var oldest, newest *int64
	if err := r.db.QueryRowContext(ctx, "SELECT (SELECT min(quarter) FROM usage), (SELECT max(quarter) FROM usage)").Scan(&oldest, &newest); err != nil {
		return 0, 0, fmt.Errorf("read usage: %w", err)
	}
	if oldest == nil {
		return 0, 0, nil
	}
	from, to = *oldest, *newest+1
	if !q.From.IsZero() {
		from = quarterOf(q.From)
	}
	if !q.To.IsZero() {
		to = quarterOf(q.To.Add(quarter - time.Millisecond))
	}
	return from, max(from, to), nil
}

func startOf(q int64) time.Time { return time.UnixMilli(q * quarter.Milliseconds()).UTC() }
