package main

import (
	"context"
	"net/netip"

	v1 "k8s.io/api/core/v1"
	cloudprovider "k8s.io/cloud-provider"
)

// cloud is a provider of load balancers, and of nothing else.
type cloud struct {
	cloudprovider.Interface // nil: the service controller asks for load balancers and the name only

	lb *balancer
}

func (c cloud) LoadBalancer() (cloudprovider.LoadBalancer, bool) { return c.lb, true }

func (c cloud) ProviderName() string { return "testbed" }

// GetLoadBalancer implements cloudprovider.LoadBalancer.
func (b *balancer) GetLoadBalancer(_ context.Context, _ string, svc *v1.Service) (*v1.LoadBalancerStatus, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.fronts[svc.UID]
	if f == nil {
		return nil, false, nil
	}
	return f.status(), true, nil
}

// GetLoadBalancerName implements cloudprovider.LoadBalancer.
func (b *balancer) GetLoadBalancerName(_ context.Context, _ string, svc *v1.Service) string {
	return cloudprovider.DefaultLoadBalancerName(svc)
}

// EnsureLoadBalancer implements cloudprovider.LoadBalancer.
func (b *balancer) EnsureLoadBalancer(_ context.Context, _ string, svc *v1.Service, nodes []*v1.Node) (*v1.LoadBalancerStatus, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.fronts[svc.UID]
	if f == nil {
		addrs, err := b.allocate(svc)
		if err != nil {
			return nil, err
		}
		f = &front{addrs: addrs, silent: map[netip.Addr]int{}}
		b.fronts[svc.UID] = f
	}
	f.update(svc, nodes)
	return f.status(), b.steer(f)
}

// UpdateLoadBalancer implements cloudprovider.LoadBalancer.
func (b *balancer) UpdateLoadBalancer(_ context.Context, _ string, svc *v1.Service, nodes []*v1.Node) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.fronts[svc.UID]
	if f == nil {
		return nil // gone meanwhile
	}
	f.update(svc, nodes)
	return b.steer(f)
}

// EnsureLoadBalancerDeleted implements cloudprovider.LoadBalancer.
func (b *balancer) EnsureLoadBalancerDeleted(_ context.Context, _ string, svc *v1.Service) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.fronts[svc.UID]
	if f == nil {
		return nil
	}
	f.nodes = nil
	if err := b.steer(f); err != nil {
		return err
	}
	delete(b.fronts, svc.UID)
	return nil
}
