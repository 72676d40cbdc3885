package dialect

import (
	"bytes"
	"strings"

	"airgate/accounting/money"
	"airgate/accounting/usage"
)

// Meter reads an answer as it passes, cut anywhere: the cut never changes the
// Reading. It never fails; what it cannot read it passes over. It holds no
// more of the answer than one short string and, for Pass, one event.
//
// Write and Pass are independent of each other: each must see every chunk
// once, in either order. The zero Meter reads nothing until Reset. Not safe
// for concurrent use.
type Meter struct {
	// CacheWrite1h says that the request asked for a longer lifetime of what is
	// cached (Request.CacheWrite1h). Cache writes that the provider reports
	// without one are then priced as such. Set it after Reset, which clears it.
	CacheWrite1h bool

	op        Operation
	mode      mode
	fr        framer
	w         walker
	committed bool // the current document has been taken into account
	errorName bool // the event's name is error
	event     [16]byte
	eventLen  uint8
	armed     bool // the open event may be decisive, as far as it came
	tail      [maxNeedle]byte
	tailLen   int

	acc     figures // Anthropic's usage so far: each event overwrites what it names
	effort  effort
	hiding  bool // output was announced that cannot be seen
	started bool // an event that says what can be hidden was seen
	calls   [itemKinds]int32

	r    Reading
	gate gate
}

type mode uint8

const (
	modeOff mode = iota
	modeSniff
	modeJSON
	modeSSE
)

// Reset begins a new answer to e with its status and content type. Answers
// that are no success are not read (see [Classify]). Whether a body is JSON or
// an event stream is told by its first byte: labels are wrong too often.
// stripUsage makes Pass take out the usage chunk of a chat or completions
// stream.
func (m *Meter) Reset(e Endpoint, status int, contentType string, stripUsage bool) {
	m.CacheWrite1h = false
	m.op, m.mode = e.Operation, modeOff
	m.w.reset(skipNode)
	m.w.model, m.w.id, m.w.toolModel, m.w.iters = "", "", "", m.w.iters[:0]
	m.acc, m.effort, m.hiding, m.started, m.calls = figures{}, effortUnknown, false, false, [itemKinds]int32{}
	m.r = Reading{
		Usage:  usage.Usage{Items: m.r.Usage.Items[:0], Calls: m.r.Usage.Calls[:0]},
		Hidden: true,
	}
	success := status >= 200 && status < 300
	if success && e.Operation != ListModels && e.Operation != GetModel {
		m.mode = modeSniff
	}
	m.fr = framer{}
	m.nextDocument()
	m.tailLen = 0
	stream := strings.HasPrefix(strings.ToLower(strings.TrimSpace(contentType)), "text/event-stream")
	m.gate.reset(m.mode == modeSniff && stream, stripUsage && usageOnRequest(e.Operation))
}

// nextDocument is the start of an event or of the body.
func (m *Meter) nextDocument() {
	root := skipNode
	switch m.op {
	case ChatCompletions, Completions, Embeddings:
		root = chatNode
	case Responses:
		root = responsesEvent
		if m.mode == modeJSON {
			root = responsesBody
		}
	case Messages:
		root = messagesEvent
		if m.mode == modeJSON {
			root = messagesBody
		}
	case CountTokens:
		root = errorBody
	case ListModels, GetModel:
	}
	m.w.reset(root)
	m.committed, m.errorName, m.eventLen, m.armed = false, false, 0, false
}

// Write reads the next chunk. It keeps no reference to it.
func (m *Meter) Write(chunk []byte) {
	for len(chunk) > 0 {
		chunk = chunk[m.Scan(chunk):]
	}
}

// Scan reads chunk up to the end of its first event and returns how many bytes
// that is, so that what Reading says of an event can be told from the rest; all of
// chunk if no event ends in it. The rest must be read next.
func (m *Meter) Scan(chunk []byte) (n int) {
	if m.mode == modeOff {
		return len(chunk)
	}
	rest := chunk
	if m.mode == modeSniff {
		rest = m.sniff(rest)
	}
	if m.mode == modeJSON {
		m.w.feed(rest)
		m.settleDocument()
		m.keepTail(chunk)
		return len(chunk)
	}
	ended := false
	for len(rest) > 0 && !ended {
		t, n := m.fr.next(rest)
		switch t {
		case tokData:
			m.w.feed(rest[:n])
			m.settleDocument()
		case tokName:
			m.eventLen += uint8(copy(m.event[m.eventLen:], rest[:n])) // at most 16
			m.errorName = string(m.event[:m.eventLen]) == "error"
		case tokEnd:
			m.endEvent()
			m.nextDocument()
			ended = true
		case tokOther, tokLine, tokFeed:
		}
		rest = rest[n:]
	}
	m.armed = m.errorName || !m.committed && (m.w.doc.usageOpen || m.w.doc.trouble.seen || m.terminal())
	n = len(chunk) - len(rest)
	m.keepTail(chunk[:n])
	return n
}

