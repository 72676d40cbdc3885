package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"airgate/envoy/extproc"
	"airgate/envoy/extproc/extproctest"
)

// editJSON visits every object of Envoy's config.
func editJSON(t testing.TB, b []byte, visit func(map[string]any)) []byte {
	t.Helper()
	var doc any
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	walkObjects(doc, visit)
	out, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func walkObjects(v any, visit func(map[string]any)) {
	switch v := v.(type) {
	case map[string]any:
		visit(v)
		for _, x := range v {
			walkObjects(x, visit)
		}
	case []any:
		for _, x := range v {
			walkObjects(x, visit)
		}
	}
}

// openRoutes makes every path lead to the provider without a decision; without
// filter it takes the ext_proc filter out as well.
func openRoutes(t testing.TB, b []byte, filter bool) []byte {
	t.Helper()
	return editJSON(t, b, func(o map[string]any) {
		if hosts, ok := o["virtual_hosts"].([]any); ok {
			for _, h := range hosts {
				h.(map[string]any)["routes"] = []any{map[string]any{
					"match": map[string]any{"prefix": "/"},
					"route": map[string]any{"cluster": "provider_openai", "timeout": "0s"},
				}}
			}
		}
		if fs, ok := o["http_filters"].([]any); ok && o["stat_prefix"] != nil {
			delete(o, "access_log")
			if !filter {
				o["http_filters"] = slices.DeleteFunc(fs, func(f any) bool {
					return strings.Contains(f.(map[string]any)["name"].(string), "ext_proc")
				})
			}
		}
	})
}

// serveNoop is what this test binary does when it is started as the benchmark's
// no-op ext_proc server, a process of its own so that its CPU time can be read.
func serveNoop(socket string) int {
	l, err := extproc.Listen("unix://" + socket)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := extproctest.Noop().Serve(l); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
