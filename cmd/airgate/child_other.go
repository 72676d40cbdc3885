//go:build !linux

package main

import "syscall"

// childAttributes keeps Ctrl-C of a terminal from the child, which we stop in
// order.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
