//go:build netns

package filter_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/desired/filter"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/test/nstest"
)

// lab is a node with two Pods, the underlay in front of it and a peer behind its mesh device, which
// here is a plain link: what WireGuard does is not at stake.
//
//	pod1 10.244.1.5 --weftp1--\            /--eth0-- outside 10.200.0.1, 198.51.100.1, 203.0.113.1
//	                           node 10.200.0.11
//	pod2 10.244.1.6 --weftp2--/            \--weft0-- peer 10.244.2.5 (a Pod there), 10.200.0.12
type lab struct {
	t *testing.T
	// ns by name: node, pod1, pod2, outside, peer.
	ns map[string]*nstest.Namespace
}

// pair is one address per family.
type pair [2]string

func (p pair) String() string { return p[0] + ", " + p[1] }

var (
	nodeAddr    = pair{"10.200.0.11", "fd00:c8::11"}
	meshAddr    = pair{"10.244.1.1", "fd00:10:244:1::1"}
	pod1Addr    = pair{"10.244.1.5", "fd00:10:244:1::5"}
	pod2Addr    = pair{"10.244.1.6", "fd00:10:244:1::6"}
	remoteAddr  = pair{"10.244.2.5", "fd00:10:244:2::5"}
	peerAddr    = pair{"10.200.0.12", "fd00:c8::12"}
	unknownNode = pair{"10.200.0.13", "fd00:c8::13"} // a node that is not in the mesh yet
	outsideAddr = pair{"10.200.0.1", "fd00:c8::1"}
	plainAddr   = pair{"198.51.100.1", "2001:db8:100::1"} // outside, without masquerade
	farAddr     = pair{"203.0.113.1", "2001:db8:200::1"}  // outside
	gateway     = pair{"169.254.1.1", "fe80::1:1"}        // the node, as its neighbours see it
	lostAddr    = pair{"10.244.9.9", "fd00:10:244:9::9"}  // in the pools, with no route to it
)

func input() filter.Input {
	in := filter.Input{
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48")},
		NoMasquerade: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:100::/48")},
	}
	for _, p := range []pair{nodeAddr, peerAddr, unknownNode} {
		in.NodeIPs = append(in.NodeIPs, netip.MustParseAddr(p[0]), netip.MustParseAddr(p[1]))
	}
	for i, p := range []pair{pod1Addr, pod2Addr} {
		in.Pods = append(in.Pods, filter.Pod{Link: fmt.Sprintf("weftp%d", i+1), Addresses: []netip.Addr{netip.MustParseAddr(p[0]), netip.MustParseAddr(p[1])}})
	}
	return in
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, ns: map[string]*nstest.Namespace{}}
	for _, name := range []string{"node", "pod1", "pod2", "outside", "peer"} {
		l.ns[name] = nstest.New(t)
	}
	l.wire("eth0", "outside")
	l.wire("weft0", "peer")
	l.wire("weftp1", "pod1")
	l.wire("weftp2", "pod2")
	l.address("node", "eth0", nodeAddr)
	l.address("node", "weft0", meshAddr)
	l.address("outside", "eth0", outsideAddr, plainAddr, farAddr)
	l.address("peer", "eth0", remoteAddr, peerAddr)
	l.address("pod1", "eth0", pod1Addr)
	l.address("pod2", "eth0", pod2Addr)
	for _, setting := range []string{"ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1", "ipv4/conf/weftp1/route_localnet=1", "ipv4/conf/weftp2/route_localnet=1"} {
		l.sysctl("node", setting)
	}
	for link, other := range map[string]string{"eth0": "outside", "weft0": "peer", "weftp1": "pod1", "weftp2": "pod2"} {
		mac := l.mac("node", link)
		l.run(other, "ip neigh add "+gateway[0]+" lladdr "+mac+" dev eth0 nud permanent")
		l.run(other, "ip neigh add "+gateway[1]+" lladdr "+mac+" dev eth0 nud permanent")
		l.run(other, "ip route add "+gateway[0]+"/32 dev eth0")
		l.run(other, "ip route add default via "+gateway[0]+" dev eth0")
		l.run(other, "ip -6 route add default via "+gateway[1]+" dev eth0")
		// The node finds its neighbours by itself for the Pods, whose neighbour discovery must pass.
		if link == "eth0" || link == "weft0" {
			for _, p := range []pair{outsideAddr, plainAddr, farAddr, remoteAddr, peerAddr, unknownNode, lostAddr} {
				for _, a := range p {
					l.run("node", "ip neigh replace "+a+" lladdr "+l.mac(other, "eth0")+" dev "+link+" nud permanent")
				}
			}
		}
	}
	l.routes("weftp1", pod1Addr)
	l.routes("weftp2", pod2Addr)
	l.routes("weft0", remoteAddr, peerAddr)
	l.routes("eth0", outsideAddr, plainAddr, farAddr, unknownNode)
	l.run("node", "ip route add default via "+outsideAddr[0]+" dev eth0")
	l.run("node", "ip -6 route add default via "+outsideAddr[1]+" dev eth0")
	return l
}

