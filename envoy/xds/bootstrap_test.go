package xds

import (
	"bytes"
	"flag"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	headersv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/anypb"

	"airgate/policy/config"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func parsed(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// shortest is the provider of the shortest useful configuration.
func shortest(t *testing.T) *config.Snapshot {
	return &config.Snapshot{
		MaxBodyBytes: 32 << 20,
		Providers: []config.Provider{{
			Name: "openai", Dialect: "openai", URL: parsed(t, "https://api.openai.com"),
			CredentialEnv: "OPENAI_API_KEY", Header: "authorization", Prefix: "Bearer ",
		}},
	}
}

// pair is the providers of the full configuration.
func pair(t *testing.T) *config.Snapshot {
	return &config.Snapshot{
		MaxBodyBytes: 32 << 20,
		Providers: []config.Provider{
			{
				Name: "anthropic", Dialect: "anthropic", URL: parsed(t, "https://api.anthropic.com"),
				CredentialFile: "/etc/airgate/secrets/anthropic", Header: "x-api-key",
			},
			{
				Name: "openai", Dialect: "openai", URL: parsed(t, "https://api.openai.com"),
				CredentialFile: "/etc/airgate/secrets/openai", Header: "authorization", Prefix: "Bearer ",
			},
		},
	}
}

// unusual takes every branch that shortest and pair do not.
func unusual(t *testing.T) *config.Snapshot {
	return &config.Snapshot{
		MaxBodyBytes: 1 << 20,
		Providers: []config.Provider{
			{Name: "by-address", Dialect: "openai", URL: parsed(t, "http://127.0.0.1:9000/base"), CredentialFile: "/run/k/a", Header: "api-key", Insecure: true},
			{Name: "by-ipv6", Dialect: "openai", URL: parsed(t, "https://[::1]:9443"), CredentialFile: "/run/k/b", Header: "authorization", Prefix: "Bearer ", CAFile: "/run/k/ca.pem"},
			{Name: "plain-name", Dialect: "anthropic", URL: parsed(t, "http://localhost:9001"), CredentialFile: "/run/k/c", Header: "x-api-key"},
			{Name: "port", Dialect: "openai", URL: parsed(t, "https://gateway.example:8443/v2"), CredentialFile: "/run/k/d", Header: "authorization", Prefix: "Token 100% ", ConnectTimeout: time.Second, IdleTimeout: time.Minute},
		},
	}
}

func options(s *config.Snapshot) Options {
	return Options{Snapshot: s, Listen: "127.0.0.1:8080", ExtProc: "unix:///run/airgate/extproc.sock", AllowEnv: true}
}

func mustBuild(t *testing.T, o Options) *bootstrapv3.Bootstrap {
	t.Helper()
	b, err := Build(o)
	if err != nil {
		t.Fatalf("Build = %v, want no error", err)
	}
	return b
}

func mustJSON(t *testing.T, b *bootstrapv3.Bootstrap) []byte {
	t.Helper()
	j, err := JSON(b)
	if err != nil {
		t.Fatalf("JSON = %v, want no error", err)
	}
	return j
}

func snapshots(t *testing.T) map[string]*config.Snapshot {
	return map[string]*config.Snapshot{"shortest": shortest(t), "pair": pair(t), "unusual": unusual(t), "none": {}}
}

func TestGolden(t *testing.T) {
	for _, name := range []string{"shortest", "pair"} {
		t.Run(name, func(t *testing.T) {
			got := mustJSON(t, mustBuild(t, options(snapshots(t)[name])))
			file := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("JSON differs from %s (rewrite with -update), -want +got:\n%s", file, diff)
			}
		})
	}
}

func TestJSONIsStable(t *testing.T) {
	first := mustJSON(t, mustBuild(t, options(pair(t))))
	for range 20 {
		if again := mustJSON(t, mustBuild(t, options(pair(t)))); !bytes.Equal(first, again) {
			t.Fatalf("JSON of the same options differs:\n%s", cmp.Diff(string(first), string(again)))
		}
	}
	var back bootstrapv3.Bootstrap
	if err := protojson.Unmarshal(first, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(mustBuild(t, options(pair(t))), &back, protocmp.Transform()); diff != "" {
		t.Errorf("JSON read back differs from what was built, -want +got:\n%s", diff)
	}
}

func TestProtosKeepTheirOwnRules(t *testing.T) {
	for name, s := range snapshots(t) {
		if err := mustBuild(t, options(s)).ValidateAll(); err != nil {
			t.Errorf("%s: ValidateAll = %v, want nil", name, err)
		}
	}
}

func TestBuildErrors(t *testing.T) {
	long := "unix:///" + strings.Repeat("a", 107)
	tests := map[string]struct {
		edit func(*Options)
		want []string
	}{
		"a listener needs an address": {func(o *Options) { o.Listen = "localhost:8080" }, []string{`listen "localhost:8080": want ip:port`}},
		"a listener needs a port":     {func(o *Options) { o.Listen = "127.0.0.1" }, []string{`listen "127.0.0.1": want ip:port`}},
		"airgate is on a socket":      {func(o *Options) { o.ExtProc = "127.0.0.1:9000" }, []string{`extproc "127.0.0.1:9000": want unix://`}},
		"of absolute path":            {func(o *Options) { o.ExtProc = "unix://x.sock" }, []string{`extproc "unix://x.sock": want unix://`}},
		"and of a length Linux takes": {func(o *Options) { o.ExtProc, o.Admin = long, "127.0.0.1:0" }, []string{"has 108 bytes, a Unix socket takes 107"}},
		"admin is never public":       {func(o *Options) { o.Admin = "0.0.0.0:9900" }, []string{`admin "0.0.0.0:9900": Envoy's admin interface has no password`}},
		"admin must parse":            {func(o *Options) { o.Admin = "9900" }, []string{`admin "9900": want ip:port`}},
		"env needs leave":             {func(o *Options) { o.AllowEnv = false }, []string{`provider "openai": credential: {env: OPENAI_API_KEY} works only where airgate starts Envoy`}},
		"no credential":               {func(o *Options) { o.Snapshot.Providers[0].CredentialEnv = "" }, []string{`provider "openai": no credential`}},
		"a relative credential": {func(o *Options) { o.Snapshot.Providers[0].CredentialFile = "secrets/openai" }, []string{
			`provider "openai": credential file "secrets/openai": want an absolute path`,
		}},
		"a credential that is no plain path": {func(o *Options) { o.Snapshot.Providers[0].CredentialFile = "/a:b" }, []string{
			`provider "openai": credential file "/a:b": want an absolute path without any of`,
		}},
		"every problem is told": {func(o *Options) { o.Listen, o.ExtProc, o.Admin, o.AllowEnv = "", "", "x", false }, []string{
			`listen ""`, `extproc ""`, `admin "x"`, `provider "openai"`,
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			o := options(shortest(t))
			test.edit(&o)
			b, err := Build(o)
			if err == nil || b != nil {
				t.Fatalf("Build = %v, %v, want nil and an error", b, err)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Build error = %q, want it to contain %q", err, want)
				}
			}
		})
	}
}

func TestAdminSocket(t *testing.T) {
	for in, want := range map[string]string{
		"unix:///run/airgate/extproc.sock": "/run/airgate/envoy.sock",
		"unix:///x.sock":                   "/envoy.sock",
	} {
		if got := AdminSocket(in); got != want {
			t.Errorf("AdminSocket(%q) = %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{"": "/run/airgate/envoy.sock", "unix:///a/b": "/a/b"} {
		o := options(shortest(t))
		o.Admin = in
		p := mustBuild(t, o).GetAdmin().GetAddress().GetPipe()
		if p.GetPath() != want || p.GetMode() != 0o600 {
			t.Errorf("Build with Admin %q: admin = %v, want the pipe %s of mode 0600", in, p, want)
		}
	}
	o := options(shortest(t))
	o.Admin = "[::1]:9900"
	if a := mustBuild(t, o).GetAdmin().GetAddress().GetSocketAddress(); a.GetAddress() != "::1" || a.GetPortValue() != 9900 {
		t.Errorf("Build with Admin %q: admin = %v", o.Admin, a)
	}
}

// TestModes fixes what the ext_proc server compares protocol_config with and
// what its overrides must say.
func TestModes(t *testing.T) {
	p := filter(t, mustBuild(t, options(pair(t))))
	if diff := cmp.Diff(ProcessingMode(), p.GetProcessingMode(), protocmp.Transform()); diff != "" {
		t.Errorf("processing_mode, -want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]*extprocv3.ProcessingMode{DuplexMode(), BufferedMode()}, p.GetAllowedOverrideModes(), protocmp.Transform()); diff != "" {
		t.Errorf("allowed_override_modes, -want +got:\n%s", diff)
	}
	for name, m := range map[string]*extprocv3.ProcessingMode{"ProcessingMode": ProcessingMode(), "DuplexMode": DuplexMode(), "BufferedMode": BufferedMode()} {
		if got := m.GetRequestBodyMode(); got != extprocv3.ProcessingMode_BUFFERED {
			t.Errorf("%s: request_body_mode = %v, want BUFFERED: anything else lets bytes pass unseen", name, got)
		}
		if got := m.GetResponseBodyMode(); got == extprocv3.ProcessingMode_NONE || got == extprocv3.ProcessingMode_BUFFERED_PARTIAL {
			t.Errorf("%s: response_body_mode = %v, want every byte to be seen", name, got)
		}
	}
	if m := DuplexMode(); m.GetResponseTrailerMode() != extprocv3.ProcessingMode_SEND {
		t.Errorf("DuplexMode: response_trailer_mode = %v, want SEND: Envoy refuses the mode otherwise", m.GetResponseTrailerMode())
	}
}

// TestInvariants holds for every snapshot: the walls of the package comment.
func TestInvariants(t *testing.T) {
	for name, s := range snapshots(t) {
		t.Run(name, func(t *testing.T) {
			b := mustBuild(t, options(s))
			m := manager(t, b)

			t.Run("the filter fails closed", func(t *testing.T) {
				p := filter(t, b)
				switch {
				case p.GetFailureModeAllow():
					t.Error("failure_mode_allow = true, want false")
				case p.GetObservabilityMode():
					t.Error("observability_mode = true, want false")
				case p.GetDisableImmediateResponse():
					t.Error("disable_immediate_response = true, want false")
				case p.GetSendBodyWithoutWaitingForHeaderResponse():
					t.Error("send_body_without_waiting_for_header_response = true, want false: it kills overrides")
				case !p.GetAllowModeOverride():
					t.Error("allow_mode_override = false, want true")
				case !p.GetMutationRules().GetDisallowIsError().GetValue():
					t.Error("disallow_is_error = false, want true")
				case p.GetMessageTimeout().AsDuration() != MessageTimeout:
					t.Errorf("message_timeout = %v, want %v", p.GetMessageTimeout().AsDuration(), MessageTimeout)
				case p.GetMaxMessageTimeout() != nil:
					t.Errorf("max_message_timeout = %v, want none", p.GetMaxMessageTimeout())
				}
				if got := p.GetMetadataOptions().GetReceivingNamespaces().GetUntyped(); len(got) != 1 || got[0] != MetadataNamespace {
					t.Errorf("receiving namespaces = %v, want only %s", got, MetadataNamespace)
				}
			})
			t.Run("nothing goes around the filter", func(t *testing.T) {
				if f := m.GetHttpFilters(); len(f) != 2 || f[0].GetName() != processorFilterName || f[1].GetName() != "envoy.filters.http.router" {
					t.Errorf("http_filters = %v, want ext_proc and the router", f)
				}
				for _, f := range m.GetHttpFilters() {
					if f.GetDisabled() || f.GetIsOptional() {
						t.Errorf("filter %s: disabled or optional, want neither", f.GetName())
					}
				}
				if len(m.GetUpgradeConfigs()) != 0 {
					t.Errorf("upgrade_configs = %v, want none", m.GetUpgradeConfigs())
				}
				if n := len(b.GetStaticResources().GetListeners()); n != 1 {
					t.Errorf("%d listeners, want 1", n)
				}
				for _, c := range configs(host(t, b)) {
					if len(c) != 0 {
						t.Errorf("typed_per_filter_config = %v, want none", c)
					}
				}
			})
			t.Run("a provider's route needs header and metadata, all else is refused", func(t *testing.T) {
				routes := host(t, b).GetRoutes()
				if len(routes) != len(s.Providers)+1 {
					t.Fatalf("%d routes, want %d and the refusal", len(routes), len(s.Providers))
				}
				for i, p := range s.Providers {
					r := routes[i]
					h, d := r.GetMatch().GetHeaders(), r.GetMatch().GetDynamicMetadata()
					if len(h) != 1 || h[0].GetName() != UpstreamHeader || h[0].GetStringMatch().GetExact() != p.Name || h[0].GetInvertMatch() || h[0].GetTreatMissingHeaderAsEmpty() {
						t.Errorf("route of %s: headers = %v, want %s: %s", p.Name, h, UpstreamHeader, p.Name)
					}
					if len(d) != 1 || d[0].GetFilter() != MetadataNamespace || len(d[0].GetPath()) != 1 || d[0].GetPath()[0].GetKey() != DecisionKey ||
						d[0].GetValue().GetStringMatch().GetExact() != DecisionAllow || d[0].GetInvert() {
						t.Errorf("route of %s: dynamic_metadata = %v, want %s.%s = %s", p.Name, d, MetadataNamespace, DecisionKey, DecisionAllow)
					}
				}
				if last := routes[len(routes)-1].GetRoute().GetCluster(); last != refused {
					t.Errorf("last route leads to %q, want %q", last, refused)
				}
				for _, c := range b.GetStaticResources().GetClusters() {
					if c.GetName() == refused && (c.GetType() != clusterv3.Cluster_STATIC || len(c.GetLoadAssignment().GetEndpoints()) != 0) {
						t.Errorf("cluster %s = %v, want a static one without a host", refused, c)
					}
				}
			})
			t.Run("streams may last an hour and are not begun twice", func(t *testing.T) {
				for i, p := range s.Providers {
					a := host(t, b).GetRoutes()[i].GetRoute()
					if a.GetTimeout() == nil || a.GetTimeout().AsDuration() != 0 {
						t.Errorf("route of %s: timeout = %v, want 0", p.Name, a.GetTimeout())
					}
					if got := a.GetMaxStreamDuration().GetMaxStreamDuration().AsDuration(); got <= time.Hour {
						t.Errorf("route of %s: max_stream_duration = %v, want more than an hour", p.Name, got)
					}
					if diff := cmp.Diff(retryUnbilled(), a.GetRetryPolicy(), protocmp.Transform()); diff != "" {
						t.Errorf("route of %s: retry policy, -want +got:\n%s", p.Name, diff)
					}
				}
			})
			t.Run("callers' headers", func(t *testing.T) {
				if got := host(t, b).GetRequestHeadersToRemove()[0]; got != UpstreamHeader {
					t.Errorf("request_headers_to_remove begins with %s, want %s", got, UpstreamHeader)
				}
				if got := len(m.GetEarlyHeaderMutationExtensions()); got != 1 {
					t.Errorf("%d early header mutations, want 1", got)
				}
			})
			t.Run("the body limit lies above airgate's own", func(t *testing.T) {
				if got := host(t, b).GetRequestBodyBufferLimit().GetValue(); got <= uint64(s.MaxBodyBytes) {
					t.Errorf("request_body_buffer_limit = %d, want more than %d", got, s.MaxBodyBytes)
				}
			})
			t.Run("breakers do not cap streams", func(t *testing.T) {
				for _, c := range b.GetStaticResources().GetClusters() {
					for _, th := range c.GetCircuitBreakers().GetThresholds() {
						if th.GetMaxRequests().GetValue() < maxStreams || th.GetMaxPendingRequests().GetValue() < maxStreams {
							t.Errorf("cluster %s: thresholds = %v, want at least %d requests", c.GetName(), th, maxStreams)
						}
						if th.GetRetryBudget() == nil && th.GetMaxRetries().GetValue() < 1000 {
							t.Errorf("cluster %s: max_retries = %v, want a budget or 1000", c.GetName(), th.GetMaxRetries())
						}
					}
					if len(c.GetCircuitBreakers().GetThresholds()) == 0 && c.GetName() != refused {
						t.Errorf("cluster %s: no circuit breakers, so Envoy's defaults of 1024", c.GetName())
					}
				}
			})
		})
	}
}

func TestProviderCluster(t *testing.T) {
	type facts struct {
		kind                    string
		address                 string
		port                    uint32
		hostname                string
		sni, san, ca            string
		header, credential      string
		connect, idle           time.Duration
		negotiated, authorities bool
	}
	tests := map[string]facts{
		"by-address": {kind: "STATIC", address: "127.0.0.1", port: 9000, hostname: "127.0.0.1:9000", header: "api-key", credential: "%FILE_CONTENT(/run/k/a:/run/k)%", connect: 5 * time.Second, idle: 15 * time.Minute},
		"by-ipv6": {
			kind: "STATIC", address: "::1", port: 9443, hostname: "[::1]:9443", san: "IP_ADDRESS ::1", ca: "/run/k/ca.pem",
			header: "authorization", credential: "Bearer %FILE_CONTENT(/run/k/b:/run/k)%", connect: 5 * time.Second, idle: 15 * time.Minute, negotiated: true, authorities: true,
		},
		"plain-name": {kind: "envoy.clusters.dns", address: "localhost", port: 9001, hostname: "localhost:9001", header: "x-api-key", credential: "%FILE_CONTENT(/run/k/c:/run/k)%", connect: 5 * time.Second, idle: 15 * time.Minute},
		"port": {
			kind: "envoy.clusters.dns", address: "gateway.example", port: 8443, hostname: "gateway.example:8443", sni: "gateway.example", san: "DNS gateway.example", ca: DefaultCAFile,
			header: "authorization", credential: "Token 100%% %FILE_CONTENT(/run/k/d:/run/k)%", connect: time.Second, idle: time.Minute, negotiated: true, authorities: true,
		},
	}
	b := mustBuild(t, options(unusual(t)))
	for name, want := range tests {
		t.Run(name, func(t *testing.T) {
			c := cluster(t, b, "provider_"+name)
			endpoint := c.GetLoadAssignment().GetEndpoints()[0].GetLbEndpoints()[0].GetEndpoint()
			got := facts{
				kind: c.GetType().String(), hostname: endpoint.GetHostname(), connect: c.GetConnectTimeout().AsDuration(),
				address: endpoint.GetAddress().GetSocketAddress().GetAddress(), port: endpoint.GetAddress().GetSocketAddress().GetPortValue(),
			}
			if c.GetClusterType() != nil {
				got.kind = c.GetClusterType().GetName()
			}
			var o httpv3.HttpProtocolOptions
			unwrap(t, c.GetTypedExtensionProtocolOptions()["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"], &o)
			got.negotiated = o.GetAutoConfig() != nil
			var headers headersv3.HeaderMutation
			unwrap(t, o.GetHttpFilters()[0].GetTypedConfig(), &headers)
			set := headers.GetMutations().GetRequestMutations()[0].GetAppend()
			if set.GetAppendAction() != corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD {
				t.Errorf("credential: append_action = %v, want OVERWRITE_IF_EXISTS_OR_ADD", set.GetAppendAction())
			}
			got.header, got.credential = set.GetHeader().GetKey(), set.GetHeader().GetValue()
			if n := len(o.GetHttpFilters()); n != 2 || o.GetHttpFilters()[1].GetName() != "envoy.filters.http.upstream_codec" {
				t.Errorf("upstream filters = %v, want the codec last", o.GetHttpFilters())
			}
			if c.GetTransportSocket() != nil {
				var tls tlsv3.UpstreamTlsContext
				unwrap(t, c.GetTransportSocket().GetTypedConfig(), &tls)
				v := tls.GetCommonTlsContext().GetValidationContext()
				s := v.GetMatchTypedSubjectAltNames()[0]
				got.sni, got.san, got.ca, got.authorities = tls.GetSni(), s.GetSanType().String()+" "+s.GetMatcher().GetExact(), v.GetTrustedCa().GetFilename(), true
			}
			for _, r := range host(t, b).GetRoutes() {
				if r.GetRoute().GetCluster() == c.GetName() {
					got.idle = r.GetRoute().GetIdleTimeout().AsDuration()
				}
			}
			if got != want {
				t.Errorf("provider %s = %+v, want %+v", name, got, want)
			}
		})
	}
}

func manager(t *testing.T, b *bootstrapv3.Bootstrap) *hcmv3.HttpConnectionManager {
	t.Helper()
	var m hcmv3.HttpConnectionManager
	unwrap(t, b.GetStaticResources().GetListeners()[0].GetFilterChains()[0].GetFilters()[0].GetTypedConfig(), &m)
	return &m
}

func filter(t *testing.T, b *bootstrapv3.Bootstrap) *extprocv3.ExternalProcessor {
	t.Helper()
	var p extprocv3.ExternalProcessor
	unwrap(t, manager(t, b).GetHttpFilters()[0].GetTypedConfig(), &p)
	return &p
}

func host(t *testing.T, b *bootstrapv3.Bootstrap) *routev3.VirtualHost {
	t.Helper()
	hosts := manager(t, b).GetRouteConfig().GetVirtualHosts()
	if len(hosts) != 1 {
		t.Fatalf("%d virtual hosts, want 1", len(hosts))
	}
	return hosts[0]
}

func configs(h *routev3.VirtualHost) []map[string]*anypb.Any {
	all := []map[string]*anypb.Any{h.GetTypedPerFilterConfig()}
	for _, r := range h.GetRoutes() {
		all = append(all, r.GetTypedPerFilterConfig())
	}
	return all
}

func cluster(t *testing.T, b *bootstrapv3.Bootstrap, name string) *clusterv3.Cluster {
	t.Helper()
	for _, c := range b.GetStaticResources().GetClusters() {
		if c.GetName() == name {
			return c
		}
	}
	t.Fatalf("no cluster %s", name)
	return nil
}

func unwrap(t *testing.T, a *anypb.Any, m proto.Message) {
	t.Helper()
	if err := a.UnmarshalTo(m); err != nil {
		t.Fatal(err)
	}
}
