package provider

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

// Shapes as the providers document them (OpenAI API reference: chat, responses,
// completions, embeddings; Anthropic API reference: messages, streaming,
// errors).

type object = map[string]any

func (a *answer) errorBody() object {
	kind, text := a.script.Error, "the scripted provider was told to fail"
	if a.fault != "" {
		text = a.fault
	}
	if kind == "" {
		kind = "api_error"
	}
	if a.anthropic {
		return object{"type": "error", "error": object{"type": kind, "message": text}, "request_id": "req_scripted"}
	}
	return object{"error": object{"message": text, "type": kind, "param": nil, "code": kind}}
}

// errorEvent is an error inside a stream.
func (a *answer) errorEvent() event {
	switch {
	case strings.HasSuffix(a.path, "/responses"):
		e := a.errorBody()["error"].(object)
		return event{name: "error", data: object{"type": "error", "code": e["code"], "message": e["message"], "param": nil, "sequence_number": a.sent}}
	case a.anthropic:
		return event{name: "error", data: a.errorBody()}
	}
	return event{data: a.errorBody()}
}

// effort is what a model of the family that does not reason says of reasoning.
func (a *answer) effort() any {
	if strings.HasPrefix(a.model, "gpt-4") {
		return nil
	}
	return "medium"
}

func (a *answer) tier() string {
	if a.script.Tier != "" {
		return a.script.Tier
	}
	if a.anthropic {
		return "standard"
	}
	return "default"
}

func (a *answer) chatUsage() any {
	if a.script.Usage == "none" {
		return nil
	}
	in, out := a.figures()
	return object{
		"prompt_tokens": in, "completion_tokens": out, "total_tokens": in + out,
		"prompt_tokens_details":     object{"cached_tokens": a.script.Cached},
		"completion_tokens_details": object{"reasoning_tokens": a.script.Reasoning},
	}
}

func (a *answer) completion() object {
	chat := strings.HasSuffix(a.path, "/chat/completions")
	o := object{"id": "chatcmpl-scripted", "created": a.began.Unix(), "model": a.model, "service_tier": a.tier()}
	choice := object{"index": 0, "finish_reason": "stop"}
	if chat {
		o["object"] = "chat.completion"
		choice["message"] = object{"role": "assistant", "content": a.text(), "refusal": nil}
	} else {
		o["object"] = "text_completion"
		choice["text"] = a.text()
	}
	o["choices"] = []any{choice}
	if u := a.chatUsage(); u != nil {
		o["usage"] = u
	}
	return o
}

func (a *answer) embeddings() object {
	in, _ := a.figures()
	return object{
		"object": "list", "model": a.model,
		"data":  []any{object{"object": "embedding", "index": 0, "embedding": []float64{0.1, 0.2, 0.3}}},
		"usage": object{"prompt_tokens": in, "total_tokens": in},
	}
}

func (a *answer) response(status string, withUsage bool) object {
	o := object{
		"id": "resp_scripted", "object": "response", "created_at": a.began.Unix(), "status": status, "model": a.model,
		"output": []any{}, "usage": nil, "service_tier": a.tier(), "error": nil, "incomplete_details": nil,
		"parallel_tool_calls": true, "tool_choice": "auto", "tools": []any{}, "reasoning": object{"effort": a.effort(), "summary": nil},
	}
	if status == "completed" {
		o["output"] = []any{object{
			"id": "msg_scripted", "type": "message", "role": "assistant", "status": "completed",
			"content": []any{object{"type": "output_text", "text": a.text(), "annotations": []any{}}},
		}}
	}
	if withUsage && a.script.Usage != "none" {
		in, out := a.figures()
		o["usage"] = object{
			"input_tokens": in, "input_tokens_details": object{"cached_tokens": a.script.Cached},
			"output_tokens": out, "output_tokens_details": object{"reasoning_tokens": a.script.Reasoning},
			"total_tokens": in + out,
		}
	}
	return o
}

