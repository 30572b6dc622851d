package status

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weftnet/weftnet/agent/desired/mesh"
	desired "github.com/weftnet/weftnet/agent/desired/service"
	"github.com/weftnet/weftnet/agent/kernel/nft"
	"github.com/weftnet/weftnet/agent/reconcile/service"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/crds/v1alpha1"
)

// ServiceMetrics are those of the service proxy. The ones that kube-proxy has, too, have its names and
// its meaning, so that dashboards and alerts carry over: with one value per address family, though
// both families are one pass here.
type ServiceMetrics struct {
	metrics                          *Metrics
	sync, full, partial, programming children[prometheus.Observer]
	reconciler                       children[prometheus.Observer]
	last, queued                     children[prometheus.Gauge]
	failures, unswept, flowsDeleted  children[prometheus.Counter]
	endpointChanges, serviceChanges  prometheus.Counter
	endpointsPending, servicePending prometheus.Gauge
	transactions, repairs, listings  prometheus.Counter
	added, deleted                   prometheus.Counter
	healthz, livez                   *prometheus.CounterVec
}

// children are the values of one metric by family, in the order of ipFamilies: looking each up by its label costs as
// much as what is measured when one endpoint changes. They are made with the first call, since until then a gauge
// has no value, which is not 0.
type children[T any] func() []T

var _ service.Recorder = (*ServiceMetrics)(nil)

const (
	kubeProxy = "kubeproxy"
	// stageService is the service proxy's part in the metrics that all loops share.
	stageService = "service"
)

// ipFamilies are the values of the label ip_family, in the order of desired.Families.
var ipFamilies = []string{"IPv4", "IPv6"}

// NewServiceMetrics makes the metrics and registers them.
func NewServiceMetrics(all *Metrics) *ServiceMetrics {
	durations := prometheus.ExponentialBuckets(0.001, 2, 15)
	// Those of kube-proxy begin at 0.25 s, where all of ours would be one bucket.
	latencies := append([]float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1}, prometheus.LinearBuckets(0.25, 0.25, 2)...)
	for _, more := range [][]float64{prometheus.LinearBuckets(1, 1, 59), prometheus.LinearBuckets(60, 5, 12), prometheus.LinearBuckets(120, 30, 7)} {
		latencies = append(latencies, more...)
	}
	elements := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weftnet_service_element_changes_total", Help: "Elements of nftables sets written."}, []string{"change"})
	m := &ServiceMetrics{
		sync:             familyHistogram(all.Registry, "sync_proxy_rules_duration_seconds", "Duration of a pass that wrote Services.", durations),
		full:             familyHistogram(all.Registry, "sync_full_proxy_rules_duration_seconds", "Duration of a pass over all Services.", durations),
		partial:          familyHistogram(all.Registry, "sync_partial_proxy_rules_duration_seconds", "Duration of a pass over the Services that changed.", durations),
		programming:      familyHistogram(all.Registry, "network_programming_duration_seconds", "Time from the change of a Pod or Service to the rules being in force.", latencies),
		last:             familyGauge(all.Registry, "sync_proxy_rules_last_timestamp_seconds", "When everything wanted was last put in force."),
		queued:           familyGauge(all.Registry, "sync_proxy_rules_last_queued_timestamp_seconds", "When changes were last taken up."),
		metrics:          all,
		failures:         familyCounter(all.Registry, "sync_proxy_rules_nftables_sync_failures_total", "Passes that failed."),
		unswept:          familyCounter(all.Registry, "sync_proxy_rules_nftables_cleanup_failures_total", "Times that what an earlier run had left could not be deleted."),
		endpointChanges:  proxyCounter(kubeProxy, "sync_proxy_rules_endpoint_changes_total", "Changes of EndpointSlices."),
		serviceChanges:   proxyCounter(kubeProxy, "sync_proxy_rules_service_changes_total", "Changes of Services."),
		endpointsPending: prometheus.NewGauge(prometheus.GaugeOpts{Subsystem: kubeProxy, Name: "sync_proxy_rules_endpoint_changes_pending", Help: "Changes of EndpointSlices that are not in force yet."}),
		servicePending:   prometheus.NewGauge(prometheus.GaugeOpts{Subsystem: kubeProxy, Name: "sync_proxy_rules_service_changes_pending", Help: "Changes of Services that are not in force yet."}),
		reconciler:       familyHistogram(all.Registry, "conntrack_reconciler_sync_duration_seconds", "Duration of looking for stale UDP flows.", durations),
		flowsDeleted:     familyCounter(all.Registry, "conntrack_reconciler_deleted_entries_total", "Stale UDP flows deleted from connection tracking."),
		transactions:     proxyCounter("", "weftnet_service_transactions_total", "nftables transactions of the service proxy."),
		repairs:          proxyCounter("", "weftnet_service_repairs_total", "Times that somebody else's change of the service proxy's table was put right."),
		listings:         proxyCounter("", "weftnet_service_listings_total", "Times that the service proxy's table was listed: at the start, after somebody else's change, and once an hour."),
		healthz:          prometheus.NewCounterVec(prometheus.CounterOpts{Subsystem: kubeProxy, Name: "proxy_healthz_total", Help: "Answers to load balancers that ask for the node."}, []string{"code"}),
		livez:            prometheus.NewCounterVec(prometheus.CounterOpts{Subsystem: kubeProxy, Name: "proxy_livez_total", Help: "Answers to those that ask for the proxy alone."}, []string{"code"}),
		added:            elements.WithLabelValues("added"),
		deleted:          elements.WithLabelValues("deleted"),
	}
	all.Registry.MustRegister(m.endpointChanges, m.serviceChanges, m.endpointsPending, m.servicePending,
		m.transactions, m.repairs, m.listings, elements, m.healthz, m.livez)
	return m
}

