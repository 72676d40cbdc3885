// Package disk is the file system as the journal uses it: what must be made to
// last is made so explicitly, by Sync for a file's bytes and by SyncDir for
// names. OS is the machine's; disktest simulates one that loses what was not
// made to last, and that fails.
package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
)

// Disk is a file system.
type Disk interface {
	Mkdir(name string) error
	Open(name string) (File, error)   // for reading and writing
	Create(name string) (File, error) // must not exist
	// Reserve makes a file, which must not exist, of size bytes that take room
	// whatever the file system makes of holes and zeros. If it fails, or ctx ends
	// before it is done, there is no file.
	Reserve(ctx context.Context, name string, size int64) error
	Rename(from, to string) error
	Remove(name string) error          // a file, or an empty directory
	List(dir string) ([]string, error) // names, sorted
	SyncDir(dir string) error          // makes creations, renames and removals last
	// Lock holds a directory until the closer is closed or the process ends,
	// however it ends. ErrLocked means that another has it.
	Lock(dir string) (io.Closer, error)
	// Space is how many bytes of the file system that has dir are left for us,
	// and how many it has.
	Space(dir string) (free, size int64, err error)
}

// File is one file.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Size() (int64, error)
	Truncate(size int64) error
	Sync() error
}

// Temporary is behind the name of a file that is not complete. Whoever finds one
// that nobody is making may remove it.
const Temporary = ".new"

// Save makes a file of these bytes, or replaces one. Whenever the name is there
// its file is whole, and both are durable once Save has returned.
func Save(d Disk, name string, b []byte) error {
	if err := d.Remove(name + Temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := write(d, name+Temporary, b); err != nil {
		return err
	}
	if err := d.Rename(name+Temporary, name); err != nil {
		return err
	}
	return d.SyncDir(filepath.Dir(name))
}

// Load reads a file whole.
func Load(d Disk, name string) (b []byte, err error) {
	f, err := d.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return ReadFrom(f, 0)
}

// ReadFrom reads what a file has at and behind off.
func ReadFrom(f File, off int64) ([]byte, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, size-off)
	if _, err := f.ReadAt(b, off); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b, nil
}

// write makes a file whose bytes are durable; its name is not.
func write(d Disk, name string, b []byte) (err error) {
	f, err := d.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.WriteAt(b, 0); err != nil {
		return err
	}
	return f.Sync()
}

// Full reports whether err means that there is no room left, on the disk or in
// our share of it.
func Full(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// ErrLocked means that another process has the lock.
var ErrLocked = errors.New("locked by another process")

// OS is the operating system's.
type OS struct{}

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (f osFile) Sync() error { return fdatasync(f.File) }

// Mkdir implements Disk.
func (OS) Mkdir(name string) error { return os.MkdirAll(name, 0o700) }

// Open implements Disk.
func (OS) Open(name string) (File, error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0) //nolint:gosec // below the configured directory
	if errors.Is(err, os.ErrPermission) {     // a reader need not be able to write
		f, err = os.Open(name) //nolint:gosec // below the configured directory
	}
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Create implements Disk.
func (OS) Create(name string) (File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // below the configured directory
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Reserve implements Disk. It syncs each part by itself: other files' syncs,
// which may have to wait for it, are never far behind.
func (OS) Reserve(ctx context.Context, name string, size int64) (err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // below the configured directory
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(err, os.Remove(name))
		}
	}()
	noise := rand.NewChaCha8([32]byte{}) // a file system that compresses has no use for it
	part := make([]byte, min(size, 1<<20))
	for size > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		part = part[:min(size, int64(len(part)))]
		_, _ = noise.Read(part) // never fails
		if _, err := f.Write(part); err != nil {
			return err
		}
		if err := fdatasync(f); err != nil {
			return err
		}
		size -= int64(len(part))
	}
	return nil
}

// Rename implements Disk.
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// Remove implements Disk.
func (OS) Remove(name string) error { return os.Remove(name) }

// List implements Disk.
func (OS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// SyncDir implements Disk.
func (OS) SyncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // the configured directory
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Lock implements Disk.
func (OS) Lock(dir string) (io.Closer, error) {
	d, err := os.Open(dir) //nolint:gosec // the configured directory
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err == nil {
		return d, nil
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = ErrLocked
	}
	return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), d.Close())
}

// Space implements Disk.
func (OS) Space(dir string) (free, size int64, err error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, 0, fmt.Errorf("space of %s: %w", dir, err)
	}
	return int64(s.Bavail) * blockSize(&s), int64(s.Blocks) * blockSize(&s), nil
}
