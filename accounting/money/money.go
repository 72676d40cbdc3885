// Package money holds the units of the book: nano-dollars, rates, tokens. It
// answers one question: what do so many tokens cost, exactly.
//
// No value here is a float. An int64 of nano-USD reaches 9.22 billion USD.
// Everything is a plain value and safe for concurrent use; nothing allocates
// except the errors and String.
package money

import (
	"errors"
	"fmt"
	"math"
	"strconv"
)

// NanoUSD is an amount of money in 1e-9 USD. It may be negative only as a
// correction (record type adjust); who reads an amount that cannot be owed,
// such as a budget, checks its sign.
type NanoUSD int64

// USD is one dollar.
const USD NanoUSD = 1_000_000_000

// Tokens counts tokens of any kind.
type Tokens int64

// Rate is a price in nano-USD per one million units, mostly tokens. Per-token
// nano-USD would not do: 0.0025 USD per million tokens is 2.5 nano-USD each.
// A Rate is never negative.
type Rate int64

// Errors of ParseUSD and ParseRate, wrapped with the text that was refused.
var (
	ErrSyntax    = errors.New("want a plain decimal number such as 12 or 0.05, without exponent, separator or unit")
	ErrPrecision = errors.New("more than 9 decimals: the smallest amount is 0.000000001 USD")
	ErrRange     = errors.New("beyond 9,223,372,036.854775807 USD")
	ErrNegative  = errors.New("a price cannot be negative")
)

// ParseUSD reads an amount of USD, exactly: digits, then perhaps a point and
// one to nine digits, with a leading minus for a correction. It accepts no
// plus sign, exponent, space or separator and no superfluous leading zero, so
// that every accepted text has one meaning to every reader.
func ParseUSD(s string) (NanoUSD, error) {
	n, err := parse(s)
	if err != nil {
		return 0, fmt.Errorf("parse USD %q: %w", s, err)
	}
	return NanoUSD(n), nil
}

// ParseRate reads a price in USD per one million units by the rules of
// ParseUSD; a negative one is ErrNegative.
func ParseRate(s string) (Rate, error) {
	n, err := parse(s)
	if err == nil && n < 0 {
		err = ErrNegative
	}
	if err != nil {
		return 0, fmt.Errorf("parse USD per million %q: %w", s, err)
	}
	return Rate(n), nil
}

// parse reads a decimal as billionths.
func parse(s string) (int64, error) {
	digits, negative := s, false
	if digits != "" && digits[0] == '-' {
		digits, negative = digits[1:], true
	}
	var n uint64
	point := -1 // index of the decimal point
	for i := range len(digits) {
		c := digits[i]
		if c == '.' && point < 0 && i > 0 {
			point = i
			continue
		}
		if c < '0' || c > '9' {
			return 0, ErrSyntax
		}
		if i == 1 && point < 0 && digits[0] == '0' {
			return 0, ErrSyntax // 007
		}
		if point >= 0 && i-point > 9 {
			return 0, ErrPrecision
		}
		if n > math.MaxInt64/10 {
			return 0, ErrRange
		}
		n = n*10 + uint64(c-'0')
	}
	decimals := 0
	if point >= 0 {
		decimals = len(digits) - point - 1
	}
	if digits == "" || point >= 0 && decimals == 0 {
		return 0, ErrSyntax
	}
	for range 9 - decimals {
		if n > math.MaxInt64/10 {
			return 0, ErrRange
		}
		n *= 10
	}
	if n > math.MaxInt64 { // so the least int64, which has no opposite, cannot be written
		return 0, ErrRange
	}
	if negative {
		return -int64(n), nil
	}
	return int64(n), nil
}

// AppendText appends the shortest decimal in USD ("0.05", "12",
// "0.000000001") to b. The error is always nil; it implements
// encoding.TextAppender.
func (a NanoUSD) AppendText(b []byte) ([]byte, error) {
	return appendDecimal(b, int64(a)), nil
}

// MarshalText returns what AppendText appends; in JSON money is a string.
func (a NanoUSD) MarshalText() ([]byte, error) { return a.AppendText(nil) }

// UnmarshalText reads what ParseUSD accepts.
func (a *NanoUSD) UnmarshalText(text []byte) error {
	n, err := ParseUSD(string(text))
	if err != nil {
		return err
	}
	*a = n
	return nil
}

// String is the amount in USD as AppendText writes it.
func (a NanoUSD) String() string { return string(appendDecimal(nil, int64(a))) }

// AppendText appends the shortest decimal in USD per million units to b. The
// error is always nil; it implements encoding.TextAppender.
func (r Rate) AppendText(b []byte) ([]byte, error) {
	return appendDecimal(b, int64(r)), nil
}

// MarshalText returns what AppendText appends.
func (r Rate) MarshalText() ([]byte, error) { return r.AppendText(nil) }

// UnmarshalText reads what ParseRate accepts.
func (r *Rate) UnmarshalText(text []byte) error {
	n, err := ParseRate(string(text))
	if err != nil {
		return err
	}
	*r = n
	return nil
}

// String is the rate in USD per million units as AppendText writes it.
func (r Rate) String() string { return string(appendDecimal(nil, int64(r))) }

// appendDecimal appends n billionths as a decimal without trailing zeros.
func appendDecimal(b []byte, n int64) []byte {
	u := uint64(n)
	if n < 0 {
		b = append(b, '-')
		u = -u // also right for the least int64
	}
	b = strconv.AppendUint(b, u/1e9, 10)
	fraction := u % 1e9
	if fraction == 0 {
		return b
	}
	b = append(b, '.')
	for unit := uint64(1e8); fraction > 0; unit /= 10 {
		b = append(b, byte('0'+fraction/unit))
		fraction %= unit
	}
	return b
}
