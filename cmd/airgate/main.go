// Command airgate is the AI Request Gateway: it decides, beside an Envoy, who
// may use which model, for what purpose, how fast and for how much money.
//
// This package wires the others and owns every lifetime; it is the only one
// that ends the process. Each subcommand has a file of its own name; what runs
// behind Envoy is put together in gateway.go.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"airgate/policy"
)

// Exit codes, as the contract names them.
const (
	exitFine        = 0
	exitProblem     = 1 // a problem was found
	exitUsage       = 2 // wrong usage
	exitUnreachable = 3 // a server or file could not be reached
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run executes one command line and returns the exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	defer stop()
	root := newRoot(&terminal{in: stdin, out: stdout, err: stderr})
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitFine
	}
	e, ok := errors.AsType[*exitError](err)
	if !ok {
		// What no command returned is cobra's, about the command line.
		e = &exitError{code: exitUsage}
	}
	if !e.told {
		(&terminal{err: stderr}).say("airgate: %v", err)
	}
	return e.code
}

// terminal is where a command reads and writes: data to out, talk to err.
type terminal struct {
	in       io.Reader
	out, err io.Writer
}

// say writes one line of talk. A key that stands in it, such as one that was given
// in place of its id, is not said again.
func (t *terminal) say(format string, args ...any) {
	fmt.Fprintln(t.err, policy.Redact(fmt.Sprintf(format, args...)))
}

// exitError is an error with the exit code it means.
type exitError struct {
	code int
	err  error
	told bool // it stands on the terminal already
}

func (e *exitError) Error() string { return e.err.Error() }

func (e *exitError) Unwrap() error { return e.err }

func problem(err error) error     { return &exitError{code: exitProblem, err: err} }
func usageFault(err error) error  { return &exitError{code: exitUsage, err: err} }
func unreachable(err error) error { return &exitError{code: exitUnreachable, err: err} }

// flags are those that several commands share.
type flags struct {
	config string
	data   string
}

func newRoot(t *terminal) *cobra.Command {
	f := &flags{}
	root := &cobra.Command{
		Use:   "airgate",
		Short: "AI Request Gateway: keys, policy, limits, budgets and an audit trail for LLM traffic through Envoy",
		Long: "airgate is the AI Request Gateway. Beside an Envoy it decides who may use which model, for what\n" +
			"purpose, how fast and for how much money, and keeps one durable record of every call.\n\n" +
			"Start with: airgate demo",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.PersistentFlags().StringVar(&f.config, "config", "./airgate.d", "config file or directory")
	root.PersistentFlags().StringVar(&f.data, "data", "./airgate-data", "data directory: journal, records, sockets")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageFault(flagFault(cmd, err)) })
	root.AddCommand(
		newDemo(t), newRun(t, f), newServe(t, f), newProvider(t), newEnvoy(t, f), newValidate(t, f),
		newKeys(t, f), newBudgets(t, f), newUsage(t, f), newExplain(t, f), newAudit(t, f), newConfig(t, f), newOverlay(t, f), newBlock(t, f),
		newUnblock(t, f), newVersion(t),
	)
	mark(root)
	return root
}

// badValue is what cobra says of a flag's value, with an error of Go's in it.
var badValue = regexp.MustCompile(`(?s)^invalid argument (".*") for "(?:-., )?--([a-z-]+)" flag: `)

// flagFault says what a flag takes, where cobra says how it was read.
func flagFault(cmd *cobra.Command, err error) error {
	found := badValue.FindStringSubmatch(err.Error())
	if found == nil {
		return err
	}
	want := map[string]string{
		"int": "a number", "duration": "a duration, such as 30s or 5m", "bool": "true or false",
	}[cmd.Flag(found[2]).Value.Type()]
	if want == "" {
		return err // of our own values
	}
	return fmt.Errorf("--%s %s: want %s", found[2], found[1], want)
}

// mark gives every plain error that a command returns the exit code of a
// problem, so that what remains is cobra's.
func mark(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		mark(sub)
	}
	do := cmd.RunE
	if do == nil {
		return
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		err := do(cmd, args)
		if _, ok := errors.AsType[*exitError](err); err == nil || ok {
			return err
		}
		return problem(err)
	}
}

// group is a command that only holds others.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, RunE: func(cmd *cobra.Command, args []string) error {
		names := make([]string, 0, len(subs))
		for _, sub := range subs {
			names = append(names, sub.Name())
		}
		what := "lacks its subcommand"
		if len(args) > 0 {
			what = fmt.Sprintf("has no subcommand %q", args[0])
		}
		return usageFault(fmt.Errorf("%s %s: %s", cmd.CommandPath(), what, strings.Join(names, ", ")))
	}}
	cmd.AddCommand(subs...)
	return cmd
}

// noArgs refuses stray arguments.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageFault(fmt.Errorf("unexpected argument %q", args[0]))
	}
	return nil
}

// format is the value of -o, one of a command's own list.
type format struct {
	text    string
	allowed []string
}

// add gives cmd the flag -o; the first of allowed is the default.
func (o *format) add(cmd *cobra.Command, allowed ...string) {
	o.text, o.allowed = allowed[0], allowed
	cmd.Flags().VarP(o, "output", "o", strings.Join(allowed[:len(allowed)-1], ", ")+" or "+allowed[len(allowed)-1])
}

func (o *format) String() string { return o.text }

// Type is the word for the value in the help.
func (o *format) Type() string { return "format" }

// Set refuses what the command does not write.
func (o *format) Set(text string) error {
	if !slices.Contains(o.allowed, text) {
		return fmt.Errorf("want %s", strings.Join(o.allowed, ", "))
	}
	o.text = text
	return nil
}
