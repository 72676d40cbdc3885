package accounting_test

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"airgate/accounting"
	"airgate/accounting/money"
	"airgate/accounting/quota/memory"
	"airgate/accounting/record"
)

// at is a quiet Tuesday.
func at(text string) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return t
}

var noon = at("2026-11-03T12:00:00Z")

func tokyo(t testing.TB) *time.Location {
	t.Helper()
	z, err := time.LoadLocation("Asia/Tokyo")
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// cents makes amounts readable: cents(100) is 1 USD.
func cents(n int64) int64 { return n * int64(money.USD) / 100 }

func usd(n int64) money.NanoUSD { return money.NanoUSD(cents(n)) }

func newLedger(t testing.TB) *accounting.Ledger {
	t.Helper()
	l, err := accounting.New(accounting.Config{Store: memory.New(), Replica: "test.1"})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func compile(t testing.TB, limits ...accounting.Limit) *accounting.Table {
	t.Helper()
	for i := range limits {
		if limits[i].Name == "" {
			limits[i].Name = fmt.Sprint("limit", i)
		}
		limits[i].Where = fmt.Sprintf("test.yaml:%d", i+1)
	}
	table, err := accounting.Rules{Limits: limits, AllowUnbudgeted: true}.Compile()
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func apply(t testing.TB, l *accounting.Ledger, limits ...accounting.Limit) *accounting.Table {
	t.Helper()
	table := compile(t, limits...)
	if err := l.Apply(table, noon); err != nil {
		t.Fatal(err)
	}
	return table
}

func subject(key string, teams ...string) *accounting.Subject {
	return &accounting.Subject{Teams: teams, KeyID: key, KeyName: key + "-name"}
}

// admit enters and reserves.
func admit(l *accounting.Ledger, h *accounting.Hold, t *accounting.Table, s *accounting.Subject, n accounting.Need, now time.Time) *accounting.Refusal {
	if r := l.Enter(h, t, s, now); r != nil {
		return r
	}
	return l.Reserve(h, t, s, n, now)
}

func mustAdmit(t testing.TB, l *accounting.Ledger, h *accounting.Hold, table *accounting.Table, s *accounting.Subject, n accounting.Need, now time.Time) {
	t.Helper()
	if r := admit(l, h, table, s, n, now); r != nil {
		t.Fatalf("call of %s refused: %+v", s.KeyID, *r)
	}
}

func code(r *accounting.Refusal) accounting.Code {
	if r == nil {
		return accounting.OK
	}
	return r.Code
}

// figures is what Budgets says of one account.
type figures struct{ Account, Limit, Spent, Reserved string }

func budgets(l *accounting.Ledger, now time.Time) []figures {
	var list []figures
	for _, b := range l.Budgets(now) {
		list = append(list, figures{b.Account, dollars(b.Limit), dollars(b.Spent), dollars(b.Reserved)})
	}
	return list
}

func dollars(n money.NanoUSD) string { return fmt.Sprintf("%d.%02d", n/money.USD, n%money.USD/1e7) }

// TestCodes tells apart why a call does not fit into a budget of 1 USD.
func TestCodes(t *testing.T) {
	for name, c := range map[string]struct {
		spent, held int64 // cents
		need        int64
		want        accounting.Code
	}{
		"fits":                                {0, 0, 100, accounting.OK},
		"fits beside others":                  {40, 40, 20, accounting.OK},
		"spent":                               {100, 0, 1, accounting.BudgetExhausted},
		"overspent":                           {130, 0, 1, accounting.BudgetExhausted},
		"spent while others hold":             {100, 0, 200, accounting.BudgetExhausted},
		"too dear for what is left":           {40, 0, 61, accounting.BudgetInsufficient},
		"too dear ever":                       {0, 0, 101, accounting.BudgetInsufficient},
		"too dear, whatever others give back": {40, 40, 61, accounting.BudgetInsufficient},
		"fits once others settle":             {40, 40, 21, accounting.BudgetBusy},
		"all is held":                         {0, 100, 100, accounting.BudgetBusy},
		"a free call takes nothing":           {130, 0, 0, accounting.OK},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			table := apply(t, l, accounting.Limit{Name: "b", Resource: accounting.USD, Amount: cents(100), Window: accounting.Month})
			s := subject("k", "team")
			var spent, held, h accounting.Hold
			mustAdmit(t, l, &spent, table, s, accounting.Need{}, noon)
			l.Settle(&spent, usd(c.spent), 0, noon)
			mustAdmit(t, l, &held, table, s, accounting.Need{USD: usd(c.held)}, noon)

			before := budgets(l, noon)
			r := admit(l, &h, table, s, accounting.Need{USD: usd(c.need)}, noon)
			if got := code(r); got != c.want {
				t.Fatalf("Reserve(%d cents) with %d spent and %d held of 100 = %v, want %v", c.need, c.spent, c.held, got, c.want)
			}
			if r == nil {
				return
			}
			want := accounting.Refusal{
				Code: c.want, Account: "usd|month@UTC|2026-11", Used: cents(c.spent), Reserved: cents(c.held), Amount: cents(100), Needed: cents(c.need),
				Reset: at("2026-12-01T00:00:00Z"), Limit: r.Limit, RetryAfter: r.RetryAfter,
			}
			if d := cmp.Diff(want, *r); d != "" || r.Limit.Name != "b" || (r.RetryAfter > 0) != (c.want == accounting.BudgetBusy) {
				t.Errorf("refusal (-want +got), limit %q, retry after %v:\n%s", r.Limit.Name, r.RetryAfter, d)
			}
			if d := cmp.Diff(before, budgets(l, noon)); d != "" || h.Open() {
				t.Errorf("after a refusal the hold is open: %v; budgets (-before +after):\n%s", h.Open(), d)
			}
		})
	}
}

// TestUnbudgeted: only an enforced budget covers a call.
func TestUnbudgeted(t *testing.T) {
	budget := func(name, team string, mode accounting.Mode) accounting.Limit {
		return accounting.Limit{Name: name, Resource: accounting.USD, Amount: cents(100), Window: accounting.Day, Mode: mode, Match: accounting.Match{Team: []string{team}}}
	}
	rps := accounting.Limit{Name: "rps", Resource: accounting.Requests, Amount: 1, Per: time.Hour}
	limits := []accounting.Limit{rps, budget("search", "search", accounting.Enforce), budget("ads", "ads", accounting.Shadow)}
	for name, c := range map[string]struct {
		team  string
		allow bool
		want  accounting.Code
	}{
		"covered":                  {"search", false, accounting.OK},
		"shadow does not cover":    {"ads", false, accounting.BudgetMissing},
		"no budget":                {"nobody", false, accounting.BudgetMissing},
		"shadow, unbudgeted allow": {"ads", true, accounting.OK},
		"none, unbudgeted allow":   {"nobody", true, accounting.OK},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			table, err := accounting.Rules{Limits: limits, AllowUnbudgeted: c.allow}.Compile()
			if err != nil {
				t.Fatal(err)
			}
			if err := l.Apply(table, noon); err != nil {
				t.Fatal(err)
			}
			var h accounting.Hold
			for range 3 { // the request is given back each time
				if got := code(admit(l, &h, table, subject("k", c.team), accounting.Need{USD: usd(1)}, noon)); got != c.want {
					t.Fatalf("call of team %s = %v, want %v", c.team, got, c.want)
				}
				l.Release(&h, noon)
			}
		})
	}
}

