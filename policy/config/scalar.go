package config

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"airgate/accounting"
	"airgate/accounting/money"
)

// Bounds on what a file may hold. A ConfigMap holds at most 1 MiB.
const (
	maxFileBytes = 8 << 20
	maxFiles     = 1_000
	maxTextRunes = 1_024
	maxExprBytes = 16_384
	maxCount     = 1<<53 - 1 // a shared store may count in doubles
	maxBudgetUSD = 9_000_000_000 * money.USD
)

// source returns the text of a scalar as it stands in the file, quotes and
// escapes resolved. Numbers are read from it, never from a float.
func (d *decoder) source(n *yaml.Node, want string) (string, bool) {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		d.report(n, "must be %s, not %s", want, shape(n))
		return "", false
	}
	if n.Value == "" {
		d.report(n, "must be %s, not empty", want)
		return "", false
	}
	return n.Value, true
}

// text is one line of words: never empty, no control characters.
type text struct {
	at
	v string
}

func (t *text) decode(d *decoder, n *yaml.Node, _ reflect.StructTag) {
	v, ok := d.source(n, "text")
	switch {
	case !ok:
	case n.Tag != "!!str":
		d.report(n, "must be text, not %s: write it in quotes", shape(n))
	case utf8.RuneCountInString(v) > maxTextRunes:
		d.report(n, "is longer than %d characters", maxTextRunes)
	case strings.ContainsFunc(v, unicode.IsControl):
		d.report(n, "must be one line of text, without control characters")
	default:
		t.at, t.v = d.at(n), v
	}
}

// label is a text that names something: labels of metrics, parts of accounts
// and of paths are made of it, and * would be a glob.
type label struct{ text }

func (l *label) decode(d *decoder, n *yaml.Node, tag reflect.StructTag) {
	var t text
	if t.decode(d, n, tag); !t.given() {
		return
	}
	if why := badLabel(t.v, tag.Get("also")); why != "" {
		d.report(n, "name %s %s", quote(t.v), why)
		return
	}
	l.text = t
}

func badLabel(s, also string) string {
	const most, marks = 128, "._-@+"
	if len(s) > most {
		return "is longer than " + strconv.Itoa(most) + " bytes"
	}
	for i, r := range s {
		letter := r < utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsDigit(r))
		if !letter && (i == 0 || !strings.ContainsRune(marks+also, r)) {
			return "must be letters, digits and any of " + marks + also + ", and begin with a letter or digit"
		}
	}
	return ""
}

// upstreamName is a provider's own name of a model. It may hold what a label
// may not, such as the ARN of a profile.
type upstreamName struct{ text }

func (u *upstreamName) decode(d *decoder, n *yaml.Node, tag reflect.StructTag) {
	var t text
	if t.decode(d, n, tag); !t.given() {
		return
	}
	if strings.ContainsFunc(t.v, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
		d.report(n, "must be the provider's name of the model: printable ASCII without spaces, quotes or backslashes")
		return
	}
	u.text = t
}

// expression is a CEL expression, over several lines if need be. rows are the
// places of its lines, empty where folding or escapes have moved them.
type expression struct {
	text
	rows []at
}

func (e *expression) decode(d *decoder, n *yaml.Node, _ reflect.StructTag) {
	v, ok := d.source(n, "an expression in quotes")
	switch {
	case !ok:
	case n.Tag != "!!str":
		d.report(n, "must be an expression in quotes, not %s", shape(n))
	case len(v) > maxExprBytes:
		d.report(n, "is longer than %d bytes", maxExprBytes)
	default:
		e.at, e.v = d.at(n), v
		e.rows = d.rows(n)
	}
}

// rows finds the lines of a scalar in the file.
func (d *decoder) rows(n *yaml.Node) []at {
	first, column := n.Line-1, n.Column-1
	if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
		column++
	}
	literal := n.Style&yaml.LiteralStyle != 0
	if literal {
		first++
	}
	var out []at
	for i, want := range strings.Split(strings.TrimSuffix(n.Value, "\n"), "\n") {
		if first+i >= len(d.lines) {
			return nil
		}
		line := []rune(strings.TrimSuffix(d.lines[first+i], "\r"))
		switch {
		case literal && want == "":
			column = 0
		case literal:
			column = len(line) - utf8.RuneCountInString(want)
		case i > 0:
			return nil
		}
		if column < 0 || column > len(line) || !strings.HasPrefix(string(line[column:]), want) {
			return nil
		}
		out = append(out, at{file: d.file, line: first + i + 1, column: column + 1})
	}
	return out
}

