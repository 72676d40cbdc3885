package journal

import (
	"bytes"
	"maps"

	"airgate/accounting/record"
)

// sums replays the records, writer after writer, and compares what they add up
// to with each checkpoint.
type sums struct {
	fresh   func() State
	state   State
	known   bool                       // the state is that of all the records in counted
	counted map[string]bool            // :: writers whose records the state counts
	within  map[string]map[string]bool // :: writer → those that its own checkpoints count
	writer  string
	next    []checkpoint // not reached yet
}

type checkpoint struct {
	covered uint64
	covers  []record.Head
	state   []byte
}

func newSums(fresh func() State) *sums {
	s := &sums{fresh: fresh, counted: map[string]bool{}, within: map[string]map[string]bool{}}
	if fresh != nil {
		s.state, s.known = fresh(), true
	}
	return s
}

// begin goes on with a writer. Without a checkpoint that says otherwise it
// counts all that were before.
func (s *sums) begin(writer string) {
	s.writer, s.next = writer, nil
	s.within[writer] = maps.Clone(s.counted)
}

// lose forgets the sum: records are missing. The next checkpoint begins anew.
func (s *sums) lose() { s.known, s.next = false, nil }

// checkpoint takes one that the reader has passed.
func (s *sums) checkpoint(covered uint64, payload []byte) error {
	if s.fresh == nil {
		return nil
	}
	c, state, err := parseAdoption(bytes.Clone(payload))
	if err == nil {
		s.next = append(s.next, checkpoint{covered: covered, covers: c.covers, state: state})
	}
	return err
}

// apply adds a record, behind the checkpoints that do not count it.
func (s *sums) apply(w *WriterReport, r *record.Record) {
	if s.fresh == nil {
		return
	}
	s.reach(w, r.Seq-1)
	s.state.Apply(r)
	s.counted[s.writer] = true
}

// end compares what is left as a writer's records end.
func (s *sums) end(w *WriterReport) {
	if s.fresh != nil {
		s.reach(w, w.Last.Seq)
	}
}

// reach compares with the checkpoints that count the records up to seq.
func (s *sums) reach(w *WriterReport, seq uint64) {
	for len(s.next) > 0 && s.next[0].covered <= seq {
		c := s.next[0]
		s.next = s.next[1:]
		if c.covered == seq {
			s.compare(w, c)
		}
	}
}

func (s *sums) compare(w *WriterReport, c checkpoint) {
	if c.covered == 0 { // the writer's first: it says whom it counts
		within := map[string]bool{}
		for _, h := range c.covers {
			if h.Seq == 0 {
				continue // it has no record
			}
			within[h.Writer] = true
			maps.Copy(within, s.within[h.Writer])
		}
		s.known = s.known && maps.Equal(within, s.within[s.writer])
		s.within[s.writer] = within
	}
	if s.known && bytes.Equal(s.state.AppendCheckpoint(nil), c.state) {
		w.Sums++
		return
	}
	if s.known {
		w.problem(&SumError{Writer: w.Writer, Seq: c.covered})
	}
	s.state = s.fresh()
	if err := s.state.RestoreCheckpoint(c.state); err != nil {
		w.problem(&SumError{Writer: w.Writer, Seq: c.covered})
	}
	s.known = true
	s.counted = maps.Clone(s.within[s.writer])
	if c.covered > 0 {
		s.counted[s.writer] = true
	}
}
