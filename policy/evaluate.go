package policy

import "math/bits"

// Evaluate decides r and writes the answer to d, whose WouldDeny array it
// reuses. The checks are, in this order, blocks of the caller, the model, blocks
// of its targets, the purpose and the rules; the first that refuses is the
// answer. Allow-lists, blocks and rules look at the canonical model of each
// target: a refused target leaves the plan, and a call is refused when none is
// left.
//
// A key that p did not make is KeyUnknown. Nothing is allocated for an allowed
// call unless a rule needs CEL's runtime.
func (p *Policy) Evaluate(r *Request, d *Decision) {
	w := walk{p: p, r: r, d: d}
	w.walk()
}

// walk is one way through all checks, for Evaluate and for Explain. Evaluate
// ends it at the first refusal; Explain, which keeps the steps and not the
// Decision, goes on as if nothing had been refused.
type walk struct {
	p       *Policy
	r       *Request
	d       *Decision
	entry   *ModelEntry // once the model is known in this dialect
	blocked uint64      // targets of it
	explain bool
	steps   []Step
}

func (w *walk) walk() {
	*w.d = Decision{WouldDeny: w.d.WouldDeny[:0]}
	if !w.checkKey() {
		return
	}
	w.d.Owner = w.r.Key.Team.Owner
	code := w.decidePurpose() // told in the denials of models, too
	if !w.checkCaller() {
		return
	}
	plan, ok := w.checkModel()
	if !ok {
		return
	}
	if w.entry != nil {
		if plan, ok = w.checkTargets(plan); !ok {
			return
		}
	}
	if code != OK {
		if w.refuse(Step{Check: CheckPurpose, Code: code}, nil, nil) {
			return
		}
	} else {
		w.passPurpose()
	}
	if w.entry == nil {
		return
	}

	s := subject{r: w.r, purpose: w.d.Purpose}
	if plan, ok = w.enforceRules(&s, plan); !ok {
		return
	}
	w.shadowRules(&s, plan)
	w.route(&s, plan)
}

// checkKey is about a request without a key of this policy: authentication has
// been elsewhere.
func (w *walk) checkKey() bool {
	switch k := w.r.Key; {
	case k == nil:
		w.refuse(Step{Check: CheckKey, Code: KeyMissing}, nil, nil)
		return false
	case k.policy != w.p:
		w.refuse(Step{Check: CheckKey, Code: KeyUnknown}, nil, nil)
		return false
	default:
		w.passKey()
		return true
	}
}

// checkModel finds the entry and the targets that the key may use. It is not ok
// if the walk ends here.
func (w *walk) checkModel() (plan uint64, ok bool) {
	e := w.p.models[w.r.Model]
	w.d.Model = e
	if e == nil || e.Dialect != w.r.Dialect {
		return 0, !w.refuse(Step{Check: CheckModel, Code: ModelUnknown}, nil, nil)
	}
	w.entry = e
	plan = w.r.Key.plan[e.index]
	if plan == 0 {
		if w.refuse(Step{Check: CheckModel, Code: ModelDenied}, nil, nil) {
			return 0, false
		}
		return e.all, true
	}
	w.passModel(plan)
	return plan, true
}

// decidePurpose finds the call's purpose and what is wrong with it.
func (w *walk) decidePurpose() Code {
	r, d := w.r, w.d
	switch k := r.Key; {
	case k.Purpose != "":
		d.Purpose, d.PurposeSource = k.Purpose, FromKey
	case r.Purpose != "":
		d.Purpose, d.PurposeSource = r.Purpose, FromHeader
	case k.Team.defaultPurpose != "":
		d.Purpose, d.PurposeSource = k.Team.defaultPurpose, FromTeam
	case w.p.defaultPurpose != "":
		d.Purpose, d.PurposeSource = w.p.defaultPurpose, FromDefault
	case len(w.p.purposes) > 0:
		return PurposeRequired
	default:
		return OK // no registry: a call needs no purpose
	}
	switch {
	case w.contradictsKey():
		return PurposeDenied
	case len(w.p.purposes) > 0 && w.p.purposes[d.Purpose] == nil:
		return PurposeUnknown
	case !r.Key.Team.allowsPurpose(d.Purpose):
		return PurposeDenied
	default:
		return OK
	}
}

// contradictsKey says whether the caller names another purpose than the one the
// key is fixed to.
func (w *walk) contradictsKey() bool {
	return w.r.Key.Purpose != "" && w.r.Purpose != "" && w.r.Purpose != w.r.Key.Purpose
}

