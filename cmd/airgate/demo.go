package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"airgate/cmd/airgate/provider"
)

func newDemo(t *terminal) *cobra.Command {
	var r runFlags
	var genuine bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Start everything on this machine with a scripted provider, and print what to try",
		Long: "Starts the scripted provider, the gateway and Envoy in a folder of its own that is removed at the end, makes\n" +
			"two keys and prints complete commands to paste. With --real it calls OpenAI or Anthropic with the key in\n" +
			"OPENAI_API_KEY or ANTHROPIC_API_KEY, which costs real money.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range []string{"config", "data"} {
				if cmd.Flags().Changed(name) {
					return usageFault(fmt.Errorf("--%s: the demo makes its own; airgate run takes yours", name))
				}
			}
			return demo(cmd.Context(), t, &r, genuine)
		},
	}
	r.add(cmd)
	cmd.Flags().BoolVar(&genuine, "real", false, "call the real provider whose key is in the environment")
	return cmd
}

// target is what a demo's calls reach.
type target struct {
	dialect, model string
	providers      string // the config's sections providers and models
	words          string
}

// bases are the base URLs of the SDKs that work here.
func (t *target) bases(url string) []string {
	var all []string
	if strings.Contains(t.providers, "dialect: openai") {
		all = append(all, url+"/v1 (OpenAI)")
	}
	if strings.Contains(t.providers, "dialect: anthropic") {
		all = append(all, url+" (Anthropic)")
	}
	return all
}

