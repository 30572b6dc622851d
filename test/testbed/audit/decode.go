package audit

import (
	"encoding/binary"
	"net/netip"
)

// Kind says what a frame is, as far as the audit cares.
type Kind string

// The kinds of frames. Other holds what carries neither IP nor ARP.
const (
	WireGuard Kind = "wireguard"
	ARP       Kind = "arp"
	NDP       Kind = "ndp"
	ICMP      Kind = "icmp"
	TCP       Kind = "tcp"
	UDP       Kind = "udp"
	OtherIP   Kind = "other ip"
	Other     Kind = "other"
	Malformed Kind = "malformed"
)

// Endpoint is an address, and a port where the protocol has one.
type Endpoint struct {
	Addr netip.Addr `json:"addr"`
	Port uint16     `json:"port,omitempty"`
}

// Flow is what a packet says about its way.
type Flow struct {
	Src Endpoint `json:"src"`
	Dst Endpoint `json:"dst"`
	// Proto is the number of the upper protocol; 0 for ARP.
	Proto uint8 `json:"proto"`
}

// Frame is a decoded frame.
type Frame struct {
	Kind Kind
	// Outer is the flow of the packet itself.
	Outer Flow
	// Mentioned are further addresses that the frame gives away: those of a
	// packet quoted or carried in it, of an ARP or neighbour message.
	Mentioned []netip.Addr
	// WireGuardType is the message type: 1 initiation, 2 response, 3 cookie, 4 data.
	WireGuardType byte
	// Payload is what follows the UDP header, as far as it was captured.
	Payload []byte
}

// Numbers of the protocols, from the IANA registries.
const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherVLAN = 0x8100
	etherQinQ = 0x88a8
	etherIPv6 = 0x86dd

	protoHop, protoICMP, protoIPIP, protoTCP, protoUDP = 0, 1, 4, 6, 17
	protoIPv6, protoRouting, protoFragment, protoAH    = 41, 43, 44, 51
	protoICMPv6, protoDstOpts, protoMobility, protoHIP = 58, 60, 135, 139
	protoShim6                                         = 140
)

// maxDepth bounds packets within packets.
const maxDepth = 4

// Decode takes a frame apart, beginning at its Ethernet header. The end may be
// cut off. wgPort is the port that the mesh listens on.
func Decode(data []byte, wgPort uint16) Frame {
	d := decoder{wgPort: wgPort}
	d.ethernet(data)
	return d.frame
}

// decoder fills one frame. The first IP header is the outer one; addresses
// found deeper are mentioned.
type decoder struct {
	frame  Frame
	wgPort uint16
	depth  int
}

func (d *decoder) ethernet(data []byte) {
	if len(data) < 14 {
		d.frame.Kind = Malformed
		return
	}
	kind, rest := binary.BigEndian.Uint16(data[12:]), data[14:]
	for kind == etherVLAN || kind == etherQinQ {
		if len(rest) < 4 {
			d.frame.Kind = Malformed
			return
		}
		kind, rest = binary.BigEndian.Uint16(rest[2:]), rest[4:]
	}
	switch kind {
	case etherIPv4:
		d.ipv4(rest)
	case etherIPv6:
		d.ipv6(rest)
	case etherARP:
		d.arp(rest)
	default:
		d.frame.Kind = Other
	}
}

// arp reads sender and target of an IPv4-over-Ethernet message.
func (d *decoder) arp(data []byte) {
	d.frame.Kind = ARP
	if len(data) < 28 || binary.BigEndian.Uint16(data[2:]) != etherIPv4 || data[4] != 6 || data[5] != 4 {
		d.frame.Kind = Malformed
		return
	}
	d.frame.Outer = Flow{Src: Endpoint{Addr: addr(data[14:18])}, Dst: Endpoint{Addr: addr(data[24:28])}}
}

