package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"airgate/accounting/journal/disk"
	"airgate/accounting/record"
)

// A segment is a header and frames, all little-endian, each padded with zeros
// to a multiple of eight bytes.
//
//	header: magic [8] | version u32 | size u32 | uuid [16] | first seq u64 |
//	        prev [32] | length u32, writer | pad | crc32c u32
//	frame:  len u32 | type u8 | seq u64 | durable u64 | crc32c u32 | payload | pad
//
// The header's sum covers all bytes before it. A frame's covers the segment's
// uuid, len, type, seq, durable and payload: neither zeros nor a block of
// another segment, left over on the disk, ever parse. A length of zero is
// invalid.
//
// The first frame is a checkpoint; its seq is the last record that it covers.
// Header, checkpoint and the frames up to that seq were on disk before the
// segment got its name; what follows grew by appending. A writer that ends, or
// who finds what one has left, closes the last segment with an end frame: its
// seq is that of the last record and its payload the record's sum.
//
// A frame's durable is the newest record that was on disk as the frame was
// written. A power loss can lose any of the bytes that were not synced, in any
// order, and none of the others: so a hole before the newest durable that any
// frame of the segment names is damage, and one behind it, whatever follows,
// is a torn tail, which nobody was promised.
const (
	magic       = "airgate\x00"
	version     = 2
	headerFixed = 8 + 4 + 4 + 16 + 8 + 32 + 4
	frameHeader = 4 + 1 + 8 + 8 + 4
	frameSummed = frameHeader - 4 // bytes of the frame's header that its sum covers
	maxPayload  = 256 << 20

	typeRecord     = 1
	typeCheckpoint = 2
	typeEnd        = 3

	suffix    = ".wal"
	temporary = disk.Temporary
)

//nolint:gochecknoglobals // an immutable table
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func align(n int64) int64 { return (n + 7) &^ 7 }

// header is the head of a segment.
type header struct {
	id     uuid.UUID // version 7: segments of one directory sort by age
	first  uint64    // the first record's seq
	prev   record.Hash
	writer string
	size   int64 // in bytes
}

func (h *header) file() string { return fmt.Sprintf("%020d-%s%s", h.first, h.id, suffix) }

// seed is the sum that every frame's sum starts from.
func (h *header) seed() uint32 { return crc32.Update(0, castagnoli, h.id[:]) }

