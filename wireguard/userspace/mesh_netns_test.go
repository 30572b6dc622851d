//go:build netns

package userspace_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/link"
	"github.com/weftnet/weftnet/agent/kernel/wg"
	"github.com/weftnet/weftnet/agent/kernel/wg/contract"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nstest"
	"github.com/weftnet/weftnet/test/wgtest"
)

func TestMain(m *testing.M) { wgtest.Main(m) }

const listenPort = 51820

// node is a namespace with a wireguard process, or with the kernel's WireGuard and none, joined to
// its peer by a veth pair.
type node struct {
	ns       *nstest.Namespace
	nl       *netlink.Handle
	devices  *wg.Kernel
	links    *link.Kernel
	process  *wgtest.Process
	underlay []netip.Addr
	mesh     []netip.Addr
	device   state.Device
	link     state.Link
}

// pair makes two nodes that are each other's peers, over an underlay of the given family; env goes
// to their processes.
func pair(t *testing.T, underlayV6 bool, env ...string) (a, b *node) {
	a, b = newNode(t, 1, state.LinkTUN, env), newNode(t, 2, state.LinkTUN, env)
	connect(t, a, b, underlayV6)
	return a, b
}

func connect(t *testing.T, a, b *node, underlayV6 bool) {
	join(t, a, b)
	a.peerWith(b, underlayV6)
	b.peerWith(a, underlayV6)
	for _, n := range []*node{a, b} {
		if n.process != nil {
			n.process.Request(t, n.devices, n.link.Name)
		}
		n.configure(t)
		n.addRoutes(t)
	}
}

func newNode(t *testing.T, n byte, kind state.LinkKind, env []string) *node {
	name := wgtest.DeviceName()
	a := &node{
		ns:       nstest.New(t),
		underlay: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, n}), netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: n})},
		mesh:     []netip.Addr{netip.AddrFrom4([4]byte{10, 244, n, 1}), netip.AddrFrom16([16]byte{0xfd, 7: n, 15: 1})},
		device:   state.Device{Name: name, PrivateKey: contract.Private(uint16(n)), ListenPort: listenPort},
		link:     state.Link{Name: name, Kind: kind, MTU: 1420, Up: true, Alias: state.LinkAlias},
	}
	for _, addr := range a.mesh {
		a.link.Addresses = append(a.link.Addresses, netip.PrefixFrom(addr, addr.BitLen()))
	}
	var errs [3]error
	a.ns.Do(t, func() {
		a.devices, errs[0] = wg.New()
		a.links, errs[1] = link.New()
		a.nl, errs[2] = netlink.NewHandle(unix.NETLINK_ROUTE)
	})
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = a.devices.Close(); a.links.Close(); a.nl.Close() })
	if kind == state.LinkTUN {
		a.process = wgtest.Start(t, a.ns, env...)
	}
	return a
}

func join(t *testing.T, a, b *node) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "up0"
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "up0", PeerNamespace: netlink.NsFd(b.ns.Fd())}
	if err := a.nl.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*node{a, b} {
		l, err := n.nl.LinkByName("up0")
		if err == nil {
			err = n.nl.LinkSetUp(l)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, addr := range n.underlay {
			n.address(t, n.nl.AddrReplace, addr)
		}
	}
}

// address adds or removes an address of the underlay.
func (n *node) address(t *testing.T, do func(netlink.Link, *netlink.Addr) error, addr netip.Addr) {
	t.Helper()
	l, err := n.nl.LinkByName("up0")
	if err != nil {
		t.Fatal(err)
	}
	bits := map[bool]int{true: 24, false: 64}[addr.Is4()]
	ip := &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, addr.BitLen())}
	a := &netlink.Addr{IPNet: ip}
	if addr.Is6() {
		a.Flags = 0x02 // IFA_F_NODAD: usable at once
	}
	if err := do(l, a); err != nil {
		t.Fatalf("underlay address %s: %v", addr, err)
	}
}

func (n *node) peerWith(other *node, underlayV6 bool) {
	endpoint := other.underlay[0]
	if underlayV6 {
		endpoint = other.underlay[1]
	}
	n.device.Peers = []state.Peer{{
		PublicKey: other.device.PrivateKey.Public(), Endpoint: netip.AddrPortFrom(endpoint, listenPort), AllowedIPs: other.link.Addresses,
	}}
}

