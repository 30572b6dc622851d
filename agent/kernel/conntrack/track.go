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
	tcpSynSent   = 1 // enum tcp_conntrack
	tcpTimeWait  = 7
	tcpClose     = 8

	// maxFiltered is for how many addresses the kernel is asked one by one: it walks the whole table
	// each time, and above that reading all of it is cheaper.
	maxFiltered = 4
	// batchSize is how many flows Visit gives at once, and the most of them that it holds.
	batchSize = 1024
)

// Visit gives each the flows that one of the addresses began or answers, and all flows where none is
// given, some at a time: what it holds in memory does not depend on how many there are. each must not keep
// the slice; it may write to the flows. It ends with the first error of each.
//
// For a few IPv4 addresses the kernel itself leaves out the others, from Linux 5.8; its
// comparison of IPv6 addresses is the wrong way round (ctnetlink_filter_match_tuple, as of 6.18), so
// those are picked out here.
func (k *Kernel) Visit(ctx context.Context, addrs []netip.Addr, each func([]Tracked) error) error {
	s := searchFor(addrs)
	b := batch{give: each}
	for i, p := range s.passes {
		err := k.visit(ctx, p.family, p.filter(), func(attrs []byte) error {
			if flow := decodeFlow(attrs); s.foundBy(flow) == i {
				return b.add(decodeTracked(p.family, flow, attrs))
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return b.flush()
}

// batch gathers flows and gives them on.
type batch struct {
	give  func([]Tracked) error
	flows []Tracked
}

func (b *batch) add(t Tracked) error {
	if b.flows = append(b.flows, t); len(b.flows) < batchSize {
		return nil
	}
	return b.flush()
}

func (b *batch) flush() error {
	if len(b.flows) == 0 {
		return nil
	}
	err := b.give(b.flows)
	b.flows = b.flows[:0]
	return err
}

// search is how the flows of some addresses are found: by one or several listings.
type search struct {
	wanted map[netip.Addr]bool
	passes []pass
}

// pass is one listing: a whole family, or where addr is valid those flows of which the packets in one
// direction come from it.
type pass struct {
	family    byte
	addr      netip.Addr
	direction uint16
}

func searchFor(addrs []netip.Addr) search {
	s := search{wanted: map[netip.Addr]bool{}}
	v6 := len(addrs) == 0
	for _, a := range addrs {
		a = a.Unmap()
		if v6 = v6 || a.Is6(); a.Is4() && !s.wanted[a] {
			s.passes = append(s.passes, pass{unix.AF_INET, a, ctaTupleOrig}, pass{unix.AF_INET, a, ctaTupleReply})
		}
		s.wanted[a] = true
	}
	if len(addrs) == 0 || len(s.passes) > 2*maxFiltered {
		s.passes = []pass{{family: unix.AF_INET}}
	}
	if v6 {
		s.passes = append(s.passes, pass{family: unix.AF_INET6})
	}
	return s
}

// foundBy is the first pass that lists a flow, so that one which several list is found once; -1 is none.
func (s search) foundBy(f Flow) int {
	v6 := f.Original.Src.Addr().Is6()
	for i, p := range s.passes {
		switch {
		case v6 != (p.family == unix.AF_INET6):
		case !p.addr.IsValid() && (len(s.wanted) == 0 || s.wanted[f.Original.Src.Addr()] || s.wanted[f.Reply.Src.Addr()]),
			p.addr.IsValid() && p.direction == ctaTupleOrig && f.Original.Src.Addr() == p.addr,
			p.addr.IsValid() && p.direction == ctaTupleReply && f.Reply.Src.Addr() == p.addr:
			return i
		}
	}
	return -1
}

func (p pass) filter() []byte {
	if !p.addr.IsValid() {
		return nil
	}
	flags := map[uint16]uint32{ctaTupleOrig: 0, ctaTupleReply: 0, p.direction: filterIPSrc}
	return wire.Put(nil,
		wire.Nest(p.direction, wire.Nest(ctaTupleIP, wire.Bytes(ctaIPv4Src, p.addr.AsSlice()))),
		wire.Nest(ctaFilter, wire.Host32(ctaFilterOrigFlags, flags[ctaTupleOrig]), wire.Host32(ctaFilterReplyFlags, flags[ctaTupleReply])))
}

func decodeTracked(family byte, flow Flow, attrs []byte) Tracked {
	t := Tracked{Flow: flow, Mark: wire.BigUint32(wire.Lookup(attrs, ctaMark)), family: family, key: keyOf(attrs, ctaZone)}
	if v := wire.Lookup(attrs, ctaProtoInfo, protoInfoTCP, tcpState); len(v) == 1 {
		t.Over = v[0] == tcpTimeWait || v[0] == tcpClose
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
