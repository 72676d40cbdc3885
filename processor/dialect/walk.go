package dialect

import (
	"math"
	"strconv"
)

// A node is a place in an answer's JSON: what is read there and where its
// members lead. Whatever no table names is skipped unread.
type (
	nodeID uint8
	node   struct {
		op   op
		slot slot // of opNumber
		text textSlot
		hook hook
		keys []edge
		elem nodeID // of an array here
	}
	edge struct {
		key string
		to  nodeID
	}
)

// op is what is done with a value.
type op uint8

const (
	opSkip     op = iota
	opNumber      // note a number
	opText        // note a short string, or a number as its digits
	opCount       // count a string's bytes
	opCountAll    // … or those of a whole subtree
)

// hook marks containers (and their absence) that mean something.
type hook uint8

const (
	hookNone hook = iota
	hookUsage
	hookIteration
	hookChoices
	hookChoice
	hookError
	hookItem
	hookTool
	hookReasoning
	hookAudio
)

type walkState uint8

const (
	atRoot walkState = iota
	atValue
	atFirst // behind [
	atOpen  // behind {
	atKey   // behind a comma in an object
	atColon
	atNext // behind a value
	inString
	inScalar
	inSkip
	inSentinel
	atEnd  // the document is complete
	atLoss // not JSON as far as can be read
)

// maxTracked bounds open containers that a table names; no table is deeper.
const maxTracked = 12

type frame struct {
	node  nodeID
	array bool
}

// walker reads one JSON document in pieces cut anywhere. It keeps a place in
// the table and the string or number it is in, never more than len(buf) bytes
// of it. It does not validate: what providers send is theirs to get right.
type walker struct {
	st      walkState
	isKey   bool
	escaped bool // behind a backslash
	slashes bool // the kept string has escapes
	over    bool // it did not fit
	quoted  bool // inSkip: inside a string
	sum     bool // inSkip: count the bytes
	node    nodeID
	root    nodeID
	depth   int8
	stack   [maxTracked]frame
	nested  int // inSkip: open containers
	n       int
	buf     [256]byte

	doc document

	// These last as long as the answer.
	model, id string
	toolModel string // of an image-generation tool
	tool      tool
	item      itemKind
	iter      iteration
	iters     []iteration
}

type tool struct {
	image bool
	model word
}

func (w *walker) reset(root nodeID) {
	w.st, w.root, w.depth, w.n = atRoot, root, 0, 0
	w.isKey, w.escaped, w.quoted = false, false, false
	w.doc = document{}
}

const sentinel = "[DONE]"

func (w *walker) feed(b []byte) {
	for i := 0; i < len(b); {
		switch w.st {
		case inString:
			i += w.readString(b[i:])
		case inSkip:
			i += w.readSkipped(b[i:])
		case inScalar:
			i += w.readScalar(b[i:])
		case atEnd, atLoss:
			return
		default:
			w.structure(b[i])
			i++
		}
	}
}

func (w *walker) structure(c byte) {
	if c == ' ' || c == '\t' || c == '\n' || c == '\r' {
		return
	}
	switch w.st {
	case atRoot:
		switch c {
		case '{':
			w.node = w.root
			w.begin(c)
		case sentinel[0]:
			w.st, w.n = inSentinel, 1
		default:
			w.st = atLoss
		}
	case inSentinel:
		if c != sentinel[w.n] {
			w.st = atLoss
			return
		}
		if w.n++; w.n == len(sentinel) {
			w.doc.kind, w.st = kindDone, atEnd
		}
	case atFirst:
		if c == ']' {
			w.end(c)
			return
		}
		w.begin(c)
	case atValue:
		w.begin(c)
	case atOpen, atKey:
		switch c {
		case '"':
			w.st, w.isKey, w.n, w.over, w.slashes = inString, true, 0, false, false
		case '}':
			w.end(c)
		default:
			w.st = atLoss
		}
	case atColon:
		if c != ':' {
			w.st = atLoss
			return
		}
		w.st = atValue
	case atNext:
		switch top := &w.stack[w.depth-1]; {
		case c == '}' || c == ']':
			w.end(c)
		case c != ',':
			w.st = atLoss
		case top.array:
			w.st, w.node = atValue, nodes[top.node].elem
		default:
			w.st = atKey
		}
	default:
		w.st = atLoss
	}
}

// begin reads the first byte of the value at w.node.
func (w *walker) begin(c byte) {
	n := &nodes[w.node]
	if n.hook != hookNone {
		w.opened(n.hook, c)
	}
	switch {
	case c == '"':
		w.st, w.isKey, w.n, w.over, w.slashes = inString, false, 0, false, false
	case c != '{' && c != '[':
		w.st, w.n, w.over = inScalar, 1, false
		w.buf[0] = c
	case w.depth < maxTracked && (c == '{' && n.keys != nil || c == '[' && n.elem != 0):
		w.stack[w.depth] = frame{w.node, c == '['}
		w.depth++
		if w.st = atOpen; c == '[' {
			w.st, w.node = atFirst, n.elem
		}
	default:
		w.st, w.nested, w.quoted, w.sum = inSkip, 1, false, n.op == opCountAll
		if w.sum {
			w.doc.counted++
		}
	}
}

