package accounting

import "time"

// step is the longest time between two readings of a clock that counts as
// passed. What is longer may be a clock that was set.
const step = int64(time.Hour)

// passage counts the time that has passed for sure by a clock that may be set
// at any moment, to any time: money that was spent in a window must not be
// forgotten because the clock was wrong for a while. Instants are Unix
// nanoseconds. The zero value has seen nothing.
//
// Readings that go back a little are those of callers at once and count
// nothing; a gap that counts nothing only keeps what is kept for longer.
type passage struct {
	latest int64 // reading since the clock was last set
	passed int64 // nanoseconds
}

// see takes a reading.
func (p *passage) see(now int64) {
	switch d := now - p.latest; {
	case d < -step || d > step:
		p.latest = now
	case d > 0:
		p.latest = now
		p.passed += d
	}
}

// lead is what a window keeps of its uses, the greatest of them: how far what
// had passed was ahead of the clock, which was in the window.
func (p *passage) lead(at int64) int64 { return p.passed - at }

// over reports whether a window that ends at end has been over for longer than
// since: so says the clock, and so does what has passed since the window was
// in use.
func (p *passage) over(end, lead int64, since time.Duration) bool {
	return p.latest-end > int64(since) && p.passed-lead-end > int64(since)
}
