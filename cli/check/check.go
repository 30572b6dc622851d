// Package check judges whether a cluster, or a node, can carry Weftnet. What was seen is
// gathered elsewhere; here it is judged, by pure functions.
package check

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/version"

	"github.com/weftnet/weftnet/agent/kernel/link"
	"github.com/weftnet/weftnet/agent/kernel/probe"
	"github.com/weftnet/weftnet/agent/kubeproxy"
)

// Answer is what a check says.
type Answer int

// The answers, the worst first.
const (
	Bad Answer = iota
	Unknown
	Good
)

// String is how the answer is shown.
func (a Answer) String() string {
	return [...]string{"BAD", "unknown", "ok"}[a]
}

// Result is one check's answer, and what to do about it.
type Result struct {
	Name   string
	Answer Answer
	Text   string
	Do     string
}

// Failed says whether any of them is bad.
func Failed(results []Result) bool {
	return slices.ContainsFunc(results, func(r Result) bool { return r.Answer == Bad })
}

// Cluster is what is known of a cluster before or after installation.
type Cluster struct {
	Version      string
	Nodes        []corev1.Node
	ServiceCIDRs []string
	// Pools are the ranges of all IPPools, or of those that are to be installed.
	Pools []string
	// DaemonSets by namespace/name: another network gives itself away there.
	DaemonSets []string
	// Pods are those with addresses, and Blocks the Pod CIDRs of each node by its name; both are empty before the
	// installation.
	Pods   []corev1.Pod
	Blocks map[string][]string
	// KubeProxies are what agents say of a kube-proxy beside Weftnet's own service proxy, a node each.
	KubeProxies []string
}

// MinimumVersion is the oldest Kubernetes that has what the chart needs (see Chart.yaml).
const MinimumVersion = "1.33.0"

// Results are the answers of every check.
func (c Cluster) Results() []Result {
	results := []Result{c.version(), c.addresses(), c.otherNetwork(), c.strangers(), c.kubeProxy()}
	return append(results, c.overlaps()...)
}

func (c Cluster) version() Result {
	r := Result{Name: "Kubernetes version", Text: c.Version, Do: "upgrade Kubernetes to " + MinimumVersion + " or later"}
	have, err := version.ParseGeneric(c.Version)
	switch {
	case err != nil:
		r.Answer, r.Text = Unknown, err.Error()
	case have.LessThan(version.MustParseGeneric(MinimumVersion)):
		r.Answer = Bad
	default:
		r.Answer = Good
	}
	return r
}

// addresses looks for nodes that peers could not reach.
func (c Cluster) addresses() Result {
	r := Result{Name: "node addresses", Answer: Good, Do: "the kubelet sets it (--node-ip), or the cloud controller"}
	var lacking []string
	for i := range c.Nodes {
		addresses := internalIPs(&c.Nodes[i])
		if len(addresses) == 0 {
			lacking = append(lacking, c.Nodes[i].Name+" has no InternalIP")
		}
	}
	r.Text = fmt.Sprintf("all %d nodes have an InternalIP", len(c.Nodes))
	if len(lacking) > 0 {
		r.Answer, r.Text = Bad, strings.Join(lacking, "; ")
	}
	return r
}

// known are DaemonSets of other networks, by the name that they have in their own manifests.
var known = []string{"calico-node", "canal", "cilium", "kube-flannel-ds", "kube-flannel", "weave-net", "kube-router", "antrea-agent", "kindnet", "aws-node", "kilo"}

func (c Cluster) otherNetwork() Result {
	r := Result{Name: "other networks", Answer: Good, Text: "none seen", Do: "remove the other network: two of them fight for the same Pods and routes"}
	var seen []string
	for _, name := range c.DaemonSets {
		if slices.Contains(known, name[strings.LastIndex(name, "/")+1:]) {
			seen = append(seen, name)
		}
	}
	if len(seen) > 0 {
		r.Answer, r.Text = Bad, "DaemonSet "+strings.Join(seen, ", ")
	}
	return r
}

// strangers are Pods that an earlier network has wired: they keep what they have until they are made anew, and reach only one
// another.
func (c Cluster) strangers() Result {
	r := Result{
		Name: "Pods of an earlier network", Answer: Good, Text: "none seen",
		Do: "make them anew, node by node: kubectl drain NODE, or delete the Pods; those of Weftnet cannot reach them until then",
	}
	var seen []string
	for i := range c.Pods {
		p := &c.Pods[i]
		if addr := c.strange(p); addr.IsValid() {
			seen = append(seen, fmt.Sprintf("%s/%s (%s on %s)", p.Namespace, p.Name, addr, p.Spec.NodeName))
		}
	}
	if slices.Sort(seen); len(seen) > 0 {
		r.Answer, r.Text = Bad, fmt.Sprintf("%d: %s", len(seen), strings.Join(seen, ", "))
	}
	return r
}

