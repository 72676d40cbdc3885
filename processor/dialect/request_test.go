package dialect

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"airgate/accounting/money"
)

func endpoint(t testing.TB, path string) Endpoint {
	t.Helper()
	e, err := Match("POST", path)
	if err != nil {
		t.Fatalf("Match(POST, %s) = %v", path, err)
	}
	return e
}

func parse(t testing.TB, path, body string) *Request {
	t.Helper()
	var r Request
	if err := ParseRequest(endpoint(t, path), []byte(body), &r); err != nil {
		t.Fatalf("ParseRequest(%s, %s) = %v, want nil", path, body, err)
	}
	return &r
}

const (
	chat        = "/v1/chat/completions"
	responses   = "/v1/responses"
	completions = "/v1/completions"
	embeddings  = "/v1/embeddings"
	messages    = "/v1/messages"
	countTokens = "/v1/messages/count_tokens"
)

// What a request says, one fact a case: only the fields named differ from
// those of the plain request.
func TestParseRequestFacts(t *testing.T) {
	type change = func(*Request)
	tests := map[string]struct {
		path, fields string
		want         change
	}{
		"plain chat":                   {chat, ``, func(*Request) {}},
		"stream":                       {chat, `"stream":true`, func(r *Request) { r.Stream = true }},
		"stream null is absent":        {chat, `"stream":null`, func(*Request) {}},
		"include usage":                {chat, `"stream_options":{"include_usage":true}`, func(r *Request) { r.IncludeUsage = true }},
		"include usage false":          {chat, `"stream_options":{"include_usage":false}`, func(*Request) {}},
		"an escaped key is the key":    {chat, `"str\u0065am":true`, func(r *Request) { r.Stream = true }},
		"cap":                          {chat, `"max_completion_tokens":10`, func(r *Request) { r.HasMaxOutput, r.MaxOutput = true, 10 }},
		"old cap":                      {chat, `"max_tokens":10`, func(r *Request) { r.HasMaxOutput, r.MaxOutput = true, 10 }},
		"largest cap":                  {chat, `"max_tokens":1,"max_completion_tokens":10000`, func(r *Request) { r.HasMaxOutput, r.MaxOutput = true, 10000 }},
		"largest cap first":            {chat, `"max_completion_tokens":10000,"max_tokens":1`, func(r *Request) { r.HasMaxOutput, r.MaxOutput = true, 10000 }},
		"an own message with id":       {responses, `"input":[{"id":"msg_1","role":"assistant","content":"x"}]`, func(*Request) {}},
		"cap zero is a cap":            {chat, `"max_tokens":0`, func(r *Request) { r.HasMaxOutput = true }},
		"cap null is absent":           {chat, `"max_tokens":null`, func(*Request) {}},
		"largest number":               {chat, `"max_tokens":2147483647`, func(r *Request) { r.HasMaxOutput, r.MaxOutput = true, 2147483647 }},
		"choices":                      {chat, `"n":3`, func(r *Request) { r.Choices = 3 }},
		"no choice is one":             {chat, `"n":0`, func(*Request) {}},
		"tools":                        {chat, `"tools":[{"type":"function","function":{"name":"f"}}]`, func(r *Request) { r.Tools = true }},
		"functions":                    {chat, `"functions":[{"name":"f"}]`, func(r *Request) { r.Tools = true }},
		"no tools":                     {chat, `"tools":[]`, func(*Request) {}},
		"search options":               {chat, `"web_search_options":{}`, func(r *Request) { r.ServerTools = true }},
		"a tool of a compatible":       {chat, `"tools":[{"type":"web_search"}]`, func(r *Request) { r.Tools, r.ServerTools = true, true }},
		"tier":                         {chat, `"service_tier":"flex"`, func(r *Request) { r.ServiceTier = "flex" }},
		"chat stores if asked":         {chat, `"store":true`, func(r *Request) { r.Store = true }},
		"prediction":                   {chat, `"prediction":{"type":"content","content":"x"}`, func(r *Request) { r.Predicted = true }},
		"audio answer":                 {chat, `"modalities":["text","audio"],"audio":{"voice":"ash"}`, func(r *Request) { r.Audio = true }},
		"text answer":                  {chat, `"modalities":["text"]`, func(*Request) {}},
		"image by url":                 {chat, `"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x/y.png"}}]}]`, func(r *Request) { r.References, r.Reference = true, "url" }},
		"image by bare url":            {chat, `"messages":[{"content":[{"image_url":"https://x"}]}]`, func(r *Request) { r.References, r.Reference = true, "image_url" }},
		"image by other scheme":        {chat, `"messages":[{"content":[{"image_url":{"url":"gs://x"}}]}]`, func(r *Request) { r.References, r.Reference = true, "url" }},
		"image inline":                 {chat, `"messages":[{"content":[{"image_url":{"url":"data:image/png;base64,AAAA"}}]}]`, func(r *Request) { r.Images, r.ImageBytes = 1, 26 }},
		"image by escaped url":         {chat, `"messages":[{"content":[{"image\u005furl":{"\u0075rl":"https:\/\/x"}}]}]`, func(r *Request) { r.References, r.Reference = true, "url" }},
		"file by id":                   {chat, `"messages":[{"content":[{"type":"file","file":{"file_id":"file-1"}}]}]`, func(r *Request) { r.References, r.Reference, r.Stored = true, "file_id", "file_id" }},
		"file inline":                  {chat, `"messages":[{"content":[{"type":"file","file":{"filename":"a.pdf","file_data":"data:application/pdf;base64,AAAA"}}]}]`, func(r *Request) { r.Files = true }},
		"earlier audio":                {chat, `"messages":[{"role":"assistant","audio":{"id":"audio_1"}}]`, func(r *Request) { r.References, r.Reference, r.Stored = true, "id", "id" }},
		"input audio inline":           {chat, `"messages":[{"content":[{"type":"input_audio","input_audio":{"data":"AAAA","format":"wav"}}]}]`, func(*Request) {}},
		"a url in a text":              {chat, `"messages":[{"content":"see https://x and \"image_url\":\"https://y\""}]`, func(*Request) {}},
		"a url in tool arguments":      {chat, `"messages":[{"tool_calls":[{"function":{"name":"f","arguments":"{\"image_url\":\"https://x\"}"}}]}]`, func(*Request) {}},
		"keys in a tool's schema":      {chat, `"tools":[{"type":"function","function":{"parameters":{"properties":{"file_id":{"type":"x"},"Model":{},"n":{"default":1.5},"n":0}}}}]`, func(r *Request) { r.Tools = true }},
		"keys of others may be double": {chat, `"metadata":{"a":1,"a":2,"model":3},"user":"x","user":"y"`, func(*Request) {}},
		"numbers of others are free":   {chat, `"temperature":1e-2,"top_p":-0.5E+3,"seed":99999999999999999999`, func(*Request) {}},
		"a lone surrogate in a text":   {chat, `"messages":[{"content":"\ud800 \udc00"}]`, func(*Request) {}},

		"plain responses": {responses, ``, func(*Request) {}},
		"store off":       {responses, `"store":false`, func(r *Request) { r.Store = false }},
		"store null":      {responses, `"store":null`, func(*Request) {}},
		"output cap":      {responses, `"max_output_tokens":7`, func(r *Request) { r.HasMaxOutput, r.MaxOutput = true, 7 }},
		"background":      {responses, `"background":true`, func(r *Request) { r.Background = true }},
		"previous response": {responses, `"previous_response_id":"resp_1"`, func(r *Request) {
			r.References, r.Reference, r.Stored = true, "previous_response_id", "previous_response_id"
		}},
		"no previous response":        {responses, `"previous_response_id":null`, func(*Request) {}},
		"conversation":                {responses, `"conversation":"conv_1"`, func(r *Request) { r.References, r.Reference, r.Stored = true, "conversation", "conversation" }},
		"conversation object":         {responses, `"conversation":{"id":"conv_1"}`, func(r *Request) { r.References, r.Reference, r.Stored = true, "conversation", "conversation" }},
		"stored prompt":               {responses, `"prompt":{"id":"pmpt_1"}`, func(r *Request) { r.References, r.Reference, r.Stored = true, "prompt", "prompt" }},
		"item reference":              {responses, `"input":[{"type":"item_reference","id":"msg_1"}]`, func(r *Request) { r.References, r.Reference, r.Stored = true, "item_reference", "item_reference" }},
		"item reference without type": {responses, `"input":[{"id":"msg_1"}]`, func(r *Request) { r.References, r.Reference, r.Stored = true, "item_reference", "item_reference" }},
		"an own item with id":         {responses, `"input":[{"id":"msg_1","type":"message","role":"assistant","content":[{"type":"output_text","text":"x","annotations":[{"type":"url_citation","url":"https://x","file_id":"f"}]}]}]`, func(*Request) {}},
		"a stored image": {responses, `"input":[{"type":"image_generation_call","id":"ig_1"}]`, func(r *Request) {
			r.References, r.Reference, r.Stored = true, "image_generation_call", "image_generation_call"
		}},
		"an image sent back":         {responses, `"input":[{"type":"image_generation_call","id":"ig_1","result":"AAAA"}]`, func(*Request) {}},
		"input image":                {responses, `"input":[{"role":"user","content":[{"type":"input_image","image_url":"https://x"}]}]`, func(r *Request) { r.References, r.Reference = true, "image_url" }},
		"input file url":             {responses, `"input":[{"role":"user","content":[{"type":"input_file","file_url":"https://x"}]}]`, func(r *Request) { r.References, r.Reference = true, "file_url" }},
		"a tool's screenshot":        {responses, `"input":[{"type":"computer_call_output","output":{"type":"computer_screenshot","image_url":"data:image/png;base64,AA"}}]`, func(r *Request) { r.Images, r.ImageBytes = 1, 24 }},
		"a container of the history": {responses, `"input":[{"type":"code_interpreter_call","id":"ci_1","container_id":"cntr_1"}]`, func(r *Request) { r.References, r.Reference, r.Stored = true, "container_id", "container_id" }},
		"client tools":               {responses, `"tools":[{"type":"function"},{"type":"custom"},{"type":"local_shell"},{"type":"tool_search","execution":"client"},{"type":"namespace","tools":[{"type":"function"}]}]`, func(r *Request) { r.Tools = true }},
		"server tool":                {responses, `"tools":[{"type":"web_search_preview"}]`, func(r *Request) { r.Tools, r.ServerTools = true, true }},
		"server tool of tomorrow":    {responses, `"tools":[{"type":"teleport"}]`, func(r *Request) { r.Tools, r.ServerTools = true, true }},
		"server tool inside":         {responses, `"tools":[{"type":"namespace","tools":[{"type":"web_search"}]}]`, func(r *Request) { r.Tools, r.ServerTools = true, true }},
		"server tool with escapes":   {responses, `"tools":[{"typ\u0065":"function","type ":1},{"type":"\u0077eb_search"}]`, func(r *Request) { r.Tools, r.ServerTools = true, true }},
		"capped server tool":         {responses, `"tools":[{"type":"web_search"}],"max_tool_calls":3`, func(r *Request) { r.Tools, r.ServerCalls = true, 3 }},
		"a cap without server tools": {responses, `"tools":[{"type":"function"}],"max_tool_calls":3`, func(r *Request) { r.Tools = true }},
		"a null cap":                 {responses, `"tools":[{"type":"web_search"}],"max_tool_calls":null`, func(r *Request) { r.Tools, r.ServerTools = true, true }},
		"mcp":                        {responses, `"tools":[{"type":"mcp","server_url":"https://x"}]`, func(r *Request) { r.Tools, r.ServerTools, r.References, r.Reference = true, true, true, "tools" }},
		"file search": {responses, `"tools":[{"type":"file_search","vector_store_ids":["vs_1"]}]`, func(r *Request) {
			r.Tools, r.ServerTools, r.References, r.Reference, r.Stored = true, true, true, "vector_store_ids", "vector_store_ids"
		}},
		"new container": {responses, `"tools":[{"type":"code_interpreter","container":{"type":"auto"}}]`, func(r *Request) { r.Tools, r.ServerTools = true, true }},
		"container by id": {responses, `"tools":[{"type":"code_interpreter","container":"cntr_1"}]`, func(r *Request) {
			r.Tools, r.ServerTools, r.References, r.Reference, r.Stored = true, true, true, "container", "container"
		}},
		"container with files": {responses, `"tools":[{"type":"code_interpreter","container":{"type":"auto","file_ids":["f"]}}]`, func(r *Request) {
			r.Tools, r.ServerTools, r.References, r.Reference, r.Stored = true, true, true, "file_ids", "file_ids"
		}},
		"image tool, capped": {responses, `"max_tool_calls":1,"tools":[{"type":"image_generation"}]`, func(r *Request) { r.Tools, r.ServerTools = true, true }},
		"two tool models": {messages, `"tools":[{"type":"advisor_20260301","model":"a","max_uses":1},{"type":"advisor_20260301","model":"b","max_uses":1}]`, func(r *Request) {
			r.Tools, r.ServerCalls, r.ToolModel = true, 2, "a, b"
		}},
		"fallbacks": {messages, `"fallbacks":[{"model":"claude-opus-5-5","max_tokens":128000}]`, func(r *Request) {
			r.ServerTools, r.References, r.Reference, r.ToolModel = true, true, "fallbacks", "claude-opus-5-5"
		}},
		"no fallbacks": {messages, `"fallbacks":null`, func(*Request) {}},
		"a thread": {messages, `"thread":{"type":"continue","previous_message_id":"msg_1"}`, func(r *Request) {
			r.References, r.Reference, r.Stored = true, "thread", "thread"
		}},
		"a tool added on the way": {messages, `"messages":[{"role":"user","content":[{"type":"tool_addition","tool":{"definition":{"type":"web_search_20250305"}}}]}]`, func(r *Request) {
			r.ServerTools = true
		}},
		"image model": {responses, `"tools":[{"type":"image_generation","model":"gpt-image-1"}]`, func(r *Request) { r.Tools, r.ServerTools, r.ToolModel = true, true, "gpt-image-1" }},
		"compaction":  {responses, `"context_management":[{"type":"compaction"}]`, func(r *Request) { r.ServerTools = true }},

		"plain completions": {completions, ``, func(*Request) {}},
		"best of":           {completions, `"n":2,"best_of":5`, func(r *Request) { r.Choices = 5 }},
		"prompts":           {completions, `"prompt":["a","b","c"]`, func(r *Request) { r.Prompts = 3 }},
		"token ids":         {completions, `"prompt":[1,2,3]`, func(*Request) {}},
		"lists of ids":      {completions, `"prompt":[[1,2],[3]]`, func(r *Request) { r.Prompts = 2 }},
		"one prompt":        {completions, `"prompt":"a"`, func(*Request) {}},
		"no prompts":        {completions, `"prompt":[]`, func(*Request) {}},
		"inputs":            {embeddings, `"input":["a","b"]`, func(r *Request) { r.Prompts = 2 }},

		"plain messages":            {messages, ``, func(*Request) {}},
		"anthropic cap":             {messages, `"max_tokens":9`, func(r *Request) { r.HasMaxOutput, r.MaxOutput = true, 9 }},
		"thinking":                  {messages, `"thinking":{"type":"enabled","budget_tokens":2000}`, func(r *Request) { r.Thinking, r.Thinks = 2000, true }},
		"thinking as it likes":      {messages, `"thinking":{"type":"adaptive"}`, func(r *Request) { r.Thinks = true }},
		"thinking disabled":         {messages, `"thinking":{"type":"disabled"}`, func(*Request) {}},
		"anthropic client tools":    {messages, `"tools":[{"name":"f","input_schema":{}},{"type":"custom","name":"g"},{"type":"bash_20250124"},{"type":"text_editor_20250728"},{"type":"computer_20250124"},{"type":"memory_20250818"}]`, func(r *Request) { r.Tools = true }},
		"anthropic server tool":     {messages, `"tools":[{"type":"web_search_20250305"}]`, func(r *Request) { r.Tools, r.ServerTools = true, true }},
		"anthropic capped tools":    {messages, `"tools":[{"type":"web_search_20250305","max_uses":2},{"type":"web_fetch_20250910","max_uses":3}]`, func(r *Request) { r.Tools, r.ServerCalls = true, 5 }},
		"anthropic half capped":     {messages, `"tools":[{"type":"web_search_20250305","max_uses":2},{"type":"code_execution_20250825"}]`, func(r *Request) { r.Tools, r.ServerTools = true, true }},
		"advisor":                   {messages, `"tools":[{"type":"advisor_20260301","name":"advisor","model":"claude-opus-4-8","max_uses":1}]`, func(r *Request) { r.Tools, r.ServerCalls, r.ToolModel = true, 1, "claude-opus-4-8" }},
		"mcp servers":               {messages, `"mcp_servers":[{"type":"url","url":"https://x"}]`, func(r *Request) { r.ServerTools, r.References, r.Reference = true, true, "mcp_servers" }},
		"no mcp servers":            {messages, `"mcp_servers":[]`, func(*Request) {}},
		"anthropic compaction":      {messages, `"context_management":{"edits":[{"type":"compact_20260112"}]}`, func(r *Request) { r.ServerTools = true }},
		"clearing edits":            {messages, `"context_management":{"edits":[{"type":"clear_tool_uses_20250919"}]}`, func(*Request) {}},
		"cache":                     {messages, `"system":[{"type":"text","text":"x","cache_control":{"type":"ephemeral"}}]`, func(r *Request) { r.CacheWrite = true }},
		"cache of the whole":        {messages, `"cache_control":{"type":"ephemeral","ttl":"5m"}`, func(r *Request) { r.CacheWrite = true }},
		"cache of a tool":           {messages, `"tools":[{"name":"f","cache_control":{"type":"ephemeral"}}]`, func(r *Request) { r.Tools, r.CacheWrite = true, true }},
		"cache of an hour, deep":    {messages, `"messages":[{"role":"user","content":[{"type":"tool_result","content":[{"type":"text","cache_control":{"type":"ephemeral","ttl":"1h"}}]}]}]`, func(r *Request) { r.CacheWrite, r.CacheWrite1h = true, true }},
		"cache of half an hour":     {responses, `"prompt_cache_options":{"mode":"explicit","ttl":"30m"}`, func(*Request) {}},
		"cache of a day":            {responses, `"prompt_cache_options":{"ttl":"24h"}`, func(r *Request) { r.CacheWrite1h = true }},
		"cache of a day, chat":      {chat, `"prompt_cache_options":{"ttl":"12h"}`, func(r *Request) { r.CacheWrite1h = true }},
		"retention of a day":        {chat, `"prompt_cache_retention":"24h"`, func(r *Request) { r.CacheWrite1h = true }},
		"retention in memory":       {responses, `"prompt_cache_retention":"in_memory"`, func(*Request) {}},
		"no retention":              {responses, `"prompt_cache_retention":null,"prompt_cache_options":null`, func(*Request) {}},
		"reasoning":                 {responses, `"reasoning":{"effort":"high","mode":"standard"}`, func(*Request) {}},
		"reasoning mode pro":        {responses, `"reasoning":{"mode":"pro"}`, func(r *Request) { r.HiddenPrompt = true }},
		"no cache":                  {messages, `"system":[{"cache_control":null}]`, func(*Request) {}},
		"anthropic image by url":    {messages, `"messages":[{"content":[{"type":"image","source":{"type":"url","url":"https://x"}}]}]`, func(r *Request) { r.References, r.Reference = true, "url" }},
		"anthropic image by file":   {messages, `"messages":[{"content":[{"type":"image","source":{"type":"file","file_id":"file_1"}}]}]`, func(r *Request) { r.References, r.Reference, r.Stored = true, "file_id", "file_id" }},
		"anthropic image inline":    {messages, `"messages":[{"content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}}]}]`, func(r *Request) { r.Images, r.ImageBytes = 1, 4 }},
		"anthropic pdf inline":      {messages, `"messages":[{"content":[{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"AAAA"}}]}]`, func(r *Request) { r.Files = true }},
		"anthropic text document":   {messages, `"messages":[{"content":[{"type":"document","source":{"type":"text","media_type":"text/plain","data":"hi"}}]}]`, func(*Request) {}},
		"a source of tomorrow":      {messages, `"messages":[{"content":[{"type":"image","source":{"type":"s3","bucket":"b"}}]}]`, func(r *Request) { r.References, r.Reference = true, "source" }},
		"container upload":          {messages, `"messages":[{"content":[{"type":"container_upload","file_id":"file_1"}]}]`, func(r *Request) { r.References, r.Reference, r.Stored = true, "file_id", "file_id" }},
		"a searched page":           {messages, `"messages":[{"content":[{"type":"web_search_tool_result","content":[{"type":"web_search_result","url":"https://x"}]}]}]`, func(*Request) {}},
		"a tool's input":            {messages, `"messages":[{"content":[{"type":"tool_use","input":{"source":{"type":"url"},"file_id":"x","cache_control":{}}}]}]`, func(*Request) {}},
		"anthropic container":       {messages, `"container":"container_1"`, func(r *Request) { r.References, r.Reference, r.Stored = true, "container", "container" }},
		"anthropic container by id": {messages, `"container":{"id":"container_1"}`, func(r *Request) { r.References, r.Reference, r.Stored = true, "id", "id" }},
		"anthropic new container":   {messages, `"container":{"id":null,"skills":[{"type":"anthropic","skill_id":"pptx"}]}`, func(*Request) {}},
		"own skill":                 {messages, `"container":{"skills":[{"type":"custom","skill_id":"skill_1"}]}`, func(r *Request) { r.References, r.Reference, r.Stored = true, "skills", "skills" }},
		"speed":                     {messages, `"speed":"fast","service_tier":"auto"`, func(r *Request) { r.ServiceTier = "fast" }},
		"usual speed":               {messages, `"service_tier":"standard_only","speed":"standard"`, func(r *Request) { r.ServiceTier = "standard_only" }},
		"counting":                  {countTokens, `"messages":[{"content":"x"}]`, func(*Request) {}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			body := `{"model":"m"}`
			if tt.fields != "" {
				body = `{"model":"m",` + tt.fields + `}`
			}
			want := parse(t, tt.path, `{"model":"m"}`)
			want.BodyBytes = len(body)
			tt.want(want)
			got := *parse(t, tt.path, body)
			// Spans have tests of their own.
			got.StreamOptions, got.IncludeUsageSpan, got.NullCap, got.CapSpans = Span{}, Span{}, Span{}, [2]Span{}
			if !reflect.DeepEqual(&got, want) {
				t.Errorf("ParseRequest(%s) =\n%+v, want\n%+v", body, got, *want)
			}
		})
	}
}

