//go:build linux

// Package sysctl keeps settings of the kernel's network as wanted: files under /proc/sys/net, which
// are those of the network namespace of the thread that opens them.
package sysctl

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/state"
)

// DefaultRoot is where the settings of the own network namespace are.
const DefaultRoot = "/proc/sys/net"

// Observed is what the kernel has of the settings that were asked for, sorted. Absent are those that
// this kernel does not have, IPv6's on a node without IPv6.
type Observed struct {
	Settings []state.Sysctl
	Absent   []string
}

// Change is what has to be written.
type Change struct {
	Set []state.Sysctl
}

// Empty tells whether there is nothing to do.
func (c Change) Empty() bool { return len(c.Set) == 0 }

// String prints the change as the sysctl commands that it amounts to, one a line.
func (c Change) String() string {
	lines := make([]string, len(c.Set))
	for i, s := range c.Set {
		lines[i] = fmt.Sprintf("sysctl -w net/%s=%q", s.Path, s.Value)
	}
	return strings.Join(lines, "\n")
}

// Diff says what to write so that have becomes want. What the kernel does not have is left out;
// of two values for one setting the last in order counts.
func Diff(have Observed, want []state.Sysctl) Change {
	current := map[string]string{}
	for _, s := range have.Settings {
		current[s.Path] = s.Value
	}
	absent := map[string]bool{}
	for _, p := range have.Absent {
		absent[p] = true
	}
	wanted := state.SortSysctls(want)
	var c Change
	for i, w := range wanted {
		superseded := i+1 < len(wanted) && wanted[i+1].Path == w.Path
		value, known := current[w.Path]
		if superseded || absent[w.Path] || (known && normal(value) == normal(w.Value)) {
			continue
		}
		c.Set = append(c.Set, w)
	}
	return c
}

// normal is a value with its fields one space apart: the kernel separates them by tabs.
func normal(v string) string { return strings.Join(strings.Fields(v), " ") }

// Kernel reads and writes settings under a root directory.
type Kernel struct{ root string }

// New opens the settings under root, which is DefaultRoot unless the node's /proc/sys/net is mounted
// elsewhere.
func New(root string) (*Kernel, error) {
	info, err := os.Stat(root)
	if err != nil {
		return nil, fmt.Errorf("open network settings: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("open network settings: %s is not a directory", root)
	}
	return &Kernel{root: root}, nil
}

// Observe reads the settings of the paths given. A path below ipv6/ is absent, and no error, on a
// node without IPv6.
func (k *Kernel) Observe(ctx context.Context, paths []string) (Observed, error) {
	var o Observed
	if err := ctx.Err(); err != nil {
		return o, err
	}
	var faults []error
	for _, p := range paths {
		b, err := read(filepath.Join(k.root, p))
		switch {
		case err == nil:
			o.Settings = append(o.Settings, state.Sysctl{Path: p, Value: normal(string(b))})
		case errors.Is(err, fs.ErrNotExist) && k.lacksIPv6(p):
			o.Absent = append(o.Absent, p)
		case errors.Is(err, fs.ErrPermission):
			// Some settings can be written and not read; writing will tell.
		default:
			faults = append(faults, fmt.Errorf("read net/%s: %w", p, err))
		}
	}
	o.Settings = state.SortSysctls(o.Settings)
	return o, errors.Join(faults...)
}

// read is os.ReadFile past the runtime's poller: one can wait for files of settings, and to open one would wake the thread
// that waits for news, every second for each of dozens.
func read(path string) ([]byte, error) {
	fd, err := retried(func() (int, error) { return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }() // it was only read
	text := make([]byte, 0, 64)
	for {
		text = slices.Grow(text, 64)
		n, err := retried(func() (int, error) { return unix.Read(fd, text[len(text):cap(text)]) })
		if err != nil || n == 0 {
			return text, err
		}
		text = text[:len(text)+n]
	}
}

// retried repeats what a signal has interrupted.
func retried(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

func (k *Kernel) lacksIPv6(path string) bool {
	if !strings.HasPrefix(path, "ipv6/") {
		return false
	}
	_, err := os.Stat(filepath.Join(k.root, "ipv6", "conf"))
	return errors.Is(err, fs.ErrNotExist)
}

// Apply writes the change. What fails for one setting does not keep it from the others.
func (k *Kernel) Apply(ctx context.Context, c Change) error {
	var faults []error
	for _, s := range c.Set {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(faults, err)...)
		}
		if err := k.write(s); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// write never makes a file: what is not there the kernel does not have.
func (k *Kernel) write(s state.Sysctl) error {
	if err := s.Validate(); err != nil {
		return err
	}
	path := filepath.Join(k.root, s.Path)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(s.Value + "\n")
		err = errors.Join(err, f.Close())
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("set net/%s to %s: %s is mounted read-only; the agent needs the node's /proc/sys/net writable: %w", s.Path, s.Value, k.root, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("set net/%s to %s: not permitted; the agent needs CAP_NET_ADMIN in the node's network namespace: %w", s.Path, s.Value, err)
	default:
		return fmt.Errorf("set net/%s to %s: %w", s.Path, s.Value, err)
	}
}

// Table is what keeps settings: the Kernel, or its Fake.
type Table interface {
	Observe(ctx context.Context, paths []string) (Observed, error)
	Apply(ctx context.Context, c Change) error
}

var _ Table = (*Kernel)(nil)

// Ensure observes the settings and makes them as wanted. It returns what it changed.
func (k *Kernel) Ensure(ctx context.Context, want []state.Sysctl) (Change, error) {
	return ensure(ctx, k, want)
}

// ensure writes what it can even when some settings could not be read.
func ensure(ctx context.Context, t Table, want []state.Sysctl) (Change, error) {
	var faults []error
	var valid []state.Sysctl
	var paths []string
	for _, s := range want {
		if err := s.Validate(); err != nil {
			faults = append(faults, err)
			continue
		}
		valid, paths = append(valid, s), append(paths, s.Path)
	}
	have, err := t.Observe(ctx, paths)
	if err != nil && ctx.Err() != nil {
		return Change{}, err
	}
	c := Diff(have, valid)
	// What could not be read is tried nevertheless: writing gives the error that counts.
	return c, errors.Join(append(faults, t.Apply(ctx, c))...)
}
