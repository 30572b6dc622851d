//go:build linux

package conntrack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/wire"
)

// Tracked is a flow with its mark, by which it can be written to.
type Tracked struct {
	Flow
	Mark uint32
	// Over says that a TCP connection has ended: nothing more is expected of it.
	Over bool

	family byte
	// key are the attributes that name the entry.
	key []byte
}

const (
	msgNew = 0

	ctaProtoInfo = 4
	ctaMark      = 8
	ctaMarkMask  = 21

	filterIPSrc = 1 << 0

	protoInfoTCP = 1
	tcpState     = 1
	tcpTimeWait  = 7 // enum tcp_conntrack
	tcpClose     = 8

	// maxFiltered is for how many addresses the kernel is asked one by one: it walks the whole table
	// each time, and above that reading all of it is cheaper.
	maxFiltered = 4
)

// ListOf gives the flows that one of the addresses began or answers, and all flows where none is
// given. For a few IPv4 addresses the kernel itself leaves out the others, from Linux 5.8; its
// comparison of IPv6 addresses is the wrong way round (ctnetlink_filter_match_tuple, as of 6.18), so
// those are picked out here.
func (k *Kernel) ListOf(ctx context.Context, addrs []netip.Addr) ([]Tracked, error) {
	wanted := map[netip.Addr]bool{}
	var filters [][]byte
	v6 := len(addrs) == 0
	for _, a := range addrs {
		a = a.Unmap()
		if v6 = v6 || a.Is6(); a.Is4() && !wanted[a] {
			filters = append(filters, sentBy(a, ctaTupleOrig), sentBy(a, ctaTupleReply))
		}
		wanted[a] = true
	}
	if len(addrs) == 0 || len(filters) > 2*maxFiltered {
		filters = [][]byte{nil}
	}
	var out []Tracked
	seen := map[Flow]bool{}
	add := func(family byte, filter []byte) error {
		found, err := k.tracked(ctx, family, filter)
		for _, f := range found {
			if !seen[f.Flow] && (len(wanted) == 0 || wanted[f.Original.Src.Addr()] || wanted[f.Reply.Src.Addr()]) {
				seen[f.Flow] = true
				out = append(out, f)
			}
		}
		return err
	}
	for _, filter := range filters {
		if err := add(unix.AF_INET, filter); err != nil {
			return nil, err
		}
	}
	if v6 {
		if err := add(unix.AF_INET6, nil); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// sentBy asks for flows of which the packets in one direction come from an IPv4 address.
func sentBy(a netip.Addr, direction uint16) []byte {
	flags := map[uint16]uint32{ctaTupleOrig: 0, ctaTupleReply: 0, direction: filterIPSrc}
	return wire.Put(nil,
		wire.Nest(direction, wire.Nest(ctaTupleIP, wire.Bytes(ctaIPv4Src, a.AsSlice()))),
		wire.Nest(ctaFilter, wire.Host32(ctaFilterOrigFlags, flags[ctaTupleOrig]), wire.Host32(ctaFilterReplyFlags, flags[ctaTupleReply])))
}

func (k *Kernel) tracked(ctx context.Context, family byte, filter []byte) ([]Tracked, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	head := []byte{family, unix.NFNETLINK_V0, 0, 0}
	replies, err := k.conn.List(subsystem|msgGet, append(head[:netfilterHeader:netfilterHeader], filter...))
	if filter != nil && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)) {
		replies, err = k.conn.List(subsystem|msgGet, head)
	}
	if err != nil {
		return nil, fmt.Errorf("list connection tracking: %w", err)
	}
	var out []Tracked
	for _, b := range replies {
		if len(b) < netfilterHeader || b[0] != family {
			continue
		}
		out = append(out, decodeTracked(family, wire.Parse(b[netfilterHeader:])))
	}
	return out, nil
}

func decodeTracked(family byte, attrs []wire.Attr) Tracked {
	over := false
	if v := wire.Find(wire.Parse(wire.Find(wire.Parse(wire.Find(attrs, ctaProtoInfo)), protoInfoTCP)), tcpState); len(v) == 1 {
		over = v[0] == tcpTimeWait || v[0] == tcpClose
	}
	t := Tracked{
		Over: over,
		Flow: Flow{Original: decodeTuple(wire.Find(attrs, ctaTupleOrig)), Reply: decodeTuple(wire.Find(attrs, ctaTupleReply))},
		Mark: wire.BigUint32(wire.Find(attrs, ctaMark)), family: family,
	}
	for _, a := range attrs {
		switch a.Type {
		case ctaTupleOrig:
			t.key = wire.Put(t.key, wire.Attr{Type: a.Type | unix.NLA_F_NESTED, Data: a.Data})
		case ctaZone:
			t.key = wire.Put(t.key, a)
		}
	}
	return t
}

// SetMark writes the bits of the mark that mask names, and tells how many of the flows there still were.
func (k *Kernel) SetMark(ctx context.Context, flows []Tracked, value, mask uint32) (int, error) {
	count := 0
	for _, f := range flows {
		if err := ctx.Err(); err != nil {
			return count, err
		}
		request := append([]byte{f.family, unix.NFNETLINK_V0, 0, 0}, f.key...)
		request = wire.Put(request, wire.Big32(ctaMark, value&mask), wire.Big32(ctaMarkMask, mask))
		_, err := k.conn.Do(subsystem|msgNew, 0, request)
		switch {
		case errors.Is(err, unix.ENOENT): // it ended by itself
		case err != nil:
			return count, fmt.Errorf("mark flow %s: %w", f.Flow, err)
		default:
			count++
		}
	}
	return count, nil
}
