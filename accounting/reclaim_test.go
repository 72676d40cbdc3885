package accounting_test

import (
	"context"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"airgate/accounting"
	"airgate/accounting/money"
	"airgate/accounting/quota"
	"airgate/accounting/record"
)

// chained are records of the writer r.1 as its journal numbers and chains them.
func chained(all ...record.Record) []record.Record {
	var prev record.Hash
	for i := range all {
		r := &all[i]
		r.Writer, r.Seq, r.Prev = "r.1", uint64(i+1), prev
		prev = record.Sum(record.AppendJSON(nil, r))
	}
	return all
}

func yields(all []record.Record) iter.Seq2[record.Record, error] {
	return func(yield func(record.Record, error) bool) {
		for _, r := range all {
			if !yield(r, nil) {
				return
			}
		}
	}
}

func headOf(all []record.Record) record.Head {
	last := &all[len(all)-1]
	return record.Head{Writer: last.Writer, Seq: last.Seq, Hash: record.Sum(record.AppendJSON(nil, last))}
}

// TestExamine: what records prove of a writer, and what they do not.
func TestExamine(t *testing.T) {
	at := time.Date(2026, 11, 3, 12, 0, 0, 0, time.UTC)
	const account = "usd|month@UTC|2026-11"
	made := func() []record.Record {
		return []record.Record{
			{Type: record.Start, Time: at, Code: accounting.StartCode(true)},
			*intent("a", at, 100, account), *settle("a", at, 60),
			*intent("b", at, 30, account),
			*settle("before", at, 1000), // of an earlier writer's call
		}
	}
	open := chained(made()...)
	closed := chained(append(made(), *accounting.QuotaClosed(at, "r.0"), *accounting.QuotaClosed(at.Add(time.Second), "r.1"))...)
	other := chained(append(made(), *accounting.QuotaClosed(at, "r.0"))...)
	after := chained(append(made(), *accounting.QuotaClosed(at, "r.1"), *intent("c", at, 5, account))...)
	start := func(heads ...record.Head) []record.Record {
		return []record.Record{{Type: record.Start, Writer: "r.2", Heads: heads}, {Type: record.Start, Writer: "s.1", Heads: []record.Head{{Writer: "r.1"}}}}
	}
	less := chained(record.Record{Type: record.Adjust, Time: at, RequestID: "before", Cost: -5, HasCost: true, Limits: []record.Limit{{Account: account, Resource: "usd"}}})
	beyond := headOf(open)
	beyond.Seq += 2
	forged := headOf(open)
	forged.Hash[0]++
	changed := chained(made()...)
	changed[2].Cost = 6
	for name, c := range map[string]struct {
		records, starts []record.Record
		ended, missing  string
		spent           money.NanoUSD
		wrong           string
	}{
		"none at all":                      {nil, nil, "", "", 0, ""},
		"they just end":                    {open, start(), "", "", 90, ""},
		"it says that it has closed":       {closed, nil, "its records end with its own, record 7, that it has given back what it had", "", 90, ""},
		"it says so of another":            {other, nil, "", "", 90, ""},
		"it called afterwards":             {after, nil, "", "", 95, ""},
		"the next one names its last":      {open, start(headOf(open)), "r.2, which took over from it, names record 5 as its last", "", 90, ""},
		"the next one names a later one":   {open, start(beyond), "", "records 6 to 7", 90, ""},
		"the next one names an older one":  {open, start(headOf(open[:3])), "", "", 90, ""},
		"the next one names another":       {open, start(forged), "", "", 0, "record 5 of r.1 is not the one that the start of r.2 names"},
		"the first ones are missing":       {closed[3:], nil, "", "records 1 to 3", 30, ""},
		"one is missing":                   {append(closed[:2:2], closed[3:]...), nil, "", "record 3", 130, ""},
		"less than nothing":                {less, nil, "", "", 0, ""},
		"one was changed":                  {changed, nil, "", "", 0, "record 4 of r.1 does not follow from the one before: one of the two was changed"},
		"it closed, and the next names it": {closed, start(headOf(closed)), "its records end with its own, record 7, that it has given back what it had", "", 90, ""},
	} {
		e, err := accounting.Examine("r.1", c.starts, yields(c.records))
		if err != nil || c.wrong != "" {
			if err == nil || err.Error() != c.wrong {
				t.Errorf("%s: error %v, want %q", name, err, c.wrong)
			}
			continue
		}
		if e.Ended != c.ended || e.Missing != c.missing || e.Spent[account] != c.spent {
			t.Errorf("%s: ended %q, missing %q, spent %d; want %q, %q, %d", name, e.Ended, e.Missing, e.Spent[account], c.ended, c.missing, c.spent)
		}
		if n := len(c.records); n > 0 && (e.Last != headOf(c.records) || !e.LastAt.Equal(c.records[n-1].Time)) {
			t.Errorf("%s: the last is %+v of %v", name, e.Last, e.LastAt)
		}
	}
}

