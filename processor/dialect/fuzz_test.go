package dialect

import (
	"bytes"
	"encoding/json"
	"testing"

	"airgate/accounting/money"
)

var bodyPaths = []string{chat, responses, completions, embeddings, messages, countTokens}

// What is accepted, encoding/json accepts too and reads the same model from;
// and only one key is called model in it, in any case.
func FuzzParseRequest(f *testing.F) {
	for i, body := range []string{
		`{"model":"m","max_tokens":5,"stream":true,"stream_options":{"include_usage":false}}`,
		`{"mod\u0065l":"m\ud83d\ude00","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:,"}}]}]}`,
		`{"model":"m","tools":[{"type":"web_search","max_uses":1}],"input":[{"id":"x"}]}`,
		`{"model":"m","prompt":[[1,2],[3]],"n":2,"x":-0.5e+3}`,
		`{"model":"m","\u212a":1,"Model":2}`,
		` {"model":"m","a":[[[]]],"b":"\ud800"} `,
		"{\"model\":\"\xff\"}",
		`{"model":"m"}{}`, `{"model":"m","model":"n"}`, `[`, ``,
	} {
		f.Add(i, []byte(body))
	}
	f.Fuzz(func(t *testing.T, which int, body []byte) {
		e := endpoint(t, bodyPaths[uint(which)%uint(len(bodyPaths))])
		var r Request
		if ParseRequest(e, body, &r) != nil {
			return
		}
		var doc map[string]json.RawMessage
		if err := json.Unmarshal(body, &doc); err != nil {
			t.Fatalf("ParseRequest accepts %q, encoding/json says %v", body, err)
		}
		var model struct{ Model string } // its decoder folds case
		if err := json.Unmarshal(body, &model); err != nil || model.Model != r.Model {
			t.Fatalf("Model of %q = %q, encoding/json reads %q (%v)", body, r.Model, model.Model, err)
		}
		var span string
		if err := json.Unmarshal(body[r.ModelSpan.From:r.ModelSpan.To], &span); err != nil || span != r.Model {
			t.Fatalf("ModelSpan of %q holds %q, want %q", body, span, r.Model)
		}
	})
}

// The cut of chunks never changes the reading, whatever the bytes.
func FuzzMeterSplit(f *testing.F) {
	for _, x := range fixtures(f) {
		f.Add(int(x.e.Operation)-1, uint16(len(x.body)/2), uint16(3), x.body)
	}
	f.Fuzz(func(t *testing.T, op int, a, b uint16, body []byte) {
		e := endpoint(t, bodyPaths[uint(op)%uint(len(bodyPaths))])
		read := func(cuts ...int) Reading {
			var m Meter
			m.Reset(e, 200, "", false)
			from := 0
			for _, c := range append(cuts, len(body)) {
				if c = min(c, len(body)); c > from {
					before := *m.Reading()
					decisive := m.Decisive(body[from:c])
					m.Write(body[from:c])
					if after := m.Reading(); !decisive && m.mode == modeSSE && !bytes.Contains(body, []byte(`\u`)) && after.Ending == Finished && before.Ending != Finished {
						t.Fatalf("Decisive(%q) = false, but it ended the answer", body[from:c])
					}
					from = c
				}
			}
			m.Close()
			return *m.Reading()
		}
		want := read()
		if got := read(min(int(a), int(b)), max(int(a), int(b))); !sameReading(&got, &want) {
			t.Fatalf("cut at %d and %d: %+v, want %+v", a, b, got, want)
		}
		every := make([]int, len(body))
		for i := range every {
			every[i] = i
		}
		if got := read(every...); !sameReading(&got, &want) {
			t.Fatalf("byte by byte: %+v, want %+v", got, want)
		}
		for _, it := range want.Usage.Items {
			tk := it.Tokens
			for _, n := range []money.Tokens{tk.Input, tk.CacheRead, tk.CacheWrite5m, tk.CacheWrite1h, tk.InputAudio, tk.InputImage, tk.Output, tk.Reasoning, tk.OutputAudio, tk.OutputImage} {
				if n < 0 || tk.Reasoning > tk.Output {
					t.Fatalf("a negative bucket or more reasoning than output: %+v", tk)
				}
			}
		}
	})
}

// The cut of chunks never changes what comes out of Pass, and only whole
// stretches of the stream are missing from it.
func FuzzPass(f *testing.F) {
	for _, x := range fixtures(f) {
		f.Add(uint16(7), uint16(len(x.body)/2), x.body)
	}
	f.Add(uint16(3), uint16(50), []byte(": c\r\ndata: {\"choices\":[],\r\ndata: \"usage\":{}}\r\n\r\ndata: [DONE]\r\n\r\n"))
	f.Fuzz(func(t *testing.T, a, b uint16, body []byte) {
		strip := func(cuts ...int) []byte {
			var m Meter
			m.Reset(endpoints[chat], 200, "text/event-stream", true)
			var out []byte
			from := 0
			for _, c := range cuts {
				if c = min(c, len(body)); c > from {
					out = append(out, m.Pass(body[from:c], false)...)
					from = c
				}
			}
			return append(out, m.Pass(body[from:], true)...)
		}
		want := strip()
		if got := strip(min(int(a), int(b)), max(int(a), int(b))); !bytes.Equal(got, want) {
			t.Fatalf("cut at %d and %d: %q, want %q", a, b, got, want)
		}
		every := make([]int, len(body)+1)
		for i := range every {
			every[i] = i
		}
		if got := strip(every...); !bytes.Equal(got, want) {
			t.Fatalf("byte by byte: %q, want %q", got, want)
		}
		rest := body
		for _, c := range want { // a subsequence
			i := bytes.IndexByte(rest, c)
			if i < 0 {
				t.Fatalf("Pass(%q) = %q: not the same bytes in order", body, want)
			}
			rest = rest[i+1:]
		}
		if !bytes.Contains(body, []byte("usage")) && !bytes.Contains(body, []byte(`\u`)) && !bytes.Equal(want, body) {
			t.Fatalf("Pass(%q) = %q, want all of it", body, want)
		}
	})
}

// Edits of any accepted body are seen by the next reader and change nothing else.
func FuzzAppendEdits(f *testing.F) {
	for i, body := range []string{
		`{"model":"m","max_tokens":5,"stream":true,"stream_options":{"include_usage":false}}`,
		`{"model":"m","stream":true,"stream_options":{ }}`,
		`{"max_completion_tokens":null,"mod\u0065l":"m","max_tokens":7,"stream":true}`,
		` { "model":"m" } `,
	} {
		f.Add(i, "n", true, int64(6), []byte(body))
	}
	f.Fuzz(func(t *testing.T, which int, model string, usage bool, most int64, body []byte) {
		path := bodyPaths[uint(which)%uint(len(bodyPaths))]
		var r Request
		if ParseRequest(endpoint(t, path), body, &r) != nil {
			return
		}
		var back string
		if json.Unmarshal(appendString(nil, model), &back) != nil || back != model || len(model) > maxModel {
			return // not a name that config would have
		}
		for _, c := range []byte(model) {
			if c < ' ' || c == 0x7f {
				return
			}
		}
		most = max(0, min(most, maxCount))
		checkEdits(t, path, body, Edits{Model: model, IncludeUsage: usage, MaxOutput: money.Tokens(most)})
	})
}
