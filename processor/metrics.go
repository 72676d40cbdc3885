package processor

import (
	"github.com/prometheus/client_golang/prometheus"

	"airgate/accounting/record"
	"airgate/accounting/usage"
)

// metrics are what requests add up to. Label values come from config and
// closed sets, never from callers' text. Money here is for charts; the records
// are the book.
type metrics struct {
	requests *prometheus.CounterVec
	first    *prometheus.HistogramVec
	duration *prometheus.HistogramVec
	attempts *prometheus.CounterVec
	tokens   *prometheus.CounterVec
	spend    *prometheus.CounterVec
	sources  *prometheus.CounterVec
}

func newMetrics() metrics {
	long := []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: long}, labels)
	}
	return metrics{
		requests: counter("airgate_requests_total", "Requests that ended, by what became of them.", "team", "model", "decision", "code", "family"),
		first:    histogram("airgate_first_token_seconds", "From the request's first byte to the answer's first body byte.", "provider"),
		duration: histogram("airgate_request_seconds", "From the request's first byte to the end of the answer.", "provider"),
		attempts: counter("airgate_attempts_total", "Answers and failures of providers.", "provider", "class"),
		tokens:   counter("airgate_tokens_total", "Tokens as settled.", "team", "model", "type"),
		spend:    counter("airgate_spend_usd_total", "Money as settled, for charts; the records are the book.", "team", "purpose", "model", "provider"),
		sources:  counter("airgate_usage_source_total", "Settlements by where their usage came from.", "source"),
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.requests, m.first, m.duration, m.attempts, m.tokens, m.spend, m.sources}
}

func (m *metrics) firstToken(s *Stream) {
	m.first.WithLabelValues(s.rec.Provider).Observe(s.firstByte.Sub(s.began).Seconds())
}

func (m *metrics) stranger(code Code) {
	m.requests.WithLabelValues("", "", "deny", string(code), outcomeOf(code).class.Family()).Inc()
}

// finished counts a request by its last record.
func (m *metrics) finished(r *record.Record, registered bool) {
	m.requests.WithLabelValues(r.Team, r.Model, r.Decision, r.Code, r.Family).Inc()
	if r.Type != record.Settle || r.Provider == "" {
		return
	}
	m.duration.WithLabelValues(r.Provider).Observe(r.Duration.Seconds())
	m.attempts.WithLabelValues(r.Provider, r.Class).Inc()
	if r.UsageSource != usage.Unset {
		m.sources.WithLabelValues(r.UsageSource.String()).Inc()
	}
	if r.HasCost && r.Cost > 0 {
		purpose := r.Purpose
		if !registered && purpose != "" {
			purpose = "other" // a caller's own word
		}
		m.spend.WithLabelValues(r.Team, purpose, r.Model, r.Provider).Add(float64(r.Cost) / 1e9)
	}
	if r.HasTokens {
		t := &r.Tokens
		for _, x := range [...]struct {
			kind string
			n    int64
		}{
			{"input", int64(t.Input)},
			{"cache_read", int64(t.CacheRead)},
			{"cache_write", int64(t.CacheWrite5m + t.CacheWrite1h)},
			{"output", int64(t.Output)},
			{"reasoning", int64(t.Reasoning)},
		} {
			if x.n > 0 {
				m.tokens.WithLabelValues(r.Team, r.Model, x.kind).Add(float64(x.n))
			}
		}
	}
}
