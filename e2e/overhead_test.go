//go:build bench

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"airgate/cmd/airgate/provider"
)

// TestOverhead measures what airgate adds, in one interleaved run through the
// real Envoy: plain Envoy, Envoy with a no-op ext_proc server in the same mode,
// Envoy with airgate (keys, budgets, limits and journal with fsync on), and the
// same with the SQLite sink in airgate's process. The machine is
// noisy: CPU time per request and ratios count, wall-clock figures do not.
func TestOverhead(t *testing.T) {
	rounds, scale := 5, 1
	if v, err := strconv.Atoi(os.Getenv("BENCH_ROUNDS")); err == nil {
		rounds = v
	}
	sides := []*side{newSide(t, "plain"), newSide(t, "noop"), newSide(t, "airgate"), newSide(t, "airgate+sqlite")}
	cases := []benchCase{
		{"JSON 2 KB", benchBody(2<<10, false), "out 20", 32, 4000 * scale},
		{"JSON 300 KB", benchBody(300<<10, false), "out 20", 8, 400 * scale},
		{"SSE 2 KB, 50 events", benchBody(2<<10, true), "out 200; chunks 50; every 5ms", 64, 640 * scale},
		{"SSE 300 KB, 50 events", benchBody(300<<10, true), "out 200; chunks 50; every 5ms", 32, 160 * scale},
	}
	fmt.Printf("%-22s %-15s %10s %10s %10s %9s %9s %9s %8s\n", "case", "side", "envoy µs", "server µs", "both µs", "req/s", "p50 ms", "p99 ms", "ratio")
	for _, c := range cases {
		results := map[string][]figures{}
		for round := range rounds + 1 {
			for _, s := range sides {
				f := s.measure(t, c)
				if round > 0 { // the first warms up
					results[s.name] = append(results[s.name], f)
				}
			}
		}
		noop := median(results["noop"], func(f figures) float64 { return f.envoy + f.server })
		for _, s := range sides {
			r := results[s.name]
			both := median(r, func(f figures) float64 { return f.envoy + f.server })
			fmt.Printf("%-22s %-15s %10.0f %10.0f %10.0f %9.0f %9.2f %9.2f %8.2f\n", c.name, s.name,
				median(r, func(f figures) float64 { return f.envoy }), median(r, func(f figures) float64 { return f.server }), both,
				median(r, func(f figures) float64 { return f.rate }), median(r, func(f figures) float64 { return f.p50 }),
				median(r, func(f figures) float64 { return f.p99 }), both/noop)
		}
	}
	for _, s := range sides {
		s.memory(t)
	}
}

type benchCase struct {
	name, body, script string
	callers, calls     int
}

func benchBody(size int, stream bool) string {
	s := ""
	if stream {
		s = `"stream":true,`
	}
	frame := `{"model":"gpt-5.4-mini",` + s + `"max_completion_tokens":300,"messages":[{"role":"system","content":"You help."},{"role":"user","content":""}]}`
	return strings.Replace(frame, `""`, `"`+strings.Repeat("word ", (size-len(frame))/5)+`"`, 1)
}

// figures of one round: CPU in µs a request, latency in ms.
type figures struct{ envoy, server, rate, p50, p99 float64 }

