package status

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	desired "github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/reconcile/policy"
	"github.com/weftnet/weftnet/crds/v1alpha1"
)

const stagePolicy = "policy"

// Reasons of PolicyReady.
const (
	reasonClosed     = "PodsClosed"
	reasonNotCutting = "FlowsNotCut"
)

// policyReady is the condition of the policy engine.
func policyReady(r policy.Report) metav1.Condition {
	const kind = v1alpha1.ConditionPolicyReady
	switch {
	case r.Waiting != "":
		return condition(kind, false, reasonWaiting, "%s", r.Waiting)
	case len(r.Shut) > 0 && r.Err != nil:
		return condition(kind, false, reasonClosed, "closed to all traffic: %v; %s", r.Shut, oneLine(r.Err))
	case len(r.Shut) > 0:
		return condition(kind, false, reasonClosed, "closed to all traffic, since the kernel refused their rules: %v", r.Shut)
	case r.Err != nil:
		return condition(kind, false, reasonFailing, "%s", oneLine(r.Err))
	case r.Cutting != nil:
		return condition(kind, false, reasonNotCutting, "flows that are no longer allowed go on: %s", oneLine(r.Cutting))
	default:
		return condition(kind, true, reasonInForce, "what network policies say of this node's Pods is in force")
	}
}

// PolicyMetrics is what the policy loop counts.
type PolicyMetrics struct {
	metrics     *Metrics
	programming prometheus.Histogram
	admission   prometheus.Histogram
	unknown     prometheus.Counter
	cut, letGo  prometheus.Counter
}

var _ policy.Recorder = (*PolicyMetrics)(nil)

func newPolicyMetrics(m *Metrics) *PolicyMetrics {
	buckets := prometheus.ExponentialBuckets(0.0005, 2, 16)
	p := &PolicyMetrics{
		metrics: m,
		programming: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weftnet_policy_programming_duration_seconds", Buckets: buckets,
			Help: "Time from the news of a change of a policy, Pod, Namespace or Node to the rules in the kernel.",
		}),
		admission: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weftnet_policy_admission_duration_seconds", Buckets: buckets,
			Help: "Time that CNI ADD takes to put what policies say of the new Pod in force.",
		}),
		unknown: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weftnet_policy_admitted_unknown_total", Help: "Pods that began closed because their object was not known yet.",
		}),
		cut: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weftnet_policy_flows_cut_total", Help: "Flows cut because a change of policies forbade them.",
		}),
		letGo: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weftnet_policy_flows_restored_total", Help: "Flows that were cut and may go on because policies allow them again.",
		}),
	}
	m.Registry.MustRegister(p.programming, p.admission, p.unknown, p.cut, p.letGo)
	return p
}

// Policy is where the policy loop counts.
func (m *Metrics) Policy() *PolicyMetrics { return m.policy }

// Programmed counts a change.
func (p *PolicyMetrics) Programmed(took time.Duration) { p.programming.Observe(took.Seconds()) }

// Failed counts a pass that failed.
func (p *PolicyMetrics) Failed() { p.metrics.StageFailed(stagePolicy) }

// DriftRepaired counts a repair.
func (p *PolicyMetrics) DriftRepaired() { p.metrics.DriftRepaired(stagePolicy) }

// Cut counts flows that were cut.
func (p *PolicyMetrics) Cut(flows int) { p.cut.Add(float64(flows)) }

// LetGo counts flows that may go on.
func (p *PolicyMetrics) LetGo(flows int) { p.letGo.Add(float64(flows)) }

// Admitted counts a new Pod.
func (p *PolicyMetrics) Admitted(took time.Duration, known bool) {
	p.admission.Observe(took.Seconds())
	if !known {
		p.unknown.Inc()
	}
}

// PolicyCollector reads the engine's sizes and the kernel's counts at each scrape.
type PolicyCollector struct {
	Loop   *policy.Loop
	Denied policy.Denied
}

