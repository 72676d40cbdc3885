// Package overlaytest is the contract of an overlay.Store, as a test.
package overlaytest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"airgate/policy/overlay"
)

// Stores returns two views of one store that is empty, as two processes have
// them.
type Stores func(t *testing.T) (one, other overlay.Store)

// Run runs the contract.
func Run(t *testing.T, stores Stores) {
	t.Run("what one puts another lists", func(t *testing.T) {
		one, other := stores(t)
		want(t, other)
		a, b := block("search"), revocation("k7Qm2xT9aB4c")
		put(t, one, a)
		put(t, other, b)
		want(t, one, a, b)
		want(t, other, a, b)
	})
	t.Run("the last that is put stays", func(t *testing.T) {
		one, other := stores(t)
		a := block("search")
		put(t, one, a)
		a.Removed, a.Reason = true, "it was the other team"
		put(t, other, a)
		want(t, one, a)
	})
	t.Run("a name may hold anything", func(t *testing.T) {
		one, other := stores(t)
		a := block("a/b:c d \"e\" \\ ü \u2028 * ?")
		a.Reason = `{"by": "lee"}`
		put(t, one, a)
		want(t, other, a)
		del(t, other, a.ID())
		want(t, one)
	})
	t.Run("delete takes out one", func(t *testing.T) {
		one, other := stores(t)
		a, b := block("search"), block("ads")
		put(t, one, a)
		put(t, one, b)
		del(t, other, a.ID())
		del(t, other, a.ID())
		want(t, one, b)
	})
	t.Run("those who put at once lose nothing", func(t *testing.T) {
		one, other := stores(t)
		var all []overlay.Entry
		var writers sync.WaitGroup
		for i := range 16 {
			e, s := block(fmt.Sprintf("team-%02d", i)), []overlay.Store{one, other}[i%2]
			all = append(all, e)
			writers.Go(func() { put(t, s, e) })
		}
		writers.Wait()
		want(t, one, all...)
	})
	t.Run("a call that was given up is an error", func(t *testing.T) {
		one, _ := stores(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := one.Put(ctx, block("search")); err == nil {
			t.Error("Put with a context that has ended = nil, want an error")
		}
	})
}

func block(team string) overlay.Entry {
	made := time.Date(2026, time.November, 10, 9, 0, 0, 5e6, time.UTC)
	return overlay.Entry{Kind: overlay.BlockTeam, Name: team, Until: made.Add(time.Hour), By: "kim", Reason: "INC-12", Made: made}
}

func revocation(key string) overlay.Entry {
	e := block(key)
	e.Kind, e.Until = overlay.Revoke, time.Time{}
	return e
}

func put(t *testing.T, s overlay.Store, e overlay.Entry) {
	t.Helper()
	if err := s.Put(t.Context(), e); err != nil {
		t.Errorf("Put(%s) = %v", e.ID(), err)
	}
}

func del(t *testing.T, s overlay.Store, id string) {
	t.Helper()
	if err := s.Delete(t.Context(), id); err != nil {
		t.Errorf("Delete(%s) = %v", id, err)
	}
}

func want(t *testing.T, s overlay.Store, entries ...overlay.Entry) {
	t.Helper()
	list, err := s.List(t.Context())
	if err != nil {
		t.Fatalf("List = %v", err)
	}
	got, want := overlay.Set{}, overlay.Set{}
	for _, e := range list {
		got.Add(e)
	}
	for _, e := range entries {
		want.Add(e)
	}
	if diff := cmp.Diff(want, got); diff != "" || len(list) != len(entries) {
		t.Errorf("List has %d entries (-want +got):\n%s", len(list), diff)
	}
}
