package disk

import (
	"errors"
	"os"
	"syscall"
)

// fdatasync leaves out the file's times, which nobody reads.
func fdatasync(f *os.File) error {
	for {
		err := syscall.Fdatasync(int(f.Fd()))
		if !errors.Is(err, syscall.EINTR) {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}

// blockSize is the unit that a file system counts its room in: that of its
// fragments. The block size is what it likes to read and write, which on some
// network and cluster file systems is a thousand times as much; of those that
// name no fragments it is both.
func blockSize(s *syscall.Statfs_t) int64 {
	if s.Frsize > 0 {
		return int64(s.Frsize) //nolint:unconvert // int32 on some machines
	}
	return int64(s.Bsize) //nolint:unconvert // int32 on some machines
}
