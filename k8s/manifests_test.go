// Package k8s holds the manifests; its tests read them as an API server would
// and compare them with each other and with the airgate they start.
package k8s

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"airgate/envoy/xds"
	"airgate/policy/config"
)

// manifests is everything in base, perhaps with a component over it, decoded
// strictly: an unknown field or a field given twice is an error.
type manifests struct {
	set       appsv1.StatefulSet
	service   corev1.Service
	configs   map[string]corev1.ConfigMap
	namespace corev1.Namespace
}

// load reads base with patches over it.
func load(t *testing.T, patches ...[]byte) *manifests {
	t.Helper()
	m := &manifests{configs: map[string]corev1.ConfigMap{}}
	for file, document := range documents(t, "base", kustomizationOf(t, "base").Resources) {
		for _, patch := range patches {
			document = patched(t, document, patch)
		}
		if err := m.add(document); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	return m
}

// component is the patches of a component.
func component(t *testing.T, folder string) (patches [][]byte) {
	t.Helper()
	for _, patch := range documents(t, folder, kustomizationOf(t, folder).patches()) {
		patches = append(patches, patch)
	}
	return patches
}

// variants are what an overlay can be made of.
func variants(t *testing.T, f func(t *testing.T, m *manifests)) {
	t.Helper()
	t.Run("base", func(t *testing.T) { f(t, load(t)) })
	t.Run("redis", func(t *testing.T) { f(t, load(t, component(t, "redis")...)) })
	t.Run("writes", func(t *testing.T) { f(t, load(t, component(t, "writes")...)) })
	t.Run("both", func(t *testing.T) { f(t, load(t, slices.Concat(component(t, "redis"), component(t, "writes"))...)) })
}

// documents yields the YAML documents of some files of a folder, each with the
// name of its file.
func documents(t *testing.T, folder string, files []string) iter.Seq2[string, []byte] {
	t.Helper()
	return func(yield func(string, []byte) bool) {
		for _, name := range files {
			text, err := os.ReadFile(filepath.Join(folder, name))
			if err != nil {
				t.Fatal(err)
			}
			for document := range bytes.SplitSeq(text, []byte("\n---\n")) {
				if !yield(folder+"/"+name, document) {
					return
				}
			}
		}
	}
}

// patched is a document with a strategic merge patch over it, if that is for
// its object.
func patched(t *testing.T, document, patch []byte) []byte {
	t.Helper()
	// A patch is strict, too: it is an object with some fields left out.
	if err := (&manifests{configs: map[string]corev1.ConfigMap{}}).add(patch); err != nil {
		t.Errorf("patch: %v", err)
	}
	var of, with map[string]any
	if err := errors.Join(yaml.UnmarshalStrict(document, &of), yaml.UnmarshalStrict(patch, &with)); err != nil {
		t.Fatal(err)
	}
	name := func(object map[string]any) any { return object["metadata"].(map[string]any)["name"] }
	if of["kind"] != with["kind"] || name(of) != name(with) {
		return document
	}
	text, err := yaml.Marshal(merge(of, with))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// merge is what kustomize makes of one value and that of a patch: mappings are
// joined field by field, lists of things that have a name or mountPath thing by
// thing, those of the patch first; all else is replaced.
func merge(old, patch any) any {
	switch p := patch.(type) {
	case map[string]any:
		o, ok := old.(map[string]any)
		if !ok {
			return patch
		}
		for k, v := range p {
			o[k] = merge(o[k], v)
		}
		return o
	case []any:
		o, ok := old.([]any)
		if !ok || len(p) == 0 || identity(p[0]) == "" {
			return patch
		}
		for i, v := range p {
			if at := slices.IndexFunc(o, func(x any) bool { return identity(x) == identity(v) }); at >= 0 {
				p[i] = merge(o[at], v)
				o = slices.Delete(o, at, at+1)
			}
		}
		return append(p, o...)
	}
	return patch
}

func identity(thing any) string {
	m, _ := thing.(map[string]any)
	for _, k := range []string{"mountPath", "name"} {
		if s, ok := m[k].(string); ok {
			return s
		}
	}
	return ""
}

func (m *manifests) add(document []byte) error {
	var kind struct{ Kind string }
	if err := yaml.Unmarshal(document, &kind); err != nil {
		return err
	}
	switch kind.Kind {
	case "StatefulSet":
		return decode(document, &m.set)
	case "Service":
		return decode(document, &m.service)
	case "Namespace":
		return decode(document, &m.namespace)
	case "ConfigMap":
		var c corev1.ConfigMap
		err := decode(document, &c)
		m.configs[c.Name] = c
		return err
	}
	return fmt.Errorf("kind %q: no test knows it", kind.Kind)
}

// decode is the API server's strict decoding: names of fields are compared
// exactly, where encoding/json would forgive their case.
func decode(document []byte, into any) error {
	text, err := yaml.YAMLToJSONStrict(document)
	if err != nil {
		return err
	}
	problems, err := json.UnmarshalStrict(text, into)
	return errors.Join(append(problems, err)...)
}

// kustomization is the kustomization.yaml of a folder.
type kustomization struct {
	APIVersion string
	Kind       string
	Namespace  string
	Labels     []struct{ Pairs map[string]string }
	Resources  []string
	Components []string
	Images     []struct{ Name, NewName, NewTag string }
	Replicas   []struct {
		Name  string
		Count int
	}
	Patches []struct{ Path, Patch string }
}

func kustomizationOf(t *testing.T, folder string) *kustomization {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(folder, "kustomization.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var k kustomization
	if err := yaml.UnmarshalStrict(text, &k); err != nil {
		t.Fatal(err)
	}
	return &k
}

func (k *kustomization) patches() (files []string) {
	for _, p := range k.Patches {
		files = append(files, p.Path)
	}
	return files
}

func (m *manifests) pod() *corev1.PodSpec { return &m.set.Spec.Template.Spec }

func (m *manifests) container(t *testing.T, name string) *corev1.Container {
	t.Helper()
	for _, list := range [][]corev1.Container{m.pod().InitContainers, m.pod().Containers} {
		if i := slices.IndexFunc(list, func(c corev1.Container) bool { return c.Name == name }); i >= 0 {
			return &list[i]
		}
	}
	t.Fatalf("no container %s", name)
	return nil
}

func (m *manifests) containers() []corev1.Container {
	return slices.Concat(m.pod().InitContainers, m.pod().Containers)
}

// flags are the --name=value of a command line, also inside a shell's word.
func flags(args []string) map[string]string {
	found := map[string]string{}
	for _, match := range regexp.MustCompile(`--([a-z-]+)=(\S+)`).FindAllStringSubmatch(strings.Join(args, " "), -1) {
		found[match[1]] = match[2]
	}
	return found
}

func TestEveryFileIsApplied(t *testing.T) {
	for folder, kind := range map[string]string{"base": "Kustomization", "redis": "Component", "writes": "Component"} {
		k := kustomizationOf(t, folder)
		if k.Kind != kind {
			t.Errorf("%s is a %s, want a %s", folder, k.Kind, kind)
		}
		files, err := filepath.Glob(folder + "/*")
		if err != nil {
			t.Fatal(err)
		}
		want := slices.Sorted(slices.Values(slices.Concat(k.Resources, k.patches())))
		var got []string
		for _, f := range files {
			if name := filepath.Base(f); name != "kustomization.yaml" {
				got = append(got, name)
			}
		}
		if !slices.Equal(got, want) || len(got) == 0 {
			t.Errorf("%s holds %v, its kustomization names %v", folder, got, want)
		}
	}
}

// TestStrict shows that the decoding refuses what an API server refuses.
func TestStrict(t *testing.T) {
	for name, document := range map[string]string{
		"an unknown field":    "kind: Service\nspec: {prots: []}\n",
		"a field in capitals": "kind: Service\nspec: {Ports: []}\n",
		"a field given twice": "kind: Service\nspec: {type: ClusterIP}\nspec: {}\n",
		"a wrong type":        "kind: Service\nspec: {ports: 80}\n",
		"an unknown kind":     "kind: Gateway\n",
	} {
		m := &manifests{}
		if err := m.add([]byte(document)); err == nil {
			t.Errorf("%s: no error, want one:\n%s", name, document)
		}
	}
}

func TestRestricted(t *testing.T) {
	variants(t, func(t *testing.T, m *manifests) {
		evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
		if err != nil {
			t.Fatal(err)
		}
		level := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
		refusals := func(spec *corev1.PodSpec) (why []string) {
			for _, r := range evaluator.EvaluatePod(level, &m.set.Spec.Template.ObjectMeta, spec) {
				if !r.Allowed {
					why = append(why, r.ForbiddenReason+": "+r.ForbiddenDetail)
				}
			}
			return why
		}
		if why := refusals(m.pod()); len(why) > 0 {
			t.Errorf("Pod Security restricted refuses the pod: %q", why)
		}
		loose := m.pod().DeepCopy()
		loose.InitContainers[1].SecurityContext.AllowPrivilegeEscalation = nil
		if why := refusals(loose); len(why) != 1 {
			t.Errorf("Pod Security restricted on a pod that may escalate = %q, want one refusal", why)
		}
		if got := m.namespace.Labels["pod-security.kubernetes.io/enforce"]; got != "restricted" {
			t.Errorf("the namespace enforces %q, want restricted", got)
		}
		for _, c := range m.containers() {
			if s := c.SecurityContext; s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
				t.Errorf("%s: the root file system can be written", c.Name)
			}
			if _, tag, found := strings.Cut(c.Image, ":"); !found || tag == "latest" {
				t.Errorf("%s: image %s, want a version", c.Name, c.Image)
			}
			if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() || c.Resources.Limits.Memory().IsZero() {
				t.Errorf("%s: resources %v, want requests and a memory limit", c.Name, c.Resources)
			}
		}
		if m.pod().AutomountServiceAccountToken == nil || *m.pod().AutomountServiceAccountToken {
			t.Error("the pod gets a service account token, want none: nothing here talks to the API server")
		}
	})
}

// snapshot compiles the ConfigMaps as airgate reads them.
func (m *manifests) snapshot(t *testing.T) *config.Snapshot {
	t.Helper()
	var text []byte
	for _, name := range slices.Sorted(maps.Keys(m.configs)) {
		one, err := yaml.Marshal(m.configs[name])
		if err != nil {
			t.Fatal(err)
		}
		text = append(append(text, "---\n"...), one...)
	}
	s, err := config.LoadBytes("configs", text, time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatalf("LoadBytes = %v, want no error", err)
	}
	return s
}

// TestQuota: airgate insists in Kubernetes that a store in memory is said to be
// alone, and divides what a budget allows without its store by what quota says.
func TestQuota(t *testing.T) {
	base := load(t)
	if q := base.snapshot(t).Quota; q != (config.Quota{Store: "memory", Replicas: 1}) || *base.set.Spec.Replicas != 1 {
		t.Errorf("base: quota = %+v with %d replicas, want it in memory, and said to be alone", q, *base.set.Spec.Replicas)
	}
	m := load(t, component(t, "redis")...)
	q := m.snapshot(t).Quota
	if !q.Shared() || !strings.HasPrefix(q.URL, "rediss://") || q.Replicas < 2 || q.Replicas != int(*m.set.Spec.Replicas) {
		t.Errorf("redis: quota = %+v with %d replicas, want a shared store with TLS for as many, more than one", q, *m.set.Spec.Replicas)
	}
	airgate := m.container(t, "airgate")
	mount := mounted(airgate, "quota")
	if mount.MountPath != path.Dir(q.PasswordFile) || !mount.ReadOnly {
		t.Errorf("redis: password file %s, want it in the read-only mount %v", q.PasswordFile, mount)
	}
	for _, name := range []string{"bootstrap", "envoy"} {
		if seen := mounted(m.container(t, name), "quota"); seen.MountPath != "" {
			t.Errorf("redis: %s sees the store's password, want airgate alone to", name)
		}
	}
	env := map[string]corev1.EnvVar{}
	for _, e := range airgate.Env {
		env[e.Name] = e
	}
	if from := env["POD_NAME"].ValueFrom; from == nil || from.FieldRef == nil || from.FieldRef.FieldPath != "metadata.name" {
		t.Errorf("redis: POD_NAME = %v, want the pod's name: it is the replica's", env["POD_NAME"])
	}
	if path.Dir(q.CAFile) != mount.MountPath {
		t.Errorf("redis: CA file %s, want it in the mount %v", q.CAFile, mount)
	}
	i := slices.IndexFunc(m.pod().Volumes, func(v corev1.Volume) bool { return v.Name == "quota" })
	if i < 0 || m.pod().Volumes[i].Secret == nil || m.pod().Volumes[i].Secret.Optional != nil {
		t.Error("redis: volume quota is not a Secret that must be there")
	}
	if s := m.pod().TopologySpreadConstraints; len(s) != 1 || !maps.Equal(s[0].LabelSelector.MatchLabels, m.set.Spec.Template.Labels) {
		t.Errorf("redis: spread = %v, want one over the pods of the StatefulSet", s)
	}
}

// TestWrites: with the token, airgate is started as base starts it, and takes
// writes from who has what its file says.
func TestWrites(t *testing.T) {
	m := load(t, component(t, "writes")...)
	base, airgate := load(t).container(t, "airgate"), m.container(t, "airgate")
	token := flags(airgate.Args)["admin-write-token"]
	if want := append(slices.Clone(base.Args), "--admin-write-token="+token); token == "" || !slices.Equal(airgate.Args, want) {
		t.Errorf("arguments = %q, want those of base and --admin-write-token", airgate.Args)
	}
	if mount := mounted(airgate, "write-token"); mount.MountPath != path.Dir(token) || !mount.ReadOnly {
		t.Errorf("token %s, want it in the read-only mount %v", token, mount)
	}
	for _, name := range []string{"bootstrap", "envoy"} {
		if seen := mounted(m.container(t, name), "write-token"); seen.MountPath != "" {
			t.Errorf("%s sees the token, want airgate alone to", name)
		}
	}
	i := slices.IndexFunc(m.pod().Volumes, func(v corev1.Volume) bool { return v.Name == "write-token" })
	secret := m.pod().Volumes[i].Secret
	guide, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	if want := "create secret generic " + secret.SecretName + " --from-literal=" + path.Base(token) + "="; !bytes.Contains(guide, []byte(want)) {
		t.Errorf("the guide does not say %q", want)
	}
}

// TestReadmeOverlays: what the guide tells to write fits what is here.
func TestReadmeOverlays(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(text, -1)
	if len(found) != 2 {
		t.Fatalf("the guide has %d overlays, want 2", len(found))
	}
	for _, overlay := range found {
		var k kustomization
		if err := yaml.UnmarshalStrict(overlay[1], &k); err != nil {
			t.Fatalf("%v in:\n%s", err, overlay[1])
		}
		var patches [][]byte
		for _, c := range k.Components {
			patches = append(patches, component(t, path.Base(c))...)
		}
		for _, p := range k.Patches {
			patches = append(patches, []byte(p.Patch))
		}
		m := load(t, patches...)
		if len(k.Resources) != 1 || path.Base(k.Resources[0]) != "base" || m.container(t, "airgate").Image != k.Images[0].Name+":"+k.Images[0].NewTag {
			t.Errorf("resources = %v, images = %v, want base and its image", k.Resources, k.Images)
		}
		most := m.snapshot(t).Quota.Replicas
		for _, r := range k.Replicas {
			if r.Name != m.set.Name || r.Count > most {
				t.Errorf("replicas = %+v, want at most %d of %s", r, most, m.set.Name)
			}
		}
	}
}

// TestConfigCompiles reads the ConfigMaps as airgate does and builds Envoy's
// bootstrap as the init container does.
func TestConfigCompiles(t *testing.T) {
	variants(t, func(t *testing.T, m *manifests) {
		snapshot := m.snapshot(t)
		f := flags(m.container(t, "bootstrap").Args)
		b, err := xds.Build(xds.Options{Snapshot: snapshot, Listen: f["listen"], ExtProc: f["extproc"]})
		if err != nil {
			t.Fatalf("Build = %v, want no error", err)
		}
		listen := b.GetStaticResources().GetListeners()[0].GetAddress().GetSocketAddress()
		if got := m.container(t, "envoy").Ports[0]; got.Name != "http" || uint32(got.ContainerPort) != listen.GetPortValue() || listen.GetAddress() != "0.0.0.0" {
			t.Errorf("Envoy's port is %v, its listener %v", got, listen)
		}
		mount := mounted(m.container(t, "envoy"), "credentials")
		for _, p := range snapshot.Providers {
			if path.Dir(p.CredentialFile) != mount.MountPath || !mount.ReadOnly {
				t.Errorf("provider %s: credential %s, want it in Envoy's read-only mount %v", p.Name, p.CredentialFile, mount)
			}
		}
		for _, name := range []string{"bootstrap", "airgate"} {
			if mount := mounted(m.container(t, name), "credentials"); mount.MountPath != "" {
				t.Errorf("%s sees the providers' credentials, want Envoy alone to", name)
			}
		}
	})
}

func mounted(c *corev1.Container, volume string) corev1.VolumeMount {
	for _, m := range c.VolumeMounts {
		if m.Name == volume {
			return m
		}
	}
	return corev1.VolumeMount{}
}

func TestSidecar(t *testing.T) {
	variants(t, func(t *testing.T, m *manifests) {
		first, second := m.pod().InitContainers[0], m.pod().InitContainers[1]
		if first.Name != "bootstrap" || first.RestartPolicy != nil || len(m.pod().InitContainers) != 2 {
			t.Errorf("first init container = %s, want bootstrap, which ends", first.Name)
		}
		if second.Name != "airgate" || second.RestartPolicy == nil || *second.RestartPolicy != corev1.ContainerRestartPolicyAlways {
			t.Errorf("second init container = %s, want airgate as a native sidecar", second.Name)
		}
		if len(m.pod().Containers) != 1 || m.pod().Containers[0].Name != "envoy" {
			t.Errorf("containers = %v, want envoy alone", m.pod().Containers)
		}
		if second.StartupProbe == nil || second.Lifecycle != nil {
			t.Error("airgate: want a startup probe, which holds Envoy back, and no preStop: it stops after Envoy anyway")
		}
		if m.pod().SecurityContext.RunAsUser == nil {
			t.Error("the pod has no runAsUser: Envoy's admin socket is for one user only")
		}
		if m.set.Spec.ServiceName != m.service.Name || m.set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement {
			t.Errorf("service %q, pod management %q, want %q and Parallel", m.set.Spec.ServiceName, m.set.Spec.PodManagementPolicy, m.service.Name)
		}
	})
}

func TestPathsAgree(t *testing.T) {
	variants(t, func(t *testing.T, m *manifests) {
		bootstrap, airgate, envoy := m.container(t, "bootstrap"), m.container(t, "airgate"), m.container(t, "envoy")
		b, s := flags(bootstrap.Args), flags(airgate.Args)
		for _, name := range []string{"config", "extproc"} {
			if b[name] == "" || b[name] != s[name] {
				t.Errorf("--%s is %q for the bootstrap and %q for serve", name, b[name], s[name])
			}
		}
		for _, at := range []struct {
			of     *corev1.Container
			volume string
			folder string
			write  bool
		}{
			{bootstrap, "config", b["config"], false},
			{bootstrap, "run", "/run/airgate", true},
			{airgate, "config", s["config"], false},
			{airgate, "data", s["data"], true},
			{airgate, "run", path.Dir(strings.TrimPrefix(s["extproc"], "unix://")), true},
			{envoy, "run", path.Dir(strings.TrimPrefix(s["extproc"], "unix://")), true},
			{envoy, "run", path.Dir(xds.AdminSocket(s["extproc"])), true},
		} {
			if got := mounted(at.of, at.volume); got.MountPath != at.folder || got.ReadOnly == at.write {
				t.Errorf("%s mounts %s as %+v, want it at %s, writable: %v", at.of.Name, at.volume, got, at.folder, at.write)
			}
		}
		_, written, found := strings.Cut(bootstrap.Args[0], " >")
		if i := slices.Index(envoy.Args, "--config-path"); !found || i < 0 || envoy.Args[i+1] != written {
			t.Errorf("the bootstrap is written to %q, Envoy's arguments are %q", written, envoy.Args)
		}
		claims := m.set.Spec.VolumeClaimTemplates
		if len(claims) != 1 || claims[0].Name != "data" || m.set.Spec.PersistentVolumeClaimRetentionPolicy != nil {
			t.Errorf("claims = %v, want data alone, which outlives the StatefulSet", claims)
		}
		defined := map[string]corev1.Volume{"data": {}}
		for _, v := range m.pod().Volumes {
			defined[v.Name] = v
		}
		used := map[string]bool{}
		for _, c := range m.containers() {
			for _, v := range c.VolumeMounts {
				used[v.Name] = true
				if v.SubPath != "" {
					t.Errorf("%s mounts %s with subPath: it would never change", c.Name, v.Name)
				}
			}
		}
		if got, want := slices.Sorted(maps.Keys(used)), slices.Sorted(maps.Keys(defined)); !slices.Equal(got, want) {
			t.Errorf("volumes mounted = %v, defined = %v", got, want)
		}
		if run := defined["run"].EmptyDir; run == nil || run.Medium != corev1.StorageMediumMemory || run.SizeLimit == nil {
			t.Errorf("volume run = %v, want a bounded folder in memory", defined["run"])
		}
	})
}

// TestConfigIsOneVolume: several volumes would change one after the other.
func TestConfigIsOneVolume(t *testing.T) {
	variants(t, func(t *testing.T, m *manifests) {
		i := slices.IndexFunc(m.pod().Volumes, func(v corev1.Volume) bool { return v.Name == "config" })
		if i < 0 || m.pod().Volumes[i].Projected == nil {
			t.Fatal("no projected volume config")
		}
		var projected []string
		for _, s := range m.pod().Volumes[i].Projected.Sources {
			switch {
			case s.ConfigMap != nil:
				projected = append(projected, s.ConfigMap.Name)
			case s.Secret == nil || s.Secret.Name != "airgate-keys" || s.Secret.Optional == nil || !*s.Secret.Optional:
				t.Errorf("source %v, want the ConfigMaps and the optional Secret airgate-keys", s)
			}
		}
		slices.Sort(projected)
		if got := slices.Sorted(maps.Keys(m.configs)); !slices.Equal(got, projected) {
			t.Errorf("ConfigMaps of base = %v, projected = %v", got, projected)
		}
		files := map[string]string{}
		for name, c := range m.configs {
			for file := range c.Data {
				if other, twice := files[file]; twice {
					t.Errorf("%s is in %s and in %s", file, other, name)
				}
				files[file] = name
			}
		}
	})
}

func TestPortsAgree(t *testing.T) {
	variants(t, func(t *testing.T, m *manifests) {
		ports := map[string]int32{}
		for _, c := range m.containers() {
			for _, p := range c.Ports {
				ports[p.Name] = p.ContainerPort
			}
		}
		ops, err := netip.ParseAddrPort(flags(m.container(t, "airgate").Args)["ops"])
		if err != nil || int32(ops.Port()) != ports["ops"] || !ops.Addr().IsUnspecified() {
			t.Errorf("--ops = %v (%v), want the port ops, %d, on all addresses: the kubelet asks from outside", ops, err, ports["ops"])
		}
		airgate := m.container(t, "airgate")
		for name, p := range map[string]*corev1.Probe{"startup": airgate.StartupProbe, "readiness": airgate.ReadinessProbe, "liveness": airgate.LivenessProbe} {
			want := "/readyz"
			if name == "liveness" {
				want = "/livez" // never depends on a sink, a store or a provider
			}
			if p == nil || p.HTTPGet == nil || p.HTTPGet.Port.StrVal != "ops" || p.HTTPGet.Path != want || p.FailureThreshold < 2 {
				t.Errorf("%s probe = %v, want %s on ops, more than once", name, p, want)
			}
		}
		if s := m.service.Spec; len(s.Ports) != 1 || s.Ports[0].TargetPort.StrVal != "http" || ports["http"] == 0 {
			t.Errorf("service ports = %v, want http alone: ops is for the cluster's own", s.Ports)
		}
		if got, want := m.service.Spec.Selector, m.set.Spec.Template.Labels; !maps.Equal(got, want) || !maps.Equal(m.set.Spec.Selector.MatchLabels, want) {
			t.Errorf("selectors = %v, %v, want the pod's labels %v", got, m.set.Spec.Selector.MatchLabels, want)
		}
	})
}

// TestGraceAddsUp: what does not fit is killed.
func TestGraceAddsUp(t *testing.T) {
	variants(t, func(t *testing.T, m *manifests) {
		drain, err := time.ParseDuration(flags(m.container(t, "airgate").Args)["drain"])
		if err != nil {
			t.Fatal(err)
		}
		stop := time.Duration(m.container(t, "envoy").Lifecycle.PreStop.Sleep.Seconds) * time.Second
		const margin = 15 * time.Second
		if got, want := time.Duration(*m.pod().TerminationGracePeriodSeconds)*time.Second, stop+drain+margin; got != want {
			t.Errorf("terminationGracePeriodSeconds = %v, want %v: Envoy's preStop %v, airgate's drain %v and %v", got, want, stop, drain, margin)
		}
	})
}

// TestMemoryLimit: Go must feel the limit before the kernel does.
func TestMemoryLimit(t *testing.T) {
	c := load(t).container(t, "airgate")
	i := slices.IndexFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == "GOMEMLIMIT" })
	if i < 0 {
		t.Fatal("no GOMEMLIMIT")
	}
	var mebibytes int64
	if _, err := fmt.Sscanf(c.Env[i].Value, "%dMiB", &mebibytes); err != nil {
		t.Fatalf("GOMEMLIMIT = %q: %v", c.Env[i].Value, err)
	}
	if limit := c.Resources.Limits.Memory().Value(); mebibytes<<20*10 > limit*9 {
		t.Errorf("GOMEMLIMIT = %s, want at most nine tenths of %d bytes", c.Env[i].Value, limit)
	}
}

