package config

import (
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"airgate/policy"
	"airgate/policy/overlay"
	overlayfile "airgate/policy/overlay/file"
)

// laying is a Reloader of laidFile and its overlay, which nobody else has.
type laying struct {
	*reloading

	config string
	copy   *overlay.Copy
}

func startLaying(t *testing.T, apply func(next *Snapshot) error) *laying {
	t.Helper()
	dir := write(t, map[string]string{"airgate.yaml": laidFile()})
	c, err := overlay.NewCopy(t.Context(), overlay.CopyConfig{
		Stores: []overlay.Store{overlayfile.New(filepath.Join(t.TempDir(), "overlay.jsonl"))}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return &laying{startWith(t, dir, ReloaderConfig{Overlay: c, Apply: apply}), filepath.Join(dir, "airgate.yaml"), c}
}

// put makes an entry that ends after d, and lets what follows from it be done.
func (l *laying) put(e overlay.Entry, d time.Duration) overlay.Entry {
	l.t.Helper()
	if e.Kind != overlay.Revoke {
		e.Until = time.Now().UTC().Add(d).Truncate(time.Millisecond)
	}
	e, err := l.copy.Put(l.t.Context(), e, time.Now())
	if err != nil {
		l.t.Fatal(err)
	}
	synctest.Wait()
	return e
}

func (l *laying) code() policy.Code { return decide(l.Current(), "gpt-5.4-mini").Code }

// TestOverlayIsInForceAtOnce: not at the next look; and ends on its instant.
func TestOverlayIsInForceAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var applied []int
		l := startLaying(t, func(next *Snapshot) error {
			applied = append(applied, len(next.InForce()))
			return nil
		})
		first := l.Current()
		l.lines()
		began := time.Now()
		e := l.put(entryOf(overlay.BlockTeam, "search"), time.Hour+300*time.Millisecond)
		if l.code() != policy.RuleDenied || !time.Now().Equal(began) {
			t.Errorf("at once after the block a call is %v, want refused", l.code())
		}
		if got := l.Current().InForce(); len(got) != 1 || got[0] != e || l.Current().Hash != first.Hash {
			t.Errorf("in force is %+v of hash %s, want %+v of the same files", got, l.Current().ShortHash(), e)
		}
		if lines := l.lines(); len(lines) != 1 || !strings.Contains(lines[0], "an entry of the overlay holds") || !strings.Contains(lines[0], "reason=INC-12") {
			t.Errorf("the log is %q, want one line", lines)
		}
		s := l.Status().Overlay
		if s.InForce != 1 || !s.Oldest.Equal(e.Made) || s.Fault != "" {
			t.Errorf("Status().Overlay = %+v, want one entry of %v", s, e.Made)
		}
		const metric = `# HELP airgate_config_overlay_entries Entries that operators have laid over the configuration, by what became of them.
# TYPE airgate_config_overlay_entries gauge
airgate_config_overlay_entries{state="in_force"} 1
airgate_config_overlay_entries{state="redundant"} 0
airgate_config_overlay_entries{state="refused"} 0
`
		if err := testutil.GatherAndCompare(l.registry, strings.NewReader(metric), "airgate_config_overlay_entries"); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Until(e.Until) - time.Millisecond)
		synctest.Wait()
		if l.code() != policy.RuleDenied {
			t.Errorf("a millisecond before its end a call is %v, want refused", l.code())
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if l.code() != policy.OK || len(l.Current().Laid) != 0 {
			t.Errorf("at its end a call is %v, want allowed", l.code())
		}
		if lines := l.lines(); len(lines) != 1 || !strings.Contains(lines[0], "no longer holds") {
			t.Errorf("at its end the log is %q, want one line", lines)
		}
		if len(applied) != 2 || applied[0] != 1 || applied[1] != 0 {
			t.Errorf("applied with %v entries, want 1 and 0", applied)
		}
	})
}

