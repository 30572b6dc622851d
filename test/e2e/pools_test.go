//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/test/harness"
)

const poolLabel = "weftnet-test/pool"

// TestNodeJoinsAnExhaustedPoolAndLeaves splits the nodes between pools. A pool without a block for a newcomer says
// so, and so does the newcomer; both heal when a range comes, and Pods of different pools reach each other. Nothing
// of the other nodes changes, neither when it comes nor when it goes.
func TestNodeJoinsAnExhaustedPoolAndLeaves(t *testing.T) {
	before := map[string]identity{}
	for i := range nodes {
		name := fmt.Sprintf("tb-node%d", i+1)
		labelNode(t, name)
		before[name] = identityOf(meshNode(t, name))
	}
	mine := &metav1.LabelSelector{MatchLabels: map[string]string{poolLabel: "first"}}
	others := &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: poolLabel, Operator: metav1.LabelSelectorOpDoesNotExist}}}
	selectNodes(t, "default", mine)
	spare := harness.SparePodCIDRs()
	createPool(t, "e2e-small", others, part(spare[0], 24), part(spare[1], 64)) // one block of each family
	// A Node without a machine takes them.
	createGhost(t, "e2e-ghost")
	awaitAllocated(t, "e2e-ghost", "Allocated")

	added, remove := addNode(t)
	awaitAllocated(t, added, "PoolExhausted")
	awaitExhausted(t, "e2e-small", true)
	awaitEvent(t, "Node", added, "PoolExhausted")

	createPool(t, "e2e-more", others, part(next(spare[0], 24), 24), part(next(spare[1], 64), 64))
	awaitAllocated(t, added, "Allocated")
	awaitExhausted(t, "e2e-small", false)
	deleteGhost(t, "e2e-ghost")
	refreshProbes(t, nodes+1)
	node := meshNode(t, added)
	for _, block := range node.Spec.PodCIDRs {
		if p := netip.MustParsePrefix(block); !slices.ContainsFunc(spare, p.Overlaps) {
			t.Errorf("the new node has %s, which is of no pool that selects it", block)
		}
	}
	for name, was := range before {
		if now := identityOf(meshNode(t, name)); now != was {
			t.Errorf("%s is now %+v because pools changed, it was %+v", name, now, was)
		}
	}
	checkAllPairs(t)
	if err := remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	refreshProbes(t, nodes)
	checkAllPairs(t)
}

// part is the first range of a length in a larger one, next the one behind it.
func part(p netip.Prefix, bits int) netip.Prefix { return netip.PrefixFrom(p.Addr(), bits) }

func next(p netip.Prefix, bits int) netip.Prefix {
	raw := p.Addr().AsSlice()
	raw[bits/8-1]++
	addr, _ := netip.AddrFromSlice(raw)
	return netip.PrefixFrom(addr, bits)
}

// labelNode marks a node until the test ends.
func labelNode(t *testing.T, name string) {
	t.Helper()
	patch := func(ctx context.Context, value string) error {
		body := fmt.Sprintf(`{"metadata":{"labels":{%q:%s}}}`, poolLabel, value)
		_, err := cluster.Client.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, []byte(body), metav1.PatchOptions{})
		return err
	}
	t.Cleanup(func() {
		if err := patch(context.Background(), "null"); err != nil {
			t.Error(err)
		}
	})
	if err := patch(t.Context(), `"first"`); err != nil {
		t.Fatal(err)
	}
}

// selectNodes changes whom a pool is for until the test ends.
func selectNodes(t *testing.T, name string, selector *metav1.LabelSelector) {
	t.Helper()
	var was *metav1.LabelSelector
	put := func(ctx context.Context, want *metav1.LabelSelector) error {
		var pool v1alpha1.IPPool
		if err := cluster.Mesh.Get(ctx, client.ObjectKey{Name: name}, &pool); err != nil {
			return err
		}
		old := pool.DeepCopy()
		was, pool.Spec.NodeSelector = pool.Spec.NodeSelector, want
		return cluster.Mesh.Patch(ctx, &pool, client.MergeFrom(old))
	}
	if err := put(t.Context(), selector); err != nil {
		t.Fatal(err)
	}
	before := was
	t.Cleanup(func() {
		if err := put(context.Background(), before); err != nil {
			t.Error(err)
		}
	})
}

