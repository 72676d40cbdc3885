package memory

import (
	"strconv"
	"testing"
	"time"

	"airgate/accounting/quota"
	"airgate/accounting/quota/quotatest"
)

func TestContract(t *testing.T) {
	quotatest.Run(t, func(*testing.T) quota.Store { return New() })
}

func windows(s *Store) (n int) {
	for i := range s.shards {
		n += len(s.shards[i].windows)
	}
	return n
}

// TestExpire fills every shard with windows of one day that may be forgotten
// at noon of the next, then meets new ones before, at and after that.
func TestExpire(t *testing.T) {
	s := New()
	noon := time.Date(2026, 11, 4, 12, 0, 0, 0, time.UTC)
	fill := func(window string, now, expire time.Time) {
		for i := range 2000 {
			if _, err := s.Sync(t.Context(), quota.Sync{
				Key: quota.Key{Account: strconv.Itoa(i), Window: window}, Replica: "a", Seq: 1, Want: 1, Limit: 1, Version: 1, Now: now, Expire: expire,
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill("2026-11-03", noon.AddDate(0, 0, -1), noon)
	fill("total", noon.AddDate(0, 0, -1), time.Time{})
	fill("2026-11-04", noon.Add(-1), noon.AddDate(0, 0, 1))
	if got, want := windows(s), 6000; got != want {
		t.Errorf("windows before Expire = %d, want %d", got, want)
	}
	fill("2026-11-05", noon, noon.AddDate(0, 0, 2))
	if got, want := windows(s), 6000; got != want {
		t.Errorf("windows at Expire = %d, want %d: 2000 dropped, 2000 new", got, want)
	}
	fill("2027-11-05", noon.AddDate(1, 0, 0), noon.AddDate(1, 0, 2))
	if got, want := windows(s), 4000; got != want {
		t.Errorf("windows a year later = %d, want %d: total and the new ones", got, want)
	}
}

func TestSyncAllocs(t *testing.T) {
	s := New()
	c := quota.Sync{Key: quota.Key{Account: "usd|month@UTC", Window: "2026-11"}, Replica: "a", Want: 1, Limit: 1 << 40, Version: 1}
	if n := testing.AllocsPerRun(100, func() {
		c.Seq++
		st, err := s.Sync(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		c.Seen = st.Granted
		c.Spent = st.Granted
	}); n != 0 {
		t.Errorf("Sync on a known account-window allocates %v times, want 0", n)
	}
}

func BenchmarkSync(b *testing.B) {
	s := New()
	c := quota.Sync{Key: quota.Key{Account: "usd|team=search|month@Asia/Tokyo", Window: "2026-11"}, Replica: "a", Want: 1, Limit: 1 << 40, Version: 1}
	ctx := b.Context()
	for b.Loop() {
		c.Seq++
		st, err := s.Sync(ctx, c)
		if err != nil {
			b.Fatal(err)
		}
		c.Seen, c.Spent = st.Granted, st.Granted
	}
}
