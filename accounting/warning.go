package accounting

import (
	"context"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"airgate/accounting/money"
	"airgate/accounting/record"
)

// budgetWarning is the code of the admin record of a threshold that was reached.
// Its rule is the threshold, and its limits[] has the budget as it was then.
const budgetWarning = "budget_warning"

// warning is one threshold of a budget. Who raises it is settled as all else is: on
// an account-window of its own with a limit of 1, of which 1 is held before the
// record is written and spent once that is safe. So it is raised once by all
// ledgers that share a store, a record tells the store after a crash, and a hold
// without one goes to another.
type warning struct {
	Threshold

	group *group // its accounts, split as the budget's are
}

// warning is l's threshold t. Amounts are not in its identity: a limit that is
// edited does not raise it again.
func (l *Limit) warning(t Threshold) warning {
	id := l.identity()
	id.head = warningHead(l.Name, t.String()) + id.head
	return warning{t, &group{id: id, key: id.String(), window: l.Window, zone: l.zone()}}
}

// warningHead stands before the text of the budget's account, or account-window:
// "warn=search,80%25|".
func warningHead(budget, threshold string) string {
	b := append(appendEncoded([]byte("warn="), budget, false), ',')
	return string(append(appendEncoded(b, threshold, false), '|'))
}

// noteWarning counts a warning as raised.
func (b *Balances) noteWarning(r *record.Record, at int64) {
	if r.Code != budgetWarning || len(r.Limits) != 1 {
		return
	}
	l := &r.Limits[0]
	raised := []string{warningHead(l.Name, r.Rule) + l.Account}
	b.use(raised, at)
	b.book(raised, 1)
	add(b.sharing[r.Writer], raised, 1)
}

// reached is a threshold that an account has reached in a window.
type reached struct {
	warning

	member   *member
	account  *account // of the budget, as is the window
	window   *window
	subject  Subject
	amount   int64
	used     int64
	reserved int64
	forecast int64 // …
	paced    bool  // … if there is one
}

// Warn raises the warnings that are due: for each threshold of a budget that what
// is spent, or its forecast, has reached, it calls raise with a record, once per
// account and window, over all ledgers that share the store and their successors.
// raise appends the record, and returns nil once it is safe; it is called from
// several goroutines. After an error of raise another call of Warn, here or of
// another ledger, raises it. After a crash in the middle who succeeds to the
// records of the process knows whether it was raised (Succeed, Restore); until
// then nobody raises it.
//
// Warn is for a task beside the calls. It returns the first error of raise or of
// the store; what was not raised is due the next time.
func (l *Ledger) Warn(ctx context.Context, now time.Time, raise func(*record.Record) error) error {
	l.mu.Lock()
	t := l.table
	l.mu.Unlock()
	if t == nil {
		return nil
	}
	g, going := errgroup.WithContext(ctx)
	g.SetLimit(tending)
	for _, b := range t.budgets.groups {
		for _, m := range b.members {
			for _, w := range m.warnings {
				w.group.set.sweep(now.UnixNano())
			}
			for _, a := range b.set.all() {
				for _, r := range t.reached(m, a, now) {
					if going.Err() != nil {
						return g.Wait()
					}
					g.Go(func() error { return l.warn(&r, now, raise) }) //nolint:contextcheck // a store has a deadline of its own
				}
			}
		}
	}
	return g.Wait()
}

// sweep is sweepLocked, once a minute.
func (set *accountSet) sweep(now int64) {
	set.mu.Lock()
	defer set.mu.Unlock()
	if now-set.swept >= int64(time.Minute) {
		set.sweepLocked(now)
	}
}