func (l *lab) run(ns, command string) string {
	l.t.Helper()
	var out []byte
	var err error
	words := strings.Fields(command)
	l.ns[ns].Do(l.t, func() { out, err = exec.Command(words[0], words[1:]...).CombinedOutput() })
	if err != nil {
		l.t.Fatalf("%s: %s: %v\n%s", ns, command, err, out)
	}
	return string(out)
}

func (l *lab) mac(ns, link string) string {
	l.t.Helper()
	_, rest, _ := strings.Cut(l.run(ns, "ip -o link show dev "+link), "link/ether ")
	mac, _, _ := strings.Cut(rest, " ")
	return mac
}

func (l *lab) sysctl(ns, setting string) {
	l.t.Helper()
	l.run(ns, "sysctl -q -w net/"+setting)
}

// wire joins a link of the node with eth0 of another namespace.
func (l *lab) wire(link, other string) {
	l.t.Helper()
	l.run("node", "ip link add "+link+" type veth peer name tmp0")
	var err error
	fd := l.ns[other].Fd()
	l.ns["node"].Do(l.t, func() { err = moveLink("tmp0", fd) })
	if err != nil {
		l.t.Fatal(err)
	}
	l.run(other, "ip link set tmp0 name eth0")
	l.run("node", "ip link set "+link+" up")
	l.run(other, "ip link set eth0 up")
}

func (l *lab) address(ns, link string, pairs ...pair) {
	l.t.Helper()
	for _, p := range pairs {
		l.run(ns, "ip addr add "+p[0]+"/32 dev "+link)
		l.run(ns, "ip addr add "+p[1]+"/128 dev "+link+" nodad")
	}
}

func (l *lab) routes(link string, pairs ...pair) {
	l.t.Helper()
	source := ""
	for _, p := range pairs {
		for i, length := range []string{"/32", "/128"} {
			if link != "eth0" {
				source = " src " + meshAddr[i]
			}
			l.run("node", "ip route add "+p[i]+length+" dev "+link+source)
		}
	}
}

// apply writes the table, and closes the Kernel: what follows happens with the agent dead.
func (l *lab) apply(in filter.Input) {
	l.t.Helper()
	k := l.open()
	defer func() { _ = k.Close() }()
	if _, err := k.Ensure(l.t.Context(), filter.Table(in)); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) open() *nft.Kernel {
	l.t.Helper()
	var k *nft.Kernel
	var err error
	l.ns["node"].Do(l.t, func() { k, err = nft.New() })
	if err != nil {
		l.t.Fatal(err)
	}
	return k
}

func (l *lab) counters() map[string]nft.Counter {
	l.t.Helper()
	k := l.open()
	defer func() { _ = k.Close() }()
	c, err := k.Counters(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	return c
}

// serve answers on a port of the addresses, over TCP and UDP: with the source address that it sees.
func (l *lab) serve(ns string, port int, addresses ...pair) {
	l.t.Helper()
	for _, p := range addresses {
		for _, a := range p {
			l.serveOn(ns, net.JoinHostPort(a, fmt.Sprint(port)))
		}
	}
}

func (l *lab) serveOn(ns, address string) {
	l.t.Helper()
	var tcp net.Listener
	var udp net.PacketConn
	var err, err2 error
	l.ns[ns].Do(l.t, func() {
		tcp, err = net.Listen("tcp", address)
		udp, err2 = net.ListenPacket("udp", address)
	})
	if err = errors.Join(err, err2); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _, _ = tcp.Close(), udp.Close() })
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			_, _ = c.Write([]byte(ns + " saw " + plain(host) + segment(c)))
			_ = c.Close()
		}
	}()
	go func() {
		buf := make([]byte, 64)
		for {
			_, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(from.String())
			_, _ = udp.WriteTo([]byte(ns+" saw "+plain(host)), from)
		}
	}()
}

