package policy_test

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// example has a bit of everything: tiers, names and ranges of ports, blocks, nodes, audit mode, a Pod
// whose object is not known yet, and one that has many policies.
func example(t *testing.T) *policy.Engine {
	s := play(t, "prod/web@0 app=web", "prod/db@1 app=db", "prod/busy@3 app=busy", "test/free@6")
	s.e.Attach(policy.Endpoint{Link: "weftp9", Pod: snapshot.NamespacedName{Namespace: "prod", Name: "new"}, IPs: podAddrs(9)})
	s.np(snapshot.NetworkPolicy{
		Name: "web", PodSelector: *selects("app=web"), Log: true,
		Ingress: []npRule{
			{Peers: []npPeer{{PodSelector: selects("app=db")}}, Ports: []npPort{{Name: "web"}}},
			{
				Peers: []npPeer{{IPBlock: &snapshot.IPBlock{CIDR: "192.0.2.0/24", Except: []string{"192.0.2.64/26"}}}, {IPBlock: &snapshot.IPBlock{CIDR: "10.200.0.2/32"}}},
				Ports: []npPort{{Number: 443}, {Protocol: "UDP", Number: 5000, EndPort: 5010}},
			},
		},
		Egress: []npRule{{Ports: []npPort{{Protocol: "UDP", Name: "dns"}}}, {Peers: []npPeer{{IPBlock: &snapshot.IPBlock{CIDR: "2001:db8::/32"}}}}},
	})
	for i := range 12 {
		s.np(snapshot.NetworkPolicy{Name: fmt.Sprintf("busy-%d", i), PodSelector: *selects("app=busy"), Types: []string{"Egress"}, Egress: []npRule{{Ports: []npPort{{Number: int32(8000 + i)}}}}})
	}
	s.cnp(snapshot.ClusterNetworkPolicy{Name: "tenants", Tier: "Admin", Priority: 10, Subject: podPeer{Namespaces: selects("env=prod")}, Ingress: []cRule{
		{Name: "monitoring", Action: "Accept", Peers: []cPeer{{PodPeer: podPeer{Namespaces: selects("env=test")}}}, Protocols: []snapshot.ClusterNetworkPolicyProtocol{{Protocol: "TCP", First: 9090, Last: 9090}}},
		{Action: "Pass", Peers: []cPeer{{PodPeer: podPeer{Namespaces: selects("env=prod")}}}},
		{Action: "Deny", Peers: []cPeer{{PodPeer: everybody}}},
	}})
	s.cnp(snapshot.ClusterNetworkPolicy{Name: "trial", Tier: "Baseline", Audit: true, Subject: everybody, Egress: []cRule{{Action: "Deny", Peers: []cPeer{{Nodes: selects()}}}}})
	return s.e
}

func goldens(t *testing.T) map[string]state.Table {
	return map[string]state.Table{"testdata/empty.nft": policy.New(policy.Options{}).Table(), "testdata/example.nft": example(t).Table()}
}

func TestGolden(t *testing.T) {
	for file, table := range goldens(t) {
		got := table.String()
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s: the table differs:\n%s", file, lineDiff(got, string(want)))
		}
	}
}
