package disk_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"airgate/accounting/journal/disk"
)

func TestReserveTakesRoom(t *testing.T) {
	const size = 3<<20 + 17
	name := filepath.Join(t.TempDir(), "ballast")
	if err := (disk.OS{}).Reserve(t.Context(), name, size); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if s, ok := info.Sys().(*syscall.Stat_t); !ok || info.Size() != size || s.Blocks*512 < size {
		t.Errorf("a file of %d bytes in %d blocks, want %d bytes, all of them there", info.Size(), s.Blocks, size)
	}
	if err := (disk.OS{}).Reserve(t.Context(), name, size); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Reserve of a file that exists = %v, want %v", err, fs.ErrExist)
	}
}

func TestReserveLeavesNothingIfItIsStopped(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	if err := (disk.OS{}).Reserve(ctx, filepath.Join(dir, "ballast"), 1<<20); !errors.Is(err, context.Canceled) {
		t.Errorf("Reserve = %v, want %v", err, context.Canceled)
	}
	if left, err := (disk.OS{}).List(dir); err != nil || len(left) > 0 {
		t.Errorf("%q is left, %v", left, err)
	}
}
