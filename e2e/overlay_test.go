package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"airgate/accounting/quota/redis/redistest"
)

// pair is two airgates, each with an Envoy, whose files are alike and that share
// an overlay.
type pair struct {
	one, other *world
	store      string // the overlay's file
	token      string // the file with the token of writes
}

func newPair(t *testing.T) *pair {
	t.Helper()
	dir := t.TempDir()
	p := &pair{store: filepath.Join(dir, "overlay.jsonl"), token: filepath.Join(dir, "token")}
	if err := os.WriteFile(p.token, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := worldOptions{
		policy: usualPolicy + fmt.Sprintf("  - {name: small, each: key, usd: 0.0001, per: month}\noverlay: {maxRaise: 5, file: %q}\n", p.store),
		flags:  []string{"--admin-write-token", p.token},
	}
	p.one, p.other = newWorld(t, o), newWorld(t, o)
	keys, err := os.ReadFile(filepath.Join(p.one.config, "keys.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	p.other.write("keys.new", string(keys))
	if err := os.Rename(filepath.Join(p.other.dir, "keys.new"), filepath.Join(p.other.config, "keys.yaml")); err != nil {
		t.Fatal(err)
	}
	p.other.keys = p.one.keys
	for _, w := range []*world{p.one, p.other} {
		p.until(w, 5*time.Second, http.StatusPaymentRequired, "budget_insufficient")
	}
	return p
}

// newFleet makes a pair that shares its files, and the overlay by the server.
func newFleet(t *testing.T, kind string, server *redistest.Server) *pair {
	t.Helper()
	p := &pair{token: filepath.Join(t.TempDir(), "token")}
	if err := os.WriteFile(p.token, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := worldOptions{
		policy: fmt.Sprintf("quota: {store: %s, url: %q, replicas: 3, deadline: 1s}\n", kind, server.URL()) + usualPolicy,
		flags:  []string{"--admin-write-token", p.token},
	}
	p.one = newWorld(t, o)
	p.other = p.another(t)
	return p
}

// another is one more airgate of the fleet, with a data directory of its own.
func (p *pair) another(t *testing.T) *world {
	t.Helper()
	return newWorld(t, worldOptions{beside: p.one})
}

// until calls w until the answer has a status and a code, which it must have for
// every call that begins within the time.
func (p *pair) until(w *world, within time.Duration, status int, code string) {
	w.t.Helper()
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		at := time.Now()
		a := w.do(call{})
		if a.status == status && (code == "" || a.header.Get("x-airgate-code") == code) {
			return
		}
		if at.Sub(began) > within {
			w.t.Fatalf("%v after it was said a call is answered %d (%v) %s, want %d %s", at.Sub(began), a.status, a.err, a.body, status, code)
		}
	}
}

// lay runs a command that writes through the first airgate.
func (p *pair) lay(args ...string) {
	p.one.t.Helper()
	p.one.command(append(args, "--by", "kim", "--admin-write-token", p.token, "--server", p.one.api)...)
}

// TestOverlayReachesEveryAirgate: what one is told holds in the other within two
// seconds, and comes back from there when the store is emptied.
func TestOverlayReachesEveryAirgate(t *testing.T) {
	p := newPair(t)
	const promise = 2 * time.Second
	p.lay("budgets", "raise", "small", "--to", "1", "--until", "1h", "--reason", "INC-12")
	p.until(p.one, 0, http.StatusOK, "")
	p.until(p.other, promise, http.StatusOK, "")

	p.lay("block", "team", "search", "--until", "1h", "--reason", "INC-13")
	p.until(p.one, 0, http.StatusForbidden, "rule_denied")
	p.until(p.other, promise, http.StatusForbidden, "rule_denied")
	if a := p.other.do(call{}); !strings.Contains(a.body, "team search is blocked by kim until 20") || !strings.Contains(a.body, "INC-13") {
		t.Errorf("a blocked call is answered %s, want who, why and until when", a.body)
	}
	p.lay("unblock", "team", "search", "--reason", "fixed")
	p.until(p.one, 0, http.StatusOK, "")
	p.until(p.other, promise, http.StatusOK, "")

	// What was spent under the raise stays spent.
	p.lay("budgets", "raise", "small", "--undo", "--reason", "over")
	p.until(p.one, 0, http.StatusPaymentRequired, "budget_exhausted")
	p.until(p.other, promise, http.StatusPaymentRequired, "budget_exhausted")

	id := strings.Split(p.one.keys["search"], "-")[1]
	p.lay("keys", "revoke", id, "--now", "--reason", "leaked")
	p.until(p.one, 0, http.StatusUnauthorized, "key_revoked")
	p.until(p.other, promise, http.StatusUnauthorized, "key_revoked")

	for name, empty := range map[string]func() error{
		"removed": func() error { return os.Remove(p.store) },
		"emptied": func() error { return os.WriteFile(p.store, nil, 0o600) },
	} {
		if err := empty(); err != nil {
			t.Fatal(err)
		}
		for began := time.Now(); time.Since(began) < promise; time.Sleep(20 * time.Millisecond) {
			for _, w := range []*world{p.one, p.other} {
				if a := w.do(call{}); a.status != http.StatusUnauthorized {
					t.Fatalf("after the store was %s a revoked key is answered %d %s", name, a.status, a.body)
				}
			}
		}
		text, err := os.ReadFile(p.store)
		if err != nil || !strings.Contains(string(text), "revoke/"+id) || !strings.Contains(string(text), "raise/small") {
			t.Errorf("%v after the store was %s it has %q, %v; want everything again", promise, name, text, err)
		}
	}

	// Who was not there learns it from the store, before the first caller.
	p.other.airgate.kill()
	p.other.serve()
	p.until(p.other, 0, http.StatusUnauthorized, "key_revoked")
	for _, w := range []*world{p.one, p.other} {
		out := w.command("audit", "show", "--type", "admin", "--server", w.api, "-o", "csv")
		for entry, want := range map[string]int{"raise/small": 2, "block/team/search": 2, "revoke/" + id: 1} {
			if got := strings.Count(out, "overlay "+entry); got != want {
				t.Errorf("the book has %d records of %s, want %d:\n%s", got, entry, want, out)
			}
		}
	}
}

// TestOverlayInASharedStore: what one is told reaches the other through the
// server that they share, outlives what that loses, its end, and both airgates.
func TestOverlayInASharedStore(t *testing.T) {
	run := func(t *testing.T, binary redistest.Binary) {
		server := redistest.Start(t, binary)
		p := newFleet(t, binary.Name, server)
		const promise = 2 * time.Second
		all := []*world{p.one, p.other}
		for _, w := range all {
			p.until(w, 10*time.Second, http.StatusOK, "")
		}
		p.lay("block", "team", "search", "--until", "1h", "--reason", "INC-13")
		p.until(p.one, 0, http.StatusForbidden, "rule_denied")
		p.until(p.other, promise, http.StatusForbidden, "rule_denied")
		p.lay("unblock", "team", "search", "--reason", "fixed")
		p.until(p.one, 0, http.StatusOK, "")
		p.until(p.other, promise, http.StatusOK, "")
		id := strings.Split(p.one.keys["search"], "-")[1]
		p.lay("keys", "revoke", id, "--now", "--reason", "leaked")
		p.until(p.one, 0, http.StatusUnauthorized, "key_revoked")
		p.until(p.other, promise, http.StatusUnauthorized, "key_revoked")

		server.Do(t, "FLUSHALL")
		for began := time.Now(); time.Since(began) < promise; time.Sleep(20 * time.Millisecond) {
			for _, w := range all {
				if a := w.do(call{}); a.code() != "key_revoked" {
					t.Fatalf("after the server was emptied a revoked key is answered %d %s", a.status, a.body)
				}
			}
		}
		if n := server.Do(t, "HLEN", "airgate:overlay"); n != int64(2) {
			t.Errorf("%v after the server was emptied it has %v entries, want the revocation and the end of the block", promise, n)
		}

		// Who was not there learns it from the server, before the first caller.
		third := p.another(t)
		p.until(third, 0, http.StatusUnauthorized, "key_revoked")
		server.Kill()
		for _, w := range append(all, third) {
			p.until(w, 0, http.StatusUnauthorized, "key_revoked")
		}
		if out, code, _ := p.one.try("overlay", "--offline"); code != 3 {
			t.Errorf("overlay --offline without the server = %d %s, want 3", code, out)
		}
		_, code, stderr := p.one.try("block", "team", "search", "--until", "1h", "--reason", "INC-14", "--offline")
		if code != 3 || !strings.Contains(stderr, "block/team/search holds in this airgate, and NOT yet in others") {
			t.Errorf("block --offline without the server = %d %s, want 3 and where it holds", code, stderr)
		}
		server.Restart(t)
		wait := func(what string, ok func() bool) {
			if !eventually(ok) {
				t.Errorf("%s: not in time", what)
			}
		}
		wait("the server is told by those who are there", func() bool { return server.Do(t, "HLEN", "airgate:overlay") == int64(2) })
		wait("the other has what was said meanwhile", func() bool {
			return strings.Contains(p.other.command("overlay", "--server", p.other.api), "INC-14")
		})
		idle := newWorld(t, worldOptions{beside: p.one, noServe: true, noEnvoy: true})
		if err := os.Mkdir(filepath.Join(idle.dir, "data"), 0o700); err != nil {
			t.Fatal(err)
		}
		if out := idle.command("overlay", "--offline"); !strings.Contains(out, "INC-14") || !strings.Contains(out, "revoke/"+id) {
			t.Errorf("overlay --offline = %s, want what the server has", out)
		}
	}
	t.Run("redis", func(t *testing.T) { run(t, redistest.Redis(t)) })
	t.Run("valkey", func(t *testing.T) { run(t, redistest.Valkey(t)) })
}
