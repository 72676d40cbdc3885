package accounting

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed" // catalogue.json
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/bits"
	"slices"
	"strings"
	"time"

	"airgate/accounting/money"
)

// The built-in price list. Its sources, their versions and licences are in its
// header; catalogue.LICENSE keeps their notices. To renew it, raise the
// versions and sums in catalogue_gen.go and run go generate: rows are only
// added, never changed, and every difference between the two sources is
// printed for review.
//
//go:generate go run catalogue_gen.go
//go:embed catalogue.json
var builtinCatalogue []byte

// Catalogue is a set of dated prices. It is immutable and safe for concurrent
// use.
type Catalogue struct {
	version string
	models  map[modelName]*priced // every name of every model
}

// modelName is a model as callers and providers write it.
type modelName struct{ provider, name string }

// priced is a model with its rows, oldest first.
type priced struct {
	provider, model string
	context, output money.Tokens
	uplifts         []Uplift
	calls           []CallRate
	rows            []row
	prices          []*Price // rows, compiled
}

// row is what a price list says from one day on. Its first sheet is the
// standard one.
type row struct {
	id     string
	from   time.Time
	source string
	sheets []sheet
}

// sheet is one line of a price list; rates may be unstated.
type sheet struct {
	service string
	above   money.Tokens
	rates   Rates
}

// PriceOverride is a contracted or corrected price of one model, in force from
// From on (zero: always) until the next override of that model. It outlives
// later rows of the catalogue, which only lend the fields it leaves nil. Long
// context, priority and the other schedules keep their ratio to the fields it
// sets.
type PriceOverride struct {
	Provider string // "openai", "anthropic"
	Model    string // as sent to the provider; the family's name covers its dated ones
	From     time.Time

	Input, CacheRead, CacheWrite5m, CacheWrite1h, Output *money.Rate
}

// Builtin is the price list this program was built with. It panics if that
// list is broken, which its tests exclude.
func Builtin() *Catalogue {
	c, err := readCatalogue(builtinCatalogue)
	if err != nil {
		panic("accounting: built-in catalogue: " + err.Error())
	}
	return c
}

// Version names the content of the catalogue, overrides included: the day it
// was checked and a part of its SHA-256. Equal versions mean equal prices.
func (c *Catalogue) Version() string { return c.version }

// Price is the row for a model of a provider ("openai", "anthropic") at a
// time: the last one with From ≤ at. A dated or -latest name is priced as its
// family unless the list has it by itself (gpt-4o-2024-05-13), and a fine-tuned
// one (ft:family:org:…) as fine-tuning of its family. ok is false for a model
// the catalogue does not know; it is never priced by guess.
func (c *Catalogue) Price(provider, model string, at time.Time) (p *Price, ok bool) {
	m := c.lookup(provider, model)
	if m == nil {
		return nil, false
	}
	for _, p := range slices.Backward(m.prices) {
		if !p.From.After(at) {
			return p, true
		}
	}
	return nil, false
}

func (c *Catalogue) lookup(provider, model string) *priced {
	for {
		if m := c.models[modelName{provider, model}]; m != nil {
			return m
		}
		name := family(model)
		if name == model {
			return nil
		}
		model = name
	}
}

// family takes one thing off a model's name that does not change its price:
// the owner of a fine-tuned model (ft:gpt-4o-2024-08-06:acme::Ab12), -latest,
// or a date (gpt-5.4-mini-2026-03-17, claude-sonnet-4-5-20250929,
// claude-sonnet-4@20250514).
func family(model string) string {
	if tuned, ok := strings.CutPrefix(model, "ft:"); ok {
		if base, _, owned := strings.Cut(tuned, ":"); owned {
			return model[:len("ft:")+len(base)]
		}
	}
	if name, ok := strings.CutSuffix(model, "-latest"); ok {
		return name
	}
	for _, layout := range [...]string{"-2006-01-02", "-20060102", "@20060102"} {
		if cut := len(model) - len(layout); cut > 0 && looksLikeDate(model[cut:], layout) {
			return model[:cut]
		}
	}
	return model
}

