package redis

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"airgate/accounting/quota"
	"airgate/accounting/quota/redis/redistest"
)

var long = flag.Bool("store", false, "faults on every server that can be had, and twenty times as much to spend")

// servers are what faults are tried on: all that can be had, or a few.
func servers(t *testing.T, few ...redistest.Binary) []redistest.Binary {
	t.Helper()
	if *long {
		return redistest.Binaries(t)
	}
	return few
}

// member is a replica that keeps its side of the contract.
type member struct {
	name    string
	store   *Store
	windows map[quota.Key]*held
	leave   func()
}

// held is what a member has of one window. One call at a time is under way.
type held struct {
	mu                       sync.Mutex
	limit                    int64
	seq                      uint64
	known                    bool
	granted, returned, spent int64
	others                   []quota.Share
}

func (h *held) idle() int64 { return h.granted - h.returned - h.spent }

func (m *member) syncLocked(ctx context.Context, k quota.Key, h *held, c quota.Sync) (quota.State, error) {
	h.seq++
	c.Key, c.Replica, c.Seq, c.Known = k, m.name, h.seq, h.known
	c.Seen, c.Returned, c.Spent, c.Limit, c.Version, c.Detail = h.granted, h.returned, h.spent, h.limit, 1, true
	st, err := m.store.Sync(ctx, c)
	if err != nil {
		return st, err
	}
	h.known = true
	h.granted = max(h.granted, st.Granted)
	if !st.Lost {
		h.others = st.Shares
	}
	return st, nil
}

// spend spends n if it can. exhausted means that the store has answered that
// there is not so much.
func (m *member) spend(k quota.Key, n int64) (done, exhausted bool) {
	h := m.windows[k]
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.idle() < n {
		need := n - h.idle()
		st, err := m.syncLocked(context.Background(), k, h, quota.Sync{Want: 10 * n, Need: need, Recall: true})
		if err != nil || h.idle() < n {
			return false, err == nil && !st.Lost
		}
	}
	h.spent += n
	return true, false
}

func (m *member) Recall(k quota.Key) {
	h := m.windows[k]
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.returned += h.idle()
	_, _ = m.syncLocked(context.Background(), k, h, quota.Sync{})
}

func (m *member) Reassert(ctx context.Context, lost func(quota.Key) bool) error {
	for k, h := range m.windows {
		if !lost(k) {
			continue
		}
		h.mu.Lock()
		_, err := m.syncLocked(ctx, k, h, quota.Sync{Mode: quota.NoGrants, Others: h.others})
		h.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// world is some members that spend what they can of some windows.
type world struct {
	t       *testing.T
	members []*member
	keys    []quota.Key
	limit   int64
	spent   atomic.Int64
}

func newWorld(t *testing.T, c Config, members int) *world {
	t.Helper()
	w := &world{t: t, limit: 500}
	if *long {
		w.limit = 10_000
	}
	for i := range 6 {
		w.keys = append(w.keys, quota.Key{Account: fmt.Sprint("usd|team=", i), Window: "2026-11"})
	}
	for i := range members {
		w.join(c, fmt.Sprint("m", i))
	}
	w.whole()
	return w
}

func (w *world) join(c Config, name string) *member {
	w.t.Helper()
	m := &member{name: name, store: open(w.t, c), windows: make(map[quota.Key]*held)}
	for _, k := range w.keys {
		m.windows[k] = &held{limit: w.limit}
	}
	m.leave = watch(w.t, m.store, name, m)
	w.members = append(w.members, m)
	return m
}

func (w *world) whole() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	for _, m := range w.members {
		if err := m.store.Whole(ctx); err != nil {
			w.t.Fatal(err)
		}
	}
}

// run has all members spend until nobody gets any more, and fault happens when
// a third of it all is spent.
func (w *world) run(fault func()) {
	w.t.Helper()
	var spending sync.WaitGroup
	stop := time.Now().Add(60 * time.Second)
	for _, m := range w.members {
		spending.Go(func() {
			for refused := 0; refused < 20*len(w.keys); {
				if time.Now().After(stop) {
					w.t.Errorf("%s still spends after a minute", m.name)
					return
				}
				n := 1 + rand.Int64N(5)
				done, exhausted := m.spend(w.keys[rand.IntN(len(w.keys))], n)
				switch {
				case done:
					w.spent.Add(n)
					refused = 0
				case exhausted:
					refused++
				default: // not known yet
					refused = 0
				}
				time.Sleep(100 * time.Microsecond)
			}
		})
	}
	for w.spent.Load() < w.limit*int64(len(w.keys))/3 {
		if time.Now().After(stop) {
			w.t.Error("nobody spends")
			break
		}
		time.Sleep(time.Millisecond)
	}
	if fault != nil {
		fault()
	}
	spending.Wait()
}

// settle closes everything and compares what the store knows with what was
// spent, beyond being what may be spent beyond the limits, all together.
func (w *world) settle(beyond int64) {
	w.t.Helper()
	w.whole()
	var over, total int64
	for _, k := range w.keys {
		var spent int64
		for _, m := range w.members {
			h := m.windows[k]
			for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
				if _, err := m.syncLocked(context.Background(), k, h, quota.Sync{Mode: quota.Close}); err == nil {
					break
				} else if time.Now().After(end) {
					w.t.Fatal(err)
				}
			}
			spent += h.spent
		}
		m := w.members[0]
		var st quota.State
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			var err error
			if st, err = m.syncLocked(context.Background(), k, m.windows[k], quota.Sync{Mode: quota.NoGrants}); err == nil || time.Now().After(end) {
				break
			}
		}
		if st.Settled != spent || st.Escrowed != 0 || st.Active != 0 {
			w.t.Errorf("%s: settled %d, escrowed %d by %d; spent %d, want that settled and no escrow", k.Account, st.Settled, st.Escrowed, st.Active, spent)
		}
		over += max(0, spent-w.limit)
		total += spent
		if spent < w.limit*9/10 {
			w.t.Errorf("%s: spent %d, want at least %d: what is left cannot be had", k.Account, spent, w.limit*9/10)
		}
	}
	w.t.Logf("spent %d of %d, %d beyond the limits, want at most %d", total, w.limit*int64(len(w.keys)), over, beyond)
	if over > beyond {
		w.t.Errorf("spent %d beyond the limits, want at most %d", over, beyond)
	}
}

