//go:build e2e

package service

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weftnet/weftnet/test/harness"
)

// Ports of the probes, which are netexec of agnhost, and of the Services in front of them.
const (
	podTCP, podUDP = 8080, 8081
	portTCP        = 80
	portUDP        = 81
	namespace      = harness.ProbeNamespace
	// settle is how long a change may take to be in force on every node of a busy machine.
	settle = 90 * time.Second
)

var protocols = []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP}

func portOf(p corev1.Protocol) uint16 {
	if p == corev1.ProtocolUDP {
		return portUDP
	}
	return portTCP
}

// makeService makes a dual-stack Service of the probes, over TCP and UDP, as change says.
func makeService(t *testing.T, name string, change func(*corev1.ServiceSpec)) *corev1.Service {
	t.Helper()
	both := corev1.IPFamilyPolicyRequireDualStack
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, Spec: corev1.ServiceSpec{
		IPFamilyPolicy: &both, Selector: map[string]string{"app": "probe"},
		Ports: []corev1.ServicePort{
			{Name: "http", Port: portTCP, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(podTCP)},
			{Name: "udp", Port: portUDP, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(podUDP)},
		},
	}}
	if change != nil {
		change(&s.Spec)
	}
	made, err := cluster.Client.CoreV1().Services(namespace).Create(t.Context(), s, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := cluster.Client.CoreV1().Services(namespace).Delete(context.Background(), name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
	return made
}

// giveAddresses writes what a load balancer's controller would.
func giveAddresses(t *testing.T, s *corev1.Service, addrs []netip.Addr) {
	t.Helper()
	s.Status.LoadBalancer.Ingress = nil
	for _, a := range addrs {
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a.String()})
	}
	made, err := cluster.Client.CoreV1().Services(namespace).UpdateStatus(t.Context(), s, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	*s = *made
}

func clusterIPs(s *corev1.Service) []netip.Addr {
	var out []netip.Addr
	for _, ip := range s.Spec.ClusterIPs {
		out = append(out, netip.MustParseAddr(ip))
	}
	return out
}

func nodePort(s *corev1.Service, p corev1.Protocol) uint16 {
	i := slices.IndexFunc(s.Spec.Ports, func(port corev1.ServicePort) bool { return port.Protocol == p })
	return uint16(s.Spec.Ports[i].NodePort)
}

// setEndpoints makes exactly these Pods the endpoints of a Service that has no selector.
func setEndpoints(t *testing.T, service string, pods ...*corev1.Pod) {
	t.Helper()
	for i, family := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", service, i), Namespace: namespace, Labels: map[string]string{
				discoveryv1.LabelServiceName: service, discoveryv1.LabelManagedBy: "weftnet-e2e",
			}},
			AddressType: family,
			Ports:       []discoveryv1.EndpointPort{endpointPort("http", podTCP, corev1.ProtocolTCP), endpointPort("udp", podUDP, corev1.ProtocolUDP)},
		}
		for _, pod := range pods {
			ready, node := true, pod.Spec.NodeName
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{harness.Addresses(pod)[i].String()}, NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
			})
		}
		applySlice(t, slice)
	}
}

func endpointPort(name string, port int32, protocol corev1.Protocol) discoveryv1.EndpointPort {
	return discoveryv1.EndpointPort{Name: &name, Port: &port, Protocol: &protocol}
}

func applySlice(t *testing.T, slice *discoveryv1.EndpointSlice) {
	t.Helper()
	slices := cluster.Client.DiscoveryV1().EndpointSlices(namespace)
	_, err := slices.Update(t.Context(), slice, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = slices.Create(t.Context(), slice, metav1.CreateOptions{})
		t.Cleanup(func() { _ = slices.Delete(context.Background(), slice.Name, metav1.DeleteOptions{}) })
	}
	if err != nil {
		t.Fatal(err)
	}
}

// withoutSelector leaves the endpoints to the test.
func withoutSelector(s *corev1.ServiceSpec) { s.Selector = nil }

// eventually polls a condition.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	if err := harness.Eventually(t.Context(), settle, what, func(context.Context) error { return check() }); err != nil {
		t.Error(err)
	}
}

// reaches waits until the answers to a request come from exactly these Pods, each of them at least once.
func reaches(t *testing.T, from place, protocol corev1.Protocol, to netip.AddrPort, pods ...*corev1.Pod) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s reaches %s %s", from.name, protocol, to), func() error {
		seen := map[string]bool{}
		for range 10 * len(pods) {
			who, err := from.ask(t, protocol, to, "hostname")
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return p.Name == who }) {
				return fmt.Errorf("%q answered, which is none of its endpoints", who)
			}
			seen[who] = true
		}
		if len(seen) != len(pods) {
			return fmt.Errorf("only %v of %d endpoints answered", seen, len(pods))
		}
		return nil
	})
}

// fails waits until a request fails as it should, over TCP three times in a row. Over UDP once: what
// refuses is an ICMP message, and the kernel sends few of them to one address (net.ipv4.icmp_ratelimit).
func fails(t *testing.T, from place, protocol corev1.Protocol, to netip.AddrPort, how func(error) bool, name string) {
	t.Helper()
	times := map[corev1.Protocol]int{corev1.ProtocolTCP: 3, corev1.ProtocolUDP: 1}[protocol]
	eventually(t, fmt.Sprintf("%s, %s %s is %s", from.name, protocol, to, name), func() error {
		for range times {
			if who, err := from.ask(t, protocol, to, "hostname"); err == nil {
				return fmt.Errorf("%s answered", who)
			} else if !how(err) {
				return fmt.Errorf("it is not %s: %w", name, err)
			}
		}
		return nil
	})
}

// isSeenAs waits until the far side sees a request coming from one of these addresses.
func isSeenAs(t *testing.T, from place, protocol corev1.Protocol, to netip.AddrPort, want ...netip.Addr) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s is seen at %s %s as %v", from.name, protocol, to, want), func() error {
		answer, err := from.ask(t, protocol, to, "clientip")
		if err != nil {
			return err
		}
		seen, err := netip.ParseAddrPort(answer)
		if err != nil {
			return err
		}
		if !slices.Contains(want, seen.Addr().Unmap()) {
			return fmt.Errorf("it is seen as %s", seen)
		}
		return nil
	})
}

func deleteService(t *testing.T, name string) {
	t.Helper()
	if err := cluster.Client.CoreV1().Services(namespace).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// fault runs one of the testbed's faults and heals all of them when the test ends.
func fault(t *testing.T, args ...string) {
	t.Helper()
	t.Cleanup(func() { heal(t) })
	if _, err := cluster.Testbed(t.Context(), append([]string{"fault"}, args...)...); err != nil {
		t.Fatal(err)
	}
}

func heal(t *testing.T) {
	t.Helper()
	if _, err := cluster.Testbed(context.Background(), "fault", "heal", "--all"); err != nil {
		t.Error(err)
	}
}
