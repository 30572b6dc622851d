package state

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// DataType is the nftables type of a value.
type DataType uint8

// The data types in use.
const (
	TypeIPv4 DataType = iota + 1
	TypeIPv6
	TypePort
	TypeProto
	TypeIfName
	TypeMark
	TypeInteger
	TypeNFProto
	TypeAddrType
	TypeCTState
	TypeCTStatus
	TypeCTDir
	TypePktType
	TypeICMP
	TypeICMPv6
	TypeUID
	TypeFibResult
)

// dataTypes gives the name in `nft list`, and the length in bytes. Sizes are asked for with every element that is
// written, so this is no map.
var dataTypes = [...]struct {
	name string
	size int
}{
	TypeIPv4:      {"ipv4_addr", 4},
	TypeIPv6:      {"ipv6_addr", 16},
	TypePort:      {"inet_service", 2},
	TypeProto:     {"inet_proto", 1},
	TypeIfName:    {"ifname", 16},
	TypeMark:      {"mark", 4},
	TypeInteger:   {"integer", 4},
	TypeNFProto:   {"nf_proto", 1},
	TypeAddrType:  {"fib_addrtype", 4},
	TypeCTState:   {"ct_state", 4},
	TypeCTStatus:  {"ct_status", 4},
	TypeCTDir:     {"ct_dir", 1},
	TypePktType:   {"pkt_type", 1},
	TypeICMP:      {"icmp_type", 1},
	TypeICMPv6:    {"icmpv6_type", 1},
	TypeUID:       {"uid", 4},
	TypeFibResult: {"boolean", 4},
}

func (t DataType) String() string { return dataTypes[t].name }

// Size is the length of a value in bytes.
func (t DataType) Size() int { return dataTypes[t].size }

// HostOrder tells the types that the kernel keeps in the machine's own byte order.
func (t DataType) HostOrder() bool {
	switch t {
	case TypeMark, TypeInteger, TypeAddrType, TypeCTState, TypeCTStatus, TypeUID, TypeFibResult, TypeIfName:
		return true
	default:
		return false
	}
}

// Value is the raw bytes of a value as the kernel holds them, so that a map of many thousand
// elements is small and quick to compare. Concatenated values are each padded to four bytes.
// Which type it has, its set or its field says.
type Value string

// AddrValue is an address of its family's type.
func AddrValue(a netip.Addr) Value {
	switch {
	case !a.IsValid():
		return ""
	case a.Unmap().Is4():
		b := a.Unmap().As4()
		return Value(b[:])
	default:
		b := a.As16()
		return Value(b[:])
	}
}

// PortValue is a transport port.
func PortValue(port uint16) Value { return Value([]byte{byte(port >> 8), byte(port)}) }

// ProtoValue is a transport protocol's number.
func ProtoValue(proto uint8) Value { return Value([]byte{proto}) }

// The transport protocols.
const (
	ProtoTCP    uint8 = 6
	ProtoUDP    uint8 = 17
	ProtoICMPv6 uint8 = 58
	ProtoSCTP   uint8 = 132
)

// MarkValue is a packet or connection mark, or another number in the machine's byte order.
func MarkValue(m uint32) Value {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], m)
	return Value(b[:])
}

// What a route lookup found.
var (
	FibMissing = MarkValue(0)
	FibExists  = MarkValue(1)
)

// The values of FieldNFProto.
const (
	NFProtoIPv4 Value = "\x02"
	NFProtoIPv6 Value = "\x0a"
)

// AddrTypeLocal is the type of an address of this node, for FieldFibDaddrType.
var AddrTypeLocal = MarkValue(2)

// ByteValue is a type of one byte, such as an ICMP type.
func ByteValue(b uint8) Value { return Value([]byte{b}) }

// ifNameSize is IFNAMSIZ of linux/if.h.
const ifNameSize = 16

// IfNameValue is the name of a link. With a star at its end it means every name that begins so;
// such a value cannot be an element of a set.
func IfNameValue(name string) Value {
	if prefix, ok := strings.CutSuffix(name, "*"); ok {
		return Value(prefix)
	}
	var b [ifNameSize]byte
	copy(b[:ifNameSize-1], name)
	return Value(b[:])
}

