package policy

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/weftnet/weftnet/agent/state"
)

// matches are the ways in which a packet of the family can match a rule, each a line of statements.
func (b *builder) matches(r *rule) [][]state.Statement {
	plain, named := b.portsOf(r)
	var out [][]state.Statement
	if r.anyPort || len(plain) > 0 {
		var ports []state.Statement
		if !r.anyPort {
			ports = b.portMatch(plain)
		}
		for _, peer := range b.peerMatches(r) {
			out = append(out, slices.Concat(ports, peer))
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
func (b *builder) portMatch(ports []port) []state.Statement {
	if len(ports) == 1 {
		p := ports[0]
		out := []state.Statement{state.Cmp{Field: state.FieldL4Proto, Value: state.ProtoValue(p.protocol)}}
		switch {
		case p.first == 0 && p.last == math.MaxUint16:
			return out
		case p.first == p.last:
			return append(out, state.Cmp{Field: state.FieldTHDport, Value: state.PortValue(p.first)})
		}
	}
	set := state.Set{Key: []state.DataType{state.TypeProto, state.TypePort}}
	for _, p := range ports {
		el := state.Element{Key: portKey(p.protocol, p.first)}
		if p.first != p.last {
			el.KeyEnd = portKey(p.protocol, p.last)
			set.Interval = true
		}
		set.Elements = append(set.Elements, el)
	}
	var text strings.Builder
	for _, p := range ports {
		fmt.Fprintf(&text, "%d %d-%d,", p.protocol, p.first, p.last)
	}
	set.Name = "ports-" + hash(text.String())
	b.use("set", set.Name, func() *item { return &item{fixed: &set} })
	return []state.Statement{state.InSet{Fields: state.Fields(state.FieldL4Proto, state.FieldTHDport), Set: set.Name}}
}

func portKey(protocol uint8, number uint16) state.Value {
	return state.Concat(state.ProtoValue(protocol), state.PortValue(number))
}

// peerField is the address at the other end.
func (b *builder) peerField() state.Field {
	if b.d == Egress {
		return b.fam.daddr
	}
	return b.fam.saddr
}

// peerMatches are the ways in which the other end can be a peer of the rule.
func (b *builder) peerMatches(r *rule) [][]state.Statement {
	if r.anyPeer {
		return [][]state.Statement{nil}
	}
	var out [][]state.Statement
	for i := range r.peers {
		if set := b.peerSet(&r.peers[i]); set != "" {
			out = append(out, []state.Statement{state.InSet{Fields: state.Fields(b.peerField()), Set: set}})
		}
	}
	return out
}

// peerSet is the shared set of the addresses of a peer; empty where it has none of the family.
func (b *builder) peerSet(p *peer) string {
	switch {
	case p.pods != nil:
		return b.group("pods", p.pods.key(), group{pods: p.pods})
	case p.nodes != nil:
		var text strings.Builder
		writeSelector(&text, *p.nodes)
		return b.group("nodes", text.String(), group{nodes: p.nodes})
	}
	nets := ofFamily(p.nets, b.fam)
	if len(nets) == 0 {
		return ""
	}
	if b.d == Ingress {
		return b.group("sources", rangesText(nets), group{sources: nets})
	}
	set := state.Set{Name: "nets" + b.fam.suffix + "-" + hash(rangesText(nets)), Key: []state.DataType{b.fam.addr}, Interval: true}
	set.Elements = rangeElements(b.fam, nets)
	return b.use("set", set.Name, func() *item { return &item{fixed: &set} })
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
		fmt.Fprintf(&b, "%s-%s,", r.first, r.last)
	}
	return b.String()
}

// namedMatches looks up the destination with its port: sets of the ports that Pods call by the names.
func (b *builder) namedMatches(r *rule, named []port) [][]state.Statement {
	var out [][]state.Statement
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
		set := b.group("named", text.String(), g)
		out = append(out, []state.Statement{
			state.InSet{Fields: state.Fields(b.fam.daddr, state.FieldL4Proto, state.FieldTHDport), Set: set},
		})
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

// group takes a share in a set that follows what g says.
func (b *builder) group(kind, text string, g group) string {
	name := kind + b.fam.suffix + "-" + hash(text)
	return b.use("set", name, func() *item {
		g.fam = b.fam
		head := state.Set{Name: name, Key: []state.DataType{b.fam.addr}, Interval: g.sources != nil}
		if g.named != nil {
			head.Key = append(head.Key, state.TypeProto, state.TypePort)
		}
		g.live = newLiveSet(head)
		g.fill(b.e)
		b.c.index(&g)
		return &item{live: g.live, group: &g}
	})
}
