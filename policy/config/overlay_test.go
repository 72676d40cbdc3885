package config

import (
	"crypto/sha256"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"airgate/accounting"
	"airgate/accounting/money"
	"airgate/accounting/quota/memory"
	"airgate/policy"
	"airgate/policy/overlay"
)

// laidSecret is that of the key k7Qm2xT9aB4c, whose text laidKey is.
const (
	laidSecret = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg"
	laidKey    = "ag-k7Qm2xT9aB4c-" + laidSecret
)

// laidFile is a configuration with something of everything, written so that
// patches can be pasted.
func laidFile() string {
	return fmt.Sprintf(`apiVersion: airgate/v1
providers:
  openai: {dialect: openai, url: https://api.openai.com, credential: {file: /run/secrets/openai}}
  other: {dialect: openai, url: https://other.example.com, credential: {file: /run/secrets/other}}
models:
  gpt-5.4-mini: {provider: openai, aliases: [mini]}
  org/nano:1: {provider: other, maxOutputTokens: 1000}
  smart: {targets: [{model: gpt-5.4-mini}, {model: "org/nano:1"}]}
teams:
  search: {}
  ml: {parent: search}
  ads: {}
overlay: {maxRaise: 50%%}
budgets:
  - name: search
    match: {team: search}
    usd: 500
    per: day
  - name: each
    each: key
    usd: 10.01
    per: day
    overrides:
    - {for: {key: prod}, usd: 400}
    - {usd: 12, until: 2026-11-22}
keys:
  - id: k7Qm2xT9aB4c
    team: ml
    name: prod
    secrets: [{hash: "sha256:%x"}]
  - id: k7Qm2xT9aB4d
    team: ads
    name: lost
    revoked: 2026-11-01
    secrets: [{hash: "sha256:%064d"}]
`, sha256.Sum256([]byte(laidSecret)), 1)
}

func loadText(t testing.TB, text string) *Snapshot {
	t.Helper()
	s, err := LoadBytes("airgate.yaml", []byte(text), now())
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return s
}

// entryOf is an entry that was made a moment ago and ends in a day.
func entryOf(kind overlay.Kind, name string, change ...func(*overlay.Entry)) overlay.Entry {
	e := overlay.Entry{Kind: kind, Name: name, Until: now().Add(24 * time.Hour), By: "kim", Reason: "INC-12", Made: now().Add(-time.Minute)}
	if kind == overlay.Revoke {
		e.Until = time.Time{}
	}
	for _, f := range change {
		f(&e)
	}
	return e
}

func to(usd string) func(*overlay.Entry) {
	return func(e *overlay.Entry) {
		amount, err := money.ParseUSD(usd)
		if err != nil {
			panic(err)
		}
		e.To = amount
	}
}

func lay(t testing.TB, s *Snapshot, entries ...overlay.Entry) *Snapshot {
	t.Helper()
	next, err := s.With(entries, now())
	if err != nil {
		t.Fatalf("With(%+v) = %v", entries, err)
	}
	return next
}

