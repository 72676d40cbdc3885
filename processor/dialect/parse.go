package dialect

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// maxDepth bounds open containers in a request.
const maxDepth = 128

// kind is a JSON value's kind; broken means that reading it failed.
type kind uint8

const (
	broken kind = iota
	null
	boolean
	number
	text
	object
	array
)

type parser struct {
	data []byte
	pos  int
	r    *Request
	err  *Malformed

	isTrue bool // the last boolean
	length int  // the last array: its elements
	first  kind // … and the kind of the first
	obj    facts

	server    bool // a server tool is offered
	uncapped  bool // one of them has no cap of its own
	calls     int64
	maxCalls  int64
	hasCalls  bool
	unbounded bool // steps that no cap bounds
	caps      int

	buf [6 * 64]byte // unescaped names
}

// ParseRequest reads a request body in one strict pass: valid UTF-8, one JSON
// object (RFC 8259) and nothing but white space behind it, at most 128
// containers deep, governed keys and numbers as the tables of each dialect
// say. A lone surrogate escape is legal in the grammar and passes, except in
// the model's name. r is overwritten. The error is a *Malformed; r is then of
// no use. Nothing is allocated but names.
func ParseRequest(e Endpoint, body []byte, r *Request) error {
	*r = Request{Dialect: e.Dialect, Operation: e.Operation, Choices: 1, Prompts: 1, BodyBytes: len(body)}
	p := parser{data: body, r: r}
	var top shapeID
	switch e.Operation {
	case ChatCompletions:
		top = chatTop
	case Responses:
		top, r.Store = responsesTop, true
	case Completions:
		top, r.DefaultOutput = completionsTop, 16
	case Embeddings:
		top = embeddingsTop
	case Messages:
		top = messagesTop
	case CountTokens:
		top = countTop
	default:
		return &Malformed{Reason: "this endpoint takes no body", Offset: -1}
	}
	if !p.document(top) {
		return p.err
	}
	p.conclude()
	return nil
}

func (p *parser) fail(offset int, reason string) bool {
	p.err = &Malformed{Reason: reason, Offset: offset}
	return false
}

func (p *parser) document(top shapeID) bool {
	if !utf8.Valid(p.data) {
		return p.fail(invalidUTF8(p.data), "the body is not valid UTF-8")
	}
	if bytes.HasPrefix(p.data, []byte("\uFEFF")) {
		return p.fail(0, "the body begins with a byte order mark; send plain UTF-8")
	}
	p.space()
	if p.pos == len(p.data) {
		return p.fail(p.pos, "the body is empty; it must be a JSON object")
	}
	if p.data[p.pos] != '{' {
		return p.fail(p.pos, "the body must be a JSON object")
	}
	p.r.ObjectStart = p.pos + 1
	if !p.object(top, 1) {
		return false
	}
	p.space()
	if p.pos != len(p.data) {
		return p.fail(p.pos, "the body has something behind its JSON object")
	}
	if p.r.ModelSpan.To == 0 {
		return p.fail(-1, "model is missing")
	}
	return true
}

