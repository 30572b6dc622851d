//go:build linux

// Package conntrack deletes entries of the kernel's connection tracking: flows that were set up
// under rules which no longer hold, such as those of a host port that came or went. UDP needs it,
// since its flows last as long as packets come.
package conntrack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/wire"
	"github.com/weftnet/weftnet/agent/state"
)

// Tuple is one direction of a flow.
type Tuple struct {
	Src, Dst netip.AddrPort
	Protocol uint8
}

// Flow is one entry: the packet that began it, and what its reply looks like. Where an address was
// translated, the reply's source is not the original's destination.
type Flow struct {
	Original, Reply Tuple
}

// String prints the flow as conntrack does, without counts.
func (f Flow) String() string {
	return fmt.Sprintf("proto %d %s -> %s, reply %s -> %s", f.Original.Protocol, f.Original.Src, f.Original.Dst, f.Reply.Src, f.Reply.Dst)
}

// Filter matches flows. The zero value of a field matches any, but not all of them may be zero.
type Filter struct {
	Protocol uint8
	// Dst and DstPort are where the first packet was sent, before any translation: a host port.
	Dst     netip.Addr
	DstPort uint16
	// ReplySrc and ReplyPort are who answers, after translation: a Pod.
	ReplySrc  netip.Addr
	ReplyPort uint16
	// Src is who began the flow.
	Src netip.Addr
	// Untranslated matches only flows of which no address was rewritten, Family those of one family.
	Untranslated bool
	Family       state.Family
}

// Match tells whether the filter matches a flow.
func (f Filter) Match(flow Flow) bool {
	addr := func(want, have netip.Addr) bool { return !want.IsValid() || want.Unmap() == have }
	port := func(want, have uint16) bool { return want == 0 || want == have }
	return (f.Protocol == 0 || f.Protocol == flow.Original.Protocol) &&
		addr(f.Dst, flow.Original.Dst.Addr()) && port(f.DstPort, flow.Original.Dst.Port()) &&
		addr(f.Src, flow.Original.Src.Addr()) &&
		addr(f.ReplySrc, flow.Reply.Src.Addr()) && port(f.ReplyPort, flow.Reply.Src.Port()) &&
		(!f.Untranslated || (flow.Reply.Src == flow.Original.Dst && flow.Reply.Dst == flow.Original.Src)) &&
		(f.Family == 0 || f.Family == state.FamilyOf(flow.Original.Dst.Addr()))
}

// ErrMatchesAll says that a filter without any condition was given, which would cut every flow of
// the node.
var ErrMatchesAll = errors.New("a filter must have a condition")

// Kernel is the connection tracking of one network namespace.
type Kernel struct{ conn *wire.Conn }

// New opens the connection tracking of the network namespace of the calling thread.
func New() (*Kernel, error) {
	conn, err := wire.Dial(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	return &Kernel{conn: conn}, nil
}

// Close ends the socket.
func (k *Kernel) Close() error { return k.conn.Close() }

// Message types and attributes of linux/netfilter/nfnetlink_conntrack.h, which x/sys/unix lacks.
const (
	subsystem = 1 << 8 // NFNL_SUBSYS_CTNETLINK
	msgGet    = 1
	msgDelete = 2

	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaID         = 12
	ctaZone       = 18
	ctaFilter     = 25

	ctaFilterOrigFlags  = 1
	ctaFilterReplyFlags = 2
	filterProtoNum      = 1 << 3

	ctaTupleIP    = 1
	ctaTupleProto = 2

	ctaIPv4Src = 1
	ctaIPv4Dst = 2
	ctaIPv6Src = 3
	ctaIPv6Dst = 4

	ctaProtoNum     = 1
	ctaProtoSrcPort = 2
	ctaProtoDstPort = 3

	netfilterHeader = 4
)

// List gives all flows of both families.
func (k *Kernel) List(ctx context.Context) ([]Flow, error) {
	var out []Flow
	err := k.each(ctx, func(_ byte, f Flow, _ []wire.Attr) error {
		out = append(out, f)
		return nil
	})
	return out, err
}

// Delete deletes the flows that match any of the filters, and tells how many.
func (k *Kernel) Delete(ctx context.Context, filters ...Filter) (int, error) {
	if slices.Contains(filters, Filter{}) {
		return 0, ErrMatchesAll
	}
	if len(filters) == 0 {
		return 0, nil
	}
	count := 0
	err := k.each(ctx, func(family byte, f Flow, attrs []wire.Attr) error {
		if !slices.ContainsFunc(filters, func(x Filter) bool { return x.Match(f) }) {
			return nil
		}
		err := k.delete(family, attrs)
		if errors.Is(err, unix.ENOENT) {
			return nil // it ended by itself
		}
		if err != nil {
			return fmt.Errorf("delete flow %s: %w", f, err)
		}
		count++
		return nil
	})
	return count, err
}

// DeleteWhere deletes the flows of a protocol that stale tells, and says how many. The kernel
// lists no others where it can leave them out (from Linux 5.8). stale must not wait for anything.
func (k *Kernel) DeleteWhere(ctx context.Context, protocol uint8, stale func(Flow) bool) (int, error) {
	count := 0
	err := k.eachOf(ctx, protocol, func(family byte, f Flow, attrs []wire.Attr) error {
		if f.Original.Protocol != protocol || !stale(f) {
			return nil
		}
		err := k.delete(family, attrs)
		if errors.Is(err, unix.ENOENT) {
			return nil // it ended by itself
		}
		if err != nil {
			return fmt.Errorf("delete flow %s: %w", f, err)
		}
		count++
		return nil
	})
	return count, err
}

// delete names the entry by its first tuple, its zone and its id, so that a younger flow in its
// place is not meant.
func (k *Kernel) delete(family byte, attrs []wire.Attr) error {
	request := []byte{family, unix.NFNETLINK_V0, 0, 0}
	for _, a := range attrs {
		switch a.Type {
		case ctaTupleOrig:
			request = wire.Put(request, wire.Attr{Type: a.Type | unix.NLA_F_NESTED, Data: a.Data})
		case ctaZone, ctaID:
			request = wire.Put(request, a)
		}
	}
	_, err := k.conn.Do(subsystem|msgDelete, 0, request)
	return err
}

func (k *Kernel) each(ctx context.Context, f func(family byte, flow Flow, attrs []wire.Attr) error) error {
	return k.eachOf(ctx, 0, f)
}

// listRequest asks for the flows of one family, and of one protocol unless that is 0.
func listRequest(family, protocol byte) []byte {
	b := []byte{family, unix.NFNETLINK_V0, 0, 0}
	if protocol == 0 {
		return b
	}
	return wire.Put(b,
		wire.Nest(ctaTupleOrig, wire.Nest(ctaTupleProto, wire.Bytes(ctaProtoNum, []byte{protocol}))),
		wire.Nest(ctaFilter, wire.Host32(ctaFilterOrigFlags, filterProtoNum), wire.Host32(ctaFilterReplyFlags, 0)))
}

// list lets the kernel filter where it can. One that knows no filters lists all of them.
func (k *Kernel) list(family, protocol byte) ([][]byte, error) {
	replies, err := k.conn.List(subsystem|msgGet, listRequest(family, protocol))
	if protocol != 0 && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)) {
		return k.conn.List(subsystem|msgGet, listRequest(family, 0))
	}
	return replies, err
}

