// Package sqlite keeps the book in one SQLite file: the sink that needs nothing
// else, and the one that the reports read.
//
// A batch, the writer's head, and the sums of usage that it changes are one
// transaction, durable when Write returns (WAL, synchronous=FULL). There is one
// connection that writes; readers have their own, which cannot.
//
// Table book has each record as the JSON that the journal chained; table parked
// those that it refused for good, with the reason. View records shows both, with
// section 8's fields as columns; table heads is the last record of each writer.
// The sums are described in sums.go.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"airgate/accounting/failpoint"
	"airgate/accounting/record"
	"airgate/accounting/report"
	"airgate/accounting/sink"
)

// Sink is an open database that is written. It implements sink.Sink and, by
// its Reader, report.Source.
type Sink struct {
	*Reader

	db      *sql.DB
	file    os.FileInfo // what it has open
	stored  []*record.Field
	insert  bulk                  // into book
	upsert  bulk                  // into usage
	folding [levelCount]*sql.Stmt // from days on
	splits  *ids[split]
	users   *ids[user]
	parked  atomic.Int64
}

var (
	_ sink.Sink     = (*Sink)(nil)
	_ report.Source = (*Reader)(nil)
)

// Open opens the file at path, making it where there is none (mode 0600).
func Open(ctx context.Context, path string) (_ *Sink, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("open %s: %w", path, told(path, err))
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
	s := &Sink{db: db}
	if err := s.open(ctx, path); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
}

func (s *Sink) open(ctx context.Context, path string) error {
	if err := prepare(ctx, s.db); err != nil {
		return err
	}
	var err error
	if s.file, err = os.Stat(path); err != nil { // while it is open no other file has its number
		return err
	}
	var parked int64
	if err := s.db.QueryRowContext(ctx, "SELECT count(*) FROM parked").Scan(&parked); err != nil {
		return fmt.Errorf("count parked records: %w", err)
	}
	s.parked.Store(parked)
	for f := range record.Fields() {
		if slices.Contains(stored[:], f.Name) {
			s.stored = append(s.stored, f)
		}
	}
	if s.insert, err = newBulk(ctx, s.db, "book", append(stored[:len(stored):len(stored)], "record"), ""); err != nil {
		return err
	}
	if s.upsert, err = newBulk(ctx, s.db, "usage", append([]string{"level", "quarter", "split", "user"}, addends()...), addition()); err != nil {
		return err
	}
	for l := days; l < levelCount; l++ {
		if s.folding[l], err = s.db.PrepareContext(ctx, folding(l)); err != nil {
			return err
		}
	}
	if s.splits, err = newIDs[split](ctx, s.db, "splits", splitColumns[:]); err != nil {
		return err
	}
	if s.users, err = newIDs[user](ctx, s.db, "users", []string{"user"}); err != nil {
		return err
	}
	s.Reader, err = openReadOnly(ctx, path, "")
	return err
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
		return fmt.Errorf("write records: %w", told(s.path, err))
	}
	return nil
}

func (s *Sink) write(ctx context.Context, batch []record.Record) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it does nothing
	s.splits.forget()
	s.users.forget()
	failpoint.Hit("sink.begin")
	head, err := headOf(ctx, tx, batch[0].Writer)
	if err != nil {
		return err
	}
	before := head.Seq
	w := &writing{s: s, tx: tx, added: totals{}}
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
		w.encoded = record.AppendJSON(w.encoded[:0], r)
		head.Seq, head.Hash = r.Seq, record.Sum(w.encoded)
		if err := w.add(ctx, r); err != nil {
			return err
		}
	}
	if head.Seq == before {
		return nil
	}
	if err := w.flush(ctx); err != nil {
		return err
	}
	if err := s.store(ctx, tx, w.added); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO heads (writer, seq, hash) VALUES (?, ?, ?) ON CONFLICT (writer) DO UPDATE SET seq = excluded.seq, hash = excluded.hash",
		head.Writer, int64(head.Seq), head.Hash.String()); err != nil {
		return err
	}
	if err := s.inPlace(); err != nil {
		return err
	}
	failpoint.Hit("sink.commit")
	if err := tx.Commit(); err != nil {
		return err
	}
	failpoint.Hit("sink.committed")
	s.splits.keep()
	s.users.keep()
	s.parked.Add(w.parked)
	return nil
}

