package config

import (
	"encoding/base64"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestGood: everything under testdata/good loads, with the warnings that its
// first lines announce.
func TestGood(t *testing.T) {
	for _, path := range filesIn(t, "good/*.yaml") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			wants, _ := wanted(readText(t, path))
			s, err := Load(path, now())
			if err != nil {
				t.Fatalf("Load(%s) = %v, want no error", path, err)
			}
			var got []string
			for _, w := range s.Warnings {
				got = append(got, strings.TrimPrefix(w.Error(), path+":"))
			}
			if diff := cmp.Diff(wants, got); diff != "" {
				t.Errorf("Load(%s) warns otherwise (-want +got):\n%s", path, diff)
			}
			if s.Policy == nil || s.Limits == nil || s.Prices == nil || len(s.Hash) != 64 {
				t.Errorf("Load(%s) = %+v, which lacks a part", path, s)
			}
		})
	}
}

// TestDirectory: the files of a directory form one configuration.
func TestDirectory(t *testing.T) {
	full := map[string]string{
		"10-platform.yaml": platform, "20-limits.yml": limitsFile(5), "finance.yaml": financeFile,
		".hidden.yaml": "not: ours", "notes.txt": "not ours", "..data_tmp": "not ours",
	}
	with := func(name, text string) map[string]string {
		files := maps.Clone(full)
		files[name] = text
		return files
	}
	for name, test := range map[string]struct {
		files map[string]string
		want  []string // problems, with the directory as D
	}{
		"all files":       {files: full},
		"nothing":         {files: map[string]string{"notes.txt": ""}, want: []string{"D: holds no *.yaml file: write one, or name another --config"}},
		"an empty file":   {files: with("x.yaml", ""), want: []string{"D/x.yaml: is empty: write a document beginning with apiVersion: airgate/v1, or remove the file"}},
		"only a comment":  {files: with("x.yaml", "# later\n---\n"), want: []string{"D/x.yaml: is empty: write a document beginning with apiVersion: airgate/v1, or remove the file"}},
		"not UTF-8":       {files: with("x.yaml", "apiVersion: airgate/v1\nteams: {caf\xe9: {}}\n"), want: []string{"D/x.yaml:2:12: is not UTF-8 text: save it as UTF-8"}},
		"too large":       {files: with("x.yaml", strings.Repeat("#", maxFileBytes+1)), want: []string{"D/x.yaml: is larger than 8388608 bytes: split it"}},
		"a name twice":    {files: with("x.yaml", limitsFile(6)), want: []string{"D/x.yaml:3:17: limit \"rps\" exists already: D/20-limits.yml:3"}},
		"a setting twice": {files: with("x.yaml", "apiVersion: airgate/v1\nunbudgeted: deny\n---\napiVersion: airgate/v1\nunbudgeted: allow\n"), want: []string{"D/x.yaml:5:13: unbudgeted is given already: D/x.yaml:2"}},
		"problems of several files": {
			files: map[string]string{"b.yaml": "apiVersion: airgate/v1\nteams: {search: {parnt: x}}\n", "a.yaml": "apiVersion: airgate/v1\nlimits: [{name: x, match: {team: serach}, requests: 5}]\n", "c.yaml": "{"},
			want: []string{
				`D/a.yaml:2:34: no team "serach": did you mean search?`,
				`D/a.yaml:2:53: "5" lacks its unit: write 5/s, 5/min, 5/h or 5/day`,
				`D/b.yaml:2:18: unknown field "parnt": did you mean parent?`,
				`D/c.yaml:1:1: is not YAML: did not find expected node content`,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := write(t, test.files)
			s, err := Load(dir, now())
			var got []string
			for _, p := range problemsOf(t, err) {
				got = append(got, strings.ReplaceAll(p.Error(), dir, "D"))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Fatalf("Load finds other problems (-want +got):\n%s", diff)
			}
			if err != nil {
				return
			}
			want := []string{dir + "/10-platform.yaml", dir + "/20-limits.yml", dir + "/finance.yaml"}
			if diff := cmp.Diff(want, s.Sources); diff != "" {
				t.Errorf("Sources (-want +got):\n%s", diff)
			}
		})
	}
}

func TestUnreadable(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "absent"), now())
	var ps Problems
	if !errors.Is(err, os.ErrNotExist) || errors.As(err, &ps) {
		t.Errorf("Load(absent) = %v, want an error that is no Problems", err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "x.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir, now()); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("Load(directory named x.yaml) = %v, want: not a regular file", err)
	}
}

