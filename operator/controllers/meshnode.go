package controllers

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/operator/plan"
)

// applyMeshNodes writes what the nodes were given, and the condition Allocated.
func (r *allocationReconciler) applyMeshNodes(ctx context.Context, seen *snapshot, out plan.Output) error {
	have := make(map[string]plan.MeshNode, len(seen.input.MeshNodes))
	for _, m := range seen.input.MeshNodes {
		have[m.Name] = m
	}
	var changed []plan.MeshNode
	for _, m := range out.MeshNodes {
		if old, ok := have[m.Name]; !ok || !plan.SameSpec(old, m) || old.Allocated != m.Allocated {
			changed = append(changed, m)
		}
	}
	return parallel(ctx, len(changed), func(ctx context.Context, i int) error {
		m := changed[i]
		old, exists := have[m.Name]
		return r.applyMeshNode(ctx, seen, m, old, exists)
	})
}

func (r *allocationReconciler) applyMeshNode(ctx context.Context, seen *snapshot, want, old plan.MeshNode, exists bool) error {
	object := seen.meshNodes[want.Name]
	if !exists || !plan.SameSpec(old, want) {
		if err := r.stillBound(ctx, want, old); err != nil {
			return count("MeshNode", "update", err)
		}
		written, err := r.writeMeshNode(ctx, object, want)
		if err != nil {
			return err
		}
		object = written
		r.events.gave(seen.nodes[want.Name], newBlocks(old, want))
	}
	if allocated(object) == want.Allocated {
		return nil
	}
	return count("MeshNode", "status", r.writeAllocated(ctx, object, want.Allocated))
}

// newBlocks are those that the node did not have.
func newBlocks(old, want plan.MeshNode) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(want.PodCIDRs), func(p netip.Prefix) bool { return slices.Contains(old.PodCIDRs, p) })
}

// stillBound looks past the cache before a block is handed to a node: see package plan, step 3.
func (r *allocationReconciler) stillBound(ctx context.Context, want, old plan.MeshNode) error {
	for _, block := range newBlocks(old, want) {
		var b v1alpha1.NodeBlock
		if err := r.live.Get(ctx, types.NamespacedName{Name: v1alpha1.NodeBlockName(block)}, &b); err != nil {
			return fmt.Errorf("look at the NodeBlock of %s: %w", block, err)
		}
		if b.Spec.Node != want.Name || b.Status.State != v1alpha1.BlockBound || b.DeletionTimestamp != nil {
			return fmt.Errorf("give %s to %s: it is not its own: %w", block, want.Name, errStale)
		}
	}
	return nil
}

func (r *allocationReconciler) writeMeshNode(ctx context.Context, seen *v1alpha1.MeshNode, want plan.MeshNode) (*v1alpha1.MeshNode, error) {
	object := &v1alpha1.MeshNode{ObjectMeta: metav1.ObjectMeta{Name: want.Name}}
	if seen != nil {
		object = seen.DeepCopy()
	}
	object.Spec = v1alpha1.MeshNodeSpec{
		PodCIDRs: texts(want.PodCIDRs),
		MeshIPs:  texts(want.MeshIPs),
		NodeIPs:  texts(want.NodeIPs),
	}
	own(object, want)
	if seen == nil {
		if err := count("MeshNode", "create", r.client.Create(ctx, object)); err != nil {
			return nil, fmt.Errorf("create the MeshNode %s: %w", want.Name, err)
		}
		return object, nil
	}
	if err := count("MeshNode", "update", r.client.Update(ctx, object)); err != nil {
		return nil, fmt.Errorf("update the MeshNode %s: %w", want.Name, err)
	}
	return object, nil
}

// own makes the Node the owner, so that the MeshNode goes with it. References to others stay.
func own(object *v1alpha1.MeshNode, want plan.MeshNode) {
	object.OwnerReferences = slices.DeleteFunc(object.OwnerReferences, func(o metav1.OwnerReference) bool {
		return o.Kind == "Node" && o.APIVersion == "v1"
	})
	object.OwnerReferences = append(object.OwnerReferences,
		metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: want.Name, UID: types.UID(want.OwnerUID)})
}

// writeAllocated owns one condition and leaves the rest of the status to the agent: that is what
// server-side apply is for.
func (r *allocationReconciler) writeAllocated(ctx context.Context, object *v1alpha1.MeshNode, want plan.Condition) error {
	c := condition(v1alpha1.ConditionAllocated, want, object.Generation, r.now())
	if old := meta.FindStatusCondition(object.Status.Conditions, c.Type); old != nil && old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	patch := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": v1alpha1.GroupVersion.String(),
		"kind":       "MeshNode",
		"metadata":   map[string]any{"name": object.Name, "uid": string(object.UID)},
		"status": map[string]any{"conditions": []any{map[string]any{
			"type": c.Type, "status": string(c.Status), "reason": c.Reason, "message": c.Message,
			"observedGeneration": c.ObservedGeneration, "lastTransitionTime": c.LastTransitionTime.UTC().Format(time.RFC3339),
		}}},
	}}
	err := r.client.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(patch), client.FieldOwner(Name), client.ForceOwnership)
	if err != nil {
		return fmt.Errorf("write the condition %s of the MeshNode %s: %w", c.Type, object.Name, err)
	}
	return nil
}

// condition in the form of the API.
func condition(kind string, c plan.Condition, generation int64, now time.Time) metav1.Condition {
	status := metav1.ConditionFalse
	if c.True {
		status = metav1.ConditionTrue
	}
	return metav1.Condition{
		Type: kind, Status: status, Reason: string(c.Reason), Message: c.Message,
		ObservedGeneration: generation, LastTransitionTime: metav1.NewTime(now.Truncate(time.Second)),
	}
}

func texts[T fmt.Stringer](values []T) []string {
	var list []string
	for _, v := range values {
		list = append(list, v.String())
	}
	return list
}
