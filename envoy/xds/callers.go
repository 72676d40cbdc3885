package xds

import (
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	grpclogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	earlyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// StatPrefix begins the names of the callers' statistics, such as
// http.callers.downstream_rq_active, which a drain watches.
const StatPrefix = "callers"

// connectionBuffer is also the floor of the body limit: a virtual host's
// request_body_buffer_limit can only raise it.
const connectionBuffer = 1 << 20

func callersListener(a *corev3.Address, maxBody int64, routes []*routev3.Route) *listenerv3.Listener {
	return &listenerv3.Listener{
		Name:                          "callers",
		Address:                       a,
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(connectionBuffer),
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
			Name:       "envoy.filters.network.http_connection_manager",
			ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: typed(connectionManager(maxBody, routes))},
		}}}},
	}
}

func connectionManager(maxBody int64, routes []*routev3.Route) *hcmv3.HttpConnectionManager {
	return &hcmv3.HttpConnectionManager{
		StatPrefix: StatPrefix,
		CodecType:  hcmv3.HttpConnectionManager_AUTO,

		UseRemoteAddress:  wrapperspb.Bool(true),
		GenerateRequestId: wrapperspb.Bool(true),
		NormalizePath:     wrapperspb.Bool(true),
		MergeSlashes:      true, // escaped slashes stay: names of models contain them

		// The answer keeps the provider's server header, and HTTP/2 providers see
		// the scheme of their own connection.
		ServerHeaderTransformation: hcmv3.HttpConnectionManager_PASS_THROUGH,
		SchemeHeaderTransformation: &corev3.SchemeHeaderTransformation{MatchUpstream: true},

		// Envoy refuses what is over its own limits with a reply that ext_proc
		// still has to see, and closes the connection before it has: the caller
		// would get no answer at all (seen on 1.40). So Envoy takes more than
		// airgate does (processor.MaxHeaderBytes), and airgate refuses in words.
		MaxRequestHeadersKb: wrapperspb.UInt32(256),
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{
			MaxHeadersCount:              wrapperspb.UInt32(1000),
			IdleTimeout:                  durationpb.New(time.Hour),
			HeadersWithUnderscoresAction: corev3.HttpProtocolOptions_DROP_HEADER,
		},
		Http2ProtocolOptions:  http2Windows(),
		RequestHeadersTimeout: durationpb.New(10 * time.Second),
		RequestTimeout:        durationpb.New(2 * time.Minute), // the whole upload
		StreamIdleTimeout:     durationpb.New(defaultSilence),  // a route's own idle_timeout takes its place
		// An HTTP/1 caller notices a cut answer only after it.
		DelayedCloseTimeout: durationpb.New(100 * time.Millisecond),

		EarlyHeaderMutationExtensions: []*corev3.TypedExtensionConfig{earlyRemoval()},
		LocalReplyConfig:              localReplies(),
		AccessLog:                     []*accesslogv3.AccessLog{accessLog()},
		HttpFilters: []*hcmv3.HttpFilter{processorFilter(), {
			Name:       "envoy.filters.http.router",
			ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: typed(&routerv3.Router{SuppressEnvoyHeaders: true})},
		}},
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
			Name: "callers",
			VirtualHosts: []*routev3.VirtualHost{{
				Name:    "all",
				Domains: []string{"*"},
				// One connection buffer above airgate's own limit, which is exact: this
				// one is soft for HTTP/2, and airgate's refusal says more than Envoy's.
				RequestBodyBufferLimit: wrapperspb.UInt64(uint64(max(maxBody, 0)) + connectionBuffer),
				// What is ours or the caller's network stays here.
				RequestHeadersToRemove: []string{UpstreamHeader, "x-forwarded-for", "x-forwarded-proto", "x-envoy-external-address"},
				Routes:                 routes,
			}},
		}},
	}
}

// earlyRemoval runs before routing and before airgate. It takes the one header
// that routes, not all x-airgate-*: callers send purpose, user and session.
func earlyRemoval() *corev3.TypedExtensionConfig {
	return &corev3.TypedExtensionConfig{
		Name: "envoy.http.early_header_mutation.header_mutation",
		TypedConfig: typed(&earlyv3.HeaderMutation{Mutations: []*mutationv3.HeaderMutation{
			{Action: &mutationv3.HeaderMutation_Remove{Remove: UpstreamHeader}},
			{Action: &mutationv3.HeaderMutation_RemoveOnMatch_{RemoveOnMatch: &mutationv3.HeaderMutation_RemoveOnMatch{
				KeyMatcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "x-envoy-"}},
			}}},
		}}),
	}
}

// accessLog tells airgate why each request ended, one message per entry: the
// end of an ext_proc stream does not say.
func accessLog() *accesslogv3.AccessLog {
	return &accesslogv3.AccessLog{
		Name: "envoy.access_loggers.http_grpc",
		// Of an answer that passed whole airgate has seen the end itself, and of
		// its own refusals too: an entry for each would cost a tenth of a call.
		Filter: celFilter("response.flags != 0 || response.code_details != 'via_upstream' && !response.code_details.startsWith('" + DetailsPrefix + "')"),
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: typed(&grpclogv3.HttpGrpcAccessLogConfig{
			CommonConfig: &grpclogv3.CommonGrpcAccessLogConfig{
				LogName:             AccessLogName,
				TransportApiVersion: corev3.ApiVersion_V3,
				GrpcService: &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
					EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: processorClusterName, SkipEnvoyHeaders: true},
				}},
				BufferFlushInterval: durationpb.New(50 * time.Millisecond),
				BufferSizeBytes:     wrapperspb.UInt32(0),
			},
		})},
	}
}