// looksLikeDate compares character by character, a digit of the layout for any
// digit: time.Parse would allocate its error for every other name.
func looksLikeDate(s, layout string) bool {
	var digits [8]byte
	n := 0
	for i := range len(layout) {
		switch d := '0' <= s[i] && s[i] <= '9'; {
		case layout[i] < '0' || layout[i] > '9':
			if s[i] != layout[i] {
				return false
			}
		case !d:
			return false
		default:
			digits[n] = s[i] - '0'
			n++
		}
	}
	month, day := digits[4]*10+digits[5], digits[6]*10+digits[7]
	return digits[0] == 2 && digits[1] == 0 && 1 <= month && month <= 12 && 1 <= day && day <= 31
}

// With returns the catalogue with prices of one's own over it. The new rows
// have IDs with "+override". A model the catalogue does not know needs Input
// and Output. The error joins every problem.
func (c *Catalogue) With(overrides []PriceOverride) (*Catalogue, error) {
	if len(overrides) == 0 {
		return c, nil
	}
	var problems []error
	byModel := make(map[modelName][]PriceOverride)
	for _, o := range overrides {
		name := modelName{o.Provider, o.Model}
		if m := c.models[name]; m != nil {
			name.name = m.model // an alias: the same model
		}
		if slices.ContainsFunc(byModel[name], func(other PriceOverride) bool { return other.From.Equal(o.From) }) {
			problems = append(problems, fmt.Errorf("price %s/%s: two overrides from %s", o.Provider, o.Model, day(o.From)))
		}
		byModel[name] = append(byModel[name], o)
	}
	next := &Catalogue{models: maps.Clone(c.models)}
	sum := sha256.New()
	_, _ = io.WriteString(sum, c.version)
	for _, name := range slices.SortedFunc(maps.Keys(byModel), func(a, b modelName) int {
		return strings.Compare(a.provider+"/"+a.name, b.provider+"/"+b.name)
	}) {
		m, err := c.override(name, byModel[name])
		if err != nil {
			problems = append(problems, err)
			continue
		}
		replaced := c.models[name]
		for other, model := range next.models {
			if model == replaced {
				next.models[other] = m
			}
		}
		next.models[name] = m
		for _, p := range m.prices {
			_, _ = io.WriteString(sum, "\n"+p.ID)
		}
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	checked, _, _ := strings.Cut(c.version, "+")
	next.version = checked + "+override." + hex.EncodeToString(sum.Sum(nil))[:12]
	return next, nil
}

// override makes the rows of one model: one for each day on which the list's
// price or one's own changes.
func (c *Catalogue) override(name modelName, overrides []PriceOverride) (*priced, error) {
	slices.SortFunc(overrides, func(a, b PriceOverride) int { return a.From.Compare(b.From) })
	base := c.lookup(name.provider, name.name)
	m := &priced{provider: name.provider, model: name.name}
	if base != nil {
		*m = *base
		m.model, m.rows, m.prices = name.name, nil, nil
	}
	var days []time.Time
	for _, o := range overrides {
		days = append(days, o.From)
	}
	if base != nil {
		for i := range base.rows {
			days = append(days, base.rows[i].from)
		}
	}
	slices.SortFunc(days, time.Time.Compare)
	for _, from := range slices.CompactFunc(days, time.Time.Equal) {
		var r *row
		if base != nil {
			r = rowAt(base.rows, from)
		}
		o := overrideAt(overrides, from)
		if o != nil {
			var err error
			if r, err = o.over(r, name); err != nil {
				return nil, err
			}
		}
		if r != nil {
			dated := *r
			dated.from = from
			m.rows = append(m.rows, dated)
		}
	}
	m.compile()
	return m, nil
}

func rowAt(rows []row, at time.Time) *row {
	for i := len(rows) - 1; i >= 0; i-- {
		if !rows[i].from.After(at) {
			return &rows[i]
		}
	}
	return nil
}

func overrideAt(overrides []PriceOverride, at time.Time) *PriceOverride {
	for i := len(overrides) - 1; i >= 0; i-- {
		if !overrides[i].From.After(at) {
			return &overrides[i]
		}
	}
	return nil
}

// over lays the override over a row of the list, which may be nil.
func (o *PriceOverride) over(r *row, name modelName) (*row, error) {
	given := [buckets]*money.Rate{o.Input, o.CacheRead, o.CacheWrite5m, o.CacheWrite1h, 6: o.Output}
	next := row{source: "override"}
	switch {
	case r != nil:
		next.id = r.id
		next.sheets = slices.Clone(r.sheets)
	case o.Input == nil || o.Output == nil:
		return nil, fmt.Errorf("price %s/%s: not in the catalogue: give input and output", o.Provider, o.Model)
	default:
		next.id = rowID(name.provider, name.name, time.Time{})
		next.sheets = []sheet{{rates: unstatedRates()}}
	}
	listed := next.sheets[0].rates
	if r != nil {
		listed.fill(name.provider)
	}
	var content strings.Builder
	for i, rate := range given {
		if rate == nil {
			continue
		}
		if *rate < 0 {
			return nil, fmt.Errorf("price %s/%s: %s: %w", o.Provider, o.Model, bucketNames()[i], money.ErrNegative)
		}
		fmt.Fprintf(&content, "%s=%d ", bucketNames()[i], *rate)
		was := *listed.fields()[i]
		*next.sheets[0].rates.fields()[i] = *rate
		for j := 1; j < len(next.sheets); j++ {
			other := next.sheets[j].rates.fields()[i]
			switch {
			case *other == unstated:
			case was > 0:
				*other = scaleRate(*other, *rate, was)
			default:
				*other = max(*other, *rate)
			}
		}
	}
	sum := sha256.Sum256([]byte(content.String()))
	next.id += "+override." + day(o.From) + "." + hex.EncodeToString(sum[:4])
	return &next, nil
}

// scaleRate is rate × num / den, rounded up, and the largest rate if it does
// not fit.
func scaleRate(rate, num, den money.Rate) money.Rate {
	const largest = 1<<63 - 1
	hi, lo := bits.Mul64(uint64(rate), uint64(num))
	if hi >= uint64(den) {
		return largest
	}
	q, rest := bits.Div64(hi, lo, uint64(den))
	if q >= largest {
		return largest
	}
	if rest > 0 {
		q++
	}
	return money.Rate(q)
}

func unstatedRates() Rates {
	var r Rates
	for _, rate := range r.fields() {
		*rate = unstated
	}
	return r
}

// rowID is stable: a row of the list is never changed under its ID.
func rowID(provider, model string, from time.Time) string {
	return provider + "/" + model + "@" + day(from)
}

// day is the date of a row; a row that holds since the model exists has none.
func day(t time.Time) string {
	if t.IsZero() {
		return "launch"
	}
	if t = t.UTC(); t.Equal(t.Truncate(24 * time.Hour)) {
		return t.Format(time.DateOnly)
	}
	return t.Format(time.RFC3339)
}

// compile makes a Price of each row.
func (m *priced) compile() {
	m.prices = make([]*Price, 0, len(m.rows))
	for i := range m.rows {
		m.prices = append(m.prices, m.price(&m.rows[i]))
	}
}

func (m *priced) price(r *row) *Price {
	p := &Price{
		ID: r.id, Provider: m.provider, Model: m.model, From: r.from, Source: r.source,
		MaxOutput: m.output, ContextWindow: m.context,
		Uplifts: m.uplifts, Calls: m.calls,
	}
	for i := range r.sheets {
		s := &r.sheets[i]
		rates := s.rates
		rates.fill(m.provider)
		schedule := p.find(s.service)
		if s.service == "" {
			schedule = &p.Schedule
		}
		switch {
		case schedule == nil || i == 0:
			if s.service != "" {
				p.Services = append(p.Services, Service{Name: s.service, Schedule: Schedule{Rates: rates}})
			} else {
				p.Rates = rates
			}
		default:
			schedule.Tiers = append(schedule.Tiers, Tier{Above: s.above, Rates: rates})
		}
	}
	p.unasked = p.Schedule
	for i := range p.Services {
		switch s := &p.Services[i]; s.Name { // fast and ultrafast are sold to those who ask
		case tierPriority, tierFlex, tierBatch:
			p.unasked = p.unasked.join(&s.Schedule)
		}
	}
	return p
}

// The file of a catalogue. One line per model and per row, so that a change of
// price is a change of one line.
type (
	catalogueFile struct {
		About  aboutFile   `json:"about"`
		Models []modelFile `json:"models"`
		Prices []priceFile `json:"prices"`
	}
	aboutFile struct {
		Checked string       `json:"checked"` // the day the rows were reviewed
		Sources []sourceFile `json:"sources"` // the first is that of all rows that name none
	}
	sourceFile struct {
		Name    string `json:"name"`
		Version string `json:"version"`
		File    string `json:"file"` // as published on PyPI
		SHA256  string `json:"sha256"`
		Licence string `json:"licence"`
		URL     string `json:"url"`
		Use     string `json:"use"`
	}
	modelFile struct {
		Model   string            `json:"model"` // provider/name
		Names   []string          `json:"names,omitempty"`
		Context money.Tokens      `json:"context,omitempty"`
		Output  money.Tokens      `json:"output,omitempty"`
		Uplift  map[string]string `json:"uplift,omitempty"` // region → factor
		Calls   map[string]string `json:"calls,omitempty"`  // kind → USD per 1,000 calls
	}
	priceFile struct {
		Model   string       `json:"model"`
		From    string       `json:"from,omitempty"`    // day, UTC; none: since launch
		Service string       `json:"service,omitempty"` // none: standard
		Above   money.Tokens `json:"above,omitempty"`
		Source  string       `json:"source,omitempty"`
		rateFile
	}
	rateFile struct {
		Input        *money.Rate `json:"input,omitempty"`
		CacheRead    *money.Rate `json:"cacheRead,omitempty"`
		CacheWrite5m *money.Rate `json:"cacheWrite5m,omitempty"`
		CacheWrite1h *money.Rate `json:"cacheWrite1h,omitempty"`
		InputAudio   *money.Rate `json:"inputAudio,omitempty"`
		InputImage   *money.Rate `json:"inputImage,omitempty"`
		Output       *money.Rate `json:"output,omitempty"`
		OutputAudio  *money.Rate `json:"outputAudio,omitempty"`
		OutputImage  *money.Rate `json:"outputImage,omitempty"`
	}
)

func (f *rateFile) rates() Rates {
	r := unstatedRates()
	for i, given := range [buckets]*money.Rate{
		f.Input, f.CacheRead, f.CacheWrite5m, f.CacheWrite1h, f.InputAudio, f.InputImage,
		f.Output, f.OutputAudio, f.OutputImage,
	} {
		if given != nil {
			*r.fields()[i] = *given
		}
	}
	return r
}

// readCatalogue reads the file's format, strictly.
func readCatalogue(data []byte) (*Catalogue, error) {
	var file catalogueFile
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&file); err != nil {
		return nil, fmt.Errorf("read catalogue: %w", err)
	}
	if len(file.About.Sources) == 0 {
		return nil, errors.New("read catalogue: no source named")
	}
	sources := make(map[string]string) // :: name → name and version
	for _, s := range file.About.Sources {
		sources[s.Name] = s.Name + " " + s.Version
	}
	first := file.About.Sources[0].Name

	sum := sha256.Sum256(data)
	c := &Catalogue{
		version: file.About.Checked + "." + hex.EncodeToString(sum[:6]),
		models:  make(map[modelName]*priced, 2*len(file.Models)),
	}
	byID := make(map[string]*priced, len(file.Models))
	for i := range file.Models {
		f := &file.Models[i]
		m, err := f.read()
		if err != nil {
			return nil, fmt.Errorf("model %s: %w", f.Model, err)
		}
		byID[f.Model] = m
		for _, name := range append([]string{m.model}, f.Names...) {
			if c.models[modelName{m.provider, name}] != nil {
				return nil, fmt.Errorf("model %s: the name %s is taken", f.Model, name)
			}
			c.models[modelName{m.provider, name}] = m
		}
	}
	for i := range file.Prices {
		f := &file.Prices[i]
		m, source := byID[f.Model], sources[cmp.Or(f.Source, first)]
		if m == nil || source == "" {
			return nil, fmt.Errorf("price of %s: unknown model or source", f.Model)
		}
		if err := m.addSheet(f, source); err != nil {
			return nil, fmt.Errorf("price of %s: %w", f.Model, err)
		}
	}
	for id, m := range byID {
		if len(m.rows) == 0 {
			return nil, fmt.Errorf("model %s: no price", id)
		}
		m.compile()
	}
	return c, nil
}

