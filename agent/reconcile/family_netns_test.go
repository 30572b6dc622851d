//go:build netns

package reconcile

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// whileStopped does something while the node's agent does not run, so that it sees what was before and what is
// after and nothing between.
func (m *machine) whileStopped(do func()) {
	m.t.Helper()
	m.must(m.agent.Process.Signal(syscall.SIGSTOP))
	// The signal is on its way when kill returns; the last thread stands still somewhat later.
	eventually(m.t, 20*time.Second, "the agent stands still", func() error { return stopped(m.agent.Process.Pid) })
	do()
	m.must(m.agent.Process.Signal(syscall.SIGCONT))
}

// stopped is nil when every thread of the process stands still.
func stopped(pid int) error {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(threads) == 0 {
		return fmt.Errorf("no thread of process %d: %w", pid, err)
	}
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		// The name before the state is in brackets and may have any character in it.
		_, rest, _ := strings.Cut(string(text[strings.LastIndexByte(string(text), ')')+1:]), " ")
		if !strings.HasPrefix(rest, "T") {
			return fmt.Errorf("%s: state %.1s", path, rest)
		}
	}
	return nil
}

// endpoint waits until the node sends to its only peer there.
func (m *machine) endpoint(want string, within time.Duration) {
	m.t.Helper()
	eventually(m.t, within, fmt.Sprintf("node%d sends to %s", m.number, want), func() error {
		d, err := m.device()
		if err != nil || len(d.Peers) != 1 || d.Peers[0].Endpoint != netip.MustParseAddrPort(want) {
			return fmt.Errorf("%v %w", d.Peers, err)
		}
		return nil
	})
}

// knows waits until the agent has looked at the node's addresses when this one was there.
func (m *machine) knows(address string) {
	m.t.Helper()
	eventually(m.t, 20*time.Second, "the agent knows of "+address, func() error {
		var out []byte
		var err error
		m.ns.Do(m.t, func() { out, err = exec.Command("nft", "list", "table", "inet", "weftnet").CombinedOutput() })
		if err != nil || !strings.Contains(string(out), address) {
			return fmt.Errorf("%s %w", out, err)
		}
		return nil
	})
}

// TestANodeLosesAFamily: a node without IPv4 goes on over IPv6, to which the other follows. IPv4 that returns
// changes nothing while IPv6 works, and is there when IPv6 goes.
func TestANodeLosesAFamily(t *testing.T) {
	const long = 60 * time.Second
	nodes := upMesh(t, 2)
	a, b := nodes[0], nodes[1]
	a.reach(b, long)
	a.endpoint("192.0.2.2:51820", long)
	b.endpoint("192.0.2.1:51820", long)

	b.address(b.nl.AddrDel, "192.0.2.2/24")
	b.endpoint("[2001:db8::1]:51820", long)
	took := b.reach(a, long)
	t.Logf("over IPv6 after %v", took.Round(time.Millisecond))
	a.reach(b, long)
	a.endpoint("[2001:db8::2]:51820", long)
	for _, m := range nodes {
		m.until("the MTU of IPv6", func(s said) bool { return s.Ready && s.MTU == 1420 })
	}

	train := a.train(t, b, false)
	train.pass(t, 200)
	b.address(b.nl.AddrAdd, "192.0.2.2/24")
	b.address(b.nl.AddrAdd, "192.0.2.22/24")
	b.knows("192.0.2.22") // and so of the one before
	train.pass(t, 500)
	train.stop(t)
	a.endpoint("[2001:db8::2]:51820", 0)
	b.endpoint("[2001:db8::1]:51820", 0)

	b.address(b.nl.AddrDel, "2001:db8::2/64")
	b.endpoint("192.0.2.1:51820", long)
	b.reach(a, long)
	a.reach(b, long)
	for _, m := range nodes {
		m.until("the MTU of IPv4", func(s said) bool { return s.Ready && s.MTU == 1440 })
	}
}
