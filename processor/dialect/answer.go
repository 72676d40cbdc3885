package dialect

import "bytes"

// slot names a figure of a usage object.
type slot uint8

const (
	inTokens slot = iota
	outTokens
	cacheRead
	cacheWrite
	cacheWrite5m
	cacheWrite1h
	inAudio
	inImage
	outAudio
	outImage
	reasoning
	webSearches
	webFetches
	imageGenIn
	imageGenInImage
	imageGenOut
	slots
)

// figures are the numbers of one usage object; absent is not 0.
type figures struct {
	has uint32
	v   [slots]int64
}

func (f *figures) set(s slot, n int64) { f.has |= 1 << s; f.v[s] = n }
func (f *figures) known(s slot) bool   { return f.has&(1<<s) != 0 }
func (f *figures) merge(from *figures) {
	for s := range slots {
		if from.known(s) {
			f.set(s, from.v[s])
		}
	}
}

// textSlot names a string that is read.
type textSlot uint8

const (
	textNone textSlot = iota
	textType
	textModel
	textID
	textTier
	textSpeed
	textGeo
	textStatus
	textEffort
	textItem
	textCall
	textTool
	textToolModel
	textIteration
	textIterationModel
	textErrorType
	textErrorCode
	textErrorDetail
	textErrorMessage
)

// word is a provider's code or type, from [a-z0-9_.-]; anything else is empty.
type word struct {
	n uint8
	b [64]byte
}

func (w *word) set(s []byte) {
	w.n = 0
	if len(s) > len(w.b) {
		return
	}
	for i, c := range s {
		switch {
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '_', c == '.', c == '-':
		default:
			return
		}
		w.b[i] = c
	}
	w.n = uint8(len(s)) // at most 64
}

func (w *word) bytes() []byte { return w.b[:w.n] }

// trouble is what an error object says.
type trouble struct {
	seen, closed      bool
	typ, code, detail word
	context, quota    bool // the message speaks of them
}

// iteration is one entry of Anthropic's usage.iterations.
type iteration struct {
	figures
	kind, model string
}

// document is what one JSON document of an answer has said so far: an event's
// data, or the whole body.
type document struct {
	kind       eventKind
	status     eventKind
	effort     effort
	usageOpen  bool
	usageWhole bool // its closing brace was seen: no figure is cut off
	noUsage    bool // usage is null
	choices    bool // choices is an array …
	choice     bool // … and has an element
	notArray   bool // choices is something else
	audio      bool
	inIter     bool
	hidden     bool // output that cannot be seen was announced
	figures    figures
	tier       string
	speed      string
	geo        string
	items      [itemKinds]int32
	counted    int64
	blocks     int64
	trouble    trouble
}

// effort is what a Responses answer says about reasoning.
type effort uint8

const (
	effortUnknown effort = iota
	effortNone
	effortSome
)

// eventKind is the type (or status) of an event, as far as it matters.
type eventKind uint8

const (
	kindOther eventKind = iota
	kindDone            // data: [DONE]
	kindError
	kindMessageStart
	kindMessageDelta
	kindMessageStop
	kindResponseStart // created, queued, in_progress
	kindCompleted
	kindIncomplete
	kindFailed
	kindAudioDelta
	kindItemAdded
)

// opened sees the first byte of a value with a hook.
func (w *walker) opened(h hook, c byte) {
	d := &w.doc
	switch h {
	case hookUsage:
		if c != '{' {
			d.noUsage = true
			return
		}
		d.usageOpen, d.usageWhole = true, false
		d.figures.has &= 1<<imageGenIn | 1<<imageGenInImage | 1<<imageGenOut | 1<<webSearches
		w.iters = w.iters[:0]
	case hookIteration:
		if c == '{' {
			d.inIter, w.iter = true, iteration{}
		}
	case hookChoices:
		if c == '[' {
			d.choices = true
		} else {
			d.notArray = true
		}
	case hookChoice:
		d.choice = true
	case hookError:
		d.trouble.seen = d.trouble.seen || c == '{' || c == '"'
	case hookItem:
		w.item = noItem
	case hookTool:
		w.tool = tool{}
	case hookReasoning:
		if c == 'n' {
			d.effort = effortNone
		}
	case hookAudio:
		d.audio = d.audio || c == '{' || c == '"'
	case hookNone:
	}
}

// closed sees the end of an object with a hook.
func (w *walker) closed(h hook) {
	d := &w.doc
	switch h {
	case hookUsage:
		d.usageWhole = true
	case hookIteration:
		d.inIter = false
		w.iters = append(w.iters, w.iter)
	case hookError:
		d.trouble.closed = true
	case hookItem:
		d.items[w.item]++
	case hookTool:
		if w.tool.image && w.tool.model.n > 0 && w.toolModel != string(w.tool.model.bytes()) {
			w.toolModel = string(w.tool.model.bytes())
		}
	default:
	}
}

