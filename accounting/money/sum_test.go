package money_test

import (
	"errors"
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"airgate/accounting/money"
)

func TestSumRoundsOnceAndUp(t *testing.T) {
	type part struct {
		tokens money.Tokens
		rate   string
	}
	for name, test := range map[string]struct {
		parts    []part
		num, den uint64
		want     money.NanoUSD
	}{
		"nothing":                          {want: 0},
		"half a nano is one":               {parts: []part{{1, "0.0000005"}}, want: 1},
		"two halves are one, not two":      {parts: []part{{1, "0.0000005"}, {1, "0.0000005"}}, want: 1},
		"a token at 2.5 nano":              {parts: []part{{1, "0.0025"}}, want: 3},
		"two tokens at 2.5 nano":           {parts: []part{{2, "0.0025"}}, want: 5},
		"a call":                           {parts: []part{{1000, "3"}, {200, "15"}}, want: 6_000_000},
		"an uplift of 1.1":                 {parts: []part{{1000, "3"}}, num: 11, den: 10, want: 3_300_000},
		"an uplift is rounded once":        {parts: []part{{1, "0.001"}}, num: 11, den: 10, want: 2},
		"a negative count adds nothing":    {parts: []part{{-5, "3"}, {1, "1"}}, want: 1000},
		"ten million tokens at 1000 USD/M": {parts: []part{{10_000_000, "1000"}}, want: 10_000 * money.USD},
	} {
		t.Run(name, func(t *testing.T) {
			var s money.Sum
			for _, p := range test.parts {
				rate, err := money.ParseRate(p.rate)
				if err != nil {
					t.Fatal(err)
				}
				s.Add(p.tokens, rate)
			}
			if test.den != 0 {
				s.Scale(test.num, test.den)
			}
			if got, err := s.Ceil(); err != nil || got != test.want {
				t.Errorf("Ceil() = %d, %v, want %d", got, err, test.want)
			}
		})
	}
}

func TestSumOverflow(t *testing.T) {
	for name, s := range map[string]func(s *money.Sum){
		"more than NanoUSD": func(s *money.Sum) { s.Add(math.MaxInt64, 1_000_001) },
		"more than 64 bits": func(s *money.Sum) { s.Add(math.MaxInt64, math.MaxInt64) },
		"more than 128 bits": func(s *money.Sum) {
			for range 5 {
				s.Add(math.MaxInt64, math.MaxInt64)
			}
		},
		"scaled out": func(s *money.Sum) {
			s.Add(math.MaxInt64, math.MaxInt64)
			s.Scale(math.MaxUint64, 1)
		},
		"denominator": func(s *money.Sum) {
			s.Add(1, 1)
			s.Scale(1, math.MaxUint64)
			s.Scale(1, math.MaxUint64)
		},
		"by addition": func(s *money.Sum) {
			var o money.Sum
			o.Add(math.MaxInt64, 1_000_001)
			s.AddSum(&o)
		},
	} {
		t.Run(name, func(t *testing.T) {
			var sum money.Sum
			s(&sum)
			if got, err := sum.Ceil(); !errors.Is(err, money.ErrOverflow) || got != math.MaxInt64 {
				t.Errorf("Ceil() = %d, %v, want the largest amount and %v", got, err, money.ErrOverflow)
			}
		})
	}
	var largest money.Sum
	largest.Add(math.MaxInt64, 1_000_000)
	if got, err := largest.Ceil(); err != nil || got != math.MaxInt64 {
		t.Errorf("Ceil() of the largest amount = %d, %v, want %d", got, err, int64(math.MaxInt64))
	}
}

// Sums as bills have them equal math/big, however they were put together.
func TestSumEqualsBig(t *testing.T) {
	g := sums{
		tokens: rapid.Int64Range(-10, 2_000_000_000),
		rate:   rapid.Int64Range(0, 10_000*int64(money.USD)),
		factor: rapid.Uint64Range(1, 20),
		steps:  4,
	}
	rapid.Check(t, func(t *rapid.T) {
		s, want := g.draw(t, 0)
		if got, err := s.Ceil(); err != nil || want.Cmp(big.NewInt(int64(got))) != 0 {
			t.Fatalf("Ceil() = %d, %v, want %s", got, err, want)
		}
	})
}

// Whatever is summed, the answer is right or an overflow, never wrong.
func TestSumIsNeverWrong(t *testing.T) {
	g := sums{
		tokens: rapid.OneOf(rapid.Int64Range(0, 2_000_000), rapid.Int64()),
		rate:   rapid.OneOf(rapid.Int64Range(0, 200*int64(money.USD)), rapid.Int64Range(0, math.MaxInt64)),
		factor: rapid.OneOf(rapid.Uint64Range(1, 100), rapid.Uint64Min(1)),
		steps:  6,
	}
	rapid.Check(t, func(t *rapid.T) {
		s, want := g.draw(t, 0)
		got, err := s.Ceil()
		switch {
		case err == nil && want.Cmp(big.NewInt(int64(got))) != 0:
			t.Fatalf("Ceil() = %d, want %s", got, want)
		case err != nil && (!errors.Is(err, money.ErrOverflow) || got != math.MaxInt64):
			t.Fatalf("Ceil() = %d, %v, want the largest amount and %v", got, err, money.ErrOverflow)
		}
	})
}

// sums draws a Sum and its exact value, rounded up.
type sums struct {
	tokens, rate *rapid.Generator[int64]
	factor       *rapid.Generator[uint64]
	steps        int
}

func (g *sums) draw(t *rapid.T, depth int) (money.Sum, *big.Int) {
	s, exact := g.exact(t, depth)
	q, rest := new(big.Int).QuoRem(exact.Num(), exact.Denom(), new(big.Int))
	if rest.Sign() > 0 {
		q.Add(q, big.NewInt(1))
	}
	return s, q
}

func (g *sums) exact(t *rapid.T, depth int) (money.Sum, *big.Rat) {
	var s money.Sum
	exact := new(big.Rat)
	scaled := false
	for range rapid.IntRange(0, g.steps).Draw(t, "steps") {
		switch step := rapid.IntRange(0, 3).Draw(t, "step"); {
		case step == 3 && depth == 0:
			o, e := g.exact(t, depth+1)
			s.AddSum(&o)
			exact.Add(exact, e)
		case step == 2 && !scaled:
			num, den := g.factor.Draw(t, "num"), g.factor.Draw(t, "den")
			s.Scale(num, den)
			exact.Mul(exact, new(big.Rat).SetFrac(new(big.Int).SetUint64(num), new(big.Int).SetUint64(den)))
			scaled = true
		default:
			n, r := g.tokens.Draw(t, "tokens"), g.rate.Draw(t, "rate")
			s.Add(money.Tokens(n), money.Rate(r))
			product := new(big.Int).Mul(big.NewInt(max(n, 0)), big.NewInt(r))
			exact.Add(exact, new(big.Rat).SetFrac(product, big.NewInt(1_000_000)))
		}
	}
	return s, exact
}

func TestSumAllocatesNothing(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { _, _ = bill() }); n != 0 {
		t.Errorf("a bill allocates %v times, want 0", n)
	}
}

func BenchmarkSum(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := bill(); err != nil {
			b.Fatal(err)
		}
	}
}

// bill is a usual request: uncached and cached input, output.
func bill() (money.NanoUSD, error) {
	var s money.Sum
	s.Add(1234, 750_000_000)
	s.Add(4096, 75_000_000)
	s.Add(512, 4_500_000_000)
	return s.Ceil()
}
