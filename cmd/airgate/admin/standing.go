package admin

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"airgate/accounting"
	"airgate/accounting/money"
	"airgate/policy"
	"airgate/policy/config"
)

// What stands now: budgets, keys, the config.

// budget is one account of one budget, as the API tells it.
type budget struct {
	Name        string         `json:"name"`
	Account     string         `json:"account"`
	Scope       string         `json:"scope"`
	Owner       string         `json:"owner"`
	Mode        string         `json:"mode"`
	Admission   string         `json:"admission"` // strict or expected: what is held for a call
	Limit       money.NanoUSD  `json:"limit_usd"`
	Spent       money.NanoUSD  `json:"spent_usd"`
	Reserved    money.NanoUSD  `json:"reserved_usd"`
	Held        money.NanoUSD  `json:"held_usd"`      // at most, by calls that were settled since airgate began
	HeldCost    money.NanoUSD  `json:"held_cost_usd"` // what they cost
	WindowStart *time.Time     `json:"window_start"`
	Reset       *time.Time     `json:"reset"`
	Forecast    *money.NanoUSD `json:"forecast_usd"`
	ExhaustsAt  *time.Time     `json:"exhausts_at"`
	Autonomy    *float64       `json:"autonomy_seconds"` // for how long calls go on without the shared quota store, at the pace of the last seconds
	Overrides   []override     `json:"overrides"`        // that are not over, the one that holds first
}

// override is an amount that holds in the budget's place.
type override struct {
	For    string        `json:"for"`
	Limit  money.NanoUSD `json:"limit_usd"`
	Until  *time.Time    `json:"until"`
	By     string        `json:"by"`
	Reason string        `json:"reason"`
}

func overridesOf(b *accounting.Budget) []override {
	told := make([]override, len(b.Overrides))
	for i, o := range b.Overrides {
		told[i] = override{For: o.For.String(), Limit: money.NanoUSD(o.Amount), Until: at(o.Until), By: o.By, Reason: o.Reason}
	}
	return told
}

func (a *API) budgets(w http.ResponseWriter, r *http.Request) {
	now, out, name := time.Now(), []budget{}, r.URL.Query().Get("name")
	var others []string
	for _, b := range a.cfg.Budgets(now) {
		if !slices.Contains(others, b.Name) {
			others = append(others, b.Name)
		}
		if name != "" && b.Name != name {
			continue
		}
		row := budget{
			Name: b.Name, Account: b.Account, Scope: b.Scope, Owner: b.Owner, Mode: b.Mode.String(),
			Admission: "strict", Limit: b.Limit, Spent: b.Spent, Reserved: b.Reserved, Held: b.Held, HeldCost: b.HeldCost,
			WindowStart: at(b.WindowStart), Reset: at(b.Reset), Overrides: overridesOf(&b),
		}
		if b.Expected {
			row.Admission = "expected"
		}
		if b.Autonomy > 0 {
			s := b.Autonomy.Truncate(time.Second).Seconds()
			row.Autonomy = &s
		}
		total, exhausts := b.Forecast(now)
		row.Forecast, row.ExhaustsAt = total, at(exhausts)
		out = append(out, row)
	}
	if name != "" && len(out) == 0 {
		fail(w, http.StatusNotFound, "not_found", fmt.Sprintf("no budget is named %q, or it is split and no call was counted on it yet; there are: %s", name, names(others)))
		return
	}
	tell(w, map[string]any{"budgets": out})
}

// names are the first of some names, as people read them.
func names(all []string) string {
	const most = 8
	if len(all) == 0 {
		return "none"
	}
	slices.Sort(all)
	if len(all) > most {
		all = append(all[:most:most], "…")
	}
	return strings.Join(all, ", ")
}

// at is null for the zero time.
func at(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	u := t.UTC()
	return &u
}

// Key is a virtual key as the API tells it: nothing that could be used.
type Key struct {
	ID      string     `json:"id"`
	Name    string     `json:"name"`
	Team    string     `json:"team"`
	Purpose string     `json:"purpose"`
	State   string     `json:"state"`   // active, blocked, expired or revoked
	Expires *time.Time `json:"expires"` // its last secret; nil = never
	Revoked *time.Time `json:"revoked"`
	File    string     `json:"file"`
	Line    int        `json:"line"`
}

// Keys are the listed keys as the API tells them.
func Keys(listed []config.ListedKey, now time.Time) []Key {
	out := []Key{}
	for i := range listed {
		k := &listed[i]
		out = append(out, Key{
			ID: k.ID, Name: k.Name, Team: k.Team, Purpose: k.Purpose, State: state(&k.KeyConfig, now),
			Expires: at(expiry(k.Secrets)), Revoked: at(k.Revoked), File: k.File, Line: k.Line,
		})
	}
	return out
}

// expiry is the end of the last secret; zero = one of them has none.
func expiry(secrets []policy.Secret) (last time.Time) {
	for _, s := range secrets {
		if s.Expires.IsZero() {
			return time.Time{}
		}
		if s.Expires.After(last) {
			last = s.Expires
		}
	}
	return last
}

func state(k *policy.KeyConfig, now time.Time) string {
	last := expiry(k.Secrets)
	switch {
	case !k.Revoked.IsZero() && !k.Revoked.After(now):
		return "revoked"
	case !last.IsZero() && !last.After(now):
		return "expired"
	}
	return "active"
}

func (a *API) keys(w http.ResponseWriter, _ *http.Request) {
	listed, err := a.cfg.Keys()
	if err != nil {
		fail(w, http.StatusInternalServerError, "internal", "read config: "+err.Error())
		return
	}
	keys := Keys(listed, time.Now())
	if a.cfg.Snapshot != nil {
		keys = Overlaid(keys, a.cfg.Snapshot().Laid)
	}
	tell(w, map[string]any{"keys": keys})
}

func (a *API) config(w http.ResponseWriter, _ *http.Request) { tell(w, a.cfg.Snapshot().View()) }

// Status is what became of the config files, as the API tells it.
type Status struct {
	config.Status

	LastError *string `json:"last_error"` // null = the files are in force
}

func (a *API) status(w http.ResponseWriter, _ *http.Request) {
	s := Status{Status: a.cfg.Status()}
	if s.Status.LastError != nil {
		text := s.Status.LastError.Error()
		s.LastError = &text
	}
	tell(w, s)
}
