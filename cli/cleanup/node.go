// Package cleanup removes what Weftnet has left on nodes: on this one, in the kernel and on disk;
// or, through Kubernetes, on all of them, with a Job on each that does the former.
package cleanup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/weftnet/weftnet/agent/kernel/sweep"
)

// Node says what to remove on a node, and where things are.
type Node struct {
	// Root stands before every path, for a container that has the node's folders mounted there.
	Root       string
	CNIBinDir  string
	CNIConfDir string
	// State asks for the key, the address records and the peer cache to be removed too.
	State bool
	// DryRun only tells.
	DryRun bool
	// Force goes on although an agent is running, which would put everything back.
	Force bool
	// Patience is how long to wait for agent and tunnel to end: after `helm uninstall` they need a moment.
	Patience time.Duration
}

// The node's fixed places.
const (
	runDir   = "/run/weftnet"
	stateDir = "/var/lib/weftnet"
	uapiGlob = uapiDir + "/weft*.sock"
	uapiDir  = "/var/run/wireguard"
	// bpfDir holds the pins of the programs that balance connections at the socket. They end with it.
	bpfDir    = "/sys/fs/bpf/weftnet"
	bpfParent = "/sys/fs" // is there on every kernel
	socket    = "cni.sock"
	plugin    = "weftnet"
	loopback  = "loopback"
	conflist  = "05-weftnet.conflist"
	// disabledSuffix marks another plugin's configuration that was set aside.
	disabledSuffix = ".weftnet-disabled"
)

// ErrRunning says that Weftnet still runs on this node.
var ErrRunning = errors.New("something of Weftnet still runs on this node and would put everything back: run `helm uninstall` first, or use --force")

// Run removes, and tells each thing on w. It goes on after what it cannot remove, and running it
// again is fine.
func (n Node) Run(ctx context.Context, w io.Writer) error {
	if err := n.awaitEnd(ctx); err != nil {
		return err
	}
	// The conflist goes first, so that the runtime starts no Pod on a network that is being removed.
	fileFaults := errors.Join(n.removeFiles(w), n.restore(w))
	kernelFaults := n.removeKernel(ctx, w)
	return errors.Join(fileFaults, kernelFaults)
}

// awaitEnd waits until neither the agent nor a userspace tunnel answers.
func (n Node) awaitEnd(ctx context.Context) error {
	if n.Force || n.DryRun {
		return nil
	}
	var running string
	err := wait.PollUntilContextTimeout(ctx, 500*time.Millisecond, max(n.Patience, time.Millisecond), true, func(ctx context.Context) (bool, error) {
		running = n.running(ctx)
		return running == "", nil
	})
	if err != nil && running != "" {
		return fmt.Errorf("%s answers: %w", running, ErrRunning)
	}
	return err
}

// running is a socket of Weftnet's that answers, if there is one. A file that nobody listens on
// is a leftover.
func (n Node) running(ctx context.Context) string {
	dialer := net.Dialer{Timeout: 2 * time.Second}
	tunnels, _ := filepath.Glob(filepath.Join(n.Root, uapiGlob)) // the pattern is a constant and well formed
	for _, path := range append(tunnels, filepath.Join(n.Root, runDir, socket)) {
		if conn, err := dialer.DialContext(ctx, "unix", path); err == nil {
			_ = conn.Close()
			return path
		}
	}
	return ""
}

// Paths are the files and folders to remove, whether they are there or not. A pattern stands for
// what it matches.
func (n Node) Paths() []string {
	paths := []string{filepath.Join(n.CNIConfDir, conflist), filepath.Join(n.CNIBinDir, plugin), uapiGlob, runDir, bpfDir}
	if n.State {
		paths = append(paths, stateDir)
	}
	for i, path := range paths {
		paths[i] = filepath.Join(n.Root, path)
	}
	// On a host that had no such plugin the agent has made a link to its own. One that leads nowhere
	// would be in the way of the next network.
	link := filepath.Join(n.Root, n.CNIBinDir, loopback)
	if target, err := os.Readlink(link); err == nil && target == plugin {
		paths = append(paths, link)
	}
	return paths
}

func (n Node) removeFiles(w io.Writer) error {
	var faults []error
	for _, pattern := range n.Paths() {
		matches, err := filepath.Glob(pattern)
		faults = append(faults, err)
		for _, path := range matches {
			faults = append(faults, n.remove(w, path))
		}
	}
	if !n.DryRun {
		// Others may have tunnels of their own in this folder; then it is not empty, and stays.
		_ = os.Remove(filepath.Join(n.Root, uapiDir))
	}
	return errors.Join(faults...)
}

// restore gives another plugin's configuration, which the agent was asked to set aside, its name
// back, unless there is a newer one of that name.
func (n Node) restore(w io.Writer) error {
	aside, err := filepath.Glob(filepath.Join(n.Root, n.CNIConfDir, "*"+disabledSuffix))
	faults := []error{err}
	for _, path := range aside {
		original := strings.TrimSuffix(path, disabledSuffix)
		if _, err := os.Lstat(original); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		_, err := fmt.Fprintln(w, "give back", original)
		if faults = append(faults, err); !n.DryRun {
			faults = append(faults, os.Rename(path, original))
		}
	}
	return errors.Join(faults...)
}

// remove empties a folder that is a mount point of its own, which itself cannot be removed from
// within a container.
func (n Node) remove(w io.Writer, path string) error {
	if _, err := fmt.Fprintln(w, n.verb(), path); err != nil {
		return fmt.Errorf("tell of %s: %w", path, err)
	}
	if n.DryRun {
		return nil
	}
	err := os.RemoveAll(path)
	if err == nil {
		return nil
	}
	entries, listErr := os.ReadDir(path)
	if listErr != nil || len(entries) > 0 {
		return fmt.Errorf("remove %s: %w", path, errors.Join(err, ignoreAbsent(listErr)))
	}
	return nil
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (n Node) removeKernel(ctx context.Context, w io.Writer) error {
	s, err := sweep.New()
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	found, err := s.Find(ctx)
	if err != nil {
		return err
	}
	if found.Empty() {
		_, err := fmt.Fprintln(w, "nothing of Weftnet is in this node's kernel")
		return err
	}
	for _, line := range found.Lines() {
		if _, err := fmt.Fprintln(w, n.verb(), line); err != nil {
			return fmt.Errorf("tell of %s: %w", line, err)
		}
	}
	if n.DryRun {
		return nil
	}
	return s.Remove(ctx, found)
}

func (n Node) verb() string {
	if n.DryRun {
		return "would remove"
	}
	return "remove"
}

// Folders are the parents of what is removed: a folder that is itself mounted cannot be.
func (n Node) Folders() []string {
	folders := []string{n.CNIBinDir, n.CNIConfDir, "/run", "/var/run", bpfParent}
	if n.State {
		folders = append(folders, "/var/lib")
	}
	slices.Sort(folders)
	return slices.Compact(folders)
}

// Args of the command that does the same on another node, with that node's folders under /host.
func (n Node) Args() []string {
	args := []string{"cleanup", "--root=/host", "--cni-bin-dir=" + n.CNIBinDir, "--cni-conf-dir=" + n.CNIConfDir, "--patience=" + n.Patience.String()}
	for flag, set := range map[string]bool{"--state": n.State, "--dry-run": n.DryRun, "--force": n.Force} {
		if set {
			args = append(args, flag)
		}
	}
	slices.Sort(args[1:])
	return args
}
