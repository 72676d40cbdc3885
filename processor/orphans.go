package processor

import (
	"fmt"
	"time"

	"airgate/accounting"
	"airgate/accounting/failpoint"
	"airgate/accounting/journal"
	"airgate/accounting/record"
	"airgate/accounting/usage"
)

// SettleOrphans ends the calls that b says a crash left open and returns how
// many: nobody knows what they cost, so each costs its bound, on the accounts
// and in the windows of its intent, and the record says so. A call without a
// bound (unpriced) has no cost. It is called before the ledger learns what was
// spent; after an error the rest is still open, and the next start goes on.
func SettleOrphans(j journal.Writer, b *accounting.Balances, now time.Time) (settled int, err error) {
	for _, o := range b.Open() {
		_, err := j.Append(&record.Record{
			Type: record.Settle, Time: now, RequestID: o.RequestID, Decision: "allow",
			Reserved: o.Reserved, Cost: o.Reserved, HasCost: o.Reserved > 0, UsageSource: usage.None,
			Class: string(ClassGateway), Family: ClassGateway.Family(), Cause: "airgate_restarted",
		})
		if err != nil {
			return settled, fmt.Errorf("settle request %s, open since the last end: %w", o.RequestID, err)
		}
		settled++
		failpoint.Hit("processor.orphan")
	}
	return settled, nil
}
