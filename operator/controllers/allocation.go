package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/operator/plan"
)

// retry is how soon a plan is made again when a write was refused because somebody was faster.
// The news usually arrives before that.
const retry = time.Second

// allocationReconciler makes the whole plan at every change of anything it depends on. Changes
// that come while it works are taken together by the next one.
type allocationReconciler struct {
	client   client.Client // reads from the caches
	live     client.Reader // reads from the API server
	events   *reporter
	cooldown time.Duration
	now      func() time.Time
	blocks   *blockMemory
	// hasServices says that the cluster has ServiceCIDR objects (Kubernetes 1.33 and later).
	hasServices bool
}

// everything is the one key of the work queue.
var everything = reconcile.Request{NamespacedName: types.NamespacedName{Name: "all"}}

func (r *allocationReconciler) add(mgr ctrl.Manager, suffix string) error {
	all := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request {
		return []reconcile.Request{everything}
	})
	warm := true // a standby that is to lead at once needs full caches
	b := ctrl.NewControllerManagedBy(mgr).
		Named("allocation"+suffix).
		WithOptions(controller.Options{EnableWarmup: &warm}).
		Watches(&corev1.Node{}, all, builder.WithPredicates(nodeChanged())).
		Watches(&v1alpha1.MeshNode{}, all, builder.WithPredicates(meshNodeChanged())).
		Watches(&v1alpha1.IPPool{}, all).
		Watches(&v1alpha1.NodeBlock{}, all).
		Watches(&v1alpha1.MeshConfig{}, all, builder.WithPredicates(meshConfigChanged()))
	_, err := mgr.GetRESTMapper().RESTMapping(schema.GroupKind{Group: networkingv1.GroupName, Kind: "ServiceCIDR"}, "v1")
	switch {
	case meta.IsNoMatchError(err):
		mgr.GetLogger().Info("the cluster has no ServiceCIDR objects: pools are not compared with Service ranges")
	case err != nil:
		return fmt.Errorf("look for ServiceCIDR: %w", err)
	default:
		r.hasServices = true
		b = b.Watches(&networkingv1.ServiceCIDR{}, all)
	}
	return b.Complete(r)
}

// Reconcile gathers, plans and applies.
func (r *allocationReconciler) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	seen, err := r.gather(ctx)
	if err != nil {
		return ctrl.Result{}, err
	}
	start := r.now()
	out := plan.Compute(seen.input)
	planDuration.Observe(r.now().Sub(start).Seconds())

	err = errors.Join(
		r.applyMeshNodes(ctx, seen, out),
		r.applyBlocks(ctx, seen, out),
		r.applyPools(ctx, seen, out),
	)
	r.events.report(seen, out.Problems)
	measure(out)
	return r.result(ctx, out, err)
}

// result tells refusals, which the next plan takes into account, from failures.
func (r *allocationReconciler) result(ctx context.Context, out plan.Output, err error) (ctrl.Result, error) {
	again := out.Again
	var refused int
	failures := each(err, func(err error) bool {
		if isRefusal(err) {
			refused++
			return false
		}
		return true
	})
	if refused > 0 {
		log.FromContext(ctx).V(1).Info("somebody was faster", "writes", refused)
		if again == 0 || retry < again {
			again = retry
		}
	}
	if len(failures) > 0 {
		return ctrl.Result{}, fmt.Errorf("carry out the plan: %w", errors.Join(failures...))
	}
	return ctrl.Result{RequeueAfter: again}, nil
}

// errStale says that a look past the cache showed something else than the plan was made from.
var errStale = errors.New("the caches lag behind")

// isRefusal says that a write was out of date.
func isRefusal(err error) bool {
	return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || errors.Is(err, errStale)
}

// each walks joined errors and returns those that keep says to keep.
func each(err error, keep func(error) bool) []error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var kept []error
		for _, e := range joined.Unwrap() {
			kept = append(kept, each(e, keep)...)
		}
		return kept
	}
	if keep(err) {
		return []error{err}
	}
	return nil
}
