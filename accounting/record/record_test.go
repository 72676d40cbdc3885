package record_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"airgate/accounting/record"
	"airgate/accounting/record/recordtest"
	"airgate/accounting/usage"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestEveryEventOfTheBookIsOneLineOfJSON(t *testing.T) {
	for name, r := range recordtest.Examples() {
		t.Run(name, func(t *testing.T) {
			golden := filepath.Join("testdata", name+".json")
			got := append(record.AppendJSON(nil, &r), '\n')
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("AppendJSON(%s) differs from %s (-want +got):\n%s", name, golden, diff)
			}
			if !json.Valid(got) {
				t.Errorf("AppendJSON(%s) = %s, want JSON", name, got)
			}
		})
	}
}

// A record of an airgate that knew fewer fields is what it was, to the byte.
func TestRecordsWithoutNewerFieldsAreRead(t *testing.T) {
	for name, r := range recordtest.Examples() {
		r.Cap, r.Store = 0, ""
		text := record.AppendJSON(nil, &r)
		if bytes.Contains(text, []byte(`"cap"`)) || bytes.Contains(text, []byte(`"store"`)) {
			t.Errorf("%s = %s, want neither cap nor store", name, text)
		}
		got, err := record.ParseJSON(text)
		if err != nil || got.Cap != 0 {
			t.Errorf("ParseJSON(%s) = %+v, %v; want no cap", text, got, err)
		}
	}
}

func TestARecordSurvivesItsEncoding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := recordtest.Any().Draw(t, "record")
		b := record.AppendJSON(nil, &want)
		got, err := record.ParseJSON(b)
		if err != nil {
			t.Fatalf("ParseJSON(%s): %v", b, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("ParseJSON(%s) differs (-want +got):\n%s", b, diff)
		}
	})
}

func TestAnotherReaderOfJSONSeesTheSameFields(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := recordtest.Any().Draw(t, "record")
		var canonical, object map[string]json.RawMessage
		if err := json.Unmarshal(record.AppendJSON(nil, &r), &canonical); err != nil {
			t.Fatalf("Unmarshal(AppendJSON): %v", err)
		}
		if err := json.Unmarshal(record.AppendObject(nil, &r), &object); err != nil {
			t.Fatalf("Unmarshal(AppendObject): %v", err)
		}
		for f := range record.Fields() {
			want, present := canonical[f.Name]
			switch {
			case !present && f.Kind == record.Flag:
				want = json.RawMessage("false")
			case !present:
				want = json.RawMessage("null")
			}
			if got := object[f.Name]; string(got) != string(want) {
				t.Errorf("AppendObject field %s = %s, want %s", f.Name, got, want)
			}
			if got := f.Value(&r) != nil; got != present {
				t.Errorf("Value of %s present = %t, want %t", f.Name, got, present)
			}
			delete(object, f.Name)
			delete(canonical, f.Name)
		}
		if len(object)+len(canonical) > 0 {
			t.Errorf("fields beyond Fields: %v %v", object, canonical)
		}
	})
}

func TestARecordIsRebuiltFromItsColumns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := recordtest.Any().Draw(t, "record")
		var got record.Record
		for f := range record.Fields() {
			v := f.Value(&want)
			if flag, ok := v.(bool); ok && flag {
				v = int64(1) // as SQL has it
			}
			if err := f.SetValue(&got, v); err != nil {
				t.Fatalf("SetValue(%s, %v): %v", f.Name, v, err)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("rebuilt record differs (-want +got):\n%s", diff)
		}
	})
}

// What the encoding cannot hold is lost the first time, never the second.
func TestTheEncodingIsStable(t *testing.T) {
	tests := map[string]record.Record{
		"not UTF-8":              {Type: record.Deny, ModelRequested: "gpt\xff\xfe\n\x00\"\\\u2028</script>"},
		"local time, nanosecond": {Type: record.Deny, Time: time.Date(2026, 11, 3, 9, 0, 0, 123_456_789, time.FixedZone("", 9*3600))},
		"a time before all":      {Type: record.Deny, Time: time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC)},
		"a year of five digits":  {Type: record.Deny, Time: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)},
		"the least money":        {Type: record.Adjust, HasCost: true, Cost: -1 << 63},
		"no time at all":         {Type: record.Settle, TTFT: time.Nanosecond, Duration: -time.Second},
		"the longest duration":   {Type: record.Settle, Duration: 1<<63 - 1},
		"no such enum":           {Type: 200, UsageSource: 200},
		"empty, not nil":         {Type: record.Deny, Tags: map[string]string{}, Limits: []record.Limit{}, WouldDeny: []string{}},
		"many tags": {Type: record.Deny, Tags: func() map[string]string {
			tags := map[string]string{}
			for c := 'a'; c <= 'z'; c++ {
				tags[string(c)] = string(c)
			}
			return tags
		}()},
	}
	for name, r := range tests {
		t.Run(name, func(t *testing.T) {
			want := record.AppendJSON(nil, &r)
			again, err := record.ParseJSON(want)
			if err != nil {
				t.Fatalf("ParseJSON(%s): %v", want, err)
			}
			if got := record.AppendJSON(nil, &again); string(got) != string(want) {
				t.Errorf("AppendJSON(ParseJSON(b)) = %s, want b = %s", got, want)
			}
		})
	}
	r := tests["no time at all"]
	if got, want := string(record.AppendJSON(nil, &r)), `{"type":"settle","ttft_ms":1}`; got != want {
		t.Errorf("AppendJSON = %s, want %s", got, want)
	}
}

