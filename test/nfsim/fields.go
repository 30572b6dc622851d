package nfsim

import (
	"encoding/binary"
	"net/netip"
	"strings"

	"github.com/weftnet/weftnet/agent/state"
)

// number reads a value in the machine's byte order.
func number(v state.Value) uint32 { return binary.NativeEndian.Uint32([]byte(v)) }

// key joins the fields' values. It tells false where the packet lacks one of them.
func (w *walk) key(fields []state.Field) (state.Value, bool) {
	values := make([]state.Value, len(fields))
	for i, f := range fields {
		v, ok := w.field(f)
		if !ok {
			return "", false
		}
		values[i] = v
	}
	return state.Concat(values...), true
}

// field is what the packet, or the kernel, has of a field; false where there is none, so that the
// rule does not match.
func (w *walk) field(f state.Field) (state.Value, bool) {
	if mod, ok := f.Numgen(); ok {
		if w.m.Random == nil {
			return state.MarkValue(0), true
		}
		return state.MarkValue(w.m.Random(mod)), true
	}
	if v, known, ok := w.header(f); known {
		return v, ok
	}
	if v, known, ok := w.conntrack(f); known {
		return v, ok
	}
	switch f {
	case state.FieldIIFName:
		return state.IfNameValue(w.iif), true
	case state.FieldOIFName:
		return state.IfNameValue(w.oif), true
	case state.FieldMark:
		return state.MarkValue(w.p.Mark), true
	case state.FieldPktType:
		return state.ByteValue(0), true
	case state.FieldSKUID:
		return state.MarkValue(w.p.UID), w.p.HasUID
	case state.FieldFibDaddrType:
		return w.addrType(w.p.Dst.Addr()), true
	case state.FieldFibSaddrType:
		return w.addrType(w.p.Src.Addr()), true
	case state.FieldFibSaddrIIF:
		link, _ := w.m.route(w.p.Src.Addr())
		if link != "" && link == w.iif {
			return state.FibExists, true
		}
		return state.FibMissing, true
	default:
		panic("nfsim: unknown field " + f.String())
	}
}

const unicast = 1 // RTN_UNICAST

func (w *walk) addrType(a netip.Addr) state.Value {
	if w.m.isLocal(a) {
		return state.AddrTypeLocal
	}
	return state.MarkValue(unicast)
}

// header gives the fields of the packet itself, each with its own condition.
func (w *walk) header(f state.Field) (v state.Value, known, ok bool) {
	p := w.p
	four, six := p.Family() == state.IPv4, p.Family() == state.IPv6
	addr := func(a netip.Addr, has bool) (state.Value, bool, bool) { return state.AddrValue(a), true, has }
	port := func(n uint16, has bool) (state.Value, bool, bool) { return state.PortValue(n), true, has }
	switch f {
	case state.FieldNFProto:
		if four {
			return state.NFProtoIPv4, true, true
		}
		return state.NFProtoIPv6, true, true
	case state.FieldL4Proto:
		return state.ProtoValue(p.Proto), true, true
	case state.FieldIPProtocol:
		return state.ProtoValue(p.Proto), true, four
	case state.FieldIPSaddr:
		return addr(p.Src.Addr(), four)
	case state.FieldIPDaddr:
		return addr(p.Dst.Addr(), four)
	case state.FieldIP6Saddr:
		return addr(p.Src.Addr(), six)
	case state.FieldIP6Daddr:
		return addr(p.Dst.Addr(), six)
	case state.FieldTHSport:
		return port(p.Src.Port(), true)
	case state.FieldTHDport:
		return port(p.Dst.Port(), true)
	case state.FieldTCPSport:
		return port(p.Src.Port(), p.Proto == state.ProtoTCP)
	case state.FieldTCPDport:
		return port(p.Dst.Port(), p.Proto == state.ProtoTCP)
	case state.FieldUDPSport:
		return port(p.Src.Port(), p.Proto == state.ProtoUDP)
	case state.FieldUDPDport:
		return port(p.Dst.Port(), p.Proto == state.ProtoUDP)
	default:
		return w.icmp(f)
	}
}

const protoICMP = 1

func (w *walk) icmp(f state.Field) (v state.Value, known, ok bool) {
	p := w.p
	switch f {
	case state.FieldICMPType:
		return state.ByteValue(p.ICMPType), true, p.Family() == state.IPv4 && p.Proto == protoICMP
	case state.FieldICMPv6Type:
		return state.ByteValue(p.ICMPType), true, p.Family() == state.IPv6 && p.Proto == state.ProtoICMPv6
	case state.FieldQuotedSaddr, state.FieldQuoted6Saddr:
		return state.AddrValue(p.QuotedSrc), true, p.QuotedSrc.IsValid()
	case state.FieldQuotedDaddr, state.FieldQuoted6Daddr:
		return state.AddrValue(p.QuotedDst), true, p.QuotedDst.IsValid()
	default:
		return "", false, false
	}
}

func (w *walk) conntrack(f state.Field) (v state.Value, known, ok bool) {
	has := w.ct.flow != nil
	switch f {
	case state.FieldCTState:
		return state.MarkValue(uint32(w.ctState())), true, true
	case state.FieldCTStatus:
		if !has {
			return "", true, false
		}
		return state.MarkValue(uint32(w.ct.flow.Status)), true, true
	case state.FieldCTMark:
		if !has {
			return "", true, false
		}
		return state.MarkValue(w.ct.flow.Mark), true, true
	case state.FieldCTDirection:
		if w.ct.reply {
			return state.ByteValue(1), true, has
		}
		return state.ByteValue(0), true, has
	default:
		return "", false, false
	}
}

func (w *walk) ctState() state.CTStateBits {
	if w.ct.untracked {
		return state.CTUntracked
	}
	if w.ct.state == 0 {
		return state.CTInvalid // not looked at yet: the kernel says invalid
	}
	return w.ct.state
}

// matches tells whether a match matches.
func (w *walk) matches(s state.Statement) bool {
	switch s := s.(type) {
	case state.Cmp:
		v, ok := w.field(s.Field)
		return ok && equal(v, s.Value) != s.Not
	case state.InPrefix:
		v, ok := w.field(s.Field)
		if !ok {
			return false
		}
		a, _ := netip.AddrFromSlice([]byte(v))
		return s.Prefix.Contains(a) != s.Not
	case state.Masked:
		v, ok := w.field(s.Field)
		return ok && (number(v)&s.Mask == s.Value) != s.Not
	case state.CTState:
		return (w.ctState()&s.States != 0) != s.Not
	case state.CTStatus:
		return w.ct.flow != nil && (w.ct.flow.Status&s.Status != 0) != s.Not
	case state.TCPFlags:
		return w.p.Proto == state.ProtoTCP && w.flags()&s.Mask == s.Value
	default:
		panic("nfsim: unknown match " + s.String())
	}
}

// flags of a TCP packet: one that says nothing of them is a SYN where it begins a flow.
func (w *walk) flags() uint8 {
	if w.p.Flags == 0 && w.ct.state != state.CTEstablished {
		return state.TCPSyn
	}
	return w.p.Flags
}

// equal compares a value; a link's name with a star at its end is shorter than names are.
func equal(have, want state.Value) bool {
	if len(want) < len(have) {
		return strings.HasPrefix(string(have), string(want))
	}
	return have == want
}
