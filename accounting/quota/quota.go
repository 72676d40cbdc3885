// Package quota is the contract of the shared quota state: how much of each
// account-window is escrowed to which replica and how much is spent, how full
// each rate's bucket is, and who has which permits.
//
// Safety never depends on a clock: a grant is spent or returned by its owner,
// or stays set aside. All fields of a call are cumulative per replica
// incarnation, so a repeated or reordered call changes nothing. A store can
// lose what it has acknowledged; then it grants nothing until its owners have
// told it again.
package quota

import (
	"context"
	"errors"
	"time"
)

// ErrUnavailable is in every error that a Store returns since it could not be
// asked, or did not answer in time.
var ErrUnavailable = errors.New("quota store unavailable")

// ErrLeft is the error of a replica for which somebody has called Leave though it lives:
// what it has in hand others may have spent. It spends nothing any more and ends; what
// it has spent, its next incarnation tells.
var ErrLeft = errors.New("another airgate has given back what this one had in the quota store")

// Key names one account-window, one bucket or one set of permits. Values of both
// parts are canonical text made by package accounting; a store never parses
// them.
type Key struct {
	Account string // resource + match + each + window kind + zone, with the values of each; of a budget's warning with its name and threshold in front
	Window  string // "2026-11", "2026-11-03", "total"; "" of rates and permits
}

// Mode says what a Sync may do besides reporting.
type Mode uint8

// The modes.
const (
	Normal   Mode = iota // report, and grant if Want > 0
	Close                // report, and give back everything that is not spent
	NoGrants             // report only
)

// Share is what one replica has of an account-window, cumulative. Of two words
// for the same replica the greater of each field holds.
type Share struct {
	Replica  string
	Granted  int64
	Returned int64
	Spent    int64
	Closed   int64 // for the store alone: when it was closed; 0 = it was not
}

// Folded is the name of the Share that is the sum of replicas which closed the
// account-window a day or longer ago: a store may keep them as one. They do not
// call on it again, and who has their shares in mind from before that day has
// asked for Detail since.
const Folded = "*folded"

// LastSeq is the greatest Seq; more is an error of Sync. Who closes an account-window
// for a replica that has ended calls with it, so that nothing of its own comes later.
const LastSeq = 1<<53 - 1

// Sync is one replica's report on one account-window and its wish. Amounts
// are in the account's own unit (nano-USD for money) and, in multiples of Unit,
// less than 2^53.
type Sync struct {
	Key      Key
	Unit     int64  // a store may round to multiples of it, against the replica; 0 = 1
	Replica  string // replica.incarnation
	Seq      uint64 // ≥ 1, grows with every new call of this replica on this key; a repeat keeps it
	Known    bool   // the store has answered this replica on this key before
	Seen     int64  // granted, as the replica last knew it; more than the store knows = the owner is right
	Returned int64  // cumulative
	Spent    int64  // cumulative
	Want     int64  // grant up to this much more …
	Need     int64  // … but nothing if less than this is possible
	Limit    int64
	Version  uint64    // of the limit; the newest wins; 0 leaves the limit as it is
	Now      time.Time // the caller's clock
	Expire   time.Time // by that clock, when the account-window may be forgotten; zero = never
	Mode     Mode
	Recall   bool    // if Need is not granted and others have escrow, ask them to return what is idle
	Detail   bool    // answer with Shares
	Others   []Share // the Shares that this replica was last told, to a store that has lost them
}

// State is the store's answer.
type State struct {
	Seq      uint64 // of this replica, the greatest; greater than that of the call = it knew the window before
	Granted  int64  // to this replica, cumulative
	Spent    int64  // by this replica, cumulative
	Settled  int64  // by all replicas
	Escrowed int64  // granted to all replicas, neither spent nor returned
	Limit    int64  // in force
	Version  uint64
	Active   int     // replicas that have escrow, this one included
	Lost     bool    // the store may not know all that it granted: it grants nothing until Owner.Reassert
	Shares   []Share // of all others, if Detail
}

// Take is one replica's report on the bucket of one rate, and its wish. The
// amounts are the time in which so much flows back, in microseconds: what is
// taken moves the bucket's theoretical arrival time ahead (GCRA), by the
// store's clock. All are less than 2^53.
type Take struct {
	Key      Key
	Replica  string
	Seq      uint64 // as in Sync
	Seen     int64  // taken, cumulative, as the replica last knew it; more = debt, taken by its word
	Returned int64  // cumulative; of what flowed back meanwhile nothing is refunded
	Want     int64  // take up to this much …
	Need     int64  // … but nothing if less than this is there
	Capacity int64  // of the bucket
}

