package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"airgate/accounting/money"
	"airgate/accounting/record"
	"airgate/accounting/report"
	"airgate/accounting/usage"
)

// Table usage is sums over the settlements and adjustments of the book, at
// several levels: for each quarter of an hour, on which every time zone's
// midnight falls, split by user and by the values in table splits; and for days
// and months of UTC, split by less, for the questions that are asked of long
// spans. A question about a span adds up its months, adds or takes away the days
// between their edges and its own, and does the same with the quarters between
// theirs, as far as there is a level for what it is split by. So it reads few
// rows: Tokyo's August is August, nine hours before it, and its last nine less.
//
// A batch is added to the quarters alone. Once an hour of them is over they are
// folded into the other levels together: each row there is then touched once an
// hour, not in each batch. Table folded has the quarter up to which that was
// done. What comes late, for a quarter below it, is added to every level.
//
// The sums are a function of the book: Rebuild makes them again, and CheckSums
// tells whether they are what it would make.

// level is what a row of the sums is about.
type level int

const (
	quarters   level = iota // split by everything
	days                    // not by user
	months                  // not by user
	userDays                // by user only
	userMonths              // by user only
	fullMonths              // split by everything
	wholeDays               // by nothing
	levelCount
)

// bySplit and byUser report what the rows of a level are split by.
func (l level) bySplit() bool { return l == quarters || l == days || l == months || l == fullMonths }

func (l level) byUser() bool {
	return l == quarters || l == userDays || l == userMonths || l == fullMonths
}

// levels are those that answer a question that is split by day, by user, by
// other values: from fine to coarse.
func levels(byDay, byUser, bySplit bool) []level {
	var all []level
	switch {
	case byUser && bySplit:
		all = []level{quarters, fullMonths}
	case byUser:
		all = []level{quarters, userDays, userMonths}
	case bySplit:
		all = []level{quarters, days, months}
	default:
		all = []level{quarters, wholeDays}
	}
	if byDay {
		all = slices.DeleteFunc(all, func(l level) bool { return l == months || l == userMonths || l == fullMonths })
	}
	return all
}

const (
	quarter     = 15 * time.Minute
	dayQuarters = int64(24 * time.Hour / quarter)
)

// first is the first quarter of the period of this level that q is in.
func (l level) first(q int64) int64 {
	switch l {
	case days, userDays, wholeDays:
		return q - (q%dayQuarters+dayQuarters)%dayQuarters
	case months, userMonths, fullMonths:
		y, m, _ := startOf(q).Date()
		return quarterOf(time.Date(y, m, 1, 0, 0, 0, 0, time.UTC))
	case quarters, levelCount:
	}
	return q
}

// next is the first quarter of the period after the one that begins at q.
func (l level) next(q int64) int64 {
	switch l {
	case days, userDays, wholeDays:
		return q + dayQuarters
	case months, userMonths, fullMonths:
		return quarterOf(startOf(q).AddDate(0, 1, 0))
	case quarters, levelCount:
	}
	return q + 1
}

// quarterOf is the quarter of an hour since 1970 that t is in.
func quarterOf(t time.Time) int64 {
	ms, unit := t.UnixMilli(), quarter.Milliseconds()
	q := ms / unit
	if ms%unit < 0 {
		q--
	}
	return q
}

func startOf(q int64) time.Time { return time.UnixMilli(q * quarter.Milliseconds()).UTC() }

// span is the rows of one level in [first, end), to be added or taken away.
type span struct {
	level      level
	first, end int64
	minus      bool
}

// spans add up to [from, to), with few rows as there can be of these levels: a
// period of which less than a half is left out is read whole, and what is left
// out taken away.
func spans(from, to int64, levels []level) []span {
	last := len(levels) - 1
	if from >= to {
		return nil
	}
	if last == 0 {
		return []span{{level: levels[0], first: from, end: to}}
	}
	coarsest, finer := levels[last], levels[:last]
	first, end := coarsest.nearest(from), coarsest.nearest(to)
	if first >= end || distance(first, from)+distance(end, to) >= to-from {
		return spans(from, to, finer)
	}
	all := []span{{level: coarsest, first: first, end: end}}
	all = append(all, spans(from, first, finer)...)
	all = append(all, taken(spans(first, from, finer))...)
	all = append(all, spans(end, to, finer)...)
	return append(all, taken(spans(to, end, finer))...)
}

