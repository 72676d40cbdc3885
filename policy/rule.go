package policy

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// Bounds of one rule. The cost is in CEL's units, about one per operation and
// one per ten characters read.
const (
	maxRuleCost = 10_000 // also enforced while it runs: beyond it the rule fails
	maxRuleText = 4096   // code points
	typicalText = 1024   // characters of one field, for the estimate at load
)

// rule is a compiled RuleConfig. Exactly one of fast and slow is set.
type rule struct {
	name  string
	would string // "rule:NAME", as Decision.WouldDeny has it; "" of a block
	deny  string
	set   Set
	fast  *expr
	slow  cel.Program
	block *Block // in place of a condition; nil = a rule of the configuration
}

var errNotBool = errors.New("not a bool")

// matches says whether the rule applies. Only a rule beyond the lowered subset
// can fail.
func (u *rule) matches(s *subject) (bool, error) {
	if u.fast != nil {
		return u.fast.eval(s), nil
	}
	// The copy is what escapes to the heap, so that callers' subjects do not.
	v, _, err := u.slow.Eval(&activation{*s})
	if err != nil {
		return false, err
	}
	b, ok := v.(types.Bool)
	if !ok {
		return false, errNotBool
	}
	return bool(b), nil
}

// fails says whether the rule must be asked even where a match of it would
// refuse nothing.
func (u *rule) refuses() bool { return u.deny != "" || u.slow != nil }

// compiler compiles rules against one CEL environment.
type compiler struct{ env *cel.Env }

func newCompiler() (*compiler, error) {
	registry, err := types.NewRegistry()
	if err != nil {
		return nil, fmt.Errorf("cel registry: %w", err)
	}
	opts := []cel.EnvOption{
		cel.CustomTypeProvider(&vocabulary{registry}),
		cel.StdLib(),
		cel.ClearMacros(), // no loops
		cel.ParserExpressionSizeLimit(maxRuleText),
		cel.ParserErrorRecoveryLimit(1), // what follows a syntax error is noise
		cel.ASTValidators(cel.ValidateTimestampLiterals(), cel.ValidateDurationLiterals()),
	}
	seen := ""
	for i := range facts {
		f := &facts[i]
		switch f.object {
		case "":
			opts = append(opts, cel.Variable(f.name, f.kind.celType()))
		case seen:
		default:
			seen = f.object
			opts = append(opts, cel.Variable(f.object, cel.ObjectType(f.object)))
		}
	}
	env, err := cel.NewCustomEnv(opts...)
	if err != nil {
		return nil, fmt.Errorf("cel environment: %w", err)
	}
	return &compiler{env}, nil
}

// fault is what is wrong with an expression, and where in it.
type fault struct {
	line, column int
	text         string
}

// check parses and type-checks an expression.
func (c *compiler) check(when string) (*cel.Ast, []fault) {
	parsed, issues := c.env.Parse(when)
	if issues.Err() != nil {
		return nil, faultsOf(issues, nil)
	}
	checked, issues := c.env.Check(parsed)
	if issues.Err() != nil {
		return nil, faultsOf(issues, parsed.NativeRep())
	}
	native := checked.NativeRep()
	var faults []fault
	at := func(e ast.Expr, format string, args ...any) {
		l := native.SourceInfo().GetStartLocation(e.ID())
		faults = append(faults, fault{l.Line(), l.Column() + 1, fmt.Sprintf(format, args...)})
	}
	checkShape(ast.NavigateAST(native), at)
	if t := checked.OutputType(); faults == nil && !t.IsExactType(types.BoolType) {
		at(native.Expr(), "is %s, want bool", cel.FormatCELType(t))
	}
	if faults != nil {
		return nil, faults
	}
	switch estimate, err := c.env.EstimateCost(checked, sizes{}); {
	case err != nil:
		at(native.Expr(), "cost: %v", err)
	case estimate.Max > maxRuleCost:
		at(native.Expr(), "may cost %d, the limit is %d: make it shorter", estimate.Max, maxRuleCost)
	}
	return checked, faults
}

