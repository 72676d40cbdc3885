package accounting

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"airgate/accounting/money"
	"airgate/accounting/record"
)

// Balances is what the records add up to: what was spent in each
// account-window, and the intents that have no settlement. It is a function of
// the records alone, in their order, and implements journal.State. It is safe
// for concurrent use.
type Balances struct {
	mu      sync.Mutex
	clock   passage                  // by the times of the records
	spent   map[string]money.NanoUSD // :: account-window → settled and adjusted; of a warning, how often it was raised
	open    map[string]OpenIntent    // :: request id → intent without settlement
	leads   map[string]int64         // :: window kind, zone and window → greatest passage.lead of its uses
	ignored uint64

	overrides map[overrideKey]saidOverride // that are in the config, as far as the records say; and of the overlay

	// Of quota stores that others share: what writers spent that have not closed what
	// they had there, and what was told for good of all others.
	sharing map[string]map[string]money.NanoUSD // :: writer → account-window → spent, 0 where it only was
	told    map[string]money.NanoUSD            // :: account-window
	closed  map[string]closing                  // :: replica that has closed, or with reclaimedOf behind it another's that this one has reclaimed
}

// OpenIntent is an intent that has no settlement: its call is in flight, or
// whoever wrote it was killed.
type OpenIntent struct {
	RequestID string
	Writer    string        // of the intent; "" in a checkpoint of before version 3
	Time      time.Time     // of admission
	Accounts  []string      // of money, each once, as in record field limits[].account
	Reserved  money.NanoUSD // by the intent, or the last extension
}

// NewBalances returns the Balances of no records.
func NewBalances() *Balances {
	return &Balances{
		spent: make(map[string]money.NanoUSD), open: make(map[string]OpenIntent), leads: make(map[string]int64),
		overrides: make(map[overrideKey]saidOverride),
		sharing:   make(map[string]map[string]money.NanoUSD), told: make(map[string]money.NanoUSD), closed: make(map[string]closing),
	}
}

// Apply adds one record. An intent opens; an extension says what its call holds
// from then on; its settlement books the cost on the accounts of the intent and
// closes it; an adjustment books its cost, which is
// the signed difference, on the accounts that it names itself. What belongs to
// no intent or no account is ignored and counted.
func (b *Balances) Apply(r *record.Record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	at := r.Time.UnixNano()
	b.clock.see(at)
	switch r.Type {
	case record.Intent:
		accounts := moneyAccounts(r.Limits)
		b.open[r.RequestID] = OpenIntent{RequestID: r.RequestID, Writer: r.Writer, Time: r.Time, Accounts: accounts, Reserved: r.Reserved}
		b.use(accounts, at)
		add(b.sharing[r.Writer], accounts, 0)
	case record.Extend:
		in, ok := b.open[r.RequestID]
		if !ok {
			b.ignored++
			return
		}
		in.Reserved = r.Reserved
		b.open[r.RequestID] = in
	case record.Settle:
		in, ok := b.open[r.RequestID]
		if !ok {
			b.ignored++
			return
		}
		delete(b.open, r.RequestID)
		b.book(in.Accounts, r.Cost)
		add(b.sharing[in.Writer], in.Accounts, r.Cost)
	case record.Adjust:
		accounts := moneyAccounts(r.Limits)
		if len(accounts) == 0 {
			b.ignored++
		}
		b.use(accounts, at)
		b.book(accounts, r.Cost)
		add(b.sharing[r.Writer], accounts, r.Cost)
	case record.Admin:
		b.noteOverride(r)
		b.noteClosed(r)
		b.noteReclaimed(r)
		b.noteWarning(r, at)
	case record.Start:
		if r.Code == sharedStore {
			b.sharing[r.Writer] = make(map[string]money.NanoUSD)
		}
	case record.Deny:
	}
}

// use notes that windows were in use at an instant.
func (b *Balances) use(accounts []string, at int64) {
	lead := b.clock.lead(at)
	for _, a := range accounts {
		tail := tailOf(a)
		if before, ok := b.leads[tail]; !ok || lead > before {
			b.leads[tail] = lead
		}
	}
}

func (b *Balances) book(accounts []string, cost money.NanoUSD) {
	if cost != 0 {
		add(b.spent, accounts, cost)
	}
}

// add books cost on accounts, unless spent is nil.
func add(spent map[string]money.NanoUSD, accounts []string, cost money.NanoUSD) {
	if spent == nil {
		return
	}
	for _, a := range accounts {
		if cost > 0 && spent[a] > maxAmount-cost {
			spent[a] = maxAmount // saturates, with room for what is spent on top: a sum must not wrap into a full budget
			continue
		}
		spent[a] += cost
	}
}

