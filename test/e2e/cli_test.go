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

// weft runs the command-line client as an administrator of the cluster would.
func weft(ctx context.Context, t *testing.T, args ...string) (string, error) {
	t.Helper()
	binary := harness.Bin(cluster.Root, "weft")
	if _, err := harness.Command(ctx, cluster.Root, nil, "go", "build", "-o", binary, "./cli"); err != nil {
		t.Fatal(err)
	}
	return harness.Command(ctx, cluster.Root, nil, binary, args...)
}

// TestWeftOnAHealthyMesh : the command finds every node with a handshake, a pair that works in both
// directions, and a cluster that is fit.
func TestWeftOnAHealthyMesh(t *testing.T) {
	err := harness.Eventually(t.Context(), time.Minute, "weft status has nothing to complain of", func(ctx context.Context) error {
		out, err := weft(ctx, t, "status")
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		for i := range nodes {
			if name := fmt.Sprintf("tb-node%d", i+1); !strings.Contains(out, name) {
				t.Errorf("weft status does not have %s:\n%s", name, out)
			}
		}
		if strings.Count(out, " ago") != nodes || strings.Count(out, fmt.Sprintf("%d/%d", nodes-1, nodes-1)) != nodes {
			return fmt.Errorf("not every node has its peers and a handshake:\n%s", out)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if out, err := weft(t.Context(), t, "explain", "tb-node1", "tb-node2"); err != nil || !strings.Contains(out, "tb-node1 <-> tb-node2: works") {
		t.Errorf("weft explain: %v\n%s", err, out)
	}
	if out, err := weft(t.Context(), t, "explain", "tb-node1", "nobody"); err == nil || !strings.Contains(out, "no Node of this name") {
		t.Errorf("weft explain with a node that is not there: %v\n%s", err, out)
	}
	if out, err := weft(t.Context(), t, "check"); err != nil {
		t.Errorf("weft check: %v\n%s", err, out)
	}
}

// TestWeftNamesAnAgentThatHangs : everything that Kubernetes knows of the node still looks well, and the command
// neither waits for the agent nor passes over it.
func TestWeftNamesAnAgentThatHangs(t *testing.T) {
	fault(t, "pause", "agent", "--node=tb-node2")
	begin := time.Now()
	out, err := weft(t.Context(), t, "status")
	took := time.Since(begin)
	if err == nil || !strings.Contains(out, "on tb-node2: ") || !strings.Contains(out, "it does not answer: no answer within 3s") {
		t.Errorf("weft status: %v\n%s", err, out)
	}
	if strings.Count(out, "no answer") != 2 { // in its row, and among the troubles
		t.Errorf("want one agent without an answer:\n%s", out)
	}
	if took > time.Minute { // the build of the command included, on a busy machine
		t.Errorf("weft status took %s", took)
	}
}

// TestWeftExplainsACutInOneDirection : long before a handshake is old, the command says which of the two directions
// is cut, and the agent of the side that hears nothing says so too.
func TestWeftExplainsACutInOneDirection(t *testing.T) {
	talk(t, 1, 2)
	talk(t, 2, 1)
	fault(t, "cut", "tb-node2", "tb-node3", "--udp", "--one-way")
	begin := time.Now()
	err := harness.Eventually(t.Context(), time.Minute, "weft explain names the direction", func(ctx context.Context) error {
		out, err := weft(ctx, t, "explain", "tb-node3", "tb-node2")
		if err == nil {
			return fmt.Errorf("weft explain has nothing to complain of:\n%s", out)
		}
		if !strings.Contains(out, "BROKEN   tb-node2 -> tb-node3: what tb-node2 sends to ") || !strings.Contains(out, "does not arrive") {
			return fmt.Errorf("weft explain: %w\n%s", err, out)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	t.Logf("told %s after the cut", time.Since(begin).Round(100*time.Millisecond))
	if err := harness.Eventually(t.Context(), time.Minute, "tb-node3 tells that it lost tb-node2", func(context.Context) error {
		return lostPeer(t, "tb-node3", "tb-node2")
	}); err != nil {
		t.Error(err)
	}
	if _, err := cluster.Testbed(t.Context(), "fault", "heal", "--all"); err != nil {
		t.Fatal(err)
	}
	if err := cluster.WaitNodes(t.Context(), nodes, 2*time.Minute); err != nil {
		t.Error(err)
	}
}
