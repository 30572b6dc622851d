package policy_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/test/nfsim"
)

// scene is a small cluster by names: Pods are written as in `prod/web@2 app=web tier=front`, where 2 is
// the number in its addresses; one that is divisible by 3 is on this node.
type scene struct {
	t *testing.T
	w *world
	e *policy.Engine
}

// play makes a cluster of two namespaces, three nodes and the Pods given.
func play(t *testing.T, pods ...string) *scene {
	t.Helper()
	w := newWorld(0)
	clear(w.pods)
	clear(w.namespaces)
	clear(w.policies)
	clear(w.cluster)
	clear(w.endpoints)
	clear(w.nodes)
	w.options = policy.Options{}
	s := &scene{t: t, w: w}
	for _, ns := range []string{"prod", "test"} {
		w.namespaces[ns] = snapshot.Namespace{Name: ns, Labels: labelled("env=" + ns)}
	}
	for i := 1; i <= 3; i++ {
		w.nodes[fmt.Sprintf("n%d", i)] = snapshot.KubeNode{
			Name: fmt.Sprintf("n%d", i), Labels: labelled(fmt.Sprintf("zone=z%d", i)),
			IPs:     addrs(fmt.Sprintf("10.200.0.%d", i), fmt.Sprintf("fd00:c8::%d", i)),
			MeshIPs: addrs(fmt.Sprintf("10.244.%d.1", i), fmt.Sprintf("fd00:244:%d::1", i)),
		}
	}
	for _, text := range pods {
		s.pod(text)
	}
	s.e = w.engine()
	return s
}

// labelled reads labels, written with an equals sign.
func labelled(words ...string) snapshot.Labels {
	m := map[string]string{}
	for _, word := range words {
		k, v, _ := strings.Cut(word, "=")
		m[k] = v
	}
	return snapshot.NewLabels(m)
}

func (s *scene) pod(text string) {
	s.t.Helper()
	words := strings.Fields(text)
	var i int
	name, number, _ := strings.Cut(words[0], "@")
	if _, err := fmt.Sscan(number, &i); err != nil {
		s.t.Fatal(err)
	}
	ns, name, _ := strings.Cut(name, "/")
	p := snapshot.Pod{
		Namespace: ns, Name: name, UID: "1", Labels: labelled(words[1:]...), IPs: podAddrs(i), Node: fmt.Sprintf("n%d", 1+i%3),
		Ports: []snapshot.NamedPort{{Name: "web", Protocol: 6, Port: uint16(8000 + i)}, {Name: "dns", Protocol: 17, Port: 53}},
	}
	s.w.pods[p.Key()] = p
	if i%3 == 0 {
		link := fmt.Sprintf("weftp%d", i)
		s.w.endpoints[link] = policy.Endpoint{Link: link, Pod: p.Key(), UID: "1", IPs: p.IPs}
	}
}

// np and cnp put policies in force.
func (s *scene) np(p snapshot.NetworkPolicy) {
	p.Namespace = "prod"
	if p.Name == "" {
		p.Name = fmt.Sprintf("np%d", len(s.w.policies))
	}
	s.w.policies[p.Key()] = p
	s.e.SetNetworkPolicy(p)
}

func (s *scene) cnp(p snapshot.ClusterNetworkPolicy) {
	if p.Name == "" {
		p.Name = fmt.Sprintf("cnp%d", len(s.w.cluster))
	}
	s.w.cluster[p.Name] = p
	s.e.SetClusterNetworkPolicy(p)
}

// ends are the addresses of a name: a Pod, a node (n2), its mesh address (mesh2) or the outside.
func (s *scene) ends(name string) []netip.Addr {
	var i int
	switch _, err := fmt.Sscanf(name, "mesh%d", &i); {
	case err == nil:
		return s.w.nodes[fmt.Sprintf("n%d", i)].MeshIPs
	case name == "outside":
		return addrs("203.0.113.7", "2001:db8::7")
	case s.w.nodes[name].Name != "":
		return s.w.nodes[name].IPs
	}
	ns, pod, _ := strings.Cut(name, "/")
	p, ok := s.w.pods[snapshot.NamespacedName{Namespace: ns, Name: pod}]
	if !ok {
		s.t.Fatalf("no %s", name)
	}
	return p.IPs
}

