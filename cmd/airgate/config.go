package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"airgate/policy/config"
)

func newConfig(t *terminal, f *flags) *cobra.Command {
	return group("config", "What configuration is in force", newConfigView(t, f), newConfigStatus(t, f))
}

func newConfigView(t *terminal, f *flags) *cobra.Command {
	return &cobra.Command{
		Use: "view", Short: "Print the effective configuration of --config, with what is laid over it in --data, as JSON", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := laidConfig(cmd.Context(), f)
			if err != nil {
				return err
			}
			e := json.NewEncoder(t.out)
			e.SetIndent("", "  ")
			return e.Encode(s.View())
		},
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
