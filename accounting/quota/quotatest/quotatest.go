// Package quotatest is the contract of quota.Store as a test suite. It
// answers: does this store keep every promise that quota.Store makes.
package quotatest

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"airgate/accounting/quota"
)

// Run proves that what newStore returns keeps the contract of quota.Store.
// newStore is called once per subtest and may hand out the same state again:
// no two tests use the same key, and what it has lost is learned again.
func Run(t *testing.T, newStore func(t *testing.T) quota.Store) {
	t.Run("script", func(t *testing.T) { scripts(t, newStore(t)) })
	t.Run("model", func(t *testing.T) { equalsModel(t, newStore(t)) })
	t.Run("faults", func(t *testing.T) { survivesFaults(t, newStore(t)) })
	t.Run("order", func(t *testing.T) { ignoresOrder(t, newStore(t)) })
	t.Run("again", func(t *testing.T) { tellsWhatItKnows(t, newStore(t)) })
	t.Run("keys", func(t *testing.T) { keysAreApart(t, newStore(t)) })
	t.Run("concurrent", func(t *testing.T) { concurrent(t, newStore(t)) })
	t.Run("shares", func(t *testing.T) { tellsShares(t, newStore(t)) })
	t.Run("leave", func(t *testing.T) { leaves(t, newStore(t)) })
	t.Run("known", func(t *testing.T) { missesTheKnown(t, newStore(t)) })
	t.Run("take", func(t *testing.T) { takes(t, newStore(t)) })
	t.Run("take/model", func(t *testing.T) { takesLikeModel(t, newStore(t)) })
	t.Run("take/bound", func(t *testing.T) { takesWithinBound(t, newStore(t)) })
	t.Run("permit", func(t *testing.T) { permits(t, newStore(t)) })
	t.Run("permit/model", func(t *testing.T) { permitsLikeModel(t, newStore(t)) })
	t.Run("permit/expiry", func(t *testing.T) { permitsExpire(t, newStore(t)) })
	t.Run("recall", func(t *testing.T) { recalls(t, newStore(t)) })
	t.Run("left", func(t *testing.T) { tellsWhoWasLeft(t, newStore(t)) })
}

// expire lies ahead of any clock a store may have, so nothing is forgotten
// during a test.
func expire() time.Time { return time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC) }

// tester is *testing.T or *rapid.T.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
}

func send(t tester, st quota.Store, s quota.Sync) quota.State {
	t.Helper()
	s.Expire = expire()
	got, err := st.Sync(context.Background(), s)
	if err != nil {
		t.Fatalf("Sync(%+v) = error %v", s, err)
	}
	return got
}

// same compares answers, whatever the order of their Shares and the store's own
// word on which are closed.
func same(a, b quota.State) bool {
	return cmp.Equal(a, b,
		cmpopts.EquateEmpty(),
		cmpopts.IgnoreFields(quota.Share{}, "Closed"),
		cmpopts.SortSlices(func(a, b quota.Share) bool { return a.Replica < b.Replica }))
}

// shared is an answer without what only tells a replica what it has said, and
// without who has escrow: tellsShares counts them, and so does the model.
func shared(s quota.State) quota.State {
	s.Seq, s.Spent, s.Active = 0, 0, 0
	return s
}