// want checks flows, each written as `prod/a > prod/b tcp 80 denied`, in both families: by the
// evaluator and by the rules.
func (s *scene) want(lines ...string) {
	s.t.Helper()
	m := s.w.machine(s.e.Table())
	for _, text := range lines {
		var src, dst, protocol, verdict string
		var port uint16
		if _, err := fmt.Sscanf(text, "%s > %s %s %d %s", &src, &dst, &protocol, &port, &verdict); err != nil {
			s.t.Fatalf("%q: %v", text, err)
		}
		for family, a := range s.ends(src) {
			pkt := policy.Packet{Src: a, Dst: s.ends(dst)[family], Port: port}
			pkt.Protocol = map[string]uint8{"tcp": 6, "udp": 17, "sctp": 132, "icmp": []uint8{1, 58}[family]}[protocol]
			reasons, _ := s.w.expected(s.e, pkt)
			if denied := len(reasons) > 0; denied != (verdict == "denied") {
				s.t.Errorf("%s: %s: the evaluator says %v", text, a, reasons)
			}
			if res := s.w.send(m, pkt); (res.Fate == nfsim.Dropped) != (verdict == "denied") {
				s.t.Errorf("%s: %s: the rules: %s", text, a, res)
			}
		}
	}
}

func selects(words ...string) *snapshot.Selector {
	return &snapshot.Selector{MatchLabels: labelled(words...)}
}

type (
	npRule  = snapshot.NetworkPolicyRule
	npPeer  = snapshot.NetworkPolicyPeer
	npPort  = snapshot.NetworkPolicyPort
	cRule   = snapshot.ClusterNetworkPolicyRule
	cPeer   = snapshot.ClusterNetworkPolicyPeer
	podPeer = snapshot.PodPeer
)

var everybody = podPeer{Namespaces: &snapshot.Selector{}}

func TestNetworkPolicy(t *testing.T) {
	in := []string{"Ingress"}
	both := []string{"Ingress", "Egress"}
	web := *selects("app=web")
	fromDB := []npRule{{Peers: []npPeer{{PodSelector: selects("app=db")}}}}
	for name, row := range map[string]struct {
		policies []snapshot.NetworkPolicy
		want     []string
	}{
		"no policy": {nil, []string{"prod/db > prod/web tcp 80 passes", "outside > prod/web tcp 80 passes"}},
		"absent types without egress rules mean ingress": {[]snapshot.NetworkPolicy{{PodSelector: web}},
			[]string{"prod/db > prod/web tcp 80 denied", "prod/db > prod/web icmp 0 denied", "prod/web > prod/db tcp 80 passes"}},
		"absent types with egress rules mean both": {[]snapshot.NetworkPolicy{{PodSelector: web, Egress: fromDB}},
			[]string{"prod/db > prod/web tcp 80 denied", "prod/web > prod/db tcp 80 passes", "prod/web > outside tcp 80 denied"}},
		"egress alone leaves ingress open": {[]snapshot.NetworkPolicy{{PodSelector: web, Types: []string{"Egress"}}},
			[]string{"prod/db > prod/web tcp 80 passes", "prod/web > prod/db tcp 80 denied", "prod/web > n1 tcp 443 denied", "prod/web > n2 tcp 443 denied"}},
		"an unknown type isolates in both": {[]snapshot.NetworkPolicy{{PodSelector: web, Types: []string{"Sideways"}}},
			[]string{"prod/db > prod/web tcp 80 denied", "prod/web > prod/db tcp 80 denied"}},
		"an empty rule allows all": {[]snapshot.NetworkPolicy{{PodSelector: web, Types: both, Ingress: []npRule{{}}}},
			[]string{"prod/db > prod/web tcp 80 passes", "outside > prod/web icmp 0 passes", "prod/web > prod/db tcp 80 denied"}},
		"a podSelector alone stays in the namespace": {[]snapshot.NetworkPolicy{{PodSelector: web, Types: in, Ingress: fromDB}},
			[]string{"prod/db > prod/web tcp 80 passes", "test/db > prod/web tcp 80 denied"}},
		"an empty podSelector means the namespace": {[]snapshot.NetworkPolicy{{PodSelector: web, Types: in, Ingress: []npRule{{Peers: []npPeer{{PodSelector: selects()}}}}}},
			[]string{"prod/cron > prod/web tcp 80 passes", "test/db > prod/web tcp 80 denied", "outside > prod/web tcp 80 denied", "n2 > prod/web tcp 80 denied"}},
		"an empty namespaceSelector means every Pod, and only Pods": {[]snapshot.NetworkPolicy{{PodSelector: web, Types: in, Ingress: []npRule{{Peers: []npPeer{{NamespaceSelector: selects()}}}}}},
			[]string{"test/db > prod/web tcp 80 passes", "outside > prod/web tcp 80 denied", "mesh2 > prod/web tcp 80 denied"}},
		"two selectors in one peer both count": {[]snapshot.NetworkPolicy{{PodSelector: web, Types: in, Ingress: []npRule{{Peers: []npPeer{{NamespaceSelector: selects("env=test"), PodSelector: selects("app=db")}}}}}},
			[]string{"test/db > prod/web tcp 80 passes", "prod/db > prod/web tcp 80 denied", "test/cron > prod/web tcp 80 denied"}},
		"two peers are alternatives": {[]snapshot.NetworkPolicy{{PodSelector: web, Types: in, Ingress: []npRule{{Peers: []npPeer{{NamespaceSelector: selects("env=test")}, {PodSelector: selects("app=db")}}}}}},
			[]string{"test/cron > prod/web tcp 80 passes", "prod/db > prod/web tcp 80 passes", "prod/cron > prod/web tcp 80 denied"}},
		"policies add up": {[]snapshot.NetworkPolicy{{PodSelector: web, Types: in, Ingress: fromDB}, {PodSelector: *selects(), Types: in, Ingress: []npRule{{Peers: []npPeer{{PodSelector: selects("app=cron")}}}}}},
			[]string{"prod/db > prod/web tcp 80 passes", "prod/cron > prod/web tcp 80 passes", "prod/db > prod/near tcp 80 denied"}},
		"a Pod reaches itself": {[]snapshot.NetworkPolicy{{PodSelector: web, Types: both}},
			[]string{"prod/web > prod/web tcp 80 passes"}},
		"the node reaches its Pods, others do not": {[]snapshot.NetworkPolicy{{PodSelector: web, Types: both}},
			[]string{"n1 > prod/web tcp 80 passes", "mesh1 > prod/web tcp 80 passes", "n2 > prod/web tcp 80 denied", "mesh2 > prod/web tcp 80 denied"}},
		"both ends are asked": {[]snapshot.NetworkPolicy{{PodSelector: web, Types: in, Ingress: []npRule{{}}}, {PodSelector: *selects("app=near"), Types: []string{"Egress"}}},
			[]string{"prod/near > prod/web tcp 80 denied", "prod/db > prod/web tcp 80 passes"}},
		"a selector that nobody can judge isolates the namespace": {[]snapshot.NetworkPolicy{{PodSelector: snapshot.Selector{MatchExpressions: []snapshot.Requirement{{Key: "app", Operator: "Like"}}}, Types: in}},
			[]string{"test/db > prod/web tcp 80 denied", "prod/db > prod/near tcp 80 denied", "prod/db > test/here tcp 80 passes"}},
		"a peer that nobody can judge is nobody": {[]snapshot.NetworkPolicy{{PodSelector: web, Types: in, Ingress: []npRule{{Peers: []npPeer{{}, {PodSelector: &snapshot.Selector{MatchExpressions: []snapshot.Requirement{{Key: "app", Operator: "Like"}}}}}}}}},
			[]string{"prod/db > prod/web tcp 80 denied"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := play(t, "prod/web@0 app=web", "prod/db@1 app=db", "prod/cron@2 app=cron", "prod/near@3 app=near", "test/db@4 app=db", "test/cron@5 app=cron", "test/here@6")
			for _, p := range row.policies {
				s.np(p)
			}
			s.want(row.want...)
		})
	}
}