// TestOverlayOutlivesReloads: a good config comes with the overlay laid over it,
// and a bad one does not keep a new entry from holding.
func TestOverlayOutlivesReloads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bare atomic.Int32 // snapshots that came without what is laid over them
		l := startLaying(t, func(next *Snapshot) error {
			if len(next.Laid) == 0 {
				bare.Add(1)
			}
			return nil
		})
		l.put(entryOf(overlay.Raise, "search", to("750")), time.Hour)
		replace(t, l.config, strings.Replace(laidFile(), "usd: 500\n", "usd: 600\n", 1))
		l.wait()
		if s := l.Current(); len(s.InForce()) != 1 || amounts(t, s, time.Now())["search team=search"] != "750" {
			t.Errorf("after a reload %+v holds, want the raise", s.Laid)
		}
		replace(t, l.config, "apiVersion: none\n")
		l.wait()
		l.put(entryOf(overlay.BlockTeam, "search"), time.Hour)
		if l.code() != policy.RuleDenied || l.Status().Successful {
			t.Errorf("with bad files a call is %v, want it refused by the block that is laid over the last good ones", l.code())
		}
		l.put(entryOf(overlay.BlockTeam, "search", func(e *overlay.Entry) { e.Removed = true }), time.Hour)
		if l.code() != policy.OK || len(l.Current().InForce()) != 1 {
			t.Errorf("after the block was removed a call is %v, want allowed, under the raise alone", l.code())
		}
		replace(t, l.config, strings.Replace(laidFile(), "usd: 500\n", "usd: 800\n", 1))
		l.wait()
		if s := l.Status(); !s.Successful || s.Overlay.Redundant != 1 || s.Overlay.InForce != 0 {
			t.Errorf("Status = %+v, want the raise redundant: the file gives more", s.Overlay)
		}
		if bare.Load() != 0 {
			t.Errorf("%d snapshots were applied without the raise, want none", bare.Load())
		}
	})
}

// TestOverlayWaitsForItsRecord: what cannot be applied is not in force, is told,
// and is tried again.
func TestOverlayWaitsForItsRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		l := startLaying(t, func(*Snapshot) error {
			if broken.Load() {
				return errors.New("the journal is full")
			}
			return nil
		})
		l.lines()
		broken.Store(true)
		l.put(entryOf(overlay.BlockTeam, "search"), time.Hour)
		l.wait()
		if l.code() != policy.OK || l.Status().Overlay.Fault != "apply config: the journal is full" {
			t.Errorf("a call is %v and the fault %q, want the block not in force, and why", l.code(), l.Status().Overlay.Fault)
		}
		if lines := l.lines(); len(lines) != 1 || !strings.Contains(lines[0], "the newest overlay is not in force yet") {
			t.Errorf("the log is %q, want one line", lines)
		}
		broken.Store(false)
		l.wait()
		if l.code() != policy.RuleDenied || l.Status().Overlay.Fault != "" {
			t.Errorf("a call is %v and the fault %q, want the block in force", l.code(), l.Status().Overlay.Fault)
		}
	})
}

// TestOverlayBeginsToHold: what stood in the way of an entry can be over.
func TestOverlayBeginsToHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := startLaying(t, nil)
		end := time.Now().UTC().Add(2 * time.Hour).Truncate(time.Second)
		replace(t, l.config, strings.Replace(laidFile(), "until: 2026-11-22", "until: "+end.Format(time.RFC3339), 1))
		l.wait()
		l.put(entryOf(overlay.Raise, "each", to("11")), 3*time.Hour)
		if s := l.Status().Overlay; s.Redundant != 1 || s.InForce != 0 {
			t.Errorf("Status = %+v, want the raise redundant: everyone has 12 USD", s)
		}
		time.Sleep(2 * time.Hour)
		l.wait()
		if got := amounts(t, l.Current(), time.Now())["each key=id-other"]; got != "11" {
			t.Errorf("once the override of 12 USD is over everyone has %s, want the 11 of the raise", got)
		}
	})
}
