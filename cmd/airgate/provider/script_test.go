package provider

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want func(*Script)
	}{
		"nothing":    {"", func(*Script) {}},
		"separators": {" ; ;status 503;; ", func(s *Script) { s.Status = 503 }},
		"error": {"status 429; error rate_limit_error; header retry-after=5; header x-a=b c", func(s *Script) {
			s.Status, s.Error, s.Headers = 429, "rate_limit_error", [][2]string{{"retry-after", "5"}, {"x-a", "b c"}}
		}},
		"tokens": {"in 1000; out 500; cached 200; reasoning 100; usage wrong", func(s *Script) {
			s.In, s.Out, s.Cached, s.Reasoning, s.Usage = 1000, 500, 200, 100, "wrong"
		}},
		"stream": {"chunks 20; every 50ms; stall 10s after 3; delay 2s", func(s *Script) {
			s.Chunks, s.Every, s.Stall, s.StallAt, s.Delay = 20, 50*time.Millisecond, 10*time.Second, 3, 2*time.Second
		}},
		"ends":      {"fail overloaded_error after 3; reset after 0; close after 2", func(s *Script) { s.Fail, s.FailAt, s.ResetAt, s.CloseAt = "overloaded_error", 3, 0, 2 }},
		"size":      {"size 65536; tier priority; model other; usage none", func(s *Script) { s.Size, s.Tier, s.Model, s.Usage = 65536, "priority", "other", "none" }},
		"last wins": {"out 5; out 6", func(s *Script) { s.Out = 6 }},
	} {
		t.Run(name, func(t *testing.T) {
			want := Default()
			c.want(&want)
			got, err := Default().Parse(c.text)
			if err != nil {
				t.Fatalf("Parse(%q): %v", c.text, err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("Parse(%q), want - got +:\n%s", c.text, d)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"frobnicate 3":            "no such step",
		"delay":                   "lacks its value",
		"delay 2s 3s":             "takes one value",
		"delay -1s":               "want a duration",
		"every 5":                 "want a duration",
		"out -1":                  "want a whole number",
		"out 1.5":                 "want a whole number",
		"in 99999999999":          "want a whole number",
		"status 99":               "want a status",
		"status 600":              "want a status",
		"status ok":               "want a status",
		"usage some":              "want usage none or usage wrong",
		"header retry-after":      "want header NAME=VALUE",
		"header =5":               "want header NAME=VALUE",
		"stall 10s":               "want: after N",
		"stall soon after 3":      "want a duration",
		"fail overloaded after x": "want a whole number",
		"reset now":               "want: after N",
		"close before 3":          "want: after N",
	} {
		_, err := Default().Parse("out 1; " + text)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), `"`+text+`"`) {
			t.Errorf("Parse(%q) = %v, want an error with the step and %q", text, err, want)
		}
	}
}

// Two calls with headers of their own do not share memory.
func TestParseKeepsTheScriptBefore(t *testing.T) {
	base, err := Default().Parse("header a=1; header b=2; header c=3")
	if err != nil {
		t.Fatal(err)
	}
	first, err := base.Parse("header d=4")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := base.Parse("header d=5"); err != nil {
		t.Fatal(err)
	}
	if got := first.Headers[3]; got != [2]string{"d", "4"} {
		t.Errorf("headers of the first call = %v after the second", got)
	}
}
