package main

import (
	"os"
	"syscall"
	"unsafe"
)

// size is that of the screen which t writes to, in characters; 0 = it is not known.
func (t *terminal) size() (rows, columns int) {
	f, ok := t.out.(*os.File)
	if !ok {
		return 0, 0
	}
	var s struct{ Rows, Columns, _, _ uint16 }                                                                                    // struct winsize
	if _, _, failed := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), syscall.TIOCGWINSZ, uintptr(unsafe.Pointer(&s))); failed != 0 { //nolint:gosec // as the kernel wants it
		return 0, 0
	}
	return int(s.Rows), int(s.Columns)
}
