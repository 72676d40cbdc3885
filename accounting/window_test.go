package accounting

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func mustZone(t testing.TB, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func mustTime(t testing.TB, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// TestWindowAt has days of 23, 24, 25 and 0 hours, days that begin at 01:00 or
// twice, and the edges of every kind.
func TestWindowAt(t *testing.T) {
	for name, c := range map[string]struct {
		kind           WindowKind
		zone, t        string
		id, start, end string
	}{
		"utc day":             {Day, "UTC", "2026-11-03T12:00:00Z", "2026-11-03", "2026-11-03T00:00:00Z", "2026-11-04T00:00:00Z"},
		"its first instant":   {Day, "UTC", "2026-11-03T00:00:00Z", "2026-11-03", "2026-11-03T00:00:00Z", "2026-11-04T00:00:00Z"},
		"its last nanosecond": {Day, "UTC", "2026-11-03T23:59:59.999999999Z", "2026-11-03", "2026-11-03T00:00:00Z", "2026-11-04T00:00:00Z"},
		"far east":            {Day, "Asia/Tokyo", "2026-11-02T15:00:00Z", "2026-11-03", "2026-11-02T15:00:00Z", "2026-11-03T15:00:00Z"},
		"45 minutes":          {Day, "Asia/Kathmandu", "2026-11-02T18:14:59Z", "2026-11-02", "2026-11-01T18:15:00Z", "2026-11-02T18:15:00Z"},

		"23 hours, New York":        {Day, "America/New_York", "2026-03-08T12:00:00Z", "2026-03-08", "2026-03-08T05:00:00Z", "2026-03-09T04:00:00Z"},
		"25 hours, New York":        {Day, "America/New_York", "2026-11-01T12:00:00Z", "2026-11-01", "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"},
		"23 hours, Berlin":          {Day, "Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-29", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"},
		"half an hour, Lord Howe":   {Day, "Australia/Lord_Howe", "2026-04-05T00:00:00Z", "2026-04-05", "2026-04-04T13:00:00Z", "2026-04-05T13:30:00Z"},
		"no midnight, Beirut":       {Day, "Asia/Beirut", "2026-03-29T12:00:00Z", "2026-03-29", "2026-03-28T22:00:00Z", "2026-03-29T21:00:00Z"},
		"no midnight, Sao Paulo":    {Day, "America/Sao_Paulo", "2018-11-04T12:00:00Z", "2018-11-04", "2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z"},
		"midnight twice, Havana":    {Day, "America/Havana", "2026-11-01T12:00:00Z", "2026-11-01", "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"},
		"23:00 twice, Sao Paulo":    {Day, "America/Sao_Paulo", "2018-02-18T02:30:00Z", "2018-02-17", "2018-02-17T02:00:00Z", "2018-02-18T03:00:00Z"},
		"a date again, St. John's":  {Day, "America/St_Johns", "2005-10-30T02:40:00Z", "2005-10-30", "2005-10-30T02:30:00Z", "2005-10-31T03:30:00Z"},
		"before it, St. John's":     {Day, "America/St_Johns", "2005-10-30T02:29:59Z", "2005-10-29", "2005-10-29T02:30:00Z", "2005-10-30T02:30:00Z"},
		"the day before none, Apia": {Day, "Pacific/Apia", "2011-12-30T09:59:59Z", "2011-12-29", "2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z"},
		"the day after none, Apia":  {Day, "Pacific/Apia", "2011-12-30T10:00:00Z", "2011-12-31", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"},

		"week from Monday":         {Week, "UTC", "2026-11-08T23:59:59Z", "2026-W45", "2026-11-02T00:00:00Z", "2026-11-09T00:00:00Z"},
		"Monday":                   {Week, "UTC", "2026-11-09T00:00:00Z", "2026-W46", "2026-11-09T00:00:00Z", "2026-11-16T00:00:00Z"},
		"week 53 in January":       {Week, "UTC", "2027-01-01T00:00:00Z", "2026-W53", "2026-12-28T00:00:00Z", "2027-01-04T00:00:00Z"},
		"week 1 in December":       {Week, "UTC", "2024-12-31T00:00:00Z", "2025-W01", "2024-12-30T00:00:00Z", "2025-01-06T00:00:00Z"},
		"week of 167 hours":        {Week, "Europe/Berlin", "2026-03-27T00:00:00Z", "2026-W13", "2026-03-22T23:00:00Z", "2026-03-29T22:00:00Z"},
		"February":                 {Month, "UTC", "2027-02-28T23:59:59Z", "2027-02", "2027-02-01T00:00:00Z", "2027-03-01T00:00:00Z"},
		"leap February":            {Month, "UTC", "2028-02-29T00:00:00Z", "2028-02", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"},
		"month in Tokyo":           {Month, "Asia/Tokyo", "2026-11-30T14:59:59Z", "2026-11", "2026-10-31T15:00:00Z", "2026-11-30T15:00:00Z"},
		"next month in Tokyo":      {Month, "Asia/Tokyo", "2026-11-30T15:00:00Z", "2026-12", "2026-11-30T15:00:00Z", "2026-12-31T15:00:00Z"},
		"month with changed clock": {Month, "America/New_York", "2026-11-15T00:00:00Z", "2026-11", "2026-11-01T04:00:00Z", "2026-12-01T05:00:00Z"},
		"first quarter":            {Quarter, "UTC", "2026-03-31T23:59:59Z", "2026-Q1", "2026-01-01T00:00:00Z", "2026-04-01T00:00:00Z"},
		"last quarter":             {Quarter, "UTC", "2026-10-01T00:00:00Z", "2026-Q4", "2026-10-01T00:00:00Z", "2027-01-01T00:00:00Z"},
		"end of a far leap year":   {Year, "America/Havana", "2044-12-31T12:00:00Z", "2044", "2044-01-01T05:00:00Z", "2045-01-01T05:00:00Z"},
		"year":                     {Year, "Pacific/Auckland", "2026-12-31T10:59:59Z", "2026", "2025-12-31T11:00:00Z", "2026-12-31T11:00:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			w := c.kind.At(mustTime(t, c.t), mustZone(t, c.zone))
			start, end := w.Start.UTC().Format(time.RFC3339), w.End.UTC().Format(time.RFC3339)
			if w.ID != c.id || start != c.start || end != c.end {
				t.Errorf("%v.At(%s, %s) = %s [%s, %s), want %s [%s, %s)", c.kind, c.t, c.zone, w.ID, start, end, c.id, c.start, c.end)
			}
		})
	}
	if got, want := Total.At(mustTime(t, "2026-11-03T12:00:00Z"), nil), (Window{ID: "total"}); got != want {
		t.Errorf("Total.At = %+v, want %+v", got, want)
	}
	if got := Day.At(mustTime(t, "2026-11-03T23:00:00-08:00"), nil).ID; got != "2026-11-04" {
		t.Errorf("Day.At in no zone = %s, want 2026-11-04: that of UTC", got)
	}
}

// oddZones are zones whose clocks do what others' do not, beside usual ones.
func oddZones() []string {
	return []string{
		"UTC", "Asia/Tokyo", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "America/Havana", "America/Sao_Paulo",
		"Asia/Beirut", "Africa/Cairo", "America/Asuncion", "America/Santiago", "America/St_Johns", "Pacific/Apia", "Pacific/Kwajalein", "Pacific/Kiritimati",
		"Asia/Gaza", "Africa/Casablanca", "Antarctica/Troll", "America/Caracas", "Asia/Pyongyang", "America/Nuuk",
	}
}

// latestDate is the stupid way to say which date an instant counts for: the
// greatest that the zone's clock has shown in the day before, looking at
// every minute.
func latestDate(t time.Time, zone *time.Location) string {
	var latest time.Time
	for at := t.Add(-26 * time.Hour); !at.After(t); at = at.Add(time.Minute) {
		if day := date(at.In(zone).Date()); day.After(latest) {
			latest = day
		}
	}
	return latest.Format(time.DateOnly)
}

// stupidID turns such a date into a window.
func stupidID(k WindowKind, day string) string {
	d, _ := time.Parse(time.DateOnly, day)
	switch k {
	case Week:
		for d.Weekday() != time.Monday {
			d = d.AddDate(0, 0, -1)
		}
		return k.id(d)
	case Month:
		return day[:7]
	case Quarter:
		return day[:4] + "-Q" + map[string]string{"01": "1", "02": "1", "03": "1", "04": "2", "05": "2", "06": "2", "07": "3", "08": "3", "09": "3", "10": "4", "11": "4", "12": "4"}[day[5:7]]
	case Year:
		return day[:4]
	default:
		return day
	}
}

func TestWindowEqualsStupid(t *testing.T) {
	from, to := mustTime(t, "1993-01-01T00:00:00Z").Unix(), mustTime(t, "2105-01-01T00:00:00Z").Unix()
	var zones []*time.Location
	for _, name := range oddZones() {
		zones = append(zones, mustZone(t, name))
	}
	kinds := []WindowKind{Day, Week, Month, Quarter, Year}
	rapid.Check(t, func(t *rapid.T) {
		zone := rapid.SampledFrom(zones).Draw(t, "zone")
		k := rapid.SampledFrom(kinds).Draw(t, "kind")
		at := time.Unix(rapid.Int64Range(from, to).Draw(t, "t"), 0)
		if rapid.Bool().Draw(t, "near a change of the clock") {
			if _, end := at.In(zone).ZoneBounds(); !end.IsZero() {
				at = end.Add(time.Duration(rapid.IntRange(-30*60, 30*60).Draw(t, "minutes")) * time.Minute)
			}
		}
		w := k.At(at, zone)
		if at.Before(w.Start) || !at.Before(w.End) {
			t.Fatalf("%v.At(%v, %v) = %+v: it is not in it", k, at, zone, w)
		}
		for _, c := range []struct {
			at time.Time
			in bool
		}{{at, true}, {w.Start, true}, {w.Start.Add(-time.Nanosecond), false}, {w.End.Add(-time.Nanosecond), true}, {w.End, false}} {
			if got := k.At(c.at, zone).ID == w.ID; got != c.in {
				t.Fatalf("%v.At(%v, %v).ID = %s, is that of %v %v: %v, want %v", k, c.at, zone, k.At(c.at, zone).ID, at, w, got, c.in)
			}
			if want := stupidID(k, latestDate(c.at, zone)); k.At(c.at, zone).ID != want {
				t.Fatalf("%v.At(%v, %v).ID = %s, want %s", k, c.at, zone, k.At(c.at, zone).ID, want)
			}
		}
		if next := k.At(w.End, zone); !next.Start.Equal(w.End) {
			t.Fatalf("%v.At(%v, %v) = %+v, the next begins at %v", k, at, zone, w, next.Start)
		}
		if again, ok := k.named(w.ID, zone); !ok || !again.Start.Equal(w.Start) || !again.End.Equal(w.End) {
			t.Fatalf("%v named %s in %v = %+v, %v, want %+v", k, w.ID, zone, again, ok, w)
		}
	})
}

func TestWindowNamed(t *testing.T) {
	for _, c := range []struct {
		kind WindowKind
		id   string
		ok   bool
	}{
		{Day, "2026-11-03", true},
		{Day, "2026-11-31", false},
		{Day, "2026-11", false},
		{Week, "2026-W53", true},
		{Week, "2025-W53", false},
		{Week, "2026-W00", false},
		{Week, "2026-Wxx", false},
		{Month, "2026-11", true},
		{Month, "2026-13", false},
		{Month, "2026-1", false},
		{Quarter, "2026-Q4", true},
		{Quarter, "2026-Q0", false},
		{Quarter, "2026-Q5", false},
		{Year, "2026", true},
		{Year, "26", false},
		{Total, "total", true},
		{Total, "", false},
		{NoWindow, "", false},
	} {
		if _, ok := c.kind.named(c.id, time.UTC); ok != c.ok {
			t.Errorf("%v named %q: %v, want %v", c.kind, c.id, ok, c.ok)
		}
	}
}
