package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	"airgate/accounting/money"
	"airgate/envoy/extproc/extproctest"
)

// Prices of the played calls: 1,000 nano-USD for a token of input, 10,000 for
// one of output.
const (
	playedPrices = "prices: {usdPerMillionTokens: {gpt-5.4-mini: {input: 1, cacheRead: 1, output: 10}}}\n"

	priceIn, priceOut money.NanoUSD = 1000, 10_000

	playedIn  = 10 // tokens of input that the provider counts
	playedCap = 50 // tokens of output that it honours
)

// playedSliced is playedPrices, and a model whose output is all visible, at the same
// prices.
const playedSliced = `---
apiVersion: airgate/v1
models: {gpt-4o: {provider: openai}}
prices: {usdPerMillionTokens: {gpt-5.4-mini: {input: 1, cacheRead: 1, output: 10}, gpt-4o: {input: 1, cacheRead: 1, output: 10}}}
`

// play is one call of which the test is caller, Envoy and provider, so that it
// knows the truth about it.
type play struct {
	team   string // "" = a stranger
	user   string // of the key; "" = none
	model  string
	stream bool
	held   bool   // the stream's usage is airgate's own wish, so that chunks are held back
	status int    // of the provider's answer
	tokens int    // of output
	wait   func() // is called before the end of a stream; nil = go on
	leave  int    // Envoy resets the stream after so many messages, the first chunk being the fourth; 0 = never
}

// promise is what airgate has said about one call before it was killed, or
// before the call ended.
type promise struct {
	id         string
	decided    time.Duration // how long it took until the call could go on, or was refused
	forwarded  bool          // the provider may see the call: its intent is written
	settled    bool          // the end of the answer may leave: its settlement is written
	code       string        // of a refusal: it is written
	httpStatus int           // of the refusal
	retryAfter string
	billed     money.NanoUSD // what the provider has made so far, at its price
}

// run plays the call with the key of its team. The error is the stream's:
// airgate has gone, or is at fault.
func (p *play) run(envoy *extproctest.Envoy, key string) (out promise, err error) {
	call, err := envoy.Open()
	if err != nil {
		return out, err
	}
	defer func() {
		if err == nil {
			err = call.Reset() // as Envoy does when a request is over
		}
	}()
	told := 0
	// say returns the reply to m; nil where Envoy leaves after it.
	say := func(m *extprocv3.ProcessingRequest) (*extprocv3.ProcessingResponse, error) {
		if err := call.Send(m); err != nil {
			return nil, err
		}
		if told++; told == p.leave {
			return nil, nil
		}
		r, err := call.Recv()
		if err != nil {
			return nil, err
		}
		if id := r.GetDynamicMetadata().GetFields()["airgate"].GetStructValue().GetFields()["request_id"].GetStringValue(); id != "" {
			out.id = id
		}
		refusal := r.GetImmediateResponse()
		out.httpStatus = int(refusal.GetStatus().GetCode())
		for _, h := range refusal.GetHeaders().GetSetHeaders() {
			switch h.GetHeader().GetKey() {
			case "x-airgate-code":
				out.code = string(h.GetHeader().GetRawValue())
			case "retry-after":
				out.retryAfter = string(h.GetHeader().GetRawValue())
			}
		}
		return r, nil
	}
	head := []string{":method", "POST", ":path", "/v1/chat/completions", "authorization", "Bearer " + key}
	if p.user != "" {
		head = append(head, "x-airgate-user", p.user)
	}
	began := time.Now()
	for _, m := range []*extprocv3.ProcessingRequest{
		extproctest.RequestHeaders(false, head...),
		extproctest.RequestBody(p.body()),
	} {
		r, err := say(m)
		out.decided = time.Since(began)
		if err != nil || r == nil || out.code != "" {
			return out, err
		}
	}
	out.forwarded = true
	if p.status < 400 {
		out.billed = playedIn * priceIn
	}
	kind := "application/json"
	if p.stream && p.status < 400 {
		kind = "text/event-stream"
	}
	answer := extproctest.ResponseHeaders(false, "via_upstream", 1, ":status", strconv.Itoa(p.status), "content-type", kind)
	if r, err := say(answer); err != nil || r == nil || out.code != "" {
		return out, err
	}
	return out, p.answer(call, say, &out)
}

// answer plays the answer's body.
func (p *play) answer(call *extproctest.Call, say func(*extprocv3.ProcessingRequest) (*extprocv3.ProcessingResponse, error), out *promise) error {
	chunks := p.chunks()
	for i, c := range chunks {
		last := i == len(chunks)-1
		if c.terminal && p.wait != nil {
			p.wait()
		}
		out.billed += money.NanoUSD(c.tokens) * priceOut
		m := extproctest.ResponseBody([]byte(c.text), last)
		if !p.held {
			r, err := say(m)
			if err != nil || r == nil {
				return err
			}
			out.settled = out.settled || c.terminal
			continue
		}
		if err := call.Send(m); err != nil {
			return err
		}
		if i+4 == p.leave {
			return nil
		}
	}
	for !out.settled { // what was held back comes when it may
		r, err := call.Recv()
		if err != nil {
			return err
		}
		out.settled = r.GetResponseBody().GetResponse().GetBodyMutation().GetStreamedResponse().GetEndOfStream()
	}
	return nil
}

func (p *play) body() []byte {
	options := ""
	if p.stream {
		options = `"stream":true,`
		if !p.held {
			options += `"stream_options":{"include_usage":true},`
		}
	}
	return fmt.Appendf(nil, `{"model":%q,%s"max_completion_tokens":%d,"messages":[{"role":"user","content":"hi"}]}`, p.model, options, p.limit())
}

// limit is the output cap that the call asks for.
func (p *play) limit() int {
	if p.model == "gpt-4o" {
		return 32_000 // far more than it uses: it is held in slices
	}
	return playedCap
}

// chunk is a piece of an answer; terminal ends it.
type chunk struct {
	text     string
	tokens   int // made by the provider until here
	terminal bool
}

func (p *play) chunks() []chunk {
	usage := fmt.Sprintf(`"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}`, playedIn, p.tokens, playedIn+p.tokens)
	switch {
	case p.status >= 400:
		return []chunk{{text: `{"error":{"message":"no","type":"server_error"}}`, terminal: true}}
	case !p.stream:
		text := `{"model":"gpt-5.4-mini","choices":[{"index":0,"message":{"role":"assistant","content":"` + strings.Repeat("word ", p.tokens) + `"},"finish_reason":"stop"}],` + usage + `}`
		return []chunk{{text: text, tokens: p.tokens, terminal: true}}
	}
	event := `data: {"model":"` + p.model + `","choices":[{"index":0,"delta":{"content":"word "}}]}` + "\n\n"
	pieces := 2
	if p.tokens > playedCap {
		pieces = 8
	}
	var all []chunk
	for i := range pieces {
		n := p.tokens*(i+1)/pieces - p.tokens*i/pieces
		all = append(all, chunk{text: strings.Repeat(event, n), tokens: n})
	}
	return append(all, chunk{text: `data: {"model":"` + p.model + `","choices":[],` + usage + "}\n\ndata: [DONE]\n\n", terminal: true}, chunk{})
}

// cost is what the whole call costs.
func (p *play) cost() money.NanoUSD {
	if p.status >= 400 {
		return 0
	}
	return playedIn*priceIn + money.NanoUSD(p.tokens)*priceOut
}