// inside is the place of a line and column of the expression.
func (e *expression) inside(line, column int) at {
	if line < 1 || line > len(e.rows) {
		return e.at
	}
	row := e.rows[line-1]
	row.column += max(column, 1) - 1
	return row
}

// choice is one word of the field's oneof tag. Words of its later tag are
// refused as not built yet; "*" there is every other word.
type choice struct {
	at
	v string
}

func (c *choice) decode(d *decoder, n *yaml.Node, tag reflect.StructTag) {
	allowed, later := strings.Fields(tag.Get("oneof")), strings.Fields(tag.Get("later"))
	want := "one of " + strings.Join(allowed, ", ")
	if len(allowed) == 1 {
		want = allowed[0]
	}
	v, ok := d.source(n, want)
	if !ok {
		return
	}
	if slices.Contains(allowed, v) {
		c.at, c.v = d.at(n), v
		return
	}
	for _, l := range later {
		prefix, open := strings.CutSuffix(l, "*")
		if v == l || open && strings.HasPrefix(v, prefix) && (prefix != "" || meant(v, allowed) == "") {
			field, _, _ := strings.Cut(tag.Get("config"), ",")
			d.report(n, "%s: %s is not supported by this version", field, strings.Trim(quote(v), `"`))
			return
		}
	}
	if m := meant(v, allowed); m != "" {
		d.report(n, "%s is not known%s", quote(v), m)
		return
	}
	d.report(n, "%s is not known: must be %s", quote(v), want)
}

// boolean is true or false.
type boolean struct {
	at
	v bool
}

func (f *boolean) decode(d *decoder, n *yaml.Node, _ reflect.StructTag) {
	v, ok := d.source(n, "true or false")
	if !ok {
		return
	}
	if n.Tag != "!!bool" || v != "true" && v != "false" {
		d.report(n, "must be true or false, not %s", quote(v))
		return
	}
	f.at, f.v = d.at(n), v == "true"
}

// count is a whole number between the field's min (else 1) and max tags.
type count struct {
	at
	v int64
}

func (c *count) decode(d *decoder, n *yaml.Node, tag reflect.StructTag) {
	v, ok := d.source(n, "a whole number")
	if !ok {
		return
	}
	low, high := bound(tag, "min", 1), bound(tag, "max", maxCount)
	i, ok := digits(v)
	switch {
	case !ok:
		d.report(n, "must be a whole number in plain digits, not %s", quote(v))
	case i < low || i > high:
		d.report(n, "must be between %d and %d, not %s", low, high, v)
	default:
		c.at, c.v = d.at(n), i
	}
}

func bound(tag reflect.StructTag, name string, otherwise int64) int64 {
	if i, err := strconv.ParseInt(tag.Get(name), 10, 64); err == nil {
		return i
	}
	return otherwise
}

// digits reads 0 or a number without sign, separator, exponent or leading
// zero. What is beyond int64 is its largest value.
func digits(s string) (int64, bool) {
	if s == "" || len(s) > 1 && s[0] == '0' || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	i, err := strconv.ParseInt(s, 10, 64)
	return i, err == nil || errors.Is(err, strconv.ErrRange)
}

// dollars is an amount of a budget.
type dollars struct {
	at
	v money.NanoUSD
}

func (u *dollars) decode(d *decoder, n *yaml.Node, _ reflect.StructTag) {
	v, ok := d.source(n, "an amount of USD such as 500 or 0.05")
	if !ok {
		return
	}
	amount, err := money.ParseUSD(v)
	switch {
	case err != nil:
		d.report(n, "%s is not an amount of USD: %v", quote(v), innermost(err))
	case amount < 0:
		d.report(n, "an amount cannot be negative")
	case amount > maxBudgetUSD:
		d.report(n, "%s is beyond the largest budget, 9000000000 USD", v)
	default:
		u.at, u.v = d.at(n), amount
	}
}

// allowance is how far an amount may be passed: a share of it such as 50%, or
// so many USD.
type allowance struct {
	at
	percent int64
	usd     money.NanoUSD
}

