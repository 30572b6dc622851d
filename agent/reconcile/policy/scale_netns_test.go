//go:build linux && netns

package policy

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

const (
	scalePods     = 10_000
	scalePolicies = 1_000
	scaleLocal    = 100
	scaleApps     = 500
)

// scalePod is one of many: 20 Pods to an app, 100 apps to a namespace, the first ones on this node.
func scalePod(i int, version string) snapshot.Pod {
	app := i % scaleApps
	p := snapshot.Pod{
		Namespace: fmt.Sprint("ns-", app/100), Name: fmt.Sprint("pod-", i), UID: fmt.Sprint("uid-", i), Node: fmt.Sprint("node", 1+i/scaleLocal),
		Labels: snapshot.NewLabels(map[string]string{"app": fmt.Sprint("app-", app), "version": version}),
		IPs:    []netip.Addr{netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)}), netip.AddrFrom16([16]byte{0xfd, 1, 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)})},
	}
	return p
}

// scalePolicy lets two apps of the namespace reach a third at one port, and every fourth a range of addresses.
func scalePolicy(i int, port int32) snapshot.NetworkPolicy {
	app := i % scaleApps
	of := func(n int) *snapshot.Selector {
		return &snapshot.Selector{MatchLabels: snapshot.NewLabels(map[string]string{"app": fmt.Sprint("app-", n)})}
	}
	rule := snapshot.NetworkPolicyRule{
		Peers: []snapshot.NetworkPolicyPeer{{PodSelector: of((app + 1) % scaleApps)}, {PodSelector: of((app + 2) % scaleApps), NamespaceSelector: &snapshot.Selector{}}},
		Ports: []snapshot.NetworkPolicyPort{{Protocol: "TCP", Number: port}},
	}
	if i%4 == 0 {
		rule.Peers = append(rule.Peers, snapshot.NetworkPolicyPeer{IPBlock: &snapshot.IPBlock{CIDR: "192.0.2.0/24", Except: []string{"192.0.2.128/25"}}})
	}
	return snapshot.NetworkPolicy{Namespace: fmt.Sprint("ns-", app/100), Name: fmt.Sprint("policy-", i), Types: []string{"Ingress"},
		PodSelector: *of(app), Ingress: []snapshot.NetworkPolicyRule{rule}}
}

// everyPod makes a policy one of those that select every Pod of this node: all Pods are in one namespace then.
func everyPod(np snapshot.NetworkPolicy) snapshot.NetworkPolicy {
	np.Namespace, np.PodSelector = "ns-0", snapshot.Selector{}
	return np
}

func inOneNamespace(p snapshot.Pod) snapshot.Pod {
	p.Namespace = "ns-0"
	return p
}

// BenchmarkScale tells how long a change takes from the agent's hearing of it to the kernel, with 10,000
// Pods in the cluster, 100 of them here, and 1,000 policies; and what the agent holds for them.
func BenchmarkScale(b *testing.B) {
	b.Run("two policies a Pod", func(b *testing.B) { scale(b, scalePod, scalePolicy) })
	// The dearest: each Pod here is judged by a thousand policies.
	b.Run("1,000 policies a Pod", func(b *testing.B) {
		scale(b, func(i int, version string) snapshot.Pod { return inOneNamespace(scalePod(i, version)) },
			func(i int, port int32) snapshot.NetworkPolicy { return everyPod(scalePolicy(i, port)) })
	})
}

func scale(b *testing.B, scalePod func(int, string) snapshot.Pod, scalePolicy func(int, int32) snapshot.NetworkPolicy) {
	l := newLab(b)
	before := heapInUse()
	var pods []snapshot.Pod
	for i := range scalePods {
		pods = append(pods, scalePod(i, "1"))
	}
	for i := range scaleApps / 100 {
		l.cluster.setNamespace(snapshot.Namespace{Name: fmt.Sprint("ns-", i)})
	}
	l.cluster.setPods(pods...)
	for i := range scalePolicies {
		l.cluster.setPolicy(scalePolicy(i, 80))
	}
	for i := range scaleLocal {
		l.plugin.add(state.Attachment{HostLink: fmt.Sprint("weftp", i), ContainerID: "c", Pod: state.PodRef{Namespace: pods[i].Namespace, Name: pods[i].Name, UID: pods[i].UID}, Addresses: pods[i].IPs})
	}
	started := time.Now()
	l.cluster.setMissing()
	l.start()
	if err := l.loop.awaitStart(b.Context()); err != nil {
		b.Fatal(err)
	}
	begun, heap := time.Since(started), heapInUse()-before
	measure := func(name string, times int, change func(i int)) {
		var took []time.Duration
		for i := range times {
			t := time.Now()
			change(i)
			if err := l.loop.Sync(b.Context()); err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(t))
		}
		slices.Sort(took)
		b.ReportMetric(took[len(took)/2].Seconds()*1000, "ms-"+name+"-p50")
		b.ReportMetric(took[len(took)*99/100].Seconds()*1000, "ms-"+name+"-p99")
	}
	for b.Loop() {
		measure("pod", 300, func(i int) { l.cluster.setPods(scalePod(scalePods+i, "1")) })
		measure("relabel", 300, func(i int) { p := scalePod(i*7, "1"); p.Labels = scalePod(i*7+3, "2").Labels; l.cluster.setPods(p) })
		measure("policy", 300, func(i int) { l.cluster.setPolicy(scalePolicy(i*3%scalePolicies, int32(1000+i))) })
		measure("5000-relabelled", 10, func(i int) { l.cluster.setPods(relabelled(pods[:5000], i)...) })
	}
	b.ReportMetric(begun.Seconds()*1000, "ms-start")
	b.ReportMetric(float64(heap)/(1<<20), "MiB")
	runtime.KeepAlive(pods)
}

// relabelled moves every Pod into the next one's app, and next time back.
func relabelled(pods []snapshot.Pod, turn int) []snapshot.Pod {
	out := slices.Clone(pods)
	for i := range out {
		if turn%2 == 0 {
			out[i].Labels = pods[(i+1)%len(pods)].Labels
		}
	}
	return out
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