// scripts are calls and answers in order, on one key each.
func scripts(t *testing.T, st quota.Store) {
	type step struct {
		why  string
		call quota.Sync
		want quota.State
	}
	for name, steps := range map[string][]step{
		"a grant is what is wanted, at most what is left": {
			{"all of it", quota.Sync{Replica: "a", Seq: 1, Want: 60, Need: 10, Limit: 100, Version: 1}, quota.State{Granted: 60, Escrowed: 60, Limit: 100, Version: 1}},
			{"the rest", quota.Sync{Replica: "b", Seq: 1, Want: 60, Need: 10, Limit: 100, Version: 1}, quota.State{Granted: 40, Escrowed: 100, Limit: 100, Version: 1}},
			{"nothing left", quota.Sync{Replica: "b", Seq: 2, Seen: 40, Want: 1, Limit: 100, Version: 1}, quota.State{Granted: 40, Escrowed: 100, Limit: 100, Version: 1}},
		},
		"less than what is needed is not granted": {
			{"41 of 40", quota.Sync{Replica: "a", Seq: 1, Want: 60, Limit: 100, Version: 1}, quota.State{Granted: 60, Escrowed: 60, Limit: 100, Version: 1}},
			{"refused", quota.Sync{Replica: "b", Seq: 1, Want: 60, Need: 41, Limit: 100, Version: 1}, quota.State{Escrowed: 60, Limit: 100, Version: 1}},
			{"granted", quota.Sync{Replica: "b", Seq: 2, Want: 60, Need: 40, Limit: 100, Version: 1}, quota.State{Granted: 40, Escrowed: 100, Limit: 100, Version: 1}},
		},
		"a repeat is answered alike and grants nothing": {
			{"first", quota.Sync{Replica: "a", Seq: 1, Want: 30, Limit: 100, Version: 1}, quota.State{Granted: 30, Escrowed: 30, Limit: 100, Version: 1}},
			{"repeat", quota.Sync{Replica: "a", Seq: 1, Want: 30, Limit: 100, Version: 1}, quota.State{Granted: 30, Escrowed: 30, Limit: 100, Version: 1}},
			{"and again", quota.Sync{Replica: "a", Seq: 1, Want: 30, Limit: 100, Version: 1}, quota.State{Granted: 30, Escrowed: 30, Limit: 100, Version: 1}},
		},
		"a stale duplicate changes nothing, not even the limit": {
			{"seq 2", quota.Sync{Replica: "a", Seq: 2, Seen: 0, Want: 30, Limit: 100, Version: 1}, quota.State{Granted: 30, Escrowed: 30, Limit: 100, Version: 1}},
			{"seq 1", quota.Sync{Replica: "a", Seq: 1, Seen: 90, Spent: 50, Returned: 20, Want: 30, Limit: 500, Version: 7}, quota.State{Granted: 30, Escrowed: 30, Limit: 100, Version: 1}},
			{"a stale close", quota.Sync{Replica: "a", Seq: 1, Mode: quota.Close, Limit: 100, Version: 1}, quota.State{Granted: 30, Escrowed: 30, Limit: 100, Version: 1}},
		},
		"spent moves from escrow to settled, returned leaves escrow": {
			{"grant", quota.Sync{Replica: "a", Seq: 1, Want: 50, Limit: 100, Version: 1}, quota.State{Granted: 50, Escrowed: 50, Limit: 100, Version: 1}},
			{"report", quota.Sync{Replica: "a", Seq: 2, Seen: 50, Spent: 20, Returned: 5, Limit: 100, Version: 1}, quota.State{Granted: 50, Settled: 20, Escrowed: 25, Limit: 100, Version: 1}},
			{"cumulative", quota.Sync{Replica: "a", Seq: 3, Seen: 50, Spent: 22, Returned: 5, Limit: 100, Version: 1}, quota.State{Granted: 50, Settled: 22, Escrowed: 23, Limit: 100, Version: 1}},
			{"less than before is ignored", quota.Sync{Replica: "a", Seq: 4, Seen: 50, Spent: 1, Returned: 1, Limit: 100, Version: 1}, quota.State{Granted: 50, Settled: 22, Escrowed: 23, Limit: 100, Version: 1}},
			{"what came back can be granted", quota.Sync{Replica: "b", Seq: 1, Want: 90, Limit: 100, Version: 1}, quota.State{Granted: 55, Settled: 22, Escrowed: 78, Limit: 100, Version: 1}},
		},
		"a grant that the store lost is adopted by Seen": {
			{"another replica", quota.Sync{Replica: "b", Seq: 1, Want: 10, Limit: 100, Version: 1}, quota.State{Granted: 10, Escrowed: 10, Limit: 100, Version: 1}},
			{"unknown here", quota.Sync{Replica: "a", Seq: 9, Seen: 70, Spent: 30, Want: 50, Limit: 100, Version: 1}, quota.State{Granted: 90, Settled: 30, Escrowed: 70, Limit: 100, Version: 1}},
			{"adopted before granting", quota.Sync{Replica: "b", Seq: 2, Seen: 10, Want: 5, Limit: 100, Version: 1}, quota.State{Granted: 10, Settled: 30, Escrowed: 70, Limit: 100, Version: 1}},
		},
		"an overdraft is added, never clamped": {
			{"grant", quota.Sync{Replica: "a", Seq: 1, Want: 100, Limit: 100, Version: 1}, quota.State{Granted: 100, Escrowed: 100, Limit: 100, Version: 1}},
			{"130 spent", quota.Sync{Replica: "a", Seq: 2, Seen: 130, Spent: 130, Want: 10, Limit: 100, Version: 1}, quota.State{Granted: 130, Settled: 130, Limit: 100, Version: 1}},
			{"nothing for others", quota.Sync{Replica: "b", Seq: 1, Want: 1, Limit: 100, Version: 1}, quota.State{Settled: 130, Limit: 100, Version: 1}},
		},
		"what is spent after the close is granted, too": {
			{"grant", quota.Sync{Replica: "a", Seq: 1, Want: 80, Limit: 100, Version: 1}, quota.State{Granted: 80, Escrowed: 80, Limit: 100, Version: 1}},
			{"close", quota.Sync{Replica: "a", Seq: 2, Seen: 80, Spent: 30, Mode: quota.Close}, quota.State{Granted: 80, Settled: 30, Limit: 100, Version: 1}},
			{"a late one", quota.Sync{Replica: "a", Seq: 3, Seen: 80, Spent: 45}, quota.State{Granted: 95, Settled: 45, Limit: 100, Version: 1}},
			{"is not there for others", quota.Sync{Replica: "b", Seq: 1, Want: 100, Limit: 100, Version: 1}, quota.State{Granted: 55, Settled: 45, Escrowed: 55, Limit: 100, Version: 1}},
		},
		"of two words for another the greater of each field holds": {
			{"of c, from a", quota.Sync{Replica: "a", Seq: 1, Mode: quota.NoGrants, Limit: 100, Version: 1, Others: []quota.Share{{Replica: "c", Granted: 50, Returned: 5, Spent: 10}}}, quota.State{Settled: 10, Escrowed: 35, Limit: 100, Version: 1}},
			{"of c, from b, older", quota.Sync{Replica: "b", Seq: 1, Mode: quota.NoGrants, Others: []quota.Share{{Replica: "c", Granted: 40, Returned: 5, Spent: 4}}}, quota.State{Settled: 10, Escrowed: 35, Limit: 100, Version: 1}},
			{"of c, from b, newer", quota.Sync{Replica: "b", Seq: 2, Mode: quota.NoGrants, Others: []quota.Share{{Replica: "c", Granted: 60, Returned: 5, Spent: 30}}}, quota.State{Settled: 30, Escrowed: 25, Limit: 100, Version: 1}},
			{"of c and d", quota.Sync{Replica: "b", Seq: 3, Mode: quota.NoGrants, Others: []quota.Share{{Replica: "d", Granted: 7, Spent: 7}, {Replica: "c", Granted: 60, Returned: 25, Spent: 30}}}, quota.State{Settled: 37, Escrowed: 5, Limit: 100, Version: 1}},
			{"c itself", quota.Sync{Replica: "c", Seq: 9, Seen: 60, Returned: 25, Spent: 35, Want: 1, Limit: 100, Version: 1}, quota.State{Granted: 61, Settled: 42, Escrowed: 1, Limit: 100, Version: 1}},
			{"a stale call tells nothing", quota.Sync{Replica: "b", Seq: 2, Mode: quota.NoGrants, Others: []quota.Share{{Replica: "e", Granted: 50}}}, quota.State{Settled: 42, Escrowed: 1, Limit: 100, Version: 1}},
			{"others are adopted before granting", quota.Sync{Replica: "b", Seq: 4, Want: 50, Limit: 100, Version: 1, Others: []quota.Share{{Replica: "e", Granted: 40}}}, quota.State{Granted: 17, Settled: 42, Escrowed: 58, Limit: 100, Version: 1}},
		},
		"close gives back what is not spent": {
			{"grant", quota.Sync{Replica: "a", Seq: 1, Want: 80, Limit: 100, Version: 1}, quota.State{Granted: 80, Escrowed: 80, Limit: 100, Version: 1}},
			{"close", quota.Sync{Replica: "a", Seq: 2, Seen: 80, Spent: 30, Returned: 10, Want: 50, Mode: quota.Close, Limit: 100, Version: 1}, quota.State{Granted: 80, Settled: 30, Limit: 100, Version: 1}},
			{"close again", quota.Sync{Replica: "a", Seq: 2, Seen: 80, Spent: 30, Returned: 10, Want: 50, Mode: quota.Close, Limit: 100, Version: 1}, quota.State{Granted: 80, Settled: 30, Limit: 100, Version: 1}},
			{"free for others", quota.Sync{Replica: "b", Seq: 1, Want: 100, Limit: 100, Version: 1}, quota.State{Granted: 70, Settled: 30, Escrowed: 70, Limit: 100, Version: 1}},
		},
		"no grants reports only": {
			{"wish ignored", quota.Sync{Replica: "a", Seq: 1, Seen: 20, Spent: 5, Want: 50, Mode: quota.NoGrants, Limit: 100, Version: 1}, quota.State{Granted: 20, Settled: 5, Escrowed: 15, Limit: 100, Version: 1}},
			{"the seq is taken", quota.Sync{Replica: "a", Seq: 1, Seen: 20, Spent: 5, Want: 50, Limit: 100, Version: 1}, quota.State{Granted: 20, Settled: 5, Escrowed: 15, Limit: 100, Version: 1}},
			{"the next may be granted", quota.Sync{Replica: "a", Seq: 2, Seen: 20, Spent: 5, Want: 50, Limit: 100, Version: 1}, quota.State{Granted: 70, Settled: 5, Escrowed: 65, Limit: 100, Version: 1}},
		},
		"the newest limit version wins": {
			{"100", quota.Sync{Replica: "a", Seq: 1, Want: 100, Limit: 100, Version: 2}, quota.State{Granted: 100, Escrowed: 100, Limit: 100, Version: 2}},
			{"raised", quota.Sync{Replica: "b", Seq: 1, Want: 100, Limit: 150, Version: 3}, quota.State{Granted: 50, Escrowed: 150, Limit: 150, Version: 3}},
			{"an older version does not lower", quota.Sync{Replica: "a", Seq: 2, Seen: 100, Want: 1, Limit: 100, Version: 2}, quota.State{Granted: 100, Escrowed: 150, Limit: 150, Version: 3}},
			{"an older version does not raise", quota.Sync{Replica: "a", Seq: 3, Seen: 100, Want: 1, Limit: 900, Version: 2}, quota.State{Granted: 100, Escrowed: 150, Limit: 150, Version: 3}},
			{"lowered below what is out: no grants", quota.Sync{Replica: "b", Seq: 2, Seen: 50, Want: 1, Limit: 120, Version: 4}, quota.State{Granted: 50, Escrowed: 150, Limit: 120, Version: 4}},
			{"until enough came back", quota.Sync{Replica: "b", Seq: 3, Seen: 50, Returned: 40, Want: 99, Limit: 120, Version: 4}, quota.State{Granted: 60, Escrowed: 120, Limit: 120, Version: 4}},
			{"the same version is not newer", quota.Sync{Replica: "b", Seq: 4, Seen: 60, Returned: 40, Limit: 777, Version: 4}, quota.State{Granted: 60, Escrowed: 120, Limit: 120, Version: 4}},
		},
		"version zero leaves the limit as it is": {
			{"no limit yet: no grant", quota.Sync{Replica: "a", Seq: 1, Want: 5, Limit: 100}, quota.State{}},
			{"what was spent before", quota.Sync{Replica: "old", Seq: 1, Seen: 40, Spent: 40}, quota.State{Granted: 40, Settled: 40}},
			{"counts", quota.Sync{Replica: "a", Seq: 2, Want: 100, Limit: 100, Version: 1}, quota.State{Granted: 60, Settled: 40, Escrowed: 60, Limit: 100, Version: 1}},
		},
		"amounts keep every digit": {
			{"2^53 - 1", quota.Sync{Replica: "a", Seq: 1, Want: 1<<53 - 1, Limit: 1<<53 - 1, Version: 1<<53 - 1}, quota.State{Granted: 1<<53 - 1, Escrowed: 1<<53 - 1, Limit: 1<<53 - 1, Version: 1<<53 - 1}},
			{"and one spent", quota.Sync{Replica: "a", Seq: 1<<53 - 1, Seen: 1<<53 - 1, Spent: 1<<53 - 2, Limit: 1<<53 - 1, Version: 1<<53 - 1}, quota.State{Granted: 1<<53 - 1, Settled: 1<<53 - 2, Escrowed: 1, Limit: 1<<53 - 1, Version: 1<<53 - 1}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			for i, s := range steps {
				s.call.Key = quota.Key{Account: t.Name(), Window: "w"}
				if got := shared(send(t, st, s.call)); !same(got, s.want) {
					t.Fatalf("step %d (%s): Sync(%+v) = %+v, want %+v", i+1, s.why, s.call, got, s.want)
				}
			}
		})
	}
}