func TestParseRequestSpans(t *testing.T) {
	body := ` {"max_tokens": 7 ,"model" : "g\u0070t","stream_options":{ "include_usage" :false},"max_completion_tokens":null}`
	r := parse(t, chat, body)
	for name, tt := range map[string]struct {
		span Span
		want string
	}{
		"model":         {r.ModelSpan, `"g\u0070t"`},
		"cap":           {r.CapSpans[0], `7`},
		"second cap":    {r.CapSpans[1], ``},
		"null cap":      {r.NullCap, `null`},
		"options":       {r.StreamOptions, `{ "include_usage" :false}`},
		"include usage": {r.IncludeUsageSpan, `false`},
		"start":         {Span{0, r.ObjectStart}, ` {`},
	} {
		if got := body[tt.span.From:tt.span.To]; got != tt.want {
			t.Errorf("%s: span holds %q, want %q", name, got, tt.want)
		}
	}
	if r.Model != "gpt" {
		t.Errorf("Model = %q, want %q", r.Model, "gpt")
	}
}

func TestParseRequestMalformed(t *testing.T) {
	deep := func(n int) string { return strings.Repeat("[", n-1) + strings.Repeat("]", n-1) }
	const count = "must be a whole number from 0 to 2147483647"
	tests := map[string]struct {
		path, body, reason string
		offset             int
	}{
		"empty":                   {chat, ``, "the body is empty", 0},
		"blank":                   {chat, " \n", "the body is empty", 2},
		"array":                   {chat, `[]`, "must be a JSON object", 0},
		"string":                  {chat, `"model"`, "must be a JSON object", 0},
		"BOM":                     {chat, "\uFEFF{}", "byte order mark", 0},
		"not UTF-8":               {chat, "{\"model\":\"\xff\"}", "not valid UTF-8", 10},
		"an encoded surrogate":    {chat, "{\"model\":\"\xed\xa0\x80\"}", "not valid UTF-8", 10},
		"behind":                  {chat, `{"model":"m"} {}`, "something behind", 14},
		"NUL behind":              {chat, "{\"model\":\"m\"}\x00", "something behind", 13},
		"cut":                     {chat, `{"model":"m"`, "ends inside", 12},
		"cut in string":           {chat, `{"model":"m`, "ends inside a string", 9},
		"cut in escape":           {chat, `{"model":"\`, "ends inside a string", 9},
		"no colon":                {chat, `{"model" "m"}`, "a colon", 9},
		"no comma":                {chat, `{"model":"m" "n":1}`, "a comma", 13},
		"comma too many":          {chat, `{"model":"m",}`, "a key in quotes", 13},
		"comma too many in array": {chat, `{"model":"m","x":[1,]}`, "a value", 20},
		"single quotes":           {chat, `{'model':'m'}`, "a key in quotes", 1},
		"comment":                 {chat, `{"model":"m"/**/}`, "a comma", 12},
		"literal":                 {chat, `{"model":"m","x":nul}`, "a value", 17},
		"literal NaN":             {chat, `{"model":"m","x":NaN}`, "a value", 17},
		"leading zero":            {chat, `{"model":"m","x":01}`, "a comma", 18},
		"plus":                    {chat, `{"model":"m","x":+1}`, "a value", 17},
		"no fraction":             {chat, `{"model":"m","x":1.}`, "number", 17},
		"no exponent":             {chat, `{"model":"m","x":1e}`, "number", 17},
		"only minus":              {chat, `{"model":"m","x":-}`, "number", 17},
		"bad escape":              {chat, `{"model":"m","x":"\x"}`, "escape", 18},
		"bad unicode escape":      {chat, `{"model":"m","x":"\u12g4"}`, "escape", 18},
		"raw control":             {chat, "{\"model\":\"m\",\"x\":\"a\tb\"}", "control character", 19},
		"too deep":                {chat, `{"model":"m","x":` + deep(129) + `}`, "too deeply", 17 + 127},
		"no model":                {chat, `{}`, "model is missing", -1},
		"model null":              {chat, `{"model":null}`, "model must be a string", 9},
		"model empty":             {chat, `{"model":""}`, "model is empty", 9},
		"model long":              {chat, `{"model":"` + strings.Repeat("m", 257) + `"}`, "at most 256", 9},
		"model long in escapes":   {chat, `{"model":"` + strings.Repeat(`\u006d`, 257) + `"}`, "at most 256", 9},
		"model with control":      {chat, `{"model":"m\n"}`, "control character", 9},
		"model with surrogate":    {chat, `{"model":"\ud800"}`, "surrogate", 9},
		"model twice":             {chat, `{"model":"m","model":"m"}`, "model is there twice", 13},
		"model twice by escape":   {chat, `{"model":"m","mod\u0065l":"n"}`, "model is there twice", 13},
		"model in capitals":       {chat, `{"model":"m","Model":"n"}`, "model is spelled in another case", 13},
		"cap in capitals":         {chat, `{"model":"m","MAX_TOKENS":1}`, "max_tokens is spelled in another case", 13},
		"kelvin sign":             {chat, "{\"model\":\"m\",\"max_to\u212Aens\":1}", "max_tokens is spelled in another case", 13},
		"long s":                  {chat, "{\"model\":\"m\",\"\u017Ftream\":true}", "stream is spelled in another case", 13},
		"long s by escape":        {chat, `{"model":"m","\u017ftream":true}`, "stream is spelled in another case", 13},
		"cap as string":           {chat, `{"model":"m","max_tokens":"5"}`, "max_tokens " + count, 26},
		"cap with fraction":       {chat, `{"model":"m","max_tokens":1.0}`, "max_tokens " + count, 26},
		"cap with exponent":       {chat, `{"model":"m","max_tokens":1e3}`, "max_tokens " + count, 26},
		"cap negative":            {chat, `{"model":"m","max_tokens":-1}`, "max_tokens " + count, 26},
		"cap minus zero":          {chat, `{"model":"m","max_tokens":-0}`, "max_tokens " + count, 26},
		"cap too large":           {chat, `{"model":"m","max_tokens":2147483648}`, "max_tokens " + count, 26},
		"cap far too large":       {chat, `{"model":"m","max_tokens":99999999999999999999}`, "max_tokens " + count, 26},
		"cap as object":           {chat, `{"model":"m","max_tokens":{}}`, "max_tokens " + count, 26},
		"choices as bool":         {chat, `{"model":"m","n":true}`, "n " + count, 17},
		"stream as number":        {chat, `{"model":"m","stream":1}`, "stream must be true or false", 22},
		"stream as string":        {chat, `{"model":"m","stream":"true"}`, "stream must be true or false", 22},
		"options as bool":         {chat, `{"model":"m","stream_options":true}`, "stream_options must be an object", 30},
		"include as string":       {chat, `{"model":"m","stream_options":{"include_usage":"yes"}}`, "include_usage must be true or false", 47},
		"include twice":           {chat, `{"model":"m","stream_options":{"include_usage":true,"include_usage":false}}`, "include_usage is there twice", 52},
		"tools as object":         {chat, `{"model":"m","tools":{"type":"web_search"}}`, "tools must be an array", 21},
		"tier as number":          {chat, `{"model":"m","service_tier":1}`, "service_tier must be a string", 28},
		"url twice":               {chat, `{"model":"m","messages":[{"content":[{"image_url":{"url":"data:,","url":"https://x"}}]}]}`, "url is there twice", 66},
		"tool type twice":         {responses, `{"model":"m","tools":[{"type":"function","type":"web_search"}]}`, "type is there twice", 41},
		"previous in capitals":    {responses, `{"model":"m","Previous_Response_ID":"r"}`, "previous_response_id is spelled", 13},
		"background as number":    {responses, `{"model":"m","background":1}`, "background must be true or false", 26},
		"calls as string":         {responses, `{"model":"m","max_tool_calls":"1"}`, "max_tool_calls " + count, 30},
		"budget with fraction":    {messages, `{"model":"m","thinking":{"budget_tokens":1.5}}`, "budget_tokens " + count, 41},
		"uses negative":           {messages, `{"model":"m","tools":[{"type":"web_search_1","max_uses":-1}]}`, "max_uses " + count, 56},
		"best of too large":       {completions, `{"model":"m","best_of":3000000000}`, "best_of " + count, 23},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var r Request
			err := ParseRequest(endpoint(t, tt.path), []byte(tt.body), &r)
			var m *Malformed
			if !errors.As(err, &m) {
				t.Fatalf("ParseRequest = %v, want a *Malformed", err)
			}
			if !strings.Contains(m.Reason, tt.reason) || m.Offset != tt.offset {
				t.Errorf("ParseRequest = %q at %d, want %q at %d", m.Reason, m.Offset, tt.reason, tt.offset)
			}
		})
	}
	if parse(t, chat, `{"model":"m","x":`+deep(128)+`}`).Model != "m" {
		t.Error("128 levels are refused")
	}
}

// The eight-at-once search is the one-by-one search.
func TestSpecial(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.OneOf(rapid.SampledFrom([]byte("\"\\\x00\x1f !#[]\x7f\x80\xff")), rapid.ByteRange('a', 'z')), 0, 40).Draw(t, "b")
		want := len(b)
		for i, c := range b {
			if c == '"' || c == '\\' || c < ' ' {
				want = i
				break
			}
		}
		if got := special(b); got != want {
			t.Fatalf("special(%q) = %d, want %d", b, got, want)
		}
	})
}

func TestParseRequestQuotesNothing(t *testing.T) {
	for _, body := range []string{
		`{"model":5,"s3cret":1}`, `{"model":"s3cret\n"}`, `{"model":"m","max_tokens":"s3cret"}`, `{"s3cret" s3cret}`, `{"model":"m","x":s3cret}`,
	} {
		var r Request
		err := ParseRequest(endpoint(t, chat), []byte(body), &r)
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("ParseRequest(%s) = %v, want an error without the body's words", body, err)
		}
	}
}

func TestParseRequestWithoutBody(t *testing.T) {
	e, err := Match("GET", "/v1/models")
	if err != nil {
		t.Fatal(err)
	}
	var r Request
	if err := ParseRequest(e, []byte(`{}`), &r); err == nil {
		t.Error("ParseRequest of GET /v1/models = nil, want an error")
	}
}

func TestParseRequestAllocations(t *testing.T) {
	bodies := map[string][]byte{
		"chat":  chatBody(64<<10, false),
		"text":  chatBody(64<<10, true),
		"facts": []byte(`{"model":"gpt-5.4","max_tokens":1,"max_completion_tokens":2,"stream":true,"stream_options":{"include_usage":false},"service_tier":"priority","tools":[{"type":"web_search"}],"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x"}},{"file":{"file_id":"x"}}]}]}`),
	}
	e := endpoint(t, chat)
	for name, body := range bodies {
		var r Request
		if n := testing.AllocsPerRun(50, func() {
			if err := ParseRequest(e, body, &r); err != nil {
				t.Fatal(err)
			}
		}); n > 1 {
			t.Errorf("ParseRequest(%s) allocates %v times, want at most 1 (the model's name)", name, n)
		}
	}
}

func TestAppendEdits(t *testing.T) {
	tests := map[string]struct {
		path, body string
		edits      Edits
		want       string
	}{
		"nothing":                  {chat, `{"model":"m"}`, Edits{}, `{"model":"m"}`},
		"model":                    {chat, ` { "model" : "m" , "x":1}`, Edits{Model: `a"b/é`}, ` { "model" : "a\"b/é" , "x":1}`},
		"same model":               {chat, `{"model":"\u006d"}`, Edits{Model: "m"}, `{"model":"\u006d"}`},
		"usage":                    {chat, `{"model":"m","stream":true}`, Edits{IncludeUsage: true}, `{"stream_options":{"include_usage":true},"model":"m","stream":true}`},
		"usage in empty options":   {chat, `{"model":"m","stream":true,"stream_options":{ }}`, Edits{IncludeUsage: true}, `{"model":"m","stream":true,"stream_options":{"include_usage":true }}`},
		"usage beside an option":   {chat, `{"model":"m","stream":true,"stream_options":{"include_obfuscation":false}}`, Edits{IncludeUsage: true}, `{"model":"m","stream":true,"stream_options":{"include_usage":true,"include_obfuscation":false}}`},
		"usage false":              {chat, `{"model":"m","stream":true,"stream_options":{"include_usage":false}}`, Edits{IncludeUsage: true}, `{"model":"m","stream":true,"stream_options":{"include_usage":true}}`},
		"usage null":               {chat, `{"model":"m","stream":true,"stream_options":{"include_usage":null}}`, Edits{IncludeUsage: true}, `{"model":"m","stream":true,"stream_options":{"include_usage":true}}`},
		"options null":             {chat, `{"model":"m","stream":true,"stream_options":null}`, Edits{IncludeUsage: true}, `{"model":"m","stream":true,"stream_options":{"include_usage":true}}`},
		"usage asked":              {chat, `{"model":"m","stream":true,"stream_options":{"include_usage":true}}`, Edits{IncludeUsage: true}, `{"model":"m","stream":true,"stream_options":{"include_usage":true}}`},
		"no stream, no usage":      {chat, `{"model":"m"}`, Edits{IncludeUsage: true}, `{"model":"m"}`},
		"responses always have it": {responses, `{"model":"m","stream":true}`, Edits{IncludeUsage: true}, `{"model":"m","stream":true}`},
		"anthropic always has it":  {messages, `{"model":"m","stream":true}`, Edits{IncludeUsage: true}, `{"model":"m","stream":true}`},
		"completions need it":      {completions, `{"model":"m","stream":true}`, Edits{IncludeUsage: true}, `{"stream_options":{"include_usage":true},"model":"m","stream":true}`},
		"cap for chat":             {chat, `{"model":"m"}`, Edits{MaxOutput: 9}, `{"max_completion_tokens":9,"model":"m"}`},
		"cap for responses":        {responses, `{"model":"m"}`, Edits{MaxOutput: 9}, `{"max_output_tokens":9,"model":"m"}`},
		"cap for completions":      {completions, `{"model":"m"}`, Edits{MaxOutput: 9}, `{"max_tokens":9,"model":"m"}`},
		"cap for anthropic":        {messages, `{"model":"m"}`, Edits{MaxOutput: 9}, `{"max_tokens":9,"model":"m"}`},
		"no cap for embeddings":    {embeddings, `{"model":"m"}`, Edits{MaxOutput: 9}, `{"model":"m"}`},
		"no cap for counting":      {countTokens, `{"model":"m"}`, Edits{MaxOutput: 9}, `{"model":"m"}`},
		"cap lowered":              {chat, `{"model":"m","max_completion_tokens":100}`, Edits{MaxOutput: 9}, `{"model":"m","max_completion_tokens":9}`},
		"the caller's field stays": {chat, `{"model":"m","max_tokens":100}`, Edits{MaxOutput: 9}, `{"model":"m","max_tokens":9}`},
		"a lower cap stays":        {chat, `{"model":"m","max_tokens":5}`, Edits{MaxOutput: 9}, `{"model":"m","max_tokens":5}`},
		"both lowered":             {chat, `{"max_completion_tokens":100,"model":"m","max_tokens":50}`, Edits{MaxOutput: 9}, `{"max_completion_tokens":9,"model":"m","max_tokens":9}`},
		"one lowered":              {chat, `{"max_completion_tokens":100,"model":"m","max_tokens":5}`, Edits{MaxOutput: 9}, `{"max_completion_tokens":9,"model":"m","max_tokens":5}`},
		"null filled":              {messages, `{"max_tokens":null,"model":"m"}`, Edits{MaxOutput: 9}, `{"max_tokens":9,"model":"m"}`},
		"old null left":            {chat, `{"model":"m","max_tokens":null}`, Edits{MaxOutput: 9}, `{"max_completion_tokens":9,"model":"m","max_tokens":null}`},
		"null beside a cap left":   {chat, `{"model":"m","max_completion_tokens":null,"max_tokens":50}`, Edits{MaxOutput: 9}, `{"model":"m","max_completion_tokens":null,"max_tokens":9}`},
		"all at once":              {chat, "{\n \"stream\":true, \"model\":\"m\", \"stream_options\":{}}", Edits{Model: "n", IncludeUsage: true, MaxOutput: 9}, "{\"max_completion_tokens\":9,\n \"stream\":true, \"model\":\"n\", \"stream_options\":{\"include_usage\":true}}"},
		"two fields in":            {chat, `{"model":"m","stream":true}`, Edits{IncludeUsage: true, MaxOutput: 9}, `{"stream_options":{"include_usage":true},"max_completion_tokens":9,"model":"m","stream":true}`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			e := endpoint(t, tt.path)
			r := parse(t, tt.path, tt.body)
			got := AppendEdits([]byte("x"), e, []byte(tt.body), r, tt.edits)
			if want := "x" + tt.want; string(got) != want {
				t.Errorf("AppendEdits(%s) = %s, want %s", tt.body, got, want)
			}
		})
	}
}

// drawBody makes a request that ParseRequest accepts, in odd spellings.
func drawBody(t *rapid.T) (path string, body []byte) {
	path = rapid.SampledFrom([]string{chat, responses, completions, messages}).Draw(t, "path")
	spaces := rapid.SampledFrom([]string{"", " ", "\n\t"})
	key := func(k string) string {
		if rapid.IntRange(0, 4).Draw(t, "spelling") == 0 {
			i := rapid.IntRange(0, len(k)-1).Draw(t, "escape")
			return fmt.Sprintf(`%s\u%04x%s`, k[:i], k[i], k[i+1:])
		}
		return k
	}
	count := rapid.SampledFrom([]string{"null", "0", "1", "9", "100", "2147483647"})
	flag := rapid.SampledFrom([]string{"null", "true", "false"})
	fields := []string{`"` + key("model") + `":` + rapid.SampledFrom([]string{`"m"`, `"gpt-5.4"`, `"\u00e9"`}).Draw(t, "model")}
	maybe := func(k string, value func() string) {
		if rapid.Bool().Draw(t, k) {
			fields = append(fields, `"`+key(k)+`"`+spaces.Draw(t, "s")+":"+spaces.Draw(t, "s")+value())
		}
	}
	maybe("stream", func() string { return flag.Draw(t, "flag") })
	switch path {
	case chat:
		maybe("max_tokens", func() string { return count.Draw(t, "cap") })
		maybe("max_completion_tokens", func() string { return count.Draw(t, "cap") })
	case responses:
		maybe("max_output_tokens", func() string { return count.Draw(t, "cap") })
	default:
		maybe("max_tokens", func() string { return count.Draw(t, "cap") })
	}
	if path == chat || path == completions {
		maybe("stream_options", func() string {
			return rapid.SampledFrom([]string{
				"null", "{}", "{ }", `{"include_usage":true}`, `{"include_usage": false }`, `{"x":1,"include_usage":null}`, `{"x":[{}]}`,
			}).Draw(t, "options")
		})
	}
	maybe("user", func() string { return `"a{}\"\\"` })
	maybe("metadata", func() string { return `{"model":{"max_tokens":[1,2]},"stream":"x"}` })
	fields = rapid.Permutation(fields).Draw(t, "order")
	var b strings.Builder
	b.WriteString(spaces.Draw(t, "s") + "{")
	for i, f := range fields {
		if i > 0 {
			b.WriteString(",")
		}
		b.WriteString(spaces.Draw(t, "s") + f + spaces.Draw(t, "s"))
	}
	b.WriteString("}" + spaces.Draw(t, "s"))
	return path, []byte(b.String())
}

// Edits change what they name, nothing else, and are seen by the next reader.
func TestAppendEditsProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		path, body := drawBody(t)
		ed := Edits{
			Model:        rapid.SampledFrom([]string{"", "n", "with \"quotes\" and \u2028"}).Draw(t, "new model"),
			IncludeUsage: rapid.Bool().Draw(t, "usage"),
			MaxOutput:    money.Tokens(rapid.SampledFrom([]int64{0, 1, 50, 1<<31 - 1}).Draw(t, "max")),
		}
		checkEdits(t, path, body, ed)
	})
}

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

func checkEdits(t fataler, path string, body []byte, ed Edits) {
	t.Helper()
	e, err := Match("POST", path)
	if err != nil {
		t.Fatalf("Match = %v", err)
	}
	var r, after Request
	if err := ParseRequest(e, body, &r); err != nil {
		t.Fatalf("ParseRequest(%s) = %v", body, err)
	}
	out := AppendEdits(nil, e, body, &r, ed)
	if ed == (Edits{}) && !bytes.Equal(out, body) {
		t.Fatalf("AppendEdits without edits = %s, want %s", out, body)
	}
	if err := ParseRequest(e, out, &after); err != nil {
		t.Fatalf("ParseRequest(%s, edited %s) = %v", body, out, err)
	}
	if ed.Model != "" && after.Model != ed.Model || ed.Model == "" && after.Model != r.Model {
		t.Fatalf("model of %s = %q, was %q, want %q", out, after.Model, r.Model, ed.Model)
	}
	if want := r.IncludeUsage || ed.IncludeUsage && r.Stream && usageOnRequest(e.Operation); after.IncludeUsage != want {
		t.Fatalf("include_usage of %s = %v, want %v", out, after.IncludeUsage, want)
	}
	if ed.MaxOutput > 0 && capName(e.Operation) != "" {
		want := ed.MaxOutput
		if r.HasMaxOutput {
			want = min(want, r.MaxOutput)
		}
		if !after.HasMaxOutput || after.MaxOutput != want {
			t.Fatalf("cap of %s = %d, want %d", out, after.MaxOutput, want)
		}
	}
	before, now := decode(t, body), decode(t, out)
	for _, doc := range []map[string]any{before, now} {
		for _, k := range []string{"model", "max_tokens", "max_completion_tokens", "max_output_tokens"} {
			delete(doc, k)
		}
		if o, ok := doc["stream_options"].(map[string]any); ok {
			delete(o, "include_usage")
			if len(o) == 0 {
				delete(doc, "stream_options")
			}
		} else {
			delete(doc, "stream_options")
		}
	}
	if !reflect.DeepEqual(before, now) {
		t.Fatalf("AppendEdits(%s) = %s: other fields have changed", body, out)
	}
}

func decode(t fataler, b []byte) map[string]any {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	return doc
}

func TestVisible(t *testing.T) {
	for name, tt := range map[string]struct {
		r     Request
		model string
		want  bool
	}{
		"chat":                       {Request{Operation: ChatCompletions}, "gpt-4o-2024-08-06", true},
		"chat with tools":            {Request{Operation: ChatCompletions, Tools: true}, "gpt-4.1-mini", true},
		"responses":                  {Request{Operation: Responses}, "gpt-4.1", true},
		"completions":                {Request{Operation: Completions}, "gpt-3.5-turbo-instruct", true},
		"messages":                   {Request{Operation: Messages}, "claude-sonnet-4-6", true},
		"a model that reasons":       {Request{Operation: ChatCompletions}, "gpt-5.4-mini", false},
		"a model that may think":     {Request{Operation: Messages}, "claude-sonnet-5", false},
		"a model of unknown kind":    {Request{Operation: ChatCompletions}, "my-deployment", false},
		"a model that searches":      {Request{Operation: ChatCompletions}, "gpt-4o-mini-search-preview", false},
		"thinking":                   {Request{Operation: Messages, Thinks: true}, "claude-sonnet-4-6", false},
		"thinking, by its budget":    {Request{Operation: Messages, Thinking: 1024}, "claude-sonnet-4-6", false},
		"best of several":            {Request{Operation: Completions, Choices: 3}, "gpt-3.5-turbo-instruct", false},
		"several prompts":            {Request{Operation: Completions, Prompts: 2}, "gpt-3.5-turbo-instruct", false},
		"a prediction":               {Request{Operation: ChatCompletions, Predicted: true}, "gpt-4o", false},
		"audio":                      {Request{Operation: ChatCompletions, Audio: true}, "gpt-4o-audio-preview", false},
		"server tools with a cap":    {Request{Operation: Responses, ServerCalls: 1}, "gpt-4o", false},
		"server tools without one":   {Request{Operation: Messages, ServerTools: true}, "claude-sonnet-4-6", false},
		"a tool with its own model":  {Request{Operation: Responses, ToolModel: "gpt-image-1"}, "gpt-4o", false},
		"in the background":          {Request{Operation: Responses, Background: true}, "gpt-4o", false},
		"embeddings are no stream":   {Request{Operation: Embeddings}, "gpt-4o", false},
		"a reasoning mode is hidden": {Request{Operation: Responses, HiddenPrompt: true}, "gpt-4o", false},
	} {
		if got := Visible(&tt.r, tt.model); got != tt.want {
			t.Errorf("%s: Visible(%s) = %v, want %v", name, tt.model, got, tt.want)
		}
	}
}

func TestInputBound(t *testing.T) {
	tests := map[string]struct {
		r                       Request
		overhead, context, want money.Tokens
	}{
		"bytes and overhead":       {Request{Dialect: OpenAI, BodyBytes: 1000}, 0, 400000, 1128},
		"tools have hidden text":   {Request{Dialect: Anthropic, BodyBytes: 1000, Tools: true}, 0, 200000, 2024},
		"the model's own overhead": {Request{Dialect: OpenAI, BodyBytes: 1000, Tools: true}, 1400, 200000, 2400},
		"an overhead that is less": {Request{Dialect: Anthropic, BodyBytes: 1000, Tools: true}, 30, 200000, 2024},
		"a hidden prompt":          {Request{Dialect: OpenAI, BodyBytes: 233, HiddenPrompt: true}, 0, 400000, 400000},
		"never above the window":   {Request{Dialect: OpenAI, BodyBytes: 1 << 20}, 0, 128000, 128000},
		"window unknown":           {Request{Dialect: OpenAI, BodyBytes: 1 << 20}, 0, 0, 1<<20 + 128},
		"fetched input":            {Request{Dialect: OpenAI, BodyBytes: 10, References: true}, 0, 128000, 128000},
		"fetched, window unknown":  {Request{Dialect: OpenAI, BodyBytes: 10, References: true}, 0, 0, 1<<31 - 1},
		"pages":                    {Request{Dialect: Anthropic, BodyBytes: 10, Files: true}, 0, 200000, 200000},
		"images by pixels":         {Request{Dialect: Anthropic, BodyBytes: 901000, ImageBytes: 900000, Images: 2}, 0, 200000, 1256 + 2*5000},
	}
	for name, tt := range tests {
		if got := InputBound(&tt.r, tt.overhead, tt.context); got != tt.want {
			t.Errorf("%s: InputBound = %d, want %d", name, got, tt.want)
		}
	}
	if got := InputEstimate(&Request{Dialect: OpenAI, BodyBytes: 400}); got != 150 {
		t.Errorf("InputEstimate of 400 bytes = %d, want 150", got)
	}
	if got := InputEstimate(&Request{Dialect: Anthropic, BodyBytes: 400, Tools: true}); got != 800 {
		t.Errorf("InputEstimate of 400 bytes with tools = %d, want 800", got)
	}
}
