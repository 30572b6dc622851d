// Package view is what the weft command sees of a mesh: the objects of the cluster and, where the
// agents answer, what each node's WireGuard device says of its peers. Reading it is one step;
// everything that is concluded from it is computed by pure functions elsewhere.
package view

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weftnet/crds/v1alpha1"
)

// Mesh is all of it, each list in the order of the names.
type Mesh struct {
	Nodes     []corev1.Node
	MeshNodes []v1alpha1.MeshNode
	Pools     []v1alpha1.IPPool
	Config    *v1alpha1.MeshConfig
	// ServiceCIDRs of the cluster, as written in its ServiceCIDR objects.
	ServiceCIDRs []string
	// Agents by node name. A node without an entry has no agent Pod.
	Agents map[string]Agent
	// Operators are the operator's Pods.
	Operators []Agent
	// Links by the name of the node that reports them, then of its peer. A node that could not be
	// asked has no entry.
	Links map[string]map[string]Link
	// Unasked says why a node's agent could not be asked, by node name.
	Unasked map[string]Unasked
}

// Unasked is an agent of which nothing was learned.
type Unasked struct {
	Why string
	// Forbidden means that the user may not ask, which says nothing of the agent.
	Forbidden bool
}

// Agent is a Pod of Weftnet's own, as Kubernetes sees it.
type Agent struct {
	Pod   string
	Ready bool
	// Why it is not ready, in Kubernetes' words; empty when it is.
	Why      string
	Restarts int32
}

// Link is one direction of a pair: what a node's device knows of a peer.
type Link struct {
	// Endpoint is where the device sends to, as address and port.
	Endpoint string
	// Handshake is how long ago the last handshake was; negative means there was none.
	Handshake time.Duration
	// Received and Sent are bytes since the device was made.
	Received, Sent uint64
	// Unanswered is for how long what was sent has had no answer, by the agent's watch; zero when none is owed.
	Unanswered time.Duration
	// Heard is how long ago anything at all came from the peer; negative means not since the agent began, or
	// that an agent of an older version does not tell.
	Heard time.Duration
}

// SilentLimit is how long a peer may leave everything unanswered. A living one answers within 10 s, if with a
// keepalive only (KEEPALIVE_TIMEOUT in the protocol's paper, section 6.5); agents give up after as long as this.
const SilentLimit = 20 * time.Second

// Silent says whether the peer has left unanswered what any peer answers, however young the session.
func (l Link) Silent() bool { return l.Unanswered >= SilentLimit }

// HandshakeLimit is the age after which a WireGuard session is refused by both ends
// (REJECT_AFTER_TIME in the protocol's paper, section 6.1).
const HandshakeLimit = 180 * time.Second

// Alive says whether the session is still good.
func (l Link) Alive() bool { return l.Handshake >= 0 && l.Handshake < HandshakeLimit }

// Node returns the Kubernetes node of that name, or nil.
func (m *Mesh) Node(name string) *corev1.Node {
	return find(m.Nodes, func(n *corev1.Node) bool { return n.Name == name })
}

// MeshNode returns the MeshNode of that name, or nil.
func (m *Mesh) MeshNode(name string) *v1alpha1.MeshNode {
	return find(m.MeshNodes, func(n *v1alpha1.MeshNode) bool { return n.Name == name })
}

// Names are the names of all Nodes and MeshNodes, sorted.
func (m *Mesh) Names() []string {
	var names []string
	for i := range m.Nodes {
		names = append(names, m.Nodes[i].Name)
	}
	for i := range m.MeshNodes {
		names = append(names, m.MeshNodes[i].Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// LastHandshake is the age of the youngest handshake that the node reports with any peer.
func (m *Mesh) LastHandshake(node string) (age time.Duration, known bool) {
	for _, link := range m.Links[node] {
		if link.Handshake >= 0 && (!known || link.Handshake < age) {
			age, known = link.Handshake, true
		}
	}
	return age, known
}

// Ready says whether the MeshNode's condition Ready is true.
func Ready(n *v1alpha1.MeshNode) bool {
	return meta.IsStatusConditionTrue(n.Status.Conditions, v1alpha1.ConditionReady)
}

// badWhenTrue are the conditions that tell a fault by being true.
var badWhenTrue = []string{v1alpha1.ConditionExhausted, v1alpha1.ConditionConflict, v1alpha1.ConditionShrunk, v1alpha1.ConditionKubeProxyPresent}

// Holds says whether a condition is as it should be.
func Holds(c metav1.Condition) bool {
	if slices.Contains(badWhenTrue, c.Type) {
		return c.Status != metav1.ConditionTrue
	}
	return c.Status == metav1.ConditionTrue
}

func find[T any](list []T, match func(*T) bool) *T {
	for i := range list {
		if match(&list[i]) {
			return &list[i]
		}
	}
	return nil
}

// sort puts every list in the order of the names.
func (m *Mesh) sort() {
	slices.SortFunc(m.Nodes, func(a, b corev1.Node) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(m.MeshNodes, func(a, b v1alpha1.MeshNode) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(m.Pools, func(a, b v1alpha1.IPPool) int { return cmp.Compare(a.Name, b.Name) })
	slices.Sort(m.ServiceCIDRs)
}