func TestSelectors(t *testing.T) {
	labels := labelled("app=web", "tier=front")
	expr := func(key string, op snapshot.Operator, values ...string) snapshot.Selector {
		return snapshot.Selector{MatchExpressions: []snapshot.Requirement{{Key: key, Operator: op, Values: values}}}
	}
	for name, row := range map[string]struct {
		s    snapshot.Selector
		want bool
	}{
		"empty":                         {snapshot.Selector{}, true},
		"label":                         {*selects("app=web"), true},
		"two labels, one wrong":         {*selects("app=web", "tier=back"), false},
		"In":                            {expr("app", "In", "db", "web"), true},
		"In without the label":          {expr("zone", "In", "a"), false},
		"NotIn":                         {expr("app", "NotIn", "web"), false},
		"NotIn without the label":       {expr("zone", "NotIn", "a"), true},
		"Exists":                        {expr("app", "Exists"), true},
		"Exists without the label":      {expr("zone", "Exists"), false},
		"DoesNotExist":                  {expr("zone", "DoesNotExist"), true},
		"DoesNotExist with the label":   {expr("app", "DoesNotExist"), false},
		"In without values":             {expr("app", "In"), false},
		"Exists with values":            {expr("app", "Exists", "web"), false},
		"unknown operator":              {expr("app", "Gt", "1"), false},
		"label and expression":          {snapshot.Selector{MatchLabels: labelled("app=web"), MatchExpressions: expr("tier", "In", "back").MatchExpressions}, false},
		"a value that is empty matches": {snapshot.Selector{MatchLabels: labelled("none=")}, false},
	} {
		if got := row.s.Matches(labels); got != row.want {
			t.Errorf("%s: matches is %v", name, got)
		}
	}
}

