package redis

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	goredis "github.com/redis/go-redis/v9"

	"airgate/accounting/quota"
	"airgate/accounting/quota/redis/redistest"
)

// TestDeadline: no call waits longer than its deadline, whatever the server does,
// and calls after one that failed do not wait at all.
func TestDeadline(t *testing.T) {
	t.Run("without TLS", func(t *testing.T) {
		t.Parallel()
		s := redistest.Start(t, redistest.Redis(t))
		p := redistest.NewProxy(t, s.Addr)
		deadlines(t, s, p, Config{URL: "redis://" + p.Addr}, s.Addr)
	})
	t.Run("with TLS", func(t *testing.T) {
		t.Parallel()
		s, a := redistest.Start(t, redistest.Redis(t)), redistest.NewAuthority(t)
		addr := redistest.NewTLSProxy(t, s.Addr, a.Server(t, "127.0.0.1")).Addr
		p := redistest.NewProxy(t, addr)
		deadlines(t, s, p, Config{URL: "rediss://" + p.Addr, CAFile: a.File}, addr)
	})
}

// deadlines has calls of c go to addr through p, to s in the end.
func deadlines(t *testing.T, s *redistest.Server, p *redistest.Proxy, c Config, addr string) {
	t.Helper()
	registry := prometheus.NewRegistry()
	const deadline = 400 * time.Millisecond
	c.Deadline, c.Registerer = deadline, registry
	st := open(t, c)
	call := quota.Take{Key: quota.Key{Account: "rate"}, Replica: "r", Want: 1, Capacity: 1 << 40}
	take := func() (time.Duration, error) {
		call.Seq++
		began := time.Now()
		_, err := st.Take(context.Background(), call)
		return time.Since(began), err
	}
	up := func(want string) {
		t.Helper()
		if err := testutil.GatherAndCompare(registry, strings.NewReader("# HELP airgate_store_up 1 if the quota store answers.\n# TYPE airgate_store_up gauge\nairgate_store_up "+want+"\n"), "airgate_store_up"); err != nil {
			t.Error(err)
		}
	}
	// A machine that is busy wakes a caller late.
	const late = 250 * time.Millisecond
	for name, fault := range map[string]struct{ begin, end func() }{
		"stopped":   {s.Pause, s.Resume},
		"half open": {func() { p.HalfOpen(true) }, func() { p.HalfOpen(false); p.Cut() }},
		"gone":      {func() { p.To("127.0.0.1:1") }, func() { p.To(addr) }},
		"slow":      {func() { p.Delay(time.Second) }, func() { p.Delay(0); p.Cut() }},
		// Each step of a new connection is within the limit of one, all are not.
		"slow steps": {func() { s.Do(t, "SCRIPT", "FLUSH"); p.Delay(deadline * 9 / 20); p.Cut() }, func() { p.Delay(0); p.Cut() }},
	} {
		if !within30s(func() bool { _, err := take(); return err == nil }) {
			t.Fatalf("before %s: no call succeeds", name)
		}
		up("1")
		fault.begin()
		passed, err := take()
		if !errors.Is(err, quota.ErrUnavailable) || passed > deadline+late {
			t.Errorf("%s: Take = error %v after %s, want %v within %s", name, err, passed, quota.ErrUnavailable, deadline)
		}
		up("0")
		began, calls := time.Now(), 1000
		for i := 0; i < calls && time.Since(began) <= late; i++ {
			if _, err := take(); !errors.Is(err, quota.ErrUnavailable) {
				t.Errorf("%s: Take = error %v, want %v", name, err, quota.ErrUnavailable)
				break
			}
		}
		if passed := time.Since(began); passed > late {
			t.Errorf("%s: %d calls after the first took %s, want them to fail at once", name, calls, passed)
		}
		fault.end()
	}
	if !within30s(func() bool { _, err := take(); return err == nil }) {
		t.Error("in the end no call succeeds")
	}
}

// TestCallerGivesUp: who gives up says nothing about the server.
func TestCallerGivesUp(t *testing.T) {
	t.Parallel()
	st := open(t, Config{URL: redistest.Start(t, redistest.Redis(t)).URL()})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	call := quota.Permits{Key: quota.Key{Account: "c"}, Replica: "r", Seq: 1, Want: 1, Limit: 1, TTL: time.Hour}
	if _, err := st.Permit(ctx, call); !errors.Is(err, quota.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("Permit = error %v, want %v and %v", err, quota.ErrUnavailable, context.Canceled)
	}
	if got, err := st.Permit(t.Context(), call); err != nil || got.Mine != 1 {
		t.Errorf("Permit of the next = %+v, %v; want one", got, err)
	}
}

