package processor

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"airgate/accounting/record"
)

// maxStrangers bounds what refused strangers take while their counts cannot be
// written, and in one second; the rest is counted under the network "other".
const maxStrangers = 1024

// strangers counts refusals of callers without a valid key by code, source
// network and second.
type strangers struct {
	mu   sync.Mutex
	seen map[strangerKey]int64
	rest map[Code]int64 // :: code → second under which its rest is in seen
}

type strangerKey struct {
	second  int64
	code    Code
	network string
}

// restNetwork stands for all networks.
const restNetwork = "other"

func (s *strangers) add(code Code, source string, now time.Time) {
	k := strangerKey{now.Unix(), code, network(source)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.countLocked(k, 1)
}

// countLocked keeps one rest for each code, from the second of its first: also of
// what is put back, since others may have come meanwhile.
func (s *strangers) countLocked(k strangerKey, n int64) {
	if _, ok := s.seen[k]; !ok && len(s.seen)-len(s.rest) >= maxStrangers {
		k.network = restNetwork
	}
	if k.network == restNetwork {
		if second, ok := s.rest[k.code]; ok {
			have := strangerKey{second, k.code, restNetwork}
			n += s.seen[have]
			delete(s.seen, have)
			k.second = min(k.second, second)
		}
		s.rest[k.code] = k.second
	}
	s.seen[k] += n
}

// over reports whether a second, or minute, has passed at another. The time of who
// asks may be older than that of a refusal that came before; what is further
// ahead was counted before the clock was set back.
func over(then, now int64) bool { return then < now || then > now+1 }

// network is the /24 of an IPv4 source, the /48 of an IPv6 one.
func network(source string) string {
	ap, err := netip.ParseAddrPort(source)
	if err != nil {
		return "unknown"
	}
	addr := ap.Addr().Unmap()
	bits := 48
	if addr.Is4() {
		bits = 24
	}
	p, err := addr.WithZone("").Prefix(bits)
	if err != nil {
		return "unknown"
	}
	return p.String()
}

// take returns what was counted before the second of now, in order, and forgets
// it.
func (s *strangers) take(now time.Time) []counted {
	s.mu.Lock()
	defer s.mu.Unlock()
	var due []counted
	for k, n := range s.seen {
		if over(k.second, now.Unix()) {
			o := outcomeOf(k.code)
			due = append(due, counted{
				record: record.Record{
					Type: record.Deny, Time: time.Unix(k.second, 0).UTC(), Decision: "deny", Code: string(k.code),
					Class: string(o.class), Family: o.class.Family(), Status: o.status, Count: n, Source: k.network,
				},
				back: func() { s.putBack(k, n) },
			})
			delete(s.seen, k)
			if k.network == restNetwork {
				delete(s.rest, k.code)
			}
		}
	}
	return due
}

func (s *strangers) putBack(k strangerKey, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.countLocked(k, n)
}

// ownDenials is how many refusals of one key for one reason have records of
// their own in a minute; the rest of that minute is one record with a count, so
// that a flood of bad calls cannot fill the disk.
const ownDenials = 10

// repeated counts refusals of known keys by key and code. Both are few: it is
// bounded by the config.
type repeated struct {
	mu   sync.Mutex
	seen map[repeatedKey]*repeats
}

type repeatedKey struct {
	keyID string
	code  Code
}

// repeats is one key's refusals for one reason.
type repeats struct {
	minute int64          // the newest in which there were some
	own    int            // of that minute, those that have a record of their own
	rest   *record.Record // with the count of that minute's that have none; nil = there are none
	past   *record.Record // the same of earlier minutes, which are not in the book yet
}

// atLocked is the repeats of a minute: what was counted in an earlier one is past. A
// refusal that comes a little late is one of the newest minute.
func (r *repeated) atLocked(k repeatedKey, minute int64) *repeats {
	have := r.seen[k]
	if have == nil {
		have = &repeats{minute: minute}
		r.seen[k] = have
	}
	if minute > have.minute || minute < have.minute-1 {
		*have = repeats{minute: minute, past: merged(have.past, have.rest)}
	}
	return have
}

// merged is one record for two counts, from the time of the first.
func merged(a, b *record.Record) *record.Record {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case b.Time.Before(a.Time):
		a, b = b, a
	}
	a.Count += b.Count
	return a
}