// inPlace reports, as an error, that the path has another file than the one that
// is open, or none: what is written would be gone as airgate ends, and the journal
// would have deleted it.
func (s *Sink) inPlace() error {
	now, err := os.Stat(s.path)
	if err == nil && os.SameFile(now, s.file) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return fmt.Errorf("%[1]s is not the file that is open any more: it was deleted, moved or replaced under a running airgate, and nothing is written to it. "+
		"Put it back, or stop airgate, move %[1]s, %[1]s-wal and %[1]s-shm away together and restore the newest backup: the journal keeps what comes until then", s.path)
}

// writing is one transaction of Write.
type writing struct {
	s       *Sink
	tx      *sql.Tx
	encoded []byte // the record that add is called with
	rows    []any  // of records, not inserted yet
	parked  int64
	added   totals
}

// add stores one record, and counts what it adds to the sums.
func (w *writing) add(ctx context.Context, r *record.Record) error {
	for _, f := range w.s.stored {
		w.rows = append(w.rows, f.Value(r))
	}
	w.rows = append(w.rows, string(w.encoded))
	if len(w.rows) == w.s.insert.width*bulkRows {
		if err := w.flush(ctx); err != nil {
			return err
		}
	}
	return w.added.add(r, func() ([]record.Record, error) {
		if err := w.flush(ctx); err != nil {
			return nil, err
		}
		return callsOf(ctx, w.tx, r.RequestID)
	})
}

// flush inserts the rows that are left. A row that is refused for good is
// parked.
func (w *writing) flush(ctx context.Context) error {
	rows, width := w.rows, w.s.insert.width
	w.rows = w.rows[:0]
	if len(rows) == width*bulkRows {
		if err := w.s.insert.exec(ctx, w.tx, rows); !permanent(err) {
			return err
		}
	}
	// A statement that is refused leaves nothing behind, so each row alone
	// shows which one it was.
	for ; len(rows) > 0; rows = rows[width:] {
		switch err := w.s.insert.exec(ctx, w.tx, rows[:width]); {
		case permanent(err):
			if err := w.park(ctx, rows[:width], err); err != nil {
				return err
			}
		case err != nil:
			return err
		}
	}
	return nil
}

func (w *writing) park(ctx context.Context, row []any, reason error) error {
	w.parked++
	_, err := w.tx.ExecContext(ctx, "INSERT INTO parked (type, seq, writer, time, request_id, record, reason) VALUES (?, ?, ?, ?, ?, ?, ?)",
		append(slices.Clip(row), reason.Error())...)
	if err != nil {
		return fmt.Errorf("park record %v: %w", row[1], err)
	}
	return nil
}

// permanent reports whether the table will always refuse the row. Whatever else
// fails, such as a full disk or a lock, may end; a record that the journal takes
// is never too big for SQLite.
func permanent(err error) bool {
	refused, ok := errors.AsType[*sqlite.Error](err)
	return ok && refused.Code()&0xff == sqlite3.SQLITE_CONSTRAINT
}

// Parked implements sink.Sink.
func (s *Sink) Parked() int64 { return s.parked.Load() }

// Close releases the file.
func (s *Sink) Close() error { return errors.Join(s.Reader.Close(), s.db.Close()) }

// bulkRows is how many rows one statement inserts: most of what a statement
// costs beyond its rows is shared.
const bulkRows = 16

// bulk inserts rows into one table.
type bulk struct {
	one, many *sql.Stmt // a row; bulkRows of them
	width     int       // values of a row
}