// model is the contract written as plainly as possible: sums are computed
// anew, nothing is kept twice.
type model struct {
	limit    int64
	version  uint64
	replicas map[string]*modelReplica // :: replica → its word
}

type modelReplica struct {
	seq                      uint64
	granted, returned, spent int64
}

func (m *model) settled() (sum int64) {
	for _, r := range m.replicas {
		sum += r.spent
	}
	return sum
}

func (m *model) escrowed() (sum int64) {
	for _, r := range m.replicas {
		sum += r.granted - r.returned - r.spent
	}
	return sum
}

func (m *model) sync(s quota.Sync) quota.State {
	if m.replicas == nil {
		m.replicas = make(map[string]*modelReplica)
	}
	r := m.replicas[s.Replica]
	if r == nil {
		r = new(modelReplica)
		m.replicas[s.Replica] = r
	}
	if s.Seq >= r.seq {
		if s.Version > m.version {
			m.limit, m.version = s.Limit, s.Version
		}
		for _, o := range append(s.Others, quota.Share{Replica: s.Replica, Granted: s.Seen, Returned: s.Returned, Spent: s.Spent}) {
			if m.replicas[o.Replica] == nil {
				m.replicas[o.Replica] = new(modelReplica)
			}
			r := m.replicas[o.Replica]
			r.returned = max(r.returned, o.Returned)
			r.spent = max(r.spent, o.Spent)
			r.granted = max(r.granted, o.Granted, r.returned+r.spent)
		}
	}
	if s.Seq > r.seq {
		r.seq = s.Seq
		room := m.limit - m.settled() - m.escrowed()
		switch {
		case s.Mode == quota.Close:
			r.returned = r.granted - r.spent
		case s.Mode == quota.Normal && min(s.Want, room) > 0 && min(s.Want, room) >= s.Need:
			r.granted += min(s.Want, room)
		}
	}
	st := quota.State{Seq: r.seq, Granted: r.granted, Spent: r.spent, Settled: m.settled(), Escrowed: m.escrowed(), Limit: m.limit, Version: m.version}
	for name, o := range m.replicas {
		if o.granted > o.returned+o.spent {
			st.Active++
		}
		if s.Detail && name != s.Replica {
			st.Shares = append(st.Shares, quota.Share{Replica: name, Granted: o.granted, Returned: o.returned, Spent: o.spent})
		}
	}
	return st
}

