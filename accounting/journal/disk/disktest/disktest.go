// Package disktest simulates a disk: one that forgets, when the machine
// crashes, what was not synced, and that fails when it is told to.
package disktest

import (
	"bytes"
	"context"
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
	"syscall"

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
	size  int64               // of the whole disk
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

// change is a name that came, with file (nil = a directory), or went. One that
// came from another name came in the same step as that one went.
type change struct {
	path string
	file *simFile
	from string
	gone bool
}

// simFile is a file: bytes as programs see them, as they are on the platter,
// and the writes in between. A failed Sync drops, as Linux does, what of the
// latter has not reached the platter.
type simFile struct {
	disk  *Disk
	path  string
	data  []byte
	safe  []byte
	dirty []write

	reserved int64 // bytes that take room and are not there to be read
}

type write struct {
	at   int64
	data []byte // nil = truncated to at
}

// room is the size of a disk that nobody fills.
const room = 1 << 40

// New returns an empty disk with more room than anybody needs; the seed decides
// what a crash leaves.
func New(seed uint64) *Disk {
	return &Disk{
		size: room,
		rng:  rand.New(rand.NewPCG(seed, 1)), names: map[string]*simFile{}, safe: map[string]*simFile{}, locks: map[string]bool{}, held: map[string]chan struct{}{},
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

// Resize gives the disk a size in bytes. What does not fit is ENOSPC; as on a
// machine, the beginning of a write that does not fit is written.
func (d *Disk) Resize(size int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.size = size
}

// freeLocked is what nobody takes.
func (d *Disk) freeLocked() int64 {
	free := d.size
	for _, f := range d.names {
		if f != nil {
			free -= int64(len(f.data)) + f.reserved
		}
	}
	return max(0, free)
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

// Crash is what the machine finds as it starts again. Of the changes of names
// that were not synced any may have reached the platter, as on a file system
// without a journal; a renaming is one. Of a file's unsynced writes any may
// have, each whole, torn between any two sectors, or not at all, and the size
// may have grown before the bytes came, which then are zeros.
func (d *Disk) Crash() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := New(d.rng.Uint64())
	next.size = d.size
	names := maps.Clone(d.safe)
	luck := d.luck()
	for _, c := range d.last {
		if luck() {
			c.apply(names)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(names)) { // parents first
		f := names[path]
		if parent := filepath.Dir(path); filepath.Dir(parent) != parent {
			if file, ok := next.names[parent]; !ok || file != nil {
				continue // its directory is gone, and it is with it
			}
		}
		if f == nil {
			next.names[path] = nil
			continue
		}
		data := bytes.Clone(f.safe)
		luck := d.luck()
		for _, w := range f.dirty {
			if luck() {
				data = apply(data, w)
			} else if d.rng.IntN(4) == 0 {
				data = d.tear(data, w)
			}
		}
		next.names[path] = &simFile{disk: next, path: path, data: data, safe: bytes.Clone(data), reserved: f.reserved}
	}
	maps.Copy(next.safe, next.names)
	return next
}

// luck says of one change after the other whether it reached the platter. They
// may reach it all, or none, in order, or in any.
func (d *Disk) luck() func() bool {
	n := d.rng.IntN(8)
	switch mode := d.rng.IntN(4); mode {
	case 0, 1:
		return func() bool { return mode == 0 }
	case 2:
		return func() bool { n--; return n >= 0 }
	}
	odds := 1 + d.rng.IntN(9)
	return func() bool { return d.rng.IntN(10) < odds }
}

// tear is data after some of the sectors of w.
func (d *Disk) tear(data []byte, w write) []byte {
	const sector = 512
	if w.data != nil && d.rng.IntN(2) == 0 { // the size came first
		data = apply(data, write{w.at + int64(len(w.data)), []byte{}})
	}
	for from := 0; from < len(w.data); {
		to := min(len(w.data), from+sector-int(w.at+int64(from))%sector)
		if d.rng.IntN(2) == 0 {
			data = apply(data, write{w.at + int64(from), w.data[from:to]})
		}
		from = to
	}
	return data
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
		return
	}
	names[c.path] = c.file
	if c.from != "" {
		delete(names, c.from)
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

// Mkdir implements disk.Disk.
func (d *Disk) Mkdir(name string) error {
	return d.do("mkdir", name, func() error {
		if _, ok := d.names[name]; !ok {
			d.change(change{path: name})
		}
		return nil
	})
}

// Open implements disk.Disk.
func (d *Disk) Open(name string) (disk.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.names[name]
	if f == nil {
		return nil, fmt.Errorf("open %s: %w", name, fs.ErrNotExist)
	}
	return f, nil
}

// Create implements disk.Disk.
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

// Reserve implements disk.Disk. The file takes room, and no memory.
func (d *Disk) Reserve(_ context.Context, name string, size int64) error {
	return d.do("reserve", name, func() error {
		if _, ok := d.names[name]; ok {
			return fs.ErrExist
		}
		if d.size < room && size > d.freeLocked() {
			return syscall.ENOSPC
		}
		d.change(change{path: name, file: &simFile{disk: d, path: name, reserved: size}})
		return nil
	})
}

// Rename implements disk.Disk.
func (d *Disk) Rename(from, to string) error {
	return d.do("rename", to, func() error {
		f, ok := d.names[from]
		if !ok {
			return fs.ErrNotExist
		}
		f.path = to
		d.change(change{path: to, file: f, from: from})
		return nil
	})
}

// Remove implements disk.Disk.
func (d *Disk) Remove(name string) error {
	return d.do("remove", name, func() error {
		if f, ok := d.names[name]; !ok {
			return fs.ErrNotExist
		} else if f == nil {
			for path := range d.names {
				if filepath.Dir(path) == name {
					return syscall.ENOTEMPTY
				}
			}
		}
		d.change(change{path: name, gone: true})
		return nil
	})
}

// List implements disk.Disk.
func (d *Disk) List(dir string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []string
	dir += "/"
	for path := range d.names {
		if name, below := strings.CutPrefix(path, dir); below && !strings.Contains(name, "/") {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all, nil
}

// SyncDir implements disk.Disk.
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

// Lock implements disk.Disk.
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
	err = f.disk.do("write", f.path, func() (full error) {
		n = len(p)
		if d := f.disk; d.size < room {
			if more := off + int64(n) - int64(len(f.data)); more > d.freeLocked() {
				n, full = int(max(0, int64(n)-more+d.freeLocked())), syscall.ENOSPC
			}
		}
		if n > 0 {
			f.put(write{off, bytes.Clone(p[:n])})
		}
		return full
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
		luck := f.disk.luck()
		for _, w := range f.dirty {
			if luck() {
				f.safe = apply(f.safe, w)
			}
		}
		f.dirty = nil // the pages are clean now, wherever they are
	}
	return err
}

func (f *simFile) Size() (int64, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	return int64(len(f.data)) + f.reserved, nil
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
	next.size = d.size
	for path, f := range d.names {
		if f != nil {
			f = &simFile{disk: next, path: path, data: bytes.Clone(f.data), safe: bytes.Clone(f.data), reserved: f.reserved}
		}
		next.names[path], next.safe[path] = f, f
	}
	return next
}

// Space implements disk.Disk.
func (d *Disk) Space(string) (free, size int64, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.freeLocked(), d.size, nil
}
