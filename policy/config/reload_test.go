package config

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// volume is a directory as the kubelet writes it: each version in a directory
// of its own, ..data a link to the one in force, and the files links through it.
type volume struct {
	dir string
	n   int
}

// swap puts the next version in force and removes the one before.
func (v *volume) swap(files map[string]string) error {
	old := fmt.Sprintf("..version%d", v.n)
	v.n++
	version := fmt.Sprintf("..version%d", v.n)
	if err := os.Mkdir(filepath.Join(v.dir, version), 0o700); err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(v.dir, version, name), []byte(text), 0o600); err != nil {
			return err
		}
		if link := filepath.Join(v.dir, name); v.n == 1 {
			if err := os.Symlink(filepath.Join(dataLink, name), link); err != nil {
				return err
			}
		}
	}
	temporary := filepath.Join(v.dir, "..data_tmp")
	if err := os.Symlink(version, temporary); err != nil {
		return err
	}
	if err := os.Rename(temporary, filepath.Join(v.dir, dataLink)); err != nil {
		return err
	}
	if v.n == 1 {
		return nil
	}
	return os.RemoveAll(filepath.Join(v.dir, old))
}

// TestReadIsOfOneVersion: however often the kubelet swaps, what is read is
// never of two versions.
func TestReadIsOfOneVersion(t *testing.T) {
	const swaps = 300
	v := &volume{dir: t.TempDir()}
	version := func(n int) map[string]string {
		return map[string]string{"a.yaml": strconv.Itoa(n), "b.yaml": strconv.Itoa(n), "c.yaml": strconv.Itoa(n)}
	}
	if err := v.swap(version(0)); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	readers.Go(func() {
		reads := 0
		for {
			select {
			case <-stop:
				if reads == 0 {
					t.Error("nothing was read")
				}
				return
			default:
			}
			files, _, err := read(v.dir)
			if err != nil && strings.Contains(err.Error(), "changes faster") {
				continue
			}
			if err != nil {
				t.Errorf("read(volume) = %v", err)
				return
			}
			reads++
			if len(files) != 3 || !bytes.Equal(files[0].data, files[1].data) || !bytes.Equal(files[1].data, files[2].data) {
				t.Errorf("read(volume) = %v, want three files of one version", files)
				return
			}
		}
	})
	for n := range swaps {
		if err := v.swap(version(n + 1)); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	readers.Wait()
}

// reloading is a Reloader under test, running.
type reloading struct {
	*Reloader
	t        *testing.T
	log      bytes.Buffer
	registry *prometheus.Registry
}

// start runs a Reloader until the test ends, in the bubble of the caller.
func start(t *testing.T, path string, check func(old, next *Snapshot) error, apply func(next *Snapshot) error) *reloading {
	t.Helper()
	return startWith(t, path, ReloaderConfig{Check: check, Apply: apply})
}

// startWith is start with more of the config.
func startWith(t *testing.T, path string, c ReloaderConfig) *reloading {
	t.Helper()
	initial, err := Load(path, time.Now())
	if err != nil {
		t.Fatalf("Load(%s) = %v", path, err)
	}
	r := &reloading{t: t, registry: prometheus.NewRegistry()}
	c.Path, c.Initial, c.Registerer = path, initial, r.registry
	c.Log = slog.New(slog.NewTextHandler(&r.log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	r.Reloader, err = NewReloader(c)
	if err != nil {
		t.Fatalf("NewReloader = %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	r.wait()
	return r
}

// wait lets the reloader look at least once.
func (r *reloading) wait() {
	time.Sleep(1100 * time.Millisecond)
	synctest.Wait()
}

// lines returns what was logged since the last call.
func (r *reloading) lines() []string {
	text := strings.TrimSpace(r.log.String())
	r.log.Reset()
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

func (r *reloading) wantMetrics(good int) {
	r.t.Helper()
	want := fmt.Sprintf(`# HELP airgate_config_info Always 1; the label is the hash of the configuration in force.
# TYPE airgate_config_info gauge
airgate_config_info{hash=%q} 1
# HELP airgate_config_last_reload_successful 1 if the configuration files, as of the last look, are in force.
# TYPE airgate_config_last_reload_successful gauge
airgate_config_last_reload_successful %d
`, r.Current().Hash, good)
	if err := testutil.GatherAndCompare(r.registry, strings.NewReader(want)); err != nil {
		r.t.Error(err)
	}
}

const second = base + "budgets: [{name: search, usd: 500, per: month}]\n"

func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := write(t, map[string]string{"airgate.yaml": base + "budgets: [{name: search, usd: 5, per: month}]\n"})
		path := filepath.Join(dir, "airgate.yaml")
		var applied []string
		r := start(t, dir, nil, func(next *Snapshot) error {
			applied = append(applied, next.Hash)
			return nil
		})
		first := r.Current()
		if lines := r.lines(); lines != nil {
			t.Errorf("an unchanged config logs %q", lines)
		}
		r.wantMetrics(1)

		replace(t, path, second)
		r.wait()
		good := r.Current()
		if good == first || len(applied) != 1 || applied[0] != good.Hash {
			t.Fatalf("after a change: snapshot %s, applied %v; want a new one, applied once", good.ShortHash(), applied)
		}
		if lines := r.lines(); len(lines) != 1 || !strings.Contains(lines[0], "config is in force") {
			t.Errorf("after a change the log is %q, want one line", lines)
		}

		replace(t, path, second+"limitz: []\n")
		r.wait()
		r.wait()
		if r.Current() != good {
			t.Errorf("a bad config has replaced a good one")
		}
		s := r.Status()
		wantText := path + ":7:1: unknown field \"limitz\": did you mean limits?"
		if s.Successful || s.Hash != good.Hash || s.LastError == nil || s.LastError.Error() != wantText {
			t.Errorf("Status = %+v, want hash %s and error %s", s, good.Hash, wantText)
		}
		if !s.LastFailure.Equal(time.Now().Truncate(time.Second)) && time.Since(s.LastFailure) > 2*time.Second {
			t.Errorf("LastFailure = %v, want the last look", s.LastFailure)
		}
		if lines := r.lines(); len(lines) != 1 || !strings.Contains(lines[0], "limitz") {
			t.Errorf("two looks at a bad config log %q, want one line that says why", lines)
		}
		r.wantMetrics(0)

		replace(t, path, second)
		r.wait()
		if s := r.Status(); !s.Successful || s.LastError != nil || r.Current() != good || len(applied) != 1 {
			t.Errorf("back at the config in force: Status = %+v, want success without another snapshot", s)
		}
		if lines := r.lines(); len(lines) != 1 {
			t.Errorf("back at the config in force the log is %q, want one line", lines)
		}
		r.wantMetrics(1)
	})
}

// TestReloadOfOneFile: a configuration may be one file.
func TestReloadOfOneFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(write(t, map[string]string{"airgate.yaml": base}), "airgate.yaml")
		r := start(t, path, nil, nil)
		first := r.Current()
		replace(t, path, second)
		r.wait()
		if r.Current() == first || !r.Status().OK() {
			t.Errorf("Status = %+v, want the second text in force", r.Status())
		}
	})
}

