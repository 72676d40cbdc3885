package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"github.com/prometheus/client_golang/prometheus"

	"airgate/accounting/quota"
	"airgate/accounting/quota/memory"
	"airgate/accounting/quota/redis"
	"airgate/policy/config"
	"airgate/policy/overlay"
	overlayredis "airgate/policy/overlay/redis"
)

// kubernetes is a variable that the kubelet sets in every container.
const kubernetes = "KUBERNETES_SERVICE_HOST"

// aloneOrShared refuses a store in memory in Kubernetes, where there is another
// airgate once a number elsewhere is changed, and each would allow every budget
// once more, unless the config says that there is one.
func aloneOrShared(q config.Quota) error {
	if q.Shared() || q.Replicas == 1 || os.Getenv(kubernetes) == "" {
		return nil
	}
	return errors.New("quota in memory counts for one airgate alone, and Kubernetes may run several: " +
		"write quota: {store: memory, replicas: 1} and keep the workload at one replica, or share a store (redis, valkey)")
}

// quotaStore is the quota store that the config names.
type quotaStore struct {
	quota.Store

	shared  bool                                        // other airgates count on it, too
	overlay overlay.Store                               // on the same server; nil = there is none
	whole   func(context.Context) error                 // waits until it grants
	survey  func(context.Context) (quota.Survey, error) // of all that share it; nil = nobody does
	close   func() error
}

// openStore opens the quota store that s names.
func openStore(ctx context.Context, s *config.Snapshot, r prometheus.Registerer, log *slog.Logger) (*quotaStore, error) {
	if !s.Quota.Shared() {
		return &quotaStore{Store: memory.New(), whole: func(context.Context) error { return nil }, close: func() error { return nil }}, nil
	}
	q := &s.Quota
	shared, err := redis.New(ctx, redis.Config{
		URL: q.URL, Username: q.Username, PasswordFile: q.PasswordFile, SentinelPasswordFile: q.SentinelPasswordFile, CAFile: q.CAFile,
		Deadline: q.Deadline, Registerer: r, Log: log,
	})
	if err != nil {
		return nil, storeFault(err)
	}
	return &quotaStore{
		Store: shared, shared: true, overlay: overlayredis.New(shared.Client()), whole: shared.Whole, survey: shared.Survey, close: shared.Close,
	}, nil
}

// storeFault tells a store that cannot be reached, or a file for it that cannot
// be read, from one that is not fit.
func storeFault(err error) error {
	told := fmt.Errorf("store: %w", err)
	if errors.Is(err, quota.ErrUnavailable) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return unreachable(told)
	}
	return problem(told)
}