// text takes note of the string in buf.
func (w *walker) text(t textSlot) {
	s := w.buf[:w.n]
	if w.slashes {
		var buf [len(w.buf)]byte
		s, _ = unescape(buf[:0], s)
	}
	d := &w.doc
	switch t {
	case textNone:
	case textType:
		d.kind = kindOf(s)
	case textModel:
		if w.model == "" {
			w.model = string(s)
		}
	case textID:
		if w.id == "" {
			w.id = string(s)
		}
	case textTier:
		d.tier = tierName(s)
	case textSpeed:
		d.speed = tierName(s)
	case textGeo:
		d.geo = geoName(s)
	case textStatus:
		d.status = kindOfStatus(s)
	case textEffort:
		if d.effort = effortSome; string(s) == "none" {
			d.effort = effortNone
		}
	case textItem:
		w.item = itemOf(s)
		d.hidden = d.hidden || hides(s)
		d.blocks++
	case textCall:
		d.blocks++
	case textTool:
		w.tool.image = string(s) == "image_generation"
	case textToolModel:
		w.tool.model.set(s)
	case textIteration:
		w.iter.kind = iterationName(s)
	case textIterationModel:
		w.iter.model = string(s)
	case textErrorType:
		d.trouble.typ.set(s)
	case textErrorCode:
		d.trouble.code.set(s)
	case textErrorDetail:
		d.trouble.detail.set(s)
	case textErrorMessage:
		d.trouble.seen = d.trouble.seen || len(s) > 0 && nodes[w.node].hook == hookError
		d.trouble.read(s)
	}
}

// flush reads what can be told from an error message that was cut off.
func (w *walker) flush() {
	if w.st == inString && !w.isKey && nodes[w.node].text == textErrorMessage {
		w.text(textErrorMessage)
	}
}

// geoName is an inference region without an allocation for the usual ones.
func geoName(b []byte) string {
	for _, g := range [...]string{"global", "us", "eu", "not_available"} {
		if string(b) == g {
			return g
		}
	}
	return string(b[:min(len(b), 64)])
}

func iterationName(b []byte) string {
	for _, k := range [...]string{"message", "compaction", "advisor_message", "fallback_message"} {
		if string(b) == k {
			return k
		}
	}
	return string(b[:min(len(b), 64)])
}

func kindOf(s []byte) eventKind {
	switch string(s) {
	case "error":
		return kindError
	case "message_start":
		return kindMessageStart
	case "message_delta":
		return kindMessageDelta
	case "message_stop":
		return kindMessageStop
	case "response.created", "response.queued", "response.in_progress":
		return kindResponseStart
	case "response.completed":
		return kindCompleted
	case "response.incomplete":
		return kindIncomplete
	case "response.failed":
		return kindFailed
	case "response.audio.delta":
		return kindAudioDelta
	case "response.output_item.added":
		return kindItemAdded
	default:
		return kindOther
	}
}

func kindOfStatus(s []byte) eventKind {
	switch string(s) {
	case "completed":
		return kindCompleted
	case "incomplete":
		return kindIncomplete
	case "failed":
		return kindFailed
	default:
		return kindOther
	}
}

// itemKind is the kind of an output item that is billed by the call.
type itemKind uint8

const (
	noItem itemKind = iota
	itemWebSearch
	itemFileSearch
	itemCodeInterpreter
	itemImageGeneration
	itemMCP
	itemKinds
)

// itemNames :: itemKind → usage.Call.Kind
var itemNames = [itemKinds]string{ //nolint:gochecknoglobals // an immutable table
	itemWebSearch:       "web_search",
	itemFileSearch:      "file_search",
	itemCodeInterpreter: "code_interpreter",
	itemImageGeneration: "image_generation",
	itemMCP:             "mcp",
}

func itemOf(s []byte) itemKind {
	switch string(s) {
	case "web_search_call":
		return itemWebSearch
	case "file_search_call":
		return itemFileSearch
	case "code_interpreter_call":
		return itemCodeInterpreter
	case "image_generation_call":
		return itemImageGeneration
	case "mcp_call":
		return itemMCP
	default:
		return noItem
	}
}

// hides reports whether an output item or content block stands for output
// that is billed but not shown.
func hides(s []byte) bool {
	switch string(s) {
	case "message", "text", "tool_use", "function_call", "custom_tool_call", "local_shell_call", "apply_patch_call":
		return false
	default:
		return !bytes.HasSuffix(s, []byte("_output"))
	}
}