// newBulk prepares the statements on the one connection there is. The SQL is of
// our own names only; the values are parameters.
func newBulk(ctx context.Context, db *sql.DB, table string, columns []string, end string) (b bulk, err error) {
	row := "(?" + strings.Repeat(", ?", len(columns)-1) + ")"
	insert := "INSERT INTO " + table + " (" + strings.Join(columns, ", ") + ") VALUES "
	b.width = len(columns)
	if b.one, err = db.PrepareContext(ctx, insert+row+end); err == nil {
		b.many, err = db.PrepareContext(ctx, insert+row+strings.Repeat(", "+row, bulkRows-1)+end)
	}
	return b, err
}

// exec inserts rows, whose values stand one behind the other.
func (b *bulk) exec(ctx context.Context, tx *sql.Tx, rows []any) error {
	for len(rows) > 0 {
		stmt, n := b.one, b.width
		if len(rows) >= bulkRows*b.width {
			stmt, n = b.many, bulkRows*b.width
		}
		if _, err := tx.StmtContext(ctx, stmt).ExecContext(ctx, rows[:n]...); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

// querier is a transaction, or a pool.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
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

// Reader reads a database. Its methods are safe for concurrent use, beside a
// process that writes too.
type Reader struct {
	db   *sql.DB
	path string
}

// OpenReadOnly opens the file at path, which must exist, for reading.
func OpenReadOnly(ctx context.Context, path string) (*Reader, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open %s: no record was shipped there yet, or it was lost and a backup has it: %w", path, err)
	}
	r, err := openReadOnly(ctx, path, "")
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, told(path, err))
	}
	return r, nil
}

// OpenCopy opens a copy or a backup of a database for reading. It writes nothing beside
// it, where the directory can be written neither: nobody may change the file meanwhile,
// unless there is a -wal beside it, which is then read too.
func OpenCopy(ctx context.Context, path string) (*Reader, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, fmt.Errorf("open a copy of usage.db: %w", err)
	case info.IsDir():
		return nil, fmt.Errorf("open a copy of usage.db: %s is a directory: name the file in it", path)
	}
	immutable := "&immutable=1"
	if _, err := os.Stat(path + "-wal"); err == nil {
		immutable = ""
	}
	r, err := openReadOnly(ctx, path, immutable)
	if broken, ok := errors.AsType[*sqlite.Error](err); ok && broken.Code()&0xff == sqlite3.SQLITE_NOTADB {
		return nil, fmt.Errorf("open %s: it is no copy of usage.db: %w", path, err)
	}
	if errors.Is(err, errNoTable) {
		return nil, fmt.Errorf("open %s: %w: usage.db was copied without what its -wal holds; make a copy with sqlite3 usage.db \".backup copy.db\"", path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return r, nil
}

var errNoTable = errors.New("it has no records table yet")

func openReadOnly(ctx context.Context, path, options string) (*Reader, error) {
	db, err := connect(path, "ro", "&_pragma=query_only(1)"+options)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(4)
	have, err := versionOf(ctx, db)
	if err == nil && have == 0 {
		err = errNoTable
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &Reader{db: db, path: path}, nil
}

// told adds what to do to an error that says that the file is damaged, or no
// database.
func told(path string, err error) error {
	damaged, ok := errors.AsType[*sqlite.Error](err)
	if !ok || damaged.Code()&0xff != sqlite3.SQLITE_CORRUPT && damaged.Code()&0xff != sqlite3.SQLITE_NOTADB {
		return err
	}
	return fmt.Errorf("%w: stop airgate, move %[2]s, %[2]s-wal and %[2]s-shm away together, and restore the newest backup. Without one a start makes "+
		"a new database, with what the journal still has: reports go without the rest, and budgets come from the journal", err, path)
}

// Close releases the file.
func (r *Reader) Close() error { return r.db.Close() }
