//go:build linux

package route

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/wire"
	"github.com/weftnet/weftnet/agent/state"
)

// Lengths of struct rtmsg and struct fib_rule_hdr, and offsets in them.
const (
	headerLen      = 12
	offsetFamily   = 0
	offsetDstLen   = 1
	offsetSrcLen   = 2
	offsetTable    = 4
	offsetProtocol = 5
	offsetScope    = 6
	offsetType     = 7 // the action of a rule
	offsetFlags    = 8
)

// otherType marks a route type that state has no name for, in a state.RouteType.
const otherType = 0x80

func af(f state.Family) byte {
	if f == state.IPv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// encodeRoute is the payload that adds, replaces or deletes a route. Only a route of ours and of
// just this kind fits a deletion.
func encodeRoute(r state.Route, link uint32) []byte {
	r = r.Normalized()
	h := make([]byte, headerLen)
	h[offsetFamily], h[offsetDstLen] = af(state.FamilyOf(r.Dst.Addr())), byte(r.Dst.Bits())
	h[offsetProtocol] = state.RouteProtocol
	h[offsetType] = kernelType(r.Type)
	if r.Scope == state.ScopeLink {
		h[offsetScope] = unix.RT_SCOPE_LINK
	}
	attrs := []wire.Attr{
		wire.Bytes(unix.RTA_DST, r.Dst.Addr().AsSlice()),
		wire.Host32(unix.RTA_TABLE, r.Table),
	}
	if r.Metric != 0 {
		attrs = append(attrs, wire.Host32(unix.RTA_PRIORITY, r.Metric))
	}
	if link != 0 {
		attrs = append(attrs, wire.Host32(unix.RTA_OIF, link))
	}
	if r.Gateway.IsValid() {
		attrs = append(attrs, wire.Bytes(unix.RTA_GATEWAY, r.Gateway.AsSlice()))
	}
	if r.Src.IsValid() {
		attrs = append(attrs, wire.Bytes(unix.RTA_PREFSRC, r.Src.AsSlice()))
	}
	var metrics []wire.Attr
	if r.MTU != 0 {
		metrics = append(metrics, wire.Host32(unix.RTAX_MTU, r.MTU))
	}
	if r.AdvMSS != 0 {
		metrics = append(metrics, wire.Host32(unix.RTAX_ADVMSS, r.AdvMSS))
	}
	if len(metrics) > 0 {
		attrs = append(attrs, wire.Nest(unix.RTA_METRICS, metrics...))
	}
	return wire.Put(h, attrs...)
}

func kernelType(t state.RouteType) byte {
	switch t {
	case state.Unicast:
		return unix.RTN_UNICAST
	case state.Unreachable:
		return unix.RTN_UNREACHABLE
	default:
		return byte(t) &^ otherType
	}
}

func routeType(b byte) state.RouteType {
	switch b {
	case unix.RTN_UNICAST:
		return state.Unicast
	case unix.RTN_UNREACHABLE:
		return state.Unreachable
	default:
		return state.RouteType(b | otherType)
	}
}

// decodeRoute reads a listed route. It is false for one that is not ours, or a clone, or over a link that
// is not among the links: such a route is on its way in or out with its link, and to name it without one
// would be to ask, in a deletion, for the same destination's over any link.
func decodeRoute(b []byte, links map[uint32]string) (state.Route, bool) {
	if len(b) < headerLen || b[offsetProtocol] != state.RouteProtocol ||
		binary.NativeEndian.Uint32(b[offsetFlags:])&unix.RTM_F_CLONED != 0 {
		return state.Route{}, false
	}
	attrs := wire.Parse(b[headerLen:])
	dst, ok := prefix(b[offsetFamily], wire.Find(attrs, unix.RTA_DST), int(b[offsetDstLen]))
	if !ok {
		return state.Route{}, false
	}
	out := wire.HostUint32(wire.Find(attrs, unix.RTA_OIF))
	dev, known := links[out]
	if out != 0 && !known {
		return state.Route{}, false
	}
	metrics := wire.Parse(wire.Find(attrs, unix.RTA_METRICS))
	r := state.Route{
		Table:   wire.HostUint32(wire.Find(attrs, unix.RTA_TABLE)),
		Dst:     dst,
		Dev:     dev,
		Type:    routeType(b[offsetType]),
		Src:     address(wire.Find(attrs, unix.RTA_PREFSRC)),
		Gateway: address(wire.Find(attrs, unix.RTA_GATEWAY)),
		Metric:  wire.HostUint32(wire.Find(attrs, unix.RTA_PRIORITY)),
		MTU:     wire.HostUint32(wire.Find(metrics, unix.RTAX_MTU)),
		AdvMSS:  wire.HostUint32(wire.Find(metrics, unix.RTAX_ADVMSS)),
		Scope:   state.ScopeGlobal,
	}
	if b[offsetScope] == unix.RT_SCOPE_LINK {
		r.Scope = state.ScopeLink
	}
	return r.Normalized(), true
}

func address(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

// prefix reads an address of a length in bits; no address means all of the family.
func prefix(family byte, b []byte, bits int) (netip.Prefix, bool) {
	if b == nil {
		if family == unix.AF_INET6 {
			return netip.PrefixFrom(netip.IPv6Unspecified(), 0), true
		}
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0), family == unix.AF_INET
	}
	p, err := address(b).Prefix(bits)
	return p, err == nil
}

// encodeRule is the payload that adds or deletes a rule.
func encodeRule(r state.Rule) []byte {
	r = r.Normalized()
	h := make([]byte, headerLen)
	h[offsetFamily], h[offsetType] = af(r.Family), unix.FR_ACT_TO_TBL
	attrs := []wire.Attr{wire.Host32(unix.FRA_PRIORITY, uint32(r.Priority)), wire.Host32(unix.FRA_TABLE, r.Table)}
	if r.From.IsValid() {
		h[offsetSrcLen] = byte(r.From.Bits())
		attrs = append(attrs, wire.Bytes(unix.FRA_SRC, r.From.Addr().AsSlice()))
	}
	if r.To.IsValid() {
		h[offsetDstLen] = byte(r.To.Bits())
		attrs = append(attrs, wire.Bytes(unix.FRA_DST, r.To.Addr().AsSlice()))
	}
	if r.IIF != "" {
		attrs = append(attrs, wire.Str(unix.FRA_IIFNAME, r.IIF))
	}
	return wire.Put(h, attrs...)
}

// plainAttrs are what a rule of ours may carry, its defaults included.
var plainAttrs = map[uint16]bool{
	unix.FRA_PRIORITY: true, unix.FRA_TABLE: true, unix.FRA_SRC: true, unix.FRA_DST: true, unix.FRA_IIFNAME: true,
	unix.FRA_SUPPRESS_PREFIXLEN: true, unix.FRA_PROTOCOL: true,
}

// decodeRule reads a listed rule. ours is false outside our priorities; plain is false for a rule
// that state.Rule cannot say.
func decodeRule(b []byte) (r state.Rule, ours, plain bool) {
	if len(b) < headerLen {
		return r, false, false
	}
	attrs := wire.Parse(b[headerLen:])
	r = state.Rule{
		Priority: int(wire.HostUint32(wire.Find(attrs, unix.FRA_PRIORITY))),
		Table:    wire.HostUint32(wire.Find(attrs, unix.FRA_TABLE)),
		IIF:      wire.String(wire.Find(attrs, unix.FRA_IIFNAME)),
		Family:   state.IPv4,
	}
	if b[offsetFamily] == unix.AF_INET6 {
		r.Family = state.IPv6
	}
	if r.Priority < state.RulePriorityMin || r.Priority > state.RulePriorityMax {
		return r, false, false
	}
	plain = b[offsetType] == unix.FR_ACT_TO_TBL && binary.NativeEndian.Uint32(b[offsetFlags:])&unix.FIB_RULE_INVERT == 0
	for _, a := range attrs {
		plain = plain && plainAttrs[a.Type]
		if a.Type == unix.FRA_SUPPRESS_PREFIXLEN {
			plain = plain && wire.HostUint32(a.Data) == ^uint32(0)
		}
	}
	if v := wire.Find(attrs, unix.FRA_SRC); v != nil {
		r.From, _ = prefix(b[offsetFamily], v, int(b[offsetSrcLen]))
	}
	if v := wire.Find(attrs, unix.FRA_DST); v != nil {
		r.To, _ = prefix(b[offsetFamily], v, int(b[offsetDstLen]))
	}
	return r.Normalized(), true, plain
}
