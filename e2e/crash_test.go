package e2e

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"airgate/accounting/money"
	"airgate/accounting/sink/sqlite"
	"airgate/envoy/extproc/extproctest"
)

// failpoints are the places at which TestCrash kills airgate.
// TestFailpointsAreDriven holds them to the source.
var failpoints = map[string]failpoint{
	"journal.write": {hits: 60}, "journal.written": {hits: 60}, "journal.sync": {hits: 20}, "journal.synced": {hits: 20},
	"journal.create": {hits: 4}, "journal.renamed": {hits: 4}, "journal.created": {hits: 4}, "journal.rotated": {hits: 3},
	"journal.trim": {hits: 4}, "journal.trimmed": {hits: 4},
	"journal.adopted": {hits: 1}, "journal.cut": {hits: 1, prepare: (*crash).tear},
	"journal.ballast": {hits: 1, prepare: (*crash).unballast}, "journal.released": {}, // TestFullDisk comes there
	"sink.begin": {hits: 4}, "sink.commit": {hits: 4}, "sink.committed": {hits: 4},
	"processor.intent": {hits: 30}, "processor.admitted": {hits: 30}, "processor.settled": {hits: 30}, "processor.recorded": {hits: 30},
	"processor.extend": {hits: 10}, "processor.extended": {hits: 10}, "processor.orphan": {hits: 1, after: "processor.admitted"}, // whose call is open
}

// failpoint says how TestCrash drives one.
type failpoint struct {
	hits    int            // it dies at one of so many; 0 = another test drives it
	prepare func(c *crash) // makes airgate come there; nil = it does anyway
	after   string         // the failpoint at which the life before dies; "" = anyhow
}

const (
	crashKills = 60  // of `make test`; CRASH_KILLS says otherwise
	dirKills   = 500 // lives of one data directory, so that the whole run needs little room
	auditEvery = 250 // lives between two audits
	callers    = 4
	calls      = 100 // that each makes in one life, at most
	ownDenials = 10  // refusals of one key for one reason in a minute that have a record each
)

// TestCrash kills the real airgate, with SIGKILL, at random times and at every
// failpoint, under load, and compares what it has promised until then with what
// it has written, and with what the next one makes of it.
func TestCrash(t *testing.T) {
	t.Parallel()
	kills := crashKills
	if text := os.Getenv("CRASH_KILLS"); text != "" {
		var err error
		if kills, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	sum := tally{reached: map[string]int{}}
	began := time.Now()
	t.Run("directory", func(t *testing.T) {
		for i := 0; i*dirKills < kills; i++ {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				t.Parallel()
				c := newCrash(t, uint64(i))
				for n := range min(dirKills, kills-i*dirKills) {
					c.kill(n, c.point(n))
					if n%auditEvery == auditEvery-1 {
						c.audit()
					}
				}
				for _, name := range c.points { // a busy machine may have killed lives before they came there
					for range 3 {
						if c.reached[name] == 0 {
							c.kill(1, name)
						}
					}
				}
				c.audit()
				sum.add(&c.tally)
			})
		}
	})
	if t.Failed() {
		return
	}
	t.Log(sum.String(), "in", time.Since(began).Round(time.Second))
	for name, f := range failpoints {
		if f.hits > 0 && sum.reached[name] == 0 {
			t.Errorf("no life has come to failpoint %s", name)
		}
	}
}

// tally counts what was done.
type tally struct {
	mu sync.Mutex

	kills, starting, hits              int // all; before it served; at a failpoint
	calls, forwarded, settled, refused int
	orphans                            int
	reached                            map[string]int // :: failpoint → deaths
}

func (s *tally) add(o *tally) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kills, s.starting, s.hits = s.kills+o.kills, s.starting+o.starting, s.hits+o.hits
	s.calls, s.forwarded, s.settled, s.refused = s.calls+o.calls, s.forwarded+o.forwarded, s.settled+o.settled, s.refused+o.refused
	s.orphans += o.orphans
	for name, n := range o.reached {
		s.reached[name] += n
	}
}

