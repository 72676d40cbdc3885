package accounting

import (
	"slices"
	"strings"
	"time"

	"airgate/accounting/money"
	"airgate/accounting/usage"
)

// Rates are the prices of the token buckets, each in nano-USD per million
// tokens. Reasoning is a part of Output and has no rate of its own.
//
// In a Price every rate is set. Where the price list names none, it is, so
// that no token is ever free by omission:
//   - CacheRead, InputAudio, InputImage: Input; no discount is assumed.
//   - CacheWrite5m: Input × 1.25 for Anthropic, whose cache writes always cost
//     that premium; for others Input, as their automatic caching charges a
//     premium only where the list says so.
//   - CacheWrite1h: Input × 2 where the five-minute write has a premium, and
//     never less than it; else Input.
//   - Output (embeddings): Input. OutputAudio, OutputImage: Output.
type Rates struct {
	Input        money.Rate
	CacheRead    money.Rate
	CacheWrite5m money.Rate
	CacheWrite1h money.Rate // one hour, or the longest retention the provider sells
	InputAudio   money.Rate
	InputImage   money.Rate
	Output       money.Rate
	OutputAudio  money.Rate
	OutputImage  money.Rate
}

// Tier is a long-context row: these rates hold for the whole of an item whose
// total input, cached tokens included, is strictly above Above.
type Tier struct {
	Above money.Tokens
	Rates Rates
}

// Schedule is what one service tier costs.
type Schedule struct {
	Rates        // up to the first Tier
	Tiers []Tier // ascending
}

// Service is a schedule a provider sells under a name: "priority", "flex",
// "batch", "fast".
type Service struct {
	Name string
	Schedule
}

// Uplift is the factor Num/Den on every token rate of calls inferred in Region.
type Uplift struct {
	Region   string
	Num, Den uint64
}

// CallRate is the price of server-side tool calls of one kind, in nano-USD per
// million calls.
type CallRate struct {
	Kind string
	Rate money.Rate
}

// Price is one dated row of the catalogue with everything a call of that model
// can be billed by. It is immutable and safe for concurrent use.
type Price struct {
	ID       string // "openai/gpt-5.4-mini@launch", "anthropic/claude-sonnet-4-6@2026-03-13"
	Provider string // "openai", "anthropic"
	Model    string // the family's name, without date
	From     time.Time
	Source   string // the published price list, or "override"

	MaxOutput     money.Tokens // the most the model can answer with; 0 = not known
	ContextWindow money.Tokens // the most input it takes; 0 = not known

	Schedule // the standard service
	Services []Service
	Uplifts  []Uplift
	Calls    []CallRate

	unasked Schedule // pointwise dearest of all services an account's settings may choose
}

// Reach says which dearer rows a request can end on, as far as the request
// itself tells. The zero value is a request that says nothing.
type Reach struct {
	CacheWrite   bool         // it marks cache_control
	CacheWrite1h bool         // with the long lifetime
	ServiceTier  string       // as requested; "" and "auto" leave it to the provider account's settings
	Speed        string       // as requested
	Geo          string       // inference region as requested or as the endpoint implies
	Calls        []usage.Call // the most server-side tool calls of each kind
}

// UnpricedError names what Cost or Worst found no price for. The amount returned
// with it counts an unpriced model at the rates of the price it was asked of,
// and an unpriced call as nothing: it is a floor, and must be marked as such.
type UnpricedError struct {
	Models []string
	Calls  []string
}

// Error lists the models and kinds of calls.
func (e *UnpricedError) Error() string {
	var parts []string
	if len(e.Models) > 0 {
		parts = append(parts, "model "+strings.Join(e.Models, ", "))
	}
	if len(e.Calls) > 0 {
		parts = append(parts, "calls of "+strings.Join(e.Calls, ", "))
	}
	return "no price for " + strings.Join(parts, " and for ")
}