// nearest is where a period of this level begins, next to q.
func (l level) nearest(q int64) int64 {
	first := l.first(q)
	if end := l.next(first); end-q < q-first {
		return end
	}
	return first
}

func distance(a, b int64) int64 { return max(a-b, b-a) }

// taken are the spans, with the other sign.
func taken(all []span) []span {
	for i := range all {
		all[i].minus = !all[i].minus
	}
	return all
}

// extent is what the sums cover: quarters from oldest to newest, the other
// levels those below folded.
type extent struct{ oldest, newest, folded int64 }

// spans are those of a question about [from, to). Where a bound lies outside of
// what there is, a month may be read whole: there is nothing else in it.
func (e extent) spans(from, to int64, levels []level) []span {
	coarsest := levels[len(levels)-1]
	if from <= e.oldest {
		from = coarsest.first(e.oldest)
	}
	to = min(to, e.newest+1)
	if from >= e.folded {
		return spans(from, to, levels[:1])
	}
	end := to
	if to >= e.folded {
		end = coarsest.next(coarsest.first(e.folded))
	}
	all := spans(from, end, levels)
	for i := range all {
		if all[i].level == quarters { // the others have no more
			all[i].end = min(all[i].end, e.folded)
		}
	}
	if to > e.folded {
		all = append(all, span{level: quarters, first: e.folded, end: to})
	}
	return all
}

// split is one combination of values, in the order of splitColumns.
type split [len(splitColumns)]string

// user is a user, "" for none.
type user [1]string

// splitOf is the combination that a record, merged with what is known of its
// request, belongs to.
func splitOf(r *record.Record) split {
	key := r.KeyName
	if key == "" {
		key = r.KeyID
	}
	return split{r.Team, key, r.Purpose, r.Model, r.Provider, r.Class, r.CostCenter}
}

// totals gathers what records add to the sums.
type totals map[cell]*total

// cell is one row at the finest level.
type cell struct {
	quarter int64
	split   split
	user    user
}

type total struct {
	requests  int64
	unpriced  int64 // requests without a cost
	estimated int64 // requests whose tokens are not the provider's word
	cost      int64
	hasCost   bool
	guessed   int64 // of cost, that of estimated requests
	tokens    usage.Tokens
}

// add counts a settlement, or an adjustment, at its admission. calls are the
// intent and the settlement of its request in the book, r among them.
func (t totals) add(r *record.Record, calls func() ([]record.Record, error)) error {
	if r.Type != record.Settle && r.Type != record.Adjust {
		return nil
	}
	of := r
	if r.RequestID != "" && (r.Type == record.Adjust || r.Team == "") {
		// It says less than the records before it: a settlement made for a
		// writer that was killed has no more than the request's id.
		known, err := calls()
		if err != nil {
			return err
		}
		if len(known) > 0 {
			merged := report.Merge(known)
			of = &merged.Record
		}
	}
	at := cell{quarterOf(admission(of)), splitOf(of), user{of.User}}
	sum := t[at]
	if sum == nil {
		sum = &total{}
		t[at] = sum
	}
	estimated := of.UsageSource != usage.Unset && of.UsageSource != usage.Provider
	if r.Type == record.Settle {
		sum.requests++
		if !r.HasCost {
			sum.unpriced++
		}
		if estimated {
			sum.estimated++
		}
	}
	if r.HasCost {
		cost := bounded(int64(r.Cost), mostOfARecord)
		sum.cost, sum.hasCost = sum.cost+cost, true
		if estimated {
			sum.guessed += cost
		}
	}
	tokens := r.Tokens
	for _, n := range record.Buckets(&tokens) {
		*n = money.Tokens(bounded(int64(*n), mostOfARecord))
	}
	sum.tokens.Add(&tokens)
	return nil
}

// appendTo appends the values of addends.
func (t *total) appendTo(values []any) []any {
	var cost any
	if t.hasCost {
		cost = bounded(t.cost, mostOfASum)
	}
	values = append(values, t.requests, t.unpriced, t.estimated, cost, bounded(t.guessed, mostOfASum))
	for _, n := range record.Buckets(&t.tokens) {
		values = append(values, bounded(int64(*n), mostOfASum))
	}
	return values
}

// One absurd record must not stop the shipping of all: SQLite refuses a sum that
// overflows. So a record counts at most a million USD, or 10^15 tokens, and a row
// stops at 64 times that: 127 such rows still have a sum. What is left of a month
// when days are taken away is wrong once the month has come to its stop, as is
// the month.
const (
	mostOfARecord = 1 << 50
	mostOfASum    = 1 << 56
)