// TestLoss: a server that forgets some or all of what it has acknowledged, and
// grants nothing that others may have.
func TestLoss(t *testing.T) {
	faults := map[string]func(t *testing.T, s *redistest.Server, w *world){
		"FLUSHALL": func(t *testing.T, s *redistest.Server, _ *world) { s.Do(t, "FLUSHALL") },
		"FLUSHALL twice": func(t *testing.T, s *redistest.Server, _ *world) {
			s.Do(t, "FLUSHALL")
			time.Sleep(quick.join / 2)
			s.Do(t, "FLUSHALL")
		},
		"one window": func(t *testing.T, s *redistest.Server, w *world) {
			s.Do(t, "DEL", windowKey(shardOf(w.keys[0]), keyName(w.keys[0])))
		},
		"a register":       func(t *testing.T, s *redistest.Server, w *world) { s.Do(t, "DEL", registerKey(shardOf(w.keys[0]))) },
		"kill -9":          func(t *testing.T, s *redistest.Server, _ *world) { s.Kill(); s.Restart(t) },
		"kill -9 and disk": func(t *testing.T, s *redistest.Server, _ *world) { s.Kill(); s.Wipe(t); s.Restart(t) },
	}
	for _, b := range servers(t, redistest.Valkey(t)) {
		for name, fault := range faults {
			t.Run(b.String()+"/"+name, func(t *testing.T) {
				t.Parallel()
				s := redistest.Start(t, b, "--appendonly", "yes", "--appendfsync", "everysec")
				w := newWorld(t, Config{URL: s.URL()}, 3)
				w.run(func() { fault(t, s, w) })
				w.settle(0)
			})
		}
	}
}

// TestNewcomer: one window is lost, and who asks first has never had a part of
// it.
func TestNewcomer(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, redistest.Redis(t))
	w := newWorld(t, Config{URL: s.URL()}, 1)
	k := w.keys[0]
	if done, _ := w.members[0].spend(k, w.limit/3); !done {
		t.Fatal("nothing is granted")
	}
	s.Do(t, "DEL", windowKey(shardOf(k), keyName(k)))
	late := w.join(Config{URL: s.URL()}, "late")
	if done, exhausted := late.spend(k, w.limit/3); done || exhausted {
		t.Errorf("spend = %v, %v; want nothing granted, since the window is lost", done, exhausted)
	}
	w.run(nil)
	w.settle(0)
}

// promotable is a server and a replica of it, each way through a network of its own, and
// how to reach what is in front: first the master.
func promotable(t *testing.T, b redistest.Binary, hidden bool) (master *redistest.Server, between *redistest.Proxy, replica *redistest.Server, front *redistest.Proxy, c Config) {
	t.Helper()
	master = redistest.Start(t, b)
	between = redistest.NewProxy(t, master.Addr)
	replica = redistest.Replica(t, master.At(between.Addr))
	front = redistest.NewProxy(t, master.Addr)
	c = Config{URL: "redis://" + front.Addr}
	if hidden {
		c = hide(t, front.Addr, master, replica)
	}
	return master, between, replica, front, c
}

