// Package sqlite keeps the book in one SQLite file: the sink that needs nothing
// else, and the one that the reports read.
//
// A batch, the writer's head, and the sums of usage that it changes are one
// transaction, durable when Write returns (WAL, synchronous=FULL). There is one
// connection that writes; readers have their own, which cannot.
//
// Table records has section 8's fields as columns, table heads the last record
// of each writer. Tables usage and usage_by_user are sums for each quarter of an
// hour; they can be made again from records.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"airgate/accounting/record"
	"airgate/accounting/report"
	"airgate/accounting/sink"
	"airgate/accounting/usage"
)

// Sink is an open database that is written. It implements sink.Sink and, by
// its Reader, report.Source.
type Sink struct {
	*Reader

	db *sql.DB
}

var (
	_ sink.Sink     = (*Sink)(nil)
	_ report.Source = (*Reader)(nil)
)

// Open opens the file at path, making it where there is none (mode 0600).
func Open(ctx context.Context, path string) (_ *Sink, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("open %s: %w", path, err)
		}
	}()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // the configured file
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	db, err := connect(path, "rw", "&_txlock=immediate&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	if err := prepare(ctx, db); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	reader, err := OpenReadOnly(ctx, path)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &Sink{Reader: reader, db: db}, nil
}

// connect opens a pool for the file. Other processes' locks are waited for,
// up to five seconds.
func connect(path, mode, pragmas string) (*sql.DB, error) {
	file := (&url.URL{Path: path}).EscapedPath()
	return sql.Open("sqlite", "file:"+file+"?mode="+mode+"&_pragma=busy_timeout(5000)"+pragmas)
}

// Write implements sink.Sink.
func (s *Sink) Write(ctx context.Context, batch []record.Record) error {
	if len(batch) == 0 {
		return nil
	}
	if err := s.write(ctx, batch); err != nil {
		return fmt.Errorf("write records: %w", err)
	}
	return nil
}

func (s *Sink) write(ctx context.Context, batch []record.Record) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it does nothing
	head, err := headOf(ctx, tx, batch[0].Writer)
	if err != nil {
		return err
	}
	before := head.Seq
	names := columns()
	insert, err := tx.PrepareContext(ctx, insertInto("records", names))
	if err != nil {
		return err
	}
	defer insert.Close() //nolint:errcheck // its transaction ends with it
	values := make([]any, len(names))
	var encoded []byte
	added := newTotals()
	for i := range batch {
		r := &batch[i]
		if r.Writer != head.Writer {
			return fmt.Errorf("records of %s and %s in one batch", head.Writer, r.Writer)
		}
		if r.Seq <= before {
			continue
		}
		if head.Seq > 0 && (r.Seq != head.Seq+1 || r.Prev != head.Hash) {
			return fmt.Errorf("record %d of %s behind record %d: %w", r.Seq, r.Writer, head.Seq, sink.ErrGap)
		}
		n := 0
		for f := range record.Fields() {
			values[n] = f.Value(r)
			n++
		}
		if _, err := insert.ExecContext(ctx, values...); err != nil {
			return err
		}
		if err := added.add(ctx, tx, r); err != nil {
			return err
		}
		encoded = record.AppendJSON(encoded[:0], r)
		head.Seq, head.Hash = r.Seq, record.Sum(encoded)
	}
	if head.Seq == before {
		return nil
	}
	if err := added.store(ctx, tx); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO heads (writer, seq, hash) VALUES (?, ?, ?) ON CONFLICT (writer) DO UPDATE SET seq = excluded.seq, hash = excluded.hash",
		head.Writer, int64(head.Seq), head.Hash.String()); err != nil {
		return err
	}
	return tx.Commit()
}

// insertInto is SQL of our own names only; the values are parameters.
func insertInto(table string, names []string) string {
	return "INSERT INTO " + table + " (" + strings.Join(names, ", ") + ") VALUES (?" + strings.Repeat(", ?", len(names)-1) + ")"
}

// Close releases the file.
func (s *Sink) Close() error { return errors.Join(s.Reader.Close(), s.db.Close()) }

// querier is a transaction, or a pool.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// headOf returns a Head that always names the writer.
func headOf(ctx context.Context, q querier, writer string) (record.Head, error) {
	all, err := headsOf(ctx, q, "WHERE writer = ?", writer)
	if err != nil || len(all) == 0 {
		return record.Head{Writer: writer}, err
	}
	return all[0], nil
}

func headsOf(ctx context.Context, q querier, where string, args ...any) ([]record.Head, error) {
	rows, err := q.QueryContext(ctx, "SELECT writer, seq, hash FROM heads "+where+" ORDER BY writer", args...)
	if err != nil {
		return nil, fmt.Errorf("read heads: %w", err)
	}
	defer rows.Close() //nolint:errcheck // Err tells
	var all []record.Head
	for rows.Next() {
		var h record.Head
		var hash string
		if err := rows.Scan(&h.Writer, &h.Seq, &hash); err != nil {
			return nil, fmt.Errorf("read heads: %w", err)
		}
		if h.Hash, err = record.ParseHash(hash); err != nil {
			return nil, fmt.Errorf("read heads: %w", err)
		}
		all = append(all, h)
	}
	return all, rows.Err()
}

// totals gathers what a batch adds to the sums.
type totals map[string]map[string]*total // :: table → key → sum

type total struct {
	key      []any // quarter, then the values of the table's columns
	requests int64
	cost     any // nil = none is known
	tokens   usage.Tokens
}

