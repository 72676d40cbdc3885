package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"airgate/accounting/money"
	"airgate/policy/config"
	"airgate/processor"
)

// explained is what explain reads of a request of the API.
type explained struct {
	RequestID      string           `json:"request_id"`
	Time           string           `json:"time"`
	KeyID          string           `json:"key_id"`
	KeyName        string           `json:"key_name"`
	Team           string           `json:"team"`
	TeamPath       string           `json:"team_path"`
	Purpose        string           `json:"purpose"`
	PurposeSource  string           `json:"purpose_source"`
	Endpoint       string           `json:"endpoint"`
	ModelRequested string           `json:"model_requested"`
	Model          string           `json:"model"`
	Provider       string           `json:"provider"`
	ModelServed    string           `json:"model_served"`
	PriceID        string           `json:"price_id"`
	Decision       string           `json:"decision"`
	Code           string           `json:"code"`
	Rule           string           `json:"rule"`
	Detail         string           `json:"detail"`
	WouldDeny      []string         `json:"would_deny"`
	Limits         []explainedLimit `json:"limits"`
	ConfigHash     string           `json:"config_hash"`
	Store          string           `json:"store"`
	Cap            *int64           `json:"cap"`
	Reserved       *string          `json:"reserved_usd"`
	Cost           *string          `json:"cost_usd"`
	Tokens         map[string]int64 `json:"tokens"`
	UsageSource    string           `json:"usage_source"`
	Class          *string          `json:"class"`
	Family         *string          `json:"family"`
	Status         int              `json:"status"`
	Cause          string           `json:"cause"`
	Cut            string           `json:"cut"`
	TTFT           *int64           `json:"ttft_ms"`
	Duration       *int64           `json:"duration_ms"`
}

type explainedLimit struct {
	Name     string `json:"name"`
	Resource string `json:"resource"`
	Limit    amount `json:"limit"`
	Used     amount `json:"used"`
	Reserved amount `json:"reserved"`
	Needed   amount `json:"needed"`
	Worst    amount `json:"worst"`
	Reset    string `json:"reset"`
	Mode     string `json:"mode"`
}

// verdict marks a budget that the call did not fit.
func (l *explainedLimit) verdict() string {
	if l.Resource != "usd" {
		return ""
	}
	var n [4]money.NanoUSD
	for i, a := range []amount{l.Limit, l.Used, l.Reserved, l.Needed} {
		var err error
		if n[i], err = money.ParseUSD(string(a)); err != nil {
			return ""
		}
	}
	if n[1]+n[2]+n[3] > n[0] {
		return " <- does not fit"
	}
	return ""
}

// beyond says by how much the call can pass what a budget that holds what is expected
// has held for it.
func (l *explainedLimit) beyond() string {
	needed, err := money.ParseUSD(string(l.Needed))
	worst, err2 := money.ParseUSD(string(l.Worst))
	if l.Worst == "" || err != nil || err2 != nil {
		return ""
	}
	return " as expected (it can cost " + worst.String() + ", " + (worst - needed).String() + " more)"
}

// amount is a number, or money as text, as it stands in the record.
type amount string

// UnmarshalJSON takes either.
func (a *amount) UnmarshalJSON(b []byte) error {
	if b[0] != '"' {
		*a = amount(b)
		return nil
	}
	return json.Unmarshal(b, (*string)(a))
}

func newExplain(t *terminal, f *flags) *cobra.Command {
	var r reader
	var last bool
	cmd := &cobra.Command{
		Use:   "explain ID",
		Short: "Why a request was allowed or refused, and what it cost",
		Long: "ID is the x-airgate-request-id of the answer. Figures are those at the moment of the decision, which is\n" +
			"what the record keeps: they do not change when limits do. What a limit does while the shared store is down is\n" +
			"that of the config in force.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if last == (len(args) == 1) {
				return usageFault(errors.New("explain takes a request id, or --last"))
			}
			if last {
				var page struct{ Requests []explained }
				if _, err := r.get(cmd.Context(), "/api/v1/requests?limit=1", &page); err != nil {
					return err
				}
				if len(page.Requests) == 0 {
					return errors.New("there is no request yet")
				}
				args = []string{page.Requests[0].RequestID}
			}
			var e explained
			body, err := r.get(cmd.Context(), "/api/v1/requests/"+url.PathEscape(args[0]), &e)
			if err != nil {
				return err
			}
			r.sayScope(t)
			if r.output.text == "json" {
				_, err := t.out.Write(body)
				return err
			}
			var now struct{ Outages []config.Outage }
			if _, err := r.get(cmd.Context(), "/-/config", &now); err != nil {
				return err
			}
			_, err = fmt.Fprint(t.out, e.text(now.Outages))
			return err
		},
	}
	r.add(cmd, f, "table", "json")
	r.addOffline(cmd)
	cmd.Flags().BoolVar(&last, "last", false, "the newest request instead of an id")
	return cmd
}

