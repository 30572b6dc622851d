//go:build e2e

package service

import (
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weftnet/test/harness"
)

// member is an endpoint as EndpointSlices tell of it.
type member struct {
	pod                         *corev1.Pod
	ready, serving, terminating bool
	zones, nodes                []string
	// tcp is its port, which it has alone; 0 stands for those of the probes, of TCP and UDP.
	tcp int32
}

func isReady(pod *corev1.Pod) member { return member{pod: pod, ready: true, serving: true} }

// ends is about to go, and serves until then.
func ends(pod *corev1.Pod) member { return member{pod: pod, serving: true, terminating: true} }

func (m member) endpoint(family int) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{
		Addresses: []string{harness.Addresses(m.pod)[family].String()}, NodeName: &m.pod.Spec.NodeName,
		Conditions: discoveryv1.EndpointConditions{Ready: &m.ready, Serving: &m.serving, Terminating: &m.terminating},
	}
	if len(m.zones)+len(m.nodes) > 0 {
		e.Hints = &discoveryv1.EndpointHints{}
	}
	for _, z := range m.zones {
		e.Hints.ForZones = append(e.Hints.ForZones, discoveryv1.ForZone{Name: z})
	}
	for _, n := range m.nodes {
		e.Hints.ForNodes = append(e.Hints.ForNodes, discoveryv1.ForNode{Name: n})
	}
	return e
}

// setMembers makes these the endpoints of a Service that has no selector, each in a slice of its own, as
// those of different port numbers are; slots are how many there are at most in the test.
func setMembers(t *testing.T, service string, slots int, members ...member) {
	t.Helper()
	for i, kind := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
		for n := range slots {
			var m member
			if n < len(members) {
				m = members[n]
			}
			ports := []discoveryv1.EndpointPort{endpointPort("http", podTCP, corev1.ProtocolTCP), endpointPort("udp", podUDP, corev1.ProtocolUDP)}
			if m.tcp != 0 {
				ports = []discoveryv1.EndpointPort{endpointPort("http", m.tcp, corev1.ProtocolTCP)}
			}
			slice := &discoveryv1.EndpointSlice{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d-%d", service, i, n), Namespace: namespace, Labels: map[string]string{
					discoveryv1.LabelServiceName: service, discoveryv1.LabelManagedBy: "weftnet-e2e",
				}},
				AddressType: kind,
				Ports:       ports,
			}
			if m.pod != nil {
				slice.Endpoints = []discoveryv1.Endpoint{m.endpoint(i)}
			}
			applySlice(t, slice)
		}
	}
}

// eachWay calls f for each family and protocol.
func eachWay(f func(family int, protocol corev1.Protocol)) {
	for family := range 2 {
		for _, protocol := range protocols {
			f(family, protocol)
		}
	}
}

// TestTerminatingEndpointsAreTheLastResort : those that serve until they end take connections where no other
// does, for each policy by itself; one that serves no more takes none.
func TestTerminatingEndpointsAreTheLastResort(t *testing.T) {
	local := corev1.ServiceInternalTrafficPolicyLocal
	s := makeService(t, "last-resort", func(spec *corev1.ServiceSpec) {
		spec.Selector, spec.Type = nil, corev1.ServiceTypeNodePort
		spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	})
	inside := makeService(t, "last-resort-inside", func(spec *corev1.ServiceSpec) { spec.Selector, spec.InternalTrafficPolicy = nil, &local })
	one, two := &probes.Pods[0], &probes.Pods[1]
	become := func(members ...member) {
		setMembers(t, s.Name, 2, members...)
		setMembers(t, inside.Name, 2, members...)
	}
	outside, pod, other := outsidePlace(t, 1), podPlace(t, &probes.Pods[0]), podPlace(t, &probes.Pods[2])
	at := func(s *corev1.Service, family int, protocol corev1.Protocol) netip.AddrPort {
		return netip.AddrPortFrom(clusterIPs(s)[family], portOf(protocol))
	}
	port := func(node, family int, protocol corev1.Protocol) netip.AddrPort {
		return netip.AddrPortFrom(nodeAddrs(node)[family], nodePort(s, protocol))
	}
	become(ends(one), isReady(two))
	eachWay(func(family int, protocol corev1.Protocol) {
		reaches(t, other, protocol, at(s, family, protocol), two)
		reaches(t, outside, protocol, port(0, family, protocol), one) // the only one there
		reaches(t, outside, protocol, port(1, family, protocol), two)
		reaches(t, pod, protocol, at(inside, family, protocol), one)
	})
	for family := range 2 {
		fails(t, outside, corev1.ProtocolTCP, port(2, family, corev1.ProtocolTCP), dropped, "dropped")
		fails(t, other, corev1.ProtocolTCP, at(inside, family, corev1.ProtocolTCP), dropped, "dropped")
	}
	become(ends(one), ends(two))
	eachWay(func(family int, protocol corev1.Protocol) {
		reaches(t, other, protocol, at(s, family, protocol), one, two)
		reaches(t, outside, protocol, port(0, family, protocol), one)
	})
	become(member{pod: one, terminating: true}, member{pod: two})
	eachWay(func(family int, protocol corev1.Protocol) {
		fails(t, other, protocol, at(s, family, protocol), refused, "refused")
		fails(t, pod, protocol, at(inside, family, protocol), refused, "refused")
	})
}

