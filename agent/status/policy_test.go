package status

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weftnet/agent/reconcile/policy"
	"github.com/weftnet/weftnet/crds/v1alpha1"
)

// TestPolicyReady : every reason that docs/operations.md names, with what its message has to say.
func TestPolicyReady(t *testing.T) {
	refused := fmt.Errorf("add element pods4: %w", unix.ENFILE)
	for name, row := range map[string]struct {
		report policy.Report
		status metav1.ConditionStatus
		reason string
		says   []string
	}{
		"in force":    {policy.Report{}, metav1.ConditionTrue, "InForce", []string{"network policies"}},
		"waiting":     {policy.Report{Waiting: "reading NetworkPolicies"}, metav1.ConditionFalse, "Waiting", []string{"reading NetworkPolicies"}},
		"closed":      {policy.Report{Err: refused, Shut: []string{"shop/db-0", "shop/db-1"}}, metav1.ConditionFalse, "PodsClosed", []string{"shop/db-0", "shop/db-1", "too many open files"}},
		"failing":     {policy.Report{Err: errors.Join(refused, unix.EPERM)}, metav1.ConditionFalse, "Failing", []string{"too many open files", "not permitted"}},
		"not cutting": {policy.Report{Cutting: unix.ENOMEM}, metav1.ConditionFalse, "FlowsNotCut", []string{"cannot allocate memory"}},
		"closed goes before not cutting": {policy.Report{Err: refused, Shut: []string{"shop/db-0"}, Cutting: unix.ENOMEM},
			metav1.ConditionFalse, "PodsClosed", []string{"shop/db-0"}},
	} {
		r := report(2)
		s := Compute(Observed{Report: r, Generation: 7, Now: now, Policy: &row.report})
		got := find(t, s, v1alpha1.ConditionPolicyReady)
		if got.Status != row.status || got.Reason != row.reason || got.ObservedGeneration != 7 || strings.Contains(got.Message, "\n") {
			t.Errorf("%s: %+v", name, got)
		}
		for _, text := range row.says {
			if !strings.Contains(got.Message, text) {
				t.Errorf("%s: %q does not say %q", name, got.Message, text)
			}
		}
	}
	off := Compute(Observed{Report: report(2), Now: now})
	for _, c := range off.Conditions {
		if c.Type == v1alpha1.ConditionPolicyReady {
			t.Errorf("with the engine off there is %+v", c)
		}
	}
}