// TestHolders: what a store counts in whole units is told in money, by writer.
func TestHolders(t *testing.T) {
	now := time.Date(2026, 11, 3, 12, 0, 0, 0, time.UTC)
	money1 := quota.Key{Account: "usd|month@UTC", Window: "2026-11"}
	money2 := quota.Key{Account: "usd|each=key:k|day@UTC", Window: "2026-11-03"}
	tokens := quota.Key{Account: "tokens|day@UTC", Window: "2026-11-03"}
	holders := accounting.Holders(&quota.Survey{
		Now: now, Heard: map[string]time.Time{"a.1": now.Add(-59 * time.Second), "b.1": now.Add(-time.Minute)},
		Holdings: []quota.Holding{
			{Key: money1, Share: quota.Share{Replica: "b.1", Granted: 100, Returned: 10, Spent: 30}},
			{Key: tokens, Share: quota.Share{Replica: "b.1", Granted: 5000}},
			{Key: tokens, Share: quota.Share{Replica: "a.1", Granted: 5000, Spent: 5000}},
			{Key: money2, Share: quota.Share{Replica: "b.1", Granted: 7, Spent: 7}},
			{Key: money2, Share: quota.Share{Replica: "c.1", Granted: 1}},
		},
	})
	var text []string
	for _, h := range holders {
		state := "silent"
		if h.Alive {
			state = "alive"
		}
		text = append(text, strings.Join([]string{h.Writer, state, h.Aside().String(), h.Heard.Format(time.TimeOnly)}, " "))
	}
	want := []string{"a.1 alive 0 11:59:01", "b.1 silent 0.00006 11:59:00", "c.1 silent 0.000001 00:00:00"}
	if strings.Join(text, "\n") != strings.Join(want, "\n") || holders[0].Others != 0 || holders[1].Others != 1 {
		t.Errorf("holders %v, want %v; others %d and %d, want 0 and 1", text, want, holders[0].Others, holders[1].Others)
	}

	const day, month, forgotten, later = "usd|each=key:k|day@UTC|2026-11-03", "usd|month@UTC|2026-11", "usd|day@UTC|2026-10-01", "usd|day@UTC|2026-11-02"
	for name, c := range map[string]struct {
		recorded map[string]money.NanoUSD
		want     string
	}{
		"no records":             {nil, "usd|month@UTC|2026-11 0 30000 60000"},
		"less than it told":      {map[string]money.NanoUSD{month: 20_000}, "usd|month@UTC|2026-11 20000 30000 60000"},
		"more than it told":      {map[string]money.NanoUSD{month: 40_001}, "usd|month@UTC|2026-11 40001 41000 49000"},
		"more than it was given": {map[string]money.NanoUSD{month: 95_000}, "usd|month@UTC|2026-11 95000 95000 0"},
		"more of what is closed": {map[string]money.NanoUSD{day: 8_000}, day + " 8000 8000 0, usd|month@UTC|2026-11 0 30000 60000"},
		"of what the store lost": {map[string]money.NanoUSD{forgotten: 5_000, later: 6_000}, later + " 6000 6000 0, usd|month@UTC|2026-11 0 30000 60000"},
	} {
		returns, err := holders[1].Returns(c.recorded, now)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range returns {
			got = append(got, strings.Join([]string{r.Account, digits(r.Recorded), digits(r.Spent), digits(r.Back)}, " "))
		}
		if strings.Join(got, ", ") != c.want {
			t.Errorf("%s: %v, want %s", name, got, c.want)
		}
	}
	if _, err := holders[1].Returns(map[string]money.NanoUSD{"nonsense": 1}, now); err == nil {
		t.Error("an account-window that is none is no error")
	}
}