func (s *tally) String() string {
	return fmt.Sprintf("%d kills, %d of them at failpoints, %d before it served: %d calls, %d forwarded, %d acknowledged settlements, %d refusals; "+
		"lost 0, duplicated 0, %d orphans at their bound, booked beyond a limit 0", s.kills, s.hits, s.starting, s.calls, s.forwarded, s.settled, s.refused, s.orphans)
}

// crash is one data directory and all that airgate has promised on it.
type crash struct {
	*world
	tally

	random  *rand.Rand
	book    *book
	room    money.NanoUSD            // the limit of team tight, which is exhausted most of the time
	billed  map[string]money.NanoUSD // :: team → what the provider has made for it
	points  []string                 // in the order in which they are driven
	log     *os.File
	records string   // the records database
	last    *process // that was started
}

func newCrash(t *testing.T, seed uint64) *crash {
	c := &crash{
		world: newWorld(t, worldOptions{noEnvoy: true, noServe: true, teams: []string{"wide", "tight", "sliced"}, policy: crashPolicy(1)}),
		tally: tally{reached: map[string]int{}}, random: rand.New(rand.NewPCG(seed, 1)), book: newBook(),
		billed: map[string]money.NanoUSD{},
		points: slices.DeleteFunc(slices.Sorted(maps.Keys(failpoints)), func(name string) bool { return failpoints[name].hits == 0 }),
	}
	c.records = filepath.Join(c.dir, "data", "usage.db")
	var err error
	if c.log, err = os.OpenFile(filepath.Join(c.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c.last != nil && !c.last.dead() { // the test has failed
			c.last.kill()
		}
		_ = c.log.Close()
	})
	return c
}

func crashPolicy(tight money.NanoUSD) string {
	return fmt.Sprintf(`teams: {wide: {}, tight: {}, sliced: {}}
budgets:
  - {name: company, usd: 1000000, per: total, streamHold: sliced}
  - {name: wide,  match: {team: wide}, usd: 1000000, per: total}
  - {name: tight, match: {team: tight}, usd: %s, per: total}
  - {name: sliced, match: {team: sliced}, usd: 1000000, per: total, streamHold: sliced}
`, tight) + playedSliced
}

// point returns the failpoint of the n-th kill, each in its turn; "" for every
// other one, which comes at a random time.
func (c *crash) point(n int) string {
	if n%2 == 0 {
		return ""
	}
	return c.points[n/2%len(c.points)]
}

// kill starts airgate, makes calls, and kills it: at the failpoint with that
// name, or, if it is "", while it starts, while it serves, or while it stops,
// as n says.
func (c *crash) kill(n int, name string) {
	c.t.Helper()
	if n%20 == 0 {
		c.room = c.book.due("tight") + 50*playedCap*priceOut
		c.writeConfig(crashPolicy(c.room))
	}
	var point string
	start, serve := 30*time.Second, time.Duration(c.random.Int64N(int64(60*time.Millisecond))) // it may take for each
	switch {
	case name != "":
		point, serve = fmt.Sprintf("%s:%d", name, 1+c.random.IntN(failpoints[name].hits)), 2*time.Second
		if prepare := failpoints[name].prepare; prepare != nil {
			prepare(c)
		}
		if before := failpoints[name].after; before != "" {
			c.kill(n, before)
		}
	case n%8 == 2:
		start = serve
	case n%32 == 6: // settlements that wait for the access log are written
		serve = 400 * time.Millisecond
	}
	p := c.begin(point)
	var killed atomic.Bool
	death := time.AfterFunc(start, func() {
		killed.Store(true)
		if n%8 == 4 {
			_ = p.cmd.Process.Signal(syscall.SIGTERM)
			time.Sleep(serve / 4)
		}
		_ = p.cmd.Process.Kill()
	})
	defer death.Stop()
	all, served := c.serveCalls(p, func() { death.Reset(min(start, serve)) })
	<-p.done
	c.kills++
	status := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	stopped := killed.Load() && (status.ExitStatus() == 0 || status.Signal() == syscall.SIGTERM)
	switch {
	case status.Signal() != syscall.SIGKILL && !stopped:
		c.fatalf("airgate ended by itself: %v", p.cmd.ProcessState)
	case !killed.Load():
		c.hits++
		c.reached[name]++
	}
	if !served {
		c.starting++
	}
	c.examine(all, served)
}

