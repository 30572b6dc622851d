package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	corev1 "k8s.io/api/core/v1"

	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/operator/plan"
)

// forgetPending is when a claim that never came back through the cache is given up: it was created
// and deleted while the cache was away.
const forgetPending = time.Minute

// blockMemory is what the API does not tell: how long each NodeBlock has been as it is, and which
// were created a moment ago. Losing it, at a restart, only makes a cooldown longer.
type blockMemory struct {
	since   map[types.UID]sighting
	pending map[netip.Prefix]pendingBlock
}

// sighting of one version of an object. The time has a monotonic reading: setting the clock does
// not change what is subtracted from it.
type sighting struct {
	version string
	first   time.Time
}

type pendingBlock struct {
	block   plan.Block
	created time.Time
}

func newBlockMemory() *blockMemory {
	return &blockMemory{since: map[types.UID]sighting{}, pending: map[netip.Prefix]pendingBlock{}}
}

// read turns the objects into the plan's blocks.
func (m *blockMemory) read(s *snapshot, items []v1alpha1.NodeBlock, now time.Time) []plan.Block {
	blocks := make([]plan.Block, 0, len(items)+len(m.pending))
	cooling := make(map[types.UID]sighting)
	for i := range items {
		object := &items[i]
		cidr, err := netip.ParsePrefix(object.Spec.CIDR)
		if err != nil || v1alpha1.NodeBlockName(cidr) != object.Name {
			continue // admission refuses these
		}
		s.nodeBlocks[cidr] = object
		delete(m.pending, cidr)
		b := plan.Block{CIDR: cidr, Node: object.Spec.Node, Pool: object.Spec.Pool, State: blockState(object.Status.State)}
		if b.State == plan.Cooling {
			seen, ok := m.since[object.UID]
			if !ok || seen.version != object.ResourceVersion {
				seen = sighting{object.ResourceVersion, now}
			}
			cooling[object.UID] = seen
			b.Observed = now.Sub(seen.first)
			if object.Status.CooldownLeft != nil {
				b.Left = object.Status.CooldownLeft.Duration
			}
		}
		blocks = append(blocks, b)
	}
	m.since = cooling
	for cidr, p := range m.pending {
		if now.Sub(p.created) > forgetPending {
			delete(m.pending, cidr)
			continue
		}
		blocks = append(blocks, p.block)
	}
	return blocks
}

// created notes a claim until the cache shows it.
func (m *blockMemory) created(b plan.Block, now time.Time) {
	b.Pending = true
	m.pending[b.CIDR] = pendingBlock{b, now}
}

func blockState(state v1alpha1.BlockState) plan.State {
	switch state {
	case v1alpha1.BlockBound:
		return plan.Bound
	case v1alpha1.BlockCooling:
		return plan.Cooling
	}
	return plan.Claimed
}

// applyBlocks takes every block to its next state.
func (r *allocationReconciler) applyBlocks(ctx context.Context, seen *snapshot, out plan.Output) error {
	changes := plan.Diff(seen.input.Blocks, out.Blocks)
	claims := func(c plan.Change) bool { return c.Verb == plan.Create }
	var stale error
	if slices.ContainsFunc(changes, claims) {
		if stale = r.poolsAsSeen(ctx, seen); stale != nil {
			changes = slices.DeleteFunc(changes, claims)
		}
	}
	done := make([]bool, len(changes))
	err := parallel(ctx, len(changes), func(ctx context.Context, i int) error {
		err := r.applyBlock(ctx, seen, changes[i])
		done[i] = err == nil
		return count("NodeBlock", string(changes[i].Verb), err)
	})
	for i, change := range changes {
		if done[i] && claims(change) {
			r.blocks.created(change.Block, r.now())
		}
	}
	return errors.Join(stale, err)
}

// poolsAsSeen looks past the cache before blocks are claimed: a node keeps its block for life, and whoever changes
// the pools and then lets a node join means it to get what the change says, though the news of the node may come first.
func (r *allocationReconciler) poolsAsSeen(ctx context.Context, seen *snapshot) error {
	var now v1alpha1.IPPoolList
	if err := r.live.List(ctx, &now); err != nil {
		return fmt.Errorf("look at the IPPools before blocks are claimed: %w", err)
	}
	same := len(now.Items) == len(seen.pools)
	for _, p := range now.Items {
		old := seen.pools[p.Name]
		same = same && old != nil && old.UID == p.UID && old.Generation == p.Generation
	}
	if !same {
		return fmt.Errorf("claim blocks: the IPPools have changed: %w", errStale)
	}
	return nil
}

func (r *allocationReconciler) applyBlock(ctx context.Context, seen *snapshot, change plan.Change) error {
	b := change.Block
	object := seen.nodeBlocks[b.CIDR]
	if change.Verb != plan.Create && object == nil {
		return nil // created a moment ago
	}
	var err error
	switch change.Verb {
	case plan.Create:
		err = r.client.Create(ctx, &v1alpha1.NodeBlock{
			ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.NodeBlockName(b.CIDR)},
			Spec:       v1alpha1.NodeBlockSpec{CIDR: b.CIDR.String(), Node: b.Node, Pool: b.Pool},
		})
	case plan.Update:
		err = r.client.Status().Update(ctx, withState(object, b))
	case plan.Delete:
		if b.State == plan.Cooling {
			if err := r.stillGone(ctx, seen, b); err != nil {
				return err
			}
		}
		err = client.IgnoreNotFound(r.client.Delete(ctx, object,
			client.Preconditions{UID: &object.UID, ResourceVersion: &object.ResourceVersion}))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", change, err)
	}
	return nil
}

func withState(object *v1alpha1.NodeBlock, b plan.Block) *v1alpha1.NodeBlock {
	object = object.DeepCopy()
	switch b.State {
	case plan.Bound:
		object.Status = v1alpha1.NodeBlockStatus{State: v1alpha1.BlockBound}
	case plan.Cooling:
		object.Status = v1alpha1.NodeBlockStatus{State: v1alpha1.BlockCooling, CooldownLeft: &metav1.Duration{Duration: b.Left}}
	case plan.Claimed:
		object.Status = v1alpha1.NodeBlockStatus{}
	}
	return object
}

// stillGone looks past the cache before a block that was in use is given up.
func (r *allocationReconciler) stillGone(ctx context.Context, seen *snapshot, b plan.Block) error {
	var mesh v1alpha1.MeshNode
	err := r.live.Get(ctx, types.NamespacedName{Name: b.Node}, &mesh)
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("look for the MeshNode %s: %w", b.Node, err)
	}
	if err == nil && slices.Contains(mesh.Spec.PodCIDRs, b.CIDR.String()) {
		return fmt.Errorf("free %s: the MeshNode %s has it: %w", b.CIDR, b.Node, errStale)
	}
	if seen.nodes[b.Node] != nil {
		return nil // the node is there and has another block
	}
	var node corev1.Node
	err = r.live.Get(ctx, types.NamespacedName{Name: b.Node}, &node)
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("look for the Node %s: %w", b.Node, err)
	}
	return fmt.Errorf("free %s: the Node %s is there: %w", b.CIDR, b.Node, errStale)
}
