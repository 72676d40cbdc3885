package accesslog

import (
	"strings"

	dataaccesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
)

// flags are Envoy's short names of response flags, in the order in which Envoy
// prints them (%RESPONSE_FLAGS%), joined by commas; "" = none.
func flags(f *dataaccesslogv3.ResponseFlags) string {
	if f == nil {
		return ""
	}
	var out strings.Builder
	add := func(set bool, short string) {
		if !set {
			return
		}
		if out.Len() > 0 {
			out.WriteByte(',')
		}
		out.WriteString(short)
	}
	add(f.GetFailedLocalHealthcheck(), "LH")
	add(f.GetNoHealthyUpstream(), "UH")
	add(f.GetUpstreamRequestTimeout(), "UT")
	add(f.GetLocalReset(), "LR")
	add(f.GetUpstreamRemoteReset(), "UR")
	add(f.GetUpstreamConnectionFailure(), "UF")
	add(f.GetUpstreamConnectionTermination(), "UC")
	add(f.GetUpstreamOverflow(), "UO")
	add(f.GetNoRouteFound(), "NR")
	add(f.GetDelayInjected(), "DI")
	add(f.GetFaultInjected(), "FI")
	add(f.GetRateLimited(), "RL")
	add(f.GetUnauthorizedDetails() != nil, "UAEX")
	add(f.GetRateLimitServiceError(), "RLSE")
	add(f.GetDownstreamConnectionTermination(), "DC")
	add(f.GetUpstreamRetryLimitExceeded(), "URX")
	add(f.GetStreamIdleTimeout(), "SI")
	add(f.GetInvalidEnvoyRequestHeaders(), "IH")
	add(f.GetDownstreamProtocolError(), "DPE")
	add(f.GetUpstreamMaxStreamDurationReached(), "UMSDR")
	add(f.GetResponseFromCacheFilter(), "RFCF")
	add(f.GetNoFilterConfigFound(), "NFCF")
	add(f.GetDurationTimeout(), "DT")
	add(f.GetUpstreamProtocolError(), "UPE")
	add(f.GetNoClusterFound(), "NC")
	add(f.GetOverloadManager(), "OM")
	add(f.GetDnsResolutionFailure(), "DF")
	add(f.GetDownstreamRemoteReset(), "DR")
	return out.String()
}