func (a *allowance) decode(d *decoder, n *yaml.Node, _ reflect.StructTag) {
	const want, most = "a share such as 50% or an amount of USD such as 200", 1_000
	v, ok := d.source(n, want)
	if !ok {
		return
	}
	if share, isShare := strings.CutSuffix(v, "%"); isShare {
		i, ok := digits(share)
		if !ok || i < 1 || i > most {
			d.report(n, "%s is not a share: write 1%% to %d%%, in whole per cent", quote(v), most)
			return
		}
		a.at, a.percent = d.at(n), i
		return
	}
	amount, err := money.ParseUSD(v)
	if err != nil || amount <= 0 || amount > maxBudgetUSD {
		d.report(n, "%s is not how far a budget may be raised: write %s", quote(v), want)
		return
	}
	a.at, a.usd = d.at(n), amount
}

// over is the most that an amount may become.
func (a *allowance) over(amount money.NanoUSD) money.NanoUSD {
	more := a.usd
	if a.percent > 0 {
		share, rest := amount/100, amount%100
		if share > maxBudgetUSD/money.NanoUSD(a.percent) {
			return maxBudgetUSD
		}
		more = share*money.NanoUSD(a.percent) + rest*money.NanoUSD(a.percent)/100
	}
	return min(amount, maxBudgetUSD) + min(more, maxBudgetUSD-min(amount, maxBudgetUSD))
}

// view is the allowance as the file spells it.
func (a *allowance) view() any {
	if a.percent > 0 {
		return strconv.FormatInt(a.percent, 10) + "%"
	}
	return a.usd
}

// innermost is the first sentinel at the bottom of err: the layers above repeat
// what the problem has said already.
func innermost(err error) error {
	for {
		inner := errors.Unwrap(err)
		if all, ok := err.(interface{ Unwrap() []error }); ok && len(all.Unwrap()) > 0 {
			inner = all.Unwrap()[0]
		}
		if inner == nil {
			return err
		}
		err = inner
	}
}

// price is USD per million tokens.
type price struct {
	at
	v money.Rate
}

func (p *price) decode(d *decoder, n *yaml.Node, _ reflect.StructTag) {
	v, ok := d.source(n, "USD per million tokens such as 2.70")
	if !ok {
		return
	}
	rate, err := money.ParseRate(v)
	switch {
	case err != nil:
		d.report(n, "%s is not a price: %v", quote(v), innermost(err))
	case rate > money.Rate(100_000*money.USD):
		d.report(n, "%s is beyond the largest price, 100000 USD per million tokens: is it per million?", v)
	default:
		p.at, p.v = d.at(n), rate
	}
}

// rate is a number of units in a period: "20/s".
type rate struct {
	at
	n   int64
	per time.Duration
}

// periodOf is the period of a rate's unit.
func periodOf(unit string) (time.Duration, bool) {
	switch unit {
	case "s":
		return time.Second, true
	case "min":
		return time.Minute, true
	case "h":
		return time.Hour, true
	case "day":
		return 24 * time.Hour, true
	}
	return 0, false
}

// unitOf is the unit of a rate's period.
func unitOf(per time.Duration) string {
	for _, unit := range []string{"s", "min", "h"} {
		if p, _ := periodOf(unit); p == per {
			return unit
		}
	}
	return "day"
}

func (r *rate) decode(d *decoder, n *yaml.Node, _ reflect.StructTag) {
	const units = "/s, /min, /h or /day"
	v, ok := d.source(n, "a rate such as 20/s or 200000/min")
	if !ok {
		return
	}
	number, unit, hasUnit := strings.Cut(v, "/")
	i, ok := digits(number)
	switch {
	case !ok:
		d.report(n, "%s is not a rate: write whole units in plain digits and %s, such as 200000/min", quote(v), units)
		return
	case i < 1 || i > maxCount:
		d.report(n, "a rate must be between 1 and %d units: to allow none, take the model or key away", int64(maxCount))
		return
	case !hasUnit:
		d.report(n, "%s lacks its unit: write %s/s, %s/min, %s/h or %s/day", quote(v), number, number, number, number)
		return
	case unit == "m":
		d.report(n, "/m could be minute or month: write %s/min; for a month's money, a budget with per: month", number)
		return
	}
	per, ok := periodOf(unit)
	switch guess := guessUnit(unit); {
	case ok:
		r.at, r.n, r.per = d.at(n), i, per
	case guess != "":
		d.report(n, "unknown unit %s: did you mean %s/%s?", quote("/"+unit), number, guess)
	default:
		d.report(n, "unknown unit %s: write %s", quote("/"+unit), units)
	}
}

