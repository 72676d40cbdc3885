package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"airgate/accounting/record"
)

// SumsError says that the sums of usage are not those of the records.
type SumsError struct {
	Have, Want string // the first rows that differ; "" = there is none
}

func (e *SumsError) Error() string {
	return fmt.Sprintf("the sums of usage are not those of the records: a row is (%s), want (%s)", e.Have, e.Want)
}

// Rebuild makes the sums again from the records, in one transaction.
func (s *Sink) Rebuild(ctx context.Context) error {
	if err := s.rebuild(ctx); err != nil {
		return fmt.Errorf("rebuild usage: %w", err)
	}
	return nil
}

func (s *Sink) rebuild(ctx context.Context) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it does nothing
	s.splits.forget()
	s.users.forget()
	if _, err := tx.ExecContext(ctx, "DELETE FROM usage"); err != nil {
		return err
	}
	folded, err := foldedOf(ctx, tx)
	if err != nil {
		return err
	}
	if err := s.addAll(ctx, tx, tx, folded); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	s.splits.keep()
	s.users.keep()
	return nil
}

// CheckSums compares the sums with those of the records, which it makes again
// in a temporary file. The error is *SumsError where they differ.
func (r *Reader) CheckSums(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "airgate-sums-")
	if err != nil {
		return fmt.Errorf("check usage: %w", err)
	}
	err = r.checkSums(ctx, filepath.Join(dir, "sums.db"))
	if err := errors.Join(err, os.RemoveAll(dir)); err != nil {
		return fmt.Errorf("check usage: %w", err)
	}
	return nil
}

func (r *Reader) checkSums(ctx context.Context, scratch string) (err error) {
	s, err := Open(ctx, scratch)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	have, err := r.db.BeginTx(ctx, nil) // one moment, whatever is written meanwhile
	if err != nil {
		return err
	}
	defer have.Rollback() //nolint:errcheck // it only reads
	want, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer want.Rollback() //nolint:errcheck // it is thrown away
	folded, err := foldedOf(ctx, have)
	if err != nil {
		return err
	}
	if err := s.addAll(ctx, have, want, folded); err != nil {
		return err
	}
	return compareSums(ctx, have, want)
}

// addAll adds all records of from to the sums in tx, and folds them.
func (s *Sink) addAll(ctx context.Context, from querier, tx *sql.Tx, folded int64) error {
	const page = 8192
	for _, table := range []string{"book", "parked"} {
		var last int64
		if err := from.QueryRowContext(ctx, "SELECT coalesce(max(rowid), 0) FROM "+table).Scan(&last); err != nil {
			return err
		}
		for first := int64(1); first <= last; first += page {
			all, err := recordsOf(ctx, from, "rowid FROM "+table+" WHERE rowid BETWEEN ? AND ?", first, first+page-1)
			if err != nil {
				return err
			}
			added := totals{}
			for i := range all {
				if err := added.add(&all[i], func() ([]record.Record, error) { return callsOf(ctx, from, all[i].RequestID) }); err != nil {
					return err
				}
			}
			if err := s.addTotals(ctx, tx, added, unfolded); err != nil {
				return err
			}
		}
	}
	return s.fold(ctx, tx, unfolded, folded)
}

// compareSums compares row by row, in the order of what the ids stand for.
func compareSums(ctx context.Context, have, want querier) error {
	var columns []string
	for _, name := range splitColumns {
		columns = append(columns, "s."+name)
	}
	columns = append(columns, "n.user")
	for _, name := range addends() {
		columns = append(columns, "u."+name)
	}
	list := "u.level, u.quarter, " + strings.Join(columns, ", ")
	query := "SELECT " + list + " FROM usage AS u LEFT JOIN splits AS s ON s.id = u.split LEFT JOIN users AS n ON n.id = u.user ORDER BY " + list
	nextHave, closeHave, err := texts(ctx, have, query)
	if err != nil {
		return err
	}
	defer closeHave()
	nextWant, closeWant, err := texts(ctx, want, query)
	if err != nil {
		return err
	}
	defer closeWant()
	for {
		h, err := nextHave()
		if err != nil {
			return err
		}
		w, err := nextWant()
		if err != nil {
			return err
		}
		if h != w {
			return &SumsError{Have: h, Want: w}
		}
		if h == "" {
			return nil
		}
	}
}

// texts is each row of the query as one text; "" behind the last.
func texts(ctx context.Context, q querier, query string) (next func() (string, error), stop func(), err error) {
	rows, err := q.QueryContext(ctx, query)
	if err != nil {
		return nil, nil, err
	}
	names, err := rows.Columns()
	if err != nil {
		return nil, nil, errors.Join(err, rows.Close())
	}
	values, into := make([]any, len(names)), make([]any, len(names))
	for i := range values {
		into[i] = &values[i]
	}
	return func() (string, error) {
		if !rows.Next() {
			return "", rows.Err()
		}
		if err := rows.Scan(into...); err != nil {
			return "", err
		}
		return fmt.Sprintf("%v", values), nil
	}, func() { _ = rows.Close() }, nil // Err tells
}
