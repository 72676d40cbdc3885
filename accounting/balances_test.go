package accounting_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"airgate/accounting"
	"airgate/accounting/journal"
	"airgate/accounting/money"
	"airgate/accounting/quota/memory"
	"airgate/accounting/record"
)

var _ journal.State = (*accounting.Balances)(nil)

func intent(id string, at time.Time, reserved money.NanoUSD, accounts ...string) *record.Record {
	r := &record.Record{Type: record.Intent, RequestID: id, Time: at, Reserved: reserved, Decision: "allow"}
	r.Limits = append(r.Limits, record.Limit{Name: "rps", Account: "requests|/s", Resource: "requests", Needed: 1})
	for _, a := range accounts {
		r.Limits = append(r.Limits, record.Limit{Account: a, Resource: "usd", Needed: int64(reserved)})
	}
	return r
}

func extend(id string, at time.Time, reserved money.NanoUSD) *record.Record {
	return &record.Record{Type: record.Extend, RequestID: id, Time: at, Reserved: reserved}
}

func settle(id string, at time.Time, cost money.NanoUSD) *record.Record {
	return &record.Record{Type: record.Settle, RequestID: id, Time: at, Cost: cost, HasCost: true}
}

func balances(records ...*record.Record) *accounting.Balances {
	b := accounting.NewBalances()
	for _, r := range records {
		b.Apply(r)
	}
	return b
}

func TestBalances(t *testing.T) {
	const month, day = "usd|team=search|month@UTC|2026-11", "usd|each=key:k|day@UTC|2026-11-03"
	for name, c := range map[string]struct {
		records    []*record.Record
		month, day money.NanoUSD
		open       []accounting.OpenIntent
		ignored    uint64
	}{
		"nothing": {},
		"an intent opens": {
			records: []*record.Record{intent("b", noon, 50, month, day), intent("a", noon.Add(1), 60, month)},
			open: []accounting.OpenIntent{
				{RequestID: "b", Time: noon, Accounts: []string{month, day}, Reserved: 50},
				{RequestID: "a", Time: noon.Add(1), Accounts: []string{month}, Reserved: 60},
			},
		},
		"a settlement books and closes": {
			records: []*record.Record{intent("a", noon, 50, month, day), settle("a", noon, 20)},
			month:   20, day: 20,
		},
		"two limits that share an account book once": {
			records: []*record.Record{intent("a", noon, 50, month, month, day), settle("a", noon, 20)},
			month:   20, day: 20,
		},
		"an overdraft is booked whole": {
			records: []*record.Record{intent("a", noon, 50, month), settle("a", noon, 90)},
			month:   90,
		},
		"an extension says what is held from then on": {
			records: []*record.Record{intent("a", noon, 50, month), extend("a", noon.Add(1), 70), extend("a", noon.Add(2), 90)},
			open:    []accounting.OpenIntent{{RequestID: "a", Time: noon, Accounts: []string{month}, Reserved: 90}},
		},
		"an extended call costs what it cost": {
			records: []*record.Record{intent("a", noon, 50, month), extend("a", noon, 70), settle("a", noon, 60)},
			month:   60,
		},
		"an extension of nothing is ignored": {
			records: []*record.Record{extend("b", noon, 70)},
			ignored: 1,
		},
		"a settlement without cost closes": {
			records: []*record.Record{intent("a", noon, 50, month), {Type: record.Settle, RequestID: "a", Time: noon}},
		},
		"a second settlement is ignored": {
			records: []*record.Record{intent("a", noon, 50, month), settle("a", noon, 20), settle("a", noon, 20)},
			month:   20, ignored: 1,
		},
		"a settlement of nothing is ignored": {
			records: []*record.Record{settle("a", noon, 20)},
			ignored: 1,
		},
		"an adjustment books the difference on the accounts it names": {
			records: []*record.Record{
				intent("a", noon, 50, month, day), settle("a", noon, 50),
				{Type: record.Adjust, RequestID: "a", Time: noon, Cost: -30, Limits: intent("", noon, 0, month, day).Limits},
			},
			month: 20, day: 20,
		},
		"an adjustment without accounts is ignored": {
			records: []*record.Record{intent("a", noon, 50, month), settle("a", noon, 50), {Type: record.Adjust, RequestID: "a", Time: noon, Cost: -30}},
			month:   50, ignored: 1,
		},
		"a sum stops at the greatest amount": {
			records: []*record.Record{
				intent("a", noon, 50, month), settle("a", noon, 1<<62-1), intent("b", noon, 50, month), settle("b", noon, 50),
			},
			month: 1 << 62,
		},
		"denials and administration book nothing": {
			records: []*record.Record{
				{Type: record.Deny, RequestID: "a", Time: noon, Limits: intent("", noon, 0, month).Limits}, {Type: record.Admin, Time: noon}, {Type: record.Start, Time: noon},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := balances(c.records...)
			for range 2 { // straight, then by way of a checkpoint
				if got := b.Spent("usd|team=search|month@UTC", "2026-11"); got != c.month {
					t.Errorf("Spent(month) = %v, want %v", got, c.month)
				}
				if got := b.Spent("usd|each=key:k|day@UTC", "2026-11-03"); got != c.day {
					t.Errorf("Spent(day) = %v, want %v", got, c.day)
				}
				if d := cmp.Diff(c.open, b.Open(), cmpopts.EquateEmpty()); d != "" {
					t.Errorf("Open (-want +got):\n%s", d)
				}
				if got := b.Ignored(); got != c.ignored {
					t.Errorf("Ignored = %v, want %v", got, c.ignored)
				}
				again := accounting.NewBalances()
				if err := again.RestoreCheckpoint(b.AppendCheckpoint(nil)); err != nil {
					t.Fatal(err)
				}
				b = again
			}
		})
	}
}

