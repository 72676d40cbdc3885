package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"airgate/policy"
)

// Problem is one fault of a configuration and what to do about it. Its text
// never repeats a value that may be a secret.
type Problem struct { //nolint:errname // one of many, of which Problems is the error
	File   string `json:"file"`             // as it was given; "" = the configuration as a whole
	Line   int    `json:"line,omitempty"`   // from 1; 0 = the file as a whole
	Column int    `json:"column,omitempty"` // from 1, in characters
	Text   string `json:"text"`
}

// Error is the problem as file:line:column: text.
func (p Problem) Error() string {
	switch {
	case p.File == "":
		return p.Text
	case p.Line == 0:
		return p.File + ": " + p.Text
	}
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Text)
}

// Problems is the error of Load: every fault found, sorted by file, line and
// column.
type Problems []Problem //nolint:errname // as its elements

// Error is one line per problem.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// sorted returns ps in order, without repetitions.
func (ps Problems) sorted() Problems {
	slices.SortFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Column, b.Column), cmp.Compare(a.Text, b.Text))
	})
	return slices.Compact(ps)
}

// tell adds a problem.
func tell(ps *Problems, a at, format string, args ...any) {
	*ps = append(*ps, Problem{File: a.file, Line: a.line, Column: a.column, Text: policy.Redact(fmt.Sprintf(format, args...))})
}
