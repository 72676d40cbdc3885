package accounting

import (
	"errors"
	"math"
	"math/bits"
	"time"
)

// bucket is a rate as a GCRA (generic cell rate algorithm): the state of one
// account is a single instant in Unix nanoseconds, the theoretical arrival
// time. It is when the bucket will be full again; at or before now it is full.
// Every unit taken moves it per/amount ahead, and it may be at most capacity
// ahead of now.
type bucket struct {
	amount   int64 // units …
	per      int64 // … per so many nanoseconds
	capacity int64 // nanoseconds that the bucket holds
}

// maxDebt bounds how far a bucket can be overdrawn: 73 years. It keeps every
// sum below inside an int64.
const maxDebt = 1 << 61

var errRate = errors.New("rate is out of range: the burst must be used up in less than 73 years")

// newBucket returns the bucket of a rate. burst 0 is its default: one period's
// worth of tokens, one second's worth of requests but at least one.
func newBucket(r Resource, amount int64, per time.Duration, burst int64) (bucket, error) {
	b := bucket{amount: amount, per: int64(per)}
	if burst == 0 {
		burst = amount
		if r == Requests {
			burst = max(1, mulDiv(amount, int64(time.Second), b.per, down))
		}
	}
	b.capacity = b.cost(burst)
	if r == Requests {
		// Requests come one by one, each rounded up: so many must fit.
		b.capacity = min(mulDiv(b.cost(1), burst, 1, down), maxDebt)
	}
	if b.capacity == maxDebt {
		return bucket{}, errRate
	}
	return b, nil
}

// cost returns the nanoseconds in which n units flow in, rounded up: rounding
// down would admit more than the rate.
func (b *bucket) cost(n int64) int64 { return min(mulDiv(n, b.per, b.amount, up), maxDebt) }

// take takes n units at now, or says how long to wait until they can be had.
// More than the bucket holds can be had once it is full; it then goes into
// debt.
func (b *bucket) take(tat *int64, n, now int64) (wait int64) {
	if n == 0 {
		return 0
	}
	at, cost := max(*tat, now), b.cost(n)
	if wait := at - now - max(0, b.capacity-cost); wait > 0 {
		return wait
	}
	*tat = at + cost
	return 0
}

// correct turns units held since a take into units used: the rest is refunded,
// and what was used beyond is debt. A bucket that is full is not overfilled: any
// instant before now is as good as now.
func (b *bucket) correct(tat *int64, held, used, now int64) {
	d := b.cost(used) - b.cost(held)
	if d > 0 {
		*tat = min(max(*tat, now)+d, now+maxDebt)
	} else {
		*tat += d
	}
}

// used returns the units that have not flowed back by now, rounded down.
func (b *bucket) used(tat, now int64) int64 {
	if tat <= now {
		return 0
	}
	return mulDiv(tat-now, b.amount, b.per, down)
}

type rounding bool

const (
	down rounding = false
	up   rounding = true
)

// mulDiv returns a·b/c for a, b ≥ 0 and c > 0, or the greatest int64.
func mulDiv(a, b, c int64, r rounding) int64 {
	divisor := uint64(c)                       // c > 0
	hi, lo := bits.Mul64(uint64(a), uint64(b)) // a, b ≥ 0
	if r == up {
		var carry uint64
		lo, carry = bits.Add64(lo, divisor-1, 0)
		hi += carry
	}
	if hi >= divisor {
		return math.MaxInt64
	}
	q, _ := bits.Div64(hi, lo, divisor)
	return int64(min(q, math.MaxInt64))
}
