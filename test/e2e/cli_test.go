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
