// Package recordtest has the records that tests of the book share: one example
// of each event, and random ones.
package recordtest

import (
	"fmt"
	"time"

	"pgregory.net/rapid"

	"airgate/accounting/money"
	"airgate/accounting/record"
	"airgate/accounting/usage"
)

// Noon is when the examples happen.
func Noon() time.Time { return time.Date(2026, 11, 3, 12, 0, 0, 250_000_000, time.UTC) }

// Examples has a record of each type. :: name → record
func Examples() map[string]record.Record {
	reset := time.Date(2026, 11, 30, 15, 0, 0, 0, time.UTC)
	call := record.Record{
		Time:      Noon(),
		RequestID: "019a49b1-2f3a-7c11-8a4e-0123456789ab",
		KeyID:     "k7Qm2xT9aB4c", KeyName: "search-prod", Team: "search-ml", TeamPath: "search/search-ml",
		CostCenter: "CC-1042", Tags: map[string]string{"region": "eu", "env": "prod"},
		Purpose: "support-chat", PurposeSource: "header", User: "u-6f1d2c", UserSource: "header", Session: "s-99ab",
		Endpoint: "POST /v1/chat/completions", Dialect: "openai", Stream: true,
		ModelRequested: "gpt-5.4-mini", Model: "gpt-5.4-mini", Provider: "openai", PriceID: "2026-11-01/openai/gpt-5.4-mini",
		Decision: "allow", ConfigHash: "5b8e", Store: "down", Cap: 4096, Reserved: 16_384_500,
	}
	intent := call
	intent.Type = record.Intent
	intent.WouldDeny = []string{"limit:sonnet", "rule:eu-only"}
	intent.Limits = []record.Limit{
		{Name: "search", Account: "usd|team=search|month|Asia/Tokyo", Resource: "usd", Limit: 5000 * int64(money.USD), Used: 1_234_567_890, Reserved: 50_000_000, Needed: 16_384_500, Reset: reset, Mode: "enforce"},
		{Name: "key-rps", Account: "requests|key=k7Qm2xT9aB4c|20/s", Resource: "requests", Limit: 40, Needed: 1, Mode: "enforce"},
	}
	settle := call
	settle.Type = record.Settle
	settle.Time = settle.Time.Add(3 * time.Second)
	settle.ModelServed = "gpt-5.4-mini-2026-05-01"
	settle.Cost, settle.HasCost = 1_204_500, true
	settle.Tokens, settle.HasTokens = usage.Tokens{Input: 1200, CacheRead: 300, Output: 210, Reasoning: 64}, true
	settle.UsageSource = usage.Provider
	settle.Class, settle.Family, settle.Status, settle.UpstreamStatus = "ok", "ok", 200, 200
	settle.Attempts = []record.Attempt{{Provider: "openai", Status: 503, Flags: "UF"}, {Provider: "openai", Status: 200}}
	settle.TTFT, settle.Duration = 420*time.Millisecond, 3*time.Second
	return map[string]record.Record{
		"intent": intent,
		"extend": {Type: record.Extend, Time: Noon().Add(time.Second), RequestID: call.RequestID, Reserved: 32_769_000},
		"settle": settle,
		"deny": {
			Type: record.Deny, Time: Noon(), RequestID: "019a49b1-2f3a-7c11-8a4e-0123456789ac",
			KeyID: "k7Qm2xT9aB4c", KeyName: "search-prod", Team: "search", TeamPath: "search",
			Endpoint: "POST /v1/messages", Dialect: "anthropic", ModelRequested: "claude-sonnet", Model: "claude-sonnet-4-6", Provider: "anthropic",
			Decision: "deny", Code: "rule_denied", Rule: "eu-only", ConfigHash: "5b8e", Class: "policy", Family: "policy", Status: 403, Duration: time.Millisecond,
		},
		"strangers": {Type: record.Deny, Time: Noon(), Decision: "deny", Code: "key_unknown", Class: "policy", Family: "policy", Status: 401, Count: 512, Source: "203.0.113.0/24"},
		"adjust":    {Type: record.Adjust, Time: Noon(), RequestID: call.RequestID, Team: "search-ml", Cost: -4_500, HasCost: true, Detail: "the provider's invoice says less"},
		"admin":     {Type: record.Admin, Time: Noon(), User: "kim", Detail: "budgets raise each-key to 80 until 2026-12-01: INC-12"},
		"start": {Type: record.Start, Time: Noon(), Heads: []record.Head{
			{Writer: "a.019a49b12f3a01234567", Seq: 41, Hash: record.Sum([]byte("last"))},
			{Writer: "a.019a49b12f3b01234567"},
		}},
	}
}

// Text generates short text, hard cases included.
func Text() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.SampledFrom([]string{"", "", "search", "a/b", `quote " and \ back`, "line\nbreak\ttab\r", "\x00\x1f\x7f", "日本語 🚀", "\u2028�", "</script>", "'; DROP TABLE records; --"}),
		rapid.StringN(0, 12, -1),
	)
}

// At generates times that the book can hold.
func At() *rapid.Generator[time.Time] {
	return rapid.Custom(func(t *rapid.T) time.Time {
		ms := rapid.OneOf(
			rapid.Int64Range(1_700_000_000_000, 1_900_000_000_000),
			rapid.Int64Range(-62135596799999, 253402300799999),
		).Draw(t, "ms")
		return time.UnixMilli(ms).UTC()
	})
}

