package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"testing"

	"airgate/accounting/quota"
	"airgate/policy/config"
)

// A store that this build does not have never becomes one in memory: each
// airgate would allow every budget once more.
func TestOpenStore(t *testing.T) {
	for name, want := range map[string]string{
		"memory": "",
		"redis":  "store: redis is not built into this version",
		"valkey": "store: valkey is not built into this version",
	} {
		s := &config.Snapshot{Quota: config.Quota{Store: name}}
		store, shared, closeStore, err := openStore(t.Context(), s, "a.1", nil, slog.New(slog.DiscardHandler))
		if (store == nil) == (want == "") || shared == (want == "") || (err == nil) != (want == "") || err != nil && err.Error() != want {
			t.Errorf("%s: openStore = %v, %v, %v, want %q", name, store, shared, err, want)
		}
		if err := closeStore(); err != nil {
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
		got, ok := errors.AsType[*exitError](storeFault("redis", test.err))
		if !ok || got.code != test.want || !errors.Is(got, test.err) {
			t.Errorf("%s: storeFault = %v, want exit code %d and the error itself", name, got, test.want)
		}
	}
}
