package config

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

// eachField calls f for every field of the schema, with its path from the
// document down: budgets.overrides.for.team.
func eachField(t reflect.Type, path string, f func(path string, f field)) {
	for _, row := range fieldsOf(t) {
		p := strings.TrimPrefix(path+"."+row.name, ".")
		f(p, row)
		if inner := elementOf(t.FieldByIndex(row.index).Type); inner != nil {
			eachField(inner, p, f)
		}
	}
}

// elementOf is the struct of the schema that a field's type holds, or nil.
func elementOf(t reflect.Type) reflect.Type {
	for {
		if len(schemaOf(t)) > 0 {
			return t
		}
		switch name, _, _ := strings.Cut(t.Name(), "["); name {
		case "list":
			f, _ := t.FieldByName("items")
			t = f.Type.Elem()
		case "many":
			f, _ := t.FieldByName("list")
			t = f.Type
		case "dict":
			f, _ := t.FieldByName("entries")
			v, _ := f.Type.Elem().FieldByName("v")
			t = v.Type
		default:
			return nil
		}
	}
}

func schemaOf(t reflect.Type) []field {
	if t.Kind() != reflect.Struct || strings.Contains(t.Name(), "[") {
		return nil
	}
	return fieldsOf(t)
}

// TestSchemaIsDescribed: every field says what it is for, unless this version
// refuses it.
func TestSchemaIsDescribed(t *testing.T) {
	n := 0
	eachField(reflect.TypeFor[document](), "", func(path string, f field) {
		n++
		trivial := strings.Contains(path, "match.") || strings.Contains(path, "for.")
		if doc := f.tag.Get("doc"); !f.later && !trivial && !strings.HasSuffix(doc, ".") {
			t.Errorf("field %s has doc %q, want a sentence", path, doc)
		}
	})
	if n < 100 {
		t.Errorf("the schema has %d fields, want all of them", n)
	}
}

// TestSchemaIsUsed: testdata/good/everything.yaml holds every field that is
// taken, and testdata/broken every one that is refused as not built.
func TestSchemaIsUsed(t *testing.T) {
	used := make(map[string]bool)
	var problems Problems
	for _, n := range documents("", []byte(readText(t, "testdata/good/everything.yaml")), &problems) {
		walk(n, reflect.TypeFor[document](), "", used)
	}
	var refused strings.Builder
	for _, path := range filesIn(t, "broken/later-*.yaml") {
		refused.WriteString(readText(t, path))
	}
	eachField(reflect.TypeFor[document](), "", func(path string, f field) {
		if !f.later && !used[path] {
			t.Errorf("testdata/good/everything.yaml does not use %s", path)
		}
		if f.later && !strings.Contains(refused.String(), " "+f.name+" is not supported by this version") {
			t.Errorf("no testdata/broken/later-*.yaml uses %s", path)
		}
	})
}

// walk notes the fields that a node uses.
func walk(n *yaml.Node, t reflect.Type, path string, used map[string]bool) {
	switch {
	case n.Kind == yaml.SequenceNode:
		for _, c := range n.Content {
			walk(c, t, path, used)
		}
	case n.Kind != yaml.MappingNode:
	case strings.HasPrefix(t.Name(), "dict["):
		for i := 1; i < len(n.Content); i += 2 {
			walk(n.Content[i], elementOrText(t), path, used)
		}
	default:
		if e := elementOf(t); e != nil {
			t = e
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			for _, f := range schemaOf(t) {
				if f.takes(n.Content[i].Value) {
					p := strings.TrimPrefix(path+"."+f.name, ".")
					used[p] = true
					walk(n.Content[i+1], t.FieldByIndex(f.index).Type, p, used)
				}
			}
		}
	}
}

func elementOrText(t reflect.Type) reflect.Type {
	if e := elementOf(t); e != nil {
		return e
	}
	return reflect.TypeFor[text]()
}

// guide is the documentation of the configuration, beside package policy.
const guide = "../README.md"