// TestPromotion: a replica of the server is promoted that has not heard of the
// last grants.
func TestPromotion(t *testing.T) {
	for name, hidden := range map[string]bool{"detected": false, "hidden": true} {
		for _, b := range servers(t, redistest.Redis(t), redistest.Valkey(t)) {
			t.Run(b.String()+"/"+name, func(t *testing.T) {
				t.Parallel()
				master, between, replica, front, c := promotable(t, b, hidden)
				w := newWorld(t, c, 3)
				var lost int64
				granted := func() (sum int64) {
					for _, m := range w.members {
						for _, h := range m.windows {
							h.mu.Lock()
							sum += h.granted
							h.mu.Unlock()
						}
					}
					return sum
				}
				w.run(func() {
					before := granted()
					between.HalfOpen(true)
					time.Sleep(50 * time.Millisecond)
					master.Kill()
					lost = granted() - before
					replica.Promote(t)
					front.To(replica.Addr)
				})
				if lost == 0 {
					t.Error("no grant was lost: nothing is tested")
				}
				if !hidden {
					w.settle(0)
					return
				}
				// What was granted while nobody replicated it can be granted again.
				w.settle(lost)
			})
		}
	}
}

// TestStale: all of a window is granted, that is lost with a server, and on the
// one that is promoted another replica asks for it.
func TestStale(t *testing.T) {
	for name, hidden := range map[string]bool{"detected": false, "hidden": true} {
		for _, b := range servers(t, redistest.Redis(t), redistest.Valkey(t)) {
			t.Run(b.String()+"/"+name, func(t *testing.T) {
				t.Parallel()
				master, between, replica, front, c := promotable(t, b, hidden)
				w := newWorld(t, c, 2)
				if got := w.members[0].store.DetectsLoss(); got == hidden {
					t.Fatalf("DetectsLoss = %v where INFO hidden = %v", got, hidden)
				}
				k := w.keys[0]
				master.Do(t, "SET", "all before this", "is replicated") // WAIT looks at the asker's writes
				master.Do(t, "WAIT", 1, 5000)
				between.HalfOpen(true)
				if done, _ := w.members[0].spend(k, w.limit); !done {
					t.Fatal("the limit is not granted")
				}
				master.Kill()
				replica.Promote(t)
				front.To(replica.Addr)
				var done, exhausted bool
				ask := func() bool { done, exhausted = w.members[1].spend(k, w.limit); return done || exhausted }
				if !within30s(ask) {
					t.Fatal("the store does not grant again")
				}
				if done != hidden {
					t.Errorf("granted again = %v, want %v where INFO hidden = %v", done, hidden, hidden)
				}
			})
		}
	}
}

// hide keeps the INFO of servers from scripts. It returns how to reach them at
// addr.
func hide(t *testing.T, addr string, servers ...*redistest.Server) Config {
	t.Helper()
	for _, s := range servers {
		s.Do(t, "ACL", "SETUSER", "airgate", "on", "nopass", "resetchannels", "~airgate:q:*", "&airgate:q:*", "+@all", "-info")
	}
	return Config{URL: "redis://" + addr, Username: "airgate", PasswordFile: file(t, "any")}
}

// TestMissing: who had a part of what is lost and does not come back is waited
// for, named, and done without.
func TestMissing(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, redistest.Redis(t))
	log := &logged{}
	w := newWorld(t, Config{URL: s.URL(), Log: log.logger(t)}, 3)
	time.Sleep(2 * quick.beat) // so that they know each other
	began := time.Now()
	_ = w.members[2].store.client.Close() // it ends without a word
	w.members = w.members[:2]
	s.Do(t, "FLUSHALL")
	if !within30s(func() bool { return log.has("without replicas") }) {
		t.Fatal("nothing says who is missing")
	}
	if passed := time.Since(began); passed < quick.gone {
		t.Errorf("m2 was waited for %s, want %s", passed, quick.gone)
	}
	if !log.has("replicas=[m2]") {
		t.Error("m2 is not named, or not alone")
	}
	w.run(nil)
	w.settle(0)
}