// TestTooMuch: an amount that the server could not keep to the last digit never
// gets there, and a sum of them changes nothing.
func TestTooMuch(t *testing.T) {
	t.Parallel()
	c := Config{URL: redistest.Start(t, redistest.Redis(t)).URL()}
	whole(t, c)
	st := open(t, c)
	k := quota.Key{Account: "a", Window: "w"}
	for _, c := range []quota.Sync{
		{Seen: most + 1},
		{Returned: most + 1},
		{Spent: most + 1},
		{Want: most + 1},
		{Need: most + 1},
		{Limit: most + 1},
		{Version: most + 1},
		{Unit: 1000, Want: (most + 1) * 1000},
		{Spent: -1},
		{Others: []quota.Share{{Replica: "b", Spent: most + 1}}},
	} {
		c.Key, c.Replica, c.Seq = k, "r", 1
		if got, err := st.Sync(t.Context(), c); err == nil || errors.Is(err, quota.ErrUnavailable) {
			t.Errorf("Sync(%+v) = %+v, %v; want an error that is the caller's", c, got, err)
		}
	}
	if _, err := st.Take(t.Context(), quota.Take{Key: k, Replica: "r", Seq: 1, Seen: most + 1}); err == nil {
		t.Error("Take of too much is no error")
	}
	full := quota.Sync{Key: k, Replica: "r", Seq: 1, Seen: most, Spent: most, Limit: most, Version: 1}
	if _, err := st.Sync(t.Context(), full); err != nil {
		t.Fatal(err)
	}
	if got, err := st.Sync(t.Context(), quota.Sync{Key: k, Replica: "s", Seq: 1, Seen: 1, Spent: 1}); err == nil {
		t.Errorf("Sync that passes 2^53 = %+v, want an error", got)
	}
	full.Seq++
	if got, err := st.Sync(t.Context(), full); err != nil || got.Settled != most || got.Active != 0 {
		t.Errorf("Sync = %+v, %v; want %d settled as before", got, err, int64(most))
	}
}

// TestExpire: a window goes when the caller's clock and the time that it had left
// say so, and is not missed then; one without an end stays.
func TestExpire(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, redistest.Redis(t))
	c := Config{URL: s.URL()}
	whole(t, c)
	st := open(t, c)
	now := time.Now()
	k := quota.Key{Account: "a", Window: "w"}
	key := windowKey(shardOf(k), keyName(k))
	var seq uint64
	sync := func(now, expire time.Time) {
		t.Helper()
		seq++
		if _, err := st.Sync(t.Context(), quota.Sync{Key: k, Replica: "r", Seq: seq, Now: now, Expire: expire}); err != nil {
			t.Fatal(err)
		}
	}
	left := func() time.Duration {
		t.Helper()
		d, err := s.Client().PTTL(t.Context(), key).Result()
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	about := func(want time.Duration) {
		t.Helper()
		if got := left(); got < want || got > want+2*time.Minute {
			t.Errorf("the window stays for %s, want %s and at most two minutes more", got, want)
		}
	}
	sync(now, now.Add(time.Hour))
	about(time.Hour - time.Minute)
	sync(now.Add(-5*time.Hour), now.Add(time.Hour)) // a clock that is behind: it has more left
	about(6*time.Hour - time.Minute)
	sync(now.Add(50*time.Hour), now.Add(51*time.Hour)) // one that is ahead
	about(51*time.Hour - time.Minute)
	sync(now, now.Add(time.Hour)) // it never gets less
	about(51*time.Hour - time.Minute)
	sync(now, time.Time{})
	if got := left(); got != -1 {
		t.Errorf("a window without an end stays for %s", got)
	}
	sync(now, now.Add(time.Hour))
	if got := left(); got != -1 {
		t.Errorf("a window that once had no end stays for %s", got)
	}

	// What expired is not missed.
	k.Window, key = "over", windowKey(shardOf(k), keyName(quota.Key{Account: k.Account, Window: "over"}))
	seq = 0
	sync(now, now.Add(200*time.Millisecond))
	s.Do(t, "PEXPIRE", key, 1)
	time.Sleep(300 * time.Millisecond)
	got, err := st.Sync(t.Context(), quota.Sync{Key: k, Replica: "q", Seq: 1, Want: 1, Limit: 1, Version: 1, Now: time.Now(), Expire: time.Now().Add(time.Hour)})
	if err != nil || got.Lost || got.Granted != 1 {
		t.Errorf("Sync on a window that has expired = %+v, %v; want one granted", got, err)
	}
}

