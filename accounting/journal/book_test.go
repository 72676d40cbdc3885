package journal

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"airgate/accounting/journal/disk/disktest"
	"airgate/accounting/record"
	"airgate/accounting/sink"
)

// shelf is a journal and its one sink.
type shelf struct {
	t *testing.T
	d *disktest.Disk
	m *memory

	lived map[string]uint64 // :: writer → how many records it had
}

func newShelf(t *testing.T) *shelf {
	return &shelf{t: t, d: disktest.New(1), m: newMemory(), lived: map[string]uint64{}}
}

func (s *shelf) config() Config {
	return Config{
		Dir: simDir, Replica: "a", SegmentBytes: 4000, State: newTally(), Disk: s.d, Sinks: []string{"one"},
		Book: func(context.Context) (Book, error) { return s.m, nil },
	}
}

// live is a process that appends so many records, ships them, has time to delete
// what it may, and ends. The sink may be left out.
func (s *shelf) live(cfg Config, n int) (writer string) {
	s.t.Helper()
	j := owned(s.t, cfg)
	wait := func() {}
	if len(cfg.Sinks) > 0 {
		wait = ships(s.t, j, map[string]sink.Sink{"one": s.m})
	}
	for range n {
		appendN(s.t, j, 1)
		time.Sleep(time.Second / 4)
	}
	time.Sleep(3 * time.Second)
	closed(s.t, j)
	wait()
	s.lived[j.Writer()] = j.written
	return j.Writer()
}

// everything is the last record of each writer, in the journal and in the sink.
func (s *shelf) everything() map[string]uint64 {
	s.t.Helper()
	all := map[string]uint64{}
	for r, err := range read(s.d, simDir) {
		if err != nil {
			s.t.Fatal(err)
		}
		all[r.Writer] = max(all[r.Writer], r.Seq)
	}
	for writer := range s.m.books {
		all[writer] = max(all[writer], uint64(s.m.len(writer)))
	}
	return all
}

// lose deletes the journal's files that gone names, and the directories that
// have none any more.
func (s *shelf) lose(gone func(writer, name string) bool) {
	for path := range s.d.Files() {
		if writer := filepath.Base(filepath.Dir(path)); gone(writer, filepath.Base(path)) {
			s.d.Delete(path)
		}
	}
	for _, writer := range must(writers(s.d, simDir)) {
		if len(must(s.d.List(filepath.Join(simDir, writer)))) == 0 {
			s.d.Delete(filepath.Join(simDir, writer))
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// long is a config whose segments are.
func (s *shelf) long() Config {
	cfg := s.config()
	cfg.SegmentBytes = 1 << 20
	return cfg
}

// cut leaves half of the newest segment.
func (s *shelf) cut() {
	path := s.newest()
	data := s.d.Files()[path]
	s.d.Set(path, data[:len(data)/2])
}

// newest is the path of the newest segment.
func (s *shelf) newest() string {
	names := must(writers(s.d, simDir))
	return slices.Max(slices.Collect(maps.Keys(segmentsOf(s.d, names[len(names)-1]))))
}

// Whatever of the journal is lost, the State counts every record that the sink
// has, once: at the next start, and at those after it.
func TestWhatOnlyTheSinkHasIsCountedOnce(t *testing.T) {
	everything := func(string, string) bool { return true }
	for name, lose := range map[string]func(s *shelf){
		"nothing":         func(*shelf) {},
		"the whole":       func(s *shelf) { s.lose(everything) },
		"the whole twice": func(s *shelf) { s.lose(everything); s.live(s.config(), 20); s.lose(everything) },
		"the newest segment": func(s *shelf) {
			s.d.Delete(s.newest())
		},
		"half of the newest segment": func(s *shelf) {
			s.live(s.long(), 20)
			s.cut()
		},
		"half of the newest segment, twice": func(s *shelf) {
			for range 2 {
				s.live(s.long(), 20)
				s.cut()
			}
		},
		"what came since a backup": func(s *shelf) {
			backup := s.d.Clone()
			s.live(s.config(), 12)
			s.live(s.config(), 12)
			s.d = backup
		},
		"the newest writer": func(s *shelf) {
			cfg := s.config()
			cfg.Sinks = []string{"one", "another"} // nothing is deleted
			newest := s.live(cfg, 12)
			s.lose(func(writer, _ string) bool { return writer == newest })
		},
		"the whole, and what comes first fails before its first record": func(s *shelf) {
			s.lose(everything)
			failing := false
			s.d.Fail(func(op, path string) error {
				if failing = failing || op == "write" && strings.HasSuffix(path, suffix); failing {
					return disktest.ErrFault
				}
				return nil
			})
			if _, err := openOwned(s.t.Context(), s.config()); !errors.Is(err, disktest.ErrFault) {
				s.t.Errorf("Open = %v, want %v", err, disktest.ErrFault)
			}
			s.d.Kill() // the fault, too
		},
		"the whole, and what comes first has no sink": func(s *shelf) {
			s.lose(everything)
			for range 2 {
				cfg := s.config()
				cfg.Sinks, cfg.Book = nil, nil
				s.live(cfg, 5)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newShelf(t)
				for range 3 {
					s.live(s.config(), 20)
				}
				lose(s)
				for i := range 4 {
					want := s.everything()
					again := newTally()
					cfg := s.config()
					cfg.State = again
					if err := Replay(t.Context(), cfg); err != nil {
						t.Fatal(err)
					}
					if err := again.check(want); err != nil {
						t.Errorf("replay %d: %v", i, err)
					}
					state := newTally()
					cfg.State = state
					j := owned(t, cfg)
					want[j.Writer()] = 1
					if err := state.check(want); err != nil {
						t.Errorf("start %d: %v", i, err)
					}
					closed(t, j)
					s.live(s.config(), 3)
				}
				report := must(verify(t.Context(), s.d, simDir, s.m, func() State { return newTally() }))
				if !report.Sound() {
					t.Errorf("Verify = %+v, want sound", report)
				}
				if left := must(writers(s.d, simDir)); len(left) > 1 {
					t.Errorf("writers %q are left, want the last", left)
				}
			})
		})
	}
}

// What a sink has of other airgates is theirs, and what came before a writer whose
// start it lacks is known to have been counted by that one.
func TestWhatIsCountedAlreadyOrByOthersIsNot(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(s *shelf)
		counted func(writer string) bool
	}{
		"another replica": {
			prepare: func(s *shelf) {
				other := &shelf{t: s.t, d: disktest.New(2), m: s.m, lived: s.lived}
				cfg := other.config()
				cfg.Replica = "b"
				other.live(cfg, 5)
				other.live(cfg, 5)
			},
			counted: func(writer string) bool { return replicaOf(writer) == "a" },
		},
		"a name that it had": {
			prepare: func(s *shelf) {
				cfg := s.config()
				cfg.Replica = "old.name"
				s.live(cfg, 5)
				backup := s.d.Clone()
				s.live(cfg, 5)
				s.d = backup
			},
			counted: func(string) bool { return true },
		},
		"a sink that was out for a while": {
			prepare: func(s *shelf) {
				before := s.m
				s.m = newMemory() // another
				s.live(s.config(), 30)
				newest := s.live(s.config(), 30)
				before.books[newest] = s.m.books[newest]
				s.m = before
			},
			counted: func(string) bool { return true },
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newShelf(t)
				for range 2 {
					s.live(s.long(), 20)
				}
				c.prepare(s)
				maps.DeleteFunc(s.lived, func(writer string, _ uint64) bool { return !c.counted(writer) })
				cfg := s.config()
				state := newTally()
				cfg.State = state
				j := owned(t, cfg)
				s.lived[j.Writer()] = 1
				if err := state.check(s.lived); err != nil {
					t.Error(err)
				}
				closed(t, j)
			})
		})
	}
}

