package config

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"airgate/policy/overlay"
)

// ReloaderConfig configures a Reloader.
type ReloaderConfig struct {
	Path    string    // as given to Load
	Initial *Snapshot // in force when NewReloader returns; must be set
	// Overlay is laid over every snapshot, Initial apart; nil = nothing is.
	Overlay *overlay.Copy
	// Check returns why next may not replace old in this process, and is asked
	// again at every look until it returns nil. It may be nil.
	Check func(old, next *Snapshot) error
	// Apply makes everything ready for next before it is published. Its error
	// keeps the old snapshot; it is called again at the next look. It may be nil.
	Apply      func(next *Snapshot) error
	Interval   time.Duration // between looks; 0 = one second
	Log        *slog.Logger  // one line for each change of state
	Registerer prometheus.Registerer
}

// Reloader keeps the snapshot in force, and replaces it when the files change
// to something that is as good, and at once when the overlay does or one of its
// entries ends. What is not good never takes effect: the last good files stay,
// with the newest overlay, Status and a metric say why.
//
// Current and Status are safe for concurrent use.
type Reloader struct {
	config  ReloaderConfig
	current atomic.Pointer[Snapshot]

	// Of the goroutine in Run alone.
	version string    // of the ..data link, once it has been dealt with
	seen    string    // hash of what was compiled last
	pending *Snapshot // compiled and not yet in force
	state   string    // what the log said last
	unlaid  string    // what it said of an overlay that could not be laid

	mu     sync.Mutex
	status Status
}

// Status is what a Reloader found at its last look.
type Status struct {
	Hash        string    `json:"hash"`         // of the snapshot in force
	Loaded      time.Time `json:"loaded"`       // when it was compiled
	LastSuccess time.Time `json:"last_success"` // the last look at which the files were in force
	Successful  bool      `json:"successful"`   // they are, as of the last look
	LastFailure time.Time `json:"last_failure,omitzero"`
	LastError   error     `json:"-"` // why they are not; nil if they are
	Problems    Problems  `json:"problems,omitempty"`
	Warnings    Problems  `json:"warnings,omitempty"` // of the snapshot in force
	Overlay     *Overlay  `json:"overlay,omitempty"`  // nil = there is none

	unlaid string // why the newest overlay is not in force
}

// Overlay is what became of the overlay.
type Overlay struct {
	InForce   int       `json:"in_force"`
	Redundant int       `json:"redundant"`
	Refused   int       `json:"refused"`
	Oldest    time.Time `json:"oldest,omitzero"` // when the first of those in force was made
	Fault     string    `json:"fault,omitempty"` // of a store, or why the newest entries do not hold yet
}

// OK says whether the files, as of the last look, are in force.
func (s Status) OK() bool { return s.Successful }

// NewReloader returns a Reloader with c.Initial in force. Run makes it look.
func NewReloader(c ReloaderConfig) (*Reloader, error) {
	if c.Path == "" || c.Initial == nil || c.Log == nil {
		return nil, errors.New("config: reloader lacks Path, Initial or Log")
	}
	c.Interval = cmp.Or(c.Interval, time.Second)
	r := &Reloader{config: c, seen: c.Initial.Hash, state: "good " + c.Initial.Hash}
	r.current.Store(c.Initial)
	r.status = Status{
		Hash: c.Initial.Hash, Loaded: c.Initial.Loaded, LastSuccess: c.Initial.Loaded, Successful: true,
	}
	if c.Registerer != nil {
		if err := c.Registerer.Register(newCollector(r)); err != nil {
			return nil, fmt.Errorf("register config metrics: %w", err)
		}
	}
	return r, nil
}

// Current is the snapshot in force.
func (r *Reloader) Current() *Snapshot { return r.current.Load() }

// Status says what the last look found.
func (r *Reloader) Status() Status {
	r.mu.Lock()
	s := r.status
	r.mu.Unlock()
	in := r.Current()
	s.Warnings = in.Warnings
	if r.config.Overlay == nil {
		return s
	}
	s.Overlay = &Overlay{Fault: s.unlaid}
	if err := r.config.Overlay.Fault(); err != nil {
		s.Overlay.Fault = err.Error()
	}
	for i := range in.Laid {
		switch l := &in.Laid[i]; l.State {
		case InForce:
			s.Overlay.InForce++
			if s.Overlay.Oldest.IsZero() || l.Entry.Made.Before(s.Overlay.Oldest) {
				s.Overlay.Oldest = l.Entry.Made
			}
		case Redundant:
			s.Overlay.Redundant++
		case Refused:
			s.Overlay.Refused++
		case Unchecked: // of files that are never in force
		}
	}
	return s
}

