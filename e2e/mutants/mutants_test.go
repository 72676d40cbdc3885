// Package mutants removes each line that keeps money and records safe, one at a
// time, and sees a test fail for it. A line that nobody would miss is either not
// needed or not tested.
package mutants

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// mutant is one safety line, removed or turned round.
type mutant struct {
	breaks string // the promise that is broken without it
	file   string // below the project's root
	line   string // as it stands there, exactly once
	mutant string // instead
	tests  string // the pattern of those that must fail, in the file's own package unless in says another
	in     string
}

// all is how many mutants a run tries: each compiles and links a test binary.
var all = flag.Bool("mutants", false, "try every mutant; without it only that each still applies, and one of each package")

// TestMutants is the list and its proof.
func TestMutants(t *testing.T) {
	tried := make(map[string]bool) // :: package → one of its mutants was
	for _, m := range list() {
		t.Run(m.breaks, func(t *testing.T) {
			path, err := filepath.Abs(filepath.Join("..", "..", m.file))
			if err != nil {
				t.Fatal(err)
			}
			source, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(source), m.line); n != 1 {
				t.Fatalf("%s has the line %d times, want once: the list is not true any more\n%s", m.file, n, m.line)
			}
			if tried[filepath.Dir(m.file)] && !*all {
				return
			}
			tried[filepath.Dir(m.file)] = true
			t.Parallel()
			kill(t, path, strings.Replace(string(source), m.line, m.mutant, 1), &m)
		})
	}
}

// kill runs the mutant's tests on the project with this source at path.
func kill(t *testing.T, path, source string, m *mutant) {
	t.Helper()
	changed := filepath.Join(t.TempDir(), filepath.Base(path))
	if err := os.WriteFile(changed, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(t.TempDir(), "overlay.json")
	text, err := json.Marshal(map[string]map[string]string{"Replace": {path: changed}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(overlay, text, 0o600); err != nil {
		t.Fatal(err)
	}
	in := m.in
	if in == "" {
		in = filepath.Dir(m.file)
	}
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "go", args...)
		cmd.Dir = filepath.Join("..", "..")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run("build", "-o", os.DevNull, "-overlay", overlay, "./"+filepath.Dir(m.file)); err != nil {
		t.Fatalf("the mutant does not compile: %v\n%s", err, out)
	}
	args := []string{"test", "-count=1", "-vet=off", "-failfast", "-timeout=120s", "-overlay", overlay, "-run", m.tests, "./" + in}
	if out, _ := run("list", "-f", "{{.TestImports}} {{.XTestImports}}", "./"+in); strings.Contains(out, "pgregory.net/rapid") {
		args = append(args, "-rapid.nofailfile") // what fails here is not to be kept
	}
	out, err := run(args...)
	switch {
	case err == nil && strings.Contains(out, "no tests to run"):
		t.Errorf("no test is named like %s", m.tests)
	case err == nil:
		t.Errorf("survived %s: without the line of %s\n%s\nnothing fails", m.tests, m.file, m.line)
	}
}
