package proc

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// All lists the processes of this machine, as numbers.
func All() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// InNamespace lists the processes whose network namespace is the file's.
func InNamespace(file string) ([]Process, error) {
	want, err := os.Stat(file)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at namespace %s: %w", file, err)
	}
	return Select(func(pid int) bool {
		got, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", pid))
		return err == nil && os.SameFile(want, got)
	})
}

// Select lists the processes that match; one that ends meanwhile is skipped.
func Select(match func(pid int) bool) ([]Process, error) {
	pids, err := All()
	if err != nil {
		return nil, err
	}
	var out []Process
	for _, pid := range pids {
		if !match(pid) {
			continue
		}
		if p, err := Find(pid); err == nil {
			out = append(out, p)
		}
	}
	return out, nil
}

// Program is the base name of the program that a process runs; empty for a
// kernel thread and for a process that is gone.
func Program(pid int) string {
	target, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return ""
	}
	return filepath.Base(strings.TrimSuffix(target, " (deleted)"))
}

// InCgroup says whether a process is in the cgroup or below it.
func InCgroup(pid int, group string) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return false
	}
	return cgroupsContain(string(text), group)
}

// cgroupsContain reads /proc/PID/cgroup: lines of id:controllers:path.
func cgroupsContain(text, group string) bool {
	for line := range strings.Lines(text) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) == 3 && (parts[2] == group || strings.HasPrefix(parts[2], group+"/")) {
			return true
		}
	}
	return false
}

// Held says whether a process is stopped by a signal.
func Held(pid int) bool {
	stat, err := readStat(pid)
	return err == nil && stat.state == 'T'
}
