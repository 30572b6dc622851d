//go:build linux

package keystore

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/weftnet/weftnet/agent/durable"
)

func newStore(t *testing.T) Store {
	t.Helper()
	return Store{Dir: filepath.Join(t.TempDir(), "state")}
}

func mustEnsure(t *testing.T, s Store) Key {
	t.Helper()
	keys, _, err := s.Ensure()
	if err != nil {
		t.Fatal(err)
	}
	if len(keys) != 1 {
		t.Fatalf("%d keys, want 1", len(keys))
	}
	return keys[0]
}

func TestKeyIsMadeOnce(t *testing.T) {
	s := newStore(t)
	keys, created, err := s.Ensure()
	if err != nil || !created || len(keys) != 1 || keys[0].Epoch != 1 || keys[0].Private.IsZero() {
		t.Fatalf("first start: keys %v, created %v, error %v", keys, created, err)
	}
	again, created, err := s.Ensure()
	if err != nil || created || len(again) != 1 || !again[0].Private.Equal(keys[0].Private) {
		t.Fatalf("second start: keys %v, created %v, error %v", again, created, err)
	}
	for path, want := range map[string]os.FileMode{s.Dir: 0o700 | os.ModeDir, s.path(1): 0o600} {
		info, err := os.Stat(path)
		if err != nil || info.Mode() != want {
			t.Errorf("%s: mode %v, want %v (%v)", path, info.Mode(), want, err)
		}
	}
}

func TestKeysComeByEpoch(t *testing.T) {
	s := newStore(t)
	first := mustEnsure(t, s)
	for _, e := range []Epoch{10, 2} {
		if err := s.create(e); err != nil {
			t.Fatal(err)
		}
	}
	keys, created, err := s.Ensure()
	if err != nil || created || len(keys) != 3 {
		t.Fatalf("keys %v, created %v, error %v", keys, created, err)
	}
	if keys[0].Epoch != 1 || keys[1].Epoch != 2 || keys[2].Epoch != 10 || !keys[0].Private.Equal(first.Private) {
		t.Errorf("keys are %v", keys)
	}
}

