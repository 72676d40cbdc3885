package xds

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	familyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/common/dns/v3"
	dnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"
	headersv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	codecv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/upstream_codec/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	filecontentv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/formatter/file_content/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"airgate/policy/config"
)

const (
	// maxStreams replaces Envoy's default breakers of 1,024, which hour-long
	// streams exhaust. What bounds a caller are airgate's limits.
	maxStreams     = 100_000
	defaultConnect = 5 * time.Second
	// defaultSilence is how long a reasoning model may say nothing.
	defaultSilence = 15 * time.Minute
	// maxStream is the backstop behind a stream that never ends.
	maxStream = 2 * time.Hour
)

// clusterName cannot collide with airgate's own cluster.
func clusterName(p *config.Provider) string { return "provider_" + p.Name }

// providerRoute matches only what airgate has decided: its header chooses the
// provider, its metadata, which no caller can write, says that it is allowed.
func providerRoute(p *config.Provider) *routev3.Route {
	return &routev3.Route{
		Name: clusterName(p),
		Match: &routev3.RouteMatch{
			PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"},
			Headers: []*routev3.HeaderMatcher{{
				Name:                 UpstreamHeader,
				HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: exactly(p.Name)},
			}},
			DynamicMetadata: []*matcherv3.MetadataMatcher{{
				Filter: MetadataNamespace,
				Path:   []*matcherv3.MetadataMatcher_PathSegment{{Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: DecisionKey}}},
				Value:  &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_StringMatch{StringMatch: exactly(DecisionAllow)}},
			}},
		},
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier:     &routev3.RouteAction_Cluster{Cluster: clusterName(p)},
			HostRewriteSpecifier: &routev3.RouteAction_AutoHostRewrite{AutoHostRewrite: wrapperspb.Bool(true)},
			Timeout:              durationpb.New(0), // it would span the streamed answer
			IdleTimeout:          durationpb.New(cmp.Or(p.IdleTimeout, defaultSilence)),
			MaxStreamDuration:    &routev3.RouteAction_MaxStreamDuration{MaxStreamDuration: durationpb.New(maxStream)},
			RetryPolicy:          retryUnbilled(),
		}},
	}
}

// retryUnbilled repeats only what no provider bills, before any byte of an
// answer: a generation begun twice is paid twice. There is no per-try timeout,
// because an answer that is not streamed may take minutes to its first byte.
func retryUnbilled() *routev3.RetryPolicy {
	return &routev3.RetryPolicy{
		RetryOn:              "connect-failure,refused-stream,reset-before-request,retriable-status-codes",
		RetriableStatusCodes: []uint32{429, 503, 529},
		NumRetries:           wrapperspb.UInt32(2),
		RetryBackOff: &routev3.RetryPolicy_RetryBackOff{
			BaseInterval: durationpb.New(50 * time.Millisecond),
			MaxInterval:  durationpb.New(time.Second),
		},
	}
}

func providerCluster(p *config.Provider, credential, systemCA string) *clusterv3.Cluster {
	host, port := hostPort(p)
	c := &clusterv3.Cluster{
		Name:           clusterName(p),
		ConnectTimeout: durationpb.New(cmp.Or(p.ConnectTimeout, defaultConnect)),
		LoadAssignment: singleEndpoint(clusterName(p), p.URL.Host, socketAddress(host, port)),
		CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
			MaxConnections:     wrapperspb.UInt32(maxStreams),
			MaxPendingRequests: wrapperspb.UInt32(maxStreams),
			MaxRequests:        wrapperspb.UInt32(maxStreams),
			RetryBudget: &clusterv3.CircuitBreakers_Thresholds_RetryBudget{
				BudgetPercent:       &typev3.Percent{Value: 20},
				MinRetryConcurrency: wrapperspb.UInt32(10),
			},
		}}},
		// Gateways on the way forget a connection that is silent for minutes, as
		// that of a thinking model is.
		UpstreamConnectionOptions: &clusterv3.UpstreamConnectionOptions{TcpKeepalive: &corev3.TcpKeepalive{
			KeepaliveTime: wrapperspb.UInt32(60), KeepaliveInterval: wrapperspb.UInt32(20), KeepaliveProbes: wrapperspb.UInt32(3),
		}},
	}
	if _, err := netip.ParseAddr(host); err == nil {
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
	} else {
		c.ClusterDiscoveryType = logicalDNS()
	}
	options := &httpv3.HttpProtocolOptions{
		// Below the 60 s after which common load balancers drop an idle connection:
		// a request sent into that moment fails, and nobody knows whether it was billed.
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{IdleTimeout: durationpb.New(50 * time.Second)},
		UpstreamProtocolOptions:   plaintext(),
		HttpFilters:               upstreamFilters(p, credential),
	}
	if p.URL.Scheme == "https" {
		options.UpstreamProtocolOptions = negotiated()
		c.TransportSocket = verifiedTLS(host, cmp.Or(p.CAFile, systemCA))
	}
	c.TypedExtensionProtocolOptions = protocolOptions(options)
	return c
}