// TestFold: replicas that closed a window a day ago become one sum, which
// survives a loss like any other share, without what is in it counting twice.
func TestFold(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, redistest.Redis(t))
	c := Config{URL: s.URL()}
	whole(t, c)
	st := open(t, c)
	k := quota.Key{Account: "a", Window: "total"}
	key := windowKey(shardOf(k), keyName(k))
	sync := func(c quota.Sync) quota.State {
		t.Helper()
		c.Key, c.Limit, c.Version = k, 1000, 1
		got, err := st.Sync(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	shares := func(st quota.State) (text string) {
		list := make(map[string]string)
		for _, o := range st.Shares {
			list[o.Replica] = fmt.Sprint(o.Granted, " ", o.Returned, " ", o.Spent)
		}
		return fmt.Sprint(list)
	}
	for i, name := range []string{"a", "b", "c"} {
		sync(quota.Sync{Replica: name, Seq: 1, Want: 100})
		sync(quota.Sync{Replica: name, Seq: 2, Seen: 100, Spent: int64(10 * (i + 1)), Mode: quota.Close})
	}
	sync(quota.Sync{Replica: "open", Seq: 1, Want: 100})
	before := sync(quota.Sync{Replica: "x", Seq: 1, Mode: quota.NoGrants, Detail: true})
	if got, want := shares(before), "map[a:100 90 10 b:100 80 20 c:100 70 30 open:100 0 0]"; got != want {
		t.Errorf("shares = %s, want %s: nobody closed a day ago", got, want)
	}
	age := func(names ...string) {
		t.Helper()
		for _, name := range names {
			word := fmt.Sprint(s.Do(t, "HGET", key, "r:"+name))
			at := time.Now().Add(-25 * time.Hour).UnixMilli()
			s.Do(t, "HSET", key, "r:"+name, fmt.Sprint(word[:strings.LastIndexByte(word, ' ')+1], at))
		}
	}
	age("a", "b")
	closed := sync(quota.Sync{Replica: "x", Seq: 2, Mode: quota.NoGrants, Detail: true})
	after := sync(quota.Sync{Replica: "y", Seq: 1, Mode: quota.NoGrants, Detail: true})
	if got, want := shares(after), "map[*folded:30 0 30 c:100 70 30 open:100 0 0 x:0 0 0]"; got != want {
		t.Errorf("shares = %s, want %s: a and b closed a day ago", got, want)
	}
	if before.Settled != 60 || after.Settled != 60 || after.Escrowed != 100 || after.Active != 1 {
		t.Errorf("settled %d, then %d, escrowed %d by %d; want 60, 60, 100 by 1", before.Settled, after.Settled, after.Escrowed, after.Active)
	}

	// All is lost. y tells of the sum and x of its parts, in either order.
	for _, order := range [][]quota.Sync{
		{{Replica: "y", Seq: 2, Others: after.Shares}, {Replica: "x", Seq: 3, Others: closed.Shares}},
		{{Replica: "x", Seq: 3, Others: closed.Shares}, {Replica: "y", Seq: 2, Others: after.Shares}},
	} {
		s.Do(t, "DEL", key)
		var last quota.State
		for _, c := range order {
			c.Mode, c.Known, c.Detail = quota.NoGrants, true, true
			last = sync(c)
		}
		if last.Settled != 60 || last.Escrowed != 100 || last.Active != 1 {
			t.Errorf("after the loss settled %d, escrowed %d by %d; want 60, 100 by 1: %s", last.Settled, last.Escrowed, last.Active, shares(last))
		}
	}
}

// TestForget: what is no longer needed does not stay.
func TestForget(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, redistest.Redis(t))
	st := open(t, Config{URL: s.URL()})
	bucket, permits := quota.Key{Account: "rate"}, quota.Key{Account: "permits"}
	if _, err := st.Take(t.Context(), quota.Take{Key: bucket, Replica: "r", Seq: 1, Want: 60_000_000, Capacity: 60_000_000}); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Permit(t.Context(), quota.Permits{Key: permits, Replica: "r", Seq: 1, Want: 1, Limit: 1, TTL: time.Minute}); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]time.Duration{
		bucketKey(shardOf(bucket), keyName(bucket)):    11 * time.Minute,
		permitsKey(shardOf(permits), keyName(permits)): 61 * time.Minute,
	} {
		got, err := s.Client().PTTL(t.Context(), key).Result()
		if err != nil || got > want || got < want-time.Minute/2 {
			t.Errorf("%s stays for %s, %v; want %s", key, got, err, want)
		}
	}
}

// BenchmarkSync asks a real server, as it is and without looking at its
// replication id.
func BenchmarkSync(b *testing.B) {
	for _, binary := range []redistest.Binary{redistest.Redis(b), redistest.Valkey(b)} {
		s := redistest.Start(b, binary)
		st, err := newStore(b.Context(), Config{URL: s.URL(), Deadline: 5 * time.Second}, quick)
		if err != nil {
			b.Fatal(err)
		}
		const gate = "redis.pcall('INFO', 'replication')"
		if !strings.Contains(syncSource, gate) {
			b.Fatalf("sync.lua has no %s", gate)
		}
		ungated := goredis.NewScript(strings.Replace(syncSource, gate, "nil", 1))
		for name, script := range map[string]*goredis.Script{"gated": syncScript, "ungated": ungated} {
			b.Run(binary.String()+"/"+name, func(b *testing.B) {
				k := quota.Key{Account: "usd|team=search|month@Asia/Tokyo", Window: "2026-11"}
				expire := time.Now().Add(24 * time.Hour).UnixMilli()
				shard, granted := shardOf(k), int64(0)
				keys := []string{windowKey(shard, name+keyName(k)), registerKey(shard)}
				for seq := 1; b.Loop(); seq++ {
					answer, err := st.call(b.Context(), "sync", shard, script, keys,
						[]any{"pod-7f9c.3", seq, 1, granted, 0, granted, 1, 1, most / 2, 1, 0, expire, 86400000, "", 0, keyName(k)})
					if err != nil {
						b.Fatal(err)
					}
					answer.next()
					granted = answer.next()
				}
			})
		}
		if err := st.Close(); err != nil {
			b.Error(err)
		}
	}
}
