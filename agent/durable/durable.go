//go:build linux

// Package durable writes small files so that they are either wholly there or not at all, even when
// the machine loses power between any two steps: temporary file, write, fsync, rename, fsync of the
// directory.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// tempMark is in the name of every temporary file, after a leading dot and the final name.
const tempMark = ".tmp-"

// Writer writes files. The zero value does so for real; tests stop it half-way.
type Writer struct {
	// Step, when set, is called before each step with its name; what it returns stops the write
	// there, leaving everything as a crash at that point would.
	Step func(name string) error
}

// Replace writes the file, in place of one that exists.
func (w Writer) Replace(path string, data []byte, mode fs.FileMode) error {
	return w.write(path, data, mode, os.Rename)
}

// Create writes the file and never touches one that exists: then the error is fs.ErrExist.
func (w Writer) Create(path string, data []byte, mode fs.FileMode) error {
	return w.write(path, data, mode, renameNew)
}

// stopped is an error of Step: nothing is tidied up after it.
type stopped struct{ error }

func (s stopped) Unwrap() error { return s.error }

func (w Writer) write(path string, data []byte, mode fs.FileMode, publish func(from, to string) error) error {
	dir, name := filepath.Split(path)
	if err := w.step("create"); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+name+tempMark+"*")
	if err != nil {
		return fmt.Errorf("create a temporary file for %s: %w", path, nameless(err))
	}
	err = w.fill(f, data, mode)
	if err == nil {
		err = w.step("rename")
	}
	if err == nil {
		err = publish(f.Name(), path)
	}
	if err != nil {
		if !errors.As(err, new(stopped)) {
			err = errors.Join(fmt.Errorf("write %s: %w", path, nameless(err)), os.Remove(f.Name()))
		}
		return err
	}
	if err := w.step("sync directory"); err != nil {
		return err
	}
	return SyncDir(dir)
}

// nameless leaves out the name of the temporary file, which is another one each time: who writes again and again and says a
// fault once knows by its text that it is the same.
func nameless(err error) error {
	var onPath *fs.PathError
	var onLink *os.LinkError
	switch {
	case errors.As(err, &onPath):
		return fmt.Errorf("%s: %w", onPath.Op, onPath.Err)
	case errors.As(err, &onLink):
		return fmt.Errorf("%s: %w", onLink.Op, onLink.Err)
	default:
		return err
	}
}

// fill writes the temporary file and closes it.
func (w Writer) fill(f *os.File, data []byte, mode fs.FileMode) (err error) {
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
	}()
	half := len(data) / 2
	steps := []struct {
		name string
		do   func() error
	}{
		{"write", func() error { return f.Chmod(mode) }},
		{"write half", func() error { _, err := f.Write(data[:half]); return err }},
		{"write the rest", func() error { _, err := f.Write(data[half:]); return err }},
		{"sync", f.Sync},
	}
	for _, s := range steps {
		if err := w.step(s.name); err != nil {
			return err
		}
		if err := s.do(); err != nil {
			return err
		}
	}
	return nil
}

func (w Writer) step(name string) error {
	if w.Step == nil {
		return nil
	}
	if err := w.Step(name); err != nil {
		return stopped{err}
	}
	return nil
}

// renameNew renames without replacing. Two agents may start at once during an upgrade.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	// A filesystem without the flag: a hard link never replaces either.
	if err := os.Link(from, to); err != nil {
		return err
	}
	return os.Remove(from)
}

// SyncDir makes the directory's entries durable.
func SyncDir(dir string) error {
	if dir == "" {
		dir = "."
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open directory %s: %w", dir, err)
	}
	err = d.Sync()
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}

// RemoveTemporary removes what interrupted writes of the file have left beside it.
func RemoveTemporary(path string) error {
	dir, name := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read directory %s: %w", dir, err)
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "."+name+tempMark) {
			errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}
