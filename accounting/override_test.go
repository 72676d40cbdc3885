package accounting_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"airgate/accounting"
	"airgate/accounting/record"
)

// TestOverrideUntil: an override holds up to the instant that its until names,
// and then the next most specific one that is not over, without a reload.
func TestOverrideUntil(t *testing.T) {
	key := accounting.Match{Key: []string{"k"}}
	end := noon.Add(time.Hour)
	override := func(of accounting.Match, n int64, until time.Time) accounting.Override {
		return accounting.Override{For: of, Amount: cents(n), Until: until}
	}
	for name, c := range map[string]struct {
		overrides     []accounting.Override
		before, after int64
	}{
		"then the base":                  {[]accounting.Override{override(key, 80, end)}, 80, 50},
		"lower, then the base":           {[]accounting.Override{override(key, 20, end)}, 20, 50},
		"then the team's":                {[]accounting.Override{override(accounting.Match{Team: []string{"t"}}, 60, time.Time{}), override(key, 80, end)}, 80, 60},
		"then the key's own for good":    {[]accounting.Override{override(key, 70, time.Time{}), override(key, 80, end)}, 80, 70},
		"of two, the one that ends soon": {[]accounting.Override{override(key, 90, end.Add(time.Hour)), override(key, 80, end)}, 80, 90},
		"everyone's":                     {[]accounting.Override{override(accounting.Match{}, 80, end)}, 80, 50},
		"everyone's is not the key's":    {[]accounting.Override{override(accounting.Match{}, 80, end), override(key, 60, time.Time{})}, 60, 60},
		"the team's is over, not the key's": {
			[]accounting.Override{override(accounting.Match{Team: []string{"t"}}, 60, end), override(key, 80, time.Time{})}, 80, 80,
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			table := apply(t, l, accounting.Limit{
				Name: "each-key", Resource: accounting.USD, Each: []accounting.Dimension{accounting.Key}, Amount: cents(50), Window: accounting.Month, Overrides: c.overrides,
			})
			s := subject("k", "t")
			var h accounting.Hold
			spent := int64(0)
			for _, step := range []struct {
				now  time.Time
				want int64
			}{{noon, c.before}, {end.Add(-1), c.before}, {end, c.after}, {end.Add(30 * time.Minute), c.after}} {
				if room, _ := l.Room(new(accounting.Hold), table, s, step.now); room != usd(step.want-spent) {
					t.Errorf("Room at %v = %v, want %v", step.now, room, usd(step.want-spent))
				}
				if got := code(admit(l, &h, table, s, accounting.Need{USD: usd(step.want-spent) + 1}, step.now)); got != accounting.BudgetInsufficient {
					t.Errorf("one more than is left at %v = %v, want %v", step.now, got, accounting.BudgetInsufficient)
				}
				mustAdmit(t, l, &h, table, s, accounting.Need{USD: usd(step.want - spent)}, step.now)
				l.Settle(&h, usd(1), 0, step.now)
				spent++
				if b := l.Budgets(step.now)[0]; b.Limit != usd(step.want) || len(b.Overrides) > 0 != (step.want != 50) || len(b.Overrides) > 0 && b.Overrides[0].Amount != int64(b.Limit) {
					t.Errorf("Budgets at %v = %+v, want a limit of %v", step.now, b, usd(step.want))
				}
			}
		})
	}
}

// TestOverrideForEveryone: it is for the accounts that share one, too, and for
// a budget that has only one.
func TestOverrideForEveryone(t *testing.T) {
	for name, each := range map[string][]accounting.Dimension{"shared": {accounting.User}, "one": nil} {
		l := newLedger(t)
		table := apply(t, l, accounting.Limit{
			Name: "b", Resource: accounting.USD, Each: each, Amount: cents(50), Window: accounting.Day, MaxAccounts: 1,
			Overrides: []accounting.Override{{Amount: cents(80), Until: noon.Add(time.Hour)}},
		})
		var h accounting.Hold
		for _, user := range []string{"a", "b"} {
			mustAdmit(t, l, &h, table, &accounting.Subject{User: user}, accounting.Need{USD: usd(1)}, noon)
			l.Settle(&h, 0, 0, noon)
		}
		for _, b := range l.Budgets(noon) {
			if b.Limit != usd(80) || len(b.Overrides) != 1 {
				t.Errorf("%s: Budgets = %+v, want a limit of %v by the override", name, b, usd(80))
			}
		}
		if room, _ := l.Room(new(accounting.Hold), table, &accounting.Subject{User: "b"}, noon.Add(time.Hour)); room != usd(50) {
			t.Errorf("%s: Room at its end = %v, want %v", name, room, usd(50))
		}
	}
}

// TestOverrideEndsBelowSpending: what was spent under an override stays spent.
func TestOverrideEndsBelowSpending(t *testing.T) {
	l := newLedger(t)
	table := apply(t, l, accounting.Limit{
		Name: "each-key", Resource: accounting.USD, Each: []accounting.Dimension{accounting.Key}, Amount: cents(50), Window: accounting.Day,
		Overrides: []accounting.Override{{For: accounting.Match{Key: []string{"k"}}, Amount: cents(80), Until: noon.Add(time.Hour)}},
	})
	var h accounting.Hold
	mustAdmit(t, l, &h, table, subject("k", "t"), accounting.Need{USD: usd(70)}, noon)
	l.Settle(&h, usd(70), 0, noon.Add(2*time.Hour))
	r := admit(l, &h, table, subject("k", "t"), accounting.Need{USD: 1}, noon.Add(2*time.Hour))
	if code(r) != accounting.BudgetExhausted || r.Used != cents(70) || r.Amount != cents(50) {
		t.Errorf("after the override = %+v, want %v with 70 of 50 cents used", r, accounting.BudgetExhausted)
	}
}

