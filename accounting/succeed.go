package accounting

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"airgate/accounting/money"
	"airgate/accounting/quota"
	"airgate/accounting/record"
)

const (
	// sharedStore is the code of the start record of a writer whose quota store others
	// share, too.
	sharedStore = "quota_shared"
	// quotaClosed is the code of an admin record: the writers in its heads have closed
	// what they had in the quota store, and it was told of all that was spent before
	// but by writers that have not.
	quotaClosed = "quota_closed"
)

// StartCode is the code of a writer's start record.
func StartCode(shared bool) string {
	if shared {
		return sharedStore
	}
	return ""
}

// QuotaClosed is the admin record which says that writers have closed what they had
// in the shared quota store. It is for who appends it after Ledger.Close has returned
// nil; Ledger.Succeed returns its own.
func QuotaClosed(now time.Time, writers ...string) *record.Record {
	r := &record.Record{
		Type: record.Admin, Time: now, Code: quotaClosed, Detail: "what was in hand of the shared quota store is given back, and what was spent is told",
	}
	for _, w := range writers {
		r.Heads = append(r.Heads, record.Head{Writer: w})
	}
	return r
}

func (b *Balances) noteClosed(r *record.Record) {
	if r.Code != quotaClosed {
		return
	}
	for _, h := range r.Heads {
		delete(b.sharing, h.Writer)
	}
	b.told = b.untoldLocked(nil)
}

// untoldLocked is what was spent, less what writers that have not closed spent, and
// less what was told.
func (b *Balances) untoldLocked(told map[string]money.NanoUSD) map[string]money.NanoUSD {
	rest := maps.Clone(b.spent)
	for _, less := range append(slices.Collect(maps.Values(b.sharing)), told) {
		for a, n := range less {
			if rest[a] -= n; rest[a] == 0 {
				delete(rest, a)
			}
		}
	}
	return rest
}

// Sharing returns the writers that have not closed what they had in the shared
// quota store, in order.
func (b *Balances) Sharing() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.sharing))
}

// inheritance is what earlier incarnations leave to be told.
type inheritance map[string]map[string]money.NanoUSD // :: replica → account-window → spent

// inheritance is that of the writer heir. What was spent while the store was not
// shared is told as a replica of its own. An open intent is charged in full.
func (b *Balances) inheritance(heir string) inheritance {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := inheritance{heir + "/journal": b.untoldLocked(b.told)}
	for writer, spent := range b.sharing {
		if writer != heir {
			all[writer] = maps.Clone(spent)
		}
	}
	for _, in := range b.open {
		spent := all[in.Writer]
		if spent == nil {
			spent = all[heir+"/journal"]
		}
		for _, a := range in.Accounts {
			spent[a] += in.Reserved
		}
	}
	return all
}

// Succeed tells a shared store what earlier incarnations of this process spent, and
// gives back what they had in hand there, so that nothing stays set aside for who
// will not come back. b is of their records, and has no other writer than those and
// this Ledger's. It returns the record that says so, which the caller appends; nil =
// there was nothing to tell. On an error it can be repeated.
func (l *Ledger) Succeed(ctx context.Context, b *Balances, now time.Time) (*record.Record, error) {
	all := b.inheritance(l.replica)
	var closed []string
	told := false
	for _, replica := range slices.Sorted(maps.Keys(all)) {
		for _, text := range slices.Sorted(maps.Keys(all[replica])) {
			if err := l.inherit(ctx, replica, text, all[replica][text], now); err != nil {
				return nil, fmt.Errorf("close %s in the quota store: %w", replica, err)
			}
			told = true
		}
		if replica == l.replica+"/journal" {
			continue // it has nothing in hand
		}
		if err := l.store.Leave(ctx, replica); err != nil {
			return nil, fmt.Errorf("close %s in the quota store: %w", replica, err)
		}
		closed = append(closed, replica)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.reopenAllLocked(all, now); err != nil { //nolint:contextcheck // a store has a deadline of its own
		return nil, err
	}
	l.inherited = all
	if !told && len(closed) == 0 {
		return nil, nil
	}
	return QuotaClosed(now, closed...), nil
}

// reopenAllLocked opens what earlier incarnations were counting on as they were
// killed: a warning that one of them was about to raise must not wait for the next
// call. l.mu is held.
func (l *Ledger) reopenAllLocked(all inheritance, now time.Time) error {
	for _, replica := range slices.Sorted(maps.Keys(all)) {
		for _, text := range slices.Sorted(maps.Keys(all[replica])) {
			aw, err := parseAccountWindow(text)
			if err != nil {
				return err
			}
			if err := l.reopenLocked(&aw, now.UnixNano()); err != nil {
				return fmt.Errorf("account %q: %w", text, err)
			}
		}
	}
	return nil
}

// inherit closes one account-window of a replica that has ended.
func (l *Ledger) inherit(ctx context.Context, replica, text string, spent money.NanoUSD, now time.Time) error {
	if spent <= 0 {
		return nil // Leave finds what it had
	}
	aw, err := parseAccountWindow(text)
	if err != nil {
		return err
	}
	w := newWindow(aw.account, aw.window)
	_, err = l.store.Sync(ctx, quota.Sync{
		Key: w.key, Unit: w.unit, Replica: replica, Seq: quota.LastSeq, Seen: int64(spent), Spent: int64(spent),
		Now: now, Expire: w.expire, Mode: quota.Close,
	})
	l.answered(err)
	return err
}
