package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"airgate/accounting/journal/disk"
	"airgate/accounting/record"
)

// Replay makes cfg.State what Open would make it of Dir and Book. It takes no
// lock and changes nothing: beside a running process it counts what is written
// so far. Its errors are Open's.
func Replay(ctx context.Context, cfg Config) error {
	if err := replay(ctx, cfg.withDefaults()); err != nil {
		if damaged, ok := errors.AsType[*CorruptError](err); ok {
			damaged.ends = true
		}
		return prefixed("replay journal", err)
	}
	return nil
}

func replay(ctx context.Context, cfg Config) error {
	// Before the journal is read: it may grow meanwhile, the book's heads must not.
	book, err := openSecond(ctx, &cfg)
	if err != nil {
		return err
	}
	names, err := writers(cfg.Disk, cfg.Dir)
	if err != nil {
		return err
	}
	var all []history
	heads := map[string]record.Head{}
	for _, name := range slices.Backward(names) {
		var h history
		if head, counted := heads[name]; counted {
			h, err = shelved(cfg.Disk, filepath.Join(cfg.Dir, name), head)
		} else {
			var w *walk
			if h, w, err = survey(cfg.Disk, filepath.Join(cfg.Dir, name), name); w != nil {
				err = w.Close()
			}
		}
		if err != nil {
			return err
		}
		if h.oldest > 0 {
			all = append(all, h)
		}
		for _, c := range h.covers {
			heads[c.Writer] = c
		}
	}
	slices.Reverse(all)
	if err := restore(cfg.Disk, all, cfg.State); err != nil {
		return err
	}
	_, err = book.restore(ctx, &cfg, all)
	return err
}

// restore makes the State what all adopted records add up to, and those that
// only the book has, which are then as good as adopted.
func (j *Journal) restore(ctx context.Context) error {
	if j.cfg.State != nil {
		if err := restore(j.disk, j.adopted, j.cfg.State); err != nil {
			return j.quarantine(err)
		}
	}
	book, err := openSecond(ctx, &j.cfg)
	if err != nil {
		return err
	}
	gaps, err := book.restore(ctx, &j.cfg, j.adopted)
	if err != nil {
		return err
	}
	j.partial = len(gaps) > 0
	for i := range j.adopted {
		h := &j.adopted[i]
		if n := slices.IndexFunc(gaps, func(g gap) bool { return g.head.Writer == h.head.Writer }); n >= 0 {
			h.head = gaps[n].head
			gaps = slices.Delete(gaps, n, n+1)
		}
		for _, c := range h.covers {
			if among(j.adopted, c.Writer) {
				continue
			}
			j.partial = true
			if h.head.Seq == 0 { // it has no start record that names whom it counts: ours does
				j.covers = append(j.covers, c)
			}
		}
		j.covers = append(j.covers, h.head)
		j.partial = j.partial || h.partial || h.oldest > 1
		h.state = nil // it can be large
	}
	for _, g := range gaps {
		j.covers = append(j.covers, g.head)
	}
	j.forgotten = forget(j.adopted, j.covers)
	return nil
}

// restore makes s what the records of all, oldest first, add up to, each
// counted once: one writer's checkpoint, which counts its own records and those
// of the writers that it had adopted, and every record beyond it.
func restore(d disk.Disk, all []history, s State) error {
	if len(all) == 0 {
		return nil
	}
	base := baseOf(all)
	if base == nil {
		return errors.New("two earlier writers each count records that are no longer there, and neither counts the other's: their balances cannot be joined")
	}
	if err := s.RestoreCheckpoint(base.state); err != nil {
		return fmt.Errorf("restore the checkpoint of %s: %w", base.last, err)
	}
	for i := range all {
		h := &all[i]
		from := uint64(0)
		if h == base {
			from = h.covered
		} else if c := base.counts(h.head.Writer); c != nil {
			from = c.Seq
		}
		if err := h.replay(d, from, s); err != nil {
			return err
		}
	}
	return nil
}

// baseOf is the newest writer whose checkpoint, with the records that are
// there, gives all. Where writers follow one another that is the newest. Of
// those that ran side by side, one may count what only it has: records that
// were deleted.
func baseOf(all []history) *history {
	for i := range slices.Backward(all) {
		if b := &all[i]; !b.counted && b.suffices(all) {
			return b
		}
	}
	return nil
}