// Any generates records that their encoding holds without loss.
func Any() *rapid.Generator[record.Record] {
	text := Text()
	amount := rapid.OneOf(rapid.Int64Range(0, 3), rapid.Int64Range(0, 1<<50), rapid.Int64Range(-1<<63+1, 1<<63-1))
	hash := rapid.Custom(func(t *rapid.T) record.Hash {
		return record.Hash(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "hash"))
	})
	optional := func(t *rapid.T, label string) bool { return rapid.Bool().Draw(t, label) }
	return rapid.Custom(func(t *rapid.T) record.Record {
		str := func(label string) string { return text.Draw(t, label) }
		r := record.Record{
			Type: record.Type(rapid.Uint8Range(1, uint8(record.Extend)).Draw(t, "type")), Seq: rapid.Uint64Range(0, 1<<63-1).Draw(t, "seq"), Writer: str("writer"),
			RequestID: str("request_id"), KeyID: str("key_id"), KeyName: str("key_name"), Team: str("team"), TeamPath: str("team_path"),
			CostCenter: str("cost_center"), Purpose: str("purpose"), PurposeSource: str("purpose_source"), User: str("user"), UserSource: str("user_source"),
			Session: str("session"), Endpoint: str("endpoint"), Dialect: str("dialect"), Stream: optional(t, "stream"), ModelRequested: str("model_requested"),
			Model: str("model"), Provider: str("provider"), ModelServed: str("model_served"), PriceID: str("price_id"),
			Decision: str("decision"), Code: str("code"), Rule: str("rule"), ConfigHash: str("config_hash"), Store: str("store"),
			Cap: money.Tokens(amount.Draw(t, "cap")), Reserved: money.NanoUSD(amount.Draw(t, "reserved")), UsageSource: usage.Source(rapid.Uint8Range(0, uint8(usage.None)).Draw(t, "usage_source")),
			Class: str("class"), Family: str("family"), Status: rapid.IntRange(-1, 599).Draw(t, "status"), UpstreamStatus: rapid.IntRange(0, 599).Draw(t, "upstream"),
			TTFT:     time.Duration(rapid.Int64Range(0, 1<<40).Draw(t, "ttft")) * time.Millisecond,
			Duration: time.Duration(rapid.Int64Range(0, 10).Draw(t, "duration")) * time.Millisecond,
			Cut:      str("cut"), Count: rapid.Int64Range(0, 1<<40).Draw(t, "count"), Source: str("source"), Cause: str("cause"), Detail: str("detail"),
		}
		if optional(t, "has prev") {
			r.Prev = hash.Draw(t, "prev")
		}
		if optional(t, "has time") {
			r.Time = At().Draw(t, "time")
		}
		if optional(t, "has cost") {
			r.Cost, r.HasCost = money.NanoUSD(amount.Draw(t, "cost")), true
		}
		if r.HasTokens = optional(t, "has tokens"); r.HasTokens {
			for name, n := range record.Buckets(&r.Tokens) {
				*n = money.Tokens(amount.Draw(t, name))
			}
		}
		for range rapid.IntRange(0, 3).Draw(t, "tags") {
			if r.Tags == nil {
				r.Tags = map[string]string{}
			}
			r.Tags[str("tag")] = str("tag value")
		}
		for range rapid.IntRange(0, 2).Draw(t, "would_deny") {
			r.WouldDeny = append(r.WouldDeny, str("would deny"))
		}
		for range rapid.IntRange(0, 3).Draw(t, "limits") {
			l := record.Limit{
				Name: str("limit name"), Account: str("account"), Resource: rapid.SampledFrom([]string{"usd", "tokens", "requests", "concurrent", ""}).Draw(t, "resource"),
				Limit: amount.Draw(t, "limit"), Used: amount.Draw(t, "used"), Reserved: amount.Draw(t, "reserved"), Needed: amount.Draw(t, "needed"), Worst: amount.Draw(t, "worst"), Mode: str("mode"),
			}
			if optional(t, "has reset") {
				l.Reset = At().Draw(t, "reset")
			}
			r.Limits = append(r.Limits, l)
		}
		for range rapid.IntRange(0, 2).Draw(t, "attempts") {
			r.Attempts = append(r.Attempts, record.Attempt{Provider: str("attempt"), Status: rapid.IntRange(0, 599).Draw(t, "status"), Flags: str("flags")})
		}
		for i := range rapid.IntRange(0, 2).Draw(t, "heads") {
			r.Heads = append(r.Heads, record.Head{Writer: fmt.Sprintf("w.%d", i), Seq: rapid.Uint64().Draw(t, "head seq"), Hash: hash.Draw(t, "head hash")})
		}
		return r
	})
}

// Chain makes records of one writer as its journal would have appended them.
func Chain(writer string, records ...record.Record) []record.Record {
	var prev record.Hash
	out := make([]record.Record, len(records))
	for i, r := range records {
		r.Seq, r.Writer, r.Prev = uint64(i)+1, writer, prev
		prev = record.Sum(record.AppendJSON(nil, &r))
		out[i] = r
	}
	return out
}
