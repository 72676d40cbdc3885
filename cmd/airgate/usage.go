package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"airgate/accounting/journal/disk"
	"airgate/accounting/report"
	"airgate/cmd/airgate/admin"
	"airgate/processor"
)

func newUsage(t *terminal, f *flags) *cobra.Command {
	var r reader
	var by, from, to, period, zone string
	var last, compare bool
	sum := &cobra.Command{
		Use: "report", Short: "Sum requests, money and tokens by any dimensions, beside the period before", Args: noArgs,
		Long: "Sums what calls used, at the time of their admission. COST_USD is all that is known; UNPRICED counts the\n" +
			"requests that are not in it, ESTIMATED those whose tokens are not the provider's word, with ESTIMATED_USD\n" +
			"as their part of the cost. A \"-\" is not known, 0 is free.\n\n" +
			"--period month is this month so far, --period month --last the one before. --compare sets each row beside the\n" +
			"same row of the period before: of a running period as much of it as has passed, for --from and --to the\n" +
			"months or days of the calendar before, if they are whole ones, else the same length of time.\n\n" +
			"Users are shown by the pseudonyms that records have for their names: airgate usage pseudonym tells the one of\n" +
			"a name.",
		Example: "  airgate usage report --by team --period month --last --compare\n" +
			"  airgate usage report --by user,model --from 2026-11-03 --zone Asia/Tokyo",
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := url.Values{"by": {by}}
			for name, text := range map[string]string{"from": from, "to": to, "period": period, "zone": zone} {
				if text != "" {
					q.Set(name, text)
				}
			}
			for name, set := range map[string]bool{"last": last, "compare": compare} {
				if set {
					q.Set(name, "true")
				}
			}
			if _, err := admin.ParseUsage(q, time.Now()); err != nil {
				return usageFault(err)
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
	sum.Flags().StringVar(&period, "period", "", "the running day, week, month, quarter or year")
	sum.Flags().BoolVar(&last, "last", false, "with --period: the one before, which is over")
	sum.Flags().BoolVar(&compare, "compare", false, "beside the period before")
	sum.Flags().StringVar(&zone, "zone", "", "time zone of dates and periods, such as Asia/Tokyo (default: UTC)")
	r.add(sum, f, "table", "json", "csv")
	r.addOffline(sum)
	return group("usage", "Who used what, at what cost", sum, newPseudonym(t, f))
}

func newPseudonym(t *terminal, f *flags) *cobra.Command {
	var session bool
	cmd := &cobra.Command{
		Use:   "pseudonym NAME",
		Short: "The pseudonym that records and reports have for a user, or for a session",
		Long: "NAME is what callers say in x-airgate-user, or with --session in x-airgate-session, to the letter. Records do\n" +
			"not have it, but a hash of it that is keyed with hash.key below --data. So who may read that file can look up a\n" +
			"name; nobody can tell the name of a pseudonym, but by trying names.",
		Example: "  kim=$(airgate usage pseudonym kim@example.com) && airgate usage report --by user,model -o csv | grep \"$kim\"",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return usageFault(errors.New("want one name, as callers say it"))
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			key, err := readHashKey(disk.OS{}, hashKeyPath(f.data))
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return unreachable(fmt.Errorf("%w, %s: %w", errNothing, f.data, err))
			case errors.Is(err, fs.ErrPermission):
				return unreachable(err)
			case err != nil:
				return err
			}
			kind := processor.UserWord
			if session {
				kind = processor.SessionWord
			}
			_, err = fmt.Fprintln(t.out, processor.Pseudonym(key, kind, args[0]))
			return err
		},
	}
	cmd.Flags().BoolVar(&session, "session", false, "of a session instead of a user")
	return cmd
}
