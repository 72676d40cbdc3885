// Package redistest runs real Redis and Valkey servers for tests, and a network
// that fails.
package redistest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// Binary is a server program.
type Binary struct {
	Path    string
	Name    string // "redis", "valkey"
	Version string // "7.0.15"
}

func (b Binary) String() string { return b.Name + "-" + b.Version }

// atLeast is whether b is that Redis, or any Valkey: those began later.
func (b Binary) atLeast(major, minor int) bool {
	var a, i int
	_, err := fmt.Sscanf(b.Version, "%d.%d", &a, &i)
	return err == nil && (b.Name == "valkey" || slices.Compare([]int{a, i}, []int{major, minor}) >= 0)
}

// Binaries are all servers to be had: of each kind what $AIRGATE_REDIS or
// $AIRGATE_VALKEY names, that of .tools/bin, and that on PATH, each version once.
// Where one kind cannot be had at all, a test in CI fails, and skips elsewhere.
func Binaries(t testing.TB) []Binary {
	t.Helper()
	return append(binaries(t, "redis"), binaries(t, "valkey")...)
}

// Redis is the first Redis to be had.
func Redis(t testing.TB) Binary { t.Helper(); return binaries(t, "redis")[0] }

// Valkey is the first Valkey to be had.
func Valkey(t testing.TB) Binary { t.Helper(); return binaries(t, "valkey")[0] }

func binaries(t testing.TB, name string) []Binary {
	t.Helper()
	program := name + "-server"
	paths := []string{os.Getenv("AIRGATE_" + strings.ToUpper(name))}
	if root := projectRoot(); root != "" {
		paths = append(paths, filepath.Join(root, ".tools", "bin", program))
	}
	if onPath, err := exec.LookPath(program); err == nil {
		paths = append(paths, onPath)
	}
	var found []Binary
	for _, path := range paths {
		if path == "" {
			continue
		}
		out, err := exec.CommandContext(t.Context(), path, "--version").CombinedOutput()
		m := version.FindSubmatch(out)
		if err != nil || m == nil {
			if !errors.Is(err, os.ErrNotExist) {
				t.Logf("%s is no server: %v\n%s", path, err, out)
			}
			continue
		}
		b := Binary{Path: path, Name: name, Version: string(m[1])}
		if !slices.ContainsFunc(found, func(f Binary) bool { return f.Version == b.Version }) {
			found = append(found, b)
		}
	}
	if len(found) == 0 {
		if os.Getenv("CI") != "" {
			t.Fatalf("no %s: in CI none may be missing", program)
		}
		t.Skipf("no %s: install one, or name it in AIRGATE_%s", program, strings.ToUpper(name))
	}
	return found
}

var version = regexp.MustCompile(`\bv=(\d+\.\d+\.\d+)`)

func projectRoot() string {
	dir, err := os.Getwd()
	for err == nil && dir != "/" {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		dir = filepath.Dir(dir)
	}
	return ""
}

// Server is a running server. It ends with its test.
type Server struct {
	Addr   string // host:port
	binary Binary
	dir    string
	flags  []string
	cmd    *exec.Cmd
	output bytes.Buffer // what it says before it has a log
	ended  chan struct{}
	client *goredis.Client
}

// Start starts a server on a free port that keeps nothing on disk, unless flags
// say so.
func Start(t testing.TB, b Binary, flags ...string) *Server {
	t.Helper()
	s := &Server{binary: b, dir: t.TempDir()}
	for range 20 {
		s.Addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(freePort(t)))
		_, port, _ := net.SplitHostPort(s.Addr)
		s.flags = []string{"--bind", "127.0.0.1", "--port", port, "--dir", s.dir, "--save", "", "--repl-diskless-sync-delay", "0", "--logfile", filepath.Join(s.dir, "log")}
		if b.atLeast(7, 0) {
			s.flags = append(s.flags, "--enable-debug-command", "yes")
		}
		s.flags = append(s.flags, flags...)
		if s.run(t) {
			return s
		}
	}
	t.Fatalf("%s does not start:\n%s", b, s.log())
	return nil
}

// freePort is one whose Cluster bus, 10,000 above, is free too.
func freePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		_ = l.Close()
		if port > 55_535 {
			continue
		}
		if bus, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", port+10_000)); err == nil {
			_ = bus.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

