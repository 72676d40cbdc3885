package processor_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"airgate/accounting"
	"airgate/accounting/record"
	"airgate/accounting/usage"
	"airgate/processor"
)

const (
	restartBase = `
providers: {openai: {dialect: openai, url: https://api.openai.com, credential: {file: /secret}}}
models: {gpt-5.4-mini: {provider: openai}}
teams: {search: {}}
`
	restartPrices  = "prices: {usdPerMillionTokens: {gpt-5.4-mini: {input: 1, cacheRead: 0.1, output: 10}}}\n"
	restartBudgets = "budgets: [{name: search, match: {team: search}, usd: 1.00, per: month}]\n"
)

// callInFlight is admitted and has no answer yet.
func (e *env) callInFlight() *processor.Stream {
	e.t.Helper()
	s := e.proc.Begin(e.now)
	s.Step(&processor.RequestHeaders{Headers: e.headers(":method: POST\n:path: /v1/chat/completions\nauthorization: Bearer KEY"), Now: e.now})
	a := s.Step(&processor.RequestBody{Body: []byte(`{"model":"gpt-5.4-mini","max_completion_tokens":1000}`), Now: e.now})
	if _, ok := a.(*processor.Forward); !ok {
		e.t.Fatalf("the call is not let go: %s", describe(a))
	}
	s.After()
	return s
}

// answered ends a call with 100 tokens in and 200 out.
func (e *env) answered(s *processor.Stream) record.Record {
	s.Step(&processor.ResponseHeaders{Headers: e.headers(":status: 200\ncontent-type: application/json"), Details: "via_upstream", Attempts: 1, Now: e.now})
	s.Step(&processor.ResponseBody{Chunk: []byte(`{"choices":[],"usage":{"prompt_tokens":100,"completion_tokens":200}}`), EndOfStream: true, Now: e.now})
	s.Close(e.now, true)
	s.Finish(e.now, processor.Cause{})
	return e.last()
}

// crash begins the next airgate at a time, with what a checkpoint keeps.
func (e *env) crash(yaml string, now time.Time) {
	e.t.Helper()
	e.now = now
	state := accounting.NewBalances()
	if err := state.RestoreCheckpoint(e.book.state.AppendCheckpoint(nil)); err != nil {
		e.t.Fatal(err)
	}
	e.book.state = state
	e.start(yaml)
}

// stand is what Budgets says, by name.
func (e *env) stand() map[string]string {
	out := map[string]string{}
	for _, b := range e.ledger.Budgets(e.now) {
		out[b.Name] = fmt.Sprintf("%s of %s in %s", b.Spent+b.Reserved, b.Limit, b.Account)
	}
	return out
}

