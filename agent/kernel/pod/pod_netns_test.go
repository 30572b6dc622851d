//go:build linux && netns

package pod_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/weftnet/weftnet/agent/kernel/pod"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nstest"
)

const mtu = 1420

// node is a namespace that forwards, with a Kernel in it.
func node(tb testing.TB) (*nstest.Namespace, *pod.Kernel) {
	tb.Helper()
	ns := nstest.New(tb)
	var k *pod.Kernel
	ns.Do(tb, func() {
		for _, path := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
			if err := os.WriteFile("/proc/sys/net/"+path, []byte("1"), 0); err != nil {
				tb.Error(err)
			}
		}
		var err error
		if k, err = pod.New(pod.Config{}); err != nil {
			tb.Error(err)
		}
	})
	if tb.Failed() {
		tb.FailNow()
	}
	tb.Cleanup(func() { _ = k.Close() })
	return ns, k
}

func spec(ns *nstest.Namespace, i int) pod.Spec {
	return pod.Spec{
		HostLink: state.PodLinkName("container-"+strconv.Itoa(i), "eth0"), IfName: "eth0", Netns: ns.Fd(), MTU: mtu,
		Addresses: []netip.Addr{
			netip.AddrFrom4([4]byte{10, 244, 1, byte(i)}),
			netip.AddrFrom16([16]byte{0xfd, 0, 0, 0x10, 0x02, 0x44, 0, 1, 15: byte(i)}),
		},
	}
}

// dial connects once, without a second try: the first packet must arrive.
func dial(t *testing.T, from *nstest.Namespace, address string) (local netip.AddrPort, err error) {
	t.Helper()
	c, err := from.DialOnce(t, address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.MustParseAddrPort(c.LocalAddr().String()), c.Close()
}

// serve answers on every address of the namespace until the test ends.
func serve(t *testing.T, ns *nstest.Namespace) (port string) {
	t.Helper()
	ns.Do(t, func() {
		l, err := net.Listen("tcp", ":0")
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { _ = l.Close() })
		_, port, _ = net.SplitHostPort(l.Addr().String())
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_ = c.Close()
			}
		}()
	})
	return port
}

func TestAttachConnectsAtOnce(t *testing.T) {
	_, k := node(t)
	a, b := nstest.New(t), nstest.New(t)
	port := serve(t, b)
	for i, p := range []*nstest.Namespace{a, b} {
		if _, err := k.Attach(spec(p, i+2)); err != nil {
			t.Fatal(err)
		}
	}
	for i, to := range spec(b, 3).Addresses {
		from, err := dial(t, a, net.JoinHostPort(to.String(), port))
		if want := spec(a, 2).Addresses[i]; err != nil || from.Addr() != want {
			t.Errorf("pod to pod %s: from %s, %v; want from %s", to, from, err, want)
		}
	}
	for _, p := range []pod.Spec{spec(a, 2), spec(b, 3)} {
		if err := k.Check(p); err != nil {
			t.Errorf("check: %v", err)
		}
	}
}

// TestFirstPacketIsAnswered : the Pod takes in what it is sent from the moment Attach returns. Without
// waiting for the kernel's work queue one in ten loses its first answer over IPv6.
func TestFirstPacketIsAnswered(t *testing.T) {
	_, k := node(t)
	server := nstest.New(t)
	port := serve(t, server)
	if _, err := k.Attach(spec(server, 2)); err != nil {
		t.Fatal(err)
	}
	for i := 3; i < 60; i++ {
		p := nstest.New(t)
		if _, err := k.Attach(spec(p, i)); err != nil {
			t.Fatal(err)
		}
		for _, to := range spec(server, 2).Addresses {
			if _, err := dial(t, p, net.JoinHostPort(to.String(), port)); err != nil {
				t.Errorf("pod %d: %v", i, err)
			}
		}
	}
}

func TestCheckNamesWhatIsWrong(t *testing.T) {
	_, k := node(t)
	p := nstest.New(t)
	s := spec(p, 2)
	if _, err := k.Attach(s); err != nil {
		t.Fatal(err)
	}
	p.Do(t, func() {
		l, err := netlink.LinkByName("eth0")
		if err == nil {
			err = errors.Join(netlink.LinkSetMTU(l, 1300), netlink.AddrDel(l, &netlink.Addr{IPNet: &net.IPNet{IP: s.Addresses[1].AsSlice(), Mask: net.CIDRMask(128, 128)}}))
		}
		if err != nil {
			t.Error(err)
		}
	})
	err := k.Check(s)
	for _, want := range []string{"MTU 1300, want 1420", "lacks address " + s.Addresses[1].String()} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("check says %v, want it to say %q", err, want)
		}
	}
}