// TestLeave: who has left is not waited for.
func TestLeave(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, redistest.Redis(t))
	log := &logged{}
	w := newWorld(t, Config{URL: s.URL(), Log: log.logger(t)}, 2)
	time.Sleep(2 * quick.beat)
	w.members[1].leave()
	w.members = w.members[:1]
	time.Sleep(2 * quick.beat)
	s.Do(t, "FLUSHALL")
	began := time.Now()
	if !within30s(func() bool { return log.has("lost what it acknowledged") }) {
		t.Fatal("nobody notices the loss")
	}
	w.whole()
	if passed := time.Since(began); passed >= quick.gone {
		t.Errorf("whole again after %s, want before %s", passed, quick.gone)
	}
	if log.has("m1") {
		t.Error("m1 has left and is named as missing")
	}
}

// TestNetwork: what a network does to calls and answers.
func TestNetwork(t *testing.T) {
	for _, b := range servers(t, redistest.Redis(t)) {
		for name, fault := range map[string]func(t *testing.T, s *redistest.Server, p *redistest.Proxy){
			"15 % of answers destroyed": func(*testing.T, *redistest.Server, *redistest.Proxy) {},
			"half open": func(_ *testing.T, _ *redistest.Server, p *redistest.Proxy) {
				p.HalfOpen(true)
				time.Sleep(300 * time.Millisecond)
				p.HalfOpen(false)
				p.Cut()
			},
			"late": func(_ *testing.T, _ *redistest.Server, p *redistest.Proxy) {
				p.Delay(80 * time.Millisecond)
				time.Sleep(500 * time.Millisecond)
				p.Delay(0)
			},
			"paused": func(_ *testing.T, s *redistest.Server, _ *redistest.Proxy) {
				s.Pause()
				time.Sleep(500 * time.Millisecond)
				s.Resume()
			},
			"slow script": func(t *testing.T, s *redistest.Server, _ *redistest.Proxy) {
				s.Do(t, "EVAL", "for i = 1, 50000000 do end return 1", 0)
			},
			"slow command": func(t *testing.T, s *redistest.Server, _ *redistest.Proxy) { s.Do(t, "DEBUG", "SLEEP", "0.5") },
		} {
			t.Run(b.String()+"/"+name, func(t *testing.T) {
				t.Parallel()
				s := redistest.Start(t, b)
				p := redistest.NewProxy(t, s.Addr)
				w := newWorld(t, Config{URL: "redis://" + p.Addr, Deadline: DefaultDeadline}, 3)
				p.Lose(150, 50)
				w.run(func() { fault(t, s, p) })
				p.Lose(0, 0)
				w.settle(0)
			})
		}
	}
}

// TestSentinel: a Sentinel promotes the replica of a master that is killed.
func TestSentinel(t *testing.T) {
	t.Parallel()
	master := redistest.Start(t, redistest.Redis(t))
	redistest.Replica(t, master)
	s := redistest.Sentinel(t, master)
	w := newWorld(t, Config{URL: "redis+sentinel://" + s.Addr + "/main"}, 3)
	w.run(master.Kill)
	w.settle(0)
}

// TestCluster: one of three masters is emptied, and one is stopped for a while.
func TestCluster(t *testing.T) {
	t.Parallel()
	nodes := redistest.Cluster(t, redistest.Valkey(t))
	w := newWorld(t, Config{URL: "redis+cluster://" + nodes[0].Addr, Deadline: 250 * time.Millisecond}, 3)
	w.run(func() {
		nodes[1].Do(t, "FLUSHALL")
		nodes[2].Pause()
		time.Sleep(500 * time.Millisecond)
		nodes[2].Resume()
	})
	w.settle(0)
}

// TestReshard: each shard's slot is moved from one master to another under calls.
// To its register the other is a server that it was not whole on.
func TestReshard(t *testing.T) {
	for _, b := range servers(t, redistest.Redis(t), redistest.Valkey(t)) {
		t.Run(b.String(), func(t *testing.T) {
			t.Parallel()
			nodes := redistest.Cluster(t, b)
			w := newWorld(t, Config{URL: "redis+cluster://" + nodes[0].Addr}, 3)
			w.run(func() {
				for i := range shards {
					redistest.Move(t, nodes, registerKey(i), 5*time.Millisecond)
				}
			})
			w.settle(0)
			for _, redirection := range []string{"MOVED", "ASK", "TRYAGAIN"} {
				if n := redistest.Errors(t, nodes, redirection); n == 0 {
					t.Errorf("no call was answered with %s: the test shows nothing", redirection)
				} else {
					t.Logf("%d calls were answered with %s", n, redirection)
				}
			}
		})
	}
}

func within30s(done func() bool) bool {
	for end := time.Now().Add(30 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}
