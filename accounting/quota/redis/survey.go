package redis

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"airgate/accounting/quota"
)

//go:embed whole.lua
var wholeSource string

var wholeScript = goredis.NewScript(wholeSource) //nolint:gochecknoglobals // a constant

var errNotWhole = errors.New("it may have lost something, and not all replicas have told again what they know: ask again in some seconds")

// Survey tells what all replicas have of every account-window. It reads all there is:
// it is for people, and each of its round trips has the time that New has. A store that
// is not whole is an error: who lives may not have said so yet.
func (s *Store) Survey(ctx context.Context) (quota.Survey, error) {
	all := quota.Survey{Heard: make(map[string]time.Time)}
	for shard := range shards {
		if err := s.survey(ctx, shard, &all); err != nil {
			return quota.Survey{}, fmt.Errorf("%w: survey: %w", quota.ErrUnavailable, err)
		}
	}
	return all, nil
}

func (s *Store) survey(ctx context.Context, shard int, all *quota.Survey) error {
	if err := s.surveyFleet(ctx, shard, all); err != nil {
		return err
	}
	if err := s.surveyWhole(ctx, shard); err != nil {
		return err
	}
	seen := make(map[string]bool) // a scan may tell of a window twice
	return s.scan(ctx, shard, func(ctx context.Context, names []string) error {
		names = slices.DeleteFunc(names, func(name string) bool { return seen[name] })
		words := make([]*goredis.MapStringStringCmd, len(names))
		_, err := s.client.Pipelined(ctx, func(p goredis.Pipeliner) error {
			for i, name := range names {
				seen[name] = true
				words[i] = p.HGetAll(ctx, windowKey(shard, name))
			}
			return nil
		})
		if err != nil {
			return err
		}
		for i, name := range names {
			holdings, err := holdingsOf(name, words[i].Val())
			if err != nil {
				return err
			}
			all.Holdings = append(all.Holdings, holdings...)
		}
		return nil
	})
}

// surveyFleet tells when replicas have last lived: those that may still do, and those
// that were forgotten since they did not.
func (s *Store) surveyFleet(ctx context.Context, shard int, all *quota.Survey) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var now *goredis.TimeCmd
	var fleet, silent *goredis.MapStringStringCmd
	_, err := s.client.Pipelined(ctx, func(p goredis.Pipeliner) error {
		now, fleet, silent = p.Time(ctx), p.HGetAll(ctx, fleetKey(shard)), p.HGetAll(ctx, silentKey(shard))
		return nil
	})
	if err != nil {
		return err
	}
	if all.Now.Before(now.Val()) {
		all.Now = now.Val()
	}
	for _, heard := range []map[string]string{fleet.Val(), silent.Val()} {
		for replica, text := range heard {
			ms, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				return fmt.Errorf("when %s lived: %w", replica, err)
			}
			if at := time.UnixMilli(ms).UTC(); at.After(all.Heard[replica]) {
				all.Heard[replica] = at
			}
		}
	}
	return nil
}

func (s *Store) surveyWhole(ctx context.Context, shard int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	whole, err := wholeScript.Run(ctx, s.client, []string{registerKey(shard)}).Bool()
	if err == nil && !whole {
		err = errNotWhole
	}
	return err
}

// holdingsOf are those in a window's hash, by replica.
func holdingsOf(name string, words map[string]string) (all []quota.Holding, err error) {
	k, ok := parseKeyName(name)
	if !ok {
		return nil, fmt.Errorf("%q is not the name of a window", name)
	}
	for _, field := range slices.Sorted(maps.Keys(words)) {
		replica, ok := strings.CutPrefix(field, "r:")
		if !ok || replica == quota.Folded {
			continue
		}
		h := quota.Holding{Key: k, Share: quota.Share{Replica: replica}}
		var seq uint64
		if _, err := fmt.Sscanf(words[field], "%d %d %d %d %d", &h.Granted, &h.Returned, &h.Spent, &seq, &h.Closed); err != nil {
			return nil, fmt.Errorf("what %s has of %s: %w", replica, name, err)
		}
		all = append(all, h)
	}
	return all, nil
}
