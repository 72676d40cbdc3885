package main

import (
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"airgate/accounting/report"
)

func newUsage(t *terminal, f *flags) *cobra.Command {
	var r reader
	var by, from, to string
	sum := &cobra.Command{
		Use: "report", Short: "Sum requests, money and tokens by any dimensions", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := report.ParseDimensions(by); err != nil {
				return usageFault(err)
			}
			q := url.Values{"by": {by}}
			if from != "" {
				q.Set("from", from)
			}
			if to != "" {
				q.Set("to", to)
			}
			return r.print(cmd.Context(), t, "/api/v1/usage", q)
		},
	}
	var dimensions []string
	for _, d := range report.Dimensions() {
		dimensions = append(dimensions, string(d))
	}
	sum.Flags().StringVar(&by, "by", "team,model", "dimensions: "+strings.Join(dimensions, ", "))
	sum.Flags().StringVar(&from, "from", "", "from this date or time (default: the first record)")
	sum.Flags().StringVar(&to, "to", "", "before this date or time (default: now)")
	r.add(sum, f, "table", "json", "csv")
	r.addOffline(sum)
	return group("usage", "Who used what, at what cost", sum)
}
