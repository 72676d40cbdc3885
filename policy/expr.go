package policy

import (
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
)

// expr is a condition lowered from a checked CEL expression: a tree that is
// walked by a switch, allocates nothing and cannot fail. It means exactly what
// CEL means by the same text; a property test holds the two together.
type expr struct {
	op   op
	l, r *expr     // operands of not, and, or, same, differ
	x, y operand   // operands of the comparisons
	list []operand // right side of textIn and numberIn
}

type op uint8

const (
	flagOf op = iota // x
	not
	and
	or
	same   // l == r on bools
	differ // l != r on bools
	textEqual
	textIn
	textStarts
	tagIn // x is a tag of y's field
	numberEqual
	numberLess
	numberLessEqual
	numberIn
)

// operand is a field of the subject, one tag of it, or, where field is zero, a
// literal.
type operand struct {
	kind   kind
	field  field
	tag    string // of a tags field, when kind is text
	text   string
	number int64
	flag   bool
}

func (o *operand) textOf(s *subject) string {
	switch o.field {
	case 0:
		return o.text
	case teamTags, providerTags:
		return s.tags(o.field)[o.tag]
	default:
		return s.text(o.field)
	}
}

func (o *operand) numberOf(s *subject) int64 {
	if o.field == 0 {
		return o.number
	}
	return s.number(o.field)
}

func (o *operand) flagOf(s *subject) bool {
	if o.field == 0 {
		return o.flag
	}
	return s.flag(o.field)
}

func (e *expr) eval(s *subject) bool {
	switch e.op {
	case flagOf:
		return e.x.flagOf(s)
	case not:
		return !e.l.eval(s)
	case and:
		return e.l.eval(s) && e.r.eval(s)
	case or:
		return e.l.eval(s) || e.r.eval(s)
	case same:
		return e.l.eval(s) == e.r.eval(s)
	case differ:
		return e.l.eval(s) != e.r.eval(s)
	case textEqual:
		return e.x.textOf(s) == e.y.textOf(s)
	case textIn:
		x := e.x.textOf(s)
		for i := range e.list {
			if e.list[i].textOf(s) == x {
				return true
			}
		}
		return false
	case textStarts:
		return strings.HasPrefix(e.x.textOf(s), e.y.textOf(s))
	case tagIn:
		_, ok := s.tags(e.y.field)[e.x.textOf(s)]
		return ok
	case numberEqual:
		return e.x.numberOf(s) == e.y.numberOf(s)
	case numberLess:
		return e.x.numberOf(s) < e.y.numberOf(s)
	case numberLessEqual:
		return e.x.numberOf(s) <= e.y.numberOf(s)
	case numberIn:
		x := e.x.numberOf(s)
		for i := range e.list {
			if e.list[i].numberOf(s) == x {
				return true
			}
		}
		return false
	default:
		panic("policy: expr of no op")
	}
}

// lower translates a checked CEL expression of type bool. It is nil where the
// expression goes beyond the subset, even in a part.
func lower(e ast.Expr) *expr {
	if o, ok := lowerOperand(e); ok {
		if o.kind != flag {
			return nil
		}
		return &expr{op: flagOf, x: o}
	}
	if e.Kind() != ast.CallKind {
		return nil
	}
	call := e.AsCall()
	args := call.Args()
	if call.IsMemberFunction() {
		args = append([]ast.Expr{call.Target()}, args...)
	}
	switch call.FunctionName() {
	case operators.LogicalNot:
		return logical(not, args)
	case operators.LogicalAnd:
		return logical(and, args)
	case operators.LogicalOr:
		return logical(or, args)
	case operators.Equals:
		if e := compare(textEqual, numberEqual, args[0], args[1]); e != nil {
			return e
		}
		return logical(same, args)
	case operators.NotEquals:
		if e := compare(textEqual, numberEqual, args[0], args[1]); e != nil {
			return &expr{op: not, l: e}
		}
		return logical(differ, args)
	case operators.Less:
		return compare(0, numberLess, args[0], args[1])
	case operators.LessEquals:
		return compare(0, numberLessEqual, args[0], args[1])
	case operators.Greater:
		return compare(0, numberLess, args[1], args[0])
	case operators.GreaterEquals:
		return compare(0, numberLessEqual, args[1], args[0])
	case overloads.StartsWith:
		return compare(textStarts, 0, args[0], args[1])
	case operators.In:
		return member(args[0], args[1])
	default:
		return nil
	}
}

// logical lowers an operator on conditions.
func logical(op op, args []ast.Expr) *expr {
	e := &expr{op: op, l: lower(args[0])}
	if e.l == nil {
		return nil
	}
	if len(args) > 1 {
		if e.r = lower(args[1]); e.r == nil {
			return nil
		}
	}
	return e
}

// compare lowers an operator on two texts or two numbers; a zero op says that
// it does not exist for the kind.
func compare(onText, onNumber op, x, y ast.Expr) *expr {
	l, ok := lowerOperand(x)
	if !ok {
		return nil
	}
	r, ok := lowerOperand(y)
	if !ok || l.kind != r.kind {
		return nil
	}
	e := &expr{x: l, y: r}
	switch l.kind {
	case text:
		e.op = onText
	case number:
		e.op = onNumber
	default:
		return nil
	}
	if e.op == 0 {
		return nil
	}
	return e
}

// member lowers x in [a, b] and "tag" in team.tags.
func member(x, in ast.Expr) *expr {
	l, ok := lowerOperand(x)
	if !ok {
		return nil
	}
	if r, ok := lowerOperand(in); ok {
		if l.kind != text || r.kind != tags {
			return nil
		}
		return &expr{op: tagIn, x: l, y: r}
	}
	if in.Kind() != ast.ListKind {
		return nil
	}
	e := &expr{x: l}
	switch l.kind {
	case text:
		e.op = textIn
	case number:
		e.op = numberIn
	default:
		return nil
	}
	for _, element := range in.AsList().Elements() {
		o, ok := lowerOperand(element)
		if !ok || o.kind != l.kind {
			return nil
		}
		e.list = append(e.list, o)
	}
	return e
}

// lowerOperand translates a literal, a field or one tag.
func lowerOperand(e ast.Expr) (operand, bool) {
	switch e.Kind() {
	case ast.LiteralKind:
		switch v := e.AsLiteral().(type) {
		case types.String:
			return operand{kind: text, text: string(v)}, true
		case types.Int:
			return operand{kind: number, number: int64(v)}, true
		case types.Bool:
			return operand{kind: flag, flag: bool(v)}, true
		}
	case ast.IdentKind:
		if f, k, ok := fact("", e.AsIdent()); ok {
			return operand{kind: k, field: f}, true
		}
	case ast.SelectKind:
		s := e.AsSelect()
		if s.Operand().Kind() == ast.IdentKind {
			f, k, ok := fact(s.Operand().AsIdent(), s.FieldName())
			return operand{kind: k, field: f}, ok
		}
		if o, ok := lowerOperand(s.Operand()); ok && o.kind == tags {
			return operand{kind: text, field: o.field, tag: s.FieldName()}, true
		}
	case ast.CallKind:
		if c := e.AsCall(); c.FunctionName() == operators.Index {
			o, ok := lowerOperand(c.Args()[0])
			key, literal := lowerOperand(c.Args()[1])
			if ok && o.kind == tags && literal && key.kind == text && key.field == 0 {
				return operand{kind: text, field: o.field, tag: key.text}, true
			}
		}
	default:
	}
	return operand{}, false
}
