package dialect

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"airgate/accounting/money"
)

var update = flag.Bool("update", false, "rewrite the readings in testdata/meter; review the diff")

// fixture is one answer of testdata/meter: its head, its bytes, and in words
// what a Meter must read in them.
type fixture struct {
	file    string
	archive *txtar.Archive
	e       Endpoint
	ctype   string
	cache1h bool
	body    []byte
}

func fixtures(t testing.TB) []fixture {
	t.Helper()
	files, err := filepath.Glob("testdata/meter/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	var all []fixture
	for _, file := range files {
		a, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if len(a.Files) != 3 || a.Files[1].Name != "body" || a.Files[2].Name != "reading" {
			t.Fatalf("%s: want sections answer, body, reading", file)
		}
		f := fixture{file: file, archive: a, body: a.Files[1].Data}
		if strings.Contains(filepath.Base(file), "_cut") || strings.HasPrefix(filepath.Base(file), "messages_cut") {
			f.body = bytes.TrimSuffix(f.body, []byte("\n")) // txtar ends every section with a newline
		}
		for line := range strings.Lines(string(a.Files[0].Data)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			switch key {
			case "endpoint":
				if f.e, err = Match("POST", value); err != nil {
					t.Fatalf("%s: %v", file, err)
				}
			case "type":
				f.ctype = value
			case "end": // every section ends with a newline; this body does not
				f.body = bytes.TrimSuffix(f.body, []byte("\n"))
			case "cache":
				f.cache1h = value == "1h"
			default:
				t.Fatalf("%s: unknown word %q", file, key)
			}
		}
		all = append(all, f)
	}
	return all
}

func (f *fixture) meter() *Meter {
	var m Meter
	m.Reset(f.e, 200, f.ctype, false)
	m.CacheWrite1h = f.cache1h
	return &m
}

func (f *fixture) read(body []byte, size int) *Reading {
	m := f.meter()
	for chunk := range slices.Chunk(body, size) {
		m.Write(chunk)
	}
	m.Close()
	return m.Reading()
}

// words writes a reading as a fixture has it; zero figures are left out.
func words(r *Reading) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", [...]string{"unfinished", "finished", "failed"}[r.Ending])
	if r.Error != (ProviderError{}) {
		fmt.Fprintf(&b, "error: %s %s\n", [...]string{
			"none", "transient", "provider_limited", "provider_quota", "provider_auth", "malformed", "context_length", "content_policy",
		}[r.Error.Class], r.Error.Code)
	}
	switch {
	case r.HasUsage:
		b.WriteString("usage: final")
	case r.HasInput:
		b.WriteString("usage: input only")
	default:
		b.WriteString("usage: none")
	}
	if r.Clamped {
		b.WriteString(", clamped")
	}
	b.WriteByte('\n')
	for _, it := range r.Usage.Items {
		fmt.Fprintf(&b, "item: %s", it.Kind)
		if it.Model != "" {
			fmt.Fprintf(&b, " by %s", it.Model)
		}
		t := it.Tokens
		for _, f := range []struct {
			name string
			n    int64
		}{
			{"input", int64(t.Input)},
			{"cache_read", int64(t.CacheRead)},
			{"cache_write_5m", int64(t.CacheWrite5m)},
			{"cache_write_1h", int64(t.CacheWrite1h)},
			{"input_audio", int64(t.InputAudio)},
			{"input_image", int64(t.InputImage)},
			{"output", int64(t.Output)},
			{"reasoning", int64(t.Reasoning)},
			{"output_audio", int64(t.OutputAudio)},
			{"output_image", int64(t.OutputImage)},
		} {
			if f.n != 0 {
				fmt.Fprintf(&b, " %s=%d", f.name, f.n)
			}
		}
		b.WriteByte('\n')
	}
	for _, c := range r.Usage.Calls {
		fmt.Fprintf(&b, "calls: %s %d\n", c.Kind, c.Count)
	}
	fmt.Fprintf(&b, "visible: %d bytes", r.OutputBytes)
	if r.Hidden {
		b.WriteString(", more may be hidden")
	}
	fmt.Fprintf(&b, "\nmodel: %s\nid: %s\ntier: %s\n", r.Model, r.ID, r.Usage.ServiceTier)
	if r.Usage.Geo != "" {
		fmt.Fprintf(&b, "geo: %s\n", r.Usage.Geo)
	}
	return b.String()
}

