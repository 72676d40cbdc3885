package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/user"
	"time"

	"github.com/spf13/cobra"

	"airgate/accounting/money"
	"airgate/cmd/airgate/admin"
	"airgate/policy"
	"airgate/policy/config"
	"airgate/policy/overlay"
)

// writeTokenFlag is the flag of who takes writes, and of who makes them.
const writeTokenFlag = "admin-write-token"

func newOverlay(t *terminal, f *flags) *cobra.Command {
	r := reader{api: offlineOverlay(true, t.sayBroken)}
	cmd := &cobra.Command{
		Use: "overlay", Short: "What is laid over the config for a while: raises, blocks, revocations; -o yaml is what to commit in its place",
		Long: "Lists the entries that hold, or would if the files allowed it: airgate budgets raise, block, unblock and keys\n" +
			"revoke --now make them. They end by themselves, a revocation once the files say the same.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var out struct{ Overlay []config.LaidView }
			body, err := r.get(cmd.Context(), "/api/v1/overlay", &out)
			if err != nil {
				return err
			}
			r.sayScope(t)
			switch r.output.text {
			case "json":
				_, err := t.out.Write(body)
				return err
			case "yaml":
				for i := range out.Overlay {
					if yaml := out.Overlay[i].YAML; yaml != "" {
						fmt.Fprintf(t.out, "# %s, by %s: %s\n%s\n", out.Overlay[i].ID, plain(out.Overlay[i].By), plain(out.Overlay[i].Reason), yaml)
					}
				}
				return nil
			}
			rows := [][]string{{"id", "state", "until", "to_usd", "by", "made", "reason", "note"}}
			for i := range out.Overlay {
				rows = append(rows, rowOf(&out.Overlay[i]))
			}
			return r.output.write(t, rows)
		},
	}
	r.add(cmd, f, "table", "json", "yaml")
	r.hint = ", --offline reads its store"
	cmd.Flags().BoolVar(&r.offline, "offline", false, "read the stores of --config and --data instead of asking a running airgate")
	return cmd
}

func rowOf(l *config.LaidView) []string {
	to, until := "-", "revoked in a file"
	if l.To != nil {
		to = l.To.String()
	}
	if l.Until != nil {
		until = l.Until.Format(time.RFC3339)
	}
	return []string{l.ID, string(l.State), until, to, l.By, l.Made.Format(time.RFC3339), l.Reason, dash(l.Why)}
}

// signing is how the commands that write do it: through a running airgate, unless they
// can do without, with its token, and saying who says so, and why.
type signing struct {
	reader

	tokenFile, by, reason string
}

// sign gives cmd the flags; why is what --reason is for.
func (s *signing) sign(cmd *cobra.Command, why string) {
	cmd.Flags().StringVar(&s.tokenFile, writeTokenFlag, "", "file with the write token, the one that the airgate was started with (serve --"+writeTokenFlag+")")
	cmd.Flags().StringVar(&s.by, "by", "", "who says so (default: the user of this system)")
	cmd.Flags().StringVar(&s.reason, "reason", "", why)
}

// signed is who says so, and why, without a key that stands in it.
func (s *signing) signed() (by, reason string, err error) {
	if by = s.by; by == "" {
		u, err := user.Current()
		if err != nil {
			return "", "", usageFault(fmt.Errorf("who says so? --by NAME: %w", err))
		}
		by = u.Username
	}
	if s.reason == "" {
		return "", "", usageFault(errors.New("say why: --reason TEXT"))
	}
	return policy.Redact(by), policy.Redact(s.reason), nil
}

// post writes what, and reads the answer as do does.
func (s *signing) post(ctx context.Context, path string, what, out any) ([]byte, error) {
	token := ""
	if !s.offline {
		if s.tokenFile == "" {
			or := ""
			if s.api != nil {
				or = "; or --offline"
			}
			return nil, usageFault(errors.New("a write needs the token of the airgate: --" + writeTokenFlag + " FILE, the file that it was started with. If that was without one, start it with one, " +
				"airgate serve --" + writeTokenFlag + " FILE, a file with a secret line of your own (openssl rand -hex 32 >FILE)" + or))
		}
		var err error
		if token, err = readToken(s.tokenFile); err != nil {
			return nil, unreachable(fmt.Errorf("--%s: %w", writeTokenFlag, err))
		}
	}
	body, err := json.Marshal(what)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set(admin.WriteHeader, token)
	req.Header.Set("Content-Type", "application/json")
	answer, err := s.do(req, out)
	if fault, ok := errors.AsType[*apiError](err); ok && fault.Code == "unauthorized" {
		err = fmt.Errorf("the token in %s is not the one that the airgate at %s was started with: name the file of its --%s", s.tokenFile, s.server, writeTokenFlag)
	}
	return answer, storeDown(err)
}

// storeDown gives an answer that the store cannot be reached the exit code of that.
func storeDown(err error) error {
	if fault, ok := errors.AsType[*apiError](err); ok && fault.Code == "store_unavailable" {
		return unreachable(err)
	}
	return err
}

// laying is how the commands that lay something over the config do it.
type laying struct{ signing }

// add gives cmd the flags.
func (l *laying) add(t *terminal, cmd *cobra.Command, f *flags) {
	l.reader.add(cmd, f, "yaml", "json")
	cmd.Flags().Lookup("output").Usage = "yaml (what to commit in its place) or json"
	l.api, l.hint = offlineOverlay(false, t.sayBroken), ", --offline writes to the store itself"
	cmd.Flags().BoolVar(&l.offline, "offline", false, "write to the stores of --config and --data instead of asking a running airgate")
	l.sign(cmd, "why; callers that are refused are told, but for a revoked key")
}

