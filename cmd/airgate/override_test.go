package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"airgate/accounting"
	"airgate/accounting/journal"
	"airgate/accounting/journal/disk/disktest"
	"airgate/accounting/record"
	"airgate/policy/config"
	"airgate/policy/overlay"
	"airgate/policy/overlay/file"
)

// An override of a budget is in the book before it holds, once, whether it
// comes with a start or with a reload.
func TestOverridesAreInTheBook(t *testing.T) {
	o := testOptions(t)
	write := func(overrides string) {
		t.Helper()
		text := strings.Replace(testConfig, "match: {team: search}", "each: team, overrides: ["+overrides+"]", 1)
		if err := os.WriteFile(o.config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// wait until the book has so many changes, the last one of this code.
	wait := func(g *gateway, n int, code string) {
		t.Helper()
		var audit struct {
			Audit []struct{ Type, Code string }
		}
		var codes []string
		for range 500 {
			g.get(t, "/api/v1/audit?limit=100", &audit)
			codes = nil
			for _, r := range audit.Audit {
				if r.Type == "admin" {
					codes = append(codes, r.Code)
				}
			}
			if len(codes) == n && codes[0] == code {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("changes %v, want %d, the newest %s", codes, n, code)
	}
	write("{for: {team: search}, usd: 700, until: 2200-12-01, by: kim, reason: INC-12}")
	g := open(t, o)
	wait(g, 1, "override_set")
	shut(t, g)
	g = open(t, o)
	wait(g, 1, "override_set")
	write("")
	wait(g, 2, "override_gone")
	shut(t, g)
}

// A start on a full disk waits until the book can say which overrides and entries
// of the overlay there are, unless it is stopped, or the journal fails for good.
func TestOverridesWaitForRoom(t *testing.T) {
	snapshot, err := config.LoadBytes("airgate.yaml", []byte(strings.Replace(testConfig, "match: {team: search}",
		"each: team, overrides: [{for: {team: search}, usd: 700, until: 2200-12-01}]", 1)), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		then func(d *disktest.Disk, g *gateway, stop func())
		want error
		said bool // by the book
	}{
		"room is made":  {func(d *disktest.Disk, _ *gateway, _ func()) { d.Fail(nil) }, nil, true},
		"it is stopped": {func(_ *disktest.Disk, _ *gateway, stop func()) { stop() }, context.Canceled, false},
		"the journal fails": {func(d *disktest.Disk, g *gateway, _ func()) {
			d.Fail(func(string, string) error { return disktest.ErrFault })
			_, _ = g.journal.Append(&record.Record{Type: record.Settle})
		}, disktest.ErrFault, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := disktest.New(1)
				g := &gateway{balances: accounting.NewBalances(), snapshot: snapshot, store: &quotaStore{}}
				g.log, g.data = slog.New(slog.DiscardHandler), t.TempDir()
				block := overlay.Entry{
					Kind: overlay.BlockTeam, Name: "search", By: "kim", Reason: "INC-12", Made: time.Now().UTC(), Until: time.Now().Add(time.Hour).UTC(),
				}
				err := file.New(overlayFile(g.data, snapshot)).Put(t.Context(), block)
				if err != nil {
					t.Fatal(err)
				}
				if g.journal, err = journal.Open(t.Context(), journal.Config{Dir: "/data/journal", Replica: "one", State: g.balances, Disk: d}); err != nil {
					t.Fatal(err)
				}
				d.Fail(func(op, _ string) error {
					if op == "write" || op == "reserve" {
						return syscall.ENOSPC
					}
					return nil
				})
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				done := make(chan error, 1)
				go func() { done <- g.openOverlay(ctx) }()
				time.Sleep(time.Minute)
				select {
				case err := <-done:
					t.Errorf("openOverlay on a full disk = %v, want it to wait", err)
				default:
				}
				c.then(d, g, stop)
				if err := <-done; !errors.Is(err, c.want) {
					t.Errorf("openOverlay = %v, want %v", err, c.want)
				}
				if left := g.balances.OverrideChanges(snapshot.Limits, time.Now()); (len(left) == 0) != c.said {
					t.Errorf("%d changes are missing in the book, want that it has all: %t", len(left), c.said)
				}
				why := func(string) string { return "" }
				if told := g.balances.OverlayChanges(nil, why, time.Now()); (len(told) == 1) != c.said {
					t.Errorf("the book tells of %d entries of the overlay, want that it has the block: %t", len(told), c.said)
				}
				_ = g.journal.Close()
			})
		})
	}
}
