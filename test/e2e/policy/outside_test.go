//go:build e2e

package policy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weftnet/test/nstest"
)

// bridge of the testbed's underlay.
const bridge = "tb-br0"

// outside is a host on the underlay that is no node.
type outside struct {
	*nstest.Namespace
	addrs []netip.Addr
}

func outsideHost(t *testing.T, number int) outside {
	t.Helper()
	host := outside{nstest.New(t), []netip.Addr{
		netip.MustParseAddr(fmt.Sprintf("10.200.0.%d", 210+number)), netip.MustParseAddr(fmt.Sprintf("fd00:c8::%x", 0x210+number)),
	}}
	near := fmt.Sprintf("tb-pol%d", number)
	master, err := netlink.LinkByName(bridge)
	if err != nil {
		t.Fatalf("find the testbed's bridge: %v", err)
	}
	if old, err := netlink.LinkByName(near); err == nil {
		_ = netlink.LinkDel(old) // of a run that was killed
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = near, master.Attrs().Index
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(host.Fd()),
		// Nodes remember the neighbour that had the address in a test before.
		PeerHardwareAddr: net.HardwareAddr{2, 0x87, 0, 0, 0, byte(number)}}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(veth) })
	err = netlink.LinkSetUp(veth)
	host.Do(t, func() { err = errors.Join(err, host.configure()) })
	if err != nil {
		t.Fatal(err)
	}
	return host
}

func (o outside) configure() error {
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range o.addrs {
		bits := map[bool]int{true: 24, false: 64}[a.Is4()]
		address := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}}
		if a.Is6() {
			address.Flags = unix.IFA_F_NODAD
		}
		errs = append(errs, netlink.AddrAdd(link, address))
	}
	return errors.Join(append(errs, netlink.LinkSetUp(link))...)
}

// peers are the host as a policy names it.
func (o outside) peers() []networkingv1.NetworkPolicyPeer {
	var out []networkingv1.NetworkPolicyPeer
	for _, a := range o.addrs {
		out = append(out, networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: netip.PrefixFrom(a, a.BitLen()).String()}})
	}
	return out
}

// serveTCP answers on a port of the host.
func (o outside) serveTCP(t *testing.T, port int) {
	t.Helper()
	var listener net.Listener
	var err error
	o.Do(t, func() { listener, err = net.Listen("tcp", fmt.Sprintf("[::]:%d", port)) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go echoTCP(listener)
}

// connects tries to connect over TCP from a namespace to all of these at once.
func connects(t *testing.T, from *nstest.Namespace, to ...netip.AddrPort) error {
	t.Helper()
	return errors.Join(connect(t, from, to)...)
}

// refused requires that none of these can be connected to.
func refused(t *testing.T, from *nstest.Namespace, to ...netip.AddrPort) error {
	t.Helper()
	for i, err := range connect(t, from, to) {
		if err == nil {
			return fmt.Errorf("%s can be connected to", to[i])
		}
	}
	return nil
}

func connect(t *testing.T, from *nstest.Namespace, to []netip.AddrPort) []error {
	t.Helper()
	errs := make([]error, len(to))
	var all sync.WaitGroup
	for i, a := range to {
		all.Go(func() {
			from.Do(t, func() {
				var c net.Conn
				if c, errs[i] = net.DialTimeout("tcp", a.String(), 2*time.Second); errs[i] == nil {
					_ = c.Close()
				}
			})
		})
	}
	all.Wait()
	return errs
}

func at(addrs []netip.Addr, port int32) []netip.AddrPort {
	var out []netip.AddrPort
	for _, a := range addrs {
		out = append(out, netip.AddrPortFrom(a, uint16(port)))
	}
	return out
}

// TestEgressToOutside : a Pod reaches the one host outside the cluster that a policy allows it, and not the other.
func TestEgressToOutside(t *testing.T) {
	s := newStage(t)
	one, other := outsideHost(t, 1), outsideHost(t, 2)
	const port = 8443
	one.serveTCP(t, port)
	other.serveTCP(t, port)
	for _, host := range []outside{one, other} {
		eventually(t, "without a policy for egress every host is reached", func() error { return connects(t, s.server.Namespace, at(host.addrs, port)...) })
	}
	makePolicy(t, s.namespace, &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "egress"},
		Spec: networkingv1.NetworkPolicySpec{
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeEgress},
			Egress:      []networkingv1.NetworkPolicyEgressRule{{To: one.peers()}},
		},
	})
	eventually(t, "the host that no policy allows is closed", func() error { return refused(t, s.server.Namespace, at(other.addrs, port)...) })
	if err := connects(t, s.server.Namespace, at(one.addrs, port)...); err != nil {
		t.Errorf("the host that the policy allows: %v", err)
	}
}
