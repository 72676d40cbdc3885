package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"reflect"
	"time"

	"github.com/spf13/cobra"

	"airgate/policy/config"
)

// serveFlags are those of every command that runs a gateway.
type serveFlags struct {
	admin, ops, extProc string
	drainToken          string
	writeToken          string
	logFormat           string
	drain               time.Duration
}

func (s *serveFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.admin, "admin", defaultAdmin, "loopback address of the JSON API")
	cmd.Flags().StringVar(&s.ops, "ops", "", "address of metrics and probes for others (0.0.0.0:9902 in Kubernetes)")
	cmd.Flags().StringVar(&s.extProc, "extproc", "", "socket for Envoy (default unix://<data>/extproc.sock)")
	cmd.Flags().StringVar(&s.drainToken, "drain-token", "", "file with the token that /drain of the --ops address asks for (default: /drain refuses)")
	cmd.Flags().StringVar(&s.writeToken, writeTokenFlag, "", "file with the token that commands which change the overlay must show (default: they are refused)")
	cmd.Flags().StringVar(&s.logFormat, "log", "text", "text or json")
	cmd.Flags().DurationVar(&s.drain, "drain", 10*time.Second, "how long open answers may go on when told to stop")
}

// options checks the flags.
func (s *serveFlags) options(t *terminal, f *flags) (gatewayOptions, error) {
	if err := loopback(s.admin); err != nil {
		return gatewayOptions{}, usageFault(fmt.Errorf("--admin %q: %w", s.admin, err))
	}
	if s.drain < 0 {
		return gatewayOptions{}, usageFault(fmt.Errorf("--drain %s: want a time of at least 0s", s.drain))
	}
	if s.drainToken != "" {
		if s.ops == "" {
			return gatewayOptions{}, usageFault(errors.New("--drain-token is for /drain of the --ops address: give --ops too"))
		}
		if _, err := readToken(s.drainToken); err != nil {
			return gatewayOptions{}, unreachable(fmt.Errorf("--drain-token: %w", err))
		}
	}
	if s.writeToken != "" {
		if _, err := readToken(s.writeToken); err != nil {
			return gatewayOptions{}, unreachable(fmt.Errorf("--%s: %w", writeTokenFlag, err))
		}
	}
	log, err := newLogger(t, s.logFormat, slog.LevelInfo)
	if err != nil {
		return gatewayOptions{}, err
	}
	return gatewayOptions{
		config: f.config, data: f.data, admin: s.admin, ops: s.ops, extProc: s.extProc, drainToken: s.drainToken,
		writeToken: s.writeToken, log: log,
	}, nil
}

// newLogger writes text for people, or one JSON object per line.
func newLogger(t *terminal, format string, level slog.Level) (*slog.Logger, error) {
	opts := &slog.HandlerOptions{Level: level}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(t.err, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(t.err, opts)), nil
	}
	return nil, usageFault(fmt.Errorf("--log %q: want text or json", format))
}

func newServe(t *terminal, f *flags) *cobra.Command {
	var s serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the gateway beside an Envoy that runs elsewhere (airgate envoy bootstrap prints its config)",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := s.options(t, f)
			if err != nil {
				return err
			}
			g, err := startGateway(cmd.Context(), o)
			if err != nil {
				return unlessStopped(cmd.Context(), err)
			}
			t.say("airgate serves Envoy on %s, its API on http://%s", g.socket(), g.adminDoor.addr)
			return errors.Join(g.wait(cmd.Context(), nil), g.closeWithin(cmd.Context(), s.drain))
		},
	}
	s.add(cmd)
	return cmd
}

// unlessStopped is err, unless it only says that ctx ended: who asked for a
// stop while something was starting gets one.
func unlessStopped(ctx context.Context, err error) error {
	if errors.Is(err, context.Canceled) && errors.Is(ctx.Err(), context.Canceled) {
		return nil
	}
	return err
}

// loadConfig reads --config and says what to do where it cannot be read.
func loadConfig(path string) (*config.Snapshot, error) {
	s, err := config.Load(path, time.Now())
	return s, configError(path, err)
}

func configError(path string, err error) error {
	_, wrong := errors.AsType[config.Problems](err)
	switch {
	case err == nil:
		return nil
	case wrong:
		return problem(err)
	case errors.Is(err, fs.ErrNotExist):
		return unreachable(fmt.Errorf("there is no config at %s: name one with --config, or try airgate demo, which needs none: %w", path, err))
	}
	return unreachable(err)
}

// sameProviders refuses what a running Envoy with a static config, or a running
// airgate, cannot follow.
func sameProviders(old, next *config.Snapshot) error {
	if old.MaxBodyBytes != next.MaxBodyBytes {
		return errors.New("maxBodyBytes changed: needs an Envoy restart with a new bootstrap, and one of airgate")
	}
	if old.Quota != next.Quota {
		return errors.New("quota changed: needs a restart of airgate")
	}
	if len(old.Providers) != len(next.Providers) {
		return errors.New("the providers changed: needs an Envoy restart with a new bootstrap, and one of airgate")
	}
	for i := range old.Providers {
		a, b := old.Providers[i], next.Providers[i]
		// These are airgate's own; Envoy does not know them.
		a.Tags, b.Tags, a.Exclusive, b.Exclusive = nil, nil, nil, nil
		a.Region, b.Region, a.ServiceTier, b.ServiceTier = "", "", "", ""
		if !reflect.DeepEqual(a, b) {
			return fmt.Errorf("provider %s changed: needs an Envoy restart with a new bootstrap, and one of airgate", b.Name)
		}
	}
	return nil
}
