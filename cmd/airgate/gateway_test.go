package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"airgate/accounting"
	"airgate/accounting/journal"
	"airgate/accounting/journal/disk"
	"airgate/accounting/journal/disk/disktest"
	"airgate/accounting/money"
	"airgate/accounting/quota/memory"
	"airgate/accounting/record"
	"airgate/accounting/sink/sqlite"
	"airgate/policy/config"
	"airgate/processor"
)

const testConfig = `apiVersion: airgate/v1
providers: {openai: {dialect: openai, url: https://api.openai.com, credential: {file: /run/secrets/openai}}}
models:    {gpt-5.4-mini: {provider: openai}}
teams:     {search: {}}
budgets:   [{name: search, match: {team: search}, usd: 500, per: month}]
`

// testOptions is a gateway of its own in a short temporary folder.
func testOptions(t *testing.T) gatewayOptions {
	t.Helper()
	t.Setenv(kubernetes, "")           // wherever the tests run
	dir, err := os.MkdirTemp("", "ag") //nolint:usetesting // short: a Unix socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "airgate.yaml")
	if err := os.WriteFile(path, []byte(testConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	return gatewayOptions{config: path, data: filepath.Join(dir, "data"), admin: "127.0.0.1:0", log: slog.New(slog.DiscardHandler)}
}

func open(t *testing.T, o gatewayOptions) *gateway {
	t.Helper()
	g, err := startGateway(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func shut(t *testing.T, g *gateway) {
	t.Helper()
	if err := g.closeWithin(t.Context(), time.Second); err != nil {
		t.Errorf("close: %v", err)
	}
}

func (g *gateway) get(t *testing.T, path string, out any) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get("http://" + g.adminDoor.addr.String() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("GET %s = %d %s, %v", path, res.StatusCode, body, err)
	}
	if err := json.Unmarshal(body, out); err != nil {
		t.Fatalf("GET %s: %v in %s", path, err, body)
	}
}

// denials appends n refusals to the gateway's journal.
func denials(t *testing.T, g *gateway, n int) {
	t.Helper()
	for range n {
		r := record.Record{Type: record.Deny, Time: time.Now(), RequestID: "r", Decision: "deny", Code: "rule_denied", Class: "policy", Family: "policy"}
		if _, err := g.journal.Append(&r); err != nil {
			t.Fatal(err)
		}
	}
}

// proven is what verify says of a data directory whose writers have all ended.
func proven(t *testing.T, o gatewayOptions) journal.Report {
	t.Helper()
	r, err := sqlite.OpenReadOnly(t.Context(), filepath.Join(o.data, "usage.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	report, err := journal.Verify(t.Context(), journalDir(o.data), r, func() journal.State { return accounting.NewBalances() })
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// After a clean stop the sink has every record, and no goroutine is left.
func TestCleanStop(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	o := testOptions(t)
	g := open(t, o)
	denials(t, g, 3000)
	shut(t, g)
	report := proven(t, o)
	if len(report.Writers) != 1 {
		t.Fatalf("%d writers, want 1", len(report.Writers))
	}
	w := report.Writers[0]
	if !report.Sound() || w.Last.Seq != 3001 || w.NotAnchored() != (journal.Span{}) {
		t.Errorf("writer = %+v, want 3001 sound records, all anchored", w)
	}
}

// A sink that cannot be written does not hold up a stop for ever; the next
// start ships what it lacks.
func TestStopWithBusySink(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	o := testOptions(t)
	g := open(t, o)
	busy, err := sql.Open("sqlite", "file:"+filepath.Join(o.data, "usage.db")+"?_txlock=immediate&_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = busy.Close() }()
	tx, err := busy.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	denials(t, g, 10)
	shut(t, g)
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if w := proven(t, o).Writers[0]; w.NotAnchored() == (journal.Span{}) {
		t.Fatal("the busy sink has every record")
	}
	shut(t, open(t, o))
	for _, w := range proven(t, o).Writers {
		if w.NotAnchored() != (journal.Span{}) || len(w.Problems) > 0 {
			t.Errorf("writer = %+v, want all anchored after the next start", w)
		}
	}
}

// A database that was lost, with the records that only it had, is told at the
// start and in a metric. Calls go on: the money is in the journal.
func TestLostDatabase(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	o := testOptions(t)
	g := open(t, o)
	denials(t, g, 3)
	first := g.journal.Writer()
	shut(t, g)
	g = open(t, o)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(journalDir(o.data), first)); errors.Is(err, fs.ErrNotExist) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the first writer's directory is not deleted")
		}
	}
	shut(t, g)
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(filepath.Join(o.data, "usage.db"+suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}

	var said bytes.Buffer
	o.log = slog.New(slog.NewTextHandler(&said, nil))
	for _, when := range []string{"at once", "after a restart"} {
		said.Reset()
		g = open(t, o)
		denials(t, g, 1)
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) { // shipping may not have begun
			if _, body := ask("http://"+g.adminDoor.addr.String()+"/metrics", ""); strings.Contains(body, `airgate_sink_missing_records{sink="local"} 4`) {
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("%s: the metrics do not have 4 missing records", when)
				break
			}
		}
		if err := g.journal.Shipped(t.Context()); err != nil {
			t.Fatal(err)
		}
		shut(t, g)
		for _, want := range []string{"level=ERROR", "restore the database", "airgate audit verify", "Keep the one that is there", "records 1 to 4 of " + first} {
			if !strings.Contains(said.String(), want) {
				t.Errorf("%s: the log does not say %q:\n%s", when, want, said.String())
			}
		}
	}
	if report := proven(t, o); report.Sound() {
		t.Error("audit verify finds nothing missing")
	}
}

// The journal alone tells balances where the database opens, and lacks something
// further inside, or is not what the journal shipped; not where the journal itself
// is damaged.
func TestOfflineBalancesWithoutTheDatabase(t *testing.T) {
	o := testOptions(t)
	g := open(t, o)
	denials(t, g, 3)
	writer := g.journal.Writer()
	if err := g.journal.Shipped(t.Context()); err != nil {
		t.Fatal(err)
	}
	shut(t, g)
	db, err := sql.Open("sqlite", "file:"+filepath.Join(o.data, "usage.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ask := func(without func(error)) error {
		_, closeAll, err := offlineAPI(t.Context(), &flags{config: o.config, data: o.data}, without, nil)
		if err == nil {
			closeAll()
		}
		return err
	}
	check := func(damage, words string) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), damage); err != nil {
			t.Fatal(err)
		}
		var lacking error
		if err := ask(func(err error) { lacking = err }); err != nil {
			t.Errorf("after %q: %v, want balances", damage, err)
		}
		if words == "" && lacking != nil || words != "" && (lacking == nil || !strings.Contains(lacking.Error(), words)) {
			t.Errorf("after %q it lacks: %v; want %q", damage, lacking, words)
		}
		if err := ask(nil); (err == nil) != (words == "") {
			t.Errorf("after %q, where records are asked for: %v; want %q", damage, err, words)
		}
	}
	check("SELECT 1", "")
	check("UPDATE heads SET seq = 99", "are gone")
	check("DROP TABLE heads", "no such table: heads")

	segments, err := filepath.Glob(filepath.Join(journalDir(o.data), writer, "*"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("segments of %s: %v, %v", writer, segments, err)
	}
	for _, name := range segments {
		if err := os.WriteFile(name, []byte("no segment"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := ask(func(err error) { t.Errorf("with a damaged journal it is said to lack: %v", err) }); err == nil {
		t.Error("with a damaged journal: nil, want its error")
	}
}

// After four starts the newest journal names one writer that is gone. A lost
// database lacks all three: log, metric and audit verify say so.
func TestLostDatabaseOfManyStarts(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	o := testOptions(t)
	var said bytes.Buffer
	o.log = slog.New(slog.NewTextHandler(&said, nil))
	for start := range 6 { // 0 to 3, then two without the database of these
		if start == 4 {
			for _, suffix := range []string{"", "-wal", "-shm"} {
				if err := os.Remove(filepath.Join(o.data, "usage.db"+suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Fatal(err)
				}
			}
		}
		said.Reset()
		g := open(t, o)
		denials(t, g, 2)
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if all, err := journal.Writers(journalDir(o.data)); err == nil && len(all) == 1 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the writer before is not deleted")
			}
		}
		_, body := ask("http://"+g.adminDoor.addr.String()+"/metrics", "")
		shut(t, g)
		var out strings.Builder
		err := tellProof(&terminal{out: &out}, &format{text: "table"}, proofOf(proven(t, o)))
		if err != nil {
			t.Fatal(err)
		}
		lost := start >= 4
		for where, found := range map[string]bool{
			"the metric":   strings.Contains(body, `airgate_sink_missing_records{sink="local"} 9`),
			"the log":      strings.Contains(said.String(), "records 1 to 3 of ") && strings.Contains(said.String(), "and 6 records of writers whose names are gone too"),
			"audit verify": strings.Contains(out.String(), "fault: 6 records of earlier writers, whose names are gone too, are gone"),
		} {
			if found != lost {
				t.Errorf("start %d: %s says that nine records are missing: %t\n%s\n%s", start, where, found, said.String(), out.String())
			}
		}
	}
}

// A damaged database stops the start with its own name and what to do. So it
// does, at once, whichever of its pages is damaged that a start reads.
func TestDamagedDatabase(t *testing.T) {
	o := testOptions(t)
	g := open(t, o)
	denials(t, g, 3)
	shut(t, g)
	path := filepath.Join(o.data, "usage.db")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func(b []byte){
		"another file":   func(b []byte) { copy(b, "this is no database") },
		"damaged tables": func(b []byte) { clear(b[100:]) },
		"damaged pages":  func(b []byte) { clear(b[4096:]) },
	} {
		b := slices.Clone(whole)
		damage(b)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := startGateway(t.Context(), o)
		if err == nil || !strings.HasPrefix(err.Error(), "open "+path) && !strings.HasPrefix(err.Error(), "ask the sink") ||
			!strings.Contains(err.Error(), "move "+path+", "+path+"-wal and "+path+"-shm away together, and restore the newest backup") {
			t.Errorf("%s: the start says %v, want the file and what to do", name, err)
		}
	}
}

// Without a sink the journal alone has the records; the rest works.
func TestWithoutSink(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	o := testOptions(t)
	if err := os.WriteFile(o.config, []byte(testConfig+"sinks: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	g := open(t, o)
	denials(t, g, 3)
	var budgets struct{ Budgets []struct{ Name string } }
	if g.get(t, "/api/v1/budgets", &budgets); len(budgets.Budgets) != 1 {
		t.Errorf("budgets = %+v, want one", budgets)
	}
	if status, body := ask("http://"+g.adminDoor.addr.String()+"/api/v1/requests", ""); status != http.StatusServiceUnavailable || !strings.Contains(body, "sinks: []") {
		t.Errorf("requests = %d %s, want 503 and why", status, body)
	}
	shut(t, g)
	if _, err := os.Stat(filepath.Join(o.data, "usage.db")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("usage.db: %v, want none", err)
	}
}

// A call that was open when airgate was killed costs its bound, once.
func TestOrphans(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	o := testOptions(t)
	g := open(t, o)
	var budgets struct {
		Budgets []struct {
			Account  string `json:"account"`
			Spent    string `json:"spent_usd"`
			Reserved string `json:"reserved_usd"`
		}
	}
	g.get(t, "/api/v1/budgets", &budgets)
	const id = "019a49b1-2f3a-7c11-8a4e-0123456789ab"
	intent := record.Record{
		Type: record.Intent, Time: time.Now(), RequestID: id, Team: "search", Decision: "allow", Reserved: 3 * money.USD,
		Limits: []record.Limit{{Name: "search", Account: budgets.Budgets[0].Account, Resource: "usd", Limit: 500 * int64(money.USD), Needed: 3 * int64(money.USD), Mode: "enforce"}},
	}
	if _, err := g.journal.Append(&intent); err != nil {
		t.Fatal(err)
	}
	shut(t, g)
	for range 2 {
		g = open(t, o)
		g.get(t, "/api/v1/budgets", &budgets)
		if b := budgets.Budgets[0]; b.Spent != "3" || b.Reserved != "0" {
			t.Errorf("budget = %+v, want 3 spent, 0 reserved", b)
		}
		var r struct {
			Class, Cause string
			Cost         string `json:"cost_usd"`
			UsageSource  string `json:"usage_source"`
		}
		for range 200 { // until it is shipped
			if g.get(t, "/api/v1/requests/"+id, &r); r.Class != "" {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if r.Class != "gateway" || r.Cause != "airgate_restarted" || r.Cost != "3" || r.UsageSource != "none" {
			t.Errorf("request = %+v, want it settled at its bound", r)
		}
		shut(t, g)
	}
}

// Whatever becomes of the journal, what the database proves was spent counts,
// once, to a start and to who reads without one.
func TestBudgetsOutliveTheJournal(t *testing.T) {
	newest := func(t *testing.T, dir string) string {
		t.Helper()
		names, err := filepath.Glob(filepath.Join(dir, "*", "*.wal"))
		if err != nil || len(names) == 0 {
			t.Fatalf("no segment: %v", err)
		}
		return slices.MaxFunc(names, func(a, b string) int {
			return strings.Compare(filepath.Base(filepath.Dir(a)), filepath.Base(filepath.Dir(b)))
		})
	}
	for name, lose := range map[string]func(t *testing.T, dir string) error{
		"moved away": func(_ *testing.T, dir string) error { return os.Rename(dir, dir+".away") },
		"a writer moved away": func(t *testing.T, dir string) error {
			return os.Rename(filepath.Dir(newest(t, dir)), dir+".away")
		},
		"cut in half": func(t *testing.T, dir string) error {
			path := newest(t, dir)
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			return os.Truncate(path, info.Size()/2)
		},
	} {
		t.Run(name, func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			o := testOptions(t)
			g := open(t, o)
			const calls = 10
			spend(t, g, calls)
			shut(t, g)
			if err := lose(t, journalDir(o.data)); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(journalDir(o.data), 0o700); err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				ledger := offlineLedger(t, o)
				if spent := ledger.Budgets(time.Now())[0].Spent; spent != calls*money.USD {
					t.Errorf("offline, before start %d: %s spent, want %d", i, spent, calls)
				}
				g := open(t, o)
				if b := g.ledger.Budgets(time.Now())[0]; b.Spent != calls*money.USD || b.Reserved != 0 {
					t.Errorf("start %d: %s spent, %s reserved; want %d, 0", i, b.Spent, b.Reserved, calls)
				}
				for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
					left, err := journal.Writers(journalDir(o.data))
					if err != nil || time.Now().After(deadline) {
						t.Fatalf("writers %q are left, %v", left, err)
					}
					if len(left) == 1 { // the others are in the database, and counted
						break
					}
				}
				shut(t, g)
				if report := proven(t, o); !report.Sound() {
					t.Errorf("after start %d: %+v, want sound", i, report)
				}
			}
		})
	}
}

// spend lets calls of 1 USD each be in the gateway's journal, and on its budget.
func spend(t *testing.T, g *gateway, calls int) {
	t.Helper()
	account := g.ledger.Budgets(time.Now())[0].Account
	for i := range calls {
		id := fmt.Sprintf("019a49b1-2f3a-7c11-8a4e-%012d", i)
		for _, r := range []record.Record{
			{
				Type: record.Intent, Time: time.Now(), RequestID: id, Team: "search", Decision: "allow", Reserved: 2 * money.USD,
				Limits: []record.Limit{{Name: "search", Account: account, Resource: "usd", Limit: 500 * int64(money.USD), Needed: 2 * int64(money.USD), Mode: "enforce"}},
			},
			{Type: record.Settle, Time: time.Now(), RequestID: id, Team: "search", Decision: "allow", Reserved: 2 * money.USD, HasCost: true, Cost: money.USD, Class: "ok"},
		} {
			if _, err := g.journal.Append(&r); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// offlineLedger is what is read without a running airgate.
func offlineLedger(t *testing.T, o gatewayOptions) *accounting.Ledger {
	t.Helper()
	snapshot, err := loadConfig(o.config)
	if err != nil {
		t.Fatal(err)
	}
	records, err := openRecords(t.Context(), o.data, snapshot)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = records.Close() }()
	ledger, err := replayed(t.Context(), o.data, records, snapshot, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ledger
}

// Who has waited for the data directory begins with the config as it is then.
func TestTheConfigIsReadAfterTheWait(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	first := testOptions(t)
	g := open(t, first)
	spend(t, g, 1)
	waits := make(waiting, 1)
	second := first
	second.log = slog.New(slog.NewTextHandler(waits, nil))
	started := make(chan *gateway)
	go func() {
		g, err := startGateway(t.Context(), second)
		if err != nil {
			t.Error(err)
		}
		started <- g
	}()
	<-waits
	config := strings.Replace(testConfig, "500", "700", 1) + "journal: {durability: process}\nsinks: [{name: other, type: sqlite, path: other.db}]\n"
	if err := os.WriteFile(first.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	shut(t, g)
	if g = <-started; g == nil {
		return
	}
	if b := g.ledger.Budgets(time.Now())[0]; b.Limit != 700*money.USD || b.Spent != money.USD {
		t.Errorf("%s of %s spent, want 1 of 700", b.Spent, b.Limit)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := g.journal.Wait(ended, 1_000_000); err != nil {
		t.Errorf("Wait = %v, want nil: the durability is that of a process", err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		left, err := journal.Writers(journalDir(first.data)) // what the sink has is deleted
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("writers %q are left, %v", left, err)
		}
		if len(left) == 1 {
			break
		}
	}
	shut(t, g)
	r, err := sqlite.OpenReadOnly(t.Context(), filepath.Join(first.data, "other.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if heads, err := r.Heads(t.Context()); err != nil || len(heads) != 2 {
		t.Errorf("the sink has %v, %v; want the records of both", heads, err)
	}
}

// waiting is a log that gets a token as it says so.
type waiting chan struct{}

func (w waiting) Write(b []byte) (int, error) {
	if strings.Contains(string(b), "waiting until it ends") {
		w <- struct{}{}
	}
	return len(b), nil
}

// A start that fails leaves nothing behind.
func TestFailedStart(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = busy.Close() }()
	for name, c := range map[string]struct {
		spoil func(o *gatewayOptions)
		want  string
	}{
		"no data directory": {func(o *gatewayOptions) { o.data = filepath.Join(o.config, "below-a-file") }, "make data directory"},
		"hash key cut": {func(o *gatewayOptions) {
			_ = os.MkdirAll(o.data, 0o700)
			_ = os.WriteFile(filepath.Join(o.data, "hash.key"), []byte("short"), 0o600)
		}, "want 32 bytes, got 5; restore it, or move it away"},
		"no database": {func(o *gatewayOptions) {
			_ = os.MkdirAll(filepath.Join(o.data, "usage.db"), 0o700)
		}, "usage.db"},
		"no store": {func(o *gatewayOptions) {
			_ = os.WriteFile(o.config, []byte(testConfig+"quota: {store: redis, url: redis://127.0.0.1:1}\n"), 0o600)
		}, "store: "},
		"socket is a file": {func(o *gatewayOptions) { o.extProc = "unix://" + o.config }, "exists and is not a socket"},
		"ops in use":       {func(o *gatewayOptions) { o.ops = busy.Addr().String() }, "--ops " + busy.Addr().String() + " is in use"},
		"bad admin":        {func(o *gatewayOptions) { o.admin = "127.0.0.1:http:" }, "--admin 127.0.0.1:http:"},
	} {
		t.Run(name, func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			o := testOptions(t)
			c.spoil(&o)
			g, err := startGateway(t.Context(), o)
			if err == nil {
				shut(t, g)
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("startGateway = %v, want %q", err, c.want)
			}
		})
	}
}

// A part that ends is a failure of the whole.
func TestPartEnds(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	g := open(t, testOptions(t))
	g.task("part", func() error { return nil })
	if err := g.wait(t.Context(), nil); err == nil || err.Error() != "part: ended before it was told to" {
		t.Errorf("wait = %v, want that the part has ended", err)
	}
	g.failed <- io.ErrUnexpectedEOF
	if err := g.closeWithin(t.Context(), time.Second); err == nil || !strings.Contains(err.Error(), "unexpected EOF") {
		t.Errorf("close = %v, want the failure nobody has waited for", err)
	}
}

// No task outlives the gateway, and none of them the journal.
func TestCloseWaits(t *testing.T) {
	g := open(t, testOptions(t))
	told, ended, stop := make(chan struct{}), false, g.stop
	g.stop = func() {
		close(told)
		stop()
	}
	g.task("slow", func() error {
		<-told
		time.Sleep(50 * time.Millisecond)
		denials(t, g, 1)
		ended = true
		return nil
	})
	shut(t, g)
	if !ended {
		t.Error("the task has not ended")
	}
}

// told is a journal.State that keeps what the records are.
type told struct{ records []record.Record }

func (s *told) Apply(r *record.Record)             { s.records = append(s.records, *r) }
func (*told) AppendCheckpoint(b []byte) []byte     { return b }
func (*told) RestoreCheckpoint([]byte) (err error) { return nil }

// A clean stop on a full disk keeps the counts of refusals: with no call in
// flight, they may have the room of settlements.
func TestAStopOnAFullDiskKeepsCounts(t *testing.T) {
	snapshot, err := config.LoadBytes("airgate.yaml", []byte(testConfig), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		const dir = "/data/journal"
		d := disktest.New(1)
		d.Resize(1 << 20)
		g := &gateway{stop: func() {}, failed: make(chan error)}
		if g.journal, err = journal.Open(t.Context(), journal.Config{Dir: dir, Replica: "one", Disk: d}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second) // it makes its ballast
		free, _, err := d.Space(dir)
		if err := errors.Join(err, d.Reserve(t.Context(), "/other", free)); err != nil {
			t.Fatal(err)
		}
		ledger, err := accounting.New(accounting.Config{Store: memory.New(), Replica: "one"})
		if err != nil {
			t.Fatal(err)
		}
		g.processor, err = processor.New(processor.Config{
			Snapshot: func() *config.Snapshot { return snapshot }, Ledger: ledger, Journal: g.journal,
			HashKey: make([]byte, hashKeyBytes), BodyBytes: 1, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		const strangers = 77
		post := []processor.Header{{Name: ":method", Value: "POST"}, {Name: ":path", Value: "/v1/chat/completions"}}
		for range strangers {
			s := g.processor.Begin(time.Now())
			s.Step(&processor.RequestHeaders{Headers: post, Source: "192.0.2.1:1", Now: time.Now()})
			s.Close(time.Now(), true)
			s.Finish(time.Now(), processor.Cause{})
		}
		time.Sleep(2 * time.Second)
		if err := g.processor.Flush(time.Now()); !errors.Is(err, journal.ErrUnavailable) {
			t.Errorf("Flush on a full disk = %v, want %v", err, journal.ErrUnavailable)
		}
		if err := g.close(t.Context()); err != nil {
			t.Errorf("close = %v, want nil", err)
		}
		var book told
		if err := journal.Replay(t.Context(), journal.Config{Dir: dir, Disk: d, State: &book}); err != nil {
			t.Fatal(err)
		}
		if n := len(book.records); n != 2 || book.records[1].Count != strangers {
			t.Errorf("the book has %d records, the last is %+v; want a start, and one that counts %d", n, book.records[n-1], strangers)
		}
	})
}

// slow is a journal each of whose records takes a while.
type slow struct {
	takes   time.Duration
	records []record.Record
}

func (s *slow) Append(r *record.Record) (journal.Position, error) {
	time.Sleep(s.takes)
	s.records = append(s.records, *r)
	return journal.Position(len(s.records)), nil
}

func (*slow) Wait(context.Context, journal.Position) error { return nil }

// A tick that waited while the journal was slow does not make two counts of one
// second.
func TestALateTickCountsASecondOnce(t *testing.T) {
	snapshot, err := config.LoadBytes("airgate.yaml", []byte(testConfig), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		book := &slow{takes: 10500 * time.Millisecond}
		ledger, err := accounting.New(accounting.Config{Store: memory.New(), Replica: "one"})
		if err != nil {
			t.Fatal(err)
		}
		g := &gateway{}
		g.log = slog.New(slog.DiscardHandler)
		g.processor, err = processor.New(processor.Config{
			Snapshot: func() *config.Snapshot { return snapshot }, Ledger: ledger, Journal: book,
			HashKey: make([]byte, hashKeyBytes), BodyBytes: 1, Log: g.log,
		})
		if err != nil {
			t.Fatal(err)
		}
		stranger := func() {
			s := g.processor.Begin(time.Now())
			s.Step(&processor.RequestHeaders{
				Headers: []processor.Header{{Name: ":method", Value: "POST"}, {Name: ":path", Value: "/v1/chat/completions"}}, Source: "192.0.2.1:1", Now: time.Now(),
			})
			s.Close(time.Now(), true)
			s.Finish(time.Now(), processor.Cause{})
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		stranger()
		go func() { done <- g.countRefusals(ctx) }()
		time.Sleep(11200 * time.Millisecond) // the tick of the second second waits
		stranger()
		time.Sleep(500 * time.Millisecond) // it is received
		stranger()
		time.Sleep(time.Minute)
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := len(book.records); n != 2 || book.records[1].Count != 2 {
			t.Errorf("%d records: %+v; want one that counts 1, and one that counts 2", n, book.records)
		}
	})
}

func TestHashKeyIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hash.key")
	first, err := loadHashKey(disk.OS{}, path)
	if err != nil {
		t.Fatal(err)
	}
	second, err := loadHashKey(disk.OS{}, path)
	if err != nil {
		t.Fatal(err)
	}
	if string(first) != string(second) || len(first) != 32 {
		t.Errorf("keys of %d and %d bytes differ", len(first), len(second))
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
}

// A start that cannot hand Envoy its credential has written nothing.
func TestAStartWithoutItsVariableLeavesNothing(t *testing.T) {
	o := testOptions(t)
	o.startsEnvoy = true
	const name = "AIRGATE_TEST_CREDENTIAL"
	if err := os.WriteFile(o.config, []byte(strings.Replace(testConfig, "file: /run/secrets/openai", "env: "+name, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(name, "")
	if _, err := startGateway(t.Context(), o); err == nil || !strings.Contains(err.Error(), "credential from "+name+", which is not set") {
		t.Errorf("the start says %v, want that %s is not set", err, name)
	}
	if _, err := os.Stat(o.data); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the data directory: %v, want none", err)
	}
	t.Setenv(name, "secret")
	shut(t, open(t, o))
}

// A key that was lost is told by the start that makes another one.
func TestALostHashKeyIsTold(t *testing.T) {
	o := testOptions(t)
	var said bytes.Buffer
	o.log = slog.New(slog.NewTextHandler(&said, nil))
	for i, step := range []struct {
		lose []string
		told bool
	}{
		{},
		{},
		{lose: []string{"hash.key"}, told: true},
		{lose: []string{"hash.key", "journal"}, told: true},
		{lose: []string{"hash.key", "usage.db", "usage.db-wal", "usage.db-shm"}, told: true},
		{lose: []string{"hash.key", "usage.db", "usage.db-wal", "usage.db-shm", "journal"}},
	} {
		for _, name := range step.lose {
			if err := os.RemoveAll(filepath.Join(o.data, name)); err != nil {
				t.Fatal(err)
			}
		}
		said.Reset()
		shut(t, open(t, o))
		if got := strings.Contains(said.String(), "the key of the pseudonyms was lost"); got != step.told {
			t.Errorf("step %d: told %t, want %t:\n%s", i, got, step.told, said.String())
		}
	}
}

// A machine that loses power at any change while the key is made: the next start
// has a whole key, and the same one that somebody has used already.
func TestHashKeyOutlastsAPowerLoss(t *testing.T) {
	const path = "/data/hash.key"
	for n := 1; n <= 8; n++ {
		for seed := range uint64(100) {
			d := disktest.New(seed)
			if err := errors.Join(d.Mkdir("/data"), d.SyncDir("/")); err != nil {
				t.Fatal(err)
			}
			var used []byte
			for i, off := range []int{n, n % 3, 0} { // the next start may be cut off, too
				d.Off(off)
				key, err := loadHashKey(d, path)
				switch {
				case off == 0 && err != nil, err != nil && !errors.Is(err, disktest.ErrCrashed):
					t.Fatalf("off at %d, seed %d: %v", n, seed, err)
				case err == nil && used != nil && string(used) != string(key):
					t.Fatalf("off at %d, seed %d: another key", n, seed)
				case err == nil:
					used = key
				}
				if i == 0 && seed%2 == 0 {
					d = d.Kill() // only the process has died
				} else {
					d = d.Crash()
				}
			}
		}
	}
}

func TestSameProviders(t *testing.T) {
	load := func(providers, rest string) *config.Snapshot {
		t.Helper()
		s, err := config.LoadBytes("airgate.yaml", []byte(`apiVersion: airgate/v1
providers: {`+providers+`}
models:    {gpt-5.4-mini: {provider: openai}}
teams:     {search: {}}
budgets:   [{name: search, match: {team: search}, usd: 500, per: month}]
`+rest), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	const openai = "openai: {dialect: openai, url: https://api.openai.com, credential: {file: /a}"
	old := load(openai+"}", "")
	for name, c := range map[string]struct {
		next *config.Snapshot
		want string
	}{
		"the same":            {load(openai+"}", ""), ""},
		"tags are airgate's":  {load(openai+", tags: {region: eu}}", ""), ""},
		"so is exclusiveness": {load(openai+", exclusive: [search]}", ""), ""},
		"another URL":         {load(strings.Replace(openai, "api.", "eu.api.", 1)+"}", ""), "provider openai changed: needs an Envoy restart"},
		"another credential":  {load(strings.Replace(openai, "/a", "/b", 1)+"}", ""), "provider openai changed: needs an Envoy restart"},
		"one more":            {load(openai+"}, anthropic: {dialect: anthropic, url: https://api.anthropic.com, credential: {file: /a}}", ""), "the providers changed"},
		"body size":           {load(openai+"}", "maxBodyBytes: 1000000\n"), "maxBodyBytes changed"},
		"another quota store": {load(openai+"}", `quota: {store: redis, url: "redis://127.0.0.1:6379"}`), "quota changed: needs a restart"},
	} {
		err := sameProviders(old, c.next)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: sameProviders = %v, want %q", name, err, c.want)
		}
	}
}
