package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"airgate/accounting"
	"airgate/accounting/failpoint"
	"airgate/accounting/journal"
	"airgate/accounting/journal/disk"
	"airgate/accounting/quota"
	"airgate/accounting/sink/sqlite"
	"airgate/cmd/airgate/admin"
	"airgate/envoy/accesslog"
	"airgate/envoy/extproc"
	"airgate/envoy/xds"
	"airgate/policy/config"
	"airgate/policy/overlay"
	"airgate/processor"
)

const (
	// bodyMemory is how many bytes of request bodies may be in memory at once.
	bodyMemory = 512 << 20
	// shippingTime is how long a stop waits for the sink. What is not in it by
	// then is in the journal, and shipped at the next start.
	shippingTime = 2 * time.Second
	// doorGrace is how long a stop waits for open calls of the API.
	doorGrace = time.Second
)

// gatewayOptions is what `serve`, `run` and `demo` start a gateway with.
type gatewayOptions struct {
	config      string
	data        string
	admin       string // address of the loopback API
	ops         string // address of metrics and probes; "" = none
	extProc     string // unix:///path; "" = <data>/extproc.sock
	drainToken  string // file with the token of /drain; "" = no drain
	writeToken  string // file with the token of writes to the API; "" = no writes
	startsEnvoy bool   // Envoy is started by us, so that it can have credentials from our environment
	log         *slog.Logger
}

// socket is the address that Envoy finds airgate at.
func (o *gatewayOptions) socket() string {
	if o.extProc != "" {
		return o.extProc
	}
	abs, err := filepath.Abs(o.data)
	if err != nil {
		abs = o.data // extproc.Listen says what is wrong with it
	}
	return "unix://" + filepath.Join(abs, "extproc.sock")
}

// How far a gateway is in its life.
const (
	starting int32 = iota
	serving
	stopping
)

// gateway is one running airgate: everything behind the ext_proc socket. Its
// parts are opened in the order of the fields and closed in the reverse.
type gateway struct {
	gatewayOptions

	snapshot  *config.Snapshot // at the start; then it is the reloader's
	registry  *prometheus.Registry
	adminDoor door
	opsDoor   door
	owner     *journal.Owner       // of the data directory
	balances  *accounting.Balances // what the journal adds up to
	hashKey   []byte
	sink      *sqlite.Sink // opened by the journal, closed after it
	journal   *journal.Journal
	store     *quotaStore
	overlay   *overlay.Copy
	ledger    *accounting.Ledger
	reloader  *config.Reloader
	processor *processor.Processor
	server    *extproc.Server

	phase        atomic.Int32
	stop         context.CancelFunc // ends the tasks
	tasks        sync.WaitGroup
	failed       chan error // tasks that ended otherwise
	stopShipping context.CancelFunc
	shipped      chan struct{} // closed when shipping has ended
}

// startGateway returns a gateway that answers Envoy. With the in-process quota
// store it waits for the data directory until ctx ends. Until then the probes
// answer already.
func startGateway(ctx context.Context, o gatewayOptions) (*gateway, error) {
	tuneMemory()
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	g := &gateway{
		gatewayOptions: o, registry: prometheus.NewRegistry(), stop: stop,
		failed: make(chan error, 12), // more than there are tasks: none waits to tell
	}
	started := context.AfterFunc(ctx, stop) // once it is, ctx is for the caller to watch
	var err error
	for _, open := range []func(context.Context) error{
		g.load, g.openDoors, g.own, g.load, g.openJournal, g.openStore, g.openOverlay, g.openLedger, g.startShipping,
		g.openProcessor, g.openSocket,
	} {
		if err = open(running); err != nil {
			break
		}
	}
	if !started() && err == nil {
		err = problem(ctx.Err())
	}
	if err != nil {
		return nil, errors.Join(err, g.closeWithin(ctx, doorGrace))
	}
	g.phase.Store(serving)
	return g, nil
}