// guessUnit is the unit for a word that other systems use.
func guessUnit(word string) string {
	switch strings.TrimSuffix(strings.ToLower(word), "s") {
	case "", "sec", "second":
		return "s"
	case "min", "minute":
		return "min"
	case "h", "hr", "hour":
		return "h"
	case "d", "day":
		return "day"
	}
	return ""
}

// instant is a time in RFC 3339, or a bare date: 00:00 of that day in UTC, or
// in the zone of the entry it stands in.
type instant struct {
	at
	v    time.Time // of a date in UTC
	date bool
}

// in is the instant for an entry with a zone.
func (i *instant) in(z *time.Location) time.Time {
	if !i.date || z == nil {
		return i.v
	}
	// Noon is in every day that the zone had: not each began at 00:00.
	y, m, d := i.v.Date()
	return accounting.Day.At(time.Date(y, m, d, 12, 0, 0, 0, z), z).Start.UTC()
}

func (i *instant) decode(d *decoder, n *yaml.Node, _ reflect.StructTag) {
	v, ok := d.source(n, "a date such as 2026-11-01 or a time such as 2026-11-01T09:00:00Z")
	if !ok {
		return
	}
	t, err := time.Parse(time.DateOnly, v)
	date := err == nil
	if !date {
		t, err = time.Parse(time.RFC3339, v)
	}
	if err != nil || t.Year() < 1970 {
		d.report(n, "%s is not a time: write a date such as 2026-11-01 or RFC 3339 such as 2026-11-01T09:00:00Z", quote(v))
		return
	}
	i.at, i.v, i.date = d.at(n), t.UTC(), date
}

// period is a duration such as 5s.
type period struct {
	at
	v time.Duration
}

func (p *period) decode(d *decoder, n *yaml.Node, tag reflect.StructTag) {
	most, usual := cmp.Or(tag.Get("most"), "24h"), cmp.Or(tag.Get("usual"), "5s or 10m")
	v, ok := d.source(n, "a duration such as "+usual)
	if !ok {
		return
	}
	t, err := time.ParseDuration(v)
	if longest, _ := time.ParseDuration(most); err != nil || t < time.Millisecond || t > longest {
		d.report(n, "%s is not a duration between 1ms and %s: write it with its unit, such as %s", quote(v), most, usual)
		return
	}
	p.at, p.v = d.at(n), t
}

// threshold is a share of a budget: 80%, or of what it will be, forecast 100%.
type threshold struct {
	at
	v accounting.Threshold
}

const forecastOf = "forecast "

func (t *threshold) String() string { return t.v.String() }

func (t *threshold) decode(d *decoder, n *yaml.Node, _ reflect.StructTag) {
	const usual = `such as 80% or "forecast 100%"`
	v, ok := d.source(n, "a share of the budget "+usual)
	if !ok {
		return
	}
	share, forecast := strings.CutPrefix(v, forecastOf)
	number, unit := strings.CutSuffix(share, "%")
	percent, ok := digits(number)
	switch {
	case !ok:
		d.report(n, "%s is not a share of the budget: write whole percents %s", quote(v), usual)
	case !unit:
		d.report(n, "%s lacks its unit: write %s%%", quote(v), v)
	case percent < 1 || percent > 1000:
		d.report(n, "must be between 1%% and 1000%%, not %s", share)
	default:
		t.at, t.v = d.at(n), accounting.Threshold{Percent: int(percent), Forecast: forecast}
	}
}

// zone is an IANA time zone.
type zone struct {
	at
	v *time.Location
}

func (z *zone) decode(d *decoder, n *yaml.Node, _ reflect.StructTag) {
	v, ok := d.source(n, "an IANA time zone such as Europe/Berlin")
	if !ok {
		return
	}
	loc, err := time.LoadLocation(v)
	if err != nil || v == "Local" {
		d.report(n, "%s is not an IANA time zone: write one such as Europe/Berlin or UTC", quote(v))
		return
	}
	z.at, z.v = d.at(n), loc
}

