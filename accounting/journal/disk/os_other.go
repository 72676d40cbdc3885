//go:build !linux

package disk

import (
	"os"
	"syscall"
)

func fdatasync(f *os.File) error { return f.Sync() }

// blockSize is the unit that a file system counts its room in.
func blockSize(s *syscall.Statfs_t) int64 { return int64(s.Bsize) }
