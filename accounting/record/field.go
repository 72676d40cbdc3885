package record

import (
	"encoding/hex"
	"fmt"
	"iter"
	"time"

	"airgate/accounting/money"
	"airgate/accounting/usage"
)

// Kind is the shape of a field's value.
type Kind uint8

// The kinds.
const (
	Text       Kind = iota // a JSON string
	Integer                // a JSON number without a fraction
	Flag                   // true, or absent
	Money                  // a JSON string, USD; as a Value nano-USD
	Structured             // an array or object; as a Value its JSON
)

// Field is one field of a Record: a key of its JSON, a column in SQL.
type Field struct {
	Name string
	Kind Kind
	// at points to the field's value in r; a value with a separate mark for
	// "known" is reached as one of the views below.
	at func(r *Record) any
}

// Views of a Record that stand for a value and its Has mark.
type (
	costOf   Record
	tokensOf Record
)

// Fields yields the fields in their order in the book.
func Fields() iter.Seq[*Field] {
	return func(yield func(*Field) bool) {
		for i := range fields {
			if !yield(&fields[i]) {
				return
			}
		}
	}
}

// fields is the one list that the encoder, the decoder and SQL share.
//
//nolint:gochecknoglobals // an immutable table
var fields = [...]Field{
	{"type", Text, func(r *Record) any { return &r.Type }},
	{"seq", Integer, func(r *Record) any { return &r.Seq }},
	{"writer", Text, func(r *Record) any { return &r.Writer }},
	{"prev", Text, func(r *Record) any { return &r.Prev }},
	{"time", Text, func(r *Record) any { return &r.Time }},
	{"request_id", Text, func(r *Record) any { return &r.RequestID }},
	{"key_id", Text, func(r *Record) any { return &r.KeyID }},
	{"key_name", Text, func(r *Record) any { return &r.KeyName }},
	{"team", Text, func(r *Record) any { return &r.Team }},
	{"team_path", Text, func(r *Record) any { return &r.TeamPath }},
	{"cost_center", Text, func(r *Record) any { return &r.CostCenter }},
	{"tags", Structured, func(r *Record) any { return &r.Tags }},
	{"purpose", Text, func(r *Record) any { return &r.Purpose }},
	{"purpose_source", Text, func(r *Record) any { return &r.PurposeSource }},
	{"user", Text, func(r *Record) any { return &r.User }},
	{"user_source", Text, func(r *Record) any { return &r.UserSource }},
	{"session", Text, func(r *Record) any { return &r.Session }},
	{"endpoint", Text, func(r *Record) any { return &r.Endpoint }},
	{"dialect", Text, func(r *Record) any { return &r.Dialect }},
	{"stream", Flag, func(r *Record) any { return &r.Stream }},
	{"model_requested", Text, func(r *Record) any { return &r.ModelRequested }},
	{"model", Text, func(r *Record) any { return &r.Model }},
	{"provider", Text, func(r *Record) any { return &r.Provider }},
	{"model_served", Text, func(r *Record) any { return &r.ModelServed }},
	{"price_id", Text, func(r *Record) any { return &r.PriceID }},
	{"decision", Text, func(r *Record) any { return &r.Decision }},
	{"code", Text, func(r *Record) any { return &r.Code }},
	{"rule", Text, func(r *Record) any { return &r.Rule }},
	{"would_deny", Structured, func(r *Record) any { return &r.WouldDeny }},
	{"limits", Structured, func(r *Record) any { return &r.Limits }},
	{"config_hash", Text, func(r *Record) any { return &r.ConfigHash }},
	{"store", Text, func(r *Record) any { return &r.Store }},
	{"cap", Integer, func(r *Record) any { return &r.Cap }},
	{"reserved_usd", Money, func(r *Record) any { return &r.Reserved }},
	{"cost_usd", Money, func(r *Record) any { return (*costOf)(r) }},
	{"tokens", Structured, func(r *Record) any { return (*tokensOf)(r) }},
	{"usage_source", Text, func(r *Record) any { return &r.UsageSource }},
	{"class", Text, func(r *Record) any { return &r.Class }},
	{"family", Text, func(r *Record) any { return &r.Family }},
	{"status", Integer, func(r *Record) any { return &r.Status }},
	{"upstream_status", Integer, func(r *Record) any { return &r.UpstreamStatus }},
	{"attempts", Structured, func(r *Record) any { return &r.Attempts }},
	{"ttft_ms", Integer, func(r *Record) any { return &r.TTFT }},
	{"duration_ms", Integer, func(r *Record) any { return &r.Duration }},
	{"cut", Text, func(r *Record) any { return &r.Cut }},
	{"count", Integer, func(r *Record) any { return &r.Count }},
	{"source", Text, func(r *Record) any { return &r.Source }},
	{"cause", Text, func(r *Record) any { return &r.Cause }},
	{"detail", Text, func(r *Record) any { return &r.Detail }},
	{"heads", Structured, func(r *Record) any { return &r.Heads }},
}

