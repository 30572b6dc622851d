//go:build linux && bench

package samenode

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weftnet/weftnet/test/bench/lab"
	"github.com/weftnet/weftnet/test/harness"
)

// serviceCount is that of a small cluster. What is measured goes to no Service, and both proxies look addresses up in maps.
const serviceCount = 20

// createServices makes Services of both families with two endpoints of each, on another node, and returns their cluster IPs.
func createServices(t *testing.T, l *lab.Lab) (addresses []netip.Addr) {
	t.Helper()
	dual := corev1.IPFamilyPolicyRequireDualStack
	_, last := lab.Blocks(1) // the endpoints come behind the node's own addresses
	for number := range serviceCount {
		// Three digits each, so that no address is the beginning of another.
		ips := []string{fmt.Sprintf("10.96.1.%d", 100+number), fmt.Sprintf("fd00:10:96::%d", 100+number)}
		meta := metav1.ObjectMeta{Name: fmt.Sprintf("s-%d", number), Namespace: metav1.NamespaceDefault}
		objects := []client.Object{&corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
			IPFamilyPolicy: &dual, ClusterIP: ips[0], ClusterIPs: ips, Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}},
		}}}
		for i, family := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
			first, second := last[i].Next(), last[i].Next().Next()
			last[i] = second
			objects = append(objects, sliceFor(meta, family, first, second))
			addresses = append(addresses, netip.MustParseAddr(ips[i]))
		}
		for _, o := range objects {
			if err := l.Client.Create(t.Context(), o); err != nil {
				t.Fatal(err)
			}
		}
	}
	return addresses
}

// sliceFor is the EndpointSlice of one family for the Service of that name.
func sliceFor(service metav1.ObjectMeta, family discoveryv1.AddressType, endpoints ...netip.Addr) *discoveryv1.EndpointSlice {
	ready, port, tcp := true, int32(8080), corev1.ProtocolTCP
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: service.Name + "-" + strings.ToLower(string(family)), Namespace: service.Namespace,
			Labels: map[string]string{discoveryv1.LabelServiceName: service.Name},
		},
		AddressType: family,
		Ports:       []discoveryv1.EndpointPort{{Name: new(string), Port: &port, Protocol: &tcp}},
	}
	for _, a := range endpoints {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}})
	}
	return s
}

// rules are a table of nftables that has to be in force, with these Services.
type rules struct {
	family, table string
	services      []netip.Addr
}

// only keeps the addresses of a family.
func only(addresses []netip.Addr, family func(netip.Addr) bool) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(addresses), func(a netip.Addr) bool { return !family(a) })
}

// rulesInForce tells which of the rules are not.
func (s *side) rulesInForce(t *testing.T) error {
	t.Helper()
	var errs []error
	for _, r := range s.rules {
		out, err := s.output(t, s.node, exec.Command("nft", "list", "table", r.family, r.table))
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: table %s %s is not in force: %w: %s", s.name, r.family, r.table, err, out))
			continue
		}
		for _, a := range r.services {
			if !strings.Contains(out, a.String()) {
				errs = append(errs, fmt.Errorf("%s: table %s %s has no Service %s", s.name, r.family, r.table, a))
			}
		}
	}
	return errors.Join(errs...)
}

// awaitRules waits until all of them are.
func (s *side) awaitRules(t *testing.T) {
	t.Helper()
	err := harness.Eventually(t.Context(), time.Minute, s.name+": the rules are in force", func(context.Context) error { return s.rulesInForce(t) })
	if err != nil {
		t.Fatal(err)
	}
}
