package extproc_test

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"airgate/envoy/extproc"
)

func TestListenReplacesASocketWithoutAGap(t *testing.T) {
	path := filepath.Join(shortDir(t), "extproc.sock")
	first, err := extproc.Listen("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	second, err := extproc.Listen("unix://" + path) // a successor, while the first one runs
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatalf("closing the first listener took the second one's socket away: %v", err)
	}
	if got := info.Mode(); got != fs.ModeSocket|0o660 {
		t.Errorf("mode = %v, want %v", got, fs.ModeSocket|0o660)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	third, err := extproc.Listen("unix://" + path) // over the stale one
	if err != nil {
		t.Fatal(err)
	}
	_ = third.Close()
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".ag*")); len(left) > 0 {
		t.Errorf("temporary sockets are left behind: %v", left)
	}
}

func TestListenRefuses(t *testing.T) {
	dir := shortDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("keep me"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ addr, want string }{
		"tcp":              {"127.0.0.1:0", "unix:///absolute/path"},
		"relative":         {"unix://extproc.sock", "unix:///absolute/path"},
		"a file":           {"unix://" + file, "is not a socket"},
		"no directory":     {"unix://" + filepath.Join(dir, "none", "s"), "no such file"},
		"a path too long":  {"unix://" + filepath.Join(dir, strings.Repeat("x", 108)), "the system allows 107"},
		"a long directory": {"unix:///" + strings.Repeat("x", 99) + "/s", "use a shorter directory"},
	} {
		l, err := extproc.Listen(tt.addr)
		if err == nil {
			_ = l.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Listen(%q) = %v, want an error with %q", name, tt.addr, err, tt.want)
		}
	}
	if b, _ := os.ReadFile(file); string(b) != "keep me" {
		t.Error("Listen replaced a file that is no socket")
	}
}