// sniff passes over white space and a byte order mark and decides by the
// first byte behind them.
func (m *Meter) sniff(chunk []byte) []byte {
	for i, c := range chunk {
		switch c {
		case ' ', '\t', '\r', '\n', 0xEF, 0xBB, 0xBF:
			continue
		case '{', '[':
			m.mode = modeJSON
		default:
			m.mode = modeSSE
		}
		m.nextDocument()
		return chunk[i:]
	}
	return nil
}

// settleDocument takes a complete document into account, once.
func (m *Meter) settleDocument() {
	if m.committed || m.w.st != atEnd {
		return
	}
	m.commit(true)
}

// settleTail does so with a document that an event's end or the answer's has
// cut off: whatever in it is whole counts.
func (m *Meter) settleTail() {
	if m.committed || m.w.st == atRoot {
		return
	}
	m.w.flush()
	m.commit(false)
}

// endEvent is the end of an event or of the bytes. An event by the name of
// error is one, whatever its data.
func (m *Meter) endEvent() {
	m.settleTail()
	if m.errorName {
		m.failed()
	}
}

// Close says that no more bytes come, for whatever reason.
func (m *Meter) Close() {
	if m.mode == modeJSON || m.mode == modeSSE {
		m.endEvent()
	}
	m.mode = modeOff
}

// Reading is what has been found in the complete events so far; after Close,
// in everything. It belongs to the Meter: a later Write changes it and Reset
// takes its slices back.
func (m *Meter) Reading() *Reading { return &m.r }

// Pass returns what of a stream may be passed on: whole events, without the usage
// chunk that its caller did not ask for. It returns chunk itself where nothing
// changes, else a slice that is valid until the next call. What has come of an
// event that is not over is withheld, up to 64 KiB of it; comments are not. end
// gives it out. The bytes that come out are the same however the stream is cut. An
// answer that is no success, or not labelled a stream, passes as it is.
func (m *Meter) Pass(chunk []byte, end bool) []byte {
	if !m.gate.on {
		return chunk
	}
	return m.gate.pass(chunk, end)
}

// Between reports whether what Pass has given out ends where an event may begin. It
// does not in a comment, and in an event that is too large to be withheld.
func (m *Meter) Between() bool { return m.gate.between() }

// OpenOutput is the most that can be billed for what has come of an event that is
// not over, which Reading does not hold. See [OutputSeen].
func (m *Meter) OpenOutput() money.Tokens {
	if m.committed {
		return 0
	}
	return money.Tokens(m.w.doc.counted + blockTokens*m.newBlocks())
}

// maxNeedle is more than the longest needle with the start of its value.
const maxNeedle = 32

// Decisive reports whether chunk, behind what Write has seen, may hold or
// complete the terminal, usage or error event: then it is to be scanned before
// it is passed on. It only looks for words and may be wrong that way only (a
// provider that wrote "usage" with escapes would be read a moment later).
func (m *Meter) Decisive(chunk []byte) bool {
	if m.mode == modeOff || len(chunk) == 0 || m.r.Ending != Unfinished {
		return false
	}
	if m.armed {
		return true
	}
	mode := m.mode
	if mode == modeSniff {
		if first := bytes.TrimLeft(chunk, " \t\r\n\xEF\xBB\xBF"); len(first) > 0 && (first[0] == '{' || first[0] == '[') {
			mode = modeJSON
		}
	}
	if mode == modeJSON { // a body ends with its brace
		last := bytes.TrimRight(chunk, " \t\r\n")
		return len(last) == 0 || last[len(last)-1] == '}'
	}
	var seam [2 * maxNeedle]byte
	n := copy(seam[:], m.tail[:m.tailLen])
	n += copy(seam[n:n+min(len(chunk), maxNeedle)], chunk)
	return m.alarm(seam[:n], m.tailLen+len("event: ")) || m.alarm(chunk, len(chunk))
}

