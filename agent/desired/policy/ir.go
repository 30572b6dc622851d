package policy

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/weftnet/weftnet/agent/snapshot"
)

// action is what a rule does with the packets that it matches.
type action uint8

const (
	actionAccept action = iota
	actionDeny
	actionPass // on to the next tier
)

// policy is the intermediate form of a NetworkPolicy or ClusterNetworkPolicy: judged, with what
// cannot be honoured left closed. Evaluator and compiler both work on it, and what it says never changes.
type policy struct {
	// serial tells apart all policies and versions of policies that an engine has seen.
	serial   uint64
	name     string // namespace/name, or the name of a ClusterNetworkPolicy
	tier     Tier
	priority int32
	audit    bool
	log      bool
	subject  podSelector
	// sections are by direction; nil where the policy does not apply.
	sections [2]*section
	problems []Problem
	// lines are what the compiler has made of the sections, by direction and family.
	lines [2][2][]line
}

// section is what a policy says of one direction.
type section struct {
	rules []rule
	// named tells whether a rule has a port by name.
	named bool
}

// rule matches a packet when one of its peers and one of its ports do.
type rule struct {
	index   int
	name    string
	action  action
	anyPeer bool
	peers   []peer
	anyPort bool
	ports   []port
}

// peer is one peer of a rule; exactly one of the kinds is set.
type peer struct {
	index int
	pods  *podSelector
	nodes *snapshot.Selector
	nets  []addrRange
}

// port is a range of ports of a protocol, or a name that stands for a port of the destination Pod.
type port struct {
	// protocol is 0 with a name that may be of any protocol.
	protocol    uint8
	first, last uint16
	name        string
}

// podSelector selects Pods that are not on the host's network, by namespace and labels.
type podSelector struct {
	// namespace is the only one, if not empty; else namespaces selects them.
	namespace  string
	namespaces snapshot.Selector
	pods       snapshot.Selector
	// unknown is the answer for Pods of namespaces whose labels are not known yet: a peer that is
	// denied counts them in, one that is accepted does not.
	unknown bool
}

// inNamespace tells whether Pods of a namespace may be selected; labels are nil while it is unknown.
func (s *podSelector) inNamespace(name string, ns *snapshot.Namespace) bool {
	switch {
	case s.namespace != "":
		return s.namespace == name
	case ns == nil:
		return s.unknown
	default:
		return s.namespaces.Matches(ns.Labels)
	}
}

func (s *podSelector) matches(p *snapshot.Pod, ns *snapshot.Namespace) bool {
	return !p.HostNetwork && s.inNamespace(p.Namespace, ns) && s.pods.Matches(p.Labels)
}

// key is the selector as text: the same for all that select alike by the same words.
func (s *podSelector) key() string {
	var b strings.Builder
	if s.namespace != "" {
		b.WriteString("in " + s.namespace)
	} else {
		writeSelector(&b, s.namespaces)
		b.WriteString(strconv.FormatBool(s.unknown))
	}
	b.WriteByte('|')
	writeSelector(&b, s.pods)
	return b.String()
}

// writeSelector writes a selector so that no two read the same: label keys and values hold no
// character that is used between them.
func writeSelector(b *strings.Builder, s snapshot.Selector) {
	for _, l := range s.MatchLabels {
		b.WriteString(l.Key + "=" + l.Value + ",")
	}
	for _, r := range s.MatchExpressions {
		b.WriteString(r.Key + " " + string(r.Operator) + "(" + strings.Join(r.Values, " ") + "),")
	}
}

// has tells whether the section of a direction exists.
func (p *policy) has(d Direction) bool { return p.sections[d] != nil }

// plain tells whether a packet is to one of the ports that have a number.
func (r *rule) plain(pkt Packet) bool {
	if r.anyPort {
		return true
	}
	for _, p := range r.ports {
		if p.name == "" && p.protocol == pkt.Protocol && p.first <= pkt.Port && pkt.Port <= p.last {
			return true
		}
	}
	return false
}

// namedBy tells whether a packet is to a port that the destination Pod calls as the rule does.
func (r *rule) namedBy(pod *snapshot.Pod, pkt Packet) bool {
	for _, p := range r.ports {
		if p.name == "" {
			continue
		}
		for _, have := range p.resolve(pod) {
			if have.protocol == pkt.Protocol && have.first == pkt.Port {
				return true
			}
		}
	}
	return false
}

// resolve gives the ports that a Pod calls by the name.
func (p port) resolve(pod *snapshot.Pod) []port {
	var out []port
	for _, n := range pod.Ports {
		if n.Name == p.name && (p.protocol == 0 || p.protocol == n.Protocol) {
			out = append(out, port{protocol: n.Protocol, first: n.Port, last: n.Port})
		}
	}
	return out
}

// clean is an address as packets carry it.
func clean(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }
