package journal

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"airgate/accounting/record"
)

// tally is a State that can be compared: a count, and the order seen, per
// writer.
type tally struct {
	n    uint64
	seen map[string]uint64 // :: writer → last seq applied
	err  error             // an order that cannot be
}

func newTally() *tally { return &tally{seen: map[string]uint64{}} }

func (s *tally) Apply(r *record.Record) {
	if want := s.seen[r.Writer] + 1; r.Seq != want && s.err == nil {
		s.err = fmt.Errorf("record %d of %s applied where %d belongs", r.Seq, r.Writer, want)
	}
	s.seen[r.Writer] = r.Seq
	s.n++
}

func (s *tally) AppendCheckpoint(b []byte) []byte {
	b = binary.AppendUvarint(b, s.n)
	for _, w := range slices.Sorted(maps.Keys(s.seen)) {
		b = binary.AppendUvarint(b, uint64(len(w)))
		b = append(b, w...)
		b = binary.AppendUvarint(b, s.seen[w])
	}
	return b
}

func (s *tally) RestoreCheckpoint(b []byte) error {
	number := func() uint64 {
		n, size := binary.Uvarint(b)
		b = b[size:]
		return n
	}
	s.n = number()
	s.seen = map[string]uint64{}
	for len(b) > 0 {
		length := number()
		w := string(b[:length])
		b = b[length:]
		s.seen[w] = number()
	}
	return nil
}

// check says how the tally is not that of records.
func (s *tally) check(heads map[string]uint64) error {
	if s.err != nil {
		return s.err
	}
	var n uint64
	for _, seq := range heads {
		n += seq
	}
	if !maps.Equal(s.seen, heads) || s.n != n {
		return fmt.Errorf("the state counts %d records, %v; the journal has %d, %v", s.n, s.seen, n, heads)
	}
	return nil
}