func TestPorts(t *testing.T) {
	for name, row := range map[string]struct {
		ports []npPort
		want  []string
	}{
		"a number is TCP":                   {[]npPort{{Number: 80}}, []string{"prod/db > prod/web tcp 80 passes", "prod/db > prod/web udp 80 denied", "prod/db > prod/web tcp 81 denied", "prod/db > prod/web icmp 0 denied"}},
		"a protocol alone":                  {[]npPort{{Protocol: "UDP"}}, []string{"prod/db > prod/web udp 1 passes", "prod/db > prod/web udp 65535 passes", "prod/db > prod/web tcp 80 denied", "prod/db > prod/web icmp 0 denied"}},
		"a range":                           {[]npPort{{Number: 80, EndPort: 90}}, []string{"prod/db > prod/web tcp 79 denied", "prod/db > prod/web tcp 80 passes", "prod/db > prod/web tcp 90 passes", "prod/db > prod/web tcp 91 denied"}},
		"a range of one":                    {[]npPort{{Number: 80, EndPort: 80}}, []string{"prod/db > prod/web tcp 80 passes", "prod/db > prod/web tcp 81 denied"}},
		"a range to the end":                {[]npPort{{Protocol: "SCTP", Number: 1, EndPort: 65535}}, []string{"prod/db > prod/web sctp 65535 passes", "prod/db > prod/web tcp 1 denied"}},
		"a range backwards":                 {[]npPort{{Number: 80, EndPort: 79}}, []string{"prod/db > prod/web tcp 80 denied", "prod/db > prod/web tcp 79 denied"}},
		"ranges that overlap":               {[]npPort{{Number: 80, EndPort: 90}, {Number: 85, EndPort: 95}, {Number: 96}, {Protocol: "UDP", Number: 53}}, []string{"prod/db > prod/web tcp 95 passes", "prod/db > prod/web tcp 96 passes", "prod/db > prod/web tcp 97 denied", "prod/db > prod/web udp 53 passes"}},
		"a name":                            {[]npPort{{Name: "web"}}, []string{"prod/db > prod/web tcp 8000 passes", "prod/db > prod/other tcp 8003 passes", "prod/db > prod/web tcp 8003 denied", "prod/db > prod/web udp 8000 denied"}},
		"a name of UDP":                     {[]npPort{{Protocol: "UDP", Name: "dns"}}, []string{"prod/db > prod/web udp 53 passes", "prod/db > prod/web tcp 53 denied"}},
		"a name in a protocol it is not of": {[]npPort{{Protocol: "UDP", Name: "web"}}, []string{"prod/db > prod/web udp 8000 denied", "prod/db > prod/web tcp 8000 denied"}},
		"a name that nobody has":            {[]npPort{{Name: "nope"}}, []string{"prod/db > prod/web tcp 8000 denied"}},
		"a name with an end":                {[]npPort{{Name: "web", EndPort: 9000}}, []string{"prod/db > prod/web tcp 8000 denied"}},
		"a protocol nobody knows":           {[]npPort{{Protocol: "ICMP"}}, []string{"prod/db > prod/web icmp 0 denied", "prod/db > prod/web tcp 80 denied"}},
		"no port is a port":                 {[]npPort{{Number: 70000}, {Number: -1}}, []string{"prod/db > prod/web tcp 80 denied"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := play(t, "prod/web@0 app=web", "prod/other@3 app=web", "prod/db@1")
			s.np(snapshot.NetworkPolicy{PodSelector: *selects("app=web"), Types: []string{"Ingress"}, Ingress: []npRule{{Ports: row.ports}}})
			s.want(row.want...)
		})
	}
}

// TestNamedPortsAtEgress resolves a name by each destination, which may be any Pod of the cluster.
func TestNamedPortsAtEgress(t *testing.T) {
	for name, row := range map[string]struct {
		peers []npPeer
		want  []string
	}{
		"to everybody": {nil, []string{"prod/web > prod/db tcp 8001 passes", "prod/web > prod/db tcp 8002 denied", "prod/web > test/db tcp 8002 passes", "prod/web > outside tcp 8001 denied", "prod/web > prod/here tcp 8003 passes"}},
		"to some":      {[]npPeer{{PodSelector: selects("app=db")}}, []string{"prod/web > prod/db tcp 8001 passes", "prod/web > test/db tcp 8002 denied", "prod/web > prod/here tcp 8003 denied"}},
		"to a block":   {[]npPeer{{IPBlock: &snapshot.IPBlock{CIDR: "10.244.3.0/24"}}, {IPBlock: &snapshot.IPBlock{CIDR: "fd00:244:3::/64"}}}, []string{"prod/web > test/db tcp 8002 passes", "prod/web > prod/db tcp 8001 denied"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := play(t, "prod/web@0 app=web", "prod/db@1 app=db", "test/db@2 app=db", "prod/here@3")
			s.np(snapshot.NetworkPolicy{PodSelector: *selects("app=web"), Types: []string{"Egress"}, Egress: []npRule{{Peers: row.peers, Ports: []npPort{{Name: "web"}}}}})
			s.want(row.want...)
		})
	}
}
