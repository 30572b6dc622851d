package layout

import (
	"net/netip"
	"testing"
)

func TestNodePlan(t *testing.T) {
	n := Node(12)
	if got := n.String() + " " + n.Port() + " " + n.Router(); got != "tb-node12 tb-p12 tb-nat-tb-node12" {
		t.Errorf("names: %s", got)
	}
	for family, want := range map[Family]string{
		Dual: "10.200.0.22/24,fd00:c8::22/64",
		IPv4: "10.200.0.22/24",
		IPv6: "fd00:c8::22/64",
	} {
		if got := Join(n.Addrs(family)); got != want {
			t.Errorf("%s addresses: got %s, want %s", family, got, want)
		}
	}
}

func TestAddressesAreDisjoint(t *testing.T) {
	seen := map[netip.Addr]string{}
	add := func(who string, list []netip.Prefix) {
		for _, p := range list {
			if other, dup := seen[p.Addr()]; dup {
				t.Fatalf("%s and %s share %s", who, other, p.Addr())
			}
			seen[p.Addr()] = who
		}
	}
	add("bridge", BridgeAddrs(Dual))
	for _, n := range Nodes(MaxNodes) {
		add(n.String(), n.Addrs(Dual))
		add(n.Router(), n.RouterAddrs(Dual))
		add(n.String()+" moved", n.MovedAddrs(Dual))
		for i, p := range n.BaselinePods(Dual) {
			if !PodCIDRs(Dual)[i].Contains(p.Addr()) {
				t.Fatalf("%s: %s lies outside the cluster's Pod CIDR", n, p)
			}
		}
		if len(n.Port()) > 15 {
			t.Fatalf("%s is too long for a link name", n.Port())
		}
	}
}

func TestParseNode(t *testing.T) {
	for _, n := range Nodes(MaxNodes) {
		if got, err := ParseNode(n.String()); err != nil || got != n {
			t.Fatalf("parse %s: %v, %v", n, got, err)
		}
	}
	for _, bad := range []string{"", "1", "tb-node", "tb-node0", "tb-node01", "tb-node71", "tb-node1x", "node1"} {
		if _, err := ParseNode(bad); err == nil {
			t.Errorf("parse %q: accepted", bad)
		}
	}
}

func TestParseFamily(t *testing.T) {
	if _, err := ParseFamily("ipv5"); err == nil {
		t.Error("ipv5 accepted")
	}
	if f, err := ParseFamily("dual"); err != nil || f != Dual {
		t.Errorf("dual: %v, %v", f, err)
	}
}
