package policy

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/weftnet/weftnet/agent/snapshot"
	"github.com/weftnet/weftnet/agent/state"
)

// protocols are the transport protocols by the names that policies use.
var protocols = map[string]uint8{"TCP": state.ProtoTCP, "UDP": state.ProtoUDP, "SCTP": state.ProtoSCTP}

// judge collects the problems of one object while it is read.
type judge struct {
	about    Problem // kind and name of the object
	problems []Problem
}

func (j *judge) fault(field, format string, args ...any) {
	p := j.about
	p.Field, p.Message = field, fmt.Sprintf(format, args...)
	j.problems = append(j.problems, p)
}

// selector tells whether a label selector can be judged.
func (j *judge) selector(field string, s snapshot.Selector) bool {
	if err := s.Validate(); err != nil {
		j.fault(field, "%v", err)
		return false
	}
	return true
}

// fromNetworkPolicy reads a NetworkPolicy. What cannot be honoured of a rule matches nothing; what
// the policy selects is isolated all the same.
func fromNetworkPolicy(np snapshot.NetworkPolicy) *policy {
	j := &judge{about: Problem{Kind: "NetworkPolicy", Namespace: np.Namespace, Name: np.Name, UID: np.UID, Generation: np.Generation}}
	p := &policy{name: np.Key().String(), tier: TierNetworkPolicy, audit: np.Audit, log: np.Log}
	p.subject = podSelector{namespace: np.Namespace, pods: np.PodSelector}
	if !j.selector("spec.podSelector", np.PodSelector) {
		p.subject.pods = snapshot.Selector{} // everybody: closed rather than open
	}
	ingress, egress := j.types(np)
	if ingress {
		p.sections[Ingress] = j.section("spec.ingress", "from", np.Namespace, np.Ingress)
	}
	if egress {
		p.sections[Egress] = j.section("spec.egress", "to", np.Namespace, np.Egress)
	}
	p.problems = j.problems
	return p
}

// types says in which directions the policy isolates. Without types it is ingress, and egress where
// there are egress rules.
func (j *judge) types(np snapshot.NetworkPolicy) (ingress, egress bool) {
	if len(np.Types) == 0 {
		return true, len(np.Egress) > 0
	}
	for i, t := range np.Types {
		switch t {
		case "Ingress":
			ingress = true
		case "Egress":
			egress = true
		default:
			j.fault(fmt.Sprintf("spec.policyTypes[%d]", i), "unknown type %q: the policy isolates in both directions", t)
			return true, true
		}
	}
	return ingress, egress
}

func (j *judge) section(field, peers, namespace string, rules []snapshot.NetworkPolicyRule) *section {
	s := &section{}
	for i, r := range rules {
		at := fmt.Sprintf("%s[%d]", field, i)
		out := rule{index: i, anyPeer: len(r.Peers) == 0, anyPort: len(r.Ports) == 0}
		for k, p := range r.Peers {
			if read, ok := j.peer(fmt.Sprintf("%s.%s[%d]", at, peers, k), namespace, p); ok {
				read.index = k
				out.peers = append(out.peers, read)
			}
		}
		for k, p := range r.Ports {
			if read, ok := j.port(fmt.Sprintf("%s.ports[%d]", at, k), p); ok {
				out.ports = append(out.ports, read)
				s.named = s.named || read.name != ""
			}
		}
		s.rules = append(s.rules, out)
	}
	return s
}

func (j *judge) peer(field, namespace string, p snapshot.NetworkPolicyPeer) (peer, bool) {
	selectors := p.PodSelector != nil || p.NamespaceSelector != nil
	switch {
	case p.IPBlock != nil && selectors:
		j.fault(field, "has both an ipBlock and a selector")
		return peer{}, false
	case p.IPBlock != nil:
		ranges, ok := j.block(field+".ipBlock", *p.IPBlock)
		return peer{nets: ranges}, ok
	case !selectors:
		j.fault(field, "is of a kind that is not known")
		return peer{}, false
	}
	s := &podSelector{namespace: namespace}
	ok := true
	if p.NamespaceSelector != nil {
		s.namespace, s.namespaces = "", *p.NamespaceSelector
		ok = j.selector(field+".namespaceSelector", *p.NamespaceSelector)
	}
	if p.PodSelector != nil {
		s.pods = *p.PodSelector
		ok = j.selector(field+".podSelector", *p.PodSelector) && ok
	}
	return peer{pods: s}, ok
}

// block gives the ranges of a block without its exceptions. With an exception that cannot be read
// the block is void, since nobody knows how much of it was meant.
func (j *judge) block(field string, b snapshot.IPBlock) ([]addrRange, bool) {
	whole, err := parseRange(b.CIDR)
	if err != nil {
		j.fault(field+".cidr", "%v", err)
		return nil, false
	}
	var holes []addrRange
	for i, text := range b.Except {
		h, err := parseRange(text)
		if err != nil {
			j.fault(fmt.Sprintf("%s.except[%d]", field, i), "%v", err)
			return nil, false
		}
		holes = append(holes, h)
	}
	return merge(subtract(whole, holes)), true
}

func (j *judge) port(field string, p snapshot.NetworkPolicyPort) (port, bool) {
	protocol, ok := protocols[cmp.Or(p.Protocol, "TCP")]
	switch {
	case !ok:
		j.fault(field+".protocol", "unknown protocol %q", p.Protocol)
	case p.Name != "" && p.EndPort != 0:
		j.fault(field+".endPort", "stands beside a port with a name")
	case p.Name != "":
		return port{protocol: protocol, name: p.Name}, true
	case p.Number == 0 && p.EndPort == 0:
		return port{protocol: protocol, last: math.MaxUint16}, true
	case p.Number < 1 || p.Number > math.MaxUint16:
		j.fault(field+".port", "%d is no port", p.Number)
	case p.EndPort != 0 && (p.EndPort < p.Number || p.EndPort > math.MaxUint16):
		j.fault(field+".endPort", "%d does not end a range that begins at %d", p.EndPort, p.Number)
	default:
		return port{protocol: protocol, first: uint16(p.Number), last: uint16(max(p.Number, p.EndPort))}, true
	}
	return port{}, false
}

// order is the order in which policies are asked: tiers, priorities, names.
func (p *policy) order(o *policy) int {
	tiers := []Tier{TierAdmin, TierNetworkPolicy, TierBaseline}
	return cmp.Or(
		cmp.Compare(slices.Index(tiers, p.tier), slices.Index(tiers, o.tier)),
		cmp.Compare(p.priority, o.priority), cmp.Compare(p.name, o.name),
	)
}
