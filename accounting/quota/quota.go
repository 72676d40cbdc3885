// Package quota is the contract of the shared quota state: how much of each
// account-window is escrowed to which replica, and how much is spent.
//
// Safety never depends on a clock: a grant is spent or returned by its owner,
// or stays set aside. All fields of a call are cumulative per replica
// incarnation, so a repeated or reordered call changes nothing.
package quota

import (
	"context"
	"time"
)

// Key names one account-window. Values of both parts are canonical text made
// by package accounting; a store never parses them.
type Key struct {
	Account string // resource + match + each + window kind + zone, with the values of each
	Window  string // "2026-11", "2026-11-03", "total"
}

// Mode says what a Sync may do besides reporting.
type Mode uint8

// The modes.
const (
	Normal   Mode = iota // report, and grant if Want > 0
	Close                // report, and give back everything that is not spent
	NoGrants             // report only
)

// Sync is one replica's report on one account-window and its wish. Amounts
// are in the account's own unit (nano-USD for money) and less than 2^53 in
// any store that counts in doubles.
type Sync struct {
	Key      Key
	Replica  string // replica.incarnation
	Seq      uint64 // ≥ 1, grows with every new call of this replica on this key; a repeat keeps it
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
}

// Store is the shared quota state. The invariant at every grant:
// Settled + Escrowed ≤ Limit. Every implementation passes quotatest.Run.
type Store interface {
	// Sync is atomic per key and safe for concurrent use. In this order:
	//
	//  1. the newest limit version wins;
	//  2. Seq older than the replica's last: a stale duplicate, nothing
	//     changes, the limit included;
	//  3. Seen greater than what the store granted: the store lost a grant, or
	//     the owner overdrew; the owner's word is adopted;
	//  4. what Returned and Spent grew by leaves escrow, the latter is settled;
	//  5. only with a new Seq: Close gives back the whole escrow; Normal grants
	//     min(Want, Limit − Settled − Escrowed) if that is positive and ≥ Need.
	//
	// A clock can be set: a store forgets an account-window when Expire has come
	// and Expire − Now of each of its calls has passed since that call, too.
	//
	// The answer is cumulative, so a repeat of Seq is answered alike and a lost
	// answer loses nothing. An error means that it is not known whether the
	// call took place. An implementation has a deadline of its own: callers
	// wait on it with a request in hand.
	Sync(ctx context.Context, s Sync) (State, error)
}
