package report_test

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"airgate/accounting/money"
	"airgate/accounting/record"
	"airgate/accounting/record/recordtest"
	"airgate/accounting/report"
	"airgate/accounting/usage"
)

func TestParseDimensions(t *testing.T) {
	tests := map[string]struct {
		in      string
		want    []report.Dimension
		problem string
	}{
		"none":      {in: "", want: []report.Dimension{}},
		"two":       {in: "team, model", want: []report.Dimension{report.Team, report.Model}},
		"unknown":   {in: "team,colour", problem: `unknown dimension "colour": use team, key, purpose, model, provider, user, class, cost_center or day`},
		"twice":     {in: "team,team", problem: `dimension "team" is given twice`},
		"a missing": {in: "team,", problem: `unknown dimension ""`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := report.ParseDimensions(test.in)
			if test.problem != "" {
				if err == nil || !strings.HasPrefix(err.Error(), test.problem) {
					t.Errorf("ParseDimensions(%q) = %v, want %q", test.in, err, test.problem)
				}
				return
			}
			if diff := cmp.Diff(test.want, got); err != nil || diff != "" {
				t.Errorf("ParseDimensions(%q) = %v, %v, want %v", test.in, got, err, test.want)
			}
		})
	}
}

func TestMergeDoesNotMindTheOrder(t *testing.T) {
	examples := recordtest.Examples()
	records := []record.Record{examples["intent"], examples["extend"], examples["settle"], examples["adjust"]}
	want := report.Merge(records)
	rapid.Check(t, func(t *rapid.T) {
		if diff := cmp.Diff(want, report.Merge(rapid.Permutation(records).Draw(t, "records"))); diff != "" {
			t.Fatalf("Merge differs by order (-want +got):\n%s", diff)
		}
	})
	if want.Type != record.Settle || want.Cost != 1_200_000 || len(want.Limits) != 2 || !want.Time.Equal(recordtest.Noon()) || want.Open() {
		t.Errorf("Merge = %+v, want the settlement over the intent, adjusted", want)
	}
	if open := report.Merge(records[:1]); !open.Open() || open.Class != "" {
		t.Errorf("Merge of an intent = %+v, want an open request", open)
	}
	if open := report.Merge(records[:2]); !open.Open() || open.Reserved != 32_769_000 {
		t.Errorf("Merge of an intent and an extension = %+v, want an open request that holds what the extension says", open)
	}
	if got := report.Merge(nil); got.Type != 0 {
		t.Errorf("Merge of nothing = %+v, want the zero Request", got)
	}
}

func samples() map[string]report.Report {
	deny, settle := recordtest.Examples()["deny"], recordtest.Examples()["settle"]
	deny.ModelRequested = "evil\x1b[2Jname,\"quoted\""
	deny.Model = deny.ModelRequested
	return map[string]report.Report{
		"usage": report.Usage{
			From: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), To: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC), By: []report.Dimension{report.Team, report.Model},
			Rows: []report.UsageRow{
				{Values: []string{"ads", ""}, Sums: report.Sums{Requests: 2, Unpriced: 2}},
				{Values: []string{"search", "gpt-5.4-mini"}, Sums: report.Sums{Requests: 12, Estimated: 1, Cost: 1_204_500, HasCost: true, EstimatedCost: 4_500, Tokens: usage.Tokens{Input: 1000, CacheRead: 200, Output: 34, Reasoning: 4}}},
				{Values: []string{"search", "free"}, Sums: report.Sums{Requests: 1, HasCost: true, Tokens: usage.Tokens{Output: 1}}},
			},
		},
		"requests": report.Requests{Requests: []report.Request{{Record: settle}}, Next: "019a49b1-2f3a-7c11-8a4e-0123456789ab"},
		"denials":  report.Denials{Denials: []record.Record{deny}},
		"audit":    report.Audit{Audit: []record.Record{recordtest.Examples()["admin"]}},
		"one":      report.Merge([]record.Record{settle}),
	}
}

func text(t *testing.T, f report.Format, r report.Report) string {
	t.Helper()
	var b strings.Builder
	if err := report.Write(&b, f, r); err != nil {
		t.Fatalf("Write(%s): %v", f, err)
	}
	return b.String()
}

