package overlay

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"airgate/accounting/money"
)

func day(n int) time.Time { return time.Date(2026, time.November, n, 9, 0, 0, 0, time.UTC) }

func raise() Entry {
	return Entry{Kind: Raise, Name: "search", To: 700 * money.USD, Until: day(12), By: "kim", Reason: "INC-12", Made: day(10)}
}

func revocation() Entry {
	return Entry{Kind: Revoke, Name: "k7Qm2xT9aB4c", By: "kim", Reason: "leaked", Made: day(10)}
}

// TestEncoding: what stands in stores never changes for the same entry.
func TestEncoding(t *testing.T) {
	removal := raise()
	removal.Removed, removal.Reason, removal.Made = true, "over", day(11)
	for want, e := range map[string]Entry{
		`{"id":"raise/search","kind":"raise","name":"search","to_usd":"700","until":"2026-11-12T09:00:00Z","by":"kim","reason":"INC-12","made":"2026-11-10T09:00:00Z"}`:              raise(),
		`{"id":"raise/search","kind":"raise","name":"search","to_usd":"700","until":"2026-11-12T09:00:00Z","by":"kim","reason":"over","made":"2026-11-11T09:00:00Z","removed":true}`: removal,
		`{"id":"revoke/k7Qm2xT9aB4c","kind":"revoke","name":"k7Qm2xT9aB4c","by":"kim","reason":"leaked","made":"2026-11-10T09:00:00Z"}`:                                              revocation(),
	} {
		text, err := json.Marshal(e)
		if err != nil || string(text) != want {
			t.Errorf("Marshal(%+v) = %s, %v, want %s", e, text, err, want)
		}
		back, err := Parse(text)
		if err != nil || back != e {
			t.Errorf("Parse(%s) = %+v, %v, want %+v", text, back, err, e)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	text, err := json.Marshal(raise())
	if err != nil {
		t.Fatal(err)
	}
	good := string(text)
	for name, test := range map[string]struct{ old, new, want string }{
		"an unknown field":       {`"by"`, `"bye":1,"by"`, "unknown field"},
		"a field twice":          {`"by":"kim"`, `"by":"kim","By":"lee"`, `field "by" stands twice`},
		"another id":             {`raise/search`, `raise/ads`, `id "raise/ads" is not "raise/search"`},
		"no object":              {good, `[]`, "not an object"},
		"cut off":                {good, good[:40], "unexpected"},
		"something after it":     {good, good + "{}", "something follows it"},
		"an unknown kind":        {`"id":"raise/search","kind":"raise"`, `"kind":"lower"`, `kind "lower" is not known`},
		"no name":                {`"id":"raise/search","kind":"raise","name":"search"`, `"kind":"raise","name":""`, "name is missing"},
		"no author":              {`"by":"kim"`, `"by":" "`, "by is missing"},
		"no reason":              {`"reason":"INC-12",`, ``, "reason is missing"},
		"a reason of two lines":  {`INC-12`, `INC\n12`, "reason must be one line"},
		"a long reason":          {`INC-12`, strings.Repeat("x", 257), "reason is longer than 256 bytes"},
		"no amount":              {`"to_usd":"700",`, ``, "to_usd must be an amount above 0"},
		"a negative amount":      {`"700"`, `"-1"`, "to_usd must be an amount above 0"},
		"an amount as number":    {`"700"`, `700`, "cannot unmarshal number"},
		"an amount of a block":   {`"id":"raise/search","kind":"raise"`, `"kind":"block/team"`, "to_usd belongs to a raise"},
		"no end":                 {`"until":"2026-11-12T09:00:00Z",`, ``, "until is missing"},
		"an end that is a date":  {`2026-11-12T09:00:00Z`, `2026-11-12`, "cannot parse"},
		"a year beyond":          {`2026-11-12T09:00:00Z`, `9999-12-31T23:59:59-12:00`, "until is out of range"},
		"the zero time":          {`2026-11-12T09:00:00Z`, `0001-01-01T00:00:00Z`, "until is out of range"},
		"no time":                {`,"made":"2026-11-10T09:00:00Z"`, ``, "made is missing"},
		"an end that has been":   {`2026-11-12T09`, `2026-11-10T09`, "until 2026-11-10T09:00:00Z is in the past"},
		"an end too far away":    {`2026-11-12T09:00:00Z`, `2026-11-13T09:00:00.001Z`, "more than 72 hours away"},
		"an end of a revocation": {`"id":"raise/search","kind":"raise","name":"search","to_usd":"700"`, `"kind":"revoke","name":"k"`, "a revocation has no until"},
		"a revocation removed": {
			`"id":"raise/search","kind":"raise","name":"search","to_usd":"700","until":"2026-11-12T09:00:00Z"`, `"kind":"revoke","removed":true,"name":"k"`,
			"a revocation is not taken back",
		},
	} {
		bad := strings.Replace(good, test.old, test.new, 1)
		if bad == good {
			t.Fatalf("%s: the test changes nothing", name)
		}
		if e, err := Parse([]byte(bad)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: Parse(%s) = %+v, %v, want an error with %q", name, bad, e, err, test.want)
		}
	}
}

func TestHolds(t *testing.T) {
	removed := raise()
	removed.Removed = true
	for name, test := range map[string]struct {
		e     Entry
		at    time.Time
		holds bool
		over  bool
	}{
		"at once":                 {raise(), day(10), true, false},
		"until its end":           {raise(), day(12).Add(-1), true, false},
		"not at its end":          {raise(), day(12), false, false},
		"remembered for a while":  {raise(), day(12).Add(Slack - 1), false, false},
		"over":                    {raise(), day(12).Add(Slack), false, true},
		"removed":                 {removed, day(10), false, false},
		"a removal is remembered": {removed, day(12), false, false},
		"a revocation":            {revocation(), day(13).Add(Slack - 1), true, false},
		"a revocation stays":      {revocation(), day(30), true, true},
	} {
		if got := test.e.Holds(test.at); got != test.holds {
			t.Errorf("%s: Holds = %v, want %v", name, got, test.holds)
		}
		if got := test.e.over(test.at); got != test.over {
			t.Errorf("%s: over = %v, want %v", name, got, test.over)
		}
	}
	ends := []Entry{revocation(), raise(), {Until: day(11)}}
	if got := NextEnd(ends); !got.Equal(day(11)) {
		t.Errorf("NextEnd = %v, want the first of the ends", got)
	}
	if got := NextEnd(ends[:1]); !got.IsZero() {
		t.Errorf("NextEnd of a revocation = %v, want none", got)
	}
}

// entries draws words on few subjects at few times, so that they meet.
func entries(t *rapid.T, label string) []Entry {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Entry {
		e := raise()
		e.Name = rapid.SampledFrom([]string{"search", "ads"}).Draw(t, "name")
		e.To = money.NanoUSD(rapid.Int64Range(1, 3).Draw(t, "to"))
		e.Reason = rapid.SampledFrom([]string{"a", "b"}).Draw(t, "reason")
		e.Removed = rapid.Bool().Draw(t, "removed")
		e.Made = day(10).Add(time.Duration(rapid.IntRange(0, 2).Draw(t, "made")) * time.Second)
		if rapid.Bool().Draw(t, "revoke") {
			e = Entry{Kind: Revoke, Name: "k", By: e.By, Reason: e.Reason, Made: e.Made}
		}
		return e
	}), 0, 12).Draw(t, label)
}

// TestMerge: in whatever order and however often words arrive, the same one is
// the last on each subject, and it is the latest.
func TestMerge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := entries(t, "words")
		one, other := Set{}, Set{}
		for _, e := range words {
			one.Add(e)
		}
		for _, e := range rapid.Permutation(slices.Concat(words, words)).Draw(t, "order") {
			other.Add(e)
		}
		if !maps.Equal(one, other) {
			t.Fatalf("two orders of the same words:\n%s", cmp.Diff(one, other))
		}
		for _, e := range words {
			if last := one[e.ID()]; last.Made.Before(e.Made) {
				t.Fatalf("the last word on %s is of %v, want that of %v", e.ID(), last.Made, e.Made)
			}
			if one.Add(e) {
				t.Fatalf("%+v was added twice", e)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, e := range []Entry{raise(), revocation()} {
		text, err := json.Marshal(e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		e, err := Parse(text)
		if err != nil {
			return
		}
		again, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := Parse(again); err != nil || back != e {
			t.Errorf("Parse(%s) = %+v, %v, want %+v", again, back, err, e)
		}
	})
}