// TestGuideExamples: every complete example of the guide loads.
func TestGuideExamples(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(readText(t, guide), -1)
	n := 0
	for _, b := range blocks {
		if !strings.HasPrefix(b[1], "apiVersion") {
			continue
		}
		n++
		if _, err := LoadBytes("README.md", []byte(b[1]), now()); err != nil {
			t.Errorf("this example of the guide does not load:\n%s\n%v", b[1], err)
		}
	}
	if n < 2 {
		t.Errorf("the guide has %d complete examples, want more", n)
	}
}

// TestGuideNamesEveryField: what can be written can be looked up.
func TestGuideNamesEveryField(t *testing.T) {
	text := readText(t, guide)
	eachField(reflect.TypeFor[document](), "", func(path string, f field) {
		if !strings.Contains(text, "`"+f.name+"`") && !strings.Contains(text, "`"+f.name+":") {
			t.Errorf("the guide does not name %s (%s)", f.name, path)
		}
		for _, words := range []string{f.tag.Get("oneof"), f.tag.Get("later")} {
			for w := range strings.FieldsSeq(words) {
				if !strings.Contains(w, "*") && !strings.Contains(text, w) {
					t.Errorf("the guide does not name %s of %s", w, path)
				}
			}
		}
	})
}

// TestView: the view of a configuration is the configuration.
func TestView(t *testing.T) {
	path := "testdata/good/everything.yaml"
	s, err := Load(path, now())
	if err != nil {
		t.Fatal(err)
	}
	v := s.View()
	again, err := json.Marshal(v.Config)
	if err != nil {
		t.Fatal(err)
	}
	// JSON is YAML: as a file it must compile to the same view.
	text := `{"apiVersion": "airgate/v1", ` + string(bytes.TrimPrefix(again, []byte("{")))
	s2, err := Load(filepath.Join(write(t, map[string]string{"a.yaml": text}), "a.yaml"), now())
	if err != nil {
		t.Fatalf("the view of %s does not load: %v", path, err)
	}
	v2 := s2.View()
	if diff := cmp.Diff(v.Config, v2.Config); diff != "" {
		t.Errorf("view of the view (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(v.Models, v2.Models); diff != "" {
		t.Errorf("models of the view (-want +got):\n%s", diff)
	}
	if m := v.Models["llama"]; m.MaxOutputTokens != 8192 || m.Input != "0.1" || m.Provider != "local" {
		t.Errorf("Models[llama] = %+v", m)
	}
}

func TestMeant(t *testing.T) {
	known := []string{"limits", "budgets", "models", "id", "team"}
	for word, want := range map[string]string{
		"limts": ": did you mean limits?", "limist": ": did you mean limits?", "Limits": ": did you mean limits?",
		"budget": ": did you mean budgets?", "budgetz": ": did you mean budgets?", "tema": ": did you mean team?",
		"xyz": "", "limitations": "", "ab": "", "": "", "identity": "", strings.Repeat("x", 1000): "",
	} {
		if got := meant(word, known); got != want {
			t.Errorf("meant(%q) = %q, want %q", word, got, want)
		}
	}
}

func TestGlob(t *testing.T) {
	for _, test := range []struct {
		pattern, name string
		want          bool
	}{
		{"a", "a", true},
		{"a", "ab", false},
		{"a*", "a", true},
		{"a*", "ba", false},
		{"*", "", true},
		{"*b*", "abc", true},
		{"*b*", "ac", false},
		{"a*c", "abbc", true},
		{"a*c", "abb", false},
		{"a**c", "ac", true},
		{"gpt-*-mini", "gpt-5.4-mini", true},
		{"gpt-[5]*", "gpt-5", false},
	} {
		if got := glob(test.pattern, test.name); got != test.want {
			t.Errorf("glob(%q, %q) = %v, want %v", test.pattern, test.name, got, test.want)
		}
	}
}

// accepts is as much of JSON Schema as Schema uses.
func accepts(s map[string]any, v any) bool {
	if enum, ok := s["enum"].([]any); ok {
		return slices.Contains(enum, v)
	}
	if some, ok := s["anyOf"].([]any); ok {
		return slices.ContainsFunc(some, func(o any) bool { return accepts(o.(map[string]any), v) })
	}
	matches := func(pattern any, text string) bool {
		p, ok := pattern.(string)
		return !ok || regexp.MustCompile(p).MatchString(text)
	}
	isType := func(name string) bool {
		if list, ok := s["type"].([]any); ok {
			return slices.Contains(list, any(name))
		}
		return s["type"] == nil || s["type"] == name
	}
	switch v := v.(type) {
	case map[string]any:
		properties, _ := s["properties"].(map[string]any)
		patterns, _ := s["patternProperties"].(map[string]any)
		names, _ := s["propertyNames"].(map[string]any)
		for name, inner := range v {
			schema, ok := properties[name]
			for pattern, other := range patterns {
				if matches(pattern, name) {
					schema, ok = other, true
				}
			}
			if other, open := s["additionalProperties"].(map[string]any); open && !ok {
				schema, ok = other, matches(names["pattern"], name)
			}
			if !ok || !accepts(schema.(map[string]any), inner) {
				return false
			}
		}
		required, _ := s["required"].([]any)
		return isType("object") && !slices.ContainsFunc(required, func(r any) bool { return v[r.(string)] == nil })
	case []any:
		items, _ := s["items"].(map[string]any)
		return isType("array") && !slices.ContainsFunc(v, func(x any) bool { return !accepts(items, x) })
	case string:
		return isType("string") && matches(s["pattern"], v)
	case bool:
		return isType("boolean")
	case float64:
		return isType("number") || isType("integer")
	}
	return false
}

// TestJSONSchema: it accepts what loads, and refuses what it can of what does
// not.
func TestJSONSchema(t *testing.T) {
	var schema map[string]any
	if err := json.Unmarshal(Schema(), &schema); err != nil {
		t.Fatal(err)
	}
	check := func(text string) bool {
		t.Helper()
		var problems Problems
		for _, n := range documents("", []byte(text), &problems) {
			// Dates are text to JSON.
			var v any
			var plain func(*yaml.Node)
			plain = func(n *yaml.Node) {
				if n.Tag == "!!timestamp" {
					n.Tag, n.Style = "!!str", yaml.DoubleQuotedStyle
				}
				for _, c := range n.Content {
					plain(c)
				}
			}
			plain(n)
			if err := n.Decode(&v); err != nil {
				t.Fatal(err)
			}
			b, err := json.Marshal(v)
			if err == nil {
				err = json.Unmarshal(b, &v)
			}
			if err != nil {
				t.Fatal(err)
			}
			if !accepts(schema, v) {
				return false
			}
		}
		return true
	}
	for _, path := range append(filesIn(t, "good/*.yaml"), "testdata/design/short.yaml") {
		if !check(readText(t, path)) {
			t.Errorf("the schema refuses %s", path)
		}
	}
	for _, name := range []string{
		"unknown-field", "unknown-field-nested", "api-version-missing", "api-version-unknown", "budget-without-usd", "budget-window-unknown",
		"enforcement-unknown", "key-hash-upper-case", "limit-rate-per-m", "list-not-list",
		"name-with-a-slash", "name-with-a-star", "quota-without-store", "provider-without-credential", "budget-warn-at-without-unit", "budget-on-store-down-allow", "budget-on-store-down-empty", "limit-on-store-down-within", "limit-rate-fraction",
	} {
		if check(readText(t, "testdata/broken/"+name+".yaml")) {
			t.Errorf("the schema accepts testdata/broken/%s.yaml", name)
		}
	}
}

func TestSomeNamesAreTold(t *testing.T) {
	for want, words := range map[string]string{
		"":                                   "",
		": there is a":                       "a",
		": there are a, b":                   "a b",
		": there are 1, 2, 3, 4, 5, 6, 7, 8": "1 2 3 4 5 6 7 8",
		": there are 1, 2, 3, 4, 5, 6, 7, 8, …": "1 2 3 4 5 6 7 8 9",
	} {
		if got := some(strings.Fields(words)); got != want {
			t.Errorf("some(%s) = %q, want %q", words, got, want)
		}
	}
}
