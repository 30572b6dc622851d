package policy

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/weftnet/weftnet/agent/snapshot"
)

func labels(pairs ...string) snapshot.Labels {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return snapshot.NewLabels(m)
}

func addrs(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, t := range texts {
		out = append(out, netip.MustParseAddr(t))
	}
	return out
}

// shop is a cluster in which only web may reach db, at its port pg.
func shop() Cluster {
	web := snapshot.Selector{MatchLabels: labels("app", "web")}
	db := snapshot.Selector{MatchLabels: labels("app", "db")}
	return Cluster{
		Pods: []snapshot.Pod{
			{Namespace: "shop", Name: "web-0", Labels: labels("app", "web"), IPs: addrs("10.0.0.1", "fd00::1"), Node: "n1"},
			{Namespace: "shop", Name: "db-0", Labels: labels("app", "db"), IPs: addrs("10.0.0.2", "fd00::2"), Node: "n2",
				Ports: []snapshot.NamedPort{{Name: "pg", Protocol: 6, Port: 5432}}},
			{Namespace: "shop", Name: "v6-0", IPs: addrs("fd00::3"), Node: "n2"},
			{Namespace: "shop", Name: "v4-0", IPs: addrs("10.0.0.4"), Node: "n2"},
			{Namespace: "shop", Name: "done", IPs: addrs("10.0.0.9"), Node: "n2", Ended: true},
			{Namespace: "kube-system", Name: "host", IPs: addrs("192.0.2.2"), Node: "n2", HostNetwork: true},
		},
		Namespaces: []snapshot.Namespace{{Name: "shop"}, {Name: "kube-system"}},
		Nodes:      []snapshot.KubeNode{{Name: "n1", IPs: addrs("192.0.2.1")}, {Name: "n2", IPs: addrs("192.0.2.2"), MeshIPs: addrs("10.1.0.1")}},
		NetworkPolicies: []snapshot.NetworkPolicy{{
			Namespace: "shop", Name: "db", PodSelector: db, Types: []string{"Ingress"},
			Ingress: []snapshot.NetworkPolicyRule{{Peers: []snapshot.NetworkPolicyPeer{{PodSelector: &web}}, Ports: []snapshot.NetworkPolicyPort{{Name: "pg"}}}},
		}},
		Services: map[netip.Addr]string{netip.MustParseAddr("10.96.0.1"): "shop/db"},
	}
}

func TestExplain(t *testing.T) {
	for _, c := range []struct {
		from, to, protocol string
		allowed            bool
		flows              int
		says               string
	}{
		{"shop/web-0", "shop/db-0:pg", "tcp", true, 2, "spec.ingress[0], peer 0"},
		{"shop/web-0", "shop/db-0:5432", "tcp", true, 2, "NetworkPolicy shop/db"},
		{"shop/web-0", "shop/db-0:22", "tcp", false, 2, "isolated by NetworkPolicy shop/db"},
		{"shop/web-0", "shop/db-0", "icmp", false, 2, "isolated by"},
		{"10.0.0.1", "10.0.0.2:5432", "tcp", true, 1, "egress   allowed  of shop/web-0"},
		{"203.0.113.7", "[fd00::2]:1", "udp", false, 0, ""},
		{"2001:db8::1", "[fd00::2]:1", "udp", false, 1, "no Pod at this end"},
		{"shop/db-0", "shop/web-0:80", "tcp", true, 2, "no policy selects the Pod"},
		{"shop/db-0", "shop/db-0:80", "tcp", true, 2, "always allowed"},
		{"kube-system/host", "shop/db-0:80", "tcp", true, 1, "its own node"},
		{"kube-system/host", "shop/web-0:80", "tcp", true, 1, "note: pod kube-system/host is on the network of its node n2"},
	} {
		q, err := Ask(c.from, c.to, c.protocol)
		if err != nil {
			t.Fatal(err)
		}
		a, err := Explain(shop(), q)
		if c.flows == 0 {
			if err == nil || !strings.Contains(err.Error(), "no address of the same family") {
				t.Errorf("%s -> %s: error %v", c.from, c.to, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		var text bytes.Buffer
		if err := a.Write(&text, q); err != nil {
			t.Fatal(err)
		}
		if a.Allowed != c.allowed || len(a.Flows) != c.flows || !strings.Contains(text.String(), c.says) {
			t.Errorf("%s -> %s: allowed %v in %d flows, want %v in %d, and %q in\n%s", c.from, c.to, a.Allowed, len(a.Flows), c.allowed, c.flows, c.says, &text)
		}
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	for _, c := range []struct{ from, to, protocol, says string }{
		{"shop/web-0", "shop/db-0", "tcp", "a port is missing, for example shop/db-0:80"},
		{"shop/web-0", "shop/db-0:80", "icmp", "icmp has no ports"},
		{"shop/web-0:1", "shop/db-0:80", "tcp", "source ports"},
		{"web-0", "shop/db-0:80", "tcp", "want NAMESPACE/POD or an IP address"},
		{"shop/web-0", "shop/db-0:70000", "tcp", "not one of 1 to 65535"},
		{"shop/web-0", "shop/db-0:0", "tcp", "not one of 1 to 65535"},
		{"shop/web-0", "shop/db-0:80", "gre", "want tcp, udp, sctp or icmp"},
		{"shop/web", "shop/db-0:80", "tcp", "did you mean web-0?"},
		{"shop/zz", "shop/db-0:80", "tcp", "there is no pod shop/zz"},
		{"shp/web-0", "shop/db-0:80", "tcp", "there is no namespace shp"},
		{"shop/done", "shop/db-0:80", "tcp", "has ended"},
		{"shop/web-0", "shop/db-0:http", "tcp", "no tcp port named http"},
		{"shop/web-0", "10.96.0.1:80", "tcp", "address of the Service shop/db"},
		{"shop/v4-0", "shop/v6-0:80", "tcp", "no address of the same family"},
	} {
		q, err := Ask(c.from, c.to, c.protocol)
		if err == nil {
			_, err = Explain(shop(), q)
		}
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s -> %s %s: error %v, want %q", c.from, c.to, c.protocol, err, c.says)
		}
	}
}

// TestAuditAndProblems : what a policy in audit mode would have done, and what is wrong with a policy.
func TestAuditAndProblems(t *testing.T) {
	c := shop()
	c.NetworkPolicies[0].Audit = true
	c.NetworkPolicies[0].Ingress[0].Peers = append(c.NetworkPolicies[0].Ingress[0].Peers, snapshot.NetworkPolicyPeer{IPBlock: &snapshot.IPBlock{CIDR: "nonsense"}})
	q, err := Ask("shop/v4-0", "shop/db-0:22", "tcp")
	if err != nil {
		t.Fatal(err)
	}
	a, err := Explain(c, q)
	if err != nil || !a.Allowed || len(a.Flows[0].Ingress.Audit) != 1 {
		t.Errorf("answer %+v, error %v", a, err)
	}
	if !slices.ContainsFunc(a.Problems, func(p string) bool {
		return strings.Contains(p, "NetworkPolicy shop/db: spec.ingress[0].from[1].ipBlock")
	}) {
		t.Errorf("problems are %v", a.Problems)
	}
}
