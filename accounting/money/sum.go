package money

import (
	"errors"
	"math"
	"math/bits"
)

// ErrOverflow is returned by Sum.Ceil when the total does not fit NanoUSD, or
// did not fit 128 bits on the way.
var ErrOverflow = errors.New("amount beyond 9.22 billion USD")

// perRate is how many units a Rate prices.
const perRate = 1_000_000

// Sum adds up tokens times rates exactly, in 128 bits, so that a whole request
// is rounded once: at the end, and up. The zero value is an empty sum.
//
//	var s money.Sum
//	s.Add(input, inputRate)
//	s.Add(output, outputRate)
//	s.Scale(11, 10) // a regional uplift of 1.1
//	cost, err := s.Ceil()
//
// Its value is (hi·2⁶⁴ + lo) / (den+1) / 1e6 nano-USD; den is kept less one so
// that the zero value is a sum.
type Sum struct {
	hi, lo uint64
	den    uint64
	over   bool
}

// Add adds tokens at rate. A negative count or rate adds nothing: neither has
// a meaning, and a bill is never lowered by a figure that cannot be right.
func (s *Sum) Add(tokens Tokens, rate Rate) {
	if tokens <= 0 || rate <= 0 {
		return
	}
	hi, lo := bits.Mul64(uint64(tokens), uint64(rate))
	if s.den != 0 {
		hi, lo = s.mul(hi, lo, s.den+1)
	}
	s.add(hi, lo)
}

// AddSum adds another sum.
func (s *Sum) AddSum(o *Sum) {
	s.over = s.over || o.over
	hi, lo := o.hi, o.lo
	if s.den != o.den {
		hi, lo = s.mul(hi, lo, s.den+1)
		s.Scale(o.den+1, 1)
		s.divide(o.den + 1)
	}
	s.add(hi, lo)
}

// Scale multiplies all that has been added so far by num/den, exactly. What is
// added later is not scaled. den must not be 0.
func (s *Sum) Scale(num, den uint64) {
	if den == 0 {
		panic("money: Sum.Scale by a fraction with denominator 0")
	}
	s.hi, s.lo = s.mul(s.hi, s.lo, num)
	s.divide(den)
}

// Ceil rounds the sum up to whole nano-USD. If it does not fit, the error is
// ErrOverflow and the amount the largest there is, never a smaller one.
func (s *Sum) Ceil() (NanoUSD, error) {
	carry, divisor := bits.Mul64(s.den+1, perRate)
	if s.over || carry != 0 || s.hi >= divisor {
		return math.MaxInt64, ErrOverflow
	}
	q, rest := bits.Div64(s.hi, s.lo, divisor)
	if rest > 0 && q <= math.MaxInt64 {
		q++
	}
	if q > math.MaxInt64 {
		return math.MaxInt64, ErrOverflow
	}
	return NanoUSD(q), nil
}

func (s *Sum) add(hi, lo uint64) {
	var carry uint64
	s.lo, carry = bits.Add64(s.lo, lo, 0)
	s.hi, carry = bits.Add64(s.hi, hi, carry)
	s.over = s.over || carry != 0
}

// mul multiplies a 128-bit value and notes an overflow.
func (s *Sum) mul(hi, lo, by uint64) (uint64, uint64) {
	carryHi, carryLo := bits.Mul64(lo, by)
	over, high := bits.Mul64(hi, by)
	high, carry := bits.Add64(high, carryHi, 0)
	s.over = s.over || over != 0 || carry != 0
	return high, carryLo
}

// divide makes the denominator den times as large.
func (s *Sum) divide(den uint64) {
	over, product := bits.Mul64(s.den+1, den)
	s.over = s.over || over != 0
	s.den = product - 1
}
