package quotatest

import (
	"errors"
	"fmt"
	"testing"

	"airgate/accounting/quota"
)

// leaves: who has ended gives back what it has not spent, everywhere, and nothing that
// it sent before comes to anything; others keep what they have.
func leaves(t *testing.T, st quota.Store) {
	const windows = 300
	key := func(i int) quota.Key {
		return quota.Key{Account: fmt.Sprintf("%s/%d", t.Name(), i), Window: "2026-11"}
	}
	for i := range windows {
		c := quota.Sync{Key: key(i), Replica: "dead", Seq: 7, Spent: 20, Seen: 20, Want: 30, Limit: 100, Version: 1, Expire: expire()}
		send(t, st, c)
		c.Replica, c.Seq, c.Spent, c.Seen, c.Want = "live", 1, 0, 0, 10
		send(t, st, c)
	}
	closing := quota.Sync{Key: key(0), Replica: "dead", Seq: quota.LastSeq, Seen: 25, Spent: 25, Mode: quota.Close, Expire: expire()}
	send(t, st, closing) // of this one it is known that 5 more were spent
	for range 2 {
		if err := st.Leave(t.Context(), "dead"); err != nil {
			t.Fatal(err)
		}
	}
	for i := range windows {
		settled := int64(20)
		if i == 0 {
			settled = 25
		}
		late := send(t, st, quota.Sync{Key: key(i), Replica: "dead", Seq: 8, Seen: 50, Spent: 40, Want: 40, Limit: 100, Version: 1, Expire: expire()})
		if late.Seq != quota.LastSeq || late.Settled != settled || late.Escrowed != 10 || late.Active != 1 {
			t.Fatalf("window %d, as a late call of who has left is answered: %+v; want %d settled, and 10 escrowed to the other alone", i, late, settled)
		}
		if rest := send(t, st, quota.Sync{Key: key(i), Replica: "live", Seq: 2, Seen: 10, Want: 100, Limit: 100, Version: 1, Expire: expire()}); rest.Granted != 100-settled {
			t.Fatalf("window %d: the other has %d of what is left, want %d", i, rest.Granted, 100-settled)
		}
	}
	// What is said of it by the last Seq is heard, and there is nothing after that.
	last := send(t, st, quota.Sync{Key: key(1), Replica: "dead", Seq: quota.LastSeq, Seen: 30, Spent: 30, Mode: quota.Close, Expire: expire()})
	if last.Settled != 30 {
		t.Errorf("%d are settled, want 30", last.Settled)
	}
	beyond := quota.Sync{Key: key(1), Replica: "dead", Seq: quota.LastSeq + 1, Seen: 40, Spent: 40, Want: 40, Limit: 100, Version: 1, Expire: expire()}
	if got, err := st.Sync(t.Context(), beyond); err == nil || errors.Is(err, quota.ErrUnavailable) {
		t.Errorf("a Seq beyond the last is answered %+v, %v; want an error that stays one", got, err)
	}
	if after := send(t, st, quota.Sync{Key: key(1), Replica: "reader", Seq: 1, Mode: quota.NoGrants}); after.Settled != 30 {
		t.Errorf("after a Seq beyond the last %d are settled, want 30", after.Settled)
	}
	if err := st.Leave(t.Context(), "never here"); err != nil {
		t.Error(err)
	}
}