// load refuses a config that cannot work here, before anything is written.
func (g *gateway) load(context.Context) (err error) {
	if g.snapshot, err = loadConfig(g.config); err != nil {
		return err
	}
	for _, p := range g.snapshot.Providers {
		switch {
		case p.CredentialEnv == "":
		case g.startsEnvoy && os.Getenv(p.CredentialEnv) == "":
			return problem(fmt.Errorf("provider %s takes its credential from %s, which is not set: export it, or use credential: {file: …}", p.Name, p.CredentialEnv))
		case !g.startsEnvoy:
			return fmt.Errorf("provider %s takes its credential from the environment, which only `airgate run` and "+
				"`airgate demo` hand to Envoy: use credential: {file: …}", p.Name)
		}
	}
	return aloneOrShared(g.snapshot.Quota)
}

// openDoors comes first: a port that is in use is told before anything is
// waited for, and who asks for readiness gets an answer.
func (g *gateway) openDoors(ctx context.Context) error {
	g.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo())
	g.setDoors(admin.Config{})
	if err := g.openDoor(ctx, "--admin", g.admin, &g.adminDoor); err != nil {
		return err
	}
	if g.ops == "" {
		return nil
	}
	return g.openDoor(ctx, "--ops", g.ops, &g.opsDoor)
}

func (g *gateway) openDoor(ctx context.Context, flag, addr string, d *door) error {
	l, err := listen(ctx, flag, addr)
	if err != nil {
		return err
	}
	d.addr = l.Addr()
	g.task("HTTP server of "+flag, func() error { return serveHTTP(ctx, l, d, doorGrace) })
	return nil
}

// setDoors lets the doors tell what cfg has, and what every gateway has.
func (g *gateway) setDoors(cfg admin.Config) {
	cfg.Gatherer, cfg.Ready = g.registry, g.ready
	if g.writeToken != "" {
		cfg.WriteToken = func() (string, error) { return readToken(g.writeToken) }
	}
	if g.drainToken != "" {
		cfg.Drain = newEnvoyAdmin(xds.AdminSocket(g.socket())).drain
		cfg.DrainToken = func() (string, error) { return readToken(g.drainToken) }
	}
	api := admin.New(cfg)
	g.adminDoor.set(api.Admin())
	g.opsDoor.set(api.Ops())
}

// own waits for the data directory. Who has waited begins with what the config
// files say then.
func (g *gateway) own(ctx context.Context) (err error) {
	if err := os.MkdirAll(g.data, 0o700); err != nil {
		return unreachable(fmt.Errorf("make data directory: %w", err))
	}
	g.owner, err = journal.Own(ctx, disk.OS{}, journalDir(g.data), g.log)
	return err
}

// openJournal settles what a crash left open.
func (g *gateway) openJournal(ctx context.Context) error {
	g.balances = accounting.NewBalances()
	cfg := journal.Config{
		Dir: journalDir(g.data), Owner: g.owner, Replica: replica(), Durability: g.snapshot.Journal.Durability, SyncEvery: syncEvery,
		SegmentBytes: failpoint.SegmentBytes(), State: g.balances, StartCode: accounting.StartCode(g.snapshot.Quota.Shared()), Log: g.log, Registerer: g.registry,
	}
	if name, _, ok := sinkOf(g.data, g.snapshot); ok {
		cfg.Sinks, cfg.Book = []string{name}, g.openSink
	}
	var err error
	if g.hashKey, err = g.openHashKey(); err != nil { // first: then what is here is of earlier starts
		return err
	}
	if g.journal, err = journal.Open(ctx, cfg); err != nil {
		return err
	}
	g.task("journal", func() error { return g.journal.Watch(ctx) })
	orphans, err := processor.SettleOrphans(g.journal, g.balances, time.Now())
	if orphans > 0 {
		g.log.Warn("calls that were open at the last end are charged at their bound", slog.Int("calls", orphans))
	}
	return err
}

