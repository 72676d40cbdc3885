package main

import (
	"encoding/csv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// toldBudget is what the command shows of a budget of the API.
type toldBudget struct {
	Name     string     `json:"name"`
	Account  string     `json:"account"`
	Mode     string     `json:"mode"`
	Limit    string     `json:"limit_usd"`
	Spent    string     `json:"spent_usd"`
	Reserved string     `json:"reserved_usd"`
	Reset    *time.Time `json:"reset"`
}

func newBudgets(t *terminal, f *flags) *cobra.Command {
	var r reader
	cmd := &cobra.Command{
		Use: "budgets", Short: "Every budget: limit, spent, reserved, when it is renewed", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var out struct{ Budgets []toldBudget }
			body, err := r.get(cmd.Context(), "/api/v1/budgets", &out)
			if err != nil {
				return err
			}
			r.sayScope(t)
			if r.output.text == "json" {
				_, err := t.out.Write(body)
				return err
			}
			rows := [][]string{{"budget", "mode", "limit_usd", "spent_usd", "reserved_usd", "reset", "account"}}
			for _, b := range out.Budgets {
				reset := "never"
				if b.Reset != nil {
					reset = b.Reset.Format(time.RFC3339)
				}
				rows = append(rows, []string{b.Name, b.Mode, b.Limit, b.Spent, b.Reserved, reset, b.Account})
			}
			return r.output.write(t, rows)
		},
	}
	r.add(cmd, f, "table", "json", "csv")
	r.addOffline(cmd)
	return cmd
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
