//go:build failpoint

package failpoint

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

//nolint:gochecknoglobals // one process, one death
var (
	target, after = parse(os.Getenv("AIRGATE_FAILPOINT"))
	hits          atomic.Int64
)

func parse(text string) (name string, n int64) {
	name, count, _ := strings.Cut(text, ":")
	n, err := strconv.ParseInt(count, 10, 64)
	if err != nil {
		n = 1
	}
	return name, n
}

// Hit kills the process if this is the place and the time.
func Hit(name string) {
	if target != "" && name == target && hits.Add(1) == after {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // it is on its way
	}
}

// SegmentBytes is the size of the journal's segments; 0 = the usual one.
func SegmentBytes() int64 {
	n, _ := strconv.ParseInt(os.Getenv("AIRGATE_SEGMENT_BYTES"), 10, 64) // unset: the usual one
	return n
}
