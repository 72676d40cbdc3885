package accounting_test

import (
	"context"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"airgate/accounting/quota"
	"airgate/accounting/quota/memory"
)

// fleetStore is the store that the fleet shares: quota/memory, which loses what it has
// acknowledged. What it still knows is what its first calls say. Then it grants nothing
// until all who live have told again what they know, or have not answered for so long
// that they are taken for gone, as quota/redis does.
type fleetStore struct {
	f *fleet

	mu     sync.Mutex
	mem    *memory.Store
	log    []func(*memory.Store) // what Syncs and Leaves there were
	keys   map[quota.Key]bool
	pools  map[quota.Key]bool
	owners map[string]chan quota.Key // :: replica.incarnation → what others ask of it

	lived  map[string]time.Time // :: replica.incarnation → when it was last heard to live
	lost   bool
	began  time.Time // the learning
	told   map[string]bool
	named  map[string]bool  // somebody remembers them
	before map[holding]part // what those had who may be gone
	losses []time.Time

	lives map[string]*life    // :: replica.incarnation
	void  map[string]bool     // :: replica.incarnation whose records are lost
	own   map[holding]ownWord // by its own calls
}

// part is what was granted and not returned, and what of that is spent.
type part struct{ had, spent int64 }

// ownWord is the newest that a replica has said of itself, or was granted, also what
// the store has lost since.
type ownWord struct {
	granted, returned, spent int64
}

// holding is whose part of what.
type holding struct {
	replica string
	key     quota.Key
}

const (
	fleetBeat   = time.Second
	fleetJoin   = 3 * time.Second  // until when all that live have heard of a loss
	fleetGone   = 10 * time.Second // after which who is not heard does not live
	fleetForget = time.Minute      // after which nobody waits for it
)

func newFleetStore(f *fleet) *fleetStore {
	s := &fleetStore{
		f: f, mem: memory.New(), keys: map[quota.Key]bool{}, pools: map[quota.Key]bool{}, owners: map[string]chan quota.Key{}, lived: map[string]time.Time{},
		lives: map[string]*life{}, void: map[string]bool{}, own: map[holding]ownWord{},
	}
	s.learnLocked() // nobody has been here before
	return s
}

// unheard takes what a process has spent of what is not in the book, and the store has
// not heard of.
func (s *fleetStore) unheard(l *life) map[string]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	if len(l.tokensSpent) == 0 {
		return nil // it may not even have a journal
	}
	left := l.tokensSpent
	l.tokensSpent = map[string]int64{}
	for k := range s.keys {
		if text := k.Account + "|" + k.Window; left[text] > 0 {
			left[text] -= min(left[text], s.own[holding{l.journal.Writer(), k}].spent)
		}
	}
	return left
}

// add makes a process known that will call.
func (s *fleetStore) add(l *life) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lives[l.journal.Writer()] = l
}

// loseRecords: nobody follows those who have lived so far under a name.
func (s *fleetStore) loseRecords(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for writer := range s.lives {
		if strings.HasPrefix(writer, name+".") {
			s.void[writer] = true
		}
	}
}

func (s *fleetStore) learnLocked() {
	if !s.lost {
		s.before = map[holding]part{}
	}
	s.lost, s.began, s.told, s.named = true, time.Now(), map[string]bool{}, map[string]bool{}
}

// lose forgets the last calls.
func (s *fleetStore) lose(ctx context.Context, rng *rand.Rand) {
	s.mu.Lock()
	defer s.mu.Unlock()
	had := s.haveLocked(ctx)
	s.learnLocked()
	for h, p := range had {
		s.before[h] = part{max(s.before[h].had, p.had), max(s.before[h].spent, p.spent)}
	}
	what := "losses"
	forget := rng.IntN(min(len(s.log), pick(rng, 10, 100, 5000)) + 1)
	if rng.IntN(4) == 0 {
		what, forget, s.lived = "whole losses", len(s.log), map[string]time.Time{}
	}
	s.log = s.log[:len(s.log)-forget]
	s.mem = memory.New()
	for _, call := range s.log {
		call(s.mem)
	}
	s.losses = append(s.losses, time.Now())
	s.f.count(what)
}

