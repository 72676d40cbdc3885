package redis

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	quotaredis "airgate/accounting/quota/redis"
	"airgate/accounting/quota/redis/redistest"
	"airgate/policy/overlay"
	"airgate/policy/overlay/file"
	"airgate/policy/overlay/overlaytest"
)

// client is one of its own, as another process has it.
func client(t *testing.T, addr string) *goredis.Client {
	t.Helper()
	c := goredis.NewClient(&goredis.Options{Addr: addr, ContextTimeoutEnabled: true, DisableIdentity: true})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// shared is one of its own as airgate has it, whose calls take deadline at most.
func shared(t *testing.T, url string, deadline time.Duration) Client {
	t.Helper()
	s, err := quotaredis.New(t.Context(), quotaredis.Config{URL: url, Deadline: deadline})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s.Client()
}

// place is where one overlay is.
type place struct {
	url      string
	masters  []*redistest.Server
	turn     func(t *testing.T) // has it be on another server from now on
	followed func(t *testing.T) // fails if nobody had to go there
}

func (p *place) flush(t *testing.T) {
	t.Helper()
	for _, s := range p.masters {
		s.Do(t, "FLUSHALL")
	}
}

// newCluster has a slot that can be moved.
func newCluster(t *testing.T) *place {
	t.Helper()
	nodes := redistest.Cluster(t, redistest.Valkey(t))
	p := &place{url: "redis+cluster://" + nodes[0].Addr + "," + nodes[1].Addr, masters: nodes}
	p.turn = func(t *testing.T) {
		t.Helper()
		redistest.Move(t, nodes, Key, 5*time.Millisecond)
	}
	p.followed = func(t *testing.T) {
		t.Helper()
		if redistest.Errors(t, nodes, "MOVED")+redistest.Errors(t, nodes, "ASK") == 0 {
			t.Error("no call was sent on to another node: the test shows nothing")
		}
	}
	return p
}

// newWatched has a Sentinel, and a replica to promote, which has lost what its
// master acknowledged.
func newWatched(t *testing.T) *place {
	t.Helper()
	master := redistest.Start(t, redistest.Redis(t))
	replica := redistest.Replica(t, master, "--replica-read-only", "no")
	p := &place{url: "redis+sentinel://" + redistest.Sentinel(t, master).Addr + "/main", masters: []*redistest.Server{master}}
	p.turn = func(t *testing.T) {
		t.Helper()
		await(t, "the replica has what its master has", func() bool { return replica.Do(t, "DEL", Key) == int64(1) })
		master.Kill()
		p.masters = []*redistest.Server{replica}
	}
	p.followed = func(t *testing.T) {
		t.Helper()
		if role := replica.Do(t, "ROLE").([]any)[0]; role != "master" {
			t.Errorf("the replica is a %s: the test shows nothing", role)
		}
	}
	return p
}

func TestContract(t *testing.T) {
	t.Parallel()
	places := map[string]func(t *testing.T) *place{"cluster": newCluster, "sentinel": newWatched}
	for _, b := range redistest.Binaries(t) {
		places[b.String()] = func(t *testing.T) *place {
			t.Helper()
			server := redistest.Start(t, b)
			return &place{url: server.URL(), masters: []*redistest.Server{server}}
		}
	}
	for name, start := range places {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t)
			overlaytest.Run(t, func(t *testing.T) (one, other overlay.Store) {
				p.flush(t)
				return New(shared(t, p.url, 5*time.Second)), New(shared(t, p.url, 5*time.Second))
			})
		})
	}
}

func revocation() overlay.Entry {
	return overlay.Entry{Kind: overlay.Revoke, Name: "k7Qm2xT9aB4c", By: "kim", Reason: "leaked", Made: time.Date(2026, time.November, 10, 9, 0, 0, 0, time.UTC)}
}

// TestHash: what stands in the server, which other versions read too; what they
// wrote and this one cannot read is told, and the rest counts.
func TestHash(t *testing.T) {
	server := redistest.Start(t, redistest.Redis(t))
	s := New(client(t, server.Addr))
	if err := s.Put(t.Context(), revocation()); err != nil {
		t.Fatal(err)
	}
	const want = `{"id":"revoke/k7Qm2xT9aB4c","kind":"revoke","name":"k7Qm2xT9aB4c","by":"kim","reason":"leaked","made":"2026-11-10T09:00:00Z"}`
	if got := server.Do(t, "HGET", "airgate:overlay", "revoke/k7Qm2xT9aB4c"); got != want {
		t.Errorf("the field has %v, want %s", got, want)
	}
	server.Do(t, "HSET", Key, "freeze/x", `{"kind":"freeze"}`, "revoke/other", want)
	list, err := s.List(t.Context())
	if !errors.Is(err, overlay.ErrUnreadable) || !strings.Contains(err.Error(), `field "freeze/x": kind "freeze" is not known`) ||
		!strings.Contains(err.Error(), `field "revoke/other": it is revoke/k7Qm2xT9aB4c`) {
		t.Errorf("List = %v, want both fields and why", err)
	}
	if len(list) != 1 || list[0] != revocation() {
		t.Errorf("List = %+v, want the entry that can be read", list)
	}
}