// byFamily are those of a metric that has been made with the label.
func byFamily[T any](child func(labels ...string) T) children[T] {
	return sync.OnceValue(func() (out []T) {
		for _, f := range ipFamilies {
			out = append(out, child(f))
		}
		return out
	})
}

func familyHistogram(to prometheus.Registerer, name, help string, buckets []float64) children[prometheus.Observer] {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Subsystem: kubeProxy, Name: name, Help: help, Buckets: buckets}, []string{"ip_family"})
	to.MustRegister(v)
	return byFamily(v.WithLabelValues)
}

func familyCounter(to prometheus.Registerer, name, help string) children[prometheus.Counter] {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Subsystem: kubeProxy, Name: name, Help: help}, []string{"ip_family"})
	to.MustRegister(v)
	c := byFamily(v.WithLabelValues)
	c() // a counter that is not there cannot be alerted on
	return c
}

func familyGauge(to prometheus.Registerer, name, help string) children[prometheus.Gauge] {
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Subsystem: kubeProxy, Name: name, Help: help}, []string{"ip_family"})
	to.MustRegister(v)
	return byFamily(v.WithLabelValues)
}

func proxyCounter(subsystem, name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Subsystem: subsystem, Name: name, Help: help})
}

// Saw counts objects that came, changed or went.
func (m *ServiceMetrics) Saw(services, slices int) {
	m.serviceChanges.Add(float64(services))
	m.endpointChanges.Add(float64(slices))
}

// Queued notes changes that have been taken up. Those that change nothing that a proxy looks at are not
// among them: nothing would ever take them out of what is pending.
func (m *ServiceMetrics) Queued(services, slices int, at time.Time) {
	m.servicePending.Add(float64(services))
	m.endpointsPending.Add(float64(slices))
	for _, g := range m.queued() {
		g.Set(seconds(at))
	}
}

// Synced notes a pass after which everything wanted is in force.
func (m *ServiceMetrics) Synced(took time.Duration, full bool, at time.Time) {
	m.servicePending.Set(0)
	m.endpointsPending.Set(0)
	kind := m.partial
	if full {
		kind = m.full
	}
	observe(m.sync, took)
	observe(kind, took)
	for _, g := range m.last() {
		g.Set(seconds(at))
	}
}

func observe(all children[prometheus.Observer], d time.Duration) {
	for _, o := range all() {
		o.Observe(d.Seconds())
	}
}

func increment(all children[prometheus.Counter]) {
	for _, c := range all() {
		c.Inc()
	}
}

func seconds(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }

// Failed counts a pass that failed.
func (m *ServiceMetrics) Failed() {
	m.metrics.StageFailed(stageService)
	increment(m.failures)
}

// Programmed notes how long one change of endpoints took from its cause.
func (m *ServiceMetrics) Programmed(d time.Duration) {
	observe(m.programming, d)
}

// Wrote counts what was done to the table.
func (m *ServiceMetrics) Wrote(o nft.Outcome) {
	m.transactions.Add(float64(o.Transactions))
	m.added.Add(float64(o.Added))
	m.deleted.Add(float64(o.Deleted))
	if o.Observed {
		m.listings.Inc()
	}
}

// Repaired counts a repair.
func (m *ServiceMetrics) Repaired() {
	m.repairs.Inc()
	m.metrics.DriftRepaired(stageService)
}

// SweepFailed counts a clean-up that failed.
func (m *ServiceMetrics) SweepFailed() {
	increment(m.unswept)
}

// FlowsDeleted notes a look at connection tracking.
func (m *ServiceMetrics) FlowsDeleted(n map[state.Family]int, took time.Duration) {
	for i, family := range desired.Families {
		m.flowsDeleted()[i].Add(float64(n[family]))
	}
	observe(m.reconciler, took)
}

// Reasons of the condition ServiceProxyReady, and of events.
const (
	reasonRefused  = "RefusedByKernel"
	reasonRepaired = "ServiceTableRepaired"
)

