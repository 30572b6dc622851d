//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/test/harness"
	"github.com/weftnet/weftnet/test/testbed/layout"
)

// editConfig changes the settings of the cluster until the test ends.
func editConfig(t *testing.T, change func(*v1alpha1.MeshConfigSpec)) {
	t.Helper()
	var before v1alpha1.MeshConfigSpec
	put := func(ctx context.Context, change func(*v1alpha1.MeshConfigSpec)) error {
		var config v1alpha1.MeshConfig
		if err := cluster.Mesh.Get(ctx, client.ObjectKey{Name: "default"}, &config); err != nil {
			return err
		}
		old := config.DeepCopy()
		change(&config.Spec)
		before = old.Spec
		return cluster.Mesh.Patch(ctx, &config, client.MergeFrom(old))
	}
	if err := put(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	was := before
	t.Cleanup(func() {
		if err := put(context.Background(), func(s *v1alpha1.MeshConfigSpec) { *s = was }); err != nil {
			t.Error(err)
		}
	})
}

// answered asks once from one probe Pod to another, in both families.
func answered(ctx context.Context, from, to int) error { return answeredWithin(ctx, from, to, "2") }

// answeredWithin does so and waits for so many seconds. Whoever has to be found anew, or asked twice,
// has lost a packet.
func answeredWithin(ctx context.Context, from, to int, seconds string) error {
	var errs []error
	for _, addr := range harness.Addresses(&probes.Pods[to]) {
		if _, err := cluster.Exec(ctx, &probes.Pods[from], "ping", "-c", "1", "-W", seconds, addr.String()); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// TestNodeBehindNAT puts a node behind a NAT that forgets an idle flow after 4 seconds and is kept open
// from inside only. Whoever was silent for longer must still be reached from outside at once. It is silent for
// so long that WireGuard's own last word, 10 seconds after the last packet, is forgotten too.
func TestNodeBehindNAT(t *testing.T) {
	const node, peer, forgets, idle = "tb-node3", "tb-node2", 4 * time.Second, 20 * time.Second
	editConfig(t, func(s *v1alpha1.MeshConfigSpec) { s.Keepalive = &metav1.Duration{Duration: time.Second} })
	fault(t, "nat", node, "symmetric", "--udp-timeout="+forgets.String())
	// Its connections to the API server have died with the address, and it would find out when it asks next.
	fault(t, "kill", "agent", "--node="+node)
	// It is the agent that keeps the NAT open.
	if err := cluster.WaitAgents(t.Context(), 2*time.Minute, node); err != nil {
		t.Fatal(err)
	}
	err := harness.Eventually(t.Context(), time.Minute, "every pair talks through the NAT", func(ctx context.Context) error {
		return errors.Join(answered(ctx, 2, 0), answered(ctx, 2, 1), answered(ctx, 0, 2), answered(ctx, 1, 2))
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, outside := range []string{"tb-node1", peer} {
		err := harness.Eventually(t.Context(), time.Minute, outside+" tells that a NAT stands before "+node, func(context.Context) error {
			if seen := meshNode(t, outside).Status.NATPeers; !slices.Contains(seen, node) {
				return fmt.Errorf("status.natPeers of %s is %q", outside, seen)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	if mine := meshNode(t, node).Status.NATPeers; len(mine) != 0 {
		t.Errorf("the node behind the NAT takes its peers for translated: %q", mine)
	}
	untilOver(t, time.Now().Add(idle))
	if err := answeredWithin(t.Context(), 1, 2, "10"); err != nil {
		t.Errorf("from outside, after nothing was sent for %v: %v", idle, err)
	}
	checkAllPairs(t)
	healNAT(t, node)
}

// healNAT takes the NAT away and waits until the peers have noticed.
func healNAT(t *testing.T, node string) {
	t.Helper()
	if _, err := cluster.Testbed(t.Context(), "fault", "heal", "--all"); err != nil {
		t.Fatal(err)
	}
	err := harness.Eventually(t.Context(), time.Minute, "nobody sees a NAT any more", func(ctx context.Context) error {
		if err := errors.Join(answered(ctx, 2, 0), answered(ctx, 2, 1), answered(ctx, 0, 2), answered(ctx, 1, 2)); err != nil {
			return err
		}
		for i := range nodes {
			name := fmt.Sprintf("tb-node%d", i+1)
			if seen := meshNode(t, name).Status.NATPeers; slices.Contains(seen, node) {
				return fmt.Errorf("status.natPeers of %s is %s", name, strings.Join(seen, " "))
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestNodeGetsOtherAddresses gives a node other addresses on the underlay, and then its own back: its tunnels, its
// place in the MeshNodes and the way of Pods to the node itself follow. The leak audit listens.
func TestNodeGetsOtherAddresses(t *testing.T) {
	const node, other = "tb-node2", 1
	number, err := layout.ParseNode(node)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		verb string
		at   []netip.Prefix
	}{{"away", number.MovedAddrs(layout.Dual)}, {"home", number.Addrs(layout.Dual)}} {
		begin := time.Now()
		fault(t, "move", node, step.verb)
		err := harness.Eventually(t.Context(), time.Minute, "Pods reach those of the moved node", func(ctx context.Context) error {
			return errors.Join(answered(ctx, 0, other), answered(ctx, 2, other))
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: Pods reached each other again after %s", step.verb, time.Since(begin).Round(100*time.Millisecond))
		var at []string
		for _, p := range step.at {
			at = append(at, p.Addr().String())
		}
		err = harness.Eventually(t.Context(), 2*time.Minute, "the MeshNode follows its Node", func(context.Context) error {
			n := meshNode(t, node)
			if !slices.Equal(n.Spec.NodeIPs, at) || !slices.Equal(n.Status.Endpoints, at) {
				return fmt.Errorf("nodeIPs %q, endpoints %q, want %q", n.Spec.NodeIPs, n.Status.Endpoints, at)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: the MeshNode had followed after %s", step.verb, time.Since(begin).Round(100*time.Millisecond))
		checkPodsReachNode(t, step.at)
		if err := cluster.WaitNodes(t.Context(), nodes, 2*time.Minute); err != nil {
			t.Error(err)
		}
		checkAllPairs(t)
	}
}

// checkPodsReachNode asks a node from every Pod; it must see the Pods' own addresses.
func checkPodsReachNode(t *testing.T, node []netip.Prefix) {
	t.Helper()
	for i := range probes.Pods {
		for _, p := range node {
			target := netip.AddrPortFrom(p.Addr(), 18080)
			err := harness.Eventually(t.Context(), time.Minute, "the node sees the Pod's own address", func(ctx context.Context) error {
				out, err := cluster.Exec(ctx, &probes.Pods[i], "curl", "-g", "-s", "--max-time", "3", "http://"+target.String()+"/clientip")
				if err != nil {
					return err
				}
				seen, err := netip.ParseAddrPort(strings.TrimSpace(out))
				if err != nil || !slices.Contains(harness.Addresses(&probes.Pods[i]), seen.Addr().Unmap()) {
					return fmt.Errorf("%s saw %q, want one of %s", target, out, harness.Addresses(&probes.Pods[i]))
				}
				return nil
			})
			if err != nil {
				t.Errorf("from %s: %v", probes.Pods[i].Spec.NodeName, err)
			}
		}
	}
}

// TestBackendThatIsNotThere asks for the kernel's WireGuard where there is none: the fault is told, at the MeshConfig
// and at every node, and nothing is lost, neither then nor when the wish is taken back.
func TestBackendThatIsNotThere(t *testing.T) {
	if meshNode(t, "tb-node1").Status.Backend != v1alpha1.BackendUserspace {
		t.Skip("this kernel has WireGuard")
	}
	steadyFlows(t, 5351, 12*time.Second, func() {
		t.Run("asked for", func(t *testing.T) {
			editConfig(t, func(s *v1alpha1.MeshConfigSpec) { s.Backend = v1alpha1.BackendPreference(v1alpha1.BackendKernel) })
			awaitEvent(t, "MeshConfig", "default", "BackendUnavailable")
			awaitBackend(t, "though the MeshConfig asks for Kernel")
		})
		awaitBackend(t, "has no WireGuard")
	})
	if err := cluster.WaitNodes(t.Context(), nodes, 2*time.Minute); err != nil {
		t.Error(err)
	}
}

func awaitBackend(t *testing.T, says string) {
	t.Helper()
	for i := range nodes {
		name := fmt.Sprintf("tb-node%d", i+1)
		err := harness.Eventually(t.Context(), time.Minute, name+" says of its backend: "+says, func(context.Context) error {
			n := meshNode(t, name)
			for _, c := range n.Status.Conditions {
				if c.Type == v1alpha1.ConditionMeshReady && c.Status == metav1.ConditionTrue && strings.Contains(c.Message, says) {
					return nil
				}
			}
			return fmt.Errorf("the conditions are %+v", n.Status.Conditions)
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// TestWireGuardProcessKilled kills the process that holds a node's tunnels: the next one takes up the same device,
// with the same peers, while the agent goes on.
func TestWireGuardProcessKilled(t *testing.T) {
	const node = "tb-node2"
	if meshNode(t, node).Status.Backend != v1alpha1.BackendUserspace {
		t.Skip("this kernel has WireGuard")
	}
	device := strings.Fields(inNode(t, node, "ip", "-o", "link", "show", "weft0"))[0]
	talk(t, 0, 1)
	fault(t, "kill", "wireguard", "--node="+node)
	begin := time.Now()
	err := harness.Eventually(t.Context(), time.Minute, "the node is back in the mesh", func(ctx context.Context) error {
		return errors.Join(answered(ctx, 0, 1), answered(ctx, 1, 2))
	})
	if err != nil {
		t.Error(err)
	}
	t.Logf("Pods reached each other again after %s", time.Since(begin).Round(100*time.Millisecond))
	if now := strings.Fields(inNode(t, node, "ip", "-o", "link", "show", "weft0"))[0]; now != device {
		t.Errorf("the device is another one: %s, it was %s", now, device)
	}
	if err := cluster.WaitNodes(t.Context(), nodes, 2*time.Minute); err != nil {
		t.Error(err)
	}
}
