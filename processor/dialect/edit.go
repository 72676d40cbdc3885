package dialect

import (
	"strconv"
	"unicode/utf8"

	"airgate/accounting/money"
)

// splice replaces one range of a body; an empty range inserts.
type splice struct {
	at Span
	do edit
}

type edit uint8

const (
	editModel edit = iota
	editTrue
	editUsageObject // {"include_usage":true}
	editUsageFirst  // the first field of an object that has others
	editUsageOnly
	editCap
	editInsertCap
	editInsertUsage
)

// AppendEdits appends body to dst with the edits made: the smallest splices at
// the places that ParseRequest found, everything else byte for byte. body and
// r must belong together. Edits that the endpoint does not know are not made:
// include_usage is for streamed chat and completions (a request that does not
// stream is refused with it), a cap for those that generate. Caps above
// ed.MaxOutput are lowered, whichever field they are in; where none is set the
// endpoint's own field is: max_completion_tokens, max_output_tokens or
// max_tokens.
func AppendEdits(dst []byte, e Endpoint, body []byte, r *Request, ed Edits) []byte {
	var buf [6]splice
	s := buf[:0]
	if ed.Model != "" && ed.Model != r.Model {
		s = append(s, splice{r.ModelSpan, editModel})
	}
	head := Span{r.ObjectStart, r.ObjectStart}
	if usageOnRequest(e.Operation) && ed.IncludeUsage && r.Stream && !r.IncludeUsage {
		switch o := r.StreamOptions; {
		case o.To == 0:
			s = append(s, splice{head, editInsertUsage})
		case body[o.From] != '{':
			s = append(s, splice{o, editUsageObject})
		case r.IncludeUsageSpan.To != 0:
			s = append(s, splice{r.IncludeUsageSpan, editTrue})
		case emptyObject(body[o.From:o.To]):
			s = append(s, splice{Span{o.From + 1, o.From + 1}, editUsageOnly})
		default:
			s = append(s, splice{Span{o.From + 1, o.From + 1}, editUsageFirst})
		}
	}
	if capName(e.Operation) != "" && ed.MaxOutput > 0 {
		switch {
		case r.HasMaxOutput:
			for _, c := range r.CapSpans {
				if c.To != 0 && capAt(body, c) > ed.MaxOutput {
					s = append(s, splice{c, editCap})
				}
			}
		case r.NullCap.To != 0:
			s = append(s, splice{r.NullCap, editCap})
		default:
			s = append(s, splice{head, editInsertCap})
		}
	}
	for i := range s { // insertion sort: at most five, mostly in order
		for j := i; j > 0 && s[j].at.From < s[j-1].at.From; j-- {
			s[j], s[j-1] = s[j-1], s[j]
		}
	}
	done := 0
	for _, x := range s {
		dst = append(dst, body[done:x.at.From]...)
		dst = x.do.append(dst, e.Operation, ed)
		if (x.do == editInsertCap || x.do == editInsertUsage) && !r.Empty {
			dst = append(dst, ',')
		}
		done = x.at.To
	}
	return append(dst, body[done:]...)
}

func (d edit) append(dst []byte, op Operation, ed Edits) []byte {
	switch d {
	case editModel:
		return appendString(dst, ed.Model)
	case editTrue:
		return append(dst, "true"...)
	case editUsageObject:
		return append(dst, `{"include_usage":true}`...)
	case editUsageFirst:
		return append(dst, `"include_usage":true,`...)
	case editUsageOnly:
		return append(dst, `"include_usage":true`...)
	case editCap:
		return strconv.AppendInt(dst, int64(ed.MaxOutput), 10)
	case editInsertCap:
		dst = append(dst, '"')
		dst = append(dst, capName(op)...)
		dst = append(dst, `":`...)
		return strconv.AppendInt(dst, int64(ed.MaxOutput), 10)
	case editInsertUsage:
		return append(dst, `"stream_options":{"include_usage":true}`...)
	}
	return dst
}

// usageOnRequest: surfaces whose streams carry usage only when asked.
func usageOnRequest(op Operation) bool { return op == ChatCompletions || op == Completions }

// capName is the field that caps an operation's output; "" = it generates nothing.
func capName(op Operation) string {
	switch op {
	case ChatCompletions:
		return "max_completion_tokens"
	case Responses:
		return "max_output_tokens"
	case Completions, Messages:
		return "max_tokens"
	default:
		return ""
	}
}

// capAt reads a cap that ParseRequest has checked.
func capAt(body []byte, s Span) (n money.Tokens) {
	for _, c := range body[s.From:s.To] {
		n = n*10 + money.Tokens(c-'0')
	}
	return n
}

// emptyObject reports whether a checked JSON object has no members.
func emptyObject(b []byte) bool {
	for _, c := range b[1:] {
		switch c {
		case ' ', '\t', '\n', '\r':
		default:
			return c == '}'
		}
	}
	return false
}

// appendString appends s as a JSON string; what is not UTF-8 becomes U+FFFD.
func appendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for _, c := range s {
		switch {
		case c == '"':
			dst = append(dst, `\"`...)
		case c == '\\':
			dst = append(dst, `\\`...)
		case c == '\n':
			dst = append(dst, `\n`...)
		case c < ' ' || c == 0x7f:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			dst = utf8.AppendRune(dst, c)
		}
	}
	return append(dst, '"')
}
