//go:build e2e

package service

import (
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// Addresses from the ranges for documentation, which no host of the testbed has.
var (
	loadBalancerIPs = []netip.Addr{netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("2001:db8:1::10")}
	externalIPs     = []netip.Addr{netip.MustParseAddr("198.51.100.20"), netip.MustParseAddr("2001:db8:2::20")}
)

// insiders stand in a Pod and on a node, of the same node as one endpoint and of another.
func insiders(t *testing.T) []place {
	t.Helper()
	return []place{podPlace(t, &probes.Pods[0]), podPlace(t, &probes.Pods[2]), nodePlace(t, 0), nodePlace(t, 1)}
}

func allPods() []*corev1.Pod { return []*corev1.Pod{&probes.Pods[0], &probes.Pods[1], &probes.Pods[2]} }

// way is an address of a Service.
type way struct {
	name string
	to   func(family int, p corev1.Protocol) netip.AddrPort
}

func ways(s *corev1.Service) []way {
	at := func(addrs []netip.Addr) func(int, corev1.Protocol) netip.AddrPort {
		return func(family int, p corev1.Protocol) netip.AddrPort {
			return netip.AddrPortFrom(addrs[family], portOf(p))
		}
	}
	out := []way{
		{"ClusterIP", at(clusterIPs(s))}, {"load balancer", at(loadBalancerIPs)}, {"external IP", at(externalIPs)},
	}
	for i := range probes.Hosts {
		out = append(out, way{fmt.Sprintf("NodePort of node %d", i+1), func(family int, p corev1.Protocol) netip.AddrPort {
			return netip.AddrPortFrom(nodeAddrs(i)[family], nodePort(s, p))
		}})
	}
	return out
}

// TestEveryWayIn has one Service with every kind of address, and asks each from everywhere.
func TestEveryWayIn(t *testing.T) {
	s := makeService(t, "every-way", func(spec *corev1.ServiceSpec) {
		spec.Type = corev1.ServiceTypeLoadBalancer
		for _, a := range externalIPs {
			spec.ExternalIPs = append(spec.ExternalIPs, a.String())
		}
	})
	giveAddresses(t, s, loadBalancerIPs)
	outside := outsidePlace(t, 1)
	for family := range 2 {
		outside.route(t, loadBalancerIPs[family], nodeAddrs(0)[family])
		outside.route(t, externalIPs[family], nodeAddrs(1)[family])
	}
	for _, from := range append(insiders(t), outside) {
		for _, way := range ways(s) {
			if from.name == outside.name && way.name == "ClusterIP" {
				continue // it has no route there
			}
			for family := range 2 {
				for _, protocol := range protocols {
					reaches(t, from, protocol, way.to(family, protocol), allPods()...)
				}
			}
		}
	}
}

// TestClientAddressIsKeptInTheCluster : no Pod is hidden behind its node on its way through a ClusterIP.
func TestClientAddressIsKeptInTheCluster(t *testing.T) {
	s := makeService(t, "client-address", withoutSelector)
	setEndpoints(t, s.Name, &probes.Pods[1])
	for _, from := range []place{podPlace(t, &probes.Pods[0]), podPlace(t, &probes.Pods[2])} {
		for family, ip := range clusterIPs(s) {
			for _, protocol := range protocols {
				isSeenAs(t, from, protocol, netip.AddrPortFrom(ip, portOf(protocol)), from.addrs[family])
			}
		}
	}
}

// TestHairpin : a Pod that is the only endpoint of a Service reaches itself by all of its addresses,
// and so does a node whose own network is the endpoint's.
func TestHairpin(t *testing.T) {
	s := makeService(t, "hairpin", func(spec *corev1.ServiceSpec) {
		spec.Selector, spec.Type = nil, corev1.ServiceTypeLoadBalancer
		for _, a := range externalIPs {
			spec.ExternalIPs = append(spec.ExternalIPs, a.String())
		}
	})
	giveAddresses(t, s, loadBalancerIPs)
	pod := &probes.Pods[1]
	setEndpoints(t, s.Name, pod)
	from := podPlace(t, pod)
	for _, way := range ways(s) {
		for family := range 2 {
			for _, protocol := range protocols {
				reaches(t, from, protocol, way.to(family, protocol), pod)
			}
		}
	}
}