// build makes the airgate that the manifests start.
func build(t *testing.T) (binary string) {
	t.Helper()
	binary = filepath.Join(t.TempDir(), "airgate")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "airgate/cmd/airgate").CombinedOutput(); err != nil {
		t.Fatalf("build airgate: %v\n%s", err, out)
	}
	return binary
}

// TestKeysAreAdded: one key more, made and merged as the guide says, leaves those
// there are, and the Secret is a file of the config for each.
func TestKeysAreAdded(t *testing.T) {
	guide, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?s)airgate (keys create [^|\n]*-o secret) \|\s+kubectl -n airgate patch secret ([a-z-]+) --type merge --patch-file /dev/stdin`).FindSubmatch(guide)
	if found == nil {
		t.Fatal("the guide does not say how a key is merged into the Secret")
	}
	binary, m := build(t), load(t)
	var secret any = map[string]any{}
	for _, name := range []string{"laptop", "robot"} {
		key := exec.CommandContext(t.Context(), binary, strings.Fields(strings.Replace(string(found[1]), "laptop", name, 1))...)
		key.Dir = t.TempDir()
		out, err := key.Output()
		if err != nil {
			t.Fatalf("airgate %s: %v", found[1], err)
		}
		var one map[string]any
		if err := yaml.UnmarshalStrict(out, &one); err != nil {
			t.Fatal(err)
		}
		secret = merge(secret, one)
	}
	text, err := yaml.Marshal(secret)
	if err != nil {
		t.Fatal(err)
	}
	var s corev1.Secret
	if err := decode(text, &s); err != nil || s.Name != string(found[2]) || len(s.StringData) != 2 {
		t.Errorf("Secret = %s (%v), want %s with two entries", text, err, found[2])
	}
	files := corev1.ConfigMap{ObjectMeta: s.ObjectMeta, Data: s.StringData} // as the volume shows them
	files.APIVersion, files.Kind = "v1", "ConfigMap"
	m.configs[s.Name] = files
	for _, name := range []string{"laptop", "robot"} {
		if !strings.Contains(string(text), "name: "+name) {
			t.Errorf("Secret = %s, want the key %s in it", text, name)
		}
	}
	if !m.snapshot(t).HasKeys {
		t.Error("the config has no keys, want those of the Secret")
	}
}

// TestFlagsExist asks the airgate that the manifests start.
func TestFlagsExist(t *testing.T) {
	binary := build(t)
	m := load(t, component(t, "writes")...)
	for command, used := range map[string]map[string]string{
		"envoy bootstrap": flags(m.container(t, "bootstrap").Args),
		"serve":           flags(m.container(t, "airgate").Args),
	} {
		help, err := exec.CommandContext(t.Context(), binary, append(strings.Fields(command), "--help")...).CombinedOutput()
		if err != nil {
			t.Fatalf("airgate %s --help: %v\n%s", command, err, help)
		}
		for name := range used {
			if !regexp.MustCompile(`(?m)^\s+(-\w, )?--` + name + ` `).Match(help) {
				t.Errorf("airgate %s has no --%s:\n%s", command, name, help)
			}
		}
		if len(used) == 0 {
			t.Errorf("airgate %s: no flags found", command)
		}
	}
}