// TestAllOrNone: whichever of five limits refuses, what the others took is
// given back, the request and the permit of Enter too.
func TestAllOrNone(t *testing.T) {
	limits := func(requests, permits, tokens, team, company int64) []accounting.Limit {
		return []accounting.Limit{
			{Name: "rps", Resource: accounting.Requests, Each: []accounting.Dimension{accounting.Key}, Amount: requests, Per: time.Hour, Burst: requests},
			{Name: "parallel", Resource: accounting.Concurrent, Each: []accounting.Dimension{accounting.Key}, Amount: permits},
			{Name: "tpm", Resource: accounting.Tokens, Each: []accounting.Dimension{accounting.Team}, Amount: tokens, Per: time.Minute},
			{Name: "team", Resource: accounting.USD, Match: accounting.Match{Team: []string{"search"}}, Amount: cents(team), Window: accounting.Month},
			{Name: "company", Resource: accounting.USD, Amount: cents(company), Window: accounting.Month},
		}
	}
	need := accounting.Need{USD: usd(10), Tokens: 100}
	for name, c := range map[string]struct {
		limits []accounting.Limit
		want   accounting.Code
		limit  string
	}{
		"requests":    {limits(3, 9, 900, 90, 90), accounting.RateLimited, "rps"},
		"permits":     {limits(9, 3, 900, 90, 90), accounting.ConcurrencyLimited, "parallel"},
		"tokens":      {limits(9, 9, 300, 90, 90), accounting.RateLimited, "tpm"},
		"first money": {limits(9, 9, 900, 30, 90), accounting.BudgetBusy, "team"},
		"last money":  {limits(9, 9, 900, 90, 30), accounting.BudgetBusy, "company"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			table := apply(t, l, c.limits...)
			s := subject("k", "search-ml", "search")
			holds := make([]accounting.Hold, 4)
			for round := range 3 {
				for i := range 3 {
					mustAdmit(t, l, &holds[i], table, s, need, noon)
				}
				before := budgets(l, noon)
				for range 5 {
					r := admit(l, &holds[3], table, s, need, noon)
					if code(r) != c.want || r.Limit.Name != c.limit {
						t.Fatalf("round %d: fourth call = %+v, want %v by %s", round, r, c.want, c.limit)
					}
				}
				if d := cmp.Diff(before, budgets(l, noon)); d != "" {
					t.Fatalf("round %d: budgets (-before refusals +after):\n%s", round, d)
				}
				for i := range 3 {
					l.Release(&holds[i], noon)
				}
			}
		})
	}
}

// TestSettleOnce: a hold ends once, whatever is called on it later.
func TestSettleOnce(t *testing.T) {
	l := newLedger(t)
	table := apply(t, l,
		accounting.Limit{Name: "b", Resource: accounting.USD, Amount: cents(100), Window: accounting.Month},
		accounting.Limit{Name: "parallel", Resource: accounting.Concurrent, Amount: 1},
	)
	var h accounting.Hold
	mustAdmit(t, l, &h, table, subject("k", "t"), accounting.Need{USD: usd(50)}, noon)
	if got := l.Settle(&h, usd(20), 0, noon); got != 0 {
		t.Errorf("Settle(20 of 50 cents) = overdraft %v, want 0", got)
	}
	l.Settle(&h, usd(20), 0, noon)
	l.Release(&h, noon)
	want := []figures{{"usd|month@UTC|2026-11", "1.00", "0.20", "0.00"}}
	if d := cmp.Diff(want, budgets(l, noon)); d != "" {
		t.Errorf("budgets (-want +got):\n%s", d)
	}
	var other accounting.Hold
	mustAdmit(t, l, &h, table, subject("k", "t"), accounting.Need{}, noon)
	if got := code(l.Enter(&other, table, subject("k", "t"), noon)); got != accounting.ConcurrencyLimited {
		t.Errorf("second call at once = %v, want %v: a permit came back twice", got, accounting.ConcurrencyLimited)
	}
}