func createPool(t *testing.T, name string, selector *metav1.LabelSelector, ranges ...netip.Prefix) {
	t.Helper()
	pool := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.IPPoolSpec{NodeSelector: selector}}
	for _, r := range ranges {
		pool.Spec.CIDRs = append(pool.Spec.CIDRs, v1alpha1.PoolCIDR{CIDR: r.String()})
	}
	if err := cluster.Mesh.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Mesh.Delete(context.Background(), pool); err != nil {
			t.Error(err)
		}
	})
}

func createGhost(t *testing.T, name string) {
	t.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{Unschedulable: true}}
	if _, err := cluster.Client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Client.CoreV1().Nodes().Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
}

func deleteGhost(t *testing.T, name string) {
	t.Helper()
	if err := cluster.Client.CoreV1().Nodes().Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}

// addNode adds a node until remove is called, or the test ends.
func addNode(t *testing.T) (name string, remove func(ctx context.Context) error) {
	t.Helper()
	out, err := cluster.Testbed(t.Context(), "node", "add")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(out)
	name = lines[len(lines)-1]
	removed := false
	remove = func(ctx context.Context) error {
		if removed {
			return nil
		}
		removed = true
		_, err := cluster.Testbed(ctx, "node", "remove", name)
		return err
	}
	t.Cleanup(func() {
		if err := remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := cluster.LoadImages(t.Context()); err != nil {
		t.Fatal(err)
	}
	return name, remove
}

func awaitAllocated(t *testing.T, name, reason string) {
	t.Helper()
	err := harness.Eventually(t.Context(), time.Minute, "MeshNode "+name+" is "+reason, func(ctx context.Context) error {
		var node v1alpha1.MeshNode
		if err := cluster.Mesh.Get(ctx, client.ObjectKey{Name: name}, &node); err != nil {
			return err
		}
		return wantReason(node.Status.Conditions, v1alpha1.ConditionAllocated, reason)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func wantReason(conditions []metav1.Condition, kind, reason string) error {
	for _, c := range conditions {
		if c.Type == kind && c.Reason == reason {
			return nil
		}
	}
	return fmt.Errorf("the conditions are %+v", conditions)
}

func awaitExhausted(t *testing.T, name string, want bool) {
	t.Helper()
	err := harness.Eventually(t.Context(), time.Minute, fmt.Sprintf("IPPool %s is exhausted: %v", name, want), func(ctx context.Context) error {
		var pool v1alpha1.IPPool
		if err := cluster.Mesh.Get(ctx, client.ObjectKey{Name: name}, &pool); err != nil {
			return err
		}
		reason := "BlocksFree"
		if want {
			reason = "PoolExhausted"
		}
		return wantReason(pool.Status.Conditions, v1alpha1.ConditionExhausted, reason)
	})
	if err != nil {
		t.Error(err)
	}
}

func awaitEvent(t *testing.T, kind, name, reason string) {
	t.Helper()
	err := harness.Eventually(t.Context(), 30*time.Second, fmt.Sprintf("event %s of %s %s", reason, kind, name), func(ctx context.Context) error {
		events, err := cluster.Client.EventsV1().Events("").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, e := range events.Items {
			if e.Regarding.Kind == kind && e.Regarding.Name == name && e.Reason == reason {
				t.Logf("event: %s %s: %s: %s", kind, name, e.Reason, e.Note)
				return nil
			}
		}
		return fmt.Errorf("not among %d events", len(events.Items))
	})
	if err != nil {
		t.Error(err)
	}
}

// TestNodeJoinsAndLeaves changes nothing of the other nodes.
func TestNodeJoinsAndLeaves(t *testing.T) {
	before := map[string]identity{}
	for i := range nodes {
		name := fmt.Sprintf("tb-node%d", i+1)
		before[name] = identityOf(meshNode(t, name))
	}
	_, remove := addNode(t)
	refreshProbes(t, nodes+1)
	for name, was := range before {
		if now := identityOf(meshNode(t, name)); now != was {
			t.Errorf("%s is now %+v because another node came, it was %+v", name, now, was)
		}
	}
	if err := remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	refreshProbes(t, nodes)
	checkAllPairs(t)
}
