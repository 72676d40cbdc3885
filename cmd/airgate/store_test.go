package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"airgate/accounting/quota"
	"airgate/accounting/quota/redis/redistest"
	"airgate/policy/config"
)

func TestOpenStore(t *testing.T) {
	for name, test := range map[string]struct {
		quota config.Quota
		want  string // how the error begins
	}{
		"memory":       {config.Quota{Store: "memory"}, ""},
		"not running":  {config.Quota{Store: "valkey", URL: "redis://127.0.0.1:1"}, "store: redis://127.0.0.1:1: quota store unavailable: dial tcp 127.0.0.1:1: connect: connection refused: the server is not reached: is it running, and does the url say where?"},
		"no password":  {config.Quota{Store: "redis", URL: "redis://127.0.0.1:1", PasswordFile: "/nowhere"}, "store: passwordFile cannot be read: open /nowhere: no such file or directory"},
		"no authority": {config.Quota{Store: "redis", URL: "rediss://127.0.0.1:1", CAFile: "/nowhere"}, "store: caFile cannot be read: open /nowhere: no such file or directory"},
		"no password of the sentinels": {
			config.Quota{Store: "redis", URL: "redis+sentinel://127.0.0.1:1/main", SentinelPasswordFile: "/nowhere"},
			"store: sentinelPasswordFile cannot be read: open /nowhere: no such file or directory",
		},
		"no certificate": {config.Quota{Store: "redis", URL: "rediss://127.0.0.1:1", CAFile: "store_test.go"}, "store: caFile: store_test.go has no certificate in PEM"},
	} {
		store, err := openStore(t.Context(), &config.Snapshot{Quota: test.quota}, nil, slog.New(slog.DiscardHandler))
		if (store == nil) == (test.want == "") || (err == nil) != (test.want == "") || err != nil && !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%s: openStore = %v, error %v, want %q", name, store, err, test.want)
		}
		if store == nil {
			continue
		}
		if err := store.close(); err != nil || store.shared {
			t.Errorf("%s: close = %v; shared %v", name, err, store.shared)
		}
	}
}

// TestOpenSharedStore: what the config says of a store gets there.
func TestOpenSharedStore(t *testing.T) {
	server := redistest.Start(t, redistest.Redis(t))
	server.Do(t, "ACL", "SETUSER", "airgate", "on", ">geheim", "~*", "&*", "+@all")
	server.Do(t, "ACL", "SETUSER", "default", "off")
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("geheim\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for deadline, answered := range map[time.Duration]bool{time.Minute: true, 1: false} {
		q := config.Quota{Store: "redis", URL: server.URL(), Username: "airgate", PasswordFile: password, Deadline: deadline}
		registry := prometheus.NewRegistry()
		store, err := openStore(t.Context(), &config.Snapshot{Quota: q}, registry, slog.New(slog.DiscardHandler))
		if err != nil || !store.shared {
			t.Fatalf("deadline %s: openStore = %v, %v", deadline, store, err)
		}
		call := quota.Take{Key: quota.Key{Account: "rate"}, Replica: "a.1", Seq: 1, Want: 1, Capacity: 1}
		if _, err := store.Take(t.Context(), call); (err == nil) != answered || err != nil && !errors.Is(err, quota.ErrUnavailable) {
			t.Errorf("deadline %s: Take = error %v, want an answer: %v", deadline, err, answered)
		}
		if n, err := testutil.GatherAndCount(registry, "airgate_store_up"); n != 1 || err != nil {
			t.Errorf("airgate_store_up has %d values, %v; want 1", n, err)
		}
		if err := store.close(); err != nil {
			t.Errorf("close = %v", err)
		}
		if _, err := store.Take(t.Context(), call); err == nil {
			t.Error("Take of a store that is closed is no error")
		}
	}
}

