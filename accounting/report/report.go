// Package report answers: who used which model, for what purpose, at what
// cost. It has the objects that the API shows and the command line prints, and
// says what a sink must be able to tell to fill them.
package report

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"airgate/accounting/money"
	"airgate/accounting/record"
	"airgate/accounting/usage"
)

// Dimension is a property that usage is split by.
type Dimension string

// The dimensions.
const (
	Team       Dimension = "team"
	Key        Dimension = "key" // its name, else its id
	Purpose    Dimension = "purpose"
	Model      Dimension = "model"
	Provider   Dimension = "provider"
	User       Dimension = "user"
	Class      Dimension = "class"
	CostCenter Dimension = "cost_center"
	Day        Dimension = "day" // of the admission, UTC, as 2026-11-03
)

// Dimensions are all dimensions, in the order that help texts list them.
func Dimensions() []Dimension {
	return []Dimension{Team, Key, Purpose, Model, Provider, User, Class, CostCenter, Day}
}

// ParseDimensions reads a list such as "team,model". An empty list is one row
// for everything.
func ParseDimensions(s string) ([]Dimension, error) {
	by := []Dimension{}
	if s == "" {
		return by, nil
	}
	for name := range strings.SplitSeq(s, ",") {
		d := Dimension(strings.TrimSpace(name))
		if !slices.Contains(Dimensions(), d) {
			return nil, fmt.Errorf("unknown dimension %q: use %s", d, list(Dimensions()))
		}
		if slices.Contains(by, d) {
			return nil, fmt.Errorf("dimension %q is given twice", d)
		}
		by = append(by, d)
	}
	return by, nil
}

func list[T ~string](all []T) string {
	names := make([]string, len(all))
	for i, v := range all {
		names[i] = string(v)
	}
	return strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
}

// Errors of a Source.
var (
	ErrNotFound = errors.New("no such request: it may have been refused before its key was known, or after ten of its kind in that minute. " +
		"Such calls have an id in their x-airgate-request-id, and are counted together, not recorded one by one: airgate audit show --type deny")
	ErrBadCursor = errors.New("the cursor is not one that an earlier answer gave as next")
)

// UsageQuery asks for what was used by calls admitted in [From, To), split by
// dimensions. A zero time is no bound.
type UsageQuery struct {
	By       []Dimension
	From, To time.Time
}

// Sums are what calls add up to.
type Sums struct {
	Requests      int64 // that ended, with or without money; denials are not usage
	Unpriced      int64 // of Requests, those without a cost
	Estimated     int64 // of Requests, those whose tokens are not the provider's word
	Cost          money.NanoUSD
	HasCost       bool          // false = no call has a known cost
	EstimatedCost money.NanoUSD // of Cost, that of Estimated
	Tokens        usage.Tokens
}

// cost is Cost where it is known; no calls have cost nothing.
func (s *Sums) cost() (money.NanoUSD, bool) { return s.Cost, s.HasCost || s.Requests == 0 }

// UsageRow is one combination of values of the query's dimensions.
type UsageRow struct {
	Values []string // one per dimension; "" = none
	Sums
	Before *Sums // of the period before; nil where none was asked for
}

// Usage answers a UsageQuery. From and To are what it really covers: a source
// may widen the query's to whole quarters of an hour, which every time zone's
// midnight falls on.
type Usage struct {
	From, To             time.Time
	BeforeFrom, BeforeTo time.Time // what it is compared with; zero = nothing
	By                   []Dimension
	Rows                 []UsageRow // sorted by Values
}

// ErrDaysCompared means that a comparison by day was asked for: the days of two
// periods are never the same.
var ErrDaysCompared = errors.New("a report by day cannot be compared with another period: their days differ")

// Compare sets u beside the usage of another period, by the same dimensions. A
// row that only one of them has is there with nothing in the other.
func (u Usage) Compare(before Usage) (Usage, error) {
	if slices.Contains(u.By, Day) {
		return u, ErrDaysCompared
	}
	u.BeforeFrom, u.BeforeTo = before.From, before.To
	rows := make([]UsageRow, 0, max(len(u.Rows), len(before.Rows)))
	for now, then := u.Rows, before.Rows; len(now)+len(then) > 0; {
		var order int
		switch {
		case len(then) == 0:
			order = -1
		case len(now) == 0:
			order = 1
		default:
			order = slices.Compare(now[0].Values, then[0].Values)
		}
		var row UsageRow
		if order <= 0 {
			row, now = now[0], now[1:]
		}
		row.Before = &Sums{}
		if order >= 0 {
			row.Values, row.Before, then = then[0].Values, &then[0].Sums, then[1:]
		}
		rows = append(rows, row)
	}
	u.Rows = rows
	return u, nil
}

