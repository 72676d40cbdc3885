package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"airgate/cmd/airgate/admin"
	"airgate/policy"
	"airgate/policy/config"
	"airgate/policy/overlay"
)

func newKeys(t *terminal, f *flags) *cobra.Command {
	return group("keys", "Make, list and revoke virtual keys", newKeysCreate(t, f), newKeysList(t, f), newKeysRevoke(t, f))
}

func newKeysCreate(t *terminal, f *flags) *cobra.Command {
	var want policy.KeyConfig
	var expires string
	var output format
	cmd := &cobra.Command{
		Use:   "create --team TEAM --name NAME",
		Short: "Make a key: print it once, write its hash to <config>/keys.yaml",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if want.Team == "" || want.Name == "" {
				return usageFault(errors.New("keys create needs --team and --name"))
			}
			now := time.Now()
			k, text, err := newKey(now)
			if err != nil {
				return err
			}
			k.Team, k.Name, k.Purpose = want.Team, want.Name, want.Purpose
			if cmd.Flags().Changed("models") {
				k.Models = want.Models // none at all is a choice
			}
			if expires != "" {
				if k.Secrets[0].Expires, err = parseEnd("--expires", expires, now); err != nil {
					return usageFault(err)
				}
			}
			entry := config.FormatKey(k)
			switch output.text {
			case "entry", "secret":
				// Config that Git or a Secret owns: nothing is written here, and it
				// may be nowhere here.
				if err := checkKey(f.config, cmd.Flags().Changed("config"), k, now); err != nil {
					return err
				}
				fmt.Fprintln(t.err, "the key, shown this once:", text)
				_, err := fmt.Fprint(t.out, patch(output.text, k.ID, entry))
				return err
			}
			if err := addKey(f.config, k, now); err != nil {
				return err
			}
			if output.text == "json" {
				return json.NewEncoder(t.out).Encode(map[string]string{"id": k.ID, "key": text, "entry": entry})
			}
			t.say("key %s of team %s; it is shown this once:", k.ID, k.Team)
			_, err = fmt.Fprintln(t.out, text)
			return err
		},
	}
	cmd.Flags().StringVar(&want.Team, "team", "", "team the key's calls are charged to")
	cmd.Flags().StringVar(&want.Name, "name", "", "name for people")
	cmd.Flags().StringVar(&want.Purpose, "purpose", "", "fix the purpose of every call")
	cmd.Flags().StringSliceVar(&want.Models, "models", nil, "narrow the team's models")
	cmd.Flags().StringVar(&expires, "expires", "", "date (2027-05-01), time (RFC 3339) or duration (720h)")
	output.add(cmd, "table", "json", "entry", "secret")
	cmd.Flags().Lookup("output").Usage = "table, json, entry (YAML to commit) or secret (a Secret manifest)"
	return cmd
}

// newKey makes a key without an owner, and its text, which is kept nowhere.
func newKey(now time.Time) (k policy.KeyConfig, text string, err error) {
	id, text, hash, err := policy.NewKey(rand.Reader)
	if err != nil {
		return k, "", fmt.Errorf("make key: %w", err)
	}
	secret := policy.Secret{Hash: hash, Created: now.UTC().Truncate(time.Second)}
	return policy.KeyConfig{ID: id, Secrets: []policy.Secret{secret}}, text, nil
}

// addKey writes k to the config.
func addKey(path string, k policy.KeyConfig, now time.Time) error {
	err := config.AddKey(path, k, now)
	if errors.Is(err, config.ErrMounted) || errors.Is(err, config.ErrLayout) {
		return problem(fmt.Errorf("write key: %w; -o entry or -o secret prints what to add", err))
	}
	return keyFault(path, err)
}

// checkKey says whether k fits the config at path, if there is one. There must be
// one where it was named.
func checkKey(path string, named bool, k policy.KeyConfig, now time.Time) error {
	err := config.CheckKey(path, k, now)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return nil
	}
	return keyFault(path, err)
}

// keyFault says which flag is wrong, or what is wrong with the config.
func keyFault(path string, err error) error {
	if wrong, ok := errors.AsType[*config.KeyError](err); ok {
		return problem(fmt.Errorf("no key was made: --%w", wrong))
	}
	return configError(path, err)
}

// parseEnd reads when something is to end, from a flag.
func parseEnd(flag, text string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return now.UTC().Add(d).Truncate(time.Second), nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		at, err := time.Parse(layout, text)
		if err != nil {
			continue
		}
		if !at.After(now) {
			return time.Time{}, fmt.Errorf("%s %s is in the past", flag, text)
		}
		return at.UTC(), nil
	}
	return time.Time{}, fmt.Errorf("%s %q: want a date (2027-05-01), a time (2027-05-01T12:00:00Z) or a duration (72h)", flag, text)
}

// patch is the entry as a file, or that in a manifest for the Keys volume. There
// each key is an entry of its own, so that one more takes nothing from the others.
func patch(kind, id, entry string) string {
	file := "apiVersion: airgate/v1\nkind: Keys\nkeys:\n" + indent("  ", entry)
	if kind == "entry" {
		return file
	}
	return "apiVersion: v1\nkind: Secret\nmetadata: {name: airgate-keys}\nstringData:\n  key-" + id + ".yaml: |\n" + indent("    ", file)
}