// alarm looks for words that begin before limit and mark the events that end
// an answer or hold its usage. Inside JSON text a quote is escaped, so the
// model's own words match only the words that stand without quotes here.
func (m *Meter) alarm(b []byte, limit int) bool {
	switch m.op {
	case Messages:
		if i := bytes.Index(b, []byte("message_stop")); i >= 0 && i < limit {
			return true
		}
	case Responses:
		const prefix = "response."
		for at := 0; ; {
			i := bytes.Index(b[at:], []byte(prefix))
			if i < 0 || at+i >= limit {
				break
			}
			at += i + len(prefix)
			for _, end := range [...]string{"completed", "incomplete", "failed"} {
				if n := min(len(end), len(b)-at); string(b[at:at+n]) == end[:n] {
					return true
				}
			}
		}
	default:
		if i := bytes.Index(b, []byte(sentinel)); i >= 0 && i < limit {
			return true
		}
	}
	for _, word := range [...]string{"usage", "error"} {
		for at := 0; ; {
			i := bytes.Index(b[at:], []byte(word))
			if i < 0 || at+i >= limit {
				break
			}
			i += at
			at = i + len(word)
			if bytes.HasSuffix(b[:i], []byte("event: ")) || bytes.HasSuffix(b[:i], []byte("event:")) {
				return true
			}
			if i == 0 || b[i-1] != '"' || at < len(b) && b[at] != '"' {
				continue
			}
			rest := bytes.TrimLeft(b[min(at+1, len(b)):], " :")
			if len(rest) == 0 || rest[0] != 'n' {
				return true
			}
		}
	}
	return false
}

func (m *Meter) keepTail(chunk []byte) {
	if len(chunk) >= maxNeedle {
		m.tailLen = copy(m.tail[:], chunk[len(chunk)-maxNeedle:])
		return
	}
	keep := min(m.tailLen, maxNeedle-len(chunk))
	copy(m.tail[:], m.tail[m.tailLen-keep:m.tailLen])
	m.tailLen = keep + copy(m.tail[keep:], chunk)
}

// terminal reports whether the open document is of a kind that ends an answer.
func (m *Meter) terminal() bool {
	switch m.w.doc.kind {
	case kindError, kindMessageStop, kindCompleted, kindIncomplete, kindFailed:
		return true
	default:
		return false
	}
}

// commit takes the document into account; whole says that it is complete.
func (m *Meter) commit(whole bool) {
	m.committed = true
	d, r := &m.w.doc, &m.r
	switch m.op {
	case Responses:
		m.commitResponses(whole)
	case Messages:
		m.commitMessages(whole)
	case CountTokens: // free: its count is no usage
		if m.mode == modeJSON && whole {
			m.finish()
		}
	default:
		m.commitChat(whole)
	}
	if d.audio || d.kind == kindAudioDelta {
		m.hiding = true
	}
	if d.kind != kindAudioDelta {
		r.OutputBytes += d.counted
	}
	r.Blocks += m.newBlocks()
	r.Model, r.ID, r.Usage.Model = m.w.model, m.w.id, m.w.model
	m.judgeHidden()
}

// newBlocks are those that the document begins. Later events of a Responses stream
// tell of the same items again.
func (m *Meter) newBlocks() int64 {
	if m.op == Responses && m.mode != modeJSON && m.w.doc.kind != kindItemAdded {
		return 0
	}
	return m.w.doc.blocks
}

func (m *Meter) finish() {
	if m.r.Ending == Unfinished {
		m.r.Ending = Finished
	}
}

// failed notes an error inside an answer; the first one stays.
func (m *Meter) failed() {
	if m.r.Ending != Failed {
		m.r.Ending = Failed
		m.r.Error = m.w.doc.trouble.classify(200, false)
	}
}

func (m *Meter) commitChat(whole bool) {
	d := &m.w.doc
	m.started = true
	if d.tier != "" {
		m.r.Usage.ServiceTier = d.tier
	}
	m.openAIUsage()
	switch {
	case d.trouble.seen && (whole || d.trouble.closed), whole && d.kind == kindError:
		m.failed()
	case d.kind == kindDone, m.mode == modeJSON && whole:
		m.finish()
	}
}