// sayBroken says what the overlay's commands do without.
func (t *terminal) sayBroken(store string, err error) {
	t.say("warning: the config is wrong, and a running airgate goes on with its last good one. What can be read of the files is used here, and the overlay in %s;\n"+
		"airgate overlay shows what holds, and what needs more takes --server and --%s in place of --offline. To be repaired:\n%v", store, writeTokenFlag, err)
}

// put makes an entry, prints what to commit in its place, and says what it did.
func (l *laying) put(ctx context.Context, t *terminal, e overlay.Entry, done string) (err error) {
	if e.By, e.Reason, err = l.signed(); err != nil {
		return err
	}
	var told admin.Told
	answer, err := l.post(ctx, "/api/v1/overlay", e, &told)
	if err != nil {
		return err
	}
	if l.offline {
		t.say("%s; an airgate that reads this store takes it over within 2 s", done)
	} else {
		t.say("%s by the airgate at %s, and within 2 s by all that share its overlay", done, l.server)
	}
	if l.output.text == "json" {
		_, err := t.out.Write(answer)
		return err
	}
	_, err = fmt.Fprint(t.out, told.YAML)
	return err
}

// blockKind is the kind of a word of block and unblock.
func blockKind(word string) (overlay.Kind, bool) {
	for _, k := range []overlay.Kind{overlay.BlockTeam, overlay.BlockKey, overlay.BlockModel, overlay.BlockProvider} {
		if string(k) == "block/"+word {
			return k, true
		}
	}
	return "", false
}

// blocked is the subject of block and unblock: what blockArgs has let pass.
func blocked(t *terminal, args []string) (kind overlay.Kind, name string) {
	kind, _ = blockKind(args[0])
	if name = args[1]; kind == overlay.BlockKey {
		name = t.keyID(name)
	}
	return kind, name
}

// blockArgs wants a kind and a name.
func blockArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 2 {
		if _, ok := blockKind(args[0]); ok {
			return nil
		}
	}
	return usageFault(fmt.Errorf("%s takes team, key, model or provider, and its name: %s team search", cmd.CommandPath(), cmd.CommandPath()))
}

func newBlock(t *terminal, f *flags) *cobra.Command {
	var l laying
	var until string
	cmd := &cobra.Command{
		Use: "block team|key|model|provider NAME --until TIME --reason TEXT", Short: "Refuse the calls of a team or key, or to a model or provider, everywhere, for at most 72 h",
		Args: blockArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			end, err := parseEnd("--until", until, time.Now())
			if err != nil {
				return usageFault(err)
			}
			kind, name := blocked(t, args)
			return l.put(cmd.Context(), t, overlay.Entry{Kind: kind, Name: name, Until: end},
				fmt.Sprintf("%s %s is blocked until %s", args[0], name, end.Format(time.RFC3339)))
		},
	}
	l.add(t, cmd, f)
	cmd.Flags().StringVar(&until, "until", "", "duration (4h), time (RFC 3339) or date (2026-12-01)")
	return cmd
}

func newUnblock(t *terminal, f *flags) *cobra.Command {
	var l laying
	cmd := &cobra.Command{
		Use: "unblock team|key|model|provider NAME --reason TEXT", Short: "Take a block back",
		Args: blockArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, name := blocked(t, args)
			return l.put(cmd.Context(), t, overlay.Entry{Kind: kind, Name: name, Removed: true},
				fmt.Sprintf("%s %s is no longer blocked", args[0], name))
		},
	}
	l.add(t, cmd, f)
	return cmd
}

func newBudgetsRaise(t *terminal, f *flags) *cobra.Command {
	var l laying
	var to, until string
	var undo bool
	cmd := &cobra.Command{
		Use: "raise NAME --to USD --until TIME --reason TEXT", Short: "Give a budget more for a while, everywhere, within overlay.maxRaise and for at most 72 h",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageFault(errors.New("budgets raise takes one budget; airgate budgets lists them"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			e := overlay.Entry{Kind: overlay.Raise, Name: args[0]}
			if undo {
				if to != "" || until != "" {
					return usageFault(errors.New("--undo takes the raise back: leave out --to and --until"))
				}
				e.Removed = true
				return l.put(cmd.Context(), t, e, "the raise of budget "+e.Name+" is taken back")
			}
			var err error
			if e.To, err = money.ParseUSD(to); err != nil {
				return usageFault(fmt.Errorf("--to: want an amount of USD, such as 700: %w", err))
			}
			if e.Until, err = parseEnd("--until", until, time.Now()); err != nil {
				return usageFault(err)
			}
			return l.put(cmd.Context(), t, e, fmt.Sprintf("budget %s is raised to %s USD until %s", e.Name, e.To, e.Until.Format(time.RFC3339)))
		},
	}
	l.add(t, cmd, f)
	cmd.Flags().StringVar(&to, "to", "", "the amount in USD, for everyone without an override of one's own")
	cmd.Flags().StringVar(&until, "until", "", "duration (4h), time (RFC 3339) or date (2026-12-01)")
	cmd.Flags().BoolVar(&undo, "undo", false, "take the raise back")
	return cmd
}
