package accounting

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// maxAmount bounds every amount, so that no sum of a few leaves an int64:
// 4.6 billion USD.
const maxAmount = 1 << 62

// defaultMaxAccounts bounds the accounts of a limit that splits by words of
// callers.
const defaultMaxAccounts = 10_000

// Rules is everything a Table is compiled from.
type Rules struct {
	Limits          []Limit
	AllowUnbudgeted bool // a call that no enforced budget covers is not refused

	// Known completes what a Subject says by what the configuration says of its
	// key and its team, if it names one, else of its key's. Budgets asks it: the
	// text of an account has a key's id only, and overrides may be for its name,
	// its team, or a tag. It is pure, and safe for concurrent use; nil = nothing
	// more is known.
	Known func(*Subject)
}

// Table is a compiled, immutable set of limits, part of a config snapshot. It
// serves calls once Ledger.Apply has taken it, and belongs to that Ledger.
type Table struct {
	rules   Rules
	enter   layer // requests and permits that need only key and team
	limits  layer // all others but money
	budgets layer // money

	ledger  *Ledger // that applied it
	version uint64  // of its amounts, given by Apply
}

// layer is a set of limits that are checked together, in the order of the
// configuration.
type layer struct {
	groups []*group
	index  index // positions are those of groups
}

// group is all limits of one identity: they share their accounts' usage, each
// with its own amount, and the lowest enforced one refuses.
type group struct {
	id       identity
	key      string // of the account set; the identity's text but for doubled rates
	resource Resource
	window   WindowKind // NoWindow for rates and permits
	zone     *time.Location
	members  []*member
	enforced bool // one member is
	expected bool // all members hold what is expected, not the worst case
	max      int  // accounts; 0 = as many as there are
	set      *accountSet
}

// member is one compiled Limit.
type member struct {
	*Limit
	label     string // of would_deny: "budget:company", "limit:sonnet"
	base      terms
	overrides []terms // the most specific first
	index     index   // positions are those of overrides
	fixed     bool    // an account has one amount at a time, whoever of its subjects calls
	greatest  int64
	warnings  []warning
}

// terms is the amount a limit gives a subject.
type terms struct {
	amount   int64
	bucket   bucket    // of a rate
	override *Override // whose amount it is; nil = the limit's own
	until    int64     // Unix nanoseconds, the first that it no longer holds
}

// Compile is Rules.Compile of these limits alone: a call that no enforced
// budget covers is refused.
func Compile(limits []Limit) (*Table, error) { return Rules{Limits: limits}.Compile() }

// Compile compiles r, which it copies. The configuration is validated before;
// an error joins what would make the arithmetic meaningless, each with the
// limit's Where.
func (r Rules) Compile() (*Table, error) {
	r.Limits = slices.Clone(r.Limits)
	t := &Table{rules: r}
	var problems []error
	groups := make(map[string]*group) // :: group.key → group
	names := make(map[string]bool)    // :: label → seen
	var order []*group
	for i := range r.Limits {
		l := &r.Limits[i]
		m, err := l.compile()
		if err == nil && names[m.label] {
			err = errors.New("name is taken by another entry of its kind")
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %s: %w", l.Where, l.Name, err))
			continue
		}
		names[m.label] = true
		g := l.group()
		if rate := l.Per > 0; rate {
			// The state of a bucket depends on its amount: a second limit of the
			// same identity has buckets of its own.
			for groups[g.key] != nil {
				g.key += "|again"
			}
		}
		if have := groups[g.key]; have != nil {
			g = have
		} else {
			groups[g.key] = g
			order = append(order, g)
		}
		g.add(m)
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("compile limits: %w", errors.Join(problems...))
	}
	for _, g := range order {
		t.layerOf(g).groups = append(t.layerOf(g).groups, g)
	}
	for _, l := range t.layers() {
		matchers := make([]matcher, len(l.groups))
		for i, g := range l.groups {
			matchers[i] = g.members[0].Match.compile()
		}
		l.index = newIndex(matchers)
	}
	return t, nil
}

func (t *Table) layers() [3]*layer { return [...]*layer{&t.enter, &t.limits, &t.budgets} }

