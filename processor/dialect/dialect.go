// Package dialect turns provider bytes into facts (model, caps, usage,
// errors) and back (denials, edits): one file a dialect. It answers: what do
// these bytes say. It decides nothing.
//
// Requests are read once, strictly and whole ([ParseRequest]); answers are
// read as they come, in pieces cut anywhere, and leniently ([Meter]): what the
// meter cannot read passes and is reported as unknown. Neither keeps a byte of
// a prompt or of an answer.
package dialect

import (
	"airgate/accounting/money"
	"airgate/accounting/usage"
)

// Name is a dialect as config names it.
type Name string

// The dialects.
const (
	OpenAI    Name = "openai"
	Anthropic Name = "anthropic"
)

// Operation is what an endpoint does.
type Operation uint8

// The operations.
const (
	ChatCompletions Operation = iota + 1 // OpenAI POST /v1/chat/completions
	Responses                            // OpenAI POST /v1/responses
	Completions                          // OpenAI POST /v1/completions
	Embeddings                           // OpenAI POST /v1/embeddings
	Messages                             // Anthropic POST /v1/messages
	CountTokens                          // Anthropic POST /v1/messages/count_tokens; free
	ListModels                           // GET /v1/models; answered by airgate
	GetModel                             // GET /v1/models/{name}; answered by airgate
)

// Endpoint is a path airgate serves.
type Endpoint struct {
	Dialect   Name
	Operation Operation
	Method    string
	Path      string // as forwarded to the provider, below its URL
	Label     string // "POST /v1/chat/completions": the record's endpoint
	Model     string // of GetModel: the name in the path
}

// Span is a byte range of a body. The zero Span is no range.
type Span struct{ From, To int }

// Request is what one strict pass over a request body found. It refers into
// the body by Span and keeps no bytes but names.
type Request struct {
	Dialect   Name
	Operation Operation

	Model     string // unescaped
	ModelSpan Span   // the JSON string with its quotes
	// ToolModel is the model that a tool names beside Model, or several, joined by
	// commas, so that they are none that anybody may use (Anthropic's
	// advisor, OpenAI's image generation). It runs on the caller's account too.
	ToolModel string

	Stream bool
	// StreamOptions is the value of stream_options, an object or null.
	StreamOptions    Span
	IncludeUsage     bool // stream_options.include_usage is true
	IncludeUsageSpan Span // its value
	ObjectStart      int  // just behind the document's {: where a field can be spliced in
	Empty            bool // the document is {}

	// MaxOutput is the largest output cap present, per choice; HasMaxOutput
	// tells 0 from absent. CapSpans are the values of the caps present.
	MaxOutput    money.Tokens
	HasMaxOutput bool
	// Thinking is the part of MaxOutput that Anthropic is told to think with at
	// most: it refuses a cap that is not above it. 0 = not said.
	Thinking money.Tokens
	// Thinks says that Anthropic is asked to think: not all output is shown.
	Thinks   bool
	CapSpans [2]Span
	// NullCap is the endpoint's own cap field where it is present but null.
	NullCap Span
	// DefaultOutput is the cap the provider documents for a request without
	// one (16 for completions), 0 = none. Compatible servers differ: who relies
	// on it must send it.
	DefaultOutput money.Tokens

	Choices     int64 // n, or best_of where larger; at least 1
	Prompts     int64 // completions and embeddings: number of prompts in an array; at least 1
	Tools       bool  // any tool offered
	ServerTools bool  // the provider takes steps of its own (tools it runs, compaction) without a cap on their number
	ServerCalls int64 // the cap on server-tool uses where all have one
	Background  bool
	// References says that input of unknown size is fetched: media by URL, or
	// anything Stored names. Reference is the first such field, for messages.
	References bool
	Reference  string
	// Stored is the first field that names an object kept at the provider
	// (previous_response_id, conversation, item_reference, file ids, stored
	// prompt, vector stores, containers): another tenant may own it. "" = none.
	Stored string
	// ServiceTier is as requested; Anthropic's speed "fast" is tier "fast".
	ServiceTier  string
	CacheWrite   bool // cache_control present: input may be billed as a cache write
	CacheWrite1h bool // a lifetime beyond the shortest is asked for: Anthropic's 1h, OpenAI's above 30m
	HiddenPrompt bool // a mode in which the provider adds to the input what nobody can count (OpenAI's reasoning mode pro)
	Store        bool // OpenAI responses store (default true)
	Predicted    bool // prediction: rejected tokens are billed as output
	Audio        bool // an audio answer is asked for

	Images     int64 // inline images; their tokens follow from pixels, not bytes
	ImageBytes int   // of BodyBytes: inline images
	Files      bool  // inline files other than images (PDF): pages, not bytes

	BodyBytes int
}

