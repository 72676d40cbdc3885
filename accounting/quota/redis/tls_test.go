package redis

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"airgate/accounting/quota"
	"airgate/accounting/quota/redis/redistest"
)

// authority signs certificates of servers.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	file        string // its certificate in PEM
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := new(authority)
	der, key := a.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a.certificate, a.key = certificate, key
	var text bytes.Buffer
	if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
		t.Fatal(err)
	}
	a.file = file(t, text.String())
	return a
}

// sign signs with a's key, or with that of the certificate if a has none yet.
func (a *authority) sign(t *testing.T, c *x509.Certificate) ([]byte, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(1), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.certificate, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	return der, key
}

// server is how one speaks TLS whose certificate is for host.
func (a *authority) server(t *testing.T, host string) *tls.Config {
	t.Helper()
	c := &x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if ip := net.ParseIP(host); ip != nil {
		c.IPAddresses = []net.IP{ip}
	} else {
		c.DNSNames = []string{host}
	}
	der, key := a.sign(t, c)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// TestTLS: only who has a certificate for the host of the URL, from whom is
// trusted, is spoken to.
func TestTLS(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, redistest.Redis(t), "--requirepass", "geheim")
	password := file(t, "geheim")
	a, b := newAuthority(t), newAuthority(t)
	old := a.server(t, "127.0.0.1")
	old.MaxVersion = tls.VersionTLS11
	port := func(c *tls.Config) string {
		_, port, _ := net.SplitHostPort(redistest.NewTLSProxy(t, s.Addr, c).Addr)
		return port
	}
	for name, test := range map[string]struct {
		url, ca string
		want    string // in the error
	}{
		"by address":            {"rediss://127.0.0.1:" + port(a.server(t, "127.0.0.1")), a.file, ""},
		"by name":               {"rediss://localhost:" + port(a.server(t, "localhost")), a.file, ""},
		"not trusted":           {"rediss://localhost:" + port(a.server(t, "localhost")), "", "certificate signed by unknown authority"},
		"of another":            {"rediss://localhost:" + port(b.server(t, "localhost")), a.file, "certificate signed by unknown authority"},
		"for another host":      {"rediss://localhost:" + port(a.server(t, "redis.internal")), a.file, "certificate is valid for redis.internal, not localhost"},
		"too old":               {"rediss://127.0.0.1:" + port(old), a.file, "protocol version not supported"},
		"server without TLS":    {"rediss://" + s.Addr, a.file, "quota store unavailable"},
		"server with TLS alone": {"redis://127.0.0.1:" + port(a.server(t, "127.0.0.1")), "", "quota store unavailable"},
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
	a := newAuthority(t)
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
				addrs = append(addrs, redistest.NewTLSProxy(t, s.Addr, a.server(t, test.host)).Addr)
			}
			redistest.Announce(t, nodes, addrs)
			_, port, _ := net.SplitHostPort(redistest.NewTLSProxy(t, nodes[0].Addr, a.server(t, "localhost")).Addr)
			st, err := New(t.Context(), Config{URL: "rediss+cluster://localhost:" + port, CAFile: a.file, Deadline: 5 * time.Second})
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
