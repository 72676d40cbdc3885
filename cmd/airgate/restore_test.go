package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"airgate/accounting"
	"airgate/accounting/money"
	"airgate/accounting/quota/memory"
	"airgate/accounting/record"
	"airgate/policy/config"
)

// The text of an account has no more than a key's id, or a team. What an override
// is for is known nevertheless before the account's next call, as the config
// says it now.
func TestRestoredBudgetsHaveTheirOverrides(t *testing.T) {
	text := strings.Replace(testConfig, "per: month}]", `per: month},
  {name: key, each: key, usd: 10, per: month, overrides: [{for: {key: prod}, usd: 20}, {for: {team: root}, usd: 30}, {for: {tags.tier: gold}, usd: 40}]},
  {name: team, each: team, usd: 11, per: month, overrides: [{for: {team: root}, usd: 31}]},
  {name: both, each: [team, key], usd: 12, per: month, overrides: [{for: {team: root}, usd: 32}, {for: {key: prod, team: search}, usd: 22}]},
  {name: user, each: user, usd: 13, per: month}]
keys:
  - {id: kProd0000000, name: prod, team: search, secrets: [{hash: "sha256:HASH1", created: 2026-01-01}]}
  - {id: kLeaf0000000, name: leaf, team: leaf, secrets: [{hash: "sha256:HASH2", created: 2026-01-01}]}
  - {id: kGold0000000, name: gold, team: gold, secrets: [{hash: "sha256:HASH3", created: 2026-01-01}]}
`, 1)
	path := filepath.Join(t.TempDir(), "airgate.yaml")
	write := func(text string) {
		t.Helper()
		text = strings.Replace(text, "{search: {}}", "{search: {}, root: {}, leaf: {parent: root}, gold: {tags: {tier: gold}}}", 1)
		for i := range 3 {
			digit := string(rune('1' + i))
			text = strings.Replace(text, "HASH"+digit, strings.Repeat(digit, 64), 1)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Date(2026, 11, 3, 12, 0, 0, 0, time.UTC)
	balances := accounting.NewBalances()
	var limits []record.Limit
	for _, each := range []string{
		"key:kProd0000000", "key:kLeaf0000000", "key:kGold0000000", "key:kGone0000000", "team:leaf", "team:search", "team:none",
		"team:search,key:kProd0000000", "team:leaf,key:kProd0000000", "user:u1",
	} {
		limits = append(limits, record.Limit{Account: "usd|each=" + each + "|month@UTC|2026-11", Resource: "usd"})
	}
	balances.Apply(&record.Record{Type: record.Intent, RequestID: "a", Time: now, Reserved: money.USD, Limits: limits})

	ledger, err := accounting.New(accounting.Config{Store: memory.New(), Replica: "test.1"})
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string, want map[string]string) {
		t.Helper()
		got := map[string]string{}
		for _, b := range ledger.Budgets(now) {
			if _, each, ok := strings.Cut(b.Account, "|each="); ok {
				said := ""
				if len(b.Overrides) > 0 {
					said = ", the override for " + b.Overrides[0].For.String()
				}
				account, _, _ := strings.Cut(each, "|")
				got[account] = b.Limit.String() + said
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: limits of accounts differ (-want +got):\n%s", when, diff)
		}
	}

	write(text)
	snapshot, err := loadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := restore(ledger, balances, snapshot, now); err != nil {
		t.Fatal(err)
	}
	check("after a restart", map[string]string{
		"key:kProd0000000": "20, the override for key=prod", "key:kLeaf0000000": "30, the override for team=root",
		"key:kGold0000000": "40, the override for tags.tier=gold", "key:kGone0000000": "10",
		"team:leaf": "31, the override for team=root", "team:search": "11", "team:none": "11",
		"team:search,key:kProd0000000": "22, the override for team=search, key=prod", "team:leaf,key:kProd0000000": "32, the override for team=root",
		"user:u1": "13",
	})

	write(strings.NewReplacer("name: prod, team: search", "name: old, team: search", "name: leaf, team: leaf", "name: prod, team: leaf").Replace(text))
	if snapshot, err = loadConfig(path); err != nil {
		t.Fatal(err)
	}
	if err := ledger.Apply(snapshot.Limits, now); err != nil {
		t.Fatal(err)
	}
	check("after a reload", map[string]string{
		"key:kProd0000000": "10", "key:kLeaf0000000": "20, the override for key=prod",
		"key:kGold0000000": "40, the override for tags.tier=gold", "key:kGone0000000": "10",
		"team:leaf": "31, the override for team=root", "team:search": "11", "team:none": "11",
		"team:search,key:kProd0000000": "12", "team:leaf,key:kProd0000000": "32, the override for team=root",
		"user:u1": "13",
	})
}

// What is shown of a key that has moved to another team is of that one, also
// before its next call.
func TestAMovedKeyHasTheOverridesOfItsTeam(t *testing.T) {
	text := strings.Replace(testConfig, "{search: {}}", "{search: {}, root: {}}", 1)
	text = strings.Replace(text, "per: month}]", `per: month},
  {name: key, each: key, usd: 10, per: month, overrides: [{for: {team: root}, usd: 30}]},
  {name: both, each: [team, key], usd: 12, per: month, overrides: [{for: {team: root}, usd: 32}]}]
keys: [{id: kMove0000000, name: move, team: root, secrets: [{hash: "sha256:`+strings.Repeat("1", 64)+`", created: 2026-01-01}]}]
`, 1)
	now := time.Date(2026, 11, 3, 12, 0, 0, 0, time.UTC)
	ledger, err := accounting.New(accounting.Config{Store: memory.New(), Replica: "test.1"})
	if err != nil {
		t.Fatal(err)
	}
	apply := func(text string) *accounting.Table {
		t.Helper()
		snapshot, err := config.LoadBytes("airgate.yaml", []byte(text), now)
		if err == nil {
			err = ledger.Apply(snapshot.Limits, now)
		}
		if err != nil {
			t.Fatal(err)
		}
		return snapshot.Limits
	}
	check := func(when string, key, both money.NanoUSD) {
		t.Helper()
		for _, b := range ledger.Budgets(now) {
			if want := map[string]money.NanoUSD{"key": key, "both": both}[b.Name]; want > 0 && (b.Limit != want*money.USD || len(b.Overrides) > 0 != (want >= 30)) {
				t.Errorf("%s: %s has the limit %s, overrides %v, want %s", when, b.Account, b.Limit, b.Overrides, want*money.USD)
			}
		}
	}
	table := apply(text)
	var h accounting.Hold
	s := accounting.Subject{KeyID: "kMove0000000", KeyName: "move", Teams: []string{"root"}}
	if r := ledger.Reserve(&h, table, &s, accounting.Need{USD: 1}, now); r != nil {
		t.Fatal(*r)
	}
	ledger.Settle(&h, 1, 0, now)
	check("after a call", 30, 32)
	apply(strings.Replace(text, "name: move, team: root", "name: move, team: search", 1))
	check("after it has moved", 10, 32) // the account of root and the key is root's still
}
