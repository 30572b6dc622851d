package controllers

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/operator/plan"
)

// meshConfigReconciler says of every MeshConfig whether it is read and whether it can be.
type meshConfigReconciler struct {
	client client.Client
	now    func() time.Time
}

func (r *meshConfigReconciler) add(mgr ctrl.Manager, suffix string) error {
	return ctrl.NewControllerManagedBy(mgr).Named("meshconfig" + suffix).For(&v1alpha1.MeshConfig{}).Complete(r)
}

// Reconcile writes the condition Ready.
func (r *meshConfigReconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var config v1alpha1.MeshConfig
	if err := r.client.Get(ctx, request.NamespacedName, &config); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	before := config.Status.DeepCopy()
	meta.SetStatusCondition(&config.Status.Conditions,
		condition(v1alpha1.ConditionReady, judgeConfig(&config), config.Generation, r.now()))
	if apiequality.Semantic.DeepEqual(*before, config.Status) {
		return ctrl.Result{}, nil
	}
	err := count("MeshConfig", "status", r.client.Status().Update(ctx, &config))
	if isRefusal(err) {
		return ctrl.Result{RequeueAfter: retry}, nil
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("write the status of the MeshConfig %s: %w", config.Name, err)
	}
	return ctrl.Result{}, nil
}

// reasonNotRead : the MeshConfig has another name than the one that is read.
const reasonNotRead plan.Reason = "NotRead"

// judgeConfig is the condition Ready. Admission refuses all that it finds fault with; objects may
// have come past it.
func judgeConfig(config *v1alpha1.MeshConfig) plan.Condition {
	if config.Name != v1alpha1.MeshConfigName {
		return plan.Condition{Reason: reasonNotRead, Message: "only the MeshConfig named default is read"}
	}
	var faults []string
	for _, text := range config.Spec.NoMasqueradeCIDRs {
		if prefix, err := netip.ParsePrefix(text); err != nil || prefix != prefix.Masked() {
			faults = append(faults, fmt.Sprintf("noMasqueradeCIDRs: %s is not a canonical range of addresses", text))
		}
	}
	if mtu := config.Spec.MTU; mtu != 0 && mtu < 1280 {
		faults = append(faults, fmt.Sprintf("mtu: %d is less than IPv6 allows (1280)", mtu))
	}
	if len(faults) > 0 {
		return plan.Condition{Reason: plan.ReasonInvalid, Message: strings.Join(faults, "; ")}
	}
	return plan.Condition{True: true, Reason: plan.ReasonReady, Message: "the settings are in force"}
}