// equalsModel sends any calls at all, sensible or not.
func equalsModel(t *testing.T, st quota.Store) {
	var n int
	rapid.Check(t, func(t *rapid.T) {
		n++
		key := quota.Key{Account: "quotatest/model", Window: strconv.Itoa(n)}
		var m model
		amount := rapid.Int64Range(0, 100)
		for range rapid.IntRange(1, 30).Draw(t, "calls") {
			granted := amount.Draw(t, "seen")
			s := quota.Sync{
				Key:      key,
				Replica:  rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "replica"),
				Seq:      rapid.Uint64Range(1, 10).Draw(t, "seq"),
				Seen:     granted,
				Returned: rapid.Int64Range(0, granted/2).Draw(t, "returned"),
				Spent:    rapid.Int64Range(0, granted/2).Draw(t, "spent"),
				Want:     amount.Draw(t, "want"),
				Need:     rapid.Int64Range(0, 30).Draw(t, "need"),
				Limit:    rapid.Int64Range(0, 200).Draw(t, "limit"),
				Version:  rapid.Uint64Range(0, 4).Draw(t, "version"),
				Mode:     rapid.SampledFrom([]quota.Mode{quota.Normal, quota.Normal, quota.Normal, quota.Close, quota.NoGrants}).Draw(t, "mode"),
				Detail:   rapid.Bool().Draw(t, "detail"),
			}
			for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"c", "d", "e"}), 0, 2, rapid.ID).Draw(t, "others") {
				s.Others = append(s.Others, quota.Share{Replica: name, Granted: amount.Draw(t, "granted"), Returned: amount.Draw(t, "returned"), Spent: amount.Draw(t, "spent")})
			}
			want := m.sync(s)
			if got := send(t, st, s); !same(got, want) {
				t.Fatalf("Sync(%+v) = %+v, want %+v", s, got, want)
			}
		}
	})
}

