package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"airgate/accounting"
	"airgate/accounting/money"
	"airgate/accounting/sink/sqlite"
	"airgate/cmd/airgate/admin"
)

// holders are the writers that the store knows of which airgates share.
func (g *gateway) holders(ctx context.Context) ([]accounting.Holder, error) {
	if g.store.survey == nil {
		return nil, admin.ErrNotShared
	}
	s, err := g.store.survey(ctx)
	if err != nil {
		return nil, err
	}
	return accounting.Holders(&s), nil
}

const (
	// reclaimWithin is how long an airgate is at a claim that it has recorded: it looks at
	// every account-window of the store. Who has sent it may be gone by then.
	reclaimWithin = 2 * time.Minute
	// claimWithin is how long the command waits for that.
	claimWithin = reclaimWithin + time.Minute
)

// reclaim gives back what a writer had that does not come back. The book says so first:
// who succeeds to it does the same once more. What is begun does not end with ctx.
func (g *gateway) reclaim(ctx context.Context, c *admin.Claim, returns []accounting.Return) error {
	last, err := c.Last()
	if err != nil {
		return err
	}
	ctx, end := context.WithTimeout(context.WithoutCancel(ctx), reclaimWithin)
	defer end()
	var back money.NanoUSD
	spent := make(map[string]money.NanoUSD)
	for i := range returns {
		back += returns[i].Back
		spent[returns[i].Account] = returns[i].Spent
	}
	why := fmt.Sprintf("proven, as %s's command says: records 1 to %d are one chain, and %s", c.By, c.LastSeq, c.Proof)
	if c.Proof == "" {
		why = "not proven, up to " + c.Accept.String() + " USD accepted" // the API has seen to it
	}
	detail := fmt.Sprintf("what %s had in the quota store is given back: %s USD in %d account-windows; %s; by %s: %s", c.Writer, back, len(returns), why, c.By, c.Reason)
	now := time.Now()
	p, err := g.journal.Append(accounting.QuotaReclaimed(now, last, detail, returns))
	if err == nil {
		err = g.journal.Wait(ctx, p)
	}
	if err != nil {
		// If it is in the book all the same, who succeeds to that does it.
		return fmt.Errorf("nothing was given back yet, and it may be recorded: run it again: %w", err)
	}
	if err := g.ledger.Reclaim(ctx, c.Writer, spent, now); err != nil {
		return fmt.Errorf("it is recorded, and not all was given back: run it again: %w", err)
	}
	return nil
}

// noRecords stands for a file where there is none that has records of the writer.
const noRecords = "none"

// reclaiming is how budgets reclaim is called.
type reclaiming struct {
	signing

	records, accept string
}

func newBudgetsReclaim(t *terminal, f *flags) *cobra.Command {
	var c reclaiming
	cmd := &cobra.Command{
		Use: "reclaim [WRITER --records FILE --reason TEXT]", Short: "What lost airgates have set aside in the shared quota store; give it back",
		Long: "An airgate that is killed leaves what it had in hand set aside in the shared quota store, until the next start with\n" +
			"its data directory tells what was spent and gives the rest back. Where that directory is lost for good, nothing\n" +
			"does: the sum can be spent by nobody until the windows end. Time proves nothing.\n\n" +
			"Without a WRITER it lists for whom something is set aside: replica.incarnation, as in the records.\n\n" +
			"With one it reads the records of that writer, compares what they say was spent, calls without a settlement at their\n" +
			"bound, with what the store was told, and shows of each account-window what would go back. With --reason it is given\n" +
			"back, if the records prove that none are missing: they are one chain from the first on, which ends with the writer's\n" +
			"own word that it has given back what it had, or with the record that the next start of its replica names as its last.\n" +
			"Those of one that was killed and lost its disk prove nothing of the kind: what it spent after its last record is not\n" +
			"known, and nothing goes back but with --accept USD, no less than what would go back over all accounts: by so much at most a budget can be passed then, beside what it spent without the store's\n" +
			"word (overdrafts, shadow budgets, onStoreDown). A writer that was heard of in the last minute is refused. Make sure\n" +
			"that its process has ended: one that only cannot reach the store goes on with what it had in hand, proven or not, and\n" +
			"ends once it reaches the store, as that tells it.",
		Example: "  airgate budgets reclaim\n" +
			"  airgate budgets reclaim airgate-2.01a22c793682283a2bf6 --records usage-backup.db\n" +
			"  airgate budgets reclaim airgate-2.01a22c793682283a2bf6 --records usage-backup.db --accept 1.5 --reason INC-12 --admin-write-token token",
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) > 1:
				return usageFault(fmt.Errorf("unexpected argument %q: one writer, or none for a list", args[1]))
			case len(args) == 1 && args[0] == "":
				return usageFault(errors.New("the writer is empty: airgate budgets reclaim, without any, lists for whom something is set aside"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, name := range []string{"records", "accept", "reason"} {
				switch flag := cmd.Flags().Lookup(name); {
				case flag.Changed && len(args) == 0:
					return usageFault(fmt.Errorf("--%s is about one writer: airgate budgets reclaim WRITER --%s …", name, name))
				case flag.Changed && flag.Value.String() == "":
					return usageFault(fmt.Errorf("--%s is empty", name))
				}
			}
			if len(args) == 0 {
				return c.list(cmd.Context(), t)
			}
			if !cmd.Flags().Changed("accept") {
				return c.one(cmd.Context(), t, args[0], nil)
			}
			accept, err := money.ParseUSD(c.accept)
			if err == nil && accept < 0 {
				err = errors.New("it is negative")
			}
			if err != nil {
				return usageFault(fmt.Errorf("--accept: want an amount of USD, such as 12.5: %w", err))
			}
			return c.one(cmd.Context(), t, args[0], &accept)
		},
	}
	c.add(cmd, f, "table", "json")
	c.sign(cmd, "why it is right to give it back, for the audit trail; without it nothing is given back")
	cmd.Flags().StringVar(&c.records, "records", "", "database with the writer's records, or a copy of it (default: the one of --config and --data); none = there are no records of it any more")
	cmd.Flags().StringVar(&c.accept, "accept", "", "give it back without a proof, if it is no more than so many USD")
	return cmd
}

