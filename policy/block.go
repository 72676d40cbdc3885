package policy

import "slices"

// Block refuses calls whatever the configuration allows, and Config.Shadow does
// not soften it: who presses stop means it. It has exactly one of Team, Key,
// Model and Provider.
type Block struct {
	Name     string // of the refusal, as a rule has one
	Team     string // and its descendants
	Key      string // id
	Model    string // canonical name
	Provider string
	Reason   string // shown to the caller: who, why, until when
}

// subjects counts what b is about.
func (b *Block) subjects() (n int) {
	for _, s := range []string{b.Team, b.Key, b.Model, b.Provider} {
		if s != "" {
			n++
		}
	}
	return n
}

// compileBlocks makes rules of the blocks: they differ in what they match.
func (b *builder) compileBlocks() {
	for i := range b.config.Blocks {
		c := &b.config.Blocks[i]
		if c.Name == "" || c.Reason == "" || c.subjects() != 1 {
			b.fault("blocks", c.Name, "", "needs a name, a reason, and one of team, key, model and provider")
			continue
		}
		b.policy.blocks = append(b.policy.blocks, &rule{name: c.Name, deny: c.Reason, block: c})
	}
}

// callers says whether the block is about who calls.
func (b *Block) callers() bool { return b.Team != "" || b.Key != "" }

func (b *Block) caller(k *KeyEntry) bool {
	return b.Key != "" && b.Key == k.ID || b.Team != "" && slices.Contains(k.Team.Lineage, b.Team)
}

func (b *Block) target(t *Target) bool {
	return b.Model != "" && b.Model == t.Model || b.Provider != "" && b.Provider == t.Provider
}

// Blocked says whether all calls of k are refused, and if so writes to d what
// Evaluate would: such a call need not be uploaded.
func (p *Policy) Blocked(k *KeyEntry, d *Decision) bool {
	for _, u := range p.blocks {
		if u.block.caller(k) {
			*d = Decision{Code: RuleDenied, Rule: u.name, Reason: u.deny, Owner: k.Team.Owner, WouldDeny: d.WouldDeny[:0]}
			return true
		}
	}
	return false
}

// checkCaller looks for a block of the key or its team. It is not ok if the walk
// ends here.
func (w *walk) checkCaller() bool {
	for _, u := range w.p.blocks {
		if !u.block.callers() {
			continue
		}
		if !u.block.caller(w.r.Key) {
			w.passRule(u, 0)
			continue
		}
		if w.refuse(Step{Check: CheckRule, Name: u.name, Code: RuleDenied}, u, nil) {
			return false
		}
	}
	return true
}

// checkTargets takes blocked targets from the plan. In shadow, which narrows no
// plan, a call is refused when all there are are blocked. It is not ok if the
// walk ends here.
func (w *walk) checkTargets(plan uint64) (left uint64, ok bool) {
	left = plan
	if w.p.shadow {
		left = w.entry.all
	}
	for _, u := range w.p.blocks {
		if u.block.callers() {
			continue
		}
		var hit uint64
		for i := range w.entry.Targets {
			if u.block.target(&w.entry.Targets[i]) {
				hit |= 1 << i
			}
		}
		w.blocked |= hit
		switch hit &= left; hit {
		case 0:
			w.passRule(u, 0)
		case left:
			if w.refuse(Step{Check: CheckRule, Name: u.name, Code: RuleDenied}, u, nil) {
				return 0, false
			}
		default:
			w.dropTargets(u, nil, hit)
			left &^= hit
		}
	}
	if free := plan &^ w.blocked; free != 0 {
		return free, true
	}
	return left, true
}
