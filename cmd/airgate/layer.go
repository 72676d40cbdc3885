package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"airgate/accounting/journal"
	"airgate/cmd/airgate/admin"
	"airgate/policy/config"
	"airgate/policy/overlay"
	"airgate/policy/overlay/file"
	"airgate/processor"
)

// What lies over the config of a gateway, and of a command.

// overlayFile is where the overlay of this machine is.
func overlayFile(data string, s *config.Snapshot) string {
	path := cmp.Or(s.OverlayFile, "overlay.jsonl")
	if !filepath.IsAbs(path) {
		path = filepath.Join(data, path)
	}
	return path
}

// overlayStores are where the overlay is: shared, unless that is nil, and then
// this machine's own.
func overlayStores(data string, s *config.Snapshot, shared overlay.Store) []overlay.Store {
	own := file.New(overlayFile(data, s))
	if shared == nil {
		return []overlay.Store{own}
	}
	return []overlay.Store{shared, own}
}

// openOverlay lays over the config what operators have said, and puts both in
// the book.
func (g *gateway) openOverlay(ctx context.Context) (err error) {
	g.overlay, err = overlay.NewCopy(ctx, overlay.CopyConfig{
		Stores: overlayStores(g.data, g.snapshot, g.store.overlay), Needed: g.needed, Log: g.log,
	})
	if err != nil {
		return fmt.Errorf("%w: repair the file; a key may be revoked there and nowhere else", err)
	}
	now := time.Now()
	if g.snapshot, err = g.snapshot.With(g.overlay.Entries().Holding(now), now); err != nil {
		return err
	}
	return g.auditStart(ctx)
}

// auditStart writes into the book which overrides and entries of the overlay
// there are. It waits while the disk has no room for that: they do not hold
// before, and no call would be admitted.
func (g *gateway) auditStart(ctx context.Context) error {
	for waiting := false; ; waiting = true {
		err := g.audit(g.snapshot)
		if !errors.Is(err, journal.ErrUnavailable) {
			return err
		}
		if !waiting {
			g.log.Error("overrides of budgets and the overlay cannot be recorded yet: the start waits", slog.Any("error", err))
		}
		second, end := context.WithTimeout(ctx, time.Second)
		failed := g.journal.Watch(second)
		end()
		if failed != nil {
			return failed
		}
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		}
	}
}

// needed says whether the files in force leave it to a revocation to end its key.
func (g *gateway) needed(e overlay.Entry) bool {
	s := g.snapshot
	if g.reloader != nil { // before there is one the overlay is not looked at by others
		s = g.reloader.Current()
	}
	return !s.Ended(e.Name, time.Now())
}

// audit makes the book say what is about to take effect.
func (g *gateway) audit(next *config.Snapshot) error {
	now := time.Now()
	if err := processor.AuditOverrides(g.journal, g.balances, next, now); err != nil {
		return err
	}
	return processor.AuditOverlay(g.journal, g.balances, next, g.overlay.Entries(), now)
}

// put makes an entry of the overlay and waits until it is in force here.
func (g *gateway) put(ctx context.Context, e overlay.Entry) (overlay.Entry, error) {
	e, err := g.overlay.Put(ctx, e, time.Now())
	if err != nil {
		return e, err
	}
	const wait = 2 * time.Second
	for deadline := time.Now().Add(wait); ; {
		held := slices.ContainsFunc(g.reloader.Current().Laid, func(l config.Laid) bool {
			return l.Entry == e || e.Removed && l.Entry.ID() == e.ID()
		})
		if held != e.Removed {
			return e, nil
		}
		if time.Now().After(deadline) {
			if o := g.reloader.Status().Overlay; o.Fault != "" {
				return e, fmt.Errorf("%w: %s", admin.ErrNotInForce, o.Fault)
			}
			return e, admin.ErrNotInForce
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return e, fmt.Errorf("%w: %w", admin.ErrNotInForce, err)
		}
	}
}

// laidConfig is the config of a command with what lies over it on this machine.
// Where that cannot be read, warn is told and the rest shown; without it, that is
// an error.
func laidConfig(ctx context.Context, f *flags, warn func(error)) (*config.Snapshot, error) {
	s, err := loadConfig(f.config)
	if err != nil {
		return nil, err
	}
	return laidOver(ctx, f, s, warn)
}

