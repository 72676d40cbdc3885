// Package redis keeps the overlay in Redis or Valkey: one hash, whose fields are
// the ids of the entries. It answers: how do airgates on many machines share it.
//
// Every command can be sent twice without harm, and what a server loses every
// airgate puts again: nothing here needs more of a server than that it answers
// mostly.
package redis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	goredis "github.com/redis/go-redis/v9"

	"airgate/policy/overlay"
)

// Key is the hash.
const Key = "airgate:overlay"

// Client is what a Store needs of a client of go-redis.
type Client interface {
	HGetAll(ctx context.Context, key string) *goredis.MapStringStringCmd
	HSet(ctx context.Context, key string, values ...any) *goredis.IntCmd
	HDel(ctx context.Context, key string, fields ...string) *goredis.IntCmd
}

// Store is an overlay.Store. It is as safe for concurrent use as its client,
// which stays the caller's.
type Store struct{ client Client }

// New returns a Store over a client.
func New(c Client) *Store { return &Store{client: c} }

// List reads all fields.
func (s *Store) List(ctx context.Context) ([]overlay.Entry, error) {
	fields, err := s.client.HGetAll(ctx, Key).Result()
	if err != nil {
		return nil, fmt.Errorf("read overlay: %w", err)
	}
	var entries []overlay.Entry
	var errs []error
	for _, id := range slices.Sorted(maps.Keys(fields)) {
		e, err := overlay.Parse([]byte(fields[id]))
		if err == nil && e.ID() != id {
			err = fmt.Errorf("it is %s", e.ID())
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%w: %s: field %q: %w", overlay.ErrUnreadable, Key, id, err))
			continue
		}
		entries = append(entries, e)
	}
	return entries, errors.Join(errs...)
}

// Put sets one field.
func (s *Store) Put(ctx context.Context, e overlay.Entry) error {
	text, err := json.Marshal(e)
	if err == nil {
		err = s.client.HSet(ctx, Key, e.ID(), text).Err()
	}
	if err != nil {
		return fmt.Errorf("write overlay: %w", err)
	}
	return nil
}

// Delete removes one field.
func (s *Store) Delete(ctx context.Context, id string) error {
	if err := s.client.HDel(ctx, Key, id).Err(); err != nil {
		return fmt.Errorf("write overlay: %w", err)
	}
	return nil
}