// indent puts prefix before every line of text.
func indent(prefix, text string) string {
	text = strings.TrimRight(text, "\n")
	return prefix + strings.ReplaceAll(text, "\n", "\n"+prefix) + "\n"
}

func newKeysList(t *terminal, f *flags) *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use: "list", Short: "List keys and where they stand; no secret is shown, because none is kept", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, wrong := config.LoadBroken(f.config, time.Now())
			if s == nil {
				return configError(f.config, wrong)
			}
			listed, err := config.ListKeys(f.config)
			if _, told := errors.AsType[config.Problems](err); err != nil && !told {
				return configError(f.config, err)
			}
			if s, err = laidOver(cmd.Context(), f, s, t.warnOverlay); err != nil {
				return err
			}
			keys := admin.Overlaid(admin.Keys(listed, time.Now()), s.Laid)
			if wrong != nil {
				wrong = problem(fmt.Errorf("the config is wrong, so keys may be missing, and an airgate that runs goes on with its last good one:\n%w", wrong))
			}
			if output.text == "json" {
				return errors.Join(json.NewEncoder(t.out).Encode(map[string]any{"keys": keys}), wrong)
			}
			w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "ID\tNAME\tTEAM\tPURPOSE\tSTATE\tWHERE")
			for _, k := range keys {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s:%d\n", k.ID, dash(k.Name), k.Team, dash(k.Purpose), k.State, k.File, k.Line)
			}
			return errors.Join(w.Flush(), wrong)
		},
	}
	output.add(cmd, "table", "json")
	return cmd
}

// dash is s, or what a table shows where there is nothing.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// keyID is the id of a key that was given itself, and any other text as it is. The
// id is all that is needed of a key, and all that goes on from here.
func (t *terminal) keyID(text string) string {
	id, ok := policy.KeyID(text)
	if !ok {
		return text
	}
	t.say("that is a key itself, which stands in the history of this shell now: its id is taken, %s; it must be revoked, if it is not", id)
	return id
}

func newKeysRevoke(t *terminal, f *flags) *cobra.Command {
	var l laying
	var atOnce bool
	cmd := &cobra.Command{
		Use: "revoke ID|NAME", Short: "Revoke a key: every airgate refuses it within 2 s of the file's arrival, with --now within 2 s",
		Long: "Sets revoked: in <config>/keys.yaml. With --now the key is refused by every airgate that shares the overlay at\n" +
			"once, whatever the files say, and for good: the entry goes once the files say the same.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageFault(errors.New("keys revoke takes the id or the name of one key; airgate keys list shows them"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			key := t.keyID(args[0])
			if atOnce {
				return l.put(cmd.Context(), t, overlay.Entry{Kind: overlay.Revoke, Name: key}, "key "+key+" is refused")
			}
			for _, name := range []string{"reason", "by", "offline", writeTokenFlag, "output"} {
				if cmd.Flags().Changed(name) {
					return usageFault(fmt.Errorf("--%s is for --now", name))
				}
			}
			now := time.Now().UTC().Truncate(time.Second)
			id, err := config.RevokeKey(f.config, key, now, now)
			switch elsewhere, ok := errors.AsType[*config.ElsewhereError](err); {
			case ok:
				return elsewhere // says where, and what to do there
			case errors.Is(err, config.ErrNoKey):
				return fmt.Errorf("%w; airgate keys list shows them", err)
			case errors.Is(err, config.ErrMounted) || errors.Is(err, config.ErrLayout):
				return err
			case err != nil:
				return fmt.Errorf("key %s is NOT revoked: --now ends it without the files, else this must be repaired first: %w", key, configError(f.config, err))
			}
			if err := inForce(cmd.Context(), &l.reader, f.config); err != nil {
				return problem(fmt.Errorf("key %s is revoked in the file, but NOT yet in the airgate at %s: %w", id, l.server, err))
			}
			t.say("key %s is revoked since %s; an airgate that reads this config refuses it within 2 s", id, now.Format(time.RFC3339))
			return nil
		},
	}
	l.add(t, cmd, f)
	cmd.Flags().Lookup("server").Usage = "airgate that is told with --now, and else asked whether it has taken the revocation over"
	cmd.Flags().BoolVar(&atOnce, "now", false, "do not wait for files")
	return cmd
}

// inForce waits until the airgate that r asks has taken the config at path
// over, if one answers and reads the same files: a revocation that it refuses
// with the rest of a config must not look done.
func inForce(ctx context.Context, r *reader, path string) error {
	want, err := config.Load(path, time.Now())
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(3 * time.Second); ; {
		var s admin.Status
		if _, err := r.get(ctx, "/-/config/status", &s); err != nil {
			return nil //nolint:nilerr // none answers here: nothing can be said of others
		}
		switch {
		case s.Hash == want.Hash:
			return nil
		case s.LastError != nil:
			return errors.New(*s.LastError)
		case time.Now().After(deadline):
			return nil // it reads another config
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
