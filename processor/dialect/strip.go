package dialect

// maxHeld bounds what is withheld of one event: a usage chunk has well below a
// thousand bytes.
const maxHeld = 64 << 10

// stripper takes the usage chunk out of a chat or completions stream: the
// event whose choices is [] and whose usage is not null. Azure's first chunk
// and a moderation chunk have empty choices too, but no usage.
type stripper struct {
	on       bool
	open     bool // an event has begun
	deciding bool // … and may be the usage chunk
	cut      bool // the last event was taken out: so is the LF of its CRLF
	size     int  // of the open event
	fr       framer
	w        walker
	held     []byte // of the open event, from earlier chunks
	out      []byte
}

func (s *stripper) reset(on bool) {
	s.on, s.open, s.deciding, s.cut, s.size = on, false, false, false, 0
	s.fr = framer{}
	s.held, s.out = s.held[:0], s.out[:0]
}

// isUsage: the event so far is the usage chunk.
func (s *stripper) isUsage() bool {
	d := &s.w.doc
	return s.w.st == atEnd && d.choices && !d.choice && d.usageOpen
}

// isOther: the event cannot become the usage chunk any more.
func (s *stripper) isOther() bool {
	d := &s.w.doc
	return d.choice || d.notArray || d.noUsage || s.w.st == atLoss || s.w.st == inSentinel ||
		s.w.st == atEnd && !s.isUsage() || s.size > maxHeld
}

func (s *stripper) strip(chunk []byte, end bool) []byte {
	s.out = s.out[:0]
	from, start := 0, -1 // chunk[from:] is not passed yet; the event in question begins at start
	if s.deciding {
		start = 0
	}
	copied := false
	release := func() {
		if len(s.held) > 0 {
			s.out = append(s.out, s.held...)
			s.held = s.held[:0]
			copied = true
		}
		s.deciding, start = false, -1
	}
	for i := 0; i < len(chunk); {
		if !s.open && s.fr.atStart(chunk[i]) && chunk[i] != ':' {
			s.open, s.deciding, s.size = true, true, 0
			s.w.reset(stripNode)
			start = i
		}
		t, n := s.fr.next(chunk[i:])
		if s.deciding {
			s.size += n
		}
		cutLF := t == tokFeed && s.cut
		s.cut = false
		switch {
		case cutLF:
			s.out = append(s.out, chunk[from:i]...)
			from, copied = i+n, true
		case t == tokData && s.deciding:
			s.w.feed(chunk[i : i+n])
		case t == tokEnd && s.deciding && s.isUsage():
			s.out = append(s.out, chunk[from:start]...)
			s.held = s.held[:0]
			s.open, s.deciding, s.cut = false, false, true
			from, start, copied = i+n, -1, true
		case t == tokEnd:
			if s.deciding {
				release()
			}
			s.open = false
		}
		if s.deciding && s.isOther() {
			release()
		}
		i += n
	}
	if end && s.deciding {
		if s.isUsage() { // complete but for its blank line
			s.out = append(s.out, chunk[from:start]...)
			s.held = s.held[:0]
			s.deciding = false
			return s.out
		}
		release()
	}
	limit := len(chunk)
	if s.deciding {
		limit = start
		s.held = append(s.held, chunk[start:]...)
	}
	if !copied && from == 0 {
		return chunk[:limit]
	}
	s.out = append(s.out, chunk[from:limit]...)
	return s.out
}
