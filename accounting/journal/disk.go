package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// disk is the file system as the journal uses it. Tests simulate one that
// loses what was not synced.
type disk interface {
	Mkdir(name string) error
	Open(name string) (file, error)   // for reading and writing
	Create(name string) (file, error) // must not exist
	Rename(from, to string) error
	Remove(name string) error
	List(dir string) ([]string, error) // names, sorted
	SyncDir(dir string) error          // makes creations and renames last
	Lock(dir string) (io.Closer, error)
}

// file is one file.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Size() (int64, error)
	Truncate(size int64) error
	Sync() error
}

// errLocked means that another process has the lock.
var errLocked = errors.New("locked by another process")

// osDisk is the operating system's.
type osDisk struct{}

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (f osFile) Sync() error { return fdatasync(f.File) }

func (osDisk) Mkdir(name string) error { return os.MkdirAll(name, 0o700) }

func (osDisk) Open(name string) (file, error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0) //nolint:gosec // below the configured directory
	if errors.Is(err, os.ErrPermission) {     // a reader need not be able to write
		f, err = os.Open(name) //nolint:gosec // below the configured directory
	}
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osDisk) Create(name string) (file, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // below the configured directory
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osDisk) Rename(from, to string) error { return os.Rename(from, to) }

func (osDisk) Remove(name string) error { return os.Remove(name) }

func (osDisk) List(dir string) ([]string, error) {
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

func (osDisk) SyncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // the configured directory
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Lock holds a directory until the closer is closed or the process ends,
// however it ends.
func (osDisk) Lock(dir string) (io.Closer, error) {
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
		err = errLocked
	}
	return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), d.Close())
}