// moneyAccounts returns the accounts of budgets, each once: two limits can
// share one.
func moneyAccounts(limits []record.Limit) []string {
	var n int
	for i := range limits {
		if limits[i].Resource == "usd" {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	accounts := make([]string, 0, n)
	for i := range limits {
		if l := &limits[i]; l.Resource == "usd" && !slices.Contains(accounts, l.Account) {
			accounts = append(accounts, l.Account)
		}
	}
	return accounts
}

// Open returns the intents without a settlement, the oldest first.
func (b *Balances) Open() []OpenIntent {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.SortedFunc(maps.Values(b.open), func(x, y OpenIntent) int {
		if c := x.Time.Compare(y.Time); c != 0 {
			return c
		}
		if x.RequestID < y.RequestID {
			return -1
		}
		return 1
	})
}

// Spent returns what was spent on an account in a window, as in quota.Key.
// Windows are forgotten a week after their end, once the records have shown
// that so much time has passed: not because the clock was set.
func (b *Balances) Spent(account, window string) money.NanoUSD {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.spent[account+"|"+window]
}

// Ignored returns how many extensions, settlements and adjustments had nothing to
// book on.
func (b *Balances) Ignored() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ignored
}

// charged returns what each account-window is charged after a crash: what was
// spent, and the whole worst case of each call that was not settled.
func (b *Balances) charged() map[string]money.NanoUSD {
	b.mu.Lock()
	defer b.mu.Unlock()
	sum := maps.Clone(b.spent)
	for _, in := range b.open {
		for _, a := range in.Accounts {
			sum[a] += in.Reserved
		}
	}
	return sum
}

// checkpointVersion is the first byte of a checkpoint.
//
//	version u8 | latest, passed | ignored | n, n × (account, spent) | n, n × (request id, time, reserved, m, m × account) |
//	n, n × (window, lead) | n, n × (budget, who, until, amount, detail of an override;
//	of an entry of the overlay "", its id, no time, 0, detail) |
//	writer of each open intent | n, n × (writer, n, n × (account, spent)) | n, n × (account, told) |
//	n, n × (replica that has closed, when, its lead, n, n × (account, spent))
//
// Numbers are varints, times Unix nanoseconds, texts a length and their bytes.
// All lists are in order: equal balances have equal checkpoints. Version 1 had
// neither passed nor the lists of the second line, version 2 not those of the third,
// version 3 not that of the last.
const checkpointVersion = 4

// appendSums appends n and n × (account, spent).
func appendSums(dst []byte, spent map[string]money.NanoUSD) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(spent)))
	for _, a := range slices.Sorted(maps.Keys(spent)) {
		dst = appendText(dst, a)
		dst = binary.AppendVarint(dst, int64(spent[a]))
	}
	return dst
}

func (r *checkpointReader) sums() map[string]money.NanoUSD {
	spent := make(map[string]money.NanoUSD)
	for range r.count() {
		a := r.text()
		spent[a] = money.NanoUSD(r.varint())
	}
	return spent
}

// noTime stands for the zero time, whose Unix nanoseconds are undefined.
const noTime = -1 << 63

// AppendCheckpoint appends the balances, without the windows that ended more
// than a week ago and have no open intent.
func (b *Balances) AppendCheckpoint(dst []byte) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forgetLocked()
	dst = append(dst, checkpointVersion)
	dst = binary.AppendVarint(dst, b.clock.latest)
	dst = binary.AppendVarint(dst, b.clock.passed)
	dst = binary.AppendUvarint(dst, b.ignored)
	dst = appendSums(dst, b.spent)
	dst = binary.AppendUvarint(dst, uint64(len(b.open)))
	for _, id := range slices.Sorted(maps.Keys(b.open)) {
		in := b.open[id]
		dst = appendText(dst, id)
		dst = appendTime(dst, in.Time)
		dst = binary.AppendVarint(dst, int64(in.Reserved))
		dst = binary.AppendUvarint(dst, uint64(len(in.Accounts)))
		for _, a := range in.Accounts {
			dst = appendText(dst, a)
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(b.leads)))
	for _, tail := range slices.Sorted(maps.Keys(b.leads)) {
		dst = appendText(dst, tail)
		dst = binary.AppendVarint(dst, b.leads[tail])
	}
	dst = binary.AppendUvarint(dst, uint64(len(b.overrides)))
	for _, key := range slices.SortedFunc(maps.Keys(b.overrides), overrideKey.compare) {
		o := b.overrides[key]
		dst = appendText(dst, o.limit.Name)
		dst = appendText(dst, o.limit.Account)
		dst = appendTime(dst, o.limit.Reset)
		dst = binary.AppendVarint(dst, o.limit.Limit)
		dst = appendText(dst, o.detail)
	}
	for _, id := range slices.Sorted(maps.Keys(b.open)) {
		dst = appendText(dst, b.open[id].Writer)
	}
	dst = binary.AppendUvarint(dst, uint64(len(b.sharing)))
	for _, writer := range slices.Sorted(maps.Keys(b.sharing)) {
		dst = appendText(dst, writer)
		dst = appendSums(dst, b.sharing[writer])
	}
	dst = appendSums(dst, b.told)
	dst = binary.AppendUvarint(dst, uint64(len(b.closed)))
	for _, replica := range slices.Sorted(maps.Keys(b.closed)) {
		c := b.closed[replica]
		dst = appendText(dst, replica)
		dst = binary.AppendVarint(dst, c.at)
		dst = binary.AppendVarint(dst, c.lead)
		dst = appendSums(dst, c.spent)
	}
	return dst
}

