package accounting

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// identity is what makes limits count on the same accounts: resource, match,
// each, and window kind with zone, or the period of a rate. Not the name, not
// the amount: renaming or editing a limit keeps what was used.
//
// As text it is a list of parts between "|", and an account adds values to
// each, an account-window its window:
//
//	usd|team=search|each=key|month@Asia/Tokyo
//	usd|team=search|each=key:k7Qm2xT9aB4c|month@Asia/Tokyo
//	usd|team=search|each=key:k7Qm2xT9aB4c|month@Asia/Tokyo|2026-11
//
// The text is stored in records and quota keys: it never changes for the same
// configuration. Bytes that separate parts are percent-encoded in values.
type identity struct {
	head string      // "usd|team=search"
	each []Dimension // sorted
	tail string      // "month@Asia/Tokyo", "/min" of a rate, "" of concurrency
}

const (
	eachPart   = "each="
	otherValue = "*other" // of each for all accounts beyond the greatest number; a star in a value is encoded
)

func (l *Limit) identity() identity {
	b := []byte(l.Resource.String())
	for _, f := range l.Match.compile() {
		b = append(b, '|')
		b = f.append(b)
	}
	id := identity{head: string(b), each: slices.Compact(slices.Sorted(slices.Values(l.Each)))}
	switch {
	case l.Window == Total:
		id.tail = Total.String() // the same in every zone
	case l.Window != NoWindow:
		id.tail = l.Window.String() + "@" + l.zone().String()
	case l.Resource != Concurrent:
		id.tail = "/" + period(l.Per)
	}
	return id
}

// append appends the text of a field: "team=search,ads", "tags.region=eu".
func (f *field) append(b []byte) []byte {
	if f.dim == 0 {
		b = append(b, "tags."...)
		b = appendEncoded(b, f.tag, false)
	} else {
		b = append(b, f.dim.String()...)
	}
	for i, p := range f.patterns {
		b = append(b, "=,"[min(i, 1)])
		b = appendEncoded(b, p.text, true)
	}
	return b
}

// String says whom m matches, as scopes of budgets do: "team=search, key=dev",
// "all".
func (m *Match) String() string {
	var b []byte
	for i, f := range m.compile() {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = f.append(b)
	}
	if len(b) == 0 {
		return "all"
	}
	return string(b)
}

func (l *Limit) zone() *time.Location {
	if l.Zone == nil {
		return time.UTC
	}
	return l.Zone
}

func period(d time.Duration) string {
	switch d {
	case time.Second:
		return "s"
	case time.Minute:
		return "min"
	case time.Hour:
		return "h"
	case 24 * time.Hour:
		return "day"
	default:
		return d.String()
	}
}

// String returns the text of the identity.
func (id *identity) String() string {
	names := make([]string, len(id.each))
	for i, d := range id.each {
		names[i] = d.String()
	}
	return id.join(strings.Join(names, ","))
}

// account returns the text of the account of s, or of the one for all others.
func (id *identity) account(s *Subject, other bool) string {
	var b []byte
	for i, d := range id.each {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(b, d.String()...), ':')
		if other {
			b = append(b, otherValue...)
		} else {
			b = appendEncoded(b, s.value(d), false)
		}
	}
	return id.join(string(b))
}

func (id *identity) join(each string) string {
	parts := []string{id.head}
	if len(id.each) > 0 {
		parts = append(parts, eachPart+each)
	}
	if id.tail != "" {
		parts = append(parts, id.tail)
	}
	return strings.Join(parts, "|")
}

// scope says for people whom an account is for: "team=search, key=k7Qm2xT9aB4c".
func (id *identity) scope(account string) string {
	var words []string
	for part := range strings.SplitSeq(account, "|") {
		each, isEach := strings.CutPrefix(part, eachPart)
		switch {
		case isEach:
			for v := range strings.SplitSeq(each, ",") {
				words = append(words, strings.Replace(v, ":", "=", 1))
			}
		case part != id.tail && strings.Contains(part, "="):
			words = append(words, part)
		}
	}
	if len(words) == 0 {
		return "all"
	}
	return strings.Join(words, ", ")
}

