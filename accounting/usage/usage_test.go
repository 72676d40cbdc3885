package usage_test

import (
	"math"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"airgate/accounting/money"
	"airgate/accounting/usage"
)

func TestSourceWords(t *testing.T) {
	for source, want := range map[usage.Source]string{
		usage.Unset: "", usage.Provider: "provider", usage.Partial: "partial", usage.Estimated: "estimated", usage.None: "none",
	} {
		if got := source.String(); got != want {
			t.Errorf("Source(%d).String() = %q, want %q", source, got, want)
		}
		if got, err := usage.ParseSource(want); err != nil || got != source {
			t.Errorf("ParseSource(%q) = %v, %v, want %v", want, got, err, source)
		}
	}
	for _, text := range []string{"Provider", "unset", "Source(5)", " "} {
		if got, err := usage.ParseSource(text); err == nil {
			t.Errorf("ParseSource(%q) = %v, want an error", text, got)
		}
	}
}

// Every bucket but Reasoning, which is in Output, is counted once.
func TestTotalsCountEveryBucketOnce(t *testing.T) {
	input := map[string]bool{"Input": true, "CacheRead": true, "CacheWrite5m": true, "CacheWrite1h": true, "InputAudio": true, "InputImage": true}
	for i := range reflect.TypeFor[usage.Tokens]().NumField() {
		name := reflect.TypeFor[usage.Tokens]().Field(i).Name
		var tokens usage.Tokens
		reflect.ValueOf(&tokens).Elem().Field(i).SetInt(7)
		wantIn, wantOut := money.Tokens(0), money.Tokens(7)
		if input[name] {
			wantIn, wantOut = 7, 0
		}
		if name == "Reasoning" {
			wantOut = 0
		}
		if in, out, all := tokens.TotalInput(), tokens.TotalOutput(), tokens.Total(); in != wantIn || out != wantOut || all != wantIn+wantOut {
			t.Errorf("7 tokens of %s: TotalInput, TotalOutput, Total = %d, %d, %d, want %d, %d, %d", name, in, out, all, wantIn, wantOut, wantIn+wantOut)
		}
	}
}

func TestAddIsByBucket(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		counts := rapid.SliceOfN(rapid.Int64Range(0, math.MaxInt64), 20, 20).Draw(t, "counts")
		var a, b usage.Tokens
		va, vb := reflect.ValueOf(&a).Elem(), reflect.ValueOf(&b).Elem()
		for i := range va.NumField() {
			va.Field(i).SetInt(counts[i])
			vb.Field(i).SetInt(counts[10+i])
		}
		a.Add(&b)
		for i := range va.NumField() {
			want := counts[i] + counts[10+i]
			if want < 0 {
				want = math.MaxInt64
			}
			if got := va.Field(i).Int(); got != want {
				t.Fatalf("%s after Add = %d, want %d", va.Type().Field(i).Name, got, want)
			}
		}
	})
}

func TestAbsurdCountsSaturate(t *testing.T) {
	tokens := usage.Tokens{Input: math.MaxInt64, CacheRead: math.MaxInt64, Output: -3}
	if got := tokens.Total(); got != math.MaxInt64 {
		t.Errorf("Total() = %d, want %d", got, int64(math.MaxInt64))
	}
}

func TestUsageSums(t *testing.T) {
	var u usage.Usage
	u.AddItem(usage.Item{Kind: "message", Tokens: usage.Tokens{Input: 181, Output: 8}})
	u.AddItem(usage.Item{Kind: "compaction", Tokens: usage.Tokens{Input: 100, CacheRead: 55_096, Output: 83, Reasoning: 5}})
	u.AddCalls("web_search", 2)
	u.AddCalls("web_fetch", 0)
	u.AddCalls("web_search", 1)
	want := usage.Tokens{Input: 281, CacheRead: 55_096, Output: 91, Reasoning: 5}
	if got := u.Tokens(); got != want {
		t.Errorf("Tokens() = %+v, want %+v", got, want)
	}
	if len(u.Calls) != 1 || u.Calls[0] != (usage.Call{Kind: "web_search", Count: 3}) {
		t.Errorf("Calls = %v, want 3 of web_search", u.Calls)
	}
}

func TestReuseAllocatesNothing(t *testing.T) {
	var u usage.Usage
	fill := func() {
		u.Reset()
		u.Model, u.ServiceTier = "claude-sonnet-4-6", "standard"
		u.AddItem(usage.Item{Kind: "message", Tokens: usage.Tokens{Input: 5, Output: 7}})
		u.AddCalls("web_search", 1)
		tokens := u.Tokens()
		if tokens.Total() != 12 {
			t.Error("wrong total")
		}
	}
	fill()
	if n := testing.AllocsPerRun(100, fill); n != 0 {
		t.Errorf("a reused Usage allocates %v times, want 0", n)
	}
	if u.Reset(); u.Model != "" || len(u.Items) != 0 || len(u.Calls) != 0 {
		t.Errorf("after Reset: %+v, want empty", u)
	}
}
