// Package cgroup makes and removes one control group under every hierarchy of
// the machine, version 1 and 2 alike.
package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount is one mounted cgroup hierarchy.
type Mount struct {
	Path    string
	Unified bool // version 2
	CPUSet  bool // version 1 with the cpuset controller
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
			out = append(out, Mount{Path: fields[4], CPUSet: slices.Contains(controllers, "cpuset")})
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
		return delegate(m.Path, dir)
	}
	return nil
}

// delegate gives the group the controllers that kubelet wants. On a machine
// with version 1 too, the controllers are there.
func delegate(dirs ...string) error {
	for _, dir := range dirs {
		file := filepath.Join(dir, "cgroup.subtree_control")
		if err := os.WriteFile(file, []byte("+cpu +cpuset +memory +pids +io"), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func copyValue(from, to string) error {
	value, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, value, 0o644)
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

// Remove removes the group and all groups below it. Their processes must have
// ended; while the kernel still takes one apart, the answer is busy (ErrBusy).
func Remove(name string) error {
	mounts, err := Mounts()
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range mounts {
		errs = append(errs, removeTree(filepath.Join(m.Path, name)))
	}
	return errors.Join(errs...)
}

// ErrBusy says that a group still has processes.
var ErrBusy error = unix.EBUSY

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
