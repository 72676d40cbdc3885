package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func newTestCompiler(t testing.TB) *compiler {
	t.Helper()
	c, err := newCompiler()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// aSubject is of a team in the EU on a provider in the US.
func aSubject() subject {
	return subject{
		r: &Request{
			Key: &KeyEntry{ID: "k7Qm2xT9aB4c", Name: "search-prod", Team: &Team{
				Name: "search", Path: "root/search", Owner: "o@example.com", CostCenter: "CC-1",
				Tags: map[string]string{"region": "eu", "empty": ""},
			}},
			Model: "smart", Dialect: "openai", Endpoint: "responses", User: "u-1", Session: "s-1",
			Stream: true, MaxOutput: 100, BodyBytes: 5000, Tools: true,
		},
		target:  &Target{Model: "gpt-5.4-mini", Provider: "openai", ProviderTags: map[string]string{"region": "us"}},
		purpose: "eval",
	}
}

// Each row is true of aSubject.
func TestVocabulary(t *testing.T) {
	c := newTestCompiler(t)
	s := aSubject()
	for when, lowered := range map[string]bool{
		`team.name == "search"`:                        true,
		`team.path == "root/search"`:                   true,
		`team.owner == "o@example.com"`:                true,
		`team.costCenter == "CC-1"`:                    true,
		`team.tags.region == "eu"`:                     true,
		`team.tags["region"] == "eu"`:                  true,
		`team.tags.missing == ""`:                      true,
		`team.tags["a b"] == ""`:                       true,
		`"region" in team.tags`:                        true,
		`"empty" in team.tags`:                         true,
		`!("missing" in team.tags)`:                    true,
		`key.id == "k7Qm2xT9aB4c"`:                     true,
		`key.name == "search-prod"`:                    true,
		`purpose == "eval"`:                            true,
		`model.name == "gpt-5.4-mini"`:                 true,
		`model.requested == "smart"`:                   true,
		`provider.name == "openai"`:                    true,
		`provider.tags.region != team.tags.region`:     true,
		`endpoint == "responses"`:                      true,
		`dialect == "openai"`:                          true,
		`stream`:                                       true,
		`stream == true && tools != false`:             true,
		`user == "u-1" && session == "s-1"`:            true,
		`maxOutputTokens == 100`:                       true,
		`maxOutputTokens > 99 && 101 > bodyBytes / 50`: false,
		`bodyBytes >= 5000 && 5000 <= bodyBytes`:       true,
		`bodyBytes < 5001 && -1 < bodyBytes`:           true,
		`tools`:                                        true,
		`purpose in ["a", "eval"]`:                     true,
		`!(purpose in [])`:                             true,
		`bodyBytes in [1, 5000]`:                       true,
		`user in [team.name, "u-1"]`:                   true,
		`model.requested.startsWith("sm")`:             true,
		`(stream || false) && !(tools && false)`:       true,
		`(user == "x") == (session == "y")`:            true,
		`(user == "u-1") != (session == "y")`:          true,
		// Beyond the subset.
		`user.endsWith("1")`:               false,
		`user.contains("-")`:               false,
		`size(user) == 3`:                  false,
		`user.matches("^u-[0-9]$")`:        false,
		`stream ? tools : false`:           false,
		`team.tags[purpose] == ""`:         false,
		`team.tags["reg" + "ion"] == "eu"`: false,
		`("reg" + "ion") in team.tags`:     false,
		`team.name < "t"`:                  false,
		`purpose in ["a", "ev" + "al"]`:    false,
		`user + session == "u-1s-1"`:       false,
		`1 / 0 == 1 || stream`:             false,
	} {
		u := &rule{}
		if faults := c.compile(u, when); faults != nil {
			t.Errorf("compile(%s) = %v, want no fault", when, faults)
			continue
		}
		if (u.fast != nil) != lowered || (u.slow != nil) == lowered {
			t.Errorf("compile(%s) lowers: %t, want %t", when, u.fast != nil, lowered)
		}
		if got, err := u.matches(&s); err != nil || !got {
			t.Errorf("%s = %t, %v, want true", when, got, err)
		}
	}
}

func TestConditionsThatDoNotCompile(t *testing.T) {
	const all = "team.name, team.path, team.owner, team.costCenter, team.tags, key.id, key.name, model.name, model.requested, " +
		"provider.name, provider.tags, purpose, endpoint, dialect, user, session, stream, tools, maxOutputTokens, bodyBytes"
	c := newTestCompiler(t)
	for when, want := range map[string]string{
		`tem.name == ""`:                                   "1:1 undeclared reference to 'tem' (did you mean 'team'?)",
		`weather == "fine"`:                                "1:1 undeclared reference to 'weather': there are " + all,
		`stream && key.secret == ""`:                       "1:14 undefined field 'secret': there are key.id, key.name",
		"stream &&\n  (tools ||\n   team.x == \"\")":       "3:8 undefined field 'x': there are team.name, team.path, team.owner, team.costCenter, team.tags",
		`"é" == team.x`:                                    "1:12 undefined field 'x': there are team.name, team.path, team.owner, team.costCenter, team.tags",
		`purpose == 1`:                                     "1:9 found no matching overload for '_==_' applied to '(string, int)'",
		`purpose`:                                          "1:1 is string, want bool",
		`dyn(stream)`:                                      "1:4 is dyn, want bool",
		`team == team`:                                     "1:1 team is not a value: select a field of it: team.name, team.path, team.owner, team.costCenter, team.tags",
		`dyn(key) == dyn(1)`:                               "1:5 key is not a value: select a field of it: key.id, key.name",
		`size(provider.tags) > 1`:                          `1:14 provider.tags is not a value: select a tag of it, as provider.tags.region, or ask "region" in provider.tags`,
		`team.tags == {"a": "b"}`:                          `1:5 team.tags is not a value: select a tag of it, as team.tags.region, or ask "region" in team.tags`,
		`team.tags in [{"a": "b"}]`:                        `1:5 team.tags is not a value: select a tag of it, as team.tags.region, or ask "region" in team.tags`,
		`{dyn(1): true}[provider.tags]`:                    `1:24 provider.tags is not a value: select a tag of it, as provider.tags.region, or ask "region" in provider.tags`,
		`team{name: "a"}.name == "a"`:                      "1:5 makes an object; a rule only compares",
		`has(team.tags.region)`:                            `1:4 no has here: rules do not loop, and a missing tag is ""`,
		`[1, 2].exists(x, x > 1)`:                          `1:14 no exists here: rules do not loop, and a missing tag is ""`,
		`["a"].all(x, x == user)`:                          `1:10 no all here: rules do not loop, and a missing tag is ""`,
		`user.matches(session)`:                            "1:14 matches takes a literal pattern",
		`user.matches("(")`:                                "1:14 error parsing regexp: missing closing ): `(`",
		`timestamp("soon") == timestamp("now")`:            "1:11 invalid timestamp argument",
		`user.matches("` + strings.Repeat("a", 600) + `")`: "1:13 may cost 15376, the limit is 10000: make it shorter",
		`purpose == `:                                      "1:12 Syntax error:",
		`user == "` + strings.Repeat("x", 5000) + `"`:      "1:1 expression code point size exceeds limit: size: 5010, limit 4096",
	} {
		_, faults := c.check(when)
		var got string
		if len(faults) > 0 {
			got = fmt.Sprintf("%d:%d %s", faults[0].line, faults[0].column, faults[0].text)
		}
		if strings.HasSuffix(want, "Syntax error:") && strings.HasPrefix(got, want) {
			continue
		}
		if got != want {
			t.Errorf("check(%.60s) = %q, want %q", when, got, want)
		}
	}
}

// The tables that are read in several places name the same things.
func TestEveryFactHasAValue(t *testing.T) {
	c := newTestCompiler(t)
	s := aSubject()
	for i := range facts {
		f := &facts[i]
		name := strings.TrimPrefix(f.object+"."+f.name, ".")
		when := map[kind]string{text: name + ` != ""`, number: name + " > 0", flag: name, tags: `"region" in ` + name}[f.kind]
		for _, e := range []*rule{both(t, c, when).fast, both(t, c, when).slow} {
			if got, err := e.matches(&s); err != nil || !got {
				t.Errorf("%s = %t, %v, want true", when, got, err)
			}
		}
	}
}

// twin is one condition in both forms.
type twin struct{ fast, slow *rule }

func both(t rapid.TB, c *compiler, when string) twin {
	t.Helper()
	checked, faults := c.check(when)
	if faults != nil {
		t.Fatalf("check(%s) = %v, want no fault", when, faults)
	}
	e := lower(checked.NativeRep().Expr())
	if e == nil {
		t.Fatalf("lower(%s) = nil, want it lowered", when)
	}
	program, err := c.program(checked)
	if err != nil {
		t.Fatalf("program(%s) = %v, want no error", when, err)
	}
	return twin{&rule{fast: e}, &rule{slow: program}}
}

// words are few, so that comparisons come out true often enough.
var words = []string{"", "a", "ab", "eu", `q"\'`, "é\x00"}

// genCondition is a condition of the lowered subset.
func genCondition(t *rapid.T, depth int) string {
	sub := func() string { return genCondition(t, depth-1) }
	top := 9
	if depth == 0 {
		top = 6
	}
	switch rapid.IntRange(0, top).Draw(t, "op") {
	case 0:
		return rapid.SampledFrom([]string{"stream", "tools", "true", "false"}).Draw(t, "flag")
	case 1, 2:
		return genText(t) + rapid.SampledFrom([]string{" == ", " != "}).Draw(t, "cmp") + genText(t)
	case 3:
		return genNumber(t) + rapid.SampledFrom([]string{" == ", " != ", " < ", " <= ", " > ", " >= "}).Draw(t, "cmp") + genNumber(t)
	case 4:
		return genText(t) + ".startsWith(" + genText(t) + ")"
	case 5:
		if rapid.Bool().Draw(t, "numbers") {
			return genNumber(t) + " in [" + list(t, genNumber) + "]"
		}
		return genText(t) + " in [" + list(t, genText) + "]"
	case 6:
		return genText(t) + " in " + rapid.SampledFrom([]string{"team.tags", "provider.tags"}).Draw(t, "tags")
	case 7:
		return "!(" + sub() + ")"
	case 8:
		return "(" + sub() + ")" + rapid.SampledFrom([]string{" == ", " != "}).Draw(t, "cmp") + "(" + sub() + ")"
	default:
		return "(" + sub() + rapid.SampledFrom([]string{" && ", " || "}).Draw(t, "logic") + sub() + ")"
	}
}

func list(t *rapid.T, gen func(*rapid.T) string) string {
	items := make([]string, rapid.IntRange(0, 3).Draw(t, "len"))
	for i := range items {
		items[i] = gen(t)
	}
	return strings.Join(items, ", ")
}

func genText(t *rapid.T) string {
	return rapid.OneOf(
		rapid.Map(rapid.SampledFrom(words), celQuote),
		rapid.SampledFrom([]string{
			"team.name", "team.path", "team.owner", "team.costCenter", "team.tags.eu", `team.tags["a"]`, "team.tags.missing",
			"key.id", "key.name", "model.name", "model.requested", "provider.name", "provider.tags.eu", `provider.tags["ab"]`,
			"purpose", "endpoint", "dialect", "user", "session",
		}),
	).Draw(t, "text")
}

// celQuote writes any bytes of valid UTF-8 as a CEL literal.
func celQuote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		fmt.Fprintf(&b, `\U%08x`, r)
	}
	return b.String() + `"`
}

