package processor_test

import (
	"time"

	"airgate/accounting/journal/disk"
	"airgate/accounting/journal/disk/disktest"
)

const (
	simDir  = "/journal"
	simRoom = 16 << 20 // bytes of the disk
)

// spell is a time, in changes of the disk, in which it fails.
type spell struct {
	from, to int
	op       string // "" = every kind
}

// fault decides what becomes of a change of the disk.
func (l *life) fault(op, _ string) error {
	l.ops++
	switch {
	case l.dead.Load():
		return disktest.ErrCrashed
	case l.ops == l.plan.at:
		l.w.count("deaths at " + op)
		l.die()
		return disktest.ErrCrashed
	}
	for _, s := range l.plan.spells {
		if s.from <= l.ops && l.ops < s.to && (s.op == "" || s.op == op) {
			l.failed.Store(true)
			l.w.count("failures of " + op)
			return disktest.ErrFault
		}
	}
	return nil
}

// crowd lets others fill up the disk, to the last byte or nearly, and make room
// again, or not before the next start.
func (l *life) crowd() {
	rng := l.w.source(1 << 26)
	for l.sleep(rng, upTo(rng, l.plan.length)) {
		l.failed.Store(true)
		l.w.crowded = true
		for range 1 + rng.IntN(4) {
			free, size, _ := l.w.disk.Space(simDir)
			l.w.disk.Resize(size - free + rng.Int64N(free/pick(rng, int64(1), 10, 1000)+1))
			l.w.count("squeezes")
			if !l.sleep(rng, upTo(rng, l.plan.length/20)) {
				return
			}
		}
		l.w.makeRoom()
	}
}

func (w *world) makeRoom() {
	w.disk.Resize(simRoom)
	w.crowded = false
}

// slowDisk is the world's disk, which takes its time to sync.
type slowDisk struct {
	*disktest.Disk

	life *life
}

type slowFile struct {
	disk.File

	life *life
}

func (d slowDisk) Open(name string) (disk.File, error) {
	f, err := d.Disk.Open(name)
	return slowFile{f, d.life}, err
}

func (d slowDisk) Create(name string) (disk.File, error) {
	f, err := d.Disk.Create(name)
	return slowFile{f, d.life}, err
}

func (f slowFile) Sync() error {
	time.Sleep(f.life.syncs.draw(5 * time.Millisecond))
	if f.life.syncs.draw(300) == 0 {
		time.Sleep(3 * time.Second) // longer than an answer is held back
	}
	return f.File.Sync()
}
