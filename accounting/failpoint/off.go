//go:build !failpoint

package failpoint

// Hit is a place with a name.
func Hit(string) {}

// SegmentBytes is the size of the journal's segments; 0 = the usual one.
func SegmentBytes() int64 { return 0 }
