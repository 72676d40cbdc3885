package redis

import (
	"context"
	_ "embed"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"airgate/accounting/quota"
)

//go:embed beat.lua
var beatSource string

//go:embed learned.lua
var learnedSource string

//nolint:gochecknoglobals // constants
var (
	beatScript    = goredis.NewScript(beatSource)
	learnedScript = goredis.NewScript(learnedSource)
)

// fleet is what one replica knows of its shards and of who else is there.
type fleet struct {
	mu       sync.Mutex
	learning [shards]string      // :: shard → when the learning under way began, "" if it is whole
	heard    [shards]bool        // :: shard → it has been heard of
	members  map[string]struct{} // whom a whole shard has last listed
	left     bool                // this replica was left for
	changed  chan struct{}       // closed, and made anew, when learning or heard changes
}

func newFleet() *fleet {
	return &fleet{changed: make(chan struct{})}
}

// Whole waits until every shard grants, as far as Watch has heard: where nobody
// has been before, this takes a few seconds.
func (s *Store) Whole(ctx context.Context) error {
	f := s.fleet
	for {
		f.mu.Lock()
		whole := !slices.Contains(f.heard[:], false) && len(f.lostLocked()) == 0
		changed := f.changed
		f.mu.Unlock()
		if whole {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the quota store to be whole: %w", ctx.Err())
		case <-changed:
		}
	}
}

func (f *fleet) wasLeft() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.left
}

// lostLocked is the learnings under way.
func (f *fleet) lostLocked() map[int]string {
	lost := make(map[int]string) // :: shard → when it began
	for i, began := range f.learning {
		if began != "" {
			lost[i] = began
		}
	}
	return lost
}

// Watch implements quota.Store.
func (s *Store) Watch(ctx context.Context, replica string, o quota.Owner) error {
	asked := s.client.Subscribe(ctx, channel)
	defer asked.Close() //nolint:errcheck // it only listened
	var beating sync.WaitGroup
	defer beating.Wait()
	ctx, end := context.WithCancel(ctx)
	defer end()
	heard := make(chan struct{}, 1) // a beat has been answered
	beating.Go(func() { s.live(ctx, replica, heard) })

	told := make(map[int]string) // :: shard → the learning for which all has been told
	for {
		select {
		case <-ctx.Done():
			return nil
		case m, ok := <-asked.Channel():
			if !ok {
				<-ctx.Done()
				return nil
			}
			from, name, _ := strings.Cut(m.Payload, " ")
			if k, ok := parseKeyName(name); ok && from != replica {
				o.Recall(k)
			}
		case <-heard:
			if s.fleet.wasLeft() {
				return quota.ErrLeft
			}
			s.reassert(ctx, replica, o, told)
		}
	}
}

// live says that replica does, until ctx ends, and then that it left.
func (s *Store) live(ctx context.Context, replica string, heard chan<- struct{}) {
	failed := false
	for turn := 0; ctx.Err() == nil; turn++ {
		err := s.beat(ctx, replica, turn%shards)
		if (err != nil) != failed && ctx.Err() == nil {
			if failed = err != nil; failed {
				s.log.Warn("quota store does not hear that this replica lives", "error", err)
			} else {
				s.log.Info("quota store hears again that this replica lives")
			}
		}
		select {
		case heard <- struct{}{}:
		default:
		}
		select {
		case <-ctx.Done():
		case <-time.After(jittered(s.pace.beat)):
		}
	}
	leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_, err := s.client.Pipelined(leaving, func(p goredis.Pipeliner) error {
		for i := range shards {
			p.HDel(leaving, fleetKey(i), replica)
		}
		return nil
	})
	if err != nil {
		s.log.Warn("quota store has not heard that this replica leaves: a loss in the next minute waits for it", "error", err)
	}
}

// beat says to every shard that replica lives. It lists the fleet of one.
func (s *Store) beat(ctx context.Context, replica string, listed int) error {
	ctx, cancel := context.WithTimeout(ctx, s.pace.beat)
	defer cancel()
	beats, err := s.pipeline(ctx, beatScript, shards, func(i int) (keys []string, args []any) {
		return []string{registerKey(i), fleetKey(i), learningKey(i), silentKey(i), leftKey(i)},
			[]any{replica, digit(i == listed), s.pace.join.Milliseconds(), s.pace.gone.Milliseconds(), s.pace.forget.Milliseconds()}
	})
	s.hear(beats, listed)
	return err
}