// owner is a replica that keeps its side of the contract.
type owner struct {
	name                     string
	seq                      uint64
	granted, returned, spent int64
}

func (o *owner) idle() int64 { return o.granted - o.returned - o.spent }

// learn takes a cumulative answer that may be old or repeated.
func (o *owner) learn(st quota.State) { o.granted = max(o.granted, st.Granted) }

// survivesFaults runs replicas that keep the contract over a network that
// drops, repeats and delays calls and answers: what they can spend together
// never passes the limit, and once all is reported nothing is missing. A store
// that rounds counts too much, by less than a unit per replica, never too little.
func survivesFaults(t *testing.T, st quota.Store) {
	var n int
	rapid.Check(t, func(t *rapid.T) {
		n++
		const limit = 100
		unit := rapid.SampledFrom([]int64{1, 7}).Draw(t, "unit")
		key := quota.Key{Account: "quotatest/faults", Window: strconv.Itoa(n)}
		owners := []*owner{{name: "a"}, {name: "b"}, {name: "c"}}
		var sent []quota.Sync // may arrive again at any time
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			o := rapid.SampledFrom(owners).Draw(t, "owner")
			switch rapid.IntRange(0, 4).Draw(t, "event") {
			case 0, 1: // a call: it may be lost, its answer may be lost
				o.seq++
				s := quota.Sync{
					Key: key, Replica: o.name, Seq: o.seq, Seen: o.granted, Returned: o.returned, Spent: o.spent, Limit: limit, Version: 1, Unit: unit,
					Want: rapid.Int64Range(0, 50).Draw(t, "want"), Need: rapid.Int64Range(0, 20).Draw(t, "need"),
				}
				sent = append(sent, s)
				if rapid.Bool().Draw(t, "call arrives") {
					got := send(t, st, s)
					if got.Settled+got.Escrowed > limit {
						t.Fatalf("Sync(%+v) = %+v: settled + escrowed pass the limit %d", s, got, limit)
					}
					if rapid.Bool().Draw(t, "answer arrives") {
						o.learn(got)
					}
				}
			case 2: // an old call arrives (again)
				if len(sent) > 0 {
					s := rapid.SampledFrom(sent).Draw(t, "again")
					got := send(t, st, s)
					for _, o := range owners {
						if o.name == s.Replica && rapid.Bool().Draw(t, "answer arrives") {
							o.learn(got)
						}
					}
				}
			case 3:
				if o.idle() > 0 {
					o.spent += rapid.Int64Range(1, o.idle()).Draw(t, "spend")
				}
			case 4:
				if o.idle() > 0 {
					o.returned += rapid.Int64Range(1, o.idle()).Draw(t, "return")
				}
			}
			var spendable int64
			for _, o := range owners {
				spendable += o.granted - o.returned
			}
			if spendable > limit {
				t.Fatalf("replicas hold or spent %d, want at most %d", spendable, limit)
			}
		}
		var spent int64
		var last quota.State
		for _, o := range owners {
			o.seq++
			last = send(t, st, quota.Sync{Key: key, Replica: o.name, Seq: o.seq, Seen: o.granted, Returned: o.returned, Spent: o.spent, Limit: limit, Version: 1, Mode: quota.Close, Unit: unit})
			spent += o.spent
		}
		if more := last.Settled - spent; more < 0 || more > (unit-1)*int64(len(owners)) || last.Escrowed != 0 {
			t.Fatalf("after all closed: settled %d, escrowed %d; want %d and less than a unit of %d more for each replica, 0", last.Settled, last.Escrowed, spent, unit)
		}
	})
}