func (f *modelFile) read() (*priced, error) {
	provider, name, ok := strings.Cut(f.Model, "/")
	if !ok || provider == "" || name == "" {
		return nil, errors.New("want provider/name")
	}
	m := &priced{provider: provider, model: name, context: f.Context, output: f.Output}
	for _, region := range slices.Sorted(maps.Keys(f.Uplift)) {
		factor, err := money.ParseRate(f.Uplift[region])
		if err != nil {
			return nil, fmt.Errorf("uplift %s: %w", region, err)
		}
		num, den := uint64(factor), uint64(money.USD)
		for num%10 == 0 && den > 1 {
			num, den = num/10, den/10
		}
		m.uplifts = append(m.uplifts, Uplift{Region: region, Num: num, Den: den})
	}
	for _, kind := range slices.Sorted(maps.Keys(f.Calls)) {
		perThousand, err := money.ParseRate(f.Calls[kind])
		if err != nil {
			return nil, fmt.Errorf("calls %s: %w", kind, err)
		}
		m.calls = append(m.calls, CallRate{Kind: kind, Rate: scaleRate(perThousand, 1000, 1)})
	}
	return m, nil
}

// addSheet appends one line of the list: rows in order of time, in a row the
// standard service first, each service from its base up.
func (m *priced) addSheet(f *priceFile, source string) error {
	if f.Input == nil {
		return errors.New("no input rate")
	}
	var from time.Time
	if f.From != "" {
		var err error
		if from, err = time.Parse(time.DateOnly, f.From); err != nil {
			return err
		}
	}
	s := sheet{service: f.Service, above: f.Above, rates: f.rates()}
	last := len(m.rows) - 1
	if last < 0 || m.rows[last].from.Before(from) {
		if s.service != "" || s.above != 0 {
			return errors.New("a row begins with its standard rates")
		}
		m.rows = append(m.rows, row{id: rowID(m.provider, m.model, from), from: from, source: source, sheets: []sheet{s}})
		return nil
	}
	r := &m.rows[last]
	before := r.sheets[len(r.sheets)-1]
	switch {
	case !r.from.Equal(from):
		return errors.New("rows are not in order of time")
	case before.service == s.service && before.above >= s.above:
		return errors.New("tiers are not in order")
	case before.service != s.service && s.above != 0:
		return errors.New("a service begins with its base rates")
	case before.service != s.service && slices.ContainsFunc(r.sheets, func(o sheet) bool { return o.service == s.service }):
		return fmt.Errorf("service %q twice", s.service)
	}
	r.sheets = append(r.sheets, s)
	return nil
}