// spentOf lists what is known of the account-windows given as account and
// window.
func spentOf(b *accounting.Balances, of ...[2]string) string {
	var s []string
	for _, k := range of {
		s = append(s, strconv.FormatInt(int64(b.Spent(k[0], k[1])), 10))
	}
	return strings.Join(s, " ")
}

// tick is a record that only shows that time passes.
func tick(b *accounting.Balances, at time.Time) {
	b.Apply(&record.Record{Type: record.Admin, Time: at})
}

// walk shows b that time passes from one instant to another, half an hour a
// record.
func walk(b *accounting.Balances, from, to time.Time) {
	for t := from; t.Before(to); t = t.Add(30 * time.Minute) {
		tick(b, t)
	}
	tick(b, to)
}

// TestCheckpointForgets windows a week after their end, but not those of open
// intents nor the total.
func TestCheckpointForgets(t *testing.T) {
	b := balances(
		intent("a", noon, 1, "usd|day@Asia/Tokyo|2026-11-03", "usd|month@UTC|2026-11", "usd|total|total", "unreadable"), settle("a", noon, 1),
		intent("b", noon, 1, "usd|day@UTC|2026-11-03"), settle("b", noon, 1),
		intent("open", noon, 1, "usd|day@UTC|2026-11-03"),
	)
	from := noon
	for _, c := range []struct{ at, want string }{
		{"2026-11-10T15:00:00Z", "1 1 1 1"}, // the day ended at 15:00 in Tokyo
		{"2026-11-10T15:00:01Z", "0 1 1 1"},
		{"2026-12-08T00:00:00Z", "0 1 1 1"},
		{"2026-12-08T00:00:01Z", "0 0 1 1"},
	} {
		walk(b, from, at(c.at))
		from = at(c.at)
		b.AppendCheckpoint(nil)
		if got := spentOf(b, [2]string{"usd|day@Asia/Tokyo", "2026-11-03"}, [2]string{"usd|month@UTC", "2026-11"}, [2]string{"usd|total", "total"}, [2]string{"usd|day@UTC", "2026-11-03"}); got != c.want {
			t.Errorf("after a checkpoint at %s, spent = %s, want %s", c.at, got, c.want)
		}
	}
}

