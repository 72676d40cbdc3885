package journal

import (
	"errors"
	"os"
	"syscall"
)

// fdatasync leaves out the file's times, which nobody reads.
func fdatasync(f *os.File) error {
	for {
		err := syscall.Fdatasync(int(f.Fd())) //nolint:gosec // a descriptor is an int
		if !errors.Is(err, syscall.EINTR) {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}