func TestReloadOfAVolume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &volume{dir: t.TempDir()}
		if err := v.swap(map[string]string{"airgate.yaml": base, "limits.yaml": limitsFile(1)}); err != nil {
			t.Fatal(err)
		}
		r := start(t, v.dir, nil, nil)
		for n := range 20 {
			before := r.Current()
			if err := v.swap(map[string]string{"airgate.yaml": base, "limits.yaml": limitsFile(n + 2)}); err != nil {
				t.Fatal(err)
			}
			r.wait()
			if r.Current() == before {
				t.Fatalf("swap %d was not seen", n)
			}
		}
		if want := filepath.Join(v.dir, "limits.yaml"); r.Current().Sources[1] != want {
			t.Errorf("Sources[1] = %s, want %s: not the version's own path", r.Current().Sources[1], want)
		}
		if err := os.RemoveAll(v.dir); err != nil {
			t.Fatal(err)
		}
		r.wait()
		if s := r.Status(); s.Successful || !errors.Is(s.LastError, os.ErrNotExist) {
			t.Errorf("Status of a config that is gone = %+v, want that error", s)
		}
	})
}

// TestReloadRefuses: what compiles and may still not replace what is in force.
func TestReloadRefuses(t *testing.T) {
	full := map[string]string{"airgate.yaml": platform, "limits.yaml": limitsFile(1), "finance.yaml": financeFile}
	for name, test := range map[string]struct {
		remove string
		change string // appended to airgate.yaml
		want   string
	}{
		"a kind vanished":       {remove: "finance.yaml", want: "kind Finance was there and has vanished"},
		"the journal changed":   {change: "journal: {durability: process}\n", want: "restart airgate"},
		"the quota changed":     {change: "quota: {store: memory, replicas: 1}\n", want: "restart airgate"},
		"a sink was changed":    {change: "sinks: [{name: local, type: sqlite, path: other.db}]\n", want: "restart airgate"},
		"the check says no":     {change: "maxBodyBytes: 2048\n", want: "check config: needs an Envoy restart"},
		"it cannot be applied":  {change: "maxBodyBytes: 4096\n", want: "apply config: no room"},
		"the section is absent": {change: "requires: [Keys]\n", want: "requires kind Keys"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := write(t, full)
				r := start(t, dir, func(_, next *Snapshot) error {
					if next.MaxBodyBytes == 2048 {
						return errors.New("needs an Envoy restart")
					}
					return nil
				}, func(next *Snapshot) error {
					if next.MaxBodyBytes == 4096 {
						return errors.New("no room")
					}
					return nil
				})
				first := r.Current()
				if test.remove != "" {
					if err := os.Remove(filepath.Join(dir, test.remove)); err != nil {
						t.Fatal(err)
					}
				}
				replace(t, filepath.Join(dir, "airgate.yaml"), platform+test.change)
				r.wait()
				r.wait()
				s := r.Status()
				if r.Current() != first || s.Successful || s.LastError == nil || !strings.Contains(s.LastError.Error(), test.want) {
					t.Errorf("Status = %+v, want the first config in force and error … %s …", s, test.want)
				}
				if lines := r.lines(); len(lines) != 1 {
					t.Errorf("the log is %q, want one line", lines)
				}
			})
		})
	}
}

// TestReloadTriesAgain: what another part was not ready for takes effect once
// it is, without a change of the files.
func TestReloadTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := write(t, map[string]string{"airgate.yaml": base})
		var ready atomic.Bool
		r := start(t, dir, nil, func(*Snapshot) error {
			if !ready.Load() {
				return errors.New("not yet")
			}
			return nil
		})
		first := r.Current()
		replace(t, filepath.Join(dir, "airgate.yaml"), second)
		r.wait()
		if r.Current() != first {
			t.Fatal("a snapshot that could not be applied is in force")
		}
		ready.Store(true)
		r.wait()
		if r.Current() == first || !r.Status().Successful {
			t.Errorf("Status = %+v, want the second config in force", r.Status())
		}
	})
}

const financeFile = "apiVersion: airgate/v1\nkind: Finance\nbudgets: [{name: search, usd: 5, per: month}]\n"

func limitsFile(n int) string {
	return fmt.Sprintf("apiVersion: airgate/v1\nkind: Limits\nlimits: [{name: rps, requests: %d/s}]\n", n)
}

// replace puts a text in place of a file in one step.
func replace(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}