// ignoresOrder delivers the reports of several replicas once in order, and to
// a second account in any order with repeats: both end in the same state.
func ignoresOrder(t *testing.T, st quota.Store) {
	var n int
	rapid.Check(t, func(t *rapid.T) {
		n++
		var calls []quota.Sync
		for _, name := range []string{"a", "b", "c"} {
			var o owner
			version := uint64(1)
			for range rapid.IntRange(0, 5).Draw(t, "reports") {
				o.granted += rapid.Int64Range(0, 20).Draw(t, "seen")
				o.spent += rapid.Int64Range(0, o.idle()).Draw(t, "spent")
				o.returned += rapid.Int64Range(0, o.idle()).Draw(t, "returned")
				version += rapid.Uint64Range(0, 2).Draw(t, "version")
				o.seq++
				calls = append(calls, quota.Sync{
					Replica: name, Seq: o.seq, Seen: o.granted, Returned: o.returned, Spent: o.spent,
					Limit: int64(version) * 10, Version: version,
				})
			}
		}
		if len(calls) == 0 {
			return
		}
		shuffled := rapid.Permutation(slices.Concat(calls, rapid.SliceOf(rapid.SampledFrom(calls)).Draw(t, "repeats"))).Draw(t, "order")
		state := func(account string, calls []quota.Sync) quota.State {
			key := quota.Key{Account: account, Window: strconv.Itoa(n)}
			for _, s := range calls {
				s.Key = key
				send(t, st, s)
			}
			return send(t, st, quota.Sync{Key: key, Replica: "reader", Seq: 1, Mode: quota.NoGrants})
		}
		want := state("quotatest/order/straight", calls)
		if got := state("quotatest/order/shuffled", shuffled); !same(got, want) {
			t.Fatalf("state after %+v = %+v, want %+v as in order", shuffled, got, want)
		}
	})
}

