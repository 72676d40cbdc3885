package memory

import (
	"strconv"
	"testing"
	"testing/synctest"
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

// fill opens a window of each of 2,000 accounts: some in every shard.
func fill(t *testing.T, s *Store, window string, now, expire time.Time) {
	t.Helper()
	for i := range 2000 {
		if _, err := s.Sync(t.Context(), quota.Sync{
			Key: quota.Key{Account: strconv.Itoa(i), Window: window}, Replica: "a", Seq: 1, Want: 1, Limit: 1, Version: 1, Now: now, Expire: expire,
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestExpire: windows of one day that may be forgotten at noon of the next are
// there before and gone at that time.
func TestExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New()
		noon := time.Now().AddDate(0, 0, 1)
		fill(t, s, "yesterday", time.Now(), noon)
		fill(t, s, "total", time.Now(), time.Time{})
		time.Sleep(24*time.Hour - time.Nanosecond)
		fill(t, s, "today", time.Now(), noon.AddDate(0, 0, 1))
		if got, want := windows(s), 6000; got != want {
			t.Errorf("windows before Expire = %d, want %d", got, want)
		}
		time.Sleep(time.Nanosecond)
		fill(t, s, "tomorrow", time.Now(), noon.AddDate(0, 0, 2))
		if got, want := windows(s), 6000; got != want {
			t.Errorf("windows at Expire = %d, want %d: 2000 dropped, 2000 new", got, want)
		}
		time.Sleep(365 * 24 * time.Hour)
		fill(t, s, "next year", time.Now(), time.Now().AddDate(0, 0, 2))
		if got, want := windows(s), 4000; got != want {
			t.Errorf("windows a year later = %d, want %d: total and the new ones", got, want)
		}
	})
}

// TestClockJumps: a caller's clock that is wrong makes nothing be forgotten.
func TestClockJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New()
		now := time.Now()
		fill(t, s, "today", now, now.AddDate(0, 0, 1))
		fill(t, s, "next year", now.AddDate(1, 0, 0), now.AddDate(1, 0, 1)) // the clock is set …
		time.Sleep(time.Hour)
		fill(t, s, "later", now.AddDate(2, 0, 0), now.AddDate(2, 0, 1))
		fill(t, s, "tomorrow", now, now.AddDate(0, 0, 2)) // … and right again
		if got, want := windows(s), 8000; got != want {
			t.Errorf("windows = %d, want %d: none is over", got, want)
		}
	})
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
