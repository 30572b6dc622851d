package controllers

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/source/policy/object"
	"github.com/weftnet/weftnet/crds/v1alpha1"
	"github.com/weftnet/weftnet/operator/plan"
)

// Reasons of ConditionAccepted, and of events.
const (
	reasonAccepted    plan.Reason = "Accepted"
	reasonNotHonoured plan.Reason = "NotHonoured"
)

// lookForCRD is how often it is looked whether ClusterNetworkPolicies can be read.
const lookForCRD = 15 * time.Second

// networkPolicyReconciler makes an event of everything in a NetworkPolicy that cannot be honoured:
// the kind has no conditions. Each agent finds the same, and one teller is enough.
type networkPolicyReconciler struct {
	client client.Client
	events events.EventRecorder

	mu sync.Mutex
	// told are the versions that have been judged, of the policies that there are.
	told map[types.NamespacedName]judged
}

// judged is one version of a policy.
type judged struct {
	uid        types.UID
	generation int64
}

func (r *networkPolicyReconciler) add(mgr ctrl.Manager, suffix string) error {
	return ctrl.NewControllerManagedBy(mgr).Named("networkpolicy" + suffix).
		For(&networkingv1.NetworkPolicy{}).WithEventFilter(predicate.GenerationChangedPredicate{}).Complete(r)
}

// Reconcile tells the problems of one policy.
func (r *networkPolicyReconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var p networkingv1.NetworkPolicy
	err := r.client.Get(ctx, request.NamespacedName, &p)
	r.mu.Lock()
	defer r.mu.Unlock()
	if apierrors.IsNotFound(err) {
		delete(r.told, request.NamespacedName)
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("read the NetworkPolicy %s: %w", request.NamespacedName, err)
	}
	now := judged{p.UID, p.Generation}
	if r.told[request.NamespacedName] == now {
		return ctrl.Result{}, nil
	}
	r.told[request.NamespacedName] = now
	e := policy.New(policy.Options{})
	e.SetNetworkPolicy(object.NetworkPolicy(&p))
	for _, problem := range e.Problems() {
		r.events.Eventf(&p, nil, corev1.EventTypeWarning, string(reasonNotHonoured), "Enforce", "%s", note(wording(problem)))
	}
	return ctrl.Result{}, nil
}

func wording(p policy.Problem) string { return p.Field + ": " + p.Message }

// note is what an event can hold of a text: the API refuses one of more than 1,024 bytes.
func note(text string) string {
	const most, more = 1024, " ..."
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most-len(more)], "") + more
}

// clusterPolicyReconciler says of every ClusterNetworkPolicy whether all of it can be honoured.
type clusterPolicyReconciler struct {
	client client.Client
	events events.EventRecorder
	now    func() time.Time
}

func (r *clusterPolicyReconciler) add(mgr ctrl.Manager, suffix string) error {
	return ctrl.NewControllerManagedBy(mgr).Named("clusternetworkpolicy" + suffix).
		For(&policyv1alpha2.ClusterNetworkPolicy{}).WithEventFilter(predicate.GenerationChangedPredicate{}).Complete(r)
}

// Reconcile writes the condition, and an event where it turns bad.
func (r *clusterPolicyReconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var p policyv1alpha2.ClusterNetworkPolicy
	if err := r.client.Get(ctx, request.NamespacedName, &p); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	want := condition(v1alpha1.ConditionPolicyAccepted, judgeClusterPolicy(&p), p.Generation, r.now())
	old := meta.FindStatusCondition(p.Status.Conditions, want.Type)
	if old != nil && old.Status == want.Status {
		want.LastTransitionTime = old.LastTransitionTime
		if *old == want {
			return ctrl.Result{}, nil
		}
	}
	if err := r.write(ctx, &p, want); err != nil {
		if isRefusal(err) {
			return ctrl.Result{RequeueAfter: retry}, nil
		}
		return ctrl.Result{}, fmt.Errorf("write the status of the ClusterNetworkPolicy %s: %w", p.Name, err)
	}
	if want.Status == metav1.ConditionFalse && (old == nil || old.Message != want.Message) {
		r.events.Eventf(&p, nil, corev1.EventTypeWarning, want.Reason, "Enforce", "%s", note(want.Message))
	}
	return ctrl.Result{}, nil
}

// judgeClusterPolicy names every field that cannot be honoured.
func judgeClusterPolicy(p *policyv1alpha2.ClusterNetworkPolicy) plan.Condition {
	e := policy.New(policy.Options{})
	e.SetClusterNetworkPolicy(object.ClusterNetworkPolicy(p))
	var faults []string
	for _, problem := range e.Problems() {
		faults = append(faults, wording(problem))
	}
	if len(faults) > 0 {
		const most = 4000
		text := "what follows fails closed; " + strings.Join(faults, "; ")
		return plan.Condition{Reason: reasonNotHonoured, Message: strings.ToValidUTF8(text[:min(len(text), most)], "")}
	}
	return plan.Condition{True: true, Reason: reasonAccepted, Message: "every node enforces it"}
}

// write owns one condition, and leaves those of other implementations alone.
func (r *clusterPolicyReconciler) write(ctx context.Context, p *policyv1alpha2.ClusterNetworkPolicy, c metav1.Condition) error {
	patch := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": policyv1alpha2.GroupVersion.String(), "kind": "ClusterNetworkPolicy",
		"metadata": map[string]any{"name": p.Name, "uid": string(p.UID)},
		"status": map[string]any{"conditions": []any{map[string]any{
			"type": c.Type, "status": string(c.Status), "reason": c.Reason, "message": c.Message,
			"observedGeneration": c.ObservedGeneration, "lastTransitionTime": c.LastTransitionTime.UTC().Format(time.RFC3339),
		}}},
	}}
	return count("ClusterNetworkPolicy", "status",
		r.client.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(patch), client.FieldOwner(Name), client.ForceOwnership))
}

// addPolicies puts the controllers of policies into the manager; that of ClusterNetworkPolicies once
// their CRD is there.
func addPolicies(mgr ctrl.Manager, suffix string) error {
	recorder := mgr.GetEventRecorder(Name)
	np := &networkPolicyReconciler{client: mgr.GetClient(), events: recorder, told: map[types.NamespacedName]judged{}}
	if err := np.add(mgr, suffix); err != nil {
		return fmt.Errorf("add the NetworkPolicy controller: %w", err)
	}
	cnp := &clusterPolicyReconciler{client: mgr.GetClient(), events: recorder, now: time.Now}
	return mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		if !awaitKind(ctx, mgr.GetRESTMapper(), policyv1alpha2.GroupVersion.Version) {
			return nil
		}
		return cnp.add(mgr, suffix)
	}))
}

// awaitKind waits until the API server serves ClusterNetworkPolicy; false when the context ends.
func awaitKind(ctx context.Context, mapper meta.RESTMapper, version string) bool {
	kind := schema.GroupKind{Group: policyv1alpha2.GroupName, Kind: "ClusterNetworkPolicy"}
	again := time.NewTicker(lookForCRD)
	defer again.Stop()
	for {
		if _, err := mapper.RESTMapping(kind, version); err == nil {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-again.C:
		}
	}
}
