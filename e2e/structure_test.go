package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	pathpkg "path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// ranks is the map of the project, top to bottom: a package may import what
// stands below it, nothing beside or above it. A pattern that ends in /… stands
// for every package below that folder, not for the folder itself.
var ranks = []string{
	"e2e", "e2e/mutants", "k8s",
	"cmd/airgate",
	"cmd/airgate/admin",
	"cmd/airgate/provider",
	"envoy", // no package: where envoytest stands
	"envoy/extproc",
	"envoy/accesslog",
	"envoy/xds",
	"processor",
	"policy/config",
	"processor/dialect",
	"policy/overlay/…",
	"policy/overlay",
	"policy",
	"accounting",
	"accounting/quota/…",
	"accounting/quota",
	"accounting/journal",
	"accounting/journal/disk/…",
	"accounting/journal/disk",
	"accounting/sink/…",
	"accounting/sink",
	"accounting/report",
	"accounting/record",
	"accounting/usage",
	"accounting/money",
	"accounting/failpoint",
}

// strangers never import each other, in neither direction. What may be done and
// what it costs are separate questions: only policy/config, above both, knows
// the two. What is laid over both has amounts, and knows their unit.
var strangers = [][2]string{
	{"policy", "accounting"},
	{"accounting/journal", "accounting/report"},
}

// only says which of our folders may import a module of others.
var only = map[string]string{
	"github.com/envoyproxy":  "envoy",
	"google.golang.org/grpc": "envoy cmd",
	"github.com/redis":       "accounting/quota/redis policy/overlay/redis",
	"github.com/spf13/cobra": "cmd/airgate",
	"modernc.org/sqlite":     "accounting/sink/sqlite",
	"k8s.io":                 "k8s",
}

const module = "airgate"

type goPackage struct {
	Dir, ImportPath, Name              string
	Imports                            []string
	GoFiles, TestGoFiles, XTestGoFiles []string
}

// path is the package's folder in the repository.
func (p goPackage) path() string { return local(p.ImportPath) }

