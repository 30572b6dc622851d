package main

import (
	"regexp"
	"slices"
	"strings"
)

// set is a choice of tests, by regular expressions.
type set struct {
	focus, skip string
	// alone has the tests run one after another.
	alone bool
	// nodes that the tests want, where these are more than usual.
	nodes int
}

const loadBalancerSet = "loadbalancer"

// dozen names a few conformance tests that between them cross everything Weftnet does with
// kube-proxy beside it: Pods and nodes over TCP and UDP, DNS, Services of each kind, hostPort and
// the API server's own way to a Pod.
var dozen = []string{
	`Networking Granular Checks: Pods should function for intra-pod communication: http`,
	`Networking Granular Checks: Pods should function for intra-pod communication: udp`,
	`Networking Granular Checks: Pods should function for node-pod communication: http`,
	`Networking Granular Checks: Pods should function for node-pod communication: udp`,
	`DNS should provide DNS for services`,
	`DNS should provide DNS for pods for Hostname`,
	`DNS should support configurable pod DNS nameservers`,
	`Services should serve a basic endpoint from pods`,
	`Services should serve multiport endpoints from pods`,
	`Services should be able to create a functioning NodePort service`,
	`Services should be able to change the type from ExternalName to NodePort`,
	`Services should have session affinity work for NodePort service`,
	`HostPort validates that there is no conflict between pods with same hostPort but different hostIP and protocol`,
	`Proxy version v1 should proxy through a service and a pod`,
}

// netpolDozen names a few tests of NetworkPolicy that between them cross everything a policy can say:
// isolation, each kind of peer and port, both directions, and several policies at once.
var netpolDozen = []string{
	`support a 'default-deny-ingress' policy`, // over TCP and over UDP
	`support a 'default-deny-all' policy`,
	`deny egress from all pods in a namespace`,
	`enforce policy based on PodSelector with MatchExpressions`,
	`enforce policy based on PodSelector and NamespaceSelector`,
	`enforce policy based on PodSelector or NamespaceSelector`,
	`allow ingress access on one named port`,
	`allow egress access on one named port`,
	`enforce policy based on Ports`, // over TCP and over UDP
	`enforce multiple, stacked policies with overlapping podSelectors`,
	`allow egress access to server in CIDR block`,
	`enforce except clause while egress access to server in CIDR block`,
	`ensure an IP overlapping both IPBlock.CIDR and IPBlock.Except is allowed`,
	`should support creating NetworkPolicy API with endport field`,
}

// The tests that have sets of their own.
const (
	policies      = `\bNetpol\b`
	loadBalancers = `\[Feature:LoadBalancer\]`
)

// evicted is a test that needs kubelets which measure what Pods write.
const evicted = "[sig-network] Services should be rejected for evicted pods (no endpoints exist)"

// omission is a group of tests that the testbed cannot run, or that are no matter of the network.
type omission struct {
	pattern, reason string
}

// omissions in the order in which a test is looked up: the first that matches gives the reason.
var omissions = []omission{
	{sctp, "needs SCTP in the kernel, which the testbed's kernel lacks"},
	{`\[Provider:[a-z,]*\]`, "written for certain clouds, and skips itself elsewhere"},
	{`\[Feature:KubeProxyNFAcct\]`, "looks for counters that kube-proxy keeps in its iptables mode"},
	{`KubeProxy should set TCP CLOSE_WAIT timeout`, "checks a flag of kube-proxy"},
	{`Networking should check kube-proxy urls`, "asks kube-proxy's own ports"},
	{`Services should work after restarting kube-proxy`, "restarts kube-proxy's Pods"},
	{`Services should work after restarting apiserver`, "restarts the API server's Pod, and on the testbed it is a process; `test/e2e` has the same with the API server stopped"},
	{`\[Feature:LocalhostNodePorts\]`, "an alpha feature of kube-proxy 1.37 that it does in user space (KEP-6032); Weftnet serves no NodePorts on loopback"},
	{`Internet connection for containers`, "needs the Internet, and the testbed has none"},
	{`\[Feature:Networking-Performance\]`, "a measurement without a bound; `make bench` measures"},
	{`\[Feature:PerformanceDNS\]`, "makes 10,000 Services to measure CoreDNS; `test/bench/service` has 40,000"},
	{`DNS configMap nameserver`, "changes the configuration of CoreDNS, and that of the testbed is mounted otherwise"},
}

const (
	conformance = `\[Conformance\]`
	serial      = `\[Serial\]|\[Disruptive\]`
	sigNetwork  = `\[sig-network\]`
	sctp        = `\[Feature:SCTPConnectivity\]`
)

// omitted joins the patterns of all omissions, of the tests with sets of their own, and others.
func omitted(others ...string) string {
	patterns := []string{policies, loadBalancers}
	for _, o := range omissions {
		patterns = append(patterns, o.pattern)
	}
	return strings.Join(append(patterns, others...), "|")
}

var sets = map[string]set{
	"conformance": {focus: sigNetwork + `.*` + conformance, skip: serial},
	"dozen":       {focus: sigNetwork + ` (` + strings.Join(dozen, "|") + `).*` + conformance, skip: serial},
	// services is every other test of sig-network that the testbed can run.
	"services":    {focus: sigNetwork, skip: omitted(conformance, serial)},
	"sig-network": {focus: sigNetwork, skip: omitted(serial)},
	"serial":      {focus: sigNetwork + `.*(` + serial + `)`, skip: omitted(), alone: true},
	// zones are those of services that skip themselves below two nodes in each of three zones.
	"zones": {focus: sigNetwork + ` Traffic Distribution should route traffic (correctly between pods on multiple nodes|to an endpoint on the same node or fall back)`, nodes: 6},
	// These need the testbed's load balancer, which the command starts for them.
	loadBalancerSet: {focus: sigNetwork + `.*` + loadBalancers},
	"netpol":        {focus: sigNetwork + ` Netpol`, skip: sctp},
	"netpol-dozen":  {focus: sigNetwork + ` Netpol .*(` + strings.Join(netpolDozen, "|") + `)`, skip: sctp},
}

func setNames() []string {
	var names []string
	for name := range sets {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// reasonOf says why a test of sig-network is in none of the sets; "" when it is in one.
func reasonOf(test string) string {
	for _, o := range omissions {
		if regexp.MustCompile(o.pattern).MatchString(test) {
			return o.reason
		}
	}
	return ""
}

// in says whether a set runs a test.
func (s set) in(test string) bool {
	if !regexp.MustCompile(s.focus).MatchString(test) {
		return false
	}
	return s.skip == "" || !regexp.MustCompile(s.skip).MatchString(test)
}
