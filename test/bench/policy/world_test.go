//go:build linux && bench

package policy

import (
	"fmt"
	"net/netip"

	"github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/snapshot"
)

// The Pods that are really there.
const (
	clientLink = "weftp0"
	serverLink = "weftp1"
)

type addresses struct{ v4, v6 netip.Addr }

func (a addresses) both() []netip.Addr { return []netip.Addr{a.v4, a.v6} }

func podAddresses(node, number byte) addresses {
	return addresses{netip.AddrFrom4([4]byte{10, 244, node, number}), netip.AddrFrom16([16]byte{0xfd, 0, 2, 0x44, 5: node, 15: number})}
}

var (
	client   = podAddresses(1, 2)
	server   = podAddresses(1, 3)
	stranger = podAddresses(1, 4)
	remote   = podAddresses(2, 2)
	gateway  = podAddresses(1, 1) // the node's own mesh addresses
	nodeIPs  = []netip.Addr{netip.MustParseAddr("10.200.0.1"), netip.MustParseAddr("10.200.0.2")}
)

// shape is what policies a node has.
type shape struct {
	name     string
	policies int
	// spread over the node's Pods, each of which has a tenth of all; otherwise all select every Pod.
	spread bool
}

var shapes = []shape{
	{name: "no policy again"}, // what the machine's own noise makes of two equal sides
	{name: "100 policies select each Pod", policies: 100},
	{name: "1,000 policies select each Pod", policies: 1000},
	{name: "1,000 policies select the node's 100 Pods, 100 each", policies: 1000, spread: true},
}

const (
	namespace = "shop"
	podsHere  = 100
	groups    = 10 // of the node's Pods, where policies are spread
)

// engine holds the policies of a shape. One in the middle of those of each Pod lets the benchmark's
// peers through; all others let in somebody else.
func (s shape) engine() *policy.Engine {
	e := policy.New(policy.Options{})
	e.SetSelf(policy.Self{Name: "node-1", IPs: gateway.both()})
	e.SetNamespace(snapshot.Namespace{Name: namespace})
	for i := range podsHere {
		p := pod(1, byte(2+i), map[string]string{"group": fmt.Sprint(i / 2 % groups)})
		e.SetPod(p)
		e.Attach(policy.Endpoint{Link: fmt.Sprintf("weftp%d", i), Pod: p.Key(), UID: p.UID, IPs: p.IPs})
	}
	for i := range 10 * podsHere {
		labels := map[string]string{"peer": fmt.Sprint(i)}
		if i == 0 {
			labels["role"] = "bench"
		}
		e.SetPod(pod(byte(2+i/podsHere), byte(2+i%podsHere), labels))
	}
	for i := range s.policies {
		e.SetNetworkPolicy(s.policy(i))
	}
	e.Commit()
	return e
}

func pod(node, number byte, labels map[string]string) snapshot.Pod {
	if node == 1 && (number == 2 || number == 3) {
		labels["role"] = "bench"
	}
	return snapshot.Pod{
		Namespace: namespace, Name: fmt.Sprintf("pod-%d-%d", node, number), UID: fmt.Sprintf("%d-%d", node, number),
		Labels: snapshot.NewLabels(labels), IPs: podAddresses(node, number).both(), Node: fmt.Sprintf("node-%d", node),
	}
}

func (s shape) policy(i int) snapshot.NetworkPolicy {
	np := snapshot.NetworkPolicy{Namespace: namespace, Name: fmt.Sprintf("allow-%04d", i), Types: []string{"Ingress", "Egress"}}
	middle := s.policies / 2
	if s.spread {
		np.PodSelector = *one("group", fmt.Sprint(i%groups))
		middle = i % groups // of each group; below, the one in its middle
		middle += s.policies / groups / 2 * groups
	}
	if i == middle {
		peers := []snapshot.NetworkPolicyPeer{{PodSelector: one("role", "bench")}}
		np.Ingress, np.Egress = []snapshot.NetworkPolicyRule{{Peers: peers}}, []snapshot.NetworkPolicyRule{{Peers: peers}}
		return np
	}
	rule := snapshot.NetworkPolicyRule{
		Peers: []snapshot.NetworkPolicyPeer{{PodSelector: one("peer", fmt.Sprint(i))}}, Ports: []snapshot.NetworkPolicyPort{{Number: 8080}},
	}
	if i%2 == 1 { // some rules with more ports than one
		rule.Ports = append(rule.Ports, snapshot.NetworkPolicyPort{Number: 9000, EndPort: 9010})
	}
	np.Ingress, np.Egress = []snapshot.NetworkPolicyRule{rule}, []snapshot.NetworkPolicyRule{rule}
	return np
}

func one(key, value string) *snapshot.Selector {
	return &snapshot.Selector{MatchLabels: snapshot.Labels{{Key: key, Value: value}}}
}
