package record

import (
	"encoding/hex"
	"iter"
	"math"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"airgate/accounting/money"
	"airgate/accounting/usage"
)

// TimeLayout is RFC 3339 in UTC with milliseconds, always 24 characters: text
// that sorts by time.
const TimeLayout = "2006-01-02T15:04:05.000Z"

// AppendJSON appends the canonical JSON of r to dst: one line, the fields in
// the order of the book, absent ones omitted. It does not allocate where dst
// has room (4 KiB is ample).
func AppendJSON(dst []byte, r *Record) []byte {
	dst = append(dst, '{')
	first := true
	for i := range fields {
		mark := len(dst)
		if !first {
			dst = append(dst, ',')
		}
		dst = append(dst, '"')
		dst = append(dst, fields[i].Name...)
		dst = append(dst, '"', ':')
		var ok bool
		if dst, ok = fields[i].appendJSON(dst, r); !ok {
			dst = dst[:mark]
			continue
		}
		first = false
	}
	return append(dst, '}')
}

// AppendObject appends r as the API shows it: like AppendJSON, but with every
// field, null where absent, false for the flag.
func AppendObject(dst []byte, r *Record) []byte {
	dst = append(dst, '{')
	for i := range fields {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, '"')
		dst = append(dst, fields[i].Name...)
		dst = append(dst, '"', ':')
		mark := len(dst)
		var ok bool
		if dst, ok = fields[i].appendJSON(dst, r); ok {
			continue
		}
		if fields[i].Kind == Flag {
			dst = append(dst[:mark], "false"...)
		} else {
			dst = append(dst[:mark], "null"...)
		}
	}
	return append(dst, '}')
}

// appendJSON appends the field's value, or reports that it is absent.
func (f *Field) appendJSON(dst []byte, r *Record) ([]byte, bool) {
	switch p := f.at(r).(type) {
	case *string:
		return appendString(dst, *p), *p != ""
	case *bool:
		return append(dst, "true"...), *p
	case *uint64:
		return strconv.AppendUint(dst, *p, 10), *p != 0
	case *int:
		return strconv.AppendInt(dst, int64(*p), 10), *p != 0
	case *int64:
		return strconv.AppendInt(dst, *p, 10), *p != 0
	case *money.Tokens:
		return strconv.AppendInt(dst, int64(*p), 10), *p != 0
	case *time.Duration:
		ms := milliseconds(*p)
		return strconv.AppendInt(dst, ms, 10), ms != 0
	case *money.NanoUSD:
		return appendMoney(dst, *p), *p != 0
	case *costOf:
		return appendMoney(dst, p.Cost), p.HasCost
	case *tokensOf:
		return AppendTokens(dst, &p.Tokens), p.HasTokens
	case *time.Time:
		return appendTime(dst, *p)
	case *Type:
		return appendString(dst, p.String()), *p >= Intent && *p <= Extend
	case *usage.Source:
		return appendString(dst, p.String()), *p > usage.Unset && *p <= usage.None
	case *Hash:
		return appendHash(dst, *p), *p != Hash{}
	case *map[string]string:
		return appendTags(dst, *p), len(*p) > 0
	case *[]string:
		return appendArray(dst, *p, func(b []byte, s *string) []byte { return appendString(b, *s) }), len(*p) > 0
	case *[]Limit:
		return appendArray(dst, *p, appendLimit), len(*p) > 0
	case *[]Attempt:
		return appendArray(dst, *p, appendAttempt), len(*p) > 0
	case *[]Head:
		return appendArray(dst, *p, appendHead), len(*p) > 0
	}
	panic("record: field " + f.Name + " has no encoding")
}

func appendArray[T any](dst []byte, items []T, item func([]byte, *T) []byte) []byte {
	dst = append(dst, '[')
	for i := range items {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = item(dst, &items[i])
	}
	return append(dst, ']')
}

// appendTags sorts by name: a map has no order and the encoding is one.
func appendTags(dst []byte, tags map[string]string) []byte {
	var few [16]string
	names := few[:0]
	for name := range tags {
		names = append(names, name)
	}
	slices.Sort(names)
	dst = append(dst, '{')
	for i, name := range names {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(dst, name)
		dst = append(dst, ':')
		dst = appendString(dst, tags[name])
	}
	return append(dst, '}')
}

// appendLimit writes the first four amounts, zero too: a limit of 0 is a limit.
func appendLimit(dst []byte, l *Limit) []byte {
	amount := func(dst []byte, key string, n int64) []byte {
		dst = append(dst, key...)
		if l.Resource == "usd" {
			return appendMoney(dst, money.NanoUSD(n))
		}
		return strconv.AppendInt(dst, n, 10)
	}
	dst = appendString(append(dst, `{"name":`...), l.Name)
	dst = appendString(append(dst, `,"account":`...), l.Account)
	dst = appendString(append(dst, `,"resource":`...), l.Resource)
	dst = amount(dst, `,"limit":`, l.Limit)
	dst = amount(dst, `,"used":`, l.Used)
	dst = amount(dst, `,"reserved":`, l.Reserved)
	dst = amount(dst, `,"needed":`, l.Needed)
	if l.Worst != 0 {
		dst = amount(dst, `,"worst":`, l.Worst)
	}
	mark := len(dst)
	dst, ok := appendTime(append(dst, `,"reset":`...), l.Reset)
	if !ok {
		dst = dst[:mark]
	}
	if l.Mode != "" {
		dst = appendString(append(dst, `,"mode":`...), l.Mode)
	}
	return append(dst, '}')
}