// TestAdmit: what an entry is to the files, whether it is new or from a store.
func TestAdmit(t *testing.T) {
	unlimited := func(s string) string { return strings.Replace(s, "overlay: {maxRaise: 50%}\n", "", 1) }
	dollars := func(s string) string { return strings.Replace(s, "50%", "0.5", 1) }
	until := func(at time.Time) func(*overlay.Entry) { return func(e *overlay.Entry) { e.Until = at } }
	for name, test := range map[string]struct {
		edit  func(string) string
		entry overlay.Entry
		state State
		why   string
	}{
		"a team":                     {nil, entryOf(overlay.BlockTeam, "ml"), InForce, ""},
		"no such team":               {nil, entryOf(overlay.BlockTeam, "serch"), Refused, `no team "serch": did you mean search?`},
		"a provider":                 {nil, entryOf(overlay.BlockProvider, "openai"), InForce, ""},
		"no such provider":           {nil, entryOf(overlay.BlockProvider, "azure"), Refused, `no provider "azure": there are openai, other`},
		"a model":                    {nil, entryOf(overlay.BlockModel, "org/nano:1"), InForce, ""},
		"no such model":              {nil, entryOf(overlay.BlockModel, "gpt-5.4-mino"), Refused, `no model "gpt-5.4-mino": did you mean gpt-5.4-mini?`},
		"an alias":                   {nil, entryOf(overlay.BlockModel, "mini"), Refused, `"mini" is an alias: block gpt-5.4-mini`},
		"a split":                    {nil, entryOf(overlay.BlockModel, "smart"), Refused, `model "smart" is split over targets: block those`},
		"a key":                      {nil, entryOf(overlay.BlockKey, "k7Qm2xT9aB4c"), InForce, ""},
		"a key to revoke":            {nil, entryOf(overlay.Revoke, "k7Qm2xT9aB4c"), InForce, ""},
		"a key that is revoked":      {nil, entryOf(overlay.Revoke, "k7Qm2xT9aB4d"), Redundant, "airgate.yaml:34 revokes it"},
		"no such key":                {nil, entryOf(overlay.Revoke, "k7Qm2xT9aB4e"), Redundant, `no key "k7Qm2xT9aB4e"`},
		"a raise":                    {nil, entryOf(overlay.Raise, "search", to("750")), InForce, ""},
		"a raise by a nano too much": {nil, entryOf(overlay.Raise, "search", to("750.000000001")), Refused, "750.000000001 USD is beyond 750 USD, the most that overlay.maxRaise allows"},
		"a share of cents":           {nil, entryOf(overlay.Raise, "each", to("15.015")), InForce, ""},
		"a raise by USD":             {dollars, entryOf(overlay.Raise, "search", to("500.50")), InForce, ""},
		"a raise by too many USD":    {dollars, entryOf(overlay.Raise, "search", to("500.51")), Refused, "500.51 USD is beyond 500.5 USD, the most that overlay.maxRaise allows"},
		"a raise by nothing":         {nil, entryOf(overlay.Raise, "search", to("500")), Redundant, "airgate.yaml:17 gives 500 USD already"},
		"a raise within an override": {nil, entryOf(overlay.Raise, "each", to("11")), Redundant, "airgate.yaml:25 gives 12 USD already"},
		"a raise with the end of an override": {
			nil, entryOf(overlay.Raise, "each", to("13"), until(time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC))), Redundant,
			"airgate.yaml:25 gives everyone 12 USD until then",
		},
		"no such budget":        {nil, entryOf(overlay.Raise, "serach", to("600")), Refused, `no budget "serach": did you mean search?`},
		"no raises":             {unlimited, entryOf(overlay.Raise, "search", to("501")), Refused, "the config allows no raise: it must say how far, such as overlay: {maxRaise: 50%}"},
		"made by a clock ahead": {nil, entryOf(overlay.BlockTeam, "ml", until(now().Add(73*time.Hour+1))), Refused, "it ends in more than 72 hours: the clock of whoever made it was ahead"},
	} {
		t.Run(name, func(t *testing.T) {
			text := laidFile()
			if test.edit != nil {
				text = test.edit(text)
			}
			s := loadText(t, text)
			laid := lay(t, s, test.entry).Laid
			if len(laid) != 1 || laid[0].State != test.state || laid[0].Why != test.why || laid[0].Entry != test.entry {
				t.Errorf("With(%+v).Laid = %+v, want %s: %s", test.entry, laid, test.state, test.why)
			}
			if got := laid[0].YAML != ""; got != (test.state == InForce) {
				t.Errorf("YAML = %q in state %s", laid[0].YAML, test.state)
			}
			if test.entry.Until.Sub(test.entry.Made) > overlay.Longest {
				return // by itself it is no entry
			}
			_, err := s.Admit(test.entry, now())
			if want := test.entry.ID() + ": " + test.why; (err == nil) != (test.state == InForce) || err != nil && err.Error() != want {
				t.Errorf("Admit(%+v) = %v, want %s", test.entry, err, want)
			}
		})
	}
}

// TestAdmitCompletes: what a command leaves out, and what no entry can be.
func TestAdmitCompletes(t *testing.T) {
	s := loadText(t, laidFile())
	unmade := func(e *overlay.Entry) { e.Made = time.Time{} }
	got, err := s.Admit(entryOf(overlay.Revoke, "prod", unmade), now())
	want := entryOf(overlay.Revoke, "k7Qm2xT9aB4c", func(e *overlay.Entry) { e.Made = now() })
	if err != nil || got != want {
		t.Errorf("Admit by name = %+v, %v, want %+v", got, err, want)
	}
	if _, err := s.Admit(entryOf(overlay.BlockTeam, "search", unmade, func(e *overlay.Entry) { e.Until = now() }), now()); err == nil || !strings.Contains(err.Error(), "is in the past") {
		t.Errorf("Admit of a block until now = %v, want an error", err)
	}
	removal := entryOf(overlay.BlockTeam, "gone", func(e *overlay.Entry) { e.Removed = true })
	if got, err := s.Admit(removal, now()); err != nil || got != removal {
		t.Errorf("Admit of a removal = %+v, %v: a block of a team that is gone can be taken out", got, err)
	}
}

