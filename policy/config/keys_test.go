package config

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"airgate/policy"
)

func keyOf(id, name string) policy.KeyConfig {
	return policy.KeyConfig{
		ID: id, Name: name, Team: "search",
		Secrets: []policy.Secret{{Hash: [32]byte([]byte(id + strings.Repeat("x", 20))), Created: now()}},
	}
}

func hashText(id string) string {
	return policy.FormatHash(keyOf(id, "").Secrets[0].Hash)
}

const (
	idA = "aaaaaaaaaaaa"
	idB = "bbbbbbbbbbbb"
	idC = "123456789012" // a number, were it not quoted
)

// TestAddKey: an entry more, and every other byte as it was.
func TestAddKey(t *testing.T) {
	entryA := `{id: aaaaaaaaaaaa, team: search, name: a, secrets: [{hash: "` + hashText(idA) + `", created: 2026-11-21T12:00:00Z}]}`
	entryC := `{id: "123456789012", team: search, name: c, secrets: [{hash: "` + hashText(idC) + `", created: 2026-11-21T12:00:00Z}]}`
	head := "apiVersion: airgate/v1\nkind: Keys\n"
	for name, test := range map[string]struct{ before, after string }{
		"no file":       {"", head + "keys:\n  - " + entryC + "\n"},
		"only comments": {"# ours\n", "# ours\n" + head + "keys:\n  - " + entryC + "\n"},
		"a list": {
			head + "# before\nkeys:\n  # first\n  - " + entryA + " # theirs\n# after\n",
			head + "# before\nkeys:\n  # first\n  - " + entryA + " # theirs\n  - " + entryC + "\n# after\n",
		},
		"without indent or last newline": {
			head + "keys:\n- " + entryA,
			head + "keys:\n- " + entryA + "\n- " + entryC + "\n",
		},
		"an entry over several lines": {
			head + "keys:\n  - id: aaaaaaaaaaaa\n    team: search\n    secrets: [\n      {hash: \"" + hashText(idA) + "\",\n      }\n    ]\n\n---\n" + limitsFile(1),
			head + "keys:\n  - id: aaaaaaaaaaaa\n    team: search\n    secrets: [\n      {hash: \"" + hashText(idA) + "\",\n      }\n    ]\n  - " + entryC + "\n\n---\n" + limitsFile(1),
		},
		"an empty list":      {head + "keys: [] # none yet\n", head + "keys: [" + entryC + "] # none yet\n"},
		"a list in brackets": {head + "keys: [" + entryA + "]\n", head + "keys: [" + entryC + ", " + entryA + "]\n"},
		"no keys yet": {
			limitsFile(1), limitsFile(1) + "---\n" + head + "keys:\n  - " + entryC + "\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{"airgate.yaml": base}
			if test.before != "" {
				files[KeysFile] = test.before
			}
			dir := write(t, files)
			if err := AddKey(dir, keyOf(idC, "c"), now()); err != nil {
				t.Fatalf("AddKey = %v, want no error", err)
			}
			path := filepath.Join(dir, KeysFile)
			if diff := cmp.Diff(test.after, readText(t, path)); diff != "" {
				t.Errorf("AddKey leaves another text (-want +got):\n%s", diff)
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("mode of %s = %v (%v), want 0600", path, info.Mode(), err)
			}
			s, err := Load(dir, now())
			if err != nil {
				t.Fatalf("Load after AddKey = %v", err)
			}
			if k := s.Policy.Key(idC); k == nil || k.Name != "c" {
				t.Errorf("after AddKey the key is %+v", k)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
				t.Errorf("AddKey leaves %v behind", left)
			}
		})
	}
}

