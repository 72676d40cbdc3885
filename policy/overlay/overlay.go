// Package overlay is what operators lay over the configuration files for a
// while: raises of budgets, blocks, revocations of keys, each with who, why and
// until when. It answers: which of them hold now.
//
// There is one entry for each subject, and the last word on a subject holds. A
// removal is a word, too: nothing is taken out while an older word could come
// back. So sets of entries can be merged in any order and any number of times,
// and every airgate can put again what a store has lost.
//
// A Copy is what one airgate knows of it. What an entry means for a
// configuration, and whether that allows it, is for package config to say.
package overlay

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"airgate/accounting/money"
)

// Kind is what an entry does.
type Kind string

// The kinds.
const (
	Raise         Kind = "raise"          // gives a budget another amount
	BlockTeam     Kind = "block/team"     // refuses the calls of a team and its descendants,
	BlockKey      Kind = "block/key"      // of a key, by its id,
	BlockModel    Kind = "block/model"    // to a model, by its canonical name,
	BlockProvider Kind = "block/provider" // to a provider
	Revoke        Kind = "revoke"         // ends a key, by its id
)

const (
	// Longest is how long an entry may hold: what is to last stands in a file.
	// A revocation is the exception, as it must not lapse: it has no end.
	Longest = 72 * time.Hour
	// Slack is by how much the clocks of airgates may differ.
	Slack = time.Hour

	maxWord = 256 // bytes of a name, of by and of reason
)

// Entry is one word of an operator. It is a plain value.
type Entry struct {
	Kind    Kind
	Name    string        // of the budget, team, model or provider; of a key its id
	To      money.NanoUSD // the amount of a Raise
	Until   time.Time     // the first instant it no longer holds; zero of a Revoke
	By      string
	Reason  string
	Made    time.Time // when it was said; milliseconds
	Removed bool      // it takes back what was said before, whose Until it keeps
}

// ID names the subject of an entry: "raise/search", "block/team/search",
// "revoke/k7Qm2xT9aB4c".
func (e Entry) ID() string { return string(e.Kind) + "/" + e.Name }

// Holds says whether the entry, if it is the last word, holds at an instant.
func (e Entry) Holds(now time.Time) bool {
	return !e.Removed && (e.Until.IsZero() || now.Before(e.Until))
}

// over says whether the entry, and every word before it on its subject, has
// ended by every clock. A revocation is over, where it is not needed any more,
// once files have had the time to reach all airgates.
func (e Entry) over(now time.Time) bool {
	end := e.Until
	if end.IsZero() {
		end = e.Made.Add(Longest)
	}
	return !now.Before(end.Add(Slack))
}

// compare orders words on one subject: the later is the greater, and of two at
// the same time the greater text.
func (e Entry) compare(o Entry) int {
	return cmp.Or(e.Made.Compare(o.Made), bytes.Compare(e.appendJSON(nil), o.appendJSON(nil)))
}

// Check says what is wrong with an entry by itself.
func (e Entry) Check() error {
	raise, revoke := false, false
	switch e.Kind {
	case Raise:
		raise = true
	case BlockTeam, BlockKey, BlockModel, BlockProvider:
	case Revoke:
		revoke = true
	default:
		return fmt.Errorf("kind %q is not known: want raise, block/team, block/key, block/model, block/provider or revoke", e.Kind)
	}
	for _, word := range []struct{ name, text string }{{"name", e.Name}, {"by", e.By}, {"reason", e.Reason}} {
		if err := checkWord(word.text); err != nil {
			return fmt.Errorf("%s %w", word.name, err)
		}
	}
	switch {
	case raise && e.To <= 0:
		return errors.New("to_usd must be an amount above 0")
	case !raise && e.To != 0:
		return errors.New("to_usd belongs to a raise")
	case e.Made.IsZero():
		return errors.New("made is missing")
	case revoke && e.Removed:
		return errors.New("a revocation is not taken back: make another key")
	case revoke && !e.Until.IsZero():
		return errors.New("a revocation has no until: it must not lapse")
	case revoke:
		return nil
	case e.Until.IsZero():
		return errors.New("until is missing")
	case !e.Until.After(e.Made):
		return fmt.Errorf("until %s is in the past", e.Until.UTC().Format(time.RFC3339))
	case e.Until.Sub(e.Made) > Longest:
		return fmt.Errorf("until %s is more than %d hours away: what is to last longer stands in a file",
			e.Until.UTC().Format(time.RFC3339), int(Longest.Hours()))
	}
	return nil
}

