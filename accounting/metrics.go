package accounting

import (
	"cmp"
	"errors"
	"math"
	"math/bits"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"airgate/accounting/money"
)

// exported is how many budget accounts are in the metrics: those used most.
const exported = 100

// metrics are what the ledger counts. Labels come from the configuration only.
type metrics struct {
	denials   *prometheus.CounterVec
	overdraft *prometheus.CounterVec
	warnings  *prometheus.CounterVec
}

func newMetrics() *metrics {
	return &metrics{
		denials: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "airgate_denials_total",
			Help: "Calls that a limit or budget refused (mode enforce) or would have refused (mode shadow). limit is unbudgeted where no enforced budget covers the call.",
		}, []string{"team", "limit", "mode"}),
		overdraft: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "airgate_overdraft_usd_total",
			Help: "What calls cost beyond what was reserved for them, in USD.",
		}, []string{"budget"}),
		warnings: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "airgate_budget_warnings_total",
			Help: "Thresholds of budgets that were reached and that this airgate has recorded: one of those that share a quota store does, once per account and window.",
		}, []string{"budget", "threshold"}),
	}
}

func (m *metrics) register(r prometheus.Registerer, l *Ledger) error {
	all := []prometheus.Collector{m.denials, m.overdraft, m.warnings, newBudgetCollector(l)}
	if l.shared {
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "airgate_store_autonomy_seconds",
			Help: "How long calls go on while the quota store does not answer, at the pace of the last seconds; +Inf while none takes anything.",
		}, func() float64 {
			if d, ok := l.Autonomy(); ok {
				return d.Seconds()
			}
			return math.Inf(1)
		}))
	}
	var err error
	for _, c := range all {
		err = errors.Join(err, r.Register(c))
	}
	return err
}

func (m *metrics) denied(s *Subject, limit string, mode Mode) {
	m.denials.WithLabelValues(s.value(Team), limit, mode.String()).Inc()
}

func (m *metrics) overdrawn(budget string, by money.NanoUSD) {
	m.overdraft.WithLabelValues(budget).Add(inUSD(by))
}

// inUSD is for charts. The records are the book.
func inUSD(n money.NanoUSD) float64 { return float64(n) / float64(money.USD) }

// budgetCollector reads the ledger's budgets at each scrape. Accounts that are
// split by user or session are left out: their names are callers' words.
type budgetCollector struct {
	ledger                        *Ledger
	limit, spent, reserved, reset *prometheus.Desc
	held, cost                    *prometheus.Desc
}

func newBudgetCollector(l *Ledger) *budgetCollector {
	account := []string{"budget", "account"}
	return &budgetCollector{
		ledger:   l,
		limit:    prometheus.NewDesc("airgate_budget_limit_usd", "Limit of a budget account in its window.", account, nil),
		spent:    prometheus.NewDesc("airgate_budget_spent_usd", "Spent by settled calls in the window.", account, nil),
		reserved: prometheus.NewDesc("airgate_budget_reserved_usd", "Held by calls in flight.", account, nil),
		held:     prometheus.NewDesc("airgate_held_usd_total", "What settled calls held of a budget at most, in USD.", []string{"budget"}, nil),
		cost:     prometheus.NewDesc("airgate_held_cost_usd_total", "What the calls of airgate_held_usd_total cost: the rest was kept from others while they ran.", []string{"budget"}, nil),
		reset:    prometheus.NewDesc("airgate_budget_reset_timestamp_seconds", "End of the budget's window.", []string{"budget"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *budgetCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.limit
	ch <- c.spent
	ch <- c.reserved
	ch <- c.reset
	ch <- c.held
	ch <- c.cost
}

// Collect implements prometheus.Collector.
func (c *budgetCollector) Collect(ch chan<- prometheus.Metric) { c.collect(ch, time.Now()) } //nolint:forbidigo // a scrape is the only caller, and knows no time

func (c *budgetCollector) collect(ch chan<- prometheus.Metric, now time.Time) {
	for name, t := range c.ledger.tallies() {
		ch <- prometheus.MustNewConstMetric(c.held, prometheus.CounterValue, inUSD(money.NanoUSD(t.held)), name)
		ch <- prometheus.MustNewConstMetric(c.cost, prometheus.CounterValue, inUSD(money.NanoUSD(t.cost)), name)
	}
	budgets := c.ledger.Budgets(now)
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	last := ""
	for _, b := range budgets {
		if b.Name != last && !b.Reset.IsZero() {
			gauge(c.reset, float64(b.Reset.Unix()), b.Name)
		}
		last = b.Name
	}
	budgets = slices.DeleteFunc(budgets, func(b Budget) bool { return b.labels == "" })
	slices.SortStableFunc(budgets, byUse)
	for _, b := range budgets[:min(exported, len(budgets))] {
		gauge(c.limit, inUSD(b.Limit), b.Name, b.labels)
		gauge(c.spent, inUSD(b.Spent), b.Name, b.labels)
		gauge(c.reserved, inUSD(b.Reserved), b.Name, b.labels)
	}
}

// byUse orders by the share of the limit that is spent or reserved, the
// greatest first.
func byUse(a, b Budget) int {
	// a.used/a.limit against b.used/b.limit, multiplied out.
	product := func(used, limit money.NanoUSD) (hi, lo uint64) {
		return bits.Mul64(uint64(max(0, used)), uint64(max(0, limit)))
	}
	aHi, aLo := product(a.Spent+a.Reserved, b.Limit)
	bHi, bLo := product(b.Spent+b.Reserved, a.Limit)
	return cmp.Or(cmp.Compare(bHi, aHi), cmp.Compare(bLo, aLo), strings.Compare(a.Account, b.Account))
}
