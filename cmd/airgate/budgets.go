package main

import (
	"context"
	"encoding/csv"
	"fmt"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"airgate/accounting/money"
)

// toldBudget is what the command shows of a budget of the API.
type toldBudget struct {
	Name        string         `json:"name"`
	Account     string         `json:"account"`
	Scope       string         `json:"scope"`
	Owner       string         `json:"owner"`
	Mode        string         `json:"mode"`
	Admission   string         `json:"admission"`
	Limit       money.NanoUSD  `json:"limit_usd"`
	Spent       money.NanoUSD  `json:"spent_usd"`
	Reserved    money.NanoUSD  `json:"reserved_usd"`
	Held        money.NanoUSD  `json:"held_usd"`
	HeldCost    money.NanoUSD  `json:"held_cost_usd"`
	WindowStart *time.Time     `json:"window_start"`
	Reset       *time.Time     `json:"reset"`
	Forecast    *money.NanoUSD `json:"forecast_usd"`
	ExhaustsAt  *time.Time     `json:"exhausts_at"`
	Autonomy    *float64       `json:"autonomy_seconds"`
	Overrides   []toldOverride `json:"overrides"`
}

// toldOverride is one of a budget's overrides.
type toldOverride struct {
	For    string        `json:"for"`
	Limit  money.NanoUSD `json:"limit_usd"`
	Until  *time.Time    `json:"until"`
	By     string        `json:"by"`
	Reason string        `json:"reason"`
}

func (o *toldOverride) String() string {
	text := o.Limit.String() + " USD for " + o.For
	if o.Until != nil {
		text += " until " + o.Until.Format(time.RFC3339)
	}
	if o.By != "" {
		text += ", by " + o.By
	}
	if o.Reason != "" {
		text += ": " + o.Reason
	}
	return text
}

func newBudgets(t *terminal, f *flags) *cobra.Command {
	r := reader{journal: true}
	var w watching
	cmd := &cobra.Command{
		Use: "budgets [NAME]", Short: "Every budget, or one: limit, spent, reserved, forecast, when it is renewed",
		Long: "Shows every account of every budget. FORECAST_USD is what its window will have cost at its end if it goes on\n" +
			"at the pace of the window so far; a window that has just begun (its first twenty-fourth), or has no end, has\n" +
			"none. EXHAUSTS_AT is when the limit is reached at that pace, if that is in this window. With a name it shows\n" +
			"the accounts of that budget in full, with what is to be said about them. With --offline it does\n" +
			"without the records database, if need be: the journal has what was spent.\n\n" +
			"With --watch it shows the table, of all or of one, every second, with what is left, how long calls go on\n" +
			"without the shared quota store, and USD_PER_MINUTE: the mean of the last minute, as far as it was seen. In a\n" +
			"terminal it draws over the table before. An answer that fails later on is said, and asked for again.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageFault(fmt.Errorf("unexpected argument %q: one budget, or none for all", args[1]))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := w.check(cmd, &r); err != nil {
				return err
			}
			path := "/api/v1/budgets"
			if len(args) > 0 {
				path += "?" + url.Values{"name": args}.Encode()
			}
			if w.on {
				ask := func(ctx context.Context) ([]toldBudget, error) {
					var out struct{ Budgets []toldBudget }
					_, err := r.get(ctx, path, &out)
					return out.Budgets, err
				}
				return (&watch{out: t, ask: ask, of: "the airgate at " + r.server, every: w.every, screen: t.isScreen(), size: t.size}).run(cmd.Context())
			}
			var out struct{ Budgets []toldBudget }
			body, err := r.get(cmd.Context(), path, &out)
			if err != nil {
				return err
			}
			r.sayScope(t)
			switch {
			case r.output.text == "json":
				_, err := t.out.Write(body)
				return err
			case r.output.text == "table" && len(args) > 0:
				return tellBudget(t, &r.output, out.Budgets, time.Now())
			}
			rows := [][]string{{"budget", "mode", "limit_usd", "spent_usd", "reserved_usd", "forecast_usd", "exhausts_at", "reset", "account"}}
			for i := range out.Budgets {
				b := &out.Budgets[i]
				rows = append(rows, []string{
					b.Name, b.Mode, b.Limit.String(), b.Spent.String(), b.Reserved.String(), b.forecast(), instant(b.ExhaustsAt, "-"), instant(b.Reset, "never"), b.Account,
				})
			}
			return r.output.write(t, rows)
		},
	}
	r.add(cmd, f, "table", "json", "csv")
	r.addOffline(cmd)
	w.add(cmd)
	cmd.AddCommand(newBudgetsRaise(t, f), newBudgetsReclaim(t, f))
	return cmd
}

