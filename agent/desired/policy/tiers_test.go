package policy_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nfsim"
)

func TestBlocks(t *testing.T) {
	block := func(six string, four string, except ...string) []npPeer {
		out := []npPeer{{IPBlock: &snapshot.IPBlock{CIDR: four}}, {IPBlock: &snapshot.IPBlock{CIDR: six}}}
		for _, e := range except {
			i := 0
			if strings.Contains(e, ":") {
				i = 1
			}
			out[i].IPBlock.Except = append(out[i].IPBlock.Except, e)
		}
		return out
	}
	for name, row := range map[string]struct {
		peers []npPeer
		want  []string
	}{
		"a block means Pods too":                                 {block("fd00:244::/32", "10.244.0.0/16"), []string{"prod/db > prod/web tcp 80 passes", "outside > prod/web tcp 80 denied"}},
		"an exception":                                           {block("::/0", "0.0.0.0/0", "10.244.2.0/24", "fd00:244:2::/64"), []string{"prod/db > prod/web tcp 80 denied", "test/db > prod/web tcp 80 passes", "outside > prod/web tcp 80 passes"}},
		"another rule allows what one excepts":                   {append(block("::/0", "0.0.0.0/0", "10.244.2.0/24", "fd00:244:2::/64"), npPeer{PodSelector: selects("app=db")}), []string{"prod/db > prod/web tcp 80 passes"}},
		"an exception of all":                                    {block("fd00::/8", "10.0.0.0/8", "0.0.0.0/0", "::/0"), []string{"prod/db > prod/web tcp 80 denied", "outside > prod/web tcp 80 denied"}},
		"an exception that is none voids the block":              {block("::/0", "0.0.0.0/0", "10.0.0.0/33", "x:"), []string{"outside > prod/web tcp 80 denied"}},
		"a node by its address is meant by its mesh address too": {block("fd00:c8::2/128", "10.200.0.2/32"), []string{"mesh2 > prod/web tcp 80 passes", "n2 > prod/web tcp 80 passes", "mesh3 > prod/web tcp 80 denied"}},
		"and so is an exception of it":                           {block("fd00:c8::/32", "10.200.0.0/24", "10.200.0.2/32", "fd00:c8::2/128"), []string{"mesh2 > prod/web tcp 80 denied", "mesh3 > prod/web tcp 80 passes"}},
		"no CIDR":                                                {block("fd00::", "10.0.0.300/8"), []string{"prod/db > prod/web tcp 80 denied"}},
		"a block with a selector":                                {[]npPeer{{IPBlock: &snapshot.IPBlock{CIDR: "0.0.0.0/0"}, PodSelector: selects()}}, []string{"prod/db > prod/web tcp 80 denied"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := play(t, "prod/web@0 app=web", "prod/db@1 app=db", "test/db@2 app=db")
			s.np(snapshot.NetworkPolicy{PodSelector: *selects("app=web"), Types: []string{"Ingress"}, Ingress: []npRule{{Peers: row.peers}}})
			s.want(row.want...)
		})
	}
}

