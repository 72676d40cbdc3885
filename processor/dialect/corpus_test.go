package dialect

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"airgate/accounting/money"
	"airgate/accounting/usage"
)

// outOfScope :: recording → why no endpoint of airgate's can be metered on it.
var outOfScope = map[string]string{
	"openai/images/image-generation-basic-0":                  "images are not served; DALL·E answers carry no usage",
	"openai/audio_transcriptions/audio-transcription-basic-0": "audio is not served; multipart request, answer without usage",
	"openai/responses_input_tokens/responses-count-tokens-0":  "token counting for responses is not served; free",
}

// boundExceptions :: recording → why its input exceeds InputBound.
var boundExceptions = map[string]string{}

type recording struct {
	name     string
	endpoint Endpoint
	request  []byte
	status   int
	ctype    string
	header   map[string]string
	body     []byte
	want     expected
}

type expected struct {
	Input       *int64 `json:"input_tokens"`
	Uncached    *int64 `json:"uncached_input_tokens"`
	Cached      *int64 `json:"cached_input_tokens"`
	Write       *int64 `json:"cache_write_tokens"`
	Write1h     *int64 `json:"cache_write_1h_tokens"`
	Output      *int64 `json:"output_tokens"`
	Reasoning   *int64 `json:"reasoning_tokens"`
	Model       string `json:"model"`
	ServiceTier string `json:"service_tier"`
	Geo         string `json:"inference_geo"`
	Usage       bool   `json:"usage_present"`
	WebSearches int64  `json:"web_search_requests"`
	Error       *struct {
		Class string `json:"error_class"`
	} `json:"error"`
	Items []struct {
		Model    string `json:"model"`
		Kind     string `json:"kind"`
		Uncached int64  `json:"uncached_input_tokens"`
		Cached   int64  `json:"cached_input_tokens"`
		Write5m  *int64 `json:"cache_write_5m_tokens"`
		Write1h  *int64 `json:"cache_write_1h_tokens"`
		Output   int64  `json:"output_tokens"`
	} `json:"billing_items"`
	RequestModel  string `json:"request_model"`
	RequestStream bool   `json:"request_stream"`
	IncludeUsage  bool   `json:"request_include_usage"`
	MaxOutput     *int64 `json:"request_max_output_tokens"`
}

// corpusDir finds the recordings beside the repository.
func corpusDir(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the test's folder")
		}
	}
	corpus := filepath.Join(dir, "..", "shared", "corpus")
	if _, err := os.Stat(corpus); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("the recorded corpus is missing: %v", err)
		}
		t.Skip("the recorded corpus is not here")
	}
	return corpus
}

// endpointOf maps a recorded path to the endpoint of its shape.
func endpointOf(t testing.TB, path string) Endpoint {
	t.Helper()
	paths := map[string]string{
		"/openai/v1/chat/completions":                     "/v1/chat/completions",
		"/openai/v1/responses":                            "/v1/responses",
		"/openai/deployments/gpt-5-nano/chat/completions": "/v1/chat/completions",
		"/openai/deployments/test-deployment/embeddings":  "/v1/embeddings",
	}
	if p, ok := paths[path]; ok {
		path = p
	}
	if strings.HasPrefix(path, "/v1/responses/resp_") { // a polled background answer: the same body
		path = "/v1/responses"
	}
	e, err := Match("POST", path)
	if err != nil {
		t.Fatalf("no endpoint for the recorded path %s: %v", path, err)
	}
	return e
}

