package status

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/desired/mesh"
	desired "github.com/weftnet/weftnet/agent/desired/service"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/reconcile/service"
	"github.com/weftnet/weftnet/agent/state"
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
	problems := serviceProblems("node1", service.Report{Refused: []nft.Refusal{refusal}})
	if len(problems) != 1 || problems[0].Namespace != "web" || problems[0].Name != "shop" || !strings.Contains(problems[0].Message, "no space left") {
		t.Errorf("the event about it is %+v", problems)
	}
}

// TestARepairIsTold by the condition and an event, to the minute.
func TestARepairIsTold(t *testing.T) {
	at := time.Date(2026, 5, 1, 12, 3, 59, 0, time.UTC)
	for _, r := range []service.Report{{Synced: true, Repaired: at}, {Synced: true, Repaired: at.Add(-30 * time.Second)}} {
		c := servicesReady(r)
		if c.Status != metav1.ConditionTrue || !strings.Contains(c.Message, "weftnet-service") || !strings.HasSuffix(c.Message, "last at 2026-05-01T12:03Z") {
			t.Errorf("the condition is %+v", c)
		}
		got := serviceProblems("node1", r)
		if len(got) != 1 || got[0].Kind != mesh.KindMeshNode || got[0].Name != "node1" || got[0].Reason != "ServiceTableRepaired" || !strings.Contains(c.Message, got[0].Message) {
			t.Errorf("the event is %+v", got)
		}
	}
	if c := servicesReady(service.Report{Synced: true}); strings.Contains(c.Message, "another program") {
		t.Errorf("nothing happened, and the condition is %+v", c)
	}
}

// serviceLoop reports what a test says.
type serviceLoop struct{ r service.Report }

func (l serviceLoop) Report() (service.Report, bool) { return l.r, true }

// TestServiceMetrics: the names, labels and meaning of kube-proxy 1.37 (pkg/proxy/metrics), so that dashboards and
// alerts for it find what they ask for.
func TestServiceMetrics(t *testing.T) {
	all := NewMetrics()
	m := NewServiceMetrics(all)
	all.Registry.MustRegister(ServiceCollector{Loop: serviceLoop{service.Report{
		Synced: true, Services: 7, Elements: map[string]int{"services4": 9}, Problems: []desired.Problem{{Reason: "AddressConflict"}},
		NoLocal: desired.NoLocal{Internal: [2]int{1, 2}, External: [2]int{3, 4}},
	}}, Conntrack: func(context.Context) (int64, int64, error) { return 5, 100, nil }})
	at := time.Unix(1700000000, 500e6)
	m.Saw(3, 5)
	m.Queued(1, 2, at)
	if text := scrape(t, all); !hasLines(t, text, "kubeproxy_sync_proxy_rules_endpoint_changes_pending 2", "kubeproxy_sync_proxy_rules_service_changes_pending 1") {
		t.Log(text)
	}
	m.Synced(3*time.Millisecond, false, at.Add(time.Second))
	m.Synced(3*time.Millisecond, true, at.Add(time.Second))
	m.Programmed(20 * time.Millisecond)
	m.Failed()
	m.SweepFailed()
	m.Repaired()
	m.FlowsDeleted(map[state.Family]int{state.IPv4: 2}, time.Millisecond)
	m.Wrote(nft.Outcome{Transactions: 2, Added: 10, Deleted: 4, Observed: true})
	m.Answered("healthz", 200)
	m.Answered("livez", 503)
	want := []string{
		"kubeproxy_sync_proxy_rules_endpoint_changes_total 5", "kubeproxy_sync_proxy_rules_service_changes_total 3",
		"kubeproxy_sync_proxy_rules_endpoint_changes_pending 0", "kubeproxy_sync_proxy_rules_service_changes_pending 0",
		`kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family="IPv4"} 2`, `kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family="IPv6"} 0`,
		`kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="internal"} 1`,
		`kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv6",traffic_policy="external"} 4`,
		`kubeproxy_proxy_healthz_total{code="200"} 1`, `kubeproxy_proxy_livez_total{code="503"} 1`,
		"weftnet_service_transactions_total 2", "weftnet_service_repairs_total 1", "weftnet_service_listings_total 1",
		`weftnet_service_element_changes_total{change="added"} 10`, `weftnet_service_element_changes_total{change="deleted"} 4`,
		`weftnet_service_elements{set="services4"} 9`, "weftnet_service_services 7", "weftnet_service_ready 1",
		`weftnet_service_problems{reason="AddressConflict"} 1`, "weftnet_conntrack_entries 5", "weftnet_conntrack_max 100",
		`weftnet_drift_repaired_total{kind="service"} 1`, `weftnet_reconcile_errors_total{stage="service"} 1`,
	}
	for _, family := range ipFamilies {
		for name, value := range map[string]string{
			"sync_proxy_rules_duration_seconds_count": "2", "sync_full_proxy_rules_duration_seconds_count": "1", "sync_partial_proxy_rules_duration_seconds_count": "1",
			"network_programming_duration_seconds_count": "1", `conntrack_reconciler_sync_duration_seconds_count`: "1",
			"sync_proxy_rules_last_timestamp_seconds": "1.7000000015e+09", "sync_proxy_rules_last_queued_timestamp_seconds": "1.7000000005e+09",
			"sync_proxy_rules_nftables_sync_failures_total": "1", "sync_proxy_rules_nftables_cleanup_failures_total": "1",
		} {
			want = append(want, fmt.Sprintf("kubeproxy_%s{ip_family=%q} %s", name, family, value))
		}
		// The buckets of kube-proxy are there, among more.
		want = append(want, fmt.Sprintf(`kubeproxy_network_programming_duration_seconds_bucket{ip_family=%q,le="0.25"} 1`, family),
			fmt.Sprintf(`kubeproxy_network_programming_duration_seconds_bucket{ip_family=%q,le="59"} 1`, family),
			fmt.Sprintf(`kubeproxy_network_programming_duration_seconds_bucket{ip_family=%q,le="0.01"} 0`, family))
	}
	hasLines(t, scrape(t, all), want...)
}

func hasLines(t *testing.T, text string, lines ...string) bool {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("the metrics lack %s", line)
		}
	}
	return !t.Failed()
}
