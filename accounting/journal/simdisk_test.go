package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

var (
	errCrashed = errors.New("the machine is off")
	errFault   = errors.New("injected fault")
)

// simDisk is a disk in memory that forgets, when the machine crashes, what was
// not synced: contents until the file's Sync, names until their directory's.
type simDisk struct {
	mu    sync.Mutex
	rng   *rand.Rand
	names map[string]*simFile // :: path → file; nil = a directory
	last  []change            // changes of names, oldest first, not yet synced
	safe  map[string]*simFile // names as they are on the platter
	locks map[string]bool
	ops   int                              // changes so far
	off   int                              // the machine crashes at this one; 0 = never
	fault func(op, path string) error      // what goes wrong instead; may be nil
	trace func(format string, args ...any) // for a failing seed
}

type change struct {
	path string
	file *simFile
	gone bool
}

// simFile is a file: bytes as programs see them, as they are on the platter,
// and the writes in between. A failed Sync drops the latter, as Linux does.
type simFile struct {
	disk  *simDisk
	path  string
	data  []byte
	safe  []byte
	dirty []write
}

type write struct {
	at   int64
	data []byte // nil = truncated to at
}

func newSimDisk(seed uint64) *simDisk {
	return &simDisk{
		rng: rand.New(rand.NewPCG(seed, 1)), names: map[string]*simFile{}, safe: map[string]*simFile{}, locks: map[string]bool{},
		trace: func(string, ...any) {},
	}
}

// step counts one change and says what becomes of it.
func (d *simDisk) step(op, path string) error {
	if d.off > 0 && d.ops >= d.off {
		return errCrashed
	}
	d.ops++
	if d.fault != nil {
		return d.fault(op, path)
	}
	return nil
}

// crash is what the machine finds as it starts again.
func (d *simDisk) crash() *simDisk {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := newSimDisk(d.rng.Uint64())
	names := maps.Clone(d.safe)
	for _, c := range d.last[:d.rng.IntN(len(d.last)+1)] {
		c.apply(names)
	}
	paths := make([]string, 0, len(names))
	for path := range names {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	for _, path := range paths {
		f := names[path]
		if f == nil {
			next.names[path] = nil
			continue
		}
		data := bytes.Clone(f.safe)
		kept := d.rng.IntN(len(f.dirty) + 1)
		for i, w := range f.dirty {
			if i == kept { // this one was under way
				n := d.rng.IntN(len(w.data) + 1)
				torn := bytes.Clone(w.data[:n])
				if d.rng.IntN(2) == 0 {
					torn = append(torn, make([]byte, len(w.data)-n)...) // the size came first
				}
				if len(torn) > 0 {
					data = apply(data, write{w.at, torn})
				}
				break
			}
			data = apply(data, w)
		}
		next.names[path] = &simFile{disk: next, path: path, data: data, safe: bytes.Clone(data)}
	}
	maps.Copy(next.safe, next.names)
	return next
}

// kill is what the next process finds after a kill -9: all that was written.
func (d *simDisk) kill() *simDisk {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.locks = map[string]bool{}
	d.off, d.fault = 0, nil
	return d
}

func (c change) apply(names map[string]*simFile) {
	if c.gone {
		delete(names, c.path)
	} else {
		names[c.path] = c.file
	}
}

func apply(data []byte, w write) []byte {
	if w.data == nil {
		return data[:min(w.at, int64(len(data)))]
	}
	if end := w.at + int64(len(w.data)); end > int64(len(data)) {
		data = append(data, make([]byte, end-int64(len(data)))...)
	}
	copy(data[w.at:], w.data)
	return data
}

func (d *simDisk) do(op, path string, f func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.step(op, path)
	if err == nil {
		err = f()
	}
	d.trace("%s %s: %v", op, path, err)
	return err
}

func (d *simDisk) change(c change) {
	c.apply(d.names)
	d.last = append(d.last, c)
}

func (d *simDisk) Mkdir(name string) error {
	return d.do("mkdir", name, func() error {
		if _, ok := d.names[name]; !ok {
			d.change(change{path: name})
		}
		return nil
	})
}

func (d *simDisk) Open(name string) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.names[name]
	if f == nil {
		return nil, fmt.Errorf("open %s: %w", name, fs.ErrNotExist)
	}
	return f, nil
}

