package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"airgate/envoy/envoytest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"airgate": main, "fakeenvoy": fakeEnvoy})
}

// TestScript runs the scripts of testdata/script: the command line as its users
// meet it. Beyond testscript's own commands they have those of scriptCommands,
// the addresses $ADMIN, $OPS, $LISTEN and $OTHER, and, where it is found, a
// real Envoy as $ENVOY.
func TestScript(t *testing.T) {
	envoy, err := envoytest.Find()
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds:                scriptCommands(),
		Condition: func(condition string) (bool, error) {
			if condition != "envoy" {
				return false, fmt.Errorf("unknown condition %q", condition)
			}
			return envoy != "", err
		},
		Setup: func(e *testscript.Env) error {
			tmp, err := os.MkdirTemp("", "ag") //nolint:usetesting // short: a Unix socket's path has 107 bytes
			if err != nil {
				return err
			}
			e.Defer(func() { _ = os.RemoveAll(tmp) })
			e.Setenv("TMPDIR", tmp)
			e.Setenv("ENVOY", envoy)
			e.Setenv("AIRGATE_ENVOY", "fakeenvoy")
			for _, name := range []string{"ADMIN", "OPS", "LISTEN", "OTHER"} {
				addr, err := freeAddress()
				if err != nil {
					return err
				}
				e.Setenv(name, addr)
			}
			return nil
		},
	})
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String(), nil
}

func scriptCommands() map[string]func(ts *testscript.TestScript, neg bool, args []string) {
	return map[string]func(ts *testscript.TestScript, neg bool, args []string){
		"exits":   exits,
		"await":   await,
		"fill":    fill,
		"mode":    mode,
		"empty":   empty,
		"damage":  damage,
		"dead":    dead,
		"paste":   paste,
		"extract": extract,
		"busy":    busy,
		"guide":   guide,
	}
}

// exits CODE COMMAND… runs a command that must end with that code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	code := 0
	err := ts.Exec(args[1], args[2:]...)
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		code = e.ExitCode()
	} else {
		ts.Check(err)
	}
	if args[0] != strconv.Itoa(code) {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// await [-h NAME=VALUE] STATUS URL [PATTERN] asks until the answer has that
// status and a body that matches; status 0 means that nobody answers.
func await(ts *testscript.TestScript, neg bool, args []string) {
	header := ""
	if len(args) > 1 && args[0] == "-h" {
		header, args = args[1], args[2:]
	}
	if neg || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: await [-h NAME=VALUE] STATUS URL [PATTERN]")
	}
	pattern := regexp.MustCompile("")
	if len(args) == 3 {
		pattern = regexp.MustCompile(args[2])
	}
	var status int
	var body string
	for range 500 {
		status, body = ask(args[1], header)
		if strconv.Itoa(status) == args[0] && pattern.MatchString(body) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	ts.Fatalf("%s: last answer %d %s, want %s %s", args[1], status, body, args[0], pattern)
}

func ask(url, header string) (int, string) {
	req, err := http.NewRequest(http.MethodGet, url, http.NoBody)
	if err != nil {
		return 0, err.Error()
	}
	if name, value, ok := strings.Cut(header, "="); ok {
		req.Header.Set(name, value)
	}
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err.Error()
	}
	return res.StatusCode, string(body)
}

// fill FILE waits until a file has something in it that matches PATTERN.
func fill(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: fill FILE PATTERN")
	}
	pattern := regexp.MustCompile(args[1])
	var text []byte
	for range 1000 {
		text, _ = os.ReadFile(ts.MkAbs(args[0]))
		if pattern.Match(text) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	ts.Fatalf("%s has %q, want %s", args[0], text, pattern)
}

// mode OCTAL FILE checks a file's permissions.
func mode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode OCTAL FILE")
	}
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := strconv.FormatUint(uint64(info.Mode().Perm()), 8); got != args[0] {
		ts.Fatalf("mode of %s = %s, want %s", args[1], got, args[0])
	}
}

// empty DIR checks that nothing is in a directory.
func empty(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: empty DIR")
	}
	entries, err := os.ReadDir(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(entries) > 0 {
		ts.Fatalf("%s has %v, want nothing", args[0], entries)
	}
}

// damage GLOB changes one byte near the end of the one file that matches.
func damage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: damage GLOB")
	}
	names, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(names) != 1 {
		ts.Fatalf("%s matches %q, want one file", args[0], names)
	}
	text, err := os.ReadFile(names[0])
	ts.Check(err)
	text[len(text)-100] ^= 1 // of the last record
	ts.Check(os.WriteFile(names[0], text, 0o600))
}