func (h *history) suffices(all []history) bool {
	for i := range all {
		o := &all[i]
		if o == h {
			continue
		}
		if h.counts(o.head.Writer) == nil && (o.partial || o.oldest > 1) {
			return false
		}
		for _, c := range o.covers {
			if !among(all, c.Writer) && h.counts(c.Writer) == nil {
				return false
			}
		}
	}
	return true
}

func among(all []history, writer string) bool {
	return slices.ContainsFunc(all, func(h history) bool { return h.head.Writer == writer })
}

// counts returns the end of the writer as the checkpoint counts it, or nil.
func (h *history) counts(writer string) *record.Head {
	i := slices.IndexFunc(h.covers, func(c record.Head) bool { return c.Writer == writer })
	if i < 0 {
		return nil
	}
	return &h.covers[i]
}

// replay applies the writer's records behind from.
func (h *history) replay(d disk.Disk, from uint64, s State) error {
	if from >= h.head.Seq {
		return nil
	}
	r := newReader(d, h.dir, h.head.Writer, from+1)
	for r.next <= h.head.Seq {
		rec, err := r.record()
		if err != nil {
			return errors.Join(fmt.Errorf("replay: %w", unexpected(err)), r.close())
		}
		s.Apply(&rec)
	}
	return r.close()
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// adoption is whom a checkpoint's own writer has adopted, and whose records it so
// counts.
type adoption struct {
	covers    []record.Head
	partial   bool      // some of what they counted was deleted before they were adopted
	forgotten forgotten // earlier ones that are gone, without their names
}

// Bits of the first byte of a checkpoint's payload.
const (
	bitPartial = 1 << iota
	bitForgotten
)

// appendTo begins a checkpoint's payload; the State follows.
//
//	bits u8 | n, n × (length, writer, seq, hash [32]) | forgotten | state
//
// Numbers are varints. Without its bit nothing is forgotten.
func (c *adoption) appendTo(b []byte) []byte {
	var bits byte
	if c.partial {
		bits |= bitPartial
	}
	if c.forgotten.records > 0 {
		bits |= bitForgotten
	}
	b = append(b, bits)
	b = binary.AppendUvarint(b, uint64(len(c.covers)))
	for _, h := range c.covers {
		b = binary.AppendUvarint(b, uint64(len(h.Writer)))
		b = append(b, h.Writer...)
		b = binary.AppendUvarint(b, h.Seq)
		b = append(b, h.Hash[:]...)
	}
	if c.forgotten.records > 0 {
		b = c.forgotten.appendTo(b)
	}
	return b
}

var errCheckpoint = errors.New("the checkpoint cannot be read")

// parseAdoption returns the adoption and the State behind it.
func parseAdoption(b []byte) (c adoption, state []byte, err error) {
	if len(b) == 0 || b[0]&^(bitPartial|bitForgotten) != 0 {
		return c, nil, errCheckpoint
	}
	r := fields{rest: b[1:]}
	c.partial = b[0]&bitPartial != 0
	for n := r.number(); n > 0 && !r.bad; n-- {
		h := record.Head{Writer: r.name(), Seq: r.number()}
		copy(h.Hash[:], r.bytes(uint64(len(h.Hash))))
		c.covers = append(c.covers, h)
	}
	if b[0]&bitForgotten != 0 {
		f := forgotten{records: r.number(), first: string(r.bytes(incarnationDigits)), last: string(r.bytes(incarnationDigits))}
		for n := r.number(); n > 0 && !r.bad; n-- {
			f.replicas = append(f.replicas, r.name())
		}
		c.forgotten = f
	}
	if r.bad {
		return adoption{}, nil, errCheckpoint
	}
	return c, r.rest, nil
}

// fields reads a checkpoint's fields; after one that is not there it is bad.
type fields struct {
	rest []byte
	bad  bool
}

func (r *fields) number() uint64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 {
		r.rest, r.bad = nil, true
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *fields) bytes(n uint64) (b []byte) {
	if n > uint64(len(r.rest)) {
		r.rest, r.bad = nil, true
		return nil
	}
	b, r.rest = r.rest[:n], r.rest[n:]
	return b
}

func (r *fields) name() string {
	n := r.number()
	r.bad = r.bad || n > maxName
	return string(r.bytes(min(n, maxName)))
}
