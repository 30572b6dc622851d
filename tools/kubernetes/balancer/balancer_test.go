package main

import (
	"context"
	"net/netip"
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

func nodes(addrs ...string) []*v1.Node {
	var out []*v1.Node
	for _, a := range addrs {
		node := &v1.Node{}
		node.Status.Addresses = []v1.NodeAddress{{Type: v1.NodeHostName, Address: "x"}, {Type: v1.NodeInternalIP, Address: a}}
		out = append(out, node)
	}
	return out
}

func serviceOf(uid string) *v1.Service {
	svc := &v1.Service{}
	svc.UID = types.UID(uid)
	svc.Spec.IPFamilies = []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol}
	return svc
}

// TestBalancer follows two Services: where their traffic goes as health, affinity and type change.
func TestBalancer(t *testing.T) {
	const a, b, c = "10.0.0.2", "10.0.0.3", "fd00::2"
	ctx, lb := context.Background(), newBalancer([]netip.Prefix{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("fd01::/120")})
	routes, healthy := map[string][]string{}, map[string]bool{}
	lb.route = func(addr netip.Addr, via []netip.Addr) error {
		routes[addr.String()] = nil
		for _, n := range via {
			routes[addr.String()] = append(routes[addr.String()], n.String())
		}
		return nil
	}
	lb.healthy = func(_ context.Context, node netip.Addr, port int32) bool {
		return port == 30000 && healthy[node.String()]
	}
	want := func(when, addr string, via ...string) {
		t.Helper()
		if !slices.Equal(routes[addr], via) {
			t.Errorf("%s: %s goes to %v, want %v", when, addr, routes[addr], via)
		}
	}
	ensure := func(svc *v1.Service) *v1.LoadBalancerStatus {
		t.Helper()
		status, err := lb.EnsureLoadBalancer(ctx, "", svc, nodes(b, a, c))
		if err != nil {
			t.Fatal(err)
		}
		return status
	}

	first, second := serviceOf("1"), serviceOf("2")
	if status := ensure(first); len(status.Ingress) != 2 || status.Ingress[0].IP != "10.1.0.1" || status.Ingress[1].IP != "fd01::1" {
		t.Errorf("status %+v", status)
	}
	want("policy Cluster", "10.1.0.1", a, b)
	want("policy Cluster", "fd01::1", c)
	first.Spec.SessionAffinity = v1.ServiceAffinityClientIP
	ensure(first)
	want("affinity", "10.1.0.1", a)

	second.Spec.ExternalTrafficPolicy, second.Spec.HealthCheckNodePort = v1.ServiceExternalTrafficPolicyLocal, 30000
	if status := ensure(second); status.Ingress[0].IP != "10.1.0.2" {
		t.Errorf("status %+v", status)
	}
	want("not yet asked", "10.1.0.2")
	healthy[b] = true
	lb.check(ctx)
	want("one is healthy", "10.1.0.2", b)
	healthy[a], healthy[b] = true, false
	lb.check(ctx)
	want("one silence", "10.1.0.2", a, b)
	lb.check(ctx)
	want("two silences", "10.1.0.2", a)

	if err := lb.EnsureLoadBalancerDeleted(ctx, "", second); err != nil {
		t.Fatal(err)
	}
	want("deleted", "10.1.0.2")
	if _, exists, _ := lb.GetLoadBalancer(ctx, "", second); exists {
		t.Error("it is still there")
	}
	if status := ensure(serviceOf("3")); status.Ingress[0].IP != "10.1.0.2" {
		t.Errorf("the address was not free again: %+v", status)
	}
}
