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

// Sink stores records. One goroutine calls Write. Every implementation passes
// sinktest.Run.
type Sink interface {
	// Write stores the batch, which is in sequence order of one writer, in one
	// atomic step, ignoring records it has already. The head it returns by
	// Head moves with it. What follows from no stored record is ErrGap; a
	// writer's first batch may begin at any number.
	Write(ctx context.Context, batch []record.Record) error
	// Head is the last record of the writer stored here: where to resume, and
	// what anchors the chain. The zero Head means none.
	Head(ctx context.Context, writer string) (record.Head, error)
	// Close releases the sink.
	Close() error
}
