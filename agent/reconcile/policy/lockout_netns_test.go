//go:build linux && netns

package policy

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/snapshot"
	source "github.com/weftnet/weftnet/agent/source/policy"
	"github.com/weftnet/weftnet/test/nstest"
)

// connects tells whether a TCP connection from a namespace is made to each of the addresses.
func (l *lab) connects(from *nstest.Namespace, to []netip.Addr, port uint16, patience time.Duration) (all bool) {
	l.Helper()
	all = true
	for _, a := range to {
		var c net.Conn
		var err error
		from.Do(l, func() { c, err = net.DialTimeout("tcp", netip.AddrPortFrom(a, port).String(), patience) })
		if all = all && err == nil; err == nil {
			_ = c.Close()
		}
	}
	return all
}

// TestNobodyIsLockedOut : under policies that deny everything, in each tier and both directions, the kubelet's
// probes reach the Pods of its node, and the node's processes and Pods on its network reach the API server and
// are reached; while between Pods, from elsewhere to one, and from one to its node nothing passes.
func TestNobodyIsLockedOut(t *testing.T) {
	l := newLab(t)
	server, client := l.makePod("prod", "server", 10), l.makePod("prod", "client", 11)
	host := snapshot.Pod{Namespace: "prod", Name: "host", UID: "host", Node: "node1", HostNetwork: true, IPs: meshAddrs, Labels: server.Labels}
	l.cluster.setPods(server.Pod, client.Pod, host)
	l.cluster.setNamespace(snapshot.Namespace{Name: "prod"})
	l.cluster.setMissing()
	l.start()
	l.add(server)
	l.add(client)
	const probe, api, onHost = 80, 6443, 9100
	for port, ns := range map[int]*nstest.Namespace{probe: server.ns, api: l.remote, onHost: l.node} {
		tcp := listen(l, ns, func() (*net.TCPListener, error) { return net.ListenTCP("tcp", &net.TCPAddr{Port: port}) })
		t.Cleanup(func() { _ = tcp.Close() })
		go serveTCP(tcp)
	}
	type way struct {
		what string
		from *nstest.Namespace
		to   []netip.Addr
		port uint16
		kept bool
	}
	ways := []way{
		{"a probe of the kubelet", l.node, server.IPs, probe, true},
		{"the agent to the API server", l.node, remoteAddrs, api, true},
		{"another node to a Pod on the host's network", l.remote, meshAddrs, onHost, true},
		{"a Pod to itself", server.ns, server.IPs, probe, true},
		{"a Pod to another", client.ns, server.IPs, probe, false},
		{"another node to a Pod", l.remote, server.IPs, probe, false},
		{"a Pod to the API server", client.ns, remoteAddrs, api, false},
		{"a Pod to its node", client.ns, meshAddrs, onHost, false},
	}
	for _, w := range ways {
		if !l.connects(w.from, w.to, w.port, live) {
			t.Fatalf("without a policy %s does not connect", w.what)
		}
	}
	// A peer of an unknown kind is everybody where a rule denies.
	deny := []snapshot.ClusterNetworkPolicyRule{{Action: "Deny", Peers: []snapshot.ClusterNetworkPolicyPeer{{}}}}
	for _, tier := range []string{"Admin", "NetworkPolicy", "Baseline"} {
		np := snapshot.NetworkPolicy{Namespace: "prod", Name: "nothing", Types: []string{"Ingress", "Egress"}}
		cnp := snapshot.ClusterNetworkPolicy{Name: "nothing", Tier: tier,
			Subject: snapshot.PodPeer{Namespaces: &snapshot.Selector{}}, Ingress: deny, Egress: deny}
		l.cluster.change(func(n *source.Changes) {
			n.NetworkPolicies[np.Key()], n.ClusterNetworkPolicies[cnp.Name] = nil, nil
			if tier == "NetworkPolicy" {
				n.NetworkPolicies[np.Key()] = &np
			} else {
				n.ClusterNetworkPolicies[cnp.Name] = &cnp
			}
		})
		if err := l.loop.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, w := range ways {
			patience := cut
			if w.kept {
				patience = live
			}
			if got := l.connects(w.from, w.to, w.port, patience); got != w.kept {
				t.Errorf("%s: %s connects: %t", tier, w.what, got)
			}
		}
	}
}
