package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// at is a place in a file. The zero at is that of what was not given.
type at struct {
	file         string
	line, column int
	refused      bool // what stands there could not be read, which has been told
}

func (a *at) given() bool   { return a.line > 0 }
func (a *at) good() bool    { return a.line > 0 && !a.refused }
func (a *at) place() at     { return *a }
func (a *at) setPlace(b at) { *a = b }

// or is the first of two places, refused if one of them is.
func (a *at) or(b at) at {
	first := *a
	if !a.given() {
		first = b
	}
	first.refused = a.refused || b.refused
	return first
}

// value is whatever can be read from one YAML node. tag is that of the struct
// field it is read for.
type value interface {
	decode(d *decoder, n *yaml.Node, tag reflect.StructTag)
}

// placed is a value that remembers where it stood.
type placed interface {
	given() bool // it was there, perhaps refused
	good() bool  // it was there and could be read
	place() at
	setPlace(b at)
}

// field is one row of the schema: a key that may stand in a mapping.
type field struct {
	name     string // a name ending in .* takes every key with that prefix
	index    []int
	required bool
	later    bool // known, and refused in this version
	kind     Kind // the only kind of document it may stand in; "" = any
	tag      reflect.StructTag
}

// fieldsOf reads the schema rows of a struct from its tags:
//
//	Name text `config:"name,required"`
//
// An embedded struct lends its fields to the outer one, of the kind its own
// tag names.
func fieldsOf(t reflect.Type) []field {
	var out []field
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous && f.Type != reflect.TypeFor[at]() {
			for _, inner := range fieldsOf(f.Type) {
				inner.index = append([]int{i}, inner.index...)
				inner.kind = cmp.Or(inner.kind, Kind(f.Tag.Get("kind")))
				out = append(out, inner)
			}
			continue
		}
		spec, ok := f.Tag.Lookup("config")
		if !ok {
			continue
		}
		name, flags, _ := strings.Cut(spec, ",")
		out = append(out, field{
			name: name, index: f.Index, required: flags == "required", later: flags == "later", tag: f.Tag,
		})
	}
	return out
}

// decoder turns the nodes of one file into values and collects what is wrong.
type decoder struct {
	file     string
	lines    []string // the file's, for the places inside expressions
	problems *Problems
	schema   map[reflect.Type][]field
}

func newDecoder(file string, data []byte, problems *Problems) *decoder {
	return &decoder{
		file: file, lines: strings.Split(string(data), "\n"), problems: problems,
		schema: make(map[reflect.Type][]field),
	}
}

func (d *decoder) at(n *yaml.Node) at { return at{file: d.file, line: n.Line, column: n.Column} }

func (d *decoder) report(n *yaml.Node, format string, args ...any) {
	tell(d.problems, d.at(n), format, args...)
}

// plain refuses what this configuration has no use for and what can make a
// short file long or a value surprising: anchors, aliases, tags.
func (d *decoder) plain(n *yaml.Node) bool {
	switch {
	case n.Kind == yaml.AliasNode:
		d.report(n, "aliases are not allowed: write the value out")
	case n.Anchor != "":
		d.report(n, "anchors are not allowed: write the value out where it is used")
	case n.Style&yaml.TaggedStyle != 0:
		d.report(n, "tags (!…) are not allowed: write the value alone")
	default:
		return true
	}
	return false
}

// into reads n into v, which is addressable and placed.
func (d *decoder) into(n *yaml.Node, v reflect.Value, tag reflect.StructTag) {
	p := v.Addr().Interface().(placed)
	x, ok := p.(value)
	switch {
	case !d.plain(n): // told
	case ok:
		x.decode(d, n, tag)
	default:
		d.object(n, v, "")
	}
	if !p.given() {
		a := d.at(n)
		a.refused = true
		p.setPlace(a)
	}
}

// object reads the mapping n into the struct v. In a document of kind own the
// sections of other kinds have no place.
func (d *decoder) object(n *yaml.Node, v reflect.Value, own Kind) {
	if n.Kind != yaml.MappingNode {
		d.report(n, "must be a mapping {…}, not %s", shape(n))
		return
	}
	v.Addr().Interface().(placed).setPlace(d.at(n))
	fields, ok := d.schema[v.Type()]
	if !ok {
		fields = fieldsOf(v.Type())
		d.schema[v.Type()] = fields
	}
	seen := make(map[string]bool, len(n.Content)/2)
	for key, val := range d.pairs(n) {
		i := slices.IndexFunc(fields, func(f field) bool { return f.takes(key.Value) })
		if i < 0 {
			d.report(key, "unknown field%s%s", fieldName(key.Value), meant(key.Value, names(fields, own)))
			continue
		}
		f := fields[i]
		seen[f.name] = true
		switch {
		case f.kind != "" && own != "" && f.kind != own:
			d.report(key, "%s belongs to kind %s, and this document is of kind %s: move it there", f.name, f.kind, own)
		case f.later:
			d.report(key, "%s is not supported by this version", f.name)
		case strings.HasSuffix(f.name, ".*"):
			d.suffix(key, val, v.FieldByIndex(f.index), f)
		default:
			d.into(val, v.FieldByIndex(f.index), f.tag)
		}
	}
	for _, f := range fields {
		if f.required && !seen[f.name] {
			d.report(n, "%s is missing", f.name)
		}
	}
}

