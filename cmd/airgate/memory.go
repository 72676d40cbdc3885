package main

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

const (
	// gcPercent lets garbage grow to four times what lives, which is little:
	// collections are a tenth of a request's CPU time at Go's default of 100.
	gcPercent = 400
	// cgroupLimit is where Linux says what this container may use (cgroup v2).
	cgroupLimit = "/sys/fs/cgroup/memory.max"
)

// tuneMemory sets the collector unless the operator has (GOGC, GOMEMLIMIT):
// rarely while there is room, always in time within a container's limit.
func tuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	text, err := os.ReadFile(cgroupLimit)
	if err != nil {
		return
	}
	if limit, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && limit > 0 {
		debug.SetMemoryLimit(limit / 10 * 9)
	}
}