func genNumber(t *rapid.T) string {
	return rapid.SampledFrom([]string{
		"0", "1", "2", "-1", "9223372036854775807", "-9223372036854775808", "0x2", "maxOutputTokens", "bodyBytes",
	}).Draw(t, "number")
}

func genSubject(t *rapid.T) subject {
	word := func(name string) string { return rapid.SampledFrom(words).Draw(t, name) }
	tagSet := func(name string) map[string]string {
		return rapid.MapOfN(rapid.SampledFrom(words), rapid.SampledFrom(words), 0, 3).Draw(t, name)
	}
	n := rapid.SampledFrom([]int64{0, 1, 2, 1 << 62})
	return subject{
		r: &Request{
			Key: &KeyEntry{ID: word("id"), Name: word("key"), Team: &Team{
				Name: word("team"), Path: word("path"), Owner: word("owner"), CostCenter: word("cc"), Tags: tagSet("tags"),
			}},
			Model: word("model"), Dialect: word("dialect"), Endpoint: word("endpoint"), User: word("user"), Session: word("session"),
			Stream: rapid.Bool().Draw(t, "stream"), Tools: rapid.Bool().Draw(t, "tools"),
			MaxOutput: n.Draw(t, "max"), BodyBytes: n.Draw(t, "bytes"),
		},
		target:  &Target{Model: word("name"), Provider: word("provider"), ProviderTags: tagSet("ptags")},
		purpose: word("purpose"),
	}
}

