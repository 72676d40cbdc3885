package policy

import (
	"fmt"
	"strings"
	"time"
)

// Config is what Compile makes a Policy of: the entries of one whole
// configuration, names already resolved to values where a field says so.
// Compile keeps the slices and maps and never writes to them; neither may the
// caller afterwards.
type Config struct {
	Teams    []TeamConfig
	Purposes []PurposeConfig // the registry; empty = no registry: any word is a purpose
	// Models are the names callers use, targets resolved to their providers.
	Models []ModelEntry
	Keys   []KeyConfig
	Rules  []RuleConfig
	Blocks []Block
	// Shadow lets every call go on that only models, purposes or rules would
	// refuse, and says so in Decision.WouldDeny. Keys, routes and blocks stay
	// enforced.
	Shadow bool
}

// TeamConfig is one team. In Models and Purposes nil is the parent's (at a
// root: all), empty is none; a list only narrows what the parent may use.
type TeamConfig struct {
	Name   string
	Parent string // "" = a root
	// Models are names or aliases of entries, or globs with * that are matched
	// against canonical names.
	Models         []string
	Purposes       []string
	DefaultPurpose string            // "" = the parent's, where Purposes still allows it
	Owner          string            // "" = the parent's
	CostCenter     string            // "" = the parent's
	Tags           map[string]string // laid over the parent's, tag by tag
}

// PurposeConfig is one registered purpose.
type PurposeConfig struct {
	Name    string
	Owner   string
	Default bool // at most one: for calls that name none and whose team has none
}

// KeyConfig is one virtual key. Models narrows the team's as TeamConfig.Models
// does a parent's: nil = the team's.
type KeyConfig struct {
	ID      string // 12 base62 characters
	Name    string // "" = none; else no other key has it
	Team    string
	Purpose string // fixed purpose, or ""
	Models  []string
	Secrets []Secret  // rotation adds one
	Revoked time.Time // zero = never
}

// Secret is one secret of a key, as its hash.
type Secret struct {
	Hash    [32]byte // SHA-256 of the secret's 43 characters
	Created time.Time
	Expires time.Time // first instant it is refused; zero = never
}

// Mode says whether a rule refuses or only records that it would.
type Mode uint8

// The modes.
const (
	Enforce Mode = iota
	Shadow
)

// RuleConfig is one rule: When is a CEL expression of type bool over the
// variables of package policy; exactly one of Deny and Set is given.
type RuleConfig struct {
	Name  string
	When  string
	Deny  string // the reason shown to the caller
	Set   Set
	Mode  Mode
	Where string // "file:line:column" of the entry, repeated in Problem.Where
}

// Set is what a matching rule lays down.
type Set struct {
	MaxOutputTokens int64 // 0 = nothing
}

// Problem is one fault of a Config. Section, Name and Field say where as the
// configuration spells it: rules, "eu-only", when. Line and Column count from 1
// inside a rule's expression and are 0 elsewhere.
type Problem struct {
	Section string // "teams", "purposes", "models", "keys", "rules" or "blocks"
	Name    string // of the entry; a key's id
	Field   string // as spelled in YAML; "" = the entry itself
	Line    int
	Column  int
	Where   string // RuleConfig.Where
	Text    string // what is wrong and what to do
}

// Error is Problem as one line: `rules[eu-only].when:1:6: undefined field 'nam'`.
func (p *Problem) Error() string {
	var b strings.Builder
	if p.Where != "" {
		b.WriteString(p.Where + ": ")
	}
	fmt.Fprintf(&b, "%s[%s]", p.Section, p.Name)
	if p.Field != "" {
		b.WriteString("." + p.Field)
	}
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	b.WriteString(": " + p.Text)
	return b.String()
}

// Problems is the error of Compile: every fault found, section by section.
type Problems []*Problem

// Error is one line per problem.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}
