// Package e2e holds the product from outside: the airgate binary, a real
// Envoy, the scripted provider, the official SDKs.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"airgate/cmd/airgate/provider"
	"airgate/envoy/envoytest"
)

// inNamespace is set, to the directory of the binaries, in a process that may
// mount.
const inNamespace = "AIRGATE_MOUNT_NAMESPACE"

// Made by TestMain.
var (
	binaries      string // a directory, gone at the end
	airgateBinary string
)

func TestMain(m *testing.M) {
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	_ = os.Unsetenv("KUBERNETES_SERVICE_HOST") // there airgate wants to be told that it is alone
	if socket := os.Getenv("AIRGATE_NOOP"); socket != "" {
		return serveNoop(socket)
	}
	if binaries = os.Getenv(inNamespace); binaries != "" {
		airgateBinary = filepath.Join(binaries, "airgate")
		return m.Run() // a part of another run
	}
	dir, err := os.MkdirTemp("", "airgate-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binaries = dir
	if airgateBinary, err = build(""); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// build makes airgate with the build tags given.
func build(tags string) (string, error) {
	path := filepath.Join(binaries, "airgate"+tags)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	out, err := exec.Command("go", "build", "-tags", tags, "-o", path, "airgate/cmd/airgate").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build airgate: %w: %s", err, out)
	}
	return path, nil
}

// world is one airgate with its Envoy and its provider, each on addresses of
// its own. It ends with its test.
type world struct {
	t                     testing.TB
	dir                   string
	config                string
	provider              *provider.Provider
	upstream              *httptest.Server
	url                   string // for callers
	api                   string // airgate's admin
	airgate               *process
	envoy                 *process
	keys                  map[string]string // :: team → key
	env                   []string
	adminPort, listenPort int
}

// process is a child with its output kept for failures.
type process struct {
	cmd    *exec.Cmd
	output *syncBuffer
	done   chan struct{}
}

// worldOptions changes a world from the usual.
type worldOptions struct {
	policy  string // teams, limits, budgets …; "" = one team "search" with 1.00 USD a month
	script  string // the provider's behaviour for calls that bring none
	teams   []string
	flags   []string                      // more of airgate serve
	edit    func(bootstrap []byte) []byte // of Envoy's config
	noEnvoy bool
	noServe bool
	beside  *world // another airgate of the same config, keys and provider
}

const usualPolicy = `teams:
  search: {}
budgets:
  - {name: search, match: {team: search}, usd: 1.00, per: month, owner: finops@example.com}
`

func newWorld(t testing.TB, o worldOptions) *world {
	t.Helper()
	if !o.noEnvoy {
		envoytest.Binary(t) // before anything is started
	}
	dir, err := os.MkdirTemp("", "ag") //nolint:usetesting // short: a Unix socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir, config: filepath.Join(dir, "airgate.d"), keys: map[string]string{}}
	t.Cleanup(func() {
		if t.Failed() && os.Getenv("AIRGATE_KEEP") != "" {
			t.Log("kept", dir)
			return
		}
		_ = os.RemoveAll(dir)
	})
	if o.beside == nil {
		w.settle(&o)
	} else {
		w.provider, w.upstream, w.config, w.keys = o.beside.provider, o.beside.upstream, o.beside.config, o.beside.keys
		w.env = append(w.env, "AIRGATE_REPLICA="+filepath.Base(dir))
	}
	w.listenPort, w.adminPort = freePort(t), freePort(t)
	w.url, w.api = fmt.Sprintf("http://127.0.0.1:%d", w.listenPort), fmt.Sprintf("http://127.0.0.1:%d", w.adminPort)
	if !o.noServe {
		w.serve(o.flags...)
	}
	if !o.noEnvoy {
		w.startEnvoy(o.edit)
	}
	return w
}

// settle makes the provider, the config, and the keys.
func (w *world) settle(o *worldOptions) {
	t := w.t
	t.Helper()
	script, err := provider.Default().Parse(o.script)
	if err != nil {
		t.Fatal(err)
	}
	w.provider = provider.New(script)
	w.upstream = httptest.NewServer(w.provider)
	t.Cleanup(func() {
		w.upstream.CloseClientConnections()
		w.upstream.Close()
	})
	if err := os.MkdirAll(w.config, 0o700); err != nil {
		t.Fatal(err)
	}
	w.write("credential", "provider-secret-4711")
	if o.policy == "" {
		o.policy = usualPolicy
	}
	w.writeConfig(o.policy)
	if o.teams == nil {
		o.teams = []string{"search"}
	}
	for _, team := range o.teams {
		w.keys[team] = w.createKey(team)
	}
}

func (w *world) write(name, text string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// writeConfig writes providers, models and the given policy, by rename, as an
// operator's tool would.
func (w *world) writeConfig(policy string) {
	w.t.Helper()
	text := fmt.Sprintf(`apiVersion: airgate/v1
providers:
  openai:    {dialect: openai,    url: %[1]q, credential: {file: %[2]q}}
  anthropic: {dialect: anthropic, url: %[1]q, credential: {file: %[2]q}}
models:
  gpt-5.4-mini:  {provider: openai}
  text-embedding-3-small: {provider: openai, maxOutputTokens: 1}
  claude-sonnet: {provider: anthropic, upstreamModel: claude-sonnet-4-6, aliases: [sonnet]}
`, w.upstream.URL, filepath.Join(w.dir, "credential")) + policy
	tmp := filepath.Join(w.dir, "airgate.yaml.new")
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(w.config, "airgate.yaml")); err != nil {
		w.t.Fatal(err)
	}
}

// createKey makes a key with the command line, as a user would.
func (w *world) createKey(team string) string {
	w.t.Helper()
	out := w.command("keys", "create", "--team", team, "--name", team+"-e2e", "-o", "json")
	var k struct{ Key string }
	if err := json.Unmarshal([]byte(out), &k); err != nil {
		w.t.Fatalf("keys create: %v in %s", err, out)
	}
	return k.Key
}

// command runs airgate and returns its data; a non-zero exit fails the test.
func (w *world) command(args ...string) string {
	w.t.Helper()
	out, code, errText := w.try(args...)
	if code != 0 {
		w.t.Fatalf("airgate %s: exit %d: %s%s", strings.Join(args, " "), code, out, errText)
	}
	return out
}

func (w *world) try(args ...string) (stdout string, code int, stderr string) {
	w.t.Helper()
	args = append(args, "--config", w.config, "--data", filepath.Join(w.dir, "data"))
	cmd := exec.Command(airgateBinary, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatal(err)
	}
	return out.String(), cmd.ProcessState.ExitCode(), errs.String()
}

func (w *world) socket() string { return "unix://" + filepath.Join(w.dir, "x.sock") }

// serve starts airgate and waits until it is ready.
func (w *world) serve(flags ...string) {
	w.t.Helper()
	w.airgate = w.start(airgateBinary, append([]string{
		"serve", "--config", w.config, "--data", filepath.Join(w.dir, "data"),
		"--extproc", w.socket(), "--admin", fmt.Sprintf("127.0.0.1:%d", w.adminPort), "--drain", "3s",
	}, flags...)...)
	w.waitFor("airgate to be ready", w.airgate, func() bool { return get(w.api+"/readyz") == http.StatusOK })
}

// startEnvoy starts Envoy with the bootstrap that airgate prints.
func (w *world) startEnvoy(edit func([]byte) []byte) {
	w.t.Helper()
	text := []byte(w.command("envoy", "bootstrap", "--listen", fmt.Sprintf("127.0.0.1:%d", w.listenPort), "--extproc", w.socket()))
	if edit != nil {
		text = edit(text)
	}
	path := filepath.Join(w.dir, "envoy.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.envoy = w.start(envoytest.Binary(w.t), "--config-path", path, "--disable-hot-restart", "--log-level", "warning", "--concurrency", "2")
	w.waitFor("Envoy to listen", w.envoy, func() bool {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", w.listenPort), 100*time.Millisecond)
		if err != nil {
			return false
		}
		_ = c.Close()
		return true
	})
}

func (w *world) start(binary string, args ...string) *process {
	w.t.Helper()
	p := &process{cmd: exec.Command(binary, args...), output: &syncBuffer{}, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	p.cmd.Env = append(os.Environ(), w.env...)
	if err := p.cmd.Start(); err != nil {
		w.t.Fatalf("start %s: %v", binary, err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	w.t.Cleanup(func() {
		p.stop()
		if w.t.Failed() {
			w.t.Logf("%s said:\n%s", filepath.Base(binary), p.output.tail(6000))
		}
	})
	return p
}

// stop ends a process gently, then not.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGCONT)
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(8 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// kill is kill -9.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// waitFor polls until ok; it fails the test if the process dies or 30 s pass.
func (w *world) waitFor(what string, p *process, ok func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if p != nil {
			select {
			case <-p.done:
				w.t.Fatalf("waiting for %s: the process ended:\n%s", what, p.output.tail(4000))
			default:
			}
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("waiting for %s: not within 30 s", what)
		}
		time.Sleep(15 * time.Millisecond)
	}
}

func get(url string) int {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return 0
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	_, _ = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	return res.StatusCode
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}
