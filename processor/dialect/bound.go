package dialect

import "airgate/accounting/money"

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
