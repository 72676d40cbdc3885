package accounting

import (
	"time"

	"airgate/accounting/money"
)

// earliest is the part of its length that a window must have lasted before its
// pace says something: an hour of a day, thirty of a month.
const earliest = 24

// Forecast is what the window will have cost at its end if the rest of it goes
// on at the pace so far: spent × length ÷ elapsed. Exhausts is when the limit is
// reached at that pace, zero if that is not in this window; now, if it has been
// reached. Without an end, or just after its beginning, a window has no pace, and
// total is nil.
func (b *Budget) Forecast(now time.Time) (total *money.NanoUSD, exhausts time.Time) {
	sum, ok := forecast(int64(b.Spent), b.WindowStart, b.Reset, now)
	if ok {
		total = new(money.NanoUSD)
		*total = money.NanoUSD(sum)
	}
	switch {
	case b.Spent >= b.Limit:
		exhausts = now
	case ok && sum >= int64(b.Limit):
		elapsed := now.Sub(b.WindowStart)
		exhausts = b.WindowStart.Add(time.Duration(mulDiv(int64(elapsed), int64(b.Limit), int64(b.Spent), down)))
	}
	return total, exhausts.Truncate(time.Second)
}

// forecast is what a window will have cost at its end; false = it has no pace.
func forecast(spent int64, start, end, now time.Time) (sum int64, ok bool) {
	length, elapsed := end.Sub(start), now.Sub(start)
	if start.IsZero() || elapsed < length/earliest || elapsed <= 0 || elapsed > length {
		return 0, false
	}
	return mulDiv(max(0, spent), int64(length), int64(elapsed), down), true
}
