//go:build netns

package filter_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/weftnet/weftnet/agent/desired/filter"
)

const port = 7000

func TestInsideTheCluster(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.serveAll(port)
	l.apply(input())
	l.expect("pod1", pod2Addr, port, "pod2", pod1Addr)
	l.expect("pod1", pod1Addr, port, "pod1", pod1Addr)
	l.expect("node", pod1Addr, port, "pod1", meshAddr)
	l.expect("pod1", nodeAddr, port, "node", pod1Addr)
	l.expect("pod1", meshAddr, port, "node", pod1Addr)
	l.expect("node", nodeAddr, port, "node", nodeAddr)
	l.expect("node", meshAddr, port, "node", meshAddr)
	l.expect("node", pair{"127.0.0.1", "::1"}, port, "node", pair{"127.0.0.1", "::1"})
	l.expect("pod1", remoteAddr, port, "peer", pod1Addr)
	l.expect("pod1", peerAddr, port, "peer", pod1Addr)
	l.expectFrom("peer", remoteAddr, pod1Addr, port, "pod1", remoteAddr)
	l.expect("node", remoteAddr, port, "peer", meshAddr)
	for name, c := range l.counters() {
		if c.Packets != 0 {
			t.Errorf("counter %s is at %d", name, c.Packets)
		}
	}
}

func TestOutsideOfTheCluster(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.serveAll(port)
	l.apply(input())
	l.expect("pod1", outsideAddr, port, "outside", nodeAddr)
	l.expect("pod1", farAddr, port, "outside", nodeAddr)
	l.expect("node", outsideAddr, port, "outside", nodeAddr)
	l.expect("outside", nodeAddr, port, "node", outsideAddr)
	// A peer's Pod that leaves through this node, say by a Service with an endpoint outside.
	l.expectFrom("peer", remoteAddr, farAddr, port, "outside", nodeAddr)
	// The user's exception.
	l.expect("pod1", plainAddr, port, "outside", pod1Addr)
	for i := range plainAddr {
		got, err := l.ask("outside", "tcp", plainAddr[i], pod1Addr[i], port, patience)
		if want := "pod1 saw " + plainAddr[i]; err != nil || firstWords(got) != want {
			t.Errorf("from %s: answer %q, error %v, want %q", plainAddr[i], got, err, want)
		}
	}
}

// TestFailClosed sends what must not pass, with the agent dead.
func TestFailClosed(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.serveAll(port)
	l.apply(input())
	t.Run("from the underlay to a Pod", func(*testing.T) {
		l.refuse("outside", outsideAddr, pod1Addr, port, filter.CounterIn)
	})
	t.Run("from the underlay to a mesh address", func(*testing.T) {
		l.refuse("outside", outsideAddr, meshAddr, port, filter.CounterIn)
	})
	t.Run("from the underlay with a Pod's address", func(*testing.T) {
		l.address("outside", "eth0", lostAddr)
		l.refuse("outside", lostAddr, nodeAddr, port, filter.CounterIn)
		l.refuse("outside", lostAddr, pod1Addr, port, filter.CounterIn)
	})
	t.Run("from the underlay to a Pod, as a node", func(*testing.T) {
		l.address("outside", "eth0", unknownNode)
		l.refuse("outside", unknownNode, pod1Addr, port, filter.CounterIn)
	})
	t.Run("from a Pod to a node that is not in the mesh", func(*testing.T) {
		l.refuse("pod1", pod1Addr, unknownNode, port, filter.CounterOut)
	})
	t.Run("to an address of the pools without a route", func(*testing.T) {
		l.refuse("pod1", pod1Addr, lostAddr, port, filter.CounterOut)
		l.refuse("node", pair{}, lostAddr, port, filter.CounterOut)
	})
	t.Run("from a Pod, and address translation is bypassed", func(*testing.T) {
		l.run("node", "nft add table inet foreign; add chain inet foreign c { type filter hook prerouting priority raw + 5; }; add rule inet foreign c iifname weftp1 notrack")
		l.refuse("pod1", pod1Addr, farAddr, port, filter.CounterOut)
		l.run("node", "nft delete table inet foreign")
	})
	t.Run("what the node says of a packet to a Pod that is gone", func(*testing.T) {
		// The sender's address is a node's own, so the answer would take the underlay, and quote the
		// packet with the Pod's address.
		l.address("peer", "eth0", unknownNode)
		for _, cidr := range []string{"10.244.0.0/16", "fd00:10:244::/48"} {
			l.run("node", "ip route add unreachable "+cidr)
		}
		l.refuse("peer", unknownNode, lostAddr, port, filter.CounterOut)
		for i, cidr := range []string{"10.244.0.0/16", "fd00:10:244::/48"} {
			l.run("node", "ip route del unreachable "+cidr)
			l.run("peer", "ip addr del "+unknownNode[i]+" dev eth0")
		}
	})
	t.Run("and afterwards all is well", func(*testing.T) {
		l.expect("pod1", farAddr, port, "outside", nodeAddr)
		l.expect("pod1", remoteAddr, port, "peer", pod1Addr)
	})
}

