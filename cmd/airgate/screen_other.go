//go:build !linux

package main

// size is that of the screen which t writes to, in characters; 0 = it is not known.
func (t *terminal) size() (rows, columns int) { return 0, 0 }
