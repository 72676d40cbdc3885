package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"airgate/policy/config"
)

func newValidate(t *terminal, f *flags) *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "validate [PATH | -]",
		Short: "Check a config: every problem with file, line and column",
		Long: "Checks a config file or directory (default --config). With - it reads standard input, where ConfigMap and\n" +
			"Secret manifests are understood too: kustomize build . | airgate validate -",
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			path := f.config
			if len(args) == 1 {
				path = args[0]
			}
			snapshot, err := load(t, path)
			problems, wrong := errors.AsType[config.Problems](err)
			if err != nil && !wrong {
				return configError(path, err)
			}
			if output.text == "json" {
				return tellValidity(t, problems, snapshot)
			}
			for _, p := range problems {
				fmt.Fprintln(t.out, p.Error())
			}
			if wrong {
				return fmt.Errorf("problems found: %d", len(problems))
			}
			for _, w := range snapshot.Warnings {
				t.say("warning: %s", w.Error())
			}
			fmt.Fprintf(t.out, "ok: %s (config %s)\n", path, snapshot.ShortHash())
			return nil
		},
	}
	output.add(cmd, "table", "json")
	return cmd
}

// load loads a path, or standard input.
func load(t *terminal, path string) (*config.Snapshot, error) {
	if path != "-" {
		return config.Load(path, time.Now())
	}
	text, err := io.ReadAll(t.in)
	if err != nil {
		return nil, fmt.Errorf("read standard input: %w", err)
	}
	return config.LoadBytes("-", text, time.Now())
}

func tellValidity(t *terminal, problems config.Problems, s *config.Snapshot) error {
	out := struct {
		OK       bool            `json:"ok"`
		Hash     string          `json:"hash,omitempty"`
		Problems config.Problems `json:"problems"`
		Warnings config.Problems `json:"warnings"`
	}{OK: s != nil, Problems: append(config.Problems{}, problems...), Warnings: config.Problems{}}
	if s != nil {
		out.Hash, out.Warnings = s.Hash, append(out.Warnings, s.Warnings...)
	}
	if err := json.NewEncoder(t.out).Encode(out); err != nil {
		return err
	}
	if !out.OK {
		return &exitError{code: exitProblem, err: problems, told: true}
	}
	return nil
}
