package e2e

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"airgate/envoy/envoytest"
)

// job is one call of sdk/*/scenarios, and what must come of it.
type job struct {
	Name    string            `json:"name"`
	SDK     string            `json:"sdk"`
	Base    string            `json:"base"`
	Key     string            `json:"key"`
	API     string            `json:"api"`
	Model   string            `json:"model"`
	Stream  bool              `json:"stream"`
	Script  string            `json:"script,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
	Extra   map[string]any    `json:"extra,omitempty"`

	team string
	want result
}

type result struct {
	Name   string   `json:"name"`
	Text   string   `json:"text"`
	Error  string   `json:"error"`
	Status int      `json:"status"`
	Code   string   `json:"code"`
	Calls  int      `json:"calls"`
	Models []string `json:"models"`
}

// afterTheHead is the status of an error inside a stream: none.
const afterTheHead = 0

const sdkPolicy = `teams:
  search: {}
  spent:  {}
  narrow: {models: [text-embedding-3-small]}
  slow:   {}
  cut:    {}
limits:
  - {name: slow-rate, match: {team: slow}, requests: 1/min, burst: 1}
budgets:
  - {name: search, match: {team: search}, usd: 100, per: month}
  - {name: spent,  match: {team: spent},  usd: 0.00000001, per: month}
  - {name: narrow, match: {team: narrow}, usd: 100, per: month}
  - {name: slow,   match: {team: slow},   usd: 100, per: month}
  - {name: cut,    match: {team: cut}, each: user, usd: 0.015, per: month, streamHold: sliced}
` + visibleModels

// The official SDKs work unchanged with a virtual key, raise the exception
// their users expect, and do not repeat what must not be repeated.
func TestSDKs(t *testing.T) {
	envoytest.Binary(t) // before SDKs are looked for
	for name, run := range map[string]func(t *testing.T) *exec.Cmd{"python": pythonSDK, "node": nodeSDK} {
		t.Run(name, func(t *testing.T) {
			cmd := run(t)
			w := newWorld(t, worldOptions{policy: sdkPolicy, teams: []string{"search", "spent", "narrow", "slow", "cut"}, script: "out 12"})
			jobs := sdkJobs()
			var in bytes.Buffer
			for i := range jobs {
				j := &jobs[i]
				j.Base, j.Key = w.url, w.keys[j.team]
				if j.Key == "" {
					j.Key = "ag-nobody"
				}
				line, err := json.Marshal(j)
				if err != nil {
					t.Fatal(err)
				}
				in.Write(append(line, '\n'))
			}
			var errs bytes.Buffer
			cmd.Stdin, cmd.Stderr = &in, &errs
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v: %s", err, errs.String())
			}
			var got []result
			for line := range strings.Lines(string(out)) {
				var r result
				if err := json.Unmarshal([]byte(line), &r); err != nil {
					t.Fatalf("%v in %s", err, line)
				}
				got = append(got, r)
			}
			if len(got) != len(jobs) {
				t.Fatalf("%d results for %d jobs: %s", len(got), len(jobs), errs.String())
			}
			for i, j := range jobs {
				t.Run(j.Name, func(t *testing.T) { j.check(t, got[i]) })
			}
			w.quiet()
		})
	}
}

const words = "The scripted provider answers with plain words "

func sdkJobs() []job {
	var jobs []job
	for _, api := range []struct{ sdk, api, model, visible, limit string }{
		{"openai", "chat", "gpt-5.4-mini", "gpt-4o", "max_completion_tokens"},
		{"openai", "responses", "gpt-5.4-mini", "gpt-4o", "max_output_tokens"},
		{"anthropic", "messages", "claude-sonnet", "claude-sonnet", "max_tokens"},
	} {
		call := func(name, team string, stream bool, want result) {
			jobs = append(jobs, job{Name: api.sdk + " " + api.api + " " + name, SDK: api.sdk, API: api.api, Model: api.model, team: team, Stream: stream, want: want})
		}
		call("answers", "search", false, result{Text: words, Calls: 1})
		call("streams", "search", true, result{Text: words, Calls: 1})
		call("unknown key", "", false, result{Error: "AuthenticationError", Status: 401, Code: "key_unknown", Calls: 1})
		call("spent budget", "spent", false, result{Error: "API", Status: 402, Code: "budget_insufficient", Calls: 1})
		call("spent budget, streamed", "spent", true, result{Error: "API", Status: 402, Code: "budget_insufficient", Calls: 1})
		jobs = append(jobs, job{
			Name: api.sdk + " " + api.api + " cut in the middle", SDK: api.sdk, API: api.api, Model: api.visible, team: "cut", Stream: true, Script: "size 4000; chunks 40; every 2ms",
			Headers: map[string]string{"x-airgate-user": api.api}, Extra: map[string]any{api.limit: 32000}, want: result{Error: "API", Status: afterTheHead, Code: "budget_exhausted", Calls: 1},
		})
		call("model denied", "narrow", false, result{Error: "PermissionDeniedError", Status: 403, Code: "model_denied", Calls: 1})
	}
	return append(jobs,
		job{Name: "openai unknown model", SDK: "openai", API: "chat", Model: "gpt-9", team: "search", want: result{Error: "NotFoundError", Status: 404, Code: "model_unknown", Calls: 1}},
		job{Name: "openai embeddings", SDK: "openai", API: "embeddings", Model: "text-embedding-3-small", team: "search", want: result{Text: "embedding of 3", Calls: 1}},
		job{Name: "openai models", SDK: "openai", API: "models", team: "search", want: result{Models: []string{"gpt-4o", "gpt-5.4-mini", "text-embedding-3-small"}, Calls: 1}},
		job{Name: "anthropic models", SDK: "anthropic", API: "models", team: "search", want: result{Models: []string{"claude-sonnet", "sonnet"}, Calls: 1}},
		job{Name: "anthropic count_tokens", SDK: "anthropic", API: "count_tokens", Model: "sonnet", team: "search", want: result{Text: "", Calls: 1}},
		job{Name: "openai background", SDK: "openai", API: "responses", Model: "gpt-5.4-mini", team: "search", Extra: map[string]any{"background": true}, want: result{Error: "PermissionDeniedError", Status: 403, Code: "cost_unbounded", Calls: 1}},
		job{Name: "openai error inside a stream", SDK: "openai", API: "chat", Model: "gpt-5.4-mini", Stream: true, Script: "chunks 6; fail server_error after 3", team: "search", want: result{Error: "APIError", Calls: 1}},
	)
}

func (j *job) check(t *testing.T, got result) {
	t.Helper()
	if j.want.Error == "API" { // most SDKs have no class of their own for 402
		if !slices.Contains([]string{"APIStatusError", "APIError", "PaymentRequiredError"}, got.Error) {
			t.Errorf("raised %q, want an API status error", got.Error)
		}
	} else if got.Error != j.want.Error {
		t.Errorf("raised %q (%+v), want %q", got.Error, got, j.want.Error)
	}
	if j.want.Status == afterTheHead && got.Status == http.StatusOK {
		got.Status = afterTheHead // Anthropic's for Python tells the head's
	}
	if got.Status != j.want.Status || got.Code != j.want.Code {
		t.Errorf("status %d code %q, want %d %q", got.Status, got.Code, j.want.Status, j.want.Code)
	}
	if got.Calls != j.want.Calls {
		t.Errorf("%d HTTP calls, want %d", got.Calls, j.want.Calls)
	}
	if j.want.Text != "" && !strings.HasPrefix(got.Text, strings.TrimSpace(j.want.Text)) {
		t.Errorf("text %q, want %q", got.Text, j.want.Text)
	}
	if j.want.Models != nil && !slices.Equal(slices.Sorted(slices.Values(got.Models)), j.want.Models) {
		t.Errorf("models %v, want %v", got.Models, j.want.Models)
	}
}

// component finds a part that make test sets up; without it the test is
// skipped, in CI it fails.
func component(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(path) // not what a link points to: a virtual environment is known by its link
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(abs); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is missing: make sdks installs it", path)
		}
		t.Skipf("%s is missing: make sdks installs it", path)
	}
	return abs
}

func pythonSDK(t *testing.T) *exec.Cmd {
	python := component(t, "../.tools/python/bin/python")
	return exec.Command(python, "sdk/python/scenarios.py")
}

func nodeSDK(t *testing.T) *exec.Cmd {
	component(t, "sdk/node/node_modules/openai/package.json")
	return exec.Command(component(t, "../.tools/bin/node"), "sdk/node/scenarios.mjs")
}
