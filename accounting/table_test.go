package accounting

import (
	"strings"
	"testing"
	"time"
)

// TestCompileRefuses what would make the arithmetic meaningless.
func TestCompileRefuses(t *testing.T) {
	budget := func(edit func(*Limit)) []Limit {
		l := Limit{Name: "b", Resource: USD, Amount: 1, Window: Month, Where: "finance.yaml:7"}
		edit(&l)
		return []Limit{l}
	}
	for want, limits := range map[string][]Limit{
		"finance.yaml:7: b: unknown resource 0":                         budget(func(l *Limit) { l.Resource = 0 }),
		"finance.yaml:7: b: unknown resource 9":                         budget(func(l *Limit) { l.Resource = 9 }),
		"finance.yaml:7: : name is missing":                             budget(func(l *Limit) { l.Name = "" }),
		"a budget needs a window and has no rate":                       budget(func(l *Limit) { l.Window = NoWindow }),
		"b: a budget needs a window and has no rate":                    budget(func(l *Limit) { l.Per = time.Second }),
		"need either a window or a rate":                                budget(func(l *Limit) { l.Resource, l.Window = Tokens, NoWindow }),
		"b: need either a window or a rate":                             budget(func(l *Limit) { l.Resource, l.Per = Requests, time.Second }),
		"a concurrency limit has neither window nor rate":               budget(func(l *Limit) { l.Resource = Concurrent }),
		"amount -1 is out of range: want 0 to 4611686018427387904":      budget(func(l *Limit) { l.Amount = -1 }),
		"only a budget warns":                                           budget(func(l *Limit) { l.Resource, l.WarnAt = Tokens, []Threshold{{Percent: 80}} }),
		"threshold 0% is out of range: want 1% to 1000%":                budget(func(l *Limit) { l.WarnAt = []Threshold{{Percent: 80}, {}} }),
		"threshold forecast 1001% is out of range: want 1% to":          budget(func(l *Limit) { l.WarnAt = []Threshold{{Percent: 1001, Forecast: true}} }),
		"threshold forecast 80%: a window without an end has no":        budget(func(l *Limit) { l.Window, l.WarnAt = Total, []Threshold{{Percent: 80}, {Percent: 80, Forecast: true}} }),
		"amount 4611686018427387905 is out of range":                    budget(func(l *Limit) { l.Amount = maxAmount + 1 }),
		"overrides[1]: amount -5 is out of range":                       budget(func(l *Limit) { l.Overrides = []Override{{Amount: 1}, {Amount: -5}} }),
		"unknown window kind 9":                                         budget(func(l *Limit) { l.Window = 9 }),
		"unknown mode 2":                                                budget(func(l *Limit) { l.Mode = 2 }),
		"each: unknown dimension 0":                                     budget(func(l *Limit) { l.Each = []Dimension{Key, 0} }),
		"zone Local differs between machines: name an IANA zone":        budget(func(l *Limit) { l.Zone = time.Local }),
		"period, burst and maxAccounts must not be negative":            budget(func(l *Limit) { l.MaxAccounts = -1 }),
		"a rate of 0 never flows back":                                  {{Name: "r", Resource: Requests, Per: time.Second}},
		"rate is out of range: the burst must be used up in less than ": {{Name: "r", Resource: Tokens, Amount: 1, Per: time.Hour, Burst: 1 << 40}},
		"name is taken by another entry of its kind":                    append(budget(func(*Limit) {}), budget(func(l *Limit) { l.Window = Day })...),
		"x: name is taken": {
			{Name: "x", Resource: Concurrent, Amount: 1}, {Name: "x", Resource: Tokens, Amount: 1, Per: time.Second},
		},
	} {
		table, err := Compile(limits)
		if err == nil || !strings.Contains(err.Error(), want) || table != nil {
			t.Errorf("Compile(%+v) = %v, %v, want an error with %q", limits, table, err, want)
		}
	}
	_, err := Compile([]Limit{{Name: "one"}, {Name: "two"}})
	if err == nil || !strings.Contains(err.Error(), "one") || !strings.Contains(err.Error(), "two") {
		t.Errorf("Compile of two bad limits = %v, want both named", err)
	}
	if _, err := Compile(append(budget(func(*Limit) {}), Limit{Name: "b", Resource: Concurrent})); err != nil {
		t.Errorf("Compile of a budget and a limit of one name = %v, want nil: they are of two kinds", err)
	}
}

// TestLayers: what needs only the key and its team is taken at the headers.
func TestLayers(t *testing.T) {
	for want, limits := range map[string][]Limit{
		"enter": {
			{Resource: Requests, Amount: 1, Per: time.Second},
			{Resource: Requests, Amount: 1, Window: Day, Each: []Dimension{Key}},
			{Resource: Concurrent, Amount: 1, Each: []Dimension{Team}, Match: Match{Team: []string{"a"}, Tags: map[string][]string{"region": {"eu"}}}},
			{Resource: Concurrent, Amount: 1, Overrides: []Override{{For: Match{Key: []string{"a"}}, Amount: 2}}},
		},
		"limits": {
			{Resource: Tokens, Amount: 1, Per: time.Second},
			{Resource: Tokens, Amount: 1, Window: Day},
			{Resource: Requests, Amount: 1, Per: time.Second, Match: Match{Model: []string{"m"}}},
			{Resource: Concurrent, Amount: 1, Each: []Dimension{User}},
			{Resource: Concurrent, Amount: 1, Match: Match{Purpose: []string{"eval"}}},
			{Resource: Concurrent, Amount: 1, Overrides: []Override{{For: Match{Model: []string{"m"}}, Amount: 2}}},
		},
		"budgets": {
			{Resource: USD, Amount: 1, Window: Day},
			{Resource: USD, Amount: 1, Window: Total, Each: []Dimension{Key}},
		},
	} {
		for _, l := range limits {
			l.Name = "x"
			table, err := Compile([]Limit{l})
			if err != nil {
				t.Fatal(err)
			}
			got := map[int]string{len(table.enter.groups): "enter", 2 * len(table.limits.groups): "limits", 3 * len(table.budgets.groups): "budgets"}
			delete(got, 0)
			if len(got) != 1 || got[map[string]int{"enter": 1, "limits": 2, "budgets": 3}[want]] != want {
				t.Errorf("%+v is checked in %v, want %s", l, got, want)
			}
		}
	}
}

// TestDoubledRates: two rates of one identity have buckets of their own, which
// a reload gives back to them.
func TestDoubledRates(t *testing.T) {
	limits := []Limit{
		{Name: "a", Resource: Tokens, Amount: 100, Per: time.Minute},
		{Name: "b", Resource: Tokens, Amount: 50, Per: time.Minute, Mode: Shadow},
		{Name: "c", Resource: Tokens, Amount: 10, Per: time.Hour},
	}
	table, err := Compile(limits)
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, g := range table.limits.groups {
		keys = append(keys, g.key)
	}
	if got, want := strings.Join(keys, " "), "tokens|/min tokens|/min|again tokens|/h"; got != want {
		t.Errorf("account sets = %s, want %s", got, want)
	}
}
