package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/test/testbed/underlay"
)

// kubeletSysctls are the machine-wide values that kubelet sets when it
// starts; `down` puts the old ones back.
var kubeletSysctls = []string{
	"vm.overcommit_memory", "vm.panic_on_oom",
	"kernel.panic", "kernel.panic_on_oops",
	"kernel.keys.root_maxkeys", "kernel.keys.root_maxbytes",
}

func machineSysctls() (map[string]string, error) {
	out := map[string]string{}
	for _, key := range kubeletSysctls {
		value, err := os.ReadFile(underlay.SysctlFile(key))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read sysctl %s: %w", key, err)
		}
		out[key] = strings.TrimSpace(string(value))
	}
	return out, nil
}

func restoreSysctls(values map[string]string) error {
	var errs []error
	for key, value := range values {
		if err := os.WriteFile(underlay.SysctlFile(key), []byte(value), 0o644); err != nil {
			errs = append(errs, fmt.Errorf("restore sysctl %s: %w", key, err))
		}
	}
	return errors.Join(errs...)
}

// missingDirs lists the folders, parents first, that must be made for the
// wanted ones to exist.
func missingDirs(wanted []string) ([]string, error) {
	var out []string
	for _, dir := range wanted {
		for ; ; dir = filepath.Dir(dir) {
			_, err := os.Stat(dir)
			if err == nil {
				break
			}
			if !errors.Is(err, os.ErrNotExist) {
				return nil, fmt.Errorf("look for %s: %w", dir, err)
			}
			if !slices.Contains(out, dir) {
				out = append(out, dir)
			}
		}
	}
	slices.Sort(out)
	return out, nil
}

func makeDirs(dirs []string) error {
	for _, dir := range dirs {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make a mount point: %w", err)
		}
	}
	return nil
}

// removeDirs removes the folders that the testbed made, children first. One
// that somebody else has put something into stays.
func removeDirs(dirs []string) error {
	var errs []error
	for _, dir := range slices.Backward(dirs) {
		err := unix.Rmdir(dir)
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTEMPTY) {
			errs = append(errs, fmt.Errorf("remove the mount point %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}
