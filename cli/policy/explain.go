package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	engine "github.com/weftnet/weftnet/agent/desired/policy"
	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

// Cluster is everything that an answer depends on.
type Cluster struct {
	Pods                   []snapshot.Pod
	Namespaces             []snapshot.Namespace
	Nodes                  []snapshot.KubeNode
	NetworkPolicies        []snapshot.NetworkPolicy
	ClusterNetworkPolicies []snapshot.ClusterNetworkPolicy
	// Services are the addresses of Services, with their names.
	Services map[netip.Addr]string
}

// Answer is what becomes of a flow. Where both ends have addresses of both families, it is one for each.
type Answer struct {
	Allowed bool   `json:"allowed"`
	Flows   []Flow `json:"flows"`
	// Notes are what a reader may not expect.
	Notes []string `json:"notes,omitempty"`
	// Problems are faults of policies that took part in the answer, or might.
	Problems []string `json:"problems,omitempty"`
}

// Flow is the answer for one pair of addresses.
type Flow struct {
	From     string     `json:"from"`
	To       string     `json:"to"`
	Protocol string     `json:"protocol"`
	Port     uint16     `json:"port,omitempty"`
	Allowed  bool       `json:"allowed"`
	Egress   *Direction `json:"egress,omitempty"`
	Ingress  *Direction `json:"ingress,omitempty"`
}

// Direction is what the policies of one end said; there is none where no Pod stands there.
type Direction struct {
	Allowed  bool     `json:"allowed"`
	Pod      string   `json:"pod"`
	Tier     string   `json:"tier"`
	Policies []string `json:"policies,omitempty"`
	// Rule and Peer count from 0 in the policy's ingress or egress; absent where no rule decided.
	Rule     *int   `json:"rule,omitempty"`
	RuleName string `json:"ruleName,omitempty"`
	Peer     *int   `json:"peer,omitempty"`
	// Why tells it in words.
	Why string `json:"why"`
	// Audit are policies in audit mode that would have denied it.
	Audit []string `json:"audit,omitempty"`
}

// Explain answers the question. It is pure.
func Explain(c Cluster, q Question) (Answer, error) {
	var a Answer
	e := c.engine()
	from, err := c.resolve(q.From, &a)
	if err != nil {
		return a, fmt.Errorf("--from: %w", err)
	}
	to, err := c.resolve(q.To, &a)
	if err != nil {
		return a, fmt.Errorf("--to: %w", err)
	}
	port, err := to.port(q)
	if err != nil {
		return a, fmt.Errorf("--to: %w", err)
	}
	for _, src := range from.addrs {
		for _, dst := range to.addrs {
			if src.Is4() == dst.Is4() {
				a.Flows = append(a.Flows, flow(e, engine.Packet{Protocol: protocolIn(q.Protocol, src), Src: src, Dst: dst, Port: port}))
			}
		}
	}
	if len(a.Flows) == 0 {
		return a, fmt.Errorf("%s and %s have no address of the same family", q.From, q.To)
	}
	a.Allowed = !slices.ContainsFunc(a.Flows, func(f Flow) bool { return !f.Allowed })
	a.Problems = problems(e, a.Flows)
	return a, nil
}

// protocolIn takes the family's own ICMP.
func protocolIn(protocol uint8, a netip.Addr) uint8 {
	const icmp = 1
	if protocol != icmp && protocol != state.ProtoICMPv6 {
		return protocol
	}
	if a.Is4() {
		return icmp
	}
	return state.ProtoICMPv6
}

func (c Cluster) engine() *engine.Engine {
	e := engine.New(engine.Options{})
	for _, n := range c.Namespaces {
		e.SetNamespace(n)
	}
	for _, n := range c.Nodes {
		e.SetNode(n)
	}
	for _, p := range c.Pods {
		e.SetPod(p)
	}
	for _, p := range c.NetworkPolicies {
		e.SetNetworkPolicy(p)
	}
	for _, p := range c.ClusterNetworkPolicies {
		e.SetClusterNetworkPolicy(p)
	}
	return e
}

// resolved is an end with its addresses.
type resolved struct {
	name  string
	pod   *snapshot.Pod
	addrs []netip.Addr
}

func (c Cluster) resolve(end End, a *Answer) (resolved, error) {
	if end.IP.IsValid() {
		if name, ok := c.Services[end.IP]; ok {
			return resolved{}, fmt.Errorf("%s is an address of the Service %s: policies judge the Pod that it leads to; ask for that Pod and its own port", end.IP, name)
		}
		return resolved{name: end.IP.String(), pod: c.podAt(end.IP), addrs: []netip.Addr{end.IP}}, nil
	}
	i := slices.IndexFunc(c.Pods, func(p snapshot.Pod) bool { return p.Key() == end.Pod })
	if i < 0 {
		return resolved{}, c.unknownPod(end.Pod)
	}
	p := &c.Pods[i]
	switch {
	case p.Ended:
		return resolved{}, fmt.Errorf("pod %s has ended and has no address any more", end.Pod)
	case len(p.IPs) == 0:
		return resolved{}, fmt.Errorf("pod %s has no address yet", end.Pod)
	case p.HostNetwork:
		a.Notes = append(a.Notes, fmt.Sprintf("pod %s is on the network of its node %s: no policy selects it, and others know it by the node's address", end.Pod, p.Node))
	}
	return resolved{name: end.Pod.String(), pod: p, addrs: p.IPs}, nil
}