func digits(n money.NanoUSD) string { return strconv.FormatInt(int64(n), 10) }

// TestReclaim: what a writer had that does not come back is spent by others; nothing that
// it, or one that remembers it, says later takes that back or gives it twice. A store that has
// lost it is told again, by who has reclaimed it and by who succeeds to its records.
func TestReclaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		store := newForgetful()
		month := accounting.Limit{Name: "m", Resource: accounting.USD, Amount: 1000, Window: accounting.Month}
		key := quota.Key{Account: "usd|month@UTC", Window: thisMonth()}
		expect := func(when string, settled, escrowed int64) {
			t.Helper()
			if s, e := has(t, store, key.Account, key.Window); s != settled || e != escrowed {
				t.Errorf("%s: the store has %d settled and %d escrowed, want %d and %d", when, s, e, settled, escrowed)
			}
		}
		say := func(replica string, c quota.Sync) {
			t.Helper()
			c.Key, c.Replica = key, replica
			if _, err := store.Sync(ctx, c); err != nil {
				t.Fatal(err)
			}
		}
		say("dead.1", quota.Sync{Seq: 1, Want: 600, Limit: 1000, Version: 1})
		say("dead.1", quota.Sync{Seq: 2, Seen: 600, Spent: 100, Mode: quota.NoGrants})
		expect("before", 100, 500)
		// What nobody else has ever asked for, and what it has spent nothing of.
		total, day := quota.Key{Account: "usd|total", Window: "total"}, quota.Key{Account: "usd|day@UTC", Window: time.Now().UTC().Format("2006-01-02")}
		for _, k := range []quota.Key{total, day} {
			if _, err := store.Sync(ctx, quota.Sync{Key: k, Replica: "dead.1", Seq: 1, Want: 90, Limit: 1000, Version: 1}); err != nil {
				t.Fatal(err)
			}
		}
		alone := func(when string, k quota.Key, settled int64) {
			t.Helper()
			if s, e := has(t, store, k.Account, k.Window); s != settled || e != 0 {
				t.Errorf("%s: the store has %d settled and %d escrowed of %s, want %d and 0", when, s, e, k.Account, settled)
			}
		}

		living, kill := context.WithCancel(ctx)
		book := accounting.NewBalances()
		i := begin(t, store, book, "r.1", month).running(living)
		holder := accounting.Holder{Writer: "dead.1", Stakes: []accounting.Stake{{Account: key.Account + "|" + key.Window, Granted: 600, Told: 100}}}
		returns, err := holder.Returns(map[string]money.NanoUSD{holder.Stakes[0].Account: 1000}, time.Now()) // one unit of the store
		if err != nil || len(returns) != 1 || returns[0].Spent != 1000 {
			t.Fatalf("Returns = %+v, %v", returns, err)
		}
		// This store counts in nano-USD.
		spent := map[string]money.NanoUSD{holder.Stakes[0].Account: 250, total.Account + "|" + total.Window: 77}
		returns[0].Spent = 250
		returns = append(returns, accounting.Return{Stake: accounting.Stake{Account: total.Account + "|" + total.Window}, Spent: 77})
		i.say(*accounting.QuotaReclaimed(time.Now(), record.Head{Writer: "dead.1"}, "why", returns))
		for range 2 {
			if err := i.ledger.Reclaim(ctx, "dead.1", spent, time.Now()); err != nil {
				t.Fatal(err)
			}
			expect("after it was reclaimed", 250, 0)
			alone("after it was reclaimed", total, 77)
			alone("after it was reclaimed", day, 0)
		}
		var h accounting.Hold
		i.admit("a", &h, 700)
		i.settle("a", &h, 650)
		time.Sleep(65 * time.Second) // what is idle comes back
		expect("after others have spent it", 900, 0)
		say("dead.1", quota.Sync{Seq: 3, Seen: 600, Spent: 120, Want: 100, Mode: quota.Normal})
		expect("after a late word of its own", 900, 0)

		store.lose(t)
		expect("told by who has reclaimed it", 900, 0)
		alone("told by who has reclaimed it", total, 77)
		kill()
		again := accounting.NewBalances() // the book is read from a checkpoint
		if err := again.RestoreCheckpoint(book.AppendCheckpoint(nil)); err != nil {
			t.Fatal(err)
		}
		begin(t, store, again, "r.2", month).running(ctx)
		store.lose(t)
		expect("told by who succeeds to its records", 900, 0)
		alone("told by who succeeds to its records", total, 77)
		say("other", quota.Sync{Seq: 1, Mode: quota.NoGrants, Others: []quota.Share{{Replica: "dead.1", Granted: 600, Spent: 100}}})
		expect("told by another, who has not heard of it", 900, 350)
		time.Sleep(80 * time.Second)
		expect("after a minute", 900, 0)
	})
}

