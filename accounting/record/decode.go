package record

import (
	"bytes"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"airgate/accounting/money"
	"airgate/accounting/usage"
)

// SyntaxError says where bytes stop being the canonical JSON of a record.
type SyntaxError struct {
	Offset int
	Text   string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("record: byte %d: %s", e.Offset, e.Text)
}

// ParseJSON reads what AppendJSON wrote and nothing else: exactly one record,
// known fields in their order, every value in its shortest form. So equal
// records are equal bytes, and a hash of the bytes is a hash of the record. All
// errors are *SyntaxError. The record keeps nothing of b.
func ParseJSON(b []byte) (Record, error) {
	var r Record
	c := cursor{b: b}
	next := 0
	c.object(func(name []byte) {
		for ; next < len(fields); next++ {
			if fields[next].Name == string(name) {
				fields[next].parse(&c, &r)
				next++
				return
			}
		}
		c.fail("field %q is repeated, out of order, or of a newer airgate", name)
	})
	c.end()
	if c.err != nil {
		return Record{}, c.err
	}
	// Spelling and zero values in one comparison.
	again := AppendJSON(make([]byte, 0, len(b)+1), &r)
	if !bytes.Equal(again, b) {
		at := 0
		for at < len(b) && at < len(again) && b[at] == again[at] {
			at++
		}
		return Record{}, &SyntaxError{Offset: at, Text: "not the canonical encoding"}
	}
	return r, nil
}

// parse reads the field's value at the cursor.
func (f *Field) parse(c *cursor, r *Record) {
	switch p := f.at(r).(type) {
	case *bool:
		*p = c.word("true")
	case *money.NanoUSD:
		*p = c.money()
	case *costOf:
		p.Cost, p.HasCost = c.money(), true
	case *tokensOf:
		p.HasTokens = true
		c.object(func(name []byte) { c.bucket(&p.Tokens, name) })
	case *uint64:
		*p = c.unsigned()
	case *map[string]string:
		tags := map[string]string{}
		c.object(func(name []byte) { tags[string(name)] = c.text() })
		*p = tags
	case *[]string:
		*p = parseArray(c, (*cursor).text)
	case *[]Limit:
		*p = parseArray(c, (*cursor).limit)
	case *[]Attempt:
		*p = parseArray(c, (*cursor).attempt)
	case *[]Head:
		*p = parseArray(c, (*cursor).head)
	default:
		at := c.at
		if f.Kind == Integer {
			if n := c.integer(); c.err == nil && !f.setInt(r, n) {
				c.failAt(at, "out of range")
			}
		} else if s := c.text(); c.err == nil {
			if err := f.setText(r, s); err != nil {
				c.failAt(at, "%v", err)
			}
		}
	}
}

// cursor reads JSON without white space. After the first error it stands
// still and returns zero values.
type cursor struct {
	b   []byte
	at  int
	err error
}

func (c *cursor) failAt(at int, format string, args ...any) {
	if c.err == nil {
		c.err = &SyntaxError{Offset: at, Text: fmt.Sprintf(format, args...)}
	}
}

func (c *cursor) fail(format string, args ...any) { c.failAt(c.at, format, args...) }

func (c *cursor) end() {
	if c.at < len(c.b) {
		c.fail("bytes behind the end")
	}
}

// accept skips the byte if it is next.
func (c *cursor) accept(b byte) bool {
	if c.err != nil || c.at >= len(c.b) || c.b[c.at] != b {
		return false
	}
	c.at++
	return true
}

func (c *cursor) expect(b byte) {
	if !c.accept(b) {
		c.fail("%q expected", b)
	}
}

func (c *cursor) word(w string) bool {
	if c.err == nil && bytes.HasPrefix(c.b[c.at:], []byte(w)) {
		c.at += len(w)
		return true
	}
	c.fail("%s expected", w)
	return false
}

// object calls member with each name, the cursor at its value.
func (c *cursor) object(member func(name []byte)) {
	c.expect('{')
	if c.accept('}') {
		return
	}
	for c.err == nil {
		name := c.raw()
		c.expect(':')
		if c.err == nil {
			member(name)
		}
		if c.accept('}') {
			return
		}
		c.expect(',')
	}
}

func parseArray[T any](c *cursor, item func(*cursor) T) []T {
	var all []T
	c.expect('[')
	for c.err == nil {
		all = append(all, item(c))
		if c.accept(']') {
			return all
		}
		c.expect(',')
	}
	return nil
}

// number is the bytes of a number without fraction or exponent.
func (c *cursor) number() []byte {
	if c.err != nil {
		return nil
	}
	start := c.at
	c.accept('-')
	for c.at < len(c.b) && c.b[c.at] >= '0' && c.b[c.at] <= '9' {
		c.at++
	}
	return c.b[start:c.at]
}