func TestParseJSONTakesOnlyTheCanonicalEncoding(t *testing.T) {
	tests := map[string]struct{ in, want string }{
		"empty":              {``, `byte 0: '{' expected`},
		"two records":        {`{"type":"deny"}{"type":"deny"}`, `byte 15: bytes behind the end`},
		"white space":        {`{"type": "deny"}`, `byte 8: '"' expected`},
		"unknown field":      {`{"type":"deny","colour":"red"}`, `byte 24: field "colour" is repeated, out of order, or of a newer airgate`},
		"case":               {`{"Type":"deny"}`, `byte 8: field "Type" is repeated, out of order, or of a newer airgate`},
		"repeated field":     {`{"seq":1,"seq":2}`, `byte 15: field "seq" is repeated, out of order, or of a newer airgate`},
		"other order":        {`{"seq":1,"type":"deny"}`, `byte 16: field "type" is repeated, out of order, or of a newer airgate`},
		"null":               {`{"type":null}`, `byte 8: '"' expected`},
		"unknown type":       {`{"type":"refund"}`, `byte 8: unknown record type "refund"`},
		"zero value":         {`{"type":"deny","status":0}`, `byte 14: not the canonical encoding`},
		"false":              {`{"type":"deny","stream":false}`, `byte 24: true expected`},
		"leading zero":       {`{"seq":01}`, `byte 7: not the canonical encoding`},
		"fraction":           {`{"seq":1.0}`, `byte 8: ',' expected`},
		"negative sequence":  {`{"seq":-1}`, `byte 7: not an unsigned integer of 64 bits`},
		"sequence too large": {`{"seq":18446744073709551616}`, `byte 7: not an unsigned integer of 64 bits`},
		"money as number":    {`{"cost_usd":0.05}`, `byte 12: '"' expected`},
		"money not shortest": {`{"cost_usd":"0.050"}`, `byte 17: not the canonical encoding`},
		"time with offset":   {`{"time":"2026-11-03T09:00:00.000+09:00"}`, `byte 8: "2026-11-03T09:00:00.000+09:00" is not a time like 2006-01-02T15:04:05.000Z`},
		"hash too short":     {`{"prev":"00"}`, `byte 8: a hash has 64 digits, not 2`},
		"upper-case hash":    {`{"prev":"` + strings.Repeat("AB", 32) + `"}`, `byte 9: not the canonical encoding`},
		"needless escape":    {`{"team":"\u0061"}`, `byte 9: not the canonical encoding`},
		"unknown escape":     {`{"team":"\a"}`, `byte 10: unknown escape`},
		"raw control":        {"{\"team\":\"\x01\"}", `byte 9: not the canonical encoding`},
		"not UTF-8":          {"{\"team\":\"\xff\"}", `byte 9: not the canonical encoding`},
		"open string":        {`{"team":"`, `byte 9: a string without end`},
		"open escape":        {`{"team":"a\`, `byte 9: a string without end`},
		"open object":        {`{"team":"a"`, `byte 11: ',' expected`},
		"tags not sorted":    {`{"tags":{"b":"1","a":"2"}}`, `byte 10: not the canonical encoding`},
		"empty list":         {`{"would_deny":[]}`, `byte 15: '"' expected`},
		"unknown bucket":     {`{"tokens":{"thinking":1}}`, `byte 22: unknown kind of token "thinking"`},
		"unknown source":     {`{"usage_source":"guess"}`, ``},
		"limit without end":  {`{"limits":[{"name":"a","account":"b","resource":"usd","limit":1`, `byte 62: '"' expected`},
		"huge duration":      {`{"duration_ms":9223372036854775807}`, `byte 15: out of range`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r, err := record.ParseJSON([]byte(test.in))
			if err == nil {
				t.Fatalf("ParseJSON(%s) = %+v, want an error", test.in, r)
			}
			if test.want != "" && err.Error() != "record: "+test.want {
				t.Errorf("ParseJSON(%s) = %q, want %q", test.in, err, "record: "+test.want)
			}
		})
	}
}

func TestEncodingAndChainingDoNotAllocate(t *testing.T) {
	settle := recordtest.Examples()["settle"]
	r := &settle
	dst := make([]byte, 0, 4096)
	var sum record.Hash
	if got := testing.AllocsPerRun(200, func() {
		dst = record.AppendJSON(dst[:0], r)
		sum = record.Sum(dst)
	}); got != 0 {
		t.Errorf("AppendJSON and Sum allocate %v times, want 0", got)
	}
	_ = sum
}

func TestTokenBucketsAreAllThere(t *testing.T) {
	var tokens usage.Tokens
	for _, n := range record.Buckets(&tokens) {
		*n++
	}
	if want := (usage.Tokens{
		Input: 1, CacheRead: 1, CacheWrite5m: 1, CacheWrite1h: 1, InputAudio: 1, InputImage: 1,
		Output: 1, Reasoning: 1, OutputAudio: 1, OutputImage: 1,
	}); tokens != want {
		t.Errorf("Buckets reached %+v, want %+v", tokens, want)
	}
}

func FuzzParseJSON(f *testing.F) {
	for _, r := range recordtest.Examples() {
		f.Add(record.AppendJSON(nil, &r))
	}
	f.Add([]byte(`{"team":"\u000`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := record.ParseJSON(b)
		if err != nil {
			return
		}
		if got := record.AppendJSON(nil, &r); !slices.Equal(got, b) {
			t.Errorf("AppendJSON(ParseJSON(b)) = %s, want b = %s", got, b)
		}
	})
}

func BenchmarkAppendJSON(b *testing.B) {
	r := recordtest.Examples()["settle"]
	dst := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		dst = record.AppendJSON(dst[:0], &r)
	}
	b.SetBytes(int64(len(dst)))
}

func BenchmarkParseJSON(b *testing.B) {
	r := recordtest.Examples()["settle"]
	in := record.AppendJSON(nil, &r)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := record.ParseJSON(in); err != nil {
			b.Fatal(err)
		}
	}
}
