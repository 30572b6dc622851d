package status

import (
	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weftnet/agent/kernel/bpf"
	"github.com/weftnet/weftnet/crds/v1alpha1"
)

// Reasons of the condition SocketBalancing.
const (
	reasonSwitchedOff  = "SwitchedOff"
	reasonNotSupported = "NotSupported"
)

func socketBalancing(r bpf.Report) metav1.Condition {
	const kind = v1alpha1.ConditionSocketBalancing
	switch {
	case r.Failing:
		return condition(kind, r.On, reasonFailing, "%s", oneLine(r.Err))
	case !r.Allowed:
		return condition(kind, false, reasonSwitchedOff, "serviceProxy.socketLB is off; nftables serves every connection")
	case !r.On:
		return condition(kind, false, reasonNotSupported, "%s; nftables serves every connection", r.Reason)
	default:
		return condition(kind, true, reasonInForce, "TCP connections of this node's processes and Pods get their endpoint when they connect")
	}
}

// SocketCollector reads what the balancer at the socket does at each scrape.
type SocketCollector struct {
	Report func() (bpf.Report, bool)
}

var (
	descSocketOn        = desc("weftnet_socket_balancing", "Whether TCP connections of local processes get their endpoint when they connect.")
	descSocketConnects  = desc("weftnet_socket_connects_total", "Connections to Services that were judged at the socket.", "outcome")
	descSocketFrontends = desc("weftnet_socket_frontends", "Addresses and ports of Services that are known at the socket.")
	descSocketEndpoints = desc("weftnet_socket_endpoints", "Endpoints that these lead to; a list that several share counts once.")
)

// Describe sends the descriptions.
func (SocketCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descSocketOn, descSocketConnects, descSocketFrontends, descSocketEndpoints} {
		out <- d
	}
}

// Collect sends the values.
func (c SocketCollector) Collect(out chan<- prometheus.Metric) {
	r, ok := c.Report()
	if !ok {
		return
	}
	on := 0.0
	if r.On {
		on = 1
	}
	gauge(out, descSocketOn, on)
	gauge(out, descSocketFrontends, float64(r.Frontends))
	gauge(out, descSocketEndpoints, float64(r.Endpoints))
	for outcome, n := range map[string]uint64{"balanced": r.Balanced, "refused": r.Refused, "unsure": r.Unsure, "unnamed": r.Unnamed} {
		out <- prometheus.MustNewConstMetric(descSocketConnects, prometheus.CounterValue, float64(n), outcome)
	}
}