func (m *Meter) commitResponses(whole bool) {
	d := &m.w.doc
	kind := d.kind
	if m.mode == modeJSON {
		kind = d.status
		m.started = true
	}
	if d.effort != effortUnknown {
		m.effort, m.started = d.effort, true
	}
	m.hiding = m.hiding || d.hidden
	terminal := m.mode == modeJSON || kind == kindCompleted || kind == kindIncomplete || kind == kindFailed
	if terminal {
		// An answer's first event repeats the request's tier: only the last counts.
		if d.tier != "" {
			m.r.Usage.ServiceTier = d.tier
		}
		m.calls = d.items
		m.openAIUsage()
	}
	switch {
	case kind == kindError && (whole || d.trouble.closed), kind == kindFailed && whole:
		m.failed()
	case (m.mode == modeJSON || kind == kindOther) && d.trouble.closed: // also an error in the shape of another endpoint's
		m.failed()
	case whole && terminal:
		m.finish()
	}
}

func (m *Meter) commitMessages(whole bool) {
	d := &m.w.doc
	m.hiding = m.hiding || d.hidden
	if d.usageWhole && (m.mode == modeJSON || d.kind == kindMessageStart || d.kind == kindMessageDelta) {
		m.started = true
		m.acc.merge(&d.figures)
		if d.tier != "" {
			m.r.Usage.ServiceTier = d.tier
		}
		if d.speed != "" && d.speed != "standard" {
			m.r.Usage.ServiceTier = d.speed
		}
		if d.geo != "" {
			m.r.Usage.Geo = d.geo
		}
		m.anthropicUsage(d.figures.known(outTokens) && (m.mode == modeJSON || d.kind == kindMessageDelta))
	}
	switch {
	case d.kind == kindError && (whole || d.trouble.closed):
		m.failed()
	case whole && (m.mode == modeJSON || d.kind == kindMessageStop):
		m.finish()
	}
}

// part is a bucket of a total: never negative, and never more than what is
// left of the total, from which it is taken.
func (m *Meter) part(rest *money.Tokens, n int64) money.Tokens {
	if n < 0 {
		n, m.r.Clamped = 0, true
	}
	t := money.Tokens(n)
	if *rest -= t; *rest < 0 {
		*rest, m.r.Clamped = 0, true
	}
	return t
}

// openAIUsage reads the document's usage, if it has one with figures: all
// input is inside the prompt, all output inside the completion. The last one
// counts. One that lacks the output total is no final figure.
func (m *Meter) openAIUsage() {
	f, r := &m.w.doc.figures, &m.r
	if !m.w.doc.usageWhole || !f.known(inTokens) {
		return
	}
	r.HasInput, r.Clamped = true, false
	r.HasUsage = f.known(outTokens) || m.op == Embeddings
	all := money.Tokens(maxCount << 20)
	in := m.part(&all, f.v[inTokens])
	out := m.part(&all, f.v[outTokens])
	var t usage.Tokens
	t.CacheRead = m.part(&in, f.v[cacheRead])
	if written := m.part(&in, f.v[cacheWrite]); m.CacheWrite1h {
		t.CacheWrite1h = written
	} else {
		t.CacheWrite5m = written
	}
	t.InputAudio = m.part(&in, f.v[inAudio])
	t.InputImage = m.part(&in, f.v[inImage])
	t.Input = in
	t.OutputAudio = m.part(&out, f.v[outAudio])
	t.OutputImage = m.part(&out, f.v[outImage])
	t.Output = out
	t.Reasoning = m.part(&out, f.v[reasoning])
	t.Reasoning = min(t.Reasoning, t.Output)
	r.Usage.Items = append(r.Usage.Items[:0], usage.Item{Kind: "message", Tokens: t})
	r.Usage.Calls = r.Usage.Calls[:0]
	m.openAICalls()
}

// openAICalls adds what is billed beside the tokens of the model.
func (m *Meter) openAICalls() {
	f, r := &m.w.doc.figures, &m.r
	images := m.op == Responses && (f.v[imageGenIn] > 0 || f.v[imageGenOut] > 0)
	if images {
		all := money.Tokens(maxCount << 20)
		in := m.part(&all, f.v[imageGenIn])
		t := usage.Tokens{OutputImage: m.part(&all, f.v[imageGenOut])}
		t.InputImage = m.part(&in, f.v[imageGenInImage])
		t.Input = in
		model := m.w.toolModel
		if model == "" {
			model = "gpt-image-1" // the tool's documented default
		}
		r.Usage.Items = append(r.Usage.Items, usage.Item{Model: model, Kind: itemNames[itemImageGeneration], Tokens: t})
	}
	for k := itemWebSearch; k < itemKinds; k++ {
		count := int64(m.calls[k])
		if k == itemWebSearch && f.known(webSearches) {
			count = f.v[webSearches] // the provider's own count
		}
		if k == itemImageGeneration && images {
			count = 0 // billed by its tokens
		}
		if count > 0 {
			r.Usage.Calls = append(r.Usage.Calls, usage.Call{Kind: itemNames[k], Count: count})
		}
	}
	if m.op == ChatCompletions && strings.Contains(m.w.model, "-search-") {
		// Search models search once a call and do not count it.
		r.Usage.Calls = append(r.Usage.Calls, usage.Call{Kind: itemNames[itemWebSearch], Count: 1})
	}
}

