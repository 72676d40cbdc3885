package processor

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
	"unsafe"

	"airgate/accounting"
	"airgate/accounting/record"
	"airgate/policy"
	"airgate/processor/dialect"
)

// requestHeaders decides all that can be decided before the body is uploaded.
func (s *Stream) requestHeaders(e *RequestHeaders) Action {
	var in inbound
	s.inbound = in.read(e.Headers)
	path, query, _ := strings.Cut(in.path, "?")

	endpoint, err := dialect.Match(in.method, path)
	if in.anthropicVersion {
		endpoint = endpoint.As(dialect.Anthropic)
	}
	s.endpoint = endpoint
	if err != nil {
		if s.endpoint.Dialect == "" {
			s.endpoint.Dialect = dialect.OpenAI
		}
		// A typo of a known caller is in the book, a stranger's is counted.
		if s.authenticate(&in, query, e.Now) != "" && s.key == nil {
			return s.refuseStranger(EndpointUnknown, e, err.Error())
		}
		return s.refuse(EndpointUnknown, e.Now, err.Error())
	}
	if code := s.authenticate(&in, query, e.Now); code != "" {
		if s.key != nil { // revoked or expired: known, and in the book
			return s.refuse(code, e.Now, keyWords(code))
		}
		return s.refuseStranger(code, e, keyWords(code))
	}
	if s.snap.Policy.Blocked(s.key, &s.decision) {
		return s.refusePolicy(e.Now)
	}
	s.query = strings.Clone(dialect.Query(endpoint, query))

	if in.word != "" {
		return s.refuse(RequestMalformed, e.Now, in.word)
	}
	if in.bytes > MaxHeaderBytes || len(e.Headers) > MaxHeaders {
		return s.refuseAs(431, RequestMalformed, e.Now, "the request has more than 100 headers or 64 KiB of them")
	}
	if in.contentLength > s.snap.MaxBodyBytes {
		return s.refuseTooLarge(e.Now, in.contentLength)
	}
	if enc := in.contentEncoding; enc != "" && enc != "identity" {
		return s.refuseAs(415, RequestMalformed, e.Now, "the request body has a content-encoding; send it without compression")
	}
	models := endpoint.Operation == dialect.ListModels || endpoint.Operation == dialect.GetModel
	if e.EndOfStream && !models {
		return s.refuse(RequestMalformed, e.Now, "the request has no body; send a JSON object")
	}
	if r := s.p.cfg.Ledger.Enter(&s.hold, s.snap.Limits, &s.subject, e.Now); r != nil {
		return s.refuseLimit(r, e.Now)
	}
	if models {
		return s.answerModels(e.Now)
	}
	length := in.contentLength
	if length < 0 {
		length = min(unknownLength, s.snap.MaxBodyBytes)
	}
	if !s.takeBody(length) {
		return s.refuse(Overloaded, e.Now, "too many request bodies are in memory at this moment")
	}
	s.state = uploading
	s.cont = Continue{Metadata: Metadata{RequestID: s.id}}
	return &s.cont
}

// inbound is what one walk over the request headers finds. Its strings are
// views.
type inbound struct {
	method, path     string
	credential       string
	credentials      int // distinct ones
	contentLength    int64
	contentEncoding  string
	anthropicVersion bool
	purpose          string
	user, session    string
	word             string // what is wrong with a header, in words
	bytes            int
}

// What a request's headers may be in all, names and values.
const (
	MaxHeaderBytes = 64 << 10
	MaxHeaders     = 100
)

// unknownLength is the memory set aside for a body whose length nobody says.
const unknownLength = 4 << 20

// maxWord bounds what callers may put into the x-airgate- headers.
const maxWord = 256

