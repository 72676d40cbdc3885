package dialect

import "bytes"

// token says what the bytes that framer.next took are.
type token uint8

const (
	tokOther token = iota // field names, comments, other fields, a byte order mark
	tokData               // of a data field's value
	tokName               // of an event field's value
	tokLine               // the end of a line that is a field
	tokEnd                // a blank line: the event is over
	tokFeed               // the LF of a CRLF whose CR has ended a line
)

// framer splits a server-sent event stream (WHATWG HTML 9.2.6) that is cut
// anywhere: lines end in LF, CRLF or CR, one space behind the colon is no part
// of a value, a byte order mark may begin the stream.
type framer struct {
	st    lineState
	field token // tokData, tokName or tokOther
	cr    bool  // the last byte was a CR
	bom   uint8 // bytes seen of the mark; 3 = seen or past
	n     uint8
	name  [6]byte
}

type lineState uint8

const (
	lineStart lineState = iota
	inName
	afterColon
	inValue
)

// atStart reports whether c would begin a line, not end one.
func (f *framer) atStart(c byte) bool {
	return f.st == lineStart && c != '\n' && c != '\r' && (f.bom == 3 || c != "\uFEFF"[f.bom])
}

// next takes the first bytes of b, which is not empty.
func (f *framer) next(b []byte) (t token, n int) {
	c := b[0]
	if f.cr {
		f.cr = false
		if c == '\n' {
			return tokFeed, 1
		}
	}
	if f.bom < 3 {
		if c == "\uFEFF"[f.bom] {
			f.bom++
			return tokOther, 1
		}
		f.bom = 3
	}
	switch f.st {
	case lineStart:
		switch {
		case c == '\n' || c == '\r':
			f.cr = c == '\r'
			return tokEnd, 1
		case c == ':':
			f.st, f.field = inValue, tokOther
			return tokOther, 1
		case bytes.HasPrefix(b, []byte("data: ")):
			f.st, f.field = inValue, tokData
			return tokOther, len("data: ")
		}
		f.st, f.n = inName, 0
		fallthrough
	case inName:
		switch {
		case c == '\n' || c == '\r':
			return f.lineEnd(c)
		case c == ':':
			f.st, f.field = afterColon, tokOther
			switch string(f.name[:f.n]) {
			case "data":
				f.field = tokData
			case "event":
				f.field = tokName
			}
		case int(f.n) < len(f.name):
			f.name[f.n] = c
			f.n++
		}
		return tokOther, 1
	case afterColon:
		f.st = inValue
		if c == ' ' {
			return tokOther, 1
		}
	case inValue:
	}
	if c == '\n' || c == '\r' {
		return f.lineEnd(c)
	}
	if n = bytes.IndexByte(b, '\n'); n < 0 {
		n = len(b)
	}
	if i := bytes.IndexByte(b[:n], '\r'); i >= 0 {
		n = i
	}
	return f.field, n
}

func (f *framer) lineEnd(c byte) (t token, n int) {
	f.st, f.cr = lineStart, c == '\r'
	return tokLine, 1
}