// dead FILE waits until the process whose id is in the file has ended, or not.
func dead(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] dead FILE")
	}
	var pid int
	for range 250 {
		var err error
		pid, err = strconv.Atoi(strings.TrimSpace(ts.ReadFile(args[0]))) // a new one, as soon as it is there
		ts.Check(err)
		if ended := errors.Is(syscall.Kill(pid, 0), syscall.ESRCH); ended != neg {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	ts.Fatalf("process %d: ended is %v, want %v", pid, neg, !neg)
}

// paste FILE N runs the Nth command of what the demo printed, as a shell would.
func paste(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: paste FILE N")
	}
	for block := range strings.SplitSeq(ts.ReadFile(args[0]), "\n\n") {
		title, command, ok := strings.Cut(block, "\n")
		if !ok || !strings.HasPrefix(title, "# "+args[1]+". ") {
			continue
		}
		ts.Check(ts.Exec("sh", "-c", command))
		return
	}
	ts.Fatalf("there is no command %s in %s", args[1], args[0])
}

// extract FILE PATTERN NAME sets a variable to the first group of a pattern.
func extract(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: extract FILE PATTERN NAME")
	}
	m := regexp.MustCompile(args[1]).FindStringSubmatch(ts.ReadFile(args[0]))
	if len(m) != 2 {
		ts.Fatalf("%s does not match %s", args[0], args[1])
	}
	ts.Setenv(args[2], m[1])
}

// guide FILE SECTION writes the commands of a section of policy/README.md to a file.
func guide(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: guide FILE SECTION")
	}
	_, source, _, _ := runtime.Caller(0)
	text, err := os.ReadFile(filepath.Join(filepath.Dir(source), "..", "..", "policy", "README.md"))
	ts.Check(err)
	_, section, _ := strings.Cut(string(text), "\n## "+args[1]+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var commands strings.Builder
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(section, -1) {
		commands.WriteString(block[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(commands.String()), 0o600))
}

// busy ADDR has a port in use until the script ends.
func busy(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: busy ADDR")
	}
	l, err := net.Listen("tcp", args[0])
	ts.Check(err)
	ts.Defer(func() { _ = l.Close() })
}

// fakeEnvoy stands in for Envoy: it has the port and the admin interface of its
// bootstrap and writes its process id to $WORK/envoy.pid. $FAKE_ENVOY says what
// is wrong with it.
func fakeEnvoy() {
	behaviour := os.Getenv("FAKE_ENVOY")
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		switch behaviour {
		case "mute":
			fmt.Println("fakeenvoy, some version")
		case "old":
			fmt.Print("\nfakeenvoy  version: 5de2b2c3b4/1.39.2/Clean/RELEASE/BoringSSL\n\n")
		default:
			fmt.Print("\nfakeenvoy  version: 5de2b2c3b4/1.40.0/Clean/RELEASE/BoringSSL\n\n")
		}
		return
	}
	if err := serveFakeEnvoy(behaviour); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serveFakeEnvoy(behaviour string) error {
	if behaviour == "broken" {
		return errors.New("error adding listener: cannot bind")
	}
	pid := filepath.Join(os.Getenv("WORK"), "envoy.pid")
	if err := os.WriteFile(pid, []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return err
	}
	text, err := os.ReadFile(os.Args[2]) // --config-path FILE …
	if err != nil {
		return err
	}
	var bootstrap struct {
		Admin struct {
			Address struct{ Pipe struct{ Path string } }
		}
	}
	if err := json.Unmarshal(text, &bootstrap); err != nil {
		return err
	}
	l, err := net.Listen("unix", bootstrap.Admin.Address.Pipe.Path)
	if err != nil {
		return err
	}
	if behaviour == "dies" {
		time.AfterFunc(300*time.Millisecond, func() {
			fmt.Fprintln(os.Stderr, "assert failure: out of luck")
			os.Exit(3)
		})
	}
	open, draining := 0, false
	if behaviour == "busy" || behaviour == "stuck" {
		open = 2
	}
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method + " " + r.URL.RequestURI() {
		case "GET /ready":
			fmt.Fprintln(w, "LIVE")
		case "POST /healthcheck/fail":
			fmt.Fprintln(w, "OK")
		case "POST /drain_listeners?graceful&skip_exit":
			draining = true
			fmt.Fprintln(w, "OK")
		default:
			if r.URL.Path != "/stats" {
				http.Error(w, "no such path", http.StatusNotFound)
				return
			}
			if draining && behaviour == "busy" && open > 0 {
				open--
			}
			fmt.Fprintf(w, "http.callers.downstream_rq_active: %d\n", open)
		}
	}))
}