// Cost is what u costs, rounded up once. Every item is priced by its own model
// (p's where it names none or the one that served), its own long-context tier,
// and the service tier, speed and region of the answer. lookup finds the price
// of another item's model; it may be nil and may return nil.
//
// A service tier without a schedule of its own costs as the standard one if it
// is a discount (flex, batch), else as the dearest the model has. An unknown
// region costs the highest uplift.
//
// The error is *UnpricedError, with an amount that leaves that part out, or
// money.ErrOverflow, with the largest amount there is.
func (p *Price) Cost(u *usage.Usage, lookup func(model string) *Price) (money.NanoUSD, error) {
	var sum money.Sum
	var missing *UnpricedError
	for i := range u.Items {
		item := &u.Items[i]
		q := p
		if item.Model != "" && item.Model != u.Model && item.Model != p.Model {
			q = nil
			if lookup != nil {
				q = lookup(item.Model)
			}
			if q == nil {
				missing = missing.model(item.Model)
				q = p
			}
		}
		q.addItem(&sum, &item.Tokens, u)
	}
	missing = p.addCalls(&sum, u.Calls, missing)
	return roundUp(&sum, missing)
}

func (p *Price) addItem(sum *money.Sum, t *usage.Tokens, u *usage.Usage) {
	r := p.service(u.ServiceTier, u.Speed).rates(t.TotalInput())
	var item money.Sum
	item.Add(t.Input, r.Input)
	item.Add(t.CacheRead, r.CacheRead)
	item.Add(t.CacheWrite5m, r.CacheWrite5m)
	item.Add(t.CacheWrite1h, r.CacheWrite1h)
	item.Add(t.InputAudio, r.InputAudio)
	item.Add(t.InputImage, r.InputImage)
	item.Add(t.Output, r.Output)
	item.Add(t.OutputAudio, r.OutputAudio)
	item.Add(t.OutputImage, r.OutputImage)
	if up := p.uplift(u.Geo); up != nil {
		item.Scale(up.Num, up.Den)
	}
	sum.AddSum(&item)
}

// Worst is the most that a call of p's model can cost whose input, over all
// its items, is at most in tokens and whose output at most out (times the
// choices asked for: the caller's product). Each input token is counted at the
// dearest input rate the request can reach, each output token at the dearest
// output rate:
//   - of every long-context tier that begins below in;
//   - of the standard service, and of the one asked for. A request that asks
//     for none, or for auto, may be served by any the account is set to:
//     priority counts. Speed only where asked;
//   - at the cache-write rate if the request marks cache_control, and always
//     where the provider caches unasked; never at the cached rate;
//   - with the uplift of the region asked for. An Anthropic workspace may have
//     a default region, so there a request that names none takes the highest;
//   - with Reach.Calls at their price.
//
// Items of other models are the caller's to add. Errors are those of Cost.
func (p *Price) Worst(in, out money.Tokens, r Reach) (money.NanoUSD, error) {
	b := p.bound(in, &r)
	return b.cost(out)
}

// Fit is the largest output, at most most, whose Worst with so much input does
// not exceed room. ok is false if not even an answer of no tokens fits.
func (p *Price) Fit(room money.NanoUSD, in, most money.Tokens, r Reach) (out money.Tokens, ok bool) {
	b := p.bound(in, &r)
	fits := func(out money.Tokens) bool {
		cost, err := b.cost(out)
		return err == nil && cost <= room
	}
	if !fits(0) {
		return 0, false
	}
	low, high := money.Tokens(0), max(most, 0)
	for low < high { // low fits, what is above high does not or is not wanted
		middle := high - (high-low)/2
		if fits(middle) {
			low = middle
		} else {
			high = middle - 1
		}
	}
	return low, true
}

// bound is Worst for a given input: output is left to say.
type bound struct {
	input   money.Sum
	calls   money.Sum
	output  money.Rate
	uplift  *Uplift
	missing *UnpricedError
}

func (p *Price) bound(in money.Tokens, r *Reach) bound {
	b := bound{uplift: p.reachableUplift(r.Geo)}
	var input money.Rate
	input, b.output = p.dearest(in, r)
	b.input.Add(in, input)
	b.missing = p.addCalls(&b.calls, r.Calls, nil)
	return b
}

