package redis

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"airgate/accounting/quota"
	"airgate/accounting/quota/redis/redistest"
)

// TestSurvey: what a replica that died had is told, and when it was last heard of, for
// as long as it has not left; not what others have in one sum.
func TestSurvey(t *testing.T) {
	run := func(t *testing.T, c Config) {
		t.Parallel()
		whole(t, c)
		living, dead := open(t, c), open(t, c)
		watch(t, living, "living.1", nobody{})
		watch(t, dead, "dead.1", nobody{})
		const windows = 40
		key := func(i int) quota.Key {
			return quota.Key{Account: fmt.Sprintf("usd|each=key:k%d|month@UTC", i), Window: "2026-11"}
		}
		for i := range windows {
			for _, s := range []quota.Sync{
				{Replica: "living.1", Seq: 1, Want: 5},
				{Replica: "dead.1", Seq: 1, Want: 100},
				{Replica: "dead.1", Seq: 2, Seen: 100, Returned: 10, Spent: 30, Mode: quota.NoGrants},
				{Replica: "closed.1", Seq: 1, Seen: 7, Spent: 7, Mode: quota.Close, Others: []quota.Share{{Replica: quota.Folded, Granted: 3, Spent: 3, Closed: 1}}},
			} {
				s.Key, s.Limit, s.Version = key(i), 1000, 1
				if _, err := living.Sync(t.Context(), s); err != nil {
					t.Fatal(err)
				}
			}
		}
		survey := func() (quota.Survey, map[quota.Key]map[string]quota.Share) {
			t.Helper()
			all, err := living.Survey(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			has := make(map[quota.Key]map[string]quota.Share)
			for _, h := range all.Holdings {
				if has[h.Key] == nil {
					has[h.Key] = make(map[string]quota.Share)
				}
				if (h.Closed > 0) != (h.Replica == "closed.1" || h.Replica == "dead.1" && h.Granted == h.Returned+h.Spent) {
					t.Errorf("%+v: closed at the wrong time", h)
				}
				h.Closed = 0
				has[h.Key][h.Replica] = h.Share
			}
			return all, has
		}
		expect := func(want ...quota.Share) {
			t.Helper()
			all, has := survey()
			if len(has) != windows || len(all.Holdings) != windows*len(want) {
				t.Errorf("%d account-windows and %d holdings, want %d and %d", len(has), len(all.Holdings), windows, windows*len(want))
			}
			for i := range windows {
				for _, w := range want {
					if got := has[key(i)][w.Replica]; got != w {
						t.Errorf("account-window %d: %+v, want %+v", i, got, w)
					}
				}
			}
		}
		closed, mine := quota.Share{Replica: "closed.1", Granted: 7, Spent: 7}, quota.Share{Replica: "living.1", Granted: 5}
		expect(closed, mine, quota.Share{Replica: "dead.1", Granted: 100, Returned: 10, Spent: 30})

		// It dies without a word. When it was last heard of is known after the others
		// have forgotten it, too.
		if all, _ := survey(); all.Heard["dead.1"].IsZero() || all.Heard["living.1"].IsZero() {
			t.Errorf("heard %v, want both", all.Heard)
		}
		_ = dead.client.Close()
		before, _ := survey()
		forgotten := within30s(func() bool {
			for i := range shards {
				there, err := living.client.HExists(t.Context(), fleetKey(i), "dead.1").Result()
				if err != nil || there {
					return false
				}
			}
			return true
		})
		after, _ := survey()
		if last := after.Heard["dead.1"]; !forgotten || last.IsZero() || last.After(before.Now.Add(time.Millisecond)) || after.Now.Sub(last) < quick.forget/2 {
			t.Errorf("at %v it was last heard of at %v; it died at %v, and is forgotten: %v", after.Now, last, before.Now, forgotten)
		}
		if gap := after.Now.Sub(after.Heard["living.1"]); gap > quick.gone {
			t.Errorf("who lives was last heard of %v ago", gap)
		}

		if err := living.Leave(t.Context(), "dead.1"); err != nil {
			t.Fatal(err)
		}
		expect(closed, mine, quota.Share{Replica: "dead.1", Granted: 100, Returned: 70, Spent: 30})
		if all, _ := survey(); !all.Heard["dead.1"].IsZero() {
			t.Errorf("after it has left it was heard of at %v", all.Heard["dead.1"])
		}
	}
	t.Run("redis", func(t *testing.T) { run(t, Config{URL: redistest.Start(t, redistest.Redis(t)).URL()}) })
	t.Run("cluster", func(t *testing.T) {
		nodes := redistest.Cluster(t, redistest.Valkey(t))
		run(t, Config{URL: "redis+cluster://" + nodes[0].Addr + "," + nodes[1].Addr})
	})
}

// TestSurveyAfterLoss: who lives is not taken for silent because the store has lost that.
func TestSurveyAfterLoss(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, redistest.Redis(t))
	c := Config{URL: s.URL()}
	whole(t, c)
	st := open(t, c)
	if all, err := st.Survey(t.Context()); err != nil || all.Heard["nobody"].IsZero() {
		t.Errorf("Survey = %+v, %v; want that nobody lives", all, err)
	}
	s.Do(t, "FLUSHALL")
	if all, err := st.Survey(t.Context()); !errors.Is(err, errNotWhole) {
		t.Errorf("Survey after a loss = %+v, %v; want %v", all, err, errNotWhole)
	}
	var all quota.Survey
	var err error
	if !within30s(func() bool { all, err = st.Survey(t.Context()); return err == nil }) || all.Heard["nobody"].IsZero() {
		t.Errorf("Survey = %+v, %v; want that nobody lives", all, err)
	}
}

// TestSurveyFails: half of a survey is none.
func TestSurveyFails(t *testing.T) {
	t.Parallel()
	c := Config{URL: redistest.Start(t, redistest.Redis(t)).URL()}
	whole(t, c)
	st := open(t, c)
	k := quota.Key{Account: "a", Window: "w"}
	if _, err := st.Sync(t.Context(), quota.Sync{Key: k, Replica: "r", Seq: 1, Want: 1, Limit: 1, Version: 1}); err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := st.Survey(gone); err == nil {
		t.Error("a survey that nobody answers is no error")
	}
	if err := st.client.HSet(t.Context(), windowKey(shardOf(k), keyName(k)), "r:r", "1 0").Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Survey(t.Context()); err == nil {
		t.Error("a survey of a word that cannot be read is no error")
	}
}