func servicesReady(r service.Report) metav1.Condition {
	const kind = v1alpha1.ConditionServiceProxyReady
	switch {
	case r.Waiting != "":
		return condition(kind, false, reasonWaiting, "%s", r.Waiting)
	case r.Err != nil:
		return condition(kind, false, reasonFailing, "%s", oneLine(r.Err))
	case !r.Synced:
		return condition(kind, false, reasonWaiting, "the Services of the cluster are not programmed yet")
	case len(r.Refused) > 0:
		var named []string
		for _, f := range r.Refused[:min(len(r.Refused), maxNamed)] {
			named = append(named, fmt.Sprintf("%s (%s)", f.Owner, oneLine(f.Err)))
		}
		return condition(kind, false, reasonRefused, "the kernel refuses %d Services, which keep what they had: %s", len(r.Refused), strings.Join(named, "; "))
	default:
		text := "every Service is in force on this node"
		if !r.Repaired.IsZero() {
			text += "; " + repaired(r)
		}
		return condition(kind, true, reasonInForce, "%s", text)
	}
}

// repaired tells of the last repair, to the minute: a program that fights with ours must not make a new
// status, and a new event, every second.
func repaired(r service.Report) string {
	return fmt.Sprintf("another program had changed or deleted table inet %s, which was put right, last at %s",
		state.ServiceTableName, r.Repaired.UTC().Truncate(time.Minute).Format("2006-01-02T15:04Z"))
}

// serviceProblems are what is wrong in single Services, for events about them, and what happened to
// their table on this node.
func serviceProblems(node string, r service.Report) []mesh.Problem {
	var out []mesh.Problem
	if !r.Repaired.IsZero() {
		out = append(out, mesh.Problem{Kind: mesh.KindMeshNode, Name: node, Reason: reasonRepaired, Message: repaired(r)})
	}
	for _, p := range r.Problems {
		out = append(out, mesh.Problem{Kind: mesh.KindService, Namespace: p.Service.Namespace, Name: p.Service.Name, Reason: p.Reason, Message: p.Text})
	}
	for _, f := range r.Refused {
		namespace, name, _ := strings.Cut(f.Owner, "/")
		out = append(out, mesh.Problem{Kind: mesh.KindService, Namespace: namespace, Name: name, Reason: reasonRefused, Message: oneLine(f.Err)})
	}
	return out
}

// Answered counts an answer to a health check.
func (m *ServiceMetrics) Answered(kind string, code int) {
	counter := m.healthz
	if kind == "livez" {
		counter = m.livez
	}
	counter.WithLabelValues(strconv.Itoa(code)).Inc()
}

// ServiceCollector gives what the loop of the service proxy reports.
type ServiceCollector struct {
	Loop interface {
		Report() (service.Report, bool)
	}
	// Conntrack reads how many connections are tracked, and how many can be.
	Conntrack func(ctx context.Context) (used, most int64, err error)
}

var (
	descServiceReady    = desc("weftnet_service_ready", "Whether every Service is in force on this node.")
	descServices        = desc("weftnet_service_services", "Services that have elements in the table.")
	descServiceElements = desc("weftnet_service_elements", "Elements of the service proxy's sets.", "set")
	descServiceRefused  = desc("weftnet_service_refused", "Services that the kernel did not take.")
	descServiceProblems = desc("weftnet_service_problems", "Faults found in Services.", "reason")
	descNoLocal         = desc(kubeProxy+"_sync_proxy_rules_no_local_endpoints_total",
		"Ports of Services whose policy Local leaves no endpoint on this node, though there are some elsewhere.", "traffic_policy", "ip_family")
)

var (
	descConntrack    = desc("weftnet_conntrack_entries", "Connections that the kernel tracks.")
	descConntrackMax = desc("weftnet_conntrack_max", "Connections that the kernel can track; when it is full, new ones are dropped.")
)

func (c ServiceCollector) collectConntrack(out chan<- prometheus.Metric) {
	if c.Conntrack == nil {
		return
	}
	used, most, err := c.Conntrack(context.Background())
	if err != nil {
		return // a kernel without the files has no such numbers
	}
	gauge(out, descConntrack, float64(used))
	gauge(out, descConntrackMax, float64(most))
}

// Describe sends the descriptions.
func (c ServiceCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descServiceReady, descServices, descServiceElements, descServiceRefused, descServiceProblems, descNoLocal, descConntrack, descConntrackMax} {
		out <- d
	}
}

// Collect sends the values.
func (c ServiceCollector) Collect(out chan<- prometheus.Metric) {
	c.collectConntrack(out)
	r, ok := c.Loop.Report()
	if !ok {
		return
	}
	ready := 0.0
	if r.Synced && r.Err == nil && r.Waiting == "" {
		ready = 1
	}
	gauge(out, descServiceReady, ready)
	gauge(out, descServices, float64(r.Services))
	for set, n := range r.Elements {
		gauge(out, descServiceElements, float64(n), set)
	}
	gauge(out, descServiceRefused, float64(len(r.Refused)))
	for i, family := range ipFamilies {
		gauge(out, descNoLocal, float64(r.NoLocal.Internal[i]), "internal", family)
		gauge(out, descNoLocal, float64(r.NoLocal.External[i]), "external", family)
	}
	reasons := map[string]int{}
	for _, p := range r.Problems {
		reasons[p.Reason]++
	}
	for reason, n := range reasons {
		gauge(out, descServiceProblems, float64(n), reason)
	}
}