// The lowered form of any condition of the subset means what CEL means.
func TestLoweredEqualsCEL(t *testing.T) {
	c := newTestCompiler(t)
	count := map[bool]int{}
	rapid.Check(t, func(t *rapid.T) {
		when := genCondition(t, 4)
		u := both(t, c, when)
		for range 4 {
			s := genSubject(t)
			got, _ := u.fast.matches(&s)
			want, err := u.slow.matches(&s)
			if err != nil || got != want {
				t.Fatalf("%s = %t lowered, %t, %v in CEL", when, got, want, err)
			}
			count[got]++
		}
	})
	if count[true] < 20 || count[false] < 20 {
		t.Errorf("conditions came out %v, want enough of both", count)
	}
}

// FuzzConditions: any text is refused or compiles, and what compiles evaluates
// to the same in both forms, if it has both. Nothing panics.
func FuzzConditions(f *testing.F) {
	for _, seed := range []string{
		`team.tags.region == "eu" && provider.tags.region != "eu"`, `purpose in ["a"]`, `1/0 == 1`, `!stream`, `user.startsWith("a")`,
		`team.tags[user] < "x"`, `"region" in team.tags`, `bodyBytes > 10 || tools ? stream : false`, `{"a": stream}.a`, `[stream][0]`,
	} {
		f.Add(seed)
	}
	c, err := newCompiler()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, when string) {
		checked, faults := c.check(when)
		for _, x := range faults {
			if x.line < 1 || x.column < 1 || x.text == "" {
				t.Errorf("check(%q) = %+v, want a place and a text", when, x)
			}
		}
		if faults != nil {
			return
		}
		program, err := c.program(checked)
		if err != nil {
			return
		}
		full, empty := aSubject(), subject{r: &Request{Key: &KeyEntry{Team: &Team{}}}, target: &Target{}}
		for _, s := range []*subject{&full, &empty} {
			want, err := (&rule{slow: program}).matches(s)
			e := lower(checked.NativeRep().Expr())
			if e == nil {
				continue
			}
			if got := e.eval(s); err != nil || got != want {
				t.Errorf("%q = %t lowered, %t, %v in CEL", when, got, want, err)
			}
		}
	})
}

func TestGlob(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		want          bool
	}{
		{"a", "a", true},
		{"a", "ab", false},
		{"*", "", true},
		{"*", "a/b", true},
		{"a*", "a", true},
		{"a*", "ba", false},
		{"*a", "ba", true},
		{"*a", "ab", false},
		{"a*a", "a", false},
		{"a*a", "aa", true},
		{"a*b*c", "a-b-c", true},
		{"a*b*c", "a-c-b", false},
		{"*b*", "abc", true},
		{"*ab*ab", "ab", false},
		{"**", "x", true},
		{"a**b", "ab", true},
		{"a?", "ab", false},
	} {
		if got := glob(tt.pattern, tt.name); got != tt.want {
			t.Errorf("glob(%q, %q) = %t, want %t", tt.pattern, tt.name, got, tt.want)
		}
	}
}

func TestProblemIsOneLine(t *testing.T) {
	p := &Problem{Section: "rules", Name: "a", Field: "when", Line: 2, Column: 3, Where: "x.yaml:1:2", Text: "no"}
	if d := cmp.Diff("x.yaml:1:2: rules[a].when:2:3: no", p.Error()); d != "" {
		t.Errorf("Error() (-want +got):\n%s", d)
	}
}
