//go:build linux && netns

package flow

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/conntrack"
	"github.com/weftnet/weftnet/agent/kernel/pod"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nstest"
	"github.com/weftnet/weftnet/test/poll"
)

// patience is for a busy machine.
const patience = 30 * time.Second

// lab is a node with Pods, each with an address of each family.
type lab struct {
	testing.TB
	node   *nstest.Namespace
	spaces []*nstest.Namespace
	pods   []state.Attachment
	kernel *Kernel
	track  *conntrack.Kernel
}

func newLab(t testing.TB, pods int) *lab {
	t.Helper()
	l := &lab{TB: t, node: nstest.New(t)}
	l.run(l.node, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.netfilter.nf_conntrack_tcp_be_liberal=1")
	// Connections are tracked where rules ask for it.
	l.run(l.node, "nft add table inet track; nft 'add chain inet track c { type filter hook forward priority 0; }'; nft add rule inet track c ct state invalid drop")
	var wiring *pod.Kernel
	var err1, err2 error
	l.node.Do(t, func() {
		wiring, err1 = pod.New(pod.Config{Clsact: true})
		l.track, err2 = conntrack.New()
	})
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(wiring.Close(), l.track.Close()) })
	for i := range pods {
		ns := nstest.New(t)
		a := state.Attachment{
			HostLink: state.PodLinkName("container-"+strconv.Itoa(i), "eth0"), ContainerID: "container-" + strconv.Itoa(i), IfName: "eth0", MTU: 1420,
			Addresses: []netip.Addr{
				netip.AddrFrom4([4]byte{10, 244, 1, byte(i + 2)}),
				netip.AddrFrom16([16]byte{0xfd, 0, 0, 0x10, 0x02, 0x44, 0, 1, 15: byte(i + 2)}),
			},
		}
		if _, err := wiring.Attach(pod.Spec{HostLink: a.HostLink, IfName: a.IfName, Netns: ns.Fd(), MTU: a.MTU, Addresses: a.Addresses}); err != nil {
			t.Fatal(err)
		}
		l.spaces, l.pods = append(l.spaces, ns), append(l.pods, a)
	}
	l.kernel = l.newKernel()
	return l
}

func (l *lab) newKernel() *Kernel {
	l.Helper()
	var k *Kernel
	var err error
	l.node.Do(l, func() { k, err = Open() })
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = k.Close() })
	return k
}

