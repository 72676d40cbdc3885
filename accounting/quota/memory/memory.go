// Package memory is the quota state of one process. It answers without I/O,
// loses nothing, and forgets everything when the process ends: what
// was spent comes back from the journal.
package memory

import (
	"context"
	"fmt"
	"hash/maphash"
	"math"
	"sync"
	"time"

	"airgate/accounting/quota"
)

const shards = 64

// Store is a quota.Store in memory. It allocates only for a key or a replica it
// has not met. Account-windows are dropped as a call on a new one arrives.
type Store struct {
	began  time.Time // its own clock is what has passed since: nobody can set it
	seed   maphash.Seed
	shards [shards]shard

	mu     sync.Mutex
	owners map[string]chan quota.Key // :: replica.incarnation → what others ask of it; closed = it was left for
}

type shard struct {
	mu      sync.Mutex
	windows map[quota.Key]*window // :: account-window → its state
	buckets map[quota.Key]*bucket
	permits map[quota.Key]permits
	expire  time.Time // no window of this shard expires earlier; zero = none expires
}

// window is one account-window. Invariants: settled = Σ spent and
// escrowed = Σ (granted − returned − spent) over its replicas.
type window struct {
	limit    int64
	version  uint64
	settled  int64
	escrowed int64
	expire   time.Time           // by the callers' clock
	keep     time.Duration       // by the store's own
	replicas map[string]*replica // :: replica.incarnation → what it reported
}

type replica struct {
	seq      uint64
	granted  int64
	returned int64
	spent    int64
}

// New returns an empty Store.
func New() *Store {
	s := &Store{began: time.Now(), seed: maphash.MakeSeed(), owners: make(map[string]chan quota.Key)} //nolint:forbidigo // nobody else's clock will do: theirs can be set
	for i := range s.shards {
		sh := &s.shards[i]
		sh.windows, sh.buckets, sh.permits = make(map[quota.Key]*window), make(map[quota.Key]*bucket), make(map[quota.Key]permits)
	}
	return s
}

func (s *Store) shard(k quota.Key) *shard { return &s.shards[maphash.String(s.seed, k.Account)%shards] }

func (s *Store) passed() time.Duration {
	return time.Since(s.began) //nolint:forbidigo // as in New
}

// Sync implements quota.Store. Its one error is a Seq beyond quota.LastSeq.
func (s *Store) Sync(_ context.Context, c quota.Sync) (quota.State, error) {
	if c.Seq > quota.LastSeq {
		return quota.State{}, fmt.Errorf("quota store: sync %s: seq %d is beyond %d", c.Key.Account, c.Seq, uint64(quota.LastSeq))
	}
	st := s.sync(&c)
	if c.Recall && c.Need > 0 && st.Granted-c.Seen < c.Need && st.Escrowed > st.Granted-c.Returned-st.Spent {
		s.recall(c.Replica, c.Key)
	}
	return st, nil
}

func (s *Store) sync(c *quota.Sync) quota.State {
	sh := s.shard(c.Key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	w := sh.windows[c.Key]
	passed := s.passed()
	if w == nil {
		sh.dropExpiredLocked(c.Now, passed)
		w = &window{replicas: make(map[string]*replica)}
		sh.windows[c.Key] = w
	}
	lost := c.Known && w.replicas[c.Replica] == nil && (c.Expire.IsZero() || c.Now.Before(c.Expire))
	r := w.replica(c.Replica)
	if c.Seq >= r.seq {
		w.sync(r, c, lost)
		w.keep = max(w.keep, passed+min(c.Expire.Sub(c.Now), math.MaxInt64-passed))
		sh.noteExpiryLocked(w.expire)
	}
	st := quota.State{Seq: r.seq, Granted: r.granted, Spent: r.spent, Settled: w.settled, Escrowed: w.escrowed, Limit: w.limit, Version: w.version, Lost: lost}
	for name, o := range w.replicas {
		if o.granted > o.returned+o.spent {
			st.Active++
		}
		if c.Detail && o != r {
			st.Shares = append(st.Shares, quota.Share{Replica: name, Granted: o.granted, Returned: o.returned, Spent: o.spent})
		}
	}
	return st
}

// Leave implements quota.Store. The error is always nil.
func (s *Store) Leave(_ context.Context, replica string) error {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		for _, w := range sh.windows {
			if r := w.replicas[replica]; r != nil {
				w.escrowed -= r.granted - r.returned - r.spent
				r.returned = r.granted - r.spent
				r.seq = quota.LastSeq
			}
		}
		sh.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if asked := s.owners[replica]; asked != nil {
		close(asked)
		delete(s.owners, replica)
	}
	return nil
}

func (w *window) replica(name string) *replica {
	r := w.replicas[name]
	if r == nil {
		r = new(replica)
		w.replicas[name] = r
	}
	return r
}

// sync does the steps of quota.Store.Sync on a call that is not stale.
func (w *window) sync(r *replica, c *quota.Sync, lost bool) {
	w.expire = c.Expire
	if c.Version > w.version {
		w.limit, w.version = c.Limit, c.Version
	}
	w.adopt(r, c.Seen, c.Returned, c.Spent)
	for _, o := range c.Others {
		w.adopt(w.replica(o.Replica), o.Granted, o.Returned, o.Spent)
	}
	if c.Seq == r.seq {
		return
	}
	r.seq = c.Seq
	switch c.Mode {
	case quota.Close:
		w.escrowed -= r.granted - r.returned - r.spent
		r.returned = r.granted - r.spent
	case quota.Normal:
		grant := min(c.Want, w.limit-w.settled-w.escrowed)
		if grant > 0 && grant >= c.Need && !lost {
			r.granted += grant
			w.escrowed += grant
		}
	case quota.NoGrants:
	}
}

// adopt takes what is more than was known of a replica.
func (w *window) adopt(r *replica, granted, returned, spent int64) {
	w.escrowed -= r.granted - r.returned - r.spent
	w.settled -= r.spent
	r.returned, r.spent = max(r.returned, returned), max(r.spent, spent)
	r.granted = max(r.granted, granted, r.returned+r.spent)
	w.escrowed += r.granted - r.returned - r.spent
	w.settled += r.spent
}

func (sh *shard) dropExpiredLocked(now time.Time, passed time.Duration) {
	if now.IsZero() || sh.expire.IsZero() || now.Before(sh.expire) {
		return
	}
	sh.expire = time.Time{}
	for k, w := range sh.windows {
		if !w.expire.IsZero() && !now.Before(w.expire) && passed >= w.keep {
			delete(sh.windows, k)
			continue
		}
		sh.noteExpiryLocked(w.expire)
	}
}

func (sh *shard) noteExpiryLocked(t time.Time) {
	if !t.IsZero() && (sh.expire.IsZero() || t.Before(sh.expire)) {
		sh.expire = t
	}
}
