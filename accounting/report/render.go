package report

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"airgate/accounting/money"
	"airgate/accounting/record"
	"airgate/accounting/usage"
)

// Format is how a report is written.
type Format string

// The formats. JSON is exactly the API's object, on one line.
const (
	Table Format = "table"
	JSON  Format = "json"
	CSV   Format = "csv"
)

// ParseFormat reads the value of -o.
func ParseFormat(s string) (Format, error) {
	all := []Format{Table, JSON, CSV}
	if f := Format(s); slices.Contains(all, f) {
		return f, nil
	}
	return "", fmt.Errorf("unknown format %q: use %s", s, list(all))
}

// Report is what Write can write: Usage, Requests, Denials, Audit.
type Report interface {
	json.Marshaler
	// columns are the names of the columns and the rows under them. A table
	// shows what a person looks for; CSV has every field.
	columns(Format) ([]string, iter.Seq[[]string])
}

// Write writes the report to w.
func Write(w io.Writer, f Format, r Report) error {
	switch f {
	case JSON:
		b, err := r.MarshalJSON()
		if err != nil {
			return err
		}
		_, err = w.Write(append(b, '\n'))
		return err
	case CSV:
		header, rows := r.columns(f)
		out := csv.NewWriter(w)
		if err := out.Write(header); err != nil {
			return err
		}
		for row := range rows {
			if err := out.Write(row); err != nil {
				return err
			}
		}
		out.Flush()
		return out.Error()
	case Table:
		header, rows := r.columns(f)
		out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		if _, err := fmt.Fprintln(out, strings.ToUpper(strings.Join(header, "\t"))); err != nil {
			return err
		}
		for row := range rows {
			for i, cell := range row {
				row[i] = printable(cell)
			}
			if _, err := fmt.Fprintln(out, strings.Join(row, "\t")); err != nil {
				return err
			}
		}
		return out.Flush()
	}
	_, err := ParseFormat(string(f))
	return err
}

// printable keeps callers' text from steering the terminal.
func printable(s string) string {
	if s == "" {
		return "-"
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

// MarshalJSON is the API's object: {"from","to","by":[…],"rows":[{…dimensions…,
// "requests","cost_usd","unpriced_requests","estimated_requests",
// "estimated_usd","tokens":{…}}]}. A comparison adds "before":{"from","to"} to it,
// and "before":{"requests","cost_usd"}, "change_usd" and "change_percent" to each
// row.
func (u Usage) MarshalJSON() ([]byte, error) {
	b := appendTime([]byte(`{"from":`), u.From)
	b = appendTime(append(b, `,"to":`...), u.To)
	if u.compared() {
		b = appendTime(append(b, `,"before":{"from":`...), u.BeforeFrom)
		b = appendTime(append(b, `,"to":`...), u.BeforeTo)
		b = append(b, '}')
	}
	b = append(b, `,"by":[`...)
	for i, d := range u.By {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendText(b, string(d))
	}
	b = append(b, `],"rows":[`...)
	for i := range u.Rows {
		if i > 0 {
			b = append(b, ',')
		}
		b = u.Rows[i].appendJSON(b, u.By)
	}
	return append(b, `]}`...), nil
}

func (u Usage) compared() bool { return !u.BeforeTo.IsZero() }

func (r *UsageRow) appendJSON(b []byte, by []Dimension) []byte {
	b = append(b, '{')
	for j, d := range by {
		b = append(appendText(b, string(d)), ':')
		b = append(appendText(b, r.Values[j]), ',')
	}
	b = strconv.AppendInt(append(b, `"requests":`...), r.Requests, 10)
	b = appendMoney(append(b, `,"cost_usd":`...), r.Cost, r.HasCost)
	b = strconv.AppendInt(append(b, `,"unpriced_requests":`...), r.Unpriced, 10)
	b = strconv.AppendInt(append(b, `,"estimated_requests":`...), r.Estimated, 10)
	b = appendMoney(append(b, `,"estimated_usd":`...), r.EstimatedCost, true)
	if r.Before != nil {
		b = strconv.AppendInt(append(b, `,"before":{"requests":`...), r.Before.Requests, 10)
		b = appendMoney(append(b, `,"cost_usd":`...), r.Before.Cost, r.Before.HasCost)
		change, known := r.change()
		b = appendMoney(append(b, `},"change_usd":`...), change, known)
		b = append(b, `,"change_percent":`...)
		if percent := r.percent(); percent != "" {
			b = append(b, percent...)
		} else {
			b = append(b, "null"...)
		}
	}
	b = record.AppendTokens(append(b, `,"tokens":`...), &r.Tokens)
	return append(b, '}')
}

func appendMoney(b []byte, n money.NanoUSD, known bool) []byte {
	if !known {
		return append(b, "null"...)
	}
	return appendText(b, n.String())
}

func (u Usage) columns(f Format) ([]string, iter.Seq[[]string]) {
	var header []string
	for _, d := range u.By {
		header = append(header, string(d))
	}
	header = append(header, "requests", "cost_usd")
	if u.compared() {
		header = append(header, "before_requests", "before_usd", "change_usd", "change_percent")
	}
	header = append(header, "unpriced", "estimated", "estimated_usd")
	if f == Table {
		header = append(header, "input_tokens", "output_tokens")
	} else {
		for name := range record.Buckets(new(usage.Tokens)) {
			header = append(header, name)
		}
	}
	return header, func(yield func([]string) bool) {
		for i := range u.Rows {
			if !yield(u.Rows[i].cells(f)) {
				return
			}
		}
	}
}

func (r *UsageRow) cells(f Format) []string {
	row := append(slices.Clone(r.Values), strconv.FormatInt(r.Requests, 10), cost(r.Cost, r.HasCost))
	if r.Before != nil {
		change, known := r.change()
		row = append(row, strconv.FormatInt(r.Before.Requests, 10), cost(r.Before.Cost, r.Before.HasCost), cost(change, known), r.percent())
	}
	row = append(row, strconv.FormatInt(r.Unpriced, 10), strconv.FormatInt(r.Estimated, 10), cost(r.EstimatedCost, true))
	if f == Table {
		return append(row, count(r.Tokens.TotalInput()), count(r.Tokens.TotalOutput()))
	}
	for _, n := range record.Buckets(&r.Tokens) {
		row = append(row, count(*n))
	}
	return row
}

func count(n money.Tokens) string { return strconv.FormatInt(int64(n), 10) }

func cost(n money.NanoUSD, known bool) string {
	if !known {
		return ""
	}
	return n.String()
}

func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, "null"...)
	}
	return t.UTC().AppendFormat(b, `"`+record.TimeLayout+`"`)
}

