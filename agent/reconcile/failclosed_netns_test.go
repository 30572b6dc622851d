//go:build netns

package reconcile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/desired/filter"
	"github.com/weftnet/weftnet/agent/kernel/nft"
)

// The worst case: agent and tunnel are dead, the mesh device is gone, and somebody has pointed the
// route to the other node's Pods at the underlay. Nothing with a Pod or mesh address may get out.
func TestFailClosedWithTheAgentDead(t *testing.T) {
	nodes := upMesh(t, 2)
	a, b := nodes[0], nodes[1]
	a.reach(b, 10*time.Second)
	wire := b.capture()

	a.killAgent()
	_ = a.tunnel.Process.Kill()
	_ = a.tunnel.Wait()
	weft0, err1 := a.nl.LinkByName("weft0")
	lo, err2 := a.nl.LinkByName("lo")
	eth0, err3 := a.nl.LinkByName("eth0")
	a.must(err1, err2, err3, a.nl.LinkDel(weft0), a.deleteRules())
	for i, text := range []string{"10.244.1.7/32", "fd00:10:244:1::7/128"} {
		addr, err := netlink.ParseAddr(text)
		dst := mustCIDR([]string{"10.244.2.0/24", "fd00:10:244:2::/64"}[i])
		a.must(err, a.nl.AddrAdd(lo, addr), a.nl.RouteAdd(&netlink.Route{Dst: dst, LinkIndex: eth0.Attrs().Index}))
	}
	for _, c := range []struct{ from, to string }{
		{"10.244.1.7", "10.244.2.1"}, {"fd00:10:244:1::7", "fd00:10:244:2::1"}, // to another Pod
		{"10.244.1.7", "192.0.2.2"}, {"fd00:10:244:1::7", "2001:db8::2"}, // to the other node
		{"192.0.2.1", "10.244.2.1"}, {"2001:db8::1", "fd00:10:244:2::1"}, // from the node to a Pod
	} {
		before := a.dropped()
		a.send(c.from, c.to)
		eventually(t, 2*time.Second, fmt.Sprintf("%s to %s is counted", c.from, c.to), func() error {
			if a.dropped() == before {
				return errors.New("nothing was dropped")
			}
			return nil
		})
	}
	// What has neither comes through: the capture works.
	for _, c := range []struct{ from, to string }{{"192.0.2.1", "192.0.2.2"}, {"2001:db8::1", "2001:db8::2"}} {
		a.send(c.from, c.to)
		eventually(t, 2*time.Second, "the capture", func() error {
			wire.read(t)
			if !wire.saw(netip.MustParseAddr(c.from)) {
				return errors.New("nothing seen")
			}
			return nil
		})
	}
	for _, cluster := range []string{"10.244.0.0/16", "fd00:10:244::/48"} {
		if got := wire.within(netip.MustParsePrefix(cluster)); got != nil {
			t.Errorf("seen on the wire in the clear: %v", got)
		}
	}
}

func (m *machine) send(from, to string) {
	m.t.Helper()
	local := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))
	remote := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(to), 5555))
	// The kernel takes a new IPv6 address into use a moment after it was added.
	eventually(m.t, 2*time.Second, "a socket at "+from, func() (err error) {
		m.ns.Do(m.t, func() {
			var c *net.UDPConn
			if c, err = net.DialUDP("udp", local, remote); err == nil {
				_, _ = c.Write([]byte("in the clear")) // EPERM is how the kernel tells of the drop
				err = c.Close()
			}
		})
		return err
	})
}

// dropped is what the fail-closed table has dropped on the way out.
func (m *machine) dropped() uint64 {
	m.t.Helper()
	var counters map[string]nft.Counter
	var err error
	m.ns.Do(m.t, func() {
		var k *nft.Kernel
		if k, err = nft.New(); err == nil {
			counters, err = k.Counters(m.t.Context())
			err = errors.Join(err, k.Close())
		}
	})
	m.must(err)
	return counters[filter.CounterOut].Packets
}

// capture is every address seen in packets that arrive at the node from the underlay.
type capture struct {
	fd   int
	seen map[netip.Addr]bool
}

func (m *machine) capture() *capture {
	m.t.Helper()
	eth0, err := m.nl.LinkByName("eth0")
	m.must(err)
	c := &capture{seen: map[netip.Addr]bool{}}
	m.ns.Do(m.t, func() {
		all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
		if c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, int(all)); err == nil {
			err = unix.Bind(c.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: eth0.Attrs().Index})
		}
	})
	m.must(err)
	m.t.Cleanup(func() { _ = unix.Close(c.fd) })
	return c
}

func (c *capture) read(t *testing.T) {
	t.Helper()
	buf := make([]byte, 2048)
	for {
		n, _, err := unix.Recvfrom(c.fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		packet := bytes.Clone(buf[:n])
		switch {
		case n >= 20 && packet[0]>>4 == 4:
			c.note(packet[12:16], packet[16:20])
		case n >= 40 && packet[0]>>4 == 6:
			c.note(packet[8:24], packet[24:40])
		}
	}
}

func (c *capture) note(addresses ...[]byte) {
	for _, raw := range addresses {
		if a, ok := netip.AddrFromSlice(raw); ok {
			c.seen[a] = true
		}
	}
}

func (c *capture) saw(a netip.Addr) bool { return c.seen[a] }

func (c *capture) within(p netip.Prefix) []netip.Addr {
	var out []netip.Addr
	for a := range c.seen {
		if p.Contains(a) {
			out = append(out, a)
		}
	}
	return out
}