func invalidUTF8(b []byte) int {
	for i := 0; i < len(b); {
		c, n := utf8.DecodeRune(b[i:])
		if c == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

func (p *parser) space() {
	for p.pos < len(p.data) {
		switch p.data[p.pos] {
		case ' ', '\t', '\n', '\r':
			p.pos++
		default:
			return
		}
	}
}

// value reads the value at pos and leaves pos behind it.
func (p *parser) value(s shapeID, depth int) kind {
	if p.pos >= len(p.data) {
		p.fail(p.pos, "the body ends inside its JSON object")
		return broken
	}
	switch c := p.data[p.pos]; {
	case c == '"':
		if _, ok := p.str(); ok {
			return text
		}
	case c == '{':
		if p.object(s, depth) {
			return object
		}
	case c == '[':
		if p.array(s, depth) {
			return array
		}
	case c == '-' || c >= '0' && c <= '9':
		if p.number() {
			return number
		}
	case c == 't':
		p.isTrue = true
		if p.literal("true") {
			return boolean
		}
	case c == 'f':
		p.isTrue = false
		if p.literal("false") {
			return boolean
		}
	case c == 'n':
		if p.literal("null") {
			return null
		}
	default:
		p.fail(p.pos, "not valid JSON: a value was expected")
	}
	return broken
}

func (p *parser) literal(want string) bool {
	if len(p.data)-p.pos < len(want) || string(p.data[p.pos:p.pos+len(want)]) != want {
		return p.fail(p.pos, "not valid JSON: a value was expected")
	}
	p.pos += len(want)
	return true
}

func (p *parser) object(s shapeID, depth int) bool {
	if depth > maxDepth {
		return p.fail(p.pos, "JSON is nested too deeply; at most 128 levels are read")
	}
	outer := p.obj
	if s != noShape {
		p.obj = facts{}
	}
	var seen uint64
	p.pos++
	p.space()
	if p.pos < len(p.data) && p.data[p.pos] == '}' {
		p.pos++
		if depth == 1 {
			p.r.Empty = true
		}
	} else if !p.members(s, depth, &seen) {
		return false
	}
	if s != noShape {
		p.closeObject(shapes[s].close)
		p.obj = outer
	}
	return true
}

func (p *parser) members(s shapeID, depth int, seen *uint64) bool {
	for {
		if p.pos >= len(p.data) || p.data[p.pos] != '"' {
			return p.fail(p.pos, "not valid JSON: a key in quotes was expected")
		}
		start := p.pos
		escaped, ok := p.str()
		if !ok {
			return false
		}
		var f *field
		if s != noShape {
			if f, ok = p.governed(s, start, escaped, seen); !ok {
				return false
			}
		}
		p.space()
		if p.pos >= len(p.data) || p.data[p.pos] != ':' {
			return p.fail(p.pos, "not valid JSON: a colon was expected")
		}
		p.pos++
		p.space()
		v := Span{From: p.pos}
		var in shapeID
		if f != nil {
			in = f.in
		}
		k := p.value(in, depth+1)
		if k == broken {
			return false
		}
		if f != nil {
			v.To = p.pos
			if !p.apply(f, k, v) {
				return false
			}
		}
		p.space()
		if p.pos >= len(p.data) {
			return p.fail(p.pos, "the body ends inside its JSON object")
		}
		switch p.data[p.pos] {
		case ',':
			p.pos++
			p.space()
		case '}':
			p.pos++
			return true
		default:
			return p.fail(p.pos, "not valid JSON: a comma or } was expected")
		}
	}
}

func (p *parser) array(s shapeID, depth int) bool {
	if depth > maxDepth {
		return p.fail(p.pos, "JSON is nested too deeply; at most 128 levels are read")
	}
	p.pos++
	p.space()
	if p.pos < len(p.data) && p.data[p.pos] == ']' {
		p.pos++
		p.length, p.first = 0, broken
		return true
	}
	n, first := 0, broken
	for {
		k := p.value(s, depth+1)
		if k == broken {
			return false
		}
		if n == 0 {
			first = k
		}
		n++
		p.space()
		if p.pos >= len(p.data) {
			return p.fail(p.pos, "the body ends inside its JSON object")
		}
		switch p.data[p.pos] {
		case ',':
			p.pos++
			p.space()
		case ']':
			p.pos++
			p.length, p.first = n, first
			return true
		default:
			return p.fail(p.pos, "not valid JSON: a comma or ] was expected")
		}
	}
}

// number checks the grammar of RFC 8259 section 6.
func (p *parser) number() bool {
	start, d := p.pos, p.data
	i := start
	if d[i] == '-' {
		i++
	}
	digits := func() bool {
		from := i
		for i < len(d) && d[i] >= '0' && d[i] <= '9' {
			i++
		}
		return i > from
	}
	if i < len(d) && d[i] == '0' {
		i++
	} else if !digits() {
		return p.fail(start, "not valid JSON: a malformed number")
	}
	if i < len(d) && d[i] == '.' {
		i++
		if !digits() {
			return p.fail(start, "not valid JSON: a malformed number")
		}
	}
	if i < len(d) && (d[i] == 'e' || d[i] == 'E') {
		i++
		if i < len(d) && (d[i] == '+' || d[i] == '-') {
			i++
		}
		if !digits() {
			return p.fail(start, "not valid JSON: a malformed number")
		}
	}
	p.pos = i
	return true
}

// str checks the string at pos.
func (p *parser) str() (escaped, ok bool) {
	d := p.data
	for i := p.pos + 1; ; {
		i += special(d[i:])
		if i >= len(d) {
			return false, p.fail(p.pos, "the body ends inside a string")
		}
		switch c := d[i]; {
		case c == '"':
			p.pos = i + 1
			return escaped, true
		case c != '\\':
			return false, p.fail(i, "not valid JSON: a control character in a string must be escaped")
		case i+1 == len(d):
			return false, p.fail(p.pos, "the body ends inside a string")
		}
		escaped = true
		switch d[i+1] {
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			i += 2
		case 'u':
			if _, ok := hex4(d[i+2:]); !ok {
				return false, p.fail(i, "not valid JSON: a malformed escape in a string")
			}
			i += 6
		default:
			return false, p.fail(i, "not valid JSON: a malformed escape in a string")
		}
	}
}

// special is the index of the first byte of b that ends a plain run inside a
// JSON string (a quote, a backslash, a control character), or len(b). It looks
// at eight bytes at once: a byte x is zero iff (x-1)&^x has its top bit set,
// up to borrows that only a smaller index can cause.
func special(b []byte) int {
	const lows, tops = 0x0101010101010101, 0x8080808080808080
	i := 0
	for ; i+8 <= len(b); i += 8 {
		x := binary.LittleEndian.Uint64(b[i:])
		quote, slash := x^('"'*lows), x^('\\'*lows)
		if hit := ((quote-lows)&^quote | (slash-lows)&^slash | (x-' '*lows)&^x) & tops; hit != 0 {
			return i + bits.TrailingZeros64(hit)/8
		}
	}
	for ; i < len(b); i++ {
		if c := b[i]; c == '"' || c == '\\' || c < ' ' {
			return i
		}
	}
	return i
}

func hex4(b []byte) (r rune, ok bool) {
	if len(b) < 4 {
		return 0, false
	}
	for _, c := range b[:4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// unescape appends the text of a checked JSON string body to dst. paired is
// false if a surrogate stood alone; it becomes U+FFFD.
func unescape(dst, raw []byte) (out []byte, paired bool) {
	paired = true
	for i := 0; i < len(raw); {
		c := raw[i]
		if c != '\\' || i+1 >= len(raw) {
			dst = append(dst, c)
			i++
			continue
		}
		switch c = raw[i+1]; c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case 'u':
			u, ok := hex4(raw[i+2:])
			if !ok {
				return dst, false // cut off
			}
			i += 6
			if u >= 0xD800 && u < 0xE000 {
				low := rune(0)
				if u < 0xDC00 && i+1 < len(raw) && raw[i] == '\\' && raw[i+1] == 'u' {
					low, _ = hex4(raw[i+2:])
				}
				if low >= 0xDC00 && low < 0xE000 {
					u = (u-0xD800)<<10 + low - 0xDC00 + 0x10000
					i += 6
				} else {
					u, paired = utf8.RuneError, false
				}
			}
			dst = utf8.AppendRune(dst, u)
			continue
		}
		dst = append(dst, c)
		i += 2
	}
	return dst, paired
}
