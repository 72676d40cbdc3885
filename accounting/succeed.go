package accounting

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

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
	if untold := b.untoldLocked(b.told); len(untold) > 0 {
		b.closeLocked(r.Writer+"/journal", r.Time, untold)
	}
	for _, h := range r.Heads {
		b.closeLocked(h.Writer, r.Time, b.sharing[h.Writer])
		delete(b.sharing, h.Writer)
	}
	b.told = b.untoldLocked(nil)
}

// closing is what a store that has lost it is to be told of a replica that has closed.
type closing struct {
	at    int64 // when it did, in Unix nanoseconds
	lead  int64 // passage.lead of then
	spent map[string]money.NanoUSD
}

func (b *Balances) closeLocked(replica string, at time.Time, spent map[string]money.NanoUSD) {
	maps.DeleteFunc(spent, func(_ string, n money.NanoUSD) bool { return n <= 0 })
	b.closed[replica] = closing{at.UnixNano(), b.clock.lead(at.UnixNano()), spent}
}

// recentLocked reports whether a store, or other replicas, may not have heard of a
// closing: in a day all have.
func (b *Balances) recentLocked(c *closing) bool { return !b.clock.over(c.at, c.lead, 24*time.Hour) }

// foldLocked keeps as one what closed more than a week ago: a window need never end,
// and there may be any number of restarts in it. A store has them in one sum, too
// (quota.Folded), and takes nothing twice that was closed before that.
func (b *Balances) foldLocked() {
	for _, replica := range slices.Sorted(maps.Keys(b.closed)) {
		c := b.closed[replica]
		dot := strings.LastIndexByte(replica, '.') // the name of a host has some, too
		if dot < 0 || strings.HasSuffix(replica, foldedClosings) || strings.HasSuffix(replica, reclaimedOf) || !b.clock.over(c.at, c.lead, grace) {
			continue
		}
		delete(b.closed, replica)
		name := replica[:dot]
		all, ok := b.closed[name+foldedClosings]
		if !ok {
			all = closing{c.at, c.lead, make(map[string]money.NanoUSD)}
		}
		for a, n := range c.spent {
			add(all.spent, []string{a}, n)
		}
		all.at, all.lead = max(all.at, c.at), max(all.lead, c.lead)
		b.closed[name+foldedClosings] = all
	}
}

// ended returns the writers but heir of which it may not be known that they have closed.
func (b *Balances) ended(heir string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := slices.Collect(maps.Keys(b.sharing))
	for replica, c := range b.closed {
		if replica = strings.TrimSuffix(replica, reclaimedOf); !strings.Contains(replica, "/") && b.recentLocked(&c) {
			all = append(all, replica)
		}
	}
	all = slices.DeleteFunc(all, func(replica string) bool { return replica == heir })
	slices.Sort(all)
	return slices.Compact(all)
}

// foldedClosings follows the name of a replica in that of the sum of its writers that
// closed long ago.
const foldedClosings = "/closed"

// departed is what a store that has lost it is to be told of replicas that have closed.
func (b *Balances) departed() map[string][]quota.Share { // :: account-window
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make(map[string][]quota.Share)
	for replica, c := range b.closed {
		replica = strings.TrimSuffix(replica, reclaimedOf)
		for text, n := range c.spent {
			all[text] = append(all[text], quota.Share{Replica: replica, Granted: int64(n), Spent: int64(n), Closed: c.at / int64(time.Millisecond)})
		}
	}
	return all
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
	all, departed := b.inheritance(l.replica), b.departed()
	var closed []string
	told := false
	for _, replica := range slices.Sorted(maps.Keys(all)) {
		for _, text := range slices.Sorted(maps.Keys(all[replica])) {
			if err := l.inherit(ctx, replica, text, all[replica][text], nil, now); err != nil {
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
	if err := l.reopenAll(all, now); err != nil { //nolint:contextcheck // a store has a deadline of its own
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inherited, l.departed, l.ended = all, departed, b.ended(l.replica)
	if len(l.ended) > 0 {
		l.leaveIn(leaveAfter) // the store may have lost something before
	}
	if !told && len(closed) == 0 {
		return nil, nil
	}
	return QuotaClosed(now, closed...), nil
}

// reopenAll opens what earlier incarnations were counting on as they were
// killed: a warning that one of them was about to raise must not wait for the next
// call.
func (l *Ledger) reopenAll(all inheritance, now time.Time) error {
	for _, replica := range slices.Sorted(maps.Keys(all)) {
		for _, text := range slices.Sorted(maps.Keys(all[replica])) {
			aw, err := parseAccountWindow(text)
			if err != nil {
				return err
			}
			if err := l.reopen(&aw, now.UnixNano()); err != nil {
				return fmt.Errorf("account %q: %w", text, err)
			}
		}
	}
	return nil
}

// inherit closes one account-window of a replica that has ended, and tells what others
// had that closed it before.
func (l *Ledger) inherit(ctx context.Context, replica, text string, spent money.NanoUSD, others []quota.Share, now time.Time) error {
	spent = max(0, spent)
	if spent == 0 && len(others) == 0 {
		return nil // Leave finds what it had
	}
	aw, err := parseAccountWindow(text)
	if err != nil {
		return err
	}
	w := newWindow(aw.account, aw.window)
	_, err = l.store.Sync(ctx, quota.Sync{
		Key: w.key, Unit: w.unit, Replica: replica, Seq: quota.LastSeq, Seen: int64(spent), Spent: int64(spent),
		Now: now, Expire: w.expire, Mode: quota.Close, Others: others,
	})
	l.answered(err)
	return err
}

// bequeath tells again, by calls of g, what earlier incarnations spent, as far as which
// says of an account-window and of one of them.
func (l *Ledger) bequeath(ctx context.Context, g *errgroup.Group, which func(k quota.Key, replica string) bool) {
	l.mu.Lock()
	inherited, departed := l.inherited, l.departed
	l.mu.Unlock()
	tell := func(replica, text string, spent money.NanoUSD, others []quota.Share) {
		g.Go(func() error { return l.inherit(ctx, replica, text, spent, others, time.Unix(0, l.wallClock())) })
	}
	for replica, spent := range inherited {
		for text, n := range spent {
			if which(keyOfText(text), replica) {
				tell(replica, text, n, nil)
			}
		}
	}
	journal := l.replica + "/journal"
	for text, all := range departed {
		var others []quota.Share
		for _, o := range all {
			if which(keyOfText(text), o.Replica) {
				others = append(others, o)
			}
		}
		if len(others) > 0 {
			tell(journal, text, inherited[journal][text], others)
		}
	}
}

// keyOfText is the key of an account-window of records; one that cannot be read is told
// by inherit.
func keyOfText(text string) quota.Key {
	aw, err := parseAccountWindow(text)
	if err != nil {
		return quota.Key{}
	}
	return newWindow(aw.account, aw.window).key
}
