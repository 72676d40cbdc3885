package accounting

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"airgate/accounting/money"
	"airgate/accounting/quota"
	"airgate/accounting/record"
)

// aliveFor is for how long a writer counts as alive that is not heard of: one that
// lives says so every second, unless it cannot reach the store.
const aliveFor = time.Minute

// Holder is a writer that has something in a shared store.
type Holder struct {
	Writer string
	Heard  time.Time // its last beat, by the store's clock; zero = it is not known any more
	Alive  bool      // it was heard of in the last minute
	Stakes []Stake   // of money, by account
	Others int       // account-windows of tokens and requests in which something is set aside for it
}

// Stake is what a writer has of one account-window of money, as the store knows it.
type Stake struct {
	Account  string // account-window, as in record field limits[].account
	Granted  money.NanoUSD
	Returned money.NanoUSD
	Told     money.NanoUSD // of what it has spent
}

// Aside is what is set aside for the writer: nobody else can spend it.
func (s *Stake) Aside() money.NanoUSD { return s.Granted - s.Returned - s.Told }

// Aside is what is set aside for the writer, of all accounts.
func (h *Holder) Aside() (sum money.NanoUSD) {
	for i := range h.Stakes {
		sum += h.Stakes[i].Aside()
	}
	return sum
}

// Holders are all writers that a store knows of, by name. Of those that have nothing
// set aside, Aside and Others are 0.
func Holders(s *quota.Survey) []Holder {
	all := make(map[string]*Holder)
	for i := range s.Holdings {
		h := &s.Holdings[i]
		o := all[h.Replica]
		if o == nil {
			heard := s.Heard[h.Replica]
			o = &Holder{Writer: h.Replica, Heard: heard, Alive: !heard.IsZero() && s.Now.Sub(heard) < aliveFor}
			all[h.Replica] = o
		}
		aside := h.Granted - h.Returned - h.Spent
		switch unit := unitOf(h.Key.Account); {
		case isMoney(h.Key.Account):
			o.Stakes = append(o.Stakes, Stake{
				Account: h.Key.Account + "|" + h.Key.Window,
				Granted: money.NanoUSD(h.Granted * unit), Returned: money.NanoUSD(h.Returned * unit), Told: money.NanoUSD(h.Spent * unit),
			})
		case aside > 0:
			o.Others++
		}
	}
	holders := make([]Holder, 0, len(all))
	for _, writer := range slices.Sorted(maps.Keys(all)) {
		h := all[writer]
		slices.SortFunc(h.Stakes, func(a, b Stake) int { return cmp.Compare(a.Account, b.Account) })
		holders = append(holders, *h)
	}
	return holders
}

// Return is what becomes of one account-window of a writer that has ended.
type Return struct {
	Stake

	Recorded money.NanoUSD // spent, by its records
	Spent    money.NanoUSD // what it is taken to have spent: the most that it has told or its records say
	Back     money.NanoUSD // what goes back for others to spend
}

// Returns are what would become of what a writer has, if it has spent what its records
// say, recorded, or what it has told, where that is more. They are in the order of the
// accounts, without those of which nothing would change. What no account of money can
// have spent is an error.
func (h *Holder) Returns(recorded map[string]money.NanoUSD, now time.Time) ([]Return, error) {
	for account, spent := range recorded {
		if !isMoney(account) {
			return nil, fmt.Errorf("%s is no account of money", account)
		}
		if most := money.NanoUSD(quota.LastSeq * unitOf(account)); spent < 0 || spent > most {
			return nil, fmt.Errorf("%s of %s: want 0 to %s USD", spent, account, most)
		}
	}
	known := make(map[string]bool, len(h.Stakes))
	var all []Return
	take := func(s Stake) {
		// The store counts in whole units, rounded against the writer.
		unit := money.NanoUSD(unitOf(s.Account))
		r := Return{Stake: s, Recorded: recorded[s.Account], Spent: max(s.Told, (recorded[s.Account]+unit-1)/unit*unit)}
		r.Back = max(0, s.Granted-s.Returned-r.Spent)
		if s.Aside() > 0 || r.Spent > s.Told {
			all = append(all, r)
		}
	}
	for _, s := range h.Stakes {
		known[s.Account] = true
		take(s)
	}
	for account, spent := range recorded {
		aw, err := parseAccountWindow(account)
		if err != nil {
			return nil, err
		}
		// What the store has forgotten as its time was over stays forgotten.
		if expire := newWindow(aw.account, aw.window).expire; !known[account] && spent > 0 && (expire.IsZero() || now.Before(expire)) {
			take(Stake{Account: account})
		}
	}
	slices.SortFunc(all, func(a, b Return) int { return cmp.Compare(a.Account, b.Account) })
	return all, nil
}