// TestClockJumpsForgetNothing: whatever the clock was set to and for how long,
// money of a window that is live once it is right again is known.
func TestClockJumpsForgetNothing(t *testing.T) {
	spend := func(b *accounting.Balances, id string, at time.Time, accounts ...string) {
		b.Apply(intent(id, at, 1, accounts...))
		b.Apply(settle(id, at, 1))
	}
	const day, month = "usd|day@UTC|2026-11-03", "usd|month@UTC|2026-11"
	for name, wrong := range map[string]func(b *accounting.Balances){
		"a year ahead, once":          func(b *accounting.Balances) { tick(b, noon.AddDate(1, 0, 0)) },
		"a year ahead, for five days": func(b *accounting.Balances) { walk(b, noon.AddDate(1, 0, 0), noon.AddDate(1, 0, 5)) },
		"eight days ahead for seven":  func(b *accounting.Balances) { walk(b, noon.AddDate(0, 0, 8), noon.AddDate(0, 0, 15)) },
		"a year behind":               func(b *accounting.Balances) { walk(b, noon.AddDate(-1, 0, 0), noon.AddDate(-1, 0, 9)) },
		"ahead and back, many times": func(b *accounting.Balances) {
			for i := range 10_000 {
				tick(b, noon.AddDate(1, 0, 0).Add(time.Duration(i)))
				tick(b, noon.Add(time.Duration(i)))
			}
		},
		"ahead by ever more": func(b *accounting.Balances) {
			for i := range 1000 {
				tick(b, noon.Add(time.Duration(i)*25*time.Hour))
			}
		},
		"used in the wrong window too": func(b *accounting.Balances) { spend(b, "x", noon.AddDate(1, 0, 0), "usd|month@UTC|2027-11") },
	} {
		t.Run(name, func(t *testing.T) {
			b := balances()
			spend(b, "a", noon.Add(-time.Hour), day, month)
			wrong(b)
			b.AppendCheckpoint(nil)
			tick(b, noon)
			b.AppendCheckpoint(nil)
			if got := spentOf(b, [2]string{"usd|day@UTC", "2026-11-03"}, [2]string{"usd|month@UTC", "2026-11"}); got != "1 1" {
				t.Errorf("spent = %s, want 1 1", got)
			}
			// Half a year later all is forgotten but what lies ahead.
			walk(b, noon, noon.AddDate(0, 6, 0))
			b.AppendCheckpoint(nil)
			want := money.NanoUSD(0)
			if strings.HasPrefix(name, "used") {
				want = 1
			}
			if got := spentOf(b, [2]string{"usd|day@UTC", "2026-11-03"}, [2]string{"usd|month@UTC", "2026-11"}); got != "0 0" || b.Spent("usd|month@UTC", "2027-11") != want {
				t.Errorf("half a year later spent = %s and %v ahead, want 0 0 and %v", got, b.Spent("usd|month@UTC", "2027-11"), want)
			}
		})
	}
}

// TestOlderCheckpoint: what airgate 0.1 wrote can be read, and is forgotten in
// time.
func TestOlderCheckpoint(t *testing.T) {
	old := []byte{1}
	old = binary.AppendVarint(old, noon.UnixNano())
	old = append(old, 0, 1) // none ignored, one spent
	old = append(binary.AppendUvarint(old, uint64(len("usd|day@UTC|2026-11-03"))), "usd|day@UTC|2026-11-03"...)
	old = append(binary.AppendVarint(old, 7), 0) // none open
	b := accounting.NewBalances()
	if err := b.RestoreCheckpoint(old); err != nil {
		t.Fatal(err)
	}
	b.AppendCheckpoint(nil)
	if got := b.Spent("usd|day@UTC", "2026-11-03"); got != 7 {
		t.Errorf("Spent = %v, want 7", got)
	}
	walk(b, noon, noon.AddDate(0, 0, 8))
	b.AppendCheckpoint(nil)
	if got := b.Spent("usd|day@UTC", "2026-11-03"); got != 0 {
		t.Errorf("Spent a week later = %v, want 0", got)
	}
}

func TestRestoreCheckpointRefuses(t *testing.T) {
	full := balances(intent("a", noon, 50, "usd|total|total"), intent("b", noon, 50, "usd|total|total"), settle("a", noon, 20)).AppendCheckpoint(nil)
	newer := bytes.Clone(full)
	newer[0]++
	bad := map[string][]byte{"a newer version": newer, "bytes at the end": append(bytes.Clone(full), 0)}
	for i := range full {
		bad[fmt.Sprint("cut at ", i)] = full[:i]
	}
	for name, p := range bad {
		b := balances(intent("c", noon, 1, "usd|total|total"))
		before := b.AppendCheckpoint(nil)
		if err := b.RestoreCheckpoint(p); err == nil {
			t.Errorf("RestoreCheckpoint of %s = nil, want an error", name)
		}
		if !bytes.Equal(b.AppendCheckpoint(nil), before) {
			t.Errorf("RestoreCheckpoint of %s changed the balances", name)
		}
	}
}

// FuzzRestoreCheckpoint: what is accepted is written back in canonical form.
func FuzzRestoreCheckpoint(f *testing.F) {
	f.Add([]byte{})
	f.Add(accounting.NewBalances().AppendCheckpoint(nil))
	f.Add(balances(intent("a", noon, 50, "usd|total|total", "usd|day@UTC|2026-11-03"), settle("b", noon, 20)).AppendCheckpoint(nil))
	f.Fuzz(func(t *testing.T, p []byte) {
		b := accounting.NewBalances()
		if b.RestoreCheckpoint(p) != nil {
			return
		}
		once := b.AppendCheckpoint(nil)
		if err := b.RestoreCheckpoint(once); err != nil {
			t.Fatalf("RestoreCheckpoint(%x) = %v, want nil for what was written from %x", once, err, p)
		}
		if twice := b.AppendCheckpoint(nil); !bytes.Equal(once, twice) {
			t.Errorf("checkpoint of %x = %x, then %x", p, once, twice)
		}
	})
}

