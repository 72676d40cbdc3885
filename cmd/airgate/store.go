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

// openStore opens the quota store that s names for a replica.incarnation. shared
// says that other airgates count on it, too. closeStore is never nil.
func openStore(ctx context.Context, s *config.Snapshot, replica string, r prometheus.Registerer, log *slog.Logger) (
	store quota.Store, shared bool, closeStore func() error, err error,
) {
	if !s.Quota.Shared() {
		return memory.New(), false, func() error { return nil }, nil
	}
	store, closeStore, err = openShared(ctx, s.Quota, replica, r, log)
	if err != nil {
		return nil, true, func() error { return nil }, storeFault(s.Quota.Store, err)
	}
	return store, true, closeStore, nil
}

// openShared is where a store that airgates share is built in.
func openShared(_ context.Context, q config.Quota, _ string, _ prometheus.Registerer, _ *slog.Logger) (quota.Store, func() error, error) { //nolint:unparam // none is, yet
	return nil, nil, fmt.Errorf("%s is not built into this version", q.Store)
}

// storeFault tells a store that cannot be reached, or whose password cannot be
// read, from one that is not fit.
func storeFault(name string, err error) error {
	if errors.Is(err, quota.ErrUnavailable) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return unreachable(fmt.Errorf("store: %w: is %s running, and does quota in the config say where and as whom?", err, name))
	}
	return problem(fmt.Errorf("store: %w", err))
}
