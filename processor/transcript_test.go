package processor_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"airgate/accounting"
	"airgate/accounting/journal"
	"airgate/accounting/quota/memory"
	"airgate/accounting/record"
	"airgate/policy"
	"airgate/policy/config"
	"airgate/policy/overlay"
	"airgate/processor"
)

// TestTranscripts reads testdata/*.txt: one request's life as Envoy tells it,
// and what airgate says and writes. Commands:
//
//	config            YAML follows: begins a new airgate with a key of team search
//	advance 300ms     time passes
//	headers           request headers, one a line (name: value); KEY is the key; eos = no body comes
//	body              the request body follows
//	answer            the answer's headers; details=… attempts=… eos
//	chunk             a chunk of the answer follows, \n escaped; eos
//	text 800          a chunk with one event of so much text, in small letters x; messages = in the other dialect
//	trailers
//	not-durable       what was to wait for the disk cannot
//	close             the stream ends; cause=DC,downstream_remote_disconnect gives the access-log entry
//	budgets           every budget
//	overlay           entries follow, one a line, made now; what is over is taken out
//	journal fail|ok   the journal stops, or works again
//
// Each prints the action, then the records that were written.
func TestTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		e := &env{t: t}
		datadriven.RunTest(t, path, e.run)
	})
}

type env struct {
	t      *testing.T
	now    time.Time
	snap   *config.Snapshot
	key    string
	ledger *accounting.Ledger
	book   *book
	proc   *processor.Processor
	stream *processor.Stream
	waits  bool   // the last chunk, for the disk
	sent   string // the body of the last request let go, "" = as it came
	ids    map[string]string
	laid   overlay.Set
}

// book is an in-memory journal.
type book struct {
	mu      sync.Mutex
	fail    bool
	records []record.Record
	told    int
	state   *accounting.Balances
}

var errBook = errors.New("disk is gone")

func (b *book) Append(r *record.Record) (journal.Position, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail {
		return 0, errBook
	}
	b.records = append(b.records, *r)
	b.state.Apply(r)
	return journal.Position(len(b.records)), nil
}

func (b *book) Wait(context.Context, journal.Position) error { return nil }

func (e *env) run(t *testing.T, d *datadriven.TestData) string {
	e.t = t
	switch d.Cmd {
	case "config":
		e.begin(d.Input)
		return ""
	case "advance":
		pause, err := time.ParseDuration(d.CmdArgs[0].Key)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		e.now = e.now.Add(pause)
		return ""
	case "journal":
		e.book.fail = d.HasArg("fail")
		return ""
	case "budgets":
		return e.budgets()
	case "overlay":
		return e.overlay(d.Input)
	case "headers":
		e.stream = e.proc.Begin(e.now)
		e.ids[e.stream.RequestID()] = fmt.Sprintf("ID%d", len(e.ids)+1)
		return e.step(&processor.RequestHeaders{Headers: e.headers(d.Input), EndOfStream: d.HasArg("eos"), Source: "192.0.2.7:4711", Now: e.now})
	case "body":
		return e.step(&processor.RequestBody{Body: []byte(d.Input), Now: e.now})
	case "answer":
		ev := &processor.ResponseHeaders{Headers: e.headers(d.Input), EndOfStream: d.HasArg("eos"), Details: "via_upstream", Attempts: 1, Now: e.now}
		d.MaybeScanArgs(t, "details", &ev.Details)
		d.MaybeScanArgs(t, "attempts", &ev.Attempts)
		return e.step(ev)
	case "chunk":
		text := strings.NewReplacer(`\n`, "\n", "\n", "").Replace(d.Input)
		return e.step(&processor.ResponseBody{Chunk: []byte(text), EndOfStream: d.HasArg("eos"), Now: e.now})
	case "text":
		event := "data: {\"model\":\"gpt-4o\",\"choices\":[{\"index\":0,\"delta\":{\"content\":%q}}]}\n\n"
		if d.HasArg("messages") {
			event = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":%q}}\n\n"
		}
		n, err := strconv.Atoi(d.CmdArgs[0].Key)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		return e.step(&processor.ResponseBody{Chunk: fmt.Appendf(nil, event, strings.Repeat("x", n)), Now: e.now})
	case "trailers":
		return e.step(&processor.ResponseTrailers{Now: e.now})
	case "not-durable":
		return e.step(&processor.NotDurable{Now: e.now})
	case "close":
		e.waits = false
		wait := e.stream.Close(e.now, true)
		var c processor.Cause
		if d.HasArg("cause") {
			var flags, details string
			d.ScanArgs(t, "cause", &flags, &details)
			c = processor.Cause{Flags: flags, Details: details}
		}
		e.stream.Finish(e.now, c)
		return fmt.Sprintf("wants the cause: %v\n", wait) + e.written()
	}
	d.Fatalf(t, "unknown command")
	return ""
}

func (e *env) begin(yaml string) {
	t := e.t
	t.Helper()
	e.now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	e.book = &book{state: accounting.NewBalances()}
	e.ids = map[string]string{}
	e.laid = overlay.Set{}
	e.start(yaml)
}

