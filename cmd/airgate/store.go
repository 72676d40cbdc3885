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

// openStore opens the quota store that s names. shared says that other airgates
// count on it, too. closeStore is never nil.
func openStore(ctx context.Context, s *config.Snapshot, r prometheus.Registerer, log *slog.Logger) (
	store quota.Store, shared bool, closeStore func() error, err error,
) {
	if !s.Quota.Shared() {
		return memory.New(), false, func() error { return nil }, nil
	}
	opened, err := openShared(ctx, s.Quota, r, log)
	if err != nil {
		return nil, true, func() error { return nil }, storeFault(s.Quota.Store, err)
	}
	return opened, true, opened.Close, nil
}

// openShared opens a store that airgates share.
func openShared(ctx context.Context, q config.Quota, r prometheus.Registerer, log *slog.Logger) (*redis.Store, error) {
	return redis.New(ctx, redis.Config{
		URL: q.URL, Username: q.Username, PasswordFile: q.PasswordFile, Deadline: q.Deadline, Registerer: r, Log: log,
	})
}

// storeFault tells a store that cannot be reached, or whose password cannot be
// read, from one that is not fit.
func storeFault(name string, err error) error {
	if errors.Is(err, quota.ErrUnavailable) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return unreachable(fmt.Errorf("store: %w: is %s running, and does quota in the config say where and as whom?", err, name))
	}
	return problem(fmt.Errorf("store: %w", err))
}
