package sqlite_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"airgate/accounting/money"
	"airgate/accounting/record"
	"airgate/accounting/record/recordtest"
	"airgate/accounting/report"
	"airgate/accounting/sink/sqlite"
	"airgate/accounting/usage"
)

// traffic makes the book of an organisation of 100 teams with 500 keys and
// 10,000 users, of whom few make most calls, on 12 models of 4 providers. Its
// calls are spread evenly over 90 days, an intent and a settlement each.
type traffic struct {
	calls          int
	rand           *rand.Rand
	users          *rand.Zipf
	intent, settle record.Record
	made           int // records
	prev           record.Hash
	encoded        []byte
}

const (
	trafficDays   = 90
	trafficWriter = "a.019a49b12f3c01234567"
)

// begin is a local midnight of no zone's month.
func (t *traffic) begin() time.Time { return time.Date(2026, 7, 20, 0, 0, 0, 0, time.UTC) }

func newTraffic(records int) *traffic {
	r := rand.New(rand.NewPCG(1, 2))
	examples := recordtest.Examples()
	return &traffic{
		calls: records / 2, rand: r, users: rand.NewZipf(r, 1.1, 50, 9_999), intent: examples["intent"], settle: examples["settle"],
		encoded: make([]byte, 0, 4096),
	}
}

// batch is the next n records of writer a.1, fewer at the end. It is valid
// until the next call.
func (t *traffic) batch(into []record.Record) []record.Record {
	n := 0
	for ; n < len(into) && t.made < 2*t.calls; n++ {
		into[n] = t.next()
	}
	return into[:n]
}

func (t *traffic) next() record.Record {
	if t.made%2 == 0 {
		t.call()
	}
	r := t.intent
	if t.made%2 == 1 {
		r = t.settle
	}
	t.made++
	r.Writer, r.Seq, r.Prev = trafficWriter, uint64(t.made), t.prev
	t.encoded = record.AppendJSON(t.encoded[:0], &r)
	t.prev = record.Sum(t.encoded)
	return r
}

// call is what the next two records say.
func (t *traffic) call() {
	at := t.begin().Add(trafficDays * 24 * time.Hour / time.Duration(t.calls) * time.Duration(t.made/2))
	ms := at.UnixMilli()
	user := int(t.users.Uint64())
	key := (user + 251*t.rand.IntN(2)) % 500
	team := key % 100
	model := (key + 5*t.rand.IntN(3)) % 12
	for _, r := range []*record.Record{&t.intent, &t.settle} {
		r.RequestID = fmt.Sprintf("%08x-%04x-7000-8000-%012x", ms>>16, ms&0xffff, t.made/2)
		r.Time = at
		r.User = fmt.Sprintf("u-%06d", user)
		r.KeyID, r.KeyName = fmt.Sprintf("k7Qm2xT9%04d", key), fmt.Sprintf("key-%04d", key)
		r.Team, r.CostCenter = fmt.Sprintf("team-%03d", team), fmt.Sprintf("CC-%d", team%40)
		r.Purpose = fmt.Sprintf("purpose-%d", (key+t.rand.IntN(2))%10)
		r.Model, r.Provider = fmt.Sprintf("model-%02d", model), fmt.Sprintf("provider-%d", model%4)
	}
	t.intent.Purpose = t.settle.Purpose
	t.settle.Time = at.Add(3 * time.Second)
	t.settle.Class = "ok"
	if t.rand.IntN(100) < 3 {
		t.settle.Class = []string{"transient", "provider_limited", "client_closed", "malformed"}[t.rand.IntN(4)]
	}
	t.settle.UsageSource = usage.Provider
	if t.rand.IntN(100) < 2 {
		t.settle.UsageSource = usage.Partial
	}
	t.settle.Tokens = usage.Tokens{Input: money.Tokens(t.rand.IntN(4000)), CacheRead: money.Tokens(t.rand.IntN(1000)), Output: money.Tokens(t.rand.IntN(2000)), Reasoning: money.Tokens(t.rand.IntN(300))}
	t.settle.Cost, t.settle.HasCost = money.NanoUSD(t.rand.IntN(50_000_000)), t.rand.IntN(100) > 0
	if !t.settle.HasCost {
		t.settle.Cost = 0
	}
}