// forecast is a sum of money for people: rounded to cents where it is dollars.
func (b *toldBudget) forecast() string {
	if b.Forecast == nil {
		return "-"
	}
	if *b.Forecast < money.USD {
		return b.Forecast.String()
	}
	const cent = money.USD / 100
	return ((*b.Forecast + cent/2) / cent * cent).String()
}

// withoutStore is for how long calls go on while the shared quota store is down.
func (b *toldBudget) withoutStore() string {
	if b.Autonomy == nil {
		return "-"
	}
	return (time.Duration(*b.Autonomy) * time.Second).String()
}

func instant(t *time.Time, none string) string {
	if t == nil {
		return none
	}
	return t.Format(time.RFC3339)
}

// tellBudget shows each account of one budget in full.
func tellBudget(t *terminal, o *format, accounts []toldBudget, now time.Time) error {
	for i := range accounts {
		b := &accounts[i]
		rows := [][]string{
			{"field", "value"},
			{"budget", b.Name},
			{"account", b.Account},
			{"scope", b.Scope},
			{"owner", b.Owner},
			{"mode", b.Mode},
			{"admission", b.Admission},
			{"limit_usd", b.Limit.String()},
			{"spent_usd", b.Spent.String() + share(b.Spent, b.Limit)},
			{"reserved_usd", b.Reserved.String() + share(b.Reserved, b.Limit)},
			{"held_usd", b.heldForCost()},
			{"left_usd", b.left()},
			{"forecast_usd", b.forecast()},
			{"exhausts_at", instant(b.ExhaustsAt, "-")},
			{"window_start", instant(b.WindowStart, "-")},
			{"reset", instant(b.Reset, "never")},
		}
		if b.Autonomy != nil {
			rows = append(rows, []string{"without_store", b.withoutStore() + " at the pace of the last seconds"})
		}
		for i := range b.Overrides {
			rows = append(rows, []string{"override", b.Overrides[i].String()})
		}
		for _, text := range b.warnings(now) {
			rows = append(rows, []string{"warning", text})
		}
		if i > 0 {
			if _, err := fmt.Fprintln(t.out); err != nil {
				return err
			}
		}
		if err := o.write(t, rows); err != nil {
			return err
		}
	}
	return nil
}

// left is what may be spent at once, and once what is reserved was given back.
func (b *toldBudget) left() string {
	now, later := max(0, b.Limit-b.Spent-b.Reserved), max(0, b.Limit-b.Spent)
	if now == later {
		return now.String()
	}
	return now.String() + ", up to " + later.String() + " once what is reserved was not needed"
}

// heldForCost says what strictness costs: how much calls held at most, for what they
// cost.
func (b *toldBudget) heldForCost() string {
	switch {
	case b.Held == 0:
		return "-"
	case b.HeldCost == 0:
		return b.Held.String() + " by calls that cost nothing"
	}
	return fmt.Sprintf("%s by calls that cost %s (%.1f times), since airgate began", b.Held, b.HeldCost, float64(b.Held)/float64(b.HeldCost))
}

// share is a part of the limit in per cent; "" where there is none.
func share(part, limit money.NanoUSD) string {
	if limit <= 0 {
		return ""
	}
	return fmt.Sprintf(" (%.1f%%)", 100*float64(part)/float64(limit))
}

// warnings are what an owner has to know of an account.
func (b *toldBudget) warnings(now time.Time) (all []string) {
	refuses := "calls are refused until " + instant(b.Reset, "the limit is raised")
	if b.Mode == "shadow" {
		refuses = "it is a shadow budget: nothing is refused"
	}
	switch {
	case b.Spent > b.Limit:
		all = append(all, "overdrawn by "+(b.Spent-b.Limit).String()+" USD; "+refuses)
	case b.Spent == b.Limit:
		all = append(all, "exhausted; "+refuses)
	case b.Spent+b.Reserved >= b.Limit:
		all = append(all, "what is left is held by calls in flight")
	case b.ExhaustsAt != nil && b.ExhaustsAt.After(now):
		all = append(all, "at this pace the limit is reached on "+instant(b.ExhaustsAt, ""))
	}
	return all
}

// write writes rows as a table or as CSV; the first is the header.
func (o *format) write(t *terminal, rows [][]string) error {
	if o.text == "csv" {
		return csv.NewWriter(t.out).WriteAll(rows)
	}
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	for i, row := range rows {
		line := strings.Join(row, "\t")
		if i == 0 {
			line = strings.ToUpper(line)
		}
		if _, err := w.Write([]byte(plain(line) + "\n")); err != nil {
			return err
		}
	}
	return w.Flush()
}
