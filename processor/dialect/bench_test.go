package dialect

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// chatBody is a chat request of about n bytes: a conversation of short turns
// and tools, or one long text.
func chatBody(n int, long bool) []byte {
	var b bytes.Buffer
	b.WriteString(`{"model":"gpt-5.4-mini","stream":true,"max_completion_tokens":2048,"tools":[{"type":"function","function":{"name":"get_weather","parameters":{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}}],"messages":[{"role":"system","content":"Be brief."}`)
	if long {
		fmt.Fprintf(&b, `,{"role":"user","content":"%s"}`, strings.Repeat("The quick brown fox jumps over the lazy dog.\\n", max(0, n-b.Len()-40)/46))
	}
	for b.Len() < n-160 {
		b.WriteString(`,{"role":"user","content":"What is the weather in Osaka, and \"why\"?\nUse the tool."},{"role":"assistant","content":"It rains, said the tool. Anything else?"}`)
	}
	b.WriteString("]}")
	return b.Bytes()
}

func BenchmarkParseRequest(b *testing.B) {
	e, _ := Match("POST", "/v1/chat/completions")
	for _, c := range []struct {
		name string
		body []byte
	}{
		{"2KB", chatBody(2<<10, false)},
		{"300KB turns", chatBody(300<<10, false)},
		{"300KB text", chatBody(300<<10, true)},
		{"32MiB text", chatBody(32<<20, true)},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(c.body)))
			b.ReportAllocs()
			var r Request
			for b.Loop() {
				if err := ParseRequest(e, c.body, &r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

const chatChunk = `data: {"id":"chatcmpl-DsbXeHPVJBKCqCkGkK1WUxSb7w4Q1","object":"chat.completion.chunk","created":1755137752,"model":"gpt-5.4-mini-2026-03-17","service_tier":"default","system_fingerprint":null,"choices":[{"index":0,"delta":{"content":" brief"},"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"yju6ubcSiysu"}` + "\n\n"

const usageChunk = `data: {"id":"chatcmpl-DsbXeHPVJBKCqCkGkK1WUxSb7w4Q1","object":"chat.completion.chunk","created":1755137752,"model":"gpt-5.4-mini-2026-03-17","service_tier":"default","system_fingerprint":null,"choices":[],"usage":{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}` + "\n\n"

func BenchmarkMeterChunk(b *testing.B) {
	e, _ := Match("POST", "/v1/chat/completions")
	chunk := []byte(chatChunk)
	b.Run("write", func(b *testing.B) {
		var m Meter
		m.Reset(e, 200, "text/event-stream", false)
		b.SetBytes(int64(len(chunk)))
		b.ReportAllocs()
		for b.Loop() {
			m.Write(chunk)
		}
	})
	b.Run("decisive", func(b *testing.B) {
		var m Meter
		m.Reset(e, 200, "text/event-stream", false)
		m.Write(chunk)
		b.ReportAllocs()
		for b.Loop() {
			if m.Decisive(chunk) {
				b.Fatal("Decisive = true")
			}
		}
	})
	for name, strip := range map[string]bool{"pass": false, "strip": true} {
		b.Run(name, func(b *testing.B) {
			var m Meter
			m.Reset(e, 200, "text/event-stream", strip)
			b.ReportAllocs()
			for b.Loop() {
				if len(m.Pass(chunk, false)) != len(chunk) {
					b.Fatal("Pass changed a chunk")
				}
			}
		})
	}
}

func BenchmarkMeterBody(b *testing.B) {
	e, _ := Match("POST", "/v1/embeddings")
	body := []byte(`{"object":"list","data":[{"object":"embedding","index":0,"embedding":[` + strings.Repeat("-0.0123456,", 1535) + `0.5]}],"model":"text-embedding-3-small","usage":{"prompt_tokens":8,"total_tokens":8}}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	var m Meter
	for b.Loop() {
		m.Reset(e, 200, "application/json", false)
		m.Write(body)
		if !m.Reading().HasUsage {
			b.Fatal("HasUsage = false")
		}
	}
}

func BenchmarkAppendEdits(b *testing.B) {
	e, _ := Match("POST", "/v1/chat/completions")
	body := chatBody(2<<10, false)
	var r Request
	if err := ParseRequest(e, body, &r); err != nil {
		b.Fatal(err)
	}
	dst := make([]byte, 0, 2*len(body))
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendEdits(dst[:0], e, body, &r, Edits{Model: "gpt-5.4-nano", IncludeUsage: true, MaxOutput: 1024})
	}
}
