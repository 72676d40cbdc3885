package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"airgate/accounting/journal/disk"
)

// Owner has a journal's directory for this process alone (quota: memory). Who
// opens the journal learns only afterwards what its config is: it may have been
// changed while it waited.
type Owner struct {
	dir   string
	close func() error
}

// Own makes the directory and takes it; it waits, until ctx ends, for the process
// that has it. Its errors: ctx's; what the disk says.
func Own(ctx context.Context, d disk.Disk, dir string, log *slog.Logger) (*Owner, error) {
	held, err := own(ctx, d, dir, log)
	if err != nil {
		return nil, fmt.Errorf("own journal: %w", err)
	}
	return &Owner{dir: dir, close: sync.OnceValue(held.Close)}, nil
}

// Close gives the directory back, if a Journal that was opened with it has not
// yet.
func (o *Owner) Close() error { return o.close() }

func own(ctx context.Context, d disk.Disk, dir string, log *slog.Logger) (io.Closer, error) {
	if err := d.Mkdir(dir); err != nil {
		return nil, err
	}
	// Who may not read the directory above has not made this one.
	if err := d.SyncDir(filepath.Dir(dir)); err != nil && !errors.Is(err, fs.ErrPermission) {
		return nil, err
	}
	return lock(ctx, d, dir, log)
}

// lock takes a directory; if another has it, it waits.
func lock(ctx context.Context, d disk.Disk, dir string, log *slog.Logger) (io.Closer, error) {
	for waiting := false; ; waiting = true {
		held, err := d.Lock(dir)
		if !errors.Is(err, disk.ErrLocked) {
			return held, err
		}
		if !waiting {
			log.Info("another process owns the journal: waiting until it ends", slog.String("dir", dir))
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return nil, fmt.Errorf("wait for the process that owns %s: %w", dir, err)
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
