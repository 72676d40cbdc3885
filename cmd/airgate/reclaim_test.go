package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"airgate/accounting"
	"airgate/accounting/journal"
	"airgate/accounting/journal/disk/disktest"
	"airgate/accounting/money"
	"airgate/accounting/quota"
	"airgate/accounting/quota/memory"
	"airgate/accounting/quota/redis"
	"airgate/accounting/quota/redis/redistest"
	"airgate/accounting/record"
	"airgate/accounting/sink/sqlite"
	"airgate/cmd/airgate/admin"
	"airgate/policy/config"
)

// lost is an airgate whose disk is lost: what it had in the shared store, and what a
// database has of its records.
type lost struct {
	t      *testing.T
	server *redistest.Server
	writer string
	table  *accounting.Table
	ledger *accounting.Ledger
	die    func() // without a word
	all    []record.Record
}

func newLost(t *testing.T, server *redistest.Server, writer string) *lost {
	t.Helper()
	snapshot, err := config.LoadBytes("airgate.yaml", []byte(testConfig), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	store, err := redis.New(t.Context(), redis.Config{URL: server.URL(), Deadline: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	l := &lost{t: t, server: server, writer: writer, table: snapshot.Limits}
	if l.ledger, err = accounting.New(accounting.Config{Store: store, Replica: writer, Shared: true}); err == nil {
		err = l.ledger.Apply(l.table, time.Now())
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = l.ledger.Run(ctx) // its store is gone in the end
	}()
	l.die = func() { _ = store.Client().Close(); stop(); <-ended }
	if err := store.Whole(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.say(record.Record{Type: record.Start, Code: accounting.StartCode(true)})
	return l
}

// say adds a record as the journal does.
func (l *lost) say(r record.Record) {
	r.Writer, r.Seq, r.Time = l.writer, uint64(len(l.all)+1), time.Now().UTC().Truncate(time.Millisecond)
	if n := len(l.all); n > 0 {
		r.Prev = record.Sum(record.AppendJSON(nil, &l.all[n-1]))
	}
	l.all = append(l.all, r)
}

// call admits a call and, unless cost is negative, settles it.
func (l *lost) call(id string, need, cost money.NanoUSD) {
	l.t.Helper()
	h := admitted(l.t, l.ledger, l.table, need)
	if h == nil {
		l.t.Fatalf("%s is refused", id)
	}
	l.say(record.Record{Type: record.Intent, RequestID: id, Decision: "allow", Reserved: need, Limits: h.AppendLimits(nil)})
	if cost >= 0 {
		l.ledger.Settle(h, cost, 0, time.Now())
		l.say(record.Record{Type: record.Settle, RequestID: id, Cost: cost, HasCost: true})
	}
}

// admitted holds a call of team search; nil = it was refused.
func admitted(t *testing.T, l *accounting.Ledger, table *accounting.Table, need money.NanoUSD) *accounting.Hold {
	t.Helper()
	h, s := new(accounting.Hold), accounting.Subject{Teams: []string{"search"}}
	if r := l.Enter(h, table, &s, time.Now()); r != nil {
		t.Fatalf("%+v", r)
	}
	if r := l.Reserve(h, table, &s, accounting.Need{USD: need}, time.Now()); r != nil {
		return nil
	}
	return h
}

// silent makes the store have heard of it two minutes ago.
func (l *lost) silent() { silent(l.t, l.server, l.writer) }

func silent(t *testing.T, server *redistest.Server, writer string) {
	t.Helper()
	for shard := range 16 {
		key := fmt.Sprintf("airgate:q:{%x}:fleet", shard)
		server.Do(t, "HSET", key, writer, time.Now().Add(-2*time.Minute).UnixMilli())
	}
}

// database has the first n of its records, and those of others.
func (l *lost) database(name string, n int, others ...record.Record) (path string) {
	l.t.Helper()
	path = filepath.Join(l.t.TempDir(), name)
	db, err := sqlite.Open(l.t.Context(), path)
	if err != nil {
		l.t.Fatal(err)
	}
	for _, batch := range [][]record.Record{l.all[:n], others} {
		if len(batch) > 0 {
			if err := db.Write(l.t.Context(), batch); err != nil {
				l.t.Fatal(err)
			}
		}
	}
	if err := db.Close(); err != nil {
		l.t.Fatal(err)
	}
	return path
}

// has is what the store has of the budget.
func (l *lost) has() (settled, escrowed money.NanoUSD) {
	l.t.Helper()
	key := fmt.Sprintf("airgate:q:{*}:window:7:%s:usd|team=search|month@UTC", time.Now().UTC().Format("2006-01"))
	names, _ := l.server.Do(l.t, "KEYS", strings.ReplaceAll(key, "|", "?")).([]any)
	if len(names) != 1 {
		l.t.Fatalf("%d keys are %s", len(names), key)
	}
	var sums [2]int64
	for i, field := range []string{"S", "E"} {
		if _, err := fmt.Sscan(fmt.Sprint(l.server.Do(l.t, "HGET", names[0], field)), &sums[i]); err != nil {
			l.t.Fatal(err)
		}
	}
	const micro = money.USD / 1_000_000
	return money.NanoUSD(sums[0]) * micro, money.NanoUSD(sums[1]) * micro
}

// reclaimer is an airgate on a shared store that takes writes.
type reclaimer struct {
	*gateway

	t *testing.T
}

func newReclaimer(t *testing.T, server *redistest.Server) *reclaimer {
	t.Helper()
	g := open(t, sharedOptions(t, server))
	t.Cleanup(func() { shut(t, g) })
	return &reclaimer{g, t}
}

func sharedOptions(t *testing.T, server *redistest.Server) gatewayOptions {
	t.Helper()
	o := testOptions(t)
	o.writeToken = filepath.Join(t.TempDir(), "token")
	for path, text := range map[string]string{
		o.config:     testConfig + fmt.Sprintf("quota: {store: redis, url: %q, replicas: 3, deadline: 1s}\n", server.URL()),
		o.writeToken: "s3cret\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

// reclaim runs the command, which must end with code.
func (r *reclaimer) reclaim(code int, args ...string) (stdout, stderr string) {
	r.t.Helper()
	var out, said bytes.Buffer
	args = append([]string{"budgets", "reclaim", "--server", "http://" + r.adminDoor.addr.String(), "--admin-write-token", r.writeToken, "--by", "kim"}, args...)
	if got := run(args, nil, &out, &said); got != code {
		r.t.Errorf("%v = %d, want %d\n%s\n%s", args[7:], got, code, &out, &said)
	}
	return out.String(), said.String()
}

// says wants all parts in what was said.
func says(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("it says\n%s\nwant %s in it", text, part)
		}
	}
}

// TestReclaim: what a lost airgate had in the shared store goes back where its records
// prove what it has spent, or an operator signs for the rest; never otherwise.
func TestReclaim(t *testing.T) {
	server := redistest.Start(t, redistest.Redis(t))
	g := newReclaimer(t, server)
	const dollar = money.USD
	one, two := newLost(t, server, "lost-0.1"), newLost(t, server, "lost-1.1")
	one.call("a", 100*dollar, 60*dollar)
	one.call("b", 150*dollar, -1)
	two.call("c", 40*dollar, -1)
	out, _ := g.reclaim(0)
	says(t, out, "WRITER", "lost-0.1  alive", "lost-1.1  alive")
	_, said := g.reclaim(1, "lost-0.1", "--records", "none", "--accept", "500")
	says(t, said, "lost-0.1 is alive: the store has heard of it at 20")
	one.die()
	two.die()
	_, said = g.reclaim(1, "lost-0.1", "--records", "none", "--accept", "500", "--reason", "x")
	says(t, said, "lost-0.1 is alive")
	one.silent()
	two.silent()
	_, escrowed := one.has()
	out, said = g.reclaim(0)
	says(t, out, "lost-0.1  silent since 20", "lost-1.1  silent since 20")
	says(t, said, "scope: the quota store of the airgate at http://")

	// What the records do not prove is said exactly, and nothing goes back.
	var listed struct {
		Writers []struct {
			Writer   string
			SetAside money.NanoUSD `json:"set_aside_usd"`
			Accounts []struct {
				Told money.NanoUSD `json:"told_usd"`
			}
		}
	}
	out, _ = g.reclaim(0, "-o", "json")
	if err := json.Unmarshal([]byte(out), &listed); err != nil || len(listed.Writers) != 2 || listed.Writers[0].SetAside+listed.Writers[1].SetAside != escrowed {
		t.Fatalf("%s: %v; want %s USD of two writers", out, err, escrowed)
	}
	aside, told := listed.Writers[0].SetAside, listed.Writers[0].Accounts[0].Told
	back := aside + told - 170*dollar // of what was granted
	one.ledger = nil
	one.say(record.Record{Type: record.Settle, RequestID: "b", Cost: 110 * dollar, HasCost: true})
	last := &one.all[len(one.all)-1]
	head := record.Head{Writer: one.writer, Seq: last.Seq, Hash: record.Sum(record.AppendJSON(nil, last))}
	start := record.Record{Type: record.Start, Writer: "lost-0.2", Seq: 1, Time: time.Now().UTC().Truncate(time.Millisecond), Heads: []record.Head{head}}
	lacking, ending, complete := one.database("lacking.db", 4, start), one.database("ending.db", 5), one.database("complete.db", 5, start)
	_, said = g.reclaim(1, "lost-0.1", "--records", lacking, "--reason", "INC-12")
	says(t, said, "airgate: not proven: of lost-0.1 record 5 are not here; the store has heard of it until 20", "Nothing is given back. Find a later copy of its records (--records FILE); or wait until the windows end; or sign off", "--accept 0\n")
	_, said = g.reclaim(1, "lost-0.1", "--records", ending, "--reason", "INC-12")
	says(t, said, "airgate: not proven: the records of lost-0.1 end with record 5 of 20", "and nothing says that it was the last", "--accept "+back.String())
	_, said = g.reclaim(1, "lost-1.1", "--records", complete, "--accept", "0.01", "--reason", "INC-12")
	says(t, said, "airgate: not proven: there are no records of lost-1.1; ")
	_, said = g.reclaim(3, "lost-0.1", "--records", "nowhere.db", "--reason", "INC-12")
	says(t, said, "or say --records none")
	_, said = g.reclaim(1, "lost-2.1", "--records", complete, "--reason", "INC-12")
	says(t, said, `the quota store knows of no writer "lost-2.1"`)
	g.reclaim(2, "lost-0.1", "--accept", "much")
	if settled, e := one.has(); e != escrowed || settled > 60*dollar {
		t.Errorf("%s settled and %s escrowed after refusals, want no more than 60 and %s", settled, e, escrowed)
	}

	// Complete records prove it. First it is only shown.
	for _, reason := range [][]string{nil, {"--reason", "INC-12: the node burnt"}} {
		out, said = g.reclaim(0, append([]string{"lost-0.1", "--records", complete}, reason...)...)
		says(t, out, fmt.Sprintf("usd|team=search|month@UTC|%s  %s", time.Now().UTC().Format("2006-01"), aside), "  170           "+back.String()+"\n")
		says(t, said, "proven: records 1 to 5 of lost-0.1 are one chain, and lost-0.2, which took over from it, names record 5 as its last")
	}
	says(t, said, back.String()+" USD of 1 account-windows are given back by the airgate at http://")
	if settled, e := one.has(); settled != 170*dollar || e != escrowed-aside {
		t.Errorf("%s settled and %s escrowed, want 170 and %s", settled, e, escrowed-aside)
	}
	_, said = g.reclaim(0, "lost-0.1", "--records", complete, "--reason", "again")
	says(t, said, "nothing is set aside for lost-0.1")

	// What lost-1 had goes back by a signature, and no less is to be signed for.
	rest := listed.Writers[1].SetAside
	_, said = g.reclaim(1, "lost-1.1", "--records", "none", "--accept", (rest - 1).String(), "--reason", "INC-12")
	says(t, said, "--accept "+rest.String())
	_, said = g.reclaim(0, "lost-1.1", "--records", "none", "--accept", rest.String(), "--reason", "INC-13")
	says(t, said, "not proven, and accepted: there are no records of lost-1.1; ", rest.String()+" USD of 1 account-windows are given back")

	// Others spend it, to the last cent, and what a zombie says later changes nothing.
	late, err := redis.New(t.Context(), redis.Config{URL: server.URL(), Deadline: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = late.Close() }()
	key := quota.Key{Account: "usd|team=search|month@UTC", Window: time.Now().UTC().Format("2006-01")}
	if _, err := late.Sync(t.Context(), quota.Sync{Key: key, Unit: 1000, Replica: "lost-0.1", Seq: 99, Known: true, Seen: int64(aside + told), Spent: int64(230 * dollar), Want: int64(dollar), Limit: int64(500 * dollar), Version: 1, Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if h := admitted(t, g.ledger, g.reloader.Current().Limits, 330*dollar+dollar/100); h != nil {
		t.Error("more is admitted than is left")
	}
	h := admitted(t, g.ledger, g.reloader.Current().Limits, 330*dollar)
	if h == nil {
		t.Fatal("what has gone back cannot be spent")
	}
	g.ledger.Settle(h, 0, 0, time.Now())

	// It is in the book.
	if err := g.journal.Shipped(t.Context()); err != nil {
		t.Fatal(err)
	}
	var audit struct {
		Audit []struct {
			Code, Detail string
			Heads        []struct {
				Writer string
				Seq    json.Number
				Hash   string
			}
		}
	}
	g.get(t, "/api/v1/audit?type=admin&limit=100", &audit)
	var got []string
	for _, r := range audit.Audit {
		if r.Code == "quota_reclaimed" {
			h := r.Heads[0]
			got = append(got, h.Writer+" "+h.Seq.String()+" "+h.Hash+": "+r.Detail)
		}
	}
	want := []string{
		"lost-1.1 0 : what lost-1.1 had in the quota store is given back: " + rest.String() + " USD in 1 account-windows; not proven, up to " + rest.String() + " USD accepted; by kim: INC-13",
		"lost-0.1 5 " + head.Hash.String() + ": what lost-0.1 had in the quota store is given back: " + back.String() + " USD in 1 account-windows; proven, as kim's command says: records 1 to 5 are one chain, and lost-0.2, which took over from it, names record 5 as its last; by kim: INC-12: the node burnt",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the book says\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestReclaimOfOneThatClosed: an airgate that has ended in order has said so, and all that
// the store has set aside for it goes back.
func TestReclaimOfOneThatClosed(t *testing.T) {
	server := redistest.Start(t, redistest.Redis(t))
	o := sharedOptions(t, server)
	t.Setenv("AIRGATE_REPLICA", "ended")
	ended := open(t, o)
	writer := ended.journal.Writer()
	t.Setenv("AIRGATE_REPLICA", "other")
	g := newReclaimer(t, server)
	denials(t, ended, 1000)
	shut(t, ended)
	// The store has lost its end, and another one remembers what it had before.
	key := quota.Key{Account: "usd|team=search|month@UTC", Window: time.Now().UTC().Format("2006-01")}
	if _, err := g.store.Sync(t.Context(), quota.Sync{
		Key: key, Unit: 1000, Replica: "other.1", Seq: 1, Mode: quota.NoGrants, Now: time.Now(),
		Others: []quota.Share{{Replica: writer, Granted: int64(100 * money.USD)}},
	}); err != nil {
		t.Fatal(err)
	}
	out, _ := g.reclaim(0)
	says(t, out, writer+"  silent, not known since when  100            1         0")
	out, said := g.reclaim(0, writer, "--records", filepath.Join(o.data, "usage.db"), "--reason", "INC-12", "-o", "json")
	says(t, out, `"back_usd":"100"`)
	says(t, said, "proven: records 1 to 1002 of "+writer+" are one chain, and its records end with its own, record 1002, that it has given back what it had")
	out, _ = g.reclaim(0)
	if strings.Contains(out, writer) {
		t.Errorf("after it was reclaimed the list is\n%s", out)
	}
}

// TestReclaimOfOneThatLives: an airgate that was only cut off from the store, and is taken
// for lost, ends as it hears of it, and spends nothing more of what is others' now. Its
// next start tells what it has spent, and the store has it once.
func TestReclaimOfOneThatLives(t *testing.T) {
	server := redistest.Start(t, redistest.Redis(t))
	proxy := redistest.NewProxy(t, server.Addr)
	t.Setenv("AIRGATE_REPLICA", "cut")
	o := sharedOptions(t, server)
	text, err := os.ReadFile(o.config)
	if err == nil {
		err = os.WriteFile(o.config, bytes.ReplaceAll(text, []byte(server.Addr), []byte(proxy.Addr)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	cut := open(t, o)
	writer := cut.journal.Writer()
	t.Setenv("AIRGATE_REPLICA", "other")
	g := newReclaimer(t, server)
	const dollar = money.USD
	spend := func(id string, cost money.NanoUSD) bool {
		t.Helper()
		h := admitted(t, cut.ledger, cut.reloader.Current().Limits, cost)
		if h == nil {
			return false
		}
		intent := record.Record{Type: record.Intent, Time: time.Now(), RequestID: id, Decision: "allow", Reserved: cost, Limits: h.AppendLimits(nil)}
		settle := record.Record{Type: record.Settle, Time: time.Now(), RequestID: id, Cost: cost, HasCost: true}
		for _, r := range []*record.Record{&intent, &settle} {
			if _, err := cut.journal.Append(r); err != nil {
				t.Fatal(err)
			}
		}
		cut.ledger.Settle(h, cost, 0, time.Now())
		return true
	}
	var spent money.NanoUSD
	for i := range 20 { // so that some more is in hand
		if !spend(fmt.Sprint("a", i), dollar) {
			t.Fatal("refused")
		}
		spent += dollar
		time.Sleep(20 * time.Millisecond)
	}
	proxy.To("127.0.0.1:1")
	proxy.Cut()
	silent(t, server, writer)
	_, said := g.reclaim(0, writer, "--records", "none", "--accept", "500", "--reason", "INC-12")
	says(t, said, " USD of 1 account-windows are given back")
	if spend("b", dollar/100) { // of what it had in hand
		spent += dollar / 100
	}
	proxy.To(server.Addr)
	ctx, end := context.WithTimeout(t.Context(), 20*time.Second)
	defer end()
	if err := cut.wait(ctx, nil); !errors.Is(err, quota.ErrLeft) || !strings.Contains(err.Error(), "start it again, and it tells what it has spent") {
		t.Errorf("wait = %v, want %v", err, quota.ErrLeft)
	}
	if spend("c", dollar/100) {
		t.Error("a call is admitted after that")
	}
	shut(t, cut)

	t.Setenv("AIRGATE_REPLICA", "cut")
	again := open(t, o)
	defer shut(t, again)
	key := quota.Key{Account: "usd|team=search|month@UTC", Window: time.Now().UTC().Format("2006-01")}
	st, err := g.store.Sync(t.Context(), quota.Sync{Key: key, Unit: 1000, Replica: "reader", Seq: 1, Mode: quota.NoGrants, Now: time.Now()})
	if err != nil || st.Settled != int64(spent) || st.Escrowed != 0 {
		t.Errorf("after its next start the store has %+v, %v; want %s settled and nothing set aside", st, err, spent)
	}
}

// leaving is a store that leaves for nobody once who asks has gone.
type leaving struct{ *memory.Store }

func (l leaving) Leave(ctx context.Context, replica string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return l.Store.Leave(ctx, replica)
}

// TestReclaimIsRecordedFirst: what the book cannot say does not happen, and what it may
// say does, though who has asked for it is gone.
func TestReclaimIsRecordedFirst(t *testing.T) {
	for name, fails := range map[string]bool{"the disk fails": true, "the client hangs up": false} {
		t.Run(name, func(t *testing.T) {
			ctx, hangUp := context.WithCancel(t.Context())
			defer hangUp()
			d := disktest.New(1)
			j, err := journal.Open(t.Context(), journal.Config{Dir: "/data/journal", Replica: "one", State: accounting.NewBalances(), Disk: d})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = j.Close() }() // it may have failed
			store := leaving{memory.New()}
			l, err := accounting.New(accounting.Config{Store: store, Replica: j.Writer(), Shared: true})
			if err != nil {
				t.Fatal(err)
			}
			sync := func(c quota.Sync) quota.State {
				t.Helper()
				c.Key = quota.Key{Account: "usd|total", Window: "total"}
				st, err := store.Sync(t.Context(), c)
				if err != nil {
					t.Fatal(err)
				}
				return st
			}
			sync(quota.Sync{Replica: "lost.1", Seq: 1, Want: 90, Limit: 100, Version: 1})
			d.Fail(func(string, string) error {
				if fails {
					return disktest.ErrFault
				}
				hangUp()
				return nil
			})
			g := &gateway{journal: j, ledger: l}
			claim := &admin.Claim{Writer: "lost.1", Proof: "p", LastSeq: 1, LastHash: record.Hash{}.String(), By: "kim", Reason: "INC-12"}
			err = g.reclaim(ctx, claim, []accounting.Return{{Stake: accounting.Stake{Account: "usd|total|total", Granted: 90}, Back: 90}})
			aside := int64(0)
			if fails {
				aside = 90 // as before
				if !errors.Is(err, disktest.ErrFault) || !strings.Contains(err.Error(), "nothing was given back yet, and it may be recorded: run it again") {
					t.Errorf("reclaim = %v, want that it may not be recorded", err)
				}
			} else if err != nil {
				t.Errorf("reclaim = %v, want it done", err)
			}
			if st := sync(quota.Sync{Replica: "reader", Seq: 1, Mode: quota.NoGrants}); st.Escrowed != aside {
				t.Errorf("%d are set aside, want %d", st.Escrowed, aside)
			}
		})
	}
}

// TestReclaimUnanswered: a claim that may have been heard is not said to have failed.
func TestReclaimUnanswered(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, heard := range map[string]bool{"it was heard": true, "nobody is there": false} {
		t.Run(name, func(t *testing.T) {
			var s *httptest.Server
			s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost {
					panic(http.ErrAbortHandler) // without an answer
				}
				if !heard {
					w.Header().Set("Connection", "close")
					_ = s.Listener.Close()
				}
				_, _ = w.Write([]byte(`{"writers":[{"writer":"lost.1","set_aside_usd":"0","accounts":[],"other_accounts":1}]}`))
			}))
			defer s.Close()
			var out, said bytes.Buffer
			code := run([]string{"budgets", "reclaim", "lost.1", "--records", "none", "--accept", "0", "--reason", "INC-12", "--by", "kim", "--server", s.URL, "--admin-write-token", token}, nil, &out, &said)
			if may := strings.Contains(said.String(), "airgate: it may be done, or under way"); code != exitUnreachable || may != heard || !strings.Contains(said.String(), "is airgate running?") {
				t.Errorf("reclaim = %d, it says %s", code, &said)
			}
		})
	}
}

// TestReclaimAlone: a store in memory has nobody else's.
func TestReclaimAlone(t *testing.T) {
	o := testOptions(t)
	g := open(t, o)
	defer shut(t, g)
	var out, said bytes.Buffer
	code := run([]string{"budgets", "reclaim", "--server", "http://" + g.adminDoor.addr.String()}, nil, &out, &said)
	if code != exitProblem || out.Len() > 0 || !strings.Contains(said.String(), "airgate: the quota store of this airgate is in memory: nothing is shared") {
		t.Errorf("reclaim = %d %q %q", code, out.String(), said.String())
	}
}
