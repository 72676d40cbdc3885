// Package redis is the quota state that replicas share through Redis or Valkey:
// a single server, one that Sentinel watches, or a Cluster. It answers what
// quota.Store promises with one short Lua script a call, on one account-window's
// key.
//
// # What holds when
//
// No call waits longer than Config.Deadline. After one that fails, calls fail at
// once until the server answers a probe.
//
// A server can lose what it acknowledged: a replica is promoted that had not
// heard it, a server comes back without the last second, somebody empties it.
// Each shard of keys has a register on the same server: the replication id at
// which the shard was last known whole, and its windows. Each grant asks it in
// the same script. If the server has another id, or a window is missing, the
// shard grants nothing until all replicas that live have told again what they
// know of it, and those that do not answer are taken for gone: from three
// seconds after the loss, to ten and then with a warning that names them. What is
// spent stays within the limit unless who had a part of it is among those. A
// server whose INFO is hidden from scripts cannot be told from the one before it:
// then a promotion that loses writes lets pass what was granted by them, at most.
//
// A rate's bucket that is lost is full again, and permits are free until their
// holders ask for them again.
package redis

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	goredis "github.com/redis/go-redis/v9"

	"airgate/accounting/quota"
)

// DefaultDeadline is how long a call may take, all its tries together.
const DefaultDeadline = 50 * time.Millisecond

// patience is how long New waits for a server.
const patience = 5 * time.Second

// Config configures a Store.
type Config struct {
	// URL says where the state is:
	//
	//	redis://host[:6379][/database]
	//	redis+sentinel://host[:26379],host[:26379]…/master[?db=database]
	//	redis+cluster://host[:6379],host[:6379]…
	//
	// and the same with rediss for TLS, in which the server's certificate is for the
	// host of the URL, or for that which Sentinel or the Cluster tells.
	URL string

	Username             string // of an ACL user; "" = the default one
	PasswordFile         string // holds the password, a line end behind it does not count; read again on each connection
	SentinelPasswordFile string // holds that of the Sentinels; read once
	CAFile               string // PEM certificates to trust instead of the system's

	Deadline   time.Duration         // of each call; 0 = DefaultDeadline
	Registerer prometheus.Registerer // nil = metrics are not registered
	Log        *slog.Logger          // nil = no log
}

// Store is a quota.Store in Redis or Valkey. It is safe for concurrent use.
type Store struct {
	client   goredis.UniversalClient
	deadline time.Duration
	pace     pace
	log      *slog.Logger
	metrics  *metrics
	breakers []*breaker // one, or one per shard where they can fail apart
	detects  bool
	fleet    *fleet
	ended    context.CancelFunc
	probes   sync.WaitGroup
}

// pace is how fast Watch goes.
type pace struct {
	beat   time.Duration // a replica says that it lives, and hears what is lost
	join   time.Duration // until when all that live have heard of a loss
	gone   time.Duration // after which who has not said that it lives does not
	forget time.Duration // after which it is not waited for
}

// usual: join leaves room for two beats that get lost.
var usual = pace{beat: time.Second, join: 3 * time.Second, gone: 10 * time.Second, forget: time.Minute} //nolint:gochecknoglobals // a constant

//go:embed sync.lua
var syncSource string

//go:embed take.lua
var takeSource string

//go:embed permit.lua
var permitSource string

//nolint:gochecknoglobals // constants
var (
	syncScript   = goredis.NewScript(syncSource)
	takeScript   = goredis.NewScript(takeSource)
	permitScript = goredis.NewScript(permitSource)
)

// New connects to a server and looks at what keeps it from being a quota store:
// its version (Redis 6.2, Valkey 7.2 or later) and maxmemory-policy, which must
// be noeviction where there is a maxmemory. An error that is quota.ErrUnavailable
// may be gone the next time; it says what to look at. Close ends what New begins.
func New(ctx context.Context, c Config) (*Store, error) {
	return newStore(ctx, c, usual)
}

