// Package cyclonus compares our judgement of NetworkPolicies with one that is not ours: cyclonus's
// analysis (github.com/mattfenwick/cyclonus), on the cases that it generates and on random policies.
// It is a module of its own, so that cyclonus's dependencies do not meet Weftnet's.
package cyclonus

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/mattfenwick/cyclonus/pkg/connectivity/probe"
	"github.com/mattfenwick/cyclonus/pkg/generator"
	"github.com/mattfenwick/cyclonus/pkg/matcher"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/source/policy/object"
	"github.com/weftnet/weftnet/agent/state"
	"github.com/weftnet/weftnet/test/nfsim"
)

var (
	namespaceNames = []string{"x", "y", "z"}
	podNames       = []string{"a", "b", "c"}
	ports          = []int{80, 81}
	transports     = []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}
	numbers        = map[corev1.Protocol]uint8{corev1.ProtocolTCP: state.ProtoTCP, corev1.ProtocolUDP: state.ProtoUDP, corev1.ProtocolSCTP: state.ProtoSCTP}
)

// families are the two sets of addresses that Pods have; cyclonus knows one at a time.
var families = []string{"10.244.1.%d", "fd00:244:1::%x"}

// cluster is what both sides judge: resources as cyclonus holds them, and policies.
type cluster struct {
	*probe.Resources
	policies map[snapshot.NamespacedName]*networkingv1.NetworkPolicy
	format   string // of addresses
}

func newCluster(format string) *cluster {
	c := &cluster{Resources: &probe.Resources{Namespaces: map[string]map[string]string{}}, policies: map[snapshot.NamespacedName]*networkingv1.NetworkPolicy{}, format: format}
	for _, ns := range namespaceNames {
		c.Namespaces[ns] = map[string]string{"ns": ns, "kubernetes.io/metadata.name": ns}
		for _, name := range podNames {
			c.Pods = append(c.Pods, probe.NewDefaultPod(ns, name, ports, transports, false, ""))
		}
	}
	c.number()
	return c
}

// number gives every Pod an address, the same as long as Pods only come at the end.
func (c *cluster) number() {
	for i, p := range c.Pods {
		p.IP = fmt.Sprintf(c.format, 10+i)
	}
}

