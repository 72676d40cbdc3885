package main

import (
	"database/sql"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"airgate/accounting"
	"airgate/accounting/journal"
	"airgate/accounting/money"
	"airgate/accounting/record"
	"airgate/accounting/sink/sqlite"
)

// frames takes a segment apart as the journal's format says.
type frames struct {
	head []byte // header and checkpoint
	all  [][]byte
	end  []byte
}

func frameLen(b []byte) int { return (25 + int(binary.LittleEndian.Uint32(b)) + 7) &^ 7 }

func takeApart(b []byte) (f frames) {
	at := int(binary.LittleEndian.Uint32(b[12:]))
	at += frameLen(b[at:])
	f.head = b[:at]
	for b = b[at:]; len(b) > 0; b = b[frameLen(b):] {
		if b[4] == 3 {
			f.end = b
			break
		}
		f.all = append(f.all, slices.Clone(b[:frameLen(b)]))
	}
	return f
}

// change replaces a record, with a right sum.
func (f *frames) change(i int, edit func(*record.Record)) {
	b := f.all[i]
	r, err := record.ParseJSON(b[25 : 25+binary.LittleEndian.Uint32(b)])
	if err != nil {
		panic(err)
	}
	edit(&r)
	payload := record.AppendJSON(nil, &r)
	head := slices.Clone(b[:25])
	binary.LittleEndian.PutUint32(head, uint32(len(payload)))
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Update(0, table, f.head[16:32])
	sum = crc32.Update(sum, table, head[:21])
	binary.LittleEndian.PutUint32(head[21:], crc32.Update(sum, table, payload))
	b = append(head, payload...)
	f.all[i] = append(b, make([]byte, -len(b)&7)...)
}

// rechain makes the records from i on follow from one another again.
func (f *frames) rechain(i int) {
	for ; i < len(f.all); i++ {
		before := f.all[i-1]
		prev := record.Sum(before[25 : 25+binary.LittleEndian.Uint32(before)])
		f.change(i, func(r *record.Record) { r.Prev = prev })
	}
	f.end = nil // an attacker who leaves it tells where the tail was
}

// What verify prints for a book of ten records, seven of which the records
// database has, after something was done to it.
func TestAuditVerifySaysWhatItCanProve(t *testing.T) {
	const (
		heading  = "WRITER                    RECORDS  IN JOURNAL  IN SINK  PROVEN UP TO  NOT ANCHORED  CHECKPOINTS\n"
		unproved = " is not anchored: no hash held in another place says that these are the records that were written, or all of them\n"
	)
	tests := map[string]struct {
		change func(f *frames)
		alone  bool // without the records database
		want   string
		sound  bool
	}{
		"nothing": {
			change: func(*frames) {},
			want:   heading + "W  1-10     1-10        1-7      7             8-10          1\nnote: W: the tail 8-10" + unproved,
			sound:  true,
		},
		"nothing, and no database": {
			change: func(*frames) {}, alone: true,
			want:  heading + "W  1-10     1-10        none     none          1-10          1\nnote: W: the tail 1-10" + unproved,
			sound: true,
		},
		"one flipped bit": {
			change: func(f *frames) { f.all[8][40] ^= 4 },
			want: heading + "W  1-8      1-8         1-7      7             8             1\n" +
				"fault: W: F is damaged at byte A, behind record 8: no whole record 9, and records up to 10 were on disk\n" +
				"note: W: the tail 8" + unproved,
		},
		"one flipped bit that the database has right": {
			change: func(f *frames) { f.all[3][40] ^= 4 },
			want: heading + "W  1-7      1-3         1-7      3             4-7           1\n" +
				"fault: W: F is damaged at byte A, behind record 3: no whole record 4, and records up to 10 were on disk\n" +
				"note: W: the tail 4-7" + unproved,
		},
		"one removed record": {
			change: func(f *frames) { f.all = slices.Delete(f.all, 8, 9) },
			want: heading + "W  1-8      1-8         1-7      7             8             1\n" +
				"fault: W: F is damaged at byte A, behind record 8: record 10 where 9 belongs\n" +
				"note: W: the tail 8" + unproved,
		},
		"one swapped pair": {
			change: func(f *frames) { f.all[8], f.all[9] = f.all[9], f.all[8] },
			want: heading + "W  1-8      1-8         1-7      7             8             1\n" +
				"fault: W: F is damaged at byte A, behind record 8: record 10 where 9 belongs\n" +
				"note: W: the tail 8" + unproved,
		},
		"a removed tail that the database has": {
			change: func(f *frames) { f.all, f.end = f.all[:5], nil },
			want: heading + "W  1-7      1-5         1-7      5             6-7           1\n" +
				"fault: W: records 6 to 7 of W are gone from the journal: the sink has them\n" +
				"note: W: the tail 6-7" + unproved,
		},
		"a removed tail, and its end forgotten": {
			change: func(f *frames) { f.all = f.all[:9] },
			want: heading + "W  1-9      1-9         1-7      7             8-9           1\n" +
				"fault: W: F is damaged at byte A, behind record 9: the segment was ended behind record 10, and here it ends behind 9\n" +
				"note: W: the tail 8-9" + unproved,
		},
		"a removed tail that nobody has: nothing can tell": {
			change: func(f *frames) { f.all, f.end = f.all[:9], nil },
			want:   heading + "W  1-9      1-9         1-7      7             8-9           1\nnote: W: the tail 8-9" + unproved,
			sound:  true,
		},
		"a forged tail with a new chain: nothing can tell": {
			change: func(f *frames) {
				f.change(8, func(r *record.Record) { r.Cost = 1 })
				f.rechain(9)
			},
			want:  heading + "W  1-10     1-10        1-7      7             8-10          1\nnote: W: the tail 8-10" + unproved,
			sound: true,
		},
		"a forged tail with a new chain that begins before the anchor": {
			change: func(f *frames) {
				f.change(4, func(r *record.Record) { r.Cost = 1 })
				f.rechain(5)
			},
			want: heading + "W  1-4      1-4         1-4      4             none          1\n" +
				"fault: W: the sink's book of W: record 5 is another than the journal's\n",
		},
		"a torn tail": {
			change: func(f *frames) { f.end = f.end[:30] },
			want: heading + "W  1-10     1-10        1-7      7             8-10          1\nnote: W: the tail 8-10" + unproved +
				"note: W: 30 bytes behind record 10 are no whole record: being written, torn by a crash, or damaged\n",
			sound: true,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			data := t.TempDir()
			writer, segment := smallBook(t, data, !test.alone)
			whole, err := os.ReadFile(segment)
			if err != nil {
				t.Fatal(err)
			}
			f := takeApart(whole)
			test.change(&f)
			if err := os.WriteFile(segment, slices.Concat(f.head, slices.Concat(f.all...), f.end), 0o600); err != nil {
				t.Fatal(err)
			}
			config := filepath.Join(data, "airgate.yaml")
			if test.alone {
				const text = "apiVersion: airgate/v1\nproviders: {openai: {dialect: openai, url: https://api.openai.com, credential: {file: /none}}}\n"
				if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var out, talk strings.Builder
			cmd := newAuditVerify(&terminal{out: &out, err: &talk}, &flags{data: data, config: config})
			cmd.SetArgs(nil)
			cmd.SilenceErrors, cmd.SilenceUsage = true, true
			err = cmd.Execute()
			got := strings.ReplaceAll(strings.ReplaceAll(out.String(), segment, "F"), writer, "W")
			got = placeOfDamage.ReplaceAllString(got, "at byte A,")
			got = wayOut.ReplaceAllString(got, "")
			if got != test.want || (err == nil) != test.sound {
				t.Errorf("audit verify = %v\n%s\nwant, sound %t,\n%s", err, got, test.sound, test.want)
			}
		})
	}
}

