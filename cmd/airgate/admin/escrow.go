package admin

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	"airgate/accounting"
	"airgate/accounting/money"
	"airgate/accounting/record"
)

// What is set aside in the shared quota store, and for whom; and what a writer leaves
// there that does not come back.

// Holder is a writer that has something in the shared quota store, as the API tells it.
type Holder struct {
	Writer   string        `json:"writer"`
	Alive    bool          `json:"alive"`
	LastBeat *time.Time    `json:"last_beat"` // by the store's clock; null = not known any more
	SetAside money.NanoUSD `json:"set_aside_usd"`
	Accounts []Stake       `json:"accounts"`       // of money
	Others   int           `json:"other_accounts"` // of tokens and requests in which something is set aside
}

// Stake is what a writer has of one account-window.
type Stake struct {
	Account  string        `json:"account"`
	SetAside money.NanoUSD `json:"set_aside_usd"` // granted, and neither returned nor spent
	Granted  money.NanoUSD `json:"granted_usd"`
	Returned money.NanoUSD `json:"returned_usd"`
	Told     money.NanoUSD `json:"told_usd"` // spent, as the store was told
}

// TellHolder is what the API says of a writer.
func TellHolder(h *accounting.Holder) Holder {
	out := Holder{Writer: h.Writer, Alive: h.Alive, LastBeat: at(h.Heard), SetAside: h.Aside(), Accounts: []Stake{}, Others: h.Others}
	for i := range h.Stakes {
		s := &h.Stakes[i]
		out.Accounts = append(out.Accounts, Stake{s.Account, s.Aside(), s.Granted, s.Returned, s.Told})
	}
	return out
}

// Holder is what the API has told.
func (h *Holder) Holder() accounting.Holder {
	out := accounting.Holder{Writer: h.Writer, Alive: h.Alive, Others: h.Others}
	if h.LastBeat != nil {
		out.Heard = *h.LastBeat
	}
	for _, s := range h.Accounts {
		out.Stakes = append(out.Stakes, accounting.Stake{Account: s.Account, Granted: s.Granted, Returned: s.Returned, Told: s.Told})
	}
	return out
}

// escrow tells of all writers for which something is set aside, or of one all that it has.
func (a *API) escrow(w http.ResponseWriter, r *http.Request) {
	all, err := a.cfg.Holders(r.Context())
	if err != nil {
		failHolders(w, err)
		return
	}
	writer, out := r.URL.Query().Get("writer"), []Holder{}
	for i := range all {
		h := &all[i]
		if h.Writer == writer || writer == "" && (h.Aside() > 0 || h.Others > 0) {
			out = append(out, TellHolder(h))
		}
	}
	tell(w, map[string]any{"writers": out})
}

// ErrNotShared is the error of Config.Holders and Reclaim where no other airgate
// counts on the quota store.
var ErrNotShared = errors.New("the quota store of this airgate is in memory: nothing is shared, and what was set aside ended with its process")

func failHolders(w http.ResponseWriter, err error) {
	if errors.Is(err, ErrNotShared) {
		fail(w, http.StatusConflict, "not_shared", err.Error())
		return
	}
	fail(w, http.StatusServiceUnavailable, "store_unavailable", err.Error())
}

// Claim asks to give back what a writer had that does not come back.
type Claim struct {
	Writer string         `json:"writer"`
	By     string         `json:"by"`
	Reason string         `json:"reason"`
	Accept *money.NanoUSD `json:"accept_usd"` // without a proof: the most that may go back
	// Proof says by what it is proven that the writer's records, 1 to LastSeq, are
	// complete; "" = it is not. Who claims has read them: it is taken at his word, and
	// LastHash, in hexadecimal, lets others compare later.
	Proof    string `json:"proof"`
	LastSeq  uint64 `json:"last_seq"`  // the last one that was read; 0 = none
	LastHash string `json:"last_hash"` // of that
	// Recorded is what the writer has spent, by its records.
	Recorded map[string]money.NanoUSD `json:"recorded_usd"`
}

// Claimed is what the API says of a Claim: what has gone back.
type Claimed struct {
	Writer   string        `json:"writer"`
	Back     money.NanoUSD `json:"back_usd"` // of all accounts: what one call spends is in several
	Accounts []Returned    `json:"accounts"`
	Others   int           `json:"other_accounts"`
}

