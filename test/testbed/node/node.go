package node

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/weftnet/weftnet/test/testbed/cgroup"
	"github.com/weftnet/weftnet/test/testbed/layout"
	"github.com/weftnet/weftnet/test/testbed/proc"
)

// InitCommand is the testbed's hidden command that calls RunInit.
const InitCommand = "node-init"

// namespaces are those that a node's first process is born into, beside its
// network namespace.
const namespaces = syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC

// BootFile, on a node's disk, names the node's last boot.
const BootFile = "boot_id"

// Start boots the node: its disk is made or kept, its first process started
// from the given copy of the testbed's own program.
func Start(c Config, program string) (proc.Process, error) {
	if err := prepare(c); err != nil {
		return proc.Process{}, fmt.Errorf("prepare the disk of %s: %w", c.Node, err)
	}
	for _, group := range []string{c.Node.String(), c.Node.String() + "/system"} {
		if err := cgroup.Ensure(group); err != nil {
			return proc.Process{}, err
		}
	}
	if err := cgroup.Weigh(c.Node.String(), layout.MachineWeight); err != nil {
		return proc.Process{}, err
	}
	return proc.Start(proc.Spec{
		Path:       program,
		Args:       []string{InitCommand, c.planFile()},
		Dir:        "/",
		Log:        c.Layout.Log(c.Node.String()),
		NetNS:      c.Node.String(),
		Cloneflags: namespaces,
	})
}

func prepare(c Config) error {
	for _, dir := range c.dirs() {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	host, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	files := map[string]string{
		c.dir("etc", "resolv.conf"): resolvConf(string(host)),
		c.dir(BootFile):             newBootID(),
	}
	for name, file := range map[string]string{"containerd": "containerd.toml", "kubelet": "kubelet.yaml"} {
		if files[c.dir(file)], err = c.render(name); err != nil {
			return err
		}
	}
	if files[c.planFile()], err = c.plan(); err != nil {
		return err
	}
	for file, text := range files {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (c Config) planFile() string { return c.dir("plan.json") }

func (c Config) plan() (string, error) {
	text, err := json.MarshalIndent(NewPlan(c, c.dir(BootFile)), "", "  ")
	if err != nil {
		return "", fmt.Errorf("write the plan of %s: %w", c.Node, err)
	}
	return string(text), nil
}

// WritePlan lets the services of a running node, when they start the next time, start as the configuration says now.
func WritePlan(c Config) error {
	text, err := c.plan()
	if err != nil {
		return err
	}
	temp := c.planFile() + ".new"
	if err := os.WriteFile(temp, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(temp, c.planFile())
}

// newBootID is a random UUID, as the kernel makes one.
func newBootID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, by its documentation
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x\n", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// InstallBaseline puts the reference plugins and their configuration on the
// node's disk.
func InstallBaseline(l layout.Layout, n layout.Node, family layout.Family) error {
	bin, conf := l.NodeDir(n.String(), "opt-cni", "bin"), l.NodeDir(n.String(), "etc-cni", "net.d")
	for _, dir := range []string{bin, conf} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make a CNI folder of %s: %w", n, err)
		}
	}
	for _, plugin := range []string{"ptp", "host-local", "portmap", "loopback"} {
		if err := copyFile(l.Path("bin", plugin), filepath.Join(bin, plugin)); err != nil {
			return fmt.Errorf("install the plugin %s on %s: %w", plugin, n, err)
		}
	}
	text, err := baseline(n, family)
	if err != nil {
		return fmt.Errorf("write the CNI configuration of %s: %w", n, err)
	}
	return os.WriteFile(filepath.Join(conf, "10-baseline.conflist"), text, 0o644)
}

// copyFile replaces a program even while it runs.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	temp := to + ".new"
	out, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	return os.Rename(temp, to)
}

// CopyProgram puts this very program at a place that outlives `go run`.
func CopyProgram(to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return fmt.Errorf("make the folder of %s: %w", to, err)
	}
	if err := copyFile("/proc/self/exe", to); err != nil {
		return fmt.Errorf("copy this program to %s: %w", to, err)
	}
	return nil
}

// Stop ends the node at once, with everything in it: with the first process
// of a process namespace the kernel ends all others.
func Stop(ctx context.Context, n layout.Node, init proc.Process) error {
	if err := init.Stop(ctx, 0); err != nil {
		return fmt.Errorf("stop %s: %w", n, err)
	}
	return nil
}

// Socket is the node's containerd socket, seen from the machine.
func Socket(init proc.Process) string {
	return fmt.Sprintf("/proc/%d/root%s", init.PID, containerdSocket)
}
