//go:build linux && netns

package policy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/kernel/bpf/flow"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

// openFastPath makes one with nothing in it, of which the next loop knows.
func (l *lab) openFastPath() *flow.Kernel {
	l.Helper()
	k := listen(l, l.node, flow.Open)
	l.Cleanup(func() { _ = k.Close() })
	l.echoes = k
	return k
}

// takeIn takes Pods into the fast path. A note of an echo lasts for longer than a test.
func (l *lab) takeIn(k *flow.Kernel, pods ...labPod) {
	l.Helper()
	l.run(l.node, "sysctl -qw net.netfilter.nf_conntrack_icmp_timeout=100000 net.netfilter.nf_conntrack_icmpv6_timeout=100000")
	l.run(l.node, "sysctl -qw net.netfilter.nf_conntrack_tcp_be_liberal=1")
	links, err := k.Observe(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	w := flow.Wanted{Fresh: state.FlowFresh{TCP: time.Second, UDP: time.Second, UDPStream: time.Second, Echo: time.Hour}}
	for _, link := range links {
		w.Links = append(w.Links, link.Index)
		for _, p := range pods {
			for _, ip := range p.IPs {
				if p.attachment().HostLink == link.Name {
					w.Pods = append(w.Pods, state.FlowPod{Addr: ip, Link: link.Name, Index: link.Index, MTU: link.MTU})
				}
			}
		}
	}
	if err := k.Apply(l.Context(), w); err != nil {
		l.Fatal(err)
	}
}

// TestRevocationOnTheFastPath: connections that take the fast path end when a policy no longer allows
// them, and take it again when it does.
func TestRevocationOnTheFastPath(t *testing.T) {
	l := newLab(t)
	server, client := l.makePod("prod", "server", 10), l.makePod("prod", "client", 11)
	l.cluster.setPods(server.Pod, client.Pod)
	policy := snapshot.NetworkPolicy{Namespace: "prod", Name: "ports", Types: []string{"Ingress"},
		Ingress: []snapshot.NetworkPolicyRule{allowPorts(firstPort, firstPort+ports-1)}}
	l.cluster.setPolicy(policy)
	l.cluster.setMissing()
	kernel := l.openFastPath()
	l.start()
	l.add(server)
	l.add(client)
	l.echo(server)
	l.takeIn(kernel, server, client)
	const port = firstPort + 3
	var udp, tcp []net.Conn
	for _, a := range server.IPs {
		udp = append(udp, l.dial(client, "udp", netip.AddrPortFrom(a, port)))
		tcp = append(tcp, l.dial(client, "tcp", netip.AddrPortFrom(a, port)))
	}
	used := func(conns []net.Conn) uint64 {
		t.Helper()
		before, err1 := kernel.Stats()
		for _, c := range conns {
			for range 20 {
				if err := answers(c, live); err != nil {
					t.Fatalf("%s over %s: %v", c.RemoteAddr(), c.RemoteAddr().Network(), err)
				}
			}
		}
		after, err2 := kernel.Stats()
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		return after.Fast - before.Fast
	}
	if n := used(append(udp, tcp...)); n < 4*20 {
		t.Fatalf("at first %d packets took the fast path", n)
	}
	narrower := policy
	narrower.Ingress = []snapshot.NetworkPolicyRule{allowPorts(firstPort, port-1), allowPorts(port+1, firstPort+ports-1)}
	l.cluster.setPolicy(narrower)
	l.eventually("the flows to be cut", func() bool { return l.cuts() == 4 })
	for _, c := range tcp {
		if err := answers(c, live); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a TCP connection that is cut ends with %v", err)
		}
	}
	for _, c := range udp {
		if err := answers(c, cut); err == nil {
			t.Errorf("%s still answers", c.RemoteAddr())
		}
	}
	l.cluster.setPolicy(policy)
	l.eventually("the flows to be let go", func() bool { return answers(udp[0], cut) == nil && answers(udp[1], cut) == nil })
	if n := used(udp); n < 2*20 {
		t.Errorf("allowed again, %d packets took the fast path", n)
	}
}

// pings sends echoes under one identifier, and tells how many are answered.
func (l *lab) pings(from labPod, to netip.Addr, count int) (answered int) {
	l.Helper()
	var out []byte
	from.ns.Do(l, func() {
		// It fails where none is answered.
		out, _ = exec.Command("ping", "-n", "-q", "-c", strconv.Itoa(count), "-i", "0.01", "-W", "0.5", "-e", "4711", to.String()).Output()
	})
	_, after, _ := strings.Cut(string(out), "packets transmitted, ")
	if _, err := fmt.Sscan(after, &answered); err != nil {
		l.Fatalf("read what ping says: %v in %q", err, out)
	}
	return answered
}

// TestRevocationOfEchoes: when a policy no longer allows a Pod, its echoes end with its connections, although they took the
// fast path, and take it again when the policy does.
func TestRevocationOfEchoes(t *testing.T) {
	l := newLab(t)
	server, client := l.makePod("prod", "server", 10), l.makePod("prod", "client", 11)
	l.cluster.setPods(server.Pod, client.Pod)
	policy := snapshot.NetworkPolicy{Namespace: "prod", Name: "peers", Types: []string{"Ingress"},
		PodSelector: snapshot.Selector{MatchLabels: server.Labels},
		Ingress:     []snapshot.NetworkPolicyRule{{Peers: []snapshot.NetworkPolicyPeer{{PodSelector: &snapshot.Selector{MatchLabels: client.Labels}}}}}}
	closed := policy
	closed.Ingress = nil
	l.cluster.setPolicy(policy)
	l.cluster.setMissing()
	kernel := l.openFastPath()
	l.start()
	l.add(server)
	l.add(client)
	l.echo(server)
	l.takeIn(kernel, server, client)
	const sent = 20
	fast := func(what string) {
		t.Helper()
		before, err1 := kernel.Stats()
		for _, a := range server.IPs {
			if n := l.pings(client, a, sent); n != sent {
				t.Fatalf("%s: %d of %d echoes to %s are answered", what, n, sent, a)
			}
		}
		after, err2 := kernel.Stats()
		// Of the first of a family, and its reply, the rules are asked, and of one more, if flows are looked at meanwhile.
		if n := after.Fast - before.Fast; n < 2*2*(sent-2) || errors.Join(err1, err2) != nil {
			t.Errorf("%s: %d packets took the fast path, %v", what, n, errors.Join(err1, err2))
		}
	}
	for range 2 {
		fast("allowed")
		var tcp []net.Conn
		for _, a := range server.IPs {
			tcp = append(tcp, l.dial(client, "tcp", netip.AddrPortFrom(a, firstPort)))
		}
		before := l.cuts()
		l.cluster.setPolicy(closed)
		l.eventually("the flows to be cut", func() bool { return l.cuts() >= before+4 })
		for i, a := range server.IPs {
			if err := answers(tcp[i], live); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("a TCP connection that is cut ends with %v", err)
			}
			if n := l.pings(client, a, 3); n != 0 {
				t.Errorf("%d of 3 echoes to %s are answered, which no policy allows", n, a)
			}
		}
		l.cluster.setPolicy(policy)
		l.eventually("the echoes to be let go", func() bool { return l.pings(client, server.IPs[0], 1) == 1 && l.pings(client, server.IPs[1], 1) == 1 })
	}
	fast("allowed again")
}
