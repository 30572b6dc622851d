//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/test/harness"
)

func TestEveryPodReachesEveryPodWithItsOwnAddress(t *testing.T) {
	hops, err := cluster.PodHops(t.Context(), probes)
	if err != nil {
		t.Fatal(err)
	}
	checkCount(t, hops)
	for _, hop := range hops {
		checkSource(t, hop, podAddresses(hop.From))
	}
}

func TestEveryPodReachesEveryNodeWithItsOwnAddress(t *testing.T) {
	hops, err := cluster.PodToNodeHops(t.Context(), probes)
	if err != nil {
		t.Fatal(err)
	}
	checkCount(t, hops)
	for _, hop := range hops {
		checkSource(t, hop, podAddresses(hop.From))
	}
}

func TestEveryNodeReachesEveryPodWithAnAddressOfItsOwn(t *testing.T) {
	hops, err := cluster.NodeToPodHops(t.Context(), probes)
	if err != nil {
		t.Fatal(err)
	}
	checkCount(t, hops)
	for _, hop := range hops {
		i := slices.IndexFunc(probes.Hosts, func(p corev1.Pod) bool { return p.Name == hop.From })
		node := meshNode(t, probes.Hosts[i].Spec.NodeName)
		checkSource(t, hop, addrs(t, slices.Concat(node.Spec.MeshIPs, node.Spec.NodeIPs)))
	}
}

// checkCount makes sure that the table is whole: every pair, in both families.
func checkCount(t *testing.T, hops []harness.Hop) {
	t.Helper()
	if want := nodes * nodes * 2; len(hops) != want {
		t.Fatalf("%d requests were made, want %d (every pair in both families)", len(hops), want)
	}
}

func checkSource(t *testing.T, hop harness.Hop, allowed []netip.Addr) {
	t.Helper()
	switch {
	case !hop.Seen.IsValid():
		t.Errorf("%s got no answer from %s (%s)", hop.From, hop.Target, hop.To)
	case !slices.Contains(allowed, hop.Seen):
		t.Errorf("%s was seen by %s (%s) as %s, want one of %s", hop.From, hop.Target, hop.To, hop.Seen, allowed)
	}
}

func podAddresses(name string) []netip.Addr {
	i := slices.IndexFunc(probes.Pods, func(p corev1.Pod) bool { return p.Name == name })
	return harness.Addresses(&probes.Pods[i])
}

func meshNode(t *testing.T, name string) *v1alpha1.MeshNode {
	t.Helper()
	var list v1alpha1.MeshNodeList
	if err := cluster.Mesh.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(list.Items, func(n v1alpha1.MeshNode) bool { return n.Name == name })
	if i < 0 {
		t.Fatalf("there is no MeshNode %s", name)
	}
	return &list.Items[i]
}

func addrs(t *testing.T, texts []string) []netip.Addr {
	t.Helper()
	var all []netip.Addr
	for _, text := range texts {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, addr)
	}
	return all
}

func TestPodReachesTheOutsideWithTheAddressOfItsNode(t *testing.T) {
	outside := startOutside(t)
	for i := range probes.Pods {
		pod := &probes.Pods[i]
		node := meshNode(t, pod.Spec.NodeName)
		for _, target := range outside {
			out, err := cluster.Exec(t.Context(), pod, "curl", "-g", "-s", "--max-time", "15", fmt.Sprintf("http://%s/", target))
			if err != nil {
				t.Errorf("Pod on %s to %s: %v", pod.Spec.NodeName, target, err)
				continue
			}
			seen, err := netip.ParseAddrPort(strings.TrimSpace(out))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(addrs(t, node.Spec.NodeIPs), seen.Addr().Unmap()) {
				t.Errorf("Pod on %s was seen outside as %s, want one of the node's addresses %s", pod.Spec.NodeName, seen, node.Spec.NodeIPs)
			}
		}
	}
}

// TestPacketsAtTheEdgeOfTheMTU sends the largest packet that fits, and one byte more, with
// fragmentation forbidden: the first must arrive, the second must be refused at once by the Pod's
// own link rather than disappear on the way.
func TestPacketsAtTheEdgeOfTheMTU(t *testing.T) {
	from, to := &probes.Pods[0], &probes.Pods[1]
	// Of two nodes the smaller counts: one that reaches some peer over IPv6 has less room than one that does not.
	mtu := int(min(meshNode(t, from.Spec.NodeName).Status.MTU, meshNode(t, to.Spec.NodeName).Status.MTU))
	if mtu < 1280 {
		t.Fatalf("the mesh's MTU is %d, want at least 1280, the least that IPv6 allows", mtu)
	}
	for _, addr := range harness.Addresses(to) {
		header := 28 // IPv4 20 + ICMP 8
		if addr.Is6() {
			header = 48 // IPv6 40 + ICMPv6 8
		}
		ping := func(payload int) (string, error) {
			return cluster.Exec(t.Context(), from, "ping", "-c", "3", "-i", "0.2", "-W", "2", "-M", "do", "-s", fmt.Sprint(payload), addr.String())
		}
		if out, err := ping(mtu - header); err != nil {
			t.Errorf("packet of %d bytes to %s: %v\n%s", mtu, addr, err, out)
		}
		if out, err := ping(mtu - header + 1); err == nil {
			t.Errorf("packet of %d bytes to %s went through a mesh with MTU %d:\n%s", mtu+1, addr, mtu, out)
		}
	}
}

// TestLargeTransfers moves much data with TCP between nodes, both ways and in both families.
func TestLargeTransfers(t *testing.T) {
	const port = 5301
	if err := cluster.ServeStreams(t.Context(), &probes.Pods[1], port); err != nil {
		t.Fatal(err)
	}
	for _, addr := range harness.Addresses(&probes.Pods[1]) {
		result, err := cluster.RunStream(t.Context(), harness.Stream{From: &probes.Pods[0], To: addr, Port: port, For: 3 * time.Second})
		if err != nil {
			t.Error(err)
			continue
		}
		if result.BitsPerSecond < 1e6 {
			t.Errorf("TCP to %s moved %.0f bit/s: the path is as good as closed", addr, result.BitsPerSecond)
		}
		t.Logf("TCP to %s: %.2f Gbit/s, %d retransmits", addr, result.BitsPerSecond/1e9, result.Retransmits)
	}
}
