package accounting

import (
	"testing"
	"time"
)

// TestDeadAccount: nothing is booked on an account that its set has dropped
// since the caller found it.
func TestDeadAccount(t *testing.T) {
	now := mustTime(t, "2026-11-03T12:00:00Z").UnixNano()
	s := &Subject{KeyID: "k"}
	for _, l := range []Limit{
		{Name: "permits", Resource: Concurrent, Amount: 9},
		{Name: "rate", Resource: Requests, Amount: 9, Per: time.Second},
		{Name: "window", Resource: Requests, Amount: 9, Window: Day},
	} {
		l.Each = []Dimension{Key}
		m, err := l.compile()
		if err != nil {
			t.Fatal(err)
		}
		set := newAccountSet(l.group(), new(dropped))
		a := set.account(s, now)
		set.sweepLocked(now)
		if again := set.account(s, now); again == a {
			t.Errorf("%s: the set still has the account that it dropped", l.Name)
		}
		var h Hold
		*h.add() = holdEntry{member: m, terms: &m.base, account: a, need: 1}
		var alive bool
		switch {
		case l.Resource == Concurrent:
			_, alive = new(Ledger).takePermit(&h, 0, new(Table), l.group(), a, s, now)
		case l.Window == NoWindow:
			_, alive = new(Ledger).takeRate(new(waiter), h.at(0), a, now)
		default:
			w, _ := a.openWindow(s, now)
			alive = w != nil
		}
		if alive {
			t.Errorf("%s: booked on an account that nobody will find", l.Name)
		}
	}
}

// TestSweep: an account is dropped once nothing of it is worth remembering.
func TestSweep(t *testing.T) {
	noon := mustTime(t, "2026-11-03T12:00:00Z")
	now := noon.UnixNano()
	after := func(d time.Duration) int64 { return noon.Add(d).UnixNano() }
	for name, c := range map[string]struct {
		account *account
		now     int64
		want    bool
	}{
		"untouched":                    {&account{}, now, true},
		"a permit is held":             {&account{permits: 1}, now, false},
		"a bucket is not full":         {&account{tat: now + 1}, now, false},
		"a shared bucket is tended":    {&account{vended: &vended{kept: true}}, now, false},
		"shared permits are tended":    {&account{pool: &pool{kept: true}}, now, false},
		"nor are they any more":        {&account{vended: &vended{}, pool: &pool{}}, now, true},
		"a bucket is full":             {&account{tat: now}, now, true},
		"in its window":                {&account{windows: []*window{{end: after(time.Hour)}}}, now, false},
		"an hour after its window":     {&account{windows: []*window{{end: now}}}, after(time.Hour), true},
		"less after its window":        {&account{windows: []*window{{end: now}}}, after(time.Hour) - 1, false},
		"one window ended, one not":    {&account{windows: []*window{{end: after(24 * time.Hour)}, {end: now}}}, after(time.Hour), false},
		"a window that never ends":     {&account{windows: []*window{newWindow("usd|total", Window{ID: "total"})}}, after(1e6 * time.Hour), false},
		"a call of an old window runs": {&account{windows: []*window{{end: now, held: 1}}}, after(time.Hour), false},
	} {
		if got := c.account.idleLocked(c.now); got != c.want {
			t.Errorf("%s: idle = %v, want %v", name, got, c.want)
		}
	}
}

// TestBound: the store is told the amount that an account has, not the greatest
// that some other has.
func TestBound(t *testing.T) {
	budget := func(name string, mode Mode, amount, override int64, each ...Dimension) Limit {
		return Limit{
			Name: name, Resource: USD, Window: Day, Mode: mode, Amount: amount, Each: each,
			Overrides: []Override{{For: Match{Key: []string{"k"}}, Amount: override}},
		}
	}
	for name, c := range map[string]struct {
		limits []Limit
		key    string
		want   int64
	}{
		"own account":                   {[]Limit{budget("a", Enforce, 50, 80, Key)}, "x", 50},
		"own account, overridden":       {[]Limit{budget("a", Enforce, 50, 80, Key)}, "k", 80},
		"own account, lowered":          {[]Limit{budget("a", Enforce, 50, 20, Key)}, "k", 20},
		"shared account: the greatest":  {[]Limit{budget("a", Enforce, 50, 80)}, "x", 80},
		"shared account of a team":      {[]Limit{budget("a", Enforce, 50, 80, Team)}, "x", 80},
		"two limits: the lowest":        {[]Limit{budget("a", Enforce, 50, 80, Key), budget("b", Enforce, 60, 70, Key)}, "k", 70},
		"a shadow does not lower":       {[]Limit{budget("a", Enforce, 50, 80, Key), budget("b", Shadow, 1, 1, Key)}, "k", 80},
		"shadows alone: the greatest":   {[]Limit{budget("a", Shadow, 50, 80, Key), budget("b", Shadow, 60, 70, Key)}, "x", 60},
		"the key's id beside its model": {[]Limit{budget("a", Enforce, 50, 80, Key, Model)}, "k", 80},
	} {
		table, err := Compile(c.limits)
		if err != nil {
			t.Fatal(err)
		}
		g := table.budgets.groups[0]
		if got := g.syncTerms(&account{}, &Subject{KeyID: c.key}, table, 0).limit; got != c.want || len(table.budgets.groups) != 1 {
			t.Errorf("%s: limit of key %s = %d, want %d", name, c.key, got, c.want)
		}
	}
}