func bounded(n, most int64) int64 { return max(-most, min(n, most)) }

// addition is how a row is added to the one that is there.
func addition() string {
	var set []string
	for _, name := range addends() {
		sum := fmt.Sprintf("max(-%d, min(%d, %s + excluded.%s))", mostOfASum, mostOfASum, name, name)
		switch name {
		case "requests", "unpriced", "estimated":
			sum = name + " + excluded." + name
		case "cost_nano":
			sum = "coalesce(" + sum + ", cost_nano, excluded.cost_nano)"
		}
		set = append(set, name+" = "+sum)
	}
	return " ON CONFLICT (level, quarter, split, user) DO UPDATE SET " + strings.Join(set, ", ")
}

// foldLag is how long after its end a quarter is folded: most calls have
// settled by then. foldStep is how many are folded together.
const (
	foldLag  = 4
	foldStep = 4
)

// store adds the totals to the sums, and folds what is over. How far the levels
// are folded it reads in the same transaction: another process that writes to
// the file folds too.
func (s *Sink) store(ctx context.Context, tx *sql.Tx, t totals) error {
	if len(t) == 0 {
		return nil
	}
	folded, err := foldedOf(ctx, tx)
	if err != nil {
		return err
	}
	if err := s.addTotals(ctx, tx, t, folded); err != nil {
		return err
	}
	oldest, newest := int64(math.MaxInt64), int64(math.MinInt64)
	for at := range t {
		oldest, newest = min(oldest, at.quarter), max(newest, at.quarter)
	}
	switch {
	case folded == unfolded:
		return setFolded(ctx, tx, oldest)
	case newest-foldLag-foldStep < folded:
		return nil
	}
	return s.fold(ctx, tx, folded, newest-foldLag)
}

// addTotals adds the totals to the sums: to each level those below folded, to
// the quarters alone the others.
func (s *Sink) addTotals(ctx context.Context, tx *sql.Tx, t totals, folded int64) error {
	values := make([]any, 0, len(t)*s.upsert.width)
	for at, sum := range t {
		split, err := s.splits.of(ctx, tx, at.split)
		if err != nil {
			return err
		}
		user, err := s.users.of(ctx, tx, at.user)
		if err != nil {
			return err
		}
		for l := quarters; l == quarters || l < levelCount && at.quarter < folded; l++ {
			key := []any{int64(l), l.first(at.quarter), int64(0), int64(0)}
			if l.bySplit() {
				key[2] = split
			}
			if l.byUser() {
				key[3] = user
			}
			values = sum.appendTo(append(values, key...))
		}
	}
	if err := s.upsert.exec(ctx, tx, values); err != nil {
		return fmt.Errorf("add to usage: %w", err)
	}
	return nil
}

// unfolded is before the first fold.
const unfolded = math.MinInt64

// foldedOf reads table folded.
func foldedOf(ctx context.Context, q querier) (int64, error) {
	folded := int64(unfolded)
	if err := q.QueryRowContext(ctx, "SELECT quarter FROM folded").Scan(&folded); err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, fmt.Errorf("read folded: %w", err)
	}
	return folded, nil
}

// extentOf is what the sums cover; false = there are none.
func extentOf(ctx context.Context, q querier) (e extent, some bool, err error) {
	var oldest, newest *int64
	if err := q.QueryRowContext(ctx, "SELECT (SELECT min(quarter) FROM usage WHERE level = 0), (SELECT max(quarter) FROM usage WHERE level = 0)").Scan(&oldest, &newest); err != nil {
		return e, false, fmt.Errorf("read usage: %w", err)
	}
	if oldest == nil {
		return e, false, nil
	}
	folded, err := foldedOf(ctx, q)
	return extent{*oldest, *newest, folded}, true, err
}

// fold adds the quarters of [q, end) to the other levels.
func (s *Sink) fold(ctx context.Context, tx *sql.Tx, q, end int64) error {
	for {
		next, some, err := nextQuarter(ctx, tx, q, end)
		if err != nil {
			return err
		}
		if !some {
			return setFolded(ctx, tx, end)
		}
		q = min(days.next(days.first(next)), end)
		for l := days; l < levelCount; l++ {
			if _, err := tx.StmtContext(ctx, s.folding[l]).ExecContext(ctx, int64(l), l.first(next), int64(quarters), next, q); err != nil {
				return fmt.Errorf("fold usage: %w", err)
			}
		}
	}
}

