package main

import (
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

// version is the last release, or with -dev the one that comes.
const version = "0.1.0-dev"

func newVersion(t *terminal) *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			if output.text == "json" {
				return json.NewEncoder(t.out).Encode(map[string]string{"version": version, "go": runtime.Version()})
			}
			_, err := fmt.Fprintf(t.out, "airgate %s (%s)\n", version, runtime.Version())
			return err
		},
	}
	output.add(cmd, "table", "json")
	return cmd
}