// run starts the program. It is false if that ends at once.
func (s *Server) run(t testing.TB) bool {
	t.Helper()
	s.cmd = exec.CommandContext(context.WithoutCancel(t.Context()), s.binary.Path, s.flags...)
	s.output.Reset()
	s.cmd.Stdout, s.cmd.Stderr = &s.output, &s.output
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended, cmd := make(chan struct{}), s.cmd
	s.ended = ended
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	if s.client != nil {
		_ = s.client.Close()
	}
	s.client = goredis.NewClient(&goredis.Options{Addr: s.Addr, Protocol: 2, DialTimeout: time.Second, ReadTimeout: 5 * time.Second, MaxRetries: -1, DialerRetries: 1, DisableIdentity: true})
	client := s.client
	t.Cleanup(func() { _ = client.Close() })
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		select {
		case <-ended:
			return false
		default:
		}
		err := client.Ping(context.Background()).Err()
		if err == nil || strings.Contains(err.Error(), "NOAUTH") {
			return true
		}
	}
	t.Fatalf("%s does not answer within 20 s:\n%s", s.binary, s.log())
	return false
}

func (s *Server) log() string {
	text, _ := os.ReadFile(filepath.Join(s.dir, "log"))
	select {
	case <-s.ended:
		return s.output.String() + string(text)
	default:
		return string(text)
	}
}

// URL is its address for redis.Config.
func (s *Server) URL() string { return "redis://" + s.Addr }

// Client is a client of it, without any deadline of ours.
func (s *Server) Client() *goredis.Client { return s.client }

// Do runs a command. An error answer fails the test.
func (s *Server) Do(t testing.TB, args ...any) any {
	t.Helper()
	v, err := s.client.Do(context.Background(), args...).Result()
	if err != nil && !errors.Is(err, goredis.Nil) {
		t.Fatalf("%s: %v: %v", s.binary, args, err)
	}
	return v
}

// Pause stops it without closing anything, until Resume.
func (s *Server) Pause() { _ = s.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (s *Server) Resume() { _ = s.cmd.Process.Signal(syscall.SIGCONT) }

// Kill ends it as kill -9 does.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill()
	<-s.ended
}

// Restart starts it again, where it was and with what is on its disk.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	if !s.run(t) {
		t.Fatalf("%s does not start again:\n%s", s.binary, s.log())
	}
}

// Replica starts a replica of s and waits until it has all that s has.
func Replica(t testing.TB, s *Server, flags ...string) *Server {
	t.Helper()
	host, port, _ := net.SplitHostPort(s.Addr)
	r := Start(t, s.binary, append([]string{"--replicaof", host, port}, flags...)...)
	r.await(t, "replication", "master_link_status:up")
	return r
}

// Promote makes a replica a master.
func (s *Server) Promote(t testing.TB) {
	t.Helper()
	s.Do(t, "REPLICAOF", "NO", "ONE")
	s.await(t, "replication", "role:master")
}

func (s *Server) await(t testing.TB, section, line string) {
	t.Helper()
	var info string
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if info, _ = s.client.Info(context.Background(), section).Result(); strings.Contains(info, line) {
			return
		}
	}
	t.Fatalf("%s does not come to %s within 20 s:\n%s\n%s", s.binary, line, info, s.log())
}

// Cluster starts three masters that share all slots.
func Cluster(t testing.TB, b Binary, flags ...string) []*Server {
	t.Helper()
	const slots = 16384
	var nodes []*Server
	for i := range 3 {
		s := Start(t, b, append([]string{"--cluster-enabled", "yes", "--cluster-node-timeout", "2000"}, flags...)...)
		args := []any{"CLUSTER", "ADDSLOTS"}
		for slot := slots * i / 3; slot < slots*(i+1)/3; slot++ {
			args = append(args, slot)
		}
		s.Do(t, args...)
		s.Do(t, "CLUSTER", "SET-CONFIG-EPOCH", i+1)
		nodes = append(nodes, s)
	}
	for _, s := range nodes[1:] {
		host, port, _ := net.SplitHostPort(s.Addr)
		nodes[0].Do(t, "CLUSTER", "MEET", host, port)
	}
	for _, s := range nodes {
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			info := fmt.Sprint(s.Do(t, "CLUSTER", "INFO"))
			if strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:3") {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("the cluster is not whole within 20 s:\n%s", info)
			}
		}
	}
	return nodes
}