func readJSON(t testing.TB, path string, into any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// recordings loads every OpenAI, Azure and Anthropic recording; each is either
// returned or named in outOfScope.
func recordings(t testing.TB) []recording {
	t.Helper()
	root := corpusDir(t)
	var all []recording
	skipped := 0
	for _, provider := range []string{"openai", "azure_openai", "anthropic"} {
		dirs, err := filepath.Glob(filepath.Join(root, provider, "*", "*"))
		if err != nil || len(dirs) == 0 {
			t.Fatalf("no recordings of %s: %v", provider, err)
		}
		for _, dir := range dirs {
			rel, _ := filepath.Rel(root, dir)
			name := filepath.ToSlash(rel)
			if _, ok := outOfScope[name]; ok {
				skipped++
				continue
			}
			var req struct {
				Path     string          `json:"path"`
				BodyKind string          `json:"body_kind"`
				Body     json.RawMessage `json:"body"`
			}
			readJSON(t, filepath.Join(dir, "request.json"), &req)
			var head struct {
				Status  int         `json:"status"`
				Headers [][2]string `json:"headers"`
			}
			readJSON(t, filepath.Join(dir, "response.headers.json"), &head)
			r := recording{name: name, endpoint: endpointOf(t, req.Path), status: head.Status, header: map[string]string{}}
			if req.BodyKind == "json" {
				var b bytes.Buffer
				if err := json.Compact(&b, req.Body); err != nil {
					t.Fatal(err)
				}
				r.request = b.Bytes()
			}
			for _, h := range head.Headers {
				r.header[strings.ToLower(h[0])] = h[1]
			}
			r.ctype = r.header["content-type"]
			if r.body, err = os.ReadFile(filepath.Join(dir, "response.body")); err != nil {
				t.Fatal(err)
			}
			if bytes.HasPrefix(r.body, []byte("\x1f\x8b")) {
				z, err := gzip.NewReader(bytes.NewReader(r.body))
				if err != nil {
					t.Fatal(err)
				}
				if r.body, err = io.ReadAll(z); err != nil {
					t.Fatal(err)
				}
			}
			readJSON(t, filepath.Join(dir, "expected.json"), &r.want)
			all = append(all, r)
		}
	}
	if skipped != len(outOfScope) {
		t.Errorf("%d recordings are out of scope, %d are named so: remove the stale names", skipped, len(outOfScope))
	}
	return all
}

func (r *recording) meter() *Meter {
	var m Meter
	m.Reset(r.endpoint, r.status, r.ctype, false)
	return &m
}

func (r *recording) read() Reading {
	m := r.meter()
	m.Write(r.body)
	m.Close()
	return *m.Reading()
}

func TestCorpusReading(t *testing.T) {
	for _, r := range recordings(t) {
		if r.status >= 400 { // TestCorpusClassify has it
			continue
		}
		t.Run(r.name, func(t *testing.T) {
			got := r.read()
			want := r.want
			if got.HasUsage != want.Usage {
				t.Fatalf("HasUsage = %v, want %v", got.HasUsage, want.Usage)
			}
			if got.Ending != Finished {
				t.Errorf("Ending = %v, want Finished", got.Ending)
			}
			if got.Clamped {
				t.Error("Clamped = true, want false")
			}
			if got.Model != want.Model {
				t.Errorf("Model = %q, want %q", got.Model, want.Model)
			}
			if !want.Usage {
				if len(got.Usage.Items) != 0 {
					t.Errorf("Items = %v, want none", got.Usage.Items)
				}
				return
			}
			if got.Usage.ServiceTier != want.ServiceTier {
				t.Errorf("ServiceTier = %q, want %q", got.Usage.ServiceTier, want.ServiceTier)
			}
			if got.Usage.Geo != want.Geo {
				t.Errorf("Geo = %q, want %q", got.Usage.Geo, want.Geo)
			}
			checkItems(t, &got, &want)
			searches := int64(0)
			for _, c := range got.Usage.Calls {
				if c.Kind == "web_search" {
					searches = c.Count
				}
			}
			if strings.Contains(want.Model, "-search-") {
				want.WebSearches = 1 // the provider does not count; one a call
			}
			if searches != want.WebSearches {
				t.Errorf("web searches = %d, want %d", searches, want.WebSearches)
			}
		})
	}
}

func checkItems(t *testing.T, got *Reading, want *expected) {
	t.Helper()
	items := got.Usage.Items
	val := func(p *int64) money.Tokens {
		if p == nil {
			return 0
		}
		return money.Tokens(*p)
	}
	if len(want.Items) > 0 {
		if len(items) != len(want.Items) {
			t.Fatalf("Items = %+v, want %+v", items, want.Items)
		}
		for i, w := range want.Items {
			g := items[i]
			if g.Model == "" {
				g.Model = got.Model
			}
			exp := usage.Item{Model: w.Model, Kind: w.Kind, Tokens: usage.Tokens{
				Input: money.Tokens(w.Uncached), CacheRead: money.Tokens(w.Cached),
				CacheWrite5m: val(w.Write5m), CacheWrite1h: val(w.Write1h), Output: money.Tokens(w.Output), Reasoning: g.Tokens.Reasoning,
			}}
			if w.Kind == "" {
				exp.Kind = g.Kind
			}
			g.Tokens.Input += g.Tokens.InputAudio // not told apart there
			g.Tokens.InputAudio = 0
			if w.Write5m == nil { // no split: all is short-lived
				exp.Tokens.CacheWrite5m = g.Tokens.CacheWrite5m
			}
			if d := cmp.Diff(exp, g); d != "" {
				t.Errorf("item %d (-want +got):\n%s", i, d)
			}
		}
	}
	var reasoning money.Tokens
	for _, it := range items {
		reasoning += it.Tokens.Reasoning
	}
	if reasoning != val(want.Reasoning) {
		t.Errorf("reasoning = %d, want %d", reasoning, val(want.Reasoning))
	}
	if len(items) > 1 {
		return
	}
	tk := items[0].Tokens
	if in := tk.Input + tk.CacheRead + tk.CacheWrite5m + tk.CacheWrite1h + tk.InputAudio + tk.InputImage; in != val(want.Input) {
		t.Errorf("all input = %d, want %d", in, val(want.Input))
	}
	if tk.CacheRead != val(want.Cached) || tk.CacheWrite1h != val(want.Write1h) || tk.CacheWrite5m+tk.CacheWrite1h != val(want.Write) {
		t.Errorf("cache = %+v, want read %d, write %d, 1h %d", tk, val(want.Cached), val(want.Write), val(want.Write1h))
	}
	if tk.Input+tk.InputAudio+tk.InputImage != val(want.Uncached) {
		t.Errorf("uncached input = %+v, want %d", tk, val(want.Uncached))
	}
	if tk.Output+tk.OutputAudio+tk.OutputImage != val(want.Output) {
		t.Errorf("output = %+v, want %d", tk, val(want.Output))
	}
}

// The cut of chunks never changes the reading: byte by byte, and cut once at
// every place.
func TestCorpusSplits(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, r := range recordings(t) {
		t.Run(r.name, func(t *testing.T) {
			want := r.read()
			m := r.meter()
			for i := range r.body {
				m.Write(r.body[i : i+1])
			}
			m.Close()
			if d := cmp.Diff(want, *m.Reading()); d != "" {
				t.Fatalf("byte by byte (-whole +cut):\n%s", d)
			}
			borders := eventBorders(r.body)
			base := r.meter()
			for i, from := range borders[:len(borders)-1] {
				to := borders[i+1]
				ref := clone(base)
				ref.Write(r.body[from:to])
				every := 1
				if len(r.body) >= 64<<10 {
					every = 1 + (to-from)/16 // sampled
				}
				for c := from + 1; c < to; c += 1 + rng.IntN(every) {
					m := clone(base)
					m.Write(r.body[from:c])
					m.Write(r.body[c:to])
					if !sameState(m, ref) {
						t.Fatalf("cut at %d (-whole +cut):\n%s", c, cmp.Diff(ref.r, m.r))
					}
				}
				base = ref
			}
		})
	}
}

func clone(m *Meter) *Meter {
	c := *m
	c.w.iters = slices.Clone(m.w.iters)
	c.r.Usage.Items = slices.Clone(m.r.Usage.Items)
	c.r.Usage.Calls = slices.Clone(m.r.Usage.Calls)
	return &c
}

// eventBorders are the places in a stream where an event has ended, its two
// ends included; between them the meter keeps nothing of the bytes. A plain
// body has only its ends.
func eventBorders(body []byte) []int {
	borders := []int{0}
	for at := 0; body[0] != '{' && at < len(body); {
		i := bytes.Index(body[at:], []byte("\n\n"))
		if i < 0 {
			break
		}
		at += i + 2
		borders = append(borders, at)
	}
	if borders[len(borders)-1] != len(body) {
		borders = append(borders, len(body))
	}
	return borders
}

// sameState compares all that two meters have between two events.
func sameState(a, b *Meter) bool {
	return sameReading(&a.r, &b.r) && a.fr.st == b.fr.st && a.fr.cr == b.fr.cr && a.acc == b.acc && a.effort == b.effort && a.hiding == b.hiding &&
		a.started == b.started && a.calls == b.calls && a.mode == b.mode && a.committed == b.committed && a.armed == b.armed &&
		a.w.st == b.w.st && a.w.model == b.w.model && a.w.id == b.w.id && a.w.toolModel == b.w.toolModel &&
		bytes.Equal(a.tail[:a.tailLen], b.tail[:b.tailLen])
}

func sameReading(a, b *Reading) bool {
	return a.HasUsage == b.HasUsage && a.HasInput == b.HasInput && a.Clamped == b.Clamped && a.Model == b.Model &&
		a.Ending == b.Ending && a.OutputBytes == b.OutputBytes && a.Hidden == b.Hidden && a.ID == b.ID && a.Error == b.Error &&
		slices.Equal(a.Usage.Items, b.Usage.Items) && slices.Equal(a.Usage.Calls, b.Usage.Calls) && a.Usage.Model == b.Usage.Model &&
		a.Usage.ServiceTier == b.Usage.ServiceTier && a.Usage.Geo == b.Usage.Geo
}

// An answer cut off at an event's border has no usage unless the event that
// carries it came; of Anthropic's the input side is known from the start.
func TestCorpusTruncated(t *testing.T) {
	streams := 0
	for _, r := range recordings(t) {
		if r.status >= 400 || !bytes.Contains(r.body, []byte("data: ")) {
			continue
		}
		streams++
		t.Run(r.name, func(t *testing.T) {
			whole := r.read()
			var last int64
			toolSearch := strings.Contains(r.name, "tool-search") // its arguments come in one piece, as an item
			for at := 0; ; {
				i := bytes.Index(r.body[at:], []byte("\n\n"))
				if i < 0 {
					break
				}
				at += i + 2
				head := r
				head.body = r.body[:at]
				got := head.read()
				event := lastEvent(head.body)
				switch {
				case r.endpoint.Operation == Messages:
					if want := bytes.Contains(head.body, []byte(`"message_delta","delta":{"stop_reason`)); got.HasUsage != want {
						t.Fatalf("cut at %d: HasUsage = %v, want %v", at, got.HasUsage, want)
					}
					if !got.HasInput || len(got.Usage.Items) == 0 {
						t.Fatalf("cut at %d: HasInput = %v, want true", at, got.HasInput)
					}
				case got.HasUsage != bytes.Contains(head.body, []byte(`"usage":{`)):
					t.Fatalf("cut at %d: HasUsage = %v", at, got.HasUsage)
				}
				terminal := bytes.Contains(event, []byte("[DONE]")) || bytes.Contains(event, []byte(`"message_stop"`)) ||
					bytes.Contains(event, []byte(`"response.completed"`))
				if (got.Ending == Finished) != terminal {
					t.Fatalf("cut at %d: Ending = %v, terminal event %v", at, got.Ending, terminal)
				}
				if got.OutputBytes < last {
					t.Fatalf("cut at %d: OutputBytes = %d, was %d", at, got.OutputBytes, last)
				}
				last = got.OutputBytes
			}
			if last != whole.OutputBytes || last == 0 && !toolSearch {
				t.Errorf("OutputBytes = %d at the last border, %d in all", last, whole.OutputBytes)
			}
		})
	}
	if streams < 10 {
		t.Errorf("%d streams, want at least 10", streams)
	}
}

func lastEvent(b []byte) []byte {
	b = bytes.TrimSuffix(b, []byte("\n\n"))
	return b[bytes.LastIndex(b, []byte("\n\n"))+1:]
}

// Every chunk that completes a usage, terminal or error event is announced.
// What is billed for output that is all visible is within what was seen of it: a
// token has a byte at least, and a call some tokens around it.
func TestCorpusOutputSeen(t *testing.T) {
	visible := 0
	for _, r := range recordings(t) {
		m := r.meter()
		m.Write(r.body)
		m.Close()
		got := *m.Reading()
		if !got.HasUsage || got.Hidden || r.want.Output == nil || r.endpoint.Operation == Embeddings {
			continue
		}
		visible++
		got.HasUsage = false // by its bytes alone
		if seen := OutputSeen(&got); seen < money.Tokens(*r.want.Output) {
			t.Errorf("%s: %d tokens for %d bytes in %d blocks, OutputSeen = %d", r.name, *r.want.Output, got.OutputBytes, got.Blocks, seen)
		}
	}
	if visible < 10 {
		t.Errorf("%d recordings have visible output only, want at least 10", visible)
	}
}

// What was seen of an event that is not over is counted as it comes: not less once
// more has come, and no more than the event counts once it is over.
func TestCorpusOpenOutput(t *testing.T) {
	grown := 0
	for _, r := range recordings(t) {
		if r.status >= 400 {
			continue
		}
		m, borders := r.meter(), eventBorders(r.body)
		for i, from := range borders[:len(borders)-1] {
			before := *m.Reading()
			most := money.Tokens(0)
			for k := from; k < borders[i+1]; k++ {
				m.Write(r.body[k : k+1])
				if open := m.OpenOutput(); open > 0 {
					if open < most-1 { // the u of an escape, before its digits
						t.Fatalf("%s: OpenOutput falls from %d to %d at byte %d", r.name, most, open, k)
					}
					most = max(most, open)
				}
			}
			after := *m.Reading()
			before.HasUsage, after.HasUsage = false, false
			if got := OutputSeen(&after) - OutputSeen(&before); got < most && !after.Hidden {
				t.Fatalf("%s: the event at byte %d counts %d, OpenOutput said %d", r.name, from, got, most)
			} else if most > 0 && got == most {
				grown++
			}
		}
	}
	if grown < 500 {
		t.Errorf("%d events were counted as they came, want at least 500", grown)
	}
}

func TestCorpusDecisive(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, r := range recordings(t) {
		if r.status >= 400 {
			continue
		}
		t.Run(r.name, func(t *testing.T) {
			for range 40 {
				m := r.meter()
				size := 1 + rng.IntN(400)
				for from := 0; from < len(r.body); {
					to := min(len(r.body), from+1+rng.IntN(size))
					before := *m.Reading()
					decisive := m.Decisive(r.body[from:to])
					m.Write(r.body[from:to])
					after := m.Reading()
					if !decisive && (before.HasUsage != after.HasUsage || before.Ending != after.Ending || before.HasInput != after.HasInput) {
						t.Fatalf("Decisive(body[%d:%d]) = false, but usage or ending came", from, to)
					}
					from = to
				}
			}
		})
	}
}

func TestCorpusClassify(t *testing.T) {
	classes := map[string]ErrorClass{
		"malformed_request": MalformedRequest, "model_not_found": MalformedRequest, "context_length_exceeded": ContextLength,
		"content_policy": ContentPolicy, "auth_upstream": ProviderAuth, "rate_limited_upstream": ProviderLimited,
		"quota_exhausted_upstream": ProviderQuota, "transient": Transient, "timeout_upstream": Transient,
	}
	n := 0
	for _, r := range recordings(t) {
		if r.status < 400 {
			continue
		}
		n++
		t.Run(r.name, func(t *testing.T) {
			want, ok := classes[r.want.Error.Class]
			if !ok {
				t.Fatalf("unknown class %q", r.want.Error.Class)
			}
			got := Classify(r.endpoint.Dialect, r.status, func(n string) string { return r.header[n] }, r.body)
			if got.Class != want {
				t.Errorf("Classify(%s) = %v, want %v", r.name, got, want)
			}
			if r := r.read(); r.HasUsage || r.Ending != Unfinished {
				t.Errorf("Meter read an error answer: %+v", r)
			}
		})
	}
	if n == 0 {
		t.Error("no error answers in the corpus")
	}
}

// The request side of each recording.
func TestCorpusRequests(t *testing.T) {
	n := 0
	for _, r := range recordings(t) {
		if r.request == nil {
			continue
		}
		n++
		t.Run(r.name, func(t *testing.T) {
			body := r.request
			if !bytes.Contains(body, []byte(`"model"`)) { // Azure names the deployment in the path
				body = append([]byte(`{"model":"deployment",`), body[1:]...)
				r.want.RequestModel = "deployment"
			}
			var q Request
			if err := ParseRequest(r.endpoint, body, &q); err != nil {
				t.Fatalf("ParseRequest = %v", err)
			}
			if r.want.RequestModel != "" && q.Model != r.want.RequestModel {
				t.Errorf("Model = %q, want %q", q.Model, r.want.RequestModel)
			}
			if q.Stream != r.want.RequestStream || q.IncludeUsage != r.want.IncludeUsage {
				t.Errorf("Stream, IncludeUsage = %v, %v, want %v, %v", q.Stream, q.IncludeUsage, r.want.RequestStream, r.want.IncludeUsage)
			}
			if q.HasMaxOutput != (r.want.MaxOutput != nil) || q.HasMaxOutput && int64(q.MaxOutput) != *r.want.MaxOutput {
				t.Errorf("MaxOutput = %d (%v), want %v", q.MaxOutput, q.HasMaxOutput, r.want.MaxOutput)
			}
			if r.want.Input == nil || q.References || q.Files || q.ServerTools || q.ServerCalls > 0 {
				return // bytes do not bound these
			}
			bound := InputBound(&q, 0, 0)
			_, excepted := boundExceptions[r.name]
			if over := money.Tokens(*r.want.Input) > bound; over != excepted {
				t.Errorf("input %d of %d bytes, bound %d: over = %v, want %v", *r.want.Input, len(r.request), bound, over, excepted)
			}
			t.Logf("input %d, bytes %d, bound %d, estimate %d", *r.want.Input, len(r.request), bound, InputEstimate(&q))
		})
	}
	if n < 30 {
		t.Errorf("%d requests, want at least 30", n)
	}
}

// Streams that carry the usage chunk come out without it, however cut; all
// others come out as they were.
func TestCorpusPass(t *testing.T) {
	stripped := 0
	for _, r := range recordings(t) {
		if r.status >= 400 || !usageOnRequest(r.endpoint.Operation) {
			continue
		}
		t.Run(r.name, func(t *testing.T) {
			want := withoutUsage(r.body)
			if len(want) != len(r.body) {
				stripped++
			}
			if r.ctype == "" || !strings.HasPrefix(r.ctype, "text/event-stream") {
				r.ctype = "text/event-stream"
			}
			for _, size := range []int{len(r.body), 1, 2, 3, 7, 64, 257} {
				if got := stripAll(&r, size); !bytes.Equal(got, want) {
					t.Fatalf("chunks of %d: %d bytes, want %d", size, len(got), len(want))
				}
			}
		})
	}
	if stripped == 0 {
		t.Error("no recording has a usage chunk")
	}
}

func stripAll(r *recording, size int) []byte {
	var m Meter
	m.Reset(r.endpoint, 200, r.ctype, true)
	var out []byte
	for chunk := range slices.Chunk(r.body, size) {
		out = append(out, m.Pass(chunk, false)...)
	}
	return append(out, m.Pass(nil, true)...)
}

// withoutUsage is the stupid way: split into events, decode, drop.
func withoutUsage(body []byte) []byte {
	var out []byte
	for _, ev := range bytes.SplitAfter(body, []byte("\n\n")) {
		var d struct {
			Choices *[]json.RawMessage `json:"choices"`
			Usage   *json.RawMessage   `json:"usage"`
		}
		data, ok := bytes.CutPrefix(ev, []byte("data: "))
		if ok && json.Unmarshal(data, &d) == nil && d.Choices != nil && len(*d.Choices) == 0 && d.Usage != nil && string(*d.Usage) != "null" {
			continue
		}
		out = append(out, ev...)
	}
	return out
}
