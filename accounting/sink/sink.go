// Package sink is the contract of the places the book is shipped to.
//
// Delivery is at least once; a sink makes it exactly once with a unique key on
// (writer, seq) in the same atomic write as the data.
package sink

import (
	"context"
	"errors"

	"airgate/accounting/record"
)

// ErrGap means that a batch does not follow from the writer's head: a number is
// missing, or the chain of hashes is broken. Nothing of the batch is stored.
var ErrGap = errors.New("the batch does not follow from what is stored")

// Gap is records of a writer, from First to Last.
type Gap struct {
	Writer      string
	First, Last uint64
}

// Sink stores records. One goroutine calls Write. Every implementation passes
// sinktest.Run.
type Sink interface {
	// Write stores the batch, which is in sequence order of one writer, in one
	// atomic step, ignoring records it has already. The head it returns by
	// Head moves with it. What follows from no stored record is ErrGap; a
	// writer's first batch may begin at any number.
	//
	// A record that the sink would refuse for ever, because of what it is, is
	// parked: set aside whole, with the reason, in the same step, and the head
	// moves over it. An error is for what may end, such as a full disk: then
	// nothing is stored, and the same batch is good for another try.
	Write(ctx context.Context, batch []record.Record) error
	// Head is the last record of the writer stored here: where to resume, and
	// what anchors the chain. The zero Head means none.
	Head(ctx context.Context, writer string) (record.Head, error)
	// Parked is how many records are parked here, of all writers. It is cheap,
	// and safe for concurrent use.
	Parked() int64
	// Gaps are the records that there were and that are not stored: those before a
	// writer's first, and those behind its last up to the one that a start record
	// here names, or one of the heads that are given (by writer and number). They
	// are in the order of the writers' names.
	Gaps(ctx context.Context, heads []record.Head) ([]Gap, error)
	// Known tells of each writer that has a record stored here, or that a start
	// record here names, the number of the last one stored or named.
	Known(ctx context.Context) (map[string]uint64, error)
	// Close releases the sink.
	Close() error
}
