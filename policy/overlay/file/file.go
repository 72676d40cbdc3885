// Package file keeps the overlay in a file: one entry a line. It answers: how
// do the airgates of one machine, and the commands beside them, share it.
package file

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"airgate/policy/overlay"
)

// maxBytes is far beyond any overlay.
const maxBytes = 8 << 20

// Store is the file at a path. It is written whole, by renaming another over it,
// under a lock of its directory; who reads it sees the old one or the new one. A
// file that is not there has no entries. A line that cannot be read stays in it:
// a later version may have written it.
type Store struct{ path string }

// New returns the Store of a file, whose directory must exist.
func New(path string) *Store { return &Store{path: path} }

// List reads the file.
func (s *Store) List(context.Context) ([]overlay.Entry, error) {
	f, err := s.read()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, u := range f.unreadable {
		errs = append(errs, fmt.Errorf("%w: %s: line %d: %w", overlay.ErrUnreadable, s.path, u.line, u.err))
	}
	return f.entries, errors.Join(errs...)
}

// Put writes the file with e in it.
func (s *Store) Put(ctx context.Context, e overlay.Entry) error {
	return s.edit(ctx, e.ID(), &e)
}

// Delete writes the file without the entry of an ID.
func (s *Store) Delete(ctx context.Context, id string) error {
	return s.edit(ctx, id, nil)
}

// contents is what stands in the file.
type contents struct {
	entries    []overlay.Entry
	unreadable []unreadable
}

type unreadable struct {
	line int
	text string
	err  error
}

func (s *Store) read() (c contents, err error) {
	f, err := os.Open(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("read overlay: %w", err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	text, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return c, fmt.Errorf("read overlay: %w", err)
	}
	if len(text) > maxBytes {
		return c, fmt.Errorf("read overlay: %s is larger than %d bytes", s.path, maxBytes)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if e, err := overlay.Parse([]byte(line)); err != nil {
			c.unreadable = append(c.unreadable, unreadable{n, line, err})
		} else {
			c.entries = append(c.entries, e)
		}
	}
	return c, nil
}

// edit replaces the entry of an id, nil removes it.
func (s *Store) edit(ctx context.Context, id string, e *overlay.Entry) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	c, err := s.read()
	if err != nil {
		return err
	}
	set := overlay.Set{}
	for _, have := range c.entries {
		set.Add(have)
	}
	delete(set, id)
	if e != nil {
		set[id] = *e
	}
	var b bytes.Buffer
	for _, e := range set.Sorted() {
		line, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("write overlay: %w", err)
		}
		b.Write(append(line, '\n'))
	}
	for _, u := range c.unreadable {
		b.WriteString(u.text + "\n")
	}
	return s.replace(b.Bytes())
}

// lock takes the exclusive lock of the directory, which ends with the process.
func (s *Store) lock(ctx context.Context) (unlock func(), err error) {
	d, err := os.Open(filepath.Dir(s.path))
	if err != nil {
		return nil, fmt.Errorf("lock overlay: %w", err)
	}
	const pause = 5 * time.Millisecond
	for err = ctx.Err(); err == nil; {
		err = syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { d.Close() }, nil //nolint:errcheck // nothing was written; closing unlocks
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			break
		}
		wait := time.NewTimer(pause)
		select {
		case <-wait.C:
			err = nil
		case <-ctx.Done():
			wait.Stop()
			err = fmt.Errorf("another process has %s: %w", d.Name(), ctx.Err())
		}
	}
	return nil, errors.Join(fmt.Errorf("lock overlay: %w", err), d.Close())
}

// replace writes the file whole or not at all, also where power fails. It stays
// its owner's: who may write in the directory, such as root in an emergency, must
// not take it from the airgate that reads it.
func (s *Store) replace(text []byte) (err error) {
	dir := filepath.Dir(s.path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(s.path)+".*") // readable by its owner alone
	if err != nil {
		return fmt.Errorf("write overlay: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write overlay: %w", errors.Join(err, os.Remove(f.Name())))
		}
	}()
	_, err = f.Write(text)
	if err == nil {
		err = s.own(f)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), s.path); err != nil {
		return err
	}
	d, err := os.Open(dir) // #nosec G304 -- the operator names the directory
	if err != nil {
		return nil // the file is there; only its survival of a power cut is not sure
	}
	_ = d.Sync() // as above
	_ = d.Close()
	return nil
}

// own gives f to whom the file belongs, or the directory where there is none.
func (s *Store) own(f *os.File) error {
	info, err := os.Stat(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		info, err = os.Stat(filepath.Dir(s.path))
	}
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(owner.Uid) == os.Geteuid() {
		return nil
	}
	return f.Chown(int(owner.Uid), int(owner.Gid))
}
