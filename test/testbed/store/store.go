// Package store keeps what is expensive to make (binaries, images) under a key that names everything it was made from, so that a fresh
// clone, or a second one, finds it again. Entries never change once written; a new input is a new key.
package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Store is a directory of entries: <Dir>/<key>/<name>.
type Store struct{ Dir string }

// Open returns the user's store, ${XDG_CACHE_HOME:-~/.cache}/weftnet/testbed, and makes it.
func Open() (Store, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return Store{}, fmt.Errorf("find the cache directory: %w", err)
	}
	s := Store{Dir: filepath.Join(cache, "weftnet", "testbed")}
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return Store{}, fmt.Errorf("make the cache directory: %w", err)
	}
	return s, nil
}

// Key hashes its parts, each with its length, so that no two different lists agree by concatenation.
func Key(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s\n", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))[:24]
}

// Path is where the entry is, or will be.
func (s Store) Path(key, name string) string { return filepath.Join(s.Dir, key, name) }

// Has tells whether the entry is complete: Put renames it into place.
func (s Store) Has(key, name string) bool {
	info, err := os.Stat(s.Path(key, name))
	return err == nil && info.Mode().IsRegular()
}

// scratchLife is longer than any build takes; an older scratch directory is left from a run that was killed.
const scratchLife = 6 * time.Hour

// Scratch makes a private directory on the store's file system, so that Put can rename out of it.
func (s Store) Scratch() (string, error) {
	s.sweep(time.Now().Add(-scratchLife))
	dir, err := os.MkdirTemp(s.Dir, "scratch-")
	if err != nil {
		return "", fmt.Errorf("make a scratch directory: %w", err)
	}
	return dir, nil
}

// sweep removes scratch directories that nobody touched since a time. Failing to is no reason to stop: it costs disk only.
func (s Store) sweep(since time.Time) {
	dirs, _ := filepath.Glob(filepath.Join(s.Dir, "scratch-*"))
	for _, dir := range dirs {
		if info, err := os.Stat(dir); err == nil && info.ModTime().Before(since) {
			_ = os.RemoveAll(dir)
		}
	}
}

// Put moves file, which must lie in a Scratch directory, into the store.
func (s Store) Put(key, name, file string) error {
	target := s.Path(key, name)
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return fmt.Errorf("make the entry's directory: %w", err)
	}
	if err := os.Rename(file, target); err != nil {
		return fmt.Errorf("store %s: %w", name, err)
	}
	return nil
}

// Export makes path the entry's content: a hard link where the file systems allow, else a copy. It replaces by rename, so that a
// program that runs from path goes on, and does nothing when path already is that content.
func (s Store) Export(key, name, path string) error {
	source := s.Path(key, name)
	have, err := os.Stat(path)
	want, wantErr := os.Stat(source)
	if wantErr != nil {
		return fmt.Errorf("find %s in the store: %w", name, wantErr)
	}
	if err == nil && (os.SameFile(have, want) || have.Size() == want.Size() && have.ModTime().Equal(want.ModTime())) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make the directory of %s: %w", path, err)
	}
	temp := fmt.Sprintf("%s.new-%d", path, os.Getpid())
	if err := linkOrCopy(source, temp, want); err != nil {
		return fmt.Errorf("export %s: %w", name, err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("export %s: %w", name, err)
	}
	return nil
}

func linkOrCopy(source, target string, info os.FileInfo) error {
	if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if os.Link(source, target) == nil {
		return nil
	}
	if err := copyFile(source, target, info.Mode().Perm()); err != nil {
		return err
	}
	return os.Chtimes(target, time.Time{}, info.ModTime()) // Export compares times, since a copy is another inode
}

func copyFile(source, target string, mode os.FileMode) error {
	in, err := os.Open(source)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// Lock waits for the named lock. The kernel drops it when the process ends, however it ends. Waiting is called once if another holds it.
func (s Store) Lock(ctx context.Context, name string, waiting func()) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(s.Dir, name+".lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open lock %s: %w", name, err)
	}
	for first := true; ; first = false {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("take lock %s: %w", name, err)
		}
		if first && waiting != nil {
			waiting()
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for lock %s: %w", name, ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}