func (b *bound) cost(out money.Tokens) (money.NanoUSD, error) {
	sum := b.input
	sum.Add(out, b.output)
	if b.uplift != nil {
		sum.Scale(b.uplift.Num, b.uplift.Den)
	}
	sum.AddSum(&b.calls)
	return roundUp(&sum, b.missing)
}

// CallRate is the price of a kind of server-side tool call.
func (p *Price) CallRate(kind string) (money.Rate, bool) {
	for i := range p.Calls {
		if p.Calls[i].Kind == kind {
			return p.Calls[i].Rate, true
		}
	}
	return 0, false
}

func (p *Price) addCalls(sum *money.Sum, calls []usage.Call, missing *UnpricedError) *UnpricedError {
	for i := range calls {
		if calls[i].Count <= 0 {
			continue
		}
		rate, ok := p.CallRate(calls[i].Kind)
		if !ok {
			missing = missing.call(calls[i].Kind)
		}
		sum.Add(money.Tokens(calls[i].Count), rate)
	}
	return missing
}

func roundUp(sum *money.Sum, missing *UnpricedError) (money.NanoUSD, error) {
	cost, err := sum.Ceil()
	if err == nil && missing != nil {
		err = missing
	}
	return cost, err
}

func (e *UnpricedError) model(name string) *UnpricedError {
	if e == nil {
		e = &UnpricedError{}
	}
	if !slices.Contains(e.Models, name) {
		e.Models = append(e.Models, name)
	}
	return e
}

func (e *UnpricedError) call(kind string) *UnpricedError {
	if e == nil {
		e = &UnpricedError{}
	}
	if !slices.Contains(e.Calls, kind) {
		e.Calls = append(e.Calls, kind)
	}
	return e
}

// Names of service tiers that providers use for the standard one, and of the
// others this package knows something about.
const (
	vendorAnthropic = "anthropic"

	tierAuto     = "auto"
	tierFast     = "fast" // Anthropic's speed, and OpenAI's newer word for priority
	tierPriority = "priority"
	tierFlex     = "flex"
	tierBatch    = "batch"
)

// standardTier reports whether a service tier is the standard one by name.
func standardTier(tier string) bool {
	switch tier {
	case "default", "standard", "standard_only":
		return true
	}
	return false
}

// find returns the schedule sold under a name, nil if there is none.
func (p *Price) find(name string) *Schedule {
	for i := range p.Services {
		if p.Services[i].Name == name {
			return &p.Services[i].Schedule
		}
	}
	if name == tierFast {
		return p.find(tierPriority)
	}
	return nil
}

// service is the schedule an answer is billed by.
func (p *Price) service(tier, speed string) *Schedule {
	if speed == tierFast {
		tier = tierFast
	}
	if tier == "" || tier == tierAuto || standardTier(tier) {
		return &p.Schedule
	}
	if s := p.find(tier); s != nil {
		return s
	}
	if tier == tierFlex || tier == tierBatch {
		return &p.Schedule
	}
	return &p.unasked
}

// dearest returns the highest input and output rate a request can reach.
func (p *Price) dearest(in money.Tokens, r *Reach) (inRate, outRate money.Rate) {
	written := r.CacheWrite || p.Provider != vendorAnthropic
	reach := func(s *Schedule) {
		if s == nil {
			return
		}
		top := func(q *Rates) {
			inRate = max(inRate, q.Input, q.CacheRead, q.InputAudio, q.InputImage)
			outRate = max(outRate, q.Output, q.OutputAudio, q.OutputImage)
			if written {
				inRate = max(inRate, q.CacheWrite5m)
			}
			if r.CacheWrite1h {
				inRate = max(inRate, q.CacheWrite1h)
			}
		}
		top(&s.Rates)
		for i := range s.Tiers {
			if s.Tiers[i].Above < in {
				top(&s.Tiers[i].Rates)
			}
		}
	}
	reach(&p.Schedule)
	if r.Speed != "" {
		reach(p.find(r.Speed))
	}
	if named := p.find(r.ServiceTier); named != nil {
		reach(named)
	} else if !standardTier(r.ServiceTier) {
		reach(&p.unasked)
	}
	return inRate, outRate
}

