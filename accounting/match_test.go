package accounting

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestMatch(t *testing.T) {
	s := Subject{
		Teams: []string{"search-ml", "search"}, KeyID: "k7Qm2xT9aB4c", KeyName: "search-prod", Purpose: "eval", Provider: "anthropic",
		Model: "claude-sonnet", User: "3f2a", Session: "", Tags: map[string]string{"region": "eu"},
	}
	for name, c := range map[string]struct {
		match Match
		want  bool
	}{
		"nothing asked":         {Match{}, true},
		"own team":              {Match{Team: []string{"search-ml"}}, true},
		"a parent":              {Match{Team: []string{"search"}}, true},
		"another team":          {Match{Team: []string{"ads"}}, false},
		"a list":                {Match{Team: []string{"ads", "search"}}, true},
		"part of a name":        {Match{Team: []string{"sear"}}, false},
		"glob":                  {Match{Team: []string{"sear*"}}, true},
		"glob in the middle":    {Match{Model: []string{"cl*net"}}, true},
		"glob matches nothing":  {Match{Model: []string{"claude-sonnet*"}}, true},
		"star":                  {Match{Session: []string{"*"}}, true},
		"key by id":             {Match{Key: []string{"k7Qm2xT9aB4c"}}, true},
		"key by name":           {Match{Key: []string{"search-prod"}}, true},
		"key by glob":           {Match{Key: []string{"*-prod"}}, true},
		"another key":           {Match{Key: []string{"dev"}}, false},
		"tag":                   {Match{Tags: map[string][]string{"region": {"us", "eu"}}}, true},
		"another tag":           {Match{Tags: map[string][]string{"region": {"us"}}}, false},
		"a missing tag is ''":   {Match{Tags: map[string][]string{"tier": {""}}}, true},
		"a missing tag":         {Match{Tags: map[string][]string{"tier": {"gold"}}}, false},
		"empty session":         {Match{Session: []string{""}}, true},
		"all fields must match": {Match{Team: []string{"search"}, Purpose: []string{"chat"}}, false},
		"all fields match":      {Match{Team: []string{"search"}, Purpose: []string{"eval"}, Provider: []string{"a*"}, User: []string{"3f2a"}}, true},
		"case matters":          {Match{Purpose: []string{"Eval"}}, false},
	} {
		c1 := c.match.compile()
		if got := c1.match(&s); got != c.want {
			t.Errorf("%s: %+v matches %+v: %v, want %v", name, c.match, s, got, c.want)
		}
		x := newIndex([]matcher{c1})
		if got := len(x.appendMatching(nil, &s)) == 1; got != c.want {
			t.Errorf("%s: the index finds %+v for %+v: %v, want %v", name, c.match, s, got, c.want)
		}
	}
}

func TestGlobEqualsRegexp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.StringMatching(`[ab*.]{0,8}`).Draw(t, "pattern")
		s := rapid.StringMatching(`[ab.]{0,10}`).Draw(t, "text")
		re := regexp.MustCompile(`^(?s:` + strings.ReplaceAll(regexp.QuoteMeta(p), `\*`, `.*`) + `)$`)
		if got, want := glob(p, s), re.MatchString(s); got != want {
			t.Fatalf("glob(%q, %q) = %v, want %v", p, s, got, want)
		}
	})
}

// TestIndexEqualsScan: the index finds exactly what trying all finds, in order
// and once.
func TestIndexEqualsScan(t *testing.T) {
	all := []string{"a", "b", "c", "a*", "*", "", "d", "e", "f", "g", "h", "i", "j"}
	value := rapid.SampledFrom([]string{"a", "b", "c", "ab", "", "d", "j"})
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfN(rapid.SampledFrom(all[:rapid.SampledFrom([]int{6, len(all)}).Draw(t, "names")]), 0, 3)
		var matchers []matcher
		for range rapid.IntRange(0, 20).Draw(t, "limits") {
			m := Match{Team: list.Draw(t, "team"), Key: list.Draw(t, "key"), Purpose: list.Draw(t, "purpose")}
			matchers = append(matchers, m.compile())
		}
		s := Subject{Teams: rapid.SliceOfN(value, 0, 3).Draw(t, "teams"), KeyID: value.Draw(t, "id"), KeyName: value.Draw(t, "name"), Purpose: value.Draw(t, "of call")}
		var want []int32
		for i, m := range matchers {
			if m.match(&s) {
				want = append(want, int32(i))
			}
		}
		x := newIndex(matchers)
		if got := x.appendMatching(nil, &s); !slices.Equal(got, want) {
			t.Fatalf("index of %+v finds %v for %+v, want %v", matchers, got, s, want)
		}
	})
}