func TestClusterNetworkPolicy(t *testing.T) {
	from := func(words ...string) []cPeer {
		return []cPeer{{PodPeer: podPeer{Pods: &snapshot.NamespacedPods{Pods: *selects(words...)}}}}
	}
	rule := func(action string, peers []cPeer) cRule { return cRule{Action: action, Peers: peers} }
	admin := func(priority int32, rules ...cRule) snapshot.ClusterNetworkPolicy {
		return snapshot.ClusterNetworkPolicy{Tier: "Admin", Priority: priority, Subject: everybody, Ingress: rules}
	}
	baseline := func(rules ...cRule) snapshot.ClusterNetworkPolicy {
		return snapshot.ClusterNetworkPolicy{Tier: "Baseline", Subject: everybody, Ingress: rules}
	}
	egress := func(rules ...cRule) snapshot.ClusterNetworkPolicy {
		return snapshot.ClusterNetworkPolicy{Tier: "Admin", Subject: everybody, Egress: rules}
	}
	all := []cPeer{{PodPeer: everybody}}
	isolated := snapshot.NetworkPolicy{PodSelector: *selects("app=web"), Types: []string{"Ingress"}}
	open := snapshot.NetworkPolicy{PodSelector: *selects("app=web"), Types: []string{"Ingress"}, Ingress: []npRule{{}}}
	domain := []cPeer{{DomainNames: []string{"example.org"}}}
	for name, row := range map[string]struct {
		np   []snapshot.NetworkPolicy
		cnp  []snapshot.ClusterNetworkPolicy
		want []string
	}{
		"admin denies what a NetworkPolicy allows":           {[]snapshot.NetworkPolicy{open}, []snapshot.ClusterNetworkPolicy{admin(1, rule("Deny", from("app=db")))}, []string{"prod/db > prod/web tcp 80 denied", "prod/cron > prod/web tcp 80 passes"}},
		"admin accepts what a NetworkPolicy denies":          {[]snapshot.NetworkPolicy{isolated}, []snapshot.ClusterNetworkPolicy{admin(1, rule("Accept", from("app=db")))}, []string{"prod/db > prod/web tcp 80 passes", "prod/cron > prod/web tcp 80 denied"}},
		"pass leads past the rest of the tier":               {[]snapshot.NetworkPolicy{isolated}, []snapshot.ClusterNetworkPolicy{admin(1, rule("Pass", from("app=db"))), admin(2, rule("Accept", all))}, []string{"prod/db > prod/web tcp 80 denied", "prod/cron > prod/web tcp 80 passes"}},
		"pass without a NetworkPolicy leads to the baseline": {nil, []snapshot.ClusterNetworkPolicy{admin(1, rule("Pass", from("app=db")), rule("Accept", all)), baseline(rule("Deny", all))}, []string{"prod/db > prod/web tcp 80 denied", "prod/cron > prod/web tcp 80 passes"}},
		"the lower priority number goes first":               {nil, []snapshot.ClusterNetworkPolicy{admin(9, rule("Deny", all)), admin(3, rule("Accept", from("app=db")))}, []string{"prod/db > prod/web tcp 80 passes", "prod/cron > prod/web tcp 80 denied"}},
		"the first rule of a policy decides":                 {nil, []snapshot.ClusterNetworkPolicy{admin(1, rule("Accept", from("app=db")), rule("Deny", all))}, []string{"prod/db > prod/web tcp 80 passes", "prod/cron > prod/web tcp 80 denied", "outside > prod/web tcp 80 passes"}},
		"a NetworkPolicy hides the baseline":                 {[]snapshot.NetworkPolicy{open}, []snapshot.ClusterNetworkPolicy{baseline(rule("Deny", all))}, []string{"prod/db > prod/web tcp 80 passes", "prod/db > prod/near tcp 80 denied"}},
		"an accept of the baseline ends":                     {nil, []snapshot.ClusterNetworkPolicy{baseline(rule("Accept", from("app=db")), rule("Deny", all))}, []string{"prod/db > prod/web tcp 80 passes", "prod/cron > prod/web tcp 80 denied"}},
		"no rules in a direction, no effect":                 {nil, []snapshot.ClusterNetworkPolicy{admin(1, rule("Deny", all))}, []string{"prod/web > outside tcp 80 passes", "prod/web > prod/db tcp 80 passes"}},
		"an unknown peer in an accept rule matches nothing":  {nil, []snapshot.ClusterNetworkPolicy{admin(1, rule("Accept", append(from("app=db"), cPeer{})), rule("Deny", all))}, []string{"prod/db > prod/web tcp 80 denied"}},
		"an unknown peer in a deny rule denies all":          {nil, []snapshot.ClusterNetworkPolicy{admin(1, rule("Deny", []cPeer{{}}))}, []string{"prod/db > prod/web tcp 80 denied", "outside > prod/web icmp 0 denied", "n1 > prod/web tcp 80 passes"}},
		"an unknown peer in a pass rule denies all":          {nil, []snapshot.ClusterNetworkPolicy{admin(1, rule("Pass", []cPeer{{}}), rule("Accept", all))}, []string{"prod/db > prod/web tcp 80 denied"}},
		"an unknown protocol in an accept rule":              {nil, []snapshot.ClusterNetworkPolicy{admin(1, cRule{Action: "Accept", Peers: all, Protocols: []snapshot.ClusterNetworkPolicyProtocol{{}}}, rule("Deny", all))}, []string{"prod/db > prod/web tcp 80 denied"}},
		"an unknown action denies":                           {nil, []snapshot.ClusterNetworkPolicy{admin(1, rule("Wave", from("app=db")))}, []string{"prod/db > prod/web tcp 80 denied", "prod/cron > prod/web tcp 80 passes"}},
		"an unknown subject denies for everybody":            {nil, []snapshot.ClusterNetworkPolicy{{Tier: "Admin", Ingress: []cRule{rule("Accept", from("app=cron")), rule("Deny", all)}}}, []string{"prod/db > prod/web tcp 80 denied", "prod/cron > prod/web tcp 80 denied"}},
		"no peers deny":                      {nil, []snapshot.ClusterNetworkPolicy{admin(1, rule("Deny", nil))}, []string{"prod/db > prod/web tcp 80 denied"}},
		"nodes by their labels":              {nil, []snapshot.ClusterNetworkPolicy{egress(rule("Deny", []cPeer{{Nodes: selects("zone=z2")}}))}, []string{"prod/web > n2 tcp 443 denied", "prod/web > mesh2 tcp 443 denied", "prod/web > n3 tcp 443 passes", "prod/web > prod/db tcp 80 passes"}},
		"its own node too":                   {nil, []snapshot.ClusterNetworkPolicy{egress(rule("Deny", []cPeer{{Nodes: selects()}}))}, []string{"prod/web > n1 tcp 443 denied", "n1 > prod/web tcp 80 passes"}},
		"networks mean Pods too":             {nil, []snapshot.ClusterNetworkPolicy{egress(rule("Deny", []cPeer{{Networks: []string{"10.244.2.0/24", "fd00:244:2::/64"}}}))}, []string{"prod/web > prod/db tcp 80 denied", "prod/web > outside tcp 80 passes"}},
		"a network that is none denies all":  {nil, []snapshot.ClusterNetworkPolicy{egress(rule("Deny", []cPeer{{Networks: []string{"10.244.2.0/24", "x"}}}))}, []string{"prod/web > outside tcp 80 denied"}},
		"domain names match nothing":         {nil, []snapshot.ClusterNetworkPolicy{egress(rule("Accept", append(from("app=db"), domain...)), rule("Deny", []cPeer{{Networks: []string{"0.0.0.0/0", "::/0"}}}))}, []string{"prod/web > outside tcp 80 denied", "prod/web > prod/db tcp 80 passes"}},
		"domain names in a rule that denies": {nil, []snapshot.ClusterNetworkPolicy{egress(rule("Deny", domain))}, []string{"prod/web > outside tcp 80 denied", "prod/web > prod/db tcp 80 denied"}},
		"ports": {nil, []snapshot.ClusterNetworkPolicy{admin(1, cRule{Action: "Deny", Peers: all, Protocols: []snapshot.ClusterNetworkPolicyProtocol{{Protocol: "TCP", First: 80, Last: 80}, {Protocol: "UDP", First: 50, Last: 60}, {NamedPort: "web"}}})},
			[]string{"prod/db > prod/web tcp 80 denied", "prod/db > prod/web tcp 81 passes", "prod/db > prod/web udp 55 denied", "prod/db > prod/web udp 61 passes", "prod/db > prod/web tcp 8000 denied", "prod/db > prod/near tcp 8003 denied", "prod/db > prod/web icmp 0 passes"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := play(t, "prod/web@0 app=web", "prod/db@1 app=db", "prod/cron@2 app=cron", "prod/near@3 app=near")
			for _, p := range row.np {
				s.np(p)
			}
			for _, p := range row.cnp {
				s.cnp(p)
			}
			s.want(row.want...)
		})
	}
}

