package extproc

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// maxSocketPath is sun_path of Linux less its terminating zero.
const maxSocketPath = 107

// Listen opens the Unix socket at addr, "unix:///path". The socket is made
// under another name and renamed into place with mode 0660: Envoy never meets
// one that it may not yet use, a stale one is replaced, and one of an airgate
// that still runs is taken over without a gap. Closing the listener leaves the
// path alone, because by then it may be a successor's.
func Listen(addr string) (net.Listener, error) {
	path, ok := strings.CutPrefix(addr, "unix://")
	if !ok || !filepath.IsAbs(path) {
		return nil, fmt.Errorf("listen for Envoy: address %q must be unix:///absolute/path", addr)
	}
	// Not longer than most final names, so that it fits where they do; random,
	// because two airgates in containers may share the directory and the pid.
	temporary := filepath.Join(filepath.Dir(path), ".ag"+rand.Text()[:6])
	for _, p := range []string{path, temporary} {
		if len(p) > maxSocketPath {
			return nil, fmt.Errorf("listen for Envoy: socket path %s has %d bytes, the system allows %d; use a shorter directory", p, len(p), maxSocketPath)
		}
	}
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("listen for Envoy: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("listen for Envoy: %s exists and is not a socket; remove it or use another path", path)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temporary, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for Envoy: %w", err)
	}
	l.SetUnlinkOnClose(false)
	// Envoy runs as another user of airgate's group.
	err = os.Chmod(temporary, 0o660) //nolint:gosec // the group is Envoy's
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen for Envoy: %w", err), l.Close(), os.Remove(temporary))
	}
	return l, nil
}