func (k *Kernel) eachOf(ctx context.Context, protocol byte, f func(family byte, flow Flow, attrs []wire.Attr) error) error {
	var faults []error
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(faults, err)...)
		}
		replies, err := k.list(family, protocol)
		if err != nil {
			faults = append(faults, fmt.Errorf("list connection tracking: %w", err))
			continue
		}
		for _, b := range replies {
			if len(b) < netfilterHeader || b[0] != family {
				continue
			}
			attrs := wire.Parse(b[netfilterHeader:])
			flow := Flow{Original: decodeTuple(wire.Find(attrs, ctaTupleOrig)), Reply: decodeTuple(wire.Find(attrs, ctaTupleReply))}
			faults = append(faults, f(family, flow, attrs))
		}
	}
	return errors.Join(faults...)
}

func decodeTuple(b []byte) Tuple {
	attrs := wire.Parse(b)
	ip, proto := wire.Parse(wire.Find(attrs, ctaTupleIP)), wire.Parse(wire.Find(attrs, ctaTupleProto))
	addr := func(types ...uint16) netip.Addr {
		for _, t := range types {
			if a, ok := netip.AddrFromSlice(wire.Find(ip, t)); ok {
				return a
			}
		}
		return netip.Addr{}
	}
	port := func(typ uint16) uint16 {
		if v := wire.Find(proto, typ); len(v) == 2 {
			return uint16(v[0])<<8 | uint16(v[1])
		}
		return 0
	}
	t := Tuple{
		Src: netip.AddrPortFrom(addr(ctaIPv4Src, ctaIPv6Src), port(ctaProtoSrcPort)),
		Dst: netip.AddrPortFrom(addr(ctaIPv4Dst, ctaIPv6Dst), port(ctaProtoDstPort)),
	}
	if v := wire.Find(proto, ctaProtoNum); len(v) == 1 {
		t.Protocol = v[0]
	}
	return t
}

// HostPortOpened are the flows that are wrong once a port of the node leads to a Pod: those to the
// port that went to the node itself so far. UDP only: a TCP connection stays with its server. Flows
// to the same port of other machines match as well; they have nothing to lose, since nothing in
// them is translated, and are back with the next packet.
func HostPortOpened(port uint16, hostIP, pod netip.Addr) Filter {
	f := Filter{Protocol: state.ProtoUDP, DstPort: port, Untranslated: true, Family: state.FamilyOf(pod)}
	if hostIP.IsValid() && !hostIP.IsUnspecified() {
		f.Dst = hostIP
	}
	return f
}

// HostPortClosed are the flows that are wrong once a port no longer leads to a Pod.
func HostPortClosed(port uint16, pod netip.Addr) Filter {
	return Filter{Protocol: state.ProtoUDP, DstPort: port, ReplySrc: pod}
}
