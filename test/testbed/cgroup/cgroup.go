// Package cgroup makes, weighs and removes one control group under every hierarchy of
// the machine, version 1 and 2 alike.
package cgroup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/test/testbed/proc"
)

// Mount is one mounted cgroup hierarchy.
type Mount struct {
	Path    string
	Unified bool // version 2
	CPUSet  bool // version 1 with the cpuset controller
	CPU     bool // version 1 with the cpu controller
}

// Mounts reads the machine's hierarchies.
func Mounts() ([]Mount, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	defer file.Close()
	return parseMounts(file)
}

// parseMounts reads mountinfo: fields, then " - type source options".
func parseMounts(r io.Reader) ([]Mount, error) {
	var out []Mount
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		left, right, ok := strings.Cut(lines.Text(), " - ")
		fields, super := strings.Fields(left), strings.Fields(right)
		if !ok || len(fields) < 5 || len(super) < 3 {
			continue
		}
		switch super[0] {
		case "cgroup":
			controllers := strings.Split(super[2], ",")
			out = append(out, Mount{Path: fields[4], CPUSet: slices.Contains(controllers, "cpuset"), CPU: slices.Contains(controllers, "cpu")})
		case "cgroup2":
			out = append(out, Mount{Path: fields[4], Unified: true})
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	return out, nil
}

// Ensure makes the group under every hierarchy, ready for processes and
// for further groups.
func Ensure(name string) error {
	mounts, err := Mounts()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if err := ensureIn(m, name, len(mounts) == 1); err != nil {
			return fmt.Errorf("make cgroup %s in %s: %w", name, m.Path, err)
		}
	}
	return nil
}

func ensureIn(m Mount, name string, only bool) error {
	dir := filepath.Join(m.Path, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if m.CPUSet {
		// A cpuset without CPUs and memory nodes accepts no process.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if err := copyValue(filepath.Join(m.Path, file), filepath.Join(dir, file)); err != nil {
				return err
			}
		}
	}
	if m.Unified && only {
		return delegate(filepath.Dir(dir))
	}
	return nil
}

// delegate gives what is below the group the controllers that kubelet wants; the group itself can have no process from then
// on. On a machine with version 1 too, the controllers are there.
func delegate(dir string) error {
	return os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+cpu +cpuset +memory +pids +io"), 0o644)
}

func copyValue(from, to string) error {
	value, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, value, 0o644)
}

// Weigh gives the group so many times the processor time, when all want more than there is, of a group that nobody has weighed.
func Weigh(name string, times int) error {
	mounts, err := Mounts()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		// What a group has at first: 1024 shares in version 1, a weight of 100 in version 2.
		file, value := "", 0
		switch {
		case m.CPU:
			file, value = "cpu.shares", 1024*times
		case m.Unified && len(mounts) == 1:
			file, value = "cpu.weight", min(100*times, 10000)
		default:
			continue
		}
		file = filepath.Join(m.Path, name, file)
		if err := os.WriteFile(file, []byte(strconv.Itoa(value)), 0o644); err != nil {
			return fmt.Errorf("weigh cgroup %s: %w", filepath.Dir(file), err)
		}
	}
	return nil
}

// Enter puts a process into the group, everywhere.
func Enter(name string, pid int) error {
	mounts, err := Mounts()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		file := filepath.Join(m.Path, name, "cgroup.procs")
		if err := os.WriteFile(file, []byte(strconv.Itoa(pid)), 0o644); err != nil {
			return fmt.Errorf("enter cgroup %s: %w", filepath.Dir(file), err)
		}
	}
	return nil
}

// Remove removes the group and all groups below it. Their processes must have ended; the kernel may need a moment
// to take the last one apart.
func Remove(ctx context.Context, name string) error {
	mounts, err := Mounts()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var busy error
	err = proc.Poll(ctx, 50*time.Millisecond, func() (bool, error) {
		var errs []error
		for _, m := range mounts {
			errs = append(errs, removeTree(filepath.Join(m.Path, name)))
		}
		err := errors.Join(errs...)
		if errors.Is(err, unix.EBUSY) {
			busy = err
			return false, nil
		}
		return true, err
	})
	if ctx.Err() != nil {
		return errors.Join(err, busy) // what it waited for
	}
	return err
}

func removeTree(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list cgroups in %s: %w", dir, err)
	}
	// Children come after their parents in the walk.
	for _, d := range slices.Backward(dirs) {
		if err := unix.Rmdir(d); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove cgroup %s: %w", d, err)
		}
	}
	return nil
}