// suffix reads the entry tags.region into the dict of the field tags.*.
func (d *decoder) suffix(key, val *yaml.Node, v reflect.Value, f field) {
	name := *key
	name.Value = strings.TrimPrefix(key.Value, strings.TrimSuffix(f.name, "*"))
	v.Addr().Interface().(interface {
		decodeEntry(d *decoder, key, val *yaml.Node, tag reflect.StructTag)
	}).decodeEntry(d, &name, val, f.tag)
}

func (f *field) takes(key string) bool {
	if prefix, ok := strings.CutSuffix(f.name, "*"); ok {
		return len(key) > len(prefix) && strings.HasPrefix(key, prefix)
	}
	return f.name == key
}

func names(fields []field, own Kind) []string {
	var out []string
	for _, f := range fields {
		if own == "" || f.kind == "" || f.kind == own {
			out = append(out, f.name)
		}
	}
	return out
}

// pairs yields the entries of a mapping whose key can be one and has not been
// there before.
func (d *decoder) pairs(n *yaml.Node) func(yield func(key, val *yaml.Node) bool) {
	return func(yield func(key, val *yaml.Node) bool) {
		first := make(map[string]int, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, val := n.Content[i], n.Content[i+1]
			if key.Tag == "!!merge" {
				d.report(key, "merge keys (<<) are not allowed: write the fields out")
				continue
			}
			if !d.plain(key) {
				continue
			}
			if key.Kind != yaml.ScalarNode || key.Tag != "!!str" {
				d.report(key, "a key must be text, not %s: write it in quotes", shape(key))
				continue
			}
			if line, dup := first[key.Value]; dup {
				d.report(key, "duplicate key %s: it is already given in line %d", quote(key.Value), line)
				continue
			}
			first[key.Value] = key.Line
			if !yield(key, val) {
				return
			}
		}
	}
}

// shape names the kind of a node as its author would, never its content.
func shape(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	default:
	}
	switch n.Tag {
	case "!!null":
		return "nothing"
	case "!!bool":
		return "a boolean"
	case "!!int", "!!float":
		return "a number"
	case "!!timestamp":
		return "a time"
	}
	return "text"
}

// quote shows a word from a file, shortened: never for fields that may hold a
// secret.
func quote(s string) string {
	const most = 64
	if utf8.RuneCountInString(s) > most {
		s = string([]rune(s)[:most]) + "…"
	}
	return strconv.Quote(s)
}

// fieldName shows what stands in the place of a field, if it looks like one:
// {sk-…} is a field, to YAML, and a credential in the wrong place.
func fieldName(s string) string {
	if !likeField.MatchString(s) {
		return ""
	}
	return " " + quote(s)
}

var likeField = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.]{0,31}$`)

// syntaxLine is how the YAML library names the line of a syntax error.
var syntaxLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// documents splits a file into its YAML documents, the empty ones left out.
func documents(file string, data []byte, problems *Problems) []*yaml.Node {
	if len(data) > maxFileBytes {
		tell(problems, at{file: file}, "is larger than %d bytes: split it", maxFileBytes)
		return nil
	}
	if i := firstInvalid(data); i >= 0 {
		before := data[:i]
		line := bytes.Count(before, []byte("\n")) + 1
		column := utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1
		tell(problems, at{file: file, line: line, column: column}, "is not UTF-8 text: save it as UTF-8")
		return nil
	}
	var out []*yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		n, err := next(dec)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			text, line := err.Error(), 1
			if m := syntaxLine.FindStringSubmatch(text); m != nil {
				text = text[len(m[0]):]
				if m[1] != "" {
					line, _ = strconv.Atoi(m[1]) // digits only
				}
			}
			if strings.HasPrefix(text, "unknown anchor") { // it repeats the word, whatever that is
				text = "* is the sign of an alias: put the text in quotes"
			}
			tell(problems, at{file: file, line: line, column: 1}, "is not YAML: %s", text)
			return out
		}
		if len(n.Content) == 1 && n.Content[0].Tag != "!!null" {
			out = append(out, n.Content[0])
		}
	}
	if len(out) == 0 {
		tell(problems, at{file: file}, "is empty: write a document beginning with apiVersion: %s, or remove the file", APIVersion)
	}
	return out
}

// next reads one document. The library reports what it cannot parse as an
// error and its own faults as a panic; a configuration causes neither.
func next(dec *yaml.Decoder) (n *yaml.Node, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("yaml: %v", r)
		}
	}()
	n = new(yaml.Node)
	err = dec.Decode(n)
	return n, err
}

func firstInvalid(data []byte) int {
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}

// meant is ": did you mean …?" if one of the known words is within two edits.
func meant(word string, known []string) string {
	best, most := "", 3
	for _, k := range known {
		if n := edits(word, k); n < most && n < max(len(word), len(k))-1 {
			best, most = k, n
		}
	}
	if best == "" {
		return ""
	}
	return ": did you mean " + best + "?"
}

// edits counts the insertions, deletions, replacements and swaps of neighbours
// between a and b (optimal string alignment), exactly up to 2.
func edits(a, b string) int {
	if max(len(a), len(b))-min(len(a), len(b)) > 2 || len(a) > 100 {
		return 3
	}
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
}