// program plans what cannot be lowered. The cost limit is also a bound while it
// runs, for fields longer than the estimate supposed.
func (c *compiler) program(checked *cel.Ast) (cel.Program, error) {
	return c.env.Program(checked, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxRuleCost))
}

// compile makes a rule's condition.
func (c *compiler) compile(u *rule, when string) []fault {
	checked, faults := c.check(when)
	if faults != nil {
		return faults
	}
	if u.fast = lower(checked.NativeRep().Expr()); u.fast != nil {
		return nil
	}
	program, err := c.program(checked)
	if err != nil {
		return []fault{{1, 1, err.Error()}}
	}
	u.slow = program
	return nil
}

// checkShape refuses what CEL's types allow and rules do not mean.
func checkShape(root ast.NavigableExpr, at func(e ast.Expr, format string, args ...any)) {
	ast.PreOrderVisit(root, ast.NewExprVisitor(func(v ast.Expr) {
		e, ok := v.(ast.NavigableExpr)
		if !ok {
			return
		}
		switch e.Kind() {
		case ast.StructKind:
			at(e, "makes an object; a rule only compares")
		case ast.IdentKind:
			if name := e.AsIdent(); isObject(name) && !selected(e) {
				at(e, "%s is not a value: select a field of it: %s", name, known(name))
			}
		case ast.SelectKind:
			if o, ok := lowerOperand(e); ok && o.kind == tags && !selected(e) && !indexed(e) {
				name := e.AsSelect().Operand().AsIdent() + ".tags"
				at(e, `%s is not a value: select a tag of it, as %s.region, or ask "region" in %s`, name, name, name)
			}
		case ast.CallKind:
			if c := e.AsCall(); c.FunctionName() == overloads.Matches {
				pattern := c.Args()[len(c.Args())-1]
				if o, ok := lowerOperand(pattern); !ok || o.field != 0 {
					at(pattern, "matches takes a literal pattern")
				} else if _, err := regexp.Compile(o.text); err != nil {
					at(pattern, "%v", err)
				}
			}
		default:
		}
	}))
}

// selected says whether e stands before a dot.
func selected(e ast.NavigableExpr) bool {
	parent, ok := e.Parent()
	return ok && parent.Kind() == ast.SelectKind
}

// indexed says whether e stands before a bracket or after in.
func indexed(e ast.NavigableExpr) bool {
	parent, ok := e.Parent()
	if !ok || parent.Kind() != ast.CallKind {
		return false
	}
	args := parent.AsCall().Args()
	switch parent.AsCall().FunctionName() {
	case operators.Index:
		return args[0].ID() == e.ID()
	case operators.In:
		return args[1].ID() == e.ID()
	default:
		return false
	}
}

// faultsOf adds to CEL's messages what the author can do. parsed is nil where
// the text could not be parsed.
func faultsOf(issues *cel.Issues, parsed *ast.AST) []fault {
	var faults []fault
	for _, e := range issues.Errors() {
		message, _, _ := strings.Cut(e.Message, " (in container '')")
		switch {
		case strings.HasPrefix(message, "undefined field") && parsed != nil:
			if object, ok := objectOf(parsed, e.ExprID); ok {
				message += ": there are " + known(object)
			}
		case strings.HasPrefix(message, "undeclared reference to '"):
			name, _, _ := strings.Cut(strings.TrimPrefix(message, "undeclared reference to '"), "'")
			if slices.ContainsFunc(cel.StandardMacros, func(m cel.Macro) bool { return m.Function() == name }) {
				const why = ` here: rules do not loop, and a missing tag is ""`
				return []fault{{e.Location.Line(), e.Location.Column() + 1, "no " + name + why}} // what follows is noise
			} else if !strings.Contains(message, "did you mean") {
				message += ": there are " + known("")
			}
		}
		faults = append(faults, fault{max(e.Location.Line(), 1), max(e.Location.Column(), 0) + 1, message})
	}
	return faults
}