// TestSourceAddress : over IPv6 the Pod sends from its own address, as the route says, also where another one of its
// namespace is nearer to the destination. Only from its own would a packet get out.
func TestSourceAddress(t *testing.T) {
	_, k := node(t)
	p := nstest.New(t)
	s := spec(p, 2)
	if _, err := k.Attach(s); err != nil {
		t.Fatal(err)
	}
	own := s.Addresses[1]
	const nearer, to = "fd00:20::1", "fd00:20::2"
	out, err := run(t, p, "ip -6 address add "+nearer+"/128 dev eth0 nodad && ip -6 route get "+to)
	if err != nil || !strings.Contains(out, " src "+own.String()+" ") {
		t.Errorf("route to %s: %v, want src %s:\n%s", to, err, own, out)
	}
	if out, err := run(t, p, "ip -6 route show default"); err != nil || !strings.Contains(out, "via fe80::1 dev eth0 src "+own.String()+" ") {
		t.Errorf("default route: %v:\n%s", err, out)
	}
}

// TestCheckOfTheDefaultRoute : one without a source is a Pod of an earlier version, one that is missing a fault.
func TestCheckOfTheDefaultRoute(t *testing.T) {
	_, k := node(t)
	p := nstest.New(t)
	s := spec(p, 2)
	if _, err := k.Attach(s); err != nil {
		t.Fatal(err)
	}
	if out, err := run(t, p, "ip -6 route replace default via fe80::1 dev eth0"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := run(t, p, "ip -6 route show default"); err != nil || strings.Contains(out, "src") || strings.Count(out, "default") != 1 {
		t.Fatalf("want one default route, without a source: %v:\n%s", err, out)
	}
	if err := k.Check(s); err != nil {
		t.Errorf("check of a Pod without a source in its route: %v", err)
	}
	if out, err := run(t, p, "ip -6 route delete default"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := k.Check(s); err == nil || !strings.Contains(err.Error(), "no route to ::/0 on eth0") {
		t.Errorf("check of a Pod without a route says %v", err)
	}
}

// run runs a script in a namespace.
func run(t *testing.T, ns *nstest.Namespace, script string) (string, error) {
	t.Helper()
	var out []byte
	var err error
	ns.Do(t, func() { out, err = exec.Command("sh", "-c", script).CombinedOutput() })
	return string(out), err
}

func TestAttachLeavesNothingOnFailure(t *testing.T) {
	_, k := node(t)
	p := nstest.New(t)
	p.Do(t, func() {
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "other"}); err != nil {
			t.Error(err)
		}
	})
	if _, err := k.Attach(spec(p, 2)); !errors.Is(err, pod.ErrInUse) {
		t.Errorf("attach to a namespace that has eth0: got %v, want %v", err, pod.ErrInUse)
	}
	found, err := k.Observe()
	if err != nil || len(found) != 0 {
		t.Errorf("left behind: %v, %v", found, err)
	}
}

func TestAttachReplacesALeftover(t *testing.T) {
	_, k := node(t)
	first, second := nstest.New(t), nstest.New(t)
	if _, err := k.Attach(spec(first, 2)); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Attach(spec(second, 2)); err != nil {
		t.Fatal(err)
	}
	if err := k.Check(spec(second, 2)); err != nil {
		t.Error(err)
	}
}

func TestObserveAndDetach(t *testing.T) {
	_, k := node(t)
	p := nstest.New(t)
	s := spec(p, 2)
	if _, err := k.Attach(s); err != nil {
		t.Fatal(err)
	}
	found, err := k.Observe()
	if err != nil || len(found) != 1 || found[0].HostLink != s.HostLink || fmt.Sprint(found[0].Addresses) != fmt.Sprint(s.Addresses) {
		t.Errorf("observed %v, %v", found, err)
	}
	for range 2 { // the second finds nothing, which is no error
		if err := k.Detach(s.HostLink); err != nil {
			t.Fatal(err)
		}
	}
	if found, err := k.Observe(); err != nil || len(found) != 0 {
		t.Errorf("left behind: %v, %v", found, err)
	}
}

