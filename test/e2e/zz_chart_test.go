//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weftnet/test/harness"
)

// TestUpgradeChangesNothingOnTheWire rolls the agents and the operator by `helm upgrade`, under live flows.
func TestUpgradeChangesNothingOnTheWire(t *testing.T) {
	wireguard := inNode(t, "tb-node2", "ip", "-o", "link", "show", "weft0")
	steadyFlows(t, 5341, 45*time.Second, func() {
		stamp := time.Now().Format("150405")
		err := cluster.Upgrade(t.Context(), append(chartValues,
			"--set-string", "agent.podAnnotations.upgrade="+stamp, "--set-string", "operator.podAnnotations.upgrade="+stamp,
			"--wait", "--timeout=3m")...)
		if err != nil {
			t.Error(err)
		}
	})
	if after := inNode(t, "tb-node2", "ip", "-o", "link", "show", "weft0"); after != wireguard {
		t.Errorf("the mesh device changed by the upgrade:\nbefore %safter  %s", wireguard, after)
	}
	if err := cluster.WaitNodes(t.Context(), nodes, time.Minute); err != nil {
		t.Error(err)
	}
}

// TestUninstallAndCleanupLeaveANodeClean comes last: nothing works after it.
func TestUninstallAndCleanupLeaveANodeClean(t *testing.T) {
	endAudit(t) // Pods that outlive the network that encrypted for them are in the clear, as documented
	if err := cluster.StopProbes(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Uninstall(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := harness.Eventually(t.Context(), 2*time.Minute, "nothing of Weftnet is left on the nodes", func(context.Context) error {
		for i := range nodes {
			if left := remains(t, fmt.Sprintf("tb-node%d", i+1)); left != "" {
				return fmt.Errorf("tb-node%d still has:\n%s", i+1, left)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// remains lists what a node still has of Weftnet, by the marks by which Weftnet knows its own. The
// Pods that still run keep their links until they go.
func remains(t *testing.T, node string) string {
	t.Helper()
	const script = `ip -o link | grep -E ': weft[0-9]' ; ip route show table all proto 87 | grep -v ' dev weftp' ; ip -6 route show table all proto 87 | grep -v ' dev weftp' ;
ip rule | grep -E '^87[0-9][0-9]:' ; ip -6 rule | grep -E '^87[0-9][0-9]:' ; nft list tables | grep weftnet ; ls /etc/cni/net.d /opt/cni/bin | grep weftnet ; true`
	out, err := cluster.Testbed(t.Context(), "exec", node, "--", "bash", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}
