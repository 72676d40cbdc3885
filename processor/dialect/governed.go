package dialect

import (
	"bytes"
	"unicode/utf8"

	"airgate/accounting/money"
)

// maxCount is the largest value of a governed number.
const maxCount = 1<<31 - 1

// A shape lists the keys of one object that airgate reads: the governed keys.
// Each may stand there once, compared after unescaping; a key that equals one
// only after case folding is malformed, since some parsers would take it for
// the same. All other keys are checked as JSON and passed. The shape of an
// array is that of its elements.
type (
	shapeID uint8
	shape   struct {
		fields []field
		close  closing // what the object means as a whole
	}
	field struct {
		key string
		act act
		in  shapeID
	}
)

// act is what a governed value means.
type act uint8

const (
	actNone act = iota // nothing by itself
	actModel
	actStream
	actStreamOptions
	actIncludeUsage
	actCap
	actOwnCap // the endpoint's own cap: the one that is set where none is
	actChoices
	actPrompts
	actTier
	actSpeed
	actStore
	actBackground
	actPrediction
	actModalities
	actAudio
	actSearch
	actTools
	actToolList // tools inside a tool or an item
	actMaxCalls
	actMaxUses
	actToolModel
	actExecution
	actMCP
	actCache
	actTTL
	actLifetime
	actRetention
	actReasoning
	actCount // a governed number that changes nothing
	actThinking
	actThinks
	actType
	actID
	actRole
	actResult
	actMediaType
	actData
	actImage // an image: by URL or inline
	actURL   // other media: by URL or inline
	actFile  // a file inline; some servers take a URL here
	actStored
	actStoredList
)

// closing is what the fields of one object mean together.
type closing uint8

const (
	closeNone closing = iota
	closeItem
	closeOpenAITool
	closeAnthropicTool
	closeSource
	closeEdit
	closeSkill
)

// facts are what an open object has said so far.
type facts struct {
	typ       Span
	mediaType Span
	data      Span
	id        bool
	role      bool
	result    bool
	fetched   bool // url, file_id
	client    bool // execution: client
	maxUses   int64
	hasUses   bool
}

// governed finds the key at start among the shape's fields; nil if it is none.
func (p *parser) governed(s shapeID, start int, escaped bool, seen *uint64) (f *field, ok bool) {
	key := p.data[start+1 : p.pos-1]
	if escaped {
		if len(key) > len(p.buf) {
			return nil, true // longer than any governed key, however escaped
		}
		key, _ = unescape(p.buf[:0], key)
	}
	fields := shapes[s].fields
	foldable := false
	for _, c := range key {
		if c >= utf8.RuneSelf || c >= 'A' && c <= 'Z' {
			foldable = true
			break
		}
	}
	for i := range fields {
		f := &fields[i]
		if foldable {
			if bytes.EqualFold(key, []byte(f.key)) {
				return nil, p.fail(start, f.key+" is spelled in another case; write it in lower case")
			}
			continue
		}
		if len(key) == len(f.key) && string(key) == f.key {
			if *seen&(1<<i) != 0 {
				return nil, p.fail(start, f.key+" is there twice; parsers differ on which one counts")
			}
			*seen |= 1 << i
			return f, true
		}
	}
	return nil, true
}

// name is the text of a short string value: at most 64 characters survive an
// escaped spelling, which no name that matters exceeds.
func (p *parser) name(v Span) []byte {
	if v.To-v.From < 2 {
		return nil
	}
	raw := p.data[v.From+1 : v.To-1]
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw
	}
	if len(raw) > len(p.buf) {
		raw = raw[:len(p.buf)]
	}
	out, _ := unescape(p.buf[:0], raw)
	return out
}

// count reads a governed number: a whole one from 0 to 2³¹−1, written plainly.
func (p *parser) count(f *field, k kind, v Span) (n int64, present, ok bool) {
	if k == null {
		return 0, false, true
	}
	raw := p.data[v.From:v.To]
	if k != number || len(raw) > len("2147483647") {
		return 0, false, p.fail(v.From, f.key+" must be a whole number from 0 to 2147483647")
	}
	for _, c := range raw {
		if c < '0' || c > '9' {
			return 0, false, p.fail(v.From, f.key+" must be a whole number from 0 to 2147483647, written plainly")
		}
		n = n*10 + int64(c-'0')
	}
	if n > maxCount {
		return 0, false, p.fail(v.From, f.key+" must be a whole number from 0 to 2147483647")
	}
	return n, true, true
}