func appendText(b []byte, s string) []byte {
	quoted, _ := json.Marshal(s) //nolint:errchkjson // a string always has an encoding
	return append(b, quoted...)
}

func appendRecords[T any](b []byte, name string, all []T, of func(*T) *record.Record) []byte {
	b = append(b, '{')
	b = appendText(b, name)
	b = append(b, ':', '[')
	for i := range all {
		if i > 0 {
			b = append(b, ',')
		}
		b = record.AppendObject(b, of(&all[i]))
	}
	return append(b, ']')
}

func itself(r *record.Record) *record.Record { return r }

func inner(r *Request) *record.Record { return &r.Record }

// MarshalJSON is the request as one object with every field of the book, null
// where absent.
func (m Request) MarshalJSON() ([]byte, error) { return record.AppendObject(nil, &m.Record), nil }

// MarshalJSON is the API's object: {"requests":[…],"next"}; next is null at the
// last page.
func (p Requests) MarshalJSON() ([]byte, error) {
	b := appendRecords(nil, "requests", p.Requests, inner)
	b = append(b, `,"next":`...)
	if p.Next == "" {
		b = append(b, "null"...)
	} else {
		b = appendText(b, p.Next)
	}
	return append(b, '}'), nil
}

// MarshalJSON is the API's object: {"denials":[…]}.
func (d Denials) MarshalJSON() ([]byte, error) {
	return append(appendRecords(nil, "denials", d.Denials, itself), '}'), nil
}

// MarshalJSON is the API's object: {"audit":[…]}, with "request":{…} where one
// was asked for.
func (a Audit) MarshalJSON() ([]byte, error) {
	b := appendRecords(nil, "audit", a.Audit, itself)
	if a.Request != nil {
		b = record.AppendObject(append(b, `,"request":`...), &a.Request.Record)
	}
	return append(b, '}'), nil
}

func (m Request) columns(f Format) ([]string, iter.Seq[[]string]) {
	return Requests{Requests: []Request{m}}.columns(f)
}

func (p Requests) columns(f Format) ([]string, iter.Seq[[]string]) {
	return recordColumns(f, p.Requests, inner,
		"time", "request_id", "team", "key_name", "purpose", "model", "decision", "code", "class", "status", "cost_usd", "duration_ms")
}

func (d Denials) columns(f Format) ([]string, iter.Seq[[]string]) {
	return recordColumns(f, d.Denials, itself,
		"time", "request_id", "team", "key_name", "model", "code", "rule", "status", "source", "count")
}

func (a Audit) columns(f Format) ([]string, iter.Seq[[]string]) {
	names := []string{"time", "type", "writer", "seq"}
	for field := range record.Fields() { // of the others only those that say something
		switch field.Name {
		case "request_id", "team", "key_name", "user", "purpose", "model", "code", "rule", "class", "status", "reserved_usd", "cost_usd", "usage_source", "count", "source", "detail", "heads":
			if slices.ContainsFunc(a.Audit, func(r record.Record) bool { return field.Value(&r) != nil }) {
				names = append(names, field.Name)
			}
		}
	}
	return recordColumns(f, a.Audit, itself, names...)
}

// recordColumns shows the named fields in a table and all of them in CSV.
func recordColumns[T any](format Format, all []T, of func(*T) *record.Record, names ...string) ([]string, iter.Seq[[]string]) {
	var header []string
	var shown []*record.Field
	for f := range record.Fields() {
		if format == Table && !slices.Contains(names, f.Name) {
			continue
		}
		header = append(header, f.Name)
		shown = append(shown, f)
	}
	return header, func(yield func([]string) bool) {
		for i := range all {
			row := make([]string, len(shown))
			for j, f := range shown {
				row[j] = cell(f, f.Value(of(&all[i])))
			}
			if !yield(row) {
				return
			}
		}
	}
}

func cell(f *record.Field, v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case int64:
		if f.Kind == record.Money {
			return money.NanoUSD(v).String()
		}
		return strconv.FormatInt(v, 10)
	default:
		return fmt.Sprint(v)
	}
}
