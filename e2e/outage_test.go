//go:build bench

package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"airgate/accounting/quota/redis/redistest"
	"airgate/envoy/extproc/extproctest"
)

const (
	outageRate   = 500             // calls a second of one key, for which everything is in hand
	outageNew    = 10              // calls a second of users who come for the first time, and need the store
	outageFor    = 6 * time.Second // of each phase
	outageRounds = 4
	outageNoise  = 0.08 // within which two p99 are the same
)

// outagePolicy: what comes back by itself within a second, a rate, lets calls pass
// without the store; permits last for 20 seconds.
const outagePolicy = `teams: {search: {}, new: {}}
limits:
  - {name: key-rate, each: key, requests: 1000000/s, burst: 1000000, onStoreDown: allow}
  - {name: parallel, each: key, concurrent: 100000}
budgets:
  - {name: search, match: {team: search}, usd: 5000000, per: month}
  - {name: each-key, each: key, usd: 5000000, per: day}
  - {name: each-user, match: {team: new}, each: user, usd: 1, per: month}
sinks: []
`

// TestStoreOutage has calls come at a steady pace, whatever becomes of them, while the
// quota store of a real airgate answers, stands still, answers again, is killed, and
// is started again, in turn. It prints how long each took to be decided on, by what the
// store did, and says whether the p99 of those that need nothing of the store is the same:
// by the median, over the rounds, of its ratio to that of the phases before and after. The
// same ratio of two phases in which the store answers is what the machine's noise makes.
func TestStoreOutage(t *testing.T) {
	server := redistest.Start(t, redistest.Redis(t), "--appendonly", "yes", "--appendfsync", "always")
	w := newWorld(t, worldOptions{
		noEnvoy: true, teams: []string{"search", "new"},
		policy: fmt.Sprintf("quota: {store: redis, url: %q, replicas: 2}\n", server.URL()) + outagePolicy + playedPrices,
	})
	envoy, err := extproctest.Dial(w.socket())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = envoy.Close() }()
	o := &outage{world: w, envoy: envoy}
	granted := 0
	for granted == 0 { // a store that nobody has used grants after some seconds
		granted = o.phase(time.Second).came
	}
	o.phase(2 * outageFor) // Run learns how much calls take

	var well, still, again, gone, back phase
	var ratios [3][]float64 // of p99 while it stands still, and is gone, to that around; and of the latter
	for range outageRounds {
		before := o.phase(outageFor)
		server.Pause()
		stopped := o.phase(outageFor)
		server.Resume()
		between := o.phase(outageFor)
		server.Kill()
		killed := o.phase(outageFor)
		server.Restart(t)
		after := o.phase(outageFor)
		ratios[0] = append(ratios[0], stopped.at(0.99).Seconds()*2/(before.at(0.99)+between.at(0.99)).Seconds())
		ratios[1] = append(ratios[1], killed.at(0.99).Seconds()*2/(between.at(0.99)+after.at(0.99)).Seconds())
		ratios[2] = append(ratios[2], between.at(0.99).Seconds()/before.at(0.99).Seconds())
		well.add(&before)
		still.add(&stopped)
		again.add(&between)
		gone.add(&killed)
		back.add(&after)
	}
	fmt.Printf("%-22s %8s %8s %9s %9s %9s | %8s %8s %9s %16s\n", "the store", "admitted", "refused", "p50", "p99", "max", "new", "refused", "max", "admitted after")
	for _, p := range []struct {
		name string
		*phase
	}{{"answers", &well}, {"stands still", &still}, {"answers again", &again}, {"is gone", &gone}, {"is back", &back}} {
		fmt.Printf("%-22s %8d %8d %9s %9s %9s | %8d %8d %9s %16s\n", p.name, len(p.waits), p.refused, p.at(0.5), p.at(0.99), p.at(1), p.came, p.lacked, p.longest, p.first)
		if p.refused*100 > len(p.waits) { // a machine that stands still for a moment has more calls at once than permits are in hand
			t.Errorf("while the store %s, %d calls were refused that needed nothing of it", p.name, p.refused)
		}
	}
	for i, name := range []string{"stands still", "is gone", "answers again"} {
		slices.Sort(ratios[i])
		ratio := (ratios[i][(outageRounds-1)/2] + ratios[i][outageRounds/2]) / 2
		verdict := "no more than"
		if ratio > 1+outageNoise {
			verdict = "more than"
		}
		fmt.Printf("p99 while it %s: %.2f of what it was while it answered, %s %.0f %% above it (each round: %.2f)\n", name, ratio, verdict, 100*outageNoise, ratios[i])
	}
	for _, p := range []*phase{&again, &back} {
		if p.came == 0 {
			t.Error("the store answers again, and no call that needs it was admitted")
		}
	}
}

// outage is an airgate and the calls that come to it.
type outage struct {
	*world

	envoy *extproctest.Envoy
	users int
}

// phase is what became of the calls of some time.
type phase struct {
	waits        []time.Duration // of calls that needed nothing and were admitted, in order
	refused      int             // of those
	came, lacked int             // calls that needed the store: admitted, refused
	longest      time.Duration   // that one of them was waited for
	first        time.Duration   // until one of them was admitted, at most
}

func (p *phase) at(share float64) time.Duration {
	return p.waits[int(share*float64(len(p.waits)-1))].Round(10 * time.Microsecond)
}

func (p *phase) add(q *phase) {
	p.waits = append(p.waits, q.waits...)
	slices.Sort(p.waits)
	p.refused, p.came, p.lacked = p.refused+q.refused, p.came+q.came, p.lacked+q.lacked
	p.longest, p.first = max(p.longest, q.longest), max(p.first, q.first)
}

// phase has calls come for so long, each when its time has come.
func (o *outage) phase(length time.Duration) (p phase) {
	var mu sync.Mutex
	var calling sync.WaitGroup
	began := time.Now()
	pace := time.Second / outageRate
	for n := range int(length / pace) {
		time.Sleep(time.Until(began.Add(time.Duration(n) * pace)))
		c := play{team: "search", model: "gpt-5.4-mini", status: http.StatusOK, tokens: 7}
		if n%(outageRate/outageNew) == 0 {
			o.users++
			c.team, c.user = "new", fmt.Sprint("u", o.users)
		}
		calling.Go(func() {
			out, err := c.run(o.envoy, o.keys[c.team])
			took := time.Since(began)
			mu.Lock()
			defer mu.Unlock()
			needy := c.user != ""
			switch {
			case err != nil:
				o.t.Errorf("call: %v", err)
			case out.code == "overloaded": // the machine is, and airgate says so
			case out.code != "" && out.code != "quota_unavailable":
				o.t.Errorf("a call was refused with %s", out.code)
			case needy && out.code != "":
				p.lacked++
			case needy:
				if p.came++; p.first == 0 || took < p.first {
					p.first = took.Round(time.Millisecond)
				}
			case out.code != "":
				p.refused++
			default:
				p.waits = append(p.waits, out.decided)
			}
			if needy {
				p.longest = max(p.longest, out.decided.Round(10*time.Microsecond))
			}
		})
	}
	calling.Wait()
	slices.Sort(p.waits)
	return p
}