// run runs a script of the shell in a namespace.
func (l *lab) run(ns *nstest.Namespace, script string) string {
	l.Helper()
	var out []byte
	var err error
	ns.Do(l, func() { out, err = exec.Command("sh", "-ec", script).CombinedOutput() })
	if err != nil {
		l.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// wanted is all Pods on whose links nobody else is.
func (l *lab) wanted() Wanted {
	l.Helper()
	links, err := l.kernel.Observe(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	w := Wanted{Fresh: state.FlowFresh{TCP: time.Hour, UDP: time.Second, UDPStream: time.Second, Echo: time.Second}}
	for _, k := range links {
		for _, a := range l.pods {
			if a.HostLink != k.Name || k.Queued {
				continue
			}
			w.Links = append(w.Links, k.Index)
			for _, ip := range a.Addresses {
				w.Pods = append(w.Pods, state.FlowPod{Addr: ip, Link: k.Name, Index: k.Index, MTU: k.MTU})
			}
		}
	}
	return w
}

func (l *lab) apply(w Wanted) {
	l.Helper()
	if err := l.kernel.Apply(l.Context(), w); err != nil {
		l.Fatal(err)
	}
}

// hasNoProgram fails when one of our programs is at a link. The qdisc stays with the link.
func (l *lab) hasNoProgram(pods []state.Attachment) {
	l.Helper()
	for _, p := range pods {
		for _, h := range hooks {
			if out := l.filters(p, h); strings.Contains(out, h.filter()) {
				l.Errorf("left behind at %s: %s", p.HostLink, out)
			}
		}
	}
}

// filters are those at a host end.
func (l *lab) filters(p state.Attachment, h hook) string {
	l.Helper()
	return l.run(l.node, "tc filter show dev "+p.HostLink+" "+[...]string{entry: "ingress", exit: "egress"}[h])
}

func (l *lab) stats() Stats {
	l.Helper()
	s, err := l.kernel.Stats()
	if err != nil {
		l.Fatal(err)
	}
	return s
}

func (l *lab) flows() []conntrack.Tracked {
	l.Helper()
	var all []conntrack.Tracked
	err := l.track.Visit(l.Context(), nil, func(some []conntrack.Tracked) error {
		all = append(all, some...)
		return nil
	})
	if err != nil {
		l.Fatal(err)
	}
	return all
}

// mark marks all connections.
func (l *lab) mark(value uint32) {
	l.Helper()
	if n, err := l.track.SetMark(l.Context(), l.flows(), value, ^uint32(0)); err != nil || n == 0 {
		l.Fatalf("marked %d connections: %v", n, err)
	}
}

// within opens a socket in a Pod.
func within[S io.Closer](l *lab, i int, open func() (S, error)) S {
	l.Helper()
	var s S
	var err error
	l.spaces[i].Do(l, func() { s, err = open() })
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = s.Close() })
	return s
}

// echo answers in a Pod, at an address of its own of the family (0: IPv4).
func (l *lab) echo(i int, network string, family int) netip.AddrPort {
	l.Helper()
	at := netip.AddrPortFrom(l.pods[i].Addresses[family], 0)
	if network == "tcp" {
		s := within(l, i, func() (net.Listener, error) { return net.Listen(network, at.String()) })
		go func() {
			for {
				c, err := s.Accept()
				if err != nil {
					return // closed with the test
				}
				go func() {
					_, _ = io.Copy(c, c)
					_ = c.Close()
				}()
			}
		}()
		return netip.MustParseAddrPort(s.Addr().String())
	}
	s := within(l, i, func() (net.PacketConn, error) { return net.ListenPacket(network, at.String()) })
	go func() {
		var b [2048]byte
		for {
			n, from, err := s.ReadFrom(b[:])
			if err != nil {
				return // closed with the test
			}
			_, _ = s.WriteTo(b[:n], from)
		}
	}()
	return netip.MustParseAddrPort(s.LocalAddr().String())
}

// sink takes what comes over one connection and tells its sum.
func (l *lab) sink(i, family int, sum chan<- [32]byte) netip.AddrPort {
	l.Helper()
	s := within(l, i, func() (net.Listener, error) {
		return net.Listen("tcp", netip.AddrPortFrom(l.pods[i].Addresses[family], 0).String())
	})
	go func() {
		c, err := s.Accept()
		if err != nil {
			return // closed with the test
		}
		defer func() { _ = c.Close() }()
		h := sha256.New()
		_, _ = io.Copy(h, c)
		sum <- [32]byte(h.Sum(nil))
	}()
	return netip.MustParseAddrPort(s.Addr().String())
}

func (l *lab) dial(i int, network string, to netip.AddrPort) net.Conn {
	l.Helper()
	return within(l, i, func() (net.Conn, error) { return net.DialTimeout(network, to.String(), patience) })
}

// dialAs sends under another's address and port.
func (l *lab) dialAs(i int, from, to netip.AddrPort) net.Conn {
	l.Helper()
	d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(from), Control: func(_, _ string, c syscall.RawConn) (err error) {
		level, option := unix.IPPROTO_IP, unix.IP_TRANSPARENT
		if from.Addr().Is6() {
			level, option = unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT
		}
		if cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) }); cerr != nil {
			return cerr
		}
		return err
	}}
	return within(l, i, func() (net.Conn, error) { return d.DialContext(context.Background(), "udp", to.String()) })
}

// open makes a connection that answers, and is established.
func (l *lab) open(from, to int, network string, family int) net.Conn {
	l.Helper()
	c := l.dial(from, network, l.echo(to, network, family))
	exchange(l, c)
	return c
}

// exchange sends and waits for the answer. Between namespaces of one machine nothing is lost, unless
// it is dropped.
func exchange(t testing.TB, c net.Conn) {
	t.Helper()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	var b [64]byte
	if n, err := io.ReadFull(c, b[:len("hello")]); err != nil || string(b[:n]) != "hello" {
		t.Fatalf("answered with %q: %v", b[:n], err)
	}
}

// eventually waits for something.
func (l *lab) eventually(what string, check func() error) {
	l.Helper()
	poll.Until(l, patience, what, check)
}
