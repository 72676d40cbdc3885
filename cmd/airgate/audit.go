package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"airgate/accounting/journal"
	"airgate/accounting/record"
)

func newAudit(t *terminal, f *flags) *cobra.Command {
	return group("audit", "The audit trail: prove it, read it", newAuditVerify(t, f), newAuditShow(t, f))
}

func newAuditVerify(t *terminal, f *flags) *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Prove that no record of the journal below --data was lost or changed",
		Long: "Reads every record of the journal, checks sums, numbers and the chain, and compares them with the heads that\n" +
			"the records database holds. Records behind the last head held there are sound and not anchored: nothing\n" +
			"outside of the journal vouches for them yet. It works while airgate runs.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			report, err := verify(cmd.Context(), t, f)
			if err != nil {
				return err
			}
			if output.text == "json" {
				err = json.NewEncoder(t.out).Encode(proofOf(report))
			} else {
				err = tellProof(t, &output, proofOf(report))
			}
			if err == nil && !report.Sound() {
				err = errors.New("the journal is not what was written")
			}
			return err
		},
	}
	output.add(cmd, "table", "json")
	return cmd
}

// verify asks for the heads first: the journal may grow meanwhile, the heads
// must not.
func verify(ctx context.Context, t *terminal, f *flags) (journal.Report, error) {
	heads, err := headsOf(ctx, t, f)
	if err != nil {
		return journal.Report{}, err
	}
	dir := journalDir(f.data)
	if _, err := os.Stat(dir); err != nil && len(heads) == 0 {
		return journal.Report{}, unreachable(fmt.Errorf("%w, %s: %w", errNothing, f.data, err))
	}
	return journal.Verify(dir, heads)
}

// headsOf are the heads that the records database holds.
func headsOf(ctx context.Context, t *terminal, f *flags) (heads []record.Head, err error) {
	snapshot, err := loadConfig(f.config)
	if err != nil {
		return nil, err
	}
	records, err := openRecords(ctx, f.data, snapshot)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNoSink) {
		t.say("there is no records database, so nothing outside of the journal vouches for it")
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, records.Close()) }()
	return records.Heads(ctx)
}

// proof is a journal.Report as it is told.
type proof struct {
	Sound   bool          `json:"sound"`
	Writers []writerProof `json:"writers"`
}

type writerProof struct {
	Writer      string   `json:"writer"`
	First       uint64   `json:"first"`    // the oldest record that is there; 0 = none
	Last        uint64   `json:"last"`     // the newest that follows from it
	Anchored    uint64   `json:"anchored"` // the newest that is proven
	NotAnchored uint64   `json:"not_anchored"`
	Problems    []string `json:"problems"`
}

func proofOf(r journal.Report) proof {
	out := proof{Sound: r.Sound(), Writers: []writerProof{}}
	for i := range r.Writers {
		w := &r.Writers[i]
		told := writerProof{
			Writer: w.Writer, First: w.First, Last: w.Last.Seq, Anchored: w.Anchored, NotAnchored: w.NotAnchored(), Problems: []string{},
		}
		for _, p := range w.Problems {
			told.Problems = append(told.Problems, p.Error())
		}
		out.Writers = append(out.Writers, told)
	}
	return out
}

func tellProof(t *terminal, output *format, p proof) error {
	rows := [][]string{{"writer", "records", "proven up to", "not anchored"}}
	for _, w := range p.Writers {
		records, anchored, rest := "none", "none", "none"
		if w.First > 0 {
			records = span(w.First, w.Last)
		}
		if w.Anchored > 0 {
			anchored = strconv.FormatUint(w.Anchored, 10)
		}
		if w.NotAnchored > 0 {
			rest = span(max(w.First, w.Anchored+1), w.Last)
		}
		rows = append(rows, []string{w.Writer, records, anchored, rest})
	}
	if err := output.write(t, rows); err != nil {
		return err
	}
	for _, w := range p.Writers {
		for _, text := range w.Problems {
			if _, err := fmt.Fprintf(t.out, "fault: %s: %s\n", w.Writer, plain(text)); err != nil {
				return err
			}
		}
	}
	return nil
}

func span(first, last uint64) string {
	if first == last {
		return strconv.FormatUint(first, 10)
	}
	return fmt.Sprintf("%d-%d", first, last)
}

func newAuditShow(t *terminal, f *flags) *cobra.Command {
	var r reader
	var limit int
	cmd := &cobra.Command{
		Use: "show", Short: "The newest changes by operators, corrections and starts", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.print(cmd.Context(), t, "/api/v1/audit", url.Values{"limit": {strconv.Itoa(limit)}})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 100, "at most so many records (1000 is the most)")
	r.add(cmd, f, "table", "json", "csv")
	r.addOffline(cmd)
	return cmd
}
