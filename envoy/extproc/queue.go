package extproc

import (
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc/mem"
)

var (
	errOverflow = errors.New("more messages wait than may be held in memory")
	errIdle     = errors.New("no message came for too long")
)

// frame is one message that waits to be taken.
type frame struct {
	data     mem.Buffer
	received time.Time
}

// frameCost is what a waiting message costs besides its bytes, so that empty
// ones are bounded too.
const frameCost = 256

// queue holds what arrived on one stream and was not yet taken: one goroutine
// fills it, one empties it. It exists because grpc-go may drop what is unread
// once Envoy has reset the stream.
type queue struct {
	limit int           // bytes
	ready chan struct{} // one token: something has changed

	mu     sync.Mutex
	frames []frame
	head   int // frames[:head] are taken
	size   int
	err    error // why nothing more will come; errOverflow also drops what waits
	closed bool  // nobody takes any more
}

func newQueue(limit int) *queue {
	return &queue{limit: limit, ready: make(chan struct{}, 1)}
}

// push adds a message and reports whether more are wanted.
func (q *queue) push(f frame) bool {
	q.mu.Lock()
	switch cost := f.data.Len() + frameCost; {
	case q.closed:
		f.data.Free()
	case q.size+cost > q.limit:
		f.data.Free()
		q.dropLocked()
		q.closed, q.err = true, errOverflow
	default:
		q.size += cost
		if q.head > 0 && len(q.frames) == cap(q.frames) {
			n := copy(q.frames, q.frames[q.head:])
			clear(q.frames[n:])
			q.frames, q.head = q.frames[:n], 0
		}
		q.frames = append(q.frames, f)
	}
	more := !q.closed
	q.mu.Unlock()
	q.signal()
	return more
}

// end says why nothing more will come; what waits can still be taken.
func (q *queue) end(err error) {
	q.mu.Lock()
	if q.err == nil {
		q.err = err
	}
	q.mu.Unlock()
	q.signal()
}

// close drops what waits and what may still come.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.dropLocked()
	q.mu.Unlock()
}

func (q *queue) dropLocked() {
	for _, f := range q.frames[q.head:] {
		f.data.Free()
	}
	q.frames, q.head, q.size = nil, 0, 0
}

func (q *queue) signal() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// pop waits for the next message. When there is none it returns why, or errIdle
// after the timer has fired.
func (q *queue) pop(timer *time.Timer, idle time.Duration) (frame, error) {
	waiting := false
	for {
		f, ok, err := q.take()
		if ok || err != nil {
			return f, err
		}
		if !waiting {
			timer.Reset(idle)
			waiting = true
		}
		select {
		case <-q.ready:
		case <-timer.C:
			return frame{}, errIdle
		}
	}
}

func (q *queue) take() (f frame, ok bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.head == len(q.frames) {
		return frame{}, false, q.err
	}
	f = q.frames[q.head]
	q.frames[q.head] = frame{}
	q.head++
	q.size -= f.data.Len() + frameCost
	if q.head == len(q.frames) {
		q.frames, q.head = q.frames[:0], 0
	}
	return f, true, nil
}
