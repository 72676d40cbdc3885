// Package usage says what one call consumed: token buckets that do not
// overlap, tool calls that are billed apart, and where the figures came from.
//
// Sums saturate: a provider that reports absurd counts makes a figure large,
// never small or negative. Nothing here allocates once a Usage has grown to
// its size; Reset keeps the room.
package usage

import (
	"fmt"
	"math"

	"airgate/accounting/money"
)

// Source says how a usage figure was found (record field usage_source).
type Source uint8

// The sources, best first. The zero value means no usage was sought (a denial,
// a free endpoint).
const (
	Unset     Source = iota
	Provider         // the provider's own final figure
	Partial          // known input, output counted from the bytes seen
	Estimated        // input and output estimated
	None             // nothing known: the bound was charged
)

// String is the word of the record: "provider", "partial", "estimated",
// "none", and "" for Unset, which the record leaves absent.
func (s Source) String() string {
	switch s {
	case Unset:
		return ""
	case Provider:
		return "provider"
	case Partial:
		return "partial"
	case Estimated:
		return "estimated"
	case None:
		return "none"
	}
	return fmt.Sprintf("Source(%d)", uint8(s))
}

// ParseSource reads what String writes.
func ParseSource(text string) (Source, error) {
	for s := Unset; s <= None; s++ {
		if s.String() == text {
			return s, nil
		}
	}
	return Unset, fmt.Errorf("unknown usage source %q: want provider, partial, estimated, none or nothing", text)
}

// Tokens are disjoint buckets: every token is in exactly one, except that
// Reasoning is a part of Output.
type Tokens struct {
	Input        money.Tokens // text input at the base rate
	CacheRead    money.Tokens
	CacheWrite5m money.Tokens // and writes whose lifetime the provider does not tell
	CacheWrite1h money.Tokens
	InputAudio   money.Tokens
	InputImage   money.Tokens
	Output       money.Tokens // text output, reasoning included
	Reasoning    money.Tokens // of Output
	OutputAudio  money.Tokens
	OutputImage  money.Tokens
}

// TotalInput is all input, cached or not: what a long-context price tier is
// chosen by.
func (t *Tokens) TotalInput() money.Tokens {
	return plus(plus(plus(t.Input, t.CacheRead), plus(t.CacheWrite5m, t.CacheWrite1h)),
		plus(t.InputAudio, t.InputImage))
}

// TotalOutput is all output; Reasoning is in Output already.
func (t *Tokens) TotalOutput() money.Tokens {
	return plus(t.Output, plus(t.OutputAudio, t.OutputImage))
}

// Total is all input and output.
func (t *Tokens) Total() money.Tokens { return plus(t.TotalInput(), t.TotalOutput()) }

// Add adds o bucket by bucket.
func (t *Tokens) Add(o *Tokens) {
	t.Input = plus(t.Input, o.Input)
	t.CacheRead = plus(t.CacheRead, o.CacheRead)
	t.CacheWrite5m = plus(t.CacheWrite5m, o.CacheWrite5m)
	t.CacheWrite1h = plus(t.CacheWrite1h, o.CacheWrite1h)
	t.InputAudio = plus(t.InputAudio, o.InputAudio)
	t.InputImage = plus(t.InputImage, o.InputImage)
	t.Output = plus(t.Output, o.Output)
	t.Reasoning = plus(t.Reasoning, o.Reasoning)
	t.OutputAudio = plus(t.OutputAudio, o.OutputAudio)
	t.OutputImage = plus(t.OutputImage, o.OutputImage)
}

// plus adds two counts, a negative one as 0, and stops at the largest.
func plus(a, b money.Tokens) money.Tokens {
	a, b = max(a, 0), max(b, 0)
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// Item is one separately priced part of a call. Most calls have one; an
// Anthropic call with compaction or an advisor has one per iteration, each
// with its own model.
type Item struct {
	Model  string // "" = the model that served the call
	Kind   string // "message", "compaction", … as the provider names it
	Tokens Tokens
}

// Call counts server-side tool calls that are billed per call.
type Call struct {
	Kind  string // "web_search", "file_search", "code_interpreter", …
	Count int64
}

// Usage is what a provider said one call consumed. The zero value is an empty
// usage. It is not safe for concurrent use.
type Usage struct {
	Items       []Item
	Calls       []Call
	Model       string // as the provider names what served the call
	ServiceTier string // of the answer, not of the request: it sets the price
	Speed       string // "fast" where the provider bills a faster mode apart (Anthropic)
	Geo         string // inference region where the provider bills by it
}

// Reset empties u and keeps its room.
func (u *Usage) Reset() {
	clear(u.Items) // drop the strings
	clear(u.Calls)
	*u = Usage{Items: u.Items[:0], Calls: u.Calls[:0]}
}

// AddItem appends one separately priced part.
func (u *Usage) AddItem(i Item) { u.Items = append(u.Items, i) }

// AddCalls counts n more calls of a kind; n ≤ 0 adds nothing.
func (u *Usage) AddCalls(kind string, n int64) {
	if n <= 0 {
		return
	}
	for i := range u.Calls {
		if c := &u.Calls[i]; c.Kind == kind {
			c.Count = int64(plus(money.Tokens(c.Count), money.Tokens(n)))
			return
		}
	}
	u.Calls = append(u.Calls, Call{Kind: kind, Count: n})
}

// Tokens is the sum of all items: the record's tokens.
func (u *Usage) Tokens() Tokens {
	var t Tokens
	for i := range u.Items {
		t.Add(&u.Items[i].Tokens)
	}
	return t
}
