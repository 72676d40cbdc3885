package dialect

import "bytes"

// closeItem sees input items that only name what the provider keeps.
func (p *parser) closeItem() {
	if p.r.Operation != Responses {
		return
	}
	switch o := &p.obj; string(p.name(o.typ)) {
	case "item_reference":
		p.store("item_reference")
	case "": // the type of an item reference is optional
		if o.id && !o.role {
			p.store("item_reference")
		}
	case "image_generation_call":
		if !o.result {
			p.store("image_generation_call")
		}
	}
}

// closeOpenAITool tells tools the caller runs from those the provider runs.
// What is not known to be the caller's is the provider's.
func (p *parser) closeOpenAITool() {
	name := p.name(p.obj.typ)
	switch string(name) {
	case "", "function", "custom", "local_shell", "apply_patch", "namespace":
		return
	case "tool_search":
		if p.obj.client {
			return
		}
	}
	p.server = true
	if string(name) == "image_generation" {
		p.unbounded = true // another model's tokens, which no cap of this call counts
	}
	if bytes.HasPrefix(name, []byte("mcp")) {
		p.refer("tools")
	}
}