// TestRevoked: a key ends at once, whatever the clock of whoever said so, and
// earlier than a file that ends it later.
func TestRevoked(t *testing.T) {
	for name, text := range map[string]string{
		"the file does not revoke it": laidFile(),
		"the file revokes it later":   strings.Replace(laidFile(), "name: prod\n", "name: prod\n    revoked: 2027-01-01\n", 1),
	} {
		s := loadText(t, text)
		token := []byte(keyText(t))
		if _, code := s.Policy.Authenticate(token, now()); code != policy.OK {
			t.Fatalf("%s: Authenticate = %v, want ok", name, code)
		}
		for _, made := range []time.Duration{-time.Hour, 0, time.Hour} {
			next := lay(t, s, entryOf(overlay.Revoke, "k7Qm2xT9aB4c", func(e *overlay.Entry) { e.Made = now().Add(made) }))
			if k, code := next.Policy.Authenticate(token, now()); code != policy.KeyRevoked || k.ID != "k7Qm2xT9aB4c" {
				t.Errorf("%s: made %v from now: Authenticate = %v, want revoked", name, made, code)
			}
		}
		if s.Ended("k7Qm2xT9aB4c", now()) || !s.Ended("k7Qm2xT9aB4d", now()) || s.Ended("k7Qm2xT9aB4d", now().AddDate(0, -1, 0)) || !s.Ended("other", now()) {
			t.Errorf("%s: Ended: want only the revoked key, once it is, and one that is in no file", name)
		}
	}
}

// keyText is laidKey with its checksum.
func keyText(t testing.TB) string {
	t.Helper()
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	sum := crc32.ChecksumIEEE([]byte(laidKey))
	b := make([]byte, 6)
	for i := 5; i >= 0; i-- {
		b[i] = digits[sum%62]
		sum /= 62
	}
	text := laidKey + string(b)
	if _, _, ok := policy.ParseKey(text); !ok {
		t.Fatalf("%q is no key", text)
	}
	return text
}

// decide asks a snapshot about a call of the key prod.
func decide(s *Snapshot, model string) policy.Decision {
	var d policy.Decision
	s.Policy.Evaluate(&policy.Request{Key: s.Policy.Key("prod"), Model: model, Dialect: "openai", Endpoint: "chat_completions"}, &d)
	return d
}

// amounts are the limits of the budgets at an instant.
func amounts(t testing.TB, s *Snapshot, at time.Time) map[string]string {
	t.Helper()
	l, err := accounting.New(accounting.Config{Store: memory.New(), Replica: "test"})
	if err == nil {
		err = l.Apply(s.Limits, at)
	}
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for _, key := range []string{"other", "prod"} {
		subject := accounting.Subject{Teams: []string{"ml", "search"}, KeyID: "id-" + key, KeyName: key, Model: "gpt-5.4-mini", Provider: "openai"}
		var h accounting.Hold
		if r := l.Reserve(&h, s.Limits, &subject, accounting.Need{USD: 1}, at); r != nil {
			t.Fatalf("Reserve = %+v", r)
		}
		l.Settle(&h, 0, 0, at)
	}
	for _, b := range l.Budgets(at) {
		out[b.Name+" "+b.Scope] = b.Limit.String()
	}
	return out
}

