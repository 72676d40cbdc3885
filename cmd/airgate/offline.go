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
// running airgate: balances are replayed from the journal, records read from
// the database.
func offlineAPI(ctx context.Context, f *flags) (_ http.Handler, closeAll func(), err error) {
	snapshot, err := loadConfig(f.config)
	if err != nil {
		return nil, nil, err
	}
	if _, err := os.Stat(journalDir(f.data)); err != nil {
		return nil, nil, unreachable(fmt.Errorf("%w, %s: %w", errNothing, f.data, err))
	}
	ledger, err := replayed(f.data, snapshot, time.Now()) //nolint:contextcheck // the store is in memory
	if err != nil {
		return nil, nil, err
	}
	cfg := admin.Config{
		Budgets: ledger.Budgets, Snapshot: func() *config.Snapshot { return snapshot },
		Keys: func() ([]config.ListedKey, error) { return config.ListKeys(f.config) },
	}
	records, err := openRecords(ctx, f.data, snapshot)
	switch {
	case errors.Is(err, errNoSink):
		return admin.New(cfg).Admin(), func() {}, nil
	case err != nil:
		return nil, nil, err
	}
	cfg.Source = records
	return admin.New(cfg).Admin(), func() { _ = records.Close() }, nil // it was only read
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

// replayed is a ledger with the balances of the journal below data.
func replayed(data string, s *config.Snapshot, now time.Time) (*accounting.Ledger, error) {
	balances := accounting.NewBalances()
	if err := journal.Replay(journalDir(data), balances); err != nil { // not Read: it may have deleted what was shipped
		return nil, err
	}
	ledger, err := accounting.New(accounting.Config{Store: memory.New(), Replica: "offline"})
	if err != nil {
		return nil, err
	}
	return ledger, restore(ledger, balances, s, now)
}