// load is the config of yaml, with a key of team search.
func (e *env) load(yaml string) *config.Snapshot {
	t := e.t
	t.Helper()
	id, text, hash, err := policy.NewKey(strings.NewReader(strings.Repeat("a fixed source of bytes for tests ", 100)))
	if err != nil {
		t.Fatal(err)
	}
	e.key = text
	yaml = "apiVersion: airgate/v1\n" + yaml + fmt.Sprintf("\nkeys: [{id: %s, team: search, name: k, secrets: [{hash: %q, created: 2026-01-01}]}]\n",
		id, policy.FormatHash(hash))
	snap, err := config.LoadBytes("test.yaml", []byte(yaml), e.now)
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

// start begins an airgate on the book as it is, as the gateway does.
func (e *env) start(yaml string) {
	t := e.t
	t.Helper()
	e.snap = e.load(yaml)
	_, err := processor.SettleOrphans(e.book, e.book.state, e.now)
	if err != nil {
		t.Fatal(err)
	}
	if err := processor.AuditOverrides(e.book, e.book.state, e.snap, e.now); err != nil {
		t.Fatal(err)
	}
	e.ledger, err = accounting.New(accounting.Config{Store: memory.New(), Replica: "test.1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.ledger.Apply(e.snap.Limits, e.now); err != nil {
		t.Fatal(err)
	}
	if err := e.ledger.Restore(e.book.state, e.now); err != nil {
		t.Fatal(err)
	}
	e.proc, err = processor.New(processor.Config{
		Snapshot: func() *config.Snapshot { return e.snap }, Ledger: e.ledger, Journal: e.book,
		HashKey: []byte("0123456789abcdef"), BodyBytes: 1 << 20, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
}

// overlay lays entries over the config, as a reload does.
func (e *env) overlay(lines string) string {
	t := e.t
	t.Helper()
	for line := range strings.Lines(lines) {
		entry, err := overlay.ParseDraft([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		entry.Made = e.now
		if entry, err = e.snap.Admit(entry, e.now); err != nil {
			t.Fatal(err)
		}
		e.laid.Add(entry)
	}
	next, err := e.snap.With(e.laid.Holding(e.now), e.now)
	if err != nil {
		t.Fatal(err)
	}
	if err := processor.AuditOverrides(e.book, e.book.state, next, e.now); err != nil {
		t.Fatal(err)
	}
	if err := processor.AuditOverlay(e.book, e.book.state, next, e.laid, e.now); err != nil {
		t.Fatal(err)
	}
	if err := e.ledger.Apply(next.Limits, e.now); err != nil {
		t.Fatal(err)
	}
	e.snap = next
	return e.written()
}

func (e *env) headers(text string) []processor.Header {
	var out []processor.Header
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		out = append(out, processor.Header{Name: name, Value: strings.ReplaceAll(value, "KEY", e.key)})
	}
	return out
}

func (e *env) step(ev processor.Event) string {
	if _, instead := ev.(*processor.NotDurable); e.waits && !instead {
		e.stream.After() // what the chunk before waited for is on disk
	}
	a := e.stream.Step(ev)
	out := describe(a)
	if c, ok := a.(*processor.Chunk); !ok || c.Durable == 0 {
		e.stream.After()
		e.waits = false
	} else {
		e.waits = true
	}
	return e.anonymous(longText.ReplaceAllStringFunc(out, func(x string) string { return fmt.Sprintf("x×%d", len(x)) }) + e.written())
}

var longText = regexp.MustCompile("x{16,}")

// describe prints an action.
func describe(a processor.Action) string {
	var b strings.Builder
	set := func(hs []processor.Header) {
		for _, h := range hs {
			fmt.Fprintf(&b, "  set %s: %s\n", h.Name, h.Value)
		}
	}
	switch a := a.(type) {
	case *processor.Continue:
		b.WriteString("continue\n")
	case *processor.Forward:
		fmt.Fprintf(&b, "forward, decision %s\n", a.Metadata.Decision)
		set(a.Set)
		for _, n := range a.Remove {
			fmt.Fprintf(&b, "  remove %s\n", n)
		}
		if a.Body != nil {
			fmt.Fprintf(&b, "  body %s\n", a.Body)
		}
	case *processor.Deny:
		fmt.Fprintf(&b, "deny %d %s\n", a.Status, a.Details)
		set(a.Headers)
		fmt.Fprintf(&b, "  body %s\n", a.Body)
	case *processor.Answer:
		fmt.Fprintf(&b, "answer, after record %d is on disk\n", a.Durable)
		set(a.Set)
		for _, n := range a.Remove {
			fmt.Fprintf(&b, "  remove %s\n", n)
		}
		if a.Duplex {
			b.WriteString("  duplex\n")
		}
		if a.Buffer {
			b.WriteString("  buffer\n")
		}
	case *processor.Chunk:
		b.WriteString("chunk")
		if a.Trailers {
			b.WriteString(" trailers")
		}
		if a.Replace {
			fmt.Fprintf(&b, " replaced by %q", a.Body)
		}
		if a.EndOfStream {
			b.WriteString(" eos")
		}
		if a.Cut != "" {
			b.WriteString(" cut: " + a.Cut)
		}
		if a.Durable != 0 {
			fmt.Fprintf(&b, ", after record %d is on disk", a.Durable)
		}
		b.WriteString("\n")
		set(a.Set)
	}
	return b.String()
}

// written prints the records since the last call, without what the journal
// adds and without what does not change.
func (e *env) written() string {
	var b strings.Builder
	for ; e.book.told < len(e.book.records); e.book.told++ {
		r := e.book.records[e.book.told]
		r.Time, r.KeyID, r.ConfigHash, r.TeamPath = time.Time{}, "", "", ""
		text := record.AppendJSON(nil, &r)
		fmt.Fprintf(&b, "record %d %s\n", e.book.told+1, text)
	}
	return e.anonymous(b.String())
}

func (e *env) anonymous(s string) string {
	for id, name := range e.ids {
		s = strings.ReplaceAll(s, id, name)
	}
	return s
}

func (e *env) budgets() string {
	var b strings.Builder
	for _, x := range e.ledger.Budgets(e.now) {
		fmt.Fprintf(&b, "%s: spent %s, reserved %s of %s\n", x.Name, x.Spent, x.Reserved, x.Limit)
	}
	return b.String()
}
