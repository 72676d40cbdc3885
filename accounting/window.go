package accounting

import (
	"fmt"
	"strconv"
	"time"
	_ "time/tzdata" // zones are part of the program, not of the machine
)

// Window is one calendar window as instants, half-open: Start is in it, End is
// not. Total has neither.
type Window struct {
	ID    string // "2026-11-03", "2026-W45", "2026-11", "2026-Q4", "2026", "total"
	Start time.Time
	End   time.Time
}

// At returns the window of kind k in zone (nil = UTC) that t falls in. It
// begins at the first instant at which the zone's clock shows its first day,
// and lasts until the next one begins: days have 23 to 25 hours where the
// clock is changed, a day that the zone skipped is empty, and no instant is in
// two windows or in none, even where a changed clock shows a date again.
// It panics on NoWindow: rates have none.
func (k WindowKind) At(t time.Time, zone *time.Location) Window {
	if k == Total {
		return Window{ID: totalID}
	}
	if zone == nil {
		zone = time.UTC
	}
	y, m, d := t.In(zone).Date()
	day := k.first(y, m, d)
	for {
		next := k.next(day)
		if end := firstInstant(next, zone); t.Before(end) {
			return Window{ID: k.id(day), Start: firstInstant(day, zone), End: end}
		}
		day = next
	}
}

const totalID = "total"

// A date is the UTC midnight of that date, whatever the zone: dates are
// counted where no clock is ever changed.
func date(y int, m time.Month, d int) time.Time { return time.Date(y, m, d, 0, 0, 0, 0, time.UTC) }

// first returns the first date of the window that has the date y-m-d.
func (k WindowKind) first(y int, m time.Month, d int) time.Time {
	switch k {
	case Day:
		return date(y, m, d)
	case Week:
		sinceMonday := (int(date(y, m, d).Weekday()) + 6) % 7
		return date(y, m, d-sinceMonday)
	case Month:
		return date(y, m, 1)
	case Quarter:
		return date(y, m-(m-1)%3, 1)
	case Year:
		return date(y, time.January, 1)
	case NoWindow, Total:
	}
	panic(fmt.Sprintf("accounting: WindowKind(%d) has no dates", k))
}

// next returns the first date of the window after the one that begins at day.
func (k WindowKind) next(day time.Time) time.Time {
	switch k {
	case Day:
		return day.AddDate(0, 0, 1)
	case Week:
		return day.AddDate(0, 0, 7)
	case Month:
		return day.AddDate(0, 1, 0)
	case Quarter:
		return day.AddDate(0, 3, 0)
	default:
		return day.AddDate(1, 0, 0)
	}
}

// id names the window that begins at day. Weeks are numbered as in ISO 8601.
func (k WindowKind) id(day time.Time) string {
	switch k {
	case Day:
		return day.Format("2006-01-02")
	case Week:
		y, w := day.ISOWeek()
		return fmt.Sprintf("%04d-W%02d", y, w)
	case Month:
		return day.Format("2006-01")
	case Quarter:
		return fmt.Sprintf("%04d-Q%d", day.Year(), (day.Month()+2)/3)
	default:
		return day.Format("2006")
	}
}

// parse is the inverse of id.
func (k WindowKind) parse(id string) (day time.Time, ok bool) {
	var err error
	switch k {
	case Day:
		day, err = time.Parse("2006-01-02", id)
	case Week:
		var y, w int
		if len(id) != len("2026-W45") {
			return time.Time{}, false
		}
		if y, err = strconv.Atoi(id[:4]); err == nil {
			w, err = strconv.Atoi(id[6:])
		}
		// 4 January is in week 1, by definition.
		day = Week.first(y, time.January, 4).AddDate(0, 0, 7*(w-1))
	case Month:
		day, err = time.Parse("2006-01", id)
	case Quarter:
		var y, q int
		if len(id) != len("2026-Q4") {
			return time.Time{}, false
		}
		if y, err = strconv.Atoi(id[:4]); err == nil {
			q, err = strconv.Atoi(id[6:])
		}
		day = date(y, time.Month(3*q-2), 1)
	case Year:
		day, err = time.Parse("2006", id)
	case NoWindow, Total:
		return time.Time{}, false
	}
	return day, err == nil && k.id(day) == id
}

// named returns the window of kind k in zone that has this id.
func (k WindowKind) named(id string, zone *time.Location) (Window, bool) {
	if k == Total {
		return Window{ID: totalID}, id == totalID
	}
	day, ok := k.parse(id)
	if !ok {
		return Window{}, false
	}
	return Window{ID: id, Start: firstInstant(day, zone), End: firstInstant(k.next(day), zone)}, true
}

// firstInstant returns the first instant at which the clock of zone shows 00:00
// of day or anything later. time.Date will not do: where midnight is skipped
// or comes twice it returns one of two instants, unspecified which.
func firstInstant(day time.Time, zone *time.Location) time.Time {
	wall := day.Unix()
	// No zone was ever further than 16 hours from UTC.
	t := time.Unix(wall, 0).Add(-26 * time.Hour).In(zone)
	for {
		_, offset := t.Zone()
		_, end := t.ZoneBounds()
		if !end.IsZero() && !end.After(t) {
			// Past the zone's table, from 2038, package time ends every year after
			// 365 days, so that the last day of a leap year is past its bounds.
			end = t.Add(time.Hour)
		}
		at := max(t.Unix(), wall-int64(offset))
		if end.IsZero() || at < end.Unix() {
			return time.Unix(at, 0).In(zone)
		}
		t = end
	}
}
