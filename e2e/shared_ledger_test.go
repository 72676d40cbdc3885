package e2e

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"airgate/accounting"
	"airgate/accounting/money"
	"airgate/accounting/quota"
	"airgate/accounting/quota/redis"
	"airgate/accounting/quota/redis/redistest"
)

var storeLong = flag.Bool("store", false, "three ledgers on every server that can be had, for a minute under each fault")

// microUSD is what the store counts in: less than that of a call is rounded up.
const microUSD = money.USD / 1_000_000

// three is three ledgers that share a real server, each through a network of its
// own, and what their calls hold and have cost.
type three struct {
	t       *testing.T
	server  *redistest.Server
	proxies []*redistest.Proxy
	ledgers []*accounting.Ledger
	tables  []*accounting.Table
	stops   []context.CancelFunc
	running sync.WaitGroup

	mu                sync.Mutex
	limit             money.NanoUSD
	held, spent       money.NanoUSD
	admitted, refused int
	unavailable       int
	worst             money.NanoUSD // held and spent at once, at most
}

func newThree(t *testing.T, binary redistest.Binary, flags ...string) *three {
	t.Helper()
	w := &three{t: t, server: redistest.Start(t, binary, flags...), limit: 50_000 * microUSD}
	for i := range 3 {
		p := redistest.NewProxy(t, w.server.Addr)
		store, err := redis.New(t.Context(), redis.Config{URL: "redis://" + p.Addr, Deadline: 200 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		l, err := accounting.New(accounting.Config{Store: store, Replica: fmt.Sprintf("r%d.1", i), Shared: true})
		if err != nil {
			t.Fatal(err)
		}
		table, err := accounting.Compile([]accounting.Limit{{Name: "b", Resource: accounting.USD, Amount: int64(w.limit), Window: accounting.Month}})
		if err == nil {
			err = l.Apply(table, time.Now())
		}
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		w.running.Go(func() {
			if err := l.Run(ctx); err != nil {
				t.Errorf("Run: %v", err)
			}
		})
		t.Cleanup(func() {
			for _, stop := range w.stops { // all are waited for
				stop()
			}
			w.running.Wait()
			if err := store.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
		waiting, end := context.WithTimeout(ctx, 20*time.Second)
		if err := store.Whole(waiting); err != nil {
			t.Error(err)
		}
		end()
		w.proxies, w.ledgers, w.tables, w.stops = append(w.proxies, p), append(w.ledgers, l), append(w.tables, table), append(w.stops, stop)
	}
	return w
}

// call makes calls until the time is over.
func (w *three) call(n int, until time.Time) {
	rng := rand.New(rand.NewPCG(uint64(n), 1))
	i := n % len(w.ledgers)
	s := &accounting.Subject{Teams: []string{"t"}, KeyID: "k"}
	var h accounting.Hold
	for time.Now().Before(until) {
		time.Sleep(time.Duration(rng.Int64N(int64(20 * time.Millisecond))))
		need := microUSD * money.NanoUSD(1+rng.IntN(200))
		cost := money.NanoUSD(rng.Int64N(int64(need) + 1))
		r := w.ledgers[i].Enter(&h, w.tables[i], s, time.Now())
		if r == nil {
			r = w.ledgers[i].Reserve(&h, w.tables[i], s, accounting.Need{USD: need}, time.Now())
		}
		w.mu.Lock()
		switch {
		case r == nil:
			w.admitted++
			w.held += need
			w.worst = max(w.worst, w.held+w.spent)
		case r.Code == accounting.QuotaUnavailable:
			w.unavailable++
		default:
			w.refused++
		}
		w.mu.Unlock()
		if r != nil {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		time.Sleep(time.Duration(rng.Int64N(int64(100 * time.Millisecond))))
		w.mu.Lock()
		w.held -= need
		w.spent += cost
		w.mu.Unlock()
		w.ledgers[i].Settle(&h, cost, 0, time.Now())
	}
}

// TestThreeLedgers: three ledgers on one real server never spend more than the limit,
// whatever becomes of the server and the networks between; when all is well again,
// what is left is spent, and at the end the server has what calls have cost, and
// nothing is set aside. (Where a server hides INFO, or is older than Redis 7.0, a
// promotion that loses writes is a case of its own: package redis.)
func TestThreeLedgers(t *testing.T) {
	type fault struct {
		flags []string
		do    func(w *three)
	}
	everywhere := func(w *three, do func(p *redistest.Proxy)) {
		for _, p := range w.proxies {
			do(p)
		}
	}
	faults := map[string]fault{
		"none": {do: func(*three) {}},
		"15 % of answers and 5 % of commands lost": {do: func(w *three) {
			everywhere(w, func(p *redistest.Proxy) { p.Lose(150, 50) })
			time.Sleep(3 * time.Second)
			everywhere(w, func(p *redistest.Proxy) { p.Lose(0, 0) })
		}},
		"slow": {do: func(w *three) {
			everywhere(w, func(p *redistest.Proxy) { p.Delay(30 * time.Millisecond) })
			time.Sleep(2 * time.Second)
			everywhere(w, func(p *redistest.Proxy) { p.Delay(0) })
		}},
		"one is cut off": {do: func(w *three) {
			w.proxies[0].HalfOpen(true)
			time.Sleep(2 * time.Second)
			w.proxies[0].HalfOpen(false)
		}},
		"the server stands still": {do: func(w *three) {
			w.server.Pause()
			time.Sleep(2 * time.Second)
			w.server.Resume()
		}},
		"another's script takes seconds": {flags: []string{"--lua-time-limit", "500"}, do: func(w *three) {
			w.server.Do(w.t, "EVAL", "for i = 1, 3e8 do end", "0") // longer than that: others hear BUSY
		}},
		"killed, with all it knew on disk": {flags: []string{"--appendonly", "yes", "--appendfsync", "always"}, do: func(w *three) {
			w.server.Kill()
			time.Sleep(time.Second)
			w.server.Restart(w.t)
		}},
		"killed, and all is lost": {do: func(w *three) {
			w.server.Kill()
			w.server.Restart(w.t)
		}},
		"flushed": {do: func(w *three) { w.server.Do(w.t, "FLUSHALL") }},
		"a replica that lacks the last writes takes over": {do: func(w *three) {
			replica := redistest.Replica(w.t, w.server)
			time.Sleep(time.Second)
			replica.Pause() // it hears nothing more
			time.Sleep(time.Second)
			w.server.Kill()
			replica.Resume()
			replica.Promote(w.t)
			everywhere(w, func(p *redistest.Proxy) { p.To(replica.Addr) })
			w.server = replica
		}},
	}
	binaries := []redistest.Binary{redistest.Redis(t)}
	length := 3 * time.Second
	if *storeLong {
		binaries, length = redistest.Binaries(t), time.Minute
	}
	for _, binary := range binaries {
		var trying sync.WaitGroup // all at once, whatever -parallel says: they mostly wait
		for name, f := range faults {
			try := func(t *testing.T) {
				w := newThree(t, binary, f.flags...)
				var calling sync.WaitGroup
				until := time.Now().Add(length + 2*time.Second)
				for n := range 12 {
					calling.Go(func() { w.call(n, until) })
				}
				time.Sleep(time.Second)
				f.do(w)
				calling.Wait()
				time.Sleep(6 * time.Second) // it is whole again, and what is idle has come back
				w.mu.Lock()
				before := w.admitted
				w.mu.Unlock()
				for n := range 12 {
					calling.Go(func() { w.call(100+n, time.Now().Add(length)) })
				}
				calling.Wait()
				if w.worst > w.limit {
					t.Errorf("%v USD were held and spent at once, of %v", w.worst, w.limit)
				}
				if left := w.limit - w.spent; w.admitted == before && left > 500*microUSD {
					t.Errorf("no call was admitted any more, with %v USD left", left)
				}
				w.settled()
				t.Logf("%d admitted, %d refused, %d without the store, %v USD spent of %v", w.admitted, w.refused, w.unavailable, w.spent, w.limit)
			}
			trying.Go(func() { t.Run(binary.String()+"/"+name, try) })
		}
		trying.Wait()
	}
}

// TestOutage: while a real server stands still, or is gone, calls go on out of what is
// in hand, and only what that is too little for is refused. When the server is back, the
// same ledgers have it grant that, and no more than there is.
func TestOutage(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]struct {
		flags      []string
		begin, end func(w *three)
	}{
		"it stands still": {nil, func(w *three) { w.server.Pause() }, func(w *three) { w.server.Resume() }},
		"it is killed": {
			[]string{"--appendonly", "yes", "--appendfsync", "always"},
			func(w *three) { w.server.Kill() }, func(w *three) { w.server.Restart(w.t) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newThree(t, redistest.Redis(t), o.flags...)
			const usual, large = microUSD, 20_000 * microUSD // which is never in hand
			call := func(need money.NanoUSD) *accounting.Refusal {
				var h accounting.Hold
				l, table, s := w.ledgers[0], w.tables[0], &accounting.Subject{Teams: []string{"t"}, KeyID: "k"}
				r := l.Enter(&h, table, s, time.Now())
				if r == nil {
					r = l.Reserve(&h, table, s, accounting.Need{USD: need}, time.Now())
				}
				if r == nil {
					l.Settle(&h, need, 0, time.Now())
					w.spent += need
				}
				return r
			}
			goOn := func(while string) {
				for range 200 {
					if r := call(usual); r != nil {
						t.Fatalf("a usual call is refused while %s: %+v", while, r)
					}
					time.Sleep(10 * time.Millisecond)
				}
			}
			refused := func() {
				if r := call(large); r == nil || r.Code != accounting.QuotaUnavailable {
					t.Fatalf("a call that lacks something, without the store: %+v, want %v", r, accounting.QuotaUnavailable)
				}
			}
			goOn("the store answers")
			o.begin(w)
			refused()
			goOn(name)
			refused()
			o.end(w)
			var r *accounting.Refusal
			for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
				if r = call(large); r == nil {
					break
				}
			}
			if r != nil {
				t.Fatalf("the store is back: %+v", r)
			}
			for r == nil && w.spent <= w.limit {
				r = call(100 * microUSD)
			}
			if left := w.limit - w.spent; left < 0 || left >= 100*microUSD {
				t.Errorf("%v USD are left of %v, of calls of 0.0001", left, w.limit)
			}
			w.settled()
		})
	}
}

// settled ends the ledgers and compares what the server has with what calls have cost.
func (w *three) settled() {
	w.t.Helper()
	for _, stop := range w.stops {
		stop()
	}
	w.running.Wait()
	for _, l := range w.ledgers {
		if err := l.Close(context.Background()); err != nil {
			w.t.Errorf("Close: %v", err)
		}
	}
	store, err := redis.New(w.t.Context(), redis.Config{URL: w.server.URL()})
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = store.Close() }() // it only read
	st, err := store.Sync(w.t.Context(), quota.Sync{
		Key: quota.Key{Account: "usd|month@UTC", Window: time.Now().UTC().Format("2006-01")}, Unit: int64(microUSD), Replica: "reader.1", Seq: 1, Mode: quota.NoGrants,
	})
	// Each ledger's part is rounded up to a whole micro-USD.
	if err != nil || money.NanoUSD(st.Settled) < w.spent || money.NanoUSD(st.Settled) > w.spent+3*microUSD || st.Escrowed != 0 {
		w.t.Errorf("the server has %v USD settled and %v escrowed, want %v and 0; %v", money.NanoUSD(st.Settled), money.NanoUSD(st.Escrowed), w.spent, err)
	}
}
