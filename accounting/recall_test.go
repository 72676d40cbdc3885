package accounting_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"airgate/accounting"
)

// TestRecall: what one ledger has idle another gets while its call waits, before
// it would have come back by itself.
func TestRecall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledgers, tables := replicas(t, accounting.Limit{Name: "b", Resource: accounting.USD, Amount: 100, Window: accounting.Month}, 2)
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		for _, l := range ledgers {
			running.Go(func() {
				if err := l.Run(ctx); err != nil {
					t.Errorf("Run: %v", err)
				}
			})
		}
		s := subject("k", "t")
		var h [2]accounting.Hold
		mustAdmit(t, ledgers[0], &h[0], tables[0], s, accounting.Need{USD: 90}, time.Now())
		if r := admit(ledgers[1], &h[1], tables[1], s, accounting.Need{USD: 80}, time.Now()); code(r) != accounting.BudgetBusy {
			t.Errorf("80 of 100, 90 of which a call holds = %+v, want %v", r, accounting.BudgetBusy)
		}
		ledgers[0].Settle(&h[0], 5, 0, time.Now())
		time.Sleep(150 * time.Millisecond) // that nobody has it is no longer remembered
		mustAdmit(t, ledgers[1], &h[1], tables[1], s, accounting.Need{USD: 80}, time.Now())
		ledgers[1].Settle(&h[1], 80, 0, time.Now())
		stop()
		running.Wait()
		for _, l := range ledgers {
			if err := l.Close(context.Background()); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
	})
}
