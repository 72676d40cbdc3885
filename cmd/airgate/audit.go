package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"airgate/accounting"
	"airgate/accounting/journal"
	"airgate/accounting/sink/sqlite"
	"airgate/cmd/airgate/admin"
)

func newAudit(t *terminal, f *flags) *cobra.Command {
	return group("audit", "The audit trail: prove it, read it", newAuditVerify(t, f), newAuditShow(t, f))
}

func newAuditVerify(t *terminal, f *flags) *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Prove that no record of the journal below --data was lost or changed",
		Long: "Reads every record of the journal and of the records database, proves checksums, numbers and the chain, that the\n" +
			"two are one book, with as many records as the journal has counted, that each checkpoint of the journal holds what\n" +
			"the records before it add up to, and that the sums which reports read are those of the records, month by month.\n" +
			"The journal deletes what the database has, so older records may be only there. Records behind the last head that\n" +
			"is held in another place are sound and not anchored: nothing outside of the journal vouches for them yet. It works\n" +
			"while airgate runs, and, with the database in its usual place, without a config.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			proof, err := verify(cmd.Context(), t, f)
			if err != nil {
				return err
			}
			if output.text == "json" {
				err = json.NewEncoder(t.out).Encode(proof)
			} else {
				err = tellProof(t, &output, proof)
			}
			if err == nil && !proof.Sound {
				err = errors.New("the book is not what was written: a backup may have what is gone or damaged (README.md, The data directory)")
			}
			return err
		},
	}
	output.add(cmd, "table", "json")
	return cmd
}

func verify(ctx context.Context, t *terminal, f *flags) (_ proof, err error) {
	records, err := book(ctx, t, f)
	if err != nil {
		return proof{}, err
	}
	dir := journalDir(f.data)
	if _, err := os.Stat(dir); err != nil && records == nil {
		return proof{}, unreachable(fmt.Errorf("%w, %s: %w", errNothing, f.data, err))
	}
	empty := func() journal.State { return accounting.NewBalances() }
	if records == nil {
		t.say("none yet, lost, or sinks: []: there is no records database, so nothing outside of the journal vouches for it")
		report, err := journal.Verify(ctx, dir, nil, empty)
		return proofOf(report), err
	}
	defer func() { err = errors.Join(err, records.Close()) }()
	report, err := journal.Verify(ctx, dir, records, empty)
	if err != nil {
		return proof{}, err
	}
	p := proofOf(report)
	err = records.CheckSums(ctx)
	if wrong, ok := errors.AsType[*sqlite.SumsError](err); ok {
		p.Sound, p.WrongSums = false, wrong.Months
		return p, nil
	}
	if err != nil && !p.Sound { // a record that cannot be read has been told
		t.say("the sums that reports read cannot be compared with the records: %v", err)
		return p, nil
	}
	return p, err
}

// book opens the records database, nil if there is none: the one that the
// config names or, without a config that can be used, the one in its usual place.
func book(ctx context.Context, t *terminal, f *flags) (*sqlite.Reader, error) {
	path := filepath.Join(f.data, usualRecords)
	snapshot, err := loadConfig(f.config)
	if err != nil {
		if _, missing := os.Stat(path); missing != nil {
			if _, none := os.Stat(journalDir(f.data)); none != nil {
				return nil, unreachable(fmt.Errorf("%w, %s: %w", errNothing, f.data, none))
			}
			return nil, err
		}
		t.say("without a config that can be used (airgate validate says why), the records database is taken to be %s", path)
	} else if _, path, _ = sinkOf(f.data, snapshot); path == "" {
		return nil, nil //nolint:nilnil // nothing was configured, and nothing is wrong
	}
	records, err := sqlite.OpenReadOnly(ctx, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // as above
	}
	return records, err
}

// proof is a journal.Report as it is told.
type proof struct {
	Sound    bool          `json:"sound"`
	Writers  []writerProof `json:"writers"`
	Nameless uint64        `json:"nameless"` // records that are gone, of earlier writers that nothing names any more
	// WrongSums are the months of UTC in which the sums that reports read are not
	// those of the records.
	WrongSums []string `json:"wrong_sums"`
}

type writerProof struct {
	Writer      string   `json:"writer"`
	First       uint64   `json:"first"` // the oldest record that is there; 0 = none
	Last        uint64   `json:"last"`  // the newest that follows from it
	Journal     extent   `json:"journal"`
	Sink        extent   `json:"sink"`
	Anchored    uint64   `json:"anchored"` // the newest that is proven
	NotAnchored uint64   `json:"not_anchored"`
	Torn        int64    `json:"torn_bytes"`
	Checkpoints int      `json:"checkpoints"` // that add up
	Problems    []string `json:"problems"`
}

// extent is from one record to another; zeros = none.
type extent struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}

func (e extent) String() string {
	switch {
	case e.First == 0 || e.First > e.Last:
		return "none"
	case e.First == e.Last:
		return strconv.FormatUint(e.First, 10)
	}
	return fmt.Sprintf("%d-%d", e.First, e.Last)
}