// TestOverdraft: a cost beyond its hold is booked whole.
func TestOverdraft(t *testing.T) {
	l := newLedger(t)
	table := apply(t, l, accounting.Limit{Name: "b", Resource: accounting.USD, Amount: cents(100), Window: accounting.Month})
	s := subject("k", "t")
	var a, b accounting.Hold
	mustAdmit(t, l, &a, table, s, accounting.Need{USD: usd(50)}, noon)
	mustAdmit(t, l, &b, table, s, accounting.Need{USD: usd(30)}, noon)
	if got, want := l.Settle(&a, usd(90), 0, noon), usd(40); got != want {
		t.Errorf("Settle(90 of 50 cents) = overdraft %v, want %v", got, want)
	}
	want := []figures{{"usd|month@UTC|2026-11", "1.00", "0.90", "0.30"}}
	if d := cmp.Diff(want, budgets(l, noon)); d != "" {
		t.Errorf("budgets (-want +got):\n%s", d)
	}
	if room, ok := l.Room(new(accounting.Hold), table, s, noon); room != usd(-20) || !ok {
		t.Errorf("Room = %v, %v, want %v, true", room, ok, usd(-20))
	}
	l.Settle(&b, usd(30), 0, noon)
	if got := code(admit(l, &a, table, s, accounting.Need{USD: 1}, noon)); got != accounting.BudgetExhausted {
		t.Errorf("call on 1.20 of 1.00 USD = %v, want %v", got, accounting.BudgetExhausted)
	}
}

// TestShadow: shadow limits refuse nothing, book what happens beyond their
// amount, and say what they would have refused.
func TestShadow(t *testing.T) {
	l := newLedger(t)
	table := apply(t, l,
		accounting.Limit{Name: "rps", Resource: accounting.Requests, Amount: 2, Per: time.Second, Mode: accounting.Shadow},
		accounting.Limit{Name: "parallel", Resource: accounting.Concurrent, Amount: 1, Mode: accounting.Shadow},
		accounting.Limit{Name: "daily", Resource: accounting.Tokens, Amount: 1000, Window: accounting.Day, Mode: accounting.Shadow},
		accounting.Limit{Name: "company", Resource: accounting.USD, Amount: cents(100), Window: accounting.Month, Mode: accounting.Shadow},
	)
	holds := make([]accounting.Hold, 4)
	want := [][]string{
		nil,
		{"limit:parallel"},
		{"limit:rps", "limit:parallel", "limit:daily", "budget:company"},
		{"limit:rps", "limit:parallel", "limit:daily", "budget:company"},
	}
	for i := range holds {
		mustAdmit(t, l, &holds[i], table, subject("k", "t"), accounting.Need{USD: usd(40), Tokens: 400}, noon)
		if got := holds[i].AppendWouldDeny(nil); !slices.Equal(got, want[i]) {
			t.Errorf("call %d would be denied by %v, want %v", i, got, want[i])
		}
	}
	if d := cmp.Diff([]figures{{"usd|month@UTC|2026-11", "1.00", "0.00", "1.60"}}, budgets(l, noon)); d != "" {
		t.Errorf("budgets with all in flight (-want +got):\n%s", d)
	}
	for i := range holds {
		l.Settle(&holds[i], usd(35), 100, noon)
	}
	if d := cmp.Diff([]figures{{"usd|month@UTC|2026-11", "1.00", "1.40", "0.00"}}, budgets(l, noon)); d != "" {
		t.Errorf("budgets after all settled (-want +got):\n%s", d)
	}
	mustAdmit(t, l, &holds[0], table, subject("k", "t"), accounting.Need{USD: usd(1), Tokens: 1}, noon.Add(time.Second))
	if got, want := holds[0].AppendWouldDeny(nil), []string{"budget:company"}; !slices.Equal(got, want) {
		t.Errorf("a second later the call would be denied by %v, want %v", got, want)
	}
}

// TestSharedAccount: two limits of one identity count together, and the lower
// enforced one refuses.
func TestSharedAccount(t *testing.T) {
	l := newLedger(t)
	budget := func(name string, amount int64, mode accounting.Mode) accounting.Limit {
		return accounting.Limit{Name: name, Resource: accounting.USD, Amount: cents(amount), Window: accounting.Month, Mode: mode}
	}
	table := apply(t, l, budget("high", 100, accounting.Enforce), budget("trial", 30, accounting.Shadow), budget("low", 60, accounting.Enforce))
	s := subject("k", "t")
	var h accounting.Hold
	mustAdmit(t, l, &h, table, s, accounting.Need{USD: usd(40)}, noon)
	if got, want := h.AppendWouldDeny(nil), []string{"budget:trial"}; !slices.Equal(got, want) {
		t.Errorf("call of 40 cents would be denied by %v, want %v", got, want)
	}
	l.Settle(&h, usd(40), 0, noon)
	want := []figures{
		{"usd|month@UTC|2026-11", "1.00", "0.40", "0.00"},
		{"usd|month@UTC|2026-11", "0.30", "0.40", "0.00"},
		{"usd|month@UTC|2026-11", "0.60", "0.40", "0.00"},
	}
	if d := cmp.Diff(want, budgets(l, noon)); d != "" {
		t.Errorf("budgets (-want +got):\n%s", d)
	}
	r := admit(l, &h, table, s, accounting.Need{USD: usd(21)}, noon)
	if code(r) != accounting.BudgetInsufficient || r.Limit.Name != "low" || r.Amount != cents(60) {
		t.Errorf("call of 21 cents = %+v, want %v by low", r, accounting.BudgetInsufficient)
	}
	if room, _ := l.Room(new(accounting.Hold), table, s, noon); room != usd(20) {
		t.Errorf("Room = %v, want %v", room, usd(20))
	}
}