func newStore(ctx context.Context, c Config, p pace) (*Store, error) {
	u, err := parseURL(c.URL)
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	o, err := options(ctx, u, &c)
	if err != nil {
		return nil, err
	}
	goredis.SetLogger(silence{}) // what it says is in the errors that calls return
	s := &Store{deadline: cmp.Or(c.Deadline, DefaultDeadline), pace: p, log: c.Log, client: newClient(u, o), fleet: newFleet()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.metrics = newMetrics(s.up)
	breakers := 1
	if u.kind == cluster {
		breakers = shards
	}
	for i := range breakers {
		s.breakers = append(s.breakers, &breaker{key: registerKey(i), wake: make(chan struct{}, 1)})
	}
	o.ReadTimeout, o.WriteTimeout = patience, patience
	if err := s.check(ctx, newClient(u, o)); err != nil {
		if errors.Is(err, quota.ErrUnavailable) {
			err = fmt.Errorf("%w%s", err, advice(u, &c, err))
		}
		return nil, errors.Join(fmt.Errorf("%s: %w", u, err), s.client.Close())
	}
	if c.Registerer != nil {
		if err := s.metrics.register(c.Registerer); err != nil {
			return nil, errors.Join(fmt.Errorf("register metrics: %w", err), s.client.Close())
		}
	}
	probing, end := context.WithCancel(context.WithoutCancel(ctx)) // until Close
	s.ended = end
	for _, b := range s.breakers {
		s.probes.Go(func() { s.probe(probing, b) })
	}
	return s, nil
}

// Client is the connections of s, for other state on the same server. They end
// with s. A try takes half of Config.Deadline at most.
func (s *Store) Client() goredis.UniversalClient { return s.client }

// Close ends all connections. No call may be under way.
func (s *Store) Close() error {
	s.ended()
	s.probes.Wait()
	return s.client.Close()
}

// options are what all three kinds of client share. A call may be tried again
// within its deadline: each is safe to replay.
func options(ctx context.Context, u *address, c *Config) (*goredis.UniversalOptions, error) {
	deadline := cmp.Or(c.Deadline, DefaultDeadline)
	o := &goredis.UniversalOptions{
		Addrs:                 u.hosts,
		MasterName:            u.master,
		DB:                    u.database,
		Protocol:              2,
		DisableIdentity:       true,
		ContextTimeoutEnabled: true,
		DialTimeout:           time.Second,
		DialerRetries:         1,
		ReadTimeout:           deadline / 2,
		WriteTimeout:          deadline / 2,
		MinRetryBackoff:       time.Millisecond,
		MaxRetryBackoff:       deadline / 8,
		PipelinePoolSize:      -1,
	}
	if c.PasswordFile != "" || c.Username != "" {
		o.CredentialsProviderContext = func(context.Context) (user, password string, err error) {
			password, err = secret(c.PasswordFile)
			return c.Username, password, err
		}
		if _, _, err := o.CredentialsProviderContext(ctx); err != nil {
			return nil, fmt.Errorf("passwordFile cannot be read: %w", err)
		}
	}
	if c.SentinelPasswordFile != "" {
		if u.kind != sentinel {
			return nil, errors.New("there is a password file for Sentinels, but the url is not redis+sentinel://")
		}
		password, err := secret(c.SentinelPasswordFile)
		if err != nil {
			return nil, fmt.Errorf("sentinelPasswordFile cannot be read: %w", err)
		}
		o.SentinelPassword = password
	}
	if c.CAFile != "" && !u.tls {
		return nil, errors.New("there is a CA file, but the url is not rediss://: without TLS it is of no use")
	}
	if u.tls {
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		if u.kind == single {
			o.TLSConfig.ServerName, _, _ = net.SplitHostPort(u.hosts[0])
		}
		if c.CAFile != "" {
			pem, err := os.ReadFile(c.CAFile)
			if err != nil {
				return nil, fmt.Errorf("caFile cannot be read: %w", err)
			}
			o.TLSConfig.RootCAs = x509.NewCertPool()
			if !o.TLSConfig.RootCAs.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("caFile: %s has no certificate in PEM", c.CAFile)
			}
		}
	}
	return o, nil
}