// TestWith: each kind of entry does what it says, from the files of the
// snapshot it is laid on, which stays as it was; without it all is as before.
func TestWith(t *testing.T) {
	s := loadText(t, laidFile())
	before := amounts(t, s, now())
	for _, test := range []struct {
		entry  overlay.Entry
		model  string
		rule   string // of the denial; "" = allowed
		target string
		reason string
	}{
		{entryOf(overlay.BlockTeam, "search"), "gpt-5.4-mini", "block/team/search", "", "team search is blocked by kim until 2026-11-22T12:00:00Z: INC-12"},
		{entryOf(overlay.BlockTeam, "ads"), "gpt-5.4-mini", "", "gpt-5.4-mini", ""},
		{entryOf(overlay.BlockKey, "k7Qm2xT9aB4c"), "gpt-5.4-mini", "block/key/k7Qm2xT9aB4c", "", "key k7Qm2xT9aB4c is blocked by kim until 2026-11-22T12:00:00Z: INC-12"},
		{entryOf(overlay.BlockModel, "gpt-5.4-mini"), "mini", "block/model/gpt-5.4-mini", "", "model gpt-5.4-mini is blocked by kim until 2026-11-22T12:00:00Z: INC-12"},
		{entryOf(overlay.BlockModel, "gpt-5.4-mini"), "smart", "", "org/nano:1", ""},
		{entryOf(overlay.BlockProvider, "other"), "smart", "", "gpt-5.4-mini", ""},
		{entryOf(overlay.BlockProvider, "openai"), "gpt-5.4-mini", "block/provider/openai", "", "provider openai is blocked by kim until 2026-11-22T12:00:00Z: INC-12"},
	} {
		next := lay(t, s, test.entry)
		d := decide(next, test.model)
		if d.Rule != test.rule || d.Target.Model != test.target || d.Reason != test.reason || (d.Code == policy.RuleDenied) != (test.rule != "") {
			t.Errorf("%s: %s = %+v, want rule %q, target %q, reason %q", test.entry.ID(), test.model, d, test.rule, test.target, test.reason)
		}
		if diff := cmp.Diff(before, amounts(t, next, now())); diff != "" {
			t.Errorf("%s changes budgets:\n%s", test.entry.ID(), diff)
		}
	}
	raised := lay(t, s, entryOf(overlay.Raise, "search", to("750")), entryOf(overlay.Raise, "each", to("15")))
	want := map[string]string{"search team=search": "750", "each key=id-other": "15", "each key=id-prod": "400"}
	if diff := cmp.Diff(want, amounts(t, raised, now())); diff != "" {
		t.Errorf("raised, for everyone without an amount of one's own (-want +got):\n%s", diff)
	}
	if got := amounts(t, lay(t, raised, raised.InForce()...), now().Add(24*time.Hour))["search team=search"]; got != "500" {
		t.Errorf("at its end a raise gives %s, want 500", got)
	}
	back := lay(t, raised)
	if diff := cmp.Diff(before, amounts(t, back, now())); diff != "" || len(back.Laid) != 0 {
		t.Errorf("without entries the budgets are others (-want +got):\n%s", diff)
	}
	if back.Hash != s.Hash || !back.Loaded.Equal(s.Loaded) || !cmp.Equal(back.Kinds, s.Kinds) || !cmp.Equal(back.Sources, s.Sources) || !cmp.Equal(back.Warnings, s.Warnings) {
		t.Errorf("With() = %+v, want what the files say: %+v", back, s)
	}
	if d := decide(s, "gpt-5.4-mini"); d.Code != policy.OK || len(s.Laid) != 0 {
		t.Errorf("the snapshot that was laid over has changed: %v, %v", d.Code, s.Laid)
	}
}

// TestRefusedIsAWarning: it is told where warnings are.
func TestRefusedIsAWarning(t *testing.T) {
	s := lay(t, loadText(t, laidFile()), entryOf(overlay.BlockTeam, "gone"))
	const want = `overlay block/team/gone does not hold: no team "gone": there are ads, ml, search`
	if s.Warnings[0].Error() != want {
		t.Errorf("Warnings = %v, want %s among them", s.Warnings, want)
	}
	v := s.View()
	if len(v.Overlay) != 1 || v.Overlay[0].State != Refused || v.Overlay[0].ID != "block/team/gone" || len(s.InForce()) != 0 {
		t.Errorf("View().Overlay = %+v, InForce() = %v, want the entry, refused", v.Overlay, s.InForce())
	}
}