func (b *Balances) forgetLocked() {
	needed := make(map[string]bool) // :: window → an open intent has it
	for _, in := range b.open {
		for _, a := range in.Accounts {
			needed[tailOf(a)] = true
		}
	}
	over := make(map[string]bool) // :: window
	for tail, lead := range b.leads {
		// A text that cannot be read is kept: Restore complains about it.
		w, err := parseTail(tail)
		if err == nil && !w.End.IsZero() && !needed[tail] && b.clock.over(w.End.UnixNano(), lead, grace) {
			over[tail] = true
			delete(b.leads, tail)
		}
	}
	isOver := func(a string, _ money.NanoUSD) bool { return over[tailOf(a)] }
	maps.DeleteFunc(b.spent, isOver)
	maps.DeleteFunc(b.told, isOver)
	for _, spent := range b.sharing {
		maps.DeleteFunc(spent, isOver)
	}
	for replica, c := range b.closed {
		if maps.DeleteFunc(c.spent, isOver); len(c.spent) == 0 && !b.recentLocked(&c) {
			delete(b.closed, replica)
		}
	}
	b.foldLocked()
}

// RestoreCheckpoint replaces the balances by those of a checkpoint. On an
// error they are unchanged.
func (b *Balances) RestoreCheckpoint(p []byte) error {
	r := checkpointReader{rest: p}
	v := r.byte()
	if v < 1 || v > checkpointVersion {
		return fmt.Errorf("restore checkpoint: version %d is unknown: it was written by a newer airgate, or is damaged", v)
	}
	seen := passage{latest: r.varint()}
	if v > 1 {
		seen.passed = r.varint()
	}
	ignored := r.uvarint()
	spent := r.sums()
	open := make(map[string]OpenIntent)
	for range r.count() {
		in := OpenIntent{RequestID: r.text(), Time: r.time(), Reserved: money.NanoUSD(r.varint())}
		for range r.count() {
			in.Accounts = append(in.Accounts, r.text())
		}
		open[in.RequestID] = in
	}
	leads, overrides := make(map[string]int64), make(map[overrideKey]saidOverride)
	if v > 1 {
		for range r.count() {
			tail := r.text()
			leads[tail] = r.varint()
		}
		for range r.count() {
			o := saidOverride{limit: record.Limit{
				Name: r.text(), Account: r.text(), Resource: USD.String(), Reset: r.time(), Limit: r.varint(),
			}, detail: r.text()}
			overrides[keyOf(&o.limit)] = o
		}
	}
	sharing, told := make(map[string]map[string]money.NanoUSD), make(map[string]money.NanoUSD)
	closed := make(map[string]closing)
	if v > 2 {
		for _, id := range slices.Sorted(maps.Keys(open)) {
			in := open[id]
			in.Writer = r.text()
			open[id] = in
		}
		for range r.count() {
			writer := r.text()
			sharing[writer] = r.sums()
		}
		told = r.sums()
	}
	if v > 3 {
		for range r.count() {
			replica := r.text()
			closed[replica] = closing{at: r.varint(), lead: r.varint(), spent: r.sums()}
		}
	}
	if r.err == nil && len(r.rest) > 0 {
		r.err = errors.New("bytes follow the end")
	}
	if r.err != nil {
		return fmt.Errorf("restore checkpoint: %w", r.err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clock, b.ignored, b.spent, b.open, b.leads, b.overrides = seen, ignored, spent, open, leads, overrides
	b.sharing, b.told, b.closed = sharing, told, closed
	if v == 1 {
		b.use(slices.Collect(maps.Keys(spent)), seen.latest)
		for _, in := range open {
			b.use(in.Accounts, seen.latest)
		}
	}
	return nil
}

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func appendTime(dst []byte, t time.Time) []byte {
	if t.IsZero() {
		return binary.AppendVarint(dst, noTime)
	}
	return binary.AppendVarint(dst, t.UnixNano())
}

// checkpointReader reads a checkpoint. After an error it returns zeros.
type checkpointReader struct {
	rest []byte
	err  error
}

var errShort = errors.New("it ends too early")

func (r *checkpointReader) fail() {
	if r.err == nil {
		r.err = errShort
	}
	r.rest = nil
}

func (r *checkpointReader) byte() byte {
	if len(r.rest) == 0 {
		r.fail()
		return 0
	}
	c := r.rest[0]
	r.rest = r.rest[1:]
	return c
}

func (r *checkpointReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *checkpointReader) varint() int64 {
	v, n := binary.Varint(r.rest)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

// count reads how many follow, each of at least one byte.
func (r *checkpointReader) count() uint64 {
	n := r.uvarint()
	if n > uint64(len(r.rest)) {
		r.fail()
		return 0
	}
	return n
}

func (r *checkpointReader) text() string {
	n := r.count()
	s := string(r.rest[:n])
	r.rest = r.rest[n:]
	return s
}

func (r *checkpointReader) time() time.Time {
	n := r.varint()
	if n == noTime || r.err != nil {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