// pipeline runs a script n times in one round trip; and in another one, with its text,
// if a server does not have it.
func (s *Store) pipeline(ctx context.Context, script *goredis.Script, n int, call func(i int) (keys []string, args []any)) ([]*goredis.Cmd, error) {
	run := func(eval func(ctx context.Context, c goredis.Scripter, keys []string, args ...any) *goredis.Cmd) ([]*goredis.Cmd, error) {
		answers := make([]*goredis.Cmd, 0, n)
		_, err := s.client.Pipelined(ctx, func(p goredis.Pipeliner) error {
			for i := range n {
				keys, args := call(i)
				answers = append(answers, eval(ctx, p, keys, args...))
			}
			return nil
		})
		return answers, err
	}
	answers, err := run(script.EvalSha)
	if slices.ContainsFunc(answers, func(c *goredis.Cmd) bool { return goredis.HasErrorPrefix(c.Err(), "NOSCRIPT") }) {
		answers, err = run(script.Eval)
	}
	return answers, err
}

// hear takes what the shards answered, as far as they did.
func (s *Store) hear(beats []*goredis.Cmd, listed int) {
	f := s.fleet
	f.mu.Lock()
	defer f.mu.Unlock()
	began, ended, gone := 0, 0, make(map[string]struct{})
	for i, c := range beats {
		v, err := c.Slice()
		if err != nil || len(v) != 5 {
			continue
		}
		if v[4] == "1" {
			f.left = true
			continue
		}
		f.heard[i] = true
		learning := fmt.Sprint(v[1])
		if whole := v[0] == "1"; whole {
			if i == listed {
				f.members = set(v[3])
			}
			maps.Copy(gone, set(v[2]))
			learning = ""
		}
		switch {
		case f.learning[i] == "" && learning != "":
			began++
		case f.learning[i] != "" && learning == "":
			ended++
		}
		f.learning[i] = learning
	}
	lost := len(f.lostLocked())
	if began > 0 {
		s.log.Warn("quota store may have lost what it acknowledged: it grants nothing until all replicas have told again what they know", "shards", began)
	}
	if len(gone) > 0 {
		s.log.Error("quota store grants again without replicas that did not answer: what was granted to them and only they know of can be spent twice", "replicas", slices.Sorted(maps.Keys(gone)))
	}
	if ended > 0 {
		s.log.Info("quota store grants again", "shards", ended)
	}
	s.metrics.whole.Set(float64(digit(lost > 0)))
	close(f.changed)
	f.changed = make(chan struct{})
}

func set(list any) map[string]struct{} {
	names := make(map[string]struct{})
	values, _ := list.([]any)
	for _, v := range values {
		names[fmt.Sprint(v)] = struct{}{}
	}
	return names
}

// reassert has o tell again what it knows of the shards that are lost, once for
// each learning.
func (s *Store) reassert(ctx context.Context, replica string, o quota.Owner, told map[int]string) {
	s.fleet.mu.Lock()
	lost := s.fleet.lostLocked()
	remembered := slices.Sorted(maps.Keys(s.fleet.members))
	s.fleet.mu.Unlock()
	maps.DeleteFunc(lost, func(shard int, began string) bool { return told[shard] == began })
	if len(lost) == 0 {
		return
	}
	err := o.Reassert(ctx, func(k quota.Key) bool { return lost[shardOf(k)] != "" })
	if err != nil {
		if ctx.Err() == nil {
			s.log.Warn("quota store has not been told again what this replica knows; it will be tried again", "error", err)
		}
		return
	}
	for shard, began := range lost {
		args := []any{replica, began}
		for _, name := range remembered {
			args = append(args, name)
		}
		limited, cancel := context.WithTimeout(ctx, s.pace.beat)
		n, err := learnedScript.Run(limited, s.client, []string{learningKey(shard)}, args...).Int()
		cancel()
		if err != nil {
			s.log.Warn("quota store does not hear what this replica has told; it will be tried again", slog.Int("shard", shard), slog.Any("error", err))
			continue
		}
		if n == 1 {
			told[shard] = began
		}
	}
}
