package quotatest

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"airgate/accounting/quota"
)

// hour is much more than flows back while a test runs, in microseconds.
const hour = int64(time.Hour / time.Microsecond)

func take(t tester, st quota.Store, c quota.Take) quota.Taken {
	t.Helper()
	got, err := st.Take(context.Background(), c)
	if err != nil {
		t.Fatalf("Take(%+v) = error %v", c, err)
	}
	return got
}

// sameTaken compares answers of a bucket that has been in use since start: what
// it holds flows back as time passes, and who wants all that is there gets it.
func sameTaken(got, want quota.Taken, start time.Time) bool {
	passed := time.Since(start).Microseconds() + 1
	wait := func(w quota.Taken) int64 { return w.Wait.Microseconds() }
	return got.Seq == want.Seq && got.Taken >= want.Taken && got.Taken <= want.Taken+passed &&
		got.Level <= want.Level && got.Level >= want.Level-passed &&
		wait(got) <= wait(want) && wait(got) >= wait(want)-passed
}

// takes are calls and answers in order, in hours on one bucket each.
func takes(t *testing.T, st quota.Store) {
	type step struct {
		why  string
		call quota.Take
		want quota.Taken
	}
	for name, steps := range map[string][]step{
		"as much as is wanted, or as is there, if that is what is needed": {
			{"wanted", quota.Take{Replica: "a", Seq: 1, Want: 6, Need: 1, Capacity: 10}, quota.Taken{Seq: 1, Taken: 6, Level: 6}},
			{"too little", quota.Take{Replica: "b", Seq: 1, Want: 6, Need: 5, Capacity: 10}, quota.Taken{Seq: 1, Level: 6, Wait: 1 * time.Hour}},
			{"there", quota.Take{Replica: "b", Seq: 2, Want: 6, Need: 3, Capacity: 10}, quota.Taken{Seq: 2, Taken: 4, Level: 10}},
			{"nothing is there", quota.Take{Replica: "b", Seq: 3, Seen: 4, Want: 6, Need: 3, Capacity: 10}, quota.Taken{Seq: 3, Taken: 4, Level: 10, Wait: 3 * time.Hour}},
			{"nothing needed", quota.Take{Replica: "b", Seq: 4, Seen: 4, Want: 6, Capacity: 10}, quota.Taken{Seq: 4, Taken: 4, Level: 10}},
			{"some of it comes back", quota.Take{Replica: "a", Seq: 2, Seen: 6, Returned: 2, Capacity: 10}, quota.Taken{Seq: 2, Taken: 6, Level: 8}},
			{"what is there, nothing needed", quota.Take{Replica: "b", Seq: 5, Seen: 4, Want: 6, Capacity: 10}, quota.Taken{Seq: 5, Taken: 6, Level: 10}},
		},
		"a repeat is answered alike and takes nothing": {
			{"first", quota.Take{Replica: "a", Seq: 1, Want: 6, Need: 1, Capacity: 10}, quota.Taken{Seq: 1, Taken: 6, Level: 6}},
			{"repeat", quota.Take{Replica: "a", Seq: 1, Want: 6, Need: 1, Capacity: 10}, quota.Taken{Seq: 1, Taken: 6, Level: 6}},
		},
		"a stale duplicate changes nothing": {
			{"seq 2", quota.Take{Replica: "a", Seq: 2, Want: 6, Capacity: 10}, quota.Taken{Seq: 2, Taken: 6, Level: 6}},
			{"seq 1", quota.Take{Replica: "a", Seq: 1, Seen: 8, Returned: 3, Want: 2, Capacity: 10}, quota.Taken{Seq: 2, Taken: 6, Level: 6}},
		},
		"what comes back is there again": {
			{"taken", quota.Take{Replica: "a", Seq: 1, Want: 10, Capacity: 10}, quota.Taken{Seq: 1, Taken: 10, Level: 10}},
			{"returned", quota.Take{Replica: "a", Seq: 2, Seen: 10, Returned: 4, Capacity: 10}, quota.Taken{Seq: 2, Taken: 10, Level: 6}},
			{"once", quota.Take{Replica: "a", Seq: 3, Seen: 10, Returned: 4, Capacity: 10}, quota.Taken{Seq: 3, Taken: 10, Level: 6}},
			{"for another", quota.Take{Replica: "b", Seq: 1, Want: 5, Need: 3, Capacity: 10}, quota.Taken{Seq: 1, Taken: 4, Level: 10}},
		},
		"nothing is refunded that has flowed back": {
			{"taken", quota.Take{Replica: "a", Seq: 1, Want: 2, Capacity: 10}, quota.Taken{Seq: 1, Taken: 2, Level: 2}},
			{"more returned than the bucket lacks", quota.Take{Replica: "a", Seq: 2, Seen: 9, Returned: 9, Capacity: 10}, quota.Taken{Seq: 2, Taken: 9}},
			{"more than is in use of it", quota.Take{Replica: "a", Seq: 3, Seen: 9, Returned: 20, Capacity: 10}, quota.Taken{Seq: 3, Taken: 9}},
			{"it is full, no more", quota.Take{Replica: "b", Seq: 1, Want: 11, Need: 10, Capacity: 10}, quota.Taken{Seq: 1, Taken: 10, Level: 10}},
			{"and now empty", quota.Take{Replica: "c", Seq: 1, Want: 1, Need: 1, Capacity: 10}, quota.Taken{Seq: 1, Level: 10, Wait: 1 * time.Hour}},
		},
		"what a replica took by its own word is debt": {
			{"taken", quota.Take{Replica: "a", Seq: 1, Want: 10, Capacity: 10}, quota.Taken{Seq: 1, Taken: 10, Level: 10}},
			{"seen", quota.Take{Replica: "a", Seq: 2, Seen: 17, Capacity: 10}, quota.Taken{Seq: 2, Taken: 17, Level: 17}},
			{"others wait for it", quota.Take{Replica: "b", Seq: 1, Need: 1, Capacity: 10}, quota.Taken{Seq: 1, Level: 17, Wait: 8 * time.Hour}},
		},
		"who the bucket does not know begins there": {
			{"unknown", quota.Take{Replica: "a", Seq: 7, Seen: 500, Returned: 90, Want: 2, Capacity: 10}, quota.Taken{Seq: 7, Taken: 502, Level: 2}},
			{"known", quota.Take{Replica: "a", Seq: 8, Seen: 503, Returned: 91, Want: 2, Capacity: 10}, quota.Taken{Seq: 8, Taken: 505, Level: 4}},
		},
		"who needs more than the bucket holds waits until it is full": {
			{"full", quota.Take{Replica: "a", Seq: 1, Need: 25, Capacity: 10}, quota.Taken{Seq: 1, Taken: 25, Level: 25}},
			{"not full", quota.Take{Replica: "b", Seq: 1, Need: 12, Capacity: 10}, quota.Taken{Seq: 1, Level: 25, Wait: 25 * time.Hour}},
		},
		"a smaller bucket": {
			{"taken of 10", quota.Take{Replica: "a", Seq: 1, Want: 10, Capacity: 10}, quota.Taken{Seq: 1, Taken: 10, Level: 10}},
			{"now it holds 4", quota.Take{Replica: "a", Seq: 2, Seen: 10, Need: 1, Capacity: 4}, quota.Taken{Seq: 2, Taken: 10, Level: 10, Wait: 7 * time.Hour}},
		},
		"a repeat does not wait": {
			{"taken", quota.Take{Replica: "a", Seq: 1, Want: 10, Capacity: 10}, quota.Taken{Seq: 1, Taken: 10, Level: 10}},
			{"repeat", quota.Take{Replica: "a", Seq: 1, Need: 10, Capacity: 10}, quota.Taken{Seq: 1, Taken: 10, Level: 10}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			for i, s := range steps {
				c, want := inHours(s.call), s.want
				c.Key = quota.Key{Account: t.Name()}
				want.Taken, want.Level = want.Taken*hour, want.Level*hour
				if got := take(t, st, c); !sameTaken(got, want, start) {
					t.Fatalf("step %d (%s): Take(%+v) = %+v, want %+v", i+1, s.why, c, got, want)
				}
			}
		})
	}
}