// flag reads a governed boolean; null is absent.
func (p *parser) flag(f *field, k kind, v Span) (set, present, ok bool) {
	switch k {
	case boolean:
		return p.isTrue, true, true
	case null:
		return false, false, true
	default:
		return false, false, p.fail(v.From, f.key+" must be true or false")
	}
}

func (p *parser) refer(field string) {
	if !p.r.References {
		p.r.References, p.r.Reference = true, field
	}
}

func (p *parser) store(field string) {
	p.refer(field)
	if p.r.Stored == "" {
		p.r.Stored = field
	}
}

// apply takes note of a governed value that has been read.
func (p *parser) apply(f *field, k kind, v Span) bool {
	r := p.r
	switch f.act {
	case actNone:
	case actModel:
		return p.model(k, v)
	case actStream:
		set, _, ok := p.flag(f, k, v)
		r.Stream = set
		return ok
	case actStreamOptions:
		if k != object && k != null {
			return p.fail(v.From, f.key+" must be an object")
		}
		r.StreamOptions = v
	case actIncludeUsage:
		set, _, ok := p.flag(f, k, v)
		r.IncludeUsage, r.IncludeUsageSpan = set, v
		return ok
	case actCap, actOwnCap:
		n, present, ok := p.count(f, k, v)
		if present {
			r.HasMaxOutput, r.MaxOutput = true, max(r.MaxOutput, money.Tokens(n))
			r.CapSpans[p.caps] = v
			p.caps++
		} else if f.act == actOwnCap {
			r.NullCap = v
		}
		return ok
	case actChoices:
		n, _, ok := p.count(f, k, v)
		r.Choices = max(r.Choices, n)
		return ok
	case actPrompts:
		if k == array && p.first != number {
			r.Prompts = max(1, int64(p.length))
		}
	case actTier, actSpeed:
		return p.tier(f, k, v)
	case actStore:
		set, present, ok := p.flag(f, k, v)
		if present {
			r.Store = set
		}
		return ok
	case actBackground:
		set, _, ok := p.flag(f, k, v)
		r.Background = set
		return ok
	case actPrediction:
		r.Predicted = k != null
	case actModalities:
		raw := p.data[v.From:v.To]
		r.Audio = r.Audio || bytes.Contains(raw, []byte(`"audio"`)) || bytes.IndexByte(raw, '\\') >= 0
	case actAudio:
		r.Audio = r.Audio || k != null
	case actMaxCalls:
		n, present, ok := p.count(f, k, v)
		p.maxCalls, p.hasCalls = n, present
		return ok
	case actMaxUses:
		n, present, ok := p.count(f, k, v)
		p.obj.maxUses, p.obj.hasUses = n, present
		return ok
	case actThinking:
		n, _, ok := p.count(f, k, v)
		r.Thinking = money.Tokens(n)
		return ok
	case actThinks:
		r.Thinks = k != null && (k != text || string(p.name(v)) != "disabled")
	case actCount:
		_, _, ok := p.count(f, k, v)
		return ok
	case actTools, actToolList:
		if k != array && k != null {
			return p.fail(v.From, f.key+" must be an array")
		}
		if f.act == actTools && k == array && p.length > 0 {
			r.Tools = true
		}
	case actToolModel:
		if k == text {
			name := p.name(v)
			switch model := string(name[:min(len(name), maxModel)]); r.ToolModel {
			case "", model:
				r.ToolModel = model
			default:
				r.ToolModel += ", " + model // several: no one model has such a name
			}
		}
	case actCache:
		r.CacheWrite = r.CacheWrite || k != null
	case actTTL:
		r.CacheWrite1h = r.CacheWrite1h || k == text && string(p.name(v)) == "1h"
	case actLifetime: // the default is the short one
		r.CacheWrite1h = r.CacheWrite1h || k == text && string(p.name(v)) != "30m"
	case actRetention:
		r.CacheWrite1h = r.CacheWrite1h || k == text && string(p.name(v)) != "in_memory"
	case actReasoning:
		r.HiddenPrompt = r.HiddenPrompt || k == text && string(p.name(v)) != "standard"
	default:
		p.note(f, k, v)
	}
	return true
}

