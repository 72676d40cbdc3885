package processor_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"airgate/accounting/money"
	"airgate/policy"
	"airgate/policy/config"
)

// simKey is a caller's key; teams are its team and those above it.
type simKey struct {
	id, text, hash string
	teams          []string
}

func newKeys(t *testing.T) []simKey {
	lineages := [][]string{{"search"}, {"search"}, {"search-ml", "search"}, {"search-ml", "search"}, {"care"}, {"care"}}
	keys := make([]simKey, len(lineages))
	for i, teams := range lineages {
		id, text, hash, err := policy.NewKey(strings.NewReader(strings.Repeat(fmt.Sprintf("key %d ", i), 100)))
		if err != nil {
			t.Fatal(err)
		}
		keys[i] = simKey{id: id, text: text, hash: policy.FormatHash(hash), teams: teams}
	}
	return keys
}

// simModel is a model and what its tokens cost. One that reasons bills output
// that nobody sees.
type simModel struct {
	name    string
	in, out money.NanoUSD // for a token
	limit   int           // of output
	reasons bool
}

var simModels = []simModel{{"gpt-4.1-mini", 1000, 10_000, 32_768, false}, {"gpt-5.4-nano", 200, 2500, 128_000, true}}

// simBudget is a budget as its owner means it.
type simBudget struct {
	name              string
	team, model, each string // "" = all, one account
	per, zone         string
	usd               money.NanoUSD
	shadow, clamps    bool
	sliced            bool
	expected          bool
	favours           *simKey // has another amount, until
	favour            money.NanoUSD
	until             time.Time
}

var simZones = func() map[string]*time.Location {
	zones := map[string]*time.Location{}
	for _, name := range []string{"UTC", "Asia/Tokyo", "America/New_York"} {
		zone, err := time.LoadLocation(name)
		if err != nil {
			panic(err)
		}
		zones[name] = zone
	}
	return zones
}()

func (b simBudget) String() string {
	text := fmt.Sprintf("{name: %s, usd: %s, per: %s, timeZone: %s", b.name, b.usd, b.per, b.zone)
	switch {
	case b.team != "" && b.model != "":
		text += fmt.Sprintf(", match: {team: %s, model: %s}", b.team, b.model)
	case b.team != "":
		text += fmt.Sprintf(", match: {team: %s}", b.team)
	case b.model != "":
		text += fmt.Sprintf(", match: {model: %s}", b.model)
	}
	if b.each != "" {
		text += ", each: " + b.each
	}
	if b.shadow {
		text += ", mode: shadow"
	}
	if b.clamps {
		text += ", clampOutput: {floorTokens: 16}"
	}
	if b.sliced {
		text += ", streamHold: sliced"
	}
	if b.expected {
		text += ", admission: expected"
	}
	if b.favours != nil {
		text += fmt.Sprintf(", overrides: [{for: {key: %s}, usd: %s, until: %s}]", b.favours.id, b.favour, b.until.Format(time.RFC3339))
	}
	return text + "}"
}

func (b simBudget) covers(k *simKey, m *simModel) bool {
	return (b.team == "" || slices.Contains(k.teams, b.team)) && (b.model == "" || b.model == m.name)
}

// limit is what b allows the key.
func (b simBudget) limit(k *simKey, now time.Time) money.NanoUSD {
	if b.favours != nil && b.favours.id == k.id && now.Before(b.until) {
		return b.favour
	}
	return b.usd
}

// account is the account-window in which b counts a call, and its end.
func (b simBudget) account(k *simKey, now time.Time) (name string, end time.Time) {
	zone := simZones[b.zone]
	y, m, d := now.In(zone).Date()
	window := ""
	switch b.per {
	case "day":
		window, end = fmt.Sprint(y, m, d), time.Date(y, m, d+1, 0, 0, 0, 0, zone)
	case "month":
		window, end = fmt.Sprint(y, m), time.Date(y, m+1, 1, 0, 0, 0, 0, zone)
	}
	who := ""
	switch b.each {
	case "key":
		who = k.id
	case "team":
		who = k.teams[0]
	}
	return fmt.Sprintf("team %s, model %s, each %s %s, per %s in %s: %s", b.team, b.model, b.each, who, b.per, b.zone, window), end
}

// simConfig is a state of the config files.
type simConfig struct {
	keys    []simKey
	budgets []simBudget
	names   int // given so far
	slices  int // of so many budgets in two

	usual   *rand.Rand // of its own, so that a world without them is what it was
	expects int        // of so many budgets in two, what is expected is held
}

// terms is a config that was loaded.
type terms struct {
	simConfig

	snap *config.Snapshot
}