// Concat joins values into one key, in the kernel's layout.
func Concat(values ...Value) Value {
	if len(values) == 1 {
		return values[0]
	}
	var room [64]byte // as long as keys are: there are hundreds of thousands of them
	b := room[:0]
	for _, v := range values {
		b = append(b, v...)
		b = append(b, "\x00\x00\x00"[:padding(len(v))]...)
	}
	return Value(b)
}

func padding(n int) int { return (4 - n%4) % 4 }

// SplitValue takes a concatenated value apart again. A single type gives the value itself; one
// that is too short for its types gives nil.
func SplitValue(v Value, types []DataType) []Value {
	if len(types) == 1 {
		return []Value{v}
	}
	out := make([]Value, 0, len(types))
	for _, t := range types {
		padded := t.Size() + padding(t.Size())
		if len(v) < padded {
			return nil
		}
		out = append(out, v[:t.Size()])
		v = v[padded:]
	}
	return out
}

// PrefixElement is the range of a prefix, as an element of an interval set.
func PrefixElement(p netip.Prefix) Element {
	p = p.Masked()
	first, last := AddrValue(p.Addr()), AddrValue(lastAddr(p))
	if first == last {
		return Element{Key: first}
	}
	return Element{Key: first, KeyEnd: last}
}

func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Format prints the value as nft does for its type.
func (v Value) Format(t DataType) string {
	switch t {
	case TypeIPv4, TypeIPv6:
		if a, ok := netip.AddrFromSlice([]byte(v)); ok {
			return a.String()
		}
	case TypeIfName:
		return v.formatIfName()
	case TypeMark:
		return fmt.Sprintf("0x%08x", v.number(t))
	default:
		n := v.number(t)
		if names := valueNames[t]; names[n] != "" {
			return names[n]
		}
		return strconv.FormatUint(n, 10)
	}
	return fmt.Sprintf("%x", string(v))
}

func (v Value) formatIfName() string {
	name := strings.TrimRight(string(v), "\x00")
	if len(v) < ifNameSize {
		name += "*"
	}
	return strconv.Quote(name)
}

func (v Value) number(t DataType) uint64 {
	var n uint64
	for i := range len(v) {
		b := uint64(v[i])
		if t.HostOrder() && binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
			n |= b << (8 * i)
		} else {
			n = n<<8 | b
		}
	}
	return n
}

// valueNames are the words that nft prints for numbers.
var valueNames = map[DataType]map[uint64]string{
	TypeProto:     {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp", 132: "sctp"},
	TypeNFProto:   {2: "ipv4", 10: "ipv6"},
	TypeFibResult: {0: "missing", 1: "exists"},
	TypeAddrType:  {1: "unicast", 2: "local", 3: "broadcast", 5: "multicast"},
	TypeCTDir:     {0: "original", 1: "reply"},
	TypePktType:   {0: "host", 1: "broadcast", 2: "multicast", 3: "other"},
	TypeICMP: {0: "echo-reply", 3: "destination-unreachable", 5: "redirect", 8: "echo-request", 11: "time-exceeded",
		12: "parameter-problem"},
	TypeICMPv6: {1: "destination-unreachable", 2: "packet-too-big", 3: "time-exceeded", 4: "parameter-problem", 128: "echo-request", 129: "echo-reply",
		133: "nd-router-solicit", 134: "nd-router-advert", 135: "nd-neighbor-solicit", 136: "nd-neighbor-advert", 137: "nd-redirect"},
}

// FormatKey prints a key or datum of one or more types as nft does.
func FormatKey(v Value, types []DataType) string {
	parts := SplitValue(v, types)
	if parts == nil {
		return fmt.Sprintf("%x", string(v))
	}
	out := make([]string, len(parts))
	for i, p := range parts {
		out[i] = p.Format(types[i])
	}
	return strings.Join(out, " . ")
}