// open opens a Copy of what is at the server and in a file of its own.
func open(t *testing.T, c Client, path string) *overlay.Copy {
	t.Helper()
	p, err := overlay.NewCopy(t.Context(), overlay.CopyConfig{
		Stores: []overlay.Store{New(c), file.New(path)}, Interval: 20 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
		Needed: func(overlay.Entry) bool { return true },
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func run(t *testing.T, c *overlay.Copy) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
	}
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

// TestAnotherServer: a slot that is moved, and a replica that is promoted and had
// lost what operators said, take nothing away, and what is said meanwhile gets
// everywhere.
func TestAnotherServer(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(t *testing.T) *place{"cluster": newCluster, "sentinel": newWatched} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t)
			const deadline = 250 * time.Millisecond
			one := open(t, shared(t, p.url, deadline), filepath.Join(t.TempDir(), "overlay.jsonl"))
			other := open(t, shared(t, p.url, deadline), filepath.Join(t.TempDir(), "overlay.jsonl"))
			store := New(shared(t, p.url, deadline)) // as one more airgate sees it
			defer run(t, one)()
			defer run(t, other)()
			before, err := one.Put(t.Context(), revocation(), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			await(t, "the other knows what was said before", func() bool { return other.Entries()[before.ID()] == before })
			p.turn(t)
			meanwhile := overlay.Entry{Kind: overlay.BlockTeam, Name: "search", Until: time.Now().Add(time.Hour).UTC().Truncate(time.Second), By: "kim", Reason: "INC-12"}
			if meanwhile, err = one.Put(t.Context(), meanwhile, time.Now()); meanwhile.Made.IsZero() {
				t.Fatal(err)
			}
			both := func() bool {
				list, err := store.List(t.Context())
				return err == nil && len(list) == 2 && slices.Contains(list, before) && slices.Contains(list, meanwhile)
			}
			await(t, "the other knows what was said meanwhile", func() bool { return other.Entries()[meanwhile.ID()] == meanwhile })
			await(t, "both are stored where the store is now", both)
			p.flush(t)
			await(t, "both are stored again", both)
			await(t, "no fault is left", func() bool { return errors.Join(one.Fault(), other.Fault()) == nil })
			p.followed(t)
		})
	}
}

// TestLostAndDown: FLUSHALL takes nothing away, a server that stands still holds
// nobody up, and who starts meanwhile knows what this machine knew.
func TestLostAndDown(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Valkey(t))
	own := filepath.Join(t.TempDir(), "overlay.jsonl")
	one, other := open(t, client(t, server.Addr), own), open(t, client(t, server.Addr), filepath.Join(t.TempDir(), "overlay.jsonl"))
	stopOne, stopOther := run(t, one), run(t, other)
	e, err := one.Put(t.Context(), revocation(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the other knows it", func() bool { return other.Entries()[e.ID()] == e })
	server.Do(t, "FLUSHALL")
	await(t, "it is stored again", func() bool { return server.Do(t, "HEXISTS", Key, e.ID()) == int64(1) })
	stopOne()
	stopOther()

	server.Pause()
	defer server.Resume()
	began := time.Now()
	again := open(t, client(t, server.Addr), own)
	if took := time.Since(began); again.Entries()[e.ID()] != e || again.Fault() == nil || took > 3*time.Second {
		t.Errorf("a start while the server stands still took %v and knows %v, fault %v; want the revocation, soon, and the fault", took, again.Entries(), again.Fault())
	}
	blocked := overlay.Entry{Kind: overlay.BlockTeam, Name: "search", Until: time.Now().Add(time.Hour).UTC(), By: "kim", Reason: "INC-12"}
	if _, err := again.Put(t.Context(), blocked, time.Now()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Put while the server stands still = %v, want its deadline", err)
	}
	server.Resume()
	stop := run(t, again)
	defer stop()
	await(t, "the server is told what it missed", func() bool { return server.Do(t, "HEXISTS", Key, "block/team/search") == int64(1) })
}

// TestUser: the user that the guide in accounting names is enough.
func TestUser(t *testing.T) {
	for _, b := range redistest.Binaries(t) {
		server := redistest.Start(t, b)
		server.Do(t, "ACL", "SETUSER", "airgate", "on", ">geheim", "resetchannels", "~airgate:overlay", "+hgetall", "+hset", "+hdel")
		c := goredis.NewClient(&goredis.Options{Addr: server.Addr, Username: "airgate", Password: "geheim", Protocol: 2, DisableIdentity: true})
		t.Cleanup(func() { _ = c.Close() })
		s := New(c)
		if err := s.Put(t.Context(), revocation()); err != nil {
			t.Errorf("%s: Put = %v", b, err)
		}
		if list, err := s.List(t.Context()); err != nil || len(list) != 1 {
			t.Errorf("%s: List = %v, %v, want the entry", b, list, err)
		}
		if err := s.Delete(t.Context(), revocation().ID()); err != nil {
			t.Errorf("%s: Delete = %v", b, err)
		}
	}
}
