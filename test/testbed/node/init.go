package node

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/test/testbed/cgroup"
)

// Plan is all that a node's first process has to do. It is written to the
// node's disk and read inside the node's fresh namespaces.
type Plan struct {
	Hostname string `json:"hostname"`
	// Cgroup is entered by the node's own processes, apart from its Pods;
	// empty means to stay.
	Cgroup string `json:"cgroup"`
	// Binds are mounted from the node's disk, in this order.
	Binds []Bind `json:"binds"`
	// Dirs are made in the node's own /run.
	Dirs     []string  `json:"dirs"`
	Services []Service `json:"services"`
}

// Bind mounts one folder or file over another.
type Bind struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// RunInit is the first process of a node: it stands in new mount, process
// and host name namespaces and in the node's network namespace, arranges the
// file system, and keeps the services running. It does not return.
func RunInit(planFile string) error {
	if os.Getpid() != 1 {
		return errors.New("run a node's first process: not in a process namespace of its own")
	}
	plan, err := readPlan(planFile)
	if err != nil {
		return err
	}
	// The cgroup hierarchies are found through the host's view of /proc.
	if plan.Cgroup != "" {
		if err := cgroup.Enter(plan.Cgroup, os.Getpid()); err != nil {
			return err
		}
	}
	if err := arrange(plan); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(plan.Hostname)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	return supervise(planFile, plan.Services, os.Stderr)
}

func readPlan(file string) (Plan, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return Plan{}, fmt.Errorf("read the node's plan: %w", err)
	}
	var plan Plan
	if err := json.Unmarshal(text, &plan); err != nil {
		return Plan{}, fmt.Errorf("parse the node's plan: %w", err)
	}
	return plan, nil
}

// arrange gives the node its own /proc, /run and /sys, and its disk.
func arrange(plan Plan) error {
	steps := []func() error{
		func() error { return mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE) },
		dropHostRun,
		func() error { return mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC) },
		func() error { return mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID) },
		ownSys,
		ownBPF,
		func() error { return makeDirs(plan.Dirs) },
		func() error { return bindAll(plan.Binds) },
		// So that a mount made in one container can reach the node and other
		// containers, as on a machine under systemd.
		func() error { return mount("", "/", "", unix.MS_REC|unix.MS_SHARED) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func mount(source, target, kind string, flags uintptr) error {
	if err := unix.Mount(source, target, kind, flags, ""); err != nil {
		return fmt.Errorf("mount %s: %w", target, err)
	}
	return nil
}

// dropHostRun unmounts what the machine has below /run, or this node would
// hold on to other nodes' network namespaces.
func dropHostRun() error {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	defer file.Close()
	points, err := mountPoints(file, "/run/")
	if err != nil {
		return err
	}
	for _, point := range slices.Backward(points) {
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", point, err)
		}
	}
	return nil
}

func mountPoints(mountinfo io.Reader, below string) ([]string, error) {
	var out []string
	lines := bufio.NewScanner(mountinfo)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) > 4 && strings.HasPrefix(fields[4], below) {
			out = append(out, fields[4])
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	return out, nil
}

// ownSys mounts a /sys that shows this network namespace's links, and keeps
// the cgroup hierarchies: kubelet refuses to start without them.
func ownSys() error {
	const aside = "/run/cgroup"
	if err := os.Mkdir(aside, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", aside, err)
	}
	if err := mount("/sys/fs/cgroup", aside, "", unix.MS_BIND|unix.MS_REC); err != nil {
		return err
	}
	err := mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC)
	if errors.Is(err, unix.EBUSY) {
		// It is this network namespace's already.
		return unix.Unmount(aside, unix.MNT_DETACH)
	}
	if err != nil {
		return err
	}
	if err := mount(aside, "/sys/fs/cgroup", "", unix.MS_MOVE); err != nil {
		return err
	}
	return os.Remove(aside)
}

// ownBPF mounts the node's own file system of pinned eBPF objects, as systemd does on a machine. A
// kernel without eBPF has no place for it.
func ownBPF() error {
	const dir = "/sys/fs/bpf"
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return mount("bpf", dir, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC)
}

func makeDirs(dirs []string) error {
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make %s: %w", dir, err)
		}
	}
	return nil
}

func bindAll(binds []Bind) error {
	for _, b := range binds {
		// Through a symbolic link (/etc/resolv.conf is one on many machines)
		// the bind would land on a file that is not there any more.
		to, err := filepath.EvalSymlinks(b.To)
		if err != nil {
			return fmt.Errorf("find the place for a mount: %w", err)
		}
		if err := mount(b.From, to, "", unix.MS_BIND|unix.MS_REC); err != nil {
			return fmt.Errorf("bind %s: %w", b.From, err)
		}
	}
	return nil
}

// exitOf describes how a process ended.
func exitOf(status syscall.WaitStatus) string {
	if status.Signaled() {
		return "signal " + status.Signal().String()
	}
	return fmt.Sprintf("status %d", status.ExitStatus())
}
