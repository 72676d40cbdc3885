package redis

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"airgate/accounting/quota"
	"airgate/accounting/quota/redis/redistest"
)

// patient waits long for who has not joined.
var patient = pace{beat: 100 * time.Millisecond, join: 2 * time.Second, gone: 10 * time.Second, forget: time.Minute}

// unready is an owner that takes its time before it tells what it knows.
type unready struct {
	*member
	takes time.Duration
	fails atomic.Int32 // how often it cannot, before that
	told  atomic.Bool
}

func (u *unready) Reassert(ctx context.Context, lost func(quota.Key) bool) error {
	time.Sleep(u.takes)
	if u.fails.Add(-1) >= 0 {
		return errors.New("not now")
	}
	err := u.member.Reassert(ctx, lost)
	u.told.Store(err == nil)
	return err
}

// TestUnreadyOwner: grants wait for whoever lives and has not told all yet,
// though nobody remembers it: one that is slow, one that fails at first, one that
// hears of the loss late.
func TestUnreadyOwner(t *testing.T) {
	for name, c := range map[string]struct {
		owner *unready
		late  time.Duration
		pace  pace
	}{
		"slow":  {&unready{takes: 3 * quick.gone / 2}, 0, quick},
		"fails": {func() *unready { u := new(unready); u.fails.Store(3); return u }(), 0, quick},
		"late":  {&unready{takes: 300 * time.Millisecond}, 500 * time.Millisecond, patient},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t, redistest.Redis(t))
			log := &logged{}
			config := Config{URL: s.URL(), Deadline: 5 * time.Second, Log: log.logger(t)}
			other, err := newStore(t.Context(), config, c.pace)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = other.Close() })
			watch(t, other, "nobody", nobody{})
			if err := other.Whole(t.Context()); err != nil {
				t.Fatal(err)
			}
			k := quota.Key{Account: "a", Window: "w"}
			c.owner.member = &member{name: "owner", store: open(t, config), windows: map[quota.Key]*held{k: {limit: 100}}}
			if done, _ := c.owner.spend(k, 60); !done {
				t.Fatal("nothing is granted")
			}
			s.Do(t, "FLUSHALL")
			time.Sleep(c.late)
			watch(t, c.owner.store, "owner", c.owner)
			asker := &member{name: "asker", store: other, windows: map[quota.Key]*held{k: {limit: 100}}}
			var done, exhausted bool
			if !within30s(func() bool { done, exhausted = asker.spend(k, 60); return done || exhausted }) {
				t.Fatal("the store does not grant again")
			}
			if done || !c.owner.told.Load() {
				t.Errorf("granted = %v, the owner has told = %v; want false, true", done, c.owner.told.Load())
			}
			if log.has("without replicas") {
				t.Error("a replica that lives is taken for gone")
			}
		})
	}
}

// TestLearningAnew: what was told before a server took over does not count on
// that one, and nor does what was told for an earlier learning.
func TestLearningAnew(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, redistest.Redis(t))
	st := open(t, Config{URL: s.URL()})
	key := learningKey(3)
	beat := func() (began string) {
		t.Helper()
		if err := st.beat(t.Context(), "a", 0); err != nil {
			t.Fatal(err)
		}
		return st.fleet.learning[3]
	}
	told := func(began string) int {
		t.Helper()
		n, err := learnedScript.Run(t.Context(), st.client, []string{key}, "a", began).Int()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	began := beat()
	if got := told("1"); began == "" || got != 0 {
		t.Errorf("an empty shard learns since %q; told for an earlier learning = %d, want 0", began, got)
	}
	old := strconv.FormatInt(time.Now().Add(-time.Hour).UnixMilli(), 10)
	s.Do(t, "HSET", key, "id", "@0123456789", "began", old, "d:a", "1")
	if got := told(old); got != 0 {
		t.Errorf("told to another server = %d, want 0", got)
	}
	if began = beat(); began == "" || began == old {
		t.Errorf("the learning of another server goes on here: it began %q", began)
	}
	if got := told(began); got != 1 {
		t.Errorf("told = %d, want 1", got)
	}
	if !within30s(func() bool { return beat() == "" }) {
		t.Error("the shard is never whole")
	}
}

// TestLossStopsShard: who misses one window stops all grants of its shard, and of
// no other.
func TestLossStopsShard(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, redistest.Redis(t))
	st := open(t, Config{URL: s.URL()})
	end := watch(t, st, "nobody", nobody{})
	if err := st.Whole(t.Context()); err != nil {
		t.Fatal(err)
	}
	end() // nobody learns any more
	lost := quota.Key{Account: "lost"}
	if got, err := st.Sync(t.Context(), quota.Sync{Key: lost, Replica: "r", Seq: 2, Known: true}); err != nil || !got.Lost {
		t.Fatalf("Sync = %+v, %v; want it lost", got, err)
	}
	var same, other int
	for i := range 100 {
		k := quota.Key{Account: strconv.Itoa(i)}
		got, err := st.Sync(t.Context(), quota.Sync{Key: k, Replica: "r", Seq: 1, Want: 1, Limit: 1, Version: 1})
		if err != nil {
			t.Fatal(err)
		}
		want := shardOf(k) == shardOf(lost)
		if got.Lost != want || got.Granted != int64(digit(!want)) {
			t.Errorf("Sync on shard %d = %+v, want lost = %v: shard %d is", shardOf(k), got, want, shardOf(lost))
		}
		same, other = same+digit(want), other+digit(!want)
	}
	if same == 0 || other == 0 {
		t.Errorf("%d accounts in that shard, %d in others: nothing is tested", same, other)
	}
}
