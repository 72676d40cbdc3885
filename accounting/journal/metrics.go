package journal

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"airgate/accounting/journal/disk"
)

// metrics of one journal; every figure is read as it is scraped.
type metrics struct {
	registerer prometheus.Registerer
	journal    *Journal
	unsynced   *prometheus.Desc
	unshipped  *prometheus.Desc
	bytes      *prometheus.Desc
	lagging    *prometheus.Desc

	mu    sync.Mutex
	size  int64
	sinks map[string]*lag // :: name → lag
}

// lag says since when a sink is behind.
type lag struct {
	mu    sync.Mutex
	since time.Time // of the oldest record that it lacks; zero = it has all
	own   uint64    // the last record of this writer that it has
}

func (l *lag) behind(since time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.since = since
}

func (l *lag) sent(seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.own = seq
}

func (l *lag) has(seq uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.own >= seq
}

func (l *lag) none() { l.behind(time.Time{}) }

func (l *lag) age(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.since.IsZero() {
		return 0
	}
	return max(0, now.Sub(l.since))
}

func newMetrics(j *Journal, registerer prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		registerer: registerer, journal: j, sinks: map[string]*lag{},
		unsynced:  prometheus.NewDesc("airgate_journal_unsynced_records", "Records written and not yet synced to disk.", nil, nil),
		unshipped: prometheus.NewDesc("airgate_journal_unshipped_age_seconds", "Age of the oldest record that some sink does not have; 0 = all have all.", nil, nil),
		bytes:     prometheus.NewDesc("airgate_journal_bytes", "Bytes of the journal's segments, those of adopted writers included.", nil, nil),
		lagging:   prometheus.NewDesc("airgate_sink_lag_seconds", "Age of the oldest record that the sink does not have; 0 = it has all.", []string{"sink"}, nil),
	}
	m.size = j.end
	for i := range j.adopted {
		n, err := sizeOf(j.disk, j.adopted[i].dir)
		if err != nil {
			return nil, err
		}
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

func (m *metrics) sink(name string) *lag {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sinks[name] == nil {
		m.sinks[name] = &lag{}
	}
	return m.sinks[name]
}

// shipped reports whether every sink has this writer's records up to seq.
func (m *metrics) shipped(seq uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range m.sinks {
		if !l.has(seq) {
			return false
		}
	}
	return true
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.unsynced, m.unshipped, m.bytes, m.lagging} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	now := time.Now()
	m.journal.mu.Lock()
	unsynced := m.journal.written - m.journal.durable
	m.journal.mu.Unlock()

	m.mu.Lock()
	defer m.mu.Unlock()
	var oldest time.Duration
	for name, l := range m.sinks {
		age := l.age(now)
		oldest = max(oldest, age)
		ch <- prometheus.MustNewConstMetric(m.lagging, prometheus.GaugeValue, age.Seconds(), name)
	}
	ch <- prometheus.MustNewConstMetric(m.unsynced, prometheus.GaugeValue, float64(unsynced))
	ch <- prometheus.MustNewConstMetric(m.unshipped, prometheus.GaugeValue, oldest.Seconds())
	ch <- prometheus.MustNewConstMetric(m.bytes, prometheus.GaugeValue, float64(m.size))
}