// objectOf is the variable before the dot of a selection.
func objectOf(parsed *ast.AST, id int64) (name string, ok bool) {
	ast.PreOrderVisit(parsed.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.ID() == id && e.Kind() == ast.SelectKind && e.AsSelect().Operand().Kind() == ast.IdentKind {
			name = e.AsSelect().Operand().AsIdent()
		}
	}))
	return name, isObject(name)
}

// known lists the vocabulary of an object, or with "" all of it.
func known(object string) string {
	var names []string
	for i := range facts {
		f := &facts[i]
		switch {
		case f.object == "" && object == "":
			names = append(names, f.name)
		case object == "" || f.object == object:
			names = append(names, f.object+"."+f.name)
		}
	}
	return strings.Join(names, ", ")
}

// sizes tells CEL's estimate how long fields are.
type sizes struct{}

func (sizes) EstimateSize(node cost.AstNode) *cost.SizeEstimate {
	if len(node.Path()) == 0 || !node.Type().IsExactType(types.StringType) {
		return nil
	}
	return &cost.SizeEstimate{Max: typicalText}
}

func (sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

// celType is the kind as CEL knows it.
func (k kind) celType() *cel.Type {
	switch k {
	case text:
		return cel.StringType
	case number:
		return cel.IntType
	case flag:
		return cel.BoolType
	case tags:
		return cel.MapType(cel.StringType, cel.StringType)
	default:
		panic("policy: no such kind")
	}
}

// vocabulary makes the objects of facts known to CEL's type checker, so that an
// unknown field is an error at load.
type vocabulary struct{ types.Provider }

func (v *vocabulary) FindStructType(name string) (*types.Type, bool) {
	if isObject(name) {
		return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
	}
	return v.Provider.FindStructType(name)
}

func (v *vocabulary) FindStructFieldNames(name string) ([]string, bool) {
	if !isObject(name) {
		return v.Provider.FindStructFieldNames(name)
	}
	var names []string
	for i := range facts {
		if facts[i].object == name {
			names = append(names, facts[i].name)
		}
	}
	return names, true
}

func (v *vocabulary) FindStructFieldType(object, name string) (*types.FieldType, bool) {
	if !isObject(object) {
		return v.Provider.FindStructFieldType(object, name)
	}
	f, k, ok := fact(object, name)
	if !ok {
		return nil, false
	}
	return &types.FieldType{
		Type:  k.celType(),
		IsSet: func(any) bool { return true },
		GetFrom: func(target any) (any, error) {
			a, ok := target.(*activation)
			if !ok {
				return nil, fmt.Errorf("%s is a %T", object, target)
			}
			return a.value(f, k), nil
		},
	}, true
}

// activation gives a subject's facts to a CEL program. Objects are the
// activation itself: their types tell the fields apart.
type activation struct{ subject }

// ResolveName is a variable's value.
func (a *activation) ResolveName(name string) (any, bool) {
	if f, k, ok := fact("", name); ok {
		return a.value(f, k), true
	}
	if isObject(name) {
		return a, true
	}
	return nil, false
}

// Parent is nil: there is one scope.
func (a *activation) Parent() cel.Activation { return nil }

func (a *activation) value(f field, k kind) ref.Val {
	switch k {
	case text:
		return types.String(a.text(f))
	case number:
		return types.Int(a.number(f))
	case flag:
		return types.Bool(a.flag(f))
	case tags:
		return tagMap{types.NewStringStringMap(types.DefaultTypeAdapter, a.tags(f))}
	default:
		panic("policy: no such kind")
	}
}

// tagMap finds every key: a missing tag is "". Whether it is set is Contains.
type tagMap struct{ traits.Mapper }

// Find is the tag's value, "" if it is missing.
func (m tagMap) Find(key ref.Val) (ref.Val, bool) {
	v, ok := m.Mapper.Find(key)
	if ok || v != nil { // v without ok is an error: the key is no string
		return v, ok
	}
	return types.String(""), true
}

// Get is Find.
func (m tagMap) Get(key ref.Val) ref.Val {
	v, _ := m.Find(key)
	return v
}