// openHashKey says so if it makes a key although there are records already.
func (g *gateway) openHashKey() ([]byte, error) {
	path := hashKeyPath(g.data)
	_, missing := os.Stat(path)
	key, err := loadHashKey(disk.OS{}, path)
	if err != nil || !errors.Is(missing, fs.ErrNotExist) {
		return key, err
	}
	earlier, _ := journal.Writers(journalDir(g.data)) // what is wrong there is told as it is opened
	_, db, _ := sinkOf(g.data, g.snapshot)
	if _, none := os.Stat(db); len(earlier) > 0 || none == nil {
		g.log.Warn("the key of the pseudonyms was lost, and a new one is made: the same users and sessions have other pseudonyms from now on. "+
			"Reports show them as others, budgets of each user begin anew, and the old ones cannot be looked up. "+
			"If a backup has the file, stop airgate and put it back", slog.String("path", path))
	}
	return key, nil
}

// openStore comes before the overlay, which airgates share where they share the
// store.
func (g *gateway) openStore(ctx context.Context) (err error) {
	g.store, err = openStore(ctx, g.snapshot, g.registry, g.log)
	return err
}

func (g *gateway) openLedger(ctx context.Context) (err error) {
	g.ledger, err = accounting.New(accounting.Config{
		Store: g.store, Shared: g.store.shared, Replicas: g.snapshot.Quota.Replicas, Replica: g.journal.Writer(), Registerer: g.registry, Log: g.log,
	})
	if err != nil {
		return err
	}
	if !g.store.shared {
		return restore(g.ledger, g.balances, g.snapshot, time.Now()) //nolint:contextcheck // the store is in memory
	}
	if err := applyLimits(g.ledger, g.snapshot, time.Now()); err != nil {
		return err
	}
	return g.joinStore(ctx)
}

// wholeWithin is how long a start waits for a shared store to grant: a little longer
// than those have to tell again what they know who may be gone.
const wholeWithin = 15 * time.Second

// joinStore begins to count on a store that is shared: what earlier incarnations left
// there is told first.
func (g *gateway) joinStore(ctx context.Context) error {
	closed, err := g.ledger.Succeed(ctx, g.balances, time.Now())
	if err != nil {
		return storeFault(err)
	}
	if closed != nil {
		if _, err := g.journal.Append(closed); err != nil {
			// Nobody would be wronged: the next start tells the same again.
			g.log.Error("that earlier incarnations have closed what they had in the quota store cannot be recorded yet", slog.Any("error", err))
		}
	}
	g.task("quota", func() error {
		err := g.ledger.Run(ctx)
		if errors.Is(err, quota.ErrLeft) {
			err = fmt.Errorf("%w, as if %s had ended for good: no call is admitted any more; start it again, and it tells what it has spent", err, g.journal.Writer())
		}
		return err
	})
	waiting, end := context.WithTimeout(ctx, wholeWithin)
	defer end()
	if err := g.store.whole(waiting); err != nil && ctx.Err() == nil {
		g.log.Warn("the quota store does not grant yet: until it does, calls are as onStoreDown says", slog.Any("error", err))
	}
	return ctx.Err()
}

// leaveStore gives back what is in hand of a store that is shared. What cannot be
// told is, at the next start.
func (g *gateway) leaveStore(ctx context.Context) error {
	if g.ledger == nil || !g.store.shared {
		return nil
	}
	ctx, end := context.WithTimeout(ctx, doorGrace)
	defer end()
	if err := g.ledger.Close(ctx); err != nil {
		g.log.Warn("the quota store is not told all that was spent, nor given back what is in hand: the next start does", slog.Any("error", err))
		return nil
	}
	_, err := g.journal.Append(accounting.QuotaClosed(time.Now(), g.journal.Writer()))
	return err
}

func applyLimits(l *accounting.Ledger, s *config.Snapshot, now time.Time) error {
	if err := l.Apply(s.Limits, now); err != nil {
		return fmt.Errorf("apply limits: %w", err)
	}
	return nil
}

