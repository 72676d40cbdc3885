package policy_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"hash/crc32"
	"io"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"airgate/policy"
)

func TestNewKeyHasTheFormOfTheDesign(t *testing.T) {
	id, text, hash, err := policy.NewKey(bytes.NewReader(bytes.Repeat([]byte{1, 2, 60, 61, 62, 247}, 100)))
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^ag-[0-9A-Za-z]{12}-[0-9A-Za-z]{49}$`).MatchString(text) {
		t.Errorf("NewKey() text = %q, want ag-, 12, -, 49 characters of base 62", text)
	}
	if got := text[3:15]; got != id {
		t.Errorf("NewKey() id = %q, want the text's %q", id, got)
	}
	if want := sha256.Sum256([]byte(text[16:59])); hash != want {
		t.Errorf("NewKey() hash = %x, want the secret's %x", hash, want)
	}
}

// The vectors were computed apart from this package: zlib's CRC-32 of the head,
// written in base 62 with the digits 0-9A-Za-z.
func TestChecksumIsTheHeadsCRC32InBase62(t *testing.T) {
	for name, text := range map[string]string{
		"one":               "ag-000000000000-00000000000000000000000000000000000000000001svd3A",
		"another":           "ag-k7Qm2xT9aB4c-Zz9Zz9Zz9Zz9Zz9Zz9Zz9Zz9Zz9Zz9Zz9Zz9Zz9Zz9a4JJzQL",
		"padded with zeros": "ag-k7Qm2xT9aB4c-000000000000000000000000000000000000000024300YfkC",
	} {
		if _, _, ok := policy.ParseKey(text); !ok {
			t.Errorf("%s: ParseKey(%q) is not ok, want ok", name, text)
		}
	}
}

func TestNewKeyDrawsEveryCharacterWithEqualChance(t *testing.T) {
	// A key's id is drawn from the first 64 bytes and its secret from the next.
	// Each byte value is tried once as the id's first character.
	counts := map[byte]int{}
	for v := range 256 {
		source := make([]byte, 128)
		source[0], source[1] = byte(v), 255 // 255 is never taken
		id, _, _, err := policy.NewKey(bytes.NewReader(source))
		if err != nil {
			t.Fatal(err)
		}
		if v >= 248 {
			if id[0] != '0' {
				t.Errorf("byte %d gave %q, want it thrown away", v, id[0])
			}
			continue
		}
		counts[id[0]]++
	}
	for c, n := range counts {
		if n != 4 {
			t.Errorf("%q is drawn from %d byte values, want 4", c, n)
		}
	}
	if len(counts) != 62 {
		t.Errorf("NewKey drew %d different characters, want 62", len(counts))
	}
}

func TestNewKeyTellsOfABrokenSource(t *testing.T) {
	broken := errors.New("no entropy")
	for name, source := range map[string]io.Reader{
		"at once":       iotest.ErrReader(broken),
		"in the secret": io.MultiReader(bytes.NewReader(make([]byte, 64)), iotest.ErrReader(broken)),
	} {
		if id, text, _, err := policy.NewKey(source); !errors.Is(err, broken) || id != "" || text != "" {
			t.Errorf("%s: NewKey() = %q, %q, %v, want nothing and %v", name, id, text, err, broken)
		}
	}
}

func TestParseKey(t *testing.T) {
	good := makeKey(t, 1, "", "").text
	other := makeKey(t, 2, "", "").text
	id, secret, ok := policy.ParseKey(good)
	if !ok || id != good[3:15] || string(secret) != good[16:59] {
		t.Errorf("ParseKey(good) = %q, %q, %t, want its parts", id, secret, ok)
	}
	flip := func(i int) string {
		b := []byte(good)
		if b[i]++; b[i] == ':' || b[i] == '[' || b[i] == '{' {
			b[i] = 'a'
		}
		return string(b)
	}
	for name, text := range map[string]string{
		"empty":                         "",
		"too short":                     good[:64],
		"too long":                      good + "0",
		"another prefix":                "sk-" + good[3:],
		"no dash":                       good[:15] + "0" + good[16:],
		"a character of the id":         flip(3),
		"a character of the secret":     flip(30),
		"a character of the checksum":   flip(64),
		"another key's checksum":        good[:59] + other[59:],
		"not base 62 in the id":         withSum("ag-k7Qm2xT9aB4_-" + good[16:59]),
		"not base 62 in the secret":     withSum(good[:58] + "+"),
		"upper case where it was lower": strings.ToUpper(good),
	} {
		if _, _, ok := policy.ParseKey(text); ok {
			t.Errorf("%s: ParseKey(%q) is ok, want not", name, text)
		}
	}
}

// withSum puts the right checksum to any head.
func withSum(head string) string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	v, sum := crc32.ChecksumIEEE([]byte(head)), []byte("000000")
	for i := 5; i >= 0; i-- {
		sum[i] = digits[v%62]
		v /= 62
	}
	return head + string(sum)
}

func FuzzParseKey(f *testing.F) {
	f.Add(makeKey(f, 1, "", "").text)
	f.Add("ag-")
	f.Add(strings.Repeat("-", 65))
	f.Fuzz(func(t *testing.T, text string) {
		id, secret, ok := policy.ParseKey(text)
		if ok && withSum("ag-"+id+"-"+string(secret)) != text {
			t.Errorf("ParseKey(%q) = %q, %q, which is another key", text, id, secret)
		}
	})
}

func TestHash(t *testing.T) {
	hash := sha256.Sum256([]byte("x"))
	text := policy.FormatHash(hash)
	if want := "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"; text != want {
		t.Errorf("FormatHash() = %q, want %q", text, want)
	}
	if got, err := policy.ParseHash(text); err != nil || got != hash {
		t.Errorf("ParseHash(%q) = %x, %v, want %x", text, got, err, hash)
	}
	for _, bad := range []string{"", "sha256:", text[7:], text[:70], text + "0", "sha512:" + text[7:], strings.Replace(text, "2d", "zz", 1)} {
		if _, err := policy.ParseHash(bad); err == nil {
			t.Errorf("ParseHash(%q) = no error, want one", bad)
		}
	}
}

func TestAuthenticate(t *testing.T) {
	k := makeKey(t, 1, "prod", "search")
	rotated := makeKey(t, 2, "", "search")
	stranger := makeKey(t, 3, "", "search")
	const hour = time.Hour
	secret := func(m madeKey, expires time.Time) policy.Secret {
		s := m.cfg.Secrets[0]
		s.Expires = expires
		return s
	}
	// The new secret under the old id, as rotation does.
	second := withSum(k.text[:16] + rotated.text[16:59])

	tests := map[string]struct {
		secrets []policy.Secret
		revoked time.Time
		token   string
		want    policy.Code
	}{
		"no token is missing":                       {k.cfg.Secrets, time.Time{}, "", policy.KeyMissing},
		"the right secret is ok":                    {k.cfg.Secrets, time.Time{}, k.text, policy.OK},
		"a wrong form is unknown":                   {k.cfg.Secrets, time.Time{}, "sk-test", policy.KeyUnknown},
		"spaces around it are a wrong form":         {k.cfg.Secrets, time.Time{}, " " + k.text, policy.KeyUnknown},
		"a wrong checksum is unknown":               {k.cfg.Secrets, time.Time{}, k.text[:59] + "000000", policy.KeyUnknown},
		"an unknown id is unknown":                  {k.cfg.Secrets, time.Time{}, stranger.text, policy.KeyUnknown},
		"another secret is unknown":                 {k.cfg.Secrets, time.Time{}, second, policy.KeyUnknown},
		"an expired secret is expired":              {[]policy.Secret{secret(k, now.Add(-hour))}, time.Time{}, k.text, policy.KeyExpired},
		"a secret expires at that instant":          {[]policy.Secret{secret(k, now)}, time.Time{}, k.text, policy.KeyExpired},
		"a secret lives until that instant":         {[]policy.Secret{secret(k, now.Add(1))}, time.Time{}, k.text, policy.OK},
		"revoked in the past is revoked":            {k.cfg.Secrets, now.Add(-hour), k.text, policy.KeyRevoked},
		"revoked at this instant is revoked":        {k.cfg.Secrets, now, k.text, policy.KeyRevoked},
		"revoked in the future is ok":               {k.cfg.Secrets, now.Add(1), k.text, policy.OK},
		"revoked and expired is revoked":            {[]policy.Secret{secret(k, now)}, now, k.text, policy.KeyRevoked},
		"who lacks the secret learns no revocation": {k.cfg.Secrets, now, second, policy.KeyUnknown},
		"who lacks the secret learns no expiry":     {[]policy.Secret{secret(k, now)}, time.Time{}, second, policy.KeyUnknown},
		"rotation: the new secret is ok":            {[]policy.Secret{secret(k, now.Add(hour)), secret(rotated, time.Time{})}, time.Time{}, second, policy.OK},
		"rotation: the old one is ok until it ends": {[]policy.Secret{secret(k, now.Add(hour)), secret(rotated, time.Time{})}, time.Time{}, k.text, policy.OK},
		"rotation: the old one ends alone":          {[]policy.Secret{secret(k, now), secret(rotated, time.Time{})}, time.Time{}, k.text, policy.KeyExpired},
		"the same secret twice lives as the longer": {[]policy.Secret{secret(k, now), secret(k, now.Add(hour))}, time.Time{}, k.text, policy.OK},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := k.cfg
			c.Secrets, c.Revoked = tt.secrets, tt.revoked
			p := compile(t, policy.Config{Teams: []policy.TeamConfig{{Name: "search"}}, Keys: []policy.KeyConfig{c}})
			entry, code := p.Authenticate([]byte(tt.token), now)
			if code != tt.want {
				t.Errorf("Authenticate() = %v, want %v", code, tt.want)
			}
			knows := code == policy.OK || code == policy.KeyRevoked || code == policy.KeyExpired
			if knows != (entry != nil) || knows && entry.ID != c.ID {
				t.Errorf("Authenticate() = %+v with %v, want the entry iff the secret was right", entry, code)
			}
		})
	}
}

// TestKeyInText: of a key that stands where it does not belong nothing but its id
// is shown, however it was pasted.
func TestKeyInText(t *testing.T) {
	key := makeKey(t, 1, "", "")
	id, shown := key.cfg.ID, "ag-"+key.cfg.ID+"-…"
	tests := map[string]struct{ text, id, redacted string }{
		"whole":                 {key.text, id, shown},
		"with what is around":   {"Bearer " + key.text + "\n", id, "Bearer " + shown + "\n"},
		"cut off":               {key.text[:30], id, shown},
		"mistyped":              {key.text[:64] + "-", id, shown + "-"},
		"quoted and cut off":    {`no key "` + key.text[:60] + `…"`, id, `no key "` + shown + `"`},
		"twice":                 {key.text + "," + key.text, id, shown + "," + shown},
		"its id":                {id, "", id},
		"what is shown":         {shown, "", shown},
		"a name of that manner": {"ag-productionxy-staging", "", "ag-productionxy-staging"},
		"nothing":               {"", "", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got, ok := policy.KeyID(tt.text); got != tt.id || ok != (tt.id != "") {
				t.Errorf("KeyID() = %q, %v, want %q", got, ok, tt.id)
			}
			if got := policy.Redact(tt.text); got != tt.redacted {
				t.Errorf("Redact() = %q, want %q", got, tt.redacted)
			}
		})
	}
}

func TestAuthenticateAgainstNoKeys(t *testing.T) {
	p := compile(t, policy.Config{})
	if entry, code := p.Authenticate([]byte(makeKey(t, 1, "", "").text), now); entry != nil || code != policy.KeyUnknown {
		t.Errorf("Authenticate() = %v, %v, want %v", entry, code, policy.KeyUnknown)
	}
}

func TestAuthenticateAllocatesNothing(t *testing.T) {
	c := world(t)
	p := compile(t, c)
	for name, token := range map[string][]byte{
		"known":   []byte(makeKey(t, 1, "", "").text),
		"unknown": []byte(makeKey(t, 9, "", "").text),
		"garbled": []byte("ag-nonsense"),
	} {
		if n := testing.AllocsPerRun(100, func() { p.Authenticate(token, now) }); n != 0 {
			t.Errorf("%s: Authenticate allocates %v times, want 0", name, n)
		}
	}
}

func BenchmarkAuthenticate(b *testing.B) {
	p := compile(b, world(b))
	token := []byte(makeKey(b, 1, "", "").text)
	b.ReportAllocs()
	for b.Loop() {
		if _, code := p.Authenticate(token, now); code != policy.OK {
			b.Fatal(code)
		}
	}
}