// own says whether a refusal shall have a record of its own, and of which minute
// it is one. Only those that are in the journal count, told by recorded: when a
// crash loses the count of a refusal that has none, so many others of its kind are
// there.
func (r *repeated) own(keyID string, code Code, now time.Time) (minute int64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	have := r.atLocked(repeatedKey{keyID, code}, now.Unix()/60)
	return have.minute, have.own < ownDenials
}

// recorded says that a refusal of own has its record.
func (r *repeated) recorded(keyID string, code Code, minute int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if have := r.seen[repeatedKey{keyID, code}]; have != nil && have.minute == minute {
		have.own++
	}
}

// add counts a refusal that has no record of its own.
func (r *repeated) add(rec *record.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	have := r.atLocked(repeatedKey{rec.KeyID, Code(rec.Code)}, rec.Time.Unix()/60)
	if have.rest == nil {
		have.rest = &record.Record{
			Type: record.Deny, Time: time.Unix(have.minute*60, 0).UTC(), KeyID: rec.KeyID, KeyName: rec.KeyName, Team: rec.Team, TeamPath: rec.TeamPath,
			CostCenter: rec.CostCenter, Tags: rec.Tags, Decision: rec.Decision, Code: rec.Code, Class: rec.Class, Family: rec.Family,
			Status: rec.Status, ConfigHash: rec.ConfigHash,
		}
	}
	have.rest.Count++
}

// take returns what was counted before the minute of now, and forgets it.
func (r *repeated) take(now time.Time) []counted {
	r.mu.Lock()
	defer r.mu.Unlock()
	var due []counted
	for k, have := range r.seen {
		all := []*record.Record{have.past}
		have.past = nil
		if over(have.minute, now.Unix()/60) {
			all = append(all, have.rest)
			delete(r.seen, k)
		}
		for _, rec := range all {
			if rec != nil {
				due = append(due, counted{*rec, func() { r.putBack(k, rec) }})
			}
		}
	}
	return due
}

func (r *repeated) putBack(k repeatedKey, rec *record.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	have := r.seen[k]
	if have == nil {
		have = &repeats{minute: rec.Time.Unix() / 60}
		r.seen[k] = have
	}
	have.past = merged(have.past, rec)
}

// counted is one record that stands for several refusals. back takes it back
// into the count.
type counted struct {
	record record.Record
	back   func()
}

// Flush appends one denial record for each code, network and second before now
// in which strangers were refused, and for each key and code of which a minute
// before now had more refusals than have records of their own. The caller calls
// it about once a second and once at the end, with a time beyond every refusal.
// What a crash loses is the counts of the running second and minute.
func (p *Processor) Flush(now time.Time) error {
	due := append(p.strangers.take(now), p.repeated.take(now)...)
	slices.SortFunc(due, func(a, b counted) int {
		return cmp.Or(a.record.Time.Compare(b.record.Time), cmp.Compare(a.record.Code, b.record.Code),
			cmp.Compare(a.record.Source, b.record.Source), cmp.Compare(a.record.KeyID, b.record.KeyID))
	})
	for i := range due {
		if _, err := p.cfg.Journal.Append(&due[i].record); err != nil {
			for _, c := range due[i:] {
				c.back()
			}
			return fmt.Errorf("refusals that are counted, and in no record: %s: %w", sums(due[i:]), err)
		}
	}
	return nil
}

// sums says how many refusals of each code there are.
func sums(all []counted) string {
	n := map[string]int64{}
	for i := range all {
		n[all[i].record.Code] += all[i].record.Count
	}
	var words []string
	for _, code := range slices.Sorted(maps.Keys(n)) {
		words = append(words, strconv.FormatInt(n[code], 10)+" "+code)
	}
	return strings.Join(words, ", ")
}
