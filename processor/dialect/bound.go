package dialect

import (
	"strings"

	"airgate/accounting/money"
)

// inputTable is what a dialect's requests cost beyond their bytes.
type inputTable struct {
	hidden, hiddenTools     money.Tokens // κ: the most a request was seen or documented to cost above its bytes
	expected, expectedTools money.Tokens // above bytes/4
	image                   money.Tokens // the most one inline image can cost
	expectedImage           money.Tokens
}

// inputOf is a dialect's table. κ and the expected overheads rest on recorded
// exchanges (tokens above bytes: OpenAI none without hidden prompts; Anthropic
// its tool-use system prompt, 264 to 675 tokens by model) with room above
// them, and are checked against recordings by a test. A model with a hidden
// prompt beyond that needs an overhead of its own. Images: OpenAI's dearest is a gpt-4o-mini image of eight
// tiles, 2,833 + 8 × 5,667; Anthropic's newest models take about 4,000.
func inputOf(n Name) inputTable {
	if n == Anthropic {
		return inputTable{hidden: 256, hiddenTools: 1024, expected: 50, expectedTools: 700, image: 5000, expectedImage: 1600}
	}
	return inputTable{hidden: 128, hiddenTools: 256, expected: 50, expectedTools: 50, image: 48169, expectedImage: 2000}
}

// InputBound is the most input tokens a request can be billed: its bytes plus
// an overhead, or the context window where that is smaller. overhead is the
// model's own proven one, where it is above the dialect's. context 0 means that
// the window is unknown. Input that bytes do not bound (References, Files,
// HiddenPrompt: 233 bytes were seen to be 1,549 tokens) is the whole window, or 2³¹−1 without one: nobody can afford what nobody knows.
// Each step that the provider takes of its own (ServerCalls, ServerTools) may
// bill as much again; that is the caller's to add.
func InputBound(r *Request, overhead, context money.Tokens) money.Tokens {
	if context <= 0 {
		context = maxCount
	}
	if r.References || r.Files || r.HiddenPrompt {
		return context
	}
	t := inputOf(r.Dialect)
	hidden := t.hidden
	if r.Tools {
		hidden = t.hiddenTools
	}
	n := money.Tokens(r.BodyBytes-r.ImageBytes) + max(hidden, overhead) + money.Tokens(r.Images)*t.image
	return min(n, context)
}

// blockTokens is the most that a tool call, an item or a content block was seen or
// is expected to cost beyond its bytes: Anthropic's calls have some 50 around them.
const blockTokens = 64

// OutputSeen is the most that can be billed for what r has seen of an answer whose
// output is all visible: a token has at least one byte of text (rare characters
// were seen at 1.01) but for those around a block and the whole, or it is the
// provider's running count, if that is more. It rests on blockTokens, and is
// checked against recordings by a test.
func OutputSeen(r *Reading) money.Tokens {
	seen, told := money.Tokens(r.OutputBytes+blockTokens*(1+r.Blocks)), money.Tokens(0)
	if r.HasUsage {
		for i := range r.Usage.Items {
			told += r.Usage.Items[i].Tokens.Output
		}
	}
	return max(seen, told)
}

// Visible reports whether all the output that the provider bills for a streamed
// answer of model, as the provider calls it, will be seen in the stream, as far as
// the request and the names of models tell. What is not known to be visible is
// not. An answer can still show that it is otherwise (Reading.Hidden).
func Visible(r *Request, model string) bool {
	switch {
	case r.Choices > 1, r.Prompts > 1: // best_of makes answers that are not shown
		return false
	case r.ServerTools, r.ServerCalls > 0, r.ToolModel != "", strings.Contains(model, "-search"):
		return false
	case r.Background, r.HiddenPrompt, r.Predicted, r.Audio, r.Thinks, r.Thinking > 0:
		return false
	}
	switch r.Operation {
	case ChatCompletions, Responses, Completions:
		return shown(model)
	case Messages:
		for _, p := range [...]string{"claude-3", "claude-haiku-4", "claude-opus-4", "claude-sonnet-4"} {
			if strings.HasPrefix(model, p) {
				return true // they think only when asked to
			}
		}
	case Embeddings, CountTokens, ListModels, GetModel:
	}
	return false
}

// InputEstimate is the input a request is expected to be billed: a quarter of
// its bytes, inline images apart, plus the dialect's usual overhead.
func InputEstimate(r *Request) money.Tokens {
	t := inputOf(r.Dialect)
	n := money.Tokens(r.BodyBytes-r.ImageBytes)/4 + t.expected + money.Tokens(r.Images)*t.expectedImage
	if r.Tools {
		n += t.expectedTools - t.expected
	}
	return n
}
