package policy_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/snapshot"
)

// world is a small random cluster as objects say it, from which engines are made. Its words are few,
// so that selectors hit, names clash and addresses are used again.
type world struct {
	r          *rand.Rand
	self       policy.Self
	pods       map[snapshot.NamespacedName]snapshot.Pod
	namespaces map[string]snapshot.Namespace
	nodes      map[string]snapshot.KubeNode
	policies   map[snapshot.NamespacedName]snapshot.NetworkPolicy
	cluster    map[string]snapshot.ClusterNetworkPolicy
	endpoints  map[string]policy.Endpoint
	options    policy.Options
	// policyNames is how many NetworkPolicies a namespace can have.
	policyNames int
}

func newWorld(seed uint64) *world {
	w := &world{
		r:          rand.New(rand.NewPCG(seed, 87)),
		self:       policy.Self{Name: "n1", IPs: addrs("10.200.0.1", "fd00:c8::1", "10.244.1.1", "fd00:244:1::1")},
		pods:       map[snapshot.NamespacedName]snapshot.Pod{},
		namespaces: map[string]snapshot.Namespace{},
		nodes:      map[string]snapshot.KubeNode{},
		policies:   map[snapshot.NamespacedName]snapshot.NetworkPolicy{},
		cluster:    map[string]snapshot.ClusterNetworkPolicy{},
		endpoints:  map[string]policy.Endpoint{},
	}
	w.policyNames = 3
	if seed%8 == 7 {
		w.policyNames = 40
		for range 120 {
			w.changePolicy(policy.New(policy.Options{}))
		}
	}
	for range 40 {
		w.step(nil)
	}
	return w
}