// TestLowestOfAnAccount: of the enforced amounts that an account has for a call
// the lowest bounds, wherever it stands, and though the account may have more
// in hand for other calls.
func TestLowestOfAnAccount(t *testing.T) {
	low := accounting.Limit{
		Name: "low", Resource: accounting.USD, Amount: cents(60), Window: accounting.Month,
		Overrides: []accounting.Override{{For: accounting.Match{Key: []string{"k"}}, Amount: cents(40)}},
	}
	high := accounting.Limit{Name: "high", Resource: accounting.USD, Amount: cents(100), Window: accounting.Month}
	for _, order := range [][]accounting.Limit{{low, high}, {high, low}} {
		for key, least := range map[string]int64{"k": 41, "other": 61} {
			l := newLedger(t)
			table := apply(t, l, order...)
			var h accounting.Hold
			r := admit(l, &h, table, subject(key, "t"), accounting.Need{USD: usd(least)}, noon)
			if code(r) != accounting.BudgetInsufficient || r.Limit.Name != "low" {
				t.Errorf("call of %d cents by %s, %s first = %+v, want %v by low", least, key, order[0].Name, r, accounting.BudgetInsufficient)
			}
			mustAdmit(t, l, &h, table, subject(key, "t"), accounting.Need{USD: usd(least - 1)}, noon)
		}
	}
}

// TestEdit: renaming or editing a limit keeps what was used; another identity
// begins anew.
func TestEdit(t *testing.T) {
	base := accounting.Limit{Name: "b", Resource: accounting.USD, Amount: cents(100), Window: accounting.Month, Match: accounting.Match{Team: []string{"search"}}}
	for name, c := range map[string]struct {
		edit func(*accounting.Limit)
		need int64
		want accounting.Code
	}{
		"nothing":         {func(*accounting.Limit) {}, 41, accounting.BudgetInsufficient},
		"name":            {func(l *accounting.Limit) { l.Name = "other" }, 41, accounting.BudgetInsufficient},
		"raised":          {func(l *accounting.Limit) { l.Amount = cents(200) }, 140, accounting.OK},
		"raised, not all": {func(l *accounting.Limit) { l.Amount = cents(200) }, 141, accounting.BudgetInsufficient},
		"lowered":         {func(l *accounting.Limit) { l.Amount = cents(80) }, 21, accounting.BudgetInsufficient},
		"lowered, fits":   {func(l *accounting.Limit) { l.Amount = cents(80) }, 20, accounting.OK},
		"lowered below":   {func(l *accounting.Limit) { l.Amount = cents(50) }, 1, accounting.BudgetExhausted},
		"owner":           {func(l *accounting.Limit) { l.Owner = "kim" }, 41, accounting.BudgetInsufficient},
		"override": {func(l *accounting.Limit) {
			l.Overrides = []accounting.Override{{For: accounting.Match{Key: []string{"k"}}, Amount: cents(70)}}
		}, 11, accounting.BudgetInsufficient},
		"match":  {func(l *accounting.Limit) { l.Match.Team = []string{"search", "ads"} }, 100, accounting.OK},
		"each":   {func(l *accounting.Limit) { l.Each = []accounting.Dimension{accounting.Key} }, 100, accounting.OK},
		"window": {func(l *accounting.Limit) { l.Window = accounting.Year }, 100, accounting.OK},
		"zone":   {func(l *accounting.Limit) { l.Zone = tokyo(t) }, 100, accounting.OK},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			s := subject("k", "search")
			before := apply(t, l, base)
			var h, late accounting.Hold
			mustAdmit(t, l, &h, before, s, accounting.Need{USD: usd(50)}, noon)
			mustAdmit(t, l, &late, before, s, accounting.Need{USD: usd(30)}, noon)
			l.Settle(&h, usd(50), 0, noon)
			edited := base
			c.edit(&edited)
			after := apply(t, l, edited)
			l.Settle(&late, usd(10), 0, noon) // began under the old table
			if got := code(admit(l, &h, after, s, accounting.Need{USD: usd(c.need)}, noon)); got != c.want {
				t.Errorf("60 of 100 cents spent, %s edited: Reserve(%d cents) = %v, want %v", name, c.need, got, c.want)
			}
		})
	}
}