func TestUsageInEachFormat(t *testing.T) {
	for format, want := range map[report.Format]string{
		report.JSON: `{"from":"2026-11-01T00:00:00.000Z","to":"2026-12-01T00:00:00.000Z","by":["team","model"],"rows":[` +
			`{"team":"ads","model":"","requests":2,"cost_usd":null,"unpriced_requests":2,"estimated_requests":0,"estimated_usd":"0","tokens":{}},` +
			`{"team":"search","model":"gpt-5.4-mini","requests":12,"cost_usd":"0.0012045","unpriced_requests":0,"estimated_requests":1,"estimated_usd":"0.0000045","tokens":{"input":1000,"cache_read":200,"output":34,"reasoning":4}},` +
			`{"team":"search","model":"free","requests":1,"cost_usd":"0","unpriced_requests":0,"estimated_requests":0,"estimated_usd":"0","tokens":{"output":1}}]}` + "\n",
		report.CSV: `team,model,requests,cost_usd,unpriced,estimated,estimated_usd,input,cache_read,cache_write_5m,cache_write_1h,input_audio,input_image,output,reasoning,output_audio,output_image
ads,,2,,2,0,0,0,0,0,0,0,0,0,0,0,0
search,gpt-5.4-mini,12,0.0012045,0,1,0.0000045,1000,200,0,0,0,0,34,4,0,0
search,free,1,0,0,0,0,0,0,0,0,0,0,1,0,0,0
`,
		report.Table: `TEAM    MODEL         REQUESTS  COST_USD   UNPRICED  ESTIMATED  ESTIMATED_USD  INPUT_TOKENS  OUTPUT_TOKENS
ads     -             2         -          2         0          0              0             0
search  gpt-5.4-mini  12        0.0012045  0         1          0.0000045      1200          34
search  free          1         0          0         0          0              0             1
`,
	} {
		if diff := cmp.Diff(want, text(t, format, samples()["usage"])); diff != "" {
			t.Errorf("Write(%s) differs (-want +got):\n%s", format, diff)
		}
	}
}

// Each side may lack rows of the other; what is not known has no difference, and
// what was nothing no percentage.
func TestUsageIsComparedRowByRow(t *testing.T) {
	sums := func(requests int64, cost money.NanoUSD) report.Sums {
		return report.Sums{Requests: requests, Cost: cost, HasCost: true}
	}
	now := report.Usage{By: []report.Dimension{report.Team}, Rows: []report.UsageRow{
		{Values: []string{"both"}, Sums: sums(3, 150)}, {Values: []string{"less"}, Sums: sums(1, 2)}, {Values: []string{"new"}, Sums: sums(1, 5)}, {Values: []string{"unpriced"}, Sums: report.Sums{Requests: 1, Unpriced: 1}},
	}}
	before := report.Usage{
		From: time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC), To: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC),
		Rows: []report.UsageRow{{Values: []string{"both"}, Sums: sums(2, 100)}, {Values: []string{"gone"}, Sums: sums(4, 7)}, {Values: []string{"less"}, Sums: sums(1, 3)}, {Values: []string{"unpriced"}, Sums: sums(1, 1)}},
	}
	both, err := now.Compare(before)
	if err != nil {
		t.Fatalf("Compare: %v", err)
	}
	for format, want := range map[report.Format]string{
		report.Table: `TEAM      REQUESTS  COST_USD     BEFORE_REQUESTS  BEFORE_USD   CHANGE_USD    CHANGE_PERCENT  UNPRICED  ESTIMATED  ESTIMATED_USD  INPUT_TOKENS  OUTPUT_TOKENS
both      3         0.00000015   2                0.0000001    0.00000005    50.0            0         0          0              0             0
gone      0         -            4                0.000000007  -0.000000007  -100.0          0         0          0              0             0
less      1         0.000000002  1                0.000000003  -0.000000001  -33.3           0         0          0              0             0
new       1         0.000000005  0                -            0.000000005   -               0         0          0              0             0
unpriced  1         -            1                0.000000001  -             -               1         0          0              0             0
`,
		report.JSON: `{"from":null,"to":null,"before":{"from":"2026-10-01T00:00:00.000Z","to":"2026-11-01T00:00:00.000Z"},"by":["team"],"rows":[` +
			`{"team":"both","requests":3,"cost_usd":"0.00000015","unpriced_requests":0,"estimated_requests":0,"estimated_usd":"0","before":{"requests":2,"cost_usd":"0.0000001"},"change_usd":"0.00000005","change_percent":50.0,"tokens":{}},` +
			`{"team":"gone","requests":0,"cost_usd":null,"unpriced_requests":0,"estimated_requests":0,"estimated_usd":"0","before":{"requests":4,"cost_usd":"0.000000007"},"change_usd":"-0.000000007","change_percent":-100.0,"tokens":{}},` +
			`{"team":"less","requests":1,"cost_usd":"0.000000002","unpriced_requests":0,"estimated_requests":0,"estimated_usd":"0","before":{"requests":1,"cost_usd":"0.000000003"},"change_usd":"-0.000000001","change_percent":-33.3,"tokens":{}},` +
			`{"team":"new","requests":1,"cost_usd":"0.000000005","unpriced_requests":0,"estimated_requests":0,"estimated_usd":"0","before":{"requests":0,"cost_usd":null},"change_usd":"0.000000005","change_percent":null,"tokens":{}},` +
			`{"team":"unpriced","requests":1,"cost_usd":null,"unpriced_requests":1,"estimated_requests":0,"estimated_usd":"0","before":{"requests":1,"cost_usd":"0.000000001"},"change_usd":null,"change_percent":null,"tokens":{}}]}` + "\n",
		report.CSV: `team,requests,cost_usd,before_requests,before_usd,change_usd,change_percent,unpriced,estimated,estimated_usd,input,cache_read,cache_write_5m,cache_write_1h,input_audio,input_image,output,reasoning,output_audio,output_image
both,3,0.00000015,2,0.0000001,0.00000005,50.0,0,0,0,0,0,0,0,0,0,0,0,0,0
gone,0,,4,0.000000007,-0.000000007,-100.0,0,0,0,0,0,0,0,0,0,0,0,0,0
less,1,0.000000002,1,0.000000003,-0.000000001,-33.3,0,0,0,0,0,0,0,0,0,0,0,0,0
new,1,0.000000005,0,,0.000000005,,0,0,0,0,0,0,0,0,0,0,0,0,0
unpriced,1,,1,0.000000001,,,1,0,0,0,0,0,0,0,0,0,0,0,0
`,
	} {
		if diff := cmp.Diff(want, text(t, format, both)); diff != "" {
			t.Errorf("Write(%s) differs (-want +got):\n%s", format, diff)
		}
	}
	if _, err := (report.Usage{By: []report.Dimension{report.Day}}).Compare(before); !errors.Is(err, report.ErrDaysCompared) {
		t.Errorf("Compare by day = %v, want %v", err, report.ErrDaysCompared)
	}
}