// enforceRules takes from the plan what enforced rules refuse. It is not ok if
// the walk ends here. A refusal that does not end the walk leaves the plan as
// it was.
func (w *walk) enforceRules(s *subject, plan uint64) (left uint64, ok bool) {
	for _, u := range w.p.enforced {
		if !u.refuses() {
			continue
		}
		hit, err := w.hits(u, s, plan)
		switch hit {
		case 0:
			w.passRule(u, 0)
		case plan:
			if w.refuse(Step{Check: CheckRule, Name: u.name, Code: RuleDenied}, u, err) {
				return 0, false
			}
		default:
			w.dropTargets(u, err, hit)
			plan &^= hit
		}
	}
	return plan, true
}

// shadowRules notes the rules that would refuse the call if they, and only they
// among the shadowed, were enforced.
func (w *walk) shadowRules(s *subject, plan uint64) {
	for _, u := range w.p.shadowed {
		if !u.refuses() {
			continue
		}
		if hit, err := w.hits(u, s, plan); hit == plan {
			w.wouldRefuse(Step{Check: CheckRule, Name: u.name, Code: RuleDenied}, u, err)
		} else {
			w.passRule(u, hit)
		}
	}
}

// hits is the part of a plan that a rule refuses: by matching, or by failing,
// with the error of one failure.
func (w *walk) hits(u *rule, s *subject, plan uint64) (hit uint64, failure error) {
	for rest := plan; rest != 0; rest &= rest - 1 {
		i := bits.TrailingZeros64(rest)
		s.target = &w.entry.Targets[i]
		matches, err := u.matches(s)
		if err != nil {
			failure = err
		}
		if err != nil || matches && u.deny != "" {
			hit |= 1 << i
		}
	}
	return hit, failure
}

// route chooses the target and lays down its cap. In shadow the plan is not
// narrowed, nor is a cap laid down.
func (w *walk) route(s *subject, plan uint64) {
	if w.p.shadow {
		plan = w.entry.all
		if free := plan &^ w.blocked; free != 0 { // else Explain, beyond a refusal
			plan = free
		}
	}
	s.target = &w.entry.Targets[pick(w.entry, plan, w.r.Pick)]
	w.d.Target = *s.target
	w.passRoute(plan)
	for _, u := range w.p.enforced {
		n := u.set.MaxOutputTokens
		if n == 0 {
			continue
		}
		matches, err := u.matches(s)
		w.passSet(u, matches, w.p.shadow)
		if err != nil || !matches {
			continue
		}
		if !w.p.shadow && (w.d.MaxOutput == 0 || n < w.d.MaxOutput) {
			w.d.MaxOutput = n
		}
	}
	if w.explain {
		w.explainShadowSets(s)
	}
}

// pick is the target at x in [0,1) of the plan's weights laid end to end.
func pick(e *ModelEntry, plan uint64, x float64) int {
	var total int
	for rest := plan; rest != 0; rest &= rest - 1 {
		total += max(e.Targets[bits.TrailingZeros64(rest)].Weight, 1)
	}
	at := x * float64(total)
	for rest := plan; ; rest &= rest - 1 {
		i := bits.TrailingZeros64(rest)
		at -= float64(max(e.Targets[i].Weight, 1))
		if at < 0 || rest&(rest-1) == 0 {
			return i
		}
	}
}

// refuse gives the answer, or in shadow notes what it would be. It says whether
// the walk ends.
func (w *walk) refuse(s Step, u *rule, failure error) (end bool) {
	if w.p.shadow && s.Code.softens() && (u == nil || u.block == nil) {
		w.wouldRefuse(s, u, failure)
		return false
	}
	s.Outcome = Refuse
	s.Reason = w.reason(s.Code, u, failure)
	w.d.Code, w.d.Rule, w.d.Reason = s.Code, s.Name, s.Reason
	if c := w.p.purposes[w.d.Purpose]; s.Code == PurposeDenied && c != nil && c.Owner != "" && !w.contradictsKey() {
		w.d.Owner = c.Owner
	}
	w.step(s, failure)
	return !w.explain
}

// wouldRefuse notes a refusal that is not enforced.
func (w *walk) wouldRefuse(s Step, u *rule, failure error) {
	if u != nil {
		w.d.WouldDeny = append(w.d.WouldDeny, u.would)
	} else {
		w.d.WouldDeny = append(w.d.WouldDeny, s.Code.String())
	}
	if w.explain {
		s.Outcome = WouldRefuse
		s.Reason = w.reason(s.Code, u, failure)
		w.step(s, failure)
	}
}

// softens says whether Config.Shadow lets a call go on that the code refuses.
func (c Code) softens() bool {
	switch c {
	case ModelDenied, PurposeRequired, PurposeUnknown, PurposeDenied, RuleDenied:
		return true
	default:
		return false
	}
}
