package accounting_test

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"airgate/accounting"
	"airgate/accounting/money"
	"airgate/accounting/record"
)

// oneCall is the walk-through of README.md.
func oneCall(t *testing.T, w io.Writer) {
	l := newLedger(t)
	table := apply(t, l,
		accounting.Limit{Name: "key-rps", Resource: accounting.Requests, Each: []accounting.Dimension{accounting.Key}, Amount: 20, Per: time.Second, Burst: 40},
		accounting.Limit{Name: "parallel", Resource: accounting.Concurrent, Each: []accounting.Dimension{accounting.Key}, Amount: 16},
		accounting.Limit{Name: "team-tpm", Resource: accounting.Tokens, Each: []accounting.Dimension{accounting.Team}, Amount: 200_000, Per: time.Minute},
		accounting.Limit{Name: "search", Resource: accounting.USD, Match: accounting.Match{Team: []string{"search"}}, Amount: cents(5000_00), Window: accounting.Month, Zone: tokyo(t)},
		accounting.Limit{
			Name: "each-key", Resource: accounting.USD, Each: []accounting.Dimension{accounting.Key}, Amount: cents(50_00), Window: accounting.Day,
			Overrides: []accounting.Override{{For: accounting.Match{Key: []string{"search-prod"}}, Amount: cents(500_00)}},
		},
		accounting.Limit{Name: "company", Resource: accounting.USD, Amount: cents(40_000_00), Window: accounting.Month, Mode: accounting.Shadow},
	)
	s := &accounting.Subject{Teams: []string{"search-ml", "search"}, KeyID: "k7Qm2xT9aB4c", KeyName: "search-prod"}
	var h accounting.Hold

	if r := l.Enter(&h, table, s, noon); r != nil {
		t.Fatal(*r)
	}
	s.Model, s.Provider, s.Purpose = "claude-sonnet", "anthropic", "eval"
	if r := l.Reserve(&h, table, s, accounting.Need{USD: 48 * money.USD / 1000, Tokens: 9000}, noon); r != nil {
		t.Fatal(*r)
	}
	fmt.Fprintf(w, "%-8s  %-44s  %14s  %4s  %8s  %8s\n", "Name", "Account", "Limit", "Used", "Reserved", "Needed")
	for _, r := range h.AppendLimits(nil) {
		fmt.Fprintf(w, "%-8s  %-44s  %14d  %4d  %8d  %8d\n", r.Name, r.Account, r.Limit, r.Used, r.Reserved, r.Needed)
	}
	for _, step := range []string{"Reserve", "Settle"} {
		if step == "Settle" {
			l.Settle(&h, 2*money.USD/1000, 1300, noon.Add(3*time.Second))
		}
		tell(w, step, l, noon)
	}
}

// tell prints every budget.
func tell(w io.Writer, after string, l *accounting.Ledger, now time.Time) {
	fmt.Fprintf(w, "\nBudgets after %s\n%-8s  %-40s  %14s  %8s  %8s\n", after, "Name", "Scope", "Limit", "Spent", "Reserved")
	for _, b := range l.Budgets(now) {
		fmt.Fprintf(w, "%-8s  %-40s  %14d  %8d  %8d\n", b.Name, b.Scope, b.Limit, b.Spent, b.Reserved)
	}
}

// moreCalls are the second half of the walk-through: an overdraft and its debt,
// a clamped cap, and a restart.
func moreCalls(t *testing.T, w io.Writer) {
	limits := []accounting.Limit{
		{Name: "team-tpm", Resource: accounting.Tokens, Each: []accounting.Dimension{accounting.Team}, Amount: 200_000, Per: time.Minute},
		{Name: "small", Resource: accounting.USD, Match: accounting.Match{Team: []string{"search"}}, Amount: cents(1_00), Window: accounting.Month, ClampFloor: 1024},
	}
	l, book := newLedger(t), accounting.NewBalances()
	table := apply(t, l, limits...)
	s := &accounting.Subject{Teams: []string{"search-ml", "search"}, KeyID: "k7Qm2xT9aB4c", Model: "claude-sonnet"}
	var h accounting.Hold
	intent := func(id string, held money.NanoUSD) {
		book.Apply(&record.Record{Type: record.Intent, RequestID: id, Time: noon, Reserved: held, Limits: h.AppendLimits(nil)})
	}
	mustAdmit(t, l, &h, table, s, accounting.Need{USD: 800 * money.USD / 1000, Tokens: 9000}, noon)
	intent("1", 800*money.USD/1000)
	over := l.Settle(&h, 850*money.USD/1000, 212_000, noon)
	book.Apply(&record.Record{Type: record.Settle, RequestID: "1", Time: noon, Cost: 850 * money.USD / 1000, HasCost: true})
	fmt.Fprintf(w, "\n\n%-9s  %-9s  %-9s\n%9d  %9d  %9d\n", "Reserved", "Cost", "overdraft", 800*money.USD/1000, 850*money.USD/1000, over)

	r := admit(l, new(accounting.Hold), table, s, accounting.Need{USD: 1, Tokens: 9000}, noon)
	fmt.Fprintf(w, "\n\n%-12s  %6s  %6s  %6s  %10s\n%-12v  %6d  %6d  %6d  %10v\n", "Code", "Amount", "Used", "Needed", "RetryAfter", r.Code, r.Amount, r.Used, r.Needed, r.RetryAfter)

	now := noon.Add(time.Minute)
	in, out := money.Rate(money.USD), money.Rate(10*money.USD)
	prices, err := accounting.Builtin().With([]accounting.PriceOverride{{Provider: "openai", Model: "example", Input: &in, Output: &out}})
	if err != nil {
		t.Fatal(err)
	}
	price, _ := prices.Price("openai", "example", now)
	reach := accounting.Reach{ServiceTier: "default"}
	asked, err := price.Worst(2000, 32_000, reach)
	if err != nil {
		t.Fatal(err)
	}
	room, floor, ok := l.Clamp(new(accounting.Hold), table, s, accounting.Need{USD: asked}, now)
	if !ok {
		t.Fatal("the call is not clamped")
	}
	fit, _ := price.Fit(room, 2000, 32_000, reach)
	clamped, err := price.Worst(2000, fit, reach)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(w, "\n\n%-8s  %6s  %9s\n%-8s  %6d  %9d\n%-8s  %6s  %9d\n%-8s  %6d  %9d\n", "Call", "cap", "worst", "asked", 32_000, asked, "room", "-", room, "clamped", fit, clamped)
	if fit < floor {
		t.Fatalf("the cap %d is below the floor %d", fit, floor)
	}
	mustAdmit(t, l, &h, table, s, accounting.Need{USD: clamped}, now)
	intent("2", clamped)
	fmt.Fprintln(w)
	tell(w, "the clamped call", l, now)

	next := newLedger(t)
	apply(t, next, limits...)
	if err := next.Restore(book, now); err != nil {
		t.Fatal(err)
	}
	tell(w, "a restart", next, now)
}

// TestReadme: the numbers of the walk-through are those of the code.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	oneCall(t, &b)
	moreCalls(t, &b)
	for block := range strings.SplitSeq(b.String(), "\n\n") {
		if block = strings.TrimSpace(block); !strings.Contains(string(readme), block) {
			t.Errorf("README.md does not contain\n%s", block)
		}
	}
}