// restore makes the ledger know the config's limits and what was spent on them.
func restore(l *accounting.Ledger, b *accounting.Balances, s *config.Snapshot, now time.Time) error {
	if err := applyLimits(l, s, now); err != nil {
		return err
	}
	if err := l.Restore(b, now); err != nil {
		return fmt.Errorf("restore balances: %w", err)
	}
	return nil
}

// openSink opens the configured sink.
func (g *gateway) openSink(ctx context.Context) (_ journal.Book, err error) {
	_, path, _ := sinkOf(g.data, g.snapshot)
	if g.sink, err = sqlite.Open(ctx, path); err != nil {
		return nil, err
	}
	return g.sink, nil
}

func (g *gateway) startShipping(ctx context.Context) error {
	if g.sink == nil {
		return nil
	}
	name, _, _ := sinkOf(g.data, g.snapshot)
	shipping, stop := context.WithCancel(context.WithoutCancel(ctx))
	g.stopShipping, g.shipped = stop, make(chan struct{})
	go func() {
		defer close(g.shipped)
		g.ship(shipping, name)
	}()
	return nil
}

// ship ends with the journal. A sink that cannot go on does not end the
// gateway: what it lacks is in the journal, and its lag is a metric.
func (g *gateway) ship(ctx context.Context, name string) {
	switch err := g.journal.Ship(ctx, name, g.sink); {
	case errors.Is(err, context.Canceled):
		g.log.Warn("the sink does not have all records yet: the rest is shipped at the next start", slog.String("sink", name))
	case err != nil:
		g.log.Error("nothing more is shipped to the sink", slog.String("sink", name), slog.Any("error", err))
	}
}

func (g *gateway) openProcessor(ctx context.Context) (err error) {
	for _, w := range g.snapshot.Warnings {
		g.log.Warn("config", slog.String("problem", w.Error()))
	}
	if !g.snapshot.HasKeys {
		g.log.Warn("no keys are configured, so every caller is refused",
			slog.String("next", "airgate keys create --team TEAM --name NAME --config "+g.config))
	}
	g.reloader, err = config.NewReloader(config.ReloaderConfig{
		Path: g.config, Initial: g.snapshot, Overlay: g.overlay, Check: sameProviders, Log: g.log, Registerer: g.registry,
		Apply: g.apply,
	})
	if err != nil {
		return err
	}
	g.processor, err = processor.New(processor.Config{
		Snapshot: g.reloader.Current, Ledger: g.ledger, Journal: g.journal, HashKey: g.hashKey,
		BodyBytes: bodyMemory, Log: g.log, Registerer: g.registry,
	})
	if err != nil {
		return err
	}
	g.task("config reload", func() error { return g.reloader.Run(ctx) })
	g.task("overlay", func() error { return g.overlay.Run(ctx) })
	g.task("count of refusals", func() error { return g.countRefusals(ctx) })
	g.task("warnings of budgets", func() error { return g.warn(ctx) })
	return nil
}

// apply makes a changed config ready before it takes effect.
func (g *gateway) apply(next *config.Snapshot) error {
	if err := g.audit(next); err != nil {
		return err
	}
	return g.ledger.Apply(next.Limits, time.Now())
}

// openSocket comes last: from here on there are callers.
func (g *gateway) openSocket(context.Context) error {
	causes, err := accesslog.New(accesslog.Config{Log: g.log, Registerer: g.registry})
	if err != nil {
		return err
	}
	g.server, err = extproc.New(extproc.Config{
		Begin: func(now time.Time) extproc.Stream { return g.processor.Begin(now) },
		Wait:  g.journal.Wait, Causes: causes, MaxBodyBytes: g.snapshot.MaxBodyBytes, Log: g.log, Registerer: g.registry,
	})
	if err != nil {
		return err
	}
	socket, err := extproc.Listen(g.socket())
	if err != nil {
		return unreachable(err)
	}
	g.task("ext_proc server", func() error { return g.server.Serve(socket) })
	api := admin.Config{
		Budgets: g.budgets, Snapshot: g.reloader.Current, Status: g.reloader.Status, Put: g.put, Holders: g.holders, Reclaim: g.reclaim,
		Keys: func() ([]config.ListedKey, error) { return config.ListKeys(g.config) },
	}
	if g.sink != nil {
		api.Source, api.Fresh = g.sink, g.journal.Shipped
	}
	g.setDoors(api)
	return nil
}