// TestPodsCannotSpoof lets a Pod send with addresses that are not its own.
func TestPodsCannotSpoof(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.serveAll(port)
	l.apply(input())
	strangers := []pair{pod2Addr, meshAddr, nodeAddr, remoteAddr, peerAddr, lostAddr, {"192.0.2.1", "2001:db8:300::1"}}
	for _, s := range strangers {
		l.address("pod1", "eth0", s)
		for _, to := range []pair{farAddr, remoteAddr} {
			if s != to {
				l.refuse("pod1", s, to, port, filter.CounterSpoofed)
			}
		}
		for _, a := range s {
			l.run("pod1", "ip addr del "+a+" dev eth0")
		}
	}
	l.expect("pod2", farAddr, port, "outside", nodeAddr)
}

// TestNodeLoopbackIsOutOfReach has route_localnet on, which host ports on 127.0.0.1 need.
func TestNodeLoopbackIsOutOfReach(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.serve("node", port, pair{"127.0.0.1", "::1"})
	l.apply(input())
	l.run("pod1", "ip addr del 127.0.0.1/8 dev lo")
	l.run("pod1", "ip route add 127.0.0.1/32 via "+gateway[0]+" dev eth0 src "+pod1Addr[0])
	l.sysctl("pod1", "ipv4/conf/eth0/route_localnet=1")
	before := l.counters()[filter.CounterSpoofed]
	if got, err := l.ask("pod1", "udp", pod1Addr[0], "127.0.0.1", port, impatience); err == nil {
		t.Errorf("answer %q, want none", got)
	}
	if after := l.counters()[filter.CounterSpoofed]; after.Packets <= before.Packets {
		t.Errorf("counter stays at %d", after.Packets)
	}
}

func hostPorts(in filter.Input) filter.Input {
	for i := range pod1Addr {
		pod := netip.MustParseAddr(pod1Addr[i])
		for _, protocol := range []uint8{6, 17} {
			in.HostPorts = append(in.HostPorts,
				filter.HostPort{Protocol: protocol, Port: 8080, PodIP: pod, PodPort: port},
				filter.HostPort{Protocol: protocol, Port: 8081, HostIP: netip.MustParseAddr(nodeAddr[i]), PodIP: pod, PodPort: port},
				filter.HostPort{Protocol: protocol, Port: 8082, HostIP: netip.MustParseAddr(meshAddr[i]), PodIP: pod, PodPort: port},
			)
		}
	}
	return in
}

func TestHostPorts(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.serveAll(port)
	l.apply(hostPorts(input()))
	for _, p := range []int{8080, 8081} {
		t.Run(fmt.Sprint(p), func(*testing.T) {
			l.expect("outside", nodeAddr, p, "pod1", outsideAddr)
			l.expect("node", nodeAddr, p, "pod1", nodeAddr)
			l.expect("pod2", nodeAddr, p, "pod1", pod2Addr)
			l.expectFrom("peer", remoteAddr, nodeAddr, p, "pod1", remoteAddr)
			l.expectFrom("peer", peerAddr, nodeAddr, p, "pod1", peerAddr)
		})
	}
	t.Run("from the Pod itself", func(t *testing.T) {
		for i, to := range nodeAddr {
			for _, network := range []string{"tcp", "udp"} {
				got, err := l.ask("pod1", network, "", to, 8080, patience)
				if err != nil || !strings.HasPrefix(got, "pod1 saw ") || firstWords(got) == "pod1 saw "+pod1Addr[i] {
					t.Errorf("over %s to %s: answer %q, error %v", network, to, got, err)
				}
			}
		}
	})
	t.Run("on the node's loopback", func(t *testing.T) {
		for _, network := range []string{"tcp", "udp"} {
			got, err := l.ask("node", network, "", "127.0.0.1", 8080, patience)
			if err != nil || !strings.HasPrefix(got, "pod1 saw ") || strings.Contains(got, "127.0.0.1") {
				t.Errorf("over %s: answer %q, error %v", network, got, err)
			}
		}
	})
	t.Run("only on its address", func(t *testing.T) {
		for i := range nodeAddr {
			if got, err := l.ask("outside", "udp", "", nodeAddr[i], 8082, impatience); err == nil {
				t.Errorf("%s: answer %q, want none", nodeAddr[i], got)
			}
		}
		l.expect("pod2", meshAddr, 8082, "pod1", pod2Addr)
	})
	t.Run("not on its way through the node", func(t *testing.T) {
		l.serve("outside", 8080, farAddr)
		l.expect("pod2", farAddr, 8080, "outside", nodeAddr)
	})
	t.Run("closed again", func(t *testing.T) {
		l.apply(input())
		for i := range nodeAddr {
			if got, err := l.ask("outside", "tcp", "", nodeAddr[i], 8080, patience); err == nil {
				t.Errorf("%s: answer %q, want a refusal", nodeAddr[i], got)
			}
		}
	})
}