// Returned is what has become of one account-window.
type Returned struct {
	Account  string        `json:"account"`
	SetAside money.NanoUSD `json:"set_aside_usd"` // before
	Told     money.NanoUSD `json:"told_usd"`
	Recorded money.NanoUSD `json:"recorded_usd"`
	Spent    money.NanoUSD `json:"spent_usd"` // what the store has it down for now
	Back     money.NanoUSD `json:"back_usd"`
}

const (
	maxClaim = 8 << 20 // more than the account-windows of one writer need
	maxWord  = 256     // bytes of a word of a claim
)

func parseClaim(body []byte) (c Claim, err error) {
	if err := json.Unmarshal(body, &c); err != nil {
		return c, err
	}
	for _, word := range []struct {
		name, text string
		least      int
	}{{"writer", c.Writer, 1}, {"by", c.By, 1}, {"reason", c.Reason, 1}, {"proof", c.Proof, 0}} {
		if len(word.text) < word.least || len(word.text) > maxWord || strings.ContainsFunc(word.text, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return c, fmt.Errorf("%s: want one line of text of %d to %d bytes", word.name, word.least, maxWord)
		}
	}
	if strings.Contains(c.Writer, "/") {
		return c, errors.New("writer: want replica.incarnation, as in the records")
	}
	if c.Proof != "" && c.LastSeq == 0 {
		return c, errors.New("proof: want last_seq and last_hash of the records that it is of")
	}
	_, err = c.Last()
	return c, err
}

// Last is the last of the writer's records that was read; its Seq is 0 if there was none.
func (c *Claim) Last() (record.Head, error) {
	last := record.Head{Writer: c.Writer, Seq: c.LastSeq}
	if last.Seq == 0 {
		return last, nil
	}
	hash, err := hex.DecodeString(c.LastHash)
	if err != nil || len(hash) != len(last.Hash) {
		return last, fmt.Errorf("last_hash: want %d bytes in hexadecimal", len(last.Hash))
	}
	copy(last.Hash[:], hash)
	return last, nil
}

// reclaim gives back what a writer had that has ended.
func (a *API) reclaim(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxClaim))
	if err != nil {
		fail(w, http.StatusRequestEntityTooLarge, "bad_request", "a claim is at most 8 MiB of JSON")
		return
	}
	c, err := parseClaim(body)
	if err != nil {
		fail(w, http.StatusBadRequest, "bad_request", err.Error())
		return
	}
	all, err := a.cfg.Holders(r.Context())
	if err != nil {
		failHolders(w, err)
		return
	}
	h := accounting.Holder{Writer: c.Writer}
	if i := slices.IndexFunc(all, func(h accounting.Holder) bool { return h.Writer == c.Writer }); i >= 0 {
		h = all[i]
	}
	returns, err := h.Returns(c.Recorded, time.Now())
	if err != nil {
		fail(w, http.StatusBadRequest, "bad_request", err.Error())
		return
	}
	out := TellReturns(&h, returns)
	switch {
	case h.Alive:
		fail(w, http.StatusConflict, "alive", AliveText(&h))
		return
	case len(returns) == 0 && h.Others == 0:
		fail(w, http.StatusNotFound, "not_found", "nothing is set aside for "+c.Writer)
		return
	case c.Proof == "" && (c.Accept == nil || *c.Accept < out.Back):
		fail(w, http.StatusConflict, "not_proven", fmt.Sprintf("%s USD would go back, of which it is not proven that it was not spent: accept_usd must be no less", out.Back))
		return
	}
	if err := a.cfg.Reclaim(r.Context(), &c, returns); err != nil {
		fail(w, http.StatusServiceUnavailable, "store_unavailable", err.Error())
		return
	}
	tell(w, out)
}

// AliveText says why nothing is taken from a writer that may go on spending.
func AliveText(h *accounting.Holder) string {
	return fmt.Sprintf("%s is alive: the store has heard of it at %s. What it has in hand it may spend. End it, and it gives that back itself, or the next start with its data directory does",
		h.Writer, h.Heard.UTC().Format(time.RFC3339))
}

// TellReturns is what the API says of what goes back, or would.
func TellReturns(h *accounting.Holder, returns []accounting.Return) Claimed {
	out := Claimed{Writer: h.Writer, Accounts: []Returned{}, Others: h.Others}
	for i := range returns {
		r := &returns[i]
		out.Back += r.Back
		out.Accounts = append(out.Accounts, Returned{r.Account, r.Aside(), r.Told, r.Recorded, r.Spent, r.Back})
	}
	return out
}