// uplift is that of the region an answer was inferred in, nil for none.
func (p *Price) uplift(region string) *Uplift {
	if region == "" || region == "global" || region == "not_available" {
		return nil
	}
	for i := range p.Uplifts {
		if p.Uplifts[i].Region == region {
			return &p.Uplifts[i]
		}
	}
	return p.highestUplift()
}

func (p *Price) reachableUplift(region string) *Uplift {
	if region == "" && p.Provider == vendorAnthropic {
		return p.highestUplift()
	}
	return p.uplift(region)
}

func (p *Price) highestUplift() *Uplift {
	var top *Uplift
	for i := range p.Uplifts {
		if u := &p.Uplifts[i]; top == nil || u.Num*top.Den > top.Num*u.Den {
			top = u
		}
	}
	return top
}

// rates is the row for an item with so much input.
func (s *Schedule) rates(in money.Tokens) *Rates {
	for i := len(s.Tiers) - 1; i >= 0; i-- {
		if in > s.Tiers[i].Above {
			return &s.Tiers[i].Rates
		}
	}
	return &s.Rates
}

// join is the pointwise dearest of two schedules.
func (s *Schedule) join(o *Schedule) Schedule {
	joined := Schedule{Rates: s.Rates.join(&o.Rates)}
	for _, above := range thresholds(s, o) {
		joined.Tiers = append(joined.Tiers, Tier{Above: above, Rates: s.rates(above + 1).join(o.rates(above + 1))})
	}
	return joined
}

func thresholds(schedules ...*Schedule) []money.Tokens {
	var all []money.Tokens
	for _, s := range schedules {
		for i := range s.Tiers {
			all = append(all, s.Tiers[i].Above)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (r *Rates) join(o *Rates) Rates {
	joined := *r
	for i, field := range joined.fields() {
		*field = max(*field, *o.fields()[i])
	}
	return joined
}

// buckets is how many rates there are.
const buckets = 9

// fields lists the rates in the order of bucketNames.
func (r *Rates) fields() [buckets]*money.Rate {
	return [...]*money.Rate{
		&r.Input, &r.CacheRead, &r.CacheWrite5m, &r.CacheWrite1h, &r.InputAudio, &r.InputImage,
		&r.Output, &r.OutputAudio, &r.OutputImage,
	}
}

// bucketNames are the keys of the rates in the catalogue's file.
func bucketNames() [buckets]string {
	return [...]string{
		"input", "cacheRead", "cacheWrite5m", "cacheWrite1h", "inputAudio", "inputImage",
		"output", "outputAudio", "outputImage",
	}
}

// unstated marks a rate the price list does not name, until fill.
const unstated money.Rate = -1

// fill sets the rates that the list does not state by the rule of Rates. Input
// is always stated.
func (r *Rates) fill(provider string) {
	or := func(rate *money.Rate, otherwise money.Rate) {
		if *rate == unstated {
			*rate = otherwise
		}
	}
	or(&r.CacheRead, r.Input)
	if provider == vendorAnthropic {
		or(&r.CacheWrite5m, scaleRate(r.Input, 5, 4))
	}
	or(&r.CacheWrite5m, r.Input)
	if r.CacheWrite5m > r.Input {
		or(&r.CacheWrite1h, max(r.CacheWrite5m, scaleRate(r.Input, 2, 1)))
	}
	or(&r.CacheWrite1h, r.Input)
	or(&r.InputAudio, r.Input)
	or(&r.InputImage, r.Input)
	or(&r.Output, r.Input)
	or(&r.OutputAudio, r.Output)
	or(&r.OutputImage, r.Output)
}