// TestPatch: what is to be committed in place of an entry loads, does the same,
// and makes the entry redundant where files can say so.
func TestPatch(t *testing.T) {
	paste := func(after, indent, patch string) string {
		_, rest, ok := strings.Cut(patch, "\n") // the comment
		if !ok || !strings.Contains(laidFile(), after) {
			t.Fatalf("patch %q after %q", patch, after)
		}
		var b strings.Builder
		for line := range strings.Lines(rest) {
			b.WriteString(indent + line)
		}
		return strings.Replace(laidFile(), after, after+b.String(), 1)
	}
	for _, test := range []struct {
		entry   overlay.Entry
		comment string
		text    func(patch string) string
		state   State
	}{
		{
			entryOf(overlay.Raise, "search", to("750"), func(e *overlay.Entry) { e.Reason = `say "yes": no` }), "# to budget search, airgate.yaml:15",
			func(p string) string { return paste("per: day\n", "    ", p) }, Redundant,
		},
		{
			entryOf(overlay.Raise, "each", to("13")), "# to the overrides of budget each, airgate.yaml:19, in place of airgate.yaml:25",
			func(p string) string {
				return strings.Replace(paste("usd: 400}\n", "    ", p), "    - {usd: 12, until: 2026-11-22}\n", "", 1)
			}, Redundant,
		},
		{
			entryOf(overlay.Revoke, "k7Qm2xT9aB4c"), "# to key k7Qm2xT9aB4c, airgate.yaml:27",
			func(p string) string { return paste("name: prod\n", "    ", p) }, Redundant,
		},
		{entryOf(overlay.BlockTeam, "ml"), "# a rule holds until it is taken out", func(p string) string { return laidFile() + "---\n" + p }, InForce},
		{entryOf(overlay.BlockKey, "k7Qm2xT9aB4c"), "# a rule holds until it is taken out", func(p string) string { return laidFile() + "---\n" + p }, InForce},
		{entryOf(overlay.BlockModel, "org/nano:1"), "# a rule holds until it is taken out", func(p string) string { return laidFile() + "---\n" + p }, InForce},
		{entryOf(overlay.BlockProvider, "openai"), "# a rule holds until it is taken out", func(p string) string { return laidFile() + "---\n" + p }, InForce},
	} {
		s := lay(t, loadText(t, laidFile()), test.entry)
		patch := s.Laid[0].YAML
		if !strings.HasPrefix(patch, test.comment+"\n") {
			t.Errorf("%s: patch %q, want it to begin with %q", test.entry.ID(), patch, test.comment)
		}
		committed := loadText(t, test.text(patch))
		if got := lay(t, committed, test.entry).Laid[0]; got.State != test.state {
			t.Errorf("%s: once committed it is %s: %s, want %s", test.entry.ID(), got.State, got.Why, test.state)
		}
		if diff := cmp.Diff(amounts(t, s, now()), amounts(t, committed, now())); diff != "" {
			t.Errorf("%s: the patch has other budgets (-laid +committed):\n%s", test.entry.ID(), diff)
		}
		_, laid := s.Policy.Authenticate([]byte(keyText(t)), now())
		if _, got := committed.Policy.Authenticate([]byte(keyText(t)), now()); got != laid {
			t.Errorf("%s: the patch authenticates with %v, the entry with %v", test.entry.ID(), got, laid)
		}
		for _, model := range []string{"gpt-5.4-mini", "org/nano:1", "smart"} {
			laid, got := decide(s, model), decide(committed, model)
			if laid.Code != got.Code || laid.Target.Model != got.Target.Model {
				t.Errorf("%s: %s is %v to %q with the patch and %v to %q with the entry", test.entry.ID(), model, got.Code, got.Target.Model, laid.Code, laid.Target.Model)
			}
		}
	}
}

// TestWithAtOnce: what is laid over a snapshot in one place changes nothing of
// what is read of it in another.
func TestWithAtOnce(t *testing.T) {
	s := loadText(t, laidFile())
	want := s.View()
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for range 5 {
				lay(t, s, entryOf(overlay.BlockTeam, "ml"), entryOf(overlay.Revoke, "k7Qm2xT9aB4c"))
				if diff := cmp.Diff(want, s.View()); diff != "" {
					t.Errorf("View has changed (-want +got):\n%s", diff)
				}
			}
		})
	}
	readers.Wait()
}

