package processor_test

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"airgate/accounting/journal"
	"airgate/accounting/money"
	"airgate/processor"
)

// hiddenInput is what airgate holds for input beyond the bytes of a body.
const hiddenInput = 128

// caller is an application with a key. It has one call in flight.
type caller struct {
	life   *life
	key    *simKey
	rng    *rand.Rand
	denied bool // the call before
}

func (c *caller) run() {
	l := c.life
	for l.w.quota.Load() > 0 || l.plan.well {
		think := time.Duration(0) // calls come in bursts
		if c.denied || c.rng.IntN(8) == 0 {
			think = upTo(c.rng, l.plan.length/4)
		}
		if !c.sleep(think) {
			return
		}
		c.call()
	}
}

func (c *caller) sleep(d time.Duration) bool { return c.life.sleep(c.rng, d) }

// call is one call, as Envoy tells of it.
func (c *caller) call() {
	l := c.life
	l.w.count("calls")
	l.w.quota.Add(-1)
	model := &simModels[c.rng.IntN(len(simModels))]
	terms := l.terms.Load()
	s := l.proc.Begin(time.Now())
	c.denied = false
	if d, refused := s.Step(c.headers()).(*processor.Deny); refused {
		c.refused(d)
		c.close(s, true)
		return
	}
	stream := c.rng.IntN(2) == 0
	limit, capped := 16+c.rng.IntN(600), c.rng.IntN(3) > 0
	if terms.sliced(c.key, model, model.limit) && c.rng.IntN(4) > 0 {
		stream, limit, capped = true, 1000+c.rng.IntN(20_000), true
	}
	body := c.body(model, stream, capped, limit)
	if !c.sleep(upTo(c.rng, 50*time.Millisecond)) || c.rng.IntN(50) == 0 {
		c.close(s, true)
		return
	}
	now := time.Now()
	var sent []byte
	switch a := s.Step(&processor.RequestBody{Body: body, Now: now}).(type) {
	case *processor.Forward:
		sent = slices.Clone(a.Body)
		s.After()
	case *processor.Deny:
		c.refused(a)
		c.close(s, true)
		return
	default:
		l.w.problem(3, "a request body was answered with %T", a)
		return
	}
	if l.dead.Load() {
		return // the word has not left the machine
	}
	if sent == nil {
		sent = body
	}
	p := c.provider(model, stream, len(body), model.outputCap(sent))
	p.simCall = &simCall{id: s.RequestID(), key: c.key, model: model, terms: terms, admitted: now, cost: p.bill(p.out)}
	if p.sliced = stream && terms.sliced(c.key, model, model.outputCap(sent)); p.sliced {
		l.w.count("held in slices")
		p.cost = p.bill(min(p.out, chunkTokens))
	}
	whole := model.in*money.NanoUSD(len(body)+hiddenInput) + model.out*money.NanoUSD(model.outputCap(sent))
	if held := l.model.intent(s.RequestID()).Reserved; p.sliced != (held < whole) {
		l.w.problem(5, "request %s holds %s of %s, sliced: want %v", p.id, held, whole, p.sliced)
	}
	l.w.log.Debug("let go", slog.String("request_id", p.id), slog.Any("end", p.end), slog.Bool("stream", stream), slog.Int("in", p.in),
		slog.Int("out", p.out), slog.Duration("token", p.token), slog.Duration("first", p.first), slog.Int("at", p.at))
	l.forwarded(p.simCall, now)
	c.close(s, c.answer(s, p))
}

func (c *caller) refused(d *processor.Deny) {
	c.denied = true
	c.life.w.count(strings.TrimPrefix(d.Details, "airgate_"))
}

func (c *caller) headers() *processor.RequestHeaders {
	return &processor.RequestHeaders{Headers: []processor.Header{
		{Name: ":method", Value: "POST"}, {Name: ":path", Value: "/v1/chat/completions"}, {Name: "authorization", Value: "Bearer " + c.key.text},
	}, Now: time.Now()}
}

func (c *caller) body(m *simModel, stream, capped bool, limit int) []byte {
	maximum := ""
	if capped {
		maximum = fmt.Sprintf(`"max_completion_tokens":%d,`, limit)
	}
	return fmt.Appendf(nil, `{"model":%q,"stream":%v,%s"messages":[{"role":"user","content":%q}]}`,
		m.name, stream, maximum, strings.Repeat("x", c.rng.IntN(300)))
}

// answer is the answer, as far as it goes. It reports whether Envoy ended the
// request, and not airgate.
func (c *caller) answer(s *processor.Stream, p *provider) (byEnvoy bool) {
	wait := p.first
	if !p.stream {
		wait += time.Duration(p.out) * p.token // in one piece, when all is made
	}
	switch early := p.end == hungUp || p.end == cutOff; {
	case p.end == neverEnding:
		wait = 1 << 60
	case early && (!p.stream || c.rng.IntN(2) == 0):
		byEnvoy = c.sleep(upTo(c.rng, wait+1))
		c.stopped(p, 0)
		return byEnvoy
	}
	if !c.sleep(wait) {
		c.stopped(p, 0)
		return false
	}
	switch p.end {
	case unreached:
		p.known = true
		c.head(s, p, 503, "upstream_reset_before_response_started{remote_connection_failure}")
	case timedOut:
		c.stopped(p, 0)
		c.head(s, p, 504, "response_timeout")
	case refused:
		p.known = true
		if c.head(s, p, pick(c.rng, 400, 401, 429, 500), "via_upstream") {
			s.Step(&processor.ResponseBody{Chunk: []byte(`{"error":{"message":"no"}}`), EndOfStream: true, Now: time.Now()})
		}
	case answered, noUsage, hungUp, cutOff, neverEnding:
		if c.head(s, p, 200, "via_upstream") {
			return c.content(s, p)
		}
	}
	return true
}

