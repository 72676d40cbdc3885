package accounting_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"airgate/accounting"
	"airgate/accounting/money"
	"airgate/accounting/quota"
	"airgate/accounting/quota/memory"
)

// severed is the store of one who cannot reach it for a while.
type severed struct {
	*memory.Store

	down atomic.Bool
	deaf bool // Watch tells nothing: only answers do
}

func (s *severed) Sync(ctx context.Context, c quota.Sync) (quota.State, error) {
	if s.down.Load() {
		return quota.State{}, errDown
	}
	return s.Store.Sync(ctx, c)
}

func (s *severed) Watch(ctx context.Context, replica string, o quota.Owner) error {
	if s.deaf {
		<-ctx.Done()
		return nil
	}
	err := s.Store.Watch(ctx, replica, o)
	for s.down.Load() { // it hears when it is back
		time.Sleep(time.Second)
	}
	return err
}

// TestLeft: a writer that was only cut off, and is reclaimed with less than it has spent,
// passes a limit by no more than what went back and what it may hold without the store.
// As it is back it spends nothing any more and ends, and its next start tells what it
// has spent, once.
func TestLeft(t *testing.T) {
	beyond := 0
	for seed := range uint64(60) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if leftOnce(t, rand.New(rand.NewPCG(seed, 0))) {
					beyond++
				}
			})
		})
	}
	if beyond == 0 && !t.Failed() {
		t.Error("no limit was passed: nothing is tested")
	}
}

func leftOnce(t *testing.T, rng *rand.Rand) (beyond bool) {
	store := memory.New()
	amount, within := 1000+rng.Int64N(20_000), rng.Int64N(2)*rng.Int64N(500)
	month := accounting.Limit{Name: "m", Resource: accounting.USD, Amount: amount, Window: accounting.Month, OnStoreDown: accounting.OnStoreDown{Within: money.NanoUSD(within)}}
	key := quota.Key{Account: "usd|month@UTC", Window: thisMonth()}
	text := key.Account + "|" + key.Window
	cut := &severed{Store: store, deaf: rng.IntN(2) == 0}
	book := accounting.NewBalances()
	lost, heir := begin(t, cut, book, "lost.1", month), begin(t, store, accounting.NewBalances(), "heir.1", month)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- lost.ledger.Run(ctx) }()
	heir.running(ctx)

	var spent, its int64 // by all, and by who has the book of the lost one
	calls := 0
	call := func(i *incarnation, need int64) accounting.Code {
		var h accounting.Hold
		if r := admit(i.ledger, &h, i.table, subject("k", "t"), accounting.Need{USD: money.NanoUSD(need)}, time.Now()); r != nil {
			return r.Code
		}
		calls++
		id := strconv.Itoa(calls)
		i.say(*intent(id, time.Now(), money.NanoUSD(need), text))
		time.Sleep(upTo(rng, 5*time.Millisecond))
		cost := rng.Int64N(need + 1)
		i.settle(id, &h, cost)
		if spent += cost; i.book == book {
			its += cost
		}
		return accounting.OK
	}
	for range 40 + rng.IntN(60) {
		call(lost, 1+rng.Int64N(30))
		call(heir, 1+rng.Int64N(10))
		time.Sleep(upTo(rng, 60*time.Millisecond))
	}
	recorded := rng.Int64N(its + 1)
	cut.down.Store(true)
	for range rng.IntN(30) {
		call(lost, 1+rng.Int64N(30))
	}
	time.Sleep(time.Minute)
	st, err := store.Sync(ctx, quota.Sync{Key: key, Replica: "reader", Seq: 1, Mode: quota.NoGrants, Detail: true})
	if err != nil {
		t.Fatal(err)
	}
	var back int64
	for _, s := range st.Shares {
		if s.Replica == "lost.1" {
			recorded = max(recorded, s.Spent)
			back = max(0, s.Granted-s.Returned-recorded)
		}
	}
	if err := heir.ledger.Reclaim(ctx, "lost.1", map[string]money.NanoUSD{text: money.NanoUSD(recorded)}, time.Now()); err != nil {
		t.Fatal(err)
	}
	exhaust := func(i *incarnation) {
		for n := amount; n > 0; n /= 2 {
			for code := accounting.OK; code == accounting.OK; {
				code = call(i, n)
			}
		}
	}
	if rng.IntN(2) == 0 {
		exhaust(heir)
	}
	if rng.IntN(2) == 0 {
		exhaust(lost)
	}
	cut.down.Store(false)
	for range rng.IntN(20) {
		call(lost, 1+rng.Int64N(30))
		call(heir, 1+rng.Int64N(30))
	}
	time.Sleep(35 * time.Second) // it looks at each of its windows, if it has not heard before
	select {
	case err := <-ended:
		if !errors.Is(err, quota.ErrLeft) {
			t.Errorf("Run = %v, want %v", err, quota.ErrLeft)
		}
	default:
		t.Error("who was left for runs on")
	}
	for range 3 { // also once the store is down, and as if a window were new
		if got := call(lost, 1); got != accounting.QuotaUnavailable {
			t.Errorf("a call of who was left for = %v, want %v", got, accounting.QuotaUnavailable)
		}
		cut.down.Store(true)
	}
	if err := lost.ledger.Close(ctx); !errors.Is(err, quota.ErrLeft) {
		t.Errorf("Close = %v, want %v", err, quota.ErrLeft)
	}
	exhaust(heir)
	if spent > amount+back+within {
		t.Errorf("%d are spent of %d; %d went back, and %d may be held without the store", spent, amount, back, within)
	}

	// It is started again.
	again := begin(t, store, book, "lost.2", month).running(ctx)
	exhaust(again)
	time.Sleep(65 * time.Second)
	if settled, escrowed := has(t, store, key.Account, key.Window); settled != spent || escrowed != 0 {
		t.Errorf("after its next start the store has %d settled and %d escrowed, want %d and 0", settled, escrowed, spent)
	}
	if got := int64(book.Spent(key.Account, key.Window)); got != its {
		t.Errorf("its book has %d, want %d", got, its)
	}
	return spent > amount
}
