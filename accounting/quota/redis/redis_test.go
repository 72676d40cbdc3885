package redis

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"airgate/accounting/quota"
	"airgate/accounting/quota/quotatest"
	"airgate/accounting/quota/redis/redistest"
)

// quick is ten times the usual pace.
var quick = pace{beat: 100 * time.Millisecond, join: 300 * time.Millisecond, gone: time.Second, forget: 6 * time.Second}

// open opens a Store at a quick pace. Unless c says otherwise, its calls may
// take long: the machine that tests run on may be busy.
func open(t *testing.T, c Config) *Store {
	t.Helper()
	if c.Deadline == 0 {
		c.Deadline = 5 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	s, err := newStore(t.Context(), c, quick)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !errors.Is(err, goredis.ErrClosed) {
			t.Errorf("Close = %v", err)
		}
	})
	return s
}

// nobody is a replica that has nothing.
type nobody struct{}

func (nobody) Recall(quota.Key) {}

func (nobody) Reassert(context.Context, func(quota.Key) bool) error { return nil }

// whole has a replica live that has nothing, so that the store grants.
func whole(t *testing.T, c Config) {
	t.Helper()
	s := open(t, c)
	watch(t, s, "nobody", nobody{})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := s.Whole(ctx); err != nil {
		t.Fatal(err)
	}
}

// watch runs Watch until the test or the returned function ends it.
func watch(t *testing.T, s *Store, replica string, o quota.Owner) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := s.Watch(ctx, replica, o); err != nil {
			t.Errorf("Watch = %v", err)
		}
	}()
	end = func() { cancel(); <-ended }
	t.Cleanup(end)
	return end
}

func contract(t *testing.T, c Config) {
	t.Helper()
	whole(t, c)
	quotatest.Run(t, func(t *testing.T) quota.Store { return open(t, c) })
}

func TestContract(t *testing.T) {
	for _, b := range redistest.Binaries(t) {
		t.Run(b.String(), func(t *testing.T) {
			t.Parallel()
			contract(t, Config{URL: redistest.Start(t, b).URL()})
		})
	}
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		nodes := redistest.Cluster(t, redistest.Valkey(t))
		contract(t, Config{URL: "redis+cluster://" + nodes[0].Addr + "," + nodes[1].Addr})
	})
	t.Run("sentinel", func(t *testing.T) {
		t.Parallel()
		master := redistest.Start(t, redistest.Redis(t))
		redistest.Replica(t, master)
		contract(t, Config{URL: "redis+sentinel://" + redistest.Sentinel(t, master).Addr + "/main"})
	})
	t.Run("without INFO", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t, redistest.Redis(t))
		contract(t, hide(t, server.Addr, server))
	})
}
