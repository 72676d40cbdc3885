package config

import (
	"encoding/hex"
	"reflect"
	"strconv"
	"strings"
	"time"

	"airgate/accounting"
	"airgate/accounting/money"
)

// View is a configuration as a whole, for people and as JSON: the sections of
// all files joined, and what the catalogue adds to its models. It holds no
// secret; of keys it has what the files have, hashes.
type View struct {
	Hash     string               `json:"hash"`
	Loaded   time.Time            `json:"loaded"`
	Sources  []string             `json:"sources"`
	Kinds    []Kind               `json:"kinds"`
	Warnings []Problem            `json:"warnings"`
	Config   map[string]any       `json:"config"`  // fields named as in the files; absent ones are absent
	Models   map[string]ModelView `json:"models"`  // the canonical ones
	Outages  []Outage             `json:"outages"` // limits, then budgets; none if the store is in memory and so is never down
	Overlay  []LaidView           `json:"overlay"` // what is laid over Config, which is the files' alone
}

// Outage is what becomes of a call that needs the shared store for a limit or
// budget while that does not answer. A call that finds what it needs in hand
// asks no store.
type Outage struct {
	Name        string `json:"name"`
	Resource    string `json:"resource"`    // usd, tokens, requests or concurrent
	OnStoreDown string `json:"onStoreDown"` // deny, allow or allowWithinUSD

	// Of a budget. All airgates together spend at most Beyond more than its
	// limit, in each account and window; each of them at most Each more than it
	// has in hand.
	Beyond *money.NanoUSD `json:"beyondUSD,omitempty"`
	Each   *money.NanoUSD `json:"eachUSD,omitempty"`
}

// outage is that of a compiled limit.
func (q Quota) outage(l *accounting.Limit) Outage {
	o := Outage{Name: l.Name, Resource: l.Resource.String(), OnStoreDown: "deny"}
	within := l.OnStoreDown.Within
	switch {
	case l.OnStoreDown.Allow:
		o.OnStoreDown = "allow"
	case within > 0:
		o.OnStoreDown, o.Each = "allowWithinUSD", new(within/money.NanoUSD(q.Replicas))
	}
	if l.Resource == accounting.USD {
		o.Beyond = &within
	}
	return o
}

// ModelView is what a call of a model costs at most, as of the loading.
type ModelView struct {
	Provider        string       `json:"provider"`
	UpstreamModel   string       `json:"upstreamModel"`
	MaxOutputTokens money.Tokens `json:"maxOutputTokens"`
	ContextWindow   money.Tokens `json:"contextWindow,omitempty"`
	PriceID         string       `json:"priceId,omitempty"` // "" = unpriced
	Input           string       `json:"inputUSDPerMillionTokens,omitempty"`
	Output          string       `json:"outputUSDPerMillionTokens,omitempty"`
}

// View makes the View of s. The caller owns it.
func (s *Snapshot) View() View {
	v := View{
		Hash: s.Hash, Loaded: s.Loaded, Sources: s.Sources, Kinds: s.Kinds, Warnings: s.Warnings,
		Config: fieldsView(reflect.ValueOf(s.sections).Elem()),
		Models: make(map[string]ModelView, len(s.terms)), Outages: s.outages, Overlay: s.LaidViews(),
	}
	for i := range s.sections.Models.entries {
		e := &s.sections.Models.entries[i]
		if !e.v.Provider.given() {
			continue
		}
		t := s.Model(e.name.v, s.Loaded)
		m := ModelView{
			Provider: e.v.Provider.v, UpstreamModel: upstreamOf(e.name.v, &e.v),
			MaxOutputTokens: t.MaxOutput, ContextWindow: t.Context,
		}
		if p := t.Price; p != nil {
			m.PriceID, m.Input, m.Output = p.ID, p.Input.String(), p.Output.String()
		}
		v.Models[e.name.v] = m
	}
	return v
}

// fieldsView is a struct of the schema with the fields that were given.
func fieldsView(v reflect.Value) map[string]any {
	out := make(map[string]any)
	for _, f := range fieldsOf(v.Type()) {
		fv := v.FieldByIndex(f.index)
		prefix, open := strings.CutSuffix(f.name, "*")
		switch {
		case !given(fv):
		case open:
			for name, x := range valueView(fv).(map[string]any) {
				out[prefix+name] = x
			}
		default:
			out[f.name] = valueView(fv)
		}
	}
	return out
}

// viewed is a value of the schema that other values make up.
type viewed interface{ view() any }

func valueView(v reflect.Value) any {
	switch x := v.Addr().Interface().(type) {
	case viewed:
		return x.view()
	case *text:
		return x.v
	case *label:
		return x.v
	case *upstreamName:
		return x.v
	case *expression:
		return x.v
	case *hidden:
		return x.v
	case *choice:
		return x.v
	case *boolean:
		return x.v
	case *count:
		return x.v
	case *dollars:
		return x.v
	case *price:
		return x.v
	case *rate:
		return strconv.FormatInt(x.n, 10) + "/" + unitOf(x.per)
	case *instant:
		if x.date {
			return x.v.Format(time.DateOnly)
		}
		return x.v.Format(time.RFC3339Nano)
	case *period:
		return x.v.String()
	case *zone:
		return x.v.String()
	case *threshold:
		return x.String()
	case *digest:
		return "sha256:" + hex.EncodeToString(x.v[:])
	}
	return fieldsView(v)
}

func (l *list[T]) view() any {
	out := make([]any, len(l.items))
	for i := range l.items {
		out[i] = valueView(reflect.ValueOf(&l.items[i]).Elem())
	}
	return out
}

func (o *outage) view() any {
	if !o.AllowWithinUSD.given() {
		return "deny"
	}
	return fieldsView(reflect.ValueOf(o).Elem())
}

func (m *dict[T]) view() any {
	out := make(map[string]any, len(m.entries))
	for i := range m.entries {
		out[m.entries[i].name.v] = valueView(reflect.ValueOf(&m.entries[i].v).Elem())
	}
	return out
}
