package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"airgate/accounting/money"
)

const (
	// Each look at a store that airgates share asks it for every account.
	watchLeast = time.Second
	// answerWithin is how long a look waits: then it has failed, and is repeated.
	answerWithin = 5 * time.Second
	// rateOver is what a rate is the mean of, where so much was seen.
	rateOver = time.Minute
)

// watching is the flags of a command that shows the same again and again.
type watching struct {
	on    bool
	every time.Duration
}

func (w *watching) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&w.on, "watch", false, "show it again and again until Ctrl-C, with what is spent a minute, as much as the terminal has room for")
	cmd.Flags().DurationVar(&w.every, "every", watchLeast, "with --watch: the time between")
}

// check refuses what does not go together.
func (w *watching) check(cmd *cobra.Command, r *reader) error {
	switch {
	case !w.on && cmd.Flags().Changed("every"):
		return usageFault(errors.New("--every is the time between two looks of --watch, which is not there"))
	case !w.on:
		return nil
	case r.offline:
		return usageFault(errors.New("--watch asks a running airgate: a data directory does not change without one. Leave out --offline"))
	case r.output.text != "table":
		return usageFault(fmt.Errorf("--watch shows a table: leave out -o %s, or ask for it once", r.output.text))
	case w.every < watchLeast:
		return usageFault(fmt.Errorf("--every %s: want 1s or more", w.every))
	}
	return nil
}

// watch shows budgets again and again, and how fast their money goes.
type watch struct {
	out    *terminal
	ask    func(context.Context) ([]toldBudget, error)
	of     string // who is asked
	every  time.Duration
	screen bool                       // what was shown before is drawn over
	size   func() (rows, columns int) // of the screen, 0 = it is not known

	seen  map[string][]look // :: budget, account and window → what was seen of it, the oldest first
	shown string            // the last table
	fault string            // why there was no answer since
}

// look is what one account had spent at one time.
type look struct {
	at    time.Time
	spent money.NanoUSD
}

// isScreen reports whether what is written to t can be drawn over.
func (t *terminal) isScreen() bool {
	f, ok := t.out.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// run ends with ctx, and with the first answer if that is none. Later ones that fail
// are said once, and asked for again: airgate may be starting anew.
func (w *watch) run(ctx context.Context) error {
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	for {
		if err := w.look(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (w *watch) look(ctx context.Context) error {
	asking, end := context.WithTimeout(ctx, answerWithin)
	budgets, err := w.ask(asking)
	end()
	now := time.Now().UTC()
	switch {
	case ctx.Err() != nil: // it was told to end
		return nil //nolint:nilerr // as it says
	case err == nil:
		first := w.shown == ""
		w.fault = ""
		if w.shown, err = w.table(budgets, now); err != nil {
			return err
		}
		return w.show(now, first)
	case w.shown == "":
		return err
	}
	fault := plain(strings.Join(strings.Fields(err.Error()), " "))
	repeated := fault == w.fault
	if w.fault = fault; w.screen {
		return w.show(now, false)
	}
	if !repeated {
		w.out.say("airgate: no answer at %s, it is asked again: %s", now.Format(time.RFC3339), fault)
	}
	return nil
}

// show writes the last table. On a screen it has what was said before, too.
func (w *watch) show(now time.Time, begins bool) error {
	if !w.screen {
		between := "\n"
		if begins {
			w.out.say("scope: %s", w.of)
			between = ""
		}
		_, err := fmt.Fprintf(w.out.out, "%s%s\n%s", between, now.Format(time.RFC3339), w.shown)
		return err
	}
	first, last := fmt.Sprintf("%s  %s, every %s; Ctrl-C ends\n", now.Format(time.RFC3339), w.of, w.every), ""
	if w.fault != "" {
		last = "no answer now, it is asked again: " + w.fault + "\n"
	}
	rows, columns := w.size()
	text := first + fitting(w.shown, first+last, rows, columns) + last
	const home, restOfLine, rest = "\x1b[H", "\x1b[K", "\x1b[J"
	_, err := fmt.Fprint(w.out.out, home+strings.ReplaceAll(text, "\n", restOfLine+"\n")+rest)
	return err
}

// fitting is a table, or as much of it as a screen has room for beside other lines,
// and how much is missing: what does not fit would scroll away what was shown before.
func fitting(table, beside string, rows, columns int) string {
	if rows == 0 || columns == 0 {
		return table
	}
	taken := func(text string) (n int) { // rows
		for line := range strings.Lines(text) {
			n += max(1, (utf8.RuneCountInString(strings.TrimSuffix(line, "\n"))+columns-1)/columns)
		}
		return n
	}
	left := rows - 1 - taken(beside) // in the last row the cursor stands
	if taken(table) <= left {
		return table
	}
	const note = "… and %d more: make the screen larger, or name a budget\n"
	lines := slices.Collect(strings.Lines(table))
	left -= taken(fmt.Sprintf(note, len(lines)))
	shown := 0
	for ; shown < len(lines) && taken(lines[shown]) <= left; shown++ {
		left -= taken(lines[shown])
	}
	return strings.Join(lines[:shown], "") + fmt.Sprintf(note, len(lines)-max(shown, 1)) // without the heading
}

func (w *watch) table(budgets []toldBudget, now time.Time) (string, error) {
	rows := [][]string{{
		"budget", "mode", "limit_usd", "spent_usd", "reserved_usd", "left_usd", "usd_per_minute", "without_store", "forecast_usd", "exhausts_at", "reset", "account",
	}}
	seen := make(map[string][]look, len(budgets))
	for i := range budgets {
		b := &budgets[i]
		// What is spent begins anew with the window.
		key := strings.Join([]string{b.Name, b.Account, instant(b.WindowStart, "-")}, "\x00")
		seen[key] = recent(append(w.seen[key], look{now, b.Spent}))
		rows = append(rows, []string{
			b.Name, b.Mode, b.Limit.String(), b.Spent.String(), b.Reserved.String(), max(0, b.Limit-b.Spent-b.Reserved).String(),
			perMinute(seen[key]), b.withoutStore(), b.forecast(), instant(b.ExhaustsAt, "-"), instant(b.Reset, "never"), b.Account,
		})
	}
	w.seen = seen
	var text bytes.Buffer
	err := (&format{text: "table"}).write(&terminal{out: &text}, rows)
	return text.String(), err
}

// recent leaves out what is not needed for rateOver.
func recent(looks []look) []look {
	for len(looks) > 2 && looks[len(looks)-1].at.Sub(looks[1].at) >= rateOver {
		looks = looks[1:]
	}
	return looks
}

// perMinute is how much was spent a minute from the first look to the last.
func perMinute(looks []look) string {
	first, last := looks[0], looks[len(looks)-1]
	passed := last.at.Sub(first.at)
	if passed <= 0 {
		return "-"
	}
	rate := float64(last.spent-first.spent) * float64(time.Minute) / float64(passed)
	unit := money.USD / 100
	if math.Abs(rate) < float64(money.USD) {
		unit = money.USD / 1_000_000
	}
	return (money.NanoUSD(math.Round(rate/float64(unit))) * unit).String()
}