// Reclaim gives back, for others to spend, what a writer of another process had in hand
// of a shared store: one that does not come back, nor any that could succeed it. spent is of
// each account-window what it has spent; more than it told is told to the store.
// A writer that lives all the same hears of it (quota.ErrLeft) and spends nothing more;
// what it had in hand it may spend until then. On an error it can be repeated. From then on this Ledger tells a store that has lost it, as does one that
// succeeds to the record QuotaReclaimed, which the caller appends before.
func (l *Ledger) Reclaim(ctx context.Context, writer string, spent map[string]money.NanoUSD, now time.Time) error {
	for _, text := range slices.Sorted(maps.Keys(spent)) {
		if err := l.inherit(ctx, writer, text, spent[text], nil, now); err != nil {
			return fmt.Errorf("reclaim what %s had: %w", writer, err)
		}
	}
	if err := l.store.Leave(ctx, writer); err != nil {
		return fmt.Errorf("reclaim what %s had: %w", writer, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	departed := maps.Clone(l.departed) // bequeath may be at it
	if departed == nil {
		departed = make(map[string][]quota.Share)
	}
	for text, n := range spent {
		if n <= 0 {
			continue
		}
		others := slices.DeleteFunc(slices.Clone(departed[text]), func(o quota.Share) bool {
			if o.Replica == writer { // it was said before: the most holds
				n = max(n, money.NanoUSD(o.Spent))
			}
			return o.Replica == writer
		})
		departed[text] = append(others, quota.Share{Replica: writer, Granted: int64(n), Spent: int64(n), Closed: now.UnixMilli()})
	}
	l.departed = departed
	if !slices.Contains(l.ended, writer) {
		l.ended = append(slices.Clone(l.ended), writer)
	}
	return nil
}

// quotaReclaimed is the code of an admin record: what the writer in its heads had in
// the quota store goes back, and its limits are what that has spent, and what was set
// aside for it. The head is the last of its records that was read.
const quotaReclaimed = "quota_reclaimed"

// reclaimedOf follows the name of a writer that was reclaimed, in the balances of who
// has done it: it is not folded with others of its replica, whose sum that one tells.
const reclaimedOf = "/reclaimed"

// QuotaReclaimed is the admin record which says that what a writer had goes back. last is
// the last of its records that is known to who says so, if there is one, and detail says
// why that is right, and who says so.
func QuotaReclaimed(now time.Time, last record.Head, detail string, returns []Return) *record.Record {
	r := &record.Record{Type: record.Admin, Time: now, Code: quotaReclaimed, Detail: detail, Heads: []record.Head{last}}
	for i := range returns {
		o := &returns[i]
		r.Limits = append(r.Limits, record.Limit{Account: o.Account, Resource: USD.String(), Used: int64(o.Spent), Reserved: int64(o.Aside())})
	}
	return r
}

// noteReclaimed keeps what reclaimed writers have spent: a store that has lost it is
// told again.
func (b *Balances) noteReclaimed(r *record.Record) {
	if r.Code != quotaReclaimed {
		return
	}
	b.use(moneyAccounts(r.Limits), r.Time.UnixNano())
	for _, h := range r.Heads {
		key := h.Writer + reclaimedOf
		spent := make(map[string]money.NanoUSD)
		for i := range r.Limits {
			if l := &r.Limits[i]; l.Resource == USD.String() {
				spent[l.Account] = max(money.NanoUSD(l.Used), b.closed[key].spent[l.Account])
			}
		}
		for account, n := range b.closed[key].spent { // that was said before
			spent[account] = max(spent[account], n)
		}
		b.closeLocked(key, r.Time, spent)
	}
}

// Evidence is what the records of one writer prove of it.
type Evidence struct {
	Writer string
	Last   record.Head // of its records that follow from one another from the first on; Seq 0 = there are none
	LastAt time.Time   // when that was written
	// Ended says by what it is proven that there are no other records; "" = it is not.
	Ended string
	// Missing says which records there were and are not here; "" = of none that is known.
	Missing string
	// Spent is of each account-window what its calls have cost, and the bound of those
	// that have no settlement. Where records are missing it may have been more.
	Spent map[string]money.NanoUSD
}

// Examine reads the records of a writer, which are in order, and the start records of
// all. Records that are not one chain are an error.
func Examine(writer string, starts []record.Record, records iter.Seq2[record.Record, error]) (Evidence, error) {
	e := Evidence{Writer: writer}
	b := NewBalances()
	closed := false
	for rec, err := range records {
		if err != nil {
			return e, err
		}
		if rec.Seq != e.Last.Seq+1 && e.Missing == "" {
			e.Missing = recordsFrom(e.Last.Seq+1, rec.Seq-1)
		}
		if rec.Seq == e.Last.Seq+1 && rec.Prev != e.Last.Hash {
			return e, fmt.Errorf("record %d of %s does not follow from the one before: one of the two was changed", rec.Seq, writer)
		}
		switch rec.Type {
		case record.Intent, record.Extend, record.Settle, record.Adjust:
			closed = false
		case record.Admin:
			closed = closed || rec.Code == quotaClosed && slices.ContainsFunc(rec.Heads, func(h record.Head) bool { return h.Writer == writer })
		case record.Deny, record.Start:
		}
		b.Apply(&rec)
		e.Last, e.LastAt = record.Head{Writer: writer, Seq: rec.Seq, Hash: record.Sum(record.AppendJSON(nil, &rec))}, rec.Time
	}
	e.Spent = b.charged()
	// An adjustment of what an earlier writer spent can be less than nothing.
	maps.DeleteFunc(e.Spent, func(account string, n money.NanoUSD) bool { return !isMoney(account) || n <= 0 })
	if closed {
		e.Ended = fmt.Sprintf("its records end with its own, record %d, that it has given back what it had", e.Last.Seq)
	}
	for i := range starts {
		for _, h := range starts[i].Heads {
			if h.Writer != writer {
				continue
			}
			switch {
			case h.Seq > e.Last.Seq:
				e.Missing = cmp.Or(e.Missing, recordsFrom(e.Last.Seq+1, h.Seq))
			case h.Seq == e.Last.Seq && h.Seq > 0 && h.Hash != e.Last.Hash:
				return e, fmt.Errorf("record %d of %s is not the one that the start of %s names", h.Seq, writer, starts[i].Writer)
			case h.Seq == e.Last.Seq && h.Seq > 0:
				e.Ended = cmp.Or(e.Ended, fmt.Sprintf("%s, which took over from it, names record %d as its last", starts[i].Writer, h.Seq))
			}
		}
	}
	if e.Missing != "" {
		e.Ended = ""
	}
	return e, nil
}

func recordsFrom(first, last uint64) string {
	if first == last {
		return fmt.Sprintf("record %d", first)
	}
	return fmt.Sprintf("records %d to %d", first, last)
}