// nextQuarter is the first quarter of [from, to) that has a row; false = none.
func nextQuarter(ctx context.Context, q querier, from, to int64) (next int64, some bool, err error) {
	var found *int64
	if err := q.QueryRowContext(ctx, "SELECT min(quarter) FROM usage WHERE level = ? AND quarter >= ? AND quarter < ?", int64(quarters), from, to).Scan(&found); err != nil {
		return to, false, fmt.Errorf("read usage: %w", err)
	}
	if found == nil {
		return to, false, nil
	}
	return *found, true, nil
}

func setFolded(ctx context.Context, tx *sql.Tx, q int64) error {
	if _, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO folded (id, quarter) VALUES (0, ?)", q); err != nil {
		return fmt.Errorf("fold usage: %w", err)
	}
	return nil
}

// folding is SQL that adds quarters to one row each of level l.
func folding(l level) string {
	names := addends()
	group, split, user := "level", "0", "0"
	if l.bySplit() {
		group, split = group+", split", "split"
	}
	if l.byUser() {
		group, user = group+", user", "user"
	}
	var added []string
	for _, name := range names {
		added = append(added, fmt.Sprintf("max(-%[1]d, min(%[1]d, sum(%[2]s)))", mostOfASum, name))
	}
	return "INSERT INTO usage (level, quarter, split, user, " + strings.Join(names, ", ") + ") SELECT ?, ?, " + split + ", " + user + ", " + strings.Join(added, ", ") +
		" FROM usage WHERE level = ? AND quarter >= ? AND quarter < ? GROUP BY " + group + addition()
}

// ids are the numbers of what stands in a table of its own, so that the rows of
// the sums are short. It remembers those used lately.
type ids[K split | user] struct {
	table     string
	find, add *sql.Stmt
	known     map[K]int64
	fresh     map[K]int64 // of a transaction that is not committed
}

func newIDs[K split | user](ctx context.Context, db *sql.DB, table string, columns []string) (_ *ids[K], err error) {
	i := &ids[K]{table: table, known: map[K]int64{}, fresh: map[K]int64{}}
	names := "(" + strings.Join(columns, ", ") + ")"
	values := "(?" + strings.Repeat(", ?", len(columns)-1) + ")"
	if i.find, err = db.PrepareContext(ctx, "SELECT id FROM "+table+" WHERE "+names+" = "+values); err != nil { //nolint:gosec // our own names only
		return nil, err
	}
	i.add, err = db.PrepareContext(ctx, "INSERT INTO "+table+" "+names+" VALUES "+values+" RETURNING id") //nolint:gosec // our own names only
	return i, err
}

func (i *ids[K]) of(ctx context.Context, tx *sql.Tx, k K) (int64, error) {
	if id, ok := i.known[k]; ok {
		return id, nil
	}
	if id, ok := i.fresh[k]; ok {
		return id, nil
	}
	var values []any
	for n := range len(k) {
		values = append(values, k[n])
	}
	var id int64
	err := tx.StmtContext(ctx, i.find).QueryRowContext(ctx, values...).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		err = tx.StmtContext(ctx, i.add).QueryRowContext(ctx, values...).Scan(&id)
	}
	if err != nil {
		return 0, fmt.Errorf("add to %s: %w", i.table, err)
	}
	i.fresh[k] = id
	return id, nil
}

// remembered bounds the memory that ids take.
const remembered = 1 << 15

// forget drops what a transaction found that was not committed.
func (i *ids[K]) forget() { clear(i.fresh) }

// keep remembers what a transaction found that was committed.
func (i *ids[K]) keep() {
	if len(i.known)+len(i.fresh) > remembered {
		clear(i.known)
	}
	maps.Copy(i.known, i.fresh)
	clear(i.fresh)
}

// admission is when the request was let in: its id is a UUIDv7, which begins
// with the milliseconds since 1970 (RFC 9562, 5.7).
func admission(r *record.Record) time.Time {
	if id := r.RequestID; len(id) == 36 && id[14] == '7' {
		if ms, err := strconv.ParseInt(id[:8]+id[9:13], 16, 64); err == nil {
			return time.UnixMilli(ms).UTC()
		}
	}
	return r.Time
}