// note handles the acts that cannot fail and say what is offered or fetched.
func (p *parser) note(f *field, k kind, v Span) {
	switch f.act {
	case actSearch:
		p.server = p.server || k != null
	case actMCP:
		if k == array && p.length > 0 || k == object {
			p.unbounded = true
			p.refer(f.key)
		}
	case actExecution:
		p.obj.client = k == text && string(p.name(v)) == "client"
	case actType:
		if k == text {
			p.obj.typ = v
		}
	case actMediaType:
		if k == text {
			p.obj.mediaType = v
		}
	case actData:
		if k == text {
			p.obj.data = v
		}
	case actID:
		p.obj.id = p.obj.id || k == text
	case actRole:
		p.obj.role = p.obj.role || k == text
	case actResult:
		p.obj.result = p.obj.result || k == text
	case actImage, actURL, actFile:
		p.media(f, k, v)
	case actStored:
		if k == object && f.in == noShape || k == text && v.To-v.From > 2 {
			p.obj.fetched = true
			p.store(f.key)
		}
	case actStoredList:
		if k == array && p.length > 0 || k == text {
			p.store(f.key)
		}
	default: // apply has the others
	}
}

// media tells inline media from media by URL.
func (p *parser) media(f *field, k kind, v Span) {
	if k != text || v.To-v.From == 2 {
		return
	}
	raw := p.data[v.From+1 : v.To-1]
	inline := len(raw) >= 5 && bytes.EqualFold(raw[:5], []byte("data:"))
	switch {
	case f.act == actFile:
		if bytes.HasPrefix(raw, []byte("http")) {
			p.refer(f.key)
		} else {
			p.r.Files = true
		}
	case !inline:
		p.obj.fetched = true
		p.refer(f.key)
	case f.act == actImage:
		p.r.Images++
		p.r.ImageBytes += len(raw)
	}
}

func (p *parser) model(k kind, v Span) bool {
	if k != text {
		return p.fail(v.From, "model must be a string")
	}
	raw := p.data[v.From+1 : v.To-1]
	if len(raw) > 6*maxModel {
		return p.fail(v.From, "model is too long; at most 256 bytes are read")
	}
	name, paired := raw, true
	if bytes.IndexByte(raw, '\\') >= 0 {
		var buf [6 * maxModel]byte
		name, paired = unescape(buf[:0], raw)
	}
	switch {
	case len(name) == 0:
		return p.fail(v.From, "model is empty")
	case len(name) > maxModel:
		return p.fail(v.From, "model is too long; at most 256 bytes are read")
	case !paired:
		return p.fail(v.From, "model has a surrogate that stands alone")
	}
	for _, c := range name {
		if c < ' ' || c == 0x7f {
			return p.fail(v.From, "model has a control character")
		}
	}
	p.r.Model, p.r.ModelSpan = string(name), v
	return true
}

func (p *parser) tier(f *field, k kind, v Span) bool {
	switch {
	case k == null:
	case k != text:
		return p.fail(v.From, f.key+" must be a string")
	case f.act == actTier:
		if p.r.ServiceTier == "" {
			p.r.ServiceTier = tierName(p.name(v))
		}
	default:
		if t := tierName(p.name(v)); t != "standard" {
			p.r.ServiceTier = t
		}
	}
	return true
}

// tierName is the service tier's name without an allocation for those that
// providers document.
func tierName(b []byte) string {
	for _, t := range [...]string{"auto", "default", "standard", "flex", "priority", "scale", "batch", "fast", "standard_only"} {
		if string(b) == t {
			return t
		}
	}
	return string(b[:min(len(b), 64)])
}

// closeObject draws what the fields of an object mean together.
func (p *parser) closeObject(c closing) {
	o := &p.obj
	switch c {
	case closeNone:
	case closeItem:
		p.closeItem()
	case closeOpenAITool:
		p.closeOpenAITool()
	case closeAnthropicTool:
		if name := p.name(o.typ); !anthropicClientTool(name) {
			p.server = true
			p.uncapped = p.uncapped || !o.hasUses
			p.calls += o.maxUses
			if bytes.HasPrefix(name, []byte("mcp")) {
				p.refer("tools")
			}
		}
	case closeSource:
		p.closeSource()
	case closeEdit:
		if bytes.HasPrefix(p.name(o.typ), []byte("compact")) {
			p.unbounded = true
		}
	case closeSkill:
		if string(p.name(o.typ)) != "anthropic" {
			p.store("skills")
		}
	}
}

// conclude draws what only the whole document says.
func (p *parser) conclude() {
	r := p.r
	switch {
	case p.unbounded || p.server && r.Operation == ChatCompletions:
		r.ServerTools = true
	case p.server && r.Operation == Responses:
		// max_tool_calls counts all of them together.
		r.ServerTools, r.ServerCalls = !p.hasCalls, p.maxCalls
	case p.server:
		r.ServerTools = p.uncapped
		if !p.uncapped {
			r.ServerCalls = p.calls
		}
	}
}