func addr(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

func (d *decoder) ipv4(data []byte) {
	if len(data) < 20 || data[0]>>4 != 4 || int(data[0]&15)*4 < 20 || len(data) < int(data[0]&15)*4 {
		d.malformed()
		return
	}
	src, dst, proto := addr(data[12:16]), addr(data[16:20]), data[9]
	fragment := binary.BigEndian.Uint16(data[6:])&0x1fff != 0
	d.packet(src, dst, proto, fragment, data[int(data[0]&15)*4:])
}

func (d *decoder) ipv6(data []byte) {
	if len(data) < 40 || data[0]>>4 != 6 {
		d.malformed()
		return
	}
	src, dst := addr(data[8:24]), addr(data[24:40])
	proto, fragment, rest, ok := skipExtensions(data[6], data[40:])
	if !ok {
		// The addresses count even when what follows cannot be read.
		d.addresses(src, dst, proto)
		d.malformed()
		return
	}
	d.packet(src, dst, proto, fragment, rest)
}

// skipExtensions walks IPv6 extension headers (RFC 8200, section 4).
func skipExtensions(next uint8, data []byte) (proto uint8, fragment bool, rest []byte, ok bool) {
	for {
		var size int
		switch next {
		case protoHop, protoRouting, protoDstOpts, protoMobility, protoHIP, protoShim6:
			if len(data) < 8 {
				return next, fragment, nil, false
			}
			size = (int(data[1]) + 1) * 8
		case protoAH:
			if len(data) < 8 {
				return next, fragment, nil, false
			}
			size = (int(data[1]) + 2) * 4
		case protoFragment:
			if len(data) < 8 {
				return next, fragment, nil, false
			}
			size = 8
			fragment = fragment || binary.BigEndian.Uint16(data[2:])>>3 != 0
		default:
			return next, fragment, data, true
		}
		if len(data) < size {
			return next, fragment, nil, false
		}
		next, data = data[0], data[size:]
	}
}

func (d *decoder) malformed() {
	if d.depth == 0 {
		d.frame.Kind = Malformed
	}
}

func (d *decoder) addresses(src, dst netip.Addr, proto uint8) {
	if d.depth == 0 {
		d.frame.Outer = Flow{Src: Endpoint{Addr: src}, Dst: Endpoint{Addr: dst}, Proto: proto}
		return
	}
	d.frame.Mentioned = append(d.frame.Mentioned, src, dst)
}

// packet reads what an IP header carries. Only a first fragment has ports.
func (d *decoder) packet(src, dst netip.Addr, proto uint8, fragment bool, data []byte) {
	d.addresses(src, dst, proto)
	d.kind(OtherIP)
	if fragment {
		return
	}
	switch proto {
	case protoTCP:
		d.kind(TCP)
		d.ports(data)
	case protoUDP:
		d.kind(UDP)
		d.udp(data)
	case protoICMP:
		d.kind(ICMP)
		d.icmp4(data)
	case protoICMPv6:
		d.kind(ICMP)
		d.icmp6(data)
	case protoIPIP:
		d.within(data, d.ipv4)
	case protoIPv6:
		d.within(data, d.ipv6)
	}
}

func (d *decoder) kind(k Kind) {
	if d.depth == 0 {
		d.frame.Kind = k
	}
}

func (d *decoder) ports(data []byte) {
	if d.depth == 0 && len(data) >= 4 {
		d.frame.Outer.Src.Port = binary.BigEndian.Uint16(data)
		d.frame.Outer.Dst.Port = binary.BigEndian.Uint16(data[2:])
	}
}

func (d *decoder) udp(data []byte) {
	d.ports(data)
	if d.depth > 0 || len(data) < 8 {
		return
	}
	d.frame.Payload = data[8:]
	// A WireGuard message begins with its type and three zero bytes.
	p := d.frame.Payload
	from, to := d.frame.Outer.Src.Port, d.frame.Outer.Dst.Port
	if (from == d.wgPort || to == d.wgPort) && len(p) >= 4 && p[0] >= 1 && p[0] <= 4 && p[1]|p[2]|p[3] == 0 {
		d.frame.Kind = WireGuard
		d.frame.WireGuardType = p[0]
	}
}

// within reads a packet inside a packet.
func (d *decoder) within(data []byte, read func([]byte)) {
	if d.depth == maxDepth {
		return
	}
	d.depth++
	defer func() { d.depth-- }()
	read(data)
}

// icmp4 reads the packet quoted by an error, and a redirect's gateway.
func (d *decoder) icmp4(data []byte) {
	if len(data) < 8 {
		return
	}
	switch data[0] {
	case 5:
		d.frame.Mentioned = append(d.frame.Mentioned, addr(data[4:8]))
		d.within(data[8:], d.ipv4)
	case 3, 4, 11, 12:
		d.within(data[8:], d.ipv4)
	}
}

// icmp6 reads the packet quoted by an error (types below 128, RFC 4443), and
// the addresses in a neighbour message (RFC 4861).
func (d *decoder) icmp6(data []byte) {
	if len(data) < 8 {
		return
	}
	switch kind := data[0]; {
	case kind < 128:
		d.within(data[8:], d.ipv6)
	case kind == 133 || kind == 134:
		d.kind(NDP)
	case kind == 135 || kind == 136:
		d.kind(NDP)
		d.mention(data, 8)
	case kind == 137:
		d.kind(NDP)
		d.mention(data, 8)
		d.mention(data, 24)
	}
}

func (d *decoder) mention(data []byte, at int) {
	if len(data) >= at+16 {
		d.frame.Mentioned = append(d.frame.Mentioned, addr(data[at:at+16]))
	}
}
