package accounting_test

import (
	"bytes"
	"context"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"airgate/accounting"
	"airgate/accounting/money"
	"airgate/accounting/quota"
	"airgate/accounting/quota/memory"
	"airgate/accounting/record"
)

// incarnation is a ledger on a shared store with the book of its directory.
type incarnation struct {
	t      *testing.T
	book   *accounting.Balances
	writer string
	ledger *accounting.Ledger
	table  *accounting.Table
}

func begin(t *testing.T, store quota.Store, book *accounting.Balances, writer string, limits ...accounting.Limit) *incarnation {
	t.Helper()
	l, err := accounting.New(accounting.Config{Store: store, Replica: writer, Shared: true})
	if err != nil {
		t.Fatal(err)
	}
	i := &incarnation{t, book, writer, l, apply(t, l, limits...)}
	i.say(record.Record{Type: record.Start, Code: accounting.StartCode(true)})
	closed, err := l.Succeed(t.Context(), book, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if closed != nil {
		i.say(*closed)
	}
	return i
}

func (i *incarnation) say(r record.Record) {
	r.Writer, r.Time = i.writer, time.Now()
	i.book.Apply(&r)
}

func (i *incarnation) admit(id string, h *accounting.Hold, need int64) {
	i.t.Helper()
	mustAdmit(i.t, i.ledger, h, i.table, subject("k", "t"), accounting.Need{USD: money.NanoUSD(need)}, time.Now())
	i.say(record.Record{Type: record.Intent, RequestID: id, Reserved: money.NanoUSD(need), Limits: h.AppendLimits(nil)})
}

func (i *incarnation) settle(id string, h *accounting.Hold, cost int64) {
	i.ledger.Settle(h, money.NanoUSD(cost), 0, time.Now())
	i.say(record.Record{Type: record.Settle, RequestID: id, Cost: money.NanoUSD(cost)})
}

// has is what the store has of an account-window, read as a replica of its own.
func has(t *testing.T, store quota.Store, account, window string) (settled, escrowed int64) {
	t.Helper()
	st, err := store.Sync(context.Background(), quota.Sync{Key: quota.Key{Account: account, Window: window}, Replica: "reader", Seq: 1, Mode: quota.NoGrants})
	if err != nil {
		t.Fatal(err)
	}
	return st.Settled, st.Escrowed
}

func thisMonth() string { return time.Now().UTC().Format("2006-01") }

// TestWithinAfterLoss: a store that has lost all and was told what was spent, and no limit
// yet, has nothing out beyond it.
func TestWithinAfterLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &reach{Store: memory.New()}
		month := accounting.Limit{Name: "m", Resource: accounting.USD, Amount: 1000, Window: accounting.Month, OnStoreDown: accounting.OnStoreDown{Within: 500}}
		book := accounting.NewBalances()
		var h accounting.Hold
		first := begin(t, store, book, "r.1", month)
		first.admit("a", &h, 10)
		first.settle("a", &h, 10)

		store.Store = memory.New()
		second := begin(t, store, book, "r.2", month)
		store.down.Store(true)
		second.admit("b", &h, 20)
		second.settle("b", &h, 20)
	})
}

// TestSucceed: who follows a process that was killed tells the shared store what that
// one spent, charges what was in flight in full, gives back what was in hand, and
// does so once.
func TestSucceed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memory.New()
		month := accounting.Limit{Name: "m", Resource: accounting.USD, Amount: 1000, Window: accounting.Month}
		book := accounting.NewBalances()
		expect := func(when string, settled, escrowed int64) {
			t.Helper()
			if s, e := has(t, store, "usd|month@UTC", thisMonth()); s != settled || e != escrowed {
				t.Errorf("%s: the store has %d settled and %d escrowed, want %d and %d", when, s, e, settled, escrowed)
			}
		}

		first := begin(t, store, book, "r.1", month)
		ctx, stop := context.WithCancel(t.Context())
		ran := make(chan error)
		go func() { ran <- first.ledger.Run(ctx) }()
		var h [3]accounting.Hold
		first.admit("a", &h[0], 200)
		first.settle("a", &h[0], 140)
		first.admit("b", &h[1], 100)
		time.Sleep(time.Second)
		first.admit("c", &h[2], 50)
		stop() // it is killed, with a and what else in the store
		if err := <-ran; err != nil {
			t.Error(err)
		}
		if _, escrowed := has(t, store, "usd|month@UTC", thisMonth()); escrowed < 150 {
			t.Errorf("%d escrowed to who was killed, want what its calls hold and more", escrowed)
		}
		first.say(record.Record{Type: record.Settle, RequestID: "c", Cost: 50}) // as SettleOrphans

		second := begin(t, store, book, "r.2", month)
		expect("after the first was killed", 140+100+50, 0)
		var d accounting.Hold
		second.admit("d", &d, 10)
		second.settle("d", &d, 7)
		second.say(record.Record{Type: record.Settle, RequestID: "b", Cost: 100})
		if err := second.ledger.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		second.say(*accounting.QuotaClosed(time.Now(), "r.2"))
		expect("after the second has closed", 297, 0)
		if left := book.Sharing(); len(left) > 0 {
			t.Errorf("%v have not closed what they had, say the records", left)
		}

		// The book is read again from a checkpoint.
		again := accounting.NewBalances()
		checkpoint := book.AppendCheckpoint(nil)
		if err := again.RestoreCheckpoint(checkpoint); err != nil || !bytes.Equal(checkpoint, again.AppendCheckpoint(nil)) {
			t.Errorf("RestoreCheckpoint = %v; or it is another one then", err)
		}
		begin(t, store, again, "r.3", month)
		expect("after a start with nothing to close", 297, 0)

		// r.3 has done nothing, and is killed: what it is not known to have had comes
		// back, too.
		var e accounting.Hold
		third := begin(t, store, again, "r.4", month)
		mustAdmit(t, third.ledger, &e, third.table, subject("k", "t"), accounting.Need{USD: 30}, time.Now()) // its intent was never written
		begin(t, store, again, "r.5", month)
		expect("after one was killed before its intent", 297, 0)
	})
}