// tellsWhatItKnows: a replica that has forgotten an account-window learns from
// its first call on it what it had said.
func tellsWhatItKnows(t *testing.T, st quota.Store) {
	key := quota.Key{Account: "quotatest/again", Window: "w"}
	send(t, st, quota.Sync{Key: key, Replica: "a", Seq: 1, Want: 80, Limit: 100, Version: 1})
	send(t, st, quota.Sync{Key: key, Replica: "a", Seq: 2, Seen: 80, Spent: 30})
	want := quota.State{Seq: 2, Granted: 80, Spent: 30, Settled: 30, Escrowed: 50, Limit: 100, Version: 1, Active: 1}
	if got := send(t, st, quota.Sync{Key: key, Replica: "a", Seq: 1}); !same(got, want) {
		t.Errorf("the first call anew = %+v, want %+v", got, want)
	}
}

// keysAreApart looks for account-windows that share state.
func keysAreApart(t *testing.T, st quota.Store) {
	keys := []quota.Key{
		{Account: "usd|team=a|month@UTC", Window: "2026-11"},
		{Account: "usd|team=a|month@UTC", Window: "2026-12"},
		{Account: "usd|team=b|month@UTC", Window: "2026-11"},
		{Account: "usd|team={a}|month@UTC", Window: "2026-11"},
		{Account: "usd|team=a|month@UTC|2026", Window: "-11"},
		{Account: "usd|team=a|month@UTC:2026", Window: "11"},
		{Account: "usd|team=ä 日本|month@Asia/Tokyo", Window: "2026-11"},
	}
	for i, k := range keys {
		k.Account = "quotatest/keys/" + k.Account
		limit := int64(100 + i)
		want := quota.State{Granted: limit, Escrowed: limit, Limit: limit, Version: 1}
		if got := shared(send(t, st, quota.Sync{Key: k, Replica: "a", Seq: 1, Want: 1000, Limit: limit, Version: 1})); !same(got, want) {
			t.Errorf("Sync(%+v) = %+v, want %+v: the key shares state with another", k, got, want)
		}
	}
}

