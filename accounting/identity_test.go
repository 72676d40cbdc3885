package accounting

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestAccountText fixes the texts that records and quota keys are made of.
// Changing one forgets what was used.
func TestAccountText(t *testing.T) {
	s := &Subject{Teams: []string{"search-ml", "search"}, KeyID: "k7Qm2xT9aB4c", KeyName: "search-prod", Purpose: "eval, 50% | a=b*", Model: "claude-sonnet", User: "äöü\xff\n"}
	for want, l := range map[string]Limit{
		"usd|month@UTC": {Resource: USD, Window: Month},
		"usd|total":     {Resource: USD, Window: Total, Zone: mustZone(t, "Asia/Tokyo")},
		"usd|team=search|each=key:k7Qm2xT9aB4c|month@Asia/Tokyo": {
			Resource: USD, Window: Month, Zone: mustZone(t, "Asia/Tokyo"), Match: Match{Team: []string{"search"}}, Each: []Dimension{Key},
		},
		"usd|team=ads,search|model=claude-*|tags.cost%2Ccentre=a|tags.region=eu,us|week@Europe/Berlin": {
			Resource: USD, Window: Week, Zone: mustZone(t, "Europe/Berlin"),
			Match: Match{Team: []string{"search", "ads", "search"}, Model: []string{"claude-**"}, Provider: []string{"a", "*"}, Tags: map[string][]string{"region": {"us", "eu"}, "cost,centre": {"a"}}},
		},
		"usd|each=team:search-ml,purpose:eval%2C%2050%25%20%7C%20a%3Db%2A|day@UTC":          {Resource: USD, Window: Day, Each: []Dimension{Purpose, Team, Purpose}},
		"tokens|each=user:äöü%FF%0A|quarter@UTC":                                            {Resource: Tokens, Window: Quarter, Each: []Dimension{User}},
		"tokens|each=team:search-ml|/min":                                                   {Resource: Tokens, Per: time.Minute, Each: []Dimension{Team}},
		"requests|each=key:k7Qm2xT9aB4c|/s":                                                 {Resource: Requests, Per: time.Second, Each: []Dimension{Key}},
		"requests|/1m30s":                                                                   {Resource: Requests, Per: 90 * time.Second},
		"requests|key=k7Qm2xT9aB4c,search-*|/h":                                             {Resource: Requests, Per: time.Hour, Match: Match{Key: []string{"search-*", "k7Qm2xT9aB4c"}}},
		"concurrent|each=key:k7Qm2xT9aB4c":                                                  {Resource: Concurrent, Each: []Dimension{Key}},
		"concurrent|purpose=|user=a%7Cb|session=*x":                                         {Resource: Concurrent, Match: Match{Purpose: []string{""}, User: []string{"a|b"}, Session: []string{"*x"}}},
		"usd|team=search|each=key:k7Qm2xT9aB4c,model:claude-sonnet,session:|year@Etc/GMT+5": {Resource: USD, Window: Year, Zone: mustZone(t, "Etc/GMT+5"), Match: Match{Team: []string{"search"}}, Each: []Dimension{Session, Model, Key}},
	} {
		id := l.identity()
		if got := id.account(s, false); got != want {
			t.Errorf("account = %q, want %q", got, want)
		}
		again := l
		again.Name, again.Amount, again.Owner = "renamed", 7, "kim"
		if id2 := again.identity(); id2.String() != id.String() {
			t.Errorf("identity of %+v = %q, want %q: neither name nor amount", again, id2.String(), id.String())
		}
	}
	other := Limit{Resource: USD, Window: Day, Each: []Dimension{User, Key}}
	id := other.identity()
	if got, want := id.account(nil, true), "usd|each=key:*other,user:*other|day@UTC"; got != want {
		t.Errorf("account of all others = %q, want %q", got, want)
	}
}

func TestScope(t *testing.T) {
	s := &Subject{Teams: []string{"search-ml", "search"}, KeyID: "k7Qm2xT9aB4c"}
	for want, l := range map[string]Limit{
		"all":                           {Resource: USD, Window: Month},
		"team=search":                   {Resource: USD, Window: Total, Match: Match{Team: []string{"search"}}},
		"team=search, key=k7Qm2xT9aB4c": {Resource: USD, Window: Month, Match: Match{Team: []string{"search"}}, Each: []Dimension{Key}},
	} {
		id := l.identity()
		if got := id.scope(id.account(s, false)); got != want {
			t.Errorf("scope(%q) = %q, want %q", id.account(s, false), got, want)
		}
	}
}