// change is by how much a row's cost differs from the one before; false = one
// of them is not known.
func (r *UsageRow) change() (money.NanoUSD, bool) {
	now, known := r.cost()
	then, thenKnown := r.Before.cost()
	return now - then, known && thenKnown
}

// percent is the change in per cent of what was before, to a tenth; "" where it
// has none.
func (r *UsageRow) percent() string {
	change, known := r.change()
	if !known || r.Before.Cost == 0 {
		return ""
	}
	return strconv.FormatFloat(100*float64(change)/math.Abs(float64(r.Before.Cost)), 'f', 1, 64)
}

// Requests is one page of requests, newest first.
type Requests struct {
	Requests []Request
	Next     string // cursor of the page after it; "" = this is the last
}

// Denials are records of type deny, newest first; those of strangers have a
// count.
type Denials struct{ Denials []record.Record }

// Audit is records, newest first.
type Audit struct {
	Audit   []record.Record
	Request *Request // the one asked for, its records merged; nil = none was
}

// AuditQuery asks for records. A zero field is no condition; without RequestID,
// Key, Team and Types it asks for what operators and writers did: types admin,
// start and adjust.
type AuditQuery struct {
	RequestID string
	Key       string // its id or its name
	Team      string // its descendants included
	Types     []record.Type
	From, To  time.Time // half-open; a call counts at its admission
	Limit     int       // the most records; ignored with RequestID
}

// Wants reports whether the query asks for records of this type.
func (q *AuditQuery) Wants(t record.Type) bool {
	switch {
	case len(q.Types) > 0:
		return slices.Contains(q.Types, t)
	case q.RequestID != "" || q.Key != "" || q.Team != "":
		return true
	}
	return t == record.Admin || t == record.Start || t == record.Adjust
}

// Source is a sink that can be asked. Its methods are safe for concurrent use.
type Source interface {
	Usage(ctx context.Context, q UsageQuery) (Usage, error)
	// Requests returns at most limit requests older than the cursor before;
	// "" = from the newest.
	Requests(ctx context.Context, limit int, before string) (Requests, error)
	// Request returns ErrNotFound for an id that the source does not have.
	Request(ctx context.Context, id string) (Request, error)
	Denials(ctx context.Context, limit int) (Denials, error)
	// Audit returns ErrNotFound for a request id that the source does not have.
	Audit(ctx context.Context, q AuditQuery) (Audit, error)
}

// Request is all that is known of one request: its intent with what extensions
// made it hold, and its settlement, merged, and its adjustments added; or its denial. It is open while there is
// an intent only; then it has no class.
//
// Type, Class and what was measured are those of the last record. Seq, Writer,
// Prev and Time are those of the first: Time is the admission.
type Request struct{ record.Record }

// Merge makes a Request of the records of one request id, in any order.
func Merge(records []record.Record) Request {
	rank := func(t record.Type) int {
		return slices.Index([]record.Type{record.Intent, record.Extend, record.Deny, record.Settle, record.Adjust}, t)
	}
	records = slices.Clone(records)
	slices.SortStableFunc(records, func(a, b record.Record) int { return rank(a.Type) - rank(b.Type) })
	var merged Request
	for i := range records {
		if i == 0 {
			merged.Record = records[0]
			continue
		}
		overlay(&merged.Record, &records[i])
	}
	return merged
}

// overlay lays what r knows over what m knows already.
func overlay(m, r *record.Record) {
	switch r.Type {
	case record.Extend:
		m.Reserved = max(m.Reserved, r.Reserved)
		return
	case record.Adjust:
		m.Cost, m.HasCost = m.Cost+r.Cost, m.HasCost || r.HasCost
		m.Tokens.Add(&r.Tokens)
		m.HasTokens = m.HasTokens || r.HasTokens
		return
	default:
	}
	for f := range record.Fields() {
		switch f.Name {
		case "seq", "writer", "prev", "time":
		default:
			if err := f.SetValue(m, f.Value(r)); err != nil {
				panic("report: " + err.Error()) // a field does not take its own value
			}
		}
	}
}

// Open reports whether the request has not ended.
func (m Request) Open() bool { return m.Type == record.Intent }
