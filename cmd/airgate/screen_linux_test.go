package main

import (
	"bytes"
	"os"
	"syscall"
	"testing"
	"unsafe"
)

// TestScreenSize: the size of a screen is asked each time, and only of one.
func TestScreenSize(t *testing.T) {
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pty.Close() }()
	for _, want := range [][2]uint16{{24, 80}, {50, 132}} {
		set := [4]uint16{want[0], want[1]}
		if _, _, failed := syscall.Syscall(syscall.SYS_IOCTL, pty.Fd(), syscall.TIOCSWINSZ, uintptr(unsafe.Pointer(&set))); failed != 0 {
			t.Fatal(failed)
		}
		if rows, columns := (&terminal{out: pty}).size(); rows != int(want[0]) || columns != int(want[1]) {
			t.Errorf("size = %d, %d; want %v", rows, columns, want)
		}
	}
	file, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	for _, out := range []*terminal{{out: file}, {out: new(bytes.Buffer)}} {
		if rows, columns := out.size(); rows != 0 || columns != 0 {
			t.Errorf("size of what is no screen = %d, %d; want 0, 0", rows, columns)
		}
	}
}