// head tells of the answer's head, waits until it may leave, and reports
// whether a body follows.
func (c *caller) head(s *processor.Stream, p *provider, status int, details string) bool {
	kind := "application/json"
	if p.stream && status == http.StatusOK {
		kind = "text/event-stream"
	}
	var durable journal.Position
	body := false
	switch a := s.Step(&processor.ResponseHeaders{
		Headers: []processor.Header{{Name: ":status", Value: strconv.Itoa(status)}, {Name: "content-type", Value: kind}},
		Details: details, Attempts: 1, Now: time.Now(),
	}).(type) {
	case *processor.Answer:
		durable, body = a.Durable, true
	case *processor.Deny:
		durable = a.Durable
	default:
		c.life.w.problem(3, "an answer's head was answered with %T", a)
	}
	s.After()
	err := c.life.wait(durable, 2*time.Second)
	switch {
	case c.life.dead.Load():
		return false
	case err != nil: // nothing of the answer leaves
		c.life.w.count("not durable in time")
		c.stopped(p, 0)
		s.Step(&processor.NotDurable{Now: time.Now()})
		return false
	}
	p.heard = true
	return body
}

// content tells of the answer's body.
func (c *caller) content(s *processor.Stream, p *provider) (byEnvoy bool) {
	usage := fmt.Sprintf(`"usage":{"prompt_tokens":%d,"completion_tokens":%d}`, p.in, p.out)
	if p.end == noUsage {
		usage = `"usage":null`
	}
	defer func() { p.known = p.end != noUsage && !p.told && !c.life.dead.Load() }()
	text := func(tokens int) string { return strings.Repeat("abc", tokens) }
	chunk := func(text string, last bool) (goesOn bool) {
		a, ok := s.Step(&processor.ResponseBody{Chunk: []byte(text), EndOfStream: last, Now: time.Now()}).(*processor.Chunk)
		if ok && c.life.wait(a.Durable, 2*time.Second) != nil && !c.life.dead.Load() {
			c.life.w.count("not durable in time, cut")
			a, ok = s.Step(&processor.NotDurable{Now: time.Now()}).(*processor.Chunk)
		}
		if !ok {
			c.life.w.problem(3, "a chunk was not answered with one")
			return false
		}
		s.After()
		if a.Cut != "" {
			c.life.w.count("cut: " + a.Cut)
		}
		return a.Cut == ""
	}
	if !p.stream {
		chunk(fmt.Sprintf(`{"model":%q,"choices":[{"index":0,"message":{"content":%q},"finish_reason":"stop"}],%s}`, p.model.name, text(p.out-p.hidden), usage), true)
		return true
	}
	pause := time.Duration(p.hidden) * p.token
	for shown := 0; shown < p.out-p.hidden; {
		n := min(p.out-p.hidden-shown, 1+c.rng.IntN(chunkTokens))
		byEnvoy = c.sleep(pause + time.Duration(n)*p.token)
		pause = 0
		if early := p.end == hungUp || p.end == cutOff; !byEnvoy || early && shown >= p.at {
			c.stopped(p, shown)
			return byEnvoy
		}
		shown += n
		c.shows(p, shown)
		if !chunk(fmt.Sprintf("data: {\"model\":%q,\"choices\":[{\"index\":0,\"delta\":{\"content\":%q}}],\"usage\":null}\n\n", p.model.name, text(n)), false) {
			c.stopped(p, shown)
			return true
		}
	}
	ends := []string{"data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":null}\n\n"}
	if p.end != noUsage {
		ends = append(ends, "data: {\"choices\":[],"+usage+"}\n\n")
	}
	for _, text := range ends {
		if !chunk(text, false) {
			c.stopped(p, p.out)
			return true
		}
	}
	chunk("data: [DONE]\n\n", true)
	return true
}

// close ends the request as the ext_proc server does.
func (c *caller) close(s *processor.Stream, byEnvoy bool) {
	l := c.life
	if l.dead.Load() {
		return
	}
	var cause processor.Cause
	if s.Close(time.Now(), byEnvoy) {
		if c.rng.IntN(2) == 0 {
			cause = processor.Cause{Flags: "DC", Details: "downstream_remote_disconnect"}
		}
		time.Sleep(upTo(c.rng, 250*time.Millisecond))
		if l.dead.Load() {
			return
		}
	}
	s.Finish(time.Now(), cause)
	_ = l.wait(l.model.settledAt(s.RequestID()), time.Second) // only to know that it is safe
}