// TestHostNetwork: no selector means Pods on the host's network, their addresses do.
func TestHostNetwork(t *testing.T) {
	s := play(t, "prod/web@0 app=web", "prod/db@1 app=db")
	db := s.w.pods[snapshot.NamespacedName{Namespace: "prod", Name: "db"}]
	db.HostNetwork, db.IPs = true, s.w.nodes["n2"].IPs
	s.w.pods[db.Key()] = db
	s.e.SetPod(db)
	s.np(snapshot.NetworkPolicy{PodSelector: *selects("app=web"), Types: []string{"Ingress"}, Ingress: []npRule{{Peers: []npPeer{{PodSelector: selects()}}}}})
	s.want("prod/db > prod/web tcp 80 denied", "mesh2 > prod/web tcp 80 denied")
	s.np(snapshot.NetworkPolicy{PodSelector: *selects("app=web"), Ingress: []npRule{{Peers: []npPeer{{IPBlock: &snapshot.IPBlock{CIDR: "10.200.0.2/32"}}, {IPBlock: &snapshot.IPBlock{CIDR: "fd00:c8::2/128"}}}}}})
	s.want("prod/db > prod/web tcp 80 passes", "mesh2 > prod/web tcp 80 passes", "mesh3 > prod/web tcp 80 denied")
}

