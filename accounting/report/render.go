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

// MarshalJSON is the API's object:
// {"from","to","by":[…],"rows":[{…dimensions…,"requests","cost_usd","tokens":{…}}]}.
func (u Usage) MarshalJSON() ([]byte, error) {
	b := []byte(`{"from":`)
	b = appendTime(b, u.From)
	b = append(b, `,"to":`...)
	b = appendTime(b, u.To)
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
		row := &u.Rows[i]
		b = append(b, '{')
		for j, d := range u.By {
			b = appendText(b, string(d))
			b = append(b, ':')
			b = appendText(b, row.Values[j])
			b = append(b, ',')
		}
		b = append(b, `"requests":`...)
		b = strconv.AppendInt(b, row.Requests, 10)
		b = append(b, `,"cost_usd":`...)
		if row.HasCost {
			b = appendText(b, row.Cost.String())
		} else {
			b = append(b, "null"...)
		}
		b = append(b, `,"tokens":`...)
		b = record.AppendTokens(b, &row.Tokens)
		b = append(b, '}')
	}
	return append(b, `]}`...), nil
}

func (u Usage) columns(f Format) ([]string, iter.Seq[[]string]) {
	var header []string
	for _, d := range u.By {
		header = append(header, string(d))
	}
	header = append(header, "requests", "cost_usd")
	if f == Table {
		header = append(header, "input_tokens", "output_tokens")
	} else {
		for name := range record.Buckets(new(usage.Tokens)) {
			header = append(header, name)
		}
	}
	return header, func(yield func([]string) bool) {
		for i := range u.Rows {
			r := &u.Rows[i]
			row := append(slices.Clone(r.Values), strconv.FormatInt(r.Requests, 10), cost(r.Cost, r.HasCost))
			if f == Table {
				row = append(row, count(r.Tokens.TotalInput()), count(r.Tokens.TotalOutput()))
			} else {
				for _, n := range record.Buckets(&r.Tokens) {
					row = append(row, count(*n))
				}
			}
			if !yield(row) {
				return
			}
		}
	}
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
	return t.UTC().AppendFormat(b, `"2006-01-02T15:04:05.000Z"`)
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

// MarshalJSON is the API's object: {"audit":[…]}.
func (a Audit) MarshalJSON() ([]byte, error) {
	return append(appendRecords(nil, "audit", a.Audit, itself), '}'), nil
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
	return recordColumns(f, a.Audit, itself, "time", "type", "writer", "seq", "user", "request_id", "cost_usd", "detail", "heads")
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
