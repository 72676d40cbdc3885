package accounting

import (
	"cmp"
	"container/list"
	"math/bits"
	"sync"

	"airgate/accounting/money"
)

const (
	// leastAnswers is how many answers say what is usual.
	leastAnswers = 20
	// decayEvery is after how many answers those that came before count half: what
	// is usual rests on the last few hundred.
	decayEvery = 128
	// maxUsual is of how many pairs of a key and a model that is known: 5 MB.
	maxUsual = 10_000

	// steps is into how many parts each doubling of output is divided. The first
	// outputs have a part each, and 2³¹ tokens are the last.
	steps     = 8
	stepBits  = 3
	parts     = steps * (31 - stepBits + 1)
	oneAnswer = 64 // its weight, so that halves of it count for a while
)

// Usual learns how much output calls of a key to a model have, from the answers of
// this process. It is bounded: of many pairs of key and model it forgets the one that
// nobody asked for the longest. The zero Usual has learned nothing. It is safe for
// concurrent use, and neither method allocates, but for a pair that is new.
type Usual struct {
	mu    sync.Mutex
	max   int // pairs; 0 = maxUsual
	pairs map[pair]*list.Element
	asked list.List // of *outputs, the last that was asked for first
}

type pair struct{ keyID, model string }

// outputs is a histogram of what the answers of one pair had. A part's bounds are an
// eighth apart, so that what it tells is at most that much too high.
type outputs struct {
	pair   pair
	recent int // answers since the last decay
	total  int // of weight
	weight [parts]uint16
	p95    money.Tokens // -1 = too few answers
}

// Observe notes the output of an answer, as its provider told it.
func (u *Usual) Observe(keyID, model string, out money.Tokens) {
	u.mu.Lock()
	defer u.mu.Unlock()
	o := u.find(pair{keyID, model})
	if o == nil {
		o = u.open(pair{keyID, model})
	}
	o.observe(out)
}

// P95 returns what 95 of 100 answers do not pass, the newer ones counting more; ok is
// false where too few were seen to tell.
func (u *Usual) P95(keyID, model string) (out money.Tokens, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	o := u.find(pair{keyID, model})
	if o == nil || o.p95 < 0 {
		return 0, false
	}
	return o.p95, true
}

func (u *Usual) find(p pair) *outputs {
	e := u.pairs[p]
	if e == nil {
		return nil
	}
	u.asked.MoveToFront(e)
	return e.Value.(*outputs) //nolint:forcetypeassert // as open made it
}

// open makes room for a pair, in the place of another if need be.
func (u *Usual) open(p pair) *outputs {
	if u.pairs == nil {
		u.pairs = make(map[pair]*list.Element)
	}
	o := new(outputs)
	if len(u.pairs) == cmp.Or(u.max, maxUsual) {
		o = u.asked.Remove(u.asked.Back()).(*outputs) //nolint:forcetypeassert // as below
		delete(u.pairs, o.pair)
	}
	*o = outputs{pair: p, p95: -1}
	u.pairs[p] = u.asked.PushFront(o)
	return o
}

func (o *outputs) observe(out money.Tokens) {
	if o.recent == decayEvery {
		o.recent, o.total = 0, 0
		for i := range o.weight {
			o.weight[i] /= 2
			o.total += int(o.weight[i])
		}
	}
	o.recent++
	o.total += oneAnswer
	o.weight[partOf(out)] += oneAnswer
	if o.total < leastAnswers*oneAnswer {
		return
	}
	i, above := parts-1, int(o.weight[parts-1])
	for i > 0 && 20*above <= o.total {
		i--
		above += int(o.weight[i])
	}
	o.p95 = mostOf(i)
}

// partOf is the part that out is in.
func partOf(out money.Tokens) int {
	if out < steps {
		return int(max(0, out))
	}
	doubling := bits.Len64(uint64(out)) - 1 // 2^doubling ≤ out
	return min(steps*(doubling-stepBits+1)+int(out>>(doubling-stepBits))-steps, parts-1)
}

// mostOf is the most that part i holds.
func mostOf(i int) money.Tokens {
	if i < steps {
		return money.Tokens(i)
	}
	doubling := i/steps + stepBits - 1
	return money.Tokens(steps+i%steps+1)<<(doubling-stepBits) - 1
}
