//go:build linux

package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/link"
)

// FindCgroup finds the version 2 hierarchy at a mount point of cgroups: there, or beside hierarchies
// of version 1 in unified.
func FindCgroup(mount string) (string, error) {
	for _, path := range []string{mount, filepath.Join(mount, "unified")} {
		var s unix.Statfs_t
		if err := unix.Statfs(path, &s); err == nil && s.Type == unix.CGROUP2_SUPER_MAGIC {
			return path, nil
		}
	}
	return "", fmt.Errorf("find cgroups of version 2 at %s: %w", mount, unix.ENOENT)
}

// Probe finds out whether TCP can be balanced at the socket here, by loading the programs and
// attaching each for a moment, with nothing to balance.
func Probe(c Config) link.Probe {
	g, err := openCgroup(c.CgroupRoot)
	if err != nil {
		return link.Probe{Answer: link.No, Reason: err.Error()}
	}
	if err := onBPFFS(nearest(c.PinDir)); err != nil {
		return link.Probe{Answer: link.No, Reason: err.Error()}
	}
	return answer(try(g))
}

// nearest is the folder itself or the one that it would be made in.
func nearest(dir string) string {
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	return filepath.Dir(dir)
}

func try(g cgroup) error {
	t, err := makeTables(size{1, 1, 1}, canRefuse(), nil)
	if err != nil {
		return err
	}
	defer t.Close()
	for _, h := range hooks {
		l, err := attachNew(g, h, t.Programs[h.program])
		if err != nil {
			return err
		}
		_ = l.Close()
	}
	return nil
}

func answer(err error) link.Probe {
	var refused *ebpf.VerifierError
	switch {
	case err == nil:
		return link.Probe{Answer: link.Yes, Reason: "tried, and it works"}
	case errors.As(err, &refused) && !errors.Is(err, unix.EPERM):
		return link.Probe{Answer: link.No, Reason: fmt.Sprintf("this kernel refuses the programs (they need Linux 5.9): %v", err)}
	case errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
		return link.Probe{Answer: link.No, Reason: fmt.Sprintf("this kernel lacks it (Linux 5.9 with CONFIG_CGROUP_BPF is needed): %v", err)}
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return link.Probe{Answer: link.Unknown, Reason: fmt.Sprintf("not allowed to try (CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN, are needed): %v", err)}
	}
	return link.Probe{Answer: link.Unknown, Reason: err.Error()}
}
