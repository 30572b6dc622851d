//go:build linux

package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestCreateNeverReplaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := (Writer{}).Create(path, []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (Writer{}).Create(path, []byte("two"), 0o600); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("error %v", err)
	}
	expect(t, path, "one")
	if err := (Writer{}).Replace(path, []byte("two"), 0o640); err != nil {
		t.Fatal(err)
	}
	expect(t, path, "two")
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// Whatever the point at which the writer dies, a reader sees the old content or the new.
func TestReplaceIsAllOrNothing(t *testing.T) {
	killed := errors.New("killed")
	for _, at := range []string{"create", "write", "write half", "write the rest", "sync", "rename", "sync directory"} {
		path := filepath.Join(t.TempDir(), "f")
		if err := (Writer{}).Replace(path, []byte("old text"), 0o600); err != nil {
			t.Fatal(err)
		}
		w := Writer{Step: func(name string) error {
			if name == at {
				return killed
			}
			return nil
		}}
		if err := w.Replace(path, []byte("new text"), 0o600); !errors.Is(err, killed) {
			t.Fatalf("killed at %s: error %v", at, err)
		}
		want := "old text"
		if at == "sync directory" {
			want = "new text"
		}
		expect(t, path, want)
		if err := RemoveTemporary(path); err != nil {
			t.Fatal(err)
		}
		if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
			t.Errorf("killed at %s: %d files left, %v", at, len(entries), err)
		}
	}
}

func TestFailedWriteLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "taken"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := (Writer{}).Replace(filepath.Join(dir, "taken"), []byte("x"), 0o600); err == nil {
		t.Error("a directory was replaced")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%d entries, %v", len(entries), err)
	}
	if err := (Writer{}).Create(filepath.Join(dir, "missing", "f"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

func expect(t *testing.T, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s has %q, want %q (%v)", path, got, want, err)
	}
}