// TestSharedFromNowOn: what was spent while a directory had its quota in memory is
// told to the store that is shared from now on, once.
func TestSharedFromNowOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memory.New()
		month := accounting.Limit{Name: "m", Resource: accounting.USD, Amount: 1000, Window: accounting.Month}
		book := balances(intent("a", time.Now(), 100, "usd|month@UTC|"+time.Now().UTC().Format("2006-01")), settle("a", time.Now(), 60),
			intent("b", time.Now(), 30, "usd|month@UTC|"+time.Now().UTC().Format("2006-01")))
		for _, writer := range []string{"r.2", "r.3"} {
			i := begin(t, store, book, writer, month)
			if settled, escrowed := has(t, store, "usd|month@UTC", thisMonth()); settled != 90 || escrowed != 0 {
				t.Errorf("the store has %d settled and %d escrowed, want 90 and 0", settled, escrowed)
			}
			if writer == "r.2" {
				i.say(record.Record{Type: record.Settle, RequestID: "b", Cost: 30})
				i.say(*accounting.QuotaClosed(time.Now()))
			}
		}
	})
}

// running is an incarnation whose ledger runs until the test ends.
func (i *incarnation) running(ctx context.Context) *incarnation {
	go func() {
		if err := i.ledger.Run(ctx); err != nil {
			i.t.Errorf("Run: %v", err)
		}
	}()
	synctest.Wait()
	return i
}

// TestDepartedAreToldAgain: a store that loses everything is told what earlier
// incarnations spent by who has their book, those that had closed included, and is not
// left with what others remember that they had in hand.
func TestDepartedAreToldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		store := newForgetful()
		month := accounting.Limit{Name: "m", Resource: accounting.USD, Amount: 1000, Window: accounting.Month}
		book := accounting.NewBalances()
		expect := func(when string, settled, escrowed int64) {
			t.Helper()
			if s, e := has(t, store, "usd|month@UTC", thisMonth()); s != settled || e != escrowed {
				t.Errorf("%s: the store has %d settled and %d escrowed, want %d and %d", when, s, e, settled, escrowed)
			}
		}
		var h accounting.Hold
		first := begin(t, store, book, "r.1", month)
		first.admit("a", &h, 100)
		first.settle("a", &h, 40)
		if err := first.ledger.Close(ctx); err != nil {
			t.Fatal(err)
		}
		first.say(*accounting.QuotaClosed(time.Now(), "r.1"))

		living, kill := context.WithCancel(ctx)
		second := begin(t, store, book, "r.2", month).running(living)
		second.admit("b", &h, 5)
		second.settle("b", &h, 5)
		time.Sleep(65 * time.Second) // what is idle comes back
		store.lose(t)
		expect("told by the second", 45, 0)

		kill()
		again := accounting.NewBalances() // the book is read from a checkpoint
		if err := again.RestoreCheckpoint(book.AppendCheckpoint(nil)); err != nil {
			t.Fatal(err)
		}
		begin(t, store, again, "r.3", month).running(ctx)
		store.lose(t)
		store.lose(t)
		expect("told by the third", 45, 0)
		if _, err := store.Sync(ctx, quota.Sync{
			Key: quota.Key{Account: "usd|month@UTC", Window: time.Now().UTC().Format("2006-01")}, Replica: "other", Seq: 1, Mode: quota.NoGrants,
			Others: []quota.Share{{Replica: "r.1", Granted: 100, Spent: 40}},
		}); err != nil {
			t.Fatal(err)
		}
		expect("told by another, who has not heard that the first has closed", 45, 60)
		time.Sleep(80 * time.Second)
		expect("after a minute", 45, 0)
	})
}

