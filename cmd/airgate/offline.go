package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"time"

	"airgate/accounting"
	"airgate/accounting/journal"
	"airgate/accounting/quota/memory"
	"airgate/accounting/sink/sqlite"
	"airgate/cmd/airgate/admin"
	"airgate/policy/config"
)

// offlineAPI is the JSON API over a config and a data directory, without a
// running airgate: balances are what a start would make of the journal and the
// database, records are read from this. Where the database cannot be read, without
// is told so, and the journal alone makes the balances; nil = that is an error. alone is
// told that other airgates count on the same quota store; nil = nobody asks.
func offlineAPI(ctx context.Context, f *flags, without func(error), alone func()) (_ http.Handler, closeAll func(), err error) {
	snapshot, err := laidConfig(ctx, f, nil)
	if err != nil {
		return nil, nil, err
	}
	if snapshot.Quota.Shared() && alone != nil {
		alone()
	}
	if _, err := os.Stat(journalDir(f.data)); err != nil {
		return nil, nil, unreachable(fmt.Errorf("%w, %s: %w", errNothing, f.data, err))
	}
	records, err := openRecords(ctx, f.data, snapshot)
	switch {
	case err == nil, errors.Is(err, errNoSink):
	case without == nil:
		return nil, nil, err
	default:
		without(err)
	}
	closeAll = func() {
		if records != nil {
			_ = records.Close() // it was only read
		}
	}
	ledger, err := replayed(ctx, f.data, records, snapshot, time.Now())
	if err != nil && records != nil && without != nil {
		if alone, failed := replayed(ctx, f.data, nil, snapshot, time.Now()); failed == nil { // else it is not the database
			without(err)
			ledger, err = alone, nil
		}
	}
	if err != nil {
		closeAll()
		return nil, nil, err
	}
	cfg := admin.Config{
		Budgets: ledger.Budgets, Snapshot: func() *config.Snapshot { return snapshot },
		Keys: func() ([]config.ListedKey, error) { return config.ListKeys(f.config) },
	}
	if records != nil {
		cfg.Source = records
	}
	return admin.New(cfg).Admin(), closeAll, nil
}

var (
	errNothing = errors.New("airgate has not run with this --data")
	errNoSink  = errors.New("this config ships records nowhere (sinks: []): the journal alone has them")
)

// openRecords opens the records database for reading.
func openRecords(ctx context.Context, data string, s *config.Snapshot) (*sqlite.Reader, error) {
	_, path, ok := sinkOf(data, s)
	if !ok {
		return nil, errNoSink
	}
	r, err := sqlite.OpenReadOnly(ctx, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, unreachable(err)
	}
	return r, err
}

// replayed is a ledger with the balances that a start would find; records may be
// nil.
func replayed(ctx context.Context, data string, records *sqlite.Reader, s *config.Snapshot, now time.Time) (*accounting.Ledger, error) {
	balances := accounting.NewBalances()
	cfg := journal.Config{Dir: journalDir(data), Replica: replica(), State: balances}
	if records != nil {
		cfg.Book = func(context.Context) (journal.Book, error) { return records, nil }
	}
	if err := journal.Replay(ctx, cfg); err != nil { // not Read: it may have deleted what was shipped
		return nil, err
	}
	ledger, err := accounting.New(accounting.Config{Store: memory.New(), Replica: "offline"})
	if err != nil {
		return nil, err
	}
	return ledger, restore(ledger, balances, s, now) //nolint:contextcheck // the store is in memory
}
