package config

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"

	"airgate/policy"
)

// KeysFile is the file of a configuration directory that AddKey and RevokeKey
// edit. Of a configuration that is one file they edit that.
const KeysFile = "keys.yaml"

// Errors of AddKey and RevokeKey.
var (
	// ErrMounted: the directory is a Kubernetes volume, which is changed where
	// it comes from.
	ErrMounted = errors.New("the config is a mounted volume: change its ConfigMap or Secret instead")
	// ErrNoKey: no file has a key of that id.
	ErrNoKey = errors.New("no such key")
	// ErrLayout: the file is valid and written in a way that cannot be edited
	// safely.
	ErrLayout = errors.New("the file is laid out in a way that is not edited by program: change it by hand")
)

// ElsewhereError says that a key stands in a file that RevokeKey does not edit.
type ElsewhereError struct {
	ID   string
	File string
	Line int
}

// Error says where, and what to do there.
func (e *ElsewhereError) Error() string {
	return fmt.Sprintf("key %s stands in %s:%d, not in %s: add revoked: TIME there", e.ID, e.File, e.Line, KeysFile)
}

// KeyError says that a key does not fit the configuration.
type KeyError struct {
	Field string // of its entry: team, name, purpose …
	Text  string
}

// Error is the field and what is wrong with it.
func (e *KeyError) Error() string { return e.Field + ": " + e.Text }

// ListedKey is a key and where it stands.
type ListedKey struct {
	policy.KeyConfig
	File string
	Line int
}

// ListKeys returns the keys of a configuration in the order of its files. The
// error is Problems if they cannot all be read; those that can be are returned
// with it.
func ListKeys(configPath string) ([]ListedKey, error) {
	files, _, err := read(configPath)
	if err != nil {
		return nil, err
	}
	all, _, problems := files.decode()
	out := make([]ListedKey, 0, len(all.Keys.items))
	for i := range all.Keys.items {
		if k := &all.Keys.items[i]; k.ID.good() {
			out = append(out, ListedKey{KeyConfig: keyConfig(k), File: k.file, Line: k.line})
		}
	}
	if len(problems) > 0 {
		return out, problems.sorted()
	}
	return out, nil
}

// FormatKey is one entry of keys: a line "- {id: …}" that ends in a newline.
func FormatKey(k policy.KeyConfig) string { return "- " + flowKey(k) + "\n" }

func flowKey(k policy.KeyConfig) string {
	var b strings.Builder
	fmt.Fprintf(&b, "{id: %s, team: %s", word(k.ID), word(k.Team))
	if k.Name != "" {
		b.WriteString(", name: " + word(k.Name))
	}
	if k.Purpose != "" {
		b.WriteString(", purpose: " + word(k.Purpose))
	}
	if k.Models != nil {
		quoted := make([]string, len(k.Models))
		for i, m := range k.Models {
			quoted[i] = word(m)
		}
		b.WriteString(", models: [" + strings.Join(quoted, ", ") + "]")
	}
	b.WriteString(", secrets: [")
	for i, s := range k.Secrets {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(`{hash: "sha256:` + hex.EncodeToString(s.Hash[:]) + `"`)
		if !s.Created.IsZero() {
			b.WriteString(", created: " + moment(s.Created))
		}
		if !s.Expires.IsZero() {
			b.WriteString(", expires: " + moment(s.Expires))
		}
		b.WriteString("}")
	}
	b.WriteString("]")
	if !k.Revoked.IsZero() {
		b.WriteString(", revoked: " + moment(k.Revoked))
	}
	b.WriteString("}")
	return b.String()
}

