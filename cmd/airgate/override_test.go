package main

import (
	"os"
	"strings"
	"testing"
	"time"
)

// An override of a budget is in the book before it holds, once, whether it
// comes with a start or with a reload.
func TestOverridesAreInTheBook(t *testing.T) {
	o := testOptions(t)
	write := func(overrides string) {
		t.Helper()
		text := strings.Replace(testConfig, "match: {team: search}", "each: team, overrides: ["+overrides+"]", 1)
		if err := os.WriteFile(o.config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// wait until the book has so many changes, the last one of this code.
	wait := func(g *gateway, n int, code string) {
		t.Helper()
		var audit struct {
			Audit []struct{ Type, Code string }
		}
		var codes []string
		for range 500 {
			g.get(t, "/api/v1/audit?limit=100", &audit)
			codes = nil
			for _, r := range audit.Audit {
				if r.Type == "admin" {
					codes = append(codes, r.Code)
				}
			}
			if len(codes) == n && codes[0] == code {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("changes %v, want %d, the newest %s", codes, n, code)
	}
	write("{for: {team: search}, usd: 700, until: 2200-12-01, by: kim, reason: INC-12}")
	g := open(t, o)
	wait(g, 1, "override_set")
	shut(t, g)
	g = open(t, o)
	wait(g, 1, "override_set")
	write("")
	wait(g, 2, "override_gone")
	shut(t, g)
}