// secret is what a file holds, without the end of its line; "" of none.
func secret(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	text, err := os.ReadFile(file) //nolint:gosec // the operator names it
	if err != nil {
		return "", err
	}
	word := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	if word == "" {
		return "", fmt.Errorf("%s is empty", file)
	}
	return word, nil
}

func newClient(u *address, o *goredis.UniversalOptions) goredis.UniversalClient {
	switch u.kind {
	case sentinel:
		return goredis.NewFailoverClient(o.Failover())
	case cluster:
		return goredis.NewClusterClient(o.Cluster())
	default:
		return goredis.NewClient(o.Simple())
	}
}

type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

// Sync implements quota.Store.
func (s *Store) Sync(ctx context.Context, c quota.Sync) (quota.State, error) {
	n := units{unit: max(c.Unit, 1)}
	expire, keep := int64(0), int64(0)
	if !c.Expire.IsZero() {
		expire, keep = c.Expire.UnixMilli(), max(0, c.Expire.Sub(c.Now).Milliseconds())
	}
	name := keyName(c.Key)
	args := make([]any, 0, 16+5*len(c.Others))
	args = append(args,
		c.Replica, n.count(c.Seq), digit(c.Known && (expire == 0 || c.Now.Before(c.Expire))),
		n.up(c.Seen), n.down(c.Returned), n.up(c.Spent), n.up(c.Want), n.up(c.Need), n.down(c.Limit), n.count(c.Version),
		int(c.Mode), expire, keep, recallOf(c.Recall, c.Replica, name), digit(c.Detail), name)
	// The sum of the closed ones says which of the others are in it: it goes first.
	for _, folded := range []bool{true, false} {
		for i := range c.Others {
			if o := &c.Others[i]; (o.Replica == quota.Folded) == folded {
				args = append(args, o.Replica, n.up(o.Granted), n.down(o.Returned), n.up(o.Spent), o.Closed)
			}
		}
	}
	if n.err != nil {
		return quota.State{}, fmt.Errorf("quota store: sync %s: %w", name, n.err)
	}
	shard := shardOf(c.Key)
	answer, err := s.call(ctx, "sync", shard, syncScript, []string{windowKey(shard, name), registerKey(shard)}, args)
	if err != nil {
		return quota.State{}, err
	}
	st := quota.State{
		Seq:      uint64(answer.next()),
		Granted:  answer.next() * n.unit,
		Spent:    answer.next() * n.unit,
		Settled:  answer.next() * n.unit,
		Escrowed: answer.next() * n.unit,
		Limit:    answer.next() * n.unit,
		Version:  uint64(answer.next()),
		Active:   int(answer.next()),
		Lost:     answer.next() == 1,
	}
	for answer.more() {
		st.Shares = append(st.Shares, quota.Share{
			Replica:  answer.text(),
			Granted:  answer.next() * n.unit,
			Returned: answer.next() * n.unit,
			Spent:    answer.next() * n.unit,
			Closed:   answer.next(),
		})
	}
	return st, answer.err
}

// Take implements quota.Store.
func (s *Store) Take(ctx context.Context, c quota.Take) (quota.Taken, error) {
	n, name, shard := units{unit: 1}, keyName(c.Key), shardOf(c.Key)
	args := []any{c.Replica, n.count(c.Seq), n.up(c.Seen), n.down(c.Returned), n.up(c.Want), n.up(c.Need), n.up(c.Capacity)}
	if n.err != nil {
		return quota.Taken{}, fmt.Errorf("quota store: take %s: %w", name, n.err)
	}
	answer, err := s.call(ctx, "take", shard, takeScript, []string{bucketKey(shard, name)}, args)
	if err != nil {
		return quota.Taken{}, err
	}
	t := quota.Taken{Seq: uint64(answer.next()), Taken: answer.next(), Level: answer.next(), Wait: time.Duration(answer.next()) * time.Microsecond}
	return t, answer.err
}