// haveLocked is what each replica has.
func (s *fleetStore) haveLocked(ctx context.Context) map[holding]part {
	all := map[holding]part{}
	for k := range s.keys {
		st, _ := s.mem.Sync(ctx, quota.Sync{Key: k, Replica: "reader", Seq: 1, Mode: quota.NoGrants, Detail: true})
		for _, o := range st.Shares {
			all[holding{o.Replica, k}] = part{o.Granted - o.Returned, o.Spent}
		}
	}
	return all
}

// beaten is what a replica hears that lives.
type beaten struct {
	lost    bool
	began   time.Time
	members []string
}

func (s *fleetStore) beat(ctx context.Context, replica string) beaten {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.lived[replica] = now
	if s.lost && now.Sub(s.began) >= fleetJoin {
		s.endLocked(ctx, now)
	}
	if s.lost {
		return beaten{lost: true, began: s.began}
	}
	maps.DeleteFunc(s.lived, func(_ string, t time.Time) bool { return now.Sub(t) > fleetForget })
	return beaten{members: slices.Sorted(maps.Keys(s.lived))}
}

// endLocked ends the learning, if nobody is waited for.
func (s *fleetStore) endLocked(ctx context.Context, now time.Time) {
	last := maps.Clone(s.lived)
	for name := range s.named {
		if _, ok := last[name]; !ok {
			last[name] = time.Time{}
		}
	}
	for name, t := range last {
		if !s.told[name] && (now.Sub(t) < fleetGone || now.Sub(s.began) < fleetGone) {
			return
		}
	}
	s.lost = false
	has := s.haveLocked(ctx)
	f := s.f
	f.mu.Lock()
	defer f.mu.Unlock()
	for h, p := range s.before {
		n := p.had - has[h].had
		if isTokens(h.key) {
			n = max(n, p.spent-has[h].spent) // nobody tells it, and the rest comes back
		}
		if n > 0 && !s.toldLocked(h) {
			// It may still spend, or have spent, what nobody else knew of.
			sum := f.sumLocked(h.key.Account + "|" + h.key.Window)
			sum.over += n
			sum.gone += n
			f.counts["gone with a part"]++
		}
	}
	f.counts["learnings"]++
}

// isTokens reports whether a key is of tokens, which are not in the book.
func isTokens(k quota.Key) bool { return strings.HasPrefix(k.Account, "tokens|") }

// toldLocked reports whether a replica, or who follows it, has told what it knows.
func (s *fleetStore) toldLocked(h holding) bool {
	replica := h.replica
	if isTokens(h.key) {
		return s.told[replica] // who follows knows nothing of them
	}
	name, _, _ := strings.Cut(replica, ".")
	writer, _, _ := strings.Cut(replica, "/")
	for other := range s.told {
		if s.void[writer] && other != writer {
			continue
		}
		if strings.HasPrefix(other, name+".") && other >= replica {
			return true
		}
	}
	return false
}

func (s *fleetStore) learned(replica string, began time.Time, remembered []string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.lost || !s.began.Equal(began) {
		return false
	}
	s.told[replica] = true
	for _, name := range remembered {
		s.named[name] = true
	}
	return true
}

func (s *fleetStore) whole() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.lost
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
	if s.lost && c.Mode == quota.Normal {
		c.Mode = quota.NoGrants
	}
	recall := c.Recall
	c.Recall = false
	st, _ := s.mem.Sync(ctx, c)
	s.log = append(s.log, func(mem *memory.Store) { _, _ = mem.Sync(ctx, c) })
	if st.Lost && !s.lost {
		s.learnLocked()
	}
	st.Lost = s.lost
	s.noteLocked(&c, st.Granted)
	f.mu.Lock()
	most := sum.most + sum.over + sum.twice + f.within
	if has := st.Settled + st.Escrowed; has > most && !s.lost && !sum.free {
		stale := s.staleLocked(ctx, c.Key)
		if has > most+stale {
			f.problemLocked("the store has %d of %s settled and %d escrowed, of at most %d and %d", st.Settled, c.Key, st.Escrowed, most, stale)
		}
		f.counts["stale words"]++
	}
	f.counts["store calls"]++
	f.mu.Unlock()
	if recall && !s.lost && c.Need > 0 && st.Granted-c.Seen < c.Need && st.Escrowed > st.Granted-c.Returned-st.Spent {
		s.recallLocked(c.Replica, c.Key)
	}
	return st
}