// Run looks at the files at once and then at every interval until ctx ends,
// which is not an error.
func (r *Reloader) Run(ctx context.Context) error {
	ticker := time.NewTicker(r.config.Interval)
	defer ticker.Stop()
	end := time.NewTimer(0)
	defer end.Stop()
	var changed <-chan struct{}
	if r.config.Overlay != nil {
		changed = r.config.Overlay.Changed()
	}
	for {
		now := time.Now()
		r.look(now)
		if next := r.lay(now); next.IsZero() {
			end.Stop()
		} else {
			end.Reset(next.Sub(now))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-changed:
		case <-end.C:
		}
	}
}

// lay brings the newest overlay into force with the files that are, and returns
// when the first of its entries ends.
func (r *Reloader) lay(now time.Time) (next time.Time) {
	if r.config.Overlay == nil {
		return next
	}
	old := r.Current()
	laid, holding, err := r.laid(old, now)
	if err == nil && laid != old {
		err = r.publish(laid)
	}
	unlaid := ""
	if err != nil {
		unlaid = err.Error()
	}
	if unlaid != "" && unlaid != r.unlaid {
		r.config.Log.Error("the newest overlay is not in force yet", slog.Any("error", err))
	}
	r.unlaid = unlaid
	r.mu.Lock()
	r.status.unlaid = unlaid
	r.mu.Unlock()
	return overlay.NextEnd(holding)
}

// laid is s with what holds now laid over it; s itself if that is so.
func (r *Reloader) laid(s *Snapshot, now time.Time) (next *Snapshot, holding []overlay.Entry, err error) {
	if r.config.Overlay == nil {
		return s, nil, nil
	}
	holding = r.config.Overlay.Entries().Holding(now)
	if s.lies(holding, now) {
		return s, holding, nil
	}
	next, err = s.With(holding, now)
	return next, holding, err
}

// look brings what the files say into force, if it can.
func (r *Reloader) look(now time.Time) {
	if v, err := linked(r.config.Path); err == nil && v != "" && v == r.version && r.pending == nil {
		r.touch(now)
		return
	}
	files, version, err := read(r.config.Path)
	if err != nil {
		r.version, r.seen, r.pending = "", "", nil
		r.fail(now, err)
		return
	}
	hash := files.hash()
	switch {
	case hash == r.Current().Hash:
		r.version, r.seen, r.pending = version, hash, nil
		r.succeed(now)
		return
	case hash != r.seen:
		r.seen = hash
		if r.pending, err = files.compile(now); err != nil {
			r.version, r.pending = version, nil
			r.fail(now, err)
			return
		}
	case r.pending == nil:
		r.touch(now) // refused at an earlier look, and unchanged
		return
	}
	next, _, err := r.laid(r.pending, now)
	if err == nil {
		err = r.publish(next)
	}
	if err != nil {
		r.fail(now, err)
		return
	}
	r.version, r.pending = version, nil
	r.succeed(now)
}

// publish brings next into force, or says why not.
func (r *Reloader) publish(next *Snapshot) error {
	old := r.Current()
	if err := succeeds(old, next); err != nil {
		return err
	}
	if r.config.Check != nil {
		if err := r.config.Check(old, next); err != nil {
			return fmt.Errorf("check config: %w", err)
		}
	}
	if r.config.Apply != nil {
		if err := r.config.Apply(next); err != nil {
			return fmt.Errorf("apply config: %w", err)
		}
	}
	r.current.Store(next)
	r.tellLaid(old, next)
	return nil
}

// tellLaid logs what became of entries of the overlay.
func (r *Reloader) tellLaid(old, next *Snapshot) {
	before := make(map[string]Laid, len(old.Laid)) // :: id → entry
	for _, l := range old.Laid {
		before[l.Entry.ID()] = l
	}
	for _, l := range next.Laid {
		e, was := l.Entry, before[l.Entry.ID()]
		delete(before, e.ID())
		if was.Entry == e && was.State == l.State {
			continue
		}
		id, by, reason := slog.String("id", e.ID()), slog.String("by", e.By), slog.String("reason", e.Reason)
		switch l.State {
		case InForce:
			until := slog.Time("until", e.Until)
			if e.Until.IsZero() {
				until = slog.String("until", "the files say so")
			}
			r.config.Log.Info("an entry of the overlay holds", id, by, reason, until)
		case Redundant:
			r.config.Log.Info("an entry of the overlay is redundant: the files say as much", id, by, reason, slog.String("why", l.Why))
		case Refused:
			r.config.Log.Warn("an entry of the overlay does not hold", id, by, reason, slog.String("why", l.Why))
		case Unchecked: // of files that are never in force
		}
	}
	for _, id := range slices.Sorted(maps.Keys(before)) {
		r.config.Log.Info("an entry of the overlay no longer holds", slog.String("id", id))
	}
}