// TestOpenStoreBehindSentinels: a server whose certificate an authority of one's
// own has signed, and Sentinels with a password that is not the server's.
func TestOpenStoreBehindSentinels(t *testing.T) {
	ours, theirs := redistest.NewAuthority(t), redistest.NewAuthority(t)
	server := redistest.Start(t, redistest.Redis(t))
	redistest.Replica(t, server)
	server.Do(t, "ACL", "SETUSER", "airgate", "on", ">geheim", "~*", "&*", "+@all")
	signed := ours.Server(t, "127.0.0.1")
	sentinel := redistest.Sentinel(t, server.At(redistest.NewMixedProxy(t, server.Addr, signed).Addr))
	sentinel.Do(t, "ACL", "SETUSER", "default", "resetpass", ">heimlich") // as its requirepass does
	url := "rediss+sentinel://" + redistest.NewTLSProxy(t, sentinel.Addr, signed).Addr + "/main"
	secret := func(text string) string {
		path := filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	password, sentinels := secret("geheim"), secret("heimlich")
	for name, test := range map[string]struct {
		password, sentinels, authority string
		want                           string // in the error
	}{
		"all":                                 {password, sentinels, ours.File, ""},
		"no password of the Sentinels":        {password, "", ours.File, "the Sentinel asks for a password: sentinelPasswordFile names the file"},
		"the server's password for Sentinels": {password, password, ours.File, "the Sentinel does not take the password in sentinelPasswordFile"},
		"the Sentinels' password for servers": {sentinels, sentinels, ours.File, "the server does not take the password in passwordFile for this username"},
		"the system's authorities":            {password, sentinels, "", "certificate signed by unknown authority: the Sentinel's certificate is not trusted: caFile "},
		"another authority":                   {password, sentinels, theirs.File, "certificate signed by unknown authority"},
	} {
		q := config.Quota{
			Store: "redis", URL: url, Username: "airgate", PasswordFile: test.password,
			SentinelPasswordFile: test.sentinels, CAFile: test.authority, Deadline: time.Minute,
		}
		store, err := openStore(t.Context(), &config.Snapshot{Quota: q}, nil, slog.New(slog.DiscardHandler))
		if test.want != "" {
			fault, ok := errors.AsType[*exitError](err)
			if !ok || fault.code != exitUnreachable || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "heim") {
				t.Errorf("%s: openStore = %v, %v, want exit code %d, %s in it and no secret", name, store, err, exitUnreachable, test.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: openStore = %v", name, err)
			continue
		}
		call := quota.Take{Key: quota.Key{Account: "rate"}, Replica: "a.1", Seq: 1, Want: 1, Capacity: 1}
		if _, err := store.Take(t.Context(), call); err != nil {
			t.Errorf("%s: Take = %v", name, err)
		}
		if list, err := store.overlay.List(t.Context()); err != nil || len(list) > 0 {
			t.Errorf("%s: the overlay has %v, %v, want nothing", name, list, err)
		}
		if err := store.close(); err != nil {
			t.Errorf("%s: close = %v", name, err)
		}
	}
}

func TestAloneOrShared(t *testing.T) {
	one, shared := config.Quota{Store: "memory", Replicas: 1}, config.Quota{Store: "redis"}
	for name, test := range map[string]struct {
		host    string
		quota   config.Quota
		refused bool
	}{
		"in Kubernetes, not said to be alone": {"10.96.0.1", config.Quota{Store: "memory"}, true},
		"in Kubernetes, said to be alone":     {"10.96.0.1", one, false},
		"in Kubernetes, a shared store":       {"10.96.0.1", shared, false},
		"elsewhere":                           {"", config.Quota{Store: "memory"}, false},
		"elsewhere, a shared store":           {"", shared, false},
	} {
		t.Setenv(kubernetes, test.host)
		if err := aloneOrShared(test.quota); (err != nil) != test.refused {
			t.Errorf("%s: aloneOrShared = %v, want refused: %v", name, err, test.refused)
		}
	}
}

func TestStoreFault(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		want int
	}{
		"nobody answers":          {fmt.Errorf("dial: %w", quota.ErrUnavailable), exitUnreachable},
		"no password file":        {fmt.Errorf("open password: %w", fs.ErrNotExist), exitUnreachable},
		"password file is closed": {fmt.Errorf("open password: %w", fs.ErrPermission), exitUnreachable},
		"it evicts":               {errors.New("maxmemory-policy is allkeys-lru: set noeviction"), exitProblem},
	} {
		got, ok := errors.AsType[*exitError](storeFault(test.err))
		if !ok || got.code != test.want || !errors.Is(got, test.err) {
			t.Errorf("%s: storeFault = %v, want exit code %d and the error itself", name, got, test.want)
		}
	}
}
