package processor

import (
	"context"
	"fmt"
	"slices"
	"time"

	"airgate/accounting"
	"airgate/accounting/journal"
	"airgate/accounting/record"
	"airgate/policy/config"
	"airgate/policy/overlay"
)

// AuditOverrides makes the book say which overrides of budgets s has: it
// appends an admin record for each that is new, another or gone since the
// records last said so. b is the state of j. It is called with the first
// snapshot and before each other one takes effect: an amount that the book does
// not know of is not in force.
func AuditOverrides(j journal.Writer, b *accounting.Balances, s *config.Snapshot, now time.Time) error {
	return audit(j, s, "overrides", b.OverrideChanges(s.Limits, now))
}

// audit appends admin records about what is in s.
func audit(j journal.Writer, s *config.Snapshot, what string, changes []record.Record) error {
	for _, r := range changes {
		r.ConfigHash = s.Hash
		if _, err := j.Append(&r); err != nil {
			return fmt.Errorf("audit %s: %w", what, err)
		}
	}
	return nil
}

// AuditOverlay makes the book say which entries of the overlay hold in s: it
// appends an admin record for each that takes effect, and for each that is
// removed, has ended, or does not hold with these files any more. known is what
// is known of the overlay. It is called as AuditOverrides is.
func AuditOverlay(j journal.Writer, b *accounting.Balances, s *config.Snapshot, known overlay.Set, now time.Time) error {
	var holding []record.Record
	for _, e := range s.InForce() {
		holding = append(holding, overlayRecord(e))
	}
	why := func(id string) string {
		if i := slices.IndexFunc(s.Laid, func(l config.Laid) bool { return l.Entry.ID() == id }); i >= 0 {
			return string(s.Laid[i].State) + ": " + s.Laid[i].Why
		}
		if e, ok := known[id]; ok && e.Removed {
			return "removed by " + e.By + ": " + e.Reason
		}
		return "it has ended"
	}
	return audit(j, s, "overlay", b.OverlayChanges(holding, why, now))
}

// overlayRecord says that an entry holds, and whom it is about.
func overlayRecord(e overlay.Entry) record.Record {
	r := record.Record{Rule: e.ID(), Detail: "overlay " + e.ID()}
	switch e.Kind {
	case overlay.Raise:
		r.Detail += " to " + e.To.String() + " USD"
		r.Limits = []record.Limit{{Name: e.Name, Account: "all", Resource: accounting.USD.String(), Limit: int64(e.To), Reset: e.Until}}
	case overlay.BlockTeam:
		r.Team = e.Name
	case overlay.BlockModel:
		r.Model = e.Name
	case overlay.BlockProvider:
		r.Provider = e.Name
	case overlay.BlockKey, overlay.Revoke:
		r.KeyID = e.Name
	}
	if !e.Until.IsZero() {
		r.Detail += " until " + e.Until.UTC().Format(time.RFC3339)
	}
	r.Detail += ", by " + e.By + ": " + e.Reason
	return r
}

// AuditWarnings writes into the book, once, which thresholds of the budgets of s
// were reached: an admin record for each. What cannot be written is due the next
// time. It waits until what it wrote is safe, whatever becomes of ctx.
func AuditWarnings(ctx context.Context, j journal.Writer, l *accounting.Ledger, s *config.Snapshot, now time.Time) error {
	err := l.Warn(ctx, now, func(r *record.Record) error {
		r.ConfigHash = s.Hash
		p, err := j.Append(r)
		if err != nil {
			return err
		}
		return j.Wait(context.WithoutCancel(ctx), p)
	})
	if err != nil {
		return fmt.Errorf("audit warnings: %w", err)
	}
	return nil
}
