package cyclonus

import (
	"fmt"
	"math/rand/v2"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weftnet/weftnet/agent/snapshot"
)

// random makes NetworkPolicies that hit something in the cluster.
type random struct {
	*rand.Rand
	format string
}

func (r random) oneIn(n int) bool { return r.IntN(n) == 0 }

func pick[T any](r random, from ...T) T { return from[r.IntN(len(from))] }

// selector matches on labels that all Pods or namespaces have: cyclonus takes NotIn for a mismatch
// where the label is missing, and Kubernetes takes it for a match.
func (r random) selector(key string, values []string) *metav1.LabelSelector {
	s := &metav1.LabelSelector{}
	if r.oneIn(3) {
		s.MatchLabels = map[string]string{key: pick(r, values...)}
	}
	if r.oneIn(3) {
		x := metav1.LabelSelectorRequirement{Key: key, Operator: pick(r, metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn)}
		x.Values = []string{pick(r, values...), pick(r, values...)}
		if r.oneIn(4) {
			x = metav1.LabelSelectorRequirement{Key: pick(r, key, "other"), Operator: pick(r, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist)}
		}
		s.MatchExpressions = append(s.MatchExpressions, x)
	}
	return s
}

func (r random) block() *networkingv1.IPBlock {
	pod := func(bits int) string { return fmt.Sprintf(r.format+"/%d", 8+r.IntN(12), bits) }
	whole, half, one := "10.244.0.0/16", 28+r.IntN(4), 32
	if r.format == families[1] {
		whole, half, one = "fd00:244::/32", 124+r.IntN(4), 128
	}
	b := &networkingv1.IPBlock{CIDR: pick(r, whole, pod(half), pod(one))}
	for range r.IntN(3) {
		b.Except = append(b.Except, pick(r, pod(half), pod(one)))
	}
	return b
}

func (r random) peers() []networkingv1.NetworkPolicyPeer {
	var out []networkingv1.NetworkPolicyPeer
	for range r.IntN(3) {
		p := networkingv1.NetworkPolicyPeer{}
		switch r.IntN(4) {
		case 0:
			p.IPBlock = r.block()
		case 1:
			p.PodSelector = r.selector("pod", podNames)
		case 2:
			p.NamespaceSelector = r.selector("ns", namespaceNames)
		default:
			p.PodSelector, p.NamespaceSelector = r.selector("pod", podNames), r.selector("ns", namespaceNames)
		}
		out = append(out, p)
	}
	return out
}

func (r random) ports() []networkingv1.NetworkPolicyPort {
	var out []networkingv1.NetworkPolicyPort
	for range r.IntN(3) {
		protocol := pick(r, transports...)
		p := networkingv1.NetworkPolicyPort{Protocol: &protocol}
		switch r.IntN(5) {
		case 0, 1:
			n := intstr.FromInt32(int32(79 + r.IntN(3)))
			p.Port = &n
		case 2:
			n, end := intstr.FromInt32(int32(79+r.IntN(3))), int32(80+r.IntN(3))
			p.Port, p.EndPort = &n, &end
			if end < n.IntVal {
				p.EndPort = &n.IntVal
			}
		case 3:
			n := intstr.FromString(fmt.Sprintf("serve-%d-%s", pick(r, ports...), pick(r, "tcp", "udp", "sctp")))
			p.Port = &n
		}
		out = append(out, p)
	}
	return out
}

func (r random) policy(i int) *networkingv1.NetworkPolicy {
	np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: pick(r, namespaceNames...), Name: fmt.Sprintf("np%d", i)}}
	np.Spec.PodSelector = *r.selector("pod", podNames)
	np.Spec.PolicyTypes = pick(r, []networkingv1.PolicyType{"Ingress"}, []networkingv1.PolicyType{"Egress"}, []networkingv1.PolicyType{"Ingress", "Egress"})
	for range r.IntN(3) {
		np.Spec.Ingress = append(np.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: r.peers(), Ports: r.ports()})
	}
	for range r.IntN(3) {
		np.Spec.Egress = append(np.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: r.peers(), Ports: r.ports()})
	}
	return np
}

// TestRandomPolicies compares on policies that nobody has thought of.
func TestRandomPolicies(t *testing.T) {
	verdicts, denied := 0, 0
	for seed := range uint64(600) {
		r := random{rand.New(rand.NewPCG(seed, 1)), families[seed%2]}
		c := newCluster(r.format)
		for i := range 1 + r.IntN(5) {
			np := r.policy(i)
			c.policies[snapshot.NamespacedName{Namespace: np.Namespace, Name: np.Name}] = np
		}
		v, d := c.compare(t, fmt.Sprintf("seed %d", seed))
		verdicts, denied = verdicts+v, denied+d
	}
	t.Logf("%d verdicts, %d of them denied", verdicts, denied)
	if denied < verdicts/20 || denied > verdicts*19/20 {
		t.Error("the policies are too dull")
	}
}
