package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"airgate/accounting/money"
)

// watched is a watch of budgets whose answers a test gives, one a second.
type watched struct {
	out, err bytes.Buffer
	answers  []watchedAnswer
	rows     int // of the screen, of 100 columns; 0 = it is not known
}

func (w *watched) size() (rows, columns int) { return w.rows, 100 }

type watchedAnswer struct {
	budgets []toldBudget
	err     error
}

// run gives all answers, and ends the watch at the next question.
func (w *watched) run(t *testing.T, screen bool) error {
	t.Helper()
	ctx, end := context.WithCancel(t.Context())
	defer end()
	ask := func(ctx context.Context) ([]toldBudget, error) {
		if len(w.answers) == 0 {
			end()
			return nil, ctx.Err()
		}
		a := w.answers[0]
		w.answers = w.answers[1:]
		return a.budgets, a.err
	}
	return (&watch{out: &terminal{out: &w.out, err: &w.err}, ask: ask, of: "the airgate at A", every: time.Second, screen: screen, size: w.size}).run(ctx)
}

func watchedBudget(spent money.NanoUSD, window time.Time) []toldBudget {
	autonomy := 90.0
	return []toldBudget{{
		Name: "search", Account: "usd|team=search", Mode: "enforce", Limit: 500 * money.USD, Spent: spent, Reserved: money.USD, WindowStart: &window, Autonomy: &autonomy,
	}}
}

// TestWatch: the table comes again with the time, what is spent a minute begins with
// what was seen, and with the window; an answer that fails is said once.
func TestWatch(t *testing.T) {
	november := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	december := november.AddDate(0, 1, 0)
	gone := watchedAnswer{err: errors.New("connection refused:\nis airgate running?")}
	synctest.Test(t, func(t *testing.T) {
		w := &watched{answers: []watchedAnswer{
			{budgets: watchedBudget(10*money.USD, november)},
			{budgets: watchedBudget(10*money.USD+2_500_000, november)},
			gone, gone,
			{budgets: watchedBudget(14*money.USD, november)},
			{budgets: watchedBudget(money.USD/2, december)},
		}}
		if err := w.run(t, false); err != nil {
			t.Errorf("run = %v, want nil where it is told to end", err)
		}
		const heading = "BUDGET  MODE     LIMIT_USD  SPENT_USD  RESERVED_USD  LEFT_USD  USD_PER_MINUTE  WITHOUT_STORE  FORECAST_USD  EXHAUSTS_AT  RESET  ACCOUNT\n"
		want := "2000-01-01T00:00:00Z\n" + heading +
			"search  enforce  500        10         1             489       -               1m30s          -             -            never  usd|team=search\n" +
			"\n2000-01-01T00:00:01Z\n" + heading +
			"search  enforce  500        10.0025    1             488.9975  0.15            1m30s          -             -            never  usd|team=search\n" +
			"\n2000-01-01T00:00:04Z\n" + heading +
			"search  enforce  500        14         1             485       60              1m30s          -             -            never  usd|team=search\n" +
			"\n2000-01-01T00:00:05Z\n" + heading +
			"search  enforce  500        0.5        1             498.5     -               1m30s          -             -            never  usd|team=search\n"
		if got := w.out.String(); got != want {
			t.Errorf("it shows\n%s\nwant\n%s", got, want)
		}
		if got, want := w.err.String(), "scope: the airgate at A\nairgate: no answer at 2000-01-01T00:00:02Z, it is asked again: connection refused: is airgate running?\n"; got != want {
			t.Errorf("it says %q, want %q", got, want)
		}
	})
}