// TestReclaimedLongAgo: what was reclaimed is kept as long as its windows, and is never in
// the sum that its own replica tells.
func TestReclaimedLongAgo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := accounting.NewBalances()
		size := len(book.AppendCheckpoint(nil))
		day := "usd|day@UTC|" + time.Now().UTC().Format("2006-01-02")
		total := "usd|total|total"
		reclaimed := accounting.QuotaReclaimed(time.Now(), record.Head{Writer: "r.1", Seq: 7}, "why", []accounting.Return{
			{Stake: accounting.Stake{Account: day}, Spent: 5}, {Stake: accounting.Stake{Account: total}, Spent: 5},
		})
		reclaimed.Writer = "s.1"
		book.Apply(reclaimed)
		for range 30 * 30 {
			time.Sleep(48 * time.Minute)
			book.Apply(&record.Record{Type: record.Deny, Time: time.Now()})
		}
		checkpoint := string(book.AppendCheckpoint(nil))
		if strings.Contains(checkpoint, day) || !strings.Contains(checkpoint, total) || !strings.Contains(checkpoint, "r.1/") || strings.Contains(checkpoint, "r/closed") {
			t.Errorf("a month later the checkpoint, of %d bytes once, is %q; want the total of r.1, by its name", size, checkpoint)
		}
	})
}

// overheard is a store whose calls are noted that tell of others.
type overheard struct {
	*forgetful

	mu     sync.Mutex
	others []quota.Share
}

func (o *overheard) Sync(ctx context.Context, s quota.Sync) (quota.State, error) {
	o.mu.Lock()
	for _, share := range s.Others {
		share.Closed = 0
		o.others = append(o.others, share)
	}
	o.mu.Unlock()
	return o.forgetful.Sync(ctx, s)
}

// TestReclaimedAgain: what is reclaimed again is told a store that has lost it once, with
// the most that was said.
func TestReclaimedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &overheard{forgetful: newForgetful()}
		i := begin(t, store, accounting.NewBalances(), "r.1").running(t.Context())
		text := "usd|month@UTC|" + thisMonth()
		for _, spent := range []money.NanoUSD{20, 50, 40} {
			if err := i.ledger.Reclaim(t.Context(), "dead.1", map[string]money.NanoUSD{text: spent}, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		store.lose(t)
		if want := []quota.Share{{Replica: "dead.1", Granted: 50, Spent: 50}}; !slices.Equal(store.others, want) {
			t.Errorf("the store is told of %+v, want %+v", store.others, want)
		}
	})
}