func (a *answer) messageUsage(out int64) object {
	in, _ := a.figures()
	return object{
		"input_tokens": max(0, in-a.script.Cached), "cache_read_input_tokens": a.script.Cached, "cache_creation_input_tokens": 0,
		"cache_creation": object{"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
		"output_tokens":  out, "service_tier": a.tier(),
	}
}

func (a *answer) message() object {
	_, out := a.figures()
	o := object{
		"id": "msg_scripted", "type": "message", "role": "assistant", "model": a.model,
		"content":     []any{object{"type": "text", "text": a.text()}},
		"stop_reason": "end_turn", "stop_sequence": nil,
	}
	if a.script.Usage != "none" {
		o["usage"] = a.messageUsage(out)
	}
	return o
}

// event is one SSE event; an empty name writes data only.
type event struct {
	name string
	data any
	raw  string // instead of data
}

// events streams head, text and tail, with what the script wants in between.
func (a *answer) events(w http.ResponseWriter, r *http.Request) {
	var head []event
	var piece func(text string) event
	var tail func() []event
	switch {
	case strings.HasSuffix(a.path, "/responses"):
		head, piece, tail = a.responseEvents()
	case a.anthropic:
		head, piece, tail = a.messageEvents()
	default:
		piece, tail = a.chatEvents()
	}
	w.Header().Set("content-type", "text/event-stream")
	w.WriteHeader(a.script.Status)
	flush := http.NewResponseController(w)

	send := func(e event) bool {
		if _, err := w.Write(e.encode()); err != nil {
			return false
		}
		return flush.Flush() == nil
	}
	for _, e := range head {
		if !send(e) {
			return
		}
	}
	text, n := a.text(), max(1, a.script.Chunks)
	for i := range n {
		if a.sent > 0 && !wait(r, a.script.Every) {
			return
		}
		if !send(piece(text[len(text)*i/n : len(text)*(i+1)/n])) {
			return
		}
		a.sent++
		a.last = time.Now()
		switch a.sent {
		case a.script.ResetAt:
			a.breakOff(w, true)
			return
		case a.script.CloseAt:
			a.breakOff(w, false)
			return
		}
		if a.script.Fail != "" && a.sent == a.script.FailAt {
			a.script.Error = a.script.Fail
			send(a.errorEvent())
			a.outcome = "answered"
			return
		}
		if a.sent == a.script.StallAt && !wait(r, a.script.Stall) {
			return
		}
	}
	for _, e := range tail() {
		if !send(e) {
			return
		}
	}
	a.outcome = "answered"
}

func (e event) encode() []byte {
	var b bytes.Buffer
	if e.name != "" {
		b.WriteString("event: " + e.name + "\n")
	}
	b.WriteString("data: ")
	if e.raw != "" {
		b.WriteString(e.raw)
	} else {
		j, err := json.Marshal(e.data)
		if err != nil {
			j = []byte("{}")
		}
		b.Write(j)
	}
	b.WriteString("\n\n")
	return b.Bytes()
}

func (a *answer) chatEvents() (piece func(string) event, tail func() []event) {
	chat := strings.HasSuffix(a.path, "/chat/completions")
	frame := func(choices []any, usage any) event {
		o := object{"id": "chatcmpl-scripted", "created": a.began.Unix(), "model": a.model, "service_tier": a.tier(), "choices": choices}
		o["object"] = "text_completion"
		if chat {
			o["object"] = "chat.completion.chunk"
		}
		if usage != nil {
			o["usage"] = usage
		}
		return event{data: o}
	}
	choice := func(text string, finish any) []any {
		if chat {
			delta := object{}
			if finish == nil {
				delta["content"] = text
			}
			return []any{object{"index": 0, "delta": delta, "finish_reason": finish}}
		}
		return []any{object{"index": 0, "text": text, "finish_reason": finish}}
	}
	piece = func(text string) event { return frame(choice(text, nil), nil) }
	tail = func() []event {
		end := []event{frame(choice("", "stop"), nil)}
		if u := a.chatUsage(); u != nil && a.usage {
			end = append(end, frame([]any{}, u))
		}
		return append(end, event{raw: "[DONE]"})
	}
	return piece, tail
}

func (a *answer) responseEvents() (head []event, piece func(string) event, tail func() []event) {
	seq := 0
	named := func(name string, o object) event {
		o["type"], o["sequence_number"] = name, seq
		seq++
		return event{name: name, data: o}
	}
	item := object{"id": "msg_scripted", "type": "message", "role": "assistant", "status": "in_progress", "content": []any{}}
	head = []event{
		named("response.created", object{"response": a.response("in_progress", false)}),
		named("response.in_progress", object{"response": a.response("in_progress", false)}),
		named("response.output_item.added", object{"output_index": 0, "item": item}),
		named("response.content_part.added", object{
			"item_id": "msg_scripted", "output_index": 0, "content_index": 0,
			"part": object{"type": "output_text", "text": "", "annotations": []any{}},
		}),
	}
	piece = func(text string) event {
		return named("response.output_text.delta", object{"item_id": "msg_scripted", "output_index": 0, "content_index": 0, "delta": text})
	}
	tail = func() []event {
		return []event{named("response.completed", object{"response": a.response("completed", true)})}
	}
	return head, piece, tail
}

func (a *answer) messageEvents() (head []event, piece func(string) event, tail func() []event) {
	_, out := a.figures()
	start := a.message()
	start["content"], start["stop_reason"] = []any{}, nil
	if a.script.Usage != "none" {
		start["usage"] = a.messageUsage(1)
	}
	head = []event{
		{name: "message_start", data: object{"type": "message_start", "message": start}},
		{name: "content_block_start", data: object{"type": "content_block_start", "index": 0, "content_block": object{"type": "text", "text": ""}}},
		{name: "ping", data: object{"type": "ping"}},
	}
	piece = func(text string) event {
		return event{name: "content_block_delta", data: object{
			"type": "content_block_delta", "index": 0, "delta": object{"type": "text_delta", "text": text},
		}}
	}
	delta := object{"type": "message_delta", "delta": object{"stop_reason": "end_turn", "stop_sequence": nil}}
	if a.script.Usage != "none" {
		delta["usage"] = object{"output_tokens": out}
	}
	tail = func() []event {
		return []event{
			{name: "content_block_stop", data: object{"type": "content_block_stop", "index": 0}},
			{name: "message_delta", data: delta},
			{name: "message_stop", data: object{"type": "message_stop"}},
		}
	}
	return head, piece, tail
}
