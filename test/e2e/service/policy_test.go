//go:build e2e

package service

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestExternalPolicyLocal : a client outside is seen with its own address where an endpoint is, and
// dropped where none is; Pods and nodes reach the load balancer's address from everywhere.
func TestExternalPolicyLocal(t *testing.T) {
	s := makeService(t, "external-local", func(spec *corev1.ServiceSpec) {
		spec.Selector, spec.Type = nil, corev1.ServiceTypeLoadBalancer
		spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	})
	giveAddresses(t, s, loadBalancerIPs)
	pod := &probes.Pods[1]
	setEndpoints(t, s.Name, pod)
	there, elsewhere := outsidePlace(t, 1), outsidePlace(t, 2)
	for family := range 2 {
		there.route(t, loadBalancerIPs[family], nodeAddrs(1)[family])
		elsewhere.route(t, loadBalancerIPs[family], nodeAddrs(0)[family])
	}
	for family := range 2 {
		for _, protocol := range protocols {
			balancer := netip.AddrPortFrom(loadBalancerIPs[family], portOf(protocol))
			port := nodePort(s, protocol)
			isSeenAs(t, there, protocol, netip.AddrPortFrom(nodeAddrs(1)[family], port), there.addrs[family])
			isSeenAs(t, there, protocol, balancer, there.addrs[family])
			fails(t, there, protocol, netip.AddrPortFrom(nodeAddrs(0)[family], port), dropped, "dropped")
			fails(t, elsewhere, protocol, balancer, dropped, "dropped")
			for _, from := range insiders(t) {
				reaches(t, from, protocol, balancer, pod)
			}
		}
	}
	for number, want := range []int{0, 1, 0} {
		health(t, there, s, number, want)
	}
}

// health asks the health check node port, which answers as kube-proxy's does.
func health(t *testing.T, from place, s *corev1.Service, node, want int) {
	t.Helper()
	for _, addr := range nodeAddrs(node) {
		to := netip.AddrPortFrom(addr, uint16(s.Spec.HealthCheckNodePort))
		eventually(t, fmt.Sprintf("the health check of node %d tells %d local endpoints", node+1, want), func() error {
			body, err := from.ask(t, corev1.ProtocolTCP, to, "healthz")
			if want == 0 {
				if err == nil || err.Error() != `answered "HTTP/1.0 503 Service Unavailable"` {
					return fmt.Errorf("%s without a local endpoint: %q, %w", to, body, err)
				}
				return nil
			}
			if err != nil {
				return err
			}
			var answer struct {
				Service        struct{ Namespace, Name string }
				LocalEndpoints int
			}
			if err := json.Unmarshal([]byte(body), &answer); err != nil {
				return fmt.Errorf("%s answered %q: %w", to, body, err)
			}
			if answer.LocalEndpoints != want || answer.Service.Name != s.Name || answer.Service.Namespace != namespace {
				return fmt.Errorf("%s answered %q", to, body)
			}
			return nil
		})
	}
}

// TestInternalPolicyLocal : only endpoints of the client's own node, and nothing where there is none.
func TestInternalPolicyLocal(t *testing.T) {
	local := corev1.ServiceInternalTrafficPolicyLocal
	s := makeService(t, "internal-local", func(spec *corev1.ServiceSpec) { spec.Selector, spec.InternalTrafficPolicy = nil, &local })
	setEndpoints(t, s.Name, &probes.Pods[0], &probes.Pods[1])
	for _, ip := range clusterIPs(s) {
		for _, protocol := range protocols {
			to := netip.AddrPortFrom(ip, portOf(protocol))
			reaches(t, podPlace(t, &probes.Pods[0]), protocol, to, &probes.Pods[0])
			reaches(t, nodePlace(t, 1), protocol, to, &probes.Pods[1])
			fails(t, podPlace(t, &probes.Pods[2]), protocol, to, dropped, "dropped")
		}
	}
}

// TestAffinity : a client stays with its endpoint, by ClusterIP, by NodePort and by a load balancer's address,
// and another client need not share it.
func TestAffinity(t *testing.T) {
	s := makeService(t, "affinity", func(spec *corev1.ServiceSpec) {
		spec.Type, spec.SessionAffinity = corev1.ServiceTypeLoadBalancer, corev1.ServiceAffinityClientIP
	})
	giveAddresses(t, s, loadBalancerIPs)
	for family, ip := range clusterIPs(s) {
		for _, protocol := range protocols {
			cluster, outer := netip.AddrPortFrom(ip, portOf(protocol)), netip.AddrPortFrom(nodeAddrs(0)[family], nodePort(s, protocol))
			stays(t, podPlace(t, &probes.Pods[0]), protocol, cluster)
			stays(t, nodePlace(t, 1), protocol, cluster)
			stays(t, podPlace(t, &probes.Pods[2]), protocol, outer)
		}
	}
	outside := outsidePlace(t, 1)
	for family := range 2 {
		outside.route(t, loadBalancerIPs[family], nodeAddrs(1)[family])
		stays(t, outside, corev1.ProtocolTCP, netip.AddrPortFrom(nodeAddrs(2)[family], nodePort(s, corev1.ProtocolTCP)))
		for _, from := range []place{outside, podPlace(t, &probes.Pods[0])} {
			stays(t, from, corev1.ProtocolTCP, netip.AddrPortFrom(loadBalancerIPs[family], portTCP))
		}
	}
}

func stays(t *testing.T, from place, protocol corev1.Protocol, to netip.AddrPort) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s stays with one endpoint of %s %s", from.name, protocol, to), func() error {
		first := ""
		for range 15 { // by chance alone: 3 to the power of -14
			who, err := from.ask(t, protocol, to, "hostname")
			if err != nil {
				return err
			}
			if first == "" {
				first = who
			}
			if who != first {
				return fmt.Errorf("%s answered after %s", who, first)
			}
		}
		return nil
	})
}

// TestSourceRanges : an address of a load balancer answers those who may, and drops the rest.
func TestSourceRanges(t *testing.T) {
	may, mayNot := outsidePlace(t, 1), outsidePlace(t, 2)
	s := makeService(t, "ranges", func(spec *corev1.ServiceSpec) {
		spec.Type = corev1.ServiceTypeLoadBalancer
		for _, a := range may.addrs {
			spec.LoadBalancerSourceRanges = append(spec.LoadBalancerSourceRanges, netip.PrefixFrom(a, a.BitLen()).String())
		}
	})
	giveAddresses(t, s, loadBalancerIPs)
	for family := range 2 {
		for _, protocol := range protocols {
			to := netip.AddrPortFrom(loadBalancerIPs[family], portOf(protocol))
			for _, p := range []place{may, mayNot} {
				p.route(t, loadBalancerIPs[family], nodeAddrs(1)[family])
			}
			reaches(t, may, protocol, to, allPods()...)
			fails(t, mayNot, protocol, to, dropped, "dropped")
			// The NodePort is not the load balancer's address.
			reaches(t, mayNot, protocol, netip.AddrPortFrom(nodeAddrs(1)[family], nodePort(s, protocol)), allPods()...)
		}
	}
}