// reached returns the thresholds of m that a has reached, in its window and in one
// that has just ended: calls that were admitted in it still settle.
func (t *Table) reached(m *member, a *account, now time.Time) (all []reached) {
	if len(m.warnings) == 0 {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, w := range a.windows {
		at := now.UnixNano()
		if at < w.start || at > w.end && at-w.end > int64(idleAfter) || w.used() <= 0 {
			continue
		}
		var s Subject
		if len(m.overrides) > 0 {
			s = t.known(a)
		}
		r := reached{
			member: m, account: a, window: w, subject: a.subject,
			amount: m.termsOf(a, &s, at).amount, used: w.used(), reserved: w.reserved(),
		}
		r.forecast, r.paced = forecast(r.used, w.opens, w.reset, now)
		for _, r.warning = range m.warnings {
			sum := r.used
			if r.Forecast {
				sum = r.forecast
			}
			if sum >= mulDiv(r.amount, int64(r.Percent), 100, up) {
				all = append(all, r)
			}
		}
	}
	return all
}

// warn raises r, unless it was raised or another is about to.
func (l *Ledger) warn(r *reached, now time.Time, raise func(*record.Record) error) error {
	set := r.group.set
	var a *account
	if r.account.other {
		set.mu.Lock()
		a = set.otherLocked()
		set.mu.Unlock()
	} else {
		a = set.account(&r.subject, now.UnixNano())
	}
	w, fresh := a.openWindow(&r.subject, r.window.start)
	if w == nil {
		return nil // dropped meanwhile: the next time opens it
	}
	if fresh {
		l.reportDropped(new(waiter), now.UnixNano())
	}
	if mine, err := l.claim(a, w, now.UnixNano()); err != nil || !mine {
		return err
	}
	rec := r.record(now)
	detail, spent := rec.Detail, money.NanoUSD(r.used)
	err := raise(&rec)
	a.mu.Lock()
	if err != nil {
		w.settle(1, 0)
	} else {
		w.settle(1, 1)
	}
	a.mu.Unlock()
	if err != nil {
		return err
	}
	l.metrics.warnings.WithLabelValues(r.member.Name, r.String()).Inc()
	l.log.Warn("a budget has reached a threshold", slog.String("budget", r.member.Name), slog.String("threshold", r.String()),
		slog.String("spent_usd", spent.String()), slog.String("limit_usd", money.NanoUSD(r.amount).String()), slog.String("detail", detail))
	return nil
}

// claim holds the right to raise the warning that w is about. Others that ask
// meanwhile are told nothing, and ask again.
func (l *Ledger) claim(a *account, w *window, now int64) (mine bool, err error) {
	var who waiter
	if err := w.syncing.lock(&who); err != nil {
		return false, err
	}
	defer w.syncing.unlock(&who)
	a.mu.Lock()
	taken := w.used() > 0 || w.held > 0
	a.mu.Unlock()
	if taken {
		return false, nil
	}
	if _, err := l.sync(&who, a, w, syncTerms{limit: 1, version: 1}, wish{need: 1}, now); err != nil {
		return false, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if w.inHand() < 1 {
		return false, nil
	}
	w.held = 1
	return true, nil
}

// record is what the book says of r.
func (r *reached) record(now time.Time) record.Record {
	m := r.member
	b := new(strings.Builder)
	b.WriteString("budget " + strconv.Quote(m.Name) + " has reached " + r.String() + " of " + money.NanoUSD(r.amount).String() + " USD for " + r.account.set.id.scope(r.account.text) +
		" in " + r.window.key.Window + ": spent " + money.NanoUSD(r.used).String() + " USD")
	if r.paced {
		b.WriteString(", forecast " + money.NanoUSD(r.forecast).String() + " USD")
	}
	if m.Owner != "" {
		b.WriteString(", owner " + m.Owner)
	}
	b.WriteString(", account " + r.window.text)
	return record.Record{
		Type: record.Admin, Time: now, Code: budgetWarning, Rule: r.String(), Detail: b.String(),
		Limits: []record.Limit{{
			Name: m.Name, Account: r.window.text, Resource: USD.String(), Limit: r.amount, Used: r.used, Reserved: r.reserved,
			Reset: r.window.reset, Mode: m.Mode.String(),
		}},
	}
}