func appendAttempt(dst []byte, a *Attempt) []byte {
	dst = appendString(append(dst, `{"provider":`...), a.Provider)
	dst = strconv.AppendInt(append(dst, `,"status":`...), int64(a.Status), 10)
	if a.Flags != "" {
		dst = appendString(append(dst, `,"flags":`...), a.Flags)
	}
	return append(dst, '}')
}

func appendHead(dst []byte, h *Head) []byte {
	dst = appendString(append(dst, `{"writer":`...), h.Writer)
	dst = strconv.AppendUint(append(dst, `,"seq":`...), h.Seq, 10)
	if h.Hash != (Hash{}) {
		dst = appendHash(append(dst, `,"hash":`...), h.Hash)
	}
	return append(dst, '}')
}

// tokenNames are the keys of the tokens object; each names one bucket.
//
//nolint:gochecknoglobals // an immutable table
var tokenNames = [...]struct {
	name string
	at   func(*usage.Tokens) *money.Tokens
}{
	{"input", func(t *usage.Tokens) *money.Tokens { return &t.Input }},
	{"cache_read", func(t *usage.Tokens) *money.Tokens { return &t.CacheRead }},
	{"cache_write_5m", func(t *usage.Tokens) *money.Tokens { return &t.CacheWrite5m }},
	{"cache_write_1h", func(t *usage.Tokens) *money.Tokens { return &t.CacheWrite1h }},
	{"input_audio", func(t *usage.Tokens) *money.Tokens { return &t.InputAudio }},
	{"input_image", func(t *usage.Tokens) *money.Tokens { return &t.InputImage }},
	{"output", func(t *usage.Tokens) *money.Tokens { return &t.Output }},
	{"reasoning", func(t *usage.Tokens) *money.Tokens { return &t.Reasoning }},
	{"output_audio", func(t *usage.Tokens) *money.Tokens { return &t.OutputAudio }},
	{"output_image", func(t *usage.Tokens) *money.Tokens { return &t.OutputImage }},
}

// Buckets yields the buckets of t by their names in the book.
func Buckets(t *usage.Tokens) iter.Seq2[string, *money.Tokens] {
	return func(yield func(string, *money.Tokens) bool) {
		for i := range tokenNames {
			if !yield(tokenNames[i].name, tokenNames[i].at(t)) {
				return
			}
		}
	}
}

// AppendTokens appends the tokens object; empty buckets are omitted.
func AppendTokens(dst []byte, t *usage.Tokens) []byte {
	dst = append(dst, '{')
	first := true
	for i := range tokenNames {
		n := *tokenNames[i].at(t)
		if n == 0 {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(dst, '"')
		dst = append(dst, tokenNames[i].name...)
		dst = append(dst, '"', ':')
		dst = strconv.AppendInt(dst, int64(n), 10)
	}
	return append(dst, '}')
}

// bounded spares the least int64, which money cannot write.
func bounded(a money.NanoUSD) money.NanoUSD { return max(a, -math.MaxInt64) }

func appendMoney(dst []byte, a money.NanoUSD) []byte {
	dst = append(dst, '"')
	dst, _ = bounded(a).AppendText(dst) // never fails
	return append(dst, '"')
}

func appendHash(dst []byte, h Hash) []byte {
	dst = append(dst, '"')
	dst = hex.AppendEncode(dst, h[:])
	return append(dst, '"')
}

// appendTime reports false for the zero time and for years that RFC 3339
// cannot write.
func appendTime(dst []byte, t time.Time) ([]byte, bool) {
	t = t.UTC().Truncate(time.Millisecond)
	if t.IsZero() || t.Year() < 1 || t.Year() > 9999 {
		return dst, false
	}
	dst = append(dst, '"')
	dst = t.AppendFormat(dst, TimeLayout)
	return append(dst, '"'), true
}

// maxMilliseconds is the longest time.Duration.
const maxMilliseconds = math.MaxInt64 / int64(time.Millisecond)

// milliseconds rounds up; what is not positive was not measured.
func milliseconds(d time.Duration) int64 {
	if d <= 0 {
		return 0
	}
	return min(int64((d-1)/time.Millisecond)+1, maxMilliseconds)
}

// appendString quotes s as JSON: only what must be escaped is.
func appendString(dst []byte, s string) []byte {
	const digits = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				dst = append(dst, s[start:i]...)
				dst = utf8.AppendRune(dst, utf8.RuneError)
				start = i + 1
			}
			i += size
			continue
		}
		if c >= ' ' && c != '"' && c != '\\' {
			i++
			continue
		}
		dst = append(dst, s[start:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		}
		i++
		start = i
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

// appendValid is s as a reader of the JSON gets it back.
func appendValid(dst []byte, s string) []byte {
	for _, r := range s {
		dst = utf8.AppendRune(dst, r)
	}
	return dst
}