// TestAddKeyToOneFile: a configuration that is one file holds its keys too.
func TestAddKeyToOneFile(t *testing.T) {
	path := filepath.Join(write(t, map[string]string{"airgate.yaml": base}), "airgate.yaml")
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	for _, k := range []policy.KeyConfig{keyOf(idA, "a"), keyOf(idC, "c")} {
		if err := AddKey(path, k, now()); err != nil {
			t.Fatalf("AddKey = %v", err)
		}
	}
	keys, err := ListKeys(path)
	if err != nil || len(keys) != 2 || keys[1].ID != idC || keys[1].File != path || keys[1].Line != 11 {
		t.Errorf("ListKeys = %+v, %v, want both, the second in line 11", keys, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode = %v (%v), want it kept", info.Mode(), err)
	}
}

// TestAddKeyRefuses: what would not load is not written.
func TestAddKeyRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		files map[string]string
		key   policy.KeyConfig
		want  string
	}{
		"an unknown team":  {key: policy.KeyConfig{ID: idB, Team: "serach", Secrets: keyOf(idB, "").Secrets}, want: `team: no team "serach": did you mean search?`},
		"a team like none": {key: policy.KeyConfig{ID: idB, Team: "nobody", Secrets: keyOf(idB, "").Secrets}, want: `team: no team "nobody": there is search`},
		"a name twice": {
			files: map[string]string{"more.yaml": "apiVersion: airgate/v1\nkeys:\n" + FormatKey(keyOf(idA, "b"))},
			key:   keyOf(idB, "b"), want: `name: key "b" exists already: D/more.yaml:3`,
		},
		"a purpose of none": {
			files: map[string]string{"more.yaml": "apiVersion: airgate/v1\npurposes: {eval: {}}\n"},
			key:   policy.KeyConfig{ID: idB, Team: "search", Purpose: "evil: x", Secrets: keyOf(idB, "").Secrets}, want: `purpose: no purpose "evil: x": there is eval`,
		},
		"models of none":  {key: policy.KeyConfig{ID: idB, Team: "search", Name: "true", Models: []string{"mini", "mino"}, Secrets: keyOf(idB, "").Secrets}, want: `models: no model "mino": did you mean mini?`},
		"a broken config": {files: map[string]string{"more.yaml": "limits: 5\n"}, key: keyOf(idB, "b"), want: "D/more.yaml:1:1: apiVersion is missing\nD/more.yaml:1:9: must be a list […], not a number"},
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{"airgate.yaml": base}
			maps.Copy(files, test.files)
			dir := write(t, files)
			err := AddKey(dir, test.key, now())
			if err == nil || strings.ReplaceAll(err.Error(), dir, "D") != test.want {
				t.Errorf("AddKey = %v, want %s", err, test.want)
			}
			if _, err := os.Stat(filepath.Join(dir, KeysFile)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s was written (%v)", KeysFile, err)
			}
		})
	}
	v := &volume{dir: t.TempDir()}
	if err := v.swap(map[string]string{"airgate.yaml": base}); err != nil {
		t.Fatal(err)
	}
	if err := AddKey(v.dir, keyOf(idA, "a"), now()); !errors.Is(err, ErrMounted) {
		t.Errorf("AddKey to a mounted volume = %v, want %v", err, ErrMounted)
	}
}

// TestAddKeyAtOnce: two who add keys at the same time both succeed.
func TestAddKeyAtOnce(t *testing.T) {
	dir := write(t, map[string]string{"airgate.yaml": base})
	var adding sync.WaitGroup
	for _, id := range []string{"aaaaaaaaaaa1", "aaaaaaaaaaa2", "aaaaaaaaaaa3", "aaaaaaaaaaa4", "aaaaaaaaaaa5"} {
		adding.Go(func() {
			if err := AddKey(dir, keyOf(id, ""), now()); err != nil {
				t.Errorf("AddKey(%s) = %v", id, err)
			}
		})
	}
	adding.Wait()
	if keys, err := ListKeys(dir); err != nil || len(keys) != 5 {
		t.Errorf("ListKeys = %v, %v, want five", keys, err)
	}
}

