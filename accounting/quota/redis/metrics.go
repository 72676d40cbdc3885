package redis

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	up      prometheus.GaugeFunc
	whole   prometheus.Gauge
	seconds *prometheus.HistogramVec
	errors  *prometheus.CounterVec
}

func newMetrics(up func() bool) *metrics {
	return &metrics{
		up: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "airgate_store_up",
			Help: "1 if the quota store answers.",
		}, func() float64 { return float64(digit(up())) }),
		whole: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "airgate_store_learning",
			Help: "1 while some of the quota store's grants stand still, since it may have lost what it acknowledged.",
		}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "airgate_store_call_seconds",
			Help:    "Calls to the quota store, all tries together.",
			Buckets: []float64{.00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25},
		}, []string{"call"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "airgate_store_errors_total",
			Help: "Calls to the quota store that failed, those that were not tried since it does not answer included.",
		}, []string{"call"}),
	}
}

func (m *metrics) register(r prometheus.Registerer) error {
	return errors.Join(r.Register(m.up), r.Register(m.whole), r.Register(m.seconds), r.Register(m.errors))
}
