// Package processor is one request's life: a pure state machine. It answers:
// what must be said to Envoy now, and what does this request owe.
//
// Start reading here. A request is a Stream. The server in envoy/extproc turns
// each message of Envoy into an Event, calls Step and sends the one Action that
// comes back. Nothing here knows sockets, clocks or protobuf: time arrives in
// the events. What a Step does besides computing is to reserve and settle money
// in accounting.Ledger and to append records to the journal (a write(2), never
// an fsync; what must be on disk before it is said carries its
// journal.Position, and the server waits).
//
//	state      event              goes to     with
//	idle       RequestHeaders     uploading   Continue            key known, request tokens and permits held
//	                              refused     Deny
//	                              answered    Deny                GET /v1/models: airgate's own answer
//	           ResponseHeaders    local       Answer              Envoy answered before we saw the request
//	uploading  RequestBody        open        Forward             money held, intent written
//	                              refused     Deny
//	           ResponseHeaders    local       Answer              Envoy refused the upload; all holds released
//	open       ResponseHeaders    answering   Answer              waits until the intent is on disk
//	                              refused     Deny 502            the provider's error is about our credential
//	answering  ResponseBody       answering   Chunk
//	                              settled     Chunk               the terminal event or the end of the body was seen
//	                              settled     Chunk, cut          the dialect's error event in the place of the rest: no more
//	                                                              money, or the provider's error about our account
//	                              refused     Deny 502            the same, told by the body of an error answer
//	settled    any                settled     passes untouched
//	any        Close, Finish                                      settles what is open, writes the one record
//
// Invariants, each a test: every Event gets exactly one Action; a hold ends
// exactly once on every path; no request is forwarded before its intent is
// written; every authenticated request leaves exactly one settlement or denial
// (or is one of a counted flood of denials); how an answer is divided into chunks
// changes nothing; of a stream whole events pass; an error is classified once, in
// code.go.
//
// Files in reading order: event.go, action.go, stream.go, request.go,
// admit.go, slice.go, response.go, settle.go, then code.go, denial.go, counted.go, and
// orphans.go and audit.go: what a start and a reload write.
package processor
