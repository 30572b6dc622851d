//go:build linux && netns

package policy

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/kernel/bpf/flow"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

// fastPath takes Pods in.
func (l *lab) fastPath(pods ...labPod) *flow.Kernel {
	l.Helper()
	k := listen(l, l.node, flow.Open)
	l.Cleanup(func() { _ = k.Close() })
	l.run(l.node, "sysctl -qw net.netfilter.nf_conntrack_tcp_be_liberal=1")
	links, err := k.Observe(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	w := flow.Wanted{Fresh: state.FlowFresh{TCP: time.Second, UDP: time.Second, UDPStream: time.Second}}
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
	return k
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
	l.start()
	l.add(server)
	l.add(client)
	l.echo(server)
	kernel := l.fastPath(server, client)
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
