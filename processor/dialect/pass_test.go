package dialect

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

// strips feeds a stream in chunks of size and returns all that came out.
func strips(path, ctype, body string, size int) string {
	e := endpoints[path]
	var m Meter
	m.Reset(e, 200, ctype, true)
	var out []byte
	for chunk := range slices.Chunk([]byte(body), size) {
		out = append(out, m.Pass(chunk, false)...)
	}
	return string(append(out, m.Pass(nil, true)...))
}

func TestPass(t *testing.T) {
	const sse = "text/event-stream; charset=utf-8"
	text := "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"choices\\\":[],\\\"usage\\\":{}\"}}],\"usage\":null}\n\n"
	usage := "data: {\"id\":\"1\",\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\n"
	done := "data: [DONE]\n\n"
	filter := "data: {\"choices\":[],\"model\":\"\",\"prompt_filter_results\":[{\"usage\":{}}]}\n\n"
	moderation := "data: {\"choices\":[],\"usage\":null,\"moderation\":{}}\n\n"
	crlf := func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }
	cr := func(s string) string { return strings.ReplaceAll(s, "\n", "\r") }
	long := "data: {\"choices\":[],\"usage\":{},\"pad\":\"" + strings.Repeat("x", maxHeld) + "\"}\n\n"
	tests := map[string]struct{ path, ctype, body, want string }{
		"the usage chunk goes":            {chat, sse, text + usage + done, text + done},
		"of completions too":              {completions, sse, text + usage + done, text + done},
		"keys in another order":           {chat, sse, "data: {\"usage\":{\"prompt_tokens\":1},\"choices\" : [ ] }\n\n" + done, done},
		"without space":                   {chat, sse, strings.ReplaceAll(text+usage+done, "data: ", "data:"), strings.ReplaceAll(text+done, "data: ", "data:")},
		"CRLF":                            {chat, sse, crlf(text + usage + done), crlf(text + done)},
		"CR":                              {chat, sse, cr(text + usage + done), cr(text + done)},
		"byte order mark":                 {chat, sse, "\uFEFF" + usage + done, "\uFEFF" + done},
		"several data lines":              {chat, sse, "data: {\"choices\":[],\ndata: \"usage\":{}}\n\n" + done, done},
		"with id and event":               {chat, sse, "id: 7\nevent: chunk\n" + usage + done, done},
		"a comment before stays":          {chat, sse, ": wait\n" + usage + done, ": wait\n" + done},
		"a comment alone stays":           {chat, sse, ": wait\n\n" + usage + done, ": wait\n\n" + done},
		"Azure's first chunk stays":       {chat, sse, filter + text + usage + done, filter + text + done},
		"a moderation chunk stays":        {chat, sse, text + usage + moderation + done, text + moderation + done},
		"usage beside a choice stays":     {chat, sse, "data: {\"choices\":[{}],\"usage\":{}}\n\n" + done, "data: {\"choices\":[{}],\"usage\":{}}\n\n" + done},
		"choices null stays":              {chat, sse, "data: {\"choices\":null,\"usage\":{}}\n\n", "data: {\"choices\":null,\"usage\":{}}\n\n"},
		"no choices stays":                {chat, sse, "data: {\"usage\":{}}\n\n", "data: {\"usage\":{}}\n\n"},
		"an error stays":                  {chat, sse, "data: {\"error\":{\"message\":\"x\"}}\n\n", "data: {\"error\":{\"message\":\"x\"}}\n\n"},
		"a broken event stays":            {chat, sse, "data: {\"choices\":[],\"usage\":{}\n\n" + done, "data: {\"choices\":[],\"usage\":{}\n\n" + done},
		"a huge event stays":              {chat, sse, long + done, long + done},
		"the last one without blank line": {chat, sse, text + strings.TrimSuffix(usage, "\n\n"), text},
		"cut off inside":                  {chat, sse, text + usage[:40], text + usage[:40]},
		"usage twice":                     {chat, sse, usage + usage + done, done},
		"all there is":                    {chat, sse, usage, ""},
		"a body is left alone":            {chat, "application/json", `{"choices":[],"usage":{}}`, `{"choices":[],"usage":{}}`},
		"responses are left alone":        {responses, sse, usage, usage},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for size := 1; size <= min(len(tt.body), 400); size++ {
				if size > 100 && len(tt.body) > maxHeld {
					size += 100
				}
				if got := strips(tt.path, tt.ctype, tt.body, size); got != tt.want {
					t.Fatalf("in chunks of %d: %q, want %q", size, got, tt.want)
				}
			}
			if got := strips(tt.path, tt.ctype, tt.body, len(tt.body)); got != tt.want {
				t.Fatalf("in one chunk: %q, want %q", got, tt.want)
			}
		})
	}
}