// TestBesideKubeProxy has the node-port rules that kube-proxy writes, in the same hooks and priorities.
func TestBesideKubeProxy(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"kube-proxy", "weftnet"} {
		t.Run(first+" first", func(t *testing.T) {
			l := newLab(t)
			l.serveAll(port)
			if first == "weftnet" {
				l.apply(hostPorts(input()))
			}
			for i, family := range []string{"ip", "ip6"} {
				for _, target := range []struct {
					port int
					addr pair
				}{{30080, remoteAddr}, {30081, pod2Addr}} {
					to := target.addr[i]
					if family == "ip6" {
						to = "[" + to + "]"
					}
					l.run("node", fmt.Sprintf(`nft add table %[1]s kube-proxy;
						add chain %[1]s kube-proxy nat-prerouting { type nat hook prerouting priority dstnat; };
						add chain %[1]s kube-proxy nat-output { type nat hook output priority -100; };
						add chain %[1]s kube-proxy nat-postrouting { type nat hook postrouting priority srcnat; };
						add chain %[1]s kube-proxy to%[2]d;
						add rule %[1]s kube-proxy to%[2]d meta mark set mark or 0x4000;
						add rule %[1]s kube-proxy to%[2]d meta l4proto { tcp, udp } dnat to %[3]s:%[4]d;
						add rule %[1]s kube-proxy nat-prerouting fib daddr type local th dport %[2]d goto to%[2]d;
						add rule %[1]s kube-proxy nat-output fib daddr type local th dport %[2]d goto to%[2]d;
						add rule %[1]s kube-proxy nat-postrouting mark and 0x4000 != 0 mark set mark xor 0x4000 masquerade fully-random`,
						family, target.port, to, port))
				}
			}
			if first == "kube-proxy" {
				l.apply(hostPorts(input()))
			}
			l.expect("outside", nodeAddr, 30080, "peer", meshAddr)
			l.expect("node", nodeAddr, 30080, "peer", meshAddr)
			l.expect("pod1", nodeAddr, 30080, "peer", meshAddr)
			for _, ns := range []string{"outside", "pod1", "peer"} {
				for _, to := range nodeAddr {
					got, err := l.ask(ns, "tcp", "", to, 30081, patience)
					if err != nil || !strings.HasPrefix(got, "pod2 saw ") {
						t.Errorf("%s to %s: answer %q, error %v", ns, to, got, err)
					}
				}
			}
			l.expect("outside", nodeAddr, 8080, "pod1", outsideAddr)
			l.expect("pod1", farAddr, port, "outside", nodeAddr)
			if c := l.counters(); c[filter.CounterIn].Packets+c[filter.CounterOut].Packets+c[filter.CounterSpoofed].Packets != 0 {
				t.Errorf("something was dropped: %v", c)
			}
		})
	}
}

// TestSegmentsFitTheMesh has links of 1500 all around and a mesh device of 1320.
func TestSegmentsFitTheMesh(t *testing.T) {
	t.Parallel()
	const mtu = 1320
	l := newLab(t)
	l.serve("peer", port, remoteAddr)
	l.run("node", fmt.Sprintf("ip link set weft0 mtu %d", mtu))
	size := func(i int) string {
		got, err := l.ask("pod1", "tcp", "", remoteAddr[i], port, patience)
		if err != nil {
			t.Fatal(err)
		}
		_, segment, _ := strings.Cut(got, ", segment ")
		return segment
	}
	const timestamps = 12
	headers := []int{20 + 20, 40 + 20}
	for i := range headers {
		if got, want := size(i), fmt.Sprint(1500-headers[i]-timestamps); got != want {
			t.Errorf("without the table the segment size towards %s is %s, want %s", pod1Addr[i], got, want)
		}
	}
	l.apply(input())
	for i := range headers {
		if got, want := size(i), fmt.Sprint(mtu-headers[i]-timestamps); got != want {
			t.Errorf("the segment size towards %s is %s, want %s", pod1Addr[i], got, want)
		}
	}
}