// TestOverrides: the most specific For wins.
func TestOverrides(t *testing.T) {
	l := newLedger(t)
	limit := accounting.Limit{
		Name: "each-key", Resource: accounting.USD, Each: []accounting.Dimension{accounting.Key}, Amount: cents(1), Window: accounting.Day,
		Overrides: []accounting.Override{
			{For: accounting.Match{Team: []string{"s*"}}, Amount: cents(7)},
			{For: accounting.Match{Team: []string{"search"}}, Amount: cents(2)},
			{For: accounting.Match{Key: []string{"prod-*"}}, Amount: cents(3)},
			{For: accounting.Match{Key: []string{"prod-1"}}, Amount: cents(4)},
			{For: accounting.Match{Key: []string{"prod-*"}, Team: []string{"search"}}, Amount: cents(5)},
			{For: accounting.Match{Key: []string{"prod-1"}}, Amount: cents(6)},
			{For: accounting.Match{Tags: map[string][]string{"region": {"eu"}}}, Amount: cents(8)},
		},
	}
	table := apply(t, l, limit)
	for name, c := range map[string]struct {
		s    accounting.Subject
		want int64
	}{
		"none":                       {accounting.Subject{KeyID: "a", Teams: []string{"ads"}}, 1},
		"team":                       {accounting.Subject{KeyID: "b", Teams: []string{"search"}}, 2},
		"a parent team":              {accounting.Subject{KeyID: "c", Teams: []string{"ml", "search"}}, 2},
		"glob":                       {accounting.Subject{KeyID: "prod-2", Teams: []string{"ads"}}, 3},
		"literal before glob":        {accounting.Subject{KeyID: "prod-1", Teams: []string{"ads"}}, 4},
		"by the key's name":          {accounting.Subject{KeyID: "d", KeyName: "prod-1", Teams: []string{"ads"}}, 4},
		"two fields before literal":  {accounting.Subject{KeyID: "prod-3", Teams: []string{"search"}}, 5},
		"team literal before a glob": {accounting.Subject{KeyID: "e", Teams: []string{"search"}}, 2},
		"team glob":                  {accounting.Subject{KeyID: "f", Teams: []string{"sales"}}, 7},
		"literal tag before glob":    {accounting.Subject{KeyID: "g", Teams: []string{"sales"}, Tags: map[string]string{"region": "eu"}}, 8},
		"key before team among glob": {accounting.Subject{KeyID: "prod-9", Teams: []string{"sales"}}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			if room, _ := l.Room(new(accounting.Hold), table, &c.s, noon); room != usd(c.want) {
				t.Errorf("Room of %+v = %v, want %v", c.s, room, usd(c.want))
			}
			var h accounting.Hold
			mustAdmit(t, l, &h, table, &c.s, accounting.Need{USD: usd(c.want)}, noon)
			if got := code(admit(l, new(accounting.Hold), table, &c.s, accounting.Need{USD: 1}, noon)); got != accounting.BudgetBusy {
				t.Errorf("one more = %v, want %v", got, accounting.BudgetBusy)
			}
		})
	}
	for _, b := range l.Budgets(noon) {
		if (len(b.Overrides) > 0) != (b.Limit != usd(1)) {
			t.Errorf("Budgets: %s has limit %v and overrides %v", b.Account, b.Limit, b.Overrides)
		}
	}
}

// TestOverrideOfSharedAccount: a subject's own amount bounds its calls on an
// account that others share.
func TestOverrideOfSharedAccount(t *testing.T) {
	l := newLedger(t)
	table := apply(t, l, accounting.Limit{
		Name: "all", Resource: accounting.USD, Amount: cents(50), Window: accounting.Day,
		Overrides: []accounting.Override{{For: accounting.Match{Key: []string{"vip"}}, Amount: cents(100)}, {For: accounting.Match{Key: []string{"dev"}}, Amount: cents(20)}},
	})
	var h accounting.Hold
	for i, c := range []struct {
		key  string
		need int64
		want accounting.Code
	}{
		{"dev", 21, accounting.BudgetInsufficient},
		{"dev", 20, accounting.OK},
		{"dev", 1, accounting.BudgetExhausted},
		{"any", 31, accounting.BudgetInsufficient},
		{"any", 30, accounting.OK},
		{"any", 1, accounting.BudgetExhausted},
		{"vip", 51, accounting.BudgetInsufficient},
		{"vip", 50, accounting.OK},
		{"vip", 1, accounting.BudgetExhausted},
	} {
		if got := code(admit(l, &h, table, subject(c.key, "t"), accounting.Need{USD: usd(c.need)}, noon)); got != c.want {
			t.Fatalf("call %d: %s needs %d cents = %v, want %v", i, c.key, c.need, got, c.want)
		}
		l.Settle(&h, usd(c.need), 0, noon)
	}
}

