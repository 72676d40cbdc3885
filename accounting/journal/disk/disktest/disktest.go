// Package disktest simulates a disk: one that forgets, when the machine
// crashes, what was not synced, and that fails when it is told to.
package disktest

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
	"sync"

	"airgate/accounting/journal/disk"
)

// What a change can end in.
var (
	ErrCrashed = errors.New("the machine is off")
	ErrFault   = errors.New("injected fault")
)

// Disk is a disk in memory that forgets, when the machine crashes, what was
// not synced: contents until the file's Sync, names until their directory's.
type Disk struct {
	mu    sync.Mutex
	rng   *rand.Rand
	names map[string]*simFile // :: path → file; nil = a directory
	last  []change            // changes of names, oldest first, not yet synced
	safe  map[string]*simFile // names as they are on the platter
	locks map[string]bool
	held  map[string]chan struct{}         // :: kind of change → closed once it may go on
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
	disk  *Disk
	path  string
	data  []byte
	safe  []byte
	dirty []write
}

type write struct {
	at   int64
	data []byte // nil = truncated to at
}

// New returns an empty disk; the seed decides what a crash leaves.
func New(seed uint64) *Disk {
	return &Disk{
		rng: rand.New(rand.NewPCG(seed, 1)), names: map[string]*simFile{}, safe: map[string]*simFile{}, locks: map[string]bool{}, held: map[string]chan struct{}{},
		trace: func(string, ...any) {},
	}
}

// Off lets the machine crash at its nth change from here on; 0 = never.
func (d *Disk) Off(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.off = n
	if n > 0 {
		d.off += d.ops
	}
}

// Fail asks f of each change what goes wrong instead: ErrFault, another error,
// or nil. f may be nil. It runs under the disk's lock.
func (d *Disk) Fail(f func(op, path string) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = f
}

// FailNext fails the next n changes of the kind op.
func (d *Disk) FailNext(n int, op string) {
	d.Fail(func(o, _ string) error {
		if n > 0 && o == op {
			n--
			return ErrFault
		}
		return nil
	})
}

// Hold lets changes of the kind op wait until release is called.
func (d *Disk) Hold(op string) (release func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	held := make(chan struct{})
	d.held[op] = held
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.held, op)
		close(held)
	}
}

// Trace tells f of each change.
func (d *Disk) Trace(f func(format string, args ...any)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.trace = f
}

// Files is every file's contents as programs see them. :: path → bytes
func (d *Disk) Files() map[string][]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make(map[string][]byte)
	for path, f := range d.names {
		if f != nil {
			all[path] = bytes.Clone(f.data)
		}
	}
	return all
}

// Delete removes a file for good.
func (d *Disk) Delete(path string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.names, path)
	delete(d.safe, path)
}

// step counts one change and says what becomes of it.
func (d *Disk) step(op, path string) error {
	if d.off > 0 && d.ops >= d.off {
		return ErrCrashed
	}
	d.ops++
	if d.fault != nil {
		return d.fault(op, path)
	}
	return nil
}

// Crash is what the machine finds as it starts again.
func (d *Disk) Crash() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := New(d.rng.Uint64())
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

// Kill is what the next process finds after a kill -9: all that was written.
func (d *Disk) Kill() *Disk {
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

func (d *Disk) do(op, path string, f func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if held := d.held[op]; held != nil {
		d.mu.Unlock()
		<-held
		d.mu.Lock()
	}
	err := d.step(op, path)
	if err == nil {
		err = f()
	}
	d.trace("%s %s: %v", op, path, err)
	return err
}

func (d *Disk) change(c change) {
	c.apply(d.names)
	d.last = append(d.last, c)
}

func (d *Disk) Mkdir(name string) error {
	return d.do("mkdir", name, func() error {
		if _, ok := d.names[name]; !ok {
			d.change(change{path: name})
		}
		return nil
	})
}

func (d *Disk) Open(name string) (disk.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.names[name]
	if f == nil {
		return nil, fmt.Errorf("open %s: %w", name, fs.ErrNotExist)
	}
	return f, nil
}

func (d *Disk) Create(name string) (disk.File, error) {
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

func (d *Disk) Rename(from, to string) error {
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

func (d *Disk) Remove(name string) error {
	return d.do("remove", name, func() error {
		d.change(change{path: name, gone: true})
		return nil
	})
}

func (d *Disk) List(dir string) ([]string, error) {
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

func (d *Disk) SyncDir(dir string) error {
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
	disk *Disk
	dir  string
}

func (d *Disk) Lock(dir string) (io.Closer, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.locks[dir] {
		return nil, disk.ErrLocked
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
	if errors.Is(err, ErrFault) { // a short write
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
	if errors.Is(err, ErrFault) {
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

// Set replaces a file's contents.
func (d *Disk) Set(path string, data []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := &simFile{disk: d, path: path, data: bytes.Clone(data), safe: bytes.Clone(data)}
	d.names[path], d.safe[path] = f, f
}

// Clone is a disk with the same files, all durable, nothing locked.
func (d *Disk) Clone() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := New(d.rng.Uint64())
	for path, f := range d.names {
		if f != nil {
			f = &simFile{disk: next, path: path, data: bytes.Clone(f.data), safe: bytes.Clone(f.data)}
		}
		next.names[path], next.safe[path] = f, f
	}
	return next
}

// room is what a simulated disk has free, and its size.
const room = 1 << 40

// Space implements disk.Disk: there is room.
func (d *Disk) Space(string) (free, size int64, err error) { return room / 2, room, nil }