// TestRestart: one call has been settled, at 0.0021 USD; one was in flight as
// airgate was killed, at a bound of 0.010181 USD. Whatever is different at the
// next start, what was spent counts where it was spent.
func TestRestart(t *testing.T) {
	const month = "usd|team=search|month@UTC|2026-11"
	day := func(d int) time.Time { return time.Date(2026, 11, d, 12, 0, 0, 0, time.UTC) }
	budgets := func(list string) string { return restartBase + restartPrices + "budgets: [" + list + "]\n" }
	for name, c := range map[string]struct {
		before string // the config; restartBudgets if empty
		after  string
		at     time.Time
		want   map[string]string
	}{
		"nothing": {
			after: restartBase + restartPrices + restartBudgets, at: day(21),
			want: map[string]string{"search": "0.012281 of 1 in " + month},
		},
		"a new price catalogue": {
			after: restartBase + strings.Replace(restartPrices, "output: 10", "output: 99", 1) + restartBudgets, at: day(21),
			want: map[string]string{"search": "0.012281 of 1 in " + month},
		},
		"a budget lowered below what was spent": {
			after: budgets("{name: search, match: {team: search}, usd: 0.01, per: month}"), at: day(21),
			want: map[string]string{"search": "0.012281 of 0.01 in " + month},
		},
		"a budget renamed": {
			after: budgets("{name: seek, match: {team: search}, usd: 1, per: month}"), at: day(21),
			want: map[string]string{"seek": "0.012281 of 1 in " + month},
		},
		"a budget removed": {
			after: budgets("{name: other, match: {team: search}, usd: 1, per: year}"), at: day(21),
			want: map[string]string{"other": "0 of 1 in usd|team=search|year@UTC|2026"},
		},
		"a budget added": {
			after: budgets("{name: search, match: {team: search}, usd: 1, per: month}, {name: company, usd: 5, per: month}"), at: day(21),
			want: map[string]string{"search": "0.012281 of 1 in " + month, "company": "0 of 5 in usd|month@UTC|2026-11"},
		},
		"another match": {
			after: budgets("{name: search, match: {team: search, model: gpt-5.4-mini}, usd: 1, per: month}"), at: day(21),
			want: map[string]string{"search": "0 of 1 in usd|team=search|model=gpt-5.4-mini|month@UTC|2026-11"},
		},
		"another time zone": {
			after: budgets("{name: search, match: {team: search}, usd: 1, per: month, timeZone: Asia/Tokyo}"), at: day(21),
			want: map[string]string{"search": "0 of 1 in usd|team=search|month@Asia/Tokyo|2026-11"},
		},
		"a clock set back in the window": {
			after: restartBase + restartPrices + restartBudgets, at: day(2),
			want: map[string]string{"search": "0.012281 of 1 in " + month},
		},
		"a clock set back before the window": {
			after: restartBase + restartPrices + restartBudgets, at: day(-3),
			want: map[string]string{"search": "0 of 1 in usd|team=search|month@UTC|2026-10"},
		},
		"a window that ended": {
			after: restartBase + restartPrices + restartBudgets, at: day(31),
			want: map[string]string{"search": "0 of 1 in usd|team=search|month@UTC|2026-12"},
		},
		"an override that ended": {
			before: budgets("{name: search, each: team, usd: 1, per: month, overrides: [{for: {team: search}, usd: 7, until: 2026-11-25}]}"),
			after:  budgets("{name: search, each: team, usd: 1, per: month, overrides: [{for: {team: search}, usd: 7, until: 2026-11-25}]}"), at: day(25),
			want: map[string]string{"search": "0.012281 of 1 in usd|each=team:search|month@UTC|2026-11"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := &env{t: t}
			before := c.before
			if before == "" {
				before = restartBase + restartPrices + restartBudgets
			}
			e.begin(before)
			e.answered(e.callInFlight())
			e.callInFlight()
			e.crash(c.after, c.at)
			if d := cmp.Diff(c.want, e.stand()); d != "" {
				t.Errorf("budgets after the start (-want +got):\n%s", d)
			}
			for _, r := range e.book.records {
				if r.Cause == "airgate_restarted" && (r.Cost != r.Reserved || r.Cost == 0 || r.UsageSource != usage.None || r.Class != "gateway") {
					t.Errorf("the call in flight is settled as %+v, want its bound, marked", r)
				}
			}
			// Once all is as it was, all is there; and nothing is charged twice.
			e.crash(before, day(22))
			for _, got := range e.stand() {
				if !strings.HasPrefix(got, "0.012281 of ") {
					t.Errorf("budget as before = %s, want 0.012281 spent", got)
				}
			}
		})
	}
}

// A call is settled with the prices it was admitted with, though others hold by
// then.
func TestNewPricesBeforeTheSettlement(t *testing.T) {
	e := &env{t: t}
	e.begin(restartBase + restartPrices + restartBudgets)
	s := e.callInFlight()
	e.snap = e.load(restartBase + strings.Replace(restartPrices, "output: 10", "output: 99", 1) + restartBudgets)
	if err := e.ledger.Apply(e.snap.Limits, e.now); err != nil {
		t.Fatal(err)
	}
	if r := e.answered(s); r.Cost.String() != "0.0021" {
		t.Errorf("the call costs %s, want 0.0021 as at its admission", r.Cost)
	}
	if r := e.answered(e.callInFlight()); r.Cost.String() != "0.0199" {
		t.Errorf("the next call costs %s, want 0.0199", r.Cost)
	}
}

// A call whose price nobody knew has no cost: unknown is not zero.
func TestUnpricedOrphan(t *testing.T) {
	const unpriced = "models: {local: {provider: openai, maxOutputTokens: 100}}\nunpriced: allow\n"
	config := strings.Replace(restartBase, "models: {gpt-5.4-mini: {provider: openai}}\n", unpriced, 1) + restartBudgets
	e := &env{t: t}
	e.begin(config)
	e.play("", `{"model":"local"}`, "")
	e.book.state = accounting.NewBalances()
	e.book.state.Apply(&e.book.records[0])
	if n, err := processor.SettleOrphans(e.book, e.book.state, e.now); n != 1 || err != nil {
		t.Fatalf("SettleOrphans = %d, %v; want 1", n, err)
	}
	if r := e.last(); r.HasCost || r.Cause != "airgate_restarted" {
		t.Errorf("record %+v, want no cost", r)
	}
}