func TestAllowance(t *testing.T) {
	for _, test := range []struct {
		a    allowance
		of   money.NanoUSD
		want money.NanoUSD
	}{
		{allowance{percent: 50}, 3, 4},
		{allowance{percent: 50}, 500 * money.USD, 750 * money.USD},
		{allowance{percent: 1000}, maxBudgetUSD, maxBudgetUSD},
		{allowance{percent: 1000}, maxBudgetUSD / 11, maxBudgetUSD / 11 * 11},
		{allowance{percent: 1}, maxBudgetUSD, maxBudgetUSD},
		{allowance{usd: 1}, maxBudgetUSD, maxBudgetUSD},
		{allowance{usd: 1}, 1, 2},
	} {
		if got := test.a.over(test.of); got != test.want {
			t.Errorf("%+v over %v = %v, want %v", test.a, test.of, got, test.want)
		}
	}
}

// TestOverlayFileNeedsARestart: it is read at the start.
func TestOverlayFileNeedsARestart(t *testing.T) {
	one := loadText(t, laidFile())
	other := loadText(t, strings.Replace(laidFile(), "50%", "50%, file: "+filepath.Join("/x", "y"), 1))
	if err := succeeds(one, other); err == nil || !strings.Contains(err.Error(), "overlay.file changed: restart airgate") {
		t.Errorf("succeeds = %v, want a refusal", err)
	}
	if other.OverlayFile != "/x/y" {
		t.Errorf("OverlayFile = %q, want /x/y", other.OverlayFile)
	}
}

// TestAdmitBroken: files that are wrong keep nobody from ending a key or refusing
// calls, of what cannot be read too. They say nothing of what is in force.
func TestAdmitBroken(t *testing.T) {
	typo := strings.Replace(laidFile(), "ads: {}", "ads: {ownr: kim}", 1)
	revoked := strings.Replace(typo, "    team: ml\n", "    team: ml\n    revoked: 2026-01-01\n", 1)
	for name, tt := range map[string]struct {
		file, kind, name string
		want             string // the name that is admitted, or the error
	}{
		"a key by its id":            {typo, "revoke", "k7Qm2xT9aB4c", "k7Qm2xT9aB4c"},
		"a key by its name":          {typo, "revoke", "prod", "k7Qm2xT9aB4c"},
		"a key that nobody can see":  {"keys: [", "revoke", "k7Qm2xT9aB4c", "k7Qm2xT9aB4c"},
		"a name that nobody can see": {"keys: [", "revoke", "prod", `revoke/prod: the files cannot be read as a whole, and what can has no key "prod": give its id, the 12 letters and digits behind ag-`},
		"revoked in the wrong files": {revoked, "revoke", "k7Qm2xT9aB4c", "k7Qm2xT9aB4c"},
		"a team":                     {typo, "block/team", "search", "search"},
		"a team that nobody can see": {"keys: [", "block/team", "search", "search"},
		"a model nobody can see":     {"keys: [", "block/model", "gpt-5.4-mini", "gpt-5.4-mini"},
		"an alias":                   {typo, "block/model", "mini", `block/model/mini: "mini" is an alias: block gpt-5.4-mini`},
		"a raise":                    {typo, "raise", "search", "raise/search: the files cannot be read as a whole, and they say how far a raise may go"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := LoadBroken(filepath.Join(write(t, map[string]string{"airgate.yaml": tt.file}), "airgate.yaml"), now())
			if err == nil || s == nil {
				t.Fatalf("LoadBroken = %v, %v, want what can be read, and the problems", s, err)
			}
			e := overlay.Entry{Kind: overlay.Kind(tt.kind), Name: tt.name, By: "kim", Reason: "x", Until: now().Add(time.Hour)}
			switch e.Kind {
			case overlay.Revoke:
				e.Until = time.Time{}
			case overlay.Raise:
				e.To = 600 * money.USD
			default:
			}
			e, err = s.Admit(e, now())
			got := e.Name
			if err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("Admit = %s, want %s", got, tt.want)
			}
			if s.Ended("k7Qm2xT9aB4c", now()) {
				t.Error("Ended = true: a revocation would be forgotten on the word of files that are not in force")
			}
			if s, err = s.With([]overlay.Entry{e}, now()); err != nil || len(s.LaidViews()) != 1 {
				t.Errorf("With = %v, want the entry to be told", err)
			}
		})
	}
	if s, err := LoadBroken(filepath.Join(write(t, map[string]string{"airgate.yaml": laidFile()}), "airgate.yaml"), now()); err != nil || s.Policy == nil {
		t.Errorf("LoadBroken(what is right) = %v, want it whole", err)
	}
}
