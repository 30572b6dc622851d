package state

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Statement is one step of a rule: a match or an action. The types in this file are all there are.
// String prints it as `nft list` does.
type Statement interface {
	fmt.Stringer
	statement()
}

// Field is something that a rule can look at: a part of the packet, or what the kernel knows of it.
// The low byte says which; the rest is the modulus of a Numgen.
type Field uint32

// The fields. Those of a packet's header bring their own condition with them: IPv4 addresses are
// looked for only in IPv4 packets, and so on.
const (
	FieldIIFName Field = iota + 1
	FieldOIFName
	FieldMark
	FieldNFProto
	FieldL4Proto
	FieldPktType
	FieldSKUID
	FieldIPSaddr
	FieldIPDaddr
	FieldIPProtocol
	FieldIP6Saddr
	FieldIP6Daddr
	FieldTHSport
	FieldTHDport
	FieldTCPSport
	FieldTCPDport
	FieldUDPSport
	FieldUDPDport
	FieldICMPType
	FieldICMPv6Type
	// FieldQuotedSaddr and its like are the addresses of the packet that an ICMP error is about, which
	// it quotes behind its own header of 8 bytes. Match the type of the error first.
	FieldQuotedSaddr
	FieldQuotedDaddr
	FieldQuoted6Saddr
	FieldQuoted6Daddr
	FieldCTState
	FieldCTStatus
	FieldCTMark
	FieldCTDirection
	FieldFibDaddrType
	FieldFibSaddrType
	// FieldFibSaddrIIF tells whether the route back to the source leads out of the link that the
	// packet came in on: compare it with FibMissing or FibExists.
	FieldFibSaddrIIF
	fieldNumgenRandom
)

// Numgen is a random number below mod, newly drawn for each packet; mod must be below 1<<24.
func Numgen(mod uint32) Field { return fieldNumgenRandom | Field(mod<<8) }

// Numgen tells whether the field is a random number, and its modulus.
func (f Field) Numgen() (mod uint32, ok bool) {
	return uint32(f >> 8), f&0xff == fieldNumgenRandom
}

var fields = map[Field]struct {
	text string
	typ  DataType
}{
	FieldIIFName:    {"iifname", TypeIfName},
	FieldOIFName:    {"oifname", TypeIfName},
	FieldMark:       {"meta mark", TypeMark},
	FieldNFProto:    {"meta nfproto", TypeNFProto},
	FieldL4Proto:    {"meta l4proto", TypeProto},
	FieldPktType:    {"meta pkttype", TypePktType},
	FieldSKUID:      {"meta skuid", TypeUID},
	FieldIPSaddr:    {"ip saddr", TypeIPv4},
	FieldIPDaddr:    {"ip daddr", TypeIPv4},
	FieldIPProtocol: {"ip protocol", TypeProto},
	FieldIP6Saddr:   {"ip6 saddr", TypeIPv6},
	FieldIP6Daddr:   {"ip6 daddr", TypeIPv6},
	FieldTHSport:    {"th sport", TypePort},
	FieldTHDport:    {"th dport", TypePort},
	FieldTCPSport:   {"tcp sport", TypePort},
	FieldTCPDport:   {"tcp dport", TypePort},
	FieldUDPSport:   {"udp sport", TypePort},
	FieldUDPDport:   {"udp dport", TypePort},
	FieldICMPType:   {"icmp type", TypeICMP},
	FieldICMPv6Type: {"icmpv6 type", TypeICMPv6},
	// As nft prints what it has no name for: base, offset and length in bits.
	FieldQuotedSaddr:  {"@th,160,32", TypeIPv4},
	FieldQuotedDaddr:  {"@th,192,32", TypeIPv4},
	FieldQuoted6Saddr: {"@th,128,128", TypeIPv6},
	FieldQuoted6Daddr: {"@th,256,128", TypeIPv6},
	FieldCTState:      {"ct state", TypeCTState},
	FieldCTStatus:     {"ct status", TypeCTStatus},
	FieldCTMark:       {"ct mark", TypeMark},
	FieldCTDirection:  {"ct direction", TypeCTDir},
	FieldFibDaddrType: {"fib daddr type", TypeAddrType},
	FieldFibSaddrType: {"fib saddr type", TypeAddrType},
	FieldFibSaddrIIF:  {"fib saddr . iif oif", TypeFibResult},
	fieldNumgenRandom: {"numgen random mod", TypeInteger},
}

// Type is the type of the field's value.
func (f Field) Type() DataType { return fields[f&0xff].typ }

func (f Field) String() string {
	if mod, ok := f.Numgen(); ok {
		return "numgen random mod " + strconv.FormatUint(uint64(mod), 10)
	}
	return fields[f].text
}

// Fields joins fields into one key.
func Fields(f ...Field) []Field { return f }

func fieldsText(fs []Field) string {
	out := make([]string, len(fs))
	for i, f := range fs {
		out[i] = f.String()
	}
	return strings.Join(out, " . ")
}