// TestRevokeKey: the entry gets its time, in its own layout.
func TestRevokeKey(t *testing.T) {
	head := "apiVersion: airgate/v1\nkind: Keys\n"
	secrets := `secrets: [{hash: "` + hashText(idA) + `"}]`
	for name, test := range map[string]struct{ by, before, after string }{
		"in braces": {
			idA, "keys:\n  - {id: aaaaaaaaaaaa, team: search, " + secrets + "} # kim's\n",
			"keys:\n  - {id: aaaaaaaaaaaa, revoked: 2026-11-21T12:00:00Z, team: search, " + secrets + "} # kim's\n",
		},
		"in quotes, last": {
			idA, "keys: [{team: search, " + secrets + ", id: 'aaaaaaaaaaaa'}]\n",
			"keys: [{team: search, " + secrets + ", id: 'aaaaaaaaaaaa', revoked: 2026-11-21T12:00:00Z}]\n",
		},
		"in lines": {
			idA, "keys:\n  - team: search\n    id: aaaaaaaaaaaa # kim's\n    " + secrets + "\n",
			"keys:\n  - team: search\n    id: aaaaaaaaaaaa # kim's\n    revoked: 2026-11-21T12:00:00Z\n    " + secrets + "\n",
		},
		"first line": {
			idA, "keys:\n- id: \"aaaaaaaaaaaa\"\n  team: search\n  " + secrets + "\n",
			"keys:\n- id: \"aaaaaaaaaaaa\"\n  revoked: 2026-11-21T12:00:00Z\n  team: search\n  " + secrets + "\n",
		},
		"to end later": {
			idA, "keys:\n  - {id: aaaaaaaaaaaa, team: search, revoked: 2027-01-01, " + secrets + "}\n",
			"keys:\n  - {id: aaaaaaaaaaaa, team: search, revoked: 2026-11-21T12:00:00Z, " + secrets + "}\n",
		},
		"ended before": {
			idA, "keys:\n  - {id: aaaaaaaaaaaa, team: search, revoked: 2026-11-01, " + secrets + "}\n",
			"keys:\n  - {id: aaaaaaaaaaaa, team: search, revoked: 2026-11-01, " + secrets + "}\n",
		},
		"by its name": {
			"a", "keys:\n  - {id: aaaaaaaaaaaa, team: search, name: a, " + secrets + "}\n",
			"keys:\n  - {id: aaaaaaaaaaaa, revoked: 2026-11-21T12:00:00Z, team: search, name: a, " + secrets + "}\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := write(t, map[string]string{"airgate.yaml": base, KeysFile: head + test.before})
			if id, err := RevokeKey(dir, test.by, now(), now()); err != nil || id != idA {
				t.Fatalf("RevokeKey = %q, %v, want %s and no error", id, err, idA)
			}
			if diff := cmp.Diff(head+test.after, readText(t, filepath.Join(dir, KeysFile))); diff != "" {
				t.Errorf("RevokeKey leaves another text (-want +got):\n%s", diff)
			}
			keys, err := ListKeys(dir)
			if err != nil || keys[0].Revoked.IsZero() || keys[0].Revoked.After(now()) {
				t.Errorf("after RevokeKey the key is %+v (%v), want it revoked", keys, err)
			}
		})
	}
}

func TestRevokeKeyRefuses(t *testing.T) {
	dir := write(t, map[string]string{"airgate.yaml": base, "more.yaml": "apiVersion: airgate/v1\nkeys:\n" + FormatKey(keyOf(idA, "a"))})
	var elsewhere *ElsewhereError
	_, err := RevokeKey(dir, idA, now(), now())
	if !errors.As(err, &elsewhere) || elsewhere.File != filepath.Join(dir, "more.yaml") || elsewhere.Line != 3 {
		t.Errorf("RevokeKey(key in more.yaml) = %v, want an ElsewhereError of more.yaml:3", err)
	}
	if _, err := RevokeKey(dir, idB, now(), now()); !errors.Is(err, ErrNoKey) {
		t.Errorf("RevokeKey(no such key) = %v, want %v", err, ErrNoKey)
	}
}

// TestFormatKey: what is printed is read back as the same key, whatever is in
// its fields.
func TestFormatKey(t *testing.T) {
	for _, k := range []policy.KeyConfig{
		keyOf(idA, "a"), keyOf(idC, "null"), keyOf("1e3456789012", "1.5"), keyOf("0x3456789012", "a+b@c"),
		{
			ID: idB, Team: "search", Name: "y", Purpose: "on", Models: []string{"mini", "*", "~"}, Revoked: now(),
			Secrets: []policy.Secret{
				{Hash: [32]byte{1}, Created: now(), Expires: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)}, {Hash: [32]byte{2}},
			},
		},
		{ID: idB, Team: "true", Models: []string{}, Secrets: []policy.Secret{{Hash: [32]byte{3}}}},
	} {
		text := "apiVersion: airgate/v1\nkind: Keys\nkeys:\n" + FormatKey(k)
		keys, err := ListKeys(filepath.Join(write(t, map[string]string{KeysFile: text}), KeysFile))
		if err != nil || len(keys) != 1 {
			t.Errorf("ListKeys(%s) = %v, %v, want one key", text, keys, err)
			continue
		}
		if diff := cmp.Diff(k, keys[0].KeyConfig); diff != "" {
			t.Errorf("FormatKey reads back as another key (-want +got):\n%s", diff)
		}
	}
}
