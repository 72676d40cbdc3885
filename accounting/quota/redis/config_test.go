package redis

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	goredis "github.com/redis/go-redis/v9"

	"airgate/accounting/quota"
	"airgate/accounting/quota/redis/redistest"
)

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// logged is what a Store has logged.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), text)
}

func (l *logged) logger(t *testing.T) *slog.Logger {
	t.Helper()
	return slog.New(slog.NewTextHandler(io.MultiWriter(l, t.Output()), nil))
}

func TestParseURL(t *testing.T) {
	for text, want := range map[string]address{
		"redis://localhost":                       {hosts: []string{"localhost:6379"}},
		"redis://10.0.0.1:7000/3":                 {hosts: []string{"10.0.0.1:7000"}, database: 3},
		"rediss://[::1]":                          {tls: true, hosts: []string{"[::1]:6379"}},
		"redis+sentinel://a,b:1/main":             {kind: sentinel, hosts: []string{"a:26379", "b:1"}, master: "main"},
		"redis://10.0.0.1:6379/":                  {hosts: []string{"10.0.0.1:6379"}},
		"rediss+sentinel://a/main?db=2":           {kind: sentinel, tls: true, hosts: []string{"a:26379"}, master: "main", database: 2},
		"redis+cluster://a:7000,b,[fe80::1]:7000": {kind: cluster, hosts: []string{"a:7000", "b:6379", "[fe80::1]:7000"}},
		"rediss+cluster://redis.internal":         {kind: cluster, tls: true, hosts: []string{"redis.internal:6379"}},
		"redis+cluster://a/":                      {kind: cluster, hosts: []string{"a:6379"}},
	} {
		got, err := parseURL(text)
		if err != nil || !cmp.Equal(*got, want, cmp.AllowUnexported(address{})) {
			t.Errorf("parseURL(%q) = %+v, %v; want %+v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"":                             "it does not begin with redis://, rediss://, redis+sentinel:// or redis+cluster://",
		"localhost:6379":               "it does not begin with redis://, rediss://, redis+sentinel:// or redis+cluster://",
		"http://localhost":             `unknown scheme "http": redis, rediss, redis+sentinel, rediss+sentinel, redis+cluster or rediss+cluster`,
		"redis+":                       "it does not begin with redis://, rediss://, redis+sentinel:// or redis+cluster://",
		"redis+://a":                   `unknown scheme "redis+": redis, rediss, redis+sentinel, rediss+sentinel, redis+cluster or rediss+cluster`,
		"redis+unix://a":               `unknown scheme "redis+unix": redis, rediss, redis+sentinel, rediss+sentinel, redis+cluster or rediss+cluster`,
		"redis://":                     "a host is missing",
		"redis://:6379":                "a host is missing",
		"redis://a:port":               `host "a:port": "port" is not a port`,
		"redis://a:0":                  `host "a:0": "0" is not a port`,
		"redis://fe80::1":              `host "fe80::1": an IPv6 address goes into brackets`,
		"redis://a/one":                `"one" is not the number of a database`,
		"redis://a?db=1":               `unknown option "db=1"`,
		"redis://a,b":                  "several hosts: with Sentinel the scheme is redis+sentinel, with a Cluster redis+cluster",
		"redis://airgate@a":            "there is a user or a password in it: they are named beside it, the password by its file",
		"redis://u:geheim@a":           "there is a user or a password in it: they are named beside it, the password by its file",
		"redis://:geheim@a":            "there is a user or a password in it: they are named beside it, the password by its file",
		"redis+cluster://u:ge/he@im@a": "there is a user or a password in it: they are named beside it, the password by its file",
		"redis+sentinel://a":           "what Sentinel calls the master is missing: redis+sentinel://host,host/master",
		"redis+sentinel://a/main/1":    "what Sentinel calls the master is missing: redis+sentinel://host,host/master",
		"redis+sentinel://a/m?tls=on":  `unknown option "tls=on": only db=number is known`,
		"redis+cluster://a/1":          `a Cluster has no database "1"`,
		"redis+cluster://a,":           "a host is missing",
	} {
		if got, err := parseURL(text); err == nil || err.Error() != want {
			t.Errorf("parseURL(%q) = %+v, %v; want error %s", text, got, err, want)
		}
	}
}

// TestNew: what a store is refused for, in words that say what to do and tell no
// secret.
func TestNew(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, redistest.Redis(t), "--requirepass", "geheim")
	password := file(t, "geheim\r\n")
	evicting := redistest.Start(t, redistest.Valkey(t), "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
	for name, c := range map[string]struct {
		config      Config
		want        string
		unavailable bool
	}{
		"url":               {Config{URL: "redis://u:geheim@a"}, "url: there is a user or a password in it", false},
		"no server":         {Config{URL: "redis://127.0.0.1:1"}, "redis://127.0.0.1:1: quota store unavailable: dial tcp 127.0.0.1:1: connect: connection refused", true},
		"no password":       {Config{URL: s.URL()}, "NOAUTH", true},
		"wrong password":    {Config{URL: s.URL(), PasswordFile: file(t, "geheimer")}, "WRONGPASS", true},
		"a second line":     {Config{URL: s.URL(), PasswordFile: file(t, "geheim\n\n")}, "WRONGPASS", true},
		"wrong user":        {Config{URL: s.URL(), Username: "nobody", PasswordFile: password}, "WRONGPASS", true},
		"no password file":  {Config{URL: s.URL(), PasswordFile: "/nowhere/at/all"}, "passwordFile cannot be read: open /nowhere/at/all: no such file or directory", false},
		"empty password":    {Config{URL: s.URL(), PasswordFile: file(t, "\n")}, " is empty", false},
		"sentinel password": {Config{URL: s.URL(), PasswordFile: password, SentinelPasswordFile: password}, "the url is not redis+sentinel://", false},
		"CA without TLS":    {Config{URL: s.URL(), PasswordFile: password, CAFile: password}, "the url is not rediss://", false},
		"CA":                {Config{URL: strings.Replace(s.URL(), "redis", "rediss", 1), PasswordFile: password, CAFile: password}, "has no certificate in PEM", false},
		"eviction":          {Config{URL: evicting.URL()}, "maxmemory-policy is allkeys-lru: a key that is evicted is a budget that begins anew; set it to noeviction", false},
	} {
		log := &logged{}
		c.config.Log = log.logger(t)
		got, err := New(t.Context(), c.config)
		if err == nil {
			t.Errorf("%s: New = %v, want error %s", name, errors.Join(got.Close()), c.want)
			continue
		}
		if !strings.Contains(err.Error(), c.want) || errors.Is(err, quota.ErrUnavailable) != c.unavailable {
			t.Errorf("%s: New = error %v, want %s, unavailable = %v", name, err, c.want, c.unavailable)
		}
		if strings.Contains(err.Error(), "geheim") || log.has("geheim") {
			t.Errorf("%s: the password is told: %v", name, err)
		}
	}
	st, err := New(t.Context(), Config{URL: s.URL(), PasswordFile: password})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Client().Ping(t.Context()).Err(); err != nil {
		t.Errorf("Ping by the client = error %v", err)
	}
	if err := st.Close(); err != nil {
		t.Error(err)
	}
	if err := st.Client().Ping(t.Context()).Err(); !errors.Is(err, goredis.ErrClosed) {
		t.Errorf("Ping by the client of a closed store = error %v, want %v", err, goredis.ErrClosed)
	}
}

// TestAdvice: an error of New says which field, or what server, is wrong, and tells
// no secret.
func TestAdvice(t *testing.T) {
	t.Parallel()
	open, closed := redistest.Start(t, redistest.Redis(t)), redistest.Start(t, redistest.Valkey(t))
	closed.Do(t, "ACL", "SETUSER", "reader", "on", ">geheim", "~*", "&*", "+@read", "-ping")
	closed.Do(t, "ACL", "SETUSER", "default", "resetpass", ">geheim") // as requirepass does
	lonely := redistest.Start(t, redistest.Redis(t), "--replica-serve-stale-data", "no")
	lonely.Do(t, "REPLICAOF", "127.0.0.1", "1")
	replicated := redistest.Start(t, redistest.Redis(t))
	redistest.Replica(t, replicated)
	watching, guarded := redistest.Sentinel(t, replicated), redistest.Sentinel(t, replicated)
	guarded.Do(t, "ACL", "SETUSER", "default", "resetpass", ">geheim")
	ours, theirs := redistest.NewAuthority(t), redistest.NewAuthority(t)
	signed := ours.Server(t, "127.0.0.1")
	demanding := signed.Clone()
	demanding.ClientAuth = tls.RequireAnyClientCert
	behindTLS := redistest.NewTLSProxy(t, open.Addr, signed).Addr
	password, wrong := file(t, "geheim"), file(t, "geheimer")
	for name, c := range map[string]struct {
		config Config
		want   string // how the error ends
	}{
		"nobody there":              {Config{URL: "redis://127.0.0.1:1/7"}, "redis://127.0.0.1:1/7: quota store unavailable: dial tcp 127.0.0.1:1: connect: connection refused: the server is not reached: is it running, and does the url say where?"},
		"nobody there for TLS":      {Config{URL: "rediss://127.0.0.1:1"}, "connection refused: the server is not reached: is it running, and does the url say where?"},
		"no such host":              {Config{URL: "redis://nowhere.invalid:6379"}, "the server is not reached: is it running, and does the url say where?"},
		"no password":               {Config{URL: closed.URL()}, "the server asks for a password: passwordFile names the file that holds it"},
		"wrong password":            {Config{URL: closed.URL(), PasswordFile: wrong}, "the server does not take the password in passwordFile for this username (none is the default user)"},
		"wrong user":                {Config{URL: closed.URL(), Username: "nobody", PasswordFile: password}, "the server does not take the password in passwordFile for this username (none is the default user)"},
		"a user without a password": {Config{URL: closed.URL(), Username: "reader"}, "the server does not take the password in passwordFile for this username (none is the default user)"},
		"no rights":                 {Config{URL: closed.URL(), Username: "reader", PasswordFile: password}, "the user that username names may not do what airgate needs: every command, on keys and channels that begin with airgate:"},
		"no Cluster":                {Config{URL: "redis+cluster://" + open.Addr}, "the server is no node of a Cluster: then the url begins with redis://"},

		"it says it": {Config{URL: lonely.URL()}, "replica-serve-stale-data is set to 'no'."},

		"another name":              {Config{URL: "redis+sentinel://" + watching.Addr + "/mian?db=3"}, "no Sentinel that answers knows a master mian: the url ends with the name that sentinel monitor gives it"},
		"another name, one is down": {Config{URL: "redis+sentinel://127.0.0.1:1," + watching.Addr + "/mian"}, "no Sentinel that answers knows a master mian: the url ends with the name that sentinel monitor gives it"},
		"no Sentinel":               {Config{URL: "redis+sentinel://127.0.0.1:1/main"}, "connection refused: the Sentinel is not reached: is it running, and does the url say where?"},
		"no Sentinel's password":    {Config{URL: "redis+sentinel://" + guarded.Addr + "/main"}, "the Sentinel asks for a password: sentinelPasswordFile names the file that holds it"},
		"wrong Sentinel's password": {Config{URL: "redis+sentinel://" + guarded.Addr + "/main", SentinelPasswordFile: wrong}, "the Sentinel does not take the password in sentinelPasswordFile: it is not that of the server"},
		"a Sentinel without TLS":    {Config{URL: "rediss+sentinel://" + watching.Addr + "/main"}, "the Sentinel does not answer the TLS handshake: is it a TLS port? Without TLS the url begins with redis+sentinel://"},

		"a server without TLS": {Config{URL: "rediss://" + open.Addr}, "the server does not answer the TLS handshake: is it a TLS port? Without TLS the url begins with redis://"},
		"a server with TLS":    {Config{URL: "redis://" + behindTLS}, "the server does not answer in its protocol: does it hang, or is it a TLS port? With TLS the url begins with rediss://"},
		"signed by nobody":     {Config{URL: "rediss://" + behindTLS}, "the server's certificate is not trusted: caFile names the certificate of who signed it (the system's authorities without it), and it is for the host that is asked"},
		"signed by another":    {Config{URL: "rediss://" + behindTLS, CAFile: theirs.File}, "the server's certificate is not trusted: caFile names the certificate of who signed it (the system's authorities without it), and it is for the host that is asked"},
		"for another host":     {Config{URL: "rediss://" + strings.Replace(behindTLS, "127.0.0.1", "localhost", 1), CAFile: ours.File}, "the server's certificate is not trusted: caFile names the certificate of who signed it (the system's authorities without it), and it is for the host that is asked"},
		"wants a certificate":  {Config{URL: "rediss://" + redistest.NewTLSProxy(t, open.Addr, demanding).Addr, CAFile: ours.File}, "the server refuses airgate's TLS: 1.2 or 1.3, without a certificate of its own"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st, err := New(t.Context(), c.config)
			if err == nil {
				t.Fatalf("New = %v, want error … %s", errors.Join(st.Close()), c.want)
			}
			if !strings.HasSuffix(err.Error(), c.want) || !strings.HasPrefix(err.Error(), c.config.URL+": quota store unavailable: ") || !errors.Is(err, quota.ErrUnavailable) {
				t.Errorf("New = error %v\nwant … %s", err, c.want)
			}
			if strings.Contains(err.Error(), "geheim") {
				t.Errorf("the password is told: %v", err)
			}
		})
	}
}

// TestNewMissesOne: one of a Cluster that cannot be asked is not one that hides
// INFO.
func TestNewMissesOne(t *testing.T) {
	t.Parallel()
	nodes := redistest.Cluster(t, redistest.Valkey(t))
	nodes[0].Kill() // shard 0 is on the last
	st, err := New(t.Context(), Config{URL: "redis+cluster://" + nodes[1].Addr})
	if err == nil {
		t.Fatalf("New = %v, want an error", errors.Join(st.Close()))
	}
	if !errors.Is(err, quota.ErrUnavailable) {
		t.Errorf("New = error %v, want %v", err, quota.ErrUnavailable)
	}
}

// TestNewWithoutINFO: a server that has no INFO is taken, and what that costs is
// told.
func TestNewWithoutINFO(t *testing.T) {
	t.Parallel()
	for _, b := range []redistest.Binary{redistest.Redis(t), redistest.Valkey(t)} {
		log := &logged{}
		st, err := New(t.Context(), Config{URL: redistest.Start(t, b, "--rename-command", "INFO", "").URL(), Log: log.logger(t)})
		if err != nil {
			t.Fatal(err)
		}
		if st.DetectsLoss() || !log.has("quota store hides INFO") || !log.has("except after a server that lost writes") {
			t.Errorf("%s: DetectsLoss = %v, want false and a log that says so", b, st.DetectsLoss())
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestPasswordChanges: each new connection has the password that the file holds
// then.
func TestPasswordChanges(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, redistest.Valkey(t))
	s.Do(t, "ACL", "SETUSER", "airgate", "on", ">one", "~*", "&*", "+@all")
	password := file(t, "one")
	st := open(t, Config{URL: s.URL(), Username: "airgate", PasswordFile: password})
	s.Do(t, "ACL", "SETUSER", "airgate", "resetpass", ">two")
	if err := os.WriteFile(password, []byte("two\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Do(t, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
	if _, err := st.Take(t.Context(), quota.Take{Key: quota.Key{Account: "a"}, Replica: "r", Seq: 1}); err != nil {
		t.Errorf("Take with the new password = error %v", err)
	}
}

func TestAccept(t *testing.T) {
	const free = "\r\nmaxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n"
	for info, want := range map[string]string{
		"redis_version:6.2.0" + free:                                              "Redis 6.2.0",
		"redis_version:8.2.3" + free:                                              "Redis 8.2.3",
		"redis_version:6.0.16" + free:                                             "Redis 6.0.16 is too old: 6.2 or later is needed",
		"redis_version:5.0.3" + free:                                              "Redis 5.0.3 is too old: 6.2 or later is needed",
		"redis_version:7.2.4\r\nvalkey_version:8.0.1" + free:                      "Valkey 8.0.1",
		"redis_version:7.2.4\r\nvalkey_version:7.2.5" + free:                      "Valkey 7.2.5",
		"redis_version:unstable" + free:                                           `Redis says that its version is "unstable"`,
		"redis_version:7.0.0\r\nmaxmemory:1\r\nmaxmemory_policy:noeviction\r\n":   "Redis 7.0.0",
		"redis_version:7.0.0\r\nmaxmemory:1\r\nmaxmemory_policy:volatile-ttl\r\n": "maxmemory-policy is volatile-ttl: a key that is evicted is a budget that begins anew; set it to noeviction",
		"redis_version:7.0.0\r\n":                                                 "Redis 7.0.0",
	} {
		got, err := accept(info)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("accept(%q) = %s, want %s", info, got, want)
		}
	}
}

// TestKeys: a key's name tells both its parts, and all keys of a shard lie in one
// slot of a Cluster.
func TestKeys(t *testing.T) {
	var names []string
	for _, k := range []quota.Key{{}, {Account: "a"}, {Window: "w"}, {Account: "1:b", Window: "a"}, {Account: "b", Window: "a:1"}, {Account: "ä:{x}|日本", Window: "2026-11"}} {
		name := keyName(k)
		if got, ok := parseKeyName(name); got != k || !ok {
			t.Errorf("parseKeyName(%q) = %+v, %v; want %+v", name, got, ok, k)
		}
		if slices.Contains(names, name) {
			t.Errorf("keyName(%+v) = %q, as of another", k, name)
		}
		names = append(names, name)
	}
	for _, name := range []string{"", "a", "1:", "1:a", "9:a:b", "-1:a:b", "x:a:b"} {
		if got, ok := parseKeyName(name); ok {
			t.Errorf("parseKeyName(%q) = %+v, want none", name, got)
		}
	}
	for key, want := range map[string]string{
		windowKey(10, "7:2026-11:usd|{x}"): "airgate:q:{a}:window:7:2026-11:usd|{x}",
		registerKey(15):                    "airgate:q:{f}:register",
	} {
		if key != want {
			t.Errorf("key %q, want %q", key, want)
		}
	}
}

func TestUnits(t *testing.T) {
	for _, c := range []struct{ amount, unit, up, down int64 }{
		{0, 1000, 0, 0}, {1, 1000, 1, 0}, {999, 1000, 1, 0}, {1000, 1000, 1, 1}, {1001, 1000, 2, 1}, {5, 1, 5, 5}, {most * 1000, 1000, most, most},
	} {
		n := units{unit: c.unit}
		if up, down := n.up(c.amount), n.down(c.amount); up != c.up || down != c.down || n.err != nil {
			t.Errorf("%d in units of %d = %d up, %d down, %v; want %d, %d", c.amount, c.unit, up, down, n.err, c.up, c.down)
		}
	}
	for _, c := range []struct{ amount, unit int64 }{{-1, 1}, {-1, 1000}, {most + 1, 1}, {(most + 1) * 1000, 1000}} {
		n := units{unit: c.unit}
		if n.up(c.amount); n.err == nil {
			t.Errorf("%d in units of %d is no error", c.amount, c.unit)
		}
	}
}
