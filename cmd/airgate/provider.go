package main

import (
	"github.com/spf13/cobra"

	"airgate/cmd/airgate/provider"
)

func newProvider(t *terminal) *cobra.Command {
	var addr, script string
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
			l, err := listen(cmd.Context(), "--listen", addr)
			if err != nil {
				return err
			}
			t.say("the scripted provider answers on http://%s", l.Addr())
			return serveHTTP(cmd.Context(), l, provider.New(s), doorGrace)
		},
	}
	cmd.Flags().StringVar(&addr, "listen", "127.0.0.1:8090", "address to answer on")
	cmd.Flags().StringVar(&script, "script", "", "how to answer calls that bring no script of their own")
	return cmd
}