func newTotals() totals {
	t := totals{}
	for name := range sums() {
		t[name] = map[string]*total{}
	}
	return t
}

// add counts a settlement, or an adjustment, on the day of its admission.
func (t totals) add(ctx context.Context, tx *sql.Tx, r *record.Record) error {
	if r.Type != record.Settle && r.Type != record.Adjust {
		return nil
	}
	of := r
	if r.RequestID != "" && (r.Type == record.Adjust || r.Team == "") {
		// It says less than the records before it: a settlement made for a
		// writer that was killed has no more than the request's id.
		known, err := recordsOf(ctx, tx, "WHERE request_id = ?", r.RequestID)
		if err != nil {
			return err
		}
		merged := report.Merge(known)
		of = &merged.Record
	}
	quarter := quarterOf(admission(of))
	for table, by := range sums() {
		key := []any{quarter}
		text := strconv.AppendInt(nil, quarter, 10)
		for _, d := range by {
			v := valueOf(of, d)
			key = append(key, v)
			text = append(append(text, 0), v...)
		}
		sum := t[table][string(text)]
		if sum == nil {
			sum = &total{key: key}
			t[table][string(text)] = sum
		}
		if r.Type == record.Settle {
			sum.requests++
		}
		if r.HasCost {
			known, _ := sum.cost.(int64)
			sum.cost = bounded(known + bounded(int64(r.Cost)))
		}
		sum.tokens.Add(&r.Tokens)
	}
	return nil
}

// valueOf is the record's value of a column of the sums.
func valueOf(r *record.Record, dimension string) string {
	switch report.Dimension(dimension) {
	case report.Team:
		return r.Team
	case report.Key:
		if r.KeyName != "" {
			return r.KeyName
		}
		return r.KeyID
	case report.Purpose:
		return r.Purpose
	case report.Model:
		return r.Model
	case report.Provider:
		return r.Provider
	case report.User:
		return r.User
	case report.Class:
		return r.Class
	case report.CostCenter:
		return r.CostCenter
	case report.Day:
	}
	panic("sqlite: sums are not split by " + dimension)
}

// mostOfASum is where a sum stops: 72 million USD, or 72,000 trillion tokens, of
// one quarter of an hour. SQLite turns an integer that overflows into a real,
// which the table refuses: one absurd record would stop the shipping of all.
const mostOfASum = 1 << 56

func bounded(n int64) int64 { return max(-mostOfASum, min(n, mostOfASum)) }

// store adds the totals to their tables.
func (t totals) store(ctx context.Context, tx *sql.Tx) error {
	for table, by := range sums() {
		names := append([]string{"quarter"}, by...)
		key := strings.Join(names, ", ")
		plus := func(column string) string {
			return fmt.Sprintf("max(-%d, min(%d, %s + excluded.%s))", mostOfASum, mostOfASum, column, column)
		}
		set := []string{"requests = requests + excluded.requests", "cost_nano = coalesce(" + plus("cost_nano") + ", cost_nano, excluded.cost_nano)"}
		for _, bucket := range buckets() {
			set = append(set, bucket+" = "+plus(bucket))
		}
		names = append(names, "requests", "cost_nano")
		names = append(names, buckets()...)
		upsert, err := tx.PrepareContext(ctx, insertInto(table, names)+" ON CONFLICT ("+key+") DO UPDATE SET "+strings.Join(set, ", "))
		if err != nil {
			return err
		}
		for _, sum := range t[table] {
			args := append(sum.key, sum.requests, sum.cost) //nolint:gocritic // the key is not used again
			for _, n := range record.Buckets(&sum.tokens) {
				args = append(args, bounded(int64(*n)))
			}
			if _, err := upsert.ExecContext(ctx, args...); err != nil {
				return errors.Join(fmt.Errorf("add to %s: %w", table, err), upsert.Close())
			}
		}
		if err := upsert.Close(); err != nil {
			return err
		}
	}
	return nil
}

const quarter = 15 * time.Minute

// quarterOf is the quarter of an hour since 1970 that t is in.
func quarterOf(t time.Time) int64 {
	ms, unit := t.UnixMilli(), quarter.Milliseconds()
	q := ms / unit
	if ms%unit < 0 {
		q--
	}
	return q
}

// admission is when the request was let in: its id is a UUIDv7, which begins
// with the milliseconds since 1970 (RFC 9562, 5.7).
func admission(r *record.Record) time.Time {
	if id := r.RequestID; len(id) == 36 && id[14] == '7' {
		if ms, err := strconv.ParseInt(id[:8]+id[9:13], 16, 64); err == nil {
			return time.UnixMilli(ms).UTC()
		}
	}
	return r.Time
}

// Reader reads a database. Its methods are safe for concurrent use, beside a
// process that writes too.
type Reader struct{ db *sql.DB }

// OpenReadOnly opens the file at path, which must exist, for reading.
func OpenReadOnly(ctx context.Context, path string) (*Reader, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open %s: no record was shipped there yet: %w", path, err)
	}
	db, err := connect(path, "ro", "&_pragma=query_only(1)")
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	db.SetMaxOpenConns(4)
	have, err := versionOf(ctx, db)
	if err == nil && have == 0 {
		err = errors.New("it has no records table yet")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), db.Close())
	}
	return &Reader{db: db}, nil
}

// Close releases the file.
func (r *Reader) Close() error { return r.db.Close() }