// Names are the Pods by their addresses.
func (c Cluster) Names() map[netip.Addr]string {
	out := map[netip.Addr]string{}
	for _, p := range c.Pods {
		if p.HostNetwork || p.Ended {
			continue
		}
		for _, a := range p.IPs {
			out[a] = p.Key().String()
		}
	}
	return out
}

func (c Cluster) podAt(a netip.Addr) *snapshot.Pod {
	for i, p := range c.Pods {
		if !p.HostNetwork && !p.Ended && slices.Contains(p.IPs, a) {
			return &c.Pods[i]
		}
	}
	return nil
}

func (c Cluster) unknownPod(name snapshot.NamespacedName) error {
	if !slices.ContainsFunc(c.Namespaces, func(n snapshot.Namespace) bool { return n.Name == name.Namespace }) {
		return fmt.Errorf("there is no namespace %s", name.Namespace)
	}
	var alike []string
	for _, p := range c.Pods {
		if p.Namespace == name.Namespace && strings.HasPrefix(p.Name, name.Name) {
			alike = append(alike, p.Name)
		}
	}
	if len(alike) > 0 {
		const most = 5
		return fmt.Errorf("there is no pod %s; did you mean %s?", name, strings.Join(alike[:min(len(alike), most)], ", "))
	}
	return fmt.Errorf("there is no pod %s", name)
}

// port is the destination's, its name looked up among the Pod's.
func (r resolved) port(q Question) (uint16, error) {
	if q.To.PortName == "" {
		return q.To.Port, nil
	}
	for _, p := range r.pod.Ports {
		if p.Name == q.To.PortName && p.Protocol == q.Protocol {
			return p.Port, nil
		}
	}
	return 0, fmt.Errorf("pod %s has no %s port named %s", r.name, protocolName(q.Protocol), q.To.PortName)
}

func flow(e *engine.Engine, p engine.Packet) Flow {
	x := e.Explain(p)
	return Flow{
		From: p.Src.String(), To: p.Dst.String(), Protocol: protocolName(p.Protocol), Port: p.Port,
		Allowed: x.Allowed, Egress: direction(x.Egress), Ingress: direction(x.Ingress),
	}
}

func direction(d *engine.Decision) *Direction {
	if d == nil {
		return nil
	}
	r := d.Reason
	out := &Direction{
		Allowed: d.Verdict == engine.Accept, Pod: r.Pod.String(), Tier: string(r.Tier), Policies: r.Policies, RuleName: r.RuleName, Why: why(*d),
	}
	if r.Rule >= 0 {
		out.Rule = &r.Rule
	}
	if r.Peer >= 0 {
		out.Peer = &r.Peer
	}
	for _, audit := range d.Audit {
		out.Audit = append(out.Audit, audit.String())
	}
	return out
}

// why tells a decision in words.
func why(d engine.Decision) string {
	r := d.Reason
	list := strings.Join(r.Policies, ", ")
	switch {
	case r.Tier == engine.TierAlways:
		return "always allowed: a Pod to itself, or its own node to it"
	case r.Tier == engine.TierUnknown:
		return "closed: a policy may select the Pod, and too little is known of it"
	case r.Tier == engine.TierDefault:
		return "no policy selects the Pod for this direction, and none denies it"
	case r.Rule < 0 && d.Verdict == engine.Deny:
		return fmt.Sprintf("the Pod is isolated by %s %s, and no rule of any allows it", r.Tier, list)
	default:
		text := fmt.Sprintf("%s %s, %s[%d]", r.Tier, list, "spec."+r.Direction.String(), r.Rule)
		if r.RuleName != "" {
			text += fmt.Sprintf(" (%s)", r.RuleName)
		}
		if r.Peer >= 0 {
			text += fmt.Sprintf(", peer %d", r.Peer)
		}
		return text
	}
}

// problems are those of the policies that decided, or that are in the namespaces concerned.
func problems(e *engine.Engine, flows []Flow) []string {
	concerned := map[string]bool{}
	for _, f := range flows {
		for _, d := range []*Direction{f.Egress, f.Ingress} {
			if d != nil {
				namespace, _, _ := strings.Cut(d.Pod, "/")
				concerned[namespace] = true
			}
		}
	}
	var out []string
	for _, p := range e.Problems() {
		if p.Namespace == "" || concerned[p.Namespace] {
			name := strings.TrimPrefix(p.Namespace+"/"+p.Name, "/")
			out = append(out, fmt.Sprintf("%s %s: %s: %s", p.Kind, name, p.Field, p.Message))
		}
	}
	return out
}
