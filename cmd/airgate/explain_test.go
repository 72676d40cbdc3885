package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"airgate/accounting/record"
	"airgate/accounting/record/recordtest"
)

func TestExplainText(t *testing.T) {
	deny := recordtest.Examples()["deny"]
	deny.ModelRequested = "gpt\x1b[2J\nfake line"
	deny.Purpose, deny.PurposeSource = "eval", "key"
	deny.Limits = []record.Limit{
		{Name: "rate", Account: "a", Resource: "requests", Limit: 20, Used: 30, Needed: 1, Mode: "enforce"},
		{Name: "fits", Account: "b", Resource: "usd", Limit: 5e9, Used: 1e9, Reserved: 1e9, Needed: 3e9, Mode: "enforce"},
		{Name: "tight", Account: "c", Resource: "usd", Limit: 5e9, Used: 1e9, Reserved: 1e9, Needed: 3e9 + 1, Mode: "shadow", Reset: recordtest.Noon()},
		{Name: "usual", Account: "d", Resource: "usd", Limit: 5e9, Used: 1e9, Reserved: 1e9, Needed: 1e9, Worst: 3.5e9, Mode: "enforce"},
	}
	deny.WouldDeny = []string{"budget:tight"}
	blocked := recordtest.Examples()["deny"]
	blocked.ModelRequested, blocked.Model, blocked.Provider, blocked.Limits, blocked.WouldDeny = "", "", "", nil, nil
	blocked.Rule, blocked.Detail = "block/team/search", "team search is blocked by kim until 2026-11-21T14:00:00Z: runaway agent, INC-12"
	failed := recordtest.Examples()["intent"]
	failed.Type, failed.Class, failed.Limits, failed.WouldDeny, failed.Store, failed.Cap, failed.Reserved = record.Settle, "gateway", nil, nil, "", 0, 0
	open := recordtest.Examples()["intent"]
	open.Limits = nil
	for name, c := range map[string]struct {
		r    record.Record
		want string
	}{
		"refused": {deny, `request    019a49b1-2f3a-7c11-8a4e-0123456789ac at 2026-11-03T12:00:00.250Z
decision   refused (rule_denied), policy
key        search-prod (k7Qm2xT9aB4c)
team       search
purpose    eval, from key
call       POST /v1/messages, model gpt` + "\ufffd[2J\ufffd" + `fake line
target     claude-sonnet-4-6 at anthropic
rule       eu-only
shadow     budget:tight would have refused it
limit      rate: 20 requests, used 30, held by others 0, needed 1
limit      fits: 5 USD, used 1, held by others 1, needed 3
limit      tight: 5 USD, used 1, held by others 1, needed 3.000000001, until 2026-11-03T12:00:00.250Z (shadow: never refuses) <- does not fit
limit      usual: 5 USD, used 1, held by others 1, needed 1 as expected (it can cost 3.5, 2.5 more)
answer     status 403, ended after 1 ms
config     5b8e
`},
		"blocked": {blocked, `request    019a49b1-2f3a-7c11-8a4e-0123456789ac at 2026-11-03T12:00:00.250Z
decision   refused (rule_denied), policy
key        search-prod (k7Qm2xT9aB4c)
team       search
call       POST /v1/messages
rule       block/team/search: team search is blocked by kim until 2026-11-21T14:00:00Z: runaway agent, INC-12
answer     status 403, ended after 1 ms
config     5b8e
`},
		"failed": {failed, `request    019a49b1-2f3a-7c11-8a4e-0123456789ab at 2026-11-03T12:00:00.250Z
decision   allowed, then failed: gateway
key        search-prod (k7Qm2xT9aB4c)
team       search/search-ml
purpose    support-chat, from header
call       POST /v1/chat/completions, model gpt-5.4-mini
target     gpt-5.4-mini at openai
config     5b8e
`},
		"open": {open, `request    019a49b1-2f3a-7c11-8a4e-0123456789ab at 2026-11-03T12:00:00.250Z
decision   allowed, open
key        search-prod (k7Qm2xT9aB4c)
team       search/search-ml
purpose    support-chat, from header
call       POST /v1/chat/completions, model gpt-5.4-mini
target     gpt-5.4-mini at openai
shadow     limit:sonnet would have refused it
shadow     rule:eu-only would have refused it
store      the quota store had not answered: the decision rests on what this airgate had in hand, and on onStoreDown
cap        4096 output tokens, set by airgate
held       0.0163845 USD at most, price 2026-11-01/openai/gpt-5.4-mini
config     5b8e
`},
	} {
		t.Run(name, func(t *testing.T) {
			var e explained
			if err := json.Unmarshal(record.AppendObject(nil, &c.r), &e); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(strings.Split(c.want, "\n"), strings.Split(e.text(nil), "\n")); d != "" {
				t.Errorf("text, want - got +:\n%s", d)
			}
		})
	}
}

