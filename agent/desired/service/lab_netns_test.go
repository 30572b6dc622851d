//go:build netns

package service_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/weftnet/weftnet/agent/kernel/conntrack"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nstest"
)

// lab is a node with two Pods, a world in front of it, and another node with a Pod behind its mesh
// device, which here is a plain link. Both tables are in force.
//
//	local 10.244.1.5 --weftp-5--\               /--eth0--- outside 203.0.113.5
//	                             node 10.200.0.11
//	other 10.244.1.9 --weftp-9--/               \--weft0-- remote 10.244.2.5, 10.244.2.9
type lab struct {
	t  *testing.T
	ns map[string]*nstest.Namespace
	// asked is the number of questions.
	asked int
}

var gateway = pair{"169.254.1.1", "fe80::1:1"}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, ns: map[string]*nstest.Namespace{}}
	for _, name := range []string{"node", "local", "other", "remote", "outside"} {
		l.ns[name] = nstest.New(t)
	}
	for _, setting := range []string{"ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1"} {
		l.run("node", "sysctl -q -w net/"+setting)
	}
	l.wire("weftp-5", "local", localPod)
	l.wire("weftp-9", "other", otherPod)
	l.wire("weft0", "remote", remotePod, remoteCli)
	l.wire("eth0", "outside", outsider)
	l.address("node", "eth0", nodeAddr)
	l.address("node", "weft0", meshAddr)
	l.run("node", "ip route add default via "+outsider[0]+" dev eth0 onlink")
	l.run("node", "ip -6 route add default via "+outsider[1]+" dev eth0 onlink")
	for i := range 2 {
		l.serve("local", port(localPod[i], 8080))
		l.serve("remote", port(remotePod[i], 8080))
	}
	k := l.table(state.TableName)
	l.write(k, meshTable())
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

// wire joins a link of the node with eth0 of another namespace, which has the addresses.
func (l *lab) wire(link, other string, has ...pair) {
	l.t.Helper()
	l.run("node", "ip link add "+link+" type veth peer name tmp0")
	var err error
	fd := l.ns[other].Fd()
	l.ns["node"].Do(l.t, func() {
		var peer netlink.Link
		if peer, err = netlink.LinkByName("tmp0"); err == nil {
			err = netlink.LinkSetNsFd(peer, fd)
		}
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.run(other, "ip link set tmp0 name eth0")
	l.run("node", "ip link set "+link+" up")
	l.run(other, "ip link set eth0 up")
	l.address(other, "eth0", has...)
	for i, ip := range []string{"ip", "ip -6"} {
		l.run(other, "ip neigh add "+gateway[i]+" lladdr "+l.mac("node", link)+" dev eth0 nud permanent")
		l.run(other, ip+" route add default via "+gateway[i]+" dev eth0 onlink")
		for _, p := range has {
			l.run("node", "ip neigh add "+p[i]+" lladdr "+l.mac(other, "eth0")+" dev "+link+" nud permanent")
			l.run("node", "ip route add "+p[i]+" dev "+link)
		}
	}
}

func (l *lab) address(ns, link string, pairs ...pair) {
	l.t.Helper()
	for _, p := range pairs {
		l.run(ns, "ip addr add "+p[0]+"/32 dev "+link)
		l.run(ns, "ip addr add "+p[1]+"/128 dev "+link+" nodad")
	}
}

func (l *lab) table(name string) *nft.Kernel {
	l.t.Helper()
	var k *nft.Kernel
	var err error
	l.ns["node"].Do(l.t, func() { k, err = nft.NewTable(name) })
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = k.Close() })
	return k
}

func (l *lab) write(k *nft.Kernel, want state.Table) {
	l.t.Helper()
	if _, err := k.Ensure(l.t.Context(), want); err != nil {
		l.t.Fatal(err)
	}
}

// apply makes the objects the Services that there are.
func (l *lab) apply(objects ...object) {
	l.t.Helper()
	l.write(l.table(state.ServiceTableName), tableOf(objects...))
}

// serve answers over TCP on all addresses, and over UDP on one, with who it is and the source that it
// sees.
func (l *lab) serve(ns string, at netip.AddrPort) {
	l.t.Helper()
	var tcp net.Listener
	var udp *net.UDPConn
	var err, err2 error
	l.ns[ns].Do(l.t, func() {
		family := "4"
		if at.Addr().Is6() {
			family = "6"
		}
		tcp, err = net.ListenTCP("tcp"+family, &net.TCPAddr{Port: int(at.Port())})
		udp, err2 = net.ListenUDP("udp"+family, net.UDPAddrFromAddrPort(at))
	})
	if err = errors.Join(err, err2); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _, _ = tcp.Close(), udp.Close() })
	says := func(from net.Addr) []byte {
		return []byte(ns + " saw " + netip.MustParseAddrPort(from.String()).Addr().Unmap().String())
	}
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write(says(c.RemoteAddr()))
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
			_, _ = udp.WriteTo(says(from), from)
		}
	}()
}

const (
	patience   = 20 * time.Second       // for what must be answered
	impatience = 150 * time.Millisecond // for what must not
)

// ask connects and gives the answer.
func (l *lab) ask(ns, network string, to netip.AddrPort, wait time.Duration) (string, error) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), wait)
	defer cancel()
	var c net.Conn
	var err error
	dialer := l.dialer(network)
	l.ns[ns].Do(l.t, func() { c, err = dialer.DialContext(ctx, network, to.String()) })
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	deadline, _ := ctx.Deadline()
	_ = c.SetDeadline(deadline)
	if _, err = c.Write([]byte("who am I?")); err != nil {
		return "", err
	}
	buf := make([]byte, 128)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

// dialer gives every question a port of its own, below those that the kernel draws from. A port that is drawn
// again within minutes belongs to an earlier conversation for connection tracking, which sends it to that
// one's endpoint and asks no rule; with TCP, too, where the server has answered unread data with a reset.
func (l *lab) dialer(network string) *net.Dialer {
	l.t.Helper()
	const first, end = 12000, 30000
	at := first + l.asked
	if l.asked++; at >= end {
		l.t.Fatalf("%d questions are more than there are ports", l.asked)
	}
	if network == "udp" {
		return &net.Dialer{LocalAddr: &net.UDPAddr{Port: at}}
	}
	return &net.Dialer{LocalAddr: &net.TCPAddr{Port: at}}
}

func (l *lab) flows() []conntrack.Flow {
	l.t.Helper()
	var flows []conntrack.Flow
	var err error
	l.ns["node"].Do(l.t, func() {
		var k *conntrack.Kernel
		if k, err = conntrack.New(); err != nil {
			return
		}
		flows, err = k.List(l.t.Context())
		err = errors.Join(err, k.Close())
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return flows
}
