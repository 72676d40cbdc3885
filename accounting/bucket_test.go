package accounting

import (
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestBucketDefaults(t *testing.T) {
	for name, c := range map[string]struct {
		resource Resource
		amount   int64
		per      time.Duration
		burst    int64
		want     time.Duration
	}{
		"tokens: one period":             {Tokens, 200_000, time.Minute, 0, time.Minute},
		"tokens: burst":                  {Tokens, 200_000, time.Minute, 100_000, 30 * time.Second},
		"requests: one second":           {Requests, 20, time.Second, 0, time.Second},
		"requests: burst":                {Requests, 20, time.Second, 40, 2 * time.Second},
		"requests: a minute's, a second": {Requests, 600, time.Minute, 0, time.Second},
		"requests: at least one":         {Requests, 6, time.Minute, 0, 10 * time.Second},
		"requests: rounded up each":      {Requests, 3, time.Second, 3, time.Second + 2},
	} {
		b, err := newBucket(c.resource, c.amount, c.per, c.burst)
		if err != nil || b.capacity != int64(c.want) {
			t.Errorf("%s: newBucket(%v, %d, %v, %d) holds %v, %v; want %v", name, c.resource, c.amount, c.per, c.burst, time.Duration(b.capacity), err, c.want)
		}
	}
	for _, r := range []Resource{Tokens, Requests} {
		if b, err := newBucket(r, 1, 24*time.Hour, 1_000_000); err == nil {
			t.Errorf("newBucket(%v) of 2,738 years = %+v, want an error", r, b)
		}
	}
}

// leaky is the stupid bucket: what is in it, exactly, and when that was.
type leaky struct {
	rate, burst, level *big.Rat // units per nanosecond, units, units
	at                 int64
}

func (b *leaky) flow(now int64) {
	out := new(big.Rat).Mul(b.rate, new(big.Rat).SetInt64(now-b.at))
	b.level.Sub(b.level, out)
	if b.level.Sign() < 0 {
		b.level.SetInt64(0)
	}
	b.at = now
}

func (b *leaky) take(n, now int64) bool {
	b.flow(now)
	after := new(big.Rat).Add(b.level, new(big.Rat).SetInt64(n))
	if n > 0 && after.Cmp(b.burst) > 0 && b.level.Sign() > 0 {
		return false
	}
	b.level = after
	return true
}

func (b *leaky) correct(held, used, now int64) {
	b.flow(now)
	b.level.Add(b.level, new(big.Rat).SetInt64(used-held))
	if b.level.Sign() < 0 {
		b.level.SetInt64(0)
	}
}

// TestBucketEqualsStupid compares with the leaky bucket at rates whose unit is
// a whole number of nanoseconds.
func TestBucketEqualsStupid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		amount := rapid.SampledFrom([]int64{1, 20, 1000, 50_000}).Draw(t, "amount")
		per := rapid.SampledFrom([]time.Duration{time.Second, time.Minute}).Draw(t, "per")
		burst := rapid.Int64Range(1, amount*2).Draw(t, "burst")
		b, err := newBucket(Tokens, amount, per, burst)
		if err != nil {
			t.Fatal(err)
		}
		now := int64(1_800_000_000_000_000_000)
		stupid := leaky{rate: big.NewRat(amount, int64(per)), burst: big.NewRat(burst, 1), level: new(big.Rat), at: now}
		var tat int64
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			now += rapid.Int64Range(0, 2*int64(per)).Draw(t, "elapsed")
			n := rapid.Int64Range(0, burst+burst/2+1).Draw(t, "n")
			if rapid.IntRange(0, 2).Draw(t, "step") == 0 {
				used := rapid.Int64Range(0, 2*n).Draw(t, "used")
				b.correct(&tat, n, used, now)
				stupid.correct(n, used, now)
				continue
			}
			wait := b.take(&tat, n, now)
			if want := stupid.take(n, now); (wait == 0) != want {
				t.Fatalf("take(%d) at %d of %d per %v, burst %d: wait %v; stupid admits: %v", n, now, amount, per, burst, time.Duration(wait), want)
			}
			if wait > 0 {
				if early := b.take(new(tat), n, now+wait-1); early == 0 {
					t.Fatalf("take(%d) waits %v, but a nanosecond less is enough", n, time.Duration(wait))
				}
				if late := b.take(new(tat), n, now+wait); late != 0 {
					t.Fatalf("take(%d) waits %v, but then %v more", n, time.Duration(wait), time.Duration(late))
				}
			}
			level, _ := stupid.level.Float64()
			if got := b.used(tat, now); float64(got) > level || float64(got) < level-1 {
				t.Fatalf("used = %d, want %v rounded down", got, level)
			}
		}
	})
}

// TestBucketBound: in any interval T at most burst + rate·T is admitted, at
// rates that are no whole number of nanoseconds too.
func TestBucketBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		amount := rapid.Int64Range(1, 1_000_000_007).Draw(t, "amount")
		burst := rapid.Int64Range(1, 1000).Draw(t, "burst")
		b, err := newBucket(Requests, amount, time.Minute, burst)
		if err != nil {
			t.Fatal(err)
		}
		start := int64(1_800_000_000_000_000_000)
		now, tat, admitted := start, int64(0), int64(0)
		for range 200 {
			for range rapid.IntRange(0, 20).Draw(t, "calls") {
				if b.take(&tat, 1, now) == 0 {
					admitted++
				}
			}
			bound := burst + mulDiv(now-start, amount, int64(time.Minute), down) + 1
			if admitted > bound {
				t.Fatalf("%d of %d/min, burst %d admitted in %v, want at most %d", admitted, amount, burst, time.Duration(now-start), bound)
			}
			now += rapid.Int64Range(0, int64(time.Minute)/amount+1).Draw(t, "elapsed")
		}
	})
	b, _ := newBucket(Requests, 3, time.Second, 3)
	var tat int64
	for i := range 3 {
		if wait := b.take(&tat, 1, 1e18); wait != 0 {
			t.Errorf("request %d of a burst of 3 at 3/s waits %v, want 0", i+1, wait)
		}
	}
}

// TestBucketDebtIsBounded: no sum leaves an int64, whatever is booked.
func TestBucketDebtIsBounded(t *testing.T) {
	b, err := newBucket(Tokens, 1, 24*time.Hour, 0)
	if err != nil {
		t.Fatal(err)
	}
	now := int64(1_800_000_000_000_000_000)
	tat := now
	for range 10 {
		b.correct(&tat, 0, maxAmount, now)
		if tat != now+maxDebt {
			t.Fatalf("tat = %d after an enormous debt, want %d", tat, now+maxDebt)
		}
	}
	if wait := b.take(&tat, maxAmount, now); wait != maxDebt {
		t.Errorf("take in debt waits %d, want %d", wait, int64(maxDebt))
	}
}