func TestTheAPIShowsEveryFieldNullWhereAbsent(t *testing.T) {
	for name, list := range map[string]string{"requests": "requests", "denials": "denials", "audit": "audit"} {
		var object map[string]any
		if err := json.Unmarshal([]byte(text(t, report.JSON, samples()[name])), &object); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		one, _ := object[list].([]any)[0].(map[string]any)
		var fields []string
		for f := range record.Fields() {
			if _, there := one[f.Name]; !there {
				t.Errorf("%s: field %s is missing", name, f.Name)
			}
			fields = append(fields, f.Name)
		}
		for key := range one {
			if !slices.Contains(fields, key) {
				t.Errorf("%s: field %s is not of the book", name, key)
			}
		}
	}
	if got := text(t, report.JSON, report.Requests{}); got != `{"requests":[],"next":null}`+"\n" {
		t.Errorf("an empty page = %s", got)
	}
}

func TestTextOfCallersDoesNotSteerTheTerminal(t *testing.T) {
	for name, r := range samples() {
		if got := text(t, report.Table, r); strings.ContainsAny(got, "\x1b\r\x00") {
			t.Errorf("the table of %s has control characters: %q", name, got)
		}
	}
}

func TestCSVKeepsEveryFieldAsItIs(t *testing.T) {
	rows, err := csv.NewReader(strings.NewReader(text(t, report.CSV, samples()["denials"]))).ReadAll()
	if err != nil || len(rows) != 2 {
		t.Fatalf("ReadAll = %d rows, %v; want 2", len(rows), err)
	}
	got := map[string]string{}
	for i, name := range rows[0] {
		got[name] = rows[1][i]
	}
	for name, want := range map[string]string{"model_requested": "evil\x1b[2Jname,\"quoted\"", "type": "deny", "status": "403", "cost_usd": "", "time": "2026-11-03T12:00:00.250Z", "duration_ms": "1"} {
		if got[name] != want {
			t.Errorf("CSV field %s = %q, want %q", name, got[name], want)
		}
	}
	if cost := money.NanoUSD(1_204_500).String(); !strings.Contains(text(t, report.CSV, samples()["one"]), ","+cost+",") {
		t.Errorf("the CSV of a request does not say %s", cost)
	}
}

func TestParseFormat(t *testing.T) {
	for _, f := range []string{"table", "json", "csv"} {
		if got, err := report.ParseFormat(f); err != nil || string(got) != f {
			t.Errorf("ParseFormat(%q) = %q, %v", f, got, err)
		}
	}
	if _, err := report.ParseFormat("yaml"); err == nil || err.Error() != `unknown format "yaml": use table, json or csv` {
		t.Errorf("ParseFormat(yaml) = %v", err)
	}
}
