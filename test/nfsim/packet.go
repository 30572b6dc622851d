package nfsim

import (
	"fmt"
	"net/netip"

	"github.com/weftnet/weftnet/agent/state"
)

// Packet is one packet, as far as rules look at it.
type Packet struct {
	Proto    uint8
	Src, Dst netip.AddrPort // ports are 0 where the protocol has none
	// IIF is the link that it comes in on; Send ignores it.
	IIF  string
	Mark uint32
	// Flags are the TCP flags. A TCP packet without any counts as a SYN if it begins a flow.
	Flags uint8
	// ICMPType of ICMP packets of either family.
	ICMPType uint8
	// Quoted are source and destination of the packet that an ICMP error is about.
	QuotedSrc, QuotedDst netip.Addr
	// Related says that connection tracking knows it as related to a flow, Invalid that it cannot make
	// anything of it.
	Related, Invalid bool
	// UID of the socket that sends it, where HasUID.
	UID    uint32
	HasUID bool
}

// TCP, UDP and SCTP are packets from a source to a destination, each as text like "10.0.0.1:1234".
func TCP(src, dst string) Packet { return packet(state.ProtoTCP, src, dst) }

// UDP is a packet of UDP.
func UDP(src, dst string) Packet { return packet(state.ProtoUDP, src, dst) }

// SCTP is a packet of SCTP.
func SCTP(src, dst string) Packet { return packet(state.ProtoSCTP, src, dst) }

func packet(proto uint8, src, dst string) Packet {
	return Packet{Proto: proto, Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst)}
}

// Family is the address family, by the destination.
func (p Packet) Family() state.Family { return state.FamilyOf(p.Dst.Addr()) }

// From is the packet as it comes in on a link.
func (p Packet) From(link string) Packet {
	p.IIF = link
	return p
}

func (p Packet) tuple() tuple { return tuple{p.Proto, p.Src, p.Dst} }

func (p Packet) String() string {
	return fmt.Sprintf("%s %s > %s", state.ProtoValue(p.Proto).Format(state.TypeProto), p.Src, p.Dst)
}

// Fate is what became of a packet.
type Fate string

// The fates.
const (
	Delivered Fate = "delivered" // to a socket of this machine
	Left      Fate = "left"      // by a link, see Result.OIF
	Dropped   Fate = "dropped"
	Refused   Fate = "refused"
	NoRoute   Fate = "no route"
)

// Result is the end of a packet's way.
type Result struct {
	Fate Fate
	// Packet as it was at its end, with all addresses translated.
	Packet Packet
	// OIF is the link that it left by.
	OIF string
	// By is the rule that dropped or refused it, as "table chain: rule".
	By string
	// With is the answer of a refusal.
	With state.RejectWith
	// Trace are the rules that were carried out to their end, in order, as "table chain: rule".
	Trace []string
	// Logs are the prefixes of the log statements that it met.
	Logs []string

	flow *Flow
}

// Flow is the entry of connection tracking that the packet belongs to; nil if it has none.
func (r Result) Flow() *Flow { return r.flow }

func (r Result) String() string {
	switch r.Fate {
	case Left:
		return fmt.Sprintf("left by %s as %s", r.OIF, r.Packet)
	case Refused:
		return fmt.Sprintf("refused (%s) by %s", state.Reject{With: r.With}, r.By)
	case Dropped:
		return "dropped by " + r.By
	case Delivered, NoRoute:
	}
	return fmt.Sprintf("%s as %s", r.Fate, r.Packet)
}
