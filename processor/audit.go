package processor

import (
	"fmt"
	"time"

	"airgate/accounting"
	"airgate/accounting/journal"
	"airgate/policy/config"
)

// AuditOverrides makes the book say which overrides of budgets s has: it
// appends an admin record for each that is new, another or gone since the
// records last said so. b is the state of j. It is called with the first
// snapshot and before each other one takes effect: an amount that the book does
// not know of is not in force.
func AuditOverrides(j journal.Writer, b *accounting.Balances, s *config.Snapshot, now time.Time) error {
	for _, r := range b.OverrideChanges(s.Limits, now) {
		r.ConfigHash = s.Hash
		if _, err := j.Append(&r); err != nil {
			return fmt.Errorf("audit overrides: %w", err)
		}
	}
	return nil
}
