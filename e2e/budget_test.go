package e2e

import (
	"math"
	"net/http"
	"strconv"
	"sync"
	"testing"
)

// price of gpt-5.4-mini in these tests: one token costs a millionth of 1,000
// USD, so that 50 tokens of output are 0.05 USD and input is nearly free.
const dearOutput = `prices:
  usdPerMillionTokens:
    gpt-5.4-mini: {input: 0.001, cacheRead: 0.001, output: 1000}
`

func client(n int) *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: n, MaxConnsPerHost: n}}
}

func usd(t *testing.T, text string) float64 {
	t.Helper()
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		t.Fatalf("money %q: %v", text, err)
	}
	return v
}

// 100 callers loop until they are refused three times in a row on a budget of
// 1.00 USD, at 0.05 USD a call: served is at most 1.00 USD and at least 0.85.
func TestBudgetIsABoundAndIsUsed(t *testing.T) {
	w := newWorld(t, worldOptions{policy: usualPolicy + dearOutput, script: "out 50; in 10; delay 20ms"})
	total := loops(t, []*world{w}, refusals(), func(int) {})
	b := w.quiet()
	spent := usd(t, b.Spent)
	seen, _ := w.provider.Calls()
	t.Logf("served %d calls, %s USD; the provider saw %d", total, b.Spent, seen)
	if spent > 1.00 || spent < 0.85 {
		t.Errorf("spent %v USD of 1.00, want within 0.85 and 1.00", spent)
	}
	if int64(total) != seen {
		t.Errorf("callers were served %d calls, the provider saw %d", total, seen)
	}
	if want := float64(total) * 0.05; math.Abs(spent-want) > 0.001 {
		t.Errorf("spent %v USD for %d calls, want %v", spent, total, want)
	}
}

// 50 callers at once without an output cap, answers of 0.05 USD that take a
// second: one caller never locks out the rest.
func TestCallersWithoutACapShareTheRoom(t *testing.T) {
	// A smaller price a token here: the least cap airgate sets, 1,024 tokens,
	// must fit the share of a 1.00 USD budget.
	const price = `prices:
  usdPerMillionTokens:
    gpt-5.4-mini: {input: 0.001, cacheRead: 0.001, output: 50}
`
	w := newWorld(t, worldOptions{policy: usualPolicy + price, script: "out 1000; in 10; delay 1s"})
	var wg sync.WaitGroup
	c := client(50)
	for range 50 {
		wg.Go(func() {
			a := do(c, w.request(call{body: `{"model":"gpt-5.4-mini","messages":[{"role":"user","content":"hi"}]}`}))
			if a.err != nil || a.status == http.StatusOK && a.header.Get("X-Airgate-Cap") == "" {
				t.Errorf("answer %d (%v), cap announced: %q", a.status, a.err, a.header.Get("X-Airgate-Cap"))
			}
		})
	}
	wg.Wait()
	b := w.quiet()
	t.Logf("spent %s USD", b.Spent)
	if spent := usd(t, b.Spent); spent < 0.50 || spent > 1.00 {
		t.Errorf("spent %v USD of 1.00, want within 0.50 and 1.00", spent)
	}
}
