//go:build e2e

package policy

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weftnet/weftnet/test/harness"
)

// entry is a Service in front of the stage's server: one port that its policy opens, and one that it does not.
type entry struct {
	cluster, node []netip.Addr
	// open and shut are the ports that every address of the Service has, openNode and shutNode those of the node.
	open, shut, openNode, shutNode int32
}

func (s stage) entry(t *testing.T) entry {
	t.Helper()
	both := corev1.IPFamilyPolicyRequireDualStack
	port := func(name string, number int32) corev1.ServicePort {
		return corev1.ServicePort{Name: name, Port: number, TargetPort: intstr.FromInt32(number)}
	}
	services := cluster.Client.CoreV1().Services(s.namespace)
	made, err := services.Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "server"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, Selector: map[string]string{"app": "silent"}, IPFamilyPolicy: &both,
			// The server shall see who asks: otherwise the node's own address stands for everybody.
			ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal,
			Ports:                 []corev1.ServicePort{port("open", firstPort), port("shut", lastPort+1)},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = services.Delete(context.Background(), made.Name, metav1.DeleteOptions{}) })
	e := entry{open: firstPort, shut: lastPort + 1, openNode: made.Spec.Ports[0].NodePort, shutNode: made.Spec.Ports[1].NodePort}
	for _, ip := range made.Spec.ClusterIPs {
		e.cluster = append(e.cluster, netip.MustParseAddr(ip))
	}
	for i := range probes.Hosts {
		if probes.Hosts[i].Spec.NodeName == nodeName(1) {
			e.node = harness.Addresses(&probes.Hosts[i])
		}
	}
	if len(e.cluster) != 2 || len(e.node) != 2 {
		t.Fatalf("the Service has the addresses %v, its node %v: want one of each family", e.cluster, e.node)
	}
	return e
}

// TestThroughServices : a policy means the same through a ClusterIP and a NodePort, for Pods of this and another
// node and for a host outside; and a Pod always reaches itself.
func TestThroughServices(t *testing.T) {
	s := newStage(t)
	e := s.entry(t)
	for _, client := range s.clients {
		where := "a Pod on " + client.pod.Spec.NodeName
		eventually(t, where+" connects through the ClusterIP where it may", func() error { return connects(t, client.Namespace, at(e.cluster, e.open)...) })
		eventually(t, where+" connects through the NodePort where it may", func() error { return connects(t, client.Namespace, at(e.node, e.openNode)...) })
		if err := refused(t, client.Namespace, append(at(e.cluster, e.shut), at(e.node, e.shutNode)...)...); err != nil {
			t.Errorf("%s, where it may not: %v", where, err)
		}
	}
	eventually(t, "the Pod connects to itself through its Service", func() error { return connects(t, s.server.Namespace, at(e.cluster, e.shut)...) })

	host := outsideHost(t, 3)
	if err := refused(t, host.Namespace, append(at(e.node, e.openNode), at(e.node, e.shutNode)...)...); err != nil {
		t.Errorf("from outside, which no policy allows: %v", err)
	}
	makePolicy(t, s.namespace, ingressPolicy("outside", networkingv1.NetworkPolicyIngressRule{From: host.peers(), Ports: portRange(firstPort, firstPort)}))
	eventually(t, "from outside where a policy allows it by the host's own address", func() error {
		if err := connects(t, host.Namespace, at(e.node, e.openNode)...); err != nil {
			return fmt.Errorf("through the NodePort: %w", err)
		}
		return nil
	})
	if err := refused(t, host.Namespace, at(e.node, e.shutNode)...); err != nil {
		t.Errorf("from outside at a port that the policy does not name: %v", err)
	}
}
