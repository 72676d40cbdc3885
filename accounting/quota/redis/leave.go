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
		within, cancel = context.WithTimeout(ctx, patience)
		_, err = s.pipeline(within, leaveScript, len(names), func(i int) (keys []string, args []any) {
			return []string{windowKey(shard, names[i])}, []any{replica, uint64(quota.LastSeq)}
		})
		cancel()
		if err != nil {
			return err
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}
