package file

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"airgate/policy/overlay"
	"airgate/policy/overlay/overlaytest"
)

func TestContract(t *testing.T) {
	overlaytest.Run(t, func(t *testing.T) (one, other overlay.Store) {
		path := filepath.Join(t.TempDir(), "overlay.jsonl")
		return New(path), New(path)
	})
}

func revocation() overlay.Entry {
	return overlay.Entry{Kind: overlay.Revoke, Name: "k7Qm2xT9aB4c", By: "kim", Reason: "leaked", Made: time.Date(2026, time.November, 10, 9, 0, 0, 0, time.UTC)}
}

// TestFile: one line an entry, for its owner alone, and nothing beside it.
func TestFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "overlay.jsonl")
	if err := New(path).Put(t.Context(), revocation()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	const want = `{"id":"revoke/k7Qm2xT9aB4c","kind":"revoke","name":"k7Qm2xT9aB4c","by":"kim","reason":"leaked","made":"2026-11-10T09:00:00Z"}` + "\n"
	if err != nil || string(text) != want {
		t.Errorf("the file has %q, %v, want %q", text, err, want)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode is %v, %v, want 0600", info.Mode(), err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("the directory has %v, %v, want the file alone", entries, err)
	}
}

// TestOwner: who writes in somebody's directory writes somebody's file.
func TestOwner(t *testing.T) {
	dir, want := t.TempDir(), os.Geteuid()
	if want == 0 {
		if want = 65534; os.Chown(dir, want, want) != nil {
			t.Fatal("root cannot give a directory away")
		}
	}
	path := filepath.Join(dir, "overlay.jsonl")
	for _, when := range []string{"first", "again"} {
		if err := New(path).Put(t.Context(), revocation()); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Sys().(*syscall.Stat_t).Uid; int(got) != want || info.Mode().Perm() != 0o600 {
			t.Errorf("written %s the file is of %d with mode %v, want %d and 0600", when, got, info.Mode(), want)
		}
	}
}

// TestUnreadableLines: they are told and kept; the others count.
func TestUnreadableLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "overlay.jsonl")
	s := New(path)
	if err := s.Put(t.Context(), revocation()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const later = `{"kind":"freeze","name":"x","by":"kim","reason":"y","made":"2026-11-10T09:00:00Z"}`
	if err := os.WriteFile(path, append([]byte("\n"+later+"\n"), text...), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := s.List(t.Context())
	if !errors.Is(err, overlay.ErrUnreadable) || !strings.Contains(err.Error(), path+": line 2: kind \"freeze\" is not known") {
		t.Errorf("List = %v, want the line and why", err)
	}
	if len(list) != 1 || list[0] != revocation() {
		t.Errorf("List = %+v, want the entry that can be read", list)
	}
	if err := s.Delete(t.Context(), list[0].ID()); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != later+"\n" {
		t.Errorf("after Delete the file has %q, %v, want the line that could not be read", text, err)
	}
}

// TestLocked: who has the lock and does not go on holds up nobody for good.
func TestLocked(t *testing.T) {
	dir := t.TempDir()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := New(filepath.Join(dir, "overlay.jsonl")).Put(ctx, revocation()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Put under a foreign lock = %v, want the deadline", err)
	}
}

// TestUnwritable: a directory that is not there is an error that says so, and a
// file that is none cannot be listed.
func TestUnwritable(t *testing.T) {
	s := New(filepath.Join(t.TempDir(), "absent", "overlay.jsonl"))
	if err := s.Put(t.Context(), revocation()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Put into a directory that is not there = %v, want not exist", err)
	}
	if list, err := s.List(t.Context()); err != nil || list != nil {
		t.Errorf("List = %v, %v, want nothing", list, err)
	}
	if _, err := New(t.TempDir()).List(t.Context()); err == nil || errors.Is(err, overlay.ErrUnreadable) {
		t.Errorf("List of a directory = %v, want an error that the whole cannot be read", err)
	}
}
