package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func put(t *testing.T, s Store, key, name, content string) {
	t.Helper()
	dir, err := s.Scratch()
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "made")
	if err := os.WriteFile(file, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(key, name, file); err != nil {
		t.Fatal(err)
	}
}

func TestKeySeparatesItsParts(t *testing.T) {
	if Key("ab", "c") == Key("a", "bc") || Key("a") == Key("a", "") {
		t.Error("different parts, same key")
	}
	parts := []string{"a", "b"}
	if Key("a", "b") != Key(parts...) {
		t.Error("same parts, different key")
	}
}

func TestExportReplacesAndThenLeavesAlone(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	if s.Has("k1", "tool") {
		t.Fatal("an empty store has an entry")
	}
	put(t, s, "k1", "tool", "one")
	put(t, s, "k2", "tool", "two")
	path := filepath.Join(t.TempDir(), "bin", "tool")
	for _, step := range []struct{ key, want string }{{"k1", "one"}, {"k1", "one"}, {"k2", "two"}, {"k1", "one"}} {
		if err := s.Export(step.key, "tool", path); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != step.want {
			t.Fatalf("after export of %s: %q, %v", step.key, got, err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := s.Export("k3", "tool", path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("export of a missing entry: %v", err)
	}
}

func TestCopyKeepsModeAndTime(t *testing.T) {
	dir := t.TempDir()
	source, target := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := os.WriteFile(source, []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(source)
	if err != nil {
		t.Fatal(err)
	}
	if err := copyFile(source, target, info.Mode().Perm()); err != nil {
		t.Fatal(err)
	}
	got, err := os.Stat(target)
	if err != nil || got.Mode() != info.Mode() || got.Size() != 1 {
		t.Errorf("copy: %v, %v", got, err)
	}
}

func TestLockExcludesAndHonoursTheContext(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	unlock, err := s.Lock(t.Context(), "build", nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	waited := false
	if _, err := s.Lock(ctx, "build", func() { waited = true }); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a second holder: %v", err)
	}
	if !waited {
		t.Error("waiting was not called")
	}
	unlock()
	again, err := s.Lock(t.Context(), "build", nil)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestSweepLeavesWhatIsInUse(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	stale, err := s.Scratch()
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-2 * scratchLife)
	if err := os.Chtimes(stale, old, old); err != nil {
		t.Fatal(err)
	}
	first, err := s.Scratch()
	if err != nil {
		t.Fatal(err)
	}
	second, err := s.Scratch()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(stale); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a stale scratch directory stayed: %v", err)
	}
	for _, dir := range []string{first, second} {
		if _, err := os.Stat(dir); err != nil {
			t.Error(err)
		}
	}
}
