package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"airgate/envoy/xds"
	"airgate/policy/config"
)

// Addresses that flags default to.
const (
	defaultListen = "127.0.0.1:8080"
	defaultAdmin  = "127.0.0.1:9901"
)

const (
	// startTime is how long Envoy may take until it accepts callers.
	startTime = 30 * time.Second
	// killTime is how long Envoy, without callers, may take to end.
	killTime = 5 * time.Second
)

// runFlags are those of the commands that start Envoy, too.
type runFlags struct {
	serveFlags

	listen, envoy string
}

func (r *runFlags) add(cmd *cobra.Command) {
	r.serveFlags.add(cmd)
	cmd.Flags().StringVar(&r.listen, "listen", defaultListen, "address for callers")
	cmd.Flags().StringVar(&r.envoy, "envoy", "", "the Envoy binary (default $AIRGATE_ENVOY, the project's tools, PATH)")
}

func newRun(t *terminal, f *flags) *cobra.Command {
	var r runFlags
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the gateway and its Envoy on this machine",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := r.options(t, f)
			if err != nil {
				return err
			}
			return runBoth(cmd.Context(), o, &r, func() error {
				t.say("callers: http://%s   API: http://%s   stop: Ctrl-C", r.listen, r.admin)
				return nil
			})
		},
	}
	r.add(cmd)
	return cmd
}

// runBoth starts the gateway, then Envoy, calls started, and waits until ctx
// ends or one of the two fails. It stops Envoy first: its callers have the
// drain time to get their answers.
func runBoth(ctx context.Context, o gatewayOptions, r *runFlags, started func() error) error {
	binary, err := findEnvoy(r.envoy)
	if err != nil {
		return err
	}
	if err := checkEnvoyVersion(ctx, binary); err != nil {
		return err
	}
	// Envoy would share a port that another Envoy has, and call a lost one an
	// internal error: see that it is free. Envoy takes it at once after us.
	probe, err := listen(ctx, "--listen", r.listen)
	if err != nil {
		return err
	}
	if err := probe.Close(); err != nil {
		return err
	}
	o.startsEnvoy = true
	g, err := startGateway(ctx, o)
	if err != nil {
		return unlessStopped(ctx, err)
	}
	e, err := startEnvoy(ctx, envoyOptions{
		binary: binary, listen: r.listen, extProc: g.socket(), data: g.data, snapshot: g.reloader.Current(),
	})
	if err != nil {
		return errors.Join(unlessStopped(ctx, err), g.closeWithin(ctx, r.drain))
	}
	if err = started(); err == nil {
		err = g.wait(ctx, e)
	}
	return errors.Join(err, e.stop(ctx, r.drain), g.closeWithin(ctx, r.drain))
}

type envoyOptions struct {
	binary, listen, extProc, data string
	snapshot                      *config.Snapshot
}

// envoyProcess is an Envoy that this process started. It does not outlive us:
// on Linux the kernel ends it when we are killed.
type envoyProcess struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed after err is set
	err   error         // of cmd.Wait
	admin *envoyAdmin
	log   string // path
}

// startEnvoy writes the bootstrap, starts Envoy and returns once it accepts
// callers.
func startEnvoy(ctx context.Context, o envoyOptions) (*envoyProcess, error) {
	text, err := bootstrapOf(xds.Options{Snapshot: o.snapshot, Listen: o.listen, ExtProc: o.extProc, AllowEnv: true})
	if err != nil {
		return nil, err
	}
	path := filepath.Join(o.data, "envoy.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return nil, fmt.Errorf("write Envoy's config: %w", err)
	}
	p := &envoyProcess{
		ended: make(chan struct{}), admin: newEnvoyAdmin(xds.AdminSocket(o.extProc)), log: filepath.Join(o.data, "envoy.log"),
	}
	// A socket left behind would make an Envoy that cannot start look ready.
	_ = os.Remove(p.admin.path)
	logFile, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open Envoy's log: %w", err)
	}
	p.cmd = exec.Command(o.binary, "--config-path", path, "--disable-hot-restart", "--log-level", "warning", //nolint:noctx,gosec // stopped by stop, in order; the operator names the binary
		"--concurrency", strconv.Itoa(runtime.GOMAXPROCS(0)))
	p.cmd.Stdout, p.cmd.Stderr = logFile, logFile
	p.cmd.SysProcAttr = childAttributes()
	err = p.start()
	_ = logFile.Close() // the child has its own
	if err != nil {
		return nil, unreachable(fmt.Errorf("start Envoy: %w", err))
	}
	if err := p.waitReady(ctx); err != nil {
		return nil, errors.Join(err, p.stop(ctx, 0))
	}
	return p, nil
}

// start starts cmd from a thread that lives as long as the child: the kernel's
// parent-death signal follows the thread, not the process.
func (p *envoyProcess) start() error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
			close(p.ended)
		}
	}()
	return <-started
}

// end is how Envoy ended by itself, once it has.
func (p *envoyProcess) end() error {
	if p.err != nil {
		return fmt.Errorf("ended by itself with %w", p.err)
	}
	return errors.New("ended by itself")
}

func (p *envoyProcess) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTime, fmt.Errorf("envoy was not ready within %s; its log is %s", startTime, p.log))
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !p.admin.ready(ctx) {
		select {
		case <-p.ended:
			return fmt.Errorf("envoy did not start, but %w: %s", p.end(), lastLine(p.log))
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
	return nil
}

// stop drains Envoy for at most drain, then ends it and waits for its end.
func (p *envoyProcess) stop(ctx context.Context, drain time.Duration) error {
	if drain > 0 {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
		_, _ = p.admin.drain(bounded) // an Envoy that does not listen has no callers
		cancel()
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails only after its end
	late := time.NewTimer(killTime)
	defer late.Stop()
	select {
	case <-p.ended:
		return nil
	case <-late.C:
		_ = p.cmd.Process.Kill()
		<-p.ended
		return fmt.Errorf("envoy did not end within %s when told to, and was killed", killTime)
	}
}

// oldestEnvoy is what the bootstrap needs (package xds).
const (
	oldestEnvoy = "1.40"
	oldestMinor = 40
)

// envoyVersion is in the second part of
// "envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL".
var envoyVersion = regexp.MustCompile(`version: [0-9a-f]+/(\d+)\.(\d+)\.`)

// checkEnvoyVersion refuses an Envoy that would not take the bootstrap.
func checkEnvoyVersion(ctx context.Context, binary string) error {
	out, err := exec.CommandContext(ctx, binary, "--version").Output()
	if err != nil {
		return unreachable(fmt.Errorf("ask %s for its version: %w", binary, err))
	}
	m := envoyVersion.FindSubmatch(out)
	if m == nil {
		return fmt.Errorf("%s does not tell its version; Envoy %s or later is needed", binary, oldestEnvoy)
	}
	major, _ := strconv.Atoi(string(m[1])) // digits
	minor, _ := strconv.Atoi(string(m[2]))
	if major < 1 || major == 1 && minor < oldestMinor {
		return fmt.Errorf("%s is Envoy %d.%d; %s or later is needed: name it with --envoy or $AIRGATE_ENVOY", binary, major, minor, oldestEnvoy)
	}
	return nil
}

// lastLine is where a log says why it ends.
func lastLine(path string) string {
	text, err := os.ReadFile(path) //nolint:gosec // our own log file
	if err != nil {
		return err.Error()
	}
	text = bytes.TrimSpace(text)
	return string(text[bytes.LastIndexByte(text, '\n')+1:])
}