// noteLocked takes a replica's own word.
func (s *fleetStore) noteLocked(c *quota.Sync, granted int64) {
	h := holding{c.Replica, c.Key}
	w := s.own[h]
	w.granted, w.returned, w.spent = max(w.granted, granted), max(w.returned, c.Returned), max(w.spent, c.Spent)
	if c.Mode == quota.Close {
		w.returned = max(w.returned, w.granted-w.spent)
	}
	s.own[h] = w
}

// staleLocked is what the store sets aside since it has lost a replica's newest word,
// has an older one from others, and not yet heard it again.
func (s *fleetStore) staleLocked(ctx context.Context, k quota.Key) (n int64) {
	st, _ := s.mem.Sync(ctx, quota.Sync{Key: k, Replica: "reader", Seq: 1, Mode: quota.NoGrants, Detail: true})
	for _, o := range st.Shares {
		if l := s.lives[o.Replica]; l == nil || s.told[o.Replica] && !l.ended.Load() {
			continue
		}
		w := s.own[holding{o.Replica, k}]
		n += max(0, o.Granted-o.Returned-(w.granted-w.returned))
	}
	return n
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
	leave := func(mem *memory.Store) { _ = mem.Leave(ctx, replica) }
	leave(s.mem)
	for k := range s.keys {
		h := holding{replica, k}
		if w, ok := s.own[h]; ok {
			w.returned = max(w.returned, w.granted-w.spent)
			s.own[h] = w
		}
	}
	s.log = append(s.log, leave)
}

func (s *fleetStore) take(ctx context.Context, c quota.Take, with telling) quota.Taken {
	s.mu.Lock()
	defer s.mu.Unlock()
	got, _ := s.mem.Take(ctx, c)
	f := s.f
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts["store calls"]++
	s.lives[c.Replica].of(c.Key).hear(s.mem, &c, &got, with)
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

// inStore is what the store has of an account-window.
type inStore struct {
	quota.State

	void quota.Share // of that, what is of those whose records are lost
}

// all is what it has, by the account-windows of records.
func (s *fleetStore) all() map[string]inStore {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string]inStore{}
	for k := range s.keys {
		st, _ := s.mem.Sync(context.Background(), quota.Sync{Key: k, Replica: "reader", Seq: 1, Mode: quota.NoGrants, Detail: true})
		has := inStore{State: st}
		for _, o := range st.Shares {
			if writer, _, _ := strings.Cut(o.Replica, "/"); s.void[writer] {
				has.void.Granted += o.Granted
				has.void.Returned += o.Returned
				has.void.Spent += o.Spent
			}
		}
		all[k.Account+"|"+k.Window] = has
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
	f, of := n.life.f, n.life.of(c.Key)
	f.mu.Lock()
	with := telling{of.debt, of.answered}
	f.mu.Unlock()
	got, err := send(n, callID("take", c.Key, c.Replica, c.Seq), func() quota.Taken { return f.store.take(ctx, c, with) })
	if err == nil {
		f.mu.Lock()
		of.answered = got.Taken
		f.mu.Unlock()
	}
	if err != nil {
		n.life.unanswered.Add(1)
	}
	return got, err
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
	heard := make(chan beaten, 1)
	var beating sync.WaitGroup
	beating.Go(func() { n.live(ctx, replica, heard) })
	defer beating.Wait()
	var told time.Time // the learning for which all has been told
	var members []string
	for {
		select {
		case <-ctx.Done():
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.owners, replica)
			if !n.life.dead.Load() {
				delete(s.lived, replica)
			}
			return nil
		case k := <-asked:
			if !n.life.dead.Load() {
				o.Recall(k)
			}
		case b := <-heard:
			if !b.lost {
				members = b.members
				continue
			}
			if b.began.Equal(told) || o.Reassert(ctx, func(quota.Key) bool { return true }) != nil {
				continue
			}
			known := members // it may arrive later
			if ok, err := send(n, callID("learned", quota.Key{}, replica, 0), func() bool { return s.learned(replica, b.began, known) }); ok && err == nil {
				told = b.began
			}
		}
	}
}

// live says that a replica does.
func (n lifeNet) live(ctx context.Context, replica string, heard chan<- beaten) {
	for ctx.Err() == nil && !n.life.dead.Load() {
		b, err := send(n, callID("beat", quota.Key{}, replica, 0), func() beaten { return n.life.f.store.beat(ctx, replica) })
		if err == nil {
			select {
			case heard <- b:
			default:
			}
		}
		timer := time.NewTimer(fleetBeat)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}