// TestEach: one account for each value; a team is the key's own; what exceeds
// MaxAccounts shares one account, until others are idle.
func TestEach(t *testing.T) {
	t.Run("own team only", func(t *testing.T) {
		l := newLedger(t)
		table := apply(t, l, accounting.Limit{
			Name: "team", Resource: accounting.USD, Each: []accounting.Dimension{accounting.Team}, Match: accounting.Match{Team: []string{"search"}},
			Amount: cents(100), Window: accounting.Month, Zone: tokyo(t),
		})
		var h accounting.Hold
		for _, s := range []*accounting.Subject{subject("a", "search"), subject("b", "ml", "search"), subject("c", "ml", "search"), subject("d", "ads")} {
			mustAdmit(t, l, &h, table, s, accounting.Need{USD: usd(10)}, noon)
			l.Settle(&h, usd(10), 0, noon)
		}
		want := []figures{
			{"usd|team=search|each=team:ml|month@Asia/Tokyo|2026-11", "1.00", "0.20", "0.00"},
			{"usd|team=search|each=team:search|month@Asia/Tokyo|2026-11", "1.00", "0.10", "0.00"},
		}
		if d := cmp.Diff(want, budgets(l, noon)); d != "" {
			t.Errorf("budgets (-want +got):\n%s", d)
		}
	})
	t.Run("combinations", func(t *testing.T) {
		l := newLedger(t)
		table := apply(t, l, accounting.Limit{
			Name: "b", Resource: accounting.USD, Each: []accounting.Dimension{accounting.Purpose, accounting.Key}, Amount: cents(100), Window: accounting.Day,
		})
		var h accounting.Hold
		for _, c := range [][2]string{{"k", "a,b"}, {"k,purpose:a", "b"}, {"k", "a,b"}, {"k", ""}} {
			s := accounting.Subject{KeyID: c[0], Purpose: c[1]}
			mustAdmit(t, l, &h, table, &s, accounting.Need{USD: usd(10)}, noon)
			l.Settle(&h, usd(10), 0, noon)
		}
		want := []figures{
			{"usd|each=key:k%2Cpurpose:a,purpose:b|day@UTC|2026-11-03", "1.00", "0.10", "0.00"},
			{"usd|each=key:k,purpose:a%2Cb|day@UTC|2026-11-03", "1.00", "0.20", "0.00"},
			{"usd|each=key:k,purpose:|day@UTC|2026-11-03", "1.00", "0.10", "0.00"},
		}
		if d := cmp.Diff(want, budgets(l, noon)); d != "" {
			t.Errorf("budgets (-want +got):\n%s", d)
		}
	})
	t.Run("other", func(t *testing.T) {
		l := newLedger(t)
		table := apply(t, l, accounting.Limit{
			Name: "b", Resource: accounting.USD, Each: []accounting.Dimension{accounting.User}, Amount: cents(100), Window: accounting.Day, MaxAccounts: 2,
			Overrides: []accounting.Override{{For: accounting.Match{User: []string{"c"}}, Amount: cents(70)}},
		})
		var h accounting.Hold
		spend := func(user string, now time.Time) {
			t.Helper()
			mustAdmit(t, l, &h, table, &accounting.Subject{User: user}, accounting.Need{USD: usd(10)}, now)
			l.Settle(&h, usd(10), 0, now)
		}
		for _, user := range []string{"*other", "b", "c", "d", "b"} {
			spend(user, noon)
		}
		want := []figures{
			{"usd|each=user:%2Aother|day@UTC|2026-11-03", "1.00", "0.10", "0.00"},
			{"usd|each=user:*other|day@UTC|2026-11-03", "1.00", "0.20", "0.00"},
			{"usd|each=user:b|day@UTC|2026-11-03", "1.00", "0.20", "0.00"},
		}
		if d := cmp.Diff(want, budgets(l, noon)); d != "" {
			t.Errorf("budgets (-want +got):\n%s", d)
		}
		if room, _ := l.Room(new(accounting.Hold), table, &accounting.Subject{User: "c"}, noon); room != usd(80) {
			t.Errorf("Room of a user among others = %v, want %v: overrides are for accounts of one's own", room, usd(80))
		}
		spend("c", noon.AddDate(0, 0, 1))
		want = []figures{
			{"usd|each=user:*other|day@UTC|2026-11-04", "1.00", "0.00", "0.00"},
			{"usd|each=user:c|day@UTC|2026-11-04", "0.70", "0.10", "0.00"},
		}
		if d := cmp.Diff(want, budgets(l, noon.AddDate(0, 0, 1))); d != "" {
			t.Errorf("budgets of the next day (-want +got):\n%s", d)
		}
	})
}

// TestWindowOfAdmission: a call settles in the window it was admitted in, and
// one that comes late from a clock behind finds that window.
func TestWindowOfAdmission(t *testing.T) {
	l := newLedger(t)
	table := apply(t, l, accounting.Limit{Name: "b", Resource: accounting.USD, Amount: cents(100), Window: accounting.Month, Zone: tokyo(t)})
	s := subject("k", "t")
	before, after := at("2026-11-30T14:59:59Z"), at("2026-11-30T15:00:00Z") // midnight in Tokyo
	var old, young, behind accounting.Hold
	mustAdmit(t, l, &old, table, s, accounting.Need{USD: usd(60)}, before)
	mustAdmit(t, l, &young, table, s, accounting.Need{USD: usd(70)}, after)
	if got := code(admit(l, &behind, table, s, accounting.Need{USD: usd(50)}, before)); got != accounting.BudgetBusy {
		t.Errorf("50 cents in November, 60 held = %v, want %v", got, accounting.BudgetBusy)
	}
	mustAdmit(t, l, &behind, table, s, accounting.Need{USD: usd(40)}, before)
	l.Settle(&old, usd(55), 0, after)
	l.Settle(&young, usd(65), 0, after)
	l.Settle(&behind, usd(30), 0, after)
	if d := cmp.Diff([]figures{{"usd|month@Asia/Tokyo|2026-11", "1.00", "0.85", "0.00"}}, budgets(l, before)); d != "" {
		t.Errorf("November (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]figures{{"usd|month@Asia/Tokyo|2026-12", "1.00", "0.65", "0.00"}}, budgets(l, after)); d != "" {
		t.Errorf("December (-want +got):\n%s", d)
	}
}

// TestClockSetBack: what was spent in a window is known when the clock comes
// back to it, however far it was away and whatever was dropped meanwhile.
func TestClockSetBack(t *testing.T) {
	for name, away := range map[string]time.Duration{
		"into the last window": -24 * time.Hour, "a year behind": -365 * 24 * time.Hour,
		"an hour ahead": time.Hour, "beyond the edge": 36 * time.Hour, "a year ahead": 365 * 24 * time.Hour, "ten years ahead": 3650 * 24 * time.Hour,
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			limits := []accounting.Limit{
				{Name: "all", Resource: accounting.USD, Amount: cents(100), Window: accounting.Day},
				{Name: "users", Resource: accounting.USD, Each: []accounting.Dimension{accounting.User}, Amount: cents(50), Window: accounting.Day},
			}
			table := apply(t, l, limits...)
			spend := func(user string, n int64, now time.Time) {
				t.Helper()
				var h accounting.Hold
				mustAdmit(t, l, &h, table, &accounting.Subject{User: user}, accounting.Need{USD: usd(20)}, now)
				l.Settle(&h, usd(n), 0, now)
			}
			var flight accounting.Hold
			mustAdmit(t, l, &flight, table, &accounting.Subject{User: "a"}, accounting.Need{USD: usd(5)}, noon)
			spend("a", 10, noon)
			spend("b", 15, noon)
			// A reload drops the accounts whose time is over.
			table = compile(t, limits...)
			if err := l.Apply(table, noon.Add(away)); err != nil {
				t.Fatal(err)
			}
			spend("c", 3, noon.Add(away))
			spend("b", 1, noon.Add(time.Hour))
			l.Settle(&flight, usd(4), 0, noon)
			got := map[string]string{}
			for _, b := range budgets(l, noon) {
				got[b.Account] = b.Spent + " " + b.Reserved
			}
			want := map[string]string{
				"usd|day@UTC|2026-11-03":             "0.30 0.00",
				"usd|each=user:a|day@UTC|2026-11-03": "0.14 0.00",
				"usd|each=user:b|day@UTC|2026-11-03": "0.16 0.00",
			}
			if away == time.Hour { // the same day: no account is idle
				want["usd|day@UTC|2026-11-03"] = "0.33 0.00"
			}
			for account, figures := range want {
				if got[account] != figures {
					t.Errorf("%s has %q, want %q; all: %v", account, got[account], figures, got)
				}
			}
		})
	}
}

