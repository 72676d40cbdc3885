package journal

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"airgate/accounting/journal/disk"
	"airgate/accounting/record"
)

// A real file system of 16 MiB, filled by somebody else: calls are refused,
// settlements fit, and once there is room calls are admitted again.
func TestARealDiskThatIsFull(t *testing.T) {
	t.Parallel() // it waits for the clock
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=16m"); err != nil {
		t.Skipf("mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	state := newTally()
	book := filepath.Join(dir, "journal")
	j := open(t, Config{Dir: book, State: state})
	admitted := func() bool {
		err := try(j, record.Intent)
		if err != nil && !errors.Is(err, ErrUnavailable) {
			t.Fatalf("Append(intent): %v", err)
		}
		return err == nil
	}
	await := func(what string, ok func() bool) {
		t.Helper()
		for begun := time.Now(); !ok(); time.Sleep(20 * time.Millisecond) {
			if time.Since(begun) > time.Minute {
				t.Fatalf("waited a minute for %s", what)
			}
		}
	}
	await("the ballast", func() bool {
		_, err := os.Stat(filepath.Join(book, ballast))
		return err == nil
	})
	free, _, err := disk.OS{}.Space(dir)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other")
	if err := (disk.OS{}).Reserve(t.Context(), other, free-400<<10); err != nil {
		t.Fatal(err)
	}
	await("a refusal", func() bool { return !admitted() })
	for range 1000 { // more than was left beside the ballast
		if err := try(j, record.Settle); err != nil {
			t.Fatalf("Append(settle) on a full disk: %v", err)
		}
	}
	if admitted() {
		t.Error("an intent was admitted on a full disk")
	}
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	await("admission", admitted)
	closed(t, j)
	if err := state.check(heads(t, disk.OS{}, book)); err != nil {
		t.Error(err)
	}
}
