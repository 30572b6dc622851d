package policy_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/snapshot"
)

// The size of the cluster that the benchmarks simulate.
const (
	manyPods       = 10_000
	manyNamespaces = 100
	manyPolicies   = 1_000
	podsHere       = 100
)

func manyPod(i int) snapshot.Pod {
	node := i / podsHere
	return snapshot.Pod{
		Namespace: fmt.Sprintf("team-%d", i%manyNamespaces), Name: fmt.Sprintf("app-%d", i), UID: fmt.Sprintf("%08d-0000-4000-8000-000000000000", i),
		Labels: snapshot.NewLabels(map[string]string{
			"app": fmt.Sprintf("app-%d", i%50), "version": fmt.Sprintf("v%d", i%3), "pod-template-hash": fmt.Sprintf("%08x", i%500),
			"app.kubernetes.io/part-of": "shop",
		}),
		IPs: []netip.Addr{
			netip.AddrFrom4([4]byte{10, 244, byte(node), byte(2 + i%podsHere)}),
			netip.AddrFrom16([16]byte{0xfd, 0, 2, 0x44, 0, byte(node), 15: byte(2 + i%podsHere)}),
		},
		Node:  fmt.Sprintf("node-%d", node),
		Ports: []snapshot.NamedPort{{Name: "http", Protocol: 6, Port: 8080}},
	}
}

func one(key, value string) *snapshot.Selector {
	return &snapshot.Selector{MatchLabels: snapshot.Labels{{Key: key, Value: value}}}
}

// manyPolicy isolates one application and lets in two others, one of them from another team's namespace,
// and a block of addresses.
func manyPolicy(i int) snapshot.NetworkPolicy {
	return snapshot.NetworkPolicy{
		Namespace: fmt.Sprintf("team-%d", i%manyNamespaces), Name: fmt.Sprintf("allow-%d", i), PodSelector: *one("app", fmt.Sprintf("app-%d", i%50)),
		Ingress: []snapshot.NetworkPolicyRule{{
			Peers: []snapshot.NetworkPolicyPeer{
				{PodSelector: one("app", fmt.Sprintf("app-%d", (i+1)%50))},
				{NamespaceSelector: one("team", fmt.Sprintf("%d", (i+7)%manyNamespaces)), PodSelector: one("version", fmt.Sprintf("v%d", i%3))},
				{IPBlock: &snapshot.IPBlock{CIDR: "192.0.2.0/24", Except: []string{"192.0.2.128/25"}}},
			},
			Ports: []snapshot.NetworkPolicyPort{{Number: 8080}, {Number: 9000, EndPort: 9010}},
		}},
	}
}

// manyWorld is the cluster as the agent of the first node holds it.
func manyWorld() *policy.Engine { return worldOf(manyPods) }

func worldOf(pods int) *policy.Engine {
	var read pool
	e := policy.New(policy.Options{})
	e.SetSelf(policy.Self{Name: "node-0", IPs: addrs("10.200.0.1", "fd00:c8::1")})
	for i := range manyNamespaces {
		e.SetNamespace(snapshot.Namespace{Name: fmt.Sprintf("team-%d", i), Labels: snapshot.Labels{{Key: "team", Value: fmt.Sprint(i)}}})
	}
	for i := range pods {
		p := read.pod(manyPod(i))
		e.SetPod(p)
		if i < podsHere {
			e.Attach(policy.Endpoint{Link: fmt.Sprintf("weftp%d", i), Pod: p.Key(), UID: p.UID, IPs: p.IPs})
		}
	}
	for i := range manyPolicies {
		e.SetNetworkPolicy(manyPolicy(i))
	}
	e.Commit()
	return e
}

// pool holds equal texts, label sets and ports once, as the agent's source does of what it reads.
type pool struct {
	texts  map[string]string
	labels map[string]snapshot.Labels
	ports  []snapshot.NamedPort
}

func pooled[V any](known map[string]V, key string, value V) V {
	if have, ok := known[key]; ok {
		return have
	}
	known[key] = value
	return value
}

func (o *pool) pod(p snapshot.Pod) snapshot.Pod {
	if o.texts == nil {
		o.texts, o.labels, o.ports = map[string]string{}, map[string]snapshot.Labels{}, p.Ports
	}
	p.Namespace, p.Node = pooled(o.texts, p.Namespace, p.Namespace), pooled(o.texts, p.Node, p.Node)
	p.Labels, p.Ports = pooled(o.labels, fmt.Sprint(p.Labels), p.Labels), o.ports
	return p
}