// outage tells what becomes of calls on l while the store is down, and the
// bound that then holds; "" where no store can be down, or nothing is refused.
func (l *explainedLimit) outage(all []config.Outage) string {
	i := slices.IndexFunc(all, func(o config.Outage) bool { return o.Name == l.Name && o.Resource == l.Resource })
	if i < 0 || l.Mode == "shadow" {
		return ""
	}
	o := &all[i]
	does := "a call that lacks what is in hand is refused"
	switch {
	case o.OnStoreDown == "allow":
		return "a call passes, and there is no bound"
	case o.Each != nil:
		does = "each airgate may hold " + o.Each.String() + " USD beyond what it has in hand, then refuses"
	}
	if limit, err := money.ParseUSD(string(l.Limit)); err == nil && o.Beyond != nil {
		does += "; the bound is " + (limit + *o.Beyond).String() + " USD"
	}
	return does
}

// text tells the request from caller to cost.
func (e *explained) text(outages []config.Outage) string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-10s %s\n", name, plain(fmt.Sprintf(format, args...)))
	}
	outcome := ", open"
	switch {
	case e.Class == nil:
	case e.Decision == "allow" && *e.Class != string(processor.ClassOK):
		outcome = ", then failed: " + *e.Class
	default:
		outcome = ", " + *e.Class
	}
	verdict := map[string]string{"allow": "allowed", "deny": "refused", "none": "ended before a decision"}[e.Decision]
	line("request", "%s at %s", e.RequestID, e.Time)
	line("decision", "%s%s%s", verdict, inBrackets(e.Code), outcome)
	line("key", "%s (%s)", e.KeyName, e.KeyID)
	line("team", "%s", cmp.Or(e.TeamPath, e.Team))
	if e.Purpose != "" {
		line("purpose", "%s, from %s", e.Purpose, e.PurposeSource)
	}
	line("call", "%s%s", e.Endpoint, after(", model ", e.ModelRequested)) // one that is refused at its headers has no model yet
	if e.Provider != "" {
		line("target", "%s at %s%s", e.Model, e.Provider, after(", served by ", e.ModelServed))
	}
	if e.Rule != "" {
		line("rule", "%s%s", e.Rule, after(": ", e.Detail))
	}
	for _, w := range e.WouldDeny {
		line("shadow", "%s would have refused it", w)
	}
	for _, l := range e.Limits {
		unit := l.Resource
		if unit == "usd" {
			unit = "USD"
		}
		line("limit", "%s: %s %s, used %s, held by others %s, needed %s%s%s%s%s", l.Name, l.Limit, unit, l.Used, l.Reserved, l.Needed,
			l.beyond(), after(", until ", l.Reset), shadow(l.Mode), l.verdict())
		if text := l.outage(outages); text != "" {
			line("store down", "%s: %s", l.Name, text)
		}
	}
	if e.Store != "" {
		line("store", "the quota store had not answered: the decision rests on what this airgate had in hand, and on onStoreDown")
	}
	if e.Cap != nil {
		line("cap", "%d output tokens, set by airgate", *e.Cap)
	}
	if e.Reserved != nil {
		line("held", "%s USD at most, price %s", *e.Reserved, orNone(e.PriceID))
	}
	if e.Cost != nil {
		line("cost", "%s USD, usage from: %s%s", *e.Cost, orNone(e.UsageSource), tokens(e.Tokens))
	}
	if e.Status != 0 {
		line("answer", "status %d%s%s", e.Status, millis(", first byte after ", e.TTFT), millis(", ended after ", e.Duration))
	}
	if e.Cause != "" {
		line("cause", "%s", e.Cause)
	}
	if e.Cut != "" {
		line("cut", "%s", e.Cut)
	}
	line("config", "%.12s", e.ConfigHash)
	return b.String()
}

// plain keeps callers' text from steering the terminal.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || r == '\t' {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

func inBrackets(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// after is s behind what; "" of none.
func after(what, s string) string {
	if s == "" {
		return ""
	}
	return what + s
}

func shadow(mode string) string {
	if mode != "shadow" {
		return ""
	}
	return " (shadow: never refuses)"
}

func tokens(t map[string]int64) string {
	var parts []string
	for _, name := range []string{"input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "reasoning"} {
		if n := t[name]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", name, n))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return ", tokens " + strings.Join(parts, ", ")
}

func millis(what string, n *int64) string {
	if n == nil {
		return ""
	}
	return fmt.Sprintf("%s%d ms", what, *n)
}
