package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"airgate/accounting"
)

var update = flag.Bool("update", false, "rewrite the wanted problems in testdata")

// now is the time of every test's Load.
func now() time.Time { return time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC) }

// filesIn lists testdata, which must not be empty: a test without input passes.
func filesIn(t testing.TB, glob string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", glob))
	if err != nil || len(files) == 0 {
		t.Fatalf("testdata/%s holds no files (%v)", glob, err)
	}
	return files
}

func readText(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func problemsOf(t testing.TB, err error) Problems {
	t.Helper()
	var ps Problems
	if err != nil && !errors.As(err, &ps) {
		t.Fatalf("error is %T (%v), want Problems", err, err)
	}
	return ps
}

// write makes a directory of files.
func write(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const want = "# want: "

// wanted splits a broken file's leading want lines from the rest of it.
func wanted(text string) (wants []string, rest string) {
	for strings.HasPrefix(text, want) {
		line, after, _ := strings.Cut(text, "\n")
		wants, text = append(wants, strings.TrimPrefix(line, want)), after
	}
	return wants, text
}

// TestBroken: each file under testdata/broken has one flaw, which its name
// says, and begins with all problems that are found in it.
func TestBroken(t *testing.T) {
	for _, path := range filesIn(t, "broken/*.yaml") {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".yaml"), func(t *testing.T) {
			text := readText(t, path)
			wants, rest := wanted(text)
			if len(wants) == 0 {
				t.Fatalf("%s does not begin with %q", path, want)
			}
			got := found(t, path, text)
			if *update {
				for range 3 { // the number of want lines moves the lines below
					got = found(t, path, want+strings.Join(got, "\n"+want)+"\n"+rest)
				}
				if err := os.WriteFile(path, []byte(want+strings.Join(got, "\n"+want)+"\n"+rest), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(wants, got); diff != "" {
				t.Errorf("Load(%s) finds other problems (-want +got):\n%s", path, diff)
			}
			for _, p := range got {
				if strings.Contains(p, "hunter2") {
					t.Errorf("Load(%s) = %q, which repeats a secret", path, p)
				}
			}
			if strings.HasPrefix(filepath.Base(path), "later-") && !strings.HasSuffix(got[0], "not supported by this version") {
				t.Errorf("Load(%s) = %q, want … not supported by this version", path, got[0])
			}
		})
	}
}

func found(t *testing.T, path, text string) []string {
	t.Helper()
	_, err := LoadBytes(path, []byte(text), now())
	ps := problemsOf(t, err)
	if len(ps) == 0 {
		t.Fatalf("Load(%s) succeeded, want a problem", path)
	}
	var out []string
	for _, p := range ps {
		out = append(out, strings.TrimPrefix(p.Error(), path+":"))
	}
	return out
}

// base is the least that other sections can refer to. It has five lines.
const base = platform + "unpriced: allow\n"

// platform is base without its section of kind Finance.
const platform = `apiVersion: airgate/v1
providers: {openai: {dialect: openai, url: https://api.openai.com, credential: {env: OPENAI_API_KEY}}}
models: {mini: {provider: openai, maxOutputTokens: 1000}}
teams: {search: {}}
`

func compareGolden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(readText(t, path), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// limitsOf compiles a text as far as the entries of limits and budgets.
func limitsOf(t *testing.T, text string) []accounting.Limit {
	t.Helper()
	files := fileSet{{base: "test.yaml", name: "test.yaml", data: []byte(text)}}
	all, _, problems := files.decode()
	c := newCompiler(all, now(), &problems)
	c.names()
	c.settings()
	limits := c.limits()
	if len(problems) > 0 {
		t.Fatalf("limits of the config: %v", problems)
	}
	return limits
}
