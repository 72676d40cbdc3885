package redis

import (
	"context"
	_ "embed"
	"fmt"
	"strings"

	goredis "github.com/redis/go-redis/v9"

	"airgate/accounting/quota"
)

//go:embed leave.lua
var leaveSource string

//go:embed left.lua
var leftSource string

//nolint:gochecknoglobals // constants
var (
	leaveScript = goredis.NewScript(leaveSource)
	leftScript  = goredis.NewScript(leftSource)
)

// leftShard is where it is said who was left for: one shard will do.
const leftShard = 0

// scanned is how many account-windows are looked at in one round trip.
const scanned = 256

// Leave implements quota.Store. It looks at every account-window there is: it is
// for the start, and each of its round trips has the time that New has.
func (s *Store) Leave(ctx context.Context, replica string) error {
	err := s.sayLeft(ctx, replica) // first: if it lives, it shall not take more
	for shard := range shards {
		if err == nil {
			err = s.leave(ctx, shard, replica)
		}
	}
	if err != nil {
		return fmt.Errorf("%w: leave: %w", quota.ErrUnavailable, err)
	}
	return nil
}

func (s *Store) sayLeft(ctx context.Context, replica string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return leftScript.Run(ctx, s.client, []string{leftKey(leftShard)}, replica).Err()
}

func (s *Store) leave(ctx context.Context, shard int, replica string) error {
	err := s.scan(ctx, shard, func(ctx context.Context, names []string) error {
		_, err := s.pipeline(ctx, leaveScript, len(names), func(i int) (keys []string, args []any) {
			return []string{windowKey(shard, names[i])}, []any{replica, uint64(quota.LastSeq)}
		})
		return err
	})
	if err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return s.client.HDel(within, silentKey(shard), replica).Err() // it has nothing any more that somebody would look for
}

// scan calls look with the names of all windows of a shard, some at a time, and some
// perhaps twice.
func (s *Store) scan(ctx context.Context, shard int, look func(ctx context.Context, names []string) error) error {
	var cursor uint64
	for {
		within, cancel := context.WithTimeout(ctx, patience)
		entries, next, err := s.client.ZScan(within, registerKey(shard), cursor, "", scanned).Result()
		cancel()
		if err != nil {
			return err
		}
		var names []string
		for i := 0; i < len(entries); i += 2 { // a score follows each
			if !strings.HasPrefix(entries[i], "@") { // a server's id
				names = append(names, entries[i])
			}
		}
		within, cancel = context.WithTimeout(ctx, patience)
		err = look(within, names)
		cancel()
		if err != nil {
			return err
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}