// Taken is the store's answer to a Take.
type Taken struct {
	Seq   uint64
	Taken int64         // by this replica, cumulative
	Level int64         // of the bucket, all replicas: microseconds until it is full
	Wait  time.Duration // until Need is there, if it was not taken
}

// Permits is one replica's report on a concurrency limit, and its wish. A permit
// lasts for TTL by the store's clock unless it is asked for again: a gauge has
// no window at whose end it would come back by itself.
type Permits struct {
	Key     Key
	Replica string
	Seq     uint64 // as in Sync
	InUse   int64  // stays this replica's, even beyond Limit
	Want    int64  // in all, at least InUse; nothing beyond what is free
	Limit   int64
	TTL     time.Duration
	Recall  bool // if less than Want is there, ask others to return what is idle
}

// Permitted is the store's answer to a Permits.
type Permitted struct {
	Seq    uint64
	Mine   int64 // in all, at least InUse
	Others int64 // that have not expired
}

// Store is the shared quota state. The invariant at every grant:
// Settled + Escrowed ≤ Limit. Every implementation passes quotatest.Run. Its
// methods are safe for concurrent use. An error means that it is not known
// whether the call took place. An implementation has a deadline of its own:
// callers wait on it with a request in hand.
type Store interface {
	// Sync is atomic per key. In this order:
	//
	//  1. the newest limit version wins;
	//  2. Seq older than the replica's last: a stale duplicate, nothing
	//     changes, the limit included;
	//  3. Seen greater than what the store granted: the store lost a grant, or
	//     the owner overdrew; the owner's word is adopted, and so is that for
	//     Others;
	//  4. what Returned and Spent grew by leaves escrow, the latter is settled; a
	//     replica was granted at least the sum of both;
	//  5. only with a new Seq: Close gives back the whole escrow; Normal grants
	//     min(Want, Limit − Settled − Escrowed) if that is positive and ≥ Need,
	//     and the store has not lost anything.
	//
	// A store that does not know a replica which is Known, and by whose clock
	// Expire has not come, has lost it, and maybe more: it answers that it has
	// Lost, and grants nothing.
	//
	// The answer is cumulative, so a repeat of Seq is answered alike and a lost
	// answer loses nothing.
	//
	// A clock can be set: a store forgets an account-window when Expire has come
	// and Expire − Now of each of its calls has passed since that call, too.
	Sync(ctx context.Context, s Sync) (State, error)

	// Leave gives back, in every account-window, what a replica has in escrow and has
	// not spent. Its process has ended, and what it spent was told with Close; what
	// it sent before may still arrive, and changes nothing. No other call has that
	// replica's name any more: one that lives all the same hears LastSeq as the State's
	// Seq of such an account-window, and its Watch ends with ErrLeft.
	Leave(ctx context.Context, replica string) error

	// Take is atomic per key. A replica that the bucket does not know begins
	// there: what it has Seen and Returned before was forgotten with a bucket
	// that was full. Any interval T admits, over all replicas, at most Capacity
	// and what flows in during T, beside what replicas have in hand.
	Take(ctx context.Context, t Take) (Taken, error)

	// Permit is atomic per key. What the unexpired permits of all others leave of
	// Limit is this replica's to have.
	Permit(ctx context.Context, p Permits) (Permitted, error)

	// Watch tells o what others ask for and what the store has lost, until ctx
	// ends; then it returns nil. It ends with ErrLeft once it hears that Leave was
	// called for replica. It is called once. A store that is unreachable
	// does not end it. replica is counted as alive as long as it runs, and left
	// when it ends. To a store that others may have used before, an empty one is
	// one that has lost everything: the first replica of all waits a few seconds
	// for its first grant.
	Watch(ctx context.Context, replica string, o Owner) error
}

// Owner is a replica that has escrow. Its methods are called by Watch, one at a
// time.
type Owner interface {
	// Recall says that another replica lacks what may be idle here.
	Recall(k Key)

	// Reassert says that the store may have lost what it acknowledged: the owner
	// Syncs, with NoGrants and Others, every account-window that it has touched
	// and for which lost is true, those that it closed included. When all owners
	// have returned nil, or those that have not are taken for gone, the store
	// grants again. No other call on such a key is under way meanwhile: its answer
	// could grant what the store that gave it has lost.
	Reassert(ctx context.Context, lost func(Key) bool) error
}