// Announce has each node of a Cluster tell clients and other nodes the address of
// the same place in the list, and waits until all have heard.
func Announce(t testing.TB, nodes []*Server, addrs []string) {
	t.Helper()
	var ports []string
	for i, s := range nodes {
		_, port, _ := net.SplitHostPort(addrs[i])
		s.Do(t, "CONFIG", "SET", "cluster-announce-port", port)
		ports = append(ports, port)
	}
	for _, s := range nodes {
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			slots := fmt.Sprint(s.Do(t, "CLUSTER", "SLOTS"))
			if !slices.ContainsFunc(ports, func(port string) bool { return !strings.Contains(slots, port) }) {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("not all ports of %s are known within 20 s:\n%s", ports, slots)
			}
		}
	}
}

// Move moves the slot of key, with all that is in it, from the node of a Cluster
// that has it to the next one, as resharding does: key by key, with a pause
// between them.
func Move(t testing.TB, nodes []*Server, key string, pause time.Duration) {
	t.Helper()
	slot := nodes[0].Do(t, "CLUSTER", "KEYSLOT", key)
	count := func(s *Server) int64 { n, _ := s.Do(t, "CLUSTER", "COUNTKEYSINSLOT", slot).(int64); return n }
	i := slices.IndexFunc(nodes, func(s *Server) bool { return count(s) > 0 })
	if i < 0 {
		t.Fatalf("no node has keys in the slot of %s", key)
	}
	from, to := nodes[i], nodes[(i+1)%len(nodes)]
	id := to.Do(t, "CLUSTER", "MYID")
	to.Do(t, "CLUSTER", "SETSLOT", slot, "IMPORTING", from.Do(t, "CLUSTER", "MYID"))
	from.Do(t, "CLUSTER", "SETSLOT", slot, "MIGRATING", id)
	host, port, _ := net.SplitHostPort(to.Addr)
	for count(from) > 0 {
		keys, _ := from.Do(t, "CLUSTER", "GETKEYSINSLOT", slot, 1).([]any)
		for _, key := range keys {
			from.Do(t, "MIGRATE", host, port, key, 0, 5000)
		}
		time.Sleep(pause)
	}
	for _, s := range append([]*Server{to, from}, nodes...) {
		s.Do(t, "CLUSTER", "SETSLOT", slot, "NODE", id)
	}
}

// Errors is how many commands the nodes have answered with an error of a code.
func Errors(t testing.TB, nodes []*Server, code string) (n int) {
	t.Helper()
	for _, s := range nodes {
		info := fmt.Sprint(s.Do(t, "INFO", "errorstats"))
		_, after, _ := strings.Cut(info, "errorstat_"+code+":count=")
		var one int
		_, _ = fmt.Sscan(after, &one)
		n += one
	}
	return n
}

// Sentinel starts one that watches master under the name main, and promotes a
// replica within a second of its end.
func Sentinel(t testing.TB, master *Server) *Server {
	t.Helper()
	host, port, _ := net.SplitHostPort(master.Addr)
	s := &Server{binary: master.binary, dir: t.TempDir()}
	config := filepath.Join(s.dir, "sentinel.conf")
	own := freePort(t)
	text := fmt.Sprintf("port %d\nbind 127.0.0.1\ndir %s\nlogfile %s\nsentinel monitor main %s %s 1\nsentinel down-after-milliseconds main 500\nsentinel failover-timeout main 5000\n",
		own, s.dir, filepath.Join(s.dir, "log"), host, port)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Addr, s.flags = net.JoinHostPort("127.0.0.1", strconv.Itoa(own)), []string{config, "--sentinel"}
	if !s.run(t) {
		t.Fatalf("the Sentinel does not start:\n%s", s.log())
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if info, _ := s.client.Info(context.Background(), "sentinel").Result(); strings.Contains(info, "slaves=1") {
			return s
		}
		if time.Now().After(end) {
			t.Fatalf("the Sentinel does not see a replica within 20 s:\n%s", s.log())
		}
	}
}

// At is s as somebody sees it who reaches it at another address.
func (s *Server) At(addr string) *Server { return &Server{Addr: addr, binary: s.binary} }

// Wipe removes what is on its disk. It does not run.
func (s *Server) Wipe(t testing.TB) {
	t.Helper()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(s.dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
}