func inHours(c quota.Take) quota.Take {
	for _, n := range []*int64{&c.Seen, &c.Returned, &c.Want, &c.Need, &c.Capacity} {
		*n *= hour
	}
	return c
}

// modelBucket is the contract of Take where no time passes, in hours.
type modelBucket struct {
	level    int64
	replicas map[string]*modelTaker
}

type modelTaker struct {
	seq             uint64
	taken, returned int64
}

func (m *modelBucket) take(c quota.Take) quota.Taken {
	r := m.replicas[c.Replica]
	if r == nil {
		r = &modelTaker{taken: c.Seen, returned: c.Returned}
		m.replicas[c.Replica] = r
	}
	answer := func(wait int64) quota.Taken {
		return quota.Taken{Seq: r.seq, Taken: r.taken * hour, Level: m.level * hour, Wait: time.Duration(wait) * time.Hour}
	}
	if c.Seq < r.seq {
		return answer(0)
	}
	m.level += max(0, c.Seen-r.taken)
	r.taken = max(r.taken, c.Seen)
	m.level = max(0, m.level-max(0, c.Returned-r.returned))
	r.returned = max(r.returned, c.Returned)
	if c.Seq == r.seq {
		return answer(0)
	}
	r.seq = c.Seq
	if wait := m.level - max(0, c.Capacity-c.Need); c.Need > 0 && wait > 0 {
		return answer(wait)
	}
	n := max(c.Need, min(c.Want, c.Capacity-m.level))
	r.taken += n
	m.level += n
	return answer(0)
}

