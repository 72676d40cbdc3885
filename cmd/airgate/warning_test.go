package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"airgate/accounting"
	"airgate/accounting/money"
	"airgate/accounting/record"
)

// A threshold that a budget reaches is in the book within seconds, at the latest
// as airgate ends, and once, whatever is restarted or edited.
func TestWarningsAreInTheBook(t *testing.T) {
	o := testOptions(t)
	write := func(usd string) {
		t.Helper()
		text := strings.Replace(testConfig, "usd: 500,", "usd: "+usd+`, owner: finops@example.com, warnAt: [50%, 80%, "forecast 1000%"],`, 1)
		if err := os.WriteFile(o.config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	spend := func(g *gateway, id string, n money.NanoUSD) {
		t.Helper()
		table, s := g.snapshot.Limits, accounting.Subject{Teams: []string{"search"}}
		var h accounting.Hold
		if r := g.ledger.Enter(&h, table, &s, time.Now()); r != nil {
			t.Fatalf("%+v", r)
		}
		if r := g.ledger.Reserve(&h, table, &s, accounting.Need{USD: n}, time.Now()); r != nil {
			t.Fatalf("%+v", r)
		}
		g.ledger.Settle(&h, n, 0, time.Now())
		for _, r := range []record.Record{
			{Type: record.Intent, RequestID: id, Time: time.Now(), Reserved: n, Limits: h.AppendLimits(nil)},
			{Type: record.Settle, RequestID: id, Time: time.Now(), Cost: n, HasCost: true},
		} {
			if _, err := g.journal.Append(&r); err != nil {
				t.Fatal(err)
			}
		}
	}
	type row struct{ Type, Code, Rule, Detail string }
	warnings := func(g *gateway) (all []row) {
		t.Helper()
		if err := g.journal.Shipped(t.Context()); err != nil {
			t.Fatal(err)
		}
		var audit struct{ Audit []row }
		g.get(t, "/api/v1/audit?type=admin&limit=100", &audit)
		for _, r := range audit.Audit {
			if !strings.HasPrefix(r.Rule, "forecast") { // that depends on the day
				all = append(all, r)
			}
		}
		return all
	}
	rules := func(all []row) (rules []string) {
		for _, r := range all {
			rules = append(rules, r.Code+" "+r.Rule)
		}
		return rules
	}
	expect := func(when string, g *gateway, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, rules(warnings(g))); diff != "" {
			t.Errorf("%s: warnings, the newest first (-want +got):\n%s", when, diff)
		}
	}

	write("500")
	g := open(t, o)
	spend(g, "a", 300*money.USD)
	deadline := time.Now().Add(20 * time.Second)
	for len(warnings(g)) == 0 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	expect("as it is reached", g, "budget_warning 50%")
	if all := warnings(g); len(all) == 1 && !strings.Contains(all[0].Detail, `budget "search" has reached 50% of 500 USD for team=search`) {
		t.Errorf("detail = %q", all[0].Detail)
	}
	spend(g, "b", 150*money.USD)
	shut(t, g)

	g = open(t, o)
	expect("after an end", g, "budget_warning 80%", "budget_warning 50%")
	g.warnNow(t.Context())
	expect("after a restart", g, "budget_warning 80%", "budget_warning 50%")
	shut(t, g)

	write("505")
	g = open(t, o)
	g.warnNow(t.Context())
	expect("after an edit", g, "budget_warning 80%", "budget_warning 50%")
	shut(t, g)
}