// tear leaves half a record at the end of a killed writer's last segment, as a
// power loss does.
func (c *crash) tear() {
	p := c.begin("")
	c.poll(p, "to listen", func() bool { return get(c.api+"/readyz") == http.StatusOK })
	p.kill()
	c.kills++
	c.examine(nil, true)
	names, err := filepath.Glob(filepath.Join(c.journal(), "*", "*.wal"))
	if err != nil || len(names) == 0 {
		c.t.Fatalf("no segment: %v", err)
	}
	f, err := os.OpenFile(slices.Max(names), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	_, err = f.WriteString("\x40\x00\x00\x00\x01half a record")
	if err := errors.Join(err, f.Close()); err != nil {
		c.t.Fatal(err)
	}
}

// unballast lets the next life make the ballast anew.
func (c *crash) unballast() {
	if err := os.Remove(filepath.Join(c.journal(), "ballast")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.t.Fatal(err)
	}
}

// fatalf ends the test with what airgate said last.
func (c *crash) fatalf(format string, args ...any) {
	c.t.Helper()
	text, _ := os.ReadFile(c.log.Name())
	c.t.Fatalf("after %d kills: "+format+"\nairgate said:\n%s", append(append([]any{c.kills}, args...), text[max(0, len(text)-6000):])...)
}

// begin starts airgate; it does not wait.
func (c *crash) begin(failpoint string) *process {
	c.t.Helper()
	if err := c.log.Truncate(0); err != nil {
		c.t.Fatal(err)
	}
	p := &process{done: make(chan struct{})}
	p.cmd = exec.Command(failpointBinary(c.t), "serve", "--config", c.config, "--data", filepath.Join(c.dir, "data"),
		"--extproc", c.socket(), "--admin", fmt.Sprintf("127.0.0.1:%d", c.adminPort), "--drain", "1s")
	p.cmd.Stderr = c.log
	p.cmd.Env = append(os.Environ(), "AIRGATE_FAILPOINT="+failpoint, "AIRGATE_SEGMENT_BYTES=20000", "AIRGATE_REPLICA=crash")
	if err := p.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.last = p
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	return p
}

func (p *process) dead() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// poll calls ok until it is true or p has died.
func (c *crash) poll(p *process, what string, ok func() bool) bool {
	c.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if p.dead() {
			return false
		}
		if time.Now().After(deadline) {
			_ = p.cmd.Process.Kill()
			c.fatalf("%s: not within 30 s", what)
		}
	}
	return true
}

// serveCalls plays calls until airgate dies, and returns what it has promised.
// It calls ready, and returns served, if airgate comes so far as to serve.
func (c *crash) serveCalls(p *process, ready func()) (all []played, served bool) {
	c.t.Helper()
	var envoy *extproctest.Envoy
	if !c.poll(p, "to listen", func() (ok bool) {
		var err error
		envoy, err = extproctest.Dial(c.socket())
		return err == nil
	}) {
		return nil, false
	}
	defer func() { _ = envoy.Close() }()
	c.balanced(p)
	ready()
	results := make(chan []played, callers)
	for range callers {
		random := rand.New(rand.NewPCG(c.random.Uint64(), 2))
		go func() {
			var mine []played
			for one := (played{}); one.err == nil && len(mine) < calls; mine = append(mine, one) {
				one = played{play: c.randomPlay(random)}
				one.promise, one.err = one.run(envoy, c.keys[one.team])
			}
			if len(mine) == calls {
				<-p.done
			}
			results <- mine
		}()
	}
	for range callers {
		all = append(all, <-results...)
	}
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		_ = p.cmd.Process.Kill()
		c.fatalf("airgate broke calls off and lives on: %v", all[len(all)-1].err)
	}
	return all, true
}

// played is a call and what was promised to it.
type played struct {
	play
	promise

	err error // the stream's
}

