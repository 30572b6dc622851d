//go:build netns

package reconcile

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/cache"
	"github.com/weftnet/weftnet/agent/state"
)

func TestThreeNodesFormAMesh(t *testing.T) {
	nodes := machines(t, 3)
	for _, m := range nodes {
		m.startAgent()
		m.echo()
	}
	started := time.Now()
	for _, m := range nodes {
		m.tell(cluster(m.number, 1, 2, 3))
	}
	for _, m := range nodes {
		m.until("readiness", func(s said) bool { return s.Ready && s.MTU == 1440 })
	}
	t.Logf("in force after %v", time.Since(started).Round(time.Millisecond))
	for _, m := range nodes { // nobody sends anything yet: the agents' probes make the handshakes
		m.until("handshakes with all", func(s said) bool { return s.Connected == 2 })
	}
	t.Logf("proven after %v", time.Since(started).Round(time.Millisecond))
	for _, a := range nodes {
		for _, b := range nodes {
			if a != b {
				a.reach(b, 20*time.Second)
			}
		}
	}
	for _, m := range nodes {
		for stage, n := range m.state().Drift {
			if n != 0 {
				t.Errorf("node%d repaired %d drifts of %s where there were none", m.number, n, stage)
			}
		}
	}
	// An address of the pool that nobody has is refused, not sent to the default route.
	var c net.Conn
	var err error
	nodes[0].ns.Do(t, func() { c, err = net.Dial("udp", "10.244.99.1:1") })
	if err == nil {
		_ = c.Close()
	}
	if !errors.Is(err, unix.EHOSTUNREACH) {
		t.Errorf("an unknown Pod address: %v", err)
	}
}

func TestANodeChangesItsAddress(t *testing.T) {
	nodes := upMesh(t, 2)
	a, b := nodes[0], nodes[1]
	a.reach(b, 20*time.Second)
	// An agent that looks between the two sees a node without IPv4 and goes over to IPv6, to stay there:
	// see TestANodeLosesAFamily.
	b.whileStopped(func() {
		b.address(b.nl.AddrDel, "192.0.2.2/24")
		b.address(b.nl.AddrAdd, "192.0.2.22/24")
	})
	// Nobody has told node1: node2 sends from its new address, and WireGuard follows.
	took := a.reach(b, 120*time.Second)
	t.Logf("reached again after %v", took.Round(time.Millisecond))
	moved := cluster(1, 1, 2)
	moved.Nodes[1].Endpoints = []string{"192.0.2.22", "2001:db8::2"}
	moved.Nodes[1].NodeIPs = []string{"192.0.2.22", "2001:db8::2"}
	a.tell(moved)
	eventually(t, 20*time.Second, "the new endpoint", func() error {
		d, err := a.device()
		if err != nil || d.Peers[0].Endpoint != netip.MustParseAddrPort("192.0.2.22:51820") {
			return fmt.Errorf("%v %w", d.Peers, err)
		}
		return nil
	})
	eventually(t, 20*time.Second, "the new node address in table 87", func() error {
		if c := a.count("", netlink.FAMILY_V4, &netlink.Route{Dst: mustCIDR("192.0.2.22/32"), Table: 87}); c.n != 1 {
			return fmt.Errorf("%d routes, %w", c.n, c.err)
		}
		return nil
	})
	a.reach(b, 20*time.Second)
}

func TestNodesComeAndGo(t *testing.T) {
	nodes := upMesh(t, 3)
	a := nodes[0]
	a.reach(nodes[1], 20*time.Second)
	a.reach(nodes[2], 20*time.Second)
	partial := cluster(1, 1, 2)
	partial.Partial = true
	a.tell(partial) // proves nothing
	a.reach(nodes[2], 20*time.Second)
	a.tell(cluster(1, 1, 2))
	eventually(t, 20*time.Second, "the peer is gone", func() error {
		d, err := a.device()
		if err != nil || len(d.Peers) != 1 {
			return fmt.Errorf("%d peers, %w", len(d.Peers), err)
		}
		if c := a.count("", netlink.FAMILY_V4, &netlink.Route{Dst: mustCIDR("10.244.3.0/24"), Table: 254}); c.n != 0 {
			return fmt.Errorf("%d routes, %w", c.n, c.err)
		}
		return nil
	})
	a.reach(nodes[1], 20*time.Second)
	a.tell(cluster(1, 1, 2, 3))
	a.reach(nodes[2], 20*time.Second)
}

// A node boots while the API server is away: everything in /run and in the kernel is gone.
func TestBootFromTheCacheWithoutTheAPIServer(t *testing.T) {
	nodes := upMesh(t, 2)
	a, b := nodes[0], nodes[1]
	a.reach(b, 20*time.Second)
	path := t.TempDir() + "/peers.json"
	if err := (cache.Cache{Path: path, Self: "node2"}).Save(cluster(2, 1, 2)); err != nil {
		t.Fatal(err)
	}
	b.killAgent()
	_ = b.tunnel.Process.Kill()
	_ = b.tunnel.Wait()
	weft0, err := b.nl.LinkByName("weft0")
	b.must(err, b.nl.LinkDel(weft0), b.nft("flush ruleset"), b.deleteRules(), os.RemoveAll(b.run+"/weftnet"), os.RemoveAll(b.run+"/wireguard"))
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		b.must(b.deleteRoutes(family, state.TableMain, 0))
	}
	b.startTunnel(tunnelBinary(t))
	b.startAgent("NODE_CACHE=" + path)
	b.until("readiness", func(s said) bool { return s.Ready })
	took := b.reach(a, 20*time.Second)
	t.Logf("back in the mesh after %v", took.Round(time.Millisecond))
	a.reach(b, 20*time.Second)
}

// The agent is killed and started again under traffic, without losing a packet.
func TestAgentRestartLosesNothing(t *testing.T) {
	nodes := upMesh(t, 2)
	a, b := nodes[0], nodes[1]
	a.reach(b, 20*time.Second)
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("IPv6 %v", v6), func(t *testing.T) {
			train := a.train(t, b, v6)
			train.pass(t, 300)
			for range 2 {
				a.killAgent()
				train.pass(t, 500)
				a.startAgent()
				train.pass(t, 200) // knows nothing yet
				partial := cluster(1, 1)
				partial.Partial = true
				a.tell(partial) // not even its peer
				a.until("readiness", func(s said) bool { return s.Ready })
				train.pass(t, 200)
				a.tell(cluster(1, 1, 2))
				train.pass(t, 500)
			}
			train.stop(t)
		})
	}
	if n := a.state().Drift[stagePeers]; n != 0 {
		t.Errorf("%d repairs of peers", n)
	}
}
