package admin

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"airgate/accounting"
	"airgate/accounting/record"
	"airgate/accounting/report"
	"airgate/policy"
)

// What a question's parameters mean. The command line asks here too, so that
// what the API would refuse is wrong usage there.

// Span is [From, To). A zero time is no bound.
type Span struct{ From, To time.Time }

// Usage is a question about usage.
type Usage struct {
	By           []report.Dimension
	Span, Before Span // Before is what it is compared with; zero = nothing
}

// ParseUsage reads by, and either from and to, or period and last; zone, in
// which dates are and periods begin; and compare.
func ParseUsage(q url.Values, now time.Time) (u Usage, err error) {
	if u.By, err = report.ParseDimensions(q.Get("by")); err != nil {
		return u, fmt.Errorf("by: %w", err)
	}
	zone, err := time.LoadLocation(q.Get("zone"))
	if err != nil {
		return u, fmt.Errorf("zone: want an IANA time zone, such as Asia/Tokyo: %w", err)
	}
	last, err := parseFlag(q, "last")
	if err != nil {
		return u, err
	}
	compare, err := parseFlag(q, "compare")
	if err != nil {
		return u, err
	}
	if u.Span, err = parseSpan(q, zone); err != nil {
		return u, err
	}
	switch period := q.Get("period"); {
	case period != "":
		if u.Span != (Span{}) {
			return u, errors.New("period: it has its own bounds: leave out from and to")
		}
		kind, err := parsePeriod(period)
		if err != nil {
			return u, err
		}
		u.Span, u.Before = periods(kind, zone, now, last)
	case last:
		return u, errors.New("last: want a period too, such as --period month")
	case compare && u.Span.From.IsZero():
		return u, errors.New("compare: want a period too, such as --period month, or --from")
	case compare:
		if u.Span.To.IsZero() {
			u.Span.To = now
		}
		u.Before = before(u.Span, zone)
	}
	switch {
	case !compare:
		u.Before = Span{}
	case slices.Contains(u.By, report.Day):
		return u, fmt.Errorf("compare: %w", report.ErrDaysCompared)
	}
	return u, nil
}

// periods are the running period of a calendar, up to now, and as much of the
// one before; or, for the last, the two that are over.
func periods(kind accounting.WindowKind, zone *time.Location, now time.Time, last bool) (span, previous Span) {
	running := kind.At(now, zone)
	one := kind.At(running.Start.Add(-1), zone)
	if last {
		two := kind.At(one.Start.Add(-1), zone)
		return Span{one.Start, one.End}, Span{two.Start, two.End}
	}
	end := one.Start.Add(now.Sub(running.Start))
	if end.After(one.End) {
		end = one.End
	}
	return Span{running.Start, now}, Span{one.Start, end}
}

// before is the span of the same length that ends where s begins: as many months
// where s is whole months of the zone's calendar, else as many days where it is
// whole days, else as much time.
func before(s Span, zone *time.Location) Span {
	begins := func(kind accounting.WindowKind) bool {
		return kind.At(s.From, zone).Start.Equal(s.From) && kind.At(s.To, zone).Start.Equal(s.To)
	}
	y, m, d := s.From.In(zone).Date()
	toY, toM, toD := s.To.In(zone).Date()
	switch {
	case begins(accounting.Month):
		m -= time.Month(12*(toY-y)) + toM - m
	case begins(accounting.Day):
		d -= int(time.Date(toY, toM, toD, 0, 0, 0, 0, time.UTC).Sub(time.Date(y, m, d, 0, 0, 0, 0, time.UTC)) / (24 * time.Hour))
	default:
		return Span{s.From.Add(-s.To.Sub(s.From)), s.From}
	}
	return Span{accounting.Day.At(time.Date(y, m, d, 12, 0, 0, 0, zone), zone).Start, s.From} // noon is on its day, midnight may not be
}

// ParseAudit reads request, key, team, type (a list), from and to. A key that was
// given itself is replaced in q by its id.
func ParseAudit(q url.Values) (a report.AuditQuery, err error) {
	span, err := parseSpan(q, time.UTC)
	if err != nil {
		return a, err
	}
	if id, ok := policy.KeyID(q.Get("key")); ok {
		q.Set("key", id)
	}
	a = report.AuditQuery{RequestID: q.Get("request"), Key: q.Get("key"), Team: q.Get("team"), From: span.From, To: span.To}
	if q.Get("type") == "" {
		return a, nil
	}
	for name := range strings.SplitSeq(q.Get("type"), ",") {
		t, err := record.ParseType(strings.TrimSpace(name))
		if err != nil {
			return a, fmt.Errorf("type: %w: use intent, extend, settle, deny, adjust, admin or start", err)
		}
		a.Types = append(a.Types, t)
	}
	return a, nil
}

// ParseLimit reads limit, the most that an answer may have.
func ParseLimit(q url.Values) (int, error) {
	text := q.Get("limit")
	if text == "" {
		return defaultLimit, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxLimit {
		return 0, fmt.Errorf("limit: want a number from 1 to %d", maxLimit)
	}
	return n, nil
}

func parseSpan(q url.Values, zone *time.Location) (s Span, err error) {
	for _, bound := range []struct {
		name string
		at   *time.Time
	}{{"from", &s.From}, {"to", &s.To}} {
		text := q.Get(bound.name)
		if text == "" {
			continue
		}
		if *bound.at, err = parseTime(text, zone); err != nil {
			return s, fmt.Errorf("%s: want a date (2026-11-01) or an RFC 3339 time", bound.name)
		}
	}
	if !s.From.IsZero() && !s.To.IsZero() && !s.From.Before(s.To) {
		return s, errors.New("to: want a time after from")
	}
	return s, nil
}

// parseTime reads a time, or a date: its beginning in the zone.
func parseTime(text string, zone *time.Location) (time.Time, error) {
	if day, err := time.ParseInLocation(time.DateOnly, text, zone); err == nil {
		return accounting.Day.At(day.Add(12*time.Hour), zone).Start, nil
	}
	return time.Parse(time.RFC3339, text)
}

func parsePeriod(text string) (accounting.WindowKind, error) {
	for _, kind := range []accounting.WindowKind{accounting.Day, accounting.Week, accounting.Month, accounting.Quarter, accounting.Year} {
		if kind.String() == text {
			return kind, nil
		}
	}
	return 0, fmt.Errorf("period: %q: want day, week, month, quarter or year", text)
}

func parseFlag(q url.Values, name string) (bool, error) {
	switch q.Get(name) {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, fmt.Errorf("%s: want true or false", name)
}