// TestNamedPortsAndPublishedPods : a port's name stands for another number in each slice, endpoints of a
// node's own network among them; and with publishNotReadyAddresses one that is not ready is said to be.
func TestNamedPortsAndPublishedPods(t *testing.T) {
	s := makeService(t, "named", func(spec *corev1.ServiceSpec) { spec.Selector, spec.PublishNotReadyAddresses = nil, true })
	host := &probes.Hosts[1]
	setMembers(t, s.Name, 2, member{pod: &probes.Pods[0], ready: true}, member{pod: host, ready: true, serving: true, tcp: 18080})
	for _, from := range []place{podPlace(t, &probes.Pods[2]), nodePlace(t, 0)} {
		for family := range 2 {
			reaches(t, from, corev1.ProtocolUDP, netip.AddrPortFrom(clusterIPs(s)[family], portUDP), &probes.Pods[0])
			to := netip.AddrPortFrom(clusterIPs(s)[family], portTCP)
			eventually(t, fmt.Sprintf("%s reaches both behind %s", from.name, to), func() error {
				seen := map[string]bool{}
				for range 20 {
					who, err := from.ask(t, corev1.ProtocolTCP, to, "hostname")
					if err != nil {
						return err
					}
					if seen[who] = true; len(seen) == 2 {
						break
					}
				}
				if !seen[probes.Pods[0].Name] || !seen[host.Spec.NodeName] || len(seen) != 2 {
					return fmt.Errorf("those that answered are %v", seen)
				}
				return nil
			})
		}
	}
}

// TestHintsAreFollowed : with hints for nodes each place asks the endpoint of its own; where one lacks them,
// those for zones count, which these nodes have none of, so that all endpoints do.
func TestHintsAreFollowed(t *testing.T) {
	s := makeService(t, "hints", withoutSelector)
	hinted := func(n int) member {
		m := isReady(&probes.Pods[n])
		m.nodes = []string{m.pod.Spec.NodeName}
		return m
	}
	places := []place{podPlace(t, &probes.Pods[0]), podPlace(t, &probes.Pods[1]), nodePlace(t, 2)}
	check := func(want func(n int) []*corev1.Pod) {
		for n, from := range places {
			eachWay(func(family int, protocol corev1.Protocol) {
				reaches(t, from, protocol, netip.AddrPortFrom(clusterIPs(s)[family], portOf(protocol)), want(n)...)
			})
		}
	}
	setMembers(t, s.Name, 3, hinted(0), hinted(1), hinted(2))
	check(func(n int) []*corev1.Pod { return []*corev1.Pod{&probes.Pods[n]} })
	two := hinted(1)
	two.nodes = []string{probes.Pods[2].Spec.NodeName}
	setMembers(t, s.Name, 3, hinted(0), two)
	check(func(n int) []*corev1.Pod {
		return [][]*corev1.Pod{{&probes.Pods[0]}, {&probes.Pods[0], &probes.Pods[1]}, {&probes.Pods[1]}}[n]
	})
	setMembers(t, s.Name, 3, hinted(0), hinted(1), isReady(&probes.Pods[2]))
	check(func(int) []*corev1.Pod { return allPods() })
}

// TestUDPStaysForTheLastAnswers : a socket goes on with an endpoint that is about to end, though new ones go
// to another, and comes to that one when the first is gone.
func TestUDPStaysForTheLastAnswers(t *testing.T) {
	s := makeService(t, "last-answers", func(spec *corev1.ServiceSpec) { spec.Selector, spec.Type = nil, corev1.ServiceTypeNodePort })
	one, two := &probes.Pods[1], &probes.Pods[2]
	setMembers(t, s.Name, 2, isReady(one))
	var sockets []*socket
	for family := range 2 {
		cluster := netip.AddrPortFrom(clusterIPs(s)[family], portUDP)
		sockets = append(sockets, open(t, podPlace(t, &probes.Pods[0]), cluster), open(t, nodePlace(t, 0), cluster),
			open(t, outsidePlace(t, 1+family), netip.AddrPortFrom(nodeAddrs(0)[family], nodePort(s, corev1.ProtocolUDP))))
	}
	all := func(step string, pod *corev1.Pod) {
		for _, k := range sockets {
			k.follows(t, step, []*corev1.Pod{pod})
		}
	}
	all("one", one)
	setMembers(t, s.Name, 2, ends(one), isReady(two))
	for family := range 2 { // until this is in force everywhere
		for _, from := range []place{podPlace(t, &probes.Pods[0]), outsidePlace(t, 3+family)} {
			reaches(t, from, corev1.ProtocolUDP, netip.AddrPortFrom(nodeAddrs(0)[family], nodePort(s, corev1.ProtocolUDP)), two)
		}
	}
	all("the first, about to end,", one)
	setMembers(t, s.Name, 2, isReady(two))
	all("the other", two)
}