// TestWindowedLimits: tokens and requests can be counted in calendar windows.
func TestWindowedLimits(t *testing.T) {
	l := newLedger(t)
	table := apply(t, l,
		accounting.Limit{Name: "requests", Resource: accounting.Requests, Amount: 3, Window: accounting.Day},
		accounting.Limit{Name: "tokens", Resource: accounting.Tokens, Amount: 1000, Window: accounting.Day},
	)
	s := subject("k", "t")
	var a, b accounting.Hold
	mustAdmit(t, l, &a, table, s, accounting.Need{Tokens: 600}, noon)
	r := admit(l, &b, table, s, accounting.Need{Tokens: 600}, noon)
	if code(r) != accounting.RateLimited || r.Limit.Name != "tokens" || r.RetryAfter > time.Minute {
		t.Errorf("600 of 1000 tokens, 600 held = %+v, want %v soon", r, accounting.RateLimited)
	}
	l.Settle(&a, 0, 700, noon)
	r = admit(l, &b, table, s, accounting.Need{Tokens: 600}, noon)
	if code(r) != accounting.RateLimited || r.Used != 700 || r.RetryAfter != 12*time.Hour {
		t.Errorf("600 of 1000 tokens, 700 used = %+v, want %v in 12 hours", r, accounting.RateLimited)
	}
	for range 2 {
		mustAdmit(t, l, &a, table, s, accounting.Need{}, noon)
		l.Settle(&a, 0, 0, noon)
	}
	if r := l.Enter(&a, table, s, noon); code(r) != accounting.RateLimited || r.Limit.Name != "requests" || !r.Reset.Equal(at("2026-11-04T00:00:00Z")) {
		t.Errorf("fourth request = %+v, want %v", r, accounting.RateLimited)
	}
}

// TestRates: what a bucket refuses, and when it is worth another try.
func TestRates(t *testing.T) {
	l := newLedger(t)
	table := apply(t, l,
		accounting.Limit{Name: "rps", Resource: accounting.Requests, Amount: 20, Per: time.Second, Burst: 40},
		accounting.Limit{Name: "tpm", Resource: accounting.Tokens, Amount: 60_000, Per: time.Minute},
	)
	s := subject("k", "t")
	var h accounting.Hold
	for i := range 40 {
		if r := l.Enter(&h, table, s, noon); r != nil {
			t.Fatalf("request %d of a burst of 40 = %+v", i+1, r)
		}
		l.Settle(&h, 0, 0, noon)
	}
	if r := l.Enter(&h, table, s, noon); code(r) != accounting.RateLimited || r.RetryAfter != 50*time.Millisecond || r.Used != 40 {
		t.Errorf("request 41 = %+v, want %v for 50 ms", r, accounting.RateLimited)
	}
	now := noon.Add(10 * time.Second)
	reserve := func(tokens money.Tokens) *accounting.Refusal {
		return l.Reserve(&h, table, s, accounting.Need{Tokens: tokens}, now)
	}
	if r := reserve(50_000); r != nil {
		t.Fatalf("50,000 of 60,000 tokens = %+v", r)
	}
	l.Settle(&h, 0, 70_000, now) // 10,000 in debt
	if r := reserve(5_000); code(r) != accounting.RateLimited || r.RetryAfter != 15*time.Second {
		t.Errorf("5,000 tokens with 10,000 in debt at 1,000/s = %+v, want %v for 15 s", r, accounting.RateLimited)
	}
	if r := reserve(100_000); code(r) != accounting.RateLimited || r.RetryAfter != 70*time.Second {
		t.Errorf("more than the bucket holds, with 10,000 in debt = %+v, want %v until it is full in 70 s", r, accounting.RateLimited)
	}
	now = now.Add(70 * time.Second)
	if r := reserve(100_000); r != nil {
		t.Fatalf("more than the bucket holds, full = %+v, want admitted in debt", r)
	}
	now = now.Add(time.Second)
	l.Release(&h, now)
	if r := reserve(60_000); r != nil {
		t.Errorf("all tokens, all given back = %+v, want admitted", r)
	}
}

