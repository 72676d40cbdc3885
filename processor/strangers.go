package processor

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"

	"airgate/accounting/record"
)

// maxStrangers bounds what one second of refused strangers takes; the rest of
// that second is counted under the network "other".
const maxStrangers = 1024

// strangers counts refusals of callers without a valid key by code, source
// network and second.
type strangers struct {
	mu   sync.Mutex
	seen map[strangerKey]int64
}

type strangerKey struct {
	second  int64
	code    Code
	network string
}

func (s *strangers) add(code Code, source string, now time.Time) {
	k := strangerKey{now.Unix(), code, network(source)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.seen[k]; !ok && len(s.seen) >= maxStrangers {
		k.network = "other"
	}
	s.seen[k]++
}

// network is the /24 of an IPv4 source, the /48 of an IPv6 one.
func network(source string) string {
	ap, err := netip.ParseAddrPort(source)
	if err != nil {
		return "unknown"
	}
	addr := ap.Addr().Unmap()
	bits := 48
	if addr.Is4() {
		bits = 24
	}
	p, err := addr.WithZone("").Prefix(bits)
	if err != nil {
		return "unknown"
	}
	return p.String()
}

// Flush appends one denial record for each code, network and second before now
// in which strangers were refused. The caller calls it about once a second and
// once at the end, with a time beyond every refusal.
func (p *Processor) Flush(now time.Time) error {
	p.strangers.mu.Lock()
	var due []strangerKey
	counts := map[strangerKey]int64{}
	for k, n := range p.strangers.seen {
		if k.second < now.Unix() {
			due = append(due, k)
			counts[k] = n
			delete(p.strangers.seen, k)
		}
	}
	p.strangers.mu.Unlock()

	slices.SortFunc(due, func(a, b strangerKey) int {
		return cmp.Or(cmp.Compare(a.second, b.second), cmp.Compare(a.code, b.code), cmp.Compare(a.network, b.network))
	})
	for i, k := range due {
		o := outcomeOf(k.code)
		_, err := p.cfg.Journal.Append(&record.Record{
			Type: record.Deny, Time: time.Unix(k.second, 0).UTC(), Decision: "deny", Code: string(k.code),
			Class: string(o.class), Family: o.class.Family(), Status: o.status, Count: counts[k], Source: k.network,
		})
		if err != nil {
			p.strangers.mu.Lock()
			for _, k := range due[i:] {
				p.strangers.seen[k] += counts[k]
			}
			p.strangers.mu.Unlock()
			return err
		}
	}
	return nil
}