// budgets tells what all airgates have spent.
func (g *gateway) budgets(now time.Time) []accounting.Budget {
	ctx, end := context.WithTimeout(context.Background(), time.Second)
	defer end()
	g.ledger.Refresh(ctx)
	return g.ledger.Budgets(now)
}

// task runs f until the gateway is closed; it is a failure of the whole if f
// ends before, or with an error.
func (g *gateway) task(name string, f func() error) {
	g.tasks.Go(func() {
		err := f()
		if err == nil && g.phase.Load() != stopping {
			err = errEnded
		}
		if err != nil {
			g.failed <- fmt.Errorf("%s: %w", name, err)
		}
	})
}

var errEnded = errors.New("ended before it was told to")

// ready says why Envoy should not be sent callers.
func (g *gateway) ready(ctx context.Context) error {
	switch g.phase.Load() {
	case starting:
		return errors.New("starting: reading the journal, or waiting for another airgate to leave the data directory, or for room on its disk")
	case stopping:
		return errors.New("stopping: open answers may go on for a while")
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(g.socket(), "unix://"))
	if err != nil {
		return fmt.Errorf("envoy cannot reach airgate: %w", err)
	}
	return conn.Close()
}

// countRefusals writes, every second, how many refusals have no record of their
// own.
func (g *gateway) countRefusals(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C: // its time may be older than refusals that are counted
			if err := g.processor.Flush(time.Now()); err != nil {
				g.log.Error("counted refusals are not recorded yet", slog.Any("error", err))
			}
		}
	}
}

// warn tells, every second, which thresholds budgets have reached since.
func (g *gateway) warn(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			g.warnNow(ctx)
		}
	}
}

func (g *gateway) warnNow(ctx context.Context) {
	if err := processor.AuditWarnings(ctx, g.journal, g.ledger, g.reloader.Current(), time.Now()); err != nil {
		g.log.Error("warnings of budgets are not recorded yet", slog.Any("error", err))
	}
}

// wait returns when ctx has ended, or with what a part of the gateway, or the
// Envoy that runs with it, has failed of. e may be nil.
func (g *gateway) wait(ctx context.Context, e *envoyProcess) error {
	var ended <-chan struct{}
	if e != nil {
		ended = e.ended
	}
	select {
	case <-ctx.Done():
		g.phase.Store(stopping)
		g.log.Info("stopping: open answers may go on for a while")
		return nil
	case err := <-g.failed:
		return err
	case <-ended:
		return fmt.Errorf("envoy %w: its log %s ends with: %s", e.end(), e.log, lastLine(e.log))
	}
}

// closeWithin closes the gateway; streams that are open after drain are cut.
func (g *gateway) closeWithin(ctx context.Context, drain time.Duration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	return g.close(ctx)
}

