package redis

import (
	"crypto/tls"
	"errors"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"airgate/accounting/quota"
	"airgate/accounting/quota/redis/redistest"
)

// TestTLS: only who has a certificate for the host of the URL, from whom is
// trusted, is spoken to.
func TestTLS(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, redistest.Redis(t), "--requirepass", "geheim")
	password := file(t, "geheim")
	a, b := redistest.NewAuthority(t), redistest.NewAuthority(t)
	old := a.Server(t, "127.0.0.1")
	old.MaxVersion = tls.VersionTLS11
	port := func(c *tls.Config) string {
		_, port, _ := net.SplitHostPort(redistest.NewTLSProxy(t, s.Addr, c).Addr)
		return port
	}
	for name, test := range map[string]struct {
		url, ca string
		want    string // in the error
	}{
		"by address":            {"rediss://127.0.0.1:" + port(a.Server(t, "127.0.0.1")), a.File, ""},
		"by name":               {"rediss://localhost:" + port(a.Server(t, "localhost")), a.File, ""},
		"not trusted":           {"rediss://localhost:" + port(a.Server(t, "localhost")), "", "certificate signed by unknown authority"},
		"of another":            {"rediss://localhost:" + port(b.Server(t, "localhost")), a.File, "certificate signed by unknown authority"},
		"for another host":      {"rediss://localhost:" + port(a.Server(t, "redis.internal")), a.File, "certificate is valid for redis.internal, not localhost"},
		"too old":               {"rediss://127.0.0.1:" + port(old), a.File, "protocol version not supported"},
		"server without TLS":    {"rediss://" + s.Addr, a.File, "quota store unavailable"},
		"server with TLS alone": {"redis://127.0.0.1:" + port(a.Server(t, "127.0.0.1")), "", "quota store unavailable"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st, err := New(t.Context(), Config{URL: test.url, PasswordFile: password, CAFile: test.ca, Deadline: 5 * time.Second})
			if test.want != "" {
				if err == nil {
					t.Fatalf("New = %v, want error %s", errors.Join(st.Close()), test.want)
				}
				if !strings.Contains(err.Error(), test.want) || !errors.Is(err, quota.ErrUnavailable) {
					t.Errorf("New = error %v, want %s and %v", err, test.want, quota.ErrUnavailable)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := st.Take(t.Context(), quota.Take{Key: quota.Key{Account: "a"}, Replica: "r", Seq: 1}); err != nil {
				t.Errorf("Take = error %v", err)
			}
			if err := st.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestTLSCluster: the certificate of each node is for the address that the
// Cluster tells.
func TestTLSCluster(t *testing.T) {
	t.Parallel()
	a := redistest.NewAuthority(t)
	for name, test := range map[string]struct {
		host  string // what the nodes have certificates for
		right bool
	}{
		"told":       {"127.0.0.1", true},
		"of the URL": {"localhost", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nodes := redistest.Cluster(t, redistest.Valkey(t))
			var addrs []string
			for _, s := range nodes {
				addrs = append(addrs, redistest.NewTLSProxy(t, s.Addr, a.Server(t, test.host)).Addr)
			}
			redistest.Announce(t, nodes, addrs)
			_, port, _ := net.SplitHostPort(redistest.NewTLSProxy(t, nodes[0].Addr, a.Server(t, "localhost")).Addr)
			st, err := New(t.Context(), Config{URL: "rediss+cluster://localhost:" + port, CAFile: a.File, Deadline: 5 * time.Second})
			if !test.right {
				if err == nil {
					t.Fatalf("New = %v, want an error", errors.Join(st.Close()))
				}
				if want := "cannot validate certificate for 127.0.0.1"; !errors.Is(err, quota.ErrUnavailable) || !strings.Contains(err.Error(), want) {
					t.Errorf("New = error %v, want %v: %s", err, quota.ErrUnavailable, want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for i := range 100 { // on all nodes
				if _, err := st.Take(t.Context(), quota.Take{Key: quota.Key{Account: strconv.Itoa(i)}, Replica: "r", Seq: 1}); err != nil {
					t.Fatalf("Take = error %v", err)
				}
			}
			if err := st.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
