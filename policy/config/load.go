package config

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // zones of budgets mean the same on every machine

	"go.yaml.in/yaml/v3"
)

// Load reads and compiles a configuration: one file, or all *.yaml and *.yml
// files of a flat directory, hidden ones left out. Of a Kubernetes volume the
// ..data link is resolved once, so that all files are of one version.
//
// The error is Problems if the configuration is wrong, and something else if it
// could not be read. now decides which prices are in force for what Load itself
// says about them; it becomes Snapshot.Loaded.
func Load(path string, now time.Time) (*Snapshot, error) {
	files, _, err := read(path)
	if err != nil {
		return nil, err
	}
	return files.compile(now)
}

// LoadBroken is Load of what an emergency must do without being repaired first.
// Beside its Problems it returns what could be read, for names, keys and the
// overlay alone: no call is decided by that. Without a Snapshot the files could
// not be read at all.
func LoadBroken(path string, now time.Time) (*Snapshot, error) {
	files, _, err := read(path)
	if err != nil {
		return nil, err
	}
	whole, err := files.compile(now)
	if err == nil {
		return whole, nil
	}
	all, _, problems := files.decode()
	part := compile(all, now, layer{}, &problems)
	all.wrong = true
	return part, err
}

// LoadBytes compiles what was read elsewhere, such as standard input. name
// stands for it in problems. Beside documents of this configuration it takes
// manifests of ConfigMaps and Secrets, also in a List: each of their entries
// that is such a file counts as one, named object/entry. Other manifests are
// passed over.
func LoadBytes(name string, data []byte, now time.Time) (*Snapshot, error) {
	files, problems := unpack(name, data)
	if len(problems) > 0 {
		return nil, problems
	}
	return files.compile(now)
}

// file is one file of a configuration.
type file struct {
	base string // its name in the directory
	name string // as problems show it
	data []byte
}

type fileSet []file

// hash is Snapshot.Hash.
func (fs fileSet) hash() string {
	h := sha256.New()
	part := func(b []byte) {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(b)))
		_, _ = h.Write(size[:])
		_, _ = h.Write(b)
	}
	for _, f := range fs {
		part([]byte(f.base))
		part(f.data)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// dataLink is the link in a Kubernetes volume that names the directory of the
// version in force. The kubelet replaces it by renaming another over it.
const dataLink = "..data"

// read reads the files of a configuration, sorted by name. version is the
// target of the ..data link, "" where there is none.
func read(path string) (files fileSet, version string, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, "", fmt.Errorf("read config: %w", err)
	}
	if !info.IsDir() {
		f, err := readFile(path, filepath.Base(path), path)
		if err != nil {
			return nil, "", err
		}
		return fileSet{f}, "", nil
	}
	if version, err = linked(path); err != nil {
		return nil, "", err
	}
	const tries = 5
	for range tries {
		files, err = readDir(path, version)
		now, linkErr := linked(path)
		switch {
		case linkErr != nil:
			return nil, "", linkErr
		case now == version:
			return files, version, err
		}
		// The kubelet removes a version, file by file, once the next is in its
		// place: what was read may lack some.
		version = now
	}
	return nil, "", fmt.Errorf("read config: %s changes faster than it can be read", path)
}