func (c *crash) randomPlay(r *rand.Rand) play {
	p := play{team: "wide", model: "gpt-5.4-mini", status: http.StatusOK, tokens: 1 + r.IntN(playedCap), stream: r.IntN(2) == 0}
	if r.IntN(3) == 0 {
		p.team = "tight"
	}
	p.held = p.stream && r.IntN(3) == 0
	if r.IntN(3) == 0 {
		p = play{team: "sliced", model: "gpt-4o", status: http.StatusOK, tokens: 1 + r.IntN(1500), stream: true}
	}
	switch r.IntN(12) {
	case 0:
		p.model = "unheard-of"
	case 1:
		p.team = ""
	case 2:
		p.status = http.StatusInternalServerError
	case 3, 4:
		p.leave = 1 + r.IntN(6)
	}
	return p
}

// balanced compares the budgets of an airgate that has just started with the
// book: all that was open is charged its bound, and nothing is held.
func (c *crash) balanced(p *process) {
	c.t.Helper()
	var got []budget
	if !c.poll(p, "to tell its budgets", func() (ok bool) { got, ok = c.budgets(); return ok }) {
		return
	}
	wide, tight, sliced := c.book.due("wide"), c.book.due("tight"), c.book.due("sliced")
	if tight > c.room {
		c.fatalf("%s USD are booked on a budget of %s: orphans included, the bound is one", tight, c.room)
	}
	want := map[string]money.NanoUSD{"company": wide + tight + sliced, "wide": wide, "tight": tight, "sliced": sliced}
	for _, b := range got {
		if b.Spent != want[b.Name].String() || b.Reserved != "0" {
			c.fatalf("budget %s: spent %s, reserved %s, the records say %s and 0", b.Name, b.Spent, b.Reserved, want[b.Name])
		}
		delete(want, b.Name)
	}
	if len(want) > 0 {
		c.fatalf("budgets %v are missing in %+v", want, got)
	}
}

func (c *crash) budgets() ([]budget, bool) {
	res, err := http.Get(c.api + "/api/v1/budgets")
	if err != nil {
		return nil, false
	}
	defer func() { _ = res.Body.Close() }()
	var out struct{ Budgets []budget }
	if res.StatusCode != http.StatusOK || json.NewDecoder(res.Body).Decode(&out) != nil {
		return nil, false
	}
	return out.Budgets, true
}

// examine reads what the dead have written and compares it with what they
// promised.
func (c *crash) examine(all []played, served bool) {
	c.t.Helper()
	lives, err := c.book.read(c.journal(), c.records)
	if err != nil {
		c.fatalf("the journal: %v", err)
	}
	if len(lives) > 1 || served && len(lives) == 0 {
		c.fatalf("%d writers have written in one life", len(lives))
	}
	if !served {
		return
	}
	l := &lives[0]
	ids := map[string]bool{}
	for i := range all {
		one := &all[i]
		c.calls++
		if one.forwarded {
			c.forwarded++
			c.billed[one.team] += one.billed
		}
		if one.settled {
			c.settled++
		}
		if one.code != "" {
			c.refused++
		}
		if one.team == "" {
			continue // a stranger is counted
		}
		ids[one.id] = true
		if err := l.keeps(&one.promise, one.cost()); err != nil {
			c.fatalf("request %s %+v, promised %+v: %v", one.id, one.play, one.promise, err)
		}
		if _, has := l.denies[one.id]; one.code != "" && !one.forwarded && !has && one.code != "journal_unavailable" {
			reason := one.team + " " + one.code
			if own := l.refusals[reason]; own < ownDenials {
				c.fatalf("request %s, %s: the refusal is lost: %d others of this kind have a record", one.id, reason, own)
			}
		}
	}
	if c.billed["tight"] > c.room {
		c.fatalf("team tight has cost %s of %s", c.billed["tight"], c.room)
	}
	for id := range l.intents {
		if !ids[id] {
			c.fatalf("there is an intent of request %s, which nobody made", id)
		}
	}
	for id := range c.book.open {
		if _, own := l.intents[id]; !own {
			c.fatalf("request %s is open, though airgate has started anew", id)
		}
	}
	c.orphans = c.book.orphans
}