// succeeds says why next cannot follow old in one process: a kind has
// vanished, which is more likely an accident than a wish, or something changed
// that is only read at the start.
func succeeds(old, next *Snapshot) error {
	var problems Problems
	for _, k := range old.Kinds {
		if !next.Has(k) {
			tell(&problems, at{}, "kind %s was there and has vanished: restore its file, or restart airgate to go on without it", k)
		}
	}
	if old.OverlayFile != next.OverlayFile {
		tell(&problems, at{}, "overlay.file changed: restart airgate, or change it back")
	}
	if old.Quota != next.Quota || old.Journal != next.Journal || !slices.Equal(old.Sinks, next.Sinks) {
		tell(&problems, at{}, "quota, journal or sinks changed: restart airgate, or change them back")
	}
	if len(problems) > 0 {
		return problems.sorted()
	}
	return nil
}

// touch renews the outcome of an earlier look.
func (r *Reloader) touch(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.status.Successful {
		r.status.LastSuccess = now
	} else {
		r.status.LastFailure = now
	}
}

func (r *Reloader) succeed(now time.Time) {
	s := r.Current()
	r.mu.Lock()
	r.status = Status{
		Hash: s.Hash, Loaded: s.Loaded, LastSuccess: now, Successful: true,
		LastFailure: r.status.LastFailure, unlaid: r.status.unlaid,
	}
	r.mu.Unlock()
	if r.turn("good " + s.Hash) {
		r.config.Log.Info("config is in force", slog.String("hash", s.ShortHash()), slog.Int("files", len(s.Sources)),
			slog.Int("warnings", len(s.Warnings)))
	}
}

func (r *Reloader) fail(now time.Time, err error) {
	problems, ok := errors.AsType[Problems](err)
	if !ok {
		problems = Problems{{Text: err.Error()}}
	}
	r.mu.Lock()
	r.status.Successful, r.status.LastFailure, r.status.LastError, r.status.Problems = false, now, err, problems
	r.mu.Unlock()
	if r.turn("bad " + err.Error()) {
		r.config.Log.Error("config is refused, the last good one stays in force", slog.String("hash", r.Current().ShortHash()),
			slog.Int("problems", len(problems)), slog.String("first", problems[0].Error()))
	}
}

// turn says whether the state has changed.
func (r *Reloader) turn(state string) bool {
	changed := r.state != state
	r.state = state
	return changed
}

// collector is the metrics of a Reloader. They are read from it, so that the
// hash of the snapshot in force is the only one at every scrape.
type collector struct {
	r                *Reloader
	good, info, laid *prometheus.Desc
}

func newCollector(r *Reloader) *collector {
	c := &collector{
		r: r, good: newDesc("last_reload_successful", "1 if the configuration files, as of the last look, are in force."),
		info: newDesc("info", "Always 1; the label is the hash of the configuration in force.", "hash"),
	}
	if r.config.Overlay != nil {
		c.laid = newDesc("overlay_entries", "Entries that operators have laid over the configuration, by what became of them.", "state")
	}
	return c
}

func newDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName("airgate", "config", name), help, labels, nil)
}

// Describe sends the descriptors of the metrics.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.good
	ch <- c.info
	if c.laid != nil {
		ch <- c.laid
	}
}

// Collect sends the metrics.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s := c.r.Status()
	good := 0.0
	if s.Successful {
		good = 1
	}
	ch <- prometheus.MustNewConstMetric(c.good, prometheus.GaugeValue, good)
	ch <- prometheus.MustNewConstMetric(c.info, prometheus.GaugeValue, 1, s.Hash)
	if c.laid == nil {
		return
	}
	for state, n := range map[State]int{InForce: s.Overlay.InForce, Redundant: s.Overlay.Redundant, Refused: s.Overlay.Refused} {
		ch <- prometheus.MustNewConstMetric(c.laid, prometheus.GaugeValue, float64(n), string(state))
	}
}
