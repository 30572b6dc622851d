//go:build linux

// Package conntrack deletes entries of the kernel's connection tracking: flows that were set up
// under rules which no longer hold, such as those of a host port that came or went. UDP needs it,
// since its flows last as long as packets come.
package conntrack

import (
	"bytes"
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
type Kernel struct {
	conn *wire.Conn
	// dump lists, while conn writes to what is listed.
	dump *wire.Conn
}

// New opens the connection tracking of the network namespace of the calling thread.
func New() (*Kernel, error) {
	conn, err := wire.Dial(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	dump, err := wire.Dial(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &Kernel{conn: conn, dump: dump}, nil
}

// Close ends the sockets.
func (k *Kernel) Close() error { return errors.Join(k.conn.Close(), k.dump.Close()) }

// Message types and attributes of linux/netfilter/nfnetlink_conntrack.h, which x/sys/unix lacks.
const (
	subsystem = 1 << 8 // NFNL_SUBSYS_CTNETLINK
	msgGet    = 1
	msgDelete = 2

	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaStatus     = 3
	ctaID         = 12
	ctaZone       = 18
	ctaFilter     = 25
	ctaStatusMask = 26

	// Bits of the status, enum ip_conntrack_status.
	seenReply     = 1 << 1
	dstTranslated = 1 << 5

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
	err := k.eachOf(ctx, nil, func(_ byte, f Flow, _ []byte) error {
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
	return k.deleteWhere(ctx, nil, func(f Flow, _ []byte) bool {
		return slices.ContainsFunc(filters, func(x Filter) bool { return x.Match(f) })
	})
}

// DeleteWhere deletes the flows of a protocol that stale tells, and says how many. The kernel
// lists no others where it can leave them out (from Linux 5.8). stale must not wait for anything.
func (k *Kernel) DeleteWhere(ctx context.Context, protocol uint8, stale func(Flow) bool) (int, error) {
	return k.deleteWhere(ctx, filterOf(protocol), func(f Flow, _ []byte) bool { return f.Original.Protocol == protocol && stale(f) })
}

// DeleteUnanswered deletes, of the flows of a protocol that nobody has answered and whose destination is not
// translated, those that stale tells, and says how many; of TCP only connections that have just been begun. The kernel lists no others where
// it knows CTA_STATUS_MASK, and of a large table they are few. stale must not wait for anything.
func (k *Kernel) DeleteUnanswered(ctx context.Context, protocol uint8, stale func(Flow) bool) (int, error) {
	const without = seenReply | dstTranslated
	filter := wire.Put(filterOf(protocol), wire.Big32(ctaStatus, 0), wire.Big32(ctaStatusMask, without))
	return k.deleteWhere(ctx, filter, func(f Flow, attrs []byte) bool {
		return f.Original.Protocol == protocol && wire.BigUint32(wire.Lookup(attrs, ctaStatus))&without == 0 &&
			(protocol != state.ProtoTCP || bytes.Equal(wire.Lookup(attrs, ctaProtoInfo, protoInfoTCP, tcpState), []byte{tcpSynSent})) && stale(f)
	})
}

// deleteWhere goes on when one cannot be deleted, and tells of the first such.
func (k *Kernel) deleteWhere(ctx context.Context, filter []byte, goes func(f Flow, attrs []byte) bool) (int, error) {
	count := 0
	var fault error
	err := k.eachOf(ctx, filter, func(family byte, f Flow, attrs []byte) error {
		if !goes(f, attrs) {
			return nil
		}
		switch err := k.delete(family, attrs); {
		case err == nil:
			count++
		case errors.Is(err, unix.ENOENT): // it ended by itself
		case fault == nil:
			fault = fmt.Errorf("delete flow %s: %w", f, err)
		}
		return nil
	})
	return count, errors.Join(fault, err)
}

// delete names the entry by its first tuple, its zone and its id, so that a younger flow in its
// place is not meant.
func (k *Kernel) delete(family byte, attrs []byte) error {
	_, err := k.conn.Do(subsystem|msgDelete, 0, append([]byte{family, unix.NFNETLINK_V0, 0, 0}, keyOf(attrs, ctaZone, ctaID)...))
	return err
}

// keyOf are the attributes that name an entry: its first tuple, and those others that it has.
func keyOf(attrs []byte, others ...uint16) []byte {
	key := wire.Put(nil, wire.Bytes(ctaTupleOrig|unix.NLA_F_NESTED, wire.Lookup(attrs, ctaTupleOrig)))
	for _, typ := range others {
		if v := wire.Lookup(attrs, typ); v != nil {
			key = wire.Put(key, wire.Bytes(typ, v))
		}
	}
	return key
}

// filterOf lets flows of one protocol through.
func filterOf(protocol byte) []byte {
	return wire.Put(nil,
		wire.Nest(ctaTupleOrig, wire.Nest(ctaTupleProto, wire.Bytes(ctaProtoNum, []byte{protocol}))),
		wire.Nest(ctaFilter, wire.Host32(ctaFilterOrigFlags, filterProtoNum), wire.Host32(ctaFilterReplyFlags, 0)))
}

func (k *Kernel) eachOf(ctx context.Context, filter []byte, f func(family byte, flow Flow, attrs []byte) error) error {
	var faults []error
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		faults = append(faults, k.visit(ctx, family, filter, func(attrs []byte) error {
			return f(family, decodeFlow(attrs), attrs)
		}))
	}
	return errors.Join(faults...)
}

// visit shows each the flows of a family one after the other, in wire form that is valid until each
// returns, and keeps none: a table may have a million. It lets the kernel filter where it can; one that
// knows no filters lists all of them. each may write to flows; one may be shown twice then.
func (k *Kernel) visit(ctx context.Context, family byte, filter []byte, each func(attrs []byte) error) error {
	var fault error
	show := func(b []byte) {
		if len(b) < netfilterHeader || b[0] != family || fault != nil {
			return
		}
		if fault = ctx.Err(); fault == nil {
			fault = each(b[netfilterHeader:])
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	head := []byte{family, unix.NFNETLINK_V0, 0, 0}
	err := k.dump.Each(subsystem|msgGet, append(head[:netfilterHeader:netfilterHeader], filter...), show)
	if filter != nil && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)) {
		err = k.dump.Each(subsystem|msgGet, head, show)
	}
	if err != nil {
		err = fmt.Errorf("list connection tracking: %w", err)
	}
	return errors.Join(fault, err)
}

func decodeFlow(attrs []byte) Flow {
	return Flow{Original: decodeTuple(wire.Lookup(attrs, ctaTupleOrig)), Reply: decodeTuple(wire.Lookup(attrs, ctaTupleReply))}
}

func decodeTuple(b []byte) Tuple {
	ip, proto := wire.Lookup(b, ctaTupleIP), wire.Lookup(b, ctaTupleProto)
	t := Tuple{
		Src: netip.AddrPortFrom(addrOf(ip, ctaIPv4Src, ctaIPv6Src), portOf(proto, ctaProtoSrcPort)),
		Dst: netip.AddrPortFrom(addrOf(ip, ctaIPv4Dst, ctaIPv6Dst), portOf(proto, ctaProtoDstPort)),
	}
	if v := wire.Lookup(proto, ctaProtoNum); len(v) == 1 {
		t.Protocol = v[0]
	}
	return t
}

func addrOf(ip []byte, v4, v6 uint16) netip.Addr {
	a, ok := netip.AddrFromSlice(wire.Lookup(ip, v4))
	if !ok {
		a, _ = netip.AddrFromSlice(wire.Lookup(ip, v6))
	}
	return a
}

func portOf(proto []byte, typ uint16) uint16 {
	if v := wire.Lookup(proto, typ); len(v) == 2 {
		return uint16(v[0])<<8 | uint16(v[1])
	}
	return 0
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