// serveAll serves on every address of every namespace.
func (l *lab) serveAll(port int) {
	l.t.Helper()
	l.serve("node", port, nodeAddr, meshAddr, pair{"127.0.0.1", "::1"})
	l.serve("pod1", port, pod1Addr)
	l.serve("pod2", port, pod2Addr)
	l.serve("outside", port, outsideAddr, plainAddr, farAddr)
	l.serve("peer", port, remoteAddr, peerAddr)
}

func plain(host string) string { return netip.MustParseAddr(host).Unmap().String() }

// ask sends to an address and returns the answer: who saw which source. from may be empty.
func (l *lab) ask(ns, network, from, to string, port int, patience time.Duration) (string, error) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), patience)
	defer cancel()
	var c net.Conn
	var err error
	l.ns[ns].Do(l.t, func() {
		d := net.Dialer{}
		if from != "" && network == "tcp" {
			d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
		} else if from != "" {
			d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(from)}
		}
		c, err = d.DialContext(ctx, network, net.JoinHostPort(to, fmt.Sprint(port)))
	})
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	deadline, _ := ctx.Deadline()
	_ = c.SetDeadline(deadline)
	if network == "udp" {
		if _, err := c.Write([]byte("who am I?")); err != nil {
			return "", err
		}
	}
	buf := make([]byte, 128)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

const (
	patience   = 20 * time.Second       // for what must arrive
	impatience = 100 * time.Millisecond // for what must not: counters prove that it was there
)

// expect asks over both families and protocols.
func (l *lab) expect(ns string, to pair, port int, who string, saw pair) {
	l.t.Helper()
	l.expectFrom(ns, pair{}, to, port, who, saw)
}

// expectFrom is expect with a source address.
func (l *lab) expectFrom(ns string, from, to pair, port int, who string, saw pair) {
	l.t.Helper()
	for i := range to {
		for _, network := range []string{"tcp", "udp"} {
			got, err := l.ask(ns, network, from[i], to[i], port, patience)
			want := who + " saw " + saw[i]
			if err != nil || firstWords(got) != want {
				l.t.Errorf("%s to %s:%d over %s: answer %q, error %v, want %q", ns, to[i], port, network, got, err, want)
			}
		}
	}
}

// firstWords leaves out the segment size behind the source.
func firstWords(answer string) string {
	return strings.SplitN(answer, ", ", 2)[0]
}

// refuse sends over both families and protocols, with a source or none: nothing may come back, and
// the counter must show it each time.
func (l *lab) refuse(ns string, from, to pair, port int, counter string) {
	l.t.Helper()
	for i := range to {
		for _, network := range []string{"tcp", "udp"} {
			l.refuseOne(ns, network, from[i], to[i], port, counter)
		}
	}
}

// refuseOne asks again while the counter stands still: on a loaded machine a try may end before its
// packet has left.
func (l *lab) refuseOne(ns, network, from, to string, port int, counter string) {
	l.t.Helper()
	before := l.counters()[counter]
	for end := time.Now().Add(patience); ; {
		got, err := l.ask(ns, network, from, to, port, impatience)
		if err == nil {
			l.t.Errorf("%s (%s) to %s:%d over %s: answer %q, want none", ns, from, to, port, network, got)
		}
		after := l.counters()[counter]
		if after.Packets > before.Packets {
			return
		}
		if time.Now().After(end) {
			l.t.Errorf("%s (%s) to %s:%d over %s: counter %s stays at %d, last error %v", ns, from, to, port, network, counter, after.Packets, err)
			return
		}
	}
}
