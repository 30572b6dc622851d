//go:build e2e

package service

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/weftnet/weftnet/agent/kernel/bpf"
	"github.com/weftnet/weftnet/test/harness"
	"github.com/weftnet/weftnet/test/nstest"
	"github.com/weftnet/weftnet/test/proxydial"
)

// place is where a client stands: sockets are opened in its namespace, by this program, so that the
// packets meet the rules; or, with -sockets, by a process in the node's cgroup, so that connections of
// Pods and nodes are balanced at the socket. What the programs of a Pod themselves do, the upstream
// suite tests.
type place struct {
	name string
	ns   *nstest.Namespace
	// addrs are its own addresses, of both families.
	addrs []netip.Addr
	// cgroup (version 2) is the folder of the one that its processes are in; empty for that of this program.
	cgroup string
	// dialer opens TCP connections in place of this program; nil for none.
	dialer *proxydial.Dialer
}

var atSockets = flag.Bool("sockets", false, "open TCP connections of Pods and nodes where they are balanced at the socket")

// inNode lets the connections of a place be those of a node's process.
func (p place) inNode(t *testing.T, node string) place {
	t.Helper()
	if !*atSockets {
		return p
	}
	root, err := bpf.FindCgroup("/sys/fs/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	p.cgroup = filepath.Join(root, node)
	p.dialer = proxydial.Start(t, p.cgroup, p.ns)
	return p
}

// podPlace stands in a Pod.
func podPlace(t *testing.T, pod *corev1.Pod) place {
	t.Helper()
	path, err := cluster.PodNamespace(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	p := place{name: "Pod " + pod.Name + " on " + pod.Spec.NodeName, ns: nstest.Open(t, path), addrs: harness.Addresses(pod)}
	return p.inNode(t, pod.Spec.NodeName)
}

// nodePlace stands on a node; hosts are the probes of the host network, in the order of nodes.
func nodePlace(t *testing.T, number int) place {
	t.Helper()
	host := &probes.Hosts[number]
	p := place{name: "node " + host.Spec.NodeName, ns: nstest.Open(t, "/run/netns/"+host.Spec.NodeName), addrs: harness.Addresses(host)}
	return p.inNode(t, host.Spec.NodeName)
}

// nodeAddrs are a node's addresses on the underlay.
func nodeAddrs(number int) []netip.Addr { return harness.Addresses(&probes.Hosts[number]) }

// bridge of the testbed's underlay.
const bridge = "tb-br0"

// outsidePlace is a host on the underlay that is no node. It sends what it has no route to via a node.
func outsidePlace(t *testing.T, number int) place {
	t.Helper()
	ns := nstest.New(t)
	p := place{name: fmt.Sprintf("outside host %d", number), ns: ns, addrs: []netip.Addr{
		netip.MustParseAddr(fmt.Sprintf("10.200.0.%d", 200+number)), netip.MustParseAddr(fmt.Sprintf("fd00:c8::%x", 0x200+number)),
	}}
	near := fmt.Sprintf("tb-out%d", number)
	master, err := netlink.LinkByName(bridge)
	if err != nil {
		t.Fatalf("find the testbed's bridge: %v", err)
	}
	if old, err := netlink.LinkByName(near); err == nil {
		_ = netlink.LinkDel(old) // of a run that was killed
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = near, master.Attrs().Index
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns.Fd())}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(veth) })
	if err := netlink.LinkSetUp(veth); err != nil {
		t.Fatal(err)
	}
	ns.Do(t, func() { err = p.configure() })
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (p place) configure() error {
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range p.addrs {
		bits := map[bool]int{true: 24, false: 64}[a.Is4()]
		address := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}}
		if a.Is6() {
			address.Flags = unix.IFA_F_NODAD
		}
		errs = append(errs, netlink.AddrAdd(link, address))
	}
	return errors.Join(append(errs, netlink.LinkSetUp(link))...)
}

// route sends packets for an address via another.
func (p place) route(t *testing.T, to, via netip.Addr) {
	t.Helper()
	var err error
	p.ns.Do(t, func() {
		err = netlink.RouteReplace(&netlink.Route{Dst: &net.IPNet{IP: to.AsSlice(), Mask: net.CIDRMask(to.BitLen(), to.BitLen())}, Gw: via.AsSlice()})
	})
	if err != nil {
		t.Fatalf("%s: route %s via %s: %v", p.name, to, via, err)
	}
}

// patience with one request. What is dropped takes so long to find out.
const patience = 2 * time.Second

func (p place) dial(t *testing.T, network string, to netip.AddrPort) (net.Conn, error) {
	t.Helper()
	if p.dialer != nil && network == "tcp" {
		return p.dialer.Dial(network, to.String(), patience)
	}
	var c net.Conn
	var err error
	p.ns.Do(t, func() { c, err = net.DialTimeout(network, to.String(), patience) })
	return c, err
}

// dialAll connects to one after another for as long as each answers, or does not, as it should. It counts those, and
// gives what became of the next.
func (p place) dialAll(t *testing.T, to []netip.AddrPort, answer bool) (done int, last error) {
	t.Helper()
	each := func(dial func(netip.AddrPort) (net.Conn, error)) {
		for ; done < len(to); done++ {
			c, err := dial(to[done])
			if err == nil {
				_ = c.Close()
			}
			if (err == nil) != answer {
				last = err
				return
			}
		}
	}
	if p.dialer != nil {
		each(func(a netip.AddrPort) (net.Conn, error) { return p.dialer.Dial("tcp", a.String(), patience) })
	} else { // one thread in the namespace for all: thousands take long to make
		p.ns.Do(t, func() {
			each(func(a netip.AddrPort) (net.Conn, error) { return net.DialTimeout("tcp", a.String(), patience) })
		})
	}
	return done, last
}

// ask makes one request and gives the answer: over HTTP a page of agnhost's netexec, over UDP its
// command of the same name. Both have "hostname" and "clientip".
func (p place) ask(t *testing.T, protocol corev1.Protocol, to netip.AddrPort, what string) (string, error) {
	t.Helper()
	if protocol == corev1.ProtocolUDP {
		return p.askUDP(t, to, what)
	}
	c, err := p.dial(t, "tcp", to)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(2 * patience))
	if _, err := fmt.Fprintf(c, "GET /%s HTTP/1.0\r\nHost: probe\r\n\r\n", what); err != nil {
		return "", err
	}
	return page(c)
}

// page reads an answer of HTTP 1.0.
func page(from io.Reader) (string, error) {
	r := bufio.NewReader(from)
	status, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	if !strings.Contains(status, " 200 ") {
		return "", fmt.Errorf("answered %q", strings.TrimSpace(status))
	}
	rest, err := io.ReadAll(r)
	if err != nil {
		return "", err
	}
	_, body, _ := strings.Cut(string(rest), "\r\n\r\n")
	return strings.TrimSpace(body), nil
}

func (p place) askUDP(t *testing.T, to netip.AddrPort, what string) (string, error) {
	t.Helper()
	c, err := p.dial(t, "udp", to)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(patience))
	// A rule that stands in the way of the sender itself, on a node, makes the call fail, whether it refuses
	// or drops. Which of the two it was, the ICMP message tells, or its absence.
	if _, err := io.WriteString(c, what); err != nil && !errors.Is(err, unix.EPERM) {
		return "", err
	}
	answer := make([]byte, 512)
	n, err := c.Read(answer)
	return strings.TrimSpace(string(answer[:n])), err
}

// The ways in which a request fails.
func refused(err error) bool { return errors.Is(err, unix.ECONNREFUSED) }

func dropped(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