// audit starts airgate, lets it ship and stop, and compares everything: journal,
// sink, reports and balances.
func (c *crash) audit() {
	c.t.Helper()
	p := c.begin("")
	c.poll(p, "to listen", func() bool { return get(c.api+"/readyz") == http.StatusOK })
	c.balanced(p)
	usage := struct {
		Rows []struct {
			Team string
			Cost string `json:"cost_usd"`
		}
	}{}
	if !c.poll(p, "to report what the journal has", func() bool {
		c.object("/api/v1/usage?by=team", &usage)
		for _, row := range usage.Rows {
			if row.Team != "" && row.Cost != c.book.due(row.Team).String() {
				return false
			}
		}
		return true
	}) {
		c.fatalf("airgate has ended: %v", p.cmd.ProcessState)
	}
	c.poll(p, "to delete what is shipped", func() bool {
		entries, err := os.ReadDir(c.journal())
		return err == nil && len(entries) <= 2 // its own and the ballast
	})
	p.stop()
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		c.fatalf("airgate stopped with exit code %d", code)
	}
	c.examine(nil, true)
	if len(c.book.open) > 0 {
		c.fatalf("%d calls are open after an orderly end", len(c.book.open))
	}
	c.shipped()
	var proof struct {
		Sound   bool
		Writers []struct {
			Writer      string
			NotAnchored int `json:"not_anchored"`
		}
	}
	if err := json.Unmarshal([]byte(c.command("audit", "verify", "-o", "json")), &proof); err != nil {
		c.t.Fatal(err)
	}
	for _, w := range proof.Writers {
		if !proof.Sound || w.NotAnchored > 0 {
			c.fatalf("audit verify: %+v", w)
		}
	}
	c.t.Logf("after %d kills: %d calls, %s + %s + %s USD", c.kills, c.calls, c.book.spent["wide"], c.book.spent["tight"], c.book.spent["sliced"])
}

// shipped compares the records database with the book.
func (c *crash) shipped() {
	c.t.Helper()
	r, err := sqlite.OpenReadOnly(c.t.Context(), c.records)
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	heads, err := r.Heads(context.Background())
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.book.lost(heads); err != nil {
		c.fatalf("%v", err)
	}
	db, err := sql.Open("sqlite", "file:"+c.records+"?mode=ro")
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	number := func(query string) (n int64) {
		c.t.Helper()
		if err := db.QueryRowContext(context.Background(), query).Scan(&n); err != nil {
			c.t.Fatalf("%s: %v", query, err)
		}
		return n
	}
	var records int64
	for _, h := range c.book.heads {
		records += int64(h.Seq)
	}
	for query, want := range map[string]int64{
		"SELECT count(*) FROM records": records,
		"SELECT count(*) FROM (SELECT count(*) AS n, min(seq) AS first, max(seq) AS last FROM records GROUP BY writer) WHERE first <> 1 OR n <> last": 0,
		"SELECT count(*) FROM records WHERE type = 'intent'":                   int64(c.book.intents),
		"SELECT count(DISTINCT request_id) FROM records WHERE type = 'intent'": int64(c.book.intents),
		"SELECT count(*) FROM records WHERE type = 'settle'":                   int64(len(c.book.ended)),
		"SELECT count(DISTINCT request_id) FROM records WHERE type = 'settle'": int64(len(c.book.ended)),
	} {
		if got := number(query); got != want {
			c.fatalf("%s = %d, want %d", query, got, want)
		}
	}
}

// failpointBinary is airgate with its failpoints, built once.
func failpointBinary(t testing.TB) string {
	t.Helper()
	path, err := withFailpoints()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var withFailpoints = sync.OnceValues(func() (string, error) { return build("failpoint") })

// Every failpoint in the source is one that TestCrash drives, and the other way
// round.
func TestFailpointsAreDriven(t *testing.T) {
	var found []string
	for _, p := range packages(t) {
		for _, name := range p.GoFiles {
			text, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			for _, rest := range strings.Split(string(text), "failpoint.Hit(")[1:] {
				quoted, err := strconv.QuotedPrefix(rest)
				if err != nil {
					t.Fatalf("%s: a failpoint's name is not written out: %.40s", name, rest)
				}
				point, _ := strconv.Unquote(quoted)
				if slices.Contains(found, point) {
					t.Errorf("%s: a second failpoint %s", name, point)
				}
				found = append(found, point)
			}
		}
	}
	slices.Sort(found)
	if driven := slices.Sorted(maps.Keys(failpoints)); !slices.Equal(found, driven) {
		t.Errorf("failpoints in the source: %v, driven: %v", found, driven)
	}
}
