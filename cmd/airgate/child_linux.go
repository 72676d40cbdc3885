package main

import "syscall"

// childAttributes keeps Ctrl-C of a terminal from the child, which we stop in
// order, and ends it when we are killed.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