func addrs(text ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range text {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// engine is a fresh one that is told all of the world.
func (w *world) engine() *policy.Engine {
	e := policy.New(w.options)
	e.SetSelf(w.self)
	for _, x := range w.pods {
		e.SetPod(x)
	}
	for _, x := range w.policies {
		e.SetNetworkPolicy(x)
	}
	for _, x := range w.endpoints {
		e.Attach(x)
	}
	for _, x := range w.cluster {
		e.SetClusterNetworkPolicy(x)
	}
	for _, x := range w.namespaces {
		e.SetNamespace(x)
	}
	for _, x := range w.nodes {
		e.SetNode(x)
	}
	return e
}

func (w *world) oneIn(n int) bool { return w.r.IntN(n) == 0 }

func pick[T any](w *world, from ...T) T { return from[w.r.IntN(len(from))] }

var (
	namespaceNames = []string{"a", "b", "c"}
	podNames       = []string{"p", "q", "r", "s", "t"}
	labelKeys      = []string{"app", "tier", "env"}
	labelValues    = []string{"x", "y", "z"}
	portNames      = []string{"web", "dns"}
	numbers        = []uint16{1, 53, 80, 81, 82, 443, 8080, 65535}
	transports     = []uint8{6, 17, 132}
)

// podAddrs is the pool of Pod addresses: those of this node, then those of others.
func podAddrs(i int) []netip.Addr {
	node := 1 + i%3
	return addrs(fmt.Sprintf("10.244.%d.%d", node, 2+i), fmt.Sprintf("fd00:244:%d::%d", node, 2+i))
}

// step changes one thing in the world, and tells an engine too if there is one.
func (w *world) step(e *policy.Engine) {
	if e == nil {
		e = policy.New(policy.Options{})
	}
	switch w.r.IntN(16) {
	case 0, 1, 2, 3:
		w.changePod(e)
	case 4, 5:
		w.changeEndpoint(e)
	case 6, 7:
		w.changeNamespace(e)
	case 8:
		w.changeNode(e)
	case 9, 10, 11, 12:
		w.changePolicy(e)
	case 13, 14:
		w.changeClusterPolicy(e)
	case 15:
		w.options.Log = policy.LogMode(w.r.IntN(3))
		e.SetOptions(w.options)
	}
}

func (w *world) changePod(e *policy.Engine) {
	key := snapshot.NamespacedName{Namespace: pick(w, namespaceNames...), Name: pick(w, podNames...)}
	if w.oneIn(6) {
		delete(w.pods, key)
		e.DeletePod(key)
		return
	}
	i := w.r.IntN(15)
	p := snapshot.Pod{
		Namespace: key.Namespace, Name: key.Name, UID: pick(w, "1", "1", "1", "2"), Labels: w.labels(), IPs: w.some(podAddrs(i)),
		Node: fmt.Sprintf("n%d", 1+i%3), HostNetwork: w.oneIn(12), Ended: w.oneIn(12),
	}
	if p.HostNetwork {
		p.IPs = w.nodes[p.Node].IPs
	}
	for _, name := range portNames {
		for _, protocol := range transports[:2] {
			if w.oneIn(2) {
				p.Ports = append(p.Ports, snapshot.NamedPort{Name: name, Protocol: protocol, Port: pick(w, numbers...)})
			}
		}
	}
	w.pods[key] = p
	e.SetPod(p)
}

// some are both addresses mostly, or one, or none.
func (w *world) some(in []netip.Addr) []netip.Addr {
	switch w.r.IntN(8) {
	case 0:
		return in[:1]
	case 1:
		return in[1:]
	case 2:
		return nil
	default:
		return in
	}
}

func (w *world) labels() snapshot.Labels {
	m := map[string]string{}
	for _, k := range labelKeys {
		if !w.oneIn(3) {
			m[k] = pick(w, labelValues...)
		}
	}
	return snapshot.NewLabels(m)
}

// changeEndpoint attaches a Pod, mostly one that is known with the address that it has.
func (w *world) changeEndpoint(e *policy.Engine) {
	i := 3 * w.r.IntN(5)
	link := fmt.Sprintf("weftp%d", i)
	delete(w.endpoints, link)
	e.Detach(link)
	if w.oneIn(5) {
		return
	}
	ep := policy.Endpoint{
		Link: link, IPs: w.some(podAddrs(i)), UID: pick(w, "1", "1", "1", ""),
		Pod: snapshot.NamespacedName{Namespace: pick(w, namespaceNames...), Name: pick(w, podNames...)},
	}
	for _, key := range slices.SortedFunc(maps.Keys(w.pods), byName) {
		p := w.pods[key]
		if len(p.IPs) > 0 && slices.Contains(podAddrs(i), p.IPs[0]) && !p.HostNetwork && !w.oneIn(4) {
			ep.Pod = key
		}
	}
	w.endpoints[link] = ep
	e.Attach(ep)
}

func byName(a, b snapshot.NamespacedName) int { return strings.Compare(a.String(), b.String()) }

func (w *world) changeNamespace(e *policy.Engine) {
	name := pick(w, namespaceNames...)
	if w.oneIn(5) {
		delete(w.namespaces, name)
		e.DeleteNamespace(name)
		return
	}
	n := snapshot.Namespace{Name: name, Labels: w.labels()}
	w.namespaces[name] = n
	e.SetNamespace(n)
}

func (w *world) changeNode(e *policy.Engine) {
	i := 1 + w.r.IntN(3)
	name := fmt.Sprintf("n%d", i)
	if w.oneIn(5) {
		delete(w.nodes, name)
		e.DeleteNode(name)
		return
	}
	n := snapshot.KubeNode{
		Name: name, Labels: w.labels(),
		IPs:     addrs(fmt.Sprintf("10.200.0.%d", i), fmt.Sprintf("fd00:c8::%d", i)),
		MeshIPs: addrs(fmt.Sprintf("10.244.%d.1", i), fmt.Sprintf("fd00:244:%d::1", i)),
	}
	w.nodes[name] = n
	e.SetNode(n)
}

// address is one that may be in a packet: of Pods that are known or not, nodes, and the outside.
func (w *world) address(v6 bool) netip.Addr {
	family := 0
	if v6 {
		family = 1
	}
	switch w.r.IntN(10) {
	case 0:
		return addrs("203.0.113.7", "2001:db8::7")[family]
	case 1:
		i := 1 + w.r.IntN(3)
		return addrs(fmt.Sprintf("10.200.0.%d", i), fmt.Sprintf("fd00:c8::%d", i))[family]
	case 2:
		i := 1 + w.r.IntN(3)
		return addrs(fmt.Sprintf("10.244.%d.1", i), fmt.Sprintf("fd00:244:%d::1", i))[family]
	case 3, 4, 5:
		return podAddrs(3 * w.r.IntN(5))[family] // of this node
	default:
		return podAddrs(w.r.IntN(15))[family]
	}
}

func (w *world) packet() policy.Packet {
	v6 := w.oneIn(2)
	p := policy.Packet{Src: w.address(v6), Dst: w.address(v6)}
	if w.oneIn(10) {
		p.Protocol = 1
		if v6 {
			p.Protocol = 58
		}
		return p
	}
	p.Protocol, p.Port = pick(w, transports...), pick(w, numbers...)
	if w.oneIn(3) {
		p.Port = uint16(1 + w.r.IntN(65535))
	}
	return p
}

// linkOf is the interface of this node's Pod with an address.
func (w *world) linkOf(a netip.Addr) string {
	for link, ep := range w.endpoints {
		if slices.Contains(ep.IPs, a) {
			return link
		}
	}
	return ""
}