func (d *simDisk) Create(name string) (file, error) {
	var f *simFile
	err := d.do("create", name, func() error {
		if _, ok := d.names[name]; ok {
			return fs.ErrExist
		}
		f = &simFile{disk: d, path: name}
		d.change(change{path: name, file: f})
		return nil
	})
	return f, err
}

func (d *simDisk) Rename(from, to string) error {
	return d.do("rename", to, func() error {
		f, ok := d.names[from]
		if !ok {
			return fs.ErrNotExist
		}
		f.path = to
		d.change(change{path: to, file: f})
		d.change(change{path: from, gone: true})
		return nil
	})
}

func (d *simDisk) Remove(name string) error {
	return d.do("remove", name, func() error {
		d.change(change{path: name, gone: true})
		return nil
	})
}

func (d *simDisk) List(dir string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []string
	for path := range d.names {
		if filepath.Dir(path) == dir {
			all = append(all, filepath.Base(path))
		}
	}
	slices.Sort(all)
	return all, nil
}

func (d *simDisk) SyncDir(dir string) error {
	return d.do("sync directory", dir, func() error {
		d.last = slices.DeleteFunc(d.last, func(c change) bool {
			if filepath.Dir(c.path) != dir {
				return false
			}
			c.apply(d.safe)
			return true
		})
		return nil
	})
}

type simLock struct {
	disk *simDisk
	dir  string
}

func (d *simDisk) Lock(dir string) (io.Closer, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.locks[dir] {
		return nil, errLocked
	}
	d.locks[dir] = true
	return simLock{d, dir}, nil
}

func (l simLock) Close() error {
	l.disk.mu.Lock()
	defer l.disk.mu.Unlock()
	delete(l.disk.locks, l.dir)
	return nil
}

func (f *simFile) ReadAt(p []byte, off int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if off >= int64(len(f.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *simFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.disk.do("write", f.path, func() error {
		n = len(p)
		f.put(write{off, bytes.Clone(p)})
		return nil
	})
	if errors.Is(err, errFault) { // a short write
		f.disk.mu.Lock()
		defer f.disk.mu.Unlock()
		n = f.disk.rng.IntN(len(p))
		if n > 0 {
			f.put(write{off, bytes.Clone(p[:n])})
		}
	}
	return n, err
}

func (f *simFile) put(w write) {
	f.data = apply(f.data, w)
	f.dirty = append(f.dirty, w)
}

func (f *simFile) Truncate(size int64) error {
	return f.disk.do("truncate", f.path, func() error {
		f.put(write{at: size})
		return nil
	})
}

func (f *simFile) Sync() error {
	err := f.disk.do("sync", f.path, func() error {
		for _, w := range f.dirty {
			f.safe = apply(f.safe, w)
		}
		f.dirty = nil
		return nil
	})
	if errors.Is(err, errFault) {
		f.disk.mu.Lock()
		defer f.disk.mu.Unlock()
		f.dirty = nil // the pages are clean now, and nowhere
	}
	return err
}

func (f *simFile) Size() (int64, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	return int64(len(f.data)), nil
}

func (f *simFile) Close() error { return nil }

// segmentsOf is the contents of a writer's segments. :: path → bytes
func (d *simDisk) segmentsOf(writer string) map[string][]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := map[string][]byte{}
	for path, f := range d.names {
		if f != nil && strings.HasSuffix(path, suffix) && filepath.Base(filepath.Dir(path)) == writer {
			all[path] = bytes.Clone(f.data)
		}
	}
	return all
}

// onlySegment is the one segment of a writer that has one.
func (d *simDisk) onlySegment(writer string) (path string, data []byte) {
	all := d.segmentsOf(writer)
	for path := range all {
		return path, all[path]
	}
	panic("no segment")
}

// set replaces a file's contents.
func (d *simDisk) set(path string, data []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := &simFile{disk: d, path: path, data: bytes.Clone(data), safe: bytes.Clone(data)}
	d.names[path], d.safe[path] = f, f
}

// clone is a disk with the same files, all durable, nothing locked.
func (d *simDisk) clone() *simDisk {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := newSimDisk(d.rng.Uint64())
	for path, f := range d.names {
		if f != nil {
			f = &simFile{disk: next, path: path, data: bytes.Clone(f.data), safe: bytes.Clone(f.data)}
		}
		next.names[path], next.safe[path] = f, f
	}
	return next
}
