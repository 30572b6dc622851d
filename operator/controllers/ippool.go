package controllers

import (
	"context"
	"fmt"
	"strings"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/operator/plan"
)

// applyPools writes the status of every pool that has changed. It carries the version seen: the
// status says which ranges are in use, and an operator that lags behind must not take that back.
func (r *allocationReconciler) applyPools(ctx context.Context, seen *snapshot, out plan.Output) error {
	return parallel(ctx, len(out.Pools), func(ctx context.Context, i int) error {
		status := out.Pools[i]
		object := seen.pools[status.Name].DeepCopy()
		before := object.Status.DeepCopy()
		r.fillPool(object, status)
		if apiequality.Semantic.DeepEqual(*before, object.Status) {
			return nil
		}
		if err := count("IPPool", "status", r.client.Status().Update(ctx, object)); err != nil {
			return fmt.Errorf("write the status of the IPPool %s: %w", status.Name, err)
		}
		return nil
	})
}

func (r *allocationReconciler) fillPool(object *v1alpha1.IPPool, status plan.PoolStatus) {
	var summary []string
	object.Status.Usage = nil
	for _, u := range status.Usage {
		object.Status.Usage = append(object.Status.Usage, v1alpha1.PoolUsage{
			CIDR: u.CIDR.String(), BlockSize: int32(u.BlockSize), //nolint:gosec // at most 128
			Allocated: u.Allocated, Cooling: u.Cooling, Free: u.Free, Refused: u.Refused,
		})
		if u.Refused != "" {
			summary = append(summary, fmt.Sprintf("%s refused", u.CIDR))
			continue
		}
		summary = append(summary, fmt.Sprintf("%s %d/%d", u.CIDR, u.Allocated, u.Allocated+u.Free))
	}
	object.Status.Summary = strings.Join(summary, ", ")
	for kind, c := range map[string]plan.Condition{
		v1alpha1.ConditionReady: status.Ready, v1alpha1.ConditionConflict: status.Conflict,
		v1alpha1.ConditionExhausted: status.Exhausted, v1alpha1.ConditionShrunk: status.Shrunk,
	} {
		meta.SetStatusCondition(&object.Status.Conditions, condition(kind, c, object.Generation, r.now()))
	}
}
