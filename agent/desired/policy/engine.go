package policy

import (
	"net/netip"
	"slices"

	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

// Engine holds what is known of the cluster and of this node's Pods, with the indexes by which a
// change costs no more than what it touches. It is not safe for concurrent use.
//
// Tell it of changes (Set..., Delete..., Attach, Detach), in any order, then Commit gives the patch
// that is due, or Table all of it. What it does not know it treats as closed: a Pod is isolated while
// its object is unknown and a policy in its namespace, or for the cluster, might select it.
type Engine struct {
	options Options
	self    Self

	pods       map[snapshot.NamespacedName]*pod
	podsAt     map[netip.Addr][]*pod
	namespaces map[string]*namespace
	nodes      map[string]*snapshot.KubeNode
	nodesAt    map[netip.Addr][]*snapshot.KubeNode

	policies map[snapshot.NamespacedName]*policy
	byNS     map[string][]*policy // NetworkPolicies, in order
	cluster  map[string]*policy
	ordered  []*policy // ClusterNetworkPolicies, in order
	serial   uint64

	endpoints   map[string]*endpoint
	endpointAt  map[netip.Addr]*endpoint
	endpointsOf map[snapshot.NamespacedName][]*endpoint

	out *compiled
	// pending are the suspects of changes that Table has settled.
	pending Suspects
}

// pod is a Pod with the addresses by which peers know it.
type pod struct {
	snapshot.Pod
	// addrs are those of its status and of its interfaces on this node; none while it is on the
	// host's network or has ended.
	addrs []netip.Addr
	// values are the same by family, as sets hold them, sorted.
	values [2][]state.Value
}

// namespace is a namespace, or the place of one whose Pods are known before it is.
type namespace struct {
	object *snapshot.Namespace
	pods   map[string]*pod
}

// endpoint is the interface of a Pod on this node.
type endpoint struct {
	Endpoint
	dirty bool
	// shut closes the Pod, see Engine.Shut.
	shut bool
	// profiles in force, by direction and family; nil where nothing is judged.
	profiles [2][2]*profile
}

// New makes an engine that knows nothing.
func New(o Options) *Engine {
	return &Engine{
		options:     o.withDefaults(),
		pods:        map[snapshot.NamespacedName]*pod{},
		podsAt:      map[netip.Addr][]*pod{},
		namespaces:  map[string]*namespace{},
		nodes:       map[string]*snapshot.KubeNode{},
		nodesAt:     map[netip.Addr][]*snapshot.KubeNode{},
		policies:    map[snapshot.NamespacedName]*policy{},
		byNS:        map[string][]*policy{},
		cluster:     map[string]*policy{},
		endpoints:   map[string]*endpoint{},
		endpointAt:  map[netip.Addr]*endpoint{},
		endpointsOf: map[snapshot.NamespacedName][]*endpoint{},
		out:         newCompiled(),
	}
}

// SetOptions changes the settings.
func (e *Engine) SetOptions(o Options) {
	o = o.withDefaults()
	if o == e.options {
		return
	}
	e.options = o
	e.out.forgetProfiles()
	e.touchAll()
}

// SetSelf says which node this is.
func (e *Engine) SetSelf(s Self) {
	s.IPs = cleanAll(s.IPs)
	if s.Name == e.self.Name && slices.Equal(s.IPs, e.self.IPs) {
		return
	}
	e.self = s
}

func cleanAll(in []netip.Addr) []netip.Addr {
	out := make([]netip.Addr, 0, len(in))
	for _, a := range in {
		if a.IsValid() && !slices.Contains(out, clean(a)) {
			out = append(out, clean(a))
		}
	}
	return out
}

// SetPod adds or replaces a Pod.
func (e *Engine) SetPod(p snapshot.Pod) {
	if old := e.pods[p.Key()]; old != nil && old.Pod.Equal(p) {
		return
	}
	e.replacePod(p.Key(), &pod{Pod: p})
}

// DeletePod forgets a Pod.
func (e *Engine) DeletePod(key snapshot.NamespacedName) { e.replacePod(key, nil) }

// replacePod puts a Pod, or none, in the place of the one before.
func (e *Engine) replacePod(key snapshot.NamespacedName, now *pod) {
	old := e.pods[key]
	if old == nil && now == nil {
		return
	}
	ns := e.namespaceOf(key.Namespace)
	if now == nil {
		delete(e.pods, key)
		delete(ns.pods, key.Name)
		e.dropNamespace(key.Namespace)
	} else {
		now.setAddrs(e.addressesOf(now))
		e.pods[key] = now
		ns.pods[key.Name] = now
	}
	reindex(e.podsAt, addrsOf(old), addrsOf(now), old, now)
	e.out.movePod(old, now, ns.object)
	for _, ep := range e.endpointsOf[key] {
		ep.dirty = true
	}
}

func (p *pod) setAddrs(addrs []netip.Addr) {
	p.addrs, p.values = addrs, [2][]state.Value{}
	for _, a := range addrs {
		f := familyIndex(a)
		p.values[f] = append(p.values[f], state.AddrValue(a))
	}
	slices.Sort(p.values[0])
	slices.Sort(p.values[1])
}

func addrsOf(p *pod) []netip.Addr {
	if p == nil {
		return nil
	}
	return p.addrs
}

// reindex takes one value out of the index of addresses and puts another in.
func reindex[T comparable](index map[netip.Addr][]T, oldAddrs, newAddrs []netip.Addr, old, now T) {
	for _, a := range oldAddrs {
		rest := slices.DeleteFunc(slices.Clone(index[a]), func(x T) bool { return x == old })
		if len(rest) == 0 {
			delete(index, a)
			continue
		}
		index[a] = rest
	}
	for _, a := range newAddrs {
		index[a] = append(slices.Clone(index[a]), now)
	}
}

// addressesOf are the addresses by which peers know a Pod. Those of its interfaces here count
// before its status tells them.
func (e *Engine) addressesOf(p *pod) []netip.Addr {
	if p.HostNetwork || p.Ended {
		return nil
	}
	out := cleanAll(p.IPs)
	for _, ep := range e.endpointsOf[p.Key()] {
		if !ep.isOf(p) {
			continue
		}
		for _, a := range ep.IPs {
			if !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	return out
}

// isOf tells whether the interface belongs to this very Pod, not to its namesake.
func (ep *endpoint) isOf(p *pod) bool {
	return p != nil && ep.Pod == p.Key() && (ep.UID == "" || p.UID == "" || ep.UID == p.UID)
}

func (e *Engine) namespaceOf(name string) *namespace {
	n := e.namespaces[name]
	if n == nil {
		n = &namespace{pods: map[string]*pod{}}
		e.namespaces[name] = n
	}
	return n
}

// dropNamespace forgets a place that nothing is in.
func (e *Engine) dropNamespace(name string) {
	if n := e.namespaces[name]; n != nil && n.object == nil && len(n.pods) == 0 {
		delete(e.namespaces, name)
	}
}

// SetNamespace adds or replaces a namespace.
func (e *Engine) SetNamespace(n snapshot.Namespace) { e.replaceNamespace(n.Name, &n) }

// DeleteNamespace forgets a namespace.
func (e *Engine) DeleteNamespace(name string) { e.replaceNamespace(name, nil) }

func (e *Engine) replaceNamespace(name string, now *snapshot.Namespace) {
	ns := e.namespaceOf(name)
	old := ns.object
	if old == nil && now == nil || old != nil && now != nil && old.Labels.Equal(now.Labels) {
		e.dropNamespace(name)
		return
	}
	ns.object = now
	e.out.moveNamespace(name, ns, old, now)
	for _, ep := range e.endpoints {
		ep.dirty = ep.dirty || ep.Pod.Namespace == name
	}
	e.dropNamespace(name)
}

// SetNode adds or replaces a node.
func (e *Engine) SetNode(n snapshot.KubeNode) {
	n.IPs, n.MeshIPs = cleanAll(n.IPs), cleanAll(n.MeshIPs)
	e.replaceNode(n.Name, &n)
}

// DeleteNode forgets a node.
func (e *Engine) DeleteNode(name string) { e.replaceNode(name, nil) }

func (e *Engine) replaceNode(name string, now *snapshot.KubeNode) {
	old := e.nodes[name]
	if old == nil && now == nil || old != nil && now != nil && sameNode(*old, *now) {
		return
	}
	delete(e.nodes, name)
	if now != nil {
		e.nodes[name] = now
	}
	reindex(e.nodesAt, nodeAddrs(old), nodeAddrs(now), old, now)
	e.out.moveNode(old, now)
}

func sameNode(a, b snapshot.KubeNode) bool {
	return a.Labels.Equal(b.Labels) && slices.Equal(a.IPs, b.IPs) && slices.Equal(a.MeshIPs, b.MeshIPs)
}

func nodeAddrs(n *snapshot.KubeNode) []netip.Addr {
	if n == nil {
		return nil
	}
	return slices.Concat(n.IPs, n.MeshIPs)
}
