package e2e

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"airgate/accounting/journal"
	"airgate/accounting/money"
	"airgate/accounting/record"
	"airgate/accounting/sink/sqlite"
	"airgate/accounting/usage"
)

// book is the test's own sum of all records that airgate has written to one
// data directory, made from each writer's journal after its death.
type book struct {
	heads map[string]record.Head // :: writer → its last record
	open  map[string]record.Record
	ended map[string]bool          // request ids that have their settlement
	spent map[string]money.NanoUSD // :: team → Σ cost of settlements

	intents, orphans int // orphans are settlements that the next writer made
}

func newBook() *book {
	return &book{
		heads: map[string]record.Head{}, open: map[string]record.Record{}, ended: map[string]bool{},
		spent: map[string]money.NanoUSD{},
	}
}

// life is what one writer has recorded.
type life struct {
	writer   string
	intents  map[string]record.Record
	settles  map[string]record.Record
	denies   map[string]bool
	refusals map[string]int // :: team, code → denies
}

// read adds what writers, new since the last call, have left below journalDir
// and, of what was deleted there, in the records database. It says what is
// wrong with it. They must be dead.
func (b *book) read(journalDir, database string) ([]life, error) {
	writers, err := journal.Writers(journalDir)
	if err != nil {
		return nil, err
	}
	var lives []life
	for _, writer := range writers {
		if b.heads[writer].Seq > 0 {
			continue
		}
		l, err := b.readWriter(journalDir, database, writer)
		if err != nil {
			return nil, err
		}
		if b.heads[writer].Seq > 0 { // else it was killed before its first record
			lives = append(lives, l)
		}
	}
	return lives, nil
}

func (b *book) readWriter(journalDir, database, writer string) (life, error) {
	l := life{writer: writer, intents: map[string]record.Record{}, settles: map[string]record.Record{}, denies: map[string]bool{}, refusals: map[string]int{}}
	// The journal's reader takes a directory of writers: this one has only one.
	alone, err := os.MkdirTemp("", "book")
	if err != nil {
		return l, err
	}
	defer func() { _ = os.RemoveAll(alone) }()
	if err := os.Symlink(filepath.Join(journalDir, writer), filepath.Join(alone, writer)); err != nil {
		return l, err
	}
	head := record.Head{Writer: writer}
	next := func(r record.Record, err error) error {
		switch {
		case err != nil:
			return err
		case r.Seq != head.Seq+1 || r.Prev != head.Hash:
			return fmt.Errorf("%s: record %d does not follow from record %d", writer, r.Seq, head.Seq)
		}
		if err := b.add(&l, r); err != nil {
			return fmt.Errorf("%s: record %d: %w", writer, r.Seq, err)
		}
		head.Seq, head.Hash = r.Seq, record.Sum(record.AppendJSON(nil, &r))
		return nil
	}
	for r, err := range journal.Read(alone) {
		if err == nil && head.Seq == 0 && r.Seq > 1 {
			err = deleted(database, writer, r.Seq, next)
		}
		if err := next(r, err); err != nil {
			return l, err
		}
	}
	if head.Seq == 0 { // its last segment may have begun behind its last record
		segments, err := filepath.Glob(filepath.Join(journalDir, writer, "*.wal"))
		if err != nil {
			return l, err
		}
		for _, segment := range segments {
			if first := strings.TrimLeft(filepath.Base(segment)[:20], "0"); first != "1" {
				if err := deleted(database, writer, math.MaxUint64, next); err != nil {
					return l, err
				}
				break
			}
		}
	}
	if head.Seq > 0 {
		b.heads[writer] = head
	}
	return l, nil
}

// deleted reads the writer's records before the one with number until: the
// journal may have deleted them only if they are in the database.
func deleted(database, writer string, until uint64, next func(record.Record, error) error) error {
	ctx := context.Background()
	db, err := sqlite.OpenReadOnly(ctx, database)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	for r, err := range db.Records(ctx, writer, 0) {
		if err == nil && r.Seq >= until {
			break
		}
		if err := next(r, err); err != nil {
			return err
		}
	}
	return nil
}