// holdersOf asks for whom something is set aside, or for all of one writer.
func (c *reclaiming) holdersOf(ctx context.Context, writer string) ([]admin.Holder, []byte, error) {
	var out struct{ Writers []admin.Holder }
	q := url.Values{}
	if writer != "" {
		q.Set("writer", writer)
	}
	body, err := c.get(ctx, "/api/v1/escrow?"+q.Encode(), &out)
	return out.Writers, body, storeDown(err)
}

func (c *reclaiming) list(ctx context.Context, t *terminal) error {
	writers, body, err := c.holdersOf(ctx, "")
	if err != nil {
		return err
	}
	if c.output.text == "json" {
		_, err := t.out.Write(body)
		return err
	}
	t.say("scope: the quota store of the airgate at %s", c.server)
	rows := [][]string{{"writer", "state", "set_aside_usd", "accounts", "other_accounts"}}
	for i := range writers {
		w := &writers[i]
		n := 0
		for _, s := range w.Accounts {
			if s.SetAside > 0 {
				n++
			}
		}
		rows = append(rows, []string{w.Writer, beats(w), w.SetAside.String(), strconv.Itoa(n), strconv.Itoa(w.Others)})
	}
	return c.output.write(t, rows)
}

// beats says whether a writer is heard of.
func beats(h *admin.Holder) string {
	switch {
	case h.Alive:
		return "alive"
	case h.LastBeat == nil:
		return "silent, not known since when"
	}
	return "silent since " + h.LastBeat.Format(time.RFC3339)
}

// one shows what would become of what a writer has, and does it if that is right.
func (c *reclaiming) one(ctx context.Context, t *terminal, writer string, accept *money.NanoUSD) error {
	writers, _, err := c.holdersOf(ctx, writer)
	if err != nil {
		return err
	}
	if len(writers) == 0 {
		return fmt.Errorf("the quota store knows of no writer %q: airgate budgets reclaim lists those for whom something is set aside", writer)
	}
	h := writers[0].Holder()
	if h.Alive {
		return errors.New(admin.AliveText(&h))
	}
	if c.output.text == "table" {
		read := c.records
		if read == "" {
			read = c.flags.data
		}
		t.say("scope: the quota store of the airgate at %s; the records in %s", c.server, read)
	}
	e, err := c.examine(ctx, t, writer)
	if err != nil {
		return err
	}
	returns, err := h.Returns(e.Spent, time.Now())
	if err != nil {
		return err
	}
	if len(returns) == 0 && h.Others == 0 {
		t.say("nothing is set aside for %s", writer)
		return nil
	}
	would := admin.TellReturns(&h, returns)
	if c.output.text == "table" {
		if err := c.tell(t, &would); err != nil {
			return err
		}
	}
	unclaimed := func() error {
		if c.output.text == "json" && c.reason == "" {
			return json.NewEncoder(t.out).Encode(would)
		}
		return nil
	}
	switch {
	case e.Ended != "":
		t.say("proven: records 1 to %d of %s are one chain, and %s", e.Last.Seq, writer, e.Ended)
	case accept != nil && *accept >= would.Back:
		t.say("not proven, and accepted: %s", doubt(&e, &h, &would))
	default:
		if err := unclaimed(); err != nil {
			return err
		}
		return fmt.Errorf("not proven: %s. Nothing is given back. Find a later copy of its records (--records FILE); or wait until the windows end; "+
			"or sign off that so much may be spent beyond the budgets: --accept %s", doubt(&e, &h, &would), would.Back)
	}
	if c.reason != "" {
		claim := &admin.Claim{Writer: writer, Proof: e.Ended, Accept: accept, Recorded: e.Spent}
		if e.Last.Seq > 0 {
			claim.LastSeq, claim.LastHash = e.Last.Seq, e.Last.Hash.String()
		}
		return c.claim(ctx, t, claim)
	}
	t.say("nothing is given back yet: that takes --reason TEXT")
	return unclaimed()
}

