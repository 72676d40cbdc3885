package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"airgate/policy/config"
)

func newConfig(t *terminal, f *flags) *cobra.Command {
	return group("config", "What configuration is in force", newConfigView(t, f), newConfigDiff(t, f), newConfigStatus(t, f))
}

func newConfigView(t *terminal, f *flags) *cobra.Command {
	return &cobra.Command{
		Use: "view", Short: "Print the effective configuration of --config, with what is laid over it in --data, as JSON", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := laidConfig(cmd.Context(), f, t.warnOverlay)
			if err != nil {
				return err
			}
			e := json.NewEncoder(t.out)
			e.SetIndent("", "  ")
			return e.Encode(s.View())
		},
	}
}

func newConfigDiff(t *terminal, f *flags) *cobra.Command {
	var r reader
	cmd := &cobra.Command{
		Use: "diff", Short: "What --config would change in a running airgate, and what is laid over it there; exit 1 if the files differ",
		Long: "A line beginning with - is in force and not in --config, one with + the reverse; ~ is an entry of the overlay,\n" +
			"which no file has and which stays until it ends.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := loadConfig(f.config)
			if err != nil {
				return err
			}
			var inForce config.View
			if _, err := r.get(cmd.Context(), "/-/config", &inForce); err != nil {
				return err
			}
			t.say("scope: the airgate at %s", r.server)
			next, err := json.Marshal(s.View().Config)
			if err != nil {
				return err
			}
			var local map[string]any // as inForce.Config came
			if err := json.Unmarshal(next, &local); err != nil {
				return err
			}
			lines := differences(inForce.Config, local)
			for _, l := range lines {
				fmt.Fprintln(t.out, plain(l))
			}
			for _, l := range inForce.Overlay {
				fmt.Fprintln(t.out, plain(laidLine(&l)))
			}
			if len(lines) > 0 {
				return errors.New("the files differ from what is in force")
			}
			return nil
		},
	}
	r.flags = f
	cmd.Flags().StringVar(&r.server, "server", "http://"+defaultAdmin, "admin address of a running airgate")
	return cmd
}

// laidLine is an entry of the overlay as diff shows it.
func laidLine(l *config.LaidView) string {
	text := "~ overlay " + l.ID
	if l.To != nil {
		text += " to " + l.To.String() + " USD"
	}
	if l.Until != nil {
		text += " until " + l.Until.Format(time.RFC3339)
	}
	text += ", by " + l.By + ": " + l.Reason
	if l.State != config.InForce {
		text += " (" + string(l.State) + ": " + l.Why + ")"
	}
	return text
}

// differences are the fields that two configurations do not have alike.
func differences(have, want map[string]any) (lines []string) {
	a, b := make(map[string]string), make(map[string]string)
	flatten("", have, a)
	flatten("", want, b)
	all := slices.Collect(maps.Keys(a))
	for path := range b {
		if _, both := a[path]; !both {
			all = append(all, path)
		}
	}
	slices.Sort(all)
	for _, path := range all {
		before, was := a[path]
		after, is := b[path]
		if before == after && was == is {
			continue
		}
		if was {
			lines = append(lines, "- "+path+": "+before)
		}
		if is {
			lines = append(lines, "+ "+path+": "+after)
		}
	}
	return lines
}

// flatten writes the values below a path to out :: path → value. An entry of a
// list is known by its name or id, where it has one.
func flatten(path string, v any, out map[string]string) {
	switch v := v.(type) {
	case map[string]any:
		for key, x := range v {
			flatten(strings.TrimPrefix(path+"."+key, "."), x, out)
		}
		if len(v) == 0 {
			out[path] = "{}"
		}
	case []any:
		for i, x := range v {
			entry, _ := x.(map[string]any)
			name, _ := cmp.Or(entry["name"], entry["id"]).(string)
			flatten(path+"["+cmp.Or(name, strconv.Itoa(i))+"]", x, out)
		}
		if len(v) == 0 {
			out[path] = "[]"
		}
	default:
		out[path] = fmt.Sprint(v)
	}
}

func newConfigStatus(t *terminal, f *flags) *cobra.Command {
	var r reader
	cmd := &cobra.Command{
		Use: "status", Short: "What a running airgate last loaded, and why a newer config was not taken", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s config.Status
			body, err := r.get(cmd.Context(), "/-/config/status", &s)
			if err != nil {
				return err
			}
			r.sayScope(t)
			text := string(body)
			if r.output.text == "table" {
				text = statusText(&s, time.Now())
			}
			if _, err := fmt.Fprint(t.out, text); err != nil {
				return err
			}
			if !s.Successful {
				return errors.New("the newest config was not taken; the last good one is in force")
			}
			return nil
		},
	}
	r.add(cmd, f, "table", "json")
	return cmd
}

// age says since when the first of some things has been; "" of none.
func age(oldest, now time.Time) string {
	if oldest.IsZero() {
		return ""
	}
	return " (the oldest for " + now.Sub(oldest).Round(time.Second).String() + ")"
}

func statusText(s *config.Status, now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "in force  %.12s, loaded %s\n", s.Hash, s.Loaded.Format(time.RFC3339))
	if o := s.Overlay; o != nil {
		fmt.Fprintf(&b, "overlay   %d in force%s, %d redundant, %d refused\n", o.InForce, age(o.Oldest, now), o.Redundant, o.Refused)
		if o.Fault != "" {
			fmt.Fprintf(&b, "problem   overlay: %s\n", plain(o.Fault))
		}
	}
	for _, p := range s.Problems {
		fmt.Fprintf(&b, "problem   %s\n", plain(p.Error()))
	}
	for _, w := range s.Warnings {
		fmt.Fprintf(&b, "warning   %s\n", plain(w.Error()))
	}
	return b.String()
}