// explain tells what each limit of the request does while the store is down,
// and the bound that holds then.
func TestExplainOutage(t *testing.T) {
	o := testOptions(t)
	g := open(t, o)
	deny := record.Record{
		Type: record.Deny, Time: time.Now(), RequestID: "r", Decision: "deny", Code: "budget_exhausted", Class: "budget", Family: "budget",
		Limits: []record.Limit{
			{Name: "both", Account: "a", Resource: "requests", Limit: 20, Needed: 1, Mode: "enforce"},
			{Name: "parallel", Account: "b", Resource: "concurrent", Limit: 16, Needed: 1, Mode: "enforce"},
			{Name: "both", Account: "c", Resource: "usd", Limit: 500e9, Needed: 3e9, Mode: "enforce"},
			{Name: "eval", Account: "d", Resource: "usd", Limit: 200e9, Needed: 3e9, Mode: "enforce"},
			{Name: "company", Account: "e", Resource: "usd", Limit: 200e9, Needed: 3e9, Mode: "shadow"},
			{Name: "gone", Account: "f", Resource: "usd", Limit: 200e9, Needed: 3e9, Mode: "enforce"},
		},
	}
	if _, err := g.journal.Append(&deny); err != nil {
		t.Fatal(err)
	}
	shut(t, g)
	const entries = `limits:
  - {name: both, requests: 20/s}
  - {name: parallel, concurrent: 16, onStoreDown: allow}
budgets:
  - {name: both, usd: 500, per: month}
  - {name: eval, usd: 200, per: week, onStoreDown: {allowWithinUSD: 5}}
  - {name: company, usd: 200, per: week, mode: shadow}
`
	for quota, want := range map[string][]string{
		"quota: {store: memory}\n": nil,
		"quota: {store: redis, url: redis://localhost, replicas: 4}\n": {
			"store down both: a call that lacks what is in hand is refused",
			"store down parallel: a call passes, and there is no bound",
			"store down both: a call that lacks what is in hand is refused; the bound is 500 USD",
			"store down eval: each airgate may hold 1.25 USD beyond what it has in hand, then refuses; the bound is 205 USD",
		},
	} {
		text, _, _ := strings.Cut(testConfig, "budgets:")
		if err := os.WriteFile(o.config, []byte(text+entries+quota), 0o600); err != nil {
			t.Fatal(err)
		}
		var out, talk strings.Builder
		if code := run([]string{"explain", "--last", "--offline", "--config", o.config, "--data", o.data}, strings.NewReader(""), &out, &talk); code != exitFine {
			t.Fatalf("explain ends with %d: %s", code, talk.String())
		}
		var got []string
		for l := range strings.SplitSeq(out.String(), "\n") {
			if strings.HasPrefix(l, "store down") {
				got = append(got, l)
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%swant - got +:\n%s", quota, d)
		}
	}
}

func TestLoopback(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1:9901": true, "127.9.9.9:1": true, "[::1]:9901": true, "localhost:0": true,
		"0.0.0.0:9901": false, ":9901": false, "[::]:9901": false, "10.0.0.1:9901": false, "airgate:9901": false, "127.0.0.1": false, "": false,
	} {
		if err := loopback(addr); (err == nil) != want {
			t.Errorf("loopback(%q) = %v, want allowed: %v", addr, err, want)
		}
	}
}

func TestParseEnd(t *testing.T) {
	now := time.Date(2026, 11, 3, 12, 0, 0, 5, time.UTC)
	for text, want := range map[string]time.Time{
		"24h":                       time.Date(2026, 11, 4, 12, 0, 0, 0, time.UTC),
		"2027-05-01":                time.Date(2027, 5, 1, 0, 0, 0, 0, time.UTC),
		"2027-05-01T02:00:00+02:00": time.Date(2027, 5, 1, 0, 0, 0, 0, time.UTC),
		"2026-11-03":                {}, "-1h": {}, "0s": {}, "tomorrow": {}, "": {}, "2027-13-01": {},
	} {
		got, err := parseEnd("--expires", text, now)
		if !got.Equal(want) || (err == nil) == want.IsZero() {
			t.Errorf("parseEnd(%q) = %s, %v, want %s", text, got, err, want)
		}
	}
}