// local is the folder of an import path, "" if it is not ours.
func local(importPath string) string {
	folder, ok := strings.CutPrefix(importPath, module+"/")
	if !ok {
		return ""
	}
	return folder
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-json=Dir,ImportPath,Name,Imports,GoFiles,TestGoFiles,XTestGoFiles", "./...")
	list.Dir = ".."
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		switch err := d.Decode(&p); {
		case errors.Is(err, io.EOF):
			return all
		case err != nil:
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// rank is the place of a package on the map, -1 if it has none.
func rank(path string) int {
	if i := slices.Index(ranks, path); i >= 0 {
		return i
	}
	return slices.IndexFunc(ranks, func(r string) bool {
		folder, below := strings.CutSuffix(r, "…")
		return below && strings.HasPrefix(path, folder)
	})
}

func within(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, folder+"/")
}

// tested is the package that a test kit (sinktest, quotatest …) belongs to. A
// kit stands where its package stands, may import it, and is imported by tests
// only.
func tested(path string) (of string, kit bool) {
	parent, name := pathpkg.Split(path)
	return strings.TrimSuffix(parent, "/"), parent != "" && strings.HasSuffix(name, "test")
}

// breach says why importer may not import imported, "" if it may.
func breach(importer, imported string) string {
	of, kit := tested(importer)
	if other, test := tested(imported); test {
		if !kit {
			return fmt.Sprintf("%s imports %s, which is for tests", importer, imported)
		}
		imported = other
	}
	if kit {
		if of == imported {
			return ""
		}
		importer = of
	}
	from, to := rank(importer), rank(imported)
	switch {
	case from < 0:
		return importer + " is not on the map"
	case to < 0:
		return imported + " is not on the map"
	case from == to:
		return fmt.Sprintf("%s imports %s, which stands beside it", importer, imported)
	case from > to:
		return fmt.Sprintf("%s imports %s, which stands above it", importer, imported)
	}
	if within(importer, "accounting/quota") && !within(imported, "accounting/quota") {
		return fmt.Sprintf("%s imports %s: a quota store knows keys and numbers, nothing of ours", importer, imported)
	}
	for _, s := range strangers {
		if importer == "policy/config" || importer == "policy/overlay" && imported == "accounting/money" {
			break
		}
		if within(importer, s[0]) && within(imported, s[1]) || within(importer, s[1]) && within(imported, s[0]) {
			return fmt.Sprintf("%s imports %s: %s and %s do not know each other", importer, imported, s[0], s[1])
		}
	}
	return ""
}

func TestImportsPointDown(t *testing.T) {
	for _, p := range packages(t) {
		of, kit := tested(p.path())
		if !kit {
			of = p.path()
		}
		if rank(of) < 0 {
			t.Errorf("%s is not on the map: a package needs a room in the design first", p.path())
		}
		for _, i := range p.Imports {
			if imported := local(i); imported != "" {
				if why := breach(p.path(), imported); why != "" {
					t.Error(why)
				}
			}
			for prefix, allowed := range only {
				may := slices.ContainsFunc(strings.Fields(allowed), func(folder string) bool { return within(p.path(), folder) })
				if within(i, prefix) && !may {
					t.Errorf("%s imports %s, want that only in %s", p.path(), i, allowed)
				}
			}
		}
	}
}

// TestBreach shows that the map refuses what it should: a rule that refuses
// nothing would pass every tree.
func TestBreach(t *testing.T) {
	for edge, refused := range map[[2]string]bool{
		{"accounting", "policy"}:                            true,
		{"policy", "accounting/money"}:                      true,
		{"accounting/journal", "policy/config"}:             true,
		{"policy/config", "accounting"}:                     false,
		{"policy/config", "policy/overlay"}:                 false,
		{"policy/overlay", "policy/config"}:                 true,
		{"policy/overlay", "accounting/money"}:              false,
		{"policy/overlay", "accounting"}:                    true,
		{"policy/overlay/file", "policy/overlay"}:           false,
		{"policy/overlay/file", "accounting/money"}:         true,
		{"policy/config", "processor"}:                      true,
		{"processor", "envoy/xds"}:                          true,
		{"envoy/extproc", "envoy/xds"}:                      false,
		{"envoy/xds", "envoy/extproc"}:                      true,
		{"cmd/airgate/admin", "cmd/airgate"}:                true,
		{"accounting/quota/memory", "accounting/quota"}:     false,
		{"accounting/quota/memory", "accounting/money"}:     true,
		{"accounting/quota/redis", "accounting/money"}:      true,
		{"accounting/quota", "accounting/quota/memory"}:     true,
		{"accounting/sink/sqlite", "accounting/report"}:     false,
		{"accounting/sink/sqlite", "accounting/sink/kafka"}: true,
		{"accounting/journal", "accounting/sink"}:           false,
		{"accounting/journal", "accounting/report"}:         true,
		{"accounting/money", "accounting/usage"}:            true,
		{"envoy/extproc/extproctest", "envoy/extproc"}:      false,
		{"envoy/extproc/extproctest", "cmd/airgate"}:        true,
		{"cmd/airgate", "envoy/extproc/extproctest"}:        true,
		{"processor", "util"}:                               true,
	} {
		if why := breach(edge[0], edge[1]); (why != "") != refused {
			t.Errorf("breach(%s, %s) = %q, want refused = %v", edge[0], edge[1], why, refused)
		}
	}
}

func TestPackagesAreNouns(t *testing.T) {
	for _, p := range packages(t) {
		for word := range strings.SplitSeq(p.path(), "/") {
			if slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "manager", "types", "misc", "shared", "base"}, word) {
				t.Errorf("%s: %q answers no question", p.path(), word)
			}
		}
	}
}

// TestPackagesSayWhatTheyAnswer wants one comment per package, in Go's form.
func TestPackagesSayWhatTheyAnswer(t *testing.T) {
	for _, p := range packages(t) {
		files := p.GoFiles
		if len(files) == 0 {
			files = slices.Concat(p.TestGoFiles, p.XTestGoFiles)
		}
		var comments []string
		for _, name := range files {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if file.Doc != nil && prose(file.Doc) {
				comments = append(comments, file.Doc.Text())
			}
		}
		want := "Package " + p.Name + " "
		if p.Name == "main" {
			want = "Command " + filepath.Base(p.Dir) + " "
		}
		if len(comments) != 1 || !strings.HasPrefix(comments[0], want) {
			t.Errorf("%s: package comments %q, want one that begins with %q", p.path(), comments, want)
		}
	}
}

// prose is false for a comment that holds directives only.
func prose(c *ast.CommentGroup) bool { return strings.TrimSpace(c.Text()) != "" }

func TestTopLevel(t *testing.T) {
	allowed := []string{"CHANGELOG.md", "LICENSE", "Makefile", "README.md", "accounting", "cmd", "e2e", "envoy", "go.mod", "go.sum", "k8s", "policy", "processor"}
	ignored := ignoredAtTop(t)
	entries, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && !slices.Contains(ignored, e.Name()) {
			got = append(got, e.Name())
		}
	}
	if !slices.Equal(got, allowed) {
		t.Errorf("top level = %v, want %v", got, allowed)
	}
}

// ignoredAtTop is what .gitignore keeps out of the repository's first level.
func ignoredAtTop(t *testing.T) []string {
	t.Helper()
	f, err := os.Open("../.gitignore")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var names []string
	for s := bufio.NewScanner(f); s.Scan(); {
		if name, ok := strings.CutPrefix(s.Text(), "/"); ok {
			names = append(names, strings.TrimSuffix(name, "/"))
		}
	}
	return names
}
