// Package extproctest has the two ends of ext_proc that tests and benchmarks
// need: an Envoy that speaks the protocol frame by frame (envoy.go), and a
// server that lets everything pass (Noop). It answers: what does the wire look
// like when only one side is ours?
package extproctest

import (
	"errors"
	"io"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
)

// maxMessage lets Noop take the bodies that airgate takes.
const maxMessage = 64 << 20

// Noop is an ext_proc server that changes nothing, in plain grpc-go with the
// generated code: the floor under every measurement.
func Noop() *grpc.Server {
	s := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage))
	extprocv3.RegisterExternalProcessorServer(s, noop{})
	return s
}

type noop struct {
	extprocv3.UnimplementedExternalProcessorServer
}

// Process implements extprocv3.ExternalProcessorServer.
func (noop) Process(stream extprocv3.ExternalProcessor_ProcessServer) error {
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF), status.Code(err) == codes.Canceled:
			return nil
		case err != nil:
			return err
		}
		if err := stream.Send(Continue(m)); err != nil {
			return err
		}
	}
}

// Continue is the reply that lets m pass.
func Continue(m *extprocv3.ProcessingRequest) *extprocv3.ProcessingResponse {
	common := &extprocv3.CommonResponse{}
	r := &extprocv3.ProcessingResponse{}
	switch m.GetRequest().(type) {
	case *extprocv3.ProcessingRequest_RequestHeaders:
		r.Response = &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{Response: common}}
	case *extprocv3.ProcessingRequest_ResponseHeaders:
		r.Response = &extprocv3.ProcessingResponse_ResponseHeaders{ResponseHeaders: &extprocv3.HeadersResponse{Response: common}}
	case *extprocv3.ProcessingRequest_RequestBody:
		r.Response = &extprocv3.ProcessingResponse_RequestBody{RequestBody: &extprocv3.BodyResponse{Response: common}}
	case *extprocv3.ProcessingRequest_ResponseBody:
		r.Response = &extprocv3.ProcessingResponse_ResponseBody{ResponseBody: &extprocv3.BodyResponse{Response: common}}
	case *extprocv3.ProcessingRequest_RequestTrailers:
		r.Response = &extprocv3.ProcessingResponse_RequestTrailers{RequestTrailers: &extprocv3.TrailersResponse{}}
	case *extprocv3.ProcessingRequest_ResponseTrailers:
		r.Response = &extprocv3.ProcessingResponse_ResponseTrailers{ResponseTrailers: &extprocv3.TrailersResponse{}}
	}
	return r
}

// attributesKey is the name under which Envoy sends a filter's attributes.
const attributesKey = "envoy.filters.http.ext_proc"

// RequestHeaders is what Envoy sends first about nearly every request; kv are
// names and values in turn.
func RequestHeaders(end bool, kv ...string) *extprocv3.ProcessingRequest {
	m := &extprocv3.ProcessingRequest{
		Request:    &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: headers(end, kv)},
		Attributes: attributes(map[string]*structpb.Value{"source.address": structpb.NewStringValue("192.0.2.1:1024")}),
	}
	return First(m)
}

// First adds to m what Envoy says in its first message on a stream: the modes of
// airgate's bootstrap.
func First(m *extprocv3.ProcessingRequest) *extprocv3.ProcessingRequest {
	m.ProtocolConfig = &extprocv3.ProtocolConfiguration{
		RequestBodyMode:  filterv3.ProcessingMode_BUFFERED,
		ResponseBodyMode: filterv3.ProcessingMode_STREAMED,
	}
	return m
}

// RequestBody is the whole body of a request.
func RequestBody(body []byte) *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestBody{
		RequestBody: &extprocv3.HttpBody{Body: body, EndOfStream: true},
	}}
}

// ResponseHeaders is the head of an answer; details is "via_upstream" where the
// provider made it.
func ResponseHeaders(end bool, details string, attempts int, kv ...string) *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{
		Request: &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: headers(end, kv)},
		Attributes: attributes(map[string]*structpb.Value{
			"response.code_details":          structpb.NewStringValue(details),
			"upstream.request_attempt_count": structpb.NewNumberValue(float64(attempts)),
		}),
	}
}

// ResponseBody is one chunk of an answer.
func ResponseBody(chunk []byte, end bool) *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseBody{
		ResponseBody: &extprocv3.HttpBody{Body: chunk, EndOfStream: end},
	}}
}

// ResponseTrailers ends an answer that has trailers; kv as in RequestHeaders.
func ResponseTrailers(kv ...string) *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseTrailers{
		ResponseTrailers: &extprocv3.HttpTrailers{Trailers: headers(false, kv).GetHeaders()},
	}}
}

func headers(end bool, kv []string) *extprocv3.HttpHeaders {
	h := &extprocv3.HttpHeaders{Headers: &corev3.HeaderMap{}, EndOfStream: end}
	for i := 0; i+1 < len(kv); i += 2 {
		h.Headers.Headers = append(h.Headers.Headers, &corev3.HeaderValue{Key: kv[i], RawValue: []byte(kv[i+1])})
	}
	return h
}

func attributes(fields map[string]*structpb.Value) map[string]*structpb.Struct {
	return map[string]*structpb.Struct{attributesKey: {Fields: fields}}
}
