package redis

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"airgate/accounting/quota"
)

// breaker lets calls fail at once while the server does not answer, so that
// each request waits for it at most once.
type breaker struct {
	key    string // what a probe writes to
	broken atomic.Pointer[failure]
	wake   chan struct{}
}

// failure is why a breaker is open.
type failure struct{ err error }

// open is the error that calls fail with, nil if they may go on.
func (b *breaker) open() error {
	if f := b.broken.Load(); f != nil {
		return f.err
	}
	return nil
}

// trip opens b until a probe succeeds.
func (s *Store) trip(b *breaker, err error) {
	f := &failure{fmt.Errorf("%w (since an earlier call failed: %w)", quota.ErrUnavailable, err)}
	if !b.broken.CompareAndSwap(nil, f) {
		return
	}
	s.log.Warn("quota store does not answer: calls fail at once until it does", "error", err)
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// probe closes b when the server takes a write again.
func (s *Store) probe(ctx context.Context, b *breaker) {
	const soon, late = 10 * time.Millisecond, time.Second
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.wake:
		}
		for wait := time.Duration(0); ; wait = min(max(2*wait, soon), late) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
			limited, cancel := context.WithTimeout(ctx, s.deadline)
			err := s.client.ZRem(limited, b.key, "probe").Err()
			cancel()
			if err == nil {
				break
			}
		}
		b.broken.Store(nil)
		s.log.Info("quota store answers again")
	}
}

// up is whether all servers answer.
func (s *Store) up() bool {
	var err error
	for _, b := range s.breakers {
		err = errors.Join(err, b.open())
	}
	return err == nil
}
