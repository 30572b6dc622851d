package policy

import (
	"fmt"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/source/policy/object"
)

// readers say how each kind is read.
func (s *Source) readers() {
	pool := &object.Pool{}
	s.pods = kindOf(s, func(p *corev1.Pod) (snapshot.NamespacedName, snapshot.Pod, bool) {
		v := object.Pod(p, pool)
		return v.Key(), v, s.matters(v)
	}, snapshot.Pod.Equal)
	s.namespaces = kindOf(s, func(n *corev1.Namespace) (string, snapshot.Namespace, bool) {
		return n.Name, object.Namespace(n, pool), true
	}, func(a, b snapshot.Namespace) bool { return a.Name == b.Name && a.Labels.Equal(b.Labels) })
	s.nodes = kindOf(s, func(n *corev1.Node) (string, snapshot.KubeNode, bool) {
		return n.Name, object.Node(n, pool), true
	}, equal[snapshot.KubeNode])
	s.policies = kindOf(s, func(p *networkingv1.NetworkPolicy) (snapshot.NamespacedName, snapshot.NetworkPolicy, bool) {
		v := object.NetworkPolicy(p)
		return v.Key(), v, true
	}, equal[snapshot.NetworkPolicy])
	s.cluster = kindOf(s, func(p *policyv1alpha2.ClusterNetworkPolicy) (string, snapshot.ClusterNetworkPolicy, bool) {
		return p.Name, object.ClusterNetworkPolicy(p), true
	}, equal[snapshot.ClusterNetworkPolicy])
	s.crds = kindOf(s, func(m *metav1.PartialObjectMetadata) (string, struct{}, bool) {
		return m.Name, struct{}{}, m.Name == crdName
	}, func(_, _ struct{}) bool { return true })
}

// equal compares what is read seldom.
func equal[V any](a, b V) bool { return reflect.DeepEqual(a, b) }

func kindOf[O any, K comparable, V any](s *Source, read func(O) (K, V, bool), equal func(a, b V) bool) kind[K, V] {
	return kind[K, V]{
		read: func(object any) (K, V, bool, error) {
			o, ok := object.(O)
			if !ok {
				var key K
				var value V
				return key, value, false, fmt.Errorf("read an object: unexpected type %T", object)
			}
			key, value, keep := read(o)
			return key, value, keep, nil
		},
		equal: equal, wake: s.wake, now: s.cfg.Now, line: line{wake: s.wake},
	}
}

// matters : a Pod that has ended has given its addresses back, and one with its node's addresses is
// no Pod to policies.
func (s *Source) matters(p snapshot.Pod) bool {
	return !p.Ended && !p.HostNetwork && (len(p.IPs) > 0 || p.Node == s.cfg.Node)
}
