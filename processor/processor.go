package processor

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"

	"airgate/accounting"
	"airgate/accounting/journal"
	"airgate/policy/config"
)

// Config configures a Processor. All fields but Registerer are required.
type Config struct {
	// Snapshot is the config in force; a request keeps the one it began with.
	Snapshot func() *config.Snapshot
	Ledger   *accounting.Ledger
	Journal  journal.Writer
	// HashKey keys the hashes of user and session names in records and limits.
	HashKey []byte
	// BodyBytes bounds the request bodies in memory at once; beyond it requests
	// are refused as overloaded.
	BodyBytes  int64
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Processor makes Streams. Safe for concurrent use.
type Processor struct {
	cfg       Config
	bodies    *semaphore.Weighted
	strangers strangers
	repeated  repeated
	metrics   metrics
	usual     accounting.Usual
}

// New checks cfg and returns a Processor.
func New(cfg Config) (*Processor, error) {
	switch {
	case cfg.Snapshot == nil, cfg.Ledger == nil, cfg.Journal == nil, cfg.Log == nil:
		return nil, errors.New("processor: config lacks Snapshot, Ledger, Journal or Log")
	case len(cfg.HashKey) < 16:
		return nil, errors.New("processor: HashKey is shorter than 16 bytes")
	case cfg.BodyBytes <= 0:
		return nil, errors.New("processor: BodyBytes must be positive")
	}
	p := &Processor{cfg: cfg, bodies: semaphore.NewWeighted(cfg.BodyBytes), metrics: newMetrics()}
	p.strangers.seen, p.strangers.rest = map[strangerKey]int64{}, map[Code]int64{}
	p.repeated.seen = map[repeatedKey]*repeats{}
	if cfg.Registerer != nil {
		for _, c := range p.metrics.all() {
			if err := cfg.Registerer.Register(c); err != nil {
				return nil, fmt.Errorf("register metrics: %w", err)
			}
		}
	}
	return p, nil
}

// Begin starts one request's life. The caller must see to it that Close and
// Finish are called, in this order, on every path.
func (p *Processor) Begin(now time.Time) *Stream {
	s := &Stream{p: p, snap: p.cfg.Snapshot(), began: now}
	id, err := uuid.NewV7()
	if err != nil {
		// The kernel's random source cannot fail on supported systems; an id
		// that is not unique would corrupt the book, so nothing is served.
		s.state = broken
		return s
	}
	s.id = id.String()
	return s
}

// Words of callers that are kept under a pseudonym.
const (
	UserWord    = "user"
	SessionWord = "session"
)

// Pseudonym is the keyed hash under which a caller's own word for a user or a
// session is kept, in records and in the accounts of limits; "" stays "".
func Pseudonym(key []byte, kind, word string) string {
	if word == "" {
		return ""
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(kind))
	mac.Write([]byte{0})
	mac.Write([]byte(word))
	return hex.EncodeToString(mac.Sum(nil)[:16])
}
