package policy

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/weftnet/weftnet/agent/state"
)

// line is one way in which a packet of a family can match a rule, and the sets that it takes.
type line struct {
	match []state.Statement
	text  string
	needs []need
}

// need is a set that a line looks up, and how it is made.
type need struct {
	name string
	make func() *item
}

// and joins two lines that both must match.
func (l line) and(o line) line {
	return line{match: slices.Concat(l.match, o.match), needs: slices.Concat(l.needs, o.needs)}
}

// lookup is a line that looks fields up in a set.
func lookup(n need, fields ...state.Field) line {
	return line{match: []state.Statement{state.InSet{Fields: fields, Set: n.name}}, needs: []need{n}}
}

// fixed is a set whose elements are its content.
func fixed(set state.Set) need {
	return need{set.Name, func() *item { return &item{fixed: &set} }}
}

// matches are the ways in which a packet of the family can match a rule.
func (b *builder) matches(r *rule) []line {
	plain, named := b.portsOf(r)
	var out []line
	if r.anyPort || len(plain) > 0 {
		var ports line
		if !r.anyPort {
			ports = portMatch(plain)
		}
		for _, peer := range b.peerMatches(r) {
			out = append(out, ports.and(peer))
		}
	}
	if len(named) > 0 {
		out = append(out, b.namedMatches(r, named)...)
	}
	return out
}

// portsOf gives the ports by number, sorted and joined, and those by name that each destination
// calls its own way. At ingress the destination is the Pod itself.
func (b *builder) portsOf(r *rule) (plain, named []port) {
	for _, p := range r.ports {
		switch {
		case p.name == "":
			plain = append(plain, p)
		case b.d == Ingress:
			plain = append(plain, p.resolve(&b.pod.Pod)...)
		default:
			named = append(named, p)
		}
	}
	return joinPorts(plain), named
}

// joinPorts sorts ranges of ports and joins those that overlap or touch.
func joinPorts(in []port) []port {
	slices.SortFunc(in, func(a, b port) int {
		return int(a.protocol)<<16 + int(a.first) - int(b.protocol)<<16 - int(b.first)
	})
	var out []port
	for _, p := range in {
		if n := len(out) - 1; n >= 0 && out[n].protocol == p.protocol && int(p.first) <= int(out[n].last)+1 {
			out[n].last = max(out[n].last, p.last)
			continue
		}
		out = append(out, p)
	}
	return out
}

// portMatch matches the ports of a packet: one port by comparison, several in a shared set.
func portMatch(ports []port) line {
	if len(ports) == 1 {
		p := ports[0]
		protocol := state.Cmp{Field: state.FieldL4Proto, Value: state.ProtoValue(p.protocol)}
		number := state.Cmp{Field: state.FieldTHDport, Value: state.PortValue(p.first)}
		switch {
		case p.first == 0 && p.last == math.MaxUint16:
			return line{match: []state.Statement{protocol}}
		case p.first == p.last && p.protocol == state.ProtoTCP:
			number.Field = state.FieldTCPDport // which stands for both
			return line{match: []state.Statement{number}}
		case p.first == p.last && p.protocol == state.ProtoUDP:
			number.Field = state.FieldUDPDport
			return line{match: []state.Statement{number}}
		case p.first == p.last:
			return line{match: []state.Statement{protocol, number}}
		}
	}
	set := state.Set{Key: []state.DataType{state.TypeProto, state.TypePort}}
	var text strings.Builder
	for _, p := range ports {
		el := state.Element{Key: portKey(p.protocol, p.first)}
		if p.first != p.last {
			el.KeyEnd = portKey(p.protocol, p.last)
			set.Interval = true
		}
		set.Elements = append(set.Elements, el)
		fmt.Fprintf(&text, "%d %d-%d,", p.protocol, p.first, p.last)
	}
	set.Name = "ports-" + hash(text.String())
	return lookup(fixed(set), state.FieldL4Proto, state.FieldTHDport)
}

func portKey(protocol uint8, number uint16) state.Value {
	return state.Concat(state.ProtoValue(protocol), state.PortValue(number))
}

// peerMatches are the ways in which the other end can be a peer of the rule.
func (b *builder) peerMatches(r *rule) []line {
	if r.anyPeer {
		return []line{{}}
	}
	field := b.fam.saddr
	if b.d == Egress {
		field = b.fam.daddr
	}
	var out []line
	for i := range r.peers {
		if n, ok := b.peerSet(&r.peers[i]); ok {
			out = append(out, lookup(n, field))
		}
	}
	return out
}

// peerSet is the shared set of the addresses of a peer, if it has any of the family.
func (b *builder) peerSet(p *peer) (need, bool) {
	switch {
	case p.pods != nil:
		return b.group("pods", p.pods.key(), group{pods: p.pods}), true
	case p.nodes != nil:
		var text strings.Builder
		writeSelector(&text, *p.nodes)
		return b.group("nodes", text.String(), group{nodes: p.nodes}), true
	}
	nets := ofFamily(p.nets, b.fam)
	if len(nets) == 0 {
		return need{}, false
	}
	if b.d == Ingress {
		return b.group("sources", rangesText(nets), group{sources: nets}), true
	}
	return fixed(state.Set{
		Name: "nets" + b.fam.suffix + "-" + hash(rangesText(nets)), Key: []state.DataType{b.fam.addr}, Interval: true,
		Elements: rangeElements(b.fam, nets),
	}), true
}

func ofFamily(ranges []addrRange, f *family) []addrRange {
	var out []addrRange
	for _, r := range ranges {
		if r.first.BitLen() == f.bits {
			out = append(out, r)
		}
	}
	return out
}

func rangesText(ranges []addrRange) string {
	var b strings.Builder
	for _, r := range ranges {
		b.WriteString(r.first.String() + "-" + r.last.String() + ",")
	}
	return b.String()
}

// namedMatches looks up the destination with its port: sets of the ports that Pods call by the names.
func (b *builder) namedMatches(r *rule, named []port) []line {
	var out []line
	for _, g := range namedGroups(r, b.fam) {
		g.named = named
		var text strings.Builder
		for _, p := range named {
			fmt.Fprintf(&text, "%d %s,", p.protocol, p.name)
		}
		switch {
		case g.pods != nil:
			text.WriteString(g.pods.key())
		case g.block != nil:
			text.WriteString(rangesText(g.block))
		}
		out = append(out, lookup(b.group("named", text.String(), g), b.fam.daddr, state.FieldL4Proto, state.FieldTHDport))
	}
	return out
}

func namedGroups(r *rule, f *family) []group {
	if r.anyPeer {
		return []group{{}}
	}
	var out []group
	for _, p := range r.peers {
		if p.pods != nil {
			out = append(out, group{pods: p.pods})
		} else if nets := ofFamily(p.nets, f); len(nets) > 0 {
			out = append(out, group{block: nets})
		}
	}
	return out
}

// group is a set that follows what g says.
func (b *builder) group(kind, text string, g group) need {
	e, fam, name := b.e, b.fam, kind+b.fam.suffix+"-"+hash(text)
	return need{name, func() *item {
		g := g
		g.fam = fam
		head := state.Set{Name: name, Key: []state.DataType{fam.addr}, Interval: g.sources != nil}
		if g.named != nil {
			head.Key = append(head.Key, state.TypeProto, state.TypePort)
		}
		g.live = newLiveSet(head)
		g.fill(e)
		e.out.index(&g)
		return &item{live: g.live, group: &g}
	}}
}