func proofOf(r journal.Report) proof {
	out := proof{Sound: r.Sound(), Writers: []writerProof{}, Nameless: r.Nameless, WrongSums: []string{}}
	for i := range r.Writers {
		w := &r.Writers[i]
		told := writerProof{
			Writer: w.Writer, First: w.Records.First, Last: w.Records.Last, Journal: extent(w.Journal), Sink: extent(w.Book),
			Anchored: w.Anchored, Torn: w.Torn, Checkpoints: w.Sums, Problems: []string{},
		}
		if rest := w.NotAnchored(); rest.First > 0 {
			told.NotAnchored = rest.Last - rest.First + 1
		}
		for _, p := range w.Problems {
			told.Problems = append(told.Problems, p.Error())
		}
		out.Writers = append(out.Writers, told)
	}
	return out
}

// rest is the records that are not anchored.
func (w *writerProof) rest() extent {
	if w.NotAnchored == 0 {
		return extent{}
	}
	return extent{w.Last - w.NotAnchored + 1, w.Last}
}

func tellProof(t *terminal, output *format, p proof) error {
	rows := [][]string{{"writer", "records", "in journal", "in sink", "proven up to", "not anchored", "checkpoints"}}
	for _, w := range p.Writers {
		anchored := "none"
		if w.Anchored > 0 {
			anchored = strconv.FormatUint(w.Anchored, 10)
		}
		rows = append(rows, []string{
			w.Writer, extent{w.First, w.Last}.String(), w.Journal.String(), w.Sink.String(), anchored, w.rest().String(), strconv.Itoa(w.Checkpoints),
		})
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
		if err := tellTail(t, &w); err != nil {
			return err
		}
	}
	if p.Nameless > 0 {
		if _, err := fmt.Fprintf(t.out, "fault: %d records of earlier writers, whose names are gone too, are gone: the journal has counted them\n", p.Nameless); err != nil {
			return err
		}
	}
	for _, month := range p.WrongSums {
		if _, err := fmt.Fprintf(t.out, "fault: %s: the sums that reports read are not those of the records\n", month); err != nil {
			return err
		}
	}
	return nil
}

// tellTail says what cannot be proven.
func tellTail(t *terminal, w *writerProof) error {
	var err error
	if w.NotAnchored > 0 {
		_, err = fmt.Fprintf(t.out, "note: %s: the tail %s is not anchored: no hash held in another place says that these are the records that were written, or all of them\n", w.Writer, w.rest())
	}
	if w.Torn > 0 && err == nil {
		_, err = fmt.Fprintf(t.out, "note: %s: %d bytes behind record %d are no whole record: being written, torn by a crash, or damaged\n", w.Writer, w.Torn, w.Last)
	}
	return err
}

func newAuditShow(t *terminal, f *flags) *cobra.Command {
	var r reader
	var limit int
	var request, key, team, types, from, to string
	cmd := &cobra.Command{
		Use: "show", Short: "Records, newest first: changes by operators, corrections and starts, or those asked for", Args: noArgs,
		Long: "Without a filter it shows what operators and writers did: records of type admin, start and adjust. --key and\n" +
			"--team show every record of theirs, --request all about one request: its records, and merged into one. Calls\n" +
			"are in the order of their admission, and --from and --to mean that.",
		Example: "  airgate audit show --request 019a49b1-2f3a-7c11-8a4e-0123456789ab\n" +
			"  airgate audit show --team search --type deny --from 2026-11-03",
		RunE: func(cmd *cobra.Command, _ []string) error {
			key = t.keyID(key)
			q := url.Values{"limit": {strconv.Itoa(limit)}}
			for name, text := range map[string]string{"request": request, "key": key, "team": team, "type": types, "from": from, "to": to} {
				if text != "" {
					q.Set(name, text)
				}
			}
			_, err := admin.ParseAudit(q)
			if err == nil {
				_, err = admin.ParseLimit(q)
			}
			if err != nil {
				return usageFault(err)
			}
			if err := r.print(cmd.Context(), t, "/api/v1/audit", q); err != nil || request == "" || r.output.text != "table" {
				return err
			}
			merged, err := r.get(cmd.Context(), "/api/v1/requests/"+url.PathEscape(request)+"?output=table", nil)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(t.out, "\n%s", merged)
			return err
		},
	}
	cmd.Flags().StringVar(&request, "request", "", "all records of this request id")
	cmd.Flags().StringVar(&key, "key", "", "of this key: its id or its name")
	cmd.Flags().StringVar(&team, "team", "", "of this team and those below it")
	cmd.Flags().StringVar(&types, "type", "", "of these types: intent, extend, settle, deny, adjust, admin, start")
	cmd.Flags().StringVar(&from, "from", "", "from this date or time, UTC")
	cmd.Flags().StringVar(&to, "to", "", "before this date or time, UTC")
	cmd.Flags().IntVar(&limit, "limit", 100, "at most so many records (1000 is the most)")
	r.add(cmd, f, "table", "json", "csv")
	r.addOffline(cmd)
	return cmd
}