// configure is what the agent does: link and device as wanted.
func (n *node) configure(t *testing.T) wg.Change {
	t.Helper()
	if _, err := n.links.Ensure(t.Context(), []state.Link{n.link}); err != nil {
		t.Fatal(err)
	}
	change, err := n.devices.Ensure(t.Context(), n.device)
	if err != nil {
		t.Fatal(err)
	}
	return change
}

func (n *node) addRoutes(t *testing.T) {
	t.Helper()
	l, err := n.nl.LinkByName(n.link.Name)
	if err != nil {
		t.Fatal(err)
	}
	for i, dst := range n.device.Peers[0].AllowedIPs {
		route := &netlink.Route{
			LinkIndex: l.Attrs().Index, Protocol: 87, Src: n.mesh[i].AsSlice(),
			Dst: &net.IPNet{IP: dst.Addr().AsSlice(), Mask: net.CIDRMask(dst.Bits(), dst.Addr().BitLen())},
		}
		if err := n.nl.RouteReplace(route); err != nil {
			t.Fatalf("route to %s: %v", dst, err)
		}
	}
}

// kernelState is what must survive the process: link index, addresses and routes.
func (n *node) kernelState(t *testing.T) string {
	t.Helper()
	l, err := n.nl.LinkByName(n.link.Name)
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := n.nl.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	routes, err := n.nl.RouteList(l, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	lines := []string{fmt.Sprintf("%d %s", l.Attrs().Index, l.Attrs().Alias)}
	for _, a := range addrs {
		lines = append(lines, a.IPNet.String())
	}
	for i := range routes {
		if routes[i].Protocol == 87 {
			lines = append(lines, fmt.Sprintf("%s src %s", routes[i].Dst, routes[i].Src))
		}
	}
	slices.Sort(lines)
	return fmt.Sprint(lines)
}

const echoPort = 7000

// echo answers datagrams at the node's mesh addresses until the test ends.
func (n *node) echo(t *testing.T) {
	for _, addr := range n.mesh {
		c := n.listen(t, netip.AddrPortFrom(addr, echoPort))
		go func() {
			buf := make([]byte, 64)
			for {
				size, from, err := c.ReadFromUDPAddrPort(buf)
				if err != nil {
					return
				}
				_, _ = c.WriteToUDPAddrPort(buf[:size], from) // a lost answer is what the tests look for
			}
		}()
	}
}

func (n *node) listen(t *testing.T, at netip.AddrPort) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	var err error
	n.ns.Do(t, func() { c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at)) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// dial connects a socket from the node's mesh address to the other's, in the family of its index.
func (n *node) dial(t *testing.T, other *node, family int) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	var err error
	n.ns.Do(t, func() {
		c, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(n.mesh[family], 0)),
			net.UDPAddrFromAddrPort(netip.AddrPortFrom(other.mesh[family], echoPort)))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// reach waits until datagrams come back in both families.
func (n *node) reach(t *testing.T, other *node, within time.Duration) {
	t.Helper()
	for family := range n.mesh {
		c := n.dial(t, other, family)
		wgtest.Eventually(t, within, func() error { return exchange(c) })
		_ = c.Close()
	}
}

func exchange(c *net.UDPConn) error {
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 64))
	return err
}

// stream sends a numbered datagram every millisecond and notes which came back.
type stream struct {
	sent, answered atomic.Uint64
	last           atomic.Int64 // time of the last answer, in ns
}

func (n *node) stream(t *testing.T, other *node) *stream {
	s := &stream{}
	c := n.dial(t, other, 0)
	go func() {
		buf := make([]byte, 64)
		for {
			if _, err := c.Read(buf); err != nil {
				if isClosed(err) {
					return
				}
				continue // a refusal by ICMP while the other side is down
			}
			s.answered.Add(1)
			s.last.Store(time.Now().UnixNano())
		}
	}()
	go func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-t.Context().Done():
				return
			case <-tick.C:
				_, _ = c.Write(binary.BigEndian.AppendUint64(nil, s.sent.Add(1))) // a refused packet is a lost one
			}
		}
	}()
	return s
}