func TestIPv6OffByDefaultInThePod(t *testing.T) {
	_, k := node(t)
	p := nstest.New(t)
	p.Do(t, func() {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0); err != nil {
			t.Error(err)
		}
	})
	if _, err := k.Attach(spec(p, 2)); err != nil {
		t.Fatal(err)
	}
	if err := k.Check(spec(p, 2)); err != nil {
		t.Error(err)
	}
}

func TestBandwidth(t *testing.T) {
	_, k := node(t)
	p := nstest.New(t)
	s := spec(p, 2)
	s.Bandwidth = state.Bandwidth{IngressRate: 10_000_000, EgressRate: 20_000_000}
	if _, err := k.Attach(s); err != nil {
		t.Fatal(err)
	}
	if err := k.Check(s); err != nil {
		t.Error(err)
	}
	if err := k.Detach(s.HostLink); err != nil {
		t.Fatal(err)
	}
	if err := k.Check(s); err == nil || !strings.Contains(err.Error(), "egress limit") && !strings.Contains(err.Error(), "not found") {
		t.Errorf("check after detach: %v", err)
	}
}

func BenchmarkAttach(b *testing.B) {
	_, k := node(b)
	p := nstest.New(b)
	for b.Loop() {
		if _, err := k.Attach(spec(p, 2)); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := k.Detach(spec(p, 2).HostLink); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// TestHostEndIsSafe : whatever the defaults of new links are, the host end forwards, has IPv6 but no
// address of its own, and believes no router advertisement.
func TestHostEndIsSafe(t *testing.T) {
	ns, _ := node(t)
	var k *pod.Kernel
	ns.Do(t, func() {
		for path, value := range map[string]string{"ipv6/conf/default/accept_ra": "2", "ipv6/conf/default/disable_ipv6": "1", "ipv4/conf/default/rp_filter": "1"} {
			if err := os.WriteFile("/proc/sys/net/"+path, []byte(value), 0); err != nil {
				t.Error(err)
			}
		}
		var err error
		if k, err = pod.New(pod.Config{}); err != nil {
			t.Error(err)
		}
	})
	defer k.Close()
	s := spec(nstest.New(t), 2)
	if _, err := k.Attach(s); err != nil {
		t.Fatal(err)
	}
	ns.Do(t, func() {
		for path, want := range map[string]string{
			"ipv6/conf/%s/accept_ra": "0", "ipv6/conf/%s/disable_ipv6": "0", "ipv6/conf/%s/forwarding": "1",
			"ipv4/conf/%s/rp_filter": "0", "ipv4/conf/%s/accept_local": "1", "ipv4/conf/%s/forwarding": "1", "ipv4/conf/%s/send_redirects": "0",
		} {
			path = fmt.Sprintf(path, s.HostLink)
			if got, err := os.ReadFile("/proc/sys/net/" + path); err != nil || strings.TrimSpace(string(got)) != want {
				t.Errorf("%s is %q (%v), want %s", path, got, err, want)
			}
		}
		l, err := netlink.LinkByName(s.HostLink)
		if err != nil {
			t.Error(err)
			return
		}
		if addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL); err != nil || len(addrs) != 0 || l.Attrs().Alias != state.LinkAlias {
			t.Errorf("host end has addresses %v (%v) and alias %q", addrs, err, l.Attrs().Alias)
		}
	})
}

// TestDetachManyAtOnce takes away every second Pod, all at once; the others keep their links.
func TestDetachManyAtOnce(t *testing.T) {
	_, k := node(t)
	const pods = 40
	var namespaces []*nstest.Namespace
	for i := range pods {
		ns := nstest.New(t)
		namespaces = append(namespaces, ns)
		s := spec(ns, i+2)
		if i < 4 {
			s.Bandwidth = state.Bandwidth{EgressRate: 10_000_000}
		}
		if _, err := k.Attach(s); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for i := 0; i < pods; i += 2 {
		wg.Go(func() {
			if err := k.Detach(spec(namespaces[i], i+2).HostLink); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	found, err := k.Observe()
	if err != nil || len(found) != pods/2 {
		t.Errorf("%d links left of %d, %v", len(found), pods/2, err)
	}
	for i := 1; i < pods; i += 2 {
		if err := k.Check(spec(namespaces[i], i+2)); err != nil {
			t.Errorf("pod %d: %v", i, err)
		}
	}
}