// TestUnknownIsClosed: a Pod is closed while a policy might select it, and only then.
func TestUnknownIsClosed(t *testing.T) {
	web := snapshot.NamespacedName{Namespace: "prod", Name: "web"}
	s := play(t, "prod/web@0 app=web", "prod/db@1 app=db")
	object := s.w.pods[web]
	lose := func() {
		s.e.DeletePod(web)
		s.w.pods[web] = object // for its addresses
	}
	lose()
	s.want("prod/db > prod/web tcp 80 passes")
	s.np(snapshot.NetworkPolicy{PodSelector: *selects("app=other"), Types: []string{"Ingress"}})
	s.want("prod/db > prod/web tcp 80 denied", "prod/web > prod/db tcp 80 passes", "n1 > prod/web tcp 80 passes", "prod/web > prod/web tcp 80 passes")
	s.e.SetPod(object)
	s.want("prod/db > prod/web tcp 80 passes")
	before := object
	before.UID = "0" // the namesake that was here before
	s.e.SetPod(before)
	s.want("prod/db > prod/web tcp 80 denied")
	s.e.SetPod(object)
	s.e.DeleteNamespace("prod")
	s.want("prod/db > prod/web tcp 80 passes")
	s.cnp(snapshot.ClusterNetworkPolicy{Tier: "Baseline", Subject: podPeer{Namespaces: selects("env=none")}, Egress: []cRule{{Action: "Deny", Peers: []cPeer{{PodPeer: everybody}}}}})
	s.want("prod/web > prod/db tcp 80 denied", "prod/db > prod/web tcp 80 passes")
	s.e.SetNamespace(snapshot.Namespace{Name: "prod", Labels: labelled("env=prod")})
	s.want("prod/web > prod/db tcp 80 passes")
}

// TestPeersOfUnknownNamespaces are accepted by no selector of namespaces, and denied by any.
func TestPeersOfUnknownNamespaces(t *testing.T) {
	s := play(t, "prod/web@0 app=web", "test/db@1 app=db")
	s.e.DeleteNamespace("test")
	s.cnp(snapshot.ClusterNetworkPolicy{Tier: "Admin", Subject: podPeer{Namespaces: selects("env=prod")}, Ingress: []cRule{{Action: "Deny", Peers: []cPeer{{PodPeer: podPeer{Namespaces: selects("env=evil")}}}}}})
	s.want("test/db > prod/web tcp 80 denied")
	s.e.SetNamespace(snapshot.Namespace{Name: "test", Labels: labelled("env=test")})
	s.want("test/db > prod/web tcp 80 passes")
	s.e.DeleteNamespace("test")
	s.cnp(snapshot.ClusterNetworkPolicy{Name: "cnp0", Tier: "Admin", Subject: podPeer{Namespaces: selects("env=prod")}, Ingress: []cRule{
		{Action: "Accept", Peers: []cPeer{{PodPeer: everybody}}}, {Action: "Deny", Peers: []cPeer{{PodPeer: everybody}}},
	}})
	s.want("test/db > prod/web tcp 80 denied")
}