// TestHash: names and contents of files make the hash, and nothing else does.
func TestHash(t *testing.T) {
	hash := func(files map[string]string) string {
		t.Helper()
		s, err := Load(write(t, files), now())
		if err != nil {
			t.Fatal(err)
		}
		return s.Hash
	}
	one := map[string]string{"a.yaml": base, "b.yaml": limitsFile(1)}
	first := hash(one)
	if again := hash(one); again != first {
		t.Errorf("the same files elsewhere have hash %s, want %s", again, first)
	}
	seen := []string{first}
	for name, other := range map[string]map[string]string{
		"another name":   {"a.yaml": base, "c.yaml": limitsFile(1)},
		"a comment more": {"a.yaml": base + "# x\n", "b.yaml": limitsFile(1)},
		"one file":       {"a.yaml": base + "---\n" + limitsFile(1)},
	} {
		h := hash(other)
		if slices.Contains(seen, h) {
			t.Errorf("%s has the hash of another configuration", name)
		}
		seen = append(seen, h)
	}
}

// TestManifests: what kustomize prints can be checked.
func TestManifests(t *testing.T) {
	indent := func(s string) string { return "    " + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n    ") + "\n" }
	deployment := "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: envoy}\n"
	platformMap := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: airgate-platform}\ndata:\n  dashboard.json: '{}'\n  platform.yaml: |\n" + indent(base)
	keys := func(id string) string {
		return "apiVersion: airgate/v1\nkind: Keys\nkeys: [{id: " + id + ", team: search, secrets: [{hash: \"sha256:" + strings.Repeat("0", 64) + "\"}]}]\n"
	}
	secret := func(id string) string {
		return "apiVersion: v1\nkind: Secret\nmetadata: {name: airgate-keys}\ndata: {keys.yaml: " +
			base64.StdEncoding.EncodeToString([]byte(keys(id))) + "}\n"
	}
	other := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}\ndata:\n  other.yaml: |\n    a: 1\n"
	for name, test := range map[string]struct {
		in      string
		want    string
		sources []string
	}{
		"a stream": {
			in:      deployment + "---\n" + platformMap + "---\n" + secret("k7Qm2xT9aB4c") + "---\n" + other,
			sources: []string{"airgate-keys/keys.yaml", "airgate-platform/platform.yaml"},
		},
		"a list": {
			in:      "apiVersion: v1\nkind: List\nitems:\n- " + strings.ReplaceAll(strings.TrimSpace(platformMap), "\n", "\n  ") + "\n",
			sources: []string{"airgate-platform/platform.yaml"},
		},
		"a problem inside": {
			in:   platformMap + "---\n" + secret("short"),
			want: "airgate-keys/keys.yaml:3:13: id: want 12 letters and digits: let airgate keys create make it",
		},
		"nothing of ours": {
			in:   deployment + "---\n" + other,
			want: "-: holds no configuration: no ConfigMap or Secret in it has a *.yaml entry of apiVersion airgate/v1",
		},
		"not base64": {
			in:   "apiVersion: v1\nkind: Secret\nmetadata: {name: airgate-keys}\ndata: {keys.yaml: \"%\"}\n",
			want: "-:4:19: is not base64: put plain text into stringData",
		},
		"mixed": {
			in:   platformMap + "---\n" + limitsFile(1),
			want: "-:13:1: is no manifest, and others in this stream are: check it by itself",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := LoadBytes("-", []byte(test.in), now())
			if test.want != "" {
				if err == nil || err.Error() != test.want {
					t.Fatalf("LoadBytes = %v, want %s", err, test.want)
				}
				return
			}
			if err != nil {
				t.Fatalf("LoadBytes = %v, want no error", err)
			}
			if diff := cmp.Diff(test.sources, s.Sources); diff != "" {
				t.Errorf("Sources (-want +got):\n%s", diff)
			}
		})
	}
}

