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
		fmt.Fprintf(w, "\nBudgets after %s\n%-8s  %-40s  %14s  %8s  %8s\n", step, "Name", "Scope", "Limit", "Spent", "Reserved")
		for _, b := range l.Budgets(noon) {
			fmt.Fprintf(w, "%-8s  %-40s  %14d  %8d  %8d\n", b.Name, b.Scope, b.Limit, b.Spent, b.Reserved)
		}
	}
}

// TestReadme: the numbers of the walk-through are those of the code.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	oneCall(t, &b)
	for block := range strings.SplitSeq(b.String(), "\n\n") {
		if block = strings.TrimSpace(block); !strings.Contains(string(readme), block) {
			t.Errorf("README.md does not contain\n%s", block)
		}
	}
}