// read fills in and returns the names of headers that must not reach the
// provider: they are constants or copies.
func (in *inbound) read(headers []Header) []string {
	remove := []string{"accept-encoding"}
	in.contentLength = -1
	for _, h := range headers {
		in.bytes += len(h.Name) + len(h.Value)
		switch h.Name {
		case ":method":
			in.method = h.Value
		case ":path":
			in.path = h.Value
		case "authorization":
			remove = append(remove, "authorization")
			in.addCredential(bearer(h.Value))
		case "x-api-key":
			remove = append(remove, "x-api-key")
			in.addCredential(h.Value)
		case "api-key":
			remove = append(remove, "api-key")
			in.addCredential(h.Value)
		case "x-goog-api-key":
			remove = append(remove, "x-goog-api-key")
			in.addCredential(h.Value)
		case "cookie":
			remove = append(remove, "cookie")
		case "proxy-authorization":
			remove = append(remove, "proxy-authorization")
		case "openai-organization":
			remove = append(remove, "openai-organization")
		case "openai-project":
			remove = append(remove, "openai-project")
		case "content-length":
			if n, err := strconv.ParseInt(h.Value, 10, 64); err == nil && n >= 0 {
				in.contentLength = n
			} else {
				in.word = "the content-length header is not a number"
			}
		case "content-encoding":
			in.contentEncoding = h.Value
		case "anthropic-version":
			in.anthropicVersion = true
		default:
			if strings.HasPrefix(h.Name, "x-airgate-") {
				remove = append(remove, in.ours(h))
			}
		}
	}
	return remove
}

// ours reads one x-airgate- header and returns its name to be removed.
func (in *inbound) ours(h Header) string {
	var name string
	var to *string
	switch h.Name {
	case "x-airgate-purpose":
		name, to = "x-airgate-purpose", &in.purpose
	case "x-airgate-user":
		name, to = "x-airgate-user", &in.user
	case "x-airgate-session":
		name, to = "x-airgate-session", &in.session
	default:
		return strings.Clone(h.Name)
	}
	switch {
	case *to != "" && *to != h.Value:
		in.word = "header " + name + " is given twice with different values"
	case len(h.Value) > maxWord:
		in.word = "header " + name + " is longer than 256 bytes"
	case !printable(h.Value):
		in.word = "header " + name + " is not printable UTF-8"
	}
	*to = h.Value
	return name
}

func printable(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for i := range len(s) {
		if s[i] < 0x20 || s[i] == 0x7f {
			return false
		}
	}
	return true
}

func (in *inbound) addCredential(c string) {
	if in.credentials > 0 && c == in.credential {
		return
	}
	in.credential = c
	in.credentials++
}

// bearer returns the token of an authorization header (RFC 6750; the scheme is
// case-insensitive, RFC 9110 section 11.1), or the whole value, which then is
// no key.
func bearer(v string) string {
	if len(v) > 7 && strings.EqualFold(v[:7], "bearer ") {
		return strings.TrimLeft(v[7:], " ")
	}
	return v
}

// authenticate finds the key. It returns "" or why there is none.
func (s *Stream) authenticate(in *inbound, query string, now time.Time) Code {
	if dialect.QueryHasKey(query) {
		return KeyUnknown
	}
	switch in.credentials {
	case 0:
		return KeyMissing
	case 1:
	default:
		return KeyUnknown
	}
	view := unsafe.Slice(unsafe.StringData(in.credential), len(in.credential)) //nolint:gosec // read only during the call
	key, code := s.snap.Policy.Authenticate(view, now)
	if key == nil {
		return codeOfPolicy(code)
	}
	s.key = key
	s.purpose, s.user, s.session = strings.Clone(in.purpose), strings.Clone(in.user), strings.Clone(in.session)
	s.identify()
	if code != policy.OK {
		return codeOfPolicy(code)
	}
	return ""
}

// identify fills in what key and headers say about the caller.
func (s *Stream) identify() {
	team := s.key.Team
	s.subject = accounting.Subject{
		Teams: team.Lineage, KeyID: s.key.ID, KeyName: s.key.Name, Tags: team.Tags,
		User: Pseudonym(s.p.cfg.HashKey, UserWord, s.user), Session: Pseudonym(s.p.cfg.HashKey, SessionWord, s.session),
	}
	s.rec = record.Record{
		RequestID: s.id, KeyID: s.key.ID, KeyName: s.key.Name, Team: team.Name, TeamPath: team.Path,
		CostCenter: team.CostCenter, Tags: team.Tags, User: s.subject.User, Session: s.subject.Session,
		Endpoint: s.endpoint.Label, Dialect: string(s.endpoint.Dialect), ConfigHash: s.snap.Hash,
	}
	if s.user != "" {
		s.rec.UserSource = "header"
	}
}

