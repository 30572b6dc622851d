package main

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

// failures in a row after which a node is left out. One answer brings it back.
const failures = 2

// balancer has a front for every Service of type LoadBalancer.
type balancer struct {
	pools []netip.Prefix
	// route sends an address to nodes, each new flow to any one of them; to nobody when there is none.
	route func(addr netip.Addr, via []netip.Addr) error
	// healthy asks a node's health check port.
	healthy func(ctx context.Context, node netip.Addr, port int32) bool

	mu     sync.Mutex
	fronts map[types.UID]*front
}

// front is what one Service's clients see.
type front struct {
	addrs []netip.Addr
	nodes []netip.Addr
	// port of the nodes' health check; 0: every node takes the Service's traffic.
	port int32
	// sticky keeps all flows on one node: session affinity across nodes is the balancer's matter.
	sticky bool
	// silent counts, by node, the health checks in a row that failed. A node without an entry is yet unknown.
	silent map[netip.Addr]int
}

func newBalancer(pools []netip.Prefix) *balancer {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	healthy := func(ctx context.Context, node netip.Addr, port int32) bool {
		url := "http://" + netip.AddrPortFrom(node, uint16(port)).String() + "/healthz"
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return false
		}
		answer, err := client.Do(request)
		if err != nil {
			return false
		}
		_ = answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	}
	return &balancer{pools: pools, route: setRoute, healthy: healthy, fronts: map[types.UID]*front{}}
}

// allocate finds a free address of each of the Service's families.
func (b *balancer) allocate(svc *v1.Service) ([]netip.Addr, error) {
	taken := map[netip.Addr]bool{}
	for _, f := range b.fronts {
		for _, a := range f.addrs {
			taken[a] = true
		}
	}
	var out []netip.Addr
	for _, family := range svc.Spec.IPFamilies {
		addr, ok := b.free(family, taken)
		if !ok {
			return nil, fmt.Errorf("allocate an %s address for %s/%s: none is free in %v", family, svc.Namespace, svc.Name, b.pools)
		}
		out = append(out, addr)
	}
	return out, nil
}

func (b *balancer) free(family v1.IPFamily, taken map[netip.Addr]bool) (netip.Addr, bool) {
	for _, pool := range b.pools {
		if pool.Addr().Is4() != (family == v1.IPv4Protocol) {
			continue
		}
		for addr := pool.Addr().Next(); pool.Contains(addr); addr = addr.Next() { // the first names the network
			if !taken[addr] {
				return addr, true
			}
		}
	}
	return netip.Addr{}, false
}

// update takes over what the Service and the nodes say.
func (f *front) update(svc *v1.Service, nodes []*v1.Node) {
	f.sticky = svc.Spec.SessionAffinity == v1.ServiceAffinityClientIP
	port := int32(0)
	if svc.Spec.ExternalTrafficPolicy == v1.ServiceExternalTrafficPolicyLocal {
		port = svc.Spec.HealthCheckNodePort
	}
	if port != f.port {
		f.port, f.silent = port, map[netip.Addr]int{}
	}
	f.nodes = nil
	for _, node := range nodes {
		for _, a := range node.Status.Addresses {
			if addr, err := netip.ParseAddr(a.Address); err == nil && a.Type == v1.NodeInternalIP {
				f.nodes = append(f.nodes, addr)
			}
		}
	}
	slices.SortFunc(f.nodes, netip.Addr.Compare)
}

// via are the nodes that take the traffic for an address.
func (f *front) via(addr netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, node := range f.nodes {
		failed, known := f.silent[node]
		if node.Is4() == addr.Is4() && (f.port == 0 || known && failed < failures) {
			out = append(out, node)
		}
	}
	if f.sticky && len(out) > 1 {
		out = out[:1]
	}
	return out
}

func (f *front) status() *v1.LoadBalancerStatus {
	mode := v1.LoadBalancerIPModeVIP
	status := &v1.LoadBalancerStatus{}
	for _, addr := range f.addrs {
		status.Ingress = append(status.Ingress, v1.LoadBalancerIngress{IP: addr.String(), IPMode: &mode})
	}
	return status
}

func (b *balancer) steer(f *front) error {
	for _, addr := range f.addrs {
		if err := b.route(addr, f.via(addr)); err != nil {
			return fmt.Errorf("forward %s: %w", addr, err)
		}
	}
	return nil
}

// question is one health check, and answer what came of it.
type question struct {
	uid  types.UID
	node netip.Addr
	port int32
}

// check asks every health check port once, all at the same time, and forwards by the answers.
func (b *balancer) check(ctx context.Context) {
	questions := b.questions()
	answers := make([]bool, len(questions))
	var group sync.WaitGroup
	for i, q := range questions {
		group.Go(func() { answers[i] = b.healthy(ctx, q.node, q.port) })
	}
	group.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	changed := map[types.UID]bool{}
	for i, q := range questions {
		if f := b.fronts[q.uid]; f != nil && f.port == q.port && f.note(q.node, answers[i]) {
			changed[q.uid] = true
		}
	}
	for uid := range changed {
		if err := b.steer(b.fronts[uid]); err != nil {
			klog.ErrorS(err, "Cannot follow a health check")
		}
	}
}

func (b *balancer) questions() []question {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []question
	for uid, f := range b.fronts {
		if f.port == 0 {
			continue
		}
		for _, node := range f.nodes {
			out = append(out, question{uid, node, f.port})
		}
	}
	return out
}

// note remembers an answer and says whether the node's standing has changed.
func (f *front) note(node netip.Addr, healthy bool) bool {
	before, known := f.silent[node]
	was := known && before < failures
	switch {
	case healthy:
		f.silent[node] = 0
	case known:
		f.silent[node] = min(before+1, failures)
	default:
		f.silent[node] = failures
	}
	is := f.silent[node] < failures
	if was != is {
		klog.InfoS("Health check", "node", node, "port", strconv.Itoa(int(f.port)), "healthy", is)
	}
	return was != is
}