// Every answer reads as its fixture says, however it is cut.
func TestMeter(t *testing.T) {
	for _, f := range fixtures(t) {
		t.Run(strings.TrimSuffix(filepath.Base(f.file), ".txt"), func(t *testing.T) {
			got := words(f.read(f.body, len(f.body)))
			if *update {
				f.archive.Files[2].Data = []byte(got)
				if err := os.WriteFile(f.file, txtar.Format(f.archive), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if want := string(f.archive.Files[2].Data); got != want {
				t.Errorf("reading =\n%s\nwant\n%s", got, want)
			}
			for size := 1; size < 80; size++ {
				if cut := words(f.read(f.body, size)); cut != got {
					t.Fatalf("in chunks of %d, reading =\n%s\nwant\n%s", size, cut, got)
				}
			}
			for at := 1; at < len(f.body); at++ {
				m := f.meter()
				m.Write(f.body[:at])
				m.Write(f.body[at:])
				m.Close()
				if cut := words(m.Reading()); cut != got {
					t.Fatalf("cut at %d, reading =\n%s\nwant\n%s", at, cut, got)
				}
			}
		})
	}
}

// Every legal spelling of an event stream reads the same.
func TestMeterFraming(t *testing.T) {
	for _, f := range fixtures(t) {
		if !bytes.Contains(f.body, []byte("data: ")) || bytes.Contains(f.archive.Files[0].Data, []byte("end: open")) {
			continue
		}
		name := strings.TrimSuffix(filepath.Base(f.file), ".txt")
		want := words(f.read(f.body, len(f.body)))
		body := string(f.body)
		for spelling, s := range map[string]string{
			"CRLF":           strings.ReplaceAll(body, "\n", "\r\n"),
			"CR":             strings.ReplaceAll(body, "\n", "\r"),
			"BOM":            "\uFEFF" + body,
			"no space":       strings.ReplaceAll(body, "data: ", "data:"),
			"comments":       ": hi\n\n" + strings.ReplaceAll(body, "data: ", ": keep-alive\ndata: "),
			"other fields":   strings.ReplaceAll(body, "data: ", "id: 1\nretry: 10\ndatab: {}\ndata: "),
			"several lines":  strings.ReplaceAll(body, `,"`, ",\ndata: \""),
			"blank lines":    "\n\n" + strings.ReplaceAll(body, "\n\n", "\n\n\n\n"),
			"spaced JSON":    strings.ReplaceAll(strings.ReplaceAll(body, `":`, `" : `), "data: {", "data: \t{ "),
			"no blank line":  strings.TrimRight(body, "\n"),
			"an empty event": "data\n\ndata:\n\n" + body,
		} {
			if (spelling == "several lines" || spelling == "spaced JSON") && strings.Contains(body, `\"`) {
				continue // they would change the text
			}
			for _, size := range []int{len(s), 1, 2, 3, 17} {
				if got := words(f.read([]byte(s), size)); got != want {
					t.Errorf("%s: %s in chunks of %d reads\n%s\nwant\n%s", name, spelling, size, got, want)
					break
				}
			}
		}
	}
}

// A chunk that brings usage or an ending is announced, wherever it is cut.
func TestMeterDecisive(t *testing.T) {
	for _, f := range fixtures(t) {
		if strings.Contains(f.file, "usage_in_text") {
			continue // its usage is spelled with escapes
		}
		for size := 1; size < 60; size++ {
			m := f.meter()
			for chunk := range slices.Chunk(f.body, size) {
				before := *m.Reading()
				decisive := m.Decisive(chunk)
				m.Write(chunk)
				if after := m.Reading(); !decisive && (after.HasUsage != before.HasUsage || after.Ending != before.Ending) {
					t.Errorf("%s: chunks of %d: Decisive(%q) = false, want true", f.file, size, chunk)
				}
			}
		}
	}
}

// Chunks of mere text are not, though they have "usage":null and may speak of
// usage.
func TestMeterNotDecisive(t *testing.T) {
	for name, tt := range map[string]struct{ path, chunk string }{
		"chat":        {chat, chatChunk},
		"chat words":  {chat, `data: {"choices":[{"delta":{"content":"\"usage\":{\"error\": of disk usage"}}],"usage": null,"error":null}` + "\n\n"},
		"responses":   {responses, "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"x\"}\n\n"},
		"in progress": {responses, "event: response.in_progress\ndata: {\"type\":\"response.in_progress\",\"response\":{\"error\":null,\"usage\":null}}\n\n"},
		"anthropic":   {messages, "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"x\"}}\n\n"},
		"ping":        {messages, "event: ping\ndata: {\"type\":\"ping\"}\n\n"},
	} {
		var m Meter
		m.Reset(endpoint(t, tt.path), 200, "text/event-stream", false)
		for range 2 {
			if m.Decisive([]byte(tt.chunk)) {
				t.Errorf("%s: Decisive(%q) = true, want false", name, tt.chunk)
			}
			m.Write([]byte(tt.chunk))
		}
	}
}

// One data line of any size needs no memory, and a usage behind it is found.
func TestMeterHugeLine(t *testing.T) {
	e := endpoint(t, responses)
	text := bytes.Repeat([]byte(`iVBORw0KGgoAAAANSUhEUgAA\n`), 1<<15)
	var m Meter
	run := func() {
		m.Reset(e, 200, "text/event-stream", false)
		m.Write([]byte(`data: {"type":"response.completed","response":{"id":"resp_1","model":"gpt-5","output":[{"type":"image_generation_call","result":"`))
		for range 8 {
			m.Write(text)
		}
		m.Write([]byte(`","` + strings.Repeat("k", 1000) + `":{"a":[1,[2,{"b":"` + strings.Repeat("v", 1000) + `"}]]}}],"usage":{"input_tokens":3,"output_tokens":4}}}` + "\n\n"))
	}
	run()
	if r := m.Reading(); !r.HasUsage || r.Ending != Finished {
		t.Fatalf("Reading = %+v, want usage", r)
	}
	if n := testing.AllocsPerRun(5, run); n > 8 {
		t.Errorf("a line of %d bytes allocates %v times, want at most 8", 8*len(text), n)
	}
}

func TestMeterAllocations(t *testing.T) {
	var m Meter
	m.Reset(endpoint(t, chat), 200, "text/event-stream", false)
	chunk := []byte(chatChunk)
	m.Write(chunk)
	if n := testing.AllocsPerRun(100, func() {
		if !m.Decisive(chunk) {
			m.Write(chunk)
		}
	}); n != 0 {
		t.Errorf("a chunk allocates %v times, want 0", n)
	}
}

// What is no success is not read, and a Meter forgets the answer before.
func TestMeterReset(t *testing.T) {
	var m Meter
	m.Write([]byte(usageChunk))
	if r := m.Reading(); r.HasUsage {
		t.Errorf("a Meter without Reset has read %+v", r)
	}
	e := endpoint(t, chat)
	for _, status := range []int{200, 400, 500, 304} {
		m.Reset(e, status, "text/event-stream", false)
		if r := m.Reading(); r.HasUsage || r.OutputBytes != 0 || r.Model != "" || r.Ending != Unfinished || !r.Hidden {
			t.Errorf("after Reset, Reading = %+v", r)
		}
		m.Write([]byte(chatChunk + usageChunk + "data: [DONE]\n\n"))
		m.Close()
		if got, want := m.Reading().HasUsage, status == 200; got != want {
			t.Errorf("status %d: HasUsage = %v, want %v", status, got, want)
		}
	}
	m.Reset(Endpoint{Dialect: OpenAI, Operation: ListModels}, 200, "application/json", true)
	m.Write([]byte(usageChunk))
	m.Close()
	if m.Reading().HasUsage {
		t.Error("an endpoint that airgate answers was read")
	}
}

// Each tool call, item and block counts once, however its stream tells of it.
func TestMeterBlocks(t *testing.T) {
	for name, tt := range map[string]struct {
		path, body string
		bytes      int64
		want       money.Tokens
	}{
		"no output yet": {chat, `data: {"choices":[{"index":0,"delta":{"role":"assistant"}}]}` + "\n\n", 0, blockTokens},
		"chat, two calls": {
			chat, `data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"ab","arguments":""}}]}}]}` + "\n\n" +
				`data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{}"}},{"index":1,"id":"call_2","function":{"name":"c","arguments":"{}"}}]}}]}` + "\n\n", 7, 7 + 3*blockTokens,
		},
		"responses": {
			responses, `data: {"type":"response.output_item.added","item":{"type":"function_call","name":"f","arguments":""}}` + "\n\n" +
				`data: {"type":"response.function_call_arguments.delta","delta":"{}"}` + "\n\n" +
				`data: {"type":"response.output_item.done","item":{"type":"function_call","name":"f","arguments":"{}"}}` + "\n\n", 2, 2 + 2*blockTokens,
		},
		"messages": {
			messages, `data: {"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"x","name":"f","input":{}}}` + "\n\n" +
				`data: {"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{\"a\":1}"}}` + "\n\n", 8, 8 + 2*blockTokens,
		},
		"a running count": {chat, `data: {"choices":[{"index":0,"delta":{"content":"hi"}}],"usage":{"prompt_tokens":1,"completion_tokens":900}}` + "\n\n", 2, 900},
	} {
		var m Meter
		m.Reset(endpoint(t, tt.path), 200, "text/event-stream", false)
		m.Write([]byte(tt.body))
		if r := m.Reading(); r.OutputBytes != tt.bytes || OutputSeen(r) != tt.want {
			t.Errorf("%s: %d bytes in %d blocks, OutputSeen = %d; want %d bytes, %d", name, r.OutputBytes, r.Blocks, OutputSeen(r), tt.bytes, tt.want)
		}
	}
}

// Names and figures that cannot be what they seem are left out.
func TestMeterOdd(t *testing.T) {
	tests := map[string]struct {
		body string
		want func(*Reading) bool
	}{
		"a model of 300 bytes":    {`{"model":"` + strings.Repeat("m", 300) + `","usage":{"prompt_tokens":1,"completion_tokens":1}}`, func(r *Reading) bool { return r.Model == "" && r.HasUsage }},
		"a bracket for a brace":   {`{"usage":{"prompt_tokens":1,"completion_tokens":1]}`, func(r *Reading) bool { return !r.HasUsage && r.Ending == Unfinished }},
		"figures as text":         {`{"usage":{"prompt_tokens":"1","completion_tokens":"1"}}`, func(r *Reading) bool { return !r.HasInput }},
		"figures with fraction":   {`{"usage":{"prompt_tokens":1.5,"completion_tokens":1}}`, func(r *Reading) bool { return !r.HasInput }},
		"whole figures as floats": {`{"usage":{"prompt_tokens":12.0,"completion_tokens":1e2}}`, func(r *Reading) bool { return r.HasUsage && r.Usage.Items[0].Tokens.Output == 100 }},
		"figures beyond reason":   {`{"usage":{"prompt_tokens":99999999999999999999,"completion_tokens":1}}`, func(r *Reading) bool { return !r.HasInput }},
		"usage as a list":         {`{"usage":[{"prompt_tokens":1,"completion_tokens":1}]}`, func(r *Reading) bool { return !r.HasInput }},
		"escaped text":            {`{"model":"gpt-4o","choices":[{"message":{"content":"\u4f60\n\"x"}}]}`, func(r *Reading) bool { return r.OutputBytes == 3+1+1+1 }},
		"an escaped model":        {`{"model":"gpt\u002d4o","choices":[]}`, func(r *Reading) bool { return r.Model == "gpt-4o" && !r.Hidden }},
		"nesting without end":     {strings.Repeat(`{"choices":[`, 1000), func(r *Reading) bool { return !r.HasInput }},
		"nothing":                 {``, func(r *Reading) bool { return r.Ending == Unfinished && r.Hidden }},
	}
	for name, tt := range tests {
		var m Meter
		m.Reset(endpoint(t, chat), 200, "application/json", false)
		m.Write([]byte(tt.body))
		m.Close()
		if !tt.want(m.Reading()) {
			t.Errorf("%s: Reading = %+v", name, *m.Reading())
		}
	}
}