// fill writes the traffic, unless it is there.
func (t *traffic) fill(tb testing.TB, s *sqlite.Sink) {
	tb.Helper()
	head, err := s.Head(tb.Context(), trafficWriter)
	if err != nil {
		tb.Fatalf("Head: %v", err)
	}
	if head.Seq == uint64(2*t.calls) {
		return
	}
	into := make([]record.Record, 1024)
	var spent, cpu time.Duration
	for batch := t.batch(into); len(batch) > 0; batch = t.batch(into) {
		began, used := time.Now(), cpuTime()
		write(tb, s, batch)
		spent, cpu = spent+time.Since(began), cpu+cpuTime()-used
	}
	tb.Logf("%d records: %.0f records/s, %v of CPU a record", t.made, float64(t.made)/spent.Seconds(), cpu/time.Duration(t.made))
}

// Any report over the whole book, a month of it, or one of another zone, has the
// same calls. At AIRGATE_SCALE records, a number such as 10000000, it takes less
// than a second of CPU time, unless it is by user and something else: for that
// there are no days, and all that there is takes a while. AIRGATE_SCALE_DIR keeps
// the book for another run.
func TestReportsAtScale(t *testing.T) {
	records, path := 8_000, filepath.Join(t.TempDir(), "usage.db")
	text := os.Getenv("AIRGATE_SCALE")
	if text != "" {
		var err error
		if records, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	if dir := os.Getenv("AIRGATE_SCALE_DIR"); dir != "" {
		path = filepath.Join(dir, "usage.db")
	}
	s := open(t, path)
	traffic := newTraffic(records)
	traffic.fill(t, s)

	by := [][]report.Dimension{{}}
	for _, d := range report.Dimensions() {
		by = append(by, []report.Dimension{d})
	}
	for _, pair := range []string{"team,model", "team,purpose", "team,key", "purpose,model", "provider,model", "cost_center,team", "team,class", "day,team", "team,user", "user,model"} {
		d, err := report.ParseDimensions(pair)
		if err != nil {
			t.Fatal(err)
		}
		by = append(by, d)
	}
	for span, q := range map[string]report.UsageQuery{
		"all":            {},
		"September":      {From: time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC), To: time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)},
		"Tokyo's August": {From: time.Date(2026, 7, 31, 15, 0, 0, 0, time.UTC), To: time.Date(2026, 8, 31, 15, 0, 0, 0, time.UTC)},
		"the last week":  {From: traffic.begin().AddDate(0, 0, trafficDays-7)},
		// As far from the bounds of days and months as can be.
		"half and half": {From: time.Date(2026, 8, 16, 11, 0, 0, 0, time.UTC), To: time.Date(2026, 9, 15, 13, 0, 0, 0, time.UTC)},
	} {
		var want report.Sums
		for _, q.By = range by {
			began, used := time.Now(), cpuTime()
			u, err := s.Usage(t.Context(), q)
			took, cpu := time.Since(began), cpuTime()-used
			if err != nil {
				t.Fatalf("Usage(%s by %v): %v", span, q.By, err)
			}
			var got report.Sums
			for i := range u.Rows {
				r := &u.Rows[i].Sums
				got.Requests, got.Unpriced, got.Estimated = got.Requests+r.Requests, got.Unpriced+r.Unpriced, got.Estimated+r.Estimated
				got.Cost, got.HasCost, got.EstimatedCost = got.Cost+r.Cost, got.HasCost || r.HasCost, got.EstimatedCost+r.EstimatedCost
				got.Tokens.Add(&r.Tokens)
			}
			if len(q.By) == 0 {
				want = got
			}
			if diff := cmp.Diff(want, got); diff != "" || got.Requests == 0 {
				t.Errorf("Usage(%s by %v) differs from the whole (-want +got):\n%s", span, q.By, diff)
			}
			if text != "" {
				t.Logf("%-14s %-18v %6d rows %9d calls %8v, CPU %8v", span, q.By, len(u.Rows), got.Requests, took.Round(time.Millisecond), cpu.Round(time.Millisecond))
				if cpu > time.Second && (len(q.By) < 2 || !slices.Contains(q.By, report.User)) {
					t.Errorf("Usage(%s by %v) took %v of CPU time, want less than a second", span, q.By, cpu)
				}
			}
		}
	}
	if text != "" {
		return
	}
	if err := s.CheckSums(t.Context()); err != nil {
		t.Errorf("CheckSums: %v", err)
	}
}
