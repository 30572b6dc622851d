//go:build linux && netns

package cniserver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/attachlog"
	"github.com/weftnet/weftnet/agent/kernel/pod"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nstest"
)

// crashServer as the first argument makes the test binary a server that kills itself at a step.
const crashServer = "serve-and-die"

func runCrashServer(args []string) int {
	socket, stateDir, step := args[0], args[1], args[2]
	err := func() error {
		kernel, err := pod.New(pod.Config{})
		if err != nil {
			return err
		}
		s, err := New(Config{
			NodeName: "node-a", Socket: socket, StateDir: stateDir, Pods: kernel, Ready: func() error { return nil }, Cooldown: time.Hour,
			Step: func(name string) {
				if name == step {
					_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
					select {}
				}
			},
		})
		if err != nil {
			return err
		}
		s.SetNode(Node{
			Blocks:   []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:10:244:1::/64")},
			Reserved: []netip.Addr{netip.MustParseAddr("10.244.1.1"), netip.MustParseAddr("fd00:10:244:1::1")},
			MTU:      testMTU,
		})
		return s.Run(context.Background())
	}()
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// startDoomed runs a server process in the node's namespace that dies at the step. It returns a
// function that waits for its death.
func (n *testNode) startDoomed(step string) func() {
	t := n.t
	t.Helper()
	_ = os.Remove(n.cfg.Socket)
	cmd := exec.Command("/proc/self/exe", crashServer, n.cfg.Socket, n.cfg.StateDir, step)
	cmd.Stderr = os.Stderr
	n.ns.Do(t, func() {
		if err := cmd.Start(); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "the doomed server listens", n.listens)
	return func() {
		t.Helper()
		err := cmd.Wait()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("the server did not die at %q: %v", step, err)
		}
	}
}

var addSteps = []string{
	"add: before the log", "add: before the rules", "add: before the kernel", "add: before the disk", "add: before the answer",
}

// TestKilledDuringAdd kills the agent at each step of an ADD. Its successor gives nobody's address to
// another, takes the runtime's DEL, and keeps nothing.
func TestKilledDuringAdd(t *testing.T) {
	for _, step := range addSteps {
		t.Run(step, func(t *testing.T) {
			n := prepareNode(t)
			dead := n.startDoomed(step)
			victim := nstest.New(t)
			n.fails(call{command: "ADD", container: "victim", netns: victim}, 11, "closed the connection")
			dead()
			n.start()
			ns, ips := n.addPod("survivor", nil)
			for _, f := range n.links() {
				if f.HostLink != state.PodLinkName("survivor", "eth0") {
					disjoint(t, ips, f.Addresses)
				}
			}
			n.ok(call{command: "DEL", container: "victim", netns: victim})
			n.ok(call{command: "ADD", container: "victim", netns: victim})
			if n.used() != 2 || len(n.links()) != 2 {
				t.Errorf("%d addresses in use, links %v", n.used(), n.links())
			}
			serve(t, ns, 8080)
			for _, ip := range ips {
				if _, err := dial(t, victim, netip.AddrPortFrom(ip, 8080).String()); err != nil {
					t.Error(err)
				}
			}
			n.ok(call{command: "DEL", container: "victim"})
			n.ok(call{command: "DEL", container: "survivor"})
			if n.used() != 0 || len(n.links()) != 0 || len(n.server.Problems()) != 0 {
				t.Errorf("left: %d addresses, links %v, problems %v", n.used(), n.links(), n.server.Problems())
			}
		})
	}
}

// TestKilledDuringAddWithoutDel is the same for a runtime that never comes back to the victim, whose
// namespace goes: the address returns by itself.
func TestKilledDuringAddWithoutDel(t *testing.T) {
	for _, step := range addSteps {
		t.Run(step, func(t *testing.T) {
			n := prepareNode(t)
			dead := n.startDoomed(step)
			victim := exec.Command("sleep", "1000") // holds the victim's namespace
			victim.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
			if err := victim.Start(); err != nil {
				t.Fatal(err)
			}
			a := n.callAt(call{command: "ADD", container: "victim"}, fmt.Sprintf("/proc/%d/ns/net", victim.Process.Pid))
			if a.code != 11 {
				t.Errorf("code %d: %s", a.code, a.msg)
			}
			dead()
			if err := victim.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = victim.Wait()
			n.start()
			eventually(t, "nothing is left", func() bool {
				if err := n.server.Heal(context.Background()); err != nil {
					t.Fatal(err)
				}
				return n.used() == 0 && len(n.links()) == 0
			})
		})
	}
}

func TestKilledDuringDel(t *testing.T) {
	for _, step := range []string{"del: before the kernel", "del: before the log", "del: before the answer"} {
		t.Run(step, func(t *testing.T) {
			n := prepareNode(t)
			dead := n.startDoomed(step)
			ns := nstest.New(t)
			n.ok(call{command: "ADD", container: "victim", netns: ns})
			n.ok(call{command: "DEL", container: "victim", netns: ns}) // the plugin queues it
			dead()
			n.start()
			eventually(t, "the queued DEL is carried out", func() bool { return n.used() == 0 && len(n.links()) == 0 })
			if len(n.server.Problems()) != 0 {
				t.Errorf("problems: %v", n.server.Problems())
			}
		})
	}
}

// TestRestartKeepsPods ends the server in order and starts it again: Pods, addresses and CHECK go on.
func TestRestartKeepsPods(t *testing.T) {
	n := newNode(t)
	ns := nstest.New(t)
	result := n.ok(call{command: "ADD", container: "pod-a", netns: ns})
	gone, freed := n.addPod("pod-b", nil)
	n.ok(call{command: "DEL", container: "pod-b", netns: gone})
	n.stop()
	n.start()
	_, ips := n.addPod("pod-c", nil)
	disjoint(t, addresses(t, result), freed, ips) // what was released before the restart still rests
	if got := n.ok(call{command: "ADD", container: "pod-a", netns: ns}); string(got) != string(result) {
		t.Errorf("ADD again: %s, want %s", got, result)
	}
}

// TestReboot : the log says what was, and no link is left. Everything is released.
func TestReboot(t *testing.T) {
	n := newNode(t)
	for i := range 5 {
		n.addPod(fmt.Sprintf("pod-%d", i), nil)
	}
	n.stop()
	n.ns = prepareNode(t).ns
	n.start()
	if n.used() != 0 || len(n.server.Attachments()) != 0 {
		t.Errorf("%d addresses in use", n.used())
	}
}

// TestDamagedLog spoils or removes the log under living Pods: loud, and no address is used twice.
func TestDamagedLog(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"removed": os.Remove,
		"emptied": func(path string) error { return os.Truncate(path, 0) },
		"garbage": func(path string) error { return os.WriteFile(path, []byte(strings.Repeat("garbage\n", 99)), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			ns, before := n.addPod("pod-a", nil)
			n.stop()
			path := filepath.Join(n.cfg.StateDir, attachlog.FileName)
			if err := spoil(path); err != nil {
				t.Fatal(err)
			}
			n.start()
			if p := fmt.Sprint(n.server.Problems()); !strings.Contains(p, n.cfg.StateDir) {
				t.Errorf("problems %s do not name %s", p, n.cfg.StateDir)
			}
			_, after := n.addPod("pod-b", nil)
			disjoint(t, before, after)
			n.ok(call{command: "DEL", container: "pod-a", netns: ns})
			if n.used() != 1 || len(n.links()) != 1 {
				t.Errorf("after DEL: %d addresses in use, links %v", n.used(), n.links())
			}
		})
	}
}