// logicalDNS makes one host of all addresses a name resolves to. A provider's
// name yields a few of many, others each time; connections to a logical host
// outlive such a change. ALL tries both address families, as browsers do.
func logicalDNS() *clusterv3.Cluster_ClusterType {
	return &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{
		Name: "envoy.clusters.dns",
		TypedConfig: typed(&dnsv3.DnsCluster{
			RespectDnsTtl:                true,
			DnsLookupFamily:              familyv3.DnsLookupFamily_ALL,
			AllAddressesInSingleEndpoint: true,
		}),
	}}
}

func plaintext() *httpv3.HttpProtocolOptions_ExplicitHttpConfig_ {
	return &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
		ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: &corev3.Http1ProtocolOptions{}},
	}}
}

// negotiated lets ALPN choose between HTTP/2 and HTTP/1.1.
func negotiated() *httpv3.HttpProtocolOptions_AutoConfig {
	return &httpv3.HttpProtocolOptions_AutoConfig{AutoConfig: &httpv3.HttpProtocolOptions_AutoHttpConfig{
		HttpProtocolOptions:  &corev3.Http1ProtocolOptions{},
		Http2ProtocolOptions: http2Windows(),
	}}
}

func verifiedTLS(host, caFile string) *corev3.TransportSocket {
	san := &tlsv3.SubjectAltNameMatcher{SanType: tlsv3.SubjectAltNameMatcher_DNS, Matcher: exactly(host)}
	sni := host
	if _, err := netip.ParseAddr(host); err == nil { // RFC 6066 section 3: SNI takes no addresses
		san.SanType, sni = tlsv3.SubjectAltNameMatcher_IP_ADDRESS, ""
	}
	return &corev3.TransportSocket{
		Name: "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: typed(&tlsv3.UpstreamTlsContext{
			Sni: sni,
			CommonTlsContext: &tlsv3.CommonTlsContext{
				ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
					TrustedCa:                 &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: caFile}},
					MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{san},
				}},
			},
		})},
	}
}

// credentialValue is the value of the credential's header, as a format that
// Envoy fills in for each request.
//
// FILE_CONTENT is read again when something is renamed into the watched folder,
// which is what a Kubernetes volume does; while the file is missing the last
// value stays. A generic secret among the static resources is read once only,
// and one that rotates needs a second config file.
func credentialValue(p *config.Provider, allowEnv bool) (string, error) {
	prefix := strings.ReplaceAll(p.Prefix, "%", "%%")
	switch {
	case p.CredentialFile != "":
		if !path.IsAbs(p.CredentialFile) || strings.ContainsAny(p.CredentialFile, ":()%") {
			return "", fmt.Errorf("credential file %q: want an absolute path without any of : ( ) %%", p.CredentialFile)
		}
		return fmt.Sprintf("%s%%FILE_CONTENT(%s:%s)%%", prefix, p.CredentialFile, path.Dir(p.CredentialFile)), nil
	case p.CredentialEnv == "":
		return "", errors.New("no credential: want credential: {file: PATH}")
	case !allowEnv:
		return "", fmt.Errorf("credential: {env: %s} works only where airgate starts Envoy (run, demo): want credential: {file: PATH}", p.CredentialEnv)
	default:
		return fmt.Sprintf("%s%%ENVIRONMENT(%s)%%", prefix, p.CredentialEnv), nil
	}
}

// upstreamFilters set the credential once all routing is done: an attempt of
// the router carries it, nothing before does.
func upstreamFilters(p *config.Provider, credential string) []*hcmv3.HttpFilter {
	set := header(p.Header, credential)
	return []*hcmv3.HttpFilter{{
		Name: "envoy.filters.http.header_mutation",
		ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: typed(&headersv3.HeaderMutation{Mutations: &headersv3.Mutations{
			RequestMutations: []*mutationv3.HeaderMutation{{Action: &mutationv3.HeaderMutation_Append{Append: set}}},
			Formatters: []*corev3.TypedExtensionConfig{{
				Name:        "envoy.formatter.file_content",
				TypedConfig: typed(&filecontentv3.FileContent{}),
			}},
		}})},
	}, {
		Name:       "envoy.filters.http.upstream_codec", // must be last
		ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: typed(&codecv3.UpstreamCodec{})},
	}}
}

func hostPort(p *config.Provider) (host string, port uint32) {
	port = 80
	if p.URL.Scheme == "https" {
		port = 443
	}
	if n, err := strconv.ParseUint(p.URL.Port(), 10, 16); err == nil {
		port = uint32(n)
	}
	return p.URL.Hostname(), port
}

// singleEndpoint is a cluster of one host. hostname becomes the Host header of
// routes with auto_host_rewrite.
func singleEndpoint(cluster, hostname string, a *corev3.Address) *endpointv3.ClusterLoadAssignment {
	return &endpointv3.ClusterLoadAssignment{
		ClusterName: cluster,
		Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: a, Hostname: hostname}},
		}}}},
	}
}

func protocolOptions(m proto.Message) map[string]*anypb.Any {
	return map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(m)}
}

func exactly(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}}
}