// TestWatchOnAScreen: what was shown is drawn over, and stays while nobody answers.
func TestWatchOnAScreen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &watched{answers: []watchedAnswer{
			{budgets: watchedBudget(10*money.USD, time.Now())}, {err: errors.New("connection refused")}, {budgets: watchedBudget(11*money.USD, time.Now())},
		}}
		if err := w.run(t, true); err != nil {
			t.Errorf("run = %v", err)
		}
		screens := strings.Split(w.out.String(), "\x1b[H")[1:]
		if len(screens) != 3 || w.err.Len() > 0 {
			t.Fatalf("%d screens, beside them %q; want 3 and nothing", len(screens), w.err.String())
		}
		for i, s := range screens {
			lines := strings.Split(s, "\x1b[K\n")
			fails := strings.Contains(s, "no answer now, it is asked again: connection refused\x1b[K\n")
			if fails != (i == 1) || lines[len(lines)-1] != "\x1b[J" || !strings.Contains(lines[0], "the airgate at A, every 1s; Ctrl-C ends") || !strings.HasPrefix(lines[2], "search ") {
				t.Errorf("screen %d is %q", i, s)
			}
		}
	})
}

// TestWatchOnASmallScreen: what is shown never scrolls, and says what is missing.
func TestWatchOnASmallScreen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all []toldBudget
		for range 10 {
			all = append(all, watchedBudget(10*money.USD, time.Now())...)
		}
		// How many budgets there are on the screen, and while nobody answers, which takes a row.
		for rows, want := range map[int][2]int{0: {10, 10}, 25: {10, 10}, 24: {10, 9}, 23: {9, 8}, 9: {2, 1}, 6: {0, 0}, 3: {0, 0}} {
			w := &watched{answers: []watchedAnswer{{budgets: all}, {err: errors.New("gone")}}, rows: rows}
			if err := w.run(t, true); err != nil {
				t.Errorf("run = %v", err)
			}
			screens := strings.Split(w.out.String(), "\x1b[H")[1:]
			if len(screens) != len(want) {
				t.Fatalf("%d rows: %d screens", rows, len(screens))
			}
			for i, s := range screens {
				used := 0
				for line := range strings.SplitSeq(strings.TrimSuffix(s, "\x1b[J"), "\x1b[K\n") {
					used += max(1, (utf8.RuneCountInString(line)+99)/100)
				}
				note := fmt.Sprintf("… and %d more: make the screen larger", 10-want[i])
				if rows > 3 && used > rows || strings.Count(s, "search ") != want[i] || strings.Contains(s, note) != (want[i] < 10) {
					t.Errorf("%d rows, screen %d: %q in %d rows; want %d budgets", rows, i, s, used, want[i])
				}
			}
		}
	})
}

// TestWatchFirstAnswer: who cannot be asked at all is not asked again.
func TestWatchFirstAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := errors.New("connection refused")
		w := &watched{answers: []watchedAnswer{{err: refused}, {budgets: watchedBudget(0, time.Now())}}}
		if err := w.run(t, false); !errors.Is(err, refused) || w.out.Len() > 0 || w.err.Len() > 0 {
			t.Errorf("run = %v, shows %q, says %q; want the error alone", err, w.out.String(), w.err.String())
		}
	})
}

// TestWatchForgets: what is spent a minute is the mean of the last one.
func TestWatchForgets(t *testing.T) {
	var looks []look
	for i := range 100 {
		spent := money.NanoUSD(0)
		if i >= 30 {
			spent = money.NanoUSD(i-30) * money.USD / 60
		}
		looks = recent(append(looks, look{time.Unix(int64(i), 0), spent}))
		if want := map[int]string{0: "-", 30: "0", 60: "0.5", 90: "1", 99: "1"}[i]; want != "" && perMinute(looks) != want {
			t.Errorf("after %d s %s USD a minute, want %s", i, perMinute(looks), want)
		}
	}
	if len(looks) > 61 {
		t.Errorf("%d looks are kept", len(looks))
	}
	if got := perMinute([]look{{time.Unix(0, 0), 3 * money.USD}, {time.Unix(120, 0), money.USD}}); got != "-1" {
		t.Errorf("after an adjustment %s USD a minute, want -1", got)
	}
}
