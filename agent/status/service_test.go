package status

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/reconcile/service"
)

// TestServicesReady: the condition says what the kernel refuses, and of whom.
func TestServicesReady(t *testing.T) {
	refusal := nft.Refusal{Owner: "web/shop", Err: fmt.Errorf("add element endpoints4: %w", unix.ENOSPC)}
	for name, row := range map[string]struct {
		report service.Report
		status metav1.ConditionStatus
		reason string
		says   []string
	}{
		"waiting":      {service.Report{Waiting: "no list yet"}, metav1.ConditionFalse, reasonWaiting, []string{"no list yet"}},
		"just started": {service.Report{}, metav1.ConditionFalse, reasonWaiting, []string{"not programmed yet"}},
		"every transaction": {
			service.Report{Synced: true, Err: errors.Join(fmt.Errorf("change table inet weftnet-service: commit: %w", unix.EPERM))},
			metav1.ConditionFalse, reasonFailing, []string{"weftnet-service", "operation not permitted"},
		},
		"one Service": {service.Report{Synced: true, Refused: []nft.Refusal{refusal}}, metav1.ConditionFalse, reasonRefused, []string{"1 Services", "web/shop", "no space left"}},
		"in force":    {service.Report{Synced: true}, metav1.ConditionTrue, reasonInForce, nil},
	} {
		got := servicesReady(row.report)
		if got.Status != row.status || got.Reason != row.reason {
			t.Errorf("%s: %+v", name, got)
		}
		for _, text := range row.says {
			if !strings.Contains(got.Message, text) {
				t.Errorf("%s: %q does not say %q", name, got.Message, text)
			}
		}
	}
	problems := serviceProblems(service.Report{Refused: []nft.Refusal{refusal}})
	if len(problems) != 1 || problems[0].Namespace != "web" || problems[0].Name != "shop" || !strings.Contains(problems[0].Message, "no space left") {
		t.Errorf("the event about it is %+v", problems)
	}
}