// What has come of an event is withheld until it is over, and nothing else. What is
// out is between events, but for a comment, and for what is no event.
func TestPassWithholds(t *testing.T) {
	type step struct {
		chunk, want string
		inside      bool
	}
	for name, tt := range map[string]struct {
		path  string
		strip bool
		steps []step
	}{
		"chat": {chat, true, []step{
			{"data: {\"choices\":[{\"delta\":{}}]}\n\ndata: {\"id\":1,", "data: {\"choices\":[{\"delta\":{}}]}\n\n", false},
			{"\"choices\":[{", "", false},
			{"}]}\n", "", false},
			{"\n:", "data: {\"id\":1,\"choices\":[{}]}\n\n:", true},
			{" x\nda", " x\n", false},
			{"ta: {\"choices\":[],\"usage\":{", "", false},
			{"}}\n", "", false},
			{"\ndata: [", "", false},
			{"DONE]\n\n", "data: [DONE]\n\n", false},
		}},
		"messages": {messages, false, []step{
			{"event: ping\ndata: {\"type\": \"ping\"}\n\nevent: err", "event: ping\ndata: {\"type\": \"ping\"}\n\n", false},
			{"or\ndata: {}\n\n", "event: error\ndata: {}\n\n", false},
			{": wait", ": wait", true},
			{"ing\n\n\n", "ing\n\n\n", false},
		}},
		"CRLF": {responses, false, []step{
			{"data: 1\r\n\r", "data: 1\r\n\r", false},
			{"\ndata: 2\r\n", "\n", false},
			{"\r\n", "data: 2\r\n\r\n", false},
		}},
		"too large": {responses, false, []step{
			{"data: " + strings.Repeat("x", maxHeld), "data: " + strings.Repeat("x", maxHeld), true},
			{"y\n", "y\n", true},
			{"\n", "\n", false},
		}},
		"no stream at all": {responses, false, []step{
			{"{\"id\":", "{\"id\":", true},
			{"1}", "1}", true},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var m Meter
			m.Reset(endpoint(t, tt.path), 200, "text/event-stream", tt.strip)
			for i, step := range tt.steps {
				if got := string(m.Pass([]byte(step.chunk), false)); got != step.want {
					t.Fatalf("step %d: Pass(%.100q) = %.100q, want %.100q", i, step.chunk, got, step.want)
				}
				if m.Between() == step.inside {
					t.Fatalf("step %d: Between = %v after %.100q", i, !step.inside, step.want)
				}
			}
		})
	}
}

// What has grown beyond a usage chunk's size is let go before it ends.
func TestPassBoundsMemory(t *testing.T) {
	var m Meter
	m.Reset(endpoint(t, chat), 200, "text/event-stream", true)
	for _, text := range []string{`data: {"choices":[],"usage":{"x":"`, `data: {"choices":[{"delta":{"content":"`} {
		out := len(m.Pass([]byte(text), false))
		for range maxHeld/1000 + 1 {
			out += len(m.Pass(bytes.Repeat([]byte("x"), 1000), false))
		}
		if out < maxHeld {
			t.Errorf("%d bytes came out of an event of more than %d", out, maxHeld)
		}
		m.Pass([]byte("\"}\n\n"), false)
	}
}

// A chunk in which nothing changes comes back itself.
func TestPassCopiesNothing(t *testing.T) {
	var m Meter
	m.Reset(endpoint(t, chat), 200, "text/event-stream", true)
	chunk := []byte(chatChunk)
	if n := testing.AllocsPerRun(100, func() {
		if out := m.Pass(chunk, false); &out[0] != &chunk[0] || len(out) != len(chunk) {
			t.Fatal("Pass copied an unchanged chunk")
		}
	}); n != 0 {
		t.Errorf("Pass allocates %v times a chunk, want 0", n)
	}
	m.Reset(endpoint(t, chat), 500, "text/event-stream", true)
	if out := m.Pass([]byte(usageChunk), true); !bytes.Equal(out, []byte(usageChunk)) {
		t.Errorf("Pass changed an error answer: %q", out)
	}
}
