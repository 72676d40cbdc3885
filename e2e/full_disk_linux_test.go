package e2e

import (
	"context"
	"database/sql"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"airgate/accounting/money"
	"airgate/envoy/extproc/extproctest"
)

const (
	noMount  = 3        // exit code of a process that may not mount after all
	tinyDisk = 24 << 20 // bytes
	noRoom   = 16 << 10 // what others leave to airgate
	inFlight = 40       // calls, as the disk fills up
)

// A real, tiny disk fills up: calls are refused before a promise is broken,
// those in flight are settled, and calls are admitted again as soon as there is
// room. A kill and a start while it is full change nothing.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	if os.Getenv(inNamespace) == "" {
		againInNamespace(t)
		return
	}
	for name, records := range map[string]string{"records elsewhere": "../usage.db", "records on it": "usage.db"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fullDisk(t, records)
		})
	}
}

// againInNamespace runs the test in a process that may mount: as root of the
// machine, else as root of a user namespace.
func againInNamespace(t *testing.T) {
	t.Helper()
	failpointBinary(t)
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inNamespace+"="+binaries)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	exit, ran := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		t.Logf("%s", out)
	case ran && exit.ExitCode() != noMount:
		t.Fatalf("%v\n%s", err, out)
	case os.Getenv("CI") == "true":
		t.Fatalf("a tmpfs cannot be mounted here: %v\n%s", err, out)
	default:
		t.Skipf("a tmpfs cannot be mounted here: %v\n%s", err, out)
	}
}

// tiny is a file system of tinyDisk bytes.
type tiny struct {
	t   testing.TB
	dir string
}

func mountTiny(t testing.TB, dir string) *tiny {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=700,size="+strconv.Itoa(tinyDisk)); err != nil {
		_, _ = os.Stderr.WriteString("mount: " + err.Error() + "\n")
		os.Exit(noMount)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return &tiny{t: t, dir: dir}
}

// others is the file that stands for all that others have on the disk.
func (d *tiny) others() string { return filepath.Join(d.dir, "others") }

// takeRoom leaves so many bytes.
func (d *tiny) takeRoom(left int64) {
	d.t.Helper()
	var s syscall.Statfs_t
	err := syscall.Statfs(d.dir, &s)
	if err == nil {
		err = os.WriteFile(d.others(), make([]byte, max(0, int64(s.Bavail)*s.Bsize-left)), 0o600)
	}
	if err != nil && !errors.Is(err, syscall.ENOSPC) { // airgate was faster
		d.t.Fatal(err)
	}
}

func (d *tiny) makeRoom() {
	d.t.Helper()
	if err := os.Remove(d.others()); err != nil {
		d.t.Fatal(err)
	}
}

// fullDisk has the journal on a tiny disk, and the records database there or
// elsewhere.
func fullDisk(t *testing.T, records string) {
	c := newCrash(t, 1)
	data := filepath.Join(c.dir, "data")
	c.records = filepath.Join(data, records)
	c.room = 1000 * money.USD
	c.writeConfig(crashPolicy(c.room) + "sinks: [{name: local, type: sqlite, path: " + c.records + "}]\n")
	d := mountTiny(t, data)

	f := c.onTiny("")
	f.flight()
	goOn := c.holdSink()
	for range 1600 { // the sink lags
		f.call()
	}
	d.takeRoom(noRoom)
	f.fill()
	goOn() // it must not take the room that is kept for the settlements
	f.settle()
	d.makeRoom()
	f.admit()

	f.flight()
	d.takeRoom(noRoom)
	f.fill()
	f.slay() // with calls in flight

	if f = c.onTiny(""); f == nil {
		text, err := os.ReadFile(c.log.Name())
		if err != nil || !strings.Contains(string(text), "no space left on device") {
			c.fatalf("airgate does not start on a full disk, and does not say why (%v)", err)
		}
		t.Log("a start on the full disk fails, and says why")
		d.makeRoom()
	} else {
		if one := f.call(); one.code != "journal_unavailable" {
			c.fatalf("started on a full disk: a call is answered %+v", one.promise)
		}
		t.Log("a start on the full disk serves refusals")
		d.makeRoom()
		f.admit()
		f.slay()
	}

	f = c.onTiny("journal.released:1")
	f.admit()
	f.flight()
	d.takeRoom(noRoom)
	for one := (played{}); one.err == nil; f.all = append(f.all, one) {
		one = f.play(nil)
	}
	<-f.process.done // as it gives up its ballast
	f.slay()
	d.makeRoom()
	c.audit()
}

