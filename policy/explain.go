package policy

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
)

// Check names what a Step is about.
type Check string

// The checks, in the order in which they are made.
const (
	CheckKey     Check = "key"
	CheckModel   Check = "model"
	CheckPurpose Check = "purpose"
	CheckRule    Check = "rule"
	CheckRoute   Check = "route"
)

// Outcome is how a check went.
type Outcome string

// The outcomes.
const (
	Pass        Outcome = "pass"
	Drop        Outcome = "drop"         // one target leaves the plan, others stay
	Refuse      Outcome = "refuse"       // the first of these is the answer
	WouldRefuse Outcome = "would_refuse" // in shadow
	Sets        Outcome = "set"          // the rule's set applies
)

// Step is one check of a walk.
type Step struct {
	Check   Check
	Name    string // of the rule
	Target  string // canonical name, where the check is about one target of several
	Outcome Outcome
	Code    Code   // of Refuse and WouldRefuse
	Reason  string // for people; of Refuse what Decision.Reason says, and of a failed rule why it failed
}

// Explain makes the walk of Evaluate and tells every check with its outcome,
// those beyond a refusal too, as if the refused had been allowed. What it says
// of failed rules is for operators: it may repeat facts of the request.
func (p *Policy) Explain(r *Request) []Step {
	var d Decision
	w := walk{p: p, r: r, d: &d, explain: true}
	w.walk()
	return w.steps
}

// step tells a step, if anybody listens. A failed rule's error is told here
// only: it can quote what the caller sent.
func (w *walk) step(s Step, failure error) {
	if !w.explain {
		return
	}
	if failure != nil {
		s.Reason += ": " + failure.Error()
	}
	w.steps = append(w.steps, s)
}

func (w *walk) passKey() {
	if w.explain {
		k := w.r.Key
		w.step(Step{Check: CheckKey, Outcome: Pass, Reason: fmt.Sprintf("key %s %q of team %s", k.ID, k.Name, k.Team.Path)}, nil)
	}
}

func (w *walk) passModel(plan uint64) {
	if !w.explain {
		return
	}
	w.step(Step{Check: CheckModel, Outcome: Pass, Reason: fmt.Sprintf("%q is model %s", w.r.Model, w.entry.Name)}, nil)
	for rest := w.entry.all &^ plan; rest != 0; rest &= rest - 1 {
		i := bits.TrailingZeros64(rest)
		w.step(Step{
			Check: CheckModel, Target: w.entry.Targets[i].Model, Outcome: Drop,
			Reason: w.narrower(1<<i) + " may not use it",
		}, nil)
	}
}

func (w *walk) passPurpose() {
	if !w.explain {
		return
	}
	reason := "none is needed: no purposes are registered"
	if w.d.Purpose != "" {
		reason = fmt.Sprintf("%q, from the %s", w.d.Purpose, w.d.PurposeSource)
	}
	w.step(Step{Check: CheckPurpose, Outcome: Pass, Reason: reason}, nil)
}

// passRule tells of a rule that refuses nothing, or that would in shadow refuse
// some targets and not the call.
func (w *walk) passRule(u *rule, hit uint64) {
	if !w.explain || u.deny == "" && hit == 0 { // passSet will tell of it
		return
	}
	reason := "does not apply"
	if hit != 0 {
		reason = fmt.Sprintf("in shadow: would take %d targets out of the plan and leave others", bits.OnesCount64(hit))
	}
	w.step(Step{Check: CheckRule, Name: u.name, Outcome: Pass, Reason: reason}, nil)
}

func (w *walk) dropTargets(u *rule, failure error, hit uint64) {
	if !w.explain {
		return
	}
	for rest := hit; rest != 0; rest &= rest - 1 {
		t := &w.entry.Targets[bits.TrailingZeros64(rest)]
		w.step(Step{Check: CheckRule, Name: u.name, Target: t.Model, Outcome: Drop, Reason: w.reason(RuleDenied, u, failure)}, failure)
	}
}

// passSet tells of a rule that sets.
func (w *walk) passSet(u *rule, matches, shadow bool) {
	if !w.explain {
		return
	}
	s := Step{Check: CheckRule, Name: u.name, Outcome: Pass, Reason: "does not apply"}
	switch {
	case matches && shadow:
		s.Reason = fmt.Sprintf("in shadow: would set maxOutputTokens to %d at most", u.set.MaxOutputTokens)
	case matches:
		s.Outcome, s.Reason = Sets, fmt.Sprintf("sets maxOutputTokens to %d at most", u.set.MaxOutputTokens)
	}
	w.step(s, nil)
}

