// Package extproc is the ext_proc server: it turns Envoy's messages into
// processor events and processor actions into Envoy's replies. It answers: what
// does Envoy hear about this message, and what must never happen between the
// two. It decides nothing itself.
//
// One gRPC stream is one HTTP request. Envoy opens it with its first message
// and ends it when neither direction needs it any more. Request BUFFERED,
// response STREAMED (envoy/xds), as observed on Envoy 1.39 and 1.40:
//
//	Envoy sends                      airgate replies
//	request_headers                  request_headers; no body will come: the decision
//	request_body, whole              request_body: the decision
//	response_headers                 response_headers, with a mode_override where the body must be held or cut
//	response_body, response_body …   one response_body each, in order
//
//	after mode_override FULL_DUPLEX  any number of response_body with streamed_response, then end_of_stream or trailers
//	after mode_override BUFFERED     response_body, whole; headers may still be set in its reply
//	a request that Envoy answers     response_headers, response_body; with no request_body before them,
//	itself (413, refused upgrade)    and for an upgrade with no request_headers either
//
// Rules that keep the gateway closed:
//
//   - A stream that the server ends with status OK lets the request pass without
//     airgate. So the handler returns nil only after Envoy has ended the stream;
//     every error, unknown message and panic is a non-OK status.
//   - Messages that arrived before a reset are still metered: a goroutine of its
//     own drains Recv, because grpc-go may drop what is queued once the stream's
//     context is done.
//   - The stream's processor state is closed and finished exactly once on every
//     path, with a context that outlives the RPC.
//   - In FULL_DUPLEX Envoy has no timer, and in STREAMED any reply disarms it:
//     what airgate holds back has airgate's own deadline.
//
// Files in reading order: server.go, exchange.go, queue.go, then decode.go,
// encode.go, codec.go, listen.go.
package extproc