// plainWord is text that YAML reads as text without quotes, in a flow mapping
// too: the words of the second expression it reads as something else.
var (
	plainWord = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9._/-]*$`)
	notText   = regexp.MustCompile(`^(?i:true|false|yes|no|on|off|null|y|n)$`)
)

func word(s string) string {
	if plainWord.MatchString(s) && !notText.MatchString(s) {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// moment is a time as files have it: the day alone if it is its beginning.
func moment(t time.Time) string {
	if t = t.UTC(); t.Equal(t.Truncate(24 * time.Hour)) {
		return t.Format(time.DateOnly)
	}
	return t.Format(time.RFC3339Nano)
}

// AddKey adds a key to <config>/keys.yaml, which it makes if need be, readable
// by its owner alone. Everything else in the file stays as it is. It fails as
// CheckKey does, and then nothing is written.
func AddKey(configPath string, k policy.KeyConfig, now time.Time) error {
	return edit(configPath, now, func(files fileSet, keys file) (string, error) {
		if err := files.checkKey(k, now); err != nil {
			return "", err
		}
		return addKey(string(keys.data), k)
	})
}

// CheckKey says whether a configuration loads with one more key: with Problems if
// it does not load without it, with *KeyError if that does not fit it.
func CheckKey(configPath string, k policy.KeyConfig, now time.Time) error {
	files, _, err := read(configPath)
	if err != nil {
		return err
	}
	return files.checkKey(k, now)
}

func (fs fileSet) checkKey(k policy.KeyConfig, now time.Time) error {
	fs = slices.DeleteFunc(slices.Clone(fs), func(f file) bool {
		docs, err := parseDocs(string(f.data))
		return f.base == KeysFile && err == nil && len(docs) == 0 // it is begun with this key
	})
	if _, err := fs.compile(now); err != nil {
		return err
	}
	// In a file of its own, behind all others, what is wrong with the key stands
	// there, in the line of its field.
	const name = "the new key"
	doc, err := parseDocs(flowKey(k))
	if err != nil {
		return err
	}
	var text strings.Builder
	text.WriteString("apiVersion: " + APIVersion + "\nkeys:\n- ")
	fields := []string{"", "", ""}
	for i, n := range doc[0].Content {
		if i%2 == 0 {
			value, err := yaml.Marshal(doc[0].Content[i+1])
			if err != nil {
				return fmt.Errorf("check key: %w", err)
			}
			text.WriteString(n.Value + ": " + string(value) + "  ") // in one line: it is in braces
			fields = append(fields, n.Value)
		}
	}
	_, err = append(fs, file{base: name, name: name, data: []byte(text.String())}).compile(now)
	problems, ok := errors.AsType[Problems](err)
	if !ok {
		return err
	}
	for _, p := range problems {
		if p.File == name && p.Line < len(fields) {
			return &KeyError{Field: fields[p.Line], Text: p.Text}
		}
	}
	return problems
}

// RevokeKey ends a key of <config>/keys.yaml, which is given by its id or its name,
// at a time, and returns its id; a key that has ended by then stays as it is. It
// fails with *ElsewhereError if the key stands in another file, ErrNoKey if in
// none, and Problems if the configuration would not load: then nothing is written.
func RevokeKey(configPath, idOrName string, at, now time.Time) (id string, err error) {
	err = edit(configPath, now, func(files fileSet, keys file) (string, error) {
		all, _, problems := files.decode()
		i := slices.IndexFunc(all.Keys.items, func(k key) bool { return k.ID.v == idOrName })
		if i < 0 { // two of one name are a problem, and nothing is written
			i = slices.IndexFunc(all.Keys.items, func(k key) bool { return idOrName != "" && k.Name.v == idOrName })
		}
		switch {
		case i < 0 && len(problems) > 0:
			return "", problems.sorted()
		case i < 0:
			return "", fmt.Errorf("%w: %s", ErrNoKey, idOrName)
		}
		k := &all.Keys.items[i]
		id = k.ID.v
		switch {
		case k.file != keys.name:
			return "", &ElsewhereError{ID: id, File: k.file, Line: k.line}
		case k.Revoked.good() && !k.Revoked.v.After(at):
			return string(keys.data), nil
		}
		return revokeKey(string(keys.data), k.at, at)
	})
	return id, err
}

// edit replaces the text of the keys file under a lock, if the configuration
// loads with the new text.
func edit(configPath string, now time.Time, change func(files fileSet, keys file) (string, error)) error {
	info, err := os.Stat(configPath)
	if err != nil {
		return fmt.Errorf("edit keys: %w", err)
	}
	dir, path := filepath.Dir(configPath), configPath
	if info.IsDir() {
		dir, path = configPath, filepath.Join(configPath, KeysFile)
		if v, err := linked(dir); err != nil {
			return err
		} else if v != "" {
			return ErrMounted
		}
	}
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()

	files, _, err := read(configPath)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(files, func(f file) bool { return f.name == path })
	keys := file{base: filepath.Base(path), name: path}
	if i >= 0 {
		keys = files[i]
	}
	text, err := change(files, keys)
	if err != nil || i >= 0 && text == string(keys.data) {
		return err
	}
	keys.data = []byte(text)
	if next := slices.Clone(files); i >= 0 {
		next[i] = keys
		files = next
	} else {
		files = append(next, keys)
		slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.base, b.base) })
	}
	if _, err := files.compile(now); err != nil {
		return err
	}
	return replaceFile(path, keys.data)
}

// lock takes the exclusive lock of a directory, which editors of its files
// share. It ends with the process.
func lock(dir string) (unlock func(), err error) {
	d, err := os.Open(dir) // #nosec G304 -- the operator names the configuration
	if err != nil {
		return nil, fmt.Errorf("lock config: %w", err)
	}
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX); err != nil { // #nosec G115 -- a file descriptor
		return nil, errors.Join(fmt.Errorf("lock config: %w", err), d.Close())
	}
	return func() { d.Close() }, nil //nolint:errcheck // nothing was written; closing unlocks
}

// replaceFile writes a file whole or not at all: a reader sees the old text or
// the new one, also after a power cut.
func replaceFile(path string, data []byte) (err error) {
	mode := fs.FileMode(0o600)
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		path = resolved
		if info, err := os.Stat(path); err == nil {
			mode = info.Mode().Perm()
		}
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // hidden: no reload reads it
	if err != nil {
		return fmt.Errorf("write keys: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write keys: %w", errors.Join(err, os.Remove(f.Name())))
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir) // #nosec G304 -- as above
	if err != nil {
		return nil // the file is there; only its survival of a power cut is not sure
	}
	_ = d.Sync() // as above
	_ = d.Close()
	return nil
}

// addKey adds an entry to the text of a keys file.
func addKey(src string, k policy.KeyConfig) (string, error) {
	docs, err := parseDocs(src)
	if err != nil {
		return "", err
	}
	var seq *yaml.Node
	for _, d := range docs {
		if s := child(d, "keys"); s != nil && s.Kind == yaml.SequenceNode {
			seq = s
		}
	}
	if seq == nil {
		if src != "" && !strings.HasSuffix(src, "\n") {
			src += "\n"
		}
		if len(docs) > 0 {
			src += "---\n"
		}
		return src + "apiVersion: " + APIVersion + "\nkind: " + string(Keys) + "\nkeys:\n  " + FormatKey(k), nil
	}
	entry, err := parseDocs(flowKey(k))
	if err != nil {
		return "", err
	}
	text := lines(src)
	if seq.Style&yaml.FlowStyle != 0 {
		separator := ", "
		if len(seq.Content) == 0 {
			separator = ""
		}
		seq.Content = slices.Insert(seq.Content, 0, entry[0])
		out, ok := text.insert(seq.Line, seq.Column, "[", flowKey(k)+separator)
		return checked(out, docs, ok)
	}
	last := lastLine(seq.Content[len(seq.Content)-1])
	indent := strings.Repeat(" ", seq.Column-1)
	seq.Content = append(seq.Content, entry[0])
	// The last item may end below the line its last value begins in.
	for line := last; line <= len(text); line++ {
		out := text.insertLine(line, indent+"- "+flowKey(k))
		if out, err := checked(out, docs, true); err == nil {
			return out, nil
		}
	}
	return "", ErrLayout
}

// revokeKey sets revoked in the entry that begins at where.
func revokeKey(src string, where at, revoked time.Time) (string, error) {
	docs, err := parseDocs(src)
	if err != nil {
		return "", err
	}
	var entry *yaml.Node
	for _, d := range docs {
		if s := child(d, "keys"); s != nil {
			for _, item := range s.Content {
				if item.Line == where.line && item.Column == where.column {
					entry = item
				}
			}
		}
	}
	if entry == nil {
		return "", ErrLayout
	}
	text, when := lines(src), moment(revoked)
	if old := child(entry, "revoked"); old != nil {
		was := sourceOf(old)
		out, ok := text.replace(old.Line, old.Column, was, when)
		parsed, err := parseDocs(when)
		if err != nil {
			return "", err
		}
		old.Value, old.Tag = when, parsed[0].Tag
		return checked(out, docs, ok)
	}
	i := slices.IndexFunc(entry.Content, func(n *yaml.Node) bool { return n.Value == "id" }) // a key: ids are longer
	id, value := entry.Content[i], entry.Content[i+1]
	added, err := parseDocs("revoked: " + when)
	if err != nil {
		return "", err
	}
	entry.Content = slices.Insert(entry.Content, i+2, added[0].Content...)
	if entry.Style&yaml.FlowStyle != 0 {
		out, ok := text.insert(value.Line, value.Column, sourceOf(value), ", revoked: "+when)
		return checked(out, docs, ok)
	}
	return checked(text.insertLine(value.Line, strings.Repeat(" ", id.Column-1)+"revoked: "+when), docs, true)
}

// checked returns the edited text if it says what the edited documents say:
// whatever the layout, an edit changes nothing else.
func checked(out string, want []*yaml.Node, ok bool) (string, error) {
	if !ok {
		return "", ErrLayout
	}
	got, err := parseDocs(out)
	if err != nil || !slices.EqualFunc(got, want, sameNode) {
		return "", ErrLayout
	}
	return out, nil
}

func sameNode(a, b *yaml.Node) bool {
	return a.Kind == b.Kind && a.Tag == b.Tag && a.Value == b.Value && slices.EqualFunc(a.Content, b.Content, sameNode)
}

func parseDocs(src string) ([]*yaml.Node, error) {
	var problems Problems
	docs := documents(KeysFile, []byte(src), &problems)
	if len(docs) == 0 || len(problems) == 0 {
		return docs, nil // nothing but comments is no document yet
	}
	return nil, problems
}

// lastLine is the last line in which a value of n begins.
func lastLine(n *yaml.Node) int {
	last := n.Line
	for _, c := range n.Content {
		last = max(last, lastLine(c))
	}
	return last
}

// sourceOf is a scalar as it stands in the file, if it needs no escapes.
func sourceOf(n *yaml.Node) string {
	switch {
	case n.Style&yaml.DoubleQuotedStyle != 0:
		return `"` + n.Value + `"`
	case n.Style&yaml.SingleQuotedStyle != 0:
		return "'" + n.Value + "'"
	}
	return n.Value
}

// textLines are the lines of a file without their ends.
type textLines []string

func lines(src string) textLines {
	return strings.Split(strings.TrimSuffix(src, "\n"), "\n")
}

func (t textLines) join() string { return strings.Join(t, "\n") + "\n" }

// insertLine puts a line below the first n.
func (t textLines) insertLine(n int, s string) string {
	return slices.Insert(slices.Clone(t), n, s).join()
}

// insert puts s behind what must stand at a line and column.
func (t textLines) insert(line, column int, after, s string) (string, bool) {
	return t.replace(line, column, after, after+s)
}

// replace puts s in place of what must stand at a line and column.
func (t textLines) replace(line, column int, old, s string) (string, bool) {
	runes := []rune(t[line-1])
	if column-1 > len(runes) {
		return "", false
	}
	head, tail := string(runes[:column-1]), string(runes[column-1:])
	rest, ok := strings.CutPrefix(tail, old)
	if !ok {
		return "", false
	}
	out := slices.Clone(t)
	out[line-1] = head + s + rest
	return out.join(), true
}