// takeBody reserves memory for a body of n bytes; an unknown size (-1) is
// taken when the body is there.
func (s *Stream) takeBody(n int64) bool {
	if n <= 0 {
		return true
	}
	// A body larger than the whole allowance must still be able to pass alone.
	n = min(n, s.p.cfg.BodyBytes)
	if !s.p.bodies.TryAcquire(n) {
		return false
	}
	s.waiting = n
	return true
}

func (s *Stream) releaseBody() {
	if s.waiting > 0 {
		s.p.bodies.Release(s.waiting)
		s.waiting = 0
	}
}

// requestBody makes the decision.
func (s *Stream) requestBody(e *RequestBody) Action {
	defer s.releaseBody()
	if int64(len(e.Body)) > s.snap.MaxBodyBytes {
		return s.refuseTooLarge(e.Now, int64(len(e.Body)))
	}
	if s.waiting == 0 && !s.takeBody(int64(len(e.Body))) {
		return s.refuse(Overloaded, e.Now, "too many request bodies are in memory at this moment")
	}
	if len(bytes.TrimSpace(e.Body)) == 0 {
		return s.refuse(RequestMalformed, e.Now, "the request body is empty; send a JSON object")
	}
	if err := dialect.ParseRequest(s.endpoint, e.Body, &s.request); err != nil {
		var m *dialect.Malformed
		if errors.As(err, &m) && m.Offset >= 0 {
			return s.refuse(RequestMalformed, e.Now, m.Reason+" (at byte "+strconv.Itoa(m.Offset)+")")
		}
		return s.refuse(RequestMalformed, e.Now, err.Error())
	}
	s.rec.Stream = s.request.Stream
	s.rec.ModelRequested = s.request.Model
	if a := s.admit(e.Now); a != nil {
		return a
	}
	return s.forwardRequest(e)
}

// forwardRequest writes the intent and lets the request go. The journal has it
// (write(2)) before the caller of Step can send the action.
func (s *Stream) forwardRequest(e *RequestBody) Action {
	if err := s.appendIntent(e.Now); err != nil {
		s.p.cfg.Ledger.Release(&s.hold, e.Now)
		return s.refuse(JournalUnavailable, e.Now, "the audit journal cannot be written")
	}
	target := &s.decision.Target
	provider := s.provider()
	edits := dialect.Edits{MaxOutput: s.cap}
	if target.UpstreamModel != s.request.Model {
		edits.Model = target.UpstreamModel
	}
	if s.wantsUsage() {
		edits.IncludeUsage = true
		s.strip = true
	}
	f := &s.fwd
	f.Set = append(f.Set[:0],
		Header{":path", s.upstreamPath(provider.URL.Path)},
		Header{"x-airgate-upstream", provider.Name},
		Header{"accept-encoding", "identity"})
	f.Remove = s.inbound[1:] // accept-encoding is set, not removed
	f.Body = nil
	if edits != (dialect.Edits{}) {
		s.scratch = dialect.AppendEdits(s.scratch[:0], s.endpoint, e.Body, &s.request, edits)
		f.Body = s.scratch
		f.Set = append(f.Set, Header{"content-length", strconv.Itoa(len(f.Body))})
	}
	f.Metadata = Metadata{RequestID: s.id, Decision: "allow"}
	s.state = open
	s.forward = e.Now
	return f
}

// upstreamPath is built by airgate: no byte of the caller's path is forwarded.
func (s *Stream) upstreamPath(base string) string {
	// A provider URL may carry the version already (https://host/v1).
	path := strings.TrimSuffix(base, "/v1") + s.endpoint.Path
	if s.query != "" {
		path += "?" + s.query
	}
	return path
}

// wantsUsage says that the stream carries usage only if asked, and the caller
// did not ask: airgate asks, and takes the extra chunk out of the answer.
func (s *Stream) wantsUsage() bool {
	switch s.endpoint.Operation {
	case dialect.ChatCompletions, dialect.Completions:
		return s.request.Stream && !s.request.IncludeUsage
	case dialect.Responses, dialect.Embeddings, dialect.Messages, dialect.CountTokens, dialect.ListModels, dialect.GetModel:
	}
	return false
}