// TestRecordLimits: the record shows every limit that was checked, with its
// figures before the call.
func TestRecordLimits(t *testing.T) {
	l := newLedger(t)
	table := apply(t, l,
		accounting.Limit{Name: "parallel", Resource: accounting.Concurrent, Each: []accounting.Dimension{accounting.Key}, Amount: 16},
		accounting.Limit{Name: "sonnet", Resource: accounting.Tokens, Match: accounting.Match{Team: []string{"search"}, Model: []string{"claude-sonnet"}}, Amount: 50_000, Per: time.Minute, Mode: accounting.Shadow},
		accounting.Limit{Name: "search", Resource: accounting.USD, Match: accounting.Match{Team: []string{"search"}}, Amount: cents(500_000), Window: accounting.Month, Zone: tokyo(t)},
		accounting.Limit{Name: "ads", Resource: accounting.USD, Match: accounting.Match{Team: []string{"ads"}}, Amount: 1, Window: accounting.Total},
	)
	s := subject("k7Qm2xT9aB4c", "search-ml", "search")
	s.Model = "claude-sonnet"
	var first, second accounting.Hold
	mustAdmit(t, l, &first, table, s, accounting.Need{USD: usd(100), Tokens: 20_000}, noon)
	l.Settle(&first, usd(40), 20_000, noon)
	mustAdmit(t, l, &first, table, s, accounting.Need{USD: usd(100), Tokens: 20_000}, noon)
	mustAdmit(t, l, &second, table, s, accounting.Need{USD: usd(7), Tokens: 30_000}, noon)
	want := []record.Limit{
		{Name: "parallel", Account: "concurrent|each=key:k7Qm2xT9aB4c", Resource: "concurrent", Limit: 16, Reserved: 1, Needed: 1, Mode: "enforce"},
		{Name: "sonnet", Account: "tokens|team=search|model=claude-sonnet|/min", Resource: "tokens", Limit: 50_000, Used: 40_000, Needed: 30_000, Mode: "shadow"},
		{Name: "search", Account: "usd|team=search|month@Asia/Tokyo|2026-11", Resource: "usd", Limit: cents(500_000), Used: cents(40), Reserved: cents(100), Needed: cents(7), Reset: at("2026-11-30T15:00:00Z"), Mode: "enforce"},
	}
	if d := cmp.Diff(want, second.AppendLimits(nil)); d != "" {
		t.Errorf("limits (-want +got):\n%s", d)
	}
	l.Settle(&second, 0, 0, noon)
	if d := cmp.Diff(want, second.AppendLimits(nil)); d != "" {
		t.Errorf("limits after the end (-want +got):\n%s", d)
	}
}

// TestManyLimits: a hold has no greatest number of limits.
func TestManyLimits(t *testing.T) {
	l := newLedger(t)
	limits := make([]accounting.Limit, 50)
	for i := range limits {
		limits[i] = accounting.Limit{Resource: accounting.USD, Amount: cents(100 - int64(i)), Window: accounting.Month, Match: accounting.Match{Key: []string{"k", strconv.Itoa(i)}}}
	}
	table := apply(t, l, limits...)
	var h accounting.Hold
	for i := range int64(2) {
		mustAdmit(t, l, &h, table, subject("k", "t"), accounting.Need{USD: usd(51 - i)}, noon)
		if got := len(h.AppendLimits(nil)); got != 50 {
			t.Errorf("limits checked = %d, want 50", got)
		}
		if r := admit(l, new(accounting.Hold), table, subject("k", "t"), accounting.Need{USD: usd(1 + i)}, noon); code(r) != accounting.BudgetBusy || r.Limit.Name != "limit49" {
			t.Errorf("%d of 51 cents held = %+v, want %v by the last", 51-i, r, accounting.BudgetBusy)
		}
		l.Release(&h, noon)
		for _, b := range l.Budgets(noon) {
			if b.Reserved != 0 {
				t.Errorf("round %d: after Release %s has %v reserved, want 0", i, b.Name, b.Reserved)
			}
		}
	}
}

// TestHeldCountsForALowerAmount: what others hold on an account that a subject may
// use less of than they counts for its call, though the account has more in hand.
func TestHeldCountsForALowerAmount(t *testing.T) {
	l := newLedger(t)
	table := apply(t, l, accounting.Limit{
		Name: "all", Resource: accounting.USD, Amount: cents(50), Window: accounting.Day,
		Overrides: []accounting.Override{{For: accounting.Match{Key: []string{"dev"}}, Amount: cents(20)}},
	})
	var other, h accounting.Hold
	mustAdmit(t, l, &other, table, subject("any", "t"), accounting.Need{USD: usd(15)}, noon)
	if got := code(admit(l, &h, table, subject("dev", "t"), accounting.Need{USD: usd(10)}, noon)); got != accounting.BudgetBusy {
		t.Errorf("10 of 20 cents, 15 of which another call holds = %v, want %v", got, accounting.BudgetBusy)
	}
	l.Release(&other, noon)
	mustAdmit(t, l, &h, table, subject("dev", "t"), accounting.Need{USD: usd(10)}, noon)
}