// TestNewPodIsAPeerAtOnce: the addresses of an interface count before the Pod's status has them.
func TestNewPodIsAPeerAtOnce(t *testing.T) {
	s := play(t, "prod/web@0 app=web", "prod/near@3 app=near")
	near := s.w.pods[snapshot.NamespacedName{Namespace: "prod", Name: "near"}]
	bare := near
	bare.IPs = nil
	s.e.SetPod(bare)
	s.np(snapshot.NetworkPolicy{PodSelector: *selects("app=web"), Types: []string{"Ingress"}, Ingress: []npRule{{Peers: []npPeer{{PodSelector: selects("app=near")}}}}})
	s.want("prod/near > prod/web tcp 80 passes")
	s.e.Detach("weftp3")
	delete(s.w.endpoints, "weftp3")
	s.want("prod/near > prod/web tcp 80 denied")
	s.e.SetPod(near)
	s.want("prod/near > prod/web tcp 80 passes")
	near.Ended = true
	s.e.SetPod(near)
	s.want("prod/near > prod/web tcp 80 denied")
}

// TestNeighbourDiscoveryPasses a Pod that may send nothing.
func TestNeighbourDiscoveryPasses(t *testing.T) {
	s := play(t, "prod/web@0 app=web")
	s.np(snapshot.NetworkPolicy{PodSelector: *selects(), Types: []string{"Ingress", "Egress"}})
	for icmp, want := range map[uint8]nfsim.Fate{128: nfsim.Dropped, 133: nfsim.Delivered, 135: nfsim.Delivered, 136: nfsim.Delivered, 137: nfsim.Delivered, 143: nfsim.Dropped} {
		for _, src := range addrs("fd00:244:1::2", "fe80::2") {
			m := s.w.machine(s.e.Table())
			p := nfsim.Packet{Proto: state.ProtoICMPv6, ICMPType: icmp, IIF: "weftp0", Src: netip.AddrPortFrom(src, 0), Dst: netip.AddrPortFrom(s.w.self.IPs[1], 0)}
			if res := m.Receive(p); res.Fate != want {
				t.Errorf("type %d from %s: %s", icmp, src, res)
			}
		}
	}
}

// TestRepliesAndRevocation follows a flow: its answers pass, and once it is marked nothing of it does.
func TestRepliesAndRevocation(t *testing.T) {
	s := play(t, "prod/web@0 app=web", "prod/db@1 app=db")
	s.np(snapshot.NetworkPolicy{PodSelector: *selects(), Types: []string{"Ingress", "Egress"}, Ingress: []npRule{{Ports: []npPort{{Number: 80}, {Protocol: "UDP", Number: 53}}}}})
	for _, first := range []nfsim.Packet{
		nfsim.TCP("10.244.2.3:999", "10.244.1.2:80"), nfsim.UDP("[fd00:244:2::3]:999", "[fd00:244:1::2]:53"),
	} {
		m := s.w.machine(s.e.Table())
		there := m.Receive(first.From("weft0"))
		back := m.Answer(there)
		again := m.Receive(first.From("weft0"))
		for _, res := range []nfsim.Result{there, back, again} {
			if res.Fate != nfsim.Left {
				t.Errorf("%s: %s", first, res)
			}
		}
		again.Flow().Mark |= policy.RevokedMark
		want := nfsim.Dropped
		if first.Proto == state.ProtoTCP {
			want = nfsim.Refused
		}
		if res := m.Receive(first.From("weft0")); res.Fate != want {
			t.Errorf("%s: %s", first, res)
		}
		if res := m.Answer(there); res.Fate != want {
			t.Errorf("answer to %s: %s", first, res)
		}
		if m.Count(policy.TableName, policy.CounterRevoked) != 2 {
			t.Error("revoked packets are not counted")
		}
		again.Flow().Mark &^= policy.RevokedMark
		if res := m.Answer(there); res.Fate != nfsim.Left {
			t.Errorf("answer to %s after it was let go: %s", first, res)
		}
	}
}

