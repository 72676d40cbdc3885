package sqlite

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"airgate/accounting/record"
	"airgate/accounting/sink"
)

// Gaps implements sink.Sink. Its cost grows with the writers, not with the book.
func (r *Reader) Gaps(ctx context.Context, heads []record.Head) ([]sink.Gap, error) {
	all, err := r.gaps(ctx, heads)
	if err != nil {
		return nil, fmt.Errorf("find gaps: %w", err)
	}
	return all, nil
}

func (r *Reader) gaps(ctx context.Context, heads []record.Head) ([]sink.Gap, error) {
	tx, err := r.db.BeginTx(ctx, nil) // all of one moment
	if err != nil {
		return nil, err
	}
	defer tx.Rollback()          //nolint:errcheck // it only reads
	there := map[string]uint64{} // :: writer → its last record that there was
	for _, h := range heads {
		there[h.Writer] = max(there[h.Writer], h.Seq)
	}
	if err := numbers(ctx, tx, namedHeads, func(writer string, seq uint64) {
		there[writer] = max(there[writer], seq)
	}); err != nil {
		return nil, err
	}
	var all []sink.Gap
	if err := numbers(ctx, tx, firstRecords, func(writer string, first uint64) {
		if first > 1 {
			all = append(all, sink.Gap{Writer: writer, First: 1, Last: first - 1})
		}
	}); err != nil {
		return nil, err
	}
	last := map[string]uint64{} // :: writer → its last record that is stored
	if err := numbers(ctx, tx, allHeads, func(writer string, seq uint64) { last[writer] = seq }); err != nil {
		return nil, err
	}
	for writer, seq := range there {
		if seq > last[writer] {
			all = append(all, sink.Gap{Writer: writer, First: last[writer] + 1, Last: seq})
		}
	}
	slices.SortFunc(all, func(a, b sink.Gap) int { return cmp.Or(cmp.Compare(a.Writer, b.Writer), cmp.Compare(a.First, b.First)) })
	return all, nil
}

// Known implements sink.Sink.
func (r *Reader) Known(ctx context.Context) (map[string]uint64, error) {
	known := map[string]uint64{}
	for _, query := range []string{allHeads, namedHeads} {
		if err := numbers(ctx, r.db, query, func(writer string, seq uint64) { known[writer] = max(known[writer], seq) }); err != nil {
			return nil, fmt.Errorf("find writers: %w", err)
		}
	}
	return known, nil
}

// What names records. A record that was damaged names none: it does not keep
// the others from being told. Nor does a writer that has a head and no record: it
// begins behind that.
const (
	allHeads   = "SELECT writer, seq FROM heads"
	namedHeads = "SELECT coalesce(h.value ->> 'writer', ''), coalesce(CAST(h.value ->> 'seq' AS INTEGER), 0) FROM records AS r CROSS JOIN json_each(r.record, '$.heads') AS h" +
		" WHERE r.type IN ('admin', 'start', 'adjust') AND r.type = 'start' AND json_valid(r.record) AND h.type = 'object'"
	firstRecords = "SELECT writer, coalesce((SELECT min(seq) FROM (SELECT min(seq) AS seq FROM book AS b WHERE b.writer = h.writer UNION ALL" +
		" SELECT min(seq) FROM parked AS p WHERE p.writer = h.writer)), h.seq + 1) FROM heads AS h"
)

// numbers tells each writer, and number of a record, that the query finds.
func numbers(ctx context.Context, q querier, query string, tell func(writer string, seq uint64)) error {
	rows, err := q.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close() //nolint:errcheck // Err tells
	for rows.Next() {
		var writer string
		var seq int64
		if err := rows.Scan(&writer, &seq); err != nil {
			return err
		}
		tell(writer, uint64(max(0, seq)))
	}
	return rows.Err()
}
