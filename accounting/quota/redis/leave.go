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

var leaveScript = goredis.NewScript(leaveSource) //nolint:gochecknoglobals // a constant

// leaving is how many account-windows are looked at in one round trip.
const leaving = 256

// Leave implements quota.Store. It looks at every account-window there is: it is
// for the start, and each of its round trips has the time that New has.
func (s *Store) Leave(ctx context.Context, replica string) error {
	for shard := range shards {
		if err := s.leave(ctx, shard, replica); err != nil {
			return fmt.Errorf("%w: leave: %w", quota.ErrUnavailable, err)
		}
	}
	return nil
}

func (s *Store) leave(ctx context.Context, shard int, replica string) error {
	var cursor uint64
	for {
		within, cancel := context.WithTimeout(ctx, patience)
		entries, next, err := s.client.ZScan(within, registerKey(shard), cursor, "", leaving).Result()
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
		if err := s.leaveAll(ctx, shard, names, replica); err != nil {
			return err
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

func (s *Store) leaveAll(ctx context.Context, shard int, names []string, replica string) error {
	if len(names) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// A pipeline has no way back from a server that does not have the script.
	if err := leaveScript.Load(ctx, s.client).Err(); err != nil {
		return err
	}
	_, err := s.client.Pipelined(ctx, func(p goredis.Pipeliner) error {
		for _, name := range names {
			leaveScript.EvalSha(ctx, p, []string{windowKey(shard, name)}, replica, uint64(quota.LastSeq))
		}
		return nil
	})
	return err
}
