package memory

import (
	"context"
	"time"

	"airgate/accounting/quota"
)

// bucket is one rate. tat is when it is full, in microseconds of the store's
// clock.
type bucket struct {
	tat      int64
	replicas map[string]*taker // :: replica.incarnation → what it took
}

type taker struct {
	seq      uint64
	taken    int64
	returned int64
}

// Take implements quota.Store. The error is always nil.
func (s *Store) Take(_ context.Context, c quota.Take) (quota.Taken, error) {
	sh := s.shard(c.Key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := s.passed().Microseconds()
	b := sh.buckets[c.Key]
	if b == nil {
		b = &bucket{replicas: make(map[string]*taker)}
		sh.buckets[c.Key] = b
	}
	r := b.replicas[c.Replica]
	if r == nil {
		r = &taker{taken: c.Seen, returned: c.Returned}
		b.replicas[c.Replica] = r
	}
	b.tat = max(b.tat, now)
	var wait int64
	if c.Seq >= r.seq {
		wait = b.take(r, &c, now)
	}
	return quota.Taken{Seq: r.seq, Taken: r.taken, Level: b.tat - now, Wait: time.Duration(wait) * time.Microsecond}, nil
}

func (b *bucket) take(r *taker, c *quota.Take, now int64) (wait int64) {
	if debt := c.Seen - r.taken; debt > 0 {
		r.taken += debt
		b.tat += debt
	}
	if d := c.Returned - r.returned; d > 0 {
		r.returned += d
		b.tat = max(now, b.tat-d)
	}
	if c.Seq == r.seq {
		return 0
	}
	r.seq = c.Seq
	// More than the bucket holds can be had once it is full.
	if wait := b.tat - now - max(0, c.Capacity-c.Need); c.Need > 0 && wait > 0 {
		return wait
	}
	n := max(c.Need, min(c.Want, c.Capacity-(b.tat-now)))
	r.taken += n
	b.tat += n
	return 0
}

// permits is who has how many of one limit.
type permits map[string]*permitted // :: replica.incarnation

type permitted struct {
	seq    uint64
	n      int64
	expire time.Duration // of the store's clock
}

// Permit implements quota.Store. The error is always nil.
func (s *Store) Permit(_ context.Context, c quota.Permits) (quota.Permitted, error) {
	p := s.permit(&c)
	if c.Recall && p.Mine < c.Want && p.Others > 0 {
		s.recall(c.Replica, c.Key)
	}
	return p, nil
}

func (s *Store) permit(c *quota.Permits) quota.Permitted {
	sh := s.shard(c.Key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	all := sh.permits[c.Key]
	if all == nil {
		all = make(permits)
		sh.permits[c.Key] = all
	}
	passed := s.passed()
	var others int64
	for name, o := range all {
		if name != c.Replica && o.expire > passed {
			others += o.n
		}
	}
	mine := all[c.Replica]
	if mine == nil {
		mine = new(permitted)
		all[c.Replica] = mine
	}
	if c.Seq > mine.seq {
		mine.seq = c.Seq
		mine.n = max(c.InUse, min(c.Want, c.Limit-others))
		mine.expire = passed + c.TTL
	}
	return quota.Permitted{Seq: mine.seq, Mine: mine.n, Others: others}
}

// Watch implements quota.Store: nothing is ever lost here, and who was left for before
// it watches does not hear of it.
func (s *Store) Watch(ctx context.Context, replica string, o quota.Owner) error {
	asked := make(chan quota.Key, 256)
	s.mu.Lock()
	s.owners[replica] = asked
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.owners, replica)
		s.mu.Unlock()
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case k, ok := <-asked:
			if !ok {
				return quota.ErrLeft
			}
			o.Recall(k)
		}
	}
}

// recall asks all replicas but one. Who has not heard the last ones yet misses
// this one: what is idle comes back without it too, later.
func (s *Store) recall(from string, k quota.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, asked := range s.owners {
		if name == from {
			continue
		}
		select {
		case asked <- k:
		default:
		}
	}
}
