package provider

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Script says how one call is answered. Its text is a list of steps separated
// by semicolons; a later step of the same name replaces an earlier one, save
// header:
//
//	status 429                 answer with this status and the dialect's error body
//	error rate_limit_error     the type (and, for OpenAI, the code) of that body
//	header retry-after=5       a header of the answer
//	delay 2s                   wait before the answer's head
//	in 1000                    input tokens to report (default: body bytes / 4)
//	out 500                    output tokens to generate, never above the caller's cap (default 12)
//	cached 200                 of in, read from the cache
//	reasoning 100              of out, reasoning
//	usage none | wrong         report no usage, or one that is 1,000 times too small
//	chunks 20                  into how many events a stream's text is cut (default 5)
//	every 50ms                 pause between them
//	size 65536                 bytes of text to answer with (default: 4 per output token; at most 16 MiB)
//	stall 10s after 3          wait once, after the third event
//	fail overloaded_error after 3   an error event in the stream, which then ends
//	reset after 3              the connection is reset (0: before the head)
//	close after 3              the connection is closed without the stream's end
//	tier priority              service_tier of the answer
//	model gpt-5.4-mini-2026-03-17   the model the answer names
//
// "after" counts events of a stream; for other answers 0 means before the head
// and anything else in the middle of the body.
type Script struct {
	Status    int
	Error     string
	Headers   [][2]string
	Delay     time.Duration
	In        int64 // -1 = from the body's size
	Out       int64
	Cached    int64
	Reasoning int64
	Usage     string // "", none, wrong
	Chunks    int
	Every     time.Duration
	Size      int // -1 = from Out
	Stall     time.Duration
	StallAt   int
	Fail      string
	FailAt    int
	ResetAt   int // -1 = never
	CloseAt   int // -1 = never
	Tier      string
	Model     string
}

// Default answers like a provider in good health.
func Default() Script {
	return Script{Status: 200, In: -1, Out: 12, Chunks: 5, Size: -1, ResetAt: -1, CloseAt: -1}
}

// Parse returns s with the steps of text over it. The error names the step.
func (s Script) Parse(text string) (Script, error) {
	for step := range strings.SplitSeq(text, ";") {
		words := strings.Fields(step)
		if len(words) == 0 {
			continue
		}
		if err := set(&s, words[0], words[1:]); err != nil {
			return Script{}, fmt.Errorf("script step %q: %w", strings.TrimSpace(step), err)
		}
	}
	return s, nil
}

func set(s *Script, name string, args []string) error {
	if len(args) == 0 {
		return errors.New("lacks its value")
	}
	value, rest := args[0], args[1:]
	switch name { // those of more than one word
	case "header":
		k, v, ok := strings.Cut(strings.Join(args, " "), "=")
		if !ok || k == "" {
			return errors.New("want header NAME=VALUE")
		}
		s.Headers = append(slices.Clip(s.Headers), [2]string{k, v})
		return nil
	case "stall":
		return errors.Join(duration(&s.Stall, value), after(&s.StallAt, rest))
	case "fail":
		s.Fail = value
		return after(&s.FailAt, rest)
	case "reset":
		return after(&s.ResetAt, args)
	case "close":
		return after(&s.CloseAt, args)
	}
	if len(rest) > 0 {
		return errors.New("takes one value")
	}
	switch name {
	case "status":
		if err := integer(&s.Status, value); err != nil || s.Status < 200 || s.Status > 599 {
			return errors.New("want a status from 200 to 599")
		}
	case "error":
		s.Error = value
	case "delay":
		return duration(&s.Delay, value)
	case "in":
		return integer(&s.In, value)
	case "out":
		return integer(&s.Out, value)
	case "cached":
		return integer(&s.Cached, value)
	case "reasoning":
		return integer(&s.Reasoning, value)
	case "usage":
		if value != "none" && value != "wrong" {
			return errors.New("want usage none or usage wrong")
		}
		s.Usage = value
	case "chunks":
		return integer(&s.Chunks, value)
	case "every":
		return duration(&s.Every, value)
	case "size":
		return integer(&s.Size, value)
	case "tier":
		s.Tier = value
	case "model":
		s.Model = value
	default:
		return errors.New("no such step")
	}
	return nil
}

func integer[T int | int64](to *T, text string) error {
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 0 {
		return errors.New("want a whole number of at least 0")
	}
	*to = T(n)
	return nil
}

func duration(to *time.Duration, text string) error {
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return errors.New("want a duration such as 50ms")
	}
	*to = d
	return nil
}

func after(to *int, args []string) error {
	if len(args) != 2 || args[0] != "after" {
		return errors.New("want: after N")
	}
	return integer(to, args[1])
}
