//go:build e2e

package cluster

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weftnet/weftnet/test/testbed/cgroup"
	"github.com/weftnet/weftnet/test/testbed/layout"
	"github.com/weftnet/weftnet/test/testbed/node"
	"github.com/weftnet/weftnet/test/testbed/proc"
	"github.com/weftnet/weftnet/test/testbed/record"
	"github.com/weftnet/weftnet/test/testbed/underlay"
)

// The suite has a cluster of its own, without a network: one that is there is taken down first, and
// none is left.

// before is the machine without a cluster.
var before machine

// program is the testbed's command line. The tests bring the cluster up with it, since nodes run a copy of the
// program that has started them, and since a command can be killed.
var program string

var upArgs = []string{"up", "--nodes=2", "--proxy=none"}

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := runSuite(context.Background(), m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testbed:", err)
		code = 1
	}
	os.Exit(code)
}

func runSuite(ctx context.Context, m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "testbed")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	program = filepath.Join(dir, "testbed")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, "github.com/weftnet/weftnet/test/testbed").CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build the testbed: %w\n%s", err, out)
	}
	if err := command(ctx, "down"); err != nil {
		return 1, err
	}
	if before, err = look(); err != nil {
		return 1, err
	}
	if err := command(ctx, upArgs...); err != nil {
		return 1, errors.Join(err, command(ctx, "down"))
	}
	code = m.Run()
	return code, command(ctx, "down")
}

func command(ctx context.Context, args ...string) error {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("testbed %s: %w\n%s", strings.Join(args, " "), err, out.String())
	}
	return nil
}

// machine is what a cluster changes of the machine. Others may work here too, so only what bears the testbed's
// names is looked at, and what it says that it changes.
type machine struct {
	Links, NetNS, Mounts, Cgroups, Tables, Dirs, Sysctls []string
}

func look() (m machine, err error) {
	l, err := layout.Find()
	if err != nil {
		return m, err
	}
	if m.Mounts, err = mounts(l.Dir()); err != nil {
		return m, err
	}
	if m.Cgroups, err = cgroups(); err != nil {
		return m, err
	}
	m.NetNS, _ = filepath.Glob(underlay.NetNSFile("tb-*")) // errs on a bad pattern only
	m.Links, _ = filepath.Glob("/sys/class/net/tb-*")      // the same
	tables, err := exec.Command("nft", "list", "tables").Output()
	if err != nil {
		return m, fmt.Errorf("list the machine's nftables tables: %w", err)
	}
	for line := range strings.Lines(string(tables)) {
		if strings.Contains(line, "tb-") {
			m.Tables = append(m.Tables, strings.TrimSpace(line))
		}
	}
	for _, dir := range node.MountPoints() {
		if _, err := os.Stat(dir); err == nil {
			m.Dirs = append(m.Dirs, dir)
		}
	}
	sysctls, err := machineSysctls()
	for key, value := range sysctls {
		m.Sysctls = append(m.Sysctls, key+"="+value)
	}
	slices.Sort(m.Sysctls)
	return m, err
}

// mounts are those below the testbed's folder, which may be named by a link, and those of its network namespaces.
func mounts(dir string) (out []string, err error) {
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, fmt.Errorf("find the testbed's folder: %w", err)
	}
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list the machine's mounts: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && (strings.HasPrefix(fields[4], dir+"/") || strings.HasPrefix(filepath.Base(fields[4]), "tb-")) {
			out = append(out, fields[4])
		}
	}
	slices.Sort(out)
	return out, nil
}

func cgroups() (out []string, err error) {
	all, err := cgroup.Mounts()
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		found, _ := filepath.Glob(filepath.Join(m.Path, "tb-*")) // errs on a bad pattern only
		out = append(out, found...)
	}
	slices.Sort(out)
	return out, nil
}

// processes are all of the cluster: what stands in a node's network namespace, and what runs in its Pods.
func processes(t *testing.T) []proc.Process {
	t.Helper()
	var out []proc.Process
	for _, n := range layout.Nodes(layout.MaxNodes) {
		inNetNS, err := proc.InNamespace(underlay.NetNSFile(n.String()))
		if err != nil {
			t.Fatal(err)
		}
		inCgroup, err := proc.Select(func(pid int) bool { return proc.InCgroup(pid, "/"+n.String()) })
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, slices.Concat(inNetNS, inCgroup)...)
	}
	return out
}

// state of the cluster on record.
func state(t *testing.T) record.State {
	t.Helper()
	l, err := layout.Find()
	if err != nil {
		t.Fatal(err)
	}
	s, err := record.Read(l)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
