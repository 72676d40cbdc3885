package accounting_test

import (
	"context"
	"hash/fnv"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"airgate/accounting/quota"
	"airgate/accounting/quota/memory"
)

// fleetStore is the store that the fleet shares.
type fleetStore struct {
	f *fleet

	mu     sync.Mutex
	mem    *memory.Store
	keys   map[quota.Key]bool
	pools  map[quota.Key]bool
	owners map[string]chan quota.Key // :: replica.incarnation → what others ask of it
}

func newFleetStore(f *fleet) *fleetStore {
	return &fleetStore{f: f, mem: memory.New(), keys: map[quota.Key]bool{}, pools: map[quota.Key]bool{}, owners: map[string]chan quota.Key{}}
}

func (s *fleetStore) sync(ctx context.Context, c quota.Sync) quota.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[c.Key] = true
	f := s.f
	f.mu.Lock()
	sum := f.sumLocked(c.Key.Account + "|" + c.Key.Window)
	sum.most = max(sum.most, c.Limit)
	f.mu.Unlock()
	recall := c.Recall
	c.Recall = false
	st, _ := s.mem.Sync(ctx, c)
	f.mu.Lock()
	if most := sum.most + sum.over + sum.twice; st.Settled+st.Escrowed > most {
		f.problemLocked("the store has %d of %s settled and %d escrowed, of at most %d", st.Settled, c.Key, st.Escrowed, most)
	}
	f.counts["store calls"]++
	f.mu.Unlock()
	if recall && c.Need > 0 && st.Granted-c.Seen < c.Need && st.Escrowed > st.Granted-c.Returned-st.Spent {
		s.recallLocked(c.Replica, c.Key)
	}
	return st
}

func (s *fleetStore) recallLocked(from string, k quota.Key) {
	for name, asked := range s.owners {
		if name == from {
			continue
		}
		select {
		case asked <- k:
		default:
		}
	}
}

func (s *fleetStore) leave(ctx context.Context, replica string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.mem.Leave(ctx, replica)
}

func (s *fleetStore) take(ctx context.Context, c quota.Take) quota.Taken {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.f.count("store calls")
	got, _ := s.mem.Take(ctx, c)
	return got
}

func (s *fleetStore) permit(ctx context.Context, c quota.Permits) quota.Permitted {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.f.count("store calls")
	s.pools[c.Key] = true
	recall := c.Recall
	c.Recall = false
	got, _ := s.mem.Permit(ctx, c)
	if recall && got.Mine < c.Want && got.Others > 0 {
		s.recallLocked(c.Replica, c.Key)
	}
	return got
}

// all is what it has, by the account-windows of records.
func (s *fleetStore) all() map[string]quota.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string]quota.State{}
	for k := range s.keys {
		st, _ := s.mem.Sync(context.Background(), quota.Sync{Key: k, Replica: "reader", Seq: 1, Mode: quota.NoGrants})
		all[k.Account+"|"+k.Window] = st
	}
	return all
}

// permitted is how many permits are in use.
func (s *fleetStore) permitted() (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.pools {
		got, _ := s.mem.Permit(context.Background(), quota.Permits{Key: k, Replica: "reader", Seq: 1, TTL: time.Second})
		n += got.Others
	}
	return n
}

// fleetNet is one replica's way to the store.
type fleetNet struct {
	r *replica

	mu   sync.Mutex
	sent map[uint64]uint64 // :: hash of a call → how often it was sent
	old  []func()          // may arrive again
}

func newFleetNet(r *replica) *fleetNet { return &fleetNet{r: r, sent: map[uint64]uint64{}} }

func (n *fleetNet) of(l *life) lifeNet { return lifeNet{n, l} }

// draw is the source of what becomes of a call.
func (n *fleetNet) draw(id string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(n.r.name))
	_, _ = h.Write([]byte(id))
	sum := h.Sum64()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sent[sum]++
	return rand.New(rand.NewPCG(n.r.f.seed<<20|n.sent[sum], sum))
}

