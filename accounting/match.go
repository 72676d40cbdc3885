package accounting

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// field is one property that a Match constrains.
type field struct {
	dim      Dimension // 0 for a tag
	tag      string    // its name
	patterns []pattern // any of them; sorted, without repeats
}

type pattern struct {
	text string
	glob bool
}

// matcher is a compiled Match: all fields must match.
type matcher []field

// compile brings m into canonical form: fields in a fixed order, patterns
// sorted, what matches anything left out.
func (m *Match) compile() matcher {
	var c matcher
	add := func(dim Dimension, tag string, texts []string) {
		f := field{dim: dim, tag: tag}
		for _, text := range texts {
			for strings.Contains(text, "**") {
				text = strings.ReplaceAll(text, "**", "*")
			}
			if text == "*" {
				return
			}
			f.patterns = append(f.patterns, pattern{text, strings.Contains(text, "*")})
		}
		if len(f.patterns) == 0 {
			return
		}
		slices.SortFunc(f.patterns, func(a, b pattern) int { return strings.Compare(a.text, b.text) })
		f.patterns = slices.Compact(f.patterns)
		c = append(c, f)
	}
	add(Team, "", m.Team)
	add(Key, "", m.Key)
	add(Purpose, "", m.Purpose)
	add(Provider, "", m.Provider)
	add(Model, "", m.Model)
	add(User, "", m.User)
	add(Session, "", m.Session)
	for _, name := range slices.Sorted(maps.Keys(m.Tags)) {
		add(0, name, m.Tags[name])
	}
	return c
}

func (c matcher) match(s *Subject) bool {
	for i := range c {
		if !c[i].match(s) {
			return false
		}
	}
	return true
}

func (f *field) match(s *Subject) bool {
	switch f.dim {
	case 0:
		return f.any(s.Tags[f.tag])
	case Team:
		return slices.ContainsFunc(s.Teams, f.any)
	case Key:
		return f.any(s.KeyID) || f.any(s.KeyName)
	default:
		return f.any(s.value(f.dim))
	}
}

func (f *field) any(v string) bool {
	for i := range f.patterns {
		p := &f.patterns[i]
		if p.text == v || p.glob && glob(p.text, v) {
			return true
		}
	}
	return false
}

func (f *field) literal() bool {
	return !slices.ContainsFunc(f.patterns, func(p pattern) bool { return p.glob })
}

// glob reports whether p matches the whole of s. A star stands for any bytes,
// none included; nothing else is special.
func glob(p, s string) bool {
	if last := len(p) - 1; last >= 0 && strings.IndexByte(p, '*') == last { // as nearly all are
		return strings.HasPrefix(s, p[:last])
	}
	var i, j int
	star, mark := -1, 0
	for j < len(s) {
		switch {
		case i < len(p) && p[i] == '*':
			star, mark = i, j
			i++
		case i < len(p) && p[i] == s[j]:
			i++
			j++
		case star >= 0: // let the last star take one byte more
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}

// value returns the property that a limit splits by. For Team it is the own
// team: its parents are only matched.
func (s *Subject) value(d Dimension) string {
	switch d {
	case Team:
		if len(s.Teams) > 0 {
			return s.Teams[0]
		}
	case Key:
		return s.KeyID
	case Purpose:
		return s.Purpose
	case Provider:
		return s.Provider
	case Model:
		return s.Model
	case User:
		return s.User
	case Session:
		return s.Session
	}
	return ""
}

// narrower orders matchers by how specific they are, the most specific first:
// more fields, then fewer globs, then key before team before neither.
func narrower(a, b matcher) int {
	globs := func(c matcher) (n int) {
		for i := range c {
			if !c[i].literal() {
				n++
			}
		}
		return n
	}
	rank := func(c matcher) int {
		for i, dim := range []Dimension{Key, Team} {
			if slices.ContainsFunc(c, func(f field) bool { return f.dim == dim }) {
				return i
			}
		}
		return 2
	}
	return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(globs(a), globs(b)), cmp.Compare(rank(a), rank(b)))
}

// index finds which of many matchers match a subject without trying them all:
// one that names keys or teams literally is filed under these names.
type index struct {
	matchers []matcher
	untried  []matcher // of each what being found does not say
	byKey    filing    // key ids and names
	byTeam   filing
	rest     []int32
}

func newIndex(matchers []matcher) index {
	x := index{matchers: matchers}
	for i, c := range matchers {
		x.untried = append(x.untried, x.file(int32(i), c))
	}
	return x
}

// file returns what of c is to be tried on a subject that it is found for.
func (x *index) file(i int32, c matcher) matcher {
	for _, by := range []struct {
		dim   Dimension
		names *filing
	}{{Key, &x.byKey}, {Team, &x.byTeam}} {
		for n, f := range c {
			if f.dim == by.dim && f.literal() {
				for _, p := range f.patterns {
					by.names.file(p.text, i)
				}
				return slices.Concat(c[:n], c[n+1:])
			}
		}
	}
	x.rest = append(x.rest, i)
	return c
}

// appendMatching appends the positions of all that match s, in order.
func (x *index) appendMatching(dst []int32, s *Subject) []int32 {
	dst = x.appendOf(dst, x.rest, s)
	dst = x.appendOf(dst, x.byKey.of(s.KeyID), s)
	dst = x.appendOf(dst, x.byKey.of(s.KeyName), s)
	for _, team := range s.Teams {
		dst = x.appendOf(dst, x.byTeam.of(team), s)
	}
	return dst
}

// filing is what matchers are filed under, and their positions. Few are found sooner by
// looking at each.
type filing struct {
	few  []named
	many map[string][]int32 // :: name → positions; nil as long as there are few
}

type named struct {
	name      string
	positions []int32
}

const fewNames = 8

func (f *filing) file(name string, position int32) {
	if f.many != nil {
		f.many[name] = append(f.many[name], position)
		return
	}
	at := slices.IndexFunc(f.few, func(o named) bool { return o.name == name })
	if at < 0 {
		at = len(f.few)
		f.few = append(f.few, named{name: name})
	}
	f.few[at].positions = append(f.few[at].positions, position)
	if len(f.few) <= fewNames {
		return
	}
	f.many = make(map[string][]int32)
	for _, o := range f.few {
		f.many[o.name] = o.positions
	}
}

// of returns the positions of what is filed under name.
func (f *filing) of(name string) []int32 {
	if f.many != nil {
		return f.many[name]
	}
	for i := range f.few {
		if f.few[i].name == name {
			return f.few[i].positions
		}
	}
	return nil
}

func (x *index) appendOf(dst, candidates []int32, s *Subject) []int32 {
	for _, i := range candidates {
		at := len(dst)
		for at > 0 && dst[at-1] > i {
			at--
		}
		if at > 0 && dst[at-1] == i || !x.untried[i].match(s) {
			continue
		}
		dst = append(dst, 0)
		copy(dst[at+1:], dst[at:])
		dst[at] = i
	}
	return dst
}
