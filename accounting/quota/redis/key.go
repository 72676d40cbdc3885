package redis

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"

	"airgate/accounting/quota"
)

// shards is how many parts the keys are in. All keys of one part are in one slot
// of a Cluster; so many parts spread well over its masters. It never changes:
// replicas would look for the same account in different places.
const shards = 16

// channel is where replicas ask each other for what is idle.
const channel = "airgate:q:recall"

func shardOf(k quota.Key) int {
	h := fnv.New32a()
	h.Write([]byte(k.Account))
	return int(h.Sum32() % shards)
}

// keyName is both parts of a Key in one, the first with its length.
func keyName(k quota.Key) string {
	return strconv.Itoa(len(k.Window)) + ":" + k.Window + ":" + k.Account
}

// parseKeyName is the Key of a name.
func parseKeyName(name string) (k quota.Key, ok bool) {
	length, rest, ok := strings.Cut(name, ":")
	n, err := strconv.Atoi(length)
	if !ok || err != nil || n < 0 || n >= len(rest) || rest[n] != ':' {
		return quota.Key{}, false
	}
	return quota.Key{Window: rest[:n], Account: rest[n+1:]}, true
}

func shardKey(shard int, kind string) string { return fmt.Sprintf("airgate:q:{%x}:%s", shard, kind) }

func windowKey(shard int, name string) string  { return shardKey(shard, "window:") + name }
func bucketKey(shard int, name string) string  { return shardKey(shard, "bucket:") + name }
func permitsKey(shard int, name string) string { return shardKey(shard, "permits:") + name }
func registerKey(shard int) string             { return shardKey(shard, "register") }
func fleetKey(shard int) string                { return shardKey(shard, "fleet") }
func silentKey(shard int) string               { return shardKey(shard, "silent") }
func leftKey(shard int) string                 { return shardKey(shard, "left") }
func learningKey(shard int) string             { return shardKey(shard, "learning") }

// recallOf is the message that asks others for what is idle, "" for none.
func recallOf(recall bool, replica, name string) string {
	if !recall {
		return ""
	}
	return replica + " " + name
}
