package quotatest

import (
	"context"
	"errors"
	"testing"
	"time"

	"airgate/accounting/quota"
)

// watcher is an Owner that notes what it is asked for.
type watcher struct{ recalled chan quota.Key }

func (w watcher) Recall(k quota.Key) { w.recalled <- k }

func (watcher) Reassert(context.Context, func(quota.Key) bool) error { return nil }

// recalls: who lacks what others have escrowed has them asked for it, by Sync
// and by Permit, and only then.
func recalls(t *testing.T, st quota.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	w := watcher{make(chan quota.Key, 10_000)}
	go func() { ended <- st.Watch(ctx, "a", w) }()

	key := func(name string) quota.Key { return quota.Key{Account: "quotatest/recall/" + name, Window: "w"} }
	send(t, st, quota.Sync{Key: key("escrow"), Replica: "a", Seq: 1, Want: 80, Limit: 100, Version: 1})
	permit(t, st, quota.Permits{Key: key("permits"), Replica: "a", Seq: 1, Want: 8, Limit: 10})
	var seq uint64
	ask := map[string]func(){
		// Nobody is asked where nobody has anything, or nothing is lacking.
		"": func() {
			send(t, st, quota.Sync{Key: key("alone"), Replica: "b", Seq: seq, Want: 10, Need: 10, Limit: 5, Version: 1, Recall: true})
			send(t, st, quota.Sync{Key: key("escrow"), Replica: "c", Seq: seq, Want: 90, Limit: 100, Version: 1, Recall: true})
			send(t, st, quota.Sync{Key: key("escrow"), Replica: "b", Seq: seq, Want: 90, Need: 90, Limit: 100, Version: 1})
			permit(t, st, quota.Permits{Key: key("alone"), Replica: "b", Seq: seq, Want: 11, Limit: 10, Recall: true})
			permit(t, st, quota.Permits{Key: key("permits"), Replica: "b", Seq: seq, Want: 3, Limit: 10})
			permit(t, st, quota.Permits{Key: key("permits"), Replica: "b", Seq: seq + 1, Want: 2, Limit: 10, Recall: true})
		},
		"escrow": func() {
			send(t, st, quota.Sync{Key: key("escrow"), Replica: "b", Seq: seq, Want: 90, Need: 90, Limit: 100, Version: 1, Recall: true})
		},
		"permits": func() {
			permit(t, st, quota.Permits{Key: key("permits"), Replica: "b", Seq: seq, Want: 3, Limit: 10, Recall: true})
		},
	}
	// One that asks does not hear itself, nor who does not listen yet: it asks
	// again.
	for _, name := range []string{"escrow", "permits"} {
		until(t, "a is asked for "+name, func() bool {
			seq += 2
			ask[""]()
			seq += 2
			ask[name]()
			select {
			case k := <-w.recalled:
				if k.Account == key("escrow").Account && name == "permits" {
					return false // asked for before
				}
				if k != key(name) {
					t.Fatalf("Recall(%+v), want %+v", k, key(name))
				}
				return true
			case <-time.After(20 * time.Millisecond):
				return false
			}
		})
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Watch = error %v, want nil once its context has ended", err)
	}
}

// tellsWhoWasLeft: who was left for though it lives hears of it, and not if another was.
func tellsWhoWasLeft(t *testing.T, st quota.Store) {
	const left, asks = "quotatest/left", "quotatest/asks"
	ended := make(chan error, 1)
	recalled := make(chan quota.Key, 10_000)
	go func() { ended <- st.Watch(t.Context(), left, watcher{recalled}) }()
	key := quota.Key{Account: left, Window: "w"}
	send(t, st, quota.Sync{Key: key, Replica: left, Seq: 1, Want: 80, Limit: 100, Version: 1})
	var seq uint64
	watches := func() {
		t.Helper()
		until(t, left+" is asked for what it has", func() bool {
			seq++
			send(t, st, quota.Sync{Key: key, Replica: asks, Seq: seq, Want: 90, Need: 90, Limit: 100, Version: 1, Recall: true})
			select {
			case err := <-ended:
				t.Fatalf("Watch = %v, want it to go on", err)
			case <-recalled:
				return true
			case <-time.After(20 * time.Millisecond):
			}
			return false
		})
	}
	watches()
	if err := st.Leave(t.Context(), "quotatest/another"); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		watches()
	}
	if err := st.Leave(t.Context(), left); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, quota.ErrLeft) {
			t.Errorf("Watch = %v, want %v", err, quota.ErrLeft)
		}
	case <-time.After(30 * time.Second):
		t.Error("Watch does not end though its replica was left for")
	}
}
