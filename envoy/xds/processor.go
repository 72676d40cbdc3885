package xds

import (
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// What the bootstrap promises to the ext_proc server.
const (
	// MessageTimeout is how long Envoy waits for one reply before it answers the
	// caller with 504; connecting counts. Envoy's default of 200 ms fires on one
	// slow fsync.
	MessageTimeout = 5 * time.Second
	// MetadataNamespace is the only one whose dynamic metadata Envoy accepts.
	MetadataNamespace = "airgate"
	// DecisionKey and DecisionAllow are the metadata a provider's route requires.
	DecisionKey   = "decision"
	DecisionAllow = "allow"
	// RequestIDKey is the metadata that joins an access-log entry with a request.
	RequestIDKey = "request_id"
	// UpstreamHeader names the provider of an allowed request.
	UpstreamHeader = "x-airgate-upstream"
	// AttributesNamespace is the key under which Envoy sends the attributes.
	AttributesNamespace = "envoy.filters.http.ext_proc"
	// AttributeSource comes with the request: the caller's ip:port.
	AttributeSource = "source.address"
	// AttributeDetails and AttributeAttempts come with the answer: who made it
	// ("via_upstream" = the provider), and how many attempts were begun.
	AttributeDetails  = "response.code_details"
	AttributeAttempts = "upstream.request_attempt_count"
	// DetailsPrefix begins the details of each answer that airgate makes itself;
	// Envoy rewrites the bodies of all others.
	DetailsPrefix = "airgate_"
	// AccessLogName is the log_name of the entries sent to airgate.
	AccessLogName = "airgate"
)

const (
	processorClusterName = "airgate_ext_proc"
	processorFilterName  = "airgate.ext_proc"
)

// ProcessingMode is the mode of every request and of every answer that no reply
// switches over: the request whole, the answer in chunks as they come.
//
// Envoy tells the effective body modes in the first message of a stream
// (protocol_config); others than these mean that somebody edited the bootstrap.
func ProcessingMode() *extprocv3.ProcessingMode {
	return &extprocv3.ProcessingMode{
		RequestHeaderMode:   extprocv3.ProcessingMode_SEND,
		RequestBodyMode:     extprocv3.ProcessingMode_BUFFERED,
		RequestTrailerMode:  extprocv3.ProcessingMode_SKIP,
		ResponseHeaderMode:  extprocv3.ProcessingMode_SEND,
		ResponseBodyMode:    extprocv3.ProcessingMode_STREAMED,
		ResponseTrailerMode: extprocv3.ProcessingMode_SKIP,
	}
}

// DuplexMode is the override for an answer that may have to be cut or held
// back: only in FULL_DUPLEX_STREAMED does a caller see a clean end, and it wants
// the trailers.
//
// An override that equals no allowed mode is ignored without a word, so replies
// must carry exactly this or BufferedMode.
func DuplexMode() *extprocv3.ProcessingMode {
	m := override()
	m.ResponseBodyMode = extprocv3.ProcessingMode_FULL_DUPLEX_STREAMED
	m.ResponseTrailerMode = extprocv3.ProcessingMode_SEND
	return m
}

// BufferedMode is the override for an answer that is read whole before any of
// it leaves: an error that may speak about the provider's account.
func BufferedMode() *extprocv3.ProcessingMode {
	m := override()
	m.ResponseBodyMode = extprocv3.ProcessingMode_BUFFERED
	m.ResponseTrailerMode = extprocv3.ProcessingMode_SKIP
	return m
}

// override is what both overrides share. They repeat the request's body mode
// because an absent one means NONE; the request's header mode is not compared.
func override() *extprocv3.ProcessingMode {
	return &extprocv3.ProcessingMode{
		RequestBodyMode:    extprocv3.ProcessingMode_BUFFERED,
		RequestTrailerMode: extprocv3.ProcessingMode_SKIP,
		ResponseHeaderMode: extprocv3.ProcessingMode_SEND,
	}
}

func processorFilter() *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{
		Name: processorFilterName,
		ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: typed(&extprocv3.ExternalProcessor{
			StatPrefix: "airgate.",
			GrpcService: &corev3.GrpcService{
				TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{
					ClusterName:      processorClusterName,
					SkipEnvoyHeaders: true,
				}},
				// Bridges the gap while a restarting airgate has no socket. Only what
				// airgate has not seen: a retry of anything else would decide twice.
				RetryPolicy: &corev3.RetryPolicy{
					RetryOn:    "connect-failure,refused-stream",
					NumRetries: wrapperspb.UInt32(10),
					RetryBackOff: &corev3.BackoffStrategy{
						BaseInterval: durationpb.New(50 * time.Millisecond),
						MaxInterval:  durationpb.New(500 * time.Millisecond),
					},
				},
			},
			FailureModeAllow:     false,
			StatusOnError:        &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable},
			MessageTimeout:       durationpb.New(MessageTimeout),
			ProcessingMode:       ProcessingMode(),
			AllowModeOverride:    true,
			AllowedOverrideModes: []*extprocv3.ProcessingMode{DuplexMode(), BufferedMode()},
			MutationRules: &mutationv3.HeaderMutationRules{
				DisallowExpression: &matcherv3.RegexMatcher{Regex: "^(host|:scheme|:method|x-forwarded-.*)$"},
				// A silently ignored change of a credential is worse than an error.
				DisallowIsError: wrapperspb.Bool(true),
			},
			RequestAttributes:  []string{AttributeSource},
			ResponseAttributes: []string{AttributeDetails, AttributeAttempts},
			MetadataOptions: &extprocv3.MetadataOptions{
				ReceivingNamespaces: &extprocv3.MetadataOptions_MetadataNamespaces{Untyped: []string{MetadataNamespace}},
			},
		})},
	}
}

// processorCluster is airgate itself, for ext_proc and the access log. One
// stream lives as long as its HTTP request: with Envoy's default breakers the
// 1,025th open request is refused.
func processorCluster(socket *corev3.Address) *clusterv3.Cluster {
	threshold := func(p corev3.RoutingPriority) *clusterv3.CircuitBreakers_Thresholds {
		return &clusterv3.CircuitBreakers_Thresholds{
			Priority:           p,
			MaxConnections:     wrapperspb.UInt32(1024),
			MaxPendingRequests: wrapperspb.UInt32(maxStreams),
			MaxRequests:        wrapperspb.UInt32(maxStreams),
			MaxRetries:         wrapperspb.UInt32(1000), // the default of 3 undoes the retry policy
		}
	}
	return &clusterv3.Cluster{
		Name:                 processorClusterName,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		ConnectTimeout:       durationpb.New(250 * time.Millisecond),
		LoadAssignment:       singleEndpoint(processorClusterName, "", socket),
		CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{
			threshold(corev3.RoutingPriority_DEFAULT), threshold(corev3.RoutingPriority_HIGH),
		}},
		TypedExtensionProtocolOptions: protocolOptions(&httpv3.HttpProtocolOptions{
			CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{IdleTimeout: durationpb.New(0)},
			UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: http2Windows()},
			}},
		}),
	}
}

// http2Windows bounds what one slow stream and one connection may hold in
// Envoy's memory, and how far an HTTP/2 upload can pass the body limit.
func http2Windows() *corev3.Http2ProtocolOptions {
	return &corev3.Http2ProtocolOptions{
		MaxConcurrentStreams:        wrapperspb.UInt32(1024),
		InitialStreamWindowSize:     wrapperspb.UInt32(1 << 20),
		InitialConnectionWindowSize: wrapperspb.UInt32(16 << 20),
	}
}
