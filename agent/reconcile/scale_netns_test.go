//go:build netns

package reconcile

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

// What 500 peers cost, and that they come up at all.
func TestFiveHundredPeers(t *testing.T) {
	m := machines(t, 1)[0]
	m.startAgent()
	started := time.Now()
	m.tell(largeCluster(1, 500))
	m.until("readiness", func(s said) bool { return s.Ready })
	t.Logf("in force after %v", time.Since(started).Round(time.Millisecond))
	d, err := m.device()
	if err != nil || len(d.Peers) != 499 {
		t.Fatalf("%d peers, %v", len(d.Peers), err)
	}
	before, at := m.cpu(), time.Now()
	eventually(t, 30*time.Second, "some seconds of idling", func() error {
		if time.Since(at) < 8*time.Second {
			return errors.New("not yet")
		}
		return nil
	})
	share := float64(m.cpu()-before) / float64(time.Since(at))
	t.Logf("idle CPU of the agent: %.1f %% of a core; memory: %s", 100*share, m.memory())
	if share > 0.10 {
		t.Errorf("the agent takes %.0f %% of a core while nothing happens", 100*share)
	}
	repaired := time.Now()
	if err := m.editPeers(func(d *state.Device) { d.Peers = d.Peers[:100] }); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the peers", func() error {
		if d, err := m.device(); err != nil || len(d.Peers) != 499 {
			return fmt.Errorf("%d peers, %w", len(d.Peers), err)
		}
		return nil
	})
	t.Logf("399 peers deleted and back within %v", time.Since(repaired).Round(time.Millisecond))
}

// cpu is the time that the agent has spent.
func (m *machine) cpu() time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.agent.Process.Pid))
	m.must(err)
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+2:]))
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	m.must(err1, err2)
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every architecture of Linux that Go has
	return time.Duration(user+system) * tick
}

func (m *machine) memory() string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.agent.Process.Pid))
	m.must(err)
	for line := range strings.Lines(string(text)) {
		if size, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strings.TrimSpace(size)
		}
	}
	return "unknown"
}
func largeCluster(self, n int) snapshot.Snapshot {
	s := cluster(self)
	for i := 1; i <= n; i++ {
		node := meshNode(i)
		node.PodCIDRs = []string{fmt.Sprintf("10.244.%d.%d/26", i/4, i%4*64), fmt.Sprintf("fd00:10:244:%x::/64", i)}
		node.MeshIPs = []string{fmt.Sprintf("10.244.%d.%d", i/4, i%4*64+1), fmt.Sprintf("fd00:10:244:%x::1", i)}
		node.NodeIPs = []string{fmt.Sprintf("198.18.%d.%d", i/250, i%250+1), fmt.Sprintf("2001:db8:1::%x", i)}
		node.Endpoints = node.NodeIPs
		node.PublicKey = state.NewPrivateKey([32]byte{8, byte(i), byte(i >> 8), 1}).Public().String()
		s.Nodes = append(s.Nodes, node)
	}
	return s.Sorted()
}