// later lets a call arrive after d.
func (f *fleet) later(d time.Duration, call func()) {
	f.count("late calls")
	f.late.Go(func() {
		time.Sleep(d)
		call()
	})
}

// lifeNet is a quota.Store: that of one process.
type lifeNet struct {
	net  *fleetNet
	life *life
}

// storeDeadline is how long who asks waits.
const storeDeadline = 50 * time.Millisecond

// send is a call's way to the store, and the answer's way back.
func send[A any](n lifeNet, id string, call func() A) (answer A, err error) {
	var none A
	f, r := n.life.f, n.net.r
	if n.life.dead.Load() {
		return none, errNet
	}
	rng := n.net.draw(id)
	there, back, dice := upTo(rng, time.Millisecond), upTo(rng, time.Millisecond), rng.IntN(1000)
	f.mu.Lock()
	lossy, held, stalled := f.lossy, time.Until(r.held), time.Until(f.until) > 0
	f.mu.Unlock()
	arrive := func() { call() }
	switch {
	case held > 0 && dice >= 500:
		f.later(held+there, arrive)
		fallthrough
	case held > 0, stalled, lossy && dice < 100:
		time.Sleep(storeDeadline + back) // no two at the same instant
		return none, errNet
	case lossy && dice < 110: // it is slow
		f.later(there+upTo(rng, 3*time.Second), arrive)
		time.Sleep(storeDeadline + back)
		return none, errNet
	}
	time.Sleep(1 + there)
	if n.life.dead.Load() {
		f.later(upTo(rng, 5*time.Second), arrive) // it has left all the same
		return none, errNet
	}
	n.net.mu.Lock()
	if n.net.old = append(n.net.old, arrive); len(n.net.old) > 100 {
		n.net.old = n.net.old[50:]
	}
	again := n.net.old[rng.IntN(len(n.net.old))]
	n.net.mu.Unlock()
	if lossy && dice < 200 {
		again()
	}
	answer = call()
	if lossy && dice >= 850 {
		time.Sleep(storeDeadline + back)
		return none, errNet
	}
	time.Sleep(1 + back)
	if n.life.dead.Load() {
		return none, errNet
	}
	return answer, nil
}

// callID tells calls apart. The end of a writer's name is random.
func callID(kind string, k quota.Key, replica string, seq uint64) string {
	writer, journal, _ := strings.Cut(replica, "/")
	replica = writer[:len(writer)-8] + journal
	return kind + k.Account + "|" + k.Window + replica + strconv.FormatUint(seq, 10)
}

// Sync implements quota.Store.
func (n lifeNet) Sync(ctx context.Context, c quota.Sync) (quota.State, error) {
	return send(n, callID("sync", c.Key, c.Replica, c.Seq), func() quota.State { return n.life.f.store.sync(ctx, c) })
}

// Leave implements quota.Store.
func (n lifeNet) Leave(ctx context.Context, replica string) error {
	_, err := send(n, callID("leave", quota.Key{}, replica, 0), func() struct{} { n.life.f.store.leave(ctx, replica); return struct{}{} })
	return err
}

// Take implements quota.Store.
func (n lifeNet) Take(ctx context.Context, c quota.Take) (quota.Taken, error) {
	return send(n, callID("take", c.Key, c.Replica, c.Seq), func() quota.Taken { return n.life.f.store.take(ctx, c) })
}

// Permit implements quota.Store.
func (n lifeNet) Permit(ctx context.Context, c quota.Permits) (quota.Permitted, error) {
	return send(n, callID("permit", c.Key, c.Replica, c.Seq), func() quota.Permitted { return n.life.f.store.permit(ctx, c) })
}

// Watch implements quota.Store.
func (n lifeNet) Watch(ctx context.Context, replica string, o quota.Owner) error {
	s := n.life.f.store
	asked := make(chan quota.Key, 256)
	s.mu.Lock()
	s.owners[replica] = asked
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.owners, replica)
		s.mu.Unlock()
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case k := <-asked:
			if n.life.dead.Load() {
				<-ctx.Done()
				return nil
			}
			o.Recall(k)
		}
	}
}