// TestOverrideChanges: the book says which overrides there are, and is told
// only of what is new to it, also by way of a checkpoint.
func TestOverrideChanges(t *testing.T) {
	until := at("2026-12-01T00:00:00Z")
	table := func(overrides ...accounting.Override) *accounting.Table {
		return compile(t, accounting.Limit{
			Name: "each-key", Resource: accounting.USD, Each: []accounting.Dimension{accounting.Key}, Amount: cents(50), Window: accounting.Day, Overrides: overrides,
		})
	}
	dev := accounting.Override{For: accounting.Match{Key: []string{"dev"}}, Amount: cents(80), Until: until, By: "kim", Reason: "INC-12"}
	prod := accounting.Override{For: accounting.Match{Key: []string{"prod"}, Team: []string{"a", "b"}}, Amount: cents(500)}
	raised := dev
	raised.Amount = cents(90)
	later := dev
	later.Until = until.AddDate(0, 1, 0)
	b := accounting.NewBalances()
	for _, step := range []struct {
		why   string
		table *accounting.Table
		want  []string
	}{
		{"none", table(), nil},
		{"two", table(dev, prod), []string{
			`override_set override of budget "each-key" for key=dev: 0.8 USD until 2026-12-01T00:00:00Z, by kim: INC-12`,
			`override_set override of budget "each-key" for team=a,b, key=prod: 5 USD`,
		}},
		{"the same", table(prod, dev), nil},
		{"raised", table(raised, prod), []string{`override_set override of budget "each-key" for key=dev: 0.9 USD until 2026-12-01T00:00:00Z, by kim: INC-12`}},
		{"another end", table(later, prod), []string{
			`override_set override of budget "each-key" for key=dev: 0.8 USD until 2027-01-01T00:00:00Z, by kim: INC-12`,
			`override_gone override of budget "each-key" for key=dev: 0.9 USD until 2026-12-01T00:00:00Z, by kim: INC-12`,
		}},
		{"one gone", table(later), []string{`override_gone override of budget "each-key" for team=a,b, key=prod: 5 USD`}},
		{"over", table(later), nil},
	} {
		var got []string
		for _, r := range b.OverrideChanges(step.table, noon.AddDate(1, 0, 0)) {
			if r.Type != record.Admin || r.Time.IsZero() {
				t.Errorf("%s: record %+v, want one of type admin with its time", step.why, r)
			}
			got = append(got, r.Code+" "+r.Detail)
			b.Apply(&r)
		}
		if d := cmp.Diff(step.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", step.why, d)
		}
		again := accounting.NewBalances()
		if err := again.RestoreCheckpoint(b.AppendCheckpoint(nil)); err != nil {
			t.Fatal(err)
		}
		b = again
	}
}

// TestOverlayChanges: the book says which entries of the overlay hold, beside
// the overrides and apart from them, also by way of a checkpoint.
func TestOverlayChanges(t *testing.T) {
	table := compile(t, accounting.Limit{
		Name: "each-key", Resource: accounting.USD, Each: []accounting.Dimension{accounting.Key}, Amount: cents(50), Window: accounting.Day,
		Overrides: []accounting.Override{
			{For: accounting.Match{Key: []string{"dev"}}, Amount: cents(80)},
			{Amount: cents(70), Until: noon, Overlay: "raise/each-key"},
		},
	})
	entry := func(id, detail string) record.Record { return record.Record{Rule: id, Detail: detail, Team: "search"} }
	b := accounting.NewBalances()
	for _, step := range []struct {
		why     string
		holding []record.Record
		want    []string
	}{
		{"none", nil, []string{`override_set  override of budget "each-key" for key=dev: 0.8 USD`}},
		{"two", []record.Record{entry("raise/each-key", "a"), entry("block/team/search", "b")}, []string{"overlay_set raise/each-key a", "overlay_set block/team/search b"}},
		{"the same", []record.Record{entry("block/team/search", "b"), entry("raise/each-key", "a")}, nil},
		{"other words", []record.Record{entry("block/team/search", "c"), entry("raise/each-key", "a")}, []string{"overlay_set block/team/search c"}},
		{"none again", nil, []string{"overlay_gone block/team/search c; why block/team/search", "overlay_gone raise/each-key a; why raise/each-key"}},
		{"nothing more", nil, nil},
	} {
		var got []string
		changes := append(b.OverrideChanges(table, noon), b.OverlayChanges(step.holding, func(id string) string { return "why " + id }, noon)...)
		for _, r := range changes {
			if r.Type != record.Admin || !r.Time.Equal(noon) {
				t.Errorf("%s: record %+v, want one of type admin with its time", step.why, r)
			}
			got = append(got, r.Code+" "+r.Rule+" "+r.Detail)
			b.Apply(&r)
		}
		if d := cmp.Diff(step.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", step.why, d)
		}
		again := accounting.NewBalances()
		if err := again.RestoreCheckpoint(b.AppendCheckpoint(nil)); err != nil {
			t.Fatal(err)
		}
		b = again
	}
}
