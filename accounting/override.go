package accounting

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"time"

	"airgate/accounting/money"
	"airgate/accounting/record"
)

// Codes of the admin records of overrides. Their limits[] has one entry: the
// budget's name, whom the override is for as account, its amount as limit and
// its end as reset.
const (
	overrideSet  = "override_set"  // it is new, or its amount, by or reason is another
	overrideGone = "override_gone" // it is no longer in the config
)

// Codes of the admin records of the overlay's entries, whose id is the record's
// rule.
const (
	overlaySet  = "overlay_set"  // it holds, or holds with other words
	overlayGone = "overlay_gone" // it no longer holds
)

// audit is what an admin record says of an override of budget l.
func (o *Override) audit(l *Limit, now time.Time) record.Record {
	who := o.For.String()
	detail := "override of budget " + strconv.Quote(l.Name) + " for " + who + ": " + money.NanoUSD(o.Amount).String() + " USD"
	if !o.Until.IsZero() {
		detail += " until " + o.Until.UTC().Format(time.RFC3339)
	}
	if o.By != "" {
		detail += ", by " + o.By
	}
	if o.Reason != "" {
		detail += ": " + o.Reason
	}
	return record.Record{
		Type: record.Admin, Time: now, Code: overrideSet, Detail: detail,
		Limits: []record.Limit{{Name: l.Name, Account: who, Resource: USD.String(), Limit: o.Amount, Reset: o.Until}},
	}
}

// noteOverride keeps what the records say of the overrides there are, and of the
// entries of the overlay, which belong to no budget.
func (b *Balances) noteOverride(r *record.Record) {
	var l record.Limit
	switch r.Code {
	case overlaySet, overlayGone:
		l.Account = r.Rule
	case overrideSet, overrideGone:
		if len(r.Limits) != 1 {
			return
		}
		l = r.Limits[0]
	default:
		return
	}
	if r.Code == overrideSet || r.Code == overlaySet {
		b.overrides[keyOf(&l)] = saidOverride{l, r.Detail}
	} else {
		delete(b.overrides, keyOf(&l))
	}
}

// said is what the records last said, of the overlay or of overrides.
func (b *Balances) said(overlay bool) map[overrideKey]saidOverride {
	b.mu.Lock()
	defer b.mu.Unlock()
	said := make(map[overrideKey]saidOverride)
	for key, o := range b.overrides {
		if (key.budget == "") == overlay {
			said[key] = o
		}
	}
	return said
}

// overrideKey tells overrides apart.
type overrideKey struct {
	budget, who string
	until       int64 // milliseconds, as a record keeps them; 0 = for good
}

func keyOf(l *record.Limit) overrideKey {
	k := overrideKey{budget: l.Name, who: l.Account}
	if !l.Reset.IsZero() {
		k.until = l.Reset.UnixMilli()
	}
	return k
}

func (k overrideKey) compare(o overrideKey) int {
	return cmp.Or(cmp.Compare(k.budget, o.budget), cmp.Compare(k.who, o.who), cmp.Compare(k.until, o.until))
}

// saidOverride is what the records last said of an override.
type saidOverride struct {
	limit  record.Limit
	detail string
}

// OverrideChanges returns the admin records that are missing in the book for it
// to say which overrides t has. One that is over stays in it until it is taken
// out of the config.
func (b *Balances) OverrideChanges(t *Table, now time.Time) []record.Record {
	said := b.said(false)
	var changes []record.Record
	for i := range t.rules.Limits {
		l := &t.rules.Limits[i]
		for j := range l.Overrides {
			if l.Overrides[j].Overlay != "" {
				continue
			}
			r := l.Overrides[j].audit(l, now)
			key := keyOf(&r.Limits[0])
			if said[key].detail != r.Detail {
				changes = append(changes, r)
			}
			delete(said, key)
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(said), overrideKey.compare) {
		gone := said[key]
		changes = append(changes, record.Record{
			Type: record.Admin, Time: now, Code: overrideGone, Detail: gone.detail, Limits: []record.Limit{gone.limit},
		})
	}
	return changes
}

// OverlayChanges returns the admin records that are missing in the book for it
// to say that exactly these entries of the overlay hold. Each is told by the
// record that says so: its Rule is the entry's id, its Detail who, why and until
// when. why says of another, by its id, why it no longer holds.
func (b *Balances) OverlayChanges(holding []record.Record, why func(id string) string, now time.Time) []record.Record {
	said := b.said(true)
	var changes []record.Record
	for _, r := range holding {
		key := overrideKey{who: r.Rule}
		if said[key].detail != r.Detail {
			r.Type, r.Time, r.Code = record.Admin, now, overlaySet
			changes = append(changes, r)
		}
		delete(said, key)
	}
	for _, key := range slices.SortedFunc(maps.Keys(said), overrideKey.compare) {
		changes = append(changes, record.Record{
			Type: record.Admin, Time: now, Code: overlayGone, Rule: key.who, Detail: said[key].detail + "; " + why(key.who),
		})
	}
	return changes
}
