//go:build e2e

package service

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestNoEndpointIsRefused : at once, by every address, from everywhere; and once there is an endpoint,
// it answers.
func TestNoEndpointIsRefused(t *testing.T) {
	s := makeService(t, "empty", func(spec *corev1.ServiceSpec) {
		spec.Selector, spec.Type = nil, corev1.ServiceTypeLoadBalancer
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
	froms := append(insiders(t), outside)
	each := func(f func(from place, protocol corev1.Protocol, to netip.AddrPort)) {
		for _, from := range froms {
			for _, way := range ways(s) {
				if from.name == outside.name && way.name == "ClusterIP" {
					continue
				}
				for family := range 2 {
					for _, protocol := range protocols {
						f(from, protocol, way.to(family, protocol))
					}
				}
			}
		}
	}
	each(func(from place, protocol corev1.Protocol, to netip.AddrPort) {
		fails(t, from, protocol, to, refused, "refused")
	})
	setEndpoints(t, s.Name, &probes.Pods[1])
	each(func(from place, protocol corev1.Protocol, to netip.AddrPort) {
		reaches(t, from, protocol, to, &probes.Pods[1])
	})
	setEndpoints(t, s.Name)
	each(func(from place, protocol corev1.Protocol, to netip.AddrPort) {
		fails(t, from, protocol, to, refused, "refused")
	})
}

// TestUnknownPortAndAddress : a port that the Service does not have is refused, a Service address that
// nobody has is dropped.
func TestUnknownPortAndAddress(t *testing.T) {
	s := makeService(t, "known", nil)
	for _, from := range insiders(t) {
		for _, ip := range clusterIPs(s) {
			for _, protocol := range protocols {
				reaches(t, from, protocol, netip.AddrPortFrom(ip, portOf(protocol)), allPods()...)
				fails(t, from, protocol, netip.AddrPortFrom(ip, 4711), refused, "refused")
			}
		}
	}
	gone := makeService(t, "gone", nil)
	free := clusterIPs(gone)
	deleteService(t, gone.Name)
	for _, from := range insiders(t) {
		for _, ip := range free {
			for _, protocol := range protocols {
				fails(t, from, protocol, netip.AddrPortFrom(ip, portOf(protocol)), dropped, "dropped")
			}
		}
	}
}
