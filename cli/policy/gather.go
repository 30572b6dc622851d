package policy

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/source/policy/object"
	"github.com/weftnet/weftnet/crds/v1alpha1"
)

// Gather reads from the API what answers depend on.
func Gather(ctx context.Context, c client.Client) (Cluster, error) {
	var out Cluster
	var pods corev1.PodList
	var namespaces corev1.NamespaceList
	var nodes corev1.NodeList
	var services corev1.ServiceList
	var policies networkingv1.NetworkPolicyList
	var meshNodes v1alpha1.MeshNodeList
	for _, list := range []client.ObjectList{&pods, &namespaces, &nodes, &services, &policies, &meshNodes} {
		if err := c.List(ctx, list); err != nil && !meta.IsNoMatchError(err) {
			return out, fmt.Errorf("list %T: %w", list, err)
		}
	}
	var cluster policyv1alpha2.ClusterNetworkPolicyList
	if err := c.List(ctx, &cluster); err != nil && !meta.IsNoMatchError(err) {
		return out, fmt.Errorf("list ClusterNetworkPolicies: %w", err)
	}
	pool := &object.Pool{}
	for i := range pods.Items {
		out.Pods = append(out.Pods, object.Pod(&pods.Items[i], pool))
	}
	for i := range namespaces.Items {
		out.Namespaces = append(out.Namespaces, object.Namespace(&namespaces.Items[i], pool))
	}
	for i := range policies.Items {
		out.NetworkPolicies = append(out.NetworkPolicies, object.NetworkPolicy(&policies.Items[i]))
	}
	for i := range cluster.Items {
		out.ClusterNetworkPolicies = append(out.ClusterNetworkPolicies, object.ClusterNetworkPolicy(&cluster.Items[i]))
	}
	out.Nodes = nodesOf(nodes, meshNodes, pool)
	out.Services = addressesOf(services)
	return out, nil
}

func nodesOf(nodes corev1.NodeList, meshNodes v1alpha1.MeshNodeList, pool *object.Pool) []snapshot.KubeNode {
	mesh := map[string][]netip.Addr{}
	for _, m := range meshNodes.Items {
		for _, text := range m.Spec.MeshIPs {
			if a, err := netip.ParseAddr(text); err == nil {
				mesh[m.Name] = append(mesh[m.Name], a)
			}
		}
	}
	var out []snapshot.KubeNode
	for i := range nodes.Items {
		n := object.Node(&nodes.Items[i], pool)
		n.MeshIPs = mesh[n.Name]
		out = append(out, n)
	}
	return out
}

func addressesOf(services corev1.ServiceList) map[netip.Addr]string {
	out := map[netip.Addr]string{}
	for _, s := range services.Items {
		for _, text := range s.Spec.ClusterIPs {
			if a, err := netip.ParseAddr(text); err == nil {
				out[a] = s.Namespace + "/" + s.Name
			}
		}
	}
	return out
}
