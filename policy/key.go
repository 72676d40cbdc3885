package policy

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"regexp"
	"strings"
	"time"
)

// A key's text is ag-<id>-<secret><checksum>. The checksum tells a mistyped or
// truncated key from a wrong one without asking anybody, and secret scanners a
// key from noise.
const (
	keyPrefix   = "ag-"
	idLen       = 12
	secretLen   = 43 // 43 · log2 62 = 256 bits
	checksumLen = 6  // 62⁶ > 2³²

	secretAt   = len(keyPrefix) + idLen + 1
	checksumAt = secretAt + secretLen
	keyLen     = checksumAt + checksumLen

	base62     = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	hashPrefix = "sha256:"
)

var errHash = errors.New("not a hash: want sha256: and 64 hex digits")

// NewKey makes a virtual key from random bytes of rand, which must be a
// cryptographic source. The text is shown once; only the hash is kept.
// An error is rand's.
func NewKey(rand io.Reader) (id, text string, hash [32]byte, err error) {
	var b [keyLen]byte
	copy(b[:], keyPrefix)
	if err := fillBase62(b[len(keyPrefix):secretAt-1], rand); err != nil {
		return "", "", hash, fmt.Errorf("new key: %w", err)
	}
	b[secretAt-1] = '-'
	if err := fillBase62(b[secretAt:checksumAt], rand); err != nil {
		return "", "", hash, fmt.Errorf("new key: %w", err)
	}
	sum := checksum(b[:checksumAt])
	copy(b[checksumAt:], sum[:])
	return string(b[len(keyPrefix) : secretAt-1]), string(b[:]), sha256.Sum256(b[secretAt:checksumAt]), nil
}

// fillBase62 draws each character with equal chance: bytes from 248 = 4 · 62 on
// are thrown away.
func fillBase62(dst []byte, rand io.Reader) error {
	var buf [64]byte
	for n := 0; n < len(dst); {
		if _, err := io.ReadFull(rand, buf[:]); err != nil {
			return err
		}
		for _, r := range buf {
			if r < 248 && n < len(dst) {
				dst[n] = base62[r%62]
				n++
			}
		}
	}
	return nil
}

// checksum is the CRC-32 (IEEE) of all before it, in base 62, highest digit
// first.
func checksum(head []byte) (digits [checksumLen]byte) {
	v := crc32.ChecksumIEEE(head)
	for i := checksumLen - 1; i >= 0; i-- {
		digits[i] = base62[v%62]
		v /= 62
	}
	return digits
}

// ParseKey splits a key's text. It is not ok if the form or the checksum is
// wrong; whether such a key exists is Authenticate's to say.
func ParseKey(text string) (id string, secret []byte, ok bool) {
	i, s, ok := split([]byte(text))
	return string(i), s, ok
}

// split is ParseKey on bytes; its results lie within token.
func split(token []byte) (id, secret []byte, ok bool) {
	if len(token) != keyLen || string(token[:len(keyPrefix)]) != keyPrefix || token[secretAt-1] != '-' {
		return nil, nil, false
	}
	id, secret = token[len(keyPrefix):secretAt-1], token[secretAt:checksumAt]
	if !isBase62(id) || !isBase62(secret) {
		return nil, nil, false
	}
	if sum := checksum(token[:checksumAt]); string(sum[:]) != string(token[checksumAt:]) {
		return nil, nil, false
	}
	return id, secret, true
}

func isBase62[T string | []byte](s T) bool {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// someKey is a key within a text, perhaps cut off or mistyped: one of which a
// quarter of the secret is there.
var someKey = regexp.MustCompile(`\bag-([0-9A-Za-z]{12})-[0-9A-Za-z]{12,}…?`)

// KeyID is the id of a key that is given where an id or a name was asked for. It
// is not ok if text has no key in it. Unlike ParseKey it takes one that is cut off
// or mistyped: it is for who ends keys, and for what must not be shown.
func KeyID(text string) (id string, ok bool) {
	found := someKey.FindStringSubmatch(text)
	if found == nil {
		return "", false
	}
	return found[1], true
}

// IsKeyID says whether text has the form of a key's id.
func IsKeyID(text string) bool { return len(text) == idLen && isBase62(text) }

// Redact leaves of every key in text its id: ag-k7Qm2xT9aB4c-…
func Redact(text string) string { return someKey.ReplaceAllString(text, "ag-$1-…") }

// FormatHash is a secret's hash as configuration spells it: sha256:<64 hex digits>.
func FormatHash(hash [32]byte) string { return hashPrefix + hex.EncodeToString(hash[:]) }

// ParseHash reads what FormatHash wrote.
func ParseHash(text string) (hash [32]byte, err error) {
	digits, ok := strings.CutPrefix(text, hashPrefix)
	if !ok || len(digits) != 2*len(hash) {
		return hash, errHash
	}
	if _, err := hex.Decode(hash[:], []byte(digits)); err != nil {
		return [32]byte{}, errHash
	}
	return hash, nil
}

// key is a KeyEntry with what only Authenticate may see.
type key struct {
	entry   KeyEntry
	secrets []Secret
	revoked time.Time
}

// Authenticate finds the key of a presented token, ag-… and nothing around it.
// Only OK authenticates. With KeyRevoked and KeyExpired the entry is told too,
// so that the refusal can be recorded under its name: the secret was right. Who
// does not have the secret learns nothing but KeyUnknown, and takes the same
// time whether the id exists or not.
func (p *Policy) Authenticate(token []byte, now time.Time) (*KeyEntry, Code) {
	if len(token) == 0 {
		return nil, KeyMissing
	}
	id, secret, ok := split(token)
	if !ok {
		return nil, KeyUnknown
	}
	hash := sha256.Sum256(secret)
	k := p.keys[string(id)]
	if k == nil {
		k = p.nobody
	}
	var matched, live int
	for i := range k.secrets {
		s := &k.secrets[i]
		equal := subtle.ConstantTimeCompare(hash[:], s.Hash[:])
		matched |= equal
		if s.Expires.IsZero() || now.Before(s.Expires) {
			live |= equal
		}
	}
	switch {
	case matched == 0 || k == p.nobody:
		return nil, KeyUnknown
	case !k.revoked.IsZero() && !now.Before(k.revoked):
		return &k.entry, KeyRevoked
	case live == 0:
		return &k.entry, KeyExpired
	default:
		return &k.entry, OK
	}
}
