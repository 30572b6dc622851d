package status

import (
	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weftnet/agent/kernel/link"
	"github.com/weftnet/weftnet/agent/reconcile/flow"
	"github.com/weftnet/weftnet/crds/v1alpha1"
)

func fastPath(r flow.Report) metav1.Condition {
	const kind = v1alpha1.ConditionFastPath
	switch {
	case r.Err != nil:
		return condition(kind, r.On, reasonFailing, "%s", oneLine(r.Err))
	case r.Possible.Answer != link.Yes:
		return condition(kind, false, reasonNotSupported, "%s; every packet between Pods of this node passes routing and the rules", r.Possible)
	case r.NoEchoes:
		return condition(kind, true, reasonInForce, "packets of established connections between Pods of this node take the fast path; echoes of ICMP do not, for which Linux 6.2 is needed: the agent's log has what this kernel answered")
	default:
		return condition(kind, true, reasonInForce, "packets of established connections between Pods of this node take the fast path")
	}
}

// FlowCollector reads what the fast path does at each scrape.
type FlowCollector struct {
	Report func() flow.Report
}

var (
	descFlowLinks   = desc("weftnet_fast_path_pod_links", "Links of Pods of this node that are in the fast path.")
	descFlowPackets = desc("weftnet_fast_path_packets_total", "TCP and UDP packets and echoes of ICMP from Pods in the fast path to Pods in it, by the way they took; packets that open or end a connection are not counted. It begins with the agent.", "way")
)

// Describe sends the descriptions.
func (FlowCollector) Describe(out chan<- *prometheus.Desc) {
	out <- descFlowLinks
	out <- descFlowPackets
}

// Collect sends the values.
func (c FlowCollector) Collect(out chan<- prometheus.Metric) {
	r := c.Report()
	gauge(out, descFlowLinks, float64(r.Links))
	for way, n := range map[string]uint64{"fast": r.Fast, "ordinary": r.Ordinary} {
		out <- prometheus.MustNewConstMetric(descFlowPackets, prometheus.CounterValue, float64(n), way)
	}
}
