package extproc

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// fault is why a stream was ended with an error that is not Envoy's doing, or
// why an answer could not be given as decided.
type fault uint8

const (
	faultPanic   fault = iota // a panic was recovered
	faultDrift                // Envoy is not configured as this server assumes
	faultQueue                // more messages waited than may
	faultMessage              // a message that cannot be read, is of an unknown kind or is too large
	faultAction               // an action that cannot be said
	faultIdle                 // Envoy left a stream open without a word
	faultDurable              // the journal did not become durable in time
	faults                    // how many there are
)

func (f fault) String() string {
	return [faults]string{"panic", "drift", "queue", "message", "action", "idle", "durable"}[f]
}

type metrics struct {
	streams  prometheus.Gauge
	decision prometheus.Histogram
	inPath   prometheus.GaugeFunc
	faults   [faults]prometheus.Counter
	byFault  *prometheus.CounterVec
}

// inPathWindow is how recent the last request must be for airgate to count as
// being in the path.
const inPathWindow = time.Minute

func newMetrics(r prometheus.Registerer, lastRequest func() time.Time) (*metrics, error) {
	m := &metrics{
		streams: prometheus.NewGauge(prometheus.GaugeOpts{Name: "airgate_streams", Help: "Requests in flight."}),
		decision: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "airgate_decision_seconds",
			Help:    "What airgate itself took of a request before it was allowed or denied, the upload not counted.",
			Buckets: []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .5, 1, 5},
		}),
		inPath: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "airgate_in_path", Help: "1 if Envoy asked about a request in the last minute.",
		}, func() float64 {
			if time.Since(lastRequest()) < inPathWindow {
				return 1
			}
			return 0
		}),
		byFault: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "airgate_extproc_faults_total", Help: "Streams that airgate ended with an error, and answers not given as decided, by cause.",
		}, []string{"fault"}),
	}
	for f := range faults {
		m.faults[f] = m.byFault.WithLabelValues(f.String())
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.streams, m.decision, m.inPath, m.byFault} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}
