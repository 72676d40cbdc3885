package quotatest

import (
	"context"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"airgate/accounting/quota"
)

func permit(t tester, st quota.Store, p quota.Permits) quota.Permitted {
	t.Helper()
	if p.TTL == 0 {
		p.TTL = time.Hour
	}
	got, err := st.Permit(context.Background(), p)
	if err != nil {
		t.Fatalf("Permit(%+v) = error %v", p, err)
	}
	return got
}

// permits are calls and answers in order, on one limit each.
func permits(t *testing.T, st quota.Store) {
	type step struct {
		why  string
		call quota.Permits
		want quota.Permitted
	}
	for name, steps := range map[string][]step{
		"as many as are wanted, at most what others leave": {
			{"wanted", quota.Permits{Replica: "a", Seq: 1, Want: 6, Limit: 10}, quota.Permitted{Seq: 1, Mine: 6}},
			{"left", quota.Permits{Replica: "b", Seq: 1, Want: 6, Limit: 10}, quota.Permitted{Seq: 1, Mine: 4, Others: 6}},
			{"none", quota.Permits{Replica: "c", Seq: 1, Want: 6, Limit: 10}, quota.Permitted{Seq: 1, Others: 10}},
		},
		"who asks for less gives the rest back": {
			{"all", quota.Permits{Replica: "a", Seq: 1, Want: 10, Limit: 10}, quota.Permitted{Seq: 1, Mine: 10}},
			{"three", quota.Permits{Replica: "a", Seq: 2, InUse: 2, Want: 3, Limit: 10}, quota.Permitted{Seq: 2, Mine: 3}},
			{"seven are there", quota.Permits{Replica: "b", Seq: 1, Want: 10, Limit: 10}, quota.Permitted{Seq: 1, Mine: 7, Others: 3}},
		},
		"what is in use stays, even beyond the limit": {
			{"all", quota.Permits{Replica: "a", Seq: 1, Want: 10, Limit: 10}, quota.Permitted{Seq: 1, Mine: 10}},
			{"the limit is lowered", quota.Permits{Replica: "a", Seq: 2, InUse: 8, Want: 10, Limit: 5}, quota.Permitted{Seq: 2, Mine: 8}},
			{"nothing for others", quota.Permits{Replica: "b", Seq: 1, Want: 2, Limit: 5}, quota.Permitted{Seq: 1, Others: 8}},
			{"but what they use", quota.Permits{Replica: "b", Seq: 2, InUse: 1, Want: 2, Limit: 5}, quota.Permitted{Seq: 2, Mine: 1, Others: 8}},
		},
		"a repeat and a stale duplicate change nothing": {
			{"two", quota.Permits{Replica: "a", Seq: 2, Want: 2, Limit: 10}, quota.Permitted{Seq: 2, Mine: 2}},
			{"repeat", quota.Permits{Replica: "a", Seq: 2, Want: 9, Limit: 10}, quota.Permitted{Seq: 2, Mine: 2}},
			{"stale", quota.Permits{Replica: "a", Seq: 1, InUse: 9, Want: 9, Limit: 10}, quota.Permitted{Seq: 2, Mine: 2}},
			{"two are taken", quota.Permits{Replica: "b", Seq: 1, Want: 10, Limit: 10}, quota.Permitted{Seq: 1, Mine: 8, Others: 2}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			for i, s := range steps {
				s.call.Key = quota.Key{Account: t.Name()}
				if got := permit(t, st, s.call); got != s.want {
					t.Fatalf("step %d (%s): Permit(%+v) = %+v, want %+v", i+1, s.why, s.call, got, s.want)
				}
			}
		})
	}
}

func permitsLikeModel(t *testing.T, st quota.Store) {
	var n int
	rapid.Check(t, func(t *rapid.T) {
		n++
		key := quota.Key{Account: "quotatest/permits/" + strconv.Itoa(n)}
		type holder struct {
			seq uint64
			n   int64
		}
		holders := make(map[string]holder)
		for range rapid.IntRange(1, 30).Draw(t, "calls") {
			inUse := rapid.Int64Range(0, 5).Draw(t, "in use")
			p := quota.Permits{
				Key:     key,
				Replica: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "replica"),
				Seq:     rapid.Uint64Range(1, 20).Draw(t, "seq"),
				InUse:   inUse,
				Want:    inUse + rapid.Int64Range(0, 5).Draw(t, "more"),
				Limit:   rapid.Int64Range(0, 10).Draw(t, "limit"),
			}
			var others int64
			for name, h := range holders {
				if name != p.Replica {
					others += h.n
				}
			}
			h := holders[p.Replica]
			if p.Seq > h.seq {
				h = holder{p.Seq, max(p.InUse, min(p.Want, p.Limit-others))}
				holders[p.Replica] = h
			}
			if got, want := permit(t, st, p), (quota.Permitted{Seq: h.seq, Mine: h.n, Others: others}); got != want {
				t.Fatalf("Permit(%+v) = %+v, want %+v", p, got, want)
			}
		}
	})
}

// permitsExpire: permits that are not asked for again are free after TTL, not
// before, and those that are asked for again stay.
func permitsExpire(t *testing.T, st quota.Store) {
	const ttl = 100 * time.Millisecond
	key := quota.Key{Account: "quotatest/expiry"}
	start := time.Now()
	permit(t, st, quota.Permits{Key: key, Replica: "lost", Seq: 1, Want: 6, Limit: 10, TTL: ttl})
	permit(t, st, quota.Permits{Key: key, Replica: "stays", Seq: 1, Want: 4, Limit: 10, TTL: ttl})
	permit(t, st, quota.Permits{Key: key, Replica: "stays", Seq: 2, InUse: 4, Want: 4, Limit: 10})
	p := quota.Permits{Key: key, Replica: "b", Want: 10, Limit: 10}
	until(t, "permits that nobody asks for expire", func() bool {
		p.Seq++
		got := permit(t, st, p)
		if passed := time.Since(start); got.Mine > 0 && passed < ttl {
			t.Fatalf("Permit = %+v after %s, want none before %s", got, passed, ttl)
		}
		return got == quota.Permitted{Seq: p.Seq, Mine: 6, Others: 4}
	})
	back := quota.Permits{Key: key, Replica: "lost", Seq: 2, InUse: 5, Want: 6, Limit: 10}
	if got, want := permit(t, st, back), (quota.Permitted{Seq: 2, Mine: 5, Others: 10}); got != want {
		t.Errorf("Permit(%+v) = %+v, want %+v: what is in use is told, and stays", back, got, want)
	}
}