// Value is the field's value as a database takes it: nil where absent, else
// string, int64 (Integer, nano-USD) or bool. Structured values are JSON.
func (f *Field) Value(r *Record) any {
	if f.Kind == Structured {
		b, ok := f.appendJSON(nil, r)
		if !ok {
			return nil
		}
		return string(b)
	}
	switch p := f.at(r).(type) {
	case *string:
		if *p != "" {
			return string(appendValid(nil, *p))
		}
	case *bool:
		if *p {
			return true
		}
	case *money.NanoUSD:
		if *p != 0 {
			return int64(bounded(*p))
		}
	case *costOf:
		if p.HasCost {
			return int64(bounded(p.Cost))
		}
	case *uint64:
		if *p != 0 {
			return int64(*p)
		}
	case *int:
		if *p != 0 {
			return int64(*p)
		}
	case *int64:
		if *p != 0 {
			return *p
		}
	case *money.Tokens:
		if *p != 0 {
			return int64(*p)
		}
	case *time.Duration:
		if ms := milliseconds(*p); ms != 0 {
			return ms
		}
	default: // the rest of Text: what JSON has between its quotes
		if b, ok := f.appendJSON(nil, r); ok {
			return string(b[1 : len(b)-1])
		}
	}
	return nil
}

// SetValue sets the field from what Value returned, or a database made of it
// (an int64 for a bool).
func (f *Field) SetValue(r *Record, v any) error {
	switch v := v.(type) {
	case nil:
		return nil
	case bool:
		if p, ok := f.at(r).(*bool); ok {
			*p = v
			return nil
		}
	case int64:
		if f.setInt(r, v) {
			return nil
		}
	case []byte:
		return f.SetValue(r, string(v))
	case string:
		if f.Kind == Structured {
			c := cursor{b: []byte(v)}
			f.parse(&c, r)
			c.end()
			return f.wrap(c.err)
		}
		if f.Kind == Text {
			return f.wrap(f.setText(r, v))
		}
	}
	return fmt.Errorf("field %s: a %T is not its value", f.Name, v)
}

func (f *Field) wrap(err error) error {
	if err != nil {
		return fmt.Errorf("field %s: %w", f.Name, err)
	}
	return nil
}

// setInt reports whether n is a value of the field.
func (f *Field) setInt(r *Record, n int64) bool {
	switch p := f.at(r).(type) {
	case *bool:
		*p = n != 0
		return n == 0 || n == 1
	case *money.NanoUSD:
		*p = money.NanoUSD(n)
	case *costOf:
		p.Cost, p.HasCost = money.NanoUSD(n), true
	case *uint64:
		*p = uint64(n)
		return n >= 0
	case *int:
		*p = int(n)
	case *int64:
		*p = n
	case *money.Tokens:
		*p = money.Tokens(n)
	case *time.Duration:
		*p = time.Duration(n) * time.Millisecond
		return n >= 0 && n <= maxMilliseconds
	default:
		return false
	}
	return true
}

func (f *Field) setText(r *Record, s string) (err error) {
	switch p := f.at(r).(type) {
	case *string:
		*p = s
	case *Type:
		*p, err = ParseType(s)
	case *Hash:
		*p, err = ParseHash(s)
	case *time.Time:
		*p, err = parseTime(s)
	case *usage.Source:
		*p, err = usage.ParseSource(s)
	}
	return err
}

// ParseHash is the opposite of Hash.String.
func ParseHash(s string) (h Hash, err error) {
	if len(s) != hex.EncodedLen(len(h)) {
		return h, fmt.Errorf("a hash has %d digits, not %d", hex.EncodedLen(len(h)), len(s))
	}
	_, err = hex.Decode(h[:], []byte(s))
	return h, err
}