// laidOver is laidConfig of files that have been read.
func laidOver(ctx context.Context, f *flags, s *config.Snapshot, warn func(error)) (*config.Snapshot, error) {
	known, faults := listAll(ctx, overlayStores(f.data, s, nil))
	if err := errors.Join(faults...); err != nil {
		if warn == nil {
			return nil, err
		}
		warn(err)
	}
	now := time.Now()
	return s.With(known.Holding(now), now)
}

// listAll is what stores have, and what was wrong with each.
func listAll(ctx context.Context, stores []overlay.Store) (known overlay.Set, faults []error) {
	known = overlay.Set{}
	for _, s := range stores {
		list, err := s.List(ctx)
		faults = append(faults, err)
		for _, e := range list {
			known.Add(e)
		}
	}
	return known, faults
}

// warnOverlay says that what is shown lacks the overlay, or a part of it.
func (t *terminal) warnOverlay(err error) {
	t.say("warning: not all that is laid over the config is shown: %v", err)
}

// closedStore is a store that could not be opened: every call says why.
type closedStore struct{ why error }

func (s closedStore) List(context.Context) ([]overlay.Entry, error) { return nil, s.why }
func (s closedStore) Put(context.Context, overlay.Entry) error      { return s.why }
func (s closedStore) Delete(context.Context, string) error          { return s.why }

// offlineStores are where the overlay is, without a running airgate. What is said
// on this machine does not wait for a shared store that cannot be opened: the
// next airgate of the data directory tells it.
func offlineStores(ctx context.Context, data string, s *config.Snapshot) (stores []overlay.Store, closeAll func()) {
	q, err := openStore(ctx, s, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		return overlayStores(data, s, closedStore{err}), func() {}
	}
	return overlayStores(data, s, q.overlay), func() { _ = q.close() } // it has answered what it was asked
}

// offlineOverlay is the part of the JSON API that is about the overlay, over its
// stores and without a running airgate. Whoever can write there needs no token.
// A write needs this machine's own, a list all of them. Neither needs a config that
// is right, while the running airgate goes on with its last good one: broken is
// told what is wrong with it.
func offlineOverlay(list bool, broken func(store string, err error)) func(context.Context, *flags) (http.Handler, func(), error) {
	return func(ctx context.Context, f *flags) (_ http.Handler, closeAll func(), err error) {
		files, err := config.LoadBroken(f.config, time.Now())
		switch {
		case files == nil && !list:
			err = configError(f.config, err)
			return nil, nil, fmt.Errorf("%w; a running airgate takes it without these files: --server and --%s in place of --offline", err, writeTokenFlag)
		case files == nil:
			return nil, nil, configError(f.config, err)
		case err != nil:
			broken(overlayFile(f.data, files), err)
		}
		if _, err := os.Stat(filepath.Dir(overlayFile(f.data, files))); err != nil {
			return nil, nil, unreachable(fmt.Errorf("%w, %s: %w", errNothing, f.data, err))
		}
		stores, closeAll := offlineStores(ctx, f.data, files)
		known, faults := listAll(ctx, stores)
		own := len(stores) - 1
		err = faults[own]
		if shared := errors.Join(faults[:own]...); err == nil && shared != nil && list {
			err = unreachable(shared)
		}
		var s *config.Snapshot
		lay := func(known overlay.Set) (err error) {
			now := time.Now()
			s, err = files.With(known.Holding(now), now)
			return err
		}
		if err == nil {
			err = lay(known)
		}
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		put := func(ctx context.Context, e overlay.Entry) (overlay.Entry, error) {
			c, err := overlay.NewCopy(ctx, overlay.CopyConfig{
				Stores: stores, Log: slog.New(slog.DiscardHandler),
				Needed: func(e overlay.Entry) bool { return !files.Ended(e.Name, time.Now()) },
			})
			if err != nil {
				return overlay.Entry{}, err
			}
			if e, err = c.Put(ctx, e, time.Now()); err != nil {
				return e, err
			}
			return e, lay(c.Entries())
		}
		return admin.New(admin.Config{
			Snapshot: func() *config.Snapshot { return s }, Put: put, WriteToken: func() (string, error) { return "", nil },
		}).Admin(), closeAll, nil
	}
}
