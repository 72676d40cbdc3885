package e2e

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"airgate/accounting/quota/redis/redistest"
)

// fleet is airgates that share a quota store, each with its Envoy.
func fleet(t *testing.T, n int, store, url, policy, script string) []*world {
	t.Helper()
	policy = fmt.Sprintf("quota: {store: %s, url: %q, replicas: %d, deadline: 1s}\n", store, url, n) + policy
	all := []*world{newWorld(t, worldOptions{policy: policy, script: script})}
	for len(all) < n {
		all = append(all, newWorld(t, worldOptions{beside: all[0]}))
	}
	return all
}

// refusals are the codes with which a budget refuses.
func refusals() map[string]bool {
	return map[string]bool{"budget_busy": true, "budget_insufficient": true, "budget_exhausted": true}
}

// loops has 100 callers call, each at one of the airgates, until they are refused
// three times in a row, with one of the codes. It returns how many calls were served.
func loops(t *testing.T, all []*world, codes map[string]bool, served func(total int)) int {
	t.Helper()
	var total atomic.Int64
	var calling sync.WaitGroup
	c := client(100)
	for n := range 100 {
		w := all[n%len(all)]
		calling.Go(func() {
			for refused := 0; refused < 3; {
				a := do(c, w.request(call{}))
				switch {
				case a.err != nil:
					t.Error(a.err)
					return
				case a.status == http.StatusOK:
					refused = 0
					served(int(total.Add(1)))
				case codes[a.code()]:
					refused++
				default:
					t.Errorf("answer %d %s: %s", a.status, a.code(), a.body)
					return
				}
			}
		})
	}
	calling.Wait()
	return int(total.Load())
}

// Two airgates, each with its Envoy, share a budget of 1.00 USD through a real
// server, at 0.05 USD a call: what both serve is at most 1.00 USD and at least
// 0.80, also if the server is killed meanwhile. One of them warns of each threshold.
func TestTwoGatewaysOneBudget(t *testing.T) {
	run := func(t *testing.T, binary redistest.Binary) {
		server := redistest.Start(t, binary)
		warning := strings.Replace(usualPolicy, "per: month,", "per: month, warnAt: [20%, 50%, 75%, 101%],", 1)
		all := fleet(t, 2, binary.Name, server.URL(), warning+dearOutput, "out 50; in 10; delay 20ms")
		total := loops(t, all, refusals(), func(int) {})
		seen, _ := all[0].provider.Calls()
		if usd := float64(total) * 0.05; usd > 1 || usd < 0.80 || int64(total) != seen {
			t.Errorf("served %v USD of 1.00 in %d calls, of which the provider saw %d", usd, total, seen)
		}
		for _, w := range all {
			want, b := float64(total)*0.05, budget{}
			if !eventually(func() bool {
				b = w.budget("search")
				return math.Abs(usd(t, b.Spent)-want) < 0.001 && usd(t, b.Reserved) < 0.001
			}) {
				t.Errorf("an airgate has %s USD spent and %s reserved, want %.2f and nothing", b.Spent, b.Reserved, want)
			}
		}
		const want = "20% 50% 75%"
		if !eventually(func() bool { return warnings(all) == want }) {
			t.Errorf("both warn of %q, want %s", warnings(all), want)
		}
		for _, w := range all { // it looks a last time
			w.airgate.stop()
		}
		for _, w := range all {
			w.serve()
		}
		if got := warnings(all); got != want {
			t.Errorf("after a restart both have warned of %q, want %s", got, want)
		}
	}
	t.Run("redis", func(t *testing.T) { run(t, redistest.Redis(t)) })
	t.Run("valkey", func(t *testing.T) { run(t, redistest.Valkey(t)) })

	t.Run("killed", func(t *testing.T) {
		server := redistest.Start(t, redistest.Redis(t), "--appendonly", "yes", "--appendfsync", "always")
		all := fleet(t, 2, "redis", server.URL(), usualPolicy+dearOutput, "out 50; in 10; delay 20ms")
		down := refusals()
		down["quota_unavailable"] = true
		first := loops(t, all, down, func(total int) {
			if total == 5 {
				server.Kill()
			}
		})
		if usd := float64(first) * 0.05; usd > 1 {
			t.Errorf("served %v USD of 1.00 without the store", usd)
		}
		refused := 0
		for _, w := range all { // what was refused for want of the store says so
			for _, r := range w.requests() {
				if r.Code == "quota_unavailable" && r.Count == 0 {
					refused++
					if r.Store != "down" {
						t.Errorf("a refusal for want of the store has store %q", r.Store)
					}
				}
			}
		}
		if refused == 0 {
			t.Error("no record of a refusal for want of the store")
		}
		server.Restart(t)
		for _, w := range all { // what is left is served again, without a restart of airgate
			w.waitFor("airgate to see the store again", nil, func() bool { return strings.Contains(text(w.api+"/metrics"), "\nairgate_store_up 1\n") })
		}
		time.Sleep(5 * time.Second) // who may be gone is waited for
		rest := loops(t, all, refusals(), func(int) {})
		if usd := float64(first+rest) * 0.05; usd > 1 || usd < 0.80 {
			t.Errorf("served %v USD of 1.00, %d calls before the store was killed and as it was, %d after", usd, first, rest)
		}
	})
}

// warnings are the thresholds that all have warned of, in order.
func warnings(all []*world) string {
	var rules []string
	for _, w := range all {
		var out struct{ Audit []struct{ Code, Rule string } }
		w.object("/api/v1/audit?type=admin&limit=1000", &out)
		for _, r := range out.Audit {
			if r.Code == "budget_warning" {
				rules = append(rules, r.Rule)
			}
		}
	}
	slices.Sort(rules)
	return strings.Join(rules, " ")
}

// text is what url answers.
func text(url string) string {
	res, err := http.Get(url)
	if err != nil {
		return ""
	}
	defer res.Body.Close()
	all, _ := io.ReadAll(res.Body)
	return string(all)
}
