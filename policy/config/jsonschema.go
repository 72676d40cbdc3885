package config

import (
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
)

// Schema is the JSON Schema (draft 2020-12) of one document, for editors:
//
//	# yaml-language-server: $schema=airgate.schema.json
//
// It accepts everything Load accepts. Load refuses more: what a schema cannot
// say, such as references and sections in a document of another kind.
func Schema() []byte {
	s := typeSchema(reflect.TypeFor[document](), "")
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "airgate configuration, " + APIVersion
	out, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic("config: schema: " + err.Error()) // it is maps, slices, strings and numbers
	}
	return append(out, '\n')
}

// composed is a type of the schema that other types make up.
type composed interface {
	jsonSchema(tag reflect.StructTag) map[string]any
}

func typeSchema(t reflect.Type, tag reflect.StructTag) map[string]any {
	s := bareSchema(t, tag)
	if doc := tag.Get("doc"); doc != "" {
		s["description"] = doc
	}
	return s
}

func bareSchema(t reflect.Type, tag reflect.StructTag) map[string]any {
	word := func(pattern string) map[string]any {
		s := map[string]any{"type": "string", "minLength": 1}
		if pattern != "" {
			s["pattern"] = pattern
		}
		return s
	}
	switch x := reflect.New(t).Interface().(type) {
	case composed:
		return x.jsonSchema(tag)
	case *label:
		return word(labelPattern(tag.Get("also")))
	case *text, *upstreamName, *expression, *zone:
		return word("")
	case *hidden:
		return map[string]any{"type": "string"}
	case *choice:
		return map[string]any{"enum": choices(tag)}
	case *boolean:
		return map[string]any{"type": "boolean"}
	case *count:
		return map[string]any{"type": "integer", "minimum": bound(tag, "min", 1), "maximum": bound(tag, "max", maxCount)}
	case *dollars, *price:
		return map[string]any{"type": []string{"number", "string"}, "minimum": 0, "pattern": `^[0-9]+(\.[0-9]{1,9})?$`}
	case *allowance:
		return map[string]any{"type": []string{"number", "string"}, "minimum": 0, "pattern": `^([1-9][0-9]{0,3}%|[0-9]+(\.[0-9]{1,9})?)$`}
	case *rate:
		return word(`^[1-9][0-9]*/(s|min|h|day)$`)
	case *instant:
		return word(`^[0-9]{4}-[0-9]{2}-[0-9]{2}`)
	case *period:
		return word(`^([0-9.]+(ms|s|m|h))+$`)
	case *threshold:
		return word(`^(forecast )?[1-9][0-9]{0,3}%$`)
	case *digest:
		return word(`^sha256:[0-9a-f]{64}$`)
	}
	return objectSchema(t)
}

// choices are the words of a choice. YAML reads some of them as numbers.
func choices(tag reflect.StructTag) []any {
	var out []any
	for w := range strings.FieldsSeq(tag.Get("oneof")) {
		out = append(out, w)
		if n, err := strconv.Atoi(w); err == nil {
			out = append(out, n)
		}
	}
	return out
}

// labelPattern is what badLabel accepts.
func labelPattern(also string) string {
	return `^[A-Za-z0-9][A-Za-z0-9._@+` + also + `-]*$`
}

func objectSchema(t reflect.Type) map[string]any {
	properties, patterns := make(map[string]any), make(map[string]any)
	var required []string
	for _, f := range fieldsOf(t) {
		prefix, open := strings.CutSuffix(f.name, "*")
		switch s := typeSchema(t.FieldByIndex(f.index).Type, f.tag); {
		case f.later:
		case open:
			patterns["^"+strings.ReplaceAll(prefix, ".", `\.`)] = s["additionalProperties"]
		default:
			properties[f.name] = s
		}
		if f.required {
			required = append(required, f.name)
		}
	}
	s := map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
	if len(patterns) > 0 {
		s["patternProperties"] = patterns
	}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}

func (*anything) jsonSchema(reflect.StructTag) map[string]any { return map[string]any{} }

func (*outage) jsonSchema(reflect.StructTag) map[string]any {
	return map[string]any{"anyOf": []any{map[string]any{"enum": []any{"deny"}}, objectSchema(reflect.TypeFor[outage]())}}
}

// element is the schema of what a list or dict holds: the description is that
// of the whole.
func element[T any](tag reflect.StructTag) map[string]any {
	return bareSchema(reflect.TypeFor[T](), tag)
}

func (*list[T]) jsonSchema(tag reflect.StructTag) map[string]any {
	return map[string]any{"type": "array", "items": element[T](tag)}
}

func (*many[T]) jsonSchema(tag reflect.StructTag) map[string]any {
	one := element[T](tag)
	return map[string]any{"anyOf": []any{one, map[string]any{"type": "array", "items": one, "minItems": 1}}}
}

func (*dict[T]) jsonSchema(tag reflect.StructTag) map[string]any {
	return map[string]any{
		"type": "object", "additionalProperties": element[T](tag),
		"propertyNames": map[string]any{"pattern": labelPattern(tag.Get("also"))},
	}
}
