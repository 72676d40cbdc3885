package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"airgate/accounting/quota/redis/redistest"
	"airgate/accounting/sink/sqlite"
)

// TestLostDisk: what an airgate had in hand that was killed, and whose disk is lost, is
// given back by another one, against a signature: the records that are left just end.
func TestLostDisk(t *testing.T) {
	server := redistest.Start(t, redistest.Redis(t))
	p := newFleet(t, "redis", server)
	p.until(p.one, 10*time.Second, http.StatusOK, "")
	p.until(p.other, 10*time.Second, http.StatusOK, "")
	if n := len(p.other.requests()); n == 0 { // it has shipped them
		t.Fatal("the other airgate has no records")
	}
	p.other.airgate.kill()
	records := filepath.Join(t.TempDir(), "usage.db") // all that is left
	for _, end := range []string{"", "-wal"} {
		if err := os.Rename(filepath.Join(p.other.dir, "data", "usage.db"+end), records+end); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(filepath.Join(p.other.dir, "data")); err != nil {
		t.Fatal(err)
	}
	r, err := sqlite.OpenReadOnly(t.Context(), records)
	if err != nil {
		t.Fatal(err)
	}
	heads, err := r.Heads(t.Context())
	if err := errors.Join(err, r.Close()); err != nil || len(heads) != 1 {
		t.Fatalf("the copy has %d writers, %v", len(heads), err)
	}
	writer, head := heads[0].Writer, heads[0].Seq
	reclaim := func(want int, args ...string) string {
		t.Helper()
		out, code, stderr := p.one.try(append([]string{"budgets", "reclaim", writer, "--records", records, "--reason", "INC-12", "--by", "kim", "--admin-write-token", p.token, "--server", p.one.api}, args...)...)
		if code != want {
			t.Fatalf("reclaim %v = %d, want %d\n%s\n%s", args, code, want, out, stderr)
		}
		return stderr
	}
	reclaim(1) // it has just been heard of
	for shard := range 16 {
		server.Do(t, "HSET", fmt.Sprintf("airgate:q:{%x}:fleet", shard), writer, time.Now().Add(-2*time.Minute).UnixMilli())
	}
	said := reclaim(1)
	m := regexp.MustCompile(fmt.Sprintf(`(?m)^airgate: not proven: the records of %s end with record %d of .* --accept ([0-9.]+)$`, writer, head)).FindStringSubmatch(said)
	if m == nil || m[1] == "0" {
		t.Fatalf("reclaim says %s, want where the records end, and that there is something to sign for", said)
	}
	reclaim(1, "--accept", "0")
	reclaim(0, "--accept", m[1])
	if said := reclaim(0, "--accept", m[1]); !strings.HasSuffix(said, "\nnothing is set aside for "+writer+"\n") {
		t.Errorf("the second time reclaim says %s", said)
	}
	p.one.quiet()
}
