package config

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"airgate/accounting/money"
)

// quotaOf compiles a section quota, and returns what is warned of in it.
func quotaOf(t *testing.T, text string) (Quota, []Problem) {
	t.Helper()
	const before = base + "unbudgeted: allow\n"
	s, err := LoadBytes("test.yaml", []byte(before+text), now())
	if err != nil {
		t.Fatalf("LoadBytes(%s) = %v, want no error", text, err)
	}
	return s.Quota, slices.DeleteFunc(s.Warnings, func(p Problem) bool { return p.Line <= strings.Count(before, "\n") })
}

// TestQuota shows what becomes of the section quota.
func TestQuota(t *testing.T) {
	for name, test := range map[string]struct {
		text   string
		want   Quota
		shared bool
	}{
		"absent": {"", Quota{Store: "memory"}, false},
		"memory": {"quota: {store: memory, replicas: 1}", Quota{Store: "memory", Replicas: 1}, false},
		"redis, the least": {
			"quota: {store: redis, url: redis://localhost}",
			Quota{Store: "redis", URL: "redis://localhost", Deadline: 50 * time.Millisecond},
			true,
		},
		"valkey, everything": {
			"quota: {store: valkey, url: rediss://cache.example.com:6379/2, username: airgate, passwordFile: /run/secrets/quota, deadline: 1s, replicas: 3}",
			Quota{
				Store: "valkey", URL: "rediss://cache.example.com:6379/2", Username: "airgate", PasswordFile: "/run/secrets/quota",
				Deadline: time.Second, Replicas: 3,
			},
			true,
		},
		"sentinels behind an authority of one's own": {
			"quota: {store: redis, url: rediss+sentinel://a/main, passwordFile: /run/quota/a, sentinelPasswordFile: /run/quota/b, caFile: /run/quota/c}",
			Quota{
				Store: "redis", URL: "rediss+sentinel://a/main", PasswordFile: "/run/quota/a", SentinelPasswordFile: "/run/quota/b", CAFile: "/run/quota/c",
				Deadline: 50 * time.Millisecond,
			},
			true,
		},
		"sentinels with a password, without TLS": {
			"quota: {store: redis, url: redis+sentinel://localhost/main, sentinelPasswordFile: /run/quota/b}",
			Quota{Store: "redis", URL: "redis+sentinel://localhost/main", SentinelPasswordFile: "/run/quota/b", Deadline: 50 * time.Millisecond},
			true,
		},
	} {
		got, warnings := quotaOf(t, test.text)
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if got.Shared() != test.shared || len(warnings) > 0 {
			t.Errorf("%s: Shared = %v, warnings %v, want %v and none", name, got.Shared(), warnings, test.shared)
		}
	}
}

// TestStoreURL: what a URL says of its connections. What is wrong with one is
// in testdata/broken.
func TestStoreURL(t *testing.T) {
	for url, want := range map[string]storeURL{
		"redis://127.0.0.1":                                {local: true},
		"redis://localhost:6379/0":                         {local: true},
		"redis://[::1]:6379/15":                            {local: true},
		"redis://10.0.0.1:6379/":                           {},
		"rediss://cache.example.com:6380":                  {tls: true},
		"redis+sentinel://127.0.0.1:26379/mymaster":        {sentinels: true, local: true},
		"redis+sentinel://a:26379,b:26379/mymaster?db=2":   {sentinels: true},
		"rediss+sentinel://127.0.0.1,[::1]:26379/m?db=0":   {tls: true, sentinels: true, local: true},
		"redis+cluster://127.0.0.1:7000,127.0.0.1:7001":    {local: true},
		"redis+cluster://127.0.0.1:7000,cache-1.redis.svc": {},
		"rediss+cluster://a,b,c":                           {tls: true},
	} {
		if got, err := parseStoreURL(url); got != want || err != nil {
			t.Errorf("parseStoreURL(%q) = %+v, %v, want %+v", url, got, err, want)
		}
	}
}

func TestInsecureOfTLS(t *testing.T) {
	_, warnings := quotaOf(t, "quota: {store: redis, url: rediss://cache.example.com, insecure: true}")
	if len(warnings) != 1 || !strings.Contains(warnings[0].Text, "insecure means nothing for a URL with TLS") {
		t.Errorf("warnings = %v, want one about insecure", warnings)
	}
}

// TestOutages: what each limit and budget does while the store is down is part
// of the view, defaults included.
func TestOutages(t *testing.T) {
	const entries = base + `
limits:
  - {name: rps, requests: 5/s}
  - {name: parallel, concurrent: 5, onStoreDown: allow}
budgets:
  - {name: search, usd: 500, per: month, warnAt: [80%]}
  - {name: eval, usd: 200, per: week, onStoreDown: {allowWithinUSD: 5}}
`
	want := []Outage{
		{Name: "rps", Resource: "requests", OnStoreDown: "deny"},
		{Name: "parallel", Resource: "concurrent", OnStoreDown: "allow"},
		{Name: "search", Resource: "usd", OnStoreDown: "deny", Beyond: new(0 * money.USD)},
		{Name: "eval", Resource: "usd", OnStoreDown: "allowWithinUSD", Beyond: new(5 * money.USD), Each: new(money.NanoUSD(1_666_666_666))},
	}
	for quota, want := range map[string][]Outage{
		"quota: {store: redis, url: redis://localhost, replicas: 3}": want, "quota: {store: memory}": nil,
	} {
		s, err := LoadBytes("test.yaml", []byte(entries+quota), now())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, s.View().Outages); diff != "" {
			t.Errorf("%s (-want +got):\n%s", quota, diff)
		}
	}
}
