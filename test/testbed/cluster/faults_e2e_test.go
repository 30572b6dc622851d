//go:build e2e

package cluster

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weftnet/test/testbed/fault"
	"github.com/weftnet/weftnet/test/testbed/layout"
	"github.com/weftnet/weftnet/test/testbed/proc"
)

// These tests prove the faults on a cluster without a network: they look at the underlay only.

const (
	nodeA, nodeB = layout.Node(1), layout.Node(2)
	port         = 53535
)

func open(t *testing.T) (*Cluster, context.Context, layout.Family) {
	t.Helper()
	c, err := Open(nil)
	if err != nil {
		t.Fatal(err)
	}
	state, err := c.State()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(func() {
		cancel()
		if err := c.HealAll(context.WithoutCancel(ctx)); err != nil {
			t.Errorf("heal: %v", err)
		}
	})
	return c, ctx, state.Options.Family
}

// server answers with the address that a datagram came from.
func server(t *testing.T, n layout.Node, addr netip.Addr) {
	t.Helper()
	var conn *net.UDPConn
	err := proc.InNetNS(n.String(), func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, port)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 100)
		for {
			_, from, err := conn.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return
			}
			_, _ = conn.WriteToUDPAddrPort([]byte(from.Addr().Unmap().String()), from)
		}
	}()
	t.Cleanup(func() { _ = conn.Close(); <-done })
}

// ask sends a datagram and gives the source address that the server saw;
// empty when no answer comes.
func ask(t *testing.T, n layout.Node, to netip.Addr) string {
	t.Helper()
	answer := ""
	err := proc.InNetNS(n.String(), func() error {
		conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, port)))
		if err != nil {
			return nil // no way there at all
		}
		defer conn.Close()
		buffer := make([]byte, 100)
		_ = conn.SetDeadline(time.Now().Add(300 * time.Millisecond))
		if _, err := conn.Write([]byte("who am i")); err != nil {
			return nil
		}
		if count, err := conn.Read(buffer); err == nil {
			answer = string(buffer[:count])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// eventually waits for an answer, which may take a neighbour's discovery.
func eventually(t *testing.T, ctx context.Context, n layout.Node, to netip.Addr, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	got := ""
	err := proc.Poll(ctx, 50*time.Millisecond, func() (bool, error) {
		got = ask(t, n, to)
		return got == want, nil
	})
	if err != nil {
		t.Fatalf("%s asks %s: got %q, want %q", n, to, got, want)
	}
}

func onEveryFamily(t *testing.T, f func(t *testing.T, c *Cluster, ctx context.Context, a, b netip.Addr)) {
	c, ctx, family := open(t)
	for i, p := range nodeB.Addrs(family) {
		t.Run(p.Addr().String(), func(t *testing.T) {
			a, b := nodeA.Addrs(family)[i].Addr(), p.Addr()
			server(t, nodeA, a)
			server(t, nodeB, b)
			eventually(t, ctx, nodeA, b, a.String())
			eventually(t, ctx, nodeB, a, b.String())
			f(t, c, ctx, a, b)
		})
	}
}

func TestCutAndHeal(t *testing.T) {
	onEveryFamily(t, func(t *testing.T, c *Cluster, ctx context.Context, a, b netip.Addr) {
		for _, udp := range []bool{false, true} {
			if err := c.Fault(fault.Pair(nodeA, nodeB, true, udp, fault.Cut)...); err != nil {
				t.Fatal(err)
			}
			if got := ask(t, nodeA, b); got != "" {
				t.Errorf("udp only %v: through the cut came %q", udp, got)
			}
			if err := c.Heal(fault.Between(nodeA, nodeB)); err != nil {
				t.Fatal(err)
			}
			eventually(t, ctx, nodeA, b, a.String())
		}
	})
}

func TestLoss(t *testing.T) {
	onEveryFamily(t, func(t *testing.T, c *Cluster, _ context.Context, a, b netip.Addr) {
		if err := c.Fault(fault.Pair(nodeA, nodeB, true, true, 50)...); err != nil {
			t.Fatal(err)
		}
		defer c.Heal(fault.Between(nodeA, nodeB)) //nolint:errcheck // healed again at the end
		const count = 40
		answers := 0
		for range count {
			if ask(t, nodeA, b) == a.String() {
				answers++
			}
		}
		// Half of 40: outside of 7 to 33 once in 100,000 runs.
		if answers < 7 || answers > 33 {
			t.Errorf("%d of %d answers with half of the packets lost", answers, count)
		}
	})
}

func TestLink(t *testing.T) {
	onEveryFamily(t, func(t *testing.T, c *Cluster, ctx context.Context, a, b netip.Addr) {
		if err := c.SetLink(nodeB, false); err != nil {
			t.Fatal(err)
		}
		if got := ask(t, nodeA, b); got != "" {
			t.Errorf("over a link that is down came %q", got)
		}
		if err := c.SetLink(nodeB, true); err != nil {
			t.Fatal(err)
		}
		eventually(t, ctx, nodeA, b, a.String())
	})
}

func TestNAT(t *testing.T) {
	_, _, family := open(t)
	onEveryFamily(t, func(t *testing.T, c *Cluster, ctx context.Context, a, b netip.Addr) {
		outside := nodeB.RouterAddrs(family)[0].Addr()
		if a.Is6() {
			outside = nodeB.RouterAddrs(family)[len(nodeB.RouterAddrs(family))-1].Addr()
		}
		for _, kind := range []string{PlainNAT, SymmetricNAT} {
			if err := c.AddNAT(nodeB, kind, 0); err != nil {
				t.Fatal(err)
			}
			eventually(t, ctx, nodeB, a, outside.String())
			if got := ask(t, nodeA, b); got != "" {
				t.Errorf("%s: from outside came %q", kind, got)
			}
		}
		if err := c.RemoveNAT(nodeB); err != nil {
			t.Fatal(err)
		}
		eventually(t, ctx, nodeA, b, a.String())
		eventually(t, ctx, nodeB, a, b.String())
	})
}

func TestRebootIsANewBootWithTheOldDisk(t *testing.T) {
	c, ctx, _ := open(t)
	before, err := c.State()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Reboot(ctx, nodeB); err != nil {
		t.Fatal(err)
	}
	after, err := c.State()
	if err != nil {
		t.Fatal(err)
	}
	if before.Nodes[nodeB.String()].Init.Alive() || !after.Nodes[nodeB.String()].Init.Alive() {
		t.Error("the node is not another one")
	}
	client, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	err = awaitNodes(ctx, client, []layout.Node{nodeB}, "report its new boot", c.inThisBoot)
	if err != nil {
		t.Fatal(err)
	}
}

func TestAPIServerStopsAndStarts(t *testing.T) {
	c, ctx, _ := open(t)
	client, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.StopAPI(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Discovery().ServerVersion(); err == nil {
		t.Error("a stopped API server answers")
	}
	if err := c.StartAPI(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Discovery().ServerVersion(); err != nil {
		t.Errorf("a started API server: %v", err)
	}
}

func TestAuditRunsOnTheUnderlay(t *testing.T) {
	c, ctx, _ := open(t)
	a, err := c.StartAudit(ctx)
	if err != nil {
		t.Fatal(err)
	}
	report, err := a.Stop(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := report.Valid(); err != nil || report.Wanted == 0 {
		t.Errorf("%d own packets: %v", report.Wanted, err)
	}
}