// A clock that was set back as the journal was lost makes no writer that comes
// before those in the sink.
func TestAWriterIsLaterThanThoseInTheSink(t *testing.T) {
	s := newShelf(t)
	synctest.Test(t, func(t *testing.T) {
		s.t = t
		time.Sleep(time.Hour)
		s.live(s.config(), 1)
	})
	s.lose(func(string, string) bool { return true })
	synctest.Test(t, func(t *testing.T) { // begins where the other did
		s.t = t
		writer := s.live(s.config(), 1)
		for earlier := range s.lived {
			if byAge(earlier, writer) > 0 {
				t.Errorf("%s is not later than %s", writer, earlier)
			}
		}
	})
}

// A book that does not go on from the journal, or that cannot be read, proves
// nothing: a start says so, and what to do, and changes nothing.
func TestABookThatCannotBeCountedIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(book []record.Record) []record.Record
		want  string
	}{
		"another record": {
			spoil: func(book []record.Record) []record.Record { book[15].Detail = "changed"; return book },
			want:  "record 17 does not follow from the one before it",
		},
		"another chain": {
			spoil: func(book []record.Record) []record.Record { book[3].Detail = "changed"; return rechain(book) },
			want:  "does not follow from the one before it",
		},
		"a record that is missing": {
			spoil: func(book []record.Record) []record.Record { return slices.Delete(book, 15, 16) },
			want:  "record 17 where 16 belongs",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newShelf(t)
				writer := s.live(s.long(), 20)
				s.cut()
				kept := maps.Clone(s.m.books)
				s.m.books[writer] = c.spoil(slices.Clone(s.m.books[writer]))
				j, err := openOwned(t.Context(), s.config())
				if err == nil {
					closed(t, j)
				}
				if _, ok := errors.AsType[*BookError](err); !ok || !strings.Contains(err.Error(), c.want) ||
					!strings.Contains(err.Error(), " to 21 of "+writer+", which the sink has, and what was spent by them cannot be counted: ") ||
					!strings.Contains(err.Error(), "Restore one of the two from a backup; or, to go on as if that had not been spent, move the sink's book away") {
					t.Errorf("Open = %v, want a *BookError with %q, and what to do", err, c.want)
				}
				if got := must(writers(s.d, simDir)); len(got) != 1 {
					t.Errorf("writers %q, want the one", got)
				}
				s.m.books = kept
				s.live(s.config(), 1)
			})
		})
	}
}

func TestOpenRefusesABookOrAnotherDirectory(t *testing.T) {
	cfg := newShelf(t).config()
	if j, err := Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "Book needs an Owner") {
		t.Errorf("Open = %v, %v; want that Book needs an Owner", j, err)
	}
	for range 2 { // which it gives back
		owner := must(Own(t.Context(), cfg.Disk, "/another", cfg.withDefaults().Log))
		cfg.Owner = owner
		if j, err := Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "the owner has /another, not "+simDir) {
			t.Errorf("Open = %v, %v; want that the owner has another directory", j, err)
		}
	}
}
