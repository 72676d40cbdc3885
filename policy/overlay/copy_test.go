package overlay

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeStore is a store whose faults a test says.
type fakeStore struct {
	mu         sync.Mutex
	set        Set
	down       error
	unreadable bool
	puts       int
}

func newStore() *fakeStore { return &fakeStore{set: Set{}} }

func (s *fakeStore) List(context.Context) ([]Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.down != nil:
		return nil, s.down
	case s.unreadable:
		return s.set.Sorted(), ErrUnreadable
	}
	return s.set.Sorted(), nil
}

func (s *fakeStore) Put(_ context.Context, e Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down == nil {
		s.puts++
		s.set[e.ID()] = e
	}
	return s.down
}

func (s *fakeStore) Delete(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.set, id)
	return s.down
}

// do changes the store as somebody else would.
func (s *fakeStore) do(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *fakeStore) has(want ...Entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Equal(s.set, setOf(want...))
}

func setOf(entries ...Entry) Set {
	set := Set{}
	for _, e := range entries {
		set.Add(e)
	}
	return set
}

// running starts a Copy in the bubble of the caller.
func running(t *testing.T, c CopyConfig) *Copy {
	t.Helper()
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	p, err := NewCopy(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var tasks sync.WaitGroup
	tasks.Go(func() {
		if err := p.Run(ctx); err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	})
	t.Cleanup(func() { cancel(); tasks.Wait() })
	return p
}

// pass lets so much time pass, and what is due then be done.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// blockNow is a block that is made now.
func blockNow(d time.Duration) Entry {
	now := time.Now().UTC().Truncate(time.Millisecond)
	return Entry{Kind: BlockTeam, Name: "search", Until: now.Add(d), By: "kim", Reason: "INC-12", Made: now}
}

// TestCopyReachesOthers: what one airgate is told, the other knows within a
// second, and each says that something has changed.
func TestCopyReachesOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		one, other := running(t, CopyConfig{Stores: []Store{s}}), running(t, CopyConfig{Stores: []Store{s}})
		e, err := one.Put(t.Context(), blockNow(time.Hour), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if len(one.Changed()) != 1 || len(other.Changed()) != 0 {
			t.Errorf("changes %d and %d, want one at the writer alone", len(one.Changed()), len(other.Changed()))
		}
		pass(time.Second)
		if !maps.Equal(other.Entries(), setOf(e)) || len(other.Changed()) != 1 {
			t.Errorf("after a second the other knows %v, want %v and a change", other.Entries(), e)
		}
		<-other.Changed()
		pass(10 * time.Second)
		if len(other.Changed()) != 0 || s.puts != 1 {
			t.Errorf("nothing was said, and there are %d changes and %d puts, want none and 1", len(other.Changed()), s.puts)
		}
	})
}

// TestCopyPutsAgain: a store that is emptied, or set back to older words, has
// all of them within a second.
func TestCopyPutsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		p := running(t, CopyConfig{Stores: []Store{s}})
		revoked, err := p.Put(t.Context(), Entry{Kind: Revoke, Name: "k", By: "kim", Reason: "leaked"}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		old, err := p.Put(t.Context(), blockNow(time.Hour), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		gone := Entry{Kind: BlockTeam, Name: "search", By: "lee", Reason: "fixed", Removed: true}
		if gone, err = p.Put(t.Context(), gone, time.Now()); err != nil {
			t.Fatal(err)
		}
		if !gone.Made.After(old.Made) {
			t.Fatalf("two words at one instant are of %v and %v, want the second later", old.Made, gone.Made)
		}
		if !gone.Until.Equal(old.Until) {
			t.Fatalf("the removal ends at %v, want %v as what it takes back", gone.Until, old.Until)
		}
		if _, err := p.Put(t.Context(), gone, time.Now()); !errors.Is(err, ErrNothing) {
			t.Errorf("a second removal = %v, want %v", err, ErrNothing)
		}
		s.do(func() { s.down = errors.New("connection refused") })
		pass(3 * time.Second)
		if !maps.Equal(p.Entries(), setOf(revoked, gone)) {
			t.Errorf("while the only store is down %v is known, want both last words", p.Entries())
		}
		s.do(func() { s.down = nil })
		for name, set := range map[string]Set{"an empty store": {}, "an older word": setOf(old), "a store without the revocation": setOf(gone)} {
			s.do(func() { s.set = set })
			pass(time.Second)
			if !s.has(revoked, gone) {
				t.Errorf("%s: a second later it has %v, want both last words", name, s.set)
			}
		}
	})
}