// readDir reads the files of a directory, those of one version where it is a
// Kubernetes volume.
func readDir(path, version string) (fileSet, error) {
	dir := path
	if version != "" {
		dir = version
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(path, dir)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	var files fileSet
	for _, e := range entries {
		if !isConfigFile(e.Name()) {
			continue
		}
		if len(files) == maxFiles {
			return nil, Problems{{File: path, Text: fmt.Sprintf("holds more than %d files", maxFiles)}}
		}
		f, err := readFile(filepath.Join(dir, e.Name()), e.Name(), filepath.Join(path, e.Name()))
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	if len(files) == 0 {
		return nil, Problems{{File: path, Text: "holds no *.yaml file: write one, or name another --config"}}
	}
	return files, nil
}

func isConfigFile(name string) bool {
	ext := filepath.Ext(name)
	return !strings.HasPrefix(name, ".") && (ext == ".yaml" || ext == ".yml")
}

// linked is the target of the ..data link of a directory, "" if it has none.
func linked(dir string) (string, error) {
	target, err := os.Readlink(filepath.Join(dir, dataLink))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read config: %w", err)
	}
	return target, nil
}

// readFile reads at most one byte more than a file may have: documents reports
// the size.
func readFile(path, base, name string) (file, error) {
	f, err := os.Open(path) // #nosec G304 -- the operator names the configuration
	if err != nil {
		return file{}, fmt.Errorf("read config: %w", err)
	}
	defer f.Close() //nolint:errcheck // nothing was written
	if info, err := f.Stat(); err != nil {
		return file{}, fmt.Errorf("read config: %w", err)
	} else if !info.Mode().IsRegular() {
		return file{}, fmt.Errorf("read config: %s is not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return file{}, fmt.Errorf("read config: %w", err)
	}
	return file{base: base, name: name, data: data}, nil
}

// compile makes a Snapshot of the files or reports everything that is wrong
// with them.
func (fs fileSet) compile(now time.Time) (*Snapshot, error) {
	all, kinds, problems := fs.decode()
	snapshot := compile(all, now, layer{}, &problems)
	if len(problems) > 0 {
		return nil, problems.sorted()
	}
	snapshot.Hash = fs.hash()
	for _, f := range fs {
		snapshot.Sources = append(snapshot.Sources, f.name)
	}
	snapshot.Kinds = kinds
	return snapshot, nil
}

// decode reads and joins the documents of all files.
func (fs fileSet) decode() (*sections, []Kind, Problems) {
	var problems Problems
	all, found := &sections{}, make(map[Kind]bool)
	fields := fieldsOf(reflect.TypeFor[sections]())
	for _, f := range fs {
		before := len(problems)
		nodes := documents(f.name, f.data, &problems)
		all.partial = all.partial || len(problems) > before
		d := newDecoder(f.name, f.data, &problems)
		for _, n := range nodes {
			var doc document
			d.object(n, reflect.ValueOf(&doc).Elem(), ownerOf(n))
			kinds := all.join(&doc.sections, fields, &problems)
			if len(kinds) == 0 && doc.good() {
				d.report(n, "this document has no section: write one, or remove it")
			}
			for k := range kinds {
				found[k] = true
			}
		}
	}
	var kinds []Kind
	for _, k := range []Kind{Platform, PolicyKind, Limits, Finance, Keys} {
		if found[k] {
			kinds = append(kinds, k)
		}
	}
	all.requires(kinds, &problems)
	return all, kinds, problems
}

// ownerOf is the kind a document says it is of, "" if it says none that exists.
func ownerOf(n *yaml.Node) Kind {
	switch k := Kind(scalarOf(n, "kind")); k {
	case Platform, PolicyKind, Limits, Finance, Keys:
		return k
	}
	return ""
}

// child is the value of a key of a mapping, nil if it has none.
func child(n *yaml.Node, key string) *yaml.Node {
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

func scalarOf(n *yaml.Node, key string) string {
	if v := child(n, key); v != nil && v.Kind == yaml.ScalarNode {
		return v.Value
	}
	return ""
}

// unpack finds the files in a stream of documents and manifests.
func unpack(name string, data []byte) (fileSet, Problems) {
	var problems Problems
	nodes := documents(name, data, &problems)
	if len(problems) > 0 || !slices.ContainsFunc(nodes, isManifest) {
		return fileSet{{base: filepath.Base(name), name: name, data: data}}, nil // compile reports the same
	}
	var files fileSet
	for _, n := range nodes {
		if !isManifest(n) {
			tell(&problems, at{file: name, line: n.Line, column: n.Column},
				"is no manifest, and others in this stream are: check it by itself")
			continue
		}
		files = append(files, filesOf(name, n, &problems)...)
	}
	if len(files) == 0 && len(problems) == 0 {
		tell(&problems, at{file: name}, "holds no configuration: no ConfigMap or Secret in it has a *.yaml entry of apiVersion %s", APIVersion)
	}
	slices.SortStableFunc(files, func(a, b file) int { return strings.Compare(a.base, b.base) })
	return files, problems.sorted()
}

// isManifest says whether a document is a Kubernetes object.
func isManifest(n *yaml.Node) bool {
	version := scalarOf(n, "apiVersion")
	return version != "" && !strings.HasPrefix(version, "airgate/") &&
		(child(n, "metadata") != nil || child(n, "items") != nil)
}

// filesOf are the files of this configuration in a manifest.
func filesOf(name string, n *yaml.Node, problems *Problems) fileSet {
	var files fileSet
	if items := child(n, "items"); items != nil && items.Kind == yaml.SequenceNode {
		for _, item := range items.Content {
			if isManifest(item) && child(item, "items") == nil {
				files = append(files, filesOf(name, item, problems)...)
			}
		}
		return files
	}
	object := name
	if m := child(n, "metadata"); m != nil {
		object = scalarOf(m, "name")
	}
	each := func(field string, text func(string) (string, error)) {
		entries := child(n, field)
		if entries == nil || entries.Kind != yaml.MappingNode {
			return
		}
		for i := 0; i+1 < len(entries.Content); i += 2 {
			key, value := entries.Content[i], entries.Content[i+1]
			if !isConfigFile(key.Value) || value.Kind != yaml.ScalarNode {
				continue
			}
			data, err := text(value.Value)
			if err != nil {
				tell(problems, at{file: name, line: value.Line, column: value.Column}, "is not base64: put plain text into stringData")
				continue
			}
			if strings.Contains(data, "airgate/v") {
				entry := object + "/" + key.Value
				files = append(files, file{base: entry, name: entry, data: []byte(data)})
			}
		}
	}
	plain := func(s string) (string, error) { return s, nil }
	switch scalarOf(n, "kind") {
	case "ConfigMap":
		each("data", plain)
	case "Secret":
		each("stringData", plain)
		each("data", func(s string) (string, error) {
			b, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(s), ""))
			return string(b), err
		})
	}
	return files
}
