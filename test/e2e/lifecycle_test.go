//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/test/harness"
)

// identity of a node: what must not change when it comes back.
type identity struct {
	PodCIDRs, MeshIPs, PublicKey string
	KeyEpoch                     int64
}

func identityOf(node *v1alpha1.MeshNode) identity {
	return identity{
		PodCIDRs: strings.Join(node.Spec.PodCIDRs, " "), MeshIPs: strings.Join(node.Spec.MeshIPs, " "),
		PublicKey: node.Status.PublicKey, KeyEpoch: node.Status.KeyEpoch,
	}
}

// TestRebootedNodeComesBackAsItself reboots a node: the kernel's state and /run are gone, the disk is kept.
func TestRebootedNodeComesBackAsItself(t *testing.T) {
	before := identityOf(meshNode(t, "tb-node3"))
	pod := startHostPortPod(t, "outlives-reboot", "tb-node3", 9190)
	if _, err := cluster.Testbed(t.Context(), "reboot", "tb-node3"); err != nil {
		t.Fatal(err)
	}
	refreshProbes(t, nodes)
	checkHostPort(t, pod.Spec.NodeName, 9190)
	if after := identityOf(meshNode(t, "tb-node3")); after != before {
		t.Errorf("the node came back as %+v, it was %+v", after, before)
	}
	checkAllPairs(t)
}

// refreshProbes waits until all nodes and their probe Pods are ready again and answer.
func refreshProbes(t *testing.T, count int) {
	t.Helper()
	if err := cluster.WaitNodes(t.Context(), count, 3*time.Minute); err != nil {
		t.Fatal(err)
	}
	err := harness.Eventually(t.Context(), 2*time.Minute, "probes answer", func(ctx context.Context) error {
		var err error
		if probes, err = cluster.FindProbes(ctx, count); err != nil {
			return err
		}
		hops, err := cluster.PodHops(ctx, probes)
		if err != nil {
			return err
		}
		for _, hop := range hops {
			if !hop.Seen.IsValid() {
				return fmt.Errorf("%s got no answer from %s", hop.From, hop.Target)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestAPIServerDown stops the API server for two minutes. Flows between Pods lose nothing. A node
// that loses all its network state meanwhile, its agent and its WireGuard process killed, comes back
// from what it has on disk.
func TestAPIServerDown(t *testing.T) {
	const length = 150 * time.Second // the API server is down for two minutes of it
	to := &probes.Pods[1]
	flows := startFlows(t, &probes.Pods[0], to, 5331, length)
	begin := time.Now()
	target := harness.Addresses(to)[0].String()
	fault(t, "api", "stop")
	loseNetworkState(t, "tb-node3")
	err := harness.Eventually(t.Context(), 90*time.Second, "tb-node3 reaches Pods again without an API server", func(ctx context.Context) error {
		_, err := harness.Command(ctx, cluster.Root, nil, "ip", "netns", "exec", "tb-node3", "ping", "-c", "1", "-W", "1", target)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	t.Logf("tb-node3 was back %s after its loss", time.Since(begin).Round(100*time.Millisecond))
	untilOver(t, begin.Add(120*time.Second))
	if _, err := cluster.Testbed(t.Context(), "fault", "api", "start"); err != nil {
		t.Fatal(err)
	}
	flows.allArrive(t)
	refreshProbes(t, nodes)
	checkAllPairs(t)
}

// loseNetworkState takes from a node its processes of Weftnet, its links, routes and rules. The
// fail-closed table it keeps: with its Pods still there, and the kubelet asking them, everything
// that they are sent would leave in the clear until the agent is back, and the leak audit listens.
func loseNetworkState(t *testing.T, node string) {
	t.Helper()
	fault(t, "kill", "agent", "--node="+node)
	fault(t, "kill", "wireguard", "--node="+node)
	script := "ip link delete weft0; ip route flush proto 87; ip -6 route flush proto 87; rm -rf /run/weftnet/wireguard"
	if _, err := cluster.Testbed(t.Context(), "exec", node, "--", "bash", "-c", script); err != nil {
		t.Logf("taking the network state of %s: %v", node, err) // what is already gone cannot be deleted
	}
}

// untilOver waits for a moment that the test itself defines: how long the API server stays down.
func untilOver(t *testing.T, moment time.Time) {
	t.Helper()
	timer := time.NewTimer(time.Until(moment))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}