// appendEncoded appends v with every byte percent-encoded that separates parts
// or does not print.
func appendEncoded(b []byte, v string, star bool) []byte {
	const hex = "0123456789ABCDEF"
	for i := 0; i < len(v); {
		c := v[i]
		size := 1
		if c >= utf8.RuneSelf {
			if _, n := utf8.DecodeRuneInString(v[i:]); n > 1 {
				size = n
			}
		}
		switch {
		case size == 1 && (c <= ' ' || c >= 0x7f || strings.IndexByte("%|,=", c) >= 0 || c == '*' && !star):
			b = append(b, '%', hex[c>>4], hex[c&15])
		default:
			b = append(b, v[i:i+size]...)
		}
		i += size
	}
	return b
}

func decode(v string) (string, bool) {
	if !strings.Contains(v, "%") {
		return v, true
	}
	var b strings.Builder
	for i := 0; i < len(v); i++ {
		if v[i] != '%' {
			b.WriteByte(v[i])
			continue
		}
		if i+2 >= len(v) {
			return "", false
		}
		c, err := strconv.ParseUint(v[i+1:i+3], 16, 8)
		if err != nil {
			return "", false
		}
		b.WriteByte(byte(c))
		i += 2
	}
	return b.String(), true
}

// accountWindow is the text of an account-window taken apart.
type accountWindow struct {
	account  string // without the window
	identity string
	subject  Subject // what each says of it
	other    bool
	window   Window
}

// parseAccountWindow is the inverse of identity.account + "|" + Window.ID for
// accounts that have a window.
func parseAccountWindow(text string) (accountWindow, error) {
	w, err := parseTail(tailOf(text))
	if err != nil {
		return accountWindow{}, fmt.Errorf("account %q: %w", text, err)
	}
	a := accountWindow{account: strings.TrimSuffix(text, "|"+w.ID), window: w}
	parts := strings.Split(a.account, "|")
	for i, part := range parts {
		each, isEach := strings.CutPrefix(part, eachPart)
		if !isEach {
			continue
		}
		var names []string
		for v := range strings.SplitSeq(each, ",") {
			name, value, _ := strings.Cut(v, ":")
			names = append(names, name)
			if value == otherValue {
				a.other = true
				continue
			}
			d, known := parseDimension(name)
			value, decoded := decode(value)
			if !known || !decoded {
				return accountWindow{}, fmt.Errorf("account %q: %w", text, errAccountText)
			}
			a.subject.set(d, value)
		}
		parts[i] = eachPart + strings.Join(names, ",")
	}
	a.identity = strings.Join(parts, "|")
	return a, nil
}

var errAccountText = errors.New("not the text of an account-window")

// tailOf returns the last two parts of the text of an account-window: window
// kind with zone, and window.
func tailOf(text string) string {
	last := max(0, strings.LastIndexByte(text, '|'))
	return text[strings.LastIndexByte(text[:last], '|')+1:]
}

// parseTail reads "month@Asia/Tokyo|2026-11".
func parseTail(tail string) (Window, error) {
	frame, id, _ := strings.Cut(tail, "|")
	kindText, zoneText, zoned := strings.Cut(frame, "@")
	kind, ok := parseWindowKind(kindText)
	if !ok || zoned == (kind == Total) {
		return Window{}, errAccountText
	}
	zone, err := time.LoadLocation(zoneText)
	if err != nil {
		return Window{}, err
	}
	w, ok := kind.named(id, zone)
	if !ok {
		return Window{}, errAccountText
	}
	return w, nil
}

func (s *Subject) set(d Dimension, v string) {
	switch d {
	case Team:
		s.Teams = []string{v}
	case Key:
		s.KeyID = v
	case Purpose:
		s.Purpose = v
	case Provider:
		s.Provider = v
	case Model:
		s.Model = v
	case User:
		s.User = v
	case Session:
		s.Session = v
	}
}
