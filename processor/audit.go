package processor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"airgate/accounting"
	"airgate/accounting/journal"
	"airgate/accounting/record"
	"airgate/policy"
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
	changes := b.OverlayChanges(holding, why, now)
	for i := range changes {
		sayWhom(&changes[i], s.Policy)
	}
	return audit(j, s, "overlay", changes)
}

// sayWhom completes whom a record of an entry is about, as records of calls have it:
// both ends of a block are found by what calls were found by.
func sayWhom(r *record.Record, p *policy.Policy) {
	for kind, field := range map[overlay.Kind]*string{
		overlay.BlockTeam: &r.Team, overlay.BlockKey: &r.KeyID, overlay.Revoke: &r.KeyID, overlay.BlockModel: &r.Model, overlay.BlockProvider: &r.Provider,
	} {
		if name, ok := strings.CutPrefix(r.Rule, string(kind)+"/"); ok {
			*field = name
		}
	}
	if k := p.Key(r.KeyID); k != nil && k.ID == r.KeyID {
		r.KeyName, r.Team = k.Name, k.Team.Name
	}
	if t := p.Team(r.Team); t != nil {
		r.TeamPath = t.Path
	}
}

// overlayRecord says that an entry holds.
func overlayRecord(e overlay.Entry) record.Record {
	r := record.Record{Rule: e.ID(), Detail: "overlay " + e.ID()}
	if e.Kind == overlay.Raise {
		r.Detail += " to " + e.To.String() + " USD"
		r.Limits = []record.Limit{{Name: e.Name, Account: "all", Resource: accounting.USD.String(), Limit: int64(e.To), Reset: e.Until}}
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