// Permit implements quota.Store.
func (s *Store) Permit(ctx context.Context, c quota.Permits) (quota.Permitted, error) {
	n, name, shard := units{unit: 1}, keyName(c.Key), shardOf(c.Key)
	args := []any{c.Replica, n.count(c.Seq), n.up(c.InUse), n.up(c.Want), n.up(c.Limit), c.TTL.Microseconds(), recallOf(c.Recall, c.Replica, name)}
	if n.err != nil {
		return quota.Permitted{}, fmt.Errorf("quota store: permit %s: %w", name, n.err)
	}
	answer, err := s.call(ctx, "permit", shard, permitScript, []string{permitsKey(shard, name)}, args)
	if err != nil {
		return quota.Permitted{}, err
	}
	p := quota.Permitted{Seq: uint64(answer.next()), Mine: answer.next(), Others: answer.next()}
	return p, answer.err
}

// call runs a script within the deadline, if the shard's breaker lets it.
func (s *Store) call(ctx context.Context, name string, shard int, script *goredis.Script, keys []string, args []any) (*answer, error) {
	b := s.breakers[shard%len(s.breakers)]
	if err := b.open(); err != nil {
		s.metrics.errors.WithLabelValues(name).Inc()
		return nil, err
	}
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, s.deadline)
	defer cancel()
	values, err := script.Run(limited, s.client, keys, args...).Slice()
	s.metrics.seconds.WithLabelValues(name).Observe(time.Since(began).Seconds())
	if err == nil {
		return &answer{values: values}, nil
	}
	s.metrics.errors.WithLabelValues(name).Inc()
	if !unavailable(err) {
		return nil, fmt.Errorf("quota store: %s: %w", name, err)
	}
	err = fmt.Errorf("%w: %s: %w", quota.ErrUnavailable, name, err)
	if ctx.Err() == nil {
		s.trip(b, err)
	}
	return nil, err
}

// unavailable is false for what the same call would be answered again by a
// server that is well.
func unavailable(err error) bool {
	var answer goredis.Error
	if !errors.As(err, &answer) {
		return true
	}
	code, _, _ := strings.Cut(answer.Error(), " ")
	return code != "ERR" && code != "WRONGTYPE" || strings.Contains(answer.Error(), "max number of clients")
}

// units turns amounts into what the store counts in, whole units below 2^53,
// and keeps the first error.
type units struct {
	unit int64
	err  error
}

const most = 1<<53 - 1

func (n *units) up(amount int64) int64 {
	return n.checked(amount, amount/n.unit+min(1, max(0, amount%n.unit)))
}

func (n *units) down(amount int64) int64 { return n.checked(amount, amount/n.unit) }

func (n *units) checked(amount, units int64) int64 {
	if (amount < 0 || units > most) && n.err == nil {
		n.err = fmt.Errorf("an amount of %d is not from 0 to (2^53 - 1) × %d", amount, n.unit)
	}
	return units
}

func (n *units) count(i uint64) uint64 {
	if i > most && n.err == nil {
		n.err = fmt.Errorf("%d is beyond 2^53 - 1", i)
	}
	return i
}

func digit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// answer is what a script returned, value by value.
type answer struct {
	values []any
	err    error
}

func (a *answer) more() bool { return len(a.values) > 0 && a.err == nil }

func (a *answer) text() string {
	if len(a.values) == 0 {
		a.fail(errors.New("it ends too early"))
		return ""
	}
	s, ok := a.values[0].(string)
	if !ok {
		a.fail(fmt.Errorf("it has a %T", a.values[0]))
	}
	a.values = a.values[1:]
	return s
}