// explainShadowSets tells of shadowed rules that set: Evaluate need not ask them.
func (w *walk) explainShadowSets(s *subject) {
	for _, u := range w.p.shadowed {
		if u.set.MaxOutputTokens == 0 {
			continue
		}
		matches, _ := u.matches(s) // shadowRules has told of a failure
		w.passSet(u, matches, true)
	}
}

func (w *walk) passRoute(plan uint64) {
	if w.explain {
		t := &w.d.Target
		w.step(Step{
			Check: CheckRoute, Target: t.Model, Outcome: Pass,
			Reason: fmt.Sprintf("%s at provider %s, one of %d", t.UpstreamModel, t.Provider, bits.OnesCount64(plan)),
		}, nil)
	}
}

// reason says to the caller why, and what would be allowed. It names nothing
// that the key may not use, and quotes nothing but names.
func (w *walk) reason(c Code, u *rule, failure error) string {
	r := w.r
	switch c {
	case KeyMissing:
		return "no key"
	case KeyUnknown:
		return "the key is not of this configuration"
	case ModelUnknown:
		if w.d.Model != nil {
			return fmt.Sprintf("model %q speaks %s: call it at %s", r.Model, w.d.Model.Dialect, paths(w.d.Model.Dialect))
		}
		return fmt.Sprintf("no model %q; this key may use %s", clip(r.Model), w.usable())
	case ModelDenied:
		return fmt.Sprintf("%s may not use model %q; this key may use %s", w.narrower(w.entry.all), r.Model, w.usable())
	case PurposeRequired:
		return "say what the call is for in the header x-airgate-purpose; this key may use " + w.usablePurposes()
	case PurposeUnknown:
		return fmt.Sprintf("no purpose %q; this key may use %s", clip(w.d.Purpose), w.usablePurposes())
	case PurposeDenied:
		if w.contradictsKey() {
			return fmt.Sprintf("this key is for purpose %q only", r.Key.Purpose)
		}
		return fmt.Sprintf("team %s may not use purpose %q; this key may use %s", r.Key.Team.Name, clip(w.d.Purpose), w.usablePurposes())
	case RuleDenied:
		if failure != nil {
			return fmt.Sprintf("rule %s could not be evaluated, so it refuses", u.name)
		}
		return u.deny
	default:
		return ""
	}
}

// narrower is the lowest level that leaves none of the targets: the key, its
// team, or a parent.
func (w *walk) narrower(targets uint64) string {
	k := w.r.Key
	if targets &= k.allowed[w.entry.index]; targets == 0 {
		return "key " + k.ID
	}
	t := k.Team
	for t.parent != nil {
		if targets &= t.allowed[w.entry.index]; targets == 0 {
			break
		}
		t = t.parent
	}
	return "team " + t.Name
}

// usable lists what the key may call at this endpoint.
func (w *walk) usable() string {
	var names []string
	for _, e := range w.p.entries {
		if e.Dialect == w.r.Dialect && w.r.Key.plan[e.index] != 0 {
			names = append(names, e.Name)
		}
	}
	return enumerate(names, "no model at this path")
}

func (w *walk) usablePurposes() string {
	t := w.r.Key.Team
	if !t.anyPurpose {
		return enumerate(t.purposes, "none")
	}
	names := make([]string, 0, len(w.p.purposes))
	for name := range w.p.purposes {
		names = append(names, name)
	}
	slices.Sort(names)
	return enumerate(names, "none")
}

// enumerate lists at most ten names.
func enumerate(names []string, none string) string {
	const most = 10
	switch {
	case len(names) == 0:
		return none
	case len(names) > most:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	default:
		return strings.Join(names, ", ")
	}
}

// clip bounds what is repeated of a caller's word.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// paths says where a dialect's calls go.
func paths(dialect string) string {
	switch dialect {
	case "openai":
		return "/v1/chat/completions or /v1/responses"
	case "anthropic":
		return "/v1/messages"
	default:
		return "the paths of dialect " + dialect
	}
}