// end closes the innermost container.
func (w *walker) end(c byte) {
	top := w.stack[w.depth-1]
	if top.array != (c == ']') {
		w.st = atLoss
		return
	}
	if h := nodes[top.node].hook; h != hookNone && !top.array {
		w.closed(h)
	}
	w.depth--
	w.valueDone()
}

func (w *walker) valueDone() {
	if w.st = atNext; w.depth == 0 {
		w.st = atEnd
	}
}

// readString reads on inside a string and returns how many bytes it took.
func (w *walker) readString(b []byte) int {
	n := &nodes[w.node]
	keep := w.isKey || n.op == opText
	count := !w.isKey && (n.op == opCount || n.op == opCountAll)
	for i := 0; i < len(b); {
		if w.escaped {
			w.escaped = false
			if keep {
				w.keep(b[i : i+1])
			} else if count {
				w.doc.counted++
				if b[i] == 'u' {
					w.doc.counted -= 2 // four digits follow: three in all
				}
			}
			i++
			continue
		}
		run := special(b[i:])
		if keep {
			w.keep(b[i : i+run])
		} else if count {
			w.doc.counted += int64(run)
		}
		if i += run; i == len(b) {
			return i
		}
		switch c := b[i]; {
		case c == '"':
			w.st = atNext
			if w.isKey {
				w.key()
			} else {
				if keep && !w.over {
					w.text(n.text)
				} else if keep && n.text == textErrorMessage {
					w.text(n.text) // its beginning says enough
				}
				w.valueDone()
			}
			return i + 1
		case c == '\\':
			w.escaped, w.slashes = true, true
			if keep {
				w.keep(b[i : i+1])
			}
		case count:
			w.doc.counted++
		}
		i++
	}
	return len(b)
}

func (w *walker) keep(b []byte) {
	k := copy(w.buf[w.n:], b)
	w.n += k
	w.over = w.over || k < len(b)
}

// readSkipped reads on inside a value that no table names.
func (w *walker) readSkipped(b []byte) int {
	i := 0
	for i < len(b) {
		if w.quoted {
			if w.escaped {
				w.escaped = false
				i++
				continue
			}
			if i += special(b[i:]); i < len(b) {
				w.escaped = b[i] == '\\'
				w.quoted = b[i] != '"'
				i++
			}
			continue
		}
		c := b[i]
		i++
		switch c {
		case '"':
			w.quoted = true
		case '{', '[':
			w.nested++
		case '}', ']':
			if w.nested--; w.nested == 0 {
				if w.sum {
					w.doc.counted += int64(i)
				}
				w.valueDone()
				return i
			}
		}
	}
	if w.sum {
		w.doc.counted += int64(i)
	}
	return i
}

// readScalar reads on inside a number or literal, up to what ends it.
func (w *walker) readScalar(b []byte) int {
	for i, c := range b {
		switch c {
		case ',', '}', ']', ' ', '\t', '\n', '\r':
			w.scalarDone()
			w.valueDone()
			return i
		}
		if w.n < 32 {
			w.buf[w.n] = c
			w.n++
		} else {
			w.over = true
		}
	}
	return len(b)
}

func (w *walker) scalarDone() {
	n := &nodes[w.node]
	raw := w.buf[:w.n]
	digit := raw[0] >= '0' && raw[0] <= '9'
	switch {
	case w.over || !digit && raw[0] != '-':
	case n.op == opText && digit:
		w.text(n.text)
	case n.op == opNumber:
		if v, ok := wholeNumber(raw); ok {
			w.figures().set(n.slot, v)
		}
	}
}

// wholeNumber reads a token count. Some servers write 12.0.
func wholeNumber(raw []byte) (int64, bool) {
	v, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil {
		f, err := strconv.ParseFloat(string(raw), 64)
		if err != nil || f != math.Trunc(f) || math.Abs(f) >= 1<<53 {
			return 0, false
		}
		v = int64(f)
	}
	return v, v < 1<<53 && v > -1<<53
}

func (w *walker) figures() *figures {
	if w.doc.inIter {
		return &w.iter.figures
	}
	return &w.doc.figures
}

// key looks up the key just read.
func (w *walker) key() {
	w.st, w.node = atColon, skipNode
	if w.over {
		return
	}
	k := w.buf[:w.n]
	if w.slashes {
		var buf [len(w.buf)]byte
		k, _ = unescape(buf[:0], k)
	}
	for i := range nodes[w.stack[w.depth-1].node].keys {
		e := &nodes[w.stack[w.depth-1].node].keys[i]
		if len(e.key) == len(k) && e.key == string(k) {
			w.node = e.to
			return
		}
	}
}
