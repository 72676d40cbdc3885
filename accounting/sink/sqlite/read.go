package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

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
func (r *Reader) Heads(ctx context.Context) ([]record.Head, error) {
	all, err := headsOf(ctx, r.db, "")
	return all, told(r.path, err)
}

// Starts are the start records of all writers that have one here, oldest first.
func (r *Reader) Starts(ctx context.Context) ([]record.Record, error) {
	all, err := recordsOf(ctx, r.db, starts)
	return all, told(r.path, err)
}

// Records yields a writer's records in order, from number from on, parked ones
// in their places. Encoded again, each is the bytes that the journal chained. It
// ends with an error at a row that holds no record, or another one.
func (r *Reader) Records(ctx context.Context, writer string, from uint64) iter.Seq2[record.Record, error] {
	return func(yield func(record.Record, error) bool) {
		const page = 256
		for {
			all, err := recordsOf(ctx, r.db, fromWriter, writer, int64(min(from, math.MaxInt64)), page)
			for i := range all {
				if all[i].Writer != writer || all[i].Seq < from {
					err = fmt.Errorf("the row holds record %d of %s", all[i].Seq, all[i].Writer)
					break
				}
				if !yield(all[i], nil) {
					return
				}
				from = all[i].Seq + 1
			}
			if err != nil {
				yield(record.Record{}, fmt.Errorf("read record %d of %s, or the next one: %w", from, writer, err))
			}
			if err != nil || len(all) < page {
				return
			}
		}
	}
}

// recordsOf reads records: the rest of the query is what follows "SELECT record, ".
// Those before one that cannot be read are returned with the error.
func recordsOf(ctx context.Context, q querier, rest string, args ...any) ([]record.Record, error) {
	rows, err := q.QueryContext(ctx, "SELECT record, "+rest, args...)
	if err != nil {
		return nil, fmt.Errorf("read records: %w", err)
	}
	defer rows.Close() //nolint:errcheck // Err tells
	var all []record.Record
	var encoded, order sql.RawBytes
	for rows.Next() {
		if err := rows.Scan(&encoded, &order); err != nil {
			return nil, fmt.Errorf("read records: %w", err)
		}
		rec, err := record.ParseJSON(encoded)
		if err != nil {
			return all, fmt.Errorf("read records: %w", err)
		}
		all = append(all, rec)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read records: %w", err)
	}
	return all, nil
}

// callsOf are the intent and the settlement of a request, as far as there are.
func callsOf(ctx context.Context, q querier, id string) ([]record.Record, error) {
	all, err := recordsOf(ctx, q, ofRequest, id)
	return slices.DeleteFunc(all, func(r record.Record) bool { return r.Type != record.Intent && r.Type != record.Settle }), err
}

// The questions of the API, each answered along an index: what follows SELECT
// record. Only where the column that gives the order is selected too, the two
// tables behind the view are merged along their indexes.
const (
	fromWriter   = "seq FROM records WHERE writer = ? AND seq >= ? ORDER BY seq LIMIT ?"
	ofRequest    = "seq FROM records WHERE request_id = ?"
	ofRequests   = "request_id FROM records WHERE request_id BETWEEN ? AND ? ORDER BY request_id DESC"
	denials      = "time FROM records WHERE type = 'deny' %s ORDER BY time DESC LIMIT ?"
	operations   = "time FROM records WHERE type IN ('admin', 'start', 'adjust') %s ORDER BY time DESC LIMIT ?"
	starts       = "time FROM records WHERE type IN ('admin', 'start', 'adjust') AND type = 'start' ORDER BY time"
	calls        = "request_id FROM records WHERE request_id IS NOT NULL AND type IN ('intent', 'extend', 'settle') %s ORDER BY request_id DESC LIMIT ?"
	requestsPage = "SELECT DISTINCT request_id FROM book WHERE request_id IS NOT NULL AND type IN ('intent', 'settle', 'deny') %s ORDER BY request_id DESC LIMIT ?"
)

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
	ids, err := r.strings(ctx, fmt.Sprintf(requestsPage, where), append(args, limit+1)...)
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
	all, err := recordsOf(ctx, r.db, ofRequests, ids[len(ids)-1], ids[0])
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
	all, err := recordsOf(ctx, r.db, ofRequest, strings.ToLower(id))
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
	all, err := recordsOf(ctx, r.db, fmt.Sprintf(denials, ""), limit)
	return report.Denials{Denials: all}, err
}