// anthropicUsage reads acc: the buckets are disjoint as sent. final: the
// figures are those of a whole message, not of its start.
func (m *Meter) anthropicUsage(final bool) {
	f, r := &m.acc, &m.r
	if !f.known(inTokens) {
		return
	}
	r.HasInput, r.Clamped = true, false
	r.HasUsage = r.HasUsage || final
	items := r.Usage.Items[:0]
	// Iterations hold passes that the top level leaves out. Those of an older
	// usage object are stale: the top level has moved on.
	if len(m.w.iters) == 0 {
		items = append(items, usage.Item{Kind: "message", Tokens: m.anthropicTokens(f)})
	}
	for i := range m.w.iters {
		it := &m.w.iters[i]
		items = append(items, usage.Item{Model: it.model, Kind: it.kind, Tokens: m.anthropicTokens(&it.figures)})
	}
	if len(m.w.iters) > 0 {
		// The top level alone says how much was thinking.
		left := money.Tokens(max(0, f.v[reasoning]))
		for i := range items {
			if t := &items[i].Tokens; items[i].Kind == "message" && t.Reasoning == 0 {
				t.Reasoning = min(left, t.Output)
				left -= t.Reasoning
			}
		}
	}
	m.hiding = m.hiding || len(m.w.iters) > 1
	r.Usage.Items = items
	r.Usage.Calls = r.Usage.Calls[:0]
	if n := f.v[webSearches]; n > 0 {
		r.Usage.Calls = append(r.Usage.Calls, usage.Call{Kind: "web_search", Count: n})
	}
	if n := f.v[webFetches]; n > 0 {
		r.Usage.Calls = append(r.Usage.Calls, usage.Call{Kind: "web_fetch", Count: n})
	}
}

func (m *Meter) anthropicTokens(f *figures) usage.Tokens {
	all := money.Tokens(maxCount << 20)
	t := usage.Tokens{
		Input:        m.part(&all, f.v[inTokens]),
		CacheRead:    m.part(&all, f.v[cacheRead]),
		CacheWrite5m: m.part(&all, f.v[cacheWrite5m]),
		CacheWrite1h: m.part(&all, f.v[cacheWrite1h]),
		Output:       m.part(&all, f.v[outTokens]),
	}
	out := t.Output
	t.Reasoning = min(m.part(&out, f.v[reasoning]), t.Output)
	// What the total has beyond its split has no lifetime: the dearer one, if
	// the request asked for it.
	if rest := money.Tokens(f.v[cacheWrite]) - t.CacheWrite5m - t.CacheWrite1h; rest > 0 {
		if m.CacheWrite1h {
			t.CacheWrite1h += rest
		} else {
			t.CacheWrite5m += rest
		}
	}
	return t
}

// judgeHidden applies the rule at Reading.Hidden.
func (m *Meter) judgeHidden() {
	r := &m.r
	if r.HasUsage {
		r.Hidden = false
		for i := range r.Usage.Items {
			r.Hidden = r.Hidden || r.Usage.Items[i].Tokens.Reasoning > 0
		}
		return
	}
	switch m.op {
	case Responses:
		r.Hidden = !m.started || m.hiding || m.effort != effortNone
	case Messages:
		r.Hidden = !m.started || m.hiding
	default:
		r.Hidden = !m.started || m.hiding || !shown(m.w.model)
	}
}

// shown reports whether a chat model is of a family that does not reason.
func shown(model string) bool {
	for _, p := range [...]string{"gpt-4", "gpt-3.5", "chatgpt-4o", "davinci-", "babbage"} {
		if strings.HasPrefix(model, p) {
			return true
		}
	}
	return false
}