// TestRevoked judges flows by who began them and who answers, whatever lies between.
func TestRevoked(t *testing.T) {
	s := play(t, "prod/web@0 app=web", "prod/db@1 app=db", "prod/near@3 app=near")
	ends := func(src, dst string, port uint16) policy.Flow {
		return flowOf(policy.Packet{Protocol: 6, Src: s.ends(src)[0], Dst: s.ends(dst)[0], Port: port})
	}
	flows := []policy.Flow{
		ends("prod/db", "prod/web", 80), ends("prod/db", "prod/web", 81), ends("prod/near", "prod/web", 81), ends("outside", "prod/web", 81),
		ends("prod/web", "prod/db", 81), ends("n1", "prod/web", 81), ends("prod/web", "outside", 80), ends("prod/db", "prod/near", 81), ends("n2", "outside", 1),
	}
	s.e.Commit()
	s.np(snapshot.NetworkPolicy{PodSelector: *selects("app=web"), Types: []string{"Ingress"}, Ingress: []npRule{{Ports: []npPort{{Number: 80}}}}})
	p := s.e.Commit()
	if got, want := s.e.Revoked(flows, p.Suspects), []int{1, 2, 3}; !slices.Equal(got, want) {
		t.Errorf("revoked are %v, want %v", got, want)
	}
	if got := s.e.Revoked(flows, policy.Suspects{}); got != nil {
		t.Errorf("without suspects %v", got)
	}
	s.e.DeleteNetworkPolicy(snapshot.NamespacedName{Namespace: "prod", Name: "np0"})
	p = s.e.Commit()
	if got := s.e.Restored(flows, p.Suspects); !slices.Equal(got, []int{0, 1, 2, 3, 4, 5, 6}) {
		t.Errorf("restored are %v, want all with an end at the Pod whose policy went", got)
	}
}

// TestExplain reads as a user reads it.
func TestExplain(t *testing.T) {
	s := play(t, "prod/web@0 app=web", "prod/db@1 app=db", "test/db@2 app=db")
	s.np(snapshot.NetworkPolicy{Name: "b", PodSelector: *selects("app=web"), Types: []string{"Ingress"}})
	s.np(snapshot.NetworkPolicy{Name: "a", PodSelector: *selects("app=web"), Types: []string{"Ingress"}, Ingress: []npRule{{Ports: []npPort{{Number: 1}}}, {Peers: []npPeer{{IPBlock: &snapshot.IPBlock{CIDR: "192.0.2.0/24"}}, {PodSelector: selects("app=db")}}}}})
	s.cnp(snapshot.ClusterNetworkPolicy{Name: "tenants", Tier: "Admin", Subject: everybody, Egress: []cRule{{Name: "no-ssh", Action: "Deny", Peers: []cPeer{{PodPeer: everybody}}, Protocols: []snapshot.ClusterNetworkPolicyProtocol{{Protocol: "TCP", First: 22, Last: 22}}}}})
	s.cnp(snapshot.ClusterNetworkPolicy{Name: "trial", Tier: "Baseline", Audit: true, Subject: everybody, Egress: []cRule{{Action: "Deny", Peers: []cPeer{{PodPeer: everybody}}}}})
	for _, row := range []struct {
		src, dst string
		port     uint16
		allowed  bool
		want     []string
	}{
		{"prod/db", "prod/web", 80, true, []string{"accept: egress of prod/db: default", "audit: egress of prod/db: Baseline trial, rule 0, peer 0", "accept: ingress of prod/web: NetworkPolicy prod/a, rule 1, peer 1"}},
		{"test/db", "prod/web", 80, false, []string{"accept: egress of test/db: default", "audit: egress of test/db: Baseline trial, rule 0, peer 0", "deny: ingress of prod/web: NetworkPolicy prod/a, prod/b"}},
		{"outside", "prod/web", 1, true, []string{"accept: ingress of prod/web: NetworkPolicy prod/a, rule 0"}},
		{"prod/web", "test/db", 22, false, []string{`deny: egress of prod/web: Admin tenants, rule 0 "no-ssh", peer 0`, "accept: ingress of test/db: default"}},
		{"n1", "prod/web", 80, true, []string{"accept: ingress of prod/web: always"}},
		{"n2", "test/db", 80, true, []string{"accept: ingress of test/db: default"}},
		{"outside", "n1", 80, true, nil},
	} {
		x := s.e.Explain(policy.Packet{Protocol: 6, Src: s.ends(row.src)[0], Dst: s.ends(row.dst)[0], Port: row.port})
		var got []string
		for _, d := range []*policy.Decision{x.Egress, x.Ingress} {
			if d == nil {
				continue
			}
			got = append(got, d.Verdict.String()+": "+d.Reason.String())
			for _, a := range d.Audit {
				got = append(got, "audit: "+a.String())
			}
		}
		if x.Allowed != row.allowed || !slices.Equal(got, row.want) {
			t.Errorf("%s to %s: %v, %q", row.src, row.dst, x.Allowed, got)
		}
	}
}