// act carries out one action of a test case.
func (c *cluster) act(t *testing.T, a *generator.Action) {
	var err error
	change := func(r *probe.Resources, failed error) {
		if err = failed; err == nil {
			c.Resources = r
		}
	}
	put := func(np *networkingv1.NetworkPolicy) {
		c.policies[snapshot.NamespacedName{Namespace: np.Namespace, Name: np.Name}] = np
	}
	switch {
	case a.CreatePolicy != nil:
		put(a.CreatePolicy.Policy)
	case a.UpdatePolicy != nil:
		put(a.UpdatePolicy.Policy)
	case a.DeletePolicy != nil:
		delete(c.policies, snapshot.NamespacedName{Namespace: a.DeletePolicy.Namespace, Name: a.DeletePolicy.Name})
	case a.CreateNamespace != nil:
		change(c.CreateNamespace(a.CreateNamespace.Namespace, a.CreateNamespace.Labels))
	case a.SetNamespaceLabels != nil:
		change(c.UpdateNamespaceLabels(a.SetNamespaceLabels.Namespace, a.SetNamespaceLabels.Labels))
	case a.DeleteNamespace != nil:
		change(c.DeleteNamespace(a.DeleteNamespace.Namespace))
	case a.CreatePod != nil:
		change(c.CreatePod(a.CreatePod.Namespace, a.CreatePod.Pod, a.CreatePod.Labels))
	case a.SetPodLabels != nil:
		change(c.SetPodLabels(a.SetPodLabels.Namespace, a.SetPodLabels.Pod, a.SetPodLabels.Labels))
	case a.DeletePod != nil:
		change(c.DeletePod(a.DeletePod.Namespace, a.DeletePod.Pod))
	default:
		t.Fatalf("an action that nobody knows: %+v", a)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.number()
}

// ours is our engine of the cluster, on a node that has all of its Pods.
func (c *cluster) ours() *policy.Engine {
	e := policy.New(policy.Options{})
	pool := &object.Pool{}
	for name, labels := range c.Namespaces {
		e.SetNamespace(snapshot.Namespace{Name: name, Labels: snapshot.NewLabels(labels)})
	}
	for i, p := range c.Pods {
		k := p.KubePod()
		k.Status.PodIP, k.Status.PodIPs = p.IP, []corev1.PodIP{{IP: p.IP}}
		out := object.Pod(k, pool)
		e.SetPod(out)
		e.Attach(policy.Endpoint{Link: link(i), Pod: out.Key(), IPs: out.IPs})
	}
	for _, np := range c.policies {
		e.SetNetworkPolicy(object.NetworkPolicy(np))
	}
	return e
}

func link(i int) string { return fmt.Sprintf("weftp%d", i) }

// rules are the compiled rules on that node.
func (c *cluster) rules(e *policy.Engine) *nfsim.Machine {
	links := map[string]string{}
	for i, p := range c.Pods {
		links[p.IP] = link(i)
	}
	m := nfsim.New(nfsim.World{Quiet: true, Route: func(a netip.Addr) (string, netip.Addr) { return links[a.String()], netip.Addr{} }})
	m.Load(e.Table())
	return m
}

// compare judges every Pod's way to every other, at every port, three times: cyclonus, our evaluator
// and our rules. A Pod's way to itself is left out: Kubernetes lets it pass always, cyclonus judges it.
func (c *cluster) compare(t *testing.T, what string) (verdicts, denied int) {
	t.Helper()
	theirs := matcher.BuildNetworkPolicies(true, slices.Collect(maps.Values(c.policies)))
	e := c.ours()
	m := c.rules(e)
	links := map[string]string{}
	for i, p := range c.Pods {
		links[p.PodString().String()] = link(i)
	}
	jobs := (&probe.JobBuilder{}).GetJobsAllAvailableServers(c.Resources, generator.ProbeModePodIP)
	for _, job := range jobs.Valid {
		if job.FromKey == job.ToKey {
			continue
		}
		want := theirs.IsTrafficAllowed(job.Traffic())
		pkt := policy.Packet{
			Protocol: numbers[job.Protocol], Src: netip.MustParseAddr(job.FromIP), Dst: netip.MustParseAddr(job.ToIP), Port: uint16(job.ResolvedPort),
		}
		x := e.Explain(pkt)
		ingress, egress := x.Ingress.Verdict == policy.Accept, x.Egress.Verdict == policy.Accept
		if ingress != want.Ingress.IsAllowed() || egress != want.Egress.IsAllowed() {
			t.Fatalf("%s: %s -> %s %s %d: we say %v and %v, cyclonus\n%s", what, job.FromKey, job.ToKey, job.Protocol, job.ResolvedPort,
				x.Egress.Reason, x.Ingress.Reason, want.Table())
		}
		m.Forget(func(*nfsim.Flow) bool { return true })
		passed := m.Receive(nfsim.Packet{
			Proto: pkt.Protocol, Src: netip.AddrPortFrom(pkt.Src, 40000), Dst: netip.AddrPortFrom(pkt.Dst, pkt.Port), IIF: links[job.FromKey],
		}).Fate == nfsim.Left
		if passed != want.IsAllowed() {
			t.Fatalf("%s: %s -> %s %s %d: passed is %v, cyclonus says\n%s", what, job.FromKey, job.ToKey, job.Protocol, job.ResolvedPort, passed, want.Table())
		}
		verdicts++
		if !passed {
			denied++
		}
	}
	return verdicts, denied
}

// TestGeneratedCases runs cyclonus's own cases, step by step, in both families.
func TestGeneratedCases(t *testing.T) {
	const expected = 230
	verdicts, denied := 0, 0
	for _, format := range families {
		zc := newCluster(format).Pods[8]
		cases := generator.NewTestCaseGenerator(true, zc.IP, namespaceNames, nil, nil).GenerateTestCases()
		if len(cases) != expected {
			t.Errorf("%d cases, want %d", len(cases), expected)
		}
		for i, one := range cases {
			c := newCluster(format)
			for k, step := range one.Steps {
				for _, a := range step.Actions {
					c.act(t, a)
				}
				v, d := c.compare(t, fmt.Sprintf("case %d (%s), step %d", i+1, one.Description, k+1))
				verdicts, denied = verdicts+v, denied+d
			}
		}
	}
	t.Logf("%d verdicts, %d of them denied", verdicts, denied)
}