// TestCopyOutlivesStores: a store that does not answer takes nothing away, and is
// told what it missed; the copy of this machine carries it over a restart.
func TestCopyOutlivesStores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared, own := newStore(), newStore()
		down := errors.New("connection refused")
		var log bytes.Buffer
		p := running(t, CopyConfig{Stores: []Store{shared, own}, Log: slog.New(slog.NewTextHandler(&log, nil))})
		shared.do(func() { shared.down = down })
		pass(3 * time.Second)
		e, err := p.Put(t.Context(), blockNow(time.Hour), time.Now())
		if !errors.Is(err, down) || !maps.Equal(p.Entries(), setOf(e)) {
			t.Errorf("Put while the store is down = %v and %v is known, want its error and the entry", err, p.Entries())
		}
		if !own.has(e) {
			t.Error("this machine's own store lacks the entry")
		}
		if got := strings.Count(log.String(), "level=ERROR"); got != 1 || !errors.Is(p.Fault(), down) {
			t.Errorf("an outage is logged %d times, fault %v; want once, and its error", got, p.Fault())
		}
		again := running(t, CopyConfig{Stores: []Store{shared, own}})
		if !maps.Equal(again.Entries(), setOf(e)) {
			t.Errorf("a restart during the outage knows %v, want %v", again.Entries(), e)
		}
		shared.do(func() { shared.down = nil })
		pass(time.Second)
		if !shared.has(e) || p.Fault() != nil {
			t.Errorf("after the outage the store has %v, fault %v; want %v, nil", shared.set, p.Fault(), e)
		}
		if got := strings.Count(log.String(), "can be used again"); got != 1 {
			t.Errorf("the end of the outage is logged %d times, want once", got)
		}
		own.do(func() { own.unreadable = true })
		if _, err := NewCopy(t.Context(), CopyConfig{Stores: []Store{shared, own}, Log: slog.New(slog.DiscardHandler)}); !errors.Is(err, ErrUnreadable) {
			t.Errorf("NewCopy with an own store that cannot be read = %v, want its error", err)
		}
	})
}

// TestCopyForgets: what is over goes, here and in the store; a revocation only
// where it is not needed, and then for good.
func TestCopyForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		var needed sync.Map
		needed.Store("k", true)
		p := running(t, CopyConfig{Stores: []Store{s}, Interval: time.Minute, Needed: func(e Entry) bool { v, _ := needed.Load(e.Name); return v == true }})
		idle := running(t, CopyConfig{Stores: []Store{s}, Interval: time.Minute}) // of files that revoke the key
		if _, err := p.Put(t.Context(), blockNow(2*time.Hour), time.Now()); err != nil {
			t.Fatal(err)
		}
		revoked, err := p.Put(t.Context(), Entry{Kind: Revoke, Name: "k", By: "kim", Reason: "leaked"}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		pass(2*time.Hour + Slack)
		if !maps.Equal(p.Entries(), setOf(revoked)) || !s.has(revoked) {
			t.Errorf("an hour after the end of a block %v is known and %v stored, want the revocation alone", p.Entries(), s.set)
		}
		pass(30 * 24 * time.Hour)
		if !maps.Equal(p.Entries(), setOf(revoked)) || !s.has(revoked) {
			t.Errorf("a month later %v is known and %v stored, want the revocation, which is needed", p.Entries(), s.set)
		}
		if len(idle.Entries()) != 0 {
			t.Errorf("an airgate that does not need it knows %v, want nothing", idle.Entries())
		}
		puts := s.puts
		pass(time.Hour)
		if s.puts != puts {
			t.Errorf("the two put and delete in turn: %d puts in an hour, want none", s.puts-puts)
		}
		needed.Store("k", false)
		pass(2 * time.Minute)
		if len(p.Entries()) != 0 || !s.has() {
			t.Errorf("once it is not needed %v is known and %v stored, want nothing", p.Entries(), s.set)
		}
	})
}

// TestPutChecks: what is no entry is neither known nor stored.
func TestPutChecks(t *testing.T) {
	s := newStore()
	p, err := NewCopy(t.Context(), CopyConfig{Stores: []Store{s}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Put(t.Context(), blockNow(73*time.Hour), time.Now()); err == nil || len(p.Entries()) != 0 || !s.has() {
		t.Errorf("Put of a block of 73 hours = %v, known %v; want an error and nothing", err, p.Entries())
	}
}