func takesLikeModel(t *testing.T, st quota.Store) {
	var n int
	rapid.Check(t, func(t *rapid.T) {
		n++
		start := time.Now()
		key := quota.Key{Account: "quotatest/bucket/" + strconv.Itoa(n)}
		m := modelBucket{replicas: make(map[string]*modelTaker)}
		for range rapid.IntRange(1, 30).Draw(t, "calls") {
			c := quota.Take{
				Replica:  rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "replica"),
				Seq:      rapid.Uint64Range(1, 10).Draw(t, "seq"),
				Seen:     rapid.Int64Range(0, 30).Draw(t, "seen"),
				Returned: rapid.Int64Range(0, 20).Draw(t, "returned"),
				Want:     rapid.Int64Range(0, 8).Draw(t, "want"),
				Need:     rapid.Int64Range(0, 8).Draw(t, "need"),
				Capacity: rapid.Int64Range(1, 20).Draw(t, "capacity"),
			}
			want := m.take(c)
			c = inHours(c)
			c.Key = key
			if got := take(t, st, c); !sameTaken(got, want, start) {
				t.Fatalf("Take(%+v) = %+v, want %+v", c, got, want)
			}
		}
	})
}

// takesWithinBound lets replicas take all they can for a while, over a network
// that loses answers and repeats calls. What they may have used at any time is
// at most the bucket and what has flowed in.
func takesWithinBound(t *testing.T, st quota.Store) {
	const capacity, chunk = 20_000, 3_000 // microseconds
	key := quota.Key{Account: "quotatest/bound"}
	start := time.Now()
	var mu sync.Mutex
	used := make(map[string]int64)
	bound := func(name string, n int64) {
		mu.Lock()
		defer mu.Unlock()
		used[name] = n
		var sum int64
		for _, n := range used {
			sum += n
		}
		if most := capacity + time.Since(start).Microseconds() + 1; sum > most {
			t.Errorf("replicas have taken %d, want at most %d", sum, most)
		}
	}
	var wg sync.WaitGroup
	for i := range 4 {
		name := strconv.Itoa(i)
		wg.Go(func() {
			c := quota.Take{Key: key, Replica: name, Want: 2 * chunk, Need: chunk, Capacity: capacity}
			var old [8]quota.Take
			for round := 0; time.Since(start) < 200*time.Millisecond; round++ {
				c.Seq++
				old[round%len(old)] = c
				got, err := st.Take(context.Background(), c)
				if err != nil {
					t.Errorf("Take = error %v", err)
					return
				}
				switch round % 7 {
				case 0: // the answer is lost
					continue
				case 1: // and this call comes twice
					if got, err = st.Take(context.Background(), c); err != nil {
						t.Errorf("Take = error %v", err)
						return
					}
				case 2: // an old one comes late
					if round < len(old) {
						continue
					}
					if _, err := st.Take(context.Background(), old[(round+5)%len(old)]); err != nil {
						t.Errorf("Take = error %v", err)
						return
					}
				case 3:
					c.Returned += max(0, got.Taken-c.Seen) / 2
				}
				c.Seen = got.Taken
				bound(name, c.Seen-c.Returned)
			}
		})
	}
	wg.Wait()
	var sum int64
	for _, n := range used {
		sum += n
	}
	if sum < capacity {
		t.Errorf("replicas have taken %d, want at least the bucket, %d", sum, capacity)
	}
}