func checkWord(s string) error {
	switch {
	case strings.TrimSpace(s) == "":
		return errors.New("is missing")
	case len(s) > maxWord:
		return fmt.Errorf("is longer than %d bytes", maxWord)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl):
		return errors.New("must be one line of UTF-8 text, without control characters")
	}
	return nil
}

// entryJSON is the shape of an entry in a store and in the API.
type entryJSON struct {
	ID      string         `json:"id,omitempty"`
	Kind    Kind           `json:"kind"`
	Name    string         `json:"name"`
	To      *money.NanoUSD `json:"to_usd,omitempty"`
	Until   *time.Time     `json:"until,omitempty"`
	By      string         `json:"by"`
	Reason  string         `json:"reason"`
	Made    *time.Time     `json:"made,omitempty"`
	Removed bool           `json:"removed,omitempty"`
}

// MarshalJSON is the one encoding of an entry: money as text, times in UTC with
// milliseconds, absent fields left out.
func (e Entry) MarshalJSON() ([]byte, error) { return e.appendJSON(nil), nil }

func (e Entry) appendJSON(dst []byte) []byte {
	out := entryJSON{ID: e.ID(), Kind: e.Kind, Name: e.Name, Until: milli(e.Until), By: e.By, Reason: e.Reason, Made: milli(e.Made), Removed: e.Removed}
	if e.To != 0 {
		out.To = &e.To
	}
	text, err := json.Marshal(out)
	if err != nil {
		panic("overlay: marshal entry: " + err.Error()) // it is texts, times before year 10000 and an amount
	}
	return append(dst, text...)
}

func milli(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Millisecond)
	return &t
}

// Parse reads one entry strictly: an unknown field, one that stands twice, what
// follows it, and what Check refuses are errors.
func Parse(text []byte) (Entry, error) {
	e, err := ParseDraft(text)
	if err == nil {
		err = e.Check()
	}
	if err != nil {
		return Entry{}, err
	}
	return e, nil
}

// ParseDraft is Parse of an entry that is not checked, since it may lack what
// its reader adds.
func ParseDraft(text []byte) (Entry, error) {
	if err := once(text); err != nil {
		return Entry{}, fmt.Errorf("parse overlay entry: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	var in entryJSON
	if err := d.Decode(&in); err != nil {
		return Entry{}, fmt.Errorf("parse overlay entry: %w", err)
	}
	e := Entry{Kind: in.Kind, Name: in.Name, By: in.By, Reason: in.Reason, Removed: in.Removed}
	if in.To != nil {
		e.To = *in.To
	}
	for _, t := range []struct {
		name string
		from *time.Time
		to   *time.Time
	}{{"until", in.Until, &e.Until}, {"made", in.Made, &e.Made}} {
		if t.from == nil {
			continue
		}
		if *t.to = t.from.UTC().Truncate(time.Millisecond); t.to.Year() < 2000 || t.to.Year() > 9000 {
			return Entry{}, fmt.Errorf("parse overlay entry: %s is out of range", t.name)
		}
	}
	if in.ID != "" && in.ID != e.ID() {
		return Entry{}, fmt.Errorf("parse overlay entry: id %q is not %q", in.ID, e.ID())
	}
	return e, nil
}

// once refuses what encoding/json would let pass: a field that stands twice, in
// any spelling, and text after the object.
func once(text []byte) error {
	d := json.NewDecoder(bytes.NewReader(text))
	open, err := d.Token()
	if err != nil {
		return err
	}
	if open != json.Delim('{') {
		return errors.New("it is not an object")
	}
	seen := make(map[string]bool)
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		field := strings.ToLower(fmt.Sprint(name))
		if seen[field] {
			return fmt.Errorf("field %q stands twice", field)
		}
		seen[field] = true
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows it")
	}
	return nil
}