// tellsShares: who asks for Detail is told what each of all others has.
func tellsShares(t *testing.T, st quota.Store) {
	key := quota.Key{Account: "quotatest/shares", Window: "w"}
	for i, step := range []struct {
		call   quota.Sync
		active int
		shares []quota.Share
	}{
		{quota.Sync{Replica: "a", Seq: 1, Want: 40, Limit: 100, Version: 1, Detail: true}, 1, nil},
		{quota.Sync{Replica: "b", Seq: 1, Want: 30, Limit: 100, Version: 1, Detail: true}, 2, []quota.Share{{Replica: "a", Granted: 40}}},
		{quota.Sync{Replica: "a", Seq: 2, Seen: 40, Returned: 10, Spent: 30, Detail: true}, 1, []quota.Share{{Replica: "b", Granted: 30}}},
		{quota.Sync{Replica: "c", Seq: 1, Mode: quota.NoGrants, Detail: true}, 1, []quota.Share{{Replica: "a", Granted: 40, Returned: 10, Spent: 30}, {Replica: "b", Granted: 30}}},
		{quota.Sync{Replica: "b", Seq: 2, Seen: 30, Spent: 10, Mode: quota.Close, Detail: true}, 0, []quota.Share{{Replica: "a", Granted: 40, Returned: 10, Spent: 30}, {Replica: "c"}}},
		{quota.Sync{Replica: "c", Seq: 2, Mode: quota.NoGrants, Detail: true}, 0, []quota.Share{{Replica: "a", Granted: 40, Returned: 10, Spent: 30}, {Replica: "b", Granted: 30, Returned: 20, Spent: 10}}},
		{quota.Sync{Replica: "c", Seq: 3, Want: 1}, 1, nil},
	} {
		step.call.Key = key
		got := send(t, st, step.call)
		if want := (quota.State{Active: step.active, Shares: step.shares}); !same(quota.State{Active: got.Active, Shares: got.Shares}, want) {
			t.Errorf("step %d: Sync(%+v) = %d active, shares %+v; want %d, %+v", i+1, step.call, got.Active, got.Shares, step.active, step.shares)
		}
	}
}

// missesTheKnown: a store that has never heard of a replica which it has
// answered before adopts its word and grants nothing, until it has learned.
func missesTheKnown(t *testing.T, st quota.Store) {
	call := quota.Sync{Replica: "a", Seq: 5, Known: true, Seen: 60, Spent: 20, Want: 10, Limit: 100, Version: 1}
	over := call
	over.Key, over.Now = quota.Key{Account: "quotatest/known", Window: "over"}, expire()
	want := quota.State{Seq: 5, Granted: 70, Spent: 20, Settled: 20, Escrowed: 50, Limit: 100, Version: 1, Active: 1}
	if got := send(t, st, over); !same(got, want) {
		t.Errorf("Sync(%+v) = %+v, want %+v: a window that is over may be forgotten", over, got, want)
	}
	call.Key = quota.Key{Account: "quotatest/known", Window: "w"}
	want.Granted, want.Escrowed, want.Lost = 60, 40, true
	if got := send(t, st, call); !same(got, want) {
		t.Errorf("Sync(%+v) = %+v, want %+v", call, got, want)
	}
	until(t, "the store grants again", func() bool {
		call.Seq++
		return send(t, st, call).Granted == 70
	})
	if got := send(t, st, quota.Sync{Key: call.Key, Replica: "b", Seq: 2, Want: 50, Limit: 100, Version: 1}); got.Lost || got.Granted != 30 {
		t.Errorf("Sync of another = %+v, want 30 granted and nothing lost", got)
	}
}

// until asks again and again, for a store may take seconds to learn.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

// concurrent lets replicas fight for one account-window.
func concurrent(t *testing.T, st quota.Store) {
	const limit, replicas, rounds = 1000, 16, 50
	key := quota.Key{Account: "quotatest/concurrent", Window: "w"}
	owners := make([]owner, replicas)
	var wg sync.WaitGroup
	for i := range owners {
		o := &owners[i]
		o.name = fmt.Sprint("r", i)
		wg.Go(func() {
			for range rounds {
				o.seq++
				got, err := st.Sync(context.Background(), quota.Sync{
					Key: key, Replica: o.name, Seq: o.seq, Seen: o.granted, Returned: o.returned, Spent: o.spent,
					Want: 7, Need: 3, Limit: limit, Version: 1, Expire: expire(),
				})
				if err != nil {
					t.Errorf("Sync = error %v", err)
					return
				}
				if got.Settled+got.Escrowed > limit {
					t.Errorf("Sync = %+v: settled + escrowed pass the limit %d", got, limit)
				}
				o.learn(got)
				o.spent += o.idle() / 2
				o.returned += o.idle() / 4
			}
		})
	}
	wg.Wait()
	var spent int64
	var last quota.State
	for i := range owners {
		o := &owners[i]
		o.seq++
		last = send(t, st, quota.Sync{Key: key, Replica: o.name, Seq: o.seq, Seen: o.granted, Returned: o.returned, Spent: o.spent, Mode: quota.Close})
		spent += o.spent
	}
	if last.Settled != spent || last.Escrowed != 0 || spent > limit || spent == 0 {
		t.Errorf("after all closed: settled %d, escrowed %d; want %d (1 to %d), 0", last.Settled, last.Escrowed, spent, limit)
	}
}
