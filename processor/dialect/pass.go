package dialect

// maxHeld bounds what is withheld of one event: a usage chunk and an error have
// well below a thousand bytes.
const maxHeld = 64 << 10

// gate lets whole events of a stream pass, so that one may take the place of what
// follows. It takes the usage chunk out of a chat or completions stream: the event
// whose choices is [] and whose usage is not null. Azure's first chunk and a
// moderation chunk have empty choices too, but no usage.
type gate struct {
	on    bool
	strip bool // the usage chunk does not pass
	open  bool // an event has begun
	loose bool // … and passes as it comes: it is too large to be withheld, or none
	plain bool // … and is not the usage chunk
	cut   bool // the last event was taken out: so is the LF of its CRLF
	size  int  // of the open event
	fr    framer
	w     walker
	held  []byte // of the open event, from earlier chunks
	out   []byte
}

func (g *gate) reset(on, strip bool) {
	g.on, g.strip, g.open, g.loose, g.cut, g.size = on, strip, false, false, false, 0
	g.fr = framer{}
	g.held, g.out = g.held[:0], g.out[:0]
}

// isUsage: the event so far is the usage chunk.
func (g *gate) isUsage() bool {
	d := &g.w.doc
	return !g.plain && g.w.st == atEnd && d.choices && !d.choice && d.usageOpen
}

// isOther: the event cannot become the usage chunk any more.
func (g *gate) isOther() bool {
	d := &g.w.doc
	return d.choice || d.notArray || d.noUsage || g.w.st == atLoss || g.w.st == inSentinel || g.w.st == atEnd && !g.isUsage()
}

// begin opens the event whose first byte is c. The fields of an event are named
// in small letters; what begins otherwise is no stream, whatever its label says.
func (g *gate) begin(c byte) {
	g.open, g.loose, g.plain, g.size = true, c < 'a' || c > 'z', !g.strip, 0
	if g.strip {
		g.w.reset(stripNode)
	}
}

// between: what has passed ends where an event may begin. An event that is withheld
// has not.
func (g *gate) between() bool {
	if g.open {
		return !g.loose
	}
	return g.fr.st == lineStart
}

func (g *gate) pass(chunk []byte, end bool) []byte {
	g.out = g.out[:0]
	from, start := 0, -1 // chunk[from:] is not passed yet; what is withheld begins at start
	if g.open && !g.loose {
		start = 0
	}
	copied := false
	release := func() {
		if len(g.held) > 0 {
			g.out = append(g.out, g.held...)
			g.held = g.held[:0]
			copied = true
		}
		start = -1
	}
	drop := func(to int) {
		g.out = append(g.out, chunk[from:start]...)
		g.held = g.held[:0]
		from, start, copied = to, -1, true
	}
	for i := 0; i < len(chunk); {
		if !g.open && g.fr.atStart(chunk[i]) && chunk[i] != ':' {
			if g.begin(chunk[i]); !g.loose {
				start = i
			}
		}
		t, n := g.fr.next(chunk[i:])
		g.size += n
		cutLF := t == tokFeed && g.cut
		g.cut = false
		switch {
		case cutLF:
			g.out = append(g.out, chunk[from:i]...)
			from, copied = i+n, true
		case t == tokData && !g.plain && start >= 0:
			g.w.feed(chunk[i : i+n])
			g.plain = g.isOther()
		case t == tokEnd && start >= 0 && g.isUsage():
			drop(i + n)
			g.open, g.cut = false, true
		case t == tokEnd:
			if start >= 0 {
				release()
			}
			g.open = false
		}
		if start >= 0 && g.size > maxHeld {
			release()
			g.loose = true
		}
		i += n
	}
	if end && start >= 0 {
		if g.isUsage() { // complete but for its blank line
			drop(len(chunk))
		} else {
			release()
		}
		g.open = false
	}
	limit := len(chunk)
	if start >= 0 {
		limit = start
		g.held = append(g.held, chunk[start:]...)
	}
	if !copied && from == 0 {
		return chunk[:limit]
	}
	g.out = append(g.out, chunk[from:limit]...)
	return g.out
}