// Sums that were changed by hand are a fault of their month, though every record
// is what was written.
func TestAuditVerifyComparesTheSums(t *testing.T) {
	data := t.TempDir()
	smallBook(t, data, true)
	audit := func() (text string, err error) {
		var out, talk strings.Builder
		cmd := newAuditVerify(&terminal{out: &out, err: &talk}, &flags{data: data, config: filepath.Join(data, "airgate.yaml")})
		cmd.SetArgs(nil)
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		err = cmd.Execute()
		return out.String(), err
	}
	if text, err := audit(); err != nil || strings.Contains(text, "fault") {
		t.Fatalf("audit verify = %v\n%s", err, text)
	}
	db, err := sql.Open("sqlite", filepath.Join(data, usualRecords))
	if err == nil {
		_, err = db.ExecContext(t.Context(), "UPDATE usage SET cost_nano = cost_nano - 1")
	}
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	if text, err := audit(); err == nil || !strings.Contains(text, "fault: 2001-09: the sums that reports read are not those of the records\n") {
		t.Errorf("audit verify = %v, want the month's fault\n%s", err, text)
	}
}

var (
	placeOfDamage = regexp.MustCompile(`at byte \d+,`)
	wayOut        = regexp.MustCompile(`; nothing was cut, .*`)
)

// smallBook is a journal of one writer below data, and a database with the
// first seven of its ten records.
func smallBook(t *testing.T, data string, ships bool) (writer, segment string) {
	t.Helper()
	j, err := journal.Open(t.Context(), journal.Config{Dir: journalDir(data), Replica: "one", State: accounting.NewBalances()})
	if err != nil {
		t.Fatal(err)
	}
	limit := []record.Limit{{Name: "search", Account: "usd|team=search||month|UTC", Resource: "usd", Limit: 5e9}}
	for i := range 9 {
		id := "request-" + string(rune('a'+i/2))
		r := record.Record{Type: record.Intent, Time: time.Unix(1e9, int64(i)), RequestID: id, Reserved: 100, Limits: limit}
		if i%2 == 1 {
			r = record.Record{Type: record.Settle, Time: time.Unix(1e9, int64(i)), RequestID: id, Cost: money.NanoUSD(50 + i), HasCost: true}
		}
		if _, err := j.Append(&r); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	var all []record.Record
	for r, err := range journal.Read(journalDir(data)) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	if ships {
		s, err := sqlite.Open(t.Context(), filepath.Join(data, usualRecords))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Write(t.Context(), all[:7]); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	names, err := filepath.Glob(filepath.Join(journalDir(data), j.Writer(), "*.wal"))
	if err != nil || len(names) != 1 {
		t.Fatalf("segments %q, %v", names, err)
	}
	return j.Writer(), names[0]
}
