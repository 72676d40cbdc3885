package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"airgate/cmd/airgate/provider"
)

func newProvider(t *terminal) *cobra.Command {
	var listen, script string
	cmd := &cobra.Command{
		Use:   "provider",
		Short: "Run the scripted provider: answers like OpenAI and Anthropic, for trials and tests",
		Long: "The scripted provider answers OpenAI and Anthropic calls with plain words. A script, given here or per\n" +
			"call in the header " + provider.ScriptHeader + ", makes it behave otherwise; steps are separated by semicolons:\n\n" +
			"  status 429; error rate_limit_error; header retry-after=5\n" +
			"  delay 2s; in 1000; out 500; cached 200; usage none\n" +
			"  chunks 20; every 50ms; stall 10s after 3; reset after 5\n\n" +
			"GET /_calls tells which calls it saw.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := provider.Default().Parse(script)
			if err != nil {
				return usageFault(err)
			}
			l, err := (&net.ListenConfig{}).Listen(cmd.Context(), "tcp", listen)
			if err != nil {
				return unreachable(fmt.Errorf("listen: %w", err))
			}
			t.say("the scripted provider answers on http://%s", l.Addr())
			return serveHTTP(cmd.Context(), l, provider.New(s), time.Second)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:8090", "address to answer on")
	cmd.Flags().StringVar(&script, "script", "", "how to answer calls that bring no script of their own")
	return cmd
}

// serveHTTP serves h on l until ctx ends, then lets open calls finish for
// grace. It returns after the last of its goroutines.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler, grace time.Duration) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if err := srv.Shutdown(bounded); err != nil {
		_ = srv.Close()
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	return nil
}