func median(r []figures, of func(figures) float64) float64 {
	var v []float64
	for _, f := range r {
		v = append(v, of(f))
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// side is one of the three set-ups.
type side struct {
	name   string
	w      *world
	server *process // nil for plain Envoy
	client *http.Client
}

const benchPolicy = `teams:
  search: {}
limits:
  - {name: key-rate, each: key, requests: 1000000/s, burst: 1000000}
  - {name: team-tpm, each: team, tokens: 2000000000/min}
  - {name: parallel, each: key, concurrent: 100000}
budgets:
  - {name: search, match: {team: search}, usd: 5000000, per: month}
  - {name: each-key, each: key, usd: 5000000, per: day}
`

func newSide(t *testing.T, name string) *side {
	t.Helper()
	s := &side{name: name, client: client(256)}
	o := worldOptions{policy: benchPolicy + "sinks: []\n"}
	switch name {
	case "airgate+sqlite":
		o.policy = benchPolicy
	case "plain":
		o.noServe = true
		o.edit = func(b []byte) []byte { return openRoutes(t, b, false) }
	case "noop":
		o.edit = func(b []byte) []byte { return openRoutes(t, b, true) }
		o.noServe, o.noEnvoy = true, true
	}
	s.w = newWorld(t, o)
	if name == "noop" {
		s.w.env = []string{"AIRGATE_NOOP=" + strings.TrimPrefix(s.w.socket(), "unix://")}
		s.server = s.w.start(os.Args[0])
		s.w.waitFor("the no-op server", s.server, func() bool {
			_, err := os.Stat(filepath.Join(s.w.dir, "x.sock"))
			return err == nil
		})
		s.w.startEnvoy(o.edit)
	}
	if s.w.airgate != nil {
		s.server = s.w.airgate
	}
	return s
}

func (s *side) measure(t *testing.T, c benchCase) figures {
	t.Helper()
	e0, s0 := cpu(t, s.w.envoy), cpu(t, s.server)
	began := time.Now()
	var mu sync.Mutex
	var took []time.Duration
	var wg sync.WaitGroup
	for range c.callers {
		wg.Go(func() {
			var mine []time.Duration
			for range c.calls / c.callers {
				at := time.Now()
				s.call(t, c)
				mine = append(mine, time.Since(at))
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
		})
	}
	wg.Wait()
	wall := time.Since(began)
	time.Sleep(200 * time.Millisecond) // settlements and access log
	n := float64(len(took))
	slices.Sort(took)
	ms := func(q float64) float64 { return took[int(q*(n-1))].Seconds() * 1e3 }
	return figures{
		envoy: (cpu(t, s.w.envoy) - e0).Seconds() * 1e6 / n, server: (cpu(t, s.server) - s0).Seconds() * 1e6 / n,
		rate: n / wall.Seconds(), p50: ms(.5), p99: ms(.99),
	}
}

func (s *side) call(t *testing.T, c benchCase) {
	req, err := http.NewRequest(http.MethodPost, s.w.url+"/v1/chat/completions", strings.NewReader(c.body))
	if err != nil {
		t.Error(err)
		return
	}
	req.Header.Set("Authorization", "Bearer "+s.w.keys["search"])
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(provider.ScriptHeader, c.script)
	res, err := s.client.Do(req)
	if err != nil {
		t.Error(err)
		return
	}
	if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("%s: status %d, %v", s.name, res.StatusCode, err)
	}
	_ = res.Body.Close()
}

// cpu is user and system time of a process (Linux, clock ticks of 10 ms).
func cpu(t *testing.T, p *process) time.Duration {
	t.Helper()
	if p == nil {
		return 0
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+2:]))
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

func resident(t *testing.T, p *process) int {
	t.Helper()
	if p == nil {
		return 0
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	return 0
}

// memory prints what 1,000 open streams hold.
func (s *side) memory(t *testing.T) {
	t.Helper()
	const n = 1000
	e0, s0 := resident(t, s.w.envoy), resident(t, s.server)
	var wg sync.WaitGroup
	c := benchCase{name: "open", body: benchBody(2<<10, true), script: "out 200; chunks 3; every 3s"}
	s.client = client(n)
	for range n {
		wg.Go(func() { s.call(t, c) })
	}
	time.Sleep(4 * time.Second)
	fmt.Printf("%-15s memory per open stream: envoy %.1f KiB, server %.1f KiB\n", s.name,
		float64(resident(t, s.w.envoy)-e0)/n, float64(resident(t, s.server)-s0)/n)
	wg.Wait()
}