// add counts one record. Each intent is settled once, by its own writer or, at
// its bound and marked, by the one that found it open.
func (b *book) add(l *life, r record.Record) error {
	id := r.RequestID
	switch r.Type {
	case record.Intent:
		if _, again := b.open[id]; again || b.ended[id] {
			return fmt.Errorf("request %s has a second intent", id)
		}
		b.open[id], l.intents[id] = r, r
		b.intents++
	case record.Extend:
		intent, open := b.open[id]
		if _, own := l.intents[id]; !open || !own || r.Reserved <= intent.Reserved {
			return fmt.Errorf("request %s is extended from %s to %s, open %v, own %v", id, intent.Reserved, r.Reserved, open, own)
		}
		intent.Reserved = r.Reserved
		b.open[id], l.intents[id] = intent, intent
	case record.Settle:
		intent, open := b.open[id]
		switch {
		case b.ended[id]:
			return fmt.Errorf("request %s has a second settlement", id)
		case r.Decision == "none": // ended before it was admitted
			b.ended[id] = true
			return nil
		case !open:
			return fmt.Errorf("request %s is settled without an intent", id)
		case r.Cost > intent.Reserved || r.Cost < 0:
			return fmt.Errorf("request %s costs %s of %s held", id, r.Cost, intent.Reserved)
		}
		if _, own := l.intents[id]; !own {
			if r.Cost != intent.Reserved || r.UsageSource != usage.None || r.Class != "gateway" {
				return fmt.Errorf("orphan %s is settled at %s of %s, usage %s, class %s", id, r.Cost, intent.Reserved, r.UsageSource, r.Class)
			}
			b.orphans++
		}
		delete(b.open, id)
		b.ended[id], l.settles[id] = true, r
		b.spent[intent.Team] += r.Cost
	case record.Deny:
		if id == "" {
			return nil // counted: strangers, and floods
		}
		if l.denies[id] {
			return fmt.Errorf("request %s has a second refusal", id)
		}
		l.denies[id] = true
		l.refusals[r.Team+" "+r.Code]++
	case record.Start, record.Adjust, record.Admin:
	}
	return nil
}

// due is what team has spent once all that is open is charged its bound.
func (b *book) due(team string) money.NanoUSD {
	sum := b.spent[team]
	for _, r := range b.open {
		if r.Team == team {
			sum += r.Reserved
		}
	}
	return sum
}

// keeps says what of the promise is not in the writer's records. The writer has
// died since. The call costs cost if it has ended well.
func (l *life) keeps(p *promise, cost money.NanoUSD) error {
	intent, intended := l.intents[p.id]
	settle, settled := l.settles[p.id]
	switch {
	case p.code != "" && !p.forwarded && intended:
		return errors.New("it was refused and has an intent")
	case p.forwarded && !intended:
		return errors.New("its intent is lost")
	case p.settled && !settled:
		return errors.New("its settlement is lost")
	case p.settled && (settle.Cost != cost || cost > 0 && settle.UsageSource != usage.Provider):
		return fmt.Errorf("it is settled at %s by %s, want %s by the provider", settle.Cost, settle.UsageSource, cost)
	case settled && settle.Cost < p.billed:
		return fmt.Errorf("it is settled at %s, the provider billed %s", settle.Cost, p.billed)
	case intended && intent.Reserved < p.billed:
		return fmt.Errorf("it held %s, the provider billed %s", intent.Reserved, p.billed)
	}
	return nil
}

// lost reports what the heads that a sink holds do not have.
func (b *book) lost(sink []record.Head) error {
	var errs []error
	for writer, head := range b.heads {
		if !slices.Contains(sink, head) {
			errs = append(errs, fmt.Errorf("%s ends with record %d, not so in the sink", writer, head.Seq))
		}
	}
	for _, h := range sink {
		if b.heads[h.Writer] != h {
			errs = append(errs, fmt.Errorf("the sink has record %d of %s, the journal had not", h.Seq, h.Writer))
		}
	}
	return errors.Join(errs...)
}
