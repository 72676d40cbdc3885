package sqlite

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"hash"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"airgate/accounting/record"
)

// SumsError says that the sums of usage are not those of the records.
type SumsError struct {
	Months []string // of UTC, as in 2026-11, whose sums differ; the oldest first
}

func (e *SumsError) Error() string {
	return "the sums of usage are not those of the records in " + strings.Join(e.Months, ", ")
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

// compareSums compares the rows of each month, in the order of what the ids stand
// for.
func compareSums(ctx context.Context, have, want querier) error {
	has, err := monthsOf(ctx, have)
	if err != nil {
		return err
	}
	wants, err := monthsOf(ctx, want)
	if err != nil {
		return err
	}
	var differ []string
	for month, sum := range wants {
		if has[month] != sum {
			differ = append(differ, month)
		}
		delete(has, month)
	}
	differ = slices.AppendSeq(differ, maps.Keys(has))
	if len(differ) == 0 {
		return nil
	}
	slices.Sort(differ)
	return &SumsError{Months: differ}
}

// monthsOf is a hash of each month's rows, of all levels.
func monthsOf(ctx context.Context, q querier) (map[string][sha256.Size]byte, error) {
	var columns []string
	for _, name := range splitColumns {
		columns = append(columns, "s."+name)
	}
	columns = append(columns, "n.user")
	for _, name := range addends() {
		columns = append(columns, "u."+name)
	}
	list := "u.level, u.quarter, " + strings.Join(columns, ", ")
	rows, err := q.QueryContext(ctx, "SELECT "+list+" FROM usage AS u LEFT JOIN splits AS s ON s.id = u.split LEFT JOIN users AS n ON n.id = u.user ORDER BY "+list)
	if err != nil {
		return nil, err
	}
	defer rows.Close() //nolint:errcheck // Err tells
	values := make([]any, 2+len(columns))
	into := make([]any, len(values))
	for i := range values {
		into[i] = &values[i]
	}
	sums := map[string]hash.Hash{}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		at, _ := values[1].(int64) // the table is strict
		month := startOf(at).Format("2006-01")
		if sums[month] == nil {
			sums[month] = sha256.New()
		}
		fmt.Fprintf(sums[month], "%#v\n", values) // a hash takes everything
	}
	all := make(map[string][sha256.Size]byte, len(sums))
	for month, sum := range sums {
		all[month] = [sha256.Size]byte(sum.Sum(nil))
	}
	return all, rows.Err()
}
