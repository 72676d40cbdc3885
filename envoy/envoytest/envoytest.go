// Package envoytest finds the Envoy that tests run. It answers: is there a real
// one on this machine?
package envoytest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// ErrNone says what to do about a machine without an Envoy.
var ErrNone = errors.New("no Envoy on this machine: make tools unpacks one")

// Find returns the path of $AIRGATE_ENVOY, else of the Envoy that `make tools`
// put in the repository, else of the PATH's; "" where there is none. In CI
// that is ErrNone: there no test may be passed over.
func Find() (string, error) {
	if name := os.Getenv("AIRGATE_ENVOY"); name != "" {
		return exec.LookPath(name)
	}
	for _, name := range []string{filepath.Join(root(), ".tools", "bin", "envoy"), "envoy"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	if os.Getenv("CI") == "true" {
		return "", ErrNone
	}
	return "", nil
}

// Binary is Find for a test, which is passed over where there is no Envoy.
func Binary(tb testing.TB) string {
	tb.Helper()
	path, err := Find()
	if err != nil {
		tb.Fatal(err)
	}
	if path == "" {
		tb.Skip(ErrNone)
	}
	return path
}

// root is the folder of go.mod: tests run in their package's folder below it.
func root() string {
	dir, _ := os.Getwd() // without one the PATH's Envoy is found
	for up := filepath.Dir(dir); up != dir; dir, up = up, filepath.Dir(up) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
	}
	return dir
}