func (t *Table) layerOf(g *group) *layer {
	early := func(m *member) bool {
		for _, d := range m.Each {
			if d != Key && d != Team {
				return false
			}
		}
		for _, f := range m.fields() {
			if f.dim != Key && f.dim != Team && f.dim != 0 {
				return false
			}
		}
		return true
	}
	switch g.resource {
	case USD:
		return &t.budgets
	case Requests, Concurrent:
		for _, m := range g.members {
			if !early(m) {
				return &t.limits
			}
		}
		return &t.enter
	default:
		return &t.limits
	}
}

// groupOf returns the limits that count on the accounts of set; nil = there are
// none any more.
func (t *Table) groupOf(set *accountSet) *group {
	for _, layer := range t.layers() {
		for _, g := range layer.groups {
			if g.set == set {
				return g
			}
		}
	}
	return nil
}

// fields returns what decides whether the limit matches and with which amount.
func (m *member) fields() []field {
	fields := slices.Clone(m.Match.compile())
	for _, c := range m.index.matchers {
		fields = append(fields, c...)
	}
	return fields
}

func (l *Limit) group() *group {
	g := &group{id: l.identity(), resource: l.Resource, window: l.Window, zone: l.zone()}
	g.key = g.id.String()
	return g
}

func (g *group) add(m *member) {
	g.expected = m.Expected && (g.expected || len(g.members) == 0)
	g.members = append(g.members, m)
	g.enforced = g.enforced || m.Mode == Enforce
	bound := m.MaxAccounts
	if bound == 0 && (slices.Contains(m.Each, User) || slices.Contains(m.Each, Session)) {
		bound = defaultMaxAccounts
	}
	g.max = max(g.max, bound)
}

func (l *Limit) compile() (*member, error) {
	if err := l.check(); err != nil {
		return nil, err
	}
	m := &member{Limit: l, label: "limit:" + l.Name, fixed: true}
	if l.Resource == USD {
		m.label = "budget:" + l.Name
	}
	var err error
	if m.base, err = l.termsFor(l.Amount); err != nil {
		return nil, err
	}
	m.greatest = l.Amount

	type override struct {
		matcher matcher
		terms   terms
	}
	overrides := make([]override, len(l.Overrides))
	for _, t := range l.WarnAt {
		m.warnings = append(m.warnings, l.warning(t))
	}
	for i := range l.Overrides {
		o := &l.Overrides[i]
		overrides[i].matcher = o.For.compile()
		if overrides[i].terms, err = l.termsFor(o.Amount); err != nil {
			return nil, fmt.Errorf("overrides[%d]: %w", i, err)
		}
		overrides[i].terms.override = o
		if !o.Until.IsZero() {
			overrides[i].terms.until = o.Until.UnixNano()
		}
		m.greatest = max(m.greatest, o.Amount)
	}
	slices.SortStableFunc(overrides, func(a, b override) int {
		return cmp.Or(narrower(a.matcher, b.matcher), cmp.Compare(a.terms.until, b.terms.until))
	})
	matchers := make([]matcher, len(overrides))
	for i, o := range overrides {
		matchers[i] = o.matcher
		m.overrides = append(m.overrides, o.terms)
		for _, f := range o.matcher {
			m.fixed = m.fixed && l.determines(f.dim)
		}
	}
	m.index = newIndex(matchers)
	return m, nil
}

// determines reports whether all subjects of an account have the same d (0 is
// a tag): a key has one team, and tags are the team's.
func (l *Limit) determines(d Dimension) bool {
	key, team := slices.Contains(l.Each, Key), slices.Contains(l.Each, Team)
	switch d {
	case 0, Team:
		return key || team
	default:
		return slices.Contains(l.Each, d)
	}
}

func (l *Limit) termsFor(amount int64) (terms, error) {
	if amount < 0 || amount > maxAmount {
		return terms{}, fmt.Errorf("amount %d is out of range: want 0 to %d", amount, int64(maxAmount))
	}
	t := terms{amount: amount, until: math.MaxInt64}
	if l.Per == 0 {
		return t, nil
	}
	if amount == 0 {
		return terms{}, errors.New("a rate of 0 never flows back: use a window, or a rule that refuses")
	}
	var err error
	t.bucket, err = newBucket(l.Resource, amount, l.Per, l.Burst)
	return t, err
}