// digest is the hash of a key's secret. What is not one is not repeated: it
// may be the key itself.
type digest struct {
	at
	v [sha256.Size]byte
}

func (h *digest) decode(d *decoder, n *yaml.Node, _ reflect.StructTag) {
	v, ok := d.source(n, `a hash "sha256:…"`)
	if !ok {
		return
	}
	hexed, ok := strings.CutPrefix(v, "sha256:")
	raw, err := hex.DecodeString(hexed)
	if !ok || err != nil || len(raw) != sha256.Size || strings.ToLower(hexed) != hexed {
		d.report(n, `must be "sha256:" and 64 hexadecimal digits in lower case: airgate keys create prints it`)
		return
	}
	h.at, h.v = d.at(n), [sha256.Size]byte(raw)
}

// hidden is a text whose value no problem repeats: a secret may have been
// written there by mistake. It may be empty.
type hidden struct {
	at
	v string
}

func (h *hidden) decode(d *decoder, n *yaml.Node, _ reflect.StructTag) {
	switch {
	case n.Kind != yaml.ScalarNode || n.Tag != "!!str":
		d.report(n, "must be text, not %s", shape(n))
	case len(n.Value) > maxTextRunes || strings.ContainsFunc(n.Value, unicode.IsControl):
		d.report(n, "must be one line of at most %d bytes, without control characters", maxTextRunes)
	default:
		h.at, h.v = d.at(n), n.Value
	}
}

// anything is the type of fields that are known and not built yet.
type anything struct{ at }

func (*anything) decode(*decoder, *yaml.Node, reflect.StructTag) {}

// list is a sequence. It may be empty, which is not the same as absent.
type list[T any] struct {
	at
	items []T
}

func (l *list[T]) decode(d *decoder, n *yaml.Node, tag reflect.StructTag) {
	if n.Kind != yaml.SequenceNode {
		d.report(n, "must be a list […], not %s", shape(n))
		return
	}
	l.at = d.at(n)
	for _, item := range n.Content {
		l.appendItem(d, item, tag)
	}
}

// add appends the items of another document's list.
func (l *list[T]) add(more any) {
	o := more.(*list[T])
	l.at, l.items = l.or(o.at), append(l.items, o.items...)
}

func (l *list[T]) appendItem(d *decoder, n *yaml.Node, tag reflect.StructTag) {
	var v T
	d.into(n, reflect.ValueOf(&v).Elem(), tag)
	if any(&v).(placed).good() { // else refused, with a problem
		l.items = append(l.items, v)
	}
}

// many is one value or a list of at least one.
type many[T any] struct{ list[T] }

func (m *many[T]) decode(d *decoder, n *yaml.Node, tag reflect.StructTag) {
	switch {
	case n.Kind != yaml.SequenceNode:
		m.at = d.at(n)
		m.appendItem(d, n, tag)
	case len(n.Content) == 0:
		d.report(n, "must not be an empty list: leave the field out, or name something")
	default:
		m.list.decode(d, n, tag)
	}
}

// entry is one key of a dict with its value.
type entry[T any] struct {
	name label
	v    T
}

// dict is a mapping from names to values, in the order of the file.
type dict[T any] struct {
	at
	entries []entry[T]
}

func (m *dict[T]) decode(d *decoder, n *yaml.Node, tag reflect.StructTag) {
	if n.Kind != yaml.MappingNode {
		d.report(n, "must be a mapping {name: …}, not %s", shape(n))
		return
	}
	m.at = d.at(n)
	for key, val := range d.pairs(n) {
		m.decodeEntry(d, key, val, tag)
	}
}

// add appends the entries of another document's dict.
func (m *dict[T]) add(more any) {
	o := more.(*dict[T])
	m.at, m.entries = m.or(o.at), append(m.entries, o.entries...)
}

func (m *dict[T]) decodeEntry(d *decoder, key, val *yaml.Node, tag reflect.StructTag) {
	var e entry[T]
	e.name.decode(d, key, tag)
	d.into(val, reflect.ValueOf(&e.v).Elem(), tag)
	if e.name.given() {
		if !m.given() {
			m.at = d.at(key)
		}
		m.entries = append(m.entries, e)
	}
}
