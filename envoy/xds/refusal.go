package xds

import (
	"fmt"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	celv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// reply is an answer that Envoy makes where airgate could not make one. Its
// body is read by every dialect's SDK: {"type":"error"} is Anthropic's envelope,
// the members of "error" are OpenAI's.
type reply struct {
	when    string // CEL over response.*
	kind    string // error.type
	code    string // x-airgate-code, error.code; "" = not a refusal of airgate's
	class   string // x-airgate-class
	message string
	status  uint32 // 0 = Envoy's own
	retry   bool   // the same call may succeed soon
}

// providersFault holds where Envoy tried the provider in vain. What ext_proc and
// airgate cause has many names; what a provider causes has these.
const providersFault = "response.code_details.startsWith('upstream_') || response.code_details == 'no_healthy_upstream'" +
	" || response.code_details == 'response_timeout' || response.code_details == 'stream_idle_timeout' || response.code_details == 'max_duration_timeout'"

// replies are tried in order. The messages hold no details: an error of
// ext_proc quotes airgate's status text.
func replies() []reply {
	return []reply{
		{
			when: "response.code == 413", kind: "invalid_request_error", code: "request_too_large", class: "malformed",
			message: "The request body is larger than this gateway accepts.",
		},
		{
			when: "response.code >= 500 && (" + providersFault + ")", kind: "api_error", class: "transient",
			message: "The model provider could not be reached, or its answer did not come in time.",
		},
		{
			when: "response.code >= 500", kind: "api_error", code: "gateway_fault", class: "gateway", retry: true,
			message: "The gateway could not decide on this request or could not serve it. Nothing is wrong with the request itself; try again shortly.",
		},
		{
			when: "response.code >= 400", kind: "invalid_request_error", code: "request_malformed", class: "malformed",
			message: "The gateway does not accept this HTTP request (%RESPONSE_CODE_DETAILS%).",
		},
	}
}

// localReplies gives Envoy's own errors, whose bodies are empty or plain text, a
// JSON body. airgate's answers keep theirs: the first mapper catches them and
// changes nothing.
func localReplies() *hcmv3.LocalReplyConfig {
	c := &hcmv3.LocalReplyConfig{Mappers: []*hcmv3.ResponseMapper{{
		Filter: celFilter(fmt.Sprintf("response.code_details.startsWith('%s')", DetailsPrefix)),
	}}}
	for _, r := range append([]reply{undecided()}, replies()...) {
		var status *wrapperspb.UInt32Value
		if r.status != 0 {
			status = wrapperspb.UInt32(r.status)
		}
		c.Mappers = append(c.Mappers, &hcmv3.ResponseMapper{
			StatusCode: status,
			Filter:     celFilter(r.when),
			BodyFormatOverride: &corev3.SubstitutionFormatString{
				Format: &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: r.body()},
			},
			// Absent where airgate never saw the request.
			HeadersToAdd: append(r.headers(), header("x-airgate-request-id", "%DYNAMIC_METADATA("+MetadataNamespace+":"+RequestIDKey+")%")),
		})
	}
	return c
}

// refused names the default route and its cluster: no decision, no upstream.
const refused = "refused"

// undecided is what the default route answers.
func undecided() reply {
	return reply{
		when: "response.code_details == 'no_healthy_upstream' && xds.route_name == '" + refused + "'",
		kind: "permission_error", code: "gateway_fault", class: "gateway", status: 403, message: "The gateway has not allowed this request.",
	}
}

// refusalRoute leads to a cluster without a host. A direct response would say
// 403 as well, but it is no route entry, and Envoy takes a request's body limit
// from the entry first matched, which for every request is this one: a direct
// response left each body at the connection's 1 MiB (seen on 1.40).
func refusalRoute() *routev3.Route {
	return &routev3.Route{
		Name:  refused,
		Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: refused},
		}},
	}
}

// refusalCluster has no host and never gets one.
func refusalCluster() *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                 refused,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		LoadAssignment:       &endpointv3.ClusterLoadAssignment{ClusterName: refused},
	}
}

func (r reply) body() *structpb.Struct {
	e := map[string]*structpb.Value{
		"message": structpb.NewStringValue(r.message),
		"type":    structpb.NewStringValue(r.kind),
		"param":   structpb.NewNullValue(),
		"code":    structpb.NewNullValue(),
	}
	if r.code != "" {
		e["code"] = structpb.NewStringValue(r.code)
	}
	return &structpb.Struct{Fields: map[string]*structpb.Value{
		"type":  structpb.NewStringValue("error"),
		"error": structpb.NewStructValue(&structpb.Struct{Fields: e}),
	}}
}

func (r reply) headers() []*corev3.HeaderValueOption {
	h := []*corev3.HeaderValueOption{header("x-airgate-class", r.class)}
	if r.code == "" {
		return h
	}
	h = append(h, header("x-airgate-code", r.code))
	if r.retry {
		return append(h, header("retry-after", "1"))
	}
	return append(h, header("x-should-retry", "false"))
}

func header(key, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: key, Value: value},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

func celFilter(expression string) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ExtensionFilter{ExtensionFilter: &accesslogv3.ExtensionFilter{
		Name:       "envoy.access_loggers.extension_filters.cel",
		ConfigType: &accesslogv3.ExtensionFilter_TypedConfig{TypedConfig: typed(&celv3.ExpressionFilter{Expression: expression})},
	}}}
}