// TestAccountWindowRoundTrip: the text of an account-window is read back to the
// identity, the values and the window it was made from, whatever they are.
func TestAccountWindowRoundTrip(t *testing.T) {
	zones := []*time.Location{nil, time.UTC, mustZone(t, "Asia/Tokyo"), mustZone(t, "America/Havana")}
	words := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a|,=:%*@ ]{0,6}`), rapid.Just(otherValue), rapid.SampledFrom([]string{"\xff", "total", "each=key:x"}))
	rapid.Check(t, func(t *rapid.T) {
		l := Limit{
			Resource: rapid.SampledFrom([]Resource{USD, Tokens, Requests}).Draw(t, "resource"),
			Window:   rapid.SampledFrom([]WindowKind{Day, Week, Month, Quarter, Year, Total}).Draw(t, "window"),
			Zone:     rapid.SampledFrom(zones).Draw(t, "zone"),
			Each:     rapid.SliceOfN(rapid.SampledFrom([]Dimension{Team, Key, Purpose, Provider, Model, User, Session}), 0, 3).Draw(t, "each"),
			Match:    Match{Team: rapid.SliceOfN(words, 0, 2).Draw(t, "team"), Tags: map[string][]string{words.Draw(t, "tag"): {words.Draw(t, "its value")}}},
		}
		s := &Subject{
			Teams: []string{words.Draw(t, "own team")}, KeyID: words.Draw(t, "key"), Purpose: words.Draw(t, "purpose"), Provider: words.Draw(t, "provider"),
			Model: words.Draw(t, "model"), User: words.Draw(t, "user"), Session: words.Draw(t, "session"),
		}
		other := rapid.Bool().Draw(t, "other") && len(l.Each) > 0
		id := l.identity()
		account := id.account(s, other)
		w := l.Window.At(time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "t"), 0), l.Zone)

		got, err := parseAccountWindow(account + "|" + w.ID)
		if err != nil {
			t.Fatal(err)
		}
		if got.account != account || got.identity != id.String() || got.other != other || got.window.ID != w.ID || !got.window.Start.Equal(w.Start) || !got.window.End.Equal(w.End) {
			t.Fatalf("parseAccountWindow(%q) = %+v, want identity %q, other %v, window %+v", account+"|"+w.ID, got, id.String(), other, w)
		}
		for _, d := range id.each {
			if v := got.subject.value(d); !other && v != s.value(d) {
				t.Fatalf("parseAccountWindow(%q): %v = %q, want %q", account+"|"+w.ID, d, v, s.value(d))
			}
		}
	})
}

// TestAccountTextIsUnambiguous: different subjects have different accounts.
func TestAccountTextIsUnambiguous(t *testing.T) {
	words := rapid.StringMatching(`[ab|,=:%*]{0,4}`)
	l := Limit{Resource: USD, Window: Day, Each: []Dimension{Key, Purpose}}
	id := l.identity()
	set := newAccountSet(&group{id: id}, new(dropped))
	rapid.Check(t, func(t *rapid.T) {
		a := &Subject{KeyID: words.Draw(t, "key"), Purpose: words.Draw(t, "purpose")}
		b := &Subject{KeyID: words.Draw(t, "key"), Purpose: words.Draw(t, "purpose")}
		same := a.KeyID == b.KeyID && a.Purpose == b.Purpose
		if got := id.account(a, false) == id.account(b, false); got != same {
			t.Fatalf("accounts of %+v and %+v are the same: %v, want %v", a, b, got, same)
		}
		if got := string(set.appendKey(nil, a)) == string(set.appendKey(nil, b)); got != same {
			t.Fatalf("keys of %+v and %+v are the same: %v, want %v", a, b, got, same)
		}
	})
}

func FuzzParseAccountWindow(f *testing.F) {
	for _, s := range []string{
		"usd|team=search|each=key:k7Qm2xT9aB4c|month@Asia/Tokyo|2026-11", "usd|total|total", "usd|each=user:*other|day@UTC|2026-11-03",
		"", "|", "||", "usd|day@UTC", "usd|day@Nowhere|2026-11-03", "usd|day@UTC|2026-11-33", "usd|each=key|day@UTC|2026-11-03", "usd|each=key:%|day@UTC|2026-11-03",
		"usd|total@UTC|total", "usd|each=key:%zz|total|total", "usd|day@../etc/passwd|2026-11-03",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := parseAccountWindow(text)
		if err == nil && a.account+"|"+a.window.ID != text {
			t.Errorf("parseAccountWindow(%q) = %+v, want the same text back", text, a)
		}
	})
}