func (a *answer) next() int64 {
	n, err := strconv.ParseInt(a.text(), 10, 64)
	a.fail(err)
	return n
}

func (a *answer) fail(err error) {
	if err != nil && a.err == nil {
		a.err = fmt.Errorf("quota store: its answer cannot be read: %w", err)
	}
}

// check refuses a server that cannot keep what it is asked to, and says what
// bound holds on this one.
func (s *Store) check(ctx context.Context, client goredis.UniversalClient) error {
	defer client.Close() //nolint:errcheck // it has only asked
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := client.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("%w: %w", quota.ErrUnavailable, err)
	}
	var mu sync.Mutex
	var servers []string
	var unfit error
	look := func(ctx context.Context, node *goredis.Client) error {
		text, err := node.Info(ctx).Result()
		if goredis.HasErrorPrefix(err, "NOPERM") || goredis.HasErrorPrefix(err, "unknown command") {
			s.log.Warn("quota store hides INFO: its version and maxmemory-policy are not known; it must be noeviction", "error", err)
			return nil
		}
		if err != nil {
			return err
		}
		server, err := accept(text)
		mu.Lock()
		defer mu.Unlock()
		servers, unfit = append(servers, server), errors.Join(unfit, err)
		return nil
	}
	var err error
	switch client := client.(type) {
	case *goredis.ClusterClient:
		err = client.ForEachMaster(ctx, look)
	case *goredis.Client:
		err = look(ctx, client)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", quota.ErrUnavailable, err)
	}
	if unfit != nil {
		return unfit
	}
	id, err := client.Eval(ctx, `local i = redis.pcall('INFO', 'replication') return type(i) == 'string' and string.match(i, 'master_replid:(%x+)') or '?'`, []string{registerKey(0)}).Text()
	if err != nil {
		return fmt.Errorf("%w: %w", quota.ErrUnavailable, err)
	}
	s.detects = id != "?"
	bound := "spend never passes a limit, not even after a server that lost writes, unless who had a part of it is lost too"
	if !s.detects {
		bound = "spend never passes a limit, except after a server that lost writes: then by the grants lost with them, since this server hides INFO from scripts"
	}
	slices.Sort(servers)
	s.log.Info("quota store", "servers", strings.Join(slices.Compact(servers), ", "), "bound", bound)
	return nil
}

// DetectsLoss says whether a server that lost writes can be told from one that
// did not. It cannot where INFO is hidden from scripts.
func (s *Store) DetectsLoss() bool { return s.detects }

// accept reads INFO. It returns the server's name and version.
func accept(info string) (string, error) {
	field := func(name string) string {
		_, after, _ := strings.Cut("\r\n"+info, "\r\n"+name+":")
		value, _, _ := strings.Cut(after, "\r\n")
		return value
	}
	name, version, oldest := "Redis", field("redis_version"), [2]int{6, 2}
	if v := field("valkey_version"); v != "" {
		name, version, oldest = "Valkey", v, [2]int{7, 2}
	}
	var major, minor int
	if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil {
		return "", fmt.Errorf("%s says that its version is %q", name, version)
	}
	if slices.Compare([]int{major, minor}, oldest[:]) < 0 {
		return "", fmt.Errorf("%s %s is too old: %d.%d or later is needed", name, version, oldest[0], oldest[1])
	}
	if limit, policy := field("maxmemory"), field("maxmemory_policy"); limit != "0" && policy != "noeviction" && policy != "" {
		return "", fmt.Errorf("maxmemory-policy is %s: a key that is evicted is a budget that begins anew; set it to noeviction", policy)
	}
	return name + " " + version, nil
}

// jittered is d, more or less a quarter of it, so that replicas do not keep step.
func jittered(d time.Duration) time.Duration {
	var b [1]byte
	_, _ = rand.Read(b[:]) // never fails
	return d*3/4 + d/2*time.Duration(b[0])/256
}
