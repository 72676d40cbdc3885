package processor_test

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"airgate/accounting/money"
)

// simCall is a call that was let go to the provider.
type simCall struct {
	id       string
	key      *simKey
	model    *simModel
	terms    *terms
	admitted time.Time
	accounts []string      // on which it counts, in the world's words
	cost     money.NanoUSD // what the provider bills
	heard    bool          // the caller has seen a byte of the answer
	known    bool          // airgate has been told what it cost, or that it cost nothing
}

// end is how a call ends, if it is let go.
type end uint8

const (
	answered    end = iota
	noUsage         // answered, but the provider does not say what it counted
	hungUp          // by the caller, at some time
	cutOff          // by the provider, at some time
	unreached       // Envoy could not connect to the provider
	refused         // the provider answered with an error
	timedOut        // Envoy waited in vain
	neverEnding     // nobody ever says anything again
)

// provider is what the provider makes of a call.
type provider struct {
	*simCall

	model   *simModel
	end     end
	stream  bool
	sliced  bool          // the end of airgate ends the call: then nothing more is billed
	in, out int           // tokens
	hidden  int           // of out, made before what is seen
	token   time.Duration // that it takes to make one; never less than airgate's estimates rest on
	begun   time.Time
	first   time.Duration // to the first byte
	at      int           // tokens after which the end comes, if it comes early
	told    bool          // to go no further
}

const chunkTokens = 60 // less than airgate allows for what it has not seen

func (c *caller) provider(m *simModel, stream bool, bytes, limit int) *provider {
	p := &provider{
		model: m, stream: stream, begun: time.Now(), in: 1 + c.rng.IntN(bytes), out: 1 + c.rng.IntN(min(limit, 800)),
		token: time.Duration(1100+c.rng.IntN(20_000)) * time.Microsecond,
	}
	if c.rng.IntN(8) == 0 {
		p.out = min(limit, pick(c.rng, 2000, 4000)) // it uses what it may
	}
	if m.reasons {
		p.hidden = c.rng.IntN(p.out)
	}
	p.first = upTo(c.rng, pick(c.rng, 10*time.Millisecond, time.Second, time.Minute))
	p.at = c.rng.IntN(p.out)
	if c.rng.IntN(3) == 0 {
		p.end = pick(c.rng, noUsage, hungUp, hungUp, cutOff, unreached, refused, timedOut, neverEnding)
	}
	if p.end == unreached || p.end == refused {
		p.in, p.out, p.hidden = 0, 0, 0
	}
	return p
}

// outputCap is the cap that the provider honours.
func (m *simModel) outputCap(body []byte) int {
	_, after, ok := strings.Cut(string(body), `"max_completion_tokens":`)
	if !ok {
		return m.limit
	}
	n, err := strconv.Atoi(after[:strings.IndexAny(after, ",}")])
	if err != nil {
		panic(err)
	}
	return n
}

// bill is what the provider bills for so much output.
func (p *provider) bill(out int) money.NanoUSD {
	return money.NanoUSD(p.in)*p.model.in + money.NanoUSD(out)*p.model.out
}

// stopped says that the provider was told, now, to go no further. shown is the
// output that airgate has seen of a stream.
func (c *caller) stopped(p *provider, shown int) {
	if p.told {
		return
	}
	p.told = true
	if c.life.dead.Load() {
		return // nobody tells it, or all that it can have made is counted
	}
	made := int(time.Since(p.begun) / p.token)
	if p.stream && (shown > 0 || p.sliced) {
		made = min(made, p.hidden+shown+chunkTokens) // and what is under way
	}
	c.life.w.log.Debug("stopped", slog.String("request_id", p.id), slog.Int("made", made), slog.Int("shown", shown))
	c.life.w.bill(p.simCall, p.bill(min(made, p.out)))
}

// shows says that airgate is about to see so much output of a sliced call, and that
// the provider may have made what is under way besides: invariant 1.
func (c *caller) shows(p *provider, shown int) {
	if !p.sliced {
		return
	}
	w, now := c.life.w, time.Now()
	w.bill(p.simCall, p.bill(min(p.out, shown+chunkTokens)))
	if p.terms != c.life.terms.Load() {
		return // limits may be lower than what is held within them
	}
	beyond := c.life.model.beyondOf(p.id)
	w.mu.Lock()
	var over []string
	for _, b := range p.terms.budgets {
		account, _ := b.account(p.key, p.admitted)
		if limit := max(b.limit(p.key, p.admitted), b.limit(p.key, now)) + beyond[b.name]; !b.shadow && b.covers(p.key, p.model) && w.truth[account] > limit {
			over = append(over, fmt.Sprintf("%s: true cost %s of %s", account, w.truth[account], limit))
		}
	}
	w.mu.Unlock()
	for _, o := range over {
		w.problem(1, "%s, as request %s goes on", o, p.id)
	}
}

// bill corrects the true cost of a call that the provider was told to end.
func (w *world) bill(c *simCall, cost money.NanoUSD) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range c.accounts {
		w.truth[a] += cost - c.cost
	}
	c.cost = cost
}