// What a journal that fails leaves open is settled by the next try.
func TestOrphansOfAFailingJournal(t *testing.T) {
	e := &env{t: t}
	e.begin(restartBase + restartPrices + restartBudgets)
	e.callInFlight()
	e.book.fail = true
	if n, err := processor.SettleOrphans(e.book, e.book.state, e.now); n != 0 || !errors.Is(err, errBook) {
		t.Errorf("SettleOrphans = %d, %v; want an error", n, err)
	}
	e.book.fail = false
	for want := 1; want >= 0; want-- {
		if n, err := processor.SettleOrphans(e.book, e.book.state, e.now); n != want || err != nil {
			t.Errorf("SettleOrphans = %d, %v; want %d", n, err, want)
		}
	}
}

// The book says once which overrides there are, and again only what changes.
func TestOverridesAreAudited(t *testing.T) {
	config := func(overrides string) string {
		return restartBase + restartPrices + "budgets: [{name: search, each: team, usd: 1, per: month, overrides: [" + overrides + "]}]\n"
	}
	const first = "{for: {team: search}, usd: 7, until: 2026-11-25, by: kim, reason: INC-12}"
	e := &env{t: t}
	e.begin(config(first))
	e.crash(config(first), e.now)
	e.crash(config(strings.Replace(first, "7", "8", 1)), e.now)
	e.crash(config(""), e.now)
	var got []string
	for _, r := range e.book.records {
		got = append(got, fmt.Sprintf("%s %s %v", r.Code, r.Detail, r.ConfigHash == e.snap.Hash))
	}
	want := []string{
		`override_set override of budget "search" for team=search: 7 USD until 2026-11-25T00:00:00Z, by kim: INC-12 false`,
		`override_set override of budget "search" for team=search: 8 USD until 2026-11-25T00:00:00Z, by kim: INC-12 false`,
		`override_gone override of budget "search" for team=search: 8 USD until 2026-11-25T00:00:00Z, by kim: INC-12 true`,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("records (-want +got):\n%s", d)
	}
	e.book.fail = true
	if err := processor.AuditOverrides(e.book, e.book.state, e.load(config(first)), e.now); !errors.Is(err, errBook) {
		t.Errorf("AuditOverrides while the journal fails = %v, want its error", err)
	}
}

// The book is told of the overlay once, also over a restart, and not at all
// where it cannot be: then the entry must not hold.
func TestOverlayIsAudited(t *testing.T) {
	config := restartBase + restartPrices + "overlay: {maxRaise: 100}\nbudgets: [{name: search, each: team, usd: 1, per: month}]\n"
	e := &env{t: t}
	e.begin(config)
	e.overlay(`{"kind": "raise", "name": "search", "to_usd": "7", "until": "2026-11-22T12:00:00Z", "by": "kim", "reason": "INC-12"}`)
	e.crash(config, e.now)
	e.overlay("")
	var codes []string
	for _, r := range e.book.records {
		codes = append(codes, r.Code+" "+r.Rule)
	}
	if d := cmp.Diff([]string{"overlay_set raise/search"}, codes); d != "" {
		t.Errorf("records (-want +got):\n%s", d)
	}
	bare, err := e.snap.With(nil, e.now)
	if err != nil {
		t.Fatal(err)
	}
	e.book.fail = true
	if err := processor.AuditOverlay(e.book, e.book.state, bare, e.laid, e.now); !errors.Is(err, errBook) {
		t.Errorf("AuditOverlay while the journal fails = %v, want its error", err)
	}
	e.book.fail = false
	e.now = e.now.AddDate(0, 0, 1)
	for range 2 {
		e.overlay("")
	}
	last := e.book.records[len(e.book.records)-1]
	const want = "overlay raise/search to 7 USD until 2026-11-22T12:00:00Z, by kim: INC-12; it has ended"
	if len(e.book.records) != 2 || last.Code != "overlay_gone" || last.Rule != "raise/search" || last.Detail != want {
		t.Errorf("after its end the last of %d records is %+v, want one more: overlay_gone %s", len(e.book.records), last, want)
	}
}
