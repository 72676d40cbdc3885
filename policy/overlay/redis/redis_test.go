package redis

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

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

func TestContract(t *testing.T) {
	for _, b := range redistest.Binaries(t) {
		t.Run(b.String(), func(t *testing.T) {
			server := redistest.Start(t, b)
			overlaytest.Run(t, func(t *testing.T) (one, other overlay.Store) {
				server.Do(t, "FLUSHALL")
				return New(client(t, server.Addr)), New(client(t, server.Addr))
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

// TestLostAndDown: FLUSHALL takes nothing away, a server that stands still holds
// nobody up, and who starts meanwhile knows what this machine knew.
func TestLostAndDown(t *testing.T) {
	server := redistest.Start(t, redistest.Valkey(t))
	own := filepath.Join(t.TempDir(), "overlay.jsonl")
	open := func(path string) *overlay.Copy {
		t.Helper()
		c, err := overlay.NewCopy(t.Context(), overlay.CopyConfig{
			Stores: []overlay.Store{New(client(t, server.Addr)), file.New(path)}, Interval: 20 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
			Needed: func(overlay.Entry) bool { return true },
		})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	run := func(c *overlay.Copy) (stop func()) {
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
	one, other := open(own), open(filepath.Join(t.TempDir(), "overlay.jsonl"))
	stopOne, stopOther := run(one), run(other)
	e, err := one.Put(t.Context(), revocation(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	wait := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: not within 10 s", what)
			}
		}
	}
	wait("the other knows it", func() bool { return other.Entries()[e.ID()] == e })
	server.Do(t, "FLUSHALL")
	wait("it is stored again", func() bool { return server.Do(t, "HEXISTS", Key, e.ID()) == int64(1) })
	stopOne()
	stopOther()

	server.Pause()
	defer server.Resume()
	began := time.Now()
	again := open(own)
	if took := time.Since(began); again.Entries()[e.ID()] != e || again.Fault() == nil || took > 3*time.Second {
		t.Errorf("a start while the server stands still took %v and knows %v, fault %v; want the revocation, soon, and the fault", took, again.Entries(), again.Fault())
	}
	blocked := overlay.Entry{Kind: overlay.BlockTeam, Name: "search", Until: time.Now().Add(time.Hour).UTC(), By: "kim", Reason: "INC-12"}
	if _, err := again.Put(t.Context(), blocked, time.Now()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Put while the server stands still = %v, want its deadline", err)
	}
	server.Resume()
	stop := run(again)
	defer stop()
	wait("the server is told what it missed", func() bool { return server.Do(t, "HEXISTS", Key, "block/team/search") == int64(1) })
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