// TestClosedLongAgo: what closed more than a week ago is one sum, whose windows are
// forgotten as all are.
func TestClosedLongAgo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newForgetful()
		book := accounting.NewBalances()
		total := accounting.Limit{Name: "t", Resource: accounting.USD, Amount: 1000, Window: accounting.Total}
		day := accounting.Limit{Name: "d", Resource: accounting.USD, Amount: 1000, Window: accounting.Day}
		var h accounting.Hold
		var sizes []int
		for n := range 30 {
			i := begin(t, store, book, "r."+strconv.Itoa(n), total, day)
			i.admit(i.writer, &h, 10)
			i.settle(i.writer, &h, 4)
			if err := i.ledger.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			i.say(*accounting.QuotaClosed(time.Now(), i.writer))
			for range 30 { // so that the records show that a day passes
				time.Sleep(48 * time.Minute)
				i.say(record.Record{Type: record.Deny})
			}
			sizes = append(sizes, len(book.AppendCheckpoint(nil)))
		}
		if grown := sizes[29] - sizes[19]; grown > 20 {
			t.Errorf("ten more restarts make a checkpoint %d bytes larger: %v", grown, sizes)
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		begin(t, store, book, "r.30", total, day).running(ctx)
		store.lose(t)
		if settled, _ := has(t, store, "usd|total", "total"); settled != 120 {
			t.Errorf("the store has %d settled in total, want 120", settled)
		}
	})
}

// TestClosedLongAgoByNames: replicas whose names are alike up to a dot, as those of hosts
// may be, have a sum each.
func TestClosedLongAgoByNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		store := newForgetful()
		total := accounting.Limit{Name: "t", Resource: accounting.USD, Amount: 1000, Window: accounting.Total}
		books := map[string]*accounting.Balances{"host.one": accounting.NewBalances(), "host.two": accounting.NewBalances()}
		for name, book := range books {
			var h accounting.Hold
			for _, incarnation := range []string{".1", ".2"} {
				i := begin(t, store, book, name+incarnation, total)
				i.admit(i.writer, &h, 10)
				i.settle(i.writer, &h, 4)
				if err := i.ledger.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
				i.say(*accounting.QuotaClosed(time.Now(), i.writer))
			}
		}
		for range 20 * 30 { // so that the records show that the days pass
			time.Sleep(48 * time.Minute)
			for _, book := range books {
				book.Apply(&record.Record{Type: record.Deny, Time: time.Now()})
			}
		}
		for name, book := range books {
			again := accounting.NewBalances()
			for range 2 { // what is folded is not folded again
				if err := again.RestoreCheckpoint(book.AppendCheckpoint(nil)); err != nil {
					t.Fatal(err)
				}
			}
			begin(t, store, again, name+".3", total).running(ctx)
		}
		store.lose(t)
		if settled, _ := has(t, store, "usd|total", "total"); settled != 16 {
			t.Errorf("the store has %d settled in total, want 16", settled)
		}
	})
}

// TestClockAhead: a clock that was ahead makes nobody forget what a store that has
// lost it is to be told.
func TestClockAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		store := newForgetful()
		each := accounting.Limit{Name: "m", Resource: accounting.USD, Amount: 1000, Window: accounting.Day, Each: []accounting.Dimension{accounting.Key}}
		i := begin(t, store, accounting.NewBalances(), "r.1", each).running(ctx)
		var h accounting.Hold
		i.admit("a", &h, 100)
		i.settle("a", &h, 40)
		ahead := time.Now().Add(72 * time.Hour)
		mustAdmit(t, i.ledger, &h, i.table, subject("k", "t"), accounting.Need{USD: 10}, ahead)
		i.ledger.Settle(&h, 10, 0, ahead)
		if err := i.ledger.Apply(compile(t, each), ahead.Add(48*time.Hour)); err != nil { // drops what it takes for over
			t.Fatal(err)
		}
		store.lose(t)
		if settled, _ := has(t, store, "usd|each=key:k|day@UTC", time.Now().UTC().Format("2006-01-02")); settled != 40 {
			t.Errorf("the store that lost everything was told %d of today, want 40", settled)
		}
	})
}
