package policy_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/snapshot"
)

func TestSmoke(t *testing.T) {
	e := policy.New(policy.Options{})
	e.SetSelf(policy.Self{Name: "n1", IPs: []netip.Addr{netip.MustParseAddr("10.200.0.1")}})
	e.SetNamespace(snapshot.Namespace{Name: "a"})
	for i := range 3 {
		ips := []netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.244.1.%d", i+2)), netip.MustParseAddr(fmt.Sprintf("fd00::1:%d", i+2))}
		name := fmt.Sprintf("p%d", i)
		e.SetPod(snapshot.Pod{Namespace: "a", Name: name, Node: "n1", Labels: snapshot.NewLabels(map[string]string{"app": name}), IPs: ips,
			Ports: []snapshot.NamedPort{{Name: "web", Protocol: 6, Port: uint16(80 + i)}}})
		e.Attach(policy.Endpoint{Link: "weftp" + name, Pod: snapshot.NamespacedName{Namespace: "a", Name: name}, IPs: ips})
	}
	e.Attach(policy.Endpoint{Link: "weftpx", Pod: snapshot.NamespacedName{Namespace: "a", Name: "x"}, IPs: []netip.Addr{netip.MustParseAddr("10.244.1.99")}})
	sel := func(k, v string) *snapshot.Selector {
		return &snapshot.Selector{MatchLabels: snapshot.NewLabels(map[string]string{k: v})}
	}
	e.SetNetworkPolicy(snapshot.NetworkPolicy{Namespace: "a", Name: "np", PodSelector: *sel("app", "p0"), Types: []string{"Ingress", "Egress"},
		Ingress: []snapshot.NetworkPolicyRule{{Peers: []snapshot.NetworkPolicyPeer{{PodSelector: sel("app", "p1")}, {IPBlock: &snapshot.IPBlock{CIDR: "10.0.0.0/8", Except: []string{"10.244.0.0/16"}}}},
			Ports: []snapshot.NetworkPolicyPort{{Name: "web"}, {Protocol: "UDP", Number: 53, EndPort: 60}}}},
		Egress: []snapshot.NetworkPolicyRule{{Ports: []snapshot.NetworkPolicyPort{{Name: "web"}}}},
	})
	e.SetClusterNetworkPolicy(snapshot.ClusterNetworkPolicy{Name: "adm", Tier: "Admin", Audit: true, Log: true, Subject: snapshot.PodPeer{Namespaces: &snapshot.Selector{}},
		Ingress: []snapshot.ClusterNetworkPolicyRule{{Action: "Deny", Peers: []snapshot.ClusterNetworkPolicyPeer{{PodPeer: snapshot.PodPeer{Namespaces: sel("x", "y")}}}}}})
	p := e.Commit()
	fake := nft.NewFake()
	if _, err := fake.Ensure(t.Context(), e.Table()); err != nil {
		t.Fatal(err)
	}
	fmt.Println(e.Table())
	fmt.Println(len(p.AddChains), len(p.AddSets), p.Suspects)
	e.Detach("weftpp0")
	e.Detach("weftpp1")
	e.Detach("weftpp2")
	e.Detach("weftpx")
	p = e.Commit()
	fmt.Println(p)
	fmt.Println(e.Table())
}