// Audit implements report.Source. Its cost does not grow with the book, but for
// conditions that few records meet.
func (r *Reader) Audit(ctx context.Context, q report.AuditQuery) (report.Audit, error) {
	if q.RequestID != "" {
		return r.auditRequest(ctx, &q)
	}
	var out report.Audit
	for query, types := range map[string][]record.Type{
		operations: {record.Admin, record.Start, record.Adjust}, denials: {record.Deny}, calls: {record.Intent, record.Extend, record.Settle},
	} {
		types = slices.DeleteFunc(types, func(t record.Type) bool { return !q.Wants(t) })
		if len(types) == 0 {
			continue
		}
		where, args := conditions(&q, types)
		all, err := recordsOf(ctx, r.db, fmt.Sprintf(query, where), append(args, q.Limit)...)
		if err != nil {
			return out, err
		}
		out.Audit = append(out.Audit, all...)
	}
	newestFirst(out.Audit)
	out.Audit = out.Audit[:min(len(out.Audit), q.Limit)]
	return out, nil
}

// auditRequest is everything about one request, raw and merged.
func (r *Reader) auditRequest(ctx context.Context, q *report.AuditQuery) (report.Audit, error) {
	all, err := recordsOf(ctx, r.db, ofRequest, strings.ToLower(q.RequestID))
	if err != nil {
		return report.Audit{}, err
	}
	if len(all) == 0 {
		return report.Audit{}, fmt.Errorf("read request: %w", report.ErrNotFound)
	}
	merged := report.Merge(all)
	all = slices.DeleteFunc(all, func(rec record.Record) bool { return !q.Wants(rec.Type) })
	newestFirst(all)
	return report.Audit{Audit: all, Request: &merged}, nil
}

// newestFirst orders records as they happened, the calls at their admission.
func newestFirst(all []record.Record) {
	at := func(r *record.Record) time.Time {
		if ofCall(r.Type) {
			return admission(r)
		}
		return r.Time
	}
	slices.SortFunc(all, func(a, b record.Record) int {
		return cmp.Or(at(&b).Compare(at(&a)), cmp.Compare(b.RequestID, a.RequestID), b.Time.Compare(a.Time), cmp.Compare(a.Writer, b.Writer), cmp.Compare(b.Seq, a.Seq))
	})
}

// ofCall says that a record counts at the admission of its call.
func ofCall(t record.Type) bool {
	return t == record.Intent || t == record.Extend || t == record.Settle
}

// conditions are those of q in SQL, for records of these types. The time of a
// call is in its id.
func conditions(q *report.AuditQuery, types []record.Type) (where string, args []any) {
	and := func(condition string, values ...any) {
		where += " AND " + condition
		args = append(args, values...)
	}
	var names []any
	for _, t := range types {
		names = append(names, t.String())
	}
	and("type IN (?"+strings.Repeat(", ?", len(names)-1)+")", names...)
	if q.Key != "" {
		and("(key_id = ? OR key_name = ?)", q.Key, q.Key)
	}
	if q.Team != "" {
		and("instr('/' || coalesce(team_path, team) || '/', ?) > 0", "/"+q.Team+"/")
	}
	column, bound := "time", func(t time.Time) string { return t.UTC().Format(record.TimeLayout) }
	if slices.ContainsFunc(types, ofCall) {
		column, bound = "request_id", func(t time.Time) string {
			ms := max(0, t.UnixMilli())
			return fmt.Sprintf("%08x-%04x", ms>>16, ms&0xffff)
		}
	}
	if !q.From.IsZero() {
		and(column+" >= ?", bound(q.From))
	}
	if !q.To.IsZero() {
		and(column+" < ?", bound(q.To))
	}
	return where, args
}

// Usage implements report.Source. Without a bound it covers all there is.
func (r *Reader) Usage(ctx context.Context, q report.UsageQuery) (report.Usage, error) {
	u := report.Usage{By: q.By, Rows: []report.UsageRow{}}
	tx, err := r.db.BeginTx(ctx, nil) // what is folded, and the sums, at one moment
	if err != nil {
		return u, fmt.Errorf("read usage: %w", err)
	}
	defer tx.Rollback() //nolint:errcheck // it only reads
	have, some, err := extentOf(ctx, tx)
	if err != nil || !some {
		u.From, u.To = q.From, q.To
		return u, err
	}
	from, to := have.oldest, have.newest+1
	if !q.From.IsZero() {
		from = quarterOf(q.From)
	}
	if !q.To.IsZero() {
		to = quarterOf(q.To.Add(quarter - time.Millisecond))
	}
	to = max(from, to)
	u.From, u.To = startOf(from), startOf(to)
	of, err := newAdding(ctx, tx, q.By, have)
	if err != nil {
		return u, err
	}
	if !slices.Contains(q.By, report.Day) {
		u.Rows, err = of.span(ctx, from, to)
		return u, err
	}
	for {
		day, some, err := nextQuarter(ctx, tx, from, to)
		if err != nil || !some {
			slices.SortFunc(u.Rows, func(a, b report.UsageRow) int { return slices.Compare(a.Values, b.Values) })
			return u, err
		}
		from = min(days.next(days.first(day)), to)
		rows, err := of.span(ctx, day, from)
		if err != nil {
			return u, err
		}
		u.Rows = append(u.Rows, rows...)
	}
}
