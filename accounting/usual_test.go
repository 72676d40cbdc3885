package accounting

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"airgate/accounting/money"
)

// TestUsualP95: of any answers it is no less than the exact figure, and at most an
// eighth more.
func TestUsualP95(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		of := rapid.SliceOfN(rapid.OneOf(rapid.Int64Range(0, 40), rapid.Int64Range(0, 1<<31-1)), 0, decayEvery).Draw(t, "outputs")
		var u Usual
		for _, n := range of {
			u.Observe("k", "m", money.Tokens(n))
		}
		got, ok := u.P95("k", "m")
		if ok != (len(of) >= leastAnswers) {
			t.Fatalf("P95 of %d answers is known: %v", len(of), ok)
		}
		if !ok {
			return
		}
		slices.Sort(of)
		if exact := money.Tokens(of[(95*len(of)+99)/100-1]); got < exact || got > exact+exact/8 {
			t.Fatalf("P95 of %v = %d, want %d to an eighth more", of, got, exact)
		}
	})
}

// TestUsualIsNotTheMost: the one in twenty that may pass it does not count.
func TestUsualIsNotTheMost(t *testing.T) {
	var u Usual
	for n := range money.Tokens(20) {
		u.Observe("k", "m", n*1000)
	}
	if got, _ := u.P95("k", "m"); got < 18_000 || got >= 19_000 {
		t.Errorf("P95 of 0, 1,000, … 19,000 = %d, want 18,000 and a little", got)
	}
}

// TestUsualParts: each output is in the part that ends at or above it, and no part
// holds more than the next.
func TestUsualParts(t *testing.T) {
	last := money.Tokens(-1)
	for i := range parts {
		most := mostOf(i)
		if partOf(last+1) != i || partOf(most) != i || most <= last {
			t.Fatalf("part %d is from %d to %d, and these are in parts %d and %d", i, last+1, most, partOf(last+1), partOf(most))
		}
		last = most
	}
	if last != 1<<31-1 {
		t.Errorf("the last part ends at %d, want 2³¹−1", last)
	}
	if i := partOf(1 << 50); i != parts-1 {
		t.Errorf("2⁵⁰ is in part %d, want the last, %d", i, parts-1)
	}
	if i := partOf(-1); i != 0 {
		t.Errorf("-1 is in part %d, want 0", i)
	}
}

// TestUsualFollows: what was usual gives way to what is, and one that is out of the
// way in a hundred does not count.
func TestUsualFollows(t *testing.T) {
	var u Usual
	p95 := func() money.Tokens {
		out, _ := u.P95("k", "m")
		return out
	}
	observe := func(n int, out money.Tokens) {
		for range n {
			u.Observe("k", "m", out)
		}
	}
	observe(10_000, 30_000)
	if got := p95(); got < 30_000 {
		t.Errorf("P95 of 30,000 = %d", got)
	}
	observe(5*decayEvery, 7)
	if got := p95(); got != 7 {
		t.Errorf("P95 after %d answers of 7 = %d", 5*decayEvery, got)
	}
	for range 40 {
		observe(99, 7)
		observe(1, 30_000)
	}
	if got := p95(); got != 7 {
		t.Errorf("P95 with one of 30,000 in a hundred = %d, want 7", got)
	}
	observe(decayEvery/8, 30_000)
	if got := p95(); got < 30_000 {
		t.Errorf("P95 after %d answers of 30,000 = %d: what is dearer is learned at once", decayEvery/8, got)
	}
}

// TestUsualIsBounded: what is asked for stays, of the others the oldest are forgotten.
func TestUsualIsBounded(t *testing.T) {
	u := Usual{max: 10}
	learn := func(key string) {
		for range leastAnswers {
			u.Observe(key, "m", 5)
		}
	}
	learn("wanted")
	for i := range 100 {
		learn(fmt.Sprint("k", i))
		if _, ok := u.P95("wanted", "m"); !ok {
			t.Fatalf("one that is asked for was forgotten for the %dth", i)
		}
	}
	if len(u.pairs) != 10 || u.asked.Len() != 10 {
		t.Errorf("there are %d pairs and %d in the list, want 10", len(u.pairs), u.asked.Len())
	}
	known := 0
	for i := range 100 {
		if _, ok := u.P95(fmt.Sprint("k", i), "m"); ok {
			known++
		}
	}
	if known != 9 {
		t.Errorf("%d of the others are known, want 9", known)
	}
	if _, ok := u.P95("wanted", "other"); ok {
		t.Error("another model of the key is known")
	}
}

// TestUsualAllocs: of pairs that are known nothing is allocated.
func TestUsualAllocs(t *testing.T) {
	var u Usual
	u.Observe("k", "m", 1)
	if n := testing.AllocsPerRun(1000, func() {
		u.Observe("k", "m", 1000)
		u.P95("k", "m")
	}); n != 0 {
		t.Errorf("Observe and P95 allocate %v times, want 0", n)
	}
}

// TestUsualConcurrently is for the race detector.
func TestUsualConcurrently(t *testing.T) {
	u := Usual{max: 3}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 1000 {
				key := fmt.Sprint("k", (n+i)%5)
				u.Observe(key, "m", money.Tokens(n))
				if out, _ := u.P95(key, "m"); out > 1000+1000/8 {
					t.Errorf("P95 = %d of at most 1000", out)
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkUsual(b *testing.B) {
	var u Usual
	b.ReportAllocs()
	n := money.Tokens(0)
	for b.Loop() {
		n = (n + 101) % 4096
		u.Observe("k", "m", n)
		u.P95("k", "m")
	}
}
