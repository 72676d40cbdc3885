package journal

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"airgate/accounting/journal/disk"
	"airgate/accounting/record"
	"airgate/accounting/sink"
)

// metrics of one journal; every figure is read as it is scraped. How far each
// sink has come is more than a figure: trim and Shipped ask for it.
type metrics struct {
	registerer prometheus.Registerer
	journal    *Journal
	unsynced   *prometheus.Desc
	unshipped  *prometheus.Desc
	bytes      *prometheus.Desc
	lagging    *prometheus.Desc
	free       *prometheus.Desc
	level      *prometheus.Desc
	parked     *prometheus.Desc
	missing    *prometheus.Desc

	mu    sync.Mutex
	size  int64
	sinks map[string]*progress // :: name → how far it is
}

// progress is how far a sink has come.
type progress struct {
	parked func() int64 // the sink's

	mu      sync.Mutex
	since   time.Time         // of the oldest record that it lacks; zero = it has all
	has     map[string]uint64 // :: writer → the last record that it has
	missing float64           // records that it lacks for good
}

func (p *progress) behind(since time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.since = since
}

func (p *progress) none() { p.behind(time.Time{}) }

// acknowledge notes what the sink has made durable.
func (p *progress) acknowledge(writer string, seq uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.has[writer] = seq
}

// miss notes how many records it lacks for good, and reports whether that is news.
func (p *progress) miss(records float64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	news := p.missing != records
	p.missing = records
	return news
}

func (p *progress) lacks() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.missing
}

func (p *progress) acknowledged(h record.Head) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.has[h.Writer] >= h.Seq
}

func (p *progress) age(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.since.IsZero() {
		return 0
	}
	return max(0, now.Sub(p.since))
}

func newMetrics(j *Journal, registerer prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		registerer: registerer, journal: j, sinks: map[string]*progress{},
		unsynced:  prometheus.NewDesc("airgate_journal_unsynced_records", "Records written and not yet synced to disk.", nil, nil),
		unshipped: prometheus.NewDesc("airgate_journal_unshipped_age_seconds", "Age of the oldest record that some sink does not have; 0 = all have all.", nil, nil),
		bytes:     prometheus.NewDesc("airgate_journal_bytes", "Bytes of the journal's segments, those of adopted writers included.", nil, nil),
		lagging:   prometheus.NewDesc("airgate_sink_lag_seconds", "Age of the oldest record that the sink does not have; 0 = it has all.", []string{"sink"}, nil),
		free:      prometheus.NewDesc("airgate_journal_free_bytes", "Bytes that are left on the journal's disk.", nil, nil),
		level:     prometheus.NewDesc("airgate_journal_disk_level", "0 = the disk has room, 1 = it is filling up, 2 = it is full: calls are refused.", nil, nil),
		parked:    prometheus.NewDesc("airgate_sink_parked_records", "Records that the sink refuses for good and keeps aside, with the reason.", []string{"sink"}, nil),
		missing:   prometheus.NewDesc("airgate_sink_missing_records", "Records that neither the sink nor the journal has: the sink's database was lost, or is another one.", []string{"sink"}, nil),
	}
	m.size = j.end
	for i := range j.adopted {
		n, err := sizeOf(j.disk, j.adopted[i].dir)
		if err != nil {
			return nil, err
		}
		j.adopted[i].size = n
		m.size += n
	}
	if registerer != nil {
		if err := registerer.Register(m); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) unregister() {
	if m.registerer != nil {
		m.registerer.Unregister(m)
	}
}

// sizeOf is the size of a writer's segments.
func sizeOf(d disk.Disk, dir string) (int64, error) {
	names, err := segments(d, dir)
	var sum int64
	for _, name := range names {
		f, opening := d.Open(filepath.Join(dir, name))
		if opening != nil {
			return 0, errors.Join(err, opening)
		}
		n, size := f.Size()
		sum += n
		err = errors.Join(err, size, f.Close())
	}
	return sum, err
}

func (m *metrics) grow(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.size += n
}

func (m *metrics) sink(name string, s sink.Sink) *progress {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sinks[name] == nil {
		m.sinks[name] = &progress{parked: s.Parked, has: map[string]uint64{}}
	}
	return m.sinks[name]
}

// acknowledged reports whether all of these sinks, each of which must be known,
// have the record and those before it.
func (m *metrics) acknowledged(sinks []string, h record.Head) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !slices.ContainsFunc(sinks, func(name string) bool { return m.sinks[name] == nil || !m.sinks[name].acknowledged(h) })
}

// shipped reports whether every sink that is known has the record.
func (m *metrics) shipped(h record.Head) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.sinks {
		if !p.acknowledged(h) {
			return false
		}
	}
	return true
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.unsynced, m.unshipped, m.bytes, m.lagging, m.free, m.level, m.parked, m.missing} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	now := time.Now()
	m.journal.mu.Lock()
	unsynced, free, level := m.journal.written-m.journal.durable, m.journal.room.free, m.journal.room.levelLocked()
	m.journal.mu.Unlock()

	m.mu.Lock()
	defer m.mu.Unlock()
	var oldest time.Duration
	for name, p := range m.sinks {
		age := p.age(now)
		oldest = max(oldest, age)
		ch <- prometheus.MustNewConstMetric(m.lagging, prometheus.GaugeValue, age.Seconds(), name)
		ch <- prometheus.MustNewConstMetric(m.parked, prometheus.GaugeValue, float64(p.parked()), name)
		ch <- prometheus.MustNewConstMetric(m.missing, prometheus.GaugeValue, p.lacks(), name)
	}
	ch <- prometheus.MustNewConstMetric(m.unsynced, prometheus.GaugeValue, float64(unsynced))
	ch <- prometheus.MustNewConstMetric(m.unshipped, prometheus.GaugeValue, oldest.Seconds())
	ch <- prometheus.MustNewConstMetric(m.bytes, prometheus.GaugeValue, float64(m.size))
	ch <- prometheus.MustNewConstMetric(m.free, prometheus.GaugeValue, float64(free))
	ch <- prometheus.MustNewConstMetric(m.level, prometheus.GaugeValue, level)
}
