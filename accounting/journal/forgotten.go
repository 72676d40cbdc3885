package journal

import (
	"encoding/binary"
	"slices"

	"airgate/accounting/record"
)

// maxReplicas is how many names of its replica a journal remembers.
const maxReplicas = 64

// forgotten is how many records the earlier writers had that nothing here names:
// their directories are gone, and so is the checkpoint that counted them by name.
// Each start forgets those that the writer before it names and that are gone.
type forgotten struct {
	records     uint64
	first, last string   // their incarnations are from first to last; "" = there are none
	replicas    []string // in order; none = more than can be remembered
}

// add forgets a writer, by the last of its records.
func (f *forgotten) add(h record.Head) {
	if h.Seq > 0 {
		at := incarnation(h.Writer)
		f.join(&forgotten{records: h.Seq, first: at, last: at, replicas: []string{replicaOf(h.Writer)}})
	}
}

// join adds what another one counts, who has adopted others.
func (f *forgotten) join(o *forgotten) {
	switch {
	case o.records == 0:
		return
	case f.records == 0:
		*f = *o
		return
	}
	f.records += o.records
	f.first, f.last = min(f.first, o.first), max(f.last, o.last)
	all := slices.Concat(f.replicas, o.replicas)
	slices.Sort(all)
	all = slices.Compact(all)
	if len(f.replicas) == 0 || len(o.replicas) == 0 || len(all) > maxReplicas {
		all = nil
	}
	f.replicas = all
}

// has reports whether the writer is one of them, if nothing here names it.
func (f *forgotten) has(writer string) bool {
	at := incarnation(writer)
	return f.records > 0 && writerName.MatchString(writer) && f.first <= at && at <= f.last &&
		(len(f.replicas) == 0 || slices.Contains(f.replicas, replicaOf(writer)))
}

// missing is how many of their records are neither stored elsewhere nor named
// there. known is of each writer the last record that is.
func (f *forgotten) missing(known map[string]uint64, named func(writer string) bool) uint64 {
	left := f.records
	for writer, seq := range known {
		if f.has(writer) && !named(writer) {
			left -= min(left, seq)
		}
	}
	return left
}

// appendTo encodes it:
//
//	records | first [20] | last [20] | n, n × (length, replica)
func (f *forgotten) appendTo(b []byte) []byte {
	b = binary.AppendUvarint(b, f.records)
	b = append(append(b, f.first...), f.last...)
	b = binary.AppendUvarint(b, uint64(len(f.replicas)))
	for _, name := range f.replicas {
		b = binary.AppendUvarint(b, uint64(len(name)))
		b = append(b, name...)
	}
	return b
}

// forget is what a writer that has adopted these has forgotten: what they have,
// and whom they name of those that are gone. Of these it keeps none in mind whom
// its own start record names.
func forget(all []history, kept []record.Head) (f forgotten) {
	gone := map[string]record.Head{}
	for i := range all {
		f.join(&all[i].forgotten)
		for _, c := range all[i].covers {
			if !among(all, c.Writer) && c.Seq > gone[c.Writer].Seq {
				gone[c.Writer] = c
			}
		}
	}
	for _, h := range kept {
		delete(gone, h.Writer)
	}
	for _, h := range gone {
		f.add(h)
	}
	return f
}