// strange is an address of a running Pod that its node was not given; none where the node has not been given any yet.
func (c Cluster) strange(p *corev1.Pod) netip.Addr {
	blocks := c.Blocks[p.Spec.NodeName]
	if p.Spec.HostNetwork || len(blocks) == 0 || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return netip.Addr{}
	}
	for _, ip := range p.Status.PodIPs {
		addr, err := netip.ParseAddr(ip.IP)
		in := func(block string) bool {
			prefix, err := netip.ParsePrefix(block)
			return err == nil && prefix.Contains(addr)
		}
		if err == nil && !slices.ContainsFunc(blocks, in) {
			return addr
		}
	}
	return netip.Addr{}
}

// kubeProxy is told of in any case, since who serves Services is good to know; it is wrong only
// beside Weftnet's own.
func (c Cluster) kubeProxy() Result {
	r := Result{Name: kubeProxyCheck, Answer: Good, Text: "none seen", Do: kubeProxyDo}
	for _, name := range c.DaemonSets {
		if name[strings.LastIndex(name, "/")+1:] == "kube-proxy" {
			r.Text = "DaemonSet " + name + " serves Services; Weftnet's own service proxy can take over from it (docs/service-proxy.md)"
		}
	}
	if len(c.KubeProxies) > 0 {
		r.Answer, r.Text = Bad, strings.Join(c.KubeProxies, "; ")
	}
	return r
}

const (
	kubeProxyCheck = "kube-proxy"
	kubeProxyDo    = "remove kube-proxy, then its rules with `weft cleanup kube-proxy --all-nodes`; or set serviceProxy.enabled=false"
)

// KubeProxy judges what was found of one on this node; ours says whether the rules of Weftnet's own
// service proxy are in force here.
func KubeProxy(found kubeproxy.Finding, ours bool) Result {
	r := Result{Name: kubeProxyCheck, Answer: Good, Text: found.Message(), Do: kubeProxyDo}
	switch {
	case !ours && found.Present():
		r.Text = "serves Services on this node, or did: " + found.Reason() + " " + found.Mode
	case found.Present():
		r.Answer = Bad
	}
	return r
}

// overlaps compares each pool with the Service CIDRs, the nodes' addresses and the other pools.
func (c Cluster) overlaps() []Result {
	var results []Result
	for i, pool := range c.Pools {
		r := Result{Name: "pool " + pool, Answer: Good, Text: "overlaps nothing", Do: "choose another range: chart value ipPools"}
		prefix, err := netip.ParsePrefix(pool)
		if err != nil {
			r.Answer, r.Text = Bad, err.Error()
		} else if clashes := c.clashes(prefix, c.Pools[i+1:]); len(clashes) > 0 {
			r.Answer, r.Text = Bad, "overlaps "+strings.Join(clashes, ", ")
		}
		results = append(results, r)
	}
	return results
}

func (c Cluster) clashes(pool netip.Prefix, pools []string) []string {
	var clashes []string
	add := func(what, cidr string) {
		if other, err := netip.ParsePrefix(cidr); err == nil && other.Overlaps(pool) {
			clashes = append(clashes, what+" "+cidr)
		}
	}
	for _, cidr := range c.ServiceCIDRs {
		add("the Service CIDR", cidr)
	}
	for _, cidr := range pools {
		add("the pool", cidr)
	}
	for i := range c.Nodes {
		for _, address := range internalIPs(&c.Nodes[i]) {
			if pool.Contains(address) {
				clashes = append(clashes, fmt.Sprintf("the address %s of node %s", address, c.Nodes[i].Name))
			}
		}
	}
	return clashes
}

func internalIPs(n *corev1.Node) []netip.Addr {
	var addresses []netip.Addr
	for _, a := range n.Status.Addresses {
		if addr, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			addresses = append(addresses, addr)
		}
	}
	return addresses
}

// Node judges what the probes of a node's kernel found.
func Node(features []probe.Feature) []Result {
	results := []Result{backend(features)}
	for _, f := range features {
		if f.Need == probe.Backend {
			continue
		}
		r := Result{Name: f.Name, Text: f.Reason, Do: "needed for " + f.Use}
		switch {
		case f.Answer == link.Yes:
			r.Answer = Good
		case f.Answer == link.No && f.Need == probe.Required:
			r.Answer = Bad
		case f.Answer == link.No:
			r.Answer, r.Text = Good, f.Reason+" (optional: "+f.Use+")"
		default:
			r.Answer = Unknown
		}
		results = append(results, r)
	}
	return results
}

// backend says which WireGuard the node will use: one of the two is enough.
func backend(features []probe.Feature) Result {
	r := Result{Name: "WireGuard", Answer: Bad, Do: "load the module wireguard (Linux 5.6 or later), or tun"}
	var reasons []string
	for _, f := range features {
		if f.Need != probe.Backend {
			continue
		}
		if f.Answer == link.Yes {
			return Result{Name: r.Name, Answer: Good, Text: f.Name + ": " + f.Use}
		}
		if f.Answer == link.Unknown {
			r.Answer = Unknown
		}
		reasons = append(reasons, f.Name+": "+f.Reason)
	}
	r.Text = strings.Join(reasons, "; ")
	return r
}
