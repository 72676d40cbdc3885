package accounting_test

import (
	"testing"
	"time"

	"airgate/accounting"
	"airgate/accounting/money"
)

func TestForecast(t *testing.T) {
	start := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		spent    money.NanoUSD
		elapsed  time.Duration
		total    money.NanoUSD // -1 = none
		exhausts time.Duration // after start; 0 = never
	}{
		"a tenth":      {10 * money.USD, 72 * time.Hour, 100 * money.USD, 720 * time.Hour},
		"half of that": {5 * money.USD, 72 * time.Hour, 50 * money.USD, 0},
		"too fast":     {40 * money.USD, 72 * time.Hour, 400 * money.USD, 180 * time.Hour},
		"nothing":      {0, 72 * time.Hour, 0, 0},
		"too early":    {1, 30*time.Hour - 1, -1, 0},
		"soon enough":  {money.USD, 30 * time.Hour, 24 * money.USD, 0},
		"too late":     {1, 721 * time.Hour, -1, 0},
		"reached":      {100 * money.USD, 72 * time.Hour, 1000 * money.USD, 72 * time.Hour},
		"reached soon": {100 * money.USD, time.Hour, -1, time.Hour},
		"overdrawn":    {120 * money.USD, 72 * time.Hour, 1200 * money.USD, 72 * time.Hour},
		"absurd":       {9e18, 72 * time.Hour, 1<<63 - 1, 72 * time.Hour},
	} {
		b := accounting.Budget{Limit: 100 * money.USD, Spent: c.spent, WindowStart: start, Reset: start.Add(720 * time.Hour)}
		total, exhausts := b.Forecast(start.Add(c.elapsed))
		switch {
		case (total == nil) != (c.total < 0):
			t.Errorf("%s: forecast = %v, want %s", name, total, c.total)
		case total != nil && *total != c.total:
			t.Errorf("%s: forecast = %s, want %s", name, *total, c.total)
		case exhausts.IsZero() != (c.exhausts == 0):
			t.Errorf("%s: exhausts at %v, want %s", name, exhausts, c.exhausts)
		case !exhausts.IsZero() && !exhausts.Equal(start.Add(c.exhausts).Truncate(time.Second)):
			t.Errorf("%s: exhausts at %s, want %s after the start", name, exhausts, c.exhausts)
		}
	}
}

// A limit of 0 is reached from the start; a window without an end has no pace.
func TestForecastWithoutALimitOrAnEnd(t *testing.T) {
	now := time.Date(2026, 11, 4, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		budget  accounting.Budget
		total   bool
		reached bool
	}{
		"nothing is allowed": {accounting.Budget{WindowStart: now.AddDate(0, 0, -3), Reset: now.AddDate(0, 0, 27)}, true, true},
		"total":              {accounting.Budget{Limit: 100, Spent: 99}, false, false},
		"total, spent":       {accounting.Budget{Limit: 100, Spent: 100}, false, true},
	} {
		total, exhausts := c.budget.Forecast(now)
		if (total != nil) != c.total || exhausts.IsZero() == c.reached || c.reached && !exhausts.Equal(now) {
			t.Errorf("%s: forecast = %v, %v, want one %t, reached now %t", name, total, exhausts, c.total, c.reached)
		}
	}
}