func (c *cursor) integer() int64 {
	at := c.at
	n, err := strconv.ParseInt(string(c.number()), 10, 64)
	if err != nil {
		c.failAt(at, "not an integer of 64 bits")
	}
	return n
}

func (c *cursor) unsigned() uint64 {
	at := c.at
	n, err := strconv.ParseUint(string(c.number()), 10, 64)
	if err != nil {
		c.failAt(at, "not an unsigned integer of 64 bits")
	}
	return n
}

func (c *cursor) money() money.NanoUSD {
	at := c.at
	s := c.text()
	if c.err != nil {
		return 0
	}
	n, err := money.ParseUSD(s)
	if err != nil {
		c.failAt(at, "%v", err)
	}
	return n
}

// text reads a string.
func (c *cursor) text() string { return string(c.raw()) }

// raw reads a string; the result may be a view of the input.
func (c *cursor) raw() []byte {
	c.expect('"')
	if c.err != nil {
		return nil
	}
	start := c.at
	for c.at < len(c.b) {
		switch c.b[c.at] {
		case '"':
			c.at++
			return c.b[start : c.at-1]
		case '\\':
			return c.escaped(start)
		}
		c.at++
	}
	c.failAt(start, "a string without end")
	return nil
}

// escaped reads the rest of a string that began at start, from its first
// escape on.
func (c *cursor) escaped(start int) []byte {
	s := bytes.Clone(c.b[start:c.at])
	for c.at < len(c.b) {
		b := c.b[c.at]
		c.at++
		switch {
		case b == '"':
			return s
		case b != '\\':
			s = append(s, b)
			continue
		case c.at >= len(c.b):
			continue
		}
		b = c.b[c.at]
		c.at++
		switch b {
		case '"', '\\':
			s = append(s, b)
		case 'n':
			s = append(s, '\n')
		case 'r':
			s = append(s, '\r')
		case 't':
			s = append(s, '\t')
		case 'u':
			if c.at+4 > len(c.b) {
				continue
			}
			n, err := strconv.ParseUint(string(c.b[c.at:c.at+4]), 16, 16)
			if err != nil {
				c.fail("not four hexadecimal digits")
				return nil
			}
			s = utf8.AppendRune(s, rune(n))
			c.at += 4
		default:
			c.failAt(c.at-1, "unknown escape")
			return nil
		}
	}
	c.failAt(start, "a string without end")
	return nil
}

func (c *cursor) time() time.Time {
	at := c.at
	s := c.text()
	if c.err != nil {
		return time.Time{}
	}
	t, err := parseTime(s)
	if err != nil {
		c.failAt(at, "%v", err)
	}
	return t
}

func parseTime(s string) (time.Time, error) {
	t, err := time.Parse(TimeLayout, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q is not a time like %s", s, TimeLayout)
	}
	return t, nil
}

func (c *cursor) bucket(t *usage.Tokens, name []byte) {
	for bucket, n := range Buckets(t) {
		if bucket == string(name) {
			*n = money.Tokens(c.integer())
			return
		}
	}
	c.fail("unknown kind of token %q", name)
}

func (c *cursor) limit() (l Limit) {
	amount := func() int64 {
		if l.Resource == "usd" {
			return int64(c.money())
		}
		return c.integer()
	}
	c.object(func(name []byte) {
		switch string(name) {
		case "name":
			l.Name = c.text()
		case "account":
			l.Account = c.text()
		case "resource":
			l.Resource = c.text()
		case "limit":
			l.Limit = amount()
		case "used":
			l.Used = amount()
		case "reserved":
			l.Reserved = amount()
		case "needed":
			l.Needed = amount()
		case "worst":
			l.Worst = amount()
		case "reset":
			l.Reset = c.time()
		case "mode":
			l.Mode = c.text()
		default:
			c.fail("unknown field %q of a limit", name)
		}
	})
	return l
}

func (c *cursor) attempt() (a Attempt) {
	c.object(func(name []byte) {
		switch string(name) {
		case "provider":
			a.Provider = c.text()
		case "status":
			a.Status = int(c.integer())
		case "flags":
			a.Flags = c.text()
		default:
			c.fail("unknown field %q of an attempt", name)
		}
	})
	return a
}

func (c *cursor) head() (h Head) {
	c.object(func(name []byte) {
		switch string(name) {
		case "writer":
			h.Writer = c.text()
		case "seq":
			h.Seq = c.unsigned()
		case "hash":
			at := c.at
			var err error
			if h.Hash, err = ParseHash(c.text()); err != nil {
				c.failAt(at, "%v", err)
			}
		default:
			c.fail("unknown field %q of a head", name)
		}
	})
	return h
}