// close stops every part, streams first, the sink last. ctx bounds only the
// streams: those open when it ends are cut and settled. It also closes what
// startGateway has opened of a gateway.
func (g *gateway) close(ctx context.Context) error {
	g.phase.Store(stopping)
	var errs []error
	if g.server != nil {
		if err := g.server.Stop(ctx); err != nil {
			g.log.Warn("answers that were still open have been cut", slog.Any("reason", err))
		}
	}
	g.stop()
	g.tasks.Wait()
	if g.processor != nil { // then there is a journal
		g.journal.Retire()
		errs = append(errs, g.processor.Flush(time.Now().Add(time.Hour)))
	}
	if g.server != nil { // then there were calls
		g.warnNow(context.WithoutCancel(ctx)) // the next call may be long in coming
	}
	if g.store != nil {
		errs = append(errs, g.leaveStore(context.WithoutCancel(ctx)), g.store.close())
	}
	if g.journal != nil {
		errs = append(errs, g.journal.Close())
	}
	if g.owner != nil {
		errs = append(errs, g.owner.Close())
	}
	if g.sink != nil {
		errs = append(errs, g.closeSink())
	}
	close(g.failed)
	for err := range g.failed {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// closeSink waits until the sink has what the journal, which is closed, has.
func (g *gateway) closeSink() error {
	if g.shipped != nil { // else the start has failed before
		late := time.AfterFunc(shippingTime, g.stopShipping)
		<-g.shipped
		late.Stop()
		g.stopShipping()
	}
	return g.sink.Close()
}

const hashKeyBytes = 32

// hashKeyPath is the file with the key of the hashes of user and session.
func hashKeyPath(data string) string { return filepath.Join(data, "hash.key") }

// readHashKey reads it.
func readHashKey(d disk.Disk, path string) ([]byte, error) {
	key, err := disk.Load(d, path)
	if err != nil {
		return nil, fmt.Errorf("read hash key: %w", err)
	}
	if len(key) != hashKeyBytes {
		return nil, fmt.Errorf("hash key %s: want %d bytes, got %d; restore it, or move it away to begin with a new one: "+
			"users and sessions of then and now can no longer be matched", path, hashKeyBytes, len(key))
	}
	return key, nil
}

// loadHashKey reads it, or makes it where there is none. Who calls it has the
// data directory for himself. A key that it has returned outlasts a power loss:
// there is one pseudonym for each user.
func loadHashKey(d disk.Disk, path string) ([]byte, error) {
	key, err := readHashKey(d, path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		key = make([]byte, hashKeyBytes)
		_, _ = rand.Read(key) // never fails
		if err := disk.Save(d, path, key); err != nil {
			return nil, fmt.Errorf("write hash key: %w", err)
		}
		return key, nil
	case err != nil:
		return nil, err
	}
	if err := d.SyncDir(filepath.Dir(path)); err != nil { // who made it may have come no further
		return nil, fmt.Errorf("keep hash key: %w", err)
	}
	return key, nil
}

// replica names this airgate among others: the pod, or the host.
func replica() string {
	host, _ := os.Hostname() // without one it has the common name
	return cmp.Or(os.Getenv("AIRGATE_REPLICA"), os.Getenv("POD_NAME"), host, "airgate")
}

// syncEvery is how long one sync of the journal may gather records: nothing
// beside the time a provider takes to begin its answer.
const syncEvery = 2 * time.Millisecond

func journalDir(data string) string { return filepath.Join(data, "journal") }

// usualRecords is the records database below the data directory.
const usualRecords = "usage.db"

// sinkOf is the records database, if the config has one; it has at most one.
func sinkOf(data string, s *config.Snapshot) (name, path string, ok bool) {
	if len(s.Sinks) == 0 {
		return "", "", false
	}
	path = cmp.Or(s.Sinks[0].Path, usualRecords)
	if !filepath.IsAbs(path) {
		path = filepath.Join(data, path)
	}
	return s.Sinks[0].Name, path, true
}

func buildInfo() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "airgate_build_info", Help: "Always 1; the labels say what runs.", ConstLabels: prometheus.Labels{"version": version},
	}, func() float64 { return 1 })
}

// readToken reads a secret that has a file to itself. A line end after it does
// not count.
func readToken(path string) (string, error) {
	text, err := os.ReadFile(path) //nolint:gosec // named by the operator
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" {
		return "", fmt.Errorf("read token: %s is empty", path)
	}
	return token, nil
}