func demo(ctx context.Context, t *terminal, r *runFlags, genuine bool) (err error) {
	began := time.Now()
	dir, err := os.MkdirTemp("", "airgate-demo-")
	if err != nil {
		return unreachable(fmt.Errorf("make the demo's folder: %w", err))
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	var to target
	if genuine {
		if to, err = realTarget(); err != nil {
			return usageFault(err)
		}
	} else {
		var stop func() error
		if to, stop, err = scriptedTarget(ctx, dir); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	f := &flags{config: filepath.Join(dir, "airgate.d"), data: filepath.Join(dir, "data")}
	keys, err := writeDemo(f.config, &to)
	if err != nil {
		return err
	}
	o, err := r.options(t, f)
	if err != nil {
		return err
	}
	if o.log, err = newLogger(t, r.logFormat, slog.LevelWarn); err != nil {
		return err
	}
	err = runBoth(ctx, o, r, func() error {
		_, err := fmt.Fprint(t.out, demoText(r, &to, keys, time.Since(began)))
		return err
	})
	if used, ok := errors.AsType[*inUseError](err); ok { // make run has no such flag
		return unreachable(fmt.Errorf("%w: ./bin/airgate demo %s 127.0.0.1:PORT", err, used.flag))
	}
	return err
}

// scriptedTarget starts a scripted provider; stop ends it.
func scriptedTarget(ctx context.Context, dir string) (to target, stop func() error, err error) {
	credential := filepath.Join(dir, "credential")
	if err := os.WriteFile(credential, []byte("demo-credential"), 0o600); err != nil {
		return to, nil, fmt.Errorf("write the demo's credential: %w", err)
	}
	script, err := provider.Default().Parse("out 120; chunks 12; every 60ms; delay 150ms")
	if err != nil {
		return to, nil, err
	}
	l, err := listen(ctx, "the scripted provider", "127.0.0.1:0")
	if err != nil {
		return to, nil, err
	}
	// Not ended by ctx: open answers have the drain time.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	served := make(chan error, 1)
	go func() { served <- serveHTTP(ctx, l, provider.New(script), doorGrace) }()
	stop = func() error {
		cancel()
		return <-served
	}
	return target{
		dialect: "openai", model: "gpt-5.4-mini", words: "a scripted provider (no account, no cost)",
		providers: fmt.Sprintf(`providers:
  openai:    {dialect: openai,    url: "http://%[1]s", credential: {file: %[2]q}}
  anthropic: {dialect: anthropic, url: "http://%[1]s", credential: {file: %[2]q}}
models:
  gpt-5.4-mini:  {provider: openai}
  claude-sonnet: {provider: anthropic, upstreamModel: claude-sonnet-4-6}
`, l.Addr(), credential),
	}, stop, nil
}

// realTarget is the first real provider whose key is in the environment.
func realTarget() (target, error) {
	for _, p := range []struct{ variable, dialect, model, upstream string }{
		{"OPENAI_API_KEY", "openai", "gpt-5.4-mini", "gpt-5.4-mini"},
		{"ANTHROPIC_API_KEY", "anthropic", "claude-sonnet", "claude-sonnet-4-6"},
	} {
		if os.Getenv(p.variable) == "" {
			continue
		}
		return target{
			dialect: p.dialect, model: p.model, words: "the real provider (calls cost money)",
			providers: fmt.Sprintf(`providers:
  %[1]s: {dialect: %[1]s, url: "https://api.%[1]s.com", credential: {env: %[2]s}}
models:
  %[3]s: {provider: %[1]s, upstreamModel: %[4]s}
`, p.dialect, p.variable, p.model, p.upstream),
		}, nil
	}
	return target{}, errors.New("--real needs OPENAI_API_KEY or ANTHROPIC_API_KEY in the environment")
}

const demoPolicy = `quota: {store: memory, replicas: 1}
teams:
  search: {owner: search@example.com}
  intern: {owner: intern@example.com}
limits:
  - {name: key-rate, each: key, requests: 20/s, burst: 40}
budgets:
  - {name: search, match: {team: search}, usd: 5, per: month, owner: finops@example.com}
  - {name: intern, match: {team: intern}, usd: 0.00001, per: month, owner: finops@example.com}
`

// writeDemo makes the config and a key for each team.
func writeDemo(config string, to *target) (keys map[string]string, err error) {
	if err := os.Mkdir(config, 0o700); err != nil {
		return nil, fmt.Errorf("make the demo's config: %w", err)
	}
	text := "apiVersion: airgate/v1\n" + to.providers + demoPolicy
	if err := os.WriteFile(filepath.Join(config, "airgate.yaml"), []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("write the demo's config: %w", err)
	}
	keys = map[string]string{}
	for _, team := range []string{"search", "intern"} {
		now := time.Now()
		k, text, err := newKey(now)
		if err != nil {
			return nil, err
		}
		k.Team, k.Name = team, team+"-demo"
		if err := addKey(config, k, now); err != nil {
			return nil, err
		}
		keys[team] = text
	}
	return keys, nil
}

// demoText is what a newcomer reads: each command is complete and stands
// beside what it will show.
func demoText(r *runFlags, to *target, keys map[string]string, took time.Duration) string {
	call := "/v1/chat/completions -H 'authorization: Bearer %s'"
	limit := "max_completion_tokens"
	if to.dialect == "anthropic" {
		call = "/v1/messages -H 'anthropic-version: 2023-06-01' -H 'x-api-key: %s'"
		limit = "max_tokens"
	}
	url := "http://" + r.listen
	curl := func(flags, key, more string) string {
		return fmt.Sprintf("curl -sS %s "+url+call+" -H 'content-type: application/json' \\\n  -d '{\"model\":%q,\"%s\":200,%s\"messages\":[{\"role\":\"user\",\"content\":\"Say hello.\"}]}'",
			flags, key, to.model, limit, more)
	}
	me, server := ownCommand(), ""
	if r.admin != defaultAdmin {
		server = " --server http://" + r.admin
	}
	var b strings.Builder
	step := func(title, command string) { fmt.Fprintf(&b, "# %s\n%s\n\n", title, command) }
	fmt.Fprintf(&b, "airgate, Envoy and %s are up after %.1f s. In another terminal, paste:\n\n", to.words, took.Seconds())
	step("1. An allowed call. The headers name its record: x-airgate-request-id.", curl("-i", keys["search"], ""))
	step("2. What that call cost, and why it was allowed.", me+" explain --last"+server)
	step("3. A streamed call: events arrive one by one, the usage is read on the way.", curl("-N", keys["search"], `"stream":true,`))
	step("4. A call that a budget refuses: status 402, in words the SDK understands.", curl("-i", keys["intern"], ""))
	step("5. Why it was refused: which budget, how much was left, until when.", me+" explain --last"+server)
	step("6. Who used what, at what cost.", me+" usage report --by team,model"+server)
	step("7. Every budget: limit, spent, reserved.", me+" budgets"+server)
	fmt.Fprintf(&b, "# The same as JSON: http://%[1]s/api/v1/requests   metrics: http://%[1]s/metrics\n", r.admin)
	fmt.Fprintf(&b, "# SDKs: API key %s, base URL %s\n", keys["search"], strings.Join(to.bases(url), " or "))
	b.WriteString("# Ctrl-C stops everything and leaves nothing behind.\n")
	return b.String()
}

// ownCommand is how a shell calls this program from here.
func ownCommand() string {
	exe, err := os.Executable()
	if err != nil {
		return "airgate"
	}
	if wd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(wd, exe); err == nil && !strings.HasPrefix(rel, "..") {
			exe = "./" + rel
		}
	}
	if strings.ContainsFunc(exe, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("/._-", r)
	}) {
		return "'" + strings.ReplaceAll(exe, "'", `'\''`) + "'"
	}
	return exe
}