// examine reads what there is of the writer's records.
func (c *reclaiming) examine(ctx context.Context, t *terminal, writer string) (e accounting.Evidence, err error) {
	if c.records == noRecords {
		return accounting.Evidence{Writer: writer}, nil
	}
	var r *sqlite.Reader
	if c.records == "" {
		r, err = book(ctx, t, c.flags)
	} else {
		r, err = sqlite.OpenCopy(ctx, c.records)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && r == nil:
		return e, unreachable(fmt.Errorf("there are no records to compare with: name the newest copy of the writer's records with --records FILE, or say --records %s: %w",
			noRecords, cmp.Or(err, fs.ErrNotExist)))
	case err != nil:
		return e, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	starts, err := r.Starts(ctx)
	if err != nil {
		return e, err
	}
	return accounting.Examine(writer, starts, r.Records(ctx, writer, 1))
}

// tell shows what would go back.
func (c *reclaiming) tell(t *terminal, would *admin.Claimed) error {
	rows := [][]string{{"account", "set_aside_usd", "told_usd", "recorded_usd", "back_usd"}}
	for _, r := range would.Accounts {
		rows = append(rows, []string{r.Account, r.SetAside.String(), r.Told.String(), r.Recorded.String(), r.Back.String()})
	}
	if err := c.output.write(t, rows); err != nil {
		return err
	}
	if would.Others > 0 {
		t.say("beside these, %d account-windows of tokens and requests go back but for what the store was told: they are in no record", would.Others)
	}
	return nil
}

// doubt says exactly what is not known.
func doubt(e *accounting.Evidence, h *accounting.Holder, would *admin.Claimed) string {
	var text string
	switch {
	case e.Last.Seq == 0:
		text = "there are no records of " + e.Writer
	case e.Missing != "":
		text = fmt.Sprintf("of %s %s are not here", e.Writer, e.Missing)
	default:
		text = fmt.Sprintf("the records of %s end with record %d of %s, and nothing says that it was the last", e.Writer, e.Last.Seq, e.LastAt.Format(time.RFC3339))
	}
	switch {
	case h.Heard.IsZero():
		text += "; the store does not know any more when it last heard of it"
	case e.Last.Seq > 0 && h.Heard.After(e.LastAt):
		text += fmt.Sprintf("; the store has heard of it until %s, %s longer", h.Heard.Format(time.RFC3339), h.Heard.Sub(e.LastAt).Round(time.Second))
	default:
		text += "; the store has heard of it until " + h.Heard.Format(time.RFC3339)
	}
	const unit = money.USD / 1_000_000 // of the store: it counts a little too much
	if i := slices.IndexFunc(would.Accounts, func(r admin.Returned) bool { return r.Told-r.Recorded >= unit }); i >= 0 && e.Last.Seq > 0 {
		r := &would.Accounts[i]
		text += fmt.Sprintf(", and was told that it spent %s USD more of %s than they say", r.Told-r.Recorded, r.Account)
	}
	return text + fmt.Sprintf(". What it has spent since, of the %s USD that would go back, is not known", would.Back)
}

// claim has it done.
func (c *reclaiming) claim(ctx context.Context, t *terminal, claim *admin.Claim) (err error) {
	if claim.By, claim.Reason, err = c.signed(); err != nil {
		return err
	}
	var done admin.Claimed
	c.patience = claimWithin
	answer, err := c.post(ctx, "/api/v1/escrow/reclaim", claim, &done)
	if err != nil {
		_, asked := errors.AsType[*url.Error](err)
		op, ok := errors.AsType[*net.OpError](err)
		if unheard := ok && op.Op == "dial"; asked && !unheard {
			err = fmt.Errorf("it may be done, or under way: list what is set aside, and run it again if that is still: %w", err)
		}
		return err
	}
	t.say("%s USD of %d account-windows are given back by the airgate at %s", done.Back, len(done.Accounts), c.server)
	if c.output.text == "json" {
		_, err = t.out.Write(answer)
	}
	return err
}