func (h *header) append(b []byte) []byte {
	start := len(b)
	h.size = align(int64(headerFixed + len(h.writer) + 4))
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint32(b, version)
	b = binary.LittleEndian.AppendUint32(b, uint32(h.size))
	b = append(b, h.id[:]...)
	b = binary.LittleEndian.AppendUint64(b, h.first)
	b = append(b, h.prev[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(h.writer)))
	b = append(b, h.writer...)
	b = append(b, make([]byte, int(h.size)-4-(len(b)-start))...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
}

var errHeader = errors.New("the segment's header is damaged")

func parseHeader(r io.ReaderAt) (header, error) {
	var h header
	b := make([]byte, headerFixed)
	if _, err := r.ReadAt(b, 0); err != nil {
		return h, headerErr(err)
	}
	if string(b[:8]) != magic {
		return h, errHeader
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != version {
		// Flipped, newer or older: the sum cannot tell, so it says both.
		return h, fmt.Errorf("%w, or of another airgate: version %d", errHeader, v)
	}
	h.size = int64(binary.LittleEndian.Uint32(b[12:]))
	name := int64(binary.LittleEndian.Uint32(b[headerFixed-4:]))
	if name > maxName || h.size != align(headerFixed+name+4) {
		return h, errHeader
	}
	b = make([]byte, h.size)
	if _, err := r.ReadAt(b, 0); err != nil {
		return h, headerErr(err)
	}
	if binary.LittleEndian.Uint32(b[h.size-4:]) != crc32.Checksum(b[:h.size-4], castagnoli) {
		return h, errHeader
	}
	copy(h.id[:], b[16:])
	h.first = binary.LittleEndian.Uint64(b[32:])
	copy(h.prev[:], b[40:])
	h.writer = string(b[headerFixed : headerFixed+name])
	return h, nil
}

func headerErr(err error) error {
	if errors.Is(err, io.EOF) {
		return errHeader
	}
	return err
}

// appendFrame appends a frame that is not sealed: only whoever writes it knows
// the segment.
func appendFrame(b []byte, typ byte, seq uint64, payload func([]byte) []byte) []byte {
	start := len(b)
	b = append(b, make([]byte, frameHeader)...)
	b = payload(b)
	return endFrame(b, start, typ, seq)
}

// endFrame completes the frame whose header's room begins at start and whose
// payload is the rest of b.
func endFrame(b []byte, start int, typ byte, seq uint64) []byte {
	length := len(b) - start - frameHeader
	binary.LittleEndian.PutUint32(b[start:], uint32(length))
	b[start+4] = typ
	binary.LittleEndian.PutUint64(b[start+5:], seq)
	for (len(b)-start)%8 != 0 {
		b = append(b, 0)
	}
	return b
}

// seal sets what whole frames say of the moment and the segment they are
// written in.
func seal(frames []byte, seed uint32, durable uint64) {
	for len(frames) > 0 {
		length := int(binary.LittleEndian.Uint32(frames))
		binary.LittleEndian.PutUint64(frames[13:], durable)
		sum := crc32.Update(seed, castagnoli, frames[:frameSummed])
		sum = crc32.Update(sum, castagnoli, frames[frameHeader:frameHeader+length])
		binary.LittleEndian.PutUint32(frames[frameSummed:], sum)
		frames = frames[align(int64(frameHeader+length)):]
	}
}

// frame is one frame as read; the payload is valid until the next read.
type frame struct {
	typ     byte
	seq     uint64
	durable uint64
	payload []byte
	start   int64
	end     int64
}

var (
	errFrame = errors.New("no whole frame")       // torn or damaged: only what follows can tell
	errPad   = errors.New("a frame with padding") // cannot be torn: its sum is right
)

// scanner reads frames in order.
type scanner struct {
	r      io.ReaderAt
	limit  int64 // bytes that may be read
	seed   uint32
	at     int64
	window []byte
	from   int64 // place of the window
}

// bytes returns n bytes at off, nil where the limit does not allow them.
func (s *scanner) bytes(off, n int64) ([]byte, error) {
	if off+n > s.limit {
		return nil, nil
	}
	if off < s.from || off+n > s.from+int64(len(s.window)) {
		want := min(max(n, 256<<10), s.limit-off)
		if int64(cap(s.window)) < want {
			s.window = make([]byte, want)
		}
		s.window, s.from = s.window[:want], off
		if _, err := s.r.ReadAt(s.window, off); err != nil {
			s.window = s.window[:0]
			if errors.Is(err, io.EOF) { // it was cut while we read
				return nil, nil
			}
			return nil, fmt.Errorf("read segment: %w", err)
		}
	}
	return s.window[off-s.from:][:n], nil
}

// frameAt reads the frame at off.
func (s *scanner) frameAt(off int64) (frame, error) {
	f := frame{start: off}
	b, err := s.bytes(off, frameHeader)
	if err != nil {
		return f, err
	}
	if b == nil {
		return f, errFrame
	}
	length := int64(binary.LittleEndian.Uint32(b))
	f.typ, f.seq, f.durable = b[4], binary.LittleEndian.Uint64(b[5:]), binary.LittleEndian.Uint64(b[13:])
	f.end = off + align(frameHeader+length)
	if length == 0 || length > maxPayload || f.typ < typeRecord || f.typ > typeEnd {
		return f, errFrame
	}
	b, err = s.bytes(off, f.end-off)
	if err != nil {
		return f, err
	}
	if b == nil {
		return f, errFrame
	}
	f.payload = b[frameHeader : frameHeader+length]
	sum := crc32.Update(s.seed, castagnoli, b[:frameSummed])
	if crc32.Update(sum, castagnoli, f.payload) != binary.LittleEndian.Uint32(b[frameSummed:]) {
		return f, errFrame
	}
	for _, pad := range b[frameHeader+length:] {
		if pad != 0 {
			return f, errPad
		}
	}
	return f, nil
}

// next reads the frame at the scanner's place and moves behind it. io.EOF
// means that the segment ends here, errFrame that no whole frame follows.
func (s *scanner) next() (frame, error) {
	if s.at == s.limit {
		return frame{}, io.EOF
	}
	f, err := s.frameAt(s.at)
	if err == nil {
		s.at = f.end
	}
	return f, err
}

// durableBehind is the newest record that any whole frame behind the scanner's
// place says was durable; 0 = there is none.
func (s *scanner) durableBehind() (durable uint64, err error) {
	for off := s.at + 8; off+frameHeader <= s.limit; {
		f, err := s.frameAt(off)
		switch {
		case err == nil || errors.Is(err, errPad):
			durable = max(durable, f.durable)
			off = f.end
		case errors.Is(err, errFrame):
			off += 8
		default:
			return 0, err
		}
	}
	return durable, nil
}

// segment is an open segment file.
type segment struct {
	header
	disk.File

	name string // path

	syncing chan struct{} // holds one while a sync runs: they come one at a time
	bad     error         // of the first sync that failed: the kernel tells it once
}

func newSegment(h header, f disk.File, name string) *segment {
	return &segment{header: h, File: f, name: name, syncing: make(chan struct{}, 1)}
}

// Sync makes durable what was written. After an error it returns that for ever:
// who appends and who keeps sync the same file, and the kernel tells only one of
// them.
func (s *segment) Sync() error {
	s.syncing <- struct{}{}
	defer func() { <-s.syncing }()
	if s.bad == nil {
		s.bad = s.File.Sync()
	}
	return s.bad
}

func openSegment(d disk.Disk, name string) (*segment, error) {
	f, err := d.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open segment: %w", err)
	}
	s := newSegment(header{}, f, name)
	if s.header, err = parseHeader(f); err != nil {
		return nil, errors.Join(&CorruptError{Segment: name, Err: err}, f.Close())
	}
	if s.file() != filepath.Base(name) {
		return nil, errors.Join(&CorruptError{Segment: name, Err: errors.New("the segment's name is not its own")}, f.Close())
	}
	return s, nil
}

// scan reads the frames up to the file's present end.
func (s *segment) scan() (*scanner, error) {
	size, err := s.Size()
	if err != nil {
		return nil, fmt.Errorf("size of segment: %w", err)
	}
	return &scanner{r: s.File, limit: size, seed: s.seed(), at: s.size}, nil
}

// segments lists a writer's segments, oldest first. There are none where there
// is no directory: it was deleted.
func segments(d disk.Disk, dir string) ([]string, error) {
	all, err := d.List(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list segments: %w", err)
	}
	var names []string
	for _, name := range all {
		if strings.HasSuffix(name, suffix) && len(name) == 20+1+36+len(suffix) {
			names = append(names, name)
		}
	}
	return names, nil // List sorts
}

// firstOf is the first sequence number that a segment's name promises.
func firstOf(name string) (first uint64) {
	_, _ = fmt.Sscanf(name, "%020d-", &first) // a strange name is found out by its header
	return first
}