// TestProviders shows what is made of a provider's entry.
func TestProviders(t *testing.T) {
	for name, test := range map[string]struct {
		in   string
		want Provider
		url  string
	}{
		"openai": {
			in:   "{dialect: openai, url: https://API.openai.com/, credential: {file: /run/secrets/openai}}",
			want: Provider{Dialect: "openai", CredentialFile: "/run/secrets/openai", Header: "authorization", Prefix: "Bearer "},
			url:  "https://api.openai.com",
		},
		"anthropic": {
			in:   "{dialect: anthropic, url: https://api.anthropic.com:8443, credential: {env: K}, tags: {region: eu}}",
			want: Provider{Dialect: "anthropic", CredentialEnv: "K", Header: "x-api-key", Tags: map[string]string{"region": "eu"}},
			url:  "https://api.anthropic.com:8443",
		},
		"another header": {
			in:   "{dialect: openai, url: https://llm.example.com/team/a, credential: {env: K}, header: api-key, exclusive: [search]}",
			want: Provider{Dialect: "openai", CredentialEnv: "K", Header: "api-key", Exclusive: []string{"search"}},
			url:  "https://llm.example.com/team/a",
		},
		"another prefix": {
			in:   "{dialect: anthropic, url: https://llm.example.com, credential: {env: K}, header: authorization, prefix: \"Bearer \", caFile: /ca.pem, timeouts: {connect: 2s, idle: 10m}}",
			want: Provider{Dialect: "anthropic", CredentialEnv: "K", Header: "authorization", Prefix: "Bearer ", CAFile: "/ca.pem", ConnectTimeout: 2e9, IdleTimeout: 600e9},
			url:  "https://llm.example.com",
		},
		"loopback": {
			in:   "{dialect: openai, url: \"http://[::1]:8000\", credential: {env: K}}",
			want: Provider{Dialect: "openai", CredentialEnv: "K", Header: "authorization", Prefix: "Bearer "},
			url:  "http://[::1]:8000",
		},
		"a regional host": {
			in:   "{dialect: openai, url: https://eu.api.openai.com, credential: {env: K}, serviceTier: priority}",
			want: Provider{Dialect: "openai", CredentialEnv: "K", Header: "authorization", Prefix: "Bearer ", Region: "eu", ServiceTier: "priority"},
			url:  "https://eu.api.openai.com",
		},
		"a region of its own": {
			in:   "{dialect: openai, url: https://x.openai.azure.com/openai, credential: {env: K}, region: other}",
			want: Provider{Dialect: "openai", CredentialEnv: "K", Header: "authorization", Prefix: "Bearer ", Region: "other"},
			url:  "https://x.openai.azure.com/openai",
		},
		"insecure": {
			in:   "{dialect: openai, url: http://vllm.svc:8000, credential: {env: K}, insecure: true}",
			want: Provider{Dialect: "openai", CredentialEnv: "K", Header: "authorization", Prefix: "Bearer ", Insecure: true},
			url:  "http://vllm.svc:8000",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := LoadBytes("-", []byte("apiVersion: airgate/v1\nproviders: {p: "+test.in+"}\nteams: {search: {}}\n"), now())
			if err != nil {
				t.Fatal(err)
			}
			got := *s.Provider("p")
			if u := got.URL.String(); u != test.url {
				t.Errorf("URL = %s, want %s", u, test.url)
			}
			got.Name, got.URL = "", nil
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("provider of %s (-want +got):\n%s", test.in, diff)
			}
		})
	}
}

// TestShadow: enforcement: shadow refuses nothing but keys and routes.
func TestShadow(t *testing.T) {
	s, err := LoadBytes("-", []byte(platform+"enforcement: shadow\nbudgets: [{name: search, usd: 5, per: month}]\n"), now())
	if err != nil {
		t.Fatal(err)
	}
	if !s.Shadow || s.AllowUnbudgeted || s.AllowUnpriced {
		t.Errorf("Shadow, AllowUnbudgeted, AllowUnpriced = %v, %v, %v, want only the first", s.Shadow, s.AllowUnbudgeted, s.AllowUnpriced)
	}
	for _, l := range limitsOf(t, platform+"enforcement: shadow\nbudgets: [{name: search, usd: 5, per: month}]\nlimits: [{name: rps, requests: 5/s}]\n") {
		if l.Mode == 0 {
			t.Errorf("limit %s is enforced", l.Name)
		}
	}
}

// TestModelAllocates nothing: it is asked once for each request.
func TestModelAllocates(t *testing.T) {
	s, err := LoadBytes("-", []byte(designText(t, "short.yaml")), now())
	if err != nil {
		t.Fatal(err)
	}
	at := now()
	if n := testing.AllocsPerRun(100, func() {
		if s.Model("gpt-5.4-mini", at).Price == nil || s.Provider("openai") == nil {
			t.Fatal("model or provider is not found")
		}
	}); n != 0 {
		t.Errorf("Model and Provider allocate %v times, want 0", n)
	}
}

// FuzzLoad: whatever the bytes, the answer is a whole snapshot or problems that
// have a place and a text.
func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"broken/*.yaml", "good/*.yaml", "design/*.yaml"} {
		for _, path := range filesIn(f, pattern) {
			f.Add([]byte(readText(f, path)))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := LoadBytes("fuzz.yaml", data, now())
		if err == nil {
			if s.Policy == nil || s.Limits == nil || s.Prices == nil || s.Hash == "" {
				t.Fatalf("LoadBytes = %+v without error, which lacks a part", s)
			}
			return
		}
		problems := problemsOf(t, err)
		for i, p := range problems {
			if p.Text == "" || p.File == "" || p.Line < 0 || p.Line > 0 && p.Column < 1 {
				t.Errorf("problem %+v has no place or text", p)
			}
			if i > 0 && problems[i] == problems[i-1] {
				t.Errorf("problem %v is told twice", p)
			}
		}
	})
}