func TestDirectoryOfKubeletIsClosed(t *testing.T) {
	s := newStore(t)
	if err := os.Mkdir(s.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	mustEnsure(t, s)
	if info, err := os.Stat(s.Dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// spoil changes a good key file into one that must be refused.
func TestUntrustworthyFileIsAnErrorAndStays(t *testing.T) {
	good := func(t *testing.T, path string) string {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	rows := []struct {
		name  string
		spoil func(t *testing.T, path string) error
		says  string
	}{
		{"empty", func(_ *testing.T, p string) error { return os.Truncate(p, 0) }, "is corrupt"},
		{"truncated", func(_ *testing.T, p string) error { return os.Truncate(p, 20) }, "is corrupt"},
		{"zeros after a power cut", func(_ *testing.T, p string) error { return os.WriteFile(p, make([]byte, 45), 0o600) }, "is corrupt"},
		{"all-zero key", func(_ *testing.T, p string) error {
			return os.WriteFile(p, []byte(strings.Repeat("A", 43)+"=\n"), 0o600)
		}, "is corrupt"},
		{"garbage", func(_ *testing.T, p string) error { return os.WriteFile(p, []byte("hello\n"), 0o600) }, "is corrupt"},
		{"too long", func(t *testing.T, p string) error {
			return os.WriteFile(p, []byte(good(t, p)+good(t, p)), 0o600)
		}, "has 90 bytes"},
		{"readable by others", func(_ *testing.T, p string) error { return os.Chmod(p, 0o640) }, "mode 0640"},
		{"symbolic link", func(_ *testing.T, p string) error {
			return errors.Join(os.Rename(p, p+".real"), os.Symlink(p+".real", p), os.Rename(p+".real", filepath.Dir(p)+"/real"))
		}, "is a symbolic link"},
		{"directory", func(_ *testing.T, p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) }, "a directory"},
		{"named pipe", func(_ *testing.T, p string) error { return errors.Join(os.Remove(p), syscall.Mkfifo(p, 0o600)) }, "a named pipe"},
		{"no epoch in the name", func(_ *testing.T, p string) error { return os.Rename(p, p+"x") }, "does not end in the number"},
		{"directory open to others", func(_ *testing.T, p string) error { return os.Chmod(filepath.Dir(p), 0o777) }, "mode 0777"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			s := newStore(t)
			mustEnsure(t, s)
			text := good(t, s.path(1))
			if err := row.spoil(t, s.path(1)); err != nil {
				t.Fatal(err)
			}
			before := listing(t, s.Dir)
			keys, created, err := s.Ensure()
			var fault *FileError
			if !errors.As(err, &fault) || keys != nil || created {
				t.Fatalf("keys %v, created %v, error %v", keys, created, err)
			}
			if !strings.Contains(err.Error(), row.says) || !strings.Contains(err.Error(), fault.Path) || fault.Remedy == "" {
				t.Errorf("the error does not say what is wrong and what to do: %v", err)
			}
			if strings.Contains(err.Error(), text[:10]) {
				t.Errorf("the error shows the key: %v", err)
			}
			if after := listing(t, s.Dir); after != before {
				t.Errorf("the directory changed from %s to %s", before, after)
			}
		})
	}
}

func TestForeignOwnerIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file away")
	}
	s := newStore(t)
	mustEnsure(t, s)
	if err := os.Chown(s.path(1), 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Ensure(); err == nil || !strings.Contains(err.Error(), "belongs to user 65534") {
		t.Errorf("error %v", err)
	}
}

func TestDirectoryThatIsAFile(t *testing.T) {
	s := newStore(t)
	if err := os.WriteFile(s.Dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Ensure(); err == nil {
		t.Error("a file was taken for the directory")
	}
}

var errKilled = errors.New("killed")

// Killed at any point, the next start finds a whole key or makes one; a key that was once returned
// never changes.
func TestKillAtEveryPoint(t *testing.T) {
	steps := []string{"create", "write", "write half", "write the rest", "sync", "rename", "sync directory"}
	for _, at := range steps {
		t.Run(at, func(t *testing.T) {
			s := newStore(t)
			reached := false
			dying := s
			dying.Writer = durable.Writer{Step: func(name string) error {
				if name == at {
					reached = true
					return errKilled
				}
				return nil
			}}
			keys, _, err := dying.Ensure()
			if !reached || !errors.Is(err, errKilled) || keys != nil {
				t.Fatalf("reached %v, keys %v, error %v", reached, keys, err)
			}
			key := mustEnsure(t, s)
			if again := mustEnsure(t, s); !again.Private.Equal(key.Private) {
				t.Error("the key changed")
			}
			if got := listing(t, s.Dir); got != "key-1 -rw-------" {
				t.Errorf("left behind: %s", got)
			}
		})
	}
}

func TestFullDiskSaysSo(t *testing.T) {
	s := newStore(t)
	full := s
	full.Writer.Step = func(name string) error {
		if name == "write" {
			return &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}
		}
		return nil
	}
	_, _, err := full.Ensure()
	var fault *FileError
	if !errors.As(err, &fault) || !strings.Contains(fault.Fault, "full") {
		t.Fatalf("error %v", err)
	}
	mustEnsure(t, s)
}

func TestNoRandomnessNoKey(t *testing.T) {
	s := newStore(t)
	s.Random = bytes.NewReader(make([]byte, 8))
	if _, _, err := s.Ensure(); err == nil {
		t.Fatal("a key was made of 8 bytes")
	}
	if got := listing(t, s.Dir); got != "" {
		t.Errorf("left behind: %s", got)
	}
}

// During an upgrade two agents may start at once; they must agree on one key.
func TestTwoStartsAtOnce(t *testing.T) {
	for range 20 {
		s := newStore(t)
		got := make([][]Key, 4)
		var wg sync.WaitGroup
		for i := range got {
			wg.Go(func() {
				keys, _, err := s.Ensure()
				if err != nil {
					t.Error(err)
				}
				got[i] = keys
			})
		}
		wg.Wait()
		final := mustEnsure(t, s)
		for i, keys := range got {
			if len(keys) != 1 || !keys[0].Private.Equal(final.Private) {
				t.Fatalf("start %d has another key", i)
			}
		}
	}
}

func listing(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var b []string
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, fmt.Sprintf("%s %s", e.Name(), info.Mode()))
	}
	return strings.Join(b, ", ")
}