// TestRestore: after a restart what the records say is used, what was in
// flight counts whole, and accounts are listed before their first call.
func TestRestore(t *testing.T) {
	limits := []accounting.Limit{
		{Name: "search", Resource: accounting.USD, Match: accounting.Match{Team: []string{"search"}}, Amount: cents(100), Window: accounting.Month},
		{Name: "each-key", Resource: accounting.USD, Each: []accounting.Dimension{accounting.Key}, Amount: cents(90), Window: accounting.Day, Overrides: []accounting.Override{{For: accounting.Match{Team: []string{"search"}}, Amount: cents(80)}}},
		{Name: "users", Resource: accounting.USD, Each: []accounting.Dimension{accounting.User}, Amount: cents(50), Window: accounting.Day, MaxAccounts: 1},
	}
	book := accounting.NewBalances()
	old := newLedger(t)
	table := apply(t, old, limits...)
	for i, user := range []string{"u", "v"} {
		s := &accounting.Subject{Teams: []string{"search"}, KeyID: "k|1", User: user}
		var h accounting.Hold
		mustAdmit(t, old, &h, table, s, accounting.Need{USD: usd(30)}, noon)
		book.Apply(&record.Record{Type: record.Intent, RequestID: user, Time: noon, Reserved: usd(30), Limits: h.AppendLimits(nil)})
		if i == 0 {
			old.Settle(&h, usd(25), 0, noon)
			book.Apply(settle(user, noon, usd(25)))
		}
	}

	l, err := accounting.New(accounting.Config{Store: memory.New(), Replica: "test.2"})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Restore(book, noon); err == nil {
		t.Error("Restore before Apply = nil, want an error")
	}
	table = apply(t, l, limits...)
	if err := l.Restore(book, noon); err != nil {
		t.Fatal(err)
	}
	want := []figures{
		{"usd|team=search|month@UTC|2026-11", "1.00", "0.55", "0.00"},
		{"usd|each=key:k%7C1|day@UTC|2026-11-03", "0.90", "0.55", "0.00"},
		{"usd|each=user:*other|day@UTC|2026-11-03", "0.50", "0.30", "0.00"},
		{"usd|each=user:u|day@UTC|2026-11-03", "0.50", "0.25", "0.00"},
	}
	if d := cmp.Diff(want, budgets(l, noon)); d != "" {
		t.Errorf("budgets after a restart (-want +got):\n%s", d)
	}
	s := &accounting.Subject{Teams: []string{"search"}, KeyID: "k|1", User: "u"}
	if room, _ := l.Room(new(accounting.Hold), table, s, noon); room != usd(25) {
		t.Errorf("Room after a restart = %v, want %v", room, usd(25))
	}
	var h accounting.Hold
	if got := code(admit(l, &h, table, s, accounting.Need{USD: usd(26)}, noon)); got != accounting.BudgetInsufficient {
		t.Errorf("26 of 25 cents left = %v, want %v", got, accounting.BudgetInsufficient)
	}
	mustAdmit(t, l, &h, table, s, accounting.Need{USD: usd(25)}, noon)
	if b := l.Budgets(noon)[1]; b.Limit != usd(80) || len(b.Overrides) != 1 {
		t.Errorf("after its first call the key's limit = %v, want %v: its team is known now", b.Limit, usd(80))
	}
}

// TestRestoreRefuses what it cannot read: spending that is dropped would be
// spent again.
func TestRestoreRefuses(t *testing.T) {
	for _, account := range []string{"", "usd", "usd|month@UTC", "usd|month@Nowhere|2026-11", "usd|month@UTC|2026-13", "usd|each=colour:red|month@UTC|2026-11"} {
		l := newLedger(t)
		apply(t, l)
		if err := l.Restore(balances(intent("a", noon, 5, account)), noon); err == nil {
			t.Errorf("Restore of account %q = nil, want an error", account)
		}
	}
	l := newLedger(t)
	table := apply(t, l, accounting.Limit{Resource: accounting.USD, Amount: 10, Window: accounting.Day})
	late := noon.AddDate(0, 0, 30)
	if err := l.Restore(balances(intent("a", noon, 5, "usd|day@UTC|2026-11-03"), intent("b", late, 4, "usd|day@UTC|2026-12-03")), late); err != nil {
		t.Fatal(err)
	}
	if room, _ := l.Room(new(accounting.Hold), table, subject("k", "t"), late); room != 6 {
		t.Errorf("Room = %v, want 6", room)
	}
}