// Edits are what airgate changes in a request body. Zero fields change
// nothing. The smallest splice is made; everything else stays byte for byte.
type Edits struct {
	Model        string       // replace the model name
	IncludeUsage bool         // make the stream carry usage
	MaxOutput    money.Tokens // set or lower every output cap to this
}

// Malformed is the error of ParseRequest.
type Malformed struct {
	Reason string // what is wrong, naming fields but quoting no content
	Offset int    // byte offset, -1 if it has none
}

func (m *Malformed) Error() string { return m.Reason }

// Ending says how far an answer got.
type Ending uint8

// The endings.
const (
	Unfinished Ending = iota
	Finished          // the dialect's terminal event, or a whole JSON body
	Failed            // an error event inside a 200 stream
)

// Reading is what a Meter has found so far.
type Reading struct {
	// Usage holds the provider's figures. With HasInput but without HasUsage
	// its Output is what the provider had counted by then, no final figure.
	Usage    usage.Usage
	HasUsage bool // the provider's final figure has been seen
	HasInput bool // at least its input side is known (Anthropic's message_start)
	// Clamped says that figures contradicted each other (more cached than
	// input, …): the bucket that would have been negative is 0.
	Clamped bool
	Model   string
	Ending  Ending
	// OutputBytes counts the visible generated bytes so far, for estimates: the
	// text, reasoning and tool arguments an answer carries, JSON escapes undone
	// (a \u escape counts as three). A repetition is not counted again.
	OutputBytes int64
	// Blocks counts the tool calls, items and content blocks begun so far, each of
	// which may be billed some tokens beyond its bytes.
	Blocks int64
	// Hidden says that output may be billed that OutputBytes does not hold.
	// Anthropic: a thinking, server-tool or compaction block, or more than one
	// iteration, was seen. OpenAI responses: reasoning is on (effort is neither
	// null nor "none"), or a reasoning or server-tool item, or audio, was seen.
	// Chat and completions do not say: hidden, but for the GPT-3.5 and GPT-4
	// families, which do not reason. Before the answer's first event: hidden.
	// Once usage is there: hidden iff it has reasoning tokens.
	Hidden bool
	ID     string // the provider's id of the answer
	Error  ProviderError
}

// ErrorClass is a failure class of design section 7 that bytes can tell.
type ErrorClass uint8

// The classes.
const (
	NoError ErrorClass = iota
	Transient
	ProviderLimited
	ProviderQuota
	ProviderAuth
	MalformedRequest
	ContextLength
	ContentPolicy
)

// ProviderError is an error answer or error event, classified. It holds no
// text of the provider's.
type ProviderError struct {
	Class ErrorClass
	Code  string // the provider's own code or type, from a closed alphabet [a-z0-9_.-], at most 64 bytes
}

// Denial is a refusal in words; each dialect has its own body for it.
type Denial struct {
	Code        string // of design section 7
	Status      int
	Message     string
	RequestID   string
	Limit       string
	UsedUSD     string // "" = absent
	ReservedUSD string // "" = absent
	LimitUSD    string // "" = absent
	NeededUSD   string // "" = absent
	Reset       string // RFC 3339, "" = absent
	Owner       string
	Retryable   bool
}

// ModelInfo is one line of a models list.
type ModelInfo struct {
	Name    string
	Owner   string // provider
	Created int64  // Unix seconds
}