func (l *Limit) check() error {
	if l.Name == "" {
		return errors.New("name is missing")
	}
	windowed, rate := l.Window != NoWindow, l.Per != 0
	switch l.Resource {
	case USD:
		if !windowed || rate {
			return errors.New("a budget needs a window and has no rate")
		}
	case Tokens, Requests:
		if windowed == rate {
			return errors.New("need either a window or a rate")
		}
	case Concurrent:
		if windowed || rate {
			return errors.New("a concurrency limit has neither window nor rate")
		}
	default:
		return fmt.Errorf("unknown resource %d", l.Resource)
	}
	if l.Window > Total {
		return fmt.Errorf("unknown window kind %d", l.Window)
	}
	if l.Per < 0 || l.Burst < 0 || l.MaxAccounts < 0 {
		return errors.New("period, burst and maxAccounts must not be negative")
	}
	if l.zone() == time.Local {
		return errors.New("zone Local differs between machines: name an IANA zone")
	}
	if l.ClampFloor < 0 || l.ClampFloor > 0 && l.Resource != USD {
		return errors.New("only a budget clamps output, and not below 0 tokens")
	}
	if l.Sliced && l.Resource != USD {
		return errors.New("only a budget holds calls in slices")
	}
	if l.Expected && l.Resource != USD {
		return errors.New("only a budget holds what a call is expected to cost")
	}
	for _, t := range l.WarnAt {
		switch {
		case l.Resource != USD:
			return errors.New("only a budget warns")
		case t.Percent < 1 || t.Percent > 1000:
			return fmt.Errorf("threshold %s is out of range: want 1%% to 1000%%", t)
		case t.Forecast && l.Window == Total:
			return fmt.Errorf("threshold %s: a window without an end has no forecast", t)
		}
	}
	if l.Mode > Shadow {
		return fmt.Errorf("unknown mode %d", l.Mode)
	}
	for _, d := range l.Each {
		if d < Team || d > Session {
			return fmt.Errorf("each: unknown dimension %d", d)
		}
	}
	return nil
}

// termsOf returns what the limit gives s on account a at now.
func (m *member) termsOf(a *account, s *Subject, now int64) *terms {
	if len(m.overrides) == 0 {
		return &m.base
	}
	var buf [8]int32
	for _, i := range m.index.appendMatching(buf[:0], s) {
		if m.holds(i, a, now) {
			return &m.overrides[i]
		}
	}
	return &m.base
}

// holds says whether an override that matches a subject is for its account a,
// and not over. What is for some is not for the account that others share.
func (m *member) holds(i int32, a *account, now int64) bool {
	return now < m.overrides[i].until && (!a.other || len(m.index.matchers[i]) == 0)
}

// known is the subject of the account's last call, or of its text, completed by
// the configuration. a.mu is held.
func (t *Table) known(a *account) Subject {
	s := a.subject
	if t.rules.Known == nil {
		return s
	}
	if !slices.Contains(a.set.id.each, Team) {
		s.Teams = nil // of that call: its key may have moved since
	}
	t.rules.Known(&s)
	return s
}

// overridesOf returns the overrides that are for s on account a and not over, the
// one that holds first.
func (m *member) overridesOf(a *account, s *Subject, now int64) []Override {
	if len(m.overrides) == 0 {
		return nil
	}
	var of []Override
	for _, i := range m.index.appendMatching(nil, s) {
		if m.holds(i, a, now) {
			of = append(of, *m.overrides[i].override)
		}
	}
	return of
}

// syncTerms is the limit that the store is told for account a: no call on it may
// be granted more. The amounts of single calls can be lower, and are checked by
// the ledger. An override that ends by the clock makes a version of its own.
func (g *group) syncTerms(a *account, s *Subject, t *Table, now int64) syncTerms {
	lowest, greatest := int64(maxAmount), int64(0)
	version := t.version
	for _, m := range g.members {
		amount := m.greatest
		if m.fixed {
			amount = m.termsOf(a, s, now).amount
		}
		greatest = max(greatest, amount)
		if m.Mode == Enforce {
			lowest = min(lowest, amount)
		}
		for i := range m.overrides {
			if until := m.overrides[i].until; until <= now {
				version = max(version, uint64(until/int64(time.Millisecond)+1))
			}
		}
	}
	if g.enforced {
		return syncTerms{lowest, version}
	}
	return syncTerms{greatest, version}
}
