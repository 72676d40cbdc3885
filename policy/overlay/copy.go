package overlay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"
)

// ErrUnreadable is in the error of a List that has left entries out, since it
// could not read them.
var ErrUnreadable = errors.New("unreadable overlay entry")

// ErrNothing says that there is nothing that a removal could take back.
var ErrNothing = errors.New("nothing to take back")

// Store is where entries are for all airgates that share it. It may lose them:
// every Copy puts again what it lacks. Its methods are safe for concurrent use,
// by several processes too; every implementation passes overlaytest.Run.
type Store interface {
	// List returns the entries there are, in any order. With ErrUnreadable those
	// that could be read are all there; with another error there are none.
	List(ctx context.Context) ([]Entry, error)
	// Put stores an entry in place of another of its ID.
	Put(ctx context.Context, e Entry) error
	// Delete takes out the entry of an ID, if there is one.
	Delete(ctx context.Context, id string) error
}

// CopyConfig configures a Copy.
type CopyConfig struct {
	// Stores are kept alike. The last is this machine's own: what is in it must
	// be known before the first call, even where a shared one does not answer.
	Stores []Store
	// Needed says whether a revocation is still the only place where a key ends.
	// One that is needed is never forgotten. It may be nil: then none is.
	Needed   func(e Entry) bool
	Interval time.Duration // between looks at the stores; 0 = one second
	Log      *slog.Logger
}

// Copy is what one airgate knows of the overlay: everything that was ever in
// one of its stores and is not over. A store that is unreachable takes nothing
// from it, and one that has lost entries gets them back. Its methods are safe
// for concurrent use.
type Copy struct {
	config   CopyConfig
	changed  chan struct{} // has one element since something changed
	troubles []error       // :: place in Stores → of the last look; of the goroutine that looks

	mu    sync.Mutex
	set   Set
	fault error // of the last look
}

// callTime is how long one call of a store may take.
const callTime = 500 * time.Millisecond

// NewCopy returns a Copy that knows what the stores have. It fails if the last of
// them cannot be read as a whole.
func NewCopy(ctx context.Context, c CopyConfig) (*Copy, error) {
	if len(c.Stores) == 0 || c.Log == nil {
		return nil, errors.New("overlay: copy lacks Stores or Log")
	}
	c.Interval = cmp.Or(c.Interval, time.Second)
	if c.Needed == nil {
		c.Needed = func(Entry) bool { return false }
	}
	p := &Copy{config: c, changed: make(chan struct{}, 1), set: Set{}, troubles: make([]error, len(c.Stores))}
	p.look(ctx, time.Now())
	if err := p.troubles[len(c.Stores)-1]; err != nil {
		return nil, fmt.Errorf("read overlay: %w", err)
	}
	return p, nil
}

// Run looks at the stores at every interval until ctx ends, which is not an
// error.
func (p *Copy) Run(ctx context.Context) error {
	ticker := time.NewTicker(p.config.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			p.look(ctx, now)
		}
	}
}

// Changed has an element after the entries have changed. It is for one reader.
func (p *Copy) Changed() <-chan struct{} { return p.changed }

// Entries returns what is known. The caller owns it.
func (p *Copy) Entries() Set {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.set)
}

// Fault is what was wrong with a store at the last look, nil if nothing.
func (p *Copy) Fault() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fault
}

// Put makes e the last word on its subject, as of now, and stores it. A removal
// takes the rest of its fields from what it takes back, which is ErrNothing if
// nothing holds. With an error of a store e holds here, and the store is told
// again at every look: then the entry that is returned has its Made.
func (p *Copy) Put(ctx context.Context, e Entry, now time.Time) (Entry, error) {
	p.mu.Lock()
	e.Made = now.UTC().Truncate(time.Millisecond)
	have, ok := p.set[e.ID()]
	if ok && !have.Made.Before(e.Made) {
		e.Made = have.Made.Add(time.Millisecond) // by a clock that is ahead of ours
	}
	var err error
	if e.Removed && e.Kind != Revoke {
		if !ok || !have.Holds(now) {
			err = fmt.Errorf("%s: %w", e.ID(), ErrNothing)
		}
		e.To, e.Until = have.To, have.Until
	}
	if err == nil {
		err = e.Check()
	}
	if err != nil {
		p.mu.Unlock()
		return Entry{}, err
	}
	p.set.Add(e)
	p.mu.Unlock()
	p.tellChanged()
	var errs []error
	for _, s := range p.config.Stores {
		errs = append(errs, within(ctx, func(ctx context.Context) error { return s.Put(ctx, e) }))
	}
	return e, errors.Join(errs...)
}

func within(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	return do(ctx)
}

func (p *Copy) tellChanged() {
	select {
	case p.changed <- struct{}{}:
	default: // it has one already
	}
}

// look learns what the stores have, forgets what is over, and gives each store
// what it lacks.
func (p *Copy) look(ctx context.Context, now time.Time) {
	listed := make([]Set, len(p.config.Stores)) // nil = not read
	faults := make([]error, len(p.config.Stores))
	for i, s := range p.config.Stores {
		faults[i] = within(ctx, func(ctx context.Context) error {
			list, err := s.List(ctx)
			if err == nil || errors.Is(err, ErrUnreadable) {
				listed[i] = Set{}
				for _, e := range list {
					listed[i].Add(e)
				}
			}
			return err
		})
	}
	known, forgotten := p.learn(listed, now)
	for i, s := range p.config.Stores {
		if listed[i] == nil {
			continue
		}
		faults[i] = errors.Join(faults[i], within(ctx, func(ctx context.Context) error {
			return level(ctx, s, listed[i], known, forgotten)
		}))
	}
	if ctx.Err() == nil {
		p.tellFaults(faults)
	}
}

// learn adds what was listed to what is known, and takes out what is over.
func (p *Copy) learn(listed []Set, now time.Time) (known Set, forgotten []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	changed := false
	for _, set := range listed {
		for id, e := range set {
			// What is over may have been forgotten, or not be known to need it.
			if _, ok := p.set[id]; ok || !p.isOver(e, now) {
				changed = p.set.Add(e) || changed
			}
		}
	}
	for id, e := range p.set {
		if p.isOver(e, now) {
			delete(p.set, id)
			forgotten = append(forgotten, id)
			changed = true
		}
	}
	if changed {
		p.tellChanged()
	}
	return maps.Clone(p.set), forgotten
}

func (p *Copy) isOver(e Entry, now time.Time) bool {
	return e.over(now) && (e.Kind != Revoke || !p.config.Needed(e))
}

// level gives a store what it lacks of what is known, and takes out what was
// forgotten.
func level(ctx context.Context, s Store, listed, known Set, forgotten []string) error {
	for id, e := range known {
		if have, ok := listed[id]; ok && have.compare(e) >= 0 {
			continue
		}
		if err := s.Put(ctx, e); err != nil {
			return err
		}
	}
	for _, id := range forgotten {
		if _, ok := listed[id]; !ok {
			continue
		}
		if err := s.Delete(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// tellFaults keeps what is wrong with the stores, and logs each change.
func (p *Copy) tellFaults(faults []error) {
	for i, err := range faults {
		before := p.troubles[i]
		p.troubles[i] = err
		switch {
		case err != nil && (before == nil || before.Error() != err.Error()):
			p.config.Log.Error("a store of the overlay cannot be used: what is known stays in force", slog.Int("store", i), slog.Any("error", err))
		case err == nil && before != nil:
			p.config.Log.Info("a store of the overlay can be used again", slog.Int("store", i))
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = errors.Join(faults...)
}