func newConfig(keys []simKey, rng, usual *rand.Rand, now time.Time) simConfig {
	c := simConfig{keys: keys, slices: pick(rng, 0, 1, 2, 2), usual: usual, expects: pick(usual, 0, 0, 1, 2)}
	for range 3 + rng.IntN(4) {
		c = c.add(rng, now)
	}
	return c
}

// add adds any budget, maybe one of another's accounts.
func (c simConfig) add(rng *rand.Rand, now time.Time) simConfig {
	c.names++
	b := simBudget{
		name: fmt.Sprintf("b%d", c.names), team: pick(rng, "", "search", "care"), model: pick(rng, "", "", "gpt-4.1-mini"),
		each: pick(rng, "", "key", "team"), per: pick(rng, "day", "day", "month", "total"), zone: pick(rng, "UTC", "Asia/Tokyo", "America/New_York"),
		usd: money.USD/10 + someUSD(rng), shadow: rng.IntN(5) == 0, clamps: rng.IntN(3) == 0,
		sliced: rng.IntN(2) < c.slices, expected: c.usual.IntN(2) < c.expects,
	}
	if b.each == "key" && rng.IntN(2) == 0 {
		b.favours, b.favour, b.until = &c.keys[rng.IntN(len(c.keys))], someUSD(rng), now.Add(upTo(rng, 48*time.Hour)).Truncate(time.Second)
	}
	c.budgets = append(slices.Clone(c.budgets), b)
	return c
}

func someUSD(rng *rand.Rand) money.NanoUSD { return money.NanoUSD(rng.Int64N(int64(2 * money.USD))) }

// edit is what people do to budgets.
func (c simConfig) edit(rng *rand.Rand, now time.Time) simConfig {
	c.budgets = slices.Clone(c.budgets)
	i := rng.IntN(len(c.budgets))
	switch b := &c.budgets[i]; rng.IntN(8) {
	case 0:
		b.shadow = !b.shadow
	case 1:
		c.names++
		b.name = fmt.Sprintf("b%d", c.names)
	case 2:
		return c.add(rng, now)
	case 3:
		if len(c.budgets) > 3 {
			c.budgets = slices.Delete(c.budgets, i, i+1)
		}
	case 4, 5:
		b.usd = b.usd * money.NanoUSD(rng.IntN(10)) / 10
	default:
		b.usd += someUSD(rng)
	}
	return c
}

// sliced reports whether the budgets let a call of k to m that may have so much
// output be held in slices.
func (c simConfig) sliced(k *simKey, m *simModel, limit int) bool {
	enforced := slices.DeleteFunc(slices.Clone(c.budgets), func(b simBudget) bool { return b.shadow || !b.covers(k, m) })
	whole := slices.ContainsFunc(enforced, func(b simBudget) bool { return !b.sliced })
	return len(enforced) > 0 && !whole && !m.reasons && limit > firstSlice
}

// firstSlice is the output that a sliced call holds at first, its margin included.
const firstSlice = 1024 + 250

// permits is how many calls each key may have in flight.
const permits = 3

func (c simConfig) compile(t *testing.T, now time.Time) *terms {
	var b strings.Builder
	b.WriteString("apiVersion: airgate/v1\n" +
		"providers: {openai: {dialect: openai, url: https://api.openai.com, credential: {file: /secret}}}\n" +
		"teams: {search: {}, search-ml: {parent: search}, care: {}}\n" +
		"unbudgeted: allow\n" +
		"limits: [{name: parallel, each: key, concurrent: " + strconv.Itoa(permits) + "}, {name: rps, each: key, requests: 20/s}, {name: tpm, each: team, tokens: 500000/min}]\n")
	b.WriteString("models:\n")
	for _, m := range simModels {
		fmt.Fprintf(&b, "  %s: {provider: openai}\n", m.name)
	}
	b.WriteString("prices:\n  usdPerMillionTokens:\n")
	for _, m := range simModels {
		fmt.Fprintf(&b, "    %s: {input: %s, output: %s}\n", m.name, m.in*1e6, m.out*1e6)
	}
	b.WriteString("keys:\n")
	for i, k := range c.keys {
		fmt.Fprintf(&b, "- {id: %s, team: %s, name: k%d, secrets: [{hash: %q, created: 2026-01-01}]}\n", k.id, k.teams[0], i, k.hash)
	}
	b.WriteString("budgets:\n")
	for _, budget := range c.budgets {
		fmt.Fprintf(&b, "- %s\n", budget)
	}
	snap, err := config.LoadBytes("sim.yaml", []byte(b.String()), now)
	if err != nil {
		t.Fatalf("config: %v\n%s", err, b.String())
	}
	return &terms{c, snap}
}
