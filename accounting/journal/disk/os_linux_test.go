package disk

import (
	"syscall"
	"testing"
)

// A file system that likes to be read a mebibyte at a time has no more room for
// that.
func TestRoomIsCountedInFragments(t *testing.T) {
	for name, c := range map[string]struct {
		block, fragment, want int64
	}{
		"the same":     {4096, 4096, 4096},
		"larger":       {1 << 20, 4096, 4096},
		"no fragments": {4096, 0, 4096},
	} {
		var s syscall.Statfs_t
		s.Bsize, s.Frsize = c.block, c.fragment
		if got := blockSize(&s); got != c.want {
			t.Errorf("%s: blockSize = %d, want %d", name, got, c.want)
		}
	}
}

// What a file system calls its room is no more than it has.
func TestSpace(t *testing.T) {
	dir := t.TempDir()
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		t.Fatal(err)
	}
	free, size, err := OS{}.Space(dir)
	if err != nil || free <= 0 || free > size || size != int64(s.Blocks)*s.Frsize {
		t.Errorf("Space = %d of %d, %v; want %d", free, size, err, int64(s.Blocks)*s.Frsize)
	}
}
