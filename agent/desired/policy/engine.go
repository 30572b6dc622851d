package policy

import "github.com/weftnet/weftnet/agent/snapshot"

// Engine holds what is known of the cluster and of this node's Pods, with the indexes by which a
// change costs no more than what it touches. It is not safe for concurrent use.
//
// Tell it of changes (Set..., Delete..., Attach, Detach), in any order, then Commit gives the patch
// that is due, or Table all of it. What it does not know it treats as closed: a Pod is isolated while
// its object is unknown and a policy in its namespace, or for the cluster, might select it.
type Engine struct {
	options    Options
	self       Self
	pods       map[snapshot.NamespacedName]snapshot.Pod
	namespaces map[string]snapshot.Namespace
	nodes      map[string]snapshot.KubeNode
	policies   map[snapshot.NamespacedName]snapshot.NetworkPolicy
	cluster    map[string]snapshot.ClusterNetworkPolicy
	endpoints  map[string]Endpoint
}

// New makes an engine that knows nothing.
func New(o Options) *Engine {
	return &Engine{
		options:    o,
		pods:       map[snapshot.NamespacedName]snapshot.Pod{},
		namespaces: map[string]snapshot.Namespace{},
		nodes:      map[string]snapshot.KubeNode{},
		policies:   map[snapshot.NamespacedName]snapshot.NetworkPolicy{},
		cluster:    map[string]snapshot.ClusterNetworkPolicy{},
		endpoints:  map[string]Endpoint{},
	}
}

// SetOptions changes the settings.
func (e *Engine) SetOptions(o Options) { e.options = o }

// SetSelf says which node this is.
func (e *Engine) SetSelf(s Self) { e.self = s }

// SetPod adds or replaces a Pod.
func (e *Engine) SetPod(p snapshot.Pod) { e.pods[p.Key()] = p }

// DeletePod forgets a Pod.
func (e *Engine) DeletePod(key snapshot.NamespacedName) { delete(e.pods, key) }

// SetNamespace adds or replaces a namespace.
func (e *Engine) SetNamespace(n snapshot.Namespace) { e.namespaces[n.Name] = n }

// DeleteNamespace forgets a namespace.
func (e *Engine) DeleteNamespace(name string) { delete(e.namespaces, name) }

// SetNode adds or replaces a node.
func (e *Engine) SetNode(n snapshot.KubeNode) { e.nodes[n.Name] = n }

// DeleteNode forgets a node.
func (e *Engine) DeleteNode(name string) { delete(e.nodes, name) }

// SetNetworkPolicy adds or replaces a NetworkPolicy.
func (e *Engine) SetNetworkPolicy(p snapshot.NetworkPolicy) { e.policies[p.Key()] = p }

// DeleteNetworkPolicy forgets a NetworkPolicy.
func (e *Engine) DeleteNetworkPolicy(key snapshot.NamespacedName) { delete(e.policies, key) }

// SetClusterNetworkPolicy adds or replaces a ClusterNetworkPolicy.
func (e *Engine) SetClusterNetworkPolicy(p snapshot.ClusterNetworkPolicy) { e.cluster[p.Name] = p }

// DeleteClusterNetworkPolicy forgets a ClusterNetworkPolicy.
func (e *Engine) DeleteClusterNetworkPolicy(name string) { delete(e.cluster, name) }

// Attach adds or replaces the interface of a Pod on this node.
func (e *Engine) Attach(ep Endpoint) { e.endpoints[ep.Link] = ep }

// Detach forgets an interface.
func (e *Engine) Detach(link string) { delete(e.endpoints, link) }