// filling is a life of airgate on a disk that fills up.
type filling struct {
	*crash

	process *process
	envoy   *extproctest.Envoy
	all     []played      // calls that have ended
	open    chan played   // those in flight, as they end
	release chan struct{} // lets them
}

// onTiny starts airgate; nil = it has ended before it served.
func (c *crash) onTiny(failpoint string) *filling {
	c.t.Helper()
	f := &filling{crash: c, process: c.begin(failpoint)}
	if !c.poll(f.process, "to listen", func() bool {
		var err error
		f.envoy, err = extproctest.Dial(c.socket())
		return err == nil
	}) {
		return nil
	}
	return f
}

func (f *filling) play(wait func()) (one played) {
	one.play = play{team: "wide", model: "gpt-5.4-mini", status: http.StatusOK, tokens: 10, stream: wait != nil, wait: wait}
	one.promise, one.err = one.run(f.envoy, f.keys[one.team])
	return one
}

// call plays one call. It is answered, or refused because the disk is full.
func (f *filling) call() played {
	f.t.Helper()
	one := f.play(nil)
	switch {
	case one.err != nil:
		f.fatalf("a call is broken off: %v", one.err)
	case one.code == "":
	case one.code != "journal_unavailable" || one.forwarded || one.httpStatus != http.StatusServiceUnavailable || one.retryAfter == "":
		f.fatalf("a call is refused: %+v", one.promise)
	}
	f.all = append(f.all, one)
	return one
}

// flight begins calls that go on while the disk fills up, once room is kept for
// holdSink keeps airgate's sink from writing until goOn is called.
func (c *crash) holdSink() (goOn func()) {
	c.t.Helper()
	db, err := sql.Open("sqlite", "file:"+c.records)
	if err != nil {
		c.t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	if !eventually(func() bool {
		_, err := db.ExecContext(context.Background(), "BEGIN IMMEDIATE")
		return err == nil
	}) {
		c.t.Fatal("the sink cannot be held up")
	}
	return func() {
		if _, err := db.ExecContext(context.Background(), "ROLLBACK"); err != nil {
			c.t.Error(err)
		}
		_ = db.Close() // it was only held
	}
}

// their end.
func (f *filling) flight() {
	f.t.Helper()
	begun := make(chan struct{})
	f.open, f.release = make(chan played, inFlight), make(chan struct{})
	for range inFlight {
		go func() {
			f.open <- f.play(func() {
				begun <- struct{}{}
				<-f.release
			})
		}()
	}
	for range inFlight {
		select {
		case <-begun:
		case one := <-f.open:
			f.fatalf("a call that was to be in flight has ended: %+v", one)
		}
	}
}

// fill makes calls until one is refused.
func (f *filling) fill() {
	f.t.Helper()
	for deadline := time.Now().Add(time.Minute); f.call().code == ""; {
		if time.Now().After(deadline) {
			f.fatalf("the disk does not fill up")
		}
	}
}

// settle ends the calls in flight.
func (f *filling) settle() {
	f.t.Helper()
	close(f.release)
	for range inFlight {
		one := <-f.open
		if one.err != nil || !one.settled {
			f.fatalf("a call that was in flight as the disk filled up has ended so: %+v", one)
		}
		f.all = append(f.all, one)
	}
	f.open = nil
}

// admit waits until a call is admitted again.
func (f *filling) admit() {
	f.t.Helper()
	for deadline := time.Now().Add(time.Minute); f.call().code != ""; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			f.fatalf("there is room, and nothing is admitted")
		}
	}
}

// slay is kill -9, whatever is in flight.
func (f *filling) slay() {
	f.t.Helper()
	f.process.kill()
	f.kills++
	if f.open != nil {
		close(f.release)
		for range inFlight {
			f.all = append(f.all, <-f.open)
		}
	}
	f.examine(f.all, true)
}
