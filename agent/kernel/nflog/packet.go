//go:build linux

package nflog

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/agent/kernel/wire"
)

// Packet is what was logged of one packet. What could not be read of it is zero.
type Packet struct {
	// Prefix is the text of the rule.
	Prefix string
	// Protocol is the transport protocol's number in the IP header.
	Protocol uint8
	// Src and Dst have their ports where the protocol has some.
	Src, Dst netip.AddrPort
	// Type is that of an ICMP or ICMPv6 message.
	Type uint8
	// InLink and OutLink are the indexes of the links, 0 where there is none.
	InLink, OutLink uint32
}

func decode(attrs []wire.Attr) Packet {
	p := Packet{
		Prefix: wire.String(wire.Find(attrs, attrPrefix)),
		InLink: wire.BigUint32(wire.Find(attrs, attrInDev)), OutLink: wire.BigUint32(wire.Find(attrs, attrOutDev)),
	}
	p.read(wire.Find(attrs, attrPayload))
	return p
}

// read takes the IP header apart, and the beginning of the transport header.
func (p *Packet) read(b []byte) {
	const headerV4, headerV6 = 20, 40
	switch {
	case len(b) >= headerV4 && b[0]>>4 == 4:
		src, dst := netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		p.Protocol = b[9]
		fragment := binary.BigEndian.Uint16(b[6:8]) & 0x1fff
		length := int(b[0]&0xf) * 4
		if fragment != 0 || length > len(b) {
			b = nil
		} else {
			b = b[length:]
		}
		p.ports(src, dst, b)
	case len(b) >= headerV6 && b[0]>>4 == 6:
		src, dst := netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		p.Protocol, b = transportV6(b[6], b[headerV6:])
		p.ports(src, dst, b)
	}
}

// transportV6 follows the extension headers to the transport's. Of a later fragment it gives none.
func transportV6(next uint8, b []byte) (uint8, []byte) {
	for {
		switch next {
		case unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_DSTOPTS:
			if len(b) < 2 || len(b) < (int(b[1])+1)*8 {
				return next, nil
			}
			next, b = b[0], b[(int(b[1])+1)*8:]
		case unix.IPPROTO_FRAGMENT:
			if len(b) < 8 {
				return next, nil
			}
			if binary.BigEndian.Uint16(b[2:4])>>3 != 0 {
				return b[0], nil
			}
			next, b = b[0], b[8:]
		default:
			return next, b
		}
	}
}

func (p *Packet) ports(src, dst netip.Addr, b []byte) {
	var from, to uint16
	switch p.Protocol {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP, unix.IPPROTO_UDPLITE, unix.IPPROTO_DCCP:
		if len(b) >= 4 {
			from, to = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
		}
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		if len(b) >= 1 {
			p.Type = b[0]
		}
	}
	p.Src, p.Dst = netip.AddrPortFrom(src, from), netip.AddrPortFrom(dst, to)
}