var (
	descPolicyReady    = desc("weftnet_policy_ready", "Whether what network policies say of the node's Pods is in force.")
	descPolicies       = desc("weftnet_policies", "Policies known.", "kind")
	descPolicyPods     = desc("weftnet_policy_known_pods", "Pods of the cluster that are known to the policy engine.")
	descLocalPods      = desc("weftnet_policy_local_pods", "Pods of this node.")
	descSelected       = desc("weftnet_policy_selected_pods", "Pods of this node that policies select.")
	descClosed         = desc("weftnet_policy_closed_pods", "Pods of this node that are closed because the kernel refused their rules.")
	descPolicyChains   = desc("weftnet_policy_chains", "Chains in the policy table.")
	descPolicySets     = desc("weftnet_policy_sets", "Sets in the policy table.")
	descPolicyElements = desc("weftnet_policy_elements", "Elements of these sets.")
	descPolicyProblems = desc("weftnet_policy_problems", "Fields of policies that cannot be honoured.", "kind")
	descDenied         = desc("weftnet_policy_denied_packets_total", "Packets denied to (ingress) or from (egress) a Pod of this node.", "namespace", "pod", "direction")
	descDeniedBy       = desc("weftnet_policy_site_packets_total", "Packets that a place in the rules denied, or in audit mode would have.", "site", "tier", "direction", "audit")
	descRevoked        = desc("weftnet_policy_revoked_packets_total", "Packets refused because their flow was cut.")
)

// Describe sends the descriptions.
func (c PolicyCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descPolicyReady, descPolicies, descPolicyPods, descLocalPods, descSelected, descClosed, descPolicyChains,
		descPolicySets, descPolicyElements, descPolicyProblems, descDenied, descDeniedBy, descRevoked} {
		out <- d
	}
}

// Collect sends the values.
func (c PolicyCollector) Collect(out chan<- prometheus.Metric) {
	ready := 0.0
	if c.Loop.Ready() == nil {
		ready = 1
	}
	gauge(out, descPolicyReady, ready)
	r, _ := c.Loop.Report()
	gauge(out, descClosed, float64(len(r.Shut)))
	var s desired.Stats
	problems := map[string]int{"NetworkPolicy": 0, "ClusterNetworkPolicy": 0}
	c.Loop.Ask(func(e *desired.Engine) {
		s = e.Stats()
		for _, p := range e.Problems() {
			problems[p.Kind]++
		}
	})
	gauge(out, descPolicies, float64(s.NetworkPolicies), "NetworkPolicy")
	gauge(out, descPolicies, float64(s.ClusterNetworkPolicies), "ClusterNetworkPolicy")
	for d, n := range map[*prometheus.Desc]int{descPolicyPods: s.Pods, descLocalPods: s.Endpoints, descSelected: s.Selected,
		descPolicyChains: s.Chains, descPolicySets: s.Sets, descPolicyElements: s.Elements} {
		gauge(out, d, float64(n))
	}
	for kind, n := range problems {
		gauge(out, descPolicyProblems, float64(n), kind)
	}
	c.collectDenied(out)
}

func (c PolicyCollector) collectDenied(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	pods, err := c.Denied.ByPod(ctx)
	if err != nil {
		out <- prometheus.NewInvalidMetric(descDenied, err)
		return
	}
	seen := map[[3]string]bool{} // a Pod whose sandbox is renewed has two interfaces for a moment
	for _, p := range pods {
		key := [3]string{p.Pod.Namespace, p.Pod.Name, p.Direction.String()}
		if !seen[key] {
			seen[key] = true
			counter(out, descDenied, p.Packets, key[0], key[1], key[2])
		}
	}
	sites, revoked, err := c.Denied.BySite(ctx)
	if err != nil {
		out <- prometheus.NewInvalidMetric(descDeniedBy, err)
		return
	}
	for _, s := range sites {
		audit := "false"
		if s.Audit {
			audit = "true"
		}
		counter(out, descDeniedBy, s.Packets, s.ID, string(s.Tier), s.Direction.String(), audit)
	}
	counter(out, descRevoked, revoked.Packets)
}