// BenchmarkMemory says what an agent holds for clusters of several sizes, with the same policies and Pods of
// its own: near-linear is what it should be, and the bytes that each Pod more takes are the constant.
func BenchmarkMemory(b *testing.B) {
	sizes := []int{1_000, 5_000, 10_000, 20_000}
	for b.Loop() {
		var first, last uint64
		for _, pods := range sizes {
			before := heapInUse()
			e := worldOf(pods)
			last = heapInUse() - before
			if first == 0 {
				first = last
			}
			b.ReportMetric(float64(last)/(1<<20), fmt.Sprintf("MiB-%d-Pods", pods))
			b.ReportMetric(float64(e.Stats().Elements), fmt.Sprintf("elements-%d-Pods", pods))
			runtime.KeepAlive(e)
		}
		b.ReportMetric(float64(last-first)/float64(sizes[len(sizes)-1]-sizes[0]), "B/Pod")
	}
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func BenchmarkStart(b *testing.B) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var e *policy.Engine
	for b.Loop() {
		e = manyWorld()
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB")
	s := e.Stats()
	b.ReportMetric(float64(s.Elements), "elements")
	b.ReportMetric(float64(s.Chains), "chains")
	b.ReportMetric(float64(s.Selected), "selected")
}

// BenchmarkRelabel moves a Pod of another node from one application to another and back.
func BenchmarkRelabel(b *testing.B) {
	e := manyWorld()
	n := 0
	for b.Loop() {
		p := manyPod(5001)
		if n++; n%2 == 1 {
			p.Labels = manyPod(5002).Labels
		}
		e.SetPod(p)
		if p := e.Commit(); p.Empty() {
			b.Fatal("nothing has changed")
		}
	}
}

// BenchmarkRelabelHere does so with a Pod of this node, whose policies change with it.
func BenchmarkRelabelHere(b *testing.B) {
	e := manyWorld()
	n := 0
	for b.Loop() {
		p := manyPod(0)
		if n++; n%2 == 1 {
			p.Labels = manyPod(50).Labels
			p.Labels = manyPod(1).Labels
		}
		e.SetPod(p)
		if p := e.Commit(); p.Empty() {
			b.Fatal("nothing has changed")
		}
	}
}

// BenchmarkPolicy changes a rule of a policy that selects Pods of this node.
func BenchmarkPolicy(b *testing.B) {
	e := manyWorld()
	n := 0
	for b.Loop() {
		np := manyPolicy(0)
		if n++; n%2 == 1 {
			np.Ingress[0].Peers = append(np.Ingress[0].Peers, snapshot.NetworkPolicyPeer{NamespaceSelector: one("team", "33")})
		}
		e.SetNetworkPolicy(np)
		if p := e.Commit(); p.Empty() {
			b.Fatal("nothing has changed")
		}
	}
}

// BenchmarkPolicyOfMany changes one of a thousand policies that all select every Pod of this node.
func BenchmarkPolicyOfMany(b *testing.B) {
	e := manyWorld()
	all := func(i int) snapshot.NetworkPolicy {
		np := manyPolicy(i)
		np.Namespace, np.PodSelector, np.Name = "team-0", snapshot.Selector{}, fmt.Sprintf("all-%d", i)
		return np
	}
	for i := range manyPolicies {
		e.SetNetworkPolicy(all(i))
	}
	e.Commit()
	n := 0
	for b.Loop() {
		np := all(0)
		if n++; n%2 == 1 {
			np.Ingress[0].Peers = nil
		}
		e.SetNetworkPolicy(np)
		if p := e.Commit(); p.Empty() {
			b.Fatal("nothing has changed")
		}
	}
}

// BenchmarkRevoked judges ten thousand flows.
func BenchmarkRevoked(b *testing.B) {
	e := manyWorld()
	var flows []policy.Flow
	for i := range 10_000 {
		a, o := manyPod(i%podsHere), manyPod(i)
		flows = append(flows, flowOf(policy.Packet{Protocol: 6, Src: o.IPs[i%2], Dst: a.IPs[i%2], Port: 8080}))
	}
	for b.Loop() {
		e.Revoked(flows, policy.Suspects{All: true})
	}
}
