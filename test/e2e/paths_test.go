//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/test/harness"
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

// answered asks once from one probe Pod to another, in both families. Whoever has to be found anew,
// or asked twice, has lost a packet.
func answered(ctx context.Context, from, to int) error {
	var errs []error
	for _, addr := range harness.Addresses(&probes.Pods[to]) {
		if _, err := cluster.Exec(ctx, &probes.Pods[from], "ping", "-c", "1", "-W", "2", addr.String()); err != nil {
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
	err := harness.Eventually(t.Context(), time.Minute, "every pair talks through the NAT", func(ctx context.Context) error {
		return errors.Join(answered(ctx, 2, 0), answered(ctx, 2, 1), answered(ctx, 0, 2), answered(ctx, 1, 2))
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, outside := range []string{"tb-node1", peer} {
		err := harness.Eventually(t.Context(), 30*time.Second, outside+" tells that a NAT stands before "+node, func(context.Context) error {
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
	if err := answered(t.Context(), 1, 2); err != nil {
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
