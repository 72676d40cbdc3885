package dialect

import "bytes"

// anthropicClientTool tells the tools that the caller runs; every other type
// is the provider's (web_search, web_fetch, code_execution, advisor,
// tool_search_tool, mcp_toolset, and what comes).
func anthropicClientTool(typ []byte) bool {
	if len(typ) == 0 || string(typ) == "custom" {
		return true
	}
	for _, prefix := range [...]string{"bash_", "text_editor_", "computer_", "memory_"} {
		if bytes.HasPrefix(typ, []byte(prefix)) {
			return true
		}
	}
	return false
}

// closeSource tells a media block's inline source from a fetched one.
func (p *parser) closeSource() {
	o := &p.obj
	switch string(p.name(o.typ)) {
	case "text", "content":
	case "base64":
		if bytes.HasPrefix(p.name(o.mediaType), []byte("image/")) {
			p.r.Images++
			p.r.ImageBytes += max(0, o.data.To-o.data.From-2)
		} else {
			p.r.Files = true
		}
	default:
		if !o.fetched {
			p.refer("source")
		}
	}
}