// Cmp compares a field with one value.
type Cmp struct {
	Field Field
	Not   bool
	Value Value
}

// InPrefix compares an address with a prefix.
type InPrefix struct {
	Field  Field
	Not    bool
	Prefix netip.Prefix
}

// Masked compares the bits of a field under a mask: field & Mask == Value.
type Masked struct {
	Field       Field
	Not         bool
	Mask, Value uint32
}

// CTState matches the connection's state, any of those given.
type CTState struct {
	Not    bool
	States CTStateBits
}

// CTStateBits is a set of connection states, numbered as the kernel does.
type CTStateBits uint32

// The connection states.
const (
	CTInvalid     CTStateBits = 1
	CTEstablished CTStateBits = 2
	CTRelated     CTStateBits = 4
	CTNew         CTStateBits = 8
	CTUntracked   CTStateBits = 64
)

// CTStatus matches the connection's status, any of those given.
type CTStatus struct {
	Not    bool
	Status CTStatusBits
}

// CTStatusBits is a set of connection status flags, numbered as the kernel does.
type CTStatusBits uint32

// The status flags in use.
const (
	CTSeenReply CTStatusBits = 1 << 1
	CTConfirmed CTStatusBits = 1 << 3
	CTSNAT      CTStatusBits = 1 << 4
	CTDNAT      CTStatusBits = 1 << 5
)

// TCPFlags matches a TCP packet whose flags under Mask are Value.
type TCPFlags struct{ Mask, Value uint8 }

// The TCP flags.
const (
	TCPFin uint8 = 1 << iota
	TCPSyn
	TCPRst
)

// InSet looks one or more joined fields up in a named set.
type InSet struct {
	Fields []Field
	Not    bool
	Set    string
}

// VMapLookup does what the verdict map gives for the fields; no element, no effect.
type VMapLookup struct {
	Fields []Field
	Map    string
}

// Count counts packets and bytes: in a named counter of the table, or in the rule itself.
type Count struct{ Name string }

// SetMark writes the packet's mark: Mask and Value (mark = mark & ^Mask | Value), or what a map
// gives for the fields.
type SetMark struct {
	// Conntrack writes the connection's mark instead of the packet's.
	Conntrack   bool
	Mask, Value uint32
	Fields      []Field
	Map         string
}

// NAT rewrites the destination (or, with Source, the source) to a fixed address and port, or to
// what a map gives for the fields: an address, or an address . port.
type NAT struct {
	Source bool
	Family Family
	Addr   netip.Addr
	Port   uint16
	Fields []Field
	Map    string
	// MapHasPort says that the map gives an address . port. Its declaration shows that, so nft
	// does not print it.
	MapHasPort bool
	// WriteMark makes Mark the packet's mark, after the look-up in the map, of whose key the mark
	// may be a part, and before the translation, behind which no statement is reached.
	WriteMark bool
	Mark      uint32
}

// Masquerade rewrites the source to the address of the outgoing link.
type Masquerade struct{ FullyRandom bool }

// RejectWith is what the sender of a refused packet gets to see.
type RejectWith uint8

// The answers of a refusal.
const (
	RejectPort  RejectWith = iota // ICMP(v6) port unreachable
	RejectReset                   // TCP reset
	RejectAdmin                   // ICMP(v6) administratively prohibited
)

// Reject refuses the packet with an answer.
type Reject struct{ With RejectWith }

// ClampMSS lowers the maximum segment size of a TCP handshake to the route's MTU, or to a size.
type ClampMSS struct{ Size uint16 }

// Notrack keeps the packet out of connection tracking.
type Notrack struct{}

// Limit matches up to Rate packets per second, with a burst.
type Limit struct{ Rate, Burst uint32 }

// Log sends the packet's head to a netlink log group.
type Log struct {
	Group  uint16
	Prefix string
}

// Remember adds the fields to a dynamic set, or refreshes them there, from the packet path.
type Remember struct {
	Fields  []Field
	Set     string
	Timeout time.Duration
	Data    []Field
}

// Forget deletes the fields from a dynamic set or map, from the packet path (Linux 5.4). For a map
// the kernel wants data to be named, and does not look at them.
type Forget struct {
	Fields []Field
	Set    string
	Data   []Field
}

func (Cmp) statement()        {}
func (InPrefix) statement()   {}
func (Masked) statement()     {}
func (CTState) statement()    {}
func (CTStatus) statement()   {}
func (TCPFlags) statement()   {}
func (InSet) statement()      {}
func (VMapLookup) statement() {}
func (Count) statement()      {}
func (Verdict) statement()    {}
func (SetMark) statement()    {}
func (NAT) statement()        {}
func (Masquerade) statement() {}
func (Reject) statement()     {}
func (ClampMSS) statement()   {}
func (Notrack) statement()    {}
func (Limit) statement()      {}
func (Log) statement()        {}
func (Remember) statement()   {}
func (Forget) statement()     {}
