package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"

	"airgate/accounting/failpoint"
	"airgate/accounting/record"
)

// trim deletes what every sink has and a checkpoint on disk counts: of earlier
// writers, whose records the first checkpoint of this one counts, whole
// directories; of this one, segments that a newer one has followed. What a sink
// has it says itself, by its Head, which moves in the same transaction as its
// records: a file of offsets beside would be a second truth, and could be ahead
// of the first.
func (j *Journal) trim() {
	if len(j.cfg.Sinks) == 0 || j.cfg.Owner == nil {
		return
	}
	for i := range j.adopted {
		h := &j.adopted[i]
		if h.removed || !j.metrics.acknowledged(j.cfg.Sinks, h.head) {
			continue
		}
		if !j.told(j.removeWriter(h)) {
			return
		}
		h.removed = true
		j.metrics.grow(-h.size)
	}
	for {
		j.mu.Lock()
		if len(j.past) == 0 {
			j.mu.Unlock()
			return
		}
		oldest, next := j.past[0], j.file.first
		if len(j.past) > 1 {
			next = j.past[1].first
		}
		j.mu.Unlock()
		if !j.metrics.acknowledged(j.cfg.Sinks, record.Head{Writer: j.writer, Seq: next - 1}) || !j.told(j.remove(oldest.name)) {
			return
		}
		j.metrics.grow(-oldest.size)
		j.mu.Lock()
		j.past = j.past[1:]
		j.mu.Unlock()
	}
}

// told logs, once in a row, that something could not be deleted.
func (j *Journal) told(err error) (ok bool) {
	if err != nil && !j.kept {
		j.log.Error("the journal cannot delete what every sink has", slog.Any("error", err))
	}
	j.kept = err != nil
	return err == nil
}

// remove deletes one file, or empty directory, for good: a power loss must not
// take a newer one and leave this.
func (j *Journal) remove(name string) error {
	failpoint.Hit("journal.trim")
	if err := j.disk.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) { // the last try may have come so far
		return fmt.Errorf("delete from journal: %w", err)
	}
	failpoint.Hit("journal.trimmed")
	if err := j.disk.SyncDir(filepath.Dir(name)); err != nil {
		return fmt.Errorf("delete from journal: %w", err)
	}
	return nil
}

// removeWriter deletes an earlier writer's directory: its segments from the
// oldest on, then what was set aside.
func (j *Journal) removeWriter(h *history) error {
	ordered, err := segments(j.disk, h.dir)
	if err == nil {
		var all []string
		all, err = j.disk.List(h.dir)
		ordered = append(ordered, slices.DeleteFunc(all, func(name string) bool { return slices.Contains(ordered, name) })...)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete from journal: %w", err)
	}
	for _, name := range ordered {
		if err := j.remove(filepath.Join(h.dir, name)); err != nil {
			return err
		}
	}
	return j.remove(h.dir)
}
