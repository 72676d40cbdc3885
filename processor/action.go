package processor

import "airgate/accounting/journal"

// Action is what the server must answer to one event. An Action belongs to its
// Stream and is valid until the next Step.
//
//sumtype:decl
type Action interface{ action() }

// Continue passes the message on as it is.
type Continue struct {
	Metadata Metadata // at the request headers: so that every end can be joined
}

// Forward lets the request go to the provider: the decision is allow.
type Forward struct {
	Set      []Header // content-length included when Body is not nil
	Remove   []string
	Body     []byte // nil = unchanged
	Metadata Metadata
}

// Deny answers in the provider's place; nothing more of the request reaches it.
// Used at any request event, at ResponseHeaders, and at the body of a buffered
// answer.
type Deny struct {
	Status   int
	Headers  []Header
	Body     []byte
	Details  string           // "airgate_<code>": leaves Envoy's error mapper out
	Durable  journal.Position // wait for it before sending; 0 = do not wait
	Metadata Metadata
}

// Answer lets the answer's head pass.
type Answer struct {
	Set     []Header
	Remove  []string
	Durable journal.Position // wait for it before sending; 0 = do not wait
	Duplex  bool             // switch the body to FULL_DUPLEX_STREAMED
	Buffer  bool             // switch the body to BUFFERED: an error answer is read whole before any of it leaves
}

// Chunk answers one body chunk (or the trailers, where Trailers is set).
type Chunk struct {
	Set         []Header // buffered answers only: headers to set besides
	Replace     bool     // Body takes the chunk's place; false = unchanged
	Body        []byte
	EndOfStream bool // in duplex mode: the answer ends here
	Trailers    bool
	Durable     journal.Position // wait for it before sending; 0 = do not wait
	Cut         string           // why airgate ended it, for Envoy's metadata: nothing more of it passes
}

// pass lets out pass in the chunk's place; out is the chunk itself where nothing
// changes.
func (c *Chunk) pass(chunk, out []byte) {
	if len(out) == len(chunk) && (len(out) == 0 || &out[0] == &chunk[0]) {
		return
	}
	c.Replace, c.Body = true, out
}

// Metadata is the dynamic metadata (namespace airgate) that goes with a reply.
type Metadata struct {
	RequestID string
	Decision  string // allow | deny; "" = not yet decided
}

func (*Continue) action() {}
func (*Forward) action()  {}
func (*Deny) action()     {}
func (*Answer) action()   {}
func (*Chunk) action()    {}
